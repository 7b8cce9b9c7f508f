"""The account that buyers transfer to: a typing mistake must stop the start, or money goes astray."""

from __future__ import annotations

import pytest

from paidonce.errors import ConfigError
from paidonce.gateways.bank_transfer import provider
from paidonce.gateways.bank_transfer.settings import SANDBOX_IBAN, in_groups, read_settings

GERMAN = "DE89 3704 0044 0532 0130 00"
GOOD = {"BANK_TRANSFER_IBAN": GERMAN, "BANK_TRANSFER_HOLDER": "Mugs and More Ltd"}


def test_without_an_account_transfers_are_not_offered() -> None:
    assert read_settings({}) is None
    assert read_settings({"BANK_TRANSFER_IBAN": " ", "BANK_TRANSFER_DAYS": "7"}) is None


def test_what_is_left_out_has_a_good_default() -> None:
    settings = read_settings(GOOD)
    assert settings is not None
    assert (settings.iban, settings.holder) == ("DE89370400440532013000", "Mugs and More Ltd")
    assert (settings.bic, settings.bank, settings.currencies, settings.days) == ("", "", ("EUR",), 14)
    assert settings.live, "a real account takes real money"


def test_all_of_it_can_be_set() -> None:
    more = {"BANK_TRANSFER_BIC": "cobadeff xxx", "BANK_TRANSFER_BANK": "A Bank", "BANK_TRANSFER_DAYS": "7"}
    settings = read_settings(GOOD | more | {"BANK_TRANSFER_CURRENCIES": "EUR, CHF,EUR"})
    assert settings is not None
    assert (settings.bic, settings.bank, settings.days) == ("COBADEFFXXX", "A Bank", 7)
    assert settings.currencies == ("EUR", "CHF")


@pytest.mark.parametrize("iban", ["GB82 WEST 1234 5698 7654 32", "FR1420041010050500013M02606", "NO9386011117947"])
def test_accounts_of_many_countries_are_taken(iban: str) -> None:
    assert read_settings(GOOD | {"BANK_TRANSFER_IBAN": iban}) is not None


def test_every_single_wrong_digit_and_every_swap_of_neighbours_is_noticed() -> None:
    right = "DE89370400440532013000"
    wrong = {right[:at] + digit + right[at + 1 :] for at in range(2, len(right)) for digit in "0123456789"}
    wrong |= {right[:at] + right[at + 1] + right[at] + right[at + 2 :] for at in range(2, len(right) - 1)}
    for iban in wrong - {right}:
        with pytest.raises(ConfigError, match="check digits"):
            read_settings(GOOD | {"BANK_TRANSFER_IBAN": iban})


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("BANK_TRANSFER_IBAN", "", "it is missing"),
        ("BANK_TRANSFER_IBAN", "1234567890", "no IBAN"),
        ("BANK_TRANSFER_IBAN", "DE8937040044053201300\u0660", "no IBAN"),
        ("BANK_TRANSFER_HOLDER", "", "it is missing"),
        ("BANK_TRANSFER_HOLDER", "x" * 71, "one line"),
        ("BANK_TRANSFER_BANK", "two\nlines", "one line"),
        ("BANK_TRANSFER_BIC", "COBADE", "no BIC"),
        ("BANK_TRANSFER_CURRENCIES", "EUR;CHF", "currency codes"),
        ("BANK_TRANSFER_CURRENCIES", "EUR,", "currency codes"),
        ("BANK_TRANSFER_DAYS", "0", "from 1 to 14"),
        ("BANK_TRANSFER_DAYS", "1.5", "from 1 to 14"),
        ("BANK_TRANSFER_DAYS", "15", "from 1 to 14"),
    ],
)
def test_what_can_not_work_is_named_with_its_fix(setting: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as stopped:
        read_settings(GOOD | {setting: value})
    (problem,) = stopped.value.problems
    assert problem.startswith(f"{setting}: ")
    assert said in problem


def test_the_sandboxs_account_can_not_exist() -> None:
    settings = read_settings(provider.sandbox_environment("http://127.0.0.1:9"))
    assert settings is not None
    assert settings.iban == SANDBOX_IBAN
    assert settings.iban.startswith("XX"), "no country has this code"
    assert not settings.live
    assert provider.sandbox("http://127.0.0.1:9") is None


def test_an_iban_is_shown_in_groups_of_four() -> None:
    assert in_groups("DE89370400440532013000") == GERMAN
