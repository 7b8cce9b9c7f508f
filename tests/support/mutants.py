"""Small patches that break the code on purpose, each applied to a copy, and the guard that has to notice it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LONGEST_SECONDS = 300

# What every guard imports, and what no mutant changes: half of the time of a start.
_THE_SAME_FOR_ALL = [
    *(
        "pytest",
        "hypothesis",
        "aiohttp",
        "alembic.command",
        "asyncpg",
        "babel.dates",
        "babel.numbers",
        "cryptography.x509",
    ),
    *("fastapi", "jinja2", "limits", "psycopg", "pwdlib.hashers.argon2", "pydantic_settings", "rich.console"),
    *("sqlalchemy.ext.asyncio", "standardwebhooks", "stripe", "structlog", "typer", "uvicorn"),
]


def assert_noticed(patch: Path, guard: str, folder: Path) -> None:
    """Assert that the test `guard` (`tests/….py::name`) fails by its assertions on a copy with `patch` in `folder`."""
    # With what is compiled: a patched file is newer than that, and so it is compiled anew.
    shutil.copytree(ROOT / "src", folder / "src")
    applied = subprocess.run(["git", "apply", str(patch)], cwd=folder, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"the patch no longer fits the code; renew it: {applied.stderr}"
    code, said = _run(guard, folder)
    assert "failed" in said, f"the mutant survived:\n{said[-4000:]}"
    assert code == 1, "the guard must fail by its assertions, not by a broken collection"
    where = f"paidonce={folder / 'src' / 'paidonce'}"
    assert where in said, "the guard has to run against the mutant, not against the installed package"


def _run(guard: str, mutated: Path) -> tuple[int | None, str]:
    """Run `guard` on the copy in `mutated`: its exit code, and all that it said."""
    probe = mutated / "probe.py"
    probe.write_text("import paidonce\ndef pytest_report_header():\n    return f'paidonce={paidonce.__path__[0]}'\n")
    said = mutated / "said.txt"
    process = _forks().Process(target=_guard, args=(str(ROOT / guard), str(mutated), str(said)))
    process.start()
    process.join(_LONGEST_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    code = process.exitcode
    process.close()
    return code, said.read_text("utf-8")


@cache
def _forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_THE_SAME_FOR_ALL)
    return context


def _guard(guard: str, mutated: str, said: str) -> None:
    """In a fork of its own, where nothing of the package was imported yet."""
    loaded = [name for name in sys.modules if name.partition(".")[0] == "paidonce"]
    assert loaded == [], "the package without the patch is here already"
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(ROOT)
    folders = [f"{mutated}/src", mutated]
    sys.path[:0] = folders
    # The plugins that lie around take time as well, and no guard needs more than this one.
    os.environ |= {"PYTHONPATH": os.pathsep.join(folders), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    import pytest

    # One database is enough to notice.
    options = ["-q", "-x", "-v", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-p", "probe"]
    sys.exit(pytest.main([*options, "-k", "not postgres", guard]))
