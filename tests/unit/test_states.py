"""The transition tables: complete, and the same words everywhere."""

from __future__ import annotations

import pytest
from sqlalchemy import CheckConstraint

from paidonce.db.tables import metadata
from paidonce.states import (
    OPEN_PAYMENTS,
    ORDER_TRANSITIONS,
    PAYMENT_TRANSITIONS,
    IllegalTransition,
    OrderStatus,
    PaymentStatus,
    advance,
    can_advance,
)


def test_every_status_has_its_row() -> None:
    assert set(PAYMENT_TRANSITIONS) == set(PaymentStatus)
    assert set(ORDER_TRANSITIONS) == set(OrderStatus)


def test_captured_and_paid_are_final() -> None:
    assert not PAYMENT_TRANSITIONS[PaymentStatus.CAPTURED]
    assert not ORDER_TRANSITIONS[OrderStatus.PAID]
    for target in set(PaymentStatus) - {PaymentStatus.CAPTURED}:
        with pytest.raises(IllegalTransition, match="captured"):
            advance(PaymentStatus.CAPTURED, target)


def test_an_ended_payment_can_only_be_held_for_a_person() -> None:
    for ended in (PaymentStatus.FAILED, PaymentStatus.CANCELED):
        assert PAYMENT_TRANSITIONS[ended] == {PaymentStatus.HELD}
        assert ended not in OPEN_PAYMENTS


def test_nothing_returns_to_created() -> None:
    assert not any(can_advance(status, PaymentStatus.CREATED) for status in PaymentStatus)


def test_staying_is_no_move() -> None:
    assert advance(PaymentStatus.HELD, PaymentStatus.HELD) is PaymentStatus.HELD


@pytest.mark.parametrize(("table", "words"), [("payments", PaymentStatus), ("orders", OrderStatus)])
def test_the_schema_knows_the_same_words(table: str, words: type[PaymentStatus | OrderStatus]) -> None:
    checks = [one for one in metadata.tables[table].constraints if isinstance(one, CheckConstraint)]
    known = next(str(one.sqltext) for one in checks if str(one.sqltext).startswith("status IN"))
    assert known == "status IN (" + ", ".join(f"'{word}'" for word in words) + ")"
