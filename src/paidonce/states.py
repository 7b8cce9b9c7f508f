"""The states of payments and orders, their transitions as data, and the pure function that moves along them."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class PaymentStatus(StrEnum):
    """The life of one attempt to pay, in the words used on the wire."""

    CREATED = "created"  # The intention is recorded; the gateway's object is not known yet.
    AWAITING_BUYER = "awaiting_buyer"  # The buyer has to confirm, approve, or try again after a decline.
    PROCESSING = "processing"  # A capture is under way, pending at the bank, or of unknown outcome.
    AUTHORIZED = "authorized"  # The money is reserved and waits for our capture.
    CAPTURED = "captured"  # The money has moved.
    FAILED = "failed"  # It ended without money.
    CANCELED = "canceled"  # It was ended by the buyer, by us, or by the gateway.
    HELD = "held"  # The gateway's object contradicts ours: an operator decides, nothing is paid by itself.


class OrderStatus(StrEnum):
    """The life of an order, in the words used on the wire."""

    OPEN = "open"
    PENDING = "pending"  # A payment is under way that may still succeed.
    PAID = "paid"
    CANCELED = "canceled"
    EXPIRED = "expired"


class RefundStatus(StrEnum):
    """How much of what was captured has gone back."""

    NONE = "none"
    PARTIAL = "partial"
    FULL = "full"


_P, _O = PaymentStatus, OrderStatus

PAYMENT_TRANSITIONS: dict[PaymentStatus, frozenset[PaymentStatus]] = {
    _P.CREATED: frozenset(
        {_P.AWAITING_BUYER, _P.PROCESSING, _P.AUTHORIZED, _P.CAPTURED, _P.FAILED, _P.CANCELED, _P.HELD}
    ),
    _P.AWAITING_BUYER: frozenset({_P.PROCESSING, _P.AUTHORIZED, _P.CAPTURED, _P.FAILED, _P.CANCELED, _P.HELD}),
    # A declined bank debit or instrument hands the payment back to the buyer.
    _P.PROCESSING: frozenset({_P.AWAITING_BUYER, _P.AUTHORIZED, _P.CAPTURED, _P.FAILED, _P.CANCELED, _P.HELD}),
    _P.AUTHORIZED: frozenset({_P.PROCESSING, _P.CAPTURED, _P.FAILED, _P.CANCELED, _P.HELD}),
    _P.HELD: frozenset({_P.CAPTURED, _P.FAILED, _P.CANCELED}),
    _P.CAPTURED: frozenset(),
    # Money that shows up behind an ended payment is a contradiction, and contradictions are held for an operator.
    _P.FAILED: frozenset({_P.HELD}),
    _P.CANCELED: frozenset({_P.HELD}),
}

ORDER_TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    _O.OPEN: frozenset({_O.PENDING, _O.PAID, _O.CANCELED, _O.EXPIRED}),
    _O.PENDING: frozenset({_O.OPEN, _O.PAID, _O.CANCELED, _O.EXPIRED}),
    _O.PAID: frozenset(),
    # A capture that arrives late takes stock again and pays the order after all, or is refunded.
    _O.CANCELED: frozenset({_O.PAID}),
    _O.EXPIRED: frozenset({_O.PAID}),
}

# The buyer or the gateway can still turn these into money.
OPEN_PAYMENTS = frozenset({_P.CREATED, _P.AWAITING_BUYER, _P.PROCESSING, _P.AUTHORIZED})

S = TypeVar("S", PaymentStatus, OrderStatus)


class IllegalTransition(AssertionError):
    """A move that the tables above don't contain: a bug, never a buyer's mistake."""


def advance(current: S, target: S) -> S:
    """`target` if it may follow `current` (or equals it); raises `IllegalTransition` otherwise."""
    if current == target or can_advance(current, target):
        return target
    raise IllegalTransition(f"{current} can't become {target}")


def can_advance(current: S, target: S) -> bool:
    """Whether the tables hold the move from `current` to `target`."""
    if isinstance(current, PaymentStatus):
        return target in PAYMENT_TRANSITIONS[current]
    return target in ORDER_TRANSITIONS[current]
