"""What actions answer: a payment as its buyer sees it, and the sentence that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paidonce.declines import buyer_sentence
from paidonce.errors import AlreadyPaid
from paidonce.money import Money
from paidonce.payments import Operation, Payment
from paidonce.ports import Microseconds
from paidonce.states import OrderStatus, PaymentStatus, RefundStatus
from paidonce.store import PayableOrder

_CHECKING = "We are checking with your bank. You will not be charged twice; this page keeps you posted."
_SLOW = (
    "Your payment is on its way and your goods are reserved. Your bank needs some time for it, up to a few days. "
    "Please do not pay again; this page keeps you posted."
)
# A part of it may be there already, so none of these says that nothing was charged.
_TURN_BACK = "You can still choose another way to pay; what has arrived by then goes back to you."
_AWAITED = f"We are waiting for your money. {_TURN_BACK}"
AWAITED_WITH_GOODS = f"We are waiting for your money, and your goods are reserved. {_TURN_BACK}"
ENDED_WITH_MONEY = "The payment has ended. What has arrived of your money pays nothing, and you will get it back."
_GIVEN_BACK = "Your payment arrived after the goods were gone, or twice. It does not count, and you will get it back."
_SAYINGS = {
    PaymentStatus.CREATED: "The payment was not started yet. You have not been charged; please try again.",
    PaymentStatus.AWAITING_BUYER: "The payment is not confirmed yet. You have not been charged.",
    PaymentStatus.PROCESSING: _CHECKING,
    PaymentStatus.AUTHORIZED: "Your payment is reserved and will be completed by the shop.",
    PaymentStatus.CAPTURED: "Your payment has arrived. Thank you!",
    PaymentStatus.FAILED: "The payment did not go through. You have not been charged; please choose how to pay again.",
    PaymentStatus.CANCELED: "The payment was canceled. You have not been charged.",
    PaymentStatus.HELD: "Your payment needs a closer look by the shop. Please do not pay again; we will contact you.",
}


@dataclass(frozen=True, slots=True)
class PaymentView:
    """A payment as its buyer sees it. `created_at` is in microseconds."""

    id: str
    order_id: str
    gateway: str
    status: PaymentStatus
    refund_status: RefundStatus
    amount: Money
    created_at: Microseconds


@dataclass(frozen=True, slots=True)
class Started:
    """A payment that the buyer can confirm; `created` is False if it was open already."""

    payment: PaymentView
    client: Mapping[str, str] = field(repr=False)
    created: bool


@dataclass(frozen=True, slots=True)
class Result:
    """Where a payment stands, with a sentence for the buyer. `unknown` means that the gateway's word is outstanding."""

    payment: PaymentView
    order_status: OrderStatus
    recoverable: bool
    message: str
    unknown: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """A payment and its order as they stand, for an answer without further steps."""

    payment: Payment
    order: PayableOrder
    taking: Operation | None = None  # The capture or authorization that is recorded and not answered yet.
    unknown: bool = False


def result(payment: Payment, order: PayableOrder, *, unknown: bool = False) -> Result:
    """The answer for a payment that stands like this."""
    if unknown:
        return Result(view(payment), order.status, recoverable=False, message=_CHECKING, unknown=True)
    retry = payment.status is PaymentStatus.AWAITING_BUYER and payment.decline_code is not None
    return Result(
        payment=view(payment),
        order_status=order.status,
        recoverable=retry and payment.decline_recoverable,
        message=_message(payment, order),
        unknown=False,
    )


def _message(payment: Payment, order: PayableOrder) -> str:
    if payment.decline_code is not None:
        return buyer_sentence(payment.decline_code)
    if payment.status in (PaymentStatus.CANCELED, PaymentStatus.FAILED) and order.status is OrderStatus.PAID:
        return AlreadyPaid.default_message
    if payment.owed_to_buyer:
        return _GIVEN_BACK
    if payment.is_awaited:
        return _AWAITED
    if payment.status is PaymentStatus.PROCESSING and payment.pending_reason is not None:
        return _SLOW
    return _SAYINGS[payment.status]


def view(payment: Payment) -> PaymentView:
    """The payment as its buyer sees it."""
    return PaymentView(
        id=payment.id,
        order_id=payment.order_id,
        gateway=payment.gateway,
        status=payment.status,
        refund_status=payment.refund_status,
        amount=payment.amount,
        created_at=payment.created_at,
    )
