"""PaymentIntents of the twin: objects as Stripe shows them, and the moves between their states. No HTTP in here."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from paidonce.gateways.stripe.sandbox.amounts import amount_and_currency
from paidonce.gateways.stripe.sandbox.cards import CARDS, Card, Refusal, card_from_data, card_from_token
from paidonce.gateways.stripe.sandbox.replies import Call, SandboxError, choice, integer, is_true, missing

State = dict[str, Any]
Intent = dict[str, Any]

_CONFIRMABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action"})
_CANCELABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"})
_CAPTURE_METHODS = ("automatic_async", "automatic", "manual")
_CANCELLATIONS = ("requested_by_customer", "abandoned", "duplicate", "fraudulent")
_AUTHENTICATION_FAILED = {
    "code": "payment_intent_authentication_failure",
    "doc_url": "https://stripe.com/docs/error-codes/payment-intent-authentication-failure",
    "message": (
        "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new "
        "PaymentMethod to attempt to fulfill this PaymentIntent again."
    ),
    "type": "invalid_request_error",
}


class Intents:
    """The PaymentIntents and charges of all accounts, in a JSON-able `state`."""

    def __init__(self, state: State, base_url: str) -> None:
        self._state = state
        self._base_url = base_url

    def new_id(self, prefix: str, now: int) -> str:
        """An id from a counter: a simulation repeats it, and a restarted twin does not give it twice."""
        self._state["counter"] += 1
        seed = f"{prefix}:{self._state['counter']}:{now}"
        return f"{prefix}_{hashlib.sha256(seed.encode()).hexdigest()[:24]}"

    def create(self, call: Call) -> Intent:
        """A new intent. Raises `SandboxError` for refused parameters."""
        amount, currency = amount_and_currency(call.form)
        capture_method = choice(call.form, "capture_method", _CAPTURE_METHODS, "automatic_async")
        metadata = _metadata(call.form)
        ref = self.new_id("pi", call.now)
        intent: Intent = {
            **_EMPTY,
            "id": ref,
            "amount": amount,
            "automatic_payment_methods": _automatic(call.form),
            "capture_method": capture_method,
            "client_secret": f"{ref}_secret_{self.new_id('s', call.now)[2:]}",
            "created": call.seconds,
            "currency": currency,
            "description": call.form.get("description"),
            "metadata": metadata,
        }
        self._state["intents"][ref] = {"account": call.account, "object": intent, "card": None, "token": None}
        return self.confirm(call, ref) if is_true(call.form.get("confirm")) else intent

    def get(self, call: Call, ref: str) -> Intent:
        """The intent. Raises `SandboxError` 404 for another account's, as for one that does not exist."""
        return self._record(call, ref)["object"]  # type: ignore[no-any-return]

    def charge(self, call: Call, ref: str) -> dict[str, Any]:
        """A charge. Raises `SandboxError` 404."""
        record = self._state["charges"].get(ref)
        if record is None or record["account"] != call.account:
            raise _not_found("charge", ref)
        return record["object"]  # type: ignore[no-any-return]

    def all(self, call: Call) -> list[Intent]:
        """The account's intents, newest first."""
        records = reversed(self._state["intents"].values())
        return [record["object"] for record in records if record["account"] == call.account]

    def check_secret(self, call: Call, ref: str) -> None:
        """A publishable key needs the intent's client secret. Raises `SandboxError` without the right one."""
        intent, secret = self.get(call, ref), call.form.get("client_secret")
        if not call.public and secret is None:
            return
        if secret is None:
            raise missing("client_secret")
        if secret != intent["client_secret"]:
            raise SandboxError(
                400,
                "The client_secret provided does not match the client_secret associated with the PaymentIntent.",
                code="payment_intent_invalid_parameter",
                param="client_secret",
            )

    def confirm(self, call: Call, ref: str) -> Intent:
        """Try to pay with the given card. Raises `SandboxError` 402 for a decline; the intent can be tried again."""
        record = self._record(call, ref)
        intent = record["object"]
        if intent["status"] not in _CONFIRMABLE:
            raise _wrong_state(
                intent, f"You cannot confirm this PaymentIntent because it has a status of {intent['status']}."
            )
        card, method = self._card(call)
        return_url = _return_url(call, intent)
        # Should somebody type a real card's number into the twin, it is not kept.
        known = card.number if card.number in CARDS else None
        record.update(card=known, method=method, return_url=return_url, token=None)
        intent.update(next_action=None, last_payment_error=None, payment_method=method["id"])
        intent["payment_method_types"] = [method["type"]]
        if card.three_d_secure:
            return self._ask_buyer(record, call.now)
        if card.processing:
            intent.update(status="processing", processing={"type": "card"})
            return intent  # type: ignore[no-any-return]
        return self._attempt(record, card, call.now)

    def cancel(self, call: Call, ref: str) -> Intent:
        """End the intent. Raises `SandboxError` where Stripe refuses: it went through, or is under way."""
        record = self._record(call, ref)
        intent = record["object"]
        reason = choice(call.form, "cancellation_reason", ("", *_CANCELLATIONS), "") or None
        if intent["status"] not in _CANCELABLE:
            raise _wrong_state(
                intent,
                f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. "
                "Only a PaymentIntent with one of the following statuses may be canceled: requires_payment_method, "
                "requires_capture, requires_confirmation, requires_action, processing.",
            )
        record["token"] = None
        intent.update(
            status="canceled",
            canceled_at=call.seconds,
            cancellation_reason=reason,
            next_action=None,
            amount_capturable=0,
        )
        return intent  # type: ignore[no-any-return]

    def capture(self, call: Call, ref: str) -> Intent:
        """Capture an authorized intent, once. Raises `SandboxError` in any other state."""
        intent = self._record(call, ref)["object"]
        if intent["status"] != "requires_capture":
            raise _wrong_state(
                intent,
                "This PaymentIntent could not be captured because it has a status of "
                f"{intent['status']}. Only a PaymentIntent with one of the following statuses may be captured: "
                "requires_capture.",
            )
        amount = (
            integer(call.form, "amount_to_capture") if "amount_to_capture" in call.form else intent["amount_capturable"]
        )
        if not 1 <= amount <= intent["amount_capturable"]:
            raise SandboxError(
                400, "The amount to capture is out of range.", code="amount_too_large", param="amount_to_capture"
            )
        charge = self._state["charges"][intent["latest_charge"]]["object"]
        charge.update(captured=True, amount_captured=amount)
        intent.update(status="succeeded", amount_received=amount, amount_capturable=0)
        return intent  # type: ignore[no-any-return]

    def by_token(self, token: str) -> State | None:
        """The record whose buyer stands before the 3-D Secure page of `token`."""
        for record in self._state["intents"].values():
            if token and record["token"] == token:
                return record  # type: ignore[no-any-return]
        return None

    def authenticate(self, record: State, *, passed: bool, now: int) -> None:
        """The buyer's answer on the 3-D Secure page."""
        record["token"] = None
        intent = record["object"]
        intent["next_action"] = None
        if not passed:
            error = {**_AUTHENTICATION_FAILED, "payment_method": record["method"]}
            intent.update(status="requires_payment_method", payment_method=None, last_payment_error=error)
            return
        try:
            self._attempt(record, CARDS[record["card"]], now)
        except SandboxError:
            return  # The intent keeps the decline; the page only sends the buyer back.

    def _attempt(self, record: State, card: Card, now: int) -> Intent:
        intent: Intent = record["object"]
        charge = self._charge(record, card, now)
        intent["latest_charge"] = charge["id"]
        if card.refusal is not None:
            raise self._declined(record, card.refusal, charge)
        manual = intent["capture_method"] == "manual"
        intent["status"] = "requires_capture" if manual else "succeeded"
        intent["amount_capturable" if manual else "amount_received"] = intent["amount"]
        return intent

    def _ask_buyer(self, record: State, now: int) -> Intent:
        token = self.new_id("tds", now)
        record["token"] = token
        redirect = {"return_url": record["return_url"], "url": f"{self._base_url}/3ds/{token}"}
        intent: Intent = record["object"]
        intent.update(status="requires_action", next_action={"type": "redirect_to_url", "redirect_to_url": redirect})
        return intent

    def _declined(self, record: State, refusal: Refusal, charge: dict[str, Any]) -> SandboxError:
        intent = record["object"]
        extra = {
            "advice_code": refusal.advice_code,
            "charge": charge["id"],
            "decline_code": refusal.decline_code,
            "payment_method": record["method"],
        }
        failure = SandboxError(402, refusal.message, type="card_error", code=refusal.code, stored=True, extra=extra)
        intent.update(status="requires_payment_method", payment_method=None, last_payment_error=dict(failure.error))
        failure.error["payment_intent"] = dict(intent)
        return failure

    def _charge(self, record: State, card: Card, now: int) -> dict[str, Any]:
        intent, refusal = record["object"], card.refusal
        captured = refusal is None and intent["capture_method"] != "manual"
        charge = {
            **_EMPTY_CHARGE,
            "id": self.new_id("ch", now),
            "amount": intent["amount"],
            "amount_captured": intent["amount"] if captured else 0,
            "captured": captured,
            "created": now // 1_000_000,
            "currency": intent["currency"],
            "failure_code": refusal.code if refusal else None,
            "failure_message": refusal.message if refusal else None,
            "metadata": dict(intent["metadata"]),
            "paid": refusal is None,
            "payment_intent": intent["id"],
            "payment_method": record["method"]["id"],
            "status": "failed" if refusal else "succeeded",
        }
        self._state["charges"][charge["id"]] = {"account": record["account"], "object": charge, "fate": card.fate}
        return charge

    def _card(self, call: Call) -> tuple[Card, dict[str, Any]]:
        data = call.form.get("payment_method_data")
        if isinstance(data, dict) and isinstance(data.get("card"), dict):
            today = datetime.fromtimestamp(call.seconds, UTC)
            card, month, year = card_from_data(data["card"], year=today.year, month=today.month)
        elif isinstance(call.form.get("payment_method"), str):
            card, month, year = card_from_token(call.form["payment_method"]), 12, 2034
        else:
            raise SandboxError(
                400,
                "You cannot confirm this PaymentIntent because it's missing a payment method. Provide one in "
                "payment_method or payment_method_data.",
                code="payment_intent_unexpected_state",
            )
        return card, _method(self.new_id("pm", call.now), card, month, year, call.seconds)

    def _record(self, call: Call, ref: str) -> State:
        record = self._state["intents"].get(ref)
        if record is None or record["account"] != call.account:
            raise _not_found("payment_intent", ref)
        return record  # type: ignore[no-any-return]


