"""What `ports.Database` promises, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, Protocol
from uuid import uuid4

import pytest

import paidonce.db
from paidonce.db.driving import SuspendedInsideTransaction, TransactionOver, WroteInsideRead
from paidonce.db.sql import MissingParameter
from paidonce.errors import Conflict, DatabaseDown
from paidonce.ports import Database, GatewayCallInsideTransaction, Transaction, inside_transaction, write_later


class Things(Protocol):
    """See tests/db/conftest.py."""

    @property
    def database(self) -> Database: ...
    async def add(self, tx: Transaction, id: str, n: int = 1) -> None: ...
    async def put(self, id: str, n: int = 1) -> None: ...
    async def count(self, tx: Transaction) -> int: ...
    async def all(self) -> dict[str, int]: ...


async def test_a_transaction_keeps_what_it_wrote_and_returns_its_result(things: Things) -> None:
    async def run(tx: Transaction, id: str, *, n: int) -> str:
        await things.add(tx, id, n)
        return "done"

    assert await things.database.transaction(run, "a", n=7) == "done"
    assert await things.all() == {"a": 7}


async def test_a_transaction_that_raises_keeps_nothing(things: Things) -> None:
    refusal = ValueError("no")

    async def run(tx: Transaction) -> None:
        await things.add(tx, "a")
        raise refusal

    with pytest.raises(ValueError, match="no") as caught:
        await things.database.transaction(run)
    assert caught.value is refusal
    assert await things.all() == {}


@pytest.mark.parametrize(("id", "n"), [("a", 2), ("b", -1)], ids=["unique", "check"])
async def test_a_broken_constraint_is_a_conflict(things: Things, id: str, n: int) -> None:
    await things.put("a")
    with pytest.raises(Conflict):
        await things.put(id, n)
    assert await things.all() == {"a": 1}


async def test_a_conflict_tells_no_values_to_the_log(things: Things) -> None:
    canary = uuid4().hex
    await things.put(canary)
    with pytest.raises(Conflict) as caught:
        await things.put(canary)
    assert canary not in "".join(traceback.format_exception(caught.value))


async def test_a_failed_statement_fails_the_transaction_even_if_the_function_hides_it(things: Things) -> None:
    await things.put("a")

    async def run(tx: Transaction) -> None:
        await things.add(tx, "b")
        with pytest.raises(Conflict):
            await things.add(tx, "a")
        with pytest.raises(Conflict):
            await things.add(tx, "c")

    with pytest.raises(Conflict):
        await things.database.transaction(run)
    assert await things.all() == {"a": 1}


async def test_execute_counts_the_rows_it_changed(things: Things) -> None:
    async def run(tx: Transaction) -> list[int]:
        return [
            await tx.execute("INSERT INTO things (id, n) VALUES ('a', 1), ('b', 2)"),
            await tx.execute("UPDATE things SET n = n + :by WHERE id = :id", {"by": 5, "id": "a"}),
            await tx.execute("UPDATE things SET n = n + 1 WHERE n < :most RETURNING id", {"most": 99}),
            await tx.execute("DELETE FROM things WHERE id = :id", {"id": "zzz"}),
        ]

    assert await things.database.transaction(run) == [2, 1, 2, 0]
    assert await things.all() == {"a": 7, "b": 3}


async def test_execute_many_writes_all_rows_or_none(things: Things) -> None:
    async def run(tx: Transaction, *ids: str) -> None:
        await tx.execute_many("INSERT INTO things (id, n) VALUES (:id, 1)", [{"id": id} for id in ids])

    await things.database.transaction(run, "a", "b")
    await things.database.transaction(run)
    with pytest.raises(Conflict):
        await things.database.transaction(run, "c", "a")
    assert await things.all() == {"a": 1, "b": 1}


async def test_rows_are_mappings_by_column_name(things: Things) -> None:
    await things.put("b", 2)
    await things.put("a", 1)

    async def run(tx: Transaction) -> tuple[Any, ...]:
        return (
            await tx.fetch_one("SELECT id, n AS many FROM things WHERE id = :id", {"id": "b"}, lock=True),
            await tx.fetch_one("SELECT id FROM things WHERE id = 'zzz'"),
            await tx.fetch_all("SELECT id FROM things ORDER BY id", lock=True),
            await tx.fetch_all("SELECT id FROM things WHERE n > 99"),
            await tx.fetch_one("UPDATE things SET n = 9 WHERE id = 'a' RETURNING n"),
        )

    one, none, several, empty, returned = await things.database.transaction(run)
    assert isinstance(one, Mapping)
    assert one == {"id": "b", "many": 2}
    assert none is None
    assert several == [{"id": "a"}, {"id": "b"}]
    assert empty == []
    assert returned == {"n": 9}
    assert await things.all() == {"a": 9, "b": 2}


async def test_a_missing_parameter_is_named_and_nothing_is_kept(things: Things) -> None:
    async def run(tx: Transaction) -> None:
        await things.add(tx, "a")
        await tx.execute("UPDATE things SET n = :n WHERE id = :id", {"id": "a"})

    with pytest.raises(MissingParameter, match=":n"):
        await things.database.transaction(run)
    assert await things.all() == {}


async def test_values_never_become_sql(things: Things) -> None:
    await things.put("'; DROP TABLE things; --")
    assert await things.all() == {"'; DROP TABLE things; --": 1}


async def test_parallel_conditional_updates_never_oversell(things: Things) -> None:
    await things.put("stock", 10)

    async def take(tx: Transaction, buyer: int) -> bool:
        taken = await tx.execute("UPDATE things SET n = n - 1 WHERE id = 'stock' AND n >= 1")
        if taken:
            await things.add(tx, f"sold-{buyer}")
        return bool(taken)

    sold = await asyncio.gather(*(things.database.transaction(take, buyer) for buyer in range(100)))
    assert sum(sold) == 10
    found = await things.all()
    assert found.pop("stock") == 0
    assert len(found) == 10


async def test_parallel_read_modify_write_under_a_lock_loses_nothing(things: Things) -> None:
    await things.put("counter", 0)

    async def increase(tx: Transaction) -> None:
        row = await tx.fetch_one("SELECT n FROM things WHERE id = :id", {"id": "counter"}, lock=True)
        assert row is not None
        await tx.execute("UPDATE things SET n = :n WHERE id = 'counter'", {"n": row["n"] + 1})

    await asyncio.gather(*(things.database.transaction(increase) for _ in range(40)))
    assert await things.all() == {"counter": 40}


async def test_a_read_sees_one_snapshot(
    things: Things, second_connection: Callable[[Callable[[Things], Coroutine[Any, Any, None]]], None]
) -> None:
    """Whether it is the first reading of its kind, which may be run again from its start, or a later one."""
    written = 0

    async def read(tx: Transaction) -> tuple[int, int]:
        nonlocal written
        before = await things.count(tx)
        written += 1
        second_connection(lambda other: other.put(f"thing {written}"))
        return before, await things.count(tx)

    for _ in range(2):
        before, after = await things.database.read(read)
        assert before == after == written - 1
        assert await things.database.read(things.count) == written


async def test_a_read_of_one_statement_is_as_good_as_any(things: Things) -> None:
    await things.put("a")
    for _ in range(2):
        assert await things.database.read(things.count) == 1
        with pytest.raises(WroteInsideRead):
            await things.database.read(things.add, "b")

    async def returning(tx: Transaction) -> object:
        return await tx.fetch_one("INSERT INTO things (id, n) VALUES ('c', 1) RETURNING id")

    async def with_comment(tx: Transaction) -> object:
        return await tx.fetch_one("WITH new AS (SELECT 1 AS n) SELECT n FROM new")

    async def swallowed(tx: Transaction) -> int:
        found = await things.count(tx)
        with contextlib.suppress(Exception):
            found += await things.count(tx)
        return found

    for _ in range(2):
        with pytest.raises(WroteInsideRead):
            await things.database.read(returning)
        assert await things.database.read(with_comment) == {"n": 1}
        assert await things.database.read(swallowed) == 2, "what is not carried out must not be passed over"
    assert await things.all() == {"a": 1}


async def test_a_read_can_not_write(things: Things) -> None:
    with pytest.raises(WroteInsideRead):
        await things.database.read(things.add, "a")
    assert await things.all() == {}
    await things.put("b")
    assert await things.all() == {"b": 1}


async def test_what_a_read_raises_reaches_the_caller(things: Things) -> None:
    async def run(tx: Transaction) -> None:
        raise KeyError(await things.count(tx))

    for _ in range(20):
        with pytest.raises(KeyError):
            await things.database.read(run)


async def _pause() -> None:
    await asyncio.sleep(0)


async def _sleep() -> None:
    await asyncio.sleep(0.01)


async def _wait_for_somebody() -> None:
    await _Forever()


class _Forever:
    def __await__(self) -> Any:
        yield self


@pytest.mark.parametrize("foreign", [_pause, _sleep, _wait_for_somebody])
async def test_awaiting_anything_but_the_transaction_is_refused(
    things: Things, foreign: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    cleaned: list[str] = []

    async def run(tx: Transaction) -> None:
        await things.add(tx, "a")
        try:
            await foreign()
        finally:
            cleaned.append("up")

    for method in (things.database.transaction, things.database.read):
        with pytest.raises((SuspendedInsideTransaction, WroteInsideRead)):
            await method(run)
    with pytest.raises(SuspendedInsideTransaction, match="something else than its transaction"):
        await things.database.transaction(run)
    assert cleaned == ["up", "up"]
    assert await things.all() == {}
    await things.put("b")
    assert await things.all() == {"b": 1}


async def test_a_function_that_hides_its_foreign_wait_is_still_refused(things: Things) -> None:
    async def run(tx: Transaction) -> None:
        await things.add(tx, "a")
        try:
            await asyncio.sleep(0)
        except AssertionError:
            return

    with pytest.raises(SuspendedInsideTransaction):
        await things.database.transaction(run)
    assert await things.all() == {}


async def test_transactions_don_t_nest(things: Things) -> None:
    async def nest(tx: Transaction, method: Callable[..., Coroutine[Any, Any, int]]) -> None:
        await things.add(tx, "a")
        await method(things.count)

    for method in (things.database.transaction, things.database.read):
        with pytest.raises(GatewayCallInsideTransaction):
            await things.database.transaction(nest, method)
    assert await things.all() == {}


async def test_a_function_knows_that_it_is_inside_and_keeps_its_caller_s_context(things: Things) -> None:
    request_id: ContextVar[str] = ContextVar("request_id", default="none")
    request_id.set("req-1")

    async def run(tx: Transaction) -> tuple[bool, bool, str]:
        before = inside_transaction.get()
        await things.count(tx)
        return before, inside_transaction.get(), request_id.get()

    assert await things.database.transaction(run) == (True, True, "req-1")
    assert await things.database.read(run) == (True, True, "req-1")
    assert inside_transaction.get() is False


async def test_the_context_is_outside_again_after_a_failure(things: Things) -> None:
    with pytest.raises(Conflict):
        await things.put("a", -1)
    assert inside_transaction.get() is False


async def test_a_transaction_can_not_be_used_after_its_end(things: Things) -> None:
    async def leak(tx: Transaction) -> Transaction:
        return tx

    for method in (things.database.transaction, things.database.read):
        tx = await method(leak)
        with pytest.raises(TransactionOver):
            await things.add(tx, "a")
    assert await things.all() == {}


async def test_wrong_sql_is_no_conflict_and_the_database_stays_usable(things: Things) -> None:
    async def run(tx: Transaction) -> None:
        await things.add(tx, "a")
        await tx.execute("INSERT INTO no_such_table VALUES (1)")

    with pytest.raises(Exception, match="no_such_table") as caught:
        await things.database.transaction(run)
    assert not isinstance(caught.value, (Conflict, DatabaseDown))
    assert await things.all() == {}


async def test_close_finishes_what_was_handed_over_and_refuses_more(database_url: str) -> None:
    database = await paidonce.db.connect(database_url)

    async def write(tx: Transaction, id: str) -> str:
        await tx.execute(
            "INSERT INTO history (order_id, event, detail, created_at) VALUES (:id, 'made', '{}', 1)", {"id": id}
        )
        return id

    tasks = [asyncio.create_task(database.transaction(write, f"o{number}")) for number in range(20)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await database.close()
    await database.close()
    finished = await asyncio.gather(*tasks, return_exceptions=True)
    for method in (database.transaction, database.read):
        with pytest.raises(DatabaseDown):
            await method(write, "late")
    assert await _orders(database_url) == set(finished) == {f"o{number}" for number in range(20)}


_WRITE_UNTIL_KILLED = """
import asyncio, sys, paidonce.db
async def write(tx, id):
    await tx.execute(
        "INSERT INTO history (order_id, event, detail, created_at) VALUES (:id, 'made', '{}', 1)", {"id": id})
