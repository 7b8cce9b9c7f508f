"""Processes of one shop on a real PostgreSQL, stopped before each of their steps, so that a test says who goes next.

A step is a BEGIN, a statement, a COMMIT or ROLLBACK, or a call to a gateway: between any two of them another process
may run. Whether somebody waits for another's lock is asked of PostgreSQL itself, never guessed from the time it takes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, cast

import asyncpg

from paidonce.db.postgres import PostgresDatabase, PostgresTransaction, open_connection
from paidonce.db.tables import metadata
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.ports import Dialect, Params, Row, Transaction, at_a_glance, is_at_a_glance
from support.shop import Shop, open_shop

if TYPE_CHECKING:
    from paidonce.db.postgres import Connection

P = ParamSpec("P")
T = TypeVar("T")

# More steps than any action has.
WITHOUT_END = 1_000_000
# How soon PostgreSQL is asked whether a step that takes its time waits for a lock.
_LOOK_SECONDS = 0.003
# After this something hangs, and the test fails. PostgreSQL itself ends a deadlock after a second.
_LONGEST_SECONDS = 30.0
_LONGEST_LABEL = 70
_TRUNCATE_EVERY = 100
_ENDS = ("COMMIT", "ROLLBACK")

# Parents before their children.
_TABLES = tuple(table.name for table in metadata.sorted_tables)
# The audit log's own trigger refuses this to everybody but the owner who takes it away first.
_TRUNCATE = (
    f"ALTER TABLE audit_log DISABLE TRIGGER USER; TRUNCATE {', '.join(_TABLES)}; "
    "ALTER TABLE audit_log ENABLE TRIGGER USER"
)
_WAITS_FOR_LOCK = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1"


class Standing(StrEnum):
    """How a process stands after it was let go."""

    PAUSED = "paused"  # Before a step that it may not take yet.
    BLOCKED = "blocked"  # Inside a statement that waits for another transaction's lock.
    ENDED = "ended"


class Gate:
    """Lets one process take so many steps and stops it before the next one."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.pid: int | None = None  # The server's process behind the newest transaction.
        self.repeats: list[str] = []  # What PostgreSQL rolled back and the driver ran again.
        self.paused = False
        self.changed = asyncio.Event()
        self._permits = 0
        self._resumed = asyncio.Event()

    async def step(self, what: str) -> None:
        """Wait until the step `what` may be taken."""
        while self._permits < 1:
            self.paused = True
            self._resumed.clear()
            self.changed.set()
            await self._resumed.wait()
        self.steps.append(what)
        self._permits -= 1

    def permit(self, steps: int) -> None:
        """Let so many steps happen from now on."""
        self._permits = steps
        if steps:
            self.paused = False
            self._resumed.set()


