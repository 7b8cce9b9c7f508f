"""`paidonce new-gateway`: the folder that it makes fails readably, is clean, and goes green piece by piece."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract.runs import run_suite
from paidonce import cli
from paidonce.cli_new_gateway import create
from paidonce.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gateways" / "acme_pay"

NAME = "acme_pay"
# The first piece that the guide asks for: which amounts the gateway can express.
UNITS = """    exponent = EXPONENTS.get(amount.currency)
    if exponent is None or amount.minor <= 0:
        raise MoneyError(f"{amount} can't be taken")
    return rescale(amount.minor, from_exponent=iso_exponent(amount.currency), to_exponent=exponent)
"""
TURNED_GREEN = {
    "test_an_amount_that_a_gateway_cannot_express_is_refused_before_anything_is_sent",
    "test_the_attributes_are_names_that_html_knows",
}


def replace(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text("utf-8")
    for before, after in changes:
        assert text.count(before) == 1, f"{path.name}: {before!r}"
        text = text.replace(before, after)
    path.write_text(text, "utf-8")


def test_a_fresh_folder_fails_readably_and_goes_green_piece_by_piece(tmp_path: Path) -> None:
    # In a process of its own: the example of that name is on this one's path.
    subprocess.run([sys.executable, "-m", "paidonce", "new-gateway", "acme_pay"], cwd=tmp_path, check=True)
    folder = tmp_path / "acme_pay"
    fresh = run_suite(folder, NAME)
    assert len(fresh.failed(NAME)) > 200
    # What the folder brings is there already: settings, and the component.
    assert {"test_contradictions_stop_the_start", "test_a_gateway_can_be_closed_twice"} < (fresh.passed(NAME))
    reasons = set(fresh.failed(NAME).values())
    assert all(
        re.search(r"not written yet: see docs/adding-a-gateway\.md, section \d|is empty:|found: \[\]", reason)
        for reason in reasons
    ), reasons
    # A list: each reason once, below it each test with its sentence. No traceback, no line that nobody can read.
    assert "Traceback" not in fresh.output
    assert "errors during collection" not in fresh.output
    listed = fresh.told(NAME)
    assert {test.partition("[")[0] for test in fresh.failed(NAME)} <= set(re.findall(r"test_\w+", listed))
    assert listed.count("`contract.amounts` is empty") == 1
    assert len(fresh.output.splitlines()) < 300
    assert max(map(len, fresh.output.splitlines())) < 200

    package = folder / "acme_pay"
    replace(
        package / "wire.py",
        ("EXPONENTS: Mapping[str, int] = {}", 'EXPONENTS: Mapping[str, int] = {"EUR": 2, "HUF": 0}'),
        ("import Money\n", "import Money, MoneyError, iso_exponent, rescale\n"),
        ('    raise NotImplementedError(f"wire.py: `units` {_TODO}")\n', UNITS),
    )
    replace(
        package / "contract.py",
        ("\namounts: tuple[Money, ...] = ()", '\namounts: tuple[Money, ...] = (Money(1999, "EUR"),)'),
        ("\nrefused_amounts: tuple[Money, ...] = ()", '\nrefused_amounts: tuple[Money, ...] = (Money(150, "HUF"),)'),
    )
    begun = run_suite(folder, NAME)
    assert begun.passed(NAME) - fresh.passed(NAME) == TURNED_GREEN
    assert fresh.passed(NAME) <= begun.passed(NAME)
    # The others name the next piece now.
    assert (
        "gateway.py: `create` is not written yet: see docs/adding-a-gateway.md, section 2"
        in begun.failed(NAME).values()
    )

    shutil.copytree(EXAMPLE / "acme_pay", package, dirs_exist_ok=True)
    finished = run_suite(folder, NAME)
    assert finished.failed(NAME) == {}
    assert begun.passed(NAME) <= finished.passed(NAME)
    assert "does not do" not in finished.output


@pytest.mark.parametrize("name", ["acme_new", "pay", "a_gateway_with_a_name_so_long_32"])
def test_a_fresh_folder_has_nothing_to_lint(tmp_path: Path, name: str) -> None:
    folder = create(name, tmp_path)
    rules = "E,F,W,I,UP,B,SIM,RET,PT,RUF,S"
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--no-cache", "--select", rules, "."], ["format", "--no-cache", "--check", "."]):
        ran = subprocess.run([*ruff, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_fresh_folder_is_typed(tmp_path: Path) -> None:
    folder = create("acme_new", tmp_path)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--explicit-package-bases",
        f"--cache-dir={ROOT / '.mypy_cache'}",
        "acme_new",
    ]
    environment = {"MYPYPATH": f"{ROOT / 'src'}:{folder}", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith("Success"), ran.stdout + ran.stderr


def test_the_command_says_what_to_do_next(tmp_path: Path) -> None:
    ran = CliRunner().invoke(cli.app, ["new-gateway", "acme_new", "--into", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert "pytest --pyargs paidonce.contract --gateway acme_new" in ran.output
    assert (tmp_path / "acme_new" / "pyproject.toml").exists()
    readme = (tmp_path / "acme_new" / "README.md").read_text("utf-8")
    files = {str(path.relative_to(tmp_path / "acme_new")) for path in (tmp_path / "acme_new").rglob("*.*")}
    assert files == {"pyproject.toml", "README.md"} | {
        f"acme_new/{name}"
        for name in (
            *("__init__.py", "gateway.py", "wire.py", "webhook.py", "sandbox.py", "contract.py", "py.typed"),
            "assets/component.js",
        )
    }
    # The README leads to each of them.
    assert not [
        path for path in files if path.startswith("acme_new/") and "py.typed" not in path and path not in readme
    ]
    assert "$" not in "".join((tmp_path / "acme_new" / path).read_text("utf-8") for path in files)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Acme-Pay", "like acme_pay."),
        ("acme pay", "like acme_pay."),
        ("3d_secure", "like d_secure."),
        ("acme__pay", "like acme_pay."),
        ("x" * 33, f"like {'x' * 32}."),
        ("", "like acme_pay."),
        ("../escape", "like escape."),
        ("ärger", "like rger."),
        ("json", "Take another name: json_pay."),
        ("class", "Take another name: class_pay."),
        ("match", "Take another name: match_pay."),
        ("paidonce", "Take another name: paidonce_pay."),
        ("stripe", "paidonce has a gateway 'stripe' already."),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_the_fix(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        create(name, tmp_path / "inside")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "acme_new" / "gateway.py"
    mine.parent.mkdir()
    mine.write_text("my work")
    with pytest.raises(ConfigError, match="exists already, and nothing is overwritten"):
        create("acme_new", tmp_path)
    assert [path.name for path in mine.parent.iterdir()] == ["gateway.py"]
    assert mine.read_text() == "my work"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for into in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ConfigError, match=r"can't be written .*--into"):
            create("acme_new", into)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
