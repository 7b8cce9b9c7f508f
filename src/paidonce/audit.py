"""The audit log: who did what to which object, in a table that nobody can change or delete from.

An entry about a step that moves money is written in the transaction that writes the step down, so that neither exists
without the other. Buyers' steps on their own orders are in the history of the order; here stand those of staff, and
what concerns the security of an account.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from paidonce.money import Money
from paidonce.ports import Microseconds, Row, Transaction

Detail = str | int | bool
Action = Literal[
    "staff.signed_in",
    "staff.sign_in_failed",
    "account.confirmed",
    "account.confirmation_failed",
    "account.password_changed",
    "account.signed_out_everywhere",
    "refund.asked",
    "capture.asked",
    "void.asked",
    "desk.entered",
    "stock.adjusted",
    "events.replayed",
]
# The id of the HTTP request that something happens in, the one of the log's lines; None outside of any.
this_request: ContextVar[str | None] = ContextVar("this_request", default=None)
# Who failed to prove who they are.
NOBODY = "nobody"
MOST_ENTRIES = 1000

_WORDS: Mapping[str, str] = {
    "staff.signed_in": "signed in",
    "staff.sign_in_failed": "did not get in: the password was wrong",
    "account.confirmed": "gave the password again",
    "account.confirmation_failed": "gave a wrong password instead of their own",
    "account.password_changed": "changed the password",
    "account.signed_out_everywhere": "signed out everywhere",
    "refund.asked": "asked for a refund",
    "capture.asked": "asked for a capture",
    "void.asked": "asked for the payment's end",
    "desk.entered": "entered something",
    "stock.adjusted": "changed the stock",
    "events.replayed": "asked for events to be sent again",
}

# A transaction may be run again after a commit of unknown outcome; the same entry is not written twice.
_INSERT = """
INSERT INTO audit_log (actor, action, subject, detail, request_id, created_at)
SELECT :actor, :action, :subject, :detail, :request_id, :at
WHERE NOT EXISTS (
    SELECT 1 FROM audit_log
    WHERE subject = :subject AND created_at = :at AND actor = :actor AND action = :action AND detail = :detail
)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """`actor` (a user's id) did `action` to `subject` (an id of ours, or a SKU). `detail` holds plain values."""

    actor: str
    action: str
    subject: str
    detail: Mapping[str, Detail]
    at: Microseconds
    request_id: str | None = None

    @property
    def amount(self) -> Money | None:
        """How much was asked for, where that was said."""
        minor, currency = self.detail.get("amount"), self.detail.get("currency")
        return Money(minor, currency) if isinstance(minor, int) and isinstance(currency, str) else None

    @property
    def words(self) -> str:
        """What was done, for people."""
        return _WORDS.get(self.action, self.action)


def entry(action: Action, *, actor: str, subject: str, at: Microseconds, **detail: Detail) -> Entry:
    """An entry of this request, to be written by `write`. Details are ids, amounts and the like, and never a secret."""
    return Entry(actor, action, subject, detail, at, this_request.get())


async def write(tx: Transaction, one: Entry) -> None:
    """Add `one` to the log. Writing the very same entry again changes nothing."""
    await tx.execute(
        _INSERT,
        {
            "actor": one.actor,
            "action": one.action,
            "subject": one.subject,
            "detail": json.dumps(dict(one.detail), sort_keys=True),
            "request_id": one.request_id,
            "at": one.at,
        },
    )


async def read(
    tx: Transaction, *, actor: str | None = None, subjects: Sequence[str] = (), limit: int = MOST_ENTRIES
) -> list[Entry]:
    """The newest `limit` entries, oldest first: of `actor` if given, and about `subjects` if there are any."""
    params: dict[str, str | int] = {"limit": limit}
    conditions = []
    if actor is not None:
        params["actor"] = actor
        conditions.append("actor = :actor")
    if subjects:
        named = {f"subject{number}": subject for number, subject in enumerate(subjects)}
        params |= named
        conditions.append(f"subject IN ({', '.join(f':{name}' for name in named)})")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    # Nothing but names of parameters is put together here.
    rows = await tx.fetch_all(f"SELECT * FROM audit_log {where} ORDER BY seq DESC LIMIT :limit", params)  # noqa: S608
    return [_entry(row) for row in reversed(rows)]


async def about(tx: Transaction, subject: str) -> list[str]:
    """The subjects of all entries about `subject`: itself, and with an order its payments."""
    rows = await tx.fetch_all("SELECT id FROM payments WHERE order_id = :id ORDER BY id", {"id": subject})
    return [subject, *(row["id"] for row in rows)]


def _entry(row: Row) -> Entry:
    detail = json.loads(row["detail"])
    return Entry(row["actor"], row["action"], row["subject"], detail, row["created_at"], row["request_id"])
