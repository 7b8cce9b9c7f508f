"""Runs that once broke an invariant, kept as files which the tests replay: `tests/prove/regressions/*.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paidonce.prove.checks import INVARIANTS
from paidonce.prove.script import Script, script_of

# What a new file says until somebody has understood it.
UNTOLD = "To be told in one sentence: "
_FIELDS = frozenset({"story", "breaks", "origin", "script"})


@dataclass(frozen=True, slots=True)
class Regression:
    """A kept run: its story in one sentence, the invariant that it broke (empty: none), and where it was found."""

    name: str
    story: str
    breaks: str
    origin: str
    script: Script

    def to_text(self) -> str:
        """As a file's text, one move per line, so that a change can be read."""
        head = {"story": self.story, "breaks": self.breaks, "origin": self.origin}
        lines = [f"  {_json(name)}: {_json(value)}," for name, value in head.items()]
        return "\n".join(["{", *lines, *_script_lines(self.script.to_json()), "}", ""])


def read(path: Path) -> Regression:
    """The regression in a file. Raises `ValueError` naming the file and what is wrong with it."""
    try:
        return _regression(path.stem, json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def load(folder: Path) -> list[Regression]:
    """All of a folder, by their names. Raises `ValueError` as `read` does."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def write(regression: Regression, folder: Path) -> Path:
    """Keep it as `<name>.json`. The same run is kept once; raises `FileExistsError` for another one by that name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{regression.name}.json"
    if not path.exists():
        path.write_text(regression.to_text(), "utf-8")
    elif read(path).script != regression.script:
        raise FileExistsError(f"{path} holds another run already")
    return path


def _regression(name: str, value: object) -> Regression:
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise ValueError(f"a kept run is an object of {', '.join(sorted(_FIELDS))}")
    for field in ("story", "breaks", "origin"):
        if not isinstance(value[field], str):
            raise ValueError(f"{field} is a text, not {value[field]!r}")
    if value["breaks"] and value["breaks"] not in INVARIANTS:
        raise ValueError(f"there is no invariant {value['breaks']!r}")
    return Regression(name, value["story"], value["breaks"], value["origin"], script_of(value["script"]))


def _script_lines(script: Mapping[str, Any]) -> list[str]:
    *moves, last = [f"      {_json(move)}" for move in script["moves"]] or [""]
    return [
        '  "script": {',
        f'    "setup": {_json(script["setup"])},',
        f'    "faults": {_json(script["faults"])},',
        *('    "moves": [', *(f"{move}," for move in moves), last, "    ]"),
        "  }",
    ]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
