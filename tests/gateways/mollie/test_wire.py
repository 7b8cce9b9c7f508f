"""Mollie's words and ours: amounts, states, declines, lists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paidonce.gateways.base import CaptureMethod, CreateRequest, DeclineCode, DisputeProgress, Progress, RefundProgress
from paidonce.gateways.mollie import wire
from paidonce.money import Money, MoneyError
from paidonce.ports import SECOND

REQUEST = CreateRequest(
    payment_id="pay_1",
    order_id="ord_1",
    order_number="P-1001",
    amount=Money(1999, "EUR"),
    return_url="https://shop.example/orders/ord_1/return?payment=pay_1",
    cancel_url="https://shop.example/orders/ord_1/pay",
    idempotency_key="key_1",
)


def payment(**changes: Any) -> dict[str, Any]:
    """A payment as Mollie shows it."""
    return {
        "resource": "payment",
        "id": "tr_5B8cwPMGnU6qLbRvo7qEZo",
        "mode": "test",
        "amount": {"currency": "EUR", "value": "19.99"},
        "metadata": {"payment_id": "pay_1", "order_id": "ord_1"},
        "status": "open",
        "profileId": "pfl_QkEhN94Ba",
        "_links": {"checkout": {"href": "https://www.mollie.com/checkout/select-method/5B8cwPMGnU"}},
    } | changes


@pytest.mark.parametrize(
    ("amount", "value"),
    [
        (Money(1000, "EUR"), "10.00"),
        (Money(1, "USD"), "0.01"),
        (Money(1000, "JPY"), "1000"),
        (Money(2000, "ISK"), "2000"),
        (Money(123_450, "HUF"), "1234.50"),
        (Money(5, "TWD"), "0.05"),
    ],
)
def test_amounts_have_exactly_their_currencys_decimals(amount: Money, value: str) -> None:
    told = wire.money_to_wire(amount)
    assert told == {"currency": amount.currency, "value": value}
    assert wire.money_from_wire(told) == amount


@pytest.mark.parametrize("currency", ["KWD", "CNY", "HRK", "XTS"])
def test_currencies_that_mollie_does_not_take_are_refused(currency: str) -> None:
    with pytest.raises(MoneyError, match="Mollie does not take"):
        wire.check_amount(Money(1000, currency))


@pytest.mark.parametrize(
    "amount", [None, {}, {"currency": "EUR", "value": 10}, {"currency": "EUR", "value": "1e3"}, {"value": "1.00"}, "5"]
)
def test_an_amount_that_cannot_be_read_is_no_amount(amount: Any) -> None:
    with pytest.raises(wire.Unreadable):
        wire.snapshot(payment(amount=amount))


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ("open", Progress.AWAITING_BUYER),
        ("pending", Progress.PROCESSING),
        ("authorized", Progress.AUTHORIZED),
        ("paid", Progress.CAPTURED),
        ("canceled", Progress.CANCELED),
        ("expired", Progress.CANCELED),
        ("failed", Progress.FAILED),
        ("a_new_word", Progress.PROCESSING),
    ],
)
def test_states(status: str, progress: Progress) -> None:
    snapshot = wire.snapshot(payment(status=status))
    assert snapshot.progress is progress
    assert (snapshot.captured is not None) is (progress is Progress.CAPTURED)
    assert (snapshot.decline is not None) is (progress is Progress.FAILED)
    assert (snapshot.payment_id, snapshot.order_id, snapshot.account, snapshot.live) == (
        *("pay_1", "ord_1", "pfl_QkEhN94Ba"),
        False,
    )


def test_a_bank_transfer_is_awaited_until_it_expires_and_is_not_paid() -> None:
    snapshot = wire.snapshot(payment(method="banktransfer", expiresAt="2026-12-12T10:00:00+00:00"))
    assert (snapshot.progress, snapshot.captured) == (Progress.AWAITING_BUYER, None)
    assert snapshot.awaited_until == 1_797_069_600 * SECOND
    assert snapshot.pending_reason == "bank transfer"
    for nonsense in ("soon", "2026-12-12T10:00:00", ""):
        with pytest.raises(wire.Unreadable):
            wire.snapshot(payment(method="banktransfer", expiresAt=nonsense))


def test_of_a_capture_by_hand_only_what_mollie_says_counts() -> None:
    manual = {"captureMode": "manual", "status": "paid"}
    part = wire.snapshot(payment(**manual, amountCaptured={"currency": "EUR", "value": "5.00"}))
    assert (part.captured, part.amount) == (Money(500, "EUR"), Money(1999, "EUR"))
    with pytest.raises(wire.Unreadable):
        wire.snapshot(payment(**manual))
    nothing = {"currency": "EUR", "value": "0.00"}
    reserved = wire.snapshot(payment(captureMode="manual", status="authorized", amountCaptured=nothing))
    assert (reserved.progress, reserved.captured) == (Progress.AUTHORIZED, None)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("insufficient_funds", DeclineCode.INSUFFICIENT_FUNDS),
        ("card_expired", DeclineCode.CARD_EXPIRED),
        ("invalid_cvv", DeclineCode.WRONG_CVC),
        ("invalid_card_number", DeclineCode.WRONG_NUMBER),
        ("authentication_abandoned", DeclineCode.AUTHENTICATION_FAILED),
        # The buyer hears no more than his bank would tell.
        ("possible_fraud", DeclineCode.CARD_DECLINED),
        ("a_new_reason", DeclineCode.CARD_DECLINED),
    ],
)
def test_declines_are_final_and_keep_mollies_own_code(reason: str, code: DeclineCode) -> None:
    failed = payment(status="failed", method="creditcard", details={"failureReason": reason})
    decline = wire.snapshot(failed).decline
    assert decline is not None
    assert (decline.code, decline.recoverable, decline.raw_code) == (code, False, reason)


def test_a_failure_without_a_reason_is_a_refusal() -> None:
    decline = wire.snapshot(payment(status="failed", method="ideal")).decline
    assert decline is not None
    assert (decline.code, decline.raw_code) == (DeclineCode.REFUSED, "failed")


@pytest.mark.parametrize("changes", [{"id": "ord_1"}, {"id": None}, {"status": None}, {"mode": "canary"}])
def test_what_lacks_its_essentials_is_unreadable(changes: dict[str, Any]) -> None:
    with pytest.raises(wire.Unreadable):
        wire.snapshot(payment(**changes))


def test_ids_that_are_not_text_are_not_compared() -> None:
    snapshot = wire.snapshot(payment(metadata="pay_1", profileId=7))
    assert (snapshot.payment_id, snapshot.order_id, snapshot.account) == (None, None, None)


@pytest.mark.parametrize(
    ("href", "fine"),
    [
        ("https://www.mollie.com/checkout/x", True),
        ("http://www.mollie.com/checkout/x", False),
        ("http://127.0.0.1:9000/mollie/checkout/x", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        (7, False),
    ],
)
def test_no_browser_is_sent_to_an_odd_address(href: Any, fine: bool) -> None:
    asked = payment(_links={"checkout": {"href": href}})
    if fine:
        assert wire.checkout_url(asked, loopback=False) == href
    else:
        with pytest.raises(wire.Unreadable):
            wire.checkout_url(asked, loopback=False)


def test_the_request_names_our_ids_and_a_webhook_that_mollie_can_reach() -> None:
    body = wire.payment_request(REQUEST, webhooks_reach_loopback=False)
    assert body["metadata"] == {"payment_id": "pay_1", "order_id": "ord_1"}
    assert body["webhookUrl"] == "https://shop.example/webhooks/mollie"
    assert "captureMode" not in body
    assert "method" not in body


@pytest.mark.parametrize(
    ("origin", "beside_us", "given"),
    [
        ("http://shop.example", False, False),
        ("http://127.0.0.1:8000", False, False),
        ("https://localhost:8000", False, False),
        ("http://127.0.0.1:8000", True, True),
        ("http://shop.example", True, False),
    ],
)
def test_an_address_that_mollie_cannot_reach_is_left_out(origin: str, beside_us: bool, given: bool) -> None:
    request = CreateRequest("pay_1", "ord_1", "P-1", Money(1, "EUR"), f"{origin}/return", f"{origin}/pay", "key")
    body = wire.payment_request(request, webhooks_reach_loopback=beside_us)
    assert body.get("webhookUrl") == (f"{origin}/webhooks/mollie" if given else None)


def test_capturing_by_hand_is_asked_for_cards_only() -> None:
    body = wire.payment_request(replace(REQUEST, capture_method=CaptureMethod.MANUAL), webhooks_reach_loopback=False)
    assert (body["captureMode"], body["method"]) == ("manual", "creditcard")


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ("queued", RefundProgress.PENDING),
        ("pending", RefundProgress.PENDING),
        ("processing", RefundProgress.PENDING),
        ("refunded", RefundProgress.SUCCEEDED),
        ("failed", RefundProgress.FAILED),
        ("canceled", RefundProgress.FAILED),
        ("a_new_word", RefundProgress.PENDING),
    ],
)
def test_refunds(status: str, progress: RefundProgress) -> None:
    told = {"id": "re_1", "status": status, "amount": {"currency": "EUR", "value": "5.00"}}
    mine = wire.refund({**told, "metadata": {"refund_id": "ref_1"}})
    assert (mine.progress, mine.amount, mine.refund_id) == (progress, Money(500, "EUR"), "ref_1")
    others: tuple[Any, ...] = (None, [], {}, "ref_1", {"refund_id": 7})
    for other in others:
        assert wire.refund({**told, "metadata": other}).refund_id is None


def test_a_chargeback_is_lost_until_it_is_reversed() -> None:
    told = {"id": "chb_1", "amount": {"currency": "EUR", "value": "5.00"}, "reason": {"code": "AC01"}}
    lost = wire.chargeback(told)
    assert (lost.progress, lost.withdrawn, lost.reason) == (DisputeProgress.LOST, True, "AC01")
    won = wire.chargeback({**told, "reversedAt": "2026-12-01T10:00:00+00:00"})
    assert (won.progress, won.amount) == (DisputeProgress.WON, Money(500, "EUR"))
    assert wire.chargeback({**told, "reversedAt": None}).progress is DisputeProgress.LOST


def test_a_list_goes_on_where_it_says_and_never_at_another_host() -> None:
    page = {"_embedded": {"refunds": [{"id": "re_2"}]}, "_links": {"next": None}}
    assert wire.page(page, "refunds") == ([{"id": "re_2"}], None)
    elsewhere = "https://evil.example/v2/payments/tr_1/refunds?from=re_1&limit=50"
    assert wire.page({**page, "_links": {"next": {"href": elsewhere}}}, "refunds")[1] == "re_1"
    for link in ({}, {"href": 7}, {"href": "https://api.mollie.com/v2/x"}):
        with pytest.raises(wire.Unreadable):
            wire.page({**page, "_links": {"next": link}}, "refunds")


@pytest.mark.parametrize(
    "body", [{}, {"_embedded": {}}, {"_embedded": {"refunds": {}}}, {"_embedded": {"refunds": [7]}}]
)
def test_a_list_with_a_hole_is_no_list(body: dict[str, Any]) -> None:
    with pytest.raises(wire.Unreadable):
        wire.page(body, "refunds")


def test_webhooks_go_to_the_shop_and_not_to_the_front_end_that_the_buyer_comes_back_to() -> None:
    there = "https://shop.example/webhooks/mollie"
    front_end = replace(REQUEST, return_url="https://front-end.example/paid", webhook_url=there)
    assert wire.payment_request(front_end, webhooks_reach_loopback=False)["webhookUrl"] == there
    unreachable = replace(front_end, webhook_url="http://127.0.0.1:8000/webhooks/mollie")
    assert "webhookUrl" not in wire.payment_request(unreachable, webhooks_reach_loopback=False)
