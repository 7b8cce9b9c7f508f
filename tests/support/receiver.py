"""A merchant's system: a real HTTP server on loopback that keeps what it is sent and answers as a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def sent_at(self) -> int:
        return int(self.headers["webhook-timestamp"])

    def signatures(self) -> list[str]:
        return self.headers["webhook-signature"].split(" ")

    def verify(self, secret: str) -> None:
        """By the library, as a receiver does it; raises if the signature or the time is wrong."""
        Webhook(secret).verify(self.body, self.headers)

    def is_signed_with(self, secret: str) -> bool:
        """The same without a look at the time, for tests that shift the clock by days."""
        expected = Webhook(secret).sign(self.id, datetime.fromtimestamp(self.sent_at, UTC), self.body.decode())
        return expected in self.signatures()


Answer = Callable[[Received], web.Response]


@dataclass
class Receiver:
    """What came, in the order of its arrival; `answer` decides what is said, `delay_seconds` when."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answer: Answer = field(default=lambda _: web.Response(status=204))
    delay_seconds: float = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        one = Received(request.path, request.query_string, headers, await request.read())
        self.received.append(one)
        self.arrived.set()
        await asyncio.sleep(self.delay_seconds)
        return self.answer(one)

    def say(self, status: int, **headers: str) -> None:
        """Answer everything with `status` from now on."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = lambda _: web.Response(status=status, headers=named)

    def types(self) -> list[str]:
        return [one.message["type"] for one in self.received]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that listens on a free port of this machine."""
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.handle)
    # Its access log would write queries into the log that tests search for secrets.
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        receiver.url = f"http://{host}:{port}/events"
        yield receiver
    finally:
        await runner.cleanup()
