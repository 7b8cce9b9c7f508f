"""Random buyers, lost answers and killed tasks over one shop: the first sieve for interleavings.

A seed steers what happens; the timing of threads and connections is real, so it does not repeat it exactly. After the
storm every buyer comes back once, and nothing may be left unbooked, paid twice, or without a way out.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import pytest

from paidonce import checkout
from paidonce.core import Actor
from paidonce.errors import OutcomeUnknown, Problem, SoldOut, TooManyAttempts
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.store import OrderView
from support.books import captures_at_gateways
from support.shop import Shop

BASKETS = ((("lamp", 1),), (("lamp", 1), ("mug", 2)), (("mug", 3), ("lamp", 2)), (("lamp", 3), ("pen", 1)))
CARDS = ("pm_card_visa", "pm_card_visa", "pm_card_visa_chargeDeclined")
FUNDINGS = ("balance", "balance", "declined", "pending")
STEPS = ("start",) * 3 + ("complete",) * 5 + ("agree",) * 4 + ("cancel", "cancel_order", "wait")


class Storm:
    """Buyers who act at random while every eighth message is lost on either way."""

    def __init__(self, shop: Shop, seed: int) -> None:
        self.shop = shop
        self.random = random.Random(seed)
        self.lossy = True
        self.orders: list[tuple[OrderView, Actor]] = []
        self.started: dict[str, list[checkout.Started]] = defaultdict(list)
        send = shop.transport.send

        async def lossy_send(request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
            await asyncio.sleep(self.random.random() * 0.002)
            self._maybe_lose("the request was lost")
            response = await send(request, deadline_seconds=deadline_seconds)
            self._maybe_lose("the answer was lost")
            return response

        shop.transport.send = lossy_send  # type: ignore[method-assign]

    def _maybe_lose(self, what: str) -> None:
        if self.lossy and self.random.random() < 0.12:
            raise OutcomeUnknown(what)

    async def fill_baskets(self) -> None:
        for number in range(8):
            actor = Actor(f"usr_{number % 4}")
            self.orders.append((await self.shop.order(*self.random.choice(BASKETS), actor=actor), actor))
        # The storm lasts for days, and what is tested here is not that unpaid orders end.
        await self.shop.write("UPDATE orders SET expires_at = expires_at * 2")

    async def act(self) -> None:
        """One step of one buyer; what the shop answers in its own words is fine, anything else is a bug."""
        order, actor = self.random.choice(self.orders)
        step = self.random.choice(STEPS)
        try:
            await self._step(step, order, actor)
        except Problem:
            return

    async def _step(self, step: str, order: OrderView, actor: Actor) -> None:
        shop = self.shop
        if step == "start":
            gateway = self.random.choice(("stripe", "paypal"))
            self.started[order.id].append(await shop.start(order.id, gateway, actor))
        elif step == "wait":
            shop.clock.pass_seconds(self.random.choice((1, 30, 61, 600, 1300)))
        elif step == "cancel_order" and self.random.random() < 0.3:
            await checkout.cancel_order(shop.core, order.id, actor)
        elif self.started[order.id]:
            await self._go_on(step, self.random.choice(self.started[order.id]), actor)

    async def _go_on(self, step: str, started: checkout.Started, actor: Actor) -> None:
        shop = self.shop
        if step == "complete":
            await shop.complete(started.payment.id, actor)
        elif step == "cancel":
            await checkout.cancel(shop.core, started.payment.id, actor)
        elif started.payment.gateway == "stripe":
            shop.confirm(started, card=self.random.choice(CARDS))
        else:
            shop.approve(started, funding=self.random.choice(FUNDINGS))

    async def act_and_maybe_die(self) -> None:
        task = asyncio.create_task(self.act())
        if self.random.random() < 0.1:
            await asyncio.sleep(self.random.random() * 0.01)
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def calm_down(self) -> None:
        """Nothing is lost any more, time passes, and every buyer asks what became of each payment."""
        self.lossy = False
        for seconds in (61, 61, 4 * 24 * 3600):
            self.shop.clock.pass_seconds(seconds)
            for order, actor in self.orders:
                for row in await self.shop.rows("SELECT id FROM payments WHERE order_id = :id", id=order.id):
                    try:
                        await self.shop.complete(row["id"], actor)
                    except Problem:
                        continue


@pytest.mark.parametrize("seed", range(6))
async def test_after_any_storm_every_order_is_paid_at_most_once_and_booked(shop: Shop, seed: int) -> None:
    storm = Storm(shop, seed)
    await storm.fill_baskets()
    for _ in range(14):
        await asyncio.gather(*(storm.act_and_maybe_die() for _ in range(10)))
    await shop.assert_books_balance()
    await storm.calm_down()
    for order, actor in storm.orders:
        await _assert_settled(shop, order)
        await _assert_way_out(shop, order, actor)
    await shop.assert_books_balance()


async def _assert_settled(shop: Shop, order: OrderView) -> None:
    moved = captures_at_gateways(shop, order.id)
    booked = await shop.rows("SELECT * FROM journal_entries WHERE order_id = :id AND kind = 'capture'", id=order.id)
    held = await shop.rows("SELECT * FROM payments WHERE order_id = :id AND status = 'held'", id=order.id)
    attempts = await shop.rows("SELECT * FROM payments WHERE order_id = :id ORDER BY created_at", id=order.id)
    told = await shop.rows("SELECT * FROM history WHERE order_id = :id ORDER BY seq", id=order.id)
    assert moved <= 1, "\n".join(str(row) for row in (*attempts, *told))
    assert len(booked) == moved, "what moved at a gateway is booked, and nothing else"
    assert held == [], "honest gateways leave nothing for an operator"
    if await shop.order_status(order.id) == "paid":
        await shop.assert_paid_once(order)


async def _assert_way_out(shop: Shop, order: OrderView, actor: Actor) -> None:
    """An order that is still open can be paid now, unless its goods or its attempts are used up."""
    if await shop.order_status(order.id) not in ("open", "pending") or captures_at_gateways(shop, order.id):
        return
    try:
        started = await shop.start(order.id, "stripe", actor)
    except (SoldOut, TooManyAttempts):
        return
    await shop.agree(started)
    assert (await shop.complete(started.payment.id, actor)).order_status == "paid"
    await shop.assert_paid_once(order)
