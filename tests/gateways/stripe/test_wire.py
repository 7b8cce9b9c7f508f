"""The pure mapping: amounts, statuses, declines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paidonce.gateways.base import CaptureMethod, CreateRequest, DeclineCode, DisputeProgress, Progress, RefundProgress
from paidonce.gateways.stripe import wire
from paidonce.money import Money, MoneyError

INTENT: dict[str, Any] = {
    "id": "pi_1",
    "object": "payment_intent",
    "amount": 1999,
    "amount_received": 0,
    "currency": "eur",
    "livemode": False,
    "metadata": {"payment_id": "pay_1", "order_id": "ord_1", "order_number": "1001"},
    "status": "requires_payment_method",
    "latest_charge": None,
    "last_payment_error": None,
}


def read(**changes: Any) -> Any:
    return wire.snapshot({**INTENT, **changes}, account="acct_1", request_id="req_1")


@pytest.mark.parametrize(
    ("minor", "currency", "units"),
    [
        (1999, "EUR", 1999),
        (50, "USD", 50),
        (500, "JPY", 500),
        (500, "KRW", 500),
        (123400, "HUF", 123400),
        (123450, "TWD", 123450),
        (1230, "KWD", 1230),
        (12340, "BHD", 12340),
        (500, "UGX", 50000),
        (500, "ISK", 50000),
        (500000, "MGA", 5000),
    ],
)
def test_amounts_go_there_and_back(minor: int, currency: str, units: int) -> None:
    assert wire.to_stripe(Money(minor, currency)) == units
    assert wire.from_stripe(units, currency.lower()) == Money(minor, currency)


@pytest.mark.parametrize("currency", "BIF CLP DJF GNF JPY KMF KRW PYG RWF VND VUV XAF XOF XPF".split())  # noqa: SIM905
def test_zero_decimal_currencies_are_never_multiplied(currency: str) -> None:
    assert wire.to_stripe(Money(1001, currency)) == 1001


@pytest.mark.parametrize(
    ("minor", "currency"),
    [(1234, "KWD"), (1001, "BHD"), (1, "TND"), (150, "MGA"), (0, "EUR"), (-1, "EUR"), (1000, "IQD"), (1000, "LYD")],
)
def test_amounts_that_stripe_cannot_express_are_refused(minor: int, currency: str) -> None:
    with pytest.raises(MoneyError):
        wire.to_stripe(Money(minor, currency))


@pytest.mark.parametrize(
    ("units", "currency"),
    [
        (150, "isk"),
        (1.5, "eur"),
        ("1999", "eur"),
        (True, "eur"),
        (None, "eur"),
        (1999, None),
        (1999, "euro"),
        (10**15, "eur"),
    ],
)
def test_unreadable_amounts_are_never_guessed(units: object, currency: object) -> None:
    with pytest.raises(wire.WireError):
        wire.from_stripe(units, currency)


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ("requires_payment_method", Progress.AWAITING_BUYER),
        ("requires_confirmation", Progress.AWAITING_BUYER),
        ("requires_action", Progress.AWAITING_BUYER),
        ("processing", Progress.PROCESSING),
        ("requires_capture", Progress.AUTHORIZED),
        ("canceled", Progress.CANCELED),
        ("a_word_of_next_year", Progress.PROCESSING),
    ],
)
def test_statuses_other_than_succeeded_move_no_money(status: str, progress: Progress) -> None:
    snapshot = read(status=status, amount_received=1999, latest_charge="ch_1")
    assert (snapshot.progress, snapshot.raw_status) == (progress, status)
    assert (snapshot.captured, snapshot.capture_ref) == (None, None)
    assert (snapshot.pending_reason is not None) == (progress is Progress.PROCESSING)


@pytest.mark.parametrize("charge", ["ch_1", {"id": "ch_1", "object": "charge"}])
def test_succeeded_is_captured_with_what_was_received(charge: object) -> None:
    snapshot = read(status="succeeded", amount_received=1500, latest_charge=charge)
    assert snapshot.progress is Progress.CAPTURED
    assert (snapshot.captured, snapshot.capture_ref) == (Money(1500, "EUR"), "ch_1")
    assert snapshot.amount == Money(1999, "EUR")
    assert (snapshot.payment_id, snapshot.order_id, snapshot.account) == ("pay_1", "ord_1", "acct_1")
    assert (snapshot.live, snapshot.decline, snapshot.request_id) == (False, None, "req_1")


def test_an_expanded_and_a_plain_charge_give_the_same_journal_object() -> None:
    plain = read(status="succeeded", amount_received=1999, latest_charge="ch_1")
    expanded = read(status="succeeded", amount_received=1999, latest_charge={"id": "ch_1"})
    assert plain == expanded


@pytest.mark.parametrize(
    "changes",
    [
        {"object": "charge"},
        {"id": None},
        {"status": None},
        {"status": 3},
        {"livemode": None},
        {"livemode": "false"},
        {"amount": None},
        {"currency": None},
        {"status": "succeeded"},
        {"status": "succeeded", "latest_charge": "ch_1", "amount_received": None},
        {"status": "succeeded", "latest_charge": {"object": "charge"}, "amount_received": 1999},
    ],
)
def test_unreadable_intents_are_never_a_snapshot(changes: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError) as caught:
        read(**changes)
    assert "pi_1" not in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {}, [], {"payment_id": 3, "order_id": None}])
def test_foreign_metadata_gives_no_ids(metadata: object) -> None:
    snapshot = read(metadata=metadata)
    assert (snapshot.payment_id, snapshot.order_id) == (None, None)


@pytest.mark.parametrize(
    ("error", "code", "raw"),
    [
        (
            {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"},
            "insufficient_funds",
            None,
        ),
        (
            {"type": "card_error", "code": "card_declined", "decline_code": "generic_decline"},
            "card_declined",
            "generic_decline",
        ),
        (
            {"type": "card_error", "code": "card_declined", "decline_code": "stolen_card"},
            "card_declined",
            "stolen_card",
        ),
        (
            {"type": "card_error", "code": "card_declined", "decline_code": "of_next_year"},
            "card_declined",
            "of_next_year",
        ),
        ({"type": "card_error", "code": "card_declined"}, "card_declined", "card_declined"),
        (
            {"type": "card_error", "code": "expired_card", "decline_code": "expired_card"},
            "card_expired",
            "expired_card",
        ),
        ({"type": "card_error", "code": "incorrect_cvc"}, "wrong_cvc", "incorrect_cvc"),
        ({"type": "card_error", "code": "incorrect_number"}, "wrong_number", "incorrect_number"),
        ({"type": "card_error", "code": "processing_error"}, "processing_error", "processing_error"),
        (
            {"type": "card_error", "code": "card_declined", "decline_code": "card_velocity_exceeded"},
            "limit_exceeded",
            None,
        ),
        (
            {"type": "invalid_request_error", "code": "payment_intent_authentication_failure"},
            "authentication_failed",
            "payment_intent_authentication_failure",
        ),
        ({"type": "invalid_request_error", "code": "payment_method_customer_decline"}, "approval_needed", None),
        ({"type": "invalid_request_error", "code": "payment_method_provider_decline"}, "instrument_declined", None),
        ({"type": "api_error"}, "refused", "api_error"),
        ({}, "refused", "unknown"),
    ],
)
def test_declines_read_the_same_for_all_gateways(error: dict[str, str], code: str, raw: str | None) -> None:
    decline = wire.decline(error)
    assert (decline.code, decline.recoverable) == (DeclineCode(code), True)
    assert raw is None or decline.raw_code == raw


def test_a_decline_counts_only_while_the_buyer_is_asked_again() -> None:
    error = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"}
    declined = read(last_payment_error=error)
    assert declined.decline is not None
    assert declined.progress is Progress.AWAITING_BUYER
    for status in ("requires_action", "processing", "canceled"):
        assert read(status=status, last_payment_error=error).decline is None


def test_the_capture_method_is_sent() -> None:
    request = CreateRequest(
        "pay_1", "ord_1", "1001", Money(1999, "EUR"), "https://s.example/r", "https://s.example", "k"
    )
    assert wire.create_params(request)["capture_method"] == "automatic"
    assert wire.create_params(replace(request, capture_method=CaptureMethod.MANUAL))["capture_method"] == "manual"


def test_the_buyer_is_in_the_middle_of_it_only_at_the_bank() -> None:
    statuses = ("requires_action", "requires_confirmation", "requires_payment_method", "processing", "canceled")
    assert [read(status=status).in_progress for status in statuses] == [True, True, False, False, False]


@pytest.mark.parametrize("reason", ["automatic", "expired", "requested_by_customer", None])
def test_a_reservation_that_ended_is_canceled_whoever_ended_it(reason: str | None) -> None:
    snapshot = read(status="canceled", cancellation_reason=reason, latest_charge="ch_1", amount_received=0)
    assert (snapshot.progress, snapshot.captured, snapshot.capture_ref) == (Progress.CANCELED, None, None)


PAID: dict[str, Any] = {"status": "succeeded", "amount_received": 1999}


@pytest.mark.parametrize(
    ("movement", "fee"),
    [
        ({"id": "txn_1", "fee": 55, "currency": "eur"}, Money(55, "EUR")),
        ({"id": "txn_1", "fee": 61, "currency": "usd"}, Money(61, "USD")),
        ({"id": "txn_1", "fee": 0, "currency": "eur"}, Money(0, "EUR")),
        ({"id": "txn_1", "fee": 5500, "currency": "isk"}, Money(55, "ISK")),
        # A fee that our units can't express, or can't be read, is not known; the payment counts all the same.
        ({"id": "txn_1", "fee": 5501, "currency": "isk"}, None),
        ({"id": "txn_1", "fee": "55", "currency": "eur"}, None),
        ({"id": "txn_1", "fee": 55}, None),
        ({}, None),
        ("txn_1", None),
        (None, None),
    ],
)
def test_the_fee_is_told_as_soon_as_stripe_tells_it(movement: object, fee: Money | None) -> None:
    snapshot = read(**PAID, latest_charge={"id": "ch_1", "balance_transaction": movement})
    assert (snapshot.progress, snapshot.captured, snapshot.fee) == (Progress.CAPTURED, Money(1999, "EUR"), fee)


def test_no_fee_without_a_capture() -> None:
    charge = {"id": "ch_1", "balance_transaction": {"fee": 55, "currency": "eur"}}
    assert read(status="requires_capture", latest_charge=charge).fee is None
    assert read(**PAID, latest_charge="ch_1").fee is None


REFUND: dict[str, Any] = {
    "id": "re_1",
    "object": "refund",
    "amount": 500,
    "balance_transaction": "txn_2",
    "currency": "eur",
    "metadata": {"refund_id": "ref_1"},
    "payment_intent": "pi_1",
    "reason": None,
    "status": "succeeded",
}
DISPUTE: dict[str, Any] = {
    "id": "du_1",
    "object": "dispute",
    "amount": 1999,
    "balance_transactions": [],
    "currency": "eur",
    "payment_intent": "pi_1",
    "reason": "fraudulent",
    "status": "needs_response",
}


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ("pending", RefundProgress.PENDING),
        ("requires_action", RefundProgress.PENDING),
        ("succeeded", RefundProgress.SUCCEEDED),
        ("failed", RefundProgress.FAILED),
        ("canceled", RefundProgress.FAILED),
        ("of_next_year", RefundProgress.PENDING),
        (None, RefundProgress.PENDING),
    ],
)
def test_refund_statuses(status: str | None, progress: RefundProgress) -> None:
    refund = wire.refund({**REFUND, "status": status}, "pi_1", request_id="req_1")
    assert (refund.progress, refund.raw_status) == (progress, status or "unknown")
    assert (refund.ref, refund.amount, refund.refund_id) == ("re_1", Money(500, "EUR"), "ref_1")
    assert refund.request_id == "req_1"


def test_a_refund_of_the_dashboard_has_no_id_of_ours_and_says_why_it_failed() -> None:
    refund = wire.refund({**REFUND, "metadata": None, "status": "failed", "failure_reason": "declined"}, "pi_1")
    assert (refund.refund_id, refund.failure_reason) == (None, "declined")


@pytest.mark.parametrize(
    "changes",
    [{"object": "charge"}, {"id": None}, {"amount": "500"}, {"currency": None}, {"payment_intent": "pi_2"}],
)
def test_unreadable_refunds_are_never_a_snapshot(changes: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError):
        wire.refund({**REFUND, **changes}, "pi_1")
    with pytest.raises(wire.WireError):
        wire.refunds({**INTENT, **PAID}, [REFUND, {**REFUND, **changes}])


def test_what_a_partial_capture_left_is_no_refund() -> None:
    intent = {**INTENT, "status": "succeeded", "amount_received": 1500}
    release = {**REFUND, "id": "re_0", "amount": 499, "balance_transaction": None, "metadata": {}}
    real = [
        {**release, "id": "re_1", "balance_transaction": "txn_2"},
        {**release, "id": "re_2", "amount": 498},
        {**release, "id": "re_3", "status": "pending"},
        {**release, "id": "re_4", "metadata": {"refund_id": "ref_1"}},
    ]
    read = wire.refunds(intent, [*reversed(real), release])
    assert [refund.ref for refund in read] == ["re_1", "re_2", "re_3", "re_4"]
    # A payment that was captured in full has nothing to release.
    assert [refund.ref for refund in wire.refunds({**INTENT, **PAID}, [release])] == ["re_0"]
    expired = {**REFUND, "reason": "expired_uncaptured_charge"}
    assert wire.refunds({**INTENT, **PAID}, [expired]) == ()


@pytest.mark.parametrize(
    ("status", "movements", "progress", "withdrawn"),
    [
        ("warning_needs_response", [], DisputeProgress.OPEN, False),
        ("warning_under_review", [], DisputeProgress.OPEN, False),
        ("warning_closed", [], DisputeProgress.WON, False),
        ("needs_response", [], DisputeProgress.OPEN, True),
        ("under_review", [], DisputeProgress.OPEN, True),
        ("needs_response", [-1999], DisputeProgress.OPEN, True),
        ("under_review", [-1999, 1999], DisputeProgress.OPEN, False),
        ("won", [-1999, 1999], DisputeProgress.WON, False),
        ("won", [], DisputeProgress.WON, False),
        ("lost", [-1999], DisputeProgress.LOST, True),
        ("lost", [], DisputeProgress.LOST, True),
        ("prevented", [], DisputeProgress.WON, False),
        ("of_next_year", [], DisputeProgress.OPEN, False),
        ("of_next_year", [-1999], DisputeProgress.OPEN, True),
    ],
)
def test_dispute_statuses(status: str, movements: list[int], progress: DisputeProgress, withdrawn: bool) -> None:
    # The fee of a dispute stays with Stripe, won or lost, and says nothing of the disputed money.
    listed = [{"amount": amount, "fee": 2000 if amount < 0 else 0, "net": amount - 2000} for amount in movements]
    dispute = wire.dispute({**DISPUTE, "status": status, "balance_transactions": listed}, "pi_1")
    assert (dispute.progress, dispute.withdrawn, dispute.raw_status) == (progress, withdrawn, status)
    assert (dispute.ref, dispute.amount, dispute.reason) == ("du_1", Money(1999, "EUR"), "fraudulent")


@pytest.mark.parametrize(
    "changes", [{"object": "refund"}, {"id": ""}, {"status": None}, {"amount": None}, {"payment_intent": "pi_2"}]
)
def test_unreadable_disputes_are_never_a_snapshot(changes: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError):
        wire.disputes({**INTENT, **PAID}, [{**DISPUTE, **changes}])


def test_lists_come_newest_first_and_are_read_oldest_first() -> None:
    items = [{**DISPUTE, "id": f"du_{number}"} for number in (3, 2, 1)]
    assert [one.ref for one in wire.disputes({**INTENT, **PAID}, items)] == ["du_1", "du_2", "du_3"]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"object": "list", "data": None, "has_more": False},
        {"object": "list", "data": [], "has_more": None},
        {"object": "list", "data": [1], "has_more": False},
        {"object": "refund", "data": [], "has_more": False},
    ],
)
def test_what_is_no_list_is_not_read_as_an_empty_one(data: dict[str, Any]) -> None:
    with pytest.raises(wire.WireError):
        wire.page(data)
