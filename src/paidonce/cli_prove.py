"""`paidonce prove`: the promise, checked by simulation, so that a stranger can repeat it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from paidonce.errors import ConfigError

if TYPE_CHECKING:
    from paidonce.prove.mutants import Hunt
    from paidonce.prove.run import Failure, Plan, Tally

out, err = Console(), Console(stderr=True)

_SEEDS = re.compile(r"(\d+)(?:-(\d+))?")
_DEFAULT_SEEDS, _DEFAULT_PAIRS = "20000", "2000"


@dataclass(slots=True)
class Report:
    """What `--json` prints: how much was run, what was found, and how many places a process was ended at."""

    schedules: int = 0
    violations: int = 0
    schedules_per_second: float = 0.0
    crash_points: int = 0
    crash_points_reached: int = 0
    crash_points_missed: list[str] = field(default_factory=list)
    mutants_planted: int = 0
    mutants_found: int = 0
    mutants: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    failures: list[dict[str, Any]] = field(default_factory=list)


def prove(
    *,
    seeds: Annotated[str, typer.Option(help="How many random runs, or which: 20000, or 5000-5999.")] = _DEFAULT_SEEDS,
    pairs: Annotated[str, typer.Option(help="How many pairs of faults on the main flows, or: all.")] = _DEFAULT_PAIRS,
    flows: Annotated[bool, typer.Option(help="Every single fault of every flow.")] = True,
    seconds: Annotated[float | None, typer.Option(min=1, help="Begin nothing new after so many seconds.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="How many processes; one for each core if not given.")] = None,
    mutants: Annotated[
        Path | None, typer.Option(help="Plant the bugs of this folder's patch files and find them: tests/mutants.")
    ] = None,
    look_at: Annotated[
        int, typer.Option(min=1, help="Look for a planted bug in so many runs at most, more or less.")
    ] = 12_000,
    seed: Annotated[int | None, typer.Option(min=0, help="Tell the run of one seed, and nothing else.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Tell the run of a saved file, and nothing else.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where to keep failures, for tests to replay.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check the promise by simulation: crashes, lost answers, repeated webhooks, everybody at once. No network needed.

    Exit code 1 if any invariant breaks, if a crash point was never reached, or if a planted bug is not found.
    """
    if seed is not None or replay is not None:
        raise typer.Exit(_tell_one(seed, replay, save))
    report, jobs = Report(), jobs or os.cpu_count() or 1
    failures = _run_all(_plan(seeds, pairs, flows=flows, seconds=seconds, jobs=jobs), report, quiet=as_json)
    if mutants is not None:
        _hunt(mutants, look_at, jobs, report, quiet=as_json)
    if as_json:
        out.print_json(json.dumps(asdict(report)))
    else:
        _summarize(report)
    for failure in failures[:1]:
        _tell_failure(failure, save, Console(stderr=True) if as_json else out)
    missed = report.crash_points_missed if flows and seconds is None else []
    if report.violations or missed or report.mutants_found < report.mutants_planted:
        raise typer.Exit(1)


def _plan(seeds: str, pairs: str, *, flows: bool, seconds: float | None, jobs: int) -> Plan:
    from paidonce.prove.run import Plan

    found = _SEEDS.fullmatch(seeds)
    if found is None:
        raise ConfigError([f"--seeds is a number (20000) or a range (5000-5999), not {seeds!r}."])
    if pairs != "all" and not pairs.isdecimal():
        raise ConfigError([f"--pairs is a number or 'all', not {pairs!r}."])
    chosen = range(int(found[1])) if found[2] is None else range(int(found[1]), int(found[2]) + 1)
    return Plan(flows=flows, pairs=None if pairs == "all" else int(pairs), seeds=chosen, seconds=seconds, jobs=jobs)


# ── Running ──────────


