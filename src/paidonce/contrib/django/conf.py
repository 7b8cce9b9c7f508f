"""`settings.PAIDONCE`: what a Django project says of its shop. The gateways' keys come from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS

from paidonce.errors import ConfigError

NAMES = ("STORE", "RETURN_PATH", "DATABASE", "ACTOR", "SUBSCRIBERS", "ENVIRONMENT")
_PLACEHOLDER = "payment={payment}"


@dataclass(frozen=True, slots=True)
class Conf:
    """The setting, read and checked. Dotted paths are imported later."""

    store: str
    return_path: str
    database: str
    actor: str
    subscribers: Mapping[str, str]
    environment: Mapping[str, str] | None


def read() -> Conf:
    """Raises `ConfigError` with every entry that is missing or can't work, and how to mend it."""
    given = getattr(settings, "PAIDONCE", None)
    if not isinstance(given, Mapping):
        raise ConfigError(
            [
                'PAIDONCE: is missing in Django\'s settings; write PAIDONCE = {"STORE": "shop.payments.ShopStore",'
                ' "RETURN_PATH": "/orders/{order}/pay/?payment={payment}"}'
            ]
        )
    problems = [*_unknown(given), *_wrong(given)]
    if problems:
        raise ConfigError(problems)
    return Conf(
        store=given["STORE"],
        return_path=given["RETURN_PATH"],
        database=given.get("DATABASE", DEFAULT_DB_ALIAS),
        actor=given.get("ACTOR", "paidonce.contrib.django.auth.signed_in"),
        subscribers=given.get("SUBSCRIBERS", {}),
        environment=given.get("ENVIRONMENT"),
    )


def _unknown(given: Mapping[str, Any]) -> list[str]:
    surplus = sorted(str(name) for name in given if name not in NAMES)
    return [f"PAIDONCE[{name!r}]: is not known; there are {', '.join(NAMES)}" for name in surplus]


def _wrong(given: Mapping[str, Any]) -> list[str]:
    problems = []
    if not _is_text(given.get("STORE")):
        problems.append("PAIDONCE['STORE']: is missing; name your store, such as \"shop.payments.ShopStore\"")
    back = given.get("RETURN_PATH")
    if not _is_text(back) or not str(back).startswith("/") or not str(back).endswith(_PLACEHOLDER):
        problems.append(
            "PAIDONCE['RETURN_PATH']: write the path of your pay page, to which a gateway's redirect brings the buyer"
            f' back; it ends with {_PLACEHOLDER}, such as "/orders/{{order}}/pay/?{_PLACEHOLDER}"'
        )
    alias = given.get("DATABASE", DEFAULT_DB_ALIAS)
    if alias not in settings.DATABASES:
        problems.append(f"PAIDONCE['DATABASE']: there is no {alias!r} in DATABASES; name one that is there")
    if not isinstance(given.get("SUBSCRIBERS", {}), Mapping):
        problems.append('PAIDONCE[\'SUBSCRIBERS\']: is a mapping from names to functions, {"mail": "shop.mail.tell"}')
    return problems


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
