"""Mollie's settings: each wrong one is named with its fix, and no value is told."""

from __future__ import annotations

import pytest

from paidonce.errors import ConfigError
from paidonce.gateways.mollie.settings import API_BASE, SANDBOX_KEY, read_settings

LIVE = "live_" + "Canary" * 5
TEST = "test_" + "Canary" * 5


def test_without_a_key_mollie_is_not_offered() -> None:
    assert read_settings({}) is None
    assert read_settings({"MOLLIE_API_KEY": " "}) is None
    assert read_settings({"MOLLIE_API_BASE": "https://mollie.example"}) is None


@pytest.mark.parametrize(("key", "live"), [(LIVE, True), (TEST, False), (f" {TEST}\n", False)])
def test_the_key_says_its_mode(key: str, live: bool) -> None:
    settings = read_settings({"MOLLIE_API_KEY": key})
    assert settings is not None
    assert (settings.live, settings.api_base, settings.beside_us) == (live, API_BASE, False)
    assert "Canary" not in repr(settings)


def test_a_twin_on_this_machine_is_beside_us() -> None:
    settings = read_settings({"MOLLIE_API_KEY": SANDBOX_KEY, "MOLLIE_API_BASE": "http://127.0.0.1:9000/mollie/"})
    assert settings is not None
    assert (settings.api_base, settings.beside_us, settings.live) == ("http://127.0.0.1:9000/mollie", True, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"MOLLIE_API_KEY": "sk_test_Canary"},
        {"MOLLIE_API_KEY": "access_" + "Canary" * 5},
        {"MOLLIE_API_KEY": "test_Canary"},
        {"MOLLIE_API_KEY": LIVE, "MOLLIE_API_BASE": "http://127.0.0.1:9000/mollie"},
        {"MOLLIE_API_KEY": LIVE, "MOLLIE_API_BASE": API_BASE},
        {"MOLLIE_API_KEY": SANDBOX_KEY},
        {"MOLLIE_API_KEY": SANDBOX_KEY, "MOLLIE_API_BASE": API_BASE},
        {"MOLLIE_API_BASE": "http://canary.example"},
        {"MOLLIE_API_BASE": "ftp://canary.example"},
        {"MOLLIE_API_BASE": "canary.example"},
        {"MOLLIE_API_BASE": "https://a:Canary@mollie.example"},
        {"MOLLIE_API_BASE": "https://mollie.example?Canary=1"},
        {"MOLLIE_API_BASE": "https://mollie.example:Canary"},
        {"MOLLIE_API_BASE": "https://mollie.example/v2/"},
    ],
)
def test_what_cannot_work_stops_the_start_and_says_how_to_mend_it(changes: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"MOLLIE_API_KEY": TEST, **changes})
    assert caught.value.problems
    for problem in caught.value.problems:
        assert problem.startswith("MOLLIE_")
        assert problem.endswith(".")
        assert "canary" not in problem.lower()


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"MOLLIE_API_KEY": "live_short", "MOLLIE_API_BASE": "http://mollie.example"})
    assert len(caught.value.problems) == 3
