"""Our tables by `manage.py migrate`: in step with our own revisions, all or nothing, and safe to repeat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

import paidonce.contrib.django.migrations
from paidonce import db
from paidonce.contrib.django import schema
from paidonce.db import migration
from support.apart import run_apart

HOME = Path(paidonce.contrib.django.migrations.__file__).parent


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path, use_database: Callable[[str], Any]) -> tuple[str, Any]:
    """An empty database of each kind, as a URL and as Django's connection."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        url = request.getfixturevalue("empty_postgresql_url")
    return url, use_database(url)


def tables(connection: Any) -> set[str]:
    with connection.cursor() as cursor:
        return set(connection.introspection.table_names(cursor))


_POSTGRES = (
    "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
    " WHERE table_schema = 'public' ORDER BY 1, 2",
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
    "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
)
_SQLITE = ("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'sqlite_sequence' ORDER BY 1",)


def described(connection: Any) -> list[str]:
    """Everything there is but Django's own table, in words that can be compared."""
    found: list[str] = []
    for query in _POSTGRES if connection.vendor == "postgresql" else _SQLITE:
        with connection.cursor() as cursor:
            cursor.execute(query)
            found += [str(row) for row in cursor.fetchall()]
    return [line for line in found if "django_migrations" not in line]


def test_each_revision_has_its_migration() -> None:
    operations = [
        operation.revision
        for key, one in MigrationLoader(None, ignore_no_migrations=True).graph.nodes.items()
        if key[0] == "paidonce"
        for operation in one.operations
    ]
    missing = [revision for revision in migration.revisions() if revision not in operations]
    assert missing == [], (
        f"src/paidonce/contrib/django/migrations lacks these; write a file like {sorted(HOME.glob('r*.py'))[-1].name}"
    )
    assert sorted(operations) == sorted(migration.revisions())


def test_they_stand_in_one_line() -> None:
    graph = MigrationLoader(None).graph
    (last,) = graph.leaf_nodes("paidonce")
    plan = [key for key in graph.forwards_plan(last) if key[0] == "paidonce"]
    assert [name.split("_")[0] for _, name in plan] == [f"r{revision}" for revision in migration.revisions()]


def test_nothing_is_left_for_makemigrations(shop_database: Any) -> None:
    call_command("makemigrations", "paidonce", "shop", check=True, dry_run=True, verbosity=0)


def test_migrate_makes_what_our_own_command_makes(
    empty: tuple[str, Any], tmp_path: Path, use_database: Callable[[str], Any]
) -> None:
    url, connection = empty
    call_command("migrate", "paidonce", verbosity=0)
    assert schema.is_current("default")
    by_django = described(connection)
    # Only what a shop with tables of its own needs.
    assert "payments" in tables(connection)
    assert not {"orders", "products", "users", "stock"} & tables(connection)

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA public CASCADE")
            cursor.execute("CREATE SCHEMA public")
    else:
        url = f"sqlite:///{tmp_path / 'other.db'}"
        connection = use_database(url)
    run_apart(lambda: db.migrate(url, store_tables=False))
    assert described(connection) == by_django


def test_a_database_that_our_own_command_made_is_taken_over(empty: tuple[str, Any]) -> None:
    url, connection = empty
    run_apart(lambda: db.migrate(url, store_tables=False))
    before = tables(connection)
    call_command("migrate", "paidonce", verbosity=0)
    assert tables(connection) == before | {"django_migrations"}
    assert len(MigrationRecorder(connection).applied_migrations()) == len(migration.revisions())


def test_what_fails_in_a_migration_leaves_no_tables(empty: tuple[str, Any]) -> None:
    _, connection = empty

    def fails() -> None:
        with connection.schema_editor() as editor:
            schema.UpgradeTo(migration.revisions()[0]).database_forwards("paidonce", editor, None, None)
            assert "payments" in tables(connection)
            raise RuntimeError("the next operation fails")

    with pytest.raises(RuntimeError, match="the next operation"):
        fails()
    assert "payments" not in tables(connection)
    assert not schema.is_current("default")


def test_history_stays_append_only(empty: tuple[str, Any]) -> None:
    _, connection = empty
    call_command("migrate", "paidonce", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO history (order_id, event, detail, created_at) VALUES ('o', 'e', '{}', 1)")
    for statement in ("UPDATE history SET event = 'x'", "DELETE FROM history"):
        with pytest.raises(Exception, match="append-only"), connection.cursor() as cursor:
            cursor.execute(statement)
    with connection.cursor() as cursor:
        cursor.execute("SELECT event FROM history")
        assert cursor.fetchall() == [("e",)]


def test_going_back_is_refused(shop_database: Any) -> None:
    with pytest.raises(IrreversibleError):
        call_command("migrate", "paidonce", "zero", verbosity=0)
    assert "payments" in tables(connections["default"])


def test_sqlmigrate_shows_none_of_it(shop_database: Any, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("sqlmigrate", "paidonce", "r0002")
    assert "CANNOT BE WRITTEN AS SQL" in capsys.readouterr().out


def test_only_the_named_database_gets_the_tables(shop_database: Any, tmp_path: Path) -> None:
    entry = {**connections.databases["default"], "NAME": str(tmp_path / "other.db")}
    connections.databases["other"] = entry
    try:
        call_command("migrate", "paidonce", database="other", verbosity=0)
        assert "payments" not in tables(connections["other"])
    finally:
        connections["other"].close()
        del connections["other"]
        del connections.databases["other"]


def test_our_schema_is_made_outside_of_nobodys_transaction(shop_database: Any) -> None:
    # A reading inside of the host's transaction is no reading of ours.
    with transaction.atomic(), pytest.raises(AssertionError, match="non_atomic_requests"):
        schema.is_current("default")
