"""Two web processes and two workers on one PostgreSQL: no double effects, no lost rows.

Forty buyers shop at both addresses at once, gateways send each webhook three times, and time runs fast, so that
workers and web processes meet at the same payments again and again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
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
SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
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
        assert first["id"] == second["id"], "two attempts for one gateway"
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
        """Asked again when told so: on a busy machine a call's whole time passes while the clock flies."""
        for _ in range(20):
            answer = await client.post(f"/api/orders/{self.order_id}/payments", {"gateway": gateway})
            if answer.status != 503:
                break
            await asyncio.sleep(0.3)
        return answer

    async def start(self, client: Client) -> Any:
        answer = await self.ask_to_start(client, self.gateway)
        assert answer.status in (200, 201), answer.text
        return answer.json

    async def agree(self, started: Any, *, decline: bool = False) -> None:
        # Where two gateways were asked, one of them may have been called off by now.
        with suppress(GatewayRefused):
            await self.place.gateways.agree(started["gateway"], started["client"], decline=decline)
            self.agreed |= not decline

    async def complete(self, client: Client) -> Any:
        """What the page asks for each of the order's payments; the order as it is then."""
        order = (await client.get(f"/api/orders/{self.order_id}")).json
        for payment in order["payments"]:
            answer = await client.complete(payment["id"])
            # Goods that are gone, another attempt in progress: all said in the shop's own words.
            # A gateway that did not answer in time is asked again, since the order is not paid yet.
            assert answer.status in (200, 202, 409, 503), answer.text
        return (await client.get(f"/api/orders/{self.order_id}")).json

    async def come_back(self, client: Client) -> None:
        """The page asks until the order is paid."""
        deadline = time.monotonic() + QUIET_SECONDS
        while (await self.complete(client))["status"] != "paid":
            assert time.monotonic() < deadline, "a buyer never saw the order paid"
            await asyncio.sleep(0.1)


# ── The place ──────────


@pytest.fixture
def hatchery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("many")) as started:
        yield started


@pytest.fixture
def twins(hatchery: Nursery) -> Iterator[tuple[Gateways, list[int]]]:
    ports = [free_port(), free_port()]
    with gateways(hatchery.clock, f"http://127.0.0.1:{ports[0]}", deliver=True) as opened:
        opened.app.dials.add(Rule(Fault.WEBHOOK_DUPLICATE, copies=3))
        yield opened, ports


@pytest.fixture
async def place(hatchery: Nursery, twins: tuple[Gateways, list[int]], postgresql_url: str) -> AsyncIterator[Place]:
    opened, ports = twins
    db = await paidonce.db.connect(postgresql_url)
    try:
        async with receiving() as receiver:
            books = open_shop(db, clock=hatchery.clock, twins=opened.app.cores)
            await db.transaction(stock_up, books.store, hatchery.clock.now())
            more = {"PAIDONCE_WORKER": "0", "PAIDONCE_EVENT_URLS": receiver.url, "PAIDONCE_EVENT_SECRET": SECRET}
            environments = [shop_environment(postgresql_url, port, opened, **more) for port in ports]
            processes = [
                *(hatchery.serve(settings, port) for settings, port in zip(environments, ports, strict=True)),
                *(hatchery.work(settings) for settings in environments),
            ]
            urls = [settings["PAIDONCE_PUBLIC_URL"] for settings in environments]
            made = Place(hatchery, opened, receiver, books, urls, processes)
            for number in range(ACCOUNTS):
                await sign_in(made, f"buyer-{number}@example.com", "buyer")
            await sign_in(made, "staff@example.com", "staff")
            yield made
            for process in processes:
                hatchery.kill(process)
    finally:
        await db.close()


async def sign_in(place: Place, email: str, role: Role) -> None:
    """An account with a session that is valid at both addresses."""
    core, now = place.books.core, place.books.core.clock.now()
    passwords, ids = Passwords(), core.ids
    user = await accounts.add_user(
        core.db, passwords, ids, email=email, name="Some One", password="a-long-password", now=now, role=role
    )
    token = await accounts.open_session(core.db, user, replaces=None, now=now, life_seconds=7 * 24 * 3600)
    place.sessions[email] = token


