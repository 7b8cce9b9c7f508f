"""The pure mapping: amounts, statuses, declines."""

from __future__ import annotations

from typing import Any

import pytest

from paidonce.gateways.base import DeclineCode, Progress
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
