"""What goes in and out as JSON. Input is strict: unknown fields, and floats or booleans for numbers, are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator

from paidonce.aftersales import Dispute, Refund
from paidonce.checkout import PaymentView, Result, Started
from paidonce.gateways.base import LONGEST_STAFF_TEXT, StaffAction, StaffSheet
from paidonce.money import LARGEST_MINOR
from paidonce.payments import Payment
from paidonce.ports import SECOND, Microseconds
from paidonce.refunds import LONGEST_REASON, RefundResult
from paidonce.states import OrderStatus, PaymentStatus, RefundStatus
from paidonce.store import LARGEST_QUANTITY, MOST_LINES, OrderView, Product
from paidonce.web.accounts import User
from paidonce.web.origins import LONGEST_RETURN_URL

if TYPE_CHECKING:
    from paidonce.web.offers import Offer, Payable


class _In(BaseModel):
    # Errors must not repeat what was sent: it may be a password.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _can_be_kept(cls, value: Any) -> Any:
        texts = (*value, *value.values()) if isinstance(value, dict) else (value,)
        if any(isinstance(text, str) and "\x00" in text for text in texts):
            # PostgreSQL takes no text with it, and SQLite cuts some off there.
            raise ValueError("leave out the character NUL (U+0000)")
        return value


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


class Confirmation(_In):
    """The password of whoever is signed in, once more."""

    password: Secret


class NewPassword(_In):
    """A new password instead of the present one."""

    password: Secret
    new_password: Secret


class NewLine(_In):
    """One product of a new order."""

    sku: Sku
    quantity: Annotated[int, Field(ge=1, le=LARGEST_QUANTITY)]


class NewOrder(_In):
    """What to order. Prices come from the catalogue. Lines with the same SKU are added up."""

    lines: Annotated[list[NewLine], Field(min_length=1, max_length=MOST_LINES)]


class NewPayment(_In):
    """Which gateway to pay with, and where a redirect brings the buyer back to: the shop's own page if missing.

    `return_url` is absolute, leads to the shop or to a front end in PAIDONCE_ALLOWED_ORIGINS, and its query ends with
    `payment={payment}`, where the payment's id is put in. `challenge` is the answer to the shop's own challenge, after
    the problem `challenge_needed`.
    """

    gateway: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]
    return_url: Annotated[str, Field(max_length=LONGEST_RETURN_URL)] | None = None
    challenge: Annotated[str, Field(min_length=1, max_length=8192)] | None = None


class StockAdjustment(_In):
    """How many pieces came (positive) or are gone (negative)."""

    adjust: Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("write one line without control characters")
    return text


Amount = Annotated[int, Field(ge=1, le=LARGEST_MINOR)]
Reason = Annotated[str, Field(min_length=1, max_length=LONGEST_REASON), AfterValidator(_one_line)]


class NewRefund(_In):
    """How much to give back, in minor units (all that is left if missing), why, and whether the goods came back."""

    amount: Amount | None = None
    reason: Reason | None = None
    restock: bool = False


class NewCapture(_In):
    """How much of the reserved money to take, in minor units; all of it if missing."""

    amount: Amount | None = None


class StaffEntry(_In):
    """What staff enter about a payment: its fields, and the number of the sheet on which they decided it.

    Amounts count minor units of the payment's currency.
    """

    seen: Annotated[int, Field(ge=0, le=1_000_000)]
    params: Annotated[
        dict[Annotated[str, Field(max_length=40)], Amount | Annotated[str, Field(max_length=LONGEST_STAFF_TEXT)]],
        Field(max_length=10),
    ] = {}


class Nothing(_In):
    """An empty object; the body may be left out as well."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to pay with what became of its money. `changed_at`: when each refund last changed its state."""

    payment: Payment
    refunds: tuple[Refund, ...] = ()
    disputes: tuple[Dispute, ...] = ()
    changed_at: Mapping[str, Microseconds] = field(default_factory=dict)

    @property
    def disputed(self) -> bool:
        """Whether a dispute is open."""
        return any(dispute.state == "open" for dispute in self.disputes)


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


class RefundSummary(BaseModel):
    """A refund as the buyer sees it, without staff's reason; `amount` counts minor units of the order's currency."""

    id: str
    amount: int
    state: str


