"""A wire between a client and PostgreSQL that is cut at a chosen message: at COMMIT, say, before or after it counts.

It knows of PostgreSQL's protocol (https://www.postgresql.org/docs/current/protocol-message-formats.html) how messages
are framed, which of them carry a statement, and what ends an answer. It speaks without TLS on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qs, quote, unquote, urlsplit

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_NO = b"N"
# What asks the server to answer now.
_QUERY, _PARSE, _BIND, _SYNC, _FLUSH = b"Q", b"P", b"B", b"S", b"H"
_COMMAND_COMPLETE, _ERROR = b"C", b"E"
# The last message of an answer: after a Sync or a query, and after a Flush behind Parse and Describe.
_READY = frozenset({b"Z"})
_DESCRIBED = frozenset({b"T", b"n", _ERROR})
_LOST = (ConnectionError, asyncio.IncompleteReadError)


class Cut(StrEnum):
    """Where the wire is cut."""

    BEFORE = "before the server has any of it"
    TORN = "in the middle of the request"
    AFTER = "after the server has done it, before the client hears so"
    HALF_ANSWERED = "in the middle of the answer"

    @property
    def done(self) -> bool:
        """Whether the server carries the request out all the same."""
        return self in (Cut.AFTER, Cut.HALF_ANSWERED)


@dataclass(frozen=True)
class Request:
    """A statement on its way to the server. `number` counts all requests of the proxy, from 1."""

    text: str
    number: int
    prepares: bool = False  # It is only parsed; its execution is another request.

    @property
    def commits(self) -> bool:
        return self.text.strip("; \n").upper() == "COMMIT" and not self.prepares


@dataclass(frozen=True)
class Made:
    """A cut that was made. `answered` is what the server said of it, such as COMMIT or INSERT 0 1; None if nothing."""

    cut: Cut
    request: Request
    answered: str | None


Decide = Callable[[Request], Cut | None]


def never(_: Request) -> Cut | None:
    """Cut nothing."""
    return None


class Chance:
    """Decides by a seed: each commit is cut with one probability, any other request with another."""

    def __init__(self, seed: int, *, at_commit: float = 0.0, elsewhere: float = 0.0) -> None:
        self._random = random.Random(seed)
        self.at_commit = at_commit
        self.elsewhere = elsewhere

    def __call__(self, request: Request) -> Cut | None:
        # Both are drawn each time, so that a changed probability does not change which way later cuts go.
        draw, cut = self._random.random(), self._random.choice(list(Cut))
        return cut if draw < (self.at_commit if request.commits else self.elsewhere) else None


class Turn:
    """Cuts the one request whose turn it is, counted from 1 among those that `counts` picks, and no other."""

    def __init__(self, turn: int, cut: Cut, counts: Callable[[Request], bool]) -> None:
        self._turn = turn
        self._cut = cut
        self._counts = counts
        self.came: Request | None = None

    def __call__(self, request: Request) -> Cut | None:
        if not self._counts(request):
            return None
        self._turn -= 1
        if self._turn != 0:
            return None
        self.came = request
        return self._cut


@dataclass
class CutProxy:
    """The wire to the server of the URL `target`. `decide` is asked about each request and may be replaced meanwhile.

    It is used by `async with proxy.open() as url`, and belongs to the event loop that opened it.
    """

    target: str
    decide: Decide = never
    made: list[Made] = field(default_factory=list)
    requests: int = 0
    _wires: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def open(self, *, pool_size: int = 4) -> AsyncIterator[str]:
        """The URL under which a `PostgresDatabase` reaches the server through this wire."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield self._url(server.sockets[0].getsockname()[1], pool_size)
        finally:
            server.close()
            for wire in self._wires:
                wire.cancel()
            await asyncio.gather(*self._wires, return_exceptions=True)

    def _url(self, port: int, pool_size: int) -> str:
        parts = urlsplit(self.target)
        user, password = (quote(unquote(one or ""), safe="") for one in (parts.username, parts.password))
        return f"postgresql://{user}:{password}@127.0.0.1:{port}{parts.path}?sslmode=disable&pool_size={pool_size}"

    def commits_cut(self) -> list[Made]:
        """The cuts at COMMIT so far."""
        return [one for one in self.made if one.request.commits]

    def asked(self, text: str, *, prepares: bool) -> tuple[Request, Cut | None]:
        """A request has come, and this becomes of it."""
        self.requests += 1
        request = Request(text, self.requests, prepares)
        return request, self.decide(request)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = asyncio.create_task(self._serve(_End(reader, writer)))
        self._wires.add(wire)
        wire.add_done_callback(self._wires.discard)

    async def _serve(self, client: _End) -> None:
        server = _End(*await self._connect())
        try:
            with contextlib.suppress(*_LOST):
                await _shake_hands(client, server)
                await _Wire(self, client, server).carry()
        finally:
            await server.hang_up()
            await client.hang_up()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.target)
        options = parse_qs(parts.query)
        host = options.get("host", [parts.hostname or "127.0.0.1"])[0]
        port = parts.port or int(options.get("port", ["5432"])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)


