"""Long runs become short ones that break the same, and nothing but what has to stay stays."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from paidonce.prove.checks import INVARIANTS
from paidonce.prove.flows import flows, main_flows, pairs_of_faults, single_faults, steps_of
from paidonce.prove.regressions import read
from paidonce.prove.script import Script
from paidonce.prove.shrink import reduce, shrink, spelled_out
from paidonce.prove.world import Move, Setup, Stage
from support.simulated import planted, run_on

LONG = Script(
    Setup(manual=True, webhooks_at_last=True, verdict=1, long=True),
    (
        ("order", 2, 1, 1),
        ("go", 3, 2, "503"),
        ("stranger", 1, 1, 1),
        ("start", 0, 1, 1),
        ("go", 1, 4, "crash after"),
        ("agree", 5, 7),
        ("wait", 7200),
        ("bank", 1, "dashboard_refund", {"ref": "#3", "amount": "100"}),
        ("refund", 2, 3, True, 1, 0),
        ("crash", 1),
        ("go", 0, 5),
    ),
    {3: "503", 8: "crash after", 12: "429"},
)

# Each of the planted bugs needs an order, a start and what ends them, with the ports that these pass.
MOST_MOVES = 8


def verbs(script: Script) -> list[str]:
    return [move[0] for move in script.moves]


def test_only_what_has_to_stay_stays() -> None:
    def breaks(script: Script) -> bool:
        waits = sum(move[1] for move in script.moves if move[0] == "wait")
        return "start" in verbs(script) and waits >= 100 and 8 in script.faults and script.setup.manual

    assert reduce(LONG, breaks) == Script(Setup(manual=True), (("start", 0, 0, 0), ("wait", 100)), {8: "crash after"})


@pytest.mark.parametrize(
    ("verb", "plain"),
    [
        ("order", ("order", 0, 0, 0)),
        ("agree", ("agree", 0, 0)),
        ("bank", ("bank", 0, "dashboard_refund", {"ref": "#0", "amount": "100"})),
        ("refund", ("refund", 0, 0, False, 0, 0)),
        ("go", ("go", 0, 99)),
    ],
)
def test_a_move_becomes_as_plain_as_it_can_be(verb: str, plain: Move) -> None:
    assert reduce(LONG, lambda script: verb in verbs(script)) == Script(moves=(plain,))


def test_a_fate_that_matters_stays_at_the_first_port_that_will_do() -> None:
    def breaks(script: Script) -> bool:
        return any(move[3:] == ("crash after",) and move[2] >= 3 for move in script.moves)

    assert reduce(LONG, breaks) == Script(moves=(("go", 0, 3, "crash after"),))


def test_two_moves_that_need_each_other_go_together() -> None:
    def breaks(script: Script) -> bool:
        # Without its crash, the start would have to be missing as well: neither can be dropped alone.
        return "wait" in verbs(script) and ("start" in verbs(script)) == ("crash" in verbs(script))

    assert reduce(LONG, breaks) == Script(moves=(("wait", 0),))


def test_it_is_the_same_each_time_and_bounded() -> None:
    tried: list[Script] = []
    told: list[tuple[int, int]] = []

    def breaks(script: Script) -> bool:
        tried.append(script)
        return "agree" in verbs(script)

    whole = reduce(LONG, breaks)
    assert reduce(LONG, breaks) == whole
    tried.clear()
    part = reduce(LONG, breaks, progress=lambda runs, moves: told.append((runs, moves)), most_runs=3)
    assert len(tried) == 3
    assert [runs for runs, _ in told] == [1, 2, 3]
    assert "agree" in verbs(part)
    assert part != whole
    tried.clear()
    assert reduce(LONG, breaks, most_seconds=-1.0) == LONG
    assert tried == []


def test_what_breaks_nothing_comes_back_as_it_was(stage: Stage) -> None:
    runs: list[int] = []
    script = next(iter(main_flows(stage).values()))
    assert shrink(script, stage, "I2", lambda count, _: runs.append(count)) == script
    assert runs == [1], "there is nothing to look for"


def test_faults_written_into_moves_make_the_same_run(stage: Stage) -> None:
    """A fault that is named by its port's number would hit another port as soon as a move before it is dropped."""
    every, main = list(flows(stage).values())[::4], next(iter(main_flows(stage).values()))
    some = [one for script in every for one in islice(single_faults(stage, script), 3, None, 41)]
    some += islice(pairs_of_faults(stage, main), 0, 2000, 97)
    assert len(some) > 100
    for script in some:
        spelled = spelled_out(script, stage)
        assert spelled.faults == {}, script
        assert spelled.play(stage).world.digest() == script.play(stage).world.digest(), script


def test_a_script_that_breaks_by_itself_can_still_be_walked_through(stage: Stage) -> None:
    """Its faults are tried up to there, and what it breaks crosses from process to process as it is."""
    paid = next(iter(main_flows(stage).values())).moves
    breaks = Script(moves=(*paid, ("must_not_be_paid",), ("recover", 0), ("go", 0, 99)))
    violation = breaks.play(stage).violation
    assert violation is not None
    ports = steps_of(stage, Script(moves=paid))
    assert len(ports) > 2
    assert steps_of(stage, breaks) == ports
    assert max(max(one.faults) for one in single_faults(stage, breaks)) == len(ports) - 1
    again = pickle.loads(pickle.dumps(violation))  # noqa: S301 - it is the one above
    assert (type(again), again.invariant, again.what) == (type(violation), violation.invariant, violation.what)


def test_a_fault_inside_a_larger_move_keeps_its_number(stage: Stage) -> None:
    """A stranger's try lets all tasks end first, and then its own: no `go` can say that."""
    moves: tuple[Move, ...] = (("order", 0, 0, 0), ("go", 0, 99), ("start", 0, 0, 0), ("go", 0, 99))
    calm = Script(moves=(*moves, ("complete", 0, 0), ("stranger", 0, 0, 0)))
    port = len(moves) + 1
    script = replace(calm, faults={0: "database down", port: "database down"})
    spelled = spelled_out(script, stage)
    assert spelled.faults == {port: "database down"}
    assert spelled.moves[:2] == (("order", 0, 0, 0), ("go", 0, 1, "database down"))
    assert spelled.play(stage).world.digest() == script.play(stage).world.digest()


@pytest.mark.parametrize(
    ("mutant", "invariant"), [("capture-gets-a-fresh-key", "I4"), ("expired-order-keeps-its-hold", "I3")]
)
def test_a_planted_bug_ends_as_a_short_story(
    mutant: str, invariant: str, tmp_path: Path, sqlite_template: Path, stage: Stage
) -> None:
    source = planted(mutant, tmp_path)
    ended = run_on(source, "-m", "support.hunted", str(sqlite_template), str(tmp_path / "kept"))
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    assert found["package"] == str(source / "paidonce"), "the bug's own copy has to run"
    assert (found["invariant"], found["still"]) == (invariant, invariant)
    assert len(found["short"]["moves"]) <= MOST_MOVES < found["long"]
    assert found["same"], "the same run ends as the same story"
    assert f"{invariant}: {INVARIANTS[invariant]}" in found["story"]
    assert f">>> {invariant}: " in found["story"]
    assert f"paidonce prove --seed {found['origin'].removeprefix('seed ')}" in found["story"]
    kept = read(Path(found["file"]))
    assert (kept.breaks, kept.script.to_json()) == (invariant, found["short"])
    assert kept.script.play(stage).violation is None, "without the bug the same moves break nothing"
