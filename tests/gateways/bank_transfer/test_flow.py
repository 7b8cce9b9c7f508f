"""Orders paid by bank transfer: what buyers, staff, time and crashes do, through the core and on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from paidonce import checkout, desk, explain
from paidonce.checkout import Started
from paidonce.core import Core
from paidonce.errors import ChangedMeanwhile, CommitUnknown, Forbidden, InvalidRequest, NotFound, PaymentInProgress
from paidonce.gateways.base import StaffSheet
from paidonce.money import LARGEST_MINOR
from paidonce.ports import SECOND
from paidonce.results import Result
from paidonce.store import OrderView
from support.shop import BUYER, STAFF, STRANGER, Shop

DAY = 24 * 3600
MUG = 1999
RECEIVED = "money_received"


async def opened(shop: Shop, *, promise: bool = True) -> tuple[OrderView, Started]:
    """An order whose buyer has been shown the account, and has said that he will transfer the money."""
    order = await shop.order()
    started = await shop.start(order.id, "bank_transfer")
    if promise:
        told = await shop.complete(started.payment.id)
        assert (told.payment.status, told.order_status, told.unknown) == ("awaiting_buyer", "pending", False)
    return order, started


async def sheet(shop: Shop, payment_id: str) -> StaffSheet:
    found = await desk.sheet(shop.core, payment_id, STAFF)
    assert found is not None
    return found


async def enter(shop: Shop, payment_id: str, name: str, *, key: str | None = None, **params: str | int) -> Result:
    """Staff enter something on a fresh sheet."""
    seen = (await sheet(shop, payment_id)).seen
    return await desk.act(shop.core, payment_id, STAFF, name, params, seen=seen, request_key=key)


async def notes(shop: Shop, ref: str) -> list[str]:
    rows = await shop.rows("SELECT kind FROM gateway_notes WHERE ref = :ref ORDER BY number", ref=ref)
    return [row["kind"] for row in rows]


async def offered(shop: Shop, payment_id: str) -> list[str]:
    return sorted({action.name for action in (await sheet(shop, payment_id)).actions})


# ── Paying ──────────


async def test_a_transfer_pays_its_order_once_it_has_arrived(shop: Shop) -> None:
    order, started = await opened(shop)
    assert started.client["reference"].startswith(f"{order.number}-")
    assert (started.client["amount"], started.client["currency"]) == ("19.99", "EUR")
    assert started.client["iban"] == "XX36 SAND BOX0 0000 0000"
    assert await shop.stock() == (10, 1), "the goods are held, and none has left"

    told = await enter(shop, started.payment.id, RECEIVED, amount=MUG)
    assert (told.payment.status, told.order_status) == ("captured", "paid")
    await shop.assert_paid_once(order)
    assert await shop.balances(order.id) == {"gateway:bank_transfer": MUG, "sales": -MUG}
    assert await shop.stock() == (9, 0)
    assert [one for one in await shop.events() if one.startswith("alarm")] == []
    await shop.recover(after=40 * DAY)
    await shop.assert_paid_once(order)


async def test_who_only_looked_at_the_account_holds_goods_no_longer_than_others(shop: Shop) -> None:
    order, started = await opened(shop, promise=False)
    assert await shop.stock() == (10, 1)
    await shop.recover(after=21 * 60)
    await shop.recover(after=5)
    assert await shop.payment_status(started.payment.id) == "canceled"
    assert await shop.stock() == (10, 0)
    assert await shop.order_status(order.id) == "open"
    assert await notes(shop, started.client["reference"]) == ["asked", "closed"]
    assert await shop.count("journal_entries") == 0


async def test_a_promise_keeps_the_goods_and_the_order_for_days_and_is_told_once(shop: Shop) -> None:
    order, started = await opened(shop)
    for _ in range(3):
        await shop.complete(started.payment.id)
    for _ in range(13):
        await shop.recover(after=DAY)
    (row,) = await shop.rows("SELECT due_at FROM payments")
    assert row["due_at"] - shop.clock.now() > 3600 * SECOND, "who waits for days is not asked every few minutes"
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer"
    assert await shop.order_status(order.id) == "pending"
    assert await shop.stock() == (10, 1), "the goods are still held, and none has left"
    assert await notes(shop, started.client["reference"]) == ["asked", "promised"]
    assert (await shop.events()).count("payment.pending") == 1
    assert await shop.captures_booked() == 0


async def test_a_buyer_who_comes_back_sees_the_same_account_and_reference(shop: Shop) -> None:
    order, started = await opened(shop)
    await shop.recover(after=3 * DAY)
    again = await shop.start(order.id, "bank_transfer")
    assert (again.payment.id, again.created) == (started.payment.id, False)
    assert dict(again.client) == {**started.client, "promised": "yes"}
    assert await shop.stock() == (10, 1)
    await shop.recover(after=6 * 3600)
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer", "looking must not shorten the hold"


async def test_a_transfer_that_never_comes_ends_by_itself(shop: Shop) -> None:
    order, started = await opened(shop)
    for _ in range(21):
        await shop.recover(after=DAY)
    assert await shop.payment_status(started.payment.id) == "canceled"
    assert await shop.order_status(order.id) == "expired"
    assert await shop.stock() == (10, 0)
    assert await shop.count("journal_entries") == 0
    assert "alarm.payment_slow" not in await shop.events()


async def test_goods_that_are_no_longer_kept_are_sold_to_others_and_the_money_goes_back(shop: Shop) -> None:
    order = await shop.order(("lamp", 3))
    started = await shop.start(order.id, "bank_transfer")
    await shop.complete(started.payment.id)
    for _ in range(15):
        await shop.recover(after=DAY)
    assert await shop.stock("lamp") == (3, 0), "goods are kept for slow money for two weeks"
    await shop.paid("paypal", ("lamp", 1))
    told = await enter(shop, started.payment.id, RECEIVED, amount=3 * 4950)
    assert (told.payment.status, told.order_status) == ("captured", "open")
    await shop.recover()
    assert await shop.refund_states(started.payment.id) == [(3 * 4950, "pending")]
    assert await shop.stock("lamp") == (2, 0), "nothing was taken for it"


# ── How much has arrived ──────────


async def test_parts_add_up_and_only_the_whole_pays(shop: Shop) -> None:
    order, started = await opened(shop)
    told = await enter(shop, started.payment.id, RECEIVED, amount=500, remark="1")
    assert (told.payment.status, told.order_status) == ("awaiting_buyer", "pending")
    assert await shop.captures_booked() == 0
    assert ("Still missing", "14.99 EUR") in (await sheet(shop, started.payment.id)).facts
    again = await shop.start(order.id, "bank_transfer")
    assert again.client["received"] == "5.00 EUR"
    row = (await shop.rows("SELECT pending_reason FROM payments"))[0]
    assert "5.00 EUR of 19.99 EUR are there" in row["pending_reason"]

    told = await enter(shop, started.payment.id, RECEIVED, amount=1499, remark="2")
    assert told.order_status == "paid"
    await shop.assert_paid_once(order)
    assert "alarm.surplus" not in await shop.events()


async def test_a_part_that_arrives_without_a_promise_keeps_the_goods_as_well(shop: Shop) -> None:
    _, started = await opened(shop, promise=False)
    await enter(shop, started.payment.id, RECEIVED, amount=500)
    await shop.recover(after=2 * DAY)
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer"
    assert await shop.stock() == (10, 1)


async def test_too_much_is_captured_as_due_and_the_rest_is_never_lost_from_sight(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=2500)
    await shop.assert_paid_once(order)
    assert await shop.balances(order.id) == {"gateway:bank_transfer": MUG, "sales": -MUG}
    found = await sheet(shop, started.payment.id)
    assert ("Not for this order", "5.01 EUR of the buyer's money") in found.facts
    assert found.to_do is not None
    assert (await shop.events()).count("alarm.surplus") == 1
    with pytest.raises(InvalidRequest, match=r"only 5\.01 EUR"):
        await enter(shop, started.payment.id, "surplus_sent_back", amount=502)

    await enter(shop, started.payment.id, "surplus_sent_back", amount=501)
    assert (await sheet(shop, started.payment.id)).to_do is None
    await shop.recover(after=5 * DAY)
    assert (await shop.events()).count("alarm.surplus") == 1
    assert await shop.refund_states(started.payment.id) == [], "a surplus was never captured, so it is no refund"


async def test_what_was_entered_by_mistake_does_not_count(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=1000, remark="of another order")
    (receipt,) = (one.given for one in (await sheet(shop, started.payment.id)).actions if one.given)
    await enter(shop, started.payment.id, "entered_by_mistake", **receipt)
    assert await offered(shop, started.payment.id) == [RECEIVED]
    await enter(shop, started.payment.id, RECEIVED, amount=999, remark="3")
    assert await shop.order_status(order.id) == "pending", "9.99 are there, and not 19.99"
    assert await shop.captures_booked() == 0
    await enter(shop, started.payment.id, RECEIVED, amount=1000, remark="4")
    await shop.assert_paid_once(order)
    assert "entered_by_mistake" not in await offered(shop, started.payment.id), "what has paid the order stays"


async def test_a_second_sum_that_was_a_mistake_is_taken_back_and_the_first_still_pays(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=MUG, remark="1")
    await enter(shop, started.payment.id, RECEIVED, amount=MUG + 1, remark="2")
    (wrong,) = (one.given for one in (await sheet(shop, started.payment.id)).actions if one.given and "4" in one.title)
    await enter(shop, started.payment.id, "entered_by_mistake", **wrong)
    found = await sheet(shop, started.payment.id)
    assert found.to_do is None
    assert [one.name for one in found.actions] == [RECEIVED], "what has paid the order can't be taken back"
    await shop.assert_paid_once(order)


async def test_a_sum_that_nothing_could_add_up_is_refused_before_it_is_written(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=LARGEST_MINOR, remark="1")
    with pytest.raises(InvalidRequest, match="mistyped"):
        await enter(shop, started.payment.id, RECEIVED, amount=1, remark="2")
    await shop.assert_paid_once(order)
    assert (await notes(shop, started.client["reference"])).count(RECEIVED) == 1


# ── Twice, and at once ──────────


async def test_a_double_click_is_one_entry(shop: Shop) -> None:
    order, started = await opened(shop)
    seen = (await sheet(shop, started.payment.id)).seen

    def click() -> Any:
        return desk.act(
            shop.core, started.payment.id, STAFF, RECEIVED, {"amount": MUG}, seen=seen, request_key="form-1"
        )

    told = await asyncio.gather(*(click() for _ in range(8)))
    assert {one.payment.status for one in told} == {"captured"}
    assert (await click()).payment.status == "captured"
    await shop.assert_paid_once(order)
    assert (await notes(shop, started.client["reference"])).count(RECEIVED) == 1
    with pytest.raises(InvalidRequest, match="another entry"):
        await desk.act(shop.core, started.payment.id, STAFF, RECEIVED, {"amount": 1}, seen=seen, request_key="form-1")
    assert (await notes(shop, started.client["reference"])).count(RECEIVED) == 1


async def test_two_people_who_read_the_same_statement_enter_its_money_once(shop: Shop) -> None:
    order, started = await opened(shop)
    seen = (await sheet(shop, started.payment.id)).seen
    told = await asyncio.gather(
        *(
            desk.act(
                shop.core, started.payment.id, STAFF, RECEIVED, {"amount": MUG}, seen=seen, request_key=f"of-{who}"
            )
            for who in range(6)
        ),
        return_exceptions=True,
    )
    assert [type(one) for one in told if isinstance(one, BaseException)] == [ChangedMeanwhile] * 5
    await shop.assert_paid_once(order)
    assert (await notes(shop, started.client["reference"])).count(RECEIVED) == 1
    assert "alarm.surplus" not in await shop.events()


async def test_who_comes_later_can_not_enter_the_same_booking_again(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=MUG, remark="booking 4711")
    with pytest.raises(InvalidRequest, match="remark: it is missing"):
        await enter(shop, started.payment.id, RECEIVED, amount=MUG)
    with pytest.raises(InvalidRequest, match=r"19\.99 EUR with this remark was entered on .* by usr_staff"):
        await enter(shop, started.payment.id, RECEIVED, amount=MUG, remark="booking 4711")
    await shop.assert_paid_once(order)
    assert "alarm.surplus" not in await shop.events()


async def test_a_buyer_who_pays_twice_gets_the_second_transfer_back(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=MUG, remark="1")
    await enter(shop, started.payment.id, RECEIVED, amount=MUG, remark="2")
    await shop.assert_paid_once(order)
    assert ("Not for this order", "19.99 EUR of the buyer's money") in (await sheet(shop, started.payment.id)).facts
    assert "alarm.surplus" in await shop.events()


# ── A buyer who changes his mind ──────────


async def test_paying_by_card_instead_closes_the_transfer_first(shop: Shop) -> None:
    order, started = await opened(shop)
    card = await shop.start(order.id, "stripe")
    assert await shop.payment_status(started.payment.id) == "canceled"
    assert await notes(shop, started.client["reference"]) == ["asked", "promised", "closed"]
    await shop.agree(card)
    assert (await shop.complete(card.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_paying_by_another_button_after_a_look_closes_it_when_the_money_is_taken(shop: Shop) -> None:
    order, started = await opened(shop)
    other = await shop.start(order.id, "paypal")
    assert await shop.payment_status(started.payment.id) == "awaiting_buyer", "he has only looked"
    (held,) = await shop.rows("SELECT expires_at FROM holds")
    assert held["expires_at"] - shop.clock.now() > 13 * DAY * SECOND, "looking must not shorten the hold"
    await shop.recover(after=2 * DAY)
    assert await shop.stock() == (10, 1), "looking at another way must not cost him his goods"
    assert await shop.order_status(order.id) == "pending"
    other = await shop.start(order.id, "paypal")
    await shop.agree(other)
    assert (await shop.complete(other.payment.id)).order_status == "paid"
    assert await shop.payment_status(started.payment.id) == "canceled"
    await shop.assert_paid_once(order)


async def test_late_money_for_an_order_that_a_card_has_paid_goes_back_by_hand(shop: Shop) -> None:
    order, started = await opened(shop)
    card = await shop.start(order.id, "stripe")
    await shop.agree(card)
    await shop.complete(card.payment.id)
    told = await enter(shop, started.payment.id, RECEIVED, amount=MUG)
    assert told.payment.status == "held"
    balances = await shop.balances(order.id)
    in_suspense = (balances["gateway:bank_transfer"], balances["suspense"], balances["sales"])
    assert in_suspense == (MUG, -MUG, -MUG), "the card's money is the sale, and the transfer's belongs to the buyer"
    await shop.recover()
    (refund,) = await shop.rows("SELECT id, state FROM refunds")
    assert refund["state"] == "pending"
    assert (await explained(shop, order)) == "send_refund_by_hand"
    await enter(shop, started.payment.id, "refund_sent", refund=refund["id"])
    assert await shop.refund_states(started.payment.id) == [(MUG, "succeeded")]
    balances = await shop.balances(order.id)
    assert ("gateway:bank_transfer" in balances, "suspense" in balances, balances["sales"]) == (False, False, -MUG)
    sold = await shop.rows("SELECT * FROM stock_movements WHERE kind = 'sale'")
    assert len(sold) == 1, "the goods left once"
    assert (await shop.events()).count("order.paid") == 1


async def explained(shop: Shop, order: OrderView) -> str | None:
    found = await shop.core.db.read(explain.explain, shop.core, order.id)
    assert found is not None
    return None if found.next_action is None else found.next_action.code


async def test_a_part_that_was_there_when_the_buyer_turned_back_is_told_until_it_is_returned(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=700)
    told = await checkout.cancel(shop.core, started.payment.id, BUYER)
    assert (told.payment.status, told.order_status) == ("canceled", "open")
    assert "alarm.surplus" in await shop.events()
    found = await sheet(shop, started.payment.id)
    assert found.to_do is not None
    assert "7.00 EUR" in found.to_do
    await enter(shop, started.payment.id, "surplus_sent_back", amount=700)
    assert (await sheet(shop, started.payment.id)).to_do is None
    assert await shop.count("journal_entries") == 0
    assert await shop.order_status(order.id) == "open"


async def test_canceling_the_order_meets_money_that_has_just_arrived(shop: Shop) -> None:
    order, started = await opened(shop)
    gateway: Any = shop.core.gateways["bank_transfer"]
    ref = started.client["reference"]
    seen = (await sheet(shop, started.payment.id)).seen
    # Staff's entry is written, and their process ends before it is settled.
    await gateway.act(ref, RECEIVED, {"amount": MUG}, seen=seen, key="staff of-anna", by="usr_anna")
    told = await checkout.cancel(shop.core, started.payment.id, BUYER)
    assert (told.payment.status, told.order_status) == ("captured", "paid")
    await shop.assert_paid_once(order)
    assert "closed" not in await notes(shop, ref)


# ── Refunds ──────────


async def test_a_refund_waits_for_staff_who_send_it(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=MUG)
    asked = await shop.refund(started.payment.id, 500, request_key="refund-1")
    again = await shop.refund(started.payment.id, 500, request_key="refund-1")
    assert (asked.refund.state, again.refund.id, again.created) == ("pending", asked.refund.id, False)
    assert await shop.balances(order.id) == {"gateway:bank_transfer": MUG, "sales": -MUG}, "nothing is sent yet"
    assert (await explained(shop, order)) == "send_refund_by_hand"
    await shop.recover(after=3 * DAY)
    assert await shop.refund_states(started.payment.id) == [(500, "pending")]

    await enter(shop, started.payment.id, "refund_sent", refund=asked.refund.id)
    assert await shop.refund_states(started.payment.id) == [(500, "succeeded")]
    assert await shop.balances(order.id) == {"gateway:bank_transfer": MUG - 500, "sales": 500 - MUG}
    assert await shop.refund_status(order.id) == "partial"
    assert "refund_sent" not in await offered(shop, started.payment.id)


async def test_a_refund_that_can_not_be_sent_or_comes_back_can_be_made_again(shop: Shop) -> None:
    order, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=MUG)
    first = await shop.refund(started.payment.id)
    with pytest.raises(InvalidRequest, match="reason"):
        await enter(shop, started.payment.id, "refund_failed", refund=first.refund.id)
    with pytest.raises(InvalidRequest, match="refund: say which one"):
        await enter(shop, started.payment.id, "refund_sent", refund="ref_of_somebody_else")
    await enter(shop, started.payment.id, "refund_failed", refund=first.refund.id, reason="no account is known")
    assert await shop.balances(order.id) == {"gateway:bank_transfer": MUG, "sales": -MUG}
    second = await shop.refund(started.payment.id)
    await enter(shop, started.payment.id, "refund_sent", refund=second.refund.id)
    assert await shop.balances(order.id) == {}
    await enter(shop, started.payment.id, "refund_failed", refund=second.refund.id, reason="the bank gave it back")
    assert await shop.refund_states(started.payment.id) == [(MUG, "failed"), (MUG, "failed")]
    assert await shop.balances(order.id) == {"gateway:bank_transfer": MUG, "sales": -MUG}
    assert (await shop.events()).count("order.paid") == 1


# ── Crashes ──────────


async def test_an_entry_whose_process_ended_before_settling_is_found(
    shop: Shop, restarted: Callable[[], Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, started = await opened(shop)
    for _ in range(3):
        await shop.recover(after=DAY)  # By now it is looked at every few hours only.

    async def ends(*_args: Any, **_named: Any) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr("paidonce.capturing.fetch_and_settle", ends)
        with pytest.raises(SystemExit):
            await enter(shop, started.payment.id, RECEIVED, amount=MUG, key="form-1")
    assert await shop.order_status(order.id) == "pending"
    later = restarted()
    await later.recover(after=180)
    await later.assert_paid_once(order)
    assert (await notes(shop, started.client["reference"])).count(RECEIVED) == 1


async def test_an_entry_whose_commit_nobody_knows_of_is_written_once(shop: Shop) -> None:
    order, started = await opened(shop)
    shop.core.db.transaction = lost = _LosesCommits(shop.core)  # type: ignore[method-assign]
    await enter(shop, started.payment.id, RECEIVED, amount=MUG)
    assert lost.lost == 1
    await shop.assert_paid_once(order)
    assert (await notes(shop, started.client["reference"])).count(RECEIVED) == 1


class _LosesCommits:
    """The first entry's commit is kept, and nobody is told."""

    def __init__(self, core: Core) -> None:
        self._transaction = core.db.transaction
        self.lost = 0

    async def __call__(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        result = await self._transaction(fn, *args, **kwargs)
        if fn.__module__ == "paidonce.notes" and not self.lost:
            self.lost += 1
            raise CommitUnknown("the connection was lost at COMMIT")
        return result


async def test_a_create_whose_answer_was_lost_finds_what_it_had_written(
    shop: Shop, restarted: Callable[[], Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await shop.order()

    async def ends(*_args: Any, **_named: Any) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr("paidonce.checkout.settle", ends)
        with pytest.raises(SystemExit):
            await shop.start(order.id, "bank_transfer")
    later = restarted()
    await later.recover(after=180)
    started = await later.start(order.id, "bank_transfer")
    assert await notes(later, started.client["reference"]) == ["asked"]
    assert await later.count("payments") == 1
    assert await later.count("gateway_notes") == 1


# ── Who may, and what is told ──────────


async def test_only_staff_enter_and_only_where_there_is_something_to_enter(shop: Shop) -> None:
    _, started = await opened(shop)
    for actor in (BUYER, STRANGER):
        with pytest.raises(Forbidden):
            await desk.sheet(shop.core, started.payment.id, actor)
        with pytest.raises(Forbidden):
            await desk.act(shop.core, started.payment.id, actor, RECEIVED, {"amount": MUG}, seen=2)
    with pytest.raises(NotFound):
        await desk.act(shop.core, "pay_unknown", STAFF, RECEIVED, {"amount": MUG}, seen=2)
    _, by_card = await shop.paid("stripe")
    assert await desk.sheet(shop.core, by_card, STAFF) is None
    with pytest.raises(InvalidRequest, match="nothing to enter"):
        await desk.act(shop.core, by_card, STAFF, RECEIVED, {"amount": MUG}, seen=0)
    assert await notes(shop, started.client["reference"]) == ["asked", "promised"]


@pytest.mark.parametrize(
    "params",
    [
        *({}, {"amount": 0}, {"amount": -5}, {"amount": "1999"}, {"amount": True}, {"amount": 10**13}),
        *({"amount": 5, "remark": ""}, {"amount": 5, "remark": "two\nlines"}, {"amount": 5, "remark": "x" * 201}),
        {"amount": 5, "note": "unknown"},
    ],
    ids=str,
)
async def test_an_entry_that_does_not_fit_writes_nothing(shop: Shop, params: dict[str, Any]) -> None:
    order, started = await opened(shop)
    with pytest.raises(InvalidRequest, match=r"^(amount|remark|note): "):
        await enter(shop, started.payment.id, RECEIVED, **params)
    assert await notes(shop, started.client["reference"]) == ["asked", "promised"]
    assert await shop.order_status(order.id) == "pending"


async def test_a_stranger_can_neither_promise_nor_learn_of_the_transfer(shop: Shop) -> None:
    order, started = await opened(shop, promise=False)
    with pytest.raises(NotFound):
        await shop.complete(started.payment.id, STRANGER)
    with pytest.raises(NotFound):
        await shop.start(order.id, "bank_transfer", STRANGER)
    assert await notes(shop, started.client["reference"]) == ["asked"]


async def test_the_story_tells_who_entered_what(shop: Shop) -> None:
    order, started = await opened(shop)
    assert (await explained(shop, order)) == "enter_awaited_money"
    await enter(shop, started.payment.id, RECEIVED, amount=MUG, remark="booking 4711")
    found = await shop.core.db.read(explain.explain, shop.core, order.id)
    assert found is not None
    told = [(line.who, line.what) for line in found.timeline if line.source == "notebook"]
    assert told[1:] == [
        ("buyer", "The buyer says that he transfers the money."),
        ("usr_staff", "19.99 EUR arrived on the account (booking 4711)."),
    ]
    assert found.next_action is None
    for text in (started.client["reference"], started.client["reference"].lower()):
        assert await shop.core.db.read(explain.find_order, shop.core.store, text) == order.id


async def test_the_account_of_a_running_transfer_is_the_one_that_the_buyer_was_told(shop: Shop) -> None:
    """A shop that changes its bank: money already asked for comes to the old account, and counts."""
    order, started = await opened(shop)
    gateway: Any = shop.core.gateways["bank_transfer"]
    gateway._settings = type(gateway._settings)("DE89370400440532013000", "Shop", "", "", ("EUR",), 14)
    again = await shop.start(order.id, "bank_transfer")
    assert again.client["iban"] == started.client["iban"]
    assert (await enter(shop, started.payment.id, RECEIVED, amount=MUG)).order_status == "paid"
    await shop.assert_paid_once(order)


async def test_while_a_card_is_processing_no_transfer_begins(shop: Shop) -> None:
    order = await shop.order()
    card = await shop.start(order.id, "stripe")
    assert shop.confirm(card, card="pm_usBankAccount_processing").status == 200
    assert (await shop.complete(card.payment.id)).payment.status == "processing"
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "bank_transfer")
    assert await shop.count("gateway_notes") == 0
