"""Many runs: every fault of every flow, pairs of faults, seed after seed, spread over processes.

The work is a list of batches, the same for any number of processes, so that a count always means the same runs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from paidonce import db
from paidonce.prove.checks import Violation
from paidonce.prove.flows import flows, main_flows, single_faults, trials
from paidonce.prove.generate import Author, setup_of
from paidonce.prove.points import crash_points
from paidonce.prove.script import Script
from paidonce.prove.world import Stage, World

_SEEDS_PER_BATCH = 100
# Cycles of coroutines and tracebacks; collecting them after each run would cost more than the run.
_RUNS_PER_COLLECTION = 100
_PAIR_SHARES = 16
_MOST_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that broke an invariant. `origin` says which run it was; `script` repeats it."""

    origin: str
    invariant: str
    what: str
    script: dict[str, Any]


@dataclass(slots=True)
class Tally:
    """What came of some runs."""

    schedules: int = 0
    violations: int = 0
    steps: int = 0
    reached: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count another's runs as well; of the failures, the first ones are kept."""
        self.schedules += other.schedules
        self.violations += other.violations
        self.steps += other.steps
        self.reached |= other.reached
        self.failures = (self.failures + other.failures)[:_MOST_FAILURES]

    def count(self, origin: str, script: Script, world: World, violation: Violation | None) -> None:
        """Count one run."""
        self.schedules += 1
        self.steps += world.engine.steps
        self.reached |= world.engine.reached
        if violation is not None:
            self.violations += 1
            self.failures.append(Failure(origin, violation.invariant, violation.what, script.to_json()))


@dataclass(frozen=True, slots=True)
class Batch:
    """Some of the work: seeds from `first` to before `end`; a flow with one fault; or some of a flow's pairs.

    Those are `end` pairs of the share `first`, and all of that share for 0.
    """

    kind: str
    name: str = ""
    first: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run. `pairs` is how many of them, spread over all (None: every one)."""

    flows: bool = True
    pairs: int | None = 0
    seeds: range = range(0)
    seconds: float | None = None
    jobs: int = 1

    def batches(self, stage: Stage) -> list[Batch]:
        """All of it, the exhaustive part first."""
        found: list[Batch] = []
        if self.flows:
            found += [Batch("trials"), *(Batch("flow", name) for name in flows(stage))]
        if self.pairs is None or self.pairs > 0:
            found += self._pairs(stage)
        first, end = self.seeds.start, self.seeds.stop
        starts = range(first, end, _SEEDS_PER_BATCH)
        return [*found, *(Batch("seeds", "", one, min(one + _SEEDS_PER_BATCH, end)) for one in starts)]

    def _pairs(self, stage: Stage) -> list[Batch]:
        main = main_flows(stage)
        # Flow by flow in turn, so that a few pairs are of all flows as well.
        shares = [(name, share) for share in range(_PAIR_SHARES) for name in main]
        if self.pairs is None:
            return [Batch("pairs", name, share) for name, share in shares]
        sizes = [sum(1 for _ in _share(stage, main[name], share)) for name, share in shares]
        chosen = zip(shares, _dealt(self.pairs, sizes), strict=True)
        return [Batch("pairs", name, share, most) for (name, share), most in chosen if most]


def _dealt(count: int, sizes: Sequence[int]) -> list[int]:
    """How many of `count` fall to each share, as evenly as their sizes allow; `count` in all if there are so many."""
    dealt = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        free = [number for number, size in enumerate(sizes) if dealt[number] < size]
        each, more = divmod(left, len(free))
        for place, number in enumerate(free):
            dealt[number] += min(each + (place < more), sizes[number] - dealt[number])
        left = min(count, sum(sizes)) - sum(dealt)
    return dealt


# ── One process ──────────


@contextmanager
def open_stage(template: Path | None = None) -> Iterator[Stage]:
    """A stage on a new SQLite file with the schema; `template` is such a file to copy, which is faster."""
    with tempfile.TemporaryDirectory(prefix="paidonce-prove-") as folder:
        path = Path(folder) / "simulated.db"
        if template is None:
            migrate(path)
        else:
            shutil.copy(template, path)
        stage = Stage(path)
        try:
            yield stage
        finally:
            stage.close()


def migrate(path: Path) -> None:
    """Make the schema in a new file."""
    asyncio.run(db.migrate(f"sqlite:///{path}"))


@contextmanager
def in_silence() -> Iterator[None]:
    """Without logs, whose lines would cost more than the runs; with memory collected now and then."""
    import structlog

    before = logging.root.manager.disable
    config = structlog.get_config()
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
        logging.disable(before)
        structlog.configure(**config)


def run_batch(stage: Stage, batch: Batch, stop_at: int | None = None) -> Tally:
    """Do one batch; `stop_at` ends it after so many violations."""
    tally = Tally()
    for origin, run in _runs(stage, batch):
        tally.count(origin, *run())
        if tally.schedules % _RUNS_PER_COLLECTION == 0:
            _collect()
        if stop_at is not None and tally.violations >= stop_at:
            break
    _collect()
    return tally


def _collect() -> None:
    """Free what the runs left. What is alive after them is the modules' own, and no later collection looks at it."""
    gc.collect()
    gc.freeze()


