"""One running shop of each kind on each database, and what a flow looks at."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import paidonce.db
from paidonce.gateways.base import HttpRequest, Provider
from paidonce.ports import Row, Transaction
from shops.adapter import SHOPS, RunningShop, load
from shops.twins import PAYABLE, Twins, running_twins
from support import pgadmin
from support.webshop import Answer, Client

# A machine that is busy with other tests lets a connection break now and then.
_PRESSES = 6


@dataclass
class Till:
    """A running shop with the twins, as the flows use them."""

    shop: RunningShop
    twins: Twins
    database_url: str
    opened: AsyncExitStack

    async def browser(self) -> Client:
        return await self.opened.enter_async_context(Client(self.shop.url))

    async def buyer(self, number: int = 0) -> Buyer:
        browser = await self.browser()
        await self.shop.sign_in(browser, number)
        return Buyer(self, browser)

    async def staff(self) -> Buyer:
        browser = await self.browser()
        await self.shop.sign_in_as_staff(browser)
        return Buyer(self, browser)

    async def pass_seconds(self, seconds: int) -> None:
        """Time passes everywhere."""
        self.twins.clock.pass_seconds(seconds)
        await self.shop.pass_seconds(seconds)

    async def deliver(self, webhook: HttpRequest) -> int:
        """Bring a gateway's news to the shop; the status of its answer."""
        name = webhook.url.rsplit("/", 1)[1]
        async with Client(self.shop.url) as gateway:
            answer = await gateway.request(
                webhook.method,
                f"{self.shop.webhooks}/{name}",
                data=webhook.body,
                headers=dict(webhook.headers),
            )
        return answer.status

    async def rows(self, sql: str, **params: object) -> Sequence[Row]:
        """What stands in paidonce's own tables, by a connection of the test's own."""

        async def read(tx: Transaction) -> Sequence[Row]:
            return await tx.fetch_all(sql, params)

        database = await paidonce.db.connect(self.database_url)
        try:
            return await database.read(read)
        finally:
            await database.close()

    async def captures(self, order_id: str) -> int:
        """How many captures our books hold for an order, whatever they were booked to."""
        kind = "SELECT id FROM journal_entries WHERE order_id = :id AND kind = 'capture'"
        return len(await self.rows(kind, id=order_id))

    async def taken(self, order_id: str) -> int:
        """What the gateways' own books say was taken for all payments of an order, less what went back, in cents."""
        payments = await self.rows("SELECT id FROM payments WHERE order_id = :id", id=order_id)
        return sum(sum(self.twins.moved(row["id"]).values()) for row in payments)

    async def assert_paid_once(self, order_id: str, *, price: int) -> None:
        """One capture in both books, the order paid in the shop's table, the shop's own row there once."""
        assert await self.shop.order_status(order_id) == "paid"
        assert await self.captures(order_id) == 1
        assert await self.taken(order_id) == price
        assert await self.shop.own_rows(order_id) == 1
        told = await self.rows("SELECT type FROM outbox WHERE order_id = :id AND type = 'order.paid'", id=order_id)
        assert len(told) == 1
        wrong = await self.rows(
            "SELECT entry_id FROM journal_postings GROUP BY entry_id, currency HAVING sum(amount_minor) <> 0"
        )
        assert wrong == []

    async def assert_unpaid(self, order_id: str) -> None:
        """No money, no goods, nothing of the shop's own, and nobody was told."""
        assert await self.shop.order_status(order_id) != "paid"
        assert await self.captures(order_id) == 0
        assert await self.shop.own_rows(order_id) == 0
        assert await self.rows("SELECT id FROM outbox WHERE order_id = :id AND type = 'order.paid'", id=order_id) == []


@dataclass
class Buyer:
    """Somebody who is signed in."""

    till: Till
    browser: Client

    async def order(self, sku: str, quantity: int = 1) -> str:
        return await self.till.shop.place_order(self.browser, sku, quantity)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.browser.post(self.till.shop.api + path, body or {}, headers=headers)

    async def start(self, order_id: str, gateway: str) -> Answer:
        """Press the button; again if the gateway could not be reached for a moment, as the answer says."""
        for _ in range(_PRESSES):
            answer = await self.post(f"/orders/{order_id}/payments", {"gateway": gateway})
            if answer.status != 503:
                break
        return answer

    async def complete(self, payment_id: str) -> Answer:
        return await self.post(f"/payments/{payment_id}/complete")

    async def finish(self, payment_id: str) -> Answer:
        """Complete, and ask again while the outcome is not known, as the page does."""
        for _ in range(_PRESSES):
            answer = await self.complete(payment_id)
            if answer.status not in {202, 503}:
                break
        return answer

    async def agree(self, provider: Provider, started: Any, *, decline: bool = False) -> None:
        await self.till.twins.act(provider, started, return_url=f"{self.till.shop.url}/back", decline=decline)

    async def pay(self, order_id: str, provider: Provider) -> str:
        """The whole way; the payment's id."""
        started = await self.start(order_id, provider.name)
        assert started.status == 201, started.text
        await self.agree(provider, started.json)
        done = await self.finish(started.json["id"])
        assert (done.status, done.json["status"], done.json["order_status"]) == (200, "captured", "paid"), done.text
        return str(started.json["id"])


@pytest.fixture(params=PAYABLE, ids=[one.name for one in PAYABLE])
def provider(request: pytest.FixtureRequest) -> Provider:
    """Each gateway at which a buyer can pay."""
    found: Provider = request.param
    return found


KINDS = [f"{shop}-{database}" for shop in SHOPS for database in ("sqlite", "postgresql")]


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    """One shop for all tests of a module, since most of what takes time is its start."""
    name, kind = request.param.split("-")
    make = _sqlite if kind == "sqlite" else _postgres
    with running_twins() as twins:
        for url in make(request, tmp_path_factory):
            adapter = load(name)
            adapter.prepare(url)
            with adapter.start(url, twins.settings) as shop:
                yield Till(shop, twins, url, AsyncExitStack())


def _sqlite(_: pytest.FixtureRequest, folders: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = folders.mktemp("shop")
    yield f"sqlite:///{folder}/shop.db"
    shutil.rmtree(folder)


def _postgres(request: pytest.FixtureRequest, _: pytest.TempPathFactory) -> Iterator[str]:
    server: str = request.getfixturevalue("postgres_server")
    name = pgadmin.new_name()
    pgadmin.create_database(server, name)
    yield pgadmin.with_database(server, name)
    pgadmin.drop_database(server, name)


@pytest.fixture
async def till(served: Till) -> AsyncIterator[Till]:
    """The running shop, with browsers that close after each test."""
    async with AsyncExitStack() as opened:
        served.opened = opened
        yield served
