"""Who is asking, by Django's own sign-in."""

from __future__ import annotations

import time
from typing import Any

from paidonce.core import Actor

# How long a second look counts.
CONFIRMED_SECONDS = 5 * 60
_CONFIRMED = "paidonce_confirmed"


def signed_in(request: Any) -> Actor | None:
    """`request.user`, with `is_staff` for those who may refund and capture; None for nobody.

    A shop that also sells to guests names a function of its own in `PAIDONCE["ACTOR"]`; what it returns as `user_id` is
    compared with the order's.
    """
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or not user.is_active:
        return None
    return Actor(str(user.pk), is_staff=user.is_staff, confirmed=_is_confirmed(request, str(user.pk)))


def confirm(request: Any) -> None:
    """Note in the session that `request.user` has just given the password again: call it from the view that checked it.

    Refunds above PAIDONCE_SECOND_LOOK_ABOVE need it. It counts for five minutes, in this session and for this user.
    """
    request.session[_CONFIRMED] = [str(request.user.pk), int(time.time())]


def _is_confirmed(request: Any, user_id: str) -> bool:
    session = getattr(request, "session", None)
    noted = None if session is None else session.get(_CONFIRMED)
    if not isinstance(noted, list) or len(noted) != 2 or noted[0] != user_id or type(noted[1]) is not int:
        return False
    return 0 <= time.time() - noted[1] < CONFIRMED_SECONDS
