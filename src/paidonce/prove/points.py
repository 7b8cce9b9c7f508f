"""The crash points by name, read from the code itself: a new transaction is a new crash point by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from paidonce.prove.cast import Cast

_NO_TWIN = "only a gateway without a twin needs it, and such a one has no place on the stage"
# Why some transactions can't be met in a simulation.
UNREACHABLE: Mapping[str, str] = {
    "recovery._set_aside": "it runs only after a bug in recovery, which would be a violation by itself",
    "checkout._hold_for_promise": _NO_TWIN,
    "desk._look_later": _NO_TWIN,
    "notes._append": _NO_TWIN,
}
# Deliveries to merchants' systems run beside the core on an event loop of their own, and have tests of their own; so
# has the command by which an operator sends them again.
_NOT_SIMULATED = frozenset({"deliveries", "cli_events"})
_WRITES = frozenset({"write", "transaction"})


def crash_points(casts: Mapping[str, Cast]) -> frozenset[str]:
    """Before and after every transaction of the core, and before and after every call of every gateway."""
    calls = (f"{name}.{call}" for name, cast in casts.items() for call in cast.calls)
    return frozenset(f"{when} {what}" for what in (*transactions(), *calls) for when in ("before", "after"))


def transactions() -> frozenset[str]:
    """The functions that the core hands to the database to write, as `module.function`."""
    found = {name for module in _core() for name in _written(module)}
    return frozenset(found - UNREACHABLE.keys())


def _core() -> Iterator[Traversable]:
    """The package's own modules, without its folders: the core, and what composes it."""
    for entry in files("paidonce").iterdir():
        name = entry.name.removesuffix(".py")
        if entry.is_file() and entry.name.endswith(".py") and name not in _NOT_SIMULATED:
            yield entry


def _written(module: Traversable) -> Iterator[str]:
    tree = ast.parse(module.read_text("utf-8"))
    own = module.name.removesuffix(".py")
    defined = {node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
    origin = dict(_imported(tree.body))
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=verb), args=[given, *_]) if verb in _WRITES:
                yield from _named(given, own, defined, origin)
            case ast.Call(func=ast.Name(id="partial"), args=[ast.Attribute(attr=verb), given, *_]) if verb in _WRITES:
                yield from _named(given, own, defined, origin)


def _imported(body: Iterable[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("paidonce"):
            for alias in node.names:
                yield alias.asname or alias.name, node.module.rpartition(".")[2]


def _named(given: ast.expr, own: str, defined: set[str], origin: Mapping[str, str]) -> Iterator[str]:
    match given:
        case ast.Name(id=name) if name in defined:
            yield f"{own}.{name}"
        case ast.Name(id=name) if name in origin:
            yield f"{origin[name]}.{name}"
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            yield f"{module}.{name}"
        case ast.Attribute(value=ast.Attribute(attr=module), attr=name):
            yield f"{module}.{name}"
