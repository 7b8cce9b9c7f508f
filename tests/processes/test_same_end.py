"""The same orders, whatever happens to webhooks and answers: they end in the same states, to the cent.

One seeded crowd of buyers goes shopping several times, each time with an empty database and new gateways. In it each
buyer's way, with each sequel that it can have, comes once at each gateway. Only what travels between shop and gateways
differs. Nothing of a run's ids is the same, so its end is compared in words.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pytest

import paidonce.db
from paidonce import checkout
from paidonce.core import Actor
from paidonce.errors import AlreadyPaid, GatewayUnavailable, PaymentInProgress, WebhookUnverifiable
from paidonce.gateways.base import HttpRequest
from paidonce.money import Money
from paidonce.ports import Transaction
from paidonce.sandbox.app import sandbox_cores
from paidonce.sandbox.dials import Dials, Fault, Rule
from paidonce.store import OrderView, SqlStore
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop

T = TypeVar("T")

SEED = 20_241
GATEWAYS = ("stripe", "paypal")
BASKETS = ((("mug", 1),), (("lamp", 1), ("mug", 2)), (("pen", 7),), (("mug", 3), ("pen", 1)), (("lamp", 2),))
PRICES = {"mug": 1999, "lamp": 4950, "pen": 253}
ON_HAND = 1000
# How many answers in a row a buyer or a member of staff loses before a test calls it a bug.
PATIENCE = 12
AT_ONCE = 20
# Longer than a certificate that could not be fetched stays unasked for.
RESEND_SECONDS = 3

# What a buyer does.
WAYS = (
    "comes back",
    "closes the tab",
    "is declined, then pays",
    "is declined and leaves",
    "leaves",
    "cancels",
    "pays, then cancels",
    "changes the gateway",
    "pays slowly",
    "pays slowly in vain",
)
PAYING = ("comes back", "closes the tab", "is declined, then pays", "changes the gateway")
# What happens to a paid order later.
SEQUELS = (
    "nothing",
    "refund",
    "part refund",
    "two part refunds",
    "refund and restock",
    "dashboard refund",
    "dispute won",
    "dispute lost",
    "dispute",
)


@dataclass(frozen=True)
class Plan:
    """One order: who pays what, where and how, and what comes after."""

    number: int
    gateway: str
    basket: tuple[tuple[str, int], ...]
    way: str
    sequel: str

    @property
    def actor(self) -> Actor:
        return Actor(f"usr_{self.number % 40}")


def plans() -> list[Plan]:
    """The same crowd each time, in no order that means anything."""
    chance = random.Random(SEED)
    stories = [
        (gateway, way, sequel)
        for gateway in GATEWAYS
        for way in WAYS
        for sequel in (SEQUELS if way in PAYING else SEQUELS[:1])
    ]
    chance.shuffle(stories)
    return [
        Plan(number, gateway, chance.choice(BASKETS), way, sequel)
        for number, (gateway, way, sequel) in enumerate(stories)
    ]


@dataclass
class Run:
    """One crowd in one shop. `tell` brings the shop what the gateways have to say."""

    shop: Shop
    tell: Callable[[Shop], Awaitable[None]]
    orders: dict[int, OrderView] = field(default_factory=dict)
    payments: dict[int, str] = field(default_factory=dict)
    disputes: dict[int, str] = field(default_factory=dict)

    @property
    def dials(self) -> Dials:
        return self.shop.transport.inner.dials

    # ── The story ──────────

    async def play(self) -> None:
        crowd = plans()
        await in_groups([partial(self.shopping, plan) for plan in crowd])
        await self.pass_time(70, 70, 3600)
        for plan in crowd:
            await self.bank_decides(plan)
        await in_groups([partial(self.sequel, plan) for plan in crowd])
        await self.pass_time(70, 3600, *[25 * 3600] * 2)
        for plan in crowd:
            self.dispute_ends(plan)
        await self.pass_time(70, 3600, 25 * 3600)
        self.dials.clear()
        await self.pass_time(25 * 3600, *[3 * 24 * 3600] * 2)

    async def pass_time(self, *steps: int) -> None:
        for seconds in steps:
            await self.tell(self.shop)
            await self.shop.recover(after=seconds)

    # ── What buyers do ──────────

    async def shopping(self, plan: Plan) -> None:
        order = self.orders[plan.number] = await self.shop.order(*plan.basket, actor=plan.actor)
        if plan.way == "changes the gateway":
            other = next(name for name in self.shop.core.gateways if name != plan.gateway)
            await self.start(order, other, plan)
        started = await self.start(order, plan.gateway, plan)
        self.payments[plan.number] = started.payment.id
        await getattr(self, "_" + plan.way.replace(",", "").replace(" ", "_"))(plan, order, started)

    async def start(self, order: OrderView, gateway: str, plan: Plan) -> checkout.Started:
        return await insist(lambda: self.shop.start(order.id, gateway, plan.actor))

    async def come_back(self, plan: Plan, payment_id: str) -> checkout.Result:
        """Ask what became of it, until the shop knows."""
        for _ in range(PATIENCE):
            result = await self.shop.complete(payment_id, plan.actor)
            if not result.unknown:
                return result
        raise AssertionError("the shop never learned what became of a payment")

    async def _comes_back(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        await self.shop.agree(started)
        assert (await self.come_back(plan, started.payment.id)).order_status == "paid"

    async def _changes_the_gateway(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        await self._comes_back(plan, order, started)

    async def _closes_the_tab(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        await self.shop.agree(started)

    async def _is_declined_then_pays(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        await self._is_declined_and_leaves(plan, order, started)
        result = await self.come_back(plan, started.payment.id)
        assert (result.order_status, result.payment.status) == ("open", "awaiting_buyer")
        again = await self.start(order, plan.gateway, plan)
        assert again.payment.id == started.payment.id
        await self._comes_back(plan, order, again)

    async def _is_declined_and_leaves(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        if plan.gateway == "stripe":
            assert self.shop.confirm(started, card="pm_card_visa_chargeDeclined").status == 402
        else:
            self.shop.approve(started, funding="declined")

    async def _leaves(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        """The tab is closed on the pay page."""

    async def _cancels(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        assert await insist(lambda: checkout.cancel_order(self.shop.core, order.id, plan.actor)) == "canceled"

    async def _pays_then_cancels(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        """Too late where the browser alone moves the money; in time where our capture does."""
        await self.shop.agree(started)
        if plan.gateway == "stripe":
            with pytest.raises(AlreadyPaid):
                await insist(lambda: checkout.cancel_order(self.shop.core, order.id, plan.actor))
        else:
            await self._cancels(plan, order, started)

    async def _pays_slowly(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        if plan.gateway == "stripe":
            assert self.shop.confirm(started, card="pm_usBankAccount_processing").status == 200
        else:
            self.shop.approve(started, funding="pending")
        result = await self.come_back(plan, started.payment.id)
        assert (result.order_status, result.payment.status) == ("pending", "processing")

    async def _pays_slowly_in_vain(self, plan: Plan, order: OrderView, started: checkout.Started) -> None:
        await self._pays_slowly(plan, order, started)

    # ── What banks, staff and dashboards do ──────────

    async def bank_decides(self, plan: Plan) -> None:
        if not plan.way.startswith("pays slowly"):
            return
        good, ref = plan.way == "pays slowly", await self.shop.ref(self.payments[plan.number])
        if plan.gateway == "stripe":
            self.shop.control("stripe", "resolve_processing", ref=ref, outcome="succeeded" if good else "failed")
        else:
            self.shop.control("paypal", "clear_pending", order=ref, status="COMPLETED" if good else "DECLINED")

    async def sequel(self, plan: Plan) -> None:
        payment_id, minor = self.payments[plan.number], self.orders[plan.number].total.minor
        match plan.sequel:
            case "refund":
                await self.shop.refund(payment_id, reason="broken")
            case "refund and restock":
                await self.shop.refund(payment_id, restock=True)
            case "part refund":
                await self.shop.refund(payment_id, minor // 3)
            case "two part refunds":
                for key in ("one", "two", "two"):
                    await self.shop.refund(payment_id, 123, request_key=key)
            case "dashboard refund":
                await self.at_gateway(plan, "dashboard_refund", minor // 2)
            case "dispute won" | "dispute lost" | "dispute":
                opened = await self.at_gateway(plan, "open_dispute", None)
                self.disputes[plan.number] = opened["dispute"]

    async def at_gateway(self, plan: Plan, control: str, minor: int | None) -> dict[str, str]:
        ref = await self.shop.ref(self.payments[plan.number])
        if plan.gateway == "stripe":
            amount = {} if minor is None else {"amount": minor}
            return self.shop.control("stripe", control, ref=ref, **amount)
        more = {"stage": "CHARGEBACK"} if minor is None else {"amount": f"{minor // 100}.{minor % 100:02}"}
        return self.shop.control("paypal", control, order=ref, **more)

    def dispute_ends(self, plan: Plan) -> None:
        if plan.sequel in ("dispute won", "dispute lost"):
            outcome = plan.sequel.removeprefix("dispute ")
            self.shop.control(plan.gateway, "close_dispute", dispute=self.disputes[plan.number], outcome=outcome)


async def insist(action: Callable[[], Awaitable[T]]) -> T:
    """What everybody does who is told that it did not work just now."""
    for _ in range(PATIENCE):
        try:
            return await action()
        except (GatewayUnavailable, PaymentInProgress):
            continue
    raise AssertionError("it did not work however often it was tried")


async def in_groups(work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Some buyers at a time, as in a shop."""
    for begin in range(0, len(work), AT_ONCE):
        await asyncio.gather(*(one() for one in work[begin : begin + AT_ONCE]))


