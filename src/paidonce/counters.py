"""Counts that end by themselves, in the table `rate_limits`: shared by all processes, and part of a transaction.

Keys name nobody: whoever makes one hashes what could tell an address or a person.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from paidonce.ports import SECOND, Microseconds, Transaction, write_later

# Each new count takes a few of the ended ones away, so that the table needs no sweeper of its own.
_SWEPT_AT_ONCE = 20
_SWEEP_EVERY = 8

# A window begins with its first count; one that has ended begins anew.
_ADD = """
INSERT INTO rate_limits (key, count, expires_at) VALUES (:key, :amount, :ends)
ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN rate_limits.expires_at <= :now THEN excluded.count ELSE rate_limits.count + excluded.count END,
    expires_at = CASE WHEN rate_limits.expires_at <= :now THEN excluded.expires_at ELSE rate_limits.expires_at END
"""
_KEEP = """
INSERT INTO rate_limits (key, count, expires_at) VALUES {values}
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


async def ends(tx: Transaction, keys: Sequence[str], *, now: Microseconds) -> dict[str, Microseconds]:
    """When the running windows of those of `keys` that have one end."""
    named = {f"key{number}": key for number, key in enumerate(keys)}
    if not named:
        return {}
    listed = ", ".join(f":{name}" for name in named)
    rows = await tx.fetch_all(
        f"SELECT key, expires_at FROM rate_limits WHERE key IN ({listed}) AND expires_at > :now",  # noqa: S608
        {**named, "now": now},
    )
    return {row["key"]: row["expires_at"] for row in rows}


async def keep(tx: Transaction, *keys: str, until: Microseconds) -> None:
    """Have `keys` stand there until then, whatever stood there before."""
    named = {f"key{number}": key for number, key in enumerate(sorted(keys))}
    if named:
        values = ", ".join(f"(:{name}, 1, :ends)" for name in named)
        await write_later(tx, _KEEP.format(values=values), {**named, "ends": until})


async def kept(tx: Transaction, prefixes: Sequence[str], *, now: Microseconds) -> list[str]:
    """The keys that begin with one of `prefixes` and have not ended, in order."""
    # A range reads the index, as LIKE would not. The keys are compared by their bytes in both databases.
    ranges = [
        f"SELECT key FROM rate_limits WHERE key >= :begin{number} AND key < :end{number} AND expires_at > :now"  # noqa: S608
        for number in range(len(prefixes))
    ]
    bounds: dict[str, Any] = {"now": now}
    for number, prefix in enumerate(prefixes):
        bounds |= {f"begin{number}": prefix, f"end{number}": prefix[:-1] + chr(ord(prefix[-1]) + 1)}
    rows = await tx.fetch_all(" UNION ALL ".join(ranges), bounds) if ranges else ()
    return sorted(row["key"] for row in rows)


async def forget(tx: Transaction, keys: Iterable[str]) -> None:
    """End these counts."""
    await tx.execute_many("DELETE FROM rate_limits WHERE key = :key", [{"key": key} for key in sorted(keys)])


async def sweep_now_and_then(tx: Transaction, *, now: Microseconds) -> None:
    """The same in one of eight transactions, by the clock's last digit; for those that add two counts at most."""
    if now % _SWEEP_EVERY == 0:
        await sweep(tx, now=now)


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


async def take_turns(tx: Transaction, *whose: str) -> None:
    """Let no other transaction ask for the same until this one ends; SQLite has one writer anyway."""
    if tx.dialect != "postgresql" or not whose:
        return
    # Always in the same order, so that two transactions which want the same turns don't wait for each other.
    numbers = {f"number{place}": number for place, number in enumerate(sorted(map(_turn, whose)))}
    turns = ", ".join(f"pg_advisory_xact_lock(:{name})" for name in numbers)
    await tx.fetch_one(f"SELECT {turns}", numbers)


def _turn(whose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"paidonce {whose}".encode()).digest()[:8], "big", signed=True)
