"""Runs repeat: what once broke a promise is played again, and a seed means the same run everywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from paidonce.prove.generate import setup_of
from paidonce.prove.regressions import UNTOLD, Regression, load, read
from paidonce.prove.run import play_seed
from paidonce.prove.script import read_script
from paidonce.prove.world import Stage
from support.simulated import REGRESSIONS, ROOT, planted, run_on

KEPT = load(REGRESSIONS)
SEEDS = range(30)
# Prints what the seeds come to, in a process of its own.
HASHES = """
import json, sys
from pathlib import Path
from paidonce.prove.run import play_seed
from support.simulated import silent_stage
with silent_stage(Path(sys.argv[1])) as stage:
    print(json.dumps([play_seed(stage, seed)[1].digest() for seed in range(int(sys.argv[2]))]))
"""


def test_there_are_kept_runs() -> None:
    assert len(KEPT) >= 3


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: str(kept.name))
def test_what_was_broken_once_is_not_broken_again(stage: Stage, kept: Regression) -> None:
    outcome = kept.script.play(stage)
    assert outcome.violation is None, f"again: {kept.story}\n{outcome.violation}"
    assert len(outcome.world.engine.told) > 3, "nothing happens in this run any more, so it shows nothing"


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: str(kept.name))
def test_a_kept_run_says_in_a_sentence_what_had_happened(kept: Regression) -> None:
    assert not kept.story.startswith(UNTOLD), "somebody still has to write the sentence"
    assert kept.story.endswith(".")
    assert len(kept.story.split()) > 5
    assert kept.breaks


def test_the_rest_of_money_that_contradicts_its_order_goes_back_by_itself(stage: Stage) -> None:
    """The check of the books would be content with an operator who was told; the buyer is not."""
    read(REGRESSIONS / "partly-refunded-contradiction.json").script.play(stage)
    assert stage.books.rows("SELECT status, refund_status, captured_minor FROM payments") == [("held", "full", 1999)]
    given_back = stage.books.rows("SELECT origin, amount_minor FROM refunds WHERE state = 'succeeded' ORDER BY origin")
    assert given_back == [("automatic", 1899), ("gateway", 100)]
    assert stage.books.rows("SELECT id FROM outbox WHERE type = 'alarm.refund_failed'") == []
    assert stage.books.rows("SELECT id FROM orders WHERE status = 'paid'") == []


def test_a_replay_tells_a_planted_bug_from_none(tmp_path: Path) -> None:
    path = REGRESSIONS / "goods-of-an-expired-order.json"
    command = ("-m", "paidonce", "prove", "--replay", str(path))
    good, bad = (
        run_on(ROOT / "src", *command),
        run_on(planted("stock-is-not-held", tmp_path), *command),
    )
    assert good.returncode == 0, good.stdout + good.stderr
    assert "nothing is broken" in good.stdout
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert ">>> I3: the buyer of ord_000001 may pay, and nothing is kept for him" in bad.stdout
    assert f"paidonce prove --replay {path}" in bad.stdout


# ── The same again ──────────


def test_a_seed_is_the_same_run_each_time_and_in_each_process(stage: Stage, sqlite_template: Path) -> None:
    here = [play_seed(stage, seed)[1].digest() for seed in SEEDS]
    assert [play_seed(stage, seed)[1].digest() for seed in SEEDS] == here
    assert len(set(here)) == len(SEEDS), "different seeds are different runs"
    assert os.environ.get("PYTHONHASHSEED", "random") not in ("1", "4242")
    for salt in ("1", "4242"):
        arguments = ("-c", HASHES, str(sqlite_template), str(len(SEEDS)))
        ended = run_on(ROOT / "src", *arguments, environment={"PYTHONHASHSEED": salt})
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert json.loads(ended.stdout) == here, f"with the hash seed {salt}"


def test_a_seeds_script_is_the_seeds_run(stage: Stage) -> None:
    for seed in SEEDS:
        script, world, violation = play_seed(stage, seed)
        assert violation is None
        assert script.setup == setup_of(seed)
        again = read_script(json.dumps(script.to_json()))
        assert again == script
        outcome = again.play(stage)
        assert outcome.violation is None
        assert outcome.world.digest() == world.digest(), f"seed {seed}"
