"""What every request can reach: one `Shop` per application, kept in `app.state.paidonce`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection

from paidonce.config import Settings
from paidonce.core import Core
from paidonce.gateways.base import Component, Gateway
from paidonce.store import SqlStore
from paidonce.web.accounts import Passwords
from paidonce.web.throttle import Throttle

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(slots=True)
class Shop:
    """The wired application. `core` is set at start-up, once the database is connected."""

    settings: Settings
    gateways: Mapping[str, Gateway]
    components: Mapping[str, Component]
    templates: Environment
    store: SqlStore = field(default_factory=SqlStore)
    passwords: Passwords = field(default_factory=Passwords)
    throttle: Throttle = field(default_factory=Throttle)
    core: Core | None = None

    @property
    def running(self) -> Core:
        """The core; only requests ask for it, and those come after start-up."""
        assert self.core is not None, "a request arrived before start-up"
        return self.core

    def url(self, path: str) -> str:
        """An absolute address of this shop, from the settings and never from the Host header."""
        return self.settings.origin + path

    def sign(self, purpose: str, value: Any) -> str:
        """`value` as text that only this shop can have made, for a cookie."""
        body = base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")
        return f"{body}.{self._mac(purpose, body)}"

    def unsign(self, purpose: str, text: str) -> Any | None:
        """What `sign` was given for the same purpose, or None for anything else."""
        body, _, mac = text.partition(".")
        if not hmac.compare_digest(self._mac(purpose, body).encode(), mac.encode("utf-8", "replace")):
            return None
        try:
            return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error):
            return None

    def _mac(self, purpose: str, body: str) -> str:
        key = self.settings.secret_key.get_secret_value().encode()
        digest = hmac.new(key, f"{purpose}.{body}".encode("utf-8", "replace"), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def shop_of(connection: HTTPConnection) -> Shop:
    """The application's shop."""
    shop: Shop = connection.app.state.paidonce
    return shop
