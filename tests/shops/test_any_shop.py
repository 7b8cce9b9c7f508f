"""The same flows on every shop, over HTTP: the built-in one, and shops whose orders and stock are their own."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from paidonce.gateways.base import Provider
from shops.adapter import BUYERS, PLENTY, RARE, SCARCE
from shops.conftest import Buyer, Till
from shops.twins import PAYABLE

CROWD = 50


async def paying_buyer(till: Till) -> tuple[Buyer, str, int]:
    """A buyer with an order of one piece, and the stock before it."""
    buyer = await till.buyer()
    before = await till.shop.on_hand(PLENTY.sku)
    return buyer, await buyer.order(PLENTY.sku), before


async def test_paying(till: Till, provider: Provider) -> None:
    buyer, order, before = await paying_buyer(till)
    await till.assert_unpaid(order)
    payment = await buyer.pay(order, provider)
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    again = await buyer.complete(payment)
    assert (again.status, again.json["order_status"]) == (200, "paid")
    assert (await buyer.start(order, provider.name)).is_problem(409, "already_paid")
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    assert await till.shop.on_hand(PLENTY.sku) == before - 1


async def test_the_pay_page_holds_every_element_and_lets_its_scripts_in(till: Till) -> None:
    buyer, order, _ = await paying_buyer(till)
    answer = await buyer.browser.page(till.shop.pay_page(order))
    assert answer.status == 200, answer.text
    modules = re.findall(r'<script type="module" src="([^"]+)"', answer.text)
    policy = answer.headers["Content-Security-Policy"]
    assert "'unsafe-inline'" not in policy
    text = answer.text
    if re.search(rf'<payment-methods [^>]*order="{re.escape(order)}"', text):
        # This page asks the API for its elements.
        ways = (await buyer.browser.get(f"{till.shop.api}/orders/{order}/payment-methods")).json["methods"]
        modules += [way["module"] for way in ways]
        text += "".join(f'<{way["element"]} order="{way["attributes"]["order"]}">' for way in ways)
    for provider in PAYABLE:
        assert re.search(rf'<{provider.name}-payment [^>]*order="{re.escape(order)}"', text)
        module = next(one for one in modules if f"/{provider.name}/" in one)
        served = await buyer.browser.get(module)
        assert served.status == 200
        assert "javascript" in served.headers["Content-Type"]
    # Only with a secret key can money be moved, and none of them belongs into a page.
    assert "sk_test" not in answer.text
    await till.assert_unpaid(order)


async def test_a_tab_that_completes_in_parallel_captures_once(till: Till, provider: Provider) -> None:
    buyer, order, before = await paying_buyer(till)
    started = (await buyer.start(order, provider.name)).json
    await buyer.agree(provider, started)
    answers = await asyncio.gather(*(buyer.complete(started["id"]) for _ in range(8)))
    assert {answer.status for answer in answers} <= {200, 202}
    assert (await buyer.finish(started["id"])).json["order_status"] == "paid"
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    assert await till.shop.on_hand(PLENTY.sku) == before - 1


async def test_a_double_click_is_one_payment(till: Till, provider: Provider) -> None:
    buyer, order, before = await paying_buyer(till)
    clicks = await asyncio.gather(*(buyer.start(order, provider.name) for _ in range(2)))
    opened = [click for click in clicks if click.status in {200, 201}]
    assert len(opened) == 2, [click.text for click in clicks]
    assert len({click.json["id"] for click in opened}) == 1
    assert len(await till.rows("SELECT id FROM payments WHERE order_id = :id", id=order)) == 1
    await buyer.agree(provider, opened[0].json)
    await asyncio.gather(*(buyer.complete(opened[0].json["id"]) for _ in range(2)))
    assert (await buyer.finish(opened[0].json["id"])).json["order_status"] == "paid"
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    assert await till.shop.on_hand(PLENTY.sku) == before - 1


async def test_fifty_buyers_want_ten_lamps(till: Till) -> None:
    buyers = await asyncio.gather(*(till.buyer(number) for number in range(CROWD)))
    orders = [await buyer.order(SCARCE.sku) for buyer in buyers]
    paid_before = await till.shop.paid_orders()

    async def buy(buyer: Buyer, order: str, provider: Provider) -> tuple[str, int]:
        started = await buyer.start(order, provider.name)
        if started.status != 201:
            assert started.is_problem(409, "sold_out")
            return order, 409
        await buyer.agree(provider, started.json)
        done = await buyer.finish(started.json["id"])
        assert done.json["order_status"] == "paid", done.text
        return order, 200

    crowd = [
        buy(buyer, order, PAYABLE[number % len(PAYABLE)])
        for number, (buyer, order) in enumerate(zip(buyers, orders, strict=True))
    ]
    ended = dict(await asyncio.gather(*crowd))
    paid = {order for order, status in ended.items() if status == 200}
    assert len(paid) == SCARCE.on_hand
    assert await till.shop.paid_orders() - paid_before == paid
    assert await till.shop.on_hand(SCARCE.sku) == 0
    for order in paid:
        await till.assert_paid_once(order, price=SCARCE.price_minor)
    # The others were told before paying: not even an attempt was made at a gateway, and nobody heard of an order.
    for table in ("payments", "journal_entries", "history", "outbox"):
        written = await till.rows(f"SELECT order_id FROM {table}")  # noqa: S608
        assert {row["order_id"] for row in written} & set(orders) <= paid
    assert sum([await till.shop.own_rows(order) for order in sorted(set(orders) - paid)[:3]]) == 0


async def test_declined_then_paid(till: Till, provider: Provider) -> None:
    buyer, order, before = await paying_buyer(till)
    started = (await buyer.start(order, provider.name)).json
    await buyer.agree(provider, started, decline=True)
    declined = await buyer.finish(started["id"])
    assert declined.status == 200
    assert declined.json["order_status"] != "paid"
    assert "not been charged" in declined.json["message"]
    await till.assert_unpaid(order)
    assert await till.taken(order) == 0
    assert await till.shop.on_hand(PLENTY.sku) == before

    again = (await buyer.start(order, provider.name)).json
    assert not declined.json["recoverable"] or again["id"] == started["id"]
    await buyer.agree(provider, again)
    assert (await buyer.finish(again["id"])).json["order_status"] == "paid"
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    assert await till.shop.on_hand(PLENTY.sku) == before - 1


async def test_refunded_in_parts(till: Till, provider: Provider) -> None:
    buyer, order, before = await paying_buyer(till)
    payment = await buyer.pay(order, provider)
    assert (await buyer.post(f"/payments/{payment}/refunds")).is_problem(403, "forbidden")
    staff = await till.staff()
    first = {"amount": 300, "reason": "a dent"}
    key = f"key-{payment}"
    clicks = [await staff.post(f"/payments/{payment}/refunds", first, **{"Idempotency-Key": key}) for _ in range(2)]
    assert [click.status for click in clicks] == [201, 200]
    assert len({click.json["id"] for click in clicks}) == 1
    assert await till.taken(order) == PLENTY.price_minor - 300
    assert (await staff.post(f"/payments/{payment}/refunds", {"amount": PLENTY.price_minor})).status == 409

    rest = await staff.post(f"/payments/{payment}/refunds", {"restock": True})
    assert rest.status == 201
    assert await till.taken(order) == 0
    assert (await staff.post(f"/payments/{payment}/refunds")).status == 409
    # What was given back stays a paid order, and its goods came back once.
    assert await till.shop.order_status(order) == "paid"
    assert await till.captures(order) == 1
    assert await till.shop.on_hand(PLENTY.sku) == before


async def test_a_closed_tab_is_settled_without_webhooks(till: Till, provider: Provider) -> None:
    buyer, order, before = await paying_buyer(till)
    started = (await buyer.start(order, provider.name)).json
    await buyer.agree(provider, started)
    await till.assert_unpaid(order)
    await till.pass_seconds(180)
    await till.shop.recover()
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    await till.shop.recover()
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    assert await till.shop.on_hand(PLENTY.sku) == before - 1


async def holds_run_out(till: Till) -> None:
    """So long that holds end, and not so long that a shop's orders of today would be yesterday's."""
    for _ in range(2):
        await till.pass_seconds(25 * 60)
        await till.shop.recover()


async def cancel_order(till: Till, buyer: Buyer, order: str) -> None:
    """Cancel an order: at once, or when the payment has run out that its gateway has no way to end."""
    answer = await buyer.post(f"/orders/{order}/cancel")
    if answer.status != 200:
        assert answer.is_problem(409, "payment_in_progress")
        await holds_run_out(till)
        answer = await buyer.post(f"/orders/{order}/cancel")
    assert (answer.status, answer.json["status"]) == (200, "canceled"), answer.text


async def test_the_goods_of_who_walked_away_are_free_again(till: Till, provider: Provider) -> None:
    walker, other = await till.buyer(), await till.buyer(1)
    left, wanted = await walker.order(RARE.sku, RARE.on_hand), await other.order(RARE.sku, RARE.on_hand)
    abandoned = await walker.start(left, provider.name)
    assert abandoned.status == 201
    assert (await other.start(wanted, provider.name)).is_problem(409, "sold_out")
    await holds_run_out(till)
    started = await other.start(wanted, provider.name)
    assert started.status == 201
    await till.assert_unpaid(left)
    assert await till.taken(left) == 0
    assert await till.shop.on_hand(RARE.sku) == RARE.on_hand
    # Who cancels the order frees them at once; who only ends the attempt may still choose another way to pay.
    assert (await other.post(f"/payments/{started.json['id']}/cancel")).status == 200
    third = await till.buyer(2)
    order = await third.order(RARE.sku, RARE.on_hand)
    assert (await third.start(order, provider.name)).is_problem(409, "sold_out")
    await cancel_order(till, other, wanted)
    assert (await third.start(order, provider.name)).status == 201
    await cancel_order(till, third, order)
    assert await till.shop.order_status(order) == "canceled"
    assert await till.shop.on_hand(RARE.sku) == RARE.on_hand


async def test_a_strangers_order_does_not_exist(till: Till, provider: Provider) -> None:
    buyer, order, before = await paying_buyer(till)
    started = (await buyer.start(order, provider.name)).json
    await buyer.agree(provider, started)
    stranger, nobody = await till.buyer(BUYERS - 1), Buyer(till, await till.browser())
    for who, status, code in ((stranger, 404, "not_found"), (nobody, 401, "not_signed_in")):
        answers: list[Any] = [
            await who.start(order, provider.name),
            await who.complete(started["id"]),
            await who.post(f"/payments/{started['id']}/cancel"),
            await who.browser.get(f"{till.shop.api}/payments/{started['id']}"),
        ]
        assert [answer.is_problem(status, code) for answer in answers] == [True] * 4
    assert (await stranger.post(f"/payments/{started['id']}/refunds")).is_problem(403, "forbidden")
    await till.assert_unpaid(order)
    assert await till.shop.on_hand(PLENTY.sku) == before
    # Nothing that they tried is in the way of its owner.
    assert (await buyer.finish(started["id"])).json["order_status"] == "paid"
    await till.assert_paid_once(order, price=PLENTY.price_minor)


async def test_webhook_and_buyer_at_once(till: Till, provider: Provider) -> None:
    till.twins.webhooks()
    buyer, order, before = await paying_buyer(till)
    started = (await buyer.start(order, provider.name)).json
    await buyer.agree(provider, started)
    news = till.twins.webhooks()
    await asyncio.gather(buyer.complete(started["id"]), *(till.deliver(one) for one in news * 2))
    assert (await buyer.finish(started["id"])).json["order_status"] == "paid"
    late = till.twins.webhooks()
    assert {await till.deliver(one) for one in [*late, *news]} <= {200}
    await till.pass_seconds(600)
    await till.shop.recover()
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    assert await till.shop.on_hand(PLENTY.sku) == before - 1


@pytest.mark.parametrize("settled_by", ["buyer", "recovery"])
async def test_own_code_that_fails_in_the_settling_transaction_leaves_nothing_half_done(
    till: Till, provider: Provider, settled_by: str
) -> None:
    buyer, order, before = await paying_buyer(till)
    started = (await buyer.start(order, provider.name)).json
    await buyer.agree(provider, started)
    await till.shop.fail_next_settling()
    failed = await buyer.complete(started["id"])
    assert failed.is_problem(500, "internal_error")
    assert "OwnCodeFailed" not in failed.text
    # Neither in the shop's tables nor in ours, although the gateway may have taken the money.
    await till.assert_unpaid(order)
    assert await till.shop.on_hand(PLENTY.sku) == before
    payment = (await till.rows("SELECT * FROM payments WHERE order_id = :id", id=order))[0]
    assert payment["status"] != "captured"
    assert payment["captured_minor"] == 0

    if settled_by == "buyer":
        assert (await buyer.complete(started["id"])).status in {200, 202}
    await till.pass_seconds(600)
    await till.shop.recover()
    await till.assert_paid_once(order, price=PLENTY.price_minor)
    assert await till.shop.on_hand(PLENTY.sku) == before - 1
