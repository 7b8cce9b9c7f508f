"""PayPal Checkout by Orders v2: create, approve in the browser, capture on the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from paidonce.errors import GatewayError, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import (
    Account,
    Component,
    CreateRequest,
    Decline,
    Finding,
    Needs,
    Opened,
    Progress,
    RefundSnapshot,
    Snapshot,
    WebhookEvent,
    keepable,
)
from paidonce.gateways.paypal import checkup, wire
from paidonce.gateways.paypal.aftersales import Aftersales
from paidonce.gateways.paypal.client import Answer, PayPalClient
from paidonce.money import Money
from paidonce.secret import Secret

if TYPE_CHECKING:
    from paidonce.gateways.paypal.webhook import Webhooks

# Orders calls remember a PayPal-Request-Id for six hours. The margin keeps a repeat away from the edge, where PayPal
# might have forgotten it by the time the request arrives.
KEY_LIFE_SECONDS = 6 * 3600 - 300
# Payments calls remember it for 45 days.
PAYMENTS_KEY_LIFE_SECONDS = 45 * 24 * 3600 - 3600
# How many orders' intents are kept in memory; one that is not known costs a reading.
_KNOWN_INTENTS = 4096

# What PayPal's own JS SDK loads, frames and calls.
_PAYPAL_SOURCES = ("https://*.paypal.com", "https://*.paypalobjects.com")
_CSP_DIRECTIVES = ("script-src", "frame-src", "child-src", "connect-src", "img-src", "style-src")

_CAPTURE_SHOWS = frozenset({Progress.CAPTURED, Progress.PROCESSING})
_UNTOUCHED = frozenset({Progress.AWAITING_BUYER, Progress.APPROVED})
_MONEY_MAY_MOVE = frozenset({Progress.CAPTURED, Progress.PROCESSING, Progress.AUTHORIZED})


@dataclass(frozen=True, slots=True)
class PayPalSettings:
    """The checked settings of one PayPal account."""

    client_id: str
    client_secret: Secret
    merchant_id: str
    live: bool
    api_base: str
    js_url: str
    js_url_is_ours: bool  # True where PAYPAL_JS_URL replaced PayPal's address.
    api_base_is_ours: bool = False  # True where PAYPAL_API_BASE replaced PayPal's address.
    webhook_id: str | None = None


class PayPalGateway:
    """Implements `gateways.base.Gateway` for PayPal. Only `capture` moves money; an unused order needs no ending.

    An order of capture method MANUAL has the intent AUTHORIZE at PayPal: its money is reserved by `authorize`, and
    `capture` and `void` act on the authorization that the order holds.
    """

    name = "paypal"
    title = "PayPal"
    captures_in_browser = False
    can_void = False
    create_key_life_seconds = KEY_LIFE_SECONDS
    # Captures of authorizations are remembered for longer; the shorter life is right for both.
    capture_key_life_seconds = KEY_LIFE_SECONDS
    refund_key_life_seconds = PAYMENTS_KEY_LIFE_SECONDS

    def __init__(self, settings: PayPalSettings, client: PayPalClient, webhooks: Webhooks) -> None:
        self._settings = settings
        self._client = client
        self._webhooks = webhooks
        self._aftersales = Aftersales(client)
        self._intents: dict[str, str] = {}

    def check_amount(self, amount: Money) -> None:
        """Raise `MoneyError` if PayPal can't be asked for exactly `amount`."""
        wire.check_amount(amount)

    async def account(self) -> Account:
        """The merchant named by PAYPAL_MERCHANT_ID; every order's `payee.merchant_id` is compared with it."""
        return Account(self._settings.merchant_id, self._settings.live)

    @property
    def live(self) -> bool:
        """Whether PAYPAL_ENVIRONMENT is live."""
        return self._settings.live

    async def checkup(self, needs: Needs) -> Sequence[Finding]:
        """Permissions, the webhook and its events."""
        return await checkup.findings(self._client, self._settings, needs)

    async def create(self, request: CreateRequest) -> Opened:
        """Create the order. It moves no money."""
        body = wire.order_request(request)
        answer = await self._client.post("/v2/checkout/orders", body, request_id=request.idempotency_key)
        return self._opened(self._snapshot(answer))

    async def reopen(self, ref: str) -> Opened:
        """Read the order again, with the values that the browser needs."""
        return self._opened(await self.fetch(ref))

    async def fetch(self, ref: str, *, details: bool = False) -> Snapshot:
        """Read the order; with `details` its refunds, and the disputes of its captures, as well.

        `disputes` stays None for an app that may not read disputes, and `refunds` where PayPal lists none of them.
        """
        answer, snapshot = await self._read(ref)
        if not details:
            return snapshot
        told = [keepable(one.get("id")) for one in wire.captures(answer.body)]
        captures = [one for one in told if one is not None]
        return replace(
            snapshot,
            refunds=await self._aftersales.refunds(answer.body, snapshot.payment_id),
            disputes=await self._aftersales.disputes(captures),
        )

    async def authorize(self, ref: str, *, idempotency_key: str) -> Snapshot:
        """Reserve the money of the approved order. Declines read as in `capture`."""
        return await self._finish(ref, "authorize", idempotency_key)

    async def capture(self, ref: str, *, idempotency_key: str, amount: Money) -> Snapshot:
        """Capture the whole approved order, which is for `amount`, or `amount` of an authorized one.

        A declined instrument or a missing approval comes back as AWAITING_BUYER with a recoverable decline: the buyer
        goes to PayPal again with the same order. A final refusal comes back as FAILED. A declined capture of an
        authorization leaves the money reserved, so it comes back as AUTHORIZED with the decline.
        """
        wire.check_amount(amount)
        intent = self._intents.get(ref)
        if intent is None:
            await self.fetch(ref)
            intent = self._intents.get(ref)
        if intent == "AUTHORIZE":
            return await self._capture_authorization(ref, idempotency_key, amount)
        return await self._finish(ref, "capture", idempotency_key)

    async def void(self, ref: str) -> Snapshot:
        """Release the order's authorization, if it has one, and read the order.

        PayPal has no call to end an order without one, and it moves no money unless we capture it.
        """
        answer, before = await self._read(ref)
        authorization = wire.open_authorization(answer.body)
        if before.progress is not Progress.AUTHORIZED or authorization is None:
            return before
        path = f"/v2/payments/authorizations/{quote(authorization, safe='')}/void"
        try:
            done = await self._client.post(path, {}, request_id=f"void-{authorization}")
        except GatewayRefused as refusal:
            found = await self.fetch(ref)
            if found.progress is Progress.AUTHORIZED:
                raise refusal
            return found
        # PayPal answers this call with the authorization or with nothing at all, and both mean that it is void.
        news = replace(done, body={**done.body, "id": authorization, "status": "VOIDED"})
        newest = await self._read_after(ref, answer)
        return self._with_news(ref, newest, "authorizations", news)

    async def refund(
        self, ref: str, capture_ref: str, *, idempotency_key: str, amount: Money, refund_id: str
    ) -> RefundSnapshot:
        """Give `amount` of the capture back. Our `refund_id` travels as the refund's `custom_id`."""
        del ref  # PayPal finds the capture by its own id.
        wire.check_amount(amount)
        return await self._aftersales.refund(capture_ref, key=idempotency_key, amount=amount, refund_id=refund_id)

    async def read_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify the signature here, with PayPal's certificate, then read the event. Raises `errors.WebhookError`."""
        return await self._webhooks.read(headers, body)

    def component(self) -> Component:
        """`<paypal-payment>`: PayPal's button, its pop-up, and the way back."""
        return Component(
            element="paypal-payment",
            module="component.js",
            assets=Path(__file__).parent / "assets",
            attributes={"client-id": self._settings.client_id, "script-url": self._settings.js_url},
            csp=self._csp(),
            scripts=self._scripts(),
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

    def _scripts(self) -> dict[str, str]:
        scripts = {self._settings.js_url: "PayPal's SDK: draws the button and opens PayPal's window"}
        if not self._settings.js_url_is_ours:
            scripts |= dict.fromkeys(_PAYPAL_SOURCES, "what PayPal's SDK loads for itself")
        return scripts

    def _opened(self, snapshot: Snapshot) -> Opened:
        return Opened(snapshot, {"order_id": snapshot.ref, "client_id": self._settings.client_id})

    async def _read(self, ref: str) -> tuple[Answer, Snapshot]:
        answer = await self._client.get(_path(ref))
        return answer, self._snapshot(answer, ref)

    def _snapshot(self, answer: Answer, ref: str | None = None) -> Snapshot:
        """What the answered order says; `ref` is the order that was asked for, None where it is made by this call."""
        try:
            snapshot = wire.snapshot(answer.body, live=self._settings.live, request_id=answer.debug_id)
        except wire.Unreadable as error:
            raise OutcomeUnknown(f"PayPal's order can't be read: {error}", request_id=answer.debug_id) from error
        if ref is not None and snapshot.ref != ref:
            raise OutcomeUnknown("PayPal answered with another order than asked for", request_id=answer.debug_id)
        self._remember_intent(snapshot.ref, answer.body.get("intent"))
        return snapshot

    def _remember_intent(self, ref: str, intent: object) -> None:
        """Keep what `capture` has to know beforehand: one key must not go out for two different calls."""
        if isinstance(intent, str):
            self._intents[ref] = intent
        while len(self._intents) > _KNOWN_INTENTS:
            self._intents.pop(next(iter(self._intents)))

    async def _finish(self, ref: str, step: str, key: str) -> Snapshot:
        """Capture or authorize the order itself, by its intent."""
        try:
            answer = await self._client.post(f"{_path(ref)}/{step}", {}, request_id=key)
        except GatewayRefused as refusal:
            return await self._after_refusal(ref, refusal)
        try:
            return self._snapshot(answer, ref)
        except OutcomeUnknown as error:
            return await self._after_unreadable(ref, error)

    async def _after_unreadable(self, ref: str, unreadable: OutcomeUnknown) -> Snapshot:
        """Read the order after a call that was carried out, though its answer was `unreadable`.

        Raises that if the reading fails, or shows an untouched order because it lags: neither means "not captured".
        """
        try:
            found = await self.fetch(ref)
        except GatewayError as error:
            raise unreadable from error
        if found.progress in _UNTOUCHED:
            raise unreadable
        return found

    async def _capture_authorization(self, ref: str, key: str, amount: Money) -> Snapshot:
        answer, before = await self._read(ref)
        authorization = wire.open_authorization(answer.body)
        if before.progress is not Progress.AUTHORIZED or authorization is None:
            return before
        body = {"amount": wire.money_to_wire(amount), "final_capture": True}
        path = f"/v2/payments/authorizations/{quote(authorization, safe='')}/capture"
        try:
            made = await self._client.post(path, body, request_id=key)
        except GatewayRefused as refusal:
            return await self._after_refusal(ref, refusal)
        return await self._after_capture(ref, answer, made)

    async def _after_capture(self, ref: str, before: Answer, made: Answer) -> Snapshot:
        """The order after its authorization was captured, which is carried out whatever can be read of it.

        Raises `OutcomeUnknown` where neither the call's answer nor the reading tells what became of the capture: an
        order that does not show it looks as if the capture had been declined.
        """
        newest = await self._read_after(ref, before)
        if wire.shows(newest.body, "captures", made.body.get("id")):
            # The order's own words on a capture are as new as the call's, and more complete.
            return self._snapshot(newest, ref)
        try:
            return self._with_news(ref, newest, "captures", made)
        except OutcomeUnknown:
            found = self._snapshot(newest, ref)
            if found.progress not in _CAPTURE_SHOWS:
                raise
            return found

    async def _read_after(self, ref: str, before: Answer) -> Answer:
        """The order after a call that was carried out, or as it was `before` if it can't be read now."""
        try:
            return (await self._read(ref))[0]
        except GatewayError:
            return before

    def _with_news(self, ref: str, order: Answer, kind: str, news: Answer) -> Snapshot:
        """The order with a payment as the call told it: neither a lag nor an outage of the reading may hide `news`."""
        try:
            body = wire.with_payment(order.body, kind, news.body)
        except wire.Unreadable as error:
            raise OutcomeUnknown(f"PayPal's answer can't be read: {error}", request_id=news.debug_id) from error
        return self._snapshot(replace(order, body=body), ref)

    async def _after_refusal(self, ref: str, refusal: GatewayRefused) -> Snapshot:
        """Read the order after a refused capture and say what both mean. Raises the refusal if it is no news of it."""
        issue = refusal.code.upper()
        decline = wire.issue_decline(issue)
        if decline is None and issue not in wire.LOOK_UP_ISSUES | wire.RELEASED_ISSUES:
            raise refusal
        found = await self.fetch(ref)
        if found.progress is Progress.AUTHORIZED:
            return _still_authorized(found, refusal, decline)
        if found.progress in _MONEY_MAY_MOVE or (decline is None and found.progress is Progress.CANCELED):
            return found
        if decline is not None:
            progress = Progress.AWAITING_BUYER if decline.recoverable else Progress.FAILED
            return replace(found, progress=progress, decline=decline, request_id=refusal.request_id)
        if issue == "DUPLICATE_INVOICE_ID":
            raise refusal
        # PayPal said "captured", but its own reading of the order lags behind.
        return replace(found, progress=Progress.PROCESSING, pending_reason=issue)


def _still_authorized(found: Snapshot, refusal: GatewayRefused, decline: Decline | None) -> Snapshot:
    """What a refusal means for an order that reads as authorized, maybe because the reading lags behind."""
    issue = refusal.code.upper()
    if issue in wire.RELEASED_ISSUES:
        return replace(found, progress=Progress.CANCELED, raw_status=f"{found.raw_status}/{issue}")
    if issue == "AUTHORIZATION_DENIED":
        return replace(found, progress=Progress.FAILED, decline=decline, request_id=refusal.request_id)
    if decline is not None:
        return replace(found, decline=decline, request_id=refusal.request_id)
    if issue == "DUPLICATE_INVOICE_ID":
        raise refusal
    if issue == "ORDER_ALREADY_AUTHORIZED":
        return found
    return replace(found, progress=Progress.PROCESSING, pending_reason=issue)


def _path(ref: str) -> str:
    return "/v2/checkout/orders/" + quote(ref, safe="")
