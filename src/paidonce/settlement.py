"""THE paid transaction: the only way in which a payment becomes captured and an order becomes paid.

`settle()` takes a `Snapshot`, a plain value that some trigger (the buyer's return, a webhook, time) fetched from the
gateway. It calls no gateway, it may be repeated and called in any order, and it writes payment, order, stock, journal,
history and outbox in one transaction. What must happen at a gateway afterwards is written down as an operation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from paidonce import aftersales, bounds, invariants, journal, payments
from paidonce.case import Case, end_payment, intend_void, prolong_hold, reopen_order
from paidonce.core import Core
from paidonce.errors import NotFound
from paidonce.gateways.base import CaptureMethod, Progress, RefundSnapshot, Snapshot
from paidonce.journal import Account
from paidonce.money import Money
from paidonce.payments import Operation, Payment
from paidonce.ports import SECOND, Microseconds, Transaction
from paidonce.states import OrderStatus, PaymentStatus
from paidonce.store import PayableOrder

_MONEY_HAS_MOVED = frozenset({Progress.CAPTURED, Progress.AUTHORIZED, Progress.PROCESSING})
_OVER = frozenset({Progress.CANCELED, Progress.FAILED})
_ENDED = frozenset({PaymentStatus.CAPTURED, PaymentStatus.FAILED, PaymentStatus.CANCELED})
# What our own calls at an approved object bring back in their answers.
_TAKING = ("authorize", "capture")
# What tells for certain how a call that takes money ended.
_TOLD = frozenset({Progress.CAPTURED, Progress.AUTHORIZED, Progress.FAILED, Progress.CANCELED})
_DAY = 24 * 3600
_CLOCKS_DIFFER_SECONDS = 60

Also = Callable[[Transaction], Awaitable[object]]


class Command(StrEnum):
    """What a snapshot asks the caller to do next; `settle` itself only writes."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class Settled:
    """Where payment and order stand after the snapshot, and what it asks for.

    `overtaken` means that newer news was known, so that the snapshot changed nothing and asks for nothing.
    `all_refunds` means that the reading listed every refund, so that one which is missing did not happen.
    """

    payment: Payment
    order: PayableOrder
    command: Command | None = None
    overtaken: bool = False
    all_refunds: bool = False


@dataclass(slots=True)
class _Case(Case):
    """A case with the snapshot that it is about, and the operation that the snapshot answers."""

    snapshot: Snapshot
    operation: Operation | None
    declined: bool = False  # Whether the snapshot told of a declined attempt that was not known yet.

    async def note(self, event: str, **detail: object) -> None:
        told = {"raw_status": self.snapshot.raw_status, "request_id": self.snapshot.request_id}
        await Case.note(self, event, **{**told, **detail})


async def settle(
    core: Core,
    snapshot: Snapshot,
    *,
    trigger: str,
    asked_at: Microseconds,
    operation: Operation | None = None,
    also: Also | None = None,
) -> Settled:
    """Bring payment, order, stock and books up to what `snapshot` says.

    `trigger` names who asked, for the history. `asked_at` is when the gateway was asked (microseconds), so that an
    answer overtaken by newer news changes nothing. `operation` is the create, authorize or capture that this snapshot
    answers. `also` runs in the same transaction, so that what it writes ("this event is done") is true exactly if the
    effect is. Raises `errors.NotFound` for an object that belongs to no payment of ours, and database errors.
    """
    return await core.write(_settle, core, snapshot, trigger=trigger, asked_at=asked_at, operation=operation, also=also)


async def settle_refund(core: Core, payment_id: str, told: RefundSnapshot, *, trigger: str) -> None:
    """Bring a refund and the books up to what the gateway's answer to our refund call says."""
    await core.write(_settle_refund, core, payment_id, told, trigger=trigger)


async def _settle_refund(tx: Transaction, core: Core, payment_id: str, told: RefundSnapshot, *, trigger: str) -> None:
    case = await lock_case(tx, core, payment_id, trigger=trigger)
    await aftersales.apply_refund(case, told)
    await invariants.check(case)