# ── What travels, and how it ends ──────────


async def deliver(shop: Shop) -> None:
    """Everything that the gateways have to say, as their dials want it.

    What the shop could not check is sent again, as by any gateway that is answered 503; at last it is given up.
    """
    waiting = shop.transport.inner.pending_webhooks()
    for _ in range(PATIENCE):
        waiting = [webhook for webhook in waiting if not await taken(shop, webhook)]
        if not waiting:
            return
        shop.clock.pass_seconds(RESEND_SECONDS)


async def taken(shop: Shop, webhook: HttpRequest) -> bool:
    """Whether the shop took it."""
    try:
        await shop.receive(webhook)
    except WebhookUnverifiable:
        return False
    return True


async def say_nothing(shop: Shop) -> None:
    """No webhook ever reaches the shop."""
    shop.webhooks()


@dataclass(frozen=True)
class Trouble:
    """What differs between the runs."""

    rules: tuple[Rule, ...] = ()
    tell: Callable[[Shop], Awaitable[None]] = deliver


CALM = Trouble()
TROUBLES = {
    "without webhooks": Trouble(tell=say_nothing),
    "webhooks tripled and reversed": Trouble(
        (Rule(Fault.WEBHOOK_DUPLICATE, copies=3), Rule(Fault.WEBHOOK_REORDER, seconds=0))
    ),
    "every second answer lost": Trouble(
        (
            Rule(Fault.LOSE_ANSWER, every=2, gateway="stripe"),
            Rule(Fault.LOSE_ANSWER, every=2, gateway="paypal", path="/v2/"),
            Rule(Fault.LOSE_ANSWER, every=2, gateway="paypal", path="/v1/oauth2/"),
            # A certificate and its root are asked for one after the other; strictly every second would always be the
            # same one.
            Rule(Fault.LOSE_ANSWER, probability=0.5, gateway="paypal", path="/v1/notifications/"),
        )
    ),
}


