"""Running again, lost connections, and the pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

import paidonce.db
from paidonce.db import postgres
from paidonce.db.driving import SuspendedInsideTransaction
from paidonce.errors import CommitUnknown, ConfigError, DatabaseDown
from paidonce.ports import Database, Transaction, inside_transaction


class Things(Protocol):
    """See tests/db/conftest.py."""

    @property
    def database(self) -> Database: ...
    async def create(self) -> None: ...
    async def add(self, tx: Transaction, id: str, n: int = 1) -> None: ...
    async def put(self, id: str, n: int = 1) -> None: ...
    async def count(self, tx: Transaction) -> int: ...
    async def all(self) -> dict[str, int]: ...


@pytest.fixture
def things(postgres_things: Things) -> Things:
    return postgres_things


_FORBID = "DO $$ BEGIN RAISE EXCEPTION 'permission denied' USING ERRCODE = 'insufficient_privilege'; END $$"


async def test_a_user_without_rights_is_a_database_that_cannot_be_written(things: Things) -> None:
    """Found by the doctor's tests: a role without INSERT was an unexpected error of the shop instead of a 503."""

    async def run(tx: Transaction) -> None:
        await things.add(tx, "kept?")
        await tx.execute(_FORBID)

    with pytest.raises(DatabaseDown, match="permission denied; give the user in PAIDONCE_DATABASE_URL the rights"):
        await things.database.transaction(run)
    assert await things.all() == {}


_COLLIDE = "DO $$ BEGIN RAISE EXCEPTION 'collided' USING ERRCODE = 'serialization_failure'; END $$"


async def test_a_collision_runs_the_function_again_from_the_start(things: Things) -> None:
    runs: list[bool] = []

    async def run(tx: Transaction) -> str:
        runs.append(inside_transaction.get())
        await things.add(tx, f"run-{len(runs)}")
        if len(runs) < 3:
            await tx.execute(_COLLIDE)
        return "done"

    assert await things.database.transaction(run) == "done"
    assert runs == [True, True, True]
    assert await things.all() == {"run-3": 1}


async def test_a_function_that_hides_a_collision_is_run_again_all_the_same(things: Things) -> None:
    runs: list[int] = []

    async def run(tx: Transaction) -> None:
        runs.append(1)
        await things.add(tx, f"run-{len(runs)}")
        if len(runs) == 1:
            try:
                await tx.execute(_COLLIDE)
            except Exception as error:
                raise ValueError("hidden") from error

    await things.database.transaction(run)
    assert await things.all() == {"run-2": 1}


async def test_a_collision_at_commit_runs_the_function_again(things: Things) -> None:
    runs: list[int] = []

    async def create(tx: Transaction) -> None:
        await tx.execute(
            "CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.id = 'run-1' THEN RAISE EXCEPTION 'late' USING ERRCODE = 'serialization_failure'; END IF;"
            " RETURN NULL; END $$"
        )
        await tx.execute(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON things DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION collide()"
        )

    async def run(tx: Transaction) -> None:
        runs.append(1)
        await things.add(tx, f"run-{len(runs)}")

    await things.database.transaction(create)
    await things.database.transaction(run)
    assert await things.all() == {"run-2": 1}


async def test_endless_collisions_end(things: Things, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "LONGEST_PAUSE_SECONDS", 0.001)
    runs: list[int] = []

    async def run(tx: Transaction) -> None:
        runs.append(1)
        await things.add(tx, "a")
        await tx.execute(_COLLIDE)

    with pytest.raises(DatabaseDown, match="collided"):
        await things.database.transaction(run)
    assert len(runs) == postgres.RUNS
    assert await things.all() == {}


async def test_a_deadlock_is_resolved_and_both_are_kept_once(things: Things) -> None:
    await things.put("a", 0)
    await things.put("b", 0)
    runs: list[str] = []

    async def both(tx: Transaction, first: str, second: str) -> None:
        runs.append(first)
        await tx.execute("SET LOCAL deadlock_timeout = '10ms'")
        await tx.execute("UPDATE things SET n = n + 1 WHERE id = :id", {"id": first})
        # Only the first two runs meet in the middle.
        if len(runs) <= 2:
            await tx.execute("SELECT pg_sleep(0.1)")
        await tx.execute("UPDATE things SET n = n + 1 WHERE id = :id", {"id": second})

    await asyncio.gather(
        things.database.transaction(both, "a", "b"),
        things.database.transaction(both, "b", "a"),
    )
    assert len(runs) > 2
    assert await things.all() == {"a": 2, "b": 2}


async def test_tasks_inside_a_transaction_are_refused(things: Things) -> None:
    async def run(tx: Transaction) -> None:
        tasks = [asyncio.create_task(things.add(tx, id)) for id in "ab"]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()

    with pytest.raises(SuspendedInsideTransaction):
        await things.database.transaction(run)
    assert await things.all() == {}


