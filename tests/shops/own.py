"""examples/own_shop: a FastAPI shop with tables, users and pages of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from conftest import run_apart
from paidonce.ports import Transaction
from paidonce.store import PayableOrder
from shops.adapter import BUYERS, GOODS
from shops.inprocess import Served, Trigger, listening
from support.quick import in_thread, quick_hash
from support.shop import ShiftedClock
from support.webshop import Answer, Client

EXAMPLES = Path(__file__).parents[2] / "examples"
PASSWORD = "a-long-password"


def example(module: str) -> Any:
    """A module of the example, which is no installed package."""
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    return import_module(f"own_shop.{module}")


def store_with(trigger: Trigger) -> Any:
    """The example's own store, whose own code fails when the trigger says so."""

    class Store(example("store").ShopStore):  # type: ignore[misc]
        async def thank(self, tx: Transaction, order: PayableOrder) -> None:
            await super().thank(tx, order)
            trigger.pull()

    return Store()


class OwnShop(Served):
    """See `adapter.RunningShop`."""

    async def send_password(self, browser: Client, email: str) -> Answer:
        return await browser.form("/sign-in", email=email, password=PASSWORD)

    async def place_order(self, browser: Client, sku: str, quantity: int) -> str:
        answer = await browser.form("/buy", sku=sku, quantity=str(quantity))
        assert answer.status == 303, answer.text
        return answer.headers["Location"].split("/")[2]

    def pay_page(self, order_id: str) -> str:
        return f"/orders/{order_id}/pay"

    async def on_hand(self, sku: str) -> int:
        return int((await self.rows("SELECT stock FROM products WHERE sku = :sku", sku=sku))[0]["stock"])

    async def order_status(self, order_id: str) -> str:
        return str((await self.rows("SELECT status FROM orders WHERE id = :id", id=int(order_id)))[0]["status"])

    async def paid_orders(self) -> set[str]:
        return {str(row["id"]) for row in await self.rows("SELECT id FROM orders WHERE status = 'paid'")}

    async def own_rows(self, order_id: str) -> int:
        return len(await self.rows("SELECT order_id FROM points WHERE order_id = :id", id=int(order_id)))


class Own:
    """See `adapter.Adapter`."""

    def prepare(self, database_url: str) -> None:
        app, models = example("app"), example("models")
        shop = app.create_app({"DATABASE_URL": database_url})
        run_apart(lambda: app.make_tables(shop))
        for goods in GOODS:
            app.add_product(shop.state.engine, goods.sku, goods.name, goods.price_minor, goods.on_hand)
        hashed = quick_hash(PASSWORD)
        with example("app").Session(shop.state.engine) as session:
            emails = [f"buyer{number}@example.com" for number in range(BUYERS)]
            session.add_all(models.User(email=one, name="Some One", password_hash=hashed) for one in emails)
            session.add(models.User(email="staff@example.com", name="Sam", password_hash=hashed, is_staff=True))
            session.commit()
        shop.state.engine.dispose()

    @contextmanager
    def start(self, database_url: str, settings: Mapping[str, str]) -> Iterator[OwnShop]:
        trigger, clock = Trigger(), ShiftedClock()
        store = store_with(trigger)
        with listening(database_url, settings) as (listener, environment):
            app = example("app").create_app({**environment, "DATABASE_URL": database_url}, store=store, clock=clock)
            with in_thread(app, listener):
                yield OwnShop(environment, store, clock, trigger)
            app.state.engine.dispose()


adapter = Own()
