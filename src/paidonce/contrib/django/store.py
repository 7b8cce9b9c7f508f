"""`DjangoStore`: a shop's own Django models as the orders and the stock that paidonce works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError

from paidonce.hoststore import HostStore, StockLine
from paidonce.money import Money
from paidonce.ports import Microseconds, Transaction
from paidonce.states import OrderStatus, RefundStatus
from paidonce.store import PayableOrder

__all__ = [
    "DjangoStore",
    "Money",
    "OrderStatus",
    "PayableOrder",
    "RefundStatus",
    "StockLine",
    "microseconds",
    "moment",
    "row",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(moment: datetime) -> Microseconds:
    """A moment as paidonce counts it. `moment` has a time zone (`USE_TZ`)."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: Microseconds) -> datetime:
    """A moment as Django's models keep it, in UTC."""
    return _EPOCH + timedelta(microseconds=value)


def row(queryset: Any, key: str, *, lock: bool) -> Any | None:
    """The row with the primary key `key`, or None; `key` may be any text. `lock=True` locks it until the commit."""
    try:
        value = queryset.model._meta.pk.to_python(key)
    except ValidationError:
        return None
    chosen = queryset.filter(pk=value)
    return (chosen.select_for_update() if lock else chosen).first()


class DjangoStore(HostStore):
    """A `Store` in plain methods over the ORM, inside the transaction that settles a payment and on its connection.

    So whatever they write becomes true together with the payment, or not at all. They do database work only, and may be
    run again after a conflict: mail and the like belong into `transaction.on_commit`. What they raise rolls the whole
    transaction back, and the payment is settled later. Reservations are kept by paidonce (see `HostStore`).
    """

    # ── What the shop brings ──────────

    def get_order(self, order_id: str, *, lock: bool) -> PayableOrder | None:
        """The order, or None. `order_id` may be any text that came in a URL; `row()` helps with both."""
        raise NotImplementedError

    def set_status(self, order: PayableOrder, status: OrderStatus) -> None:
        """Move the order to `status`. The place for the shop's own code that belongs to a paid order.

        `OrderStatus.PAID` comes once per order, in the transaction that books the money.
        """
        raise NotImplementedError

    def get_stock(self, order_id: str) -> Sequence[StockLine]:
        """The order's products with what is on hand, locked by `select_for_update()`, one line each, ordered by SKU.

        The order by SKU keeps two orders with the same goods from waiting for each other. What needs no stock is left
        out.
        """
        raise NotImplementedError

    def add_stock(self, sku: str, quantity: int) -> None:
        """Add `quantity` to the stock on hand; negative ones were sold. The row is locked already."""
        raise NotImplementedError

    # ── What it may bring ──────────

    def find_order(self, text: str) -> str | None:
        """The id of the order with this number or id, for staff who search; None if there is none."""
        order = self.get_order(text, lock=False)
        return None if order is None else order.id

    def set_refund_status(self, order: PayableOrder, status: RefundStatus) -> None:
        """Say how much of the paid order has gone back. By default the payment alone says it."""

    def set_due(self, order_id: str, due: Money) -> None:
        """Lower what has to be paid to `due`, since staff captured only that. By default the payment alone says it."""

    def get_expired(self, *, now: Microseconds, after: str, limit: int) -> Sequence[str]:
        """Unpaid orders whose `expires_at` is over: ids above `after`, in their order as text, at most `limit`.

        By default none ever ends.
        """
        return ()

    # ── The port ──────────

    async def find(self, tx: Transaction, order_id: str, *, lock: bool) -> PayableOrder | None:
        """See `HostStore.find`."""
        return self.get_order(order_id, lock=lock)

    async def mark(self, tx: Transaction, order: PayableOrder, status: OrderStatus, *, now: Microseconds) -> None:
        """See `HostStore.mark`."""
        self.set_status(order, status)

    async def lock_stock(self, tx: Transaction, order_id: str) -> Sequence[StockLine]:
        """See `HostStore.lock_stock`."""
        return self.get_stock(order_id)

    async def change_stock(self, tx: Transaction, changes: Mapping[str, int]) -> None:
        """See `HostStore.change_stock`."""
        for sku, quantity in sorted(changes.items()):
            self.add_stock(sku, quantity)

    async def named(self, tx: Transaction, text: str) -> str | None:
        """See `HostStore.named`."""
        return self.find_order(text)

    async def mark_refunded(
        self, tx: Transaction, order: PayableOrder, status: RefundStatus, *, now: Microseconds
    ) -> None:
        """See `HostStore.mark_refunded`."""
        self.set_refund_status(order, status)

    async def lower_due(self, tx: Transaction, order_id: str, due: Money) -> None:
        """See `HostStore.lower_due`."""
        self.set_due(order_id, due)

    async def expired(self, tx: Transaction, *, now: Microseconds, after: str, limit: int) -> Sequence[str]:
        """See `HostStore.expired`."""
        return self.get_expired(now=now, after=after, limit=limit)
