"""`docs/faults.md` maps every known way to break a payment, and every attack, to tests that exist; none is left out."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "faults.md"
LIST = ROOT.parent / "shared" / "FAULTS.md"
FAULTS = ("The gateway", "Webhooks", "Orders, money, stock")
ATTACKS = "Attacks"
# A test that has one of these runs once on SQLite and once on PostgreSQL.
ON_BOTH_DATABASES = {"shop", "manual", "database_url", "database"}


def rows(text: str, sections: tuple[str, ...] = (*FAULTS, ATTACKS)) -> dict[str, list[str]]:
    """The first cells of the tables below each of `sections`, without the heads, and the rest of each row."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ").strip()
        if section in sections and line.startswith("|") and not re.match(r"\|[-| ]+\|$", line):
            first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            if first not in ("fault", "what goes wrong", "attack"):
                found[_without_references(first)] = rest
    return found


def _without_references(cell: str) -> str:
    """References to public threads stand in square brackets that hold a `#`."""
    return re.sub(r"\s*\[[^\]]*#[^\]]*\]", "", cell).strip()


def attacks(text: str) -> set[str]:
    """The attacks of the list, which stand in one sentence with semicolons between, before the classes in brackets."""
    section = text.partition(f"## {ATTACKS}\n")[2].partition("\n(Classes seen")[0]
    return {" ".join(one.split()).strip(" .") for one in section.split(";")}


@lru_cache
def functions(path: Path) -> dict[str, set[str]]:
    """The test functions of a file and the names of their arguments."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.name: {arg.arg for arg in node.args.args}
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def named_tests() -> list[tuple[str, str, str]]:
    """Row, file and function of every test that the page names."""
    return [
        (row, file if "/" in file else f"tests/flows/{file}", function)
        for row, rest in rows(PAGE.read_text("utf-8")).items()
        for file, function in re.findall(r"`([\w/]+\.py)::(\w+)`", rest[0])
    ]


def test_every_row_of_the_list_has_a_row_here() -> None:
    if not LIST.exists():
        pytest.skip("the list of faults that the project works from is not beside this checkout")
    text = LIST.read_text("utf-8")
    faults, attacked = set(rows(text)), attacks(text)
    assert len(faults) > 25, "the list could not be read"
    assert len(attacked) > 20, "the list of attacks could not be read"
    assert set(rows(PAGE.read_text("utf-8"))) == faults | attacked


def test_every_row_names_a_test() -> None:
    here = rows(PAGE.read_text("utf-8"))
    assert len(here) > 25, "the page could not be read"
    assert {row for row, _, _ in named_tests()} == set(here)


@pytest.mark.parametrize(("row", "file", "function"), named_tests(), ids=lambda value: str(value)[:60])
def test_the_named_test_exists_and_faults_are_shown_on_both_databases(row: str, file: str, function: str) -> None:
    path = ROOT / file
    assert path.exists(), f"{row}: {file} does not exist"
    assert function in functions(path), f"{row}: {file} has no {function}"
    if row in rows(PAGE.read_text("utf-8"), FAULTS):
        assert functions(path)[function] & ON_BOTH_DATABASES, f"{row}: {function} does not run on both databases"
