"""Counts that end by themselves, in the table `rate_limits`: shared by all processes, and part of a transaction.

Keys name nobody: whoever makes one hashes what could tell an address or a person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from paidonce.ports import SECOND, Microseconds, Transaction

# Each new count takes a few of the ended ones away, so that the table needs no sweeper of its own.
_SWEPT_AT_ONCE = 20

# A window begins with its first count; one that has ended begins anew.
_ADD = """
INSERT INTO rate_limits (key, count, expires_at) VALUES (:key, :amount, :ends)
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN rate_limits.expires_at <= :now THEN excluded.count ELSE rate_limits.count + excluded.count END,
    expires_at = CASE WHEN rate_limits.expires_at <= :now THEN excluded.expires_at ELSE rate_limits.expires_at END
"""
_KEEP = """
INSERT INTO rate_limits (key, count, expires_at) VALUES (:key, 1, :ends)
ON CONFLICT (key) DO UPDATE SET expires_at = excluded.expires_at
"""


@dataclass(frozen=True, slots=True)
class Count:
    """How often something was counted in the window that ends at `expires_at` (microseconds)."""

    count: int
    expires_at: Microseconds


async def add(tx: Transaction, key: str, *, amount: int = 1, seconds: int, now: Microseconds) -> Count:
    """Count `key` and give what the window holds now. The window lasts `seconds` from its first count."""
    ends = now + seconds * SECOND
    await tx.execute(_ADD, {"key": key, "amount": amount, "ends": ends, "now": now})
    found = await find(tx, key, now=now)
    assert found is not None, "a count that was just written is gone"
    return found


async def find(tx: Transaction, key: str, *, now: Microseconds) -> Count | None:
    """What the running window of `key` holds; None if there is none."""
    row = await tx.fetch_one(
        "SELECT count, expires_at FROM rate_limits WHERE key = :key AND expires_at > :now", {"key": key, "now": now}
    )
    return None if row is None else Count(row["count"], row["expires_at"])


async def keep(tx: Transaction, key: str, *, until: Microseconds) -> None:
    """Have `key` stand there until then, whatever stood there before."""
    await tx.execute(_KEEP, {"key": key, "ends": until})


async def kept(tx: Transaction, prefix: str, *, now: Microseconds) -> list[str]:
    """The keys that begin with `prefix` and have not ended; without the prefix, in order."""
    # A range reads the index, as LIKE would not. The keys are compared by their bytes in both databases.
    rows = await tx.fetch_all(
        "SELECT key FROM rate_limits WHERE key >= :prefix AND key < :end AND expires_at > :now ORDER BY key",
        {"prefix": prefix, "end": prefix[:-1] + chr(ord(prefix[-1]) + 1), "now": now},
    )
    return [row["key"].removeprefix(prefix) for row in rows]


async def forget(tx: Transaction, keys: Iterable[str]) -> None:
    """End these counts."""
    await tx.execute_many("DELETE FROM rate_limits WHERE key = :key", [{"key": key} for key in sorted(keys)])


async def sweep(tx: Transaction, *, now: Microseconds) -> None:
    """Take a few ended counts away. The last statement of a transaction, since it locks what others may want."""
    rows = await tx.fetch_all(
        "SELECT key FROM rate_limits WHERE expires_at <= :now ORDER BY expires_at LIMIT :most",
        {"now": now, "most": _SWEPT_AT_ONCE},
        lock=True,
        skip_locked=True,
    )
    if rows:
        await forget(tx, [row["key"] for row in rows])


async def take_turns(tx: Transaction, whose: str) -> None:
    """Let no other transaction ask for the same until this one ends; SQLite has one writer anyway."""
    if tx.dialect == "postgresql":
        number = int.from_bytes(hashlib.sha256(f"paidonce {whose}".encode()).digest()[:8], "big", signed=True)
        await tx.fetch_one("SELECT pg_advisory_xact_lock(:number)", {"number": number})
