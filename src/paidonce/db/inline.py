"""SQLite on the caller's own thread: each transaction runs at once, whole, and is over when the call returns.

For one who drives the core by hand and has to say when a transaction runs and how it ends: the simulator. It is the
same file, the same statements and the same transaction class as the writer thread's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from paidonce.db.driving import WroteInsideRead, run_at_once
from paidonce.db.sqlite import SqliteTransaction, open_connection
from paidonce.ports import Params, Transaction

T = TypeVar("T")

Call = Callable[[Transaction], Coroutine[Any, Any, T]]


class InlineSqlite:
    """One connection to the file `path`, which needs the schema already.

    All transactions are savepoints inside one that is never committed, so that `begin_anew` forgets them all at once
    and the next run begins with the same rows. Whoever wants to see COMMITs fail needs another driver.
    """

    def __init__(self, path: Path) -> None:
        self._connection = open_connection(path)
        self._connection.execute("PRAGMA temp_store = MEMORY")

    def begin_anew(self) -> None:
        """Forget everything since the last call."""
        self._roll_back()
        self._connection.execute("BEGIN IMMEDIATE")

    def write(self, call: Call[T], *, keep: bool = True) -> T:
        """Run `call(tx)` and keep it; without `keep`, undo it as a lost COMMIT would. Raises what it raises."""
        self._connection.execute("SAVEPOINT write")
        kept = False
        try:
            result = run_at_once(SqliteTransaction(self._connection, writable=True), call)
            kept = keep
        finally:
            if not kept:
                self._connection.execute("ROLLBACK TO write")
            self._connection.execute("RELEASE write")
        return result

    def read(self, call: Call[T]) -> T:
        """Run `call(tx)`. Raises `driving.WroteInsideRead` if it writes."""
        changes = self._connection.total_changes
        result = run_at_once(SqliteTransaction(self._connection, writable=False), call)
        if self._connection.total_changes != changes:
            raise WroteInsideRead("a function given to read() has written; give it to transaction()")
        return result

    @property
    def changes(self) -> int:
        """How many rows were changed so far, also by what was undone."""
        return self._connection.total_changes

    def rows(self, sql: str, params: Params | None = None) -> list[tuple[Any, ...]]:
        """The rows of one query, as bare tuples."""
        return self._connection.execute(sql, params or {}).fetchall()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Forget everything and close the connection."""
        self._roll_back()
        self._connection.close()