async def test_a_canceled_transaction_is_rolled_back_and_its_connection_still_serves(things: Things) -> None:
    for _ in range(8):

        async def run(tx: Transaction) -> None:
            await things.add(tx, "a")
            await tx.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(things.database.transaction(run))
        await _until_asleep(things)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await things.all() == {}
    await things.put("b")
    assert await things.all() == {"b": 1}


async def test_a_caller_who_leaves_while_begin_is_under_way_leaves_nothing_open(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that hung up at that moment made asyncpg log an error about a transaction that nobody had ended."""
    database = await paidonce.db.connect(f"{postgresql_url}{'&' if '?' in postgresql_url else '?'}pool_size=1")

    async def one(tx: Transaction) -> int:
        row = await tx.fetch_one("SELECT 1 AS one")
        assert row is not None
        return int(row["one"])

    try:
        for turns in range(1, 15):
            task = asyncio.create_task(database.transaction(one))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await database.transaction(one) == 1
    finally:
        await database.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def _until_asleep(things: Things) -> None:
    async def asleep(tx: Transaction) -> bool:
        return await tx.fetch_one("SELECT 1 AS one FROM pg_stat_activity WHERE wait_event = 'PgSleep'") is not None

    while not await things.database.read(asleep):  # noqa: ASYNC110 - the server can't set an Event.
        await asyncio.sleep(0.005)


async def test_more_failures_than_connections_exhaust_nothing(things: Things) -> None:
    async def refuse(tx: Transaction, number: int) -> None:
        await things.add(tx, "a")
        raise ValueError(number)

    failed = await asyncio.gather(
        *(things.database.transaction(refuse, number) for number in range(40)), return_exceptions=True
    )
    assert all(isinstance(error, ValueError) for error in failed)
    await things.put("b")
    assert await things.all() == {"b": 1}


async def test_a_rolled_back_transaction_is_no_mistake_in_the_log(
    things: Things, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(tx: Transaction) -> None:
        await things.add(tx, "a")
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        await things.database.transaction(refuse)
    assert await things.all() == {}
    assert caplog.records == []


async def test_a_connection_lost_before_commit_keeps_nothing(things: Things) -> None:
    async def run(tx: Transaction) -> None:
        await things.add(tx, "a")
        await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseDown):
        await things.database.transaction(run)
    assert await things.all() == {}
    await things.put("b")
    assert await things.all() == {"b": 1}


class Wire:
    """A wire to the server that can be cut at COMMIT: before the server hears it, or before the client hears back."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.cut_before_commit = False
        self.cut_after_commit = False
        self._ends: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def url(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        parts = urlsplit(self._target)
        yield f"postgresql://{parts.username}:{parts.password or ''}@127.0.0.1:{port}{parts.path}?sslmode=disable"
        server.close()
        await asyncio.wait(self._ends)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self._target)
        folder = parse_qs(parts.query).get("host", [""])[0]
        if folder:
            up_reader, up_writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{parts.port or 5432}")
        else:
            up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port or 5432)
        down = asyncio.create_task(_copy(up_reader, writer))
        await self._listen(reader, up_writer, up_reader, down)
        down.cancel()
        for end in (up_writer, writer):
            end.close()
            self._ends.add(asyncio.create_task(end.wait_closed()))

    async def _listen(
        self,
        reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        down: asyncio.Task[None],
    ) -> None:
        while data := await reader.read(65536):
            commits = b"COMMIT\0" in data
            if commits and self.cut_before_commit:
                return
            if commits and self.cut_after_commit:
                down.cancel()
                await asyncio.wait([down])
                up_writer.write(data)
                await up_reader.read(65536)
                return
            up_writer.write(data)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@pytest.mark.parametrize("committed", [False, True])
async def test_a_connection_lost_at_commit_leaves_the_outcome_unknown(postgresql_url: str, committed: bool) -> None:
    wire = Wire(postgresql_url)

    async def write(tx: Transaction, id: str) -> None:
        await tx.execute(
            "INSERT INTO history (order_id, event, detail, created_at) VALUES (:id, 'made', '{}', 1)", {"id": id}
        )

    async def read(tx: Transaction) -> list[str]:
        return [row["order_id"] for row in await tx.fetch_all("SELECT order_id FROM history ORDER BY seq")]

    async with wire.url() as url:
        database = await paidonce.db.connect(url)
        await database.transaction(write, "before")
        wire.cut_before_commit, wire.cut_after_commit = not committed, committed
        with pytest.raises(CommitUnknown):
            await database.transaction(write, "in doubt")
        wire.cut_before_commit = wire.cut_after_commit = False
        # The same error either way: only reading again tells.
        assert await database.read(read) == (["before", "in doubt"] if committed else ["before"])
        await database.close()


