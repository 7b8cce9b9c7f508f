"""The offline PayPal's webhooks: written down when something happens, signed when they are taken."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from paidonce.gateways.base import HttpRequest
from paidonce.gateways.paypal.sandbox import keys
from paidonce.gateways.paypal.sandbox.shapes import time
from paidonce.gateways.paypal.sandbox.state import State
from paidonce.ports import Microseconds

Json = dict[str, Any]

WEBHOOK_ID = "SANDBOX-WEBHOOK-1"
CERTIFICATES = "/v1/notifications/certs/"

# Of each type: what the resource is, in which version, and PayPal's sentence about it.
_TYPES: Mapping[str, tuple[str, str | None, str]] = {
    "CHECKOUT.ORDER.APPROVED": ("checkout-order", "2.0", "An order has been approved by buyer"),
    "CHECKOUT.ORDER.COMPLETED": ("checkout-order", "2.0", "Checkout Order Completed"),
    "CHECKOUT.PAYMENT-APPROVAL.REVERSED": ("payment-approval", "2.0", "A payment approval has been reversed"),
    "PAYMENT.AUTHORIZATION.CREATED": ("authorization", "2.0", "A payment authorization was created"),
    "PAYMENT.AUTHORIZATION.VOIDED": ("authorization", "2.0", "A payment authorization was voided"),
    "PAYMENT.CAPTURE.COMPLETED": ("capture", "2.0", "A payment was captured"),
    "PAYMENT.CAPTURE.DECLINED": ("capture", "2.0", "A payment capture was declined"),
    "PAYMENT.CAPTURE.PENDING": ("capture", "2.0", "A payment capture is pending"),
    "PAYMENT.CAPTURE.REFUNDED": ("refund", "2.0", "A payment capture was refunded"),
    "PAYMENT.REFUND.PENDING": ("refund", "2.0", "A refund is pending"),
    "PAYMENT.REFUND.FAILED": ("refund", "2.0", "A refund has failed"),
    "CUSTOMER.DISPUTE.CREATED": ("dispute", None, "A dispute was opened"),
    "CUSTOMER.DISPUTE.UPDATED": ("dispute", None, "A dispute was updated"),
    "CUSTOMER.DISPUTE.RESOLVED": ("dispute", None, "A dispute was resolved"),
}


class News:
    """Collects events, and turns them into signed requests."""

    def __init__(self, state: State, base_url: str) -> None:
        self._state = state
        self._base_url = base_url

    def tell(self, kind: str, resource: Json, now: Microseconds) -> None:
        """Write an event down, with the resource as it is now."""
        resource_type, version, summary = _TYPES[kind]
        ids = [self._state.new_id(part, now) for part in ("event", "event-tail")]
        event: Json = {
            "id": f"WH-{ids[0]}-{ids[1]}",
            "event_version": "1.0",
            "create_time": time(now, fraction=True),
            "resource_type": resource_type,
            "resource_version": version,
            "event_type": kind,
            "summary": summary,
            "resource": resource,
        }
        here = f"{self._base_url}/v1/notifications/webhooks-events/{event['id']}"
        event["links"] = [
            {"href": here, "rel": "self", "method": "GET"},
            {"href": f"{here}/resend", "rel": "resend", "method": "POST"},
        ]
        self._state.news.append({name: value for name, value in event.items() if value is not None})

    def take(self, now: Microseconds) -> list[HttpRequest]:
        """The signed webhooks that came up since the last call, oldest first."""
        events, self._state.news = self._state.news, []
        return [self._signed(event, now) for event in events]

    def certificate(self, name: str) -> str | None:
        """The PEM text at the end of a certificate's address, or of the root's (`ca`)."""
        keys_now = self.keys()
        return {"ca": keys_now["ca"], keys_now["id"]: keys_now["certificate"]}.get(name)

    def keys(self) -> dict[str, str]:
        """The twin's keys, made when they are first needed."""
        if self._state.keys is None:
            self._state.keys = keys.make()
        return self._state.keys

    def _signed(self, event: Json, now: Microseconds) -> HttpRequest:
        body, known = json.dumps(event).encode(), self.keys()
        digest = hashlib.sha256(f"{event['id']}:{now}".encode()).hexdigest()
        transmission = "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))
        text = "|".join((transmission, time(now), WEBHOOK_ID, str(zlib.crc32(body)))).encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "PayPal/AUHR-1.0-1",
            "paypal-auth-algo": "SHA256withRSA",
            "paypal-auth-version": "v2",
            "paypal-cert-url": self._base_url + CERTIFICATES + known["id"],
            "paypal-transmission-id": transmission,
            "paypal-transmission-sig": keys.sign(known["key"], text),
            "paypal-transmission-time": time(now),
        }
        return HttpRequest("POST", "/webhooks/paypal", headers, body)
