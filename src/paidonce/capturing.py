"""Bringing a payment as far as it goes now, whoever asks: read, take the money where that is on us, settle; or void.

Browser, webhook and time all come here, so that what a buyer approved before closing the tab is captured by the same
steps as for a buyer who came back. Each step is written down with its key before its call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from paidonce import audit, journal, outbox, payments
from paidonce.case import Case, end_payment, intend, intend_void
from paidonce.core import Core
from paidonce.errors import GatewayError, GatewayMisconfigured, GatewayRefused, PaymentInProgress, SoldOut
from paidonce.gateways.base import Gateway, Progress, Snapshot
from paidonce.money import Money
from paidonce.payments import Operation, Payment
from paidonce.ports import SECOND, Transaction, at_a_glance
from paidonce.results import Result, Standing, result
from paidonce.schedule import rescheduled
from paidonce.settlement import Also, Command, Settled, settle
from paidonce.states import OrderStatus, PaymentStatus
from paidonce.store import PayableOrder

T = TypeVar("T")

# A handover or an abandoned attempt is followed by another look; more than a few mean that something else is wrong.
LOOKS = 4
_ALARM_AGAIN_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Recorded:
    """An intention that stands in the database and whose call is the caller's to make."""

    payment: Payment
    order: PayableOrder
    operation: Operation
    created: bool


@dataclass(frozen=True, slots=True)
class Handover:
    """Another payment holds the capture right; it has to be voided, and seen voided, first."""

    holder: Payment


@dataclass(frozen=True, slots=True)
class _LookUp:
    """A capture whose key the gateway has forgotten: its object is read, and nothing is posted again."""

    payment: Payment
    operation: Operation


_Step = Recorded | Handover | _LookUp | Standing


@dataclass(frozen=True, slots=True)
class _Taking:
    """How the money of a confirmed payment is taken: `capture` of `amount`, or `authorize`."""

    core: Core
    gateway: Gateway
    payment: Payment
    kind: str
    amount: Money
    trigger: str
    operation_id: str
    actor: str | None


@at_a_glance
async def stand(tx: Transaction, core: Core, payment_id: str) -> Standing | None:
    """The payment as it stands; None if there is no such payment or its order is gone."""
    payment = await payments.find(tx, payment_id)
    order = None if payment is None else await core.store.find(tx, payment.order_id, lock=False)
    if payment is None or order is None:
        return None
    taking = await _last_taking(tx, payment.id)
    if taking is None or taking.state != "recorded":
        return Standing(payment, order)
    owned = taking.is_claimed(core.clock.now(), seconds=core.policy.claim_seconds)
    return Standing(payment, order, taking, unknown=owned)


async def pursue(
    core: Core, standing: Standing, *, trigger: str, details: bool = False, also: Also | None = None
) -> Result:
    """Bring one payment as far as it goes now. `trigger` names who asks, for the history.

    `details` reads refunds and disputes as well. `also` runs in the transaction that settles the first reading. A
    gateway that does not answer gives a `Result` with `unknown`.
    """
    payment = standing.payment
    # A held payment is read as well: money that moves behind our back has to be booked, though it pays nothing.
    alive = payment.is_open or payment.status is PaymentStatus.HELD or details
    if not alive or payment.gateway_ref is None or standing.unknown:
        return result(standing.payment, standing.order, unknown=standing.unknown)
    gateway = core.gateways.get(payment.gateway)
    if gateway is None:
        return result(payment, standing.order, unknown=True)
    if standing.taking is not None and payment.is_open:
        # Whoever sent this capture vanished before its answer was kept; the same key finds out what became of it.
        return await take(core, gateway, payment, standing.taking.kind, trigger=trigger)
    for _ in range(LOOKS):
        settled = await fetch_and_settle(core, gateway, payment, trigger=trigger, details=details, also=also)
        if settled is None:
            break
        if settled.command is not None:
            return await obey(core, gateway, settled, trigger=trigger)
        # Another caller's newer news came first and may have asked for more than ours did: look again.
        if not (settled.overtaken and settled.payment.status is PaymentStatus.AWAITING_BUYER):
            return result(settled.payment, settled.order)
    return await standing_result(core, payment.id, unknown=True)