async def lock_case(tx: Transaction, core: Core, payment_id: str, *, trigger: str) -> Case:
    """A known payment with its order, locked in the order that is the same everywhere. Raises `errors.NotFound`."""
    return await _lock_case(tx, core, await payments.find(tx, payment_id), trigger=trigger)


async def _lock_case(tx: Transaction, core: Core, found: Payment | None, *, trigger: str) -> Case:
    order = None if found is None else await core.store.find(tx, found.order_id, lock=True)
    payment = None if found is None else await payments.locked(tx, found)
    if order is None or payment is None:
        raise NotFound("We could not find this payment.")
    return Case(core, tx, payment, order, core.clock.now(), trigger)


async def _settle(
    tx: Transaction,
    core: Core,
    snapshot: Snapshot,
    *,
    trigger: str,
    asked_at: Microseconds,
    operation: Operation | None,
    also: Also | None,
) -> Settled:
    case = await _lock_rows(tx, core, snapshot, operation, trigger)
    settled = await _bring_up_to_date(case, asked_at)
    if case.declined and await bounds.count_decline(case):
        settled = replace(settled, payment=case.payment, command=Command.VOID)
    await _tell_surplus(case)
    await invariants.check(case)
    if also is not None:
        await also(tx)
    return settled


async def _bring_up_to_date(case: _Case, asked_at: Microseconds) -> Settled:
    wrong = await _contradictions(case)
    if wrong:
        # Money at another account or in another mode is not ours to send back.
        ours = not {"account", "live or test mode"} & set(wrong)
        await _hold_for_operator(case, f"differs from the order: {', '.join(wrong)}", refundable=ours)
        if ours:
            # What becomes of its money is told by the same readings that contradict the order.
            await aftersales.apply(case, case.snapshot)
        return Settled(case.payment, case.order, all_refunds=ours and case.snapshot.refunds is not None)
    overtaken = await _comes_too_late(case, asked_at)
    if overtaken:
        await _keep_what_was_learned(case)
    else:
        # How it ended was true when the gateway said so, not only when it was asked: whoever asked before now and reads
        # this later has old news.
        heard_at = case.now if case.snapshot.progress in _OVER else asked_at
        newest = max(heard_at, asked_at, _newest_news(case))
        case.payment = replace(case.payment, gateway_ref=case.snapshot.ref, asked_at=newest)
        await _APPLY[case.snapshot.progress](case)
    await aftersales.apply(case, case.snapshot)
    command = None if overtaken else _command(case)
    return Settled(case.payment, case.order, command, overtaken, all_refunds=case.snapshot.refunds is not None)


async def _tell_surplus(case: _Case) -> None:
    """The buyer's money beyond what was captured is told once a day as long as the gateway says that it is there."""
    surplus = case.snapshot.surplus
    if surplus is None:
        return
    await aftersales.keep_surplus(case, surplus)
    if surplus.minor <= 0:
        return
    await case.alarm(
        "surplus",
        again_seconds=_DAY,
        about=f"{case.snapshot.ref} {surplus}",
        amount=surplus.minor,
        currency=surplus.currency,
        object=case.snapshot.ref,
        next_step="This money is the buyer's. Send it back, and enter that where the payment is kept.",
    )


def _command(case: _Case) -> Command | None:
    payment, progress = case.payment, case.snapshot.progress
    # An object may stay approved after a decline. Only a buyer who starts again asks for another capture; a browser
    # that repeats its question must not use up the rounds.
    if not payment.is_open or payment.decline_code is not None:
        return None
    manual = payment.capture_method is CaptureMethod.MANUAL
    if progress is Progress.APPROVED:
        return Command.AUTHORIZE if manual else Command.CAPTURE
    # What is reserved by manual capture waits for staff.
    return Command.CAPTURE if progress is Progress.AUTHORIZED and not manual else None


