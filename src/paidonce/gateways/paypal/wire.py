"""PayPal's JSON and our values: a pure mapping, no call in it.

Sources: PayPal's Orders v2 reference and OpenAPI file for the fields, its currency-code page for the decimals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from paidonce.gateways.base import (
    CaptureMethod,
    CreateRequest,
    Decline,
    DeclineCode,
    Progress,
    RefundProgress,
    RefundSnapshot,
    Snapshot,
    keepable,
)
from paidonce.money import Money, MoneyError, from_decimal_string, iso_exponent, rescale, to_decimal_string

Json = Mapping[str, Any]

# developer.paypal.com/api/rest/reference/currency-codes: all that PayPal takes, with PayPal's own number of decimals.
# HUF and TWD have two by ISO 4217 and none here.
_TWO_DECIMALS = (
    *("AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "ILS"),
    *("MXN", "MYR", "NOK", "NZD", "PHP", "PLN", "SEK", "SGD", "THB", "USD"),
)
EXPONENTS: Mapping[str, int] = {**dict.fromkeys(_TWO_DECIMALS, 2), **dict.fromkeys(("HUF", "JPY", "TWD"), 0)}

# PayPal's own limit for custom_id and invoice_id.
LONGEST_ID = 127

_AWAITING = frozenset({"CREATED", "SAVED", "PAYER_ACTION_REQUIRED"})
_MOVED = frozenset({"COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"})
_DECLINED = frozenset({"DECLINED", "FAILED"})
_RELEASED = frozenset({"VOIDED", "EXPIRED"})
_REFUNDED = frozenset({"PARTIALLY_REFUNDED", "REFUNDED"})
_REFUND_PROGRESS: Mapping[str, RefundProgress] = {
    "COMPLETED": RefundProgress.SUCCEEDED,
    "FAILED": RefundProgress.FAILED,
    "CANCELLED": RefundProgress.FAILED,
}

# The buyer can mend these on the same order.
RECOVERABLE_ISSUES: Mapping[str, DeclineCode] = {
    "INSTRUMENT_DECLINED": DeclineCode.INSTRUMENT_DECLINED,
    "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING": DeclineCode.INSTRUMENT_DECLINED,
    "PAYER_ACTION_REQUIRED": DeclineCode.APPROVAL_NEEDED,
    "ORDER_NOT_APPROVED": DeclineCode.APPROVAL_NEEDED,
}

# These end the order at PayPal.
FINAL_ISSUES: Mapping[str, DeclineCode] = {
    "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED": DeclineCode.REFUSED,
    "COMPLIANCE_VIOLATION": DeclineCode.REFUSED,
    "TRANSACTION_REFUSED": DeclineCode.REFUSED,
    "AUTHORIZATION_DENIED": DeclineCode.REFUSED,
    "PAYEE_BLOCKED_TRANSACTION": DeclineCode.REFUSED,
    "TRANSACTION_BLOCKED_BY_PAYEE": DeclineCode.REFUSED,
    "DOMESTIC_TRANSACTION_REQUIRED": DeclineCode.REFUSED,
    "PAYER_ACCOUNT_LOCKED_OR_CLOSED": DeclineCode.REFUSED,
    "PAYER_ACCOUNT_RESTRICTED": DeclineCode.REFUSED,
    "PAYER_CANNOT_PAY": DeclineCode.REFUSED,
    "TRANSACTION_LIMIT_EXCEEDED": DeclineCode.LIMIT_EXCEEDED,
    "TRANSACTION_RECEIVING_LIMIT_EXCEEDED": DeclineCode.LIMIT_EXCEEDED,
}

# The money may have moved already: only reading the order tells.
LOOK_UP_ISSUES = frozenset(
    {
        "ORDER_ALREADY_CAPTURED",
        "ORDER_ALREADY_COMPLETED",
        "ORDER_ALREADY_AUTHORIZED",
        "AUTHORIZATION_ALREADY_CAPTURED",
        "MAX_CAPTURE_COUNT_EXCEEDED",
        "DUPLICATE_INVOICE_ID",
    }
)

# The reserved money is gone, and with it the payment.
RELEASED_ISSUES = frozenset({"AUTHORIZATION_VOIDED", "AUTHORIZATION_EXPIRED"})

# The same request, with the same key, a little later.
BUSY_ISSUES = frozenset({"ORDER_COMPLETION_IN_PROGRESS", "PREVIOUS_REQUEST_IN_PROGRESS"})

# We computed or sent something wrong: a bug here, which no buyer can mend.
OUR_BUG_ISSUES = frozenset(
    {
        "DECIMAL_PRECISION",
        "DECIMALS_NOT_SUPPORTED",
        "AMOUNT_MISMATCH",
        "ITEM_TOTAL_MISMATCH",
        "CURRENCY_NOT_SUPPORTED",
        "INVALID_CURRENCY_CODE",
        "CANNOT_BE_ZERO_OR_NEGATIVE",
        "DUPLICATE_REQUEST_ID",
    }
)


class Unreadable(ValueError):
    """An answer that lacks what a snapshot needs. The object may be all right; nothing is known about it."""


def money_to_wire(amount: Money) -> dict[str, str]:
    """PayPal's `{currency_code, value}` of `amount`.

    Raises `MoneyError` if PayPal does not take the currency, or has fewer decimals than the amount needs.
    """
    exponent = EXPONENTS.get(amount.currency)
    if exponent is None:
        raise MoneyError(f"PayPal does not take {amount.currency}")
    try:
        units = rescale(amount.minor, from_exponent=iso_exponent(amount.currency), to_exponent=exponent)
    except MoneyError as error:
        raise MoneyError(f"PayPal takes {amount.currency} with {exponent} decimals only, not {amount}") from error
    return {"currency_code": amount.currency, "value": to_decimal_string(units, exponent)}


def money_from_wire(value: Any) -> Money:
    """Our money of PayPal's `{currency_code, value}`. Raises `Unreadable`.

    The ISO exponent reads every amount that PayPal can write, since it never has fewer decimals than PayPal's.
    """
    if not isinstance(value, Mapping):
        raise Unreadable("an amount is missing")
    currency, text = value.get("currency_code"), value.get("value")
    if not isinstance(currency, str) or not isinstance(text, str):
        raise Unreadable("an amount has no currency_code or value")
    try:
        return Money(from_decimal_string(text, iso_exponent(currency)), currency)
    except MoneyError as error:
        raise Unreadable(str(error)) from error


def check_amount(amount: Money) -> None:
    """Raise `MoneyError` if PayPal can't be asked for exactly `amount`."""
    if amount.minor <= 0:
        raise MoneyError(f"PayPal takes positive amounts only, not {amount}")
    money_to_wire(amount)


