"""Every error is a problem document for programs and a page for people, and tells nothing internal."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from conftest import run_apart
from paidonce import db
from paidonce.app import create_app
from paidonce.config import load_settings
from paidonce.errors import CommitUnknown, ConfigError, DatabaseDown
from paidonce.web import edge
from support.webshop import SECRET_KEY, Client, WebShop

BAD_ORDERS: list[tuple[str, Any]] = [
    ("lines", {}),
    ("lines", {"lines": []}),
    ("lines.0.quantity", {"lines": [{"sku": "MUG-01", "quantity": 0}]}),
    ("lines.0.quantity", {"lines": [{"sku": "MUG-01", "quantity": -3}]}),
    ("lines.0.quantity", {"lines": [{"sku": "MUG-01", "quantity": 1001}]}),
    ("lines.0.quantity", {"lines": [{"sku": "MUG-01", "quantity": True}]}),
    ("lines.0.quantity", {"lines": [{"sku": "MUG-01", "quantity": 1.5}]}),
    ("lines.0.quantity", {"lines": [{"sku": "MUG-01", "quantity": 1.0}]}),
    ("lines.0.quantity", {"lines": [{"sku": "MUG-01", "quantity": "1"}]}),
    ("lines.0.quantity", {"lines": [{"sku": "MUG-01", "quantity": 10**40}]}),
    ("lines.0.price", {"lines": [{"sku": "MUG-01", "quantity": 1, "price": 1}]}),
    ("total", {"lines": [{"sku": "MUG-01", "quantity": 1}], "total": 1}),
    ("lines.0.sku", {"lines": [{"sku": "MUG\u000001", "quantity": 1}]}),
    ("lines.0.sku", {"lines": [{"sku": "x'; DROP TABLE orders;--", "quantity": 1}]}),
    ("NONE-1", {"lines": [{"sku": "NONE-1", "quantity": 1}]}),
    ("MUG-01", {"lines": [{"sku": "MUG-01", "quantity": 600}, {"sku": "MUG-01", "quantity": 600}]}),
    ("lines", {"lines": [{"sku": f"S{n}", "quantity": 1} for n in range(101)]}),
    ("body", [1]),
    ("body", None),
]


@pytest.fixture
async def buyer(quick_shop: WebShop) -> Any:
    """The demo buyer, signed in."""
    async with quick_shop.client() as client:
        assert (await client.sign_in()).status == 201
        yield client


async def test_wrong_orders_are_refused_with_the_field_and_write_nothing(buyer: Client) -> None:
    for named, body in BAD_ORDERS:
        answer = await buyer.request(
            "POST", "/api/orders", data=json.dumps(body), headers={"content-type": "application/json"}
        )
        assert answer.is_problem(422, "invalid_request"), body
        assert named in answer.json["detail"], body
    assert (await buyer.get("/api/orders")).json == []


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b'{"email": "\\ud800", "password": "x"}', b"[" * 60_000, b"NaN", b'"text"']
)
async def test_unreadable_bodies_are_refused(quick_shop: WebShop, body: bytes) -> None:
    async with quick_shop.client() as client:
        answer = await client.request("POST", "/api/session", data=body, headers={"content-type": "application/json"})
        assert answer.is_problem(422, "invalid_request")
        assert not answer.cookies


async def test_a_refused_sign_in_never_repeats_what_was_sent(quick_shop: WebShop) -> None:
    canary = "canary-password-7361"
    async with quick_shop.client() as client:
        for body in (
            {"email": "buyer@example.com", "password": canary},
            {"email": "buyer@example.com", "password": [canary]},
            {"email": canary * 30, "password": canary},
            {"email": "buyer@example.com", "password": canary, "extra": canary},
            {"email": "not an address", "name": "x", "password": canary},
        ):
            for path in ("/api/session", "/api/users"):
                answer = await client.post(path, body)
                assert answer.status in {401, 422}
                assert canary not in answer.text


async def test_unknown_addresses_and_methods(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        assert (await client.get("/api/nothing")).is_problem(404, "not_found")
        assert (await client.get("/api/orders/%00%27--")).is_problem(404, "not_found")
        refused = await client.request("PUT", "/api/products")
        assert refused.is_problem(405, "invalid_request")
        assert refused.headers["Allow"] == "GET"
        page = await client.page("/nothing")
        assert page.status == 404
        assert page.headers["Content-Type"].startswith("text/html")
        assert "We could not find that." in page.text
        assert (await client.get("/nothing")).is_problem(404, "not_found")


async def test_ids_that_cannot_be_ids_never_reach_the_database(buyer: Client) -> None:
    for wrong in ("x", "ord_%00", "ord_'%20OR%201=1--", "..%2f..%2fetc", "ord_" + "0" * 500, "ord_" + "A" * 26):
        assert (await buyer.get(f"/api/orders/{wrong}")).is_problem(404, "not_found"), wrong
        assert (await buyer.post(f"/api/payments/{wrong}/complete", {})).is_problem(404, "not_found"), wrong


async def test_bodies_have_a_bound_with_and_without_a_declared_length(quick_shop: WebShop) -> None:
    async def drip() -> Any:
        for _ in range(5):
            yield b" " * 20_000

    json_type = {"content-type": "application/json"}
    async with quick_shop.client() as client:
        for body in (b" " * 65_537, drip()):
            answer = await client.request("POST", "/api/session", data=body, headers=json_type)
            assert answer.is_problem(413, "invalid_request")
        fits = await client.request("POST", "/api/session", data=b" " * 65_536, headers=json_type)
        assert fits.is_problem(422, "invalid_request")


DRIPPING = {
    "one of the API's": b"POST /api/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n",
    "a form": b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n",
    "a webhook": b"POST /webhooks/stripe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n",
    "a webhook in chunks": b"POST /webhooks/paypal HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    "that of a GET": b"GET /api/products HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n",
}


@pytest.mark.parametrize("body", DRIPPING)
async def test_a_body_that_drips_in_for_ever_is_cut_off(
    quick_shop: WebShop, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setattr(edge, "BODY_SECONDS", 0.2)
    address = urlsplit(quick_shop.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    drop = b"1\r\n \r\n" if b"chunked" in DRIPPING[body] else b" "

    async def drip() -> None:
        while True:
            writer.write(drop)
            await asyncio.sleep(0.01)

    writer.write(DRIPPING[body])
    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(30):
            answer = await reader.readuntil(b"}")
            # Not only answered: whoever goes on holds no connection with it.
            with suppress(ConnectionError):
                assert await reader.read() == b""
    finally:
        dripping.cancel()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()


async def test_head_is_answered_like_get_without_the_body(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        for path in ("/", "/healthz", "/api/products"):
            got, head = await client.get(path), await client.request("HEAD", path)
            assert (head.status, head.text) == (got.status, "")
            assert head.headers["Content-Type"] == got.headers["Content-Type"]


async def test_a_bug_is_answered_without_internals_and_logged_by_its_incident(
    quick_shop: WebShop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    async def explode(*_: object) -> None:
        raise RuntimeError("canary-internal-detail")

    monkeypatch.setattr(quick_shop.app.state.paidonce.running.db, "read", explode)
    async with quick_shop.client() as client:
        answer = await client.get("/api/products")
        assert answer.is_problem(500, "internal_error")
        assert answer.json["incident"].startswith("inc_")
        assert "Content-Security-Policy" in answer.headers
        page = await client.page("/")
        assert (page.status, "canary" in page.text, "inc_" in page.text) == (500, False, True)
    assert "canary" not in answer.text
    printed = capsys.readouterr()
    assert answer.json["incident"] in printed.out + printed.err + caplog.text


@pytest.mark.parametrize("error", [DatabaseDown("canary at 10.0.0.7"), CommitUnknown("canary at 10.0.0.7")])
async def test_a_database_that_fails_is_503_and_says_what_to_do(
    quick_shop: WebShop, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(quick_shop.app.state.paidonce.running.db, "read", fail)
    async with quick_shop.client() as client:
        answer = await client.get("/api/products")
        assert answer.is_problem(503, "service_unavailable")
        assert answer.json["retry_after"] == int(answer.headers["Retry-After"]) == 5
        assert "canary" not in answer.text
        assert (await client.get("/readyz")).status == 503
        assert (await client.get("/healthz")).status == 200, "a slow database must not restart the process"


async def test_an_old_schema_is_not_ready_and_stops_the_next_start(quick_shop: WebShop, seeded_url: str) -> None:
    file = seeded_url.removeprefix("sqlite:///")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE paidonce_alembic_version SET version_num = '0000'")
    connection.close()
    async with quick_shop.client() as client:
        answer = await client.get("/readyz")
        assert answer.is_problem(503, "service_unavailable")
        assert "paidonce migrate" in answer.json["detail"]
    environment = {"PAIDONCE_DATABASE_URL": seeded_url, "PAIDONCE_SECRET_KEY": SECRET_KEY}
    app = create_app(load_settings(environment), gateways={}, environment=environment)
    with pytest.raises(ConfigError, match="paidonce migrate"):
        async with app.router.lifespan_context(app):
            pass


async def test_what_the_caller_passes_in_stays_open(sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "own.db")
    database = await db.connect(f"sqlite:///{tmp_path / 'own.db'}")
    environment = {"PAIDONCE_SECRET_KEY": SECRET_KEY}
    app = create_app(gateways={}, database=database, environment=environment)
    async with app.router.lifespan_context(app):
        assert app.state.paidonce.running.db is database
    assert not await db.pending(database), "the database still answers"
    await database.close()


def test_missing_settings_stop_the_start_with_every_name() -> None:
    with pytest.raises(ConfigError) as caught:
        run_apart(_create_with_nothing)
    assert "PAIDONCE_SECRET_KEY" in str(caught.value)


async def _create_with_nothing() -> None:
    create_app(environment={})
