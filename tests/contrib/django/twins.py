"""A Django runtime in the test's own process that pays at the twins without a socket, and a buyer who acts there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from paidonce.contrib.django import Runtime, run
from paidonce.contrib.django import runtime as wiring
from paidonce.gateways.base import HttpRequest
from paidonce.sandbox.app import SandboxTransport, sandbox_cores, sandbox_environment
from support.shop import SANDBOX_URL

SHOP_URL = "http://testserver"


class Clock:
    """The real clock, which a test can move forward; sleeping takes no time and needs no event loop."""

    def __init__(self) -> None:
        from paidonce.ports import SystemClock

        self._clock = SystemClock()
        self.shift = 0

    def now(self) -> int:
        return self._clock.now() + self.shift

    async def sleep(self, seconds: float) -> None:
        self.shift += int(seconds * 1_000_000)


class Watched:
    """The twins as a transport that blocks; counts what went out."""

    def __init__(self, inner: SandboxTransport) -> None:
        self.inner = inner
        self.sent: list[HttpRequest] = []

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> Any:
        self.sent.append(request)
        return await self.inner.send(request, deadline_seconds=deadline_seconds)


class Shop:
    """The example shop with its twins."""

    def __init__(self, settings: Any, **own: str) -> None:
        self.clock = Clock()
        self.twins = dict(sandbox_cores(SANDBOX_URL))
        self.transport = Watched(SandboxTransport(self.twins, self.clock, SANDBOX_URL))
        environment = {**sandbox_environment(SANDBOX_URL), "PAIDONCE_PUBLIC_URL": SHOP_URL, "PAIDONCE_DEMO": "1"} | own
        settings.PAIDONCE = {**settings.PAIDONCE, "ENVIRONMENT": environment}
        self.runtime: Runtime = wiring.build(clock=self.clock, transport=self.transport)
        wiring.use(self.runtime)

    def order(self, user: Any, *, sku: str = "MUG", quantity: int = 1) -> str:
        """An order of the shop's own."""
        from shop.models import Order, OrderLine, Product

        product = Product.objects.get(pk=sku)
        placed = Order.objects.create(user=user, due_cents=product.price_cents * quantity)
        OrderLine.objects.create(
            order=placed, product=product, name=product.name, quantity=quantity, price_cents=product.price_cents
        )
        return str(placed.pk)

    def confirm(self, client: Mapping[str, str], *, card: str = "pm_card_visa") -> None:
        """The buyer's browser confirms at Stripe."""
        secret = client["client_secret"]
        form = {"client_secret": secret, "payment_method": card, "return_url": f"{SHOP_URL}/return"}
        headers = {
            "authorization": f"Bearer {client['publishable_key']}",
            "content-type": "application/x-www-form-urlencoded",
        }
        path = f"/v1/payment_intents/{secret.split('_secret_')[0]}/confirm"
        self.twins["stripe"].handle(HttpRequest("POST", path, headers, urlencode(form).encode()), now=self.clock.now())

    def webhooks(self, gateway: str = "stripe") -> list[HttpRequest]:
        """The signed webhooks that came up since the last call."""
        return list(self.twins[gateway].take_webhooks(now=self.clock.now()))

    def recover(self) -> int:
        """What the worker would do now, on its own event loop and threads."""

        async def once() -> int:
            async with wiring.open_worker(clock=self.clock, transport=self.transport) as worker:
                return await worker.run_once()

        return asyncio.run(once())

    def captures(self) -> int:
        """How often money was booked."""
        return self.count("journal_entries WHERE kind = 'capture'")

    def count(self, table: str) -> int:
        """Rows of one of our tables."""

        async def read(tx: Any) -> int:
            row = await tx.fetch_one(f"SELECT count(*) AS n FROM {table}")  # noqa: S608
            return int(row["n"])

        found: int = run(self.runtime.core.db.read(read))
        return found
