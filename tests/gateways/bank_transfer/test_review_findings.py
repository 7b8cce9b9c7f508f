"""Bugs that a review found, each frozen with its story in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from gateways.bank_transfer.test_flow import DAY, MUG, RECEIVED, enter, explained, notes, opened
from paidonce import checkout, explain
from paidonce.errors import OrderClosed, SoldOut, TooManyAttempts
from paidonce.ports import SECOND
from paidonce.settlement import settle
from paidonce.store import Store
from support.shop import BUYER, STRANGER, Shop

MINUTE = 60


async def hold_lasts(shop: Shop, order_id: str) -> int:
    """For how many seconds the order's goods are still held."""
    (row,) = await shop.rows("SELECT expires_at FROM holds WHERE order_id = :id", id=order_id)
    return int(row["expires_at"] - shop.clock.now()) // SECOND


# ── An order that is older than its own time ──────────


@pytest.mark.parametrize("days", [2, 10])
async def test_a_buyer_who_waited_for_days_may_still_pay_by_card(shop: Shop, days: int) -> None:
    """A card instead of a transfer awaited for more than a day closed the transfer and then met OrderClosed."""
    order, started = await opened(shop)
    for _ in range(days):
        await shop.recover(after=DAY)
    card = await shop.start(order.id, "stripe")
    assert await shop.payment_status(started.payment.id) == "canceled"
    await shop.recover(after=5 * MINUTE)
    assert await shop.order_status(order.id) == "open", "it is not closed under the hands of a buyer who pays"
    await shop.agree(card)
    assert (await shop.complete(card.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_a_crash_while_the_transfer_is_closed_leaves_the_buyer_time_to_pay(
    shop: Shop, restarted: Callable[[], Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had the process ended in such a change of mind, recovery closed the transfer and with it the order."""
    order, started = await opened(shop)
    await shop.recover(after=2 * DAY)

    async def ends(*_args: Any, **_named: Any) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr("paidonce.capturing.void", ends)
        with pytest.raises(SystemExit):
            await shop.start(order.id, "stripe")
    later = restarted()
    await later.recover(after=MINUTE)
    assert await later.payment_status(started.payment.id) == "canceled"
    card = await later.start(order.id, "stripe")
    await later.agree(card)
    await later.complete(card.payment.id)
    await later.assert_paid_once(order)


async def test_a_buyer_who_beyond_that_does_not_pay_either_holds_nothing_for_ever(shop: Shop) -> None:
    """What keeps an old order open is its hold, and beginning to pay again and again must not prolong that."""
    order, _ = await opened(shop)
    await shop.recover(after=2 * DAY)
    await shop.start(order.id, "stripe")
    for _ in range(3):
        shop.clock.pass_seconds(5 * MINUTE)
        await shop.start(order.id, "stripe")
    assert 0 < await hold_lasts(shop, order.id) <= 5 * MINUTE
    for _ in range(3):
        await shop.recover(after=5 * MINUTE)
    assert await shop.order_status(order.id) == "expired"
    assert await shop.stock() == (10, 0)
    with pytest.raises(OrderClosed):
        await shop.start(order.id, "stripe")
    assert await shop.captures_booked() == 0


async def test_too_many_attempts_cost_nobody_the_transfer_that_is_awaited(shop: Shop) -> None:
    """A card that was one attempt too many closed the transfer first, so that nothing could pay the order any more."""
    order = await shop.order()
    for _ in range(shop.core.policy.attempts_per_order - 1):
        left = await shop.start(order.id, "stripe")
        await checkout.cancel(shop.core, left.payment.id, BUYER)
    started = await shop.start(order.id, "bank_transfer")
    await shop.complete(started.payment.id)
    with pytest.raises(TooManyAttempts):
        await shop.start(order.id, "stripe")
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer"
    assert "closed" not in await notes(shop, started.client["reference"])
    assert (await shop.start(order.id, "bank_transfer")).payment.id == started.payment.id
    await enter(shop, started.payment.id, RECEIVED, amount=MUG)
    await shop.assert_paid_once(order)


# ── Goods and promises ──────────


async def test_no_promise_is_taken_once_the_goods_are_sold(shop: Shop) -> None:
    """A buyer who promised after his hold had ended heard that goods were reserved which somebody else had bought."""
    order = await shop.order(("lamp", 3))
    started = await shop.start(order.id, "bank_transfer")
    shop.clock.pass_seconds(21 * MINUTE)
    other = await shop.order(("lamp", 3), actor=STRANGER)
    card = await shop.start(other.id, "stripe", STRANGER)
    await shop.agree(card)
    assert (await shop.complete(card.payment.id, STRANGER)).order_status == "paid"
    with pytest.raises(SoldOut):
        await shop.complete(started.payment.id)
    assert await notes(shop, started.client["reference"]) == ["asked"], "no money was promised"
    assert await shop.order_status(order.id) == "open"
    await shop.recover(after=5 * MINUTE)
    assert await shop.payment_status(started.payment.id) == "canceled"
    assert await shop.stock("lamp") == (0, 0)


async def test_a_promise_after_the_hold_had_ended_holds_the_goods_anew(shop: Shop) -> None:
    """A promise that came late, but in time for the goods, keeps them for as long as one that came at once."""
    order = await shop.order(("lamp", 3))
    started = await shop.start(order.id, "bank_transfer")
    shop.clock.pass_seconds(21 * MINUTE)
    told = await shop.complete(started.payment.id)
    assert "goods are reserved" in told.message
    assert await hold_lasts(shop, order.id) > 13 * DAY
    with pytest.raises(SoldOut):
        await shop.start((await shop.order(("lamp", 1), actor=STRANGER)).id, "stripe", STRANGER)


async def test_reserved_is_said_only_while_a_hold_stands(shop: Shop) -> None:
    """In the days of grace behind the deadline, with the goods free for others, buyers read that they are reserved."""
    _, started = await opened(shop)
    assert "goods are reserved" in (await shop.complete(started.payment.id)).message
    for _ in range(15):
        await shop.recover(after=DAY)
    told = await shop.complete(started.payment.id)
    assert told.payment.status == "awaiting_buyer"
    assert "reserved" not in told.message
    assert await shop.stock() == (10, 0)


async def test_reading_an_awaited_payment_does_not_shorten_a_longer_hold(shop: Shop) -> None:
    """Minutes before the fortnight was over a look at the transfer took the goods from a buyer who was at PayPal's."""
    order, started = await opened(shop)
    for _ in range(13):
        await shop.recover(after=DAY)
    shop.clock.pass_seconds(DAY - 10 * MINUTE)
    await shop.start(order.id, "paypal")
    before = await hold_lasts(shop, order.id)
    await shop.complete(started.payment.id)
    assert before - 5 <= await hold_lasts(shop, order.id) <= before
    assert before > 15 * MINUTE


# ── What nobody may forget ──────────


async def alarms(shop: Shop, name: str) -> int:
    return (await shop.events()).count(f"alarm.{name}")


@pytest.mark.parametrize("ends", ["by time", "by the buyer", "paid"])
async def test_a_surplus_is_told_every_day_until_it_is_returned(shop: Shop, ends: str) -> None:
    """A buyer's money that was too much or came too late was told once, and then no alarm and no advice named it."""
    order, started = await opened(shop)
    amount = MUG + 700 if ends == "paid" else 700
    await enter(shop, started.payment.id, RECEIVED, amount=amount)
    if ends == "by the buyer":
        await checkout.cancel(shop.core, started.payment.id, BUYER)
    for _ in range(20):
        await shop.recover(after=DAY)
    before = await alarms(shop, "surplus")
    for _ in range(10):
        await shop.recover(after=DAY)
    assert 9 <= await alarms(shop, "surplus") - before <= 10, "once a day, and not at every look"
    assert await explained(shop, order) == "send_surplus_back"

    await enter(shop, started.payment.id, "surplus_sent_back", amount=300)
    assert await explained(shop, order) == "send_surplus_back"
    await enter(shop, started.payment.id, "surplus_sent_back", amount=400)
    assert await explained(shop, order) is None
    before = await alarms(shop, "surplus")
    for _ in range(5):
        await shop.recover(after=DAY)
    assert await alarms(shop, "surplus") == before
    assert await shop.refund_states(started.payment.id) == []
    captured = [{"id": started.payment.id}] if ends == "paid" else []
    assert await shop.rows("SELECT id FROM payments WHERE status = 'captured'") == captured


async def test_a_reading_from_before_the_surplus_keeps_nobody_from_being_reminded(shop: Shop) -> None:
    """A slow look that had read the transfer before staff entered more must not end the reminders of it."""
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=MUG, remark="1")
    gateway: Any = shop.core.gateways["bank_transfer"]
    old = await gateway.fetch(started.client["reference"], details=True)
    asked_at = shop.clock.now()
    await enter(shop, started.payment.id, RECEIVED, amount=700, remark="2")
    await settle(shop.core, old, trigger="recovery", asked_at=asked_at)
    await shop.recover(after=5 * MINUTE)
    assert await explained(shop, order) == "send_surplus_back"
    before = await alarms(shop, "surplus")
    await shop.recover(after=DAY + 3600)
    assert await alarms(shop, "surplus") == before + 1


async def test_a_refund_that_only_staff_can_send_is_told_every_day_after_the_third(shop: Shop) -> None:
    """A refund to be sent by hand was told when it was written down, and then waited for ever without a word."""
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=MUG)
    refund = (await shop.refund(started.payment.id, 500)).refund
    for _ in range(2):
        await shop.recover(after=DAY)
    assert await alarms(shop, "refund_by_hand") == 0
    for _ in range(8):
        await shop.recover(after=DAY)
    assert 7 <= await alarms(shop, "refund_by_hand") <= 8, "once a day from the third on"
    await enter(shop, started.payment.id, "refund_sent", refund=refund.id)
    before = await alarms(shop, "refund_by_hand")
    for _ in range(5):
        await shop.recover(after=DAY)
    assert await alarms(shop, "refund_by_hand") == before
    assert await shop.refund_states(started.payment.id) == [(500, "succeeded")]
    assert await shop.balances(order.id) == {"gateway:bank_transfer": MUG - 500, "sales": 500 - MUG}


# ── What is said ──────────


async def test_nobody_whose_money_is_there_reads_that_nothing_was_charged(shop: Shop) -> None:
    """A buyer who had sent a part was told that nothing was charged, while he waited and after he had turned back."""
    _, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=700)
    waiting = await shop.complete(started.payment.id)
    turned_back = await checkout.cancel(shop.core, started.payment.id, BUYER)
    asked_again = await shop.complete(started.payment.id)
    for told in (waiting, turned_back, asked_again):
        assert "charged" not in told.message
        assert "back to you" in told.message or "get it back" in told.message
    assert turned_back.payment.status == "canceled"
    _, without_money = await opened(shop)
    told = await checkout.cancel(shop.core, without_money.payment.id, BUYER)
    assert told.message == "The payment was canceled. You have not been charged."


async def test_a_store_from_before_orders_had_names_is_searched_by_their_ids(shop: Shop) -> None:
    """Staff who searched in a shop whose `Store` was written for an earlier version met an AttributeError."""

    class Before:
        """The port as it was: everything but `named`."""

        def __init__(self, store: Store) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            if name == "named":
                raise AttributeError(name)
            return getattr(self._store, name)

    order, started = await opened(shop)
    core = replace(shop.core, store=cast(Store, Before(shop.store)))
    for text in (order.id, started.payment.id, started.client["reference"]):
        assert await core.db.read(explain.find_order, core.store, text) == order.id
    assert await core.db.read(explain.find_order, core.store, "PO-UNKNOWN") is None
