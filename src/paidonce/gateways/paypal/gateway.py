"""PayPal Checkout by Orders v2: create, approve in the browser, capture on the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from paidonce.errors import GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import (
    Account,
    Component,
    CreateRequest,
    Opened,
    Progress,
    Snapshot,
)
from paidonce.gateways.paypal import wire
from paidonce.gateways.paypal.client import Answer, PayPalClient
from paidonce.money import Money

# Orders calls remember a PayPal-Request-Id for six hours. The margin keeps a repeat away from the edge, where PayPal
# might have forgotten it by the time the request arrives.
KEY_LIFE_SECONDS = 6 * 3600 - 300

# What PayPal's own JS SDK loads, frames and calls.
_PAYPAL_SOURCES = ("https://*.paypal.com", "https://*.paypalobjects.com")
_CSP_DIRECTIVES = ("script-src", "frame-src", "child-src", "connect-src", "img-src", "style-src")

_MONEY_MAY_MOVE = frozenset({Progress.CAPTURED, Progress.PROCESSING, Progress.AUTHORIZED})


@dataclass(frozen=True, slots=True)
class PayPalSettings:
    """The checked settings of one PayPal account."""

    client_id: str
    client_secret: str = field(repr=False)
    merchant_id: str
    live: bool
    api_base: str
    js_url: str
    js_url_is_ours: bool  # True where PAYPAL_JS_URL replaced PayPal's address.
    webhook_id: str | None = None


class PayPalGateway:
    """Implements `gateways.base.Gateway` for PayPal. Only `capture` moves money; an unused order needs no ending."""

    name = "paypal"
    title = "PayPal"
    captures_in_browser = False
    can_void = False
    create_key_life_seconds = KEY_LIFE_SECONDS
    capture_key_life_seconds = KEY_LIFE_SECONDS

    def __init__(self, settings: PayPalSettings, client: PayPalClient) -> None:
        self._settings = settings
        self._client = client

    def check_amount(self, amount: Money) -> None:
        """Raise `MoneyError` if PayPal can't be asked for exactly `amount`."""
        wire.check_amount(amount)

    async def account(self) -> Account:
        """The merchant named by PAYPAL_MERCHANT_ID; every order's `payee.merchant_id` is compared with it."""
        return Account(self._settings.merchant_id, self._settings.live)

    async def create(self, request: CreateRequest) -> Opened:
        """Create the order. It moves no money."""
        body = wire.order_request(request)
        answer = await self._client.post("/v2/checkout/orders", body, request_id=request.idempotency_key)
        return self._opened(self._snapshot(answer))

    async def reopen(self, ref: str) -> Opened:
        """Read the order again, with the values that the browser needs."""
        return self._opened(await self.fetch(ref))

    async def fetch(self, ref: str) -> Snapshot:
        """Read the order."""
        return self._snapshot(await self._client.get(_path(ref)))

    async def capture(self, ref: str, *, idempotency_key: str, amount: Money) -> Snapshot:
        """Capture the whole approved order, which is for `amount`.

        A declined instrument or a missing approval comes back as AWAITING_BUYER with a recoverable decline: the buyer
        goes to PayPal again with the same order. A final refusal comes back as FAILED.
        """
        wire.check_amount(amount)
        try:
            answer = await self._client.post(_path(ref) + "/capture", {}, request_id=idempotency_key)
        except GatewayRefused as refusal:
            return await self._after_refusal(ref, refusal)
        try:
            return self._snapshot(answer)
        except OutcomeUnknown:
            # It was carried out; only its description was incomplete.
            return await self.fetch(ref)

    async def void(self, ref: str) -> Snapshot:
        """Read the order: PayPal has no call to end one, and it moves no money unless we capture it."""
        return await self.fetch(ref)

    def component(self) -> Component:
        """`<paypal-payment>`: PayPal's button, its pop-up, and the way back."""
        return Component(
            element="paypal-payment",
            module="component.js",
            assets=Path(__file__).parent / "assets",
            attributes={"client-id": self._settings.client_id, "script-url": self._settings.js_url},
            csp=self._csp(),
        )

    def attributes(self, amount: Money) -> Mapping[str, str]:
        """The currency, which decides whether PayPal offers itself."""
        wire.check_amount(amount)
        return {"currency": amount.currency}

    async def aclose(self) -> None:
        """Nothing of its own to free."""

    def _csp(self) -> dict[str, tuple[str, ...]]:
        sources: tuple[str, ...] = _PAYPAL_SOURCES
        if self._settings.js_url_is_ours:
            address = urlsplit(self._settings.js_url)
            sources = (f"{address.scheme}://{address.netloc}",)
        return dict.fromkeys(_CSP_DIRECTIVES, sources)

    def _opened(self, snapshot: Snapshot) -> Opened:
        return Opened(snapshot, {"order_id": snapshot.ref, "client_id": self._settings.client_id})

    def _snapshot(self, answer: Answer) -> Snapshot:
        try:
            return wire.snapshot(answer.body, live=self._settings.live, request_id=answer.debug_id)
        except wire.Unreadable as error:
            raise OutcomeUnknown(f"PayPal's order can't be read: {error}", request_id=answer.debug_id) from error

    async def _after_refusal(self, ref: str, refusal: GatewayRefused) -> Snapshot:
        """Read the order after a refused capture and say what both mean. Raises the refusal if it is no news of it."""
        issue = refusal.code.upper()
        decline = wire.issue_decline(issue)
        if decline is None and issue not in wire.LOOK_UP_ISSUES:
            raise refusal
        found = await self.fetch(ref)
        if found.progress in _MONEY_MAY_MOVE:
            return found
        if decline is not None:
            progress = Progress.AWAITING_BUYER if decline.recoverable else Progress.FAILED
            return replace(found, progress=progress, decline=decline, request_id=refusal.request_id)
        if issue == "DUPLICATE_INVOICE_ID":
            raise refusal
        # PayPal said "captured", but its own reading of the order lags behind.
        return replace(found, progress=Progress.PROCESSING, pending_reason=issue)


def _path(ref: str) -> str:
    return "/v2/checkout/orders/" + quote(ref, safe="")
