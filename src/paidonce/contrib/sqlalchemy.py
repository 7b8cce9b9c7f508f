"""SQLAlchemy's statements inside paidonce's transactions: a shop writes its `Store` with the models that it has.

    row = await fetch_one(tx, select(Order.id, Order.status).where(Order.id == 7), lock=True)
    await execute(tx, update(Order).where(Order.id == 7).values(status="paid"))

It takes Core statements, also those made from declarative models. A `Session` belongs to another connection, so what
it writes would not be part of the transaction. Lock rows by `lock=True` and not by `with_for_update()`.

Values pass through the types of their columns, and `default=` and `onupdate=` are filled in, both as a `Session` does
it. Only functions that look at the other values (`context.get_current_parameters()`) are refused, with `TypeError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from sqlalchemy import JSON, Dialect, Float, Insert, Numeric, Select, UpdateBase
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from paidonce.ports import Row, Transaction


async def fetch_one(tx: Transaction, statement: Select[*tuple[Any, ...]], *, lock: bool = False) -> Row | None:
    """The first row by the names of its columns, or None. See `Transaction.fetch_one`."""
    compiled = _compile(tx, statement)
    sql, params = _text(compiled)
    row = await tx.fetch_one(sql, params, lock=lock)
    return None if row is None else _read(compiled, [row])[0]


async def fetch_all(tx: Transaction, statement: Select[*tuple[Any, ...]], *, lock: bool = False) -> Sequence[Row]:
    """All rows by the names of their columns. See `Transaction.fetch_all`."""
    compiled = _compile(tx, statement)
    sql, params = _text(compiled)
    return _read(compiled, await tx.fetch_all(sql, params, lock=lock))


async def execute(tx: Transaction, statement: UpdateBase) -> int:
    """Insert, update or delete; returns how many rows that changed. See `Transaction.execute`.

    Raises `TypeError` for a column whose default can't be made without a `Session`.
    """
    sql, params = _text(_compile(tx, statement))
    return await tx.execute(sql, params)


# ── Statements ──────────


class _Numeric(Numeric[Any]):
    render_bind_cast = True


class _Float(Float[Any]):
    render_bind_cast = True


class _Postgresql(PGDialect_asyncpg):
    """The dialect of our driver, with types that don't rely on what SQLAlchemy sets up on connections of its own."""

    supports_statement_cache = True
    supports_native_json_deserialization = False
    colspecs = {  # noqa: RUF012 - as SQLAlchemy declares it.
        **PGDialect_asyncpg.colspecs,
        Numeric: _Numeric,
        Float: _Float,
        JSON: postgresql.JSON,
        postgresql.JSON: postgresql.JSON,
        postgresql.JSONB: postgresql.JSONB,
    }


@cache
def _dialect(name: str) -> Dialect:
    if name == "postgresql":
        driver: Any = _Postgresql
        found: Dialect = driver(paramstyle="named", dbapi=driver.import_dbapi())
    else:
        found = sqlite.dialect(paramstyle="named")
    return found


def _compile(tx: Transaction, statement: Select[*tuple[Any, ...]] | UpdateBase) -> SQLCompiler:
    if isinstance(statement, Insert):
        # Keys that the database makes are not asked for: whoever needs one selects it.
        statement = statement.inline()
    compiled = statement.compile(dialect=_dialect(tx.dialect))
    assert isinstance(compiled, SQLCompiler)
    return compiled


def _text(compiled: SQLCompiler) -> tuple[str, Mapping[str, Any]]:
    """The statement as text with `:name` parameters, and their values as the database takes them."""
    # Lists are written out, since each of their values is a parameter of its own.
    state = compiled.construct_expanded_state(dict(_defaults(compiled)), escape_names=False)
    processors = {name: _writer(bind.type, compiled.dialect) for bind, name in compiled.bind_names.items()}
    # The parameters that lists were written out to come from here alone.
    processors |= state.processors
    written = {name: _processed(processors.get(name), value) for name, value in state.parameters.items()}
    return state.statement, {_in_text(compiled, name): value for name, value in written.items()}


def _in_text(compiled: SQLCompiler, name: str) -> str:
    """The parameter's name as the text has it: a column's name may hold spaces."""
    named = compiled.escaped_bind_names.get(name, name)
    if not named.isidentifier():
        raise TypeError(f"{name!r} can't name a parameter; give its column a key of letters: Column({name!r}, key=…)")
    return named


def _writer(kind: TypeEngine[Any], dialect: Dialect) -> Any:
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _processed(process: Any, value: Any) -> Any:
    return value if process is None else process(value)


# ── Defaults that Python makes ──────────


def _defaults(compiled: SQLCompiler) -> Iterator[tuple[str, Any]]:
    """What the statement leaves to `default=` or `onupdate=`, by parameter. Raises `TypeError`."""
    for column in compiled.insert_prefetch:
        yield column.key, _made(column, column.default)
    for column in compiled.update_prefetch:
        yield column.key, _made(column, column.onupdate)


def _made(column: Any, default: Any) -> Any:
    if default.is_scalar:
        return default.arg
    if default.is_callable:
        # SQLAlchemy wraps functions, so that each takes the context, also if the shop's own takes nothing.
        return default.arg(_NoContext(column))
    raise _unmakeable(column)


class _NoContext:
    """Stands where SQLAlchemy hands its execution context to a default's function; there is none here."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __getattr__(self, name: str) -> NoReturn:
        raise _unmakeable(self._column)


def _unmakeable(column: Any) -> TypeError:
    # In an INSERT of several rows, the later ones have stand-ins for their columns.
    column = getattr(column, "original", column)
    return TypeError(
        f"the default of column {column} needs SQLAlchemy's execution context, which does not exist inside paidonce's"
        f" transactions; give the value in the statement: .values({column.key}=…)"
    )


# ── Rows ──────────


def _read(compiled: SQLCompiler, rows: Sequence[Row]) -> list[Row]:
    """The rows with values as the columns' types give them: a moment instead of SQLite's text, say."""
    # The compiler alone knows what each column is called in the answer: a function's, or the second of the same name.
    readers = {column.keyname: _reader(column.type, compiled.dialect) for column in compiled._result_columns}
    return [{name: _processed(readers.get(name), value) for name, value in row.items()} for row in rows]


def _reader(kind: TypeEngine[Any], dialect: Dialect) -> Any:
    return kind.dialect_impl(dialect).result_processor(dialect, None)
