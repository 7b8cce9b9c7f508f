"""Mollie's webhooks: a form with one id, signed by nobody. They are a reason to look, and nothing else.

https://docs.mollie.com/reference/webhooks: the body is `id=tr_…` for every change of the payment, its refunds and
chargebacks, so two deliveries that look alike may tell different news.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from paidonce.errors import WebhookRefused
from paidonce.gateways.base import WebhookEvent
from paidonce.ports import Microseconds

# Mollie's own are 28 bytes long.
LARGEST_BODY = 1024
_REF = re.compile(r"tr_[A-Za-z0-9]{1,64}")


def read(body: bytes, *, now: Microseconds, number: int) -> WebhookEvent:
    """The event of a delivery at `now` (microseconds), `number` in the life of this gateway.

    Raises `WebhookRefused` for anything but a form with the id of one payment. It claims nothing: the core looks the
    payment up, and drops ids that it does not know.
    """
    if len(body) > LARGEST_BODY:
        raise WebhookRefused("it is larger than any of Mollie's")
    try:
        form = parse_qsl(body.decode("ascii"), strict_parsing=True, max_num_fields=8)
    except ValueError:
        raise WebhookRefused("it is no form") from None
    ids = [value for name, value in form if name == "id"]
    if len(ids) != 1 or not _REF.fullmatch(ids[0]):
        raise WebhookRefused("it does not name one payment")
    return WebhookEvent(
        gateway="mollie",
        # Mollie gives its deliveries no ids. Each gets its own, or the inbox would take later news for a repetition.
        id=f"{ids[0]}-{now}-{number}",
        type="payment",
        relevant=True,
        created_at=now,
        signed=False,
        ref=ids[0],
    )
