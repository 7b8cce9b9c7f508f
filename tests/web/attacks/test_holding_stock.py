"""Attacks: one client holding all the stock with unpaid orders (bounded holds per user and address)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from fastapi import FastAPI, Request

from paidonce import Actor, Payments, serving
from paidonce.bounds import network_tag
from paidonce.core import Core
from paidonce.demo.servers import in_thread
from paidonce.ports import SECOND
from paidonce.sandbox.app import sandbox_environment
from paidonce.store import SqlStore
from support.crowd import ATTACKER, NEIGHBOUR, read_rows, shop_behind_a_proxy, visitor
from support.webshop import Answer, Client, WebShop

PER_USER, PER_ADDRESS = 3, 5
BOUNDS = {"PAIDONCE_OPEN_PAYMENTS_PER_USER": str(PER_USER), "PAIDONCE_OPEN_PAYMENTS_PER_ADDRESS": str(PER_ADDRESS)}
ALL_MUGS = 40


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[WebShop]:
    """A shop on each database, behind a proxy."""
    with shop_behind_a_proxy(database_url, **BOUNDS) as shop:
        yield shop


@pytest.fixture
async def one_shop(seeded_url: str) -> AsyncIterator[WebShop]:
    """The same on SQLite alone, for what the database has nothing to do with."""
    with shop_behind_a_proxy(seeded_url, **BOUNDS) as shop:
        yield shop


async def test_many_starts_at_once_by_several_accounts_of_one_address_hold_no_more_than_its_bound(
    shop: WebShop,
) -> None:
    async with AsyncExitStack() as stack:
        names = ("one@example.com", "two@example.com", "three@example.com")
        thieves = [await stack.enter_async_context(visitor(shop, ATTACKER, name)) for name in names]
        orders = [(thief, (await thief.order())["id"]) for thief in thieves for _ in range(PER_USER + 1)]
        answers = await asyncio.gather(*(thief.try_start(order, "bank_transfer") for thief, order in orders))
        assert_refused_or_started(answers)
        started = Counter(thief.url for (thief, _), answer in zip(orders, answers, strict=True) if answer.status == 201)
        assert sum(started.values()) == PER_ADDRESS
        assert await held(shop) == PER_ADDRESS
        # Whoever is elsewhere buys all that is left.
        other = await stack.enter_async_context(visitor(shop, NEIGHBOUR, "honest@example.com"))
        order = await other.order(quantity=ALL_MUGS - PER_ADDRESS)
        begun = await other.start(order["id"], "stripe")
        shop.agree(begun)
        assert (await other.complete(begun["id"])).json["order_status"] == "paid"


async def test_many_starts_at_once_from_many_addresses_hold_no_more_than_the_buyers_bound(shop: WebShop) -> None:
    async with visitor(shop, ATTACKER, "thief@example.com") as thief:
        orders = [(await thief.order())["id"] for _ in range(2 * PER_USER)]
        answers = await asyncio.gather(
            *(
                thief.post(
                    f"/api/orders/{order}/payments",
                    {"gateway": "bank_transfer"},
                    headers={"x-forwarded-for": f"45.83.{number}.1"},
                )
                for number, order in enumerate(orders)
            )
        )
        assert_refused_or_started(answers)
        assert [answer.status for answer in answers].count(201) == PER_USER
        assert await held(shop) == PER_USER


async def test_goods_of_a_canceled_payment_count_as_long_as_they_are_held(one_shop: WebShop) -> None:
    """Or whoever starts and cancels in turn holds everything with no payment open at all."""
    async with visitor(one_shop, ATTACKER, "thief@example.com") as thief:
        for _ in range(PER_USER):
            started = await thief.start((await thief.order())["id"], "bank_transfer")
            assert (await thief.post(f"/api/payments/{started['id']}/cancel", {})).status == 200
        assert await held(one_shop) == PER_USER
        order = (await thief.order())["id"]
        refused = await thief.try_start(order, "bank_transfer")
        assert refused.is_problem(429, "too_many_attempts")
        assert int(refused.headers["Retry-After"]) == 20 * 60
        # Nobody waits longer than the goods are held.
        one_shop.clock.shift += 20 * 60 * SECOND + SECOND
        assert (await thief.try_start(order, "bank_transfer")).status == 201


async def test_a_paid_and_a_canceled_order_make_room_at_once(one_shop: WebShop) -> None:
    async with visitor(one_shop, ATTACKER, "busy@example.com") as busy:
        orders = [(await busy.order())["id"] for _ in range(PER_USER + 2)]
        started = [await busy.start(order, "stripe") for order in orders[:PER_USER]]
        assert (await busy.try_start(orders[PER_USER], "stripe")).status == 429
        assert (await busy.try_start(orders[0], "paypal")).status == 201, "another way to pay the same order"
        one_shop.agree(started[1])
        assert (await busy.complete(started[1]["id"])).json["order_status"] == "paid"
        assert (await busy.try_start(orders[PER_USER], "stripe")).status == 201
        assert (await busy.post(f"/api/orders/{orders[2]}/cancel", {})).status == 200
        assert (await busy.try_start(orders[PER_USER + 1], "stripe")).status == 201


async def test_goods_of_awaited_money_count_as_well_once_the_payment_is_canceled(one_shop: WebShop) -> None:
    """Such a payment may be open for days, and its goods are held for a while after it."""
    async with visitor(one_shop, ATTACKER, "thief@example.com") as thief:
        started = [await thief.start((await thief.order())["id"], "bank_transfer") for _ in range(PER_USER)]
        for one in started:
            assert (await thief.complete(one["id"])).json["order_status"] == "pending"
        one_shop.clock.shift += 3 * 3600 * SECOND
        for one in started:
            assert (await thief.post(f"/api/payments/{one['id']}/cancel", {})).status == 200
        assert await held(one_shop) == PER_USER
        order = (await thief.order())["id"]
        assert (await thief.try_start(order, "bank_transfer")).is_problem(429, "too_many_attempts")


async def test_reserved_money_makes_room_as_paid_money_does(seeded_url: str) -> None:
    """Its buyer could neither pay nor cancel, and his neighbours would wait until the shop's staff capture it."""
    with shop_behind_a_proxy(seeded_url, PAIDONCE_CAPTURE="manual", **BOUNDS) as shop:
        async with visitor(shop, ATTACKER, "good@example.com") as good:
            for _ in range(PER_ADDRESS + 1):
                started = await good.start((await good.order())["id"], "stripe")
                shop.agree(started)
                assert (await good.complete(started["id"])).json["status"] == "authorized"
            for _ in range(PER_USER):
                await good.start((await good.order())["id"], "stripe")
            refused = await good.try_start((await good.order())["id"], "stripe")
            assert refused.is_problem(429, "too_many_attempts"), "what is not reserved counts as ever"


