"""Refunds and disputes as PayPal tells them, whoever made them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from paidonce.errors import GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import DisputeProgress, HttpResponse, Progress, RefundProgress, Snapshot
from paidonce.gateways.paypal import disputes, provider, wire
from paidonce.gateways.paypal.sandbox import PayPalSandbox
from paidonce.money import Money, MoneyError
from support.paypal import HOME, Line, Shop

if TYPE_CHECKING:
    from paidonce.gateways.base import RefundSnapshot

EUR_1999 = Money(1999, "EUR")
EUR_500 = Money(500, "EUR")


async def paid(shop: Shop) -> Snapshot:
    """A captured order."""
    ref = await shop.approved()
    return await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)


async def refund(shop: Shop, order: Snapshot, amount: Money = EUR_500, *, number: int = 1) -> RefundSnapshot:
    """A refund as the core makes it."""
    assert order.capture_ref is not None
    return await shop.gateway.refund(
        order.ref, order.capture_ref, idempotency_key=f"refund-{number}", amount=amount, refund_id=f"ref_{number}"
    )


def control(shop: Shop, name: str, **params: str) -> dict[str, str]:
    """Let something happen at the twin."""
    return dict(shop.twin.control(name, params, now=shop.clock.now()))


async def details(shop: Shop, order: Snapshot) -> Snapshot:
    """The whole story."""
    return await shop.gateway.fetch(order.ref, details=True)


# --- Refunds ---------------------------------------------------------------------------------------------------------


async def test_a_refund_is_found_again_under_our_id(shop: Shop) -> None:
    order = await paid(shop)

    made = await refund(shop, order)
    found = await details(shop, order)

    assert (made.progress, made.amount, made.refund_id) == (RefundProgress.SUCCEEDED, EUR_500, "ref_1")
    assert found.refunds is not None
    assert [replace(one, request_id=made.request_id) for one in found.refunds] == [made]
    assert (found.progress, found.captured) == (Progress.CAPTURED, EUR_1999)
    assert found.raw_status == "COMPLETED/PARTIALLY_REFUNDED"
    assert found.disputes == ()
    sent = json.loads(next(one.body for one in shop.line.sent if one.url.endswith("/refund")))
    assert sent == {"amount": {"currency_code": "EUR", "value": "5.00"}, "custom_id": "ref_1"}


async def test_without_details_nothing_more_is_asked(shop: Shop) -> None:
    order = await paid(shop)
    await refund(shop, order)
    before = len(shop.line.sent)

    found = await shop.gateway.fetch(order.ref)

    assert (found.refunds, found.disputes) == (None, None)
    assert len(shop.line.sent) == before + 1
    assert found.fee == Money(85, "EUR")


async def test_a_repeated_refund_gives_the_money_back_once(shop: Shop) -> None:
    order = await paid(shop)
    shop.fail("/refund", OutcomeUnknown("lost"), reached=True)

    first = await refund(shop, order)
    again = await refund(shop, order)

    assert first.ref == again.ref
    assert [entry.minor for entry in shop.twin.books() if entry.kind == "refund"] == [-500]
    assert shop.line.count("/refund") == 3


async def test_a_refunds_key_lives_for_weeks_and_not_for_ever(shop: Shop) -> None:
    order = await paid(shop)
    await refund(shop, order)
    life = shop.gateway.refund_key_life_seconds
    assert 44 * 24 * 3600 < life < 45 * 24 * 3600

    shop.clock.pass_seconds(life)
    await refund(shop, order)
    assert sum(entry.kind == "refund" for entry in shop.twin.books()) == 1
    shop.clock.pass_seconds(2 * 24 * 3600)
    await refund(shop, order)
    assert sum(entry.kind == "refund" for entry in shop.twin.books()) == 2


async def test_a_refund_with_a_short_answer_is_read(shop: Shop) -> None:
    order = await paid(shop)
    made = await refund(shop, order)
    short = json.dumps({"id": made.ref, "status": "COMPLETED", "links": []}).encode()
    shop.fail("/refund", HttpResponse(201, {}, short))

    again = await refund(shop, order)

    assert replace(again, request_id=made.request_id) == made
    assert shop.line.sent[-1].url.endswith(f"/v2/payments/refunds/{made.ref}")


async def test_a_refund_without_even_an_id_is_unknown(shop: Shop) -> None:
    order = await paid(shop)
    shop.fail("/refund", HttpResponse(201, {}, b"{}"), reached=True)

    with pytest.raises(OutcomeUnknown):
        await refund(shop, order)

    found = await details(shop, order)
    assert found.refunds is not None
    assert [one.refund_id for one in found.refunds] == ["ref_1"]


async def test_several_refunds_and_then_no_more(shop: Shop) -> None:
    order = await paid(shop)
    await refund(shop, order)
    await refund(shop, order, Money(1499, "EUR"), number=2)

    with pytest.raises(GatewayRefused) as caught:
        await refund(shop, order, Money(1, "EUR"), number=3)

    assert caught.value.code == "capture_fully_refunded"
    found = await details(shop, order)
    assert found.refunds is not None
    assert [(one.refund_id, one.amount.minor) for one in found.refunds] == [("ref_1", 500), ("ref_2", 1499)]
    assert (found.progress, found.captured) == (Progress.CAPTURED, EUR_1999)


async def test_more_than_is_left_is_refused(shop: Shop) -> None:
    order = await paid(shop)

    with pytest.raises(GatewayRefused) as caught:
        await refund(shop, order, Money(2000, "EUR"))

    assert caught.value.code == "refund_amount_exceeded"
    assert not any(entry.kind == "refund" for entry in shop.twin.books())


@pytest.mark.parametrize("amount", [Money(0, "EUR"), Money(-5, "EUR"), Money(1_234_567, "HUF")])
async def test_amounts_that_do_not_fit_never_leave(shop: Shop, amount: Money) -> None:
    order = await paid(shop)

    with pytest.raises(MoneyError):
        await refund(shop, order, amount)

    assert shop.line.count("/refund") == 0


async def test_a_pending_capture_cannot_be_refunded(shop: Shop) -> None:
    ref = await shop.approved(funding="pending")
    order = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    with pytest.raises(GatewayRefused) as caught:
        await refund(shop, order)

    assert caught.value.code == "pending_capture"


async def test_half_a_year_later_no_refund_is_made(shop: Shop) -> None:
    order = await paid(shop)
    shop.clock.pass_seconds(180 * 24 * 3600)

    with pytest.raises(GatewayRefused) as caught:
        await refund(shop, order)

    assert caught.value.code == "refund_time_limit_exceeded"


@pytest.mark.parametrize("issue", ["REFUND_NOT_ALLOWED", "REFUND_FAILED_INSUFFICIENT_FUNDS", "A_NEW_REASON"])
async def test_every_other_no_is_a_refusal(shop: Shop, issue: str) -> None:
    order = await paid(shop)
    shop.refuse("/refund", issue)

    with pytest.raises(GatewayRefused) as caught:
        await refund(shop, order)

    assert caught.value.code == issue.lower()
    assert (await details(shop, order)).refunds == ()


@pytest.mark.parametrize(
    ("status", "progress"), [("COMPLETED", RefundProgress.SUCCEEDED), ("FAILED", RefundProgress.FAILED)]
)
async def test_a_pending_refund_ends_later(shop: Shop, status: str, progress: RefundProgress) -> None:
    order = await paid(shop)
    control(shop, "pend_refunds", on="true")

    made = await refund(shop, order)

    assert (made.progress, made.raw_status) == (RefundProgress.PENDING, "PENDING")
    assert not any(entry.kind == "refund" for entry in shop.twin.books())
    control(shop, "finish_refund", refund=made.ref, status=status)
    found = await details(shop, order)
    assert found.refunds is not None
    assert [one.progress for one in found.refunds] == [progress]
    assert sum(entry.minor for entry in shop.twin.books() if entry.kind == "refund") == (
        -500 if status == "COMPLETED" else 0
    )


async def test_a_refund_that_fails_afterwards_gives_its_amount_free(shop: Shop) -> None:
    order = await paid(shop)
    made = await refund(shop, order, EUR_1999)
    control(shop, "fail_refund", refund=made.ref)

    found = await details(shop, order)

    assert found.refunds is not None
    assert [(one.progress, one.failure_reason) for one in found.refunds] == [(RefundProgress.FAILED, "ECHECK")]
    assert [(entry.kind, entry.minor) for entry in shop.twin.books()][-2:] == [
        ("refund", -1999),
        ("refund_failed", 1999),
    ]
    assert (await refund(shop, order, EUR_1999, number=2)).progress is RefundProgress.SUCCEEDED


async def test_a_refund_at_the_dashboard_is_not_taken_for_ours(shop: Shop) -> None:
    """PayPal repeats the payment's own custom_id on it, which is no refund of ours."""
    order = await paid(shop)
    told = control(shop, "dashboard_refund", order=order.ref, amount="3.00")

    found = await details(shop, order)

    assert found.refunds is not None
    assert [(one.ref, one.refund_id, one.amount) for one in found.refunds] == [
        (told["refund"], None, Money(300, "EUR"))
    ]


