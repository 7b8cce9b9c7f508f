"""Webhooks of the twin: an event for every change that a shop listens to, signed when it is taken."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paidonce.gateways.base import HttpRequest
from paidonce.gateways.stripe.sandbox.store import Record, Store
from paidonce.gateways.stripe.settings import SANDBOX_WEBHOOK_SECRET
from paidonce.gateways.stripe.wire import API_VERSION

# What the twin's one endpoint is subscribed to.
TYPES = frozenset(
    {
        *(f"payment_intent.{what}" for what in ("succeeded", "payment_failed", "processing", "requires_action")),
        *(f"payment_intent.{what}" for what in ("canceled", "amount_capturable_updated")),
        "charge.refunded",
        *(f"refund.{what}" for what in ("created", "updated", "failed")),
        *(f"charge.dispute.{what}" for what in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")),
    }
)


class Events:
    """Events that nobody has taken yet. Each holds the object as it was at its moment, secret included, as Stripe's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cause: dict[str, str | None] | None = None

    @contextmanager
    def caused_by(self, request_id: str, idempotency_key: str | None) -> Iterator[None]:
        """Within, events name this request of the API."""
        self._cause = {"id": request_id, "idempotency_key": idempotency_key}
        try:
            yield
        finally:
            self._cause = None

    def emit(self, kind: str, record: Record, now: int) -> None:
        """Something has happened to an object."""
        if kind not in TYPES:
            raise AssertionError(f"{kind} is no event that the endpoint is subscribed to")
        event = {
            "id": self._store.new_id("evt", now),
            "object": "event",
            "api_version": API_VERSION,
            "created": now // 1_000_000,
            "data": {"object": record["object"]},
            "livemode": False,
            "pending_webhooks": 1,
            "request": self._cause,
            "type": kind,
        }
        # As text: the object goes on changing, and the event has to tell how it was.
        self._store.state["events"].append(json.dumps(event))

    def take(self, now: int) -> list[HttpRequest]:
        """All events since the last call, oldest first, signed at `now` microseconds."""
        bodies: list[str] = self._store.state["events"]
        self._store.state["events"] = []
        # Indented, as Stripe's are, so that nobody comes to rely on one way of writing JSON.
        indented = (json.dumps(json.loads(body), indent=2) for body in bodies)
        return [_signed(body.encode(), now // 1_000_000) for body in indented]


def _signed(body: bytes, seconds: int) -> HttpRequest:
    signed = str(seconds).encode() + b"." + body
    signature = hmac.new(SANDBOX_WEBHOOK_SECRET.encode(), signed, "sha256").hexdigest()
    headers: dict[str, Any] = {
        "content-type": "application/json; charset=utf-8",
        "stripe-signature": f"t={seconds},v1={signature}",
        "user-agent": "Stripe/1.0 (offline sandbox)",
    }
    return HttpRequest("POST", "/webhooks/stripe", headers, body)
