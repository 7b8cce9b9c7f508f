"""The buyers' side of a measurement, in a process of its own: so many at once, each checkout by another buyer.

`python -m bench.load PLAN` with the plan as JSON. It warms up, says so, and begins when it is told to.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from bench.buyers import BUYERS, PRODUCTS, Buyer, open_order, sku
from bench.child import end_with_parent, tell
from bench.gateway import session_webhook, webhook
from bench.http11 import Lost, Pool, request

# A shop that is busy says so, and when to come again. More patience than this is worth no measurement.
_TRIES = 200
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0
# How long somebody waits whose payment starts together with thousands of others.
_PATIENCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: `kind` is checkout, known, repeated or inflight. `warm_up` and `inflight` count orders."""

    ports: list[int]
    kind: str
    buyers: int
    seconds: float
    lines: int = 1
    hot: bool = False
    warm_up: int = 50
    inflight: int = 0


class Refused(Exception):
    """The shop answered otherwise than a checkout needs it."""


@dataclass(slots=True)
class Paid:
    """An order that was paid, and what a webhook says of it."""

    payment: str
    ref: str
    amount: int
    event: str


@dataclass(slots=True)
class Count:
    """What happened. Times are seconds, of whole checkouts."""

    took: list[float] = field(default_factory=list)
    busy: int = 0
    failed: Counter[str] = field(default_factory=Counter)


