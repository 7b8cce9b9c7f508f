"""`create_app()`: the only place where the parts are wired together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from paidonce._version import __version__
from paidonce.config import Settings, load_settings, read_environment
from paidonce.core import Core
from paidonce.db import connect, pending
from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import Clock, Database, Ids, RandomIds, SystemClock
from paidonce.web import problems, routes, views
from paidonce.web.edge import Edge
from paidonce.web.shop import Shop


def create_app(
    settings: Settings | None = None,
    *,
    gateways: Mapping[str, Gateway] | None = None,
    database: Database | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    environment: Mapping[str, str] | None = None,
) -> FastAPI:
    """The shop as an ASGI application.

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
            shop.core = Core(db, offered, shop.store, clock, ids or RandomIds(), settings.policy())
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