async def test_a_refund_that_the_order_tells_without_our_id_is_read_by_itself(shop: Shop) -> None:
    order = await paid(shop)
    made = await refund(shop, order)
    whole = shop.line.deliver(
        replace(shop.line.sent[-1], method="GET", url=f"{HOME}/paypal/v2/checkout/orders/{order.ref}")
    )
    body = json.loads(whole.body)
    del body["purchase_units"][0]["payments"]["refunds"][0]["custom_id"]
    shop.fail(f"/orders/{order.ref}", HttpResponse(200, {}, json.dumps(body).encode()))

    found = await details(shop, order)

    assert found.refunds is not None
    assert [(one.ref, one.refund_id) for one in found.refunds] == [(made.ref, "ref_1")]
    assert shop.line.count(f"/v2/payments/refunds/{made.ref}") == 1


async def test_refunds_that_an_order_does_not_list_are_unknown_and_not_none(shop: Shop) -> None:
    order = await paid(shop)
    await refund(shop, order)
    whole = shop.line.deliver(
        replace(shop.line.sent[-1], method="GET", url=f"{HOME}/paypal/v2/checkout/orders/{order.ref}")
    )
    body = json.loads(whole.body)
    del body["purchase_units"][0]["payments"]["refunds"]
    shop.fail(f"/orders/{order.ref}", HttpResponse(200, {}, json.dumps(body).encode()))

    assert (await details(shop, order)).refunds is None


