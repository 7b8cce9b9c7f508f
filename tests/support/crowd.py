"""Clients at addresses of their own: the shop believes a proxy on loopback, and each client says what it would add."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from paidonce import db
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.ports import Transaction
from support.webshop import Answer, Client, WebShop, running_shop

ATTACKER = "45.83.64.1"
NEIGHBOUR = "81.2.69.142"


@contextmanager
def shop_behind_a_proxy(database_url: str, **changes: Any) -> Iterator[WebShop]:
    """A shop that believes what its proxy says of addresses."""
    with running_shop(database_url, PAIDONCE_TRUSTED_PROXIES="127.0.0.1", **changes) as shop:
        yield shop


class Visitor(Client):
    """A client whose requests come from `address`."""

    def __init__(self, url: str, address: str) -> None:
        super().__init__(url)
        self.address = address

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"x-forwarded-for": self.address, **options.pop("headers", {})}
        return await super().request(method, path, headers=headers, **options)

    async def try_start(self, order_id: str, gateway: str, **more: str) -> Answer:
        return await self.post(f"/api/orders/{order_id}/payments", {"gateway": gateway, **more})


@asynccontextmanager
async def visitor(shop: WebShop, address: str, email: str | None = None) -> AsyncIterator[Visitor]:
    """Somebody at `address`, with a new account if there is an `email`."""
    async with Visitor(shop.url, address) as client:
        if email is not None:
            assert (await client.sign_up(email)).status == 201
        yield client


class Calls:
    """What the shop asks of Stripe's twin from now on; what browsers ask there does not count."""

    def __init__(self, shop: WebShop) -> None:
        self.made: list[str] = []
        self._handle = shop.twins["stripe"].handle
        shop.twins["stripe"].handle = self._watch

    def _watch(self, request: HttpRequest, *, now: int) -> HttpResponse:
        if "pk_" not in request.headers.get("authorization", ""):
            self.made.append(f"{request.method} {request.url}")
        answer: HttpResponse = self._handle(request, now=now)
        return answer

    def count(self, method: str, ending: str = "") -> int:
        return len([one for one in self.made if one.startswith(f"{method} ") and one.endswith(ending)])


async def deliver_webhooks(shop: WebShop, client: Client) -> None:
    """Stripe tells the shop what has happened there; back once the shop has worked on it, which is after its answer."""
    for webhook in shop.twins["stripe"].take_webhooks(now=shop.clock.now()):
        path = "/webhooks/" + webhook.url.rsplit("/", 1)[1]
        answer = await client.request("POST", path, data=webhook.body, headers=dict(webhook.headers))
        assert answer.status == 200, answer.text
        for _ in range(200):
            if not await read_rows(shop, "SELECT id FROM inbox WHERE state = 'recorded'"):
                break
            await asyncio.sleep(0.05)


async def read_rows(shop: WebShop, sql: str) -> list[dict[str, Any]]:
    """What stands in the shop's database, by a connection of this event loop's own."""
    database = await db.connect(shop.app.state.paidonce.settings.database_url.get_secret_value())

    async def read(tx: Transaction) -> list[dict[str, Any]]:
        return [dict(row) for row in await tx.fetch_all(sql)]

    try:
        return await database.read(read)
    finally:
        await database.close()
