"""`paidonce prove` as its users meet it: what it prints, what it keeps, and when it says that something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ("--seeds", "30", "--pairs", "0", "--no-flows", "--jobs", "1")
FIELDS = (
    *("schedules", "violations", "schedules_per_second", "crash_points", "crash_points_reached"),
    *("mutants_planted", "mutants_found"),
)


def prove(*options: str, source: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    if source is not None:
        environment["PYTHONPATH"] = str(source)
    return subprocess.run(
        [sys.executable, "-m", "paidonce", "prove", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with a planted bug: the browser's word that it has paid is believed."""
    source = tmp_path_factory.mktemp("broken") / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    patch = ROOT / "tests" / "mutants" / "complete-believes-the-browser.patch"
    subprocess.run(["git", "apply", str(patch)], cwd=source.parent, check=True)
    return source


def test_json_has_the_promised_fields_and_nothing_else_is_printed() -> None:
    ended = prove(*QUICK, "--json")
    told: dict[str, Any] = json.loads(ended.stdout)
    assert ended.returncode == 0, ended.stderr
    assert set(FIELDS) <= told.keys()
    assert (told["schedules"], told["violations"], told["mutants_planted"]) == (30, 0, 0)
    assert told["schedules_per_second"] > 0
    assert 0 < told["crash_points_reached"] + len(told["crash_points_missed"]) == told["crash_points"]


def test_a_range_of_seeds_is_run_whole() -> None:
    ended = prove("--seeds", "100-104", "--pairs", "0", "--no-flows", "--jobs", "2")
    assert ended.returncode == 0, ended.stderr
    assert "5 schedules" in ended.stdout
    assert "Violations: 0." in ended.stdout


def test_a_broken_promise_is_told_kept_and_repeated(broken: Path, tmp_path: Path) -> None:
    ended = prove(*QUICK, "--save", str(tmp_path), source=broken)
    assert ended.returncode == 1
    assert "Both books" in ended.stdout
    assert "paidonce prove --seed" in ended.stdout
    assert "_secret_" not in ended.stdout, "client values are no part of a story"
    (kept,) = tmp_path.glob("*.json")
    again = prove("--replay", str(kept), source=broken)
    assert again.returncode == 1
    assert "Broken:" in again.stdout
    healthy = prove("--replay", str(kept))
    assert healthy.returncode == 0, "the code without the bug plays the same moves well"
    assert "nothing is broken" in healthy.stdout


def test_one_seed_is_told_as_a_story_that_repeats() -> None:
    first, second = prove("--seed", "7"), prove("--seed", "7")
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert "trace hash" in first.stdout
    assert "orders" in first.stdout


def test_a_planted_bug_that_nobody_finds_is_an_error(tmp_path: Path) -> None:
    first, *others = (ROOT / "src/paidonce/_version.py").read_text("utf-8").splitlines()
    count = len(others) + 1
    lines = [
        *("What: A sentence is worded otherwise.", "Breaks: nothing", "Row: none"),
        "diff --git a/src/paidonce/_version.py b/src/paidonce/_version.py",
        *("--- a/src/paidonce/_version.py", "+++ b/src/paidonce/_version.py", f"@@ -1,{count} +1,{count} @@"),
        *(f"-{first}", '+"""The version, in other words."""', *(f" {line}" for line in others)),
    ]
    (tmp_path / "harmless.patch").write_text("\n".join(lines) + "\n")
    ended = prove("--seeds", "0", "--pairs", "0", "--no-flows", "--mutants", str(tmp_path), "--look-at", "200")
    assert ended.returncode == 1, ended.stderr
    assert "Planted bugs found: 0 of 1." in ended.stdout
    assert "harmless: NOT FOUND" in ended.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seeds", "many"), "--seeds is a number"),
        (("--pairs", "some"), "--pairs is a number or 'all'"),
        (("--replay", "no-such-file.json"), "can't be replayed"),
        (("--mutants", "docs", "--seeds", "0", "--pairs", "0", "--no-flows"), "There are no patch files"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(options: tuple[str, ...], says: str) -> None:
    ended = prove(*options)
    assert ended.returncode == 2
    assert says in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr
