"""The life of a payment at every gateway: created, confirmed, captured once, declined and tried again, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import quote

import pytest

from paidonce.contract.bench import Bench, Wire
from paidonce.contract.expect import equal, none_of, raises, some
from paidonce.contract.marks import needs
from paidonce.errors import GatewayError, GatewayMisconfigured, GatewayRefused
from paidonce.gateways.base import HttpRequest, HttpResponse, Progress
from paidonce.money import Money, MoneyError
from paidonce.ports import GatewayCallInsideTransaction, inside_transaction

pytestmark = pytest.mark.asyncio


async def test_a_created_object_repeats_what_we_asked_for_and_has_moved_nothing(bench: Bench) -> None:
    """`create` answers with our ids, our amount and our account, waits for the buyer, and has moved no money."""
    request = bench.request()
    snapshot = (await bench.create(request)).snapshot
    account = await bench.gateway.account()
    equal("`gateway` in the answer of `create`", snapshot.gateway, bench.gateway.name)
    some("a `ref` in the answer of `create`", snapshot.ref)
    equal("the amount in the answer of `create`", snapshot.amount, request.amount)
    equal("our `payment_id` in the answer of `create`", snapshot.payment_id, request.payment_id)
    equal("our `order_id` in the answer of `create`", snapshot.order_id, request.order_id)
    equal("(account, live) in the answer of `create`", (snapshot.account, snapshot.live), (account.id, account.live))
    equal("`live` of the offline account", account.live, False)
    equal("the progress of a new object", snapshot.progress, Progress.AWAITING_BUYER)
    told = (snapshot.captured, snapshot.capture_ref, snapshot.decline)
    equal("(captured, capture_ref, decline) of a new object", told, (None, None, None))
    equal("the books after `create`", await bench.books(), ())


async def test_creating_again_with_the_same_key_gives_the_same_object(bench: Bench) -> None:
    """`create` with a key that was used before gives the object that it made then, with the same client values."""
    first, again = await bench.open(), await bench.open()
    equal("the ref of a repeated `create`", again.snapshot.ref, first.snapshot.ref)
    assert dict(again.client) == dict(first.client), "a repeated `create` gave other client values."


async def test_creating_in_parallel_with_the_same_key_gives_one_object(bench: Bench) -> None:
    """Eight `create` at once with one key make one object."""
    opened = await asyncio.gather(*(bench.open() for _ in range(8)))
    equal("the number of objects", len({each.snapshot.ref for each in opened}), 1)


async def test_another_key_gives_another_object(bench: Bench) -> None:
    """`create` for another payment makes an object of its own."""
    first = await bench.open(1)
    second = await bench.open(2)
    assert first.snapshot.ref != second.snapshot.ref, "two payments got one object."
    assert second.snapshot.payment_id != first.snapshot.payment_id, "the second object carries the first payment's id."


async def test_a_key_that_comes_back_with_another_amount_is_refused_and_changes_nothing(bench: Bench) -> None:
    """`create` with a used key and another amount is refused, and the first object stays what it was."""
    opened = await bench.open()
    before = await bench.seen(opened)
    other = Money(bench.amount.minor * 2, bench.amount.currency)
    await raises(
        GatewayRefused, "`create` with a used key and another amount", bench.create(bench.request(amount=other))
    )
    equal("the first object afterwards", await bench.seen(opened), before)


@needs("twin")
async def test_a_repeated_create_after_a_lost_answer_finds_the_first_object(bench: Bench) -> None:
    """`create` whose answer was lost is repeated with its key and finds the object that it had made."""
    await bench.gateway.account()
    lost = 0

    async def carried_out_but_unheard(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        nonlocal lost
        answer = await wire.inner.send(request, deadline_seconds=deadline)
        lost += 1
        return replace(answer, status=502, headers={"content-type": "text/html"}, body=b"<html>Bad gateway</html>")

    warm = await bench.open(2)
    bench.wire.fault = carried_out_but_unheard
    await raises(GatewayError, "`create` whose answer was lost", bench.open(1))
    bench.wire.fault = None
    first, again = await bench.open(1), await bench.open(1)
    assert lost > 0, "`create` sent nothing."
    equal("the ref of the second repeat", again.snapshot.ref, first.snapshot.ref)
    assert first.snapshot.ref != warm.snapshot.ref, "the repeat found the object of another payment."


async def test_every_amount_that_a_gateway_accepts_comes_back_unchanged(bench: Bench) -> None:
    """Each of `contract.amounts` can be expressed, and reads the same in the gateway's answer."""
    some("amounts in `contract.amounts`", bench.hooks.amounts)
    for number, amount in enumerate(bench.hooks.amounts, start=1):
        bench.gateway.check_amount(amount)
        bench.gateway.attributes(amount)
        opened = await bench.create(bench.request(number, amount=amount))
        equal(f"the amount of an object created for {amount}", opened.snapshot.amount, amount)


