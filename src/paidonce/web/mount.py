"""`Payments`: paidonce inside a FastAPI shop that has orders, stock, users and pages of its own.

    payments = Payments(store=MyStore(), current_user=who_asks, return_path="/orders/{order}/back?payment={payment}")
    app = FastAPI(lifespan=payments.lifespan)
    app.include_router(payments.router)
    app.mount("/assets", payments.assets)

The routes lie at /api, /webhooks, /healthz and /readyz. Each carries its own checks, headers and errors, so the host's
other routes, middleware and error handlers stay as they are. docs/fastapi.md tells it step by step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.routing import APIRoute
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from paidonce import assembly, guard
from paidonce.config import Settings, load_settings, read_environment
from paidonce.core import Actor, Core
from paidonce.deliveries import Subscriber
from paidonce.errors import ConfigError
from paidonce.gateways.base import Component, Gateway
from paidonce.ports import Clock, Database, Ids
from paidonce.store import Store
from paidonce.web import edge, origins, problems, routes, security, views
from paidonce.web.accounts import Role, User
from paidonce.web.admission import Admission
from paidonce.web.auth import HOST_USER
from paidonce.web.challenge import Challenge
from paidonce.web.integrity import OWN
from paidonce.web.limits import address_of
from paidonce.web.offers import Offer, Payable
from paidonce.web.offers import offers as all_offers
from paidonce.web.shop import MOUNTED, Wiring


class Payments:
    """The payments of one shop, to be mounted into its FastAPI application. One per process and database."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        store: Store,
        current_user: Callable[..., Any],
        return_path: str,
        gateways: Mapping[str, Gateway] | None = None,
        database: Database | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
        environment: Mapping[str, str] | None = None,
        subscribers: Mapping[str, Subscriber] | None = None,
        challenge: Challenge | None = None,
    ) -> None:
        """Wire it; nothing is connected before `lifespan`.

        `store` is the shop's orders and stock. `current_user` is the shop's own FastAPI dependency: it gives an
        `Actor`, or None for nobody. `return_path` is the shop's page to which a gateway's redirect brings the buyer
        back, such as `/orders/{order}/back?payment={payment}`; it calls `paidonce.complete`. All else is made from
        `environment` (default: the process's, with `.env`), and what is passed in stays the caller's to close.
        `subscribers` are called with every event by this process's worker, at least once. `challenge` is asked when
        too many payments were declined (docs/card-testing.md).

        Raises `ConfigError`, here or at start-up, naming each setting that can't work.
        """
        if not return_path.startswith("/") or not return_path.endswith("payment={payment}"):
            raise ConfigError(
                [f"return_path={return_path!r}: write a path of your shop that ends with payment={{payment}}"]
            )
        environment = read_environment() if environment is None else environment
        self.settings = settings or load_settings(environment, built_in_shop=False)
        self._parts = assembly.assemble(
            self.settings,
            environment,
            store=store,
            gateways=gateways,
            database=database,
            clock=clock,
            ids=ids,
            subscribers=subscribers,
        )
        self._wiring = Wiring(
            settings=self.settings,
            gateways=self._parts.gateways,
            components=components(self._parts.gateways),
            return_path=return_path,
            challenge=challenge,
        )
        # One for all routes, each of which has an edge of its own. What else the host serves is the host's to bound.
        admission = Admission(self.settings.requests_at_once)
        self.router = _router(self._wiring, admission, current_user)
        files = Router(routes=asset_routes(self._wiring.components))
        self.assets = _guarded(self._wiring, admission, files, below=origins.ASSETS.rstrip("/"))

    # ── Life ──────────

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Connect, and run the worker unless PAIDONCE_WORKER is off.

        Give it to FastAPI, or enter it within the host's own lifespan. Raises `ConfigError`, `DatabaseDown`.
        """
        debug = bool(getattr(app, "debug", False))
        guard.refuse_unsafe(self.settings, {}, self._parts.gateways, file=None, hosted=True, debug=debug)
        async with self._parts.run() as core:
            self._wiring.core = core
            try:
                yield
            finally:
                self._wiring.core = None

    async def migrate(self) -> None:
        """Make or update paidonce's tables beside the shop's own. Safe to repeat, and in several processes at once."""
        await assembly.migrate(self.settings, self._parts.store)

    @property
    def core(self) -> Core:
        """What the actions take: `paidonce.complete(payments.core, …)`. Only while `lifespan` runs."""
        return self._wiring.running

    def check_origin(self, request: Request) -> None:
        """A dependency for the shop's own forms: refuses what another site makes a browser send, as our routes do.

        Raises FastAPI's `HTTPException` with 403, which the shop's own handlers answer.
        """
        if edge.is_forged(request.method, request.headers, self.settings.origin):
            raise HTTPException(403, edge.FORGED)

    # ── The shop's own pay page ──────────

    def offers(self, order: Payable) -> list[Offer]:
        """The ways to pay `order` (what `Store.find` gives), with their elements, attributes and modules."""
        back = {"return-url": self._wiring.return_url(order.id)}
        return [
            Offer(one.name, one.title, one.element, one.module, {**one.attributes, **back}, one.unavailable)
            if one.unavailable is None
            else one
            for one in all_offers(self._wiring, order)
        ]

    def element(self, offer: Offer) -> Markup:
        """The offer's element as HTML, or its reason why this order can't be paid that way."""
        if offer.unavailable is not None:
            return Markup('<p class="notice" data-tone="warn">{}</p>').format(offer.unavailable)
        attributes = views.html_attributes(offer.attributes)
        return Markup('<{} class="payment" {}></{}>').format(offer.element, attributes, offer.element)

    def scripts(self, offers: Sequence[Offer], *, nonce: str | None = None) -> Markup:
        """The script tags that bring the elements of `offers` to life, each with its file's integrity hash.

        Before them stands an import map with the hashes of what they import, so put it all before other modules.
        """
        modules = [one.module for one in offers if one.unavailable is None]
        return self._wiring.integrity.scripts(modules, nonce=nonce)

    def csp(self, nonce: str | None = None) -> str:
        """The Content-Security-Policy of a pay page: this shop and what the gateways' scripts and frames need.

        Make a new `nonce` for each answer. Scripts then run only if they carry it, wherever they come from, and styles
        within the page may carry it. Without one, the scripts and styles of this shop's own files are allowed.
        """
        own = [security.nonce_source(nonce)] if nonce else ["'self'", self._wiring.integrity.import_map_source]
        return security.content_security_policy(own, self._sources(nonce))

    def headers(self, nonce: str | None = None) -> dict[str, str]:
        """All security headers of a pay page, its policy among them. The gateways' pop-ups and frames keep working."""
        # A page about one buyer's order must not stay in a cache that others share.
        return {**security.security_headers(self.csp(nonce), self._sources(nonce)), "Cache-Control": "no-store"}

    def _sources(self, nonce: str | None) -> dict[str, tuple[str, ...]]:
        policies: list[Mapping[str, tuple[str, ...]]] = [part.csp for part in self._wiring.components.values()]
        if nonce:
            policies.append({"style-src": (security.nonce_source(nonce),)})
        return security.merged_sources(policies)