async def obey(core: Core, gateway: Gateway, settled: Settled, *, trigger: str) -> Result:
    """Do what a settled reading asks for. Raises `SoldOut` if the goods are gone before a capture."""
    if settled.command is not Command.VOID:
        return await take(core, gateway, settled.payment, str(settled.command), trigger=trigger)
    # Without an answer it stays written down, and recovery repeats it.
    ended = await void(core, settled.payment, trigger=trigger) or settled
    return result(ended.payment, ended.order)


async def fetch_and_settle(
    core: Core,
    gateway: Gateway,
    payment: Payment,
    *,
    trigger: str,
    details: bool = False,
    operation: Operation | None = None,
    also: Also | None = None,
) -> Settled | None:
    """What the gateway's object says now, settled; None if it did not say."""
    assert payment.gateway_ref is not None
    asked_at = core.clock.now()
    try:
        snapshot = await gateway.fetch(payment.gateway_ref, details=details)
    except GatewayError as error:
        if isinstance(error, GatewayMisconfigured):
            await tell_unknown_object(core, gateway, payment, error)
        return None
    return await settle(core, snapshot, trigger=trigger, asked_at=asked_at, operation=operation, also=also)


async def tell_unknown_object(core: Core, gateway: Gateway, payment: Payment, error: GatewayMisconfigured) -> bool:
    """Close an object that the gateway has forgotten by its own rules (True); anything else unknown to it is an alarm.

    An object that only our capture can turn into money is safe to close once its key has expired.
    """
    expired = core.clock.now() - payment.created_at >= gateway.create_key_life_seconds * SECOND
    if gateway.captures_in_browser or not expired or payment.status is not PaymentStatus.AWAITING_BUYER:
        await core.write(alarm, core, payment, error)
        return False
    await core.write(abandon, core, payment.id, error.detail)
    return True


# ── Taking the money ──────────


async def take(
    core: Core,
    gateway: Gateway,
    payment: Payment,
    kind: str,
    *,
    trigger: str,
    amount: Money | None = None,
    actor: str | None = None,
) -> Result:
    """Capture or authorize (`kind`) once. `amount` is what a capture is for; all of it by default.

    `actor` is the staff's user, for the history. Raises `SoldOut` if the goods are gone; nothing was taken then.
    """
    taking = _Taking(core, gateway, payment, kind, amount or payment.amount, trigger, core.ids.new("op"), actor)
    for _ in range(LOOKS):
        step = await _record(taking)
        if isinstance(step, Standing):
            return result(step.payment, step.order, unknown=step.unknown)
        if isinstance(step, Recorded):
            return await _send(taking, step)
        if isinstance(step, _LookUp):
            settled = await fetch_and_settle(core, gateway, step.payment, trigger=trigger, operation=step.operation)
            return await standing_result(core, payment.id, unknown=settled is None)
        if not await hand_over(core, step.holder, trigger=trigger):
            return await standing_result(core, payment.id, unknown=True)
    return await standing_result(core, payment.id, unknown=True)


async def _record(taking: _Taking) -> _Step:
    core, payment = taking.core, taking.payment
    try:
        return await with_goods_of_others_who_left(
            core, payment.order_id, partial(core.write, _take_capture_right, taking)
        )
    except SoldOut:
        # The hold ended while the buyer approved. Nothing was captured, so nothing has to be given back.
        await core.write(abandon, core, payment.id, "the goods were gone before the capture")
        raise


