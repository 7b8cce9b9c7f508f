"""Groups, their failures, and other processes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import pytest

import paidonce.db
from paidonce.db import driving, sqlite
from paidonce.errors import CommitUnknown, Conflict, DatabaseDown
from paidonce.ports import Database, Transaction, at_a_glance


class Things(Protocol):
    """See tests/db/conftest.py."""

    @property
    def database(self) -> Database: ...
    async def add(self, tx: Transaction, id: str, n: int = 1) -> None: ...
    async def put(self, id: str, n: int = 1) -> None: ...
    async def count(self, tx: Transaction) -> int: ...
    async def all(self) -> dict[str, int]: ...


@pytest.fixture
def things(sqlite_things: Things) -> Things:
    return sqlite_things


@pytest.fixture
def path(sqlite_url: str) -> Path:
    found = paidonce.db.sqlite_path(sqlite_url)
    assert found is not None
    return found


class Lock:
    """SQLite's write lock, held by somebody else: what is started meanwhile waits and then shares one group."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def seen_from_outside(path: Path) -> int:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        row: tuple[int] = connection.execute("SELECT count(*) FROM things").fetchone()
        return row[0]
    finally:
        connection.close()


async def started(*tasks: asyncio.Task[Any]) -> None:
    """Let the tasks hand their transactions over."""
    await asyncio.sleep(0)


async def test_waiting_transactions_share_one_commit(things: Things, path: Path) -> None:
    async def member(tx: Transaction, id: str) -> tuple[int, int]:
        await things.add(tx, id)
        return await things.count(tx), seen_from_outside(path)

    with Lock(path):
        tasks = [asyncio.create_task(things.database.transaction(member, id)) for id in "abc"]
        await started(*tasks)
    # Each sees its predecessors' rows, and nobody else sees any of them before the COMMIT.
    assert await asyncio.gather(*tasks) == [(1, 0), (2, 0), (3, 0)]
    assert seen_from_outside(path) == 3


async def test_a_failing_member_leaves_the_others(things: Things, path: Path) -> None:
    async def refuse(tx: Transaction) -> None:
        await things.add(tx, "refused")
        raise ValueError("sold out")

    with Lock(path):
        tasks = [
            asyncio.create_task(things.put("a")),
            asyncio.create_task(things.database.transaction(refuse)),
            asyncio.create_task(things.put("a")),
            asyncio.create_task(things.put("b")),
        ]
        await started(*tasks)
    first, refused, conflict, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, last) == (None, None)
    assert isinstance(refused, ValueError)
    assert isinstance(conflict, Conflict)
    assert await things.all() == {"a": 1, "b": 1}


async def test_nobody_hears_anything_before_the_commit(things: Things, path: Path) -> None:
    entered, go = threading.Event(), threading.Event()

    async def refuse(tx: Transaction) -> None:
        raise ValueError(await things.count(tx))

    async def block(tx: Transaction) -> None:
        entered.set()
        go.wait()

    with Lock(path):
        tasks = [
            asyncio.create_task(things.put("a")),
            asyncio.create_task(things.database.transaction(refuse)),
            asyncio.create_task(things.database.transaction(block)),
        ]
        await started(*tasks)
    await asyncio.to_thread(entered.wait)
    # Long enough for a result that was sent too early to arrive.
    await asyncio.sleep(0.02)
    told = [task.done() for task in tasks]
    go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert told == [False, False, False]
    assert outcomes[0] is None
    assert isinstance(outcomes[1], ValueError)


async def test_a_failed_commit_leaves_every_member_in_doubt_and_keeps_nothing(things: Things, path: Path) -> None:
    async def tables(tx: Transaction) -> None:
        await tx.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        await tx.execute("CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)")

    async def orphan(tx: Transaction) -> None:
        await tx.execute("INSERT INTO children (parent) VALUES (42)")

    async def refuse(tx: Transaction) -> None:
        raise ValueError(await things.count(tx))

    await things.database.transaction(tables)
    with Lock(path):
        tasks = [
            asyncio.create_task(things.put("a")),
            asyncio.create_task(things.database.transaction(orphan)),
            asyncio.create_task(things.database.transaction(refuse)),
        ]
        await started(*tasks)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [CommitUnknown] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert await things.all() == {}
    await things.put("b")
    assert await things.all() == {"b": 1}