class Load:
    """All buyers together."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pools = [Pool(port) for port in plan.ports]
        self._numbers = itertools.count()
        # The same goods in every run, for every contestant.
        self._chance = random.Random(7)  # noqa: S311
        self.count = Count()
        self.paid: list[Paid] = []

    # ── One checkout ──────────

    async def checkout(self) -> Paid:
        """Order, start, complete, webhook. Raises `Refused`, `Lost`."""
        number = next(self._numbers)
        buyer, pool = Buyer(number % BUYERS), self._pools[number % len(self._pools)]
        order = await self.order(pool, buyer)
        started = await self._ask(pool, buyer, f"/api/orders/{order['id']}/payments", b'{"gateway":"stripe"}')
        client = started["client"]
        ref = client["session"] if "session" in client else client["client_secret"].partition("_secret_")[0]
        result = await self._ask(pool, buyer, f"/api/payments/{started['id']}/complete", b"{}")
        if (result["status"], result["order_status"]) != ("captured", "paid"):
            raise Refused(f"complete: {result}")
        done = Paid(client.get("token") or started["id"], ref, order["total"], f"evt_{ref}")
        await self.webhook(pool, done, done.event)
        return done

    async def order(self, pool: Pool, buyer: Buyer) -> Any:
        """A new order."""
        plan = self._plan
        numbers = range(plan.lines) if plan.hot else self._chance.sample(range(PRODUCTS), plan.lines)
        lines = [{"sku": sku(number), "quantity": 1} for number in numbers]
        return await self._ask(pool, buyer, "/api/orders", json.dumps({"lines": lines}).encode())

    async def webhook(self, pool: Pool, done: Paid, event_id: str) -> None:
        """The gateway's news of it, which the shop knows already."""
        news = session_webhook if done.ref.startswith("cs_") else webhook
        signature, body = news(done.ref, done.payment, done.amount, event_id=event_id)
        headers = f"Stripe-Signature: {signature}\r\nContent-Type: application/json\r\n"
        status, told = await self._send(pool, request("POST", "/webhooks/stripe", headers, body))
        if status != 200:
            raise Refused(f"webhook: {status} {told[:200]!r}")

    async def _ask(self, pool: Pool, buyer: Buyer, path: str, body: bytes) -> Any:
        headers = (
            f"Cookie: paidonce_session={buyer.token}\r\nX-Forwarded-For: {buyer.address}\r\n"
            "Content-Type: application/json\r\nAccept: application/json\r\n"
        )
        status, told = await self._send(pool, request("POST", path, headers, body))
        if status not in {200, 201}:
            raise Refused(f"{path.rpartition('/')[2]}: {status} {told[:200]!r}")
        return json.loads(told)

    async def _send(self, pool: Pool, whole: bytes) -> tuple[int, bytes]:
        pause = _FIRST_PAUSE_SECONDS
        for _ in range(_TRIES):
            try:
                status, told = await pool.send(whole)
            except Lost:
                if pause == _FIRST_PAUSE_SECONDS:
                    raise
                # Who comes back takes another connection, as browsers do, where the shop has closed this one meanwhile.
                continue
            if status != 503:
                break
            self.count.busy += 1
            # Somewhat later than the shop says, since nobody comes to the second, and never before.
            await asyncio.sleep(_said(told) + pause * (0.5 + self._chance.random()))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        return status, told

    # ── Many at once ──────────

    async def warm_up(self) -> None:
        """Fill caches and pools, and for webhooks the shop with paid orders."""
        left = itertools.count(self._plan.warm_up, -1)

        async def one() -> None:
            while next(left) > 0:
                self.paid.append(await self.checkout())

        await asyncio.gather(*(one() for _ in range(self._plan.buyers)))

    async def go_on(self, once: Callable[[], Awaitable[object]]) -> None:
        """All buyers, each again and again until the time is over. What was begun is finished and counts."""
        ends = time.monotonic() + self._plan.seconds

        async def one() -> None:
            while time.monotonic() < ends:
                began = time.monotonic()
                try:
                    await once()
                except (Refused, Lost, OSError) as error:
                    self.count.failed[str(error)[:300]] += 1
                else:
                    self.count.took.append(time.monotonic() - began)

        await asyncio.gather(*(one() for _ in range(self._plan.buyers)))

    async def known(self) -> None:
        """Another event about a payment that is settled."""
        number = next(self._numbers)
        done = self.paid[number % len(self.paid)]
        await self.webhook(self._pools[0], done, f"evt_again_{number}")

    async def repeated(self) -> None:
        """An event that was told before."""
        done = self.paid[next(self._numbers) % len(self.paid)]
        await self.webhook(self._pools[0], done, done.event)

    async def inflight(self) -> None:
        """Everybody starts to pay an order of his at the same moment."""

        async def one(number: int) -> None:
            path = f"/api/orders/{open_order(number)}/payments"
            began = time.monotonic()
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._ask(self._pools[0], Buyer(number % BUYERS), path, b'{"gateway":"stripe"}')
            except TimeoutError:
                self.count.failed[f"no payment within {_PATIENCE_SECONDS} s"] += 1
            except (Refused, Lost, OSError) as error:
                self.count.failed[str(error)[:300]] += 1
            else:
                self.count.took.append(time.monotonic() - began)

        await asyncio.gather(*(one(number) for number in range(1, self._plan.inflight + 1)))


def _said(told: bytes) -> float:
    """How many seconds a shop that is busy wants to be left alone; none if it does not say so in our form."""
    try:
        return float(json.loads(told)["retry_after"])
    except (ValueError, TypeError, KeyError):
        return 0.0


async def run(plan: Plan) -> None:
    """Warm up, wait for the word, do it, tell."""
    load, spoken = Load(plan), end_with_parent()
    await load.warm_up()
    load.count.busy = 0
    tell(ready=True, paid=len(load.paid))
    await asyncio.to_thread(spoken.wait)
    began = time.monotonic()
    match plan.kind:
        case "known":
            await load.go_on(load.known)
        case "repeated":
            await load.go_on(load.repeated)
        case "inflight":
            await load.inflight()
        case _:
            await load.go_on(load.checkout)
    count = load.count
    tell(
        seconds=time.monotonic() - began,
        took=sorted(count.took),
        busy=count.busy,
        failed=dict(count.failed.most_common(3)),
    )


if __name__ == "__main__":
    asyncio.run(run(Plan(**json.loads(sys.argv[1]))))