class PaymentSummary(BaseModel):
    """One attempt to pay an order, with what went back of it. `disputed`: the buyer's bank is deciding about it."""

    id: str
    gateway: str
    status: PaymentStatus
    refund_status: RefundStatus
    pending_reason: str | None
    disputed: bool
    refunds: list[RefundSummary]

    @classmethod
    def of(cls, attempt: Attempt) -> PaymentSummary:
        """From the attempt. The gateway's own ids stay inside."""
        payment = attempt.payment
        return cls(
            id=payment.id,
            gateway=payment.gateway,
            status=payment.status,
            refund_status=payment.refund_status,
            pending_reason=payment.pending_reason,
            disputed=attempt.disputed,
            refunds=[RefundSummary(id=one.id, amount=one.amount.minor, state=one.state) for one in attempt.refunds],
        )


class RefundOut(BaseModel):
    """A refund as staff see it. `state`: `recorded` (not confirmed yet), `pending`, `succeeded`, `failed`."""

    id: str
    payment_id: str
    amount: int
    currency: str
    state: str
    origin: str
    reason: str | None
    restock: bool
    failure: str | None
    created_at: str

    @classmethod
    def of(cls, refund: Refund) -> RefundOut:
        """From the core's row."""
        return cls(**_refund_fields(refund))


class RefundResultOut(RefundOut):
    """A refund that was just asked for; `message` is a sentence for staff."""

    message: str

    @classmethod
    def of_result(cls, result: RefundResult) -> RefundResultOut:
        """From the core's answer."""
        return cls(**_refund_fields(result.refund), message=result.message)


def _refund_fields(refund: Refund) -> dict[str, Any]:
    return {
        "id": refund.id,
        "payment_id": refund.payment_id,
        "amount": refund.amount.minor,
        "currency": refund.amount.currency,
        "state": refund.state,
        "origin": refund.origin,
        "reason": refund.reason,
        "restock": refund.restock,
        "failure": refund.failure_reason,
        "created_at": iso(refund.created_at),
    }


class PaymentOut(BaseModel):
    """A payment; `amount` counts minor units of `currency`."""

    id: str
    gateway: str
    status: PaymentStatus
    refund_status: RefundStatus
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


class PaymentMethodOut(BaseModel):
    """A way to pay: put `attributes` on `element`, which the ES module at `module` (a path of this shop) defines.

    `unavailable` says to the buyer why this order can't be paid this way; otherwise it is null.
    """

    gateway: str
    title: str
    element: str
    module: str
    attributes: dict[str, str]
    unavailable: str | None

    @classmethod
    def of(cls, offer: Offer) -> PaymentMethodOut:
        """From the offer."""
        return cls(
            gateway=offer.name,
            title=offer.title,
            element=offer.element,
            module=offer.module,
            attributes=dict(offer.attributes),
            unavailable=offer.unavailable,
        )


