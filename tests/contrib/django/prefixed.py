"""Addresses of a project that includes paidonce below a path."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("money/", include("paidonce.contrib.django.urls"))]
