"""An order explained: what was intended, asked, answered and settled, by whom; where its money is; and what to do next.

It only reads what was written down anyway, and it tells nothing that a gateway gave to the buyer's browser alone: of
what went out under a key it shows the amount and the key's end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from paidonce import aftersales, capturing, journal, payments
from paidonce.advice import NextAction, OrderFacts, PaymentFacts, clock_time, next_action, printable
from paidonce.core import Core
from paidonce.journal import Account
from paidonce.money import Money
from paidonce.payments import Payment
from paidonce.ports import SECOND, Microseconds, Row, Transaction
from paidonce.states import OrderStatus, PaymentStatus, RefundStatus
from paidonce.store import PayableOrder

_DAY = 24 * 3600
# A contradiction that lasts is told again every day; one that is older than this was cleared up.
_CONTRADICTION_SECONDS = 2 * _DAY
_LONGEST_WHO = 32


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened. `ids` are for whoever looks it up at the gateway or in the log."""

    at: Microseconds
    source: str  # history, operation, journal, webhook, event
    who: str
    what: str
    payment_id: str | None
    ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Balance:
    """What stands on one account for this order, counted so that positive is the usual case."""

    account: str
    amount: Money
    meaning: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """An order and all that is known of its money. `total` is what was ordered, `due` what had to be paid."""

    order: PayableOrder
    total: Money
    due: Money
    refund_status: RefundStatus
    payments: tuple[PaymentFacts, ...]
    timeline: tuple[Line, ...]
    money: tuple[Balance, ...]
    next_action: NextAction | None


# ── Finding ──────────

_FIND = (
    "SELECT id AS order_id FROM orders WHERE id = :text",
    "SELECT id AS order_id FROM orders WHERE number = :upper",
    "SELECT order_id FROM payments WHERE id = :text OR order_id = :text ORDER BY created_at LIMIT 1",
    "SELECT order_id FROM payments WHERE gateway_ref = :text OR capture_ref = :text ORDER BY created_at LIMIT 1",
    "SELECT order_id FROM refunds WHERE id = :text OR gateway_ref = :text LIMIT 1",
    "SELECT order_id FROM disputes WHERE gateway_ref = :text LIMIT 1",
)


async def find_order(tx: Transaction, text: str) -> str | None:
    """The id of the order that `text` names: its id or number, a payment, a refund, or a gateway's object of it."""
    text = text.strip()
    if not text or not text.isprintable():
        return None
    for sql in _FIND:
        row = await tx.fetch_one(sql, {name: value for name, value in _names(text).items() if f":{name}" in sql})
        if row is not None:
            return str(row["order_id"])
    return None


def _names(text: str) -> dict[str, str]:
    return {"text": text, "upper": text.upper()}


# ── Explaining ──────────


async def explain(tx: Transaction, core: Core, order_id: str) -> Explanation | None:
    """Read all that is known of an order; None if there is no such order. Writes nothing and asks no gateway."""
    order = await core.store.find(tx, order_id, lock=False)
    if order is None:
        return None
    history = await tx.fetch_all("SELECT * FROM history WHERE order_id = :id ORDER BY seq", {"id": order_id})
    attempts = await payments.of_order(tx, order_id)
    facts = tuple([await _facts(tx, core, payment, history) for payment in attempts])
    inbox = await _inbox(tx, order_id)
    events = await tx.fetch_all(_EVENTS_SQL, {"id": order_id})
    summary = OrderFacts(
        order=order,
        payments=facts,
        given_up=any(row["state"] == "given_up" for row in events),
        events_waiting=any(row["state"] in ("recorded", "parked") for row in inbox),
        contradiction=_contradiction(history, core.clock.now()),
        now=core.clock.now(),
    )
    paying = next((one for one in attempts if one.status is PaymentStatus.CAPTURED and not one.owed_to_buyer), None)
    currency = order.total.currency
    timeline = [
        *_operation_lines(await tx.fetch_all(_OPERATIONS_SQL, {"id": order_id}), history, facts),
        *_inbox_lines(inbox),
        *_history_lines(history, currency),
        *_journal_lines(await tx.fetch_all(_JOURNAL_SQL, {"id": order_id})),
        *_event_lines(events),
    ]
    return Explanation(
        order=order,
        # A part that was captured lowers what is due; what the payment was for is what had been ordered.
        total=order.total if paying is None else paying.amount,
        due=order.total,
        refund_status=RefundStatus.NONE if paying is None else paying.refund_status,
        payments=facts,
        timeline=tuple(line for _, _, line in sorted(_numbered(timeline), key=lambda entry: entry[:2])),
        money=await _balances(tx, order_id),
        next_action=next_action(summary),
    )


