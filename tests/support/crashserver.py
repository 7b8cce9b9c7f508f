"""Processes of the shop for tests that kill them: run as a program, it starts one for every line that it reads.

It is a nursery: everything is imported once, and each server is a fork of it, so that a test can afford dozens. A
server is the leader of a process group of its own, with a companion that holds the port as well; so the port is free
again only if the whole group is gone. When standard input or the nursery itself ends, however that came about, all of
them end.

A line is JSON: `{"start": {…}}` answers with the process's id, `{"wait": id, "seconds": …}` with its exit status or
null while it lives, `{"kill": id}` kills its group and answers with the exit status. A server whose steps nobody counts
is made before the fork and kept, since making the application is most of a start; it connects to nothing before.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Literal, NoReturn, ParamSpec, TypeVar

import aiohttp  # noqa: F401 - imported once for all forks, like the next ones.
import anyio._backends._asyncio  # noqa: F401
import asyncpg  # noqa: F401
import pytest
import stripe  # noqa: F401
import uvicorn.lifespan.on  # noqa: F401
from fastapi import FastAPI

import paidonce.db
from paidonce import app as application
from paidonce import assembly, deliveries, notes, serving
from paidonce.config import load_settings
from paidonce.core import Core
from paidonce.db import migration, postgres, sqlite  # noqa: F401 - imported once for all forks.
from paidonce.gateways.base import HttpRequest, HttpResponse, Transport
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.logs import configure_logging
from paidonce.ports import Database, RandomIds, Transaction
from paidonce.store import SqlStore
from paidonce.worker import Worker
from support.quick import make_quick
from support.sharedclock import SharedClock

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_STEP = "create_order"
_IDLE_SECONDS = 0.2


# ── Where a server can die ──────────


class Steps:
    """Counts the boundaries that a payment crosses, from its order on, and dies at the chosen one.

    Each is written down, so that a test knows how many there are and which one it was.
    """

    def __init__(self, trace: Path | None, crash_at: int | None) -> None:
        self._trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._crash_at = crash_at
        self._count = 0

    def reached(self, what: str) -> None:
        """Tell that `what` is about to happen or has just happened."""
        if self._trace is None or (not self._count and _FIRST_STEP not in what):
            return
        self._count += 1
        os.write(self._trace, f"{self._count} {what}\n".encode())
        if self._count == self._crash_at:
            os.killpg(os.getpgrp(), signal.SIGKILL)


class WatchedDatabase:
    """The real database; before and after each transaction the process may die."""

    def __init__(self, inner: Database, steps: Steps) -> None:
        self._inner = inner
        self._steps = steps
        self.dialect: Literal["sqlite", "postgresql"] = inner.dialect

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        name = getattr(fn, "__qualname__", repr(fn))
        self._steps.reached(f"before transaction {name}")
        result = await self._inner.transaction(fn, *args, **kwargs)
        self._steps.reached(f"after transaction {name}")
        return result

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._inner.read(fn, *args, **kwargs)

    async def close(self) -> None:
        await self._inner.close()


class WatchedTransport:
    """The real transport; before a request leaves and after its answer was read the process may die."""

    def __init__(self, inner: Transport, steps: Steps) -> None:
        self._inner = inner
        self._steps = steps

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        name = f"call {request.method} {request.url.partition('?')[0]}"
        self._steps.reached(f"before {name}")
        response = await self._inner.send(request, deadline_seconds=deadline_seconds)
        self._steps.reached(f"after {name}")
        return response


# ── The servers ──────────


async def _serve(order: dict[str, Any], listener: socket.socket) -> None:
    """The shop whose steps are counted."""
    environment: dict[str, str] = order["environment"]
    settings, clock = load_settings(environment), SharedClock(Path(order["clock"]))
    steps = Steps(Path(order["trace"]), order.get("crash_at"))
    gateways = configure_all(environment, WatchedTransport(AiohttpTransport(clock), steps), clock)
    database = WatchedDatabase(await paidonce.db.connect(settings.database_url.get_secret_value()), steps)
    shop = application.create_app(settings, gateways=gateways, database=database, clock=clock, environment=environment)
    await serving.server(shop).serve(sockets=[listener])


def _plain(order: dict[str, Any]) -> FastAPI:
    """The shop as `paidonce serve` makes it, but for the test's clock."""
    environment: dict[str, str] = order["environment"]
    return application.create_app(
        load_settings(environment), clock=SharedClock(Path(order["clock"])), environment=environment
    )


