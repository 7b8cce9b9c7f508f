"""The project's settings. What differs between places comes from the environment."""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

BASE_DIR = Path(__file__).parent.parent
DATA_DIR = Path(os.environ.get("DATA", BASE_DIR.parents[1] / "var" / "django-shop"))


def _secret_key():
    """The environment's, or one that this folder keeps for itself."""
    if "DJANGO_SECRET_KEY" in os.environ:
        return os.environ["DJANGO_SECRET_KEY"]
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    file = DATA_DIR / "secret-key"
    if not file.exists():
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_urlsafe(48))
    return file.read_text()


def _database():
    """SQLite in the data folder, or the PostgreSQL that DATABASE_URL names."""
    url = os.environ.get("DATABASE_URL", "")
    if url.startswith(("postgres://", "postgresql://")):
        from psycopg.conninfo import conninfo_to_dict

        known = conninfo_to_dict(url)
        names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
        own = {django: str(known.pop(libpq)) for libpq, django in names.items() if known.get(libpq)}
        return {"ENGINE": "django.db.backends.postgresql", **own, "OPTIONS": known}
    file = url.removeprefix("sqlite:///") or str(DATA_DIR / "shop.db")
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": file,
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
            "transaction_mode": "IMMEDIATE",
        },
    }


SECRET_KEY = _secret_key()
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
PUBLIC_URL = os.environ.get("PAIDONCE_PUBLIC_URL", "http://127.0.0.1:8200")
ALLOWED_HOSTS = [urlsplit(PUBLIC_URL).hostname]
# Gateways open windows that talk to the page which opened them.
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin-allow-popups"
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = PUBLIC_URL.startswith("https://")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "paidonce.contrib.django",
    "shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "django_shop.urls"
WSGI_APPLICATION = "django_shop.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {"default": _database()}
# The pages of this shop run in a transaction each. paidonce's own views commit by themselves.
DATABASES["default"]["ATOMIC_REQUESTS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL, LOGIN_REDIRECT_URL, LOGOUT_REDIRECT_URL = "login", "catalogue", "catalogue"
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "paidonce.contrib.django.assets.AssetsFinder",
]

PAIDONCE = {
    "STORE": "shop.payments.ShopStore",
    "RETURN_PATH": "/orders/{order}/pay/?payment={payment}",
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    # runserver's line per request would show the addresses that gateways send buyers back to, secrets included.
    "loggers": {"django.server": {"level": "CRITICAL"}},
}
