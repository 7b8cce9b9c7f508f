"""Money that is reserved first: authorized, captured whole or in part, voided, expired, denied."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from paidonce.errors import GatewayBusy, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import CaptureMethod, DeclineCode, HttpResponse, Progress
from paidonce.money import Money

if TYPE_CHECKING:
    from support.paypal import Shop

EUR_1999 = Money(1999, "EUR")


async def opened(
    shop: Shop, *, amount: Money = EUR_1999, key: str = "create-1", funding: str | None = "balance"
) -> str:
    """An order whose money shall be reserved only, approved with `funding`."""
    request = replace(shop.request(amount=amount, key=key), capture_method=CaptureMethod.MANUAL)
    ref = (await shop.gateway.create(request)).snapshot.ref
    if funding is not None:
        shop.twin.approve(ref, now=shop.clock.now(), funding=funding)
    return ref


async def authorized(shop: Shop) -> str:
    """An order whose money is reserved."""
    ref = await opened(shop)
    snapshot = await shop.gateway.authorize(ref, idempotency_key="authorize-1")
    assert snapshot.progress is Progress.AUTHORIZED
    return ref


async def test_authorize_reserves_and_moves_nothing(shop: Shop) -> None:
    ref = await opened(shop)
    assert json.loads(shop.line.sent[-1].body)["intent"] == "AUTHORIZE"
    assert (await shop.gateway.fetch(ref)).progress is Progress.APPROVED

    first = await shop.gateway.authorize(ref, idempotency_key="authorize-1")
    repeated = await shop.gateway.authorize(ref, idempotency_key="authorize-1")
    with_new_key = await shop.gateway.authorize(ref, idempotency_key="authorize-2")

    assert first.progress is repeated.progress is with_new_key.progress is Progress.AUTHORIZED
    assert (first.amount, first.captured, first.capture_ref, first.fee) == (EUR_1999, None, None, None)
    assert first.raw_status == "COMPLETED/CREATED"
    assert shop.moved() == 0
    assert shop.twin.books() == ()


async def test_a_captured_authorization_is_paid(shop: Shop) -> None:
    ref = await authorized(shop)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    again = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    other = await shop.gateway.capture(ref, idempotency_key="capture-2", amount=EUR_1999)

    assert paid.progress is again.progress is other.progress is Progress.CAPTURED
    assert (paid.amount, paid.captured) == (EUR_1999, EUR_1999)
    assert paid.fee == Money(85, "EUR")
    assert paid.capture_ref == again.capture_ref == other.capture_ref
    assert paid.raw_status == "COMPLETED/CAPTURED/COMPLETED"
    assert shop.moved() == 1
    sent = [one for one in shop.line.sent if one.method == "POST" and one.url.endswith("/capture")]
    assert [json.loads(one.body) for one in sent] == [
        {"amount": {"currency_code": "EUR", "value": "19.99"}, "final_capture": True}
    ]


async def test_a_part_can_be_captured_and_the_rest_is_let_go(shop: Shop) -> None:
    ref = await authorized(shop)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=Money(500, "EUR"))

    assert (paid.progress, paid.captured, paid.amount) == (Progress.CAPTURED, Money(500, "EUR"), EUR_1999)
    assert [(entry.kind, entry.minor) for entry in shop.twin.books()] == [("capture", 500), ("fee", -47)]
    assert (await shop.gateway.void(ref)).progress is Progress.CAPTURED
    assert not any(one.url.endswith("/void") for one in shop.line.sent)


async def test_a_capture_after_a_restart_reads_the_intent_first(shop: Shop) -> None:
    """No key may go out for an order's capture and then for its authorization's."""
    ref = await authorized(shop)
    vars(shop.gateway)["_intents"].clear()
    before = len(shop.line.sent)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert paid.progress is Progress.CAPTURED
    posts = [one for one in shop.line.sent[before:] if one.method == "POST"]
    assert [one.url.rsplit("/", 3)[-3] for one in posts] == ["authorizations"]


async def test_an_approved_order_is_not_captured_before_it_is_authorized(shop: Shop) -> None:
    ref = await opened(shop)

    snapshot = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert snapshot.progress is Progress.APPROVED
    assert not any(one.url.endswith("/capture") for one in shop.line.sent)


async def test_a_declined_authorization_recovers_on_the_same_order(shop: Shop) -> None:
    ref = await opened(shop, funding="declined")

    declined = await shop.gateway.authorize(ref, idempotency_key="authorize-1")

    assert declined.progress is Progress.AWAITING_BUYER
    assert declined.decline is not None
    assert (declined.decline.code, declined.decline.recoverable) == (DeclineCode.INSTRUMENT_DECLINED, True)
    shop.twin.approve(ref, now=shop.clock.now())
    assert (await shop.gateway.authorize(ref, idempotency_key="authorize-2")).progress is Progress.AUTHORIZED


async def test_authorizing_without_approval_sends_the_buyer_back(shop: Shop) -> None:
    ref = await opened(shop, funding=None)

    snapshot = await shop.gateway.authorize(ref, idempotency_key="authorize-1")

    assert snapshot.progress is Progress.AWAITING_BUYER
    assert snapshot.decline is not None
    assert snapshot.decline.code is DeclineCode.APPROVAL_NEEDED


@pytest.mark.parametrize(("status", "progress"), [("COMPLETED", Progress.AUTHORIZED), ("DECLINED", Progress.FAILED)])
async def test_a_pending_authorization_is_decided_later(shop: Shop, status: str, progress: Progress) -> None:
    ref = await opened(shop, funding="pending")

    pending = await shop.gateway.authorize(ref, idempotency_key="authorize-1")
    early = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert (pending.progress, pending.pending_reason) == (Progress.PROCESSING, "PENDING_REVIEW")
    assert early.progress is Progress.PROCESSING
    shop.twin.control("clear_pending", {"order": ref, "status": status}, now=shop.clock.now())
    assert (await shop.gateway.fetch(ref)).progress is progress
    assert shop.moved() == 0


async def test_void_releases_the_money_and_may_be_repeated(shop: Shop) -> None:
    ref = await authorized(shop)

    first = await shop.gateway.void(ref)
    again = await shop.gateway.void(ref)
    late = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert first.progress is again.progress is late.progress is Progress.CANCELED
    assert shop.line.count("/void") == 1
    assert shop.moved() == 0


async def test_void_after_a_capture_says_captured(shop: Shop) -> None:
    ref = await authorized(shop)
    order = await shop.gateway.fetch(ref)
    shop.refuse("/void", "PREVIOUSLY_CAPTURED")

    assert order.progress is Progress.AUTHORIZED
    with pytest.raises(GatewayRefused):
        await shop.gateway.void(ref)
    await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    assert (await shop.gateway.void(ref)).progress is Progress.CAPTURED


async def test_a_lost_answer_to_a_void_is_repeated_under_one_key(shop: Shop) -> None:
    ref = await authorized(shop)
    shop.fail("/void", OutcomeUnknown("lost"), reached=True)

    assert (await shop.gateway.void(ref)).progress is Progress.CANCELED

    keys = {one.headers["paypal-request-id"] for one in shop.line.sent if one.url.endswith("/void")}
    assert len(keys) == 1


async def test_void_believes_an_empty_answer_over_a_reading_that_lags(shop: Shop) -> None:
    ref = await authorized(shop)
    lagging = shop.line.deliver(replace(shop.line.sent[-1], method="GET", url=_order_url(ref)))
    shop.fail("/void", HttpResponse(204, {}, b""))
    shop.fail(f"/orders/{ref}", lagging)
    shop.fail(f"/orders/{ref}", lagging)

    assert (await shop.gateway.void(ref)).progress is Progress.CANCELED


def _order_url(ref: str) -> str:
    return f"http://127.0.0.1:9/paypal/v2/checkout/orders/{ref}"


@pytest.mark.parametrize("how", ["time", "control"])
async def test_an_expired_authorization_ends_the_payment(shop: Shop, how: str) -> None:
    ref = await authorized(shop)
    if how == "time":
        shop.clock.pass_seconds(29 * 24 * 3600)
    else:
        shop.twin.control("expire_authorization", {"order": ref}, now=shop.clock.now())

    late = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert late.progress is Progress.CANCELED
    assert (await shop.gateway.fetch(ref)).progress is Progress.CANCELED
    assert shop.moved() == 0


@pytest.mark.parametrize(
    ("issue", "progress"),
    [
        ("AUTHORIZATION_EXPIRED", Progress.CANCELED),
        ("AUTHORIZATION_VOIDED", Progress.CANCELED),
        ("AUTHORIZATION_DENIED", Progress.FAILED),
        ("AUTHORIZATION_ALREADY_CAPTURED", Progress.PROCESSING),
        ("MAX_CAPTURE_COUNT_EXCEEDED", Progress.PROCESSING),
        ("TRANSACTION_REFUSED", Progress.AUTHORIZED),
        ("PAYER_CANNOT_PAY", Progress.AUTHORIZED),
        ("INSTRUMENT_DECLINED", Progress.AUTHORIZED),
    ],
)
async def test_a_refused_capture_of_an_authorization(shop: Shop, issue: str, progress: Progress) -> None:
    """The reading that follows still says authorized, as one that lags behind would."""
    ref = await authorized(shop)
    shop.refuse("/capture", issue)

    snapshot = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert snapshot.progress is progress
    assert (snapshot.decline is not None) == (progress in (Progress.FAILED, Progress.AUTHORIZED))
    assert snapshot.captured is None
    assert shop.moved() == 0


@pytest.mark.parametrize(
    "issue", ["DUPLICATE_INVOICE_ID", "PAYEE_ACCOUNT_RESTRICTED", "AUTH_CAPTURE_CURRENCY_MISMATCH"]
)
async def test_other_refusals_are_refusals(shop: Shop, issue: str) -> None:
    ref = await authorized(shop)
    shop.refuse("/capture", issue)

    with pytest.raises(GatewayRefused):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert (await shop.gateway.fetch(ref)).progress is Progress.AUTHORIZED


async def test_a_lost_answer_to_a_capture_is_asked_for_again_with_the_same_key(shop: Shop) -> None:
    ref = await authorized(shop)
    shop.fail("/capture", OutcomeUnknown("lost"), reached=True)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert paid.progress is Progress.CAPTURED
    assert shop.moved() == 1
    assert len(shop.twin.books()) == 2


async def test_a_capture_that_was_made_is_told_though_the_order_cannot_be_read(shop: Shop) -> None:
    ref = await authorized(shop)
    before = shop.line.deliver(replace(shop.line.sent[-1], method="GET", url=_order_url(ref)))
    shop.fail(f"/orders/{ref}", before)
    for _ in range(3):
        shop.fail(f"/orders/{ref}", GatewayBusy("could not connect"))

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=Money(500, "EUR"))

    assert (paid.progress, paid.captured) == (Progress.CAPTURED, Money(500, "EUR"))
    assert paid.capture_ref == shop.twin.books()[0].object


async def test_a_capture_that_was_made_is_told_though_the_reading_lags(shop: Shop) -> None:
    ref = await authorized(shop)
    lagging = shop.line.deliver(replace(shop.line.sent[-1], method="GET", url=_order_url(ref)))
    shop.fail(f"/orders/{ref}", lagging)
    shop.fail(f"/orders/{ref}", lagging)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert paid.progress is Progress.CAPTURED
    assert paid.capture_ref == (await shop.gateway.fetch(ref)).capture_ref


@pytest.mark.parametrize("news", [{}, {"id": "CAP-1"}, {"status": "COMPLETED"}, {"id": "CAP-1", "status": "COMPLETED"}])
@pytest.mark.parametrize("reading", ["lags", "fails"])
async def test_a_capture_that_nobody_can_tell_about_is_unknown_and_not_declined(
    shop: Shop, news: dict[str, str], reading: str
) -> None:
    """PayPal took the money and says too little of it; its reading of the order still says "authorized"."""
    ref = await authorized(shop)
    before = shop.line.deliver(replace(shop.line.sent[-1], method="GET", url=_order_url(ref)))
    shop.fail("/capture", HttpResponse(201, {}, json.dumps(news).encode()), reached=True)
    shop.fail(f"/orders/{ref}", before)
    for _ in range(3):
        shop.fail(f"/orders/{ref}", before if reading == "lags" else GatewayBusy("could not connect"))

    with pytest.raises(OutcomeUnknown):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert shop.moved() == 1
    shop.line.faults.clear()
    again = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    assert (again.progress, again.captured) == (Progress.CAPTURED, EUR_1999)
    assert shop.moved() == 1


async def test_a_capture_that_only_the_reading_tells_about_is_paid(shop: Shop) -> None:
    ref = await authorized(shop)
    shop.fail("/capture", HttpResponse(201, {}, b"{}"), reached=True)

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert (paid.progress, paid.captured, paid.decline) == (Progress.CAPTURED, EUR_1999, None)
    assert shop.moved() == 1


async def test_another_order_than_asked_for_decides_nothing(shop: Shop) -> None:
    ref, other = await authorized(shop), await opened(shop, key="create-2")
    await shop.gateway.authorize(other, idempotency_key="authorize-2")
    await shop.gateway.capture(other, idempotency_key="capture-2", amount=EUR_1999)
    theirs = shop.line.deliver(replace(shop.line.sent[-1], method="GET", url=_order_url(other)))

    for call in (
        lambda: shop.gateway.fetch(ref),
        lambda: shop.gateway.reopen(ref),
        lambda: shop.gateway.void(ref),
        lambda: shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999),
    ):
        shop.fail(f"/orders/{ref}", theirs)
        with pytest.raises(OutcomeUnknown, match="another order"):
            await call()

    assert (await shop.gateway.fetch(ref)).progress is Progress.AUTHORIZED
    assert (shop.moved(), shop.line.count("/void")) == (1, 0)


async def test_another_orders_state_after_a_void_does_not_hide_the_void(shop: Shop) -> None:
    ref, other = await authorized(shop), await opened(shop, key="create-2")
    mine = shop.line.deliver(replace(shop.line.sent[-1], method="GET", url=_order_url(ref)))
    theirs = shop.line.deliver(replace(shop.line.sent[-1], method="GET", url=_order_url(other)))
    shop.fail(f"/orders/{ref}", mine)
    shop.fail(f"/orders/{ref}", theirs)

    voided = await shop.gateway.void(ref)

    assert (voided.ref, voided.progress) == (ref, Progress.CANCELED)
