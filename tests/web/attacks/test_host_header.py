"""Host header tricks: this server answers to its own names alone, and builds nothing from what a client calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI, Request

from paidonce import Actor, serving
from paidonce.config import load_settings
from paidonce.demo.servers import in_thread
from paidonce.errors import ConfigError
from paidonce.store import SqlStore
from paidonce.web.mount import Payments
from support.webshop import Client, WebShop, running_shop

FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "shop.example.evil.example",
    "evilshop.example",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "shop.example@evil.example",
    "shop.example:80@evil.example",
    "shop.example/evil",
    "shop.example#evil",
    "shop.example:port",
    "shop.example, evil.example",
    "10.0.0.7",
    "[::1",
    "[::1]evil",
    "shop%2eexample",
    "☃.example",
    "*",
]
PATHS = ["/", "/sign-in", "/orders", "/docs", "/api/products", "/assets/paidonce.js", "/openapi.json", "/nothing"]


@contextmanager
def public_shop(seeded_url: str, **changes: Any) -> Iterator[WebShop]:
    """A shop behind a proxy, which passes on the name that buyers use."""
    with running_shop(seeded_url, PAIDONCE_PUBLIC_URL="https://shop.example", **changes) as shop:
        yield shop


async def test_a_foreign_name_is_refused_wherever_it_is_used(seeded_url: str) -> None:
    with public_shop(seeded_url) as shop:
        async with shop.client() as client:
            for name in FOREIGN:
                answer = await client.get("/api/products", headers={"host": name})
                assert answer.is_problem(421, "invalid_request"), name
                assert "PAIDONCE_ALLOWED_HOSTS" in answer.json["detail"]
                assert "evil" not in answer.text, "the name is not repeated"
            for path in PATHS:
                assert (await client.get(path, headers={"host": "evil.example"})).status == 421, path
                assert (await client.post(path, {}, headers={"host": "evil.example"})).status == 421, path
            page = await client.get("/", headers={"host": "evil.example", "accept": "text/html"})
            assert (page.status, page.headers["Content-Type"].partition(";")[0]) == (421, "text/html")
            assert "Content-Security-Policy" in page.headers


@pytest.mark.parametrize("name", ["shop.example", "SHOP.example", "shop.example:443", "shop.example:", "shop.example."])
async def test_its_own_name_is_answered(seeded_url: str, name: str) -> None:
    with public_shop(seeded_url) as shop:
        async with shop.client() as client:
            assert (await client.get("/api/products", headers={"host": name})).status == 200


async def test_more_names_can_be_listed_and_loopback_is_always_meant_for_this_machine(seeded_url: str) -> None:
    with public_shop(seeded_url, PAIDONCE_ALLOWED_HOSTS="www.shop.example, 10.0.0.7,[fd00::7]") as shop:
        async with shop.client() as client:
            for name in ("WWW.shop.example", "10.0.0.7:8000", "[fd00::7]:80", "127.0.0.1", "localhost:1", "[::1]:9"):
                assert (await client.get("/api/products", headers={"host": name})).status == 200, name
            for name in ("w.shop.example", "10.0.0.8", "[fd00::8]", "localhost.evil.example"):
                assert (await client.get("/api/products", headers={"host": name})).status == 421, name


async def test_an_address_is_the_same_however_it_is_spelt(seeded_url: str) -> None:
    """Browsers write the shortest form of an IPv6 address, whatever its operator wrote."""
    with public_shop(seeded_url, PAIDONCE_ALLOWED_HOSTS="[FD00:0:0:0::7], [2001:db8::0:1]") as shop:
        async with shop.client() as client:
            for name in ("[fd00::7]", "[fd00::7]:80", "[FD00:0::7]", "[2001:db8::1]", "[2001:0db8::0001]:8000"):
                assert (await client.get("/api/products", headers={"host": name})).status == 200, name
            for name in ("[fd00::70]", "[2001:db8::1:1]", "[2001:db8::1::]", "[2001:db8::12345]"):
                assert (await client.get("/api/products", headers={"host": name})).status == 421, name


@pytest.mark.parametrize("written", ["*", "*.shop.example", "https://shop.example", "shop.example:443", "a/b", "a@b"])
def test_a_name_that_can_not_be_meant_stops_the_start(written: str) -> None:
    environment = {"PAIDONCE_SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz", "PAIDONCE_ALLOWED_HOSTS": written}
    with pytest.raises(ConfigError, match="PAIDONCE_ALLOWED_HOSTS: name 1 can't be read"):
        load_settings(environment)


async def test_probes_may_call_by_any_address(seeded_url: str) -> None:
    """Orchestrators call by the address of the moment; what they hear depends on no name and tells nothing."""
    with public_shop(seeded_url) as shop:
        async with shop.client() as client:
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path, headers={"host": "10.3.2.1:8000"})).status == 200
        status, _ = await raw(shop, b"GET /healthz HTTP/1.0\r\n\r\n")
        assert status == 200


async def raw(shop: WebShop, head: bytes) -> tuple[int, bytes]:
    address = urlsplit(shop.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = await asyncio.wait_for(reader.read(65_536), 30)
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET http://127.0.0.1/api/products HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    ],
)
async def test_crooked_targets_and_names_are_refused(quick_shop: WebShop, head: bytes) -> None:
    status, answer = await raw(quick_shop, head)
    assert status == 400, answer
    assert b"evil" not in answer


FORWARDED = {
    "x-forwarded-host": "evil.example",
    "x-host": "evil.example",
    "x-original-host": "evil.example",
    "x-forwarded-server": "evil.example",
    "forwarded": "host=evil.example;proto=https",
    "x-original-url": "/staff",
    "x-rewrite-url": "/staff",
    "x-forwarded-prefix": "/evil",
}


async def test_forwarded_names_change_nothing(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        for path in ("/", "/orders", f"/orders/{order['id']}/pay", "/docs", "/nothing", "/staff"):
            plain, tricked = (
                await client.page(path),
                await client.get(path, headers={**FORWARDED, "accept": "text/html"}),
            )
            assert (tricked.status, tricked.headers.get("Location")) == (plain.status, plain.headers.get("Location"))
            assert "evil" not in tricked.text + str(tricked.headers)
        sent = await client.request(
            "POST", f"/api/orders/{order['id']}/payments", json={"gateway": "paypal"}, headers=FORWARDED
        )
        assert sent.status == 201
        assert "evil" not in quick_shop.twins["paypal"].dump()


async def test_a_page_of_the_shops_name_without_tls_is_not_the_shops_own(seeded_url: str) -> None:
    """Whoever sits on the line answers http://shop.example himself; browsers of old send no Sec-Fetch-Site."""
    with public_shop(seeded_url) as shop:
        async with shop.client() as client:
            for origin, status in (("http://shop.example", 403), ("https://shop.example", 401)):
                headers = {"host": "shop.example", "origin": origin}
                answer = await client.request(
                    "POST", "/api/session", json={"email": "x@example.com", "password": "x"}, headers=headers
                )
                assert answer.status == status, answer.text


