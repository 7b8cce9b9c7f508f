"""COMMIT itself fails, and nobody knows whether the rows are there: what was meant is found by its own key.

Each transaction of each flow has its turn, once with the rows kept and once with the rows lost.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import pytest

from paidonce.core import Actor
from paidonce.errors import CommitUnknown
from paidonce.ports import Database, Transaction
from support.shop import Shop, open_shop

P = ParamSpec("P")
T = TypeVar("T")

GATEWAYS = ["stripe", "paypal"]
# More than any of the flows below has; the test checks that the last turn came too late.
MOST_TRANSACTIONS = 16


class Lost(Exception):
    """Rolls a transaction back whose commit seems to fail."""


class BadCommit:
    """`ports.Database` whose `turn`-th commit fails with an unknown outcome; `kept` says what really happened."""

    def __init__(self, inner: Database, turn: int, *, kept: bool) -> None:
        self.inner = inner
        self.turn = turn
        self.kept = kept
        self.count = 0
        self.struck = False
        self.dialect: Literal["sqlite", "postgresql"] = inner.dialect

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self.count += 1
        if self.count != self.turn:
            return await self.inner.transaction(fn, *args, **kwargs)
        self.struck = True
        if self.kept:
            await self.inner.transaction(fn, *args, **kwargs)
            raise CommitUnknown("the connection died at COMMIT")

        async def and_lose(tx: Transaction) -> None:
            await fn(tx, *args, **kwargs)
            raise Lost

        try:
            await self.inner.transaction(and_lose)
        except Lost:
            raise CommitUnknown("the connection died at COMMIT") from None
        raise AssertionError("a transaction that raises is rolled back")

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self.inner.read(fn, *args, **kwargs)

    async def close(self) -> None:
        await self.inner.close()


def with_bad_commit(shop: Shop, turn: int, *, kept: bool) -> tuple[Shop, BadCommit]:
    bad = BadCommit(shop.core.db, turn, kept=kept)
    return open_shop(bad, clock=shop.clock, twins=shop.twins), bad


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_paying_survives_an_unknown_commit_at_every_transaction(shop: Shop, gateway: str, kept: bool) -> None:
    struck = []
    for turn in range(1, MOST_TRANSACTIONS + 1):
        actor = Actor(f"usr_{turn}")
        order = await shop.order(("pen", 1), actor=actor)
        unlucky, bad = with_bad_commit(shop, turn, kept=kept)
        started = await unlucky.start(order.id, gateway, actor)
        await unlucky.agree(started)
        assert (await unlucky.complete(started.payment.id, actor)).order_status == "paid", f"transaction {turn}"
        await shop.assert_paid_once(order)
        struck.append(bad.struck)
    assert struck[0], "the first transaction had its turn"
    assert not struck[-1], "there are more transactions than turns: raise MOST_TRANSACTIONS"
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_refunding_survives_an_unknown_commit_at_every_transaction(shop: Shop, gateway: str, kept: bool) -> None:
    struck = []
    for turn in range(1, MOST_TRANSACTIONS + 1):
        _, payment_id = await shop.paid(gateway, ("pen", 1))
        unlucky, bad = with_bad_commit(shop, turn, kept=kept)
        done = await unlucky.refund(payment_id, 100)
        assert (done.refund.state, done.created) == ("succeeded", True), f"transaction {turn}"
        assert await shop.refund_states(payment_id) == [(100, "succeeded")]
        struck.append(bad.struck)
    assert (struck[0], struck[-1]) == (True, False)
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_webhooks_survive_an_unknown_commit_at_every_transaction(shop: Shop, gateway: str, kept: bool) -> None:
    struck = []
    for turn in range(1, MOST_TRANSACTIONS + 1):
        order = await shop.order(("pen", 1))
        await shop.agree(await shop.start(order.id, gateway))
        unlucky, bad = with_bad_commit(shop, turn, kept=kept)
        await unlucky.deliver()
        # An event whose row was kept without its answer is processed as soon as its first lease has run out.
        await shop.recover(after=shop.core.policy.lease_seconds + 1)
        await shop.assert_paid_once(order)
        struck.append(bad.struck)
    assert (struck[0], struck[-1]) == (True, False)
    await shop.assert_journal_equals_gateways()
