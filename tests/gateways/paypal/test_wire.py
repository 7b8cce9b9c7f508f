"""The pure mapping between PayPal's JSON and our values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paidonce.gateways.base import DeclineCode, Progress, RefundProgress
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


# --- Reserved money, fees, refunds -----------------------------------------------------------------------------------


def reserved(*statuses: str, captures: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """An order of intent AUTHORIZE with these authorizations."""
    told = order("COMPLETED", *captures)
    payments = told["purchase_units"][0].setdefault("payments", {})
    payments["authorizations"] = [{"id": f"A{number}", "status": status} for number, status in enumerate(statuses)]
    return told


@pytest.mark.parametrize(
    ("statuses", "progress", "reason"),
    [
        (("CREATED",), Progress.AUTHORIZED, None),
        (("VOIDED", "CREATED"), Progress.AUTHORIZED, None),
        (("PENDING",), Progress.PROCESSING, "PENDING"),
        (("CAPTURED",), Progress.PROCESSING, "CAPTURED"),
        (("PARTIALLY_CAPTURED",), Progress.PROCESSING, "PARTIALLY_CAPTURED"),
        (("A_NEW_WORD", "VOIDED"), Progress.PROCESSING, "A_NEW_WORD"),
        (("DENIED",), Progress.FAILED, None),
        (("VOIDED",), Progress.CANCELED, None),
        (("EXPIRED",), Progress.CANCELED, None),
    ],
)
def test_authorizations(statuses: tuple[str, ...], progress: Progress, reason: str | None) -> None:
    snapshot = wire.snapshot(reserved(*statuses), live=False)

    assert (snapshot.progress, snapshot.pending_reason) == (progress, reason)
    assert (snapshot.captured, snapshot.capture_ref) == (None, None)
    assert (snapshot.decline is not None) == (progress is Progress.FAILED)


@pytest.mark.parametrize(
    ("authorization", "capture_status", "progress"),
    [
        ("CAPTURED", "COMPLETED", Progress.CAPTURED),
        ("CREATED", "COMPLETED", Progress.CAPTURED),
        ("VOIDED", "COMPLETED", Progress.CAPTURED),
        ("CAPTURED", "PENDING", Progress.PROCESSING),
        ("CREATED", "DECLINED", Progress.AUTHORIZED),
        ("VOIDED", "DECLINED", Progress.FAILED),
    ],
)
def test_captures_outrank_authorizations(authorization: str, capture_status: str, progress: Progress) -> None:
    snapshot = wire.snapshot(reserved(authorization, captures=(capture(capture_status),)), live=False)

    assert snapshot.progress is progress
    assert (snapshot.decline is not None) == (capture_status == "DECLINED")


def test_only_an_open_authorization_can_be_captured() -> None:
    assert wire.open_authorization(reserved("VOIDED", "CREATED")) == "A1"
    assert wire.open_authorization(reserved("VOIDED", "PENDING", "CAPTURED")) is None
    assert wire.open_authorization(order("APPROVED")) is None


def test_what_a_call_told_is_added_to_what_the_order_tells() -> None:
    before = reserved("CREATED")

    after = wire.with_payment(before, "captures", capture("COMPLETED"))
    voided = wire.with_payment(before, "authorizations", {"id": "A0", "status": "VOIDED"})

    assert wire.snapshot(after, live=False).progress is Progress.CAPTURED
    assert wire.snapshot(voided, live=False).progress is Progress.CANCELED
    assert wire.snapshot(before, live=False).progress is Progress.AUTHORIZED, "the reading itself is not changed"


@pytest.mark.parametrize(
    "news", [{}, {"id": "C1"}, {"status": "COMPLETED"}, {"id": 7, "status": "COMPLETED"}, {"id": "", "status": "X"}]
)
def test_an_order_is_not_told_without_what_a_call_failed_to_tell(news: dict[str, Any]) -> None:
    """Without it the order would be old, and look as if the call had decided nothing."""
    with pytest.raises(wire.Unreadable):
        wire.with_payment(reserved("CREATED"), "captures", news)


def test_a_payment_without_an_id_is_never_the_one_that_was_asked_for() -> None:
    nameless = reserved("CREATED", captures=({"status": "COMPLETED"}, {"id": "", "status": "COMPLETED"}))

    refs: list[Any] = [None, "", "C1", [], {}]
    assert not any(wire.shows(nameless, "captures", ref) for ref in refs)
    named = reserved("CREATED", captures=({"id": "C1", "status": "COMPLETED"},))
    assert wire.shows(named, "captures", "C1")
    assert not wire.shows(named, "authorizations", "C1")


def test_a_fee_is_told_in_the_currency_that_paypal_settles_in() -> None:
    def fee(**breakdown: Any) -> Money | None:
        told = order("COMPLETED", capture("COMPLETED", seller_receivable_breakdown=breakdown))
        return wire.snapshot(told, live=False).fee

    euros, dollars = {"currency_code": "EUR", "value": "0.85"}, {"currency_code": "USD", "value": "0.99"}
    assert fee(paypal_fee=euros) == Money(85, "EUR")
    assert fee(paypal_fee=euros, paypal_fee_in_receivable_currency=dollars) == Money(99, "USD")
    assert fee() is None
    assert fee(paypal_fee={"currency_code": "EUR", "value": "0.855"}) is None
    assert fee(paypal_fee=7) is None


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ("COMPLETED", RefundProgress.SUCCEEDED),
        ("PENDING", RefundProgress.PENDING),
        ("FAILED", RefundProgress.FAILED),
        ("CANCELLED", RefundProgress.FAILED),
        ("A_NEW_WORD", RefundProgress.PENDING),
    ],
)
def test_refund_statuses(status: str, progress: RefundProgress) -> None:
    told = {"id": "R1", "status": status, "amount": {"currency_code": "EUR", "value": "5.00"}, "custom_id": "ref_1"}

    snapshot = wire.refund(told, payment_id="pay_1")

    assert (snapshot.ref, snapshot.progress, snapshot.amount) == ("R1", progress, Money(500, "EUR"))
    assert (snapshot.refund_id, snapshot.raw_status) == ("ref_1", status)


@pytest.mark.parametrize("custom_id", ["pay_1", "", None, 7])
def test_a_refund_without_a_text_of_ours_is_not_ours(custom_id: Any) -> None:
    told = {"id": "R1", "status": "COMPLETED", "amount": {"currency_code": "EUR", "value": "5.00"}}

    assert wire.refund({**told, "custom_id": custom_id}, payment_id="pay_1").refund_id is None
    assert wire.refund(told, payment_id="pay_1").refund_id is None


@pytest.mark.parametrize("missing", ["id", "status", "amount"])
def test_a_refund_without_what_booking_needs_is_unreadable(missing: str) -> None:
    told = {"id": "R1", "status": "COMPLETED", "amount": {"currency_code": "EUR", "value": "5.00"}}
    del told[missing]

    with pytest.raises(wire.Unreadable):
        wire.refund(told, payment_id=None)


def test_refunds_that_are_not_listed_are_noticed() -> None:
    hidden = order("COMPLETED", capture("PARTIALLY_REFUNDED"))

    assert wire.hides_refunds(hidden)
    assert not wire.hides_refunds(wire.with_payment(hidden, "refunds", {"id": "R1", "status": "COMPLETED"}))
    assert not wire.hides_refunds(order("COMPLETED", capture("COMPLETED")))


# Made anew each time: the test changes what it drew, and a shared list could end up inside itself.
_CONTAINERS: st.SearchStrategy[Any] = st.builds(list) | st.builds(dict) | st.builds(lambda: [{}])
_ANYTHING: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | _CONTAINERS


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(place for key, item in inner for place in _places(item, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_order_is_read_or_unreadable(data: Any) -> None:
    fee = {"paypal_fee": {"currency_code": "EUR", "value": "0.85"}}
    told = reserved("CAPTURED", captures=(capture("COMPLETED", seller_receivable_breakdown=fee),))
    told["purchase_units"][0]["payments"]["refunds"] = [{"id": "R1", "status": "COMPLETED", "custom_id": "ref_1"}]
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(_places(told)))
        holder: Any = told
        for key in above:
            holder = holder[key]
        holder[last] = data.draw(_ANYTHING)
    try:
        snapshot = wire.snapshot(told, live=False)
    except wire.Unreadable:
        return
    assert (snapshot.captured is not None) == (snapshot.progress is Progress.CAPTURED)
    assert isinstance(wire.hides_refunds(told), bool)
    assert snapshot.raw_status
