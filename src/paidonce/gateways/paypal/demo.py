"""What a buyer does at PayPal, without a browser: for `paidonce demo --once`. The real PayPal needs a person for it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from paidonce.errors import GatewayRefused
from paidonce.gateways.base import HttpRequest, Transport

_DEADLINE_SECONDS = 30


def tries(*, offline: bool) -> tuple[tuple[str, str], ...]:
    """What a person can choose on the approval page, and what then happens."""
    if not offline:
        return (("your sandbox account's buyer", "sign in and approve; the payment succeeds"),)
    return (
        ("PayPal balance", "the payment succeeds"),
        ("Visa ••0002 (will be declined)", "declined; choose another funding source for the same order"),
        ("Cancel and return", "back on the pay page, with nothing lost"),
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
    """Approve the order on the twin's page; for the real sandbox, the link where a person approves it.

    `client` holds what the shop gave the browser. Raises `GatewayRefused` if the twin's page refuses.
    """
    del return_url
    order = client["order_id"]
    if not offline:
        return f"https://www.sandbox.paypal.com/checkoutnow?token={quote(order)}"
    form = urlencode({"token": order, "funding": "declined" if decline else "balance"})
    request = HttpRequest(
        "POST",
        f"{environment['PAYPAL_API_BASE'].rstrip('/')}/checkoutnow/approve",
        {"content-type": "application/x-www-form-urlencoded"},
        form.encode(),
    )
    answer = await transport.send(request, deadline_seconds=_DEADLINE_SECONDS)
    # The page sends the buyer back to the shop, or closes its own window.
    if answer.status not in (200, 303):
        raise GatewayRefused(f"the approval page answered with HTTP {answer.status}", code="demo")
    return None
