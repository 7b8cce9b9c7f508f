"""The settings: complete, consistent, or a message that names the setting and never a key."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paidonce.errors import ConfigError
from paidonce.gateways.stripe import provider
from paidonce.gateways.stripe.settings import SANDBOX_WEBHOOK_SECRET, Settings, component_csp, read_settings

TEST = {"STRIPE_SECRET_KEY": "sk_test_canary1", "STRIPE_PUBLISHABLE_KEY": "pk_test_canary2"}
LIVE = {"STRIPE_SECRET_KEY": "sk_live_canary1", "STRIPE_PUBLISHABLE_KEY": "pk_live_canary2"}


def settings(**changes: str) -> Settings:
    read = read_settings({**TEST, **changes})
    assert read is not None
    return read


@pytest.mark.parametrize("environment", [{}, {"STRIPE_SECRET_KEY": "", "STRIPE_PUBLISHABLE_KEY": " "}, {"HOME": "/"}])
def test_without_keys_stripe_is_not_offered(environment: dict[str, str]) -> None:
    assert read_settings(environment) is None


def test_test_and_live_keys_are_told_apart() -> None:
    assert settings().live is False
    assert settings(STRIPE_SECRET_KEY="rk_test_canary1").live is False
    live = read_settings(LIVE)
    assert live is not None
    assert (live.live, live.api_base) == (True, "https://api.stripe.com")
    assert live.js_url.startswith("https://js.stripe.com/")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"STRIPE_SECRET_KEY": "sk_test_canary1"}, "STRIPE_PUBLISHABLE_KEY"),
        ({"STRIPE_PUBLISHABLE_KEY": "pk_test_canary2"}, "STRIPE_SECRET_KEY"),
        ({**TEST, "STRIPE_SECRET_KEY": "pk_test_canary2"}, "STRIPE_SECRET_KEY"),
        ({**TEST, "STRIPE_PUBLISHABLE_KEY": "sk_test_canary1"}, "STRIPE_PUBLISHABLE_KEY"),
        ({**TEST, "STRIPE_SECRET_KEY": "sk_test_"}, "STRIPE_SECRET_KEY"),
        ({**TEST, "STRIPE_SECRET_KEY": "sk_test_canary1\nX: y"}, "STRIPE_SECRET_KEY"),
        ({**TEST, "STRIPE_SECRET_KEY": "sk_live_canary1"}, "different modes"),
        ({**TEST, "STRIPE_PUBLISHABLE_KEY": "pk_live_canary2"}, "different modes"),
        ({**TEST, "STRIPE_WEBHOOK_SECRET": ""}, "STRIPE_WEBHOOK_SECRET"),
        ({**TEST, "STRIPE_WEBHOOK_SECRET": "canary3"}, "STRIPE_WEBHOOK_SECRET"),
        ({**TEST, "STRIPE_WEBHOOK_SECRET": "whsec_"}, "STRIPE_WEBHOOK_SECRET"),
        ({**TEST, "STRIPE_WEBHOOK_SECRET": "whsec_canary3,"}, "STRIPE_WEBHOOK_SECRET"),
        ({**TEST, "STRIPE_WEBHOOK_SECRET": "whsec_canary3,canary4"}, "STRIPE_WEBHOOK_SECRET"),
        ({**TEST, "STRIPE_WEBHOOK_SECRET": "whsec_canary3 whsec_canary4"}, "STRIPE_WEBHOOK_SECRET"),
        ({**TEST, "STRIPE_API_BASE": "http://stripe.example"}, "STRIPE_API_BASE"),
        ({**TEST, "STRIPE_API_BASE": "http://127.0.0.1.evil.example"}, "STRIPE_API_BASE"),
        ({**TEST, "STRIPE_API_BASE": "https://user:canary4@stripe.example"}, "STRIPE_API_BASE"),
        ({**TEST, "STRIPE_API_BASE": "stripe.example"}, "STRIPE_API_BASE"),
        ({**TEST, "STRIPE_API_BASE": "https://stripe.example:port"}, "STRIPE_API_BASE"),
        ({**TEST, "STRIPE_API_BASE": "https://api.stripe.com/v1"}, "STRIPE_API_BASE"),
        ({**TEST, "STRIPE_JS_URL": "http://cdn.example/stripe.js"}, "STRIPE_JS_URL"),
        ({**TEST, "STRIPE_SECRET_KEY": "sk_test_sandbox"}, "STRIPE_SECRET_KEY is the offline sandbox's"),
        ({**TEST, "STRIPE_WEBHOOK_SECRET": SANDBOX_WEBHOOK_SECRET}, "STRIPE_WEBHOOK_SECRET is the offline sandbox's"),
        ({**LIVE, "STRIPE_API_BASE": "https://stripe.example"}, "STRIPE_API_BASE"),
        ({**LIVE, "STRIPE_JS_URL": "https://js.stripe.com.evil.example/v3/"}, "STRIPE_JS_URL"),
        ({**LIVE, "STRIPE_JS_URL": "http://127.0.0.1:9000/stripe/js/v3"}, "STRIPE_JS_URL"),
    ],
)
def test_each_wrong_setting_is_named_and_no_key_is_printed(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        read_settings(environment)
    assert "canary" not in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({**LIVE, "STRIPE_WEBHOOK_SECRET": "", "STRIPE_API_BASE": "http://stripe.example"})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:9000", "[::1]:9000"])
def test_plain_http_and_a_path_are_fine_on_this_machine(host: str) -> None:
    assert settings(STRIPE_API_BASE=f"http://{host}/stripe/").api_base == f"http://{host}/stripe"


@pytest.mark.parametrize(
    ("given", "secrets"),
    [
        (None, ()),
        ("whsec_canary3", ("whsec_canary3",)),
        (" whsec_canary3 , whsec_canary4 ", ("whsec_canary3", "whsec_canary4")),
        ("whsec_canary3,whsec_canary3", ("whsec_canary3",)),
    ],
)
def test_one_or_two_webhook_secrets(given: str | None, secrets: tuple[str, ...]) -> None:
    changes = {} if given is None else {"STRIPE_WEBHOOK_SECRET": given}
    assert tuple(one.get_secret_value() for one in settings(**changes).webhook_secrets) == secrets


def test_secrets_stay_out_of_the_representation() -> None:
    shown = repr(settings(STRIPE_WEBHOOK_SECRET="whsec_canary3"))
    assert "canary1" not in shown
    assert "canary3" not in shown


def test_production_csp_is_what_stripe_documents() -> None:
    assert component_csp(settings()) == {
        "script-src": ("https://js.stripe.com", "https://*.js.stripe.com"),
        "frame-src": ("https://js.stripe.com", "https://*.js.stripe.com", "https://hooks.stripe.com"),
        "connect-src": ("https://api.stripe.com",),
        "img-src": ("https://*.stripe.com",),
    }


def test_an_overridden_script_brings_its_own_origin_and_nothing_of_stripes() -> None:
    csp = component_csp(
        settings(STRIPE_API_BASE="http://127.0.0.1:9001/stripe", STRIPE_JS_URL="http://127.0.0.1:9000/stripe/js/v3")
    )
    assert csp["script-src"] == csp["frame-src"] == ("http://127.0.0.1:9000",)
    assert csp["connect-src"] == ("http://127.0.0.1:9000", "http://127.0.0.1:9001")
    assert "stripe.com" not in str(csp)


def test_the_twins_settings_configure_a_test_gateway() -> None:
    environment = provider.sandbox_environment("http://127.0.0.1:9000")
    assert environment["STRIPE_API_BASE"] == "http://127.0.0.1:9000/stripe"
    read = read_settings(environment)
    assert read is not None
    assert read.live is False
    assert set(environment) <= set(provider.settings)


def test_the_package_without_keys_does_not_load_the_sdk() -> None:
    code = (
        "import sys; from paidonce.gateways.stripe import provider; from paidonce.ports import SystemClock;"
        "assert provider.configure({}, None, SystemClock()) is None;"
        "sys.exit(any(name in sys.modules for name in ('stripe', 'aiohttp', 'requests')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
