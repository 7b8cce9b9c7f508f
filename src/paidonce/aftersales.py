"""What happens to captured money later: refunds and disputes, as rows, and as the gateway's news of them.

Everything here runs inside the settling transaction. Refunds are counted by object, never by totals, so that a
cumulative figure of the gateway can't be read as a second refund.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from paidonce import invariants, journal, payments
from paidonce.case import Case, intend, reopen_order
from paidonce.gateways.base import DisputeProgress, DisputeSnapshot, RefundProgress, RefundSnapshot, Snapshot
from paidonce.journal import Account, Kind
from paidonce.money import Money
from paidonce.payments import Payment
from paidonce.ports import Microseconds, Row, Transaction
from paidonce.schedule import Unfinished, rescheduled
from paidonce.states import PaymentStatus, RefundStatus

_RANK = {"recorded": 0, "pending": 1, "succeeded": 2, "failed": 3}
_STATE = {
    RefundProgress.PENDING: "pending",
    RefundProgress.SUCCEEDED: "succeeded",
    RefundProgress.FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class Refund:
    """One refund, whoever made it. `state`: recorded (not answered yet), pending, succeeded, failed."""

    id: str
    payment_id: str
    order_id: str
    gateway: str
    gateway_ref: str | None
    operation_id: str | None
    amount: Money
    origin: str  # staff, automatic, or gateway (made at its dashboard)
    state: str
    reason: str | None
    restock: bool
    actor: str
    request_key: str | None
    failure_reason: str | None
    created_at: Microseconds


@dataclass(frozen=True, slots=True)
class Dispute:
    """One dispute. `withdrawn`: the gateway has taken the amount from the merchant."""

    gateway: str
    gateway_ref: str
    payment_id: str
    order_id: str
    amount: Money
    state: str
    withdrawn: bool
    reason: str | None
    created_at: Microseconds


def _refund(row: Row) -> Refund:
    return Refund(
        id=row["id"],
        payment_id=row["payment_id"],
        order_id=row["order_id"],
        gateway=row["gateway"],
        gateway_ref=row["gateway_ref"],
        operation_id=row["operation_id"],
        amount=Money(row["amount_minor"], row["currency"]),
        origin=row["origin"],
        state=row["state"],
        reason=row["reason"],
        restock=bool(row["restock"]),
        actor=row["actor"],
        request_key=row["request_key"],
        failure_reason=row["failure_reason"],
        created_at=row["created_at"],
    )


def _dispute(row: Row) -> Dispute:
    return Dispute(
        gateway=row["gateway"],
        gateway_ref=row["gateway_ref"],
        payment_id=row["payment_id"],
        order_id=row["order_id"],
        amount=Money(row["amount_minor"], row["currency"]),
        state=row["state"],
        withdrawn=bool(row["withdrawn"]),
        reason=row["reason"],
        created_at=row["created_at"],
    )


# ── Reading ──────────


async def refunds_of(tx: Transaction, payment_id: str) -> list[Refund]:
    """A payment's refunds, oldest first."""
    rows = await tx.fetch_all(
        "SELECT * FROM refunds WHERE payment_id = :id ORDER BY created_at, id", {"id": payment_id}
    )
    return [_refund(row) for row in rows]


async def find_refund(tx: Transaction, refund_id: str) -> Refund | None:
    """The refund with our id."""
    row = await tx.fetch_one("SELECT * FROM refunds WHERE id = :id", {"id": refund_id})
    return None if row is None else _refund(row)


async def refund_of_request(tx: Transaction, payment_id: str, request_key: str) -> Refund | None:
    """The refund that the client's own key made before."""
    row = await tx.fetch_one(
        "SELECT * FROM refunds WHERE payment_id = :id AND request_key = :key", {"id": payment_id, "key": request_key}
    )
    return None if row is None else _refund(row)


async def disputes_of(tx: Transaction, payment_id: str) -> list[Dispute]:
    """A payment's disputes, oldest first."""
    rows = await tx.fetch_all(
        "SELECT * FROM disputes WHERE payment_id = :id ORDER BY created_at, gateway_ref", {"id": payment_id}
    )
    return [_dispute(row) for row in rows]


