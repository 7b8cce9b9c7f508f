"""Money that comes late, twice, or contradicts its order: it pays what it can, and goes back by itself otherwise."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest

from paidonce.core import Actor
from paidonce.errors import InvalidRequest, SoldOut
from paidonce.gateways.base import HttpRequest, HttpResponse, Progress, Snapshot
from paidonce.money import Money
from paidonce.ports import Transaction
from paidonce.settlement import settle
from paidonce.states import OrderStatus
from support.books import captures_at_gateways
from support.shop import Shop

GATEWAYS = ["stripe", "paypal"]


async def close_order(shop: Shop, order_id: str, status: OrderStatus) -> None:
    """The shop's own software ends an order beside us, as a host with tables of its own may do."""

    async def run(tx: Transaction) -> None:
        order = await shop.store.find(tx, order_id, lock=True)
        assert order is not None
        await shop.store.release(tx, order_id)
        await shop.store.mark(tx, order, status, now=shop.clock.now())

    await shop.core.db.transaction(run)


async def sell_out(shop: Shop, sku: str, on_hand: int) -> None:
    await shop.write(
        "INSERT INTO stock_movements (sku, kind, quantity, actor, created_at) VALUES (:sku, 'adjustment', :n, 't', 1)",
        sku=sku,
        n=-on_hand,
    )
    await shop.write("UPDATE stock SET on_hand = on_hand - :n WHERE sku = :sku", sku=sku, n=on_hand)


@pytest.mark.parametrize("status", [OrderStatus.CANCELED, OrderStatus.EXPIRED])
async def test_money_for_an_ended_order_takes_the_goods_again_and_pays_it(shop: Shop, status: OrderStatus) -> None:
    """FAULTS: payment for an order cancelled or expired meanwhile; never money without an order."""
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    shop.confirm(started)
    await close_order(shop, order.id, status)
    await shop.deliver()
    await shop.assert_paid_once(order)
    assert await shop.stock() == (9, 0)
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("status", [OrderStatus.CANCELED, OrderStatus.EXPIRED])
async def test_money_for_an_ended_order_whose_goods_are_gone_goes_back_by_itself(
    shop: Shop, status: OrderStatus
) -> None:
    """FAULTS: never a paid order without goods."""
    order = await shop.order(("lamp", 3))
    started = await shop.start(order.id, "stripe")
    shop.confirm(started)
    await close_order(shop, order.id, status)
    await sell_out(shop, "lamp", 3)
    await shop.deliver()
    assert await shop.order_status(order.id) == status
    assert await shop.refund_states(started.payment.id) == [(14850, "recorded")]
    await shop.recover()
    assert await shop.refund_states(started.payment.id) == [(14850, "succeeded")]
    assert "owed_to_buyer" not in await shop.balances(order.id)
    assert "alarm.refund_due" in await shop.events()
    await shop.assert_journal_equals_gateways()


async def test_an_approval_for_an_ended_order_is_not_captured(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)
    await close_order(shop, order.id, OrderStatus.CANCELED)
    await shop.deliver()
    await shop.recover(after=3600)
    assert await shop.payment_status(started.payment.id) == "canceled"
    assert shop.transport.calls("POST", "/capture") == []
    assert await shop.captures_booked() == 0


async def test_a_capture_that_ended_after_the_order_was_closed_goes_back_or_pays(shop: Shop) -> None:
    """PayPal's eCheck clears days later, when the order is canceled and its goods are sold."""
    order = await shop.order(("lamp", 3))
    started = await shop.start(order.id, "paypal")
    shop.approve(started, funding="pending")
    await shop.complete(started.payment.id)
    await close_order(shop, order.id, OrderStatus.CANCELED)
    await sell_out(shop, "lamp", 3)
    shop.control("paypal", "clear_pending", order=await shop.ref(started.payment.id), status="COMPLETED")
    await shop.deliver()
    await shop.recover(after=60)
    assert await shop.order_status(order.id) == "canceled"
    assert await shop.refund_states(started.payment.id) == [(14850, "succeeded")]
    await shop.assert_journal_equals_gateways()


