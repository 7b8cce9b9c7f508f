"""Mollie in a whole shop: paid once, refunded, charged back, and untouched by strangers who post ids."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

import paidonce.inbox
from gateways.mollie.acting import choose, paid
from paidonce import captures, recovery
from paidonce.errors import GatewayError, Problem
from paidonce.gateways.base import HttpRequest
from paidonce.ports import SECOND
from support.shop import STAFF, Shop

DAY = 24 * 3600
FORM = {"content-type": "application/x-www-form-urlencoded"}


def webhook(body: str) -> HttpRequest:
    return HttpRequest("POST", "/webhooks/mollie", FORM, body.encode())


async def inbox(shop: Shop) -> list[str]:
    return [row["state"] for row in await shop.rows("SELECT state FROM inbox ORDER BY received_at")]


async def test_paid_once_however_many_ask(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    assert await shop.order_status(order.id) == "open"
    choose(shop, started, "card")
    ask = (shop.complete(started.payment.id) for _ in range(10))
    results = await asyncio.gather(*ask, shop.deliver(), shop.recover())
    assert results
    await shop.assert_paid_once(order)
    assert await shop.stock() == (9, 0)
    await shop.assert_journal_equals_gateways()
    assert shop.transport.calls("POST", "/captures") == [], "the browser has moved the money already"


@pytest.mark.parametrize("by", ["webhook", "recovery"])
async def test_a_closed_tab_is_paid_all_the_same(shop: Shop, by: str) -> None:
    order = await shop.order()
    choose(shop, await shop.start(order.id, "mollie"), "card")
    if by == "webhook":
        assert await shop.deliver() == ["new"]
    else:
        shop.webhooks()
        await shop.recover(after=700)
    await shop.assert_paid_once(order)


async def test_a_failed_payment_is_final_and_the_next_one_pays(shop: Shop) -> None:
    order = await shop.order()
    first = await shop.start(order.id, "mollie")
    choose(shop, first, "failing")
    result = await shop.complete(first.payment.id)
    assert (str(result.payment.status), result.recoverable) == ("failed", False)
    assert await shop.stock() == (10, 1), "nothing has left the shelf, and the goods stay held for another try"
    second = await shop.start(order.id, "mollie")
    assert second.payment.id != first.payment.id
    choose(shop, second, "card")
    await shop.complete(second.payment.id)
    await shop.assert_paid_once(order)


async def test_a_decline_at_mollies_own_page_is_no_news_here(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    assert choose(shop, started, "declined") == 303
    result = await shop.complete(started.payment.id)
    assert str(result.payment.status) == "awaiting_buyer"
    # A reloaded pay page leads to the same checkout.
    again = await shop.start(order.id, "mollie")
    assert again.payment.id == started.payment.id
    assert dict(again.client) == dict(started.client)
    choose(shop, again, "card")
    await shop.complete(started.payment.id)
    await shop.assert_paid_once(order)


async def test_a_buyer_who_turned_back_may_begin_anew(shop: Shop) -> None:
    order = await shop.order()
    first = await shop.start(order.id, "mollie")
    choose(shop, first, "cancel")
    second = await shop.start(order.id, "mollie")
    assert second.payment.id != first.payment.id
    assert await shop.payment_status(first.payment.id) == "canceled"
    choose(shop, second, "card")
    await shop.complete(second.payment.id)
    await shop.assert_paid_once(order)


async def test_a_create_whose_answer_was_lost_is_found_by_its_key(shop: Shop) -> None:
    order = await shop.order()
    shop.transport.lose_answers("POST", "/v2/payments")
    with pytest.raises(Problem):
        await shop.start(order.id, "mollie")
    shop.transport.heal()
    started = await shop.start(order.id, "mollie")
    assert len(shop.twins["mollie"].look("payments")) == 1
    choose(shop, started, "card")
    await shop.complete(started.payment.id)
    await shop.assert_paid_once(order)


async def test_past_its_hour_a_create_is_abandoned_and_takes_no_money(shop: Shop) -> None:
    order = await shop.order()
    shop.transport.lose_answers("POST", "/v2/payments")
    with pytest.raises(Problem):
        await shop.start(order.id, "mollie")
    shop.transport.heal()
    shop.clock.pass_seconds(3600)
    started = await shop.start(order.id, "mollie")
    keys = {one.headers["idempotency-key"] for one in shop.transport.calls("POST", "/v2/payments")}
    assert len(keys) == 2
    choose(shop, started, "card")
    await shop.complete(started.payment.id)
    await shop.assert_paid_once(order)
    assert len(shop.twins["mollie"].books()) == 1


async def test_past_its_hour_a_refund_is_looked_up_and_not_made_twice(shop: Shop) -> None:
    order_id, payment_id = await paid(shop)
    shop.transport.lose_answers("POST", "/refunds")
    await shop.refund(payment_id, 500)
    assert await shop.refund_states(payment_id) == [(500, "recorded")]
    shop.transport.heal()
    shop.transport.sent.clear()
    await shop.recover(after=2 * 3600)
    assert await shop.refund_states(payment_id) == [(500, "succeeded")]
    assert shop.transport.calls("POST", "/refunds") == []
    assert await shop.refund_status(order_id) == "partial"
    await shop.assert_journal_equals_gateways()


# ── Open payments that can't be ended ──────────


async def test_a_payment_that_mollie_will_not_end_keeps_its_right_until_it_expires(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    with pytest.raises(Problem) as caught:
        await shop.start(order.id, "stripe")
    assert caught.value.code == "payment_in_progress"
    assert shop.transport.calls("POST", "/payment_intents") == [], "nothing that could take money a second time"
    shop.clock.pass_seconds(16 * 60)
    card = await shop.start(order.id, "stripe")
    assert await shop.payment_status(started.payment.id) == "canceled"
    assert choose(shop, started, "card") == 409
    assert shop.confirm(card).status == 200
    await shop.complete(card.payment.id)
    await shop.assert_paid_once(order)


async def test_whoever_pays_at_mollie_after_all_is_not_charged_by_card_too(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    with pytest.raises(Problem):
        await shop.start(order.id, "stripe")
    choose(shop, started, "card")
    for _ in range(2):
        # The first try finds out, the second one knows.
        with pytest.raises(Problem) as caught:
            await shop.start(order.id, "stripe")
    assert caught.value.code == "already_paid"
    assert shop.transport.calls("POST", "/payment_intents") == []
    await shop.assert_paid_once(order)
    await shop.assert_journal_equals_gateways()


async def test_after_a_change_of_mind_the_same_checkout_is_open_again(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    with pytest.raises(Problem):
        await shop.start(order.id, "stripe")
    again = await shop.start(order.id, "mollie")
    assert again.payment.id == started.payment.id
    assert dict(again.client) == dict(started.client)
    # What the buyer wanted to leave is not ended behind his back.
    await shop.recover(after=120)
    choose(shop, again, "card")
    await shop.complete(again.payment.id)
    await shop.assert_paid_once(order)
    assert len(shop.twins["mollie"].look("payments")) == 1
    voids = await shop.rows("SELECT state FROM operations WHERE kind = 'void'")
    assert [row["state"] for row in voids] == ["abandoned"]


async def test_an_awaited_transfer_keeps_the_goods_and_arrives(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    choose(shop, started, "banktransfer")
    await shop.complete(started.payment.id)
    await shop.recover(after=3 * 24 * 3600)
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer"
    assert await shop.stock() == (10, 1), "nobody lets the goods of money go that is on its way"
    shop.control("mollie", "clear_pending", payment=await shop.ref(started.payment.id))
    assert await shop.deliver() == ["new"]
    await shop.assert_paid_once(order)


async def test_a_buyer_who_waits_for_his_transfer_may_pay_by_card_instead(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    choose(shop, started, "banktransfer")
    await shop.complete(started.payment.id)
    card = await shop.start(order.id, "stripe")
    assert shop.twins["mollie"].look("payments")[await shop.ref(started.payment.id)]["status"] == "canceled"
    assert shop.confirm(card).status == 200
    await shop.complete(card.payment.id)
    await shop.assert_paid_once(order)


# ── Captures that wait ──────────


async def reserved(shop: Shop) -> tuple[str, str]:
    """An order whose money is reserved at Mollie and waits for staff: the ids of the order and its payment."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    choose(shop, started, "card")
    assert str((await shop.complete(started.payment.id)).payment.status) == "authorized"
    return order.id, started.payment.id


