"""A shop, its gateways and everybody around them, in one thread: what can be done, and what is checked after it.

A world obeys moves. The same setup and the same moves always give the same run, whoever chose them: a seed, an
exhaustive walk, Hypothesis, or a person with a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from paidonce import captures, checkout, inbox, notes, recovery, refunds
from paidonce.core import Actor, Core, Policy
from paidonce.db.inline import InlineSqlite
from paidonce.errors import Problem, WebhookRefused, WebhookUnverifiable
from paidonce.gateways.base import CaptureMethod, HttpRequest, Provider, SandboxCore, WebhookEvent
from paidonce.gateways.registry import providers
from paidonce.inbox import Received
from paidonce.money import Money
from paidonce.ports import SECOND, Microseconds, Transaction
from paidonce.prove.cast import Cast, cast_of, resolve
from paidonce.prove.checks import Violation, Watch
from paidonce.prove.engine import (
    Books,
    Engine,
    SimClock,
    SimDatabase,
    SimIds,
    SimTransport,
    Task,
    WatchedGateway,
    is_allowed,
)
from paidonce.sandbox.app import SandboxTransport
from paidonce.sandbox.mounts import sandbox_environment
from paidonce.states import OrderStatus
from paidonce.store import OrderView, SqlStore

Move = tuple[Any, ...]

SANDBOX_URL = "http://127.0.0.1:9"
SHOP_URL = "http://127.0.0.1:8000"
BEGAN: Microseconds = 1_790_000_000 * SECOND
_HOUR, _DAY = 3600, 24 * 3600

BUYERS = (Actor("usr_ann"), Actor("usr_bob"), Actor("usr_cas"))
STRANGER = Actor("usr_eve")
STAFF = Actor("usr_sam", is_staff=True)
# Forint have two decimals, which not every gateway takes; yen have none, nor has the krona, which some count with two.
GOODS = (
    ("lamp", 4950, 2, "EUR"),
    ("mug", 1999, 4, "EUR"),
    ("pen", 250, 60, "EUR"),
    ("book", 450_000, 9, "HUF"),
    ("fan", 1500, 9, "JPY"),
    ("fish", 2000, 9, "ISK"),
    ("gift", 0, 5, "EUR"),
)
BASKETS = (
    (("mug", 1),),
    (("lamp", 1),),
    (("pen", 4), ("mug", 2)),
    (("lamp", 2), ("pen", 1)),
    (("mug", 4),),
    (("book", 1),),
    (("fan", 1),),
    (("fish", 1),),
    (("gift", 1),),
)
AMOUNTS = (None, 1, 100, 250, 1999)
REQUEST_KEYS = (None, None, "key-1", "key-2")
# What passes once nobody makes faults any more; banks decide from the second on.
CALM_WAITS = (8_000, _DAY, 2 * _DAY, 3 * _DAY, 7 * _DAY)
MANUAL_CALM_WAITS = (*CALM_WAITS, 15 * _DAY, 15 * _DAY)  # Until money that nobody captured is let go.
LONG_CALM_WAITS = (*MANUAL_CALM_WAITS, 40 * _DAY)
_FIRST_DECISION = 1
_CALM_STEPS = 100_000
CALM = "— all faults stop —"  # The line of a story behind which no faults are.


@dataclass(frozen=True, slots=True)
class Setup:
    """How a world begins, and how it is left alone in the end."""

    manual: bool = False  # Staff capture by hand what confirming has reserved.
    webhooks_at_last: bool = False  # What was not delivered arrives once all is calm, backwards.
    verdict: int = 0  # How banks decide: one of their choices.
    calm: bool = True  # Whether all faults stop in the end, so that everything has to find its place.
    audits: bool = True  # Whether captured payments are read again after days, to find what dashboards did.
    long: bool = False  # Weeks may pass before the calm, and the calm lasts for months.


@dataclass(frozen=True, slots=True)
class Tab:
    """A browser's tab on the pay page: what `checkout.start` gave it."""

    payment_id: str
    order: int
    gateway: str
    client: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Known:
    """An order that its buyer knows of."""

    id: str
    buyer: Actor


