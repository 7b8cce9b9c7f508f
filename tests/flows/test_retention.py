"""What docs/growth.md says may be deleted can be, what it says must stay does, and the shop goes on as before."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from paidonce import deliveries
from paidonce.db import sqlite_path, tables
from paidonce.deliveries import Endpoints
from paidonce.errors import Conflict
from paidonce.outbox import Event
from paidonce.ports import SECOND, Transaction
from support.shop import Shop

PAGE = (Path(__file__).parent.parent.parent / "docs" / "growth.md").read_text("utf-8")
_DAY = 24 * 3600 * SECOND
_DIALECTS = {"SQLite": {"sqlite"}, "PostgreSQL": {"postgresql"}, "Both": {"sqlite", "postgresql"}}


def statements(chapter: str, dialect: str) -> list[str]:
    """The SQL that the page shows for this database in a chapter, statement by statement."""
    text = PAGE.partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sql\n-- (\w+)[^\n]*\n(.*?)```", text, re.DOTALL)
    chosen = [sql for name, sql in blocks if dialect in _DIALECTS[name]]
    found = [one.strip() for sql in chosen for one in sql.split(";") if one.strip()]
    assert found, f"the page has no SQL for {dialect} under {chapter}"
    return found


class Ear:
    """A system of the merchant's own, and how it is told."""

    def __init__(self, shop: Shop, name: str = "warehouse") -> None:
        self.shop = shop
        self.name = name
        self.heard: list[Event] = []

    async def hear(self, event: Event) -> None:
        self.heard.append(event)

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(subscribers={self.name: self.hear})

    async def register(self) -> None:
        await deliveries.register(self.shop.core, self.endpoints)

    async def listen(self) -> None:
        while await deliveries.run_due(self.shop.core, self.endpoints, transport=self.shop.transport):
            pass
        # What is handed out counts as settled after some minutes, and only then the mark moves.
        self.shop.clock.pass_seconds(deliveries.SETTLED_SECONDS + 1)
        await deliveries.run_due(self.shop.core, self.endpoints, transport=self.shop.transport)


async def clean(shop: Shop, chapter: str) -> int:
    """Run what the page shows, until it deletes none; how many rows are gone."""
    total = 0
    while True:
        gone = [await shop.write(one) for one in statements(chapter, shop.core.db.dialect) if "'https:" not in one]
        if not sum(gone):
            return total
        total += sum(gone)


async def count(shop: Shop, table: str, where: str = "1 = 1") -> int:
    rows = await shop.rows(f"SELECT count(*) AS n FROM {table} WHERE {where}")  # noqa: S608
    return int(rows[0]["n"])


async def age(shop: Shop, table: str, *columns: str, days: int) -> None:
    changes = ", ".join(f"{column} = {column} - :by" for column in columns)
    await shop.write(f"UPDATE {table} SET {changes}", by=days * _DAY)  # noqa: S608


# ── The inbox ──────────


async def test_finished_webhooks_go_after_90_days_and_work_stays(shop: Shop) -> None:
    await shop.paid("stripe")
    await shop.deliver()
    await shop.write(_INBOX, id="whk_parked", state="parked", finished=None, now=shop.clock.now(), due=10**18)
    before = await count(shop, "inbox", "state = 'processed'")
    assert before > 0
    assert await clean(shop, "The inbox") == 0
    await age(shop, "inbox", "received_at", "finished_at", "created_at", days=89)
    assert await clean(shop, "The inbox") == 0
    await age(shop, "inbox", "received_at", "finished_at", "created_at", days=2)
    assert await clean(shop, "The inbox") == before
    assert [row["id"] for row in await shop.rows("SELECT id FROM inbox")] == ["whk_parked"]


_INBOX = """
INSERT INTO inbox (id, gateway, event_id, type, claims, state, created_at, received_at, finished_at, due_at, tries,
    lease_until)
VALUES (:id, 'stripe', :id, 'x', '{}', :state, :now, :now, :finished, :due, 0, 0)
"""


async def test_more_than_a_batch_goes_too(shop: Shop) -> None:
    async def add(tx: Transaction) -> None:
        old = shop.clock.now() - 91 * _DAY
        rows = [{"id": f"whk_{n}", "state": "ignored", "finished": old, "now": old, "due": None} for n in range(2100)]
        await tx.execute_many(_INBOX, rows)

    await shop.core.db.transaction(add)
    assert await clean(shop, "The inbox") == 2100


async def test_an_event_that_comes_again_after_its_row_was_deleted_does_nothing_twice(shop: Shop) -> None:
    order, payment = await shop.paid("stripe")
    webhooks = shop.webhooks()
    for webhook in webhooks:
        await shop.receive(webhook)
    entries, stock = await count(shop, "journal_entries"), await shop.stock()
    await shop.write("DELETE FROM inbox")
    shop.transport.sent.clear()
    for webhook in webhooks:
        assert await shop.receive(webhook) in {"known", "new"}
    assert {request.method for request in shop.transport.sent} <= {"GET"}, "asking again is all that may happen"
    assert (await count(shop, "journal_entries"), await shop.stock()) == (entries, stock)
    assert (await shop.order_status(order.id), await shop.payment_status(payment)) == ("paid", "captured")


