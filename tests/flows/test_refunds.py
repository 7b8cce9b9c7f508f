"""Refunds by staff, by the shop itself and at the gateways' dashboards; whatever repeats, races or fails later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from paidonce import refunds
from paidonce.errors import Forbidden, InvalidRequest, NotFound, PaymentDisputed, RefundTooLarge
from paidonce.gateways.base import HttpRequest, HttpResponse
from support.shop import BUYER, STAFF, Shop

GATEWAYS = ["stripe", "paypal"]
REFUND = {"stripe": "/v1/refunds", "paypal": "/refund"}
KEY = {"stripe": "idempotency-key", "paypal": "paypal-request-id"}


def refund_calls(shop: Shop, gateway: str) -> list[str]:
    """The keys of the refunds that went out."""
    return [
        {name.lower(): value for name, value in one.headers.items()}[KEY[gateway]]
        for one in shop.transport.calls("POST", REFUND[gateway])
    ]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_full_refund_gives_everything_back_and_leaves_the_order_paid(shop: Shop, gateway: str) -> None:
    order, payment_id = await shop.paid(gateway)
    done = await shop.refund(payment_id, reason="broken")
    assert (done.refund.state, done.refund.amount, done.created) == ("succeeded", order.total, True)
    assert await shop.order_status(order.id) == "paid"
    assert await shop.refund_status(order.id) == "full"
    assert await shop.stock() == (9, 0), "nothing is put back on the shelf unless staff say so"
    assert "sales" not in await shop.balances(order.id)
    assert (await shop.events()).count("refund.succeeded") == 1
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_partial_refunds_add_up_and_never_exceed_what_was_captured(shop: Shop, gateway: str) -> None:
    order, payment_id = await shop.paid(gateway)
    await shop.refund(payment_id, 500)
    assert await shop.refund_status(order.id) == "partial"
    await shop.refund(payment_id, 999)
    with pytest.raises(RefundTooLarge, match=r"5\.00 EUR is left"):
        await shop.refund(payment_id, 501)
    await shop.refund(payment_id)
    assert await shop.refund_states(payment_id) == [(500, "succeeded"), (999, "succeeded"), (500, "succeeded")]
    assert await shop.refund_status(order.id) == "full"
    with pytest.raises(RefundTooLarge, match="Nothing"):
        await shop.refund(payment_id)
    assert len(refund_calls(shop, gateway)) == 3
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_parallel_refunds_never_exceed_what_was_captured(shop: Shop, gateway: str) -> None:
    """FAULTS: refund twice, in parallel."""
    order, payment_id = await shop.paid(gateway)

    async def try_one() -> str:
        try:
            return (await shop.refund(payment_id, 700)).refund.state
        except RefundTooLarge:
            return "refused"

    outcomes = await asyncio.gather(*(try_one() for _ in range(8)))
    assert sorted(outcomes) == ["refused"] * 6 + ["succeeded"] * 2
    assert len(set(refund_calls(shop, gateway))) == 2
    assert await shop.refund_status(order.id) == "partial"
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_the_same_request_twice_is_one_refund(shop: Shop, gateway: str) -> None:
    _, payment_id = await shop.paid(gateway)
    results = await asyncio.gather(*(shop.refund(payment_id, 300, request_key="click-1") for _ in range(5)))
    assert len({one.refund.id for one in results}) == 1
    assert sum(one.created for one in results) == 1
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        await shop.refund(payment_id, 400, request_key="click-1")
    assert len(set(refund_calls(shop, gateway))) == 1
    assert await shop.refund_states(payment_id) == [(300, "succeeded")]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_refund_whose_answer_is_lost_is_found_by_its_own_key(shop: Shop, gateway: str) -> None:
    """FAULTS: refund after a timeout. Until it is known, the money counts as gone."""
    _, payment_id = await shop.paid(gateway)
    shop.transport.lose_answers("POST", REFUND[gateway])
    done = await shop.refund(payment_id, 1500)
    assert done.refund.state == "recorded"
    assert "not be made twice" in done.message
    with pytest.raises(RefundTooLarge):
        await shop.refund(payment_id, 1500)
    shop.transport.heal()
    await shop.recover(after=31)
    assert await shop.refund_states(payment_id) == [(1500, "succeeded")]
    assert len(set(refund_calls(shop, gateway))) == 1, "the same key, however often"
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_process_that_died_behind_the_record_of_a_refund_is_replaced(
    shop: Shop, restarted: Callable[[], Shop], gateway: str
) -> None:
    _, payment_id = await shop.paid(gateway)
    await shop.core.write(
        refunds._record,
        shop.core,
        payment_id,
        STAFF,
        amount_minor=200,
        reason=None,
        restock=False,
        request_key=None,
        refund_id="ref_died",
    )
    after = restarted()
    await after.recover()
    assert await after.refund_states(payment_id) == [(200, "recorded")], "the dead process may still own the call"
    await after.recover(after=after.core.policy.claim_seconds + 60)
    assert await after.refund_states(payment_id) == [(200, "succeeded")]
    await after.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_refund_whose_key_expired_is_looked_up_and_never_posted_again(shop: Shop, gateway: str) -> None:
    _, payment_id = await shop.paid(gateway)
    shop.transport.lose_answers("POST", REFUND[gateway])
    await shop.refund(payment_id, 1000)
    shop.transport.heal()
    posted = len(refund_calls(shop, gateway))
    await shop.recover(after=shop.core.gateways[gateway].refund_key_life_seconds + 1)
    assert len(refund_calls(shop, gateway)) == posted
    assert await shop.refund_states(payment_id) == [(1000, "succeeded")], "it was carried out, and is found"
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_refund_that_never_arrived_and_whose_key_expired_is_given_up(shop: Shop, gateway: str) -> None:
    order, payment_id = await shop.paid(gateway)
    shop.transport.lose_requests("POST", REFUND[gateway])
    await shop.refund(payment_id, 1000)
    shop.transport.heal()
    posted = len(refund_calls(shop, gateway))
    await shop.recover(after=shop.core.gateways[gateway].refund_key_life_seconds + 1)
    assert len(refund_calls(shop, gateway)) == posted
    assert await shop.refund_states(payment_id) == [(1000, "failed")]
    assert "refund.failed" in await shop.events()
    assert await shop.refund_status(order.id) == "none"
    assert (await shop.refund(payment_id, 1000)).refund.state == "succeeded", "staff may ask again"
    await shop.assert_journal_equals_gateways()


async def test_a_list_of_refunds_that_lags_behind_proves_nothing(shop: Shop) -> None:
    """The capture says that money went back, but the order does not list the refund yet: it is not given up."""
    _, payment_id = await shop.paid("paypal")
    shop.transport.lose_answers("POST", "/refund")
    await shop.refund(payment_id, 1000)

    def lagging(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        order = json.loads(response.body)
        order["purchase_units"][0]["payments"].pop("refunds")
        return HttpResponse(200, response.headers, json.dumps(order).encode())

    shop.transport.heal()
    shop.transport.faults.append(("GET", "/v2/checkout/orders/", lagging))
    await shop.recover(after=shop.core.gateways["paypal"].refund_key_life_seconds + 1)
    assert await shop.refund_states(payment_id) == [(1000, "recorded")]
    shop.transport.heal()
    await shop.recover(after=4000)
    assert await shop.refund_states(payment_id) == [(1000, "succeeded")]
    assert len(set(refund_calls(shop, "paypal"))) == 1
    await shop.assert_journal_equals_gateways()


# ── At the dashboard ──────────


async def dashboard_refund(shop: Shop, gateway: str, payment_id: str, amount: int) -> None:
    ref = await shop.ref(payment_id)
    if gateway == "stripe":
        shop.control("stripe", "dashboard_refund", ref=ref, amount=amount)
    else:
        shop.control("paypal", "dashboard_refund", order=ref, amount=f"{amount // 100}.{amount % 100:02}")


@pytest.mark.parametrize("by", ["webhook", "recovery", "both"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_refund_at_the_dashboard_is_booked_once(shop: Shop, gateway: str, by: str) -> None:
    """FAULTS: cumulative totals are never read as deltas."""
    order, payment_id = await shop.paid(gateway)
    await shop.deliver()
    await dashboard_refund(shop, gateway, payment_id, 400)
    await dashboard_refund(shop, gateway, payment_id, 300)
    if by != "recovery":
        await shop.deliver()
    if by != "webhook":
        await shop.recover(after=2 * 24 * 3600)
    assert sorted(await shop.refund_states(payment_id)) == [(300, "succeeded"), (400, "succeeded")]
    assert await shop.refund_status(order.id) == "partial"
    rows = await shop.rows("SELECT origin FROM refunds")
    assert {row["origin"] for row in rows} == {"gateway"}
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_api_and_dashboard_refund_everything_at_the_same_moment(shop: Shop, gateway: str) -> None:
    """FAULTS: refund by API and at the gateway's dashboard at once: the gateway refuses one, and we learn which."""
    order, payment_id = await shop.paid(gateway)
    await dashboard_refund(shop, gateway, payment_id, order.total.minor)
    done = await shop.refund(payment_id)
    assert done.refund.state == "failed"
    assert sorted(await shop.refund_states(payment_id)) == [(1999, "failed"), (1999, "succeeded")]
    assert await shop.refund_status(order.id) == "full"
    await shop.assert_journal_equals_gateways()


