"""Everything that the offline PayPal remembers, and how it reads what older versions of it have written."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from paidonce.gateways.paypal.sandbox import units
from paidonce.ports import SECOND, Microseconds

Json = dict[str, Any]

REQUEST_ID_SECONDS = 6 * 3600
PAYMENTS_REQUEST_ID_SECONDS = 45 * 24 * 3600


class State:
    """Orders with their one authorization and capture, refunds, disputes, tokens, request ids, news and books."""

    def __init__(self) -> None:
        self.count = 0
        self.orders: dict[str, Json] = {}
        self.refunds: dict[str, Json] = {}
        self.disputes: dict[str, Json] = {}
        self.tokens: dict[str, Microseconds] = {}
        self.requests: dict[str, Json] = {}
        self.news: list[Json] = []  # Webhooks that nobody has taken yet.
        self.books: list[Json] = []
        self.pend_refunds = False
        self.endpoint: Json | None = None  # Where webhooks go and which, as the API lists it.
        self.keys: dict[str, str] | None = None  # PEM texts, made when the first webhook or certificate is asked for.

    def dump(self) -> str:
        """The whole state as JSON."""
        return json.dumps(vars(self), sort_keys=True)

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave, also by a version that knew less."""
        fresh, saved = State(), json.loads(text)
        vars(fresh).update(saved)
        for order in fresh.orders.values():
            _complete(order)
        if "books" not in saved:
            fresh._write_up_books()
        vars(self).update(vars(fresh))

    def _write_up_books(self) -> None:
        """The books of a version that kept none and knew nothing but captures."""
        for order in self.captured_orders():
            capture = order["capture"]
            if capture["status"] == "COMPLETED":
                self.book(order, capture["id"], "capture", capture["amount"])
                self.book(order, capture["id"], "fee", -capture["fee"])

    def new_id(self, kind: str, now: Microseconds) -> str:
        """17 characters as PayPal has them. The time keeps a twin that lost its state from repeating old ids."""
        self.count += 1
        digest = hashlib.sha256(f"{kind}:{self.count}:{now}".encode()).digest()
        return base64.b32encode(digest).decode("ascii")[:17]

    def refunds_of(self, order: Json) -> list[Json]:
        """The refunds of an order, oldest first."""
        return [refund for refund in self.refunds.values() if refund["order"] == order["id"]]

    def disputes_of(self, order: Json) -> list[Json]:
        """The disputes of an order, oldest first."""
        return [dispute for dispute in self.disputes.values() if dispute["order"] == order["id"]]

    def captured_orders(self) -> Iterator[Json]:
        """The orders that have a capture."""
        return (order for order in self.orders.values() if order["capture"] is not None)

    def book(self, order: Json, entry_object: str, kind: str, amount: int) -> None:
        """Write down that the merchant's balance changed by `amount` of PayPal's units."""
        self.books.append({"order": order["id"], "object": entry_object, "kind": kind, "amount": amount})


def _complete(order: Json) -> None:
    """Add what an order of an older version does not have."""
    order.setdefault("intent", "CAPTURE")
    order.setdefault("authorization", None)
    capture = order["capture"]
    if capture is not None and "amount" not in capture:
        amount = order["unit"]["amount"]
        capture["amount"] = units.of(amount, "amount")
        capture["fee"] = units.fee(capture["amount"]) if capture["status"] == "COMPLETED" else None


def ends_at(stored: Json) -> Microseconds:
    """When a request id is forgotten."""
    life: int = stored.get("life", REQUEST_ID_SECONDS)
    until: int = stored["at"] + life * SECOND
    return until
