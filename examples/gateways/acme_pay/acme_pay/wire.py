"""AcmePay's JSON and our values: a pure mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paidonce.gateways.base import Account, CreateRequest, Decline, DeclineCode, Progress, Snapshot
from paidonce.money import Money, MoneyError, iso_exponent, rescale

Json = Mapping[str, Any]

# AcmePay's own decimals. The forint has two by ISO 4217 and none here.
EXPONENTS = {"CHF": 2, "EUR": 2, "GBP": 2, "HUF": 0, "JPY": 0, "USD": 2}
LARGEST_UNITS = 99_999_999

_PROGRESS = {
    "pending_approval": Progress.AWAITING_BUYER,
    "approved": Progress.APPROVED,
    "captured": Progress.CAPTURED,
    "voided": Progress.CANCELED,
}
_DECLINES = {
    "insufficient_funds": DeclineCode.INSUFFICIENT_FUNDS,
    "expired_card": DeclineCode.CARD_EXPIRED,
    "over_limit": DeclineCode.LIMIT_EXCEEDED,
}


class Unreadable(ValueError):
    """An answer that lacks what a snapshot needs; the message names the field and never its value."""


def units(amount: Money) -> int:
    """`amount` in AcmePay's units. Raises `MoneyError` if AcmePay can't take exactly that."""
    exponent = EXPONENTS.get(amount.currency)
    if exponent is None:
        raise MoneyError(f"AcmePay does not take {amount.currency}")
    if amount.minor <= 0:
        raise MoneyError(f"AcmePay takes positive amounts only, not {amount}")
    scaled = rescale(amount.minor, from_exponent=iso_exponent(amount.currency), to_exponent=exponent)
    if scaled > LARGEST_UNITS:
        raise MoneyError(f"{amount} is more than AcmePay takes at once")
    return scaled


def charge_request(request: CreateRequest) -> dict[str, Any]:
    """The body that creates a charge."""
    return {
        "amount": units(request.amount),
        "currency": request.amount.currency,
        "reference": request.payment_id,
        "order": request.order_id,
        "description": request.order_number,
        "return_url": request.return_url,
        "cancel_url": request.cancel_url,
    }


def account(body: Json) -> Account:
    """The merchant behind the key. Raises `Unreadable`."""
    return Account(_text(body, "id"), _truth(body, "live"))


def snapshot(charge: Json, *, request_id: str | None) -> Snapshot:
    """What a charge says. Raises `Unreadable` for a charge without id, status, amount, merchant or mode."""
    status = _text(charge, "status")
    # A word that AcmePay adds one day is neither paid nor failed.
    progress = _PROGRESS.get(status, Progress.PROCESSING)
    moved = progress is Progress.CAPTURED
    return Snapshot(
        gateway="acme_pay",
        ref=_text(charge, "id"),
        progress=progress,
        amount=_money(charge, "amount"),
        payment_id=_text_or_none(charge, "reference"),
        order_id=_text_or_none(charge, "order"),
        account=_text(charge, "merchant"),
        live=_truth(charge, "live"),
        raw_status=status,
        captured=_money(charge, "captured_amount") if moved else None,
        capture_ref=_text(charge, "capture_id") if moved else None,
        decline=_decline(charge) if progress is Progress.AWAITING_BUYER else None,
        pending_reason=status if progress is Progress.PROCESSING else None,
        request_id=request_id,
    )


def approve_url(charge: Json) -> str:
    """Where the buyer approves. Raises `Unreadable`."""
    return _text(charge, "approve_url")


def _decline(charge: Json) -> Decline | None:
    """AcmePay keeps the last decline on the charge, which goes back to the buyer."""
    raw = _text_or_none(charge, "decline_code")
    if raw is None:
        return None
    return Decline(_DECLINES.get(raw, DeclineCode.CARD_DECLINED), recoverable=True, raw_code=raw)


def _money(charge: Json, name: str) -> Money:
    count, currency = charge.get(name), _text(charge, "currency")
    exponent = EXPONENTS.get(currency)
    if type(count) is not int or exponent is None:
        raise Unreadable(f"{name} or currency can't be read")
    try:
        return Money(rescale(count, from_exponent=exponent, to_exponent=iso_exponent(currency)), currency)
    except MoneyError as error:
        raise Unreadable(f"{name} is no amount") from error


def _text(value: Json, name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not found:
        raise Unreadable(f"{name} is missing")
    return found


def _text_or_none(value: Json, name: str) -> str | None:
    found = value.get(name)
    return found if isinstance(found, str) and found else None


def _truth(value: Json, name: str) -> bool:
    found = value.get(name)
    if not isinstance(found, bool):
        raise Unreadable(f"{name} is missing")
    return found
