"""Django's own connection: our transaction is the host's, so its ORM may be used in it and commits or fails with us.

`DjangoDatabase` runs on the caller's thread and never suspends: whoever drives the core by a single `send` is not kept
waiting by it. `ThreadedDatabase` hands the same transactions to a few threads, for a worker on an event loop.

Promises:

- A transaction is never a part of one that the host has open (`ATOMIC_REQUESTS`, a view in `atomic()`): the core
  would take for committed what the host may still roll back, and would call gateways meanwhile. It is refused.
- What the host's code hides does not count as done: a failed statement that it swallowed, a roll-back that it asked
  for. Whether COMMIT happened is known from Django's own hook for that, not concluded.
- On SQLite a transaction takes the write lock at its BEGIN, so that two processes can't both hold a snapshot and wait
  for each other; the threads of one process queue for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, Literal, NoReturn, ParamSpec, TypeVar

from django.db import connections
from django.db.transaction import atomic
from django.db.utils import Error as DjangoError
from django.db.utils import InterfaceError, OperationalError

from paidonce.db.driving import Usable, WroteInsideRead, run_at_once
from paidonce.db.sql import locking, named, pyformat
from paidonce.db.sqlite import translate as translate_sqlite
from paidonce.errors import CommitUnknown, ConfigError, Conflict, DatabaseDown
from paidonce.ports import GatewayCallInsideTransaction, Params, Row, Transaction, assert_outside_transaction

P = ParamSpec("P")
T = TypeVar("T")

# How often a transaction is run again on 40001 and 40P01, and the longest pause in between (it doubles up to there).
RUNS = 10
_chance = random.Random()  # noqa: S311
FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.25
# How long a thread waits for its turn to write on SQLite.
QUEUE_SECONDS = 15.0
THREADS = 8

_WRITE = "READ COMMITTED READ WRITE"
_READ = "REPEATABLE READ READ ONLY"
# In libpq, and so in psycopg: a statement has failed, and COMMIT would roll back without a word.
_IN_ERROR = 3

_COLLISIONS = frozenset({"40001", "40P01"})
# Classes of SQLSTATE: connection, resources, operator, system, internal; and a transaction that was idle too long.
_DOWN = ("08", "53", "57", "58", "XX", "25P03")
_READ_ONLY = "25006"
# A trigger that refuses (the journal is append-only) raises P0001; on SQLite the same is a broken constraint.
_CONFLICTS = ("23", "P0001")
_HINT = "check that the database server of Django's DATABASES runs, accepts connections and has free disk space"
_ROLLED_BACK_BY_THE_SHOP = (
    "the shop's own code rolled the transaction back (transaction.set_rollback(), or an error of the database that it"
    " caught without a savepoint around it); nothing of it was kept"
)

log = logging.getLogger("paidonce.database")


class InsideHostTransaction(GatewayCallInsideTransaction):
    """The host has a transaction open on this connection: a bug in the caller, and the message says how to mend it."""

    def __init__(self, alias: str) -> None:
        super().__init__(
            f"paidonce was called while Django has a transaction open on the database {alias!r}. It commits by itself"
            " before and after each call to a gateway, so the caller must not hold one: mark the view with"
            " django.db.transaction.non_atomic_requests where ATOMIC_REQUESTS is on, leave the atomic() block before"
            " the call, and use TransactionTestCase instead of TestCase in tests"
        )


class _Collision(DatabaseDown):
    """PostgreSQL rolled back one of two transactions that got in each other's way; run it again."""