@pytest.mark.parametrize("size", [1, 5])
async def test_close_waits_for_those_who_queue_for_a_connection(
    postgres_things: Things, postgresql_url: str, size: int
) -> None:
    """They were cut off at COMMIT, and told that the outcome of a transaction that was kept is unknown."""
    database = await paidonce.db.connect(f"{postgresql_url}{'&' if '?' in postgresql_url else '?'}pool_size={size}")

    async def write(tx: Transaction, number: int) -> int:
        await tx.execute("INSERT INTO things (id, n) VALUES (:id, :n)", {"id": f"t{number}", "n": number})
        return number

    tasks = [asyncio.create_task(database.transaction(write, number)) for number in range(20)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await database.close()
    assert await asyncio.gather(*tasks) == list(range(20))
    assert await postgres_things.all() == {f"t{number}": number for number in range(20)}


async def test_the_pool_size_comes_from_the_url_and_is_checked(postgresql_url: str) -> None:
    base, _, options = postgresql_url.partition("?")
    assert postgres.split_pool_size("postgresql:///shop?pool_size=3&host=/run") == ("postgresql:///shop?host=%2Frun", 3)
    assert postgres.split_pool_size("postgresql://h/shop")[1] == postgres.POOL_SIZE
    for wrong in ("0", "101", "-1", "many", "", "²"):
        with pytest.raises(ConfigError, match=r"PAIDONCE_DATABASE_URL.*pool_size"):
            await paidonce.db.connect(f"{base}?pool_size={wrong}&{options}")


async def test_a_pool_of_one_serves_everybody_in_turn(postgresql_url: str) -> None:
    mark = "&" if "?" in postgresql_url else "?"
    database = await paidonce.db.connect(f"{postgresql_url}{mark}pool_size=1")

    async def connection(tx: Transaction) -> int:
        row = await tx.fetch_one("SELECT pg_backend_pid() AS pid")
        assert row is not None
        return int(row["pid"])

    used = await asyncio.gather(*(database.transaction(connection) for _ in range(20)))
    await database.close()
    assert len(set(used)) == 1


async def test_a_busy_pool_is_down_after_a_while(things: Things, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hold(tx: Transaction) -> None:
        await tx.execute("SELECT pg_sleep(0.5)")

    holders = [asyncio.create_task(things.database.transaction(hold)) for _ in range(4)]
    await asyncio.sleep(0.1)
    monkeypatch.setattr(postgres, "ACQUIRE_SECONDS", 0.05)
    with pytest.raises(DatabaseDown, match="no connection became free"):
        await things.put("a")
    await asyncio.gather(*holders)
    assert await things.all() == {}


async def test_an_unreachable_server_is_down_and_the_password_stays_out() -> None:
    with pytest.raises(DatabaseDown, match="PAIDONCE_DATABASE_URL") as caught:
        await paidonce.db.connect("postgresql://shop:canary-4711@127.0.0.1:1/shop")
    assert "canary" not in str(caught.value)


async def test_a_database_that_does_not_exist_is_a_wrong_setting(postgresql_url: str) -> None:
    parts = urlsplit(postgresql_url)
    wrong = f"postgresql://{parts.netloc}/no_such_database?{parts.query}"
    with pytest.raises(ConfigError, match=r"PAIDONCE_DATABASE_URL.*no_such_database"):
        await paidonce.db.connect(wrong)


async def test_a_password_that_was_not_encoded_is_a_wrong_setting_and_stays_out() -> None:
    with pytest.raises(ConfigError, match="percent-encode") as caught:
        await paidonce.db.connect("postgresql://shop:canary/4711@127.0.0.1/shop")
    assert "canary" not in str(caught.value)


async def test_a_connection_in_an_unknown_state_is_replaced(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's own mistake at ROLLBACK once kept its place in the pool for ever, until none was left."""
    database = await paidonce.db.connect(f"{postgresql_url}{'&' if '?' in postgresql_url else '?'}pool_size=1")
    real = asyncpg.Connection.execute

    async def execute(self: object, query: str, *args: object, **more: object) -> object:
        if query == "ROLLBACK":
            raise asyncpg.InternalClientError("got result for unknown protocol state 3")
        return await real(self, query, *args, **more)  # type: ignore[arg-type]

    async def fail(tx: Transaction) -> None:
        await tx.fetch_one("SELECT 1 AS one")
        raise ValueError("ours")

    try:
        with monkeypatch.context() as patched:
            patched.setattr(asyncpg.Connection, "execute", execute)
            with pytest.raises(ValueError, match="ours"):
                await database.transaction(fail)
        assert await database.read(_one) == 1
    finally:
        await database.close()


async def _one(tx: Transaction) -> int:
    row = await tx.fetch_one("SELECT 1 AS one")
    assert row is not None
    return int(row["one"])
