"""What the staff's page reads: payments that are held for a decision."""

from __future__ import annotations

from dataclasses import dataclass

from paidonce.money import Money
from paidonce.ports import Transaction

_HELD = """
SELECT p.id, p.order_id, o.number, p.gateway, p.gateway_ref, p.amount_minor, p.currency, p.held_reason
FROM payments p LEFT JOIN orders o ON o.id = p.order_id
WHERE p.status = 'held' ORDER BY p.updated_at DESC, p.id LIMIT 100
"""


@dataclass(frozen=True, slots=True)
class HeldPayment:
    """A payment whose gateway object contradicts ours, with what staff need to look it up at the gateway."""

    id: str
    order_id: str
    order_number: str
    gateway: str
    gateway_ref: str | None
    amount: Money
    held_reason: str | None


async def held_payments(tx: Transaction) -> list[HeldPayment]:
    """Held payments, newest first, at most 100."""
    return [
        HeldPayment(
            id=row["id"],
            order_id=row["order_id"],
            # A host may keep its orders elsewhere; the id still tells staff which one it is.
            order_number=row["number"] or row["order_id"],
            gateway=row["gateway"],
            gateway_ref=row["gateway_ref"],
            amount=Money(row["amount_minor"], row["currency"]),
            held_reason=row["held_reason"],
        )
        for row in await tx.fetch_all(_HELD)
    ]
