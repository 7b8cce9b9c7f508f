"""What the databases say of our statements: their plans, and how much they read.

A statement may read as much as one order, one buyer or one page needs. It may not read a table that grows with every
order from one end to the other: neither the table itself, nor an index of it without a condition, since both get slower
for as long as the shop lives.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from sqlalchemy import PrimaryKeyConstraint, Table, UniqueConstraint

from paidonce.db import tables
from paidonce.db.postgres import PostgresTransaction
from paidonce.db.sql import locking, numbered, parse
from paidonce.db.sqlite import SqliteTransaction
from paidonce.ports import Params

# The worker asks for each gateway's work in turn, and for some there is none.
_RUNS = 5
# Everything that a shop gets more of. What is left is as large as the catalogue and the list of who is told.
SMALL = frozenset({"products", "stock", "endpoints"})
GROWING = frozenset(tables.metadata.tables) - SMALL


@dataclass(frozen=True)
class Statement:
    """What a driver was asked to run."""

    sql: str
    locks: bool = False
    skips: bool = False

    @property
    def numbered(self) -> str:
        """As PostgreSQL gets it."""
        text = parse(self.sql).numbered
        return locking(text, skip_locked=self.skips) if self.locks else text


@dataclass
class Record:
    """All statements that ran, each with the parameters of its first runs, and with SQLite's steps of its longest."""

    params: dict[Statement, list[Params]] = field(default_factory=dict)
    steps: dict[Statement, int] = field(default_factory=dict)

    def add(self, statement: Statement, params: Params, steps: int = 0) -> None:
        """One more run."""
        runs = self.params.setdefault(statement, [])
        if len(runs) < _RUNS:
            runs.append(dict(params))
        self.steps[statement] = max(self.steps.get(statement, 0), steps)

    def clear(self) -> None:
        """Begin anew."""
        self.params.clear()
        self.steps.clear()


def record(patch: pytest.MonkeyPatch) -> Record:
    """Have both drivers tell what they run, for as long as `patch` lasts."""
    found = Record()
    for driver in (SqliteTransaction, PostgresTransaction):
        for name in ("fetch_one", "fetch_all", "execute", "execute_many", "execute_later"):
            if hasattr(driver, name):
                patch.setattr(driver, name, _told(found, getattr(driver, name)))
    return found


