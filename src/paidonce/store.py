"""The store port, and the built-in store behind it: catalogue, stock and orders in our own tables.

A shop with tables of its own implements `Store` on them, best by way of `hoststore.HostStore`. Its methods run inside
our transaction, so its order, its stock and our payment become true together. Lock order everywhere: order → payment →
stock by SKU → holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from paidonce.counters import take_turns
from paidonce.errors import InvalidRequest, NotFound, SoldOut, TooManyAttempts
from paidonce.money import LARGEST_MINOR, Money
from paidonce.ports import SECOND, Ids, Microseconds, Row, Transaction, write_later
from paidonce.statements import insert
from paidonce.states import OrderStatus, RefundStatus, advance

LARGEST_QUANTITY = 1000
MOST_LINES = 100


@dataclass(frozen=True, slots=True)
class PayableOrder:
    """What the core needs to know of an order, whoever keeps it."""

    id: str
    number: str  # May be shown to the buyer and to gateways.
    user_id: str
    status: OrderStatus
    total: Money  # What has to be paid; a partial capture, which is final, lowers it.
    expires_at: Microseconds | None = None  # When an unpaid order is closed; None: never by itself.


class Store(Protocol):
    """Orders and stock, called inside the core's transactions. No method may call out or commit."""

    async def find(self, tx: Transaction, order_id: str, *, lock: bool) -> PayableOrder | None:
        """The order, or None. `lock=True` keeps others from changing it until the commit."""

    async def hold(self, tx: Transaction, order_id: str, *, until: Microseconds) -> None:
        """Reserve the order's goods until `until`, or prolong the reservation. Raises `errors.SoldOut`."""

    async def free_expired(self, tx: Transaction, order_id: str, *, now: Microseconds) -> bool:
        """End reservations of others that ran out on this order's goods; True if that freed any."""

    async def release(self, tx: Transaction, order_id: str) -> None:
        """End the order's reservation, if there is one."""

    async def take(self, tx: Transaction, order_id: str, *, payment_id: str, now: Microseconds) -> bool:
        """Lower the stock on hand for a paid order, once, reserved or not; False (and no change) if goods are gone."""

    async def mark(self, tx: Transaction, order: PayableOrder, status: OrderStatus, *, now: Microseconds) -> None:
        """Move the order to `status`."""

    async def mark_refunded(
        self, tx: Transaction, order: PayableOrder, status: RefundStatus, *, now: Microseconds
    ) -> None:
        """Say how much of the paid order has gone back. It stays paid."""

    async def restock(self, tx: Transaction, order_id: str, *, payment_id: str, now: Microseconds) -> bool:
        """Put the order's goods back on the shelf, once; False (and no change) if they were put back before."""

    async def lower_due(self, tx: Transaction, order_id: str, due: Money) -> None:
        """Lower what has to be paid to `due`, because only that was captured."""

    async def hold_ends(self, tx: Transaction, order_id: str) -> Microseconds | None:
        """When the order's reservation ends; None if it has none."""

    async def ended(self, tx: Transaction, *, now: Microseconds, after: str, limit: int) -> Sequence[str]:
        """Orders that are due to end: not paid, with a reservation or a lifetime that ran out.

        Ids above `after`, in their order, at most `limit`, so that a long list is walked through in pages.
        """

    async def named(self, tx: Transaction, text: str) -> str | None:
        """The id of the order that people call `text`, its number or its id; None if there is none."""


@dataclass(frozen=True, slots=True)
class OrderBounds:
    """How many unpaid orders a buyer may have (None: any number), and how many pieces of one product an order has."""

    unpaid: int | None = None
    pieces: int = LARGEST_QUANTITY


@dataclass(frozen=True, slots=True)
class Product:
    """A product as buyers see it; `available` is on hand less what others hold."""

    sku: str
    name: str
    description: str
    image: str
    price: Money
    available: int
    on_hand: int
    held: int


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One product in an order, with the name and price of the moment it was ordered."""

    sku: str
    name: str
    quantity: int
    unit_price: Money


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order as its buyer and staff see it. Times are microseconds."""

    id: str
    number: str
    user_id: str
    status: OrderStatus
    refund_status: RefundStatus
    total: Money
    due: Money  # What had to be paid: less than the total if only a part was captured.
    lines: tuple[OrderLine, ...]
    created_at: Microseconds
    paid_at: Microseconds | None


