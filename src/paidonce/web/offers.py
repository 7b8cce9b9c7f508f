"""The ways to pay an order, as the pay page renders them and `GET /api/orders/{id}/payment-methods` tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from paidonce import payments
from paidonce.errors import AlreadyPaid, NotFound, OrderClosed, PaymentInProgress
from paidonce.gateways.base import Component, Gateway
from paidonce.money import Money, MoneyError
from paidonce.payments import Payment
from paidonce.ports import Transaction
from paidonce.states import OrderStatus, PaymentStatus
from paidonce.store import PayableOrder, Store
from paidonce.web import views
from paidonce.web.shop import Wiring

# The money may still move in these, so nobody is offered to pay again.
UNDER_WAY = frozenset({PaymentStatus.PROCESSING, PaymentStatus.AUTHORIZED})


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay: its element with all attributes, or the reason why it can't be used for this order.

    `module` is the path of the ES module that defines the element, below the shop's own address.
    """

    name: str
    title: str
    element: str
    module: str
    attributes: Mapping[str, str]
    unavailable: str | None


class Payable(Protocol):
    """What is to be paid: the built-in shop's order, or a host's as its store tells it."""

    @property
    def id(self) -> str:
        """The order's id, as its address has it."""

    @property
    def user_id(self) -> str:
        """Whose order it is."""

    @property
    def status(self) -> OrderStatus:
        """Where it stands."""

    @property
    def total(self) -> Money:
        """What is to be paid."""


async def payable_order(tx: Transaction, store: Store, order_id: str, user_id: str) -> PayableOrder:
    """The order, if `user_id` can pay it now. Raises what `refuse_unpayable` raises."""
    order = await store.find(tx, order_id, lock=False)
    if order is None or order.id != order_id:
        raise NotFound("We could not find this order.")
    refuse_unpayable(order, await payments.of_order(tx, order.id), user_id)
    return order


def refuse_unpayable(order: Payable, attempts: Sequence[Payment], user_id: str) -> None:
    """Raise why the user can't pay this order now; `attempts` are its payments.

    `errors.NotFound` for somebody else's order (staff see it, but pay for nobody), `AlreadyPaid`, `OrderClosed` or
    `PaymentInProgress`.
    """
    if order.user_id != user_id:
        raise NotFound("We could not find this order.")
    if order.status is OrderStatus.PAID:
        raise AlreadyPaid
    if order.status not in (OrderStatus.OPEN, OrderStatus.PENDING):
        raise OrderClosed
    if any(_is_under_way(one) for one in attempts):
        raise PaymentInProgress


def _is_under_way(payment: Payment) -> bool:
    return payment.status in UNDER_WAY or payment.is_in_the_way or payment.is_owed


def offers(wiring: Wiring, order: Payable) -> list[Offer]:
    """Every configured gateway, in the order of names."""
    return [_offer(wiring.gateways[name], part, order) for name, part in wiring.components.items()]


def _offer(gateway: Gateway, part: Component, order: Payable) -> Offer:
    module = f"/assets/gateways/{gateway.name}/{part.module}"
    try:
        gateway.check_amount(order.total)
        attributes = gateway.attributes(order.total)
    except MoneyError:
        reason = f"{gateway.title} can't take {views.money(order.total)} exactly. Please pay another way."
        return Offer(gateway.name, gateway.title, part.element, module, {}, reason)
    values = {**part.attributes, **attributes, "order": order.id, "label": f"Pay {views.money(order.total)}"}
    return Offer(gateway.name, gateway.title, part.element, module, values, None)
