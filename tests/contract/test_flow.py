"""The life of a payment at every gateway: created, confirmed, captured once, declined and tried again, ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from paidonce.errors import GatewayError, GatewayMisconfigured, GatewayRefused
from paidonce.gateways.base import HttpRequest, HttpResponse, Progress
from paidonce.money import Money, MoneyError
from paidonce.ports import GatewayCallInsideTransaction, inside_transaction

if TYPE_CHECKING:
    from contract.conftest import Bench, Wire


async def test_a_created_object_repeats_what_we_asked_for_and_has_moved_nothing(bench: Bench) -> None:
    request = bench.request()
    snapshot = (await bench.gateway.create(request)).snapshot
    account = await bench.gateway.account()
    assert snapshot.gateway == bench.gateway.name
    assert snapshot.ref
    assert snapshot.amount == request.amount
    assert (snapshot.payment_id, snapshot.order_id) == (request.payment_id, request.order_id)
    assert (snapshot.account, snapshot.live) == (account.id, account.live)
    assert account.live is False
    assert snapshot.progress is Progress.AWAITING_BUYER
    assert (snapshot.captured, snapshot.capture_ref, snapshot.decline) == (None, None, None)


async def test_creating_again_with_the_same_key_gives_the_same_object(bench: Bench) -> None:
    first, again = await bench.open(), await bench.open()
    assert again.snapshot.ref == first.snapshot.ref
    assert dict(again.client) == dict(first.client)


async def test_creating_in_parallel_with_the_same_key_gives_one_object(bench: Bench) -> None:
    opened = await asyncio.gather(*(bench.open() for _ in range(8)))
    assert len({each.snapshot.ref for each in opened}) == 1


async def test_another_key_gives_another_object(bench: Bench) -> None:
    first = await bench.open(1)
    second = await bench.open(2)
    assert first.snapshot.ref != second.snapshot.ref
    assert second.snapshot.payment_id != first.snapshot.payment_id


async def test_a_key_that_comes_back_with_another_amount_is_refused_and_changes_nothing(bench: Bench) -> None:
    opened = await bench.open()
    before = await bench.seen(opened)
    other = Money(bench.amount.minor * 2, bench.amount.currency)
    with pytest.raises(GatewayRefused):
        await bench.gateway.create(bench.request(amount=other))
    assert await bench.seen(opened) == before


async def test_a_repeated_create_after_a_lost_answer_finds_the_first_object(bench: Bench) -> None:
    await bench.gateway.account()
    lost = 0

    async def carried_out_but_unheard(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        nonlocal lost
        answer = await wire.inner.send(request, deadline_seconds=deadline)
        lost += 1
        return replace(answer, status=502, headers={"content-type": "text/html"}, body=b"<html>Bad gateway</html>")

    warm = await bench.open(2)
    bench.wire.fault = carried_out_but_unheard
    with pytest.raises(GatewayError):
        await bench.open(1)
    bench.wire.fault = None
    first, again = await bench.open(1), await bench.open(1)
    assert lost > 0
    assert first.snapshot.ref == again.snapshot.ref != warm.snapshot.ref


async def test_every_amount_that_a_gateway_accepts_comes_back_unchanged(bench: Bench) -> None:
    for number, amount in enumerate(bench.case.hooks.amounts, start=1):
        bench.gateway.check_amount(amount)
        bench.gateway.attributes(amount)
        opened = await bench.gateway.create(bench.request(number, amount=amount))
        assert opened.snapshot.amount == amount


def test_an_amount_that_a_gateway_cannot_express_is_refused_before_anything_is_sent(bench: Bench) -> None:
    assert bench.case.hooks.refused_amounts
    nothing, less = Money(0, bench.amount.currency), Money(-1, bench.amount.currency)
    for amount in (*bench.case.hooks.refused_amounts, nothing, less):
        with pytest.raises(MoneyError):
            bench.gateway.check_amount(amount)
        with pytest.raises(MoneyError):
            bench.gateway.attributes(amount)
    assert bench.wire.sent == []


async def test_reopening_gives_the_browser_its_values_again_and_changes_nothing(bench: Bench) -> None:
    opened = await bench.open()
    before = await bench.seen(opened)
    bench.wire.sent.clear()
    reopened = await bench.gateway.reopen(opened.snapshot.ref)
    assert dict(reopened.client) == dict(opened.client)
    assert replace(reopened.snapshot, request_id=None) == before
    assert await bench.seen(opened) == before
    assert {request.method for request in bench.wire.sent} == {"GET"}


async def test_a_confirmed_payment_is_captured_once_however_often_we_ask(bench: Bench) -> None:
    opened, paid = await bench.paid()
    assert paid.captured == paid.amount == bench.amount
    assert paid.capture_ref
    assert paid.decline is None
    for _ in range(3):
        again = await bench.capture(opened)
        assert (again.progress, again.captured, again.capture_ref) == (
            Progress.CAPTURED,
            paid.captured,
            paid.capture_ref,
        )
    assert (await bench.seen(opened)).capture_ref == paid.capture_ref


async def test_parallel_captures_with_one_key_move_the_money_once(bench: Bench) -> None:
    opened = await bench.open()
    bench.confirm(opened)
    snapshots = await asyncio.gather(*(bench.complete(opened) for _ in range(10)))
    assert {snapshot.progress for snapshot in snapshots} == {Progress.CAPTURED}
    assert len({snapshot.capture_ref for snapshot in snapshots}) == 1
    assert (await bench.seen(opened)).captured == bench.amount


async def test_a_capture_with_another_key_moves_nothing_more(bench: Bench) -> None:
    opened, paid = await bench.paid()
    again = await bench.capture(opened, key="capture-2")
    assert (again.captured, again.capture_ref) == (paid.captured, paid.capture_ref)


async def test_capturing_before_the_buyer_agreed_moves_nothing(bench: Bench) -> None:
    opened = await bench.open()
    snapshot = await bench.capture(opened)
    assert snapshot.progress is Progress.AWAITING_BUYER
    assert (snapshot.captured, snapshot.capture_ref) == (None, None)
    assert (await bench.seen(opened)).captured is None


async def test_a_decline_is_a_snapshot_and_the_buyer_may_try_again_on_the_same_object(bench: Bench) -> None:
    opened = await bench.open()
    bench.decline(opened)
    declined = await bench.complete(opened, key="capture-1")
    assert declined.decline is not None
    assert declined.decline.recoverable is True
    assert declined.decline.raw_code
    assert declined.progress is Progress.AWAITING_BUYER
    assert (declined.captured, declined.capture_ref) == (None, None)
    if not bench.gateway.captures_in_browser:
        # Only the capture tells. A reading that repeats it would undo the buyer's next attempt.
        assert (await bench.seen(opened)).decline is None
        assert (await bench.gateway.reopen(opened.snapshot.ref)).snapshot.decline is None

    bench.confirm(opened)
    paid = await bench.complete(opened, key="capture-2")
    assert paid.progress is Progress.CAPTURED
    assert paid.ref == opened.snapshot.ref
    assert (paid.captured, paid.decline) == (bench.amount, None)


async def test_repeating_a_declined_capture_with_its_key_does_not_try_the_card_again(bench: Bench) -> None:
    opened = await bench.open()
    bench.decline(opened)
    await bench.complete(opened, key="capture-1")
    for _ in range(2):
        again = await bench.capture(opened, key="capture-1")
        assert (again.progress, again.captured) == (Progress.AWAITING_BUYER, None)


async def test_an_object_that_was_ended_takes_no_money_any_more(bench: Bench) -> None:
    opened = await bench.open()
    first = await bench.gateway.void(opened.snapshot.ref)
    again = await bench.gateway.void(opened.snapshot.ref)
    expected = Progress.CANCELED if bench.gateway.can_void else Progress.AWAITING_BUYER
    assert (first.progress, again.progress) == (expected, expected)
    if bench.gateway.can_void:
        bench.confirm(opened)
        assert (await bench.complete(opened)).progress is Progress.CANCELED
        assert (await bench.capture(opened)).progress is Progress.CANCELED
    assert (await bench.seen(opened)).captured is None


async def test_an_object_can_be_ended_after_the_buyer_agreed_and_before_we_captured(bench: Bench) -> None:
    opened = await bench.open()
    bench.confirm(opened)
    before = await bench.seen(opened)
    ended = await bench.gateway.void(opened.snapshot.ref)
    if bench.gateway.captures_in_browser or not bench.gateway.can_void:
        assert replace(ended, request_id=None) == before
    else:
        assert (ended.progress, ended.captured) == (Progress.CANCELED, None)


async def test_ending_what_went_through_meanwhile_tells_so_and_changes_nothing(bench: Bench) -> None:
    opened, _ = await bench.paid()
    before = await bench.seen(opened)
    ended = await bench.gateway.void(opened.snapshot.ref)
    assert replace(ended, request_id=None) == before
    assert ended.progress is Progress.CAPTURED


async def test_an_object_that_nobody_knows_is_for_an_operator(bench: Bench) -> None:
    await bench.gateway.account()
    for ref in ("nobody-knows-this", "../account", "a/b?c=d#e"):
        with pytest.raises(GatewayMisconfigured):
            await bench.gateway.fetch(ref)
        with pytest.raises(GatewayMisconfigured):
            await bench.gateway.reopen(ref)
        # Quoted whole, so that a ref can never lead to another resource.
        assert quote(ref, safe="") in bench.wire.sent[-1].url


async def test_no_method_calls_out_while_a_transaction_is_open(bench: Bench) -> None:
    opened, paid = await bench.paid()
    ref = opened.snapshot.ref
    before = await bench.seen(opened)
    calls = (
        lambda: bench.gateway.create(bench.request(2)),
        lambda: bench.gateway.reopen(ref),
        lambda: bench.gateway.fetch(ref),
        lambda: bench.gateway.fetch(ref, details=True),
        lambda: bench.capture(opened),
        lambda: bench.refund(paid, bench.amount),
        lambda: bench.gateway.void(ref),
    )
    token = inside_transaction.set(True)
    try:
        for call in calls:
            with pytest.raises(GatewayCallInsideTransaction):
                await call()
    finally:
        inside_transaction.reset(token)
    assert await bench.seen(opened) == before


async def test_a_restarted_twin_knows_its_objects_and_the_keys_that_made_them(bench: Bench) -> None:
    opened, paid = await bench.paid(1)
    waiting = await bench.open(2)
    later = bench.restarted()
    assert later.core is not bench.core
    assert await later.seen(opened) == replace(paid, request_id=None)
    assert (await later.capture(opened)).capture_ref == paid.capture_ref
    assert (await later.open(1)).snapshot.ref == opened.snapshot.ref
    assert (await later.open(2)).snapshot.ref == waiting.snapshot.ref
    assert (await later.open(3)).snapshot.ref not in (opened.snapshot.ref, waiting.snapshot.ref)


async def test_a_gateway_can_be_closed_twice(bench: Bench) -> None:
    await bench.gateway.aclose()
    await bench.gateway.aclose()
