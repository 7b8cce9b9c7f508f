"""SIGKILL at random moments, under load, on both databases: what was acknowledged stays true and everything ends once.

PROVE_KILLS says how often shops are killed in all, half of them on SQLite and half on PostgreSQL, and PROVE_KILLS_FROM
with which seed their towns begin. A seed steers what everybody wants and when the kills come; what is under way at that
moment is left to the machine, so that it is another one each time.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

import paidonce.db
from paidonce import deliveries
from paidonce.config import load_settings
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import Transaction
from paidonce.web import accounts
from paidonce.web.accounts import Passwords, Role
from support.aftermath import (
    assert_each_refund_was_made_once,
    assert_money_found_its_place,
    assert_nothing_is_open,
)
from support.killer import LAMPS, PENS, Town
from support.processes import Gateways, Nursery, free_port, gateways, nursery, shop_environment
from support.receiver import Receiver, receiving
from support.shop import Shop, open_shop, stock_up

KILLS = int(os.environ.get("PROVE_KILLS", "40"))
FIRST_SEED = int(os.environ.get("PROVE_KILLS_FROM", "0"))
# So many that starting a town costs little, and so few that its books stay quick to read.
KILLS_PER_TOWN = 20
EVENT_SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
_DAY = 24 * 3600
# Past claims, leases, holds, the life of orders, and the days for which events wait for a payment.
CALM_WAITS = (0, 130, 320, 1300, _DAY, _DAY, 2 * _DAY, _DAY)


@dataclass(frozen=True)
class Plan:
    """One town: how often its shop is killed, and whether its worker is a process of its own."""

    database: str
    seed: int
    kills: int

    @property
    def worker_apart(self) -> bool:
        return self.seed % 2 == 1

    def __str__(self) -> str:
        return f"{self.database}-{self.seed}"


def plans() -> list[Plan]:
    """The towns of this run, by turns on the one database and on the other."""
    shares = {"sqlite": KILLS - KILLS // 2, "postgresql": KILLS // 2}
    found = [
        Plan(database, FIRST_SEED + number, min(KILLS_PER_TOWN, share - first))
        for database, share in shares.items()
        for number, first in enumerate(range(0, share, KILLS_PER_TOWN))
    ]
    return sorted(found, key=lambda plan: plan.seed)


# ── Two processes on one file ──────────

_VISITOR = """
import asyncio, sys, paidonce.db
async def count(tx):
    return (await tx.fetch_one("SELECT count(*) AS n FROM history"))["n"]
async def main(url):
    database = await paidonce.db.connect(url)
    print(await database.read(count))
    await database.close()
asyncio.run(main(sys.argv[1]))
"""


async def test_a_process_that_comes_and_goes_takes_nothing_from_the_one_that_stays(sqlite_url: str) -> None:
    """Whoever closes SQLite's file last deletes its write-ahead log, so nobody may take himself for the last."""

    async def write(tx: Transaction) -> None:
        await tx.execute("INSERT INTO history (order_id, event, detail, created_at) VALUES ('', 'made', '{}', 1)")

    async def look(tx: Transaction) -> int:
        return len(await tx.fetch_all("SELECT seq FROM history"))

    database = await paidonce.db.connect(sqlite_url)
    seen = []
    for written in (1, 2, 3):
        await database.transaction(write)
        # Reading opens connections besides the writer's, each of which must leave the others' locks alone.
        assert await database.read(look) == written
        seen.append(await asyncio.to_thread(visit, sqlite_url))
    # What a crash would leave now is what was acknowledged.
    path = paidonce.db.sqlite_path(sqlite_url)
    assert path is not None
    assert path.with_name(path.name + "-wal").exists()
    await database.close()
    assert seen == [1, 2, 3]
    assert await asyncio.to_thread(visit, sqlite_url) == 3


def visit(url: str) -> int:
    """Another process opens the file, reads, closes it and ends."""
    ended = subprocess.run([sys.executable, "-c", _VISITOR, url], capture_output=True, text=True, check=True)
    return int(ended.stdout)


# ── Towns ──────────


@pytest.fixture(scope="module")
def hatchery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("sigkill")) as started:
        yield started


