"""The worker inside the web server: with no webhook and no buyer coming back, orders are paid and subscribers told."""

from __future__ import annotations

import asyncio

import pytest

from paidonce.outbox import Event
from support.webshop import running_shop

SECONDS = 20


@pytest.mark.parametrize("gateway", ["stripe", "paypal"])
async def test_an_order_is_settled_and_told_by_the_embedded_worker(database_url: str, gateway: str) -> None:
    told: list[tuple[str, str]] = []

    async def remember(event: Event) -> None:
        told.append((event.type, event.order_id))

    with running_shop(database_url, subscribers={"warehouse": remember}, PAIDONCE_WORKER="1") as shop:
        async with shop.client() as client:
            await client.sign_in()
            order = await client.order()
            shop.agree(await client.start(order["id"], gateway))
            assert told == []
            # The first look is due after a minute; a buyer who is back by then costs none.
            shop.clock.pass_seconds(61)
            for _ in range(SECONDS * 10):
                paid = (await client.get(f"/api/orders/{order['id']}")).json["status"] == "paid"
                if paid and told:
                    break
                await asyncio.sleep(0.1)
            assert (await client.get(f"/api/orders/{order['id']}")).json["status"] == "paid"
    assert [event for event in told if event[0] == "order.paid"] == [("order.paid", order["id"])]


async def test_without_a_worker_time_does_nothing(database_url: str) -> None:
    with running_shop(database_url, PAIDONCE_WORKER="0") as shop:
        async with shop.client() as client:
            await client.sign_in()
            order = await client.order()
            shop.agree(await client.start(order["id"], "stripe"))
            shop.clock.pass_seconds(3600)
            await asyncio.sleep(2)
            assert (await client.get(f"/api/orders/{order['id']}")).json["status"] == "open"
