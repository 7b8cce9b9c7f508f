"""What the notes about one transfer add up to. Pure: the same notes always give the same state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paidonce.gateways.base import Note, RefundProgress
from paidonce.money import Money
from paidonce.ports import Microseconds

# The kinds of notes. Those that staff write carry the name of their action.
ASKED, PROMISED, CLOSED, REFUND_ASKED = "asked", "promised", "closed", "refund_asked"
RECEIVED, MISTAKEN, SENT_BACK = "money_received", "entered_by_mistake", "surplus_sent_back"
REFUND_SENT, REFUND_FAILED = "refund_sent", "refund_failed"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the buyer was asked for, and what he was told; later settings don't change it. Times are microseconds."""

    payment_id: str
    order_id: str
    amount: Money
    iban: str
    holder: str
    bic: str
    bank: str
    live: bool
    due_at: Microseconds  # By then the buyer has to have sent the money.
    closes_at: Microseconds  # By then it has to have arrived.
    key: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Money that staff found on the account."""

    number: int  # Of its note.
    minor: int
    remark: str
    by: str
    at: Microseconds
    mistaken: bool = False


@dataclass(frozen=True, slots=True)
class SentBack:
    """A refund that staff carry out by hand."""

    refund_id: str
    minor: int
    key: str
    progress: RefundProgress = RefundProgress.PENDING
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer as far as the notes tell. `captured` stays true once all that was due had been there."""

    ref: str
    asked: Asked
    seen: int = 0
    promised: bool = False
    closed: bool = False
    captured: bool = False
    receipts: tuple[Receipt, ...] = ()
    returned_minor: int = 0
    refunds: Mapping[str, SentBack] = field(default_factory=dict)

    @property
    def there(self) -> Money:
        """What came and was not sent back as a surplus."""
        came = sum(one.minor for one in self.receipts if not one.mistaken)
        return Money(came - self.returned_minor, self.asked.amount.currency)

    @property
    def unused_minor(self) -> int:
        """Minor units that are there and have paid nothing."""
        return self.there.minor - (self.asked.amount.minor if self.captured else 0)

    @property
    def refundable(self) -> int:
        """Minor units of what was captured and is neither refunded nor about to be."""
        back = sum(one.minor for one in self.refunds.values() if one.progress is not RefundProgress.FAILED)
        return self.asked.amount.minor - back if self.captured else 0

    def is_over(self, now: Microseconds) -> bool:
        """Whether the buyer is not asked for the money any more."""
        return self.closed or now >= self.asked.closes_at

    def surplus(self, now: Microseconds) -> Money | None:
        """The buyer's money beyond what was captured, once it can't become part of a capture by itself; else None."""
        if self.captured:
            return self.there - self.asked.amount
        return self.there if self.is_over(now) else None


def add_up(notes: Sequence[Note]) -> Transfer | None:
    """The transfer that `notes` tell of, oldest first; None for no notes."""
    if not notes:
        return None
    transfer = Transfer(notes[0].ref, _asked(notes[0]))
    for note in notes:
        transfer = replace(_FOLD[note.kind](transfer, note, json.loads(note.value)), seen=note.number)
    return transfer


def asked_value(asked: Asked) -> str:
    """The value of the first note."""
    return dump(
        {
            "payment": asked.payment_id,
            "order": asked.order_id,
            "amount": asked.amount.minor,
            "currency": asked.amount.currency,
            "iban": asked.iban,
            "holder": asked.holder,
            "bic": asked.bic,
            "bank": asked.bank,
            "live": asked.live,
            "due_at": asked.due_at,
            "closes_at": asked.closes_at,
        }
    )


def dump(value: Mapping[str, Any]) -> str:
    """The same value always as the same text."""
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"))


def _asked(note: Note) -> Asked:
    value = json.loads(note.value)
    return Asked(
        payment_id=value["payment"],
        order_id=value["order"],
        amount=Money(value["amount"], value["currency"]),
        iban=value["iban"],
        holder=value["holder"],
        bic=value["bic"],
        bank=value["bank"],
        live=value["live"],
        due_at=value["due_at"],
        closes_at=value["closes_at"],
        key=note.key,
    )


def _received(transfer: Transfer, note: Note, value: Mapping[str, Any]) -> Transfer:
    receipt = Receipt(note.number, value["amount"], value.get("remark", ""), note.by, note.at)
    grown = replace(transfer, receipts=(*transfer.receipts, receipt))
    return replace(grown, captured=grown.captured or grown.there.minor >= grown.asked.amount.minor)


def _mistaken(transfer: Transfer, _note: Note, value: Mapping[str, Any]) -> Transfer:
    wrong = int(value["receipt"])
    receipts = tuple(replace(one, mistaken=True) if one.number == wrong else one for one in transfer.receipts)
    return replace(transfer, receipts=receipts)


def _sent_back(transfer: Transfer, _note: Note, value: Mapping[str, Any]) -> Transfer:
    return replace(transfer, returned_minor=transfer.returned_minor + value["amount"])


def _refund_asked(transfer: Transfer, note: Note, value: Mapping[str, Any]) -> Transfer:
    refund = SentBack(value["refund"], value["amount"], note.key)
    return replace(transfer, refunds={**transfer.refunds, refund.refund_id: refund})


def _refund_sent(transfer: Transfer, _note: Note, value: Mapping[str, Any]) -> Transfer:
    return _with_refund(transfer, value["refund"], RefundProgress.SUCCEEDED, None)


def _refund_failed(transfer: Transfer, _note: Note, value: Mapping[str, Any]) -> Transfer:
    return _with_refund(transfer, value["refund"], RefundProgress.FAILED, value["reason"])


def _with_refund(transfer: Transfer, refund_id: str, progress: RefundProgress, reason: str | None) -> Transfer:
    refund = replace(transfer.refunds[refund_id], progress=progress, reason=reason)
    return replace(transfer, refunds={**transfer.refunds, refund_id: refund})


_FOLD = {
    ASKED: lambda transfer, _note, _value: transfer,
    PROMISED: lambda transfer, _note, _value: replace(transfer, promised=True),
    CLOSED: lambda transfer, _note, _value: replace(transfer, closed=True),
    RECEIVED: _received,
    MISTAKEN: _mistaken,
    SENT_BACK: _sent_back,
    REFUND_ASKED: _refund_asked,
    REFUND_SENT: _refund_sent,
    REFUND_FAILED: _refund_failed,
}
