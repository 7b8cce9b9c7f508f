"""What the server itself lets through, below all of ours: parts of a request without an end, trailers, odd targets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from paidonce import serving
from paidonce.demo.servers import in_thread
from paidonce.web.protocol import LARGEST_UNFINISHED_BYTES

HEAD = b"POST /echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """Read the whole body, and only then tell what head it had: what comes late would be in it."""
    if scope["type"] != "http":
        return
    more, body = True, b""
    while more:
        message = await receive()
        more, body = message.get("more_body", False), body + message.get("body", b"")
    names = sorted(name.decode() for name, _ in scope["headers"])
    told = json.dumps({"path": scope["path"], "headers": names, "body": body.decode()}).encode()
    head = [(b"content-length", str(len(told)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": told})


@pytest.fixture
def port() -> Iterator[int]:
    listener = serving.bind("127.0.0.1", 0, fix="")
    with in_thread(_echo, listener):
        yield listener.getsockname()[1]


async def _ask(port: int, sent: bytes) -> tuple[bytes, bytes]:
    """The answer's head and body; what the server cuts off is what came until then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head, await reader.readexactly(length)
    finally:
        writer.close()


async def test_a_trailer_is_no_header(port: int) -> None:
    """A proxy takes a client's own X-Forwarded-For out of the head; behind the body it would come in after all."""
    _, body = await _ask(port, HEAD + b"X-Forwarded-For: 203.0.113.9\r\nCookie: session=x\r\n\r\n")
    assert json.loads(body) == {"path": "/echo", "headers": ["host", "transfer-encoding"], "body": "{}"}


ENDLESS = {
    "a header": (b"GET / HTTP/1.1\r\nHost: shop\r\nX-Long: ", b"a"),
    "an address": (b"GET /", b"a"),
    "a trailer": (HEAD + b"X-Long: ", b"a"),
    "many trailers": (HEAD, b"X: y\r\n"),
    "a chunk's extension": (HEAD.partition(b"2\r\n")[0] + b"2;long=", b"a"),
}
READ_AT_ONCE = 256 * 1024


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_has_no_end_is_cut_off(port: int, what: str) -> None:
    """The parser would collect it for as long as there is memory. Twice what may come is enough to be cut off."""
    begin, more = ENDLESS[what]
    sent = begin + more * (2 * (LARGEST_UNFINISHED_BYTES + READ_AT_ONCE) // len(more))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(sent), 16_384):
                writer.write(sent[start : start + 16_384])
                await writer.drain()
            # Whether the answer arrives or gets lost with the connection is up to the network.
            answer = await asyncio.wait_for(reader.read(), 20)
            assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    finally:
        writer.close()


async def test_a_body_may_be_longer_than_a_head(port: int) -> None:
    size = 4 * LARGEST_UNFINISHED_BYTES
    whole = b"POST /echo HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size
    for sent in (whole, HEAD.partition(b"2\r\n")[0] + b"%x\r\n" % size + b"b" * size + b"\r\n0\r\n\r\n"):
        _, body = await _ask(port, sent)
        assert json.loads(body)["body"] == "b" * size


async def test_a_target_for_a_proxy_is_told_as_it_was_sent(port: int) -> None:
    _, body = await _ask(port, b"GET http://evil.example/x HTTP/1.1\r\nHost: shop\r\n\r\n")
    assert json.loads(body)["path"] == "http://evil.example/x"


async def test_one_connection_takes_many_requests(port: int) -> None:
    """Each may have a head of its own size: they are not added up."""
    one = b"GET /echo HTTP/1.1\r\nHost: shop\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(8):
        writer.write(one)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    writer.close()
