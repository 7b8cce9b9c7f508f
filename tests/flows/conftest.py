"""Fixtures of the flow tests: one whole shop on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from paidonce.ports import Database
from paidonce.sandbox.app import sandbox_cores
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up


@pytest.fixture
async def shop(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Shop]:
    """A stocked shop with both gateways on each database."""
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
    await database.transaction(stock_up, shop.store, shop.clock.now())
    for gateway in shop.core.gateways.values():
        await gateway.account()  # Read once per key; the tests count what comes after.
    shop.transport.sent.clear()
    yield shop
    await shop.assert_books_balance()
    told = await shop.events()
    assert "alarm.recovery_failed" not in told, "recovery met a bug; its traceback stands in the log"
    expected = request.module.__name__.endswith("test_invariants")
    assert expected or "alarm.invariant_broken" not in told, "an invariant was broken; the log says which"


@pytest.fixture
def restarted(shop: Shop) -> Callable[[], Shop]:
    """The same shop after its process died: only the database and the gateways' own memory survive."""
    return lambda: open_shop(shop.core.db, clock=shop.clock, twins=shop.twins)
