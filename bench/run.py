"""`python -m bench`: measure what was chosen, show how far it is, and write the results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import cpu, databases, measure, orders, report, rows
from bench.child import Broken
from bench.databases import Database
from bench.measure import Contestant, Sample, Setting
from bench.peers import PEERS, NotHere, contestant
from bench.rows import Row
from bench.scenarios import BOTH, SCENARIOS, Scenario, chosen

DATABASES = ("none", *BOTH)
RESULTS = Path(__file__).parent / "results"
_BUSY = 0.5
_PEERS_BUYERS = 64
_LOG_LINES = 20


@dataclass(slots=True)
class Options:
    """How much, and where to."""

    runs: int
    seconds: float
    warm_up: int
    quick: bool
    folder: Path
    peers: bool = True
    buyers: int | None = None


@dataclass(slots=True)
class Bench:
    """One whole measurement."""

    options: Options
    console: Console
    folder: Path
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Something that is also kept with the results."""
        self.notes.append(text)
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def measure(self, scenario: Scenario, database: Database, buyers: int) -> None:
        """One row; what breaks is told and leaves no row."""
        row = Row(scenario.name, database.name, buyers)
        setting = Setting(database, scenario, buyers, self.options.seconds, self.folder, self.options.warm_up)
        try:
            if scenario.kind == "start":
                for _ in range(self.options.runs):
                    row.add(seconds=measure.start_up(setting))
            elif scenario.kind == "inflight":
                _add_in_flight(row, measure.run(setting, measure.OURS))
            else:
                self._add_pairs(row, setting)
        except Broken as error:
            self.say(f"Not measured: {scenario.name}, {database.name}, {buyers} buyers: {error}")
            self._show_log()
            return
        rows.judge_floor(row)
        self.rows.append(row)
        self.console.print(report.in_a_line(row), highlight=False, markup=False, soft_wrap=True)

    def _show_log(self) -> None:
        log = self.folder / "server.log"
        for line in log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:] if log.exists() else []:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True, style="dim")

    def _add_pairs(self, row: Row, setting: Setting) -> None:
        peers = self._peers(setting)
        with ExitStack() as stack:
            url = self._with_history(stack, setting)
            for _ in range(self.options.runs):
                # In turn, so that whatever else happens on the machine happens to both.
                floor = measure.run(setting, measure.FLOOR, url)
                rows.add_pair(row, floor, measure.run(setting, measure.OURS, url))
                for name, peer in peers.items():
                    rows.add_peer(row, name, measure.run(setting, peer))

    def _peers(self, setting: Setting) -> dict[str, Contestant]:
        if not setting.scenario.peers or setting.buyers != _PEERS_BUYERS or not self.options.peers:
            return {}
        found = {}
        for peer in PEERS:
            try:
                found[peer.name] = contestant(peer)
            except NotHere as error:
                self.say(f"Skipped: {peer.name}: {error}")
        return found

    def _with_history(self, stack: ExitStack, setting: Setting) -> str | None:
        if not setting.scenario.orders_before:
            return None
        url = setting.database.fresh()
        stack.callback(setting.database.drop, url)
        measure.pay_one(setting, url)
        count, before, began = setting.scenario.orders_before, setting.database.size_bytes(url), time.monotonic()
        orders.multiply(setting.database, url, count, recent=setting.scenario.recent)
        took, grown = time.monotonic() - began, setting.database.size_bytes(url) - before
        self.say(
            f"{setting.scenario.name}, {setting.database.name}: {count:,} orders were written in {took:.0f} s and take"
            f" {grown / 1e6:,.0f} MB, {grown / count / 1e3:.1f} kB each."
        )
        return url

    def measure_import(self, scenario: Scenario) -> None:
        """The one row that needs no database."""
        row = Row(scenario.name, "none", 0)
        for _ in range(self.options.runs):
            row.add(seconds=measure.import_seconds())
        self.rows.append(row)


