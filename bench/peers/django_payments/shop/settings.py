"""As a small shop would have them in production."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, unquote, urlsplit

_url = os.environ["BENCH_DATABASE_URL"]
_parts = urlsplit(_url)

SECRET_KEY = "bench-Jk3vT9qLw2Zx8RmB5nC7dF1gH6sYpA4u"  # noqa: S105 - signs nothing here.
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["payments", "shop"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

if _url.startswith("sqlite:///"):
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": _url.removeprefix("sqlite:///"),
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "timeout": 30,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
            },
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": _parts.path.lstrip("/"),
            "USER": unquote(_parts.username or ""),
            "PASSWORD": unquote(_parts.password or ""),
            "HOST": dict(parse_qsl(_parts.query)).get("host", _parts.hostname or ""),
            "PORT": str(_parts.port or ""),
            "CONN_MAX_AGE": None,
        }
    }

PAYMENT_MODEL = "shop.Payment"
PAYMENT_HOST = "127.0.0.1"
PAYMENT_USES_SSL = False
PAYMENT_VARIANTS = {
    "stripe": (
        "payments.stripe.StripeProviderV3",
        {
            "api_key": "sk_test_bench4eC39HqLyjWDarjtT1zdp7dc",
            "endpoint_secret": os.environ["BENCH_WEBHOOK_SECRET"],
        },
    )
}