async def test_a_capture_ref_cannot_walk_to_another_resource(shop: Shop) -> None:
    order = replace(await paid(shop), capture_ref="../orders/X?y=")
    shop.refuse("/refund", "INVALID_RESOURCE_ID", 404)

    with pytest.raises(Exception, match="does not know"):
        await refund(shop, order)

    assert "/captures/..%2Forders%2FX%3Fy%3D/refund" in shop.line.sent[-1].url


# --- Disputes --------------------------------------------------------------------------------------------------------


async def test_an_unpaid_order_has_neither_refunds_nor_disputes(shop: Shop) -> None:
    ref = await shop.approved()

    found = await shop.gateway.fetch(ref, details=True)

    assert (found.refunds, found.disputes) == ((), ())
    assert not any("disputes" in one.url for one in shop.line.sent)


@pytest.mark.parametrize(("outcome", "progress"), [("won", DisputeProgress.WON), ("lost", DisputeProgress.LOST)])
async def test_a_disputes_life(shop: Shop, outcome: str, progress: DisputeProgress) -> None:
    order = await paid(shop)
    told = control(shop, "open_dispute", order=order.ref, amount="7.00", stage="INQUIRY")

    async def seen() -> tuple[DisputeProgress, bool, Money]:
        found = (await details(shop, order)).disputes
        assert found is not None
        assert [one.ref for one in found] == [told["dispute"]]
        assert found[0].reason == "MERCHANDISE_OR_SERVICE_NOT_RECEIVED"
        return found[0].progress, found[0].withdrawn, found[0].amount

    amount = Money(700, "EUR")
    assert await seen() == (DisputeProgress.OPEN, False, amount)
    with pytest.raises(GatewayRefused) as caught:
        await refund(shop, order)
    assert caught.value.code == "transaction_disputed"
    control(shop, "escalate_dispute", dispute=told["dispute"])
    assert await seen() == (DisputeProgress.OPEN, True, amount)
    control(shop, "close_dispute", dispute=told["dispute"], outcome=outcome)
    assert await seen() == (progress, outcome == "lost", amount)
    assert (await details(shop, order)).refunds == (), "a lost dispute is no refund"
    balance = sum(entry.minor for entry in shop.twin.books() if entry.object == told["dispute"])
    assert balance == (-700 if outcome == "lost" else 0)


