"""The transport against a real loopback server that misbehaves in every way a gateway has been seen to."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import socket
import ssl
import struct
import subprocess
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from paidonce.errors import GatewayBusy, GatewayMisconfigured, OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import GatewayCallInsideTransaction, SystemClock, inside_transaction

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# Canaries: none of these may appear in an exception, its chain, or a log.
SECRETS = ("sk_test_sandbox_canary", "pi_1_secret_canary", "password_canary")


class Server:
    """What the server saw: whole requests, as bytes."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.arrived = asyncio.Event()
        self.url = ""


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def serving(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server.requests.append(await read_request(reader))
            server.arrived.set()
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client hung up, which is what several tests make it do.
        finally:
            writer.close()

    def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve_one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listening = await asyncio.start_server(on_connect, "127.0.0.1", 0, ssl=tls)
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.wait_closed()


def answering(raw: bytes) -> Handler:
    async def handle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return handle


async def never_answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def drip_forever(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never silent for long, so that a time-out per read would never fire."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def reset_mid_body(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()
    # SO_LINGER with zero seconds makes close() send RST rather than FIN.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def reset_at_once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport(SystemClock())
    yield transport
    await transport.close()


def post(url: str) -> HttpRequest:
    """A request that holds a secret everywhere a real one does."""
    headers = {"Authorization": "Bearer sk_test_sandbox_canary", "Content-Type": "application/json"}
    return HttpRequest(
        "POST", url + "/v1/charges?client_secret=pi_1_secret_canary", headers, b'{"p":"password_canary"}'
    )


def assert_no_secret(error: BaseException, log: pytest.LogCaptureFixture) -> None:
    told = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error)) + log.text
    assert not [secret for secret in SECRETS if secret in told]
    # A chained aiohttp error would carry the whole URL and the headers into whatever prints it.
    assert error.__cause__ is None
    assert error.__context__ is None


async def test_an_answer_is_read_whole_with_lower_case_names_and_no_opinion_on_its_status(
    transport: AiohttpTransport,
) -> None:
    raw = b"HTTP/1.1 402 Payment Required\r\nX-Request-ID: req_1\r\nX-Two: a\r\nx-two: b\r\nContent-Length: 2\r\n\r\n{}"
    async with serving(answering(raw)) as server:
        answer = await transport.send(post(server.url), deadline_seconds=5)
    assert (answer.status, answer.body) == (402, b"{}")
    assert answer.headers["x-request-id"] == "req_1"
    assert answer.headers["x-two"] == "a, b"
    assert all(name == name.lower() for name in answer.headers)


async def test_the_request_goes_out_once_as_it_was_given(transport: AiohttpTransport) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with serving(answering(raw)) as server:
        url = server.url + "/v1/a%2Fb%7E?expand%5B%5D=latest&x=%7E1"
        await transport.send(HttpRequest("POST", url, {"Idempotency-Key": "k1"}, b"a=b"), deadline_seconds=5)
    assert len(server.requests) == 1
    head, body = server.requests[0].split(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/a%2Fb%7E?expand%5B%5D=latest&x=%7E1 HTTP/1.1\r\n")
    assert b"\r\nIdempotency-Key: k1" in head
    assert b"content-type" not in head.lower()
    assert b"cookie" not in head.lower()
    assert body == b"a=b"


@pytest.mark.parametrize(
    ("handler", "deadline_seconds"),
    [
        pytest.param(never_answer, 0.2, id="silence"),
        pytest.param(drip_forever, 0.3, id="slow drip under a total deadline"),
        pytest.param(reset_mid_body, 5, id="reset in the middle of the body"),
        pytest.param(reset_at_once, 5, id="reset before the answer"),
        pytest.param(answering(b""), 5, id="closed without an answer"),
        pytest.param(answering(b"HTTP/1.1 200 OK\r\nContent-Le"), 5, id="cut in the headers"),
        pytest.param(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), 5, id="shorter than announced"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"), 5, id="cut in a chunk"
        ),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab"), 5, id="nonsense chunks"
        ),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"), 5, id="not gzip"
        ),
        pytest.param(answering(b"\x16\x03\x01\x02\x00 not http\r\n\r\n"), 5, id="not HTTP at all"),
    ],
)
async def test_a_failure_after_the_request_left_is_an_unknown_outcome(
    transport: AiohttpTransport, caplog: pytest.LogCaptureFixture, handler: Handler, deadline_seconds: float
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(handler) as server:
        with pytest.raises(OutcomeUnknown) as caught:
            await transport.send(post(server.url), deadline_seconds=deadline_seconds)
    assert_no_secret(caught.value, caplog)
    assert "POST 127.0.0.1:" in caught.value.detail
    # A request that may have been carried out is never sent again behind the caller's back.
    assert len(server.requests) == 1


async def test_html_is_handed_over_as_it_came(transport: AiohttpTransport) -> None:
    page = b"<html>Bad gateway</html>"
    raw = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)
    async with serving(answering(raw)) as server:
        answer = await transport.send(post(server.url), deadline_seconds=5)
    assert answer == HttpResponse(502, {"content-type": "text/html", "content-length": "24"}, page)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(transport: AiohttpTransport, status: int) -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as elsewhere:
        location = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(answering(location)) as server:
            answer = await transport.send(post(server.url), deadline_seconds=5)
    assert answer.status == status
    # The other host would have received the secret key.
    assert elsewhere.requests == []