def asked(shop: Shop) -> list[tuple[int, str]]:
    """The captures at Mollie, in minor units and with their states."""
    return [(one["minor"], one["status"]) for one in shop.twins["mollie"].look("captures").values()]


@pytest.mark.parametrize("days", [0, 2])
async def test_a_capture_that_waits_and_fails_gives_the_payment_back_to_staff(manual: Shop, days: int) -> None:
    """A capture that was pending counted as done, so its failure was old news for ever and the order was locked."""
    shop = manual
    order_id, payment_id = await reserved(shop)
    shop.control("mollie", "pend_captures", on="true")
    assert str((await captures.capture(shop.core, payment_id, STAFF)).payment.status) == "processing"
    await shop.recover(after=days * DAY)
    assert await shop.payment_status(payment_id) == "processing"
    with pytest.raises(Problem) as caught:
        await captures.release(shop.core, payment_id, STAFF)
    assert caught.value.code == "not_authorized"

    shop.control("mollie", "fail_capture", payment=await shop.ref(payment_id))
    await shop.recover(after=DAY)
    assert await shop.payment_status(payment_id) == "authorized"
    assert await shop.order_status(order_id) == "pending"
    assert await shop.captures_booked() == 0
    assert await shop.stock() == (10, 1), "the goods wait for the next try"

    shop.control("mollie", "pend_captures", on="false")
    assert str((await captures.capture(shop.core, payment_id, STAFF)).order_status) == "paid"
    assert asked(shop) == [(1999, "failed"), (1999, "succeeded")]
    assert await shop.captures_booked() == 1
    await shop.assert_journal_equals_gateways()


