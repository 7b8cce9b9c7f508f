"""Two web processes and two workers on one PostgreSQL: no double effects, no lost rows.

Forty buyers shop at both addresses at once, gateways send each webhook three times, and time runs fast, so that
workers and web processes meet at the same payments again and again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

import paidonce.db
from paidonce.errors import GatewayRefused
from paidonce.sandbox.dials import Fault, Rule
from paidonce.web import accounts
from paidonce.web.accounts import Passwords, Role
from support.processes import Gateways, Nursery, Process, free_port, gateways, nursery, shop_environment
from support.receiver import Receiver, receiving
from support.shop import Shop, open_shop, stock_up
from support.webshop import Answer, Client

BUYERS = 40
ACCOUNTS = 8
SEED = 11
GATEWAYS = ("stripe", "paypal")
SECRET = "whsec_" + "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
PENS, LAMPS = 100, 3
QUIET_SECONDS = 90

WAYS = (
    "comes back",
    "closes the tab",
    "is at both at once",
    "is declined first",
    "takes both gateways",
    "wants one of the last",
    "leaves",
)


@dataclass
class Place:
    """The whole of it, and what a test reads of it."""

    nursery: Nursery
    gateways: Gateways
    receiver: Receiver
    books: Shop
    urls: list[str]
    processes: list[Process]
    sessions: dict[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def clients(self, who: str) -> AsyncIterator[list[Client]]:
        """One person's browser at each address."""
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(Client(url)) for url in self.urls]
            for client in opened:
                client.set_cookies(paidonce_session=self.sessions[who])
            yield opened


@dataclass
class Buyer:
    """One order, and whether its buyer agreed to pay it anywhere."""

    number: int
    place: Place
    gateway: str
    way: str
    order_id: str = ""
    agreed: bool = False
    sold_out: bool = False

    async def shops(self) -> None:
        async with self.place.clients(f"buyer-{self.number % ACCOUNTS}@example.com") as both:
            here, there = both if self.number % 2 else both[::-1]
            sku = "lamp" if self.way == "wants one of the last" else "pen"
            self.order_id = (await here.order(sku))["id"]
            await getattr(self, "_" + self.way.replace(" ", "_"))(here, there)

    async def _comes_back(self, here: Client, there: Client) -> None:
        """Started at one address, led back to the other."""
        await self.agree(await self.start(here))
        await self.come_back(there)

    async def _closes_the_tab(self, here: Client, there: Client) -> None:
        await self.agree(await self.start(here))

    async def _is_at_both_at_once(self, here: Client, there: Client) -> None:
        first, second = await asyncio.gather(self.start(here), self.start(there))
        assert first["payment"]["id"] == second["payment"]["id"], "two attempts for one gateway"
        await self.agree(first)
        await asyncio.gather(*(self.come_back(client) for client in (here, there, here, there)))

    async def _is_declined_first(self, here: Client, there: Client) -> None:
        await self.agree(await self.start(here), decline=True)
        await self.complete(there)
        await self._comes_back(there, here)

    async def _takes_both_gateways(self, here: Client, there: Client) -> None:
        other = GATEWAYS[1 - GATEWAYS.index(self.gateway)]
        asked = (here, self.gateway), (there, other)
        answers = await asyncio.gather(*(self.ask_to_start(client, name) for client, name in asked))
        opened = [answer.json for answer in answers if answer.status in (200, 201)]
        assert all(answer.status in (200, 201, 409, 503) for answer in answers), [one.text for one in answers]
        await asyncio.gather(*(self.agree(one) for one in opened or [await self.start(here)]))
        if self.agreed:
            await asyncio.gather(self.come_back(here), self.come_back(there))

    async def _wants_one_of_the_last(self, here: Client, there: Client) -> None:
        answer = await self.ask_to_start(here, self.gateway)
        if answer.status == 409:
            assert answer.json["code"] == "sold_out"
            self.sold_out = True
            return
        await self.agree(answer.json)
        await self.come_back(there)

    async def _leaves(self, here: Client, there: Client) -> None:
        await self.start(here)

    # ── Steps ──────────

    async def ask_to_start(self, client: Client, gateway: str) -> Answer:
        return await client.post(f"/api/orders/{self.order_id}/payments", {"gateway": gateway})

    async def start(self, client: Client) -> Any:
        answer = await self.ask_to_start(client, self.gateway)
        assert answer.status in (200, 201), answer.text
        return answer.json

    async def agree(self, started: Any, *, decline: bool = False) -> None:
        payment, client = started["payment"], started["client"]
        # Where two gateways were asked, one of them may have been called off by now.
        with suppress(GatewayRefused):
            await self.place.gateways.agree(payment["gateway"], client, decline=decline)
            self.agreed |= not decline

    async def complete(self, client: Client) -> Any:
        """What the page asks for each of the order's payments; the order as it is then."""
        order = (await client.get(f"/api/orders/{self.order_id}")).json
        for payment in order["payments"]:
            answer = await client.complete(payment["id"])
            # Goods that are gone, another attempt in progress: all said in the shop's own words.
            assert answer.status in (200, 202, 409), answer.text
        return (await client.get(f"/api/orders/{self.order_id}")).json

    async def come_back(self, client: Client) -> None:
        """The page asks until the order is paid."""
        deadline = time.monotonic() + QUIET_SECONDS
        while (await self.complete(client))["status"] != "paid":
            assert time.monotonic() < deadline, "a buyer never saw the order paid"
            await asyncio.sleep(0.1)
