"""A town whose shop is killed again and again, while its buyers, staff and gateways go on as if nothing could happen.

Everybody acts by HTTP on real processes. Whatever the shop acknowledges is written down on the side of those who heard
it; after each kill and at the end it must be in the shop's books. The gateways survive, and so does what they know.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

import paidonce.db
from paidonce.errors import GatewayRefused, WebhookError
from paidonce.gateways.base import HttpRequest
from paidonce.sandbox.dials import Fault, Rule
from paidonce.sandbox.webhooks import Parcel
from support.aftermath import Ended, assert_no_more_goes_back_than_came
from support.processes import Gateways, Nursery, Process, port_is_dead
from support.shop import Shop, open_shop

GATEWAYS = ("stripe", "paypal")
BUYERS = 6
PENS, LAMPS = 5_000, 12
MOST_ANSWERS = 20
HANG_SECONDS = 30
SIGKILL = -9

_PATIENCE = aiohttp.ClientTimeout(total=HANG_SECONDS)
_LOOKS = 25
# What the shop may answer. Databases and gateways are always there, so that nothing excuses a 503.
_FINE = frozenset({200, 201, 202, 409})
# What befalls the gateways' news besides a shop that is dead: sent twice, sent before the call's answer, late, lost.
_WEBHOOK_TROUBLE = (
    Rule(Fault.WEBHOOK_DUPLICATE, probability=0.2, copies=3),
    Rule(Fault.WEBHOOK_EARLY, probability=0.2),
    Rule(Fault.WEBHOOK_DELAY, probability=0.1, seconds=60),
    Rule(Fault.WEBHOOK_DROP, probability=0.2),
)


class Died(Exception):
    """The shop was killed before it answered; whoever asked knows nothing."""


# ── What the shop has said ──────────


@dataclass
class Said:
    """What the shop has acknowledged. None of it may ever be untrue again (invariant I7)."""

    orders: dict[str, int] = field(default_factory=dict)  # Their totals in minor units.
    payments: dict[str, str] = field(default_factory=dict)  # Their orders.
    captured: set[str] = field(default_factory=set)
    paid: set[str] = field(default_factory=set)
    canceled: set[str] = field(default_factory=set)
    refunds: dict[str, tuple[str, int]] = field(default_factory=dict)  # Their payments and amounts.
    refunded: set[str] = field(default_factory=set)
    events: set[tuple[str, str]] = field(default_factory=set)

    async def is_true(self, shop: Shop) -> None:
        """Look for all of it in the books."""
        # What is said while the books are read may come too late for them.
        said = copy.deepcopy(self)
        await said._orders_are_true(shop)
        await said._payments_are_true(shop)
        await said._refunds_are_true(shop)
        await said._events_are_true(shop)

    async def _orders_are_true(self, shop: Shop) -> None:
        rows = {row["id"]: row for row in await shop.rows("SELECT id, total_minor, status FROM orders")}
        kept = {id: rows[id]["total_minor"] for id in self.orders.keys() & rows.keys()}
        assert kept == self.orders, f"orders that were acknowledged are lost: {self.orders.keys() - rows.keys()}"
        unpaid = {id for id in self.paid if rows[id]["status"] != "paid"}
        assert not unpaid, f"orders that were paid are paid no more: {unpaid}"
        # Only money that came all the same opens a canceled order again, and that pays it.
        alive = {id for id in self.canceled if rows[id]["status"] not in ("canceled", "paid")}
        assert not alive, f"orders that were canceled live again: {alive}"

    async def _payments_are_true(self, shop: Shop) -> None:
        rows = {row["id"]: row for row in await shop.rows("SELECT id, order_id, status FROM payments")}
        kept = {id: rows[id]["order_id"] for id in self.payments.keys() & rows.keys()}
        assert kept == self.payments, f"payments that were started are lost: {self.payments.keys() - rows.keys()}"
        undone = {id for id in self.captured if rows[id]["status"] != "captured"}
        assert not undone, f"payments that were captured are captured no more: {undone}"

    async def _refunds_are_true(self, shop: Shop) -> None:
        rows = {row["id"]: row for row in await shop.rows("SELECT id, payment_id, amount_minor, state FROM refunds")}
        kept = {id: (rows[id]["payment_id"], rows[id]["amount_minor"]) for id in self.refunds.keys() & rows.keys()}
        assert kept == self.refunds, f"refunds that were acknowledged are lost: {self.refunds.keys() - rows.keys()}"
        undone = {id for id in self.refunded if rows[id]["state"] != "succeeded"}
        assert not undone, f"refunds that were made are made no more: {undone}"

    async def _events_are_true(self, shop: Shop) -> None:
        events = {(row["gateway"], row["event_id"]) for row in await shop.rows("SELECT gateway, event_id FROM inbox")}
        assert self.events <= events, f"events that were answered 200 are lost: {self.events - events}"


# ── The town ──────────


@dataclass
class Town:
    """The shop's processes, everybody who uses them, and what happened. `url` is the shop's."""

    nursery: Nursery
    gateways: Gateways
    database_url: str
    url: str
    environment: Mapping[str, str]
    sessions: Mapping[str, str]
    random: random.Random
    worker_apart: bool
    folder: Path
    said: Said = field(default_factory=Said)
    ended: Ended = field(default_factory=Ended)
    errands: list[Errand] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    processes: dict[str, Process] = field(default_factory=dict)
    closing: bool = False
    # Odd while nobody serves: what is asked then, or was asked in another life, may go unanswered.
    life: int = 1
    taken: list[HttpRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gateways.app.dials.reseed(self.random.randrange(1_000_000))
        for rule in _WEBHOOK_TROUBLE:
            self.gateways.app.dials.add(rule)
        self._note_what_is_delivered()

    def _note_what_is_delivered(self) -> None:
        queue = self.gateways.app.queue
        remove = queue.remove

        def noted(parcel: Parcel, state: str) -> None:
            if state == "delivered":
                self.taken.append(parcel.request)
            remove(parcel, state)

        queue.remove = noted  # type: ignore[method-assign]

    # ── Processes ──────────

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def roles(self) -> tuple[str, ...]:
        return ("web", "worker") if self.worker_apart else ("web",)

    def open(self) -> None:
        """Start whatever is not there."""
        settings = {**self.environment, "PAIDONCE_WORKER": "0" if self.worker_apart else "1"}
        if "web" not in self.processes:
            self.processes["web"] = self.nursery.open(settings, self.port)
            self.life += 1
        if self.worker_apart and "worker" not in self.processes:
            self.processes["worker"] = self.nursery.work(settings)

    def kill(self, *roles: str) -> None:
        """SIGKILL, and nobody else may have ended before."""
        for role in roles or self.roles:
            process = self.processes.pop(role)
            early = self.nursery.ended(process)
            assert early is None, f"the {role} ended by itself ({early})\n{process.log.read_text()}"
            if role == "web":
                self.life += 1
            assert self.nursery.kill(process) == SIGKILL
        if "web" not in self.processes:
            assert port_is_dead(self.port), "something of the server's process group is left"

    async def a_moment(self) -> None:
        """Until the kill: now and then while the shop still starts, else when it has said some things and does more.

        Counted in answers, so that a life is as eventful on a slow machine as on a fast one.
        """
        said = 0 if self.random.random() < 0.15 else self.random.randint(1, MOST_ANSWERS)
        deadline, until = time.monotonic() + HANG_SECONDS, self.counts["answers"] + said
        while self.counts["answers"] < until:
            assert time.monotonic() < deadline, f"the shop says nothing more\n{self.nursery.logs()}"
            await asyncio.sleep(0.002)
        await asyncio.sleep(self.random.uniform(0, 0.03))

    async def reign(self, kills: int) -> None:
        """Kill the shop so often, and look into its books each time. Afterwards it is open."""
        for _ in range(kills):
            self.open()
            await self.a_moment()
            # The whole of it as a rule, as when a machine goes down; else the web server or the worker alone.
            self.kill(*self.random.choice((self.roles, self.roles, self.roles[:1], self.roles[-1:])))
            self.counts["kills"] += 1
            await self.look()
            seconds = self.random.choice((0, 5, 130, 130, 320))
            if not self.processes:
                # Whoever lives measures the deadlines of his calls by the same clock, and would give them up.
                self.nursery.clock.pass_seconds(seconds)
        self.open()

    # ── Books ──────────

    async def look(self) -> None:
        """The books as they are now: they hold what was said, they balance, and what has ended stays as it was."""
        async with self.books() as shop:
            await self._note_events(shop)
            await self.said.is_true(shop)
            await self.ended.look(shop)
            await shop.assert_books_balance()
            if not self.processes:
                # It reads several times, and while somebody lives more comes and goes in between.
                await assert_no_more_goes_back_than_came(shop)
            assert await shop.rows("SELECT sku FROM stock WHERE on_hand < 0 OR held < 0 OR held > on_hand") == []

    @asynccontextmanager
    async def books(self) -> AsyncIterator[Shop]:
        """The shop's books. While nobody has SQLite's file open a copy is read, so that the next server recovers it."""
        path = paidonce.db.sqlite_path(self.database_url)
        url = self.database_url if path is None or self.processes else f"sqlite:///{self._copied(path)}"
        db = await paidonce.db.connect(url)
        try:
            yield open_shop(db, clock=self.nursery.clock, twins=self.gateways.app.cores)
        finally:
            await db.close()

    def _copied(self, path: Path) -> Path:
        copied = self.folder / "copy.db"
        for suffix in ("", "-wal"):
            target = copied.with_name(copied.name + suffix)
            target.unlink(missing_ok=True)
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copy(source, target)
        return copied

    async def _note_events(self, shop: Shop) -> None:
        """Which of the webhooks that were answered 200 are about payments of ours; those must be kept."""
        taken, self.taken[:] = list(self.taken), []
        for request in taken:
            gateway = shop.core.gateways[request.url.rsplit("/", 1)[1]]
            headers = {name.lower(): value for name, value in request.headers.items()}
            # What was signed long ago is refused as stale by now, and tells nothing.
            with suppress(WebhookError):
                event = await gateway.read_webhook(headers, request.body)
                if event.relevant and event.payment_id is not None:
                    self.said.events.add((event.gateway, event.id))
                    self.counts["webhooks"] += 1

    # ── People ──────────

    @asynccontextmanager
    async def crowd(self) -> AsyncIterator[None]:
        """Everybody is busy until the end of the block; then the shop stays open until each has ended his errand."""
        async with AsyncExitStack() as stack:
            staff = await stack.enter_async_context(Browser(self, self.sessions["staff"]))
            people = [
                Buyer(self, await stack.enter_async_context(Browser(self, self.sessions["buyer"])), staff)
                for _ in range(BUYERS)
            ]
            async with asyncio.TaskGroup() as group:
                for one in people:
                    group.create_task(one.live())
                yield
                self.closing = True

    async def until_open(self) -> None:
        """Wait until somebody serves."""
        deadline = time.monotonic() + HANG_SECONDS
        while self.life % 2:
            assert time.monotonic() < deadline, "nobody opens the shop again"
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Answer:
    """One answer of the shop, in its own words."""

    status: int
    json: Any

    @property
    def done(self) -> bool:
        return self.status < 300

    @property
    def code(self) -> str:
        return "" if self.done else str(self.json["code"])


class Browser:
    """Asks the shop, each time by a connection of its own, and tells a killed shop from one that fails."""

    def __init__(self, town: Town, session: str) -> None:
        self._town = town
        headers = {"cookie": f"paidonce_session={session}"}
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        self._session = aiohttp.ClientSession(headers=headers, connector=connector, timeout=_PATIENCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Its answer. Raises `Died` if the shop was killed meanwhile."""
        town, life = self._town, self._town.life
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            async with self._session.request(method, town.url + path, json=body, headers=named) as answer:
                status, text = answer.status, await answer.text()
        except (aiohttp.ClientError, ConnectionError) as error:
            if life % 2 == 0 and town.life == life:
                raise AssertionError("the shop hung up although nobody had killed it") from error
            town.counts["lost answers"] += life % 2 == 0
            raise Died from error
        town.counts["answers"] += 1
        assert status in _FINE, f"{method} {path}: {status} {text}\n{town.nursery.logs()}"
        return Answer(status, json.loads(text))