# ── Later failures ──────────


async def test_a_refund_that_fails_later_is_taken_back_in_the_books(shop: Shop) -> None:
    """FAULTS: refund that fails later."""
    order, payment_id = await shop.paid("stripe", card="pm_card_refundFail")
    await shop.refund(payment_id)
    assert await shop.refund_status(order.id) == "full"
    rows = await shop.rows("SELECT gateway_ref FROM refunds")
    shop.control("stripe", "fail_refund", refund=rows[0]["gateway_ref"])
    await shop.deliver()
    assert await shop.refund_states(payment_id) == [(1999, "failed")]
    assert await shop.refund_status(order.id) == "none"
    assert (await shop.balances(order.id))["sales"] == -1999
    events = await shop.events()
    assert "refund.failed" in events
    assert "alarm.refund_failed" in events, "an operator is told that the buyer still waits for the money"
    await shop.assert_journal_equals_gateways()


async def test_a_paypal_refund_that_is_pending_and_fails_is_never_booked_as_made(shop: Shop) -> None:
    order, payment_id = await shop.paid("paypal")
    shop.control("paypal", "pend_refunds", on="true")
    done = await shop.refund(payment_id, 900)
    assert done.refund.state == "pending"
    assert await shop.refund_status(order.id) == "none"
    assert (await shop.balances(order.id))["sales"] == -1999
    with pytest.raises(RefundTooLarge):
        await shop.refund(payment_id, 1100)
    rows = await shop.rows("SELECT gateway_ref FROM refunds")
    shop.control("paypal", "finish_refund", refund=rows[0]["gateway_ref"], status="FAILED")
    await shop.recover(after=7 * 3600)
    assert await shop.refund_states(payment_id) == [(900, "failed")]
    await shop.assert_journal_equals_gateways()