def _add_in_flight(row: Row, sample: Sample) -> None:
    row.add(peak_mb=sample.peak_mb, p50_ms=sample.p50_ms, p99_ms=sample.p99_ms)
    row.more |= {"done": sample.done, "busy": sample.busy, "failed": sample.failed}
    if sample.why_failed:
        row.more["why_failed"] = list(sample.why_failed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = _parser()
    told = parser.parse_args(arguments)
    console = Console()
    if told.list:
        for scenario in SCENARIOS:
            console.print(f"{scenario.name:18} {scenario.tells}", highlight=False)
        return 0
    try:
        scenarios = chosen(told.only, quick=told.quick)
    except ValueError as error:
        parser.error(str(error))
    # So that whoever ends us ends all that we have started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = Options(
        runs=told.runs or (2 if told.quick else 3),
        seconds=told.seconds or (1.0 if told.quick else 6.0),
        warm_up=told.warm_up if told.warm_up is not None else 40 if told.quick else 100,
        quick=told.quick,
        folder=told.out,
        peers=not told.quick if told.peers is None else told.peers,
        buyers=told.buyers,
    )
    with tempfile.TemporaryDirectory(prefix="paidonce-bench-log-") as folder:
        bench = Bench(options, console, Path(folder))
        _measure_all(bench, scenarios, told.database)
        if not bench.rows:
            console.print("Nothing was measured.")
            return 1
        written = report.write(options.folder, bench.rows, bench.notes)
    for line in report.reached(bench.rows):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print("Written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="What a whole checkout costs; see docs/bench.md."
    )
    parser.add_argument("--quick", action="store_true", help="a first look, in less than two minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these scenarios alone")
    parser.add_argument("--database", choices=BOTH, help="this database alone")
    parser.add_argument("--buyers", type=int, help="this many at once, instead of what the scenario says")
    parser.add_argument("--runs", type=int, help="how often each is measured (3; quick: 2)")
    parser.add_argument("--seconds", type=float, help="how long each run lasts (6; quick: 1)")
    parser.add_argument("--warm-up", type=int, help="orders before each run (100; quick: 40)")
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=None, help="other projects as well (not if quick)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    return parser


def _measure_all(bench: Bench, scenarios: Sequence[Scenario], only: str | None) -> None:
    bench.say(f"Machine: {cpu.machine()}. {bench.options.runs} runs of {bench.options.seconds:g} s each.")
    load = os.getloadavg()[0]
    if load > _BUSY:
        bench.say(f"Preliminary: the machine had other work to do (load {load:.1f} before the first run).")
    if not databases.is_durable():
        bench.say("Invalid: the temporary files lie in memory, so that fsync costs nothing. Set TMPDIR to a disk.")
    began = time.monotonic()
    work = [
        (one, name, count) for name in DATABASES for one in scenarios for count in _buyers(one, name, bench.options)
    ]
    work = [piece for piece in work if only in (None, piece[1]) or piece[1] == "none"]
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=bench.console) as progress, ExitStack() as stack:
        task = progress.add_task("", total=len(work))
        opened: dict[str, Database | None] = {}
        for scenario, name, count in work:
            progress.update(task, description=f"{scenario.name}, {name}, {count} buyers")
            if name == "none":
                bench.measure_import(scenario)
            else:
                if name not in opened:
                    opened[name] = _open(bench, name, stack)
                database = opened[name]
                if database is not None:
                    bench.measure(scenario, database, count)
            progress.advance(task)
    bench.say(f"It took {time.monotonic() - began:.0f} s.")


def _buyers(scenario: Scenario, database: str, options: Options) -> tuple[int, ...]:
    if database not in scenario.databases:
        return ()
    if options.buyers is not None and scenario.kind not in ("start", "import"):
        return (options.buyers,)
    return scenario.quick or scenario.buyers if options.quick else scenario.buyers


def _open(bench: Bench, name: str, stack: ExitStack) -> Database | None:
    missing = databases.why_not(name)
    if missing is not None:
        bench.say(f"Skipped: {name}: {missing}")
        return None
    if name == "sqlite":
        return stack.enter_context(databases.sqlite())
    return stack.enter_context(databases.postgresql())