async def _lock_rows(
    tx: Transaction, core: Core, snapshot: Snapshot, operation: Operation | None, trigger: str
) -> _Case:
    found = await payments.find_by_ref(tx, snapshot.gateway, snapshot.ref)
    if found is None and snapshot.payment_id is not None:
        # News can overtake the answer to our create call; then the gateway repeats our id before we know its own.
        # Another caller of the same create may write it down between our two looks.
        found = await payments.find(tx, snapshot.payment_id)
        if found is not None and (found.gateway != snapshot.gateway or found.gateway_ref not in (None, snapshot.ref)):
            found = None
    if found is None:
        raise NotFound("No payment of this shop belongs to the gateway's object.")
    locked = await _lock_case(tx, core, found, trigger=trigger)
    if operation is not None:
        operation = await payments.find_operation(tx, operation.id)
    return _Case(core, tx, locked.payment, locked.order, locked.now, trigger, snapshot, operation)


async def _contradictions(case: _Case) -> list[str]:
    """What in the gateway's object is not what we agreed on."""
    payment, order, snapshot = case.payment, case.order, case.snapshot
    if snapshot.progress is Progress.CANCELED:
        # Nothing can move any more, whatever else differs.
        return [] if payment.gateway_ref in (None, snapshot.ref) else ["gateway object"]
    moved = snapshot.progress in _MONEY_HAS_MOVED
    unsure = snapshot.account is None and moved
    agreed = await _agreed_captures(case)
    checks = (
        ("order's total", moved and payment.is_open and order.total != payment.amount),
        ("amount", snapshot.amount != payment.amount),
        ("captured amount", snapshot.captured is not None and snapshot.captured not in agreed),
        ("payment id", snapshot.payment_id != payment.id),
        ("order id", snapshot.order_id not in (None, payment.order_id)),
        ("gateway object", payment.gateway_ref not in (None, snapshot.ref)),
        ("account", unsure or snapshot.account not in (None, payment.account)),
        ("live or test mode", snapshot.live != payment.live),
    )
    return [what for what, differs in checks if differs]


async def _agreed_captures(case: _Case) -> list[Money]:
    """What may have been captured: all of it, what any capture of ours asked for, or by staff at the gateway a part."""
    payment, captured = case.payment, case.snapshot.captured
    if captured in (None, payment.amount):
        return [payment.amount]
    asked = await payments.takings(case.tx, payment.id)
    agreed = [payment.amount, *(one.amount for one in asked if one.kind == "capture")]
    manual = payment.capture_method is CaptureMethod.MANUAL and captured is not None
    if manual and captured.currency == payment.amount.currency and 0 < captured.minor < payment.amount.minor:
        agreed.append(captured)
    return agreed


async def _comes_too_late(case: _Case, asked_at: Microseconds) -> bool:
    """Whether newer news is known, so that this snapshot must change nothing."""
    status, progress = case.payment.status, case.snapshot.progress
    if status is PaymentStatus.HELD:
        # Of a held payment a person decides, whatever the gateway says meanwhile, unless nothing can move any more.
        return not (progress is Progress.CANCELED and case.payment.capture_ref is None)
    if status is PaymentStatus.CAPTURED:
        return True
    if status in _ENDED:
        # An ended payment stays ended; only money that shows up behind it is news, and a contradiction. What was read
        # before the gateway said how it ended shows no more than that; only a capture can't be taken back.
        is_old = progress is not Progress.CAPTURED and asked_at < _newest_news(case)
        return is_old or progress not in _MONEY_HAS_MOVED
    if progress in (Progress.CAPTURED, Progress.CANCELED):
        return False
    if case.operation is not None:
        # Somebody may have repeated the call and finished it; then its other answers say nothing new.
        return case.operation.state != "recorded"
    return progress is not Progress.FAILED and await _is_old_news(case, asked_at)