# ── Goods ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_goods_are_put_back_once_whatever_repeats(shop: Shop, gateway: str) -> None:
    """FAULTS: a cancel restocks twice."""
    _, payment_id = await shop.paid(gateway, ("mug", 2))
    assert await shop.stock() == (8, 0)
    await shop.refund(payment_id, 100, restock=True)
    await shop.refund(payment_id, 100, restock=True)
    await shop.refund(payment_id, restock=True)
    await shop.deliver()
    assert await shop.stock() == (10, 0)
    rows = await shop.rows("SELECT quantity FROM stock_movements WHERE kind = 'restock'")
    assert [row["quantity"] for row in rows] == [2]


# ── Who may, and what is refused ──────────


async def test_only_staff_refund_and_only_what_was_captured(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    with pytest.raises(RefundTooLarge):
        await shop.refund(started.payment.id)
    with pytest.raises(NotFound):
        await shop.refund("pay_nobody")
    _, payment_id = await shop.paid("stripe")
    with pytest.raises(Forbidden):
        await refunds.refund(shop.core, payment_id, BUYER)
    for wrong in (0, -1, True, 10**15):
        with pytest.raises((InvalidRequest, RefundTooLarge)):
            await shop.refund(payment_id, wrong)
    with pytest.raises(InvalidRequest, match="reason"):
        await shop.refund(payment_id, reason="x" * 201)
    assert await shop.count("refunds") == 0
    assert shop.transport.calls("POST", "/v1/refunds") == []


async def test_a_disputed_payment_is_not_refunded(shop: Shop) -> None:
    """FAULTS: no refund while disputed."""
    order, payment_id = await shop.paid("stripe")
    shop.control("stripe", "open_dispute", ref=await shop.ref(payment_id))
    await shop.deliver()
    with pytest.raises(PaymentDisputed):
        await shop.refund(payment_id)
    assert shop.transport.calls("POST", "/v1/refunds") == []
    assert await shop.count("refunds") == 0
    assert await shop.refund_status(order.id) == "none"
