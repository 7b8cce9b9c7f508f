"""`{% load paidonce %}{% paidonce_components order next=url %}`: the ways to pay an order, on the shop's own page."""

from __future__ import annotations

from typing import Any

from django import template
from django.conf import settings
from django.middleware.csrf import get_token
from django.templatetags.static import static
from django.urls import reverse

from paidonce.contrib.django.integrity import of_static_files

register = template.Library()

_MODULES = ("paidonce/django.js", "paidonce/payment-methods.js")
_SOME_ORDER = "x"
_END = f"/api/orders/{_SOME_ORDER}/payment-methods"


@register.inclusion_tag("paidonce/components.html", takes_context=True)  # type: ignore[untyped-decorator]  # Django has no types.
def paidonce_components(context: Any, order: Any, next: Any = "") -> dict[str, Any]:
    """Every way to pay `order`, an id or a model instance. The buyer is taken on to the page `next` when it is paid.

    The page asks the API which ways there are, so this reads no database and works inside of a host's transaction.
    """
    request = context["request"]
    # Of Django's own policy, and of the package django-csp.
    nonce = str(context.get("csp_nonce") or getattr(request, "csp_nonce", ""))
    return {
        "order": getattr(order, "pk", order),
        "next": str(next),
        "api_base": reverse("paidonce:payment-methods", args=[_SOME_ORDER]).removesuffix(_END),
        "csrf_header": settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-"),
        "csrf_token": get_token(request),
        "scripts": of_static_files().scripts([static(name) for name in _MODULES], nonce=nonce),
    }