def _newest_news(case: _Case) -> Microseconds:
    """When the newest news was asked for. A moment in the future, beyond what clocks differ by, was none."""
    asked_at = case.payment.asked_at
    # Clocks of servers differ by seconds; one that was set back by more must not make all readings old.
    return asked_at if asked_at <= case.now + _CLOCKS_DIFFER_SECONDS * SECOND else 0


async def _is_old_news(case: _Case, asked_at: Microseconds) -> bool:
    if asked_at < _newest_news(case):
        return True
    return case.snapshot.progress is not Progress.PROCESSING and await _money_was_asked_for(case)


async def _keep_what_was_learned(case: _Case) -> None:
    """Late news changes no state, but an object that we did not know of must not be forgotten (invariant I4)."""
    if case.payment.gateway_ref is None:
        await case.save(gateway_ref=case.snapshot.ref)
        if case.payment.captures_in_browser and case.snapshot.progress is Progress.AWAITING_BUYER:
            await intend_void(case.tx, case.core, case.payment)
    if case.snapshot.progress is Progress.CANCELED:
        await payments.finish_all(case.tx, case.payment.id, "succeeded", now=case.now)
    if case.payment.status is PaymentStatus.HELD:
        await _learn_of_held(case)
    await _finish(case, "succeeded")


async def _learn_of_held(case: _Case) -> None:
    """What a held payment's object still does: its money is booked, and it must not be confirmed any more."""
    if await _book_in_suspense(case, refundable=True):
        await case.emit("alarm.payment_held", reason="money was captured by a payment that is held")
    elif _can_be_confirmed(case) and case.payment.capture_ref is None:
        # The bank has failed slow money, say: the browser that holds its client values could try again.
        await intend_void(case.tx, case.core, case.payment)


async def _money_was_asked_for(case: _Case) -> bool:
    """Whether a call of ours that takes the money is on its way, or was taken on by the gateway and is pending there.

    Then a reading that still shows the object before it is old, whatever the clocks say: only the call's own answer
    hands the payment back to the buyer.
    """
    kinds = ("capture",) if case.snapshot.progress is Progress.AUTHORIZED else _TAKING
    last = {operation.kind: operation for operation in await payments.takings(case.tx, case.payment.id)}
    return any(kind in last and last[kind].state in ("recorded", "succeeded") for kind in kinds)


# ── One function per word of the gateway ──────────


async def _apply_awaiting_buyer(case: _Case) -> None:
    decline = case.snapshot.decline
    changes: dict[str, object] = {
        **_decline_columns(case),
        "status": PaymentStatus.AWAITING_BUYER,
        "pending_reason": _why_awaited(case),
    }
    if not case.payment.captures_in_browser:
        # Nothing moves until we capture again, so the right is free for whichever gateway captures next.
        changes["capture_right"] = None
    if _was_the_last_round(case):
        await _end(case, PaymentStatus.FAILED)
        return
    before = case.payment
    await case.save(**changes)
    await _finish(case, "declined" if _is_capture(case) else "succeeded")
    is_news = _is_capture(case) or _is_news(before, case.payment)
    case.declined = decline is not None and await _is_another_attempt(case, otherwise=is_news)
    if is_news or case.declined:
        detail = {} if decline is None else {"decline": str(decline.code), "raw_code": decline.raw_code}
        if decline is not None and decline.ref is not None:
            detail["attempt"] = decline.ref
        event = "payment.declined" if decline else "payment.awaiting_buyer"
        await case.note(event, reason=case.payment.pending_reason, **detail)
    if case.payment.is_awaited:
        await _keep_goods_for_awaited(case, is_new=not before.is_awaited)
        return
    await reopen_order(case)
    if case.snapshot.in_progress:
        await _hold_while_in_progress(case)


def _is_news(before: Payment, after: Payment) -> bool:
    seen = (before.status, before.decline_code, before.pending_reason)
    return seen != (after.status, after.decline_code, after.pending_reason)


