"""AcmePay, a fictional gateway in a folder of its own. `provider` is what paidonce looks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paidonce.errors import ConfigError

if TYPE_CHECKING:
    from paidonce.gateways.base import Gateway, SandboxCore, Transport
    from paidonce.ports import Clock

_API_BASE = "https://api.acme-pay.example"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class AcmePayProvider:
    """Implements `gateways.base.Provider`."""

    name = "acme_pay"
    settings = ("ACME_PAY_KEY", "ACME_PAY_API_BASE")

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> Gateway | None:
        """The gateway, or None without a key. Raises `ConfigError` that names each wrong setting and its fix."""
        del clock  # AcmePay's client repeats nothing by itself, so it never waits.
        key = environment.get("ACME_PAY_KEY", "").strip()
        api_base = environment.get("ACME_PAY_API_BASE", "").strip().rstrip("/")
        if not key:
            return None
        problems = [*_key_problems(key), *_address_problems(api_base, live=key.startswith("acme_live_"))]
        if problems:
            raise ConfigError(problems)
        from acme_pay.gateway import AcmePayGateway, Settings

        return AcmePayGateway(Settings(key, api_base or _API_BASE), transport)

    def sandbox(self, public_url: str) -> SandboxCore:
        """The offline twin, mounted at `<public_url>/acme_pay`."""
        from acme_pay.sandbox import AcmePaySandbox

        return AcmePaySandbox(f"{public_url.rstrip('/')}/{self.name}")

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        """The twin's address, and the key that it takes."""
        return {
            "ACME_PAY_KEY": "acme_test_sandbox",
            "ACME_PAY_API_BASE": f"{public_url.rstrip('/')}/{self.name}",
        }


def _key_problems(key: str) -> list[str]:
    if key.startswith(("acme_test_", "acme_live_")) and key.isascii() and key.isprintable():
        return []
    return ["ACME_PAY_KEY is no key of AcmePay: copy one that begins with acme_test_ or acme_live_ from its dashboard."]


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