async def is_disputed(tx: Transaction, payment_id: str) -> bool:
    """Whether a dispute is open, so that refunding could give the buyer the money twice."""
    return any(dispute.state == "open" for dispute in await disputes_of(tx, payment_id))


async def captured_of(tx: Transaction, payment: Payment) -> Money:
    """What was captured, which a contradicting gateway may have done in another currency than agreed on."""
    agreed = Money(payment.captured_minor, payment.amount.currency)
    if agreed.minor or payment.capture_ref is None:
        return agreed
    booked = await journal.booked_amount(tx, Kind.CAPTURE, payment.gateway, payment.capture_ref)
    return booked or agreed


async def left_to_refund(tx: Transaction, payment: Payment) -> Money:
    """What is captured less what went back, is going back, or was lost in a dispute (invariant I5)."""
    return await _left_beside(tx, payment, [one for one in await refunds_of(tx, payment.id) if one.state != "failed"])


async def _left_beside(tx: Transaction, payment: Payment, refunds: Sequence[Refund]) -> Money:
    """What is captured less these refunds and what was lost in disputes."""
    captured = await captured_of(tx, payment)
    back = [one.amount for one in refunds]
    back += [one.amount for one in await disputes_of(tx, payment.id) if one.state == "lost"]
    gone = sum(one.minor for one in back if one.currency == captured.currency)
    return Money(max(captured.minor - gone, 0), captured.currency)


async def unfinished(tx: Transaction, payment: Payment) -> Unfinished:
    """Whether a void, refund, dispute or surplus behind the payment is still open, so recovery has to look again."""
    if await payments.recorded(tx, payment.id, "void"):
        return Unfinished.OURS
    # As long as the buyer's money lies there, somebody has to be reminded of it.
    surplus = await surplus_of(tx, payment) is not None
    ended = payment.status in (PaymentStatus.FAILED, PaymentStatus.CANCELED)
    if ended and not surplus and await payments.takings(tx, payment.id):
        return Unfinished.DOUBT
    states = {refund.state for refund in await refunds_of(tx, payment.id)}
    if await is_disputed(tx, payment.id):
        # What is still to be refunded waits for the dispute.
        return Unfinished.THEIRS
    if "recorded" in states:
        return Unfinished.OURS
    return Unfinished.THEIRS if surplus or "pending" in states else Unfinished.NOTHING


# ── Money that is there and pays nothing ──────────

_SURPLUS = "payment.surplus"


async def surplus_of(tx: Transaction, payment: Payment) -> Money | None:
    """The buyer's money at the gateway beyond what was captured, as it was told last; None if there is none."""
    told = await journal.details(tx, _SURPLUS, order_id=payment.order_id, payment_id=payment.id)
    return Money(told[-1]["amount"], told[-1]["currency"]) if told and told[-1]["amount"] > 0 else None


async def keep_surplus(case: Case, told: Money) -> None:
    """Write down what the gateway says of it, where that is new; recovery looks until it is gone."""
    surplus = told if told.minor > 0 else None
    if surplus == await surplus_of(case.tx, case.payment):
        return
    await case.note(_SURPLUS, amount=max(told.minor, 0), currency=told.currency)
    if surplus is not None:
        await case.look_soon()


# ── Intentions ──────────

_INSERT_REFUND = """
INSERT INTO refunds (id, payment_id, order_id, gateway, gateway_ref, operation_id, amount_minor, currency, origin,
    state, reason, restock, actor, request_key, created_at, updated_at)
VALUES (:id, :payment_id, :order_id, :gateway, :gateway_ref, :operation_id, :amount_minor, :currency, :origin,
    :state, :reason, :restock, :actor, :request_key, :now, :now)
"""


