"""The gateway at its twin: what the contract suite can't know of Mollie."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from paidonce.contract.bench import Bench, Wire
from paidonce.errors import GatewayBusy, GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import (
    CaptureMethod,
    DisputeProgress,
    HttpRequest,
    HttpResponse,
    Opened,
    Progress,
    RefundProgress,
)
from paidonce.gateways.mollie.client import MollieClient, read, scrubbed
from paidonce.gateways.mollie.gateway import KEY_LIFE_SECONDS
from paidonce.gateways.mollie.sandbox import BANK_TRANSFER_SECONDS, KEY_SECONDS, OPEN_SECONDS
from paidonce.gateways.mollie.settings import SANDBOX_KEY
from paidonce.money import Money
from paidonce.secret import Secret


def choose(bench: Bench, opened: Opened, choice: str) -> HttpResponse:
    path = "/checkout/select-method/" + opened.snapshot.ref.removeprefix("tr_")
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return bench.browse(HttpRequest("POST", path, headers, f"choice={choice}".encode()))


async def reserved(bench: Bench) -> Opened:
    opened = await bench.create(bench.request(capture_method=CaptureMethod.MANUAL))
    assert choose(bench, opened, "card").status == 303
    return opened


def posts(bench: Bench, part: str) -> list[HttpRequest]:
    return [one for one in bench.wire.sent if one.method == "POST" and part in one.url]


# ── Ending ──────────


async def test_an_open_payment_that_mollie_will_not_cancel_is_returned_as_it_is(bench: Bench) -> None:
    opened = await bench.open()
    bench.wire.sent.clear()
    kept = await bench.gateway.void(opened.snapshot.ref)
    assert kept.progress is Progress.AWAITING_BUYER
    assert [one.method for one in bench.wire.sent] == ["GET"], "nothing is tried that Mollie says is impossible"
    # So the buyer can still pay, and nothing pretends otherwise.
    choose(bench, opened, "card")
    assert (await bench.gateway.void(opened.snapshot.ref)).progress is Progress.CAPTURED
    assert await bench.booked("capture") == bench.amount.minor


async def test_a_bank_transfer_is_awaited_and_can_be_canceled(bench: Bench) -> None:
    opened = await bench.open()
    choose(bench, opened, "banktransfer")
    waiting = await bench.seen(opened)
    assert (waiting.progress, waiting.captured) == (Progress.AWAITING_BUYER, None)
    assert waiting.awaited_until == bench.now + BANK_TRANSFER_SECONDS * 1_000_000
    assert (await bench.gateway.void(opened.snapshot.ref)).progress is Progress.CANCELED
    with pytest.raises(ValueError, match="no bank transfer"):
        bench.control("clear_pending", {"payment": opened.snapshot.ref})
    assert await bench.books() == ()


async def test_canceling_what_is_paid_at_that_moment_tells_that_it_is_paid(bench: Bench) -> None:
    opened = await bench.open()
    choose(bench, opened, "banktransfer")

    async def paid_in_between(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        if request.method == "DELETE":
            bench.control("clear_pending", {"payment": opened.snapshot.ref})
        return await wire.inner.send(request, deadline_seconds=deadline)

    bench.wire.fault = paid_in_between
    assert (await bench.gateway.void(opened.snapshot.ref)).progress is Progress.CAPTURED
    assert await bench.booked("capture") == bench.amount.minor


async def test_an_open_payment_expires_by_itself(bench: Bench) -> None:
    opened = await bench.open()
    await bench.clock.sleep(OPEN_SECONDS - 1)
    assert (await bench.seen(opened)).progress is Progress.AWAITING_BUYER
    await bench.clock.sleep(1)
    assert (await bench.seen(opened)).progress is Progress.CANCELED
    assert choose(bench, opened, "card").status == 409
    assert await bench.books() == ()
    assert dict((await bench.gateway.reopen(opened.snapshot.ref)).client) == {}


# ── Capturing by hand ──────────


async def test_a_card_that_waits_for_our_capture_has_no_bank_transfer_beside_it(bench: Bench) -> None:
    opened = await bench.create(bench.request(capture_method=CaptureMethod.MANUAL))
    assert choose(bench, opened, "banktransfer").status == 409
    assert (await bench.seen(opened)).progress is Progress.AWAITING_BUYER


async def test_a_rest_that_stays_reserved_is_released_with_the_capture(bench: Bench) -> None:
    bench.control("keep_rests", {"on": "true"})
    opened = await reserved(bench)
    part = Money(500, "EUR")
    paid = await bench.capture(opened, amount=part)
    assert (paid.progress, paid.captured) == (Progress.CAPTURED, part)
    assert paid.raw_status == "paid", "nothing of the buyer's money stays reserved"
    assert len(posts(bench, "/release-authorization")) == 1
    assert (await bench.details(opened)).refunds == ()
    # The same key again asks for nothing new.
    assert (await bench.capture(opened, amount=part)).captured == part
    assert await bench.booked("capture") == part.minor


async def test_a_release_that_fails_leaves_the_capture_to_be_repeated_with_its_key(bench: Bench) -> None:
    bench.control("keep_rests", {"on": "true"})
    opened = await reserved(bench)

    async def no_release(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        if "/release-authorization" in request.url:
            return HttpResponse(502, {}, b"<html>Bad gateway</html>")
        return await wire.inner.send(request, deadline_seconds=deadline)

    bench.wire.fault = no_release
    with pytest.raises(OutcomeUnknown):
        await bench.capture(opened, amount=Money(500, "EUR"))
    bench.wire.fault = None
    again = await bench.capture(opened, amount=Money(500, "EUR"))
    assert (again.raw_status, again.captured) == ("paid", Money(500, "EUR"))
    assert await bench.booked("capture") == 500


async def test_a_capture_that_waits_is_neither_captured_nor_declined(bench: Bench) -> None:
    bench.control("pend_captures", {"on": "true"})
    opened = await reserved(bench)
    for waiting in (await bench.capture(opened), await bench.seen(opened), await bench.capture(opened)):
        # No capture is named, so that the caller keeps its key: what waits can still fail.
        assert (waiting.progress, waiting.captured, waiting.capture_ref) == (Progress.PROCESSING, None, None)
    assert await bench.books() == ()
    assert len(posts(bench, "/captures")) == 2
    bench.control("finish_capture", {"payment": opened.snapshot.ref})
    assert (await bench.seen(opened)).captured == bench.amount


async def test_a_capture_that_waited_and_failed_leaves_the_money_reserved(bench: Bench) -> None:
    """Mollie repeats its first answer, "pending", under the same key: only the list of captures tells the end."""
    bench.control("pend_captures", {"on": "true"})
    opened = await reserved(bench)
    assert (await bench.capture(opened)).progress is Progress.PROCESSING
    bench.control("fail_capture", {"payment": opened.snapshot.ref})
    assert (await bench.seen(opened)).progress is Progress.AUTHORIZED
    again = await bench.capture(opened)
    assert (again.progress, again.captured, again.capture_ref) == (Progress.AUTHORIZED, None, None)
    assert await bench.books() == ()
    bench.control("pend_captures", {"on": "false"})
    paid = await bench.capture(opened, key="capture-2")
    assert (paid.progress, paid.captured) == (Progress.CAPTURED, bench.amount)
    assert await bench.booked("capture") == bench.amount.minor


async def test_a_capture_that_no_list_shows_yet_was_not_refused(bench: Bench) -> None:
    """Mollie's readings may lag behind its answer; what it took on must not look free to be taken again."""
    bench.control("pend_captures", {"on": "true"})
    opened = await reserved(bench)

    async def lagging(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        answer = await wire.inner.send(request, deadline_seconds=deadline)
        if request.method == "POST" or "/captures" not in request.url:
            return answer
        return replace(answer, body=json.dumps({**json.loads(answer.body), "_embedded": {"captures": []}}).encode())

    bench.wire.fault = lagging
    told = await bench.capture(opened)
    assert (told.progress, told.captured, told.capture_ref) == (Progress.PROCESSING, None, None)
    assert await bench.books() == ()


async def test_a_capture_that_waits_is_neither_released_nor_canceled(bench: Bench) -> None:
    bench.control("pend_captures", {"on": "true"})
    opened = await reserved(bench)
    await bench.capture(opened)
    bench.wire.sent.clear()
    assert (await bench.gateway.void(opened.snapshot.ref)).progress is Progress.PROCESSING
    assert {one.method for one in bench.wire.sent} == {"GET"}
    bench.control("finish_capture", {"payment": opened.snapshot.ref})
    assert (await bench.gateway.void(opened.snapshot.ref)).progress is Progress.CAPTURED
    assert await bench.booked("capture") == bench.amount.minor


async def test_an_answer_that_is_no_capture_of_this_payment_is_unknown(bench: Bench) -> None:
    opened = await reserved(bench)

    async def of_another(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        answer = await wire.inner.send(request, deadline_seconds=deadline)
        return replace(answer, body=answer.body.replace(b'"paymentId": "tr_', b'"paymentId": "tr_x'))

    bench.wire.fault = of_another
    with pytest.raises(OutcomeUnknown):
        await bench.capture(opened)


# ── Refunds and chargebacks ──────────


async def test_lists_are_read_to_their_end_and_by_our_own_addresses(bench: Bench) -> None:
    opened, paid = await bench.paid()
    for number in range(1, 8):
        await bench.refund(paid, Money(number, "EUR"), number)
        await bench.clock.sleep(number % 2)

    async def small_pages(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        return await wire.inner.send(
            replace(request, url=request.url.replace("limit=250", "limit=2")), deadline_seconds=deadline
        )

    bench.wire.fault = small_pages
    bench.wire.sent.clear()
    refunds = await bench.refunds(opened)
    assert [one.amount.minor for one in refunds] == [1, 2, 3, 4, 5, 6, 7]
    assert len([one for one in bench.wire.sent if "/refunds" in one.url]) == 4


async def test_a_list_without_an_end_is_unknown(bench: Bench) -> None:
    opened, _ = await bench.paid()

    async def endless(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        answer = await wire.inner.send(request, deadline_seconds=deadline)
        if "/refunds" not in request.url:
            return answer
        body = json.loads(answer.body)
        body["_links"]["next"] = {"href": "https://api.mollie.com/v2/x?from=re_1"}
        return replace(answer, body=json.dumps(body).encode()) if "from" not in request.url else answer

    async def always(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        return await endless(wire, replace(request, url=request.url.partition("&from")[0]), deadline)

    bench.wire.fault = always
    with pytest.raises(OutcomeUnknown, match="no end"):
        await bench.gateway.fetch(opened.snapshot.ref, details=True)


async def test_a_chargeback_reads_as_lost_and_a_reversal_as_won(bench: Bench) -> None:
    opened, paid = await bench.paid()
    ref = bench.control("open_dispute", {"payment": opened.snapshot.ref, "amount": "5.00"})["chargeback"]
    (dispute,) = (await bench.details(opened)).disputes or ()
    assert (dispute.ref, dispute.progress, dispute.withdrawn) == (ref, DisputeProgress.LOST, True)
    # What the bank took can't go back once more; the rest can.
    with pytest.raises(GatewayRefused):
        await bench.refund(paid, bench.amount)
    rest = Money(1499, "EUR")
    assert (await bench.refund(paid, rest, 2)).progress is RefundProgress.SUCCEEDED
    bench.control("reverse_dispute", {"chargeback": ref})
    (dispute,) = (await bench.details(opened)).disputes or ()
    assert dispute.progress is DisputeProgress.WON
    assert sum(entry.minor for entry in await bench.books()) == 500


async def test_a_refund_that_staff_cancel_has_moved_nothing(bench: Bench) -> None:
    opened, paid = await bench.paid()
    bench.control("pend_refunds", {"on": "true"})
    refund = await bench.refund(paid, bench.amount)
    bench.control("fail_refund", {"refund": refund.ref, "status": "canceled"})
    (told,) = await bench.refunds(opened)
    assert (told.progress, told.raw_status) == (RefundProgress.FAILED, "canceled")
    assert await bench.booked("refund") == 0


# ── Keys, errors, logs ──────────


def test_our_keys_live_shorter_than_mollies_memory() -> None:
    assert 0 < KEY_LIFE_SECONDS < KEY_SECONDS


async def test_every_post_carries_a_key_and_no_other_call_does(bench: Bench) -> None:
    opened = await reserved(bench)
    paid = await bench.capture(opened)
    await bench.refund(paid, bench.amount)
    await bench.gateway.void(opened.snapshot.ref)
    for request in bench.wire.sent:
        assert ("idempotency-key" in request.headers) is (request.method == "POST")
    keys = [one.headers["idempotency-key"] for one in posts(bench, "/v2/")]
    assert keys == ["create-pay_contract1", "capture-1", "refund-1"]


ENVELOPE = b'{"status": %d, "title": "No", "detail": "Because test_SecretKeyOfOurs1234567890 said so"}'


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, GatewayRefused),
        (401, GatewayMisconfigured),
        (403, GatewayMisconfigured),
        (404, GatewayMisconfigured),
        (409, GatewayBusy),
        (410, GatewayMisconfigured),
        (422, GatewayRefused),
        (429, GatewayBusy),
        (500, OutcomeUnknown),
        (503, OutcomeUnknown),
    ],
)
def test_each_status_is_one_of_four_errors(status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        read(HttpResponse(status, {}, ENVELOPE % status), "POST /v2/payments")
    assert type(caught.value) is error
    assert "SecretKey" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"status": 404, "title": "No"}', b'{"title": "No"}', b"[]"])
def test_a_refusal_that_is_not_mollies_own_is_unknown(body: bytes) -> None:
    with pytest.raises(OutcomeUnknown):
        read(HttpResponse(422, {}, body), "POST /v2/payments")


def test_only_calls_that_may_be_answered_by_a_status_alone_may_be_empty() -> None:
    assert read(HttpResponse(202, {}, b""), "POST x", may_be_empty=True) == {}
    with pytest.raises(OutcomeUnknown):
        read(HttpResponse(202, {}, b""), "POST x")


def test_mollies_sentences_are_cut_to_one_line_without_keys() -> None:
    assert scrubbed("a\nb\x1b[31m live_abc test_def access_ghi") == "a b [31m [removed] [removed] [removed]"
    assert len(scrubbed("x" * 5000)) == 200
    assert scrubbed(None) == "no reason"


async def test_a_refusal_after_a_lost_answer_does_not_unsay_it(bench: Bench) -> None:
    opened, paid = await bench.paid()
    tries = 0

    async def lost_then_refused(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        nonlocal tries
        tries += 1
        if tries == 1:
            await wire.inner.send(request, deadline_seconds=deadline)
            raise OutcomeUnknown("connection reset")
        return HttpResponse(422, {}, b'{"status": 422, "title": "Unprocessable Entity", "detail": "No"}')

    bench.wire.fault = lost_then_refused
    with pytest.raises(OutcomeUnknown):
        await bench.refund(paid, bench.amount)
    bench.wire.fault = None
    assert tries == 2
    assert len(await bench.refunds(opened)) == 1


async def test_a_payment_without_a_place_to_pay_is_unknown(bench: Bench) -> None:
    async def nowhere(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        answer = await wire.inner.send(request, deadline_seconds=deadline)
        body = json.loads(answer.body)
        body["_links"].pop("checkout", None)
        return replace(answer, body=json.dumps(body).encode())

    await bench.gateway.account()
    bench.wire.fault = nowhere
    with pytest.raises(OutcomeUnknown):
        await bench.open()


def test_the_key_is_in_no_repr(bench: Bench) -> None:
    client = MollieClient(bench.wire, bench.clock, base_url="https://api.mollie.com", api_key=Secret(SANDBOX_KEY))
    assert SANDBOX_KEY not in repr(vars(client))
