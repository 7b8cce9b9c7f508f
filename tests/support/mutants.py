"""Small patches that break the code on purpose, each applied to a copy, and the guard that has to notice it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def assert_noticed(patch: Path, guard: str, folder: Path) -> None:
    """Assert that the test `guard` (`tests/….py::name`) fails by its assertions on a copy with `patch` in `folder`."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(["git", "apply", str(patch)], cwd=folder, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"the patch no longer fits the code; renew it: {applied.stderr}"
    outcome = _run(guard, folder)
    assert "failed" in outcome.stdout, f"the mutant survived:\n{outcome.stdout[-2000:]}{outcome.stderr[-2000:]}"
    assert outcome.returncode == 1, "the guard must fail by its assertions, not by a broken collection"
    where = f"paidonce={folder / 'src' / 'paidonce'}"
    assert where in outcome.stdout, "the guard has to run against the mutant, not against the installed package"


def _run(guard: str, mutated: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    probe = mutated / "probe.py"
    probe.write_text("import paidonce\ndef pytest_report_header():\n    return f'paidonce={paidonce.__path__[0]}'\n")
    return subprocess.run(
        # One database is enough to notice.
        [*command, "-v", "-p", "probe", "-k", "not postgres", str(ROOT / guard)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{mutated / 'src'}{os.pathsep}{mutated}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
