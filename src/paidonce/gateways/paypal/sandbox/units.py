"""Amounts at the offline PayPal: whole numbers of a currency's smallest decimal as PayPal has it, and its rules."""

from __future__ import annotations

import re
from typing import Any

from paidonce.gateways.paypal import wire
from paidonce.gateways.paypal.sandbox.replies import Refused
from paidonce.money import Money, iso_exponent, rescale, to_decimal_string

# PayPal's own word (https://developer.paypal.com/reference/currency-codes/), and on purpose not the client's table: a
# twin that shared the client's mistakes could not find them.
_WITHOUT_DECIMALS = frozenset({"HUF", "JPY", "TWD"})

# 2.49 % and 35 of the smallest unit.
FEE_PER_TEN_THOUSAND = 249
FEE_FIXED = 35


def of(amount: Any, field: str) -> int:
    """The units of `{currency_code, value}`. Raises `Refused` by PayPal's rules; `field` names the place."""
    if not isinstance(amount, dict):
        raise Refused(400, "MISSING_REQUIRED_PARAMETER", field)
    currency, value = amount.get("currency_code"), amount.get("value")
    if not isinstance(currency, str) or not re.fullmatch(r"[A-Z]{3}", currency):
        raise Refused(422, "INVALID_CURRENCY_CODE", field + "/currency_code")
    if currency not in wire.EXPONENTS:
        raise Refused(422, "CURRENCY_NOT_SUPPORTED", field + "/currency_code", currency)
    if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]+)?", value, re.ASCII):
        raise Refused(400, "INVALID_PARAMETER_SYNTAX", field + "/value")
    whole, _, fraction = value.partition(".")
    exponent = _exponent(currency)
    if fraction and exponent == 0:
        raise Refused(422, "DECIMALS_NOT_SUPPORTED", field + "/value", value)
    if len(fraction) > exponent:
        raise Refused(422, "DECIMAL_PRECISION", field + "/value", value)
    return int(whole + fraction.ljust(exponent, "0"))


def positive(amount: Any, field: str) -> int:
    """The units of an amount that has to be more than nothing. Raises `Refused`."""
    found = of(amount, field)
    if found <= 0:
        raise Refused(422, "CANNOT_BE_ZERO_OR_NEGATIVE", field + "/value", amount["value"])
    return found


def shown(amount: int, currency: str) -> dict[str, str]:
    """The `{currency_code, value}` of so many units."""
    return {"currency_code": currency, "value": to_decimal_string(amount, _exponent(currency))}


def money(amount: int, currency: str) -> Money:
    """The same in the ISO exponent."""
    exponents = {"from_exponent": _exponent(currency), "to_exponent": iso_exponent(currency)}
    return Money(rescale(amount, **exponents), currency)


def _exponent(currency: str) -> int:
    return 0 if currency in _WITHOUT_DECIMALS else 2


def fee(amount: int) -> int:
    """What the twin keeps of a capture, rounded half up and never more than all of it."""
    return min(amount, (amount * FEE_PER_TEN_THOUSAND + 5000) // 10_000 + FEE_FIXED)


def check_order(body: dict[str, Any]) -> dict[str, Any]:
    """The one purchase unit of an order request. Raises `Refused` by PayPal's rules."""
    if body.get("intent") not in ("CAPTURE", "AUTHORIZE"):
        raise Refused(400, "INVALID_PARAMETER_VALUE", "/intent")
    found = body.get("purchase_units")
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise Refused(400, "MISSING_REQUIRED_PARAMETER", "/purchase_units")
    if len(found) > 1 and body["intent"] == "AUTHORIZE":
        raise Refused(422, "UNSUPPORTED_INTENT", "/intent", "AUTHORIZE")
    if len(found) > 1:
        # Several units are part of PayPal and not of this twin.
        raise Refused(400, "INVALID_ARRAY_MAX_ITEMS", "/purchase_units")
    unit: dict[str, Any] = found[0]
    for name, longest in (("reference_id", 256), ("custom_id", 127), ("invoice_id", 127), ("description", 127)):
        check_text(unit, name, longest, f"/purchase_units/0/{name}")
    amount = unit.get("amount")
    if not isinstance(amount, dict):
        raise Refused(400, "MISSING_REQUIRED_PARAMETER", "/purchase_units/0/amount")
    _check_breakdown(amount, positive(amount, "/purchase_units/0/amount"))
    return unit


def check_text(holder: dict[str, Any], name: str, longest: int, field: str) -> None:
    """Raise `Refused` if the field is there and empty, too long, or no text."""
    value = holder.get(name, "-")
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise Refused(400, "INVALID_STRING_LENGTH", field)


def _check_breakdown(amount: dict[str, Any], total: int) -> None:
    breakdown = amount.get("breakdown")
    if not isinstance(breakdown, dict):
        return
    signs = {"shipping_discount": -1, "discount": -1}
    parts = 0
    for name, part in breakdown.items():
        if not isinstance(part, dict) or part.get("currency_code") != amount["currency_code"]:
            raise Refused(422, "MULTI_CURRENCY_ORDER", f"/purchase_units/0/amount/breakdown/{name}")
        parts += signs.get(name, 1) * of(part, f"/purchase_units/0/amount/breakdown/{name}")
    if parts != total:
        raise Refused(422, "AMOUNT_MISMATCH", "/purchase_units/0/amount/value", amount["value"])
