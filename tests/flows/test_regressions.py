"""Bugs that a user could have hit, each frozen with its story in one sentence."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from paidonce import checkout
from paidonce.core import Actor
from paidonce.errors import InvalidRequest, OutcomeUnknown, PaymentInProgress, Problem
from paidonce.gateways.base import HttpRequest, HttpResponse, Progress
from paidonce.ports import SECOND
from paidonce.settlement import settle
from support.books import captures_at_gateways
from support.shop import BUYER, Shop

OTHER = Actor("usr_other")

# Where captures went; fees go elsewhere and are none of these stories.
CREDITED = (
    "SELECT p.account FROM journal_postings p JOIN journal_entries e ON e.id = p.entry_id"
    " WHERE e.kind = 'capture' AND p.amount_minor < 0 ORDER BY p.account"
)


def json_answer(status: int, body: dict[str, Any]) -> HttpResponse:
    return HttpResponse(status, {"content-type": "application/json"}, json.dumps(body).encode())


def paypal_refusal(issue: str) -> HttpResponse:
    return json_answer(422, {"name": "UNPROCESSABLE_ENTITY", "details": [{"issue": issue}]})


def before_the_capture(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """A lagging read: PayPal shows the order as it was before its capture."""
    body = json.loads(response.body)
    body["status"] = "APPROVED"
    for unit in body["purchase_units"]:
        unit.pop("payments", None)
    return HttpResponse(200, response.headers, json.dumps(body).encode())


async def walk_away_with_the_lamps(shop: Shop) -> None:
    """Another buyer takes over goods whose hold ran out, and lets that hold run out as well."""
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    order = await shop.order(("lamp", 3), actor=OTHER)
    await shop.start(order.id, "stripe", OTHER)
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)


async def test_a_late_refusal_does_not_end_a_payment_that_another_tab_opened(shop: Shop) -> None:
    """Tab 1's create was refused slowly, tab 2's went through; the refusal freed the right while a card was entered."""
    order = await shop.order()
    refusing, go_on = asyncio.Event(), asyncio.Event()
    send, creates = shop.transport.send, 0

    async def first_is_refused(request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        nonlocal creates
        if request.method == "POST" and request.url.endswith("/v1/payment_intents"):
            creates += 1
            if creates == 1:
                refusing.set()
                await go_on.wait()
                return json_answer(400, {"error": {"type": "invalid_request_error", "code": "odd", "message": "no"}})
        return await send(request, deadline_seconds=deadline_seconds)

    shop.transport.send = first_is_refused  # type: ignore[method-assign]
    tab_1 = asyncio.create_task(shop.start(order.id, "stripe"))
    await refusing.wait()
    card = await shop.start(order.id, "stripe")
    go_on.set()
    with pytest.raises(InvalidRequest):
        await tab_1
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    await shop.complete(wallet.payment.id)
    assert shop.confirm(card).status == 400, "the handover canceled the card payment first"
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)


async def test_a_lagging_read_does_not_release_a_pending_capture(shop: Shop) -> None:
    """PayPal's read lagged behind its own pending capture, and the order was open for a second payment."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet, funding="pending")
    assert (await shop.complete(wallet.payment.id)).payment.status == "processing"
    shop.transport.faults.append(("GET", "/v2/checkout/orders", before_the_capture))
    for _ in range(3):
        assert (await shop.complete(wallet.payment.id)).payment.status == "processing"
    assert len(shop.transport.calls("POST", "/capture")) == 1
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "stripe")
    shop.transport.heal()
    shop.twins["paypal"].clear_pending(wallet.client["order_id"], now=shop.clock.now())
    await shop.complete(wallet.payment.id)
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)


