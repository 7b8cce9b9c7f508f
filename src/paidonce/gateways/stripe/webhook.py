"""Stripe's webhooks: the signature first, then the event, reduced to what the core needs. Pure; no call, no clock.

The official package is not used for this: its check lets time stamps of the future through and fails with other
errors than its own on bytes that are no text, before it knows who sent them.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paidonce.errors import WebhookRefused
from paidonce.gateways.base import DisputeProgress, Progress, RefundProgress, WebhookEvent
from paidonce.gateways.stripe.wire import dispute_progress_of, progress_of, reference, refund_progress_of
from paidonce.ports import SECOND, Microseconds

HEADER = "stripe-signature"
# Stripe's own default. Both ways: a clock that runs ahead must not make a recorded event valid for longer.
TOLERANCE_SECONDS = 300
_LONGEST_HEADER = 4096
_LATEST_SECONDS = 10**12

_IDENTIFIER = re.compile(r"[!-~]{1,255}")
_INTENT_EVENTS = frozenset(
    f"payment_intent.{what}"
    for what in (
        "succeeded",
        "payment_failed",
        "processing",
        "requires_action",
        "canceled",
        "amount_capturable_updated",
    )
)
_CHARGE_EVENTS = frozenset(
    f"charge.{what}" for what in ("succeeded", "captured", "refunded", "updated", "expired", "failed", "pending")
)
_REFUND_EVENTS = frozenset({"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"})
_DISPUTE_EVENTS = frozenset(
    f"charge.dispute.{what}" for what in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
)
# Whether the money left is not told by a dispute's state, so the other three types are always looked up.
_TELLING_DISPUTE_EVENTS = frozenset({"charge.dispute.created", "charge.dispute.closed"})

# What an endpoint at Stripe has to be subscribed to, so that nothing has to wait for recovery's own looks.
NEEDED_EVENTS = (
    _INTENT_EVENTS | _DISPUTE_EVENTS | {"charge.refunded", "refund.created", "refund.updated", "refund.failed"}
)


@dataclass(frozen=True, slots=True)
class _News:
    """What one event names of a payment."""

    ref: str | None
    capture_ref: str | None = None
    payment_id: str | None = None
    progress: Progress | None = None
    refund: tuple[str, RefundProgress] | None = None
    dispute: tuple[str, DisputeProgress] | None = None


def read(
    header: str | None,
    body: bytes,
    *,
    secrets: Sequence[str],
    now: Microseconds,
    live: bool,
    account: str | None,
) -> WebhookEvent:
    """The event in the raw `body`, verified by the `Stripe-Signature` header against each of `secrets`.

    `live` is the keys' mode and `account` whose keys they are (None if not known yet). Raises `WebhookRefused` alone.
    """
    check_signature(header, body, secrets=secrets, now=now)
    event = _parsed(body)
    if event.get("livemode") is not live:
        raise WebhookRefused("the event is of the other mode (test or live) than the keys")
    sender = event.get("account")
    if sender is not None and account is not None and sender != account:
        raise WebhookRefused("the event is of another account than the keys")
    return _event(event)


def check_signature(header: str | None, body: bytes, *, secrets: Sequence[str], now: Microseconds) -> None:
    """Raise `WebhookRefused` unless `header` signs `body` with one of `secrets` and is of our time."""
    if not secrets:
        raise WebhookRefused("no signing secret is configured (STRIPE_WEBHOOK_SECRET), so no event can be accepted")
    stamp, signatures = _taken_apart(header)
    signed = stamp.encode() + b"." + body
    expected = [hmac.new(secret.encode(), signed, "sha256").hexdigest().encode() for secret in secrets]
    # As bytes, since a text with other letters than ASCII can't be compared in constant time. All are compared.
    matches = [hmac.compare_digest(one, other) for one in expected for other in signatures]
    if not any(matches):
        raise WebhookRefused("no signature fits the body: it was forged or changed, or the signing secret is another's")
    if abs(now - int(stamp) * SECOND) > TOLERANCE_SECONDS * SECOND:
        raise WebhookRefused("the signature is too old, or of the future: check this machine's clock")


def _taken_apart(header: str | None) -> tuple[str, list[bytes]]:
    """The time stamp as it was signed, and all signatures of the scheme v1. Other schemes are left alone."""
    if header is None or len(header) > _LONGEST_HEADER:
        raise WebhookRefused("the Stripe-Signature header is missing or too long")
    pairs = [item.strip().partition("=") for item in header.split(",")]
    stamps = [value for name, _, value in pairs if name == "t"]
    signatures = [value.encode("utf-8", "replace") for name, _, value in pairs if name == "v1"]
    if len(stamps) != 1 or not re.fullmatch(r"[0-9]{1,12}", stamps[0]) or not signatures:
        raise WebhookRefused("the Stripe-Signature header can't be read")
    return stamps[0], signatures


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(body.decode("utf-8"))
    # A very deep body ends in a RecursionError, which is just as unreadable.
    except (ValueError, RecursionError):
        raise WebhookRefused("the body is no JSON") from None
    if not isinstance(event, dict) or event.get("object") != "event":
        raise WebhookRefused("the body is no event")
    return event


def _event(event: Mapping[str, Any]) -> WebhookEvent:
    kind, created = _identifier(event, "type"), event.get("created")
    if type(created) is not int or not 0 <= created < _LATEST_SECONDS:
        raise WebhookRefused("the event has no time")
    news = _news(kind, event)
    relevant = news is not None and news.ref is not None
    news = news if news is not None and relevant else _News(None)
    return WebhookEvent(
        gateway="stripe",
        id=_identifier(event, "id"),
        type=kind,
        relevant=relevant,
        created_at=created * SECOND,
        ref=news.ref,
        capture_ref=news.capture_ref,
        payment_id=news.payment_id,
        progress=news.progress,
        refund=news.refund,
        dispute=news.dispute,
    )


def _news(kind: str, event: Mapping[str, Any]) -> _News | None:
    """What the event says of a payment; None for types that are not about a payment's life."""
    for kinds, name, reader in _READERS:
        if kind in kinds:
            return reader(kind, _object(event, name))
    return None


