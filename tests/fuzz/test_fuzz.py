"""A small share of the long run of `scripts/fuzz.py`, and what makes it worth something: it does find mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paidonce.gateways.registry import providers
from support.fuzzing import Tally, Target, mutated, run_one, shares

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "fuzz.py"


def fuzz(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--crashes", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_no_parser_of_foreign_data_crashes(tmp_path: Path) -> None:
    ran = fuzz("--inputs", "8000", "--seed", "7", "--json", folder=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["inputs"] >= 8000
    assert figures["crashes"] == 0
    by_gateway = {name.partition(":")[0] for name in figures["targets"]}
    with_twins = {one.name for one in providers({}) if one.sandbox("http://127.0.0.1:9") is not None}
    assert with_twins | {"cookies", "the API", "forms"} <= by_gateway
    assert len(with_twins) >= 3
    for name, one in figures["targets"].items():
        # Mistakes must neither be so small that everything is taken, nor so large that nothing gets behind the door.
        assert one["inputs"] > one["taken"], name
        assert one["taken"] > 0 or one["inputs"] < 300, name


def _proud(data: bytes) -> bool:
    return data == b"proud" or bool(data[100_000])


def test_a_parser_with_a_mistake_is_found_out() -> None:
    target, tally = Target("proud", (b"proud",), _proud), Tally()
    for number in range(50):
        run_one(target, number, mutated(target, 1, number), tally)
    assert len(tally.crashes) + tally.taken == tally.inputs == 50
    assert len(tally.crashes) > 30
    assert tally.crashes[0].error.startswith("IndexError")


def test_the_same_seed_makes_the_same_inputs() -> None:
    target = Target("any", (b'{"id": "tr_1", "amount": 5}', b"a=b&c=d"), bool)
    first = [mutated(target, 1, number) for number in range(200)]
    assert first == [mutated(target, 1, number) for number in range(200)]
    assert first != [mutated(target, 2, number) for number in range(200)]
    assert len(set(first)) > 150


def test_every_target_gets_its_share() -> None:
    few, many = Target("few", (b"",), bool), Target("many", (b"",), bool, weight=9)
    assert dict((one.name, count) for one, count in shares([few, many], 1000)) == {"few": 100, "many": 900}
    assert dict((one.name, count) for one, count in shares([few, many], 1)) == {"few": 1, "many": 1}


@pytest.mark.parametrize("arguments", [("--target", "nobody"), ("--replay", "nothing.bin")])
def test_what_is_not_there_is_named(arguments: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "nothing.bin").write_bytes(b"nobody\n{}")
    name, value = arguments
    ran = fuzz(name, str(tmp_path / value) if name == "--replay" else value, folder=tmp_path)
    assert ran.returncode == 2
    assert "no target" in ran.stderr
