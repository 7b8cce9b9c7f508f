"""The sandbox app, spoken to as an ASGI server would, and its in-process transport."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from paidonce.errors import ConfigError, GatewayBusy
from paidonce.gateways.base import (
    BookEntry,
    Control,
    Gateway,
    HttpRequest,
    HttpResponse,
    Provider,
    SandboxCore,
    Transport,
)
from paidonce.ports import Clock, GatewayCallInsideTransaction, inside_transaction
from paidonce.sandbox import SandboxApp, SandboxTransport, create_sandbox_app, sandbox_cores, sandbox_environment
from paidonce.sandbox.app import LARGEST_BODY_BYTES

PUBLIC_URL = "http://127.0.0.1:9000"


class FrozenClock:
    """A clock that stands still."""

    def now(self) -> int:
        return 1_700_000_000_000_000

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the sandbox never sleeps")


class EchoCore:
    """Answers with what it was asked, and counts what changes it."""

    controls: tuple[Control, ...] = ()

    def __init__(self, name: str, public_url: str) -> None:
        self.name = name
        self.public_url = public_url
        self.writes = 0

    def handle(self, request: HttpRequest, *, now: int) -> HttpResponse:
        if request.method == "POST":
            self.writes += 1
        seen = {
            "core": self.name,
            "method": request.method,
            "url": request.url,
            "headers": dict(request.headers),
            "body": request.body.decode(),
            "now": now,
            "writes": self.writes,
        }
        return HttpResponse(207, {"X-Echo": "yes", "Content-Type": "application/json"}, json.dumps(seen).encode())

    def control(self, name: str, params: Mapping[str, str], *, now: int) -> Mapping[str, str]:
        raise ValueError("it has no controls")

    def take_webhooks(self, *, now: int) -> list[HttpRequest]:
        return []

    def books(self) -> tuple[BookEntry, ...]:
        return ()

    def dump(self) -> str:
        return json.dumps(self.writes)

    def load(self, text: str) -> None:
        self.writes = int(json.loads(text))


class EchoProvider:
    """A provider with a twin, or without one."""

    settings: tuple[str, ...] = ()

    def __init__(self, name: str, *, twin: bool = True) -> None:
        self.name = name
        self.twin = twin

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> Gateway | None:
        return None

    def sandbox(self, public_url: str) -> SandboxCore | None:
        return EchoCore(self.name, public_url) if self.twin else None

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        return {f"{self.name.upper()}_API_BASE": f"{public_url}/{self.name}"}


PROVIDERS: Sequence[Provider] = (EchoProvider("zed"), EchoProvider("alpha"), EchoProvider("bare", twin=False))


def make_app(state_file: Path | None = None, providers: Sequence[Provider] = PROVIDERS) -> SandboxApp:
    return create_sandbox_app(PUBLIC_URL, providers=providers, clock=FrozenClock(), state_file=state_file)


async def ask(
    app: SandboxApp,
    method: str,
    path: str,
    *,
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    chunks: Sequence[bytes] = (b"",),
    root_path: str = "",
) -> HttpResponse:
    """Send one request as ASGI messages; `path` is what stands on the wire."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": list(headers),
        "root_path": root_path,
    }
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return HttpResponse(sent[0]["status"], answered, sent[1]["body"])


async def test_a_twin_sees_the_request_below_its_mount() -> None:
    answer = await ask(
        make_app(),
        "POST",
        "/alpha/v1/a%2Fb",
        query=b"x=%201&y=2",
        headers=[(b"Authorization", b"Bearer t"), (b"x-two", b"1"), (b"X-Two", b"2")],
        chunks=[b"he", b"llo"],
    )
    seen = json.loads(answer.body)
    assert answer.status == 207
    assert answer.headers["x-echo"] == "yes"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert (seen["core"], seen["method"], seen["url"]) == ("alpha", "POST", "/v1/a%2Fb?x=%201&y=2")
    assert seen["headers"] == {"authorization": "Bearer t", "x-two": "1, 2"}
    assert seen["body"] == "hello"
    assert seen["now"] == FrozenClock().now()


async def test_it_can_be_mounted_in_another_app() -> None:
    answer = await ask(make_app(), "GET", "/sandbox/alpha/v1", root_path="/sandbox")
    assert json.loads(answer.body)["url"] == "/v1"


@pytest.mark.parametrize("path", ["/nobody/v1", "/bare/v1", "/alpha", "//alpha/v1", "/../alpha/v1"])
async def test_other_paths_reach_no_twin(path: str) -> None:
    app = make_app()
    answer = await ask(app, "POST", path)
    assert answer.status == 404
    assert [core.dump() for core in app.cores.values()] == ["0", "0"]


async def test_the_landing_page_says_what_this_is_and_lists_the_twins() -> None:
    answer = await ask(make_app(), "GET", "/")
    page = answer.body.decode()
    assert answer.status == 200
    assert "offline sandbox" in page
    assert "no money moves" in page
    assert "<code>/alpha/</code>" in page
    assert "bare" not in page
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_health() -> None:
    answer = await ask(make_app(), "GET", "/healthz")
    assert json.loads(answer.body) == {"status": "ok", "sandbox": True, "gateways": ["alpha", "zed"]}