async def test_clocks_that_differ_do_not_make_old_news_new(shop: Shop) -> None:
    """A second process whose clock was ahead read the order before its capture and told that afterwards."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet, funding="pending")
    early = await shop.core.gateways["paypal"].fetch(wallet.client["order_id"])
    await shop.complete(wallet.payment.id)
    settled = await settle(shop.core, early, trigger="test", asked_at=shop.clock.now() + SECOND)
    assert settled.overtaken
    assert settled.command is None
    assert (settled.payment.status, settled.payment.capture_right) == ("processing", "held")
    assert settled.order.status == "pending"


async def test_money_captured_behind_a_held_payment_is_booked_and_told(shop: Shop) -> None:
    """A payment was held for an operator before the card went through, and nobody heard of the money."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    ref = card.client["client_secret"].split("_secret_")[0]
    seen = await shop.core.gateways["stripe"].fetch(ref)
    await settle(shop.core, replace(seen, payment_id=None), trigger="test", asked_at=shop.clock.now())
    assert shop.confirm(card).status == 200
    for _ in range(2):
        assert (await shop.complete(card.payment.id)).payment.status == "held"
    assert await shop.order_status(order.id) == "open", "held money pays nothing"
    credited = await shop.rows(CREDITED)
    assert [row["account"] for row in credited] == ["suspense"]
    assert await shop.events() == ["alarm.payment_held", "alarm.refund_due", "alarm.payment_held"]


async def test_an_object_that_contradicts_its_create_call_is_still_known(shop: Shop) -> None:
    """The gateway's first answer contradicted us, and its object was forgotten."""
    order = await shop.order()

    def dearer(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        body = json.loads(response.body)
        return HttpResponse(200, response.headers, json.dumps({**body, "amount": body["amount"] + 1}).encode())

    shop.transport.faults.append(("POST", "/v1/payment_intents", dearer))
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "stripe")
    rows = await shop.rows("SELECT status, gateway_ref FROM payments")
    assert [row["status"] for row in rows] == ["held"]
    assert rows[0]["gateway_ref"] is not None
    intended = await shop.rows("SELECT kind FROM operations WHERE state = 'recorded'")
    assert [row["kind"] for row in intended] == ["void"], "what the browser could confirm is to be ended"


