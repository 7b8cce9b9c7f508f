"""Mollie on its offline twin: the gateway alone, and in a whole shop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from paidonce.contract.bench import Bench, Case
from paidonce.core import Policy
from paidonce.gateways.base import CaptureMethod
from paidonce.gateways.mollie import provider
from paidonce.ports import Database
from paidonce.sandbox.app import sandbox_cores
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up


@pytest.fixture
def bench() -> Bench:
    """The gateway, its twin and the wire between them."""
    return Bench(Case(provider))


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Shop]:
    """A stocked shop with all gateways, on each database."""
    async for shop in _opened(database, Policy()):
        yield shop


@pytest.fixture
async def manual(database: Database) -> AsyncIterator[Shop]:
    """The same, where staff capture when the goods leave."""
    async for shop in _opened(database, Policy(capture_method=CaptureMethod.MANUAL)):
        yield shop


async def _opened(database: Database, policy: Policy) -> AsyncIterator[Shop]:
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)), policy=policy)
    await database.transaction(stock_up, shop.store, shop.clock.now())
    await shop.core.gateways["mollie"].account()
    shop.transport.sent.clear()
    yield shop
    await shop.assert_books_balance()
    told = await shop.events()
    assert "alarm.recovery_failed" not in told
    assert "alarm.invariant_broken" not in told
