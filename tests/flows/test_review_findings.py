"""Bugs that a review found, each frozen with its story in one sentence."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from paidonce import captures, checkout, leases, recovery
from paidonce.core import Actor, Policy
from paidonce.errors import InvalidRequest, NotAuthorized, OutcomeUnknown, PaymentInProgress, SoldOut
from paidonce.gateways.base import (
    CaptureMethod,
    DisputeProgress,
    DisputeSnapshot,
    HttpRequest,
    HttpResponse,
    Progress,
)
from paidonce.money import Money
from paidonce.ports import Database
from paidonce.sandbox.app import sandbox_cores
from paidonce.settlement import settle
from support.books import captures_at_gateways
from support.shop import BUYER, SANDBOX_URL, STAFF, ShiftedClock, Shop, open_shop, stock_up

GATEWAYS = ["stripe", "paypal"]
OTHER = Actor("usr_other")
HOUR = 3600
DAY = 24 * HOUR

READ = {"stripe": "/v1/payment_intents", "paypal": "/v2/checkout/orders"}


async def stocked(database: Database, policy: Policy | None = None) -> Shop:
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)), policy=policy)
    await database.transaction(stock_up, shop.store, shop.clock.now())
    return shop


@pytest.fixture
async def manual(database: Database) -> AsyncIterator[Shop]:
    """A shop whose staff capture when the goods leave."""
    shop = await stocked(database, Policy(capture_method=CaptureMethod.MANUAL))
    yield shop
    await shop.assert_books_balance()
    assert "alarm.recovery_failed" not in await shop.events()


# ── What gateways say in these stories ──────────


def edited(response: HttpResponse, edit: Callable[[dict[str, Any]], object]) -> HttpResponse:
    body = json.loads(response.body)
    edit(body)
    return HttpResponse(response.status, response.headers, json.dumps(body).encode())


def json_answer(status: int, body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(status, {"content-type": "application/json"}, json.dumps(body).encode())


def of_another_order(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Somebody edited the object at the gateway's dashboard: it names another order."""

    def edit(body: dict[str, Any]) -> None:
        if "metadata" in body:
            body["metadata"]["order_id"] = "ord_other"
        for unit in body.get("purchase_units", []):
            unit["reference_id"] = "ord_other"

    return edited(response, edit)


