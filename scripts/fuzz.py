"""Throw genuine inputs with mistakes in them at every parser of what others send: scripts/fuzz.py --inputs 1000000

The same seed makes the same inputs, with however many processes. A crash is saved as a file below --crashes, and
--replay FILE feeds it again. Exit code: 0 if nothing crashed, 1 otherwise, 2 for an unknown target.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.fuzzing import Tally, run, run_one
from support.fuzztargets import targets

_MOST_SAVED = 20


def main() -> int:
    """Run it, with progress on stderr and figures on stdout."""
    given = _arguments()
    if given.replay:
        return _replay(given.replay)
    unknown = set(given.target) - {target.name for target in targets()}
    if unknown:
        sys.stderr.write(f"There is no target {sorted(unknown)[0]!r}; --list names them.\n")
        return 2
    if given.list:
        sys.stdout.write("\n".join(target.name for target in targets()) + "\n")
        return 0
    began, found = time.monotonic(), dict[str, Tally]()
    for name, part in run(targets, inputs=given.inputs, seed=given.seed, jobs=given.jobs, chosen=given.target):
        _add(found.setdefault(name, Tally()), part)
        _save(part, given.crashes)
        done = sum(one.inputs for one in found.values())
        if sys.stderr.isatty() or done % 100_000 < part.inputs:
            sys.stderr.write(f"{done:>9,} inputs, {done / (time.monotonic() - began):,.0f} a second: {name}\n")
    return _tell(found, time.monotonic() - began, given)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many in all (100000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other inputs (1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--target", action="append", default=[], help="only this one; may be given again")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--crashes", type=Path, default=Path("var/fuzz"), help="where crashes are saved (var/fuzz)")
    parser.add_argument("--replay", type=Path, help="feed a saved input again")
    return parser.parse_args()


def _add(whole: Tally, part: Tally) -> None:
    whole.inputs += part.inputs
    whole.taken += part.taken
    whole.seconds += part.seconds
    whole.crashes += part.crashes


def _save(part: Tally, folder: Path) -> None:
    """Each crash as a file: a line with its target, and the input as it was."""
    for crash in part.crashes[:_MOST_SAVED]:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{crash.target.replace(': ', '-').replace(' ', '-')}-{crash.number}.bin"
        file.write_bytes(f"{crash.target}\n".encode() + crash.data)
        sys.stderr.write(f"CRASH {crash.target}: {crash.error}\n  saved as {file}\n")


def _replay(file: Path) -> int:
    name, _, data = file.read_bytes().partition(b"\n")
    target = next((one for one in targets() if one.name == name.decode()), None)
    if target is None:
        sys.stderr.write(f"{file} names no target of today.\n")
        return 2
    tally = Tally()
    run_one(target, 0, data, tally)
    sys.stdout.write(f"{tally.crashes[0].error if tally.crashes else 'taken' if tally.taken else 'refused'}\n")
    return 1 if tally.crashes else 0


def _tell(found: dict[str, Tally], seconds: float, given: argparse.Namespace) -> int:
    inputs = sum(one.inputs for one in found.values())
    crashes = sum(len(one.crashes) for one in found.values())
    if given.json:
        figures = {"inputs": inputs, "crashes": crashes, "seconds": round(seconds, 1), "seed": given.seed}
        by_target = {name: _figures(one) for name, one in found.items()}
        sys.stdout.write(json.dumps({**figures, "targets": by_target}) + "\n")
        return 1 if crashes else 0
    for name, one in sorted(found.items()):
        told = _figures(one)
        line = f"{name:<40} {told['inputs']:>9,} inputs {told['taken']:>9,} taken {told['crashes']:>4} crashes"
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{inputs:,} inputs in {seconds:,.1f} s ({inputs / seconds:,.0f} a second), {crashes} crashes\n")
    return 1 if crashes else 0


def _figures(one: Tally) -> dict[str, int]:
    return {"inputs": one.inputs, "taken": one.taken, "crashes": len(one.crashes)}


if __name__ == "__main__":
    raise SystemExit(main())
