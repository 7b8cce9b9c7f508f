"""`manage.py check`: what is missing in the settings, named with its fix, before the first buyer finds out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from django.core.checks import Error, Warning, register
from django.urls import NoReverseMatch, reverse

from paidonce.contrib.django import conf, runtime
from paidonce.errors import ConfigError

FINDER = "paidonce.contrib.django.assets.AssetsFinder"
_SQLITE_OPTIONS = (
    '{"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;", "transaction_mode": "IMMEDIATE"}'
)


def register_all() -> None:
    """Called once, when the app is ready."""
    register(check_settings, "paidonce")


def check_settings(app_configs: Any = None, **_: Any) -> list[Any]:
    """Everything that can be seen without a connection."""
    try:
        found = conf.read()
    except ConfigError as error:
        return [_error(1, problem) for problem in error.problems]
    return [
        *_problems(2, runtime.build),
        *_database(found.database),
        *_urls(),
        *_static_files(),
        *_apps(),
        *_browser(),
    ]


def _problems(number: int, work: Callable[[], object]) -> list[Any]:
    try:
        work()
    except ConfigError as error:
        return [_error(number, problem) for problem in error.problems]
    return []


def _error(number: int, message: str, hint: str | None = None) -> Any:
    return Error(message, hint=hint, id=f"paidonce.E{number:03}")


def _database(alias: str) -> Iterator[Any]:
    database = settings.DATABASES[alias]
    if not database["ENGINE"].endswith("sqlite3"):
        return
    options = database.get("OPTIONS", {})
    if "wal" not in str(options.get("init_command", "")).lower():
        yield Warning(
            f"DATABASES[{alias!r}] is SQLite without a write-ahead log: readers and writers keep each other waiting.",
            hint=f'Set "OPTIONS": {_SQLITE_OPTIONS}.',
            id="paidonce.W001",
        )


def _urls() -> Iterator[Any]:
    try:
        reverse("paidonce:webhook", args=["example"])
    except NoReverseMatch:
        yield _error(
            3, "The addresses of paidonce are in no URLconf.", 'Add path("", include("paidonce.contrib.django.urls")).'
        )


def _static_files() -> Iterator[Any]:
    if FINDER not in getattr(settings, "STATICFILES_FINDERS", []):
        yield _error(
            4,
            "The payment components are not among the static files.",
            f'Add "{FINDER}" to STATICFILES_FINDERS, behind the two of Django\'s own.',
        )


def _apps() -> Iterator[Any]:
    if "django.contrib.staticfiles" not in settings.INSTALLED_APPS:
        yield _error(
            5, "The payment components need static files.", 'Add "django.contrib.staticfiles" to INSTALLED_APPS.'
        )


def _browser() -> Iterator[Any]:
    middleware = "django.middleware.security.SecurityMiddleware" in settings.MIDDLEWARE
    if middleware and settings.SECURE_CROSS_ORIGIN_OPENER_POLICY == "same-origin":
        yield Warning(
            "Browsers cut the payment windows that gateways open off from the page that waits for them.",
            hint='Set SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin-allow-popups".',
            id="paidonce.W002",
        )
    if "//" in settings.STATIC_URL:
        yield Warning(
            "STATIC_URL is another host's, and the payment elements load modules from the shop's own address only.",
            hint="Serve the files below static/paidonce/ at a path of the shop.",
            id="paidonce.W003",
        )
