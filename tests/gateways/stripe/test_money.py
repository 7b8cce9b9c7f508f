"""Money after the payment, through the gateway and its twin: fees, refunds, disputes, reservations, and the books."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paidonce.errors import GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import (
    CaptureMethod,
    CreateRequest,
    DisputeProgress,
    HttpRequest,
    HttpResponse,
    Progress,
    RefundProgress,
    Snapshot,
    WebhookEvent,
)
from paidonce.gateways.stripe import provider
from paidonce.gateways.stripe.gateway import StripeGateway
from paidonce.gateways.stripe.sandbox import StripeSandbox
from paidonce.gateways.stripe.sandbox.ledger import fee_of
from paidonce.money import Money

from .conftest import RETURN_URL, ManualClock, TwinTransport

DAY_SECONDS = 24 * 3600
Create = Callable[..., CreateRequest]


class Shop:
    """A gateway and its twin, with the words that these tests need."""

    def __init__(self, gateway: StripeGateway, transport: TwinTransport, make_request: Create) -> None:
        self.gateway = gateway
        self.core = transport.core
        self.clock = transport.clock
        self.transport = transport
        self._make_request = make_request

    async def paid(self, method: str = "pm_card_visa", *, manual: bool = False, **order: Any) -> Snapshot:
        key = f"key_{len(self.transport.requests)}"
        request = self._make_request(key, **order)
        if manual:
            request = replace(request, capture_method=CaptureMethod.MANUAL)
        ref = (await self.gateway.create(request)).snapshot.ref
        return await self.gateway.confirm_as_test_buyer(ref, payment_method=method, return_url=RETURN_URL)

    async def seen(self, ref: str) -> Snapshot:
        return await self.gateway.fetch(ref, details=True)

    async def refund(self, paid: Snapshot, minor: int, number: int = 1) -> Any:
        return await self.gateway.refund(
            paid.ref,
            paid.capture_ref or "",
            idempotency_key=f"refund_{number}",
            amount=Money(minor, "EUR"),
            refund_id=f"ref_{number}",
        )

    def control(self, name: str, **params: str) -> dict[str, str]:
        return dict(self.core.control(name, params, now=self.clock.now()))

    async def news(self) -> list[WebhookEvent]:
        requests = self.core.take_webhooks(now=self.clock.now())
        return [await self.gateway.read_webhook(request.headers, request.body) for request in requests]

    async def kinds(self) -> list[str]:
        return [event.type for event in await self.news()]

    def books(self) -> list[tuple[str, int]]:
        return [(entry.kind, entry.minor) for entry in self.core.books()]


@pytest.fixture
def shop(gateway: StripeGateway, transport: TwinTransport, create_request: Create) -> Shop:
    return Shop(gateway, transport, create_request)


# Fees


@pytest.mark.parametrize(
    ("amount", "currency", "fee"),
    [
        (1999, "eur", 55),
        (1000, "eur", 40),
        (100, "eur", 27),
        (34, "eur", 26),
        (33, "eur", 25),
        (1, "eur", 1),
        (500, "jpy", 33),
        (1230, "kwd", 43),
        (100_000, "isk", 4000),
        (50_000, "ugx", 3300),
    ],
)
def test_fees_are_rounded_half_up_in_whole_units(amount: int, currency: str, fee: int) -> None:
    assert fee_of(amount, currency) == fee


async def test_the_fee_is_in_every_reading_of_a_captured_payment(shop: Shop) -> None:
    paid = await shop.paid()
    assert (paid.captured, paid.fee) == (Money(1999, "EUR"), Money(55, "EUR"))
    assert (await shop.gateway.fetch(paid.ref)).fee == Money(55, "EUR")
    assert (await shop.gateway.reopen(paid.ref)).snapshot.fee == Money(55, "EUR")
    assert shop.books() == [("capture", 1999), ("fee", -55)]
    assert {entry.payment_id for entry in shop.core.books()} == {"pay_1"}
    assert {entry.object for entry in shop.core.books()} == {paid.capture_ref}


async def test_the_books_count_in_iso_minor_units(shop: Shop) -> None:
    paid = await shop.paid(minor=500, currency="ISK")
    assert (paid.amount, paid.captured, paid.fee) == (Money(500, "ISK"), Money(500, "ISK"), Money(33, "ISK"))
    assert shop.books() == [("capture", 500), ("fee", -33)]


async def test_without_details_refunds_and_disputes_are_not_asked_for(shop: Shop) -> None:
    paid = await shop.paid()
    shop.transport.requests.clear()
    plain = await shop.gateway.fetch(paid.ref)
    assert (plain.refunds, plain.disputes) == (None, None)
    assert len(shop.transport.requests) == 1
    detailed = await shop.seen(paid.ref)
    assert (detailed.refunds, detailed.disputes) == ((), ())
    assert {request.method for request in shop.transport.requests} == {"GET"}


# Refunds


async def test_a_refund_carries_our_id_and_the_payment_stays_captured(shop: Shop) -> None:
    paid = await shop.paid()
    refund = await shop.refund(paid, 500)
    assert (refund.progress, refund.amount, refund.refund_id) == (RefundProgress.SUCCEEDED, Money(500, "EUR"), "ref_1")
    again = await shop.refund(paid, 500)
    assert again.ref == refund.ref
    seen = await shop.seen(paid.ref)
    assert (seen.progress, seen.captured, seen.disputes) == (Progress.CAPTURED, Money(1999, "EUR"), ())
    assert seen.refunds is not None
    assert [(one.ref, one.refund_id, one.amount.minor) for one in seen.refunds] == [(refund.ref, "ref_1", 500)]
    assert shop.books() == [("capture", 1999), ("fee", -55), ("refund", -500)]
    assert shop.core.books()[-1].object == refund.ref


async def test_the_key_with_another_amount_refunds_nothing_more(shop: Shop) -> None:
    paid = await shop.paid()
    await shop.refund(paid, 500)
    with pytest.raises(GatewayRefused) as caught:
        await shop.refund(paid, 600)
    assert caught.value.code == "idempotency_mismatch"
    assert shop.books()[2:] == [("refund", -500)]


async def test_a_refund_with_a_lost_answer_is_found_by_its_key_and_by_its_id(shop: Shop) -> None:
    paid = await shop.paid()

    def lose(request: HttpRequest) -> OutcomeUnknown:
        shop.core.handle(request, now=shop.clock.now())
        return OutcomeUnknown("reset")

    shop.transport.intercept = [lose] * 3
    with pytest.raises(OutcomeUnknown):
        await shop.refund(paid, 1999)
    seen = (await shop.seen(paid.ref)).refunds
    assert seen is not None
    assert [one.refund_id for one in seen] == ["ref_1"]
    assert (await shop.refund(paid, 1999)).ref == seen[0].ref
    assert shop.books()[2:] == [("refund", -1999)]


@pytest.mark.parametrize(
    ("first", "then", "code"),
    [
        (1999, 1, "charge_already_refunded"),
        (1000, 1000, "invalid_request_error"),
        (None, 2000, "invalid_request_error"),
    ],
)
async def test_more_than_was_captured_never_goes_back(shop: Shop, first: int | None, then: int, code: str) -> None:
    paid = await shop.paid()
    if first is not None:
        await shop.refund(paid, first)
    before = shop.books()
    with pytest.raises(GatewayRefused) as caught:
        await shop.refund(paid, then, 2)
    assert caught.value.code == code
    assert shop.books() == before


async def test_what_was_not_paid_cannot_be_refunded(shop: Shop) -> None:
    declined = await shop.paid("pm_card_visa_chargeDeclined")
    reserved = await shop.paid(manual=True)
    for snapshot, number in ((declined, 1), (reserved, 2)):
        with pytest.raises(GatewayRefused):
            await shop.refund(snapshot, 1, number)
        shop.transport.requests.clear()
        seen = await shop.seen(snapshot.ref)
        assert (seen.refunds, seen.disputes) == ((), ())
        # Nothing was captured, so there is no list to ask for.
        assert len(shop.transport.requests) == 1
    with pytest.raises(GatewayMisconfigured):
        await shop.refund(replace(declined, ref="pi_of_nobody"), 1, 3)
    assert shop.books() == []


async def test_a_refund_of_another_payment_is_not_taken_for_ours(shop: Shop) -> None:
    paid, other = await shop.paid(), await shop.paid(payment_id="pay_2")
    body = json.dumps((await _refund_json(shop, other.ref)) | {"payment_intent": other.ref}).encode()
    shop.transport.intercept = [lambda _: HttpResponse(200, {}, body)]
    with pytest.raises(OutcomeUnknown, match="another payment_intent"):
        await shop.refund(paid, 500)


async def _refund_json(shop: Shop, ref: str) -> dict[str, Any]:
    shop.control("dashboard_refund", ref=ref, amount="500")
    records = json.loads(shop.core.dump())["refunds"]
    return dict(next(iter(records.values()))["object"])


async def test_refunds_come_in_pages_and_oldest_first(shop: Shop) -> None:
    paid = await shop.paid(minor=20_000)
    made = [shop.control("dashboard_refund", ref=paid.ref, amount="1")["refund"] for _ in range(201)]
    shop.transport.requests.clear()
    seen = (await shop.seen(paid.ref)).refunds
    assert seen is not None
    assert [one.ref for one in seen] == made
    assert {one.refund_id for one in seen} == {None}
    assert sum("/v1/refunds?" in request.url for request in shop.transport.requests) == 3


async def test_a_list_without_an_end_is_given_up(shop: Shop) -> None:
    paid = await shop.paid()
    page = {"object": "list", "has_more": True, "data": [await _refund_json(shop, paid.ref)]}
    endless = [lambda _: None] + [lambda _: HttpResponse(200, {}, json.dumps(page).encode())] * 60
    shop.transport.intercept = endless  # type: ignore[assignment]
    with pytest.raises(OutcomeUnknown, match="no end"):
        await shop.seen(paid.ref)


async def test_a_refund_that_fails_later_comes_back(shop: Shop) -> None:
    paid = await shop.paid("pm_card_refundFail")
    refund = await shop.refund(paid, 1999)
    assert refund.progress is RefundProgress.SUCCEEDED
    await shop.news()
    shop.clock.advance(DAY_SECONDS - 1)
    assert await shop.kinds() == []
    shop.clock.advance(1)
    news = await shop.news()
    assert [(one.type, one.refund) for one in news] == [
        ("refund.updated", (refund.ref, RefundProgress.FAILED)),
        ("refund.failed", (refund.ref, RefundProgress.FAILED)),
    ]
    seen = (await shop.seen(paid.ref)).refunds
    assert seen is not None
    assert (seen[0].progress, seen[0].failure_reason) == (RefundProgress.FAILED, "lost_or_stolen_card")
    assert shop.books()[2:] == [("refund", -1999), ("refund_failed", 1999)]
    # The money is there again, so it can be refunded another way.
    assert (await shop.refund(paid, 1999, 2)).progress is RefundProgress.SUCCEEDED


async def test_a_refund_can_be_made_to_fail_once_only(shop: Shop) -> None:
    paid = await shop.paid()
    refund = await shop.refund(paid, 500)
    assert shop.control("fail_refund", refund=refund.ref) == {"refund": refund.ref, "status": "failed"}
    with pytest.raises(ValueError, match="failed"):
        shop.control("fail_refund", refund=refund.ref)
    assert shop.books()[2:] == [("refund", -500), ("refund_failed", 500)]


@pytest.mark.parametrize("end", ["finish_refund", "fail_refund"])
async def test_a_pending_refund_moves_money_when_it_succeeds(shop: Shop, end: str) -> None:
    paid = await shop.paid()
    shop.control("pend_next_refund")
    refund = await shop.refund(paid, 500)
    assert (refund.progress, refund.raw_status) == (RefundProgress.PENDING, "pending")
    assert shop.books() == [("capture", 1999), ("fee", -55)]
    with pytest.raises(GatewayRefused):
        await shop.refund(paid, 1500, 2)
    shop.control(end, refund=refund.ref)
    succeeded = end == "finish_refund"
    seen = (await shop.seen(paid.ref)).refunds
    assert seen is not None
    assert seen[0].progress is (RefundProgress.SUCCEEDED if succeeded else RefundProgress.FAILED)
    assert shop.books()[2:] == ([("refund", -500)] if succeeded else [])
    with pytest.raises(ValueError, match="not pending"):
        shop.control("finish_refund", refund=refund.ref)
    # Only the next one was to wait.
    assert (await shop.refund(paid, 1499, 3)).progress is RefundProgress.SUCCEEDED


async def test_the_card_whose_refunds_wait(shop: Shop) -> None:
    paid = await shop.paid("pm_card_pendingRefund")
    assert (await shop.refund(paid, 500)).progress is RefundProgress.PENDING
    shop.clock.advance(DAY_SECONDS)
    seen = (await shop.seen(paid.ref)).refunds
    assert seen is not None
    assert seen[0].progress is RefundProgress.SUCCEEDED
    assert shop.books()[2:] == [("refund", -500)]


async def test_a_dashboards_refund_is_told_and_found(shop: Shop) -> None:
    paid = await shop.paid()
    await shop.news()
    made = shop.control("dashboard_refund", ref=paid.ref)
    news = await shop.news()
    assert [(one.type, one.ref, one.capture_ref, one.refund) for one in news] == [
        ("refund.created", paid.ref, paid.capture_ref, (made["refund"], RefundProgress.SUCCEEDED)),
        ("charge.refunded", paid.ref, paid.capture_ref, None),
    ]
    seen = (await shop.seen(paid.ref)).refunds
    assert seen is not None
    assert [(one.ref, one.refund_id, one.amount) for one in seen] == [(made["refund"], None, Money(1999, "EUR"))]


# Disputes


@pytest.mark.parametrize(
    ("outcome", "after", "booked", "last"),
    [
        ("won", (DisputeProgress.WON, False), ("dispute_won", 1999), "charge.dispute.funds_reinstated"),
        ("lost", (DisputeProgress.LOST, True), ("dispute_lost", 0), "charge.dispute.closed"),
    ],
)
async def test_a_dispute_takes_the_money_until_it_is_decided(
    shop: Shop, outcome: str, after: tuple[DisputeProgress, bool], booked: tuple[str, int], last: str
) -> None:
    paid = await shop.paid()
    await shop.news()
    made = shop.control("open_dispute", ref=paid.ref)
    assert await shop.kinds() == ["charge.dispute.created", "charge.dispute.funds_withdrawn"]
    seen = await shop.seen(paid.ref)
    assert seen.progress is Progress.CAPTURED
    assert seen.disputes is not None
    assert [(one.ref, one.progress, one.withdrawn, one.amount) for one in seen.disputes] == [
        (made["dispute"], DisputeProgress.OPEN, True, Money(1999, "EUR"))
    ]
    with pytest.raises(GatewayRefused) as caught:
        await shop.refund(paid, 1)
    assert caught.value.code == "charge_disputed"
    shop.control("close_dispute", dispute=made["dispute"], outcome=outcome)
    assert (await shop.kinds())[-1] == last
    closed = (await shop.seen(paid.ref)).disputes
    assert closed is not None
    assert (closed[0].progress, closed[0].withdrawn) == after
    assert shop.books()[2:] == [("dispute_opened", -1999), booked]
    with pytest.raises(ValueError, match="already"):
        shop.control("close_dispute", dispute=made["dispute"], outcome="won")


@pytest.mark.parametrize(
    ("outcome", "progress", "books"),
    [
        ("won", DisputeProgress.WON, []),
        ("lost", DisputeProgress.LOST, [("dispute_opened", -1999), ("dispute_lost", 0)]),
    ],
)
async def test_an_inquiry_takes_nothing(
    shop: Shop, outcome: str, progress: DisputeProgress, books: list[tuple[str, int]]
) -> None:
    paid = await shop.paid()
    made = shop.control("open_dispute", ref=paid.ref, inquiry="true")
    seen = (await shop.seen(paid.ref)).disputes
    assert seen is not None
    assert (seen[0].progress, seen[0].withdrawn) == (DisputeProgress.OPEN, False)
    assert shop.books()[2:] == []
    shop.control("close_dispute", dispute=made["dispute"], outcome=outcome)
    after = (await shop.seen(paid.ref)).disputes
    assert after is not None
    assert (after[0].progress, after[0].withdrawn) == (progress, outcome == "lost")
    assert shop.books()[2:] == books


async def test_an_inquiry_can_be_refunded_or_become_a_dispute(shop: Shop) -> None:
    paid = await shop.paid()
    made = shop.control("open_dispute", ref=paid.ref, inquiry="true")
    await shop.refund(paid, 500)
    await shop.news()
    shop.control("escalate_dispute", dispute=made["dispute"])
    news = await shop.news()
    assert [(one.type, one.dispute) for one in news] == [
        ("charge.dispute.updated", None),
        ("charge.dispute.funds_withdrawn", None),
    ]
    seen = (await shop.seen(paid.ref)).disputes
    assert seen is not None
    assert (seen[0].progress, seen[0].withdrawn) == (DisputeProgress.OPEN, True)
    with pytest.raises(ValueError, match="inquiry"):
        shop.control("escalate_dispute", dispute=made["dispute"])
    assert shop.books()[2:] == [("refund", -500), ("dispute_opened", -1999)]


@pytest.mark.parametrize(
    ("method", "withdrawn"), [("pm_card_createDispute", True), ("pm_card_createDisputeInquiry", False)]
)
async def test_the_cards_that_are_disputed_later(shop: Shop, method: str, withdrawn: bool) -> None:
    paid = await shop.paid(method)
    assert (await shop.seen(paid.ref)).disputes == ()
    shop.clock.advance(DAY_SECONDS)
    seen = (await shop.seen(paid.ref)).disputes
    assert seen is not None
    assert [one.withdrawn for one in seen] == [withdrawn]
    shop.clock.advance(30 * DAY_SECONDS)
    assert len((await shop.seen(paid.ref)).disputes or ()) == 1


async def test_a_part_that_was_captured_is_disputed_whole(shop: Shop) -> None:
    reserved = await shop.paid(manual=True)
    await shop.gateway.capture(reserved.ref, idempotency_key="c1", amount=Money(1500, "EUR"))
    shop.control("open_dispute", ref=reserved.ref)
    assert shop.books()[2:] == [("dispute_opened", -1500)]


async def test_a_refunded_payment_is_disputed_by_its_rest_only(shop: Shop) -> None:
    paid = await shop.paid()
    await shop.refund(paid, 1500)
    shop.control("open_dispute", ref=paid.ref)
    assert shop.books()[2:] == [("refund", -1500), ("dispute_opened", -499)]
    with pytest.raises(ValueError, match="disputed already"):
        shop.control("open_dispute", ref=paid.ref)


# Reservations


async def test_a_reservation_is_captured_in_part_and_the_rest_is_no_refund(shop: Shop) -> None:
    reserved = await shop.paid(manual=True)
    assert (reserved.progress, reserved.captured, reserved.fee) == (Progress.AUTHORIZED, None, None)
    assert shop.books() == []
    captured = await shop.gateway.capture(reserved.ref, idempotency_key="c1", amount=Money(1500, "EUR"))
    assert (captured.progress, captured.amount, captured.captured) == (
        Progress.CAPTURED,
        Money(1999, "EUR"),
        Money(1500, "EUR"),
    )
    assert captured.fee == Money(48, "EUR")
    assert shop.books() == [("capture", 1500), ("fee", -48)]
    # Stripe shows the released rest as a refund of 4.99, which gave nothing back.
    charge = json.loads(shop.core.dump())["charges"][captured.capture_ref]["object"]
    assert (charge["amount_captured"], charge["amount_refunded"], charge["refunded"]) == (1500, 499, False)
    assert (await shop.seen(reserved.ref)).refunds == ()
    await shop.refund(captured, 1500)
    with pytest.raises(GatewayRefused) as caught:
        await shop.refund(captured, 1, 2)
    assert caught.value.code == "charge_already_refunded"
    seen = (await shop.seen(reserved.ref)).refunds
    assert seen is not None
    assert [one.amount.minor for one in seen] == [1500]
    again = await shop.gateway.capture(reserved.ref, idempotency_key="c2", amount=Money(499, "EUR"))
    assert (again.progress, again.captured) == (Progress.CAPTURED, Money(1500, "EUR"))


@pytest.mark.parametrize("end", ["void", "cancel", "expire_authorization", "time"])
async def test_a_reservation_ends_without_money(shop: Shop, end: str) -> None:
    reserved = await shop.paid(manual=True)
    assert (await shop.kinds())[-1] == "payment_intent.amount_capturable_updated"
    if end == "void":
        await shop.gateway.void(reserved.ref)
    elif end == "time":
        shop.clock.advance(7 * DAY_SECONDS)
    else:
        shop.control(end, ref=reserved.ref)
    news = await shop.news()
    assert [(one.type, one.progress) for one in news] == [
        ("payment_intent.canceled", Progress.CANCELED),
        ("charge.refunded", None),
    ]
    seen = await shop.seen(reserved.ref)
    assert (seen.progress, seen.captured, seen.capture_ref) == (Progress.CANCELED, None, None)
    assert (seen.refunds, seen.disputes, seen.fee) == ((), (), None)
    late = await shop.gateway.capture(reserved.ref, idempotency_key="c1", amount=Money(1999, "EUR"))
    assert (late.progress, late.captured) == (Progress.CANCELED, None)
    assert shop.books() == []


async def test_a_captured_reservation_does_not_expire(shop: Shop) -> None:
    reserved = await shop.paid(manual=True)
    await shop.gateway.capture(reserved.ref, idempotency_key="c1", amount=Money(1999, "EUR"))
    shop.clock.advance(30 * DAY_SECONDS)
    assert (await shop.seen(reserved.ref)).progress is Progress.CAPTURED


async def test_stripe_never_authorizes_by_itself(shop: Shop) -> None:
    reserved = await shop.paid(manual=True)
    shop.transport.requests.clear()
    with pytest.raises(GatewayRefused) as caught:
        await shop.gateway.authorize(reserved.ref, idempotency_key="a1")
    assert caught.value.code == "not_supported"
    assert shop.transport.requests == []


# Slow money


@pytest.mark.parametrize("by", ["control", "time"])
async def test_a_slow_payment_succeeds_when_the_bank_says_so(shop: Shop, by: str) -> None:
    slow = await shop.paid("pm_usBankAccount_processing")
    assert (slow.progress, slow.captured, slow.fee) == (Progress.PROCESSING, None, None)
    assert [one.progress for one in await shop.news()] == [Progress.PROCESSING]
    shop.clock.advance(3 * DAY_SECONDS - 1)
    assert (await shop.seen(slow.ref)).progress is Progress.PROCESSING
    assert shop.books() == []
    if by == "control":
        assert shop.control("resolve_processing", ref=slow.ref, outcome="succeeded")["status"] == "succeeded"
    shop.clock.advance(1)
    seen = await shop.seen(slow.ref)
    assert (seen.progress, seen.captured) == (Progress.CAPTURED, Money(1999, "EUR"))
    assert await shop.kinds() == ["payment_intent.succeeded"]
    assert shop.books() == [("capture", 1999), ("fee", -55)]


async def test_a_slow_payment_that_bounces_can_be_tried_again(shop: Shop) -> None:
    slow = await shop.paid("pm_usBankAccount_processing")
    await shop.news()
    shop.control("resolve_processing", ref=slow.ref, outcome="failed")
    news = await shop.news()
    assert [(one.type, one.progress) for one in news] == [
        ("payment_intent.payment_failed", Progress.AWAITING_BUYER),
    ]
    seen = await shop.seen(slow.ref)
    assert seen.progress is Progress.AWAITING_BUYER
    assert seen.decline is not None
    assert seen.decline.recoverable is True
    assert shop.books() == []
    shop.clock.advance(10 * DAY_SECONDS)
    again = await shop.gateway.confirm_as_test_buyer(slow.ref, payment_method="pm_card_visa", return_url=RETURN_URL)
    assert again.progress is Progress.CAPTURED
    assert shop.books() == [("capture", 1999), ("fee", -55)]


async def test_the_buyer_at_the_bank_is_in_progress(shop: Shop) -> None:
    asked = await shop.paid("pm_card_authenticationRequired")
    assert (asked.progress, asked.in_progress) == (Progress.AWAITING_BUYER, True)
    assert await shop.kinds() == ["payment_intent.requires_action"]
    assert (await shop.gateway.void(asked.ref)).in_progress is False


# Events and state


async def test_every_change_is_told_once_and_signed_when_it_is_taken(shop: Shop) -> None:
    await shop.paid("pm_card_visa_chargeDeclined")
    paid = await shop.paid(payment_id="pay_2")
    shop.clock.advance(DAY_SECONDS)
    requests = shop.core.take_webhooks(now=shop.clock.now())
    assert {(request.method, request.url) for request in requests} == {("POST", "/webhooks/stripe")}
    assert shop.core.take_webhooks(now=shop.clock.now()) == []
    news = [await shop.gateway.read_webhook(request.headers, request.body) for request in requests]
    assert [(one.type, one.payment_id) for one in news] == [
        ("payment_intent.payment_failed", "pay_1"),
        ("payment_intent.succeeded", "pay_2"),
    ]
    assert len({one.id for one in news}) == 2
    event = json.loads(requests[1].body)
    # As Stripe's own events do, it holds the client secret; what we keep of it does not.
    assert event["data"]["object"]["client_secret"].startswith(paid.ref)
    assert "_secret_" not in repr(news)
    assert event["created"] == shop.clock.now() // 1_000_000 - DAY_SECONDS
    assert event["request"]["id"].startswith("req_")


async def test_an_event_tells_how_it_was_then(shop: Shop) -> None:
    paid = await shop.paid()
    shop.control("dashboard_refund", ref=paid.ref, amount="500")
    shop.control("dashboard_refund", ref=paid.ref, amount="300")
    requests = shop.core.take_webhooks(now=shop.clock.now())
    objects = [json.loads(request.body)["data"]["object"] for request in requests]
    totals = [item["amount_refunded"] for item in objects if item["object"] == "charge"]
    assert totals == [500, 800]


async def test_the_state_survives_a_restart_with_events_and_what_is_due(shop: Shop) -> None:
    await shop.paid("pm_card_createDispute")
    slow = await shop.paid("pm_usBankAccount_processing")
    later = StripeSandbox("http://127.0.0.1:9000/stripe")
    later.load(shop.core.dump())
    assert later.books() == shop.core.books()
    now = shop.clock.now() + 3 * DAY_SECONDS * 1_000_000
    # Whoever asks first finds the same objects, so a reading that was not saved does no harm.
    shop.core.handle(HttpRequest("GET", "/v1/account"), now=shop.clock.now())
    shop.core.handle(HttpRequest("GET", "/v1/account"), now=now)
    assert [request.body for request in later.take_webhooks(now=now)] == [
        request.body for request in shop.core.take_webhooks(now=now)
    ]
    assert later.books() == shop.core.books()
    assert [entry.kind for entry in later.books()] == ["capture", "fee", "dispute_opened", "capture", "fee"]
    assert json.loads(later.dump())["intents"][slow.ref]["object"]["status"] == "succeeded"


async def test_a_state_of_an_earlier_release_loads(shop: Shop) -> None:
    paid, slow = await shop.paid(), await shop.paid("pm_usBankAccount_processing")
    known = {"counter", "intents", "charges", "keys", "faults"}
    old = {name: value for name, value in json.loads(shop.core.dump()).items() if name in known}
    # It made no charge before the bank had decided.
    old["charges"].pop(old["intents"][slow.ref]["object"]["latest_charge"])
    old["intents"][slow.ref]["object"]["latest_charge"] = None
    shop.core.load(json.dumps(old))
    assert shop.core.books() == ()
    assert shop.core.take_webhooks(now=shop.clock.now()) == []
    await shop.refund(paid, 500)
    shop.control("resolve_processing", ref=slow.ref, outcome="succeeded")
    assert shop.books() == [("refund", -500), ("capture", 1999), ("fee", -55)]


def test_the_same_calls_at_the_same_time_repeat_exactly(clock: ManualClock) -> None:
    twins = [StripeSandbox("http://127.0.0.1:9000/stripe") for _ in range(2)]
    for twin in twins:
        form = (
            b"amount=1999&currency=eur&confirm=true&payment_method=pm_card_createDispute&return_url=https://s.example"
        )
        headers = {"authorization": "Bearer sk_test_sandbox"}
        assert twin.handle(HttpRequest("POST", "/v1/payment_intents", headers, form), now=clock.now()).status == 200
        twin.take_webhooks(now=clock.now() + 2 * DAY_SECONDS * 1_000_000)
    assert twins[0].dump() == twins[1].dump()


@pytest.mark.parametrize(
    ("name", "params", "problem"),
    [
        ("win_the_lottery", {}, "known are"),
        ("dashboard_refund", {}, "missing: ref"),
        ("dashboard_refund", {"ref": "pi_1", "colour": "red"}, "unknown: colour"),
        ("dashboard_refund", {"ref": "pi_of_nobody"}, "no payment intent"),
        ("dashboard_refund", {"ref": "{paid}", "amount": "1.50"}, "whole number"),
        ("dashboard_refund", {"ref": "{paid}", "amount": "2000"}, "greater than"),
        ("dashboard_refund", {"ref": "{paid}", "amount": "0"}, "positive"),
        ("dashboard_refund", {"ref": "{open}"}, "nothing was captured"),
        ("finish_refund", {"refund": "re_of_nobody"}, "no refund"),
        ("fail_refund", {"refund": "{paid}"}, "no refund"),
        ("open_dispute", {"ref": "{open}"}, "nothing was captured"),
        ("open_dispute", {"ref": "{paid}", "amount": "2000"}, "between 1 and 1999"),
        ("open_dispute", {"ref": "{paid}", "inquiry": "perhaps"}, "true or false"),
        ("close_dispute", {"dispute": "du_of_nobody", "outcome": "won"}, "no dispute"),
        ("resolve_processing", {"ref": "{paid}", "outcome": "succeeded"}, "not processing"),
        ("resolve_processing", {"ref": "{paid}", "outcome": "perhaps"}, "succeeded, failed"),
        ("expire_authorization", {"ref": "{paid}"}, "nothing is reserved"),
        ("cancel", {"ref": "{paid}"}, "can't be canceled"),
    ],
)
async def test_controls_refuse_with_clear_words_and_change_nothing(
    shop: Shop, open_intent: Callable[..., Awaitable[str]], name: str, params: dict[str, str], problem: str
) -> None:
    refs = {"paid": (await shop.paid()).ref, "open": await open_intent("key_open")}
    before = shop.core.dump()
    with pytest.raises(ValueError, match=problem):
        shop.control(name, **{key: value.format(**refs) for key, value in params.items()})
    assert shop.core.dump() == before


def test_every_control_explains_itself(core: StripeSandbox) -> None:
    names = [control.name for control in core.controls]
    assert len(set(names)) == len(names)
    assert all(control.summary.endswith(".") for control in core.controls)
    assert all(all(control.params.values()) for control in core.controls)


STEPS = st.tuples(
    st.sampled_from(["refund", "fail", "finish", "pend", "dispute", "inquiry", "close"]), st.integers(0, 2500)
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=12), manual=st.booleans())
async def test_whatever_happens_the_books_and_the_objects_agree(steps: list[tuple[str, int]], manual: bool) -> None:
    clock = ManualClock()
    core = provider.sandbox("http://127.0.0.1:9000")
    assert isinstance(core, StripeSandbox)
    transport = TwinTransport(core, clock)
    gateway = provider.configure(provider.sandbox_environment("http://127.0.0.1:9000"), transport, clock)
    assert gateway is not None
    method = CaptureMethod.MANUAL if manual else CaptureMethod.AUTOMATIC
    request = CreateRequest("pay_1", "ord_1", "1", Money(1999, "EUR"), RETURN_URL, RETURN_URL, "k", method)
    ref = (await gateway.create(request)).snapshot.ref
    await gateway.confirm_as_test_buyer(ref, payment_method="pm_card_visa", return_url=RETURN_URL)
    if manual:
        await gateway.capture(ref, idempotency_key="c", amount=Money(1500, "EUR"))
    seen = await gateway.fetch(ref, details=True)
    for number, step in enumerate(steps):
        await _step(gateway, transport, seen, step, f"r{number}")
        seen = await gateway.fetch(ref, details=True)
        _check_books(core, seen)


async def _step(
    gateway: StripeGateway, transport: TwinTransport, seen: Snapshot, doing: tuple[str, int], key: str
) -> None:
    (step, size), ref = doing, seen.ref
    refunds, disputes = seen.refunds or (), seen.disputes or ()
    refund = refunds[size % len(refunds)].ref if refunds else "re_none"
    dispute = disputes[size % len(disputes)].ref if disputes else "du_none"
    controls = {
        "fail": ("fail_refund", {"refund": refund}),
        "finish": ("finish_refund", {"refund": refund}),
        "pend": ("pend_next_refund", {}),
        "dispute": ("open_dispute", {"ref": ref}),
        "inquiry": ("open_dispute", {"ref": ref, "inquiry": "true", "amount": str(size)}),
        "close": ("close_dispute", {"dispute": dispute, "outcome": "won" if size % 2 else "lost"}),
    }
    try:
        if step == "refund":
            amount = Money(size + 1, "EUR")
            await gateway.refund(ref, "", idempotency_key=key, amount=amount, refund_id=key)
        else:
            name, params = controls[step]
            transport.core.control(name, params, now=transport.clock.now())
    except (GatewayRefused, ValueError):
        pass  # A clear no changes nothing, which the books have to show.


def _check_books(core: StripeSandbox, seen: Snapshot) -> None:
    assert seen.captured is not None
    assert seen.refunds is not None
    assert seen.disputes is not None
    assert seen.fee is not None
    back = sum(one.amount.minor for one in seen.refunds if one.progress is RefundProgress.SUCCEEDED)
    held = sum(one.amount.minor for one in seen.refunds if one.progress is not RefundProgress.FAILED)
    taken = sum(one.amount.minor for one in seen.disputes if one.withdrawn)
    assert held <= seen.captured.minor
    assert sum(entry.minor for entry in core.books()) == seen.captured.minor - seen.fee.minor - back - taken
