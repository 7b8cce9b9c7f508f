"""THE paid transaction: the only way in which a payment becomes captured and an order becomes paid.

`settle()` takes a `Snapshot`, a plain value that some trigger (the buyer's return, a webhook, time) fetched from the
gateway. It calls no gateway, it may be repeated and called in any order, and it writes payment, order, stock, journal,
history and outbox in one transaction. What must happen at a gateway afterwards is written down as an operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from paidonce import journal, outbox, payments
from paidonce.core import Core
from paidonce.errors import NotFound, SoldOut
from paidonce.gateways.base import Progress, Snapshot
from paidonce.payments import Operation, Payment
from paidonce.ports import Microseconds, Transaction
from paidonce.states import OrderStatus, PaymentStatus, advance
from paidonce.store import PayableOrder

_MONEY_HAS_MOVED = frozenset({Progress.CAPTURED, Progress.AUTHORIZED, Progress.PROCESSING})
_ENDED = frozenset({PaymentStatus.CAPTURED, PaymentStatus.FAILED, PaymentStatus.CANCELED})


class Command(StrEnum):
    """What a snapshot asks the caller to do next; `settle` itself only writes."""

    CAPTURE = "capture"


@dataclass(frozen=True, slots=True)
class Settled:
    """Where payment and order stand after the snapshot, and what it asks for.

    `overtaken` means that newer news was known, so that the snapshot changed nothing and asks for nothing.
    """

    payment: Payment
    order: PayableOrder
    command: Command | None = None
    overtaken: bool = False


@dataclass(slots=True)
class _Case:
    """One snapshot inside its transaction, with the rows it is about, locked."""

    core: Core
    tx: Transaction
    snapshot: Snapshot
    payment: Payment
    order: PayableOrder
    operation: Operation | None
    now: Microseconds

    async def save(self, **changes: object) -> None:
        changed = replace(self.payment, **changes)  # type: ignore[arg-type]
        advance(self.payment.status, changed.status)
        self.payment = changed
        await payments.save(self.tx, self.payment, now=self.now)

    async def mark_order(self, status: OrderStatus) -> None:
        await self.core.store.mark(self.tx, self.order, status, now=self.now)
        self.order = replace(self.order, status=status)

    async def note(self, event: str, **detail: object) -> None:
        detail = {"gateway": self.snapshot.gateway, "raw_status": self.snapshot.raw_status, **detail}
        if self.snapshot.request_id is not None:
            detail["request_id"] = self.snapshot.request_id
        await journal.note(
            self.tx, event, order_id=self.order.id, payment_id=self.payment.id, detail=detail, now=self.now
        )

    async def emit(self, event_type: str, **data: object) -> None:
        data = {"payment_id": self.payment.id, "gateway": self.payment.gateway, **data}
        await outbox.emit(self.tx, event_type, order_id=self.order.id, data=data, ids=self.core.ids, now=self.now)


async def settle(
    core: Core, snapshot: Snapshot, *, trigger: str, asked_at: Microseconds, operation: Operation | None = None
) -> Settled:
    """Bring payment, order, stock and books up to what `snapshot` says.

    `trigger` names who asked, for the history. `asked_at` is when the gateway was asked (microseconds), so that an
    answer overtaken by newer news changes nothing. `operation` is the create or capture that this snapshot answers.
    Raises `errors.NotFound` for an object that belongs to no payment of ours, and database errors.
    """
    return await core.db.transaction(_settle, core, snapshot, trigger=trigger, asked_at=asked_at, operation=operation)


async def _settle(
    tx: Transaction,
    core: Core,
    snapshot: Snapshot,
    *,
    trigger: str,
    asked_at: Microseconds,
    operation: Operation | None,
) -> Settled:
    case = await _lock_rows(tx, core, snapshot, operation)
    contradiction = _contradiction(case.payment, case.order, snapshot)
    if contradiction is not None:
        await _hold_for_operator(case, contradiction)
        return Settled(case.payment, case.order)
    if await _comes_too_late(case, asked_at):
        await _keep_what_was_learned(case)
        return Settled(case.payment, case.order, overtaken=True)
    case.payment = replace(case.payment, gateway_ref=snapshot.ref, asked_at=max(asked_at, case.payment.asked_at))
    await _APPLY[snapshot.progress](case, trigger)
    return Settled(case.payment, case.order, _command(case))


def _command(case: _Case) -> Command | None:
    agreed = case.snapshot.progress in (Progress.APPROVED, Progress.AUTHORIZED)
    # An object may stay approved after a decline. Only a buyer who starts again asks for another capture; a browser
    # that repeats its question must not use up the rounds.
    declined = case.payment.decline_code is not None
    return Command.CAPTURE if agreed and case.payment.is_open and not declined else None


async def _lock_rows(tx: Transaction, core: Core, snapshot: Snapshot, operation: Operation | None) -> _Case:
    found = await payments.find_by_ref(tx, snapshot.gateway, snapshot.ref)
    if found is None and snapshot.payment_id is not None:
        # News can overtake the answer to our create call; then the gateway repeats our id before we know its own.
        found = await payments.find(tx, snapshot.payment_id)
        if found is not None and (found.gateway != snapshot.gateway or found.gateway_ref is not None):
            found = None
    if found is None:
        raise NotFound("No payment of this shop belongs to the gateway's object.")
    order = await core.store.find(tx, found.order_id, lock=True)
    payment = await payments.find(tx, found.id, lock=True)
    assert order is not None, "a payment outlived its order"
    assert payment is not None
    if operation is not None:
        operation = await payments.find_operation(tx, operation.id)
    return _Case(core, tx, snapshot, payment, order, operation, core.clock.now())


def _contradiction(payment: Payment, order: PayableOrder, snapshot: Snapshot) -> str | None:
    """What in the gateway's object is not what we agreed on; None if all of it matches."""
    moved = snapshot.progress in _MONEY_HAS_MOVED
    unsure = snapshot.account is None and moved
    checks = (
        ("order's total", moved and payment.is_open and order.total != payment.amount),
        ("amount", snapshot.amount != payment.amount),
        ("captured amount", snapshot.captured not in (None, payment.amount)),
        ("payment id", snapshot.payment_id != payment.id),
        ("order id", snapshot.order_id not in (None, payment.order_id)),
        ("gateway object", payment.gateway_ref not in (None, snapshot.ref)),
        ("account", unsure or snapshot.account not in (None, payment.account)),
        ("live or test mode", snapshot.live != payment.live),
    )
    wrong = [what for what, differs in checks if differs]
    return f"differs from the order: {', '.join(wrong)}" if wrong else None


