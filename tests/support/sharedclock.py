"""One clock for several processes, which a test moves forward for all of them at once."""

from __future__ import annotations

import asyncio
import mmap
import struct
from pathlib import Path

from paidonce.ports import SECOND, SystemClock
from support.shop import ShiftedClock

_SHIFT = struct.Struct("<q")


class SharedClock(ShiftedClock):
    """The real clock plus a shift that stands in a file; whoever opens the same file has the same time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        if not path.exists():
            path.write_bytes(_SHIFT.pack(0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _SHIFT.size)
        self._real = SystemClock()

    def now(self) -> int:
        return self._real.now() + int(_SHIFT.unpack(self._shared[: _SHIFT.size])[0])

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def pass_seconds(self, seconds: int) -> None:
        """Only the test does this, so nobody's change is lost."""
        (shift,) = _SHIFT.unpack(self._shared[: _SHIFT.size])
        self._shared[: _SHIFT.size] = _SHIFT.pack(shift + seconds * SECOND)

    def close(self) -> None:
        self._shared.close()
