"""The driver on Django's connection, on SQLite and PostgreSQL: what it keeps, what it undoes, and what it refuses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import Error as DjangoError
from django.db import IntegrityError, connections, transaction

from paidonce.contrib.django import run
from paidonce.db.django import DjangoDatabase, InsideHostTransaction, ThreadedDatabase
from paidonce.db.driving import SuspendedInsideTransaction, WroteInsideRead
from paidonce.errors import CommitUnknown, Conflict, DatabaseDown
from paidonce.ports import GatewayCallInsideTransaction, Transaction, inside_transaction


class Boom(Exception):
    """A transaction function's own error."""


@pytest.fixture
def db(connection: Any) -> DjangoDatabase:
    """The driver, and a table `things (id, n)` whose n can't be negative."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE things (id TEXT PRIMARY KEY, n BIGINT NOT NULL CHECK (n >= 0))")
    return DjangoDatabase()


async def add(tx: Transaction, id: str, n: int = 1) -> None:
    await tx.execute("INSERT INTO things (id, n) VALUES (:id, :n)", {"id": id, "n": n})


async def read_all(tx: Transaction) -> dict[str, int]:
    return {row["id"]: row["n"] for row in await tx.fetch_all("SELECT id, n FROM things ORDER BY id")}


def kept(db: DjangoDatabase) -> dict[str, int]:
    found: dict[str, int] = run(db.read(read_all))
    return found


def apart(work: Callable[[], Any]) -> Any:
    """In a thread with a connection of its own, which is closed behind it."""

    def closing() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(closing).result(60)


def host_adds(id: str) -> None:
    """The shop's own code, on Django's connection."""
    with connections["default"].cursor() as cursor:
        cursor.execute("INSERT INTO things (id, n) VALUES (%s, 1)", [id])


# ── What is kept and what is undone ──────────


def test_ours_and_the_hosts_are_kept_together(db: DjangoDatabase) -> None:
    async def both(tx: Transaction) -> str:
        await add(tx, "ours")
        host_adds("host's")
        return "done"

    assert run(db.transaction(both)) == "done"
    assert apart(lambda: kept(db)) == {"host's": 1, "ours": 1}


def test_what_raises_leaves_nothing_of_either(db: DjangoDatabase) -> None:
    async def both(tx: Transaction) -> None:
        await add(tx, "ours")
        host_adds("host's")
        raise Boom

    with pytest.raises(Boom):
        run(db.transaction(both))
    assert kept(db) == {}
    assert not inside_transaction.get()
    assert not connections["default"].in_atomic_block


def test_a_broken_constraint_is_a_conflict_that_quotes_no_values(db: DjangoDatabase) -> None:
    run(db.transaction(add, "secret-value"))

    async def twice(tx: Transaction) -> None:
        await add(tx, "other")
        await add(tx, "secret-value")

    with pytest.raises(Conflict) as refused:
        run(db.transaction(twice))
    assert "secret-value" not in str(refused.value)
    assert refused.value.__cause__ is None or "secret-value" not in str(refused.value.__cause__)
    assert kept(db) == {"secret-value": 1}


def test_a_conflict_that_was_caught_still_ends_the_transaction(db: DjangoDatabase) -> None:
    async def catches(tx: Transaction) -> None:
        await add(tx, "a")
        with pytest.raises(Conflict):
            await add(tx, "a")

    with pytest.raises(Conflict):
        run(db.transaction(catches))
    assert kept(db) == {}


def test_an_error_that_the_host_hides_still_ends_the_transaction(db: DjangoDatabase) -> None:
    async def hides(tx: Transaction) -> None:
        host_adds("a")
        with pytest.raises(IntegrityError):
            host_adds("a")

    with pytest.raises(Conflict):
        run(db.transaction(hides))
    assert kept(db) == {}


def test_an_error_that_the_orm_hides_without_a_savepoint_still_ends_the_transaction(db: DjangoDatabase) -> None:
    @transaction.atomic(savepoint=False)  # type: ignore[untyped-decorator]  # Django has no types.
    def as_the_orm_does() -> None:
        host_adds("a")

    async def hides(tx: Transaction) -> None:
        as_the_orm_does()
        with pytest.raises(IntegrityError):
            as_the_orm_does()

    with pytest.raises(Conflict):
        run(db.transaction(hides))
    assert kept(db) == {}


def test_an_error_behind_the_hosts_own_savepoint_is_the_hosts_business(db: DjangoDatabase) -> None:
    @transaction.atomic  # type: ignore[untyped-decorator]  # Django has no types.
    def with_savepoint() -> None:
        host_adds("b")
        host_adds("a")

    async def careful(tx: Transaction) -> None:
        host_adds("a")
        with pytest.raises(IntegrityError):
            with_savepoint()
        await add(tx, "c")

    run(db.transaction(careful))
    assert kept(db) == {"a": 1, "c": 1}


def test_a_roll_back_that_the_host_asks_for_is_told(db: DjangoDatabase) -> None:
    async def gives_up(tx: Transaction) -> str:
        await add(tx, "a")
        transaction.set_rollback(True)
        return "done"

    with pytest.raises(DatabaseDown, match="set_rollback"):
        run(db.transaction(gives_up))
    assert kept(db) == {}


def test_a_commit_that_a_constraint_refuses_is_a_conflict(db: DjangoDatabase) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("CREATE TABLE parts (of_thing TEXT REFERENCES things (id) DEFERRABLE INITIALLY DEFERRED)")

    async def orphan(tx: Transaction) -> None:
        await add(tx, "a")
        await tx.execute("INSERT INTO parts (of_thing) VALUES (:id)", {"id": "nobody"})

    with pytest.raises(Conflict):
        run(db.transaction(orphan))
    assert kept(db) == {}


def test_a_connection_that_breaks_at_commit_leaves_the_outcome_unknown(db: DjangoDatabase) -> None:
    async def cut(tx: Transaction) -> None:
        await add(tx, "a")
        connection = connections["default"]
        if connection.vendor == "sqlite":
            connection.connection.close()
        else:
            pid = connection.connection.info.backend_pid
            apart(lambda: _terminate(pid))

    with pytest.raises(CommitUnknown):
        run(db.transaction(cut))
    # The next one has a connection that works.
    run(db.transaction(add, "b"))
    assert kept(db) == {"b": 1}


def _terminate(pid: int) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid])
            if cursor.fetchone() is None:
                return
    raise AssertionError("the server did not end the connection")


def test_the_hosts_hooks_run_after_the_commit_and_can_harm_nothing(db: DjangoDatabase) -> None:
    seen: list[object] = []

    def hook() -> None:
        seen.append(apart(lambda: kept(db)))
        seen.append(inside_transaction.get())
        run(db.transaction(add, "by a hook"))
        # On SQLite others write meanwhile, however long the hook takes.
        apart(lambda: run(db.transaction(add, "by another")))
        raise Boom

    async def with_hook(tx: Transaction) -> str:
        await add(tx, "a")
        transaction.on_commit(hook)
        return "done"

    assert run(db.transaction(with_hook)) == "done"
    assert seen == [{"a": 1}, False]
    assert kept(db) == {"a": 1, "by a hook": 1, "by another": 1}


def test_the_hosts_hooks_do_not_run_for_what_was_undone(db: DjangoDatabase) -> None:
    seen: list[str] = []

    async def with_hook(tx: Transaction) -> None:
        transaction.on_commit(lambda: seen.append("ran"))
        raise Boom

    with pytest.raises(Boom):
        run(db.transaction(with_hook))
    run(db.transaction(add, "a"))
    assert seen == []


# ── What is refused ──────────


def test_inside_of_the_hosts_transaction_nothing_is_begun(db: DjangoDatabase) -> None:
    async def never(tx: Transaction) -> None:
        raise AssertionError("this must not run")

    @transaction.atomic  # type: ignore[untyped-decorator]  # Django has no types.
    def breaks() -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT * FROM no_such_table")

    with transaction.atomic():
        host_adds("a")
        for begin in (db.transaction, db.read):
            with pytest.raises(InsideHostTransaction, match="non_atomic_requests"):
                run(begin(never))
        # The host's own transaction is unharmed, also if something in it went wrong before.
        with pytest.raises(DjangoError):
            breaks()
        with pytest.raises(InsideHostTransaction):
            run(db.transaction(never))
        host_adds("b")
    assert kept(db) == {"a": 1, "b": 1}


def test_without_autocommit_nothing_is_begun(db: DjangoDatabase) -> None:
    transaction.set_autocommit(False)
    try:
        with pytest.raises(InsideHostTransaction):
            run(db.transaction(add, "a"))
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert kept(db) == {}


def test_a_transaction_does_not_nest_and_does_not_wait_for_anybody(db: DjangoDatabase) -> None:
    async def nests(tx: Transaction) -> None:
        await add(tx, "a")
        await db.transaction(add, "b")

    async def sleeps(tx: Transaction) -> None:
        await add(tx, "a")
        await asyncio.sleep(0)

    with pytest.raises(GatewayCallInsideTransaction):
        run(db.transaction(nests))
    with pytest.raises(SuspendedInsideTransaction):
        run(db.transaction(sleeps))
    assert kept(db) == {}


def test_a_read_writes_nothing_neither_ours_nor_the_hosts(db: DjangoDatabase) -> None:
    async def host_writes(tx: Transaction) -> None:
        host_adds("a")

    with pytest.raises(WroteInsideRead):
        run(db.read(add, "a"))
    with pytest.raises(WroteInsideRead):
        run(db.read(host_writes))
    assert kept(db) == {}
    # Only reads are held back.
    host_adds("b")
    assert kept(db) == {"b": 1}


# ── Others at the same time ──────────


def test_a_read_sees_one_moment(db: DjangoDatabase) -> None:
    async def looks_twice(tx: Transaction) -> tuple[dict[str, int], dict[str, int]]:
        before = await read_all(tx)
        apart(lambda: host_adds("meanwhile"))
        return before, await read_all(tx)

    assert run(db.read(looks_twice)) == ({}, {})
    assert kept(db) == {"meanwhile": 1}


def test_threads_that_read_and_then_write_lose_nothing(db: DjangoDatabase) -> None:
    run(db.transaction(add, "sum", 0))

    async def increment(tx: Transaction) -> None:
        row = await tx.fetch_one("SELECT n FROM things WHERE id = 'sum'", lock=True)
        assert row is not None
        await tx.execute("UPDATE things SET n = :n WHERE id = 'sum'", {"n": row["n"] + 1})

    def ten_times() -> None:
        # One of its own, as another process has it: no queue in between.
        own = DjangoDatabase()
        for _ in range(10):
            run(own.transaction(increment))
        connections.close_all()

    threads = [threading.Thread(target=ten_times) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept(db) == {"sum": 40}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_deadlock_is_run_again(db: DjangoDatabase) -> None:
    run(db.transaction(add, "a", 0))
    run(db.transaction(add, "b", 0))
    both_have_one = threading.Barrier(2)
    runs: list[str] = []

    async def touch(tx: Transaction, first: str, second: str) -> None:
        runs.append(first)
        await tx.execute("UPDATE things SET n = n + 1 WHERE id = :id", {"id": first})
        if len(runs) <= 2:
            both_have_one.wait(30)
        await tx.execute("UPDATE things SET n = n + 1 WHERE id = :id", {"id": second})

    def work(first: str, second: str) -> None:
        run(db.transaction(touch, first, second))
        connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, "a", "b"), pool.submit(work, "b", "a")]:
            done.result(60)
    assert kept(db) == {"a": 2, "b": 2}
    assert len(runs) > 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_locked_rows_are_skipped_or_waited_for(db: DjangoDatabase) -> None:
    run(db.transaction(add, "a", 0))
    run(db.transaction(add, "b", 0))

    async def skipping(tx: Transaction) -> list[str]:
        rows = await tx.fetch_all("SELECT id FROM things ORDER BY id", lock=True, skip_locked=True)
        return [row["id"] for row in rows]

    async def holding(tx: Transaction) -> list[str]:
        await tx.fetch_one("SELECT id FROM things WHERE id = 'a'", lock=True)
        found: list[str] = apart(lambda: run(db.transaction(skipping)))
        return found

    assert run(db.transaction(holding)) == ["b"]
    assert run(db.transaction(skipping)) == ["a", "b"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_hosts_isolation_level_is_not_ours(db: DjangoDatabase) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("SET default_transaction_isolation = 'serializable'")

    async def level(tx: Transaction) -> object:
        row = await tx.fetch_one("SHOW transaction_isolation")
        assert row is not None
        return row["transaction_isolation"]

    assert run(db.transaction(level)) == "read committed"
    assert run(db.read(level)) == "repeatable read"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_closed_meanwhile_is_replaced(db: DjangoDatabase) -> None:
    pid = connections["default"].connection.info.backend_pid
    apart(lambda: _terminate(pid))
    # Nobody could know before the first statement; nothing was written then.
    with pytest.raises(DatabaseDown):
        run(db.transaction(add, "a"))
    run(db.transaction(add, "b"))
    assert kept(db) == {"b": 1}


def test_a_database_that_is_not_there_is_down(use_database: Callable[[str], Any], tmp_path: Any) -> None:
    use_database(f"sqlite:///{tmp_path}/no-such-folder/shop.db")
    with pytest.raises(DatabaseDown):
        run(DjangoDatabase().read(read_all))


# ── Statements ──────────


def test_statements_may_hold_what_the_driver_would_format(db: DjangoDatabase) -> None:
    async def writes(tx: Transaction) -> list[object]:
        await add(tx, "100%")
        await tx.execute("UPDATE things SET n = n % 5 + :more WHERE id LIKE '%0\\%' ESCAPE '\\'", {"more": True})
        rows = await tx.fetch_all("SELECT id, n, '%s :n' AS text FROM things WHERE id = :id", {"id": "100%"})
        return [dict(row) for row in rows]

    assert run(db.transaction(writes)) == [{"id": "100%", "n": 2, "text": "%s :n"}]


def test_many_rows_and_none(db: DjangoDatabase) -> None:
    async def writes(tx: Transaction) -> int:
        await tx.execute_many("INSERT INTO things (id, n) VALUES (:id, :n)", [])
        await tx.execute_many("INSERT INTO things (id, n) VALUES (:id, :n)", [{"id": str(n), "n": n} for n in range(3)])
        return await tx.execute("DELETE FROM things WHERE n > :n RETURNING id", {"n": 0})

    assert run(db.transaction(writes)) == 2
    assert kept(db) == {"0": 0}


# ── On an event loop ──────────


def test_threads_serve_an_event_loop_and_end_with_it(db: DjangoDatabase) -> None:
    async def increment(tx: Transaction) -> None:
        await tx.fetch_one("SELECT n FROM things WHERE id = 'sum'", lock=True)
        await tx.execute("UPDATE things SET n = n + 1 WHERE id = 'sum'")

    async def main() -> dict[str, int]:
        threaded = ThreadedDatabase(threads=3)
        await threaded.transaction(add, "sum", 0)
        await asyncio.gather(*(threaded.transaction(increment) for _ in range(20)))
        found = await threaded.read(read_all)
        with pytest.raises(Conflict):
            await threaded.transaction(add, "sum")
        await threaded.close()
        await threaded.close()
        with pytest.raises(DatabaseDown, match="closed"):
            await threaded.read(read_all)
        return found

    assert asyncio.run(main()) == {"sum": 20}
    assert not [one for one in threading.enumerate() if one.name.startswith("paidonce-database")]
