"""paidonce inside a Django project: the same core, driven without an event loop, on Django's own connection.

Add `paidonce.contrib.django` to INSTALLED_APPS, name the shop's store in `PAIDONCE`, and include
`paidonce.contrib.django.urls`. docs/django.md tells it step by step. For views of your own:

    from paidonce.contrib.django import run, runtime

    result = run(checkout.complete(runtime().core, payment_id, actor))
"""

from __future__ import annotations

from typing import Any

__all__ = ["DjangoDatabase", "DjangoStore", "Runtime", "run", "runtime"]

_HOMES = {
    "DjangoDatabase": "paidonce.db.django",
    "DjangoStore": "paidonce.contrib.django.store",
    "Runtime": "paidonce.contrib.django.runtime",
    "run": "paidonce.contrib.django.driver",
    "runtime": "paidonce.contrib.django.runtime",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are used: Django imports this package before its settings are ready."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
