"""`create_app()`: the built-in shop around the payments."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.routing import Mount
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from paidonce._version import __version__
from paidonce.assembly import assemble
from paidonce.config import Settings, load_settings, read_environment
from paidonce.deliveries import Subscriber
from paidonce.gateways.base import Gateway
from paidonce.ports import Clock, Database, Ids
from paidonce.store import SqlStore
from paidonce.web import mount, problems, routes, views
from paidonce.web.challenge import Challenge
from paidonce.web.edge import Edge
from paidonce.web.shop import Shop
from paidonce.web.shortcut import Shortcut
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
    store: SqlStore | None = None,
    challenge: Challenge | None = None,
) -> FastAPI:
    """The shop as an ASGI application, with a worker inside unless PAIDONCE_WORKER is off.

    `subscribers` are called with every event by this process's worker, each under its name, at least once. `store` may
    be a `SqlStore` with code of your own in it; a shop with other tables mounts `web.mount.Payments` instead.
    `challenge` is asked when too many payments were declined (docs/card-testing.md).

    What is left out is made from `environment` (default: the process's, with `.env`). What is passed in stays the
    caller's to close. Raises `ConfigError`, here or at start-up, naming each setting that can't work.
    """
    environment = read_environment() if environment is None else environment
    settings = settings or load_settings(environment, built_in_shop=True)
    store = store or SqlStore()
    parts = assemble(
        settings,
        environment,
        store=store,
        gateways=gateways,
        database=database,
        clock=clock,
        ids=ids,
        subscribers=subscribers,
    )
    shop = Shop(
        settings=settings,
        gateways=parts.gateways,
        components=mount.components(parts.gateways),
        return_path="/orders/{order}/return?payment={payment}",
        templates=views.templates(),
        store=store,
        challenge=challenge,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with parts.run() as core:
            shop.core = core
            try:
                yield
            finally:
                shop.core = None

    app = _application(lifespan)
    app.state.paidonce = shop
    app.include_router(api := routes.api_router())
    app.include_router(routes.page_router())
    app.router.routes.append(Mount("/assets", routes=mount.asset_routes(shop.components)))
    _surround(app, settings, api)
    return app


@asynccontextmanager
async def open_worker(
    settings: Settings, environment: Mapping[str, str], *, subscribers: Mapping[str, Subscriber] | None = None
) -> AsyncIterator[Worker]:
    """A worker without the shop's pages, on the same database and gateways, and on the store in PAIDONCE_STORE.

    Raises `ConfigError`, `DatabaseError`.
    """
    async with assemble(settings, environment, subscribers=subscribers).worker() as worker:
        yield worker


def _surround(app: FastAPI, settings: Settings, api: APIRouter) -> None:
    """What every request passes, from the inside out."""
    problems.install(app)
    app.add_middleware(Shortcut, application=app, routes=api.routes)
    if settings.proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.proxies)
    app.add_middleware(Edge, settings=settings, owns_host=True)


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