async def test_an_amount_that_a_gateway_cannot_express_is_refused_before_anything_is_sent(bench: Bench) -> None:
    """`check_amount` and `attributes` raise `MoneyError` for `contract.refused_amounts`, nothing and less."""
    some("amounts in `contract.refused_amounts`", bench.hooks.refused_amounts)
    nothing, less = Money(0, bench.amount.currency), Money(-1, bench.amount.currency)
    for amount in (*bench.hooks.refused_amounts, nothing, less):
        for method in (bench.gateway.check_amount, bench.gateway.attributes):
            try:
                method(amount)
            except MoneyError:
                continue
            raise AssertionError(f"`{method.__name__}` took {amount!r}; it must raise MoneyError.")
    equal("what was sent meanwhile", bench.wire.sent, [])


async def test_reopening_gives_the_browser_its_values_again_and_changes_nothing(bench: Bench) -> None:
    """`reopen` reads the object again, with the client values that `create` gave, and changes nothing."""
    opened = await bench.open()
    before = await bench.seen(opened)
    bench.wire.sent.clear()
    written = bench.notebook.written
    reopened = await bench.gateway.reopen(opened.snapshot.ref)
    assert dict(reopened.client) == dict(opened.client), "`reopen` gave other client values than `create`."
    equal("the snapshot of `reopen`", replace(reopened.snapshot, request_id=None), before)
    equal("the object afterwards", await bench.seen(opened), before)
    none_of("call of `reopen` that is no GET", [one.method for one in bench.wire.sent if one.method != "GET"])
    equal("notes written by `reopen` and `fetch`", bench.notebook.written - written, 0)


async def test_a_confirmed_payment_is_captured_once_however_often_we_ask(bench: Bench) -> None:
    """`capture` of what is captured answers with the same capture, every time."""
    opened, paid = await bench.paid()
    equal("what was captured", (paid.captured, paid.amount), (bench.amount, bench.amount))
    some("a `capture_ref`", paid.capture_ref)
    equal("the decline of a captured payment", paid.decline, None)
    first = (Progress.CAPTURED, paid.captured, paid.capture_ref)
    for _ in range(3):
        again = await bench.capture(opened)
        equal(
            "(progress, captured, capture_ref) of a repeat", (again.progress, again.captured, again.capture_ref), first
        )
    equal("the capture in a later reading", (await bench.seen(opened)).capture_ref, paid.capture_ref)
    equal("the sum of captures in the books", await bench.booked("capture"), bench.amount.minor)


async def test_parallel_captures_with_one_key_move_the_money_once(bench: Bench) -> None:
    """Ten times "read, then capture" at once move the money once."""
    opened = await bench.open()
    await bench.confirm(opened)
    snapshots = await asyncio.gather(*(bench.complete(opened) for _ in range(10)))
    equal("what they said", {snapshot.progress for snapshot in snapshots}, {Progress.CAPTURED})
    equal("the number of captures", len({snapshot.capture_ref for snapshot in snapshots}), 1)
    equal("what was captured", (await bench.seen(opened)).captured, bench.amount)
    equal("the sum of captures in the books", await bench.booked("capture"), bench.amount.minor)


async def test_a_capture_with_another_key_moves_nothing_more(bench: Bench) -> None:
    """`capture` of what is captured, with a new key, answers with the capture that there is."""
    opened, paid = await bench.paid()
    again = await bench.capture(opened, key="capture-2")
    equal("(captured, capture_ref)", (again.captured, again.capture_ref), (paid.captured, paid.capture_ref))
    equal("the sum of captures in the books", await bench.booked("capture"), bench.amount.minor)


