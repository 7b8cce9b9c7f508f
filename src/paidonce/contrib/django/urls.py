"""The addresses of docs/http-api.md. Include them at the root, where gateways expect the webhooks."""

from __future__ import annotations

from django.urls import path

from paidonce.contrib.django import views

app_name = "paidonce"

urlpatterns = [
    path("api/orders/<str:order_id>/cancel", views.cancel_order, name="cancel-order"),
    path("api/orders/<str:order_id>/explanation", views.explain_order, name="explanation"),
    path("api/orders/<str:order_id>/payment-methods", views.payment_methods, name="payment-methods"),
    path("api/orders/<str:order_id>/payments", views.start, name="start"),
    path("api/payments/<str:payment_id>", views.payment, name="payment"),
    path("api/payments/<str:payment_id>/complete", views.complete, name="complete"),
    path("api/payments/<str:payment_id>/cancel", views.cancel, name="cancel"),
    path("api/payments/<str:payment_id>/refunds", views.refund, name="refunds"),
    path("api/payments/<str:payment_id>/capture", views.capture, name="capture"),
    path("api/payments/<str:payment_id>/void", views.void, name="void"),
    path("api/payments/<str:payment_id>/actions", views.actions, name="actions"),
    path("api/payments/<str:payment_id>/actions/<str:name>", views.action, name="action"),
    path("webhooks/<str:gateway>", views.webhook, name="webhook"),
]