async def test_a_full_database_is_down_and_acknowledges_nothing(things: Things, path: Path) -> None:
    async def limit(tx: Transaction, pages: int) -> None:
        await tx.fetch_one(f"PRAGMA max_page_count = {pages}")

    async def fill(tx: Transaction) -> None:
        for number in range(200):
            await things.add(tx, f"{number:05}" + "x" * 4000)

    await things.put("before")
    await things.database.transaction(limit, 1)  # SQLite raises it to the pages in use.
    with pytest.raises(DatabaseDown, match="full"):
        await things.database.transaction(fill)
    assert await things.all() == {"before": 1}
    await things.database.transaction(limit, 1_000_000)
    await things.put("after")
    assert await things.all() == {"before": 1, "after": 1}


_WRITE_UNTIL_THE_DISK_IS_FULL = """
import asyncio, resource, sys, paidonce.db
from paidonce.errors import CommitUnknown, DatabaseDown
async def write(tx, id):
    await tx.execute("INSERT INTO things (id, n) VALUES (:id, 1)", {"id": id})
async def main(url):
    database = await paidonce.db.connect(url)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    for number in range(1_000_000):
        try:
            await database.transaction(write, f"{number}-" + "x" * 3000)
        except (CommitUnknown, DatabaseDown) as error:
            print(type(error).__name__, flush=True)
            break
        print(number, flush=True)
    try:
        await database.transaction(write, "again")
    except (CommitUnknown, DatabaseDown) as error:
        print("still", type(error).__name__)
asyncio.run(main(sys.argv[1]))
"""


async def test_what_was_acknowledged_before_the_disk_was_full_is_kept(things: Things, sqlite_url: str) -> None:
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _WRITE_UNTIL_THE_DISK_IS_FULL, sqlite_url],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = child.stdout.splitlines()
    acknowledged = [line for line in lines if line.isdigit()]
    told = [line for line in lines if not line.isdigit()]
    assert told, child.stderr
    assert told[0] in ("CommitUnknown", "DatabaseDown")
    assert len(acknowledged) > 5
    kept = {id.partition("-")[0] for id in await things.all()}
    assert set(acknowledged) <= kept
    # At most the one transaction in doubt beyond those, never more.
    assert len(kept - {"again"}) <= len(acknowledged) + 1


async def test_a_lock_that_is_never_freed_is_reported_and_nothing_is_written(
    things: Things, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_SECONDS", 0.05)
    with Lock(path), pytest.raises(DatabaseDown, match=r"busy.*check"):
        await things.put("a")
    assert await things.all() == {}
    await things.put("b")
    assert await things.all() == {"b": 1}


_SECOND_PROCESS = """
import asyncio, sys, paidonce.db
async def write(tx, number):
    await tx.execute("INSERT INTO things (id, n) VALUES (:id, 1)", {"id": f"second-{number}"})
async def main(url):
    database = await paidonce.db.connect(url)
    for number in range(20):
        await database.transaction(write, number)
    await database.close()
asyncio.run(main(sys.argv[1]))
"""


async def test_a_saturated_writer_lets_a_second_process_in(things: Things, sqlite_url: str) -> None:
    await things.put("counter", 0)

    async def busy(tx: Transaction) -> None:
        await tx.execute("UPDATE things SET n = n + 1 WHERE id = 'counter'")

    async def saturate(until: asyncio.Task[int]) -> int:
        done = 0
        while not until.done():
            await things.database.transaction(busy)
            done += 1
        return done

    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SECOND_PROCESS, sqlite_url, stderr=asyncio.subprocess.PIPE
    )
    ended = asyncio.create_task(child.wait())
    counts = await asyncio.gather(*(saturate(ended) for _ in range(128)))
    assert child.stderr is not None
    # The child gives up with DatabaseDown if it doesn't get the lock within its patience.
    assert await ended == 0, (await child.stderr.read()).decode()
    found = await things.all()
    assert found.pop("counter") == sum(counts)
    assert set(found) == {f"second-{number}" for number in range(20)}


class FakeTime:
    """A clock that moves when somebody sleeps, and remembers the sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rests: list[tuple[float, float]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.rests.append((self.now, seconds))
        self.now += seconds

    async def serve_groups(self, *, lasting: float, idle: float) -> None:
        """Let a writer serve 100 groups that last so long and follow each other so fast."""
        loop = asyncio.get_running_loop()

        def work(_: object) -> None:
            self.now += lasting

        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            writer = sqlite._Writer(Path("unused"), connection, SimpleQueue())
            for _ in range(100):
                job = sqlite._Job(work, loop, loop.create_future())
                writer._serve_group(job)
                self.now += idle
                await job.future


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    found = FakeTime()
    monkeypatch.setattr(sqlite, "time", found)
    return found


async def test_a_saturated_writer_rests_every_turn_longer_than_a_waiter_s_poll(clock: FakeTime) -> None:
    await clock.serve_groups(lasting=0.004, idle=0.0001)
    began = [at for at, _ in clock.rests]
    assert len(began) > 10
    assert max(b - a for a, b in pairwise(began)) < sqlite.TURN_SECONDS + sqlite.REST_SECONDS + 2 * 0.0041
    assert all(seconds + 0.0001 > 1.9 * max(sqlite.POLL_SECONDS) for _, seconds in clock.rests)


async def test_a_writer_with_time_to_spare_never_rests(clock: FakeTime) -> None:
    await clock.serve_groups(lasting=0.004, idle=0.005)
    assert clock.rests == []


async def test_two_processes_never_oversell(things: Things, sqlite_url: str) -> None:
    await things.put("stock", 50)
    script = """