async def test_many_disputes_are_read_page_by_page_oldest_first(shop: Shop) -> None:
    order = await paid(shop)
    told = []
    for _ in range(disputes.PAGE_SIZE + 3):
        told.append(control(shop, "open_dispute", order=order.ref, amount="0.01")["dispute"])
        control(shop, "close_dispute", dispute=told[-1], outcome="won")

    found = (await details(shop, order)).disputes

    assert found is not None
    assert [one.ref for one in found] == told
    pages = [one.url for one in shop.line.sent if "/v1/customer/disputes?" in one.url]
    assert len(pages) == 2
    assert all(url.startswith(HOME + "/paypal/v1/customer/disputes?") for url in pages)


async def test_another_payments_disputes_are_not_this_ones(shop: Shop) -> None:
    order = await paid(shop)
    other = (await shop.gateway.create(shop.request(key="create-2"))).snapshot.ref
    shop.twin.approve(other, now=shop.clock.now())
    await shop.gateway.capture(other, idempotency_key="capture-2", amount=EUR_1999)
    control(shop, "open_dispute", order=other)

    assert (await details(shop, order)).disputes == ()


async def test_an_app_that_may_not_read_disputes_still_pays(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    twin = PayPalSandbox(HOME + "/paypal", disputes_permitted=False)
    line = Line(twin, shop.clock)
    gateway = provider.configure(provider.sandbox_environment(HOME), line, shop.clock)
    assert gateway is not None
    shop = Shop(gateway, line, twin, shop.clock)
    order = await paid(shop)
    await refund(shop, order)

    with capture_logs() as lines:
        found = [await details(shop, order) for _ in range(3)]

    assert [one.disputes for one in found] == [None, None, None]
    assert all(one.refunds is not None and len(one.refunds) == 1 for one in found)
    warnings = [line for line in lines if line["event"] == "disputes_not_permitted"]
    assert len(warnings) == 1, "the operator hears of it once"
    assert "developer.paypal.com" in warnings[0]["fix"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"items": 7}',
        b'{"items": [7]}',
        b'{"items": [{}]}',
        b'{"items": [{"dispute_id": "../x", "status": "OPEN"}]}',
        b'{"items": [], "links": [{"rel": "next", "href": "https://evil.example/"}]}',
        b'{"items": [], "links": [{"rel": "next", "href": "https://[broken"}]}',
        b'{"items": [], "links": [{"rel": "next", "href": "?next_page_token=a&next_page_token=b"}]}',
    ],
)
async def test_a_list_that_cannot_be_read_is_not_an_empty_list(shop: Shop, body: bytes) -> None:
    order = await paid(shop)
    shop.fail(f"disputed_transaction_id={order.capture_ref}&page_size=50", HttpResponse(200, {}, body))

    with pytest.raises(OutcomeUnknown):
        await details(shop, order)

    assert all(one.url.startswith(HOME) for one in shop.line.sent)


async def test_a_list_without_an_end_is_given_up(shop: Shop) -> None:
    order = await paid(shop)
    endless = json.dumps({"items": [], "links": [{"rel": "next", "href": "/x?next_page_token=AAAA"}]}).encode()
    for _ in range(50):
        shop.fail("page_size=50", HttpResponse(200, {}, endless))
        shop.fail("next_page_token=AAAA", HttpResponse(200, {}, endless))

    with pytest.raises(OutcomeUnknown):
        await details(shop, order)

    assert sum("/disputes" in one.url for one in shop.line.sent) <= 20


def dispute(
    status: str, outcome: str | None = None, *, stage: str | None = "CHARGEBACK", **more: Any
) -> dict[str, Any]:
    """A dispute as Customer Disputes v1 describes it."""
    told: dict[str, Any] = {
        "dispute_id": "PP-D-12345",
        "status": status,
        "reason": "UNAUTHORISED",
        "dispute_amount": {"currency_code": "EUR", "value": "19.99"},
        **more,
    }
    if stage is not None:
        told["dispute_life_cycle_stage"] = stage
    if outcome is not None:
        told["dispute_outcome"] = {"outcome_code": outcome}
    return told


