"""Settings from the environment and `.env`. Wrong ones stop the start, each with its name and the fix.

Gateways read their own settings from the same mapping (`read_environment`); nothing here knows a gateway's name.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from dotenv import dotenv_values
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from paidonce import guard
from paidonce.core import Declines, Policy
from paidonce.deliveries import Endpoints, Subscriber
from paidonce.errors import ConfigError
from paidonce.gateways.base import CaptureMethod
from paidonce.money import Money, MoneyError, from_decimal_string, iso_exponent
from paidonce.secret import Secret
from paidonce.store import LARGEST_QUANTITY, OrderBounds

SECRET_KEY_MIN_LENGTH = 32
_MAKE_A_KEY = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(48))"'
EVENT_SECRET_MIN_BYTES = 24
MOST_EVENT_URLS = 20
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
_MAKE_ONE_FOR_EVENTS = (
    "make one with: python3 -c"
    " \"import base64, secrets; print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\""
)


class Settings(BaseSettings):
    """What the shop itself needs. Each field is the environment variable `PAIDONCE_<FIELD>` unless it names another."""

    model_config = SettingsConfigDict(
        env_prefix="PAIDONCE_", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    # Typed as a secret, since PostgreSQL's may hold a password.
    database_url: Secret = Secret("sqlite:///paidonce.db")
    # Signs the basket and one-time messages. Whoever knows it can forge those, so it never leaves this process. Two
    # with a space between while the first replaces the second.
    secret_key: Secret
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535, validation_alias="PORT")
    # The address that buyers see; every absolute address is built from it, never from a request's Host header.
    public_url: str = ""
    # Front ends elsewhere that may call the API as the buyer who is signed in: exact origins, with commas between.
    allowed_origins: str = ""
    # Names besides that of the public address to which this server answers (the header Host), with commas between.
    allowed_hosts: str = ""
    # The store of a shop with orders and stock of its own, as module:name, for the commands that work on it.
    store: str = ""
    shop_name: str = Field(default="Fern & Kiln", min_length=1, max_length=60)
    hold_minutes: int = Field(default=20, ge=1, le=24 * 60)
    # How many requests this process works on at once; who comes while it does is told to come back.
    requests_at_once: int = Field(default=512, ge=1, le=100_000)
    # For how many orders at once a buyer, or an address, may hold goods without having paid; 0: no bound.
    open_payments_per_user: int = Field(default=10, ge=0, le=100_000)
    open_payments_per_address: int = Field(default=40, ge=0, le=100_000)
    # The built-in shop's own: how many unpaid orders a buyer may have, and pieces of one product an order.
    open_orders_per_user: int = Field(default=50, ge=1, le=100_000)
    pieces_per_order: int = Field(default=100, ge=1, le=LARGEST_QUANTITY)
    # How many declined attempts per hour before no further payment starts, a fifth of them without waits; 0: no bound.
    declines_per_user: int = Field(default=15, ge=0, le=100_000)
    declines_per_address: int = Field(default=50, ge=0, le=100_000)
    # Where the counts of requests lie: in each process, or shared by all that use the database.
    limits: Literal["memory", "database"] = "memory"
    # Addresses or networks of proxies before the built-in shop whose X-Forwarded-For is believed, with commas between.
    trusted_proxies: str = ""
    session_hours: int = Field(default=7 * 24, ge=1, le=90 * 24)
    # A sign-in that nobody uses ends earlier.
    idle_minutes: int = Field(default=12 * 60, ge=5, le=90 * 24 * 60)
    order_hours: int = Field(default=24, ge=1, le=30 * 24)
    # Manual: confirming reserves the money, and staff capture it when the goods leave.
    capture: CaptureMethod = CaptureMethod.AUTOMATIC
    # Staff who give back more than this of one payment prove again who they are: amounts, with commas between.
    second_look_above: str = ""
    # Recovery and the delivery of events, inside this process. Off where `paidonce worker` runs beside it.
    worker: bool = True
    # The merchant's own systems that hear of events; none are needed. A query may hold a secret of theirs.
    event_urls: Secret = Secret("")
    # Signs what they are sent. Two with a space between while one replaces the other.
    event_secret: Secret = Field(default=Secret(""), validate_default=True)
    event_days: int = Field(default=3, ge=1, le=30)
    # Shows the test cards on the pay page and allows plain http on a local network.
    demo: bool = False
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: Secret) -> Secret:
        try:
            urlsplit(value.get_secret_value())
        except ValueError:
            # Its words may quote all that stands before the path.
            raise ValueError("can't be read; percent-encode signs such as @ : / # ? % [ in the password") from None
        if value.get_secret_value().startswith(("sqlite:///", "postgresql://", "postgres://")):
            return value
        raise ValueError("use sqlite:///relative.db, sqlite:////absolute.db or postgresql://user@host/name")

    @field_validator("secret_key")
    @classmethod
    def _strong_key(cls, value: Secret) -> Secret:
        keys = value.get_secret_value().split()
        if len(keys) > 2:
            raise ValueError("holds one key, or two with a space between while the first replaces the second")
        if not keys or any(len(key) < SECRET_KEY_MIN_LENGTH for key in keys):
            raise ValueError(f"needs at least {SECRET_KEY_MIN_LENGTH} characters and no space; {_MAKE_A_KEY}")
        if any(len(set(key)) < 8 or guard.is_example(key) for key in keys):
            raise ValueError(f"is too easy to guess; {_MAKE_A_KEY}")
        return value

    @field_validator("public_url")
    @classmethod
    def _origin(cls, value: str) -> str:
        if not value:
            return value
        origin = _plain_origin(value)
        if origin is None:
            raise ValueError(
                "is an address without a path, such as https://shop.example (an international name in its xn-- form)"
            )
        return origin

    @field_validator("allowed_origins")
    @classmethod
    def _front_ends(cls, value: str) -> str:
        return ",".join(_front_end(place, text) for place, text in enumerate(_split(value), start=1))

    @field_validator("second_look_above")
    @classmethod
    def _readable_amounts(cls, value: str) -> str:
        _amounts(value)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _plain_names(cls, value: str) -> str:
        for place, text in enumerate(_split(value), start=1):
            if host_name(text) != text.lower().strip("[]"):
                raise ValueError(
                    f"name {place} can't be read; write names or addresses alone, without scheme, port, path and"
                    " pattern, such as www.shop.example (an international name in its xn-- form)"
                )
        return value.lower()

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for place, text in enumerate(_split(value), start=1):
            if not _is_network(text):
                raise ValueError(
                    f"entry {place} is no address and no network; write those of your proxies, such as 10.0.0.7 or"
                    " 10.0.0.0/24. Everybody can't be trusted, or anybody could claim any address"
                )
        return value

    @field_validator("event_urls")
    @classmethod
    def _tellable(cls, value: Secret) -> Secret:
        urls = _split(value.get_secret_value())
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
    def _signs_events(cls, value: Secret, info: ValidationInfo) -> Secret:
        keys = value.get_secret_value().split()
        if not keys and _split(info.data.get("event_urls", Secret("")).get_secret_value()):
            raise ValueError(f"is missing, and events are never sent unsigned; {_MAKE_ONE_FOR_EVENTS}")
        if len(keys) > 2:
            raise ValueError("holds one secret, or two with a space between while one replaces the other")
        if not all(_is_event_secret(one) for one in keys):
            raise ValueError(
                f"is whsec_ and the base64 of at least {EVENT_SECRET_MIN_BYTES} bytes that nobody can guess;"
                f" {_MAKE_ONE_FOR_EVENTS}"
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
    def hosts(self) -> frozenset[str]:
        """The names to which this server answers, in lower case and without ports."""
        named = (text.strip("[]") for text in _split(self.allowed_hosts))
        return frozenset((urlsplit(self.origin).hostname or "", *named))

    @property
    def proxies(self) -> list[str]:
        """The proxies that are believed."""
        return list(_split(self.trusted_proxies))

    @property
    def https(self) -> bool:
        """Whether buyers reach the shop over TLS (cookies are `Secure`, HSTS is sent)."""
        return self.origin.startswith("https://")

    @property
    def signing_keys(self) -> tuple[bytes, ...]:
        """The keys of PAIDONCE_SECRET_KEY. The first signs; what any of them has signed is believed."""
        return tuple(key.encode() for key in self.secret_key.get_secret_value().split())

    @property
    def database_passwords(self) -> tuple[str, ...]:
        """The password in the database's address, as it is written there and as it is meant; none if it has none."""
        parts = urlsplit(self.database_url.get_secret_value())
        named = [value for name, value in parse_qsl(parts.query) if name == "password"]
        found = (parts.password or "", unquote(parts.password or ""), *named)
        return tuple(dict.fromkeys(password for password in found if password))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret in these settings, for whoever has to keep them out of sight."""
        return tuple(
            value
            for value in (
                *self.secret_key.get_secret_value().split(),
                *self.event_secret.get_secret_value().split(),
                *(urlsplit(url).query for url in _split(self.event_urls.get_secret_value())),
                *self.database_passwords,
            )
            if value
        )

    def policy(self) -> Policy:
        """The shop's choices as the core wants them."""
        return Policy(
            hold_seconds=self.hold_minutes * 60,
            order_seconds=self.order_hours * 3600,
            capture_method=self.capture,
            # Whoever tries the test cards one after another in a demonstration does what he is asked to.
            declines=None if self.demo else self._declines(),
            open_payments_per_user=None if self.demo else self.open_payments_per_user or None,
            open_payments_per_address=None if self.demo else self.open_payments_per_address or None,
            second_look_above=_amounts(self.second_look_above),
        )

    def _declines(self) -> Declines:
        user, address = self.declines_per_user or None, self.declines_per_address or None
        return Declines(per_order=user, per_user=user, per_address=address)

    def order_bounds(self) -> OrderBounds:
        """What an order of the built-in shop may be."""
        return OrderBounds(unpaid=None if self.demo else self.open_orders_per_user, pieces=self.pieces_per_order)

    def endpoints(self, subscribers: Mapping[str, Subscriber] | None = None) -> Endpoints:
        """Whom events are told to: the configured addresses, and `subscribers` of this process by their names."""
        return Endpoints(
            urls=_split(self.event_urls.get_secret_value()),
            secret=self.event_secret,
            subscribers=dict(subscribers or {}),
            retry_days=self.event_days,
        )


