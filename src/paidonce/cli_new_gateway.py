"""`paidonce new-gateway NAME`: a folder to begin a gateway in, whose contract tests say what is left to write."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer
from rich.console import Console

from paidonce.errors import ConfigError

out = Console()

# Stricter than the registry's: it has to become a custom element's name as well.
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST_NAME = 32
# Files of the template bear it so that no tool takes them for modules of paidonce.
_SUFFIX = ".txt"


def new_gateway(
    name: Annotated[str, typer.Argument(help="The gateway's name: lower-case words with underscores, as in acme_pay.")],
    into: Annotated[Path, typer.Option(help="The folder in which the new one is made.")] = Path(),
) -> None:
    """Make a folder for a gateway of your own: files to fill in, and contract tests that list what is left."""
    folder = create(name, into)
    _say(f"{folder} is made. It says what to write, and where:\n")
    _say(f"  cd {folder}")
    _say("  pip install -e '.[contract]'")
    _say(f"  pytest --pyargs paidonce.contract --gateway {name}\n")
    _say("Each failing test is a line with what is missing. The guide is docs/adding-a-gateway.md.")


def create(name: str, into: Path) -> Path:
    """Write the folder `into`/`name`, and return it. Raises `ConfigError` for a name or place that can't be used."""
    folder = into / name
    _check_spelling(name)
    if folder.exists():
        raise ConfigError([f"{folder} exists already, and nothing is overwritten. Take another name, or move it away."])
    _check_free(name)
    words = _words(name)
    texts = {path: Template(text).substitute(words) for path, text in _template(name)}
    try:
        folder.mkdir()
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{folder} can't be written ({error.strerror}). Choose a folder with --into."]) from error
    return folder


def _check_spelling(name: str) -> None:
    if _NAME.fullmatch(name) and len(name) <= _LONGEST_NAME:
        return
    likely = re.sub(r"[^a-z0-9]+", "_", name.lower()).lstrip("_0123456789")[:_LONGEST_NAME].rstrip("_") or "acme_pay"
    rule = f"use at most {_LONGEST_NAME} lower-case letters and digits, with underscores between words"
    raise ConfigError([f"{name!r} is no name for a gateway: {rule}, like {likely}."])


def _check_free(name: str) -> None:
    if find_spec(f"paidonce.gateways.{name}") is not None:
        raise ConfigError([f"paidonce has a gateway {name!r} already. Take another name."])
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or find_spec(name) is not None:
        raise ConfigError([f"Python has a {name!r} already, which yours would hide. Take another name: {name}_pay."])


def _words(name: str) -> dict[str, str]:
    """What the template's placeholders stand for."""
    capitals = [word.capitalize() for word in name.split("_")]
    return {
        "name": name,
        "NAME": name.upper(),
        "Class": "".join(capitals),
        "title": " ".join(capitals),
        "dashed": name.replace("_", "-"),
        "element": name.replace("_", "-") + "-payment",
    }


def _template(name: str) -> Iterator[tuple[str, str]]:
    """The template's files: paths below the new folder, and texts."""
    root = files("paidonce.contract") / "template"
    for path, file in _below(root, ""):
        yield path.replace("package/", f"{name}/", 1).removesuffix(_SUFFIX), file.read_text(encoding="utf-8")


def _below(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _below(entry, f"{path}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield path + entry.name, entry


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
