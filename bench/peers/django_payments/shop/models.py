"""Products, orders, and the payment as django-payments wants it."""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any

from django.db import models
from payments.models import BasePayment


class Product(models.Model):
    """Something to buy. Amounts are minor units."""

    sku = models.CharField(max_length=40, unique=True)
    price = models.IntegerField()
    stock = models.BigIntegerField()

    class Meta:
        constraints = (models.CheckConstraint(condition=models.Q(stock__gte=0), name="stock_not_negative"),)


class Order(models.Model):
    """What somebody wants to buy."""

    total = models.IntegerField()
    paid = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)


class Line(models.Model):
    """One product of an order."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.PROTECT)
    quantity = models.IntegerField()


class Payment(BasePayment):
    """One attempt to pay an order."""

    order = models.ForeignKey(Order, models.PROTECT, related_name="payments")

    def get_success_url(self) -> str:
        return f"http://127.0.0.1/orders/{self.order_id}"

    def get_failure_url(self) -> str:
        return self.get_success_url()

    def get_purchased_items(self) -> list[Any]:
        return []
