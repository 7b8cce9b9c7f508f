"""`manage.py check` and the commands: what is missing is named with its fix, and nothing is changed by looking."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections
from shop.models import Order, Product

from contrib.django.twins import Shop
from paidonce.contrib.django import checks, doctor, run
from paidonce.contrib.django import runtime as wiring
from paidonce.doctor import Finding, Health

EXAMPLE = Path(__file__).parents[3] / "examples" / "django_shop"


@pytest.fixture
def settings() -> Iterator[Any]:
    """Django's settings; what a test changes is undone."""
    from django.conf import settings as current
    from django.test.utils import override_settings

    with override_settings():
        current.PAIDONCE = {**current.PAIDONCE, "ENVIRONMENT": {}}
        yield current
    wiring.use(None)


@pytest.fixture
def shop(shop_database: Any, settings: Any) -> Shop:
    Product.objects.create(sku="MUG", name="Mug", price_cents=1250, stock=10)
    return Shop(settings)


def told(settings: Any) -> dict[str, str]:
    return {one.id: f"{one.msg} {one.hint or ''}" for one in checks.check_settings()}


def test_the_example_has_nothing_to_mend(settings: Any) -> None:
    assert checks.check_settings() == []


def test_without_the_setting_it_says_what_to_write(settings: Any) -> None:
    del settings.PAIDONCE
    assert "PAIDONCE = {" in told(settings)["paidonce.E001"]


