"""Find the bug of the package that this runs on, make its run short, tell it and keep it: as a process of its own.

Prints JSON. Usage: `python -m support.hunted TEMPLATE FOLDER`, with the migrated SQLite file to copy and the folder
that keeps the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import paidonce
from paidonce.prove.run import Batch, Failure, run_batch
from paidonce.prove.script import Script, script_of
from paidonce.prove.shrink import shrink
from paidonce.prove.story import save, story
from paidonce.prove.world import Stage
from support.simulated import silent_stage

SEEDS = 3000


def first_failure(stage: Stage) -> tuple[Failure, Script]:
    """The first seed that breaks something, and its run."""
    tally = run_batch(stage, Batch("seeds", "", 0, SEEDS), stop_at=1)
    (failure,) = tally.failures
    return failure, script_of(json.loads(json.dumps(failure.script)))


def main(template: str, folder: str) -> None:
    """Do it all twice, and print what came of the first time, and whether the second one came to the same."""
    with silent_stage(Path(template)) as stage:
        failure, script = first_failure(stage)
        short = shrink(script, stage, failure.invariant)
        runs: list[int] = []
        again = shrink(script, stage, failure.invariant, lambda count, _: runs.append(count))
        outcome = short.play(stage)
        told = story(outcome, origin=failure.origin)
        kept = save(outcome, Path(folder), origin=failure.origin)
        violation = outcome.violation
    found = {
        "package": paidonce.__path__[0],
        "origin": failure.origin,
        "invariant": failure.invariant,
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