async def _is_another_attempt(case: _Case, *, otherwise: bool) -> bool:
    """Whether the decline is that of an attempt not heard of yet. Where the gateway names none, `otherwise` decides."""
    ref = None if case.snapshot.decline is None else case.snapshot.decline.ref
    if ref is None:
        return otherwise
    known = await journal.details(case.tx, "payment.declined", order_id=case.order.id, payment_id=case.payment.id)
    return ref not in {detail.get("attempt") for detail in known}


def _why_awaited(case: _Case) -> str | None:
    """What the money waits for that may come by itself; None if it does not, or no longer."""
    until = case.snapshot.awaited_until
    if until is None or until <= case.now:
        return None
    return case.snapshot.pending_reason or "the buyer pays elsewhere"


async def _keep_goods_for_awaited(case: _Case, *, is_new: bool) -> None:
    """Keep the goods until the money is due, but no longer than for slow money."""
    assert case.snapshot.awaited_until is not None
    if case.order.status is OrderStatus.OPEN:
        await case.mark_order(OrderStatus.PENDING)
    longest = case.payment.created_at + case.core.policy.pending_hold_seconds * SECOND
    until = min(case.snapshot.awaited_until, longest)
    if case.order.status is OrderStatus.PENDING:
        await _prolong_if_longer(case, until)
    if is_new:
        await case.emit("payment.pending", reason=case.payment.pending_reason)


def _decline_columns(case: _Case) -> dict[str, object]:
    """The newest decline. A gateway that captures at our call tells it only in that call's answer, so it is kept."""
    decline = case.snapshot.decline
    if not case.payment.captures_in_browser and not _is_capture(case):
        # A reading that repeats an old decline must not stop the capture of a new approval either.
        return {}
    return {
        "decline_code": None if decline is None else decline.code,
        "decline_recoverable": decline is not None and decline.recoverable,
    }


def _was_the_last_round(case: _Case) -> bool:
    declined = _is_capture(case) and case.snapshot.decline is not None
    return declined and case.operation is not None and case.operation.round >= case.core.policy.capture_rounds


async def _apply_processing(case: _Case) -> None:
    if case.payment.status in _ENDED:
        await _hold_for_operator(case, "money is under way behind an ended payment")
        return
    was, known_reason = case.payment.status, case.payment.pending_reason
    await case.save(status=PaymentStatus.PROCESSING, pending_reason=case.snapshot.pending_reason)
    if case.operation is not None and _is_capture(case) and case.snapshot.capture_ref is None:
        # The gateway names no capture, so this is no answer yet: the same key asks again.
        await payments.give_back(case.tx, case.operation.id)
    else:
        await _finish(case, "succeeded")
    if was is not PaymentStatus.PROCESSING:
        await _make_order_pending(case)
    if was is not PaymentStatus.PROCESSING or case.snapshot.pending_reason != known_reason:
        await case.note("payment.processing", reason=case.snapshot.pending_reason)
        await case.emit("payment.pending", reason=case.snapshot.pending_reason)


async def _apply_authorized(case: _Case) -> None:
    if case.payment.status in _ENDED:
        await _hold_for_operator(case, "money was authorized behind an ended payment")
        return
    was = case.payment.status
    await case.save(status=PaymentStatus.AUTHORIZED, pending_reason=None)
    if _is_capture(case):
        # The gateway answered a capture with an object that is still only authorized: staff may try again.
        answered = "succeeded" if case.operation is not None and case.operation.kind == "authorize" else "declined"
        await _finish(case, answered)
    for operation in await payments.recorded(case.tx, case.payment.id, "authorize"):
        await payments.finish(case.tx, operation.id, "succeeded", now=case.now)
    if case.order.status in (OrderStatus.CANCELED, OrderStatus.EXPIRED):
        # The shop has closed the order meanwhile, so nobody will capture this: the buyer gets it back now.
        await intend_void(case.tx, case.core, case.payment)
    if was is not PaymentStatus.AUTHORIZED:
        await _make_order_pending(case)
        await case.note("payment.authorized")
        await case.emit("payment.authorized", amount=case.payment.amount.minor, currency=case.payment.amount.currency)