class Stage:
    """What is built once and used by world after world: the database file, the twins, the gateways' settings."""

    def __init__(self, path: Path, books: Books | None = None) -> None:
        """`path` is a SQLite file with the schema. `books` is another database in its place."""
        self.sqlite = None if books is not None else InlineSqlite(path)
        self.books: Books = books if books is not None else self._own()
        self.providers: list[Provider] = []
        self.twins: dict[str, SandboxCore] = {}
        self.casts: dict[str, Cast] = {}
        for provider in providers({}):
            self._hire(provider)
        # Saved stories and tests number the gateways, so one that joined later has to come behind those.
        self.names = tuple(sorted(self.twins, key=lambda name: getattr(self.casts[name], "joined", 0)))
        self.environment = sandbox_environment(SANDBOX_URL, self.providers)
        self._empty = {name: self._with_keys(twin) for name, twin in self.twins.items()}

    def _own(self) -> InlineSqlite:
        assert self.sqlite is not None
        return self.sqlite

    def _hire(self, provider: Provider) -> None:
        twin = provider.sandbox(SANDBOX_URL)
        cast = None if twin is None else cast_of(provider, twin)
        if twin is not None and cast is not None:
            self.providers.append(provider)
            self.twins[provider.name] = twin
            self.casts[provider.name] = cast

    @staticmethod
    def _with_keys(twin: SandboxCore) -> str:
        twin.take_webhooks(now=BEGAN)
        return twin.dump()

    def reset(self) -> None:
        """Empty twins and, where the database is the stage's own, empty tables."""
        for name, twin in self.twins.items():
            twin.load(self._empty[name])
        if self.sqlite is not None:
            self.sqlite.begin_anew()
        self.books.write(_stock_up)

    def close(self) -> None:
        """Close the database."""
        if self.sqlite is not None:
            self.sqlite.close()


