"""What PayPal's API tells of our app, for `paidonce doctor`: readings only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paidonce.errors import OutcomeUnknown
from paidonce.gateways.base import Finding, Health, Needs
from paidonce.gateways.paypal.client import NotPermitted, PayPalClient
from paidonce.gateways.paypal.events import NEEDED_EVENTS

if TYPE_CHECKING:
    from paidonce.gateways.paypal.gateway import PayPalSettings

Json = Mapping[str, Any]

_WHERE = "at developer.paypal.com, Apps & Credentials"


async def findings(client: PayPalClient, settings: PayPalSettings, needs: Needs) -> Sequence[Finding]:
    """Whether disputes can be read, and whether the webhook tells us all we need. Raises any `GatewayError`.

    The merchant ID is not compared: nothing that client credentials may read says whose they are. An order says it.
    """
    return [await _disputes(client), *await _webhooks(client, settings, needs)]


async def _disputes(client: PayPalClient) -> Finding:
    try:
        await client.get("/v1/customer/disputes?page_size=1")
    except NotPermitted:
        return Finding(
            "disputes",
            Health.YELLOW,
            "The app may not read disputes, so they stay unseen here.",
            f"Turn on 'Customer disputes' for the app {_WHERE}.",
        )
    return Finding("disputes", Health.GREEN, "The app may read disputes.")


async def _webhooks(client: PayPalClient, settings: PayPalSettings, needs: Needs) -> Sequence[Finding]:
    answer = await client.get("/v1/notifications/webhooks")
    listed = answer.body.get("webhooks")
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise OutcomeUnknown("PayPal's list of webhooks can't be read", request_id=answer.debug_id)
    if settings.webhook_id is None:
        return [_without_id(listed, needs)]
    ours = [one for one in listed if one.get("id") == settings.webhook_id]
    return list(_of(ours[0], needs)) if ours else [_unknown_id(needs)]


def _without_id(listed: Sequence[Json], needs: Needs) -> Finding:
    known = any(one.get("url") == needs.webhook_url for one in listed)
    make = "Copy the ID of the webhook that is there" if known else f"Make a webhook for {needs.webhook_url}"
    return Finding(
        "webhook.endpoint",
        Health.YELLOW,
        "PAYPAL_WEBHOOK_ID is not set, so webhooks are refused and payments settle a little later.",
        f"{make} {_WHERE}, and set its ID.",
    )


def _unknown_id(needs: Needs) -> Finding:
    return Finding(
        "webhook.endpoint",
        Health.RED if needs.reachable else Health.YELLOW,
        "This app has no webhook with the ID in PAYPAL_WEBHOOK_ID, so none will be accepted.",
        f"Make a webhook for {needs.webhook_url} {_WHERE}, and set its ID.",
    )


def _of(webhook: Json, needs: Needs) -> Iterator[Finding]:
    if webhook.get("url") != needs.webhook_url:
        yield Finding(
            "webhook.endpoint",
            Health.RED if needs.reachable else Health.YELLOW,
            f"PayPal sends webhooks elsewhere, not to {needs.webhook_url}.",
            f"Correct the webhook's address {_WHERE}, or PAIDONCE_PUBLIC_URL.",
        )
    else:
        yield Finding("webhook.endpoint", Health.GREEN, f"PayPal sends webhooks to {needs.webhook_url}.")
    types = webhook.get("event_types")
    subscribed = {str(one.get("name")) for one in types or () if isinstance(one, Mapping)}
    missing = [] if "*" in subscribed else sorted(NEEDED_EVENTS - subscribed)
    if missing:
        yield Finding(
            "webhook.events",
            Health.YELLOW,
            f"The webhook is not told of {', '.join(missing)}.",
            f"Add these events to the webhook {_WHERE}.",
        )
    else:
        yield Finding("webhook.events", Health.GREEN, "The webhook is told of every event that is needed.")