async def test_after_a_failed_capture_the_money_can_be_released(manual: Shop) -> None:
    """Staff who could neither capture nor release left the buyer's money reserved until it lapsed."""
    shop = manual
    _, payment_id = await reserved(shop)
    shop.control("mollie", "pend_captures", on="true")
    await captures.capture(shop.core, payment_id, STAFF)
    shop.control("mollie", "fail_capture", payment=await shop.ref(payment_id))
    await shop.recover(after=120)
    released = await captures.release(shop.core, payment_id, STAFF)
    assert (str(released.payment.status), str(released.order_status)) == ("canceled", "open")
    assert shop.twins["mollie"].books() == ()
    assert await shop.captures_booked() == 0


async def test_a_capture_that_waits_is_not_taken_twice_after_its_keys_life(manual: Shop) -> None:
    """Its answer was lost and its key forgotten: the reading said "reserved", and staff captured a second time."""
    shop = manual
    order_id, payment_id = await reserved(shop)
    shop.control("mollie", "pend_captures", on="true")
    # So Mollie would take the second one as well.
    shop.control("mollie", "keep_rests", on="true")
    shop.transport.lose_answers("POST", "/captures")
    assert (await captures.capture(shop.core, payment_id, STAFF, amount_minor=500)).unknown
    shop.transport.heal()
    await shop.recover(after=3500)
    await shop.recover(after=3500)
    assert await shop.payment_status(payment_id) == "processing"
    assert str((await captures.capture(shop.core, payment_id, STAFF, amount_minor=500)).payment.status) == "processing"
    with pytest.raises(Problem):
        await captures.capture(shop.core, payment_id, STAFF, amount_minor=600)
    assert asked(shop) == [(500, "pending")]

    shop.control("mollie", "finish_capture", payment=await shop.ref(payment_id))
    await shop.deliver()
    await shop.recover(after=DAY)
    assert await shop.payment_status(payment_id) == "captured"
    assert await shop.order_status(order_id) == "paid"
    assert [one.minor for one in shop.twins["mollie"].books()] == [500]
    await shop.assert_journal_equals_gateways()


# ── Refunds and chargebacks ──────────


async def test_refunds_of_ours_and_of_the_dashboard_are_each_booked_once(shop: Shop) -> None:
    order_id, payment_id = await paid(shop)
    await shop.refund(payment_id, 500)
    shop.control("mollie", "dashboard_refund", payment=await shop.ref(payment_id), amount="4.99")
    for _ in range(2):
        await shop.deliver()
        await shop.recover(after=3 * 24 * 3600)
    assert await shop.refund_states(payment_id) == [(500, "succeeded"), (499, "succeeded")]
    assert await shop.refund_status(order_id) == "partial"
    assert await shop.order_status(order_id) == "paid"
    await shop.assert_journal_equals_gateways()


