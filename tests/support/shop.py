"""A whole shop in one process: the production core and gateways on a real database, paying at the sandbox's twins.

Only the socket between client and twin is left out, so that a test can lose an answer at an exact moment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from paidonce import checkout, inbox, notes, recovery, refunds
from paidonce.core import Actor, Core, Policy
from paidonce.errors import OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.registry import configure_all
from paidonce.money import Money
from paidonce.ports import SECOND, Database, RandomIds, Row, SystemClock, Transaction
from paidonce.sandbox.app import SandboxTransport, sandbox_environment
from paidonce.store import OrderView, SqlStore

SANDBOX_URL = "http://127.0.0.1:9"
SHOP_URL = "http://127.0.0.1:8000"
BUYER = Actor("usr_buyer")
STRANGER = Actor("usr_stranger")
STAFF = Actor("usr_staff", is_staff=True)


class ShiftedClock:
    """The real clock, which a test can move forward; sleeping takes no time."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.shift = 0
        self.slept: list[float] = []

    def now(self) -> int:
        return self._clock.now() + self.shift

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.shift += int(seconds * SECOND)
        # Whoever polls must let others do what it waits for.
        await asyncio.sleep(0)

    def pass_seconds(self, seconds: int) -> None:
        self.shift += seconds * SECOND


Fault = Callable[[HttpRequest, HttpResponse], HttpResponse]


