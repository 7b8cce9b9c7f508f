"""Bounds on guessing passwords and making accounts, in this process's memory."""

from __future__ import annotations

from collections import OrderedDict

from paidonce.errors import TooManyAttempts
from paidonce.ports import SECOND, Microseconds

WINDOW_SECONDS = 15 * 60
# More keys than this are the sign of an attack with changing addresses; the oldest make room.
_MOST_KEYS = 50_000


class Throttle:
    """Counts attempts per key in fixed windows."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[Microseconds, int]] = OrderedDict()

    def attempt(self, key: str, *, most: int, now: Microseconds) -> None:
        """Count one attempt. Raises `errors.TooManyAttempts` once `most` were made within the window."""
        started, count = self._windows.get(key, (now, 0))
        ends = started + WINDOW_SECONDS * SECOND
        if now >= ends:
            started, count, ends = now, 0, now + WINDOW_SECONDS * SECOND
        if count >= most:
            seconds = -(-(ends - now) // SECOND)
            raise TooManyAttempts(
                f"There were too many attempts. Please wait {-(-seconds // 60)} minutes before you try again.",
                retry_after_seconds=seconds,
            )
        self._windows[key] = (started, count + 1)
        self._windows.move_to_end(key)
        while len(self._windows) > _MOST_KEYS:
            self._windows.popitem(last=False)

    def forgive(self, key: str) -> None:
        """Forget the attempts of `key`: it has proved itself."""
        self._windows.pop(key, None)
