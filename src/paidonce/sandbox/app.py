"""The offline sandbox: one ASGI app that mounts each provider's twin at `/<name>/…`, and the same without sockets.

It needs no web framework, holds no real money and no real card, and speaks only as well as each gateway's own core.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from paidonce.errors import ConfigError, GatewayBusy
from paidonce.gateways.base import HttpRequest, HttpResponse, Provider, SandboxCore
from paidonce.gateways.registry import providers as registered_providers
from paidonce.ports import Clock, SystemClock, assert_outside_transaction

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGEST_BODY_BYTES = 1024 * 1024
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_STYLE = "body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem}"
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def sandbox_cores(public_url: str, providers: Iterable[Provider] | None = None) -> dict[str, SandboxCore]:
    """The twins of all providers that have one, by name. Browsers reach each at `public_url`/`<name>`."""
    known = registered_providers() if providers is None else providers
    twins = ((provider.name, provider.sandbox(public_url.rstrip("/"))) for provider in known)
    return {name: core for name, core in sorted(twins, key=lambda twin: twin[0]) if core is not None}


def sandbox_environment(public_url: str, providers: Iterable[Provider] | None = None) -> dict[str, str]:
    """The settings that make every gateway talk to its twin below `public_url`."""
    known = registered_providers() if providers is None else providers
    settings: dict[str, str] = {}
    for provider in known:
        settings |= provider.sandbox_environment(public_url.rstrip("/"))
    return settings


def create_sandbox_app(
    public_url: str,
    *,
    providers: Sequence[Provider] | None = None,
    clock: Clock | None = None,
    state_file: str | Path | None = None,
) -> SandboxApp:
    """The sandbox as an ASGI app, reachable by browsers at `public_url`.

    With a `state_file` every change is on disk before it is answered, and the next start knows it. Raises `ConfigError`
    for a state file that can't be read.
    """
    cores = sandbox_cores(public_url, providers)
    return SandboxApp(cores, clock or SystemClock(), None if state_file is None else Path(state_file))


class SandboxApp:
    """An ASGI 3 application over twins; `create_sandbox_app` builds it."""

    def __init__(self, cores: Mapping[str, SandboxCore], clock: Clock, state_file: Path | None) -> None:
        self.cores = dict(cores)
        self._clock = clock
        self._state_file = state_file
        # The states of twins which aren't loaded today are kept for the day they are again.
        self._saved: dict[str, str] = {} if state_file is None else _load(state_file, self.cores)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await _respond(send, scope["method"], await self._answer(scope, receive))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive) -> HttpResponse:
        path = _path(scope)
        if path == "/healthz":
            return _json(200, {"status": "ok", "sandbox": True, "gateways": list(self.cores)})
        if path == "/":
            return self._landing_page()
        body = await _read_body(receive)
        if body is None:
            return _json(413, {"error": f"the sandbox takes bodies of at most {LARGEST_BODY_BYTES} bytes"})
        query = scope["query_string"].decode("latin-1")
        target = f"{path}?{query}" if query else path
        request = HttpRequest(scope["method"], target, _headers(scope), body)
        answer = answer_below_mount(self.cores, request, now=self._clock.now())
        if request.method not in _READING:
            self._save()
        return answer

    def _save(self) -> None:
        if self._state_file is None:
            return
        self._saved |= {name: core.dump() for name, core in self.cores.items()}
        written = self._state_file.with_name(self._state_file.name + ".new")
        written.write_text(json.dumps({"version": 1, "cores": self._saved}), encoding="utf-8")
        # A rename is atomic: a killed demo leaves the old state or the new one, never half a file.
        os.replace(written, self._state_file)

    def _landing_page(self) -> HttpResponse:
        mounted = "".join(f"<li><code>/{html.escape(name)}/</code></li>" for name in self.cores)
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>paidonce offline sandbox</title>'
            f"<style>{_STYLE}</style></head><body><main><h1>paidonce offline sandbox</h1>"
            "<p>This is a stand-in for the payment gateways below. It is <strong>not</strong> a payment service: no "
            "money moves here, and no real card or account may be entered.</p>"
            f"<ul>{mounted}</ul></main></body></html>"
        )
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'",
        }
        return HttpResponse(200, headers, page.encode())


class SandboxTransport:
    """`base.Transport` that answers from twins in this process, below `public_url`, without a socket."""

    def __init__(self, cores: Mapping[str, SandboxCore], clock: Clock, public_url: str) -> None:
        self._cores = cores
        self._clock = clock
        self._base = public_url.rstrip("/")

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """Answer at once. Raises `GatewayBusy` for any other host, since nothing can have reached it from here."""
        del deadline_seconds
        assert_outside_transaction("a call to the sandbox")
        target = request.url.removeprefix(self._base)
        if target == request.url or not target.startswith("/"):
            raise GatewayBusy("could not connect: only the offline sandbox is reachable from here")
        headers = {name.lower(): value for name, value in request.headers.items()}
        inner = HttpRequest(request.method, target, headers, request.body)
        return answer_below_mount(self._cores, inner, now=self._clock.now())

    async def close(self) -> None:
        """Nothing to free."""


def answer_below_mount(cores: Mapping[str, SandboxCore], request: HttpRequest, *, now: int) -> HttpResponse:
    """Let the twin named by the first segment of the path answer; it sees the URL below its mount."""
    name, slash, rest = request.url.removeprefix("/").partition("/")
    core = cores.get(name)
    if core is None or not slash:
        return _json(404, {"error": "the offline sandbox has no gateway here", "gateways": list(cores)})
    inner = HttpRequest(request.method, "/" + rest, request.headers, request.body)
    answer = core.handle(inner, now=now)
    return HttpResponse(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.body)


def _load(state_file: Path, cores: Mapping[str, SandboxCore]) -> dict[str, str]:
    if not state_file.exists():
        return {}
    try:
        saved: dict[str, str] = json.loads(state_file.read_text(encoding="utf-8"))["cores"]
        for name in cores.keys() & saved.keys():
            cores[name].load(saved[name])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = (
            f"The sandbox's state file {state_file} can't be read ({type(error).__name__}). Delete it to start anew."
        )
        raise ConfigError([problem]) from error
    return saved


def _path(scope: Scope) -> str:
    """The path as it was sent, below whatever this app itself is mounted at."""
    raw = scope.get("raw_path")
    path = raw.partition(b"?")[0].decode("latin-1") if raw else quote(scope["path"])
    root = scope.get("root_path") or ""
    return path.removeprefix(root) or "/"


def _headers(scope: Scope) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        separator = "; " if name == "cookie" else ", "
        joined[name] = f"{joined[name]}{separator}{value}" if name in joined else value
    return joined


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None if it is too large or its sender went away: half a request must change nothing."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _respond(send: Send, method: str, answer: HttpResponse) -> None:
    headers = {**answer.headers, "content-length": str(len(answer.body))}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _json(status: int, value: object) -> HttpResponse:
    return HttpResponse(status, {"content-type": "application/json"}, json.dumps(value).encode())
