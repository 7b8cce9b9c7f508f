"""Answers that never come, processes that die, gateways that contradict us, and two gateways at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from paidonce import checkout
from paidonce.core import Actor
from paidonce.errors import AlreadyPaid, GatewayUnavailable, PaymentInProgress, SoldOut
from paidonce.gateways.base import Decline, DeclineCode, HttpRequest, HttpResponse, Progress, Snapshot
from paidonce.money import Money
from paidonce.ports import GatewayCallInsideTransaction, Transaction
from paidonce.settlement import settle
from support.shop import BUYER, Shop

GATEWAYS = ["stripe", "paypal"]
CREATE = {"stripe": "/v1/payment_intents", "paypal": "/v2/checkout/orders"}
KEY = {"stripe": "idempotency-key", "paypal": "paypal-request-id"}


def keys(shop: Shop, gateway: str, part: str) -> set[str]:
    return {
        value
        for request in shop.transport.calls("POST", part)
        for name, value in request.headers.items()
        if name.lower() == KEY[gateway]
    }


# ── Unknown outcomes ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_lost_answer_to_create_leads_to_the_same_object(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    shop.transport.lose_answers("POST", CREATE[gateway])
    with pytest.raises(GatewayUnavailable):
        await shop.start(order.id, gateway)
    rows = await shop.rows("SELECT status FROM payments")
    assert [row["status"] for row in rows] == ["created"], "unknown is neither failed nor forgotten"
    shop.transport.heal()
    started = await shop.start(order.id, gateway)
    assert not started.created
    assert len(keys(shop, gateway, CREATE[gateway])) == 1, "one operation, one key, also after the error"
    await shop.agree(started)
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_a_lost_answer_to_capture_is_unknown_and_the_same_key_finds_out(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)
    shop.transport.lose_answers("POST", "/capture")
    result = await shop.complete(started.payment.id)
    assert (result.unknown, result.recoverable) == (True, False)
    assert "not be charged twice" in result.message
    assert await shop.payment_status(started.payment.id) == "processing"
    assert await shop.order_status(order.id) == "pending"
    assert await shop.captures_booked() == 0
    shop.transport.heal()
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)
    assert len(keys(shop, "paypal", "/capture")) == 1


async def test_while_a_capture_is_unknown_no_other_gateway_may_start(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)
    shop.transport.lose_answers("POST", "/capture")
    await shop.complete(started.payment.id)
    asked = len(shop.transport.sent)
    for gateway in GATEWAYS:
        with pytest.raises(PaymentInProgress):
            await shop.start(order.id, gateway)
    with pytest.raises(PaymentInProgress):
        await checkout.cancel(shop.core, started.payment.id, BUYER)
    with pytest.raises(PaymentInProgress):
        await checkout.cancel_order(shop.core, order.id, BUYER)
    assert len(shop.transport.sent) == asked
    assert await shop.count("payments") == 1
    assert await shop.stock() == (10, 1), "the goods stay held"


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_gateway_that_does_not_answer_leaves_the_payment_as_it_is(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    shop.transport.lose_answers("GET", CREATE[gateway])
    result = await shop.complete(started.payment.id)
    assert result.unknown
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer"
    shop.transport.heal()
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_a_server_error_that_stripe_replays_for_ever_is_given_up(shop: Shop) -> None:
    """Stripe stores a 500 under its key: the same key would never succeed, and the create moved no money."""
    order = await shop.order()

    def replay(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        body = json.dumps({"error": {"type": "api_error", "message": "sorry"}}).encode()
        headers = {"content-type": "application/json", "idempotent-replayed": "true", "stripe-should-retry": "false"}
        return HttpResponse(500, headers, body)

    shop.transport.faults.append(("POST", "/v1/payment_intents", replay))
    with pytest.raises(GatewayUnavailable):
        await shop.start(order.id, "stripe")
    shop.transport.heal()
    started = await shop.start(order.id, "stripe")
    assert started.created, "a new attempt"
    assert len(keys(shop, "stripe", "/v1/payment_intents")) == 2
    assert [row["status"] for row in await shop.rows("SELECT status FROM payments ORDER BY created_at")] == [
        "failed",
        "awaiting_buyer",
    ]
    shop.confirm(started)
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_a_create_key_past_its_life_is_never_sent_again(shop: Shop) -> None:
    order = await shop.order()
    shop.transport.lose_answers("POST", "/v1/payment_intents")
    with pytest.raises(GatewayUnavailable):
        await shop.start(order.id, "stripe")
    shop.transport.heal()
    first = keys(shop, "stripe", "/v1/payment_intents")
    await shop.write("UPDATE orders SET expires_at = expires_at * 2")
    shop.clock.pass_seconds(shop.core.gateways["stripe"].create_key_life_seconds)
    shop.transport.sent.clear()
    started = await shop.start(order.id, "stripe")
    assert started.created
    assert keys(shop, "stripe", "/v1/payment_intents").isdisjoint(first)


async def test_a_capture_key_past_its_life_is_looked_up_and_never_posted_again(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)
    shop.transport.lose_answers("POST", "/capture")
    await shop.complete(started.payment.id)
    shop.transport.heal()
    shop.clock.pass_seconds(6 * 3600)
    shop.transport.sent.clear()
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    assert shop.transport.calls("POST", "/capture") == []
    await shop.assert_paid_once(order)


# ── Crashes ──────────


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code may catch it."""


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_process_that_died_after_the_create_call_goes_on_with_the_same_key(
    shop: Shop, restarted: Callable[[], Shop], gateway: str
) -> None:
    order = await shop.order()

    def die(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        raise Killed

    shop.transport.faults.append(("POST", CREATE[gateway], die))
    with pytest.raises(Killed):
        await shop.start(order.id, gateway)
    after = restarted()
    started = await after.start(order.id, gateway)
    assert keys(after, gateway, CREATE[gateway]) == keys(shop, gateway, CREATE[gateway])
    await after.agree(started)
    assert (await after.complete(started.payment.id)).order_status == "paid"
    await after.assert_paid_once(order)


async def test_a_process_that_died_after_the_capture_call_goes_on_with_the_same_key(
    shop: Shop, restarted: Callable[[], Shop]
) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)

    def die(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        raise Killed

    shop.transport.faults.append(("POST", "/capture", die))
    with pytest.raises(Killed):
        await shop.complete(started.payment.id)
    after = restarted()
    early = await after.complete(started.payment.id)
    assert early.unknown, "the dead process may still own the call"
    assert after.transport.calls("POST", "/capture") == []
    after.clock.pass_seconds(after.core.policy.claim_seconds)
    assert (await after.complete(started.payment.id)).order_status == "paid"
    assert keys(after, "paypal", "/capture") == keys(shop, "paypal", "/capture")
    await after.assert_paid_once(order)


async def test_a_gateway_call_inside_a_transaction_is_refused(shop: Shop) -> None:
    async def wrong(tx: Transaction) -> None:
        await shop.core.gateways["paypal"].fetch("anything")

    with pytest.raises(GatewayCallInsideTransaction):
        await shop.core.db.transaction(wrong)
    assert shop.transport.calls("GET", "/") == []


# ── Two gateways, one order ──────────


async def test_paypal_captures_only_after_stripe_said_canceled(shop: Shop) -> None:
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    assert (await shop.complete(wallet.payment.id)).order_status == "paid"
    paths = [request.url.rsplit("/", 1)[1] for request in shop.transport.sent if request.method == "POST"]
    assert paths.index("cancel") < paths.index("capture")
    assert await shop.payment_status(card.payment.id) == "canceled"
    assert shop.confirm(card).status == 400, "the card can't be charged any more"
    await shop.assert_paid_once(order)


async def test_a_card_that_went_through_meanwhile_wins_and_paypal_is_not_captured(shop: Shop) -> None:
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    shop.confirm(card)
    result = await shop.complete(wallet.payment.id)
    assert (result.payment.status, result.order_status) == ("canceled", "paid")
    assert "already paid" in result.message
    assert shop.transport.calls("POST", "/capture") == []
    assert await shop.payment_status(card.payment.id) == "captured"
    await shop.assert_paid_once(order)


async def test_while_stripe_does_not_answer_the_cancel_nothing_is_captured(shop: Shop) -> None:
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    shop.transport.lose_answers("POST", "/cancel")
    result = await shop.complete(wallet.payment.id)
    assert result.unknown
    assert shop.transport.calls("POST", "/capture") == []
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "stripe")
    shop.transport.heal()
    assert (await shop.complete(wallet.payment.id)).order_status == "paid"
    assert await shop.payment_status(card.payment.id) == "canceled"
    await shop.assert_paid_once(order)


