"""Mollie's JSON and our values: a pure mapping, no call in it.

Sources: https://docs.mollie.com/reference/get-payment for the fields, https://docs.mollie.com/docs/status-change for
the states, https://docs.mollie.com/payments/multicurrency for currencies and their decimals,
https://docs.mollie.com/reference/get-refund and https://docs.mollie.com/reference/get-chargeback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from paidonce.gateways.base import (
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
from paidonce.gateways.mollie.settings import is_loopback
from paidonce.money import Money, MoneyError, from_decimal_string, iso_exponent, rescale, to_decimal_string
from paidonce.ports import SECOND

Json = Mapping[str, Any]

# All that Mollie takes, with the decimals that its amounts must have, no more and no fewer.
_TWO_DECIMALS = (
    *("AED", "AUD", "BGN", "BRL", "CAD", "CHF", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "ILS", "MXN", "MYR"),
    *("NOK", "NZD", "PHP", "PLN", "RON", "RUB", "SEK", "SGD", "THB", "TWD", "USD", "ZAR"),
)
EXPONENTS: Mapping[str, int] = {**dict.fromkeys(_TWO_DECIMALS, 2), **dict.fromkeys(("ISK", "JPY"), 0)}

LONGEST_DESCRIPTION = 255
# The one method of which Mollie's documents describe the whole way of a manual capture.
MANUAL_METHOD = "creditcard"

_PROGRESS: Mapping[str, Progress] = {
    "open": Progress.AWAITING_BUYER,
    "pending": Progress.PROCESSING,
    "authorized": Progress.AUTHORIZED,
    "paid": Progress.CAPTURED,
    "canceled": Progress.CANCELED,
    "expired": Progress.CANCELED,
    "failed": Progress.FAILED,
}
_REFUND_PROGRESS: Mapping[str, RefundProgress] = {
    "refunded": RefundProgress.SUCCEEDED,
    "failed": RefundProgress.FAILED,
    "canceled": RefundProgress.FAILED,
}
# Whoever chose one of these has agreed, and sends the money himself within days: Mollie goes on saying "open".
_SENT_BY_THE_BUYER = frozenset({"banktransfer"})
_DECLINES: Mapping[str, DeclineCode] = {
    "authentication_abandoned": DeclineCode.AUTHENTICATION_FAILED,
    "authentication_failed": DeclineCode.AUTHENTICATION_FAILED,
    "authentication_required": DeclineCode.AUTHENTICATION_FAILED,
    "authentication_unavailable_acs": DeclineCode.AUTHENTICATION_FAILED,
    "card_declined": DeclineCode.CARD_DECLINED,
    "card_expired": DeclineCode.CARD_EXPIRED,
    "inactive_card": DeclineCode.CARD_DECLINED,
    "insufficient_funds": DeclineCode.INSUFFICIENT_FUNDS,
    "invalid_cvv": DeclineCode.WRONG_CVC,
    "invalid_card_holder_name": DeclineCode.CARD_DECLINED,
    "invalid_card_number": DeclineCode.WRONG_NUMBER,
    "invalid_card_type": DeclineCode.CARD_DECLINED,
    "possible_fraud": DeclineCode.CARD_DECLINED,
    "refused_by_issuer": DeclineCode.CARD_DECLINED,
}


@dataclass(frozen=True, slots=True)
class Capture:
    """A capture of reserved money. Unless it has failed, it has taken the money or still may."""

    id: str
    failed: bool


class Unreadable(ValueError):
    """An answer that lacks what a snapshot needs. The object may be all right; nothing is known about it."""


# ── Money ──────────


def money_to_wire(amount: Money) -> dict[str, str]:
    """Mollie's `{currency, value}` of `amount`. Raises `MoneyError` if Mollie can't express it."""
    exponent = EXPONENTS.get(amount.currency)
    if exponent is None:
        raise MoneyError(f"Mollie does not take {amount.currency}")
    units = rescale(amount.minor, from_exponent=iso_exponent(amount.currency), to_exponent=exponent)
    return {"currency": amount.currency, "value": to_decimal_string(units, exponent)}


def money_from_wire(value: Any) -> Money:
    """Our money of Mollie's `{currency, value}`. Raises `Unreadable`."""
    if not isinstance(value, Mapping):
        raise Unreadable("an amount is missing")
    currency, text = value.get("currency"), value.get("value")
    if not isinstance(currency, str) or not isinstance(text, str):
        raise Unreadable("an amount has no currency or value")
    try:
        return Money(from_decimal_string(text, iso_exponent(currency)), currency)
    except MoneyError as error:
        raise Unreadable(str(error)) from error


def check_amount(amount: Money) -> None:
    """Raise `MoneyError` if Mollie can't be asked for exactly `amount`."""
    if amount.minor <= 0:
        raise MoneyError(f"Mollie takes positive amounts only, not {amount}")
    money_to_wire(amount)


