"""`HostStore` on a shop's own tables: who holds which goods until when, and nothing taken or put back twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import paidonce.db
from paidonce.errors import SoldOut
from paidonce.ports import SECOND, Database, Transaction
from paidonce.states import OrderStatus
from shops.own import example

HOUR = 3600 * SECOND
NOW = 1_700_000_000 * SECOND


@pytest.fixture(params=["sqlite", "postgresql"])
async def shelf(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Shelf]:
    """The example's tables beside paidonce's, without the built-in shop's, and five orders."""
    postgres = request.param == "postgresql"
    url = request.getfixturevalue("empty_postgresql_url") if postgres else f"sqlite:///{tmp_path}/shop.db"
    engine = example("models").connect(url)
    example("models").Base.metadata.create_all(engine)
    engine.dispose()
    await paidonce.db.migrate(url, store_tables=False)
    database = await paidonce.db.connect(url)
    await database.transaction(_fill)
    yield Shelf(database)
    await database.close()


async def _fill(tx: Transaction) -> None:
    await tx.execute("INSERT INTO users (id, email, name, password_hash, is_staff) VALUES (1, 'a', 'A', '', FALSE)")
    for sku, stock in (("a", 5), ("b", 2)):
        await tx.execute(
            "INSERT INTO products (sku, name, notes, colour, price_cents, stock)"
            " VALUES (:sku, :sku, '', '', 100, :stock)",
            {"sku": sku, "stock": stock},
        )
    wanted = {1: (("a", 3),), 2: (("a", 3),), 3: (("a", 2), ("b", 2)), 4: (("b", 1),), 5: ()}
    for order, items in wanted.items():
        await tx.execute(
            "INSERT INTO orders (id, user_id, status, refunded, total_cents, created_at)"
            " VALUES (:id, 1, 'open', 'none', 100, CURRENT_TIMESTAMP)",
            {"id": order},
        )
        for sku, quantity in items:
            await tx.execute(
                "INSERT INTO order_items (order_id, sku, name, quantity, price_cents) VALUES (:id, :sku, '', :q, 100)",
                {"id": order, "sku": sku, "q": quantity},
            )