def before_the_capture(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """A reading that lags behind: PayPal shows the order as it was before its capture."""

    def edit(body: dict[str, Any]) -> None:
        body["status"] = "APPROVED"
        for unit in body["purchase_units"]:
            unit.pop("payments", None)

    return edited(response, edit)


def before_the_refund(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """A reading that lags behind: PayPal shows the capture as it was before its refund."""

    def edit(body: dict[str, Any]) -> None:
        for unit in body["purchase_units"]:
            unit["payments"].pop("refunds", None)
            for capture in unit["payments"]["captures"]:
                capture["status"] = "COMPLETED"

    return edited(response, edit)


def refused(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    return json_answer(422, {"name": "UNPROCESSABLE_ENTITY", "details": [{"issue": "SOMETHING_NEW"}]})


def forgotten(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    return json_answer(404, {"name": "RESOURCE_NOT_FOUND", "details": [{"issue": "INVALID_RESOURCE_ID"}]})


# ── What tests look at ──────────


async def operations(shop: Shop, kind: str) -> list[str]:
    rows = await shop.rows("SELECT state FROM operations WHERE kind = :kind ORDER BY created_at", kind=kind)
    return [row["state"] for row in rows]


async def days(shop: Shop, number: int) -> None:
    for _ in range(number):
        await shop.recover(after=DAY)


async def history(shop: Shop, event: str) -> list[dict[str, Any]]:
    rows = await shop.rows("SELECT detail FROM history WHERE event = :event ORDER BY seq", event=event)
    return [json.loads(row["detail"]) for row in rows]


async def actors(shop: Shop, payment_id: str) -> set[str]:
    """Which users the payment's history names."""
    rows = await shop.rows("SELECT detail FROM history WHERE payment_id = :id", id=payment_id)
    return {told["actor"] for told in (json.loads(row["detail"]) for row in rows) if told.get("actor")}


async def reserved(shop: Shop, gateway: str, *lines: tuple[str, int]) -> tuple[str, str]:
    order = await shop.order(*lines)
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    assert (await shop.complete(started.payment.id)).payment.status == "authorized"
    return order.id, started.payment.id


async def pay_anew(shop: Shop, order_id: str, gateway: str) -> None:
    started = await shop.start(order_id, gateway)
    await shop.agree(started)
    assert (await shop.complete(started.payment.id)).order_status == "paid"


async def surplus(shop: Shop) -> tuple[str, str]:
    """A card that was charged for lamps that another buyer holds meanwhile, so that its money has to go back."""
    order = await shop.order(("lamp", 3))
    card = await shop.start(order.id, "stripe")
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    other = await shop.order(("lamp", 3), actor=OTHER)
    await shop.start(other.id, "stripe", OTHER)
    await shop.agree(card)
    result = await shop.complete(card.payment.id)
    assert (result.payment.status, result.order_status) == ("captured", "open")
    assert await shop.refund_states(card.payment.id) == [(14850, "recorded")]
    return order.id, card.payment.id


# ── Held payments, and money behind ended ones ──────────


async def test_a_void_of_a_held_payment_does_not_lose_its_pending_capture(shop: Shop) -> None:
    """Staff voided a held payment whose capture was pending: it was closed here, paid at PayPal, and never found."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet, funding="pending")
    await shop.complete(wallet.payment.id)
    shop.transport.faults.append(("GET", READ["paypal"], of_another_order))
    await shop.recover(after=HOUR)
    assert await shop.payment_status(wallet.payment.id) == "held"
    await captures.release(shop.core, wallet.payment.id, STAFF)
    assert await shop.payment_status(wallet.payment.id) == "held", "the gateway did not say that it has ended"
    for gateway in GATEWAYS:
        with pytest.raises(PaymentInProgress):
            await shop.start(order.id, gateway)
    shop.control("paypal", "clear_pending", order=await shop.ref(wallet.payment.id), status="COMPLETED")
    shop.webhooks()
    await days(shop, 3)
    assert await shop.refund_states(wallet.payment.id) == [(1999, "succeeded")]
    assert "order.paid" not in await shop.events()
    assert await shop.balances(order.id) == {"gateway:paypal": -85, "gateway_fees": 85}
    await shop.assert_journal_equals_gateways()


async def test_a_held_payment_whose_capture_is_unknown_is_not_voided(shop: Shop) -> None:
    """The same while the capture had no answer at all: staff ended the payment, and its money was never found."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    shop.transport.lose_answers("POST", "/capture")
    await shop.complete(wallet.payment.id)
    shop.transport.heal()
    shop.transport.faults.append(
        ("GET", READ["paypal"], lambda request, read: of_another_order(request, before_the_capture(request, read)))
    )
    await shop.recover(after=7 * HOUR)
    assert await shop.payment_status(wallet.payment.id) == "held"
    assert await operations(shop, "capture") == ["recorded"]
    with pytest.raises(NotAuthorized):
        await captures.release(shop.core, wallet.payment.id, STAFF)
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "stripe")
    shop.transport.heal()
    shop.webhooks()
    await days(shop, 3)
    assert await shop.refund_states(wallet.payment.id) == [(1999, "succeeded")]
    assert "order.paid" not in await shop.events()
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_journal_equals_gateways()


async def test_money_that_turns_up_behind_an_ended_payment_is_found_without_a_webhook(database: Database) -> None:
    """A payment that had failed after its last capture was never read again, whatever PayPal said of it later."""
    shop = await stocked(database, Policy(capture_rounds=1))
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet, funding="declined")
    await shop.complete(wallet.payment.id)
    assert await shop.payment_status(wallet.payment.id) == "failed"
    shop.approve(wallet)
    ref = await shop.ref(wallet.payment.id)
    await shop.core.gateways["paypal"].capture(ref, idempotency_key="late", amount=order.total)
    shop.webhooks()
    await days(shop, 2)
    assert await shop.payment_status(wallet.payment.id) == "held"
    assert await shop.refund_states(wallet.payment.id) == [(1999, "succeeded")]
    assert await shop.stock() == (10, 0)
    assert "order.paid" not in await shop.events()
    await shop.assert_journal_equals_gateways()


async def test_an_ended_payment_that_asked_for_money_is_read_again_for_weeks_and_then_no_more(shop: Shop) -> None:
    """The same reading goes on for the days of an audit, and must not go on for ever."""
    order = await shop.order()
    for _ in range(shop.core.policy.capture_rounds):
        wallet = await shop.start(order.id, "paypal")
        shop.approve(wallet, funding="declined")
        await shop.complete(wallet.payment.id)
    shop.transport.sent.clear()
    await days(shop, shop.core.policy.audit_days[-1] + 20)
    assert len(shop.transport.calls("GET", READ["paypal"])) == len(shop.core.policy.audit_days)
    assert [one for one in shop.transport.sent if one.method == "POST" and "/checkout/" in one.url] == []
    rows = await shop.rows("SELECT status, due_at FROM payments")
    assert [(row["status"], row["due_at"]) for row in rows] == [("failed", None)]


async def test_a_refused_repeat_says_nothing_of_the_first_try_while_the_reading_lags(shop: Shop) -> None:
    """The answer to a capture was lost, its repeat was refused, the reading lagged: failed, and paid all the same."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    shop.transport.lose_answers("POST", "/capture")
    await shop.complete(wallet.payment.id)
    shop.transport.heal()
    shop.transport.faults.append(("GET", READ["paypal"], before_the_capture))
    shop.transport.faults.append(("POST", "/capture", refused))
    result = await shop.complete(wallet.payment.id)
    assert result.unknown
    assert result.payment.status == "processing"
    assert await operations(shop, "capture") == ["recorded"]
    assert "payment.failed" not in await shop.events()
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "stripe")
    shop.transport.heal()
    shop.webhooks()
    await shop.recover(after=HOUR)
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)
    await shop.assert_journal_equals_gateways()


async def test_a_refund_behind_a_payment_that_contradicts_for_ever_is_booked(shop: Shop) -> None:
    """The object of a held payment contradicted each time, so nobody looked at its refund, which stayed pending."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    await shop.agree(card)
    shop.transport.faults.append(("GET", READ["stripe"], of_another_order))
    shop.control("stripe", "pend_next_refund")
    await shop.complete(card.payment.id)
    await shop.recover(after=60)
    assert await shop.refund_states(card.payment.id) == [(1999, "pending")]
    refund = next(iter(json.loads(shop.twins["stripe"].dump())["refunds"]))
    shop.control("stripe", "finish_refund", refund=refund)
    shop.webhooks()
    await days(shop, 2)
    assert await shop.refund_states(card.payment.id) == [(1999, "succeeded")]
    assert len(shop.transport.calls("POST", "/v1/refunds")) == 1
    assert "order.paid" not in await shop.events()
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("outcome", ["won", "lost"])
async def test_a_dispute_of_a_payment_that_contradicts_for_ever_is_booked(shop: Shop, outcome: str) -> None:
    """The same for a dispute: it was neither told nor booked, and the automatic refund could have been a second one."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    await shop.agree(card)
    shop.transport.faults.append(("GET", READ["stripe"], of_another_order))
    await shop.complete(card.payment.id)
    assert await shop.payment_status(card.payment.id) == "held"
    told = shop.control("stripe", "open_dispute", ref=await shop.ref(card.payment.id), amount="")
    await shop.deliver()
    await days(shop, 2)
    assert "dispute.opened" in await shop.events()
    assert (await shop.balances(order.id))["disputed"] == 1999
    assert shop.transport.calls("POST", "/v1/refunds") == [], "the bank decides first where the money goes"
    shop.control("stripe", "close_dispute", dispute=told["dispute"], outcome=outcome)
    await shop.deliver()
    await days(shop, 3)
    expected = "succeeded" if outcome == "won" else "failed"
    assert await shop.refund_states(card.payment.id) == [(1999, expected)]
    assert "disputed" not in await shop.balances(order.id)
    assert "order.paid" not in await shop.events()
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("by", ["staff", "recovery"])
async def test_a_held_payment_without_money_is_ended_by_its_void(shop: Shop, by: str) -> None:
    """Even the canceled object contradicted, so that the payment stayed held and its order could never be paid."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    for method, part in (("GET", READ["stripe"]), ("POST", "/cancel")):
        shop.transport.faults.append((method, part, of_another_order))
    assert (await shop.complete(card.payment.id)).payment.status == "held"
    if by == "staff":
        assert (await captures.release(shop.core, card.payment.id, STAFF)).payment.status == "canceled"
    await shop.recover(after=60)
    assert await shop.payment_status(card.payment.id) == "canceled"
    assert await operations(shop, "void") == ["succeeded"]
    cancels = len(shop.transport.calls("POST", "/cancel"))
    await shop.recover(after=HOUR)
    assert len(shop.transport.calls("POST", "/cancel")) == cancels, "it is not repeated for ever"
    await pay_anew(shop, order.id, "paypal")
    await shop.assert_journal_equals_gateways()


async def test_a_release_of_a_held_payment_goes_on_voiding_its_authorization(manual: Shop) -> None:
    """Staff released a held payment while its void was unanswered, and the buyer's money stayed reserved."""
    order_id, payment_id = await reserved(manual, "paypal")
    manual.transport.faults.append(("GET", READ["paypal"], of_another_order))
    manual.transport.lose_requests("POST", "/void")
    await manual.recover(after=2 * HOUR)
    assert await manual.payment_status(payment_id) == "held"
    assert await operations(manual, "void") == ["recorded"]
    assert (await captures.release(manual.core, payment_id, STAFF)).payment.status == "held"
    assert await operations(manual, "void") == ["recorded"], "nothing tells yet that the money is free"
    manual.transport.lost.clear()
    await manual.recover(after=HOUR)
    order = json.loads(manual.twins["paypal"].dump())["orders"][await manual.ref(payment_id)]
    assert order["authorization"]["status"] == "VOIDED"
    assert await manual.payment_status(payment_id) == "canceled"
    assert await operations(manual, "void") == ["succeeded"]
    assert await manual.order_status(order_id) == "open"
    await manual.recover(after=HOUR)
    assert await manual.stock() == (10, 0)
    assert manual.transport.calls("POST", "/capture") == []
    await manual.assert_journal_equals_gateways()


# ── Partial captures ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_partial_capture_of_unknown_outcome_is_not_followed_by_another(manual: Shop, gateway: str) -> None:
    """A part was captured, its answer unreadable; staff captured all instead, and the part was held and sent back."""
    order_id, payment_id = await reserved(manual, gateway)
    captured = False

    def unreadable(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        nonlocal captured
        captured = True
        return json_answer(201, {})

    def down_afterwards(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if captured:
            raise OutcomeUnknown("the gateway is down")
        return response

    manual.transport.faults.append(("POST", "/capture", unreadable))
    manual.transport.faults.append(("GET", READ[gateway], down_afterwards))
    assert (await captures.capture(manual.core, payment_id, STAFF, amount_minor=500)).unknown
    assert captured
    assert await operations(manual, "capture") == ["recorded"]
    manual.transport.heal()
    with pytest.raises(NotAuthorized, match="under way"):
        await captures.capture(manual.core, payment_id, STAFF)
    await manual.recover(after=HOUR)
    assert await manual.order_status(order_id) == "paid"
    rows = await manual.rows("SELECT status, captured_minor FROM payments")
    assert [(row["status"], row["captured_minor"]) for row in rows] == [("captured", 500)]
    assert await manual.refund_states(payment_id) == []
    assert await operations(manual, "capture") == ["succeeded"]
    await manual.assert_journal_equals_gateways()


@pytest.mark.parametrize("by", ["webhook", "recovery"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_partial_capture_at_the_dashboard_pays_the_order(manual: Shop, gateway: str, by: str) -> None:
    """Staff captured a part at the gateway's own website; it was called a contradiction and sent back to the buyer."""
    order_id, payment_id = await reserved(manual, gateway)
    await manual.deliver()
    at_gateway = manual.core.gateways[gateway]
    await at_gateway.capture(await manual.ref(payment_id), idempotency_key="dashboard", amount=Money(1500, "EUR"))
    if by == "webhook":
        await manual.deliver()
    else:
        await manual.recover(after=7 * HOUR)
    assert await manual.order_status(order_id) == "paid"
    rows = await manual.rows("SELECT total_minor, due_minor FROM orders WHERE id = :id", id=order_id)
    assert rows == [{"total_minor": 1999, "due_minor": 1500}]
    await days(manual, 3)
    assert await manual.refund_states(payment_id) == []
    assert "alarm.payment_held" not in await manual.events()
    await manual.assert_journal_equals_gateways()


async def test_a_part_that_nobody_asked_for_pays_nothing_where_all_is_captured_at_once(shop: Shop) -> None:
    """What is allowed where staff capture stays a contradiction where the shop itself captures all."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    seen = await shop.core.gateways["paypal"].fetch(await shop.ref(wallet.payment.id))
    part = replace(seen, progress=Progress.CAPTURED, captured=Money(1500, "EUR"), capture_ref="PART1")
    settled = await settle(shop.core, part, trigger="test", asked_at=shop.clock.now())
    assert settled.payment.status == "held"
    assert await shop.order_status(order.id) == "open"
    assert await shop.refund_states(wallet.payment.id) == [(1500, "recorded")]
    assert "order.paid" not in await shop.events()


@pytest.mark.parametrize(
    ("gateway", "total", "part"),
    [
        ("stripe", Money(10_000, "KWD"), 5_001),  # Thousandths are charged in tens there.
        ("paypal", Money(500_000, "HUF"), 150),  # Only whole forints.
    ],
)
async def test_a_part_that_the_gateway_can_not_express_is_refused(
    manual: Shop, gateway: str, total: Money, part: int
) -> None:
    """Such a capture was written down and could never be sent, so that nothing else could be done with the payment."""
    await manual.core.db.transaction(
        manual.store.add_product,
        sku="odd",
        name="Odd",
        description="",
        image="",
        price=total,
        on_hand=5,
        position=9,
        now=manual.clock.now(),
    )
    order_id, payment_id = await reserved(manual, gateway, ("odd", 1))
    with pytest.raises(InvalidRequest, match="amount"):
        await captures.capture(manual.core, payment_id, STAFF, amount_minor=part)
    assert await operations(manual, "capture") == []
    assert manual.transport.calls("POST", "/capture") == []
    assert await manual.payment_status(payment_id) == "authorized"
    assert (await captures.capture(manual.core, payment_id, STAFF)).order_status == "paid"
    assert await manual.order_status(order_id) == "paid"
    await manual.assert_journal_equals_gateways()


# ── Refunds and disputes ──────────


async def test_an_automatic_refund_that_was_never_sent_is_sent_late(shop: Shop) -> None:
    """The worker was down for a day; the refund's key counted as expired, and the buyer never got the money."""
    order_id, payment_id = await surplus(shop)
    assert shop.transport.calls("POST", "/v1/refunds") == []
    await shop.recover(after=25 * HOUR)
    assert await shop.refund_states(payment_id) == [(14850, "succeeded")]
    assert len(shop.transport.calls("POST", "/v1/refunds")) == 1
    assert "alarm.refund_failed" not in await shop.events()
    assert "owed_to_buyer" not in await shop.balances(order_id)
    await shop.assert_journal_equals_gateways()


async def test_an_automatic_refund_waits_for_its_dispute_and_is_sent_then(shop: Shop) -> None:
    """The same behind an inquiry that took days and was won."""
    _, payment_id = await surplus(shop)
    told = shop.control("stripe", "open_dispute", ref=await shop.ref(payment_id), amount="", inquiry="true")
    await shop.deliver()
    await days(shop, 4)
    assert await shop.refund_states(payment_id) == [(14850, "recorded")]
    assert shop.transport.calls("POST", "/v1/refunds") == []
    shop.control("stripe", "close_dispute", dispute=told["dispute"], outcome="won")
    await shop.deliver()
    await days(shop, 2)
    assert await shop.refund_states(payment_id) == [(14850, "succeeded")]
    assert len(shop.transport.calls("POST", "/v1/refunds")) == 1
    assert "refund.failed" not in await shop.events()
    await shop.assert_journal_equals_gateways()


async def test_an_event_of_a_refund_that_the_reading_does_not_show_yet_stays_due(shop: Shop) -> None:
    """The webhook came before PayPal's own reading showed the refund; it was marked done, and the refund forgotten."""
    order, payment_id = await shop.paid("paypal")
    shop.webhooks()
    shop.control("paypal", "dashboard_refund", order=await shop.ref(payment_id), amount="")
    shop.transport.faults.append(("GET", READ["paypal"], before_the_refund))
    await shop.deliver()
    assert await shop.refund_states(payment_id) == []
    about_refund = "SELECT state FROM inbox WHERE type LIKE '%REFUNDED'"
    assert await shop.rows(about_refund) == [{"state": "recorded"}]
    shop.transport.heal()
    await shop.recover(after=HOUR)
    assert await shop.rows(about_refund) == [{"state": "processed"}]
    assert await shop.refund_states(payment_id) == [(1999, "succeeded")]
    assert (await shop.events()).count("refund.succeeded") == 1
    assert await shop.refund_status(order.id) == "full"
    await shop.assert_journal_equals_gateways()


async def test_an_event_of_a_dispute_that_the_reading_does_not_show_yet_stays_due(shop: Shop) -> None:
    """The same for a dispute."""
    order, payment_id = await shop.paid("paypal")
    shop.webhooks()
    shop.control("paypal", "open_dispute", order=await shop.ref(payment_id), stage="CHARGEBACK")
    shop.transport.faults.append(
        ("GET", "/v1/customer/disputes", lambda request, response: json_answer(200, {"items": []}))
    )
    await shop.deliver()
    assert await shop.count("disputes") == 0
    about_dispute = "SELECT state FROM inbox WHERE type LIKE '%DISPUTE%'"
    assert await shop.rows(about_dispute) == [{"state": "recorded"}]
    shop.transport.heal()
    await shop.recover(after=HOUR)
    assert await shop.rows(about_dispute) == [{"state": "processed"}]
    assert (await shop.events()).count("dispute.opened") == 1
    assert (await shop.balances(order.id))["disputed"] == 1999
    await shop.assert_journal_equals_gateways()


async def test_an_event_that_never_has_an_effect_is_an_alarm(shop: Shop) -> None:
    """The app may not read disputes: each of their events was marked done, and nobody heard of the dispute."""
    _, payment_id = await shop.paid("paypal")
    shop.webhooks()
    shop.control("paypal", "open_dispute", order=await shop.ref(payment_id), stage="CHARGEBACK")
    shop.transport.faults.append(
        ("GET", "/v1/customer/disputes", lambda request, response: json_answer(403, {"name": "NOT_AUTHORIZED"}))
    )
    await shop.deliver()
    await days(shop, 6)
    rows = await shop.rows("SELECT state, due_at FROM inbox WHERE type LIKE '%DISPUTE%'")
    assert [(row["state"], row["due_at"]) for row in rows] == [("ignored", None)]
    assert (await shop.events()).count("alarm.webhook_without_effect") == 1
    assert await shop.count("disputes") == 0


async def test_an_order_whose_held_payment_was_refunded_can_be_paid_again(shop: Shop) -> None:
    """Slow money contradicted its order and went back; the order stayed pending and kept its goods for ever."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet, funding="pending")
    await shop.complete(wallet.payment.id)
    assert await shop.order_status(order.id) == "pending"
    shop.control("paypal", "clear_pending", order=await shop.ref(wallet.payment.id), status="COMPLETED")
    shop.transport.faults.append(("GET", READ["paypal"], of_another_order))
    await shop.deliver()
    shop.transport.heal()
    await shop.recover(after=60)
    assert await shop.payment_status(wallet.payment.id) == "held"
    assert await shop.refund_states(wallet.payment.id) == [(1999, "succeeded")]
    assert await shop.order_status(order.id) == "open"
    await shop.recover(after=shop.core.policy.hold_seconds + 1)
    assert await shop.stock() == (10, 0), "the goods are free again"
    await pay_anew(shop, order.id, "stripe")
    assert await shop.stock() == (9, 0)
    await shop.assert_journal_equals_gateways()


async def test_goods_that_a_payment_never_took_do_not_come_back_with_its_refund(shop: Shop) -> None:
    """Staff refunded a surplus with its goods, and goods that were sold stood on the shelf once more."""
    order_id, payment_id = await surplus(shop)
    await shop.recover(after=60)
    told = await shop.rows("SELECT gateway_ref FROM refunds")
    shop.control("stripe", "fail_refund", refund=told[0]["gateway_ref"])
    await shop.deliver()
    assert await shop.refund_states(payment_id) == [(14850, "failed")]
    on_hand = (await shop.stock("lamp"))[0]
    with pytest.raises(InvalidRequest, match="restock"):
        await shop.refund(payment_id, restock=True)
    assert await shop.refund_states(payment_id) == [(14850, "failed")], "nothing was written"
    assert (await shop.refund(payment_id)).refund.state == "succeeded"
    assert (await shop.stock("lamp"))[0] == on_hand
    assert await shop.rows("SELECT * FROM stock_movements WHERE order_id = :id", id=order_id) == []
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("other", [{"reason": "all of it"}, {"restock": True}, {"amount": 200}])
async def test_a_request_key_that_meets_another_request_is_refused(shop: Shop, other: dict[str, Any]) -> None:
    """The same Idempotency-Key with another reason or with the goods was answered as if it had been done."""
    _, payment_id = await shop.paid("stripe")
    first: dict[str, Any] = {"amount": 100, "reason": "scratched", "restock": False}
    made = await shop.refund(payment_id, request_key="k", **first)
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        await shop.refund(payment_id, request_key="k", **(first | other))
    again = await shop.refund(payment_id, request_key="k", **first)
    assert (made.created, again.created) == (True, False)
    assert again.refund.id == made.refund.id
    assert await shop.refund_states(payment_id) == [(100, "succeeded")]
    assert await shop.stock() == (9, 0), "no goods came back"
    await shop.assert_journal_equals_gateways()


async def test_a_dispute_that_is_lost_for_more_than_was_withdrawn_empties_its_account(shop: Shop) -> None:
    """PayPal raised the amount while the case ran; the books kept a negative amount in dispute for ever."""
    order, payment_id = await shop.paid("paypal")
    seen = await shop.core.gateways["paypal"].fetch(await shop.ref(payment_id), details=True)
    before = await shop.balances(order.id)
    case = DisputeSnapshot("PP-D-1", DisputeProgress.OPEN, Money(500, "EUR"), True, "reason", "OPEN")
    raised = replace(case, amount=order.total)
    lost = replace(raised, progress=DisputeProgress.LOST)
    for told in (case, raised, lost, lost):
        await settle(shop.core, replace(seen, disputes=(told,)), trigger="test", asked_at=shop.clock.now())
    after = await shop.balances(order.id)
    assert "disputed" not in after
    assert after["dispute_losses"] == 1999
    assert after["gateway:paypal"] == before["gateway:paypal"] - 1999
    assert after["sales"] == before["sales"]
    assert (await shop.events()).count("dispute.lost") == 1


# ── Silence, time and trouble ──────────


@pytest.mark.parametrize("state", ["awaiting_buyer", "authorized", "captured"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_gateway_that_never_answers_is_told_to_the_operator(
    database: Database, gateway: str, state: str
) -> None:
    """Every look was lost for weeks, and nobody was told that nobody knew how the payment stood."""
    method = CaptureMethod.MANUAL if state == "authorized" else CaptureMethod.AUTOMATIC
    shop = await stocked(database, Policy(capture_method=method))
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    if state != "awaiting_buyer":
        await shop.agree(started)
        await shop.complete(started.payment.id)
    for verb in ("GET", "POST"):
        shop.transport.lose_requests(verb, "/v")
    for _ in range(24 * 4):
        await shop.recover(after=HOUR)
    alarms = (await shop.events()).count("alarm.gateway_silent")
    assert 1 <= alarms <= 4, "at first, and then once a day"
    assert await shop.payment_status(started.payment.id) == state
    assert await shop.order_status(order.id) != "expired"
    shop.transport.heal()
    await shop.recover(after=7 * HOUR)
    await days(shop, 3)
    assert (await shop.events()).count("alarm.gateway_silent") == alarms, "the gateway answers again"
    assert await shop.rows("SELECT silent_since FROM payments") == [{"silent_since": None}]
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("look", ["first", "last"])
async def test_a_look_that_got_no_answer_uses_up_no_audit(shop: Shop, look: str) -> None:
    """The gateway was down at the moment of the last audit, so a refund made there was never found."""
    _, payment_id = await shop.paid("stripe")
    every = shop.core.policy.audit_days
    done = 0 if look == "first" else len(every) - 1
    for before, day in zip((0, *every), every[:done], strict=False):
        await shop.recover(after=(day - before) * DAY + 60)
    shop.control("stripe", "dashboard_refund", ref=await shop.ref(payment_id), amount="")
    shop.webhooks()
    shop.transport.lose_requests("GET", READ["stripe"])
    await shop.recover(after=(every[done] - (every[done - 1] if done else 0)) * DAY + 60)
    assert await shop.refund_states(payment_id) == []
    shop.transport.heal()
    shop.transport.sent.clear()
    await shop.recover(after=6 * HOUR)
    assert await shop.refund_states(payment_id) == [(1999, "succeeded")]
    assert len(shop.transport.calls("GET", READ["stripe"])) == 1
    await shop.assert_journal_equals_gateways()


async def test_an_order_that_paypal_has_forgotten_is_closed_without_endless_alarms(shop: Shop) -> None:
    """PayPal forgets an unapproved order after some hours: the payment stayed open and raised an alarm every hour."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.transport.lose_requests("GET", READ["paypal"])
    await shop.recover(after=8 * HOUR)
    shop.transport.heal()
    shop.transport.faults.append(("GET", READ["paypal"], forgotten))
    for _ in range(24):
        await shop.recover(after=HOUR)
    assert await shop.payment_status(wallet.payment.id) == "failed"
    assert await shop.order_status(order.id) == "expired"
    assert await shop.stock() == (10, 0)
    assert [one for one in await shop.events() if one.startswith("alarm")] == []
    looks = len(shop.transport.calls("GET", READ["paypal"]))
    await days(shop, 10)
    assert len(shop.transport.calls("GET", READ["paypal"])) == looks
    await shop.assert_journal_equals_gateways()


async def test_an_order_that_paypal_forgets_too_early_is_not_closed(shop: Shop) -> None:
    """Within the life of a key, "no such order" means wrong keys rather than forgetting: told, and not closed."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.transport.faults.append(("GET", READ["paypal"], forgotten))
    await shop.recover(after=HOUR)
    assert await shop.payment_status(wallet.payment.id) == "awaiting_buyer"
    assert "alarm.gateway" in await shop.events()
    shop.transport.heal()
    shop.approve(wallet)
    assert (await shop.complete(wallet.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_a_payment_that_can_not_be_written_is_set_aside_and_the_others_go_on(database: Database) -> None:
    """A reading that broke a constraint ended each round of recovery, so no other payment was ever looked at."""
    shop = await stocked(database)
    odd = [await shop.paid("stripe") for _ in range(2)]
    for _, payment_id in odd:
        shop.control("stripe", "dashboard_refund", ref=await shop.ref(payment_id), amount=500)
    shop.webhooks()

    def same_refund(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        return edited(response, lambda body: [one.update(id="re_same") for one in body["data"]])

    shop.transport.faults.append(("GET", "/v1/refunds", same_refund))
    shop.clock.pass_seconds(DAY + 60)
    order = await shop.order(("pen", 1))
    card = await shop.start(order.id, "stripe")
    await shop.agree(card)
    await shop.recover(after=2 * 60)
    assert await shop.order_status(order.id) == "paid"
    assert (await shop.events()).count("alarm.recovery_failed") == 1
    assert sorted([await shop.refund_states(payment_id) for _, payment_id in odd]) == [[], [(500, "succeeded")]]
    for _ in range(3):
        await shop.recover(after=HOUR)
    assert (await shop.events()).count("alarm.recovery_failed") == 1, "told once a day"
    shop.transport.heal()
    await shop.recover(after=2 * HOUR)
    assert await shop.order_status(order.id) == "paid"
    await shop.assert_books_balance()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_clock_that_is_set_back_by_a_day_does_not_freeze_a_payment(shop: Shop, gateway: str) -> None:
    """What was asked "tomorrow" made all readings old news until the clock had caught up, a day later."""
    shop.clock.pass_seconds(DAY)
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    shop.clock.pass_seconds(-DAY)
    await shop.agree(started)
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)
    await shop.assert_journal_equals_gateways()


async def test_a_lease_from_before_the_clock_was_set_back_is_worth_nothing(shop: Shop) -> None:
    """A worker claimed a payment and died; the clock went back by a day, and nobody looked for a day."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    await shop.agree(card)
    shop.clock.pass_seconds(120)
    due_at = shop.clock.now()
    shop.clock.pass_seconds(DAY)
    claimed = await shop.core.db.transaction(
        leases.claim, "payments", token="dead", now=shop.clock.now(), seconds=300, limit=4
    )
    assert [one.id for one in claimed] == [card.payment.id]
    shop.clock.pass_seconds(-DAY)
    assert shop.clock.now() - due_at < DAY
    await shop.recover(after=60)
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)
    live = await shop.core.db.transaction(
        leases.claim, "payments", token="other", now=shop.clock.now(), seconds=300, limit=4
    )
    assert live == [], "what was worked on is not due again"


# ── What it costs, and who did it ──────────


@dataclass
class CountingDatabase:
    """The real database, which counts its transactions that write."""

    inner: Database
    writes: int = 0
    dialect: Literal["sqlite", "postgresql"] = field(init=False)

    def __post_init__(self) -> None:
        self.dialect = self.inner.dialect

    async def transaction(self, fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        self.writes += 1
        return await self.inner.transaction(fn, *args, **kwargs)

    async def read(self, fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        return await self.inner.read(fn, *args, **kwargs)

    async def close(self) -> None:
        await self.inner.close()


async def test_orders_that_can_not_be_ended_yet_cost_no_writing_transaction(shop: Shop) -> None:
    """Every order behind a held payment was locked and written each five seconds, only to be left as it was."""
    waiting = []
    for gateway in GATEWAYS:
        order = await shop.order(("pen", 1))
        started = await shop.start(order.id, gateway)
        shop.transport.faults.append(("GET", READ[gateway], of_another_order))
        shop.transport.lose_requests("POST", "/cancel")
        assert (await shop.complete(started.payment.id)).payment.status == "held"
        waiting.append(order.id)
    shop.clock.pass_seconds(3 * DAY)
    assert await recovery.end_orders(shop.core) == 2, "their goods are free"
    counting = CountingDatabase(shop.core.db)
    core = replace(shop.core, db=counting)
    for _ in range(3):
        assert await recovery.end_orders(core) == 0
    assert counting.writes == 0
    assert [await shop.order_status(one) for one in waiting] == ["open", "open"]
    ended = await shop.order(("pen", 1))
    shop.clock.pass_seconds(3 * DAY)
    assert await recovery.end_orders(core) == 1
    assert counting.writes == 1, "the one that ends is counted"
    assert await shop.order_status(ended.id) == "expired"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_the_history_names_who_captured(manual: Shop, gateway: str) -> None:
    """The history said "staff" and not who."""
    _, payment_id = await reserved(manual, gateway)
    await captures.capture(manual.core, payment_id, STAFF)
    intended = await history(manual, "capture.intended")
    assert [one.get("actor") for one in intended] == [STAFF.user_id]
    authorized = await history(manual, "authorize.intended")
    assert [one for one in authorized if "actor" in one] == [], "the buyer's own step names no staff"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_the_history_names_who_voided(manual: Shop, gateway: str) -> None:
    """The same for a void of reserved money."""
    _, payment_id = await reserved(manual, gateway)
    await captures.release(manual.core, payment_id, STAFF)
    assert await manual.payment_status(payment_id) == "canceled"
    assert [one.get("actor") for one in await history(manual, "void.intended")] == [STAFF.user_id]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_the_history_names_who_ended_an_unconfirmed_payment(shop: Shop, gateway: str) -> None:
    """The same for a payment that nobody had confirmed; one that its buyer ends names no staff."""
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await captures.release(shop.core, started.payment.id, STAFF)
    assert STAFF.user_id in await actors(shop, started.payment.id)
    again = await shop.start(order.id, gateway)
    await checkout.cancel(shop.core, again.payment.id, BUYER)
    assert await shop.payment_status(again.payment.id) == "canceled"
    assert STAFF.user_id not in await actors(shop, again.payment.id)


async def test_a_payment_that_is_given_up_for_lack_of_goods_tells_that_it_failed(shop: Shop) -> None:
    """The buyer approved after the goods were gone: the payment ended, and the merchant's systems never heard of it."""
    order = await shop.order(("lamp", 3))
    wallet = await shop.start(order.id, "paypal")
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    other = await shop.order(("lamp", 3), actor=OTHER)
    await shop.start(other.id, "stripe", OTHER)
    shop.approve(wallet)
    with pytest.raises(SoldOut):
        await shop.complete(wallet.payment.id)
    assert await shop.payment_status(wallet.payment.id) == "failed"
    await shop.deliver()
    await shop.recover(after=60)
    told = await shop.rows("SELECT payload FROM outbox WHERE type = 'payment.failed' AND order_id = :id", id=order.id)
    assert len(told) == 1
    assert "goods were gone" in told[0]["payload"]
    assert shop.transport.calls("POST", "/capture") == []
    assert await shop.captures_booked() == 0
    await shop.assert_journal_equals_gateways()
