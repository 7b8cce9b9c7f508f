"""PayPal's JSON and our values: a pure mapping, no call in it.

Sources: PayPal's Orders v2 reference and OpenAPI file for the fields, its currency-code page for the decimals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from paidonce.gateways.base import CreateRequest, Decline, DeclineCode, Progress, Snapshot
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
LOOK_UP_ISSUES = frozenset({"ORDER_ALREADY_CAPTURED", "ORDER_ALREADY_COMPLETED", "DUPLICATE_INVOICE_ID"})

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
    return {
        "intent": "CAPTURE",
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
    captures = [capture for unit in units for capture in _objects(_object(unit.get("payments")).get("captures"))]
    told = _captures(captures) or _without_captures(status)
    return Snapshot(
        gateway="paypal",
        ref=ref,
        amount=_total([unit.get("amount") for unit in units]),
        payment_id=_same(units, "custom_id"),
        order_id=_same(units, "reference_id"),
        account=_same([_object(unit.get("payee")) for unit in units], "merchant_id"),
        live=live,
        raw_status="/".join([status, *(str(capture.get("status")) for capture in captures)]),
        request_id=request_id,
        **told,
    )


def _without_captures(status: str) -> dict[str, Any]:
    if status in _AWAITING:
        return {"progress": Progress.AWAITING_BUYER}
    if status == "APPROVED":
        return {"progress": Progress.APPROVED}
    if status == "VOIDED":
        return {"progress": Progress.CANCELED}
    return {"progress": Progress.PROCESSING, "pending_reason": f"order {status}"}


def _captures(captures: Sequence[Json]) -> dict[str, Any] | None:
    """The news that captures bring, None if there are none. Money that moved outranks what is pending or declined."""
    if moved := [capture for capture in captures if capture.get("status") in _MOVED]:
        return {
            "progress": Progress.CAPTURED,
            "captured": _total([capture.get("amount") for capture in moved]),
            "capture_ref": _text(moved[0], "id"),
        }
    if unsettled := [capture for capture in captures if capture.get("status") not in _DECLINED]:
        return {
            "progress": Progress.PROCESSING,
            "capture_ref": _text(unsettled[0], "id"),
            "pending_reason": _pending_reason(unsettled[0]),
        }
    if captures:
        # An order takes one capture only, so a capture that PayPal ended as declined ends the order.
        return {"progress": Progress.FAILED, "decline": _capture_decline(captures[-1])}
    return None


def _pending_reason(capture: Json) -> str:
    reason = _object(capture.get("status_details")).get("reason")
    return reason if isinstance(reason, str) else str(capture.get("status"))


def _capture_decline(capture: Json) -> Decline:
    status = str(capture.get("status"))
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
    return issue_decline(issue) is not None or issue in LOOK_UP_ISSUES


def issues(body: Json) -> tuple[str, ...]:
    """The `details[].issue` of an error body, in order; its `name` if it has none."""
    found = [detail["issue"] for detail in _objects(body.get("details")) if isinstance(detail.get("issue"), str)]
    name = body.get("name")
    return tuple(found) or ((name,) if isinstance(name, str) else ())


def debug_id(body: Json) -> str | None:
    """PayPal's own id of an answer, as its body repeats it."""
    value = body.get("debug_id")
    return value if isinstance(value, str) and re.fullmatch(r"[0-9A-Za-z_-]{1,64}", value) else None


def _text(value: Json, name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not found:
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
    value = values.pop() if len(values) == 1 else None
    return value if isinstance(value, str) else None