# ── The outbox ──────────


async def test_told_events_go_after_90_days_except_the_newest_and_the_next_one_is_told(shop: Shop) -> None:
    ear = Ear(shop)
    await ear.register()
    for _ in range(2):
        await shop.paid("stripe")
    await ear.listen()
    told = len(ear.heard)
    assert told == await count(shop, "outbox") > 1
    assert await clean(shop, "The outbox") == 0
    await _age_events(shop)
    assert await clean(shop, "The outbox") == 2 * (told - 1)
    assert (await count(shop, "outbox"), await count(shop, "deliveries")) == (1, 1)
    ear.heard.clear()
    order, _ = await shop.paid("stripe")
    await ear.listen()
    assert [event.order_id for event in ear.heard if event.type == "order.paid"] == [order.id]


async def _age_events(shop: Shop) -> None:
    await age(shop, "outbox", "created_at", days=91)
    await age(shop, "deliveries", "created_at", "finished_at", days=91)


async def test_events_that_somebody_was_not_told_stay(shop: Shop) -> None:
    ear, deaf, gone = Ear(shop), Ear(shop, "later"), "https://old.example/hook"
    await ear.register()
    await deaf.register()
    await shop.write("INSERT INTO endpoints (name, handed_out, created_at) VALUES (:name, 0, 0)", name=gone)
    await shop.paid("stripe")
    await ear.listen()
    await _age_events(shop)
    events = await count(shop, "outbox")
    await clean(shop, "The outbox")
    assert await count(shop, "outbox") == events
    for one in statements("The outbox", shop.core.db.dialect):
        if "'https:" in one:
            await shop.write(one)
    assert await count(shop, "endpoints", f"name = '{gone}'") == 0
    await clean(shop, "The outbox")
    assert await count(shop, "outbox") == events, "the other one has still to be told"
    await deaf.listen()
    assert len(deaf.heard) == events
    await _age_events(shop)
    await clean(shop, "The outbox")
    assert await count(shop, "outbox") == 1


async def test_a_delivery_that_waits_or_was_given_up_keeps_its_event(shop: Shop) -> None:
    ear = Ear(shop)
    await ear.register()
    await shop.paid("stripe")
    await ear.listen()
    await shop.paid("stripe")
    await ear.listen()
    await _age_events(shop)
    first = (await shop.rows("SELECT min(seq) AS seq FROM deliveries"))[0]["seq"]
    await shop.write("UPDATE deliveries SET state = 'given_up' WHERE seq = :seq", seq=first)
    await clean(shop, "The outbox")
    assert await count(shop, "outbox", f"seq = {first}") == 1


# ── What stays ──────────


async def test_the_page_names_every_table_and_those_that_refuse_do(shop: Shop) -> None:
    rows = re.findall(r"^\| (`[^|]+) \|.*\| ([^|]+) \|$", PAGE, re.MULTILINE)
    fate = {name: last for names, last in rows for name in re.findall(r"`(\w+)`", names)}
    assert fate.keys() == tables.metadata.tables.keys()
    assert {name for name, last in fate.items() if "triggers refuse it" in last} == set(tables.APPEND_ONLY)
    await shop.paid("stripe")
    for table in ("history", "journal_entries", "journal_postings", "stock_movements"):
        with pytest.raises(Conflict, match="append-only"):
            await shop.write(f"DELETE FROM {table}")  # noqa: S608


# ── Maintenance ──────────


def test_postgres_takes_the_settings_and_sells_without_writing_an_index(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        for statement in statements("PostgreSQL", "postgresql"):
            connection.execute(statement.encode())
        connection.execute("INSERT INTO products VALUES ('mug', 'Mug', '', '', 100, 'EUR', 0)")
        connection.execute("INSERT INTO stock VALUES ('mug', 10, 0)")
        with connection.transaction():
            connection.execute("UPDATE stock SET held = held + 1 WHERE sku = 'mug'")
            hot = connection.execute("SELECT n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'stock'")
            assert hot.fetchone() == (1,)
        found = connection.execute("SELECT reloptions FROM pg_class WHERE relname = 'stock'").fetchone()
    assert found is not None
    assert "fillfactor=50" in found[0]


async def test_sqlite_is_backed_up_while_open_and_made_small_when_closed(shop: Shop, tmp_path: Path) -> None:
    if shop.core.db.dialect != "sqlite":
        pytest.skip("PostgreSQL has tools of its own for this")
    await shop.paid("stripe")
    path = sqlite_path(f"sqlite:///{tmp_path / 'paidonce.db'}")
    assert path is not None
    small, backup = statements("SQLite", "sqlite")[:-1], statements("SQLite", "sqlite")[-1]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(backup.replace("backup.db", str(tmp_path / "backup.db")))
    with closing(sqlite3.connect(tmp_path / "backup.db")) as copy:
        assert copy.execute("SELECT count(*) FROM orders WHERE status = 'paid'").fetchone() == (1,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    # Nobody is in the middle of something, which is as good as closed.
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in small:
            connection.execute(statement).fetchall()
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
