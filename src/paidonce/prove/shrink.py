"""From a long run that breaks an invariant to a short one that breaks the same.

Whatever can be left out is left out, and what stays is made as plain as it can be: moves are dropped in ever smaller
chunks, faults are taken away, actions run to their ends, numbers become small. Each step is kept only if a replay
still breaks the invariant, so the result is a real run and no guess. The same script always ends as the same one,
unless the time is up before.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace

from paidonce.prove.checks import Violation
from paidonce.prove.engine import Port
from paidonce.prove.script import Script
from paidonce.prove.world import Move, Setup, Stage, World

MOST_RUNS = 4_000
MOST_SECONDS = 120.0
_ALL = 99
# Cycles of coroutines and tracebacks, where the collector is switched off for speed.
_RUNS_PER_COLLECTION = 100
_BELONG_TOGETHER = 3
_FEW = 40

Breaks = Callable[[Script], bool]
# What is told of the progress: how many replays there were, and how many moves are left.
Progress = Callable[[int, int], None]


def shrink(
    script: Script,
    stage: Stage,
    invariant: str,
    progress: Progress | None = None,
    *,
    most_runs: int = MOST_RUNS,
    most_seconds: float = MOST_SECONDS,
) -> Script:
    """The shortest script found that still breaks `invariant`; `script` itself if it does not break it at all."""

    def breaks(candidate: Script) -> bool:
        return breaks_in(stage, candidate) == invariant

    return reduce(script, breaks, stage, progress, most_runs=most_runs, most_seconds=most_seconds)


def breaks_in(stage: Stage, script: Script) -> str | None:
    """The invariant that a replay breaks, or None."""
    outcome = script.play(stage)
    for process in {task.process for task in outcome.world.engine.tasks}:
        outcome.world.engine.kill(process)
    return None if outcome.violation is None else outcome.violation.invariant


def reduce(
    script: Script,
    breaks: Breaks,
    stage: Stage | None = None,
    progress: Progress | None = None,
    *,
    most_runs: int = MOST_RUNS,
    most_seconds: float = MOST_SECONDS,
) -> Script:
    """The shortest script found for which `breaks` is true. Faults become moves only with a `stage` to try them on."""
    search = _Search(script, breaks, progress, most_runs, time.monotonic() + most_seconds)
    if search.is_kept(script):
        if stage is not None and script.faults:
            search.keep(spelled_out(script, stage))
        search.run()
    return search.best


class _Search:
    """The best script so far, and how much may still be tried."""

    def __init__(
        self, script: Script, breaks: Breaks, progress: Progress | None, most_runs: int, until_seconds: float
    ) -> None:
        self.best = script
        self._breaks = breaks
        self._progress = progress
        self._left = most_runs
        self._until_seconds = until_seconds
        self._known: dict[str, bool] = {}

    @property
    def is_over(self) -> bool:
        """Whether no further run is allowed."""
        return self._left <= 0 or time.monotonic() > self._until_seconds

    def is_kept(self, candidate: Script) -> bool:
        """Whether the candidate still breaks what it has to break. False without a run once all is used up."""
        key = json.dumps(candidate.to_json(), sort_keys=True)
        if key not in self._known:
            if self.is_over:
                return False
            self._left -= 1
            self._known[key] = self._breaks(candidate)
            self._tell()
        return self._known[key]

    def _tell(self) -> None:
        runs = len(self._known)
        if runs % _RUNS_PER_COLLECTION == 0:
            gc.collect()
        if self._progress is not None:
            self._progress(runs, len(self.best.moves))

    def keep(self, candidate: Script) -> bool:
        """Go on from the candidate if it still breaks."""
        if candidate == self.best or not self.is_kept(candidate):
            return False
        self.best = candidate
        return True

    def run(self) -> None:
        """All ways to make it simpler, again and again until none helps. Each one makes it smaller, so this ends."""
        before: Script | None = None
        while before != self.best and not self.is_over:
            before = self.best
            self._drop_moves()
            self._drop_faults()
            self._plain_setup()
            for number in range(len(self.best.moves)):
                self._plain_move(number)
            if before == self.best:
                self._drop_pairs()

    def _drop_moves(self) -> None:
        """Chunks from half of all down to single moves, the last ones first: what follows the break means nothing."""
        size = max(len(self.best.moves) // 2, 1)
        while size >= 1:
            end = len(self.best.moves)
            while end > 0:
                moves = self.best.moves
                dropped = self.keep(replace(self.best, moves=moves[: max(end - size, 0)] + moves[end:]))
                # Few moves belong together, wherever they begin: an action and the ports that it passes.
                end -= size if dropped or size > _BELONG_TOGETHER else 1
            size //= 2

    def _drop_pairs(self) -> None:
        """Two moves that only make sense together, wherever they stand. Tried last, since these are many."""
        at = len(self.best.moves)
        while (at := at - 1) > 0:
            if len(self.best.moves) > _FEW:
                return
            for other in range(at):
                moves = self.best.moves
                if self.keep(replace(self.best, moves=moves[:other] + moves[other + 1 : at] + moves[at + 1 :])):
                    at = len(self.best.moves)
                    break

    def _drop_faults(self) -> None:
        for step in sorted(self.best.faults):
            self.keep(replace(self.best, faults={at: fate for at, fate in self.best.faults.items() if at != step}))

    def _plain_setup(self) -> None:
        default = Setup()
        for one in fields(Setup):
            plain = replace(self.best.setup, **{one.name: getattr(default, one.name)})
            self.keep(replace(self.best, setup=plain))

    def _plain_move(self, number: int) -> None:
        """The first plainer form of a move that will do, and then the first plainer form of that."""
        found = True
        while found:
            moves = self.best.moves
            found = any(
                self.keep(replace(self.best, moves=(*moves[:number], plainer, *moves[number + 1 :])))
                for plainer in _plainer(moves[number])
            )


# ── Plainer moves ──────────


def _plainer(move: Move) -> Iterator[Move]:
    """Forms of a move that are easier to read, the plainest first. All of them are strictly plainer."""
    match move:
        case ("go", number, steps):
            if steps != _ALL:
                yield ("go", number, _ALL)
            yield from (("go", lower, steps) for lower in _lower(number))
        case ("go", number, steps, fate):
            yield ("go", number, _ALL)
            yield from (("go", lower, steps, fate) for lower in _lower(number))
            yield from (("go", number, lower, fate) for lower in _lower(steps) if lower > 0)
        case _:
            for position, value in enumerate(move[1:], 1):
                for lower in _plainer_value(value):
                    yield (*move[:position], lower, *move[position + 1 :])


def _plainer_value(value: object) -> Iterator[object]:
    match value:
        case True:
            yield False
        case int():
            yield from _lower(value)
        case dict():
            yield from ({**value, name: "#0"} for name, word in value.items() if word[:1] == "#" and word != "#0")


def _lower(number: int) -> Iterator[int]:
    """Smaller numbers of the same kind; a number below zero counts from the end, or sets a clock back."""
    tried = (0, number // 2, number - 1) if number > 0 else (0,)
    yield from dict.fromkeys(one for one in tried if one != number and one < max(number, 1))


# ── Faults as moves ──────────


def spelled_out(script: Script, stage: Stage) -> Script:
    """The same run with its faults written into its moves, so that leaving out a move moves no fault elsewhere.

    A fault amid a move that does more than to let tasks go on stays where it is: its number still names the same port.
    """
    world = script.open(stage)
    turns = _Turns(world)
    moves: list[Move] = []
    for move in script.moves:
        moves += turns.spelled_out(move, script.faults)
        if turns.is_broken:
            break
    spelled = {step for step in script.faults if step in turns.spelled}
    return replace(script, moves=tuple(moves), faults={at: script.faults[at] for at in script.faults.keys() - spelled})


class _Turns:
    """Which task's turn it is at each port."""

    def __init__(self, world: World) -> None:
        self.spelled: set[int] = set()  # The ports whose faults are written in moves now.
        self.is_broken = False
        self._world = world
        self._turns: list[tuple[int, int]] = []  # A task's number, and its place among those under way.
        world.engine.on_step = self._took

    def _took(self, port: Port) -> None:
        tasks = enumerate(self._world.engine.tasks)
        self._turns.append(next((task.number, place) for place, task in tasks if task.waiting is port))

    def spelled_out(self, move: Move, faults: Mapping[int, str]) -> Sequence[Move]:
        """Carry out the move; it comes back as moves that do the same without the faults beside them."""
        first, self._turns = self._world.engine.steps, []
        try:
            self._world.act(move)
        except Violation:
            self.is_broken = True
        bad = [at for at in range(len(self._turns)) if first + at in faults]
        if not bad or move[0] not in ("go", "go_to", "finish"):
            return [move]
        self.spelled |= {first + at for at in bad}
        return [*self._go_moves(first, bad, faults), *self._rest(move, bad[-1] + 1)]

    def _go_moves(self, first: int, bad: Sequence[int], faults: Mapping[int, str]) -> Iterator[Move]:
        """The ports up to the last bad one: a move for each task's turn, ended by each fault."""
        begin = 0
        for at in range(bad[-1] + 1):
            if at in bad:
                yield ("go", self._turns[at][1], at + 1 - begin, faults[first + at])
            elif self._turns[at][0] != self._turns[at + 1][0]:
                yield ("go", self._turns[at][1], at + 1 - begin)
            else:
                continue
            begin = at + 1

    def _rest(self, move: Move, done: int) -> Iterator[Move]:
        if move[0] != "go":
            yield move
        elif done < len(self._turns):
            yield ("go", self._turns[done][1], move[2] - done, *move[3:])
