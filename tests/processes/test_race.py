"""Two callers of one create: what the other commits between two of our statements must not be taken for a stranger's.

Only PostgreSQL lets that happen; on SQLite a transaction runs whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import pytest

import paidonce.db
from paidonce.errors import GatewayUnavailable
from paidonce.ports import Database, Dialect, Params, Row, Transaction
from paidonce.sandbox.app import sandbox_cores
from support.apart import run_apart
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up

P = ParamSpec("P")
T = TypeVar("T")

CREATE = {"stripe": "/v1/payment_intents", "paypal": "/v2/checkout/orders"}


class PausedTransaction:
    """A real transaction; right after it has looked for a payment by the gateway's id, something else happens once."""

    def __init__(self, inner: Transaction, meanwhile: list[Callable[[], None]]) -> None:
        self._inner = inner
        self._meanwhile = meanwhile

    @property
    def dialect(self) -> Dialect:
        return self._inner.dialect

    async def fetch_one(self, sql: str, params: Params | None = None, *, lock: bool = False) -> Row | None:
        found = await self._inner.fetch_one(sql, params, lock=lock)
        if "gateway_ref = :ref" in sql and self._meanwhile:
            self._meanwhile.pop()()
        return found

    async def fetch_all(
        self, sql: str, params: Params | None = None, *, lock: bool = False, skip_locked: bool = False
    ) -> Sequence[Row]:
        return await self._inner.fetch_all(sql, params, lock=lock, skip_locked=skip_locked)

    async def execute(self, sql: str, params: Params | None = None) -> int:
        return await self._inner.execute(sql, params)

    async def execute_many(self, sql: str, rows: Sequence[Params]) -> None:
        await self._inner.execute_many(sql, rows)


class PausedDatabase:
    """The real database with such transactions. `meanwhile` holds what is still to happen."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.dialect: Literal["sqlite", "postgresql"] = inner.dialect
        self.meanwhile: list[Callable[[], None]] = []

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        async def paused(tx: Transaction) -> T:
            return await fn(PausedTransaction(tx, self.meanwhile), *args, **kwargs)

        return await self._inner.transaction(paused)

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._inner.read(fn, *args, **kwargs)

    async def close(self) -> None:
        await self._inner.close()


@pytest.fixture
async def paused(postgresql_url: str) -> AsyncIterator[tuple[Shop, PausedDatabase]]:
    db = PausedDatabase(await paidonce.db.connect(postgresql_url))
    shop = open_shop(db, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
    await db.transaction(stock_up, shop.store, shop.clock.now())
    yield shop, db
    await db.close()


@pytest.mark.parametrize("gateway", ["stripe", "paypal"])
async def test_both_callers_of_a_create_find_the_same_payment(
    paused: tuple[Shop, PausedDatabase], postgresql_url: str, gateway: str
) -> None:
    """FAULTS: two tabs, two devices."""
    shop, db = paused
    order = await shop.order()
    shop.transport.lose_answers("POST", CREATE[gateway])
    with pytest.raises(GatewayUnavailable):
        await shop.start(order.id, gateway)
    shop.transport.heal()
    theirs: list[str] = []

    async def somebody_else() -> None:
        other_db = await paidonce.db.connect(postgresql_url)
        try:
            other = open_shop(other_db, clock=shop.clock, twins=shop.twins)
            theirs.append((await other.start(order.id, gateway)).payment.id)
        finally:
            await other_db.close()

    db.meanwhile.append(lambda: run_apart(somebody_else))
    started = await shop.start(order.id, gateway)
    assert [started.payment.id] == theirs
    assert await shop.count("payments") == 1
    await shop.agree(started)
    await shop.complete(started.payment.id)
    await shop.assert_paid_once(order)
    await shop.assert_journal_equals_gateways()
