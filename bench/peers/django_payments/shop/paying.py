"""What django-payments leaves to the shop: the order becomes paid and the goods leave the shelf, once."""

# mypy: ignore-errors

from __future__ import annotations

import os
from typing import Any

import stripe
from django.db import transaction
from django.db.models import F
from payments import PaymentStatus
from payments.signals import status_changed


def connect() -> None:
    """Listen to payments, and send Stripe's client to the fake."""
    stripe.api_base = os.environ["BENCH_GATEWAY"]
    stripe.enable_telemetry = False
    status_changed.connect(_status_changed)


def _status_changed(sender: Any, instance: Any, **_: Any) -> None:
    if instance.status == PaymentStatus.CONFIRMED:
        _pay(instance.order_id)


@transaction.atomic
def _pay(order_id: int) -> None:
    from shop.models import Order, Product

    order = Order.objects.select_for_update().get(pk=order_id)
    if order.paid:
        return
    for line in order.lines.order_by("product_id"):
        Product.objects.filter(pk=line.product_id).update(stock=F("stock") - line.quantity)
    order.paid = True
    order.save(update_fields=["paid"])
