"""One error policy: what may have happened is unknown, what did not is busy or refused, wrong keys read as such."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from paidonce.errors import GatewayBusy, GatewayError, GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.gateways import repeating
from paidonce.gateways.base import HttpResponse, Progress
from paidonce.gateways.paypal import client as client_module
from paidonce.gateways.paypal import provider
from paidonce.money import Money
from support.paypal import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.paypal import Shop

EUR_1999 = Money(1999, "EUR")
TRIES = repeating.EXTRA_TRIES + 1
HTML = b"<!doctype html><title>Bad gateway</title><h1>502</h1>"

UNREADABLE: dict[str, HttpResponse | GatewayError] = {
    "time-out": OutcomeUnknown("no answer in time"),
    "html 502": HttpResponse(502, {"content-type": "text/html"}, HTML),
    "html 200": HttpResponse(200, {"content-type": "text/html"}, HTML),
    "json 500": HttpResponse(500, {}, b'{"name": "INTERNAL_SERVER_ERROR", "debug_id": "f5aa1c2b3d4e5"}'),
    "truncated": HttpResponse(201, {}, b'{"id": "5O190127TN364715T", "status": "COMPL'),
    "empty": HttpResponse(201, {}, b""),
    "list": HttpResponse(200, {}, b"[]"),
    "null": HttpResponse(200, {}, b"null"),
    "deep": HttpResponse(200, {}, b"[" * 200_000),
    "not utf-8": HttpResponse(200, {}, b"\xff\xfe{}"),
    "redirect": HttpResponse(302, {"location": "https://evil.example/"}, b"{}"),
    "html 403": HttpResponse(403, {"content-type": "text/html"}, HTML),
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_a_lost_answer_is_asked_for_again_with_the_same_key(shop: Shop, kind: str) -> None:
    ref = await shop.approved()
    shop.fail("/capture", UNREADABLE[kind], reached=True)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert paid.progress is Progress.CAPTURED
    keys = [one.headers["paypal-request-id"] for one in shop.line.sent if one.url.endswith("/capture")]
    assert keys == ["capture-1", "capture-1"]
    assert shop.moved() == 1


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_a_lasting_outage_leaves_the_outcome_unknown(shop: Shop, kind: str) -> None:
    ref = await shop.approved()
    for _ in range(TRIES):
        shop.fail("/capture", UNREADABLE[kind], reached=True)

    with pytest.raises(OutcomeUnknown):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert shop.line.count("/capture") == TRIES
    assert shop.moved() == 1
    assert (await shop.gateway.fetch(ref)).progress is Progress.CAPTURED


async def test_tries_share_one_deadline(shop: Shop) -> None:
    ref = await shop.approved()
    began = shop.clock.now()
    for _ in range(TRIES):
        shop.fail("/capture", UNREADABLE["time-out"], seconds=client_module.TRY_SECONDS)

    with pytest.raises(OutcomeUnknown):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert shop.clock.now() - began <= client_module.TOTAL_SECONDS * 1_000_000
    assert shop.line.count("/capture") < TRIES
    assert max(shop.line.deadlines) <= client_module.TRY_SECONDS
    assert min(shop.line.deadlines) > 0


async def test_retry_after_is_obeyed(shop: Shop) -> None:
    ref = await shop.approved()
    shop.fail("/capture", HttpResponse(429, {"retry-after": "3"}, b'{"name": "RATE_LIMIT_REACHED"}'))

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert paid.progress is Progress.CAPTURED
    assert shop.clock.slept == [3.0]


async def test_a_retry_after_beyond_the_deadline_is_handed_on(shop: Shop) -> None:
    ref = await shop.approved()
    shop.fail("/capture", HttpResponse(429, {"retry-after": "120"}, HTML))

    with pytest.raises(GatewayBusy) as caught:
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert caught.value.retry_after_seconds == 120
    assert shop.clock.slept == []
    assert shop.moved() == 0


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "1e9", "", "٣", "999999"])
async def test_an_odd_retry_after_is_not_obeyed(shop: Shop, value: str) -> None:
    shop.fail("/orders", HttpResponse(429, {"retry-after": value}, b"{}"))

    await shop.gateway.create(shop.request())

    assert len(shop.clock.slept) == 1
    assert 0 < shop.clock.slept[0] < 1


@pytest.mark.parametrize("issue", ["PREVIOUS_REQUEST_IN_PROGRESS", "ORDER_COMPLETION_IN_PROGRESS"])
async def test_in_progress_waits_with_the_same_key(shop: Shop, issue: str) -> None:
    ref = await shop.approved()
    for _ in range(TRIES):
        shop.refuse("/capture", issue)

    with pytest.raises(GatewayBusy):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    assert paid.progress is Progress.CAPTURED
    assert shop.moved() == 1


async def test_once_unknown_stays_unknown_whatever_follows(shop: Shop) -> None:
    """A rate limit after a lost answer must not read as "nothing happened"."""
    ref = await shop.approved()
    shop.fail("/capture", UNREADABLE["time-out"], reached=True)
    for _ in range(TRIES - 1):
        shop.fail("/capture", HttpResponse(429, {}, b"{}"))

    with pytest.raises(OutcomeUnknown):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert shop.moved() == 1


async def test_once_unknown_stays_unknown_even_if_the_keys_are_withdrawn(shop: Shop) -> None:
    ref = await shop.approved()
    shop.fail("/capture", UNREADABLE["time-out"], reached=True)
    for _ in range(2):
        shop.fail("/capture", HttpResponse(401, {}, b'{"error": "invalid_token"}'))

    with pytest.raises(OutcomeUnknown):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert shop.moved() == 1


async def test_a_clear_refusal_is_not_tried_again(shop: Shop) -> None:
    shop.refuse("/orders", "PAYEE_ACCOUNT_RESTRICTED")

    with pytest.raises(GatewayRefused) as caught:
        await shop.gateway.create(shop.request())

    assert caught.value.code == "payee_account_restricted"
    assert shop.line.count("/orders") == 1


@pytest.mark.parametrize("status", [403, 404])
async def test_no_permission_and_unknown_objects_call_for_an_operator(shop: Shop, status: int) -> None:
    shop.refuse("/orders", "PERMISSION_DENIED", status)

    with pytest.raises(GatewayMisconfigured) as caught:
        await shop.gateway.create(shop.request())

    assert caught.value.request_id == "f5aa1c2b3d4e5"


async def test_an_incomplete_answer_to_a_capture_is_read_again(shop: Shop) -> None:
    ref = await shop.approved()
    short = json.dumps({"id": ref, "status": "COMPLETED"}).encode()
    shop.fail("/capture", HttpResponse(201, {}, short), reached=True)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert (paid.progress, paid.captured) == (Progress.CAPTURED, EUR_1999)
    assert shop.line.count("/capture") == 1


async def test_numbers_with_a_point_never_become_floats() -> None:
    answer = client_module._read(HttpResponse(200, {}, b'{"value": 19.99, "big": 1e400}'), "GET /x")

    assert answer.body == {"value": "19.99", "big": "1e400"}


# --- Token -----------------------------------------------------------------------------------------------------------


async def test_twenty_cold_calls_fetch_one_token(shop: Shop) -> None:
    await asyncio.gather(*(shop.gateway.create(shop.request(key=f"create-{n}")) for n in range(20)))

    assert shop.line.count("/v1/oauth2/token") == 1
    assert shop.line.count("/v2/checkout/orders") == 20


async def test_a_token_is_renewed_before_it_ends(shop: Shop) -> None:
    await shop.gateway.create(shop.request())
    shop.clock.pass_seconds(32_400 - client_module.RENEW_SECONDS - 1)
    await shop.gateway.create(shop.request(key="create-2"))
    assert shop.line.count("/v1/oauth2/token") == 1

    shop.clock.pass_seconds(2)
    await shop.gateway.create(shop.request(key="create-3"))

    assert shop.line.count("/v1/oauth2/token") == 2
    assert all(answer.status != 401 for _, answer in shop.line.exchanges)


async def test_a_withdrawn_token_is_renewed_once_for_all(shop: Shop) -> None:
    await shop.gateway.create(shop.request())
    shop.twin.revoke_tokens()

    opened = await asyncio.gather(*(shop.gateway.create(shop.request(key=f"more-{n}")) for n in range(8)))

    assert len({one.snapshot.ref for one in opened}) == 8
    assert shop.line.count("/v1/oauth2/token") == 2


async def test_a_late_401_for_an_old_token_does_not_cost_the_new_one(shop: Shop) -> None:
    await shop.gateway.create(shop.request())
    shop.twin.revoke_tokens()
    late = asyncio.Event()
    shop.line.faults.append(Fault("/orders", HttpResponse(401, {}, b'{"error": "invalid_token"}'), gate=late))
    slow = asyncio.create_task(shop.gateway.create(shop.request(key="slow")))
    # One turn for its start and one for the line: then its request is out.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert shop.line.faults == []

    await shop.gateway.create(shop.request(key="fast"))
    late.set()
    await slow

    assert shop.line.count("/v1/oauth2/token") == 2


async def test_a_second_401_reads_as_wrong_keys(shop: Shop) -> None:
    for _ in range(2):
        shop.fail("/orders", HttpResponse(401, {}, b'{"error": "invalid_token", "error_description": "no"}'))

    with pytest.raises(GatewayMisconfigured, match="PAYPAL_CLIENT_ID"):
        await shop.gateway.create(shop.request())

    assert shop.line.count("/v2/checkout/orders") == 2


async def test_wrong_keys_read_as_wrong_keys(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(PAYPAL_CLIENT_SECRET="not-the-secret-canary")

    with pytest.raises(GatewayMisconfigured, match="PAYPAL_CLIENT_SECRET") as caught:
        await shop.gateway.create(shop.request())

    assert "canary" not in str(caught.value)
    assert shop.line.count("/v1/oauth2/token") == 1
    assert shop.line.count("/v2/checkout/orders") == 0


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_a_sign_in_outage_means_that_nothing_was_sent(shop: Shop, kind: str) -> None:
    for _ in range(TRIES):
        shop.fail("/token", UNREADABLE[kind])

    with pytest.raises(GatewayBusy, match="nothing was sent"):
        await shop.gateway.create(shop.request())

    assert shop.line.count("/v2/checkout/orders") == 0


async def test_a_token_answer_without_a_token_is_an_outage(shop: Shop) -> None:
    for body in (b"{}", b'{"access_token": "", "expires_in": 9}', b'{"access_token": "A21", "expires_in": "9"}'):
        shop.fail("/token", HttpResponse(200, {}, body))

    with pytest.raises(GatewayBusy):
        await shop.gateway.create(shop.request())


async def test_a_failed_renewal_does_not_block_those_who_wait(shop: Shop) -> None:
    shop.fail("/token", UNREADABLE["time-out"])

    opened = await asyncio.gather(*(shop.gateway.create(shop.request(key=f"create-{n}")) for n in range(5)))

    assert len(opened) == 5
    assert shop.line.count("/v1/oauth2/token") == 2


# --- Headers, logs, secrets ------------------------------------------------------------------------------------------


async def test_headers(shop: Shop) -> None:
    ref = await shop.approved()
    await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    await shop.gateway.fetch(ref)

    token, create, capture, get = shop.line.sent
    assert token.headers["authorization"].startswith("Basic ")
    assert token.body == b"grant_type=client_credentials"
    for post in (create, capture):
        assert post.headers["prefer"] == "return=representation"
        assert post.headers["content-type"] == "application/json"
        assert post.headers["authorization"].startswith("Bearer ")
    assert "paypal-request-id" not in get.headers
    assert get.body == b""


async def test_a_request_id_beyond_paypals_limit_never_leaves(shop: Shop) -> None:
    with pytest.raises(AssertionError):
        await shop.gateway.create(shop.request(key="k" * 109))

    assert shop.line.sent == []


async def test_each_call_leaves_one_line_with_its_debug_id(shop: Shop) -> None:
    with capture_logs() as lines:
        await shop.gateway.create(shop.request())

    assert [(line["path"], line["status"]) for line in lines] == [
        ("/v1/oauth2/token", 200),
        ("/v2/checkout/orders", 201),
    ]
    assert set(lines[0]) == {"event", "log_level", "gateway", "method", "path", "status", "request_id", "ms"}
    assert all(line["request_id"] for line in lines)


async def test_no_secret_in_logs_errors_or_representations(make_shop: Callable[..., Shop]) -> None:
    secret = "sandbox-canary-secret"
    shop = make_shop(PAYPAL_CLIENT_SECRET=secret)
    texts = [repr(shop.gateway), repr(vars(shop.gateway)["_settings"])]
    with capture_logs() as lines:
        ref = await shop.approved()
        token = shop.line.sent[-1].headers["authorization"].removeprefix("Bearer ")
        for kind in ("html 502", "truncated"):
            for _ in range(TRIES):
                shop.fail("/capture", UNREADABLE[kind])
            with pytest.raises(GatewayError) as caught:
                await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
            texts += [str(caught.value), repr(caught.value)]
    texts += [repr(lines), *(repr(one) for one in shop.line.sent), repr(provider)]

    basic = base64.b64encode(f"sandbox-paypal-client-id:{secret}".encode()).decode()
    for word in (secret, basic, token):
        assert all(word not in text for text in texts)
    assert "buyer@sandbox.example" not in repr(lines)