async def test_a_huge_body_is_not_read_to_its_end() -> None:
    sent = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    transport = AiohttpTransport(SystemClock(), largest_body_bytes=100_000)
    async with serving(flood) as server:
        with pytest.raises(OutcomeUnknown, match="larger than 100000 bytes"):
            await transport.send(post(server.url), deadline_seconds=20)
    await transport.close()
    assert sent < 100_000_000


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class CountingClock(SystemClock):
    """The real clock; it counts the pauses between attempts."""

    def __init__(self) -> None:
        self.pauses = 0

    async def sleep(self, seconds: float) -> None:
        self.pauses += 1
        await super().sleep(seconds)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_what_never_left_is_busy_and_not_unknown(caplog: pytest.LogCaptureFixture, host: str) -> None:
    caplog.set_level(logging.DEBUG)
    clock = CountingClock()
    transport = AiohttpTransport(clock)
    with pytest.raises(GatewayBusy, match="could not connect") as caught:
        await transport.send(post(f"http://{host}:{unused_port()}"), deadline_seconds=30)
    await transport.close()
    assert_no_secret(caught.value, caplog)
    assert clock.pauses == 1


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for the right host that nobody has signed but itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program is needed to make a certificate")
    pem = tmp_path / "server.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", str(pem)]
    made = subprocess.run([*command, *names], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    return pem


async def test_a_server_that_cannot_prove_its_name_gets_no_request(
    transport: AiohttpTransport, certificate: Path
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    ok = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with serving(ok, tls=tls) as server:
        with pytest.raises(GatewayBusy, match="could not connect"):
            await transport.send(post(server.url), deadline_seconds=5)
    assert server.requests == []


async def test_a_server_that_speaks_no_tls_gets_no_request(transport: AiohttpTransport) -> None:
    heard = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(GatewayBusy, match="could not connect"):
            await transport.send(post(f"https://127.0.0.1:{port}"), deadline_seconds=5)
    assert heard
    assert b"sk_test_sandbox_canary" not in heard


@pytest.mark.parametrize("url", ["", "not a url", "http://[::1", "file:///etc/passwd", "http://host:port/"])
async def test_an_unusable_address_names_itself_a_wrong_setting(transport: AiohttpTransport, url: str) -> None:
    with pytest.raises(GatewayMisconfigured, match="address") as caught:
        await transport.send(HttpRequest("GET", url), deadline_seconds=2)
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_a_call_inside_a_transaction_is_refused_before_any_byte_leaves(transport: AiohttpTransport) -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
        token = inside_transaction.set(True)
        try:
            with pytest.raises(GatewayCallInsideTransaction):
                await transport.send(post(server.url), deadline_seconds=2)
        finally:
            inside_transaction.reset(token)
    assert server.requests == []


async def test_a_proxy_in_the_environment_is_ignored(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with serving(ok) as proxy, serving(ok) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        await transport.send(post(server.url), deadline_seconds=5)
    assert len(server.requests) == 1
    assert proxy.requests == []


async def test_cookies_are_not_kept(transport: AiohttpTransport) -> None:
    raw = b"HTTP/1.1 200 OK\r\nSet-Cookie: who=someone-else\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with serving(answering(raw)) as server:
        await transport.send(post(server.url), deadline_seconds=5)
        await transport.send(post(server.url), deadline_seconds=5)
    assert len(server.requests) == 2
    assert b"who=someone-else" not in server.requests[1]


async def test_a_canceled_call_stays_canceled(transport: AiohttpTransport) -> None:
    async with serving(never_answer) as server:
        call = asyncio.create_task(transport.send(post(server.url), deadline_seconds=60))
        await server.arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_calls_run_beside_each_other(transport: AiohttpTransport) -> None:
    arrived = 0
    everyone = asyncio.Event()

    async def wait_for_everyone(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 150:
            everyone.set()
        await everyone.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    # 150 lies above aiohttp's own limit of 100: with that one the last fifty would never arrive.
    async with serving(wait_for_everyone) as server:
        calls = [transport.send(post(server.url), deadline_seconds=30) for _ in range(150)]
        answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [200] * 150


def test_one_transport_serves_one_loop_after_another_and_leaves_nothing_open() -> None:
    transport = AiohttpTransport(SystemClock())

    async def one_call() -> int:
        # Kept alive, so that the session still owns an open connection when its loop ends.
        async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
            return (await transport.send(post(server.url), deadline_seconds=5)).status

    async def close() -> None:
        await transport.close()

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert asyncio.run(one_call()) == 200
        assert asyncio.run(one_call()) == 200
        asyncio.run(close())
        gc.collect()
    assert [str(warning.message) for warning in seen] == []


async def test_closing_twice_and_closing_unused_is_harmless() -> None:
    transport = AiohttpTransport(SystemClock())
    await transport.close()
    await transport.close()
