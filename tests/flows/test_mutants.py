"""The holes that such integrations usually have: each is dug by a small patch, and the test that guards it must fail.

A test that can't fail protects nobody. The patches are applied to a copy; the code under test is never touched. The
simulation finds all of `tests/mutants` (`paidonce prove --mutants`); these are the ones with a test of their own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from paidonce.prove.checks import INVARIANTS
from paidonce.prove.mutants import header
from support.mutants import ROOT, assert_noticed

MUTANTS = ROOT / "tests" / "mutants"

# Which guard has to notice which mutant. The name says what the patch breaks.
GUARDS = {
    "complete-believes-the-browser": "test_paying.py::test_a_browser_that_claims_success_pays_nothing",
    "order-ownership-is-not-checked": "test_paying.py::test_a_stranger_finds_neither_order_nor_payment",
    "payment-ownership-is-not-checked": "test_paying.py::test_a_stranger_finds_neither_order_nor_payment",
    "start-makes-a-second-intent": "test_paying.py::test_starting_again_gives_the_same_payment",
    "amount-is-not-compared": "test_trouble.py::test_an_object_that_contradicts_us_is_held_and_pays_nothing",
    "refund-gets-a-fresh-key": "test_refunds.py::test_a_refund_whose_answer_is_lost_is_found_by_its_own_key",
    "surplus-is-kept": (
        "test_late_money.py::test_a_surplus_is_refunded_by_itself_is_visible_and_never_unpays_the_order"
    ),
    "event-is-done-before-its-effect": "test_webhooks.py::test_a_gateway_that_does_not_answer_leaves_the_event_due",
}


def test_every_patch_says_what_it_breaks() -> None:
    patches = list(MUTANTS.glob("*.patch"))
    assert len(patches) >= 40
    for patch in patches:
        said = header(patch)
        assert said.keys() == {"What", "Breaks", "Row"}, patch.name
        broken = {one.strip() for one in said["Breaks"].split(",")}
        assert broken, patch.name
        assert broken <= INVARIANTS.keys(), patch.name
    assert {patch.stem for patch in patches} >= set(GUARDS)


@pytest.mark.parametrize("mutant", sorted(GUARDS))
def test_the_guard_notices_the_mutant(mutant: str, tmp_path: Path) -> None:
    assert_noticed(MUTANTS / f"{mutant}.patch", f"tests/flows/{GUARDS[mutant]}", tmp_path)
