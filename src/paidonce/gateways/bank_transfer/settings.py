"""The account that buyers transfer to: read, and checked as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from paidonce.errors import ConfigError
from paidonce.money import Money, MoneyError

NAMES = (
    "BANK_TRANSFER_IBAN",
    "BANK_TRANSFER_HOLDER",
    "BANK_TRANSFER_BIC",
    "BANK_TRANSFER_BANK",
    "BANK_TRANSFER_CURRENCIES",
    "BANK_TRANSFER_DAYS",
)
# No country has the code XX, so no bank can carry a transfer to it out.
SANDBOX_IBAN = "XX36SANDBOX000000000"
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_BIC = re.compile(r"[A-Z]{6}[A-Z0-9]{2}([A-Z0-9]{3})?")
# Goods are kept for slow money for two weeks, and no buyer is promised more than that.
_DAYS, _MOST_DAYS = 14, 14
_LONGEST_NAME = 70


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings. `iban` and `bic` have no spaces; `bic` and `bank` may be empty."""

    iban: str
    holder: str
    bic: str
    bank: str
    currencies: tuple[str, ...]
    days: int

    @property
    def live(self) -> bool:
        """Whether real money can arrive there."""
        return self.iban != SANDBOX_IBAN


def read_settings(environment: Mapping[str, str]) -> Settings | None:
    """The settings in `environment`, or None if there is no account (transfers are then not offered).

    Raises `ConfigError` with every problem at once.
    """
    given = {name: environment.get(name, "").strip() for name in NAMES}
    if not given["BANK_TRANSFER_IBAN"] and not given["BANK_TRANSFER_HOLDER"]:
        return None
    iban, bic = ("".join(given[name].split()).upper() for name in ("BANK_TRANSFER_IBAN", "BANK_TRANSFER_BIC"))
    currencies = tuple(dict.fromkeys(code.strip() for code in (given["BANK_TRANSFER_CURRENCIES"] or "EUR").split(",")))
    days = given["BANK_TRANSFER_DAYS"] or str(_DAYS)
    problems = [
        *_account_problems(iban, bic),
        *_name_problems("BANK_TRANSFER_HOLDER", given["BANK_TRANSFER_HOLDER"], required=True),
        *_name_problems("BANK_TRANSFER_BANK", given["BANK_TRANSFER_BANK"], required=False),
        *_currency_problems(currencies),
    ]
    if not (days.isascii() and days.isdigit() and len(days) <= 2 and 1 <= int(days) <= _MOST_DAYS):
        problems.append(
            f"BANK_TRANSFER_DAYS: write a whole number of days from 1 to {_MOST_DAYS}; {_DAYS} if left out."
        )
    if problems:
        raise ConfigError(problems)
    holder, bank = given["BANK_TRANSFER_HOLDER"], given["BANK_TRANSFER_BANK"]
    return Settings(iban, holder, bic, bank, currencies, int(days))


def in_groups(iban: str) -> str:
    """An IBAN as it is written on paper: in groups of four."""
    return " ".join(iban[start : start + 4] for start in range(0, len(iban), 4))


def _account_problems(iban: str, bic: str) -> Iterator[str]:
    if not iban:
        yield "BANK_TRANSFER_IBAN: it is missing. Set the IBAN that buyers transfer to, or unset BANK_TRANSFER_HOLDER."
    elif not _IBAN.fullmatch(iban):
        yield (
            "BANK_TRANSFER_IBAN: this is no IBAN. It has two letters, two digits and 11 to 30 letters or digits; copy "
            "it from your bank's statement."
        )
    elif not _digits_are_right(iban):
        yield "BANK_TRANSFER_IBAN: its check digits are wrong, so it was mistyped. Copy it from your bank's statement."
    if bic and not _BIC.fullmatch(bic):
        yield "BANK_TRANSFER_BIC: this is no BIC, which has 8 or 11 letters and digits. Correct it, or leave it out."


def _digits_are_right(iban: str) -> bool:
    """ISO 13616: with its head at the end, and letters read as 10 to 35, the number leaves 1 when divided by 97."""
    turned = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def _name_problems(setting: str, name: str, *, required: bool) -> Iterator[str]:
    if required and not name:
        yield f"{setting}: it is missing. Set the name that the account is in; banks compare it with the transfer's."
    elif len(name) > _LONGEST_NAME or not name.isprintable():
        yield f"{setting}: write one line of at most {_LONGEST_NAME} characters, as banks take it."


def _currency_problems(currencies: tuple[str, ...]) -> Iterator[str]:
    for code in currencies:
        try:
            Money(1, code)
        except MoneyError:
            yield "BANK_TRANSFER_CURRENCIES: write currency codes such as EUR, with commas between."
            return
