"""The offline PayPal as a pure state machine: Orders v2, Payments v2, disputes, tokens, webhooks, the approval page.

It follows PayPal's rules where its documents and OpenAPI files state them, and is the stricter of two readings where
they don't: a request id that comes back with another body is refused, and a declined capture is repeated as declined
under its request id, so a client that reuses keys wrongly is found here and not at PayPal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from paidonce.gateways.base import BookEntry, HttpRequest, HttpResponse
from paidonce.gateways.paypal import wire
from paidonce.gateways.paypal.sandbox import endpoints, pages, units
from paidonce.gateways.paypal.sandbox.controls import CONTROLS, Controls
from paidonce.gateways.paypal.sandbox.disputes import Disputes
from paidonce.gateways.paypal.sandbox.news import CERTIFICATES, WEBHOOK_ID, News
from paidonce.gateways.paypal.sandbox.orders import FUNDING, Orders
from paidonce.gateways.paypal.sandbox.payments import Payments
from paidonce.gateways.paypal.sandbox.replies import Context, Refused, answer, basic, first_values, refusal
from paidonce.gateways.paypal.sandbox.requests import Requests
from paidonce.gateways.paypal.sandbox.shapes import PAYABLE, PAYER_ID, Shapes, currency
from paidonce.gateways.paypal.sandbox.state import State
from paidonce.ports import SECOND, Microseconds

__all__ = ["TOKEN_SECONDS", "WEBHOOK_ID", "PayPalSandbox"]

TOKEN_SECONDS = 32_400

Json = dict[str, Any]


class PayPalSandbox:
    """Implements `gateways.base.SandboxCore`. `base_url` is where browsers reach the twin, without a slash at its end.

    `unique_invoices` turns on the account setting that refuses a second capture with the same `invoice_id`;
    `disputes_permitted` is the app's permission to read disputes.
    """

    name = "paypal"
    controls = CONTROLS

    def __init__(self, base_url: str, *, unique_invoices: bool = False, disputes_permitted: bool = True) -> None:
        base_url = base_url.rstrip("/")
        self._disputes_permitted = disputes_permitted
        self._state = State()
        self._shapes = Shapes(self._state, base_url)
        self._news = News(self._state, base_url)
        requests = Requests(self._state)
        self._orders = Orders(self._state, self._shapes, self._news, requests, unique_invoices=unique_invoices)
        self._payments = Payments(self._state, self._shapes, self._news, requests, self._orders)
        self._disputes = Disputes(self._state, self._shapes, self._news, self._payments)
        self._endpoints = endpoints.Endpoints(self._state, base_url)
        self._controls = Controls(self._state, self._orders, self._payments, self._disputes, self._endpoints)

    def dump(self) -> str:
        """The whole state as JSON."""
        return self._state.dump()

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave."""
        self._state.load(text)

    def control(self, name: str, params: Mapping[str, str], *, now: Microseconds) -> Mapping[str, str]:
        """Carry out one of `controls`. Raises `ValueError` naming what is wrong."""
        return self._controls.run(name, params, now)

    def take_webhooks(self, *, now: Microseconds) -> list[HttpRequest]:
        """The signed webhooks that came up since the last call, oldest first, each once."""
        for order in self._state.orders.values():
            self._orders.age(order, now)
        return self._news.take(now)

    def deliver_to(self, shop_url: str) -> None:
        """Register the shop's webhook, as somebody does at developer.paypal.com."""
        self._endpoints.deliver_to(f"{shop_url.rstrip('/')}/webhooks/{self.name}")

    def look(self, kind: str) -> Mapping[str, Json]:
        """The living records of a kind (`orders`, `refunds`, `disputes`) by id, to be read only."""
        found: Mapping[str, Json] = vars(self._state)[kind]
        return found

    def books(self) -> tuple[BookEntry, ...]:
        """Everything that moved the merchant's money, oldest first."""
        return tuple(self._entry(**one) for one in self._state.books)

    def _entry(self, *, order: str, object: str, kind: str, amount: int) -> BookEntry:
        known = self._state.orders[order]
        money = units.money(amount, currency(known))
        return BookEntry(object, kind, money.minor, money.currency, known["unit"].get("custom_id"))

    def approve(self, order_id: str, *, now: Microseconds, funding: str = "balance") -> None:
        """What the buyer does on the approval page, for tests without a browser. `KeyError` for no such order."""
        assert funding in FUNDING, f"funding is one of {FUNDING}"
        self._orders.approve(self._state.orders[order_id], funding, now)

    def clear_pending(self, order_id: str, *, now: Microseconds, status: str = "COMPLETED") -> None:
        """End a pending payment as the bank would after some days: `COMPLETED` or `DECLINED`."""
        self._orders.clear_pending(self._state.orders[order_id], status, now)

    def revoke_tokens(self) -> None:
        """Forget every access token, as PayPal does now and then before they end."""
        self._state.tokens = {}

    def handle(self, request: HttpRequest, *, now: Microseconds) -> HttpResponse:
        """Answer one request to PayPal's API, script or approval page."""
        self._state.count += 1
        debug_id = hashlib.sha256(f"debug:{self._state.count}".encode()).hexdigest()[:13]
        address = urlsplit(request.url)
        context = Context(
            request.method.upper(),
            address.path,
            first_values(address.query),
            {name.lower(): value for name, value in request.headers.items()},
            request.body,
            now,
        )
        response = self._route(context, debug_id)
        return HttpResponse(response.status, {**response.headers, "paypal-debug-id": debug_id}, response.body)

    def _route(self, context: Context, debug_id: str) -> HttpResponse:
        if context.path.startswith(("/v1/", "/v2/")):
            try:
                return self._api(context)
            except Refused as refused:
                return refusal(refused, debug_id)
        if static := pages.static(context.method, context.path):
            return static
        routes: dict[tuple[str, str], Callable[[Context], HttpResponse]] = {
            ("GET", "/web-sdk/v6/eligibility"): self._eligibility,
            ("GET", "/checkoutnow"): self._page,
            ("POST", "/checkoutnow/approve"): self._page_approve,
            ("POST", "/checkoutnow/cancel"): self._page_cancel,
        }
        route = routes.get((context.method, context.path))
        return route(context) if route else pages.not_found(context.path)

    # --- API -----------------------------------------------------------------------------------------------------

    def _api(self, context: Context) -> HttpResponse:
        if context.path == "/v1/oauth2/token":
            return self._token(context)
        if context.method == "GET" and context.path.startswith(CERTIFICATES):
            return self._certificate(context.path.removeprefix(CERTIFICATES))
        if (unauthorized := self._unauthorized(context)) is not None:
            return unauthorized
        steps = context.path.strip("/").split("/")
        match steps[:2]:
            case ["v2", "checkout"]:
                found = self._checkout(context, steps[2:])
            case ["v2", "payments"]:
                found = self._payment(context, steps[2:])
            case ["v1", "customer"]:
                found = self._dispute(context, steps[2:])
            case ["v1", "notifications"] if (context.method, context.path) == ("GET", endpoints.PATH):
                found = self._endpoints.listing()
            case _:
                found = None
        if found is None:
            raise Refused(404, "INVALID_RESOURCE_ID")
        return found

    def _checkout(self, context: Context, steps: list[str]) -> HttpResponse | None:
        match context.method, steps:
            case "POST", ["orders"]:
                return self._orders.create(context)
            case "GET", ["orders", order_id]:
                return answer(200, self._shapes.order(self._orders.get(order_id, context.now)))
            case "POST", ["orders", order_id, ("capture" | "authorize") as step]:
                return self._orders.finish(context, self._orders.get(order_id, context.now), step)
        return None

    def _payment(self, context: Context, steps: list[str]) -> HttpResponse | None:
        routes: dict[tuple[str, ...], Callable[[Context, str], HttpResponse]] = {
            ("GET", "captures"): self._payments.read_capture,
            ("GET", "authorizations"): self._payments.read_authorization,
            ("GET", "refunds"): self._payments.read_refund,
            ("POST", "captures", "refund"): self._payments.refund_capture,
            ("POST", "authorizations", "capture"): self._payments.capture_authorization,
            ("POST", "authorizations", "void"): self._payments.void_authorization,
        }
        route = routes.get((context.method, *steps[:1], *steps[2:])) if len(steps) > 1 else None
        return route(context, steps[1]) if route else None

    def _dispute(self, context: Context, steps: list[str]) -> HttpResponse | None:
        if context.method != "GET" or steps[:1] != ["disputes"] or len(steps) > 2:
            return None
        if not self._disputes_permitted:
            raise Refused(403, "PERMISSION_DENIED")
        return self._disputes.read(steps[1]) if steps[1:] else self._disputes.listing(context)

    def _certificate(self, name: str) -> HttpResponse:
        text = self._news.certificate(name)
        if text is None:
            raise Refused(404, "INVALID_RESOURCE_ID")
        return HttpResponse(200, {"content-type": "application/x-pem-file"}, text.encode("ascii"))

    def _token(self, context: Context) -> HttpResponse:
        if context.method != "POST":
            raise Refused(405, "METHOD_NOT_SUPPORTED")
        client_id, secret = basic(context.headers.get("authorization", ""))
        # Real credentials have no business here; the well-known ones all begin with this word.
        if not client_id.startswith("sandbox") or not secret.startswith("sandbox"):
            return answer(401, {"error": "invalid_client", "error_description": "Client Authentication failed"})
        if first_values(context.body.decode("latin-1")).get("grant_type") != "client_credentials":
            wrong = "unsupported_grant_type"
            return answer(400, {"error": wrong, "error_description": "unsupported grant_type"})
        value = "A21AA" + self._state.new_id("token", context.now) + self._state.new_id("token-tail", context.now)
        kept = {token: ends for token, ends in self._state.tokens.items() if ends > context.now}
        self._state.tokens = {**kept, value: context.now + TOKEN_SECONDS * SECOND}
        return answer(
            200,
            {
                "scope": "https://uri.paypal.com/services/checkout/one-click-with-merchant-issued-token",
                "access_token": value,
                "token_type": "Bearer",
                "app_id": "APP-OFFLINESANDBOX",
                "expires_in": TOKEN_SECONDS,
                "nonce": datetime.fromtimestamp(context.now // SECOND, UTC).isoformat(),
            },
        )

    def _unauthorized(self, context: Context) -> HttpResponse | None:
        scheme, _, token = context.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._state.tokens.get(token, 0) > context.now:
            return None
        return answer(401, {"error": "invalid_token", "error_description": "Token signature verification failed"})

    # --- Browser -------------------------------------------------------------------------------------------------

    def _eligibility(self, context: Context) -> HttpResponse:
        """Which client ids and currencies the stand-in script may offer."""
        known = context.query.get("client_id", "").startswith("sandbox")
        eligible = known and context.query.get("currency", "USD") in wire.EXPONENTS
        told = answer(200 if known else 404, {"known_client": known, "paypal": eligible})
        return HttpResponse(told.status, {**told.headers, "access-control-allow-origin": "*"}, told.body)

    def _page(self, context: Context) -> HttpResponse:
        order = self._known(context.query.get("token", ""), context.now)
        if order is None:
            return pages.not_found(context.path)
        return pages.approval(context.path, _shown(order), opener=_opener(context.query))

    def _page_approve(self, context: Context) -> HttpResponse:
        form = first_values(context.body.decode("latin-1"))
        order = self._known(form.get("token", ""), context.now)
        if order is None or form.get("funding") not in FUNDING:
            return pages.not_found(context.path)
        self._orders.approve(order, form["funding"], context.now)
        back = {"token": order["id"], "PayerID": PAYER_ID}
        return _leave(context.path, order["return_url"], back, "approve", opener=_opener(form))

    def _page_cancel(self, context: Context) -> HttpResponse:
        form = first_values(context.body.decode("latin-1"))
        order = self._known(form.get("token", ""), context.now)
        if order is None:
            return pages.not_found(context.path)
        return _leave(context.path, order["cancel_url"], {"token": order["id"]}, "cancel", opener=_opener(form))

    def _known(self, order_id: str, now: Microseconds) -> Json | None:
        try:
            return self._orders.get(order_id, now)
        except Refused:
            return None


def _leave(path: str, address: str | None, back: Mapping[str, str], news: str, *, opener: str | None) -> HttpResponse:
    """Tell the page that opened the pop-up, or redirect to the shop."""
    if opener is not None or not address:
        return pages.done(path, news, order_id=back["token"], payer_id=back.get("PayerID"), opener=opener)
    joint = "&" if urlsplit(address).query else "?"
    return pages.redirect(address + joint + urlencode(back))


def _shown(order: Json) -> pages.Shown:
    amount = order["unit"]["amount"]
    return pages.Shown(
        order_id=order["id"],
        invoice_id=order["unit"].get("invoice_id"),
        amount=f"{amount['value']} {amount['currency_code']}",
        payable=order["status"] in (*PAYABLE, "APPROVED"),
        declined=order["declines"] > 0,
        return_urls=tuple(url for url in (order["return_url"], order["cancel_url"]) if url),
    )


def _opener(values: Mapping[str, str]) -> str | None:
    """The origin of the page that opened the pop-up; anything but a bare http(s) origin counts as none."""
    origin = values.get("opener", "")
    return origin if re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin) else None
