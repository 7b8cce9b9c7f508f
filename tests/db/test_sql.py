from __future__ import annotations

import pytest

from paidonce.db.sql import MissingParameter, locking, named, numbered, parse


def test_names_become_numbers_and_a_repeated_name_keeps_its_number() -> None:
    statement = parse("UPDATE stock SET held = held + :n WHERE sku = :sku AND on_hand - held >= :n")
    assert statement.numbered == "UPDATE stock SET held = held + $1 WHERE sku = $2 AND on_hand - held >= $1"
    assert statement.names == ("n", "sku")


@pytest.mark.parametrize(
    "untouched",
    [
        "SELECT ':no'",
        "SELECT 'it''s :no'",
        'SELECT ":no"',
        'SELECT "a"":no"',
        "SELECT 1::bigint",
        "SELECT 1 -- :no\n",
        "SELECT /* :no \n :no */ 1",
        "SELECT '12:30', ':a' || ':b'",
    ],
)
def test_quotes_casts_and_comments_hold_no_parameters(untouched: str) -> None:
    assert parse(untouched).numbered == untouched
    assert parse(untouched).names == ()


def test_parameters_beside_quotes_and_casts_are_still_found() -> None:
    statement = parse("SELECT ':no', :a::bigint, \"x:y\", :b_2 -- :no")
    assert statement.numbered == "SELECT ':no', $1::bigint, \"x:y\", $2 -- :no"
    assert statement.names == ("a", "b_2")


def test_values_are_bound_by_name_and_superfluous_ones_stay_out() -> None:
    sql = "SELECT :b, :a, :b"
    assert numbered(sql, {"a": 1, "b": None, "c": 3}) == (None, 1)
    assert named(sql, {"a": 1, "b": None, "c": 3}) == {"b": None, "a": 1}
    assert numbered("SELECT 1", None) == ()


@pytest.mark.parametrize("bind", [named, numbered])
def test_a_missing_value_is_named_without_the_given_values(bind: object) -> None:
    assert callable(bind)
    with pytest.raises(MissingParameter, match=r"no value for :b, :c; given: :a") as caught:
        bind("SELECT :a, :b, :c", {"a": "the-secret"})
    assert "the-secret" not in str(caught.value)
    with pytest.raises(MissingParameter, match="given: nothing"):
        bind("SELECT :a", None)


def test_a_statement_is_parsed_once() -> None:
    assert parse("SELECT :once") is parse("SELECT :once")


def test_locks_are_appended_behind_the_statement() -> None:
    assert locking("SELECT 1 ORDER BY 1 ;\n") == "SELECT 1 ORDER BY 1 FOR UPDATE"
