"""Who is asking, by Django's own sign-in."""

from __future__ import annotations

from typing import Any

from paidonce.core import Actor


def signed_in(request: Any) -> Actor | None:
    """`request.user`, with `is_staff` for those who may refund and capture; None for nobody.

    A shop that also sells to guests names a function of its own in `PAIDONCE["ACTOR"]`; what it returns as `user_id` is
    compared with the order's.
    """
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or not user.is_active:
        return None
    return Actor(str(user.pk), is_staff=user.is_staff)