# ── Payments ──────────


def payment_request(request: CreateRequest, *, webhooks_reach_loopback: bool) -> dict[str, Any]:
    """The body of `POST /v2/payments`. Raises `MoneyError` like `check_amount`.

    A webhook address that Mollie can't reach makes it refuse the whole payment, so it is left out for a shop that is
    not on the internet by https; recovery then finds out by itself. `webhooks_reach_loopback` is for the twin.
    """
    check_amount(request.amount)
    body: dict[str, Any] = {
        "amount": money_to_wire(request.amount),
        "description": f"Order {request.order_number}"[:LONGEST_DESCRIPTION],
        "redirectUrl": request.return_url,
        "cancelUrl": request.cancel_url,
        "metadata": {"payment_id": request.payment_id, "order_id": request.order_id},
    }
    webhook_url = _webhook_url(request, loopback=webhooks_reach_loopback)
    if webhook_url is not None:
        body["webhookUrl"] = webhook_url
    if request.capture_method is CaptureMethod.MANUAL:
        body |= {"captureMode": "manual", "method": MANUAL_METHOD}
    return body


def _webhook_url(request: CreateRequest, *, loopback: bool) -> str | None:
    # Who does not say where webhooks go has them where the buyer comes back.
    shop = urlsplit(request.webhook_url or request.return_url)
    reachable = loopback if is_loopback(shop.hostname) else shop.scheme == "https"
    if not reachable:
        return None
    return request.webhook_url or f"{shop.scheme}://{shop.netloc}/webhooks/mollie"


def capture_request(amount: Money) -> dict[str, Any]:
    """The body of `POST /v2/payments/{id}/captures`."""
    return {"amount": money_to_wire(amount)}


def refund_request(amount: Money, refund_id: str) -> dict[str, Any]:
    """The body of `POST /v2/payments/{id}/refunds`; our id comes back in the metadata."""
    return {
        "amount": money_to_wire(amount),
        "description": f"Refund {refund_id}"[:LONGEST_DESCRIPTION],
        "metadata": {"refund_id": refund_id},
    }


def snapshot(payment: Json) -> Snapshot:
    """What a payment says. Raises `Unreadable` if it lacks an id, a state or an amount.

    The capture is named by the payment's own id: a payment is captured at most once here.
    """
    ref, status, metadata = _id(payment, "tr_"), _text(payment, "status"), _object(payment.get("metadata"))
    amount = money_from_wire(payment.get("amount"))
    told = _news(payment, status, amount)
    if told["progress"] is Progress.CAPTURED:
        told["capture_ref"] = ref
    return Snapshot(
        gateway="mollie",
        ref=ref,
        amount=amount,
        payment_id=_optional(metadata, "payment_id"),
        order_id=_optional(metadata, "order_id"),
        account=_optional(payment, "profileId"),
        live=_live(payment),
        raw_status=status,
        **told,
    )


def _news(payment: Json, status: str, amount: Money) -> dict[str, Any]:
    progress = _PROGRESS.get(status, Progress.PROCESSING)
    captured = _captured(payment)
    if progress is Progress.CAPTURED:
        if captured is None and is_manual(payment):
            raise Unreadable("a payment that is captured by hand does not say how much was")
        return {"progress": progress, "captured": captured or amount}
    if progress is Progress.AUTHORIZED and captured is not None:
        # What was captured is final here, whatever becomes of the rest that is still reserved.
        return {"progress": Progress.CAPTURED, "captured": captured}
    if status == "open" and _optional(payment, "method") in _SENT_BY_THE_BUYER:
        return {"progress": progress, **_awaited(payment)}
    if progress is Progress.PROCESSING:
        return {"progress": progress, "pending_reason": status}
    return {"progress": progress, "decline": _decline(payment) if progress is Progress.FAILED else None}


def _awaited(payment: Json) -> dict[str, Any]:
    """What is awaited of a buyer who sends the money himself."""
    told = _text(payment, "expiresAt")
    try:
        until = datetime.fromisoformat(told)
    except ValueError:
        until = None
    if until is None or until.tzinfo is None:
        raise Unreadable("expiresAt is no moment")
    return {"awaited_until": int(until.timestamp()) * SECOND, "pending_reason": "bank transfer"}


def _captured(payment: Json) -> Money | None:
    """What of a reserved amount was captured; None where that is nothing, or Mollie does not say it."""
    told = payment.get("amountCaptured")
    captured = None if told is None else money_from_wire(told)
    return captured if captured is not None and captured.minor > 0 else None


def _decline(payment: Json) -> Decline:
    """A failed payment is final at Mollie: the buyer tries again on a new one."""
    told = _optional(_object(payment.get("details")), "failureReason")
    told = told or _optional(_object(payment.get("statusReason")), "code") or "failed"
    unknown = DeclineCode.CARD_DECLINED if payment.get("method") == MANUAL_METHOD else DeclineCode.REFUSED
    return Decline(_DECLINES.get(told, unknown), recoverable=False, raw_code=told)