async def test_a_head_request_gets_no_body() -> None:
    answer = await ask(make_app(), "HEAD", "/alpha/v1")
    assert answer.body == b""
    assert int(answer.headers["content-length"]) > 0


async def test_a_large_body_is_refused_and_changes_nothing() -> None:
    app = make_app()
    largest = [b"x" * LARGEST_BODY_BYTES]
    assert (await ask(app, "POST", "/alpha/v1", chunks=largest)).status == 207
    refused = await ask(app, "POST", "/alpha/v1", chunks=[*largest, b"x", b"unread"])
    assert refused.status == 413
    assert app.cores["alpha"].dump() == "1"


async def test_half_a_request_changes_nothing() -> None:
    app = make_app()
    messages: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": b"ha", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        assert message.get("status") != 207

    scope = {"type": "http", "method": "POST", "path": "/alpha/v1", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert app.cores["alpha"].dump() == "0"


async def test_the_lifespan_is_answered() -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    await make_app()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_restarted_sandbox_knows_what_was_answered_before(tmp_path: Path) -> None:
    state_file = tmp_path / "sandbox.json"
    first = make_app(state_file)
    await ask(first, "POST", "/alpha/v1")
    await ask(first, "POST", "/alpha/v1")
    await ask(first, "GET", "/zed/v1")
    second = make_app(state_file)
    assert {name: core.dump() for name, core in second.cores.items()} == {"alpha": "2", "zed": "0"}
    assert [path.name for path in tmp_path.iterdir()] == ["sandbox.json"]


async def test_reading_writes_no_state(tmp_path: Path) -> None:
    await ask(make_app(tmp_path / "sandbox.json"), "GET", "/alpha/v1")
    assert list(tmp_path.iterdir()) == []


async def test_the_state_of_a_gateway_that_is_away_is_kept(tmp_path: Path) -> None:
    state_file = tmp_path / "sandbox.json"
    await ask(make_app(state_file), "POST", "/zed/v1")
    await ask(make_app(state_file, [EchoProvider("alpha")]), "POST", "/alpha/v1")
    assert make_app(state_file).cores["zed"].dump() == "1"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"cores": {"alpha": "not a number"}}', '{"cores": null}', '{"cores": {}, "webhooks": [{}]}'],
)
def test_a_broken_state_file_is_named_with_the_fix(tmp_path: Path, text: str) -> None:
    state_file = tmp_path / "sandbox.json"
    state_file.write_text(text)
    with pytest.raises(ConfigError, match=r"sandbox\.json.*Delete it"):
        make_app(state_file)
    assert state_file.read_text() == text


def test_cores_and_settings_come_from_the_providers() -> None:
    cores = sandbox_cores(PUBLIC_URL + "/", PROVIDERS)
    assert list(cores) == ["alpha", "zed"]
    assert sandbox_environment(PUBLIC_URL + "/", PROVIDERS)["ALPHA_API_BASE"] == PUBLIC_URL + "/alpha"


async def test_in_process_the_twin_sees_what_it_would_see_behind_the_app() -> None:
    cores = sandbox_cores(PUBLIC_URL, PROVIDERS)
    transport = SandboxTransport(cores, FrozenClock(), PUBLIC_URL + "/")
    request = HttpRequest("POST", PUBLIC_URL + "/alpha/v1?x=1", {"Authorization": "Bearer t"}, b"hello")
    answer = await transport.send(request, deadline_seconds=1)
    seen = json.loads(answer.body)
    assert (seen["url"], seen["headers"], seen["body"]) == ("/v1?x=1", {"authorization": "Bearer t"}, "hello")
    assert answer.headers["x-echo"] == "yes"


@pytest.mark.parametrize(
    "url", ["https://example.com/alpha/v1", PUBLIC_URL, PUBLIC_URL + "0/alpha/v1", PUBLIC_URL + ".evil/alpha/v1"]
)
async def test_in_process_nothing_else_is_reachable(url: str) -> None:
    cores = sandbox_cores(PUBLIC_URL, PROVIDERS)
    with pytest.raises(GatewayBusy, match="could not connect"):
        await SandboxTransport(cores, FrozenClock(), PUBLIC_URL).send(HttpRequest("POST", url), deadline_seconds=1)
    assert cores["alpha"].dump() == "0"


async def test_in_process_a_call_inside_a_transaction_is_refused() -> None:
    cores = sandbox_cores(PUBLIC_URL, PROVIDERS)
    transport = SandboxTransport(cores, FrozenClock(), PUBLIC_URL)
    token = inside_transaction.set(True)
    try:
        with pytest.raises(GatewayCallInsideTransaction):
            await transport.send(HttpRequest("POST", PUBLIC_URL + "/alpha/v1"), deadline_seconds=1)
    finally:
        inside_transaction.reset(token)
    assert cores["alpha"].dump() == "0"