async def test_a_page_on_a_rebound_name_is_not_the_shops_own(quick_shop: WebShop) -> None:
    """DNS rebinding: the attacker's name leads to this machine, so that Origin and Host are the same."""
    async with quick_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        port = urlsplit(quick_shop.url).port
        headers = {"host": f"evil.example:{port}", "origin": f"http://evil.example:{port}"}
        answer = await client.post(f"/api/orders/{order['id']}/cancel", headers=headers)
        assert answer.status == 421
        assert (await client.get(f"/api/orders/{order['id']}")).json["status"] == "open"


async def test_a_host_applications_own_routes_keep_their_names(sqlite_url: str) -> None:
    """The rule is for paidonce's routes; what else lies on the server is the host's business."""
    with mounted(sqlite_url) as url:
        async with Client(url) as client:
            evil = {"host": "evil.example"}
            assert (await client.get("/own", headers=evil)).json == {"own": "evil.example"}
            assert (await client.get("/api/orders/x/payment-methods", headers=evil)).is_problem(421, "invalid_request")
            assert (await client.get("/assets/paidonce.js", headers=evil)).status == 421
            assert (await client.get("/assets/paidonce.js")).status == 200
            assert (await client.get("/healthz", headers=evil)).status == 200


@contextmanager
def mounted(database_url: str) -> Iterator[str]:
    async def current_user() -> Actor:
        return Actor("host_user")

    environment = {"PAIDONCE_DATABASE_URL": database_url, "PAIDONCE_WORKER": "0"}
    payments = Payments(
        store=SqlStore(),
        current_user=current_user,
        return_path="/back?payment={payment}",
        gateways={},
        environment=environment | {"PAIDONCE_PUBLIC_URL": "https://shop.example"},
    )
    app = FastAPI(lifespan=payments.lifespan)
    app.include_router(payments.router)
    app.mount("/assets", payments.assets)

    @app.get("/own")
    async def own(request: Request) -> dict[str, str]:
        return {"own": request.headers["host"]}

    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener, in_thread(app, listener):
        yield f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
