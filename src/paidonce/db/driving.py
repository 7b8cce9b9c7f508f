"""How every driver runs a transaction function, and what such a function may not do.

It awaits nothing but its transaction: a function that waited for a gateway, a timer or a lock would keep rows locked
(on SQLite: the only writer) for as long as somebody else pleases. It does not nest. After a statement has failed,
nothing more is run and the transaction fails, also if the function caught the exception: PostgreSQL works like that,
and SQLite must not differ.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

from paidonce.ports import inside_transaction

T = TypeVar("T")


class SuspendedInsideTransaction(AssertionError):
    """A transaction function awaited something else than its transaction: a bug in the function."""


class WroteInsideRead(AssertionError):
    """A function given to `Database.read` tried to write: a bug in the caller, who needs `Database.transaction`."""


class TransactionOver(AssertionError):
    """A transaction was used after its function had returned: a bug in the caller."""


class Usable:
    """What every driver's transaction shares: it knows whether it is over and which statement made it fail."""

    def __init__(self) -> None:
        self.over = False
        self.waiting = False
        self.failure: Exception | None = None

    def check(self) -> None:
        """Raise `TransactionOver`, or again the failure that ended this transaction."""
        if self.over:
            raise TransactionOver("the transaction is over; nothing more can be run in it")
        if self.failure is not None:
            raise self.failure

    def finish(self, result: T) -> T:
        """`result`, unless a statement failed and the function kept that to itself."""
        if self.failure is not None:
            raise self.failure
        return result


def run_at_once(tx: Usable, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
    """Run `fn(tx, …)` whose transaction never suspends, by a single `send`. Raises `SuspendedInsideTransaction`."""
    token = inside_transaction.set(True)
    try:
        return tx.finish(_send_once(fn(tx, *args, **kwargs)))
    finally:
        tx.over = True
        inside_transaction.reset(token)


async def run_awaiting(tx: Usable, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
    """Run `fn(tx, …)` on the event loop; only `tx` may suspend it. Raises `SuspendedInsideTransaction`."""
    token = inside_transaction.set(True)
    try:
        return tx.finish(await _forward(tx, fn(tx, *args, **kwargs)))
    finally:
        tx.over = True
        inside_transaction.reset(token)


def _send_once(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        awaited = coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    except RuntimeError as error:
        # asyncio.sleep and its like ask for the loop before they suspend, and a writer thread has none.
        if str(error) == "no running event loop":
            raise _suspended("the event loop") from error
        raise
    raise _stopped(coroutine, awaited)


@types.coroutine
def _forward(tx: Usable, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
    while True:
        try:
            awaited = step()
        except StopIteration as done:
            result: T = done.value
            return result
        if not tx.waiting:
            raise _stopped(coroutine, awaited)
        step = yield from _wait(coroutine, awaited)


def _wait(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Callable[[], Any]]:
    """Hand what the database awaits to the event loop; the answer is the coroutine's next step."""
    try:
        value = yield awaited
    except GeneratorExit:
        coroutine.close()
        raise
    except BaseException as error:
        thrown = error
        return lambda: coroutine.throw(thrown)
    return lambda: coroutine.send(value)


def _stopped(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> SuspendedInsideTransaction:
    error = _suspended("a bare yield" if awaited is None else type(awaited).__name__)
    # Thrown in, so that the function's own clean-up runs before its transaction is rolled back.
    with suppress(StopIteration):
        coroutine.throw(error)
    coroutine.close()
    return error


def _suspended(awaited: str) -> SuspendedInsideTransaction:
    return SuspendedInsideTransaction(
        f"a transaction function awaited something else than its transaction ({awaited}); do that before or after it"
    )
