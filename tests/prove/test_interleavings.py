"""Any two actions on one payment, interleaved statement by statement on a real PostgreSQL: whatever order, one effect.

Each action is stopped before each of its steps in turn (a statement, a COMMIT, a call to the gateway), with its
transaction open; there the other one runs to its end, or until it waits for a lock; then both end. Afterwards time
passes, recovery does what is due, and the books of both sides are compared.

PROVE_PG_INTERLEAVINGS=all runs every pair in every scene; PROVE_PG_SCHEDULES says how many random interleavings, of
two or three actions in single steps, are run besides.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import structlog

import paidonce.db
from paidonce import checkout, inbox, recovery
from paidonce.core import Actor, Policy
from paidonce.db.postgres import open_connection
from paidonce.errors import GatewayError, GatewayUnavailable, Problem
from paidonce.gateways.base import HttpRequest, WebhookEvent
from paidonce.ports import SECOND, Transaction
from paidonce.sandbox.app import sandbox_cores
from paidonce.store import OrderView
from support.aftermath import (
    Ended,
    assert_every_object_is_known,
    assert_money_found_its_place,
    assert_nothing_is_open,
    assert_safe,
    open_things,
)
from support.apart import run_apart
from support.interleave import Conductor, Onlooker, Process, Rewind, Standing
from support.shop import BUYER, SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up

GATEWAYS = ("stripe", "paypal")
EVERYTHING = os.environ.get("PROVE_PG_INTERLEAVINGS") == "all"
SCHEDULES = int(os.environ.get("PROVE_PG_SCHEDULES", "60"))
FIRST_SEED = int(os.environ.get("PROVE_PG_FROM", "0"))
RIVAL = Actor("usr_rival")

# Short, so that the same few seconds end each hold and each order while all keys and leases still live.
HOLD_SECONDS = 30
POLICY = Policy(hold_seconds=HOLD_SECONDS, pending_hold_seconds=HOLD_SECONDS, first_look_seconds=1)
# What passes afterwards, until nothing is due any more: leases, claims and the waits of recovery.
CALM_SECONDS = (0, 301, 3700, 25 * 3600)


# ── Scenes: where two actions begin ──────────


@dataclass(frozen=True)
class Story:
    """One order, with what has become of it."""

    order: OrderView
    actor: Actor
    gateway: str
    payment_id: str = ""
    events: tuple[WebhookEvent, ...] = ()


async def _order(shop: Shop, *lines: tuple[str, int], actor: Actor = BUYER) -> OrderView:
    order = await shop.order(*lines, actor=actor)
    await _end_soon(shop, order)
    return order


async def _end_soon(shop: Shop, order: OrderView, seconds: int = HOLD_SECONDS) -> None:
    at = shop.clock.now() + seconds * SECOND
    await shop.write("UPDATE orders SET expires_at = :at WHERE id = :id", id=order.id, at=at)


async def _events(shop: Shop, gateway: str) -> tuple[WebhookEvent, ...]:
    """What the gateway has to tell by now, with its signatures checked."""
    reader = shop.core.gateways[gateway]
    told = [one for one in shop.webhooks() if one.url.endswith(gateway)]
    return tuple(
        [
            await reader.read_webhook({name.lower(): value for name, value in one.headers.items()}, one.body)
            for one in told
        ]
    )


async def placed(shop: Shop, gateway: str) -> list[Story]:
    """Nobody has started to pay."""
    return [Story(await _order(shop), BUYER, gateway)]


async def left(shop: Shop, gateway: str) -> list[Story]:
    """A payment was started and canceled again; the goods are still held."""
    order = await _order(shop)
    started = await shop.start(order.id, gateway)
    await checkout.cancel(shop.core, started.payment.id, BUYER)
    return [Story(order, BUYER, gateway, started.payment.id, await _events(shop, gateway))]


async def agreed(shop: Shop, gateway: str) -> list[Story]:
    """The buyer has agreed at the gateway, and nobody here knows yet."""
    order = await _order(shop)
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    shop.clock.pass_seconds(2)  # So that recovery's first look is due.
    return [Story(order, BUYER, gateway, started.payment.id, await _events(shop, gateway))]


async def slow(shop: Shop, gateway: str) -> list[Story]:
    """Slow money has arrived at the gateway after the goods were held for it, and nobody here knows yet."""
    order = await _order(shop)
    started = await shop.start(order.id, gateway)
    if gateway == "stripe":
        shop.confirm(started, card="pm_usBankAccount_processing")
    else:
        shop.approve(started, funding="pending")
    assert (await shop.complete(started.payment.id)).payment.status == "processing"
    await _events(shop, gateway)
    ref = await shop.ref(started.payment.id)
    if gateway == "stripe":
        shop.control(gateway, "resolve_processing", ref=ref, outcome="succeeded")
    else:
        shop.control(gateway, "clear_pending", order=ref, status="COMPLETED")
    shop.clock.pass_seconds(3 * HOLD_SECONDS)
    return [Story(order, BUYER, gateway, started.payment.id, await _events(shop, gateway))]


async def paid(shop: Shop, gateway: str) -> list[Story]:
    """The order is paid, and the gateway's dashboard has sent a part back, of which nobody here knows yet."""
    order, payment_id = await shop.paid(gateway)
    await _events(shop, gateway)
    ref = await shop.ref(payment_id)
    if gateway == "stripe":
        shop.control(gateway, "dashboard_refund", ref=ref, amount="100")
    else:
        shop.control(gateway, "dashboard_refund", order=ref, amount="1.00")
    return [Story(order, BUYER, gateway, payment_id, await _events(shop, gateway))]