async def test_no_row_tells_an_address(one_shop: WebShop) -> None:
    """A tag that thousands of networks share stands with an open payment, and nothing with an ended one."""
    async with visitor(one_shop, ATTACKER, "somebody@example.com") as somebody:
        started = await somebody.start((await somebody.order())["id"], "stripe")
        kept = await read_rows(one_shop, "SELECT * FROM payments")
        assert [len(row["started_from"]) for row in kept] == [5]
        kept += await read_rows(one_shop, "SELECT * FROM rate_limits")
        assert ATTACKER not in str(kept)
        assert "somebody" not in str(kept)
        one_shop.agree(started)
        assert (await somebody.complete(started["id"])).json["order_status"] == "paid"
        assert await read_rows(one_shop, "SELECT started_from FROM payments") == [{"started_from": None}]


async def test_an_unpaid_order_has_bounds_of_its_own(seeded_url: str) -> None:
    """So many unpaid orders, lines and pieces, or one order could hold what many may not."""
    bounds = {"PAIDONCE_OPEN_ORDERS_PER_USER": "4", "PAIDONCE_PIECES_PER_ORDER": "5"}
    with shop_behind_a_proxy(seeded_url, **bounds) as shop:
        await assert_orders_are_bounded(shop)


async def assert_orders_are_bounded(shop: WebShop) -> None:
    async with visitor(shop, ATTACKER, "thief@example.com") as thief:
        # Lines of one product are one line.
        for lines in ([line("MUG-01", 6)], [line("MUG-01", 3)] * 2, [line("MUG-01", 1)] * 101):
            assert (await thief.post("/api/orders", {"lines": lines})).is_problem(422, "invalid_request")
        orders = [await thief.order(quantity=5) for _ in range(4)]
        refused = await thief.post("/api/orders", {"lines": [line("MUG-01", 1)]})
        assert refused.is_problem(429, "too_many_attempts")
        assert (await thief.post(f"/api/orders/{orders[0]['id']}/cancel", {})).status == 200
        assert (await thief.post("/api/orders", {"lines": [line("MUG-01", 1)]})).status == 201


