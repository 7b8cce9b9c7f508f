"""The one place where the parts are wired together in a Django process: the core, its ports, and the gateways."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from django.conf import settings as project
from django.core.signals import setting_changed
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

from paidonce import deliveries, guard, notes
from paidonce.assembly import learn_secrets
from paidonce.config import Settings, load_settings, read_environment
from paidonce.contrib.django import conf
from paidonce.contrib.django.conf import Conf
from paidonce.contrib.django.driver import run
from paidonce.contrib.django.transport import BlockingClock, BlockingTransport
from paidonce.core import Actor, Core
from paidonce.db.django import DjangoDatabase, ThreadedDatabase
from paidonce.deliveries import Endpoints, Subscriber
from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway, Transport
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.outbox import Event
from paidonce.ports import Clock, RandomIds, SystemClock
from paidonce.store import Store
from paidonce.web.shop import Wiring
from paidonce.worker import Worker

_STORE_METHODS = ("find", "hold", "take", "release", "mark")


@dataclass(slots=True)
class Runtime:
    """What a request needs. `actor` tells who asks; `endpoints` are told by the worker."""

    core: Core
    wiring: Wiring
    actor: Callable[[Any], Actor | None]
    endpoints: Endpoints
    _registered: bool = False

    def register_endpoints(self) -> None:
        """Once per process, before anything can happen: a new endpoint hears of what happens from now on."""
        if not self._registered:
            if self.endpoints.names:
                run(deliveries.register(self.core, self.endpoints))
            self._registered = True


_building = threading.Lock()
_current: Runtime | None = None


def runtime() -> Runtime:
    """This process's, made at its first use. Raises `ConfigError` naming each setting that can't work."""
    global _current  # noqa: PLW0603 - one per process, as Django's own settings are.
    if _current is None:
        with _building:
            if _current is None:
                _current = build()
    return _current


def use(other: Runtime | None) -> None:
    """Put another one in the place of this process's, for tests; None makes the next use build it anew."""
    global _current  # noqa: PLW0603 - as above.
    _current = other


def build(*, clock: Clock | None = None, transport: Transport | None = None) -> Runtime:
    """A new one from Django's settings. `clock` and `transport` must block instead of suspending."""
    parts = Parts.read()
    clock = clock or BlockingClock()
    gateways = parts.gateways(transport or BlockingTransport(parts.conf.database), clock)
    core = parts.core(DjangoDatabase(parts.conf.database), gateways, clock)
    wiring = Wiring(
        settings=parts.settings,
        gateways=gateways,
        components={name: gateway.component() for name, gateway in gateways.items()},
        return_path=parts.conf.return_path,
        core=core,
    )
    return Runtime(core, wiring, imported(parts.conf.actor, "PAIDONCE['ACTOR']"), parts.endpoints())


@asynccontextmanager
async def open_worker(*, clock: Clock | None = None, transport: Transport | None = None) -> AsyncIterator[Worker]:
    """The worker, on an event loop of its own; the database's part of it runs in threads. Raises `ConfigError`.

    A `transport` that is passed in stays the caller's to close.
    """
    parts = Parts.read()
    clock = clock or SystemClock()
    own = AiohttpTransport(clock)
    transport = transport or own
    gateways = parts.gateways(transport, clock)
    database = ThreadedDatabase(parts.conf.database)
    try:
        core = parts.core(database, gateways, clock)
        endpoints = parts.endpoints()
        await deliveries.register(core, endpoints)
        yield Worker(core, endpoints, transport)
    finally:
        await database.close()
        for gateway in gateways.values():
            await gateway.aclose()
        await own.close()


@dataclass(frozen=True, slots=True)
class Parts:
    """The settings of the project and of the environment, before anything is made of them."""

    conf: Conf
    environment: Mapping[str, str]
    settings: Settings

    @classmethod
    def read(cls) -> Parts:
        """Raises `ConfigError`."""
        found = conf.read()
        environment = read_environment() if found.environment is None else found.environment
        settings = load_settings(environment, built_in_shop=False)
        learn_secrets(settings, environment)
        return cls(found, environment, settings)

    def store(self) -> Store:
        """A new store of the shop's class. Raises `ConfigError`."""
        made = imported(self.conf.store, "PAIDONCE['STORE']")()
        missing = [name for name in _STORE_METHODS if not callable(getattr(made, name, None))]
        if missing:
            raise ConfigError(
                [
                    f"PAIDONCE['STORE']: {self.conf.store} has no {', '.join(missing)}; derive it from"
                    " paidonce.contrib.django.store.DjangoStore"
                ]
            )
        return cast(Store, made)

    @property
    def file(self) -> Path | None:
        """The file of Django's database, or None where a server keeps it."""
        entry = project.DATABASES[self.conf.database]
        return Path(str(entry["NAME"])) if entry["ENGINE"].endswith("sqlite3") else None

    def gateways(self, transport: Transport, clock: Clock) -> dict[str, Gateway]:
        """Those that have keys. Raises `ConfigError`, also for what the start-up guard refuses."""
        made = configure_all(self.environment, transport, clock)
        guard.refuse_unsafe(
            self.settings, self.environment, made, file=self.file, hosted=True, debug=bool(project.DEBUG)
        )
        return made

    def core(self, database: Any, gateways: Mapping[str, Gateway], clock: Clock) -> Core:
        """The core over these ports."""
        return notes.hand_out(Core(database, gateways, self.store(), clock, RandomIds(), self.settings.policy()))

    def endpoints(self) -> Endpoints:
        """Whom the worker tells of events."""
        named = {name: imported(path, f"PAIDONCE['SUBSCRIBERS'][{name!r}]") for name, path in self._subscribers()}
        return self.settings.endpoints({name: _in_a_thread(function) for name, function in named.items()})

    def _subscribers(self) -> list[tuple[str, str]]:
        return sorted(self.conf.subscribers.items())


def imported(path: str, setting: str) -> Any:
    """What `path` names. Raises `ConfigError` naming the setting."""
    try:
        return import_string(path)
    except ImportError as error:
        raise ConfigError([f"{setting}: {path!r} can't be imported ({error})"]) from error


def _in_a_thread(function: Callable[[Event], None]) -> Subscriber:
    """A plain function of the shop, which may use the ORM, as a subscriber."""
    from asgiref.sync import sync_to_async

    async def tell(event: Event) -> None:
        await sync_to_async(partial(_and_close, function), thread_sensitive=False)(event)

    return tell


def _and_close(function: Callable[[Event], None], event: Event) -> None:
    from django.db import close_old_connections, connections

    close_old_connections()
    try:
        function(event)
    finally:
        connections.close_all()


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("PAIDONCE", "DATABASES"):
        use(None)


setting_changed.connect(_forget, dispatch_uid="paidonce.runtime")


def webhooks_path() -> str:
    """Where the webhooks are, before the gateway's name: below the path of the include, wherever that is."""
    try:
        return str(reverse("paidonce:webhook", args=["name"])).removesuffix("name")
    except NoReverseMatch:
        # Django's checks tell that the addresses are nowhere.
        return "/webhooks/"