class GatedTransaction:
    """`ports.Transaction` that asks the gate before each statement."""

    def __init__(self, inner: PostgresTransaction, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    @property
    def dialect(self) -> Dialect:
        return self._inner.dialect

    async def step(self, what: str) -> None:
        # A transaction function may wait for nothing but its transaction, and here the gate is a part of it.
        self._inner.waiting = True
        try:
            await self._gate.step(what)
        finally:
            self._inner.waiting = False

    async def fetch_one(self, sql: str, params: Params | None = None, *, lock: bool = False) -> Row | None:
        await self.step(_label(sql, lock=lock))
        return await self._inner.fetch_one(sql, params, lock=lock)

    async def fetch_all(
        self, sql: str, params: Params | None = None, *, lock: bool = False, skip_locked: bool = False
    ) -> Sequence[Row]:
        await self.step(_label(sql, lock=lock))
        return await self._inner.fetch_all(sql, params, lock=lock, skip_locked=skip_locked)

    async def execute(self, sql: str, params: Params | None = None) -> int:
        await self.step(_label(sql))
        return await self._inner.execute(sql, params)

    async def execute_many(self, sql: str, rows: Sequence[Params]) -> None:
        await self.step(_label(sql))
        await self._inner.execute_many(sql, rows)

    async def execute_later(self, sql: str, params: Params) -> None:
        await self.step(_label(sql))
        await self._inner.execute_later(sql, params)


def _label(sql: str, *, lock: bool = False) -> str:
    return " ".join(sql.split())[:_LONGEST_LABEL] + (" FOR UPDATE" if lock else "")


class GatedDatabase:
    """`ports.Database` on a pool of one connection, whose every step asks the gate."""

    dialect: Literal["sqlite", "postgresql"] = "postgresql"

    def __init__(self, inner: PostgresDatabase, gate: Gate) -> None:
        self._inner = inner
        self.gate = gate

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await self.gate.step("BEGIN")
        return await self._inner.transaction(self._gated("COMMIT", fn, *args, **kwargs))

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await self.gate.step("BEGIN READ ONLY")
        gated = self._gated("END READ ONLY", fn, *args, **kwargs)
        # What is no look at a glance has its transaction at once, and is not run again to find out that it needs one.
        return await self._inner.read(at_a_glance(gated) if is_at_a_glance(fn) else partial(gated))

    def _gated(
        self, end: str, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
    ) -> Callable[[Transaction], Coroutine[Any, Any, T]]:
        runs = 0

        async def run(tx: Transaction) -> T:
            nonlocal runs
            runs += 1
            assert isinstance(tx, PostgresTransaction)
            self.gate.pid = tx._connection.get_server_pid()
            if runs > 1:
                self.gate.repeats.append(f"after {self.gate.steps[-1]}")
            gated = GatedTransaction(tx, self.gate)
            try:
                result = await fn(gated, *args, **kwargs)
            except Exception:
                # What is refused holds its locks until the roll-back, too.
                await gated.step("ROLLBACK")
                raise
            await gated.step(end)
            return result

        return run

    async def close(self) -> None:
        await self._inner.close()


@dataclass
class Process:
    """One process of the shop, and what it does right now."""

    name: str
    shop: Shop
    gate: Gate
    task: asyncio.Task[Any] | None = None

    @property
    def busy(self) -> asyncio.Task[Any]:
        """What it does. Raises if it does nothing."""
        assert self.task is not None, f"{self.name} does nothing"
        return self.task

    def begin(self, action: Awaitable[Any]) -> None:
        """Do `action` as far as the gate lets it, which is not at all until it is let go."""
        self.gate.steps, self.gate.repeats, self.gate.paused = [], [], False
        self.gate.permit(0)
        self.task = asyncio.ensure_future(action)
        self.task.add_done_callback(lambda _: self.gate.changed.set())


class Onlooker:
    """`ports.Database` for looking only: each statement sees what is committed by then, in one round trip."""

    dialect: Literal["sqlite", "postgresql"] = "postgresql"

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        raise AssertionError("an onlooker changes nothing")

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # It is not of a pool, which the transaction's class does not notice.
        connection = cast("Connection", self._connection)
        return await fn(PostgresTransaction(connection, writable=False), *args, **kwargs)

    async def close(self) -> None:
        """The connection is somebody else's."""


class Rewind:
    """Keeps the rows, the gateways' memory and the time of one moment, and brings them back."""

    def __init__(self, shop: Shop, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._shop = shop
        self._connection = connection
        self._filled: list[str] = []
        self._twins: dict[str, str] = {}
        self._now = 0
        self._times = 0
        self._superuser: bool | None = None

    async def clear(self) -> None:
        """Empty all tables."""
        await self._connection.execute(_TRUNCATE)

    async def keep(self) -> None:
        """Keep this moment in place of the last one."""
        await self._connection.execute("DROP SCHEMA IF EXISTS kept CASCADE; CREATE SCHEMA kept")
        self._filled = [one for one in _TABLES if await self._connection.fetchval(f"SELECT count(*) FROM {one}")]  # noqa: S608
        for table in self._filled:
            await self._connection.execute(f"CREATE TABLE kept.{table} AS TABLE {table}")
        self._twins = {name: twin.dump() for name, twin in self._shop.twins.items()}
        self._now = self._shop.clock.now()

    async def bring_back(self) -> None:
        """Make it that moment again. Nothing else may use the database meanwhile."""
        copies = (f"INSERT INTO {one} OVERRIDING SYSTEM VALUE TABLE kept.{one}" for one in self._filled)
        await self._connection.execute("; ".join((await self._empty(), *copies)))
        for name, twin in self._shop.twins.items():
            twin.load(self._twins[name])
        self._shop.clock.shift += self._now - self._shop.clock.now()

    async def _empty(self) -> str:
        """TRUNCATE makes all plans and files anew, which takes ten times as long as what is tested."""
        self._times += 1
        if self._times % _TRUNCATE_EVERY == 0 or not await self._may_delete_at_will():
            return _TRUNCATE
        deletions = "; ".join(f"DELETE FROM {one}" for one in reversed(_TABLES))  # noqa: S608
        return f"SET LOCAL session_replication_role = replica; {deletions}"

    async def _may_delete_at_will(self) -> bool:
        """Only a superuser may delete what is append-only to everybody else."""
        if self._superuser is None:
            self._superuser = await self._connection.fetchval("SHOW is_superuser") == "on"
        return self._superuser


@dataclass
class Conductor:
    """Says which process goes next. Open it with `async with`; it owns the processes' connections and its own."""

    url: str
    shop: Shop
    processes: list[Process] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    _observer: asyncpg.Connection[asyncpg.Record] | None = None

    @property
    def observer(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection that is in nobody's way."""
        assert self._observer is not None, "open the conductor with `async with`"
        return self._observer

    async def __aenter__(self) -> Self:
        self._observer = await open_connection(self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.task is not None and not process.task.done():
                process.task.cancel()
                await asyncio.wait([process.task])
            await process.shop.core.db.close()
        if self._observer is not None:
            await self._observer.close()

    async def add_process(self, name: str) -> Process:
        """Open one more process of the shop, with a connection of its own."""
        mark = "&" if "?" in self.url else "?"
        gate = Gate()
        database = GatedDatabase(await PostgresDatabase.open(f"{self.url}{mark}pool_size=1"), gate)
        shop = open_shop(database, clock=self.shop.clock, twins=self.shop.twins, policy=self.shop.core.policy)
        _gate_calls(shop, gate)
        process = Process(name, shop, gate)
        self.processes.append(process)
        return process

    # ── Who goes next ──────────

    async def let_go(self, process: Process, steps: int = WITHOUT_END) -> Standing:
        """Let it take so many steps; how it stands once it stands still."""
        self.order.append(process.name)
        process.gate.permit(steps)
        standing = await self._until_still(process)
        if standing is Standing.BLOCKED:
            # Once it has the lock it finishes its statement, and no more before its turn comes.
            process.gate.permit(0)
        return standing

    async def _until_still(self, process: Process) -> Standing:
        async with asyncio.timeout(_LONGEST_SECONDS):
            while True:
                process.gate.changed.clear()
                if process.busy.done():
                    return Standing.ENDED
                if process.gate.paused:
                    return Standing.PAUSED
                taken = len(process.gate.steps)
                # Whoever has taken a step meanwhile waits for nobody, and PostgreSQL need not be asked.
                quiet = not await self._news(process) and len(process.gate.steps) == taken
                if quiet and await self._waits_for_lock(process):
                    return Standing.BLOCKED

    @staticmethod
    async def _news(process: Process) -> bool:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await process.gate.changed.wait()
        except TimeoutError:
            return False
        return True

    async def _waits_for_lock(self, process: Process) -> bool:
        return bool(await self.observer.fetchval(_WAITS_FOR_LOCK, process.gate.pid))

    async def finish(self, *processes: Process) -> None:
        """Let all of them end, the first one first; whoever waits for a lock lets the others go on."""
        async with asyncio.timeout(_LONGEST_SECONDS):
            while left := [one for one in processes if not one.busy.done()]:
                for process in left:
                    if await self.let_go(process) is Standing.ENDED:
                        break

    async def shuffle(self, chance: random.Random, *processes: Process) -> None:
        """Let all of them end in single steps, each time by whoever `chance` picks among those that can go on."""
        blocked: list[Process] = []
        async with asyncio.timeout(_LONGEST_SECONDS):
            while left := [one for one in processes if not one.busy.done()]:
                free = [one for one in left if one not in blocked] or left
                process = chance.choice(free)
                standing = await self.let_go(process, 1)
                if standing is Standing.BLOCKED:
                    blocked.append(process)
                elif standing is Standing.ENDED or process.gate.steps[-1] in _ENDS:
                    # Locks were given back, so that the same seed always goes on with the same choice.
                    blocked = [one for one in blocked if await self._until_still(one) is Standing.BLOCKED]


def _gate_calls(shop: Shop, gate: Gate) -> None:
    send = shop.transport.send

    async def gated_send(request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        await gate.step(f"call {request.method} {request.url.split('?', 1)[0][:_LONGEST_LABEL]}")
        return await send(request, deadline_seconds=deadline_seconds)

    shop.transport.send = gated_send  # type: ignore[method-assign]
