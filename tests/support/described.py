"""Requests made from the API's own description, so that an attack reaches operations that are added later as well."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import paidonce.db
from paidonce.db.tables import metadata
from paidonce.ports import Transaction

_METHODS = ("get", "post", "patch", "put", "delete")
# What those write who are refused: when a session was seen, how often somebody tried, and that it was tried.
_MAY_CHANGE = {"sessions", "rate_limits", "audit_log"}

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Operation:
    """One method of one address, with a body that fits its description (None if it takes none)."""

    method: str
    path: str
    body: Any
    numbers: tuple[Path, ...]
    texts: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def with_value(self, place: Path, value: Any) -> Any:
        """The body with another value in one place."""
        body = copy.deepcopy(self.body)
        inner = body
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value
        return body


def operations(document: Mapping[str, Any], samples: Mapping[str, str]) -> list[Operation]:
    """Every operation of the description; `samples` are texts for fields by their names."""
    return [
        _operation(document, samples, method, path, entry)
        for path, methods in document["paths"].items()
        for method, entry in methods.items()
        if method in _METHODS
    ]


def _operation(
    document: Mapping[str, Any], samples: Mapping[str, str], method: str, path: str, entry: Mapping[str, Any]
) -> Operation:
    described = entry.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if described is None:
        return Operation(method.upper(), path, None, (), ())
    body = sample(document, described, samples, "")
    found = list(_leaves(body, ()))
    numbers = tuple(place for place, value in found if isinstance(value, int))
    texts = tuple(place for place, value in found if isinstance(value, str))
    return Operation(method.upper(), path, body, numbers, texts)


def sample(document: Mapping[str, Any], schema: Mapping[str, Any], samples: Mapping[str, str], name: str) -> Any:
    """A value that fits `schema`; texts are the samples of their fields' names, if there are any."""
    schema = _chosen(document, schema)
    match schema.get("type"):
        case "object" if "properties" in schema:
            fields = schema["properties"].items()
            return {field: sample(document, one, samples, field) for field, one in fields}
        case "object" if isinstance(schema.get("additionalProperties"), Mapping):
            return {"reference": samples["reference"]}
        case "array":
            return [sample(document, schema["items"], samples, name)]
        case "integer":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return False
        case "string":
            return samples.get(name, "a-long-text")
    return {}


def _chosen(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself, behind references; of several the first that is not null."""
    if "$ref" in schema:
        return _chosen(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]])
    options = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return _chosen(document, options[0]) if options else schema


def _leaves(value: Any, place: Path) -> Iterator[tuple[Path, Any]]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    elif not isinstance(value, bool):
        yield place, value
    for step, one in inner:
        yield from _leaves(one, (*place, step))


def objects(value: Any, place: Path = ()) -> Iterator[Path]:
    """The places of all objects in a body, itself among them."""
    if isinstance(value, dict):
        yield place
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in steps:
        yield from objects(one, (*place, step))


async def kept(database_url: str) -> dict[str, list[str]]:
    """All rows of all tables but those that only count or remember who tried what."""

    async def rows(tx: Transaction) -> dict[str, list[str]]:
        names = sorted(set(metadata.tables) - _MAY_CHANGE)
        found = {name: await tx.fetch_all(f"SELECT * FROM {name}") for name in names}  # noqa: S608
        return {name: sorted(repr(dict(row)) for row in rows) for name, rows in found.items()}

    database = await paidonce.db.connect(database_url)
    try:
        return await database.read(rows)
    finally:
        await database.close()
