"""`create_app()`: the only place where the parts are wired together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from paidonce import deliveries
from paidonce._version import __version__
from paidonce.config import Settings, load_settings, read_environment
from paidonce.core import Core
from paidonce.db import connect, pending
from paidonce.deliveries import Subscriber
from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import Clock, Database, Ids, RandomIds, SystemClock
from paidonce.store import SqlStore
from paidonce.web import problems, routes, views
from paidonce.web.edge import Edge
from paidonce.web.shop import Shop
from paidonce.worker import Worker


def create_app(
    settings: Settings | None = None,
    *,
    gateways: Mapping[str, Gateway] | None = None,
    database: Database | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    environment: Mapping[str, str] | None = None,
    subscribers: Mapping[str, Subscriber] | None = None,
) -> FastAPI:
    """The shop as an ASGI application, with a worker inside unless PAIDONCE_WORKER is off.

    `subscribers` are called with every event by this process's worker, each under its name, at least once.

    What is left out is made from `environment` (default: the process's, with `.env`). What is passed in stays the
    caller's to close. Raises `ConfigError`, here or at start-up, naming each setting that can't work.
    """
    environment = read_environment() if environment is None else environment
    settings = settings or load_settings(environment)
    clock = clock or SystemClock()
    # Without a socket until a gateway is asked; with gateways of the caller's own it stays unused.
    transport = AiohttpTransport(clock)
    offered = configure_all(environment, transport, clock) if gateways is None else dict(gateways)
    shop = Shop(
        settings=settings,
        gateways=offered,
        components={name: gateway.component() for name, gateway in offered.items()},
        templates=views.templates(),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        db = database or await _connect(settings)
        try:
            core = shop.core = Core(db, offered, shop.store, clock, ids or RandomIds(), settings.policy())
            async with _worker(Worker(core, settings.endpoints(subscribers), transport), settings.worker):
                yield
        finally:
            shop.core = None
            if database is None:
                await db.close()
            if gateways is None:
                await _close_gateways(offered)
            await transport.close()

    app = _application(lifespan)
    app.state.paidonce = shop
    app.include_router(routes.api_router())
    app.include_router(routes.page_router())
    _serve_assets(app, shop)
    problems.install(app)
    app.add_middleware(Edge, settings=settings)
    return app


@asynccontextmanager
async def _worker(worker: Worker, wanted: bool) -> AsyncIterator[None]:
    """Run the worker beside the requests. What it is in the middle of when it ends is taken up again later."""
    # Before anything can happen, or the first events would count as old history for a new endpoint.
    await deliveries.register(worker.core, worker.endpoints)
    if not wanted:
        yield
        return
    running = asyncio.create_task(worker.run(), name="paidonce-worker")
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def open_worker(
    settings: Settings, environment: Mapping[str, str], *, subscribers: Mapping[str, Subscriber] | None = None
) -> AsyncIterator[Worker]:
    """A worker without the shop's pages, on the same database and gateways. Raises `ConfigError`, `DatabaseError`."""
    clock = SystemClock()
    transport = AiohttpTransport(clock)
    gateways = configure_all(environment, transport, clock)
    db = await _connect(settings)
    try:
        core = Core(db, gateways, SqlStore(), clock, RandomIds(), settings.policy())
        endpoints = settings.endpoints(subscribers)
        await deliveries.register(core, endpoints)
        yield Worker(core, endpoints, transport)
    finally:
        await db.close()
        await _close_gateways(gateways)
        await transport.close()


def _application(lifespan: object) -> FastAPI:
    return FastAPI(
        title="paidonce",
        version=__version__,
        description="Orders, and payments that happen exactly once.",
        lifespan=lifespan,  # type: ignore[arg-type]  # FastAPI's own type for it is private.
        # FastAPI's pages load scripts from a foreign server; ours at /docs needs none.
        docs_url=None,
        redoc_url=None,
        # A redirect to the other spelling of a path would be built from the Host header.
        redirect_slashes=False,
    )


def _serve_assets(app: FastAPI, shop: Shop) -> None:
    for name, component in shop.components.items():
        app.mount(f"/assets/gateways/{name}", Assets(directory=component.assets))
    app.mount("/assets", Assets(directory=views.ASSETS))


class Assets(StaticFiles):
    """Static files that browsers keep but ask about before each use, so that a deployment is seen at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file with its caching rule."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, no-cache"
        return response


async def _connect(settings: Settings) -> Database:
    db = await connect(settings.database_url)
    if await pending(db):
        await db.close()
        raise ConfigError(
            ["PAIDONCE_DATABASE_URL: the schema of this database is not this version's; run: paidonce migrate"]
        )
    return db


async def _close_gateways(gateways: Mapping[str, Gateway]) -> None:
    for gateway in gateways.values():
        await gateway.aclose()
