"""Time as a trigger: with webhooks off and every buyer gone, each started payment still ends, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from paidonce import checkout, leases, recovery
from paidonce.core import Actor
from paidonce.errors import GatewayUnavailable, OrderClosed
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.ports import Transaction
from support.books import captures_at_gateways
from support.shop import BUYER, Shop

GATEWAYS = ["stripe", "paypal"]
CREATE = {"stripe": "/v1/payment_intents", "paypal": "/v2/checkout/orders"}


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_what_a_buyer_approved_before_closing_the_tab_is_taken_without_webhooks(shop: Shop, gateway: str) -> None:
    """FAULTS: webhooks that never come."""
    order = await shop.order()
    await shop.agree(await shop.start(order.id, gateway))
    await shop.recover()
    assert await shop.order_status(order.id) == "open", "not due yet: a buyer who is back by then costs no look"
    await shop.recover(after=90)
    await shop.assert_paid_once(order)
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_create_of_unknown_outcome_is_found_out_with_its_own_key(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    shop.transport.lose_answers("POST", CREATE[gateway])
    with pytest.raises(GatewayUnavailable):
        await shop.start(order.id, gateway)
    shop.transport.heal()
    await shop.recover(after=shop.core.policy.claim_seconds + 60)
    rows = await shop.rows("SELECT status, gateway_ref FROM payments")
    assert rows[0]["status"] == "awaiting_buyer"
    assert rows[0]["gateway_ref"] is not None, "every object at the gateway is known here"
    await shop.recover(after=25 * 60)
    await shop.recover(after=25 * 60)
    assert [row["status"] for row in await shop.rows("SELECT status FROM payments")] == ["canceled"]
    assert await shop.stock() == (10, 0)


async def test_a_capture_of_unknown_outcome_is_finished_by_recovery(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)
    shop.transport.lose_answers("POST", "/capture")
    assert (await shop.complete(started.payment.id)).unknown
    shop.transport.heal()
    await shop.recover(after=120)
    await shop.assert_paid_once(order)
    keys = {one.headers["paypal-request-id"] for one in shop.transport.calls("POST", "/capture")}
    assert len(keys) == 1


async def test_a_capture_that_stays_unknown_alarms_the_operator_with_the_next_safe_step(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)
    shop.transport.lose_answers("POST", "/capture")
    await shop.complete(started.payment.id)
    shop.transport.lose_answers("GET", CREATE["paypal"])
    for _ in range(12):
        await shop.recover(after=1200)
    alarms = await shop.rows("SELECT payload FROM outbox WHERE type = 'alarm.payment_unknown'")
    assert len(alarms) == 1, "once a day, however often recovery looks"
    assert "recovery goes on" in alarms[0]["payload"]
    assert await shop.payment_status(started.payment.id) == "processing"
    assert await shop.order_status(order.id) == "pending"
    shop.transport.heal()
    await shop.recover(after=24 * 3600)
    await shop.assert_paid_once(order)


async def test_voids_that_settling_wrote_down_are_carried_out(shop: Shop) -> None:
    """A card payment is left open beside a PayPal capture that came through another way: recovery ends it."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    shop.transport.lose_requests("POST", "/cancel")
    await checkout.cancel(shop.core, card.payment.id, BUYER)
    assert await shop.payment_status(card.payment.id) == "awaiting_buyer"
    shop.transport.heal()
    await shop.recover(after=60)
    assert await shop.payment_status(card.payment.id) == "canceled"
    assert shop.confirm(card).status == 400, "the card can't be charged any more"


# ── Expiry ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_an_abandoned_payment_and_its_hold_end_and_then_its_order(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    assert await shop.stock() == (10, 1)
    for _ in range(10):
        await shop.recover(after=180)
    await shop.recover()
    assert await shop.payment_status(started.payment.id) == "canceled"
    assert await shop.stock() == (10, 0)
    assert await shop.order_status(order.id) == "open", "the goods are free, the order can still be paid"
    await shop.recover(after=24 * 3600)
    assert await shop.order_status(order.id) == "expired"
    with pytest.raises(OrderClosed):
        await shop.start(order.id, gateway)
    if gateway == "stripe":
        assert shop.confirm(started).status == 400
    assert captures_at_gateways(shop, order.id) == 0


async def test_an_order_that_nobody_started_to_pay_expires(shop: Shop) -> None:
    order = await shop.order()
    await shop.recover(after=23 * 3600)
    assert await shop.order_status(order.id) == "open"
    await shop.recover(after=2 * 3600)
    assert await shop.order_status(order.id) == "expired"
    assert shop.transport.sent == []