async def _insert_refund(tx: Transaction, refund: Refund) -> None:
    await tx.execute(
        _INSERT_REFUND,
        {
            "id": refund.id,
            "payment_id": refund.payment_id,
            "order_id": refund.order_id,
            "gateway": refund.gateway,
            "gateway_ref": refund.gateway_ref,
            "operation_id": refund.operation_id,
            "amount_minor": refund.amount.minor,
            "currency": refund.amount.currency,
            "origin": refund.origin,
            "state": refund.state,
            "reason": refund.reason,
            "restock": int(refund.restock),
            "actor": refund.actor,
            "request_key": refund.request_key,
            "now": refund.created_at,
        },
    )


async def intend_refund(
    case: Case,
    amount: Money,
    *,
    origin: str,
    actor: str,
    reason: str | None,
    restock: bool = False,
    request_key: str | None = None,
    refund_id: str | None = None,
) -> Refund:
    """Write a refund down with its operation and key, before any call. The caller has checked `left_to_refund`.

    Raises `AssertionError`, so that nothing is written, if it would give back more than was captured (invariant I5).
    """
    await invariants.require_room(case, amount)
    refund_id = refund_id or case.core.ids.new("ref")
    request = {"amount": amount.minor, "currency": amount.currency, "refund_id": refund_id}
    # Staff wait for the answer, so their request makes the call itself; an automatic refund is left to recovery.
    claimed = origin == "staff"
    operation = await intend(case.tx, case.core, case.payment, "refund", request, claimed=claimed)
    refund = Refund(
        id=refund_id,
        payment_id=case.payment.id,
        order_id=case.order.id,
        gateway=case.payment.gateway,
        gateway_ref=None,
        operation_id=operation.id,
        amount=amount,
        origin=origin,
        state="recorded",
        reason=reason,
        restock=restock,
        actor=actor,
        request_key=request_key,
        failure_reason=None,
        created_at=case.now,
    )
    await _insert_refund(case.tx, refund)
    await case.note(
        "refund.intended", refund=refund.id, amount=amount.minor, currency=amount.currency, origin=origin, reason=reason
    )
    await case.look_soon()
    return refund


async def intend_automatic_refund(case: Case, captured: Money, reason: str) -> None:
    """Money that found no order goes back by itself: written down here, carried out by recovery."""
    if await refunds_of(case.tx, case.payment.id):
        return
    if (broken := await invariants.without_room(case, captured)) is not None:
        # Raising would hide the capture that the gateway has just told of; so only the refund is left to a person.
        await invariants.tell(case, broken)
        return
    await intend_refund(case, captured, origin="automatic", actor="paidonce", reason=reason)
    await case.emit("alarm.refund_due", amount=captured.minor, currency=captured.currency, reason=reason)


# ── The gateway's news ──────────


async def apply(case: Case, snapshot: Snapshot) -> None:
    """Book what the snapshot says of fee, refunds and disputes of a captured payment. Repeating it changes nothing."""
    if case.payment.capture_ref is None:
        return
    if snapshot.fee is not None and snapshot.fee.minor:
        await case.book(
            Kind.FEE, case.payment.capture_ref, snapshot.fee, debit=Account.GATEWAY_FEES, credit=case.balance
        )
    for told in snapshot.refunds or ():
        await apply_refund(case, told)
    if snapshot.refunds:
        await _drop_refunds_without_room(case)
    for dispute in snapshot.disputes or ():
        await _apply_dispute(case, dispute)


async def apply_refund(case: Case, told: RefundSnapshot) -> None:
    """One refund as the gateway tells it: ours by its id, or one made at the gateway's dashboard."""
    if told.amount.minor <= 0:
        # Nothing moved, so there is nothing to book.
        return
    refund = await _known_refund(case, told) or await _adopt(case, told)
    state = _STATE[told.progress]
    if told.amount != refund.amount:
        await case.alarm("refund_contradiction", refund=refund.id, object=told.ref, again_seconds=24 * 3600)
        refund = replace(refund, amount=told.amount)
    # News can be late: what has succeeded does not become pending again, and what failed at the gateway stays so. A
    # failure that we only concluded, from a refusal, gives way to the gateway's own object.
    concluded = refund.state == "failed" and refund.gateway_ref is None
    if _RANK[state] <= _RANK[refund.state] and not concluded:
        return
    was, refund = refund.state, replace(refund, state=state, gateway_ref=told.ref, failure_reason=told.failure_reason)
    await _save_refund(case, refund)
    if refund.operation_id is not None:
        ended = "refused" if state == "failed" else "succeeded"
        await payments.finish(case.tx, refund.operation_id, ended, now=case.now)
    await _book_refund(case, refund, was)
    if refund.restock and state in ("pending", "succeeded"):
        await case.core.store.restock(case.tx, case.order.id, payment_id=case.payment.id, now=case.now)
    await _tell_refund(case, refund, told)
    await _sum_up(case)


