"""The ports that block: gateways are called through one event loop in a thread of its own, and sleeping is sleeping."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as WaitedTooLong
from contextlib import suppress

from django.db import connections

from paidonce.db.django import InsideHostTransaction
from paidonce.errors import OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import Microseconds, SystemClock, assert_outside_transaction

# The deadline is kept on the loop. Past it by this much, the loop itself must have come to an end.
_GRACE_SECONDS = 5.0


class BlockingClock:
    """The machine's own clock; who sleeps keeps the thread."""

    def __init__(self) -> None:
        self._clock = SystemClock()

    def now(self) -> Microseconds:
        """Microseconds since 1970-01-01 UTC."""
        return self._clock.now()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`, without suspending."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop on this thread.


class BlockingTransport:
    """`base.Transport` that keeps the calling thread until the answer is there, by way of `AiohttpTransport`.

    All threads share the connections of one event loop. It runs in a daemon thread that starts with the first call,
    and anew in a process that was forked since.
    """

    def __init__(self, alias: str) -> None:
        """`alias` is the database on which no transaction may be open during a call."""
        self._alias = alias
        self._starting = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inner = AiohttpTransport(SystemClock())
        # A forked process keeps its parent's sessions untouched: closing them would speak on the parent's sockets.
        self._of_parents: list[AiohttpTransport] = []

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """See `AiohttpTransport.send`. Raises `InsideHostTransaction` as well."""
        assert_outside_transaction("a call to a gateway")
        if connections[self._alias].in_atomic_block:
            raise InsideHostTransaction(self._alias)
        loop = self._running_loop()
        call = asyncio.run_coroutine_threadsafe(self._inner.send(request, deadline_seconds=deadline_seconds), loop)
        try:
            return call.result(deadline_seconds + _GRACE_SECONDS)
        except (WaitedTooLong, CancelledError):
            call.cancel()
        raise OutcomeUnknown(f"no complete answer within {deadline_seconds:g} s")

    async def close(self) -> None:
        """Close the connections and end the thread. A later `send` starts anew."""
        with self._starting:
            loop, self._loop = self._loop, None
            if loop is None or self._pid != os.getpid():
                return
        with suppress(WaitedTooLong):
            asyncio.run_coroutine_threadsafe(self._inner.close(), loop).result(_GRACE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is not None and self._pid == os.getpid():
                return self._loop
            if self._loop is not None:
                self._of_parents.append(self._inner)
                self._inner = AiohttpTransport(SystemClock())
            self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_serve, args=[self._loop], name="paidonce-gateways", daemon=True).start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
