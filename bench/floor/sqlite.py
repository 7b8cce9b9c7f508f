"""SQLite: one writer thread whose waiting transactions share a commit, and a look from the event loop's own thread."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import traceback
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from bench.floor.books import CLAIM, DAY, HOLD, USER, Captured, News, Started, new, now

T = TypeVar("T")
_GROUP = 64

_ORDER = """
INSERT INTO orders (id, number, user_id, status, refund_status, total_minor, due_minor, currency, created_at,
    updated_at, expires_at) VALUES (?1, ?2, ?3, 'open', 'none', ?4, ?4, 'EUR', ?5, ?5, ?6)
"""
_LINE = "INSERT INTO order_lines (order_id, sku, name, quantity, unit_price_minor) VALUES (?, ?, ?, ?, ?)"
_HOLD = """
UPDATE stock SET held = held + l.quantity FROM order_lines l
WHERE l.order_id = ?1 AND l.sku = stock.sku AND on_hand - held >= l.quantity
"""
_HOLDS = """
INSERT INTO holds (order_id, sku, quantity, expires_at)
SELECT order_id, sku, quantity, ?2 FROM order_lines WHERE order_id = ?1
"""
_PAYMENT = """
INSERT INTO payments (id, order_id, gateway, status, refund_status, amount_minor, currency, account, live,
    captures_in_browser, capture_method, captured_minor, owed_to_buyer, capture_right, decline_recoverable, asked_at,
    created_at, updated_at, due_at, tries, lease_until, started_by)
SELECT ?1, id, 'stripe', 'created', 'none', due_minor, currency, ?3, 0, 1, 'automatic', 0, 0, 'held', 0, 0,
    ?4, ?4, ?5, 0, 0, user_id FROM orders WHERE id = ?2 AND status = 'open' RETURNING amount_minor
"""
_OPERATION = """
INSERT INTO operations (id, payment_id, kind, round, idempotency_key, request, state, claimed_until, created_at,
    sent_at) VALUES (?1, ?2, 'create', 1, ?3, ?4, 'recorded', ?5, ?6, ?6)
"""
_HISTORY = "INSERT INTO history (order_id, payment_id, event, detail, created_at) VALUES (?, ?, ?, ?, ?)"
_OPENED = (
    "UPDATE payments SET status = 'awaiting_buyer', gateway_ref = ?2, asked_at = ?3, updated_at = ?3 WHERE id = ?1"
)
_ANSWERED = "UPDATE operations SET state = 'succeeded', finished_at = ?2 WHERE id = ?1"
_CAPTURED = """
UPDATE payments SET status = 'captured', capture_ref = ?2, captured_minor = ?3, asked_at = ?4, updated_at = ?4,
    due_at = ?5 WHERE id = ?1 AND status = 'awaiting_buyer' AND amount_minor = ?3
"""
_TAKE = """
UPDATE stock SET on_hand = on_hand - h.quantity, held = held - h.quantity FROM holds h
WHERE h.order_id = ?1 AND h.sku = stock.sku
"""
_SOLD = """
INSERT INTO stock_movements (sku, kind, quantity, order_id, payment_id, actor, created_at)
SELECT sku, 'sale', -quantity, order_id, ?2, 'settlement', ?3 FROM holds WHERE order_id = ?1
"""
_PAID = "UPDATE orders SET status = 'paid', updated_at = ?2, paid_at = ?2 WHERE id = ?1 AND status = 'open'"
_ENTRIES = """
INSERT INTO journal_entries (id, gateway, gateway_object, kind, order_id, payment_id, created_at)
VALUES (?1, 'stripe', ?3, 'capture', ?4, ?5, ?6), (?2, 'stripe', ?3, 'fee', ?4, ?5, ?6)
"""
_POSTINGS = """
INSERT INTO journal_postings (entry_id, account, currency, amount_minor) VALUES (?1, 'gateway:stripe', 'EUR', ?3),
    (?1, 'sales', 'EUR', -?3), (?2, 'gateway:stripe', 'EUR', -?4), (?2, 'gateway_fees', 'EUR', ?4)
"""
_OUTBOX = "INSERT INTO outbox (id, type, order_id, payload, created_at) VALUES (?, 'order.paid', ?, ?, ?)"
_INBOX = """
INSERT INTO inbox (id, gateway, event_id, type, payment_id, claims, state, outcome, created_at, received_at,
    finished_at, tries, lease_until)
