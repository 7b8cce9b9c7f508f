"""The databases: `connect(url)` opens either of them, `migrate(url)` makes the schema, `pending(…)` tells if it is old.

Nothing heavy is imported before it is needed: asyncpg only for PostgreSQL, SQLAlchemy and Alembic only for migrations.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from paidonce.errors import ConfigError
from paidonce.ports import Database

__all__ = ["connect", "migrate", "pending", "sqlite_path"]

_SETTING = "PAIDONCE_DATABASE_URL"
_EXAMPLES = (
    "sqlite:///paidonce.db (in this folder), sqlite:////var/lib/paidonce.db or postgresql://user:password@host/name"
)


async def connect(url: str) -> Database:
    """The database of `url`, ready for use; close it when done. It does not migrate.

    Raises `ConfigError` for a URL that can't work, `DatabaseDown` for a database that can't be reached.
    """
    path = sqlite_path(url)
    if path is not None:
        from paidonce.db.sqlite import SqliteDatabase

        return await SqliteDatabase.open(path)
    _require_asyncpg()
    from paidonce.db.postgres import PostgresDatabase

    return await PostgresDatabase.open(url)


async def migrate(url: str, *, store_tables: bool = True) -> None:
    """Bring the schema up to date; safe from several processes at once. Raises what `connect` raises.

    A shop with orders and stock of its own leaves the built-in shop's tables out by `store_tables=False`, each time.
    """
    from paidonce.db import migration

    await migration.migrate(url, store_tables=store_tables)


async def pending(where: str | Database) -> bool:
    """Whether the schema differs from what this version needs. Takes an open database or a URL, and changes nothing."""
    from paidonce.db import migration

    return await migration.pending(where)


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for PostgreSQL. Raises `ConfigError` for anything else.

    Three slashes are relative to the working directory, four make an absolute path.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        # The URL itself stays out of the message, since it may hold a password.
        raise _wrong("can't be read as a URL") from error
    if scheme in ("postgresql", "postgres"):
        return None
    if scheme != "sqlite":
        raise _wrong(f"has the unknown scheme {scheme!r}" if scheme else "has no scheme")
    return _file(url)


def _file(url: str) -> Path:
    name = url.removeprefix("sqlite:///")
    if name == url:
        raise _wrong("needs three slashes before a relative path and four before an absolute one")
    if "?" in name:
        raise _wrong("has options behind '?', and SQLite takes none here")
    if name in ("", ":memory:"):
        raise _wrong("names no file; a database in memory would forget payments")
    path = Path(name)
    if not path.absolute().parent.is_dir():
        raise _wrong(f"names a file in {path.absolute().parent}, which is no folder; create it first")
    if path.is_dir():
        raise _wrong(f"names the folder {path}; name a file in it")
    return path


def _wrong(problem: str) -> ConfigError:
    return ConfigError([f"{_SETTING} {problem}. Use one like {_EXAMPLES}."])


def _require_asyncpg() -> None:
    from importlib.util import find_spec

    if find_spec("asyncpg") is None:
        raise ConfigError([f"{_SETTING} names PostgreSQL, which needs: pip install 'paidonce[postgres]'."])
