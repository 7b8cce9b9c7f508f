"""Payments v2 at the offline PayPal: authorizations captured and voided, captures refunded, each read by itself."""

from __future__ import annotations

from typing import Any

from paidonce.gateways.base import HttpResponse
from paidonce.gateways.paypal.sandbox import units
from paidonce.gateways.paypal.sandbox.news import News
from paidonce.gateways.paypal.sandbox.orders import Orders
from paidonce.gateways.paypal.sandbox.replies import Context, Refused, answer, preferred
from paidonce.gateways.paypal.sandbox.requests import Requests
from paidonce.gateways.paypal.sandbox.shapes import Shapes, currency, order_units
from paidonce.gateways.paypal.sandbox.state import PAYMENTS_REQUEST_ID_SECONDS, State
from paidonce.ports import SECOND, Microseconds

Json = dict[str, Any]

REFUNDABLE_SECONDS = 180 * 24 * 3600
_REFUNDABLE = ("COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED")
_NOT_CAPTURABLE = {
    "CAPTURED": "AUTHORIZATION_ALREADY_CAPTURED",
    "PARTIALLY_CAPTURED": "AUTHORIZATION_ALREADY_CAPTURED",
    "DENIED": "AUTHORIZATION_DENIED",
    "PENDING": "AUTHORIZATION_PENDING",
}


