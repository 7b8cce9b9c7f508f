"""Stripe's JSON and our values, mapped without any call. Everything unreadable is a `WireError`, never a guess."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from paidonce.gateways.base import (
    Account,
    CaptureMethod,
    CreateRequest,
    Decline,
    DeclineCode,
    DisputeProgress,
    DisputeSnapshot,
    Progress,
    RefundProgress,
    RefundSnapshot,
    Snapshot,
    keepable,
)
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
# The buyer was sent to the bank and is expected back.
_IN_PROGRESS = frozenset({"requires_action", "requires_confirmation"})

_REFUND_PROGRESS = {
    "pending": RefundProgress.PENDING,
    "requires_action": RefundProgress.PENDING,
    "succeeded": RefundProgress.SUCCEEDED,
    "failed": RefundProgress.FAILED,
    "canceled": RefundProgress.FAILED,
}

_DISPUTE_PROGRESS = {
    "warning_needs_response": DisputeProgress.OPEN,
    "warning_under_review": DisputeProgress.OPEN,
    "warning_closed": DisputeProgress.WON,
    "needs_response": DisputeProgress.OPEN,
    "under_review": DisputeProgress.OPEN,
    "won": DisputeProgress.WON,
    "prevented": DisputeProgress.WON,
    "lost": DisputeProgress.LOST,
}
# Stripe takes the money when a real dispute opens, not for an inquiry. This counts while it lists no movement yet.
_WITHDRAWING = frozenset({"needs_response", "under_review", "lost"})

_CAPTURE_METHODS = {CaptureMethod.AUTOMATIC: "automatic", CaptureMethod.MANUAL: "manual"}

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
        "capture_method": _CAPTURE_METHODS[request.capture_method],
        "metadata": {
            "payment_id": request.payment_id,
            "order_id": request.order_id,
            "order_number": request.order_number,
        },
    }


def refund_params(ref: str, amount: Money, refund_id: str) -> dict[str, Any]:
    """The body of POST /v1/refunds. Our id travels in the metadata, so that a look-up tells which refund it was."""
    return {"payment_intent": ref, "amount": to_stripe(amount), "metadata": {"refund_id": refund_id}}


def progress_of(status: object) -> Progress:
    """A PaymentIntent's status in the core's words. An unknown one is neither paid nor failed: recovery looks again."""
    return _PROGRESS.get(str(status), Progress.PROCESSING)


def refund_progress_of(status: object) -> RefundProgress:
    """A refund's status in the core's words; an unknown one is pending."""
    return _REFUND_PROGRESS.get(str(status), RefundProgress.PENDING)


def dispute_progress_of(status: object) -> DisputeProgress:
    """A dispute's status in the core's words; an unknown one is open."""
    return _DISPUTE_PROGRESS.get(str(status), DisputeProgress.OPEN)


def snapshot(intent: Mapping[str, Any], *, account: str | None, request_id: str | None = None) -> Snapshot:
    """The `Snapshot` of a PaymentIntent as the API gives it. Raises `WireError` if it can't be read."""
    ref, status = _intent_id(intent), _text(intent, "status")
    progress = progress_of(status)
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
        in_progress=status in _IN_PROGRESS,
        fee=_fee(intent) if progress is Progress.CAPTURED else None,
    )


def refund(data: Mapping[str, Any], ref: str, *, request_id: str | None = None) -> RefundSnapshot:
    """The `RefundSnapshot` of a refund of the intent `ref`. Raises `WireError` for another's, or an unreadable one."""
    _check_belongs(data, "refund", ref)
    status = data.get("status")
    reason = data.get("failure_reason")
    return RefundSnapshot(
        ref=_text(data, "id"),
        progress=refund_progress_of(status),
        amount=from_stripe(data.get("amount"), data.get("currency")),
        refund_id=_metadata(data, "refund_id"),
        raw_status=keepable(status) or "unknown",
        failure_reason=keepable(reason),
        request_id=request_id,
    )


