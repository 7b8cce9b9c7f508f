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

from paidonce.errors import ConfigError
from paidonce.prove.flows import main_flows, pairs_of_faults
from paidonce.prove.mutants import Hunt, hunt, mutate
from paidonce.prove.run import Plan, run_batch
from paidonce.prove.world import Stage

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
    assert "never crashed" not in ended.stdout, "without the flows nobody promised to reach every point"
    assert ended.stderr.startswith("Schedules: 100 % (5 schedules, "), "a sign of life without a terminal"


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


def test_a_run_that_cannot_be_kept_is_told_all_the_same(tmp_path: Path) -> None:
    kept = prove("--seed", "7", "--save", str(tmp_path))
    (file,) = tmp_path.glob("*.json")
    assert kept.stdout.endswith(f"Kept in {file}\n")
    file.write_text("{}")
    again = prove("--seed", "7", "--save", str(tmp_path))
    assert again.returncode == 2
    assert again.stdout == kept.stdout.removesuffix(f"Kept in {file}\n"), "the story is told, and nothing claimed"
    assert "could not be kept" in again.stderr
    assert "Traceback" not in again.stderr
    assert file.read_text() == "{}"


def test_one_seed_is_told_as_a_story_that_repeats() -> None:
    first, second = prove("--seed", "7"), prove("--seed", "7")
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert "trace hash" in first.stdout
    assert "orders" in first.stdout


@pytest.mark.parametrize("count", [1, 10, 2000, 3000, 10**6])
def test_as_many_pairs_are_run_as_were_asked_for(stage: Stage, count: int) -> None:
    batches = Plan(flows=False, pairs=count).batches(stage)
    there = {name: sum(1 for _ in pairs_of_faults(stage, one)) for name, one in main_flows(stage).items()}
    assert sum(batch.end for batch in batches) == min(count, sum(there.values()))
    assert all(batch.end > 0 for batch in batches), "0 would mean all"
    for name, most in there.items():
        assert sum(batch.end for batch in batches if batch.name == name) <= most
    assert count < len(there) or {batch.name for batch in batches} == there.keys()
    assert len({(batch.name, batch.first) for batch in batches}) == len(batches)


def test_a_share_of_pairs_runs_what_it_says(stage: Stage) -> None:
    first, *_ = Plan(flows=False, pairs=10).batches(stage)
    done = run_batch(stage, first)
    assert (done.schedules, done.violations) == (first.end, 0)


# ── Planted bugs ──────────


def patch_of(tmp_path: Path, name: str, new_line: str, *, module: str = "src/paidonce/_version.py") -> Path:
    """A patch that puts `new_line` in the place of the first line of a module with the text of `_version.py`."""
    first, *others = (ROOT / "src/paidonce/_version.py").read_text("utf-8").splitlines()
    count = len(others) + 1
    lines = [
        *("What: A first line is another.", "Breaks: nothing", "Row: none", f"diff --git a/{module} b/{module}"),
        *(f"--- a/{module}", f"+++ b/{module}", f"@@ -1,{count} +1,{count} @@"),
        *(f"-{first}", f"+{new_line}", *(f" {line}" for line in others)),
    ]
    patch = tmp_path / f"{name}.patch"
    patch.write_text("\n".join(lines) + "\n")
    return patch


def test_a_bug_that_never_ends_is_not_found_and_stops_nobody_else(tmp_path: Path, sqlite_template: Path) -> None:
    patch = patch_of(tmp_path, "endless", "while True: pass")
    found = hunt(patch, tmp_path, sqlite_template, timeout_seconds=1)
    assert found == Hunt("endless", "A first line is another.", found=False, told="it did not end within 1 seconds")
    assert not (tmp_path / "endless").exists()


def test_a_patch_is_applied_inside_a_checkout_too(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    work = tmp_path / "work"
    mutate(patch_of(tmp_path, "harmless", '"""Others."""'), work / "harmless")
    mutated = (work / "harmless/paidonce/_version.py").read_text("utf-8")
    assert mutated.startswith('"""Others."""')
    assert mutated != (ROOT / "src/paidonce/_version.py").read_text("utf-8")


def test_a_patch_that_changes_nothing_of_the_package_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere"
    (source / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "src/paidonce/_version.py", source / "docs/page.py")
    patch = patch_of(tmp_path, "elsewhere", '"""Others."""', module="docs/page.py")
    with pytest.raises(ConfigError, match="changes no file of the package"):
        mutate(patch, source)


def test_without_git_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = patch_of(tmp_path, "harmless", '"""Others."""')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs git"):
        mutate(patch, tmp_path / "source")


def test_a_planted_bug_that_nobody_finds_is_an_error(tmp_path: Path) -> None:
    patch_of(tmp_path, "harmless", '"""The version, in other words."""')
    ended = prove("--seeds", "0", "--pairs", "0", "--no-flows", "--mutants", str(tmp_path), "--look-at", "200")
    assert ended.returncode == 1, ended.stderr
    assert "Planted bugs found: 0 of 1." in ended.stdout
    assert "harmless: NOT FOUND" in ended.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seeds", "many"), "--seeds is a number"),
        (("--seeds", "200-100"), "--seeds 200-100 ends before it begins; write 100-200."),
        (("--pairs", "some"), "--pairs is a number or 'all'"),
        (("--replay", "no-such-file.json"), "can't be replayed"),
        (("--seed", "7", "--json"), "--seed tells a single run and nothing else; leave out --json."),
        (("--replay", "a.json", "--mutants", "docs"), "--replay tells a single run and nothing else"),
        (("--seed", "7", "--replay", "a.json"), "leave out --replay."),
        ((*QUICK, "--save", "README.md"), "--save needs a folder, and README.md can't be made"),
        (("--mutants", "docs", "--seeds", "0", "--pairs", "0", "--no-flows"), "There are no patch files"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(options: tuple[str, ...], says: str) -> None:
    ended = prove(*options)
    assert ended.returncode == 2
    assert says in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == "", "nothing was run"
    assert "schedules" not in ended.stderr
