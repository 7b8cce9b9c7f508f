"""Each defence taken away by a small patch: the test that attacks it from outside must fail.

A test that can't fail protects nobody. The patches are applied to a copy; the code under test is never touched.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from paidonce.prove.mutants import header
from support.mutants import ROOT, assert_noticed

PATCHES = sorted((Path(__file__).parent / "mutants").glob("*.patch"))
# One of each kind runs every time; all of them take four minutes of a core.
ALL = "ALL_DEFENCES"
ALWAYS = {
    "a-planted-session-survives-sign-in",
    "a-staff-door-is-open-to-buyers",
    "a-stranger-sees-orders",
    "any-name-is-answered",
    "any-payment-completes-any-order",
    "any-server-is-believed",
    "backslashes-lead-away",
    "deep-json-is-read",
    "live-and-test-mode-are-mixed",
    "refusals-may-be-framed",
}


def test_every_patch_says_what_it_takes_away_and_who_notices() -> None:
    assert {patch.stem for patch in PATCHES} > ALWAYS
    for patch in PATCHES:
        said = header(patch)
        assert said.keys() == {"What", "Test", "Row"}, patch.name
        guard = re.fullmatch(r"(tests/[\w/]+\.py)::(test_\w+)(\[.+\])?", said["Test"])
        assert guard, patch.name
        assert f"def {guard[2]}(" in (ROOT / guard[1]).read_text("utf-8"), patch.name


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_the_attack_gets_through_where_the_defence_is_missing(patch: Path, tmp_path: Path) -> None:
    if patch.stem not in ALWAYS and not os.environ.get(ALL):
        pytest.skip(f"with {ALL}=1 and in `make prove-long`: all defences, one after the other, take minutes")
    assert_noticed(patch, header(patch)["Test"], tmp_path)