async def _comes_too_late(case: _Case, asked_at: Microseconds) -> bool:
    """Whether newer news is known, so that this snapshot must change nothing."""
    status, progress = case.payment.status, case.snapshot.progress
    if status in (PaymentStatus.HELD, PaymentStatus.CAPTURED):
        # Of a held payment a person decides, whatever the gateway says meanwhile; a captured one stays so.
        return True
    if status in _ENDED:
        # An ended payment stays ended; only money that shows up behind it is news, and a contradiction.
        return progress not in _MONEY_HAS_MOVED
    if progress in (Progress.CAPTURED, Progress.CANCELED):
        return False
    if case.operation is not None:
        # Somebody may have repeated the call and finished it; then its other answers say nothing new.
        return case.operation.state != "recorded"
    return progress is not Progress.FAILED and await _is_old_news(case, asked_at)


async def _is_old_news(case: _Case, asked_at: Microseconds) -> bool:
    if asked_at < case.payment.asked_at:
        return True
    return case.snapshot.progress is not Progress.PROCESSING and await _capture_was_sent(case)


async def _keep_what_was_learned(case: _Case) -> None:
    """Late news changes no state, but an object that we did not know of must not be forgotten (invariant I4)."""
    if case.payment.gateway_ref is None:
        await case.save(gateway_ref=case.snapshot.ref)
        if case.payment.captures_in_browser and case.snapshot.progress is Progress.AWAITING_BUYER:
            await _intend_void(case, case.payment)
    if case.snapshot.progress is Progress.CANCELED:
        await payments.finish_all(case.tx, case.payment.id, "succeeded", now=case.now)
    if case.payment.status is PaymentStatus.HELD and await _book(case, journal.Account.SUSPENSE):
        await case.note("payment.captured", booked_to=str(journal.Account.SUSPENSE), object=case.snapshot.ref)
        await case.emit("alarm.payment_held", reason="money was captured by a payment that is held")
    await _finish(case, "succeeded")


