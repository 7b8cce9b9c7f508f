"""PostgreSQL: each write is one statement, and so one round trip and one commit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from bench.floor.books import CLAIM, DAY, HOLD, USER, Captured, News, Started, new, now

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

_CONNECTIONS = 16

_ORDER = """
WITH wanted AS (
    SELECT p.sku, p.name, p.price_minor, w.quantity
    FROM unnest($4::text[], $5::bigint[]) AS w (sku, quantity) JOIN products p ON p.sku = w.sku
), made AS (
    INSERT INTO orders (id, number, user_id, status, refund_status, total_minor, due_minor, currency, created_at,
        updated_at, expires_at)
    SELECT $1, $2, $3, 'open', 'none', s.total, s.total, 'EUR', $6, $6, $7
    FROM (SELECT sum(price_minor * quantity)::bigint AS total FROM wanted) s RETURNING total_minor
), lines AS (
    INSERT INTO order_lines (order_id, sku, name, quantity, unit_price_minor)
    SELECT $1, sku, name, quantity, price_minor FROM wanted
)
SELECT total_minor FROM made
"""
_START = """
WITH goods AS (
    SELECT s.sku, l.quantity FROM order_lines l JOIN stock s ON s.sku = l.sku
    WHERE l.order_id = $2 ORDER BY s.sku FOR UPDATE OF s
), held AS (
    UPDATE stock SET held = held + g.quantity FROM goods g
    WHERE stock.sku = g.sku AND on_hand - held >= g.quantity RETURNING stock.sku
), holds AS (
    INSERT INTO holds (order_id, sku, quantity, expires_at) SELECT $2, sku, quantity, $9 FROM goods
), payment AS (
    INSERT INTO payments (id, order_id, gateway, status, refund_status, amount_minor, currency, account, live,
        captures_in_browser, capture_method, captured_minor, owed_to_buyer, capture_right, decline_recoverable,
        asked_at, created_at, updated_at, due_at, tries, lease_until, started_by)
    SELECT $1, id, 'stripe', 'created', 'none', due_minor, currency, $3, 0, 1, 'automatic', 0, 0, 'held', 0, 0,
        $7, $7, $10, 0, 0, user_id FROM orders WHERE id = $2 AND status = 'open' RETURNING amount_minor
), operation AS (
    INSERT INTO operations (id, payment_id, kind, round, idempotency_key, request, state, claimed_until, created_at,
        sent_at) VALUES ($4, $1, 'create', 1, $5, $6, 'recorded', $8, $7, $7)
), told AS (
    INSERT INTO history (order_id, payment_id, event, detail, created_at)
    VALUES ($2, $1, 'payment.started', '{"gateway":"stripe"}', $7)
)
SELECT (SELECT amount_minor FROM payment), (SELECT count(*) FROM held) = (SELECT count(*) FROM goods)
"""
_OPENED = """
WITH opened AS (
    UPDATE payments SET status = 'awaiting_buyer', gateway_ref = $3, asked_at = $5, updated_at = $5 WHERE id = $1
), answered AS (
    UPDATE operations SET state = 'succeeded', finished_at = $5 WHERE id = $4
)
INSERT INTO history (order_id, payment_id, event, detail, created_at) VALUES ($2, $1, 'payment.awaiting_buyer',
    '{"gateway":"stripe","raw_status":"requires_payment_method","trigger":"start"}', $5)
