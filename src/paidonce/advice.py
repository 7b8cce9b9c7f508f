"""The one safe next step of an order, decided from its state by tables of rules: the first one that applies counts.

The order of the tables is their meaning. What must not be touched by hand comes before what may be done, and what
people have to do comes before what only takes time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from paidonce.aftersales import Dispute, Refund
from paidonce.captures import is_releasable
from paidonce.gateways.base import CaptureMethod
from paidonce.money import Money
from paidonce.payments import Operation, Payment
from paidonce.ports import SECOND, Microseconds
from paidonce.states import OrderStatus, PaymentStatus
from paidonce.store import PayableOrder

_S = PaymentStatus


@dataclass(frozen=True, slots=True)
class PaymentFacts:
    """One attempt to pay, with all that is open behind it."""

    payment: Payment
    refunds: tuple[Refund, ...]
    disputes: tuple[Dispute, ...]
    taking: Operation | None  # The capture or authorization that is recorded and not answered yet.
    creating: bool  # The call that creates the gateway's object is not answered yet.
    voiding: bool
    left: Money  # What can still be refunded.
    has_gateway: bool  # Whether its gateway has keys here.
    trouble: str | None  # Why the gateway rejects what we ask, if nothing went well since.
    too_slow: bool  # The bank takes longer than goods are kept.
    by_hand: bool  # Its gateway knows nothing but what staff enter.
    surplus: Money | None = None  # The buyer's money that lies at the gateway and pays nothing.

    @property
    def disputed(self) -> bool:
        """Whether a dispute is open."""
        return any(dispute.state == "open" for dispute in self.disputes)

    @property
    def unfinished(self) -> bool:
        """Whether its gateway still has to be asked for something."""
        running = any(refund.state in ("recorded", "pending") for refund in self.refunds)
        return self.payment.is_open or running or self.disputed or self.voiding or self.surplus is not None

    @property
    def can_refund(self) -> bool:
        """Whether staff may refund now."""
        moved = self.payment.capture_ref is not None and bool(self.left.minor)
        return moved and not self.disputed and self.has_gateway

    @property
    def can_capture(self) -> bool:
        """Whether staff may capture now."""
        reserved = self.payment.status is _S.AUTHORIZED and self.taking is None
        return reserved and not self.voiding and self.has_gateway

    @property
    def can_void(self) -> bool:
        """Whether staff may release or end it now."""
        unanswered = () if self.taking is None else (self.taking,)
        return is_releasable(self.payment, unanswered) and not self.voiding and self.has_gateway

    @property
    def last_refund_failed(self) -> bool:
        """Whether the newest refund failed, so that its money is still here."""
        return bool(self.refunds) and self.refunds[-1].state == "failed" and bool(self.left.minor)

    def refund_in(self, state: str) -> Refund | None:
        """The oldest refund in that state, or None."""
        return next((refund for refund in self.refunds if refund.state == state), None)


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """An order with its payments, and what is open beside them."""

    order: PayableOrder
    payments: tuple[PaymentFacts, ...]
    given_up: bool  # An event could not be delivered to the merchant's systems.
    events_waiting: bool  # A gateway's event has not had its effect yet.
    contradiction: str | None  # What the gateway said lately against our books.
    now: Microseconds


@dataclass(frozen=True, slots=True)
class NextAction:
    """The one safe next step. `act` is False where waiting is all there is to do."""

    code: str
    act: bool
    what: str
    payment_id: str | None = None
    look_at: Microseconds | None = None  # When recovery looks at the payment next.


@dataclass(frozen=True, slots=True)
class _PaymentRule:
    code: str
    act: bool
    applies: Callable[[PaymentFacts], bool]
    what: str


@dataclass(frozen=True, slots=True)
class _OrderRule:
    code: str
    act: bool
    applies: Callable[[OrderFacts], bool]
    what: str


PAYMENT_RULES = (
    _PaymentRule(
        "set_gateway_keys",
        True,
        lambda one: one.unfinished and not one.has_gateway,
        "Set the keys of {gateway} again: this payment is not finished, and without keys nobody can ask about it.",
    ),
    _PaymentRule(
        "mend_gateway",
        True,
        lambda one: one.unfinished and one.trouble is not None,
        "{gateway} rejects what we ask: {trouble}. Check its keys, its account and the object {object} there. "
        "Don't charge or refund by hand; recovery goes on by itself once that is mended. It looks again {look}.",
    ),
    _PaymentRule(
        "wait_for_capture_answer",
        False,
        lambda one: one.taking is not None,
        "Wait. {gateway} has been asked for {taking} and has not answered clearly, so it may have happened. Don't "
        "charge, refund or void by hand: recovery asks again with the same key, or looks the object {object} up, "
        "{look}.",
    ),
    _PaymentRule(
        "answer_dispute",
        True,
        lambda one: one.disputed,
        "Answer the dispute {dispute} over {dispute_amount} at {gateway}, before the date that is shown there. Don't "
        "refund meanwhile, or the buyer could get the money twice. What is decided is booked by itself.",
    ),
    _PaymentRule(
        "wait_for_refund_answer",
        False,
        lambda one: one.refund_in("recorded") is not None,
        "Wait. The refund {recorded} is recorded and not confirmed yet. Don't refund it again and don't refund at the "
        "gateway by hand: recovery carries it out, or finds out what became of it, {look}.",
    ),
    _PaymentRule(
        "refund_owed_money",
        True,
        lambda one: one.payment.owed_to_buyer and one.last_refund_failed and one.refund_in("pending") is None,
        "Refund again: {left} belong to the buyer, and the last refund failed ({failure}).",
    ),
    _PaymentRule(
        "refund_again",
        True,
        lambda one: one.last_refund_failed and one.refund_in("pending") is None,
        "The last refund, of {failed}, failed ({failure}). If the buyer still has to get this money, refund it again; "
        "up to {left} can be refunded.",
    ),
    _PaymentRule(
        "compare_held_money",
        True,
        lambda one: (
            one.payment.status is _S.HELD
            and one.payment.capture_ref is not None
            and bool(one.left.minor)
            and one.refund_in("pending") is None
        ),
        "Compare the object {object} at {gateway} with this order: it contradicts it ({held}), and {left} were "
        "captured. Nothing was paid by it and nothing goes back by itself. Refund it once you know whose money it is.",
    ),
    _PaymentRule(
        "send_refund_by_hand",
        True,
        lambda one: one.by_hand and one.refund_in("pending") is not None,
        "Send the buyer {pending} by hand, then enter on this payment that it was sent, or why it could not be. Nobody "
        "else does it.",
    ),
    _PaymentRule(
        "send_surplus_back",
        True,
        lambda one: one.surplus is not None,
        "Send {surplus} back to the buyer: it lies at {gateway} and pays nothing here, since it was too much, or came "
        "too late. Then enter that where this payment is kept. Nobody else does it.",
    ),
    _PaymentRule(
        "wait_for_refund",
        False,
        lambda one: one.refund_in("pending") is not None,
        "Wait. {gateway} has taken on the refund of {pending} and needs some days for it. We look again {look}.",
    ),
    _PaymentRule(
        "wait_for_void",
        False,
        lambda one: one.voiding,
        "Wait. The payment is being ended at {gateway}; recovery repeats that until it is certain, next {look}.",
    ),
    _PaymentRule(
        "void_held_payment",
        True,
        lambda one: one.payment.status is _S.HELD and one.payment.capture_ref is None,
        "Void this payment: it contradicts the order ({held}) and holds no money. Until it is ended, the buyer can't "
        "pay this order.",
    ),
    _PaymentRule(
        "capture_or_void",
        True,
        lambda one: one.payment.status is _S.AUTHORIZED and one.payment.capture_method is CaptureMethod.MANUAL,
        "Capture the reserved {amount} when the goods leave, or void the payment. {gateway} shows until when the "
        "reservation lasts; after that the money is free again and the order unpaid.",
    ),
    _PaymentRule(
        "wait_for_capture",
        False,
        lambda one: one.payment.status is _S.AUTHORIZED,
        "Wait. {amount} are reserved, and recovery captures them {look}.",
    ),
    _PaymentRule(
        "ask_about_slow_money",
        True,
        lambda one: one.payment.status is _S.PROCESSING and one.too_slow,
        "Ask {gateway} about the object {object}: the bank takes longer than the goods were kept ({reason}). The buyer "
        "can't pay another way meanwhile.",
    ),
    _PaymentRule(
        "wait_for_bank",
        False,
        lambda one: one.payment.status is _S.PROCESSING,
        "Wait. The money is under way and the bank needs time for it, up to some days ({reason}). The goods stay "
        "reserved and the buyer must not pay again. We look again {look}.",
    ),
    _PaymentRule(
        "wait_for_creation",
        False,
        lambda one: one.creating,
        "Wait. {gateway} has not answered to the opening of the payment yet. No money can have moved; recovery asks "
        "again {look}.",
    ),
    _PaymentRule(
        "enter_awaited_money",
        False,
        lambda one: one.by_hand and one.payment.is_awaited,
        "Wait for the money ({reason}), and enter it on this payment as soon as it is there. Until then the buyer may "
        "still pay another way.",
    ),
    _PaymentRule(
        "wait_for_awaited_money",
        False,
        lambda one: one.payment.is_awaited,
        "Wait. The buyer has gone to pay elsewhere ({reason}), and the money comes by itself. We look again {look}.",
    ),
    _PaymentRule(
        "wait_for_buyer",
        False,
        lambda one: one.payment.status is _S.AWAITING_BUYER,
        "Wait for the buyer, who has not confirmed the payment. Nothing was charged, and it ends by itself.",
    ),
)

ORDER_RULES = (
    _OrderRule(
        "replay_events",
        True,
        lambda facts: facts.given_up,
        "Mend the system that could not be told of this order (the timeline names it), then run: "
        "paidonce events replay --order {order}",
    ),
    _OrderRule(
        "compare_with_gateway",
        True,
        lambda facts: facts.contradiction is not None,
        "Compare this order with the gateway, which said something else lately: {contradiction}. Our books stay as "
        "they are.",
    ),
    _OrderRule(
        "wait_for_event",
        False,
        lambda facts: facts.events_waiting,
        "Wait. An event of the gateway has not had its effect yet; it is tried again by itself.",
    ),
    _OrderRule(
        "wait_for_payment",
        False,
        lambda facts: facts.order.status is OrderStatus.OPEN,
        "Wait for the buyer: nothing was paid and nothing is under way. {closing}",
    ),
)


def next_action(facts: OrderFacts) -> NextAction | None:
    """What to do, or None if nothing is open."""
    for rule in PAYMENT_RULES:
        for one in facts.payments:
            if rule.applies(one):
                what = rule.what.format(**_words(one, facts.now))
                return NextAction(rule.code, rule.act, printable(what), one.payment.id, one.payment.due_at)
    for order_rule in ORDER_RULES:
        if order_rule.applies(facts):
            what = order_rule.what.format(**_order_words(facts))
            return NextAction(order_rule.code, order_rule.act, printable(what))
    return None


def _words(one: PaymentFacts, now: Microseconds) -> dict[str, str]:
    payment, taking = one.payment, one.taking
    dispute = next((dispute for dispute in one.disputes if dispute.state == "open"), None)
    recorded, pending = one.refund_in("recorded"), one.refund_in("pending")
    failed = one.refunds[-1] if one.refunds else None
    return {
        "gateway": payment.gateway,
        "object": payment.gateway_ref or "(not known yet)",
        "amount": str(payment.amount),
        "left": str(one.left),
        "surplus": str(one.surplus or ""),
        "trouble": one.trouble or "",
        "taking": _taking_in_words(taking),
        "look": look_in_words(payment.due_at, now),
        "reason": payment.pending_reason or "no reason was given",
        "held": payment.held_reason or "no reason was kept",
        "dispute": "" if dispute is None else dispute.gateway_ref,
        "dispute_amount": "" if dispute is None else str(dispute.amount),
        "recorded": "" if recorded is None else f"of {recorded.amount} ({recorded.id})",
        "pending": "" if pending is None else f"{pending.amount} ({pending.id})",
        "failed": "" if failed is None else str(failed.amount),
        "failure": "no reason was given" if failed is None else failed.failure_reason or "no reason was given",
    }


def _taking_in_words(taking: Operation | None) -> str:
    if taking is None:
        return ""
    return f"a {'reservation' if taking.kind == 'authorize' else 'capture'} of {taking.amount}"


def _order_words(facts: OrderFacts) -> dict[str, str]:
    ends = facts.order.expires_at
    return {
        "order": facts.order.id,
        "contradiction": facts.contradiction or "",
        "closing": "" if ends is None else f"The order closes by itself at {clock_time(ends)}.",
    }


def look_in_words(due_at: Microseconds | None, now: Microseconds) -> str:
    """When recovery looks at a payment next, as the end of a sentence."""
    if due_at is None:
        return "when there is news"
    return "now" if due_at <= now else f"at {clock_time(due_at)}"


def clock_time(moment: Microseconds) -> str:
    """A moment to the second, in UTC."""
    return datetime.fromtimestamp(moment // SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def printable(text: str) -> str:
    """`text` without characters that could move a terminal's cursor or break a line: gateways and people wrote it."""
    return "".join(char if char.isprintable() else " " for char in text)
