"""What the core awaits: the database, the clock and the gateways (`gateways.base`), and nothing else.

The actions, settlement and recovery are plain coroutines over these ports. Whoever implements them decides how the core
is driven: an event loop, one writer thread, a host's own transaction, or a simulator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Row = Mapping[str, Any]
Params = Mapping[str, Any]
Microseconds = int
Dialect = Literal["sqlite", "postgresql"]
SECOND: Microseconds = 1_000_000

# Every driver sets this while a transaction function runs; the transport refuses to send meanwhile (invariant I10).
inside_transaction: ContextVar[bool] = ContextVar("inside_transaction", default=False)


class GatewayCallInsideTransaction(AssertionError):
    """A gateway was called, or a transaction nested, while a database transaction was open: a bug in the caller."""


def assert_outside_transaction(what: str) -> None:
    """Raise `GatewayCallInsideTransaction` if a transaction is open in this context; `what` names the refused step."""
    if inside_transaction.get():
        raise GatewayCallInsideTransaction(f"{what} while a database transaction is open")


def at_a_glance(fn: Callable[P, T]) -> Callable[P, T]:
    """Mark a function for `Database.read` that reads a few rows by their keys, which need not be of one moment.

    Such a look costs less than to hand it to another thread, so that a driver may take it in the caller's own; and with
    round trips to the server, half of them would be for a common snapshot.
    """
    fn.__at_a_glance__ = True  # type: ignore[attr-defined]
    return fn


def is_at_a_glance(fn: Callable[..., Any]) -> bool:
    """Whether `fn` bears the mark of `at_a_glance`."""
    return getattr(fn, "__at_a_glance__", False)


class Transaction(Protocol):
    """One open transaction, given to a transaction function. SQL is portable, with `:name` parameters."""

    @property
    def dialect(self) -> Dialect:
        """Which database this is, for a shop whose own statements differ."""

    async def fetch_one(self, sql: str, params: Params | None = None, *, lock: bool = False) -> Row | None:
        """The first row or None. `lock=True` locks what was read until the commit (SQLite has one writer anyway)."""

    async def fetch_all(
        self, sql: str, params: Params | None = None, *, lock: bool = False, skip_locked: bool = False
    ) -> Sequence[Row]:
        """All rows, in the order of the statement's ORDER BY.

        `skip_locked=True`, with `lock`, leaves out rows that another transaction has locked instead of waiting.
        """

    async def execute(self, sql: str, params: Params | None = None) -> int:
        """Run a statement that writes; returns how many rows it changed. Raises `errors.Conflict` if refused."""

    async def execute_many(self, sql: str, rows: Sequence[Params]) -> None:
        """Run one statement that writes once per row of parameters. Raises `errors.Conflict` if refused."""


async def write_later(tx: Transaction, sql: str, params: Params) -> None:
    """Run a statement that writes and whose outcome nobody asks for, now or before `tx` reads, writes or ends.

    What waits is sent together, where each statement is a round trip. What the database refuses is therefore heard
    later in the transaction, and the caller must not rest on having got past this line.
    """
    later = getattr(tx, "execute_later", None)
    await (tx.execute(sql, params) if later is None else later(sql, params))


class Database(Protocol):
    """Runs transaction functions. They may be run again from the start, so they do nothing but database work.

    A transaction function that raises is rolled back, and its exception reaches the caller. `errors.CommitUnknown`
    means that the connection or disk failed at COMMIT: the caller re-reads by its operation's own key.
    """

    dialect: Dialect

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(tx, …)` and commit; durable when this returns.

        Raises what `fn` raises, `CommitUnknown` or `DatabaseDown`.
        """

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `fn(tx, …)` on one consistent snapshot, beside the writer. Writing inside raises."""

    async def close(self) -> None:
        """Finish what is queued and free connections and threads."""


class Clock(Protocol):
    """Time, injected so that expiry and backoff can be simulated."""

    def now(self) -> Microseconds:
        """Microseconds since 1970-01-01 UTC."""

    async def sleep(self, seconds: float) -> None:
        """Suspend for `seconds`."""


class Ids(Protocol):
    """Fresh opaque identifiers, injected so that a simulation repeats from its seed."""

    def new(self, prefix: str) -> str:
        """`prefix_` and 130 unguessable bits."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> Microseconds:
        """Microseconds since 1970-01-01 UTC."""
        import time

        return time.time_ns() // 1_000

    async def sleep(self, seconds: float) -> None:
        """Suspend on the running event loop."""
        import asyncio

        await asyncio.sleep(seconds)


# Crockford's alphabet: no letter that reads like a digit, so that an id survives a telephone call.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LETTERS = 26
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_BYTES = 17
_IDS_AT_ONCE = 64


# Random bytes that were drawn and belong to no id yet.
_drawn: list[bytes] = []
if hasattr(os, "register_at_fork"):
    # Two processes must not give the same ids.
    os.register_at_fork(after_in_child=_drawn.clear)


class RandomIds:
    """Identifiers from the operating system's secure random source, which is asked for many of them at once."""

    def new(self, prefix: str) -> str:
        """`prefix_` and 26 characters, 130 bits."""
        try:
            mine = _drawn.pop()
        except IndexError:
            many = os.urandom(_BYTES * _IDS_AT_ONCE)
            mine, *others = (many[start : start + _BYTES] for start in range(0, len(many), _BYTES))
            _drawn.extend(others)
        number = int.from_bytes(mine, "big")
        return prefix + "_" + "".join([_PAIRS[number >> 10 * place & 1023] for place in range(_LETTERS // 2)])