async def test_capturing_before_the_buyer_agreed_moves_nothing(bench: Bench) -> None:
    """`capture` before the buyer agreed is AWAITING_BUYER, no error, and moves nothing."""
    opened = await bench.open()
    snapshot = await bench.capture(opened)
    equal("the progress of an early `capture`", snapshot.progress, Progress.AWAITING_BUYER)
    equal("(captured, capture_ref)", (snapshot.captured, snapshot.capture_ref), (None, None))
    equal("what a reading says was captured", (await bench.seen(opened)).captured, None)
    equal("the books", await bench.books(), ())


@needs("decline")
async def test_a_decline_is_a_snapshot_with_its_reason(bench: Bench) -> None:
    """A decline is a snapshot with the gateway's own code: AWAITING_BUYER if the buyer may try again, else FAILED."""
    opened = await bench.open()
    await bench.decline(opened)
    declined = await bench.complete(opened, key="capture-1")
    assert declined.decline is not None, f"the snapshot after a decline has none; its progress is {declined.progress}."
    again = bench.has("second_try")
    equal("`decline.recoverable`", declined.decline.recoverable, again)
    some("a `decline.raw_code`", declined.decline.raw_code)
    equal("the progress after a decline", declined.progress, Progress.AWAITING_BUYER if again else Progress.FAILED)
    equal("(captured, capture_ref)", (declined.captured, declined.capture_ref), (None, None))
    equal("the books after a decline", await bench.books(), ())


@needs("decline")
async def test_an_old_decline_is_told_by_no_reading_where_only_the_capture_moves_money(bench: Bench) -> None:
    """Where only `capture` moves money, a reading repeats no decline: the buyer may be at the next attempt by then."""
    opened = await bench.open()
    await bench.decline(opened)
    await bench.complete(opened, key="capture-1")
    if bench.gateway.captures_in_browser:
        # There the reading is what tells a decline.
        some("a decline in a reading", (await bench.seen(opened)).decline)
        return
    equal("the decline that `fetch` tells", (await bench.seen(opened)).decline, None)
    equal("the decline that `reopen` tells", (await bench.gateway.reopen(opened.snapshot.ref)).snapshot.decline, None)


@needs("decline", "second_try")
async def test_the_buyer_may_try_again_on_the_same_object(bench: Bench) -> None:
    """After a decline the buyer pays another way on the same object, and it is captured without a decline."""
    opened = await bench.open()
    await bench.decline(opened)
    await bench.complete(opened, key="capture-1")
    await bench.confirm(opened)
    paid = await bench.complete(opened, key="capture-2")
    equal("the progress of the second try", paid.progress, Progress.CAPTURED)
    equal("its ref", paid.ref, opened.snapshot.ref)
    equal("(captured, decline)", (paid.captured, paid.decline), (bench.amount, None))


@needs("decline")
async def test_repeating_a_declined_capture_with_its_key_does_not_try_the_card_again(bench: Bench) -> None:
    """`capture` repeated with the key of a declined one stays declined."""
    opened = await bench.open()
    await bench.decline(opened)
    await bench.complete(opened, key="capture-1")
    expected = Progress.AWAITING_BUYER if bench.has("second_try") else Progress.FAILED
    for _ in range(2):
        again = await bench.capture(opened, key="capture-1")
        equal("(progress, captured) of the repeat", (again.progress, again.captured), (expected, None))
    equal("the books", await bench.books(), ())


async def test_an_object_that_was_ended_takes_no_money_any_more(bench: Bench) -> None:
    """`void` of an unconfirmed object ends it for good, if there is such a call; it can be repeated."""
    opened = await bench.open()
    ref = opened.snapshot.ref
    at_once = bench.gateway.can_void and bench.has("immediate_void")
    expected = Progress.CANCELED if at_once else Progress.AWAITING_BUYER
    equal("the progress after `void`", (await bench.gateway.void(ref)).progress, expected)
    equal("the progress after a second `void`", (await bench.gateway.void(ref)).progress, expected)
    if not bench.gateway.can_void:
        equal("what was captured", (await bench.seen(opened)).captured, None)
        return
    if not at_once:
        await bench.hooks.expire(bench, opened)
        equal("the progress after its time has run out", (await bench.seen(opened)).progress, Progress.CANCELED)
        equal("the progress that `void` tells then", (await bench.gateway.void(ref)).progress, Progress.CANCELED)
    if "twin" not in bench.case.missing:
        # Without a counterpart, money that comes late has come all the same.
        await bench.confirm(opened)
    equal("the progress after a late confirmation", (await bench.complete(opened)).progress, Progress.CANCELED)
    equal("the progress after a late `capture`", (await bench.capture(opened)).progress, Progress.CANCELED)
    equal("what was captured", (await bench.seen(opened)).captured, None)
    equal("the books", await bench.books(), ())


