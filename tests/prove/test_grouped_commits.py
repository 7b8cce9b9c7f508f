"""Many buyers of the real core in one COMMIT on SQLite: with members that fail, a COMMIT that fails, and a full disk.

Everybody waits at a gate until all others wait there as well or are done; then all go through at once, and what they
write shares one physical COMMIT. That is looked at in SQLite's own trace. Nothing here is pretended: a COMMIT fails
because a row in it must not be, or because the file may not grow, and the disk that is full is a small one.
"""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

import pytest

import paidonce.db
from paidonce.db import sqlite
from paidonce.errors import CommitUnknown, DatabaseDown, DatabaseError
from paidonce.gateways.base import HttpRequest
from paidonce.ports import Database, Microseconds, Transaction
from paidonce.sandbox.app import sandbox_cores
from paidonce.store import OrderView, SqlStore
from support.aftermath import (
    assert_each_refund_was_made_once,
    assert_every_object_is_known,
    assert_money_found_its_place,
    assert_nothing_is_open,
)
from support.killer import Said
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up

P = ParamSpec("P")
T = TypeVar("T")

GATEWAYS = ("stripe", "paypal")
# Of each kind at each gateway: who starts a payment, who comes back from one, and who gets something back.
PEOPLE = 2
PENS, LAMPS = 100, 3
HANG_SECONDS = 30
FEWEST_IN_A_GROUP = 10
_DAY = 24 * 3600
# Past claims, leases, holds, the life of orders, and the days for which events wait for a payment.
CALM_WAITS = (0, 130, 320, 1300, _DAY, _DAY, 2 * _DAY)


# ── The gate ──────────


class Lock:
    """SQLite's write lock, held by somebody else: what is handed over meanwhile waits and then shares one group."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


class Gate:
    """`ports.Database` before which transactions wait until they are let through together. Reading waits for nobody."""

    def __init__(self, inner: Database) -> None:
        self.inner = inner
        self.dialect: Literal["sqlite", "postgresql"] = inner.dialect
        self.is_open = True
        self.waiting: list[asyncio.Future[None]] = []
        self.handed_over = 0

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if not self.is_open:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            await turn
        # What follows hands the transaction over before it suspends for the first time.
        self.handed_over += 1
        return await self.inner.transaction(fn, *args, **kwargs)

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self.inner.read(fn, *args, **kwargs)

    async def close(self) -> None:
        await self.inner.close()

    async def let_through(self, turns: list[asyncio.Future[None]]) -> None:
        """Until all of them are handed over, in their order."""
        until = self.handed_over + len(turns)
        for turn in turns:
            turn.set_result(None)
        while self.handed_over < until:  # noqa: ASYNC110 - they need one turn of the loop each.
            await asyncio.sleep(0)


@dataclass
class Group:
    """What SQLite itself saw of a group."""

    members: int = 0
    rolled_back: int = 0
    ended: str = ""


@dataclass
class Trace:
    """The groups of a writer, as its connection ran them."""

    groups: list[Group] = field(default_factory=list)

    def __call__(self, statement: str) -> None:
        match statement:
            case "BEGIN IMMEDIATE":
                # It is said at each attempt, also while somebody else has the lock.
                if not self.groups or self.groups[-1].members:
                    self.groups.append(Group())
            case "SAVEPOINT member":
                self.groups[-1].members += 1
            case "ROLLBACK TO member":
                self.groups[-1].rolled_back += 1
            case "COMMIT" | "ROLLBACK":
                self.groups[-1].ended += statement + " "


# ── What goes wrong ──────────


class Trouble(Protocol):
    """Something that goes wrong with the disk from a moment on, and is mended later.

    `heard` is what the members of a group hear of it then.
    """

    heard: type[DatabaseError]

    async def begin(self, town: Town) -> None:
        """Before the members of a group are let through."""

    async def member(self, town: Town) -> None:
        """In the middle of the group, as a member of it."""

    async def end(self, town: Town) -> None:
        """Everything is well again."""


class Calm:
    """Nothing goes wrong."""

    heard: type[DatabaseError] = CommitUnknown

    async def begin(self, town: Town) -> None: ...
    async def member(self, town: Town) -> None: ...
    async def end(self, town: Town) -> None: ...


class WrongRow(Calm):
    """A member writes a row that refers to nothing, which SQLite finds at COMMIT, and nobody is to blame but it."""

    async def member(self, town: Town) -> None:
        async def orphan(tx: Transaction) -> None:
            await tx.fetch_one("PRAGMA defer_foreign_keys = ON")
            await tx.execute("INSERT INTO sessions VALUES ('nobody', 'usr_nobody', 1, 1, 1, 1)")

        with pytest.raises(CommitUnknown, match="FOREIGN KEY"):
            await town.database.transaction(orphan)


class FewPages(Calm):
    """The database may not grow any more, and a member that wants much finds that in the middle of its group."""

    heard = DatabaseDown

    async def begin(self, town: Town) -> None:
        await town.database.transaction(_limit_pages, 1)  # SQLite raises it to the pages in use.

    async def member(self, town: Town) -> None:
        async def much(tx: Transaction) -> None:
            await tx.execute("INSERT INTO users VALUES ('usr_1', :long, '', '', 'buyer', 1)", {"long": "x" * 100_000})

        with pytest.raises(DatabaseDown, match="full"):
            await town.database.transaction(much)

    async def end(self, town: Town) -> None:
        await town.database.transaction(_limit_pages, 1_000_000)


async def _limit_pages(tx: Transaction, pages: int) -> None:
    await tx.fetch_one(f"PRAGMA max_page_count = {pages}")


class ShortFile(Calm):
    """No file of this process may grow beyond what the write-ahead log has now."""

    async def begin(self, town: Town) -> None:
        size = town.path.with_name(town.path.name + "-wal").stat().st_size
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._before[1]))

    async def end(self, town: Town) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


class FullDisk(Calm):
    """Somebody else's file has taken all that was left of the disk."""

    async def begin(self, town: Town) -> None:
        with self._file(town).open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    async def end(self, town: Town) -> None:
        self._file(town).unlink()

    def _file(self, town: Town) -> Path:
        return town.path.parent / "somebody else's"


