"""SQLite: one writer thread whose waiting transactions share a COMMIT, and reader threads beside it.

Why a thread of its own: a transaction runs whole, without the event loop in between, so that nobody else's statements
can slip into it. Why groups: a durable COMMIT costs an fsync, and 64 waiting transactions need only one.

Promises:

- Nobody hears anything before the physical COMMIT of the group (`synchronous=FULL`): neither a result nor an
  exception, because a member's "sold out" may rest on what an earlier member of the same group wrote.
- A member that raises loses its own savepoint only. If the COMMIT fails, every member hears `CommitUnknown`. If the
  group breaks before its COMMIT (disk full, I/O error), every member hears `DatabaseDown`.
- A transaction that was handed over completes, also if the task that awaits it is canceled.
- A saturated writer rests for a moment every few groups. SQLite's lock knows no queue, so that without a rest a second
  process may find it taken each time it looks.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from paidonce.db.driving import Usable, WroteInsideRead, run_at_once
from paidonce.db.sql import named
from paidonce.errors import CommitUnknown, Conflict, DatabaseDown
from paidonce.ports import Dialect, Params, Row, Transaction, assert_outside_transaction, is_at_a_glance

P = ParamSpec("P")
T = TypeVar("T")

GROUP_MEMBERS = 64
GROUP_SECONDS = 0.010
# How long a transaction waits for another process that holds the write lock.
PATIENCE_SECONDS = 5.0
# A process that waits looks about every millisecond, so three of them let it in.
POLL_SECONDS = (0.0005, 0.0015)
# Its own source: a thread that draws from the common one would change what others draw from their seeds.
_chance = random.Random()  # noqa: S311
TURN_SECONDS = 0.025
REST_SECONDS = 0.003
READER_THREADS = 4

_DOWN_CODES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
# SQLITE_CONSTRAINT_DATATYPE, which Python's sqlite3 module doesn't name.
_CONSTRAINT_DATATYPE = 3091
_BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_HINT = "check the disk's free space, the file's permissions and that no other program holds it"


class SqliteTransaction(Usable):
    """One open transaction on a thread's connection. Its methods never suspend. See `ports.Transaction`."""

    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection, *, writable: bool) -> None:
        super().__init__()
        self._connection = connection
        self._writable = writable

    async def fetch_one(self, sql: str, params: Params | None = None, *, lock: bool = False) -> Row | None:
        """The first row or None; `lock` has nothing to do here, since there is one writer."""
        return self._run(sql, params, _first)

    async def fetch_all(
        self, sql: str, params: Params | None = None, *, lock: bool = False, skip_locked: bool = False
    ) -> Sequence[Row]:
        """All rows."""
        return self._run(sql, params, _all)

    async def execute(self, sql: str, params: Params | None = None) -> int:
        """Run a statement that writes; returns how many rows it changed. Raises `Conflict`."""
        return self._run(sql, params, _count)

    async def execute_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Run one statement once per row of parameters. Raises `Conflict`."""
        values = [named(sql, row) for row in rows]
        self.check()
        try:
            self._connection.executemany(sql, values).close()
        except sqlite3.Error as error:
            self._fail(error)

    def _run(self, sql: str, params: Params | None, take: Callable[[sqlite3.Cursor], T]) -> T:
        # No context managers here: every statement passes, and they would cost more than the statement.
        self.check()
        try:
            cursor = self._connection.execute(sql, params or {})
            try:
                return take(cursor)
            finally:
                cursor.close()
        except sqlite3.Error as error:
            # A value that is missing has its own error, which this finds out.
            named(sql, params)
            self._fail(error)

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        self.failure = translate(error, writable=self._writable)
        if self.failure is error:
            raise error
        raise self.failure from error


def _first(cursor: sqlite3.Cursor) -> Row | None:
    row = cursor.fetchone()
    return None if row is None else dict(zip(_columns(cursor), row, strict=True))


def _all(cursor: sqlite3.Cursor) -> Sequence[Row]:
    columns = _columns(cursor)
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def _count(cursor: sqlite3.Cursor) -> int:
    # A RETURNING clause counts only the rows that were fetched.
    cursor.fetchall()
    return max(cursor.rowcount, 0)


@dataclass(slots=True, eq=False)
class _Job:
    """A transaction function on its way through a thread, and the future that somebody awaits."""

    call: Callable[[SqliteTransaction], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    context: Context = field(default_factory=copy_context)
    deadline: float = field(default_factory=lambda: time.monotonic() + PATIENCE_SECONDS)
    result: Any = None
    error: BaseException | None = None

    def run(self, tx: SqliteTransaction) -> None:
        """Run the function in its caller's context; keeps the result, raises what it raises."""
        self.result = self.context.run(self.call, tx)

    def deliver(self) -> None:
        """Tell whoever still awaits. Runs on the event loop."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class SqliteDatabase:
    """`ports.Database` on one SQLite file (WAL, `synchronous=FULL`, foreign keys on)."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._closing = threading.Lock()
        self._closed = False
        self._writes: SimpleQueue[_Job | None] = SimpleQueue()
        self._reads: SimpleQueue[_Job | None] = SimpleQueue()
        self._writer = _start("paidonce-writer", _Writer(path, connection, self._writes).serve)
        self._readers: list[threading.Thread] = []
        self._glance = _Glance(path)

    @classmethod
    async def open(cls, path: Path) -> SqliteDatabase:
        """Open the file, or create it for this user only (0600). Raises `DatabaseDown`."""
        return cls(path, await asyncio.to_thread(open_connection, path))

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(tx, …)` in the writer thread. It completes also if the awaiting task is canceled."""
        assert_outside_transaction("a transaction was started")
        return await self._submit(self._writes, lambda tx: run_at_once(tx, fn, *args, **kwargs))

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(tx, …)` on the snapshot of its first statement. Raises `WroteInsideRead`.

        It runs in a reader thread, or here and now if it bears the mark `ports.at_a_glance`.
        """
        assert_outside_transaction("a read was started")
        if is_at_a_glance(fn) and not self._closed:
            with suppress(_NotNow):
                return self._glance.read(lambda tx: run_at_once(tx, fn, *args, **kwargs))
        if not self._closed and len(self._readers) < READER_THREADS:
            self._readers.append(_start("paidonce-reader", _Reader(self._path, self._reads).serve))
        return await self._submit(self._reads, lambda tx: run_at_once(tx, fn, *args, **kwargs))

    async def close(self) -> None:
        """Finish what is queued, then end the threads and their connections. Repeating it does nothing."""
        with self._closing:
            self._closed = True
            self._reads.put(None)
        self._glance.close()
        try:
            for thread in self._readers:
                await asyncio.to_thread(thread.join)
        finally:
            # Only now: whoever closes last checkpoints, and readers may not write. A file that is copied after the shop
            # was shut down must hold everything.
            self._writes.put(None)
        await asyncio.to_thread(self._writer.join)

    async def _submit(self, queue: SimpleQueue[_Job | None], call: Callable[[SqliteTransaction], T]) -> T:
        loop = asyncio.get_running_loop()
        job = _Job(call, loop, loop.create_future())
        with self._closing:
            if self._closed:
                raise DatabaseDown("the database was closed by this process")
            queue.put(job)
        result: T = await job.future
        return result


class _Writer:
    """The thread that owns the only writing connection."""

    def __init__(self, path: Path, connection: sqlite3.Connection, queue: SimpleQueue[_Job | None]) -> None:
        self._path = path
        self._connection = connection
        self._queue = queue
        self._stopping = False
        self._broken = False
        self._turn_began = self._released = 0.0

    def serve(self) -> None:
        """Commit group after group until the queue says stop."""
        while not self._stopping:
            job = self._queue.get()
            if job is None:
                break
            self._serve_group(job)
        self._connection.close()

    def _serve_group(self, first: _Job) -> None:
        self._rest()
        if not self._begin(first):
            _deliver([first])
            return
        group = [first]
        try:
            self._run_members(group)
        except sqlite3.Error as error:
            self._fail(group, DatabaseDown(f"{error}; {_HINT}"))
        else:
            self._commit(group)
        self._released = time.monotonic()
        _deliver(group)

    def _rest(self) -> None:
        """After a turn of back-to-back groups, leave the lock alone long enough for another process to take it."""
        now = time.monotonic()
        idle = now - self._released
        if idle < REST_SECONDS and now - self._turn_began < TURN_SECONDS:
            return
        if idle < REST_SECONDS:
            time.sleep(REST_SECONDS - idle)
        self._turn_began = time.monotonic()

    def _begin(self, job: _Job) -> bool:
        """Take the write lock; polls by itself, because SQLite's own handler backs off to 100 ms and then starves."""
        if self._broken and not self._reopen(job):
            return False
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if _code(error) not in _BUSY_CODES or time.monotonic() > job.deadline:
                    job.error = translate(error, writable=True)
                    return False
            else:
                return True
            time.sleep(_chance.uniform(*POLL_SECONDS))

    def _run_members(self, group: list[_Job]) -> None:
        """Run the members, the first and those that wait, until the group is full, late, or broken."""
        end = time.monotonic() + GROUP_SECONDS
        self._run_member(group[0])
        while len(group) < GROUP_MEMBERS and time.monotonic() < end and self._connection.in_transaction:
            job = self._waiting()
            if job is None:
                break
            group.append(job)
            self._run_member(job)

    def _waiting(self) -> _Job | None:
        try:
            job = self._queue.get_nowait()
        except Empty:
            return None
        self._stopping = job is None
        return job

    def _run_member(self, job: _Job) -> None:
        self._connection.execute("SAVEPOINT member")
        try:
            job.run(SqliteTransaction(self._connection, writable=True))
        except BaseException as error:  # Whatever it is, it belongs to the caller and must not end this thread.
            job.error = error
            # SQLite itself rolls everything back when the disk is full or fails; then there is no savepoint left.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO member")
        if self._connection.in_transaction:
            self._connection.execute("RELEASE member")

    def _commit(self, group: list[_Job]) -> None:
        if not self._connection.in_transaction:
            # The group ended with the member that broke it.
            self._fail(group, DatabaseDown(f"SQLite rolled the whole group back: {group[-1].error}"))
            return
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(group, CommitUnknown(f"COMMIT failed: {error}; {_HINT}"))

    def _fail(self, group: list[_Job], error: DatabaseDown | CommitUnknown) -> None:
        """Every member hears the same; each gets an object of its own, since a raise writes into it."""
        for job in group:
            job.error = type(error)(*error.args)
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._broken = True

    def _reopen(self, job: _Job) -> bool:
        """Replace a connection that can't even roll back. Until that works, each transaction hears what is wrong."""
        with suppress(sqlite3.Error):
            self._connection.close()
        try:
            self._connection = open_connection(self._path)
        except DatabaseDown as error:
            job.error = error
            return False
        self._broken = False
        return True


