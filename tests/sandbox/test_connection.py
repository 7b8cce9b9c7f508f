"""The faults on real connections: the app behind its server, asked by the client that production uses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from paidonce.errors import OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock
from paidonce.sandbox import Fault, Rule, SandboxApp, create_sandbox_app
from paidonce.sandbox.connection import ConnectionCut
from sandbox.twin import PROVIDERS, PUBLIC_URL, TillCore, running_app

DEADLINE_SECONDS = 5.0
BEFORE = (Fault.LOSE_REQUEST, Fault.TOO_MANY, Fault.IN_PROGRESS, Fault.ERROR_500_BEFORE, Fault.ERROR_502_BEFORE)
CUT = (Fault.LOSE_REQUEST, Fault.LOSE_ANSWER, Fault.TRUNCATED)
REPLACED = tuple(fault for fault in Fault if fault[:3] in ("429", "409", "500", "502", "htm"))


class Served:
    """The app on a socket, and a client."""

    def __init__(self, app: SandboxApp, url: str, client: AiohttpTransport) -> None:
        self.app, self.url, self._client = app, url, client

    @property
    def pays(self) -> int:
        core = self.app.cores["till"]
        assert isinstance(core, TillCore)
        return int(core.state["pays"])

    async def send(self, method: str = "POST", path: str = "/till/v1/pay", seconds: float = DEADLINE_SECONDS) -> Any:
        return await self._client.send(HttpRequest(method, self.url + path), deadline_seconds=seconds)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    app = create_sandbox_app(PUBLIC_URL, providers=PROVIDERS)
    client = AiohttpTransport(SystemClock())
    async with running_app(app) as url:
        yield Served(app, url, client)
    await client.close()


@pytest.mark.parametrize("kept_open", [False, True], ids=["new connection", "kept connection"])
@pytest.mark.parametrize("fault", CUT)
async def test_a_broken_connection_reads_as_unknown(
    fault: Fault, kept_open: bool, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    if kept_open:
        await served.send("GET", "/healthz")
    served.app.dials.add(Rule(fault, next=1))
    with pytest.raises(OutcomeUnknown):
        await served.send()
    assert served.pays == (0 if fault is Fault.LOSE_REQUEST else 1)
    # The next one is none the worse for it, and the server has nothing to complain of.
    assert json.loads((await served.send()).body)["charge"] == f"ch_{served.pays}"
    assert caplog.records == []


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_ANSWER])
async def test_a_cut_connection_ends_without_a_single_byte(fault: Fault, served: Served) -> None:
    served.app.dials.add(Rule(fault, next=1))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
    writer.write(b"POST /till/v1/pay HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
    try:
        said = await reader.read()
    except ConnectionResetError:
        said = b""
    assert said == b""
    writer.close()


async def test_a_broken_off_answer_has_begun(served: Served) -> None:
    served.app.dials.add(Rule(Fault.TRUNCATED, next=1))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
    writer.write(b"POST /till/v1/pay HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    declared = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert body.startswith(b'{"charge": "ch_1"')
    assert 0 < len(body) < declared
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(body)
    writer.close()


@pytest.mark.parametrize("fault", REPLACED)
async def test_another_answer_instead(fault: Fault, served: Served) -> None:
    served.app.dials.add(Rule(fault, next=1))
    answer: HttpResponse = await served.send()
    assert str(answer.status) == fault.removeprefix("html_")[:3]
    assert b"ch_1" not in answer.body
    assert served.pays == (0 if fault in BEFORE else 1)
    assert (await served.send()).status == 200


@pytest.mark.parametrize("fault", [Fault.DELAY, Fault.DRIP])
async def test_a_late_answer_is_whole_and_too_late_is_unknown(fault: Fault, served: Served) -> None:
    served.app.dials.add(Rule(fault, next=1, seconds=0.1))
    assert json.loads((await served.send()).body)["charge"] == "ch_1"
    served.app.dials.add(Rule(fault, next=1, seconds=60))
    with pytest.raises(OutcomeUnknown):
        await served.send(seconds=0.3)
    assert served.pays == 2


async def test_a_drip_keeps_coming_until_the_deadline(served: Served) -> None:
    served.app.dials.add(Rule(Fault.DRIP, next=1, seconds=2))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
    writer.write(b"POST /till/v1/pay HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    first, second = await reader.read(4096), await reader.read(4096)
    assert (first + second).startswith(b'{"charge": "ch_1"')
    assert len(first + second) < 400
    writer.close()


async def test_pages_and_the_dials_themselves_are_spared(served: Served) -> None:
    served.app.dials.add(Rule(Fault.LOSE_ANSWER, pages=True))
    assert (await served.send("GET", "/healthz")).status == 200
    assert (await served.send("GET", "/")).status == 200
    assert (await served.send("GET", "/_control")).status == 200
    assert (await served.send("POST", "/nobody/v1")).status == 404
    assert served.app.dials.struck.total() == 0


@pytest.mark.parametrize("fault", CUT)
async def test_a_server_that_hides_its_connection_is_made_to_close_it(fault: Fault) -> None:
    app = create_sandbox_app(PUBLIC_URL, providers=PROVIDERS)
    app.dials.add(Rule(fault))
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/till/v1/pay", "query_string": b"", "headers": []}
    with pytest.raises(ConnectionCut):
        await app(scope, receive, send)
    declared = int(dict(sent[0]["headers"])[b"content-length"])
    # Whatever has begun is never said to be complete.
    assert sum(len(message["body"]) for message in sent[1:]) < declared
    assert all(message["more_body"] for message in sent[1:])
