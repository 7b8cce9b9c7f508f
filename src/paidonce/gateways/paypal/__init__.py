"""PayPal: settings in, a gateway out. Importing this loads neither the client nor the offline twin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paidonce.errors import ConfigError
from paidonce.secret import Secret

if TYPE_CHECKING:
    from paidonce.gateways.base import Gateway, SandboxCore, Transport
    from paidonce.gateways.paypal.gateway import PayPalSettings
    from paidonce.ports import Clock

_KEYS = ("PAYPAL_CLIENT_ID", "PAYPAL_CLIENT_SECRET", "PAYPAL_MERCHANT_ID")
_API_BASE = {"sandbox": "https://api-m.sandbox.paypal.com", "live": "https://api-m.paypal.com"}
_JS_URL = {
    "sandbox": "https://www.sandbox.paypal.com/web-sdk/v6/core",
    "live": "https://www.paypal.com/web-sdk/v6/core",
}
# PayPal's merchant ids: 13 of these characters (schema `account_id` of its OpenAPI file).
_MERCHANT_ID = re.compile(r"[2-9A-HJ-NP-Z]{13}")
# Letters, digits and dashes. A vertical bar would make the text that PayPal signs ambiguous.
_WEBHOOK_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_LIVE_HOSTS = frozenset({"api-m.paypal.com", "api.paypal.com", "www.paypal.com"})
_SANDBOX_HOSTS = frozenset({"api-m.sandbox.paypal.com", "api.sandbox.paypal.com"})
_FIX = {
    "PAYPAL_CLIENT_ID": "copy the client ID of your app from developer.paypal.com, Apps & Credentials",
    "PAYPAL_CLIENT_SECRET": "copy the secret of the same app from developer.paypal.com, Apps & Credentials",
    "PAYPAL_MERCHANT_ID": "copy the 13-character merchant ID from your PayPal account's business information",
    "PAYPAL_WEBHOOK_ID": "copy the ID of the webhook itself (not its address) from your app at developer.paypal.com",
}
# The keys that the offline twin takes. They are no secrets.
_SANDBOX_CLIENT_ID = "sandbox-paypal-client-id"
_SANDBOX_CLIENT_SECRET = "sandbox-paypal-client-secret"  # noqa: S105 - the twin's well-known value, of no use elsewhere


class PayPalProvider:
    """Implements `gateways.base.Provider`."""

    name = "paypal"
    settings = (
        "PAYPAL_CLIENT_ID",
        "PAYPAL_CLIENT_SECRET",
        "PAYPAL_MERCHANT_ID",
        "PAYPAL_WEBHOOK_ID",
        "PAYPAL_ENVIRONMENT",
        "PAYPAL_API_BASE",
        "PAYPAL_JS_URL",
    )
    secret_settings = ("PAYPAL_CLIENT_SECRET",)
    # Access tokens, and the secrets of apps. Its client ids look alike, and nobody needs those in a log.
    secret_shapes = (
        r"A21AA[A-Za-z0-9_-]{8,}",
        r"[AE][A-Za-z0-9_-]{79}(?![A-Za-z0-9_-])",
    )

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> Gateway | None:
        """The gateway, or None if no PayPal key is set. Raises `ConfigError` naming each wrong setting and its fix."""
        settings = read_settings(environment)
        if settings is None:
            return None
        from paidonce.gateways.paypal.client import PayPalClient
        from paidonce.gateways.paypal.gateway import PayPalGateway
        from paidonce.gateways.paypal.webhook import Webhooks

        client = PayPalClient(
            transport,
            clock,
            base_url=settings.api_base,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
        )
        return PayPalGateway(settings, client, Webhooks(settings, transport, clock))

    def sandbox(self, public_url: str) -> SandboxCore:
        """The offline PayPal, mounted by the sandbox application below `<public_url>/paypal`."""
        from paidonce.gateways.paypal.sandbox import PayPalSandbox

        return PayPalSandbox(public_url.rstrip("/") + "/paypal")

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        """Settings for the offline PayPal of the sandbox application at `public_url`."""
        from paidonce.gateways.paypal.sandbox import MERCHANT_ID, WEBHOOK_ID

        base = public_url.rstrip("/") + "/paypal"
        return {
            "PAYPAL_CLIENT_ID": _SANDBOX_CLIENT_ID,
            "PAYPAL_CLIENT_SECRET": _SANDBOX_CLIENT_SECRET,
            "PAYPAL_MERCHANT_ID": MERCHANT_ID,
            "PAYPAL_WEBHOOK_ID": WEBHOOK_ID,
            "PAYPAL_ENVIRONMENT": "sandbox",
            "PAYPAL_API_BASE": base,
            "PAYPAL_JS_URL": base + "/web-sdk/v6/core",
        }


def read_settings(environment: Mapping[str, str]) -> PayPalSettings | None:
    """The checked settings, or None if no PayPal key is set. Raises `ConfigError`, whose messages hold no key."""
    given = {name: environment.get(name, "").strip() for name in PayPalProvider.settings}
    if not any(given[name] for name in _KEYS):
        return None
    problems = [f"{name} is not set: {_FIX[name]}." for name in _KEYS if not given[name]]
    mode = given["PAYPAL_ENVIRONMENT"] or "sandbox"
    problems += _mode_problems(given, mode)
    for name in ("PAYPAL_API_BASE", "PAYPAL_JS_URL"):
        problems += _address_problems(name, given[name])
    if given["PAYPAL_MERCHANT_ID"] and not _MERCHANT_ID.fullmatch(given["PAYPAL_MERCHANT_ID"]):
        fix = _FIX["PAYPAL_MERCHANT_ID"]
        problems.append(f"PAYPAL_MERCHANT_ID is no merchant ID (an e-mail address is not one): {fix}.")
    problems += _webhook_problems(environment.get("PAYPAL_WEBHOOK_ID"))
    if problems:
        raise ConfigError(problems)
    from paidonce.gateways.paypal.gateway import PayPalSettings

    return PayPalSettings(
        client_id=given["PAYPAL_CLIENT_ID"],
        client_secret=Secret(given["PAYPAL_CLIENT_SECRET"]),
        merchant_id=given["PAYPAL_MERCHANT_ID"],
        live=mode == "live",
        api_base=(given["PAYPAL_API_BASE"] or _API_BASE[mode]).rstrip("/"),
        js_url=given["PAYPAL_JS_URL"] or _JS_URL[mode],
        js_url_is_ours=bool(given["PAYPAL_JS_URL"]) and given["PAYPAL_JS_URL"] not in _JS_URL.values(),
        api_base_is_ours=_is_ours(given["PAYPAL_API_BASE"]),
        webhook_id=given["PAYPAL_WEBHOOK_ID"] or None,
    )


def _is_ours(address: str) -> bool:
    """Whether PAYPAL_API_BASE replaces PayPal's own addresses, so that certificates come from there as well."""
    try:
        return bool(address) and urlsplit(address).hostname not in _SANDBOX_HOSTS
    except ValueError:
        return False