def components(gateways: Mapping[str, Gateway]) -> dict[str, Component]:
    """Each gateway's part of the pay page."""
    return {name: gateway.component() for name, gateway in gateways.items()}


def asset_routes(parts: Mapping[str, Component]) -> list[Mount]:
    """The elements' modules and the files they share, below wherever they are mounted."""
    own = [Mount(f"/gateways/{name}", Assets(directory=part.assets)) for name, part in parts.items()]
    return [*own, Mount("/", Assets(directory=OWN))]


class Assets(StaticFiles):
    """Static files that browsers keep but ask about before each use, so that a deployment is seen at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file with its caching rule."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, no-cache"
        return response


# ── Routes that stand on their own ──────────


def _router(wiring: Wiring, admission: Admission, current_user: Callable[..., Any]) -> APIRouter:
    asks = Depends(current_user)

    async def remember(request: Request, who: Any = asks) -> None:
        request.scope[HOST_USER] = _as_user(who, address_of(request))

    route_class = _route_class(wiring, admission)
    people = APIRouter(route_class=route_class, dependencies=[Depends(remember)])
    routes.add_payments(people)
    machines = APIRouter(route_class=route_class)
    routes.add_machines(machines)
    both = APIRouter()
    both.include_router(people)
    both.include_router(machines)
    return both


def _as_user(who: Any, address: str | None) -> User | None:
    """What the host's dependency gave, as the routes want it. Raises `TypeError` for anything but an actor."""
    if who is None:
        return None
    if not isinstance(who, Actor):
        raise TypeError(f"current_user gave {type(who).__name__}; return paidonce.Actor(user_id, is_staff) or None")
    role: Role = "staff" if who.is_staff else "buyer"
    return User(who.user_id, "", "", role, confirmed=who.confirmed, address=who.address or address)


def _route_class(wiring: Wiring, admission: Admission) -> type[APIRoute]:
    """A route with the checks, headers and errors of the built-in shop around it, whatever the host has."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    return await handler(request)
                except problems.ANSWERED as error:
                    return await problems.answer(request, error)

            return handle

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            await _guarded(wiring, admission, super().handle)(scope, receive, send)

    return Guarded


def _guarded(wiring: Wiring, admission: Admission, app: ASGIApp, *, below: str = "") -> ASGIApp:
    """`app` as if it lay in an application of ours, at the path `below` where it is mounted as a whole."""
    inner = edge.Edge(_answering(app), wiring.settings, below=below, admission=admission)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        scope[MOUNTED] = wiring
        await inner(scope, receive, send)

    return guarded


def _answering(app: ASGIApp) -> ASGIApp:
    """`app`, whose refusals outside its handler (a wrong method, say) are answered here as well."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except problems.ANSWERED as error:
            response = await problems.answer(Request(scope), error)
            await response(scope, receive, send)

    return answering