async def test_both_gateways_at_the_same_moment_pay_once(shop: Shop) -> None:
    """Two tabs: the card is confirmed while PayPal's approval comes back."""
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    shop.confirm(card)
    both = [card.payment.id, wallet.payment.id] * 10
    await asyncio.gather(*(shop.complete(payment_id) for payment_id in both))
    await shop.assert_paid_once(order)
    assert await shop.payment_status(card.payment.id) == "captured"
    assert shop.transport.calls("POST", "/capture") == []


async def test_a_card_payment_whose_create_is_unknown_does_not_block_paypal(shop: Shop) -> None:
    order = await shop.order()
    shop.transport.lose_answers("POST", "/v1/payment_intents")
    with pytest.raises(GatewayUnavailable):
        await shop.start(order.id, "stripe")
    shop.transport.heal()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    assert (await shop.complete(wallet.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)
    statuses = await shop.rows("SELECT gateway, status FROM payments ORDER BY gateway")
    assert [(row["gateway"], row["status"]) for row in statuses] == [("paypal", "captured"), ("stripe", "canceled")]


async def test_a_start_overtaken_by_the_other_gateway_gets_no_client_values(shop: Shop) -> None:
    """The create call returns after PayPal took over: its client secret must not reach a browser."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    shop.approve(wallet)
    arrived, go_on = asyncio.Event(), asyncio.Event()
    send = shop.transport.send

    async def slow_send(request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        response = await send(request, deadline_seconds=deadline_seconds)
        if request.method == "POST" and request.url.endswith("/v1/payment_intents"):
            arrived.set()
            await go_on.wait()
        return response

    shop.transport.send = slow_send  # type: ignore[method-assign]
    starting = asyncio.create_task(shop.start(order.id, "stripe"))
    await arrived.wait()
    assert (await shop.complete(wallet.payment.id)).order_status == "paid"
    go_on.set()
    with pytest.raises(AlreadyPaid):
        await starting
    await shop.assert_paid_once(order)
    card = (await shop.rows("SELECT * FROM payments WHERE gateway = 'stripe'"))[0]
    assert card["status"] == "canceled"
    there = await shop.core.gateways["stripe"].fetch(card["gateway_ref"])
    assert there.progress is Progress.CANCELED, "known locally, and ended there"
    assert await shop.rows("SELECT * FROM operations WHERE state = 'recorded'") == [], "nothing is left to do"


async def test_an_order_that_stays_approved_after_a_decline_is_not_captured_again_by_itself(shop: Shop) -> None:
    """Real PayPal may keep a declined order APPROVED; a browser that asks again must not use up the rounds."""
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started, funding="declined")
    declined = await shop.complete(started.payment.id)
    shop.approve(started)  # Stands for the approval that never went away.
    for _ in range(5):
        assert await shop.complete(started.payment.id) == declined
    assert len(shop.transport.calls("POST", "/capture")) == 1
    assert await shop.order_status(order.id) == "open"
    await shop.start(order.id, "paypal")
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


# ── Contradictions and stale news ──────────


def snapshot_of(started: checkout.Started, **changes: Any) -> Snapshot:
    """What Stripe would say of a captured payment, with one thing changed."""
    view = started.payment
    ref = started.client["client_secret"].split("_secret_")[0]
    honest = Snapshot(
        gateway=view.gateway,
        ref=ref,
        progress=Progress.CAPTURED,
        amount=view.amount,
        payment_id=view.id,
        order_id=view.order_id,
        account="set by the test",
        live=False,
        raw_status="succeeded",
        captured=view.amount,
        capture_ref="ch_test",
    )
    return replace(honest, **changes)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("amount", {"amount": Money(1, "EUR"), "captured": Money(1, "EUR")}),
        ("captured amount", {"captured": Money(1, "EUR")}),
        ("amount", {"amount": Money(1999, "USD"), "captured": Money(1999, "USD")}),
        ("account", {"account": "acct_somebody_else"}),
        ("account", {"account": None}),
        ("live or test mode", {"live": True}),
        ("payment id", {"payment_id": "pay_of_somebody_else"}),
        ("payment id", {"payment_id": None}),
        ("order id", {"order_id": "ord_of_somebody_else"}),
    ],
)
async def test_an_object_that_contradicts_us_is_held_and_pays_nothing(
    shop: Shop, what: str, changes: dict[str, Any]
) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    account = (await shop.core.gateways["stripe"].account()).id
    lie = snapshot_of(started, **{"account": account, **changes})
    settled = await settle(shop.core, lie, trigger="test", asked_at=shop.clock.now())
    assert settled.payment.status == "held"
    assert what in (settled.payment.held_reason or "")
    assert await shop.order_status(order.id) == "open"
    assert await shop.stock() == (10, 1)
    credited = await shop.rows("SELECT account FROM journal_postings WHERE amount_minor < 0")
    assert [row["account"] for row in credited] == ["suspense"], "money that moved is booked, but not as a sale"
    ours = what not in ("account", "live or test mode")
    told = ["alarm.payment_held", *(["alarm.refund_due"] if ours else [])]
    assert await shop.events() == told, "what can be sent back goes back, and nothing is paid"
    for gateway in GATEWAYS:
        with pytest.raises(PaymentInProgress):
            await shop.start(order.id, gateway)
    honest = snapshot_of(started, account=account)
    again = await settle(shop.core, honest, trigger="test", asked_at=shop.clock.now())
    assert again.payment.status == "held", "a person decides"
    assert await shop.order_status(order.id) == "open"


async def test_the_intent_of_a_cheap_order_does_not_pay_an_expensive_one(shop: Shop) -> None:
    cheap, dear = await shop.order(("pen", 1)), await shop.order(("lamp", 1))
    paid = await shop.start(cheap.id, "stripe")
    owed = await shop.start(dear.id, "stripe")
    shop.confirm(paid)
    result = await shop.complete(owed.payment.id)
    assert result.payment.status == "awaiting_buyer"
    assert await shop.order_status(dear.id) == "open"
    assert await shop.stock("lamp") == (3, 1)
    assert (await shop.complete(paid.payment.id)).order_status == "paid"
    await shop.assert_paid_once(cheap)


async def test_old_news_changes_nothing(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    account = (await shop.core.gateways["stripe"].account()).id
    before = shop.clock.now()
    shop.confirm(started)
    await shop.complete(started.payment.id)
    decline = Decline(DeclineCode.CARD_DECLINED, recoverable=True, raw_code="card_declined")
    stale = snapshot_of(
        started, account=account, progress=Progress.AWAITING_BUYER, captured=None, capture_ref=None, decline=decline
    )
    for asked_at in (before, shop.clock.now()):
        await settle(shop.core, stale, trigger="test", asked_at=asked_at)
        await settle(shop.core, replace(stale, progress=Progress.CANCELED), trigger="test", asked_at=asked_at)
    assert await shop.payment_status(started.payment.id) == "captured"
    await shop.assert_paid_once(order)
    assert await shop.captures_booked() == 1


async def test_a_second_snapshot_of_the_same_capture_adds_nothing(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    shop.confirm(started)
    ref = started.client["client_secret"].split("_secret_")[0]
    snapshot = await shop.core.gateways["stripe"].fetch(ref)
    asked_at = shop.clock.now()
    await asyncio.gather(*(settle(shop.core, snapshot, trigger="test", asked_at=asked_at) for _ in range(20)))
    await shop.assert_paid_once(order)
    assert await shop.stock() == (9, 0)
    assert await shop.events() == ["order.paid"]


async def test_slow_money_is_pending_for_buyer_and_stock(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started, funding="pending")
    result = await shop.complete(started.payment.id)
    assert (result.payment.status, result.order_status) == ("processing", "pending")
    assert await shop.stock() == (10, 1)
    assert await shop.captures_booked() == 0
    shop.clock.pass_seconds(shop.core.policy.hold_seconds + 1)
    other = await shop.order(("mug", 10), actor=Actor("usr_other"))
    with pytest.raises(SoldOut):
        await shop.start(other.id, "stripe", Actor("usr_other"))
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "stripe")
    shop.twins["paypal"].clear_pending(started.client["order_id"], now=shop.clock.now())
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_no_client_secret_is_ever_stored(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    secret = started.client["client_secret"]
    shop.confirm(started)
    await shop.complete(started.payment.id)
    for table in ("payments", "operations", "history", "outbox", "journal_entries"):
        for row in await shop.rows(f"SELECT * FROM {table}"):  # noqa: S608
            assert not any(secret in str(value) for value in row.values()), table
    assert secret not in repr(started)
