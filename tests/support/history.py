"""Years of a shop in a second: whatever rows are there, copied many times over as what is done with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import psycopg
from sqlalchemy import BigInteger, Text

from paidonce.db import sqlite_path, tables
from support.plans import GROWING

_marks = count(1)
# Each copy of a row gets a number, which makes its ids new.
_NEW_ID = frozenset(
    {
        *("id", "number", "email", "token_hash", "order_id", "payment_id", "operation_id", "event_id", "entry_id"),
        *("gateway_ref", "capture_ref", "gateway_object", "idempotency_key", "request_key", "ref", "key"),
        *("started_by", "started_from"),
    }
)
_SECOND = 1_000_000
_YEAR = 365 * 24 * 3600 * _SECOND
# What still has to happen does not grow with the shop's age, so copies are of what has ended.
_ENDED = {
    ("orders", "status"): ("open", "pending"),
    ("payments", "status"): ("held", "captured"),
    ("inbox", "state"): ("recorded", "processed"),
    ("deliveries", "state"): ("waiting", "delivered"),
    ("disputes", "state"): ("open", "won"),
    ("reservations", "state"): ("held", "taken"),
}
# Whose copies would be work to do.
_SKIPPED = {
    "payments": "status IN ('captured', 'failed', 'canceled', 'held')",
    "inbox": "state NOT IN ('parked')",
}


def grow(url: str, times: int) -> None:
    """Copy every row `times` times, and count the rows, as a database does by itself sooner or later."""
    path = sqlite_path(url)
    if path is None:
        _grow_postgres(url, times)
    else:
        _grow_sqlite(str(path), times)


def _grow_sqlite(path: str, times: int) -> None:
    numbers = f"WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {times})"  # noqa: S608
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("BEGIN IMMEDIATE")
        for statement in _copies(numbers):
            connection.execute(statement)
        connection.execute("COMMIT")


def _grow_postgres(url: str, times: int) -> None:
    numbers = f"WITH n (n) AS (SELECT generate_series(1, {times}::bigint))"
    with psycopg.connect(url, autocommit=True) as connection:
        # Without foreign keys and triggers: some copies come before what they refer to.
        connection.execute("SET session_replication_role = replica")
        for statement in _copies(numbers):
            connection.execute(statement.encode())
        for table in _counted():
            highest = f"SELECT setval(pg_get_serial_sequence('{table}', 'seq'), max(seq)) FROM {table}"  # noqa: S608
            connection.execute(highest.encode())
        connection.execute("VACUUM ANALYZE")


def _copies(numbers: str) -> Iterator[str]:
    mark = f"'-{next(_marks)}-'"
    for name in sorted(GROWING):
        names = [column.name for column in tables.metadata.tables[name].columns]
        values = ", ".join(_value(name, column, mark) for column in names)
        where = _SKIPPED.get(name, "1 = 1")
        chosen = f"{numbers} SELECT {values} FROM {name} t, n WHERE {where}"  # noqa: S608 - only our own names.
        yield f"INSERT INTO {name} ({', '.join(names)}) {chosen}"
    yield "UPDATE deliveries SET due_at = NULL WHERE state <> 'waiting'"
    yield "UPDATE inbox SET due_at = NULL WHERE state NOT IN ('recorded', 'parked')"
    yield "UPDATE endpoints SET handed_out = (SELECT max(seq) FROM outbox)"


def _counted() -> list[str]:
    """The tables whose rows the database numbers."""
    return [name for name, table in tables.metadata.tables.items() if table.primary_key.columns.keys() == ["seq"]]


def _value(table: str, column: str, mark: str) -> str:
    kind = tables.metadata.tables[table].columns[column].type
    here = f"t.{column}"
    if (table, column) in _ENDED:
        before, after = _ENDED[table, column]
        return f"CASE {here} WHEN '{before}' THEN '{after}' ELSE {here} END"
    if table == "rate_limits" and column == "key":
        # In front of the name of whom it counts, for it is another one.
        return f"substr({here}, 1, 6) || {mark} || n || substr({here}, 6)"
    if column == "subject":
        # Of what is done to an order there is no more in an old shop, of what is done to a product there is.
        return f"CASE WHEN substr({here}, 1, 4) IN ('ord_', 'pay_') THEN {here} || {mark} || n ELSE {here} END"
    if isinstance(kind, Text) and (column in _NEW_ID or (table == "sessions" and column == "user_id")):
        return f"{here} || {mark} || n"
    if column == "seq":
        # Behind all that is there, and the same of an event in both tables that number events.
        owner = "outbox" if table == "deliveries" else table
        return f"{here} + (SELECT max(seq) FROM {owner}) * n"  # noqa: S608
    if not isinstance(kind, BigInteger):
        return here
    return _moment(table, column)


def _moment(table: str, column: str) -> str:
    if column == "due_at":
        return f"t.due_at + {_YEAR} + n"
    if column == "expires_at" and table in {"sessions", "rate_limits", "holds", "reservations"}:
        return f"t.expires_at + {_YEAR} + n"
    return f"t.{column} - {60 * _SECOND} * n" if column.endswith("_at") else f"t.{column}"
