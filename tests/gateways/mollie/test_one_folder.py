"""The third gateway is one folder: nothing outside it knows its name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from paidonce.gateways.registry import providers

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"mollie", re.IGNORECASE)
OWN = ("src/paidonce/gateways/mollie/", "tests/gateways/mollie/")
# Documents may tell of it.
PROSE = ("docs/", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
# These attack every gateway that the package brings, each by what it knows of it.
ATTACKS = ("tests/web/attacks/",)
# What is made or kept by tools, and not written by us.
_NOT_OURS = frozenset(
    {".git", ".venv", "node_modules", "__pycache__", "dist", "build", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
)


def source_files() -> list[Path]:
    """Every text file of the project: what git knows of, or all there is where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not _NOT_OURS & set(path.parts)]


def names_it(path: Path) -> bool:
    if path.suffix in {".png", ".db", ".woff2"}:
        return False
    return NAME.search(path.read_text(encoding="utf-8", errors="replace")) is not None


def test_no_other_file_names_it() -> None:
    found = {str(path.relative_to(ROOT)): path for path in source_files()}
    own = [name for name in found if name.startswith(OWN)]
    assert len(own) > 20, "the search finds the gateway's own files"
    assert any(names_it(found[name]) for name in own)
    others = [
        name
        for name, path in sorted(found.items())
        if not name.startswith((*OWN, *PROSE, *ATTACKS))
        and not (name.startswith("examples/") and path.name == "README.md")
        and names_it(path)
    ]
    assert others == []


def test_its_folder_alone_makes_it_known() -> None:
    assert "mollie" in [provider.name for provider in providers({})]
