"""The cheap invariants, checked in production: at the end of each settling, in its transaction, on its locked rows.

What a gateway told stays booked whatever is found here: an operator is told, and nothing is rolled back. Only what we
are about to write ourselves, without any fact behind it, is refused. That stock is never negative (I3) is a constraint
of the database; that each entry balances (I6) is required where entries are written, by `journal.enter`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from paidonce import journal
from paidonce.case import Case
from paidonce.money import Money

_AGAIN_SECONDS = 24 * 3600

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold. `about` is our id of what it speaks of, `found` says the figures."""

    invariant: str
    about: str
    found: str
    next_step: str


# One whose money went back in full counts no more, which is how an operator ends the alarm. Both invariants are asked
# for by one statement, since this runs with each settling.
_CHECK_SQL = """
SELECT 'counts' AS what, id AS name, 0 AS minor FROM payments
WHERE order_id = :order_id AND status = 'captured' AND owed_to_buyer = 0 AND refund_status <> 'full'
UNION ALL
SELECT 'goes back' AS what, currency AS name, CAST(SUM(amount_minor) AS BIGINT) AS minor FROM refunds
WHERE payment_id = :payment_id AND state IN ('succeeded', 'pending') GROUP BY currency
"""
# PostgreSQL adds integers up to a decimal, which is no amount of ours.
_GOES_BACK_SQL = """
SELECT currency, CAST(SUM(amount_minor) AS BIGINT) AS minor FROM refunds
WHERE payment_id = :id AND state IN ('succeeded', 'pending', 'recorded') GROUP BY currency ORDER BY currency
"""


async def check(case: Case) -> None:
    """Tell the operator, once a day and cause, which invariants the case breaks now. Changes nothing else."""
    rows = await case.tx.fetch_all(_CHECK_SQL, {"order_id": case.order.id, "payment_id": case.payment.id})
    counting = sorted(str(row["name"]) for row in rows if row["what"] == "counts")
    back = {str(row["name"]): int(row["minor"]) for row in rows if row["what"] == "goes back"}
    for broken in (_counts_once(case, counting), await _goes_back_within(case, back)):
        if broken is not None:
            await tell(case, broken)


async def tell(case: Case, broken: Broken) -> None:
    """Raise the operator's alarm `invariant_broken`, unless it was raised about the same within a day."""
    log.error("invariant %s is broken: %s", broken.invariant, broken.found)
    await case.alarm(
        "invariant_broken",
        again_seconds=_AGAIN_SECONDS,
        about=broken.about,
        invariant=broken.invariant,
        reason=broken.found,
        next_step=broken.next_step,
    )


def _counts_once(case: Case, counting: Sequence[str]) -> Broken | None:
    """I2: at most one unreversed capture counts towards an order."""
    if len(counting) <= 1:
        return None
    listed = ", ".join(counting)
    return Broken(
        "I2",
        case.order.id,
        f"{len(counting)} captures count towards the order, where one may: {listed}",
        "Look these payments up at their gateways. Ship once, and refund in full what the buyer paid too much.",
    )


async def _goes_back_within(case: Case, back: dict[str, int]) -> Broken | None:
    """I5, by what the gateway has taken on: refunds that are only intended can still be refused there."""
    return await _more_than_captured(case, back) if back else None


async def without_room(case: Case, amount: Money) -> Broken | None:
    """I5, for a refund of `amount` beside all that went back, is going back or is intended; None if it has room."""
    back = await _goes_back(case)
    return await _more_than_captured(case, {**back, amount.currency: back.get(amount.currency, 0) + amount.minor})


async def require_room(case: Case, amount: Money) -> None:
    """Raise `AssertionError`, so that nothing is written, for a refund of `amount` that has no room."""
    broken = await without_room(case, amount)
    if broken is not None:
        raise AssertionError(f"{broken.invariant}: a refund of {amount} of {broken.about} is refused: {broken.found}")


async def _goes_back(case: Case) -> dict[str, int]:
    """Minor units by currency, those that are only intended included."""
    rows = await case.tx.fetch_all(_GOES_BACK_SQL, {"id": case.payment.id})
    return {str(row["currency"]): int(row["minor"]) for row in rows}


async def _more_than_captured(case: Case, back: dict[str, int]) -> Broken | None:
    """Compared with the journal, which keeps a capture also where it contradicts the payment's own amount."""
    payment = case.payment
    captured = None
    if payment.capture_ref is not None:
        captured = await journal.booked_amount(case.tx, journal.Kind.CAPTURE, payment.gateway, payment.capture_ref)
    room = {} if captured is None else {captured.currency: captured.minor}
    if all(minor <= room.get(currency, 0) for currency, minor in back.items()):
        return None
    going = ", ".join(str(Money(minor, currency)) for currency, minor in back.items())
    return Broken(
        "I5",
        payment.id,
        f"{going} would go back or went back, and {captured or 'nothing'} was captured",
        "Compare this payment's refunds with those at the gateway, and refund nothing more of it until that is clear.",
    )
