"""A verified webhook's body, reduced to what the core needs. Pure; no call, no clock."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from paidonce.errors import WebhookRefused
from paidonce.gateways.base import DisputeProgress, Progress, RefundProgress, WebhookEvent
from paidonce.gateways.paypal import disputes, wire
from paidonce.ports import Microseconds

Json = Mapping[str, Any]

_IDENTIFIER = re.compile(r"[!-~]{1,255}")
_OURS = re.compile(r"pay_[0-9A-Za-z_-]{1,120}")
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What a webhook at PayPal has to be subscribed to, so that nothing has to wait for recovery's own looks.
NEEDED_EVENTS = frozenset(
    {"CHECKOUT.ORDER.APPROVED", "CHECKOUT.PAYMENT-APPROVAL.REVERSED"}
    | {f"PAYMENT.CAPTURE.{what}" for what in ("COMPLETED", "PENDING", "DENIED", "REFUNDED", "REVERSED")}
    | {f"CUSTOMER.DISPUTE.{what}" for what in ("CREATED", "UPDATED", "RESOLVED")}
)


@dataclass(frozen=True, slots=True)
class _News:
    """What one event names of a payment."""

    ref: str | None = None
    capture_ref: str | None = None
    payment_id: str | None = None
    progress: Progress | None = None
    refund: tuple[str, RefundProgress] | None = None
    dispute: tuple[str, DisputeProgress] | None = None


def read(body: bytes) -> WebhookEvent:
    """The event in `body`, whose signature was verified before. Raises `WebhookRefused` alone."""
    event = _parsed(body)
    kind = _required(event, "event_type")
    news = _news(kind, event)
    relevant = news is not None and any((news.ref, news.capture_ref, news.payment_id))
    news = news if news is not None and relevant else _News()
    return WebhookEvent(
        gateway="paypal",
        id=_required(event, "id"),
        type=kind,
        relevant=relevant,
        created_at=_created_at(event),
        ref=news.ref,
        capture_ref=news.capture_ref,
        payment_id=news.payment_id,
        progress=news.progress,
        refund=news.refund,
        dispute=news.dispute,
    )


def _parsed(body: bytes) -> Json:
    try:
        event = json.loads(body.decode("utf-8"), parse_float=str)
    # A very deep body ends in a RecursionError, which is just as unreadable.
    except (ValueError, RecursionError):
        raise WebhookRefused("the body is no JSON") from None
    if not isinstance(event, dict):
        raise WebhookRefused("the body is no event")
    return event


def _created_at(event: Json) -> Microseconds:
    text = event.get("create_time")
    matched = _TIME.fullmatch(text) if isinstance(text, str) else None
    try:
        moment = datetime.strptime(matched[1] if matched else "", "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise WebhookRefused("the event has no time") from None
    fraction = int(((matched[2] if matched else None) or "0").ljust(6, "0")[:6])
    created = (moment - _EPOCH) // timedelta(microseconds=1) + fraction
    if created < 0:
        raise WebhookRefused("the event has no time")
    return created


def _news(kind: str, event: Json) -> _News | None:
    """What the event says of a payment; None for types that are not about a payment's life."""
    for pattern, reader in _READERS:
        if re.fullmatch(pattern, kind):
            resource = event.get("resource")
            if not isinstance(resource, Mapping):
                raise WebhookRefused("the event holds no resource")
            return reader(kind, resource)
    return None


def _order_news(kind: str, data: Json) -> _News:
    del kind
    try:
        progress = wire.snapshot(data, live=False).progress
    except wire.Unreadable:
        progress = None
    return _News(ref=_required(data, "id"), payment_id=_payment_id(*_units(data)), progress=progress)


def _reversal_news(kind: str, data: Json) -> _News:
    """The buyer's approval was taken back. It claims nothing, so the order is always read again."""
    del kind
    ref = _word(data, "order_id") or _word(data, "id")
    return _News(ref=ref, payment_id=_payment_id(data, *_units(data)))


