"""Planted bugs: each patch is applied to a copy of the package, and the simulator has to find what it broke.

A simulator that finds nothing says little. One that finds every bug which was planted in its way says what it can see.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import paidonce
from paidonce.errors import ConfigError
from paidonce.prove.flows import flows
from paidonce.prove.run import Batch, Tally, in_silence, migrate, open_stage, run_batch
from paidonce.prove.world import Stage

# How far a mutant is looked for: the number says what "not found" means.
MOST_SCHEDULES = 12_000
TIMEOUT_SECONDS = 900
_FIRST_SEEDS, _SEEDS_AT_A_TIME = 200, 100
_HEADER = re.compile(r"^(What|Breaks|Test|Row): (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Hunt:
    """What came of one mutant: by which invariant it was found, after how many runs, and in which one.

    `told` says what broke, or why nothing was found.
    """

    name: str
    what: str
    found: bool
    invariant: str = ""
    schedules: int = 0
    origin: str = ""
    told: str = ""


def patches(folder: Path) -> list[Path]:
    """The patch files in `folder`. Raises `ConfigError` if there are none."""
    found = sorted(folder.glob("*.patch"))
    if not found:
        raise ConfigError([f"There are no patch files (*.patch) in {folder}; the project keeps them in tests/mutants."])
    return found


def git() -> str:
    """Where git is. Raises `ConfigError` without it."""
    found = shutil.which("git")
    if found is None:
        raise ConfigError(["Planting bugs needs git, which is not on the PATH. Install it."])
    return found


def header(patch: Path) -> dict[str, str]:
    """What the text before a patch says of it: `What`, `Row`, and `Breaks` or `Test`."""
    return dict(_HEADER.findall(patch.read_text("utf-8").partition("diff --git")[0]))


def hunt_all(folder: Path, jobs: int, progress: Callable[[Hunt], None], *, most: int = MOST_SCHEDULES) -> list[Hunt]:
    """Hunt every mutant in `folder`, `jobs` at a time, each in about `most` runs.

    Raises `ConfigError` for a patch that does not fit the code, and without git.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="paidonce-mutants-") as work, ThreadPoolExecutor(jobs) as pool:
        template = Path(work) / "template.db"
        migrate(template)
        hunts = [pool.submit(hunt, patch, Path(work), template, most) for patch in patches(folder)]
        try:
            for done in as_completed(hunts):
                found.append(done.result())
                progress(found[-1])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(found, key=lambda one: one.name)


def hunt(
    patch: Path,
    work: Path,
    template: Path,
    most: int = MOST_SCHEDULES,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Hunt:
    """Look for one mutant in a process of its own. One that does not end in time is not found, and that is told.

    Raises `ConfigError` as `mutate` does, and if the process fails.
    """
    source = work / patch.stem
    mutate(patch, source)
    command = [sys.executable, "-m", "paidonce.prove.mutants", str(template), str(most)]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    what = header(patch).get("What", "")
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Hunt(patch.stem, what, found=False, told=f"it did not end within {timeout_seconds:g} seconds")
    finally:
        shutil.rmtree(source)
    if ended.returncode != 0:
        raise ConfigError([f"The mutant {patch.stem} can't be run: {ended.stderr[-800:]}"])
    return Hunt(patch.stem, what, **json.loads(ended.stdout))


def mutate(patch: Path, source: Path) -> None:
    """Make a copy of the package in the folder `source`, with the patch applied to it.

    Raises `ConfigError` if the patch does not fit or changes nothing, and without git.
    """
    package, copy = Path(paidonce.__file__).parent, source / "src" / "paidonce"
    shutil.copytree(package, copy)
    before = _contents(copy)
    _apply(patch, source)
    if _contents(copy) == before:
        # The unchanged code would be searched for a bug that it does not have.
        raise ConfigError([f"{patch.name} changes no file of the package; its paths have to begin with src/paidonce/."])
    copy.rename(source / "paidonce")


def _apply(patch: Path, source: Path) -> None:
    # Inside a checkout git would take the patch's paths for that checkout's own, and skip them without an error.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(source.resolve().parent)
    command = [git(), "apply", str(patch.resolve())]
    applied = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if applied.returncode != 0:
        raise ConfigError([f"{patch.name} no longer fits the code; make it anew: {applied.stderr.strip()}"])


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ── In the process of a mutant ──────────


def _look(stage: Stage, most: int) -> Tally:
    """Run until the first violation: some seeds, which are quick, every flow as it is, then faults and more seeds."""
    tally = Tally()
    for batch in _course(stage):
        tally.add(run_batch(stage, batch, stop_at=1))
        if tally.violations or tally.schedules >= most:
            break
    return tally


def _course(stage: Stage) -> Iterator[Batch]:
    names = list(flows(stage))
    yield Batch("seeds", "", 0, _FIRST_SEEDS)
    yield Batch("trials")
    yield from (Batch("calm flow", name) for name in names)
    seeds = (Batch("seeds", "", first, first + _SEEDS_AT_A_TIME) for first in range(_FIRST_SEEDS, 10**9, 100))
    yield from chain.from_iterable((Batch("flow", name), next(seeds)) for name in names)
    yield from seeds


def main(template: str, most: int) -> None:
    """Look, and print what was found as JSON."""
    with in_silence(), open_stage(Path(template)) as stage:
        tally = _look(stage, most)
    value: dict[str, object] = {"found": bool(tally.violations), "schedules": tally.schedules}
    if tally.failures:
        failure = tally.failures[0]
        value |= {"invariant": failure.invariant, "origin": failure.origin, "told": failure.what[:200]}
    sys.stdout.write(json.dumps(value))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
