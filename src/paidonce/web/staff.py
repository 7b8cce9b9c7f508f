"""The staff's pages: what needs a decision, and one order with its story, its money, and what can be done about it.

Everything works by plain forms. A form that moves money carries a key that was made with the page, so that a double
click, or a form that is sent again, is one refund.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from starlette.responses import Response

from paidonce import audit, captures, desk, explain, payments, refunds
from paidonce.core import Core
from paidonce.errors import (
    ChangedMeanwhile,
    ConfirmationNeeded,
    Forbidden,
    GatewayUnavailable,
    InvalidRequest,
    NotAuthorized,
    NotFound,
    NotSignedIn,
    PaymentDisputed,
    PaymentInProgress,
    RefundTooLarge,
    SoldOut,
    TooManyAttempts,
)
from paidonce.explain import Explanation
from paidonce.gateways.base import LONGEST_STAFF_TEXT, StaffSheet
from paidonce.money import Money
from paidonce.payments import Payment
from paidonce.ports import Transaction
from paidonce.results import Result
from paidonce.states import PaymentStatus
from paidonce.store import Store
from paidonce.web import accounts, api, auth, views
from paidonce.web.accounts import User
from paidonce.web.api import ActionName, CoreDep, OrderId, PaymentId, ShopDep
from paidonce.web.auth import MaybeUser
from paidonce.web.forms import read_amount, read_form, to_sign_in, told
from paidonce.web.shop import Shop

_STAFF_ONLY = "This page is for the shop's staff."
_LONGEST_SEARCH = 200
_LONGEST_NUMBER = 8

_HELD = """
SELECT id, order_id, gateway, gateway_ref, amount_minor, currency, held_reason
FROM payments WHERE status = 'held' ORDER BY updated_at DESC, id LIMIT 100
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


async def held_payments(tx: Transaction, store: Store) -> list[HeldPayment]:
    """Held payments, newest first, at most 100."""
    held = []
    for row in await tx.fetch_all(_HELD):
        order = await store.find(tx, row["order_id"], lock=False)
        held.append(
            HeldPayment(
                id=row["id"],
                order_id=row["order_id"],
                # An order may be gone; the id still tells staff which one it was.
                order_number=row["order_id"] if order is None else order.number,
                gateway=row["gateway"],
                gateway_ref=row["gateway_ref"],
                amount=Money(row["amount_minor"], row["currency"]),
                held_reason=row["held_reason"],
            )
        )
    return held


async def disputed_orders(tx: Transaction) -> frozenset[str]:
    """The ids of all orders with an open dispute."""
    rows = await tx.fetch_all("SELECT DISTINCT order_id FROM disputes WHERE state = 'open'")
    return frozenset(row["order_id"] for row in rows)


# ── Looking ──────────