async def test_late_money_takes_goods_that_others_left_behind(shop: Shop) -> None:
    """The goods lay on the shelf under a hold that had run out, and the payment was to be refunded all the same."""
    order = await shop.order(("lamp", 3))
    card = await shop.start(order.id, "stripe")
    await walk_away_with_the_lamps(shop)
    shop.confirm(card)
    assert (await shop.complete(card.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)
    assert await shop.stock("lamp") == (0, 0)


async def test_a_late_approval_takes_goods_that_others_left_behind(shop: Shop) -> None:
    """The same at PayPal: the buyer was told "sold out" although the other buyer's hold had run out."""
    order = await shop.order(("lamp", 3))
    wallet = await shop.start(order.id, "paypal")
    await walk_away_with_the_lamps(shop)
    shop.approve(wallet)
    assert (await shop.complete(wallet.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_money_that_goes_back_is_not_thanked_for_and_no_more_is_taken(shop: Shop) -> None:
    """The buyer whose goods were gone read "Thank you!", and PayPal could be captured while the card was still owed."""
    order = await shop.order(("lamp", 3))
    wallet = await shop.start(order.id, "paypal")
    card = await shop.start(order.id, "stripe")
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    other = await shop.order(("lamp", 3), actor=OTHER)
    await shop.start(other.id, "stripe", OTHER)
    shop.confirm(card)
    result = await shop.complete(card.payment.id)
    assert (result.payment.status, result.order_status) == ("captured", "open")
    assert "get it back" in result.message
    assert "Thank you" not in result.message
    await shop.core.db.transaction(shop.store.adjust_stock, sku="lamp", adjust=3, actor="test", now=shop.clock.now())
    shop.approve(wallet)
    assert (await shop.complete(wallet.payment.id)).payment.status == "canceled"
    for gateway in ("stripe", "paypal"):
        with pytest.raises(PaymentInProgress, match="goes back to you"):
            await shop.start(order.id, gateway)
    assert captures_at_gateways(shop, order.id) == 1
    credited = await shop.rows(CREDITED)
    assert [row["account"] for row in credited] == ["owed_to_buyer"]


async def test_a_void_that_the_gateway_knows_nothing_of_is_an_alarm(shop: Shop) -> None:
    """Keys of another account: the buyer saw "we are checking" for ever, and no operator was told."""
    order = await shop.order()
    await shop.start(order.id, "stripe")
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)

    def unknown(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        error = {"type": "invalid_request_error", "code": "resource_missing", "message": "No such payment_intent"}
        return json_answer(404, {"error": error})

    shop.transport.faults.append(("POST", "/cancel", unknown))
    assert (await shop.complete(wallet.payment.id)).unknown
    assert "alarm.gateway" in await shop.events()
    assert shop.transport.calls("POST", "/capture") == []


async def test_an_unknown_capture_is_found_out_though_the_order_was_closed(shop: Shop) -> None:
    """A host closed the order while a capture was unknown; the payment was closed too, and the money never booked."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    shop.transport.lose_answers("POST", "/capture")
    await shop.complete(wallet.payment.id)
    shop.transport.heal()
    await shop.write("UPDATE orders SET status = 'canceled' WHERE id = :id", id=order.id)
    assert (await shop.complete(wallet.payment.id)).payment.status == "captured"
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)


@pytest.mark.parametrize("gateway", ["stripe", "paypal"])
async def test_an_order_that_was_edited_is_not_paid_by_its_old_amount(shop: Shop, gateway: str) -> None:
    """A host raised the total after the payment had started, and the smaller payment paid the order."""
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.write("UPDATE orders SET due_minor = 5000, total_minor = 5000 WHERE id = :id", id=order.id)
    again = await shop.start(order.id, gateway)
    assert again.payment.id != started.payment.id
    assert again.payment.amount.minor == 5000
    assert await shop.payment_status(started.payment.id) == "canceled"
    await shop.agree(again)
    assert (await shop.complete(again.payment.id)).order_status == "paid"
    assert captures_at_gateways(shop, order.id) == 1


@pytest.mark.parametrize("gateway", ["stripe", "paypal"])
async def test_an_order_edited_at_the_last_moment_is_not_paid(shop: Shop, gateway: str) -> None:
    """The same without a second start: the browser confirms the old amount."""
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    await shop.write("UPDATE orders SET due_minor = 5000, total_minor = 5000 WHERE id = :id", id=order.id)
    result = await shop.complete(started.payment.id)
    assert result.payment.status == ("held" if gateway == "stripe" else "canceled")
    assert await shop.order_status(order.id) == "open"
    assert shop.transport.calls("POST", "/capture") == []


async def test_a_refusal_says_nothing_of_a_try_that_is_still_on_its_way(shop: Shop) -> None:
    """The first capture was slow, its repeat was refused with an unknown issue: the payment failed, the money moved."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    send, tries = shop.transport.send, []

    async def slow_then_refused(request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        if request.method == "POST" and request.url.endswith("/capture"):
            tries.append(request)
            if len(tries) == 1:
                raise OutcomeUnknown("reset after sending")
            return paypal_refusal("SOMETHING_NEW")
        return await send(request, deadline_seconds=deadline_seconds)

    shop.transport.send = slow_then_refused  # type: ignore[method-assign]
    assert (await shop.complete(wallet.payment.id)).unknown
    shop.transport.send = send  # type: ignore[method-assign]
    assert len(tries) == 2
    await send(tries[0], deadline_seconds=1)
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "stripe")
    assert (await shop.complete(wallet.payment.id)).order_status == "paid"
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)


async def test_a_key_that_met_another_body_is_an_alarm(shop: Shop) -> None:
    """Stripe said that a key had gone out with two bodies, and the shop quietly tried anew."""
    order = await shop.order()

    def mismatch(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        return json_answer(400, {"error": {"type": "idempotency_error", "message": "Keys can only be used once"}})

    shop.transport.faults.append(("POST", "/v1/payment_intents", mismatch))
    with pytest.raises(InvalidRequest):
        await shop.start(order.id, "stripe")
    assert await shop.events() == ["payment.failed", "alarm.gateway"]


async def test_a_held_payment_stops_the_other_gateway_too(shop: Shop) -> None:
    """Money had been captured behind an ended payment, and PayPal was captured for the same order beside it."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    card = await shop.start(order.id, "stripe")
    ref = card.client["client_secret"].split("_secret_")[0]
    seen = await shop.core.gateways["stripe"].fetch(ref)
    await checkout.cancel(shop.core, card.payment.id, BUYER)
    behind = replace(
        seen, progress=Progress.CAPTURED, raw_status="succeeded", captured=seen.amount, capture_ref="ch_behind"
    )
    settled = await settle(shop.core, behind, trigger="test", asked_at=shop.clock.now())
    assert (settled.payment.status, settled.payment.capture_right) == ("held", None)
    assert (await shop.complete(wallet.payment.id)).unknown
    assert shop.transport.calls("POST", "/capture") == []
    assert await shop.order_status(order.id) == "open"


async def test_an_old_verdict_does_not_end_a_new_round(shop: Shop) -> None:
    """A slow look after a refusal called the payment failed while the buyer's next capture was under way."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    looking, verdict = asyncio.Event(), asyncio.Event()
    arrived, answer = asyncio.Event(), asyncio.Event()
    send, captures = shop.transport.send, 0
    first: asyncio.Task[checkout.Result] | None = None

    async def interleaved(request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        nonlocal captures
        if request.method == "POST" and request.url.endswith("/capture"):
            captures += 1
            if captures == 1:
                return paypal_refusal("SOMETHING_NEW")
            if captures == 3:
                arrived.set()
                await answer.wait()
        response = await send(request, deadline_seconds=deadline_seconds)
        if request.method == "GET" and captures == 1 and asyncio.current_task() is first:
            looking.set()
            await verdict.wait()
        return response

    shop.transport.send = interleaved  # type: ignore[method-assign]
    first = asyncio.create_task(shop.complete(wallet.payment.id))
    await looking.wait()
    shop.clock.pass_seconds(shop.core.policy.claim_seconds + 1)
    shop.approve(wallet, funding="declined")
    assert (await shop.complete(wallet.payment.id)).recoverable
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    second = asyncio.create_task(shop.complete(wallet.payment.id))
    await arrived.wait()
    verdict.set()
    assert (await first).payment.status == "processing"
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "stripe")
    answer.set()
    assert (await second).order_status == "paid"
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)


async def test_two_buyers_who_clean_up_do_not_wait_for_each_other(shop: Shop) -> None:
    """Ended holds were freed order by order, so that two buyers locked the same stock in opposite orders."""
    skus = ("mug", "lamp", "pen")
    for first in range(12):
        actor = Actor(f"usr_{first}")
        order = await shop.order((skus[first % 3], 1), (skus[(first + 1) % 3], 1), actor=actor)
        try:
            await shop.start(order.id, "paypal", actor)
        except Problem:
            continue
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    orders = [(await shop.order(("lamp", 3), ("mug", 5), actor=Actor(f"b{n}")), Actor(f"b{n}")) for n in range(8)]

    async def try_to_start(order_id: str, actor: Actor) -> str:
        try:
            await shop.start(order_id, "stripe", actor)
        except Problem as problem:
            return problem.code
        return "started"

    outcomes = await asyncio.gather(*(try_to_start(order.id, actor) for order, actor in orders))
    assert sorted(outcomes) == ["sold_out"] * 7 + ["started"]
    assert await shop.stock("lamp") == (3, 3)


async def test_a_capture_behind_a_held_payment_is_booked_though_its_answer_was_lost(shop: Shop) -> None:
    """The capture's answer was lost, a contradictory reading held the payment, and nobody looked at the money again."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    seen = await shop.core.gateways["paypal"].fetch(wallet.client["order_id"])
    shop.transport.lose_answers("POST", "/capture")
    await shop.complete(wallet.payment.id)
    shop.transport.heal()
    foreign = replace(seen, account="SOMEBODYELSE1")
    await settle(shop.core, foreign, trigger="test", asked_at=shop.clock.now())
    assert (await shop.complete(wallet.payment.id)).payment.status == "held"
    assert captures_at_gateways(shop, order.id) == 1
    credited = await shop.rows(CREDITED)
    assert [row["account"] for row in credited] == ["suspense"]
    assert await shop.order_status(order.id) == "pending", "not paid, and not free for another payment either"


async def test_an_answer_that_names_no_capture_is_asked_for_again(shop: Shop) -> None:
    """PayPal answered a capture with a status nobody knew and without a capture; the payment was stuck for ever."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)

    def odd(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        body = json.loads(before_the_capture(request, response).body)
        return HttpResponse(201, response.headers, json.dumps({**body, "status": "SOMETHING_NEW"}).encode())

    shop.transport.faults.append(("POST", "/capture", odd))
    assert (await shop.complete(wallet.payment.id)).payment.status == "processing"
    shop.transport.heal()
    assert (await shop.complete(wallet.payment.id)).order_status == "paid"
    captures = shop.transport.calls("POST", "/capture")
    assert len({request.headers["paypal-request-id"] for request in captures}) == 1
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_paid_once(order)


async def test_an_old_processing_does_not_take_back_a_newer_decline(shop: Shop) -> None:
    """A slow "processing" arrived after the bank had declined, and the buyer could not pay otherwise for two weeks."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    ref = card.client["client_secret"].split("_secret_")[0]
    before = shop.clock.now()
    slow = replace(await shop.core.gateways["stripe"].fetch(ref), progress=Progress.PROCESSING)
    shop.confirm(card, card="pm_card_visa_chargeDeclined")
    assert (await shop.complete(card.payment.id)).recoverable
    settled = await settle(shop.core, slow, trigger="test", asked_at=before)
    assert settled.overtaken
    assert settled.payment.status == "awaiting_buyer"
    assert await shop.order_status(order.id) == "open"


async def test_money_that_pays_is_thanked_for_whoever_held_the_right(shop: Shop) -> None:
    """An object that was captured without our asking paid the order, and the buyer read that the money comes back."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    seen = await shop.core.gateways["paypal"].fetch(wallet.client["order_id"])
    captured = replace(seen, progress=Progress.CAPTURED, captured=seen.amount, capture_ref="CAPTURE1")
    await settle(shop.core, captured, trigger="test", asked_at=shop.clock.now())
    result = await shop.complete(wallet.payment.id)
    assert result.order_status == "paid"
    assert "Thank you" in result.message
    await shop.assert_paid_once(order)


async def test_a_problem_that_stays_is_told_once_an_hour(shop: Shop) -> None:
    """Every poll of the order page sent the operator one more alarm about the same payment."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")

    def forgotten(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        error = {"type": "invalid_request_error", "code": "resource_missing", "message": "No such payment_intent"}
        return json_answer(404, {"error": error})

    shop.transport.faults.append(("GET", "/v1/payment_intents", forgotten))
    for _ in range(5):
        assert (await shop.complete(card.payment.id)).unknown
    assert await shop.events() == ["alarm.gateway"]
    shop.clock.pass_seconds(3600)
    await shop.complete(card.payment.id)
    assert await shop.events() == ["alarm.gateway"] * 2
    shop.clock.pass_seconds(-24 * 3600)
    await shop.complete(card.payment.id)
    assert await shop.events() == ["alarm.gateway"] * 3, "an alarm from before the clock was set back silences nothing"
    assert await shop.payment_status(card.payment.id) == "awaiting_buyer", "unknown there is no failure here"
