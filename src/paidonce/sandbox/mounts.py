"""The twins by name, and which of them answers an address."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from paidonce.gateways.base import HttpRequest, HttpResponse, Provider, SandboxCore
from paidonce.gateways.registry import providers as registered_providers


def sandbox_cores(public_url: str, providers: Iterable[Provider] | None = None) -> dict[str, SandboxCore]:
    """The twins of all providers that have one, by name. Browsers reach each at `public_url`/`<name>`."""
    known = registered_providers() if providers is None else providers
    twins = ((provider.name, provider.sandbox(public_url.rstrip("/"))) for provider in known)
    return {name: core for name, core in sorted(twins, key=lambda twin: twin[0]) if core is not None}


def sandbox_environment(public_url: str, providers: Iterable[Provider] | None = None) -> dict[str, str]:
    """The settings that make every gateway talk to its twin below `public_url`, and believe its webhooks."""
    known = registered_providers() if providers is None else providers
    settings: dict[str, str] = {}
    for provider in known:
        settings |= provider.sandbox_environment(public_url.rstrip("/"))
    return settings


def gateway_of(cores: Mapping[str, SandboxCore], url: str) -> str | None:
    """The name of the twin that is mounted where `url` (path and query) leads, or None."""
    name, slash, _ = url.removeprefix("/").partition("/")
    return name if slash and name in cores else None


def answer_below_mount(cores: Mapping[str, SandboxCore], request: HttpRequest, *, now: int) -> HttpResponse:
    """Let the twin named by the first segment of the path answer; it sees the URL below its mount."""
    name = gateway_of(cores, request.url)
    if name is None:
        return json_answer(404, {"error": "the offline sandbox has no gateway here", "gateways": list(cores)})
    below = request.url.removeprefix("/").removeprefix(name)
    answer = cores[name].handle(HttpRequest(request.method, below, request.headers, request.body), now=now)
    return HttpResponse(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.body)


def json_answer(status: int, value: object) -> HttpResponse:
    """An answer of the sandbox itself."""
    return HttpResponse(status, {"content-type": "application/json"}, json.dumps(value).encode())
