"""`manage.py paidonce_doctor`: settings, database, tables and the gateways' keys, looked at one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError

from paidonce.contrib.django import checks, conf
from paidonce.contrib.django.commands import NOT_CURRENT
from paidonce.contrib.django.commands import Command as Base
from paidonce.contrib.django.driver import run
from paidonce.contrib.django.runtime import runtime
from paidonce.contrib.django.schema import is_current
from paidonce.errors import GatewayError, PaidonceError
from paidonce.gateways.base import Gateway


class Command(Base):
    """Looks, and changes nothing."""

    help = "Look whether payments can work: settings, database, tables, and each gateway's keys by a harmless call."
    needs_tables = False

    def work(self, **_: Any) -> None:
        """Tell each finding. Raises `CommandError` if one of them has to be mended."""
        wrong = 0
        for problem, text in _findings():
            wrong += problem
            self.stdout.write(f"{'WRONG' if problem else 'ok   '}  {text}")
        if wrong:
            raise CommandError(f"{wrong} of these {'has' if wrong == 1 else 'have'} to be mended.")


def _findings() -> Iterator[tuple[bool, str]]:
    """Whether each is wrong, and what was found."""
    told = checks.check_settings()
    for one in told:
        yield one.is_serious(), " ".join(filter(None, [one.msg, one.hint]))
    if any(one.is_serious() for one in told):
        return
    yield False, "settings"
    yield _tables()
    gateways = runtime().core.gateways
    if not gateways:
        yield (
            True,
            "No gateway has keys. Set those of one in the environment or .env; docs/configuration.md lists them.",
        )
    for gateway in gateways.values():
        yield _keys(gateway)


def _tables() -> tuple[bool, str]:
    alias = conf.read().database
    try:
        current = is_current(alias)
    except PaidonceError as error:
        return True, f"database {alias!r}: {error}"
    return (False, f"database {alias!r} and its tables") if current else (True, NOT_CURRENT)


def _keys(gateway: Gateway) -> tuple[bool, str]:
    try:
        account = run(gateway.account())
    except GatewayError as error:
        return True, f"{gateway.name}: {error}"
    mode = "LIVE: real money" if account.live else "test mode"
    return False, f"{gateway.name}: account {account.id}, {mode}"