def is_manual(payment: Json) -> bool:
    """Whether confirming the payment only reserves its money."""
    return payment.get("captureMode") == "manual"


def is_cancelable(payment: Json) -> bool:
    """Whether Mollie lets us end the payment right now. Reserved money is released instead."""
    return payment.get("isCancelable") is True and payment.get("status") != "authorized"


def holds_a_rest(payment: Json) -> bool:
    """Whether a part was captured and the rest is still reserved."""
    return payment.get("status") == "authorized" and _captured(payment) is not None


def checkout_url(payment: Json, *, loopback: bool) -> str | None:
    """Where the buyer pays; None once there is nothing to pay any more.

    Raises `Unreadable` for an address that no browser should be sent to: anything but https, or http on this machine
    for a twin that is here (`loopback`).
    """
    link = _object(_object(payment.get("_links")).get("checkout")).get("href")
    if link is None:
        return None
    parts = _parts(link)
    here = parts is not None and loopback and parts.scheme == "http" and is_loopback(parts.hostname)
    if parts is None or not parts.hostname or not (parts.scheme == "https" or here):
        raise Unreadable("the checkout's address is none that a browser should be sent to")
    return str(link)


def capture(data: Json, ref: str) -> Capture:
    """A capture of the payment `ref`. Raises `Unreadable` if it is none."""
    if _text(data, "paymentId") != ref:
        raise Unreadable("the capture belongs to another payment")
    return Capture(_id(data, "cpt_"), failed=_text(data, "status") == "failed")


# ── Refunds and chargebacks ──────────


def refund(data: Json) -> RefundSnapshot:
    """What a refund says. Raises `Unreadable` if it lacks an id, a state or an amount."""
    status = _text(data, "status")
    return RefundSnapshot(
        ref=_id(data, "re_"),
        progress=_REFUND_PROGRESS.get(status, RefundProgress.PENDING),
        amount=money_from_wire(data.get("amount")),
        refund_id=_optional(_object(data.get("metadata")), "refund_id"),
        raw_status=status,
        failure_reason=_optional(_object(data.get("statusReason")), "code"),
    )


def chargeback(data: Json) -> DisputeSnapshot:
    """What a chargeback says. Raises `Unreadable` if it lacks an id or an amount.

    Mollie takes the money at once, and knows but one later word: that it was reversed. So it reads as lost until then.
    """
    reversed_ = _optional(data, "reversedAt") is not None
    return DisputeSnapshot(
        ref=_id(data, "chb_"),
        progress=DisputeProgress.WON if reversed_ else DisputeProgress.LOST,
        amount=money_from_wire(data.get("amount")),
        withdrawn=True,
        reason=_optional(_object(data.get("reason")), "code"),
        raw_status="reversed" if reversed_ else "charged back",
    )


def page(body: Json, kind: str) -> tuple[list[Json], str | None]:
    """The items of one page of a list, and where the next one begins. Raises `Unreadable`.

    Only the id is taken from Mollie's link: the key must not follow it to another host.
    """
    items = _object(body.get("_embedded")).get(kind)
    if not isinstance(items, list) or not all(isinstance(one, Mapping) for one in items):
        raise Unreadable(f"a list has no {kind}")
    link = _object(body.get("_links")).get("next")
    if link is None:
        return items, None
    parts = _parts(_object(link).get("href"))
    begins = None if parts is None else keepable(parse_qs(parts.query).get("from", [None])[0])
    if begins is None:
        raise Unreadable("a list does not say where it goes on")
    return items, begins


def _parts(link: object) -> SplitResult | None:
    try:
        return urlsplit(link) if isinstance(link, str) else None
    except ValueError:
        return None


def oldest_first(newest_first: Sequence[Json]) -> list[Json]:
    """The items of a list, which Mollie gives newest first, by the moment they were made."""
    return sorted(reversed(newest_first), key=lambda one: _text(one, "createdAt"))


def profile(body: Json) -> str:
    """The id of the profile that a key belongs to. Raises `Unreadable`."""
    return _id(body, "pfl_")


# ── Small things ──────────


def _live(payment: Json) -> bool:
    mode = payment.get("mode")
    if mode not in ("live", "test"):
        raise Unreadable("mode is neither live nor test")
    return bool(mode == "live")


def _id(value: Json, prefix: str) -> str:
    found = _text(value, "id")
    if not found.startswith(prefix):
        raise Unreadable(f"the id does not begin with {prefix}")
    return found


def _text(value: Json, name: str) -> str:
    found = keepable(value.get(name))
    if found is None:
        raise Unreadable(f"{name} is missing")
    return found


def _optional(value: Json, name: str) -> str | None:
    return keepable(value.get(name))


def _object(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}
