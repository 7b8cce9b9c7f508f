"""An order's timeline: one line per thing that happened, merged from everything that was written down about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paidonce import notes
from paidonce.advice import clock_time, printable
from paidonce.aftersales import Refund
from paidonce.money import Money
from paidonce.ports import SECOND, Microseconds, Row, Transaction
from paidonce.store import PayableOrder


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened. `ids` are for whoever looks it up at the gateway or in the log."""

    at: Microseconds
    source: str  # history, operation, notebook, journal, webhook, event
    who: str
    what: str
    payment_id: str | None
    ids: Mapping[str, str]


async def read(
    tx: Transaction, order: PayableOrder, history: Sequence[Row], inbox: Sequence[Row], refunds: Sequence[Refund]
) -> tuple[Line, ...]:
    """All lines, oldest first.

    `history` and `inbox` are the order's rows of these tables, `refunds` all of its payments' refunds.
    """
    of_order = {"id": order.id}
    lines = [
        *_operation_lines(await tx.fetch_all(_OPERATIONS_SQL, of_order), history, refunds),
        *_note_lines(await notes.of_order(tx, order.id)),
        *_inbox_lines(inbox),
        *_history_lines(history, order.total.currency),
        *_journal_lines(await tx.fetch_all(_JOURNAL_SQL, of_order)),
        *_event_lines(await tx.fetch_all(_EVENTS_SQL, of_order)),
    ]
    # Sorting is stable, so the sources' order above decides between lines of one moment.
    return tuple(sorted(lines, key=lambda line: line.at))


async def has_given_up(tx: Transaction, order_id: str) -> bool:
    """Whether a system of the merchant's could not be told of one of the order's events."""
    row = await tx.fetch_one(
        "SELECT 1 AS found FROM deliveries WHERE order_id = :id AND state = 'given_up' LIMIT 1", {"id": order_id}
    )
    return row is not None


# ── What we wrote down ──────────

# What an event of the history means. Whatever else its detail holds is added behind it.
_MEANINGS = {
    "payment.started": "The buyer chose how to pay.",
    "payment.awaiting_buyer": "The gateway's object waits for the buyer.",
    "payment.declined": "The payment was declined. The buyer may try again.",
    "payment.processing": "The money is under way, neither paid nor failed yet.",
    "payment.authorized": "The money is reserved and waits for a capture.",
    "payment.captured": "The money has moved.",
    "payment.failed": "The payment ended without money.",
    "payment.canceled": "The payment was ended. No money has moved.",
    "payment.held": "The gateway's object contradicts the order, so a person has to look.",
    "payment.abandoned": "The payment was given up without money.",
    "capture.unknown": "The capture was not answered clearly. It may have happened.",
    "authorize.unknown": "The reservation was not answered clearly. It may have happened.",
    "payment.surplus": "The gateway says how much of the buyer's money lies there and pays nothing.",
    "void.joined": "Staff asked for the end of the payment as well.",
    "void.abandoned": "The buyer came back to the payment, so it is not ended.",
    "refund.unknown": "The refund was not answered clearly. It may have happened.",
    "refund.found": "A refund was found that was made at the gateway.",
    "refund.pending": "The gateway has taken the refund on.",
    "refund.succeeded": "The money went back to the buyer.",
    "refund.failed": "The refund did not happen, or was taken back.",
    "dispute.opened": "The buyer disputes the payment.",
    "dispute.won": "The dispute was decided for the shop.",
    "dispute.lost": "The dispute was decided for the buyer.",
    "hold.ended": "The goods are no longer reserved.",
    "order.free": "Nothing was due, so the order is complete.",
    "order.canceled": "The buyer canceled the order.",
    "order.expired": "The order was not paid in time and is closed.",
    "event.given_up": "Telling the merchant's system was given up.",
}
_MORE = {
    "reason": "reason",
    "decline": "decline",
    "raw_code": "gateway's code",
    "raw_status": "gateway's word",
    "failure": "failure",
    "problem": "problem",
    "said": "gateway says",
    "booked_to": "booked to",
    "event_type": "event",
    "endpoint": "endpoint",
    "error": "error",
}
_IDS = ("object", "capture", "refund", "dispute", "event", "request_id")
_TRIGGERS = {"start": "buyer", "refund": "shop", "void": "shop", "expiry": "time"}
# Told with the operation that they announce, or with the webhook itself.
_TOLD_ELSEWHERE = frozenset(
    {"payment.started", "capture.intended", "authorize.intended", "void.intended", "refund.intended"}
    | {"webhook.received"}
)


