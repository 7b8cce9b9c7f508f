"""The actions of paying: start, complete, cancel. Each reads as its steps: record the intention → call → settle.

No gateway is called inside a transaction, ever. A crash between two steps leaves a row that says what was intended; the
same action, called again, goes on from there with the same idempotency key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from paidonce import journal, outbox, payments
from paidonce.core import Actor, Core
from paidonce.declines import buyer_sentence
from paidonce.errors import (
    AlreadyPaid,
    GatewayBusy,
    GatewayError,
    GatewayMisconfigured,
    GatewayRefused,
    GatewayUnavailable,
    InvalidRequest,
    NotFound,
    OrderClosed,
    OutcomeUnknown,
    PaymentInProgress,
    SoldOut,
    TooManyAttempts,
)
from paidonce.gateways.base import Account, CreateRequest, Gateway, Opened, Progress
from paidonce.money import Money, MoneyError
from paidonce.payments import Operation, Payment
from paidonce.ports import SECOND, Microseconds, Transaction
from paidonce.settlement import Command, Settled, settle
from paidonce.states import OrderStatus, PaymentStatus, RefundStatus
from paidonce.store import PayableOrder

T = TypeVar("T")

# A handover or an abandoned attempt is followed by another look; more than a few mean that something else is wrong.
_LOOKS = 4
_ALARM_AGAIN_SECONDS = 3600

_CHECKING = "We are checking with your bank. You will not be charged twice; this page keeps you posted."
_GIVEN_BACK = "Your payment arrived after the goods were gone, or twice. It does not count, and you will get it back."
_GOES_BACK = (
    "An earlier payment for this order goes back to you. Please place a new order instead of paying this one again."
)
_SAYINGS = {
    PaymentStatus.CREATED: "The payment was not started yet. You have not been charged; please try again.",
    PaymentStatus.AWAITING_BUYER: "The payment is not confirmed yet. You have not been charged.",
    PaymentStatus.PROCESSING: _CHECKING,
    PaymentStatus.AUTHORIZED: "Your payment is reserved and will be completed by the shop.",
    PaymentStatus.CAPTURED: "Your payment has arrived. Thank you!",
    PaymentStatus.FAILED: "The payment did not go through. You have not been charged; please choose how to pay again.",
    PaymentStatus.CANCELED: "The payment was canceled. You have not been charged.",
    PaymentStatus.HELD: "Your payment needs a closer look by the shop. Please do not pay again; we will contact you.",
}


@dataclass(frozen=True, slots=True)
class PaymentView:
    """A payment as its buyer sees it. `created_at` is in microseconds."""

    id: str
    order_id: str
    gateway: str
    status: PaymentStatus
    refund_status: RefundStatus
    amount: Money
    created_at: Microseconds


@dataclass(frozen=True, slots=True)
class Started:
    """A payment that the buyer can confirm; `created` is False if it was open already."""

    payment: PaymentView
    client: Mapping[str, str] = field(repr=False)
    created: bool


@dataclass(frozen=True, slots=True)
class Result:
    """Where a payment stands, with a sentence for the buyer. `unknown` means that the gateway's word is outstanding."""

    payment: PaymentView
    order_status: OrderStatus
    recoverable: bool
    message: str
    unknown: bool


@dataclass(frozen=True, slots=True)
class _Recorded:
    payment: Payment
    order: PayableOrder
    operation: Operation
    created: bool


@dataclass(frozen=True, slots=True)
class _Handover:
    """Another payment holds the capture right; it has to be voided, and seen voided, first."""

    holder: Payment


@dataclass(frozen=True, slots=True)
class _Standing:
    """A payment and its order as they stand, for an answer without further steps."""

    payment: Payment
    order: PayableOrder
    capture: Operation | None = None  # The capture that is recorded and not answered yet.
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class _LookUp:
    """A capture whose key the gateway has forgotten: its object is read, and nothing is posted again."""

    payment: Payment
    operation: Operation


# ── Start ──────────


async def start(
    core: Core, order_id: str, gateway_name: str, actor: Actor, *, return_url: str, cancel_url: str
) -> Started:
    """Open a payment of the actor's own order at a gateway, holding the goods; the same one again if it is open.

    `return_url` and `cancel_url` are absolute; `{payment}` in them becomes the payment's id. Raises `errors.Problem`:
    NotFound, AlreadyPaid, OrderClosed, PaymentInProgress, SoldOut, TooManyAttempts, InvalidRequest, GatewayUnavailable.
    """
    order = await core.db.read(_own_order, core, order_id, actor, lock=False)
    gateway = core.gateway(gateway_name)
    if order.total.minor == 0:
        await core.db.transaction(_settle_free_order, core, order_id, actor)
        raise AlreadyPaid("Nothing is due for this order; it is complete.")
    _check_amount(gateway, order.total)
    account = await _account(gateway)
    urls = {"return_url": return_url, "cancel_url": cancel_url}
    for _ in range(_LOOKS):
        step = await _record_start(core, order_id, gateway, account, actor, urls=urls)
        if isinstance(step, _Handover):
            if not await _hand_over(core, step.holder):
                raise PaymentInProgress
            continue
        opened = await _open(core, gateway, step)
        if opened is not None:
            return opened
    raise GatewayUnavailable


