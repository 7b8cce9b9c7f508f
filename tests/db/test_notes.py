"""The notebooks of gateways: append-only, without gaps, and one writer at a time for an object, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from paidonce.core import Core
from paidonce.errors import ChangedMeanwhile, Conflict, InvalidRequest
from paidonce.gateways.base import Note
from paidonce.notes import SqlNotes
from paidonce.ports import Database, RandomIds, SystemClock, Transaction
from paidonce.store import SqlStore


@pytest.fixture
def core(database: Database) -> Core:
    return Core(database, {}, SqlStore(), SystemClock(), RandomIds())


@pytest.fixture
def book(core: Core) -> SqlNotes:
    return SqlNotes(core, "counter")


async def write(book: SqlNotes, key: str, *, ref: str = "R-1", value: str = "{}", seen: int | None = None) -> bool:
    return await book.append(ref, "seen", value, text=f"{key} was seen.", key=key, by="usr_a", seen=seen)


def words(found: tuple[Note, ...]) -> list[tuple[int, str]]:
    return [(one.number, one.key) for one in found]


async def test_notes_are_read_as_they_were_written_each_gateways_own(core: Core, book: SqlNotes) -> None:
    assert await book.read("R-1") == ()
    assert await write(book, "a", value='{"n":1}')
    assert await write(book, "b")
    assert await write(book, "a", ref="R-2"), "keys belong to an object"
    (first, second) = await book.read("R-1")
    assert (first.number, first.ref, first.kind, first.value) == (1, "R-1", "seen", '{"n":1}')
    assert (first.text, first.key, first.by) == ("a was seen.", "a", "usr_a")
    assert first.at <= second.at <= core.clock.now()
    assert await SqlNotes(core, "another").read("R-1") == ()


async def test_the_same_key_is_the_same_note_and_never_another(book: SqlNotes) -> None:
    assert await write(book, "a", value='{"n":1}')
    assert await write(book, "a", value='{"n":1}') is False
    assert await write(book, "a", value='{"n":1}', seen=0) is False, "a repeated entry is no outdated one"
    with pytest.raises(InvalidRequest):
        await write(book, "a", value='{"n":2}')
    assert words(await book.read("R-1")) == [(1, "a")]


@pytest.mark.parametrize("seen", [0, 1, 3, 99])
async def test_who_has_not_read_the_newest_note_writes_nothing(book: SqlNotes, seen: int) -> None:
    for key in ("a", "b"):
        await write(book, key)
    with pytest.raises(ChangedMeanwhile):
        await write(book, "c", seen=seen)
    assert words(await book.read("R-1")) == [(1, "a"), (2, "b")]
    assert await write(book, "c", seen=2)


async def test_of_many_who_have_read_the_same_one_writes(book: SqlNotes) -> None:
    await write(book, "a")
    told = await asyncio.gather(*(write(book, f"of-{who}", seen=1) for who in range(12)), return_exceptions=True)
    assert [one for one in told if not isinstance(one, ChangedMeanwhile)] == [True]
    assert len(await book.read("R-1")) == 2


async def test_many_who_have_read_nothing_take_turns_without_gaps(book: SqlNotes) -> None:
    told = await asyncio.gather(*(write(book, f"of-{who}") for who in range(12)))
    assert told == [True] * 12
    found = await book.read("R-1")
    assert [one.number for one in found] == list(range(1, 13))
    assert {one.key for one in found} == {f"of-{who}" for who in range(12)}


async def test_one_key_that_arrives_many_times_at_once_is_one_note(book: SqlNotes) -> None:
    told = await asyncio.gather(*(write(book, "a", seen=0) for _ in range(12)))
    assert sorted(told) == [False] * 11 + [True]
    assert words(await book.read("R-1")) == [(1, "a")]


@pytest.mark.parametrize("sql", ["UPDATE gateway_notes SET value = '{}'", "DELETE FROM gateway_notes"])
async def test_no_note_is_ever_changed_or_deleted(core: Core, book: SqlNotes, sql: str) -> None:
    await write(book, "a", value='{"n":1}')

    async def tamper(tx: Transaction) -> None:
        await tx.execute(sql)

    with pytest.raises(Conflict, match="append-only"):
        await core.db.transaction(tamper)
    assert [one.value for one in await book.read("R-1")] == ['{"n":1}']