# ── The test ──────────


async def test_two_web_processes_and_two_workers_share_one_database(place: Place) -> None:
    """No double effects, no lost rows."""
    chance = random.Random(SEED)
    buyers = [Buyer(number, place, chance.choice(GATEWAYS), WAYS[number % len(WAYS)]) for number in range(BUYERS)]
    async with time_flies(place):
        await asyncio.gather(*(buyer.shops() for buyer in buyers))
    await quiet(place, {buyer.order_id for buyer in buyers if buyer.agreed})
    await assert_everyone_paid_once(place, buyers)
    refunds = await refund_at_both(place, [buyer for buyer in buyers if buyer.agreed])
    await quiet(place, {buyer.order_id for buyer in buyers if buyer.agreed})
    await assert_refunded_once(place, refunds)
    await assert_nothing_is_left(place)
    assert [place.nursery.ended(process) for process in place.processes] == [None] * 4, place.nursery.logs()
    assert "Traceback" not in place.nursery.logs(), place.nursery.logs()


@asynccontextmanager
async def time_flies(place: Place) -> AsyncIterator[None]:
    """Half a minute passes every few tenths of a second, though less in all than goods are held for."""

    async def fly() -> None:
        for _ in range(30):
            await asyncio.sleep(0.3)
            place.nursery.clock.pass_seconds(30)

    flying = asyncio.create_task(fly())
    try:
        yield
    finally:
        flying.cancel()
        with suppress(asyncio.CancelledError):
            await flying


_OPEN = (
    "SELECT id FROM inbox WHERE state IN ('recorded', 'parked')",
    "SELECT id FROM operations WHERE state = 'recorded'",
    "SELECT id FROM refunds WHERE state NOT IN ('succeeded', 'failed')",
    "SELECT id FROM deliveries WHERE state = 'waiting'",
    "SELECT o.id FROM outbox o WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = o.seq)",
)


async def quiet(place: Place, agreed: set[str]) -> None:
    """Wait until what buyers agreed to is paid and no row waits for anybody, while minutes go by."""
    deadline = time.monotonic() + QUIET_SECONDS
    while left := await open_rows(place, agreed):
        assert time.monotonic() < deadline, f"{left}\n{place.nursery.logs()}"
        place.nursery.clock.pass_seconds(60)
        await asyncio.sleep(0.5)


async def open_rows(place: Place, agreed: set[str]) -> list[str]:
    left = [f"{sql}: {len(rows)}" for sql in _OPEN if (rows := await place.books.rows(sql))]
    unpaid = {row["id"] for row in await place.books.rows("SELECT id FROM orders WHERE status <> 'paid'")}
    left += [f"unpaid: {order_id}" for order_id in agreed & unpaid]
    if len(place.gateways.app.queue):
        left.append("webhooks are on their way")
    return left


async def assert_everyone_paid_once(place: Place, buyers: list[Buyer]) -> None:
    books = place.books
    assert await books.count("orders") == BUYERS
    captures = Counter(entry.payment_id for entry in gateway_books(place) if entry.kind == "capture")
    for buyer in buyers:
        rows = await books.rows("SELECT id FROM payments WHERE order_id = :id", id=buyer.order_id)
        moved = sum(captures[row["id"]] for row in rows)
        if buyer.agreed:
            order = await books.core.db.read(books.store.get_order, buyer.order_id)
            assert order is not None
            await books.assert_paid_once(order)
        else:
            assert buyer.way in ("leaves", "wants one of the last")
            assert await books.order_status(buyer.order_id) != "paid"
        assert moved == buyer.agreed, buyer
    wanted = [buyer for buyer in buyers if buyer.way == "wants one of the last"]
    assert sum(buyer.agreed for buyer in wanted) == LAMPS, "the last ones are sold, and no more than there are"
    assert sum(buyer.sold_out for buyer in wanted) == len(wanted) - LAMPS
    sold = Counter("lamp" if buyer in wanted else "pen" for buyer in buyers if buyer.agreed)
    assert ((await books.stock("pen"))[0], (await books.stock("lamp"))[0]) == (PENS - sold["pen"], 0)
    await books.assert_journal_equals_gateways()


