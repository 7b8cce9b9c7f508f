"""Django, set up once for the whole test process with the example's settings, and a database for each test."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

EXAMPLE = Path(__file__).parents[3] / "examples" / "django_shop"
_SECRET = "test-key-that-is-long-enough-0123456789"


def _set_up() -> None:
    import django
    from django.conf import settings

    if settings.configured:
        return
    sys.path.insert(0, str(EXAMPLE))
    before = dict(os.environ)
    os.environ |= {"DJANGO_SECRET_KEY": _SECRET, "DATABASE_URL": "sqlite:////nowhere/shop.db"}
    try:
        from contrib.django import shopsettings
    finally:
        os.environ.clear()
        os.environ.update(before)
    own = {name: getattr(shopsettings, name) for name in dir(shopsettings) if name.isupper()}
    was_configured = structlog.is_configured()
    # Other tests in this process have logging of their own.
    settings.configure(**{**own, "LOGGING_CONFIG": None, "ALLOWED_HOSTS": ["testserver", "127.0.0.1"]})
    django.setup()
    if not was_configured:
        structlog.reset_defaults()


_set_up()


@pytest.fixture
def use_database() -> Iterator[Callable[[str], Any]]:
    """Leads Django's default connection of this thread to the database of a URL; the connection."""
    from django.db import connections

    def lead(url: str) -> Any:
        _close(connections)
        connections.databases["default"] |= _entry(url)
        return connections["default"]

    yield lead
    _close(connections)


def _close(connections: Any) -> None:
    connections["default"].close()
    del connections["default"]


def _entry(url: str) -> dict[str, Any]:
    """An entry of DATABASES, made by the example's own settings."""
    from django_shop import settings

    before = os.environ.get("DATABASE_URL")
    os.environ["DATABASE_URL"] = url
    try:
        empty = {"HOST": "", "PORT": "", "USER": "", "PASSWORD": "", "OPTIONS": {}}
        return {**empty, **settings._database()}
    finally:
        del os.environ["DATABASE_URL"]
        if before is not None:
            os.environ["DATABASE_URL"] = before


@pytest.fixture
def connection(database_url: str, use_database: Callable[[str], Any]) -> Any:
    """Django's connection to a fresh database of this test's own, once for each kind."""
    return use_database(database_url)


@pytest.fixture(scope="session")
def shop_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables of the example shop, to be copied."""
    from django.core.management import call_command
    from django.db import connections

    path = tmp_path_factory.mktemp("django") / "template.db"
    connections.databases["default"] |= _entry(f"sqlite:///{path}")
    call_command("migrate", verbosity=0)
    _close(connections)
    return path


@pytest.fixture
def shop_database(shop_template: Path, tmp_path: Path, use_database: Callable[[str], Any]) -> Any:
    """Django's connection to a shop's SQLite file of this test's own."""
    path = tmp_path / "shop.db"
    shutil.copy(shop_template, path)
    return use_database(f"sqlite:///{path}")
