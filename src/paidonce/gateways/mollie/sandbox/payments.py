"""The life of the offline Mollie's payments: what the shop, buyers, banks and time do to them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from paidonce.gateways.mollie import wire
from paidonce.gateways.mollie.sandbox import shapes
from paidonce.gateways.mollie.sandbox.replies import Refused
from paidonce.gateways.mollie.sandbox.state import (
    BANK_TRANSFER_SECONDS,
    OPEN_SECONDS,
    RESERVED_SECONDS,
    State,
    moment,
)
from paidonce.money import MoneyError, from_decimal_string, iso_exponent
from paidonce.ports import SECOND, Microseconds

Json = dict[str, Any]

# What a buyer may choose at the checkout. Those of the second group keep the payment open.
CHOICES = ("card", "failing", "declined", "banktransfer", "cancel")
# Mollie tells these by a webhook; "open" and "pending" it does not.
_TOLD = frozenset({"canceled", "expired", "failed", "paid", "authorized"})


class Payments:
    """Changes payments. Raises `Refused` for what Mollie refuses, and changes nothing then."""

    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, ref: str, now: Microseconds) -> Json:
        """The payment, as old as it is by now."""
        payment = self._state.payments.get(ref)
        if payment is None:
            raise Refused(404, "No payment exists with this token.")
        self.age(payment, now)
        return payment

    def age(self, payment: Json, now: Microseconds) -> None:
        """Let an open payment expire, and reserved money go."""
        if payment["status"] not in ("open", "authorized") or now < payment["ends"] or self._is_capturing(payment):
            return
        self.end(payment, "paid" if shapes.captured(self._state, payment) else "expired")

    def _is_capturing(self, payment: Json) -> bool:
        return any(one["status"] == "pending" for one in self._state.of("captures", payment))

    def create(self, body: Json, now: Microseconds) -> Json:
        """`POST /v2/payments`."""
        currency, minor = amount_of(body)
        _check_addresses(body)
        metadata = body.get("metadata")
        description = body.get("description")
        if not isinstance(description, str) or not 0 < len(description) <= wire.LONGEST_DESCRIPTION:
            raise Refused(422, "The description is invalid", "description")
        manual = body.get("captureMode", "automatic")
        if manual not in ("manual", "automatic"):
            raise Refused(422, "The capture mode is invalid", "captureMode")
        if manual == "manual" and body.get("method") != wire.MANUAL_METHOD:
            raise Refused(422, "The payment method does not support manual captures", "captureMode")
        ends = now + OPEN_SECONDS * SECOND
        payment = {
            "id": self._state.new_id("tr_", now),
            "status": "open",
            "currency": currency,
            "minor": minor,
            "manual": manual == "manual",
            "method": body.get("method"),
            "description": description,
            "metadata": metadata,
            "redirect_url": body["redirectUrl"],
            "cancel_url": body.get("cancelUrl"),
            "webhook_url": body.get("webhookUrl"),
            "created_at": moment(now),
            "expires_at": moment(ends),
            "ends": ends,
            "failure_reason": None,
            "declined": False,
        }
        self._state.payments[payment["id"]] = payment
        return payment

    # ── Buyers and banks ──────────

    def choose(self, payment: Json, choice: str, now: Microseconds) -> None:
        """What the buyer does at the checkout. Raises `Refused` once there is nothing to pay any more."""
        if payment["status"] != "open" or (choice == "banktransfer" and payment["manual"]):
            raise Refused(422, "The payment can't be paid like this any more")
        if choice == "cancel":
            self.end(payment, "canceled")
            return
        payment["method"] = "banktransfer" if choice == "banktransfer" else "creditcard"
        payment["declined"] = choice == "declined"
        if choice == "banktransfer":
            self._keep_until(payment, now + BANK_TRANSFER_SECONDS * SECOND)
        elif choice == "failing":
            payment["failure_reason"] = "insufficient_funds"
            self.end(payment, "failed")
        elif choice == "card" and payment["manual"]:
            self._keep_until(payment, now + RESERVED_SECONDS * SECOND)
            self.end(payment, "authorized")
        elif choice == "card":
            self.pay(payment)

    def pay(self, payment: Json) -> None:
        """The money moves."""
        self.end(payment, "paid")
        self._state.book(payment, payment["id"], "capture", payment["minor"])

    def end(self, payment: Json, status: str) -> None:
        """Bring it into another state."""
        payment["status"] = status
        if status in _TOLD:
            self._state.tell(payment)

    def _keep_until(self, payment: Json, ends: Microseconds) -> None:
        payment.update(ends=ends, expires_at=moment(ends))

    # ── The shop ──────────

    def cancel(self, payment: Json) -> None:
        """`DELETE /v2/payments/{id}`."""
        if not shapes.is_cancelable(payment) or self._is_capturing(payment):
            raise Refused(422, "The payment cannot be canceled")
        self.end(payment, "canceled")

    def release(self, payment: Json) -> None:
        """`POST …/release-authorization`: the rest is let go; what was captured stays."""
        if payment["status"] != "authorized" or self._is_capturing(payment):
            raise Refused(422, "The payment has no authorization that could be released")
        self.end(payment, "paid" if shapes.captured(self._state, payment) else "canceled")

    def capture(self, payment: Json, body: Json, now: Microseconds) -> Json:
        """`POST …/captures`. A card takes one capture; the rest is let go with it."""
        if payment["status"] != "authorized":
            raise Refused(422, "The payment is not authorized, so it can't be captured")
        minor = amount_of(body, payment)[1] if "amount" in body else payment["minor"]
        taken = sum(one["minor"] for one in self._state.of("captures", payment) if one["status"] != "failed")
        if minor > payment["minor"] - taken:
            raise Refused(422, "The amount is higher than what is left to capture", "amount")
        capture = {
            "id": self._state.new_id("cpt_", now),
            "payment": payment["id"],
            "minor": minor,
            "status": "pending",
            "created_at": moment(now),
        }
        self._state.captures[capture["id"]] = capture
        if not self._state.pend_captures:
            self.finish_capture(payment, capture)
        return capture

    def finish_capture(self, payment: Json, capture: Json) -> None:
        """A pending capture succeeds, and the money moves."""
        capture["status"] = "succeeded"
        self._state.book(payment, payment["id"], "capture", capture["minor"])
        if not self._state.keep_rests or shapes.captured(self._state, payment) == payment["minor"]:
            payment["status"] = "paid"
        self._state.tell(payment)

    def fail_capture(self, capture: Json) -> None:
        """A pending capture fails. The payment stays authorized; no webhook tells it (the stricter reading)."""
        capture["status"] = "failed"

    def refund(self, payment: Json, body: Json, now: Microseconds) -> Json:
        """`POST …/refunds`."""
        left = shapes.remaining(self._state, payment)
        if payment["status"] != "paid":
            raise Refused(422, "The payment is not paid, so it can't be refunded")
        minor = amount_of(body, payment)[1] if "amount" in body else left
        if not 0 < minor <= left:
            raise Refused(422, "The amount is higher than the maximum that can be refunded", "amount")
        refund = {
            "id": self._state.new_id("re_", now),
            "payment": payment["id"],
            "minor": minor,
            "status": "pending",
            "description": body.get("description") or payment["description"],
            "metadata": body.get("metadata"),
            "created_at": moment(now),
        }
        self._state.refunds[refund["id"]] = refund
        if not self._state.pend_refunds:
            self.finish_refund(payment, refund)
        return refund

    def finish_refund(self, payment: Json, refund: Json) -> None:
        """A pending refund goes out."""
        refund["status"] = "refunded"
        self._state.book(payment, refund["id"], "refund", -refund["minor"])
        self._state.tell(payment)

    def fail_refund(self, payment: Json, refund: Json, status: str) -> None:
        """A refund fails, or is canceled while it waits; what had gone out comes back."""
        if refund["status"] == "refunded":
            self._state.book(payment, refund["id"], "refund_failed", refund["minor"])
        refund["status"] = status
        self._state.tell(payment)

    def charge_back(self, payment: Json, minor: int, now: Microseconds) -> Json:
        """The buyer's bank takes money back, and Mollie takes it from the merchant at once."""
        if not 0 < minor <= shapes.remaining(self._state, payment):
            raise Refused(422, "There is not as much left to charge back", "amount")
        chargeback = {
            "id": self._state.new_id("chb_", now),
            "payment": payment["id"],
            "minor": minor,
            "reason": "AC01",
            "reversed_at": None,
            "created_at": moment(now),
        }
        self._state.chargebacks[chargeback["id"]] = chargeback
        self._state.book(payment, chargeback["id"], "dispute_opened", -minor)
        self._state.tell(payment)
        return chargeback

    def reverse(self, payment: Json, chargeback: Json, now: Microseconds) -> None:
        """The bank gives the money back to the merchant."""
        chargeback["reversed_at"] = moment(now)
        self._state.book(payment, chargeback["id"], "dispute_won", chargeback["minor"])
        self._state.tell(payment)


def amount_of(body: Json, payment: Json | None = None) -> tuple[str, int]:
    """Currency and minor units of `body.amount`, with exactly the decimals that the currency has."""
    told = body.get("amount")
    currency, value = (told.get("currency"), told.get("value")) if isinstance(told, dict) else (None, None)
    if not isinstance(currency, str) or currency not in wire.EXPONENTS:
        raise Refused(422, "The currency is not supported", "amount.currency")
    if payment is not None and currency != payment["currency"]:
        raise Refused(422, "The currency differs from the payment's", "amount.currency")
    decimals = len(value.partition(".")[2]) if isinstance(value, str) else -1
    try:
        minor = from_decimal_string(str(value), iso_exponent(currency)) if decimals == wire.EXPONENTS[currency] else 0
    except MoneyError:
        minor = 0
    if minor <= 0:
        raise Refused(422, "The amount contains an invalid value", "amount.value")
    return currency, minor


def _check_addresses(body: Json) -> None:
    for name in ("redirectUrl", "cancelUrl", "webhookUrl"):
        value = body.get(name)
        if value is None and name != "redirectUrl":
            continue
        parts = urlsplit(value) if isinstance(value, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(422, "The URL is invalid", name)
