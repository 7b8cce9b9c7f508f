"""Requests taken apart and answers put together as Stripe does it: nested forms in, JSON and error envelopes out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from paidonce.gateways.base import HttpResponse

Form = dict[str, Any]

_DEEPEST = 8
_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


class SandboxError(Exception):
    """An error answer. `stored` says whether an idempotency key remembers it: refused parameters are not remembered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        stored: bool = False,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stored = stored
        self.headers = dict(headers or {})
        fields = {"code": code, "message": message, "param": param, "type": type, **(extra or {})}
        self.error = {name: value for name, value in fields.items() if value is not None}
        if code is not None:
            self.error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Call:
    """One API call, taken apart. `account` is whose key it is; `public` means a publishable key."""

    method: str
    path: str
    form: Form
    account: str
    public: bool
    now: int
    headers: Mapping[str, str] = field(repr=False)

    @property
    def seconds(self) -> int:
        """`now` as Stripe counts time."""
        return self.now // 1_000_000


def decode_form(text: str) -> Form:
    """`a[b]=1&a[c][]=2` as `{"a": {"b": "1", "c": ["2"]}}`. Raises `SandboxError` 400 for what can't be that."""
    form: Form = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=500)
    except ValueError:
        raise SandboxError(400, "Invalid request (check that your POST content type is correct).") from None
    for key, value in pairs:
        match = _KEY.fullmatch(key)
        parts = [] if match is None else [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        if not parts or len(parts) > _DEEPEST:
            raise SandboxError(400, "Invalid parameter name.", code="parameter_unknown")
        _put(form, parts, value)
    return form


def _put(form: Form, parts: Sequence[str], value: str) -> None:
    here, (*path, last) = form, parts
    if last == "" and path:
        *path, name = path
        here = _descend(here, path)
        here.setdefault(name, [])
        if not isinstance(here[name], list):
            raise SandboxError(400, f"Invalid array: {name}", param=name)
        here[name].append(value)
        return
    here = _descend(here, path)
    here[last] = value


def _descend(form: Form, path: Sequence[str]) -> Form:
    here = form
    for name in path:
        here = here.setdefault(name, {})
        if not isinstance(here, dict):
            raise SandboxError(400, f"Invalid object: {name}", param=name)
    return here


def check_known(form: Form, known: frozenset[str]) -> None:
    """Raise `SandboxError` parameter_unknown for a parameter that the endpoint does not take."""
    for name in form:
        if name not in known:
            raise SandboxError(400, f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def integer(form: Form, name: str) -> int:
    """A required integer parameter. Raises `SandboxError` as Stripe words it (`19.99` is an invalid integer)."""
    value = form.get(name)
    if value is None:
        raise missing(name)
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
        raise SandboxError(400, f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    return int(value)


def missing(name: str) -> SandboxError:
    """The error for a required parameter that is not there."""
    return SandboxError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)


def metadata(form: Form) -> dict[str, str]:
    """The metadata parameter, empty if there is none. Raises `SandboxError` for what Stripe refuses."""
    found = form.get("metadata", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise SandboxError(400, "Invalid object", param="metadata")
    for name, value in found.items():
        if len(name) > 40 or len(value) > 500:
            raise SandboxError(400, f"Metadata values must be at most 500 characters: {name}", param="metadata")
    return dict(found)


def choice(form: Form, name: str, choices: Sequence[str], default: str) -> str:
    """A parameter out of `choices`. Raises `SandboxError` for another value."""
    value = form.get(name, default)
    if value not in choices:
        wanted = ", ".join(choices)
        raise SandboxError(400, f"Invalid {name}: must be one of {wanted}", param=name)
    return str(value)


def is_true(value: object) -> bool:
    """A form's boolean."""
    return value in {"true", "True", "1"}


def json_response(status: int, data: Mapping[str, Any], headers: Mapping[str, str]) -> HttpResponse:
    """A JSON answer."""
    body = json.dumps(data).encode()
    return HttpResponse(
        status, {"content-type": "application/json", "cache-control": "no-cache, no-store", **headers}, body
    )