async def unanswered(shop: Shop, gateway: str) -> list[Story]:
    """The answer to the create call was lost, and the goods' time is over."""
    order = await _order(shop)
    shop.transport.lose_answers("POST", "/payment_intents" if gateway == "stripe" else "/checkout/orders")
    with pytest.raises(GatewayUnavailable):
        await shop.start(order.id, gateway)
    shop.transport.heal()
    await _end_soon(shop, order, 400)
    shop.clock.pass_seconds(POLICY.claim_seconds + 60)
    rows = await shop.rows("SELECT id FROM payments WHERE order_id = :id", id=order.id)
    return [Story(order, BUYER, gateway, rows[0]["id"], await _events(shop, gateway))]


async def rivals(shop: Shop, gateway: str) -> list[Story]:
    """The first buyer has agreed too late for the last goods, which are still held; the second wants them as well."""
    order = await _order(shop, ("lamp", 3))
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    other = await _order(shop, ("lamp", 3), actor=RIVAL)
    for one in (order, other):
        await _end_soon(shop, one, 3600)
    shop.clock.pass_seconds(HOLD_SECONDS + 1)
    mine = Story(order, BUYER, gateway, started.payment.id, await _events(shop, gateway))
    return [mine, Story(other, RIVAL, gateway)]


async def both_placed(shop: Shop, gateway: str) -> list[Story]:
    """Two buyers want the last goods, among others, and nobody has started to pay."""
    baskets = ((BUYER, (("mug", 1), ("lamp", 3))), (RIVAL, (("lamp", 3), ("mug", 2))))
    return [Story(await _order(shop, *lines, actor=actor), actor, gateway) for actor, lines in baskets]


# ── Actions ──────────


async def start(shop: Shop, story: Story) -> object:
    return await shop.start(story.order.id, story.gateway, story.actor)


async def elsewhere(shop: Shop, story: Story) -> object:
    """Start at the other gateway."""
    return await shop.start(story.order.id, next(one for one in GATEWAYS if one != story.gateway), story.actor)


async def complete(shop: Shop, story: Story) -> object:
    return await shop.complete(story.payment_id, story.actor)


async def settle(shop: Shop, story: Story) -> object:
    """The gateway's webhooks arrive."""
    outcomes = []
    for event in story.events:
        received = await inbox.receive(shop.core, event)
        outcomes.append(received.outcome)
        if received.lease is not None:
            await recovery.process_event(shop.core, received.lease)
    return outcomes


async def recover(shop: Shop, _: Story) -> object:
    return await recovery.run_once(shop.core)


async def refund(shop: Shop, story: Story) -> object:
    """All that is left."""
    return await shop.refund(story.payment_id)


async def expire(shop: Shop, _: Story) -> object:
    shop.clock.pass_seconds(HOLD_SECONDS + 1)
    return await recovery.end_orders(shop.core)


Act = Callable[[Shop, Story], Awaitable[object]]
Scene = Callable[[Shop, str], Awaitable[list[Story]]]
Pair = tuple[Scene, Act, Act]