async def _known_refund(case: Case, told: RefundSnapshot) -> Refund | None:
    refunds = await refunds_of(case.tx, case.payment.id)
    by_ref = next((one for one in refunds if one.gateway_ref == told.ref), None)
    by_id = next((one for one in refunds if one.id == told.refund_id and one.gateway_ref in (None, told.ref)), None)
    return by_ref or by_id


async def _adopt(case: Case, told: RefundSnapshot) -> Refund:
    """Keep a refund that somebody made at the gateway, without any operation of ours."""
    refund = Refund(
        id=case.core.ids.new("ref"),
        payment_id=case.payment.id,
        order_id=case.order.id,
        gateway=case.payment.gateway,
        gateway_ref=told.ref,
        operation_id=None,
        amount=told.amount,
        origin="gateway",
        state="recorded",
        reason=None,
        restock=False,
        actor=case.payment.gateway,
        request_key=None,
        failure_reason=None,
        created_at=case.now,
    )
    await _insert_refund(case.tx, refund)
    await case.note("refund.found", refund=refund.id, object=told.ref, amount=told.amount.minor)
    return refund


async def _save_refund(case: Case, refund: Refund) -> None:
    await case.tx.execute(
        "UPDATE refunds SET state = :state, gateway_ref = :gateway_ref, amount_minor = :amount,"
        " failure_reason = :failure_reason, updated_at = :now WHERE id = :id",
        {
            "id": refund.id,
            "state": refund.state,
            "gateway_ref": refund.gateway_ref,
            "amount": refund.amount.minor,
            "failure_reason": refund.failure_reason,
            "now": case.now,
        },
    )


async def _book_refund(case: Case, refund: Refund, was: str) -> None:
    """A refund is booked when it succeeds, and taken back if it fails after that."""
    assert refund.gateway_ref is not None
    assert case.payment.capture_ref is not None
    account = await journal.credited_account(case.tx, case.payment.gateway, case.payment.capture_ref)
    account = account or str(Account.SUSPENSE)
    if refund.state == "succeeded":
        await case.book(Kind.REFUND, refund.gateway_ref, refund.amount, debit=account, credit=case.balance)
    elif refund.state == "failed" and was == "succeeded":
        await case.book(Kind.REFUND_FAILED, refund.gateway_ref, refund.amount, debit=case.balance, credit=account)


async def _tell_refund(case: Case, refund: Refund, told: RefundSnapshot) -> None:
    facts: dict[str, Any] = {
        "refund": refund.id,
        "object": told.ref,
        "amount": refund.amount.minor,
        "currency": refund.amount.currency,
        "failure": refund.failure_reason,
    }
    await case.note(f"refund.{refund.state}", raw_status=told.raw_status, request_id=told.request_id, **facts)
    if refund.state == "succeeded":
        await case.emit("refund.succeeded", **facts)
    elif refund.state == "failed":
        await case.emit("refund.failed", **facts)
        await case.alarm("refund_failed", **facts, next_step="The buyer still has to get this money: refund it again.")