def _history_lines(history: Sequence[Row], currency: str) -> Iterator[Line]:
    for row in history:
        if row["event"] in _TOLD_ELSEWHERE:
            continue
        detail = json.loads(row["detail"])
        yield Line(
            at=row["created_at"],
            source="history",
            who=_who(detail),
            what=printable(_meaning(row["event"], detail, currency)),
            payment_id=row["payment_id"],
            ids=_ids(detail),
        )


def _who(detail: Mapping[str, Any]) -> str:
    trigger = str(detail.get("trigger", "shop"))
    return printable(_TRIGGERS.get(trigger, trigger))


def _meaning(event: str, detail: Mapping[str, Any], currency: str) -> str:
    meaning = _MEANINGS.get(event)
    if meaning is None:
        kind, _, name = event.partition(".")
        meaning = f"{kind.capitalize()}: {name.replace('_', ' ')}."
    amount = detail.get("amount")
    more = [str(Money(amount, str(detail.get("currency", currency))))] if type(amount) is int else []
    more += [f"{word}: {detail[name]}" for name, word in _MORE.items() if detail.get(name) is not None]
    text = f"{meaning} ({'; '.join(more)})" if more else meaning
    return f"{text} {detail['next_step']}" if "next_step" in detail else text


def _ids(detail: Mapping[str, Any]) -> dict[str, str]:
    return {name: printable(str(detail[name])) for name in _IDS if detail.get(name) is not None}


_OPERATIONS_SQL = """
SELECT o.*, p.gateway, p.gateway_ref FROM operations o JOIN payments p ON p.id = o.payment_id
WHERE p.order_id = :id ORDER BY o.created_at, o.id
"""
_ASKED = {
    "create": "Asked {gateway} to open a payment of {amount}",
    "authorize": "Asked {gateway} to reserve {amount}",
    "capture": "Asked {gateway} to capture {amount}",
    "void": "Asked {gateway} to end the payment",
    "refund": "Asked {gateway} to refund {amount}",
}
_ANSWERED = {
    "succeeded": "Done",
    "declined": "Declined",
    "refused": "It did not happen",
    "abandoned": "Given up, and no money has moved by it",
}


def _operation_lines(rows: Sequence[Row], history: Sequence[Row], refunds: Sequence[Refund]) -> Iterator[Line]:
    refund_of = {refund.operation_id: refund for refund in refunds}
    for row in rows:
        refund = refund_of.get(row["id"])
        words = {"gateway": row["gateway"], "amount": _asked_amount(json.loads(row["request"]))}
        ids = {"operation": row["id"]} | ({} if refund is None else {"refund": refund.id, "actor": refund.actor})
        what = printable(_asked(row, words, refund))
        yield Line(row["created_at"], "operation", _announcer(row, history), what, row["payment_id"], ids)
        if row["finished_at"] is not None:
            ended = f"{_ANSWERED[row['state']]} ({row['kind']}, round {row['round']})."
            same = {"operation": row["id"]}
            yield Line(row["finished_at"], "operation", row["gateway"], ended, row["payment_id"], same)


def _asked(row: Row, words: Mapping[str, str], refund: Refund | None) -> str:
    key = str(row["idempotency_key"])[-6:]
    what = f"{_ASKED[row['kind']].format(**words)} (round {row['round']}, key …{key})."
    if refund is not None and refund.reason:
        what += f" Reason: {refund.reason}."
    if refund is not None and refund.restock:
        what += " The goods go back on the shelf."
    return what + (" The outcome is not known yet." if row["state"] == "recorded" else "")


