"""`make prove-long`: everything that can be checked by simulation and by force, and a report that says what was run.

It takes hours. Smaller: SEEDS=10000 PG_SCHEDULES=20 KILLS=20 FUZZ=50000 make prove-long. Some of it: make prove-long
PARTS="faults seeds"; the other parts of the report stay as they are. Each part names its commit, its machine and its
command, so that somebody else can repeat it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "prove-report.md"
FIGURES = ROOT / "docs" / "prove-report.json"
SEEDS = int(os.environ.get("SEEDS", "1000000"))
PG_SCHEDULES = int(os.environ.get("PG_SCHEDULES", "500"))
FUZZ = int(os.environ.get("FUZZ", "1000000"))
KILLS = int(os.environ.get("KILLS", "500"))
JOBS = int(os.environ.get("JOBS", str(os.cpu_count() or 1)))
NOTHING = ("--seeds", "0", "--pairs", "0", "--no-flows")
_SUMMARY = re.compile(r"^(?:=+ )?((?:\d+ \w+(?:, )?)+) in ([\d.]+)s", re.MULTILINE)


@dataclass
class Part:
    """One command of the run, and what came of it."""

    title: str
    command: str
    commit: str = ""
    begun: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)


def simulate(title: str, *options: str) -> Part:
    """Run `paidonce prove` with `options` and read its JSON."""
    command = ["paidonce", "prove", *options, "--jobs", str(JOBS)]
    part = Part(title, " ".join(command))
    output = _run(part, [sys.executable, "-m", *command, "--json"], {})
    try:
        part.result = json.loads(output)
    except ValueError:
        part.result = {"output": output[-2000:]}
    return part


def fuzz(title: str, inputs: int) -> Part:
    """Throw mutated inputs at every parser of what others send."""
    command = ["scripts/fuzz.py", "--inputs", str(inputs), "--jobs", str(JOBS), "--json"]
    part = Part(title, " ".join(command))
    output = _run(part, [sys.executable, *command], {})
    try:
        found = json.loads(output)
        part.result = {
            "outcome": f"{found['inputs']:,} inputs, {found['crashes']} crashes",
            "targets": found["targets"],
        }
    except ValueError:
        part.result = {"output": output[-2000:]}
    return part


def by_force(title: str, settings: dict[str, str], *arguments: str) -> Part:
    """Run tests that act on real servers, with `settings` in their environment."""
    shown = " ".join(f"{name}={value}" for name, value in settings.items())
    command = ["pytest", "-q", *arguments]
    part = Part(title, f"{shown} {' '.join(command)}")
    output = _run(part, [sys.executable, "-m", *command], settings)
    found = _SUMMARY.search(output)
    part.result = {"outcome": found[1] if found else output[-2000:]}
    return part


def _run(part: Part, command: list[str], settings: dict[str, str]) -> str:
    sys.stderr.write(f"{part.title}: {part.command}\n")
    part.commit, part.begun = commit(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    began = time.monotonic()
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=False
    )
    part.exit_code, part.seconds = ended.returncode, round(time.monotonic() - began, 1)
    sys.stderr.write(f"  ended with {part.exit_code} after {part.seconds:,.0f} s\n")
    return ended.stdout


# ── The report ──────────


def machine() -> dict[str, str]:
    """Where it ran."""
    cpu = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", cpu, re.MULTILINE)
    return {
        "cores": str(os.cpu_count()),
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def commit() -> str:
    """The commit that was run, and whether anything in the checkout differs from it."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    # The report itself is no change.
    apart = [".", ":!docs/prove-report.*"]
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", *apart], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def write_report(parts: dict[str, Part]) -> None:
    """Write the figures as JSON, and the report as Markdown."""
    told = {"machine": machine(), "parts": {name: vars(part) for name, part in parts.items()}}
    FIGURES.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    lines = [
        "# The last long run",
        "",
        "Written by `make prove-long`; all figures are in [prove-report.json](prove-report.json).",
        "What is run, and what is asked: [The promise, checked](prove.md).",
        "",
        "| what | command | commit, begun | took | result |",
        "|---|---|---|---|---|",
        *(_row(part) for part in parts.values()),
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine().items()),
        "",
        *_mutants(list(parts.values())),
    ]
    REPORT.write_text("\n".join(lines), "utf-8")


