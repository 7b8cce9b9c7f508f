"""One error policy: what is unknown, busy, refused or misconfigured, what is tried again, and what is never told."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import stripe
import structlog

from paidonce.errors import GatewayBusy, GatewayError, GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import CreateRequest, HttpResponse
from paidonce.gateways.stripe import policy, provider
from paidonce.gateways.stripe.client import MOST_TRIES, TOTAL_DEADLINE_SECONDS
from paidonce.gateways.stripe.gateway import StripeGateway

from .conftest import PUBLIC_URL, Api, ManualClock, TwinTransport

Create = Callable[..., CreateRequest]


def answer(status: int, body: object = None, **headers: str) -> HttpResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, {"request-id": "req_test", **named}, raw)


def error(type: str = "invalid_request_error", **fields: str) -> dict[str, Any]:
    return {"error": {"type": type, "message": "No.", **fields}}


def always(transport: TwinTransport, response: HttpResponse | OutcomeUnknown | GatewayBusy) -> None:
    transport.intercept = [lambda _: response] * 20


async def ready(gateway: StripeGateway, transport: TwinTransport) -> None:
    """Let the account be read, so that the requests counted afterwards are the call's own."""
    await gateway.account()
    transport.requests.clear()


UNREADABLE = [b"<html>Bad gateway</html>", b'{"id": "pi_1", "obj', b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000]


@pytest.mark.parametrize("body", UNREADABLE)
@pytest.mark.parametrize("status", [200, 301, 404, 502])
async def test_unreadable_answers_are_unknown(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create, status: int, body: bytes
) -> None:
    await ready(gateway, transport)
    always(transport, answer(status, body))
    with pytest.raises(OutcomeUnknown) as caught:
        await gateway.create(create_request())
    assert caught.value.request_id == "req_test"
    assert not caught.value.replayed
    assert len(transport.requests) == MOST_TRIES


@pytest.mark.parametrize("body", [{}, {"object": "payment_intent"}, {"object": "list", "data": []}])
async def test_a_success_without_an_intent_is_unknown(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create, body: object
) -> None:
    await ready(gateway, transport)
    always(transport, answer(200, body))
    with pytest.raises(OutcomeUnknown):
        await gateway.create(create_request())


async def test_another_intent_than_asked_for_is_unknown(
    gateway: StripeGateway, open_intent: Callable[..., Awaitable[str]], transport: TwinTransport, api: Api
) -> None:
    first, second = await open_intent("key_1"), await open_intent("key_2", payment_id="pay_2")
    always(transport, api("GET", f"/v1/payment_intents/{second}"))
    with pytest.raises(OutcomeUnknown, match="another intent"):
        await gateway.fetch(first)


@pytest.mark.parametrize(
    "failure", [OutcomeUnknown("timed out"), answer(500, error("api_error")), answer(503, b"busy")]
)
async def test_a_failing_first_try_is_repeated_with_the_same_key(
    gateway: StripeGateway,
    transport: TwinTransport,
    create_request: Create,
    clock: ManualClock,
    failure: HttpResponse | OutcomeUnknown,
) -> None:
    await ready(gateway, transport)
    transport.intercept = [lambda _: failure]
    opened = await gateway.create(create_request())
    assert opened.snapshot.payment_id == "pay_1"
    first, second = transport.requests
    assert first == second
    assert second.headers["Idempotency-Key"] == "key_1"
    assert len(clock.slept) == 1


async def test_tries_end_within_the_total_deadline(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create, clock: ManualClock
) -> None:
    await ready(gateway, transport)
    began = clock.now()

    def slow(_: object) -> OutcomeUnknown:
        clock.advance(transport.deadlines[-1])
        return OutcomeUnknown("timed out")

    transport.intercept = [slow] * 20
    with pytest.raises(OutcomeUnknown):
        await gateway.create(create_request())
    assert (clock.now() - began) / 1e6 <= TOTAL_DEADLINE_SECONDS
    assert len(transport.requests) == MOST_TRIES


@pytest.mark.parametrize(
    "response",
    [
        answer(429, error(code="rate_limit"), retry_after="2"),
        answer(409, error(code="lock_timeout"), retry_after="2"),
        answer(400, error(code="rate_limit"), retry_after="2", stripe_should_retry="true"),
    ],
)
async def test_busy_answers_wait_as_long_as_stripe_says(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create, clock: ManualClock, response: HttpResponse
) -> None:
    await ready(gateway, transport)
    always(transport, response)
    with pytest.raises(GatewayBusy) as caught:
        await gateway.create(create_request())
    assert caught.value.retry_after_seconds == 2
    assert clock.slept == [2, 2]
    assert {request.headers["Idempotency-Key"] for request in transport.requests} == {"key_1"}


