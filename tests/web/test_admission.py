"""A process works on so many requests at once: whoever comes then hears it at once, and every place is given back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from structlog.testing import capture_logs

from paidonce import Actor, Payments, serving
from paidonce.demo.servers import in_thread
from paidonce.gateways.base import HttpRequest
from paidonce.sandbox.app import sandbox_environment
from paidonce.store import SqlStore
from paidonce.web import admission
from paidonce.web.admission import LONGEST_WAIT_SECONDS, MOMENT_SECONDS, Admission
from paidonce.web.problems import Busy
from support.webshop import Answer, Client, WebShop, running_shop

PRODUCTS = "/api/products"
FRONT_END = "https://www.shop.example"


class Visits:
    """Requests that stay in the shop until they are let go, or end badly."""

    def __init__(self, app: FastAPI) -> None:
        self._inside = threading.Semaphore(0)
        self._let_go = threading.Event()
        self._open: list[asyncio.Task[Answer]] = []
        for path in ("/test/stay", "/test/complete"):
            app.add_api_route(path, self.stay)
        app.add_api_route("/test/fall", _fall)
        app.add_api_route("/test/break", _break)
        app.add_api_route("/test/stream", _stream)

    async def stay(self) -> None:
        self._inside.release()
        await asyncio.to_thread(self._let_go.wait)

    async def come(self, client: Client, number: int, path: str = "/test/stay") -> None:
        """Keep so many places."""
        self._open += [asyncio.create_task(client.get(path)) for _ in range(number)]
        for _ in range(number):
            await self.one_is_inside()

    async def one_is_inside(self) -> None:
        assert await asyncio.to_thread(self._inside.acquire, timeout=30)

    async def go(self) -> list[Answer]:
        """Give the places back."""
        self._let_go.set()
        answers = await asyncio.gather(*self._open)
        self._open.clear()
        return answers


async def _fall() -> None:
    raise RuntimeError("a bug")


async def _break() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"begun"
        raise RuntimeError("a bug after the answer has begun")

    return StreamingResponse(pieces())


async def _stream() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield bytes(64 * 1024)
            # Once its client has gone nothing is sent any more, so nothing else would let others run.
            await asyncio.sleep(0)

    return StreamingResponse(pieces())


@contextmanager
def bounded(url: str, places: int) -> Iterator[tuple[WebShop, Visits]]:
    with running_shop(url, PAIDONCE_REQUESTS_AT_ONCE=str(places), PAIDONCE_ALLOWED_ORIGINS=FRONT_END) as shop:
        visits = Visits(shop.app)
        try:
            yield shop, visits
        finally:
            # A test that fails in the middle must not leave a server that waits for ever.
            visits._let_go.set()


@asynccontextmanager
async def full(url: str, places: int = 2) -> AsyncIterator[tuple[WebShop, Visits, Client]]:
    """A shop all of whose places are taken, and a buyer who is signed in."""
    with bounded(url, places) as (shop, visits):
        async with shop.client() as client:
            assert (await client.sign_in()).status == 201
            await visits.come(client, places)
            yield shop, visits, client
            await visits.go()


@asynccontextmanager
async def connection(shop: WebShop, sent: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that sends as much as that, and hangs up in the end."""
    address = urlsplit(shop.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(sent)
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def head(method: str, path: str, *more: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *more, "", "")).encode()


HALF_A_BODY = head("POST", "/api/orders", "Content-Type: application/json", "Content-Length: 100") + b'{"lines'


def is_busy(answer: Answer) -> bool:
    assert answer.is_problem(503, "service_unavailable"), answer.text
    assert "Nothing was done or charged by this step" in answer.json["detail"]
    assert answer.headers["Retry-After"] == str(answer.json["retry_after"])
    assert 1 <= answer.json["retry_after"] <= LONGEST_WAIT_SECONDS
    return True


async def all_is_well(client: Client) -> None:
    """Every place is free again, sooner or later: a client that hangs up is noticed when it is noticed."""
    async with asyncio.timeout(60):
        while (await client.get(PRODUCTS)).status == 503:
            pass


# ── Past the bound ──────────