async def fail_refund(case: Case, refund: Refund, reason: str, *, replaced: bool = False) -> None:
    """A refund that certainly did not happen and never will under its key; `replaced` if another takes its place."""
    refund = replace(refund, state="failed", failure_reason=reason)
    await _save_refund(case, refund)
    if refund.operation_id is not None:
        await payments.finish(case.tx, refund.operation_id, "refused", now=case.now)
    facts: dict[str, Any] = {
        "refund": refund.id,
        "amount": refund.amount.minor,
        "currency": refund.amount.currency,
        "failure": reason,
    }
    await case.note("refund.failed", **facts)
    await case.emit("refund.failed", **facts)
    if refund.origin == "automatic" and not replaced and (await left_to_refund(case.tx, case.payment)).minor:
        await case.alarm("refund_failed", **facts, next_step="The buyer still has to get this money: refund it again.")
    await _sum_up(case)


async def _drop_refunds_without_room(case: Case) -> None:
    """End recorded refunds that the gateway will refuse, since others were made there and nothing is left for them."""
    refunds = await refunds_of(case.tx, case.payment.id)
    made = [one for one in refunds if one.state in ("pending", "succeeded")]
    left = (await _left_beside(case.tx, case.payment, made)).minor
    for refund in refunds:
        if refund.state != "recorded":
            continue
        if refund.amount.minor <= left:
            left -= refund.amount.minor
            continue
        await _drop(case, refund)


async def _drop(case: Case, refund: Refund) -> None:
    """End a refund without room. One of ours leaves the rest, if there is one, to another of ours.

    The gateway can't have carried the first one out, so the buyer gets that rest by itself and no more than it.
    """
    known = await refunds_of(case.tx, case.payment.id)
    others = [one for one in known if one.state != "failed" and one.id != refund.id]
    rest = await _left_beside(case.tx, case.payment, others)
    again = refund.origin == "automatic" and rest.minor > 0
    reason = "the money went back by another refund, made at the gateway"
    await fail_refund(case, refund, reason, replaced=again)
    if again:
        await intend_refund(case, rest, origin="automatic", actor="paidonce", reason=refund.reason)


async def _sum_up(case: Case) -> None:
    """Payment and order say how much has gone back. The refund of a surplus does not touch the paid order."""
    refunds = await refunds_of(case.tx, case.payment.id)
    captured = await captured_of(case.tx, case.payment)
    back = [refund.amount for refund in refunds if refund.state == "succeeded"]
    gone = sum(one.minor for one in back if one.currency == captured.currency)
    status = RefundStatus.NONE
    if back:
        status = RefundStatus.FULL if 0 < captured.minor <= gone else RefundStatus.PARTIAL
    changed = replace(case.payment, refund_status=status)
    if changed.status is PaymentStatus.HELD and status is RefundStatus.FULL:
        # All of it went back, so the order may be paid anew.
        changed = replace(changed, capture_right=None)
        await reopen_order(case)
    await _reschedule(case, changed)
    if case.payment.status is PaymentStatus.CAPTURED and not case.payment.owed_to_buyer:
        await case.core.store.mark_refunded(case.tx, case.order, status, now=case.now)


async def _reschedule(case: Case, changed: Payment) -> None:
    still_open = await unfinished(case.tx, changed)
    case.payment = rescheduled(case.core.policy, changed, now=case.now, unfinished=still_open)
    await payments.save(case.tx, case.payment, now=case.now)


# ── Disputes ──────────


async def _apply_dispute(case: Case, told: DisputeSnapshot) -> None:
    known = next((one for one in await disputes_of(case.tx, case.payment.id) if one.gateway_ref == told.ref), None)
    if known is not None and known.state != "open":
        if told.progress is not DisputeProgress.OPEN and str(told.progress) != known.state:
            await _apply_change_behind_the_end(case, told)
        return
    withdrawn = told.withdrawn or told.progress is DisputeProgress.LOST
    state = str(told.progress)
    if known is not None and (known.state, known.withdrawn, known.amount) == (state, withdrawn, told.amount):
        return
    await _save_dispute(case, told, state=state, withdrawn=withdrawn, is_new=known is None)
    if withdrawn:
        await case.book(Kind.DISPUTE_OPENED, told.ref, told.amount, debit=Account.DISPUTED, credit=case.balance)
    if known is None:
        await _tell_dispute(case, told, "opened")
    if told.progress is DisputeProgress.OPEN:
        return
    await _book_end(case, told)
    await _tell_dispute(case, told, state)


