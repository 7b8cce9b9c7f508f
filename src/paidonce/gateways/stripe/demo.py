"""What a buyer does at Stripe, without a browser: for `paidonce demo --once`, against the twin or real test keys."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from paidonce.errors import GatewayRefused
from paidonce.gateways.base import HttpRequest, Transport
from paidonce.gateways.stripe.settings import API_BASE

_DEADLINE_SECONDS = 30
# Stripe's own test payment methods (https://docs.stripe.com/testing); no card number travels.
_PAYS, _DECLINES = "pm_card_visa", "pm_card_visa_chargeDeclinedInsufficientFunds"


def tries(*, offline: bool) -> tuple[tuple[str, str], ...]:
    """The cards that a person can try, and what then happens; test mode and the twin agree on all but the slow one."""
    slow = ("4000 0000 0000 7007", "the bank takes its time: neither paid nor declined for three days")
    return (
        ("4242 4242 4242 4242", "the payment succeeds"),
        ("4000 0000 0000 9995", "declined, insufficient funds; try another card on the same page"),
        ("4000 0025 0000 3155", "the bank asks for 3-D Secure first"),
        *((slow,) if offline else ()),
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
    """Confirm the intent with a test card, as Stripe.js would. Works at Stripe's test mode and at its twin alike.

    `client` holds what the shop gave the browser. Raises `GatewayRefused` if Stripe neither paid nor declined.
    """
    del offline
    intent = client["client_secret"].split("_secret_", 1)[0]
    base = environment.get("STRIPE_API_BASE", "").rstrip("/") or API_BASE
    headers = {
        "authorization": f"Bearer {environment['STRIPE_SECRET_KEY']}",
        "content-type": "application/x-www-form-urlencoded",
    }
    form = urlencode({"payment_method": _DECLINES if decline else _PAYS, "return_url": return_url})
    request = HttpRequest("POST", f"{base}/v1/payment_intents/{quote(intent)}/confirm", headers, form.encode())
    answer = await transport.send(request, deadline_seconds=_DEADLINE_SECONDS)
    expected = 402 if decline else 200
    if answer.status != expected:
        raise GatewayRefused(
            f"confirming with a test card gave HTTP {answer.status} where {expected} was expected", code="demo"
        )
    return None