async def test_an_object_can_be_ended_after_the_buyer_agreed_and_before_we_captured(bench: Bench) -> None:
    """`void` after the buyer agreed ends what only our capture would pay, and changes nothing of what is paid."""
    opened = await bench.open()
    await bench.confirm(opened)
    before = await bench.seen(opened)
    ended = await bench.gateway.void(opened.snapshot.ref)
    if bench.gateway.captures_in_browser or not bench.gateway.can_void:
        equal("the object after `void`", replace(ended, request_id=None), before)
    else:
        equal("(progress, captured)", (ended.progress, ended.captured), (Progress.CANCELED, None))


async def test_ending_what_went_through_meanwhile_tells_so_and_changes_nothing(bench: Bench) -> None:
    """`void` of a captured payment answers with the captured snapshot, raises nothing and changes nothing."""
    opened, _ = await bench.paid()
    before = await bench.seen(opened)
    ended = await bench.gateway.void(opened.snapshot.ref)
    equal("the object after `void`", replace(ended, request_id=None), before)
    equal("its progress", ended.progress, Progress.CAPTURED)


async def test_an_object_that_nobody_knows_is_for_an_operator(bench: Bench) -> None:
    """A ref that nobody knows raises `GatewayMisconfigured`, and is quoted whole where it stands in an address."""
    await bench.gateway.account()
    for ref in ("nobody-knows-this", "../account", "a/b?c=d#e"):
        await raises(GatewayMisconfigured, f"`fetch` of {ref!r}", bench.gateway.fetch(ref))
        await raises(GatewayMisconfigured, f"`reopen` of {ref!r}", bench.gateway.reopen(ref))
        if "twin" not in bench.case.missing:
            # Quoted whole, so that a ref can never lead to another resource.
            url = bench.wire.sent[-1].url
            assert quote(ref, safe="") in url, f"the ref {ref!r} is not quoted in {url}"


async def test_no_method_calls_out_while_a_transaction_is_open(bench: Bench) -> None:
    """Whatever calls out does so through the transport or the notebook, which refuse inside a transaction."""
    opened, paid = await bench.paid()
    ref = opened.snapshot.ref
    before = await bench.seen(opened)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "create": lambda: bench.create(bench.request(2)),
        "reopen": lambda: bench.gateway.reopen(ref),
        "fetch": lambda: bench.gateway.fetch(ref),
        "fetch with details": lambda: bench.gateway.fetch(ref, details=True),
        "capture": lambda: bench.capture(opened),
        "refund": lambda: bench.refund(paid, bench.amount),
        "void": lambda: bench.gateway.void(ref),
    }
    token = inside_transaction.set(True)
    try:
        for name, call in calls.items():
            await raises(GatewayCallInsideTransaction, f"`{name}` inside a transaction", call())
    finally:
        inside_transaction.reset(token)
    equal("the object afterwards", await bench.seen(opened), before)


async def test_after_a_restart_objects_and_the_keys_that_made_them_are_known(bench: Bench) -> None:
    """What was created and captured before a restart is known after it, and so are the keys."""
    opened, paid = await bench.paid(1)
    waiting = await bench.open(2)
    later = bench.restarted()
    assert later.gateway is not bench.gateway
    equal("the paid object after a restart", await later.seen(opened), replace(paid, request_id=None))
    equal("the capture after a restart", (await later.capture(opened)).capture_ref, paid.capture_ref)
    equal("the ref under the first key", (await later.open(1)).snapshot.ref, opened.snapshot.ref)
    equal("the ref under the second key", (await later.open(2)).snapshot.ref, waiting.snapshot.ref)
    known = (opened.snapshot.ref, waiting.snapshot.ref)
    assert (await later.open(3)).snapshot.ref not in known, "a new object got the ref of an old one."


async def test_a_gateway_can_be_closed_twice(bench: Bench) -> None:
    """`aclose` may be called again, and calls nobody."""
    await bench.gateway.aclose()
    await bench.gateway.aclose()
    equal("what was sent", bench.wire.sent, [])
