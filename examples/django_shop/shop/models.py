"""The shop's own tables: products with their stock, orders, and the points that buyers collect."""

import secrets
from datetime import timedelta

from django.conf import settings
from django.db import models
from django.utils import timezone


def new_order_id():
    """Nobody can guess another buyer's order."""
    return secrets.token_hex(8)


def in_a_day():
    """How long an order can be paid."""
    return timezone.now() + timedelta(days=1)


class Product(models.Model):
    """Something to buy. The price counts cents."""

    sku = models.CharField(max_length=40, primary_key=True)
    name = models.CharField(max_length=80)
    description = models.CharField(max_length=200, blank=True)
    picture = models.CharField(max_length=40, default="gift.svg", help_text="A file in static/shop/goods")
    price_cents = models.PositiveIntegerField()
    stock = models.PositiveIntegerField()
    position = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["position", "sku"]

    def __str__(self):
        return self.name

    @property
    def price(self):
        """The price as people write it."""
        return euros(self.price_cents)


class Order(models.Model):
    """What somebody ordered. `due_cents` is what has to be paid; it falls if the shop captures a part only."""

    class Status(models.TextChoices):
        """The words of paidonce."""

        OPEN = "open", "Waiting for payment"
        PENDING = "pending", "Payment being confirmed"
        PAID = "paid", "Paid"
        CANCELED = "canceled", "Canceled"
        EXPIRED = "expired", "Expired"

    class Refunded(models.TextChoices):
        """How much has gone back."""

        NONE = "none", "—"
        PARTIAL = "partial", "Partly refunded"
        FULL = "full", "Refunded"

    id = models.CharField(max_length=16, primary_key=True, default=new_order_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT)
    status = models.CharField(max_length=10, choices=Status, default=Status.OPEN)
    refunded = models.CharField(max_length=10, choices=Refunded, default=Refunded.NONE)
    due_cents = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(default=in_a_day)
    paid_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self):
        return self.number

    @property
    def number(self):
        """What people and gateways call it."""
        return f"DJ-{self.id[:8].upper()}"

    @property
    def total(self):
        """What has to be paid, as people write it."""
        return euros(self.due_cents)


class OrderLine(models.Model):
    """One product of an order, at the name and price of that moment."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    name = models.CharField(max_length=80)
    quantity = models.PositiveIntegerField()
    price_cents = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["order", "product"], name="a_product_once_per_order")]

    def __str__(self):
        return f"{self.quantity} × {self.name}"  # noqa: RUF001 - a multiplication sign.

    @property
    def total(self):
        """Price times quantity, as people write it."""
        return euros(self.price_cents * self.quantity)


class Points(models.Model):
    """One point for each euro, given in the same transaction that makes the order paid."""

    order = models.OneToOneField(Order, on_delete=models.PROTECT)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT)
    points = models.PositiveIntegerField()

    class Meta:
        verbose_name_plural = "points"

    def __str__(self):
        return f"{self.points} for {self.order}"


def euros(cents):
    """An amount as people write it."""
    return f"€{cents // 100}.{cents % 100:02}"
