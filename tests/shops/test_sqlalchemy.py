"""SQLAlchemy's statements inside paidonce's transactions, on both databases."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Enum,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    case,
    create_engine,
    delete,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
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


class Kind(enum.Enum):
    GIFT = "a gift"
    SALE = "for sale"


class Sealed(TypeDecorator[str]):
    """Text that is kept backwards: what skips this type is seen at once."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value[::-1]

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value[::-1]


class Parcel(Base):
    """Every type whose values are not those of the database."""

    __tablename__ = "parcels"
    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    code: Mapped[UUID | None] = mapped_column(Uuid(native_uuid=False))
    note: Mapped[str] = mapped_column(Sealed)
    kind: Mapped[Kind] = mapped_column(Enum(Kind))
    plain_kind: Mapped[Kind | None] = mapped_column(Enum(Kind, native_enum=False))
    extra: Mapped[Any] = mapped_column(JSON)
    more: Mapped[Any] = mapped_column(JSON().with_variant(JSONB(), "postgresql"), nullable=True)
    weight: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    ratio: Mapped[float | None]


calls: list[str] = []


def next_label() -> str:
    calls.append("label")
    return f"label {len(calls)}"


def from_the_others(context: Any) -> str:
    return str(context.get_current_parameters()["label"])


class Counted(Base):
    """Columns that Python fills in."""

    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(default=next_label)
    state: Mapped[str] = mapped_column(Sealed, default="new", onupdate="changed")
    by_sql: Mapped[int] = mapped_column(default=literal(40) + 2)
    changes: Mapped[int] = mapped_column(default=0, onupdate=lambda: 7)


class Refused(Base):
    """A column whose default looks at the other values."""

    __tablename__ = "refused"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str]
    slug: Mapped[str] = mapped_column(default=from_the_others)
    seen: Mapped[str | None] = mapped_column(onupdate=from_the_others)


spaced = Table(
    "spaced",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("unit price", Integer, default=5),
)


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


FIRST = {
    "id": UUID(int=1),
    "code": UUID(int=11),
    "note": "for Ann",
    "kind": Kind.GIFT,
    "plain_kind": Kind.SALE,
    "extra": {"a": [1, None, "x"]},
    "more": [True],
    "weight": Decimal("12.30"),
    "ratio": 0.5,
}
SECOND = {**FIRST, "id": UUID(int=2), "note": "for Bo", "kind": Kind.SALE, "code": None, "more": None, "ratio": None}


async def test_every_value_passes_through_the_type_of_its_column(database: Database) -> None:
    """What is written is what the types make of it, in lists too, and what is read is what was given."""

    async def work(tx: Transaction) -> None:
        assert await execute(tx, insert(Parcel).values(**FIRST)) == 1
        assert await execute(tx, insert(Parcel).values([SECOND])) == 1
        assert [dict(row) for row in await fetch_all(tx, select(Parcel).order_by(Parcel.id))] == [FIRST, SECOND]
        raw = await tx.fetch_all("SELECT note, kind, plain_kind FROM parcels ORDER BY id")
        assert [tuple(row.values()) for row in raw] == [("nnA rof", "GIFT", "SALE"), ("oB rof", "SALE", "SALE")]

        for wanted in (
            Parcel.note == "for Ann",
            Parcel.note.in_(["for Ann", "for Cy"]),
            Parcel.kind == Kind.GIFT,
            Parcel.kind.in_([Kind.GIFT]),
            Parcel.id.in_([UUID(int=1), UUID(int=3)]),
            tuple_(Parcel.note, Parcel.kind).in_([("for Ann", Kind.GIFT), ("for Bo", Kind.GIFT)]),
            Parcel.note.not_in(["for Bo"]),
        ):
            assert [row["id"] for row in await fetch_all(tx, select(Parcel.id).where(wanted))] == [UUID(int=1)], wanted
        assert await fetch_all(tx, select(Parcel.id).where(Parcel.kind.in_([]))) == []

        heavier = {"note": "for Cy", "kind": Kind.SALE, "extra": [], "weight": Decimal("0.10")}
        assert await execute(tx, update(Parcel).where(Parcel.code == UUID(int=11)).values(**heavier)) == 1
        assert await fetch_one(tx, select(Parcel).where(Parcel.id == UUID(int=1))) == {**FIRST, **heavier}
        assert await fetch_one(tx, select(Parcel).where(Parcel.id == UUID(int=2))) == SECOND

    await database.transaction(work)


