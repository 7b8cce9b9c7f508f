"""`python -m bench`: what it writes has the form that others read. Its figures are judged by people, not here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent.parent
FIGURES = ("ours_cpu_ms", "floor_cpu_ms", "ratio", "orders_per_second", "p50_ms", "p99_ms")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a few orders."""
    folder = tmp_path_factory.mktemp("results")
    short = ["--quick", "--runs", "1", "--seconds", "0.1", "--warm-up", "2", "--buyers", "2"]
    only = ["--only", "checkout", "import", "--database", "sqlite"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *short, *only, "--out", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_each_row_has_its_figures(results: Path) -> None:
    rows = {row["scenario"]: row for row in json.loads((results / "latest.json").read_text("utf-8"))}
    assert rows.keys() == {"checkout", "import"}
    checkout = rows["checkout"]
    assert (checkout["database"], checkout["buyers"], checkout["runs"]) == ("sqlite", 2, 1)
    assert all(isinstance(checkout[name], float) and checkout[name] > 0 for name in FIGURES)
    assert checkout["failed"] == 0
    # What the floor leaves in each table is what the shop leaves; a look at speed is for a longer run.
    assert "leaves other rows" not in checkout.get("invalid_floor", "")


def test_what_a_row_does_not_have_is_null_and_what_was_not_run_is_absent(results: Path) -> None:
    rows: list[dict[str, Any]] = json.loads((results / "latest.json").read_text("utf-8"))
    seconds = next(row for row in rows if row["scenario"] == "import")
    assert [seconds[name] for name in FIGURES] == [None] * len(FIGURES)
    assert seconds["seconds"] > 0
    assert {row["database"] for row in rows} == {"sqlite", "none"}
    assert not any("peers" in row for row in rows)


def test_people_get_a_table_and_plots(results: Path) -> None:
    page = (results / "latest.md").read_text("utf-8")
    assert "| checkout | sqlite | 2 |" in page
    plots = [path for path in results.iterdir() if path.suffix == ".svg"]
    assert {"cpu.svg", "ratio.svg", "throughput.svg"} == {path.name for path in plots}
    for plot in plots:
        assert plot.name in page
        assert ElementTree.parse(plot).getroot().tag.endswith("svg")  # noqa: S314 - our own file.
