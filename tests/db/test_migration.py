"""The migrated schema is the one in `tables.py`, on both databases, whoever migrates and however often."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import paidonce.db
from paidonce.db import migration
from paidonce.db.tables import APPEND_ONLY, TRIGGERS, metadata
from paidonce.errors import ConfigError, DatabaseDown
from paidonce.ports import Transaction


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables; on SQLite without even a file."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
    else:
        yield request.getfixturevalue("empty_postgresql_url")


async def on(url: str, work: Any) -> Any:
    path = paidonce.db.sqlite_path(url)
    if path is None:
        return await migration._on_postgres(url, work)
    return await asyncio.to_thread(migration._on_sqlite, path, work)


def create_all(connection: sa.Connection) -> None:
    metadata.create_all(connection)
    for statement in TRIGGERS[connection.dialect.name]:
        connection.exec_driver_sql(statement)


async def test_migrating_ends_what_is_pending(empty_url: str) -> None:
    assert await paidonce.db.pending(empty_url) is True
    await paidonce.db.migrate(empty_url)
    assert await paidonce.db.pending(empty_url) is False
    assert await migration.current(empty_url) == migration.expected()


async def test_asking_what_is_pending_creates_no_file(tmp_path: Path) -> None:
    assert await paidonce.db.pending(f"sqlite:///{tmp_path}/none.db") is True
    assert list(tmp_path.iterdir()) == []


async def test_an_open_database_can_be_asked_as_well(database_url: str) -> None:
    database = await paidonce.db.connect(database_url)
    assert await paidonce.db.pending(database) is False

    async def forget(tx: Transaction) -> None:
        await tx.execute(f"DELETE FROM {migration.VERSION_TABLE}")  # noqa: S608

    await database.transaction(forget)
    assert await paidonce.db.pending(database) is True
    await database.close()


async def test_migrating_again_keeps_the_data(database_url: str) -> None:
    async def write(tx: Transaction) -> None:
        await tx.execute("INSERT INTO history (order_id, event, detail, created_at) VALUES ('o', 'e', '{}', 1)")

    async def read(tx: Transaction) -> int:
        return len(await tx.fetch_all("SELECT seq FROM history"))

    database = await paidonce.db.connect(database_url)
    await database.transaction(write)
    await paidonce.db.migrate(database_url)
    assert await database.read(read) == 1
    await database.close()


async def test_processes_that_migrate_at_once_wait_for_each_other(empty_url: str) -> None:
    script = "import asyncio, sys, paidonce.db; asyncio.run(paidonce.db.migrate(sys.argv[1]))"
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", script, empty_url, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = await asyncio.gather(*(child.communicate() for child in children))
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert await paidonce.db.pending(empty_url) is False


async def test_a_database_of_a_newer_version_is_left_alone(database_url: str) -> None:
    async def age(tx: Transaction) -> None:
        await tx.execute(f"UPDATE {migration.VERSION_TABLE} SET version_num = '9999'")  # noqa: S608

    database = await paidonce.db.connect(database_url)
    await database.transaction(age)
    with pytest.raises(ConfigError, match=r"PAIDONCE_DATABASE_URL.*9999.*newer"):
        await paidonce.db.migrate(database_url)
    assert await migration.current(database) == "9999"
    await database.close()


async def test_a_failing_migration_leaves_nothing_behind(empty_url: str) -> None:
    def fail_late(connection: sa.Connection) -> None:
        migration.upgrade(connection)
        raise ValueError("power cut")

    with pytest.raises(ValueError, match="power cut"):
        await on(empty_url, fail_late)
    assert await migration.current(empty_url) is None
    await paidonce.db.migrate(empty_url)
    assert await paidonce.db.pending(empty_url) is False


async def test_an_unreachable_server_can_not_be_migrated() -> None:
    for call in (paidonce.db.migrate, paidonce.db.pending):
        with pytest.raises(DatabaseDown) as caught:
            await call("postgresql://shop:canary-4711@127.0.0.1:1/shop")
        assert "canary" not in str(caught.value)


async def test_alembic_finds_no_difference(database_url: str) -> None:
    def compare(connection: sa.Connection) -> list[Any]:
        options = {"version_table": migration.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        return found

    assert await on(database_url, compare) == []


async def test_sqlite_constraints_indexes_and_triggers_are_those_of_the_tables(sqlite_url: str, tmp_path: Path) -> None:
    fresh = f"sqlite:///{tmp_path}/fresh.db"
    await on(fresh, create_all)
    expected = _sqlite_schema(fresh)
    assert any("CREATE TRIGGER" in line for lines in expected.values() for line in lines)
    assert all("STRICT" in _sqlite_text(fresh, name) for name in metadata.tables)
    assert _sqlite_schema(sqlite_url) == expected


async def test_postgres_constraints_indexes_and_triggers_are_those_of_the_tables(
    postgresql_url: str, empty_postgresql_url: str
) -> None:
    await on(empty_postgresql_url, create_all)
    expected = await _postgres_schema(empty_postgresql_url)
    assert len(expected) > len(metadata.tables)
    assert await _postgres_schema(postgresql_url) == expected


async def test_what_is_append_only_refuses_change_and_deletion(database_url: str) -> None:
    database = await paidonce.db.connect(database_url)

    async def write(tx: Transaction) -> None:
        await tx.execute("INSERT INTO history (order_id, event, detail, created_at) VALUES ('o', 'e', '{}', 1)")

    async def run(tx: Transaction, statement: str) -> None:
        await tx.execute(statement)

    async def read(tx: Transaction) -> list[Any]:
        return [dict(row) for row in await tx.fetch_all("SELECT order_id, event FROM history")]

    await database.transaction(write)
    assert "history" in APPEND_ONLY
    for statement in ("UPDATE history SET event = 'other'", "DELETE FROM history"):
        with pytest.raises(paidonce.errors.Conflict, match="append-only"):
            await database.transaction(run, statement)
    assert await database.read(read) == [{"order_id": "o", "event": "e"}]
    await database.close()


def _sqlite_query(url: str, sql: str) -> list[tuple[Any, ...]]:
    path = paidonce.db.sqlite_path(url)
    assert path is not None
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def _sqlite_text(url: str, name: str) -> str:
    return str(_sqlite_query(url, f"SELECT sql FROM sqlite_master WHERE name = '{name}'")[0][0])  # noqa: S608


def _parts(sql: str) -> list[str]:
    """The statement cut at the commas of its outermost list: SQLite puts added columns on one line."""
    parts, depth = [""], 0
    for sign in sql:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if (sign, depth) in {(",", 1), ("(", 1), (")", 0)}:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def _sqlite_schema(url: str) -> dict[str, list[str]]:
    """The parts of every CREATE statement, sorted, because Alembic writes constraints in another order."""
    rows = _sqlite_query(url, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    schema = {name: sorted(_parts(re.sub(r"\s+", " ", sql))) for name, sql in rows if name != migration.VERSION_TABLE}
    for table in metadata.tables:
        columns = _sqlite_query(url, f"SELECT cid, name, type FROM pragma_table_info('{table}')")  # noqa: S608
        schema[f"{table}'s columns"] = [" ".join(map(str, column)) for column in columns]
    return schema


_POSTGRES_SCHEMA = """
SELECT table_name, ordinal_position::text, column_name, data_type, is_nullable, coalesce(column_default, '')
  FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT conrelid::regclass::text, 'constraint', conname, pg_get_constraintdef(oid), '', ''
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT tablename, 'index', indexname, indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT tgrelid::regclass::text, 'trigger', tgname, pg_get_triggerdef(oid), '', '' FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT '', 'function', proname, prosrc, '', '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY 1, 2, 3
"""


async def _postgres_schema(url: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(_POSTGRES_SCHEMA)
    finally:
        await connection.close()
    return [tuple(row) for row in rows if row[0] != migration.VERSION_TABLE]