@pytest.fixture
async def merchant() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.mark.parametrize("plan", plans(), ids=str)
async def test_a_shop_that_is_killed_again_and_again_keeps_its_word(
    request: pytest.FixtureRequest, hatchery: Nursery, merchant: Receiver, plan: Plan
) -> None:
    url: str = request.getfixturevalue(f"{plan.database}_url")
    port = free_port()
    before = len(hatchery.started)
    began = time.monotonic()
    try:
        with gateways(hatchery.clock, f"http://127.0.0.1:{port}", deliver=True) as opened:
            events = {"PAIDONCE_EVENT_URLS": merchant.url, "PAIDONCE_EVENT_SECRET": EVENT_SECRET}
            town = await found(hatchery, opened, url, shop_environment(url, port, opened, **events), plan)
            ran = await kill_and_go_on(town, plan)
        # The gateways' server has ended, and the twins behind it stay for those who look after what was left.
        await everything_ends_once(town, merchant)
    except BaseException:
        print(f"PROVE_KILLS_FROM={plan.seed} PROVE_KILLS={2 * plan.kills} pytest … -k {plan}")
        raise
    finally:
        for process in hatchery.started[before:]:
            hatchery.kill(process)
        seconds = time.monotonic() - began
    told = {**town.counts, "orders": len(town.said.orders), "paid": len(town.said.paid)}
    print(f"{plan}: {ran / plan.kills:.2f} s a kill, {seconds:.1f} s in all, {dict(sorted(told.items()))}")


async def found(hatchery: Nursery, opened: Gateways, url: str, environment: dict[str, str], plan: Plan) -> Town:
    """A town whose shop has goods and accounts, and is closed yet."""
    db = await paidonce.db.connect(url)
    try:
        shop = open_shop(db, clock=hatchery.clock, twins=opened.app.cores)
        now = hatchery.clock.now()
        await db.transaction(stock_up, shop.store, now)
        for sku, adjust in (("pen", PENS - 100), ("lamp", LAMPS - 3)):
            await db.transaction(shop.store.adjust_stock, sku=sku, adjust=adjust, actor="staff", now=now)
        sessions = {"buyer": await sign_in(shop, "buyer"), "staff": await sign_in(shop, "staff")}
    finally:
        await db.close()
    path = paidonce.db.sqlite_path(url)
    folder = hatchery.folder if path is None else path.parent
    return Town(
        hatchery,
        opened,
        url,
        environment["PAIDONCE_PUBLIC_URL"],
        environment,
        sessions,
        random.Random(f"{plan}"),
        plan.worker_apart,
        folder,
    )


async def sign_in(shop: Shop, role: Role) -> str:
    """An account with a session that outlives every process."""
    core, now = shop.core, shop.core.clock.now()
    user = await accounts.add_user(
        core.db,
        Passwords(),
        core.ids,
        email=f"{role}@example.com",
        name="Some One",
        password="a-long-password",
        now=now,
        role=role,
    )
    return await accounts.open_session(core.db, user, replaces=None, now=now, life_seconds=60 * _DAY)


async def kill_and_go_on(town: Town, plan: Plan) -> float:
    """The kills, and the seconds that they took. At the end everybody has done his errand, and the shop is dead."""
    async with town.crowd():
        began = time.monotonic()
        await town.reign(plan.kills)
        seconds = time.monotonic() - began
    town.kill()
    await town.look()
    return seconds


# ── What must be true when it is over ──────────


async def everything_ends_once(town: Town, merchant: Receiver) -> None:
    """Days pass in which nobody but a worker does anything; then nothing is left, and every book says the same."""
    db = await paidonce.db.connect(town.database_url)
    try:
        shop = open_shop(db, clock=town.nursery.clock, twins=town.gateways.app.cores)
        for seconds in CALM_WAITS:
            await shop.recover(after=seconds)
            await tell_the_merchant(shop, town)
        await shop.assert_journal_equals_gateways()
        await assert_nothing_is_open(shop)
        await assert_every_order_found_its_end(shop, town)
        await assert_the_stock_is_exact(shop)
        await assert_nothing_went_out_twice(shop, town)
        await assert_the_merchant_knows(shop, merchant)
        await town.said.is_true(shop)
        await town.ended.look(shop)
        alarms = [event for event in await shop.events() if event.startswith("alarm.")]
        assert alarms == []
    finally:
        await db.close()
    assert "Traceback" not in town.nursery.logs(), town.nursery.logs()
    assert_it_was_a_busy_town(town)


