"""Our schema as Django migrations: one for each revision, run on Django's connection in Django's transaction."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.migrations import Migration
from django.db.migrations.operations.base import Operation

from paidonce.contrib.django import conf

LABEL = "paidonce"


def revision_migration(revision: str, *, after: str | None) -> type[Migration]:
    """The Django migration of one revision; `after` names the migration before it."""

    dependencies = [] if after is None else [(LABEL, after)]
    return type("Migration", (Migration,), {"dependencies": dependencies, "operations": [UpgradeTo(revision)]})


class UpgradeTo(Operation):
    """Upgrades paidonce's tables to a revision; nothing happens where they are as new already."""

    reduces_to_sql = False
    # Going back would forget payments: restore a backup instead.
    reversible = False

    def __init__(self, revision: str) -> None:
        self.revision = revision

    def state_forwards(self, app_label: str, state: Any) -> None:
        """The tables are no models."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Run the revision, on the database that `PAIDONCE` names and no other."""
        connection = schema_editor.connection
        if connection.alias != conf.read().database:
            return
        upgrade(connection, self.revision)

    def describe(self) -> str:
        """For `migrate --plan`."""
        return f"paidonce's tables: revision {self.revision}"


def upgrade(connection: Any, revision: str) -> None:
    """Upgrade to `revision` in the transaction that is open on Django's `connection`."""
    from paidonce.db import migration

    logging.getLogger("alembic").setLevel(logging.WARNING)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [migration.LOCK_KEY])
    with _borrowed(connection) as lent:
        # The shop has orders and stock of its own.
        migration.upgrade(lent, store_tables=False, revision=revision)


@contextmanager
def _borrowed(connection: Any) -> Iterator[Any]:
    """Django's connection as SQLAlchemy's, which must not begin or end Django's transaction."""
    import sqlalchemy as sa

    connection.ensure_connection()
    url = "sqlite://" if connection.vendor == "sqlite" else "postgresql+psycopg://"
    options: dict[str, Any] = {} if connection.vendor == "sqlite" else {"use_native_hstore": False}
    engine = sa.create_engine(url, creator=lambda: _Lent(connection.connection), poolclass=sa.NullPool, **options)
    with engine.connect() as lent:
        yield lent


class _Lent:
    """A DB-API connection whose transaction is somebody else's."""

    def __init__(self, connection: Any) -> None:
        self.__dict__["_connection"] = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What SQLAlchemy would set for its own use (autocommit, the isolation level) stays as Django has it."""

    def commit(self) -> None:
        """Django commits."""

    def rollback(self) -> None:
        """Django rolls back."""

    def close(self) -> None:
        """Django closes."""

    def create_function(self, *args: Any, **kwargs: Any) -> None:
        """Django has put its own functions in."""


def is_current(alias: str) -> bool:
    """Whether the tables are as new as this version needs. Raises `DatabaseDown`."""
    from paidonce.contrib.django.driver import run
    from paidonce.db import migration
    from paidonce.db.django import DjangoDatabase

    try:
        return not run(migration.pending(DjangoDatabase(alias)))
    finally:
        connections[alias].close_if_unusable_or_obsolete()