# Locking the rows in the order of their SKU keeps two orders with the same goods from waiting for each other.
_LOCK_STOCK = """
SELECT s.sku, s.on_hand, s.held, l.name, l.quantity
FROM order_lines l JOIN stock s ON s.sku = l.sku
WHERE l.order_id = :order_id ORDER BY s.sku
"""
_QUANTITY = "(SELECT l.quantity FROM order_lines l WHERE l.order_id = :order_id AND l.sku = stock.sku)"
_IN_ORDER = "sku IN (SELECT l.sku FROM order_lines l WHERE l.order_id = :order_id)"
_HOLD = f"UPDATE stock SET held = held + {_QUANTITY} WHERE {_IN_ORDER} AND on_hand - held >= {_QUANTITY}"  # noqa: S608
_UNHOLD = f"UPDATE stock SET held = held - {_QUANTITY} WHERE {_IN_ORDER}"  # noqa: S608
_TAKE_FREE = f"UPDATE stock SET on_hand = on_hand - {_QUANTITY} WHERE {_IN_ORDER} AND on_hand - held >= {_QUANTITY}"  # noqa: S608
_TAKE_HELD = f"UPDATE stock SET on_hand = on_hand - {_QUANTITY}, held = held - {_QUANTITY} WHERE {_IN_ORDER}"  # noqa: S608
_INSERT_HOLDS = """
INSERT INTO holds (order_id, sku, quantity, expires_at)
SELECT order_id, sku, quantity, :until FROM order_lines WHERE order_id = :order_id
"""
_INSERT_SALES = """
INSERT INTO stock_movements (sku, kind, quantity, order_id, payment_id, actor, created_at)
SELECT sku, 'sale', -quantity, order_id, :payment_id, 'settlement', :now FROM order_lines WHERE order_id = :order_id
"""
_RESTOCK = f"UPDATE stock SET on_hand = on_hand + {_QUANTITY} WHERE {_IN_ORDER}"  # noqa: S608
# Only what was sold can come back, and once.
_INSERT_RESTOCK = """
INSERT INTO stock_movements (sku, kind, quantity, order_id, payment_id, actor, created_at)
SELECT sku, 'restock', -quantity, order_id, :payment_id, 'refund', :now FROM stock_movements
WHERE order_id = :order_id AND kind = 'sale'
ON CONFLICT (order_id, sku, kind) DO NOTHING
"""
# With || no index of ids fits, so that SQLite takes that of the time: what has ended is little, what has an id is all.
_ENDED_ORDERS = """
SELECT order_id || '' AS id FROM holds WHERE expires_at <= :now AND order_id || '' > :after
UNION
SELECT id || '' FROM orders WHERE status = 'open' AND expires_at <= :now AND id || '' > :after
ORDER BY id LIMIT :limit
"""
_INSERT_ORDER = """
INSERT INTO orders (id, number, user_id, status, refund_status, total_minor, due_minor, currency, created_at,
    updated_at, expires_at)
VALUES (:id, :number, :user_id, 'open', 'none', :total, :total, :currency, :now, :now, :expires_at)
"""
_LINES_AT_ONCE = 20
_PRODUCTS = "SELECT p.*, s.on_hand, s.held FROM products p JOIN stock s ON s.sku = p.sku"
# Slow money keeps its goods; only a buyer who walked away loses them.
_EXPIRED_ORDERS = """
SELECT DISTINCT h.order_id FROM holds h
JOIN orders o ON o.id = h.order_id AND o.status <> 'pending'
JOIN order_lines l ON l.sku = h.sku AND l.order_id = :order_id
WHERE h.expires_at <= :now AND h.order_id <> :order_id
ORDER BY h.order_id LIMIT 100
"""


