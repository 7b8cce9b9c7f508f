"""What must be true of a shop after anything that happened to it: at any moment, and once nothing is under way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from paidonce.gateways.base import HttpRequest
from support.shop import Shop

_ENDED = ("captured", "failed", "canceled")

# Whatever still waits for something. In one statement, since some tests ask thousands of times.
_OPEN = """
SELECT 'payment' AS what, id, status AS state FROM payments WHERE status NOT IN ('captured', 'failed', 'canceled')
UNION ALL SELECT 'refund', id, state FROM refunds WHERE state IN ('recorded', 'pending')
UNION ALL SELECT 'operation', id, state FROM operations WHERE state = 'recorded'
UNION ALL SELECT 'event', id, state FROM inbox WHERE state IN ('recorded', 'parked')
UNION ALL SELECT 'dispute', gateway_ref, state FROM disputes WHERE state = 'open'
UNION ALL SELECT 'goods kept for nobody', order_id, sku FROM holds
UNION ALL SELECT 'order', id, status FROM orders WHERE status IN ('open', 'pending')
"""


@dataclass
class Ended:
    """What has ended and must never change again, as the last look saw it."""

    payments: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    orders: dict[str, str] = field(default_factory=dict)
    refunds: dict[str, str] = field(default_factory=dict)

    async def look(self, shop: Shop) -> None:
        for row in await shop.rows("SELECT * FROM payments"):
            seen = (row["status"], row["captured_minor"], row["capture_ref"])
            assert self.payments.get(row["id"], seen) == seen, f"{row['id']} has changed after its end"
            if row["status"] in _ENDED:
                self.payments[row["id"]] = seen
        for row in await shop.rows("SELECT id, status FROM orders"):
            assert self.orders.get(row["id"], row["status"]) == row["status"], f"{row['id']} has changed after its end"
            if row["status"] == "paid":
                self.orders[row["id"]] = row["status"]
        for row in await shop.rows("SELECT id, state FROM refunds WHERE gateway_ref IS NOT NULL"):
            assert self.refunds.get(row["id"], row["state"]) == row["state"], f"{row['id']} has changed after its end"
            if row["state"] == "failed":
                self.refunds[row["id"]] = row["state"]


# ── At any moment ──────────


async def assert_safe(shop: Shop, ended: Ended, *processes: Shop) -> None:
    """`processes` are those whose calls count as the shop's, besides its own."""
    await shop.assert_books_balance()
    await ended.look(shop)
    await assert_no_more_goes_back_than_came(shop)
    assert await shop.rows("SELECT sku FROM stock WHERE on_hand < 0 OR held < 0 OR held > on_hand") == []
    assert_no_key_has_two_bodies(one.transport.sent for one in (shop, *processes))
    assert_each_refund_was_made_once(shop)
    surplus = await shop.rows("SELECT id FROM refunds WHERE reason = 'surplus'")
    assert surplus == [], "the capture right lets no second payment through where gateways are honest"


async def assert_no_more_goes_back_than_came(shop: Shop) -> None:
    """Invariant I5. A refund that only waits for its call may meet a dispute that was lost meanwhile."""
    for row in await shop.rows("SELECT id, captured_minor FROM payments"):
        refunds = await shop.rows("SELECT amount_minor, state FROM refunds WHERE payment_id = :id", id=row["id"])
        lost = await shop.rows(
            "SELECT amount_minor FROM disputes WHERE payment_id = :id AND state = 'lost'", id=row["id"]
        )
        going = sum(one["amount_minor"] for one in refunds if one["state"] != "failed")
        gone = sum(one["amount_minor"] for one in refunds if one["state"] in ("pending", "succeeded"))
        gone += sum(one["amount_minor"] for one in lost)
        assert going <= row["captured_minor"], f"{row['id']}: {refunds}"
        assert gone <= row["captured_minor"], f"{row['id']}: {refunds}, lost {lost}"


def assert_no_key_has_two_bodies(sent: Iterable[Iterable[HttpRequest]]) -> None:
    """Invariant I4, second half."""
    known: dict[str, tuple[str, str, bytes]] = {}
    for request in (one for requests in sent for one in requests):
        headers = {name.lower(): value for name, value in request.headers.items()}
        key = headers.get("idempotency-key") or headers.get("paypal-request-id")
        if key is not None:
            call = (request.method, request.url, request.body)
            assert known.setdefault(key, call) == call, f"one key for two calls: {request.method} {request.url}"


def assert_each_refund_was_made_once(shop: Shop) -> None:
    """Whatever was lost and repeated: the gateways' own books name each refund of ours once."""
    at_stripe = [one["object"]["metadata"].get("refund_id") for one in _records(shop, "stripe", "refunds")]
    at_paypal = [one["custom_id"] for one in _records(shop, "paypal", "refunds")]
    ours = [one for one in (*at_stripe, *at_paypal) if one is not None]
    assert len(ours) == len(set(ours)), "one request went back twice"


async def assert_every_object_is_known(shop: Shop) -> None:
    """Invariant I4, first half, where every create was answered or repeated in its key's life."""
    rows = await shop.rows("SELECT gateway_ref FROM payments")
    known = {row["gateway_ref"] for row in rows}
    for gateway, kind in (("stripe", "intents"), ("paypal", "orders")):
        unknown = shop.twins[gateway].look(kind).keys() - known
        assert not unknown, f"{gateway} has objects that nobody here knows of"


def _records(shop: Shop, gateway: str, kind: str) -> list[Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = shop.twins[gateway].look(kind)
    return list(found.values())


# ── Once it is over ──────────


async def assert_nothing_is_open(shop: Shop) -> None:
    """Invariant I9: weeks later, no payment, refund, operation or event still waits for anything."""
    assert await open_things(shop) == []


async def open_things(shop: Shop) -> list[tuple[str, str, str]]:
    """What still waits for something: what it is, its id, and its state."""
    return [(row["what"], row["id"], row["state"]) for row in await shop.rows(_OPEN)]


async def assert_money_found_its_place(shop: Shop, order_id: str) -> None:
    """Invariant I2: one capture pays a paid order, and whatever else was captured went back."""
    payments = await shop.rows("SELECT * FROM payments WHERE order_id = :id AND status = 'captured'", id=order_id)
    pays = [one for one in payments if not one["owed_to_buyer"]]
    assert len(pays) == (1 if await shop.order_status(order_id) == "paid" else 0)
    told = await shop.rows("SELECT type FROM outbox WHERE order_id = :id", id=order_id)
    types = [row["type"] for row in told]
    assert types.count("order.paid") == len(pays)
    sold = await shop.rows("SELECT sku FROM stock_movements WHERE order_id = :id AND kind = 'sale'", id=order_id)
    assert bool(sold) == bool(pays), "on hand falls only when a payment counts"
    balances = await shop.balances(order_id)
    assert balances.get("disputed", 0) == 0
    assert balances.get("suspense", 0) == 0
    for one in payments:
        if one["owed_to_buyer"] and "alarm.refund_failed" not in types:
            assert await _gone_back(shop, one["id"]) == one["captured_minor"], "a surplus goes back by itself"


async def _gone_back(shop: Shop, payment_id: str) -> int:
    refunds = await shop.rows(
        "SELECT amount_minor FROM refunds WHERE payment_id = :id AND state = 'succeeded'", id=payment_id
    )
    lost = await shop.rows("SELECT amount_minor FROM disputes WHERE payment_id = :id AND state = 'lost'", id=payment_id)
    return sum(one["amount_minor"] for one in (*refunds, *lost))