async def _capture_was_sent(case: _Case) -> bool:
    """Whether a capture of ours is on its way, or was taken on by the gateway and is pending there.

    Then a reading that still shows the object before it is old, whatever the clocks say: only the capture's own answer
    hands the payment back to the buyer.
    """
    capture = await payments.operation_of(case.tx, case.payment.id, "capture")
    return capture is not None and capture.state in ("recorded", "succeeded")


# ── One function per word of the gateway ──────────


async def _apply_awaiting_buyer(case: _Case, trigger: str) -> None:
    decline = case.snapshot.decline
    changes: dict[str, object] = {
        **_decline_columns(case),
        "status": PaymentStatus.AWAITING_BUYER,
        "pending_reason": None,
    }
    if not case.payment.captures_in_browser:
        # Nothing moves until we capture again, so the right is free for whichever gateway captures next.
        changes["capture_right"] = None
    if _was_the_last_round(case):
        await _end(case, PaymentStatus.FAILED, trigger)
        return
    news = case.payment.status, case.payment.decline_code
    await case.save(**changes)
    await _finish(case, "declined" if _is_capture(case) else "succeeded")
    if _is_capture(case) or news != (case.payment.status, case.payment.decline_code):
        detail = {} if decline is None else {"decline": str(decline.code), "raw_code": decline.raw_code}
        await case.note("payment.declined" if decline else "payment.awaiting_buyer", trigger=trigger, **detail)
    await _reopen_order(case)


def _decline_columns(case: _Case) -> dict[str, object]:
    """The newest decline. A gateway that captures at our call tells it only in that call's answer, so it is kept."""
    decline = case.snapshot.decline
    told_once = not case.payment.captures_in_browser and case.payment.status is PaymentStatus.AWAITING_BUYER
    if decline is None and told_once:
        return {}
    return {
        "decline_code": None if decline is None else decline.code,
        "decline_recoverable": decline is not None and decline.recoverable,
    }


def _was_the_last_round(case: _Case) -> bool:
    declined = _is_capture(case) and case.snapshot.decline is not None
    return declined and case.operation is not None and case.operation.round >= case.core.policy.capture_rounds


async def _apply_processing(case: _Case, trigger: str) -> None:
    if case.payment.status in _ENDED:
        await _hold_for_operator(case, "money is under way behind an ended payment")
        return
    was, known_reason = case.payment.status, case.payment.pending_reason
    await case.save(status=PaymentStatus.PROCESSING, pending_reason=case.snapshot.pending_reason)
    if case.operation is not None and _is_capture(case) and case.snapshot.capture_ref is None:
        # The gateway names no capture, so this is no answer yet: the same key asks again.
        await payments.claim(case.tx, case.operation.id, 0)
    else:
        await _finish(case, "succeeded")
    await _make_order_pending(case)
    if was is not PaymentStatus.PROCESSING or case.snapshot.pending_reason != known_reason:
        await case.note("payment.processing", trigger=trigger, reason=case.snapshot.pending_reason)
    if was is not PaymentStatus.PROCESSING:
        await case.emit("payment.pending", reason=case.snapshot.pending_reason)


async def _apply_authorized(case: _Case, trigger: str) -> None:
    if case.payment.status in _ENDED:
        await _hold_for_operator(case, "money was authorized behind an ended payment")
        return
    was = case.payment.status
    await case.save(status=PaymentStatus.AUTHORIZED)
    await _make_order_pending(case)
    if was is not PaymentStatus.AUTHORIZED:
        await case.note("payment.authorized", trigger=trigger)