class Payments:
    """What happens to money that was reserved or taken."""

    def __init__(self, state: State, shapes: Shapes, news: News, requests: Requests, orders: Orders) -> None:
        self._state = state
        self._shapes = shapes
        self._news = news
        self._requests = requests
        self._orders = orders

    # --- API -----------------------------------------------------------------------------------------------------

    def read_authorization(self, context: Context, ref: str) -> HttpResponse:
        """`GET /v2/payments/authorizations/{id}`."""
        return answer(200, self._shapes.authorization(self._holder("authorization", ref, context.now), alone=True))

    def read_capture(self, context: Context, ref: str) -> HttpResponse:
        """`GET /v2/payments/captures/{id}`."""
        return answer(200, self._shapes.capture(self._holder("capture", ref, context.now), alone=True))

    def read_refund(self, context: Context, ref: str) -> HttpResponse:
        """`GET /v2/payments/refunds/{id}`."""
        del context
        return answer(200, self._refund_shape(self.refund_of(ref)))

    def capture_authorization(self, context: Context, ref: str) -> HttpResponse:
        """`POST /v2/payments/authorizations/{id}/capture`. Each capture is the last one here."""
        order, body = self._holder("authorization", ref, context.now), context.json()
        if self._requests.outcome(context, f"capture {ref}", body) is not None:
            return preferred(context, 200, self._shapes.capture(order, alone=True))
        amount = self._captured_units(order, body)
        self._orders.take_money(order, amount, context.now)
        whole = amount == order_units(order)
        order["authorization"].update(status="CAPTURED" if whole else "PARTIALLY_CAPTURED", updated=context.now)
        self._remember(context, f"capture {ref}", body, {"captured": order["id"]})
        return preferred(context, 201, self._shapes.capture(order, alone=True))

    def void_authorization(self, context: Context, ref: str) -> HttpResponse:
        """`POST /v2/payments/authorizations/{id}/void`."""
        order = self._holder("authorization", ref, context.now)
        if self._requests.outcome(context, f"void {ref}", {}) is None:
            status = order["authorization"]["status"]
            if status != "CREATED":
                voided = "PREVIOUSLY_VOIDED" if status in ("VOIDED", "DENIED") else "PREVIOUSLY_CAPTURED"
                raise Refused(422, voided)
            self._orders.release(order, context.now)
            self._remember(context, f"void {ref}", {}, {"voided": order["id"]})
        if not context.wants_all:
            return HttpResponse(204, {}, b"")
        return answer(200, self._shapes.authorization(order, alone=True))

    def refund_capture(self, context: Context, ref: str) -> HttpResponse:
        """`POST /v2/payments/captures/{id}/refund`."""
        order, body = self._holder("capture", ref, context.now), context.json()
        if (earlier := self._requests.outcome(context, f"refund {ref}", body)) is not None:
            return preferred(context, 200, self._refund_shape(self.refund_of(earlier["refund"])))
        for name, longest in (("custom_id", 127), ("invoice_id", 127), ("note_to_payer", 255)):
            units.check_text(body, name, longest, f"/{name}")
        amount = self._refunded_units(order, body)
        refund = self.refund(order, amount, context.now, custom_id=body.get("custom_id"))
        self._remember(context, f"refund {ref}", body, {"refund": refund["id"]})
        return preferred(context, 201, self._refund_shape(refund))

    # --- Rules ---------------------------------------------------------------------------------------------------

    def _captured_units(self, order: Json, body: Json) -> int:
        held = order["authorization"]
        if held["status"] == "VOIDED":
            raise Refused(422, "AUTHORIZATION_EXPIRED" if held["expired"] else "AUTHORIZATION_VOIDED")
        if held["status"] != "CREATED":
            raise Refused(422, _NOT_CAPTURABLE[held["status"]])
        if "amount" not in body:
            return order_units(order)
        amount = units.positive(body["amount"], "/amount")
        if body["amount"]["currency_code"] != currency(order):
            raise Refused(422, "AUTH_CAPTURE_CURRENCY_MISMATCH", "/amount/currency_code")
        if amount > order_units(order):
            # PayPal lets some accounts take a little more; the twin is the stricter one.
            raise Refused(422, "MAX_CAPTURE_AMOUNT_EXCEEDED", "/amount/value", body["amount"]["value"])
        return amount

    def _refunded_units(self, order: Json, body: Json) -> int:
        left = self.left(order)
        amount = units.positive(body["amount"], "/amount") if "amount" in body else left
        if "amount" in body and body["amount"]["currency_code"] != currency(order):
            raise Refused(422, "REFUND_CAPTURE_CURRENCY_MISMATCH", "/amount/currency_code")
        return amount

    def check_refund(self, order: Json, amount: int, now: Microseconds) -> None:
        """Raise `Refused` if `amount` of the order's capture can't be refunded now."""
        capture = order["capture"]
        if capture is None or capture["status"] not in _REFUNDABLE:
            pending = capture is not None and capture["status"] == "PENDING"
            raise Refused(422, "PENDING_CAPTURE" if pending else "REFUND_NOT_ALLOWED")
        if any(dispute["outcome"] is None for dispute in self._state.disputes_of(order)):
            raise Refused(422, "TRANSACTION_DISPUTED")
        if now >= capture["created"] + REFUNDABLE_SECONDS * SECOND:
            raise Refused(422, "REFUND_TIME_LIMIT_EXCEEDED")
        if self.left(order) <= 0:
            raise Refused(422, "CAPTURE_FULLY_REFUNDED")
        if amount > self.left(order):
            raise Refused(422, "REFUND_AMOUNT_EXCEEDED", "/amount/value")

    def left(self, order: Json) -> int:
        """What of the capture was neither refunded nor taken by a dispute that is open or lost."""
        disputes = self._state.disputes_of(order)
        taken = sum(dispute["amount"] for dispute in disputes if dispute["outcome"] in (None, "RESOLVED_BUYER_FAVOUR"))
        captured: int = order["capture"]["amount"] if order["capture"] is not None else 0
        return captured - self._refunded(order) - int(taken)

    def _refunded(self, order: Json) -> int:
        amounts: list[int] = [one["amount"] for one in self._state.refunds_of(order) if one["status"] != "FAILED"]
        return sum(amounts)

    # --- Refunds -------------------------------------------------------------------------------------------------

    def refund(self, order: Json, amount: int, now: Microseconds, *, custom_id: str | None) -> Json:
        """Give `amount` back, at once or, if refunds are told to wait, later. Raises `Refused`."""
        self.check_refund(order, amount, now)
        refund: Json = {
            "id": self._state.new_id("refund", now),
            "order": order["id"],
            "status": "PENDING",
            "reason": "ECHECK",
            "amount": amount,
            "custom_id": custom_id,
            "created": now,
            "updated": now,
        }
        self._state.refunds[refund["id"]] = refund
        self._mark_refunded(order, now)
        if self._state.pend_refunds:
            self._news.tell("PAYMENT.REFUND.PENDING", self._shapes.refund(order, refund), now)
        else:
            self._complete(order, refund, now)
        return refund

    def finish_refund(self, refund: Json, status: str, now: Microseconds) -> None:
        """A pending refund is `COMPLETED` or `FAILED`. `ValueError` if it is not pending."""
        if refund["status"] != "PENDING":
            raise ValueError(f"the refund is {refund['status']} and not PENDING")
        if status == "FAILED":
            self.fail_refund(refund, now)
        else:
            self._complete(self._state.orders[refund["order"]], refund, now)

    def fail_refund(self, refund: Json, now: Microseconds) -> None:
        """A refund fails, also one that was completed: then the money is back. `ValueError` if it has failed before."""
        if refund["status"] == "FAILED":
            raise ValueError("the refund is FAILED already")
        order = self._state.orders[refund["order"]]
        if refund["status"] == "COMPLETED":
            self._state.book(order, refund["id"], "refund_failed", refund["amount"])
        refund.update(status="FAILED", reason="ECHECK", updated=now)
        self._mark_refunded(order, now)
        self._news.tell("PAYMENT.REFUND.FAILED", self._shapes.refund(order, refund), now)

    def refund_of(self, ref: str) -> Json:
        """The refund. Raises `Refused` (404)."""
        refund = self._state.refunds.get(ref)
        if refund is None:
            raise Refused(404, "INVALID_RESOURCE_ID", "refund_id", ref[:64])
        return refund

    def _complete(self, order: Json, refund: Json, now: Microseconds) -> None:
        refund.update(status="COMPLETED", reason=None, updated=now)
        self._state.book(order, refund["id"], "refund", -refund["amount"])
        self._news.tell("PAYMENT.CAPTURE.REFUNDED", self._shapes.refund(order, refund), now)

    def _mark_refunded(self, order: Json, now: Microseconds) -> None:
        capture, refunded = order["capture"], self._refunded(order)
        status = "PARTIALLY_REFUNDED" if refunded else "COMPLETED"
        capture.update(status="REFUNDED" if refunded >= capture["amount"] else status, updated=now)

    def _refund_shape(self, refund: Json) -> Json:
        return self._shapes.refund(self._state.orders[refund["order"]], refund)

    def _holder(self, kind: str, ref: str, now: Microseconds) -> Json:
        """The order that holds this authorization or capture. Raises `Refused` (404)."""
        for order in self._state.orders.values():
            if order[kind] is not None and order[kind]["id"] == ref:
                return self._orders.get(order["id"], now)
        raise Refused(404, "INVALID_RESOURCE_ID", f"{kind}_id", ref[:64])

    def _remember(self, context: Context, what: str, body: Json, outcome: Json) -> None:
        self._requests.remember(context, what, body, outcome, life=PAYMENTS_REQUEST_ID_SECONDS)
