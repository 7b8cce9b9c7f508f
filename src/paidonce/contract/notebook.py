"""A notebook in memory, for the contract suite: what `Notes` promises, without a database."""

from __future__ import annotations

from paidonce.errors import ChangedMeanwhile, InvalidRequest
from paidonce.gateways.base import Note
from paidonce.ports import Clock, assert_outside_transaction

LONGEST_VALUE = 4000


class Notebook:
    """Implements `gateways.base.Notes`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._notes: dict[str, list[Note]] = {}

    @property
    def written(self) -> int:
        """How many notes there are."""
        return sum(len(notes) for notes in self._notes.values())

    async def read(self, ref: str) -> tuple[Note, ...]:
        """All notes about `ref`, oldest first."""
        assert_outside_transaction("reading a gateway's notebook")
        return tuple(self._notes.get(ref, ()))

    async def append(
        self, ref: str, kind: str, value: str, *, text: str, key: str, by: str, seen: int | None = None
    ) -> bool:
        """Write a note; False if it stands there. Raises `ChangedMeanwhile` and `InvalidRequest` as `Notes` does."""
        assert_outside_transaction("writing into a gateway's notebook")
        assert len(value) <= LONGEST_VALUE, f"a note's value has {len(value)} characters, more than {LONGEST_VALUE}."
        notes = self._notes.get(ref, [])
        same = next((note for note in notes if note.key == key), None)
        if same is not None:
            if (same.kind, same.value) != (kind, value):
                raise InvalidRequest("This key was used for another entry.")
            return False
        if seen is not None and seen != len(notes):
            raise ChangedMeanwhile
        self._notes[ref] = [*notes, Note(len(notes) + 1, ref, kind, value, text, key, by, self._clock.now())]
        return True
