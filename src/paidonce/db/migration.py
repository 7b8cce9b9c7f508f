"""Migrations: Alembic revisions under `migrations/versions`, each a frozen script that works on both databases.

A new one is drafted from the difference between the newest revision and `tables.py`, then read, tidied and committed:

    python -m paidonce.db.migration "refunds carry a reason" && ruff format src/paidonce/db/migrations

Drafts don't see triggers (but the first one copies `tables.TRIGGERS`) and CHECK constraints of existing tables: add
those by hand. `tests/db/test_migration.py` compares the migrated schema with `tables.py`, constraints and triggers
included.
Until the first release the first revision is drafted anew after a change: delete it before running the command.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from paidonce.db import connect, sqlite_path
from paidonce.errors import ConfigError, DatabaseDown
from paidonce.ports import Database, Transaction

T = TypeVar("T")

# Not Alembic's own name, because a shop may keep its tables, and its Alembic, in the same database.
VERSION_TABLE = "paidonce_alembic_version"
# Any number that nobody else uses as an advisory lock.
LOCK_KEY = 7_021_934_556_120_483
_LOCK_SECONDS = 60
_DUPLICATE_TABLE = "42P07"
_VERSION_TABLE_EXISTS = {
    "sqlite": f"SELECT 1 AS found FROM sqlite_master WHERE type = 'table' AND name = '{VERSION_TABLE}'",  # noqa: S608
    "postgresql": f"SELECT 1 AS found WHERE to_regclass('{VERSION_TABLE}') IS NOT NULL",
}


async def migrate(url: str, *, store_tables: bool = True) -> None:
    """Upgrade to the newest revision in one transaction; processes that do it at once wait for each other.

    Without `store_tables` the built-in shop's tables (`tables.STORE_TABLES`) are left out: a shop with its own has no
    use for them, and may have others of the same names.

    Raises `ConfigError` for a wrong URL or a database made by a newer version, `DatabaseDown` if it can't be reached.
    """
    path = sqlite_path(url)
    work = partial(upgrade, store_tables=store_tables)
    if path is None:
        await _on_postgres(url, work)
    else:
        await asyncio.to_thread(_on_sqlite, path, work)


async def pending(where: str | Database) -> bool:
    """Whether the schema is another than `expected()`. Raises what `connect` raises."""
    return await current(where) != expected()


async def current(where: str | Database) -> str | None:
    """The schema's revision; None for a database without tables, or a file that isn't there. Creates nothing."""
    if not isinstance(where, str):
        return await where.read(_revision, where.dialect)
    path = sqlite_path(where)
    if path is not None and not path.exists():
        return None
    database = await connect(where)
    try:
        return await database.read(_revision, database.dialect)
    finally:
        await database.close()


@lru_cache(maxsize=1)
def expected() -> str | None:
    """The revision that this version of the code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def draft(message: str) -> None:
    """Write a new revision from the difference between the revisions so far and `tables.py`."""
    number = f"{int(expected() or 0) + 1:04}"
    with TemporaryDirectory() as folder:

        def write(connection: sa.Connection) -> None:
            upgrade(connection)
            command.revision(_config(connection), message, autogenerate=True, rev_id=number)

        _on_sqlite(Path(folder) / "draft.db", write)


async def _revision(tx: Transaction, dialect: str) -> str | None:
    if await tx.fetch_one(_VERSION_TABLE_EXISTS[dialect]) is None:
        return None
    row = await tx.fetch_one(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    return None if row is None else str(row["version_num"])


def _config(connection: sa.Connection | None = None, *, store_tables: bool = True) -> Config:
    config = Config()
    # Alembic reads % as interpolation, and an installation's path may hold one.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    # Revisions that touch the built-in shop's tables ask for it.
    config.attributes["store_tables"] = store_tables
    return config


def revisions() -> tuple[str, ...]:
    """All revisions, oldest first."""
    return tuple(str(one.revision) for one in reversed(list(ScriptDirectory.from_config(_config()).walk_revisions())))


def upgrade(connection: sa.Connection, *, store_tables: bool = True, revision: str = "head") -> None:
    """Upgrade to `revision` in the connection's transaction, unless the schema is as new already.

    Raises `ConfigError` for a schema that this version does not know.
    """
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError

    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    try:
        ScriptDirectory.from_config(_config()).get_revision(found or "base")
    except CommandError:
        raise ConfigError(
            [
                f"PAIDONCE_DATABASE_URL: its schema has revision {found}, which this version does not know. A newer"
                " paidonce made it: install that one. Or it is of a development version: start with a new database"
                " (the demo's lies in var/)."
            ]
        ) from None
    command.upgrade(_config(connection, store_tables=store_tables), revision)


def _on_sqlite(path: Path, work: Callable[[sa.Connection], T]) -> T:
    from paidonce.db.sqlite import open_connection

    engine = sa.create_engine("sqlite://", creator=lambda: open_connection(path), poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_LOCK_SECONDS * 1000}")
            # Tables are rebuilt to alter them, which foreign keys would forbid; they are checked at the end instead.
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            result = work(connection)
            if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise AssertionError("the migration broke a foreign key")
            connection.commit()
            return result
    except sa.exc.OperationalError as error:
        if "already exists" in str(error.orig):
            raise _taken(str(error.orig)) from error
        raise DatabaseDown(f"{path} could not be migrated: {error.orig}") from error
    finally:
        engine.dispose()


async def _on_postgres(url: str, work: Callable[[sa.Connection], T]) -> T:
    from sqlalchemy.ext.asyncio import create_async_engine

    from paidonce.db.postgres import open_connection

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: open_connection(url), poolclass=sa.NullPool
    )
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_KEY})")
            return await connection.run_sync(work)
    except sa.exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) == _DUPLICATE_TABLE:
            raise _taken(str(error.orig)) from error
        raise
    finally:
        await engine.dispose()


def _taken(problem: str) -> ConfigError:
    return ConfigError(
        [
            f"PAIDONCE_DATABASE_URL: a table of somebody else is in the way ({problem}). A shop with orders and stock"
            " of its own names its store in PAIDONCE_STORE, and the built-in shop's tables are left out; for another"
            " table give paidonce a schema of its own: postgresql://…/name?search_path=paidonce,public"
        ]
    )


if __name__ == "__main__":
    draft(" ".join(sys.argv[1:]) or "change")
