"""What every request passes, in one place: its id and log line, the bounds, who may call, the headers.

It is plain ASGI and the outermost layer of ours, so that no answer leaves without the security headers, not even the
one to an unexpected error.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paidonce import audit
from paidonce.config import Settings
from paidonce.errors import Forbidden, Problem
from paidonce.web import hosts, origins, problems, returns, security, strict
from paidonce.web.admission import Admission
from paidonce.web.shop import route_path

LARGEST_BODY_BYTES = 64 * 1024
# Gateways send whole objects; the largest known are far below this.
LARGEST_WEBHOOK_BYTES = 512 * 1024
WEBHOOKS = "/webhooks/"
BODY_SECONDS = 20.0

log = structlog.get_logger("paidonce.requests")

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
FORGED = "This request came from another site and was refused."


class Edge:
    """The ASGI layer around the application.

    `below` is the path that the application's own paths follow where something has taken it off already: the assets of
    a host keep their rules wherever they are mounted. `owns_host` is True where the whole host belongs to the shop.
    `admission` is given where several of these share the places of one process.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        below: str = "",
        owns_host: bool = False,
        admission: Admission | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._admission = admission or Admission(settings.requests_at_once)
        self._below = below
        self._owns_host = owns_host
        self._public = settings.origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; anything but HTTP goes straight through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":
            # Answered like GET; the server leaves the body out.
            scope = {**scope, "method": "GET"}
        # Taken now: a router that passes the request on changes the scope's root_path.
        path = self._below + route_path(scope)
        answer = _Answer(scope, send, self._settings, method, path, owns_host=self._owns_host)
        # Bound for this request alone: a host may keep words of its own there.
        with structlog.contextvars.bound_contextvars(request_id=answer.request_id):
            before = audit.this_request.set(answer.request_id)
            try:
                await self._handle(scope, path, receive, answer)
            finally:
                audit.this_request.reset(before)
                answer.write_log()

    async def _handle(self, scope: Scope, path: str, receive: Receive, answer: _Answer) -> None:
        connection = HTTPConnection(scope)
        try:
            strict.check_head(scope)
            hosts.check(self._settings, scope["path"], path, connection.headers)
            early = self._answer_early(scope, path, connection.headers)
            if early is not None:
                await early(scope, receive, answer.send)
                return
            # Again below, since a body may take its time. It takes no place meanwhile, or a few who send theirs byte by
            # byte would close the shop.
            self._admission.check(path)
            self._check_origin(scope["method"], path, connection.headers)
            largest = LARGEST_WEBHOOK_BYTES if path.startswith(WEBHOOKS) else LARGEST_BODY_BYTES
            body = await _read_body(receive, connection.headers, largest)
            _check_content_type(path, connection.headers, body)
            if path.startswith(origins.API):
                strict.check_json(body)
            if path.startswith(origins.API) and self._owns_host:
                # A host's own dependencies may well read parameters.
                strict.check_query(scope["query_string"])
            with self._admission.place(path):
                await self._app(scope, _replay(body, receive), answer.send)
        except Problem as problem:
            # A line each would fill the log in a flood; `Admission` writes one for many.
            answer.is_logged = not isinstance(problem, problems.Busy)
            await problems.render(connection, problem)(scope, receive, answer.send)
        except _ClientGone:
            answer.status = 499
        except Exception as error:
            if answer.started:
                # Too late for another answer: the server cuts the connection, so the client sees it was cut short.
                raise
            await problems.unexpected(connection, error)(scope, receive, answer.send)

    def _answer_early(self, scope: Scope, path: str, headers: Headers) -> Response | None:
        """What needs nobody's answer but ours: a preflight, and a return address that is not clean."""
        if origins.is_preflight(self._settings, scope["method"], path, headers):
            return Response(status_code=204)
        return returns.cleaned(path, scope["query_string"]) if self._owns_host else None

    def _check_origin(self, method: str, path: str, headers: Headers) -> None:
        """Refuse what another site makes a browser send.

        A listed front end may call the API and nothing else: forms of pages stay the shop's own.
        """
        if not origins.may_call(self._settings, path, headers) and is_forged(method, headers, self._public):
            raise Forbidden(FORGED)


def is_forged(method: str, headers: Headers, public_origin: str) -> bool:
    """Whether another site made a browser send this. Clients without a browser send neither header.

    `public_origin` is the shop's own as browsers write it: scheme, host, and the port if it is not the usual one.
    """
    if method in _SAFE_METHODS:
        return False
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in {"same-origin", "none"}
    if origin is None:
        return False
    host = _host_of(origin)
    if host == _host_of(public_origin):
        # Whoever sits on the line can serve a page of this name by plain http, and only by that.
        return origin != public_origin
    return not host or host != headers.get("host")


def _host_of(origin: str) -> str:
    """The host of a header `Origin`; empty for "null", and for what no browser writes."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


class _ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class _Answer:
    """Sends the answer with our headers, and remembers what the log line needs."""

    def __init__(
        self, scope: Scope, send: Send, settings: Settings, method: str, path: str, *, owns_host: bool
    ) -> None:
        self._scope = scope
        self._method = method
        self._path = path
        self._owns_host = owns_host
        self._send = send
        self._settings = settings
        self._began = time.perf_counter()
        self.request_id = "req_" + secrets.token_hex(8)
        self.started = False
        self.status = 0
        self.is_logged = True

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            self._add_headers(MutableHeaders(raw=message["headers"]))
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self.request_id
        ours = security.headers_of(self._scope)
        names = {name for name, _ in ours}
        # One pass: whatever the application says under these names gives way.
        headers.raw[:] = [pair for pair in headers.raw if pair[0] not in names] + list(ours)
        headers.setdefault("Cache-Control", "no-store")
        origins.tell(self._settings, self._method, self._path, Headers(scope=self._scope), headers)
        if self._settings.https and self._owns_host:
            # Of a host that also has other things on it, or on its subdomains, this is not ours to promise.
            headers["Strict-Transport-Security"] = "max-age=63072000; includeSubDomains"

    def write_log(self) -> None:
        """One line per request: never the query string, since return addresses carry secrets there."""
        if not self.is_logged:
            return
        log.info(
            "request",
            method=self._method,
            path=self._scope["path"],
            status=self.status,
            ms=round((time.perf_counter() - self._began) * 1000, 1),
        )


async def _read_body(receive: Receive, headers: Headers, largest: int) -> bytes:
    """The whole body, within bounds of size and time; a declared size is refused before anything is read."""
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:12]) > largest:
        raise problems.BodyTooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone
                body += message.get("body", b"")
                if len(body) > largest:
                    raise problems.BodyTooLarge
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise problems.BodyTooSlow from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then whatever the server says next (a disconnect)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _check_content_type(path: str, headers: Headers, body: bytes) -> None:
    if not body or not path.startswith("/api/"):
        return
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise problems.NotJson
