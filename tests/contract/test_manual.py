"""Authorize first, capture later, at every gateway: all of it, a part, or nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from paidonce.errors import GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import CaptureMethod, HttpRequest, HttpResponse, Opened, Progress
from paidonce.money import Money

if TYPE_CHECKING:
    from contract.conftest import Bench, Wire


async def open_manual(bench: Bench) -> Opened:
    return await bench.gateway.create(bench.request(capture_method=CaptureMethod.MANUAL))


def half(bench: Bench) -> Money:
    return Money(bench.amount.minor // 2, bench.amount.currency)


async def test_authorizing_reserves_and_moves_nothing(bench: Bench) -> None:
    opened, reserved = await bench.reserved()
    assert (reserved.captured, reserved.capture_ref, reserved.fee) == (None, None, None)
    assert (reserved.amount, reserved.payment_id) == (bench.amount, "pay_contract1")
    assert (await bench.seen(opened)).progress is Progress.AUTHORIZED
    details = await bench.details(opened)
    assert (details.refunds, details.disputes) == ((), ())
    assert bench.core.books() == ()


async def test_only_an_approved_object_can_be_authorized_by_the_server(bench: Bench) -> None:
    opened = await open_manual(bench)
    ref = opened.snapshot.ref
    if bench.gateway.captures_in_browser:
        # There the browser's confirmation reserves it, so this is never called.
        with pytest.raises(GatewayRefused):
            await bench.gateway.authorize(ref, idempotency_key="authorize-1")
    else:
        snapshot = await bench.gateway.authorize(ref, idempotency_key="authorize-1")
        assert snapshot.progress is Progress.AWAITING_BUYER
    assert (await bench.seen(opened)).progress is Progress.AWAITING_BUYER


async def test_authorizing_again_with_its_key_reserves_once(bench: Bench) -> None:
    opened, reserved = await bench.reserved()
    if not bench.gateway.captures_in_browser:
        ref = opened.snapshot.ref
        again = await asyncio.gather(
            *(bench.gateway.authorize(ref, idempotency_key="authorize-1") for _ in range(3)),
            bench.gateway.authorize(ref, idempotency_key="authorize-2"),
        )
        assert {(one.progress, one.amount) for one in again} == {(Progress.AUTHORIZED, reserved.amount)}
    await bench.capture(opened)
    assert bench.booked("capture") == bench.amount.minor


async def test_a_declined_authorization_is_a_snapshot_and_can_be_tried_again(bench: Bench) -> None:
    opened = await open_manual(bench)
    bench.decline(opened)
    declined = await bench.gateway.fetch(opened.snapshot.ref)
    if declined.progress is Progress.APPROVED:
        declined = await bench.gateway.authorize(opened.snapshot.ref, idempotency_key="authorize-1")
    assert declined.progress is Progress.AWAITING_BUYER
    assert declined.decline is not None
    assert declined.decline.recoverable is True

    bench.confirm(opened)
    reserved = await bench.gateway.fetch(opened.snapshot.ref)
    if reserved.progress is Progress.APPROVED:
        reserved = await bench.gateway.authorize(opened.snapshot.ref, idempotency_key="authorize-2")
    assert (reserved.progress, reserved.decline) == (Progress.AUTHORIZED, None)
    assert bench.core.books() == ()


async def test_the_whole_reservation_is_captured_once_however_often_we_ask(bench: Bench) -> None:
    opened, _ = await bench.reserved()
    paid = await bench.capture(opened)
    assert (paid.progress, paid.captured) == (Progress.CAPTURED, bench.amount)
    again = await asyncio.gather(*(bench.capture(opened) for _ in range(4)), bench.capture(opened, key="capture-2"))
    assert {(one.progress, one.capture_ref) for one in again} == {(Progress.CAPTURED, paid.capture_ref)}
    assert bench.booked("capture") == bench.amount.minor


async def test_a_partial_capture_is_final_and_releases_the_rest(bench: Bench) -> None:
    opened, _ = await bench.reserved()
    part = half(bench)
    paid = await bench.capture(opened, amount=part)
    assert (paid.progress, paid.captured, paid.amount) == (Progress.CAPTURED, part, bench.amount)
    assert paid.capture_ref
    more = await bench.capture(opened, key="capture-2", amount=bench.amount - part)
    assert (more.captured, more.capture_ref) == (part, paid.capture_ref)
    assert (await bench.gateway.void(opened.snapshot.ref)).captured == part

    details = await bench.details(opened)
    assert (details.progress, details.captured, details.refunds) == (Progress.CAPTURED, part, ())
    assert bench.booked("capture") == part.minor
    assert bench.booked("refund") == 0


async def test_of_a_partial_capture_no_more_goes_back_than_was_captured(bench: Bench) -> None:
    opened, _ = await bench.reserved()
    part = half(bench)
    paid = await bench.capture(opened, amount=part)
    with pytest.raises(GatewayRefused):
        await bench.refund(paid, bench.amount)
    refund = await bench.refund(paid, part, 2)
    assert [one.ref for one in await bench.refunds(opened)] == [refund.ref]
    assert bench.booked("capture") + bench.booked("refund") == 0


async def test_a_capture_of_a_reservation_whose_answer_was_lost_is_found_by_its_key(bench: Bench) -> None:
    async def lost(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        answer = await wire.inner.send(request, deadline_seconds=deadline)
        if request.method == "GET":
            return answer
        raise OutcomeUnknown("connection reset")

    opened, _ = await bench.reserved()
    bench.wire.fault = lost
    with pytest.raises(OutcomeUnknown):
        await bench.capture(opened, amount=half(bench))
    bench.wire.fault = None
    read = await bench.seen(opened)
    repeated = await bench.capture(opened, amount=half(bench))
    assert read.progress is repeated.progress is Progress.CAPTURED
    assert (repeated.captured, repeated.capture_ref) == (half(bench), read.capture_ref)
    assert bench.booked("capture") == half(bench).minor


async def test_releasing_a_reservation_ends_it_without_money(bench: Bench) -> None:
    opened, _ = await bench.reserved()
    for _ in range(2):
        ended = await bench.gateway.void(opened.snapshot.ref)
        assert (ended.progress, ended.captured, ended.capture_ref) == (Progress.CANCELED, None, None)
    assert (await bench.capture(opened)).progress is Progress.CANCELED
    details = await bench.details(opened)
    assert (details.progress, details.refunds, details.disputes) == (Progress.CANCELED, (), ())
    assert bench.core.books() == ()


async def test_releasing_what_was_captured_meanwhile_says_so_and_changes_nothing(bench: Bench) -> None:
    opened, _ = await bench.reserved()
    paid = await bench.capture(opened)
    before = bench.core.books()
    ended = await bench.gateway.void(opened.snapshot.ref)
    assert (ended.progress, ended.captured, ended.capture_ref) == (Progress.CAPTURED, bench.amount, paid.capture_ref)
    assert bench.core.books() == before


async def test_a_reservation_that_ran_out_ends_cleanly(bench: Bench) -> None:
    opened, _ = await bench.reserved()
    bench.hooks.expire_authorization(bench.core, opened, now=bench.now)
    assert (await bench.seen(opened)).progress is Progress.CANCELED
    late = await bench.capture(opened)
    assert (late.progress, late.captured) == (Progress.CANCELED, None)
    assert (await bench.gateway.void(opened.snapshot.ref)).progress is Progress.CANCELED
    assert bench.core.books() == ()
