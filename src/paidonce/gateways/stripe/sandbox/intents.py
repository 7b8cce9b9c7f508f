"""PaymentIntents of the twin and the moves between their states. No HTTP in here; `shapes` has the bare objects."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from paidonce.gateways.stripe.sandbox.amounts import amount_and_currency, check_step
from paidonce.gateways.stripe.sandbox.cards import CARDS, Card, Refusal, card_from_data, card_from_token
from paidonce.gateways.stripe.sandbox.events import Events
from paidonce.gateways.stripe.sandbox.ledger import Ledger
from paidonce.gateways.stripe.sandbox.refunds import Refunds
from paidonce.gateways.stripe.sandbox.replies import Call, SandboxError, choice, integer, is_true, metadata, missing
from paidonce.gateways.stripe.sandbox.shapes import EMPTY, EMPTY_CHARGE, method
from paidonce.gateways.stripe.sandbox.store import Due, Record, Store

Intent = dict[str, Any]

_DAY_MICROSECONDS = 24 * 3600 * 1_000_000
# How long banks keep money reserved for a card, and how long the twin's slow payments take.
AUTHORIZATION_LIFE = 7 * _DAY_MICROSECONDS
PROCESSING_TIME = 3 * _DAY_MICROSECONDS
_DISPUTED_AFTER = _DAY_MICROSECONDS

_CONFIRMABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action"})
CANCELABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"})
_CAPTURE_METHODS = ("automatic_async", "automatic", "manual")
_CANCELLATIONS = ("requested_by_customer", "abandoned", "duplicate", "fraudulent")
_OUTCOMES = ("succeeded", "failed")
# Why a reservation was released, in the words of Stripe's refunds.
_RELEASES = {"automatic": "expired_uncaptured_charge", "requested_by_customer": "requested_by_customer"}
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
    """The PaymentIntents and charges of all accounts."""

    def __init__(
        self, store: Store, base_url: str, *, ledger: Ledger, refunds: Refunds, events: Events, due: Due
    ) -> None:
        self._store = store
        self._base_url = base_url
        self._ledger = ledger
        self._refunds = refunds
        self._events = events
        due.register(resolve=self._resolve_in_time, expire=self._expire_in_time)
        self._due = due

    def create(self, call: Call) -> Intent:
        """A new intent. Raises `SandboxError` for refused parameters."""
        amount, currency = amount_and_currency(call.form)
        capture_method = choice(call.form, "capture_method", _CAPTURE_METHODS, "automatic_async")
        ours = metadata(call.form)
        ref = self._store.new_id("pi", call.now)
        intent: Intent = {
            **EMPTY,
            "id": ref,
            "amount": amount,
            "automatic_payment_methods": _automatic(call.form),
            "capture_method": capture_method,
            "client_secret": f"{ref}_secret_{self._store.new_id('s', call.now)[2:]}",
            "created": call.seconds,
            "currency": currency,
            "description": call.form.get("description"),
            "metadata": ours,
        }
        self._store.add(intent, call.account, card=None, token=None)
        return self.confirm(call, ref) if is_true(call.form.get("confirm")) else intent

    def get(self, call: Call, ref: str) -> Intent:
        """The intent. Raises `SandboxError` 404 for another account's, as for one that does not exist."""
        return self._record(call, ref)["object"]  # type: ignore[no-any-return]

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
        card, how = self._card(call)
        return_url = _return_url(call, intent)
        # Should somebody type a real card's number into the twin, it is not kept.
        known = card.number if card.number in CARDS else None
        record.update(card=known, method=how, return_url=return_url, token=None)
        intent.update(next_action=None, last_payment_error=None, payment_method=how["id"])
        intent["payment_method_types"] = [how["type"]]
        if card.three_d_secure:
            return self._ask_buyer(record, call.now)
        if card.processing:
            return self._wait_for_bank(record, card, call.now)
        return self._attempt(record, card, call.now)

    def cancel(self, call: Call, ref: str) -> Intent:
        """End the intent. Raises `SandboxError` where Stripe refuses: it went through, or is under way."""
        record = self._record(call, ref)
        intent = record["object"]
        reason = choice(call.form, "cancellation_reason", ("", *_CANCELLATIONS), "") or None
        if intent["status"] not in CANCELABLE:
            raise _wrong_state(
                intent,
                f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. "
                "Only a PaymentIntent with one of the following statuses may be canceled: requires_payment_method, "
                "requires_capture, requires_confirmation, requires_action, processing.",
            )
        self.end(record, call.now, reason=reason)
        return intent  # type: ignore[no-any-return]

    def end(self, record: Record, now: int, *, reason: str | None) -> None:
        """Cancel an intent, and release what was reserved for it."""
        intent = record["object"]
        reserved = intent["status"] == "requires_capture"
        record["token"] = None
        intent.update(
            status="canceled",
            canceled_at=now // 1_000_000,
            cancellation_reason=reason,
            next_action=None,
            amount_capturable=0,
        )
        self._events.emit("payment_intent.canceled", record, now)
        if reserved:
            charge = self._charge_of(intent)
            self._refunds.release(charge, intent["amount"], now, reason=_RELEASES.get(reason or ""))
            self._events.emit("charge.refunded", charge, now)

    def expire(self, record: Record, now: int) -> None:
        """The bank lets reserved money go. Raises `ValueError` if none is reserved."""
        if record["object"]["status"] != "requires_capture":
            raise ValueError(f"nothing is reserved: the intent is {record['object']['status']}")
        self.end(record, now, reason="automatic")

    def resolve(self, record: Record, outcome: str, now: int) -> None:
        """The bank decides on a slow payment. Raises `ValueError` if it is not `processing`, or for another outcome."""
        intent = record["object"]
        if outcome not in _OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(_OUTCOMES)}, not {outcome!r}")
        if intent["status"] != "processing":
            raise ValueError(f"the intent is {intent['status']}, not processing")
        intent["processing"] = None
        # Twins of an earlier release made no charge before the bank had decided.
        charge = self._charge_of(intent) if intent["latest_charge"] else self._charge(record, Card(""), now)
        intent["latest_charge"] = charge["object"]["id"]
        if outcome == "succeeded":
            self._succeed(record, charge, now)
        else:
            self._bounce(record, charge, now)

    def capture(self, call: Call, ref: str) -> Intent:
        """Capture an authorized intent, once. Raises `SandboxError` in any other state."""
        record = self._record(call, ref)
        intent = record["object"]
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
        check_step(amount, intent["currency"])
        self._take(record, self._charge_of(intent), amount, call.now)
        return intent  # type: ignore[no-any-return]

    def by_token(self, token: str) -> Record | None:
        """The record whose buyer stands before the 3-D Secure page of `token`."""
        return next((record for record in self._store.records("pi") if token and record["token"] == token), None)

    def authenticate(self, record: Record, *, passed: bool, now: int) -> None:
        """The buyer's answer on the 3-D Secure page."""
        record["token"] = None
        intent = record["object"]
        intent["next_action"] = None
        if not passed:
            error = {**_AUTHENTICATION_FAILED, "payment_method": record["method"]}
            intent.update(status="requires_payment_method", payment_method=None, last_payment_error=error)
            self._events.emit("payment_intent.payment_failed", record, now)
            return
        try:
            self._attempt(record, CARDS[record["card"]], now)
        except SandboxError:
            return  # The intent keeps the decline; the page only sends the buyer back.

    def _attempt(self, record: Record, card: Card, now: int) -> Intent:
        intent: Intent = record["object"]
        charge = self._charge(record, card, now)
        intent["latest_charge"] = charge["object"]["id"]
        if card.refusal is not None:
            raise self._declined(record, card.refusal, charge["object"], now)
        self._succeed(record, charge, now)
        return intent

    def _succeed(self, record: Record, charge: Record, now: int) -> None:
        """The bank agreed: the money is reserved or taken, as the intent wants it."""
        intent = record["object"]
        charge["object"].update(status="succeeded", paid=True)
        if intent["capture_method"] != "manual":
            self._take(record, charge, intent["amount"], now)
            return
        intent.update(status="requires_capture", amount_capturable=intent["amount"])
        self._events.emit("payment_intent.amount_capturable_updated", record, now)
        self._due.add(now + AUTHORIZATION_LIFE, "expire", intent["id"])

    def _take(self, record: Record, charge: Record, amount: int, now: int) -> None:
        """Capture `amount`, and release what is left of a reservation."""
        intent, item = record["object"], charge["object"]
        item.update(captured=True, amount_captured=amount)
        item["balance_transaction"] = self._ledger.capture(charge, now)
        intent.update(status="succeeded", amount_received=amount, amount_capturable=0)
        self._events.emit("payment_intent.succeeded", record, now)
        if amount < item["amount"]:
            self._refunds.release(charge, item["amount"] - amount, now, reason=None)
            self._events.emit("charge.refunded", charge, now)
        if charge["fate"] in {"dispute", "inquiry"}:
            self._due.add(now + _DISPUTED_AFTER, charge["fate"], item["id"])

    def _wait_for_bank(self, record: Record, card: Card, now: int) -> Intent:
        intent: Intent = record["object"]
        charge = self._charge(record, card, now)
        charge["object"].update(status="pending", paid=False)
        intent.update(status="processing", processing={"type": "card"}, latest_charge=charge["object"]["id"])
        self._events.emit("payment_intent.processing", record, now)
        self._due.add(now + PROCESSING_TIME, "resolve", intent["id"])
        return intent

    def _bounce(self, record: Record, charge: Record, now: int) -> None:
        intent, code = record["object"], "payment_intent_payment_attempt_failed"
        message = "The payment failed: the bank did not pay."
        charge["object"].update(status="failed", failure_code="insufficient_funds", failure_message=message)
        failure = SandboxError(402, message, code=code, extra={"payment_method": record["method"]})
        intent.update(status="requires_payment_method", payment_method=None, last_payment_error=failure.error)
        self._events.emit("payment_intent.payment_failed", record, now)

    def _resolve_in_time(self, ref: str, now: int) -> None:
        record = self._store.find(ref)
        if record is not None and record["object"]["status"] == "processing":
            self.resolve(record, "succeeded", now)

    def _expire_in_time(self, ref: str, now: int) -> None:
        record = self._store.find(ref)
        if record is not None and record["object"]["status"] == "requires_capture":
            self.expire(record, now)

    def _ask_buyer(self, record: Record, now: int) -> Intent:
        token = self._store.new_id("tds", now)
        record["token"] = token
        redirect = {"return_url": record["return_url"], "url": f"{self._base_url}/3ds/{token}"}
        intent: Intent = record["object"]
        intent.update(status="requires_action", next_action={"type": "redirect_to_url", "redirect_to_url": redirect})
        self._events.emit("payment_intent.requires_action", record, now)
        return intent

    def _declined(self, record: Record, refusal: Refusal, charge: dict[str, Any], now: int) -> SandboxError:
        intent = record["object"]
        extra = {
            "advice_code": refusal.advice_code,
            "charge": charge["id"],
            "decline_code": refusal.decline_code,
            "payment_method": record["method"],
        }
        failure = SandboxError(402, refusal.message, type="card_error", code=refusal.code, stored=True, extra=extra)
        intent.update(status="requires_payment_method", payment_method=None, last_payment_error=dict(failure.error))
        self._events.emit("payment_intent.payment_failed", record, now)
        failure.error["payment_intent"] = dict(intent)
        return failure

    def _charge(self, record: Record, card: Card, now: int) -> Record:
        intent, refusal = record["object"], card.refusal
        charge = {
            **EMPTY_CHARGE,
            "id": self._store.new_id("ch", now),
            "amount": intent["amount"],
            "amount_captured": 0,
            "captured": False,
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
        return self._store.add(charge, record["account"], fate=card.fate)

    def _charge_of(self, intent: Intent) -> Record:
        charge = self._store.find(intent["latest_charge"])
        if charge is None:
            raise AssertionError("an intent without its charge")
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
        return card, method(self._store.new_id("pm", call.now), card, month, year, call.seconds)

    def _record(self, call: Call, ref: str) -> Record:
        return self._store.get(call, "pi", ref, param="intent")


def _wrong_state(intent: Intent, message: str) -> SandboxError:
    return SandboxError(
        400, message, code="payment_intent_unexpected_state", stored=True, extra={"payment_intent": dict(intent)}
    )


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
