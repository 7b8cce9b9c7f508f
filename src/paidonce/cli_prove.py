"""`paidonce prove`: the promise, checked by simulation, so that a stranger can repeat it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
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
    from paidonce.prove.script import Outcome

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
    _refuse_together({"--seed": seed, "--replay": replay}, {"--json": as_json or None, "--mutants": mutants})
    if save is not None:
        _make(save)
    if seed is not None or replay is not None:
        raise typer.Exit(_tell_one(seed, replay, save))
    if mutants is not None:
        _is_huntable(mutants)
    report, jobs = Report(), jobs or os.cpu_count() or 1
    failures = _run_all(_plan(seeds, pairs, flows=flows, seconds=seconds, jobs=jobs), report)
    if mutants is not None:
        _hunt(mutants, look_at, jobs, report)
    # Only the flows promise to reach every point, and only if they were run to their end.
    missed = report.crash_points_missed if flows and seconds is None else []
    if as_json:
        out.print_json(json.dumps(asdict(report)))
    else:
        _summarize(report, missed)
    for failure in failures[:1]:
        _tell_failure(failure, save, err if as_json else out)
    if report.violations or missed or report.mutants_found < report.mutants_planted:
        raise typer.Exit(1)


def _refuse_together(alone: Mapping[str, object], others: Mapping[str, object]) -> None:
    """Raise `ConfigError` if an option that tells a single run is given beside another one. None: not given."""
    told = [name for name, value in alone.items() if value is not None]
    beside = [*told[1:], *(name for name, value in others.items() if value is not None)]
    if told and beside:
        raise ConfigError([f"{told[0]} tells a single run and nothing else; leave out {' and '.join(beside)}."])


def _make(folder: Path) -> None:
    """The folder for failures. Made before the run, since afterwards it would be too late to name another one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"--save needs a folder, and {folder} can't be made: {error.strerror}."]) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError([f"--save needs a folder to write to, and {folder} can't be written to."])


def _is_huntable(folder: Path) -> None:
    """Raise `ConfigError` if there is nothing to plant or nothing to plant it with: before minutes of other runs."""
    from paidonce.prove.mutants import git, patches

    patches(folder)
    git()


def _plan(seeds: str, pairs: str, *, flows: bool, seconds: float | None, jobs: int) -> Plan:
    from paidonce.prove.run import Plan

    found = _SEEDS.fullmatch(seeds)
    if found is None:
        raise ConfigError([f"--seeds is a number (20000) or a range (5000-5999), not {seeds!r}."])
    if pairs != "all" and not pairs.isdecimal():
        raise ConfigError([f"--pairs is a number or 'all', not {pairs!r}."])
    if found[2] is not None and int(found[2]) < int(found[1]):
        raise ConfigError([f"--seeds {seeds} ends before it begins; write {found[2]}-{found[1]}."])
    chosen = range(int(found[1])) if found[2] is None else range(int(found[1]), int(found[2]) + 1)
    return Plan(flows=flows, pairs=None if pairs == "all" else int(pairs), seeds=chosen, seconds=seconds, jobs=jobs)


# ── Running ──────────


def _run_all(plan: Plan, report: Report) -> list[Failure]:
    from paidonce.prove.run import open_stage, points, run

    began = time.monotonic()
    with _progress("Schedules") as told:

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


def _hunt(folder: Path, most: int, jobs: int, report: Report) -> None:
    from paidonce.prove.mutants import hunt_all, patches

    planted = len(patches(folder))
    done: list[Hunt] = []
    with _progress("Planted bugs") as told:

        def progress(hunt: Hunt) -> None:
            done.append(hunt)
            told(len(done), planted, f"{sum(one.found for one in done)} found; {hunt.name}")

        found = hunt_all(folder, jobs, progress, most=most)
    report.mutants_planted, report.mutants_found = len(found), sum(one.found for one in found)
    report.mutants = [asdict(one) for one in found]


Told = Callable[[int, int, str], None]


@contextmanager
def _progress(title: str) -> Iterator[Told]:
    """Signs of life on the error stream, so that the output stays clean: a bar, or lines without a terminal."""
    if not err.is_terminal:
        yield _lines(title)
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=err) as progress:
        task = progress.add_task("", total=None)

        def told(done: int, total: int, words: str) -> None:
            progress.update(task, completed=done, total=total, description=words)

        yield told


def _lines(title: str) -> Told:
    """One line for each tenth of the work, which a log can bear."""
    tenths = 0

    def told(done: int, total: int, words: str) -> None:
        nonlocal tenths
        if done * 10 // total > tenths:
            tenths = done * 10 // total
            _say(f"{title}: {done * 100 // total} % ({words})", err)

    return told


# ── Telling ──────────


def _summarize(report: Report, missed: list[str]) -> None:
    """`missed` are the crash points that had to be reached and were not."""
    share = report.crash_points_reached / max(report.crash_points, 1)
    _say(f"{report.schedules:,} schedules in {report.seconds:,.0f} s: {report.schedules_per_second:,.0f} a second.")
    _say(f"Violations: {report.violations}.")
    _say(f"Crash points reached: {report.crash_points_reached} of {report.crash_points} ({share:.0%}).")
    for name in missed:
        _say(f"    never crashed {name}")
    if report.mutants_planted:
        _say(f"Planted bugs found: {report.mutants_found} of {report.mutants_planted}.")
        for one in report.mutants:
            _say(f"    {one['name']}: {_what_came_of(one)}")


def _what_came_of(hunt: Mapping[str, Any]) -> str:
    if hunt["found"]:
        return f"{hunt['invariant']} after {hunt['schedules']:,} runs"
    return f"NOT FOUND, {hunt['told']}" if hunt["told"] else "NOT FOUND"


def _tell_failure(failure: Failure, save: Path | None, console: Console) -> None:
    """The first failure: made short, told, and kept where asked."""
    from paidonce.prove import shrink, story
    from paidonce.prove.run import in_silence, open_stage
    from paidonce.prove.script import read_script

    console.print(f"\n{failure.origin} breaks {failure.invariant}. Looking for the shortest story…", soft_wrap=True)
    with in_silence(), open_stage() as stage:
        script = shrink.shrink(read_script(json.dumps(failure.script)), stage, failure.invariant)
        outcome = script.play(stage)
        _say(story.story(outcome, origin=failure.origin), console)
        if save is not None:
            _keep(outcome, save, failure.origin, console)


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
        _say(story.story(outcome, origin=origin))
        kept = save is None or _keep(outcome, save, origin, out)
    if outcome.violation is not None:
        return 1
    return 0 if kept else 2


def _keep(outcome: Outcome, folder: Path, origin: str, console: Console) -> bool:
    """Keep the run and say where. If that fails, say so: the story and its exit code are worth more than the file."""
    from paidonce.prove import story

    try:
        kept = story.save(outcome, folder, origin=origin)
    except (OSError, ValueError) as error:
        _say(f"paidonce: This run could not be kept: {error}.", err)
        return False
    _say(f"Kept in {kept}", console)
    return True


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path} can't be replayed: {error}"]) from error


def _say(text: str, console: Console = out) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