class World:
    """One run. `act` carries out a move; `calm_down` ends all faults and lets weeks pass. Both raise `Violation`."""

    def __init__(self, stage: Stage, setup: Setup, faults: Mapping[int, str] | None = None) -> None:
        """`faults` says how certain ports end, by their number in the run, whatever the moves say."""
        stage.reset()
        self.stage = stage
        self.setup = setup
        self.faults = dict(faults or {})
        self.engine = Engine(stage.books, BEGAN)
        self.engine.liar = lambda name, answer, about: stage.casts[name.partition(".")[0]].lie(answer, about)
        self.engine.on_refund = self._sends_refund
        self.watch = Watch(stage.books)
        self.clock, self.ids = SimClock(self.engine), SimIds(self.engine)
        self.store = SqlStore()
        self.policy = Policy(
            capture_method=CaptureMethod.MANUAL if setup.manual else CaptureMethod.AUTOMATIC,
            pending_hold_seconds=3 * _DAY,
            audit_days=_audits(setup),
            parked_seconds=_DAY,
        )
        self.processes: dict[int, Core] = {}
        self.orders: list[Known] = []
        self.tabs: list[Tab] = []
        self.parcels: list[HttpRequest] = []
        self.outages: dict[str, str] = {}
        self.calm = False

    # ── Processes ──────────

    def core(self, process: int) -> Core:
        """The core in one of the processes, begun anew after each crash."""
        if process not in self.processes:
            self.processes[process] = self._begin()
        return self.processes[process]

    def _begin(self) -> Core:
        inner = SandboxTransport(self.stage.twins, self.clock, SANDBOX_URL)
        transport = SimTransport(self.engine, inner, self._saw_request)
        gateways: dict[str, Any] = {}
        for provider in self.stage.providers:
            gateway = provider.configure(self.stage.environment, transport, self.clock)
            assert gateway is not None, "the sandbox's own settings are complete"
            gateways[provider.name] = WatchedGateway(self.engine, gateway, self.stage.casts[provider.name].calls)
        database = SimDatabase(self.engine)
        return notes.hand_out(Core(database, gateways, self.store, self.clock, self.ids, self.policy))

    def _saw_request(self, request: HttpRequest) -> None:
        name = request.url.removeprefix(SANDBOX_URL + "/").partition("/")[0]
        cast = self.stage.casts[name]
        self.watch.saw_request(request, cast.key_header, cast.keyless)

    def _sends_refund(self, task: Task, ref: str) -> None:
        # What staff ask for may meet a dispute between their request and its call.
        by_staff = task.label.startswith("staff")
        self.watch.sends_refund(ref, task.began_at if by_staff else task.committed_at)

    def crash(self, process: int) -> None:
        """Kill a process; the next action there finds a new one."""
        self.engine.tell(f"process {process} is killed")
        self.engine.kill(process)
        self.processes.pop(process, None)

    # ── Moving ──────────

    def act(self, move: Move) -> None:
        """Carry out one move; one that means nothing here changes nothing. Raises `Violation`."""
        verb, *args = move
        done: Callable[..., None] = getattr(self, f"_do_{verb}")
        done(*args)

    def run(self, moves: Sequence[Move]) -> None:
        """All moves, then the calm if the setup has one. Raises `Violation`."""
        for move in moves:
            self.act(move)
        self.end()

    def end(self) -> None:
        """The calm if the setup has one; at least what somebody was told has to be true. Raises `Violation`."""
        if self.setup.calm:
            self.calm_down()
        else:
            self.watch.kept()

    def digest(self) -> str:
        """A hash of the whole story: equal for equal runs."""
        return hashlib.sha256("\n".join(self.engine.told).encode()).hexdigest()[:16]

    def _go(self, task: Task, fate: str = "") -> None:
        """One port of a task, and what has to be true after it."""
        engine = self.engine
        port = task.waiting
        commit = port is not None and port.kind == "commit"
        refund = port is not None and port.kind == "send" and port.name.endswith(".refund")
        if not self.calm:
            fate = self.faults.get(engine.steps, fate) or self._outage(task)
        if port is not None and port.name == _BUG:
            raise Violation("I10", f"{task.label} met a bug, and sets aside what it worked on")
        if engine.step(task, fate):
            self.crash(task.process)
        if commit:
            self.watch.safety()
            self.watch.leased(task.lease_of or task.number, engine.now)
        if refund:
            self._refunds_once()
        if task.over and not task.killed:
            self._end(task)

    def _outage(self, task: Task) -> str:
        if task.waiting is None or task.waiting.kind != "send":
            return ""
        return self.outages.get(task.waiting.name.partition(".")[0], "")

    def _end(self, task: Task) -> None:
        engine, error = self.engine, task.error
        if error is None:
            if task.must_be_refused:
                raise Violation("I8", f"nobody refused: {task.label}")
            if task.then is not None:
                task.then(task.result)
            return
        engine.tell(f"#{task.number} ended: {type(error).__name__}: {error}")
        if isinstance(error, Violation):
            raise error
        if not is_allowed(error, Problem, WebhookRefused, WebhookUnverifiable):
            raise Violation("I10", f"{task.label} ended in {type(error).__name__}: {error}") from error

    def _spawn(
        self,
        label: str,
        process: int,
        coroutine: Coroutine[Any, Any, Any],
        then: Callable[[Any], None] | None = None,
        *,
        must_be_refused: bool = False,
        lease_of: int = 0,
    ) -> None:
        task = self.engine.spawn(label, process, coroutine, then, must_be_refused=must_be_refused)
        task.lease_of = lease_of
        if task.over:
            self._end(task)

    def _do_go(self, number: int, steps: int, fate: str = "") -> None:
        """Let one of the tasks go on for some ports; the last of them ends with `fate`."""
        tasks = self.engine.tasks
        if not tasks:
            return
        task = tasks[number % len(tasks)]
        for left in range(steps, 0, -1):
            if task.over:
                return
            self._go(task, fate if left == 1 else "")

    def _do_go_to(self, where: str) -> None:
        """Let the first task go on until it waits for a port of this kind, or for one of a call with this name."""
        for _ in range(_CALM_STEPS):
            port = self.engine.tasks[0].waiting if self.engine.tasks else None
            if port is None or port.kind == where or (port.kind == "send" and port.name.endswith(f".{where}")):
                return
            self._go(self.engine.tasks[0])

    def finish(self) -> None:
        """Let all tasks come to their ends, one after the other."""
        for _ in range(_CALM_STEPS):
            tasks = self.engine.tasks
            if not tasks:
                return
            # One that sleeps may be waiting for what another one is about to do.
            self._go(next((one for one in tasks if one.waiting is not None and one.waiting.kind != "sleep"), tasks[0]))
        raise Violation("I9", f"{self.engine.tasks[0].label} does not end")

    # ── Buyers ──────────

    def _do_order(self, buyer: int, basket: int, process: int = 0) -> None:
        actor, lines = BUYERS[buyer % len(BUYERS)], BASKETS[basket % len(BASKETS)]
        core = self.core(process)
        create = core.db.transaction(
            self.store.create_order, ids=core.ids, user_id=actor.user_id, lines=lines, now=self.engine.now
        )
        words = ", ".join(f"{quantity} {sku}" for sku, quantity in lines)
        self._spawn(f"{_who(actor)} orders {words}", process, create, partial(self._ordered, actor))

    def _ordered(self, actor: Actor, order: OrderView) -> None:
        self.orders.append(Known(order.id, actor))
        self.watch.promise("a new order", order.id, order.id)

    def _do_start(self, order: int, gateway: int, process: int = 0) -> None:
        if not self.orders:
            return
        number, name = order % len(self.orders), self.stage.names[gateway % len(self.stage.names)]
        known = self.orders[number]
        label = f"{_who(known.buyer)} starts to pay {short(known.id)} by {name}"
        self._spawn(label, process, self._start(process, known.id, name, known.buyer), partial(self._started, number))

    def _start(self, process: int, order_id: str, gateway: str, actor: Actor) -> Coroutine[Any, Any, checkout.Started]:
        back = f"{SHOP_URL}/orders/{order_id}/return?payment={{payment}}"
        stay = f"{SHOP_URL}/orders/{order_id}/pay"
        return checkout.start(self.core(process), order_id, gateway, actor, return_url=back, cancel_url=stay)

    def _started(self, order: int, started: checkout.Started) -> None:
        self.watch.goods_are_kept(started.payment.order_id, since=self.engine.now - self.policy.hold_seconds * SECOND)
        self.tabs.append(Tab(started.payment.id, order, started.payment.gateway, dict(started.client)))
        self.engine.tell(f"  the pay page shows {short(started.payment.id)}")

    def _do_agree(self, tab: int, way: int) -> None:
        if not self.tabs:
            return
        page = self.tabs[tab % len(self.tabs)]
        cast = self.stage.casts[page.gateway]
        done = cast.ways[way % len(cast.ways)]
        told = cast.agree(page.client, done, now=self.engine.now)
        buyer = _who(self.orders[page.order].buyer)
        self.engine.tell(f"{buyer} {done} at {page.gateway} for {short(page.payment_id)}: {told}")

    def _do_agree_as(self, tab: int, way: str) -> None:
        """Like `agree`, by the name of what the buyer does."""
        if self.tabs:
            ways = self.stage.casts[self.tabs[tab % len(self.tabs)].gateway].ways
            if way in ways:
                self._do_agree(tab, ways.index(way))

    def _do_complete(self, tab: int, process: int = 0) -> None:
        if not self.tabs:
            return
        page = self.tabs[tab % len(self.tabs)]
        actor = self.orders[page.order].buyer
        label = f"{_who(actor)}'s browser comes back for {short(page.payment_id)}"
        self._spawn(label, process, checkout.complete(self.core(process), page.payment_id, actor), self._heard)

    def _heard(self, result: checkout.Result) -> None:
        """What a buyer was told has to stay true."""
        payment, status = result.payment, str(result.payment.status)
        self.engine.tell(f"  told: {short(payment.id)} is {status}, the order {result.order_status}")
        if result.unknown:
            return
        if status in ("captured", "failed", "canceled"):
            self.watch.promise("payment", payment.id, status)
        if result.order_status == "paid":
            self.watch.promise("order", payment.order_id, "paid")

    def _do_cancel(self, tab: int, process: int = 0) -> None:
        if not self.tabs:
            return
        page = self.tabs[tab % len(self.tabs)]
        actor = self.orders[page.order].buyer
        label = f"{_who(actor)} cancels {short(page.payment_id)}"
        self._spawn(label, process, checkout.cancel(self.core(process), page.payment_id, actor), self._heard)

    def _do_cancel_order(self, order: int, process: int = 0) -> None:
        if not self.orders:
            return
        known = self.orders[order % len(self.orders)]
        label = f"{_who(known.buyer)} cancels the order {short(known.id)}"
        self._spawn(label, process, checkout.cancel_order(self.core(process), known.id, known.buyer))

    def _do_stranger(self, what: int, number: int, process: int = 0) -> None:
        """Somebody tries another buyer's ids: refused, and nothing written."""
        if not self.tabs:
            return
        page, core = self.tabs[number % len(self.tabs)], self.core(process)
        order = self.orders[page.order].id
        tries: tuple[tuple[str, Callable[[], Coroutine[Any, Any, Any]]], ...] = (
            ("completes", lambda: checkout.complete(core, page.payment_id, STRANGER)),
            ("cancels", lambda: checkout.cancel(core, page.payment_id, STRANGER)),
            ("looks at", lambda: checkout.get_payment(core, page.payment_id, STRANGER)),
            ("pays", lambda: self._start(process, order, page.gateway, STRANGER)),
            ("cancels the order of", lambda: checkout.cancel_order(core, order, STRANGER)),
            ("refunds", lambda: refunds.refund(core, page.payment_id, STRANGER)),
            ("captures", lambda: captures.capture(core, page.payment_id, STRANGER)),
            ("releases", lambda: captures.release(core, page.payment_id, STRANGER)),
        )
        word, begin = tries[what % len(tries)]
        self.finish()
        before = self._everything()
        self._spawn(f"a stranger {word} {short(page.payment_id)}", process, begin(), must_be_refused=True)
        self.finish()
        if self._everything() != before:
            raise Violation("I8", f"a stranger who {word} {short(page.payment_id)} was refused, yet rows have changed")

    def _everything(self) -> list[tuple[Any, ...]]:
        return self.stage.books.rows(
            "SELECT id, status, updated_at FROM orders UNION ALL SELECT id, status, updated_at FROM payments"
            " UNION ALL SELECT 'inbox', '', count(*) FROM inbox UNION ALL SELECT 'outbox', '', count(*) FROM outbox"
            " UNION ALL SELECT 'journal', '', count(*) FROM journal_entries"
            " UNION ALL SELECT 'hold', sku, sum(quantity) FROM holds GROUP BY sku"
            " UNION ALL SELECT sku, on_hand, held FROM stock"
            " UNION ALL SELECT 'operation', state, count(*) FROM operations GROUP BY state"
            " UNION ALL SELECT 'refund', state, count(*) FROM refunds GROUP BY state"
            " UNION ALL SELECT 'history', '', count(*) FROM history ORDER BY 1, 2, 3"
        )

    # ── Webhooks ──────────

    def _do_deliver(self, number: int, copies: int = 1, keep: bool = False, process: int = 0) -> None:
        """Deliver one of the webhooks that are out, at the same time in `copies`; `keep` it to be repeated later."""
        self._collect()
        if not self.parcels:
            return
        parcel = self.parcels[number % len(self.parcels)]
        for copy in range(copies):
            self._post(parcel, process, keep=keep or copy + 1 < copies)

    def _collect(self) -> None:
        for twin in self.stage.twins.values():
            self.parcels += twin.take_webhooks(now=self.engine.now)

    def _post(self, parcel: HttpRequest, process: int, *, keep: bool) -> None:
        core, name = self.core(process), parcel.url.rsplit("/", 1)[1]
        label = f"{name} delivers a webhook ({hashlib.sha256(parcel.body).hexdigest()[:6]})"
        number = self.engine.started + 1
        then = partial(self._received, parcel, process, keep, number)
        self._spawn(label, process, self._receive(core, name, parcel), then)

    async def _receive(self, core: Core, name: str, parcel: HttpRequest) -> tuple[WebhookEvent, Received]:
        """What the shop's endpoint does before it answers."""
        headers = {key.lower(): value for key, value in parcel.headers.items()}
        event = await core.gateways[name].read_webhook(headers, parcel.body)
        self.watch.claims[event.id] = event.progress
        return event, await inbox.receive(core, event)

    def _received(
        self, parcel: HttpRequest, process: int, keep: bool, number: int, told: tuple[WebhookEvent, Received]
    ) -> None:
        event, received = told
        self.engine.tell(f"  answered 200: {received.outcome}")
        # What nobody signed has no row of its own where one that says the same still waits for its reading.
        joined = not event.signed and received.outcome == "known"
        if received.outcome != "ignored" and not joined:
            self.watch.promise("event", event.id, event.id)
        elif event.relevant and event.signed:
            raise Violation("I7", f"news of {event.type} was thrown away")
        if not keep and parcel in self.parcels:
            self.parcels.remove(parcel)
        if received.lease is not None:
            work = recovery.process_event(self.core(process), received.lease)
            self._spawn("the webhook's work behind its answer", process, work, lease_of=number)

    def _do_drop(self, number: int) -> None:
        """Webhooks are lost for ever."""
        self._collect()
        del self.parcels[: number + 1]

    def _do_forge(self, number: int, what: int, process: int = 0) -> None:
        """A webhook whose body or signature was changed: refused, and nothing written."""
        self._collect()
        if not self.parcels:
            return
        parcel = self.parcels[number % len(self.parcels)]
        middle = len(parcel.body) // 2
        bodies = (parcel.body[:middle] + b" " + parcel.body[middle:], parcel.body + b" ", b"{}")
        forged = HttpRequest(parcel.method, parcel.url, parcel.headers, bodies[what % len(bodies)])
        self.finish()
        before = self._everything()
        name = parcel.url.rsplit("/", 1)[1]
        self._spawn(
            f"somebody forges a webhook of {name}",
            process,
            self._receive(self.core(process), name, forged),
            must_be_refused=True,
        )
        self.finish()
        if self._everything() != before:
            raise Violation("I8", "a forged webhook was refused, yet rows have changed")

    # ── Staff, workers, the shop ──────────

    def _do_recover(self, process: int = 1) -> None:
        self._spawn("a worker looks for what is due", process, recovery.run_once(self.core(process)))

    def _payment(self, number: int) -> str | None:
        found = self.stage.books.rows("SELECT id FROM payments ORDER BY created_at, id")
        return str(found[number % len(found)][0]) if found else None

    def _do_refund(self, payment: int, amount: int, restock: bool, key: int, process: int = 0) -> None:
        payment_id = self._payment(payment)
        if payment_id is None:
            return
        minor, request_key = AMOUNTS[amount % len(AMOUNTS)], REQUEST_KEYS[key % len(REQUEST_KEYS)]
        self.watch.refunds_asked += 1
        refund = refunds.refund(
            self.core(process), payment_id, STAFF, amount_minor=minor, restock=restock, request_key=request_key
        )
        label = f"staff refund {'all' if minor is None else minor} of {short(payment_id)}"
        self._spawn(label, process, refund, self._refunded)

    def _refunded(self, done: refunds.RefundResult) -> None:
        self.engine.tell(f"  told: refund {short(done.refund.id)} of {done.refund.amount} is {done.refund.state}")
        self.watch.promise("refund", done.refund.id, str(done.refund.amount.minor))
        if done.refund.state == "failed":
            self.watch.promise("the state of refund", done.refund.id, "failed")

    def _do_capture(self, payment: int, amount: int, process: int = 0) -> None:
        payment_id = self._payment(payment)
        if payment_id is None:
            return
        minor = AMOUNTS[amount % len(AMOUNTS)]
        capture = captures.capture(self.core(process), payment_id, STAFF, amount_minor=minor)
        label = f"staff capture {'all' if minor is None else minor} of {short(payment_id)}"
        self._spawn(label, process, capture, self._heard)

    def _do_release(self, payment: int, process: int = 0) -> None:
        payment_id = self._payment(payment)
        if payment_id is None:
            return
        release = captures.release(self.core(process), payment_id, STAFF)
        self._spawn(f"staff release {short(payment_id)}", process, release, self._heard)

    def _do_stock(self, sku: int, adjust: int, process: int = 0) -> None:
        core, name = self.core(process), GOODS[sku % len(GOODS)][0]
        change = core.db.transaction(
            self.store.adjust_stock, sku=name, adjust=adjust, actor=STAFF.user_id, now=self.engine.now
        )
        self._spawn(f"staff change the stock of {name} by {adjust}", process, change)

    def _do_discount(self, order: int, process: int = 0) -> None:
        """The shop lowers the price of an order that is still open, as its own code might."""
        if not self.orders:
            return
        known = self.orders[order % len(self.orders)]
        core = self.core(process)
        self._spawn(f"the shop lowers {short(known.id)} by 1", process, core.db.transaction(_lower_by_one, known.id))

    def _do_shop_cancel(self, order: int, process: int = 0) -> None:
        """The shop's own code cancels an order that is not paid, whatever payments are under way."""
        if not self.orders:
            return
        known = self.orders[order % len(self.orders)]
        self.watch.closed_by_shop.add(known.id)
        cancel = self.core(process).db.transaction(self._cancel_by_shop, known.id)
        self._spawn(f"the shop itself cancels {short(known.id)}", process, cancel)

    async def _cancel_by_shop(self, tx: Transaction, order_id: str) -> None:
        found = await self.store.find(tx, order_id, lock=True)
        if found is not None and found.status in (OrderStatus.OPEN, OrderStatus.PENDING):
            await self.store.release(tx, order_id)
            await self.store.mark(tx, found, OrderStatus.CANCELED, now=self.engine.now)

    # ── Banks, time, disasters ──────────

    def _do_bank(self, gateway: int, control: str, params: Mapping[str, str]) -> None:
        name = self.stage.names[gateway % len(self.stage.names)]
        cast = self.stage.casts[name]
        resolved = resolve(cast, params)
        if resolved is None:
            return
        told = cast.happen(control, resolved, now=self.engine.now)
        self.engine.tell(f"at {name}: {control} {' '.join(resolved.values())}: {told}")

    def _do_happen(self, gateway: int, control: str, which: int = 0) -> None:
        """Like `bank`, of the things that could happen now the `which`-th with this name."""
        name = self.stage.names[gateway % len(self.stage.names)]
        able = [params for can, params in self.stage.casts[name].happenings() if can == control]
        if able:
            self._do_bank(gateway, control, able[which % len(able)])

    def _do_wait(self, seconds: int) -> None:
        self.engine.tell(f"{seconds} s pass")
        self.engine.now += seconds * SECOND

    def _do_crash(self, process: int) -> None:
        self.crash(process)

    def _do_outage(self, gateway: int, fate: str) -> None:
        """From now on every call to the gateway ends like this; empty: no more."""
        name = self.stage.names[gateway % len(self.stage.names)]
        self.engine.tell(f"calls to {name}: {fate or 'all well'}")
        self.outages[name] = fate

    def _do_must_not_be_paid(self) -> None:
        """The gateway has lied: nothing may be paid by that."""
        self.finish()
        self.watch.not_paid()

    def _do_must_be_paid(self) -> None:
        """The buyers have agreed and nothing went wrong: every order has to be paid by now."""
        self.finish()
        self.watch.not_settled()

    def _do_must_be(self, status: str) -> None:
        """After all that was said and done every payment has to be this."""
        self.finish()
        self.watch.all_are(status)

    def _do_must_agree(self) -> None:
        """All news has arrived: our books say by now what the gateways' say."""
        self.finish()
        self.watch.compare(self.stage.twins)

    def _do_must_be_returned(self) -> None:
        """Nothing is in the way any more: money that found no order is back with its buyer."""
        self.finish()
        self.watch.returned()

    def _do_must_be_told(self) -> None:
        """A gateway has been out of reach for hours: an operator must have heard of it."""
        self.finish()
        self.watch.told()

    def _do_finish(self) -> None:
        self.finish()

    # ── The calm ──────────

    def calm_down(self) -> None:
        """No more faults: everybody comes to an end, and weeks pass with nobody but recovery and banks at work."""
        self.calm = True
        self.engine.tell(CALM)
        self.outages.clear()
        self.finish()
        if self.setup.webhooks_at_last:
            self._collect()
            for parcel in reversed(self.parcels[:]):
                self._post(parcel, 0, keep=False)
                self.finish()
        for number, seconds in enumerate(self._waits()):
            if number >= _FIRST_DECISION:
                self._no_strays(after_a_day=number > _FIRST_DECISION)
                self._let_banks_decide()
                if self._is_idle():
                    break
            self._do_wait(seconds)
            if self._is_due():
                self._spawn("a worker looks for all that is due", 1, recovery.drain(self.core(1)))
                self.finish()
        self.watch.safety()
        self._no_strays(after_a_day=True)
        self.watch.liveness(self.stage.twins)

    def _no_strays(self, *, after_a_day: bool) -> None:
        live = {payment: how for cast in self.stage.casts.values() for payment, how in cast.live().items()}
        self.watch.voids_are_made(self.engine.now - _DAY * SECOND // 2, live)
        self.watch.nothing_stray(live, after_a_day=after_a_day)

    def _refunds_once(self) -> None:
        for cast in self.stage.casts.values():
            self.watch.once(cast.refunds_of_ours())

    def _is_due(self) -> bool:
        """Whether a worker could find anything. Wrong about that, it would only leave something that waits for ever."""
        return bool(self.stage.books.rows(_DUE_NOW.format(now=self.engine.now)))

    def _waits(self) -> tuple[int, ...]:
        if self.setup.long:
            return LONG_CALM_WAITS
        return MANUAL_CALM_WAITS if self.setup.manual else CALM_WAITS

    def _is_idle(self) -> bool:
        """Nothing is due, now or ever."""
        return not self.stage.books.rows(_DUE)

    def _let_banks_decide(self) -> None:
        for number, name in enumerate(self.stage.names):
            cast, about = self.stage.casts[name], set()
            for control, params in self._sorted(cast.decisions()):
                subject = next((value for value in params.values() if value.startswith("#")), control)
                if (control, subject) not in about:
                    about.add((control, subject))
                    self._do_bank(number, control, params)

    def _sorted(self, decisions: Sequence[tuple[str, Mapping[str, str]]]) -> list[tuple[str, Mapping[str, str]]]:
        """The verdict chooses which of several ends comes first, and so wins."""
        return list(decisions) if self.setup.verdict % 2 == 0 else list(reversed(decisions))


async def _stock_up(tx: Transaction) -> None:
    for position, (sku, price, on_hand, currency) in enumerate(GOODS):
        await SqlStore().add_product(
            tx,
            sku=sku,
            name=sku.title(),
            description="",
            image="",
            price=Money(price, currency),
            on_hand=on_hand,
            position=position,
            now=BEGAN,
        )


_BUG = "recovery._set_aside"
_DUE = (
    "SELECT id FROM payments WHERE due_at IS NOT NULL UNION ALL SELECT id FROM inbox WHERE due_at IS NOT NULL"
    " UNION ALL SELECT id FROM orders WHERE status IN ('open', 'pending') UNION ALL SELECT order_id FROM holds LIMIT 1"
)


async def _lower_by_one(tx: Transaction, order_id: str) -> None:
    rows = await tx.fetch_all("SELECT id, status, total_minor FROM orders WHERE id = :id", {"id": order_id}, lock=True)
    if not rows or rows[0]["status"] != "open" or rows[0]["total_minor"] < 2:
        return
    await tx.execute(
        "UPDATE orders SET total_minor = total_minor - 1, due_minor = due_minor - 1 WHERE id = :id", {"id": order_id}
    )


_DUE_NOW = (
    "SELECT id FROM payments WHERE due_at <= {now} UNION ALL SELECT id FROM inbox WHERE due_at <= {now} UNION ALL"
    " SELECT order_id FROM holds WHERE expires_at <= {now} UNION ALL"
    " SELECT id FROM orders WHERE status = 'open' AND expires_at <= {now} LIMIT 1"
)


def _audits(setup: Setup) -> tuple[int, ...]:
    if not setup.audits:
        return ()
    return (2, 60) if setup.long else (2,)


def _who(actor: Actor) -> str:
    return actor.user_id.removeprefix("usr_").title()


def short(name: str) -> str:
    """An id without the filling behind its number."""
    return name.rstrip("x")