async def _apply_captured(case: _Case, trigger: str) -> None:
    if case.snapshot.captured is None or case.snapshot.capture_ref is None:
        await _hold_for_operator(case, "the gateway says captured but names no capture")
        return
    if case.payment.status in _ENDED:
        await _hold_for_operator(case, "money was captured behind an ended payment")
        return
    account = await _pay_order(case)
    await case.save(
        status=PaymentStatus.CAPTURED,
        captured_minor=case.snapshot.captured.minor,
        capture_ref=case.snapshot.capture_ref,
        owed_to_buyer=account is journal.Account.OWED_TO_BUYER,
        capture_right="held" if case.payment.capture_right and account is journal.Account.SALES else None,
        decline_code=None,
        decline_recoverable=False,
        pending_reason=None,
        held_reason=None,
    )
    await _book(case, account)
    await _finish(case, "succeeded")
    await payments.finish_all(case.tx, case.payment.id, "succeeded", now=case.now)
    await case.note("payment.captured", trigger=trigger, capture=case.snapshot.capture_ref, booked_to=str(account))
    if account is journal.Account.SALES:
        await case.emit("order.paid", amount=case.payment.amount.minor, currency=case.payment.amount.currency)
    else:
        await _intend_refund(case)
    await _close_other_attempts(case)


async def _apply_failed(case: _Case, trigger: str) -> None:
    await _end(case, PaymentStatus.FAILED, trigger)


async def _apply_canceled(case: _Case, trigger: str) -> None:
    await _end(case, PaymentStatus.CANCELED, trigger)


_APPLY: dict[Progress, Callable[[_Case, str], Awaitable[None]]] = {
    Progress.AWAITING_BUYER: _apply_awaiting_buyer,
    Progress.APPROVED: _apply_awaiting_buyer,
    Progress.PROCESSING: _apply_processing,
    Progress.AUTHORIZED: _apply_authorized,
    Progress.CAPTURED: _apply_captured,
    Progress.FAILED: _apply_failed,
    Progress.CANCELED: _apply_canceled,
}


# ── What they share ──────────


async def _pay_order(case: _Case) -> journal.Account:
    """Take the goods and mark the order paid; the account says whether the money found its order."""
    if case.order.status is OrderStatus.PAID:
        return journal.Account.OWED_TO_BUYER
    store, order_id = case.core.store, case.order.id
    taken = await store.take(case.tx, order_id, payment_id=case.payment.id, now=case.now)
    if not taken and await store.free_expired(case.tx, order_id, now=case.now):
        # Goods that somebody walked away from are better sold than refunded.
        taken = await store.take(case.tx, order_id, payment_id=case.payment.id, now=case.now)
    if not taken:
        return journal.Account.OWED_TO_BUYER
    await case.mark_order(OrderStatus.PAID)
    return journal.Account.SALES


async def _book(case: _Case, account: journal.Account) -> bool:
    snapshot = case.snapshot
    if snapshot.captured is None or snapshot.capture_ref is None:
        return False
    entry = journal.Captured(
        gateway=snapshot.gateway,
        capture_ref=snapshot.capture_ref,
        order_id=case.order.id,
        payment_id=case.payment.id,
        amount=snapshot.captured,
        credit=account,
    )
    return await journal.book_capture(case.tx, entry, ids=case.core.ids, now=case.now)


async def _end(case: _Case, status: PaymentStatus, trigger: str) -> None:
    decline = case.snapshot.decline
    await case.save(
        status=status,
        capture_right=None,
        decline_code=None if decline is None else decline.code,
        decline_recoverable=False,
        pending_reason=None,
    )
    await payments.finish_all(
        case.tx, case.payment.id, "declined" if decline is not None else "succeeded", now=case.now
    )
    await case.note(f"payment.{status}", trigger=trigger, decline=None if decline is None else decline.raw_code)
    if status is PaymentStatus.FAILED:
        await case.emit("payment.failed", decline=None if decline is None else str(decline.code))
    await _reopen_order(case)


