"""Settings: nothing is offered without keys, and each wrong one is named with its fix and without its value."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paidonce.errors import ConfigError
from paidonce.gateways.paypal import provider, read_settings

KEYS = {
    "PAYPAL_CLIENT_ID": "client-id-canary",
    "PAYPAL_CLIENT_SECRET": "client-secret-canary",
    "PAYPAL_MERCHANT_ID": "QQQQQQQQQQQQ2",
}


def problems(**changes: str) -> str:
    """What is wrong with the keys and these changes, as one text."""
    with pytest.raises(ConfigError) as caught:
        read_settings({**KEYS, **changes})
    return str(caught.value)


@pytest.mark.parametrize("environment", [{}, {"PAYPAL_ENVIRONMENT": "live"}, {"PAYPAL_CLIENT_ID": "  "}])
def test_without_keys_paypal_is_not_offered(environment: dict[str, str]) -> None:
    assert read_settings(environment) is None


def test_test_mode_is_the_default() -> None:
    settings = read_settings(KEYS)

    assert settings is not None
    assert not settings.live
    assert settings.api_base == "https://api-m.sandbox.paypal.com"
    assert settings.js_url == "https://www.sandbox.paypal.com/web-sdk/v6/core"
    assert settings.webhook_id is None
    assert not settings.api_base_is_ours
    assert "canary" not in repr(settings).replace(KEYS["PAYPAL_CLIENT_ID"], "")


def test_live_mode_uses_paypals_live_addresses() -> None:
    settings = read_settings({**KEYS, "PAYPAL_ENVIRONMENT": "live", "PAYPAL_WEBHOOK_ID": "WH-1"})

    assert settings is not None
    assert settings.live
    assert settings.api_base == "https://api-m.paypal.com"
    assert settings.js_url == "https://www.paypal.com/web-sdk/v6/core"
    assert settings.webhook_id == "WH-1"


@pytest.mark.parametrize("missing", KEYS)
def test_each_missing_key_is_named_with_where_to_find_it(missing: str) -> None:
    told = problems(**{missing: ""})

    assert told.startswith(f"{missing} is not set: ")
    assert "copy" in told
    assert "canary" not in told


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"PAYPAL_ENVIRONMENT": "production"}, "PAYPAL_ENVIRONMENT"),
        ({"PAYPAL_MERCHANT_ID": "merchant@shop.example"}, "PAYPAL_MERCHANT_ID"),
        ({"PAYPAL_ENVIRONMENT": "live", "PAYPAL_API_BASE": "http://127.0.0.1:8001/paypal"}, "PAYPAL_API_BASE"),
        ({"PAYPAL_ENVIRONMENT": "live", "PAYPAL_API_BASE": "https://api-m.sandbox.paypal.com"}, "PAYPAL_API_BASE"),
        ({"PAYPAL_ENVIRONMENT": "live", "PAYPAL_JS_URL": "https://cdn.example/core"}, "PAYPAL_JS_URL"),
        ({"PAYPAL_ENVIRONMENT": "live", "PAYPAL_CLIENT_ID": "sandbox-paypal-client-id"}, "PAYPAL_CLIENT_ID"),
        ({"PAYPAL_ENVIRONMENT": "live", "PAYPAL_CLIENT_SECRET": "sandbox-paypal-client-secret"}, "offline sandbox"),
        ({"PAYPAL_CLIENT_ID": "sandbox-paypal-client-id"}, "PAYPAL_CLIENT_ID is the offline sandbox's"),
        ({"PAYPAL_CLIENT_SECRET": "sandbox-paypal-client-secret"}, "PAYPAL_CLIENT_SECRET is the offline sandbox's"),
        ({"PAYPAL_API_BASE": "https://api-m.paypal.com"}, "live address"),
        ({"PAYPAL_JS_URL": "https://www.paypal.com/web-sdk/v6/core"}, "live address"),
        ({"PAYPAL_API_BASE": "http://paypal.example"}, "http"),
        ({"PAYPAL_API_BASE": "http://127.0.0.1.evil.example"}, "http"),
        ({"PAYPAL_API_BASE": "api-m.sandbox.paypal.com"}, "PAYPAL_API_BASE"),
        ({"PAYPAL_API_BASE": "https://user-canary@paypal.example"}, "PAYPAL_API_BASE"),
        ({"PAYPAL_API_BASE": "https://[broken"}, "PAYPAL_API_BASE"),
        ({"PAYPAL_JS_URL": "javascript:alert(1)"}, "PAYPAL_JS_URL"),
        ({"PAYPAL_WEBHOOK_ID": "a|canary"}, "PAYPAL_WEBHOOK_ID"),
        ({"PAYPAL_WEBHOOK_ID": "https://shop.example/webhooks/canary"}, "PAYPAL_WEBHOOK_ID"),
    ],
)
def test_contradictions_stop_the_start(changes: dict[str, str], named: str) -> None:
    told = problems(**changes)

    assert named in told
    assert "canary" not in told


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_webhook_id_stops_the_start_while_none_means_no_webhooks(empty: str) -> None:
    told = problems(PAYPAL_WEBHOOK_ID=empty)

    assert told.startswith("PAYPAL_WEBHOOK_ID is empty: ")
    assert "remove the setting" in told
    settings = read_settings(KEYS)
    assert settings is not None
    assert settings.webhook_id is None


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"PAYPAL_CLIENT_ID": "x", "PAYPAL_ENVIRONMENT": "real"})

    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001"])
def test_http_is_fine_on_the_own_machine(host: str) -> None:
    settings = read_settings({**KEYS, "PAYPAL_API_BASE": f"http://{host}/paypal/"})

    assert settings is not None
    assert settings.api_base == f"http://{host}/paypal"


def test_the_twins_settings_are_complete_and_can_not_be_live() -> None:
    environment = dict(provider.sandbox_environment("http://127.0.0.1:8001/"))

    assert set(environment) <= set(provider.settings)
    settings = read_settings(environment)
    assert settings is not None
    assert not settings.live
    with pytest.raises(ConfigError):
        read_settings({**environment, "PAYPAL_ENVIRONMENT": "live"})


@pytest.mark.parametrize(
    ("base", "ours"),
    [
        ("https://api-m.sandbox.paypal.com", False),
        ("https://api.sandbox.paypal.com/", False),
        ("https://api-m.sandbox.paypal.com.evil.example", True),
        ("http://127.0.0.1:8001/paypal", True),
    ],
)
def test_only_an_address_that_is_not_paypals_brings_its_own_certificates(base: str, ours: bool) -> None:
    settings = read_settings({**KEYS, "PAYPAL_API_BASE": base})

    assert settings is not None
    assert settings.api_base_is_ours is ours


def test_a_configured_gateway_loads_cryptography_only_for_a_webhook() -> None:
    code = (
        "import sys\nfrom paidonce.gateways.paypal import provider\nfrom paidonce.ports import SystemClock\n"
        "environment = provider.sandbox_environment('http://127.0.0.1:9')\n"
        "assert provider.configure(environment, None, SystemClock()) is not None\n"
        "assert provider.sandbox('http://127.0.0.1:9').take_webhooks(now=1) == []\n"
        "print(*[m for m in ('cryptography', 'certifi') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == ""


def test_importing_the_provider_is_light() -> None:
    code = (
        "import sys, paidonce.gateways.paypal\n"
        "heavy = ('aiohttp', 'structlog', 'cryptography', 'paidonce.gateways.paypal.sandbox')\n"
        "print(*[m for m in heavy if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == ""
