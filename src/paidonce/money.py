"""Money as an integer of minor units and an ISO 4217 currency. No float ever touches it."""

from __future__ import annotations

import re
from dataclasses import dataclass

# ISO 4217: two decimals unless listed. Gateways keep tables of their own, since they differ (HUF, TWD, UGX, ISK).
_ISO_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI"), 0),
    **dict.fromkeys(("VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
_CURRENCY = re.compile(r"[A-Z]{3}")

# Larger totals are refused: they are mistakes, and every gateway's own limit lies below.
LARGEST_MINOR = 10**12
# What others sent may be of any length, and errors end in logs.
_MOST_QUOTED = 40


class MoneyError(ValueError):
    """An amount or currency that can't be money here; the message names what is wrong."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (cents, yen, fils) of `currency` (ISO 4217, upper case).

    Raises `MoneyError` for anything but a true integer within bounds and a three-letter code.
    """

    minor: int
    currency: str

    def __post_init__(self) -> None:
        # bool is an int in Python, and True must not become one cent.
        if type(self.minor) is not int:
            raise MoneyError(f"an amount is an integer of minor units, not {type(self.minor).__name__}")
        if abs(self.minor) > LARGEST_MINOR:
            raise MoneyError(f"the amount {self.minor} lies outside ±{LARGEST_MINOR} minor units")
        if not isinstance(self.currency, str) or not _CURRENCY.fullmatch(self.currency):
            raise MoneyError(f"{str(self.currency)[:_MOST_QUOTED]!r} is not an ISO 4217 currency code such as 'EUR'")

    def __add__(self, other: Money) -> Money:
        self._same_currency(other)
        return Money(self.minor + other.minor, self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same_currency(other)
        return Money(self.minor - other.minor, self.currency)

    def __str__(self) -> str:
        return f"{to_decimal_string(self.minor, iso_exponent(self.currency))} {self.currency}"

    def _same_currency(self, other: Money) -> None:
        if self.currency != other.currency:
            raise MoneyError(f"{self.currency} and {other.currency} can't be added up")


def iso_exponent(currency: str) -> int:
    """Decimals of `currency` by ISO 4217."""
    return _ISO_EXPONENTS.get(currency, 2)


def rescale(minor: int, *, from_exponent: int, to_exponent: int) -> int:
    """`minor` counted in units of another exponent, exactly.

    Raises `MoneyError` where that would lose a fraction, since rounding would charge another amount than agreed.
    """
    if to_exponent >= from_exponent:
        return minor * _power_of_ten(to_exponent - from_exponent)
    whole, rest = divmod(minor, _power_of_ten(from_exponent - to_exponent))
    if rest:
        raise MoneyError(f"{minor} minor units with {from_exponent} decimals don't fit {to_exponent} decimals")
    return whole


def _power_of_ten(exponent: int) -> int:
    return int("1" + "0" * exponent)


def to_decimal_string(minor: int, exponent: int) -> str:
    """`1999` with exponent 2 as `19.99`; exponent 0 gives no point at all."""
    sign, digits = ("-" if minor < 0 else ""), str(abs(minor))
    if exponent == 0:
        return sign + digits
    digits = digits.rjust(exponent + 1, "0")
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


def from_decimal_string(text: str, exponent: int) -> int:
    """Minor units of a decimal string such as `19.99`; superfluous zeros behind the point are allowed.

    Raises `MoneyError` for anything else (signs other than `-`, exponents, more decimals than the currency has).
    """
    match = re.fullmatch(r"(-?)(\d{1,15})(?:\.(\d{1,6}))?", text, re.ASCII)
    if match is None:
        raise MoneyError(f"{text[:_MOST_QUOTED]!r} is not a decimal amount")
    sign, whole, fraction = match[1], match[2], match[3] or ""
    kept, cut = fraction[:exponent], fraction[exponent:]
    if cut.strip("0"):
        raise MoneyError(f"{text!r} has more than {exponent} decimals")
    minor = int(whole + kept.ljust(exponent, "0"))
    return -minor if sign else minor
