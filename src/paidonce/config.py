"""Settings from the environment and `.env`. Wrong ones stop the start, each with its name and the fix.

Gateways read their own settings from the same mapping (`read_environment`); nothing here knows a gateway's name.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from paidonce.core import Policy
from paidonce.deliveries import Endpoints, Subscriber
from paidonce.errors import ConfigError
from paidonce.gateways.base import CaptureMethod

SECRET_KEY_MIN_LENGTH = 32
_MAKE_A_KEY = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
EVENT_SECRET_MIN_BYTES = 24
MOST_EVENT_URLS = 20
_MAKE_ONE_FOR_EVENTS = (
    "make one with: python3 -c"
    " \"import base64, secrets; print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""
)


class Settings(BaseSettings):
    """What the shop itself needs. Each field is the environment variable `PAIDONCE_<FIELD>` unless it names another."""

    model_config = SettingsConfigDict(
        env_prefix="PAIDONCE_", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    database_url: str = "sqlite:///paidonce.db"
    # Signs the basket and one-time messages. Whoever knows it can forge those, so it never leaves this process.
    secret_key: SecretStr
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535, validation_alias="PORT")
    # The address that buyers see; every absolute address is built from it, never from a request's Host header.
    public_url: str = ""
    # Front ends elsewhere that may call the API as the buyer who is signed in: exact origins, with commas between.
    allowed_origins: str = ""
    # The store of a shop with orders and stock of its own, as module:name, for the commands that work on it.
    store: str = ""
    shop_name: str = Field(default="Fern & Kiln", min_length=1, max_length=60)
    hold_minutes: int = Field(default=20, ge=1, le=24 * 60)
    session_hours: int = Field(default=7 * 24, ge=1, le=90 * 24)
    order_hours: int = Field(default=24, ge=1, le=30 * 24)
    # Manual: confirming reserves the money, and staff capture it when the goods leave.
    capture: CaptureMethod = CaptureMethod.AUTOMATIC
    # Recovery and the delivery of events, inside this process. Off where `paidonce worker` runs beside it.
    worker: bool = True
    # The merchant's own systems that hear of events; none are needed.
    event_urls: str = ""
    # Signs what they are sent. Two with a space between while one replaces the other.
    event_secret: SecretStr = Field(default=SecretStr(""), validate_default=True)
    event_days: int = Field(default=3, ge=1, le=30)
    # Shows the test cards on the pay page and allows plain http on a local network.
    demo: bool = False
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if value.startswith(("sqlite:///", "postgresql://", "postgres://")):
            return value
        raise ValueError("use sqlite:///relative.db, sqlite:////absolute.db or postgresql://user@host/name")

    @field_validator("secret_key")
    @classmethod
    def _strong_key(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if len(text) < SECRET_KEY_MIN_LENGTH:
            raise ValueError(f"needs at least {SECRET_KEY_MIN_LENGTH} characters; {_MAKE_A_KEY}")
        if len(set(text)) < 8:
            raise ValueError(f"is too easy to guess; {_MAKE_A_KEY}")
        return value

    @field_validator("public_url")
    @classmethod
    def _origin(cls, value: str) -> str:
        if not value:
            return value
        parts = urlsplit(value)
        plain = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
            raise ValueError("is an address without a path, such as https://shop.example")
        return f"{parts.scheme}://{parts.netloc.lower()}"

    @field_validator("allowed_origins")
    @classmethod
    def _front_ends(cls, value: str) -> str:
        return ",".join(_front_end(place, text) for place, text in enumerate(_split(value), start=1))

    @field_validator("event_urls")
    @classmethod
    def _tellable(cls, value: str) -> str:
        urls = _split(value)
        if len(urls) > MOST_EVENT_URLS:
            raise ValueError(f"has more than {MOST_EVENT_URLS} addresses")
        if len(set(urls)) < len(urls):
            raise ValueError("names an address twice; each is told once anyway")
        for place, url in enumerate(urls, start=1):
            problem = _event_url_problem(url)
            if problem:
                # The address itself stays out of the message, since its query may hold a secret.
                raise ValueError(f"address {place} {problem}")
        return value

    @field_validator("event_secret")
    @classmethod
    def _signs_events(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        keys = value.get_secret_value().split()
        if not keys and _split(info.data.get("event_urls", "")):
            raise ValueError(f"is missing, and events are never sent unsigned; {_MAKE_ONE_FOR_EVENTS}")
        if len(keys) > 2:
            raise ValueError("holds one secret, or two with a space between while one replaces the other")
        if not all(_is_event_secret(one) for one in keys):
            raise ValueError(
                f"is whsec_ and the base64 of at least {EVENT_SECRET_MIN_BYTES} bytes; {_MAKE_ONE_FOR_EVENTS}"
            )
        return value

    @model_validator(mode="after")
    def _https_in_public(self) -> Self:
        if self.origin.startswith("https://") or self.demo or is_loopback(urlsplit(self.origin).hostname or ""):
            return self
        raise ValueError(
            "PAIDONCE_PUBLIC_URL: sign-in cookies must not travel unencrypted; use https://…, a loopback address for"
            " development, or PAIDONCE_DEMO=1 for a demonstration on a local network"
        )

    @property
    def origin(self) -> str:
        """The public address: scheme, host and port, no slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url or f"http://{host}:{self.port}"

    @property
    def front_ends(self) -> frozenset[str]:
        """The origins of front ends elsewhere, as browsers write them in the header `Origin`."""
        return frozenset(_split(self.allowed_origins))

    @property
    def https(self) -> bool:
        """Whether buyers reach the shop over TLS (cookies are `Secure`, HSTS is sent)."""
        return self.origin.startswith("https://")

    def policy(self) -> Policy:
        """The shop's choices as the core wants them."""
        return Policy(
            hold_seconds=self.hold_minutes * 60, order_seconds=self.order_hours * 3600, capture_method=self.capture
        )

    def endpoints(self, subscribers: Mapping[str, Subscriber] | None = None) -> Endpoints:
        """Whom events are told to: the configured addresses, and `subscribers` of this process by their names."""
        return Endpoints(
            urls=_split(self.event_urls),
            secret=self.event_secret.get_secret_value(),
            subscribers=dict(subscribers or {}),
            retry_days=self.event_days,
        )


