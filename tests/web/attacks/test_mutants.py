"""Each defence taken away by a small patch: the test that attacks it from outside must fail.

A test that can't fail protects nobody. The patches are applied to a copy; the code under test is never touched.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paidonce.prove.mutants import header
from support.mutants import ROOT, assert_noticed

PATCHES = sorted((Path(__file__).parent / "mutants").glob("*.patch"))


def test_every_patch_says_what_it_takes_away_and_who_notices() -> None:
    assert len(PATCHES) >= 10
    for patch in PATCHES:
        said = header(patch)
        assert said.keys() == {"What", "Test", "Row"}, patch.name
        guard = re.fullmatch(r"(tests/[\w/]+\.py)::(test_\w+)(\[.+\])?", said["Test"])
        assert guard, patch.name
        assert f"def {guard[2]}(" in (ROOT / guard[1]).read_text("utf-8"), patch.name


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_the_attack_gets_through_where_the_defence_is_missing(patch: Path, tmp_path: Path) -> None:
    assert_noticed(patch, header(patch)["Test"], tmp_path)
