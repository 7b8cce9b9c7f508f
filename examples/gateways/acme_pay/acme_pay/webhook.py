"""AcmePay's webhooks: the signature first, then the event, reduced to what the core needs. Pure; no call, no clock.

AcmePay signs `<timestamp>.<body>` by HMAC-SHA256 with the endpoint's secret.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import replace

from acme_pay import wire
from paidonce.errors import WebhookRefused
from paidonce.gateways.base import RefundProgress, WebhookEvent
from paidonce.ports import SECOND, Microseconds

TIMESTAMP, SIGNATURE = "acme-timestamp", "acme-signature"
# Both ways: a clock that runs ahead must not make a recorded event valid for longer.
TOLERANCE_SECONDS = 300

_CHARGE_EVENTS = frozenset(
    f"charge.{what}" for what in ("approved", "authorized", "captured", "declined", "expired", "voided")
)
_REFUND_EVENTS = frozenset({"refund.created", "refund.updated"})
_IDENTIFIER = re.compile(r"[!-~]{1,100}")
_LATEST_SECONDS = 10**12


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The signature in hexadecimal digits."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, "sha256").hexdigest()


def read(
    headers: Mapping[str, str],
    body: bytes,
    *,
    secret: str | None,
    now: Microseconds,
    live: bool,
    account: str | None,
) -> WebhookEvent:
    """The event in the raw `body`. `live` is the key's mode, `account` whose key it is (None if not known yet).

    Raises `WebhookRefused`.
    """
    _check_signature(headers, body, secret=secret, now=now)
    try:
        event = _parsed(body)
        if wire.truth(event, "live") is not live:
            raise WebhookRefused("the event is of the other mode (test or live) than the key")
        if account is not None and wire.text(event, "merchant") != account:
            raise WebhookRefused("the event is of another merchant than the key")
        return _event(event)
    except wire.Unreadable as error:
        raise WebhookRefused(f"the event can't be read: {error}") from None


def _check_signature(headers: Mapping[str, str], body: bytes, *, secret: str | None, now: Microseconds) -> None:
    if not secret:
        raise WebhookRefused("no webhook secret is configured (ACME_PAY_WEBHOOK_SECRET), so no event can be accepted")
    timestamp, given = headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, "")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise WebhookRefused("the acme-timestamp header is missing or no time")
    # As bytes, since a text with other letters than ASCII can't be compared in constant time.
    expected = signature(secret, timestamp, body).encode()
    if not hmac.compare_digest(expected, given.encode("utf-8", "replace")):
        raise WebhookRefused(
            "the signature does not fit the body: it was forged or changed, or the secret is another's"
        )
    if abs(now - int(timestamp) * SECOND) > TOLERANCE_SECONDS * SECOND:
        raise WebhookRefused("the webhook is too old, or of the future: check this machine's clock")


def _parsed(body: bytes) -> wire.Json:
    try:
        event = json.loads(body)
    # A very deep body ends in a RecursionError, which is just as unreadable.
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise wire.Unreadable("it is no JSON object")
    return event


def _event(event: wire.Json) -> WebhookEvent:
    kind, created = _identifier(event, "type"), event.get("created")
    if type(created) is not int or not 0 <= created < _LATEST_SECONDS:
        raise wire.Unreadable("created is no time")
    bare = WebhookEvent("acme_pay", _identifier(event, "id"), kind, relevant=False, created_at=created * SECOND)
    if kind not in _CHARGE_EVENTS | _REFUND_EVENTS:
        return bare
    charge = _object(event, "charge")
    told = replace(
        bare,
        relevant=True,
        ref=_identifier(charge, "id"),
        capture_ref=_identifier_or_none(charge, "capture_id"),
        payment_id=_identifier_or_none(charge, "reference"),
    )
    if kind in _REFUND_EVENTS:
        # News of a refund claims nothing of the payment itself, which stays captured.
        return replace(told, refund=_refund(_object(event, "refund")))
    return replace(told, progress=wire.progress_of(wire.text(charge, "status")))


def _refund(refund: wire.Json) -> tuple[str, RefundProgress]:
    return _identifier(refund, "id"), wire.refund_progress_of(wire.text(refund, "status"))


def _object(event: wire.Json, name: str) -> wire.Json:
    found = event.get(name)
    if not isinstance(found, dict):
        raise wire.Unreadable(f"{name} is missing")
    return found


def _identifier(value: wire.Json, name: str) -> str:
    """Such texts go into the history, so they have to be short and printable."""
    found = wire.text(value, name)
    if not _IDENTIFIER.fullmatch(found):
        raise wire.Unreadable(f"{name} is no identifier")
    return found


def _identifier_or_none(value: wire.Json, name: str) -> str | None:
    found = wire.text_or_none(value, name)
    return found if found is not None and _IDENTIFIER.fullmatch(found) else None