@pytest.mark.parametrize(
    ("status", "outcome", "progress"),
    [
        ("OPEN", None, DisputeProgress.OPEN),
        ("WAITING_FOR_BUYER_RESPONSE", None, DisputeProgress.OPEN),
        ("WAITING_FOR_SELLER_RESPONSE", None, DisputeProgress.OPEN),
        ("UNDER_REVIEW", None, DisputeProgress.OPEN),
        ("APPEALABLE", None, DisputeProgress.OPEN),
        ("A_NEW_WORD", None, DisputeProgress.OPEN),
        ("OPEN", "RESOLVED_BUYER_FAVOUR", DisputeProgress.OPEN),
        ("RESOLVED", None, DisputeProgress.OPEN),
        ("RESOLVED", "A_NEW_OUTCOME", DisputeProgress.OPEN),
        ("RESOLVED", "RESOLVED_BUYER_FAVOUR", DisputeProgress.LOST),
        ("RESOLVED", "ACCEPTED", DisputeProgress.LOST),
        ("RESOLVED", "RESOLVED_SELLER_FAVOUR", DisputeProgress.WON),
        ("RESOLVED", "RESOLVED_WITH_PAYOUT", DisputeProgress.WON),
        ("RESOLVED", "CANCELED_BY_BUYER", DisputeProgress.WON),
        ("RESOLVED", "DENIED", DisputeProgress.WON),
        ("RESOLVED", "NONE", DisputeProgress.WON),
    ],
)
def test_words_for_disputes(status: str, outcome: str | None, progress: DisputeProgress) -> None:
    snapshot = disputes.snapshot(dispute(status, outcome))

    assert snapshot.progress is progress
    assert snapshot.withdrawn == (progress is not DisputeProgress.WON)
    assert snapshot.raw_status == "/".join([status, *([outcome] if outcome else [])])


@pytest.mark.parametrize(
    ("stage", "withdrawn"),
    [("INQUIRY", False), (None, False), ("CHARGEBACK", True), ("ARBITRATION", True), ("NEW", True)],
)
def test_money_is_withdrawn_after_the_inquiry(stage: str | None, withdrawn: bool) -> None:
    assert disputes.snapshot(dispute("OPEN", stage=stage)).withdrawn is withdrawn


def test_a_lost_dispute_costs_what_was_refunded() -> None:
    told = dispute("RESOLVED", "RESOLVED_BUYER_FAVOUR")
    told["dispute_outcome"]["amount_refunded"] = {"currency_code": "EUR", "value": "5.00"}

    assert disputes.snapshot(told).amount == EUR_500
    told["dispute_outcome"]["outcome_code"] = "RESOLVED_SELLER_FAVOUR"
    assert disputes.snapshot(told).amount == EUR_1999


@pytest.mark.parametrize(
    "broken", [{}, {"dispute_id": "x y"}, {**dispute("OPEN"), "status": None}, {**dispute("OPEN"), "dispute_amount": 7}]
)
def test_a_dispute_without_what_booking_needs_is_unreadable(broken: dict[str, Any]) -> None:
    with pytest.raises(wire.Unreadable):
        disputes.snapshot(broken)


_ODD: st.SearchStrategy[Any] = st.sampled_from([None, 7, True, "", "x y", "OPEN", "RESOLVED", [], {}, [{}], {"a": []}])
_NAMES = ("dispute_id", "status", "reason", "dispute_amount", "dispute_life_cycle_stage", "dispute_outcome")


@given(st.dictionaries(st.sampled_from(_NAMES), _ODD), st.dictionaries(st.sampled_from(("outcome_code",)), _ODD))
def test_a_mutated_dispute_is_read_or_unreadable(changes: dict[str, Any], outcome: dict[str, Any]) -> None:
    try:
        snapshot = disputes.snapshot({**dispute("RESOLVED", "ACCEPTED"), "dispute_outcome": outcome, **changes})
    except wire.Unreadable:
        return
    assert snapshot.amount == EUR_1999
    assert snapshot.progress in (DisputeProgress.OPEN, DisputeProgress.LOST)


@given(st.dictionaries(st.sampled_from(("items", "links")), _ODD | st.lists(st.dictionaries(st.text(), _ODD))))
def test_a_mutated_list_is_read_or_unreadable(listed: dict[str, Any]) -> None:
    try:
        found, token = disputes.page(listed)
    except wire.Unreadable:
        return
    assert all(isinstance(one, dict) for one in found)
    assert token is None
