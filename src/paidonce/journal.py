"""The books: double entry, append-only, one entry per thing that happened at a gateway; and the history beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from paidonce.money import Money
from paidonce.ports import Ids, Microseconds, Transaction


class Account(StrEnum):
    """Where captured money stands on the credit side. The debit side is `gateway:<name>`."""

    SALES = "sales"
    OWED_TO_BUYER = "owed_to_buyer"  # A surplus, or money for goods that are gone: to be refunded.
    SUSPENSE = "suspense"  # The gateway's object contradicts ours: an operator decides.


@dataclass(frozen=True, slots=True)
class Captured:
    """One capture at a gateway, as the journal keeps it."""

    gateway: str
    capture_ref: str
    order_id: str
    payment_id: str
    amount: Money
    credit: Account


_INSERT_ENTRY = """
INSERT INTO journal_entries (id, gateway, gateway_object, kind, order_id, payment_id, created_at)
VALUES (:id, :gateway, :gateway_object, 'capture', :order_id, :payment_id, :now)
ON CONFLICT (gateway, gateway_object, kind) DO NOTHING
"""
_INSERT_POSTING = """
INSERT INTO journal_postings (entry_id, account, currency, amount_minor)
VALUES (:entry_id, :account, :currency, :amount_minor)
"""
_INSERT_HISTORY = """
INSERT INTO history (order_id, payment_id, event, detail, created_at)
VALUES (:order_id, :payment_id, :event, :detail, :now)
"""


async def book_capture(tx: Transaction, captured: Captured, *, ids: Ids, now: Microseconds) -> bool:
    """Enter a capture; False if it stands there already. Debits equal credits by construction (invariant I6)."""
    entry_id = ids.new("jnl")
    inserted = await tx.execute(
        _INSERT_ENTRY,
        {
            "id": entry_id,
            "gateway": captured.gateway,
            "gateway_object": captured.capture_ref,
            "order_id": captured.order_id,
            "payment_id": captured.payment_id,
            "now": now,
        },
    )
    if not inserted:
        return False
    currency, minor = captured.amount.currency, captured.amount.minor
    sides = ((f"gateway:{captured.gateway}", minor), (str(captured.credit), -minor))
    await tx.execute_many(
        _INSERT_POSTING,
        [
            {"entry_id": entry_id, "account": account, "currency": currency, "amount_minor": signed}
            for account, signed in sides
        ],
    )
    return True


async def last_noted(tx: Transaction, event: str, *, order_id: str, payment_id: str) -> Microseconds | None:
    """When `event` was last written into the history of a payment, or None."""
    row = await tx.fetch_one(
        "SELECT max(created_at) AS at FROM history"
        " WHERE order_id = :order_id AND payment_id = :payment_id AND event = :event",
        {"order_id": order_id, "payment_id": payment_id, "event": event},
    )
    return None if row is None else row["at"]


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
    await tx.execute(
        _INSERT_HISTORY,
        {
            "order_id": order_id,
            "payment_id": payment_id,
            "event": event,
            "detail": json.dumps(dict(detail or {}), sort_keys=True, separators=(",", ":")),
            "now": now,
        },
    )
