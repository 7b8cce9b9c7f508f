"""The example shop's store, whose own code can be made to fail once, after it has written."""

from __future__ import annotations

from typing import Any

from paidonce.states import OrderStatus
from paidonce.store import PayableOrder


class OwnCodeFailed(Exception):
    """What the shop's own code raises."""


def _shop_store() -> Any:
    from shop.payments import ShopStore

    return ShopStore


class FailingStore(_shop_store()):  # type: ignore[misc]  # The example is no part of the checked code.
    """Everything else is the example's."""

    fail_next = False

    def set_status(self, order: PayableOrder, status: OrderStatus) -> None:
        super().set_status(order, status)
        if status is OrderStatus.PAID and FailingStore.fail_next:
            FailingStore.fail_next = False
            raise OwnCodeFailed("the shop's own code failed after it had written")
