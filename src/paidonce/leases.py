"""Claims on due work: a committed lease with a fencing token, so that any number of workers share it.

A row is due when its `due_at` has come and nobody's lease on it runs. SKIP LOCKED alone would be no claim, since its
lock ends before the gateway is called. A worker that lost its lease (it froze, or took too long) can no longer
reschedule the row: its token doesn't fit any more. Whatever it still does at the gateway is harmless, because keys
belong to operations and settling is idempotent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from paidonce.ports import SECOND, Microseconds, Transaction

Table = Literal["payments", "inbox", "deliveries"]

# No lease runs longer. One that seems to was given before the clock was set back, and its owner is gone.
LONGEST_SECONDS = 3600
_FREE = "(d.lease_until <= :now OR d.lease_until > :absurd)"


@dataclass(frozen=True, slots=True)
class Lease:
    """One claimed row. `tries` counts this claim as well."""

    table: Table
    id: str
    token: str
    tries: int


async def any_due(
    tx: Transaction,
    table: Table,
    *,
    now: Microseconds,
    condition: str = "",
    params: Mapping[str, Any] | None = None,
) -> bool:
    """Whether a claim would find something."""
    row = await tx.fetch_one(
        # In the order of the index, or PostgreSQL expects to meet one at once and reads the whole table for none.
        f"SELECT 1 AS found FROM {table} d WHERE d.due_at <= :now AND {_FREE} {condition}"  # noqa: S608
        " ORDER BY d.due_at LIMIT 1",
        {**(params or {}), "now": now, "absurd": now + LONGEST_SECONDS * SECOND},
    )
    return row is not None


async def claim(
    tx: Transaction,
    table: Table,
    *,
    token: str,
    now: Microseconds,
    seconds: int,
    limit: int,
    condition: str = "",
    params: Mapping[str, Any] | None = None,
) -> list[Lease]:
    """Claim up to `limit` due rows for `seconds`, the longest due first; rows that others lock are skipped.

    `condition` narrows the choice: SQL that begins with AND, over the row's alias `d`, with values in `params`.
    """
    due = await tx.fetch_all(
        f"SELECT d.id, d.tries FROM {table} d WHERE d.due_at <= :now AND {_FREE} {condition}"  # noqa: S608
        " ORDER BY d.due_at LIMIT :limit",
        {**(params or {}), "now": now, "limit": limit, "absurd": now + LONGEST_SECONDS * SECOND},
        lock=True,
        skip_locked=True,
    )
    await tx.execute_many(
        f"UPDATE {table} SET lease_token = :token, lease_until = :until, tries = tries + 1 WHERE id = :id",  # noqa: S608
        [{"token": token, "until": now + seconds * SECOND, "id": row["id"]} for row in due],
    )
    return [Lease(table, row["id"], token, row["tries"] + 1) for row in due]


async def give_back(tx: Transaction, lease: Lease, *, due_at: Microseconds | None, tries: int | None = None) -> bool:
    """End the lease and say when the row is due again (None: never). False if the lease was lost meanwhile."""
    changed = await tx.execute(
        f"UPDATE {lease.table} SET due_at = :due_at, tries = :tries, lease_token = NULL, lease_until = 0"  # noqa: S608
        " WHERE id = :id AND lease_token = :token",
        {
            "due_at": due_at,
            "tries": lease.tries if tries is None else tries,
            "id": lease.id,
            "token": lease.token,
        },
    )
    return bool(changed)


def backoff_seconds(tries: int, *, first: int, longest: int, salt: str) -> int:
    """How long to wait after `tries` tries: doubling from `first` up to `longest`, spread by up to a quarter.

    The spread comes from `salt`, not from chance, so that a simulation repeats it.
    """
    wait: int = min(first << min(max(tries - 1, 0), 30), longest)
    spread = int.from_bytes(hashlib.sha256(f"{salt}:{tries}".encode()).digest()[:2])
    return wait + wait * spread // (4 * 65_536)
