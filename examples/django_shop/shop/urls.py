"""The shop's pages."""

from django.urls import path

from shop import views

urlpatterns = [
    path("", views.catalogue, name="catalogue"),
    path("sign-up/", views.sign_up, name="sign-up"),
    path("orders/", views.orders, name="orders"),
    path("orders/new/", views.place_order, name="place-order"),
    path("orders/<str:order_id>/", views.order, name="order"),
    path("orders/<str:order_id>/pay/", views.pay, name="pay"),
]