async def _take_capture_right(tx: Transaction, taking: _Taking) -> _Step:
    core = taking.core
    order, payment, attempts = await lock(tx, core, taking.payment.id)
    last = await _last_taking(tx, payment.id)
    if not payment.is_open:
        return Standing(payment, order)
    if last is not None and last.state == "recorded":
        return await _claim_again(tx, taking, Recorded(payment, order, last, created=False))
    taken_on = last is not None and last.state == "succeeded" and last.kind == taking.kind
    if taken_on or any(one.is_in_the_way for one in attempts):
        # Money may be on its way by this capture already, or by a payment that a person has to look at.
        return Standing(payment, order, unknown=True)
    payable = order.status in (OrderStatus.OPEN, OrderStatus.PENDING) and order.total == payment.amount
    if not payable or any(one.is_owed for one in attempts):
        return Standing(await _let_go(tx, core, order, payment), order)
    holder = next((one for one in attempts if one.capture_right is not None and one.id != payment.id), None)
    if holder is not None:
        return await record_handover(tx, core, holder)
    return await _record_round(tx, taking, order, payment)


async def _last_taking(tx: Transaction, payment_id: str) -> Operation | None:
    """The newest call that takes money: an unanswered one first, else the capture, which comes after authorizing."""
    known = await payments.takings(tx, payment_id)
    return next((one for one in known if one.state == "recorded"), known[-1] if known else None)


async def _let_go(tx: Transaction, core: Core, order: PayableOrder, payment: Payment) -> Payment:
    """End a payment whose order can't be paid by it any more; reserved money is released at the gateway."""
    if payment.status is PaymentStatus.AUTHORIZED or payment.captures_in_browser:
        await intend_void(tx, core, payment)
        return payment
    return await close(tx, core, order, payment, PaymentStatus.CANCELED, reason="its order can't be paid by it")


async def _record_round(tx: Transaction, taking: _Taking, order: PayableOrder, payment: Payment) -> Recorded:
    core, now = taking.core, taking.core.clock.now()
    await core.store.hold(tx, order.id, until=core.policy.pending_until(now))
    if order.status is OrderStatus.OPEN:
        await core.store.mark(tx, order, OrderStatus.PENDING, now=now)
    processing = replace(
        payment,
        status=PaymentStatus.PROCESSING,
        capture_right="held",
        decline_code=None,
        decline_recoverable=False,
        pending_reason=None,
    )
    processing = rescheduled(core.policy, processing, now=now)
    await payments.save(tx, processing, now=now)
    request = {"amount": taking.amount.minor, "currency": taking.amount.currency}
    operation = await intend(tx, core, processing, taking.kind, request, claimed=True, operation_id=taking.operation_id)
    detail = {"gateway": payment.gateway, "round": operation.round, "trigger": taking.trigger, **request}
    if taking.actor is not None:
        detail["actor"] = taking.actor
        await audit.write(tx, _asked(taking, taking.actor))
    event = f"{taking.kind}.intended"
    await journal.note(tx, event, order_id=order.id, payment_id=payment.id, detail=detail, now=now)
    return Recorded(processing, order, operation, created=True)


def _asked(taking: _Taking, actor: str) -> audit.Entry:
    amount = taking.amount
    return audit.entry(
        "capture.asked",
        actor=actor,
        subject=taking.payment.id,
        at=taking.core.clock.now(),
        order=taking.payment.order_id,
        amount=amount.minor,
        currency=amount.currency,
    )


async def _claim_again(tx: Transaction, taking: _Taking, recorded: Recorded) -> _Step:
    """Repeat a capture whose caller vanished: with its key while the gateway remembers it, never with a new one."""
    core, capture = taking.core, recorded.operation
    now = core.clock.now()
    if capture.id == taking.operation_id:
        # Our own intention, whose commit had an unknown outcome.
        return recorded
    if capture.is_claimed(now, seconds=core.policy.claim_seconds):
        return Standing(recorded.payment, recorded.order, unknown=True)
    if capture.key_is_spent(now, life_seconds=taking.gateway.capture_key_life_seconds):
        return _LookUp(recorded.payment, capture)
    await payments.claim(tx, capture.id, now=now, seconds=core.policy.claim_seconds)
    return recorded


