"""A storm over a whole shop: buyers, staff, dashboards, webhooks, time and workers act at random at the same moments.

A seed steers what happens; the timing of threads and connections is real, so it does not repeat it exactly. `log` keeps
what was done, so that a failure can be told as a story.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from paidonce import captures, checkout, recovery, refunds
from paidonce.core import Actor
from paidonce.errors import CommitUnknown, OutcomeUnknown, Problem, SoldOut, WebhookRefused, WebhookUnverifiable
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.ports import SECOND, Database, Row, Transaction
from paidonce.store import OrderView
from support.shop import STAFF, Shop, open_shop

P = ParamSpec("P")
T = TypeVar("T")

Json = dict[str, Any]

ORDERS_PER_BURST = 3
BASKETS = (
    (("pen", 4),),
    (("pen", 9), ("mug", 1)),
    (("lamp", 1),),
    (("lamp", 1), ("mug", 2)),
    (("mug", 3), ("lamp", 2)),
    (("lamp", 3), ("pen", 1)),
)
CARDS = (
    *("pm_card_visa",) * 4,
    *("pm_card_visa_chargeDeclined", "pm_card_authenticationRequired", "pm_usBankAccount_processing"),
    *("pm_card_createDispute", "pm_card_createDisputeInquiry", "pm_card_refundFail", "pm_card_pendingRefund"),
)
FUNDINGS = ("balance", "balance", "balance", "declined", "pending")
WAITS_WITHIN = (1, 5, 31, 100, 301, 700)
_HOUR, _DAY = 3600, 24 * 3600
WAITS_BETWEEN = (1, 1, 31, 31, 100, 100, 700, 700, 1300, 4000, 7 * _HOUR, 25 * _HOUR, 3 * _DAY, 8 * _DAY)
CALM_WAITS = (0, 700, 2 * _HOUR, 7 * _HOUR, _DAY, _DAY, 3 * _DAY, 7 * _DAY, 15 * _DAY, 15 * _DAY, 20 * _DAY)
_ANSWERS_WITHOUT_SENSE = (502, {"content-type": "text/html"}, b"<html>Bad gateway</html>")


class _Rolled(Exception):
    """Rolls a transaction back whose commit seems to fail."""


class ShakyDatabase:
    """`ports.Database` whose commits fail with an unknown outcome now and then: kept or lost, nobody is told."""

    def __init__(self, inner: Database, chance: random.Random) -> None:
        self.inner = inner
        self.chance = chance
        self.failing = 0.0
        self.dialect: Literal["sqlite", "postgresql"] = inner.dialect

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        fails = self.chance.random() < self.failing
        kept = self.chance.random() < 0.5
        if not fails:
            return await self.inner.transaction(fn, *args, **kwargs)
        if kept:
            await self.inner.transaction(fn, *args, **kwargs)
            raise CommitUnknown("the connection died at COMMIT")

        async def and_lose(tx: Transaction) -> None:
            await fn(tx, *args, **kwargs)
            raise _Rolled

        try:
            await self.inner.transaction(and_lose)
        except _Rolled:
            raise CommitUnknown("the connection died at COMMIT") from None
        raise AssertionError("a transaction that raises is rolled back")

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self.inner.read(fn, *args, **kwargs)

    async def close(self) -> None:
        await self.inner.close()


class Storm:
    """Two processes of one shop, and everybody who acts on it. `shop` itself stays calm, for looking at things."""

    def __init__(self, shop: Shop, seed: int) -> None:
        self.shop = shop
        self.random = random.Random(seed)
        self.losing = 0.0
        self.log: list[str] = []
        self.orders: list[tuple[OrderView, Actor]] = []
        self.started: list[tuple[checkout.Started, Actor]] = []
        self.parcels: list[HttpRequest] = []
        self.databases = [ShakyDatabase(shop.core.db, self.random) for _ in range(2)]
        self.processes = [
            open_shop(one, clock=shop.clock, twins=shop.twins, policy=shop.core.policy) for one in self.databases
        ]
        for process in self.processes:
            self._make_lossy(process)

    def _make_lossy(self, process: Shop) -> None:
        send = process.transport.send

        async def lossy_send(request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
            await asyncio.sleep(self.random.random() * 0.002)
            if self.random.random() < self.losing:
                raise OutcomeUnknown("the request was lost")
            response = await send(request, deadline_seconds=deadline_seconds)
            if self.random.random() < self.losing:
                if self.random.random() < 0.3:
                    return HttpResponse(*_ANSWERS_WITHOUT_SENSE)
                raise OutcomeUnknown("the answer was lost")
            return response

        process.transport.send = lossy_send  # type: ignore[method-assign]

    @property
    def process(self) -> Shop:
        """One of the processes, whichever the request reaches."""
        return self.random.choice(self.processes)

    def tell(self, what: str) -> None:
        self.log.append(f"{self.shop.clock.now() // 1_000_000 % 10_000_000} {what}")

    # ── The weather ──────────

    async def burst(self, size: int) -> None:
        """New orders, then `size` steps at the same time, some of which are killed half way."""
        self.losing = self.random.choice((0.0, 0.0, 0.05, 0.3, 0.7))
        for database in self.databases:
            database.failing = self.random.choice((0.0, 0.0, 0.02, 0.1))
        for _ in range(ORDERS_PER_BURST):
            await self._order()
        await asyncio.gather(*(self._act_and_maybe_die() for _ in range(size)))

    async def _order(self) -> None:
        actor = Actor(f"usr_{len(self.orders) % 5}")
        with contextlib.suppress(SoldOut):
            order = await self.shop.order(*self.random.choice(BASKETS), actor=actor)
            self.orders.append((order, actor))
            if self.random.random() < 0.5:
                # Half of the orders outlive the longer pauses, so that slow and late money meets open orders.
                days = self.random.choice((3, 20))
                now = self.shop.clock.now()
                await self.shop.write(
                    "UPDATE orders SET expires_at = :at WHERE id = :id", id=order.id, at=now + days * _DAY * SECOND
                )

    def let_time_pass(self) -> None:
        seconds = self.random.choice(WAITS_BETWEEN)
        self.tell(f"{seconds} s pass")
        self.shop.clock.pass_seconds(seconds)

    async def _act_and_maybe_die(self) -> None:
        task = asyncio.create_task(self._act())
        if self.random.random() < 0.1:
            await asyncio.sleep(self.random.random() * 0.015)
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _act(self) -> None:
        """One step of anybody; what the shop answers in its own words is fine, anything else is a bug."""
        steps = (
            *(self._buy,) * 8,
            *(self._start,) * 4,
            *(self._agree,) * 5,
            *(self._complete,) * 4,
            *(self._leave, self._wait, self._authenticate),
            *(self._work,) * 3,
            *(self._deliver,) * 4,
            *(self._refund,) * 5,
            *(self._capture_or_release,) * (5 if self._manual else 1),
            *(self._dashboard,) * 6,
        )
        try:
            await self.random.choice(steps)()
        except (Problem, CommitUnknown) as refused:
            self.tell(f"… {type(refused).__name__}")

    @property
    def _manual(self) -> bool:
        return self.shop.core.policy.capture_method == "manual"

    # ── Buyers ──────────

    async def _start(self) -> checkout.Started | None:
        if not self.orders:
            return None
        # Every second time the newest order, so that it has several tabs at both gateways.
        order, actor = self.random.choice((self.orders[-1], self.random.choice(self.orders[-8:])))
        gateway = self.random.choice(("stripe", "paypal"))
        started = await self.process.start(order.id, gateway, actor)
        self.tell(f"start {order.id} {gateway} {started.payment.id}")
        self.started.append((started, actor))
        return started

    async def _buy(self) -> None:
        """A buyer who knows what he wants, and whose browser tells both processes so at once."""
        started = await self._start()
        if started is None:
            return
        self._agree_to(started)
        if self.random.random() < 0.7:
            owner = next(actor for one, actor in self.started if one is started)
            completed = (process.complete(started.payment.id, owner) for process in self.processes)
            for result in await asyncio.gather(*completed, return_exceptions=True):
                if isinstance(result, BaseException) and not isinstance(result, Problem | CommitUnknown):
                    raise result

    async def _agree(self) -> None:
        if self.started:
            self._agree_to(self.random.choice(self.started[-5:])[0])

    def _agree_to(self, started: checkout.Started) -> None:
        if started.payment.gateway == "stripe":
            card = self.random.choice(CARDS)
            status = self.shop.confirm(started, card=card).status
            self.tell(f"confirm {started.payment.id} {card} {status}")
        else:
            funding = self.random.choice(FUNDINGS)
            self.shop.approve(started, funding=funding)
            self.tell(f"approve {started.payment.id} {funding}")

    async def _authenticate(self) -> None:
        for started, _ in self.started[-8:]:
            if started.payment.gateway == "stripe":
                self.shop.authenticate(started)

    async def _complete(self) -> None:
        if self.started:
            started, actor = self.random.choice(self.started[-8:])
            result = await self.process.complete(started.payment.id, actor)
            self.tell(f"complete {started.payment.id} {result.payment.status} unknown={result.unknown}")

    async def _leave(self) -> None:
        if self.started and self.random.random() < 0.6:
            started, actor = self.random.choice(self.started[-8:])
            result = await checkout.cancel(self.process.core, started.payment.id, actor)
            self.tell(f"cancel {started.payment.id} {result.payment.status} unknown={result.unknown}")
        elif self.orders:
            order, actor = self.random.choice(self.orders[-6:])
            self.tell(f"cancel order {order.id} {await checkout.cancel_order(self.process.core, order.id, actor)}")

    # ── Time, workers, webhooks ──────────

    async def _wait(self) -> None:
        seconds = self.random.choice(WAITS_WITHIN)
        self.tell(f"{seconds} s pass")
        self.shop.clock.pass_seconds(seconds)

    async def _work(self) -> None:
        report = await recovery.run_once(self.process.core)
        self.tell(f"recovery {report}")

    async def _deliver(self) -> None:
        """Take what the gateways have to tell, and deliver some of it: now, later, twice, backwards, or never."""
        self.parcels += self.shop.webhooks()
        self.random.shuffle(self.parcels)
        kept = self.parcels[: self.random.choice((0, 1, 5))]
        for parcel in kept if self.random.random() < 0.5 else kept * 2:
            await self._receive(self.process, parcel)
        self.parcels = [one for one in self.parcels if one not in kept or self.random.random() < 0.2]
        if self.random.random() < 0.15:
            self.tell(f"{len(self.parcels)} webhooks are dropped")
            self.parcels.clear()

    async def _receive(self, process: Shop, parcel: HttpRequest) -> None:
        try:
            self.tell(f"webhook {parcel.url} {await process.receive(parcel)}")
        except (WebhookRefused, WebhookUnverifiable):
            self.tell("webhook refused")

    # ── Staff ──────────

    async def _payment(self, *states: str) -> Row | None:
        names = ", ".join(f"'{one}'" for one in states)
        rows = await self.shop.rows(f"SELECT * FROM payments WHERE status IN ({names}) ORDER BY created_at DESC")  # noqa: S608
        return self.random.choice(rows[:6]) if rows else None

    async def _refund(self) -> None:
        payment = await self._payment("captured", "held")
        if payment is None:
            return
        amount = self.random.choice((None, 1, 100, 250, payment["captured_minor"] // 2 or 1))
        key = self.random.choice((None, None, "key-1", "key-2"))
        done = await refunds.refund(
            self.process.core,
            payment["id"],
            STAFF,
            amount_minor=amount,
            restock=self.random.random() < 0.5,
            request_key=key,
        )
        self.tell(f"refund {payment['id']} {amount} {key} {done.refund.id} {done.refund.state} {done.created}")

    async def _capture_or_release(self) -> None:
        payment = await self._payment("authorized", "awaiting_buyer", "processing", "held")
        if payment is None:
            return
        if self.random.random() < 0.7:
            amount = self.random.choice((None, None, payment["amount_minor"], payment["amount_minor"] // 3))
            result = await captures.capture(self.process.core, payment["id"], STAFF, amount_minor=amount)
            self.tell(f"capture {payment['id']} {amount} {result.payment.status} unknown={result.unknown}")
        else:
            result = await captures.release(self.process.core, payment["id"], STAFF)
            self.tell(f"release {payment['id']} {result.payment.status} unknown={result.unknown}")

    # ── The gateways' dashboards ──────────

    def state(self, gateway: str) -> Json:
        """The twin's own memory."""
        state: Json = json.loads(self.shop.twins[gateway].dump())
        return state

    async def _dashboard(self) -> None:
        gateway = self.random.choice(("stripe", "paypal"))
        wanted = self._wanted_at_stripe() if gateway == "stripe" else self._wanted_at_paypal()
        if wanted is None:
            return
        name, params = wanted
        try:
            told = self.shop.control(gateway, name, **params)
        except ValueError as impossible:
            self.tell(f"dashboard {gateway} {name} {params}: {impossible}")
        else:
            self.tell(f"dashboard {gateway} {name} {params}: {told}")

    def _wanted_at_stripe(self) -> tuple[str, Json] | None:
        state = self.state("stripe")
        intent = self._one_of(state["intents"])
        refund = self._one_of(state["refunds"])
        dispute = self._one_of(state["disputes"])
        amount = self.random.choice(({}, {"amount": 100}, {"amount": 700}))
        inquiry = {"inquiry": "true"} if self.random.random() < 0.5 else {}
        choices: list[tuple[str, Json]] = [("pend_next_refund", {})]
        if intent:
            choices += [
                ("dashboard_refund", {"ref": intent, **amount}),
                ("resolve_processing", {"ref": intent, "outcome": self.random.choice(("succeeded", "failed"))}),
                ("expire_authorization", {"ref": intent}),
                ("cancel", {"ref": intent}),
            ]
        if intent and not self._was_lost(state, intent):
            choices.append(("open_dispute", {"ref": intent, **inquiry}))
        if refund:
            choices += [("finish_refund", {"refund": refund}), ("fail_refund", {"refund": refund})]
        if dispute and self._has_room(state, dispute):
            outcome = self.random.choice(("won", "lost"))
            choices += [
                ("escalate_dispute", {"dispute": dispute}),
                ("close_dispute", {"dispute": dispute, "outcome": outcome}),
            ]
        return self.random.choice(choices)

    @staticmethod
    def _has_room(state: Json, dispute: str) -> bool:
        """The bank takes no more than is left of the charge, also where an inquiry was answered by a refund."""
        item = state["disputes"][dispute]["object"]
        charge = state["charges"][item["charge"]]["object"]
        released = charge["amount"] - charge["amount_captured"]
        refunded = charge["amount_refunded"] - released
        return bool(refunded + item["amount"] <= charge["amount_captured"])

    @staticmethod
    def _was_lost(state: Json, intent: str) -> bool:
        """Whether a dispute of the intent was lost already; no bank takes the same money twice."""
        disputes = [one["object"] for one in state["disputes"].values()]
        return any(one["payment_intent"] == intent and one["status"] == "lost" for one in disputes)

    def _wanted_at_paypal(self) -> tuple[str, Json] | None:
        state = self.state("paypal")
        order = self._one_of(state["orders"])
        refund = self._one_of(state["refunds"])
        dispute = self._one_of(state["disputes"])
        amount = self.random.choice(({}, {"amount": "1.00"}, {"amount": "7.00"}))
        choices: list[tuple[str, Json]] = [("pend_refunds", {"on": self.random.choice(("true", "false", "false"))})]
        choices += [("revoke_tokens", {})]
        if order:
            choices += [
                ("dashboard_refund", {"order": order, **amount}),
                ("open_dispute", {"order": order, "stage": self.random.choice(("INQUIRY", "CHARGEBACK"))}),
                ("clear_pending", {"order": order, "status": self.random.choice(("COMPLETED", "DECLINED"))}),
                ("expire_authorization", {"order": order}),
                ("reverse_approval", {"order": order}),
            ]
        if refund:
            choices += [("finish_refund", {"refund": refund}), ("fail_refund", {"refund": refund})]
        if dispute:
            outcome = self.random.choice(("won", "lost"))
            choices += [
                ("escalate_dispute", {"dispute": dispute}),
                ("close_dispute", {"dispute": dispute, "outcome": outcome}),
            ]
        return self.random.choice(choices)

    def _one_of(self, records: Json) -> str | None:
        return self.random.choice(list(records)[-6:]) if records else None

    # ── Afterwards ──────────

    async def calm_down(self) -> None:
        """Nothing is lost any more, banks decide what is open, and days pass with nobody but recovery at work."""
        self.tell("calm")
        self.losing = 0.0
        for database in self.databases:
            database.failing = 0.0
        self.parcels += self.shop.webhooks()
        for parcel in reversed(self.parcels):
            await self._receive(self.shop, parcel)
        for number, seconds in enumerate(CALM_WAITS):
            if 3 <= number < len(CALM_WAITS) - 2:
                self._decide_what_is_open()
            await self._recover_by_two(seconds)

    async def _recover_by_two(self, seconds: int) -> None:
        self.shop.clock.pass_seconds(seconds)
        works: list[Awaitable[recovery.Report]] = [recovery.drain(process.core) for process in self.processes]
        for report in await asyncio.gather(*works):
            self.tell(f"recovery after {seconds} s {report}")

    def _decide_what_is_open(self) -> None:
        """Banks and gateways end what waits for them: disputes, refunds, slow money."""
        self.shop.control("paypal", "pend_refunds", on="false")
        for gateway in ("stripe", "paypal"):
            for ref in self.state(gateway)["disputes"]:
                if gateway == "paypal" or self._has_room(self.state("stripe"), ref):
                    self._try(gateway, "close_dispute", dispute=ref, outcome=self.random.choice(("won", "lost")))
                else:
                    self._try(gateway, "close_dispute", dispute=ref, outcome="won")
            for ref in self.state(gateway)["refunds"]:
                self._try(gateway, "finish_refund", refund=ref)
        if self.random.random() < 0.5:
            for ref in self.state("stripe")["intents"]:
                self._try("stripe", "resolve_processing", ref=ref, outcome=self.random.choice(("succeeded", "failed")))

    def _try(self, gateway: str, name: str, **params: object) -> None:
        try:
            told = self.shop.control(gateway, name, **params)
        except ValueError:
            return
        self.tell(f"dashboard {gateway} {name} {params}: {told}")
