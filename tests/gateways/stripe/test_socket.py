"""The official package, our transport and aiohttp on a real socket: what a twin in the same process can't show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from paidonce.errors import GatewayBusy, OutcomeUnknown
from paidonce.gateways.base import CreateRequest, HttpRequest, Progress
from paidonce.gateways.stripe import provider
from paidonce.gateways.stripe.gateway import StripeGateway
from paidonce.gateways.stripe.sandbox import StripeSandbox
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock

from .conftest import RETURN_URL

Create = Callable[..., CreateRequest]


class Server:
    """HTTP/1.1 by hand, so that it can break off where real servers never should."""

    def __init__(self) -> None:
        self.core = StripeSandbox("http://127.0.0.1/stripe")
        self.broken: list[bytes] = []
        self.posts: list[dict[str, str]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:] if line}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        answer = self.core.handle(
            HttpRequest(method, target.removeprefix("/stripe"), headers, body), now=SystemClock().now()
        )
        if method == "POST":
            self.posts.append(headers)
        lines = [f"{name}: {value}" for name, value in answer.headers.items()]
        start = f"HTTP/1.1 {answer.status} X\r\ncontent-length: {len(answer.body)}\r\nconnection: close\r\n"
        whole = (start + "\r\n".join(lines) + "\r\n\r\n").encode() + answer.body
        writer.write(self.broken.pop(0) if method == "POST" and self.broken else whole)
        await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, StripeGateway]]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    clock = SystemClock()
    transport = AiohttpTransport(clock)
    gateway = provider.configure(provider.sandbox_environment(url), transport, clock)
    assert gateway is not None
    yield server, gateway
    await transport.close()
    listener.close()
    await listener.wait_closed()


async def test_a_payment_over_a_real_socket(server: tuple[Server, StripeGateway], create_request: Create) -> None:
    twin, gateway = server
    opened = await gateway.create(create_request())
    snapshot = await gateway.confirm_as_test_buyer(
        opened.snapshot.ref, payment_method="pm_card_visa", return_url=RETURN_URL
    )
    assert snapshot.progress is Progress.CAPTURED
    for headers in twin.posts:
        assert headers["content-type"] == "application/x-www-form-urlencoded"
        assert headers["idempotency-key"]
        assert headers["user-agent"].startswith("Stripe/v1 PythonBindings/")


BROKEN = {
    "nothing": b"",
    "half a body": b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"id": "pi_',
    "HTML with 200": b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>",
    "half JSON": b'HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\n{"id": ',
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_an_answer_lost_on_the_way_is_asked_for_again_with_the_same_key(
    server: tuple[Server, StripeGateway], create_request: Create, kind: str
) -> None:
    twin, gateway = server
    twin.broken = [BROKEN[kind]]
    opened = await gateway.create(create_request())
    assert opened.snapshot.payment_id == "pay_1"
    assert [headers["idempotency-key"] for headers in twin.posts] == ["key_1", "key_1"]
    assert twin.core.dump().count('"client_secret"') == 1


async def test_answers_that_stay_broken_are_unknown(
    server: tuple[Server, StripeGateway], create_request: Create
) -> None:
    twin, gateway = server
    twin.broken = list(BROKEN.values())
    with pytest.raises(OutcomeUnknown):
        await gateway.create(create_request())


async def test_nobody_listening_means_that_nothing_happened(create_request: Create) -> None:
    clock = SystemClock()
    transport = AiohttpTransport(clock)
    gateway = provider.configure(provider.sandbox_environment("http://127.0.0.1:1"), transport, clock)
    assert gateway is not None
    with pytest.raises(GatewayBusy):
        await gateway.create(create_request())
    await transport.close()
