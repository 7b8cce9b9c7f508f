"""How paidonce sees the shop's orders and stock: all it takes to be part of one transaction with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import insert, select, update

from paidonce import HostStore, Money, OrderStatus, PayableOrder, RefundStatus, StockLine
from paidonce.contrib.sqlalchemy import execute, fetch_all, fetch_one
from paidonce.ports import Transaction

from .models import Item, Order, Points, Product

CURRENCY = "EUR"


class ShopStore(HostStore):
    """The shop's `orders`, `order_items` and `products`."""

    async def find(self, tx: Transaction, order_id: str, *, lock: bool) -> PayableOrder | None:
        if not re.fullmatch(r"[1-9][0-9]{0,8}", order_id):
            return None
        wanted = select(Order.id, Order.user_id, Order.status, Order.total_cents).where(Order.id == int(order_id))
        row = await fetch_one(tx, wanted, lock=lock)
        if row is None:
            return None
        return PayableOrder(
            id=order_id,
            number=f"EM-{order_id}",
            user_id=str(row["user_id"]),
            status=OrderStatus(row["status"]),
            total=Money(row["total_cents"], CURRENCY),
        )

    async def mark(self, tx: Transaction, order: PayableOrder, status: OrderStatus, *, now: int) -> None:
        changes: dict[str, object] = {"status": str(status)}
        if status is OrderStatus.PAID:
            changes["paid_at"] = datetime.fromtimestamp(now / 1_000_000, UTC).replace(tzinfo=None)
            await self.thank(tx, order)
        await execute(tx, update(Order).where(Order.id == int(order.id)).values(**changes))

    async def thank(self, tx: Transaction, order: PayableOrder) -> None:
        """The shop's own code in the transaction that makes an order paid: no points without money, and none twice."""
        points = order.total.minor // 100
        row = {"order_id": int(order.id), "user_id": int(order.user_id), "points": points}
        await execute(tx, insert(Points).values(row))

    async def mark_refunded(self, tx: Transaction, order: PayableOrder, status: RefundStatus, *, now: int) -> None:
        await execute(tx, update(Order).where(Order.id == int(order.id)).values(refunded=str(status)))

    async def lock_stock(self, tx: Transaction, order_id: str) -> Sequence[StockLine]:
        wanted = (
            select(Product.sku, Product.name, Item.quantity, Product.stock)
            .join(Item, Item.sku == Product.sku)
            .where(Item.order_id == int(order_id))
            .order_by(Product.sku)
        )
        rows = await fetch_all(tx, wanted, lock=True)
        return [StockLine(row["sku"], row["name"], row["quantity"], row["stock"]) for row in rows]

    async def change_stock(self, tx: Transaction, changes: Mapping[str, int]) -> None:
        for sku, change in changes.items():
            await execute(tx, update(Product).where(Product.sku == sku).values(stock=Product.stock + change))

    async def named(self, tx: Transaction, text: str) -> str | None:
        return await super().named(tx, text.upper().removeprefix("EM-"))
