"""Settings: every wrong one is named with its fix, and no message repeats a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from paidonce.config import load_settings, read_environment
from paidonce.errors import ConfigError
from support.webshop import SECRET_KEY

GOOD = {"PAIDONCE_SECRET_KEY": SECRET_KEY}


def test_the_defaults_are_a_shop_on_this_machine() -> None:
    settings = load_settings(GOOD)
    assert settings.database_url.get_secret_value() == "sqlite:///paidonce.db"
    assert settings.origin == "http://127.0.0.1:8000"
    assert (settings.https, settings.demo) == (False, False)
    assert SECRET_KEY not in repr(settings)


def test_the_settings_reach_the_policy_and_the_address() -> None:
    changes = {"PORT": "8123", "PAIDONCE_HOLD_MINUTES": "5", "PAIDONCE_PUBLIC_URL": "https://Shop.example/"}
    settings = load_settings({**GOOD, **changes})
    assert (settings.port, settings.origin, settings.https) == (8123, "https://shop.example", True)
    assert settings.policy().hold_seconds == 300


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        ("https://shop.example:443", "https://shop.example"),
        ("http://localhost:80/", "http://localhost"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_the_public_address_is_as_browsers_and_gateways_write_it(value: str, origin: str) -> None:
    assert load_settings({**GOOD, "PAIDONCE_PUBLIC_URL": value}).origin == origin


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PAIDONCE_SECRET_KEY", "", "is missing"),
        ("PAIDONCE_SECRET_KEY", "canary-short", "at least 32"),
        ("PAIDONCE_SECRET_KEY", "canary" * 0 + "ab" * 20, "too easy to guess"),
        ("PAIDONCE_DATABASE_URL", "mysql://canary@host/x", "postgresql://"),
        ("PAIDONCE_PUBLIC_URL", "shop.example", "without a path"),
        ("PAIDONCE_PUBLIC_URL", "https://shop.example/canary", "without a path"),
        ("PAIDONCE_PUBLIC_URL", "https://canary@shop.example", "without a path"),
        ("PAIDONCE_PUBLIC_URL", "http://shop.example", "https"),
        # What can't be read is quoted by nobody, and what no browser's header Host can say would be served to nobody.
        ("PAIDONCE_PUBLIC_URL", "https://user:canary\u2100@shop.example", "without a path"),
        ("PAIDONCE_PUBLIC_URL", "https://canary\u00fc.example", "xn--"),
        ("PAIDONCE_PUBLIC_URL", "https://canary.example.", "without a path"),
        ("PAIDONCE_PUBLIC_URL", "https://canary.example:port", "without a path"),
        ("PAIDONCE_PUBLIC_URL", "https://canary.example:99999", "without a path"),
        ("PORT", "canary", "integer"),
        ("PORT", "0", "greater than or equal to 1"),
        ("PAIDONCE_HOLD_MINUTES", "0", "greater than or equal to 1"),
        ("PAIDONCE_LOG_FORMAT", "canary", "'console' or 'json'"),
        ("PAIDONCE_REQUESTS_AT_ONCE", "canary", "integer"),
        ("PAIDONCE_REQUESTS_AT_ONCE", "0", "greater than or equal to 1"),
        ("PAIDONCE_REQUESTS_AT_ONCE", "100001", "less than or equal to 100000"),
    ],
)
def test_a_wrong_setting_is_named_with_the_fix(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({**GOOD, name: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name}: ")
    assert said in problem
    assert "canary" not in problem


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"PORT": "x", "PAIDONCE_LOG_LEVEL": "loud"})
    names = {problem.partition(":")[0] for problem in caught.value.problems}
    assert names == {"PORT", "PAIDONCE_LOG_LEVEL", "PAIDONCE_SECRET_KEY"}


def test_plain_http_is_for_loopback_and_demonstrations() -> None:
    public = {**GOOD, "PAIDONCE_PUBLIC_URL": "http://192.168.1.20:8000"}
    with pytest.raises(ConfigError):
        load_settings(public)
    assert load_settings({**public, "PAIDONCE_DEMO": "1"}).demo


def test_a_set_variable_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PAIDONCE_SHOP_NAME=From the file\nSOME_GATEWAY_KEY=file-only\n")
    monkeypatch.setenv("PAIDONCE_SHOP_NAME", "From outside")
    found = read_environment(tmp_path / ".env")
    assert (found["PAIDONCE_SHOP_NAME"], found["SOME_GATEWAY_KEY"]) == ("From outside", "file-only")