class DjangoTransaction(Usable):
    """One open transaction on this thread's connection. Its methods never suspend. See `ports.Transaction`."""

    def __init__(self, connection: Any, *, writable: bool) -> None:
        super().__init__()
        self._connection = connection
        self.writable = writable
        # SQLite has one writer, and no words for row locks.
        self._locks = connection.vendor == "postgresql"
        self.dialect: Literal["sqlite", "postgresql"] = connection.vendor

    async def fetch_one(self, sql: str, params: Params | None = None, *, lock: bool = False) -> Row | None:
        """The first row or None; `lock` appends FOR UPDATE on PostgreSQL."""
        return self._run(self._text(sql, lock), params, _first)

    async def fetch_all(
        self, sql: str, params: Params | None = None, *, lock: bool = False, skip_locked: bool = False
    ) -> Sequence[Row]:
        """All rows; `lock` appends FOR UPDATE on PostgreSQL, with `skip_locked` SKIP LOCKED as well."""
        return self._run(self._text(sql, lock, skip_locked), params, _all)

    async def execute(self, sql: str, params: Params | None = None) -> int:
        """Run a statement that writes; returns how many rows it changed. Raises `Conflict`."""
        return self._run(sql, params, _count)

    async def execute_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Run one statement once per row of parameters. Raises `Conflict`."""
        values = [_plain(named(sql, row)) for row in rows]
        self.check()
        if not values:
            return
        try:
            with self._connection.cursor() as cursor:
                cursor.executemany(pyformat(sql), values)
        except DjangoError as error:
            self._fail(error)

    def watch(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        """Django's execute wrapper: sees every statement, also the ORM's, and remembers which one failed.

        What fails inside a savepoint of the host's own is undone with it, and is the host's business.
        """
        try:
            return execute(sql, params, many, context)
        except DjangoError as error:
            # atomic(savepoint=False), as the ORM itself uses it, leaves None there.
            if not any(self._connection.savepoint_ids):
                self.failure = self.failure or _translate(error, self._connection, writable=self.writable)
            raise

    def _text(self, sql: str, lock: bool, skip_locked: bool = False) -> str:
        return locking(sql, skip_locked=skip_locked) if lock and self._locks else sql

    def _run(self, sql: str, params: Params | None, take: Callable[[Any], T]) -> T:
        values = _plain(named(sql, params))
        self.check()
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(pyformat(sql), values)
                return take(cursor)
        except DjangoError as error:
            self._fail(error)

    def _fail(self, error: DjangoError) -> NoReturn:
        self.failure = _translate(error, self._connection, writable=self.writable)
        if self.failure is error:
            raise error
        # A conflict's cause would carry the row's values (PostgreSQL's DETAIL), and those belong in no log.
        raise self.failure from (None if isinstance(self.failure, Conflict) else error)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Booleans as the integers that our columns hold; psycopg would send them as booleans."""
    return {name: int(value) if isinstance(value, bool) else value for name, value in values.items()}


def _first(cursor: Any) -> Row | None:
    row = cursor.fetchone()
    return None if row is None else dict(zip(_columns(cursor), row, strict=True))


def _all(cursor: Any) -> Sequence[Row]:
    columns = _columns(cursor)
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def _count(cursor: Any) -> int:
    if cursor.description:
        # A RETURNING clause counts only the rows that were fetched.
        cursor.fetchall()
    return max(int(cursor.rowcount), 0)


def _columns(cursor: Any) -> list[str]:
    return [column[0] for column in cursor.description or ()]


@dataclass(slots=True)
class _Outcome(Generic[T]):
    """How far a transaction came. `result` counts once it is committed."""

    result: T | None = None
    ran: bool = False
    committed: bool = False


