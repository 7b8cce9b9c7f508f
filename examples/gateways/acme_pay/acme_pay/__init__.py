"""AcmePay, a fictional gateway in a folder of its own. `provider` is what paidonce looks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paidonce.errors import ConfigError

if TYPE_CHECKING:
    from paidonce.gateways.base import Gateway, SandboxCore, Transport
    from paidonce.ports import Clock

_API_BASE = "https://api.acme-pay.example"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_WEBHOOK_SECRET = re.compile(r"acme_whsec_[A-Za-z0-9_]{16,200}")
# Everybody can read it here, so it proves nothing outside the offline twin.
SANDBOX_WEBHOOK_SECRET = "acme_whsec_offline_sandbox_only"  # noqa: S105


class AcmePayProvider:
    """Implements `gateways.base.Provider`."""

    name = "acme_pay"
    settings = ("ACME_PAY_KEY", "ACME_PAY_WEBHOOK_SECRET", "ACME_PAY_API_BASE")
    secret_settings = ("ACME_PAY_KEY", "ACME_PAY_WEBHOOK_SECRET")
    secret_shapes = (r"acme_(?:test|live)_[A-Za-z0-9_]+", r"acme_whsec_[A-Za-z0-9_]+")

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> Gateway | None:
        """The gateway, or None without a key. Raises `ConfigError` that names each wrong setting and its fix."""
        key = environment.get("ACME_PAY_KEY", "").strip()
        api_base = environment.get("ACME_PAY_API_BASE", "").strip().rstrip("/")
        if not key:
            return None
        # Left out means no webhooks, while an empty secret would accept what everybody can sign.
        secret = environment.get("ACME_PAY_WEBHOOK_SECRET")
        live = key.startswith("acme_live_")
        problems = [
            *_key_problems(key),
            *_webhook_problems(secret, live=live),
            *_address_problems(api_base, live=live),
        ]
        if problems:
            raise ConfigError(problems)
        from acme_pay.gateway import AcmePayGateway, Settings

        return AcmePayGateway(Settings(key, api_base or _API_BASE, secret), transport, clock)

    def sandbox(self, public_url: str) -> SandboxCore:
        """The offline twin, mounted at `<public_url>/acme_pay`."""
        from acme_pay.sandbox import AcmePaySandbox

        return AcmePaySandbox(f"{public_url.rstrip('/')}/{self.name}")

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        """The twin's address, the key that it takes, and the secret that it signs webhooks with."""
        return {
            "ACME_PAY_KEY": "acme_test_sandbox",
            "ACME_PAY_WEBHOOK_SECRET": SANDBOX_WEBHOOK_SECRET,
            "ACME_PAY_API_BASE": f"{public_url.rstrip('/')}/{self.name}",
        }


def _key_problems(key: str) -> list[str]:
    if key.startswith(("acme_test_", "acme_live_")) and key.isascii() and key.isprintable():
        return []
    return ["ACME_PAY_KEY is no key of AcmePay: copy one that begins with acme_test_ or acme_live_ from its dashboard."]


def _webhook_problems(secret: str | None, *, live: bool) -> list[str]:
    if secret is None:
        return []
    if not _WEBHOOK_SECRET.fullmatch(secret):
        return [
            "ACME_PAY_WEBHOOK_SECRET is no webhook secret of AcmePay: copy the one that begins with acme_whsec_ "
            "from its dashboard, or remove the setting."
        ]
    if live and secret == SANDBOX_WEBHOOK_SECRET:
        return [
            "ACME_PAY_WEBHOOK_SECRET is the offline sandbox's while ACME_PAY_KEY is a live key: "
            "everybody knows that one, so set your endpoint's own."
        ]
    return []


def _address_problems(api_base: str, *, live: bool) -> list[str]:
    if not api_base:
        return []
    if live:
        return [
            "ACME_PAY_API_BASE is set while ACME_PAY_KEY is a live key: "
            "remove ACME_PAY_API_BASE, or use an acme_test_ key."
        ]
    try:
        parts = urlsplit(api_base)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        plain = bool(parts.hostname) and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        safe = plain = False
    if safe and plain:
        return []
    return [
        "ACME_PAY_API_BASE is no usable address: give https://host/path (http for this machine only), or remove it."
    ]


provider = AcmePayProvider()
