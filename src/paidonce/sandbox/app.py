"""The offline sandbox: one ASGI app that mounts each provider's twin at `/<name>/…`, with its dials at `/_control`.

It needs no web framework, holds no real money and no real card, and speaks only as well as each gateway's own core.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog

from paidonce.errors import ConfigError
from paidonce.gateways.base import HttpRequest, HttpResponse, Provider, SandboxCore, ShowsEndpoints
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SECOND, Clock, SystemClock
from paidonce.sandbox import page
from paidonce.sandbox.connection import Connection, Receive, Scope, Send, suffer
from paidonce.sandbox.control import ROOT, ControlDesk
from paidonce.sandbox.dials import Dials
from paidonce.sandbox.mounts import answer_below_mount, gateway_of, json_answer, sandbox_cores, sandbox_environment
from paidonce.sandbox.transport import SandboxTransport
from paidonce.sandbox.webhooks import Courier, Parcel, WebhookQueue, loopback_url

__all__ = [
    "LARGEST_BODY_BYTES",
    "SandboxApp",
    "SandboxTransport",
    "answer_below_mount",
    "create_sandbox_app",
    "sandbox_cores",
    "sandbox_environment",
]

LARGEST_BODY_BYTES = 1024 * 1024
# How often the twins are asked whether time has brought something new.
TICK_SECONDS = 1.0
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

log = structlog.get_logger("paidonce.sandbox")


def create_sandbox_app(
    public_url: str,
    *,
    providers: Sequence[Provider] | None = None,
    clock: Clock | None = None,
    state_file: str | Path | None = None,
    shop_url: str | None = None,
) -> SandboxApp:
    """The sandbox as an ASGI app, reachable by browsers at `public_url`.

    With a `state_file` every change is on disk before it is answered, and the next start knows it. With a `shop_url` on
    this machine the twins' webhooks are delivered there; without one nobody hears of them. Raises `ConfigError` for a
    state file that can't be read and for a shop elsewhere.
    """
    cores = sandbox_cores(public_url, providers)
    shop = loopback_url(shop_url) if shop_url else None
    return SandboxApp(cores, clock or SystemClock(), None if state_file is None else Path(state_file), shop_url=shop)


class SandboxApp:
    """An ASGI 3 application over twins; `create_sandbox_app` builds it.

    `dials` and `queue` are open to whoever runs it in a test.
    """

    def __init__(
        self, cores: Mapping[str, SandboxCore], clock: Clock, state_file: Path | None, *, shop_url: str | None = None
    ) -> None:
        self.cores = dict(cores)
        self.dials = Dials()
        self.queue = WebhookQueue(self.dials)
        self._clock = clock
        self._state_file = state_file
        # The states of twins which aren't loaded today are kept for the day they are again.
        self._saved: dict[str, str] = {} if state_file is None else _load(state_file, self.cores, self.queue)
        for core in self.cores.values():
            if shop_url is not None and isinstance(core, ShowsEndpoints):
                core.deliver_to(shop_url)
        self._transport = AiohttpTransport(clock)
        self._courier = None if shop_url is None else Courier(self.queue, self._transport, clock, shop_url)
        self._control = ControlDesk(self.cores, self.dials, self.queue, shop_url)
        self._rounds: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._unsaved = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            self._begin_rounds()
            await self._answer(scope, Connection(scope["method"], receive, send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def aclose(self) -> None:
        """Stop delivering. What is not delivered is in the state file. A server's shutdown does this by itself."""
        rounds, self._rounds = self._rounds, None
        if rounds is not None:
            rounds.cancel()
            with suppress(asyncio.CancelledError):
                await rounds
        if self._unsaved:
            self._save()
        await self._transport.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._begin_rounds()
            elif message["type"] == "lifespan.shutdown":
                await self.aclose()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    # ── Requests ──────────

    async def _answer(self, scope: Scope, connection: Connection) -> None:
        path = _path(scope)
        if (fixed := self._fixed_page(path)) is not None:
            await connection.respond(fixed)
            return
        body = await _read_body(connection.receive)
        if body is None:
            too_large = {"error": f"the sandbox takes bodies of at most {LARGEST_BODY_BYTES} bytes"}
            await connection.respond(json_answer(413, too_large))
            return
        query = scope["query_string"].decode("latin-1")
        request = HttpRequest(scope["method"], f"{path}?{query}" if query else path, _headers(scope), body)
        if path == ROOT or path.startswith(ROOT + "/"):
            answer = self._control.answer(request, now=self._clock.now(), mount=scope.get("root_path") or "")
            await self._after(request)
            await connection.respond(answer)
        else:
            await self._at_a_twin(request, connection)

    def _fixed_page(self, path: str) -> HttpResponse | None:
        if path == "/healthz":
            return json_answer(200, {"status": "ok", "sandbox": True, "gateways": list(self.cores)})
        return page.landing(list(self.cores)) if path == "/" else None

    async def _at_a_twin(self, request: HttpRequest, connection: Connection) -> None:
        async def carry_out() -> HttpResponse:
            answer = answer_below_mount(self.cores, request, now=self._clock.now())
            await self._after(request)
            return answer

        name = gateway_of(self.cores, request.url)
        rule = None if name is None else self.dials.for_call(name, request)
        if rule is None:
            await connection.respond(await carry_out())
        else:
            await suffer(rule, connection, self._clock, carry_out)

    async def _after(self, request: HttpRequest) -> None:
        """Keep what the request has changed, and see that the shop hears of it."""
        early = [parcel for parcel in self._collect() if parcel.early and parcel.due <= self._clock.now()]
        # In our hands before anything is awaited, or the rounds would deliver them as well.
        for parcel in early:
            parcel.taken = True
        if request.method not in _READING or self._unsaved:
            self._save()
        for parcel in early:
            assert self._courier is not None
            await self._courier.deliver(parcel)
            self._unsaved = True
        self._news.set()

    # ── Webhooks ──────────

    def _collect(self) -> list[Parcel]:
        """Take the twins' new webhooks; returns those that are to be delivered."""
        before = self.queue.count
        if self._courier is None:
            self.queue.discard(self.cores, self._clock.now())
            fresh = []
        else:
            fresh = self.queue.collect(self.cores, self._clock.now())
        # Also those that are dropped have left the twin, which must not tell them again after a restart.
        self._unsaved |= self.queue.count != before
        return fresh

    def _begin_rounds(self) -> None:
        if self._rounds is None and self._courier is not None:
            self._rounds = asyncio.create_task(self._make_rounds(self._courier), name="sandbox-webhooks")

    async def _make_rounds(self, courier: Courier) -> None:
        while True:
            try:
                await self._round(courier)
            except Exception:
                # A twin's or the disk's trouble must not silence all webhooks from then on.
                log.exception("sandbox_webhooks_failed")
                await asyncio.sleep(TICK_SECONDS)
            await self._pause()

    async def _round(self, courier: Courier) -> None:
        self._collect()
        for parcel in self.queue.due(self._clock.now()):
            await courier.deliver(parcel)
            self._unsaved = True
        if self._unsaved:
            self._save()

    async def _pause(self) -> None:
        next_due = self.queue.next_due()
        left = TICK_SECONDS if next_due is None else (next_due - self._clock.now()) / SECOND
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), min(max(left, 0.01), TICK_SECONDS))
        self._news.clear()

    def _save(self) -> None:
        if self._state_file is None:
            self._unsaved = False
            return
        self._saved |= {name: core.dump() for name, core in self.cores.items()}
        state = {"version": 1, "cores": self._saved, "webhooks": self.queue.dump()}
        written = self._state_file.with_name(self._state_file.name + ".new")
        written.write_text(json.dumps(state), encoding="utf-8")
        # A rename is atomic: a killed demo leaves the old state or the new one, never half a file.
        os.replace(written, self._state_file)
        self._unsaved = False


def _load(state_file: Path, cores: Mapping[str, SandboxCore], queue: WebhookQueue) -> dict[str, str]:
    if not state_file.exists():
        return {}
    try:
        state: dict[str, Any] = json.loads(state_file.read_text(encoding="utf-8"))
        saved: dict[str, str] = state["cores"]
        for name in cores.keys() & saved.keys():
            cores[name].load(saved[name])
        # A file of an earlier version has none.
        queue.load(state.get("webhooks", []))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = (
            f"The sandbox's state file {state_file} can't be read ({type(error).__name__}). Delete it to start anew."
        )
        raise ConfigError([problem]) from error
    return saved


def _path(scope: Scope) -> str:
    """The path as it was sent, below whatever this app itself is mounted at."""
    raw = scope.get("raw_path")
    path = raw.partition(b"?")[0].decode("latin-1") if raw else quote(scope["path"])
    root = scope.get("root_path") or ""
    return path.removeprefix(root) or "/"


def _headers(scope: Scope) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        separator = "; " if name == "cookie" else ", "
        joined[name] = f"{joined[name]}{separator}{value}" if name in joined else value
    return joined


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None if it is too large or its sender went away: half a request must change nothing."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)