class SqlStore:
    """The built-in store on the tables of `db.tables`."""

    # ── The port ──────────

    async def find(self, tx: Transaction, order_id: str, *, lock: bool) -> PayableOrder | None:
        """See `Store.find`."""
        row = await tx.fetch_one(
            "SELECT id, number, user_id, status, due_minor, currency, expires_at FROM orders WHERE id = :id",
            {"id": order_id},
            lock=lock,
        )
        if row is None:
            return None
        due = Money(row["due_minor"], row["currency"])
        status = OrderStatus(row["status"])
        return PayableOrder(row["id"], row["number"], row["user_id"], status, due, row["expires_at"])

    async def hold(self, tx: Transaction, order_id: str, *, until: Microseconds) -> None:
        """See `Store.hold`."""
        prolonged = await tx.execute(
            "UPDATE holds SET expires_at = :until WHERE order_id = :order_id", {"order_id": order_id, "until": until}
        )
        if prolonged:
            return
        rows = await tx.fetch_all(_LOCK_STOCK, {"order_id": order_id}, lock=True)
        short = [row for row in rows if row["on_hand"] - row["held"] < row["quantity"]]
        if short:
            raise _sold_out(short)
        held = await tx.execute(_HOLD, {"order_id": order_id})
        assert held == len(rows), "locked stock changed under a hold"
        await write_later(tx, _INSERT_HOLDS, {"order_id": order_id, "until": until})

    async def free_expired(self, tx: Transaction, order_id: str, *, now: Microseconds) -> bool:
        """See `Store.free_expired`."""
        expired = await tx.fetch_all(_EXPIRED_ORDERS, {"order_id": order_id, "now": now})
        if not expired:
            return False
        orders = {f"order{number}": row["order_id"] for number, row in enumerate(expired)}
        theirs = f"order_id IN ({', '.join(f':{name}' for name in orders)})"
        # All stock rows at once and in the order of their SKU, or two buyers who clean up would wait for each other.
        await tx.fetch_all(
            f"SELECT sku FROM stock WHERE sku IN (SELECT sku FROM holds WHERE {theirs}) ORDER BY sku",  # noqa: S608
            orders,
            lock=True,
        )
        # The deadline is asked again under the lock, since a buyer may have prolonged the hold meanwhile.
        ended = await tx.fetch_all(
            f"DELETE FROM holds WHERE {theirs} AND expires_at <= :now RETURNING sku, quantity",  # noqa: S608
            {**orders, "now": now},
        )
        freed: dict[str, int] = {}
        for row in ended:
            freed[row["sku"]] = freed.get(row["sku"], 0) + row["quantity"]
        await tx.execute_many(
            "UPDATE stock SET held = held - :quantity WHERE sku = :sku",
            [{"sku": sku, "quantity": quantity} for sku, quantity in sorted(freed.items())],
        )
        return bool(freed)

    async def release(self, tx: Transaction, order_id: str) -> None:
        """See `Store.release`."""
        await tx.fetch_all(_LOCK_STOCK, {"order_id": order_id}, lock=True)
        if await tx.execute("DELETE FROM holds WHERE order_id = :order_id", {"order_id": order_id}):
            await tx.execute(_UNHOLD, {"order_id": order_id})

    async def take(self, tx: Transaction, order_id: str, *, payment_id: str, now: Microseconds) -> bool:
        """See `Store.take`."""
        rows = await tx.fetch_all(_LOCK_STOCK, {"order_id": order_id}, lock=True)
        was_held = await tx.execute("DELETE FROM holds WHERE order_id = :order_id", {"order_id": order_id})
        if not was_held and any(row["on_hand"] - row["held"] < row["quantity"] for row in rows):
            return False
        taken = await tx.execute(_TAKE_HELD if was_held else _TAKE_FREE, {"order_id": order_id})
        assert taken == len(rows), "locked stock changed under a sale"
        await write_later(tx, _INSERT_SALES, {"order_id": order_id, "payment_id": payment_id, "now": now})
        return True

    async def mark(self, tx: Transaction, order: PayableOrder, status: OrderStatus, *, now: Microseconds) -> None:
        """See `Store.mark`."""
        advance(order.status, status)
        await write_later(
            tx,
            "UPDATE orders SET status = :status, updated_at = :now, paid_at = COALESCE(paid_at, :paid_at)"
            " WHERE id = :id",
            {
                "id": order.id,
                "status": str(status),
                "now": now,
                "paid_at": now if status is OrderStatus.PAID else None,
            },
        )

    async def mark_refunded(
        self, tx: Transaction, order: PayableOrder, status: RefundStatus, *, now: Microseconds
    ) -> None:
        """See `Store.mark_refunded`."""
        await tx.execute(
            "UPDATE orders SET refund_status = :status, updated_at = :now WHERE id = :id",
            {"id": order.id, "status": str(status), "now": now},
        )

    async def restock(self, tx: Transaction, order_id: str, *, payment_id: str, now: Microseconds) -> bool:
        """See `Store.restock`."""
        await tx.fetch_all(_LOCK_STOCK, {"order_id": order_id}, lock=True)
        returned = await tx.execute(_INSERT_RESTOCK, {"order_id": order_id, "payment_id": payment_id, "now": now})
        if not returned:
            return False
        await tx.execute(_RESTOCK, {"order_id": order_id})
        return True

    async def lower_due(self, tx: Transaction, order_id: str, due: Money) -> None:
        """See `Store.lower_due`."""
        await tx.execute("UPDATE orders SET due_minor = :due WHERE id = :id", {"id": order_id, "due": due.minor})

    async def hold_ends(self, tx: Transaction, order_id: str) -> Microseconds | None:
        """See `Store.hold_ends`."""
        row = await tx.fetch_one(
            "SELECT min(expires_at) AS at FROM holds WHERE order_id = :order_id", {"order_id": order_id}
        )
        return None if row is None else row["at"]

    async def ended(self, tx: Transaction, *, now: Microseconds, after: str, limit: int) -> list[str]:
        """See `Store.ended`."""
        rows = await tx.fetch_all(_ENDED_ORDERS, {"now": now, "after": after, "limit": limit})
        return [row["id"] for row in rows]

    async def named(self, tx: Transaction, text: str) -> str | None:
        """See `Store.named`."""
        row = await tx.fetch_one(
            "SELECT id FROM orders WHERE id = :text OR number = :number ORDER BY id LIMIT 1",
            {"text": text, "number": text.upper()},
        )
        return None if row is None else str(row["id"])

    # ── The shop ──────────

    async def list_products(self, tx: Transaction) -> list[Product]:
        """The catalogue in the shop's own order."""
        rows = await tx.fetch_all(f"{_PRODUCTS} ORDER BY p.position, p.sku")
        return [_product(row) for row in rows]

    async def get_product(self, tx: Transaction, sku: str) -> Product | None:
        """One product, or None."""
        return (await self._products(tx, [sku])).get(sku)

    async def _products(self, tx: Transaction, skus: Sequence[str]) -> dict[str, Product]:
        params = {f"sku{number}": sku for number, sku in enumerate(skus)}
        names = ", ".join(f":{name}" for name in params)
        rows = await tx.fetch_all(f"{_PRODUCTS} WHERE p.sku IN ({names})", params)
        return {row["sku"]: _product(row) for row in rows}

    async def add_product(
        self,
        tx: Transaction,
        *,
        sku: str,
        name: str,
        description: str,
        image: str,
        price: Money,
        on_hand: int,
        position: int,
        now: Microseconds,
    ) -> bool:
        """Add a product with its first stock; False if the SKU is there already (nothing changes)."""
        added = await tx.execute(
            "INSERT INTO products (sku, name, description, image, price_minor, currency, position)"
            " VALUES (:sku, :name, :description, :image, :price_minor, :currency, :position)"
            " ON CONFLICT (sku) DO NOTHING",
            {
                "sku": sku,
                "name": name,
                "description": description,
                "image": image,
                "price_minor": price.minor,
                "currency": price.currency,
                "position": position,
            },
        )
        if not added:
            return False
        await tx.execute(
            "INSERT INTO stock (sku, on_hand, held) VALUES (:sku, :on_hand, 0)", {"sku": sku, "on_hand": on_hand}
        )
        await _move(tx, sku=sku, kind="initial", quantity=on_hand, actor="catalogue", now=now)
        return True

    async def adjust_stock(self, tx: Transaction, *, sku: str, adjust: int, actor: str, now: Microseconds) -> Product:
        """Change the stock on hand by `adjust` and enter it in the stock's journal.

        Raises `errors.NotFound`, or `errors.InvalidRequest` where goods are held that would then be missing.
        """
        product = await self.get_product(tx, sku)
        if product is None:
            raise NotFound("There is no product with this SKU.")
        if adjust == 0:
            return product
        changed = await tx.execute(
            "UPDATE stock SET on_hand = on_hand + :adjust"
            " WHERE sku = :sku AND on_hand + :adjust >= held AND on_hand + :adjust <= :largest",
            {"sku": sku, "adjust": adjust, "largest": LARGEST_MINOR},
        )
        if not changed:
            raise InvalidRequest(
                f"{sku} has {product.on_hand} on hand, {product.held} of them held by buyers who are paying right now."
                f" It can be lowered by {product.on_hand - product.held} at most."
            )
        await _move(tx, sku=sku, kind="adjustment", quantity=adjust, actor=actor, now=now)
        found = await self.get_product(tx, sku)
        assert found is not None
        return found

    async def create_order(
        self,
        tx: Transaction,
        *,
        ids: Ids,
        user_id: str,
        lines: Sequence[tuple[str, int]],
        now: Microseconds,
        lifetime_seconds: int = 24 * 3600,
        bounds: OrderBounds = OrderBounds(),
    ) -> OrderView:
        """Add an order at the catalogue's prices; it holds nothing.

        Raises `errors.InvalidRequest`, `errors.SoldOut`, or `errors.TooManyAttempts` for one unpaid order too many.
        """
        wanted = _merged(lines, most_pieces=bounds.pieces)
        if bounds.unpaid is not None:
            await _refuse_too_many(tx, user_id, bounds.unpaid, now=now)
        known = await self._products(tx, list(wanted))
        _refuse_unknown(wanted, known)
        short = [known[sku] for sku, quantity in wanted.items() if known[sku].on_hand < quantity]
        if short:
            raise SoldOut(
                f"Sorry, there is not enough of {short[0].name} left. You have not been charged.",
                skus=[product.sku for product in short],
            )
        created = _new_order(wanted, known, ids=ids, user_id=user_id, now=now)
        await write_later(
            tx,
            _INSERT_ORDER,
            {
                "id": created.id,
                "number": created.number,
                "user_id": user_id,
                "total": created.total.minor,
                "currency": created.total.currency,
                "now": now,
                "expires_at": now + lifetime_seconds * SECOND,
            },
        )
        rows = [_line_values(created.id, line) for line in created.lines]
        # Each number of lines makes a statement of its own, which the database prepares and keeps.
        for first in range(0, len(rows), _LINES_AT_ONCE):
            await write_later(tx, *insert("order_lines", rows[first : first + _LINES_AT_ONCE]))
        return created

    async def get_order(self, tx: Transaction, order_id: str) -> OrderView | None:
        """One order with its lines, or None. Whose it is, the caller checks."""
        found = await self._orders(tx, "o.id = :id", {"id": order_id})
        return found[0] if found else None

    async def list_orders(self, tx: Transaction, user_id: str) -> list[OrderView]:
        """A buyer's orders, newest first, at most 100."""
        return await self._orders(tx, "o.user_id = :user_id", {"user_id": user_id})

    async def latest_orders(self, tx: Transaction) -> list[OrderView]:
        """Everybody's newest orders, for staff, at most 100."""
        return await self._orders(tx, "o.user_id = o.user_id", {})

    async def _orders(self, tx: Transaction, condition: str, params: dict[str, object]) -> list[OrderView]:
        chosen = f"SELECT o.* FROM orders o WHERE {condition} ORDER BY o.created_at DESC, o.id LIMIT 100"  # noqa: S608
        orders = await tx.fetch_all(chosen, params)
        rows = await tx.fetch_all(
            f"SELECT l.* FROM order_lines l JOIN ({chosen}) c ON c.id = l.order_id ORDER BY l.order_id, l.sku",  # noqa: S608
            params,
        )
        lines: dict[str, list[Row]] = {}
        for row in rows:
            lines.setdefault(row["order_id"], []).append(row)
        return [_order(order, lines.get(order["id"], [])) for order in orders]


