"""A bank transfer behind the gateway protocol. Nobody can be asked, so its truth is what staff wrote down."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from paidonce.errors import (
    ChangedMeanwhile,
    GatewayBusy,
    GatewayMisconfigured,
    GatewayRefused,
    InvalidRequest,
    WebhookRefused,
)
from paidonce.gateways.bank_transfer import desk, ledger
from paidonce.gateways.bank_transfer.ledger import Asked, SentBack, Transfer
from paidonce.gateways.bank_transfer.settings import Settings, in_groups
from paidonce.gateways.base import (
    Account,
    CaptureMethod,
    Component,
    CreateRequest,
    Notes,
    Opened,
    Progress,
    RefundSnapshot,
    Snapshot,
    StaffSheet,
    WebhookEvent,
)
from paidonce.money import Money, MoneyError, iso_exponent, to_decimal_string
from paidonce.ports import SECOND, Clock, Microseconds

_DAY = 24 * 3600
# Without letters that look like digits: people copy references from paper.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_SUFFIX_LENGTH = 3
# Banks carry 35 characters at least; what is not a letter, a digit or a hyphen is changed by some on the way.
_LONGEST_NUMBER = 24
_REFERENCES = 20
# How often a refund that meets another entry is decided anew.
_TURNS = 20
# A transfer that was made on the last day is under way over a weekend and a holiday.
GRACE_DAYS = 5


class BankTransferGateway:
    """`base.Gateway`, `base.KeepsNotes`, `base.PaidElsewhere` and `base.StaffDesk` for transfers.

    Money can come at any time without a call of ours, as with a browser that holds a card payment's secret: so
    `captures_in_browser` is True, and a transfer keeps its order's capture right until it is closed.
    """

    name = "bank_transfer"
    title = "Bank transfer"
    captures_in_browser = True
    can_void = True
    # A notebook forgets no key.
    create_key_life_seconds = 3650 * _DAY
    capture_key_life_seconds = 3650 * _DAY
    refund_key_life_seconds = 3650 * _DAY

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._notebook: Notes | None = None

    def use_notes(self, notes: Notes) -> None:
        """See `base.KeepsNotes`."""
        self._notebook = notes

    def check_amount(self, amount: Money) -> None:
        """Raise `money.MoneyError` for a currency that the account does not take."""
        if amount.currency not in self._settings.currencies:
            raise MoneyError(f"the account takes {', '.join(self._settings.currencies)} only")
        if amount.minor < 1:
            raise MoneyError("a transfer is at least one minor unit")

    @property
    def live(self) -> bool:
        """Whether real money can arrive on the account."""
        return self._settings.live

    async def account(self) -> Account:
        """The account that is shown to buyers."""
        return Account(self._settings.iban, self._settings.live)

    async def create(self, request: CreateRequest) -> Opened:
        """Write down what the buyer is asked for. The reference to transfer with is the object's own id."""
        self._refuse_what_cannot_be(request)
        for ref in _references(request):
            transfer = await self._ask(ref, request)
            if transfer.asked.key == request.idempotency_key:
                return self._opened(_same(transfer, request))
        raise GatewayBusy("no reference is free for this order")

    async def reopen(self, ref: str) -> Opened:
        """The account and the reference again."""
        return self._opened(await self._transfer(ref))

    async def fetch(self, ref: str, *, details: bool = False) -> Snapshot:
        """What the notes add up to now; with `details` the refunds. There are no disputes and no fees."""
        return self._snapshot(await self._transfer(ref), details=details)

    async def authorize(self, ref: str, *, idempotency_key: str) -> Snapshot:
        """Always `GatewayRefused`: nobody reserves money on somebody else's account."""
        raise GatewayRefused("money can't be reserved by a bank transfer", code="not_supported")

    async def capture(self, ref: str, *, idempotency_key: str, amount: Money) -> Snapshot:
        """Read: money that is not there can't be taken, and money that is there has moved already."""
        return await self.fetch(ref)

    async def void(self, ref: str) -> Snapshot:
        """Close it, unless all the money is there. Part of the money that is there is a surplus from then on."""
        transfer = await self._transfer(ref)
        if not transfer.captured and not transfer.is_over(self._clock.now()):
            text = "The buyer is not asked for this transfer any more."
            await self._notes.append(ref, ledger.CLOSED, "{}", text=text, key="close", by="paidonce")
        return self._snapshot(await self._transfer(ref))

    async def refund(
        self, ref: str, capture_ref: str, *, idempotency_key: str, amount: Money, refund_id: str
    ) -> RefundSnapshot:
        """Write down that staff have to send `amount` back. It is PENDING until they say that they did."""
        for _ in range(_TURNS):
            transfer = await self._transfer(ref)
            known = next((one for one in transfer.refunds.values() if one.key == idempotency_key), None)
            if known is not None:
                return _refund_snapshot(transfer, _same_refund(known, amount, refund_id))
            _refuse_refund(transfer, capture_ref, amount, refund_id)
            value = ledger.dump({"refund": refund_id, "amount": amount.minor})
            text = f"{amount} are to be sent back to the buyer by hand ({refund_id})."
            try:
                await self._notes.append(
                    ref,
                    ledger.REFUND_ASKED,
                    value,
                    text=text,
                    key=idempotency_key,
                    by="paidonce",
                    seen=transfer.seen,
                )
            except ChangedMeanwhile:
                continue
        raise GatewayBusy("others write about this transfer all the time")

    async def read_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Always `WebhookRefused`: no bank sends us any."""
        raise WebhookRefused("bank transfers have no webhooks")

    def component(self) -> Component:
        """`<bank-transfer-payment>`. The account is shown once the buyer has chosen it."""
        return Component(
            element="bank-transfer-payment",
            module="component.js",
            assets=Path(__file__).parent / "assets",
            attributes={"days": str(self._settings.days)},
            csp={},
        )

    def attributes(self, amount: Money) -> Mapping[str, str]:
        """None; raises `money.MoneyError` like `check_amount`."""
        self.check_amount(amount)
        return {}

    async def aclose(self) -> None:
        """Nothing to free."""

    # ── What a buyer and staff say ──────────

    async def promise(self, ref: str) -> None:
        """The buyer says that he will transfer the money."""
        transfer = await self._transfer(ref)
        if transfer.promised or transfer.captured or transfer.is_over(self._clock.now()):
            return
        text = "The buyer says that he transfers the money."
        await self._notes.append(ref, ledger.PROMISED, "{}", text=text, key="promise", by="buyer")

    async def staff_sheet(self, ref: str) -> StaffSheet:
        """Reference, receipts, what is to be sent back, and what can be entered now."""
        return desk.sheet(await self._transfer(ref), now=self._clock.now())

    async def act(self, ref: str, name: str, params: Mapping[str, str | int], *, seen: int, key: str, by: str) -> None:
        """Write down what staff say. See `base.StaffDesk`."""
        transfer = await self._transfer(ref)
        repeated = any(note.key == key for note in await self._notes.read(ref))
        if not repeated:
            desk.check(transfer, name, params, seen=seen, now=self._clock.now())
        elif name not in desk.NAMES:
            raise InvalidRequest("Idempotency-Key: it was used for another entry. Use a new one for a new entry.")
        text = desk.in_words(transfer, name, params)
        await self._notes.append(ref, name, ledger.dump(params), text=text, key=key, by=by, seen=seen)

    # ── Reading and writing ──────────

    @property
    def _notes(self) -> Notes:
        assert self._notebook is not None, "whoever builds the core hands out the notebooks: notes.hand_out(core)"
        return self._notebook

    async def _transfer(self, ref: str) -> Transfer:
        transfer = ledger.add_up(await self._notes.read(ref))
        if transfer is None:
            raise GatewayMisconfigured("nothing is written about this transfer: is it another shop's database?")
        return transfer

    def _refuse_what_cannot_be(self, request: CreateRequest) -> None:
        if request.capture_method is CaptureMethod.MANUAL:
            raise GatewayRefused(
                "money can't be reserved by a bank transfer", code="not_supported", buyer_message=_OTHER
            )
        try:
            self.check_amount(request.amount)
        except MoneyError as error:
            raise GatewayRefused(str(error), code="amount_not_supported", buyer_message=_OTHER) from error

    async def _ask(self, ref: str, request: CreateRequest) -> Transfer:
        """The transfer under `ref`: the one that stands there, or the new one."""
        known = ledger.add_up(await self._notes.read(ref))
        if known is not None:
            return known
        asked = self._asked(request)
        text = f"The buyer is asked to transfer {request.amount} with the reference {ref}."
        # Somebody else may be first, perhaps this very call repeated; what stands there decides.
        with contextlib.suppress(ChangedMeanwhile, InvalidRequest):
            await self._notes.append(
                ref,
                ledger.ASKED,
                ledger.asked_value(asked),
                text=text,
                key=request.idempotency_key,
                by="paidonce",
                seen=0,
            )
        return await self._transfer(ref)

    def _asked(self, request: CreateRequest) -> Asked:
        settings, now = self._settings, self._clock.now()
        return Asked(
            payment_id=request.payment_id,
            order_id=request.order_id,
            amount=request.amount,
            iban=settings.iban,
            holder=settings.holder,
            bic=settings.bic,
            bank=settings.bank,
            live=settings.live,
            due_at=now + settings.days * _DAY * SECOND,
            closes_at=now + (settings.days + GRACE_DAYS) * _DAY * SECOND,
            key=request.idempotency_key,
        )

    def _opened(self, transfer: Transfer) -> Opened:
        asked = transfer.asked
        told = {
            "holder": asked.holder,
            "iban": in_groups(asked.iban),
            "bic": asked.bic,
            "bank": asked.bank,
            "reference": transfer.ref,
            "amount": to_decimal_string(asked.amount.minor, iso_exponent(asked.amount.currency)),
            "currency": asked.amount.currency,
            "until": _day(asked.due_at),
            "promised": "yes" if transfer.promised else "",
            "received": str(transfer.there) if transfer.there.minor else "",
        }
        return Opened(self._snapshot(transfer), {name: value for name, value in told.items() if value})

    def _snapshot(self, transfer: Transfer, *, details: bool = False) -> Snapshot:
        asked, now = transfer.asked, self._clock.now()
        progress = _progress(transfer, now)
        waits = progress is Progress.AWAITING_BUYER and (transfer.promised or transfer.there.minor > 0)
        return Snapshot(
            gateway=self.name,
            ref=transfer.ref,
            progress=progress,
            amount=asked.amount,
            payment_id=asked.payment_id,
            order_id=asked.order_id,
            account=asked.iban,
            live=asked.live,
            raw_status=_in_a_word(transfer, now),
            captured=asked.amount if transfer.captured else None,
            capture_ref=transfer.ref if transfer.captured else None,
            pending_reason=_reason(transfer) if waits else None,
            awaited_until=asked.closes_at if waits else None,
            surplus=transfer.surplus(now),
            refunds=tuple(_refund_snapshot(transfer, one) for one in transfer.refunds.values()) if details else None,
            disputes=() if details else None,
        )


_OTHER = "This order can't be paid by bank transfer. You have not been charged; please pay another way."


def _references(request: CreateRequest) -> Iterator[str]:
    """What the buyer may be asked to write: the order's number, and a few characters that tell its payments apart.

    They come from the create's key, so that a repetition finds the first; and a mistyped reference fits nothing.
    """
    number = re.sub(r"[^A-Z0-9-]+", "", request.order_number.upper()).strip("-")[:_LONGEST_NUMBER]
    for turn in range(_REFERENCES):
        digest = hashlib.sha256(f"{request.idempotency_key} {turn}".encode()).digest()
        suffix = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:_SUFFIX_LENGTH])
        yield f"{number}-{suffix}" if number else f"ORDER-{suffix}"


def _same(transfer: Transfer, request: CreateRequest) -> Transfer:
    asked = transfer.asked
    before = (asked.payment_id, asked.order_id, asked.amount)
    if before != (request.payment_id, request.order_id, request.amount):
        raise GatewayRefused("this key was used for another transfer", code="idempotency_mismatch")
    return transfer


def _same_refund(known: SentBack, amount: Money, refund_id: str) -> SentBack:
    if (known.refund_id, known.minor) != (refund_id, amount.minor):
        raise GatewayRefused("this key was used for another refund", code="idempotency_mismatch")
    return known


def _refuse_refund(transfer: Transfer, capture_ref: str, amount: Money, refund_id: str) -> None:
    if not transfer.captured or capture_ref != transfer.ref:
        raise GatewayRefused("the money of this transfer has not arrived", code="not_captured")
    if refund_id in transfer.refunds:
        raise GatewayRefused("this refund stands there under another key", code="refund_known")
    fits = amount.currency == transfer.asked.amount.currency and 0 < amount.minor <= transfer.refundable
    if not fits:
        raise GatewayRefused("less than that is left of this transfer", code="more_than_is_left")


def _refund_snapshot(transfer: Transfer, refund: SentBack) -> RefundSnapshot:
    return RefundSnapshot(
        ref=f"{transfer.ref}-{refund.refund_id}",
        progress=refund.progress,
        amount=Money(refund.minor, transfer.asked.amount.currency),
        refund_id=refund.refund_id,
        raw_status=refund.progress.value,
        failure_reason=refund.reason,
    )


def _progress(transfer: Transfer, now: Microseconds) -> Progress:
    if transfer.captured:
        return Progress.CAPTURED
    return Progress.CANCELED if transfer.is_over(now) else Progress.AWAITING_BUYER


def _in_a_word(transfer: Transfer, now: Microseconds) -> str:
    if transfer.captured:
        return "received"
    if transfer.is_over(now):
        return "closed" if transfer.closed else "overdue"
    if transfer.there.minor > 0:
        return "partly_received"
    return "promised" if transfer.promised else "shown"


def _reason(transfer: Transfer) -> str:
    waits = f"a bank transfer with the reference {transfer.ref}, due by {_day(transfer.asked.due_at)}"
    return f"{waits}; {transfer.there} of {transfer.asked.amount} are there" if transfer.there.minor else waits


def _day(moment: Microseconds) -> str:
    return datetime.fromtimestamp(moment // SECOND, UTC).date().isoformat()