async def _ask_for_nothing(shop: FastAPI) -> None:
    """One request for a page that no shop has: the framework makes its routes when it is asked for the first time."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 404) == 404, message

    path = "/nobody/has/this/page"
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    more = {"http_version": "1.1", "scheme": "http", "headers": [(b"host", b"localhost")], "root_path": ""}
    await shop({**scope, **more, "server": None, "client": None, "asgi": {"version": "3.0"}}, receive, send)


async def _work(order: dict[str, Any]) -> None:
    """What `paidonce worker` does, by the test's clock."""
    environment: dict[str, str] = order["environment"]
    settings, clock = load_settings(environment), SharedClock(Path(order["clock"]))
    transport = AiohttpTransport(clock)
    gateways = configure_all(environment, transport, clock)
    database = await paidonce.db.connect(settings.database_url.get_secret_value())
    core = notes.hand_out(Core(database, gateways, SqlStore(), clock, RandomIds(), settings.policy()))
    await deliveries.register(core, settings.endpoints())
    await Worker(core, settings.endpoints(), transport, idle_seconds=_IDLE_SECONDS).run()


def _live(order: dict[str, Any], listener: socket.socket | None, ready: FastAPI | None, nursery_lives: int) -> NoReturn:
    """A forked process's whole life."""
    status = 1
    try:
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        configure_logging(level="warning")
        _accompany(nursery_lives)
        if listener is None:
            asyncio.run(_work(order))
        elif ready is None:
            asyncio.run(_serve(order, listener))
        else:
            asyncio.run(serving.server(ready).serve(sockets=[listener]))
        status = 0
    finally:
        # Never back into the nursery's own loop, not even by an exception, whose traceback is in the log then.
        if status:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(status)


def _accompany(nursery_lives: int) -> None:
    """A second process in the group, which has the listening socket, and ends the group when the nursery is gone.

    Nothing is ever written to the pipe `nursery_lives`; it ends with the process that holds its other end.
    """
    if os.fork() == 0:
        os.read(nursery_lives, 1)
        os.killpg(os.getpgrp(), signal.SIGKILL)


# ── The nursery ──────────


class Nursery:
    """The living children by their process id, which is their group's as well."""

    def __init__(self) -> None:
        self._living: set[int] = set()
        self._ended: dict[int, int] = {}
        self._warm = False
        self._made: tuple[str, FastAPI] | None = None
        self._lives, self._holds = os.pipe()

    def answer(self, line: dict[str, Any]) -> int | None:
        if "start" in line:
            return self._start(line["start"])
        if "kill" in line:
            return self._kill(line["kill"])
        return self._wait(line["wait"], line["seconds"])

    def end(self) -> None:
        for pid in list(self._living):
            self._kill(pid)

    def _start(self, order: dict[str, Any]) -> int:
        self._warm_up(order["environment"])
        # The port is taken before the answer, so that whoever asks for the server finds it.
        port = order.get("port")
        ready = None if port is None or order.get("trace") else self._ready(order)
        listener = None if port is None else serving.bind(serving.LOOPBACK, port, fix="The test chose it.")
        pid = os.fork()
        if pid == 0:
            os.close(self._holds)
            _live(order, listener, ready, self._lives)
        self._living.add(pid)
        if listener is not None:
            listener.close()
        return pid

    def _ready(self, order: dict[str, Any]) -> FastAPI:
        """The application of a shop, made once for all its processes: each fork has an unused copy of it."""
        name = json.dumps([order["environment"], order["clock"]], sort_keys=True)
        if self._made is None or self._made[0] != name:
            # The one before belongs to a test that is over.
            self._made = None
            gc.unfreeze()
            gc.collect()
            self._made = (name, _plain(order))
            asyncio.run(_ask_for_nothing(self._made[1]))
            gc.freeze()
        return self._made[1]

    def _warm_up(self, environment: dict[str, str]) -> None:
        """Let the first application that is ever built be ours: what it imports and caches, all forks have at once."""
        if not self._warm:
            self._warm = True
            # Before anything is logged: standard output is for answers alone.
            configure_logging(level="warning")
            shop = application.create_app(load_settings(environment), environment=environment)
            serving.server(shop).config.load()
            migration.expected()
            gc.collect()
            gc.freeze()

    def _kill(self, pid: int) -> int | None:
        # An id that was not waited for belongs to nobody else, so this meets our own child's group only.
        if pid in self._living:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                os.killpg(pid, signal.SIGKILL)
        return self._wait(pid, 10)

    def _wait(self, pid: int, seconds: float) -> int | None:
        deadline = time.monotonic() + seconds
        while pid in self._living:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._living.discard(pid)
                self._ended[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                return None
            else:
                time.sleep(0.005)
        return self._ended[pid]


def main() -> None:
    """Read orders until standard input ends."""
    nursery = Nursery()
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        # Time flies in these tests: whoever waits for the worker waits for its next look.
        patch.setattr(assembly, "Worker", partial(Worker, idle_seconds=_IDLE_SECONDS))
        try:
            for text in sys.stdin:
                print(json.dumps(nursery.answer(json.loads(text))), flush=True)
        finally:
            nursery.end()


if __name__ == "__main__":
    main()