async def _hold_for_operator(case: _Case, reason: str) -> None:
    """The gateway contradicts us: nobody is paid and nobody may pay until a person has looked."""
    if case.payment.status is PaymentStatus.CAPTURED:
        # The money is booked and the order paid; a later contradiction is told, and undoes nothing.
        await case.note("payment.contradiction", reason=reason, object=case.snapshot.ref)
        return
    news = (case.payment.status, case.payment.held_reason) != (PaymentStatus.HELD, reason)
    if case.payment.captures_in_browser and case.snapshot.progress is Progress.AWAITING_BUYER:
        # Its client values may be in a browser already; nothing good can come of a buyer who confirms it.
        await _intend_void(case, case.payment)
    known_ref = case.payment.gateway_ref or case.snapshot.ref
    await case.save(status=PaymentStatus.HELD, held_reason=reason, gateway_ref=known_ref)
    await _book(case, journal.Account.SUSPENSE)
    await _finish(case, "succeeded")
    if news:
        await case.note("payment.held", reason=reason, object=case.snapshot.ref)
        await case.emit("alarm.payment_held", reason=reason)


async def _make_order_pending(case: _Case) -> None:
    if case.order.status is OrderStatus.OPEN:
        await case.mark_order(OrderStatus.PENDING)
    await _prolong_hold(case, case.core.policy.pending_until(case.now))


async def _reopen_order(case: _Case) -> None:
    if case.order.status is not OrderStatus.PENDING:
        return
    attempts = await payments.of_order(case.tx, case.order.id)
    if not any(other.status in (PaymentStatus.PROCESSING, PaymentStatus.AUTHORIZED) for other in attempts):
        await case.mark_order(OrderStatus.OPEN)
        await _prolong_hold(case, case.core.policy.hold_until(case.now))


async def _prolong_hold(case: _Case, until: Microseconds) -> None:
    # Goods that are gone can't be held again; the capture will notice and give the money back.
    with contextlib.suppress(SoldOut):
        await case.core.store.hold(case.tx, case.order.id, until=until)


def _is_capture(case: _Case) -> bool:
    return case.operation is not None and case.operation.kind == "capture"


async def _finish(case: _Case, state: str) -> None:
    if case.operation is not None:
        await payments.finish(case.tx, case.operation.id, state, now=case.now)


async def _close_other_attempts(case: _Case) -> None:
    """Once money has been captured for an order, no other attempt may take more, also if it has to go back."""
    for other in await payments.of_order(case.tx, case.order.id, lock=True):
        if other.id == case.payment.id or not other.is_open:
            continue
        if other.captures_in_browser:
            await _intend_void(case, other)
        elif other.capture_right is None:
            # Nothing moves at this gateway without our capture, and there will be none.
            closed = replace(other, status=PaymentStatus.CANCELED)
            await payments.save(case.tx, closed, now=case.now)
            await payments.finish_all(case.tx, other.id, "abandoned", now=case.now)


async def _intend_void(case: _Case, other: Payment) -> None:
    await _intend(case, other.id, "void", {})


async def _intend_refund(case: _Case) -> None:
    """Money that found no order goes back by itself: written down here, carried out afterwards."""
    assert case.snapshot.captured is not None
    reason = "surplus" if case.order.status is OrderStatus.PAID else "goods are gone"
    request = {"amount": case.snapshot.captured.minor, "currency": case.payment.amount.currency, "reason": reason}
    await _intend(case, case.payment.id, "refund", request)
    await case.emit("alarm.refund_due", **request)


async def _intend(case: _Case, payment_id: str, kind: str, request: dict[str, object]) -> None:
    last = await payments.operation_of(case.tx, payment_id, kind)
    if last is not None and last.state == "recorded":
        return
    intention = Operation(
        id=case.core.ids.new("op"),
        payment_id=payment_id,
        kind=kind,
        round=1 if last is None else last.round + 1,
        idempotency_key=case.core.ids.new("key"),
        request=request,
        state="recorded",
        claimed_until=0,
        created_at=case.now,
    )
    await payments.insert_operation(case.tx, intention)
