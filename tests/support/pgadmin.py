"""The databases of a test process on a PostgreSQL server: made, dropped and used again over one connection.

It has a module of its own, since pytest's `conftest` and the one that is imported by name are two modules.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4


@cache
def administrator(server: str) -> Any:
    """A connection with autocommit; opening it costs as much as the work, so it is kept."""
    import psycopg

    return psycopg.connect(server, autocommit=True)


# ── Databases that are used again ──────────

# What a test can change apart from rows. A database that differs from its template is thrown away.
_SHAPE = """
SELECT
    (SELECT (count(*), sum(hashtext(relname || relkind::text || coalesce(relacl::text, '') || relowner::text)))::text
     FROM pg_class WHERE relnamespace = 'public'::regnamespace),
    (SELECT (count(*), sum(hashtext(attname || attnotnull::text || atthasdef::text || attisdropped::text)))::text
     FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE c.relnamespace = 'public'::regnamespace),
    (SELECT (count(*), sum(hashtext(conname)))::text FROM pg_constraint WHERE connamespace = 'public'::regnamespace),
    (SELECT (count(*), sum(hashtext(tgname || tgenabled::text)))::text FROM pg_trigger WHERE NOT tgisinternal),
    (SELECT (count(*), sum(hashtext(proname || prosrc)))::text FROM pg_proc
     WHERE pronamespace = 'public'::regnamespace),
    (SELECT string_agg(nspname || coalesce(nspacl::text, ''), ' ' ORDER BY nspname) FROM pg_namespace
     WHERE nspname !~ '^pg_(toast|temp)'),
    (SELECT count(*)::text FROM pg_db_role_setting WHERE setdatabase <> 0),
    (SELECT string_agg(version_num, ' ') FROM paidonce_alembic_version)
"""
_EMPTY = """
DO $$ DECLARE one record; BEGIN
    FOR one IN SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'paidonce_alembic_version'
    LOOP EXECUTE format('DELETE FROM %s', one.name); END LOOP;
    FOR one IN SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'
    LOOP PERFORM setval(one.name, 1, false); END LOOP;
END $$
"""
# Of the template, a row for each table that isn't empty, and for each sequence that was used.
_TABLES = """
SELECT oid::regclass::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'paidonce_alembic_version'
"""
_SEQUENCES = """
SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences
WHERE schemaname = 'public' AND last_value IS NOT NULL
"""
_OTHERS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# Rows that were deleted still take room, which makes every later test slower.
_MOST_TESTS, _LARGEST_BYTES = 30, 16 * 2**20


class Pool:
    """Copies of one template that tests have given back, made as new: that takes a sixth of the time of a copy.

    A template may have some rows. They are kept in memory, so let them be few.
    """

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._free: list[str] = []
        self._used: dict[str, int] = {}
        self._shape: Any = None
        self._rows: list[tuple[str, str]] = []
        self._sequences: list[tuple[str, int]] = []

    def take(self) -> str:
        """The name of a database that is as its template was."""
        if self._free:
            return self._free.pop()
        name = new_name()
        create_database(self._server, name, template=self._template)
        self._used[name] = 0
        if self._shape is None:
            with self._connection(name) as connection:
                self._learn(connection)
        return name

    def give_back(self, name: str) -> None:
        """Keep the database for the next test, or throw it away if it can't be made as new."""
        self._used[name] += 1
        if self._used[name] < _MOST_TESTS and self._is_as_new(name):
            self._free.append(name)
        else:
            drop_database(self._server, name)

    def close(self) -> None:
        """Throw all away."""
        for name in self._free:
            drop_database(self._server, name)

    def _learn(self, connection: Any) -> None:
        """What a database that nobody has used looks like."""
        self._shape = connection.execute(_SHAPE).fetchone()
        for (table,) in connection.execute(_TABLES).fetchall():
            rows = connection.execute(f"SELECT json_agg(t)::text FROM {table} t").fetchone()[0]  # noqa: S608
            if rows is not None:
                self._rows.append((table, rows))
        self._sequences = connection.execute(_SEQUENCES).fetchall()

    def _fill(self, connection: Any) -> None:
        """Bring back what the template has."""
        for table, rows in self._rows:
            connection.execute(
                f"INSERT INTO {table} OVERRIDING SYSTEM VALUE"  # noqa: S608
                f" SELECT * FROM json_populate_recordset(NULL::{table}, %s::json)",
                (rows,),
            )
        for sequence, last in self._sequences:
            connection.execute("SELECT setval(%s::regclass, %s)", (sequence, last))

    def _is_as_new(self, name: str) -> bool:
        import psycopg

        try:
            with self._connection(name) as connection:
                if not _is_alone(connection):
                    return False
                size = connection.execute("SELECT pg_database_size(current_database())").fetchone()[0]
                if size > _LARGEST_BYTES or connection.execute(_SHAPE).fetchone() != self._shape:
                    return False
                connection.execute("SET session_replication_role = replica")
                connection.execute(_EMPTY)
                self._fill(connection)
        except psycopg.Error:
            # Only a superuser may delete what is append-only; and what a test holds locked is not waited for.
            return False
        return True

    def _connection(self, name: str) -> Any:
        import psycopg

        options = "-c lock_timeout=2s -c statement_timeout=20s"
        return psycopg.connect(with_database(self._server, name), autocommit=True, options=options)


def _is_alone(connection: Any) -> bool:
    """Whether nobody else is connected; a server process ends a moment after its client."""
    for _ in range(10):
        if connection.execute(_OTHERS).fetchone() == (0,):
            return True
        time.sleep(0.01)
    return False


def new_name() -> str:
    """A name that no other database has."""
    return f"paidonce_test_{uuid4().hex}"


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    base, mark, options = url.partition("?")
    return f"{urlsplit(base).scheme}://{urlsplit(base).netloc}/{name}{mark}{options}"


def create_database(server: str, name: str, template: str = "template0") -> None:
    """Copy a database. Copying files costs half of writing the copy to the log."""
    administrator(server).execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")


def drop_database(server: str, name: str) -> None:
    """Drop a database, whoever is connected to it."""
    administrator(server).execute(f"DROP DATABASE {name} WITH (FORCE)")