async def _own_order(tx: Transaction, core: Core, order_id: str, actor: Actor, *, lock: bool) -> PayableOrder:
    order = await core.store.find(tx, order_id, lock=lock)
    # A stranger hears the same as for an id that does not exist, so that ids can't be probed.
    if order is None or order.user_id != actor.user_id:
        raise NotFound("We could not find this order.")
    return order


def _check_amount(gateway: Gateway, amount: Money) -> None:
    try:
        gateway.check_amount(amount)
    except MoneyError as error:
        raise InvalidRequest(f"{gateway.title} can't take this amount: {error}. Please pay another way.") from error


async def _account(gateway: Gateway) -> Account:
    try:
        return await gateway.account()
    except GatewayError as error:
        raise GatewayUnavailable from error


async def _record_start(
    core: Core, order_id: str, gateway: Gateway, account: Account, actor: Actor, *, urls: Mapping[str, str]
) -> _Recorded | _Handover:
    record = partial(
        core.db.transaction,
        _record_payment,
        core,
        order_id,
        actor,
        gateway=gateway,
        account=account,
        urls=urls,
    )
    return await _with_goods_of_others_who_left(core, order_id, record)


async def _with_goods_of_others_who_left(core: Core, order_id: str, record: Callable[[], Awaitable[T]]) -> T:
    """Run `record`; if goods are short, free what others' holds ran out on and run it once more. Raises `SoldOut`."""
    try:
        return await record()
    except SoldOut:
        if not await core.db.transaction(core.store.free_expired, order_id, now=core.clock.now()):
            raise
    return await record()


async def _record_payment(
    tx: Transaction,
    core: Core,
    order_id: str,
    actor: Actor,
    *,
    gateway: Gateway,
    account: Account,
    urls: Mapping[str, str],
) -> _Recorded | _Handover:
    now = core.clock.now()
    order = await _own_order(tx, core, order_id, actor, lock=True)
    _refuse_closed_order(order)
    attempts = await payments.of_order(tx, order.id, lock=True)
    _refuse_while_money_may_move(attempts)
    leaving = next((one for one in attempts if one.capture_right == "voiding"), None)
    if leaving is not None:
        # A handover or cancellation was interrupted; repeating the void is safe, and only then may a new start go on.
        return await _record_handover(tx, core, leaving)
    mine = next((one for one in attempts if one.is_open and one.gateway == gateway.name), None)
    if mine is not None and mine.amount != order.total:
        # The amount of an attempt is frozen; an order that was edited meanwhile needs a new one.
        if gateway.can_void:
            return await _record_handover(tx, core, mine)
        await _close(tx, core, mine, PaymentStatus.CANCELED)
        mine = None
    if mine is not None:
        await core.store.hold(tx, order.id, until=core.policy.hold_until(now))
        create = await payments.operation_of(tx, mine.id, "create")
        assert create is not None, "a payment exists without its create operation"
        if mine.decline_code is not None:
            # The buyer goes for another try, so the next approval is news again.
            mine = replace(mine, decline_code=None, decline_recoverable=False)
            await payments.save(tx, mine, now=now)
        return _Recorded(mine, order, create, created=False)
    holder = next((one for one in attempts if one.capture_right is not None), None)
    if holder is not None and gateway.captures_in_browser:
        return await _record_handover(tx, core, holder)
    if len(attempts) >= core.policy.attempts_per_order:
        raise TooManyAttempts("There were too many attempts to pay this order. Please contact the shop.")
    await core.store.hold(tx, order.id, until=core.policy.hold_until(now))
    return await _insert_payment(tx, core, order, gateway, account, urls=urls)


def _refuse_closed_order(order: PayableOrder) -> None:
    if order.status is OrderStatus.PAID:
        raise AlreadyPaid
    if order.status in (OrderStatus.CANCELED, OrderStatus.EXPIRED):
        raise OrderClosed


def _refuse_while_money_may_move(attempts: list[Payment]) -> None:
    unsure = (PaymentStatus.PROCESSING, PaymentStatus.AUTHORIZED, PaymentStatus.HELD)
    if any(one.status in unsure for one in attempts):
        raise PaymentInProgress
    if any(_is_owed(one) for one in attempts):
        raise PaymentInProgress(_GOES_BACK)