def _asked_amount(request: Mapping[str, Any]) -> str:
    return str(Money(request["amount"], request["currency"])) if "amount" in request else ""


def _note_lines(rows: Sequence[Row]) -> Iterator[Line]:
    for row in rows:
        ids = {"object": printable(row["ref"])}
        yield Line(
            row["created_at"], "notebook", printable(row["actor"]), printable(row["text"]), row["payment_id"], ids
        )


def _announcer(row: Row, history: Sequence[Row]) -> str:
    """Who wrote the intention down: each has its own line in the history, one per round."""
    if row["kind"] == "create":
        return "buyer"
    event = f"{row['kind']}.intended"
    notes = [note for note in history if note["event"] == event and note["payment_id"] == row["payment_id"]]
    return _who(json.loads(notes[row["round"] - 1]["detail"])) if len(notes) >= row["round"] else "shop"


# ── Webhooks, books, and what the merchant heard ──────────


async def webhooks(tx: Transaction, order_id: str) -> Sequence[Row]:
    """What gateways told about the order, oldest first, as the inbox has it."""
    return await tx.fetch_all(
        "SELECT i.* FROM inbox i JOIN payments p ON p.id = i.payment_id WHERE p.order_id = :id"
        " ORDER BY i.received_at, i.id",
        {"id": order_id},
    )


def _inbox_lines(rows: Sequence[Row]) -> Iterator[Line]:
    for row in rows:
        outcome = row["outcome"] or "not processed yet"
        what = f"{row['gateway']} told {row['type']}: {outcome}"
        if row["finished_at"] is not None and row["finished_at"] - row["received_at"] > SECOND:
            what += f", at {clock_time(row['finished_at'])}"
        ids = {"event": printable(row["event_id"])}
        yield Line(row["received_at"], "webhook", "webhook", printable(what) + ".", row["payment_id"], ids)


_JOURNAL_SQL = """
SELECT e.*, d.account AS debit, c.account AS credit, d.amount_minor, d.currency
FROM journal_entries e
JOIN journal_postings d ON d.entry_id = e.id AND d.amount_minor > 0
JOIN journal_postings c ON c.entry_id = e.id AND c.amount_minor < 0
WHERE e.order_id = :id ORDER BY e.created_at, CASE e.kind WHEN 'capture' THEN 0 ELSE 1 END, e.id
"""


def _journal_lines(rows: Sequence[Row]) -> Iterator[Line]:
    for row in rows:
        kind = row["kind"].replace("_", " ")
        amount = Money(row["amount_minor"], row["currency"])
        what = f"Booked {kind}: {amount} from {row['credit']} to {row['debit']}."
        ids = {"object": printable(row["gateway_object"])}
        yield Line(row["created_at"], "journal", "books", what, row["payment_id"], ids)


_EVENTS_SQL = """
SELECT o.seq, o.id, o.type, o.created_at, d.endpoint, d.state, d.tries, d.last_error
FROM outbox o LEFT JOIN deliveries d ON d.seq = o.seq
WHERE o.order_id = :id ORDER BY o.seq, d.endpoint
"""
_DELIVERED = {"waiting": "waits for", "delivered": "was delivered to", "given_up": "was given up for"}


def _event_lines(rows: Sequence[Row]) -> Iterator[Line]:
    by_event: dict[int, list[Row]] = {}
    for row in rows:
        by_event.setdefault(row["seq"], []).append(row)
    for deliveries in by_event.values():
        first = deliveries[0]
        told = [_delivery_words(row) for row in deliveries if row["state"] is not None]
        what = f"Event {first['type']} {', '.join(told) or 'has nobody to be told'}."
        yield Line(first["created_at"], "event", "outbox", printable(what), None, {"event": first["id"]})


def _delivery_words(row: Row) -> str:
    tries = f"{row['tries']} {'try' if row['tries'] == 1 else 'tries'}"
    error = f", last error: {row['last_error']}" if row["last_error"] and row["state"] != "delivered" else ""
    return f"{_DELIVERED[row['state']]} {row['endpoint']} ({tries}{error})"
