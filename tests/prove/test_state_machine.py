"""The same moves as the seeds make, chosen and shortened by Hypothesis: a second opinion by other means.

PROVE_EXAMPLES=5000 tries more of them than a normal run does, and others each time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from paidonce.prove.checks import Violation
from paidonce.prove.engine import FATES
from paidonce.prove.world import AMOUNTS, BASKETS, BUYERS, GOODS, REQUEST_KEYS, Move, Setup, Stage, World
from support.simulated import planted, run_on

EXAMPLES = int(os.environ.get("PROVE_EXAMPLES", "150"))
STEPS = 25
ALL = 99
WAITS = (1, 31, 70, 125, 310, 700, 1_300, 7 * 3600, 25 * 3600, -70)
OUTAGES = ("", "request lost", "answer lost", "503", "500 after all", "429")

Moves = st.SearchStrategy[Move]


def below(count: int) -> st.SearchStrategy[int]:
    """A number for one of so many."""
    return st.sampled_from(range(count))  # Unlike integers, without a liking for the last one.


def move(verb: str, *args: st.SearchStrategy[object]) -> Moves:
    """A kind of move, with its parameters drawn."""
    return st.tuples(st.just(verb), *args)


processes = st.sampled_from((0, 1))
newest_first = st.sampled_from((-1, -2, -3))
few = below(4)
gateways = below(2)
amounts = below(len(AMOUNTS))

REFUNDS = move("refund", few, amounts, st.booleans(), below(len(REQUEST_KEYS)), processes)
STAFF = st.one_of(REFUNDS, move("capture", few, amounts, processes), move("release", few, processes))
LEAVES = st.one_of(move("cancel", newest_first, processes), move("cancel_order", newest_first, processes))
POST = st.one_of(
    move("deliver", few, st.integers(1, 2), st.booleans(), processes),
    move("drop", few),
    move("forge", few, below(3), processes),
)
MISHAPS = st.one_of(
    move("crash", processes),
    move("outage", gateways, st.sampled_from(OUTAGES)),
    move("stranger", below(8), few, processes),
    move("stock", below(len(GOODS)), st.sampled_from((1, -1, -2)), processes),
    move("discount", newest_first, processes),
)


class Shop(RuleBasedStateMachine):
    """A world whose moves are rules. In the end all faults stop, and everything has to find its place."""

    stage: ClassVar[Stage]

    def __init__(self) -> None:
        super().__init__()
        self.setup = Setup()
        self.moves: list[Move] = []
        self.is_broken = False
        self.world = World(self.stage, self.setup)

    @initialize(manual=st.booleans(), webhooks_at_last=st.booleans())
    def begin(self, *, manual: bool, webhooks_at_last: bool) -> None:
        """A shop without orders."""
        self.setup = Setup(manual=manual, webhooks_at_last=webhooks_at_last)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.world, self.moves = World(self.stage, self.setup), []

    def act(self, *move: object) -> None:
        """Carry it out, and keep it for the failure's report."""
        self.moves.append(move)
        self._watched(lambda: self.world.act(move))

    def _watched(self, go: Callable[[], None]) -> None:
        try:
            go()
        except Violation as broken:
            self.is_broken = True
            # Hypothesis shortens what fails by an `Exception` only. The cause tells it one break from another.
            raise AssertionError(f"{broken}\n{self.setup}\nmoves: {self.moves}") from broken

    def teardown(self) -> None:
        """The calm, unless something is broken already."""
        try:
            if not self.is_broken:
                self._watched(self.world.calm_down)
        finally:
            # What is under way when something breaks is never gone on with.
            for process in (0, 1):
                self.world.engine.kill(process)

    def has_tasks(self) -> bool:
        """Whether an action is under way."""
        return bool(self.world.engine.tasks)

    def has_tabs(self) -> bool:
        """Whether a pay page is open somewhere."""
        return bool(self.world.tabs)

    def is_late(self) -> bool:
        """Whether enough has happened for a calm."""
        return self.has_tabs() and len(self.moves) > 12

    # ── What is under way ──────────

    @precondition(has_tasks)
    @rule(task=few, steps=st.sampled_from((ALL, 1, 2, 3, 5)))
    def go_on(self, task: int, steps: int) -> None:
        self.act("go", task, steps)

    @precondition(has_tasks)
    @rule(task=few, data=st.data())
    def fail(self, task: int, data: st.DataObject) -> None:
        tasks = self.world.engine.tasks
        port = tasks[task % len(tasks)].waiting
        assert port is not None
        self.act("go", task, 1, data.draw(st.sampled_from(FATES[port.kind]), label="fate"))

    @precondition(has_tasks)
    @rule()
    def finish(self) -> None:
        self.act("finish")

    # ── Buyers ──────────

    @precondition(lambda self: len(self.world.orders) < 3)
    @rule(buyer=below(len(BUYERS)), basket=below(len(BASKETS)), gateway=gateways, far=below(4), process=processes)
    def buy(self, buyer: int, basket: int, gateway: int, far: int, process: int) -> None:
        """An order, and how far its buyer comes before anything else happens."""
        begun = (("start", -1, gateway, process), ("finish",), ("agree", -1, 0), ("complete", -1, process))
        for move in (("order", buyer, basket, process), ("finish",), *begun[: far + 1]):
            self.act(*move)

    @precondition(lambda self: bool(self.world.orders))
    @rule(order=newest_first, gateway=gateways, process=processes)
    def start(self, order: int, gateway: int, process: int) -> None:
        self.act("start", order, gateway, process)

    @precondition(has_tabs)
    @rule(tab=newest_first, way=st.one_of(st.just(0), below(10)))
    def agree(self, tab: int, way: int) -> None:
        self.act("agree", tab, way)

    @precondition(has_tabs)
    @rule(tab=newest_first, process=processes)
    def come_back(self, tab: int, process: int) -> None:
        self.act("complete", tab, process)

    @precondition(has_tabs)
    @rule(tab=newest_first, process=processes)
    def agree_and_come_back(self, tab: int, process: int) -> None:
        self.act("agree", tab, 0)
        self.act("complete", tab, process)

    @precondition(has_tabs)
    @rule(move=LEAVES)
    def leave(self, move: Move) -> None:
        self.act(*move)

    # ── Everybody else ──────────

    @precondition(has_tabs)
    @rule(move=POST)
    def post(self, move: Move) -> None:
        self.act(*move)

    @rule(seconds=st.sampled_from(WAITS), process=processes)
    def wait_and_recover(self, seconds: int, process: int) -> None:
        self.act("wait", seconds)
        self.act("recover", process)

    @precondition(has_tabs)
    @rule(move=STAFF)
    def staff(self, move: Move) -> None:
        self.act(*move)

    @precondition(has_tabs)
    @rule(gateway=gateways, data=st.data())
    def bank(self, gateway: int, data: st.DataObject) -> None:
        happenings = self.stage.casts[self.stage.names[gateway]].happenings()
        if happenings:
            control, params = data.draw(st.sampled_from(list(happenings)), label="what happens")
            self.act("bank", gateway, control, dict(params))

    @precondition(has_tabs)
    @rule(move=MISHAPS)
    def mishap(self, move: Move) -> None:
        self.act(*move)

    @precondition(is_late)
    @rule(verdict=below(2))
    def all_calms_down(self, verdict: int) -> None:
        """The calm amid the rules, and another day: a failure there ends the example, which shortens it far better."""
        self._watched(self.world.calm_down)
        self.setup = replace(self.setup, verdict=verdict)
        self._begin_anew()


def configured(examples: int) -> settings:
    """Without a clock, and always the same examples unless somebody asks for more of them."""
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize="PROVE_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        print_blob=False,
    )


def test_no_choice_of_moves_breaks_the_promise(stage: Stage) -> None:
    Shop.stage = stage
    run_state_machine_as_test(Shop, settings=configured(EXAMPLES))


def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    source = planted("capture-gets-a-fresh-key", tmp_path)
    test = f"{__file__}::{test_no_choice_of_moves_breaks_the_promise.__name__}"
    outcome = run_on(source, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", test)
    assert outcome.returncode == 1, f"the machine has to fail by its assertions:\n{outcome.stdout[-2000:]}"
    assert "AssertionError: I4: " in outcome.stdout
    assert str(source / "paidonce" / "prove" / "world.py") in outcome.stdout, "the bug's own copy has to run"
    # Hypothesis tells the rules, and the error the moves that a script can be made of.
    assert "state.begin(" in outcome.stdout
    assert re.search(r"moves: \[.*\('order', ", outcome.stdout)
