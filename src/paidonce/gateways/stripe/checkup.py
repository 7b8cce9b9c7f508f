"""What Stripe's API tells of our account, for `paidonce doctor`: readings only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paidonce.errors import GatewayMisconfigured
from paidonce.gateways.base import Finding, Health, Needs
from paidonce.gateways.stripe import wire
from paidonce.gateways.stripe.client import StripeApi
from paidonce.gateways.stripe.settings import Settings
from paidonce.gateways.stripe.webhook import NEEDED_EVENTS

_LARGEST_PAGE = 100


async def findings(api: StripeApi, settings: Settings, needs: Needs) -> Sequence[Finding]:
    """Whether the account takes payments, and whether its endpoint tells us all we need. Raises any `GatewayError`."""
    found = [*_account((await api.get("/v1/account")).data)]
    if not settings.webhook_secrets:
        return [*found, _without_secret(needs)]
    try:
        answer = await api.get("/v1/webhook_endpoints", {"limit": _LARGEST_PAGE})
        endpoints, _ = wire.page(answer.data)
    except (GatewayMisconfigured, wire.WireError):
        return [*found, _UNREADABLE]
    return [*found, *_endpoint(endpoints, needs)]


_UNREADABLE = Finding(
    "webhook.endpoint",
    Health.YELLOW,
    "The list of webhook endpoints can't be read with this key.",
    "Give the restricted key the right to read webhook endpoints, or look at Stripe's dashboard, Developers, Webhooks.",
)


def _account(data: Mapping[str, Any]) -> Iterator[Finding]:
    # A restricted key may be shown no more than the id.
    if data.get("charges_enabled") is False:
        yield Finding(
            "account",
            Health.RED,
            "Stripe does not let this account take payments yet.",
            "Finish what Stripe's dashboard asks for under Settings, Account status.",
        )


def _without_secret(needs: Needs) -> Finding:
    return Finding(
        "webhook.endpoint",
        Health.YELLOW,
        "STRIPE_WEBHOOK_SECRET is not set, so webhooks are refused and payments settle a little later.",
        f"Make an endpoint for {needs.webhook_url} in Stripe's dashboard and set its signing secret.",
    )


def _endpoint(endpoints: Sequence[Mapping[str, Any]], needs: Needs) -> Iterator[Finding]:
    ours = [one for one in endpoints if one.get("url") == needs.webhook_url]
    enabled = [one for one in ours if one.get("status") == "enabled"]
    if not enabled:
        yield _missing(needs, disabled=bool(ours))
        return
    yield Finding("webhook.endpoint", Health.GREEN, f"Stripe sends webhooks to {needs.webhook_url}.")
    subscribed = {str(event) for one in enabled for event in one.get("enabled_events") or ()}
    missing = [] if "*" in subscribed else sorted(NEEDED_EVENTS - subscribed)
    if missing:
        yield Finding(
            "webhook.events",
            Health.YELLOW,
            f"The endpoint is not told of {', '.join(missing)}.",
            "Add these events to the endpoint in Stripe's dashboard, Developers, Webhooks.",
        )
    else:
        yield Finding("webhook.events", Health.GREEN, "The endpoint is told of every event that is needed.")


def _missing(needs: Needs, *, disabled: bool) -> Finding:
    if disabled:
        text, fix = "is switched off at Stripe", "Switch it on in Stripe's dashboard, Developers, Webhooks."
    else:
        text = "is not among the endpoints that Stripe sends webhooks to"
        fix = "Make it in Stripe's dashboard, Developers, Webhooks, and set its signing secret."
    if not needs.reachable and not disabled:
        fix = "Stripe can't reach this machine: forward events by `stripe listen`, or do without webhooks here."
    health = Health.RED if needs.reachable or disabled else Health.YELLOW
    return Finding("webhook.endpoint", health, f"{needs.webhook_url} {text}.", fix)