"""
_SETTLE = """
WITH captured AS (
    UPDATE payments SET status = 'captured', capture_ref = $3, captured_minor = $4, asked_at = $8, updated_at = $8,
        due_at = $9 WHERE id = $1 AND status = 'awaiting_buyer' AND amount_minor = $4 RETURNING order_id
), paid AS (
    UPDATE orders SET status = 'paid', updated_at = $8, paid_at = $8 FROM captured
    WHERE orders.id = captured.order_id AND orders.status = 'open' RETURNING orders.id
), held AS (
    DELETE FROM holds USING paid WHERE holds.order_id = paid.id RETURNING holds.sku, holds.quantity
), goods AS (
    SELECT s.sku, h.quantity FROM held h JOIN stock s ON s.sku = h.sku ORDER BY s.sku FOR UPDATE OF s
), taken AS (
    UPDATE stock SET on_hand = on_hand - g.quantity, held = held - g.quantity FROM goods g WHERE stock.sku = g.sku
), sold AS (
    INSERT INTO stock_movements (sku, kind, quantity, order_id, payment_id, actor, created_at)
    SELECT sku, 'sale', -quantity, $2, $1, 'settlement', $8 FROM held
), entries AS (
    INSERT INTO journal_entries (id, gateway, gateway_object, kind, order_id, payment_id, created_at)
    SELECT e.id, 'stripe', $3, e.kind, $2, $1, $8 FROM paid, (VALUES ($6, 'capture'), ($7, 'fee')) AS e (id, kind)
), postings AS (
    INSERT INTO journal_postings (entry_id, account, currency, amount_minor)
    SELECT p.entry, p.account, 'EUR', p.minor FROM paid, (VALUES ($6, 'gateway:stripe', $4::bigint),
        ($6, 'sales', -$4::bigint), ($7, 'gateway:stripe', -$5::bigint), ($7, 'gateway_fees', $5::bigint)
    ) AS p (entry, account, minor)
), told AS (
    INSERT INTO history (order_id, payment_id, event, detail, created_at)
    SELECT $2, $1, 'payment.captured', $10, $8 FROM paid
), queued AS (
    INSERT INTO outbox (id, type, order_id, payload, created_at) SELECT $11, 'order.paid', $2, $12, $8 FROM paid
)
SELECT count(*) FROM paid
"""
_HEAR = """
WITH known AS (
    SELECT id, order_id FROM payments WHERE gateway = 'stripe' AND gateway_ref = $4 AND status = 'captured'
), kept AS (
    INSERT INTO inbox (id, gateway, event_id, type, payment_id, claims, state, outcome, created_at, received_at,
        finished_at, tries, lease_until)
    SELECT $1, 'stripe', $2, $3, id, replace($5, '$payment', id), 'processed', 'known already', $6, $7, $7, 0, 0
    FROM known
    ON CONFLICT (gateway, event_id) DO NOTHING RETURNING id
), told AS (
    INSERT INTO history (order_id, payment_id, event, detail, created_at)
    SELECT order_id, known.id, 'webhook.received', $8, $7 FROM known, kept
)
SELECT (SELECT count(*) FROM known), (SELECT count(*) FROM kept)
"""


class PostgresBooks:
    """`Books` on connections of their own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()

    async def connect(self) -> None:
        """Open the connections."""
        for _ in range(_CONNECTIONS):
            self._idle.put_nowait(await asyncpg.connect(self._url))

    async def order(self, skus: list[str], quantities: list[int]) -> tuple[str, int]:
        order, at = new("ord"), now()
        number = "PO-" + order[4:15].upper()
        row = await self._run(_ORDER, order, number, USER, skus, quantities, at, at + DAY)
        return order, row[0]

    async def start(self, started: Started) -> int:
        at = now()
        row = await self._run(
            _START,
            started.id,
            started.order,
            started.account,
            started.operation,
            started.key,
            started.request(),
            at,
            at + CLAIM,
            at + HOLD,
            at + DAY,
        )
        assert row[1], "sold out"
        return int(row[0])

    async def opened(self, started: Started, ref: str) -> None:
        await self._run(_OPENED, started.id, started.order, ref, started.operation, now())

    async def find(self, payment: str) -> tuple[str, str]:
        row = await self._run("SELECT order_id, gateway_ref FROM payments WHERE id = $1", payment)
        return row[0], row[1]

    async def settle(self, captured: Captured) -> bool:
        at = now()
        row = await self._run(
            _SETTLE,
            captured.payment,
            captured.order,
            captured.capture,
            captured.amount,
            captured.fee,
            new("jnl"),
            new("jnl"),
            at,
            at + DAY,
            captured.detail(),
            new("evt"),
            captured.payload(),
        )
        return bool(row[0])

    async def hear(self, news: News) -> str:
        values = (news.event, news.type, news.ref, news.claims("$payment"), news.created * 1_000_000, now())
        row = await self._run(_HEAR, new("whk"), *values, news.detail())
        if not row[0]:
            raise LookupError(news.ref)
        return "known" if row[1] else "duplicate"

    async def _run(self, sql: str, *values: object) -> Any:
        connection = await self._idle.get()
        try:
            return await connection.fetchrow(sql, *values)
        except asyncpg.DeadlockDetectedError:
            return await connection.fetchrow(sql, *values)
        finally:
            self._idle.put_nowait(connection)