def test_a_project_without_the_setting_hears_it_from_check_and_not_by_a_traceback(tmp_path: Path) -> None:
    program = """
import sys, django
from django.conf import settings
from django.core.management import call_command
settings.configure(INSTALLED_APPS=["django.contrib.staticfiles", "paidonce.contrib.django"], STATIC_URL="static/",
    STATICFILES_FINDERS=["paidonce.contrib.django.assets.AssetsFinder"], DATABASES={}, LOGGING_CONFIG=None)
django.setup()
call_command("check")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "(paidonce.E001) PAIDONCE: is missing" in done.stderr
    assert "ConfigError" not in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"STORE": ""}, ["PAIDONCE['STORE']", "shop.payments.ShopStore"]),
        ({"STOREY": "x"}, ["PAIDONCE['STOREY']", "is not known"]),
        ({"RETURN_PATH": "https://shop.example/?payment={payment}"}, ["RETURN_PATH", "ends with payment={payment}"]),
        ({"RETURN_PATH": "/orders/{order}/"}, ["RETURN_PATH"]),
        ({"DATABASE": "elsewhere"}, ["'elsewhere'", "DATABASES"]),
        ({"SUBSCRIBERS": ["shop.mail.tell"]}, ["SUBSCRIBERS", "mapping"]),
    ],
)
def test_an_entry_that_cant_work_is_named(settings: Any, change: dict[str, Any], words: list[str]) -> None:
    settings.PAIDONCE = {**settings.PAIDONCE, **change}
    found = told(settings)
    assert list(found) == ["paidonce.E001"]
    assert [word for word in words if word not in found["paidonce.E001"]] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"STORE": "shop.payments.Nobody"}, ["PAIDONCE['STORE']", "can't be imported"]),
        ({"STORE": "shop.models.euros_of_nobody"}, ["PAIDONCE['STORE']"]),
        ({"STORE": "builtins.dict"}, ["has no find", "DjangoStore"]),
        ({"ACTOR": "shop.nobody.actor"}, ["PAIDONCE['ACTOR']"]),
        ({"SUBSCRIBERS": {"mail": "shop.mail.tell"}}, ["PAIDONCE['SUBSCRIBERS']['mail']"]),
        ({"ENVIRONMENT": {"STRIPE_SECRET_KEY": "sk_test_x"}}, ["STRIPE_PUBLISHABLE_KEY is missing"]),
        ({"ENVIRONMENT": {"PAIDONCE_HOLD_MINUTES": "soon"}}, ["PAIDONCE_HOLD_MINUTES"]),
        ({"ENVIRONMENT": {"PAIDONCE_PUBLIC_URL": "http://shop.example"}}, ["PAIDONCE_PUBLIC_URL", "https"]),
    ],
)
def test_what_it_names_must_be_there_and_work(settings: Any, change: dict[str, Any], words: list[str]) -> None:
    settings.PAIDONCE = {**settings.PAIDONCE, **change}
    found = told(settings)
    assert list(found) == ["paidonce.E002"]
    assert [word for word in words if word not in found["paidonce.E002"]] == []
    assert "sk_test_x" not in found["paidonce.E002"]


def test_another_kind_of_database_is_refused(settings: Any) -> None:
    connections.databases["mysql"] = {**connections.databases["default"], "ENGINE": "django.db.backends.dummy"}
    settings.DATABASES = {**settings.DATABASES, "mysql": connections.databases["mysql"]}
    settings.PAIDONCE = {**settings.PAIDONCE, "DATABASE": "mysql"}
    try:
        assert "PostgreSQL and SQLite" in told(settings)["paidonce.E002"]
    finally:
        del connections.databases["mysql"]


@pytest.mark.parametrize(
    ("name", "value", "id", "words"),
    [
        ("ROOT_URLCONF", "shop.urls", "E003", "paidonce.contrib.django.urls"),
        ("STATICFILES_FINDERS", [], "E004", checks.FINDER),
        ("SECURE_CROSS_ORIGIN_OPENER_POLICY", "same-origin", "W002", "same-origin-allow-popups"),
        ("STATIC_URL", "https://cdn.example/", "W003", "static/paidonce/"),
    ],
)
def test_what_the_project_lacks_is_named(settings: Any, name: str, value: Any, id: str, words: str) -> None:
    from django.test.utils import override_settings

    with override_settings(**{name: value}):
        assert words in told(settings)[f"paidonce.{id}"]


def test_sqlite_without_its_options_is_warned_of(settings: Any) -> None:
    bare = {**settings.DATABASES["default"], "ENGINE": "django.db.backends.sqlite3", "OPTIONS": {}}
    settings.DATABASES = {**settings.DATABASES, "default": bare}
    assert "journal_mode=WAL" in told(settings)["paidonce.W001"]


# ── Commands ──────────


def output(name: str, *args: str) -> str:
    out = StringIO()
    call_command(name, *args, stdout=out)
    return out.getvalue()


async def examined(shop: Shop) -> list[Finding]:
    async with doctor.open_patient(clock=shop.clock, transport=shop.transport) as patient:
        return await doctor.findings(patient, lambda _one: None)


def test_the_doctor_looks_at_each_part(shop: Shop) -> None:
    found = {one.check: one for one in asyncio.run(examined(shop))}
    for name, gateway in shop.runtime.core.gateways.items():
        assert f"account {run(gateway.account()).id}, test mode" in found[f"{name}.keys"].text
    assert found["database.schema"].health is found["database.writable"].health is Health.GREEN
    # Nothing but reading, besides a webhook to ourselves that nobody has signed.
    posts = [one.url for one in shop.transport.sent if one.method == "POST"]
    assert [url for url in posts if "oauth2/token" not in url and "testserver/webhooks/" not in url] == []
    assert shop.count("payments") == 0


def test_below_a_path_the_doctor_looks_for_the_webhooks_there(shop: Shop, settings: Any) -> None:
    settings.ROOT_URLCONF = "contrib.django.prefixed"
    found = {one.check: one for one in asyncio.run(examined(shop))}
    origin = shop.runtime.wiring.settings.origin
    asked = {one.url for one in shop.transport.sent if "/webhooks/" in one.url and one.url.startswith(origin)}
    assert f"{origin}/money/webhooks/stripe" in asked
    assert {url for url in asked if not url.startswith(f"{origin}/money/")} == set()
    told = [one.text for check, one in found.items() if check.endswith(".webhook.endpoint")]
    assert any(f"{origin}/money/webhooks/" in text for text in told)
    assert not any(f"{origin}/webhooks/" in text for text in told)


def test_the_doctor_tells_of_a_gateway_that_does_not_answer(shop: Shop, settings: Any) -> None:
    # Port 9 of this machine, where nobody listens.
    environment = {**settings.PAIDONCE["ENVIRONMENT"], "STRIPE_API_BASE": "http://127.0.0.1:9/stripe"}
    settings.PAIDONCE = {**settings.PAIDONCE, "ENVIRONMENT": environment}
    out = StringIO()
    with pytest.raises(CommandError, match="to be mended"):
        call_command("paidonce_doctor", stdout=out)
    assert "red     stripe.keys: No answer" in out.getvalue()


def test_the_doctor_tells_programs_of_missing_tables(settings: Any, use_database: Any, tmp_path: Path) -> None:
    use_database(f"sqlite:///{tmp_path / 'empty.db'}")
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("paidonce_doctor", "--json", stdout=out)
    assert caught.value.returncode == 1
    told = json.loads(out.getvalue())
    assert told["health"] == "red"
    fixes = {one["check"]: one["fix"] for one in told["findings"]}
    assert (fixes["database"], "docs/configuration.md" in fixes["gateways"]) == ("Run: manage.py migrate", True)


def test_the_doctor_ends_with_two_where_the_settings_cant_be_read(settings: Any) -> None:
    settings.PAIDONCE = {**settings.PAIDONCE, "ENVIRONMENT": {"PAIDONCE_HOLD_MINUTES": "soon"}}
    out = StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("paidonce_doctor", stdout=out)
    assert caught.value.returncode == 2
    assert "red     settings: PAIDONCE_HOLD_MINUTES" in out.getvalue()


# ── The start-up guard, which is the same as everywhere ──────────

LIVE = {"STRIPE_SECRET_KEY": "sk_live_canary1", "STRIPE_PUBLISHABLE_KEY": "pk_live_canary2"}


@pytest.mark.parametrize("own", [LIVE, {"PAIDONCE_PUBLIC_URL": "https://shop.example"}])
def test_djangos_debug_mode_is_refused_in_public_and_with_live_keys(settings: Any, own: dict[str, str]) -> None:
    settings.DEBUG = True
    settings.PAIDONCE = {**settings.PAIDONCE, "ENVIRONMENT": own}
    assert "Debug mode is on" in told(settings)["paidonce.E002"]
    settings.DEBUG = False
    assert "paidonce.E002" not in told(settings)


def test_a_database_file_that_everybody_can_read_is_refused_in_public(shop: Shop, settings: Any) -> None:
    file = Path(connections["default"].settings_dict["NAME"])
    connections["default"].close()
    file.chmod(0o644)
    assert told(settings) == {}, "while a project is developed, the file is its own business"
    public = {"PAIDONCE_PUBLIC_URL": "https://shop.example"}
    settings.PAIDONCE = {**settings.PAIDONCE, "ENVIRONMENT": public}
    assert f"chmod o= {file}" in told(settings)["paidonce.E002"]
    file.chmod(0o660)
    assert told(settings) == {}


@pytest.mark.parametrize("name", ["paidonce_recover", "paidonce_worker", "paidonce_explain"])
def test_without_tables_a_command_says_what_to_run(settings: Any, use_database: Any, tmp_path: Path, name: str) -> None:
    use_database(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(CommandError, match=r"manage\.py migrate"):
        call_command(name, *(["x"] if name.endswith("explain") else []))


def test_an_orders_story(shop: Shop) -> None:
    buyer = User.objects.create_user("buyer")
    order = Order.objects.get(pk=shop.order(buyer))
    text = output("paidonce_explain", order.number)
    assert order.number in text
    assert json.loads(output("paidonce_explain", order.pk, "--json"))["order"]["id"] == order.pk
    with pytest.raises(CommandError, match="no order 'DJ-NOTHING'"):
        call_command("paidonce_explain", "DJ-NOTHING")


def test_the_worker_ends_when_it_is_told_to(shop_database: Any, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": f"sqlite:///{connections['default'].settings_dict['NAME']}",
        "DJANGO_SECRET_KEY": "test-key-that-is-long-enough-0123456789",
    }
    command = [sys.executable, "-W", "error", str(EXAMPLE / "manage.py"), "paidonce_worker"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as worker:
        assert worker.stdout is not None
        lines = [worker.stdout.readline()]
        worker.send_signal(signal.SIGTERM)
        lines += worker.stdout.readlines()
        assert worker.wait(30) == 0, lines
    assert lines == ["The worker runs.   (Ctrl-C ends it, at any moment)\n", "The worker has ended.\n"]


def test_the_log_passes_through_djangos_and_is_scrubbed(tmp_path: Path) -> None:
    program = """
import logging, django, structlog
from django.conf import settings
settings.configure(INSTALLED_APPS=["paidonce.contrib.django"], LOGGING={
    "version": 1, "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["console"], "level": "INFO"}})
django.setup()
structlog.get_logger("paidonce.x").info("told", client_secret="pi_1_secret_2", url="https://a.example/?token=abc")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "event='told'" in done.stderr
    assert "secret_2" not in done.stderr
    assert "abc" not in done.stderr
    assert done.stdout == ""
