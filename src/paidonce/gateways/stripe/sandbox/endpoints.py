"""The one webhook endpoint that the twin knows, as Stripe's API lists it."""

from __future__ import annotations

from paidonce.gateways.stripe.sandbox.replies import Call, SandboxError, check_known
from paidonce.gateways.stripe.sandbox.store import Reply, Store
from paidonce.gateways.stripe.webhook import NEEDED_EVENTS

_CREATED = 1_700_000_000


class Endpoints:
    """Where events go, which, and whether at all. What is changed here is shown; delivered is everything."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def deliver_to(self, url: str) -> None:
        """Register `url` with every event that the shop needs, unless it is there already."""
        known = self._store.state["endpoint"]
        if known is None or known["url"] != url:
            self._store.state["endpoint"] = {"url": url, "events": sorted(NEEDED_EVENTS), "status": "enabled"}

    def unsubscribe(self, event: str) -> Reply:
        """Take an event off the endpoint's list. Raises `ValueError` for one that is not on it."""
        endpoint = self._known()
        if event not in endpoint["events"]:
            raise ValueError(f"the endpoint does not get {event!r}")
        endpoint["events"].remove(event)
        return endpoint

    def disable(self) -> Reply:
        """Switch the endpoint off. Raises `ValueError` if there is none."""
        endpoint = self._known()
        endpoint["status"] = "disabled"
        return endpoint

    def remove(self) -> Reply:
        """Delete the endpoint. Raises `ValueError` if there is none."""
        endpoint = self._known()
        self._store.state["endpoint"] = None
        return endpoint

    def listed(self, call: Call, _: str) -> Reply:
        """GET /v1/webhook_endpoints."""
        # A restricted key gets at nothing that was not ticked when it was made, and this seldom is.
        if "rk_test_" in call.headers.get("authorization", ""):
            raise SandboxError(403, "The provided key does not have the required permissions for this endpoint.")
        check_known(call.form, frozenset({"limit", "starting_after", "ending_before", "expand"}))
        endpoint = self._store.state["endpoint"]
        data = [] if endpoint is None else [_shown(endpoint)]
        return {"object": "list", "url": call.path, "has_more": False, "data": data}

    def _known(self) -> Reply:
        endpoint: Reply | None = self._store.state["endpoint"]
        if endpoint is None:
            raise ValueError("there is no webhook endpoint; begin the sandbox with a shop to have one")
        return endpoint


def _shown(endpoint: Reply) -> Reply:
    return {
        "id": "we_offline_sandbox",
        "object": "webhook_endpoint",
        "api_version": None,
        "application": None,
        "created": _CREATED,
        "description": None,
        "enabled_events": endpoint["events"],
        "livemode": False,
        "metadata": {},
        "status": endpoint["status"],
        "url": endpoint["url"],
    }
