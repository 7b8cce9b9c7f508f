"""Mollie behind the gateway protocol: a payment at its hosted checkout (Payments API v2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

from paidonce.errors import GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import (
    Account,
    Component,
    CreateRequest,
    DisputeSnapshot,
    Finding,
    Needs,
    Opened,
    Progress,
    RefundSnapshot,
    Snapshot,
    WebhookEvent,
)
from paidonce.gateways.mollie import checkup, webhook, wire
from paidonce.gateways.mollie.client import MollieClient
from paidonce.gateways.mollie.settings import Settings
from paidonce.money import Money
from paidonce.ports import Clock

# Mollie remembers a key for an hour (https://docs.mollie.com/overview/api-idempotency). The margin keeps a repeat away
# from the edge, where Mollie might have forgotten it by the time the request arrives.
KEY_LIFE_SECONDS = 3600 - 300
_LARGEST_PAGE = 250
# No payment has thousands of refunds; a list without an end would never settle anything.
_MOST_PAGES = 20

Json = Mapping[str, Any]
P = ParamSpec("P")
T = TypeVar("T")


class MollieGateway:
    """`base.Gateway` for Mollie. The buyer's browser moves the money, at Mollie's own pages.

    Mollie lets few open payments be canceled, so `void` often finds the payment as it was; it ends by itself then,
    most within the hour. A failed payment is final: the buyer tries again on a new one.
    """

    name = "mollie"
    title = "Mollie"
    captures_in_browser = True
    can_void = True
    create_key_life_seconds = KEY_LIFE_SECONDS
    capture_key_life_seconds = KEY_LIFE_SECONDS
    refund_key_life_seconds = KEY_LIFE_SECONDS

    def __init__(self, settings: Settings, client: MollieClient, clock: Clock) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._account: Account | None = None
        self._deliveries = 0

    def check_amount(self, amount: Money) -> None:
        """Raise `MoneyError` if Mollie can't express `amount`. Its limits per method are for Mollie to say."""
        wire.check_amount(amount)

    async def account(self) -> Account:
        """The profile that the key belongs to, read once; every payment's `profileId` is compared with it."""
        if self._account is None:
            body = await self._client.get("/v2/profiles/me")
            self._account = Account(_readable(wire.profile, body), self._settings.live)
        return self._account

    @property
    def live(self) -> bool:
        """Whether the key is a live one."""
        return self._settings.live

    async def checkup(self, needs: Needs) -> Sequence[Finding]:
        """The profile, its methods, and whether webhooks can come."""
        return await checkup.findings(self._client, self._settings, needs)

    async def create(self, request: CreateRequest) -> Opened:
        """Create the payment. With CaptureMethod.MANUAL it can be paid by card only."""
        body = wire.payment_request(request, webhooks_reach_loopback=self._settings.beside_us)
        made = await self._client.post("/v2/payments", body, key=request.idempotency_key)
        opened = self._opened(made, _snapshot(made))
        if not opened.client and opened.snapshot.progress is Progress.AWAITING_BUYER:
            raise OutcomeUnknown("Mollie's payment has no address where it can be paid")
        return opened

    async def reopen(self, ref: str) -> Opened:
        """Read the payment again; once there is nothing to pay any more, the browser gets no address."""
        payment, snapshot = await self._read(ref)
        return self._opened(payment, snapshot)

    async def fetch(self, ref: str, *, details: bool = False) -> Snapshot:
        """Read the payment; with `details` all its refunds and chargebacks as well. The fee is not told here."""
        _, snapshot = await self._read(ref)
        if not details:
            return snapshot
        if snapshot.progress is not Progress.CAPTURED:
            return replace(snapshot, refunds=(), disputes=())
        refunds: tuple[RefundSnapshot, ...] = await self._all(ref, "refunds", wire.refund)
        disputes: tuple[DisputeSnapshot, ...] = await self._all(ref, "chargebacks", wire.chargeback)
        return replace(snapshot, refunds=refunds, disputes=disputes)

    async def authorize(self, ref: str, *, idempotency_key: str) -> Snapshot:
        """Always `GatewayRefused`: the buyer's confirmation reserves the money already."""
        raise GatewayRefused("Mollie reserves the money when the buyer confirms", code="not_supported")

    async def capture(self, ref: str, *, idempotency_key: str, amount: Money) -> Snapshot:
        """Capture reserved money, all or a part; the rest is released. Whatever state it is in by now is a snapshot."""
        body = wire.capture_request(amount)
        try:
            made = await self._client.post(f"{_path(ref)}/captures", body, key=idempotency_key)
        except GatewayRefused as refusal:
            found = await self.fetch(ref)
            if found.progress is Progress.AUTHORIZED:
                raise refusal
            return found
        return await self._after_capture(ref, _readable(wire.capture, made, ref))

    async def _after_capture(self, ref: str, made: wire.Capture) -> Snapshot:
        """How the payment stands once Mollie has taken a capture on, by this call or by an earlier one with its key.

        While the capture is pending, no `capture_ref` is told: it can still fail. So the caller keeps the key and asks
        again, and Mollie repeats its first answer, whatever became of the capture since.
        """
        payment, snapshot = await self._read(ref)
        if _readable(wire.holds_a_rest, payment):
            await self._release(ref)
            payment, snapshot = await self._read(ref)
        if snapshot.progress is Progress.AUTHORIZED and not (made.failed or await self._has_failed(ref, made.id)):
            # The payment does not show what Mollie has just taken on. Calling it refused would let it be taken twice.
            return _capturing(snapshot)
        return snapshot

    async def _has_failed(self, ref: str, capture_id: str) -> bool:
        return any(one.failed for one in await self._captures(ref) if one.id == capture_id)

    async def _captures(self, ref: str) -> tuple[wire.Capture, ...]:
        return await self._all(ref, "captures", partial(wire.capture, ref=ref))

    async def void(self, ref: str) -> Snapshot:
        """Release reserved money, or cancel an open payment where Mollie allows that; then read what came of it.

        An open payment that Mollie lets nobody cancel is returned as it is: the buyer can still pay it until it
        expires, so the core keeps its capture right and asks again. So is one whose capture is pending.
        """
        payment, snapshot = await self._read(ref)
        try:
            if snapshot.progress is Progress.AUTHORIZED:
                await self._release(ref)
            elif wire.is_cancelable(payment):
                await self._client.delete(_path(ref))
            else:
                return snapshot
        except GatewayRefused:
            # It went another way between reading and acting; what it says now is the answer.
            pass
        return await self.fetch(ref)

    async def _release(self, ref: str) -> None:
        # Releasing twice means the same, so one key for all of them is right.
        await self._client.post(f"{_path(ref)}/release-authorization", None, key=f"release-{ref}", may_be_empty=True)

    async def refund(
        self, ref: str, capture_ref: str, *, idempotency_key: str, amount: Money, refund_id: str
    ) -> RefundSnapshot:
        """Give `amount` back. Our `refund_id` travels in the refund's metadata."""
        del capture_ref  # A payment is captured once here, so its own id says it.
        wire.check_amount(amount)
        body = wire.refund_request(amount, refund_id)
        made = await self._client.post(f"{_path(ref)}/refunds", body, key=idempotency_key)
        return replace(_readable(wire.refund, made), refund_id=refund_id)

    async def read_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """The id that a delivery names. Nobody signs it, so it claims nothing. Raises `WebhookRefused`."""
        del headers
        self._deliveries += 1
        return webhook.read(body, now=self._clock.now(), number=self._deliveries)

    def component(self) -> Component:
        """`<mollie-payment>`: a button that leads to Mollie's checkout. It loads nothing from elsewhere."""
        return Component(
            element="mollie-payment",
            module="component.js",
            assets=Path(__file__).parent / "assets",
            attributes={},
            csp={},
        )

    def attributes(self, amount: Money) -> Mapping[str, str]:
        """None are needed. Raises `MoneyError` like `check_amount`."""
        wire.check_amount(amount)
        return {}

    async def aclose(self) -> None:
        """Nothing to free: the transport is shared."""

    def _opened(self, payment: Json, snapshot: Snapshot) -> Opened:
        link = _readable(wire.checkout_url, payment, loopback=self._settings.beside_us)
        return Opened(snapshot, {} if link is None else {"checkout_url": link})

    async def _read(self, ref: str) -> tuple[Json, Snapshot]:
        payment = await self._client.get(_path(ref))
        snapshot = _snapshot(payment)
        if snapshot.ref != ref:
            raise OutcomeUnknown("Mollie answered with another payment than asked for")
        if snapshot.progress is Progress.AUTHORIZED and not all(one.failed for one in await self._captures(ref)):
            # The payment itself does not tell of a capture that waits, and its money must not be taken a second time.
            return payment, _capturing(snapshot)
        return payment, snapshot

    async def _all(self, ref: str, kind: str, read: Callable[[Json], T]) -> tuple[T, ...]:
        """The whole list of a payment's `kind`, oldest first."""
        items: list[Json] = []
        query = f"?limit={_LARGEST_PAGE}"
        for _ in range(_MOST_PAGES):
            body = await self._client.get(f"{_path(ref)}/{kind}", query)
            found, begins = _readable(wire.page, body, kind)
            items += found
            if begins is None:
                return tuple(_readable(read, one) for one in _readable(wire.oldest_first, items))
            query = f"?limit={_LARGEST_PAGE}&from={quote(begins, safe='')}"
        raise OutcomeUnknown(f"Mollie's list of {kind} has no end")


def _path(ref: str) -> str:
    return "/v2/payments/" + quote(ref, safe="")


def _capturing(reserved: Snapshot) -> Snapshot:
    return replace(reserved, progress=Progress.PROCESSING, pending_reason="capture pending")


def _snapshot(payment: Json) -> Snapshot:
    return _readable(wire.snapshot, payment)


def _readable(read: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    try:
        return read(*args, **named)
    except wire.Unreadable as error:
        # A success that can't be read may have been carried out all the same.
        raise OutcomeUnknown(f"Mollie's answer can't be read: {error}") from None