def _is_owed(payment: Payment) -> bool:
    """Whether money of this payment still has to go back; until then nothing more is taken for its order."""
    return payment.owed_to_buyer and payment.refund_status is not RefundStatus.FULL


async def _insert_payment(
    tx: Transaction,
    core: Core,
    order: PayableOrder,
    gateway: Gateway,
    account: Account,
    *,
    urls: Mapping[str, str],
) -> _Recorded:
    now = core.clock.now()
    payment = Payment(
        id=core.ids.new("pay"),
        order_id=order.id,
        gateway=gateway.name,
        status=PaymentStatus.CREATED,
        refund_status=RefundStatus.NONE,
        amount=order.total,
        account=account.id,
        live=account.live,
        captures_in_browser=gateway.captures_in_browser,
        gateway_ref=None,
        capture_ref=None,
        captured_minor=0,
        owed_to_buyer=False,
        capture_right="held" if gateway.captures_in_browser else None,
        decline_code=None,
        decline_recoverable=False,
        pending_reason=None,
        held_reason=None,
        asked_at=0,
        created_at=now,
    )
    request = {
        "payment_id": payment.id,
        "order_id": order.id,
        "order_number": order.number,
        "amount": order.total.minor,
        "currency": order.total.currency,
        **{name: url.replace("{payment}", payment.id) for name, url in urls.items()},
    }
    await payments.insert(tx, payment)
    operation = await _record(tx, core, payment, "create", request)
    await journal.note(
        tx, "payment.started", order_id=order.id, payment_id=payment.id, detail={"gateway": gateway.name}, now=now
    )
    return _Recorded(payment, order, operation, created=True)


async def _record(
    tx: Transaction, core: Core, payment: Payment, kind: str, request: Mapping[str, Any], *, number: int = 1
) -> Operation:
    """Commit an intention and its own key before the call; a repeat after any crash uses the same key and body."""
    now = core.clock.now()
    operation = Operation(
        id=core.ids.new("op"),
        payment_id=payment.id,
        kind=kind,
        round=number,
        idempotency_key=core.ids.new("key"),
        request=request,
        state="recorded",
        claimed_until=now + core.policy.claim_seconds * SECOND,
        created_at=now,
    )
    await payments.insert_operation(tx, operation)
    return operation


async def _open(core: Core, gateway: Gateway, recorded: _Recorded) -> Started | None:
    """The payment as the browser needs it, or None if this attempt ended and another is to be made."""
    if recorded.operation.state == "recorded":
        settled, opened = await _create(core, gateway, recorded)
    else:
        settled, opened = await _reopen(core, gateway, recorded)
    if settled is None or opened is None:
        return None
    match settled.payment.status:
        case PaymentStatus.AWAITING_BUYER:
            # Only now may the browser learn the client values: the payment is open, and nobody took it over.
            return Started(_view(settled.payment), opened.client, recorded.created)
        case PaymentStatus.CAPTURED:
            raise AlreadyPaid
        case PaymentStatus.FAILED | PaymentStatus.CANCELED:
            await _end_orphan(core, gateway, settled.payment)
            return None
        case _:
            raise PaymentInProgress


async def _end_orphan(core: Core, gateway: Gateway, payment: Payment) -> None:
    """End the object of an attempt that was closed while its create call was out.

    Its client values reached nobody, so this is tidiness: the intention to void stays recorded if the call fails.
    """
    if not gateway.can_void or payment.gateway_ref is None:
        return
    with contextlib.suppress(GatewayError):
        asked_at = core.clock.now()
        snapshot = await gateway.void(payment.gateway_ref)
        await settle(core, snapshot, trigger="void", asked_at=asked_at)


async def _create(core: Core, gateway: Gateway, recorded: _Recorded) -> tuple[Settled | None, Opened | None]:
    operation = recorded.operation
    if core.clock.now() - operation.created_at >= gateway.create_key_life_seconds * SECOND:
        await core.db.transaction(_abandon_create, core, operation, "the create key expired without an answer")
        return None, None
    asked_at = core.clock.now()
    try:
        opened = await gateway.create(_create_request(operation))
    except OutcomeUnknown as error:
        if error.replayed:
            # The gateway will repeat its server error for ever; what it may have created moved no money.
            await core.db.transaction(_abandon_create, core, operation, error.detail)
        raise GatewayUnavailable from error
    except GatewayBusy as error:
        raise _unavailable(error) from error
    except GatewayRefused as error:
        await core.db.transaction(_abandon_create, core, operation, error.detail, refused=True)
        if error.buyer_message is None:
            await core.db.transaction(_alarm, core, recorded.payment, error)
        raise InvalidRequest(error.buyer_message or _refused_sentence(gateway)) from error
    except GatewayMisconfigured as error:
        await core.db.transaction(_alarm, core, recorded.payment, error)
        raise GatewayUnavailable from error
    settled = await settle(core, opened.snapshot, trigger="start", asked_at=asked_at, operation=operation)
    return settled, opened