def _numbered(lines: Sequence[Line]) -> Iterator[tuple[Microseconds, int, Line]]:
    """Lines of one moment keep the order of their sources: asked, heard, decided, booked, told."""
    for number, line in enumerate(lines):
        yield line.at, number, line


async def _facts(tx: Transaction, core: Core, payment: Payment, history: Sequence[Row]) -> PaymentFacts:
    standing = await capturing.stand(tx, core, payment.id)
    waited = core.clock.now() - payment.created_at
    return PaymentFacts(
        payment=payment,
        refunds=tuple(await aftersales.refunds_of(tx, payment.id)),
        disputes=tuple(await aftersales.disputes_of(tx, payment.id)),
        taking=None if standing is None else standing.taking,
        creating=payment.status is PaymentStatus.CREATED,
        voiding=bool(await payments.recorded(tx, payment.id, "void")),
        left=await aftersales.left_to_refund(tx, payment),
        has_gateway=payment.gateway in core.gateways,
        trouble=_trouble(payment.id, history),
        too_slow=waited > core.policy.pending_hold_seconds * SECOND,
    )


def _trouble(payment_id: str, history: Sequence[Row]) -> str | None:
    """Why the gateway rejected what we asked, unless it said anything better afterwards."""
    trouble: str | None = None
    for row in history:
        if row["payment_id"] != payment_id:
            continue
        event = str(row["event"])
        if event == "alarm.gateway":
            trouble = str(json.loads(row["detail"]).get("problem", "no reason was kept"))
        elif event.startswith(("payment.", "refund.", "dispute.")) and not event.endswith((".unknown", ".intended")):
            trouble = None
    return trouble


_CONTRADICTIONS = ("alarm.contradiction", "alarm.refund_contradiction", "alarm.dispute_changed")


def _contradiction(history: Sequence[Row], now: Microseconds) -> str | None:
    recent = [
        row
        for row in history
        if row["event"] in _CONTRADICTIONS and now - row["created_at"] < _CONTRADICTION_SECONDS * SECOND
    ]
    if not recent:
        return None
    detail = json.loads(recent[-1]["detail"])
    told = detail.get("reason") or detail.get("said") or "another amount of a refund"
    return f"{told}, object {detail.get('object', 'unknown')}"


# ── The timeline: what we wrote down ──────────

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
    "succeeded": "{gateway} did it",
    "declined": "{gateway} answered: declined",
    "refused": "It did not happen",
    "abandoned": "It was given up, and moved no money",
}
_ANNOUNCED_BY = {"create": "payment.started"}


def _operation_lines(rows: Sequence[Row], history: Sequence[Row], facts: Sequence[PaymentFacts]) -> Iterator[Line]:
    refunds = {refund.operation_id: refund for one in facts for refund in one.refunds}
    for row in rows:
        refund = refunds.get(row["id"])
        request = json.loads(row["request"])
        words = {"gateway": row["gateway"], "amount": _asked_amount(request)}
        what = _ASKED[row["kind"]].format(**words)
        ending = "" if row["kind"] in ("create", "void") and row["round"] == 1 else f", round {row['round']}"
        what += f"{ending} (key …{str(row['idempotency_key'])[-6:]})."
        if refund is not None:
            what += _refund_words(refund)
        if row["state"] == "recorded":
            what += " The outcome is not known yet."
        ids = {"operation": row["id"]} | ({} if refund is None else {"refund": refund.id})
        who = _announcer(row, history) if refund is None or refund.origin != "staff" else f"staff {refund.actor}"
        yield Line(row["created_at"], "operation", who, printable(what), row["payment_id"], ids)
        if row["finished_at"] is not None:
            ended = f"{_ANSWERED[row['state']].format(**words)} ({row['kind']}, round {row['round']})."
            yield Line(row["finished_at"], "operation", row["gateway"], ended, row["payment_id"], ids)