def _line_values(order_id: str, line: OrderLine) -> dict[str, object]:
    return {
        "order_id": order_id,
        "sku": line.sku,
        "name": line.name,
        "quantity": line.quantity,
        "unit_price_minor": line.unit_price.minor,
    }


def _sold_out(short: Sequence[Row]) -> SoldOut:
    names = ", ".join(row["name"] for row in short)
    return SoldOut(f"Sorry, {names} has just sold out. You have not been charged.", skus=[row["sku"] for row in short])


async def _refuse_too_many(tx: Transaction, user_id: str, most: int, *, now: Microseconds) -> None:
    await take_turns(tx, f"orders of {user_id}")
    row = await tx.fetch_one(
        "SELECT count(*) AS n FROM orders WHERE user_id = :user_id AND status = 'open' AND expires_at > :now",
        {"user_id": user_id, "now": now},
    )
    if row is not None and row["n"] >= most:
        raise TooManyAttempts(
            f"You have {row['n']} orders that wait for their payment. Please pay or cancel one of them before you order"
            " more. You have not been charged."
        )


def _merged(lines: Sequence[tuple[str, int]], *, most_pieces: int) -> dict[str, int]:
    if not lines:
        raise InvalidRequest("An order needs at least one line.")
    merged: dict[str, int] = {}
    for sku, quantity in lines:
        if type(quantity) is not int or quantity < 1:
            raise InvalidRequest(f"The quantity of {sku} must be a whole number of at least 1.")
        merged[sku] = merged.get(sku, 0) + quantity
        if merged[sku] > most_pieces:
            raise InvalidRequest(f"The quantity of {sku} must not exceed {most_pieces}.")
    if len(merged) > MOST_LINES:
        raise InvalidRequest(f"An order has at most {MOST_LINES} lines.")
    return merged


