"""`HostStore`: the store of a shop with orders and stock of its own. It brings those; reservations are kept here.

A shop implements four methods on its tables: `find` and `mark` for its orders, `lock_stock` and `change_stock` for its
shelf. They run inside the transaction that settles a payment, so whatever they write, and whatever the shop's own code
writes with them, becomes true together with the payment or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from paidonce.errors import SoldOut
from paidonce.money import Money
from paidonce.ports import Microseconds, Params, Row, Transaction
from paidonce.states import OrderStatus, RefundStatus
from paidonce.store import PayableOrder

_OF_ORDER = (
    "SELECT sku, quantity, state, expires_at, payment_id FROM reservations WHERE order_id = :order_id ORDER BY sku"
)
_INSERT = """
INSERT INTO reservations (order_id, sku, quantity, state, expires_at, payment_id)
VALUES (:order_id, :sku, :quantity, :state, :expires_at, :payment_id)
"""
_RETURN = "UPDATE reservations SET state = 'returned' WHERE order_id = :order_id AND state = 'taken'"
_END = "DELETE FROM reservations WHERE order_id = :order_id AND state = 'held'"
# Before goods are held or taken anew; those that were put back stand there no longer.
_CLEAR = "DELETE FROM reservations WHERE order_id = :order_id AND state IN ('held', 'returned')"
# With || no index of ids fits, so that SQLite takes that of the time: what has ended is little, what has an id is all.
_ENDED = """
SELECT DISTINCT order_id || '' AS id FROM reservations
WHERE state = 'held' AND expires_at <= :now AND order_id || '' > :after ORDER BY id LIMIT :limit
"""
_MOST_FREED = 100


@dataclass(frozen=True, slots=True)
class StockLine:
    """One product of an order: how many pieces it takes, and how many lie on the shelf now."""

    sku: str
    name: str  # For the buyer, if it is sold out.
    quantity: int
    on_hand: int


# Stands for an order that needs no stock, so that its time runs like that of any other.
_NO_GOODS = StockLine("", "", 1, 0)


class HostStore:
    """A `Store` on a shop's own tables. See the module; everything else has a default that may be overridden."""

    # ── What the shop brings ──────────

    async def find(self, tx: Transaction, order_id: str, *, lock: bool) -> PayableOrder | None:
        """The order, or None. `lock=True` keeps others from changing it until the commit (`fetch_one(…, lock=True)`).

        `order_id` may be any text that came in a URL. A shop that numbers its orders looks first whether it is one.
        """
        raise NotImplementedError

    async def mark(self, tx: Transaction, order: PayableOrder, status: OrderStatus, *, now: Microseconds) -> None:
        """Move the order to `status`. The place for the shop's own code that belongs to a paid order.

        `OrderStatus.PAID` comes once per order, in the transaction that books the money. Database work only: it is run
        again after a conflict. What it raises rolls the whole transaction back, and the payment is settled later.
        """
        raise NotImplementedError

    async def lock_stock(self, tx: Transaction, order_id: str) -> Sequence[StockLine]:
        """The order's products with what is on hand, locked until the commit, one line each, ordered by SKU.

        The order by SKU keeps two orders with the same goods from waiting for each other. What needs no stock (a
        download, a service) is left out.
        """
        raise NotImplementedError

    async def change_stock(self, tx: Transaction, changes: Mapping[str, int]) -> None:
        """Add each SKU's number to its stock on hand; negative ones were sold. The rows are locked already."""
        raise NotImplementedError

    # ── What it may bring ──────────

    async def named(self, tx: Transaction, text: str) -> str | None:
        """The id of the order with this number or id, for staff who search; None if there is none."""
        order = await self.find(tx, text, lock=False)
        return None if order is None else order.id

    async def mark_refunded(
        self, tx: Transaction, order: PayableOrder, status: RefundStatus, *, now: Microseconds
    ) -> None:
        """Say how much of the paid order has gone back. By default the payment alone says it."""

    async def lower_due(self, tx: Transaction, order_id: str, due: Money) -> None:
        """Lower what has to be paid to `due`, since staff captured only that. By default the payment alone says it."""

    async def expired(self, tx: Transaction, *, now: Microseconds, after: str, limit: int) -> Sequence[str]:
        """Unpaid orders whose `expires_at` is over: ids above `after`, in their order. By default none ever ends."""
        return ()

    # ── For the shop's own pages ──────────

    async def reserved(self, tx: Transaction, skus: Iterable[str]) -> dict[str, int]:
        """How many pieces of each SKU are held for buyers who are paying; available is on hand less these."""
        return await self._held(tx, skus, besides="")

    # ── The port, on our own table ──────────

    async def hold(self, tx: Transaction, order_id: str, *, until: Microseconds) -> None:
        """See `Store.hold`."""
        lines = await self.lock_stock(tx, order_id)
        wanted = lines or [_NO_GOODS]
        held = [row for row in await self._of_order(tx, order_id) if row["state"] == "held"]
        if {row["sku"]: row["quantity"] for row in held} == {line.sku: line.quantity for line in wanted}:
            await tx.execute(
                "UPDATE reservations SET expires_at = :until WHERE order_id = :order_id AND state = 'held'",
                {"order_id": order_id, "until": until},
            )
            return
        # New, or of an order that was edited since.
        await self._refuse_short(tx, order_id, lines)
        await tx.execute(_CLEAR, {"order_id": order_id})
        await self._insert(tx, order_id, wanted, state="held", expires_at=until)

    async def free_expired(self, tx: Transaction, order_id: str, *, now: Microseconds) -> bool:
        """See `Store.free_expired`."""
        names, params = _listed([line.sku for line in await self.lock_stock(tx, order_id)])
        if not names:
            return False
        mine = {**params, "order_id": order_id, "now": now}
        expired = await tx.fetch_all(
            "SELECT DISTINCT order_id FROM reservations WHERE state = 'held' AND expires_at <= :now"  # noqa: S608
            f" AND order_id <> :order_id AND sku IN ({names}) ORDER BY order_id LIMIT {_MOST_FREED}",
            mine,
        )
        freed = 0
        for row in expired:
            order = await self.find(tx, row["order_id"], lock=False)
            if order is not None and order.status is OrderStatus.PENDING:
                # Slow money keeps its goods; only a buyer who walked away loses them.
                continue
            # Only what this order needs, whose stock is locked. Its deadline is asked again, since it may be prolonged.
            freed += await tx.execute(
                "DELETE FROM reservations WHERE order_id = :theirs AND state = 'held' AND expires_at <= :now"  # noqa: S608
                f" AND sku IN ({names})",
                {**mine, "theirs": row["order_id"]},
            )
        return freed > 0

    async def release(self, tx: Transaction, order_id: str) -> None:
        """See `Store.release`."""
        await self.lock_stock(tx, order_id)
        await tx.execute(_END, {"order_id": order_id})

    async def take(self, tx: Transaction, order_id: str, *, payment_id: str, now: Microseconds) -> bool:
        """See `Store.take`."""
        lines = await self.lock_stock(tx, order_id)
        kept = await self._of_order(tx, order_id)
        if any(row["state"] == "taken" or row["payment_id"] == payment_id for row in kept):
            return True  # Taken before. What another payment had taken and gave back may have been sold since.
        others = await self._held(tx, [line.sku for line in lines], besides=order_id)
        held = {row["sku"]: row["quantity"] for row in kept}
        for line in lines:
            is_held = held.get(line.sku, 0) >= line.quantity
            # Somebody may have lowered the stock by hand although it was held.
            if line.on_hand - (0 if is_held else others.get(line.sku, 0)) < line.quantity:
                return False
        await tx.execute(_CLEAR, {"order_id": order_id})
        await self._insert(tx, order_id, lines or [_NO_GOODS], state="taken", expires_at=now, payment_id=payment_id)
        await self.change_stock(tx, {line.sku: -line.quantity for line in lines})
        return True

    async def restock(self, tx: Transaction, order_id: str, *, payment_id: str, now: Microseconds) -> bool:
        """See `Store.restock`."""
        await self.lock_stock(tx, order_id)
        taken = [row for row in await self._of_order(tx, order_id) if row["state"] == "taken"]
        back = {row["sku"]: row["quantity"] for row in taken if row["sku"] != _NO_GOODS.sku}
        if not back:
            return False
        await tx.execute(_RETURN, {"order_id": order_id})
        await self.change_stock(tx, back)
        return True

    async def hold_ends(self, tx: Transaction, order_id: str) -> Microseconds | None:
        """See `Store.hold_ends`."""
        ends = [row["expires_at"] for row in await self._of_order(tx, order_id) if row["state"] == "held"]
        return min(ends, default=None)

    async def ended(self, tx: Transaction, *, now: Microseconds, after: str, limit: int) -> list[str]:
        """See `Store.ended`."""
        rows = await tx.fetch_all(_ENDED, {"now": now, "after": after, "limit": limit})
        expired = await self.expired(tx, now=now, after=after, limit=limit)
        return sorted({*(row["id"] for row in rows), *expired})[:limit]

    # ── Small things ──────────

    async def _of_order(self, tx: Transaction, order_id: str) -> Sequence[Row]:
        return await tx.fetch_all(_OF_ORDER, {"order_id": order_id})

    async def _refuse_short(self, tx: Transaction, order_id: str, lines: Sequence[StockLine]) -> None:
        others = await self._held(tx, [line.sku for line in lines], besides=order_id)
        short = [line for line in lines if line.on_hand - others.get(line.sku, 0) < line.quantity]
        if short:
            names = ", ".join(line.name for line in short)
            raise SoldOut(
                f"Sorry, {names} has just sold out. You have not been charged.", skus=[line.sku for line in short]
            )

    async def _held(self, tx: Transaction, skus: Iterable[str], *, besides: str) -> dict[str, int]:
        names, params = _listed(skus)
        if not names:
            return {}
        rows = await tx.fetch_all(
            "SELECT sku, sum(quantity) AS quantity FROM reservations"  # noqa: S608
            f" WHERE state = 'held' AND order_id <> :besides AND sku IN ({names}) GROUP BY sku",
            {**params, "besides": besides},
        )
        return {row["sku"]: int(row["quantity"]) for row in rows}

    async def _insert(
        self,
        tx: Transaction,
        order_id: str,
        lines: Sequence[StockLine],
        *,
        state: str,
        expires_at: Microseconds,
        payment_id: str | None = None,
    ) -> None:
        await tx.execute_many(
            _INSERT,
            [
                {
                    "order_id": order_id,
                    "sku": line.sku,
                    "quantity": line.quantity,
                    "state": state,
                    "expires_at": expires_at,
                    "payment_id": payment_id,
                }
                for line in lines
            ],
        )


def _listed(skus: Iterable[str]) -> tuple[str, Params]:
    """`skus` as the list of an IN and its parameters."""
    params = {f"sku{number}": sku for number, sku in enumerate(dict.fromkeys(skus))}
    return ", ".join(f":{name}" for name in params), params