def _not_found(kind: str, ref: str) -> SandboxError:
    return SandboxError(
        404, f"No such {kind}: '{ref}'", code="resource_missing", param="intent" if kind == "payment_intent" else "id"
    )


def _wrong_state(intent: Intent, message: str) -> SandboxError:
    return SandboxError(
        400, message, code="payment_intent_unexpected_state", stored=True, extra={"payment_intent": dict(intent)}
    )


def _metadata(form: dict[str, Any]) -> dict[str, str]:
    metadata = form.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SandboxError(400, "Invalid object", param="metadata")
    for name, value in metadata.items():
        if len(name) > 40 or len(value) > 500:
            raise SandboxError(400, f"Metadata values must be at most 500 characters: {name}", param="metadata")
    return dict(metadata)


def _automatic(form: dict[str, Any]) -> dict[str, Any] | None:
    automatic = form.get("automatic_payment_methods", {"enabled": "true"})
    if "payment_method_types" in form or not isinstance(automatic, dict) or not is_true(automatic.get("enabled")):
        return None
    return {"allow_redirects": automatic.get("allow_redirects", "always"), "enabled": True}


def _return_url(call: Call, intent: Intent) -> str | None:
    url = call.form.get("return_url")
    if url is None:
        automatic = intent["automatic_payment_methods"]
        if automatic is not None and automatic["allow_redirects"] == "always":
            raise SandboxError(
                400,
                "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of "
                "these payment methods might redirect your customer off of your page, you must provide a `return_url`.",
                code="parameter_missing",
                param="return_url",
            )
        return None
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise SandboxError(400, "Not a valid URL", code="url_invalid", param="return_url")
    return url


