"""Find the bug of the package that this runs on, make its run short, tell it and keep it: as a process of its own.

Prints JSON. Usage: `python -m support.hunted TEMPLATE FOLDER`, with the migrated SQLite file to copy and the folder
that keeps the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import paidonce
from paidonce.prove.checks import Violation
from paidonce.prove.run import play_seed
from paidonce.prove.script import Script
from paidonce.prove.shrink import shrink
from paidonce.prove.story import save, story
from paidonce.prove.world import Stage
from support.simulated import silent_stage

SEEDS = 3000
# Shorter ones would not show that a run was made short.
LONG_MOVES = 16


def first_failure(stage: Stage) -> tuple[int, Script, Violation]:
    """The first seed whose run is long and breaks something."""
    for seed in range(SEEDS):
        script, _, violation = play_seed(stage, seed)
        if violation is not None and len(script.moves) >= LONG_MOVES:
            return seed, script, violation
    raise AssertionError(f"none of {SEEDS} seeds finds it in a long run")


def main(template: str, folder: str) -> None:
    """Do it all twice, and print what came of the first time, and whether the second one came to the same."""
    with silent_stage(Path(template)) as stage:
        seed, script, broken = first_failure(stage)
        short = shrink(script, stage, broken.invariant)
        runs: list[int] = []
        again = shrink(script, stage, broken.invariant, lambda count, _: runs.append(count))
        outcome = short.play(stage)
        told = story(outcome, origin=f"seed {seed}")
        kept = save(outcome, Path(folder), origin=f"seed {seed}")
        violation = outcome.violation
    found = {
        "package": paidonce.__path__[0],
        "origin": f"seed {seed}",
        "invariant": broken.invariant,
        "still": None if violation is None else violation.invariant,
        "long": len(script.moves),
        "short": short.to_json(),
        "same": short == again,
        "runs": len(runs),
        "story": told,
        "file": str(kept),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
