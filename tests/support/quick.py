"""What makes a shop in tests start, sign in and end in milliseconds, without taking anything from it that is proved.

A password hash is slow on purpose, and tests sign in thousands of times; so they hash by argon2 as well, with the
smallest costs. `REAL_ARGON2` is what the package uses, for the tests that look at it.

FastAPI works out the same fifty routes anew for every application. Here they share the routes, which keep nothing of
an application, but not the routers, to which a test may add.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from functools import cache
from typing import Any

import pytest
import uvicorn
from fastapi import APIRouter
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from paidonce import serving
from paidonce.errors import ConfigError
from paidonce.web import accounts, routes

REAL_ARGON2 = accounts._argon2
_HASHER = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))

_START_SECONDS = 60
_LOOK_SECONDS = 0.002


def quick_hash(password: str) -> str:
    """A hash that takes little time to make and to check."""
    return _HASHER.hash(password)


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Hash passwords at the smallest cost, and work out the routes once, until `patch` is undone."""
    patch.setattr(accounts, "_argon2", lambda: _HASHER)
    patch.setattr(routes, "api_router", _copies_of(routes.api_router))
    patch.setattr(routes, "page_router", _copies_of(routes.page_router))


def _copies_of(make: Callable[[], APIRouter]) -> Callable[[], APIRouter]:
    made_once = cache(make)

    def one_more() -> APIRouter:
        fresh = copy(made_once())
        fresh.routes = list(fresh.routes)
        return fresh

    return one_more


class _Server(uvicorn.Server):
    """Uvicorn, which looks only every tenth of a second whether it has to end, and then sleeps for another one."""

    async def main_loop(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        ticks = 0
        # Every tenth tick makes the Date header anew, so that the clock of the answers goes on.
        while not await self.on_tick(ticks):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), 0.1)
            ticks += 1

    def end(self) -> None:
        """From another thread: end now."""
        self.should_exit = True
        # Where the loop is closed already, the server has ended by itself.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in self.servers:
            listening.close()
        for one in sockets or []:
            one.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        until = time.monotonic() + serving.GRACE_SECONDS
        state = self.server_state
        while (state.connections or state.tasks) and time.monotonic() < until:  # noqa: ASYNC110 - Uvicorn's sets tell nobody.
            await asyncio.sleep(_LOOK_SECONDS)
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@contextmanager
def in_thread(app: Any, listener: socket.socket) -> Iterator[None]:
    """Serve `app` in a thread with an event loop of its own, until the block ends: as `demo.servers.in_thread`."""
    shop = _Server(serving.server(app).config)
    thread = threading.Thread(target=shop.run, kwargs={"sockets": [listener]}, name="shop", daemon=True)
    thread.start()
    until = time.monotonic() + _START_SECONDS
    while not shop.started:
        if not thread.is_alive() or time.monotonic() > until:
            raise ConfigError(["The shop did not start; what it says stands above."])
        time.sleep(_LOOK_SECONDS)
    try:
        yield
    finally:
        shop.end()
        thread.join(2 * serving.GRACE_SECONDS)