async def _apply_captured(case: _Case) -> None:
    if case.snapshot.captured is None or case.snapshot.capture_ref is None:
        await _hold_for_operator(case, "the gateway says captured but names no capture")
        return
    if case.payment.status in _ENDED:
        await _hold_for_operator(case, "money was captured behind an ended payment")
        return
    captured = case.snapshot.captured
    account = await _pay_order(case, captured)
    await case.save(
        status=PaymentStatus.CAPTURED,
        captured_minor=captured.minor,
        capture_ref=case.snapshot.capture_ref,
        owed_to_buyer=account is Account.OWED_TO_BUYER,
        capture_right="held" if case.payment.capture_right and account is Account.SALES else None,
        decline_code=None,
        decline_recoverable=False,
        pending_reason=None,
        held_reason=None,
    )
    await _book(case, account)
    await _finish(case, "succeeded")
    await payments.finish_all(case.tx, case.payment.id, "succeeded", now=case.now)
    await case.note("payment.captured", capture=case.snapshot.capture_ref, booked_to=str(account))
    if account is Account.SALES:
        await case.emit("order.paid", amount=captured.minor, currency=captured.currency)
    else:
        surplus = case.order.status is OrderStatus.PAID
        await aftersales.intend_automatic_refund(case, captured, "surplus" if surplus else "goods are gone")
        # Slow money has made the order pending, and it waits for nothing any more.
        await reopen_order(case, keep_goods=False)
    await _close_other_attempts(case)


async def _apply_failed(case: _Case) -> None:
    await _end(case, PaymentStatus.FAILED)


async def _apply_canceled(case: _Case) -> None:
    await _end(case, PaymentStatus.CANCELED)


_APPLY: dict[Progress, Callable[[_Case], Awaitable[None]]] = {
    Progress.AWAITING_BUYER: _apply_awaiting_buyer,
    Progress.APPROVED: _apply_awaiting_buyer,
    Progress.PROCESSING: _apply_processing,
    Progress.AUTHORIZED: _apply_authorized,
    Progress.CAPTURED: _apply_captured,
    Progress.FAILED: _apply_failed,
    Progress.CANCELED: _apply_canceled,
}


# ── What they share ──────────


async def _pay_order(case: _Case, captured: Money) -> Account:
    """Take the goods and mark the order paid; the account says whether the money found its order."""
    if case.order.status is OrderStatus.PAID:
        return Account.OWED_TO_BUYER
    store, order_id = case.core.store, case.order.id
    taken = await store.take(case.tx, order_id, payment_id=case.payment.id, now=case.now)
    if not taken and await store.free_expired(case.tx, order_id, now=case.now):
        # Goods that somebody walked away from are better sold than refunded.
        taken = await store.take(case.tx, order_id, payment_id=case.payment.id, now=case.now)
    if not taken:
        return Account.OWED_TO_BUYER
    if captured != case.order.total:
        # Staff captured less than was authorized, which is final: so much less is due.
        await store.lower_due(case.tx, order_id, captured)
        case.order = replace(case.order, total=captured)
    await case.mark_order(OrderStatus.PAID)
    return Account.SALES


async def _book(case: _Case, account: Account) -> bool:
    snapshot = case.snapshot
    if snapshot.captured is None or snapshot.capture_ref is None:
        return False
    return await case.book(
        journal.Kind.CAPTURE, snapshot.capture_ref, snapshot.captured, debit=case.balance, credit=account
    )


async def _book_in_suspense(case: _Case, *, refundable: bool) -> bool:
    """Money behind a held payment is booked, and goes back by itself where it is ours to send."""
    captured = case.snapshot.captured
    if captured is None or not await _book(case, Account.SUSPENSE):
        return False
    same_currency = captured.currency == case.payment.amount.currency
    await case.save(
        capture_ref=case.snapshot.capture_ref, captured_minor=captured.minor if same_currency else 0, owed_to_buyer=True
    )
    # The money has moved, so whatever call was still to be made for it has nothing left to do.
    await payments.finish_all(case.tx, case.payment.id, "succeeded", now=case.now)
    await case.note("payment.captured", booked_to=str(Account.SUSPENSE), object=case.snapshot.ref)
    if refundable:
        await aftersales.intend_automatic_refund(case, captured, "the payment contradicts its order")
    return True


