"""A buyer pays an order: what becomes true together, and what a lie changes."""

from __future__ import annotations

import asyncio

import pytest

from paidonce import checkout
from paidonce.core import Actor
from paidonce.errors import AlreadyPaid, InvalidRequest, NotFound, OrderClosed, SoldOut, TooManyAttempts
from paidonce.money import Money
from support.shop import BUYER, STRANGER, Shop

GATEWAYS = ["stripe", "paypal"]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_confirmed_payment_pays_the_order_and_lowers_the_stock(shop: Shop, gateway: str) -> None:
    order = await shop.order(("mug", 2), ("pen", 1))
    started = await shop.start(order.id, gateway)
    assert await shop.stock("mug") == (10, 2), "goods are held, and on hand only falls when money has moved"
    await shop.agree(started)
    result = await shop.complete(started.payment.id)
    assert (result.payment.status, result.order_status, result.unknown) == ("captured", "paid", False)
    await shop.assert_paid_once(order)
    assert await shop.stock("mug") == (8, 0)
    assert await shop.stock("pen") == (99, 0)
    assert await shop.stock("lamp") == (3, 0), "nothing else was touched"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_browser_that_claims_success_pays_nothing(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    result = await shop.complete(started.payment.id)
    assert result.payment.status == "awaiting_buyer"
    assert not result.recoverable
    assert await shop.order_status(order.id) == "open"
    assert await shop.stock() == (10, 1)
    assert await shop.captures_booked() == 0
    assert await shop.events() == []


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_stranger_finds_neither_order_nor_payment(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    with pytest.raises(NotFound):
        await shop.start(order.id, gateway, STRANGER)
    assert await shop.count("payments") == 0
    assert shop.transport.sent == []
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    asked = len(shop.transport.sent)
    for action in (checkout.complete, checkout.cancel, checkout.get_payment):
        with pytest.raises(NotFound):
            await action(shop.core, started.payment.id, STRANGER)
    with pytest.raises(NotFound):
        await checkout.cancel_order(shop.core, order.id, STRANGER)
    assert len(shop.transport.sent) == asked, "a stranger causes no call"
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer"
    assert await shop.order_status(order.id) == "open"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_starting_again_gives_the_same_payment(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    first = await shop.start(order.id, gateway)
    second = await shop.start(order.id, gateway)
    assert first.created
    assert not second.created
    assert second.payment.id == first.payment.id
    assert second.client == first.client, "the client values were read again, not stored"
    assert await shop.stock() == (10, 1), "the goods are held once"
    stored = await shop.rows("SELECT * FROM payments")
    assert len(stored) == 1
    for secret in (first.client.get("client_secret"),):
        assert secret is None or all(secret != value for value in stored[0].values())


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_parallel_starts_make_one_object_at_the_gateway(shop: Shop, gateway: str) -> None:
    """Two tabs, one order: a second intent would be a second way to be charged."""
    order = await shop.order()
    started = await asyncio.gather(*(shop.start(order.id, gateway) for _ in range(10)))
    assert len({one.payment.id for one in started}) == 1
    assert len({tuple(sorted(one.client.items())) for one in started}) == 1
    assert sum(one.created for one in started) == 1
    assert await shop.count("payments") == 1
    keys = {request.headers.get("idempotency-key") for request in shop.transport.calls("POST", "/v1/payment_intents")}
    assert len(keys) <= 1, "one operation, one key"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_fifty_parallel_completes_settle_once(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    results = await asyncio.gather(*(shop.complete(started.payment.id) for _ in range(50)))
    assert any(result.payment.status == "captured" for result in results)
    assert {str(result.payment.status) for result in results} <= {"captured", "processing"}
    await shop.assert_paid_once(order)
    assert await shop.stock() == (9, 0)
    captures = shop.transport.calls("POST", "/capture")
    assert len(captures) == (1 if gateway == "paypal" else 0)


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_fifty_buyers_for_ten_items(shop: Shop, gateway: str) -> None:
    """The last item is sold once, and whoever comes too late hears it before a gateway is asked."""
    buyers = [Actor(f"usr_{number}") for number in range(50)]

    async def buy(buyer: Actor) -> str:
        order = await shop.order(("mug", 1), actor=buyer)
        try:
            started = await shop.start(order.id, gateway, buyer)
        except SoldOut:
            return "sold out"
        await shop.agree(started)
        result = await shop.complete(started.payment.id, buyer)
        return str(result.order_status)

    outcomes = await asyncio.gather(*(buy(buyer) for buyer in buyers))
    assert sorted(outcomes) == ["paid"] * 10 + ["sold out"] * 40
    assert await shop.stock() == (0, 0)
    assert await shop.count("payments") == 10, "nobody else got as far as a payment"
    assert await shop.captures_booked() == 10


async def test_a_declined_card_is_tried_again_on_the_same_payment(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    assert shop.confirm(started, card="pm_card_visa_chargeDeclinedInsufficientFunds").status == 402
    declined = await shop.complete(started.payment.id)
    assert (declined.payment.status, declined.recoverable) == ("awaiting_buyer", True)
    assert "not been charged" in declined.message
    assert await shop.order_status(order.id) == "open"
    assert await shop.captures_booked() == 0
    again = await shop.start(order.id, "stripe")
    assert again.payment.id == started.payment.id
    shop.confirm(again)
    assert (await shop.complete(again.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_a_declined_instrument_is_replaced_on_the_same_order(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started, funding="declined")
    declined = await shop.complete(started.payment.id)
    assert (declined.payment.status, declined.recoverable) == ("awaiting_buyer", True)
    assert await shop.order_status(order.id) == "open"
    repeated = await shop.complete(started.payment.id)
    assert repeated == declined, "a browser that lost the answer asks again and hears the same"
    assert len(shop.transport.calls("POST", "/capture")) == 1, "hearing it again costs no second try"
    again = await shop.start(order.id, "paypal")
    assert again.client["order_id"] == started.client["order_id"]
    shop.approve(again)
    assert (await shop.complete(again.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)
    keys = {request.headers["paypal-request-id"] for request in shop.transport.calls("POST", "/capture")}
    assert len(keys) == 2, "each capture round has a key of its own, or the stored refusal would be replayed"


async def test_three_declined_instruments_end_the_payment_not_the_order(shop: Shop) -> None:
    order = await shop.order()
    for _ in range(3):
        first = await shop.start(order.id, "paypal")
        shop.approve(first, funding="declined")
        result = await shop.complete(first.payment.id)
    assert result.payment.status == "failed"
    assert not result.recoverable
    second = await shop.start(order.id, "stripe")
    shop.confirm(second)
    assert (await shop.complete(second.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_paid_order_refuses_every_new_payment(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    await shop.complete(started.payment.id)
    asked = len(shop.transport.sent)
    for other in GATEWAYS:
        with pytest.raises(AlreadyPaid):
            await shop.start(order.id, other)
    with pytest.raises(AlreadyPaid):
        await checkout.cancel_order(shop.core, order.id, BUYER)
    assert (await checkout.cancel(shop.core, started.payment.id, BUYER)).payment.status == "captured"
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    assert len(shop.transport.sent) == asked, "what is known costs no call"
    await shop.assert_paid_once(order)


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_canceled_order_frees_its_goods_and_takes_no_payment(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    assert await checkout.cancel_order(shop.core, order.id, BUYER) == "canceled"
    assert await shop.stock() == (10, 0)
    assert await shop.payment_status(started.payment.id) == "canceled"
    with pytest.raises(OrderClosed):
        await shop.start(order.id, gateway)
    if gateway == "stripe":
        assert shop.confirm(started).status == 400, "the intent is canceled at Stripe as well"
    else:
        shop.approve(started)
    result = await shop.complete(started.payment.id)
    assert result.payment.status == "canceled"
    assert await shop.captures_booked() == 0
    assert shop.transport.calls("POST", "/capture") == []
    assert await checkout.cancel_order(shop.core, order.id, BUYER) == "canceled", "repeating it changes nothing"


async def test_sold_out_is_heard_before_a_gateway_is_asked(shop: Shop) -> None:
    first = await shop.order(("lamp", 3))
    await shop.start(first.id, "paypal")
    second = await shop.order(("lamp", 1), ("mug", 1))
    asked = len(shop.transport.sent)
    with pytest.raises(SoldOut, match="Lamp"):
        await shop.start(second.id, "stripe")
    assert len(shop.transport.sent) == asked
    assert await shop.stock("mug") == (10, 0), "nothing of the order is held if one part is missing"
    assert await shop.count("payments") == 1


async def test_a_hold_that_ran_out_is_given_to_the_next_buyer(shop: Shop) -> None:
    walked_away = await shop.order(("lamp", 3))
    await shop.start(walked_away.id, "paypal")
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    other = Actor("usr_other")
    second = await shop.order(("lamp", 2), actor=other)
    started = await shop.start(second.id, "stripe", other)
    shop.confirm(started)
    assert (await shop.complete(started.payment.id, other)).order_status == "paid"
    assert await shop.stock("lamp") == (1, 0)


async def test_whoever_comes_back_too_late_hears_sold_out_and_is_not_captured(shop: Shop) -> None:
    """The hold ended while the buyer looked at PayPal; the goods went to somebody else."""
    late = await shop.order(("lamp", 3))
    started = await shop.start(late.id, "paypal")
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    other = Actor("usr_other")
    second = await shop.order(("lamp", 3), actor=other)
    winner = await shop.start(second.id, "stripe", other)
    shop.confirm(winner)
    await shop.complete(winner.payment.id, other)
    shop.approve(started)
    with pytest.raises(SoldOut):
        await shop.complete(started.payment.id)
    assert shop.transport.calls("POST", "/capture") == []
    assert await shop.payment_status(started.payment.id) == "failed"
    assert await shop.stock("lamp") == (0, 0)


async def test_money_for_goods_that_are_gone_is_noted_for_refund_and_pays_nothing(shop: Shop) -> None:
    """Stripe takes the money in the browser, so it can arrive after the hold has ended."""
    late = await shop.order(("lamp", 3))
    started = await shop.start(late.id, "stripe")
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    other = Actor("usr_other")
    second = await shop.order(("lamp", 3), actor=other)
    winner = await shop.start(second.id, "paypal", other)
    shop.approve(winner)
    await shop.complete(winner.payment.id, other)
    shop.confirm(started)
    result = await shop.complete(started.payment.id)
    assert (result.payment.status, result.order_status) == ("captured", "open")
    assert await shop.stock("lamp") == (0, 0)
    refunds = await shop.rows("SELECT * FROM operations WHERE kind = 'refund'")
    assert [(one["payment_id"], one["state"]) for one in refunds] == [(started.payment.id, "recorded")]
    credited = await shop.rows(
        "SELECT p.account FROM journal_postings p JOIN journal_entries e ON e.id = p.entry_id"
        " WHERE e.kind = 'capture' AND p.amount_minor < 0 ORDER BY p.account"
    )
    assert [one["account"] for one in credited] == ["owed_to_buyer", "sales"]
    assert "alarm.refund_due" in await shop.events()


async def test_an_order_without_a_price_is_complete_without_a_gateway(shop: Shop) -> None:
    await shop.write("UPDATE products SET price_minor = 0 WHERE sku = 'pen'")
    order = await shop.order(("pen", 1))
    with pytest.raises(AlreadyPaid, match="Nothing is due"):
        await shop.start(order.id, "stripe")
    assert await shop.order_status(order.id) == "paid"
    assert await shop.stock("pen") == (99, 0)
    assert shop.transport.sent == []
    assert await shop.count("payments") == 0


async def test_an_amount_that_a_gateway_cannot_express_is_refused_before_anything_is_written(shop: Shop) -> None:
    """HUF has two decimals at Stripe and none at PayPal; rounding would charge another amount than agreed."""
    await shop.write("UPDATE products SET currency = 'HUF', price_minor = 123456 WHERE sku = 'pen'")
    order = await shop.order(("pen", 1))
    assert order.total == Money(123456, "HUF")
    with pytest.raises(InvalidRequest, match="PayPal"):
        await shop.start(order.id, "paypal")
    assert await shop.count("payments") == 0
    assert await shop.stock("pen") == (100, 0)
    started = await shop.start(order.id, "stripe")
    shop.confirm(started)
    assert (await shop.complete(started.payment.id)).order_status == "paid"


async def test_one_order_is_no_place_to_try_many_payments(shop: Shop) -> None:
    order = await shop.order()
    for _ in range(shop.core.policy.attempts_per_order):
        started = await shop.start(order.id, "paypal")
        await checkout.cancel(shop.core, started.payment.id, BUYER)
    asked = len(shop.transport.sent)
    with pytest.raises(TooManyAttempts):
        await shop.start(order.id, "paypal")
    assert len(shop.transport.sent) == asked


async def test_an_unknown_gateway_is_named(shop: Shop) -> None:
    order = await shop.order()
    with pytest.raises(InvalidRequest, match="paypal, stripe"):
        await shop.start(order.id, "bitcoin")
