"""PostgreSQL through asyncpg: READ COMMITTED transactions on a pool, run again when PostgreSQL asks for it.

The pool's size is 16 unless the URL says `?pool_size=8`. Everything else in the URL's query goes to asyncpg (`sslmode`,
`host=/socket/directory`, …). Connections keep no session state (no SET, LISTEN, advisory session locks or open
cursors), so the pool gives them back without asyncpg's `reset`, which would cost a round trip per transaction.
"""

from __future__ import annotations

import asyncio
import random
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode

import asyncpg

from paidonce.db.driving import Usable, WroteInsideRead, run_awaiting
from paidonce.db.sql import chain, is_apart, locking, numbered, parse, written_table
from paidonce.errors import CommitUnknown, ConfigError, Conflict, DatabaseDown
from paidonce.ports import Dialect, Params, Row, Transaction, assert_outside_transaction, is_at_a_glance

P = ParamSpec("P")
T = TypeVar("T")
if TYPE_CHECKING:
    # asyncpg's own classes can't be subscripted while running.
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]

POOL_SIZE = 16
LARGEST_POOL = 100
# How long a transaction waits for a free connection, and a statement for its locks and its answer.
ACQUIRE_SECONDS = 10.0
# A connection that nobody used for so long is replaced.
IDLE_SECONDS = 300.0
STATEMENT_SECONDS = 20.0
# A process that froze between two statements must not keep rows locked for ever.
IDLE_IN_TRANSACTION_MILLISECONDS = 30_000
# How often a transaction is run again on 40001 and 40P01, and the longest pause in between (it doubles up to there).
RUNS = 10
_chance = random.Random()  # noqa: S311
FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.25

_BEGIN_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_HINT = "check that the server of PAIDONCE_DATABASE_URL runs, accepts connections and has free disk space"

_COLLISIONS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
# A trigger that refuses (the journal is append-only) raises RaiseError; on SQLite the same is a broken constraint.
_CONFLICTS = (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError)
_DOWN = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    OSError,  # TimeoutError is one.
)
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_REFUSED_URL = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
# asyncpg looks at a port no closer than the system does, which calls a large one an overflow.
_UNREADABLE_URL = (asyncpg.ClientConfigurationError, ValueError, OverflowError)


class _Collision(DatabaseDown):
    """PostgreSQL rolled back one of two transactions that got in each other's way; run it again."""