async def _send(taking: _Taking, recorded: Recorded) -> Result:
    core, operation = taking.core, recorded.operation
    asked_at = core.clock.now()
    try:
        snapshot = await _call(taking.gateway, recorded)
    except GatewayRefused as error:
        return await _look_after_refusal(taking, recorded, error)
    except GatewayError as error:
        await core.write(_leave_open, core, recorded, error)
        return await standing_result(core, recorded.payment.id, unknown=True)
    settled = await settle(core, snapshot, trigger=taking.trigger, asked_at=asked_at, operation=operation)
    return result(settled.payment, settled.order)


async def _call(gateway: Gateway, recorded: Recorded) -> Snapshot:
    ref, operation = recorded.payment.gateway_ref, recorded.operation
    assert ref is not None
    if operation.kind == "authorize":
        return await gateway.authorize(ref, idempotency_key=operation.idempotency_key)
    return await gateway.capture(ref, idempotency_key=operation.idempotency_key, amount=operation.amount)


async def _look_after_refusal(taking: _Taking, recorded: Recorded, error: GatewayRefused) -> Result:
    """A refused capture moved nothing itself, but an earlier try under the same key may have: the object decides.

    Where there was an earlier try, a reading that still shows the object before it may lag behind: then the outcome
    stays unknown, and the same key goes on asking.
    """
    core, payment = taking.core, recorded.payment
    assert payment.gateway_ref is not None
    asked_at = core.clock.now()
    try:
        snapshot = await taking.gateway.fetch(payment.gateway_ref)
    except GatewayError as lookup_error:
        await core.write(_leave_open, core, recorded, lookup_error)
        return await standing_result(core, payment.id, unknown=True)
    if snapshot.progress in (Progress.APPROVED, Progress.AWAITING_BUYER, Progress.AUTHORIZED):
        await core.write(alarm, core, payment, error)
        if not recorded.created:
            await core.write(_leave_open, core, recorded, error)
            return await standing_result(core, payment.id, unknown=True)
        if snapshot.progress is not Progress.AUTHORIZED:
            snapshot = replace(snapshot, progress=Progress.FAILED)
    settled = await settle(core, snapshot, trigger=taking.trigger, asked_at=asked_at, operation=recorded.operation)
    return result(settled.payment, settled.order)


async def _leave_open(tx: Transaction, core: Core, recorded: Recorded, error: GatewayError) -> None:
    """The outcome is unknown: the intention and its key stay, the right stays taken, and whoever asks next repeats."""
    await payments.give_back(tx, recorded.operation.id)
    await journal.note(
        tx,
        f"{recorded.operation.kind}.unknown",
        order_id=recorded.order.id,
        payment_id=recorded.payment.id,
        detail={"gateway": recorded.payment.gateway, "problem": str(error)},
        now=core.clock.now(),
    )
    if isinstance(error, GatewayMisconfigured):
        await alarm(tx, core, recorded.payment, error)


# ── Handing the capture right over, and voiding ──────────


async def record_handover(tx: Transaction, core: Core, holder: Payment) -> Handover:
    """Mark the holder as being voided, so that no new payment starts meanwhile. Raises `PaymentInProgress`."""
    gateway = core.gateways.get(holder.gateway)
    voidable = holder.status in (PaymentStatus.CREATED, PaymentStatus.AWAITING_BUYER)
    if gateway is None or not gateway.can_void or not voidable:
        raise PaymentInProgress
    await payments.save(tx, replace(holder, capture_right="voiding"), now=core.clock.now())
    await intend_void(tx, core, holder)
    return Handover(holder)


async def hand_over(core: Core, holder: Payment, *, trigger: str) -> bool:
    """Void the holder at its gateway, settle what that says, and tell whether it gave the right back."""
    settled = await void(core, holder, trigger=trigger)
    return settled is not None and settled.payment.capture_right is None