async def test_a_hold_is_prolonged_while_the_buyer_is_in_3d_secure(shop: Shop) -> None:
    """FAULTS: the hold ends while the buyer is in 3-D Secure."""
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    assert shop.confirm(started, card="pm_card_authenticationRequired").status == 200
    for _ in range(20):
        await shop.recover(after=120)
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer"
    assert await shop.stock() == (10, 1), "40 minutes later the goods are still held"


async def test_an_abandoned_3d_secure_page_does_not_keep_the_goods_for_ever(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    shop.confirm(started, card="pm_card_authenticationRequired")
    for _ in range(80):
        await shop.recover(after=120)
    assert await shop.payment_status(started.payment.id) == "canceled"
    assert await shop.stock() == (10, 0)
    assert await shop.order_status(order.id) == "open"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_paid_order_is_never_ended_by_a_timer(shop: Shop, gateway: str) -> None:
    order, _ = await shop.paid(gateway)
    for days in (1, 30, 400):
        await shop.recover(after=days * 24 * 3600)
    await shop.assert_paid_once(order)


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_gateway_that_is_down_for_hours_ends_nothing_by_mistake(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    await shop.agree(await shop.start(order.id, gateway))
    shop.transport.lose_requests("GET", CREATE[gateway])
    shop.transport.lose_requests("POST", CREATE[gateway])
    # Not longer than PayPal keeps an approval (three hours).
    for _ in range(12):
        await shop.recover(after=600)
    looks = len(shop.transport.sent)
    assert looks < 300, "it backs off"
    shop.transport.heal()
    for _ in range(5):
        await shop.recover(after=600)
    await shop.assert_paid_once(order)


# ── Claims ──────────


async def test_two_workers_share_the_work_and_never_do_it_twice(shop: Shop, restarted: Callable[[], Shop]) -> None:
    orders = [await shop.order(("pen", 1), actor=Actor(f"usr_{number}")) for number in range(12)]
    for number, order in enumerate(orders):
        gateway = GATEWAYS[number % 2]
        await shop.agree(await shop.start(order.id, gateway, Actor(f"usr_{number}")))
    other = restarted()
    shop.clock.pass_seconds(90)
    shop.transport.sent.clear()
    await asyncio.gather(recovery.drain(shop.core), recovery.drain(other.core), recovery.drain(shop.core))
    for order in orders:
        await shop.assert_paid_once(order)
    reads = [one.url for one in (*shop.transport.sent, *other.transport.sent) if one.method == "GET"]
    assert len([url for url in reads if "payment_intents/" in url or "orders/" in url]) == 12
    await shop.assert_journal_equals_gateways()


async def test_a_lost_lease_can_not_reschedule(shop: Shop) -> None:
    """A worker that froze beyond its lease finds its token taken over, and changes nothing."""
    order = await shop.order()
    await shop.start(order.id, "stripe")

    async def take(tx: Transaction, token: str) -> list[leases.Lease]:
        return await leases.claim(tx, "payments", token=token, now=shop.clock.now(), seconds=300, limit=10)

    async def give(tx: Transaction, lease: leases.Lease, due_at: int) -> bool:
        return await leases.give_back(tx, lease, due_at=due_at)

    shop.clock.pass_seconds(90)
    frozen = await shop.core.db.transaction(take, "frozen")
    assert await shop.core.db.transaction(take, "early") == [], "a running lease is nobody else's"
    shop.clock.pass_seconds(301)
    alive = await shop.core.db.transaction(take, "alive")
    assert [lease.id for lease in alive] == [lease.id for lease in frozen]
    assert await shop.core.db.transaction(give, frozen[0], 1) is False
    assert await shop.core.db.transaction(give, alive[0], 7) is True
    assert [row["due_at"] for row in await shop.rows("SELECT due_at FROM payments")] == [7]


async def test_keys_of_another_account_are_an_alarm_and_fail_nothing(shop: Shop) -> None:
    """FAULTS: keys changed to another account: a 404 for a known object is an alarm, not a failure."""
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    shop.confirm(started)

    def unknown(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        body = b'{"error": {"code": "resource_missing", "type": "invalid_request_error", "message": "No such object"}}'
        return HttpResponse(404, {"content-type": "application/json"}, body)

    shop.transport.faults.append(("GET", "/v1/payment_intents/", unknown))
    for _ in range(5):
        await shop.recover(after=300)
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer"
    assert "alarm.gateway" in await shop.events()
    shop.transport.heal()
    await shop.recover(after=600)
    await shop.assert_paid_once(order)