def order_request(request: CreateRequest, *, brand_name: str | None = None) -> dict[str, Any]:
    """The body of `POST /v2/checkout/orders`. Raises `MoneyError` like `check_amount`.

    `custom_id` is our payment (the buyer does not see it), `invoice_id` the order's number (the buyer does),
    `reference_id` our order's id.
    """
    check_amount(request.amount)
    context = {
        "user_action": "PAY_NOW",
        "shipping_preference": "NO_SHIPPING",
        "landing_page": "NO_PREFERENCE",
        "return_url": request.return_url,
        "cancel_url": request.cancel_url,
    }
    if brand_name:
        context["brand_name"] = brand_name[:LONGEST_ID]
    unit = {
        "reference_id": request.order_id,
        "custom_id": _short(request.payment_id),
        "invoice_id": _short(request.order_number),
        "amount": money_to_wire(request.amount),
    }
    manual = request.capture_method is CaptureMethod.MANUAL
    return {
        "intent": "AUTHORIZE" if manual else "CAPTURE",
        "purchase_units": [unit],
        "payment_source": {"paypal": {"experience_context": context}},
    }


def _short(identifier: str) -> str:
    assert 0 < len(identifier) <= LONGEST_ID, "PayPal takes ids of 1 to 127 characters"
    return identifier


def snapshot(order: Json, *, live: bool, request_id: str | None = None) -> Snapshot:
    """What an order of Orders v2 says. Raises `Unreadable` if it lacks an id, a status or an amount.

    COMPLETED does not mean paid: the status of the captures does. Whatever is unknown counts as processing.
    """
    ref, status = _text(order, "id"), _text(order, "status")
    units = _objects(order.get("purchase_units"))
    found, reserved = captures(order), payments(order, "authorizations")
    told = _money_news(found, reserved) or _without_money(status)
    return Snapshot(
        gateway="paypal",
        ref=ref,
        amount=_total([unit.get("amount") for unit in units]),
        payment_id=_same(units, "custom_id"),
        order_id=_same(units, "reference_id"),
        account=_same([_object(unit.get("payee")) for unit in units], "merchant_id"),
        live=live,
        raw_status="/".join([status, *(keepable(one.get("status")) or "unknown" for one in [*reserved, *found])]),
        request_id=request_id,
        fee=_fee(found),
        **told,
    )


