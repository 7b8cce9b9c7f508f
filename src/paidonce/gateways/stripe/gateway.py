"""Stripe behind the gateway protocol: a PaymentIntent, confirmed in the browser, captured there or later by us."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from paidonce.errors import GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import (
    Account,
    Component,
    CreateRequest,
    Finding,
    Needs,
    Opened,
    Progress,
    RefundSnapshot,
    Snapshot,
    Transport,
    WebhookEvent,
)
from paidonce.gateways.stripe import checkup, webhook, wire
from paidonce.gateways.stripe.client import Answer, StripeApi
from paidonce.gateways.stripe.settings import Settings, component_csp, component_scripts
from paidonce.money import Money
from paidonce.ports import Clock

_INTENTS = "/v1/payment_intents"
_DAY_SECONDS = 24 * 3600
# The fee stands in the charge's balance transaction; asking for it along costs no call.
_WITH_FEE = {"expand": ["latest_charge.balance_transaction"]}
_LARGEST_PAGE = 100
# No charge has thousands of refunds or disputes; a list without an end would never settle anything.
_MOST_PAGES = 50

T = TypeVar("T")


class StripeGateway:
    """`base.Gateway` for Stripe. The browser's confirmation moves the money; `capture` serves authorized intents."""

    name = "stripe"
    title = "Card"
    captures_in_browser = True
    can_void = True
    create_key_life_seconds = _DAY_SECONDS
    capture_key_life_seconds = _DAY_SECONDS
    refund_key_life_seconds = _DAY_SECONDS

    def __init__(self, settings: Settings, transport: Transport, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._api = StripeApi(settings.secret_key, settings.api_base, transport, clock)
        self._account: Account | None = None
        self._passing_keys = 0

    def check_amount(self, amount: Money) -> None:
        """Raise `money.MoneyError` if Stripe can't express `amount`. Its minimum is for Stripe to say."""
        wire.to_stripe(amount)

    async def account(self) -> Account:
        """The account behind the secret key, read once. A restricted key needs the right to read it."""
        if self._account is None:
            answer = await self._api.get("/v1/account")
            self._account = _readable(answer, lambda data: wire.account(data, live=self._settings.live))
        return self._account

    async def create(self, request: CreateRequest) -> Opened:
        """Create the PaymentIntent, unconfirmed. A key with another body is refused as `idempotency_mismatch`."""
        await self.account()
        answer = await self._api.post(_INTENTS, wire.create_params(request), idempotency_key=request.idempotency_key)
        return await self._opened(answer)

    async def reopen(self, ref: str) -> Opened:
        """Read the intent again, client secret included."""
        return await self._opened(await self._read(ref))

    async def fetch(self, ref: str, *, details: bool = False) -> Snapshot:
        """Read the intent with its fee; with `details` all refunds and disputes of the capture as well."""
        answer = await self._read(ref)
        snapshot = await self._snapshot(answer, ref)
        if not details:
            return snapshot
        if snapshot.progress is not Progress.CAPTURED:
            # Where nothing was captured nothing can go back; Stripe lists released reservations as refunds.
            return replace(snapshot, refunds=(), disputes=())
        refunds, disputes = await self._all("/v1/refunds", ref), await self._all("/v1/disputes", ref)
        return replace(
            snapshot,
            refunds=_readable(answer, lambda intent: wire.refunds(intent, refunds)),
            disputes=_readable(answer, lambda intent: wire.disputes(intent, disputes)),
        )

    async def authorize(self, ref: str, *, idempotency_key: str) -> Snapshot:
        """Always `GatewayRefused`: the browser's confirmation reserves the money already."""
        raise GatewayRefused("Stripe reserves the money when the buyer confirms", code="not_supported")

    async def capture(self, ref: str, *, idempotency_key: str, amount: Money) -> Snapshot:
        """Capture an authorized intent, all or a part. Whatever state it is in by now is a snapshot, not an error."""
        params = {"amount_to_capture": wire.to_stripe(amount)}
        return await self._act(ref, "capture", params, idempotency_key)

    async def void(self, ref: str) -> Snapshot:
        """Cancel the intent, or read it if it can't be canceled: it may have succeeded meanwhile."""
        # Canceling twice is harmless, so the key only has to join the tries of this one call. The answer of a cancel is
        # the intent as it is afterwards; a refusal leads to a fresh read.
        return await self._act(ref, "cancel", {}, self._passing_key("void", ref))

    async def refund(
        self, ref: str, capture_ref: str, *, idempotency_key: str, amount: Money, refund_id: str
    ) -> RefundSnapshot:
        """Give `amount` back. The intent has one charge that captured, so Stripe finds `capture_ref` by itself."""
        del capture_ref
        params = wire.refund_params(ref, amount, refund_id)
        answer = await self._api.post("/v1/refunds", params, idempotency_key=idempotency_key)
        return _readable(answer, lambda data: wire.refund(data, ref, request_id=answer.request_id))

    async def read_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify and reduce one event. Calls nobody: the account is compared only once it is known."""
        return webhook.read(
            headers.get(webhook.HEADER),
            body,
            secrets=[secret.get_secret_value() for secret in self._settings.webhook_secrets],
            now=self._clock.now(),
            live=self._settings.live,
            account=None if self._account is None else self._account.id,
        )

    def component(self) -> Component:
        """`<stripe-payment>`; card data goes from Stripe's frame to Stripe and never touches the shop's page."""
        return Component(
            element="stripe-payment",
            module="component.js",
            assets=Path(__file__).parent / "assets",
            attributes={"publishable-key": self._settings.publishable_key, "script-url": self._settings.js_url},
            csp=component_csp(self._settings),
            scripts=component_scripts(self._settings),
        )

    def attributes(self, amount: Money) -> Mapping[str, str]:
        """Amount and currency as Stripe's Elements want them. Raises `money.MoneyError` like `check_amount`."""
        return {"amount": str(wire.to_stripe(amount)), "currency": amount.currency.lower()}

    @property
    def live(self) -> bool:
        """Whether the keys are live ones."""
        return self._settings.live

    async def checkup(self, needs: Needs) -> Sequence[Finding]:
        """Account, webhook endpoint and its events."""
        return await checkup.findings(self._api, self._settings, needs)

    async def aclose(self) -> None:
        """Nothing to free: the transport is shared."""

    async def confirm_as_test_buyer(self, ref: str, *, payment_method: str, return_url: str) -> Snapshot:
        """Confirm with one of Stripe's test payment methods (`pm_card_visa`), for demonstrations without a browser.

        Raises `GatewayRefused` (code `live_mode`) with live keys. A decline is a snapshot.
        """
        if self._settings.live:
            raise GatewayRefused("test buyers don't pay in live mode", code="live_mode")
        params = {"payment_method": payment_method, "return_url": return_url}
        return await self._act(ref, "confirm", params, self._passing_key("confirm", ref))

    def _passing_key(self, action: str, ref: str) -> str:
        """A key for the tries of one call only: fresh after a restart, and the same again in a repeated simulation."""
        self._passing_keys += 1
        return f"{action}-{ref}-{self._clock.now()}-{self._passing_keys}"

    async def _act(self, ref: str, action: str, params: Mapping[str, Any], idempotency_key: str) -> Snapshot:
        path = f"{_INTENTS}/{quote(ref, safe='')}/{action}"
        try:
            answer = await self._api.post(path, {**params, **_WITH_FEE}, idempotency_key=idempotency_key)
        except GatewayRefused as refusal:
            # A decline or "not in this state": the intent itself says what happened. A mismatched key stays an alarm.
            if not wire.told_by_the_intent(refusal.code):
                raise
            answer = await self._read(ref)
        return await self._snapshot(answer, ref)

    async def _read(self, ref: str) -> Answer:
        return await self._api.get(f"{_INTENTS}/{quote(ref, safe='')}", _WITH_FEE)

    async def _all(self, path: str, ref: str) -> list[Mapping[str, Any]]:
        """The whole list of `path` for one intent, newest first as Stripe gives it."""
        items: list[Mapping[str, Any]] = []
        params: dict[str, Any] = {"payment_intent": ref, "limit": _LARGEST_PAGE}
        for _ in range(_MOST_PAGES):
            answer = await self._api.get(path, params)
            page, more = _readable(answer, wire.page)
            items += page
            if not more:
                return items
            params["starting_after"] = _readable(Answer(page[-1], answer.request_id), wire.object_id)
        raise OutcomeUnknown("Stripe's list has no end", request_id=answer.request_id)

    async def _opened(self, answer: Answer) -> Opened:
        snapshot = await self._snapshot(answer)
        secret = _readable(answer, wire.client_secret)
        return Opened(snapshot, {"client_secret": secret, "publishable_key": self._settings.publishable_key})

    async def _snapshot(self, answer: Answer, ref: str | None = None) -> Snapshot:
        account = await self.account()
        snapshot = _readable(answer, lambda data: wire.snapshot(data, account=account.id, request_id=answer.request_id))
        if ref is not None and snapshot.ref != ref:
            raise OutcomeUnknown("Stripe answered with another intent than asked for", request_id=answer.request_id)
        return snapshot


def _readable(answer: Answer, read: Callable[[Mapping[str, Any]], T]) -> T:
    try:
        return read(answer.data)
    except wire.WireError as error:
        # A success that can't be read may have been carried out all the same.
        raise OutcomeUnknown(f"Stripe's answer can't be read: {error}", request_id=answer.request_id) from None