def _run_all(plan: Plan, report: Report, *, quiet: bool) -> list[Failure]:
    from paidonce.prove.run import open_stage, points, run

    began = time.monotonic()
    with _bar("Schedules", quiet=quiet) as told:

        def progress(tally: Tally, done: int, batches: int) -> None:
            rate = tally.schedules / max(time.monotonic() - began, 0.001)
            told(done, batches, f"{tally.schedules:,} schedules, {rate:,.0f}/s, {tally.violations} violations")

        tally = run(plan, progress)
    with open_stage() as stage:
        known = points(stage)
    report.seconds = round(time.monotonic() - began, 1)
    report.schedules, report.violations, report.steps = tally.schedules, tally.violations, tally.steps
    report.schedules_per_second = round(tally.schedules / max(report.seconds, 0.1), 1)
    report.crash_points, report.crash_points_reached = len(known), len(known & tally.reached)
    report.crash_points_missed = sorted(known - tally.reached)
    report.failures = [asdict(one) for one in tally.failures]
    return tally.failures


def _hunt(folder: Path, most: int, jobs: int, report: Report, *, quiet: bool) -> None:
    from paidonce.prove.mutants import hunt_all, patches

    planted = len(patches(folder))
    done: list[Hunt] = []
    with _bar("Planted bugs", quiet=quiet) as told:

        def progress(hunt: Hunt) -> None:
            done.append(hunt)
            told(len(done), planted, f"{sum(one.found for one in done)} found; {hunt.name}")

        found = hunt_all(folder, jobs, progress, most=most)
    report.mutants_planted, report.mutants_found = len(found), sum(one.found for one in found)
    report.mutants = [asdict(one) for one in found]


@contextmanager
def _bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on the error stream, so that the output stays clean; without a terminal it draws nothing."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=err, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def told(done: int, total: int, words: str) -> None:
            progress.update(task, completed=done, total=total, description=words)

        yield told


# ── Telling ──────────


def _summarize(report: Report) -> None:
    share = report.crash_points_reached / max(report.crash_points, 1)
    _say(f"{report.schedules:,} schedules in {report.seconds:,.0f} s: {report.schedules_per_second:,.0f} a second.")
    _say(f"Violations: {report.violations}.")
    _say(f"Crash points reached: {report.crash_points_reached} of {report.crash_points} ({share:.0%}).")
    for name in report.crash_points_missed:
        _say(f"    never crashed {name}")
    if report.mutants_planted:
        _say(f"Planted bugs found: {report.mutants_found} of {report.mutants_planted}.")
        for one in report.mutants:
            where = f"{one['invariant']} after {one['schedules']:,} runs" if one["found"] else "NOT FOUND"
            _say(f"    {one['name']}: {where}")


def _tell_failure(failure: Failure, save: Path | None, console: Console) -> None:
    """The first failure: made short, told, and kept where asked."""
    from paidonce.prove import shrink, story
    from paidonce.prove.run import in_silence, open_stage
    from paidonce.prove.script import read_script

    console.print(f"\n{failure.origin} breaks {failure.invariant}. Looking for the shortest story…", soft_wrap=True)
    with in_silence(), open_stage() as stage:
        script = shrink.shrink(read_script(json.dumps(failure.script)), stage, failure.invariant)
        outcome = script.play(stage)
        told = story.story(outcome, origin=failure.origin)
        kept = None if save is None else story.save(outcome, save, origin=failure.origin)
    console.print(told, soft_wrap=True, highlight=False, markup=False)
    if kept is not None:
        console.print(f"Kept in {kept}", soft_wrap=True, highlight=False, markup=False)


def _tell_one(seed: int | None, replay: Path | None, save: Path | None) -> int:
    from paidonce.prove import regressions, story
    from paidonce.prove.run import in_silence, open_stage, play_seed
    from paidonce.prove.script import Outcome

    with in_silence(), open_stage() as stage:
        if replay is not None:
            outcome, origin = _read(replay, regressions.read).script.play(stage), str(replay)
        else:
            assert seed is not None
            outcome, origin = Outcome(*play_seed(stage, seed)), f"seed {seed}"
        told = story.story(outcome, origin=origin)
        kept = None if save is None else story.save(outcome, save, origin=origin)
    _say(told)
    if kept is not None:
        _say(f"Kept in {kept}")
    return 0 if outcome.violation is None else 1


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path} can't be replayed: {error}"]) from error


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