VALUES (?1, 'stripe', ?2, ?3, ?4, ?5, 'processed', 'known already', ?6, ?7, ?7, 0, 0)
ON CONFLICT (gateway, event_id) DO NOTHING
"""


class SqliteBooks:
    """`Books` on a file."""

    def __init__(self, path: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = SimpleQueue()
        self._reader = _connect(path)
        threading.Thread(target=self._serve, args=(_connect(path),), daemon=True).start()

    async def order(self, skus: list[str], quantities: list[int]) -> tuple[str, int]:
        return await self._write(lambda tx: _order(tx, skus, quantities))

    async def start(self, started: Started) -> int:
        return await self._write(lambda tx: _start(tx, started))

    async def opened(self, started: Started, ref: str) -> None:
        await self._write(lambda tx: _open(tx, started, ref))

    async def find(self, payment: str) -> tuple[str, str]:
        row = self._reader.execute("SELECT order_id, gateway_ref FROM payments WHERE id = ?", (payment,)).fetchone()
        return row[0], row[1]

    async def settle(self, captured: Captured) -> bool:
        return await self._write(lambda tx: _settle(tx, captured))

    async def hear(self, news: News) -> str:
        return await self._write(lambda tx: _hear(tx, news))

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        told: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, told))
        return await told

    def _serve(self, connection: sqlite3.Connection) -> None:
        try:
            self._commit_groups(connection)
        except BaseException:
            # Nobody is to wait for a floor that has broken.
            traceback.print_exc()
            os._exit(1)

    def _commit_groups(self, connection: sqlite3.Connection) -> None:
        while True:
            work, told = self._queue.get()
            connection.execute("BEGIN IMMEDIATE")
            group = [(told, work(connection))]
            while len(group) < _GROUP:
                try:
                    work, told = self._queue.get_nowait()
                except Empty:
                    break
                group.append((told, work(connection)))
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(_deliver, group)


def _deliver(group: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for told, result in group:
        if not told.done():
            told.set_result(result)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False, cached_statements=512)
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")
    return connection


def _order(tx: sqlite3.Connection, skus: list[str], quantities: list[int]) -> tuple[str, int]:
    order, at = new("ord"), now()
    marks = ",".join("?" * len(skus))
    known = tx.execute(f"SELECT sku, name, price_minor FROM products WHERE sku IN ({marks})", skus)  # noqa: S608
    wanted = dict(zip(skus, quantities, strict=True))
    lines = [(order, sku, name, wanted[sku], price) for sku, name, price in known]
    total: int = sum(line[3] * line[4] for line in lines)
    tx.execute(_ORDER, (order, "PO-" + order[4:15].upper(), USER, total, at, at + DAY))
    tx.executemany(_LINE, lines)
    return order, total


def _start(tx: sqlite3.Connection, started: Started) -> int:
    at, order = now(), started.order
    held = tx.execute(_HOLD, (order,)).rowcount
    assert held == tx.execute(_HOLDS, (order, at + HOLD)).rowcount, "sold out"
    row = tx.execute(_PAYMENT, (started.id, order, started.account, at, at + DAY)).fetchone()
    tx.execute(_OPERATION, (started.operation, started.id, started.key, started.request(), at + CLAIM, at))
    tx.execute(_HISTORY, (order, started.id, "payment.started", '{"gateway":"stripe"}', at))
    return int(row[0])


def _open(tx: sqlite3.Connection, started: Started, ref: str) -> None:
    at = now()
    tx.execute(_OPENED, (started.id, ref, at))
    tx.execute(_ANSWERED, (started.operation, at))
    detail = '{"gateway":"stripe","raw_status":"requires_payment_method","trigger":"start"}'
    tx.execute(_HISTORY, (started.order, started.id, "payment.awaiting_buyer", detail, at))


def _settle(tx: sqlite3.Connection, captured: Captured) -> bool:
    at, order, payment = now(), captured.order, captured.payment
    if not tx.execute(_CAPTURED, (payment, captured.capture, captured.amount, at, at + DAY)).rowcount:
        return False
    tx.execute(_TAKE, (order,))
    tx.execute(_SOLD, (order, payment, at))
    tx.execute("DELETE FROM holds WHERE order_id = ?", (order,))
    assert tx.execute(_PAID, (order, at)).rowcount == 1, "the order was not open"
    entries = (new("jnl"), new("jnl"))
    tx.execute(_ENTRIES, (*entries, captured.capture, order, payment, at))
    tx.execute(_POSTINGS, (*entries, captured.amount, captured.fee))
    tx.execute(_HISTORY, (order, payment, "payment.captured", captured.detail(), at))
    tx.execute(_OUTBOX, (new("evt"), order, captured.payload(), at))
    return True


def _hear(tx: sqlite3.Connection, news: News) -> str:
    row = tx.execute(
        "SELECT id, order_id FROM payments WHERE gateway = 'stripe' AND gateway_ref = ? AND status = 'captured'",
        (news.ref,),
    ).fetchone()
    if row is None:
        raise LookupError(news.ref)
    payment, order = row
    at = now()
    values = (new("whk"), news.event, news.type, payment, news.claims(payment), news.created * 1_000_000, at)
    if not tx.execute(_INBOX, values).rowcount:
        return "duplicate"
    tx.execute(_HISTORY, (order, payment, "webhook.received", news.detail(), at))
    return "known"
