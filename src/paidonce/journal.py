"""The books: double entry, append-only, one entry per thing that happened at a gateway; and the history beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from paidonce.money import Money
from paidonce.ports import Ids, Microseconds, Transaction, write_later
from paidonce.statements import insert


class Account(StrEnum):
    """The accounts beside `gateway:<name>`, which stands for the merchant's balance at that gateway."""

    SALES = "sales"
    OWED_TO_BUYER = "owed_to_buyer"  # A surplus, or money for goods that are gone: to be refunded.
    SUSPENSE = "suspense"  # The gateway's object contradicts ours: an operator decides.
    GATEWAY_FEES = "gateway_fees"
    DISPUTED = "disputed"  # Withdrawn by the gateway until a dispute is decided.
    DISPUTE_LOSSES = "dispute_losses"


class Kind(StrEnum):
    """What happened at the gateway. Each happens to one object once."""

    CAPTURE = "capture"
    FEE = "fee"
    REFUND = "refund"
    REFUND_FAILED = "refund_failed"
    DISPUTE_OPENED = "dispute_opened"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    DISPUTE_REST = "dispute_rest"  # What was withdrawn only when it was lost.


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened to money: `amount` goes from the account `credit` to the account `debit`.

    `gateway_object` is the gateway's id of the capture, refund or dispute.
    """

    kind: Kind
    gateway: str
    gateway_object: str
    order_id: str
    payment_id: str
    amount: Money
    debit: str
    credit: str


@dataclass(frozen=True, slots=True)
class Posting:
    """What an entry does to one account, in minor units: a debit is positive, a credit negative."""

    account: str
    currency: str
    minor: int


_INSERT_ENTRY = """
INSERT INTO journal_entries (id, gateway, gateway_object, kind, order_id, payment_id, created_at)
VALUES (:id, :gateway, :gateway_object, :kind, :order_id, :payment_id, :now)
ON CONFLICT (gateway, gateway_object, kind) DO NOTHING
"""
_INSERT_HISTORY = """
INSERT INTO history (order_id, payment_id, event, detail, created_at)
VALUES (:order_id, :payment_id, :event, :detail, :now)
"""


def balance_at(gateway: str) -> str:
    """The account of the merchant's balance at a gateway."""
    return f"gateway:{gateway}"


async def book(tx: Transaction, entry: Entry, *, ids: Ids, now: Microseconds) -> bool:
    """Enter it; False if it stands there already. Debits equal credits by construction (invariant I6)."""
    currency, minor = entry.amount.currency, entry.amount.minor
    postings = (Posting(entry.debit, currency, minor), Posting(entry.credit, currency, -minor))
    return await enter(tx, entry, postings, ids=ids, now=now)


async def enter(tx: Transaction, entry: Entry, postings: Sequence[Posting], *, ids: Ids, now: Microseconds) -> bool:
    """Write an entry with its postings; False if it stands there already.

    Raises `AssertionError`, so that nothing of the transaction is kept, for postings that don't add up to zero.
    """
    _require_balance(entry, postings)
    entry_id = ids.new("jnl")
    inserted = await tx.execute(
        _INSERT_ENTRY,
        {
            "id": entry_id,
            "gateway": entry.gateway,
            "gateway_object": entry.gateway_object,
            "kind": str(entry.kind),
            "order_id": entry.order_id,
            "payment_id": entry.payment_id,
            "now": now,
        },
    )
    if not inserted:
        return False
    rows = [
        {"entry_id": entry_id, "account": one.account, "currency": one.currency, "amount_minor": one.minor}
        for one in postings
    ]
    await write_later(tx, *insert("journal_postings", rows))
    return True


def _require_balance(entry: Entry, postings: Sequence[Posting]) -> None:
    sums: Counter[str] = Counter()
    for one in postings:
        sums[one.currency] += one.minor
    off = {currency: minor for currency, minor in sums.items() if minor}
    if off or not postings:
        raise AssertionError(f"I6: the entry {entry.kind} of {entry.gateway_object} does not balance: {off}")


async def booked_amount(tx: Transaction, kind: Kind, gateway: str, gateway_object: str) -> Money | None:
    """What stands in the journal for that, or None."""
    row = await tx.fetch_one(
        "SELECT p.amount_minor, p.currency FROM journal_entries e JOIN journal_postings p ON p.entry_id = e.id"
        " WHERE e.gateway = :gateway AND e.gateway_object = :ref AND e.kind = :kind AND p.amount_minor > 0",
        {"gateway": gateway, "ref": gateway_object, "kind": str(kind)},
    )
    return None if row is None else Money(row["amount_minor"], row["currency"])


async def credited_account(tx: Transaction, gateway: str, capture_ref: str) -> str | None:
    """The account that a capture was booked to, from which refunds are taken again; None if it is not booked."""
    row = await tx.fetch_one(
        "SELECT p.account FROM journal_entries e JOIN journal_postings p ON p.entry_id = e.id"
        " WHERE e.gateway = :gateway AND e.gateway_object = :ref AND e.kind = 'capture' AND p.amount_minor < 0",
        {"gateway": gateway, "ref": capture_ref},
    )
    return None if row is None else str(row["account"])


async def last_noted(tx: Transaction, event: str, *, order_id: str, payment_id: str) -> Microseconds | None:
    """When `event` was last written into the history of a payment, or None."""
    row = await tx.fetch_one(
        "SELECT max(created_at) AS at FROM history"
        " WHERE order_id = :order_id AND payment_id = :payment_id AND event = :event",
        {"order_id": order_id, "payment_id": payment_id, "event": event},
    )
    return None if row is None else row["at"]


async def last_noted_about(tx: Transaction, event: str, *, order_id: str, about: str) -> Microseconds | None:
    """When `event` was last written into the history of an order with that `about` in its detail, or None."""
    rows = await tx.fetch_all(
        "SELECT created_at, detail FROM history WHERE order_id = :order_id AND event = :event ORDER BY seq DESC",
        {"order_id": order_id, "event": event},
    )
    return next((row["created_at"] for row in rows if json.loads(row["detail"]).get("about") == about), None)


async def details(tx: Transaction, prefix: str, *, order_id: str, payment_id: str) -> list[dict[str, Any]]:
    """The details of a payment's events whose names begin with `prefix`, oldest first."""
    rows = await tx.fetch_all(
        "SELECT detail FROM history WHERE order_id = :order_id AND payment_id = :payment_id AND event LIKE :pattern"
        " ORDER BY seq",
        {"order_id": order_id, "payment_id": payment_id, "pattern": f"{prefix}%"},
    )
    return [json.loads(row["detail"]) for row in rows]


async def note(
    tx: Transaction,
    event: str,
    *,
    order_id: str,
    now: Microseconds,
    payment_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add a line to the order's history. `detail` holds ids and words of the gateway, never secrets."""
    await write_later(
        tx,
        _INSERT_HISTORY,
        {
            "order_id": order_id,
            "payment_id": payment_id,
            "event": event,
            "detail": json.dumps(dict(detail or {}), sort_keys=True, separators=(",", ":")),
            "now": now,
        },
    )