class PostgresTransaction(Usable):
    """One open transaction on a pooled connection. See `ports.Transaction`."""

    dialect: Dialect = "postgresql"

    def __init__(self, connection: Connection, *, writable: bool) -> None:
        super().__init__()
        self._connection = connection
        self._writable = writable
        self._later: dict[str, tuple[str, tuple[Any, ...]]] = {}

    async def fetch_one(self, sql: str, params: Params | None = None, *, lock: bool = False) -> Row | None:
        """The first row or None; `lock` appends FOR UPDATE."""
        values = numbered(sql, params)
        if self._later:
            await self.flush()
        self.check()
        record = await self._wait_for(self._connection.fetchrow(_text(sql, lock), *values))
        return None if record is None else dict(record)

    async def fetch_all(
        self, sql: str, params: Params | None = None, *, lock: bool = False, skip_locked: bool = False
    ) -> Sequence[Row]:
        """All rows; `lock` appends FOR UPDATE, with `skip_locked` SKIP LOCKED as well."""
        values = numbered(sql, params)
        if self._later:
            await self.flush()
        self.check()
        records = await self._wait_for(self._connection.fetch(_text(sql, lock, skip_locked), *values))
        return [dict(record) for record in records]

    async def execute(self, sql: str, params: Params | None = None) -> int:
        """Run a statement that writes; returns how many rows it changed. Raises `Conflict`."""
        text, values = _text(sql), numbered(sql, params)
        if self._later and is_apart(sql, frozenset(self._later)):
            # What waits goes along. The server tells how many rows the last part changed.
            text, values = self._take_along(sql, values)
        elif self._later:
            await self.flush()
        self.check()
        status = await self._wait_for(self._connection.execute(text, *values))
        # "UPDATE 3", "INSERT 0 1"; other statements end in a word.
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def execute_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Run one statement once per row of parameters, in one round trip. Raises `Conflict`."""
        values = [numbered(sql, row) for row in rows]
        await self.flush()
        self.check()
        await self._wait_for(self._connection.executemany(_text(sql), values))

    async def execute_later(self, sql: str, params: Params) -> None:
        """See `ports.write_later`. What waits writes to a table each: the parts of one statement don't see each other.

        Raises `MissingParameter` at once, and what waited before may raise `Conflict`.
        """
        table, values = written_table(sql), numbered(sql, params)
        if table in self._later:
            await self.flush()
        self.check()
        self._later[table] = (sql, values)

    async def flush(self) -> None:
        """Send what waits, in one round trip. Raises `Conflict`."""
        if not self._later:
            return
        _, (sql, values) = self._later.popitem()
        text, values = self._take_along(sql, values)
        self.check()
        await self._wait_for(self._connection.execute(text, *values))

    def _take_along(self, sql: str, values: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        waiting, self._later = self._later, {}
        text = chain((*(one for one, _ in waiting.values()), sql))
        return text, (*(value for _, given in waiting.values() for value in given), *values)

    async def _wait_for(self, answer: Awaitable[T]) -> T:
        """Marks that this transaction is what suspends its function, and translates what goes wrong."""
        self.waiting = True
        try:
            return await answer
        except _FAILURES as error:
            self.failure = _translate(error, self._connection, writable=self._writable)
            if self.failure is error:
                raise
            # A conflict's cause would carry the row's values (asyncpg prints DETAIL), and those belong in no log.
            raise self.failure from (None if isinstance(self.failure, Conflict) else error)
        finally:
            self.waiting = False


class _NeedsTransaction(Exception):
    """A reading is more than one SELECT."""


class _Selects(PostgresTransaction):
    """A reading without a transaction. One SELECT is its own snapshot; whatever else it is asked for needs a real one.

    With `any_moment` it may be several, each of its own moment.
    """

    def __init__(self, connection: Connection, *, any_moment: bool) -> None:
        super().__init__(connection, writable=False)
        self._any_moment = any_moment
        self._used = False

    async def fetch_one(self, sql: str, params: Params | None = None, *, lock: bool = False) -> Row | None:
        """The first row or None."""
        self._require_select(sql, lock)
        return await super().fetch_one(sql, params)

    async def fetch_all(
        self, sql: str, params: Params | None = None, *, lock: bool = False, skip_locked: bool = False
    ) -> Sequence[Row]:
        """All rows."""
        self._require_select(sql, lock)
        return await super().fetch_all(sql, params)

    async def execute(self, sql: str, params: Params | None = None) -> int:
        """Refused."""
        self._refuse()

    async def execute_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Refused."""
        self._refuse()

    async def execute_later(self, sql: str, params: Params) -> None:
        """Refused."""
        self._refuse()

    def _require_select(self, sql: str, lock: bool) -> None:
        if self._used or lock or not sql.lstrip()[:7].upper().startswith("SELECT"):
            self._refuse()
        self._used = not self._any_moment

    def _refuse(self) -> NoReturn:
        self.check()
        # Kept as well, so that a function which catches it does not go on with half of what it wanted.
        self.failure = _NeedsTransaction()
        raise self.failure


class _Connections:
    """The pool's connections, which are kept at hand between transactions.

    To give one back to the pool and take it again costs a task each time. The pool opens, replaces and closes them.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._places = asyncio.Semaphore(pool.get_max_size())
        # Those used last come first, each with when it was put here.
        self._at_hand: list[tuple[Connection, float]] = []

    async def take(self) -> Connection:
        """A connection that is in no transaction. Raises `TimeoutError`, and asyncpg's errors."""
        async with asyncio.timeout(ACQUIRE_SECONDS):
            await self._places.acquire()
            try:
                return await self._next()
            except BaseException:
                self._places.release()
                raise

    async def _next(self) -> Connection:
        now = asyncio.get_running_loop().time()
        while self._at_hand:
            connection, since = self._at_hand.pop()
            if now - since < IDLE_SECONDS and not _gone(connection):
                return connection
            # What lies between us and the server may have forgotten it.
            with suppress(*_FAILURES):
                connection.terminate()
            await self._to_pool(connection)
        return await self._pool.acquire()

    def give_back(self, connection: Connection) -> None:
        """Put back a connection that is in no transaction."""
        self._at_hand.append((connection, asyncio.get_running_loop().time()))
        self._places.release()

    async def clean(self, connection: Connection, *, canceled: bool) -> None:
        """Roll back what is open and put the connection back; asyncpg would do both, but log the first as a mistake."""
        try:
            # A caller who left while BEGIN was under way may have begun a transaction that the driver doesn't know of.
            if canceled or connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        except _FAILURES:
            # The transaction's outcome is settled already, but nobody knows what this connection is in the middle of.
            with suppress(*_FAILURES):
                connection.terminate()
        try:
            await self._to_pool(connection)
        finally:
            self._places.release()

    async def close(self) -> None:
        """Close all connections; nobody uses one any more."""
        while self._at_hand:
            await self._to_pool(self._at_hand.pop()[0])
        try:
            await self._pool.close()
        except _FAILURES:
            # A server that doesn't say goodbye in time; everything that was acknowledged is safe.
            self._pool.terminate()

    async def _to_pool(self, connection: Connection) -> None:
        with suppress(*_FAILURES):
            await self._pool.release(connection, timeout=ACQUIRE_SECONDS)