def refunds(intent: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> tuple[RefundSnapshot, ...]:
    """All refunds of what was captured, oldest first. `items` come newest first, as Stripe lists them.

    Raises `WireError` if any of them can't be read: a list with a hole would hide that money went back.
    """
    ref = _intent_id(intent)
    return tuple(reversed([refund(item, ref) for item in items if not _is_release(intent, item)]))


def disputes(intent: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> tuple[DisputeSnapshot, ...]:
    """All disputes of the payment, oldest first. `items` come newest first. Raises `WireError`."""
    ref = _intent_id(intent)
    return tuple(reversed([dispute(item, ref) for item in items]))


def dispute(data: Mapping[str, Any], ref: str) -> DisputeSnapshot:
    """The `DisputeSnapshot` of a dispute of the intent `ref`. Raises `WireError` for another's, or unreadable ones."""
    _check_belongs(data, "dispute", ref)
    status, reason = _text(data, "status"), data.get("reason")
    return DisputeSnapshot(
        ref=_text(data, "id"),
        progress=dispute_progress_of(status),
        amount=from_stripe(data.get("amount"), data.get("currency")),
        withdrawn=_withdrawn(data, status),
        reason=keepable(reason),
        raw_status=status,
    )


def page(data: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], bool]:
    """One page of a list, and whether there are more. Raises `WireError`."""
    items, more = data.get("data"), data.get("has_more")
    if data.get("object") != "list" or not isinstance(items, list) or not isinstance(more, bool):
        raise WireError("the answer is not a list")
    if not all(isinstance(item, Mapping) for item in items):
        raise WireError("the list holds something that is no object")
    return items, more and bool(items)


def object_id(data: Mapping[str, Any]) -> str:
    """The id of an object in a list. Raises `WireError`."""
    return _text(data, "id")


def reference(data: Mapping[str, Any], name: str) -> str | None:
    """The id of another object that `data` names, whether expanded or not; None if it names none."""
    value = data.get(name)
    if isinstance(value, Mapping):
        value = value.get("id")
    return keepable(value)


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
    charge = reference(error, "charge")
    for raw in (reason, code):
        if isinstance(raw, str) and raw in _DECLINES:
            return Decline(_DECLINES[raw], recoverable=True, raw_code=raw, ref=charge)
    raw = next(filter(None, map(keepable, (reason, code, error.get("type")))), "unknown")
    by_card = code == "card_declined" or error.get("type") == "card_error"
    plain = DeclineCode.CARD_DECLINED if by_card else DeclineCode.REFUSED
    return Decline(plain, recoverable=True, raw_code=raw, ref=charge)


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
    charge = reference(intent, "latest_charge")
    # Without the charge's id the journal could not tell a repetition from a second capture.
    if charge is None:
        raise WireError("latest_charge is missing on a succeeded intent")
    return from_stripe(intent.get("amount_received"), intent.get("currency")), charge


def _fee(intent: Mapping[str, Any]) -> Money | None:
    """What Stripe kept, in the currency it settles in; None as long as it does not say."""
    charge = intent.get("latest_charge")
    movement = charge.get("balance_transaction") if isinstance(charge, Mapping) else None
    if not isinstance(movement, Mapping):
        return None
    try:
        return from_stripe(movement.get("fee"), movement.get("currency"))
    except WireError:
        return None  # The buyer has paid; a fee that our units can't express must not keep the order from being paid.


def _is_release(intent: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether a "refund" only let go of reserved money: Stripe lists what a partial capture left as a refund, too.

    No money was taken, so none moved back, and booking it would give the buyer's money away on paper.
    """
    if item.get("reason") == "expired_uncaptured_charge":
        return True
    left = _difference(intent.get("amount"), intent.get("amount_received"))
    return (
        item.get("amount") == left
        and item.get("status") == "succeeded"
        and item.get("balance_transaction") is None
        and _metadata(item, "refund_id") is None
    )


def _difference(whole: object, part: object) -> int:
    return whole - part if type(whole) is int and type(part) is int else 0


def _withdrawn(data: Mapping[str, Any], status: str) -> bool:
    movements = data.get("balance_transactions")
    amounts = (
        [one.get("amount") for one in movements if isinstance(one, Mapping)] if isinstance(movements, list) else []
    )
    # The amounts without fees: a dispute's fee is kept when the dispute is won.
    known = [amount for amount in amounts if type(amount) is int]
    return sum(known) < 0 if known else status in _WITHDRAWING


def _check_belongs(data: Mapping[str, Any], kind: str, ref: str) -> None:
    if data.get("object") != kind:
        raise WireError(f"object is not a {kind}")
    if reference(data, "payment_intent") not in {None, ref}:
        raise WireError(f"the {kind} belongs to another payment_intent")


def _last_decline(intent: Mapping[str, Any]) -> Decline | None:
    error = intent.get("last_payment_error")
    return decline(error) if isinstance(error, Mapping) else None


def _metadata(intent: Mapping[str, Any], name: str) -> str | None:
    metadata = intent.get("metadata")
    return keepable(metadata.get(name)) if isinstance(metadata, Mapping) else None


def _text(data: Mapping[str, Any], name: str) -> str:
    value = keepable(data.get(name))
    if value is None:
        raise WireError(f"{name} is missing")
    return value
