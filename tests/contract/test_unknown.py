"""Failures on the way to every gateway: whatever can't be read is an unknown outcome, never a failure or a success."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from paidonce.errors import GatewayBusy, GatewayMisconfigured, OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse, Opened, Progress

if TYPE_CHECKING:
    from contract.conftest import Bench, Fault, Wire

    Operation = Callable[[Bench, Opened], Awaitable[object]]

JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}


async def no_answer_in_time(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    raise OutcomeUnknown("no complete answer in time")


async def carried_out_but_no_answer(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    await wire.inner.send(request, deadline_seconds=deadline)
    raise OutcomeUnknown("connection reset")


async def slow_until_the_deadline(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    await wire.clock.sleep(deadline)
    raise OutcomeUnknown("no complete answer in time")


async def bad_gateway_page(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(502, HTML, b"<html><h1>502 Bad Gateway</h1></html>")


async def carried_out_but_bad_gateway(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    await wire.inner.send(request, deadline_seconds=deadline)
    return await bad_gateway_page(wire, request, deadline)


async def server_error_in_json(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(500, JSON, b'{"error":{"message":"Internal error","type":"api_error"}}')


async def own_refusal_as_server_error(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """The gateway's own error envelope, complete and readable: with a 5xx it is no refusal all the same."""
    answer = await wire.inner.send(replace(request, url=request.url + "-unknown"), deadline_seconds=deadline)
    assert answer.status >= 400
    return replace(answer, status=503)


async def own_refusal_as_success(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    answer = await wire.inner.send(replace(request, url=request.url + "-unknown"), deadline_seconds=deadline)
    assert answer.status >= 400
    return replace(answer, status=200)


async def truncated_json(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    answer = await wire.inner.send(request, deadline_seconds=deadline)
    return HttpResponse(answer.status, answer.headers, answer.body[: len(answer.body) // 2])


async def a_page_with_status_200(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(200, HTML, b"<html>Please sign in to the hotel's network</html>")


async def nothing_with_status_200(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(200, JSON, b"")


async def null(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(200, JSON, b"null")


async def a_list(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(200, JSON, b"[1, 2]")


async def an_empty_object(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(200, JSON, b"{}")


async def not_utf_8(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(200, JSON, b"\xff\xfe\x00{")


async def deeply_nested(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(200, JSON, b"[" * 100_000)


async def redirect(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    return HttpResponse(302, {"location": "https://elsewhere.example/"}, b"")


# Where the gateways look for the key, by their documentation.
KEY_HEADERS = frozenset({"idempotency-key", "paypal-request-id"})

UNREADABLE = (
    no_answer_in_time,
    carried_out_but_no_answer,
    slow_until_the_deadline,
    bad_gateway_page,
    carried_out_but_bad_gateway,
    server_error_in_json,
    own_refusal_as_server_error,
    own_refusal_as_success,
    truncated_json,
    a_page_with_status_200,
    nothing_with_status_200,
    null,
    a_list,
    an_empty_object,
    not_utf_8,
    deeply_nested,
    redirect,
)


async def create(bench: Bench, _opened: Opened) -> object:
    return await bench.gateway.create(bench.request(2))


async def reopen(bench: Bench, opened: Opened) -> object:
    return await bench.gateway.reopen(opened.snapshot.ref)


async def fetch(bench: Bench, opened: Opened) -> object:
    return await bench.gateway.fetch(opened.snapshot.ref)


async def capture(bench: Bench, opened: Opened) -> object:
    return await bench.capture(opened)


async def authorize(bench: Bench, opened: Opened) -> object:
    if bench.gateway.captures_in_browser:
        # Never called there, so the capture that follows a reservation stands for it.
        return await capture(bench, opened)
    return await bench.gateway.authorize(opened.snapshot.ref, idempotency_key="authorize-1")


async def void(bench: Bench, opened: Opened) -> object:
    return await bench.gateway.void(opened.snapshot.ref)


async def fetch_details(bench: Bench, opened: Opened) -> object:
    return await bench.gateway.fetch(opened.snapshot.ref, details=True)


async def refund(bench: Bench, opened: Opened) -> object:
    return await bench.refund(opened.snapshot, bench.amount)


OPERATIONS = (create, reopen, fetch, authorize, capture, void, fetch_details, refund)
# These make sense only once money has moved.
AFTERWARDS = (fetch_details, refund)


async def ready(bench: Bench, operation: Operation) -> Opened:
    """An object for `operation`. The account and any access token are there then, so that a fault hits it alone."""
    if operation not in AFTERWARDS:
        return await bench.open()
    opened, paid = await bench.paid()
    return replace(opened, snapshot=paid)


@pytest.mark.parametrize("fault", UNREADABLE, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_what_cannot_be_read_is_unknown(bench: Bench, operation: Operation, fault: Fault) -> None:
    opened = await ready(bench, operation)
    bench.wire.fault = fault
    with pytest.raises(OutcomeUnknown):
        await operation(bench, opened)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_rate_limit_is_busy_and_says_how_long(bench: Bench, operation: Operation) -> None:
    async def limited(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        return HttpResponse(429, {**JSON, "retry-after": "7"}, b'{"error":{"code":"rate_limit","message":"slow"}}')

    opened = await ready(bench, operation)
    bench.wire.fault = limited
    with pytest.raises(GatewayBusy) as caught:
        await operation(bench, opened)
    assert caught.value.retry_after_seconds == 7


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_what_never_left_stays_busy(bench: Bench, operation: Operation) -> None:
    async def refused(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        raise GatewayBusy("could not connect")

    opened = await ready(bench, operation)
    bench.wire.fault = refused
    with pytest.raises(GatewayBusy):
        await operation(bench, opened)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_keys_that_stopped_working_are_for_an_operator(bench: Bench, operation: Operation) -> None:
    opened = await ready(bench, operation)

    async def without_authorization(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
        stripped = HttpRequest(request.method, request.url, headers, request.body)
        return await wire.inner.send(stripped, deadline_seconds=deadline)

    bench.wire.fault = without_authorization
    with pytest.raises(GatewayMisconfigured) as caught:
        await operation(bench, opened)
    assert any(name in str(caught.value) for name in bench.case.provider.settings)


async def test_a_capture_of_unknown_outcome_is_found_by_its_key_and_by_reading(bench: Bench) -> None:
    opened = await bench.open()
    bench.confirm(opened)
    bench.wire.fault = carried_out_but_no_answer
    with pytest.raises(OutcomeUnknown):
        await bench.capture(opened)
    bench.wire.fault = None
    read = await bench.seen(opened)
    repeated = await bench.capture(opened)
    assert read.progress is repeated.progress is Progress.CAPTURED
    assert (repeated.captured, repeated.capture_ref) == (bench.amount, read.capture_ref)


@pytest.mark.parametrize(("operation", "key"), [(capture, "capture-1"), (refund, "refund-1")])
async def test_repeats_within_one_call_keep_the_same_key_and_body(bench: Bench, operation: Operation, key: str) -> None:
    opened = await ready(bench, operation)
    if operation is capture:
        bench.confirm(opened)
    bench.wire.sent.clear()
    bench.wire.fault = bad_gateway_page
    with pytest.raises(OutcomeUnknown):
        await operation(bench, opened)
    posts = [request for request in bench.wire.sent if request.method == "POST"]
    keys = {tuple(value for name, value in post.headers.items() if name.lower() in KEY_HEADERS) for post in posts}
    assert keys == {(key,)}
    assert len({(post.url, post.body) for post in posts}) == 1
