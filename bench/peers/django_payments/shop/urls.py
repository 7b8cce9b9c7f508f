"""The same requests that the load makes of every contestant."""

# mypy: ignore-errors

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from payments import RedirectNeeded
from payments.core import provider_factory
from payments.urls import static_callback

from shop.models import Line, Order, Payment, Product


@csrf_exempt
def create_order(request: HttpRequest) -> JsonResponse:
    wanted = {one["sku"]: one["quantity"] for one in json.loads(request.body)["lines"]}
    with transaction.atomic():
        products = list(Product.objects.filter(sku__in=wanted))
        order = Order.objects.create(total=sum(one.price * wanted[one.sku] for one in products))
        Line.objects.bulk_create(Line(order=order, product=one, quantity=wanted[one.sku]) for one in products)
    return JsonResponse({"id": order.pk, "total": order.total}, status=201)


@csrf_exempt
def start(_: HttpRequest, order_id: int) -> JsonResponse:
    order = Order.objects.get(pk=order_id)
    payment = Payment.objects.create(
        variant="stripe", order=order, total=Decimal(order.total) / 100, currency="EUR", description=f"Order {order.pk}"
    )
    with suppress(RedirectNeeded):
        payment.get_form()
    client = {"session": payment.transaction_id, "token": payment.token}
    return JsonResponse({"id": payment.pk, "client": client}, status=201)


@csrf_exempt
def complete(_: HttpRequest, payment_id: int) -> JsonResponse:
    payment = Payment.objects.get(pk=payment_id)
    payment = provider_factory(payment.variant, payment).status(payment)
    order = Order.objects.get(pk=payment.order_id)
    told: dict[str, Any] = {"confirmed": "captured"}
    status = told.get(payment.status, payment.status)
    return JsonResponse({"status": status, "order_status": "paid" if order.paid else "open"})


@csrf_exempt
def webhook(request: HttpRequest) -> Any:
    return static_callback(request, "stripe")


def ready(_: HttpRequest) -> JsonResponse:
    return JsonResponse({})


urlpatterns = [
    path("api/orders", create_order),
    path("api/orders/<int:order_id>/payments", start),
    path("api/payments/<int:payment_id>/complete", complete),
    path("webhooks/stripe", webhook),
    path("readyz", ready),
]
