"""AcmePay's JSON and our values: a pure mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paidonce.gateways.base import (
    Account,
    CreateRequest,
    Decline,
    DeclineCode,
    Progress,
    RefundProgress,
    RefundSnapshot,
    Snapshot,
)
from paidonce.money import Money, MoneyError, iso_exponent, rescale

Json = Mapping[str, Any]

# AcmePay's own decimals. The forint has two by ISO 4217 and none here.
EXPONENTS = {"CHF": 2, "EUR": 2, "GBP": 2, "HUF": 0, "JPY": 0, "USD": 2}
LARGEST_UNITS = 99_999_999

_PROGRESS = {
    "pending_approval": Progress.AWAITING_BUYER,
    "approved": Progress.APPROVED,
    "authorized": Progress.AUTHORIZED,
    "captured": Progress.CAPTURED,
    "voided": Progress.CANCELED,
    "expired": Progress.CANCELED,
}
_REFUND_PROGRESS = {
    "pending": RefundProgress.PENDING,
    "paid_back": RefundProgress.SUCCEEDED,
    "failed": RefundProgress.FAILED,
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
        "capture": str(request.capture_method),
        "reference": request.payment_id,
        "order": request.order_id,
        "description": request.order_number,
        "return_url": request.return_url,
        "cancel_url": request.cancel_url,
    }


def refund_request(amount: Money, refund_id: str) -> dict[str, Any]:
    """The body that creates a refund."""
    return {"amount": units(amount), "reference": refund_id}


def progress_of(status: str) -> Progress:
    """A charge's status. A word that AcmePay adds one day is neither paid nor failed."""
    return _PROGRESS.get(status, Progress.PROCESSING)


def refund_progress_of(status: str) -> RefundProgress:
    """A refund's status. A word that AcmePay adds one day is not the end of it."""
    return _REFUND_PROGRESS.get(status, RefundProgress.PENDING)


def account(body: Json) -> Account:
    """The merchant behind the key. Raises `Unreadable`."""
    return Account(text(body, "id"), truth(body, "live"))


def snapshot(charge: Json, *, request_id: str | None) -> Snapshot:
    """What a charge says. Raises `Unreadable` for a charge without id, status, amount, merchant or mode."""
    status = text(charge, "status")
    progress = progress_of(status)
    moved = progress is Progress.CAPTURED
    return Snapshot(
        gateway="acme_pay",
        ref=text(charge, "id"),
        progress=progress,
        amount=_money(charge, "amount"),
        payment_id=text_or_none(charge, "reference"),
        order_id=text_or_none(charge, "order"),
        account=text(charge, "merchant"),
        live=truth(charge, "live"),
        raw_status=status,
        captured=_money(charge, "captured_amount") if moved else None,
        capture_ref=text(charge, "capture_id") if moved else None,
        pending_reason=status if progress is Progress.PROCESSING else None,
        request_id=request_id,
        # AcmePay settles in the charge's own currency.
        fee=_money(charge, "fee") if moved and charge.get("fee") is not None else None,
    )


def refund(body: Json, charge_id: str, *, request_id: str | None = None) -> RefundSnapshot:
    """What a refund of the charge says. Raises `Unreadable`, also for another charge's refund."""
    if text(body, "charge") != charge_id:
        raise Unreadable("the refund is of another charge")
    status = text(body, "status")
    return RefundSnapshot(
        ref=text(body, "id"),
        progress=refund_progress_of(status),
        amount=_money(body, "amount"),
        refund_id=text_or_none(body, "reference"),
        raw_status=status,
        failure_reason=text_or_none(body, "failure_reason"),
        request_id=request_id,
    )


def refunds(body: Json, charge_id: str) -> tuple[RefundSnapshot, ...]:
    """All refunds of the charge, oldest first as AcmePay lists them.

    Raises `Unreadable` if any of them can't be read: a list with a hole would hide that money went back.
    """
    found = body.get("refunds")
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise Unreadable("refunds is no list of objects")
    return tuple(refund(one, charge_id) for one in found)


def decline(charge: Json) -> Decline | None:
    """Why the last attempt failed. AcmePay keeps that on the charge, which goes back to the buyer."""
    raw = text_or_none(charge, "decline_code")
    if raw is None:
        return None
    return Decline(_DECLINES.get(raw, DeclineCode.CARD_DECLINED), recoverable=True, raw_code=raw)


def approve_url(charge: Json) -> str:
    """Where the buyer approves. Raises `Unreadable`."""
    return text(charge, "approve_url")


def money(count: int, currency: str) -> Money:
    """What `count` of AcmePay's units are. Raises `MoneyError` for a currency that AcmePay doesn't take."""
    exponent = EXPONENTS.get(currency)
    if exponent is None:
        raise MoneyError(f"AcmePay does not take {currency}")
    return Money(rescale(count, from_exponent=exponent, to_exponent=iso_exponent(currency)), currency)


def _money(value: Json, name: str) -> Money:
    count = value.get(name)
    if type(count) is not int:
        raise Unreadable(f"{name} is no whole number")
    try:
        return money(count, text(value, "currency"))
    except MoneyError as error:
        raise Unreadable(f"{name} or its currency is no amount") from error


def text(value: Json, name: str) -> str:
    """A text that has to be there. Raises `Unreadable`."""
    found = value.get(name)
    if not isinstance(found, str) or not found:
        raise Unreadable(f"{name} is missing")
    return found


def text_or_none(value: Json, name: str) -> str | None:
    """A text that may be missing."""
    found = value.get(name)
    return found if isinstance(found, str) and found else None


def truth(value: Json, name: str) -> bool:
    """True or false; it has to be there. Raises `Unreadable`."""
    found = value.get(name)
    if not isinstance(found, bool):
        raise Unreadable(f"{name} is missing")
    return found
