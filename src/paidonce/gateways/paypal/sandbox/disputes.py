"""Customer disputes at the offline PayPal: opened, escalated, decided, listed and read."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from paidonce.gateways.base import HttpResponse
from paidonce.gateways.paypal.sandbox.news import News
from paidonce.gateways.paypal.sandbox.payments import Payments
from paidonce.gateways.paypal.sandbox.replies import Context, Refused, answer
from paidonce.gateways.paypal.sandbox.shapes import Shapes
from paidonce.gateways.paypal.sandbox.state import State
from paidonce.ports import Microseconds

Json = dict[str, Any]

STAGES = ("INQUIRY", "CHARGEBACK")
_OUTCOMES = {"won": "RESOLVED_SELLER_FAVOUR", "lost": "RESOLVED_BUYER_FAVOUR"}


class Disputes:
    """Disputes by their id. From the chargeback stage on, the disputed amount is withdrawn."""

    def __init__(self, state: State, shapes: Shapes, news: News, payments: Payments) -> None:
        self._state = state
        self._shapes = shapes
        self._news = news
        self._payments = payments

    def read(self, dispute_id: str) -> HttpResponse:
        """`GET /v1/customer/disputes/{id}`."""
        return answer(200, self._shapes.dispute(self.get(dispute_id)))

    def listing(self, context: Context) -> HttpResponse:
        """`GET /v1/customer/disputes`, latest first, in pages."""
        capture = context.query.get("disputed_transaction_id")
        size = context.query.get("page_size", "10")
        if not (size.isascii() and size.isdigit() and 1 <= int(size) <= 50):
            raise Refused(400, "INVALID_PARAMETER_VALUE", "page_size")
        found = [one for one in self._state.disputes.values() if capture in (None, self._capture_of(one))]
        found.reverse()
        begin = _position(context.query.get("next_page_token"))
        end = begin + int(size)
        following = {**context.query, "next_page_token": _token(end)} if end < len(found) else None
        return answer(200, self._shapes.disputes(found[begin:end], dict(context.query), following))

    def get(self, dispute_id: str) -> Json:
        """The dispute. Raises `Refused` (404)."""
        dispute = self._state.disputes.get(dispute_id)
        if dispute is None:
            raise Refused(404, "INVALID_RESOURCE_ID", "dispute_id", dispute_id[:64])
        return dispute

    def open(self, order: Json, amount: int | None, stage: str, now: Microseconds) -> Json:
        """The buyer complains. `ValueError` if nothing is left that could be disputed."""
        if order["capture"] is None or order["capture"]["status"] not in ("COMPLETED", "PARTIALLY_REFUNDED"):
            raise ValueError("nothing of this order was captured that could be disputed")
        left = self._payments.left(order)
        amount = left if amount is None else amount
        if not 0 < amount <= left:
            raise ValueError("that is more than is left of the capture, or nothing")
        dispute: Json = {
            "id": "PP-D-" + self._state.new_id("dispute", now),
            "order": order["id"],
            "amount": amount,
            "status": "OPEN",
            "state": "OPEN_INQUIRIES",
            "stage": "INQUIRY",
            "outcome": None,
            "created": now,
            "updated": now,
        }
        self._state.disputes[dispute["id"]] = dispute
        if stage != "INQUIRY":
            self._withdraw(dispute)
        self._tell("CREATED", dispute, now)
        return dispute

    def escalate(self, dispute: Json, now: Microseconds) -> None:
        """An inquiry becomes a chargeback. `ValueError` if it is none any more."""
        if dispute["outcome"] is not None or dispute["stage"] != "INQUIRY":
            raise ValueError(f"the dispute is {dispute['status']} in the stage {dispute['stage']}, no open inquiry")
        self._withdraw(dispute)
        dispute["updated"] = now
        self._tell("UPDATED", dispute, now)

    def close(self, dispute: Json, outcome: str, now: Microseconds) -> None:
        """PayPal decides: `won` or `lost`. A lost dispute makes no refund. `ValueError` if it is decided already."""
        if dispute["outcome"] is not None:
            raise ValueError("the dispute is RESOLVED already")
        if outcome not in _OUTCOMES:
            raise ValueError(f"outcome is won or lost, not {outcome!r}")
        order, withdrawn = self._state.orders[dispute["order"]], dispute["stage"] != "INQUIRY"
        if outcome == "lost":
            if not withdrawn:
                self._state.book(order, dispute["id"], "dispute_opened", -dispute["amount"])
            self._state.book(order, dispute["id"], "dispute_lost", 0)
        elif withdrawn:
            self._state.book(order, dispute["id"], "dispute_won", dispute["amount"])
        dispute.update(status="RESOLVED", state="RESOLVED", outcome=_OUTCOMES[outcome], updated=now)
        self._tell("RESOLVED", dispute, now)

    def _withdraw(self, dispute: Json) -> None:
        dispute.update(status="WAITING_FOR_SELLER_RESPONSE", state="REQUIRED_ACTION", stage="CHARGEBACK")
        self._state.book(self._state.orders[dispute["order"]], dispute["id"], "dispute_opened", -dispute["amount"])

    def _tell(self, what: str, dispute: Json, now: Microseconds) -> None:
        self._news.tell(f"CUSTOMER.DISPUTE.{what}", self._shapes.dispute(dispute), now)

    def _capture_of(self, dispute: Json) -> str:
        ref: str = self._state.orders[dispute["order"]]["capture"]["id"]
        return ref


def _token(position: int) -> str:
    return base64.b64encode(f"from:{position}".encode()).decode("ascii")


def _position(token: str | None) -> int:
    if token is None:
        return 0
    try:
        word, _, digits = base64.b64decode(token, validate=True).decode("ascii").partition(":")
        if word == "from":
            return int(digits)
    except (binascii.Error, ValueError):
        pass
    raise Refused(400, "INVALID_PARAMETER_VALUE", "next_page_token")
