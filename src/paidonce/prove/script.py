"""A run as a value: how the world begins, who does what, which ports fail. As JSON it can be kept and replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from inspect import signature
from typing import Any, get_origin, get_type_hints

from paidonce.prove.checks import Violation
from paidonce.prove.engine import FATES, LIE
from paidonce.prove.world import Move, Setup, Stage, World

_PARTS = frozenset({"setup", "faults", "moves"})


@dataclass(frozen=True, slots=True)
class Script:
    """`faults` name the end of certain ports by their number in the run; moves may name ends as well."""

    setup: Setup = field(default_factory=Setup)
    moves: tuple[Move, ...] = ()
    faults: Mapping[int, str] = field(default_factory=dict)

    def open(self, stage: Stage) -> World:
        """The world that the script begins with."""
        return World(stage, self.setup, self.faults)

    def play(self, stage: Stage) -> Outcome:
        """Run it in a new world on `stage`."""
        world = self.open(stage)
        violation: Violation | None = None
        try:
            world.run(self.moves)
        except Violation as found:
            violation = found
        return Outcome(self, world, violation)

    def to_json(self) -> dict[str, Any]:
        """The script as JSON values."""
        return {
            "setup": asdict(self.setup),
            "faults": {str(step): fate for step, fate in self.faults.items()},
            "moves": [list(move) for move in self.moves],
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a script: its world as it stands, and the violation if there was one."""

    script: Script
    world: World
    violation: Violation | None


def read_script(text: str) -> Script:
    """The script in a file, which may say more beside it. Raises `ValueError` naming what is wrong."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"this is no script of `paidonce prove`: it is no JSON ({error})") from error
    return script_of(value.get("script", value) if isinstance(value, dict) else value)


def script_of(value: object) -> Script:
    """The script in JSON values. Raises `ValueError` naming what is wrong."""
    try:
        fields = _object("a script", value, _PARTS)
        _require(fields.keys() == _PARTS, f"it needs {', '.join(sorted(_PARTS - fields.keys()))}")
        moves = tuple(_move(number, one) for number, one in enumerate(_list("the moves", fields["moves"]), 1))
        return Script(_setup(fields["setup"]), moves, _faults(fields["faults"]))
    except ValueError as error:
        raise ValueError(f"this is no script of `paidonce prove`: {error}") from error


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _object(what: str, value: object, names: Set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is an object, not {value!r}")
    odd = sorted(value.keys() - names)
    _require(not odd, f"{what} has no {', '.join(odd)}; it may have {', '.join(sorted(names))}")
    return value


def _list(what: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not {value!r}")
    return value


def _setup(value: object) -> Setup:
    default = asdict(Setup())
    found = _object("the setup", value, default.keys())
    for name, given in found.items():
        kind = type(default[name])
        _require(type(given) is kind, f"{name} of the setup is of type {kind.__name__}, not {given!r}")
    return Setup(**found)


def _faults(value: object) -> dict[int, str]:
    if not isinstance(value, dict):
        raise ValueError(f"faults are an object of port numbers and fates, not {value!r}")
    for step, fate in value.items():
        _require(step.isdecimal(), f"a fault's port is a number, not {step!r}")
        _require(_is_fate(fate), f"no port can end with {fate!r}")
    return {int(step): fate for step, fate in value.items()}


def _is_fate(fate: object) -> bool:
    known = {one for fates in FATES.values() for one in fates}
    return isinstance(fate, str) and (fate in known or fate.startswith(LIE))


def _move(number: int, value: object) -> Move:
    """A move as the world takes it: what it is called, and what its parameters are."""
    verb, *args = _list(f"move {number}", value) or [None]
    method = getattr(World, f"_do_{verb}", None) if isinstance(verb, str) else None
    _require(method is not None, f"move {number}: there is no move {verb!r}")
    assert method is not None
    try:
        given = signature(method).bind(None, *args).arguments
    except TypeError as error:
        raise ValueError(f"move {number} ({verb}): {error}") from error
    hints = get_type_hints(method)
    for name, one in list(given.items())[1:]:
        kind = get_origin(hints[name]) or hints[name]
        good = _is_words(one) if kind is Mapping else type(one) is kind
        _require(good, f"move {number} ({verb}): {name} can't be {one!r}")
    fate = given.get("fate", "")
    _require(fate == "" or _is_fate(fate), f"move {number} ({verb}): no port can end with {fate!r}")
    return (verb, *args)


def _is_words(value: object) -> bool:
    """Words by name, of which `#n` stands for the n-th object of its kind."""
    return isinstance(value, dict) and all(
        isinstance(one, str) and (not one.startswith("#") or one[1:].isdecimal()) for one in value.values()
    )
