"""How the app's faults look on a real connection: cut, broken off, late, or drop by drop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from paidonce.gateways.base import HttpResponse
from paidonce.ports import Clock
from paidonce.sandbox.dials import Fault, Rule, instead

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DROPS = 20


class ConnectionCut(Exception):
    """Raised into an ASGI server that lets nobody close its connection, which makes it do so."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One HTTP request's way back."""

    method: str
    receive: Receive
    send: Send

    async def respond(self, answer: HttpResponse) -> None:
        """Answer as it should be."""
        await self._start(answer, len(answer.body))
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else answer.body})

    async def cut(self) -> None:
        """Close without an answer."""
        if not await self._closed("abort"):
            # An answer without its end is the nearest thing that any ASGI server can do.
            await self._start(HttpResponse(200, {}, b""), 1)
            raise ConnectionCut

    async def break_off(self, answer: HttpResponse) -> None:
        """Send half of the answer, then close."""
        await self._start(answer, len(answer.body) + 1)
        half = answer.body[: len(answer.body) // 2]
        await self.send({"type": "http.response.body", "body": half, "more_body": True})
        if not await self._closed("close"):
            raise ConnectionCut

    async def delay(self, answer: HttpResponse, clock: Clock, seconds: float) -> None:
        """Answer after `seconds`, unless nobody waits for it any more."""
        if await self._outlasts(clock, seconds):
            await self.respond(answer)

    async def drip(self, answer: HttpResponse, clock: Clock, seconds: float) -> None:
        """Send the answer in small pieces over `seconds`, as long as somebody reads."""
        await self._start(answer, len(answer.body))
        size = max(1, -(-len(answer.body) // _DROPS))
        for begin in range(0, len(answer.body), size):
            if not await self._outlasts(clock, seconds * size / len(answer.body)):
                return
            piece = answer.body[begin : begin + size]
            await self.send({"type": "http.response.body", "body": piece, "more_body": True})
        await self.send({"type": "http.response.body", "body": b""})

    async def _outlasts(self, clock: Clock, seconds: float) -> bool:
        """Sleep, and tell whether the client is still there. If it leaves, the sleep ends: servers wait for it."""
        sleeping = asyncio.ensure_future(clock.sleep(seconds))
        hearing = asyncio.ensure_future(self.receive())
        try:
            await asyncio.wait((sleeping, hearing), return_when=asyncio.FIRST_COMPLETED)
            if hearing.done() and hearing.result()["type"] == "http.disconnect":
                return False
            await sleeping
            return True
        finally:
            sleeping.cancel()
            hearing.cancel()

    async def _start(self, answer: HttpResponse, length: int) -> None:
        headers = {**answer.headers, "content-length": str(length)}
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": answer.status, "headers": encoded})

    async def _closed(self, how: str) -> bool:
        """Close the server's own connection, and wait until it has noticed.

        ASGI has no word for this. uvicorn's `send` belongs to an object that holds the connection, and closing that
        leaves neither half an answer nor an error in the log.
        """
        close = getattr(getattr(getattr(self.send, "__self__", None), "transport", None), how, None)
        if not callable(close):
            return False
        close()
        while (await self.receive())["type"] != "http.disconnect":
            continue
        return True


async def suffer(
    rule: Rule, connection: Connection, clock: Clock, carry_out: Callable[[], Awaitable[HttpResponse]]
) -> None:
    """Let `rule` happen to a request that `carry_out` would answer."""
    answer = await carry_out() if rule.fault.carries_out else None
    if (other := instead(rule)) is not None:
        await connection.respond(other)
    elif answer is None or rule.fault is Fault.LOSE_ANSWER:
        await connection.cut()
    elif rule.fault is Fault.TRUNCATED:
        await connection.break_off(answer)
    elif rule.fault is Fault.DRIP:
        await connection.drip(answer, clock, rule.wait_seconds)
    else:
        await connection.delay(answer, clock, rule.wait_seconds)