def _asked_amount(request: Mapping[str, Any]) -> str:
    return str(Money(request["amount"], request["currency"])) if "amount" in request else ""


def _refund_words(refund: aftersales.Refund) -> str:
    reason = f" Reason: {refund.reason}." if refund.reason else ""
    return reason + (" The goods go back on the shelf." if refund.restock else "")


def _announcer(row: Row, history: Sequence[Row]) -> str:
    """Who wrote the intention down: each has its own line in the history, one per round."""
    event = _ANNOUNCED_BY.get(row["kind"], f"{row['kind']}.intended")
    notes = [note for note in history if note["event"] == event and note["payment_id"] == row["payment_id"]]
    if row["kind"] == "create":
        return "buyer"
    return _who(json.loads(notes[row["round"] - 1]["detail"])) if len(notes) >= row["round"] else "shop"


# ── The timeline: webhooks, books, and what the merchant heard ──────────


async def _inbox(tx: Transaction, order_id: str) -> Sequence[Row]:
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
WHERE e.order_id = :id ORDER BY e.created_at, e.id
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


# ── Where the money is ──────────

# PostgreSQL adds integers up to a decimal, which is no amount of ours.
_BALANCES_SQL = """
SELECT p.account, p.currency, CAST(SUM(p.amount_minor) AS BIGINT) AS minor
FROM journal_postings p JOIN journal_entries e ON e.id = p.entry_id
WHERE e.order_id = :id GROUP BY p.account, p.currency ORDER BY p.account, p.currency
"""
# Accounts that grow on the credit side are shown with their sign turned, so that "earned" is a positive number.
_CREDIT_ACCOUNTS = frozenset({Account.SALES, Account.OWED_TO_BUYER, Account.SUSPENSE})
_ACCOUNT_MEANINGS = {
    Account.SALES: "earned by this order",
    Account.OWED_TO_BUYER: "to be refunded: it found no order, or came twice",
    Account.SUSPENSE: "held, because the gateway's object contradicts the order",
    Account.GATEWAY_FEES: "kept by the gateway as its fee",
    Account.DISPUTED: "taken back by the gateway until a dispute is decided",
    Account.DISPUTE_LOSSES: "lost in a dispute",
}


async def _balances(tx: Transaction, order_id: str) -> tuple[Balance, ...]:
    rows = await tx.fetch_all(_BALANCES_SQL, {"id": order_id})
    return tuple(_balance(row) for row in rows if row["minor"])


def _balance(row: Row) -> Balance:
    account = str(row["account"])
    minor = -row["minor"] if account in _CREDIT_ACCOUNTS else row["minor"]
    meaning = _ACCOUNT_MEANINGS.get(Account(account)) if account in set(Account) else None
    if meaning is None:
        name = account.removeprefix(journal.balance_at(""))
        meaning = (
            f"in your balance at {name}" if minor > 0 else f"what this order has taken from your balance at {name}"
        )
    return Balance(account, Money(minor, row["currency"]), meaning)


def money_in_words(explanation: Explanation) -> str | None:
    """A sentence for an order without any balance; None if there are some."""
    if explanation.money:
        return None
    moved = any(one.payment.captured_minor for one in explanation.payments)
    return "All of it went back: nothing is left on any account." if moved else "No money has moved."


# ── As JSON and as text ──────────


