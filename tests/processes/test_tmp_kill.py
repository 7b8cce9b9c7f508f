"""kill -9 of the whole process group between every two steps of one payment; after a restart it ends paid once.

The steps are the boundaries of the ports: before and after each transaction and each call of a gateway. A first run
counts them. Then there is one run for every step, in which the server dies exactly there, and after which another one
is started as soon as the port is dead.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import pytest

import paidonce.db
from paidonce.gateways.base import HttpRequest
from paidonce.store import OrderView
from paidonce.web import accounts
from paidonce.web.accounts import Passwords
from support.processes import (
    Gateways,
    Nursery,
    Process,
    free_port,
    gateways,
    nursery,
    port_is_dead,
    post_webhook,
    shop_environment,
)
from support.shop import Shop, open_shop, stock_up
from support.webshop import Client

Journey = Literal["comes back", "closes the tab"]

SKU = "pen"
# Longer than the claims and first waits that keep two callers apart, shorter than the age of a webhook that counts.
RESTART_SECONDS = 130
LEASE_SECONDS = 320
HANG_SECONDS = 20
FEWEST_STEPS = 6


class Died(Exception):
    """The server went away in the middle of an answer, or there is none."""


@dataclass
class Town:
    """One database, one address, the gateways, and a buyer who is signed in."""

    nursery: Nursery
    gateways: Gateways
    environment: dict[str, str]
    port: int
    books: Shop
    session: str
    server: Process | None = None
    undelivered: list[HttpRequest] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    on_hand: int = 0

    @property
    def url(self) -> str:
        return self.environment["PAIDONCE_PUBLIC_URL"]

    def open(self, *, crash_at: int | None = None) -> Process:
        self.server = self.nursery.serve(self.environment, self.port, crash_at=crash_at)
        return self.server

    def close(self) -> None:
        assert self.server is not None
        self.nursery.kill(self.server)
        assert port_is_dead(self.port)

    async def deliver(self) -> None:
        """Bring the webhooks one by one, each only when the one before has had its effect."""
        self.undelivered += self.gateways.webhooks()
        while self.undelivered:
            outcome = await post_webhook(self.url, self.undelivered[0])
            if outcome is None:
                raise Died
            self.undelivered.pop(0)
            if outcome == "new":
                await self.until(self._no_news, "a webhook was never worked on")

    async def _no_news(self) -> bool:
        """Nobody who lives works on an event. What a dead server had claimed waits for the end of its lease."""
        newest = await self.books.rows("SELECT state FROM inbox ORDER BY received_at DESC LIMIT 1")
        return bool(newest[0]["state"] != "recorded")

    async def no_events(self) -> bool:
        return not await self.books.rows("SELECT id FROM inbox WHERE state <> 'processed'")

    async def all_paid(self) -> bool:
        return not await self.books.rows("SELECT id FROM orders WHERE status <> 'paid'")

    async def until(self, true: Any, otherwise: str) -> None:
        """Wait for something that the server brings about. Raises `Died` if there is none any more."""
        assert self.server is not None
        deadline = time.monotonic() + HANG_SECONDS
        while not await true():
            if self.nursery.ended(self.server) is not None:
                raise Died
            assert time.monotonic() < deadline, otherwise + "\n" + self.nursery.logs()
            await asyncio.sleep(0.02)


@dataclass
class Buyer:
    """One person with one order, who knows what the browser was told before the server died."""

    town: Town
    gateway: str
    client: Client
    order: dict[str, Any] | None = None
    agreed: bool = False

    async def shops(self, journey: Journey) -> None:
        """All of it. Raises `Died` where the server does."""
        try:
            await self.pays()
            if journey == "comes back":
                assert await self.comes_back() == "paid"
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Died from error
        await self.town.deliver()
        # An event is done when its news is settled; a capture that this asks for comes after it, and more events.
        await self.town.until(self.town.all_paid, "a webhook did not pay the order")
        await self.town.deliver()

    async def pays(self) -> None:
        """Order, start and agree, as far as that is not done; where it is, nothing is done again."""
        if self.order is None:
            self.order = await self.find_order() or await self.client.order(SKU)
        if self.agreed:
            return
        answer = await self.client.post(f"/api/orders/{self.order['id']}/payments", {"gateway": self.gateway})
        assert answer.status in (200, 201), answer.text
        await self.town.gateways.agree(self.gateway, answer.json["client"])
        self.agreed = True

    async def find_order(self) -> dict[str, Any] | None:
        """The order whose answer was lost, from the page with all orders."""
        listed = (await self.client.get("/api/orders")).json
        return next((one for one in listed if one["id"] not in self.town.orders), None)

    async def comes_back(self) -> str:
        """The browser is led back to the shop; the order's state afterwards."""
        assert self.order is not None
        order = (await self.client.get(f"/api/orders/{self.order['id']}")).json
        answer = await self.client.complete(order["payments"][-1]["id"])
        assert answer.status in (200, 202), answer.text
        return str(answer.json["order_status"])