def _told(found: Record, method: Any) -> Any:
    async def run(tx: Any, sql: str, params: Any = None, **options: bool) -> Any:
        if params == []:
            return await method(tx, sql, params, **options)
        statement = Statement(sql, options.get("lock", False), options.get("skip_locked", False))
        several = params if isinstance(params, list) else [params or {}]
        if not isinstance(tx, SqliteTransaction):
            found.add(statement, several[0])
            return await method(tx, sql, params, **options)
        with _steps(tx._connection) as taken:
            try:
                return await method(tx, sql, params, **options)
            finally:
                found.add(statement, several[0], len(taken) // len(several))

    return run


# They hold only what is still to be done, so they stay as small as that.
_OF_WHAT_IS_OPEN = frozenset(
    str(index.name)
    for table in tables.metadata.tables.values()
    for index in table.indexes
    if index.dialect_options["sqlite"]["where"] is not None and not str(index.name).endswith("due_at")
)

# ── Plans of SQLite ──────────

# A page of 100 orders with their lines takes a few thousand; the tables of the test have many more rows.
MOST_STEPS = 8000


def sqlite_problems(connection: sqlite3.Connection, statement: Statement, params: Params) -> Iterator[str]:
    """What is wrong with the plan, in SQLite's own words."""
    plan = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", dict(params)).fetchall()
    # What is sorted stands beside its sorting, below the same query; sorting what has one date is none.
    sorted_below = {below for _, below, _, text in plan if re.search("TEMP B-TREE FOR (ORDER|DISTINCT|GROUP)", text)}
    names = _aliases(statement.sql)
    for _, below, _, text in plan:
        scanned = re.match(r"SCAN (?:TABLE )?(\w+)(?: USING (?:COVERING )?INDEX (\w+))?", text)
        if scanned is None or names.get(scanned[1]) not in GROWING or scanned[2] in _OF_WHAT_IS_OPEN:
            continue
        # The first few in the order of an index are as near in a large table as in a small one.
        if not (scanned[2] and below not in sorted_below and "LIMIT" in statement.sql):
            yield str(text)
    if statement.sql.lstrip().startswith("SELECT"):
        steps = _count_steps(connection, statement, params)
        if steps > MOST_STEPS:
            yield f"{steps} steps"


def _count_steps(connection: sqlite3.Connection, statement: Statement, params: Params) -> int:
    with _steps(connection) as taken:
        connection.execute(statement.sql, dict(params)).fetchall()
    return len(taken)


@contextmanager
def _steps(connection: sqlite3.Connection) -> Iterator[list[None]]:
    """One entry for each instruction of SQLite's machine, those of triggers and foreign keys too."""
    taken: list[None] = []
    # What `append` returns lets the statement go on.
    connection.set_progress_handler(lambda: taken.append(None), 1)
    try:
        yield taken
    finally:
        connection.set_progress_handler(None, 0)


def _aliases(sql: str) -> Mapping[str, str]:
    found = re.findall(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(\w+)(?:\s+(?:AS\s+)?(\w+))?", sql)
    return {alias: table for table, alias in found if alias} | {table: table for table, _ in found}


# ── Plans of PostgreSQL ──────────

# For so many runs a statement is planned for its values, then perhaps once for all values.
_PLANNED_EACH = 5
# A page of 100 orders with their lines is the most that anybody asks for.
MOST_ROWS = 1000
_WANT_ALL = frozenset({"Sort", "Hash", "Aggregate", "Unique", "Bitmap Heap Scan"})


def postgres_problems(connection: psycopg.Connection[Any], statement: Statement, params: Params) -> Iterator[str]:
    """What is wrong with the plans that PostgreSQL makes one after the other, and with what it reads by the last."""
    values = [psycopg.sql.Literal(value) for value in numbered(statement.sql, params)]
    listed = psycopg.sql.SQL("({})" if values else "").format(psycopg.sql.SQL(", ").join(values))
    # What writes would have to find everything as it was before it wrote.
    counts = "ANALYZE, " if statement.sql.lstrip().startswith("SELECT") else ""
    explain = psycopg.sql.SQL("EXPLAIN (" + counts + "FORMAT JSON) EXECUTE one ") + listed
    found: dict[str, None] = {}
    with connection.transaction(force_rollback=True):
        connection.execute("DEALLOCATE ALL")
        # A disk without moving parts, as servers have by now.
        connection.execute("SET LOCAL random_page_cost = 1.1")
        connection.execute(f"PREPARE one AS {statement.numbered}".encode())
        for _ in range(_PLANNED_EACH + 2):
            with connection.transaction(force_rollback=True):
                row = connection.execute(explain).fetchone()
            assert row is not None
            found |= dict.fromkeys(_judge(row[0][0]["Plan"], limited=False))
    yield from found


def _judge(node: Mapping[str, Any], *, limited: bool) -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name")
    # Under a limit the first few of an index are enough, unless somebody between wants them all.
    limited = kind == "Limit" or (limited and kind not in _WANT_ALL)
    index, used = node.get("Index Name"), "Index Cond" in node
    if kind == "Seq Scan" and table in GROWING:
        yield f"{kind} on {table}"
    whole = index is not None and not used and index not in _OF_WHAT_IS_OPEN and table in GROWING
    if whole and (not limited or "Filter" in node):
        yield f"{kind} of all of {index}"
    if table in GROWING and (rows := _rows(node)) > MOST_ROWS:
        yield f"{kind} of {rows} rows of {table}"
    for child in node.get("Plans", ()):
        yield from _judge(child, limited=limited)


def _rows(node: Mapping[str, Any]) -> int:
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return int(sum(node.get(name, 0) for name in names) * node.get("Actual Loops", 1))


# ── Foreign keys ──────────


def unindexed_children(parents: Iterable[str]) -> list[str]:
    """Foreign keys to `parents` whose column begins no index: to delete a parent row reads the whole child table."""
    return [
        f"{table.name}.{column.name}"
        for table in tables.metadata.tables.values()
        for column in table.columns
        for key in column.foreign_keys
        if key.column.table.name in parents and column.name not in _first_columns(table)
    ]


def _first_columns(table: Table[Any]) -> set[str]:
    keys = [one for one in table.constraints if isinstance(one, PrimaryKeyConstraint | UniqueConstraint)]
    whole = [one for one in table.indexes if one.dialect_options["sqlite"]["where"] is None]
    return {one.columns[0].name for one in (*keys, *whole)}
