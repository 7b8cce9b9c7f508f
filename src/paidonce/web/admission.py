"""How many requests one process works on at once, and when whoever finds no place had better come back.

Without a bound a burst makes everything slow at once: all wait, and each one's wait takes memory. With one, those who
have a place are served as on any other day, and the others hear at once, and for little, that they have to come back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from paidonce.web.hosts import HEALTH
from paidonce.web.problems import Busy

# Nobody waits longer than this, however long the line is; and those who have begun wait no longer than a moment.
LONGEST_WAIT_SECONDS = 60
MOMENT_SECONDS = 2
# One line at most in so long: a flood must not fill the log.
TELL_SECONDS = 10.0

# Whoever asks for these has begun already. The files of a page and the news of gateways come first of all, since a page
# without its scripts is no page, and a buyer who may have paid is not the one to turn away.
_BEGUN_BELOW = ("/webhooks/", "/assets/")
_BEGUN_AT = ("/complete", "/return")
_FIRST_GUESS_SECONDS = 1.0
# How many of the last requests tell how long one takes.
_REMEMBERED = 64

log = structlog.get_logger("paidonce.requests")


class Admission:
    """The places of one process, `most` for every request and a quarter more for those that go on with what was begun.

    Not for several threads: all requests of a process run in one event loop, which is what the bound protects.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._kept_seconds = _FIRST_GUESS_SECONDS
        self._line_ends = 0.0
        self._refused = 0
        self._told_at = -math.inf

    def check(self, path: str) -> None:
        """Raise `problems.Busy` if there is no place for a request of `path`."""
        if not self._has_place(path):
            self._refused += 1
            self._tell(time.monotonic())
            raise Busy(retry_after_seconds=MOMENT_SECONDS if _has_begun(path) else self._appointment())

    @contextmanager
    def place(self, path: str) -> Iterator[None]:
        """Keep a place while a request of `path` is worked on, however that ends. Raises `problems.Busy`."""
        self.check(path)
        began = time.monotonic()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            now = time.monotonic()
            self._kept_seconds += (now - began - self._kept_seconds) / _REMEMBERED
            self._tell(now)

    def _has_place(self, path: str) -> bool:
        # Who asks whether the process lives must not hear that it is busy, and restart it.
        if self._taken < self._most or path in HEALTH:
            return True
        return _has_begun(path) and self._taken < self._most + max(1, self._most // 4)

    def _appointment(self) -> int:
        """In how many seconds there should be a place, behind all who were told so before.

        Told the same time, all would come back together, and most of them in vain. Places become free one after the
        other, as often as there are places in the time that a request keeps one. Where the line is too long for that,
        it begins anew in the middle, so that the rest is spread over the later half.
        """
        now = time.monotonic()
        self._line_ends = max(self._line_ends, now) + self._kept_seconds / self._most
        if self._line_ends > now + LONGEST_WAIT_SECONDS:
            self._line_ends = now + LONGEST_WAIT_SECONDS / 2
        return max(1, math.ceil(self._line_ends - now))

    def _tell(self, now: float) -> None:
        """One line for all who were refused since the last one, written by whoever comes or ends next."""
        if self._refused and now - self._told_at >= TELL_SECONDS:
            log.warning("busy", refused=self._refused, working=self._taken)
            self._refused, self._told_at = 0, now


def _has_begun(path: str) -> bool:
    return path.startswith(_BEGUN_BELOW) or path.endswith(_BEGUN_AT)