async def buyer(database, name):
    for number in range(1_000_000):
        await database.transaction(write, f"{name}-{number}")
        print(f"{name}-{number}", flush=True)
async def main(url):
    database = await paidonce.db.connect(url)
    await asyncio.gather(*(buyer(database, name) for name in "abcdefgh"))
asyncio.run(main(sys.argv[1]))
"""


def test_what_was_acknowledged_survives_kill_9(database_url: str) -> None:
    command = [sys.executable, "-c", _WRITE_UNTIL_KILLED, database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = {child.stdout.readline().strip() for _ in range(200)}
        os.kill(child.pid, signal.SIGKILL)
        # The very last line may have been cut off by the kill.
        acknowledged |= {line.strip() for line in child.stdout if line.endswith("\n")}
    assert child.returncode == -signal.SIGKILL
    assert len(acknowledged) >= 200
    assert acknowledged <= asyncio.run(_orders(database_url))


async def _orders(url: str) -> set[str]:
    database = await paidonce.db.connect(url)

    async def read(tx: Transaction) -> set[str]:
        return {row["order_id"] for row in await tx.fetch_all("SELECT order_id FROM history")}

    try:
        return await database.read(read)
    finally:
        await database.close()


# ── Writes that may wait ──────────

_ADD = "INSERT INTO things (id, n) VALUES (:id, :n)"
_NOTE = "INSERT INTO notes (id, text) VALUES (:id, :text)"
_INCREASE = "UPDATE things SET n = n + :by WHERE id = :id"


@pytest.fixture
async def notes(things: Things) -> Things:
    """A second table, with rows of the first."""

    async def create(tx: Transaction) -> None:
        await tx.execute("CREATE TABLE notes (id TEXT PRIMARY KEY REFERENCES things, text TEXT NOT NULL)")

    await things.database.transaction(create)
    return things


async def _notes(things: Things) -> dict[str, str]:
    async def read(tx: Transaction) -> dict[str, str]:
        return {row["id"]: row["text"] for row in await tx.fetch_all("SELECT id, text FROM notes ORDER BY id")}

    return await things.database.read(read)


async def test_a_write_that_waits_is_seen_by_all_that_follows(notes: Things) -> None:
    async def run(tx: Transaction) -> list[int]:
        seen = []
        await write_later(tx, _ADD, {"id": "a", "n": 1})
        await write_later(tx, _NOTE, {"id": "a", "text": "which refers to the first, and holds a $1 and a :name"})
        seen.append(await notes.count(tx))
        # Two about the same row: the second rests on the first.
        await write_later(tx, _INCREASE, {"id": "a", "by": 1})
        await write_later(tx, _INCREASE, {"id": "a", "by": 10})
        seen.append(await tx.execute("UPDATE things SET n = n * 2 WHERE n = :n", {"n": 12}))
        await write_later(tx, _INCREASE, {"id": "a", "by": 100})
        await tx.execute_many(_ADD, [{"id": "b", "n": 2}, {"id": "c", "n": 3}])
        await write_later(tx, _INCREASE, {"id": "c", "by": 1000})
        return seen

    assert await notes.database.transaction(run) == [1, 1]
    assert await notes.all() == {"a": 124, "b": 2, "c": 1003}
    assert await _notes(notes) == {"a": "which refers to the first, and holds a $1 and a :name"}


async def test_a_write_that_waits_is_refused_before_the_transaction_ends(notes: Things) -> None:
    await notes.put("a")

    async def twice(tx: Transaction) -> str:
        await write_later(tx, _NOTE, {"id": "a", "text": "kept by nobody"})
        await write_later(tx, _ADD, {"id": "a", "n": 1})
        return "past the line, but not past the end"

    async def caught(tx: Transaction) -> None:
        with contextlib.suppress(Conflict):
            await write_later(tx, _ADD, {"id": "a", "n": 1})
            await notes.count(tx)

    for refused in (twice, caught):
        with pytest.raises(Conflict):
            await notes.database.transaction(refused)
    assert await notes.all() == {"a": 1}
    assert await _notes(notes) == {}


async def test_a_write_that_waits_ends_with_a_function_that_fails(notes: Things) -> None:
    async def fail(tx: Transaction) -> None:
        await write_later(tx, _ADD, {"id": "a", "n": 1})
        raise LookupError

    async def lacks(tx: Transaction) -> None:
        await write_later(tx, _ADD, {"id": "a"})

    with pytest.raises(LookupError):
        await notes.database.transaction(fail)
    with pytest.raises(MissingParameter):
        await notes.database.transaction(lacks)
    with pytest.raises(WroteInsideRead):
        await notes.database.read(write_later, _ADD, {"id": "a", "n": 1})
    assert await notes.all() == {}