# What makes sense where. Where there are two orders, the first action is the first buyer's.
SCENES: dict[Scene, tuple[Act, ...]] = {
    placed: (start, elsewhere, expire),
    left: (start, elsewhere, expire),
    agreed: (start, elsewhere, complete, settle, recover, refund, expire),
    slow: (start, complete, settle, recover, refund, expire),
    paid: (start, complete, settle, refund, expire),
    unanswered: (start, elsewhere, recover, expire),
}
DUELS: tuple[Pair, ...] = (
    (both_placed, start, start),
    (rivals, complete, start),
    (rivals, settle, start),
    (rivals, recover, start),
    (rivals, expire, start),
)
# Each pair of the five actions where both have most to do; what settles is a webhook, or recovery.
MAIN: tuple[Pair, ...] = (
    (placed, start, start),
    (agreed, start, complete),
    (agreed, start, settle),
    (paid, start, refund),
    (left, start, expire),
    (agreed, complete, complete),
    (agreed, complete, settle),
    (agreed, complete, refund),
    (slow, complete, expire),
    (agreed, settle, settle),
    (agreed, settle, recover),
    (paid, settle, refund),
    (slow, settle, expire),
    (paid, refund, refund),
    (paid, refund, expire),
    (left, expire, expire),
)
ALL: tuple[Pair, ...] = tuple(
    (scene, *pair) for scene, acts in SCENES.items() for pair in combinations_with_replacement(acts, 2)
)


# The only two that never touch the same row.
NEVER_MEET: tuple[Pair, ...] = ((paid, refund, expire),)
# How the order ends, whoever comes first, as long as nobody pays at another gateway.
ENDS: dict[Scene, str] = {
    placed: "expired",
    left: "expired",
    unanswered: "expired",
    agreed: "paid",
    slow: "paid",
    paid: "paid",
}
# Money that comes too late for the last goods goes back by itself, which is told.
ALARMS: dict[Scene, frozenset[str]] = {rivals: frozenset({"alarm.refund_due"})}


# ── The stage ──────────


@dataclass
class Stage:
    """A calm shop for looking at things, the processes that are interleaved, and the scene they begin with."""

    conductor: Conductor
    shop: Shop
    onlooker: Shop
    rewind: Rewind
    stories: list[Story]
    sent_before: list[HttpRequest]
    ends: str | None  # The order's last state, where it does not depend on who comes first.
    alarms: frozenset[str]  # What an operator may hear.
    ran: int = 0
    blocked: int = 0

    @property
    def processes(self) -> list[Process]:
        return self.conductor.processes

    async def begin_anew(self) -> None:
        """The scene as it was."""
        await self.rewind.bring_back()
        for shop in (self.shop, *(one.shop for one in self.processes)):
            shop.transport.sent.clear()
        self.shop.transport.sent += self.sent_before
        self.conductor.order.clear()
        self.ran += 1

    async def judge(self, *acting: Process) -> None:
        """Nobody met an error without words or a deadlock; then time passes, and everything found its place."""
        for process in acting:
            error = process.busy.exception()
            if error is not None and not isinstance(error, Problem):
                raise error
            assert process.gate.repeats == [], f"{process.name} met a deadlock: locks are taken in one order everywhere"
        seen, ended = self.onlooker, Ended()
        all_processes = [self.shop, *(one.shop for one in self.processes)]
        await assert_safe(seen, ended, *all_processes)
        await self._calm_down()
        await assert_safe(seen, ended, *all_processes)
        await seen.assert_journal_equals_gateways()
        await assert_nothing_is_open(seen)
        await assert_every_object_is_known(seen)
        for story in self.stories:
            await assert_money_found_its_place(seen, story.order.id)
            if self.ends is not None:
                assert await seen.order_status(story.order.id) == self.ends
        alarms = {one for one in await seen.events() if one.startswith("alarm.")}
        assert alarms <= self.alarms

    async def _calm_down(self) -> None:
        for seconds in CALM_SECONDS:
            await self.shop.recover(after=seconds)
            if seconds and not await open_things(self.onlooker) and await self._books_agree():
                return

    async def _books_agree(self) -> bool:
        try:
            await self.onlooker.assert_journal_equals_gateways()
        except AssertionError:
            return False
        return True

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """If it fails, say what was interleaved how."""
        try:
            yield
        except BaseException:
            print(f"\n{what}\nturns: {' '.join(self.conductor.order)}")
            for one in self.processes:
                if one.task is not None:
                    outcome = repr(one.task.exception() or one.task.result()) if one.task.done() else "not ended"
                    print(f"\n{one.name}: {outcome}", *one.gate.steps, sep="\n  ")
            raise