def _refuse_unknown(wanted: dict[str, int], known: dict[str, Product]) -> None:
    unknown = [sku for sku in wanted if sku not in known]
    if unknown:
        raise InvalidRequest(f"There is no product with the SKU {unknown[0]!r}. GET /api/products lists them.")
    currencies = {known[sku].price.currency for sku in wanted}
    if len(currencies) > 1:
        raise InvalidRequest(f"One order has one currency, not {' and '.join(sorted(currencies))}.")


def _total(wanted: dict[str, int], known: dict[str, Product]) -> Money:
    minor = sum(known[sku].price.minor * quantity for sku, quantity in wanted.items())
    if minor > LARGEST_MINOR:
        raise InvalidRequest("The order's total is too large; please split it.")
    return Money(minor, next(known[sku].price.currency for sku in wanted))


def _new_order(
    wanted: dict[str, int], known: dict[str, Product], *, ids: Ids, user_id: str, now: Microseconds
) -> OrderView:
    total = _total(wanted, known)
    return OrderView(
        id=ids.new("ord"),
        number=_number(ids),
        user_id=user_id,
        status=OrderStatus.OPEN,
        refund_status=RefundStatus.NONE,
        total=total,
        due=total,
        lines=tuple(
            OrderLine(sku, known[sku].name, quantity, known[sku].price) for sku, quantity in sorted(wanted.items())
        ),
        created_at=now,
        paid_at=None,
    )