async def test_what_the_database_names_itself_is_read_by_its_type_and_once(database: Database) -> None:
    """A function's column, and the second of two with one name, come back as their types say."""

    async def work(tx: Transaction) -> None:
        await execute(tx, insert(Parcel).values([FIRST, SECOND]))
        other = Parcel.__table__.alias()
        both = select(Parcel.note, other.c.note, func.max(Parcel.weight)).join(other, other.c.id == Parcel.id)
        row = await fetch_one(tx, both.group_by(Parcel.note, other.c.note).order_by(Parcel.note))
        assert row is not None
        assert list(row.values()) == ["for Ann", "for Ann", Decimal("12.30")]
        chosen = await fetch_one(tx, select(case((Parcel.id == UUID(int=1), 5), else_=6).label("n")).limit(1))
        assert chosen is not None
        assert chosen["n"] in (5, 6)

    await database.transaction(work)


async def test_python_fills_in_the_defaults_of_its_columns(database: Database) -> None:
    """`default=` and `onupdate=` are values, never NULL, and a value in the statement comes first."""
    calls.clear()

    async def work(tx: Transaction) -> None:
        await execute(tx, insert(Counted).values(id=1))
        await execute(tx, insert(Counted).values([{"id": 2}, {"id": 3}]))
        await execute(tx, insert(Counted).values(id=4, label="own", state="own", by_sql=1, changes=1))
        rows = await fetch_all(tx, select(Counted).order_by(Counted.id))
        assert [row["label"] for row in rows] == ["label 1", "label 2", "label 3", "own"]
        assert [row["state"] for row in rows] == ["new", "new", "new", "own"]
        assert [row["by_sql"] for row in rows] == [42, 42, 42, 1]
        assert [row["changes"] for row in rows] == [0, 0, 0, 1]

        await execute(tx, update(Counted).where(Counted.id == 1).values(label="other"))
        await execute(tx, update(Counted).where(Counted.id == 2).values(state="own", changes=Counted.changes + 1))
        rows = await fetch_all(tx, select(Counted).order_by(Counted.id))
        assert [row["state"] for row in rows] == ["changed", "own", "new", "own"]
        assert [row["changes"] for row in rows] == [7, 1, 0, 1]
        assert rows[0]["label"] == "other"
        raw = await tx.fetch_one("SELECT state FROM counted WHERE id = 1")
        assert raw == {"state": "degnahc"}

    await database.transaction(work)
    # Once for each row that left it out, and for no update.
    assert calls == ["label"] * 3


@pytest.mark.parametrize(
    ("statement", "column"),
    [
        (insert(Refused).values(id=2, label="x"), "refused.slug"),
        (insert(Refused).values([{"id": 2, "label": "x", "slug": "x"}, {"id": 3, "label": "y"}]), "refused.slug"),
        (update(Refused).values(label="x"), "refused.seen"),
    ],
)
async def test_a_default_that_looks_at_the_other_values_is_refused(
    database: Database, statement: Any, column: str
) -> None:
    """The error names the column and the way out, and nothing is written."""

    async def work(tx: Transaction) -> None:
        await execute(tx, insert(Refused).values(id=1, label="a", slug="a"))
        await execute(tx, statement)

    with pytest.raises(TypeError, match=rf"{column} needs .*\.values\({column.partition('.')[2]}="):
        await database.transaction(work)

    async def look(tx: Transaction) -> Any:
        return await fetch_all(tx, select(Refused.id))

    assert await database.read(look) == []


async def test_a_column_whose_name_is_no_word(database: Database) -> None:
    """A space in a column's name is written around, and what can't be is refused instead of misread."""

    async def work(tx: Transaction) -> None:
        price = spaced.c["unit price"]
        await execute(tx, insert(spaced).values([{"id": 1, "unit price": 3}, {"id": 2, "unit price": 4}]))
        await execute(tx, insert(spaced).values(id=3))
        assert await execute(tx, update(spaced).where(price.in_([3, 9])).values({"unit price": 8})) == 1
        rows = await fetch_all(tx, select(price).order_by(spaced.c.id))
        assert [row["unit price"] for row in rows] == [8, 4, 5]
        odd = Table("spaced", MetaData(), Column("id", Integer), Column("unit-price", String))
        with pytest.raises(TypeError, match="unit-price"):
            await execute(tx, update(odd).values({"unit-price": "1"}))

    await database.transaction(work)
