"""An order explained: what was intended, asked, answered and settled, by whom; where its money is; and what to do next.

It only reads what was written down anyway, and it tells nothing that a gateway gave to the buyer's browser alone: of
what went out under a key it shows the amount and the key's end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from paidonce import aftersales, capturing, journal, payments, timeline
from paidonce.advice import NextAction, OrderFacts, PaymentFacts, clock_time, next_action, printable
from paidonce.core import Core
from paidonce.gateways.base import StaffDesk
from paidonce.journal import Account
from paidonce.money import Money
from paidonce.payments import Payment
from paidonce.ports import SECOND, Microseconds, Row, Transaction
from paidonce.states import OrderStatus, PaymentStatus, RefundStatus
from paidonce.store import PayableOrder, Store
from paidonce.timeline import Line

_DAY = 24 * 3600
# A contradiction that lasts is told again every day; one that is older than this was cleared up.
_CONTRADICTION_SECONDS = 2 * _DAY


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
    "SELECT order_id FROM payments WHERE id = :text OR order_id = :text ORDER BY created_at LIMIT 1",
    "SELECT order_id FROM payments WHERE gateway_ref IN (:text, :upper) OR capture_ref = :text"
    " ORDER BY created_at LIMIT 1",
    "SELECT order_id FROM refunds WHERE id = :text OR gateway_ref = :text LIMIT 1",
    "SELECT order_id FROM disputes WHERE gateway_ref = :text LIMIT 1",
)


async def find_order(tx: Transaction, store: Store, text: str) -> str | None:
    """The id of the order that `text` names: its id or number, a payment, a refund, or a gateway's object of it."""
    text = text.strip()
    if not text or not text.isprintable():
        return None
    named = await _named(tx, store, text)
    if named is not None:
        return named
    for sql in _FIND:
        # Some references are copied from paper, where their case may have got lost.
        row = await tx.fetch_one(sql, {"text": text, "upper": text.upper()})
        if row is not None:
            return str(row["order_id"])
    return None


async def _named(tx: Transaction, store: Store, text: str) -> str | None:
    if hasattr(store, "named"):
        return await store.named(tx, text)
    # A store of a shop's own that was written before the port asked for it knows its orders by their ids.
    order = await store.find(tx, text, lock=False)
    return None if order is None else order.id


# ── Explaining ──────────


async def explain(tx: Transaction, core: Core, order_id: str) -> Explanation | None:
    """Read all that is known of an order; None if there is no such order. Writes nothing and asks no gateway."""
    order = await core.store.find(tx, order_id, lock=False)
    # Another spelling of the id would find the order, but none of its payments.
    if order is None or order.id != order_id:
        return None
    history = await tx.fetch_all("SELECT * FROM history WHERE order_id = :id ORDER BY seq", {"id": order_id})
    attempts = await payments.of_order(tx, order_id)
    facts = tuple([await _facts(tx, core, payment, history) for payment in attempts])
    inbox = await timeline.webhooks(tx, order_id)
    summary = OrderFacts(
        order=order,
        payments=facts,
        given_up=await timeline.has_given_up(tx, order_id),
        events_waiting=any(row["state"] in ("recorded", "parked") for row in inbox),
        contradiction=_contradiction(history, core.clock.now()),
        now=core.clock.now(),
    )
    paying = next((one for one in attempts if one.status is PaymentStatus.CAPTURED and not one.owed_to_buyer), None)
    return Explanation(
        order=order,
        # A part that was captured lowers what is due; what the payment was for is what had been ordered.
        total=order.total if paying is None else paying.amount,
        due=order.total,
        refund_status=RefundStatus.NONE if paying is None else paying.refund_status,
        payments=facts,
        timeline=await timeline.read(tx, order, history, inbox, [one for each in facts for one in each.refunds]),
        money=await _balances(tx, order_id),
        next_action=next_action(summary),
    )


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
        by_hand=isinstance(core.gateways.get(payment.gateway), StaffDesk),
        surplus=await aftersales.surplus_of(tx, payment),
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


_CONTRADICTIONS = (
    *("alarm.contradiction", "alarm.refund_contradiction", "alarm.dispute_changed"),
    "alarm.invariant_broken",
)


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
    return f"{told}, object {detail.get('object') or detail.get('about', 'unknown')}"


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
        "surplus": 0 if one.surplus is None else one.surplus.minor,
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
    yield printable(f"Order {order.number} ({order.id}): {order.status}, refunded: {explanation.refund_status}")
    yield f"Ordered for {explanation.total}, due {explanation.due}"
    for one in explanation.payments:
        payment = one.payment
        words = [payment.id, payment.gateway, str(payment.status), str(payment.amount), payment.gateway_ref or "-"]
        yield "  " + printable("  ".join([*words, *(["disputed"] if one.disputed else [])]))


def _timeline_text(lines: Sequence[Line]) -> Iterator[str]:
    width = max((len(line.who) for line in lines), default=0)
    for line in lines:
        at = clock_time(line.at).removesuffix(" UTC")
        _, rest = divmod(line.at, SECOND)
        yield f"  {at}.{rest // 1000:03}  {line.who:{width}}  {line.what}"
        if line.ids:
            named = ", ".join(f"{name} {value}" for name, value in line.ids.items())
            yield f"  {'':23}  {'':{width}}  {named}"
    if not lines:
        yield "  Nothing yet: the buyer has not started to pay."


def _money_text(explanation: Explanation) -> Iterator[str]:
    nothing = money_in_words(explanation)
    if nothing is not None:
        yield f"  {nothing}"
    wide = max((len(one.account) for one in explanation.money), default=0)
    high = max((len(str(one.amount)) for one in explanation.money), default=0)
    for one in explanation.money:
        yield f"  {one.account:{wide}}  {one.amount!s:>{high}}  {one.meaning}"