def _intent_news(kind: str, data: Mapping[str, Any]) -> _News:
    del kind
    status = _identifier(data, "status")
    captured = status == "succeeded"
    return _News(
        ref=_identifier(data, "id"),
        capture_ref=_reference(data, "latest_charge") if captured else None,
        payment_id=_payment_id(data),
        progress=progress_of(status),
    )


def _charge_news(kind: str, data: Mapping[str, Any]) -> _News:
    # A total of refunds names no single one, so "refunded" claims nothing and is always looked up.
    captured = kind in {"charge.succeeded", "charge.captured"} and data.get("captured") is True
    return _News(
        ref=_reference(data, "payment_intent"),
        capture_ref=_identifier(data, "id"),
        payment_id=_payment_id(data),
        progress=Progress.CAPTURED if captured else None,
    )


def _refund_news(kind: str, data: Mapping[str, Any]) -> _News:
    del kind
    return _News(
        ref=_reference(data, "payment_intent"),
        capture_ref=_reference(data, "charge"),
        refund=(_identifier(data, "id"), refund_progress_of(data.get("status"))),
    )


def _dispute_news(kind: str, data: Mapping[str, Any]) -> _News:
    claim = (_identifier(data, "id"), dispute_progress_of(_identifier(data, "status")))
    return _News(
        ref=_reference(data, "payment_intent"),
        capture_ref=_reference(data, "charge"),
        dispute=claim if kind in _TELLING_DISPUTE_EVENTS else None,
    )


_READERS: tuple[tuple[frozenset[str], str, Callable[[str, Mapping[str, Any]], _News]], ...] = (
    (_INTENT_EVENTS, "payment_intent", _intent_news),
    (_CHARGE_EVENTS, "charge", _charge_news),
    (_REFUND_EVENTS, "refund", _refund_news),
    (_DISPUTE_EVENTS, "dispute", _dispute_news),
)


def _object(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    data = event.get("data")
    found = data.get("object") if isinstance(data, Mapping) else None
    if not isinstance(found, Mapping) or found.get("object") != name:
        raise WebhookRefused(f"the event holds no {name}")
    return found


def _identifier(data: Mapping[str, Any], name: str) -> str:
    """A required id or word of Stripe's. Such texts go into the history, so they have to be short and printable."""
    value = data.get(name)
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise WebhookRefused(f"the event has no readable {name}")
    return value


def _reference(data: Mapping[str, Any], name: str) -> str | None:
    value = reference(data, name)
    return value if value is not None and _IDENTIFIER.fullmatch(value) else None


def _payment_id(data: Mapping[str, Any]) -> str | None:
    """Our id, as the metadata repeat it. What another program of the account wrote there may be anything."""
    metadata = data.get("metadata")
    value = metadata.get("payment_id") if isinstance(metadata, Mapping) else None
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else None
