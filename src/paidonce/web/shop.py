"""What every request can reach: the wiring of the payments, and with the built-in shop's pages a `Shop` around it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import HTTPConnection
from starlette.types import Scope

from paidonce.config import Settings
from paidonce.core import Core
from paidonce.gateways.base import Component, Gateway
from paidonce.store import SqlStore
from paidonce.web.accounts import Passwords
from paidonce.web.challenge import Challenge
from paidonce.web.integrity import Integrity
from paidonce.web.limits import Limits

if TYPE_CHECKING:
    from jinja2 import Environment

# Where a mounted route leaves its wiring, in the request's scope.
MOUNTED = "paidonce"


@dataclass(kw_only=True, slots=True)
class Wiring:
    """The wired payments. `core` is set at start-up, once the database is connected."""

    settings: Settings
    gateways: Mapping[str, Gateway]
    components: Mapping[str, Component]
    # Where a gateway's redirect brings the buyer back to: a path of the shop with {order} and {payment} in it.
    return_path: str
    core: Core | None = None
    # Asked when too many payments were declined; None refuses the next ones for a while.
    challenge: Challenge | None = None
    _limits: Limits | None = field(default=None, init=False, repr=False)
    # Of the files as they were at start-up.
    integrity: Integrity = field(init=False)

    def __post_init__(self) -> None:
        self.integrity = Integrity.of_components(self.components)

    @property
    def running(self) -> Core:
        """The core; only requests ask for it, and those come after start-up."""
        assert self.core is not None, "a request arrived before start-up"
        return self.core

    @property
    def limits(self) -> Limits:
        """The bounds on how often something is asked. They live as long as the running core."""
        if self._limits is None or self._limits.core is not self.running:
            self._limits = Limits(self.running, self.settings)
        return self._limits

    def url(self, path: str) -> str:
        """An absolute address of this shop, from the settings and never from the Host header."""
        return self.settings.origin + path

    def return_url(self, order_id: str) -> str:
        """The absolute address of the page that a redirect brings back to; `{payment}` is left for the payment's id."""
        return self.url(self.return_path.replace("{order}", quote(order_id, safe="")))


@dataclass(kw_only=True, slots=True)
class Shop(Wiring):
    """The payments together with the built-in shop: its catalogue, orders, accounts and pages."""

    templates: Environment
    store: SqlStore
    passwords: Passwords = field(default_factory=Passwords)

    def sign(self, purpose: str, value: Any) -> str:
        """`value` as text that only this shop can have made, for a cookie."""
        body = base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")
        return f"{body}.{_mac(self.settings.signing_keys[0], purpose, body)}"

    def unsign(self, purpose: str, text: str) -> Any | None:
        """What `sign` was given for the same purpose, also under the key that is being replaced; None for the rest."""
        body, _, mac = text.partition(".")
        given = mac.encode("utf-8", "replace")
        macs = [_mac(key, purpose, body).encode() for key in self.settings.signing_keys]
        if not any([hmac.compare_digest(expected, given) for expected in macs]):
            return None
        try:
            return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error):
            return None


def _mac(key: bytes, purpose: str, body: str) -> str:
    digest = hmac.new(key, f"{purpose}.{body}".encode("utf-8", "replace"), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def route_path(scope: Scope) -> str:
    """The path as the routes see it: without the prefix below which a proxy or another application has mounted ours."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def wiring_of(connection: HTTPConnection) -> Wiring:
    """The payments that this request came to: those of the mounted route, else the application's own."""
    mounted: Wiring | None = connection.scope.get(MOUNTED)
    return connection.app.state.paidonce if mounted is None else mounted


def shop_of(connection: HTTPConnection) -> Shop:
    """The built-in shop; its routes are there only together with it."""
    shop = wiring_of(connection)
    assert isinstance(shop, Shop), "a route of the built-in shop is mounted without it"
    return shop


def has_pages(connection: HTTPConnection) -> bool:
    """Whether the built-in shop's pages surround this request."""
    return isinstance(wiring_of(connection), Shop)