# ── The town ──────────


class HostStore(SqlStore):
    """A shop's own store, which writes and then fails for some orders: by a rule of its database, or by a bug."""

    def __init__(self) -> None:
        super().__init__()
        self.conflicts: set[str] = set()
        self.bugs: set[str] = set()

    async def hold(self, tx: Transaction, order_id: str, *, until: Microseconds) -> None:
        await super().hold(tx, order_id, until=until)
        if order_id in self.conflicts:
            await tx.execute("INSERT INTO products SELECT * FROM products WHERE sku = 'pen'")
        if order_id in self.bugs:
            raise ZeroDivisionError("a bug of the host's")


@dataclass
class Town:
    """The shop behind its gate, everybody who is about to do something, and what they were told."""

    shop: Shop
    gate: Gate
    path: Path
    copies: Path
    trace: Trace
    said: Said = field(default_factory=Said)
    errors: list[BaseException] = field(default_factory=list)
    agreed: set[str] = field(default_factory=set)
    refunds_wanted: set[str] = field(default_factory=set)
    errands: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    @property
    def database(self) -> Database:
        """The database without a gate."""
        return self.gate.inner

    # ── Before ──────────

    async def fill(self) -> None:
        """Everybody comes as far as he can without the group."""
        for gateway in GATEWAYS:
            for _ in range(PEOPLE):
                await self.plan_a_start(gateway)
                await self.plan_to_come_back(gateway)
                await self.plan_a_refund(gateway)
        self.shop.webhooks()
        for gateway in GATEWAYS:
            await self._agreed(gateway)
        for webhook in self.shop.webhooks():
            self.errands.append(lambda webhook=webhook: self._hear(webhook))  # type: ignore[misc]
        self.errands += [self._order] * PEOPLE

    async def plan_a_start(self, gateway: str, sku: str = "pen") -> OrderView:
        order = await self.shop.order((sku, 1))
        self.said.orders[order.id] = order.total.minor
        self.errands.append(lambda: self._start(order, gateway))
        return order

    async def plan_to_come_back(self, gateway: str) -> None:
        order, started = await self._agreed(gateway)
        self.errands.append(lambda: self._come_back(order, started.payment.id))

    async def plan_a_refund(self, gateway: str) -> None:
        order, payment = await self.shop.paid(gateway, ("pen", 1))
        self.agreed.add(order.id)
        self.errands.append(lambda: self._refund(order, payment))

    async def _agreed(self, gateway: str) -> tuple[OrderView, Any]:
        order = await self.shop.order(("pen", 1))
        started = await self.shop.start(order.id, gateway)
        await self.shop.agree(started)
        self.agreed.add(order.id)
        return order, started

    # ── Errands, which may be done again ──────────

    async def _order(self) -> None:
        order = await self.shop.order(("pen", 1))
        self.said.orders[order.id] = order.total.minor

    async def _start(self, order: OrderView, gateway: str) -> None:
        started = await self.shop.start(order.id, gateway)
        self.said.payments[started.payment.id] = order.id

    async def _come_back(self, order: OrderView, payment: str) -> None:
        result = await self.shop.complete(payment)
        if result.order_status == "paid":
            self.said.paid.add(order.id)
            self.said.captured.add(payment)

    async def _refund(self, order: OrderView, payment: str) -> None:
        self.refunds_wanted.add(payment)
        done = await self.shop.refund(payment, 100, request_key=order.id)
        self.said.refunds[done.refund.id] = (payment, 100)
        self.said.refunded |= {done.refund.id} if done.refund.state == "succeeded" else set()

    async def _hear(self, webhook: HttpRequest) -> None:
        gateway = self.shop.core.gateways[webhook.url.rsplit("/", 1)[1]]
        headers = {name.lower(): value for name, value in webhook.headers.items()}
        event = await gateway.read_webhook(headers, webhook.body)
        assert await self.shop.receive(webhook) in ("new", "duplicate", "known")
        self.said.events.add((event.gateway, event.id))

    async def _try(self, errand: Callable[[], Awaitable[None]]) -> bool:
        try:
            await errand()
        except Exception as error:
            self.errors.append(error)
            return False
        return True

    # ── The groups ──────────

    async def go(self, trouble: Trouble, *, at: int, lasting: bool) -> list[Callable[[], Awaitable[None]]]:
        """All errands at once, group by group. Trouble comes with group `at`; returns the errands that failed.

        After each group, what was told until then is looked for in a copy of the files.
        """
        self.trace.groups.clear()
        self.gate.is_open = False
        tasks = [asyncio.create_task(self._try(errand)) for errand in self.errands]
        number = 0
        while await self._all_wait(tasks):
            number += 1
            if number == at:
                await trouble.begin(self)
            await self._let_a_group_through(trouble if number == at else Calm())
            await self._all_wait(tasks)
            if number == at and not lasting:
                await trouble.end(self)
            await self._is_durable()
        self.gate.is_open = True
        assert number >= at, "there are fewer groups"
        if lasting:
            await trouble.end(self)
        return [errand for errand, task in zip(self.errands, tasks, strict=True) if not task.result()]

    async def _all_wait(self, tasks: list[asyncio.Task[bool]]) -> int:
        """Wait until everybody waits at the gate or is done; how many wait."""
        async with asyncio.timeout(HANG_SECONDS):
            while len(self.gate.waiting) < sum(not task.done() for task in tasks):  # noqa: ASYNC110
                await asyncio.sleep(0.0005)
        return len(self.gate.waiting)

    async def _let_a_group_through(self, trouble: Trouble) -> None:
        turns, self.gate.waiting = self.gate.waiting, []
        half = len(turns) // 2
        with Lock(self.path):
            await self.gate.let_through(turns[:half])
            member = asyncio.create_task(trouble.member(self))
            await asyncio.sleep(0)
            await self.gate.let_through(turns[half:])
        await member

    async def _is_durable(self) -> None:
        """The files as a crash would leave them now hold what was told."""
        # By another process: one that closes a file gives up all locks that it has on it.
        copy = 'ulimit -S -f unlimited; exec cp "$1" "$1-wal" "$2"'
        command = ["sh", "-c", copy, "sh", str(self.path), str(self.copies)]
        await asyncio.to_thread(subprocess.run, command, check=True)
        database = await paidonce.db.connect(f"sqlite:///{self.copies / self.path.name}")
        try:
            await self.said.is_true(open_shop(database, clock=self.shop.clock, twins=self.shop.twins))
        finally:
            await database.close()


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder


@asynccontextmanager
async def open_town(url: str, copies: Path, *, store: SqlStore | None = None) -> AsyncIterator[Town]:
    """A stocked shop on the SQLite file of `url`, whose gate is open yet."""
    path = paidonce.db.sqlite_path(url)
    assert path is not None
    gate, trace = Gate(await paidonce.db.connect(url)), Trace()
    try:
        shop = open_shop(gate, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
        shop.core = replace(shop.core, store=store or SqlStore())
        await gate.transaction(stock_up, shop.store, shop.clock.now())

        async def listen(tx: Transaction) -> None:
            tx._connection.set_trace_callback(trace)  # type: ignore[attr-defined]

        await gate.transaction(listen)
        yield Town(shop, gate, path, copies, trace)
    finally:
        await gate.close()


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group takes in whoever waits, however long that takes here."""
    monkeypatch.setattr(sqlite, "GROUP_SECONDS", HANG_SECONDS)


@pytest.fixture(autouse=True)
def files_may_grow_afterwards() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
async def town(sqlite_url: str, copies: Path) -> AsyncIterator[Town]:
    async with open_town(sqlite_url, copies, store=HostStore()) as opened:
        await opened.fill()
        yield opened


async def everything_ends_once(town: Town) -> None:
    """Days with nobody but a worker; then all is told, kept and done once."""
    shop = town.shop
    await town.said.is_true(shop)
    await shop.assert_books_balance()
    for seconds in CALM_WAITS:
        await shop.recover(after=seconds)
    await town.said.is_true(shop)
    await shop.assert_books_balance()
    await shop.assert_journal_equals_gateways()
    await assert_nothing_is_open(shop)
    await assert_every_object_is_known(shop)
    assert_each_refund_was_made_once(shop)
    for row in await shop.rows("SELECT id FROM orders"):
        await assert_money_found_its_place(shop, row["id"])
    paid = {row["id"] for row in await shop.rows("SELECT id FROM orders WHERE status = 'paid'")}
    assert paid == town.agreed
    assert await shop.stock("pen") == (PENS - len(paid), 0)
    assert [event for event in await shop.events() if event.startswith("alarm.")] == []
    for payment in town.refunds_wanted:
        assert await shop.refund_states(payment) in ([], [(100, "succeeded")])


# ── Members that fail ──────────


async def test_members_that_fail_leave_the_others_in_their_group(town: Town) -> None:
    store = town.shop.store
    assert isinstance(store, HostStore)
    lamps = [await town.plan_a_start("stripe", "lamp") for _ in range(LAMPS + 2)]
    conflict, bug = await town.plan_a_start("paypal"), await town.plan_a_start("stripe")
    store.conflicts.add(conflict.id)
    store.bugs.add(bug.id)
    # Those who fail stand among the others.
    random.Random(1).shuffle(town.errands)
    await town.go(Calm(), at=0, lasting=False)
    assert sorted(type(error).__name__ for error in town.errors) == ["Conflict", *["SoldOut"] * 2, "ZeroDivisionError"]
    first = town.trace.groups[0]
    # Who finds the goods gone looks once more, for those that others' holds have run out on.
    assert (first.members, first.rolled_back) == (len(town.errands), 4)
    assert {group.ended for group in town.trace.groups} == {"COMMIT "}
    started = {row["order_id"] for row in await town.shop.rows("SELECT order_id FROM payments")}
    held = {row["order_id"] for row in await town.shop.rows("SELECT order_id FROM holds")}
    refused = {order.id for order in (conflict, bug, *lamps)} - set(town.said.payments.values())
    assert len(refused) == 4
    assert not refused & (started | held), "what was refused has written something"
    assert await town.shop.stock("lamp") == (LAMPS, LAMPS)
    await everything_ends_once(town)


# ── A COMMIT that fails ──────────


@pytest.mark.parametrize("group", range(1, 5))
async def test_a_commit_that_fails_is_run_again_by_everybody_whom_it_concerns(town: Town, group: int) -> None:
    failed = await town.go(WrongRow(), at=group, lasting=False)
    assert town.trace.groups[0].members >= FEWEST_IN_A_GROUP
    assert [one.ended for one in town.trace.groups][group - 1] == "COMMIT ROLLBACK "
    # Only what has no key of its own to look for is left to its caller: a new order.
    assert [type(error) for error in town.errors] == [CommitUnknown] * (PEOPLE if group == 1 else 0)
    assert len(town.said.paid) == len(GATEWAYS) * PEOPLE
    assert len(town.said.refunded) == len(GATEWAYS) * PEOPLE
    assert len(town.said.payments) == len(GATEWAYS) * PEOPLE
    for errand in failed:
        await errand()
    assert await town.shop.count("orders") == len(GATEWAYS) * (3 * PEOPLE + 1) + PEOPLE
    await everything_ends_once(town)


# ── A full disk ──────────


@pytest.mark.parametrize("group", range(1, 4))
@pytest.mark.parametrize("way", [FewPages, ShortFile], ids=["no more pages", "no longer files"])
async def test_on_a_full_disk_nothing_is_acknowledged_and_later_all_of_it_recovers(
    town: Town, way: type[Trouble], group: int
) -> None:
    await full_disk(town, way(), group)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a few megabytes; skips where nobody may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "paidonce-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no disk can be filled here, since mounting a small one is not allowed: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("group", range(1, 4))
async def test_on_a_disk_that_somebody_else_has_filled_it_is_the_same(
    small_disk: Path, sqlite_template: Path, copies: Path, group: int
) -> None:
    shutil.copy(sqlite_template, small_disk / "paidonce.db")
    async with open_town(f"sqlite:///{small_disk}/paidonce.db", copies) as town:
        await town.fill()
        await full_disk(town, FullDisk(), group)


async def full_disk(town: Town, trouble: Trouble, group: int) -> None:
    failed = await town.go(trouble, at=group, lasting=True)
    assert len(failed) > 1, "nobody shared the group"
    assert {type(error) for error in town.errors} == {trouble.heard}
    await town.said.is_true(town.shop)
    # Whoever was in the middle of something owns it for a while yet.
    town.shop.clock.pass_seconds(town.shop.core.policy.claim_seconds + 1)
    for errand in failed[::2]:
        await errand()
    await everything_ends_once(town)
