"""A storm of all actors at once, seeded: what must be true at any moment, and what must be true once it is over.

STORM_FROM and STORM_TO choose other seeds, for a longer search. Every third seed is a shop that captures by hand.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from paidonce.core import Policy
from paidonce.gateways.base import CaptureMethod
from paidonce.ports import Database
from paidonce.sandbox.app import sandbox_cores
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up
from support.storm import Storm

BURSTS, STEPS_PER_BURST = 10, 20
ENDED = ("captured", "failed", "canceled")
SEEDS = range(int(os.environ.get("STORM_FROM", "0")), int(os.environ.get("STORM_TO", "6")))


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
            if row["status"] in ENDED:
                self.payments[row["id"]] = seen
        for row in await shop.rows("SELECT id, status FROM orders"):
            assert self.orders.get(row["id"], row["status"]) == row["status"], f"{row['id']} has changed after its end"
            if row["status"] == "paid":
                self.orders[row["id"]] = row["status"]
        for row in await shop.rows("SELECT id, state FROM refunds WHERE gateway_ref IS NOT NULL"):
            assert self.refunds.get(row["id"], row["state"]) == row["state"], f"{row['id']} has changed after its end"
            if row["state"] == "failed":
                self.refunds[row["id"]] = row["state"]


def storm_shop(database: Database, seed: int) -> Shop:
    method = CaptureMethod.MANUAL if seed % 3 == 2 else CaptureMethod.AUTOMATIC
    policy = Policy(capture_method=method)
    return open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)), policy=policy)


@pytest.fixture(params=SEEDS)
async def storm(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Storm]:
    shop = storm_shop(database, request.param)
    await database.transaction(stock_up, shop.store, shop.clock.now())
    storm = Storm(shop, request.param)
    yield storm
    # Shown if the test fails: what was done, and what the shop made of it.
    print("\n".join(storm.log))
    for row in await shop.rows("SELECT * FROM history ORDER BY seq"):
        print(
            row["created_at"] // 1_000_000 % 10_000_000, row["order_id"], row["payment_id"], row["event"], row["detail"]
        )


async def test_after_any_storm_all_books_agree_and_nothing_is_left_open(storm: Storm) -> None:
    shop, ended = storm.shop, Ended()
    for _ in range(BURSTS):
        await storm.burst(STEPS_PER_BURST)
        await assert_safe(storm, ended)
        storm.let_time_pass()
    await storm.calm_down()
    await assert_safe(storm, ended)
    await shop.assert_journal_equals_gateways()
    assert "alarm.recovery_failed" not in await shop.events(), "recovery met a bug; its traceback stands in the log"
    await assert_nothing_is_open(shop)
    for order, _ in storm.orders:
        await assert_money_found_its_place(shop, order.id)


# ── At any moment ──────────


async def assert_safe(storm: Storm, ended: Ended) -> None:
    shop = storm.shop
    await shop.assert_books_balance()
    await ended.look(shop)
    await assert_no_more_goes_back_than_came(shop)
    assert await shop.rows("SELECT sku FROM stock WHERE on_hand < 0 OR held < 0 OR held > on_hand") == []
    assert_no_key_has_two_bodies([one.transport.sent for one in (shop, *storm.processes)])
    assert_each_refund_was_made_once(storm)
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


def assert_no_key_has_two_bodies(sent: list[list[Any]]) -> None:
    """Invariant I4, second half."""
    known: dict[str, tuple[str, str, bytes]] = {}
    for request in (one for requests in sent for one in requests):
        headers = {name.lower(): value for name, value in request.headers.items()}
        key = headers.get("idempotency-key") or headers.get("paypal-request-id")
        if key is not None:
            call = (request.method, request.url, request.body)
            assert known.setdefault(key, call) == call, f"one key for two calls: {request.method} {request.url}"


def assert_each_refund_was_made_once(storm: Storm) -> None:
    """Whatever was lost and repeated: the gateways' own books name each refund of ours once."""
    at_stripe = [one["object"]["metadata"].get("refund_id") for one in storm.state("stripe")["refunds"].values()]
    at_paypal = [one["custom_id"] for one in storm.state("paypal")["refunds"].values()]
    ours = [one for one in (*at_stripe, *at_paypal) if one is not None]
    assert len(ours) == len(set(ours)), "one request went back twice"


# ── Once it is over ──────────


async def assert_nothing_is_open(shop: Shop) -> None:
    """Invariant I9: weeks later, no payment, refund, operation or event still waits for anything."""
    payments = await shop.rows("SELECT * FROM payments WHERE status NOT IN ('captured', 'failed', 'canceled')")
    assert [(one["id"], one["status"], one["held_reason"]) for one in payments] == []
    assert await shop.rows("SELECT * FROM refunds WHERE state IN ('recorded', 'pending')") == []
    assert await shop.rows("SELECT * FROM operations WHERE state = 'recorded'") == []
    assert await shop.rows("SELECT * FROM inbox WHERE state IN ('recorded', 'parked')") == []
    assert await shop.rows("SELECT * FROM disputes WHERE state = 'open'") == []
    assert await shop.rows("SELECT * FROM holds") == [], "no goods are kept for nobody"
    open_orders = await shop.rows("SELECT id, status FROM orders WHERE status IN ('open', 'pending')")
    assert open_orders == []


async def assert_money_found_its_place(shop: Shop, order_id: str) -> None:
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
            assert await gone_back(shop, one["id"]) == one["captured_minor"], "a surplus goes back by itself"


async def gone_back(shop: Shop, payment_id: str) -> int:
    refunds = await shop.rows(
        "SELECT amount_minor FROM refunds WHERE payment_id = :id AND state = 'succeeded'", id=payment_id
    )
    lost = await shop.rows("SELECT amount_minor FROM disputes WHERE payment_id = :id AND state = 'lost'", id=payment_id)
    return sum(one["amount_minor"] for one in (*refunds, *lost))
