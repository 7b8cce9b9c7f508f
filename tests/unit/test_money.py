"""Money: integers only, exact conversions or none."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidonce.money import (
    LARGEST_MINOR,
    Money,
    MoneyError,
    from_decimal_string,
    iso_exponent,
    rescale,
    to_decimal_string,
)

minors = st.integers(-LARGEST_MINOR, LARGEST_MINOR)


@pytest.mark.parametrize("minor", [19.99, True, "1999", None, Decimal(19), LARGEST_MINOR + 1, -LARGEST_MINOR - 1])
def test_only_bounded_integers_are_amounts(minor: Any) -> None:
    with pytest.raises(MoneyError):
        Money(minor, "EUR")


@pytest.mark.parametrize("currency", ["eur", "EURO", "", "€", None, "EUR\n", 978])
def test_only_iso_codes_are_currencies(currency: Any) -> None:
    with pytest.raises(MoneyError):
        Money(1, currency)


def test_currencies_do_not_mix() -> None:
    with pytest.raises(MoneyError, match="EUR and USD"):
        Money(1, "EUR") + Money(1, "USD")
    assert Money(1, "EUR") + Money(2, "EUR") - Money(4, "EUR") == Money(-1, "EUR")


@given(minors, st.integers(0, 4))
def test_a_decimal_string_comes_back_as_it_went(minor: int, exponent: int) -> None:
    text = to_decimal_string(minor, exponent)
    assert from_decimal_string(text, exponent) == minor
    assert Decimal(text) == Decimal(minor).scaleb(-exponent)


@given(minors, st.integers(0, 3), st.integers(0, 3))
def test_rescaling_is_exact_or_refused(minor: int, first: int, second: int) -> None:
    exact = Decimal(minor).scaleb(second - first)
    if exact == exact.to_integral_value():
        assert rescale(minor, from_exponent=first, to_exponent=second) == exact
    else:
        with pytest.raises(MoneyError):
            rescale(minor, from_exponent=first, to_exponent=second)


@pytest.mark.parametrize("text", ["", "19,99", "1e3", "+1", " 1", "1.", ".5", "NaN", "1.999", "٣", "1" * 16, "0x1"])
def test_what_is_no_decimal_amount_is_refused(text: str) -> None:
    with pytest.raises(MoneyError):
        from_decimal_string(text, 2)


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(1999, "EUR", "19.99 EUR"), (1999, "JPY", "1999 JPY"), (1999, "KWD", "1.999 KWD"), (-5, "USD", "-0.05 USD")],
)
def test_amounts_read_as_people_write_them(minor: int, currency: str, text: str) -> None:
    assert str(Money(minor, currency)) == text


def test_exponents_are_those_of_iso_4217() -> None:
    assert {code: iso_exponent(code) for code in ("EUR", "HUF", "TWD", "JPY", "ISK", "UGX", "KWD")} == {
        "EUR": 2,
        "HUF": 2,
        "TWD": 2,
        "JPY": 0,
        "ISK": 0,
        "UGX": 0,
        "KWD": 3,
    }