def _capture_news(kind: str, data: Json) -> _News:
    if kind.endswith((".REFUNDED", ".REVERSED")):
        return _refund_news(kind, data)
    return _News(
        ref=_order_of(data),
        capture_ref=_required(data, "id"),
        payment_id=_payment_id(data),
        progress=wire.capture_progress(data.get("status")),
    )


def _authorization_news(kind: str, data: Json) -> _News:
    del kind
    _required(data, "id")
    progress = wire.authorization_progress(data.get("status"))
    return _News(ref=_order_of(data), payment_id=_payment_id(data), progress=progress)


def _refund_news(kind: str, data: Json) -> _News:
    """The resource is a refund, which names its capture by a link. What was reversed is always looked up."""
    claim = (_required(data, "id"), wire.refund_progress(data.get("status")))
    return _News(
        ref=_order_of(data),
        capture_ref=_linked(data, "captures"),
        payment_id=_payment_id(data),
        refund=None if kind.endswith(".REVERSED") else claim,
    )


def _dispute_news(kind: str, data: Json) -> _News:
    claim = (_required(data, "dispute_id"), disputes.progress(data.get("status"), _outcome(data)))
    transactions = data.get("disputed_transactions")
    listed = [one for one in transactions if isinstance(one, Mapping)] if isinstance(transactions, list) else []
    first = listed[0] if listed else {}
    return _News(
        capture_ref=_word(first, "seller_transaction_id"),
        payment_id=_payment_id({"custom_id": first.get("custom")}),
        # Whether PayPal holds the money is told by the stage and not by the state, so updates are looked up.
        dispute=None if kind.endswith(".UPDATED") else claim,
    )


_READERS: tuple[tuple[str, Callable[[str, Json], _News]], ...] = (
    (r"CHECKOUT\.ORDER\.(APPROVED|COMPLETED)", _order_news),
    (r"CHECKOUT\.PAYMENT-APPROVAL\.REVERSED", _reversal_news),
    (r"PAYMENT\.CAPTURE\.(COMPLETED|PENDING|REFUNDED|REVERSED|DENIED|DECLINED)", _capture_news),
    (r"PAYMENT\.AUTHORIZATION\.(CREATED|VOIDED)", _authorization_news),
    (r"PAYMENT\.REFUND\.[A-Z_]{1,40}", _refund_news),
    (r"CUSTOMER\.DISPUTE\.(CREATED|UPDATED|RESOLVED)", _dispute_news),
)


def _outcome(data: Json) -> object:
    return disputes.outcome_of(data).get("outcome_code")


def _order_of(data: Json) -> str | None:
    related = data.get("supplementary_data")
    ids = related.get("related_ids") if isinstance(related, Mapping) else None
    return _word(ids, "order_id") if isinstance(ids, Mapping) else None


def _linked(data: Json, kind: str) -> str | None:
    """The id at the end of the `up` link, if it leads to a thing of this kind."""
    links = data.get("links")
    for link in links if isinstance(links, list) else ():
        if not isinstance(link, Mapping) or link.get("rel") != "up" or not isinstance(link.get("href"), str):
            continue
        try:
            steps = urlsplit(link["href"]).path.split("/")
        except ValueError:
            continue
        if len(steps) > 1 and steps[-2] == kind and _IDENTIFIER.fullmatch(steps[-1]):
            return steps[-1]
    return None


def _units(data: Json) -> list[Json]:
    units = data.get("purchase_units")
    return [unit for unit in units if isinstance(unit, Mapping)] if isinstance(units, list) else []


def _payment_id(*holders: Json) -> str | None:
    """Our id, as `custom_id` repeats it. What another program of the account wrote there may be anything."""
    values = {value for holder in holders if isinstance(value := holder.get("custom_id"), str)}
    ours = [value for value in values if _OURS.fullmatch(value)]
    return ours[0] if len(ours) == 1 and len(values) == 1 else None


def _word(data: Json, name: str) -> str | None:
    value = data.get(name)
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else None


def _required(data: Json, name: str) -> str:
    """An id of PayPal's. Such texts go into the history and into addresses, so they have to be short and printable."""
    if (value := _word(data, name)) is None:
        raise WebhookRefused(f"the event has no readable {name}")
    return value
