"""Authorize first, capture later, at every gateway that can: all of it, a part, or nothing."""

from __future__ import annotations

import asyncio

import pytest

from paidonce.contract.bench import Bench, Wire
from paidonce.contract.expect import equal, raises, some
from paidonce.contract.marks import needs
from paidonce.errors import GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import CaptureMethod, HttpRequest, HttpResponse, Opened, Progress
from paidonce.money import Money

pytestmark = pytest.mark.asyncio


async def open_manual(bench: Bench) -> Opened:
    """An object whose confirmation only reserves the money."""
    return await bench.create(bench.request(capture_method=CaptureMethod.MANUAL))


def half(bench: Bench) -> Money:
    """A half of the usual amount."""
    return Money(bench.amount.minor // 2, bench.amount.currency)


async def test_a_gateway_that_cannot_reserve_says_so_before_anything_happens(bench: Bench) -> None:
    """Money is reserved first if asked for; a gateway that can't do it refuses at `create`, and makes nothing."""
    if bench.has("manual"):
        equal(
            "the progress of a reservation's object",
            (await open_manual(bench)).snapshot.progress,
            Progress.AWAITING_BUYER,
        )
        return
    await raises(GatewayRefused, "`create` for CaptureMethod.MANUAL", open_manual(bench))
    written = bench.notebook.written
    await raises(GatewayRefused, "`create` repeated with its key", open_manual(bench))
    equal("notes written", (written, bench.notebook.written), (0, 0))
    none_sent = [request for request in bench.wire.sent if request.method == "POST"]
    equal("what was sent", none_sent, [])


@needs("manual")
async def test_authorizing_reserves_and_moves_nothing(bench: Bench) -> None:
    """A reservation reads AUTHORIZED, and no money has moved."""
    opened, reserved = await bench.reserved()
    told = (reserved.captured, reserved.capture_ref, reserved.fee)
    equal("(captured, capture_ref, fee) of a reservation", told, (None, None, None))
    equal("(amount, payment_id)", (reserved.amount, reserved.payment_id), (bench.amount, "pay_contract1"))
    equal("the progress in a reading", (await bench.seen(opened)).progress, Progress.AUTHORIZED)
    details = await bench.details(opened)
    equal("(refunds, disputes)", (details.refunds, details.disputes), ((), ()))
    equal("the books", await bench.books(), ())


@needs("manual")
async def test_only_an_approved_object_can_be_authorized_by_the_server(bench: Bench) -> None:
    """`authorize` before the buyer agreed reserves nothing; where the browser reserves, it is refused altogether."""
    opened = await open_manual(bench)
    ref = opened.snapshot.ref
    early = bench.gateway.authorize(ref, idempotency_key="authorize-1")
    if bench.gateway.captures_in_browser:
        # There the browser's confirmation reserves it, so this is never called.
        await raises(GatewayRefused, "`authorize` where the browser reserves", early)
    else:
        equal("the progress of an early `authorize`", (await early).progress, Progress.AWAITING_BUYER)
    equal("the progress in a reading", (await bench.seen(opened)).progress, Progress.AWAITING_BUYER)


@needs("manual")
async def test_authorizing_again_with_its_key_reserves_once(bench: Bench) -> None:
    """`authorize` repeated, with its key or another, answers with the reservation that there is."""
    opened, reserved = await bench.reserved()
    if not bench.gateway.captures_in_browser:
        ref = opened.snapshot.ref
        again = await asyncio.gather(
            *(bench.gateway.authorize(ref, idempotency_key="authorize-1") for _ in range(3)),
            bench.gateway.authorize(ref, idempotency_key="authorize-2"),
        )
        told = {(one.progress, one.amount) for one in again}
        equal("(progress, amount) of the repeats", told, {(Progress.AUTHORIZED, reserved.amount)})
    await bench.capture(opened)
    equal("the sum of captures in the books", await bench.booked("capture"), bench.amount.minor)


@needs("manual", "decline")
async def test_a_declined_authorization_is_a_snapshot(bench: Bench) -> None:
    """A declined reservation is a snapshot with the decline: AWAITING_BUYER if the buyer may try again, else FAILED."""
    opened = await open_manual(bench)
    await bench.decline(opened)
    declined = await bench.gateway.fetch(opened.snapshot.ref)
    if declined.progress is Progress.APPROVED:
        declined = await bench.gateway.authorize(opened.snapshot.ref, idempotency_key="authorize-1")
    again = bench.has("second_try")
    equal("the progress after a decline", declined.progress, Progress.AWAITING_BUYER if again else Progress.FAILED)
    assert declined.decline is not None, "the snapshot of a declined reservation has no decline."
    equal("`decline.recoverable`", declined.decline.recoverable, again)
    equal("the books", await bench.books(), ())


@needs("manual", "decline", "second_try")
async def test_a_declined_authorization_can_be_tried_again(bench: Bench) -> None:
    """After a declined reservation the buyer reserves another way on the same object."""
    opened = await open_manual(bench)
    await bench.decline(opened)
    if (await bench.gateway.fetch(opened.snapshot.ref)).progress is Progress.APPROVED:
        await bench.gateway.authorize(opened.snapshot.ref, idempotency_key="authorize-1")
    await bench.confirm(opened)
    reserved = await bench.gateway.fetch(opened.snapshot.ref)
    if reserved.progress is Progress.APPROVED:
        reserved = await bench.gateway.authorize(opened.snapshot.ref, idempotency_key="authorize-2")
    equal("(progress, decline) of the second try", (reserved.progress, reserved.decline), (Progress.AUTHORIZED, None))
    equal("the books", await bench.books(), ())


@needs("manual")
async def test_the_whole_reservation_is_captured_once_however_often_we_ask(bench: Bench) -> None:
    """`capture` of a reservation moves the money once, however often it is asked for and with whatever key."""
    opened, _ = await bench.reserved()
    paid = await bench.capture(opened)
    equal("(progress, captured)", (paid.progress, paid.captured), (Progress.CAPTURED, bench.amount))
    again = await asyncio.gather(*(bench.capture(opened) for _ in range(4)), bench.capture(opened, key="capture-2"))
    told = {(one.progress, one.capture_ref) for one in again}
    equal("(progress, capture_ref) of the repeats", told, {(Progress.CAPTURED, paid.capture_ref)})
    equal("the sum of captures in the books", await bench.booked("capture"), bench.amount.minor)


@needs("manual")
async def test_a_partial_capture_is_final_and_releases_the_rest(bench: Bench) -> None:
    """`capture` of a part is the whole capture: the rest is released, by no refund, and can't be captured later."""
    opened, _ = await bench.reserved()
    part = half(bench)
    paid = await bench.capture(opened, amount=part)
    told = (paid.progress, paid.captured, paid.amount)
    equal("(progress, captured, amount)", told, (Progress.CAPTURED, part, bench.amount))
    some("a `capture_ref`", paid.capture_ref)
    more = await bench.capture(opened, key="capture-2", amount=bench.amount - part)
    equal("what a second `capture` says", (more.captured, more.capture_ref), (part, paid.capture_ref))
    equal("what `void` says", (await bench.gateway.void(opened.snapshot.ref)).captured, part)

    details = await bench.details(opened)
    told_later = (details.progress, details.captured, details.refunds)
    equal("(progress, captured, refunds) later", told_later, (Progress.CAPTURED, part, ()))
    equal("the sum of captures in the books", await bench.booked("capture"), part.minor)
    equal("the sum of refunds in the books", await bench.booked("refund"), 0)


@needs("manual")
async def test_of_a_partial_capture_no_more_goes_back_than_was_captured(bench: Bench) -> None:
    """`refund` of more than the captured part is refused; the part can go back."""
    opened, _ = await bench.reserved()
    part = half(bench)
    paid = await bench.capture(opened, amount=part)
    await raises(GatewayRefused, "`refund` of more than was captured", bench.refund(paid, bench.amount))
    refund = await bench.refunded(opened, paid, part, 2)
    equal("the refunds", [one.ref for one in await bench.refunds(opened)], [refund.ref])
    equal("captures and refunds together", await bench.booked("capture") + await bench.booked("refund"), 0)


@needs("manual", "twin")
async def test_a_capture_of_a_reservation_whose_answer_was_lost_is_found_by_its_key(bench: Bench) -> None:
    """`capture` whose answer was lost is found by reading and by repeating it with its key, and happened once."""

    async def lost(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        answer = await wire.inner.send(request, deadline_seconds=deadline)
        if request.method == "GET":
            return answer
        raise OutcomeUnknown("connection reset")

    opened, _ = await bench.reserved()
    bench.wire.fault = lost
    await raises(OutcomeUnknown, "`capture` whose answer was lost", bench.capture(opened, amount=half(bench)))
    bench.wire.fault = None
    read = await bench.seen(opened)
    repeated = await bench.capture(opened, amount=half(bench))
    equal("the progress by reading", read.progress, Progress.CAPTURED)
    equal("the progress by repeating", repeated.progress, Progress.CAPTURED)
    told = (repeated.captured, repeated.capture_ref)
    equal("(captured, capture_ref) by repeating", told, (half(bench), read.capture_ref))
    equal("the sum of captures in the books", await bench.booked("capture"), half(bench).minor)


@needs("manual")
async def test_releasing_a_reservation_ends_it_without_money(bench: Bench) -> None:
    """`void` of a reservation releases it: CANCELED, no money moved, and a late `capture` moves none."""
    opened, _ = await bench.reserved()
    for _ in range(2):
        ended = await bench.gateway.void(opened.snapshot.ref)
        told = (ended.progress, ended.captured, ended.capture_ref)
        equal("(progress, captured, capture_ref) after `void`", told, (Progress.CANCELED, None, None))
    equal("the progress after a late `capture`", (await bench.capture(opened)).progress, Progress.CANCELED)
    details = await bench.details(opened)
    told_later = (details.progress, details.refunds, details.disputes)
    equal("(progress, refunds, disputes)", told_later, (Progress.CANCELED, (), ()))
    equal("the books", await bench.books(), ())


@needs("manual")
async def test_releasing_what_was_captured_meanwhile_says_so_and_changes_nothing(bench: Bench) -> None:
    """`void` of a reservation that was captured meanwhile answers with the captured snapshot, and moves nothing."""
    opened, _ = await bench.reserved()
    paid = await bench.capture(opened)
    before = await bench.books()
    ended = await bench.gateway.void(opened.snapshot.ref)
    told = (ended.progress, ended.captured, ended.capture_ref)
    equal("(progress, captured, capture_ref)", told, (Progress.CAPTURED, bench.amount, paid.capture_ref))
    equal("the books", await bench.books(), before)


@needs("manual")
async def test_a_reservation_that_ran_out_ends_cleanly(bench: Bench) -> None:
    """A reservation that ran out reads CANCELED; `capture` and `void` say so as well, and no money moves."""
    opened, _ = await bench.reserved()
    await bench.hooks.expire_authorization(bench, opened)
    equal("the progress in a reading", (await bench.seen(opened)).progress, Progress.CANCELED)
    late = await bench.capture(opened)
    equal("(progress, captured) of a late `capture`", (late.progress, late.captured), (Progress.CANCELED, None))
    equal("the progress after `void`", (await bench.gateway.void(opened.snapshot.ref)).progress, Progress.CANCELED)
    equal("the books", await bench.books(), ())