async def _apply_change_behind_the_end(case: Case, told: DisputeSnapshot) -> None:
    """A loss may be reversed long afterwards, and the money is back then; any other change is for a person."""
    ref, gateway = told.ref, case.payment.gateway
    lost = await journal.booked_amount(case.tx, Kind.DISPUTE_LOST, gateway, ref)
    partly_back = await journal.booked_amount(case.tx, Kind.DISPUTE_WON, gateway, ref)
    if told.progress is not DisputeProgress.WON or lost is None or partly_back is not None:
        await case.alarm("dispute_changed", object=ref, said=told.raw_status, again_seconds=24 * 3600)
        return
    await _save_dispute(case, told, state=str(told.progress), withdrawn=told.withdrawn, is_new=False)
    await case.book(Kind.DISPUTE_WON, ref, lost, debit=case.balance, credit=Account.DISPUTE_LOSSES)
    await _tell_dispute(case, told, str(told.progress))
    left = await left_to_refund(case.tx, case.payment)
    if case.payment.owed_to_buyer and left.minor and await invariants.without_room(case, left) is None:
        # While it was lost there was nothing to send back; now it goes where it belongs.
        await intend_refund(case, left, origin="automatic", actor="paidonce", reason="a lost dispute was reversed")
        await case.emit("alarm.refund_due", amount=left.minor, currency=left.currency, reason="dispute reversed")


async def _book_end(case: Case, told: DisputeSnapshot) -> None:
    """A dispute may be lost for less than was withdrawn; the rest has come back then."""
    withdrawn = await journal.booked_amount(case.tx, Kind.DISPUTE_OPENED, case.payment.gateway, told.ref)
    if withdrawn is None:
        return
    lost = told.amount if told.progress is DisputeProgress.LOST else Money(0, withdrawn.currency)
    if lost.minor:
        await case.book(Kind.DISPUTE_LOST, told.ref, lost, debit=Account.DISPUTE_LOSSES, credit=Account.DISPUTED)
    back = withdrawn - lost
    if back.minor < 0:
        # More was lost than had been withdrawn before: the rest went at the end.
        rest = Money(-back.minor, back.currency)
        await case.book(Kind.DISPUTE_REST, told.ref, rest, debit=Account.DISPUTED, credit=case.balance)
    if back.minor > 0:
        await case.book(Kind.DISPUTE_WON, told.ref, back, debit=case.balance, credit=Account.DISPUTED)


_SAVE_DISPUTE = """
INSERT INTO disputes (gateway, gateway_ref, payment_id, order_id, amount_minor, currency, state, withdrawn, reason,
    created_at, updated_at)
VALUES (:gateway, :ref, :payment_id, :order_id, :amount, :currency, :state, :withdrawn, :reason, :now, :now)
ON CONFLICT (gateway, gateway_ref) DO UPDATE SET amount_minor = excluded.amount_minor, state = excluded.state,
    withdrawn = excluded.withdrawn, updated_at = excluded.updated_at
"""


async def _save_dispute(case: Case, told: DisputeSnapshot, *, state: str, withdrawn: bool, is_new: bool) -> None:
    await case.tx.execute(
        _SAVE_DISPUTE,
        {
            "gateway": case.payment.gateway,
            "ref": told.ref,
            "payment_id": case.payment.id,
            "order_id": case.order.id,
            "amount": told.amount.minor,
            "currency": told.amount.currency,
            "state": state,
            "withdrawn": int(withdrawn),
            "reason": told.reason,
            "now": case.now,
        },
    )
    if is_new or state != "open":
        await _reschedule(case, case.payment)


async def _tell_dispute(case: Case, told: DisputeSnapshot, word: str) -> None:
    facts = {
        "dispute": told.ref,
        "amount": told.amount.minor,
        "currency": told.amount.currency,
        "reason": told.reason,
        "raw_status": told.raw_status,
    }
    await case.note(f"dispute.{word}", **facts)
    await case.emit(f"dispute.{word}", **facts)
