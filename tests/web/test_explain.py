"""An order explained: the story is whole and in order, the money adds up, and the next step is the safe one."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from paidonce import advice, captures, explain
from paidonce.core import Policy
from paidonce.errors import GatewayUnavailable
from paidonce.explain import Explanation
from paidonce.gateways.base import CaptureMethod
from paidonce.ports import Database, Transaction
from paidonce.sandbox.app import sandbox_cores
from support.shop import SANDBOX_URL, STAFF, ShiftedClock, Shop, open_shop, stock_up

GATEWAYS = ["stripe", "paypal"]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
async def till(database: Database) -> Shop:
    """A stocked shop on each database."""
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
    await database.transaction(stock_up, shop.store, shop.clock.now())
    return shop


def manual(shop: Shop) -> Shop:
    """The same shop where staff capture."""
    core = dataclasses.replace(shop.core, policy=Policy(capture_method=CaptureMethod.MANUAL))
    return dataclasses.replace(shop, core=core)


async def told(shop: Shop, order_id: str) -> Explanation:
    """The explanation, which has to hold for every reader: as text, as JSON, and without a secret."""
    found = await shop.core.db.read(explain.explain, shop.core, order_id)
    assert found is not None
    text, sent = explain.as_text(found), json.dumps(explain.as_json(found))
    for word in ("_secret_", "sk_test_", "whsec_", "return_url"):
        assert word not in text, word
        assert word not in sent, word
    keys = [row["idempotency_key"] for row in await shop.rows("SELECT idempotency_key FROM operations")]
    assert keys
    assert not [key for key in keys if key in text or key in sent]
    moments = [line.at for line in found.timeline]
    assert moments == sorted(moments)
    return found


def step(found: Explanation) -> str | None:
    return None if found.next_action is None else found.next_action.code


def balances(found: Explanation) -> dict[str, int]:
    return {one.account: one.amount.minor for one in found.money}


# ── The story ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_paid_order_is_told_from_the_start_to_the_books(till: Shop, gateway: str) -> None:
    order, payment_id = await till.paid(gateway)
    found = await told(till, order.id)
    assert (found.order.number, found.total, found.due) == (order.number, order.total, order.total)
    story = [line.what for line in found.timeline]
    opened = next(n for n, what in enumerate(story) if f"Asked {gateway} to open a payment of {order.total}" in what)
    moved = next(n for n, what in enumerate(story) if what.startswith("The money has moved."))
    booked = next(n for n, what in enumerate(story) if what.startswith(f"Booked capture: {order.total} from sales"))
    queued = next(n for n, what in enumerate(story) if what.startswith("Event order.paid"))
    assert opened < moved < booked < queued
    settled = found.timeline[moved]
    assert (settled.who, settled.payment_id) == ("buyer", payment_id)
    assert settled.ids["request_id"]
    assert await till.ref(payment_id) in explain.as_text(found)
    assert balances(found)["sales"] == order.total.minor
    assert balances(found)[f"gateway:{gateway}"] + balances(found).get("gateway_fees", 0) == order.total.minor
    assert found.next_action is None


async def test_an_order_is_found_by_whatever_names_it_and_by_nothing_else(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    await till.paid("stripe")
    refund = (await till.refund(payment_id, 100)).refund
    for text in (order.id, order.number, f" {order.number.lower()} ", payment_id, await till.ref(payment_id)):
        assert await till.core.db.read(explain.find_order, till.core.store, text) == order.id, text
    for text in (refund.id, str(refund.gateway_ref)):
        assert await till.core.db.read(explain.find_order, till.core.store, text) == order.id, text
    for text in ("", "  ", "PO-NOTHING", "%", "x' OR 1=1 --", "a\x00b", "\n"):
        assert await till.core.db.read(explain.find_order, till.core.store, text) is None, text


async def test_an_order_that_is_not_there_is_not_explained(till: Shop) -> None:
    assert await till.core.db.read(explain.explain, till.core, "ord_nothing") is None


async def test_explaining_asks_no_gateway_and_writes_nothing(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    await till.refund(payment_id, 100, reason="a scratch")
    tables = ("history", "operations", "journal_entries", "outbox", "refunds", "inbox")
    before = [await till.count(table) for table in tables]
    till.transport.sent.clear()
    await told(till, order.id)
    assert till.transport.sent == []
    assert [await till.count(table) for table in tables] == before


async def test_what_people_and_gateways_wrote_can_not_move_a_terminals_cursor(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    await till.refund(payment_id, 100, reason="a\nb\x1b[31m\x07<script>")
    found = await told(till, order.id)
    text = explain.as_text(found)
    assert "a b [31m <script>" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    asked = [line for line in text.splitlines() if "Asked stripe to refund 1.00 EUR" in line]
    assert len(asked) == 1, "it stays on its line"


async def test_the_texts_columns_are_aligned_and_its_times_are_utc(till: Shop) -> None:
    order, _ = await till.paid("stripe")
    found = await told(till, order.id)
    lines = explain.as_text(found).splitlines()
    start = lines.index("What happened (UTC)") + 1
    rows = [line for line in lines[start : start + 40] if re.match(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  ", line)]
    assert len(rows) == len(found.timeline)
    columns = {row.index(line.what) for row, line in zip(rows, found.timeline, strict=True)}
    assert len(columns) == 1
    assert explain.as_json(found)["timeline"][0]["at"].replace("T", " ").startswith(rows[0].strip()[:19])


async def test_webhooks_and_what_the_merchant_heard_are_part_of_the_story(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    await till.deliver()
    till.control("stripe", "dashboard_refund", ref=await till.ref(payment_id), amount=200)
    await till.deliver()
    found = await told(till, order.id)
    webhooks = [line for line in found.timeline if line.source == "webhook"]
    assert any("known already" in line.what for line in webhooks)
    assert any("settled" in line.what for line in webhooks)
    assert all(line.ids["event"] for line in webhooks)
    assert any("A refund was found that was made at the gateway. (2.00 EUR" in line.what for line in found.timeline)
    assert any(line.what == "Event refund.succeeded has nobody to be told." for line in found.timeline)
    assert balances(found)["sales"] == order.total.minor - 200


# ── Where the money is ──────────


async def test_after_a_full_refund_nothing_is_left_anywhere(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    assert explain.money_in_words(await told(till, order.id)) is None
    await till.refund(payment_id)
    found = await told(till, order.id)
    assert "sales" not in balances(found)
    assert str(found.refund_status) == "full"
    fresh = await till.order()
    assert await till.core.db.read(explain.explain, till.core, fresh.id) is not None
    empty = await till.core.db.read(explain.explain, till.core, fresh.id)
    assert empty is not None
    assert explain.money_in_words(empty) == "No money has moved."
    assert empty.timeline == ()


async def test_disputed_money_stands_on_its_own_account(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    till.control("stripe", "open_dispute", ref=await till.ref(payment_id))
    await till.deliver()
    found = await told(till, order.id)
    assert balances(found)["disputed"] == order.total.minor
    assert step(found) == "answer_dispute"
    assert found.next_action is not None
    assert found.next_action.act
    assert found.payments[0].disputed
    assert not found.payments[0].can_refund
    dispute = str((await till.rows("SELECT gateway_ref FROM disputes"))[0]["gateway_ref"])
    assert dispute in found.next_action.what
    till.control("stripe", "close_dispute", dispute=dispute, outcome="lost")
    await till.deliver()
    found = await told(till, order.id)
    assert balances(found)["dispute_losses"] == order.total.minor
    assert (step(found), found.payments[0].left.minor) == (None, 0)


# ── The next step ──────────


async def test_an_order_nobody_pays_waits_for_its_buyer_and_says_when_it_closes(till: Shop) -> None:
    order = await till.order()
    found = await told_without_operations(till, order.id)
    assert step(found) == "wait_for_payment"
    assert found.next_action is not None
    assert "closes by itself at 20" in found.next_action.what
    await till.start(order.id, "stripe")
    found = await told(till, order.id)
    assert (step(found), found.payments[0].can_void, found.payments[0].can_refund) == ("wait_for_buyer", True, False)


async def told_without_operations(shop: Shop, order_id: str) -> Explanation:
    found = await shop.core.db.read(explain.explain, shop.core, order_id)
    assert found is not None
    return found


async def test_a_refund_without_an_answer_is_waited_for_and_not_made_by_hand(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    till.transport.lose_answers("POST", "/refunds")
    assert (await till.refund(payment_id, 500)).refund.state == "recorded"
    found = await told(till, order.id)
    assert step(found) == "wait_for_refund_answer"
    assert found.next_action is not None
    assert not found.next_action.act
    assert "Don't refund it again" in found.next_action.what
    assert found.next_action.look_at is not None
    assert any("The outcome is not known yet." in line.what for line in found.timeline)
    till.transport.heal()
    await till.recover(after=3600)
    found = await told(till, order.id)
    assert step(found) is None
    assert await till.refund_states(payment_id) == [(500, "succeeded")]


async def test_a_refund_that_fails_later_is_to_be_made_again(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    refund = (await till.refund(payment_id, 700)).refund
    till.control("stripe", "fail_refund", refund=refund.gateway_ref)
    await till.deliver()
    found = await told(till, order.id)
    assert step(found) == "refund_again"
    assert found.next_action is not None
    assert "7.00 EUR" in found.next_action.what
    assert found.payments[0].can_refund
    await till.refund(payment_id, 700)
    assert step(await told(till, order.id)) is None


async def test_a_pending_refund_takes_time(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    till.control("stripe", "pend_next_refund")
    await till.refund(payment_id, 700)
    assert step(await told(till, order.id)) == "wait_for_refund"


async def test_reserved_money_waits_for_staff(till: Shop) -> None:
    shop = manual(till)
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    await shop.agree(started)
    await shop.complete(started.payment.id)
    found = await told(shop, order.id)
    assert step(found) == "capture_or_void"
    one = found.payments[0]
    assert (one.can_capture, one.can_void, one.can_refund) == (True, True, False)
    await captures.capture(shop.core, started.payment.id, STAFF, amount_minor=500)
    found = await told(shop, order.id)
    assert (found.total, found.due.minor) == (order.total, 500)
    assert (step(found), balances(found)["sales"]) == (None, 500)
    assert any(line.who == "staff" and "capture 5.00 EUR" in line.what for line in found.timeline)


async def test_a_capture_without_an_answer_is_not_repeated_by_hand(till: Shop) -> None:
    shop = manual(till)
    order = await shop.order()
    started = await shop.start(order.id, "stripe")
    await shop.agree(started)
    await shop.complete(started.payment.id)
    shop.transport.lose_answers("POST", "/capture")
    assert (await captures.capture(shop.core, started.payment.id, STAFF)).unknown
    found = await told(shop, order.id)
    assert step(found) == "wait_for_capture_answer"
    one = found.payments[0]
    assert (one.can_capture, one.can_void, one.can_refund) == (False, False, False)
    assert any("It may have happened" in line.what for line in found.timeline)


async def test_slow_money_is_waited_for_until_it_takes_too_long(till: Shop) -> None:
    order = await till.order()
    started = await till.start(order.id, "stripe")
    assert till.confirm(started, card="pm_usBankAccount_processing").status == 200
    await till.complete(started.payment.id)
    assert step(await told(till, order.id)) == "wait_for_bank"
    till.clock.pass_seconds(15 * 24 * 3600)
    assert step(await told(till, order.id)) == "ask_about_slow_money"


async def test_a_held_payment_without_money_is_to_be_voided_and_one_with_money_gives_it_back(till: Shop) -> None:
    order = await till.order()
    started = await till.start(order.id, "stripe")
    hold = "UPDATE payments SET status = 'held', held_reason = 'the amount differs' WHERE id = :id"
    await till.write(hold, id=started.payment.id)
    found = await told(till, order.id)
    assert (step(found), found.payments[0].can_void) == ("void_held_payment", True)
    assert found.next_action is not None
    assert "the amount differs" in found.next_action.what
    # Its buyer confirms all the same: the money is booked aside, and goes back by itself.
    await till.agree(started)
    await till.deliver()
    found = await told(till, order.id)
    assert step(found) == "wait_for_refund_answer"
    assert balances(found)["suspense"] == order.total.minor
    await till.recover(after=60)
    found = await told(till, order.id)
    assert "suspense" not in balances(found)
    assert step(found) == "wait_for_payment", "the order may be paid anew"


async def test_a_gateway_without_keys_or_with_wrong_ones_is_named(till: Shop) -> None:
    order = await till.order()
    await till.start(order.id, "stripe")
    keyless = dataclasses.replace(till.core, gateways={})
    found = await keyless.db.read(explain.explain, keyless, order.id)
    assert found is not None
    assert step(found) == "set_gateway_keys"
    assert not found.payments[0].can_void
    await till.recover(after=60)
    assert step(await told(till, order.id)) != "set_gateway_keys"


async def test_a_delivery_that_was_given_up_is_to_be_replayed(till: Shop) -> None:
    order, _ = await till.paid("stripe")
    now = till.clock.now()

    async def give_up(tx: Transaction) -> None:
        await tx.execute("INSERT INTO endpoints (name, handed_out, created_at) VALUES ('u', 0, :now)", {"now": now})
        await tx.execute(
            "INSERT INTO deliveries (id, endpoint, seq, order_id, state, last_error, created_at, finished_at, due_at,"
            " tries, lease_until) SELECT 'dlv_1', 'u', seq, order_id, 'given_up', 'status 500', :now, :now, NULL, 9, 0"
            " FROM outbox WHERE order_id = :id AND type = 'order.paid'",
            {"now": now, "id": order.id},
        )

    await till.core.db.transaction(give_up)
    found = await told(till, order.id)
    assert step(found) == "replay_events"
    assert found.next_action is not None
    assert f"paidonce events replay --order {order.id}" in found.next_action.what
    assert any("given up for u (9 tries, last error: status 500)" in line.what for line in found.timeline)


async def test_a_contradiction_is_told_while_it_is_news(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    await till.write(
        "INSERT INTO history (order_id, payment_id, event, detail, created_at)"
        " VALUES (:order, :payment, 'alarm.contradiction', :detail, :now)",
        order=order.id,
        payment=payment_id,
        detail='{"reason": "differs from the order: amount", "object": "pi_other"}',
        now=till.clock.now(),
    )
    found = await told(till, order.id)
    assert step(found) == "compare_with_gateway"
    assert found.next_action is not None
    assert "differs from the order: amount, object pi_other" in found.next_action.what
    till.clock.pass_seconds(3 * 24 * 3600)
    assert step(await told(till, order.id)) is None


async def test_an_event_that_waits_and_a_creation_without_answer_are_waited_for(till: Shop) -> None:
    order, payment_id = await till.paid("stripe")
    await till.deliver()
    await till.write("UPDATE inbox SET state = 'recorded', outcome = NULL, finished_at = NULL, due_at = 1")
    assert step(await told(till, order.id)) == "wait_for_event"
    other = await till.order()
    till.transport.lose_answers("POST", "/payment_intents")
    with pytest.raises(GatewayUnavailable):
        await till.start(other.id, "stripe")
    assert step(await told(till, other.id)) == "wait_for_creation"
    assert payment_id not in explain.as_text(await told(till, other.id)), "each order has its own story"


async def test_wrong_keys_are_mended_first_and_forgotten_once_all_is_well(till: Shop) -> None:
    order = await till.order()
    started = await till.start(order.id, "stripe")
    note = (
        "INSERT INTO history (order_id, payment_id, event, detail, created_at)"
        " VALUES (:order, :payment, :event, :detail, :now)"
    )
    ids = {"order": order.id, "payment": started.payment.id}
    problem = '{"problem": "No such account [req_1]"}'
    await till.write(note, **ids, event="alarm.gateway", detail=problem, now=till.clock.now())
    found = await told(till, order.id)
    assert step(found) == "mend_gateway"
    assert found.next_action is not None
    assert "No such account [req_1]" in found.next_action.what
    await till.agree(started)
    await till.complete(started.payment.id)
    assert step(await told(till, order.id)) is None


def test_every_rule_is_documented_in_its_order() -> None:
    page = (ROOT / "docs" / "explain.md").read_text("utf-8")
    documented = re.findall(r"^\| `([a-z_]+)` \| (yes|no) \|", page, re.MULTILINE)
    rules = [(rule.code, rule.act) for rule in advice.PAYMENT_RULES]
    rules += [(rule.code, rule.act) for rule in advice.ORDER_RULES]
    assert documented == [(code, "yes" if act else "no") for code, act in rules]
    assert len(dict(rules)) == len(rules)
