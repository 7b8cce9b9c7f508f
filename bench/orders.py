"""A history of many paid orders: the rows of one real checkout, written again and again under other ids."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.buyers import BUYERS, PRICE, PRODUCTS
from bench.databases import Database
from paidonce.ports import SECOND

# In each table the columns whose values have to differ from order to order. All else is the same.
_IDS = {
    "orders": ("id", "number"),
    "order_lines": ("order_id",),
    "payments": ("id", "order_id", "gateway_ref", "capture_ref"),
    "operations": ("id", "payment_id", "idempotency_key"),
    "stock_movements": ("order_id", "payment_id"),
    "journal_entries": ("id", "gateway_object", "order_id", "payment_id"),
    "journal_postings": ("entry_id",),
    "history": ("order_id", "payment_id"),
    "outbox": ("id", "order_id"),
    "inbox": ("id", "event_id", "payment_id"),
}
# Written by the database itself.
_COUNTED = {"stock_movements": "seq", "history": "seq", "outbox": "seq"}
# Where the name of whom it counts begins in a key such as goods:by:0123….
_DIGEST = len("goods:from:")
# The orders are those of all buyers, of all products.
_BUYER, _PRODUCT = ("user_id", "started_by"), ("sku",)


@dataclass(frozen=True, slots=True)
class _Dialect:
    numbers: str
    stirred: str
    padded: str
    before: tuple[str, ...]
    after: tuple[str, ...]


def _dialect(name: str, count: int) -> _Dialect:
    # Ids are random in life, so copies must not come in order: their numbers are stirred (the factor is odd).
    if name == "sqlite":
        return _Dialect(
            f"WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})",  # noqa: S608 - a number.
            "printf('%08x', (n * 2654435761) & 4294967295)",
            "printf('%0{width}d', n % {many})",
            ("PRAGMA journal_mode = OFF", "PRAGMA cache_size = -500000"),
            ("ANALYZE",),
        )
    return _Dialect(
        f"WITH n (n) AS (SELECT generate_series(1, {count}))",
        "lpad(to_hex((n * 2654435761::bigint) & 4294967295), 8, '0')",
        "lpad((n % {many})::text, {width}, '0')",
        ("SET session_replication_role = replica",),
        ("VACUUM ANALYZE", "CHECKPOINT"),
    )


def multiply(database: Database, url: str, count: int, *, recent: bool = False) -> None:
    """Write the one order that is there `count` times more.

    What the shop keeps of an order for the next hours only is written as well if they are `recent`.
    """
    dialect = _dialect(database.name, count)
    copies = [_copy(dialect, table, _columns(database, url, table)) for table in _IDS]
    if recent:
        copies.append(
            f"INSERT INTO rate_limits (key, count, expires_at) {dialect.numbers} SELECT"  # noqa: S608 - our own names.
            f" substr(t.key, 1, {_DIGEST}) || {dialect.stirred} || substr(t.key, {_DIGEST + 9}), t.count, t.expires_at"
            f" FROM rate_limits t, n WHERE t.key LIKE 'goods:%' ORDER BY {dialect.stirred}"
        )
    database.execute(url, *dialect.before, *copies)
    database.execute(url, *dialect.after)


def add_open(database: Database, url: str, count: int) -> None:
    """Orders that wait for their payment, each of another buyer: those that `buyers.open_order` names."""
    dialect, now = _dialect(database.name, count), time.time_ns() // 1000
    order = "'ord_' || " + dialect.padded.format(width=26, many=10**9)
    number = "'PO-' || " + dialect.padded.format(width=9, many=10**9)
    buyer = "'usr_' || " + dialect.padded.format(width=26, many=BUYERS)
    sku = "'SKU-' || " + dialect.padded.format(width=4, many=PRODUCTS)
    later = now + 24 * 3600 * SECOND
    database.execute(
        url,
        "INSERT INTO orders (id, number, user_id, status, refund_status, total_minor, due_minor, currency, created_at,"  # noqa: S608 - numbers of our own.
        f" updated_at, expires_at) {dialect.numbers} SELECT {order}, {number}, {buyer}, 'open', 'none', {PRICE},"
        f" {PRICE}, 'EUR', {now}, {now}, {later} FROM n",
        f"INSERT INTO order_lines (order_id, sku, name, quantity, unit_price_minor) {dialect.numbers}"  # noqa: S608
        f" SELECT {order}, {sku}, 'Product', 1, {PRICE} FROM n",
    )


def _copy(dialect: _Dialect, table: str, columns: list[str]) -> str:
    written = [name for name in columns if name != _COUNTED.get(table)]
    taken = ", ".join(_value(dialect, table, name) for name in written)
    # Besides sales, the stock's journal knows how the goods came.
    where = "kind = 'sale'" if table == "stock_movements" else "1 = 1"
    listed = ", ".join(written)
    # In the order of the ids that come out, which is that of the indexes, and many times faster.
    chosen = f"SELECT {taken} FROM {table} t, n WHERE {where} ORDER BY {dialect.stirred}"  # noqa: S608 - our own names.
    return f"INSERT INTO {table} ({listed}) {dialect.numbers} {chosen}"


def _value(dialect: _Dialect, table: str, column: str) -> str:
    if column in _IDS[table]:
        # Right behind the prefix, so that the copies spread over the whole index.
        return f"substr(t.{column}, 1, 4) || {dialect.stirred} || substr(t.{column}, 13)"
    if column in _BUYER:
        return "'usr_' || " + dialect.padded.format(width=26, many=BUYERS)
    if column in _PRODUCT:
        return "'SKU-' || " + dialect.padded.format(width=4, many=PRODUCTS)
    return f"t.{column}"


def _columns(database: Database, url: str, table: str) -> list[str]:
    if database.name == "sqlite":
        return [row[1] for row in database.fetch(url, f"PRAGMA table_info({table})")]
    question = (
        "SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"  # noqa: S608 - a name of our own.
        f" AND attrelid = '{table}'::regclass ORDER BY attnum"
    )
    return [row[0] for row in database.fetch(url, question)]