class DjangoDatabase:
    """`ports.Database` on the connection that Django has for `alias` in the calling thread."""

    def __init__(self, alias: str = "default") -> None:
        """Raises `ConfigError` for a database that is neither SQLite nor PostgreSQL."""
        self.alias = alias
        vendor = connections[alias].vendor
        if vendor not in ("sqlite", "postgresql"):
            raise ConfigError(
                [
                    f"DATABASES[{alias!r}] is {vendor}; paidonce works on PostgreSQL and SQLite. Name one of these in"
                    " PAIDONCE['DATABASE']; the shop's orders and stock have to be in it as well."
                ]
            )
        self.dialect: Literal["sqlite", "postgresql"] = vendor
        # Django gives each thread a connection of its own. One thread at a time writes, and the others wait in line
        # instead of polling SQLite's lock, which knows no order. Reentrant, since a hook of the host may come back.
        self._turn = threading.RLock()

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(tx, …)` and commit, without suspending. Raises `InsideHostTransaction` as well."""
        return self.transaction_now(fn, *args, **kwargs)

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(tx, …)` on the snapshot of its first statement, without suspending.

        Raises `WroteInsideRead`, and `InsideHostTransaction` as well.
        """
        return self.read_now(fn, *args, **kwargs)

    async def close(self) -> None:
        """Close this thread's connection. Django opens another one when it is needed again."""
        connections[self.alias].close()

    def transaction_now(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """`transaction` for callers without a coroutine."""
        assert_outside_transaction("a transaction was started")
        return _until_no_collision(lambda: self._write(lambda tx: fn(tx, *args, **kwargs)))

    def read_now(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """`read` for callers without a coroutine."""
        assert_outside_transaction("a read was started")
        return _until_no_collision(lambda: self._read(lambda tx: fn(tx, *args, **kwargs)))

    def _write(self, fn: Callable[[Transaction], Coroutine[Any, Any, T]]) -> T:
        connection = self._connection()
        tx, outcome = DjangoTransaction(connection, writable=True), _Outcome[T]()
        try:
            with self._queued(connection) as leave_queue, self._begun(connection, "IMMEDIATE", _WRITE):

                def committed() -> None:
                    # The host's own hooks run after this one, and keep no other writer waiting.
                    outcome.committed = True
                    leave_queue()

                connection.on_commit(committed)
                outcome.result = _run(tx, fn, connection)
                outcome.ran = True
        except Exception as error:
            if not outcome.committed:
                _raise_failure(tx, error, connection, at_commit=outcome.ran)
            # What is settled is settled: nobody may take a failed e-mail of the host for a failed payment.
            log.exception("a hook that the shop gave to transaction.on_commit() failed, after the commit")
        if not outcome.committed:
            raise tx.failure or DatabaseDown(_ROLLED_BACK_BY_THE_SHOP)
        return outcome.result  # type: ignore[return-value]  # It ran, since it is committed.

    def _read(self, fn: Callable[[Transaction], Coroutine[Any, Any, T]]) -> T:
        connection = self._connection()
        tx = DjangoTransaction(connection, writable=False)
        try:
            with _query_only(connection), self._begun(connection, None, _READ):
                return _run(tx, fn, connection)
        except Exception as error:
            _raise_failure(tx, error, connection, at_commit=False)

    def _connection(self) -> Any:
        """This thread's connection, outside any transaction, and replaced if it had broken."""
        connection = connections[self.alias]
        if connection.in_atomic_block:
            raise InsideHostTransaction(self.alias)
        try:
            if connection.connection is not None and connection.errors_occurred:
                connection.close_if_unusable_or_obsolete()
            connection.ensure_connection()
        except DjangoError as error:
            raise DatabaseDown(f"{_words(error)}; {_HINT}") from error
        if not connection.get_autocommit():
            raise InsideHostTransaction(self.alias)
        return connection

    @contextmanager
    def _begun(self, connection: Any, sqlite_mode: str | None, level: str) -> Iterator[None]:
        """A transaction, by Django's own means, so that the host's ORM knows of it."""
        with ExitStack() as stack:
            if self.dialect == "postgresql":
                stack.enter_context(atomic(using=self.alias, durable=True))
                with connection.cursor() as cursor:
                    # The host may have chosen another level for its own transactions, where ours would fail or block.
                    cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            else:
                host_mode, connection.transaction_mode = connection.transaction_mode, sqlite_mode
                try:
                    stack.enter_context(atomic(using=self.alias, durable=True))
                finally:
                    connection.transaction_mode = host_mode
            yield

    @contextmanager
    def _queued(self, connection: Any) -> Iterator[Callable[[], None]]:
        """On SQLite: this thread's turn to write. What it yields ends the turn before the block does."""
        if self.dialect == "postgresql":
            yield lambda: None
            return
        if not self._turn.acquire(timeout=QUEUE_SECONDS):
            raise DatabaseDown(f"busy: other threads of this process held SQLite's write lock for {QUEUE_SECONDS:g} s")
        with ExitStack() as turn:
            turn.callback(self._turn.release)
            yield turn.close


def _until_no_collision(once: Callable[[], T]) -> T:
    pause = FIRST_PAUSE_SECONDS
    for _ in range(RUNS - 1):
        try:
            return once()
        except _Collision:
            time.sleep(_chance.uniform(pause / 2, pause))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
    return once()


def _run(tx: DjangoTransaction, fn: Callable[[Transaction], Coroutine[Any, Any, T]], connection: Any) -> T:
    with connection.execute_wrapper(tx.watch):
        result = run_at_once(tx, fn)
    if connection.vendor == "postgresql" and connection.connection.info.transaction_status == _IN_ERROR:
        raise DatabaseDown(_ROLLED_BACK_BY_THE_SHOP)
    return result


def _raise_failure(tx: DjangoTransaction, error: Exception, connection: Any, *, at_commit: bool) -> NoReturn:
    if isinstance(tx.failure, _Collision):
        # Whatever the function made of a collision, the transaction has to be run again.
        raise tx.failure from None
    if not isinstance(error, DjangoError):
        raise error
    known = _translate(error, connection, writable=tx.writable)
    if at_commit and not isinstance(known, _Collision | Conflict):
        raise CommitUnknown(f"the database failed at COMMIT: {_words(error)}; {_HINT}") from error
    if known is error:
        raise error
    raise known from (None if isinstance(known, Conflict) else error)


@contextmanager
def _query_only(connection: Any) -> Iterator[None]:
    """On SQLite: nothing can be written, neither by us nor by the ORM. PostgreSQL's READ ONLY does the same."""
    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        # A connection that the function closed forgot the setting.
        with suppress(DjangoError), connection.cursor() as cursor:
            cursor.execute("PRAGMA query_only = OFF")


def _translate(error: DjangoError, connection: Any, *, writable: bool) -> Exception:
    """The error that callers know; what is nobody's but the programmer's stays as it is."""
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        known = translate_sqlite(cause, writable=writable)
        return error if known is cause else known
    code = str(getattr(cause, "sqlstate", None) or "")
    if code in _COLLISIONS:
        return _Collision(f"still collided after {RUNS} runs: {_words(error)}")
    if code.startswith(_CONFLICTS):
        return Conflict(_words(error))
    if code == _READ_ONLY and not writable:
        return WroteInsideRead("a function given to read() tried to write; give it to transaction()")
    if code == _READ_ONLY or code.startswith(_DOWN) or _is_gone(error, code):
        return DatabaseDown(f"{_words(error)}; {_HINT}")
    return error  # type: ignore[no-any-return]  # Django has no types.


def _is_gone(error: DjangoError, code: str) -> bool:
    """A connection that is lost says so without a code of the server's."""
    return not code and isinstance(error, OperationalError | InterfaceError)


def _words(error: DjangoError) -> str:
    """What happened, without DETAIL and HINT lines, which may carry a row's values."""
    primary = getattr(getattr(error.__cause__, "diag", None), "message_primary", None)
    return str(primary or error).strip().partition("\n")[0]


class ThreadedDatabase:
    """`ports.Database` for an event loop: each transaction runs whole in one of a few threads, on Django's connection.

    A transaction that has begun completes, also if the task that awaits it is canceled.
    """

    def __init__(self, alias: str = "default", *, threads: int = THREADS) -> None:
        """Raises `ConfigError` like `DjangoDatabase`."""
        self._inner = DjangoDatabase(alias)
        self.dialect: Literal["sqlite", "postgresql"] = self._inner.dialect
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="paidonce-database")

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `DjangoDatabase.transaction`."""
        assert_outside_transaction("a transaction was started")
        return await self._apart(lambda: self._inner.transaction_now(fn, *args, **kwargs))

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `DjangoDatabase.read`."""
        assert_outside_transaction("a read was started")
        return await self._apart(lambda: self._inner.read_now(fn, *args, **kwargs))

    async def close(self) -> None:
        """Finish what is queued, close the connections of the threads, and end them. Repeating it does nothing."""
        everybody = threading.Barrier(self._threads)

        def leave() -> None:
            # Each thread has to close its own connection, so none may take the task of another.
            everybody.wait(QUEUE_SECONDS)
            connections[self._inner.alias].close()

        with suppress(RuntimeError):
            leaving = [self._pool.submit(leave) for _ in range(self._threads)]
            await asyncio.gather(*map(asyncio.wrap_future, leaving))
        self._pool.shutdown()

    async def _apart(self, work: Callable[[], T]) -> T:
        try:
            future = self._pool.submit(copy_context().run, work)
        except RuntimeError:
            raise DatabaseDown("the database was closed by this process") from None
        return await asyncio.wrap_future(future)