class _FromMapping(EnvSettingsSource):
    """Reads one mapping instead of the process's environment, so that tests and gateways see the very same values."""

    def __init__(self, settings_cls: type[BaseSettings], environment: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.env_vars = {name.lower(): value for name, value in environment.items() if value != ""}


def read_environment(env_file: str | Path = ".env") -> guard.Environment:
    """The environment, with what `.env` adds; a variable that is set beats the file."""
    from_file = {name: value for name, value in dotenv_values(env_file).items() if value is not None}
    return guard.Environment({**from_file, **os.environ}, file=Path(env_file), from_file=from_file)


def load_settings(environment: Mapping[str, str] | None = None, *, built_in_shop: bool | None = None) -> Settings:
    """The shop's settings from `environment` (default: `read_environment()`).

    Only the built-in shop's pages sign something, so PAIDONCE_SECRET_KEY may be missing where `built_in_shop` is False
    (by default: where PAIDONCE_STORE names another store) and no counts are shared. Raises `ConfigError` with every
    setting that is missing, unreadable or contradicts another.
    """
    values = read_environment() if environment is None else environment
    signs = not values.get("PAIDONCE_STORE") if built_in_shop is None else built_in_shop
    # Processes that share their counts have to make the same keys of them.
    if not signs and values.get("PAIDONCE_LIMITS") != "database":
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


def _amounts(text: str) -> dict[str, int] | None:
    """`100.00 EUR, 12000 JPY` as minor units by currency; None for nothing. Raises `ValueError`."""
    limits: dict[str, int] = {}
    for part in _split(text):
        amount, _, currency = (word.strip() for word in part.partition(" "))
        try:
            limit = Money(from_decimal_string(amount, iso_exponent(currency)), currency)
        except MoneyError as error:
            raise ValueError(f"{error}; write amounts with their currencies, such as 100.00 EUR, 120.00 USD") from None
        if limit.minor < 0 or limit.currency in limits:
            raise ValueError("needs one amount for each currency, from zero on, such as 100.00 EUR, 120.00 USD")
        limits[limit.currency] = limit.minor
    return limits or None


def _front_end(place: int, text: str) -> str:
    """An allowed origin as browsers write it. Raises `ValueError` without quoting it, since it may hold a password."""
    if "*" in text:
        raise ValueError(
            f"origin {place} is a pattern, and any site that fits it could act for a buyer who is signed in;"
            " name each front end, such as https://www.shop.example"
        )
    origin = _plain_origin(text)
    if origin is None:
        raise ValueError(
            f"origin {place} can't be read; write scheme, host and port without a path, such as"
            " https://www.shop.example (an international name in its xn-- form)"
        )
    if origin.startswith("http:") and not is_loopback(urlsplit(origin).hostname or ""):
        raise ValueError(f"origin {place} needs https (plain http only for this machine itself)")
    return origin


def _plain_origin(text: str) -> str | None:
    """Scheme, host and port as browsers write them: without the usual port. None for what is no origin, or more."""
    # What is read leaves out line breaks and tabs without a word.
    if not text.isascii() or not text.isprintable():
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        # Its words may quote all that stands before the path.
        return None
    rest = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in {"http", "https"} or rest or port == 0 or not host or host_name(parts.netloc) != host:
        return None
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
    if guard.is_example(encoded) or len(set(key)) < 4:
        return False
    return prefix == "whsec_" and len(key) >= EVENT_SECRET_MIN_BYTES


def _is_network(text: str) -> bool:
    try:
        return ipaddress.ip_network(text).prefixlen > 0
    except ValueError:
        return False


def host_name(text: str) -> str:
    """The name in a header `Host`, in lower case, without port and brackets; empty for what is no name."""
    found = _HOST.fullmatch(text)
    return found[1].strip("[]").lower().rstrip(".") if found else ""


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