def _refused_sentence(gateway: Gateway) -> str:
    return f"{gateway.title} did not accept this payment. You have not been charged; please pay another way."


def _create_request(operation: Operation) -> CreateRequest:
    request = operation.request
    return CreateRequest(
        payment_id=request["payment_id"],
        order_id=request["order_id"],
        order_number=request["order_number"],
        amount=Money(request["amount"], request["currency"]),
        return_url=request["return_url"],
        cancel_url=request["cancel_url"],
        idempotency_key=operation.idempotency_key,
    )


async def _reopen(core: Core, gateway: Gateway, recorded: _Recorded) -> tuple[Settled | None, Opened | None]:
    payment = recorded.payment
    assert payment.gateway_ref is not None, "a finished create left no gateway object"
    asked_at = core.clock.now()
    try:
        opened = await gateway.reopen(payment.gateway_ref)
    except GatewayMisconfigured as error:
        await _give_up_forgotten(core, gateway, payment, error)
        return None, None
    except GatewayError as error:
        raise _unavailable(error) from error
    return await settle(core, opened.snapshot, trigger="start", asked_at=asked_at), opened


async def _give_up_forgotten(core: Core, gateway: Gateway, payment: Payment, error: GatewayMisconfigured) -> None:
    """Close an object that the gateway has forgotten by its own rules; anything else unknown to it is an alarm.

    An object that only our capture can turn into money is safe to close once its key has expired.
    """
    expired = core.clock.now() - payment.created_at >= gateway.create_key_life_seconds * SECOND
    if gateway.captures_in_browser or not expired:
        await core.db.transaction(_alarm, core, payment, error)
        raise GatewayUnavailable from error
    await core.db.transaction(_abandon, core, payment.id, error.detail)


async def _abandon_create(
    tx: Transaction, core: Core, create: Operation, reason: str, *, refused: bool = False
) -> None:
    """End a payment whose create brought nothing. If another try under the same key did, the payment lives on."""
    _, payment, _ = await _lock(tx, core, create.payment_id)
    if payment.status is PaymentStatus.CREATED:
        await _give_up(tx, core, payment, reason, operations="refused" if refused else "abandoned")


async def _abandon(tx: Transaction, core: Core, payment_id: str, reason: str) -> None:
    """End a payment that only our capture can turn into money, unless a capture was recorded meanwhile."""
    _, payment, _ = await _lock(tx, core, payment_id)
    if payment.status is PaymentStatus.AWAITING_BUYER and not payment.captures_in_browser:
        await _give_up(tx, core, payment, reason)


async def _give_up(
    tx: Transaction, core: Core, payment: Payment, reason: str, *, operations: str = "abandoned"
) -> None:
    await _close(tx, core, payment, PaymentStatus.FAILED, operations=operations)
    await journal.note(
        tx,
        "payment.abandoned",
        order_id=payment.order_id,
        payment_id=payment.id,
        detail={"reason": reason},
        now=core.clock.now(),
    )


async def _close(
    tx: Transaction, core: Core, payment: Payment, status: PaymentStatus, *, operations: str = "abandoned"
) -> Payment:
    now = core.clock.now()
    closed = replace(payment, status=status, capture_right=None)
    await payments.save(tx, closed, now=now)
    await payments.finish_all(tx, payment.id, operations, now=now)
    return closed


async def _alarm(tx: Transaction, core: Core, payment: Payment, error: GatewayError) -> None:
    """Tell the operator in the history and by an event; `detail` carries the gateway's request id, never a secret.

    Whoever polls repeats the problem; the operator hears of it once an hour.
    """
    now = core.clock.now()
    last = await journal.last_noted(tx, "alarm.gateway", order_id=payment.order_id, payment_id=payment.id)
    if last is not None and now - last < _ALARM_AGAIN_SECONDS * SECOND:
        return
    detail = {"gateway": payment.gateway, "problem": str(error), "payment_id": payment.id}
    await journal.note(tx, "alarm.gateway", order_id=payment.order_id, payment_id=payment.id, detail=detail, now=now)
    await outbox.emit(tx, "alarm.gateway", order_id=payment.order_id, data=detail, ids=core.ids, now=now)