# ── One connection ──────────


@dataclass(frozen=True)
class _End:
    """One side's socket, in messages: a letter, a length that counts itself, and the rest."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def message(self) -> tuple[bytes, bytes]:
        """The next message: its letter, and all of it. Raises one of `_LOST` at the end."""
        head = await self.reader.readexactly(5)
        rest = await self.reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
        return head[:1], head + rest

    async def first(self) -> bytes:
        """The first message of a connection, which has no letter."""
        head = await self.reader.readexactly(4)
        return head + await self.reader.readexactly(struct.unpack("!I", head)[0] - 4)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hang_up(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def _shake_hands(client: _End, server: _End) -> None:
    """Pass the client's first message on; one that asks for encryption is told that there is none."""
    while True:
        message = await client.first()
        if struct.unpack("!I", message[4:8])[0] not in (_SSL_REQUEST, _GSS_REQUEST):
            await server.send(message)
            return
        await client.send(_NO)


class _Wire:
    """Carries messages both ways until either side hangs up or the wire is cut."""

    def __init__(self, proxy: CutProxy, client: _End, server: _End) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._prepared: dict[bytes, str] = {}
        self._doomed: tuple[Cut, Request] | None = None

    async def carry(self) -> None:
        ways = [asyncio.create_task(one) for one in (self._requests(), self._answers())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        for way in done:
            way.result()

    async def _requests(self) -> None:
        # Several messages make one request, up to the one that asks for an answer; it is decided upon once.
        decided = False
        while True:
            kind, message = await self._client.message()
            text = self._statement(kind, message)
            if text is not None and not decided:
                decided = True
                request, cut = self._proxy.asked(text, prepares=kind == _PARSE)
                if cut is not None and not cut.done:
                    await self._server.send(b"" if cut is Cut.BEFORE else message[: len(message) // 2])
                    self._proxy.made.append(Made(cut, request, None))
                    return
                # Before it is sent, so that no part of its answer slips through.
                self._doomed = None if cut is None else (cut, request)
            await self._server.send(message)
            decided = decided and kind not in (_QUERY, _SYNC, _FLUSH)

    def _statement(self, kind: bytes, message: bytes) -> str | None:
        """The statement that a message carries or names; None if it has none."""
        if kind == _QUERY:
            return message[5:-1].decode()
        if kind == _PARSE:
            name, text, _ = message[5:].split(b"\0", 2)
            self._prepared[name] = text.decode()
            return text.decode()
        if kind == _BIND:
            _, name, _ = message[5:].split(b"\0", 2)
            return self._prepared.get(name, "")
        return None

    async def _answers(self) -> None:
        held, answered = b"", None
        while True:
            kind, message = await self._server.message()
            if self._doomed is None:
                await self._client.send(message)
                continue
            cut, request = self._doomed
            held += message
            if kind == _COMMAND_COMPLETE:
                answered = message[5:-1].decode()
            if kind in (_DESCRIBED if request.prepares else _READY):
                self._proxy.made.append(Made(cut, request, answered))
                await self._client.send(b"" if cut is Cut.AFTER else held[: len(held) // 2])
                return