async def overview(request: Request, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """Stock, payments that need a decision, and the latest orders."""
    if user is None:
        return to_sign_in("/staff")
    _require_staff(user)
    return views.page(
        request,
        "staff.html",
        user=user,
        products=await core.db.read(shop.store.list_products),
        held=await core.db.read(held_payments, core.store),
        orders=await core.db.read(shop.store.latest_orders),
        disputed=await core.db.read(disputed_orders),
    )


async def find_order(request: Request, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """To the order that the search names: by its number, or by any id of it, ours or a gateway's."""
    if user is None:
        return to_sign_in("/staff")
    _require_staff(user)
    text = request.query_params.get("find", "")[:_LONGEST_SEARCH]
    found = await core.db.read(explain.find_order, core.store, text)
    if found is None:
        return told(shop, "/staff", "No order has this number, and no payment or refund this id.", "error")
    return views.go_to(f"/staff/orders/{found}")


async def order_page(request: Request, order_id: OrderId, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """One order: what to do, where its money is, what happened, and the forms for refund, capture and void."""
    if user is None:
        return to_sign_in(f"/staff/orders/{order_id}")
    _require_staff(user)
    return await _order_page(request, order_id, user, shop)


@dataclass(frozen=True, slots=True)
class _Again:
    """A refund that waits for the password: its form is shown again with all that was typed but the password."""

    payment_id: str
    form: Mapping[str, str]
    why: str


async def _order_page(
    request: Request, order_id: str, user: User, shop: Shop, *, again: _Again | None = None
) -> Response:
    core = shop.running
    found = await core.db.read(explain.explain, core, order_id)
    if found is None:
        raise NotFound("We could not find this order.")
    done = await core.db.read(_audit_of, found.order.id)
    return views.page(
        request,
        "staff-order.html",
        user=user,
        status=200 if again is None else ConfirmationNeeded.status,
        again=again,
        second_look=_second_look(core, found, user, again),
        audit=done,
        names=await core.db.read(accounts.names, {one.actor for one in done}),
        found=found,
        titles={name: gateway.title for name, gateway in shop.gateways.items()},
        nothing_anywhere=explain.money_in_words(found),
        # One key for each form of this very page.
        keys={one.payment.id: core.ids.new("form") for one in found.payments},
        longest_reason=refunds.LONGEST_REASON,
        sheets={one.payment.id: await _sheet(core, one.payment.id, user) for one in found.payments},
        longest_text=LONGEST_STAFF_TEXT,
    )


def _second_look(core: Core, found: Explanation, user: User, again: _Again | None) -> frozenset[str]:
    """The payments whose refund form asks for the password, because giving back all that is left needs it."""
    needed = {
        one.payment.id
        for one in found.payments
        if not user.confirmed and refunds.needs_second_look(core.policy, one.refunds, one.left)
    }
    return frozenset(needed | ({again.payment_id} if again is not None else set()))


async def _audit_of(tx: Transaction, order_id: str) -> list[audit.Entry]:
    return await audit.read(tx, subjects=await audit.about(tx, order_id))


async def _sheet(core: Core, payment_id: str, user: User) -> StaffSheet | None:
    try:
        return await desk.sheet(core, payment_id, user.actor)
    except GatewayUnavailable:
        # The rest of the page does not need it.
        return None


async def adjust_stock(request: Request, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """Change the stock by the form."""
    if user is None:
        raise NotSignedIn
    _require_staff(user)
    form = await read_form(request)
    sku, text = form.get("sku", ""), form.get("adjust", "").strip()
    digits = text.lstrip("+-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 6 and len(text) - len(digits) <= 1):
        return told(shop, "/staff", "Write the change as a whole number, such as 5 or -2.", "error")
    try:
        product = await api.change_stock(core, shop, user, sku=api.sku_in_path(sku), adjust=int(text))
    except (InvalidRequest, NotFound) as problem:
        return told(shop, "/staff", problem.message, "error")
    return told(shop, "/staff", f"{product.name}: now {product.on_hand} on hand.", "success")


def _require_staff(user: User) -> None:
    if not user.is_staff:
        raise Forbidden(_STAFF_ONLY)


# ── Doing ──────────

_REFUSALS = (
    *(InvalidRequest, NotAuthorized, PaymentDisputed, PaymentInProgress, RefundTooLarge, SoldOut),
    *(ChangedMeanwhile, GatewayUnavailable),
)
_Step = Callable[[Core, User, Payment, Mapping[str, str]], Awaitable[tuple[str, str]]]


async def refund(request: Request, payment_id: PaymentId, user: MaybeUser, shop: ShopDep) -> Response:
    """Refund by the form."""
    return await _do(request, payment_id, user, shop, step=partial(_refund, request))


async def capture(request: Request, payment_id: PaymentId, user: MaybeUser, shop: ShopDep) -> Response:
    """Capture by the form."""
    return await _do(request, payment_id, user, shop, step=_capture)


async def void(request: Request, payment_id: PaymentId, user: MaybeUser, shop: ShopDep) -> Response:
    """Void by the form."""
    return await _do(request, payment_id, user, shop, step=_void)


async def act(request: Request, payment_id: PaymentId, name: ActionName, user: MaybeUser, shop: ShopDep) -> Response:
    """Enter something about a payment by the form of its sheet."""
    return await _do(request, payment_id, user, shop, step=partial(_act, name))


async def _do(request: Request, payment_id: str, user: User | None, shop: Shop, *, step: _Step) -> Response:
    """Take one step and go back to the order's page, which tells what became of it."""
    if user is None:
        raise NotSignedIn
    _require_staff(user)
    form, core = await read_form(request), shop.running
    payment = await core.db.read(payments.find, payment_id)
    if payment is None:
        raise NotFound("We could not find this payment.")
    here = f"/staff/orders/{payment.order_id}"
    try:
        message, tone = await step(core, user, payment, form)
    except ConfirmationNeeded as problem:
        again = _Again(payment.id, form, problem.message)
        return await _order_page(request, payment.order_id, user, shop, again=again)
    except _REFUSALS as problem:
        return told(shop, here, problem.message, "error")
    return told(shop, here, message, tone)


async def _refund(
    request: Request, core: Core, user: User, payment: Payment, form: Mapping[str, str]
) -> tuple[str, str]:
    reason = form.get("reason", "").strip()
    if not reason.isprintable():
        raise InvalidRequest("Write the reason on one line.")
    key = form.get("key", "")
    if not api.is_id(key):
        # Without it a form that is sent twice would be two refunds.
        raise InvalidRequest("This form was incomplete, so nothing was refunded. Please use it again.")
    minor = read_amount(form.get("amount", ""), payment.amount.currency)
    if form.get("password"):
        user = await _look_again(request, user, form["password"])
    try:
        result = await refunds.refund(
            core,
            payment.id,
            user.actor,
            amount_minor=minor,
            reason=reason or None,
            restock=form.get("restock") == "1",
            request_key=key,
        )
    except InvalidRequest as problem:
        if not problem.message.startswith("Idempotency-Key"):
            raise
        raise InvalidRequest(
            "This form was sent before, with another amount. Nothing more was refunded now: look at the refunds below."
        ) from None
    amount = views.money(result.refund.amount)
    if not result.created:
        return f"This form was sent before, and it made one refund of {amount}. {result.message}", "info"
    return f"Refund of {amount}: {result.message}", "error" if result.refund.state == "failed" else "success"


async def _look_again(request: Request, user: User, password: str) -> User:
    try:
        return await auth.confirm(request, user, password=password)
    except InvalidRequest:
        raise ConfirmationNeeded("This is not your password, so nothing was refunded. Please try again.") from None
    except TooManyAttempts as problem:
        raise ConfirmationNeeded(f"Nothing was refunded. {problem.message}") from None


async def _capture(core: Core, user: User, payment: Payment, form: Mapping[str, str]) -> tuple[str, str]:
    minor = read_amount(form.get("amount", ""), payment.amount.currency)
    result = await captures.capture(core, payment.id, user.actor, amount_minor=minor)
    taken = payment.amount if minor is None else Money(minor, payment.amount.currency)
    return _outcome(result, PaymentStatus.CAPTURED, f"{views.money(taken)} were captured. The order is paid.")


async def _void(core: Core, user: User, payment: Payment, _form: Mapping[str, str]) -> tuple[str, str]:
    result = await captures.release(core, payment.id, user.actor)
    done = "The payment was ended. Reserved money is the buyer's again, and nothing was charged."
    return _outcome(result, PaymentStatus.CANCELED, done)


async def _act(name: str, core: Core, user: User, payment: Payment, form: Mapping[str, str]) -> tuple[str, str]:
    key, seen = form.get("key", ""), form.get("seen", "")
    if not api.is_id(key) or not (seen.isascii() and seen.isdigit() and len(seen) < _LONGEST_NUMBER):
        raise InvalidRequest("This form was incomplete, so nothing was entered. Please use it again.")
    params = dict(_params(form, payment.amount.currency))
    result = await desk.act(core, payment.id, user.actor, name, params, seen=int(seen), request_key=key)
    if result.unknown:
        return "It was entered. What follows from it is found out by itself.", "info"
    return f"It was entered. The payment: {views.PAYMENT_WORDS[result.payment.status].lower()}.", "success"


def _params(form: Mapping[str, str], currency: str) -> Iterator[tuple[str, str | int]]:
    """The fields of a sheet's form, whose names say what they hold. Empty ones are left out."""
    for field_name, value in form.items():
        kind, _, name = field_name.partition(":")
        if kind == "amount" and (minor := read_amount(value, currency)) is not None:
            yield name, minor
        elif kind == "text" and value.strip():
            yield name, value.strip()


_UNKNOWN = (
    "The gateway has not answered clearly. Please don't do it by hand: it is found out by itself, and nothing happens "
    "twice."
)


def _outcome(result: Result, wanted: PaymentStatus, done: str) -> tuple[str, str]:
    status = result.payment.status
    if status is wanted:
        return done, "success"
    if result.unknown or status is PaymentStatus.PROCESSING:
        return _UNKNOWN, "info"
    return (
        f"It ended differently: the payment is {status.value.replace('_', ' ')} now. See below what happened.",
        "info",
    )