def _unavailable(error: GatewayError) -> GatewayUnavailable:
    wait = error.retry_after_seconds if isinstance(error, GatewayBusy) else None
    return GatewayUnavailable(retry_after_seconds=None if wait is None else max(1, round(wait)))


async def _settle_free_order(tx: Transaction, core: Core, order_id: str, actor: Actor) -> None:
    """Nothing is due, so no gateway is asked: the goods are taken and the order is complete."""
    now = core.clock.now()
    order = await _own_order(tx, core, order_id, actor, lock=True)
    _refuse_closed_order(order)
    if not await core.store.take(tx, order.id, payment_id="free", now=now):
        raise SoldOut
    await core.store.mark(tx, order, OrderStatus.PAID, now=now)
    await journal.note(tx, "order.free", order_id=order.id, now=now)
    data = {"amount": 0, "currency": order.total.currency}
    await outbox.emit(tx, "order.paid", order_id=order.id, data=data, ids=core.ids, now=now)


# ── Complete ──────────


async def complete(core: Core, payment_id: str, actor: Actor) -> Result:
    """Ask the gateway how the actor's own payment stands, capture it if the buyer approved, and settle.

    What the browser believes is no argument here. Safe to repeat and to run in parallel. Raises `errors.NotFound`; a
    gateway that does not answer gives a `Result` with `unknown`.
    """
    standing = await core.db.read(_own_payment, core, payment_id, actor)
    return await pursue(core, standing, trigger="buyer")


async def _own_payment(tx: Transaction, core: Core, payment_id: str, actor: Actor) -> _Standing:
    payment = await payments.find(tx, payment_id)
    order = None if payment is None else await core.store.find(tx, payment.order_id, lock=False)
    if payment is None or order is None or order.user_id != actor.user_id:
        raise NotFound("We could not find this payment.")
    capture = await payments.operation_of(tx, payment.id, "capture")
    if capture is None or capture.state != "recorded":
        return _Standing(payment, order)
    return _Standing(payment, order, capture, unknown=capture.claimed_until > core.clock.now())


async def pursue(core: Core, standing: _Standing, *, trigger: str) -> Result:
    """Bring one payment as far as it goes now, whoever asks. `trigger` names who, for the history."""
    payment = standing.payment
    # A held payment is read as well: money that moves behind our back has to be booked, though it pays nothing.
    alive = payment.is_open or payment.status is PaymentStatus.HELD
    if not alive or payment.gateway_ref is None or standing.unknown:
        return _result(standing.payment, standing.order, unknown=standing.unknown)
    gateway = core.gateways.get(payment.gateway)
    if gateway is None:
        return _result(payment, standing.order, unknown=True)
    if standing.capture is not None and payment.is_open:
        # Whoever sent this capture vanished before its answer was kept; the same key finds out what became of it.
        return await _capture(core, gateway, payment, trigger=trigger)
    for _ in range(_LOOKS):
        settled = await _fetch_and_settle(core, gateway, payment, trigger=trigger)
        if settled is None:
            break
        if settled.command is Command.CAPTURE:
            return await _capture(core, gateway, payment, trigger=trigger)
        # Another caller's newer news came first and may have asked for more than ours did: look again.
        if not (settled.overtaken and settled.payment.status is PaymentStatus.AWAITING_BUYER):
            return _settled_result(settled)
    return await _standing_result(core, payment.id, unknown=True)


async def _fetch_and_settle(
    core: Core, gateway: Gateway, payment: Payment, *, trigger: str, operation: Operation | None = None
) -> Settled | None:
    """What the gateway's object says now, settled; None if it did not say."""
    assert payment.gateway_ref is not None
    asked_at = core.clock.now()
    try:
        snapshot = await gateway.fetch(payment.gateway_ref)
    except GatewayError as error:
        if isinstance(error, GatewayMisconfigured):
            await core.db.transaction(_alarm, core, payment, error)
        return None
    return await settle(core, snapshot, trigger=trigger, asked_at=asked_at, operation=operation)


async def _capture(core: Core, gateway: Gateway, payment: Payment, *, trigger: str) -> Result:
    for _ in range(_LOOKS):
        step = await _record_capture(core, gateway, payment)
        if isinstance(step, _Standing):
            return _result(step.payment, step.order, unknown=step.unknown)
        if isinstance(step, _Recorded):
            return await _send_capture(core, gateway, step, trigger=trigger)
        if isinstance(step, _LookUp):
            settled = await _fetch_and_settle(core, gateway, step.payment, trigger=trigger, operation=step.operation)
            return await _standing_result(core, payment.id, unknown=settled is None)
        if not await _hand_over(core, step.holder):
            return await _standing_result(core, payment.id, unknown=True)
    return await _standing_result(core, payment.id, unknown=True)