@asynccontextmanager
async def open_stage(url: str, scene: Scene, gateway: str, *, processes: str) -> AsyncIterator[Stage]:
    """The scene at `gateway`, with one process for each letter of `processes`."""
    database = await paidonce.db.connect(url)
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)), policy=POLICY)
    try:
        async with Conductor(url, shop) as conductor:
            rewind = Rewind(shop, conductor.observer)
            await rewind.clear()
            await database.transaction(stock_up, shop.store, shop.clock.now())
            for name in processes:
                await _get_ready(conductor, await conductor.add_process(name))
            stories = await scene(shop, gateway)
            await rewind.keep()
            onlooker = open_shop(Onlooker(conductor.observer), clock=shop.clock, twins=shop.twins)
            sent = list(shop.transport.sent)
            alarms = ALARMS.get(scene, frozenset())
            yield Stage(conductor, shop, onlooker, rewind, stories, sent, ENDS.get(scene), alarms)
    finally:
        await database.close()


async def _get_ready(conductor: Conductor, process: Process) -> None:
    """Once in its life a process reads each gateway's account and gets access; what is interleaved comes after that."""
    for gateway in process.shop.core.gateways.values():
        process.begin(gateway.account())
        await conductor.finish(process)
        process.begin(gateway.fetch("made-up"))
        await conductor.finish(process)
        assert isinstance(process.busy.exception(), GatewayError)