class _FromMapping(EnvSettingsSource):
    """Reads one mapping instead of the process's environment, so that tests and gateways see the very same values."""

    def __init__(self, settings_cls: type[BaseSettings], environment: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.env_vars = {name.lower(): value for name, value in environment.items() if value != ""}


def read_environment(env_file: str | Path = ".env") -> dict[str, str]:
    """The environment, with what `.env` adds; a variable that is set beats the file."""
    from_file = {name: value for name, value in dotenv_values(env_file).items() if value is not None}
    return {**from_file, **os.environ}


def load_settings(environment: Mapping[str, str] | None = None, *, built_in_shop: bool | None = None) -> Settings:
    """The shop's settings from `environment` (default: `read_environment()`).

    Only the built-in shop's pages sign something, so PAIDONCE_SECRET_KEY may be missing where `built_in_shop` is False
    (by default: where PAIDONCE_STORE names another store). Raises `ConfigError` with every setting that is missing,
    unreadable or contradicts another.
    """
    values = read_environment() if environment is None else environment
    if not (not values.get("PAIDONCE_STORE") if built_in_shop is None else built_in_shop):
        values = {"PAIDONCE_SECRET_KEY": secrets.token_urlsafe(48), **values}

    class Bound(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: object, **_named: object
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (_FromMapping(settings_cls, values),)

    try:
        return Bound()  # type: ignore[call-arg]  # The source above gives the values.
    except ValidationError as error:
        # `from None`, since the chained error would repeat the values.
        raise ConfigError([_explain(entry) for entry in error.errors(include_input=False, include_url=False)]) from None


def _explain(entry: Any) -> str:
    """One validation error as `NAME: what is wrong and how to mend it`."""
    message = str(entry["msg"]).removeprefix("Value error, ")
    if not entry["loc"]:
        return message
    field = str(entry["loc"][0])
    name = field if field.isupper() else f"PAIDONCE_{field.upper()}"
    if entry["type"] == "missing":
        fix = _MAKE_A_KEY if field == "secret_key" else "set it in the environment or in .env"
        return f"{name}: is missing; {fix}"
    return f"{name}: {message}"


def _split(urls: str) -> tuple[str, ...]:
    return tuple(url for url in (part.strip() for part in urls.split(",")) if url)


def _front_end(place: int, text: str) -> str:
    """An allowed origin as browsers write it. Raises `ValueError` without quoting it, since it may hold a password."""
    if "*" in text:
        raise ValueError(
            f"origin {place} is a pattern, and any site that fits it could act for a buyer who is signed in;"
            " name each front end, such as https://www.shop.example"
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    rest = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    plain = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
    if parts.scheme not in {"http", "https"} or not host or rest or not plain:
        raise ValueError(
            f"origin {place} can't be read; write scheme, host and port without a path, such as"
            " https://www.shop.example (an international name in its xn-- form)"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"origin {place} needs https (plain http only for this machine itself)")
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" if port in (None, usual) else f"{parts.scheme}://{host}:{port}"


def _event_url_problem(url: str) -> str:
    """Why events can't be sent to `url`, without quoting it; empty if they can."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    # Spaces and other such signs would be sent as they are, and say something else than what was meant.
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        return "can't be read; write it like https://erp.example/paidonce, percent-encoded where needed"
    if "@" in parts.netloc:
        return "has a user or password in it, which would end up in logs; the signature says who calls"
    if "#" in url:
        return "has a fragment (#…), which is never sent; remove it"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return "needs https (plain http only to this machine itself), since events tell of buyers' payments"
    return ""


def _is_event_secret(text: str) -> bool:
    prefix, encoded = text[:6], text[6:].rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return prefix == "whsec_" and len(key) >= EVENT_SECRET_MIN_BYTES


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