async def void(core: Core, payment: Payment, *, trigger: str) -> Settled | None:
    """End the payment at its gateway and settle what that says; None if the gateway did not say."""
    gateway = core.gateways[payment.gateway]
    if payment.gateway_ref is None:
        # The create call never answered. Its client values reached nobody, so what it may have made can't be confirmed.
        return await core.write(_close_unanswered, core, payment.id)
    asked_at = core.clock.now()
    try:
        snapshot = await gateway.void(payment.gateway_ref)
    except GatewayError as error:
        if not isinstance(error, GatewayMisconfigured | GatewayRefused):
            return None
        await core.write(alarm, core, payment, error)
        return None
    return await settle(core, snapshot, trigger=trigger, asked_at=asked_at)


async def _close_unanswered(tx: Transaction, core: Core, payment_id: str) -> Settled:
    order, payment, _ = await lock(tx, core, payment_id)
    if payment.status is PaymentStatus.CREATED:
        reason = "its create call was never answered"
        payment = await close(tx, core, order, payment, PaymentStatus.CANCELED, reason=reason)
    return Settled(payment, order)


# ── What actions share ──────────


async def with_goods_of_others_who_left(core: Core, order_id: str, record: Callable[[], Awaitable[T]]) -> T:
    """Run `record`; if goods are short, free what others' holds ran out on and run it once more. Raises `SoldOut`."""
    try:
        return await record()
    except SoldOut:
        if not await core.write(core.store.free_expired, order_id, now=core.clock.now()):
            raise
    return await record()


async def lock(tx: Transaction, core: Core, payment_id: str) -> tuple[PayableOrder, Payment, list[Payment]]:
    """The order of a known payment, the payment, and all attempts to pay that order, locked in this order."""
    found = await payments.find(tx, payment_id)
    assert found is not None
    order = await core.store.find(tx, found.order_id, lock=True)
    assert order is not None, "a payment outlived its order"
    attempts = await payments.of_order(tx, order.id, lock=True)
    return order, next(one for one in attempts if one.id == payment_id), attempts


async def abandon(tx: Transaction, core: Core, payment_id: str, reason: str) -> None:
    """End a payment that only our capture can turn into money, unless a capture was recorded meanwhile."""
    order, payment, _ = await lock(tx, core, payment_id)
    standing = await stand(tx, core, payment_id)
    under_way = standing is not None and standing.taking is not None
    if payment.status is PaymentStatus.AWAITING_BUYER and not payment.captures_in_browser and not under_way:
        await close(tx, core, order, payment, PaymentStatus.FAILED, reason=reason)


async def close(
    tx: Transaction,
    core: Core,
    order: PayableOrder,
    payment: Payment,
    status: PaymentStatus,
    *,
    reason: str,
    trigger: str = "paidonce",
    operations: str = "abandoned",
    actor: str | None = None,
) -> Payment:
    """End a payment at which no money can move, without asking the gateway. `order` and `payment` are locked."""
    case = Case(core, tx, payment, order, core.clock.now(), trigger)
    await end_payment(case, status, reason=reason, operations=operations, actor=actor)
    return case.payment


async def alarm(tx: Transaction, core: Core, payment: Payment, error: GatewayError) -> None:
    """Tell the operator in the history and by an event; `detail` carries the gateway's request id, never a secret.

    Whoever polls repeats the problem; the operator hears of it once an hour.
    """
    now = core.clock.now()
    last = await journal.last_noted(tx, "alarm.gateway", order_id=payment.order_id, payment_id=payment.id)
    if last is not None and 0 <= now - last < _ALARM_AGAIN_SECONDS * SECOND:
        return
    detail = {"gateway": payment.gateway, "problem": str(error), "payment_id": payment.id}
    await journal.note(tx, "alarm.gateway", order_id=payment.order_id, payment_id=payment.id, detail=detail, now=now)
    await outbox.emit(tx, "alarm.gateway", order_id=payment.order_id, data=detail, ids=core.ids, now=now)


async def standing_result(core: Core, payment_id: str, *, unknown: bool) -> Result:
    """The answer for a payment that exists, from our books."""
    standing = await core.db.read(stand, core, payment_id)
    assert standing is not None, "a payment outlived its order"
    return result(standing.payment, standing.order, unknown=unknown and standing.payment.is_open)
