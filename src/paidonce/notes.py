"""The notebooks of gateways that have no counterpart to ask, in the shop's own database."""

from __future__ import annotations

from collections.abc import Sequence

from paidonce.core import Core
from paidonce.errors import ChangedMeanwhile, InvalidRequest
from paidonce.gateways.base import KeepsNotes, Note
from paidonce.ports import Row, Transaction

# Writers without `seen` that meet take turns; each turn one of them gets its number.
_TURNS = 50
_LONGEST_VALUE = 4000

_OF_ORDER_SQL = """
SELECT n.*, p.id AS payment_id FROM gateway_notes n JOIN payments p ON p.gateway = n.gateway AND p.gateway_ref = n.ref
WHERE p.order_id = :id ORDER BY n.created_at, n.ref, n.number
"""
# PostgreSQL lets two writers read the same last number; the primary key decides between them.
_INSERT_SQL = """
INSERT INTO gateway_notes (gateway, ref, number, kind, value, text, key, actor, created_at)
VALUES (:gateway, :ref, :number, :kind, :value, :text, :key, :actor, :now) ON CONFLICT DO NOTHING
"""


def hand_out(core: Core) -> Core:
    """Give each gateway that keeps notes its notebook in `core`'s database; `core` itself, ready for its first call."""
    for name, gateway in core.gateways.items():
        if isinstance(gateway, KeepsNotes):
            gateway.use_notes(SqlNotes(core, name))
    return core


async def of_order(tx: Transaction, order_id: str) -> Sequence[Row]:
    """All notes about an order's payments, oldest first."""
    return await tx.fetch_all(_OF_ORDER_SQL, {"id": order_id})


class SqlNotes:
    """Implements `gateways.base.Notes` for one gateway."""

    def __init__(self, core: Core, gateway: str) -> None:
        self._core = core
        self._gateway = gateway

    async def read(self, ref: str) -> tuple[Note, ...]:
        """See `Notes.read`."""
        return await self._core.db.read(_read, self._gateway, ref)

    async def append(
        self, ref: str, kind: str, value: str, *, text: str, key: str, by: str, seen: int | None = None
    ) -> bool:
        """See `Notes.append`."""
        assert len(value) <= _LONGEST_VALUE, "a gateway keeps its notes short"
        note = Note(0, ref, kind, value, text, key, by, self._core.clock.now())
        for _ in range(_TURNS):
            written = await self._core.write(_append, self._gateway, note, seen)
            if written is not None:
                return written
        raise ChangedMeanwhile


async def _read(tx: Transaction, gateway: str, ref: str) -> tuple[Note, ...]:
    rows = await tx.fetch_all(
        "SELECT * FROM gateway_notes WHERE gateway = :gateway AND ref = :ref ORDER BY number",
        {"gateway": gateway, "ref": ref},
    )
    return tuple(_note(row) for row in rows)


async def _append(tx: Transaction, gateway: str, note: Note, seen: int | None) -> bool | None:
    """Whether it was written now; None if somebody else took its number, so that it has to be tried anew."""
    known = await _read(tx, gateway, note.ref)
    before = next((one for one in known if one.key == note.key), None)
    if before is not None:
        # Also our own note, whose commit had an unknown outcome.
        if (before.kind, before.value) != (note.kind, note.value):
            raise InvalidRequest("Idempotency-Key: it was used for another entry. Use a new one for a new entry.")
        return False
    last = len(known)
    if seen is not None and seen != last:
        raise ChangedMeanwhile
    values = {"gateway": gateway, "ref": note.ref, "number": last + 1, "kind": note.kind, "value": note.value}
    values |= {"text": note.text, "key": note.key, "actor": note.by, "now": note.at}
    return True if await tx.execute(_INSERT_SQL, values) else None


def _note(row: Row) -> Note:
    return Note(
        number=row["number"],
        ref=row["ref"],
        kind=row["kind"],
        value=row["value"],
        text=row["text"],
        key=row["key"],
        by=row["actor"],
        at=row["created_at"],
    )
