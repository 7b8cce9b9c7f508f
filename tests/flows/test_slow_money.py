"""Money that takes days, and money that is reserved first: processing, pending, authorize then capture, void."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from paidonce import captures, checkout
from paidonce.core import Policy
from paidonce.errors import Forbidden, InvalidRequest, NotAuthorized, NotFound, PaymentInProgress
from paidonce.gateways.base import CaptureMethod
from paidonce.ports import Database
from paidonce.sandbox.app import sandbox_cores
from support.shop import BUYER, SANDBOX_URL, STAFF, ShiftedClock, Shop, open_shop, stock_up

GATEWAYS = ["stripe", "paypal"]


async def slow(shop: Shop, gateway: str) -> tuple[str, str]:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    if gateway == "stripe":
        assert shop.confirm(started, card="pm_usBankAccount_processing").status == 200
    else:
        shop.approve(started, funding="pending")
    await shop.complete(started.payment.id)
    return order.id, started.payment.id


async def resolve(shop: Shop, gateway: str, payment_id: str, *, good: bool) -> None:
    ref = await shop.ref(payment_id)
    if gateway == "stripe":
        shop.control("stripe", "resolve_processing", ref=ref, outcome="succeeded" if good else "failed")
    else:
        shop.control("paypal", "clear_pending", order=ref, status="COMPLETED" if good else "DECLINED")


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_slow_money_is_neither_paid_nor_failed_and_keeps_its_goods(shop: Shop, gateway: str) -> None:
    """FAULTS: PENDING capture, `processing`."""
    order_id, payment_id = await slow(shop, gateway)
    assert await shop.payment_status(payment_id) == "processing"
    assert await shop.order_status(order_id) == "pending"
    rows = await shop.rows("SELECT pending_reason FROM payments")
    assert rows[0]["pending_reason"] is not None
    assert "payment.pending" in await shop.events()
    for _ in range(5):
        await shop.recover(after=8 * 3600)
    assert await shop.order_status(order_id) == "pending"
    assert await shop.stock() == (10, 1)
    assert await shop.captures_booked() == 0
    for other in GATEWAYS:
        with pytest.raises(PaymentInProgress):
            await shop.start(order_id, other)
    result = await shop.complete(payment_id)
    assert "do not pay again" in result.message


@pytest.mark.parametrize("by", ["webhook", "recovery"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_slow_money_that_arrives_pays_the_order(shop: Shop, gateway: str, by: str) -> None:
    order_id, payment_id = await slow(shop, gateway)
    await shop.deliver()
    await resolve(shop, gateway, payment_id, good=True)
    if by == "webhook":
        await shop.deliver()
    else:
        await shop.recover(after=7 * 3600)
    assert await shop.order_status(order_id) == "paid"
    assert await shop.stock() == (9, 0)
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("by", ["webhook", "recovery"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_slow_money_that_fails_hands_the_order_back(shop: Shop, gateway: str, by: str) -> None:
    order_id, payment_id = await slow(shop, gateway)
    await shop.deliver()
    await resolve(shop, gateway, payment_id, good=False)
    if by == "webhook":
        await shop.deliver()
    else:
        await shop.recover(after=7 * 3600)
    assert await shop.payment_status(payment_id) in ("awaiting_buyer", "failed")
    assert await shop.order_status(order_id) == "open"
    assert await shop.captures_booked() == 0
    for _ in range(10):
        await shop.recover(after=300)
    assert await shop.stock() == (10, 0), "released later"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_slow_money_beyond_its_limit_frees_the_goods_and_tells_the_operator(shop: Shop, gateway: str) -> None:
    order_id, payment_id = await slow(shop, gateway)
    ref = await shop.ref(payment_id)
    shop.transport.lose_requests("GET", ref)
    for _ in range(16):
        await shop.recover(after=24 * 3600)
    assert await shop.order_status(order_id) == "pending", "the bank has not answered"
    assert await shop.stock() == (10, 0)
    assert "alarm.payment_slow" in await shop.events()


# ── Authorize, then capture ──────────


@pytest.fixture
async def manual(database: Database) -> AsyncIterator[Shop]:
    """A shop whose staff capture when the goods leave."""
    policy = Policy(capture_method=CaptureMethod.MANUAL)
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)), policy=policy)
    await database.transaction(stock_up, shop.store, shop.clock.now())
    yield shop
    await shop.assert_books_balance()
    await shop.assert_journal_equals_gateways()


async def reserved(shop: Shop, gateway: str) -> tuple[str, str]:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    result = await shop.complete(started.payment.id)
    assert (result.payment.status, result.order_status) == ("authorized", "pending")
    return order.id, started.payment.id


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_confirming_only_reserves_and_staff_capture(manual: Shop, gateway: str) -> None:
    order_id, payment_id = await reserved(manual, gateway)
    assert await manual.stock() == (10, 1), "stock falls only after the payment"
    assert await manual.captures_booked() == 0
    await manual.recover(after=3 * 3600)
    await manual.deliver()
    assert await manual.payment_status(payment_id) == "authorized", "nobody captures by himself"
    results = await asyncio.gather(*(captures.capture(manual.core, payment_id, STAFF) for _ in range(5)))
    assert any(one.order_status == "paid" for one in results)
    assert await manual.order_status(order_id) == "paid"
    assert await manual.stock() == (9, 0)
    assert (await captures.capture(manual.core, payment_id, STAFF)).order_status == "paid", "safe to repeat"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_partial_capture_is_final_and_lowers_what_is_due(manual: Shop, gateway: str) -> None:
    order_id, payment_id = await reserved(manual, gateway)
    result = await captures.capture(manual.core, payment_id, STAFF, amount_minor=1200)
    assert result.order_status == "paid"
    rows = await manual.rows("SELECT total_minor, due_minor FROM orders WHERE id = :id", id=order_id)
    assert rows == [{"total_minor": 1999, "due_minor": 1200}]
    await manual.deliver()
    await manual.recover(after=26 * 3600)
    assert await manual.payment_status(payment_id) == "captured"
    with pytest.raises(NotAuthorized):
        await captures.capture(manual.core, payment_id, STAFF, amount_minor=799)
    refund = await manual.refund(payment_id)
    assert refund.refund.amount.minor == 1200
    assert await manual.refund_status(order_id) == "full"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_capture_whose_answer_is_lost_is_found_out_with_its_amount(manual: Shop, gateway: str) -> None:
    order_id, payment_id = await reserved(manual, gateway)
    manual.transport.lose_answers("POST", "/capture")
    assert (await captures.capture(manual.core, payment_id, STAFF, amount_minor=700)).unknown
    manual.transport.heal()
    await manual.recover(after=200)
    assert await manual.order_status(order_id) == "paid"
    rows = await manual.rows("SELECT captured_minor FROM payments")
    assert rows == [{"captured_minor": 700}]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_void_releases_the_money_and_the_goods(manual: Shop, gateway: str) -> None:
    _order_id, payment_id = await reserved(manual, gateway)
    result = await captures.release(manual.core, payment_id, STAFF)
    assert (result.payment.status, result.order_status) == ("canceled", "open")
    assert (await captures.release(manual.core, payment_id, STAFF)).payment.status == "canceled"
    with pytest.raises(NotAuthorized):
        await captures.capture(manual.core, payment_id, STAFF)
    for _ in range(10):
        await manual.recover(after=300)
    assert await manual.stock() == (10, 0)


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_void_whose_answer_is_lost_is_repeated_by_recovery(manual: Shop, gateway: str) -> None:
    _, payment_id = await reserved(manual, gateway)
    part = "/cancel" if gateway == "stripe" else "/void"
    manual.transport.lose_requests("POST", part)
    assert (await captures.release(manual.core, payment_id, STAFF)).unknown
    manual.transport.heal()
    await manual.recover(after=60)
    assert await manual.payment_status(payment_id) == "canceled"


@pytest.mark.parametrize("by", ["webhook", "recovery"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_an_expired_authorization_ends_cleanly(manual: Shop, gateway: str, by: str) -> None:
    order_id, payment_id = await reserved(manual, gateway)
    await manual.deliver()
    name = {"stripe": "ref", "paypal": "order"}[gateway]
    manual.control(gateway, "expire_authorization", **{name: await manual.ref(payment_id)})
    if by == "webhook":
        await manual.deliver()
    await manual.recover(after=7 * 3600)
    assert await manual.payment_status(payment_id) == "canceled"
    assert await manual.order_status(order_id) in ("open", "expired")
    with pytest.raises(NotAuthorized):
        await captures.capture(manual.core, payment_id, STAFF)
    assert await manual.captures_booked() == 0


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_only_staff_capture_and_void_and_buyers_can_not_cancel_a_reservation(manual: Shop, gateway: str) -> None:
    _, payment_id = await reserved(manual, gateway)
    manual.transport.sent.clear()
    with pytest.raises(Forbidden):
        await captures.capture(manual.core, payment_id, BUYER)
    with pytest.raises(Forbidden):
        await captures.release(manual.core, payment_id, BUYER)
    with pytest.raises(PaymentInProgress):
        await checkout.cancel(manual.core, payment_id, BUYER)
    for wrong in (0, -5, 2000, True):
        with pytest.raises(InvalidRequest):
            await captures.capture(manual.core, payment_id, STAFF, amount_minor=wrong)
    with pytest.raises(NotFound):
        await captures.capture(manual.core, "pay_nobody", STAFF)
    assert [one for one in manual.transport.sent if one.method == "POST"] == []
    assert await manual.payment_status(payment_id) == "authorized"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_approved_in_manual_mode_by_a_closed_tab_is_only_reserved(manual: Shop, gateway: str) -> None:
    order = await manual.order()
    started = await manual.start(order.id, gateway)
    await manual.agree(started)
    await manual.deliver()
    assert await manual.payment_status(started.payment.id) == "authorized"
    assert await manual.captures_booked() == 0