async def test_a_refund_that_waits_and_is_canceled_leaves_the_money_here(shop: Shop) -> None:
    order_id, payment_id = await paid(shop)
    shop.control("mollie", "pend_refunds", on="true")
    refunded = await shop.refund(payment_id)
    assert refunded.refund.state == "pending"
    ref = next(iter(shop.twins["mollie"].look("refunds")))
    shop.control("mollie", "fail_refund", refund=ref, status="canceled")
    await shop.deliver()
    assert await shop.refund_states(payment_id) == [(1999, "failed")]
    assert await shop.refund_status(order_id) == "none"
    await shop.assert_journal_equals_gateways()


async def test_a_chargeback_is_a_loss_at_once_and_a_reversal_brings_it_back(shop: Shop) -> None:
    order_id, payment_id = await paid(shop)
    ref = await shop.ref(payment_id)
    chargeback = shop.control("mollie", "open_dispute", payment=ref)["chargeback"]
    await shop.deliver()
    assert (await shop.balances(order_id))["dispute_losses"] == 1999
    assert "disputed" not in await shop.balances(order_id)
    assert await shop.order_status(order_id) == "paid", "an order that was paid stays so"
    with pytest.raises((Problem, GatewayError)):
        await shop.refund(payment_id)
    await shop.assert_journal_equals_gateways()

    shop.control("mollie", "reverse_dispute", chargeback=chargeback)
    for _ in range(2):
        await shop.deliver()
        await shop.recover(after=24 * 3600)
    assert "dispute_losses" not in await shop.balances(order_id)
    assert [row["state"] for row in await shop.rows("SELECT state FROM disputes")] == ["won"]
    told = [one for one in await shop.events() if one.startswith("dispute")]
    assert told == ["dispute.opened", "dispute.lost", "dispute.won"]
    assert "alarm.dispute_changed" not in await shop.events()
    await shop.assert_journal_equals_gateways()
    assert (await shop.refund(payment_id)).refund.state == "succeeded", "what came back can go to the buyer"


async def test_money_without_an_order_goes_back_once_its_chargeback_was_reversed(shop: Shop) -> None:
    """Nothing could be sent back while the bank had it; a reversal must not leave it here for good."""
    order = await shop.order(("lamp", 3))
    started = await shop.start(order.id, "mollie")
    # Its goods were let go and sold to somebody else before the buyer paid.
    await shop.core.db.transaction(shop.store.release, order.id)
    await shop.paid("paypal", ("lamp", 3))
    choose(shop, started, "card")
    chargeback = shop.control("mollie", "open_dispute", payment=await shop.ref(started.payment.id))["chargeback"]
    await shop.deliver()
    await shop.recover(after=24 * 3600)
    assert await shop.refund_states(started.payment.id) == [(3 * 4950, "failed")]
    assert [one.kind for one in shop.twins["mollie"].books()] == ["capture", "dispute_opened"], "he has it already"

    shop.control("mollie", "reverse_dispute", chargeback=chargeback)
    await shop.deliver()
    await shop.recover(after=24 * 3600)
    assert (await shop.refund_states(started.payment.id))[-1] == (3 * 4950, "succeeded")
    assert [one.kind for one in shop.twins["mollie"].books()].count("refund") == 1
    assert await shop.balances(order.id) == {}
    await shop.assert_journal_equals_gateways()


# ── Strangers ──────────


async def test_a_stranger_who_posts_ids_causes_no_call_and_fills_nothing(shop: Shop) -> None:
    _, payment_id = await paid(shop)
    await shop.deliver()
    rows, history = await shop.count("inbox"), await shop.count("history")
    shop.transport.sent.clear()
    for number in range(20):
        assert await shop.receive(webhook(f"id=tr_stranger{number}")) == "ignored"
    await shop.recover(after=3 * 24 * 3600)
    assert not [one for one in shop.transport.sent if "stranger" in one.url]
    assert await shop.count("inbox") == rows
    assert await shop.payment_status(payment_id) == "captured"
    assert await shop.count("history") >= history


async def test_whoever_knows_an_id_can_make_us_look_and_nothing_else(shop: Shop) -> None:
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    ref = await shop.ref(started.payment.id)
    shop.transport.sent.clear()
    for _ in range(3):
        assert await shop.receive(webhook(f"id={ref}")) == "new"
    assert {one.method for one in shop.transport.sent} == {"GET"}
    assert await shop.order_status(order.id) == "open"
    assert await shop.stock() == (10, 1)
    assert shop.twins["mollie"].books() == ()