def _number(ids: Ids) -> str:
    # Short enough to read out on the telephone: 45 bits, and the unique constraint catches the rare repeat.
    return ids.new("PO").upper().replace("_", "-")[:12]


def _product(row: Row) -> Product:
    return Product(
        sku=row["sku"],
        name=row["name"],
        description=row["description"],
        image=row["image"],
        price=Money(row["price_minor"], row["currency"]),
        available=row["on_hand"] - row["held"],
        on_hand=row["on_hand"],
        held=row["held"],
    )


def _order(row: Row, lines: Sequence[Row]) -> OrderView:
    currency = row["currency"]
    return OrderView(
        id=row["id"],
        number=row["number"],
        user_id=row["user_id"],
        status=OrderStatus(row["status"]),
        refund_status=RefundStatus(row["refund_status"]),
        total=Money(row["total_minor"], currency),
        due=Money(row["due_minor"], currency),
        lines=tuple(
            OrderLine(line["sku"], line["name"], line["quantity"], Money(line["unit_price_minor"], currency))
            for line in lines
        ),
        created_at=row["created_at"],
        paid_at=row["paid_at"],
    )


async def _move(tx: Transaction, *, sku: str, kind: str, quantity: int, actor: str, now: Microseconds) -> None:
    await tx.execute(
        "INSERT INTO stock_movements (sku, kind, quantity, actor, created_at)"
        " VALUES (:sku, :kind, :quantity, :actor, :now)",
        {"sku": sku, "kind": kind, "quantity": quantity, "actor": actor, "now": now},
    )
