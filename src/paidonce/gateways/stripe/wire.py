"""Stripe's JSON and our values, mapped without any call. Everything unreadable is a `WireError`, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paidonce.gateways.base import Account, CreateRequest, Decline, DeclineCode, Progress, Snapshot
from paidonce.money import Money, MoneyError, iso_exponent, rescale

# What the tests validate requests and answers against; Stripe.js of the same name goes with it (settings.JS_URL).
API_VERSION = "2026-08-26.dahlia"

_ZERO_DECIMAL = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
)
_THREE_DECIMAL = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
# Sent with two decimals for backward compatibility, though a fraction can't be charged.
_WHOLE_UNITS = frozenset({"ISK", "UGX"})

_PROGRESS = {
    "requires_payment_method": Progress.AWAITING_BUYER,
    "requires_confirmation": Progress.AWAITING_BUYER,
    "requires_action": Progress.AWAITING_BUYER,
    "processing": Progress.PROCESSING,
    "requires_capture": Progress.AUTHORIZED,
    "succeeded": Progress.CAPTURED,
    "canceled": Progress.CANCELED,
}

_DECLINES = {
    "insufficient_funds": DeclineCode.INSUFFICIENT_FUNDS,
    "expired_card": DeclineCode.CARD_EXPIRED,
    "invalid_expiry_month": DeclineCode.CARD_EXPIRED,
    "invalid_expiry_year": DeclineCode.CARD_EXPIRED,
    "incorrect_number": DeclineCode.WRONG_NUMBER,
    "invalid_number": DeclineCode.WRONG_NUMBER,
    "incorrect_cvc": DeclineCode.WRONG_CVC,
    "invalid_cvc": DeclineCode.WRONG_CVC,
    "authentication_required": DeclineCode.AUTHENTICATION_FAILED,
    "authentication_not_handled": DeclineCode.AUTHENTICATION_FAILED,
    "payment_intent_authentication_failure": DeclineCode.AUTHENTICATION_FAILED,
    "mobile_device_authentication_required": DeclineCode.AUTHENTICATION_FAILED,
    "card_velocity_exceeded": DeclineCode.LIMIT_EXCEEDED,
    "withdrawal_count_limit_exceeded": DeclineCode.LIMIT_EXCEEDED,
    "payment_method_provider_decline": DeclineCode.INSTRUMENT_DECLINED,
    "payment_intent_payment_attempt_failed": DeclineCode.INSTRUMENT_DECLINED,
    "payment_intent_payment_attempt_expired": DeclineCode.APPROVAL_NEEDED,
    "payment_method_customer_decline": DeclineCode.APPROVAL_NEEDED,
    "approve_with_id": DeclineCode.PROCESSING_ERROR,
    "issuer_not_available": DeclineCode.PROCESSING_ERROR,
    "processing_error": DeclineCode.PROCESSING_ERROR,
    "reenter_transaction": DeclineCode.PROCESSING_ERROR,
    "try_again_later": DeclineCode.PROCESSING_ERROR,
}


class WireError(ValueError):
    """An answer that is no readable Stripe object; the message names the field, never its value."""


def exponent(currency: str) -> int:
    """Decimals that Stripe counts `currency` with (its docs, "Zero-decimal currencies" and "Special cases").

    Raises `MoneyError` for a currency whose ISO decimals are not two and which Stripe does not list.
    """
    if currency in _ZERO_DECIMAL:
        return 0
    if currency in _THREE_DECIMAL:
        return 3
    if iso_exponent(currency) != 2 and currency not in _WHOLE_UNITS:
        raise MoneyError(f"Stripe does not take payments in {currency}")
    return 2


def to_stripe(amount: Money) -> int:
    """`amount` in Stripe's minor units.

    Raises `MoneyError` if it is not positive or Stripe can't express it exactly (a tenth of an ariary, a single fils).
    """
    if amount.minor <= 0:
        raise MoneyError(f"Stripe charges positive amounts only, not {amount}")
    currency = amount.currency
    units = rescale(amount.minor, from_exponent=iso_exponent(currency), to_exponent=exponent(currency))
    if currency in _THREE_DECIMAL and units % 10:
        raise MoneyError(f"Stripe takes {currency} with a last digit of 0 only, not {amount}")
    return units


def from_stripe(units: object, currency: object) -> Money:
    """Our money for Stripe's `units` of `currency` (lower case). Raises `WireError` if they can't be that."""
    if not isinstance(currency, str):
        raise WireError("currency is missing")
    code = currency.upper()
    try:
        return Money(_rescaled(units, code), code)
    except MoneyError as error:
        raise WireError(f"the amount or currency can't be read: {error}") from None


def _rescaled(units: object, code: str) -> int:
    if type(units) is not int:
        raise WireError("the amount is not an integer")
    return rescale(units, from_exponent=exponent(code), to_exponent=iso_exponent(code))


def create_params(request: CreateRequest) -> dict[str, Any]:
    """The body of POST /v1/payment_intents. Our ids travel in the metadata, for comparison and for look-ups."""
    return {
        "amount": to_stripe(request.amount),
        "currency": request.amount.currency.lower(),
        "automatic_payment_methods": {"enabled": True},
        "capture_method": "automatic",
        "metadata": {
            "payment_id": request.payment_id,
            "order_id": request.order_id,
            "order_number": request.order_number,
        },
    }


def snapshot(intent: Mapping[str, Any], *, account: str | None, request_id: str | None = None) -> Snapshot:
    """The `Snapshot` of a PaymentIntent as the API gives it. Raises `WireError` if it can't be read.

    An unknown status is `PROCESSING`: neither paid nor failed, so that recovery looks again.
    """
    ref, status = _intent_id(intent), _text(intent, "status")
    progress = _PROGRESS.get(status, Progress.PROCESSING)
    live = intent.get("livemode")
    if not isinstance(live, bool):
        raise WireError("livemode is missing")
    captured, capture_ref = _capture(intent) if progress is Progress.CAPTURED else (None, None)
    return Snapshot(
        gateway="stripe",
        ref=ref,
        progress=progress,
        amount=from_stripe(intent.get("amount"), intent.get("currency")),
        payment_id=_metadata(intent, "payment_id"),
        order_id=_metadata(intent, "order_id"),
        account=account,
        live=live,
        raw_status=status,
        captured=captured,
        capture_ref=capture_ref,
        decline=_last_decline(intent) if status == "requires_payment_method" else None,
        pending_reason=status if progress is Progress.PROCESSING else None,
        request_id=request_id,
    )


def client_secret(intent: Mapping[str, Any]) -> str:
    """What the browser needs to confirm the intent. Never stored, never logged."""
    return _text(intent, "client_secret")


def account(data: Mapping[str, Any], *, live: bool) -> Account:
    """The account behind the key. Stripe's object has no mode of its own: `live` is the key's."""
    if data.get("object") != "account":
        raise WireError("object is not an account")
    return Account(id=_text(data, "id"), live=live)


def decline(error: Mapping[str, Any]) -> Decline:
    """Why an attempt failed. The intent can be confirmed again, so every decline is recoverable.

    Lost, stolen and suspected cards read as a plain decline: the buyer must not learn more (Stripe's own advice).
    """
    code, reason = error.get("code"), error.get("decline_code")
    for raw in (reason, code):
        if isinstance(raw, str) and raw in _DECLINES:
            return Decline(_DECLINES[raw], recoverable=True, raw_code=raw)
    raw = next((str(word) for word in (reason, code, error.get("type")) if word), "unknown")
    by_card = code == "card_declined" or error.get("type") == "card_error"
    return Decline(DeclineCode.CARD_DECLINED if by_card else DeclineCode.REFUSED, recoverable=True, raw_code=raw)


def told_by_the_intent(code: str) -> bool:
    """Whether a refusal with this error code is news about the intent itself, to be read there."""
    return code in _DECLINES or code in {
        "card_declined",
        "payment_intent_unexpected_state",
        "charge_expired_for_capture",
    }


def _intent_id(intent: Mapping[str, Any]) -> str:
    if intent.get("object") != "payment_intent":
        raise WireError("object is not a payment_intent")
    return _text(intent, "id")


def _capture(intent: Mapping[str, Any]) -> tuple[Money, str]:
    charge = intent.get("latest_charge")
    if isinstance(charge, Mapping):
        charge = charge.get("id")
    # Without the charge's id the journal could not tell a repetition from a second capture.
    if not isinstance(charge, str) or not charge:
        raise WireError("latest_charge is missing on a succeeded intent")
    return from_stripe(intent.get("amount_received"), intent.get("currency")), charge


def _last_decline(intent: Mapping[str, Any]) -> Decline | None:
    error = intent.get("last_payment_error")
    return decline(error) if isinstance(error, Mapping) else None


def _metadata(intent: Mapping[str, Any], name: str) -> str | None:
    metadata = intent.get("metadata")
    value = metadata.get(name) if isinstance(metadata, Mapping) else None
    return value if isinstance(value, str) else None


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise WireError(f"{name} is missing")
    return value
