"""The built-in shop, with a few lines of somebody's own code in its store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import paidonce.db
from conftest import run_apart
from paidonce.app import create_app
from paidonce.config import load_settings
from paidonce.money import Money
from paidonce.ports import Database, Microseconds, RandomIds, SystemClock, Transaction
from paidonce.states import OrderStatus
from paidonce.store import PayableOrder, SqlStore
from paidonce.web.accounts import Role
from shops.adapter import BUYERS, CURRENCY, GOODS
from shops.inprocess import Served, Trigger, listening
from support.quick import in_thread, quick_hash
from support.shop import ShiftedClock
from support.webshop import Answer, Client

PASSWORD = "a-long-password"


class ThankingStore(SqlStore):
    """Writes a row of its own for each paid order."""

    def __init__(self, trigger: Trigger) -> None:
        self._trigger = trigger

    async def mark(self, tx: Transaction, order: PayableOrder, status: OrderStatus, *, now: Microseconds) -> None:
        await super().mark(tx, order, status, now=now)
        if status is OrderStatus.PAID:
            await tx.execute("INSERT INTO thanks (order_id) VALUES (:id)", {"id": order.id})
            self._trigger.pull()


class BuiltInShop(Served):
    """See `adapter.RunningShop`."""

    async def send_password(self, browser: Client, email: str) -> Answer:
        return await browser.sign_in(email, PASSWORD)

    async def place_order(self, browser: Client, sku: str, quantity: int) -> str:
        return str((await browser.order(sku, quantity))["id"])

    def pay_page(self, order_id: str) -> str:
        return f"/orders/{order_id}/pay"

    async def on_hand(self, sku: str) -> int:
        return int((await self.rows("SELECT on_hand FROM stock WHERE sku = :sku", sku=sku))[0]["on_hand"])

    async def order_status(self, order_id: str) -> str:
        return str((await self.rows("SELECT status FROM orders WHERE id = :id", id=order_id))[0]["status"])

    async def paid_orders(self) -> set[str]:
        return {row["id"] for row in await self.rows("SELECT id FROM orders WHERE status = 'paid'")}

    async def own_rows(self, order_id: str) -> int:
        return len(await self.rows("SELECT order_id FROM thanks WHERE order_id = :id", id=order_id))


class BuiltIn:
    """See `adapter.Adapter`."""

    def prepare(self, database_url: str) -> None:
        run_apart(lambda: _prepare(database_url))

    @contextmanager
    def start(self, database_url: str, settings: Mapping[str, str]) -> Iterator[BuiltInShop]:
        trigger, clock = Trigger(), ShiftedClock()
        store = ThankingStore(trigger)
        with listening(database_url, settings) as (listener, environment):
            app = create_app(load_settings(environment), environment=environment, store=store, clock=clock)
            with in_thread(app, listener):
                yield BuiltInShop(environment, store, clock, trigger)


async def _prepare(url: str) -> None:
    await paidonce.db.migrate(url)
    database = await paidonce.db.connect(url)
    try:
        await database.transaction(_stock_up)
        hashed = quick_hash(PASSWORD)
        for number in range(BUYERS):
            await _add_user(database, f"buyer{number}@example.com", hashed, "buyer")
        await _add_user(database, "staff@example.com", hashed, "staff")
    finally:
        await database.close()


async def _stock_up(tx: Transaction) -> None:
    await tx.execute("CREATE TABLE thanks (order_id TEXT NOT NULL)")
    for position, goods in enumerate(GOODS):
        await SqlStore().add_product(
            tx,
            sku=goods.sku,
            name=goods.name,
            description="",
            image="",
            price=Money(goods.price_minor, CURRENCY),
            on_hand=goods.on_hand,
            position=position,
            now=SystemClock().now(),
        )


async def _add_user(database: Database, email: str, hashed: str, role: Role) -> None:
    async def insert(tx: Transaction) -> None:
        await tx.execute(
            "INSERT INTO users (id, email, name, password_hash, role, created_at)"
            " VALUES (:id, :email, 'Some One', :hash, :role, 1)",
            {"id": RandomIds().new("usr"), "email": email, "hash": hashed, "role": role},
        )

    await database.transaction(insert)


adapter = BuiltIn()