def payments(order: Json, kind: str) -> list[Json]:
    """The `authorizations`, `captures` or `refunds` of all units of an order."""
    units = _objects(order.get("purchase_units"))
    return [one for unit in units for one in _objects(_object(unit.get("payments")).get(kind))]


def captures(order: Json) -> list[Json]:
    """All captures of an order."""
    return payments(order, "captures")


def open_authorization(order: Json) -> str | None:
    """The id of the authorization that can be captured or voided, or None."""
    found = [one for one in payments(order, "authorizations") if one.get("status") == "CREATED"]
    return _text(found[0], "id") if found else None


def shows(order: Json, kind: str, ref: object) -> bool:
    """Whether an order holds the payment `ref` of one kind; a payment without an id is none that could be held."""
    return isinstance(ref, str) and ref != "" and any(one.get("id") == ref for one in payments(order, kind))


def with_payment(order: Json, kind: str, news: Json) -> Json:
    """`order` with one payment as a call has just told it, since reading the order may lag behind that call.

    Raises `Unreadable` if `news` has no id or status: the order without it would be old, and look like a decision.
    """
    units = _objects(order.get("purchase_units"))
    if not units:
        raise Unreadable("purchase_units is missing")
    ref = _text(news, "id")
    _text(news, "status")
    told = _object(units[0].get("payments"))
    others = [one for one in _objects(told.get(kind)) if one.get("id") != ref]
    known = next((one for one in _objects(told.get(kind)) if one.get("id") == ref), {})
    first = {**units[0], "payments": {**told, kind: [*others, {**known, **news}]}}
    return {**order, "purchase_units": [first, *units[1:]]}


def _money_news(captured: Sequence[Json], reserved: Sequence[Json]) -> dict[str, Any] | None:
    """What captures and authorizations say together, None if there are neither."""
    moved, held = _captures(captured), _authorizations(reserved)
    if moved is None or held is None:
        return moved or held
    if moved["progress"] is Progress.FAILED and held["progress"] is Progress.AUTHORIZED:
        # The capture was declined, and the reserved money is still there for another try.
        return {**held, "decline": moved["decline"]}
    return moved


def _authorizations(authorizations: Sequence[Json]) -> dict[str, Any] | None:
    statuses = [str(one.get("status")) for one in authorizations]
    if not statuses:
        return None
    if "CREATED" in statuses:
        return {"progress": Progress.AUTHORIZED}
    if unsettled := [one for one in authorizations if str(one.get("status")) not in _RELEASED | {"DENIED"}]:
        # Also a captured one whose capture is not readable yet, and every word that is new.
        return {"progress": Progress.PROCESSING, "pending_reason": _pending_reason(unsettled[0])}
    if "DENIED" in statuses:
        decline = Decline(DeclineCode.REFUSED, recoverable=False, raw_code="AUTHORIZATION_DENIED")
        return {"progress": Progress.FAILED, "decline": decline}
    return {"progress": Progress.CANCELED}


def _fee(captured: Sequence[Json]) -> Money | None:
    """What PayPal kept of the captures, in the currency that it settles in; None as long as it does not say."""
    moved = [_object(one.get("seller_receivable_breakdown")) for one in captured if str(one.get("status")) in _MOVED]
    fees = [told.get("paypal_fee_in_receivable_currency") or told.get("paypal_fee") for told in moved]
    try:
        return _total(fees)
    except Unreadable:
        # The buyer has paid; a fee that can't be read must not keep the order from being paid.
        return None


def refund(data: Json, *, payment_id: str | None, request_id: str | None = None) -> RefundSnapshot:
    """What a refund of Payments v2 says. Raises `Unreadable` if it lacks an id, a status or an amount.

    `payment_id` is what the order's own `custom_id` says: PayPal repeats that one on a refund made at its dashboard.
    """
    status, ours = _text(data, "status"), keepable(data.get("custom_id"))
    reason = _object(data.get("status_details")).get("reason")
    return RefundSnapshot(
        ref=_text(data, "id"),
        progress=refund_progress(status),
        amount=money_from_wire(data.get("amount")),
        refund_id=ours if ours != payment_id else None,
        raw_status=status,
        failure_reason=keepable(reason),
        request_id=request_id,
    )


def refund_progress(status: object) -> RefundProgress:
    """The progress that a refund's status stands for; unknown words are PENDING."""
    return _REFUND_PROGRESS.get(str(status), RefundProgress.PENDING)


