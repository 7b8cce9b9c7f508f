"""The gateways' twins behind a real socket in the test's own process, where the test decides what reaches the shop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from paidonce import serving
from paidonce.demo.once import buyer_of
from paidonce.demo.servers import in_thread
from paidonce.gateways.base import HttpRequest, HttpResponse, Provider, SandboxCore
from paidonce.gateways.registry import providers
from paidonce.gateways.transport import AiohttpTransport
from paidonce.sandbox.mounts import answer_below_mount, sandbox_cores, sandbox_environment
from support.shop import ShiftedClock

# Those that a buyer can pay at without a browser; the others have flows of their own.
PAYABLE = tuple(one for one in providers() if buyer_of(one) is not None and one.sandbox("http://127.0.0.1:9"))


@dataclass
class Twins:
    """Every gateway's twin. One request at a time, as they have no locks of their own."""

    url: str
    clock: ShiftedClock
    cores: dict[str, SandboxCore]
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def settings(self) -> dict[str, str]:
        """What leads a shop to them."""
        return sandbox_environment(self.url)

    def answer(self, request: HttpRequest) -> HttpResponse:
        with self.lock:
            return answer_below_mount(self.cores, request, now=self.clock.now())

    def webhooks(self) -> list[HttpRequest]:
        """The news since the last call. None of it reaches a shop unless a test brings it there."""
        with self.lock:
            return [one for core in self.cores.values() for one in core.take_webhooks(now=self.clock.now())]

    def moved(self, payment_id: str) -> dict[str, int]:
        """What the gateways' own books say of one payment: minor units by kind (capture, refund)."""
        moved: dict[str, int] = {}
        with self.lock:
            entries = [entry for core in self.cores.values() for entry in core.books()]
        for entry in entries:
            if entry.payment_id == payment_id and entry.kind in {"capture", "refund"}:
                moved[entry.kind] = moved.get(entry.kind, 0) + entry.minor
        return moved

    async def act(self, provider: Provider, started: Any, *, return_url: str, decline: bool = False) -> None:
        """The buyer agrees at the gateway, over HTTP as its script or page would, with what works or what doesn't."""
        transport = AiohttpTransport(self.clock)
        act = buyer_of(provider)
        assert act is not None
        try:
            await act(
                transport,
                self.settings,
                started["client"],
                return_url=return_url,
                decline=decline,
                offline=True,
            )
        finally:
            await transport.close()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self.answer(HttpRequest(scope["method"], f"{path}?{query}" if query else path, headers, body))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})


@contextmanager
def running_twins() -> Iterator[Twins]:
    """The twins on a free port."""
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        twins = Twins(url, ShiftedClock(), dict(sandbox_cores(url)))
        with in_thread(twins, listener):
            yield twins
