"""Events for the merchant's own systems, written in the transaction that makes them true. Delivery comes after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paidonce.ports import Ids, Microseconds, Transaction

_INSERT = """
INSERT INTO outbox (id, type, order_id, payload, created_at)
VALUES (:id, :type, :order_id, :payload, :now)
"""


async def emit(
    tx: Transaction, event_type: str, *, order_id: str, data: Mapping[str, Any], ids: Ids, now: Microseconds
) -> None:
    """Queue one event such as `order.paid`; it exists exactly if this transaction commits."""
    payload = {"type": event_type, "order_id": order_id, "data": dict(data)}
    await tx.execute(
        _INSERT,
        {
            "id": ids.new("evt"),
            "type": event_type,
            "order_id": order_id,
            "payload": json.dumps(payload, sort_keys=True, separators=(",", ":")),
            "now": now,
        },
    )