async def _end(case: _Case, status: PaymentStatus) -> None:
    decline = case.snapshot.decline
    case.declined = decline is not None
    await end_payment(case, status, decline=decline, operations="abandoned" if decline is None else "declined")


async def _hold_for_operator(case: _Case, reason: str, *, refundable: bool = True) -> None:
    """The gateway contradicts us: nobody is paid and nobody may pay until a person has looked."""
    if case.payment.status is PaymentStatus.CAPTURED:
        # The money is booked and the order paid; a later contradiction is told, and undoes nothing.
        await case.alarm("contradiction", again_seconds=_DAY, reason=reason, object=case.snapshot.ref)
        return
    news = (case.payment.status, case.payment.held_reason) != (PaymentStatus.HELD, reason)
    known_ref = case.payment.gateway_ref or case.snapshot.ref
    await case.save(status=PaymentStatus.HELD, held_reason=reason, gateway_ref=known_ref)
    if news:
        await case.note("payment.held", reason=reason, object=case.snapshot.ref)
        await case.emit("alarm.payment_held", reason=reason)
    await _book_in_suspense(case, refundable=refundable)
    if not _is_capture(case) or case.snapshot.progress in _TOLD:
        await _finish(case, "succeeded")
    if refundable and (_can_be_confirmed(case) or case.snapshot.progress is Progress.AUTHORIZED):
        # Its client values may be in a browser already, or the buyer's money is reserved for nothing.
        await intend_void(case.tx, case.core, case.payment)


def _can_be_confirmed(case: _Case) -> bool:
    return case.payment.captures_in_browser and case.snapshot.progress is Progress.AWAITING_BUYER


async def _make_order_pending(case: _Case) -> None:
    if case.order.status is OrderStatus.OPEN:
        await case.mark_order(OrderStatus.PENDING)
    if case.order.status is OrderStatus.PENDING:
        # Nothing is kept for an order that the shop has closed meanwhile: its money goes back, or finds goods or not.
        await prolong_hold(case, case.core.policy.pending_until(case.now))


async def _hold_while_in_progress(case: _Case) -> None:
    """Keep the goods while the buyer stands before the bank's page, within a bound."""
    if case.order.status is not OrderStatus.OPEN:
        return
    policy = case.core.policy
    until = min(policy.hold_until(case.now), case.payment.created_at + policy.longest_hold_seconds * SECOND)
    await _prolong_if_longer(case, until)


async def _prolong_if_longer(case: _Case, until: Microseconds) -> None:
    """Never earlier than they are free anyway: somebody else may have prolonged the hold since."""
    ends = await case.core.store.hold_ends(case.tx, case.order.id)
    if until > case.now and (ends is None or until > ends):
        await prolong_hold(case, until)


def _is_capture(case: _Case) -> bool:
    return case.operation is not None and case.operation.kind in _TAKING


async def _finish(case: _Case, state: str) -> None:
    if case.operation is not None:
        await payments.finish(case.tx, case.operation.id, state, now=case.now)


async def _close_other_attempts(case: _Case) -> None:
    """Once money has been captured for an order, no other attempt may take more, also if it has to go back."""
    for other in await payments.of_order(case.tx, case.order.id, lock=True):
        if other.id == case.payment.id or not other.is_open:
            continue
        if other.captures_in_browser:
            await intend_void(case.tx, case.core, other)
        elif other.capture_right is None:
            # Nothing moves at this gateway without our capture, and there will be none.
            beside = Case(case.core, case.tx, other, case.order, case.now, case.trigger)
            await end_payment(beside, PaymentStatus.CANCELED, reason="another payment of the order went through")
