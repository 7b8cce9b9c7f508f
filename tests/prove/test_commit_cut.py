"""The wire to PostgreSQL is cut at COMMIT, before it counts or after, and at any other statement: still one effect.

The real driver runs behind a proxy that cuts its connections. PROVE_PG_SCHEDULES says how many random schedules, of
everybody acting at once, are run through such wires, and PROVE_PG_FROM with which seed they begin.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import pytest

import paidonce.db
from paidonce.core import Actor, Policy
from paidonce.errors import CommitUnknown, DatabaseDown
from paidonce.gateways.base import CaptureMethod
from paidonce.ports import Database, Transaction
from paidonce.sandbox.app import sandbox_cores
from support.aftermath import Ended, assert_money_found_its_place, assert_nothing_is_open, assert_safe
from support.cutproxy import Chance, Cut, CutProxy, Request, Turn, never
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up
from support.storm import ShakyDatabase, Storm

T = TypeVar("T")

GATEWAYS = ("stripe", "paypal")
SCHEDULES = int(os.environ.get("PROVE_PG_SCHEDULES", "4"))
FIRST_SEED = int(os.environ.get("PROVE_PG_FROM", "0"))
BURSTS, STEPS_PER_BURST = 5, 20
# More than any flow below has; the tests check that the last turn came too late.
MOST_COMMITS, MOST_REQUESTS = 16, 160
# A cut inside any statement of a transaction is rarer than one at its end by about the number of statements.
STATEMENTS_PER_COMMIT = 10


async def insert(tx: Transaction, id: str) -> None:
    await tx.execute(
        "INSERT INTO history (order_id, event, detail, created_at) VALUES (:id, 'made', '{}', 1)", {"id": id}
    )


async def ids(tx: Transaction) -> list[str]:
    return [row["order_id"] for row in await tx.fetch_all("SELECT order_id FROM history ORDER BY seq")]


@pytest.fixture
async def wire(postgresql_url: str) -> AsyncIterator[tuple[CutProxy, Database]]:
    """A proxy that cuts nothing yet, and a database of one connection behind it."""
    proxy = CutProxy(postgresql_url)
    async with proxy.open(pool_size=1) as url:
        database = await paidonce.db.connect(url)
        yield proxy, database
        await database.close()


# ── The driver ──────────


@pytest.mark.parametrize("cut", Cut)
async def test_a_cut_at_commit_is_unknown_whatever_became_of_it(wire: tuple[CutProxy, Database], cut: Cut) -> None:
    proxy, database = wire
    await database.transaction(insert, "before")
    assert proxy.made == []
    proxy.decide = Turn(1, cut, lambda request: request.commits)
    with pytest.raises(CommitUnknown):
        await database.transaction(insert, "in doubt")
    # The same error either way; only reading again tells, on a new connection.
    assert await database.read(ids) == (["before", "in doubt"] if cut.done else ["before"])
    assert [(one.cut, one.answered) for one in proxy.made] == [(cut, "COMMIT" if cut.done else None)]
    await database.transaction(insert, "after")
    assert (await database.read(ids))[-1] == "after"


@pytest.mark.parametrize("cut", Cut)
async def test_what_is_written_by_its_own_key_has_one_effect(wire: tuple[CutProxy, Database], cut: Cut) -> None:
    proxy, database = wire
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
    found: list[list[str]] = []

    async def once(tx: Transaction) -> str:
        found.append(await ids(tx))
        if "mine" not in found[-1]:
            await insert(tx, "mine")
        return "done"

    proxy.decide = Turn(1, cut, lambda request: request.commits)
    assert await shop.core.write(once) == "done"
    assert found == [[], ["mine"] if cut.done else []]
    assert await database.read(ids) == ["mine"]


@pytest.mark.parametrize("cut", Cut)
async def test_a_wire_that_is_cut_at_every_commit_is_given_up(wire: tuple[CutProxy, Database], cut: Cut) -> None:
    proxy, database = wire
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
    proxy.decide = lambda request: cut if request.commits else None
    with pytest.raises(CommitUnknown):
        await shop.core.write(insert, "mine")
    tries = len(proxy.made)
    assert tries > 1
    proxy.decide = never
    # A function that does not look for its own key is written as often as it was kept: why all of ours look.
    assert await database.read(ids) == (["mine"] * tries if cut.done else [])


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("where", ["BEGIN", "INSERT", "SELECT", "prepare"])
async def test_a_cut_anywhere_else_keeps_nothing(wire: tuple[CutProxy, Database], where: str, cut: Cut) -> None:
    proxy, database = wire
    if where != "prepare":
        # So that the statements are prepared, and what is cut is their execution.
        await database.transaction(insert_and_look, "before")
    before = await database.read(ids) if where != "prepare" else []
    proxy.decide = Turn(
        1, cut, lambda request: request.prepares if where == "prepare" else request.text.startswith(where)
    )
    with pytest.raises(DatabaseDown):
        await database.transaction(insert_and_look, "cut off")
    assert [one.cut for one in proxy.made] == [cut]
    assert await database.read(ids) == before
    await database.transaction(insert_and_look, "after")
    assert await database.read(ids) == [*before, "after"]


async def insert_and_look(tx: Transaction, id: str) -> list[str]:
    await insert(tx, id)
    return await ids(tx)


async def test_a_cut_at_the_roll_back_hides_no_error_of_the_function(wire: tuple[CutProxy, Database]) -> None:
    proxy, database = wire

    async def refuse(tx: Transaction) -> None:
        await insert(tx, "refused")
        raise ValueError("refused")

    for cut in Cut:
        proxy.decide = Turn(1, cut, lambda request: request.text == "ROLLBACK")
        with pytest.raises(ValueError, match="refused"):
            await database.transaction(refuse)
    assert [one.cut for one in proxy.made] == list(Cut)
    assert await database.read(ids) == []


async def test_a_cut_while_reading_is_a_database_that_is_down(wire: tuple[CutProxy, Database]) -> None:
    proxy, database = wire
    for cut in Cut:
        proxy.decide = Turn(1, cut, lambda request: request.text.startswith("SELECT"))
        with pytest.raises(DatabaseDown):
            await database.read(ids)
        assert await database.read(ids) == []
    assert len(proxy.made) == len(Cut)


def test_a_seed_always_cuts_the_same() -> None:
    requests = [Request("COMMIT" if number % 9 == 0 else "SELECT 1", number) for number in range(900)]

    def cuts(seed: int, elsewhere: float) -> list[Cut | None]:
        chance = Chance(seed, at_commit=0.5, elsewhere=elsewhere)
        return [chance(request) for request in requests]

    assert cuts(7, 0.1) == cuts(7, 0.1) != cuts(8, 0.1)
    assert set(cuts(7, 0.0)) == {None, *Cut}
    assert all(cut is None for cut, request in zip(cuts(7, 0.0), requests, strict=True) if not request.commits)
    assert cuts(7, 0.0)[::9] == cuts(7, 0.1)[::9], "what happens elsewhere does not change the commits' luck"


# ── Every commit and every statement of the flows ──────────


@pytest.fixture
async def calm(postgresql_url: str) -> AsyncIterator[Shop]:
    """A stocked shop whose wire is never cut."""
    database = await paidonce.db.connect(postgresql_url)
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
    await database.transaction(stock_up, shop.store, shop.clock.now())
    yield shop
    await shop.assert_books_balance()
    assert "alarm.recovery_failed" not in await shop.events(), "recovery met a bug; its traceback stands in the log"
    await database.close()


@pytest.fixture
async def unlucky(calm: Shop, postgresql_url: str) -> AsyncIterator[tuple[CutProxy, Shop]]:
    """Another process of the same shop, whose wire can be cut."""
    proxy = CutProxy(postgresql_url)
    async with proxy.open() as url:
        database = await paidonce.db.connect(url)
        shop = open_shop(database, clock=calm.clock, twins=calm.twins)
        for gateway in shop.core.gateways.values():
            await gateway.account()
        yield proxy, shop
        await database.close()


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER], ids=["lost", "kept"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_paying_survives_a_cut_at_each_commit(
    calm: Shop, unlucky: tuple[CutProxy, Shop], gateway: str, cut: Cut
) -> None:
    proxy, shop = unlucky
    for turn in range(1, MOST_COMMITS + 1):
        actor = Actor(f"usr_{turn}")
        order = await calm.order(("pen", 1), actor=actor)
        proxy.decide = Turn(turn, cut, lambda request: request.commits)
        started = await shop.start(order.id, gateway, actor)
        await shop.agree(started)
        assert (await shop.complete(started.payment.id, actor)).order_status == "paid", f"commit {turn}"
        await calm.assert_paid_once(order)
    assert 2 <= len(proxy.made) < MOST_COMMITS, "each commit had its turn, or there are more than turns"
    await calm.assert_journal_equals_gateways()


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER], ids=["lost", "kept"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_refunding_survives_a_cut_at_each_commit(
    calm: Shop, unlucky: tuple[CutProxy, Shop], gateway: str, cut: Cut
) -> None:
    proxy, shop = unlucky
    for turn in range(1, MOST_COMMITS + 1):
        _, payment_id = await calm.paid(gateway, ("pen", 1))
        proxy.decide = Turn(turn, cut, lambda request: request.commits)
        done = await shop.refund(payment_id, 100)
        assert (done.refund.state, done.created) == ("succeeded", True), f"commit {turn}"
        assert await calm.refund_states(payment_id) == [(100, "succeeded")]
    assert 2 <= len(proxy.made) < MOST_COMMITS, "each commit had its turn, or there are more than turns"
    await calm.assert_journal_equals_gateways()


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER], ids=["lost", "kept"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_webhooks_survive_a_cut_at_each_commit(
    calm: Shop, unlucky: tuple[CutProxy, Shop], gateway: str, cut: Cut
) -> None:
    proxy, shop = unlucky
    for turn in range(1, MOST_COMMITS + 1):
        order = await calm.order(("pen", 1))
        await calm.agree(await calm.start(order.id, gateway))
        proxy.decide = Turn(turn, cut, lambda request: request.commits)
        await shop.deliver()
        # An event whose row was kept without its answer is processed as soon as its first lease has run out.
        await calm.recover(after=calm.core.policy.lease_seconds + 1)
        await calm.assert_paid_once(order)
    assert 2 <= len(proxy.made) < MOST_COMMITS, "each commit had its turn, or there are more than turns"
    await calm.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_paying_survives_a_cut_at_each_statement_by_asking_again(
    calm: Shop, unlucky: tuple[CutProxy, Shop], gateway: str
) -> None:
    proxy, shop = unlucky
    cuts = list(Cut)
    for turn in range(1, MOST_REQUESTS + 1):
        actor = Actor(f"usr_{turn}")
        order = await calm.order(("pen", 1), actor=actor)
        proxy.decide = never_twice = Turn(turn, cuts[turn % len(cuts)], lambda request: not request.prepares)
        started = await again(shop, lambda order=order, actor=actor: shop.start(order.id, gateway, actor))  # type: ignore[misc]
        await shop.agree(started)
        paid = await again(shop, lambda started=started, actor=actor: shop.complete(started.payment.id, actor))  # type: ignore[misc]
        assert paid.order_status == "paid", f"request {turn}: {never_twice.came}"
        await calm.assert_paid_once(order)
        if never_twice.came is None:
            break
    assert 20 < len(proxy.made) < MOST_REQUESTS, "each statement had its turn, or there are more than turns"
    assert {one.cut for one in proxy.made} == set(Cut)
    await calm.assert_journal_equals_gateways()


async def again(shop: Shop, action: Callable[[], Awaitable[T]]) -> T:
    """What a buyer does who reads an error: ask again, once whoever vanished half way owns nothing any more."""
    try:
        return await action()
    except DatabaseDown:
        shop.clock.pass_seconds(shop.core.policy.claim_seconds + 1)
        return await action()


# ── Random schedules ──────────


class CutDatabase(ShakyDatabase):
    """A database that fails by real cuts of its wire."""

    def __init__(self, inner: Database, chance: Chance) -> None:
        self.cuts = chance
        super().__init__(inner, random.Random(0))

    @property
    def failing(self) -> float:
        """Nothing fails by pretending."""
        return 0.0

    @failing.setter
    def failing(self, probability: float) -> None:
        self.cuts.at_commit = probability
        self.cuts.elsewhere = probability / STATEMENTS_PER_COMMIT


class CutStorm(Storm):
    """A storm whose two processes reach the database by wires that are cut."""

    def __init__(self, shop: Shop, seed: int, databases: list[ShakyDatabase]) -> None:
        super().__init__(shop, seed)
        self.databases = databases
        self.processes = [
            open_shop(one, clock=shop.clock, twins=shop.twins, policy=shop.core.policy) for one in databases
        ]
        for process in self.processes:
            self._make_lossy(process)

    async def _act(self) -> None:
        try:
            await super()._act()
        except DatabaseDown:
            self.tell("… DatabaseDown")


@asynccontextmanager
async def cut_storm(url: str, seed: int) -> AsyncIterator[tuple[CutStorm, list[CutProxy]]]:
    """A storm on the database of `url`, and the wires of its processes. Every third seed captures by hand."""
    policy = Policy(capture_method=CaptureMethod.MANUAL if seed % 3 == 2 else CaptureMethod.AUTOMATIC)
    async with AsyncExitStack() as stack:
        calm = await paidonce.db.connect(url)
        stack.push_async_callback(calm.close)
        shop = open_shop(calm, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)), policy=policy)
        await calm.transaction(stock_up, shop.store, shop.clock.now())
        proxies, databases = [], []
        for number in range(2):
            chance = Chance(seed * 2 + number)
            proxy = CutProxy(url, chance)
            database = await paidonce.db.connect(await stack.enter_async_context(proxy.open(pool_size=8)))
            stack.push_async_callback(database.close)
            proxies.append(proxy)
            databases.append(CutDatabase(database, chance))
        yield CutStorm(shop, seed, [*databases]), proxies


async def test_the_weather_of_a_storm_reaches_its_wires(postgresql_url: str) -> None:
    async with cut_storm(postgresql_url, 0) as (storm, proxies):
        for process, database, proxy in zip(storm.processes, storm.databases, proxies, strict=True):
            database.failing = 1.0
            with pytest.raises((CommitUnknown, DatabaseDown)):
                await process.core.db.transaction(insert, "cut off")
            assert proxy.made != []
            database.failing = 0.0
            cuts = len(proxy.made)
            await process.core.db.transaction(insert, "calm")
            assert len(proxy.made) == cuts


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SCHEDULES))
async def test_after_a_storm_with_cut_wires_all_books_agree(postgresql_url: str, seed: int) -> None:
    async with cut_storm(postgresql_url, seed) as (storm, proxies):
        try:
            await weather(storm)
        except BaseException:
            print(f"PROVE_PG_FROM={seed} PROVE_PG_SCHEDULES=1", *storm.log, sep="\n")
            raise
        made = [one for proxy in proxies for one in proxy.made]
        print(f"seed {seed}: {len(made)} cuts, {sum(one.request.commits for one in made)} at COMMIT")
        assert all(one.answered in (None, "COMMIT", "ROLLBACK") for one in made if one.request.commits)


async def weather(storm: CutStorm) -> None:
    shop, ended = storm.shop, Ended()
    for _ in range(BURSTS):
        await storm.burst(STEPS_PER_BURST)
        await assert_safe(shop, ended, *storm.processes)
        storm.let_time_pass()
    await storm.calm_down()
    await assert_safe(shop, ended, *storm.processes)
    await shop.assert_journal_equals_gateways()
    assert "alarm.recovery_failed" not in await shop.events(), "recovery met a bug; its traceback stands in the log"
    await assert_nothing_is_open(shop)
    for order, _ in storm.orders:
        await assert_money_found_its_place(shop, order.id)