async def _record_capture(
    core: Core, gateway: Gateway, payment: Payment
) -> _Recorded | _Handover | _LookUp | _Standing:
    take_right = partial(core.db.transaction, _take_capture_right, core, gateway, payment.id)
    try:
        return await _with_goods_of_others_who_left(core, payment.order_id, take_right)
    except SoldOut:
        # The hold ended while the buyer approved. Nothing was captured, so nothing has to be given back.
        await core.db.transaction(_abandon, core, payment.id, "the goods were gone before the capture")
        raise


async def _take_capture_right(
    tx: Transaction, core: Core, gateway: Gateway, payment_id: str
) -> _Recorded | _Handover | _LookUp | _Standing:
    order, payment, attempts = await _lock(tx, core, payment_id)
    last = await payments.operation_of(tx, payment.id, "capture", lock=True)
    if not payment.is_open:
        return _Standing(payment, order)
    if last is not None and last.state == "recorded":
        return await _claim_again(tx, core, gateway, _Recorded(payment, order, last, created=False))
    taken_on = last is not None and last.state == "succeeded"
    if taken_on or any(one.status is PaymentStatus.HELD for one in attempts):
        # Money may be on its way by this capture already, or by a payment that a person has to look at.
        return _Standing(payment, order, unknown=True)
    payable = order.status in (OrderStatus.OPEN, OrderStatus.PENDING) and order.total == payment.amount
    if not payable or any(_is_owed(one) for one in attempts):
        return _Standing(await _close(tx, core, payment, PaymentStatus.CANCELED), order)
    holder = next((one for one in attempts if one.capture_right is not None and one.id != payment.id), None)
    if holder is not None:
        return await _record_handover(tx, core, holder)
    return await _record_capture_round(tx, core, order, payment, number=1 if last is None else last.round + 1)


async def _record_capture_round(
    tx: Transaction, core: Core, order: PayableOrder, payment: Payment, *, number: int
) -> _Recorded:
    now = core.clock.now()
    await core.store.hold(tx, order.id, until=core.policy.pending_until(now))
    if order.status is OrderStatus.OPEN:
        await core.store.mark(tx, order, OrderStatus.PENDING, now=now)
    processing = replace(
        payment,
        status=PaymentStatus.PROCESSING,
        capture_right="held",
        decline_code=None,
        decline_recoverable=False,
    )
    await payments.save(tx, processing, now=now)
    request = {"amount": payment.amount.minor, "currency": payment.amount.currency}
    operation = await _record(tx, core, processing, "capture", request, number=number)
    detail = {"gateway": payment.gateway, "round": number}
    await journal.note(tx, "capture.intended", order_id=order.id, payment_id=payment.id, detail=detail, now=now)
    return _Recorded(processing, order, operation, created=True)


async def _claim_again(
    tx: Transaction, core: Core, gateway: Gateway, recorded: _Recorded
) -> _Recorded | _LookUp | _Standing:
    """Repeat a capture whose caller vanished: with its key while the gateway remembers it, never with a new one."""
    now, capture = core.clock.now(), recorded.operation
    if capture.claimed_until > now:
        return _Standing(recorded.payment, recorded.order, unknown=True)
    if now - capture.created_at >= gateway.capture_key_life_seconds * SECOND:
        return _LookUp(recorded.payment, capture)
    await payments.claim(tx, capture.id, now + core.policy.claim_seconds * SECOND)
    return recorded


async def _lock(tx: Transaction, core: Core, payment_id: str) -> tuple[PayableOrder, Payment, list[Payment]]:
    found = await payments.find(tx, payment_id)
    assert found is not None
    order = await core.store.find(tx, found.order_id, lock=True)
    assert order is not None, "a payment outlived its order"
    attempts = await payments.of_order(tx, order.id, lock=True)
    return order, next(one for one in attempts if one.id == payment_id), attempts


async def _send_capture(core: Core, gateway: Gateway, recorded: _Recorded, *, trigger: str) -> Result:
    payment, operation = recorded.payment, recorded.operation
    assert payment.gateway_ref is not None
    asked_at = core.clock.now()
    try:
        snapshot = await gateway.capture(
            payment.gateway_ref, idempotency_key=operation.idempotency_key, amount=payment.amount
        )
    except GatewayRefused as error:
        return await _look_after_refusal(core, gateway, recorded, error, trigger=trigger)
    except GatewayError as error:
        await core.db.transaction(_leave_capture_open, core, recorded, error)
        return await _standing_result(core, payment.id, unknown=True)
    settled = await settle(core, snapshot, trigger=trigger, asked_at=asked_at, operation=operation)
    return _settled_result(settled)


