"""When recovery looks at a payment next: one pure function over the payment's state, so that nothing is forgotten.

Whoever changes a payment asks it, inside the same transaction; so a crash at any point leaves a row that is due.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from paidonce.core import Policy
from paidonce.leases import backoff_seconds
from paidonce.payments import Payment
from paidonce.ports import SECOND, Microseconds
from paidonce.states import PaymentStatus, RefundStatus

_MINUTE, _HOUR, _DAY = 60, 3600, 24 * 3600

# The first wait and the longest one, in seconds. Rates stay far below the gateways' limits, while money that a buyer
# waits for is found within minutes.
_WAITS = {
    PaymentStatus.CREATED: (2 * _MINUTE, _HOUR),
    PaymentStatus.AWAITING_BUYER: (_MINUTE, 5 * _MINUTE),
    PaymentStatus.PROCESSING: (_MINUTE, 6 * _HOUR),
    PaymentStatus.AUTHORIZED: (_HOUR, 6 * _HOUR),
    PaymentStatus.HELD: (5 * _MINUTE, _DAY),
}
_HELD_DAYS = 30


class Unfinished(StrEnum):
    """What is still open behind a payment, and so how often recovery looks at it."""

    NOTHING = "nothing"
    OURS = "ours"  # A void or refund that we have to carry out.
    THEIRS = "theirs"  # A refund or dispute that the gateway decides, in days.
    DOUBT = "doubt"  # It ended although we had asked for its money once: read again for some weeks.


_UNFINISHED_WAITS = {Unfinished.OURS: (30, _HOUR), Unfinished.THEIRS: (5 * _MINUTE, 6 * _HOUR)}


def next_look(
    policy: Policy, payment: Payment, *, now: Microseconds, unfinished: Unfinished = Unfinished.NOTHING
) -> Microseconds | None:
    """When `payment`, looked at `payment.tries` times since its last news, is due again; None: never.

    `unfinished` says whether a refund, void or dispute behind it is still open.
    """
    if unfinished in _UNFINISHED_WAITS:
        first, longest = _UNFINISHED_WAITS[unfinished]
    elif is_audit(payment, unfinished):
        return _next_audit(policy, payment, now)
    elif payment.status not in _WAITS or _is_over(payment, now):
        return None
    else:
        # Money that comes by itself is looked for like a bank's.
        first, longest = _WAITS[PaymentStatus.PROCESSING if payment.is_awaited else payment.status]
        if payment.status is PaymentStatus.AWAITING_BUYER:
            first = policy.first_look_seconds
    return now + backoff_seconds(payment.tries + 1, first=first, longest=longest, salt=payment.id) * SECOND


def is_audit(payment: Payment, unfinished: Unfinished) -> bool:
    """Whether nothing is expected of the payment any more, and it is read only to be sure."""
    ended = payment.status in (PaymentStatus.FAILED, PaymentStatus.CANCELED)
    # The money of a held payment that went back can still come again, by a refund that fails weeks later.
    sent_back = payment.status is PaymentStatus.HELD and payment.refund_status is RefundStatus.FULL
    settled = (payment.status is PaymentStatus.CAPTURED or sent_back) and unfinished is Unfinished.NOTHING
    return settled or (ended and unfinished is Unfinished.DOUBT)


def _is_over(payment: Payment, now: Microseconds) -> bool:
    """A held payment that nobody has touched for a month needs no more looks."""
    return payment.status is PaymentStatus.HELD and now - payment.created_at > _HELD_DAYS * _DAY * SECOND


def _next_audit(policy: Policy, payment: Payment, now: Microseconds) -> Microseconds | None:
    if payment.tries >= len(policy.audit_days):
        return None
    before = policy.audit_days[payment.tries - 1] if payment.tries else 0
    return now + (policy.audit_days[payment.tries] - before) * _DAY * SECOND


def rescheduled(
    policy: Policy, payment: Payment, *, now: Microseconds, unfinished: Unfinished = Unfinished.NOTHING
) -> Payment:
    """`payment` with news: its count of looks begins again."""
    fresh = replace(payment, tries=0)
    return replace(fresh, due_at=next_look(policy, fresh, now=now, unfinished=unfinished))
