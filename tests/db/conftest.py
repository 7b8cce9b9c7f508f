"""A small table of the driver tests' own, so that they don't depend on the shop's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import paidonce.db
from paidonce.ports import Database, Transaction


@dataclass(frozen=True)
class Things:
    """The table `things (id, n)`, whose n can't be negative."""

    database: Database

    async def create(self) -> None:
        async def run(tx: Transaction) -> None:
            await tx.execute("CREATE TABLE things (id TEXT PRIMARY KEY, n BIGINT NOT NULL CHECK (n >= 0))")

        await self.database.transaction(run)

    async def add(self, tx: Transaction, id: str, n: int = 1) -> None:
        await tx.execute("INSERT INTO things (id, n) VALUES (:id, :n)", {"id": id, "n": n})

    async def put(self, id: str, n: int = 1) -> None:
        await self.database.transaction(self.add, id, n)

    async def count(self, tx: Transaction) -> int:
        row = await tx.fetch_one("SELECT count(*) AS found FROM things")
        assert row is not None
        return int(row["found"])

    async def all(self) -> dict[str, int]:
        async def run(tx: Transaction) -> dict[str, int]:
            return {row["id"]: row["n"] for row in await tx.fetch_all("SELECT id, n FROM things ORDER BY id")}

        return await self.database.read(run)


@pytest.fixture
async def things(database: Database) -> Things:
    """The table on each kind of database."""
    found = Things(database)
    await found.create()
    return found


@pytest.fixture
async def sqlite_things(sqlite_url: str) -> AsyncIterator[Things]:
    """The table on SQLite only."""
    async with _things(sqlite_url) as found:
        yield found


@pytest.fixture
async def postgres_things(postgresql_url: str) -> AsyncIterator[Things]:
    """The table on PostgreSQL only, with a pool of four connections."""
    mark = "&" if "?" in postgresql_url else "?"
    async with _things(f"{postgresql_url}{mark}pool_size=4") as found:
        yield found


@asynccontextmanager
async def _things(url: str) -> AsyncIterator[Things]:
    database = await paidonce.db.connect(url)
    found = Things(database)
    await found.create()
    yield found
    await database.close()


@pytest.fixture
def second_connection(database_url: str) -> Callable[[Callable[[Things], Coroutine[Any, Any, None]]], None]:
    """Runs a coroutine on a connection, event loop and thread of its own, and waits for its end."""
    import asyncio
    import threading

    def run(work: Callable[[Things], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            database = await paidonce.db.connect(database_url)
            await work(Things(database))
            await database.close()

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join()

    return run