async def _look_after_refusal(
    core: Core, gateway: Gateway, recorded: _Recorded, error: GatewayRefused, *, trigger: str
) -> Result:
    """A refused capture moved nothing itself, but an earlier try under the same key may have: the object decides."""
    payment = recorded.payment
    assert payment.gateway_ref is not None
    asked_at = core.clock.now()
    try:
        snapshot = await gateway.fetch(payment.gateway_ref)
    except GatewayError as lookup_error:
        await core.db.transaction(_leave_capture_open, core, recorded, lookup_error)
        return await _standing_result(core, payment.id, unknown=True)
    if snapshot.progress in (Progress.APPROVED, Progress.AWAITING_BUYER):
        await core.db.transaction(_alarm, core, payment, error)
        snapshot = replace(snapshot, progress=Progress.FAILED)
    settled = await settle(core, snapshot, trigger=trigger, asked_at=asked_at, operation=recorded.operation)
    return _settled_result(settled)


async def _leave_capture_open(tx: Transaction, core: Core, recorded: _Recorded, error: GatewayError) -> None:
    """The outcome is unknown: the intention and its key stay, the right stays taken, and whoever asks next repeats."""
    await payments.claim(tx, recorded.operation.id, 0)
    await journal.note(
        tx,
        "capture.unknown",
        order_id=recorded.order.id,
        payment_id=recorded.payment.id,
        detail={"gateway": recorded.payment.gateway, "problem": str(error)},
        now=core.clock.now(),
    )
    if isinstance(error, GatewayMisconfigured):
        await _alarm(tx, core, recorded.payment, error)


# ── Handing the capture right over ──────────


async def _record_handover(tx: Transaction, core: Core, holder: Payment) -> _Handover:
    """Mark the holder as being voided, so that no new payment starts meanwhile. Raises `PaymentInProgress`."""
    gateway = core.gateways.get(holder.gateway)
    voidable = holder.status in (PaymentStatus.CREATED, PaymentStatus.AWAITING_BUYER)
    if gateway is None or not gateway.can_void or not voidable:
        raise PaymentInProgress
    await payments.save(tx, replace(holder, capture_right="voiding"), now=core.clock.now())
    await _intend_void(tx, core, holder)
    return _Handover(holder)


async def _intend_void(tx: Transaction, core: Core, payment: Payment) -> None:
    last = await payments.operation_of(tx, payment.id, "void")
    if last is not None and last.state == "recorded":
        return
    await _record(tx, core, payment, "void", {}, number=1 if last is None else last.round + 1)
    now = core.clock.now()
    detail = {"gateway": payment.gateway}
    await journal.note(tx, "void.intended", order_id=payment.order_id, payment_id=payment.id, detail=detail, now=now)


async def _hand_over(core: Core, holder: Payment) -> bool:
    """Void the holder at its gateway, settle what that says, and tell whether it gave the right back."""
    settled = await _void(core, holder)
    return settled is not None and settled.payment.capture_right is None


async def _void(core: Core, payment: Payment) -> Settled | None:
    gateway = core.gateways[payment.gateway]
    if payment.gateway_ref is None:
        # The create call never answered. Its client values reached nobody, so what it may have made can't be confirmed.
        return await core.db.transaction(_close_unanswered, core, payment.id)
    asked_at = core.clock.now()
    try:
        snapshot = await gateway.void(payment.gateway_ref)
    except GatewayError as error:
        if isinstance(error, GatewayMisconfigured):
            await core.db.transaction(_alarm, core, payment, error)
        return None
    return await settle(core, snapshot, trigger="void", asked_at=asked_at)


async def _close_unanswered(tx: Transaction, core: Core, payment_id: str) -> Settled:
    order, payment, _ = await _lock(tx, core, payment_id)
    if payment.status is PaymentStatus.CREATED:
        payment = await _close(tx, core, payment, PaymentStatus.CANCELED)
    return Settled(payment, order)


# ── Cancel ──────────


async def cancel(core: Core, payment_id: str, actor: Actor) -> Result:
    """End the actor's own payment, at the gateway where it has a call for that. Safe to repeat.

    Raises `errors.NotFound`, or `PaymentInProgress` where a capture is under way. A payment that went through meanwhile
    is settled, and the result says so.
    """
    await core.db.read(_own_payment, core, payment_id, actor)
    step = await core.db.transaction(_record_cancel, core, payment_id)
    if isinstance(step, _Handover):
        settled = await _void(core, step.holder)
        if settled is None:
            return await _standing_result(core, payment_id, unknown=True)
        return _settled_result(settled)
    return _result(step.payment, step.order)