def _mode_problems(given: Mapping[str, str], mode: str) -> list[str]:
    if mode not in _API_BASE:
        return ["PAYPAL_ENVIRONMENT must be 'sandbox' or 'live'."]
    if mode == "sandbox":
        return _twin_problems(given)
    problems = [
        f"{name} must not be set while PAYPAL_ENVIRONMENT is 'live', since real money goes only to PayPal's own "
        f"address: remove {name}, or set PAYPAL_ENVIRONMENT to 'sandbox'."
        for name in ("PAYPAL_API_BASE", "PAYPAL_JS_URL")
        if given[name]
    ]
    problems += [
        f"{name} belongs to the offline sandbox while PAYPAL_ENVIRONMENT is 'live': "
        f"{_FIX[name]}, or set PAYPAL_ENVIRONMENT to 'sandbox'."
        for name in ("PAYPAL_CLIENT_ID", "PAYPAL_CLIENT_SECRET")
        if given[name].startswith("sandbox")
    ]
    return problems


def _twin_problems(given: Mapping[str, str]) -> list[str]:
    """The offline twin's well-known keys are of no use at PayPal's own addresses."""
    if _is_ours(given["PAYPAL_API_BASE"]):
        return []
    wellknown = {"PAYPAL_CLIENT_ID": _SANDBOX_CLIENT_ID, "PAYPAL_CLIENT_SECRET": _SANDBOX_CLIENT_SECRET}
    return [
        f"{name} is the offline sandbox's, which PayPal does not know: {_FIX[name]}, or set PAYPAL_API_BASE to the "
        "offline sandbox's address."
        for name, value in wellknown.items()
        if given[name] == value
    ]


def _webhook_problems(value: str | None) -> list[str]:
    """What is wrong with PAYPAL_WEBHOOK_ID; None means that it was left out on purpose."""
    if value is None:
        return []
    fix = _FIX["PAYPAL_WEBHOOK_ID"]
    if not value.strip():
        # Whoever set it expects webhooks, and would find out by their absence.
        return [f"PAYPAL_WEBHOOK_ID is empty: {fix}, or remove the setting to do without webhooks."]
    return [] if _WEBHOOK_ID.fullmatch(value.strip()) else [f"PAYPAL_WEBHOOK_ID is no webhook ID: {fix}."]


def _address_problems(name: str, value: str) -> list[str]:
    if not value:
        return []
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        host = None
    if host is None or parts.username or parts.query or parts.fragment or parts.scheme not in ("http", "https"):
        return [f"{name} is no usable address: give https://host/path without user, query or fragment, or remove it."]
    if host in _LIVE_HOSTS:
        # In live mode the setting is refused altogether, so this one mixes test mode with the live address.
        return [f"{name} is PayPal's live address: remove {name} and choose by PAYPAL_ENVIRONMENT."]
    if parts.scheme == "http" and host not in _LOOPBACK:
        return [f"{name} uses http for {host}: use https (http is allowed for 127.0.0.1 and localhost only)."]
    return []


provider = PayPalProvider()