@dataclass
class WatchedTransport:
    """Passes requests to the twins, keeps what went out, and lets a test tamper with answers."""

    inner: SandboxTransport
    sent: list[HttpRequest] = field(default_factory=list)
    faults: list[tuple[str, str, Fault]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        self.sent.append(request)
        if any(request.method == method and part in request.url for method, part in self.lost):
            raise OutcomeUnknown("the request was lost")
        response = await self.inner.send(request, deadline_seconds=deadline_seconds)
        for method, part, fault in self.faults:
            if request.method == method and part in request.url:
                return fault(request, response)
        return response

    async def close(self) -> None:
        await self.inner.close()

    def calls(self, method: str, part: str) -> list[HttpRequest]:
        return [one for one in self.sent if one.method == method and part in one.url]

    def lose_answers(self, method: str, part: str) -> None:
        """The gateway carries the request out, and its answer never arrives."""

        def lose(request: HttpRequest, response: HttpResponse) -> HttpResponse:
            raise OutcomeUnknown("the answer was lost")

        self.faults.append((method, part, lose))

    def lose_requests(self, method: str, part: str) -> None:
        """The request never reaches the gateway, which nobody can tell from a lost answer."""
        self.lost.append((method, part))

    def heal(self) -> None:
        self.faults.clear()
        self.lost.clear()


@dataclass
class Shop:
    """The core with its parts in reach, and a buyer who acts at the gateways."""

    core: Core
    clock: ShiftedClock
    transport: WatchedTransport
    twins: dict[str, Any]

    # ── What a buyer does ──────────

    async def order(self, *lines: tuple[str, int], actor: Actor = BUYER) -> OrderView:
        return await self.core.db.transaction(
            self.store.create_order,
            ids=self.core.ids,
            user_id=actor.user_id,
            lines=lines or (("mug", 1),),
            now=self.clock.now(),
        )

    async def start(self, order_id: str, gateway: str, actor: Actor = BUYER) -> checkout.Started:
        return await checkout.start(
            self.core,
            order_id,
            gateway,
            actor,
            return_url=f"{SHOP_URL}/orders/{order_id}/return?payment={{payment}}",
            cancel_url=f"{SHOP_URL}/orders/{order_id}/pay",
        )

    async def complete(self, payment_id: str, actor: Actor = BUYER) -> checkout.Result:
        return await checkout.complete(self.core, payment_id, actor)

    def confirm(self, started: checkout.Started, *, card: str = "pm_card_visa") -> HttpResponse:
        """The buyer's browser confirms at Stripe with the client values it was given."""
        client = started.client
        ref = client["client_secret"].split("_secret_")[0]
        form = {
            "client_secret": client["client_secret"],
            "payment_method": card,
            "return_url": f"{SHOP_URL}/return",
        }
        headers = {
            "authorization": f"Bearer {client['publishable_key']}",
            "content-type": "application/x-www-form-urlencoded",
        }
        request = HttpRequest("POST", f"/v1/payment_intents/{ref}/confirm", headers, urlencode(form).encode())
        answer: HttpResponse = self.twins["stripe"].handle(request, now=self.clock.now())
        return answer

    def authenticate(self, started: checkout.Started) -> None:
        """The buyer passes the bank's page. A page that was used up or replaced is left as it is."""
        ref = started.client["client_secret"].split("_secret_")[0]
        intent = json.loads(self.twins["stripe"].dump())["intents"][ref]["object"]
        if intent["next_action"] is None:
            return
        url = urlsplit(intent["next_action"]["redirect_to_url"]["url"])
        path = "/" + url.path.removeprefix("/stripe/")
        headers = {"content-type": "application/x-www-form-urlencoded"}
        self.twins["stripe"].handle(HttpRequest("POST", path, headers, b"answer=authorize"), now=self.clock.now())

    def approve(self, started: checkout.Started, *, funding: str = "balance") -> None:
        """The buyer agrees at PayPal."""
        self.twins["paypal"].approve(started.client["order_id"], now=self.clock.now(), funding=funding)

    async def agree(self, started: checkout.Started) -> None:
        """The buyer agrees, whichever gateway it is."""
        if started.payment.gateway == "stripe":
            assert self.confirm(started).status == 200
        else:
            self.approve(started)

    # ── What gateways, time and staff do ──────────

    def control(self, gateway: str, name: str, **params: object) -> dict[str, str]:
        """Let something happen at a gateway: a dashboard, a bank."""
        told = {key: str(value) for key, value in params.items()}
        return dict(self.twins[gateway].control(name, told, now=self.clock.now()))

    def webhooks(self) -> list[HttpRequest]:
        """The signed webhooks that came up since the last call, of both gateways."""
        return [one for twin in self.twins.values() for one in twin.take_webhooks(now=self.clock.now())]

    async def receive(self, webhook: HttpRequest) -> str:
        """What the shop's endpoint does with one; its outcome."""
        gateway = self.core.gateways[webhook.url.rsplit("/", 1)[1]]
        headers = {name.lower(): value for name, value in webhook.headers.items()}
        received = await inbox.receive(self.core, await gateway.read_webhook(headers, webhook.body))
        if received.lease is not None:
            await recovery.process_event(self.core, received.lease)
        return received.outcome

    async def deliver(self) -> list[str]:
        """Deliver all webhooks, in order and once; their outcomes."""
        return [await self.receive(webhook) for webhook in self.webhooks()]

    async def recover(self, *, after: int = 0) -> recovery.Report:
        """Let `after` seconds pass, then do all that is due."""
        self.clock.pass_seconds(after)
        return await recovery.drain(self.core)

    async def refund(self, payment_id: str, amount: int | None = None, **options: Any) -> refunds.RefundResult:
        return await refunds.refund(self.core, payment_id, STAFF, amount_minor=amount, **options)

    async def paid(self, gateway: str, *lines: tuple[str, int], card: str = "pm_card_visa") -> tuple[OrderView, str]:
        """A paid order and its payment's id."""
        order = await self.order(*lines)
        started = await self.start(order.id, gateway)
        if gateway == "stripe":
            assert self.confirm(started, card=card).status == 200
        else:
            self.approve(started)
        assert (await self.complete(started.payment.id)).order_status == "paid"
        return order, started.payment.id

    async def ref(self, payment_id: str) -> str:
        """The gateway's id of the payment's object."""
        rows = await self.rows("SELECT gateway_ref FROM payments WHERE id = :id", id=payment_id)
        return str(rows[0]["gateway_ref"])

    # ── What a test looks at ──────────

    @property
    def store(self) -> SqlStore:
        assert isinstance(self.core.store, SqlStore)
        return self.core.store

    async def rows(self, sql: str, **params: Any) -> list[Row]:
        async def read(tx: Transaction) -> list[Row]:
            return list(await tx.fetch_all(sql, params))

        return await self.core.db.read(read)

    async def write(self, sql: str, **params: Any) -> int:
        async def run(tx: Transaction) -> int:
            return await tx.execute(sql, params)

        return await self.core.db.transaction(run)

    async def order_status(self, order_id: str) -> str:
        rows = await self.rows("SELECT status FROM orders WHERE id = :id", id=order_id)
        return str(rows[0]["status"])

    async def payment_status(self, payment_id: str) -> str:
        rows = await self.rows("SELECT status FROM payments WHERE id = :id", id=payment_id)
        return str(rows[0]["status"])

    async def stock(self, sku: str = "mug") -> tuple[int, int]:
        """On hand and held."""
        rows = await self.rows("SELECT on_hand, held FROM stock WHERE sku = :sku", sku=sku)
        return int(rows[0]["on_hand"]), int(rows[0]["held"])

    async def events(self) -> list[str]:
        return [str(row["type"]) for row in await self.rows("SELECT type FROM outbox ORDER BY seq")]

    async def count(self, table: str) -> int:
        rows = await self.rows(f"SELECT count(*) AS n FROM {table}")  # noqa: S608
        return int(rows[0]["n"])

    async def captures_booked(self) -> int:
        return len(await self.rows("SELECT id FROM journal_entries WHERE kind = 'capture'"))

    async def refund_states(self, payment_id: str) -> list[tuple[int, str]]:
        rows = await self.rows(
            "SELECT amount_minor, state FROM refunds WHERE payment_id = :id ORDER BY created_at, id", id=payment_id
        )
        return [(row["amount_minor"], row["state"]) for row in rows]

    async def refund_status(self, order_id: str) -> str:
        rows = await self.rows("SELECT refund_status FROM orders WHERE id = :id", id=order_id)
        return str(rows[0]["refund_status"])

    async def balances(self, order_id: str) -> dict[str, int]:
        """Where the order's money is: the sum of each account that is not empty."""
        rows = await self.rows(
            "SELECT p.account, sum(p.amount_minor) AS minor FROM journal_entries e"
            " JOIN journal_postings p ON p.entry_id = e.id WHERE e.order_id = :id GROUP BY p.account",
            id=order_id,
        )
        return {row["account"]: int(row["minor"]) for row in rows if row["minor"]}

    async def assert_journal_equals_gateways(self) -> None:
        """Invariant I1: object by object and to the cent, our books say what the gateways' own books say."""
        ours = await self.rows(
            "SELECT e.gateway, e.gateway_object, p.currency, sum(p.amount_minor) AS minor FROM journal_entries e"
            " JOIN journal_postings p ON p.entry_id = e.id AND p.account = 'gateway:' || e.gateway"
            " GROUP BY e.gateway, e.gateway_object, p.currency"
        )
        mine = {(row["gateway"], row["gateway_object"], row["currency"]): int(row["minor"]) for row in ours}
        theirs: dict[tuple[str, str, str], int] = {}
        for name, twin in self.twins.items():
            for entry in twin.books():
                key = (name, entry.object, entry.currency)
                theirs[key] = theirs.get(key, 0) + entry.minor
        assert {key: minor for key, minor in mine.items() if minor} == {
            key: minor for key, minor in theirs.items() if minor
        }

    async def assert_books_balance(self) -> None:
        """Invariants that hold at any moment: I3, I5, I6."""
        unbalanced = await self.rows(
            "SELECT entry_id FROM journal_postings GROUP BY entry_id, currency HAVING sum(amount_minor) <> 0"
        )
        assert unbalanced == []
        wrong_stock = await self.rows(
            "SELECT s.sku FROM stock s WHERE s.on_hand <>"
            " (SELECT sum(m.quantity) FROM stock_movements m WHERE m.sku = s.sku)"
            " OR s.held <> (SELECT COALESCE(sum(h.quantity), 0) FROM holds h WHERE h.sku = s.sku)"
        )
        assert wrong_stock == []
        double = await self.rows(
            "SELECT order_id FROM journal_entries e JOIN journal_postings p ON p.entry_id = e.id"
            " WHERE e.kind = 'capture' AND p.account = 'sales' GROUP BY order_id HAVING count(*) > 1"
        )
        assert double == []

    async def assert_paid_once(self, order: OrderView) -> None:
        """The order is paid by exactly one capture, and everything that belongs to it is there once."""
        assert await self.order_status(order.id) == "paid"
        captured = await self.rows("SELECT * FROM payments WHERE order_id = :id AND status = 'captured'", id=order.id)
        assert len(captured) == 1
        assert captured[0]["captured_minor"] == order.total.minor
        entries = await self.rows(
            "SELECT * FROM journal_entries WHERE order_id = :id AND kind = 'capture'", id=order.id
        )
        assert [(one["gateway_object"], one["kind"]) for one in entries] == [(captured[0]["capture_ref"], "capture")]
        sold = await self.rows(
            "SELECT sku, quantity FROM stock_movements WHERE order_id = :id AND kind = 'sale' ORDER BY sku",
            id=order.id,
        )
        assert [(row["sku"], -row["quantity"]) for row in sold] == [(one.sku, one.quantity) for one in order.lines]
        paid = await self.rows("SELECT * FROM outbox WHERE order_id = :id AND type = 'order.paid'", id=order.id)
        assert len(paid) == 1
        await self.assert_books_balance()


async def stock_up(tx: Transaction, store: SqlStore, now: int) -> None:
    goods = (("mug", "Mug", 1999, 10), ("lamp", "Lamp", 4950, 3), ("pen", "Pen", 250, 100))
    for position, (sku, name, price, on_hand) in enumerate(goods):
        await store.add_product(
            tx,
            sku=sku,
            name=name,
            description="",
            image="",
            price=Money(price, "EUR"),
            on_hand=on_hand,
            position=position,
            now=now,
        )


def open_shop(
    db: Database,
    *,
    clock: ShiftedClock,
    twins: dict[str, Any],
    policy: Policy | None = None,
    settings: Mapping[str, str] | None = None,
) -> Shop:
    """A shop on `db`; a second one on the same database and twins is the process after a restart.

    `settings` replace some of the gateways' settings.
    """
    transport = WatchedTransport(SandboxTransport(twins, clock, SANDBOX_URL))
    gateways = configure_all({**sandbox_environment(SANDBOX_URL), **(settings or {})}, transport, clock)
    core = notes.hand_out(Core(db, gateways, SqlStore(), clock, RandomIds(), policy or Policy()))
    return Shop(core, clock, transport, twins)
