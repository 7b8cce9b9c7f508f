"""SQLAlchemy's statements inside paidonce's transactions: a shop writes its `Store` with the models that it has.

    row = await fetch_one(tx, select(Order.id, Order.status).where(Order.id == 7), lock=True)
    await execute(tx, update(Order).where(Order.id == 7).values(status="paid"))

It takes Core statements, also those made from declarative models. A `Session` belongs to another connection, so what
it writes would not be part of the transaction. Lock rows by `lock=True` and not by `with_for_update()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Dialect, Insert, Select, UpdateBase
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from paidonce.ports import Row, Transaction


async def fetch_one(tx: Transaction, statement: Select[*tuple[Any, ...]], *, lock: bool = False) -> Row | None:
    """The first row by the names of its columns, or None. See `Transaction.fetch_one`."""
    sql, params = _text(tx, statement)
    row = await tx.fetch_one(sql, params, lock=lock)
    return None if row is None else _read(tx, statement, row)


async def fetch_all(tx: Transaction, statement: Select[*tuple[Any, ...]], *, lock: bool = False) -> Sequence[Row]:
    """All rows by the names of their columns. See `Transaction.fetch_all`."""
    sql, params = _text(tx, statement)
    return [_read(tx, statement, row) for row in await tx.fetch_all(sql, params, lock=lock)]


async def execute(tx: Transaction, statement: UpdateBase) -> int:
    """Insert, update or delete; returns how many rows that changed. See `Transaction.execute`."""
    sql, params = _text(tx, statement)
    return await tx.execute(sql, params)


@cache
def _dialect(name: str) -> Dialect:
    made: Dialect = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}[name](paramstyle="named")
    return made


def _text(tx: Transaction, statement: Select[*tuple[Any, ...]] | UpdateBase) -> tuple[str, Mapping[str, Any]]:
    """The statement as text with `:name` parameters, and their values as the database takes them."""
    if isinstance(statement, Insert):
        # Keys that the database makes are not asked for: whoever needs one selects it.
        statement = statement.inline()
    compiled = statement.compile(dialect=_dialect(tx.dialect))
    assert isinstance(compiled, SQLCompiler)
    # Lists are written out, since each of their values is a parameter of its own.
    state = compiled.construct_expanded_state(escape_names=False)
    values = {name: _written(state.processors, name, value) for name, value in state.parameters.items()}
    return state.statement, values


def _written(processors: Mapping[str, Any], name: str, value: Any) -> Any:
    process = processors.get(name)
    return value if process is None else process(value)


def _read(tx: Transaction, statement: Select[*tuple[Any, ...]], row: Row) -> Row:
    """The row with values as the columns' types give them: a moment instead of SQLite's text, say."""
    read = dict(row)
    for column in statement.selected_columns:
        process = column.type.dialect_impl(_dialect(tx.dialect)).result_processor(_dialect(tx.dialect), None)
        if process is not None and column.name in read:
            read[column.name] = process(read[column.name])
    return read
