"""Money that goes back at every gateway: in parts, once per request, and whoever sent it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from paidonce.errors import GatewayError, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import DisputeProgress, HttpRequest, HttpResponse, RefundProgress, Snapshot
from paidonce.money import Money

if TYPE_CHECKING:
    from contract.conftest import Bench, Wire


def part_of(amount: Money) -> Money:
    """About a half, in steps that every gateway can express; all of it if it is small."""
    half = amount.minor // 2 // 100 * 100
    return Money(half or amount.minor, amount.currency)


async def carried_out_but_no_answer(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    await wire.inner.send(request, deadline_seconds=deadline)
    raise OutcomeUnknown("connection reset")


async def outcome(bench: Bench, paid: Snapshot, amount: Money, number: int) -> str:
    try:
        return (await bench.refund(paid, amount, number)).ref
    except GatewayRefused:
        return "refused"


async def test_nothing_was_refunded_or_disputed_right_after_a_capture(bench: Bench) -> None:
    opened, _ = await bench.paid()
    details = await bench.details(opened)
    assert (details.refunds, details.disputes) == ((), ())
    assert bench.booked("capture") == bench.amount.minor
    assert bench.booked("refund") == 0


async def test_details_of_an_object_that_took_no_money_are_empty(bench: Bench) -> None:
    opened = await bench.open()
    details = await bench.details(opened)
    assert (details.refunds, details.disputes, details.fee) == ((), (), None)
    assert bench.core.books() == ()


async def test_a_reading_without_details_claims_nothing_of_refunds(bench: Bench) -> None:
    opened, paid = await bench.paid()
    await bench.refund(paid, part_of(bench.amount))
    bench.wire.sent.clear()
    snapshot = await bench.seen(opened)
    plain = len(bench.wire.sent)
    assert snapshot.refunds in (None, await bench.refunds(opened))
    # It is asked for often, so it must not cost more than the one call.
    assert plain == 1


async def test_the_fee_is_a_part_of_what_was_captured(bench: Bench) -> None:
    opened, paid = await bench.paid()
    fee = (await bench.details(opened)).fee
    assert fee is not None
    assert paid.captured is not None
    assert fee.currency == paid.captured.currency
    assert 0 < fee.minor < paid.captured.minor
    assert bench.booked("fee") == -fee.minor


async def test_a_partial_refund_repeats_our_id_and_leaves_the_payment_captured(bench: Bench) -> None:
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    refund = await bench.refund(paid, part)
    assert (refund.progress, refund.amount, refund.refund_id) == (RefundProgress.SUCCEEDED, part, "ref_contract1")
    assert refund.ref not in (paid.ref, paid.capture_ref, refund.refund_id)
    assert refund.raw_status
    assert refund.failure_reason is None

    details = await bench.details(opened)
    assert (details.progress, details.captured, details.capture_ref) == (
        paid.progress,
        bench.amount,
        paid.capture_ref,
    )
    (listed,) = await bench.refunds(opened)
    assert (listed.ref, listed.progress, listed.amount, listed.refund_id) == (
        refund.ref,
        RefundProgress.SUCCEEDED,
        part,
        "ref_contract1",
    )
    assert bench.booked("refund") == -part.minor


async def test_several_refunds_are_listed_oldest_first_until_all_is_back(bench: Bench) -> None:
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    rest = bench.amount - part
    smaller, larger = sorted((Money(1, rest.currency), rest - Money(1, rest.currency)), key=lambda one: one.minor)
    amounts = [part, smaller, larger]
    for number, amount in enumerate(amounts, start=1):
        await bench.refund(paid, amount, number)
    refunds = await bench.refunds(opened)
    assert [refund.amount for refund in refunds] == amounts
    assert [refund.refund_id for refund in refunds] == ["ref_contract1", "ref_contract2", "ref_contract3"]
    assert len({refund.ref for refund in refunds}) == 3
    assert bench.booked("refund") == -bench.amount.minor
    with pytest.raises(GatewayRefused):
        await bench.refund(paid, smaller, 4)
    assert await bench.refunds(opened) == refunds


async def test_more_than_is_left_is_refused_and_nothing_goes_back(bench: Bench) -> None:
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    await bench.refund(paid, part, 1)
    before = bench.core.books()
    for number, amount in enumerate((bench.amount, Money(bench.amount.minor * 3, part.currency)), start=2):
        with pytest.raises(GatewayRefused) as caught:
            await bench.refund(paid, amount, number)
        assert caught.value.code
    assert len(await bench.refunds(opened)) == 1
    assert bench.core.books() == before


async def test_parallel_refunds_of_all_the_money_give_it_back_once(bench: Bench) -> None:
    opened, paid = await bench.paid()
    outcomes = await asyncio.gather(*(outcome(bench, paid, bench.amount, number) for number in (1, 2, 3)))
    assert outcomes.count("refused") == 2
    assert len(await bench.refunds(opened)) == 1
    assert bench.booked("refund") == -bench.amount.minor


async def test_a_refund_asked_for_again_with_its_key_is_one_refund(bench: Bench) -> None:
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    first = await bench.refund(paid, part)
    again = await asyncio.gather(*(bench.refund(paid, part) for _ in range(4)))
    assert {refund.ref for refund in again} == {first.ref}
    assert [refund.ref for refund in await bench.refunds(opened)] == [first.ref]
    assert bench.booked("refund") == -part.minor


async def test_a_refund_of_unknown_outcome_is_found_by_its_key_and_by_reading(bench: Bench) -> None:
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    bench.wire.fault = carried_out_but_no_answer
    with pytest.raises(OutcomeUnknown):
        await bench.refund(paid, part)
    bench.wire.fault = None
    (read,) = await bench.refunds(opened)
    assert (read.refund_id, read.amount) == ("ref_contract1", part)
    assert (await bench.refund(paid, part)).ref == read.ref
    assert len(await bench.refunds(opened)) == 1
    assert bench.booked("refund") == -part.minor


async def test_a_refund_key_that_comes_back_with_another_amount_gives_nothing_more_back(bench: Bench) -> None:
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    await bench.refund(paid, part)
    with pytest.raises(GatewayRefused):
        await bench.refund(paid, Money(1, part.currency))
    assert [refund.amount for refund in await bench.refunds(opened)] == [part]
    assert bench.booked("refund") == -part.minor


async def test_a_restarted_twin_knows_its_refunds_and_their_keys(bench: Bench) -> None:
    opened, paid = await bench.paid()
    first = await bench.refund(paid, part_of(bench.amount))
    later = bench.restarted()
    assert (await later.refund(paid, part_of(bench.amount))).ref == first.ref
    assert await later.refunds(opened) == await bench.refunds(opened)
    assert later.core.books() == bench.core.books()


async def test_refunds_are_exact_in_every_currency(bench: Bench) -> None:
    for number, amount in enumerate(bench.hooks.amounts, start=1):
        opened, paid = await bench.paid(number, amount=amount)
        part = part_of(amount)
        first = await bench.refund(paid, part, number)
        assert first.amount == part
        if part != amount:
            rest = amount - part
            assert (await bench.refund(paid, rest, 100 + number)).amount == rest
        refunds = await bench.refunds(opened)
        assert {refund.amount.currency for refund in refunds} == {amount.currency}
        assert sum(refund.amount.minor for refund in refunds) == amount.minor
        of_this = [entry for entry in bench.core.books() if entry.payment_id == f"pay_contract{number}"]
        assert sum(entry.minor for entry in of_this if entry.kind == "refund") == -amount.minor
        assert {entry.currency for entry in of_this} == {amount.currency}


async def test_a_refund_of_the_dashboard_carries_no_id_of_ours(bench: Bench) -> None:
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    bench.hooks.dashboard_refund(bench.core, opened, part, now=bench.now)
    await bench.clock.sleep(1)
    ours = await bench.refund(paid, Money(1, part.currency))
    theirs, listed = await bench.refunds(opened)
    assert (theirs.refund_id, theirs.amount, theirs.progress) == (None, part, RefundProgress.SUCCEEDED)
    assert (listed.refund_id, listed.ref) == ("ref_contract1", ours.ref)
    with pytest.raises(GatewayRefused):
        await bench.refund(paid, bench.amount, 2)
    assert bench.booked("refund") == -part.minor - 1


async def test_a_refund_may_wait_and_then_succeed(bench: Bench) -> None:
    opened, paid = await bench.paid()
    bench.hooks.pend_next_refund(bench.core, now=bench.now)
    refund = await bench.refund(paid, bench.amount)
    assert refund.progress is RefundProgress.PENDING
    assert [one.progress for one in await bench.refunds(opened)] == [RefundProgress.PENDING]
    assert bench.booked("refund") == 0
    # What is on its way can't be given back a second time.
    with pytest.raises(GatewayRefused):
        await bench.refund(paid, bench.amount, 2)

    bench.hooks.finish_refund(bench.core, refund.ref, now=bench.now)
    (finished,) = await bench.refunds(opened)
    assert (finished.ref, finished.progress) == (refund.ref, RefundProgress.SUCCEEDED)
    assert bench.booked("refund") == -bench.amount.minor


@pytest.mark.parametrize("pending", [False, True], ids=["after it succeeded", "while it waits"])
async def test_a_refund_that_fails_moves_nothing_and_can_be_asked_for_again(bench: Bench, pending: bool) -> None:
    opened, paid = await bench.paid()
    if pending:
        bench.hooks.pend_next_refund(bench.core, now=bench.now)
    refund = await bench.refund(paid, bench.amount)
    bench.hooks.fail_refund(bench.core, refund.ref, now=bench.now)
    (failed,) = await bench.refunds(opened)
    assert (failed.ref, failed.progress) == (refund.ref, RefundProgress.FAILED)
    assert bench.booked("refund") + bench.booked("refund_failed") == 0
    assert (bench.booked("refund_failed") == 0) is pending

    await bench.clock.sleep(1)
    again = await bench.refund(paid, bench.amount, 2)
    assert again.ref != refund.ref
    assert [one.ref for one in await bench.refunds(opened)] == [refund.ref, again.ref]


@pytest.mark.parametrize("won", [True, False], ids=["won", "lost"])
async def test_a_dispute_takes_the_money_until_it_is_won(bench: Bench, won: bool) -> None:
    opened, paid = await bench.paid()
    ref = bench.hooks.open_dispute(bench.core, opened, bench.amount, now=bench.now)
    disputes = (await bench.details(opened)).disputes
    if ref is None:
        assert disputes == ()
        return
    assert disputes is not None
    assert [(one.ref, one.progress, one.amount, one.withdrawn) for one in disputes] == [
        (ref, DisputeProgress.OPEN, bench.amount, True)
    ]
    assert bench.booked("dispute_opened") == -bench.amount.minor
    # The buyer could get the money twice.
    with pytest.raises(GatewayRefused):
        await bench.refund(paid, bench.amount)

    bench.hooks.close_dispute(bench.core, ref, won=won, now=bench.now)
    details = await bench.details(opened)
    assert details.disputes is not None
    assert [(one.ref, one.progress) for one in details.disputes] == [
        (ref, DisputeProgress.WON if won else DisputeProgress.LOST)
    ]
    assert details.refunds == ()
    assert bench.booked("dispute_won") == (bench.amount.minor if won else 0)


async def test_details_that_cannot_be_read_whole_are_unknown_and_never_shorter(bench: Bench) -> None:
    opened, paid = await bench.paid()
    await bench.refund(paid, part_of(bench.amount))
    bench.wire.sent.clear()
    await bench.details(opened)
    calls = len(bench.wire.sent)
    for healthy in range(calls):
        left = healthy

        async def fails_in_the_middle(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
            nonlocal left
            if left == 0:
                return HttpResponse(502, {"content-type": "text/html"}, b"<html>Bad gateway</html>")
            left -= 1
            return await wire.inner.send(request, deadline_seconds=deadline)

        bench.wire.fault = fails_in_the_middle
        with pytest.raises(OutcomeUnknown):
            await bench.details(opened)
    bench.wire.fault = None
    assert len(await bench.refunds(opened)) == 1


async def test_an_object_that_nobody_knows_gives_nothing_back(bench: Bench) -> None:
    await bench.paid()
    before = bench.core.books()
    with pytest.raises(GatewayError):
        await bench.gateway.refund(
            "nobody-knows-this",
            "nor/this?a=b",
            idempotency_key="refund-1",
            amount=bench.amount,
            refund_id="ref_contract1",
        )
    assert bench.core.books() == before


async def test_the_books_hold_exactly_what_the_snapshots_say(bench: Bench) -> None:
    opened_and_paid = [await bench.paid(number) for number in (1, 2, 3, 4)]
    part = part_of(bench.amount)
    await bench.refund(opened_and_paid[0][1], part, 1)
    failing = await bench.refund(opened_and_paid[1][1], part, 2)
    bench.hooks.fail_refund(bench.core, failing.ref, now=bench.now)
    bench.hooks.dashboard_refund(bench.core, opened_and_paid[1][0], part, now=bench.now)
    bench.hooks.open_dispute(bench.core, opened_and_paid[2][0], part, now=bench.now)
    await bench.open(9)
    for number, (opened, _) in enumerate(opened_and_paid, start=1):
        snapshot = await bench.details(opened)
        entries = [entry for entry in bench.core.books() if entry.payment_id == f"pay_contract{number}"]
        by_object: dict[str, int] = {}
        for entry in entries:
            by_object[entry.object] = by_object.get(entry.object, 0) + entry.minor
        assert by_object == told_by(snapshot)
        assert {entry.currency for entry in entries} == {bench.amount.currency}
    assert not [entry for entry in bench.core.books() if entry.payment_id == "pay_contract9"]


def told_by(snapshot: Snapshot) -> dict[str, int]:
    """What each object of a captured payment did to the merchant's balance, by the gateway's words alone."""
    assert snapshot.capture_ref is not None
    assert snapshot.captured is not None
    assert snapshot.fee is not None
    assert snapshot.refunds is not None
    assert snapshot.disputes is not None
    changes = {snapshot.capture_ref: snapshot.captured.minor - snapshot.fee.minor}
    for refund in snapshot.refunds:
        changes[refund.ref] = -refund.amount.minor if refund.progress is RefundProgress.SUCCEEDED else 0
    for dispute in snapshot.disputes:
        gone = dispute.withdrawn and dispute.progress is not DisputeProgress.WON
        changes[dispute.ref] = -dispute.amount.minor if gone else 0
    return changes
