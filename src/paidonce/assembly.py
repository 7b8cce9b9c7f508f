"""The parts put together: settings, gateways, store, database, clock and worker.

Nothing here knows HTTP: the built-in shop (`app.py`), a host's own (`web/mount.py`) and the worker all start from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module

from paidonce import db as databases
from paidonce import deliveries, guard, notes, scrubbing
from paidonce.config import Settings
from paidonce.core import Core
from paidonce.deliveries import Subscriber
from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway
from paidonce.gateways.registry import configure_all, secrets_of
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import Clock, Database, Ids, RandomIds, SystemClock
from paidonce.store import SqlStore, Store
from paidonce.worker import Worker


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of one process before anything is connected. `gateways` and `database` may be the caller's own."""

    settings: Settings
    store: Store
    gateways: Mapping[str, Gateway]
    transport: AiohttpTransport
    clock: Clock
    ids: Ids
    database: Database | None
    subscribers: Mapping[str, Subscriber]
    gateways_are_ours: bool

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """Connect; what is ours is closed at the end. Raises `ConfigError` for an old schema, `DatabaseDown`."""
        database = self.database or await connect(self.settings)
        try:
            core = Core(database, self.gateways, self.store, self.clock, self.ids, self.settings.policy())
            endpoints = self.settings.endpoints(self.subscribers)
            # Before anything can happen, or the first events would count as old history for a new endpoint.
            await deliveries.register(core, endpoints)
            yield Worker(notes.hand_out(core), endpoints, self.transport)
        finally:
            if self.database is None:
                await database.close()
            if self.gateways_are_ours:
                for gateway in self.gateways.values():
                    await gateway.aclose()
            await self.transport.close()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Core]:
        """Connect, with the worker beside the requests unless PAIDONCE_WORKER is off.

        What the worker is in the middle of when it ends is taken up again later.
        """
        async with self.worker() as worker:
            if not self.settings.worker:
                yield worker.core
                return
            running = asyncio.create_task(worker.run(), name="paidonce-worker")
            try:
                yield worker.core
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running


def assemble(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    store: Store | None = None,
    gateways: Mapping[str, Gateway] | None = None,
    database: Database | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    subscribers: Mapping[str, Subscriber] | None = None,
) -> Assembly:
    """The parts, made from `settings` and `environment` where they are left out.

    Raises `ConfigError` naming each setting that can't work.
    """
    learn_secrets(settings, environment)
    clock = clock or SystemClock()
    # Without a socket until a gateway is asked; with gateways of the caller's own it stays unused.
    transport = AiohttpTransport(clock)
    chosen = configure_all(environment, transport, clock) if gateways is None else dict(gateways)
    store = store or store_of(settings)
    file = guard.sqlite_file(settings) if database is None else None
    guard.refuse_unsafe(settings, environment, chosen, file=file, hosted=not isinstance(store, SqlStore))
    return Assembly(
        settings=settings,
        store=store,
        gateways=chosen,
        transport=transport,
        clock=clock,
        ids=ids or RandomIds(),
        database=database,
        subscribers=dict(subscribers or {}),
        gateways_are_ours=gateways is None,
    )


def learn_secrets(settings: Settings, environment: Mapping[str, str]) -> None:
    """Tell the log what it must never show: the secrets of the shop and of its gateways. Raises `ConfigError`."""
    values, shapes = secrets_of(environment)
    scrubbing.learn(values=[*settings.secrets, *values], shapes=shapes)


def store_of(settings: Settings) -> Store:
    """The store that PAIDONCE_STORE names, else the built-in one. Raises `ConfigError` if it can't be loaded."""
    if not settings.store:
        return SqlStore()
    module, _, name = settings.store.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            [
                f"PAIDONCE_STORE={settings.store}: can't be loaded ({error}). Write module:name, such as"
                " my_shop.store:MyStore, and start where Python finds the module"
            ]
        ) from error
    store: Store = found() if isinstance(found, type) else found
    return store


async def migrate(settings: Settings, store: Store | None = None) -> None:
    """Bring the schema up to date; only the built-in store gets the built-in shop's tables. Raises as `db.migrate`."""
    chosen = store or store_of(settings)
    await databases.migrate(settings.database_url.get_secret_value(), store_tables=isinstance(chosen, SqlStore))


async def connect(settings: Settings) -> Database:
    """The settings' database, open. Raises `ConfigError` for an old schema, and what `db.connect` raises."""
    database = await databases.connect(settings.database_url.get_secret_value())
    if await databases.pending(database):
        await database.close()
        raise ConfigError(
            ["PAIDONCE_DATABASE_URL: the schema of this database is not this version's; run: paidonce migrate"]
        )
    return database
