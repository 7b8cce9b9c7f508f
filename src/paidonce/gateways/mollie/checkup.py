"""What Mollie's API tells of our profile, for `paidonce doctor`: readings only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from paidonce.errors import OutcomeUnknown
from paidonce.gateways.base import Finding, Health, Needs
from paidonce.gateways.mollie import wire
from paidonce.gateways.mollie.client import MollieClient
from paidonce.gateways.mollie.settings import Settings
from paidonce.money import Money, MoneyError

# Methods have limits; this sum, in minor units, lies within those of nearly all.
_USUAL_MINOR = 2_000
_WHERE = "in Mollie's dashboard, Settings, Payment methods"


async def findings(client: MollieClient, settings: Settings, needs: Needs) -> Sequence[Finding]:
    """Whether the profile may take payments and by what, and whether webhooks can come. Raises any `GatewayError`."""
    found = [*_profile(await client.get("/v2/profiles/me"))]
    for currency in needs.currencies or ("EUR",):
        finding = await _methods(client, currency)
        found += [] if finding is None else [finding]
    return [*found, _webhook(settings, needs)]


def _profile(profile: Mapping[str, Any]) -> Sequence[Finding]:
    status = profile.get("status", "verified")
    if status == "verified":
        return ()
    text = f"Mollie calls this profile {'unverified' if status == 'unverified' else 'blocked'}: it takes no payments."
    return (Finding("account", Health.RED, text, "Finish what Mollie's dashboard asks for about the profile."),)


async def _methods(client: MollieClient, currency: str) -> Finding | None:
    try:
        amount = wire.money_to_wire(Money(_USUAL_MINOR, currency))
    except MoneyError:
        # The core tells of currencies that a gateway can't express.
        return None
    query = "?" + urlencode({f"amount[{name}]": value for name, value in amount.items()})
    body = await client.get("/v2/methods", query)
    count = body.get("count")
    if type(count) is not int:
        raise OutcomeUnknown("Mollie's list of payment methods can't be read")
    if not count:
        text = f"No payment method that takes {currency} is switched on for this profile."
        return Finding("methods", Health.RED, text, f"Switch one on {_WHERE}.")
    return Finding("methods", Health.GREEN, f"Payment methods switched on that take {currency}: {count}.")


def _webhook(settings: Settings, needs: Needs) -> Finding:
    """Mollie has no list of endpoints: it is told with each payment where its webhooks go."""
    if needs.reachable or settings.beside_us:
        text = f"Each payment tells Mollie to send webhooks to {needs.webhook_url}."
        return Finding("webhook.endpoint", Health.GREEN, text)
    return Finding(
        "webhook.endpoint",
        Health.YELLOW,
        "Mollie can't reach this machine, so no webhooks come and payments settle a little later.",
        "Nothing has to be done while you develop; in production set PAIDONCE_PUBLIC_URL.",
    )