def _method(ref: str, card: Card, month: int, year: int, seconds: int) -> dict[str, Any]:
    kind = "us_bank_account" if card.processing else "card"
    details = {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": "US",
        "display_brand": card.brand,
        "exp_month": month,
        "exp_year": year,
        "fingerprint": hashlib.sha256(card.number.encode()).hexdigest()[:16],
        "funding": "credit",
        "generated_from": None,
        "last4": card.number[-4:],
        "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }
    return {
        "id": ref,
        "object": "payment_method",
        "billing_details": dict(_BILLING),
        "created": seconds,
        "customer": None,
        "livemode": False,
        "metadata": {},
        "type": kind,
        **({"card": details} if kind == "card" else {}),
    }


_BILLING = {"address": None, "email": None, "name": None, "phone": None, "tax_id": None}

_EMPTY: Intent = {
    "object": "payment_intent",
    "amount_capturable": 0,
    "amount_details": {"tip": {}},
    "amount_received": 0,
    "application": None,
    "application_fee_amount": None,
    "canceled_at": None,
    "cancellation_reason": None,
    "confirmation_method": "automatic",
    "customer": None,
    "excluded_payment_method_types": None,
    "last_payment_error": None,
    "latest_charge": None,
    "livemode": False,
    "next_action": None,
    "on_behalf_of": None,
    "payment_method": None,
    "payment_method_configuration_details": None,
    "payment_method_options": {},
    "payment_method_types": ["card"],
    "processing": None,
    "receipt_email": None,
    "review": None,
    "setup_future_usage": None,
    "shipping": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "status": "requires_payment_method",
    "transfer_data": None,
    "transfer_group": None,
}

_EMPTY_CHARGE: dict[str, Any] = {
    "object": "charge",
    "amount_refunded": 0,
    "application": None,
    "application_fee": None,
    "application_fee_amount": None,
    "balance_transaction": None,
    "billing_details": _BILLING,
    "calculated_statement_descriptor": "PAIDONCE SANDBOX",
    "customer": None,
    "description": None,
    "disputed": False,
    "failure_balance_transaction": None,
    "fraud_details": {},
    "livemode": False,
    "on_behalf_of": None,
    "outcome": None,
    "payment_method_details": None,
    "receipt_email": None,
    "receipt_number": None,
    "receipt_url": None,
    "refunded": False,
    "review": None,
    "shipping": None,
    "source_transfer": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "transfer_data": None,
    "transfer_group": None,
}