async def surplus(shop: Shop) -> tuple[str, str, str]:
    """Two captures for one order, which only a gateway that lies about a cancel can bring about."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    card = await shop.start(order.id, "stripe")
    shop.confirm(card)
    await shop.complete(card.payment.id)
    await shop.write("UPDATE payments SET status = 'awaiting_buyer' WHERE id = :id", id=wallet.payment.id)
    shop.approve(wallet)
    ref = wallet.client["order_id"]
    gateway = shop.core.gateways["paypal"]
    snapshot = await gateway.capture(ref, idempotency_key="by-hand", amount=Money(1999, "EUR"))
    await settle(shop.core, snapshot, trigger="test", asked_at=shop.clock.now())
    return order.id, card.payment.id, wallet.payment.id


async def test_a_surplus_is_refunded_by_itself_is_visible_and_never_unpays_the_order(shop: Shop) -> None:
    """FAULTS: refund of the duplicate payment must not un-pay the order."""
    order_id, card, wallet = await surplus(shop)
    rows = await shop.rows("SELECT owed_to_buyer FROM payments WHERE id = :id", id=wallet)
    assert rows == [{"owed_to_buyer": 1}]
    assert "alarm.refund_due" in await shop.events()
    await shop.recover()
    assert await shop.refund_states(wallet) == [(1999, "succeeded")]
    assert await shop.refund_states(card) == []
    assert await shop.order_status(order_id) == "paid"
    assert await shop.refund_status(order_id) == "none", "the refund of the surplus is not the order's"
    assert await shop.stock() == (9, 0)
    assert (await shop.balances(order_id))["sales"] == -1999
    await shop.deliver()
    await shop.recover(after=24 * 3600)
    assert await shop.refund_states(wallet) == [(1999, "succeeded")]
    await shop.assert_journal_equals_gateways()


# ── Contradictions ──────────


def tampered(snapshot: Snapshot, what: str) -> Snapshot:
    changes: dict[str, dict[str, Any]] = {
        "amount": {"amount": Money(1, "EUR"), "captured": Money(1, "EUR")},
        "currency": {"amount": Money(1999, "USD"), "captured": Money(1999, "USD")},
        "payment id": {"payment_id": "pay_other"},
        "order id": {"order_id": "ord_other"},
        "account": {"account": "acct_other"},
        "mode": {"live": True},
    }
    return replace(snapshot, **changes[what])


@pytest.mark.parametrize("what", ["amount", "currency", "payment id", "order id", "account", "mode"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_money_that_contradicts_its_order_never_pays_it(shop: Shop, gateway: str, what: str) -> None:
    """FAULTS: never paid: held for an operator, refunded if captured."""
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    ref = await shop.ref(started.payment.id)
    if gateway == "paypal":
        snapshot = await shop.core.gateways[gateway].capture(ref, idempotency_key="by-hand", amount=Money(1999, "EUR"))
    else:
        snapshot = await shop.core.gateways[gateway].fetch(ref)
    assert snapshot.progress is Progress.CAPTURED
    await settle(shop.core, tampered(snapshot, what), trigger="test", asked_at=shop.clock.now())
    assert await shop.payment_status(started.payment.id) == "held"
    assert await shop.order_status(order.id) == "open"
    assert "alarm.payment_held" in await shop.events()
    assert "sales" not in await shop.balances(order.id)
    states = [state for _, state in await shop.refund_states(started.payment.id)]
    # Money at another account or in another mode is not ours to send back; a person looks at it.
    assert states == ([] if what in ("account", "mode") else ["recorded"])


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_contradiction_whose_money_went_back_leaves_the_order_payable(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    ref = await shop.ref(started.payment.id)
    if gateway == "paypal":
        snapshot = await shop.core.gateways[gateway].capture(ref, idempotency_key="by-hand", amount=Money(1999, "EUR"))
    else:
        snapshot = await shop.core.gateways[gateway].fetch(ref)
    await settle(shop.core, replace(snapshot, order_id="ord_other"), trigger="test", asked_at=shop.clock.now())
    await shop.recover()
    assert await shop.refund_states(started.payment.id) == [(1999, "succeeded")]
    assert "suspense" not in await shop.balances(order.id)
    again = await shop.start(order.id, "stripe")
    shop.confirm(again)
    assert (await shop.complete(again.payment.id)).order_status == "paid"
    await shop.assert_books_balance()
    await shop.assert_journal_equals_gateways()


async def test_an_intent_of_a_cheap_order_offered_for_an_expensive_one_is_refused(shop: Shop) -> None:
    cheap = await shop.order(("pen", 1))
    dear = await shop.order(("lamp", 1))
    paid = await shop.start(cheap.id, "stripe")
    wanted = await shop.start(dear.id, "stripe")
    shop.confirm(paid)
    ref = await shop.ref(paid.payment.id)
    other = await shop.ref(wanted.payment.id)

    def swap(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """The gateway answers with the paid intent where the unpaid one was asked for."""
        body = json.loads(response.body)
        stored = json.loads(shop.twins["stripe"].dump())["intents"][ref]["object"]
        return HttpResponse(200, response.headers, json.dumps({**body, **stored, "id": other}).encode())

    shop.transport.faults.append(("GET", other, swap))
    await shop.complete(wanted.payment.id)
    assert await shop.order_status(dear.id) == "open"
    assert await shop.payment_status(wanted.payment.id) == "held"


async def test_the_order_is_edited_after_the_intent_was_made(shop: Shop) -> None:
    """FAULTS: the amount is frozen for that attempt; a change makes a new attempt and voids the old one."""
    order = await shop.order()
    first = await shop.start(order.id, "stripe")
    await shop.write("UPDATE orders SET total_minor = 2500, due_minor = 2500 WHERE id = :id", id=order.id)
    second = await shop.start(order.id, "stripe")
    assert second.payment.id != first.payment.id
    assert second.payment.amount == Money(2500, "EUR")
    assert await shop.payment_status(first.payment.id) == "canceled"
    assert shop.confirm(first).status == 400
    shop.confirm(second)
    assert (await shop.complete(second.payment.id)).order_status == "paid"
    await shop.assert_journal_equals_gateways()


async def test_the_last_item_among_many_buyers_by_webhooks_alone(shop: Shop) -> None:
    """Nobody comes back: exactly the stock is sold, and nobody is charged for goods that are gone."""
    charged = []
    for number in range(8):
        actor = Actor(f"usr_{number}")
        order = await shop.order(("lamp", 1), actor=actor)
        try:
            started = await shop.start(order.id, GATEWAYS[number % 2], actor)
        except SoldOut:
            continue
        await shop.agree(started)
        charged.append(order)
    await shop.deliver()
    assert len(charged) == 3
    for order in charged:
        await shop.assert_paid_once(order)
    assert await shop.stock("lamp") == (0, 0)
    await shop.assert_journal_equals_gateways()


async def test_two_3d_secure_pages_of_one_order_pay_once(shop: Shop) -> None:
    """Two tabs stand before the bank at once: both are the same intent, and it is charged once."""
    order = await shop.order()
    first = await shop.start(order.id, "stripe")
    second = await shop.start(order.id, "stripe")
    assert first.payment.id == second.payment.id
    for tab in (first, second):
        shop.confirm(tab, card="pm_card_authenticationRequired")
    await asyncio.gather(*(shop.complete(tab.payment.id) for tab in (first, second) for _ in range(3)))
    assert await shop.order_status(order.id) == "open", "the bank has not agreed yet"
    shop.authenticate(first)
    shop.authenticate(second)
    await asyncio.gather(*(shop.complete(tab.payment.id) for tab in (first, second) for _ in range(3)))
    await shop.assert_paid_once(order)
    assert captures_at_gateways(shop, order.id) == 1


async def test_the_last_items_and_500_buyers(shop: Shop) -> None:
    """FAULTS: exactly the stock is sold; the others hear it before they are charged."""
    gate = asyncio.Semaphore(50)

    async def buy(number: int) -> str:
        actor = Actor(f"usr_{number}")
        async with gate:
            order = await shop.order(("lamp", 1), actor=actor)
            try:
                started = await shop.start(order.id, GATEWAYS[number % 2], actor)
            except SoldOut:
                return "sold out"
            await shop.agree(started)
            return str((await shop.complete(started.payment.id, actor)).order_status)

    outcomes = await asyncio.gather(*(buy(number) for number in range(500)), return_exceptions=True)
    paid = [one for one in outcomes if one == "paid"]
    # An order for goods that are gone is refused already when it is placed, before any payment.
    refused = [one for one in outcomes if one == "sold out" or isinstance(one, SoldOut)]
    assert (len(paid), len(refused)) == (3, 497)
    assert await shop.stock("lamp") == (0, 0)
    assert await shop.captures_booked() == 3
    await shop.assert_journal_equals_gateways()


# Minor units by ISO 4217, and what each gateway counts on the wire.
CURRENCIES = [
    ("JPY", 500, "stripe", "500"),
    ("JPY", 500, "paypal", "500"),
    ("KWD", 1230, "stripe", "1230"),
    ("HUF", 123400, "stripe", "123400"),
    ("HUF", 123400, "paypal", "1234"),
    ("EUR", 1999, "paypal", "19.99"),
]


@pytest.mark.parametrize(("currency", "minor", "gateway", "wire"), CURRENCIES)
async def test_every_currency_is_charged_exactly_and_books_agree(
    shop: Shop, currency: str, minor: int, gateway: str, wire: str
) -> None:
    """FAULTS: integer minor units, an exponent table per gateway."""

    async def add(tx: Transaction) -> None:
        price = Money(minor, currency)
        await shop.store.add_product(
            tx, sku="coin", name="Coin", description="", image="", price=price, on_hand=9, position=9, now=1
        )

    await shop.core.db.transaction(add)
    order, payment_id = await shop.paid(gateway, ("coin", 1))
    created = next(one for one in shop.transport.sent if one.method == "POST" and b"amount" in one.body)
    sent = parse_qs(created.body.decode()).get("amount", [""])[0] if gateway == "stripe" else _paypal_value(created)
    assert sent == wire
    assert order.total == Money(minor, currency)
    await shop.refund(payment_id, minor // 2 // 100 * 100 or minor)
    await shop.recover(after=2 * 24 * 3600)
    await shop.assert_journal_equals_gateways()


def _paypal_value(request: HttpRequest) -> str:
    return str(json.loads(request.body)["purchase_units"][0]["amount"]["value"])


@pytest.mark.parametrize("quantity", [0, -1, 1001, 10**30, True, 1.5, "2", None])
async def test_impossible_quantities_write_nothing(shop: Shop, quantity: Any) -> None:
    with pytest.raises(InvalidRequest):
        await shop.order(("mug", quantity))
    assert await shop.count("orders") == 0
    assert await shop.stock() == (10, 0)


async def test_totals_that_would_overflow_are_refused(shop: Shop) -> None:
    await shop.write("UPDATE products SET price_minor = 999999999999 WHERE sku = 'pen'")
    with pytest.raises(InvalidRequest, match="too large"):
        await shop.order(("pen", 2))
    assert await shop.count("orders") == 0
