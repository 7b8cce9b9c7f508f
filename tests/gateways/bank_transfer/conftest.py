"""A stocked shop with all gateways on each database, and staff who enter what their bank tells them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from paidonce.ports import Database
from paidonce.sandbox.app import sandbox_cores
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Shop]:
    """A stocked shop."""
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
    await database.transaction(stock_up, shop.store, shop.clock.now())
    yield shop
    await shop.assert_books_balance()
    told = await shop.events()
    assert "alarm.recovery_failed" not in told, "recovery met a bug; its traceback stands in the log"
    assert "alarm.invariant_broken" not in told, "an invariant was broken; the log says which"


@pytest.fixture
def restarted(shop: Shop) -> Callable[[], Shop]:
    """The same shop after its process died: only the database is left of it."""
    return lambda: open_shop(shop.core.db, clock=shop.clock, twins=shop.twins)