def as_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as plain values: amounts in minor units, times as ISO 8601 in UTC."""
    order, action = explanation.order, explanation.next_action
    return {
        "order": {
            "id": order.id,
            "number": order.number,
            "status": str(order.status),
            "refund_status": str(explanation.refund_status),
            "total": explanation.total.minor,
            "due": explanation.due.minor,
            "currency": order.total.currency,
            "expires_at": _iso(order.expires_at) if order.status is OrderStatus.OPEN else None,
        },
        "payments": [_payment_json(one) for one in explanation.payments],
        "money": [
            {
                "account": one.account,
                "amount": one.amount.minor,
                "currency": one.amount.currency,
                "meaning": one.meaning,
            }
            for one in explanation.money
        ],
        "timeline": [
            {
                "at": _iso(line.at),
                "source": line.source,
                "who": line.who,
                "what": line.what,
                "payment_id": line.payment_id,
                "ids": dict(line.ids),
            }
            for line in explanation.timeline
        ],
        "next_action": None
        if action is None
        else {
            "code": action.code,
            "act": action.act,
            "what": action.what,
            "payment_id": action.payment_id,
            "look_at": _iso(action.look_at),
        },
    }


def _payment_json(one: PaymentFacts) -> dict[str, Any]:
    payment = one.payment
    return {
        "id": payment.id,
        "gateway": payment.gateway,
        "status": str(payment.status),
        "refund_status": str(payment.refund_status),
        "amount": payment.amount.minor,
        "captured": payment.captured_minor,
        "left_to_refund": one.left.minor,
        "currency": payment.amount.currency,
        "object": payment.gateway_ref,
        "capture": payment.capture_ref,
        "pending_reason": payment.pending_reason,
        "held_reason": payment.held_reason,
        "disputed": one.disputed,
        "look_at": _iso(payment.due_at),
        "refunds": [
            {
                "id": refund.id,
                "object": refund.gateway_ref,
                "amount": refund.amount.minor,
                "state": refund.state,
                "origin": refund.origin,
                "reason": refund.reason,
                "failure": refund.failure_reason,
            }
            for refund in one.refunds
        ],
        "disputes": [
            {
                "object": dispute.gateway_ref,
                "amount": dispute.amount.minor,
                "state": dispute.state,
                "withdrawn": dispute.withdrawn,
                "reason": dispute.reason,
            }
            for dispute in one.disputes
        ],
    }


def _iso(moment: Microseconds | None) -> str | None:
    if moment is None:
        return None
    whole, rest = divmod(moment, SECOND)
    at = datetime.fromtimestamp(whole, UTC).replace(microsecond=rest)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_text(explanation: Explanation) -> str:
    """The explanation for a terminal, its columns aligned; times are UTC."""
    return "\n".join(
        [
            *_head_text(explanation),
            "",
            "What happened (UTC)",
            *_timeline_text(explanation.timeline),
            "",
            "Where the money is",
            *_money_text(explanation),
            "",
            "What to do",
            f"  {'Nothing.' if explanation.next_action is None else explanation.next_action.what}",
        ]
    )


def _head_text(explanation: Explanation) -> Iterator[str]:
    order = explanation.order
    yield f"Order {printable(order.number)} ({printable(order.id)}): {order.status}, refunded: {explanation.refund_status}"
    yield f"Ordered for {explanation.total}, due {explanation.due}"
    for one in explanation.payments:
        payment = one.payment
        words = [payment.id, payment.gateway, str(payment.status), str(payment.amount), payment.gateway_ref or "-"]
        yield "  " + printable("  ".join([*words, *(["disputed"] if one.disputed else [])]))


def _timeline_text(timeline: Sequence[Line]) -> Iterator[str]:
    width = min(max((len(line.who) for line in timeline), default=0), _LONGEST_WHO)
    for line in timeline:
        at = clock_time(line.at).removesuffix(" UTC")
        _, rest = divmod(line.at, SECOND)
        yield f"  {at}.{rest // 1000:03}  {line.who:{width}}  {line.what}"
        if line.ids:
            named = ", ".join(f"{name} {value}" for name, value in line.ids.items())
            yield f"  {'':23}  {'':{width}}  {named}"
    if not timeline:
        yield "  Nothing yet: the buyer has not started to pay."


def _money_text(explanation: Explanation) -> Iterator[str]:
    nothing = money_in_words(explanation)
    if nothing is not None:
        yield f"  {nothing}"
    wide = max((len(one.account) for one in explanation.money), default=0)
    high = max((len(str(one.amount)) for one in explanation.money), default=0)
    for one in explanation.money:
        yield f"  {one.account:{wide}}  {one.amount!s:>{high}}  {one.meaning}"