def gateway_books(place: Place) -> list[Any]:
    return [entry for twin in place.gateways.app.cores.values() for entry in twin.books()]


# ── Refunds ──────────


@dataclass
class Refunded:
    """What two members of staff asked for at the same moment, and what may come of it."""

    payment_id: str
    minor: int
    succeeded: list[int]
    refused: int
    answers: list[Answer] = field(default_factory=list)


async def refund_at_both(place: Place, paid: list[Buyer]) -> list[Refunded]:
    """The same refund with one key, two full ones, and two parts, each at both addresses at once."""
    refunds = []
    async with place.clients("staff@example.com") as both:
        for number, buyer in enumerate(paid[:12]):
            payment = (
                await place.books.rows(
                    "SELECT id, captured_minor FROM payments WHERE order_id = :id AND status = 'captured'",
                    id=buyer.order_id,
                )
            )[0]
            asked, one = _wish(number % 3, payment["id"], payment["captured_minor"])
            refunds.append(one)
            path = f"/api/payments/{one.payment_id}/refunds"
            one.answers += await asyncio.gather(*(client.post(path, **asked) for client in both))
    return refunds


def _wish(kind: int, payment_id: str, minor: int) -> tuple[dict[str, Any], Refunded]:
    if kind == 0:
        asked = {"body": {"amount": 100}, "headers": {"idempotency-key": "the-same-refund"}}
        return asked, Refunded(payment_id, minor, [100], 0)
    if kind == 1:
        return {"body": {}}, Refunded(payment_id, minor, [minor], 1)
    return {"body": {"amount": 60}}, Refunded(payment_id, minor, [60, 60], 0)


async def assert_refunded_once(place: Place, refunds: list[Refunded]) -> None:
    assert len(refunds) == 12
    theirs = Counter[str | None]()
    for entry in gateway_books(place):
        theirs[entry.payment_id] += -entry.minor if entry.kind == "refund" else 0
    for one in refunds:
        statuses = [answer.status for answer in one.answers]
        assert sum(status in (200, 201, 202) for status in statuses) == 2 - one.refused, [a.text for a in one.answers]
        assert statuses.count(409) == one.refused
        states = await place.books.refund_states(one.payment_id)
        assert states == [(minor, "succeeded") for minor in one.succeeded]
        assert theirs[one.payment_id] == sum(one.succeeded)
    assert await place.books.count("refunds") == sum(len(one.succeeded) for one in refunds)
    await place.books.assert_journal_equals_gateways()


async def assert_nothing_is_left(place: Place) -> None:
    """Every event was told, every key had one body, and nobody had to be alarmed."""
    books = place.books
    told = {one.id for one in place.receiver.received}
    assert told == {row["id"] for row in await books.rows("SELECT id FROM outbox")}
    assert [event for event in await books.events() if event.startswith("alarm.")] == []
    assert (await books.events()).count("order.paid") == len(
        await books.rows("SELECT id FROM orders WHERE status = 'paid'")
    )
    # Voids move no money and carry no key of ours.
    posts = [post for post in place.gateways.recorder.posts if not post.path.endswith(("/cancel", "/void"))]
    bodies = {(post.key, post.path, post.body) for post in posts}
    keys = {key for key, _, _ in bodies}
    assert len(bodies) == len(keys), "a key went out with two bodies"
    assert keys <= {row["idempotency_key"] for row in await books.rows("SELECT idempotency_key FROM operations")}
    assert place.gateways.app.dials.struck[Fault.WEBHOOK_DUPLICATE] >= BUYERS // 2
    await books.assert_books_balance()