class _Reader:
    """A thread with a connection that can't write."""

    def __init__(self, path: Path, queue: SimpleQueue[_Job | None]) -> None:
        self._path = path
        self._queue = queue
        self._connection: sqlite3.Connection | None = None

    def serve(self) -> None:
        """Read, each time on one snapshot, until the queue says stop."""
        while (job := self._queue.get()) is not None:
            try:
                self._read(job)
            except BaseException as error:  # Whatever it is, it belongs to the caller and must not end this thread.
                job.error = error
            _deliver([job])
        self._queue.put(None)  # For the next reader.
        if self._connection is not None:
            self._connection.close()

    def _read(self, job: _Job) -> None:
        if self._connection is None:
            self._connection = open_connection(self._path, writable=False)
        self._connection.execute("BEGIN")
        try:
            job.run(SqliteTransaction(self._connection, writable=False))
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


class _NotNow(Exception):
    """A look has to wait for something, which is for a thread to do."""


class _Glance:
    """A connection for looks that take less time than to hand them to a thread. It waits for nobody."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    def read(self, call: Callable[[SqliteTransaction], T]) -> T:
        """Run `call(tx)`. Raises what it raises, and `_NotNow` where a thread should do it."""
        if not self._lock.acquire(blocking=False):
            raise _NotNow
        try:
            return self._read(self._opened(), call)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection for good."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()

    def _opened(self) -> sqlite3.Connection:
        if self._closed:
            raise _NotNow
        if self._connection is None:
            try:
                self._connection = open_connection(self._path, writable=False)
                self._connection.execute("PRAGMA busy_timeout = 0")
            except (DatabaseDown, sqlite3.Error):
                raise _NotNow from None
        return self._connection

    def _read(self, connection: sqlite3.Connection, call: Callable[[SqliteTransaction], T]) -> T:
        try:
            # Without a transaction around it: what is read at a glance need not be of one moment.
            return call(SqliteTransaction(connection, writable=False))
        except (sqlite3.Error, DatabaseDown):
            # Somebody is about to rebuild the file's index, say: the reader threads have the patience for that.
            raise _NotNow from None


def open_connection(path: Path, *, writable: bool = True) -> sqlite3.Connection:
    """A connection in autocommit mode with this project's settings; creates the file as 0600. Raises `DatabaseDown`.

    It may be used from another thread than the one that opened it, by one at a time.
    """
    try:
        _create(path)
        connection = sqlite3.connect(
            path, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=512
        )
    except (OSError, sqlite3.Error) as error:
        raise DatabaseDown(f"{path} can't be opened: {error}; {_HINT}") from error
    try:
        _configure(connection, writable=writable)
    except sqlite3.Error as error:
        connection.close()
        raise DatabaseDown(f"{path} can't be used: {error}; {_HINT}") from error
    return connection


def _create(path: Path) -> None:
    """Make the file, if it is not there, readable by its owner only.

    One that is there is never opened here: closing any descriptor of a file gives up all locks that the process has on
    it, also those of SQLite's own connections, and then another process takes itself for the last one that uses the
    file and deletes its write-ahead log (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _configure(connection: sqlite3.Connection, *, writable: bool) -> None:
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    if writable:
        # The writer polls by itself.
        connection.execute("PRAGMA busy_timeout = 0")
    else:
        connection.execute("PRAGMA query_only = ON")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL; polls by itself, because SQLite doesn't wait when two processes switch a new file at once."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _code(error) not in _BUSY_CODES or time.monotonic() > deadline:
                raise
        time.sleep(_chance.uniform(*POLL_SECONDS))


def _start(name: str, serve: Callable[[], None]) -> threading.Thread:
    # A daemon, so that a process that forgot to close still ends; nothing unacknowledged is lost by that.
    thread = threading.Thread(target=serve, name=name, daemon=True)
    thread.start()
    return thread


def _deliver(jobs: Iterable[_Job]) -> None:
    """Hand results over to the event loops, one wake-up per loop and group."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = defaultdict(list)
    for job in jobs:
        by_loop[job.loop].append(job)
    for loop, told in by_loop.items():
        # A closed loop has nobody left who awaits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_deliver_all, told)


def _deliver_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.deliver()


def _columns(cursor: sqlite3.Cursor) -> list[str]:
    return [column[0] for column in cursor.description or ()]


def _code(error: sqlite3.Error) -> int:
    # The low byte is the primary code; errors of the sqlite3 module itself carry none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def translate(error: sqlite3.Error, *, writable: bool) -> Exception:
    """The error that callers know; what is nobody's but the programmer's stays as it is."""
    # A wrong type in a STRICT table is a bug, not a conflict.
    if getattr(error, "sqlite_errorcode", 0) == _CONSTRAINT_DATATYPE:
        return error
    if isinstance(error, sqlite3.IntegrityError):
        return Conflict(str(error))
    code = _code(error)
    if code == sqlite3.SQLITE_READONLY and not writable:
        return WroteInsideRead("a function given to read() tried to write; give it to transaction()")
    if code in _BUSY_CODES:
        return DatabaseDown(f"busy: another process held SQLite's write lock for {PATIENCE_SECONDS:g} s; {_HINT}")
    if code in _DOWN_CODES:
        return DatabaseDown(f"{error}; {_HINT}")
    return error
