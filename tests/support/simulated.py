"""The stage of `paidonce prove` for tests, and copies of the package with a bug planted in them."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paidonce.prove.run import in_silence, open_stage
from paidonce.prove.world import Stage

ROOT = Path(__file__).parents[2]
MUTANTS = ROOT / "tests" / "mutants"
REGRESSIONS = ROOT / "tests" / "prove" / "regressions"


@contextmanager
def silent_stage(template: Path) -> Iterator[Stage]:
    """A stage on a copy of `template`, without logs while it is open."""
    with in_silence(), open_stage(template) as stage:
        gc.enable()  # Nobody here collects by hand, as the long runs do.
        yield stage


def planted(mutant: str, folder: Path) -> Path:
    """A copy of `src` below `folder` with that bug in it, to be put before the package in PYTHONPATH."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(
        ["git", "apply", str(MUTANTS / f"{mutant}.patch")], cwd=folder, capture_output=True, text=True, check=False
    )
    assert applied.returncode == 0, f"the patch no longer fits the code; renew it: {applied.stderr}"
    return folder / "src"


def run_on(source: Path, *command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with the package in `source` and with the tests' own modules."""
    paths = os.pathsep.join((str(source), str(ROOT / "tests")))
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
