"""SQLAlchemy's statements inside paidonce's transactions, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import CheckConstraint, create_engine, delete, func, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import paidonce.db
from paidonce.contrib.sqlalchemy import execute, fetch_all, fetch_one
from paidonce.errors import Conflict
from paidonce.ports import Database, Transaction

WHEN = datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=UTC).replace(tzinfo=None)


class Base(DeclarativeBase):
    pass


class Thing(Base):
    """A table whose name and columns need quotes, with types that SQLite has no words for."""

    __tablename__ = "group"
    __table_args__ = (CheckConstraint("amount >= 0"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[str]
    amount: Mapped[int]
    seen_at: Mapped[datetime | None]
    is_on: Mapped[bool] = mapped_column("on", default=True)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    postgres = request.param == "postgresql"
    url = request.getfixturevalue("empty_postgresql_url") if postgres else f"sqlite:///{tmp_path}/things.db"
    own = "postgresql+psycopg://" + url.partition("://")[2] if postgres else url
    engine = create_engine(own)
    Base.metadata.create_all(engine)
    engine.dispose()
    found = await paidonce.db.connect(url)
    yield found
    await found.close()


async def add(tx: Transaction, *amounts: int) -> int:
    rows = 0
    for number, amount in enumerate(amounts, start=1):
        rows += await execute(
            tx, insert(Thing).values(order=f"o{number}", amount=amount, seen_at=WHEN, is_on=amount > 1)
        )
    return rows


async def test_values_go_in_and_come_back_as_their_types_say(database: Database) -> None:
    async def work(tx: Transaction) -> None:
        assert await add(tx, 1, 2) == 2
        wanted = select(Thing.id, Thing.order, Thing.seen_at, Thing.is_on).where(Thing.seen_at.in_([WHEN]))
        rows = await fetch_all(tx, wanted.order_by(Thing.order), lock=True)
        assert [(row["order"], row["seen_at"]) for row in rows] == [("o1", WHEN), ("o2", WHEN)]
        assert rows[0]["on"] is False
        assert rows[1]["on"] is True
        assert await fetch_one(tx, select(Thing.id).where(Thing.order == "none")) is None

    await database.transaction(work)


async def test_updates_count_their_rows(database: Database) -> None:
    async def work(tx: Transaction) -> None:
        await add(tx, 1, 2, 3)
        assert await execute(tx, update(Thing).where(Thing.amount > 1).values(amount=Thing.amount + 10)) == 2
        assert await execute(tx, update(Thing).where(Thing.order == "none").values(amount=0)) == 0
        assert await execute(tx, delete(Thing).where(Thing.order.in_(["o1", "o2"]))) == 2
        row = await fetch_one(tx, select(func.sum(Thing.amount).label("total")))
        assert row is not None
        assert row["total"] == 13

    await database.transaction(work)


async def test_what_fails_is_rolled_back_with_everything(database: Database) -> None:
    async def work(tx: Transaction) -> None:
        await add(tx, 5)
        await execute(tx, update(Thing).values(amount=-1))

    with pytest.raises(Conflict):
        await database.transaction(work)

    async def count(tx: Transaction) -> int:
        return len(await fetch_all(tx, select(Thing.id)))

    assert await database.read(count) == 0