def hides_refunds(order: Json) -> bool:
    """Whether a capture says that money went back, and the order lists no refund of it."""
    gone = [one for one in captures(order) if str(one.get("status")) in _REFUNDED]
    return bool(gone) and not payments(order, "refunds")


def capture_progress(status: object) -> Progress:
    """The progress that a capture's status alone stands for."""
    if str(status) in _MOVED:
        return Progress.CAPTURED
    return Progress.FAILED if str(status) in _DECLINED else Progress.PROCESSING


def authorization_progress(status: object) -> Progress:
    """The progress that an authorization's status alone stands for."""
    news = _authorizations([{"status": status}])
    assert news is not None, "one authorization always says something"
    progress: Progress = news["progress"]
    return progress


def _without_money(status: str) -> dict[str, Any]:
    if status in _AWAITING:
        return {"progress": Progress.AWAITING_BUYER}
    if status == "APPROVED":
        return {"progress": Progress.APPROVED}
    if status == "VOIDED":
        return {"progress": Progress.CANCELED}
    return {"progress": Progress.PROCESSING, "pending_reason": f"order {status}"}


def _captures(found: Sequence[Json]) -> dict[str, Any] | None:
    """The news that captures bring, None if there are none. Money that moved outranks what is pending or declined."""
    if moved := [capture for capture in found if str(capture.get("status")) in _MOVED]:
        return {
            "progress": Progress.CAPTURED,
            "captured": _total([capture.get("amount") for capture in moved]),
            "capture_ref": _text(moved[0], "id"),
        }
    if unsettled := [capture for capture in found if str(capture.get("status")) not in _DECLINED]:
        return {
            "progress": Progress.PROCESSING,
            "capture_ref": _text(unsettled[0], "id"),
            "pending_reason": _pending_reason(unsettled[0]),
        }
    if found:
        # An order takes one capture only, so a capture that PayPal ended as declined ends the order.
        return {"progress": Progress.FAILED, "decline": _capture_decline(found[-1])}
    return None


def _pending_reason(capture: Json) -> str:
    reason = _object(capture.get("status_details")).get("reason")
    return keepable(reason) or keepable(capture.get("status")) or "unknown"


def _capture_decline(capture: Json) -> Decline:
    status = keepable(capture.get("status")) or "unknown"
    code = DeclineCode.INSTRUMENT_DECLINED if status == "DECLINED" else DeclineCode.PROCESSING_ERROR
    return Decline(code, recoverable=False, raw_code=f"CAPTURE_{status}")


def issue_decline(issue: str) -> Decline | None:
    """The decline that an error's `issue` stands for, or None if it is no decline."""
    if issue in RECOVERABLE_ISSUES:
        return Decline(RECOVERABLE_ISSUES[issue], recoverable=True, raw_code=issue)
    if issue in FINAL_ISSUES:
        return Decline(FINAL_ISSUES[issue], recoverable=False, raw_code=issue)
    return None


def speaks_for_the_key(code: str) -> bool:
    """Whether a refusal tells what became of every request under its key, and not only of the last one."""
    issue = code.upper()
    return issue_decline(issue) is not None or issue in LOOK_UP_ISSUES | RELEASED_ISSUES


def issues(body: Json) -> tuple[str, ...]:
    """The `details[].issue` of an error body, in order; its `name` if it has none."""
    told = [*(detail.get("issue") for detail in _objects(body.get("details")))]
    found = tuple(filter(None, map(keepable, told)))
    name = keepable(body.get("name"))
    return found or ((name,) if name else ())


def debug_id(body: Json) -> str | None:
    """PayPal's own id of an answer, as its body repeats it."""
    value = body.get("debug_id")
    return value if isinstance(value, str) and re.fullmatch(r"[0-9A-Za-z_-]{1,64}", value) else None


def _text(value: Json, name: str) -> str:
    found = keepable(value.get(name))
    if found is None:
        raise Unreadable(f"{name} is missing")
    return found


def _object(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _total(amounts: Sequence[Any]) -> Money:
    if not amounts:
        raise Unreadable("purchase_units is missing")
    total = money_from_wire(amounts[0])
    for amount in amounts[1:]:
        try:
            total += money_from_wire(amount)
        except MoneyError as error:
            raise Unreadable(str(error)) from error
    return total


def _same(objects: Sequence[Json], name: str) -> str | None:
    """The value that all objects share, else None: ours never differ, so a difference must not look like a match."""
    values = {item.get(name) for item in objects if isinstance(item.get(name), str | None)}
    return keepable(values.pop()) if len(values) == 1 else None