async def test_a_long_retry_after_is_left_to_the_caller(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create, clock: ManualClock
) -> None:
    await ready(gateway, transport)
    always(transport, answer(429, error(), retry_after="120"))
    with pytest.raises(GatewayBusy) as caught:
        await gateway.create(create_request())
    assert caught.value.retry_after_seconds == 120
    assert clock.slept == []


async def test_stripe_may_forbid_another_try(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create, clock: ManualClock
) -> None:
    await ready(gateway, transport)
    always(transport, answer(500, error("api_error"), stripe_should_retry="false"))
    with pytest.raises(OutcomeUnknown) as caught:
        await gateway.create(create_request())
    assert not caught.value.replayed
    assert (len(transport.requests), clock.slept) == (1, [])


@pytest.mark.parametrize("later", [GatewayBusy("could not connect"), answer(429, error(code="rate_limit"))])
async def test_busy_after_a_time_out_stays_unknown(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create, later: GatewayBusy | HttpResponse
) -> None:
    await ready(gateway, transport)
    transport.intercept = [lambda _: OutcomeUnknown("timed out"), *[lambda _: later] * 9]
    with pytest.raises(OutcomeUnknown):
        await gateway.create(create_request())


async def test_never_having_connected_is_busy_not_unknown(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create
) -> None:
    await ready(gateway, transport)
    always(transport, GatewayBusy("could not connect"))
    with pytest.raises(GatewayBusy):
        await gateway.create(create_request())
    assert len(transport.requests) == MOST_TRIES


async def test_a_stored_server_error_is_replayed_and_says_so(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create
) -> None:
    await ready(gateway, transport)
    transport.core.plan("500_before")
    with pytest.raises(OutcomeUnknown) as caught:
        await gateway.create(create_request())
    assert caught.value.replayed
    # The try that met the replay is the last one: more of them would change nothing.
    assert len(transport.requests) == 2
    opened = await gateway.create(create_request("key_2"))
    assert opened.snapshot.ref.startswith("pi_")


async def test_a_lost_answer_never_makes_a_second_intent(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create
) -> None:
    await ready(gateway, transport)

    def lost(request: Any) -> OutcomeUnknown:
        transport.core.handle(request, now=transport.clock.now())
        return OutcomeUnknown("the connection was reset")

    transport.intercept = [lost]
    opened = await gateway.create(create_request())
    again = await gateway.create(create_request())
    assert opened.snapshot.ref == again.snapshot.ref
    assert len(json.loads(transport.core.dump())["intents"]) == 1


async def test_one_key_with_two_bodies_raises_an_alarm(
    gateway: StripeGateway, create_request: Create, transport: TwinTransport
) -> None:
    await gateway.create(create_request())
    with pytest.raises(GatewayRefused, match="ALARM") as caught:
        await gateway.create(create_request(minor=2000))
    assert caught.value.code == "idempotency_mismatch"
    assert caught.value.buyer_message is None
    assert len(json.loads(transport.core.dump())["intents"]) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error()),
        (403, error(code="secret_key_required")),
        (404, error(code="resource_missing")),
        (400, error(code="account_invalid")),
        (400, error(code="testmode_charges_only")),
    ],
)
async def test_foreign_keys_and_missing_objects_are_for_an_operator(
    gateway: StripeGateway, transport: TwinTransport, status: int, body: object
) -> None:
    await ready(gateway, transport)
    always(transport, answer(status, body))
    with pytest.raises(GatewayMisconfigured, match="STRIPE_SECRET_KEY") as caught:
        await gateway.fetch("pi_1")
    assert caught.value.request_id == "req_test"
    assert len(transport.requests) == 1


async def test_keys_of_another_account_do_not_find_the_payment(
    open_intent: Callable[..., Awaitable[str]], transport: TwinTransport, clock: ManualClock
) -> None:
    ref = await open_intent()
    environment = {
        **provider.sandbox_environment(PUBLIC_URL),
        "STRIPE_SECRET_KEY": "sk_test_sandbox2",
        "STRIPE_PUBLISHABLE_KEY": "pk_test_sandbox2",
    }
    other = provider.configure(environment, transport, clock)
    assert other is not None
    with pytest.raises(GatewayMisconfigured):
        await other.fetch(ref)


