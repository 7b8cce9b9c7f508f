"""Orders at the offline PayPal: made, approved, captured or authorized, and what time does to them."""

from __future__ import annotations

from typing import Any

from paidonce.gateways.base import HttpResponse
from paidonce.gateways.paypal.sandbox import units
from paidonce.gateways.paypal.sandbox.news import News
from paidonce.gateways.paypal.sandbox.replies import Context, Refused, preferred
from paidonce.gateways.paypal.sandbox.requests import Requests
from paidonce.gateways.paypal.sandbox.shapes import PAYABLE, Shapes, order_units
from paidonce.gateways.paypal.sandbox.state import State
from paidonce.ports import SECOND, Microseconds

Json = dict[str, Any]

APPROVAL_SECONDS = 3 * 3600
ECHECK_SECONDS = 3 * 24 * 3600
AUTHORIZATION_SECONDS = 29 * 24 * 3600
MOST_DECLINES = 3
_NOT_APPROVED = (
    "Payer has not yet approved the Order for payment. Please redirect the payer to the 'rel':'approve' url returned "
    "as part of the HATEOAS links within the Create Order call."
)
FUNDING = ("balance", "declined", "pending")


class Orders:
    """Orders and the money that they take or reserve."""

    def __init__(self, state: State, shapes: Shapes, news: News, requests: Requests, *, unique_invoices: bool) -> None:
        self._state = state
        self._shapes = shapes
        self._news = news
        self._requests = requests
        self._unique_invoices = unique_invoices

    # --- API -----------------------------------------------------------------------------------------------------

    def create(self, context: Context) -> HttpResponse:
        """`POST /v2/checkout/orders`."""
        body = context.json()
        if (earlier := self._requests.outcome(context, "create", body)) is not None:
            return preferred(context, 200, self._shapes.order(self.get(earlier["order"], context.now)))
        order = self._new(body, context.now)
        self._state.orders[order["id"]] = order
        self._requests.remember(context, "create", body, {"order": order["id"]})
        return preferred(context, 201, self._shapes.order(order))

    def finish(self, context: Context, order: Json, step: str) -> HttpResponse:
        """`POST /v2/checkout/orders/{id}/capture` or `/authorize`."""
        body, what = context.json(), f"{step} {order['id']}"
        if (earlier := self._requests.outcome(context, what, body)) is not None:
            return preferred(context, 200, self._shapes.order(self.get(earlier["order"], context.now)))
        try:
            self._check(context, order, step)
        except Refused as refused:
            if refused.issue == "INSTRUMENT_DECLINED":
                self._requests.remember(context, what, body, {"order": order["id"], "issue": refused.issue})
            raise
        order.update(status="COMPLETED", updated=context.now)
        if step == "capture":
            self.take_money(order, order_units(order), context.now)
        else:
            self._reserve_money(order, context.now)
        self._requests.remember(context, what, body, {"order": order["id"]})
        return preferred(context, 201, self._shapes.order(order))

    def _new(self, body: Json, now: Microseconds) -> Json:
        unit = units.check_order(body)
        source = body.get("payment_source", {})
        experience = source.get("paypal", {}).get("experience_context", {}) if isinstance(source, dict) else {}
        return {
            "id": self._state.new_id("order", now),
            "intent": body["intent"],
            # PayPal starts an order that names its payment source as PAYER_ACTION_REQUIRED, any other one as CREATED.
            "status": "PAYER_ACTION_REQUIRED" if source else "CREATED",
            "named_source": bool(source),
            "unit": unit,
            "return_url": experience.get("return_url"),
            "cancel_url": experience.get("cancel_url"),
            "funding": None,
            "approved": None,
            "declines": 0,
            "authorization": None,
            "capture": None,
            "created": now,
            "updated": now,
        }

    def _check(self, context: Context, order: Json, step: str) -> None:
        if order["intent"] != ("CAPTURE" if step == "capture" else "AUTHORIZE"):
            raise Refused(422, "ACTION_DOES_NOT_MATCH_INTENT")
        if order["capture"] is not None and step == "capture":
            raise Refused(422, "ORDER_ALREADY_CAPTURED")
        if order["authorization"] is not None:
            raise Refused(422, "ORDER_ALREADY_AUTHORIZED")
        if order["declines"] >= MOST_DECLINES:
            order.update(status="VOIDED", updated=context.now)
            raise Refused(422, "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED")
        if order["status"] != "APPROVED":
            raise Refused(422, "ORDER_NOT_APPROVED", sentence=None if step == "capture" else _NOT_APPROVED)
        if mocked := context.mocked():
            if mocked == "INSTRUMENT_DECLINED":
                self._decline(order, context.now)
            raise Refused(422, mocked)
        if self._unique_invoices and self._invoice_is_paid(order):
            raise Refused(422, "DUPLICATE_INVOICE_ID", "/purchase_units/0/invoice_id")
        if order["funding"] == "declined":
            self._decline(order, context.now)
            raise Refused(422, "INSTRUMENT_DECLINED")

    def _decline(self, order: Json, now: Microseconds) -> None:
        order["declines"] += 1
        order.update(status="PAYER_ACTION_REQUIRED", funding=None, approved=None, updated=now)

    def _invoice_is_paid(self, order: Json) -> bool:
        invoice = order["unit"].get("invoice_id")
        others = (other for other in self._state.captured_orders() if other["id"] != order["id"])
        return invoice is not None and any(other["unit"].get("invoice_id") == invoice for other in others)

    # --- Money ---------------------------------------------------------------------------------------------------

    def take_money(self, order: Json, amount: int, now: Microseconds) -> None:
        """Capture `amount` of an order that may be captured; an eCheck stays pending."""
        pending = order["funding"] == "pending" and order["authorization"] is None
        order["capture"] = {
            "id": self._state.new_id("capture", now),
            "status": "PENDING",
            "reason": "ECHECK",
            "amount": amount,
            "fee": None,
            "created": now,
            "updated": now,
        }
        if pending:
            self._tell_capture("PENDING", order, now)
        else:
            self._complete_capture(order, now)

    def _complete_capture(self, order: Json, now: Microseconds) -> None:
        capture = order["capture"]
        fee = units.fee(capture["amount"])
        capture.update(status="COMPLETED", reason=None, fee=fee, updated=now)
        self._state.book(order, capture["id"], "capture", capture["amount"])
        self._state.book(order, capture["id"], "fee", -fee)
        self._news.tell("CHECKOUT.ORDER.COMPLETED", self._shapes.order(order), now)
        self._tell_capture("COMPLETED", order, now)

    def _reserve_money(self, order: Json, now: Microseconds) -> None:
        pending = order["funding"] == "pending"
        order["authorization"] = {
            "id": self._state.new_id("authorization", now),
            "status": "PENDING" if pending else "CREATED",
            "reason": "PENDING_REVIEW" if pending else None,
            "expired": False,
            "expires": now + AUTHORIZATION_SECONDS * SECOND,
            "created": now,
            "updated": now,
        }
        self._tell_authorization("CREATED", order, now)

    def release(self, order: Json, now: Microseconds, *, expired: bool = False) -> None:
        """End the order's authorization."""
        order["authorization"].update(status="VOIDED", reason=None, expired=expired, updated=now)
        self._tell_authorization("VOIDED", order, now)

    def clear_pending(self, order: Json, status: str, now: Microseconds) -> None:
        """End a pending capture or authorization as the bank would. `ValueError` if there is none."""
        capture, authorization = order["capture"], order["authorization"]
        if capture is not None and capture["status"] == "PENDING":
            if status == "COMPLETED":
                self._complete_capture(order, now)
            else:
                capture.update(status=status, reason=None, updated=now)
                self._tell_capture("DECLINED", order, now)
        elif authorization is not None and authorization["status"] == "PENDING":
            authorization.update(status="CREATED" if status == "COMPLETED" else "DENIED", reason=None, updated=now)
            self._tell_authorization("CREATED" if status == "COMPLETED" else "VOIDED", order, now)
        else:
            raise ValueError("there is no pending capture or authorization")

    # --- State ---------------------------------------------------------------------------------------------------

    def get(self, order_id: str, now: Microseconds) -> Json:
        """The order as it is at `now`. Raises `Refused` (404)."""
        order = self._state.orders.get(order_id)
        if order is None:
            raise Refused(404, "INVALID_RESOURCE_ID", "order_id", order_id[:64])
        self.age(order, now)
        return order

    def age(self, order: Json, now: Microseconds) -> None:
        """What time alone does: an unused approval is reversed, an eCheck clears, reserved money is let go."""
        if order["status"] == "APPROVED" and now >= order["approved"] + APPROVAL_SECONDS * SECOND:
            self.reverse_approval(order, now)
        capture, authorization = order["capture"], order["authorization"]
        if capture and capture["status"] == "PENDING" and now >= capture["created"] + ECHECK_SECONDS * SECOND:
            self._complete_capture(order, now)
        if authorization is None or authorization["status"] not in ("CREATED", "PENDING"):
            return
        if now >= authorization["expires"]:
            self.release(order, now, expired=True)

    def approve(self, order: Json, funding: str, now: Microseconds) -> None:
        """The buyer agrees. Nothing happens to an order that is paid or closed."""
        if order["status"] in (*PAYABLE, "APPROVED"):
            order.update(status="APPROVED", funding=funding, approved=now, updated=now)
            self._news.tell("CHECKOUT.ORDER.APPROVED", self._shapes.order(order), now)

    def reverse_approval(self, order: Json, now: Microseconds) -> None:
        """PayPal takes an unused approval back. `ValueError` if there is none."""
        if order["status"] != "APPROVED":
            raise ValueError(f"the order is {order['status']}, so it has no approval that could be reversed")
        status = "PAYER_ACTION_REQUIRED" if order["named_source"] else "CREATED"
        order.update(status=status, funding=None, approved=None, updated=now)
        self._news.tell("CHECKOUT.PAYMENT-APPROVAL.REVERSED", self._shapes.reversal(order), now)

    def _tell_capture(self, what: str, order: Json, now: Microseconds) -> None:
        self._news.tell(f"PAYMENT.CAPTURE.{what}", self._shapes.capture(order, alone=True), now)

    def _tell_authorization(self, what: str, order: Json, now: Microseconds) -> None:
        self._news.tell(f"PAYMENT.AUTHORIZATION.{what}", self._shapes.authorization(order, alone=True), now)
