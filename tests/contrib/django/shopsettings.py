"""The example shop's settings for a shop under test: nothing of them is weaker where it matters."""

from __future__ import annotations

from django_shop.settings import *  # noqa: F403
from django_shop.settings import PAIDONCE

# Signing in 52 buyers would take a minute with a real one.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
PAIDONCE = {**PAIDONCE, "STORE": "contrib.django.failing.FailingStore"}
