"""What Stripe checks of an amount: integers, minimums, and the currencies with rules of their own."""

from __future__ import annotations

import re

from paidonce.gateways.stripe.sandbox.replies import Form, SandboxError, integer, missing
from paidonce.money import Money, iso_exponent, rescale

LARGEST = 99_999_999
# Smallest charge in Stripe's minor units (https://docs.stripe.com/currencies, "Minimum and maximum charge amounts").
_SMALLEST = {
    "aed": 200, "aud": 50, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50, "gbp": 30, "hkd": 400,
    "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50, "pln": 200, "ron": 200,
    "sek": 300, "sgd": 50, "thb": 1000, "usd": 50,
}  # fmt: skip
# What amounts of some currencies are divisible by.
STEPS = {"bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10, "isk": 100, "ugx": 100}
# Stripe's own word (https://docs.stripe.com/currencies), and on purpose not the client's table: a twin that shared the
# client's mistakes could not find them.
_WITHOUT_DECIMALS = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
_THREE_DECIMALS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})


def money(amount: int, currency: str) -> Money:
    """What so many of Stripe's units are worth, in the ISO exponent."""
    exponent = 0 if currency in _WITHOUT_DECIMALS else 3 if currency in _THREE_DECIMALS else 2
    code = currency.upper()
    return Money(rescale(amount, from_exponent=exponent, to_exponent=iso_exponent(code)), code)


def amount_and_currency(form: Form) -> tuple[int, str]:
    """Both parameters, checked. Raises `SandboxError` with Stripe's codes."""
    amount, currency = integer(form, "amount"), form.get("currency")
    if currency is None:
        raise missing("currency")
    if not isinstance(currency, str) or not re.fullmatch(r"[a-z]{3}", currency.lower(), re.ASCII):
        raise SandboxError(400, f"Invalid currency: {currency}.", param="currency")
    check_amount(amount, currency.lower())
    return amount, currency.lower()


def check_amount(amount: int, currency: str) -> None:
    """Raise `SandboxError` for an amount below the minimum, above the maximum, or with a fraction too fine."""
    if amount < 1:
        raise SandboxError(
            400, "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if amount > LARGEST:
        raise SandboxError(400, "Amount must be no more than 999,999.99", code="amount_too_large", param="amount")
    check_step(amount, currency)
    if amount < _SMALLEST.get(currency, 1):
        raise SandboxError(
            400,
            f"Amount must be at least the minimum charge amount in {currency}. "
            "See https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts.",
            code="amount_too_small",
            param="amount",
        )


def check_step(amount: int, currency: str) -> None:
    """Raise `SandboxError` for an amount that is finer than the currency allows."""
    if amount % STEPS.get(currency, 1):
        raise SandboxError(
            400,
            f"Invalid amount: {currency.upper()} amounts must be divisible by {STEPS[currency]}.",
            param="amount",
        )
