"""What a buyer does at Mollie, without a browser: for `paidonce demo --once`. The real Mollie needs a person for it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from paidonce.errors import GatewayRefused
from paidonce.gateways.base import HttpRequest, Transport

_DEADLINE_SECONDS = 30


def tries(*, offline: bool) -> tuple[tuple[str, str], ...]:
    """What a person can choose at the checkout, and what then happens."""
    if not offline:
        return (("any method of your test profile", "Mollie's test page asks which state the payment shall get"),)
    return (
        ("Card", "the payment succeeds"),
        ("Card that is declined", "declined; choose another way at Mollie's own page"),
        ("Card that fails for good", "failed: insufficient funds; the shop begins a new payment"),
        ("Bank transfer", "the order waits until the money arrives (see the control page)"),
    )


async def act_as_buyer(
    transport: Transport,
    environment: Mapping[str, str],
    client: Mapping[str, str],
    *,
    return_url: str,
    decline: bool,
    offline: bool,
) -> str | None:
    """Choose at the twin's checkout; for the real test mode, the link where a person chooses.

    `client` holds what the shop gave the browser. Raises `GatewayRefused` if the twin's page refuses.
    """
    del environment, return_url
    link = client["checkout_url"]
    if not offline:
        return link
    form = urlencode({"choice": "failing" if decline else "card"})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    request = HttpRequest("POST", link, headers, form.encode())
    answer = await transport.send(request, deadline_seconds=_DEADLINE_SECONDS)
    if answer.status != 303:
        raise GatewayRefused(f"the checkout answered with HTTP {answer.status}", code="demo")
    return None
