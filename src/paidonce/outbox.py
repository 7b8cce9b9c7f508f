"""Events for the merchant's own systems, written in the transaction that makes them true. Delivery comes after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paidonce.ports import Ids, Microseconds, Row, Transaction, write_later

_INSERT = """
INSERT INTO outbox (id, type, order_id, payload, created_at)
VALUES (:id, :type, :order_id, :payload, :now)
"""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an order. `id` stays the same however often it is delivered: know it again by that.

    `data` holds ids, words, and amounts in minor units, never secrets.
    """

    id: str
    type: str
    order_id: str
    created_at: Microseconds
    data: Mapping[str, Any]


async def emit(
    tx: Transaction, event_type: str, *, order_id: str, data: Mapping[str, Any], ids: Ids, now: Microseconds
) -> None:
    """Queue one event such as `order.paid`; it exists exactly if this transaction commits."""
    payload = {"type": event_type, "order_id": order_id, "data": dict(data)}
    await write_later(
        tx,
        _INSERT,
        {
            "id": ids.new("evt"),
            "type": event_type,
            "order_id": order_id,
            "payload": json.dumps(payload, sort_keys=True, separators=(",", ":")),
            "now": now,
        },
    )


def event_of(row: Row) -> Event:
    """The event of an outbox row with the columns `event_id`, `type`, `order_id`, `payload` and `emitted_at`."""
    return Event(
        id=row["event_id"],
        type=row["type"],
        order_id=row["order_id"],
        created_at=row["emitted_at"],
        data=json.loads(row["payload"])["data"],
    )