@pytest.fixture(scope="module")
def hatchery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("kill")) as started:
        yield started


@pytest.fixture
def twins(hatchery: Nursery) -> Iterator[tuple[Gateways, int]]:
    port = free_port()
    with gateways(hatchery.clock, f"http://127.0.0.1:{port}", deliver=False) as opened:
        yield opened, port


@pytest.fixture
async def town(hatchery: Nursery, twins: tuple[Gateways, int], database_url: str) -> AsyncIterator[Town]:
    opened, port = twins
    before = len(hatchery.started)
    db = await paidonce.db.connect(database_url)
    try:
        books = open_shop(db, clock=hatchery.clock, twins=opened.app.cores)
        await db.transaction(stock_up, books.store, hatchery.clock.now())
        await db.transaction(books.store.adjust_stock, sku=SKU, adjust=1000, actor="staff", now=hatchery.clock.now())
        environment = shop_environment(database_url, port, opened, PAIDONCE_WORKER="1")
        yield Town(hatchery, opened, environment, port, books, await sign_in(books))
    finally:
        for process in hatchery.started[before:]:
            hatchery.kill(process)
        await db.close()


async def sign_in(books: Shop) -> str:
    """The buyer's session, which lives longer than any server."""
    core = books.core
    user = await accounts.add_user(
        core.db,
        Passwords(),
        core.ids,
        email="buyer@example.com",
        name="Bo Buyer",
        password="a-long-password",
        now=core.clock.now(),
    )
    return await accounts.open_session(core.db, user, replaces=None, now=core.clock.now(), life_seconds=7 * 24 * 3600)


# ── The test ──────────

GATEWAYS = ["stripe", "paypal"]
JOURNEYS: list[Journey] = ["comes back", "closes the tab"]


@pytest.mark.parametrize("journey", JOURNEYS)
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_killed_between_any_two_steps_the_order_ends_paid_once(
    town: Town, gateway: str, journey: Journey
) -> None:
    """FAULTS: kill -9 between every two steps of create, confirm, capture, settle and webhook."""
    steps, before_agreement = await count_steps(town, gateway, journey)
    # Up to the buyer's agreement both journeys are the same, and one of them is killed there.
    first = 1 if journey == "comes back" else before_agreement + 1
    assert before_agreement >= FEWEST_STEPS
    assert len(steps) - before_agreement >= FEWEST_STEPS, steps
    for number in range(first, len(steps) + 1):
        await one_life(town, gateway, journey, crash_at=number, step=steps[number - 1])
    assert len(town.orders) == len(steps) - first + 2
    await everything_is_done(town)


async def count_steps(town: Town, gateway: str, journey: Journey) -> tuple[list[str], int]:
    """The boundaries of a payment during which nothing goes wrong, and how many came before the buyer agreed."""
    server = town.open()
    async with visitor(town, gateway) as buyer:
        await buyer.pays()
        before_agreement = len(server.steps())
        await buyer.shops(journey)
        await assert_paid_once(town, await the_order(town, buyer))
    town.close()
    return server.steps(), before_agreement


async def one_life(town: Town, gateway: str, journey: Journey, *, crash_at: int, step: str) -> None:
    """One order whose server dies at a step; another server goes on."""
    T=[time.monotonic()]
    server = town.open(crash_at=crash_at)
    T.append(time.monotonic())
    async with visitor(town, gateway) as buyer:
        # At the very last steps everybody has had an answer, and nobody notices.
        with suppress(Died):
            await buyer.shops(journey)
        assert town.nursery.ended(server, within_seconds=HANG_SECONDS) == -signal.SIGKILL, step
        T.append(time.monotonic())
        assert port_is_dead(town.port), "something of the server's process group is left"
        assert what_it_was(server.steps()[-1]) == what_it_was(step)
        await live_on(town, buyer, way=crash_at % 3)
        T.append(time.monotonic())
        await assert_paid_once(town, await the_order(town, buyer))
        T.append(time.monotonic())
    town.close()
    T.append(time.monotonic())
    print(crash_at % 3, [round(b-a,2) for a,b in zip(T,T[1:])], step)