class PostgresDatabase:
    """`ports.Database` on PostgreSQL. It belongs to the event loop that opened it."""

    dialect: Dialect = "postgresql"

    def __init__(self, pool: Pool) -> None:
        self._connections = _Connections(pool)
        # The code of functions that were seen to read more than one statement.
        self._longer: set[types.CodeType] = set()
        self._users = 0
        self._closing = False
        self._nobody_left = asyncio.Event()

    @classmethod
    async def open(cls, url: str) -> PostgresDatabase:
        """Connect once, so that a wrong URL shows up now. Raises `ConfigError`, `DatabaseDown`."""
        dsn, size = split_pool_size(url)
        with _opening():
            pool = await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=size,
                reset=_nothing_to_reset,
                command_timeout=STATEMENT_SECONDS,
                timeout=ACQUIRE_SECONDS,
                server_settings={
                    "application_name": "paidonce",
                    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MILLISECONDS),
                },
            )
        return cls(pool)

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(tx, …)` and commit. If the awaiting task is canceled before COMMIT, it is rolled back."""
        assert_outside_transaction("a transaction was started")
        return await self._until_no_collision(lambda: self._write(fn, *args, **kwargs))

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(tx, …)` on the snapshot of its first statement. Raises `WroteInsideRead`.

        A function of one SELECT needs no more than that: BEGIN and ROLLBACK would be two more round trips. Whether it
        is one shows when it runs; with a second statement it is run again, in a transaction, and from then on always.
        What bears the mark `ports.at_a_glance` needs none either.
        """
        assert_outside_transaction("a read was started")
        return await self._until_no_collision(lambda: self._read(fn, *args, **kwargs))

    async def close(self) -> None:
        """Wait for the transactions handed over, then close the connections. Repeating it does nothing."""
        self._closing = True
        # The pool alone would not wait for those who still queue for a connection, and cut them off at COMMIT.
        if self._users:
            await self._nobody_left.wait()
        await self._connections.close()

    async def _until_no_collision(self, once: Callable[[], Coroutine[Any, Any, T]]) -> T:
        pause = FIRST_PAUSE_SECONDS
        with self._in_use():
            for _ in range(RUNS - 1):
                try:
                    return await once()
                except _Collision:
                    await asyncio.sleep(_chance.uniform(pause / 2, pause))
                    pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            return await once()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        if self._closing:
            raise DatabaseDown("the database was closed by this process")
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._closing and not self._users:
                self._nobody_left.set()

    async def _write(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        async with self._connection() as connection:
            await _begin(connection, _BEGIN_WRITE)
            tx = PostgresTransaction(connection, writable=True)
            result: T = await _run(tx, _to_its_end, fn, *args, **kwargs)
            await _commit(connection)
            return result

    async def _read(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        code = getattr(fn, "__code__", None)
        async with self._connection() as connection:
            if code is not None and code not in self._longer:
                try:
                    looks = _Selects(connection, any_moment=is_at_a_glance(fn))
                    return await _run(looks, fn, *args, **kwargs)
                except _NeedsTransaction:
                    self._longer.add(code)
            await _begin(connection, _BEGIN_READ)
            found: T = await _run(PostgresTransaction(connection, writable=False), _to_its_end, fn, *args, **kwargs)
            return found

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool; giving it back rolls back what is still open."""
        try:
            connection = await self._connections.take()
        except TimeoutError as error:
            raise DatabaseDown(f"no connection became free within {ACQUIRE_SECONDS:g} s; {_HINT}") from error
        except _FAILURES as error:
            raise DatabaseDown(f"{_words(error)}; {_HINT}") from error
        canceled = False
        try:
            yield connection
        except asyncio.CancelledError:
            canceled = True
            raise
        finally:
            if canceled or not _is_idle(connection):
                # Shielded, so that a canceled caller doesn't take the roll-back along.
                await asyncio.shield(self._connections.clean(connection, canceled=canceled))
            else:
                self._connections.give_back(connection)


