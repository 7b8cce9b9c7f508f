"""The invariants that stay on in production: broken for real, told once, and nothing that happened is hidden by it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from paidonce import journal
from paidonce.errors import Conflict
from paidonce.gateways.base import Snapshot
from paidonce.journal import Account, Entry, Kind, Posting
from paidonce.money import Money
from paidonce.ports import Row, Transaction
from paidonce.settlement import settle, settle_refund
from support.shop import Shop

GATEWAYS = ["stripe", "paypal"]
DAY = 24 * 3600
ALARM = "alarm.invariant_broken"
MONEY_AND_GOODS = (
    "SELECT * FROM payments ORDER BY id",
    "SELECT * FROM orders ORDER BY id",
    "SELECT * FROM refunds ORDER BY id",
    "SELECT * FROM operations ORDER BY id",
    "SELECT * FROM journal_entries ORDER BY id",
    "SELECT * FROM journal_postings ORDER BY entry_id, account",
    "SELECT * FROM stock ORDER BY sku",
    "SELECT * FROM holds ORDER BY order_id, sku",
)


async def second_capture(shop: Shop) -> tuple[str, str, str, Snapshot]:
    """Order, paying card, wallet, and what the wallet's gateway says of a second capture that is not settled yet."""
    order = await shop.order()
    wallet = await shop.start(order.id, "paypal")
    card = await shop.start(order.id, "stripe")
    shop.confirm(card)
    await shop.complete(card.payment.id)
    await shop.write("UPDATE payments SET status = 'awaiting_buyer' WHERE id = :id", id=wallet.payment.id)
    shop.approve(wallet)
    snapshot = await shop.core.gateways["paypal"].capture(
        wallet.client["order_id"], idempotency_key="by-hand", amount=Money(1999, "EUR")
    )
    return order.id, card.payment.id, wallet.payment.id, snapshot


async def settle_again(shop: Shop, payment_id: str) -> None:
    rows = await shop.rows("SELECT gateway, gateway_ref FROM payments WHERE id = :id", id=payment_id)
    snapshot = await shop.core.gateways[rows[0]["gateway"]].fetch(rows[0]["gateway_ref"])
    await settle(shop.core, snapshot, trigger="test", asked_at=shop.clock.now())


async def made_up_refund(shop: Shop, payment_id: str, minor: int) -> None:
    """A row that no gateway knows of, as a bug or a hand in the database would leave it."""
    await shop.write(
        "INSERT INTO refunds (id, payment_id, order_id, gateway, gateway_ref, amount_minor, currency, origin, state,"
        " restock, actor, created_at, updated_at) SELECT 'ref_made_up', id, order_id, gateway, 'made-up', :minor,"
        " currency, 'gateway', 'succeeded', 0, 'test', 1, 1 FROM payments WHERE id = :id",
        id=payment_id,
        minor=minor,
    )


async def alarms(shop: Shop) -> list[dict[str, Any]]:
    """What the operator was told by history, after making sure that as many events say the same."""
    rows = await shop.rows("SELECT detail FROM history WHERE event = :event ORDER BY seq", event=ALARM)
    events = await shop.rows("SELECT payload FROM outbox WHERE type = :type ORDER BY seq", type=ALARM)
    told = [json.loads(row["detail"]) for row in rows]
    sent = [json.loads(row["payload"])["data"] for row in events]
    assert [one["reason"] for one in told] == [one["reason"] for one in sent]
    assert [one["next_step"] for one in told] == [one["next_step"] for one in sent]
    return told


async def money_and_goods(shop: Shop) -> list[list[Row]]:
    return [await shop.rows(sql) for sql in MONEY_AND_GOODS]


def without_times(looks: list[list[Row]]) -> list[list[dict[str, Any]]]:
    """A settling writes the payment's row also if nothing about it is new."""
    moving = {"updated_at", "asked_at", "due_at", "tries"}
    return [[{key: row[key] for key in dict(row) if key not in moving} for row in rows] for rows in looks]


# ── Told, and nothing hidden ──────────


