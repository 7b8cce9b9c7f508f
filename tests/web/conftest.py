"""Fixtures of the HTTP tests: a served shop on each database, and clients."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import paidonce.db
from conftest import run_apart
from paidonce.web.seed import seed_demo
from support import pgadmin
from support.webshop import Client, WebShop, running_shop


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()


@pytest.fixture(scope="session")
def seeded_sqlite(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated and seeded SQLite file, to be copied: hashing passwords takes time."""
    path = tmp_path_factory.mktemp("seeded") / "paidonce.db"
    shutil.copy(sqlite_template, path)
    run_apart(lambda: _seed(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def seeded_postgres(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """The name of a migrated and seeded PostgreSQL database, to be copied."""
    name = pgadmin.new_name()
    pgadmin.create_database(postgres_server, name, template=postgres_template)
    run_apart(lambda: _seed(pgadmin.with_database(postgres_server, name)))
    yield name
    pgadmin.drop_database(postgres_server, name)


@pytest.fixture(scope="session")
def seeded_pool(postgres_server: str, seeded_postgres: str) -> Iterator[pgadmin.Pool]:
    """Seeded PostgreSQL databases that nobody uses."""
    pool = pgadmin.Pool(postgres_server, seeded_postgres)
    yield pool
    pool.close()


@pytest.fixture
def postgresql_url(postgres_server: str, seeded_pool: pgadmin.Pool) -> Iterator[str]:
    """A seeded PostgreSQL database of this test's own, as good as fresh."""
    name = seeded_pool.take()
    yield pgadmin.with_database(postgres_server, name)
    seeded_pool.give_back(name)


@pytest.fixture
def sqlite_url(seeded_url: str) -> str:
    """A seeded SQLite file of this test's own."""
    return seeded_url


@pytest.fixture
def shop(database_url: str) -> Iterator[WebShop]:
    """A seeded shop, served on each database."""
    with running_shop(database_url) as shop:
        yield shop


@pytest.fixture
def seeded_url(seeded_sqlite: Path, tmp_path: Path) -> str:
    """A seeded SQLite file of this test's own, for what has nothing to do with the kind of database."""
    path = tmp_path / "seeded.db"
    shutil.copy(seeded_sqlite, path)
    return f"sqlite:///{path}"


@pytest.fixture
def quick_shop(seeded_url: str) -> Iterator[WebShop]:
    """A seeded shop on SQLite only."""
    with running_shop(seeded_url) as shop:
        yield shop


@pytest.fixture
async def buyer(shop: WebShop) -> AsyncIterator[Client]:
    """The demo buyer, signed in."""
    async with shop.client() as client:
        assert (await client.sign_in()).status == 201
        yield client


@pytest.fixture
async def stranger(shop: WebShop) -> AsyncIterator[Client]:
    """Another buyer, signed in."""
    async with shop.client() as client:
        assert (await client.sign_up("stranger@example.com")).status == 201
        yield client
