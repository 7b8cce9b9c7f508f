"""How paidonce sees this shop: its orders and its stock. All of it runs in the transaction that settles a payment."""

from django.db.models import F
from django.utils import timezone

from paidonce.contrib.django.store import (
    DjangoStore,
    Money,
    OrderStatus,
    PayableOrder,
    StockLine,
    microseconds,
    moment,
    row,
)
from shop.models import Order, OrderLine, Points, Product


class ShopStore(DjangoStore):
    """The store over the shop's models."""

    def get_order(self, order_id, *, lock):
        order = row(Order.objects.all(), order_id, lock=lock)
        if order is None:
            return None
        return PayableOrder(
            id=order.pk,
            number=order.number,
            user_id=str(order.user_id),
            status=OrderStatus(order.status),
            total=Money(order.due_cents, "EUR"),
            expires_at=microseconds(order.expires_at),
        )

    def set_status(self, order, status):
        Order.objects.filter(pk=order.id).update(status=status)
        if status == OrderStatus.PAID:
            Order.objects.filter(pk=order.id).update(paid_at=timezone.now())
            # The shop's own code: should it fail, nothing is paid, taken or booked, and it is all tried again.
            Points.objects.create(order_id=order.id, user_id=order.user_id, points=order.total.minor // 100)

    def get_stock(self, order_id):
        wanted = dict(OrderLine.objects.filter(order_id=order_id).values_list("product_id", "quantity"))
        products = Product.objects.select_for_update().filter(pk__in=wanted).order_by("pk")
        return [StockLine(one.sku, one.name, wanted[one.sku], one.stock) for one in products]

    def add_stock(self, sku, quantity):
        Product.objects.filter(pk=sku).update(stock=F("stock") + quantity)

    # ── What a shop may leave out ──────────

    def find_order(self, text):
        wanted = text.lower().removeprefix("dj-")
        return Order.objects.filter(pk__startswith=wanted).values_list("pk", flat=True).first() if wanted else None

    def set_refund_status(self, order, status):
        Order.objects.filter(pk=order.id).update(refunded=status)

    def set_due(self, order_id, due):
        Order.objects.filter(pk=order_id).update(due_cents=due.minor)

    def get_expired(self, *, now, after, limit):
        over = Order.objects.filter(status=Order.Status.OPEN, expires_at__lte=moment(now), pk__gt=after)
        return list(over.order_by("pk").values_list("pk", flat=True)[:limit])