async def tell_the_merchant(shop: Shop, town: Town) -> None:
    """What a worker does with events that wait for their delivery."""
    transport = AiohttpTransport(town.nursery.clock)
    try:
        endpoints = load_settings(town.environment).endpoints()
        while await deliveries.run_due(shop.core, endpoints, transport=transport):
            pass
    finally:
        await transport.close()


async def assert_every_order_found_its_end(shop: Shop, town: Town) -> None:
    """Paid once or not at all; and paid, if its buyer agreed, had the money, and did not call it off."""
    for row in await shop.rows("SELECT id, status FROM orders"):
        await assert_money_found_its_place(shop, row["id"])
        if row["status"] == "paid":
            order = await shop.core.db.read(shop.store.get_order, row["id"])
            assert order is not None
            await shop.assert_paid_once(order)
    for errand in town.errands:
        if errand.agreed and errand.sku == "pen" and errand.way not in ("calls it off", "is declined first"):
            assert await shop.order_status(errand.order_id) == "paid", errand
        if errand.order_id and not errand.ever_agreed:
            assert await shop.order_status(errand.order_id) != "paid", errand


async def assert_the_stock_is_exact(shop: Shop) -> None:
    """On hand is what there was, less what paid orders took, and what came back."""
    for sku, initial in (("pen", PENS), ("lamp", LAMPS)):
        sold = await shop.rows(
            "SELECT COALESCE(sum(l.quantity), 0) AS n FROM order_lines l JOIN orders o ON o.id = l.order_id"
            " WHERE o.status = 'paid' AND l.sku = :sku",
            sku=sku,
        )
        back = await shop.rows(
            "SELECT COALESCE(sum(l.quantity), 0) AS n FROM order_lines l WHERE l.sku = :sku AND l.order_id IN"
            " (SELECT order_id FROM refunds WHERE restock = 1 AND state = 'succeeded')",
            sku=sku,
        )
        assert await shop.stock(sku) == (initial - sold[0]["n"] + back[0]["n"], 0)


async def assert_nothing_went_out_twice(shop: Shop, town: Town) -> None:
    """Each key had one body, and no object at the gateways is unknown here."""
    # Voids move no money and carry no key of ours.
    posts = [post for post in town.gateways.recorder.posts if not post.path.endswith(("/cancel", "/void"))]
    bodies = {(post.key, post.path, post.body) for post in posts}
    keys = {key for key, _, _ in bodies}
    assert len(bodies) == len(keys), "a key went out with two bodies"
    assert keys <= {row["idempotency_key"] for row in await shop.rows("SELECT idempotency_key FROM operations")}
    assert_each_refund_was_made_once(shop)
    await assert_no_object_is_unknown(shop)


async def assert_no_object_is_unknown(shop: Shop) -> None:
    """Each object at the gateways is known here, or was made by a create that nobody waited for any more.

    The client values of such a one reached nobody, so that it can't be confirmed.
    """
    rows = await shop.rows("SELECT id, gateway_ref, status FROM payments")
    known = {row["gateway_ref"] for row in rows}
    given_up = [row["id"] for row in rows if row["gateway_ref"] is None and row["status"] in ("canceled", "failed")]
    for gateway, kind in (("stripe", "intents"), ("paypal", "orders")):
        objects = shop.twins[gateway].look(kind)
        for ref in objects.keys() - known:
            told = json.dumps(objects[ref])
            assert any(payment in told for payment in given_up), f"{gateway}: nobody here knows of {told}"


async def assert_the_merchant_knows(shop: Shop, merchant: Receiver) -> None:
    told = {one.id for one in merchant.received}
    assert told == {row["id"] for row in await shop.rows("SELECT id FROM outbox")}


def assert_it_was_a_busy_town(town: Town) -> None:
    """There was something to lose at most kills, and people went on all the same."""
    if town.counts["kills"] >= KILLS_PER_TOWN // 2:
        assert town.counts["lost answers"] > town.counts["kills"] / 4, town.counts
        assert len(town.said.paid) > 3, town.counts
