"""`run()` and the ports that block: nothing needs an event loop on the caller's thread, and nothing runs on one."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import transaction

from paidonce.contrib.django import run
from paidonce.contrib.django.driver import CalledOnTheEventLoop, Suspended
from paidonce.contrib.django.transport import BlockingClock, BlockingTransport
from paidonce.db.django import InsideHostTransaction
from paidonce.errors import GatewayBusy, OutcomeUnknown
from paidonce.gateways.base import HttpRequest
from paidonce.ports import GatewayCallInsideTransaction, inside_transaction


class Recorder:
    """A server that answers each request, or never, and counts what came."""

    def __init__(self, *, answers: bool = True) -> None:
        self._answers = answers
        self.requests = 0
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        while data := connection.recv(65536):
            if b"\r\n\r\n" not in data:
                continue
            self.requests += 1
            if self._answers:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def close(self) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()


@contextmanager
def recorder(*, answers: bool = True) -> Iterator[Recorder]:
    server = Recorder(answers=answers)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def transport(shop_database: Any) -> Iterator[BlockingTransport]:
    made = BlockingTransport("default")
    yield made
    run(made.close())


def get(transport: BlockingTransport, url: str, *, deadline_seconds: float = 10) -> bytes:
    body: bytes = run(transport.send(HttpRequest("GET", url), deadline_seconds=deadline_seconds)).body
    return body


def test_on_an_event_loop_nothing_is_run() -> None:
    ran: list[str] = []

    async def action() -> None:
        ran.append("ran")

    async def view() -> None:
        run(action())

    with pytest.raises(CalledOnTheEventLoop, match="sync_to_async"):
        asyncio.run(view())
    assert ran == []


@pytest.mark.parametrize("seconds", [0, 1])
def test_what_needs_an_event_loop_is_told(seconds: int) -> None:
    async def action() -> None:
        await asyncio.sleep(seconds)

    with pytest.raises(Suspended, match="event loop"):
        run(action())


def test_an_actions_own_error_comes_out_as_it_is() -> None:
    async def action() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(action())


def test_sleeping_keeps_the_thread() -> None:
    clock = BlockingClock()
    before = clock.now()
    run(clock.sleep(0.01))
    assert clock.now() - before >= 10_000


def test_threads_share_one_loop_and_its_connections(transport: BlockingTransport) -> None:
    with recorder() as server, ThreadPoolExecutor(4) as pool:
        assert get(transport, server.url) == b"ok"
        assert list(pool.map(lambda _: get(transport, server.url), range(20))) == [b"ok"] * 20
        assert server.requests == 21
        assert server.connections <= 5
    loops = [one for one in threading.enumerate() if one.name == "paidonce-gateways"]
    assert len(loops) == 1


def test_an_answer_that_does_not_come_is_unknown(transport: BlockingTransport) -> None:
    with recorder(answers=False) as server:
        with pytest.raises(OutcomeUnknown, match=r"within 0\.2 s"):
            get(transport, server.url, deadline_seconds=0.2)
        # It went out once, and nobody repeats it by himself.
        assert server.requests == 1


def test_nobody_there_is_busy(transport: BlockingTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(GatewayBusy):
        get(transport, f"http://127.0.0.1:{port}/")


def test_inside_a_transaction_nothing_goes_out(transport: BlockingTransport) -> None:
    with recorder() as server:
        with transaction.atomic(), pytest.raises(InsideHostTransaction, match="non_atomic_requests"):
            get(transport, server.url)
        token = inside_transaction.set(True)
        try:
            with pytest.raises(GatewayCallInsideTransaction):
                get(transport, server.url)
        finally:
            inside_transaction.reset(token)
        assert server.connections == 0


def test_after_closing_it_starts_anew(transport: BlockingTransport) -> None:
    with recorder() as server:
        get(transport, server.url)
        run(transport.close())
        run(transport.close())
        assert get(transport, server.url) == b"ok"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_loop_of_its_own(transport: BlockingTransport) -> None:
    with recorder() as server:
        get(transport, server.url)
        child = os.fork()
        if not child:
            # Whatever happens, the child must not go on with the tests.
            try:
                os._exit(0 if get(transport, server.url) == b"ok" else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        # The parent's connection was left alone.
        assert get(transport, server.url) == b"ok"
        assert server.connections == 2