# ── Errands ──────────


@dataclass
class Errand:
    """One order, as far as its buyer has come with it.

    `agreed` holds the gateways where he agreed to pay and was not told since that he has to do it again.
    """

    way: str
    sku: str
    gateways: tuple[str, ...]
    order_id: str = ""
    payments: dict[str, str] = field(default_factory=dict)  # By gateway.
    declined: bool = False
    agreed: set[str] = field(default_factory=set)
    ever_agreed: bool = False
    paid: bool = False
    called_off: bool = False
    over: bool = False
    refunds: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Buyer:
    """Somebody with one errand after another. When the shop dies on him, he asks again or leaves it at that."""

    town: Town
    browser: Browser
    staff: Browser

    async def live(self) -> None:
        while not self.town.closing:
            errand = self._errand()
            self.town.errands.append(errand)
            while not await self._done(errand):
                await self.town.until_open()
                if self.town.random.random() < 0.15:
                    break
            await asyncio.sleep(self.town.random.uniform(0, 0.02))

    def _errand(self) -> Errand:
        chance = self.town.random
        way = chance.choice(tuple(_WAYS))
        gateway = chance.choice(GATEWAYS)
        both = (gateway, GATEWAYS[1 - GATEWAYS.index(gateway)])
        sku = "lamp" if chance.random() < 0.1 else "pen"
        wishes: list[dict[str, Any]] = [{"amount": chance.choice((1, 100))}, {"restock": True}]
        refunds = [wish for wish in wishes if chance.random() < 0.3]
        return Errand(way, sku, both if way == "takes both gateways" else both[:1], refunds=refunds)

    async def _done(self, errand: Errand) -> bool:
        try:
            await self._order(errand)
            if not errand.over:
                await _WAYS[errand.way](self, errand)
                await self._give_back(errand)
        except Died:
            return False
        return True

    # ── Ways ──────────

    async def _comes_back(self, errand: Errand) -> None:
        await self._closes_the_tab(errand)
        await self._come_back(errand)

    async def _closes_the_tab(self, errand: Errand) -> None:
        await together([self._pay(errand, gateway) for gateway in errand.gateways])

    async def _is_declined_first(self, errand: Errand) -> None:
        (gateway,) = errand.gateways
        if not errand.declined:
            await self._pay(errand, gateway, decline=True)
            if gateway in errand.payments:
                errand.declined = True
                await self._complete(errand, gateway)
        await self._comes_back(errand)

    async def _clicks_twice(self, errand: Errand) -> None:
        (gateway,) = errand.gateways
        if gateway not in errand.agreed:
            clients = await together([self._start(errand, gateway) for _ in range(2)])
            await self._agree(errand, gateway, clients[0] or clients[1])
        await together([self._come_back(errand) for _ in range(2)])

    async def _calls_it_off(self, errand: Errand) -> None:
        if not errand.called_off:
            await self._start(errand, errand.gateways[0])
            errand.called_off = True
        answer = await self.browser.ask("POST", f"/api/orders/{errand.order_id}/cancel")
        if answer.done and answer.json["status"] == "canceled":
            self.town.said.canceled.add(errand.order_id)

    # ── Steps, each of which may be repeated ──────────

    async def _order(self, errand: Errand) -> None:
        if errand.order_id or errand.over:
            return
        answer = await self.browser.ask("POST", "/api/orders", {"lines": [{"sku": errand.sku, "quantity": 1}]})
        if answer.done:
            errand.order_id = answer.json["id"]
            self.town.said.orders[errand.order_id] = answer.json["total"]
        else:
            self._refused(errand, answer)

    def _refused(self, errand: Errand, answer: Answer) -> None:
        """A sentence of the shop: the goods are gone, it is paid already, somebody else is at it."""
        self.town.counts[f"refused: {answer.code}"] += 1
        if answer.code == "already_paid":
            errand.paid = True
            self.town.said.paid.add(errand.order_id)
        errand.over |= answer.code in ("sold_out", "order_closed")

    async def _pay(self, errand: Errand, gateway: str, *, decline: bool = False) -> None:
        if gateway not in errand.agreed:
            await self._agree(errand, gateway, await self._start(errand, gateway), decline=decline)

    async def _start(self, errand: Errand, gateway: str) -> dict[str, str] | None:
        """The client values, or None if the shop did not open a payment."""
        for _ in range(_LOOKS):
            if errand.over or errand.paid:
                return None
            answer = await self.browser.ask("POST", f"/api/orders/{errand.order_id}/payments", {"gateway": gateway})
            if answer.done:
                errand.payments[gateway] = answer.json["id"]
                self.town.said.payments[answer.json["id"]] = errand.order_id
                client: dict[str, str] = answer.json["client"]
                return client
            self._refused(errand, answer)
            await asyncio.sleep(0.02)
        return None

    async def _agree(
        self, errand: Errand, gateway: str, client: dict[str, str] | None, *, decline: bool = False
    ) -> None:
        if client is None:
            return
        # Where two gateways were asked, one of them may have been called off by now.
        with suppress(GatewayRefused):
            await self.town.gateways.agree(gateway, client, decline=decline)
            if not decline:
                errand.agreed.add(gateway)
                errand.ever_agreed = True

    async def _come_back(self, errand: Errand) -> None:
        """The page asks until the order is paid, or until its buyer has enough of it."""
        for _ in range(_LOOKS):
            if errand.paid or errand.over:
                return
            for gateway in list(errand.payments):
                if await self._complete(errand, gateway):
                    await self._pay(errand, gateway)
            await asyncio.sleep(0.02)

    async def _complete(self, errand: Errand, gateway: str) -> bool:
        """What became of a payment; whether the buyer reads that it was declined and that he may try again."""
        payment = errand.payments[gateway]
        answer = await self.browser.ask("POST", f"/api/payments/{payment}/complete", {})
        if not answer.done:
            self._refused(errand, answer)
            return False
        if answer.json["status"] == "captured":
            self.town.said.captured.add(payment)
        if answer.json["order_status"] == "paid":
            errand.paid = True
            self.town.said.paid.add(errand.order_id)
        if answer.json["recoverable"]:
            errand.agreed.discard(gateway)
        return bool(answer.json["recoverable"])

    async def _give_back(self, errand: Errand) -> None:
        """Staff refund what the errand's list says, each wish with a key of its own."""
        while errand.paid and errand.refunds:
            order = await self.staff.ask("GET", f"/api/orders/{errand.order_id}")
            payment = next((one["id"] for one in order.json["payments"] if one["status"] == "captured"), None)
            if payment is None:
                return
            key = f"{errand.order_id}-{len(errand.refunds)}"
            path = f"/api/payments/{payment}/refunds"
            answer = await self.staff.ask("POST", path, errand.refunds[0], idempotency_key=key)
            errand.refunds.pop(0)
            if answer.done:
                self._note_refund(answer.json)

    def _note_refund(self, told: dict[str, Any]) -> None:
        self.town.said.refunds[told["id"]] = (told["payment_id"], told["amount"])
        if told["state"] == "succeeded":
            self.town.said.refunded.add(told["id"])


_WAYS: Mapping[str, Callable[[Buyer, Errand], Awaitable[None]]] = {
    "comes back": Buyer._comes_back,
    "closes the tab": Buyer._closes_the_tab,
    "is declined first": Buyer._is_declined_first,
    "clicks twice": Buyer._clicks_twice,
    "takes both gateways": Buyer._comes_back,
    "calls it off": Buyer._calls_it_off,
}


async def together(steps: Sequence[Awaitable[Any]]) -> list[Any]:
    """All steps at once. Raises `Died` only when none of them is under way any more."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    errors = [one for one in results if isinstance(one, BaseException)]
    for error in sorted(errors, key=lambda one: isinstance(one, Died)):
        raise error
    return results