async def test_two_captures_that_count_are_told_once_a_day(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """FAULTS: I2."""
    order_id, card, wallet, snapshot = await second_capture(shop)
    await settle(shop.core, snapshot, trigger="test", asked_at=shop.clock.now())
    assert await alarms(shop) == [], "a surplus that is owed to the buyer does not count"
    await shop.write("UPDATE payments SET owed_to_buyer = 0 WHERE id = :id", id=wallet)
    before = without_times(await money_and_goods(shop))
    with caplog.at_level(logging.ERROR, "paidonce.invariants"):
        for payment_id in (card, wallet, card):
            await settle_again(shop, payment_id)
    (told,) = await alarms(shop)
    assert (told["invariant"], told["about"]) == ("I2", order_id)
    assert told["reason"].startswith("2 captures count towards the order")
    assert card in told["reason"]
    assert wallet in told["reason"]
    assert "refund in full" in told["next_step"]
    assert "invariant I2 is broken: 2 captures" in caplog.text
    assert without_times(await money_and_goods(shop)) == before
    shop.clock.pass_seconds(DAY - 600)
    await settle_again(shop, card)
    assert len(await alarms(shop)) == 1, "not twice within a day"
    shop.clock.pass_seconds(601)
    await settle_again(shop, card)
    await settle_again(shop, wallet)
    assert len(await alarms(shop)) == 2, "while it lasts, the operator is told again the next day"


async def test_the_alarm_ends_when_one_capture_went_back(shop: Shop) -> None:
    _, card, wallet, snapshot = await second_capture(shop)
    await settle(shop.core, snapshot, trigger="test", asked_at=shop.clock.now())
    await shop.write("UPDATE payments SET owed_to_buyer = 0 WHERE id = :id", id=wallet)
    await settle_again(shop, card)
    await shop.recover()
    assert await shop.refund_states(wallet) == [(1999, "succeeded")]
    shop.clock.pass_seconds(DAY + 1)
    await settle_again(shop, card)
    await settle_again(shop, wallet)
    assert len(await alarms(shop)) == 1
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_more_going_back_than_was_captured_is_told_once(shop: Shop, gateway: str) -> None:
    """FAULTS: I5."""
    _, payment_id = await shop.paid(gateway)
    await shop.refund(payment_id, 1000)
    await made_up_refund(shop, payment_id, 999)
    await settle_again(shop, payment_id)
    assert await alarms(shop) == [], "all of it may go back"
    await shop.write("UPDATE refunds SET amount_minor = 1000 WHERE id = 'ref_made_up'")
    before = without_times(await money_and_goods(shop))
    await settle_again(shop, payment_id)
    await settle_again(shop, payment_id)
    (told,) = await alarms(shop)
    assert (told["invariant"], told["about"]) == ("I5", payment_id)
    assert told["reason"] == "20.00 EUR would go back or went back, and 19.99 EUR was captured"
    assert "refund nothing more" in told["next_step"]
    assert without_times(await money_and_goods(shop)) == before


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_refund_that_breaks_the_bound_is_booked_all_the_same(shop: Shop, gateway: str) -> None:
    """What the gateway answers to a refund is money that moved, whatever our rows say."""
    order, payment_id = await shop.paid(gateway)
    await made_up_refund(shop, payment_id, 1000)
    rows = await shop.rows("SELECT gateway_ref, capture_ref FROM payments WHERE id = :id", id=payment_id)
    told = await shop.core.gateways[gateway].refund(
        rows[0]["gateway_ref"],
        rows[0]["capture_ref"],
        idempotency_key="by-hand",
        amount=Money(1500, "EUR"),
        refund_id="ref_by_hand",
    )
    await settle_refund(shop.core, payment_id, told, trigger="test")
    assert [one["invariant"] for one in await alarms(shop)] == ["I5"]
    assert sorted(await shop.refund_states(payment_id)) == [(1000, "succeeded"), (1500, "succeeded")]
    assert (await shop.balances(order.id))["sales"] == -499
    assert (await shop.events()).count("refund.succeeded") == 1
    await settle_refund(shop.core, payment_id, told, trigger="test")
    assert len(await alarms(shop)) == 1
    await shop.assert_journal_equals_gateways()


async def test_one_alarm_does_not_silence_another(shop: Shop) -> None:
    _, card, wallet, snapshot = await second_capture(shop)
    await settle(shop.core, snapshot, trigger="test", asked_at=shop.clock.now())
    await shop.write("UPDATE payments SET owed_to_buyer = 0 WHERE id = :id", id=wallet)
    await settle_again(shop, card)
    await made_up_refund(shop, card, 2000)
    await settle_again(shop, card)
    assert [one["invariant"] for one in await alarms(shop)] == ["I2", "I5"]


async def test_an_automatic_refund_without_room_is_left_to_a_person(shop: Shop) -> None:
    """The capture is a fact and stays; the refund would be ours, and is not written."""
    order_id, _, wallet, snapshot = await second_capture(shop)

    async def book_wrongly(tx: Transaction) -> None:
        assert snapshot.capture_ref is not None
        entry = Entry(
            Kind.CAPTURE,
            "paypal",
            snapshot.capture_ref,
            order_id,
            wallet,
            Money(1, "EUR"),
            journal.balance_at("paypal"),
            Account.OWED_TO_BUYER,
        )
        assert await journal.book(tx, entry, ids=shop.core.ids, now=shop.clock.now())

    await shop.core.db.transaction(book_wrongly)
    await settle(shop.core, snapshot, trigger="test", asked_at=shop.clock.now())
    assert await shop.payment_status(wallet) == "captured"
    assert await shop.refund_states(wallet) == []
    assert "alarm.refund_due" not in await shop.events()
    (told,) = await alarms(shop)
    assert (told["invariant"], told["about"]) == ("I5", wallet)
    assert told["reason"] == "19.99 EUR would go back or went back, and 0.01 EUR was captured"
    await shop.recover()
    assert shop.transport.calls("POST", "/refund") == []


# ── Refused, and nothing written ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_refund_of_ours_beyond_the_capture_is_not_even_intended(shop: Shop, gateway: str) -> None:
    _, payment_id = await shop.paid(gateway)
    await shop.write("UPDATE payments SET captured_minor = 5000 WHERE id = :id", id=payment_id)
    before, events = await money_and_goods(shop), await shop.events()
    history = await shop.count("history")
    with pytest.raises(AssertionError, match=r"I5: a refund of 50\.00 EUR .* and 19\.99 EUR was captured"):
        await shop.refund(payment_id, 5000)
    assert await money_and_goods(shop) == before
    assert await shop.events() == events
    assert await shop.count("history") == history
    assert shop.transport.calls("POST", "/refund") == []
    assert (await shop.refund(payment_id, 1999)).refund.state == "succeeded", "what was captured can go back"


@pytest.mark.parametrize(
    "postings",
    [
        (),
        (Posting("sales", "EUR", -1999),),
        (Posting("gateway:stripe", "EUR", 1999), Posting("sales", "EUR", -1998)),
        (Posting("gateway:stripe", "EUR", 1999), Posting("sales", "USD", -1999)),
    ],
)
async def test_an_entry_that_does_not_balance_is_refused(shop: Shop, postings: tuple[Posting, ...]) -> None:
    """FAULTS: I6, per currency; what the same transaction wrote before goes with it."""
    entry = Entry(Kind.CAPTURE, "stripe", "ch_1", "ord_1", "pay_1", Money(1999, "EUR"), "gateway:stripe", "sales")

    async def write(tx: Transaction) -> None:
        await journal.note(tx, "payment.captured", order_id="ord_1", now=1)
        await journal.enter(tx, entry, postings, ids=shop.core.ids, now=1)

    with pytest.raises(AssertionError, match="I6: the entry capture of ch_1 does not balance"):
        await shop.core.db.transaction(write)
    for table in ("journal_entries", "journal_postings", "history"):
        assert await shop.count(table) == 0


@pytest.mark.parametrize("change", ["on_hand = -1", "held = -1", "held = on_hand + 1"])
async def test_the_database_itself_refuses_stock_that_is_not_there(shop: Shop, change: str) -> None:
    """FAULTS: I3."""
    with pytest.raises(Conflict):
        await shop.write(f"UPDATE stock SET {change} WHERE sku = 'mug'")  # noqa: S608
    assert await shop.stock() == (10, 0)


# ── Quiet in normal life ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_refunds_and_a_lost_dispute_are_no_alarm(shop: Shop, gateway: str) -> None:
    _, payment_id = await shop.paid(gateway)
    await shop.deliver()
    await shop.refund(payment_id, 999)
    await shop.deliver()
    ref = await shop.ref(payment_id)
    if gateway == "stripe":
        shop.control("stripe", "open_dispute", ref=ref, amount="1000")
    else:
        shop.control("paypal", "open_dispute", order=ref, stage="CHARGEBACK", amount="10.00")
    await shop.deliver()
    disputes = await shop.rows("SELECT gateway_ref FROM disputes")
    shop.control(gateway, "close_dispute", dispute=disputes[0]["gateway_ref"], outcome="lost")
    await shop.deliver()
    _, other = await shop.paid(gateway)
    await shop.refund(other)
    await shop.deliver()
    await shop.recover(after=2 * DAY)
    assert await shop.refund_states(payment_id) == [(999, "succeeded")]
    assert await shop.refund_states(other) == [(1999, "succeeded")]
    assert await alarms(shop) == []


async def test_a_surplus_that_goes_back_is_no_alarm(shop: Shop) -> None:
    _, card, wallet, snapshot = await second_capture(shop)
    await settle(shop.core, snapshot, trigger="test", asked_at=shop.clock.now())
    await shop.recover()
    await shop.deliver()
    await settle_again(shop, card)
    await shop.recover(after=2 * DAY)
    assert await shop.refund_states(wallet) == [(1999, "succeeded")]
    assert await shop.refund_states(card) == []
    assert await alarms(shop) == []
