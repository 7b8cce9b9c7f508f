"""Mollie's settings: read, checked as a whole, and never printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from paidonce.errors import ConfigError
from paidonce.secret import Secret

NAMES: tuple[str, ...] = ("MOLLIE_API_KEY", "MOLLIE_API_BASE")
API_BASE = "https://api.mollie.com"
# Everybody can read it here, so it is of no use outside the offline twin.
SANDBOX_KEY = "test_offlineSandboxOnly0000000000"

# https://docs.mollie.com/reference/authentication: an API key says its mode. Access tokens of organisations begin
# otherwise and need other parameters with each call, so they are refused.
_KEY = re.compile(r"(live|test)_[A-Za-z0-9]{20,64}")
_KEY_FIX = "copy the API key (live_… or test_…) of your profile from Mollie's dashboard, Developers, API keys"


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings. `live` is the key's mode; `api_base` has neither a slash nor `/v2` at its end."""

    api_key: Secret
    api_base: str
    live: bool

    @property
    def beside_us(self) -> bool:
        """Whether the API is on this machine, so that it can reach a shop which is here as well."""
        return is_loopback(urlsplit(self.api_base).hostname)


def read_settings(environment: Mapping[str, str]) -> Settings | None:
    """The settings in `environment`, or None without a key (Mollie is then not offered).

    Raises `ConfigError` with every problem at once; no message contains a value.
    """
    key, base = (environment.get(name, "").strip() for name in NAMES)
    if not key:
        return None
    live = key.startswith("live_")
    problems = [*_key_problems(key), *_address_problems(base)]
    if live and base:
        problems.append(
            "MOLLIE_API_BASE must not be set while MOLLIE_API_KEY is a live key, since real money goes only to "
            "Mollie's own address: remove MOLLIE_API_BASE, or use a test key."
        )
    if key == SANDBOX_KEY and base.rstrip("/") in {"", API_BASE}:
        problems.append(
            "MOLLIE_API_KEY is the offline sandbox's, which Mollie does not know: set your profile's own test key, or "
            "set MOLLIE_API_BASE to the offline sandbox's address."
        )
    if problems:
        raise ConfigError(problems)
    return Settings(api_key=Secret(key), api_base=base.rstrip("/") or API_BASE, live=live)


def is_loopback(host: str | None) -> bool:
    """Whether `host` is this machine itself."""
    if host is None or host == "localhost":
        return host is not None
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _key_problems(key: str) -> list[str]:
    if not _KEY.fullmatch(key):
        return [f"MOLLIE_API_KEY is no API key of Mollie: {_KEY_FIX}."]
    return []


def _address_problems(base: str) -> list[str]:
    if not base:
        return []
    parts = _split(base)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        return ["MOLLIE_API_BASE is not an address: write it in full, such as https://host/path, or remove it."]
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return ["MOLLIE_API_BASE has a user name, a query or a fragment: write scheme, host, port and path only."]
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        return ["MOLLIE_API_BASE is not encrypted: use https:// (http:// is for this machine's own addresses only)."]
    if parts.path.rstrip("/").endswith("/v2"):
        return ["MOLLIE_API_BASE ends in /v2, which is added to it: leave that part out."]
    return []


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
