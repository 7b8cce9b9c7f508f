"""HTTP/1.1 with nothing around it: kept-alive connections, bodies that say their length, one request at a time.

The load, the fake gateway and the floor speak it, so that what they cost stays far below what is measured.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Handler = Callable[[bytes, bytes], Awaitable[bytes]]


class Lost(ConnectionError):
    """The connection ended before the answer was complete."""


def answer(status: int, body: bytes) -> bytes:
    """A whole answer with JSON in it."""
    return b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (_LINES[status], len(body), body)


def target(head: bytes) -> tuple[bytes, bytes]:
    """Method and path of a request, from its head."""
    method, path, _ = head.split(b" ", 2)
    return method, path


def header(head: bytes, name: bytes) -> bytes:
    """The value of the header `name` (lower case); empty if there is none."""
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    begin = at + len(name) + 3
    end = head.find(b"\r\n", begin)
    return head[begin : end if end >= 0 else len(head)].strip()


class _Messages(asyncio.Protocol):
    """Cuts what comes in into heads and bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end])
            found = _LENGTH.search(head)
            self._needed = end + 4 + (int(found[1]) if found else 0)
            if len(self._buffer) < self._needed:
                return
            body = bytes(self._buffer[end + 4 : self._needed])
            del self._buffer[: self._needed]
            self._needed = 0
            self.message(head, body)

    def message(self, head: bytes, body: bytes) -> None:
        """One whole message has come in."""
        raise NotImplementedError


class Server(_Messages):
    """One connection of a server; `handler` gets head and body and gives the whole answer."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()

    def message(self, head: bytes, body: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(head, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, head: bytes, body: bytes) -> None:
        told = await self._handler(head, body)
        if not self.transport.is_closing():
            self.transport.write(told)


class Client(_Messages):
    """One connection to a server."""

    def __init__(self) -> None:
        super().__init__()
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Lost("the server hung up"))

    def message(self, head: bytes, body: bytes) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result((int(head[9:12]), body))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; the answer's status and body. Raises `Lost`."""
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._waiter


class Pool:
    """Kept-alive connections to one server, as many as are in use at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Client] = []

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send on an idle connection, or on a new one. Raises `Lost`, `OSError`."""
        client = await self._client()
        told = await client.send(request)
        self._idle.append(client)
        return told

    async def _client(self) -> Client:
        while self._idle:
            client = self._idle.pop()
            if client.open:
                return client
        _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", self._port)
        return client


def request(method: str, path: str, headers: str, body: bytes = b"") -> bytes:
    """A whole request; `headers` are lines that each end in CRLF."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
    )