Run = Callable[[], tuple[Script, World, Violation | None]]


def _runs(stage: Stage, batch: Batch) -> Iterator[tuple[str, Run]]:
    match batch.kind:
        case "seeds":
            for seed in range(batch.first, batch.end):
                yield f"seed {seed}", lambda seed=seed: play_seed(stage, seed)  # type: ignore[misc]
        case "trials":
            for name, trial in trials(stage).items():
                yield f"flow {name!r}", lambda trial=trial: _play(stage, trial)  # type: ignore[misc]
        case "calm flow":
            script = flows(stage)[batch.name]
            yield f"flow {batch.name!r}", lambda: _play(stage, script)
        case "flow":
            script = flows(stage)[batch.name]
            yield f"flow {batch.name!r}", lambda: _play(stage, script)
            yield from _scripts(stage, f"flow {batch.name!r}", single_faults(stage, script))
        case "pairs":
            pairs = _share(stage, main_flows(stage)[batch.name], batch.first)
            yield from _scripts(stage, f"flow {batch.name!r}", _some(pairs, batch.first, batch.end))


def _share(stage: Stage, script: Script, share: int) -> Iterator[Script]:
    """The pairs behind every `_PAIR_SHARES`-th of the first faults, so that each share walks only through its own."""
    for first in islice(single_faults(stage, script), share, None, _PAIR_SHARES):
        (step,) = first.faults
        yield from single_faults(stage, first, after=step)


def _some(scripts: Iterator[Script], share: int, most: int) -> Iterable[Script]:
    """`most` of them in a fixed random choice, or all for 0."""
    return random.Random(share).sample(list(scripts), most) if most else scripts


def _scripts(stage: Stage, origin: str, scripts: Iterable[Script]) -> Iterator[tuple[str, Run]]:
    for script in scripts:
        faults = ", ".join(f"port {step}: {fate}" for step, fate in script.faults.items())
        yield f"{origin} with {faults}", lambda script=script: _play(stage, script)  # type: ignore[misc]


def _play(stage: Stage, script: Script) -> tuple[Script, World, Violation | None]:
    outcome = script.play(stage)
    return script, outcome.world, outcome.violation


def play_seed(stage: Stage, seed: int) -> tuple[Script, World, Violation | None]:
    """The run of a seed, and the script that it wrote."""
    setup = setup_of(seed)
    world = World(stage, setup)
    author, violation = Author(world, seed), None
    try:
        author.write()
    except Violation as found:
        violation = found
    return Script(setup, tuple(author.moves)), world, violation


# ── Several processes ──────────

_stage: Stage | None = None


def _begin(template: str) -> None:
    """In each process: a stage that lives as long as the process."""
    global _stage  # noqa: PLW0603 - a process of the pool has no other place for it
    logging.disable(logging.CRITICAL)
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    gc.disable()
    own = Path(tempfile.mkdtemp(dir=Path(template).parent)) / "simulated.db"
    shutil.copy(template, own)
    _stage = Stage(own)


def _do(batch: Batch) -> Tally:
    assert _stage is not None
    return run_batch(_stage, batch)


def run(plan: Plan, progress: Callable[[Tally, int, int], None] | None = None) -> Tally:
    """All runs of `plan`. `progress` hears the tally so far, the batches done and those there are."""
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="paidonce-prove-") as folder, in_silence():
        template = Path(folder) / "template.db"
        migrate(template)
        with open_stage(template) as stage:
            batches = plan.batches(stage)
        context = get_context("spawn")
        pool = ProcessPoolExecutor(plan.jobs, mp_context=context, initializer=_begin, initargs=(str(template),))
        with pool:
            for number, done in enumerate(_spread(pool, plan, batches, began)):
                tally.add(done)
                if progress is not None:
                    progress(tally, number + 1, len(batches))
    return tally


def _spread(pool: ProcessPoolExecutor, plan: Plan, batches: list[Batch], began: float) -> Iterator[Tally]:
    """Tallies as they come; no more batches are begun once the time is over."""
    todo = iter(batches)
    under_way: set[Future[Tally]] = set()
    while True:
        late = plan.seconds is not None and time.monotonic() - began > plan.seconds
        while not late and len(under_way) < 2 * plan.jobs and (batch := next(todo, None)) is not None:
            under_way.add(pool.submit(_do, batch))
        if not under_way:
            return
        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def points(stage: Stage) -> frozenset[str]:
    """All crash points of the core and of the gateways that take part."""
    return crash_points(stage.casts)