async def test_orders_at_the_same_moment_are_counted_one_after_the_other(database_url: str) -> None:
    """On PostgreSQL forty parallel requests once made sixteen orders where four were allowed."""
    with shop_behind_a_proxy(database_url, PAIDONCE_OPEN_ORDERS_PER_USER="4") as shop:
        async with visitor(shop, ATTACKER, "thief@example.com") as thief:
            one = {"lines": [line("MUG-01", 1)]}
            answers = await asyncio.gather(*(thief.post("/api/orders", one) for _ in range(20)))
            assert Counter(answer.status for answer in answers) == {201: 4, 429: 16}


async def test_a_host_says_where_its_buyers_come_from(seeded_url: str) -> None:
    """In somebody else's application the same bounds hold, by the address that its own sign-in gives."""
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        own = {"PAIDONCE_DATABASE_URL": seeded_url, "PAIDONCE_PUBLIC_URL": url, "PAIDONCE_WORKER": "0", **BOUNDS}
        environment = sandbox_environment("http://127.0.0.1:9") | own
        payments = Payments(
            store=SqlStore(), current_user=who_asks, return_path="/?payment={payment}", environment=environment
        )
        app = FastAPI(lifespan=payments.lifespan)
        app.include_router(payments.router)
        with in_thread(app, listener):
            buyers = ("one", "one", "one", "one", "two", "two", "two")
            answers = [await start_at_a_host(payments.core, url, buyer, ATTACKER) for buyer in buyers]
            elsewhere = await start_at_a_host(payments.core, url, "two", NEIGHBOUR)
    assert_refused_or_started(answers)
    assert [answer.status for answer in answers] == [201, 201, 201, 429, 201, 201, 429]
    assert elsewhere.status == 201


def who_asks(request: Request) -> Actor:
    return Actor(request.headers["x-user"], address=request.headers["x-address"])


async def start_at_a_host(core: Core, url: str, buyer: str, address: str) -> Answer:
    order = await core.db.transaction(
        SqlStore().create_order, ids=core.ids, user_id=buyer, lines=[("MUG-01", 1)], now=core.clock.now()
    )
    async with Client(url) as client:
        headers = {"x-user": buyer, "x-address": address}
        return await client.post(f"/api/orders/{order.id}/payments", {"gateway": "bank_transfer"}, headers=headers)


def test_buyers_behind_a_translator_to_ipv6_are_told_apart() -> None:
    """A server without IPv4 sees all of them in one network of IPv6."""
    assert network_tag("64:ff9b::2d53:4001") == network_tag("45.83.64.1") != network_tag("64:ff9b::5102:458e")
    assert network_tag("64:ff9b::7f00:1") is None


def line(sku: str, quantity: int) -> dict[str, object]:
    return {"sku": sku, "quantity": quantity}


def assert_refused_or_started(answers: list[Answer]) -> None:
    for answer in answers:
        if answer.status != 201:
            assert answer.is_problem(429, "too_many_attempts")
            assert answer.json["retry_after"] == int(answer.headers["Retry-After"]) > 0


async def held(shop: WebShop) -> int:
    found = await read_rows(shop, "SELECT held FROM stock WHERE sku = 'MUG-01'")
    return int(found[0]["held"])