@dataclass(frozen=True)
class End:
    """How it ended, without any id."""

    orders: dict[int, dict[str, Any]]
    stock: dict[str, tuple[int, int]]
    accounts: dict[str, int]
    books: dict[str, int]


async def play(url: str, trouble: Trouble) -> End:
    """One run on an empty database, with what must be true of it for itself."""
    db = await paidonce.db.connect(url)
    try:
        shop = open_shop(db, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
        await db.transaction(stock_up, shop.store, shop.clock.now())
        run = Run(shop, trouble.tell)
        for rule in trouble.rules:
            run.dials.add(rule)
        await run.play()
        await assert_trouble_was_real(run, trouble)
        await assert_nothing_is_left_open(shop)
        await shop.assert_journal_equals_gateways()
        await shop.assert_books_balance()
        return await the_end(run)
    finally:
        await db.close()


async def stock_up(tx: Transaction, store: SqlStore, now: int) -> None:
    for position, (sku, cents) in enumerate(PRICES.items()):
        await store.add_product(
            tx,
            sku=sku,
            name=sku.title(),
            description="",
            image="",
            price=Money(cents, "EUR"),
            on_hand=ON_HAND,
            position=position,
            now=now,
        )


async def assert_trouble_was_real(run: Run, trouble: Trouble) -> None:
    orders = len(run.orders)
    for rule in trouble.rules:
        assert run.dials.struck[rule.fault] > orders // 2
    told = await run.shop.count("inbox")
    assert told > orders // 2 if trouble.tell is deliver else told == 0


async def assert_nothing_is_left_open(shop: Shop) -> None:
    assert await shop.rows("SELECT * FROM inbox WHERE state IN ('recorded', 'parked')") == []
    assert await shop.rows("SELECT * FROM operations WHERE state = 'recorded'") == []
    assert await shop.rows("SELECT * FROM refunds WHERE state NOT IN ('succeeded')") == []
    assert await shop.rows("SELECT * FROM holds") == []
    assert await shop.rows("SELECT * FROM history WHERE event LIKE 'alarm.%'") == []
    assert [event for event in await shop.events() if event.startswith("alarm.")] == []


async def the_end(run: Run) -> End:
    shop = run.shop
    accounts = await shop.rows("SELECT account, sum(amount_minor) AS minor FROM journal_postings GROUP BY account")
    books: Counter[str] = Counter()
    for name, twin in shop.twins.items():
        for entry in twin.books():
            books[f"{name} {entry.kind}"] += entry.minor
    return End(
        orders={plan.number: await order_end(shop, plan, run.orders[plan.number]) for plan in plans()},
        stock={sku: await shop.stock(sku) for sku in PRICES},
        accounts={row["account"]: int(row["minor"]) for row in accounts},
        books=dict(books),
    )


async def order_end(shop: Shop, plan: Plan, order: OrderView) -> dict[str, Any]:
    async def about(sql: str) -> list[tuple[object, ...]]:
        return sorted(tuple(row.values()) for row in await shop.rows(sql, id=order.id))

    return {
        "plan": (plan.gateway, plan.way, plan.sequel),
        "status": await shop.order_status(order.id),
        "refund_status": await shop.refund_status(order.id),
        "payments": await about("SELECT gateway, status, captured_minor FROM payments WHERE order_id = :id"),
        "refunds": await about("SELECT amount_minor, state, origin FROM refunds WHERE order_id = :id"),
        "disputes": await about("SELECT amount_minor, state FROM disputes WHERE order_id = :id"),
        "moved": await about("SELECT sku, kind, quantity FROM stock_movements WHERE order_id = :id"),
        "balances": await shop.balances(order.id),
        "told": (await about("SELECT type FROM outbox WHERE order_id = :id AND type = 'order.paid'")),
    }


# ── The test ──────────

_REFUND_STATUS = {
    "refund": "full",
    "refund and restock": "full",
    "part refund": "partial",
    "two part refunds": "partial",
    "dashboard refund": "partial",
}


def expected_status(plan: Plan) -> str:
    """By what the buyer did, and by nothing else."""
    if plan.way in (*PAYING, "pays slowly") or (plan.way, plan.gateway) == ("pays, then cancels", "stripe"):
        return "paid"
    return "canceled" if plan.way in ("cancels", "pays, then cancels") else "expired"


async def test_the_same_orders_end_in_the_same_states(new_database: Callable[[], str]) -> None:
    """With webhooks off, tripled and reversed, and with every second answer lost; and the books agree to the cent."""
    calm = await play(new_database(), CALM)
    for plan in plans():
        end = calm.orders[plan.number]
        assert end["status"] == expected_status(plan), end
        assert end["refund_status"] == _REFUND_STATUS.get(plan.sequel, "none"), end
        assert len(end["told"]) == (end["status"] == "paid"), end
    assert len(calm.orders) == len(GATEWAYS) * (len(PAYING) * len(SEQUELS) + len(WAYS) - len(PAYING))
    for name, trouble in TROUBLES.items():
        end_of_run = await play(new_database(), trouble)
        for number, told in calm.orders.items():
            assert end_of_run.orders[number] == told, name
        assert end_of_run == calm, name