async def test_past_the_bound_everybody_hears_at_once_that_the_shop_is_busy(seeded_url: str) -> None:
    async with full(seeded_url) as (_, visits, buyer):
        lines = {"lines": [{"sku": "MUG-01", "quantity": 1}]}
        refused = await buyer.post("/api/orders", lines, headers={"origin": FRONT_END})
        assert is_busy(refused)
        for name in ("Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "X-Request-Id"):
            assert name in refused.headers
        assert refused.headers["Cache-Control"] == "no-store"
        # A front end elsewhere can read the sentence, and its browser is let through to hear it.
        assert refused.headers["Access-Control-Allow-Origin"] == FRONT_END
        ask = {"origin": FRONT_END, "access-control-request-method": "POST"}
        assert (await buyer.request("OPTIONS", "/api/orders", headers=ask)).status == 204
        page = await buyer.page("/orders")
        assert (page.status, page.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
        assert "Nothing was done or charged by this step" in page.text
        assert int(page.headers["Retry-After"]) >= 1
        await visits.go()
        assert (await buyer.get("/api/orders")).json == []


async def test_the_refusal_comes_before_the_body_and_leaves_the_connection_usable(seeded_url: str) -> None:
    body = b'{"email": "x@example.com", "password": "wrong"}'
    ask = head("POST", "/api/session", "Content-Type: application/json", f"Content-Length: {len(body)}")
    async with full(seeded_url) as (shop, visits, _), connection(shop, ask) as (reader, writer):
        assert (await asyncio.wait_for(_answer(reader), 30)).startswith(b"HTTP/1.1 503 ")
        writer.write(body)
        await visits.go()
        writer.write(ask + body)
        assert (await asyncio.wait_for(_answer(reader), 30)).startswith(b"HTTP/1.1 401 ")


async def _answer(reader: asyncio.StreamReader) -> bytes:
    found = await reader.readuntil(b"\r\n\r\n")
    length = found.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return found + await reader.readexactly(int(length))


async def test_health_is_answered_at_the_bound(seeded_url: str) -> None:
    async with full(seeded_url) as (_, _, client):
        assert is_busy(await client.get(PRODUCTS))
        assert (await client.get("/healthz")).json == {"status": "ok"}
        assert (await client.get("/readyz")).json["status"] == "ready"


async def test_what_was_begun_goes_on_at_the_bound(seeded_url: str) -> None:
    with bounded(seeded_url, 8) as (shop, visits):
        async with shop.client() as buyer:
            await buyer.sign_in()
            order = await buyer.order()
            started = await buyer.start(order["id"], "stripe")
            shop.agree(started)
            webhook = shop.twins["stripe"].take_webhooks(now=shop.clock.now())[-1]
            await visits.come(buyer, 8)
            assert is_busy(await buyer.get(PRODUCTS))
            assert (await buyer.get("/assets/paidonce.js")).status == 200
            assert (await buyer.complete(started["id"])).json["order_status"] == "paid"
            assert (await buyer.page(f"/orders/{order['id']}/return?payment={started['id']}")).status == 303
            # It is known, for the buyer's page has asked already.
            assert (await _post(buyer, webhook)).json == {"outcome": "known"}
            await visits.go()


async def test_a_webhook_that_finds_no_place_is_sent_again_and_nothing_of_it_is_kept(seeded_url: str) -> None:
    with bounded(seeded_url, 1) as (shop, visits):
        async with shop.client() as buyer:
            await buyer.sign_in()
            order = await buyer.order()
            shop.agree(await buyer.start(order["id"], "stripe"))
            webhook = shop.twins["stripe"].take_webhooks(now=shop.clock.now())[-1]
            await visits.come(buyer, 1)
            # The one place more for those who have begun.
            await visits.come(buyer, 1, "/test/complete")
            refused = await _post(buyer, webhook)
            assert is_busy(refused)
            assert refused.headers["Retry-After"] == str(MOMENT_SECONDS)
            await visits.go()
            assert (await _post(buyer, webhook)).json == {"outcome": "new"}


async def _post(client: Client, webhook: HttpRequest) -> Answer:
    headers = {**webhook.headers, "content-type": "application/json"}
    return await client.request("POST", urlsplit(webhook.url).path, data=webhook.body, headers=headers)


# ── Places are given back ──────────


async def _succeed(shop: WebShop, client: Client) -> None:
    assert (await client.get(PRODUCTS)).status == 200


async def _be_refused(shop: WebShop, client: Client) -> None:
    assert (await client.post("/api/orders", {"lines": []})).status in {401, 422}


async def _meet_a_bug(shop: WebShop, client: Client) -> None:
    assert (await client.get("/test/fall")).is_problem(500, "internal_error")


async def _lose_the_answer(shop: WebShop, client: Client) -> None:
    async with connection(shop, head("GET", "/test/break")) as (reader, _):
        assert b"begun" in await asyncio.wait_for(reader.read(), 30)


async def _hang_up_in_the_body(shop: WebShop, client: Client) -> None:
    async with connection(shop, HALF_A_BODY):
        pass


async def _hang_up_in_the_answer(shop: WebShop, client: Client) -> None:
    async with connection(shop, head("GET", "/test/stream")) as (reader, _):
        assert (await asyncio.wait_for(reader.read(100_000), 30)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "ends",
    [_succeed, _be_refused, _meet_a_bug, _lose_the_answer, _hang_up_in_the_body, _hang_up_in_the_answer],
    ids=lambda ends: ends.__name__.strip("_"),
)
async def test_a_place_is_given_back_however_its_request_ends(seeded_url: str, ends: Callable[..., object]) -> None:
    with bounded(seeded_url, 1) as (shop, _):
        async with shop.client() as client:
            for _ in range(3):
                await ends(shop, client)  # type: ignore[misc]  # All of them are coroutines.
                await all_is_well(client)


async def test_a_place_is_kept_until_the_work_ends_though_its_client_has_gone(seeded_url: str) -> None:
    with bounded(seeded_url, 1) as (shop, visits):
        async with shop.client() as client:
            async with connection(shop, head("GET", "/test/stay")):
                await visits.one_is_inside()
            # What somebody has set in motion takes as much memory without him.
            assert is_busy(await client.get(PRODUCTS))
            await visits.go()
            await all_is_well(client)


async def test_who_sends_a_body_byte_by_byte_keeps_nobody_out(seeded_url: str) -> None:
    with bounded(seeded_url, 1) as (shop, visits):
        async with shop.client() as client, connection(shop, HALF_A_BODY), connection(shop, HALF_A_BODY) as (slow, _):
            assert (await client.get(PRODUCTS)).status == 200
            # What was begun while there was room is looked at again once it is complete.
            await visits.come(client, 1)
            assert is_busy(await client.get(PRODUCTS))
            assert not slow.at_eof()
            await visits.go()


# ── The log, the line, and other shops ──────────


async def test_a_flood_leaves_one_line_in_the_log(seeded_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with full(seeded_url) as (_, visits, client):
        with capture_logs() as lines:
            for _ in range(20):
                assert is_busy(await client.get(PRODUCTS))
            assert [line["event"] for line in lines] == ["busy"]
            monkeypatch.setattr(admission, "TELL_SECONDS", 0)
            await visits.go()
        told = [line for line in lines if line["event"] == "busy"]
        assert [(line["refused"], line["log_level"]) for line in told] == [(1, "warning"), (19, "warning")]


def test_who_is_refused_is_given_a_time_behind_those_before() -> None:
    places = Admission(1)
    with places.place("/"):
        waits = [_wait(places, "/orders") for _ in range(500)]
        assert waits[:5] == sorted(waits[:5])
        assert (min(waits), max(waits)) == (1, LONGEST_WAIT_SECONDS)
        # Never all at once, not even where the line is longer than anybody waits.
        assert max(waits.count(one) for one in waits) < 30
        with places.place("/api/payments/x/complete"):
            assert _wait(places, "/api/payments/y/complete") == MOMENT_SECONDS


def _wait(places: Admission, path: str) -> int:
    with pytest.raises(Busy) as caught:
        places.check(path)
    assert caught.value.retry_after_seconds is not None
    return caught.value.retry_after_seconds


async def test_mounted_routes_share_the_places_and_the_hosts_own_take_none(sqlite_url: str) -> None:
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        app = FastAPI()
        visits = Visits(app)

        async def who_asks() -> Actor:
            await visits.stay()
            return Actor("bo")

        settings = {"PAIDONCE_DATABASE_URL": sqlite_url, "PAIDONCE_PUBLIC_URL": url, "PAIDONCE_WORKER": "0"}
        environment = {**sandbox_environment("http://127.0.0.1:9"), **settings, "PAIDONCE_REQUESTS_AT_ONCE": "2"}
        payments = Payments(
            store=SqlStore(), current_user=who_asks, return_path="/x?payment={payment}", environment=environment
        )
        app.router.lifespan_context = payments.lifespan
        app.include_router(payments.router)
        app.mount("/assets", payments.assets)
        with in_thread(app, listener):
            await _fill_a_host(Client(url), visits)


async def _fill_a_host(client: Client, visits: Visits) -> None:
    payment = "/api/payments/pay_00000000000000000000000000"
    async with client:
        await visits.come(client, 1, payment)
        await visits.come(client, 1, "/api/orders/7/payment-methods")
        assert is_busy(await client.get(payment))
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/assets/paidonce.js")).status == 200
        assert (await client.get("/test/fall")).text == "Internal Server Error"
        assert {answer.status for answer in await visits.go()} == {404}
        assert (await client.get(payment)).is_problem(404, "not_found")