def read_report() -> dict[str, Part]:
    """The parts of the last report, or none."""
    if not FIGURES.exists():
        return {}
    return {name: Part(**part) for name, part in json.loads(FIGURES.read_text("utf-8"))["parts"].items()}


def _row(part: Part) -> str:
    where = f"`{part.commit[:10]}`{part.commit[40:]}, {part.begun}"
    return f"| {part.title} | `{part.command}` | {where} | {_time(part.seconds)} | {_told(part)} |"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 120 else f"{seconds:.0f} s"


def _told(part: Part) -> str:
    result = part.result
    if "outcome" in result:
        return str(result["outcome"]) + ("" if part.exit_code == 0 else f" (exit code {part.exit_code})")
    if result.get("mutants_planted"):
        return f"{result['mutants_found']} of {result['mutants_planted']} planted bugs found"
    if "schedules" in result:
        return (
            f"{result['schedules']:,} schedules, {result['violations']} violations, "
            f"{result['schedules_per_second']:,.0f} a second; crash points reached: "
            f"{result['crash_points_reached']} of {result['crash_points']}"
        )
    return f"no result (exit code {part.exit_code})"


def _mutants(parts: list[Part]) -> list[str]:
    found = [one for part in parts for one in part.result.get("mutants", [])]
    if not found:
        return []
    rows = (
        f"| {one['name']} | {one['what']} | {one['invariant'] or 'not found'} | {one['schedules']:,} |" for one in found
    )
    return ["| planted bug | what it does | broke | after runs |", "|---|---|---|---|", *rows, ""]


STEPS: dict[str, Callable[[], Part]] = {
    "faults": lambda: simulate("Every single fault, every pair on the main flows", "--seeds", "0", "--pairs", "all"),
    "seeds": lambda: simulate("Random runs", "--seeds", str(SEEDS), "--pairs", "0", "--no-flows"),
    "mutants": lambda: simulate("Planted bugs", *NOTHING, "--mutants", "tests/mutants"),
    "interleaved": lambda: by_force("PostgreSQL, statement by statement", {}, "tests/prove/test_interleavings.py"),
    "cut": lambda: by_force(
        "PostgreSQL, connections cut at COMMIT",
        {"PROVE_PG_SCHEDULES": str(PG_SCHEDULES)},
        "tests/prove/test_commit_cut.py",
    ),
    "kills": lambda: by_force(
        "Process groups killed by SIGKILL", {"PROVE_KILLS": str(KILLS)}, "tests/prove/test_sigkill.py"
    ),
    "fuzz": lambda: fuzz("Parsers of what others send", FUZZ),
    "schema": lambda: by_force(
        "The API by its own description", {"SCHEMA_EXAMPLES": "300"}, "tests/web/attacks/test_api_by_schema.py"
    ),
    "defences": lambda: by_force(
        "Defences taken away one by one", {"ALL_DEFENCES": "1"}, "tests/web/attacks/test_mutants.py"
    ),
    "disks": lambda: by_force(
        "Disks and commits that fail",
        {"PROVE_DISK_TURNS": "60"},
        "tests/prove/test_disk_faults.py",
        "tests/prove/test_grouped_commits.py",
    ),
}


def main() -> int:
    """Run the parts, write the report after each, and return 0 if all of them passed."""
    chosen = os.environ.get("PARTS", "").split() or list(STEPS)
    unknown = [name for name in chosen if name not in STEPS]
    if unknown:
        sys.stderr.write(f"There is no part {unknown[0]!r}. Choose from: {', '.join(STEPS)}.\n")
        return 2
    known = read_report()
    for name in chosen:
        known[name] = STEPS[name]()
        write_report({name: known[name] for name in STEPS if name in known})
    return 0 if all(known[name].exit_code == 0 for name in chosen) else 1


if __name__ == "__main__":
    raise SystemExit(main())
