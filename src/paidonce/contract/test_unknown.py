"""Failures on the way to every gateway: whatever can't be read is an unknown outcome, never a failure or a success."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from paidonce.contract.bench import Bench, Fault, Wire
from paidonce.contract.expect import equal, raises, some
from paidonce.contract.marks import needs
from paidonce.errors import GatewayBusy, GatewayMisconfigured, OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse, Opened, Progress

pytestmark = [pytest.mark.asyncio, needs("twin")]

Operation = Callable[[Bench, Opened], Awaitable[object]]

JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}


async def no_answer_in_time(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """No answer came."""
    raise OutcomeUnknown("no complete answer in time")


async def carried_out_but_no_answer(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """The gateway has done it, and the answer is lost."""
    await wire.inner.send(request, deadline_seconds=deadline)
    raise OutcomeUnknown("connection reset")


async def slow_until_the_deadline(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """The whole deadline passes without an answer."""
    await wire.clock.sleep(deadline)
    raise OutcomeUnknown("no complete answer in time")


async def bad_gateway_page(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """A proxy's page."""
    return HttpResponse(502, HTML, b"<html><h1>502 Bad Gateway</h1></html>")


async def carried_out_but_bad_gateway(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """The gateway has done it, and a proxy's page comes instead of the answer."""
    await wire.inner.send(request, deadline_seconds=deadline)
    return await bad_gateway_page(wire, request, deadline)


async def server_error_in_json(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """A server error."""
    return HttpResponse(500, JSON, b'{"error":{"message":"Internal error","type":"api_error"}}')


async def own_refusal_as_server_error(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """The gateway's own error envelope, complete and readable: with a 5xx it is no refusal all the same."""
    answer = await wire.inner.send(replace(request, url=request.url + "-unknown"), deadline_seconds=deadline)
    assert answer.status >= 400
    return replace(answer, status=503)


async def own_refusal_as_success(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """The gateway's own error envelope with status 200."""
    answer = await wire.inner.send(replace(request, url=request.url + "-unknown"), deadline_seconds=deadline)
    assert answer.status >= 400
    return replace(answer, status=200)


async def truncated_json(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """The first half of the answer."""
    answer = await wire.inner.send(request, deadline_seconds=deadline)
    return HttpResponse(answer.status, answer.headers, answer.body[: len(answer.body) // 2])


async def a_page_with_status_200(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """A page of something in between."""
    return HttpResponse(200, HTML, b"<html>Please sign in to the hotel's network</html>")


async def nothing_with_status_200(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """An empty answer."""
    return HttpResponse(200, JSON, b"")


async def null(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """JSON, and no object."""
    return HttpResponse(200, JSON, b"null")


async def a_list(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """JSON, and no object."""
    return HttpResponse(200, JSON, b"[1, 2]")


async def an_empty_object(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """An object that says nothing."""
    return HttpResponse(200, JSON, b"{}")


async def not_utf_8(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """Bytes that are no text."""
    return HttpResponse(200, JSON, b"\xff\xfe\x00{")


async def deeply_nested(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """Brackets without an end."""
    return HttpResponse(200, JSON, b"[" * 100_000)


async def redirect(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """To somewhere else."""
    return HttpResponse(302, {"location": "https://elsewhere.example/"}, b"")


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
    """Create another object."""
    return await bench.create(bench.request(2))


async def reopen(bench: Bench, opened: Opened) -> object:
    """Read it with the client values."""
    return await bench.gateway.reopen(opened.snapshot.ref)


async def fetch(bench: Bench, opened: Opened) -> object:
    """Read it."""
    return await bench.gateway.fetch(opened.snapshot.ref)


async def capture(bench: Bench, opened: Opened) -> object:
    """Capture it."""
    return await bench.capture(opened)


async def authorize(bench: Bench, opened: Opened) -> object:
    """Authorize it; where that is never called, the capture that follows a reservation stands for it."""
    if bench.gateway.captures_in_browser or not bench.has("manual"):
        return await capture(bench, opened)
    return await bench.gateway.authorize(opened.snapshot.ref, idempotency_key="authorize-1")


async def void(bench: Bench, opened: Opened) -> object:
    """End it."""
    return await bench.gateway.void(opened.snapshot.ref)


async def fetch_details(bench: Bench, opened: Opened) -> object:
    """Read it with its refunds and disputes."""
    return await bench.gateway.fetch(opened.snapshot.ref, details=True)


async def refund(bench: Bench, opened: Opened) -> object:
    """Give all of it back."""
    return await bench.refund(opened.snapshot, bench.amount)


OPERATIONS = (create, reopen, fetch, authorize, capture, void, fetch_details, refund)
# These make sense only once money has moved.
AFTERWARDS = (fetch_details, refund)


def name(value: object) -> str:
    """The name of an operation or a fault, for the test's id."""
    return str(getattr(value, "__name__", value))


async def ready(bench: Bench, operation: Operation) -> Opened:
    """An object for `operation`. The account and any access token are there then, so that a fault hits it alone."""
    if operation not in AFTERWARDS:
        return await bench.open()
    opened, paid = await bench.paid()
    return replace(opened, snapshot=paid)


@pytest.mark.parametrize("fault", UNREADABLE, ids=name)
@pytest.mark.parametrize("operation", OPERATIONS, ids=name)
async def test_what_cannot_be_read_is_unknown(bench: Bench, operation: Operation, fault: Fault) -> None:
    """Whatever can't be read (no answer, half an answer, a proxy's page, any 5xx) is OutcomeUnknown, never a no."""
    opened = await ready(bench, operation)
    bench.wire.fault = fault
    await raises(OutcomeUnknown, f"`{name(operation)}` with {name(fault)}", operation(bench, opened))


@pytest.mark.parametrize("operation", OPERATIONS, ids=name)
async def test_a_rate_limit_is_busy_and_says_how_long(bench: Bench, operation: Operation) -> None:
    """Status 429 is GatewayBusy with the seconds of its Retry-After."""

    async def limited(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        return HttpResponse(429, {**JSON, "retry-after": "7"}, b'{"error":{"code":"rate_limit","message":"slow"}}')

    opened = await ready(bench, operation)
    bench.wire.fault = limited
    caught = await raises(GatewayBusy, f"`{name(operation)}` with status 429", operation(bench, opened))
    equal("`retry_after_seconds`", caught.retry_after_seconds, 7)


@pytest.mark.parametrize("operation", OPERATIONS, ids=name)
async def test_what_never_left_stays_busy(bench: Bench, operation: Operation) -> None:
    """GatewayBusy of the transport goes through untouched."""

    async def refused(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        raise GatewayBusy("could not connect")

    opened = await ready(bench, operation)
    bench.wire.fault = refused
    await raises(GatewayBusy, f"`{name(operation)}` that never left", operation(bench, opened))


@pytest.mark.parametrize("operation", OPERATIONS, ids=name)
async def test_keys_that_stopped_working_are_for_an_operator(bench: Bench, operation: Operation) -> None:
    """Keys that the gateway does not take are GatewayMisconfigured, and the message names the setting."""
    opened = await ready(bench, operation)

    async def without_authorization(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
        stripped = HttpRequest(request.method, request.url, headers, request.body)
        return await wire.inner.send(stripped, deadline_seconds=deadline)

    bench.wire.fault = without_authorization
    caught = await raises(
        GatewayMisconfigured, f"`{name(operation)}` without its authorization", operation(bench, opened)
    )
    named = any(setting in str(caught) for setting in bench.case.provider.settings)
    assert named, f"the message names no setting: {caught}"


async def test_a_capture_of_unknown_outcome_is_found_by_its_key_and_by_reading(bench: Bench) -> None:
    """`capture` whose answer was lost is found by reading and by repeating it with its key, and happened once."""
    opened = await bench.open()
    await bench.confirm(opened)
    bench.wire.fault = carried_out_but_no_answer
    await raises(OutcomeUnknown, "`capture` whose answer was lost", bench.capture(opened))
    bench.wire.fault = None
    read = await bench.seen(opened)
    repeated = await bench.capture(opened)
    equal("the progress by reading and by repeating", {read.progress, repeated.progress}, {Progress.CAPTURED})
    told = (repeated.captured, repeated.capture_ref)
    equal("(captured, capture_ref) by repeating", told, (bench.amount, read.capture_ref))
    equal("the sum of captures in the books", await bench.booked("capture"), bench.amount.minor)


@pytest.mark.parametrize(("operation", "key"), [(capture, "capture-1"), (refund, "refund-1")], ids=name)
async def test_repeats_within_one_call_keep_the_same_key_and_body(bench: Bench, operation: Operation, key: str) -> None:
    """A gateway that repeats a POST within one call sends the same body with the key that it was given."""
    opened = await ready(bench, operation)
    if operation is capture:
        await bench.confirm(opened)
    bench.wire.sent.clear()
    bench.wire.fault = bad_gateway_page
    await raises(OutcomeUnknown, f"`{name(operation)}` behind a proxy's page", operation(bench, opened))
    posts = [request for request in bench.wire.sent if request.method == "POST"]
    if operation is capture and not posts and bench.gateway.captures_in_browser:
        # The browser has moved the money, so there may be nothing to capture: reading is enough.
        return
    some("POST with the key", posts)
    header = bench.hooks.key_header
    keys = {tuple(value for name, value in post.headers.items() if name.lower() == header) for post in posts}
    equal(f"the values of {header} that were sent", keys, {(key,)})
    equal("the number of different requests", len({(post.url, post.body) for post in posts}), 1)
