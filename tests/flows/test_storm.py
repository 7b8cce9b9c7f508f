"""A storm of all actors at once, seeded: what must be true at any moment, and what must be true once it is over.

STORM_FROM and STORM_TO choose other seeds, for a longer search. Every third seed is a shop that captures by hand.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from paidonce.core import Policy
from paidonce.gateways.base import CaptureMethod
from paidonce.ports import Database
from paidonce.sandbox.app import sandbox_cores
from support.aftermath import Ended, assert_money_found_its_place, assert_nothing_is_open, assert_safe
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up
from support.storm import Storm

BURSTS, STEPS_PER_BURST = 10, 20
SEEDS = range(int(os.environ.get("STORM_FROM", "0")), int(os.environ.get("STORM_TO", "3")))


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
        await assert_safe(shop, ended, *storm.processes)
        storm.let_time_pass()
    await storm.calm_down()
    await assert_safe(shop, ended, *storm.processes)
    await shop.assert_journal_equals_gateways()
    assert "alarm.recovery_failed" not in await shop.events(), "recovery met a bug; its traceback stands in the log"
    await assert_nothing_is_open(shop)
    for order, _ in storm.orders:
        await assert_money_found_its_place(shop, order.id)
