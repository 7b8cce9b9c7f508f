"""What the gateways' own books say, read from the twins."""

from __future__ import annotations

import json
from typing import Any

from support.shop import Shop


def captures_at_gateways(shop: Shop, order_id: str) -> int:
    """How often the gateways' own books say that this order was paid."""
    intents = json.loads(shop.twins["stripe"].dump())
    orders = json.loads(shop.twins["paypal"].dump())["orders"].values()
    return _succeeded_intents(intents, order_id) + sum(
        bool(one["unit"]["reference_id"] == order_id and one["capture"]) for one in orders
    )


def _succeeded_intents(value: Any, order_id: str) -> int:
    if isinstance(value, list):
        return sum(_succeeded_intents(one, order_id) for one in value)
    if not isinstance(value, dict):
        return 0
    if value.get("object") == "payment_intent":
        return int(value["status"] == "succeeded" and value["metadata"].get("order_id") == order_id)
    return sum(_succeeded_intents(one, order_id) for one in value.values())
