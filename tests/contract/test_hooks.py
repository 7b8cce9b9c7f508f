"""What a gateway can say of itself: every ability means something, is documented, and is told with a reason."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from paidonce import contract
from paidonce.contract.bench import PUBLIC_URL, Bench, Case
from paidonce.contract.discovery import find_cases
from paidonce.contract.hooks import ABILITIES
from paidonce.contract.notebook import Notebook
from paidonce.errors import ChangedMeanwhile, ConfigError, InvalidRequest
from paidonce.ports import GatewayCallInsideTransaction, SystemClock, inside_transaction

ROOT = Path(__file__).parents[2]
SUITE = "\n".join(path.read_text("utf-8") for path in Path(contract.__path__[0]).glob("*.py") if path.stem != "hooks")


@pytest.mark.parametrize("ability", ABILITIES)
def test_an_ability_makes_a_difference_and_is_documented(ability: str) -> None:
    asked = re.findall(rf'(?:needs|has)\([^)]*"{ability}"', SUITE)
    assert asked, "no test of the suite asks for it, so saying that it lacks would mean nothing"
    page = (ROOT / "docs" / "adding-a-gateway.md").read_text("utf-8")
    table = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    assert any(f"`{ability}`" in row for row in table)


def test_what_a_gateway_lacks_has_a_reason_and_is_left_out_for_it_alone() -> None:
    cases = find_cases([], [], ROOT)
    assert len(cases) >= 2
    for case in cases:
        assert all(len(reason.split()) >= 3 for reason in case.hooks.without.values()), case.name
        assert set(case.hooks.without) <= set(case.missing)
        for ability in ABILITIES:
            assert Bench(case).has(ability) is (ability not in case.hooks.without)
        assert ("twin" in case.missing) is (case.provider.sandbox(PUBLIC_URL) is None)


def test_an_ability_that_nobody_knows_is_no_ability() -> None:
    (case, *_) = find_cases([], [], ROOT)
    with pytest.raises(AssertionError):
        Bench(case).has("refunds")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "can't be imported (ModuleNotFoundError"),
        ("1 / 0", "can't be imported (ZeroDivisionError: division by zero). Mend it."),
        (
            "import no_such_library",
            "can't be imported (ModuleNotFoundError: No module named 'no_such_library'). Mend it.",
        ),
        ("", "has no `provider`. Run pytest in the folder that holds the gateway's package."),
        ("provider = object()", "has no `name`. Give it one"),
    ],
)
def test_a_gateway_that_cannot_be_found_is_named_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, told: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"gateway_{abs(hash(source)) % 10**8}"
    if source is not None:
        (tmp_path / f"{name}.py").write_text(source, "utf-8")
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        find_cases([name], [], tmp_path)
    assert repr(name) in str(caught.value)


def test_named_gateways_come_once_and_alone() -> None:
    every = find_cases([], [], ROOT)
    name = every[0].name
    assert [case.name for case in find_cases([name, name], [], ROOT)] == [name]
    assert isinstance(every[0], Case)


async def test_the_notebook_in_memory_keeps_what_notes_promise() -> None:
    notes = Notebook(SystemClock())
    assert await notes.append("a", "opened", "{}", text="Opened.", key="1", by="usr_1", seen=0) is True
    assert await notes.append("a", "opened", "{}", text="Opened.", key="1", by="usr_1", seen=0) is False
    with pytest.raises(InvalidRequest):
        await notes.append("a", "opened", '{"other": 1}', text="Opened.", key="1", by="usr_1")
    with pytest.raises(ChangedMeanwhile):
        await notes.append("a", "paid", "{}", text="Paid.", key="2", by="usr_2", seen=0)
    assert await notes.append("a", "paid", "{}", text="Paid.", key="3", by="usr_2", seen=1) is True
    assert [(note.number, note.kind, note.key) for note in await notes.read("a")] == [
        (1, "opened", "1"),
        (2, "paid", "3"),
    ]
    assert await notes.read("b") == ()
    token = inside_transaction.set(True)
    try:
        with pytest.raises(GatewayCallInsideTransaction):
            await notes.read("a")
        with pytest.raises(GatewayCallInsideTransaction):
            await notes.append("a", "paid", "{}", text="Paid.", key="4", by="usr_2")
    finally:
        inside_transaction.reset(token)
    assert notes.written == 2
