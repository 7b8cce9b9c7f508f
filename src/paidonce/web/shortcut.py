"""The four requests of every checkout, past what FastAPI works out anew for each request.

They are its routes, described at /docs like all others, with the same handlers, models and answers. Only the way to the
handler is shorter: who asks, then the body, as FastAPI would do it. What that saves is measured in docs/decisions/0007.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from inspect import Parameter, signature
from typing import Any, get_type_hints

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from paidonce.web import api, auth, problems
from paidonce.web.shop import route_path

PATHS = frozenset(
    {
        "/api/orders",
        "/api/orders/{order_id}/payments",
        "/api/payments/{payment_id}/complete",
        "/webhooks/{gateway}",
    }
)
_MISSING = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}


class Shortcut:
    """The ASGI layer right around `application`, whose routes the shortcuts are taken from."""

    def __init__(self, app: ASGIApp, application: FastAPI, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._application = application
        self._ways = [_Way(one) for one in routes if isinstance(one, APIRoute) and _has_way(one)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of a checkout; everything else goes on."""
        found = self._find(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        way, params = found
        scope["path_params"] = params
        request = Request(scope, receive, send)
        try:
            response = await way.answer(request, params)
        except problems.ANSWERED as error:
            response = await problems.answer(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[_Way, dict[str, str]] | None:
        # What an application puts in place of a dependency is for FastAPI to find.
        if scope["type"] != "http" or scope["method"] != "POST" or self._application.dependency_overrides:
            return None
        path = route_path(scope)
        for way in self._ways:
            match = way.path.match(path)
            if match is not None:
                return way, match.groupdict()
        return None


def _has_way(route: APIRoute) -> bool:
    return route.path in PATHS and route.methods == {"POST"}


class _Way:
    """One route: the pattern of its path, and what its handler is given."""

    def __init__(self, route: APIRoute) -> None:
        self.path: re.Pattern[str] = route.path_regex
        self._handler: Callable[..., Awaitable[Response]] = route.endpoint
        named = signature(route.endpoint).parameters
        self._wants_here, self._wants_request = "here" in named, "request" in named
        self._body: TypeAdapter[Any] | None = None
        if "body" in named:
            self._body = TypeAdapter(get_type_hints(route.endpoint)["body"])
            self._needs_body = named["body"].default is Parameter.empty

    async def answer(self, request: Request, params: dict[str, str]) -> Response:
        """Raises what the handler raises, `errors.NotSignedIn`, and `RequestValidationError` for a wrong body."""
        given: dict[str, Any] = dict(params)
        if self._wants_here:
            given["here"] = await api.here(request, await auth.current_user(request))
        if self._wants_request:
            given["request"] = request
        if self._body is not None:
            given["body"] = self._read(self._body, await request.body())
        return await self._handler(**given)

    def _read(self, model: TypeAdapter[Any], body: bytes) -> Any:
        if not body:
            if self._needs_body:
                raise RequestValidationError([_MISSING])
            return None
        try:
            # It is JSON, or it would have been refused by now.
            return model.validate_python(json.loads(body), from_attributes=True)
        except ValidationError as error:
            found = error.errors(include_url=False)
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None