@pytest.mark.parametrize(("minor", "says"), [(10, "smallest"), (100_000_000, "largest")])
async def test_amounts_out_of_range_are_told_to_the_buyer(
    gateway: StripeGateway, create_request: Create, minor: int, says: str
) -> None:
    with pytest.raises(GatewayRefused) as caught:
        await gateway.create(create_request(minor=minor))
    assert caught.value.buyer_message is not None
    assert says in caught.value.buyer_message
    assert "not been charged" in caught.value.buyer_message


async def test_other_refusals_are_not_tried_again(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create
) -> None:
    await ready(gateway, transport)
    always(transport, answer(400, error(code="parameter_unknown")))
    with pytest.raises(GatewayRefused) as caught:
        await gateway.create(create_request())
    assert (caught.value.code, caught.value.buyer_message) == ("parameter_unknown", None)
    assert len(transport.requests) == 1


async def test_requests_carry_the_pinned_version_and_no_telemetry(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create
) -> None:
    await gateway.create(create_request())
    assert stripe.enable_telemetry is False
    for request in transport.requests:
        assert request.headers["Stripe-Version"] == "2026-08-26.dahlia"
        assert request.headers["Authorization"] == "Bearer sk_test_sandbox"
        assert "X-Stripe-Client-Telemetry" not in request.headers
        assert request.url.startswith(f"{PUBLIC_URL}/stripe/v1/")


async def test_the_create_call_asks_for_what_the_order_says(
    gateway: StripeGateway, transport: TwinTransport, create_request: Create
) -> None:
    await gateway.create(create_request())
    form = {name: values[0] for name, values in parse_qs(transport.requests[-1].body.decode()).items()}
    assert form == {
        "amount": "1999",
        "currency": "eur",
        "automatic_payment_methods[enabled]": "true",
        "capture_method": "automatic",
        "metadata[payment_id]": "pay_1",
        "metadata[order_id]": "ord_1",
        "metadata[order_number]": "1001",
    }


async def test_no_secret_in_logs_or_errors(
    gateway: StripeGateway,
    transport: TwinTransport,
    create_request: Create,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        opened = await gateway.create(create_request())
        await gateway.reopen(opened.snapshot.ref)
        message = f"Wrong key sk_test_sandbox for {opened.client['client_secret']}\nX"
        always(transport, answer(401, error(message=message)))
        with pytest.raises(GatewayError) as caught:
            await gateway.fetch(opened.snapshot.ref)
    told = "\n".join(
        [str(lines), caplog.text, *capsys.readouterr(), str(caught.value), repr(caught.value), repr(opened)]
    )
    assert "sk_test_sandbox" not in told
    assert opened.client["client_secret"] not in told
    assert "_secret_" not in told
    calls = [line for line in lines if line["event"] == "gateway_call"]
    assert [line["method"] for line in calls] == ["GET", "POST", "GET", "GET"]
    for line in calls:
        assert set(line) == {"event", "log_level", "gateway", "method", "path", "status", "request_id", "ms"}
        assert not urlsplit(line["path"]).query
        assert line["request_id"].startswith("req_")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Invalid API Key provided: sk_live_abc123", "Invalid API Key provided: [removed]"),
        ("pi_1_secret_abc is wrong", "pi_1[removed] is wrong"),
        ("two\nlines\r\n\x1b[31m", "two lines [31m"),
        (None, "no message"),
    ],
)
def test_stripes_messages_are_scrubbed(text: str | None, kept: str) -> None:
    assert policy.scrubbed(text) == kept


def test_jitter_spreads_and_grows() -> None:
    waits = [
        policy.retry_wait_seconds(None, tries_made=tries, spread=spread) for tries in (1, 2) for spread in (0.0, 0.9)
    ]
    assert waits == sorted(waits, key=lambda wait: wait or 0)
    assert len(set(waits)) == 4
    assert policy.retry_wait_seconds(answer(200, {"id": "x"}), tries_made=1, spread=0.5) is None
    assert policy.retry_wait_seconds(answer(400, error()), tries_made=1, spread=0.5) is None


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "1e9", "nan", "٣", ""])
def test_strange_retry_after_is_ignored(value: str) -> None:
    assert policy.retry_after_seconds(answer(429, error(), retry_after=value)) is None
