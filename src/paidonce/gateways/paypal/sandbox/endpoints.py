"""The one webhook that the twin's app has, as PayPal's API lists it."""

from __future__ import annotations

from typing import Any

from paidonce.gateways.base import HttpResponse
from paidonce.gateways.paypal.events import NEEDED_EVENTS
from paidonce.gateways.paypal.sandbox.news import WEBHOOK_ID
from paidonce.gateways.paypal.sandbox.replies import answer
from paidonce.gateways.paypal.sandbox.state import State

Json = dict[str, Any]

PATH = "/v1/notifications/webhooks"


class Endpoints:
    """Where events go and which. What is changed here is shown; delivered is everything."""

    def __init__(self, state: State, base_url: str) -> None:
        self._state = state
        self._base_url = base_url

    def deliver_to(self, url: str) -> None:
        """Register `url` with every event that the shop needs, unless it is there already."""
        known = self._state.endpoint
        if known is None or known["url"] != url:
            self._state.endpoint = {"url": url, "events": sorted(NEEDED_EVENTS)}

    def unsubscribe(self, event: str) -> Json:
        """Take an event off the webhook's list. Raises `ValueError` for one that is not on it."""
        endpoint = self._known()
        if event not in endpoint["events"]:
            raise ValueError(f"the webhook does not get {event!r}")
        endpoint["events"].remove(event)
        return endpoint

    def remove(self) -> Json:
        """Delete the webhook. Raises `ValueError` if there is none."""
        endpoint = self._known()
        self._state.endpoint = None
        return endpoint

    def listing(self) -> HttpResponse:
        """GET /v1/notifications/webhooks."""
        endpoint = self._state.endpoint
        return answer(200, {"webhooks": [] if endpoint is None else [self._shown(endpoint)]})

    def _known(self) -> Json:
        if self._state.endpoint is None:
            raise ValueError("there is no webhook; begin the sandbox with a shop to have one")
        return self._state.endpoint

    def _shown(self, endpoint: Json) -> Json:
        return {
            "id": WEBHOOK_ID,
            "url": endpoint["url"],
            "event_types": [{"name": name, "status": "ENABLED"} for name in endpoint["events"]],
            "links": [{"href": f"{self._base_url}{PATH}/{WEBHOOK_ID}", "rel": "self", "method": "GET"}],
        }
