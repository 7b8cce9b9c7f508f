"""Every way in which an answer can go wrong, at every call that matters: unknown is never "failed", and keys repeat."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from paidonce.errors import GatewayUnavailable, OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse, Progress
from paidonce.settlement import settle
from support.books import captures_at_gateways
from support.shop import Fault, Shop

GATEWAYS = ["stripe", "paypal"]
CREATE = {"stripe": "/v1/payment_intents", "paypal": "/v2/checkout/orders"}
REFUND = {"stripe": "/v1/refunds", "paypal": "/refund"}
KEY = {"stripe": "idempotency-key", "paypal": "paypal-request-id"}

HTML = {"content-type": "text/html"}
JSON = {"content-type": "application/json"}


def _lost(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    raise OutcomeUnknown("no complete answer in time")  # As the transport tells time-outs, resets and slow drips.


FAULTS: dict[str, Fault] = {
    "timeout, reset or slow drip": _lost,
    "500": lambda request, response: HttpResponse(500, JSON, b"{}"),
    "502 page": lambda request, response: HttpResponse(502, HTML, b"<html>Bad Gateway</html>"),
    "503": lambda request, response: HttpResponse(503, JSON, b'{"error": {"type": "api_error"}}'),
    "truncated JSON": lambda request, response: HttpResponse(200, JSON, response.body[: len(response.body) // 2]),
    "invalid JSON": lambda request, response: HttpResponse(200, JSON, b'{"id": NaN,,}'),
    "page with 200": lambda request, response: HttpResponse(200, HTML, b"<html>Please sign in to the Wi-Fi</html>"),
    "empty object": lambda request, response: HttpResponse(200, JSON, b"{}"),
}


def keys(shop: Shop, gateway: str, part: str) -> set[str]:
    sent = shop.transport.calls("POST", part)
    return {{name.lower(): value for name, value in one.headers.items()}[KEY[gateway]] for one in sent}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_an_unreadable_answer_to_create_is_unknown_and_its_key_finds_out(
    shop: Shop, gateway: str, fault: str
) -> None:
    order = await shop.order()
    shop.transport.faults.append(("POST", CREATE[gateway], FAULTS[fault]))
    with pytest.raises(GatewayUnavailable):
        await shop.start(order.id, gateway)
    assert [row["status"] for row in await shop.rows("SELECT status FROM payments")] == ["created"]
    shop.transport.heal()
    started = await shop.start(order.id, gateway)
    assert len(keys(shop, gateway, CREATE[gateway])) == 1
    await shop.agree(started)
    await shop.complete(started.payment.id)
    await shop.assert_paid_once(order)
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_an_unreadable_answer_about_the_money_is_unknown_never_failed(
    shop: Shop, gateway: str, fault: str
) -> None:
    """FAULTS: timeout, reset, 5xx, truncated or invalid JSON, HTML with 200, slow drip."""
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    shop.transport.faults.append(("POST", "/capture", FAULTS[fault]))
    shop.transport.faults.append(("GET", CREATE[gateway], FAULTS[fault]))
    result = await shop.complete(started.payment.id)
    assert result.unknown
    assert "not be charged twice" in result.message
    assert await shop.payment_status(started.payment.id) in ("awaiting_buyer", "processing")
    shop.transport.heal()
    await shop.recover(after=120)
    await shop.assert_paid_once(order)
    assert captures_at_gateways(shop, order.id) == 1
    assert len(keys(shop, gateway, "/capture")) <= 1
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_an_unreadable_answer_to_a_refund_is_unknown_and_never_sent_under_another_key(
    shop: Shop, gateway: str, fault: str
) -> None:
    _, payment_id = await shop.paid(gateway)
    shop.transport.faults.append(("POST", REFUND[gateway], FAULTS[fault]))
    shop.transport.faults.append(("GET", "/", FAULTS[fault]))
    assert (await shop.refund(payment_id, 700)).refund.state == "recorded"
    shop.transport.heal()
    await shop.recover(after=120)
    assert await shop.refund_states(payment_id) == [(700, "succeeded")]
    assert len(keys(shop, gateway, REFUND[gateway])) == 1
    await shop.assert_journal_equals_gateways()


BUSY: dict[str, tuple[int, dict[str, str], bytes]] = {
    "429": (429, {**JSON, "retry-after": "2"}, b'{"error": {"code": "rate_limit"}, "name": "RATE_LIMIT_REACHED"}'),
    "409": (409, JSON, b'{"error": {"code": "lock_timeout"}, "name": "RESOURCE_CONFLICT"}'),
}


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_busy_gateway_is_asked_again_with_the_same_key_after_a_pause(
    shop: Shop, gateway: str, busy: str
) -> None:
    """FAULTS: 429 / 409 in progress: back off with jitter, honour Retry-After."""
    order = await shop.order()
    status, headers, body = BUSY[busy]
    answers = iter([HttpResponse(status, headers, body)] * 2)
    send = shop.transport.send

    async def busy_twice(request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        if request.method == "POST" and request.url.endswith(CREATE[gateway]):
            shop.transport.sent.append(request)
            refused = next(answers, None)
            if refused is not None:
                return refused
        return await send(request, deadline_seconds=deadline_seconds)

    shop.transport.send = busy_twice  # type: ignore[method-assign]
    shop.clock.slept.clear()
    started = await shop.start(order.id, gateway)
    assert len(shop.clock.slept) >= 2, "it paused before each repetition"
    if busy == "429":
        assert max(shop.clock.slept) >= 2, "not before the gateway's own Retry-After"
    assert len(keys(shop, gateway, CREATE[gateway])) == 1
    await shop.agree(started)
    await shop.complete(started.payment.id)
    await shop.assert_paid_once(order)


async def test_already_captured_is_looked_up_and_settled_as_what_it_is(shop: Shop) -> None:
    """FAULTS: "already captured"."""
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)
    ref = started.client["order_id"]
    gateway = shop.core.gateways["paypal"]
    await gateway.capture(ref, idempotency_key="somebody-else", amount=order.total)
    lagging = replace(await gateway.fetch(ref), progress=Progress.APPROVED, captured=None, capture_ref=None)
    settled = await settle(shop.core, lagging, trigger="test", asked_at=shop.clock.now())
    assert settled.command is not None
    shop.transport.faults.append(("GET", ref, _approved_once(shop)))
    assert (await shop.complete(started.payment.id)).order_status == "paid"
    await shop.assert_paid_once(order)
    assert captures_at_gateways(shop, order.id) == 1
    await shop.assert_journal_equals_gateways()


def _approved_once(shop: Shop) -> Fault:
    """PayPal's reading of the order lags behind its capture: the first one still says APPROVED."""

    def answer(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        shop.transport.heal()
        order = json.loads(response.body)
        order["status"] = "APPROVED"
        order["purchase_units"][0].pop("payments", None)
        return HttpResponse(200, response.headers, json.dumps(order).encode())

    return answer


async def test_a_duplicate_invoice_is_looked_up_and_never_forced(shop: Shop) -> None:
    """FAULTS: "duplicate invoice": no reason to capture again, and none to believe that it is paid."""
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)

    def duplicate(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        body = {"name": "UNPROCESSABLE_ENTITY", "details": [{"issue": "DUPLICATE_INVOICE_ID"}], "debug_id": "d1"}
        return HttpResponse(422, JSON, json.dumps(body).encode())

    shop.transport.faults.append(("POST", "/capture", duplicate))
    result = await shop.complete(started.payment.id)
    # The twin carried the capture out before the refusal was put in its place, so looking it up finds the money.
    assert result.order_status == "paid"
    await shop.assert_paid_once(order)
    await shop.assert_journal_equals_gateways()


def _with_status(word: str) -> Callable[[HttpRequest, HttpResponse], HttpResponse]:
    def answer(request: HttpRequest, response: HttpResponse) -> HttpResponse:
        body = json.loads(response.body)
        body["status"] = word
        return HttpResponse(200, response.headers, json.dumps(body).encode())

    return answer


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_an_unknown_status_is_pending_and_told(shop: Shop, gateway: str) -> None:
    """FAULTS: an unknown status value is treated as pending and logged."""
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    shop.transport.faults.append(("GET", CREATE[gateway], _with_status("requires_teleportation")))
    await shop.complete(started.payment.id)
    assert await shop.payment_status(started.payment.id) == "processing"
    assert await shop.order_status(order.id) == "pending"
    assert await shop.captures_booked() == 0
    told = await shop.rows("SELECT detail FROM history WHERE event = 'payment.processing'")
    assert any("requires_teleportation" in row["detail"] for row in told)
    shop.transport.heal()
    await shop.agree(started)
    await shop.recover(after=3600)
    await shop.recover(after=3600)
    await shop.assert_paid_once(order)


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_key_that_meets_another_body_is_an_alarm_and_gets_no_new_key_behind_our_back(
    shop: Shop, gateway: str
) -> None:
    """FAULTS: idempotency parameter mismatch."""
    _, payment_id = await shop.paid(gateway)
    shop.transport.lose_answers("POST", REFUND[gateway])
    await shop.refund(payment_id, 700)
    shop.transport.heal()
    rows = await shop.rows("SELECT id, request FROM operations WHERE kind = 'refund'")
    other = {**json.loads(rows[0]["request"]), "amount": 800}
    await shop.write("UPDATE operations SET request = :r WHERE id = :id", r=json.dumps(other), id=rows[0]["id"])
    await shop.recover(after=120)
    assert len(keys(shop, gateway, REFUND[gateway])) == 1
    # The refusal made recovery read the gateway's refunds, where the first body is found and booked as what it is.
    assert await shop.refund_states(payment_id) == [(700, "succeeded")]
    await shop.assert_journal_equals_gateways()