async def _run(tx: PostgresTransaction, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
    try:
        return await run_awaiting(tx, fn, *args, **kwargs)
    except Exception:
        # Whatever the function made of a collision, the transaction has to be run again.
        if isinstance(tx.failure, _Collision):
            raise tx.failure from None
        raise


async def _to_its_end(
    tx: PostgresTransaction, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
) -> T:
    result = await fn(tx, *args, **kwargs)
    await tx.flush()
    return result


async def _begin(connection: Connection, statement: str) -> None:
    try:
        await connection.execute(statement)
    except _FAILURES as error:
        raise DatabaseDown(f"BEGIN failed: {_words(error)}; {_HINT}") from error


async def _commit(connection: Connection) -> None:
    """COMMIT. Raises `CommitUnknown` unless the server itself said that it rolled back."""
    try:
        status = await connection.execute("COMMIT")
    except (*_COLLISIONS, *_CONFLICTS) as error:
        raise _translate(error, connection, writable=True) from None
    except _FAILURES as error:
        raise CommitUnknown(f"the connection failed at COMMIT: {_words(error)}; {_HINT}") from error
    if status != "COMMIT":
        raise DatabaseDown(f"the server answered {status} to COMMIT; nothing was kept")


def _is_idle(connection: Connection) -> bool:
    """Whether nothing has to be rolled back."""
    try:
        return not connection.is_in_transaction()
    except asyncpg.InterfaceError:
        return False


async def _nothing_to_reset(_: Any) -> None:
    """Given to the pool in place of asyncpg's reset."""


@contextmanager
def _opening() -> Iterator[None]:
    try:
        yield
    except _REFUSED_URL as error:
        raise ConfigError(
            [f"PAIDONCE_DATABASE_URL: PostgreSQL refuses it ({_words(error)}); correct user, password or database name"]
        ) from None
    except _UNREADABLE_URL:
        # The reason would quote what stands where the port belongs, and that may be a piece of the password.
        raise ConfigError(
            [
                "PAIDONCE_DATABASE_URL can't be read; write postgresql://user:password@host:5432/name"
                " and percent-encode signs such as @ : / # ? % in the password"
            ]
        ) from None
    except _FAILURES as error:
        raise DatabaseDown(f"PostgreSQL can't be reached: {_words(error)}; {_HINT}") from error


async def open_connection(url: str) -> asyncpg.Connection[asyncpg.Record]:
    """One connection outside any pool, for migrations. Raises `ConfigError`, `DatabaseDown`."""
    dsn, _ = split_pool_size(url)
    with _opening():
        return await asyncpg.connect(dsn, timeout=ACQUIRE_SECONDS, server_settings={"application_name": "paidonce"})


def split_pool_size(url: str) -> tuple[str, int]:
    """The URL without `pool_size`, and that size. Raises `ConfigError`."""
    base, _, options = url.partition("?")
    query = dict(parse_qsl(options, keep_blank_values=True))
    size = query.pop("pool_size", str(POOL_SIZE))
    if not (size.isascii() and size.isdigit() and 1 <= int(size) <= LARGEST_POOL):
        raise ConfigError(
            [f"PAIDONCE_DATABASE_URL: pool_size is a number from 1 to {LARGEST_POOL}, such as ?pool_size=8"]
        )
    return f"{base}?{urlencode(query)}", int(size)


def _text(sql: str, lock: bool = False, skip_locked: bool = False) -> str:
    text = parse(sql).numbered
    return locking(text, skip_locked=skip_locked) if lock else text


def _words(error: BaseException) -> str:
    """What happened, without DETAIL and HINT lines, which may carry a row's values."""
    return str(error.args[0]) if error.args else type(error).__name__


def _translate(error: Exception, connection: Connection, *, writable: bool) -> Exception:
    """The error that callers know; what is nobody's but the programmer's stays as it is."""
    if isinstance(error, _COLLISIONS):
        return _Collision(f"still collided after {RUNS} runs: {_words(error)}")
    if isinstance(error, _CONFLICTS):
        return Conflict(_words(error))
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError) and not writable:
        return WroteInsideRead("a function given to read() tried to write; give it to transaction()")
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return DatabaseDown(f"{_words(error)}; give the user in PAIDONCE_DATABASE_URL the rights to paidonce's tables")
    if isinstance(error, (*_DOWN, asyncpg.ReadOnlySQLTransactionError)) or _gone(connection):
        return DatabaseDown(f"{_words(error)}; {_HINT}")
    return error


def _gone(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        # The pool has taken it away, which it does when the server hangs up.
        return True
