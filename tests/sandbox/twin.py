"""A small twin of no gateway in particular: it takes payments, tells of them by webhook and keeps books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from paidonce import serving
from paidonce.gateways.base import BookEntry, Control, Gateway, HttpRequest, HttpResponse, SandboxCore, Transport
from paidonce.ports import SECOND, Clock

PUBLIC_URL = "http://127.0.0.1:9000"
WAIT_SECONDS = 10


class TillCore:
    """POST /v1/pay takes 500 cents; GET /v1/pays counts. Its state is plain JSON."""

    controls: tuple[Control, ...] = (
        Control("refund", "Gives <some> back.", {"charge": "its id", "amount": "in cents; all if empty"}),
        Control("remind", "Tells of something later on.", {"seconds": "from now"}),
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[str, Any] = {"pays": 0, "events": 0, "books": [], "webhooks": [], "later": []}

    def handle(self, request: HttpRequest, *, now: int) -> HttpResponse:
        if request.method == "POST":
            self.state["pays"] += 1
            charge = f"ch_{self.state['pays']}"
            self._book(charge, "capture", 500)
            self._tell("pay.done")
            return _json({"charge": charge, "padding": "x" * 400})
        return _json({"pays": self.state["pays"], "now": now})

    def control(self, name: str, params: Mapping[str, str], *, now: int) -> Mapping[str, str]:
        if name == "remind":
            self.state["later"].append(now + int(params["seconds"]) * SECOND)
            return {}
        charge = params.get("charge", "")
        if charge not in {entry["object"] for entry in self.state["books"]}:
            raise ValueError("charge: there is no such <charge>")
        self._book(f"re_{charge}", "refund", -int(params.get("amount", "500")))
        self._tell("refund.done")
        return {"refund": f"re_{charge}"}

    def take_webhooks(self, *, now: int) -> list[HttpRequest]:
        for due in [due for due in self.state["later"] if due <= now]:
            self.state["later"].remove(due)
            self._tell("reminder")
        taken, self.state["webhooks"] = self.state["webhooks"], []
        return [HttpRequest("POST", f"/webhooks/{self.name}", {"x-sig": "s"}, json.dumps(e).encode()) for e in taken]

    def books(self) -> tuple[BookEntry, ...]:
        return tuple(BookEntry(**entry) for entry in self.state["books"])

    def dump(self) -> str:
        return json.dumps(self.state)

    def load(self, text: str) -> None:
        self.state = json.loads(text)

    def _book(self, charge: str, kind: str, minor: int) -> None:
        entry = {"object": charge, "kind": kind, "minor": minor, "currency": "EUR", "payment_id": "pay_<1>"}
        self.state["books"].append(entry)

    def _tell(self, kind: str) -> None:
        self.state["events"] += 1
        self.state["webhooks"].append({"id": f"evt_{self.state['events']}", "type": kind, "secret": "canary"})


class TillProvider:
    """The provider of a `TillCore`."""

    settings: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> Gateway | None:
        return None

    def sandbox(self, public_url: str) -> SandboxCore | None:
        return TillCore(self.name)

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        return {}


PROVIDERS = (TillProvider("till"), TillProvider("drawer"))


class VirtualClock:
    """Time that passes only where somebody sleeps or a test says so."""

    def __init__(self) -> None:
        self.time = 1_800_000_000 * SECOND
        self.slept: list[float] = []

    def now(self) -> int:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += int(seconds * SECOND)


@dataclass
class Shop:
    """A web server that takes webhooks and keeps what it got. `refuse` is how many it answers with 500 first."""

    url: str = ""
    refuse: int = 0
    got: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    at_once: int = 0
    most_at_once: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        event = await request.json()
        await asyncio.sleep(0.02)
        self.at_once -= 1
        if self.refused < self.refuse:
            self.refused += 1
            return web.Response(status=500)
        self.got.append({**event, "path": request.path})
        self.headers.append(dict(request.headers))
        return web.Response(status=200)

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.got]


@asynccontextmanager
async def running_shop(shop: Shop) -> AsyncIterator[Shop]:
    """`shop` on a free port."""
    server = web.Application()
    server.router.add_post("/webhooks/{name}", shop.take)
    runner = web.AppRunner(server)
    await runner.setup()
    listener = serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.")
    await web.SockSite(runner, listener).start()
    shop.url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
    yield shop
    await runner.cleanup()


@asynccontextmanager
async def running_app(app: Any) -> AsyncIterator[str]:
    """`app` behind the server that production uses; its address."""
    listener = serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.")
    server = serving.server(app)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
    server.should_exit = True
    await running
    listener.close()


async def until(done: Callable[[], bool]) -> None:
    """Wait; how long it takes is nobody's business, that it happens is."""
    for _ in range(WAIT_SECONDS * 50):
        if done():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen")


def _json(value: object) -> HttpResponse:
    return HttpResponse(200, {"Content-Type": "application/json"}, json.dumps(value).encode())