class Shelf:
    """The store's methods, each in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = example("store").ShopStore()

    async def hold(self, order: str, until: int = NOW + HOUR) -> None:
        await self.database.transaction(self.store.hold, order, until=until)

    async def take(self, order: str, payment: str = "pay_1") -> bool:
        return bool(await self.database.transaction(self.store.take, order, payment_id=payment, now=NOW))

    async def restock(self, order: str) -> bool:
        return bool(await self.database.transaction(self.store.restock, order, payment_id="pay_1", now=NOW))

    async def free(self, order: str, now: int) -> bool:
        return bool(await self.database.transaction(self.store.free_expired, order, now=now))

    async def release(self, order: str) -> None:
        await self.database.transaction(self.store.release, order)

    async def stock(self) -> dict[str, int]:
        async def read(tx: Transaction) -> dict[str, int]:
            return {row["sku"]: row["stock"] for row in await tx.fetch_all("SELECT sku, stock FROM products")}

        return await self.database.read(read)

    async def reserved(self) -> dict[str, int]:
        return dict(await self.database.read(self.store.reserved, ["a", "b", "none"]))

    async def run(self, sql: str) -> None:
        async def write(tx: Transaction) -> None:
            await tx.execute(sql)

        await self.database.transaction(write)


async def test_what_is_held_is_not_there_for_others(shelf: Shelf) -> None:
    await shelf.hold("1")
    with pytest.raises(SoldOut, match="a has just sold out") as caught:
        await shelf.hold("2")
    assert caught.value.skus == ("a",)
    assert await shelf.reserved() == {"a": 3}
    # The shelf itself is untouched until somebody has paid.
    assert await shelf.stock() == {"a": 5, "b": 2}
    await shelf.release("1")
    await shelf.release("1")
    await shelf.hold("2")
    assert await shelf.reserved() == {"a": 3}


async def test_an_order_that_is_short_of_one_thing_holds_nothing(shelf: Shelf) -> None:
    await shelf.hold("4")
    with pytest.raises(SoldOut) as caught:
        await shelf.hold("3")
    assert caught.value.skus == ("b",)
    assert await shelf.reserved() == {"b": 1}


async def test_holding_again_prolongs_and_holds_no_more(shelf: Shelf) -> None:
    await shelf.hold("3", until=NOW + HOUR)
    await shelf.hold("3", until=NOW + 2 * HOUR)
    assert await shelf.reserved() == {"a": 2, "b": 2}
    assert await shelf.database.read(shelf.store.hold_ends, "3") == NOW + 2 * HOUR
    assert await shelf.database.read(shelf.store.hold_ends, "1") is None


async def test_an_order_that_was_edited_holds_what_it_wants_now(shelf: Shelf) -> None:
    await shelf.hold("1")
    await shelf.run("UPDATE order_items SET quantity = 4 WHERE order_id = 1")
    await shelf.hold("1")
    assert await shelf.reserved() == {"a": 4}
    await shelf.run("UPDATE order_items SET quantity = 6 WHERE order_id = 1")
    with pytest.raises(SoldOut):
        await shelf.hold("1")
    assert await shelf.reserved() == {"a": 4}


@pytest.mark.parametrize("held", [True, False])
async def test_goods_are_taken_once_and_come_back_once(shelf: Shelf, held: bool) -> None:
    if held:
        await shelf.hold("3")
    assert await shelf.take("3") is True
    assert await shelf.take("3") is True
    assert await shelf.stock() == {"a": 3, "b": 0}
    assert await shelf.reserved() == {}
    assert await shelf.restock("3") is True
    assert await shelf.restock("3") is False
    assert await shelf.stock() == {"a": 5, "b": 2}
    # What came back is not taken again by a late repetition.
    assert await shelf.take("3") is True
    assert await shelf.stock() == {"a": 5, "b": 2}


async def test_goods_that_came_back_are_not_taken_for_another_payment_s(shelf: Shelf) -> None:
    """A second payment made the order paid by goods that the first had given back; and it could not hold any."""
    await shelf.hold("1")
    assert await shelf.take("1") is True
    assert await shelf.restock("1") is True
    before = await shelf.stock()
    await shelf.hold("1")
    assert await shelf.stock() == before
    assert await shelf.take("1", "pay_2") is True
    assert await shelf.stock() == {**before, "a": before["a"] - 3}
    # A late repetition of either takes nothing more.
    assert await shelf.take("1") is True
    assert await shelf.take("1", "pay_2") is True
    assert await shelf.stock() == {**before, "a": before["a"] - 3}


async def test_an_order_without_goods_has_its_time_as_well(shelf: Shelf) -> None:
    """A download's payment was ended twenty minutes after its first start, while the buyer was at the bank's page."""
    await shelf.run("DELETE FROM order_items WHERE order_id = 1")
    before = await shelf.stock()
    await shelf.hold("1", until=NOW + HOUR)
    await shelf.hold("1", until=NOW + 2 * HOUR)
    assert await shelf.database.read(shelf.store.hold_ends, "1") == NOW + 2 * HOUR
    assert await shelf.take("1") is True
    assert await shelf.database.read(shelf.store.hold_ends, "1") is None
    assert await shelf.restock("1") is False
    assert await shelf.stock() == before


async def test_what_others_hold_is_not_taken(shelf: Shelf) -> None:
    await shelf.hold("1")
    assert await shelf.take("2") is False
    assert await shelf.stock() == {"a": 5, "b": 2}
    assert await shelf.reserved() == {"a": 3}
    assert await shelf.restock("2") is False


async def test_stock_that_somebody_lowered_by_hand_is_never_taken_below_zero(shelf: Shelf) -> None:
    await shelf.hold("1")
    await shelf.run("UPDATE products SET stock = 1 WHERE sku = 'a'")
    assert await shelf.take("1") is False
    assert await shelf.stock() == {"a": 1, "b": 2}


async def test_reservations_that_ran_out_are_freed_for_who_needs_them(shelf: Shelf) -> None:
    await shelf.hold("1", until=NOW)
    assert await shelf.free("2", now=NOW - 1) is False
    assert await shelf.free("4", now=NOW) is False
    assert await shelf.reserved() == {"a": 3}
    assert await shelf.free("2", now=NOW) is True
    await shelf.hold("2")
    # Who was away too long gets nothing, and takes nothing from who is here.
    assert await shelf.take("1") is False
    assert await shelf.take("2") is True
    assert await shelf.stock() == {"a": 2, "b": 2}


async def test_slow_money_keeps_its_goods(shelf: Shelf) -> None:
    await shelf.hold("1", until=NOW)
    order = await shelf.database.read(shelf.store.find, "1", lock=False)
    await shelf.database.transaction(shelf.store.mark, order, OrderStatus.PENDING, now=NOW)
    assert await shelf.free("2", now=NOW + HOUR) is False
    assert await shelf.reserved() == {"a": 3}


async def test_what_is_due_to_end_comes_in_pages(shelf: Shelf) -> None:
    for order in ("1", "4"):
        await shelf.hold(order, until=NOW)

    async def page(after: str, limit: int, now: int = NOW) -> list[str]:
        return list(await shelf.database.read(shelf.store.ended, now=now, after=after, limit=limit))

    assert await page("", 1) == ["1"]
    assert await page("1", 1) == ["4"]
    assert await page("4", 1) == []
    assert await page("", 9, now=NOW - 1) == []


async def test_an_order_without_goods_is_simply_paid(shelf: Shelf) -> None:
    await shelf.hold("5")
    assert await shelf.take("5") is True
    assert await shelf.restock("5") is False
    assert await shelf.free("5", now=NOW) is False
    assert await shelf.stock() == {"a": 5, "b": 2}


@pytest.mark.parametrize("order_id", ["", "0", "01", "x", "1 OR 1=1", "99999999999999999999", "7", "\u0661"])
async def test_no_other_text_is_an_order(shelf: Shelf, order_id: str) -> None:
    assert await shelf.database.read(shelf.store.find, order_id, lock=False) is None
    assert await shelf.database.read(shelf.store.named, order_id) is None


async def test_staff_find_an_order_by_its_number(shelf: Shelf) -> None:
    assert await shelf.database.read(shelf.store.named, "em-3") == "3"
    assert await shelf.database.read(shelf.store.named, "3") == "3"