class PaymentMethodsOut(BaseModel):
    """The ways to pay an order; `amount` counts minor units of `currency`."""

    order_id: str
    amount: int
    currency: str
    methods: list[PaymentMethodOut]

    @classmethod
    def of(cls, order: Payable, offers: Sequence[Offer]) -> PaymentMethodsOut:
        """From the order and its offers."""
        return cls(
            order_id=order.id,
            amount=order.total.minor,
            currency=order.total.currency,
            methods=[PaymentMethodOut.of(offer) for offer in offers],
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


class StaffParamOut(BaseModel):
    """A field of an entry; `kind` is `amount` (minor units) or `text`."""

    name: str
    label: str
    kind: str
    required: bool
    hint: str


class StaffActionOut(BaseModel):
    """Something that staff can enter about a payment now. `given` goes back in `params` unchanged."""

    name: str
    title: str
    summary: str
    params: list[StaffParamOut]
    given: dict[str, str]

    @classmethod
    def of(cls, action: StaffAction) -> StaffActionOut:
        """From the gateway's offer."""
        params = [
            StaffParamOut(name=one.name, label=one.label, kind=one.kind, required=one.required, hint=one.hint)
            for one in action.params
        ]
        return cls(
            name=action.name, title=action.title, summary=action.summary, params=params, given=dict(action.given)
        )


class FactOut(BaseModel):
    """One line of what is known."""

    label: str
    text: str


class StaffSheetOut(BaseModel):
    """What staff can know and enter about a payment now; `seen` goes back with an entry."""

    seen: int
    facts: list[FactOut]
    to_do: str | None
    actions: list[StaffActionOut]

    @classmethod
    def of(cls, sheet: StaffSheet | None) -> StaffSheetOut:
        """From the gateway's sheet; empty for a gateway that needs no staff."""
        if sheet is None:
            return cls(seen=0, facts=[], to_do=None, actions=[])
        return cls(
            seen=sheet.seen,
            facts=[FactOut(label=label, text=text) for label, text in sheet.facts],
            to_do=sheet.to_do,
            actions=[StaffActionOut.of(action) for action in sheet.actions],
        )


class OrderOut(BaseModel):
    """An order; amounts count minor units of `currency`. `due` is less than `total` once only a part was captured."""

    id: str
    number: str
    status: OrderStatus
    refund_status: RefundStatus
    total: int
    due: int
    currency: str
    lines: list[LineOut]
    payments: list[PaymentSummary]
    created_at: str
    paid_at: str | None

    @classmethod
    def of(cls, order: OrderView, attempts: Sequence[Attempt]) -> OrderOut:
        """From the store's view and the attempts to pay it."""
        return cls(
            id=order.id,
            number=order.number,
            status=order.status,
            refund_status=order.refund_status,
            total=order.total.minor,
            due=order.due.minor,
            currency=order.total.currency,
            lines=[
                LineOut(sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.unit_price.minor)
                for line in order.lines
            ],
            payments=[PaymentSummary.of(attempt) for attempt in attempts],
            created_at=iso(order.created_at),
            paid_at=None if order.paid_at is None else iso(order.paid_at),
        )


class OrderStatusOut(BaseModel):
    """An order's state after an action."""

    id: str
    status: OrderStatus


class ExplainedOrder(BaseModel):
    """The order's head. `expires_at`: when it closes by itself, while it is open."""

    id: str
    number: str
    status: OrderStatus
    refund_status: RefundStatus
    total: int
    due: int
    currency: str
    expires_at: str | None


class ExplainedBalance(BaseModel):
    """What stands on one account for the order."""

    account: str
    amount: int
    currency: str
    meaning: str


class ExplainedLine(BaseModel):
    """One thing that happened; `ids` are for whoever looks it up."""

    at: str
    source: str
    who: str
    what: str
    payment_id: str | None
    ids: dict[str, str]


class NextActionOut(BaseModel):
    """The one safe next step. `act` is false where waiting is all there is to do."""

    code: str
    act: bool
    what: str
    payment_id: str | None
    look_at: str | None


class ExplainedRefund(BaseModel):
    """A refund with the gateway's object."""

    id: str
    object: str | None
    amount: int
    state: str
    origin: str
    reason: str | None
    failure: str | None


class ExplainedDispute(BaseModel):
    """A dispute. `withdrawn`: the gateway has taken the amount back."""

    object: str
    amount: int
    state: str
    withdrawn: bool
    reason: str | None


class ExplainedPayment(BaseModel):
    """An attempt to pay, with the gateway's objects and when recovery looks at it next."""

    id: str
    gateway: str
    status: PaymentStatus
    refund_status: RefundStatus
    amount: int
    captured: int
    left_to_refund: int
    currency: str
    object: str | None
    capture: str | None
    pending_reason: str | None
    held_reason: str | None
    disputed: bool
    look_at: str | None
    refunds: list[ExplainedRefund]
    disputes: list[ExplainedDispute]


class ExplanationOut(BaseModel):
    """An order explained, for staff: what happened, where the money is, and what to do next."""

    order: ExplainedOrder
    payments: list[ExplainedPayment]
    money: list[ExplainedBalance]
    timeline: list[ExplainedLine]
    next_action: NextActionOut | None


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


@cache
def _problem_schema() -> dict[str, Any]:
    return ProblemOut.model_json_schema()


def problem_responses(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route, for its OpenAPI description; `default` is every answer that is not named."""
    # Written out, since FastAPI describes a model as plain JSON, and a host's own document does not know ours.
    content = {"application/problem+json": {"schema": _problem_schema()}}
    return {status: {"description": "A problem document.", "content": content} for status in statuses}
