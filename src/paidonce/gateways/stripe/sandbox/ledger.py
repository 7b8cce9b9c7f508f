"""The merchant's balance at the twin: movements as Stripe shows them, fees, and the books for comparison."""

from __future__ import annotations

from typing import Any

from paidonce.gateways.base import BookEntry
from paidonce.gateways.stripe.sandbox import amounts
from paidonce.gateways.stripe.sandbox.amounts import STEPS
from paidonce.gateways.stripe.sandbox.store import Record, Store

# Charged per capture, in thousandths of the amount and in minor units of the payment's currency.
FEE_PER_MILLE = 15
FEE_FIXED = 25
_AVAILABLE_AFTER_SECONDS = 7 * 24 * 3600


def fee_of(amount: int, currency: str) -> int:
    """What the twin keeps of a capture of `amount`: 1.5 % and 25 minor units, rounded half up, never more than all."""
    # Currencies that are sent with decimals they don't have keep whole units only.
    step = 100 if STEPS.get(currency) == 100 else 1
    return min(amount, ((amount // step * FEE_PER_MILLE + 500) // 1000 + FEE_FIXED) * step)


class Ledger:
    """Writes a movement (balance transaction) and its entry in the books for each thing that moves money."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def capture(self, charge: Record, now: int) -> str:
        """The captured amount comes in and the fee goes out. Returns the movement's id."""
        item = charge["object"]
        amount, currency = item["amount_captured"], item["currency"]
        fee = fee_of(amount, currency)
        movement = self._move(charge, "charge", item["id"], amount, now, fee=fee)
        self._book(charge, item["id"], "capture", amount)
        self._book(charge, item["id"], "fee", -fee)
        return str(movement["id"])

    def refund(self, charge: Record, refund: dict[str, Any], now: int) -> str:
        """A refund goes out. Returns the movement's id."""
        movement = self._move(charge, "refund", refund["id"], -refund["amount"], now)
        self._book(charge, refund["id"], "refund", -refund["amount"])
        return str(movement["id"])

    def refund_failed(self, charge: Record, refund: dict[str, Any], now: int) -> str:
        """A refund that had gone out comes back. Returns the movement's id."""
        movement = self._move(charge, "refund_failure", refund["id"], refund["amount"], now)
        self._book(charge, refund["id"], "refund_failed", refund["amount"])
        return str(movement["id"])

    def dispute_withdrawn(self, charge: Record, dispute: dict[str, Any], now: int) -> dict[str, Any]:
        """The disputed amount is taken. Returns the movement, which disputes hold whole."""
        self._book(charge, dispute["id"], "dispute_opened", -dispute["amount"])
        return self._move(charge, "adjustment", dispute["id"], -dispute["amount"], now, category="dispute")

    def dispute_reinstated(self, charge: Record, dispute: dict[str, Any], now: int) -> dict[str, Any]:
        """The disputed amount is given back. Returns the movement."""
        self._book(charge, dispute["id"], "dispute_won", dispute["amount"])
        return self._move(charge, "adjustment", dispute["id"], dispute["amount"], now, category="dispute_reversal")

    def dispute_lost(self, charge: Record, dispute: dict[str, Any]) -> None:
        """What was taken stays taken."""
        self._book(charge, dispute["id"], "dispute_lost", 0)

    def books(self) -> tuple[BookEntry, ...]:
        """All entries, oldest first."""
        return tuple(BookEntry(**entry) for entry in self._store.state["books"])

    def _move(
        self,
        charge: Record,
        kind: str,
        source: str,
        amount: int,
        now: int,
        *,
        fee: int = 0,
        category: str | None = None,
    ) -> dict[str, Any]:
        currency = charge["object"]["currency"]
        details = {"amount": fee, "application": None, "currency": currency, "description": "Processing fees"}
        movement = {
            "id": self._store.new_id("txn", now),
            "object": "balance_transaction",
            "amount": amount,
            "available_on": now // 1_000_000 + _AVAILABLE_AFTER_SECONDS,
            "balance_type": "payments",
            "created": now // 1_000_000,
            "currency": currency,
            "description": None,
            "exchange_rate": None,
            "fee": fee,
            "fee_details": [{**details, "type": "stripe_fee"}] if fee else [],
            "net": amount - fee,
            "reporting_category": category or kind,
            "source": source,
            "status": "pending",
            "type": kind,
        }
        self._store.add(movement, charge["account"])
        return movement

    def _book(self, charge: Record, ref: str, kind: str, amount: int) -> None:
        item = charge["object"]
        money = amounts.money(amount, item["currency"])
        entry = BookEntry(ref, kind, money.minor, money.currency, item["metadata"].get("payment_id"))
        names = ("object", "kind", "minor", "currency", "payment_id")
        self._store.state["books"].append({name: getattr(entry, name) for name in names})
