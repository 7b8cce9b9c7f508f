"""The endpoints for webhooks, attacked from outside over real HTTP: what is not signed for us is refused, unwritten."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

import paidonce.db
from conftest import run_apart
from paidonce.gateways.base import HttpRequest
from paidonce.ports import SECOND, Transaction
from paidonce.sandbox.app import sandbox_environment
from support.shop import SANDBOX_URL
from support.webshop import Answer, Client, WebShop

GATEWAYS = ["stripe", "paypal"]


async def post(client: Client, webhook: HttpRequest, **changes: Any) -> Answer:
    headers = {**webhook.headers, "content-type": "application/json", **changes.get("headers", {})}
    # The body waits for the server's word, so that a refusal is read before the connection is cut.
    return await client.request(
        "POST", webhook.url, data=changes.get("body", webhook.body), headers=headers, expect100=True
    )


async def confirmed(shop: WebShop, client: Client, gateway: str) -> tuple[Any, HttpRequest]:
    """An order whose buyer agreed and closed the tab, and the webhook that tells of it."""
    order = await client.order()
    shop.twins[gateway].take_webhooks(now=shop.clock.now())
    shop.agree(await client.start(order["id"], gateway))
    return order, shop.twins[gateway].take_webhooks(now=shop.clock.now())[-1]


async def status(client: Client, order: Any) -> str:
    return str((await client.get(f"/api/orders/{order['id']}")).json["status"])


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_signed_webhook_is_answered_at_once_and_pays_the_order(
    shop: WebShop, buyer: Client, database_url: str, gateway: str
) -> None:
    order, webhook = await confirmed(shop, buyer, gateway)
    assert (await post(buyer, webhook)).json == {"outcome": "new"}
    assert await _eventually(buyer, order) == "paid"
    assert (await post(buyer, webhook)).json == {"outcome": "duplicate"}


async def _eventually(buyer: Client, order: Any) -> str:
    for _ in range(100):
        if await status(buyer, order) == "paid":
            return "paid"
        await asyncio.sleep(0.05)
    return await status(buyer, order)


def _other_bytes(webhook: HttpRequest) -> dict[str, Any]:
    return {"body": webhook.body[:-1] + b" }"}


def _without_signature(webhook: HttpRequest) -> dict[str, Any]:
    return {"headers": {name: "" for name in webhook.headers if name.lower() != "content-type"}}


def _not_ascii(webhook: HttpRequest) -> dict[str, Any]:
    return {"headers": {name: "ü-é" for name in webhook.headers if "sig" in name.lower()}}


def _not_utf8(webhook: HttpRequest) -> dict[str, Any]:
    return {"body": b"\xff\xfe\x00{}"}


def _nothing(webhook: HttpRequest) -> dict[str, Any]:
    return {"body": b""}


def _null(webhook: HttpRequest) -> dict[str, Any]:
    return {"body": b"null"}


FORGERIES: list[Callable[[HttpRequest], dict[str, Any]]] = [
    _other_bytes,
    _without_signature,
    _not_ascii,
    _not_utf8,
    _nothing,
    _null,
]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_forged_webhook_is_refused_and_writes_nothing(
    shop: WebShop, buyer: Client, database_url: str, gateway: str
) -> None:
    order, webhook = await confirmed(shop, buyer, gateway)
    for forge in FORGERIES:
        answer = await post(buyer, webhook, **forge(webhook))
        assert answer.is_problem(400, "webhook_refused"), forge.__name__
    assert await status(buyer, order) == "open"
    assert await _inbox(database_url) == 0


async def _inbox(database_url: str) -> int:
    async def count(tx: Transaction) -> int:
        row = await tx.fetch_one("SELECT count(*) AS n FROM inbox")
        assert row is not None
        return int(row["n"])

    database = await paidonce.db.connect(database_url)
    try:
        return await database.read(count)
    finally:
        await database.close()


async def test_each_gateway_refuses_the_others_webhook_and_unknown_gateways_do_not_exist(
    shop: WebShop, buyer: Client, database_url: str
) -> None:
    _, card = await confirmed(shop, buyer, "stripe")
    swapped = HttpRequest("POST", "/webhooks/paypal", card.headers, card.body)
    assert (await post(buyer, swapped)).is_problem(400, "webhook_refused")
    nobody = HttpRequest("POST", "/webhooks/nobody", card.headers, card.body)
    assert (await post(buyer, nobody)).is_problem(404, "not_found")
    assert await _inbox(database_url) == 0


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_ten_mebibytes_are_refused_before_they_are_read(
    shop: WebShop, buyer: Client, database_url: str, gateway: str
) -> None:
    _, webhook = await confirmed(shop, buyer, gateway)
    answer = await post(buyer, webhook, body=BytesIO(b"x" * (10 * 1024 * 1024)))
    assert answer.is_problem(413, "invalid_request")
    assert await _inbox(database_url) == 0


async def test_signed_nonsense_is_refused(shop: WebShop, buyer: Client, database_url: str) -> None:
    """Somebody who holds the secret sends what is no event: refused without a traceback."""
    for value in ("[]", "null", "7", '"text"', "{}"):
        answer = await post(buyer, _signed(shop, value.encode()))
        assert answer.is_problem(400, "webhook_refused"), value
    assert await _inbox(database_url) == 0


def _signed(shop: WebShop, body: bytes, *, age: int = 0) -> HttpRequest:
    moment = str(shop.clock.now() // SECOND - age)
    mac = hmac.new(_stripe_secret().encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return HttpRequest("POST", "/webhooks/stripe", {"stripe-signature": f"t={moment},v1={mac}"}, body)


def _stripe_secret() -> str:
    return sandbox_environment(SANDBOX_URL)["STRIPE_WEBHOOK_SECRET"]


async def test_an_event_of_another_time_is_refused(shop: WebShop, buyer: Client, database_url: str) -> None:
    body = json.dumps({"id": "evt_1", "type": "x", "livemode": False}).encode()
    for age in (-400, 400):
        assert (await post(buyer, _signed(shop, body, age=age))).is_problem(400, "webhook_refused")
    assert await _inbox(database_url) == 0


@contextmanager
def _down(database_url: str) -> Iterator[None]:
    """Really out of reach: another process holds SQLite's only write lock; PostgreSQL lets nobody in any more."""
    path = paidonce.db.sqlite_path(database_url)
    if path is None:
        run_apart(lambda: _shut_out(database_url))
        yield
        return
    blocker = sqlite3.connect(path, isolation_level=None)
    try:
        blocker.execute("BEGIN IMMEDIATE")
        yield
    finally:
        blocker.close()


async def _shut_out(database_url: str) -> None:
    address = urlsplit(database_url)
    name = address.path.lstrip("/")
    connection = await asyncpg.connect(urlunsplit(address._replace(path="/postgres")))
    try:
        await connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    finally:
        await connection.close()


async def test_while_the_database_is_down_the_gateway_is_asked_to_send_it_again(
    shop: WebShop, buyer: Client, database_url: str
) -> None:
    """FAULTS: database down: 5xx, so that the gateway sends it again."""
    order, webhook = await confirmed(shop, buyer, "stripe")
    with _down(database_url):
        answer = await post(buyer, webhook)
        assert answer.is_problem(503, "service_unavailable")
    if paidonce.db.sqlite_path(database_url) is not None:
        assert (await post(buyer, webhook)).json == {"outcome": "new"}
        assert await _eventually(buyer, order) == "paid"


async def test_a_cross_site_form_can_not_reach_anything_by_a_webhook_address(
    shop: WebShop, buyer: Client, database_url: str
) -> None:
    _, webhook = await confirmed(shop, buyer, "stripe")
    answer = await post(buyer, webhook, headers={"origin": "https://evil.example"})
    assert answer.is_problem(403, "forbidden")