import asyncio, sys, paidonce.db
async def take(tx):
    return await tx.execute("UPDATE things SET n = n - 1 WHERE id = 'stock' AND n >= 1")
async def main(url):
    database = await paidonce.db.connect(url)
    print(sum(await asyncio.gather(*(database.transaction(take) for _ in range(40)))))
    await database.close()
asyncio.run(main(sys.argv[1]))
"""
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, sqlite_url, stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = await asyncio.gather(*(child.communicate() for child in children))
    assert sum(int(output) for output, _ in outputs) == 50
    assert await things.all() == {"stock": 0}


async def test_a_canceled_caller_s_transaction_completes(things: Things, path: Path) -> None:
    with Lock(path):
        task = asyncio.create_task(things.put("a"))
        await started(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await things.put("b")
    assert await things.all() == {"a": 1, "b": 1}


async def test_a_writer_whose_connection_broke_opens_another(things: Things) -> None:
    async def sabotage(tx: Transaction) -> None:
        await things.add(tx, "lost")
        tx._connection.close()  # type: ignore[attr-defined]

    with pytest.raises(DatabaseDown):
        await things.database.transaction(sabotage)
    assert await things.all() == {}
    await things.put("a")
    assert await things.all() == {"a": 1}


async def test_a_wrong_type_in_a_strict_table_is_a_bug_and_no_conflict(things: Things) -> None:
    async def run(tx: Transaction) -> None:
        await tx.execute("CREATE TABLE strict_things (n INTEGER NOT NULL) STRICT")
        await tx.execute("INSERT INTO strict_things (n) VALUES (:n)", {"n": "many"})

    with pytest.raises(sqlite3.IntegrityError):
        await things.database.transaction(run)


async def test_commits_are_durable_and_foreign_keys_are_on(things: Things) -> None:
    async def settings(tx: Transaction) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only")
        rows = [await tx.fetch_one(f"PRAGMA {name}") for name in names]
        return [value for row in rows if row is not None for value in row.values()]

    assert await things.database.transaction(settings) == ["wal", 2, 1, 0]
    assert await things.database.read(settings) == ["wal", 2, 1, 1]


async def test_a_new_file_belongs_to_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = await paidonce.db.connect(f"sqlite:///{tmp_path}/new.db")

        async def create(tx: Transaction) -> None:
            await tx.execute("CREATE TABLE t (n INTEGER)")

        await database.transaction(create)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        await database.close()
    finally:
        os.umask(before)
    assert modes == {"new.db": 0o600, "new.db-wal": 0o600, "new.db-shm": 0o600}


async def test_close_leaves_no_thread_and_no_side_file(sqlite_url: str, path: Path) -> None:
    # Shops that other tests of this process keep open have threads of their own.
    others = _threads()
    database = await paidonce.db.connect(sqlite_url)

    async def nothing(tx: Transaction) -> None:
        await tx.execute("DELETE FROM outbox")

    async def look(tx: Transaction) -> None:
        await tx.fetch_all("SELECT * FROM outbox")

    await asyncio.gather(*(database.transaction(nothing) for _ in range(4)), *(database.read(look) for _ in range(9)))
    assert _threads() - others
    await database.close()
    assert not _threads() - others
    assert not path.with_name(path.name + "-wal").exists()


async def test_a_file_that_is_no_database_is_down(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("This is no database, but long enough to be taken for one. " * 40)
    with pytest.raises(DatabaseDown, match="not a database"):
        await paidonce.db.connect(f"sqlite:///{tmp_path}/text.db")
    assert (tmp_path / "text.db").read_text().startswith("This is")


def test_results_for_an_event_loop_that_is_gone_harm_nobody(sqlite_url: str, path: Path) -> None:
    async def write(tx: Transaction, id: str) -> None:
        await tx.execute(
            "INSERT INTO outbox (id, type, order_id, payload, created_at) VALUES (:id, '', '', '', 1)", {"id": id}
        )

    async def leave() -> Database:
        database = await paidonce.db.connect(sqlite_url)
        with Lock(path):
            task = asyncio.create_task(database.transaction(write, "left behind"))
            await started(task)
            task.cancel()
        return database

    async def come_back(database: Database) -> int:
        await database.transaction(write, "later")
        connection = sqlite3.connect(path, isolation_level=None)
        count: int = connection.execute("SELECT count(*) FROM outbox").fetchone()[0]
        connection.close()
        await database.close()
        return count

    database = asyncio.run(leave())
    assert asyncio.run(come_back(database)) == 2


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("paidonce")}


def test_a_group_is_bounded(monkeypatch: pytest.MonkeyPatch, sqlite_url: str, path: Path) -> None:
    monkeypatch.setattr(sqlite, "GROUP_MEMBERS", 3)
    # Its other bound would end a group early on a busy machine.
    monkeypatch.setattr(sqlite, "GROUP_SECONDS", 60)

    async def main(check: Callable[[], int]) -> list[int]:
        database = await paidonce.db.connect(sqlite_url)

        async def member(tx: Transaction, number: int) -> int:
            await tx.execute(
                "INSERT INTO outbox (id, type, order_id, payload, created_at) VALUES (:id, '', '', '', 1)",
                {"id": f"e{number}"},
            )
            return check()

        with Lock(path):
            tasks = [asyncio.create_task(database.transaction(member, number)) for number in range(7)]
            await started(*tasks)
        seen = await asyncio.gather(*tasks)
        await database.close()
        return seen

    def committed() -> int:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            count: int = connection.execute("SELECT count(*) FROM outbox").fetchone()[0]
            return count
        finally:
            connection.close()

    assert asyncio.run(main(committed)) == [0, 0, 0, 3, 3, 3, 6]


async def test_a_file_that_is_copied_after_closing_holds_everything(
    sqlite_url: str, path: Path, tmp_path: Path
) -> None:
    """The writer sometimes closed before a reader, who may not write, and what was acknowledged stayed in the log."""

    async def write(tx: Transaction, number: int) -> None:
        await tx.execute(
            "INSERT INTO history (order_id, event, detail, created_at) VALUES (:id, 'made', '{}', 1)",
            {"id": f"o{number}"},
        )

    async def read(tx: Transaction) -> int:
        row = await tx.fetch_one("SELECT count(*) AS found FROM history")
        assert row is not None
        return int(row["found"])

    for number in range(1, 11):
        database = await paidonce.db.connect(sqlite_url)
        await database.transaction(write, number)
        await asyncio.gather(*(database.read(read) for _ in range(20)))
        await database.close()
        copy = tmp_path / f"copy{number}.db"
        copy.write_bytes(path.read_bytes())
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("SELECT count(*) FROM history").fetchone() == (number,)


# ── A glance ──────────


@at_a_glance
async def _glance(tx: Transaction) -> tuple[int, int]:
    row = await tx.fetch_one("SELECT count(*) AS found FROM things")
    assert row is not None
    return threading.get_ident(), int(row["found"])


@at_a_glance
async def _write_at_a_glance(tx: Transaction) -> None:
    await tx.execute("INSERT INTO things (id, n) VALUES ('glance', 1)")


@at_a_glance
async def _wait_at_a_glance(tx: Transaction) -> None:
    await asyncio.sleep(0)


async def test_a_glance_is_taken_here_and_now_and_sees_what_is_committed(things: Things) -> None:
    here = threading.get_ident()
    for number in range(3):
        assert await things.database.read(_glance) == (here, number)
        await things.put(f"thing {number}")

    async def elsewhere(tx: Transaction) -> int:
        return threading.get_ident()

    assert await things.database.read(elsewhere) != here


async def test_a_glance_keeps_the_rules_of_every_reading(things: Things) -> None:
    with pytest.raises(driving.WroteInsideRead):
        await things.database.read(_write_at_a_glance)
    with pytest.raises(driving.SuspendedInsideTransaction):
        await things.database.read(_wait_at_a_glance)
    assert (await things.database.read(_glance))[1] == 0


async def test_a_glance_that_can_not_be_taken_now_is_left_to_a_thread(things: Things) -> None:
    """Two event loops may share the database, and the file may be kept from everybody for a moment."""
    database = things.database
    assert isinstance(database, sqlite.SqliteDatabase)
    here = threading.get_ident()
    assert (await database.read(_glance))[0] == here
    with database._glance._lock:
        assert (await database.read(_glance))[0] != here
    assert (await database.read(_glance))[0] == here
    await database.close()
    with pytest.raises(DatabaseDown):
        await database.read(_glance)
