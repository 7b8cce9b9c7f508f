"""Requests taken apart, and the answers of the offline Mollie's API, its refusals above all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from paidonce.gateways.base import HttpResponse
from paidonce.ports import Microseconds

Json = dict[str, Any]

LARGEST_BODY = 256 * 1024
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized Request",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    422: "Unprocessable Entity",
}


class Refused(Exception):
    """A refusal as Mollie words it: HTTP status, sentence, and the field that it is about."""

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        self.status, self.detail, self.field = status, detail, field
        super().__init__(detail)


@dataclass(frozen=True)
class Context:
    """One request, taken apart."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    now: Microseconds

    def json(self) -> Json:
        """The body as a JSON object; numbers with a point stay text. Raises `Refused`."""
        if self.body and not self.headers.get("content-type", "").startswith("application/json"):
            raise Refused(400, "The request body is not JSON")
        try:
            body = json.loads(self.body[: LARGEST_BODY + 1] or b"{}", parse_float=str)
        except (ValueError, RecursionError):
            raise Refused(400, "The request body can't be read") from None
        if not isinstance(body, dict):
            raise Refused(400, "The request body is no object")
        return body

    def form(self) -> dict[str, str]:
        """The body as a form."""
        return first_values(self.body.decode("latin-1"))


def answer(status: int, body: Json | None) -> HttpResponse:
    """An answer in JSON, or a status alone."""
    headers = {"content-type": "application/hal+json", "cache-control": "no-store"}
    return HttpResponse(status, headers, b"" if body is None else json.dumps(body).encode())


def refusal(refused: Refused) -> HttpResponse:
    """The answer that carries a refusal."""
    body: Json = {"status": refused.status, "title": _TITLES[refused.status], "detail": refused.detail}
    if refused.field is not None:
        body["field"] = refused.field
    documentation = {"href": "https://docs.mollie.com/reference/handling-errors", "type": "text/html"}
    return answer(refused.status, {**body, "_links": {"documentation": documentation}})


def first_values(text: str) -> dict[str, str]:
    """A query or a form; of repeated names the first value."""
    return {name: values[0] for name, values in parse_qs(text, max_num_fields=50).items()}
