"""The API's description for people, made from the OpenAPI document, without scripts or foreign servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paidonce.errors import Problem
from paidonce.web import problems  # noqa: F401  # Defines the problems that only the HTTP face has.

_METHODS = ("get", "post", "patch", "put", "delete")


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address."""

    method: str
    path: str
    summary: str
    body: tuple[tuple[str, str], ...]
    answers: tuple[tuple[str, str], ...]


def describe(document: Mapping[str, Any]) -> dict[str, list[Operation]]:
    """The operations by tag, in the order of the URL table."""
    groups: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                entry = methods[method]
                groups.setdefault(entry["tags"][0], []).append(_operation(document, method, path, entry))
    return groups


def problem_codes() -> list[tuple[str, int, str]]:
    """Every code of a problem document, its status, and its usual sentence."""
    found = {kind.code: (kind.code, kind.status, kind.default_message) for kind in _kinds(Problem)}
    # The general meaning of a code beats the narrower ones that share it.
    for kind in Problem.__subclasses__():
        if kind.__module__ == Problem.__module__:
            found[kind.code] = (kind.code, kind.status, kind.default_message)
    return sorted(found.values(), key=lambda entry: (entry[1], entry[0]))


def _kinds(root: type[Problem]) -> Iterator[type[Problem]]:
    yield root
    for kind in root.__subclasses__():
        yield from _kinds(kind)


def _operation(document: Mapping[str, Any], method: str, path: str, entry: Mapping[str, Any]) -> Operation:
    body = entry.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return Operation(
        method=method.upper(),
        path=path,
        summary=" ".join(entry.get("description", entry.get("summary", "")).split()),
        body=tuple(_fields(document, body)),
        answers=tuple(_answers(document, entry["responses"])),
    )


def _answers(document: Mapping[str, Any], responses: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for status, answer in sorted(responses.items()):
        contents: Mapping[str, Mapping[str, Any]] = answer.get("content", {})
        if "application/problem+json" in contents:
            yield "any other" if status == "default" else status, "problem document"
            continue
        schema = contents.get("application/json", {}).get("schema", {})
        named = ", ".join(name for name, _ in _fields(document, schema))
        text = "" if answer["description"] == "Successful Response" else answer["description"]
        yield status, " ".join(part for part in (text, f"{{{named}}}" if named else "") if part) or "no content"


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    resolved = _resolve(document, schema)
    for name, value in resolved.get("properties", {}).items():
        yield name, _type(document, value)


def _resolve(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        found: Mapping[str, Any] = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
        return found
    if schema.get("type") == "array":
        return _resolve(document, schema["items"])
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return _resolve(document, options[0]) if options else schema


def _type(document: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    bounds = [f"{word} {value[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in value]
    if value.get("type") == "array":
        inner = ", ".join(name for name, _ in _fields(document, value["items"]))
        return f"list of {{{inner}}}" if inner else "list"
    return " ".join([str(value.get("type", _resolve(document, value).get("type", "object"))), *bounds])