@pytest.fixture(scope="module")
def own_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """One migrated database for all tests of this module, which empty it."""
    name = f"paidonce_test_{uuid4().hex}"
    base, mark, options = postgres_server.partition("?")
    run_apart(partial(_run, postgres_server, f"CREATE DATABASE {name} TEMPLATE {postgres_template}"))
    yield f"{urlsplit(base).scheme}://{urlsplit(base).netloc}/{name}{mark}{options}"
    run_apart(partial(_run, postgres_server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _run(url: str, statement: str) -> None:
    connection = await open_connection(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """A line for each of a hundred thousand calls would be half of the work."""
    config = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.configure(**config)


# ── Every boundary ──────────


async def interleave(stage: Stage, first: Act, second: Act, stories: Sequence[Story]) -> int:
    """Stop `first` before each of its steps, and let `second` run there; how many such places there were."""
    one, two = stage.processes
    steps = await steps_of(stage, first, stories[0])
    for place in range(len(steps) + 1):
        here = steps[place] if place < len(steps) else "its end"
        with stage.told(f"{first.__name__} stopped before step {place}, {here}; then {second.__name__}"):
            await stage.begin_anew()
            one.begin(first(one.shop, stories[0]))
            stopped = await stage.conductor.let_go(one, place)
            assert one.gate.steps == steps[:place]
            assert stopped is (Standing.PAUSED if place < len(steps) else Standing.ENDED)
            two.begin(second(two.shop, stories[-1]))
            stage.blocked += await stage.conductor.let_go(two) is Standing.BLOCKED
            await stage.conductor.finish(one, two)
            await stage.judge(one, two)
    return len(steps)


async def steps_of(stage: Stage, act: Act, story: Story) -> list[str]:
    """What an action does when nobody disturbs it."""
    process = stage.processes[0]
    await stage.begin_anew()
    process.begin(act(process.shop, story))
    await stage.conductor.finish(process)
    assert isinstance(process.busy.exception(), Problem | None)
    return list(process.gate.steps)


def _name(pair: Pair) -> str:
    return "-".join(one.__name__ for one in pair)


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("pair", ALL + DUELS if EVERYTHING else MAIN, ids=_name)
async def test_two_actions_have_one_effect_wherever_they_meet(
    own_url: str, pair: Pair, gateway: str, record_property: Callable[[str, object], None]
) -> None:
    scene, first, second = pair
    async with open_stage(own_url, scene, gateway, processes="AB") as stage:
        places = [await interleave(stage, first, second, stage.stories)]
        if first is not second or len(stage.stories) > 1:
            places.append(await interleave(stage, second, first, stage.stories[::-1]))
        assert min(places) > 0, "an action without steps is not interleaved"
        assert stage.blocked > 0 or pair not in MAIN or pair in NEVER_MEET, "they never got in each other's way"
        print(f"{gateway}: {_name(pair)}: {stage.ran} interleavings at {sum(places)} places, {stage.blocked} blocked")
        record_property("interleavings", stage.ran)


def test_each_pair_of_the_five_actions_has_its_turn() -> None:
    five = (start, complete, settle, refund, expire)
    pairs = {frozenset(pair) for pair in combinations_with_replacement(five, 2)}
    assert {frozenset(pair[1:]) for pair in MAIN} >= pairs
    assert len(pairs) == 15
    assert set(MAIN) <= set(ALL) | {(scene, second, first) for scene, first, second in ALL}


# ── At random, in single steps ──────────

SHUFFLED: dict[Scene, tuple[Act, ...]] = SCENES | {
    rivals: (start, complete, settle, recover, expire),
    both_placed: (start, elsewhere, expire),
}


def seeds_of(scene: Scene, gateway: str) -> list[int]:
    """Each seed belongs to one scene at one gateway."""
    stages = [(one, name) for one in SHUFFLED for name in GATEWAYS]
    mine = stages.index((scene, gateway))
    return [seed for seed in range(FIRST_SEED, FIRST_SEED + SCHEDULES) if seed % len(stages) == mine]


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("scene", SHUFFLED, ids=lambda one: one.__name__)
async def test_three_actions_in_any_order_of_single_steps_have_one_effect(
    own_url: str, scene: Scene, gateway: str
) -> None:
    seeds = seeds_of(scene, gateway)
    async with open_stage(own_url, scene, gateway, processes="ABC") as stage:
        for seed in seeds:
            chance = random.Random(seed)
            acts = chance.choices(SHUFFLED[scene], k=chance.choice((2, 3, 3)))
            acting = stage.processes[: len(acts)]
            names = ", ".join(one.__name__ for one in acts)
            with stage.told(f"seed {seed} (PROVE_PG_FROM={seed} PROVE_PG_SCHEDULES=1): {names}"):
                await stage.begin_anew()
                for act, process in zip(acts, acting, strict=True):
                    process.begin(act(process.shop, chance.choice(stage.stories)))
                    await stage.conductor.let_go(process, 0)
                await stage.conductor.shuffle(chance, *acting)
                await stage.judge(*acting)
    assert stage.ran == len(seeds)


# ── The stage itself ──────────


async def lower_stock(shop: Shop, *skus: str, lock: bool) -> None:
    """What no code of ours may do: it reads, decides, and writes what it read, by default without a lock."""

    async def run(tx: Transaction) -> None:
        for sku in skus:
            row = await tx.fetch_one("SELECT on_hand FROM stock WHERE sku = :sku", {"sku": sku}, lock=lock)
            assert row is not None
            await tx.execute("UPDATE stock SET on_hand = :n WHERE sku = :sku", {"sku": sku, "n": row["on_hand"] - 1})

    await shop.core.db.transaction(run)


@pytest.mark.parametrize("lock", [False, True])
async def test_the_stage_shows_a_lost_update_and_that_a_lock_prevents_it(own_url: str, lock: bool) -> None:
    async with open_stage(own_url, placed, "stripe", processes="AB") as stage:
        one, two = stage.processes
        left_over = []
        for place in range(5):
            await stage.begin_anew()
            one.begin(lower_stock(one.shop, "mug", lock=lock))
            await stage.conductor.let_go(one, place)
            two.begin(lower_stock(two.shop, "mug", lock=lock))
            await stage.conductor.let_go(two)
            await stage.conductor.finish(one, two)
            left_over.append((await stage.onlooker.stock())[0])
        assert one.gate.steps == ["BEGIN", one.gate.steps[1], one.gate.steps[2], "COMMIT"]
        # Ten mugs, and two were taken: the loss happens between the reading and the end, and only there.
        assert left_over == ([8, 8, 8, 8, 8] if lock else [8, 8, 9, 9, 8])


async def test_the_stage_tells_a_deadlock_that_the_driver_has_resolved(own_url: str) -> None:
    async with open_stage(own_url, placed, "stripe", processes="AB") as stage:
        one, two = stage.processes
        await stage.begin_anew()
        one.begin(lower_stock(one.shop, "mug", "pen", lock=True))
        assert await stage.conductor.let_go(one, 3) is Standing.PAUSED
        two.begin(lower_stock(two.shop, "pen", "mug", lock=True))
        assert await stage.conductor.let_go(two) is Standing.BLOCKED
        await stage.conductor.finish(one, two)
        assert len(one.gate.repeats) + len(two.gate.repeats) == 1
        assert (one.busy.exception(), two.busy.exception()) == (None, None)
        assert [await stage.onlooker.stock(sku) for sku in ("mug", "pen")] == [(8, 0), (98, 0)]


async def test_each_seed_is_run_in_one_scene() -> None:
    spread = sorted(seed for scene in SHUFFLED for gateway in GATEWAYS for seed in seeds_of(scene, gateway))
    assert spread == list(range(FIRST_SEED, FIRST_SEED + SCHEDULES))