def what_it_was(step: str) -> list[str]:
    """The step without its ids: its number, before or after, and of what kind."""
    return step.split()[:3]


async def live_on(town: Town, buyer: Buyer, *, way: int) -> None:
    """Restart. Either the buyer comes back at once, or webhooks and time do it, or time alone, later."""
    if way:
        town.nursery.clock.pass_seconds(RESTART_SECONDS)
    town.open()
    if way == 0 or not buyer.agreed:
        await buyer.pays()
        await buyer.comes_back()
    await tell(town, way)

    if way == 0 and not await town.all_paid():
        # Somebody else may still be at it, for all that anybody knows; the page asks again when that time is over.
        town.nursery.clock.pass_seconds(RESTART_SECONDS)
        assert await buyer.comes_back() == "paid"
    await town.until(town.all_paid, "the order was never paid")
    await tell(town, way)
    await finish_events(town)


async def tell(town: Town, way: int) -> None:
    """Bring the shop what the gateways have to say, or lose it."""
    if way == 2:
        town.gateways.webhooks()
        town.undelivered.clear()
    else:
        await town.deliver()


async def finish_events(town: Town) -> None:
    """What a dead server had claimed is taken up when its leases have ended; no row is forgotten."""
    if await town.no_events():
        return
    town.nursery.clock.pass_seconds(LEASE_SECONDS)
    await town.until(town.no_events, "an event was never finished")


@asynccontextmanager
async def visitor(town: Town, gateway: str) -> AsyncIterator[Buyer]:
    async with Client(town.url) as client:
        client.set_cookies(paidonce_session=town.session)
        yield Buyer(town, gateway, client)


async def the_order(town: Town, buyer: Buyer) -> OrderView:
    """The buyer's order; there is exactly one more than before."""
    rows = await town.books.rows("SELECT id FROM orders ORDER BY created_at")
    fresh = [row["id"] for row in rows if row["id"] not in town.orders]
    assert buyer.order is not None
    assert fresh == [buyer.order["id"]], "an order was lost or made twice"
    town.orders += fresh
    found = await town.books.core.db.read(town.books.store.get_order, fresh[0])
    assert found is not None
    return found


async def assert_paid_once(town: Town, order: OrderView) -> None:
    """By our books, by the gateways' own, by the stock, and by what went out under which key."""
    await town.books.assert_paid_once(order)
    await town.books.assert_journal_equals_gateways()
    on_hand, held = await town.books.stock(SKU)
    assert (on_hand, held) == (1100 - len(town.orders), 0)
    attempts = await town.books.rows("SELECT id FROM payments WHERE order_id = :id", id=order.id)
    assert len(attempts) == 1
    entries = [entry for twin in town.gateways.app.cores.values() for entry in twin.books()]
    captures = [entry for entry in entries if entry.payment_id == attempts[0]["id"] and entry.kind == "capture"]
    assert [entry.minor for entry in captures] == [order.total.minor]
    await assert_keys(town, attempts[0]["id"])


async def assert_keys(town: Town, payment_id: str) -> None:
    """Each operation went out under its own key alone, always with the same body; and nothing else went out."""
    rows = await town.books.rows("SELECT kind, idempotency_key FROM operations WHERE payment_id = :id", id=payment_id)
    kinds = Counter(row["kind"] for row in rows)
    assert kinds["create"] == 1
    assert max(kinds.values()) == 1, kinds
    ours = await town.books.rows("SELECT idempotency_key FROM operations")
    keys = {row["idempotency_key"] for row in ours}
    sent = {(post.path, post.key, post.body) for post in town.gateways.recorder.posts}
    assert {key for _, key, _ in sent} <= keys
    assert len(sent) == len({key for _, key, _ in sent}), "a key went out with two bodies"
    assert {row["idempotency_key"] for row in rows} <= {key for _, key, _ in sent}


async def everything_is_done(town: Town) -> None:
    """No row is left that somebody would still have to do something about."""
    assert await town.no_events()
    assert await town.books.rows("SELECT * FROM operations WHERE state = 'recorded'") == []
    assert await town.books.rows("SELECT * FROM history WHERE event LIKE 'alarm.%'") == []
    paid = await town.books.rows("SELECT id FROM outbox WHERE type = 'order.paid'")
    assert len(paid) == len(town.orders)
    await town.books.assert_journal_equals_gateways()
    assert "Traceback" not in town.nursery.logs(), town.nursery.logs()