async def _record_cancel(tx: Transaction, core: Core, payment_id: str) -> _Handover | _Standing:
    order, payment, _ = await _lock(tx, core, payment_id)
    if not payment.is_open:
        return _Standing(payment, order)
    capture = await payments.operation_of(tx, payment.id, "capture")
    if payment.status is PaymentStatus.PROCESSING or (capture is not None and capture.state == "recorded"):
        raise PaymentInProgress
    gateway = core.gateways.get(payment.gateway)
    if gateway is None:
        raise PaymentInProgress
    if gateway.can_void:
        if payment.capture_right is not None:
            await payments.save(tx, replace(payment, capture_right="voiding"), now=core.clock.now())
        await _intend_void(tx, core, payment)
        return _Handover(payment)
    closed = await _close(tx, core, payment, PaymentStatus.CANCELED)
    await journal.note(tx, "payment.canceled", order_id=order.id, payment_id=payment.id, now=core.clock.now())
    return _Standing(closed, order)


async def cancel_order(core: Core, order_id: str, actor: Actor) -> OrderStatus:
    """Cancel the actor's own unpaid order: its payments end first, then its reservation.

    Raises `errors.NotFound`, `AlreadyPaid`, or `PaymentInProgress` where a payment can't be ended right now.
    """
    for payment in await core.db.read(_open_payments, core, order_id, actor):
        await cancel(core, payment.id, actor)
    return await core.db.transaction(_close_order, core, order_id, actor)


async def _open_payments(tx: Transaction, core: Core, order_id: str, actor: Actor) -> list[Payment]:
    await _own_order(tx, core, order_id, actor, lock=False)
    return [one for one in await payments.of_order(tx, order_id) if one.is_open]


async def _close_order(tx: Transaction, core: Core, order_id: str, actor: Actor) -> OrderStatus:
    order = await _own_order(tx, core, order_id, actor, lock=True)
    if order.status in (OrderStatus.CANCELED, OrderStatus.EXPIRED):
        return order.status
    if order.status is OrderStatus.PAID:
        raise AlreadyPaid("This order is already paid and can no longer be canceled here.")
    attempts = await payments.of_order(tx, order.id, lock=True)
    if any(one.is_open or one.status is PaymentStatus.HELD for one in attempts):
        raise PaymentInProgress
    now = core.clock.now()
    await core.store.release(tx, order.id)
    await core.store.mark(tx, order, OrderStatus.CANCELED, now=now)
    await journal.note(tx, "order.canceled", order_id=order.id, now=now)
    return OrderStatus.CANCELED


# ── Reading ──────────


async def get_payment(core: Core, payment_id: str, actor: Actor) -> PaymentView:
    """The actor's own payment as our books have it; asks no gateway. Raises `errors.NotFound`."""
    standing = await core.db.read(_own_payment, core, payment_id, actor)
    return _view(standing.payment)


async def _standing_result(core: Core, payment_id: str, *, unknown: bool) -> Result:
    standing = await core.db.read(_stand, core, payment_id)
    return _result(standing.payment, standing.order, unknown=unknown and standing.payment.is_open)


async def _stand(tx: Transaction, core: Core, payment_id: str) -> _Standing:
    payment = await payments.find(tx, payment_id)
    assert payment is not None
    order = await core.store.find(tx, payment.order_id, lock=False)
    assert order is not None, "a payment outlived its order"
    return _Standing(payment, order)


def _settled_result(settled: Settled) -> Result:
    return _result(settled.payment, settled.order)


def _result(payment: Payment, order: PayableOrder, *, unknown: bool = False) -> Result:
    if unknown:
        return Result(_view(payment), order.status, recoverable=False, message=_CHECKING, unknown=True)
    retry = payment.status is PaymentStatus.AWAITING_BUYER and payment.decline_code is not None
    return Result(
        payment=_view(payment),
        order_status=order.status,
        recoverable=retry and payment.decline_recoverable,
        message=_message(payment, order),
        unknown=False,
    )


def _message(payment: Payment, order: PayableOrder) -> str:
    if payment.decline_code is not None:
        return buyer_sentence(payment.decline_code)
    if payment.status in (PaymentStatus.CANCELED, PaymentStatus.FAILED) and order.status is OrderStatus.PAID:
        return AlreadyPaid.default_message
    if payment.owed_to_buyer:
        return _GIVEN_BACK
    return _SAYINGS[payment.status]


def _view(payment: Payment) -> PaymentView:
    return PaymentView(
        id=payment.id,
        order_id=payment.order_id,
        gateway=payment.gateway,
        status=payment.status,
        refund_status=payment.refund_status,
        amount=payment.amount,
        created_at=payment.created_at,
    )