async def test_strangers_who_repeat_an_id_leave_one_row_while_mollie_is_silent(shop: Shop) -> None:
    """Each delivery left a row that recovery retried for days, and a line in the history for ever."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    ref = await shop.ref(started.payment.id)
    history = await shop.count("history")
    shop.transport.lose_requests("GET", "/v2/payments")
    assert await shop.receive(webhook(f"id={ref}")) == "new"
    shop.transport.sent.clear()
    assert [await shop.receive(webhook(f"id={ref}")) for _ in range(20)] == ["known"] * 20
    assert shop.transport.sent == [], "nobody makes us ask while an answer is awaited"
    assert await inbox(shop) == ["recorded"]
    assert await shop.count("history") == history
    # What waits speaks for the newest delivery as well: it may be the real one.
    choose(shop, started, "card")
    (real,) = shop.webhooks()
    assert await shop.receive(real) == "known"
    shop.transport.heal()
    await shop.recover(after=10)
    await shop.assert_paid_once(order)
    assert await inbox(shop) == ["processed"]


async def test_what_waits_for_hours_is_read_soon_when_it_is_told_again(shop: Shop) -> None:
    """News that joined an event would have waited as long as that one's next try."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    ref = await shop.ref(started.payment.id)
    shop.transport.lose_requests("GET", "/v2/payments")
    await shop.receive(webhook(f"id={ref}"))
    for _ in range(12):
        await shop.recover(after=3600)
    shop.transport.heal()
    (row,) = await shop.rows("SELECT due_at FROM inbox")
    assert row["due_at"] > shop.clock.now() + 1800 * SECOND
    assert await shop.receive(webhook(f"id={ref}")) == "known"
    (row,) = await shop.rows("SELECT due_at FROM inbox")
    assert row["due_at"] <= shop.clock.now() + 5 * SECOND
    await shop.recover(after=6)
    assert await inbox(shop) == ["processed"]
    assert await shop.order_status(order.id) != "paid"


async def test_news_that_comes_while_an_older_reading_is_under_way_is_no_repetition(shop: Shop) -> None:
    """A reading that began before the buyer paid must not use up the webhook that says he has."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    ref = await shop.ref(started.payment.id)
    gateway = shop.core.gateways["mollie"]
    first = await paidonce.inbox.receive(shop.core, await gateway.read_webhook({}, f"id={ref}".encode()))
    assert first.lease is not None
    choose(shop, started, "card")
    assert await shop.deliver() == ["new"]
    await shop.assert_paid_once(order)
    assert await inbox(shop) == ["recorded", "processed"]
    await recovery.process_event(shop.core, first.lease)
    assert await inbox(shop) == ["processed"] * 2
    await shop.assert_paid_once(order)


async def test_whoever_lost_his_lease_uses_up_no_news_that_joined_since(shop: Shop) -> None:
    """A worker that froze for minutes marked the event processed by its old reading, and the news in it was lost."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    ref = await shop.ref(started.payment.id)
    gateway = shop.core.gateways["mollie"]
    frozen = await paidonce.inbox.receive(shop.core, await gateway.read_webhook({}, f"id={ref}".encode()))
    assert frozen.lease is not None
    shop.transport.lose_requests("GET", "/v2/payments")
    await shop.recover(after=shop.core.policy.lease_seconds + 1)
    shop.transport.heal()
    choose(shop, started, "card")
    assert await shop.deliver() == ["known"]
    done = partial(paidonce.inbox.finish, outcome="settled", payment_id=started.payment.id, now=shop.clock.now())
    await shop.core.write(done, frozen.lease)
    assert await inbox(shop) == ["recorded"]
    await shop.recover(after=10)
    assert await inbox(shop) == ["processed"]
    await shop.assert_paid_once(order)


async def test_the_same_body_tells_different_news_each_time(shop: Shop) -> None:
    """The first says paid, the second refunded: a body that repeats must not hide what is new."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    choose(shop, started, "card")
    (first,) = shop.webhooks()
    assert await shop.receive(first) == "new"
    await shop.assert_paid_once(order)
    shop.control("mollie", "dashboard_refund", payment=await shop.ref(started.payment.id))
    (second,) = shop.webhooks()
    assert second.body == first.body
    assert await shop.receive(second) == "new"
    assert await shop.refund_status(order.id) == "full"
    # A replay of the first makes us look once more and changes nothing.
    assert await shop.receive(first) == "new"
    assert await shop.refund_states(started.payment.id) == [(1999, "succeeded")]
    assert await inbox(shop) == ["processed"] * 3
    await shop.assert_journal_equals_gateways()
