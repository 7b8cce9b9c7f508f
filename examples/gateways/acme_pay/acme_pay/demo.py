"""What a buyer does at AcmePay, without a browser: for `paidonce demo --once`."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from paidonce.errors import GatewayRefused
from paidonce.gateways.base import HttpRequest, Transport


def tries(*, offline: bool) -> tuple[tuple[str, str], ...]:
    """What to choose on the approval page, and what then happens. The real AcmePay offers what its account holds."""
    if not offline:
        return (("Any approval", "the payment succeeds, or the page says why not"),)
    return (
        ("Acme account", "the payment succeeds"),
        ("Empty Acme account", "declined, insufficient funds; choose again on the same order"),
        ("Cancel", "back on the pay page, with nothing lost"),
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
    """Press a button on the twin's page; for the real AcmePay, give the link where a person approves.

    Raises `GatewayRefused` if the twin's page does not send the buyer back.
    """
    del environment, return_url
    if not offline:
        return client["approve_url"]
    form = urlencode({"choice": "empty_account" if decline else "account"})
    headers = {"content-type": "application/x-www-form-urlencoded"}
    request = HttpRequest("POST", client["approve_url"], headers, form.encode())
    answer = await transport.send(request, deadline_seconds=30)
    if answer.status != 303:
        raise GatewayRefused(f"the approval page answered with HTTP {answer.status}", code="demo")
    return None
