"""Money that goes back at every gateway: in parts, once per request, and whoever sent it."""

from __future__ import annotations

import asyncio

import pytest

from paidonce.contract.bench import Bench, Wire
from paidonce.contract.expect import equal, raises, some
from paidonce.contract.marks import needs
from paidonce.errors import GatewayError, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import DisputeProgress, HttpRequest, HttpResponse, Opened, RefundProgress, Snapshot
from paidonce.money import Money

pytestmark = pytest.mark.asyncio


def part_of(amount: Money) -> Money:
    """About a half, in steps that every gateway can express; all of it if it is small."""
    half = amount.minor // 2 // 100 * 100
    return Money(half or amount.minor, amount.currency)


async def carried_out_but_no_answer(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """A fault: the gateway has done it, and the answer is lost."""
    await wire.inner.send(request, deadline_seconds=deadline)
    raise OutcomeUnknown("connection reset")


async def outcome(bench: Bench, paid: Snapshot, amount: Money, number: int) -> str:
    """The ref of a refund, or "refused"."""
    try:
        return (await bench.refund(paid, amount, number)).ref
    except GatewayRefused:
        return "refused"


def at_once(bench: Bench) -> RefundProgress:
    """What a refund reads that was just asked for."""
    return RefundProgress.SUCCEEDED if bench.has("instant_refund") else RefundProgress.PENDING


async def test_nothing_was_refunded_or_disputed_right_after_a_capture(bench: Bench) -> None:
    """The details of a fresh capture hold no refund and no dispute."""
    opened, _ = await bench.paid()
    details = await bench.details(opened)
    equal("(refunds, disputes)", (details.refunds, details.disputes), ((), ()))
    equal("the sum of captures in the books", await bench.booked("capture"), bench.amount.minor)
    equal("the sum of refunds in the books", await bench.booked("refund"), 0)


async def test_details_of_an_object_that_took_no_money_are_empty(bench: Bench) -> None:
    """The details of an object that took no money are empty, and not None."""
    opened = await bench.open()
    details = await bench.details(opened)
    equal("(refunds, disputes, fee)", (details.refunds, details.disputes, details.fee), ((), (), None))
    equal("the books", await bench.books(), ())


async def test_a_reading_without_details_claims_nothing_of_refunds(bench: Bench) -> None:
    """`fetch` without details leaves `refunds` None or tells all of them, and is one call at most."""
    opened, paid = await bench.paid()
    await bench.refund(paid, part_of(bench.amount))
    bench.wire.sent.clear()
    snapshot = await bench.seen(opened)
    plain = len(bench.wire.sent)
    if snapshot.refunds is not None:
        equal("the refunds of a plain reading", snapshot.refunds, await bench.refunds(opened))
    # It is asked for often, so it must not cost more than the one call.
    equal("the number of calls of a plain `fetch`", plain, 0 if "twin" in bench.case.missing else 1)


async def test_the_fee_is_a_part_of_what_was_captured(bench: Bench) -> None:
    """The fee is a part of the capture in its currency, as the gateway's books have it; None if it tells none."""
    opened, paid = await bench.paid()
    fee = (await bench.details(opened)).fee
    if not bench.has("fee"):
        equal("the fee of a gateway that tells none", fee, None)
        equal("the sum of fees in the books", await bench.booked("fee"), 0)
        return
    assert fee is not None, "`fetch(details=True)` tells no fee."
    assert paid.captured is not None
    equal("the fee's currency", fee.currency, paid.captured.currency)
    assert 0 < fee.minor < paid.captured.minor, f"the fee is {fee}, of a capture of {paid.captured}."
    equal("the sum of fees in the books", await bench.booked("fee"), -fee.minor)


async def test_a_partial_refund_repeats_our_id_and_leaves_the_payment_captured(bench: Bench) -> None:
    """A partial refund repeats our id and the amount, is listed, and the payment stays captured."""
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    refund = await bench.refund(paid, part)
    told = (refund.progress, refund.amount, refund.refund_id)
    equal("(progress, amount, refund_id) of the answer", told, (at_once(bench), part, "ref_contract1"))
    assert refund.ref not in (paid.ref, paid.capture_ref, refund.refund_id), (
        f"the refund has no ref of its own: {refund.ref}"
    )
    some("a `raw_status`", refund.raw_status)
    equal("the failure reason", refund.failure_reason, None)

    details = await bench.details(opened)
    still = (details.progress, details.captured, details.capture_ref)
    equal("the payment afterwards", still, (paid.progress, bench.amount, paid.capture_ref))
    listed = [(one.ref, one.progress, one.amount, one.refund_id) for one in await bench.refunds(opened)]
    equal("the refunds that are listed", listed, [(refund.ref, at_once(bench), part, "ref_contract1")])
    booked = -part.minor if bench.has("instant_refund") else 0
    equal("the sum of refunds in the books", await bench.booked("refund"), booked)


async def test_several_refunds_are_listed_oldest_first_until_all_is_back(bench: Bench) -> None:
    """Refunds are listed oldest first; one that is more than what is left is refused."""
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    rest = bench.amount - part
    smaller, larger = sorted((Money(1, rest.currency), rest - Money(1, rest.currency)), key=lambda one: one.minor)
    amounts = [part, smaller, larger]
    for number, amount in enumerate(amounts, start=1):
        await bench.refunded(opened, paid, amount, number)
    refunds = await bench.refunds(opened)
    equal("the amounts that are listed", [refund.amount for refund in refunds], amounts)
    ours = ["ref_contract1", "ref_contract2", "ref_contract3"]
    equal("our ids that are listed", [refund.refund_id for refund in refunds], ours)
    equal("the number of different refs", len({refund.ref for refund in refunds}), 3)
    equal("the sum of refunds in the books", await bench.booked("refund"), -bench.amount.minor)
    await raises(GatewayRefused, "`refund` after all is back", bench.refund(paid, smaller, 4))
    equal("the refunds afterwards", await bench.refunds(opened), refunds)


async def test_more_than_is_left_is_refused_and_nothing_goes_back(bench: Bench) -> None:
    """`refund` of more than what is left is refused with a code, and nothing goes back."""
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    await bench.refunded(opened, paid, part, 1)
    before = await bench.books()
    for number, amount in enumerate((bench.amount, Money(bench.amount.minor * 3, part.currency)), start=2):
        refusal = await raises(GatewayRefused, f"`refund` of {amount}", bench.refund(paid, amount, number))
        some("a `code` of the refusal", refusal.code)
    equal("the number of refunds", len(await bench.refunds(opened)), 1)
    equal("the books", await bench.books(), before)


async def test_parallel_refunds_of_all_the_money_give_it_back_once(bench: Bench) -> None:
    """Of three `refund` of everything at once, with different keys, one is accepted."""
    opened, paid = await bench.paid()
    outcomes = await asyncio.gather(*(outcome(bench, paid, bench.amount, number) for number in (1, 2, 3)))
    equal("how many were refused", outcomes.count("refused"), 2)
    (refund,) = await bench.refunds(opened)
    if not bench.has("instant_refund"):
        await bench.hooks.finish_refund(bench, opened, refund.ref)
    equal("the sum of refunds in the books", await bench.booked("refund"), -bench.amount.minor)


async def test_a_refund_asked_for_again_with_its_key_is_one_refund(bench: Bench) -> None:
    """`refund` repeated with its key answers with the refund that there is."""
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    first = await bench.refunded(opened, paid, part)
    again = await asyncio.gather(*(bench.refund(paid, part) for _ in range(4)))
    equal("the refs of the repeats", {refund.ref for refund in again}, {first.ref})
    equal("the refunds that are listed", [refund.ref for refund in await bench.refunds(opened)], [first.ref])
    equal("the sum of refunds in the books", await bench.booked("refund"), -part.minor)


@needs("twin")
async def test_a_refund_of_unknown_outcome_is_found_by_its_key_and_by_reading(bench: Bench) -> None:
    """`refund` whose answer was lost is found by reading and by repeating it with its key, and happened once."""
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    bench.wire.fault = carried_out_but_no_answer
    await raises(OutcomeUnknown, "`refund` whose answer was lost", bench.refund(paid, part))
    bench.wire.fault = None
    (read,) = await bench.refunds(opened)
    equal("(refund_id, amount) by reading", (read.refund_id, read.amount), ("ref_contract1", part))
    equal("the ref by repeating", (await bench.refund(paid, part)).ref, read.ref)
    equal("the number of refunds", len(await bench.refunds(opened)), 1)
    if not bench.has("instant_refund"):
        await bench.hooks.finish_refund(bench, opened, read.ref)
    equal("the sum of refunds in the books", await bench.booked("refund"), -part.minor)


async def test_a_refund_key_that_comes_back_with_another_amount_gives_nothing_more_back(bench: Bench) -> None:
    """`refund` with a used key and another amount is refused, and nothing more goes back."""
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    await bench.refunded(opened, paid, part)
    await raises(GatewayRefused, "`refund` with a used key", bench.refund(paid, Money(1, part.currency)))
    equal("the amounts that are listed", [refund.amount for refund in await bench.refunds(opened)], [part])
    equal("the sum of refunds in the books", await bench.booked("refund"), -part.minor)


async def test_after_a_restart_refunds_and_their_keys_are_known(bench: Bench) -> None:
    """Refunds and their keys are known after a restart."""
    opened, paid = await bench.paid()
    first = await bench.refund(paid, part_of(bench.amount))
    later = bench.restarted()
    equal("the ref of the repeat", (await later.refund(paid, part_of(bench.amount))).ref, first.ref)
    equal("the refunds", await later.refunds(opened), await bench.refunds(opened))
    equal("the books", await later.books(), await bench.books())


async def test_refunds_are_exact_in_every_currency(bench: Bench) -> None:
    """In each of `contract.amounts`, the parts that go back are exact and sum up to the whole."""
    some("amounts in `contract.amounts`", bench.hooks.amounts)
    for number, amount in enumerate(bench.hooks.amounts, start=1):
        opened, paid = await bench.paid(number, amount=amount)
        part = part_of(amount)
        first = await bench.refunded(opened, paid, part, number)
        equal(f"a refund of {part}", first.amount, part)
        if part != amount:
            rest = amount - part
            equal(f"a refund of {rest}", (await bench.refunded(opened, paid, rest, 100 + number)).amount, rest)
        refunds = await bench.refunds(opened)
        equal("the refunds' currencies", {refund.amount.currency for refund in refunds}, {amount.currency})
        equal("the sum of the refunds", sum(refund.amount.minor for refund in refunds), amount.minor)
        of_this = [entry for entry in await bench.books() if entry.payment_id == f"pay_contract{number}"]
        gone = sum(entry.minor for entry in of_this if entry.kind == "refund")
        equal("the sum of refunds in the books", gone, -amount.minor)
        equal("the books' currencies", {entry.currency for entry in of_this}, {amount.currency})


@needs("dashboard_refund")
async def test_a_refund_of_the_dashboard_carries_no_id_of_ours(bench: Bench) -> None:
    """A refund that staff made at the gateway is listed without an id of ours, and counts towards what is left."""
    opened, paid = await bench.paid()
    part = part_of(bench.amount)
    await bench.hooks.dashboard_refund(bench, opened, part)
    await bench.clock.sleep(1)
    ours = await bench.refunded(opened, paid, Money(1, part.currency))
    listed = [(one.refund_id, one.amount, one.progress) for one in await bench.refunds(opened)]
    done = RefundProgress.SUCCEEDED
    equal("the refunds", listed, [(None, part, done), ("ref_contract1", Money(1, part.currency), done)])
    equal("the ref of ours", (await bench.refunds(opened))[1].ref, ours.ref)
    await raises(GatewayRefused, "`refund` of all of it", bench.refund(paid, bench.amount, 2))
    equal("the sum of refunds in the books", await bench.booked("refund"), -part.minor - 1)


async def test_a_refund_may_wait_and_then_succeed(bench: Bench) -> None:
    """A refund that waits is PENDING, reserves what it is for, and succeeds later under the same ref."""
    opened, paid = await bench.paid()
    if bench.has("instant_refund"):
        await bench.hooks.pend_next_refund(bench)
    refund = await bench.refund(paid, bench.amount)
    equal("the progress of the answer", refund.progress, RefundProgress.PENDING)
    waiting = [one.progress for one in await bench.refunds(opened)]
    equal("the progress in the list", waiting, [RefundProgress.PENDING])
    equal("the sum of refunds in the books", await bench.booked("refund"), 0)
    # What is on its way can't be given back a second time.
    await raises(GatewayRefused, "`refund` while all of it is on its way", bench.refund(paid, bench.amount, 2))

    await bench.hooks.finish_refund(bench, opened, refund.ref)
    (finished,) = await bench.refunds(opened)
    equal("the refund later", (finished.ref, finished.progress), (refund.ref, RefundProgress.SUCCEEDED))
    equal("the sum of refunds in the books later", await bench.booked("refund"), -bench.amount.minor)


@needs("refund_failure")
async def test_a_refund_that_fails_while_it_waits_moves_nothing_and_can_be_asked_for_again(bench: Bench) -> None:
    """A refund that failed reads FAILED under its ref, moved nothing, and the money can be asked for again."""
    opened, paid = await bench.paid()
    if bench.has("instant_refund"):
        await bench.hooks.pend_next_refund(bench)
    refund = await bench.refund(paid, bench.amount)
    await bench.hooks.fail_refund(bench, opened, refund.ref)
    (failed,) = await bench.refunds(opened)
    equal("the refund later", (failed.ref, failed.progress), (refund.ref, RefundProgress.FAILED))
    booked = (await bench.booked("refund"), await bench.booked("refund_failed"))
    equal("(refund, refund_failed) in the books", booked, (0, 0))
    await asks_again(bench, opened, paid, refund.ref)


@needs("refund_failure", "late_refund_failure")
async def test_a_refund_that_fails_after_it_succeeded_comes_back_and_can_be_asked_for_again(bench: Bench) -> None:
    """A refund that fails late reads FAILED under its ref, the money is back, and can be asked for again."""
    opened, paid = await bench.paid()
    refund = await bench.refunded(opened, paid, bench.amount)
    await bench.hooks.fail_refund(bench, opened, refund.ref)
    (failed,) = await bench.refunds(opened)
    equal("the refund later", (failed.ref, failed.progress), (refund.ref, RefundProgress.FAILED))
    back = await bench.booked("refund_failed")
    equal("refund and refund_failed together in the books", await bench.booked("refund") + back, 0)
    # Without a twin nobody but the refund itself tells of it, and that reads FAILED now.
    equal("the sum of refund_failed in the books", back, 0 if "twin" in bench.case.missing else bench.amount.minor)
    await asks_again(bench, opened, paid, refund.ref)


async def asks_again(bench: Bench, opened: Opened, paid: Snapshot, failed: str) -> None:
    """After a failure, a new refund is made beside the failed one."""
    await bench.clock.sleep(1)
    again = await bench.refund(paid, bench.amount, 2)
    assert again.ref != failed, "the new refund is the failed one."
    equal("the refunds", [one.ref for one in await bench.refunds(opened)], [failed, again.ref])


@needs("dispute")
async def test_a_dispute_takes_the_money_and_forbids_a_refund_of_it(bench: Bench) -> None:
    """A dispute takes its amount out at once, and what is disputed can't be refunded."""
    opened, paid = await bench.paid()
    ref = await bench.hooks.open_dispute(bench, opened, bench.amount)
    disputes = (await bench.details(opened)).disputes or ()
    told = [(one.ref, one.progress, one.amount, one.withdrawn) for one in disputes]
    equal("the disputes", told, [(ref, bench.hooks.new_dispute, bench.amount, True)])
    equal("the sum of dispute_opened in the books", await bench.booked("dispute_opened"), -bench.amount.minor)
    # The buyer could get the money twice.
    await raises(GatewayRefused, "`refund` of what is disputed", bench.refund(paid, bench.amount))
    details = await bench.details(opened)
    equal("(progress, refunds) of the payment", (details.progress, details.refunds), (paid.progress, ()))


@needs("dispute")
@pytest.mark.parametrize(
    ("won", "progress"),
    [
        pytest.param(True, DisputeProgress.WON, marks=needs("dispute_won"), id="won"),
        pytest.param(False, DisputeProgress.LOST, marks=needs("dispute_lost"), id="lost"),
    ],
)
async def test_a_dispute_that_is_decided_gives_the_money_back_if_it_is_won(
    bench: Bench, won: bool, progress: DisputeProgress
) -> None:
    """A dispute that is decided reads WON or LOST under its ref; only a won one brings the money back."""
    opened, _ = await bench.paid()
    ref = await bench.hooks.open_dispute(bench, opened, bench.amount)
    await bench.hooks.close_dispute(bench, opened, ref, won=won)
    details = await bench.details(opened)
    ended = [(one.ref, one.progress) for one in details.disputes or ()]
    equal("the disputes later", ended, [(ref, progress)])
    equal("the refunds", details.refunds, ())
    equal("the sum of dispute_opened in the books", await bench.booked("dispute_opened"), -bench.amount.minor)
    equal("the sum of dispute_won in the books", await bench.booked("dispute_won"), bench.amount.minor if won else 0)


@needs("twin")
async def test_details_that_cannot_be_read_whole_are_unknown_and_never_shorter(bench: Bench) -> None:
    """If one of the calls for the details fails, `fetch` is OutcomeUnknown: a shorter list would hide money."""
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
        what = f"`fetch` with details whose call {healthy + 1} of {calls} failed"
        await raises(OutcomeUnknown, what, bench.details(opened))
    bench.wire.fault = None
    equal("the number of refunds", len(await bench.refunds(opened)), 1)


async def test_an_object_that_nobody_knows_gives_nothing_back(bench: Bench) -> None:
    """`refund` of a ref that nobody knows is an error, and nothing goes back."""
    await bench.paid()
    before = await bench.books()
    call = bench.gateway.refund(
        "nobody-knows-this",
        "nor/this?a=b",
        idempotency_key="refund-1",
        amount=bench.amount,
        refund_id="ref_contract1",
    )
    await raises(GatewayError, "`refund` of a ref that nobody knows", call)
    equal("the books", await bench.books(), before)


@needs("twin")
async def test_the_books_hold_exactly_what_the_snapshots_say(bench: Bench) -> None:
    """Object by object, the gateway's own books say what its snapshots say: captures, fees, refunds, disputes."""
    opened_and_paid = [await bench.paid(number) for number in (1, 2, 3, 4)]
    part = part_of(bench.amount)
    await bench.refunded(*opened_and_paid[0], part, 1)
    failing = await bench.refund(opened_and_paid[1][1], part, 2)
    if bench.has("refund_failure"):
        await bench.hooks.fail_refund(bench, opened_and_paid[1][0], failing.ref)
    if bench.has("dashboard_refund"):
        await bench.hooks.dashboard_refund(bench, opened_and_paid[1][0], part)
    if bench.has("dispute"):
        await bench.hooks.open_dispute(bench, opened_and_paid[2][0], part)
    await bench.open(9)
    books = await bench.books()
    for number, (opened, _) in enumerate(opened_and_paid, start=1):
        snapshot = await bench.details(opened)
        entries = [entry for entry in books if entry.payment_id == f"pay_contract{number}"]
        by_object: dict[str, int] = {}
        for entry in entries:
            by_object[entry.object] = by_object.get(entry.object, 0) + entry.minor
        said = {ref: minor for ref, minor in told_by(snapshot).items() if minor or ref in by_object}
        equal(f"the books of payment {number}", by_object, said)
        equal("their currencies", {entry.currency for entry in entries}, {bench.amount.currency})
    unpaid = [entry for entry in books if entry.payment_id == "pay_contract9"]
    equal("the books of a payment that nobody paid", unpaid, [])


def told_by(snapshot: Snapshot) -> dict[str, int]:
    """What each object of a captured payment did to the merchant's balance, by the gateway's words alone."""
    assert snapshot.capture_ref is not None
    assert snapshot.captured is not None
    fee = 0 if snapshot.fee is None else snapshot.fee.minor
    changes = {snapshot.capture_ref: snapshot.captured.minor - fee}
    for refund in snapshot.refunds or ():
        changes[refund.ref] = -refund.amount.minor if refund.progress is RefundProgress.SUCCEEDED else 0
    for dispute in snapshot.disputes or ():
        gone = dispute.withdrawn and dispute.progress is not DisputeProgress.WON
        changes[dispute.ref] = -dispute.amount.minor if gone else 0
    return changes
