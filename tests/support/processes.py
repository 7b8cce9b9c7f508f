"""A shop of real processes: servers and workers that can be killed, one clock for all, and gateways that survive."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import aiohttp

from paidonce import serving
from paidonce.demo.servers import in_thread
from paidonce.gateways.base import HttpRequest
from paidonce.gateways.transport import AiohttpTransport
from paidonce.sandbox.app import SandboxApp, create_sandbox_app, sandbox_environment
from paidonce.sandbox.connection import Receive, Scope, Send
from paidonce.sandbox.dials import Fault, Rule
from support.sharedclock import SharedClock
from support.webshop import SECRET_KEY

TESTS = Path(__file__).parent.parent
KEY_HEADERS = (b"idempotency-key", b"paypal-request-id")
_LATER_SECONDS = 80_000


@dataclass(frozen=True)
class Process:
    """One process group."""

    pid: int
    log: Path
    trace: Path | None = None

    def steps(self) -> list[str]:
        """The boundaries that it has crossed."""
        assert self.trace is not None
        return self.trace.read_text().splitlines() if self.trace.exists() else []


@dataclass
class Nursery:
    """Starts processes of the shop, and ends them by their ids."""

    program: subprocess.Popen[str]
    folder: Path
    clock: SharedClock
    count: int = 0
    started: list[Process] = field(default_factory=list)

    def serve(self, environment: dict[str, str], port: int, *, crash_at: int | None = None) -> Process:
        """A web server whose steps are counted; it dies at the step `crash_at`."""
        trace = self.folder / f"trace-{self.count}"
        more = {"port": port, "trace": str(trace), "crash_at": crash_at}
        return self._start(environment, more, trace)

    def open(self, environment: dict[str, str], port: int) -> Process:
        """A web server as anybody runs it, which starts as fast as it can."""
        return self._start(environment, {"port": port}, None)

    def work(self, environment: dict[str, str]) -> Process:
        """A worker."""
        return self._start(environment, {}, None)

    def _start(self, environment: dict[str, str], more: dict[str, Any], trace: Path | None) -> Process:
        log = self.folder / f"log-{self.count}"
        self.count += 1
        order = {"environment": environment, "clock": str(self.clock.path), "log": str(log), **more}
        process = Process(self._ask({"start": order}), log, trace)
        self.started.append(process)
        return process

    def ended(self, process: Process, *, within_seconds: float = 0) -> int | None:
        """Its exit status, or None while it lives."""
        status: int | None = self._ask({"wait": process.pid, "seconds": within_seconds})
        return status

    def kill(self, process: Process) -> int | None:
        """kill -9 of the whole group."""
        status: int | None = self._ask({"kill": process.pid})
        return status

    def logs(self) -> str:
        """All that the processes said; each warns only of what is wrong."""
        return "".join(process.log.read_text() for process in self.started if process.log.exists())

    def _ask(self, line: dict[str, Any]) -> Any:
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(json.dumps(line) + "\n")
        self.program.stdin.flush()
        answer = self.program.stdout.readline()
        assert answer, "the nursery has ended; what it said stands above"
        return json.loads(answer)


@contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    """A nursery with an own clock. At the end of the block nothing of it is left."""
    clock = SharedClock(folder / "clock")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-m", "support.crashserver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
        start_new_session=True,
    ) as program:
        try:
            yield Nursery(program, folder, clock)
        finally:
            assert program.stdin is not None
            program.stdin.close()
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()
            clock.close()


# ── Gateways ──────────


@dataclass(frozen=True)
class Post:
    """What went out under a key."""

    path: str
    key: str
    body: bytes


class Recorder:
    """The sandbox behind a door where every keyed request is written down."""

    def __init__(self, sandbox: SandboxApp) -> None:
        self._sandbox = sandbox
        self.posts: list[Post] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        key = next((headers[name] for name in KEY_HEADERS if name in headers), None)
        if key is None:
            await self._sandbox(scope, receive, send)
            return
        body = bytearray()

        async def watched() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        await self._sandbox(scope, watched, send)
        self.posts.append(Post(scope["path"], key.decode(), bytes(body)))


@dataclass
class Gateways:
    """The twins behind a real address. They outlive every server of the shop."""

    url: str
    app: SandboxApp
    recorder: Recorder
    clock: SharedClock

    @property
    def environment(self) -> dict[str, str]:
        return dict(sandbox_environment(self.url))

    async def agree(self, gateway: str, client: dict[str, str], *, decline: bool = False) -> None:
        """The buyer's browser at the gateway's page."""
        transport = AiohttpTransport(self.clock)
        try:
            await import_module(f"paidonce.gateways.{gateway}.demo").act_as_buyer(
                transport,
                self.environment,
                client,
                return_url="http://127.0.0.1/return",
                decline=decline,
                offline=True,
            )
        finally:
            await transport.close()

    def webhooks(self) -> list[HttpRequest]:
        """What came up since the last call, for a test that brings it to the shop itself."""
        queue = self.app.queue
        queue.collect(self.app.cores, self.clock.now())
        parcels = queue.due(self.clock.now() + 2 * _LATER_SECONDS * 1_000_000)
        for parcel in parcels:
            queue.remove(parcel, "handed over")
        return [parcel.request for parcel in parcels]


@contextmanager
def gateways(clock: SharedClock, shop_url: str, *, deliver: bool) -> Iterator[Gateways]:
    """The sandbox as a server of its own. Unless it is to `deliver`, webhooks wait until a test takes them."""
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        app = create_sandbox_app(url, clock=clock, shop_url=shop_url)
        if not deliver:
            app.dials.add(Rule(Fault.WEBHOOK_DELAY, seconds=_LATER_SECONDS))
        recorder = Recorder(app)
        with in_thread(recorder, listener):
            yield Gateways(url, app, recorder, clock)


# ── Ports ──────────


def free_port() -> int:
    """A port that nobody has, outside of the range that the system gives to outgoing connections."""
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(18_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((serving.LOOPBACK, port))
            except OSError:
                continue
            return port


def port_is_dead(port: int, *, within_seconds: float = 5) -> bool:
    """Whether nobody listens there any more, not even a process that was left over."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((serving.LOOPBACK, port)):
                return True
        time.sleep(0.01)
    return False


def shop_environment(database_url: str, port: int, gateways: Gateways, **changes: str) -> dict[str, str]:
    """The settings of a shop on `port` that pays at `gateways`."""
    return {
        "PAIDONCE_DATABASE_URL": database_url,
        "PAIDONCE_SECRET_KEY": SECRET_KEY,
        # Days pass at once here, and the buyer stays signed in.
        "PAIDONCE_IDLE_MINUTES": str(90 * 24 * 60),
        # A few buyers stand for many, and are interrupted all the time.
        "PAIDONCE_OPEN_PAYMENTS_PER_USER": "0",
        "PAIDONCE_DECLINES_PER_USER": "0",
        "PAIDONCE_PUBLIC_URL": f"http://{serving.LOOPBACK}:{port}",
        **gateways.environment,
        **changes,
    }


async def post_webhook(shop_url: str, webhook: HttpRequest) -> str | None:
    """Bring one webhook to the shop, as a gateway does; its outcome, or None if nobody took it."""
    try:
        async with aiohttp.ClientSession() as session:
            target = shop_url + webhook.url
            async with session.post(target, data=webhook.body, headers=dict(webhook.headers)) as answer:
                said = await answer.read()
    except aiohttp.ClientError:
        return None
    return str(json.loads(said)["outcome"]) if answer.status == 200 else None
