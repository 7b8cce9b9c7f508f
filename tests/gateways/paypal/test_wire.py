"""The pure mapping between PayPal's JSON and our values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidonce.gateways.base import DeclineCode, Progress
from paidonce.gateways.paypal import wire
from paidonce.money import Money, MoneyError, iso_exponent


@pytest.mark.parametrize(
    ("amount", "value"),
    [
        (Money(1999, "EUR"), "19.99"),
        (Money(1, "USD"), "0.01"),
        (Money(1200, "JPY"), "1200"),
        (Money(1_234_500, "HUF"), "12345"),
        (Money(29_900, "TWD"), "299"),
    ],
)
def test_amounts_travel_as_paypal_writes_them(amount: Money, value: str) -> None:
    told = wire.money_to_wire(amount)

    assert told == {"currency_code": amount.currency, "value": value}
    assert wire.money_from_wire(told) == amount


@pytest.mark.parametrize(
    ("amount", "named"),
    [
        (Money(1_234_567, "HUF"), "HUF"),
        (Money(29_950, "TWD"), "TWD"),
        (Money(1000, "KWD"), "KWD"),
        (Money(1000, "XAU"), "XAU"),
        (Money(0, "EUR"), "positive"),
        (Money(-100, "EUR"), "positive"),
    ],
)
def test_amounts_that_paypal_cannot_take_are_refused_by_name(amount: Money, named: str) -> None:
    with pytest.raises(MoneyError, match=named):
        wire.check_amount(amount)


@given(st.sampled_from(sorted(wire.EXPONENTS)), st.integers(min_value=1, max_value=10**10))
def test_every_amount_comes_back_unchanged_or_is_refused(currency: str, minor: int) -> None:
    amount = Money(minor, currency)
    fits = minor % 10 ** (iso_exponent(currency) - wire.EXPONENTS[currency]) == 0
    if fits:
        told = wire.money_to_wire(amount)
        assert wire.money_from_wire(told) == amount
        assert ("." in told["value"]) == (wire.EXPONENTS[currency] == 2)
    else:
        with pytest.raises(MoneyError):
            wire.money_to_wire(amount)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "19.99",
        {},
        {"currency_code": "EUR"},
        {"currency_code": "EUR", "value": 19.99},
        {"currency_code": "EUR", "value": "1e3"},
        {"currency_code": "EUR", "value": "19.999"},
        {"currency_code": "EUR", "value": "Infinity"},
        {"currency_code": "euro", "value": "1.00"},
    ],
)
def test_an_unreadable_amount_is_never_guessed(value: Any) -> None:
    with pytest.raises(wire.Unreadable):
        wire.money_from_wire(value)


def order(status: str, *captures: dict[str, Any], **unit: Any) -> dict[str, Any]:
    """An order as Orders v2 describes it."""
    described: dict[str, Any] = {
        "reference_id": "ord_1",
        "custom_id": "pay_1",
        "invoice_id": "1001",
        "amount": {"currency_code": "EUR", "value": "19.99"},
        "payee": {"merchant_id": "SANDBXMERCHNT"},
        **unit,
    }
    if captures:
        described["payments"] = {"captures": list(captures)}
    return {"id": "5O190127TN364715T", "status": status, "purchase_units": [described]}


def capture(status: str, *, identifier: str = "3C679366HH908993F", **more: Any) -> dict[str, Any]:
    """A capture of it."""
    amount = {"currency_code": "EUR", "value": "19.99"}
    return {"id": identifier, "status": status, "amount": amount, **more}


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ("CREATED", Progress.AWAITING_BUYER),
        ("SAVED", Progress.AWAITING_BUYER),
        ("PAYER_ACTION_REQUIRED", Progress.AWAITING_BUYER),
        ("APPROVED", Progress.APPROVED),
        ("VOIDED", Progress.CANCELED),
        # COMPLETED alone is not paid, and a word that PayPal adds one day is neither paid nor failed.
        ("COMPLETED", Progress.PROCESSING),
        ("TELEPORTED", Progress.PROCESSING),
    ],
)
def test_order_statuses(status: str, progress: Progress) -> None:
    snapshot = wire.snapshot(order(status), live=False)

    assert (snapshot.progress, snapshot.raw_status) == (progress, status)
    assert snapshot.captured is None
    assert snapshot.capture_ref is None


@pytest.mark.parametrize("status", ["COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"])
def test_money_that_moved_is_captured_even_if_some_went_back(status: str) -> None:
    snapshot = wire.snapshot(order("COMPLETED", capture(status)), live=True, request_id="d3bug")

    assert snapshot.progress is Progress.CAPTURED
    assert snapshot.captured == Money(1999, "EUR")
    assert snapshot.capture_ref == "3C679366HH908993F"
    assert (snapshot.payment_id, snapshot.order_id, snapshot.account) == ("pay_1", "ord_1", "SANDBXMERCHNT")
    assert (snapshot.live, snapshot.request_id) == (True, "d3bug")
    assert snapshot.decline is None


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        (capture("PENDING", status_details={"reason": "ECHECK"}), "ECHECK"),
        (capture("PENDING", status_details={"reason": "A_NEW_REASON"}), "A_NEW_REASON"),
        (capture("PENDING"), "PENDING"),
        (capture("SOMETHING_NEW"), "SOMETHING_NEW"),
    ],
)
def test_a_pending_or_unknown_capture_is_neither_paid_nor_failed(given_: dict[str, Any], reason: str) -> None:
    snapshot = wire.snapshot(order("COMPLETED", given_), live=False)

    assert (snapshot.progress, snapshot.pending_reason) == (Progress.PROCESSING, reason)
    assert snapshot.captured is None


@pytest.mark.parametrize("status", ["DECLINED", "FAILED"])
def test_a_declined_capture_ends_the_order(status: str) -> None:
    snapshot = wire.snapshot(order("COMPLETED", capture(status)), live=False)

    assert snapshot.progress is Progress.FAILED
    assert snapshot.decline is not None
    assert not snapshot.decline.recoverable
    assert snapshot.captured is None


def test_money_outranks_declines_before_and_after_it() -> None:
    captures = [capture("DECLINED", identifier="A1"), capture("COMPLETED", identifier="B2"), capture("FAILED")]

    snapshot = wire.snapshot(order("COMPLETED", *captures), live=False)

    assert (snapshot.progress, snapshot.capture_ref) == (Progress.CAPTURED, "B2")
    assert snapshot.captured == Money(1999, "EUR")


def test_two_captures_are_counted_both() -> None:
    captures = [capture("COMPLETED", identifier="A1"), capture("COMPLETED", identifier="B2")]

    assert wire.snapshot(order("COMPLETED", *captures), live=False).captured == Money(3998, "EUR")


def test_ids_that_differ_between_units_are_no_ids() -> None:
    told = order("APPROVED")
    told["purchase_units"].append({**told["purchase_units"][0], "custom_id": "pay_2"})

    snapshot = wire.snapshot(told, live=False)

    assert snapshot.payment_id is None
    assert snapshot.amount == Money(3998, "EUR")


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"id": "5O190127TN364715T", "status": "APPROVED"},
        {"id": "5O190127TN364715T", "status": "APPROVED", "purchase_units": []},
        {"id": None, "status": "APPROVED", "purchase_units": [{}]},
        {"id": "5O190127TN364715T", "purchase_units": [{"amount": {"currency_code": "EUR", "value": "1.00"}}]},
        order("APPROVED", amount={"currency_code": "EUR"}),
        order("COMPLETED", {"status": "COMPLETED", "amount": {"currency_code": "EUR", "value": "19.99"}}),
        order("COMPLETED", {"id": "A1", "status": "COMPLETED"}),
    ],
)
def test_an_order_without_what_settling_needs_is_unreadable(broken: dict[str, Any]) -> None:
    with pytest.raises(wire.Unreadable):
        wire.snapshot(broken, live=False)


@pytest.mark.parametrize(
    ("issue", "code", "recoverable"),
    [
        ("INSTRUMENT_DECLINED", DeclineCode.INSTRUMENT_DECLINED, True),
        ("PAYER_ACTION_REQUIRED", DeclineCode.APPROVAL_NEEDED, True),
        ("ORDER_NOT_APPROVED", DeclineCode.APPROVAL_NEEDED, True),
        ("MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED", DeclineCode.REFUSED, False),
        ("COMPLIANCE_VIOLATION", DeclineCode.REFUSED, False),
        ("TRANSACTION_REFUSED", DeclineCode.REFUSED, False),
    ],
)
def test_issues_that_are_declines(issue: str, code: DeclineCode, recoverable: bool) -> None:
    decline = wire.issue_decline(issue)

    assert decline is not None
    assert (decline.code, decline.recoverable, decline.raw_code) == (code, recoverable, issue)


@pytest.mark.parametrize("issue", ["ORDER_ALREADY_CAPTURED", "DUPLICATE_INVOICE_ID", "DECIMAL_PRECISION", "A_NEW_ONE"])
def test_other_issues_are_no_declines(issue: str) -> None:
    assert wire.issue_decline(issue) is None


def test_an_issue_belongs_to_one_meaning_only() -> None:
    groups = [wire.RECOVERABLE_ISSUES, wire.FINAL_ISSUES, wire.LOOK_UP_ISSUES, wire.BUSY_ISSUES, wire.OUR_BUG_ISSUES]

    everything = [issue for group in groups for issue in group]

    assert len(everything) == len(set(everything))


def test_a_debug_id_that_could_break_a_log_line_is_dropped() -> None:
    assert wire.debug_id({"debug_id": "f5aa1c2b3d4e5"}) == "f5aa1c2b3d4e5"
    assert wire.debug_id({"debug_id": "a\nlevel=error"}) is None
    assert wire.debug_id({"debug_id": 7}) is None
