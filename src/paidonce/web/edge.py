"""What every request passes, in one place: its id and log line, the body's bounds, who may call, the headers.

It is plain ASGI and the outermost layer of ours, so that no answer leaves without the security headers, not even the
one to an unexpected error.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paidonce.config import Settings
from paidonce.errors import Forbidden, Problem
from paidonce.web import origins, problems
from paidonce.web.shop import route_path

LARGEST_BODY_BYTES = 64 * 1024
# Gateways send whole objects; the largest known are far below this.
LARGEST_WEBHOOK_BYTES = 512 * 1024
WEBHOOKS = "/webhooks/"
BODY_SECONDS = 20.0

log = structlog.get_logger("paidonce.requests")

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
FORGED = "This request came from another site and was refused."

# Everything comes from the shop itself; the pay page adds exactly what its gateways' components name.
_CSP: Mapping[str, tuple[str, ...]] = {
    "default-src": ("'none'",),
    "script-src": ("'self'",),
    "style-src": ("'self'",),
    "img-src": ("'self'",),
    "connect-src": ("'self'",),
    "form-action": ("'self'",),
    "base-uri": ("'none'",),
    "frame-ancestors": ("'none'",),
}
_OTHER_FEATURES = ("camera", "geolocation", "microphone", "usb")


class Edge:
    """The ASGI layer around the application.

    `below` is the path that the application's own paths follow where something has taken it off already: the assets of
    a host keep their rules wherever they are mounted. `owns_host` is True where the whole host belongs to the shop.
    """

    def __init__(self, app: ASGIApp, settings: Settings, *, below: str = "", owns_host: bool = False) -> None:
        self._app = app
        self._settings = settings
        self._below = below
        self._owns_host = owns_host
        self._public = urlsplit(settings.origin).netloc

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
            try:
                await self._handle(scope, path, receive, answer)
            finally:
                answer.write_log()

    async def _handle(self, scope: Scope, path: str, receive: Receive, answer: _Answer) -> None:
        connection = HTTPConnection(scope)
        try:
            if origins.is_preflight(self._settings, scope["method"], path, connection.headers):
                await Response(status_code=204)(scope, receive, answer.send)
                return
            self._check_origin(scope["method"], path, connection.headers)
            largest = LARGEST_WEBHOOK_BYTES if path.startswith(WEBHOOKS) else LARGEST_BODY_BYTES
            body = await _read_body(receive, connection.headers, largest)
            _check_content_type(path, connection.headers, body)
            await self._app(scope, _replay(body, receive), answer.send)
        except Problem as problem:
            await problems.render(connection, problem)(scope, receive, answer.send)
        except _ClientGone:
            answer.status = 499
        except Exception as error:
            if answer.started:
                # Too late for another answer: the server cuts the connection, so the client sees it was cut short.
                raise
            await problems.unexpected(connection, error)(scope, receive, answer.send)

    def _check_origin(self, method: str, path: str, headers: Headers) -> None:
        """Refuse what another site makes a browser send.

        A listed front end may call the API and nothing else: forms of pages stay the shop's own.
        """
        if not origins.may_call(self._settings, path, headers) and is_forged(method, headers, self._public):
            raise Forbidden(FORGED)


def is_forged(method: str, headers: Headers, public_host: str) -> bool:
    """Whether another site made a browser send this. Clients without a browser send neither header.

    `public_host` is the shop's own host as browsers write it, with its port.
    """
    if method in _SAFE_METHODS:
        return False
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in {"same-origin", "none"}
    if origin is None:
        return False
    # "null" has no host, and neither has a request that could be compared with it.
    host = urlsplit(origin).netloc
    return not host or host not in {public_host, headers.get("host")}


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

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            self._add_headers(MutableHeaders(raw=message["headers"]))
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        extra: Mapping[str, Iterable[str]] = self._scope.get("paidonce.csp", {})
        headers["X-Request-Id"] = self.request_id
        for name, value in page_headers(extra).items():
            headers[name] = value
        headers.setdefault("Cache-Control", "no-store")
        origins.tell(self._settings, self._method, self._path, Headers(scope=self._scope), headers)
        if self._settings.https and self._owns_host:
            # Of a host that also has other things on it, or on its subdomains, this is not ours to promise.
            headers["Strict-Transport-Security"] = "max-age=63072000; includeSubDomains"

    def write_log(self) -> None:
        """One line per request: never the query string, since return addresses carry secrets there."""
        log.info(
            "request",
            method=self._method,
            path=self._scope["path"],
            status=self.status,
            ms=round((time.perf_counter() - self._began) * 1000, 1),
        )


def page_headers(extra: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The security headers of an answer whose page needs the sources in `extra`."""
    return {
        "Content-Security-Policy": content_security_policy(extra),
        "Permissions-Policy": permissions_policy(extra),
        "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
        "Cross-Origin-Resource-Policy": "same-origin",
        # The origin alone: no path or query of ours ever reaches another site.
        "Referrer-Policy": "strict-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def content_security_policy(extra: Mapping[str, Iterable[str]]) -> str:
    """The page's policy: the shop itself and the sources in `extra`, by directive."""
    sources: dict[str, tuple[str, ...]] = dict(_CSP)
    for directive, added in extra.items():
        kept = tuple(source for source in sources.get(directive, ()) if source != "'none'")
        sources[directive] = tuple(dict.fromkeys((*kept, *added)))
    return "; ".join(f"{directive} {' '.join(values)}" for directive, values in sources.items())


def permissions_policy(extra: Mapping[str, Iterable[str]]) -> str:
    """Wallets inside the gateways' frames need the payment feature; nothing else is allowed anywhere."""
    origins = [f'"{source}"' for source in extra.get("frame-src", ()) if source.startswith(("http://", "https://"))]
    payment = f"payment=({' '.join(['self', *dict.fromkeys(origins)])})"
    return ", ".join([payment, *(f"{feature}=()" for feature in _OTHER_FEATURES)])


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


def add_sources(scope: MutableMapping[str, Any], policies: Iterable[Mapping[str, Iterable[str]]]) -> None:
    """Allow the sources that the page's components name, for this answer only."""
    scope["paidonce.csp"] = merged_sources(policies)


def merged_sources(policies: Iterable[Mapping[str, Iterable[str]]]) -> dict[str, tuple[str, ...]]:
    """The sources of all policies, by directive."""
    merged: dict[str, tuple[str, ...]] = {}
    for policy in policies:
        for directive, sources in policy.items():
            merged[directive] = tuple(dict.fromkeys((*merged.get(directive, ()), *sources)))
    return merged
