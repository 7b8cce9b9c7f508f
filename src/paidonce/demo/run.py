"""Wires a demo: data folder → settings → sandbox → shop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from paidonce import db, notes, serving
from paidonce.app import create_app
from paidonce.config import load_settings
from paidonce.core import Core
from paidonce.demo import books, once, report, servers
from paidonce.demo.folder import DataFolder, DemoEnvironment, demo_environment
from paidonce.errors import ConfigError, GatewayError
from paidonce.gateways.base import Gateway, Provider
from paidonce.gateways.registry import configure_all, providers
from paidonce.gateways.transport import AiohttpTransport
from paidonce.logs import configure_logging
from paidonce.ports import RandomIds, SystemClock
from paidonce.store import SqlStore
from paidonce.web.seed import BUYER, STAFF, seed_demo

Work = Callable[[Mapping[str, Gateway]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A demo whose sandbox runs and whose database is migrated and seeded; the shop itself is not open yet."""

    environment: DemoEnvironment
    providers: tuple[Provider, ...]
    shop_url: str
    sandbox_url: str


def serve(own: Mapping[str, str], folder: DataFolder, port: int, console: Console) -> None:
    """Keep the shop open until Ctrl-C. Raises `ConfigError` for a busy port or settings that can't work."""
    fix = "Choose another: PORT=… (the offline gateways take the one after it)."
    with folder.in_use(), serving.bind(serving.LOOPBACK, port, fix=fix) as listener:
        beside = serving.bind(serving.LOOPBACK, port + 1, fix=fix)
        console.print("Starting the shop and the offline gateways …")
        with _ready(own, folder, listener.getsockname()[1], beside) as ready:
            app = create_app(environment=ready.environment.values)
            report.welcome(
                console,
                shop_url=ready.shop_url,
                sandbox_url=ready.sandbox_url,
                data=str(folder.path),
                logins=[("buyer", BUYER.email, BUYER.password), ("staff", STAFF.email, STAFF.password)],
                providers=ready.providers,
                offline=ready.environment.offline,
            )
            with suppress(KeyboardInterrupt):
                serving.server(app).run(sockets=[listener])
            console.print("The shop is closed; its data is kept.")


def pay_once(own: Mapping[str, str], folder: DataFolder | None, console: Console) -> bool:
    """Pay at every gateway without a browser, show the books, and tell whether all of it adds up.

    Without a `folder` everything is fresh and forgotten afterwards.
    """
    if folder is None:
        with TemporaryDirectory(prefix="paidonce-demo-") as fresh:
            return pay_once(own, DataFolder(Path(fresh)), console)
    anywhere = "A free port was asked for."
    with folder.in_use(), serving.bind(serving.LOOPBACK, 0, fix=anywhere) as listener:
        beside = serving.bind(serving.LOOPBACK, 0, fix=anywhere)
        with _ready(own, folder, listener.getsockname()[1], beside) as ready:
            app = create_app(environment=ready.environment.values)
            with servers.in_thread(app, listener):
                return asyncio.run(_live_and_check(ready, console))


@contextmanager
def _ready(own: Mapping[str, str], folder: DataFolder, port: int, beside: socket.socket) -> Iterator[_Ready]:
    known = providers(own)
    shop_url, sandbox_url = f"http://{serving.LOOPBACK}:{port}", f"http://{serving.LOOPBACK}:{beside.getsockname()[1]}"
    environment = demo_environment(own, folder, known, port=port, shop_url=shop_url, sandbox_url=sandbox_url)
    settings = load_settings(environment.values)
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    with servers.sandbox_process(beside, sandbox_url, folder.sandbox_state, shop_url):
        asyncio.run(_prepare(environment))
        yield _Ready(environment, known, shop_url, sandbox_url)


async def _prepare(environment: DemoEnvironment) -> None:
    """Migrate and seed, and make sure that no key moves real money."""
    url = environment.values["PAIDONCE_DATABASE_URL"]
    await db.migrate(url)
    database = await db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()
    await _with_gateways(environment, _refuse_live)


async def _refuse_live(gateways: Mapping[str, Gateway]) -> None:
    for name, gateway in gateways.items():
        try:
            live = (await gateway.account()).live
        except GatewayError as error:
            raise ConfigError([f"{name}: its account can't be read with these keys: {error}"]) from error
        if live:
            raise ConfigError(
                [f"{name}: these keys move real money, and a demo must not. Use test keys, or unset them."]
            )


async def _live_and_check(ready: _Ready, console: Console) -> bool:
    transport = AiohttpTransport(SystemClock())
    credentials, staff = ({"email": one.email, "password": one.password} for one in (BUYER, STAFF))
    try:
        lived = await once.pay_everywhere(
            ready.providers,
            ready.environment,
            transport,
            shop_url=ready.shop_url,
            credentials=credentials,
            staff=staff,
        )
    finally:
        await transport.close()
    database = await db.connect(ready.environment.values["PAIDONCE_DATABASE_URL"])
    try:
        kept = await database.read(books.read_books)
        found = books.differences(kept)

        async def compare(gateways: Mapping[str, Gateway]) -> None:
            notes.hand_out(Core(database, gateways, SqlStore(), SystemClock(), RandomIds()))
            found.extend(await books.differences_with_gateways(kept, gateways))

        await _with_gateways(ready.environment, compare)
    finally:
        await database.close()
    report.outcome(console, lived, kept, found)
    return not lived.problems and not found


async def _with_gateways(
    environment: DemoEnvironment, work: Callable[[Mapping[str, Gateway]], Awaitable[None]]
) -> None:
    clock = SystemClock()
    transport = AiohttpTransport(clock)
    gateways = configure_all(environment.values, transport, clock)
    try:
        await work(gateways)
    finally:
        for gateway in gateways.values():
            await gateway.aclose()
        await transport.close()
