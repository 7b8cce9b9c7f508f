"""All addresses: the shop's own, Django's sign-in and admin, and paidonce's API and webhooks."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("sign-in/", LoginView.as_view(), name="login"),
    path("sign-out/", LogoutView.as_view(), name="logout"),
    path("", include("paidonce.contrib.django.urls")),
    path("", include("shop.urls")),
]
