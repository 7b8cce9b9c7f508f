"""What goes in and out as JSON. Input is strict: unknown fields, and floats or booleans for numbers, are refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from paidonce.checkout import PaymentView, Result, Started
from paidonce.payments import Payment
from paidonce.ports import SECOND, Microseconds
from paidonce.states import OrderStatus, PaymentStatus, RefundStatus
from paidonce.store import LARGEST_QUANTITY, MOST_LINES, OrderView, Product
from paidonce.web.accounts import User


class _In(BaseModel):
    # Errors must not repeat what was sent: it may be a password.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


Sku = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Secret = Annotated[SecretStr, Field(max_length=1000)]


class Credentials(_In):
    """Sign in."""

    email: Annotated[str, Field(max_length=254)]
    password: Secret


class NewUser(_In):
    """Sign up."""

    email: Annotated[str, Field(max_length=254)]
    name: Annotated[str, Field(max_length=100)]
    password: Secret


class NewLine(_In):
    """One product of a new order."""

    sku: Sku
    quantity: Annotated[int, Field(ge=1, le=LARGEST_QUANTITY)]


class NewOrder(_In):
    """What to order. Prices come from the catalogue. Lines with the same SKU are added up."""

    lines: Annotated[list[NewLine], Field(min_length=1, max_length=MOST_LINES)]


class NewPayment(_In):
    """Which gateway to pay with."""

    gateway: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]


class StockAdjustment(_In):
    """How many pieces came (positive) or are gone (negative)."""

    adjust: Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class Nothing(_In):
    """An empty object; the body may be left out as well."""


class UserOut(BaseModel):
    """The signed-in user."""

    id: str
    email: str
    name: str
    role: str

    @classmethod
    def of(cls, user: User) -> UserOut:
        """From the account."""
        return cls(id=user.id, email=user.email, name=user.name, role=user.role)


class ProductOut(BaseModel):
    """A product; `price` counts minor units (cents) of `currency`, `available` is what can be ordered now."""

    sku: str
    name: str
    description: str
    image: str
    price: int
    currency: str
    available: int

    @classmethod
    def of(cls, product: Product) -> ProductOut:
        """From the catalogue."""
        return cls(
            sku=product.sku,
            name=product.name,
            description=product.description,
            image=product.image,
            price=product.price.minor,
            currency=product.price.currency,
            available=product.available,
        )


class LineOut(BaseModel):
    """One line, at the price of the moment it was ordered."""

    sku: str
    name: str
    quantity: int
    unit_price: int


class PaymentSummary(BaseModel):
    """One attempt to pay an order."""

    id: str
    gateway: str
    status: PaymentStatus
    refund_status: RefundStatus


class PaymentOut(PaymentSummary):
    """A payment; `amount` counts minor units of `currency`."""

    order_id: str
    amount: int
    currency: str
    created_at: str

    @classmethod
    def of(cls, payment: PaymentView) -> PaymentOut:
        """From the core's view."""
        return cls(
            id=payment.id,
            gateway=payment.gateway,
            status=payment.status,
            refund_status=payment.refund_status,
            order_id=payment.order_id,
            amount=payment.amount.minor,
            currency=payment.amount.currency,
            created_at=iso(payment.created_at),
        )


class StartedOut(BaseModel):
    """An open payment and what the browser needs to confirm it; `client` depends on the gateway."""

    id: str
    gateway: str
    status: PaymentStatus
    client: dict[str, str]

    @classmethod
    def of(cls, started: Started) -> StartedOut:
        """From the core's answer."""
        payment = started.payment
        return cls(id=payment.id, gateway=payment.gateway, status=payment.status, client=dict(started.client))


class ResultOut(BaseModel):
    """What became of a payment. `recoverable`: the buyer may try again on the same order; `message` is for buyers."""

    status: PaymentStatus
    order_status: OrderStatus
    recoverable: bool
    message: str

    @classmethod
    def of(cls, result: Result) -> ResultOut:
        """From the core's answer."""
        return cls(
            status=result.payment.status,
            order_status=result.order_status,
            recoverable=result.recoverable,
            message=result.message,
        )


class OrderOut(BaseModel):
    """An order; `total` and `unit_price` count minor units of `currency`."""

    id: str
    number: str
    status: OrderStatus
    refund_status: RefundStatus
    total: int
    currency: str
    lines: list[LineOut]
    payments: list[PaymentSummary]
    created_at: str
    paid_at: str | None

    @classmethod
    def of(cls, order: OrderView, payments: Sequence[Payment]) -> OrderOut:
        """From the store's view and the attempts to pay it."""
        return cls(
            id=order.id,
            number=order.number,
            status=order.status,
            refund_status=order.refund_status,
            total=order.total.minor,
            currency=order.total.currency,
            lines=[
                LineOut(sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.unit_price.minor)
                for line in order.lines
            ],
            payments=[
                PaymentSummary(id=each.id, gateway=each.gateway, status=each.status, refund_status=each.refund_status)
                for each in payments
            ],
            created_at=iso(order.created_at),
            paid_at=None if order.paid_at is None else iso(order.paid_at),
        )


class OrderStatusOut(BaseModel):
    """An order's state after an action."""

    id: str
    status: OrderStatus


class ProblemOut(BaseModel):
    """A problem document (RFC 9457). Branch on `code`; `detail` is a sentence for the buyer."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry_after: int | None = None
    incident: str | None = None


def iso(moment: Microseconds) -> str:
    """A moment as ISO 8601 in UTC, to the millisecond."""
    return moment_of(moment).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(moment: Microseconds) -> datetime:
    """A moment as a date and time in UTC."""
    whole, rest = divmod(moment, SECOND)
    return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route, for its OpenAPI description."""
    return {status: {"model": ProblemOut, "description": "A problem document."} for status in statuses}
