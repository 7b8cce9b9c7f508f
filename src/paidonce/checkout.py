"""The actions of paying: start, complete, cancel. Each reads as its steps: record the intention → call → settle.

No gateway is called inside a transaction, ever. A crash between two steps leaves a row that says what was intended; the
same action, called again, goes on from there with the same idempotency key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from paidonce import aftersales, bounds, capturing, journal, outbox, payments
from paidonce.capturing import LOOKS, Handover, Recorded, close, pursue
from paidonce.case import intend, intend_void, void_is_wanted_by_staff
from paidonce.core import Actor, Core
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
from paidonce.gateways.base import Account, CaptureMethod, CreateRequest, Gateway, Opened, PaidElsewhere
from paidonce.money import Money, MoneyError
from paidonce.payments import Operation, Payment
from paidonce.ports import Microseconds, Transaction, at_a_glance
from paidonce.results import (
    AWAITED_WITH_GOODS,
    ENDED_WITH_MONEY,
    PaymentView,
    Result,
    Standing,
    Started,
    result,
    view,
)
from paidonce.schedule import rescheduled
from paidonce.settlement import Settled, settle
from paidonce.states import OrderStatus, PaymentStatus, RefundStatus
from paidonce.store import PayableOrder

__all__ = ["PaymentView", "Result", "Started", "cancel", "cancel_order", "complete", "get_payment", "start"]

_GOES_BACK = (
    "An earlier payment for this order goes back to you. Please place a new order instead of paying this one again."
)


# ── Start ──────────


async def start(
    core: Core,
    order_id: str,
    gateway_name: str,
    actor: Actor,
    *,
    return_url: str,
    cancel_url: str,
    webhook_url: str | None = None,
    cleared: bool = False,
) -> Started:
    """Open a payment of the actor's own order at a gateway, holding the goods; the same one again if it is open.

    The addresses are absolute; `{payment}` in them becomes the payment's id. `cleared` says that the buyer has passed
    the shop's challenge, after a `TooManyDeclines` that says it helps. Raises `errors.Problem`:
    NotFound, AlreadyPaid, OrderClosed, PaymentInProgress, SoldOut, TooManyAttempts, InvalidRequest, GatewayUnavailable.
    """
    order = await core.db.read(_own_order, core, order_id, actor, lock=False)
    gateway = core.gateway(gateway_name)
    if order.total.minor == 0:
        await core.write(_settle_free_order, core, order_id, actor)
        raise AlreadyPaid("Nothing is due for this order; it is complete.")
    _check_amount(gateway, order.total)
    account = await _account(gateway)
    urls = {"return_url": return_url, "cancel_url": cancel_url}
    if webhook_url is not None:
        urls["webhook_url"] = webhook_url
    for _ in range(LOOKS):
        step = await _record_start(core, order_id, gateway, account, actor, urls=urls, cleared=cleared)
        if isinstance(step, Handover):
            await _make_way(core, step.holder, gateway)
            continue
        opened = await _open(core, gateway, step)
        if opened is not None:
            return opened
    raise GatewayUnavailable


async def _make_way(core: Core, holder: Payment, gateway: Gateway) -> None:
    """End the payment that is in the way of a start, or go back to it where that is what the buyer wants.

    A gateway may have no way to end an object that is still open; whoever wanted to leave it, and then starts there
    again, is led to the same object. Raises `PaymentInProgress` where neither is possible now.
    """
    settled = await capturing.void(core, holder, trigger="start")
    if settled is not None and settled.payment.capture_right is None:
        return
    if settled is None or not await core.write(_go_back_to, core, holder.id, gateway.name):
        raise PaymentInProgress


async def _go_back_to(tx: Transaction, core: Core, payment_id: str, gateway_name: str) -> bool:
    order, payment, _ = await capturing.lock(tx, core, payment_id)
    still_open = payment.status is PaymentStatus.AWAITING_BUYER and payment.capture_right == "voiding"
    if not still_open or payment.gateway != gateway_name or payment.amount != order.total:
        return False
    if await void_is_wanted_by_staff(tx, payment):
        # Only the buyer's own wish, and time's, give way to the buyer.
        return False
    now = core.clock.now()
    for void in await payments.recorded(tx, payment.id, "void"):
        await payments.finish(tx, void.id, "abandoned", now=now)
    await payments.save(tx, replace(payment, capture_right="held"), now=now)
    detail = {"gateway": payment.gateway, "trigger": "start"}
    await journal.note(tx, "void.abandoned", order_id=order.id, payment_id=payment.id, detail=detail, now=now)
    return True


@at_a_glance
async def _own_order(tx: Transaction, core: Core, order_id: str, actor: Actor, *, lock: bool) -> PayableOrder:
    order = await core.store.find(tx, order_id, lock=lock)
    # A stranger hears the same as for an id that does not exist, so that ids can't be probed. So does who writes the id
    # in a way that only the shop's own tables read alike ("01" for 1): its payments are kept under the one spelling.
    if order is None or order.id != order_id or order.user_id != actor.user_id:
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
    core: Core,
    order_id: str,
    gateway: Gateway,
    account: Account,
    actor: Actor,
    *,
    urls: Mapping[str, str],
    cleared: bool,
) -> Recorded | Handover:
    record = partial(
        core.write,
        _record_payment,
        core,
        order_id,
        actor,
        gateway=gateway,
        account=account,
        urls=urls,
        cleared=cleared,
    )
    return await capturing.with_goods_of_others_who_left(core, order_id, record)


async def _record_payment(
    tx: Transaction,
    core: Core,
    order_id: str,
    actor: Actor,
    *,
    gateway: Gateway,
    account: Account,
    urls: Mapping[str, str],
    cleared: bool,
) -> Recorded | Handover:
    now = core.clock.now()
    order = await _own_order(tx, core, order_id, actor, lock=True)
    await _refuse_closed_order(tx, core, order)
    # Again, since the shop may have changed the order meanwhile.
    _check_amount(gateway, order.total)
    attempts = await payments.of_order(tx, order.id, lock=True)
    _refuse_while_money_may_move(attempts)
    await bounds.refuse_after_declines(tx, core, order.id, actor, cleared=cleared)
    leaving = next((one for one in attempts if one.capture_right == "voiding"), None)
    if leaving is not None:
        # A handover or cancellation was interrupted; repeating the void is safe, and only then may a new start go on.
        return await capturing.record_handover(tx, core, leaving)
    mine = next((one for one in attempts if one.is_open and one.gateway == gateway.name), None)
    if mine is not None and mine.amount != order.total:
        # The amount of an attempt is frozen; an order that was edited meanwhile needs a new one.
        if gateway.can_void:
            return await capturing.record_handover(tx, core, mine)
        await close(tx, core, order, mine, PaymentStatus.CANCELED, reason="the order was changed")
        mine = None
    if mine is not None:
        await _hold(tx, core, order, attempts, now=now)
        create = await payments.operation_of(tx, mine.id, "create")
        assert create is not None, "a payment exists without its create operation"
        if mine.decline_code is not None:
            # The buyer goes for another try, so the next approval is news again.
            mine = replace(mine, decline_code=None, decline_recoverable=False)
            await payments.save(tx, mine, now=now)
        await bounds.remember_goods(tx, core, order.id, actor)
        return Recorded(mine, order, create, created=False)
    if len(attempts) >= core.policy.attempts_per_order:
        # Before a handover: nobody loses the payment that is open for a new one that may not be.
        raise TooManyAttempts("There were too many attempts to pay this order. Please contact the shop.")
    holder = next((one for one in attempts if one.capture_right is not None), None)
    if holder is not None and gateway.captures_in_browser:
        return await capturing.record_handover(tx, core, holder)
    await bounds.refuse_more_goods(tx, core, order.id, actor)
    await _hold(tx, core, order, attempts, now=now)
    recorded = await _insert_payment(tx, core, order, gateway, account, actor=actor, urls=urls)
    await bounds.remember_goods(tx, core, order.id, actor)
    return recorded


async def _hold(
    tx: Transaction, core: Core, order: PayableOrder, attempts: list[Payment], *, now: Microseconds
) -> None:
    """Reserve the goods for a buyer who pays now. Who waits for awaited money loses nothing by looking elsewhere."""
    until, ends = core.policy.hold_until(now), await core.store.hold_ends(tx, order.id)
    if ends is not None and _time_is_over(order, now):
        # The goods that are still held keep such an order open. A buyer who begins again and again must not prolong it.
        until = ends
    elif ends is not None and any(one.is_awaited for one in attempts):
        until = max(until, ends)
    await core.store.hold(tx, order.id, until=until)


async def _refuse_closed_order(tx: Transaction, core: Core, order: PayableOrder) -> None:
    """An order whose money was awaited beyond its own time can be paid as long as its goods are held for it."""
    if order.status is OrderStatus.PAID:
        raise AlreadyPaid
    if order.status in (OrderStatus.CANCELED, OrderStatus.EXPIRED):
        raise OrderClosed
    if await _is_over(tx, core, order):
        raise OrderClosed


async def _is_over(tx: Transaction, core: Core, order: PayableOrder) -> bool:
    now = core.clock.now()
    return _time_is_over(order, now) and (await core.store.hold_ends(tx, order.id) or 0) <= now


def _time_is_over(order: PayableOrder, now: Microseconds) -> bool:
    return order.status is OrderStatus.OPEN and order.expires_at is not None and order.expires_at <= now


def _refuse_while_money_may_move(attempts: list[Payment]) -> None:
    unsure = (PaymentStatus.PROCESSING, PaymentStatus.AUTHORIZED, PaymentStatus.HELD)
    if any(one.status in unsure and (one.is_open or one.is_in_the_way) for one in attempts):
        raise PaymentInProgress
    if any(one.is_owed for one in attempts):
        raise PaymentInProgress(_GOES_BACK)


async def _insert_payment(
    tx: Transaction,
    core: Core,
    order: PayableOrder,
    gateway: Gateway,
    account: Account,
    *,
    actor: Actor,
    urls: Mapping[str, str],
) -> Recorded:
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
        capture_method=core.policy.capture_method,
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
        started_by=actor.user_id,
        started_from=bounds.network_tag(actor.address),
    )
    request = {
        "payment_id": payment.id,
        "order_id": order.id,
        "order_number": order.number,
        "amount": order.total.minor,
        "currency": order.total.currency,
        "capture_method": str(payment.capture_method),
        **{name: url.replace("{payment}", payment.id) for name, url in urls.items()},
    }
    payment = rescheduled(core.policy, payment, now=now)
    await payments.insert(tx, payment)
    operation = await intend(tx, core, payment, "create", request, claimed=True, is_first=True)
    await journal.note(
        tx, "payment.started", order_id=order.id, payment_id=payment.id, detail={"gateway": gateway.name}, now=now
    )
    return Recorded(payment, order, operation, created=True)


async def _open(core: Core, gateway: Gateway, recorded: Recorded) -> Started | None:
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
            return Started(view(settled.payment), opened.client, recorded.created)
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


async def _create(
    core: Core, gateway: Gateway, recorded: Recorded, *, trigger: str = "start"
) -> tuple[Settled | None, Opened | None]:
    operation = recorded.operation
    if operation.key_is_spent(core.clock.now(), life_seconds=gateway.create_key_life_seconds):
        await core.write(_abandon_create, core, operation, "the create key expired without an answer")
        return None, None
    asked_at = core.clock.now()
    try:
        opened = await gateway.create(_create_request(operation))
    except OutcomeUnknown as error:
        if error.replayed:
            # The gateway will repeat its server error for ever; what it may have created moved no money.
            await core.write(_abandon_create, core, operation, error.detail)
        raise GatewayUnavailable from error
    except GatewayBusy as error:
        raise _unavailable(error) from error
    except GatewayRefused as error:
        await core.write(_abandon_create, core, operation, error.detail, refused=True)
        if error.buyer_message is None:
            await core.write(capturing.alarm, core, recorded.payment, error)
        raise InvalidRequest(error.buyer_message or _refused_sentence(gateway)) from error
    except GatewayMisconfigured as error:
        await core.write(capturing.alarm, core, recorded.payment, error)
        raise GatewayUnavailable from error
    try:
        settled = await settle(core, opened.snapshot, trigger=trigger, asked_at=asked_at, operation=operation)
    except NotFound:
        # A process that hung for longer than the gateway keeps keys has made a second object. Its client values reach
        # nobody, and it ends here.
        with contextlib.suppress(GatewayError):
            await gateway.void(opened.snapshot.ref)
        raise GatewayUnavailable from None
    return settled, opened


async def find_out_create(core: Core, gateway: Gateway, payment: Payment) -> None:
    """Repeat a create whose answer was lost, with its own key, so that no object at the gateway stays unknown to us.

    Past its key's life it is abandoned: it moved no money. Raises `errors.Problem` like `start`.
    """
    recorded = await core.db.read(_unanswered_create, core, payment.id)
    if recorded is None:
        return
    settled, _ = await _create(core, gateway, recorded, trigger="recovery")
    if settled is not None and settled.payment.status in (PaymentStatus.FAILED, PaymentStatus.CANCELED):
        await _end_orphan(core, gateway, settled.payment)


async def _unanswered_create(tx: Transaction, core: Core, payment_id: str) -> Recorded | None:
    payment = await payments.find(tx, payment_id)
    create = await payments.operation_of(tx, payment_id, "create")
    if payment is None or create is None or create.state != "recorded":
        return None
    if create.is_claimed(core.clock.now(), seconds=core.policy.claim_seconds):
        return None
    order = await core.store.find(tx, payment.order_id, lock=False)
    return None if order is None else Recorded(payment, order, create, created=False)


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
        capture_method=CaptureMethod(request["capture_method"]),
        webhook_url=request.get("webhook_url"),
    )


async def _reopen(core: Core, gateway: Gateway, recorded: Recorded) -> tuple[Settled | None, Opened | None]:
    payment = recorded.payment
    assert payment.gateway_ref is not None, "a finished create left no gateway object"
    asked_at = core.clock.now()
    try:
        opened = await gateway.reopen(payment.gateway_ref)
    except GatewayMisconfigured as error:
        if not await capturing.tell_unknown_object(core, gateway, payment, error):
            raise GatewayUnavailable from error
        return None, None
    except GatewayError as error:
        raise _unavailable(error) from error
    return await settle(core, opened.snapshot, trigger="start", asked_at=asked_at), opened


async def _abandon_create(
    tx: Transaction, core: Core, create: Operation, reason: str, *, refused: bool = False
) -> None:
    """End a payment whose create brought nothing. If another try under the same key did, the payment lives on."""
    order, payment, _ = await capturing.lock(tx, core, create.payment_id)
    if payment.status is PaymentStatus.CREATED:
        ended = "refused" if refused else "abandoned"
        await close(tx, core, order, payment, PaymentStatus.FAILED, reason=reason, operations=ended)


def _unavailable(error: GatewayError) -> GatewayUnavailable:
    wait = error.retry_after_seconds if isinstance(error, GatewayBusy) else None
    return GatewayUnavailable(retry_after_seconds=None if wait is None else max(1, round(wait)))


async def _settle_free_order(tx: Transaction, core: Core, order_id: str, actor: Actor) -> None:
    """Nothing is due, so no gateway is asked: the goods are taken and the order is complete."""
    now = core.clock.now()
    order = await _own_order(tx, core, order_id, actor, lock=True)
    await _refuse_closed_order(tx, core, order)
    if not await core.store.take(tx, order.id, payment_id="free", now=now):
        raise SoldOut
    await core.store.mark(tx, order, OrderStatus.PAID, now=now)
    await journal.note(tx, "order.free", order_id=order.id, now=now)
    data = {"amount": 0, "currency": order.total.currency}
    await outbox.emit(tx, "order.paid", order_id=order.id, data=data, ids=core.ids, now=now)


# ── Complete ──────────


async def complete(core: Core, payment_id: str, actor: Actor) -> Result:
    """Ask the gateway how the actor's own payment stands, capture it if the buyer approved, and settle.

    What the browser believes is no argument here, except that a buyer who pays elsewhere (by a transfer) says by it
    that he will. Safe to repeat and to run in parallel. Raises `errors.NotFound`, and `SoldOut` if the goods are gone
    before any money was taken or promised; a gateway that does not answer gives a `Result` with `unknown`.
    """
    standing = await core.db.read(_own_payment, core, payment_id, actor)
    await _pass_promise_on(core, standing.payment)
    return await _in_full(core, await pursue(core, standing, trigger="buyer"))


async def _pass_promise_on(core: Core, payment: Payment) -> None:
    """Let a gateway know that its buyer means to pay. It is no more than a word, so without an answer we go on.

    The goods are held first. Raises `SoldOut`, so that the buyer hears it while the money is still his.
    """
    gateway = core.gateways.get(payment.gateway)
    waits = payment.status is PaymentStatus.AWAITING_BUYER and not payment.is_awaited
    if not waits or payment.gateway_ref is None or not isinstance(gateway, PaidElsewhere):
        return
    record = partial(core.write, _hold_for_promise, core, payment.id)
    if await capturing.with_goods_of_others_who_left(core, payment.order_id, record):
        with contextlib.suppress(GatewayError):
            await gateway.promise(payment.gateway_ref)


async def _hold_for_promise(tx: Transaction, core: Core, payment_id: str) -> bool:
    """Whether the money may be promised: somebody waits for it, and the goods are held from now on."""
    order, payment, attempts = await capturing.lock(tx, core, payment_id)
    payable = order.status in (OrderStatus.OPEN, OrderStatus.PENDING) and order.total == payment.amount
    waits = payment.status is PaymentStatus.AWAITING_BUYER and payment.capture_right != "voiding"
    if not payable or not waits or await _is_over(tx, core, order):
        return False
    await _hold(tx, core, order, attempts, now=core.clock.now())
    return True


async def _in_full(core: Core, told: Result) -> Result:
    """`told` with what only a look at goods and history adds to its sentence for the buyer."""
    may_say_more = (PaymentStatus.AWAITING_BUYER, PaymentStatus.FAILED, PaymentStatus.CANCELED)
    if told.unknown or told.payment.status not in may_say_more:
        return told
    return await core.db.read(_reworded, core, told)


async def _reworded(tx: Transaction, core: Core, told: Result) -> Result:
    payment = await payments.find(tx, told.payment.id)
    if payment is None or payment.status is not told.payment.status:
        return told
    if payment.is_awaited and payment.decline_code is None:
        ends = await core.store.hold_ends(tx, payment.order_id)
        return told if ends is None or ends <= core.clock.now() else replace(told, message=AWAITED_WITH_GOODS)
    if not payment.is_open and await aftersales.surplus_of(tx, payment) is not None:
        return replace(told, message=ENDED_WITH_MONEY)
    return told


@at_a_glance
async def _own_payment(tx: Transaction, core: Core, payment_id: str, actor: Actor) -> Standing:
    standing = await capturing.stand(tx, core, payment_id)
    if standing is None or standing.order.user_id != actor.user_id:
        raise NotFound("We could not find this payment.")
    return standing


# ── Cancel ──────────


async def cancel(core: Core, payment_id: str, actor: Actor) -> Result:
    """End the actor's own payment, at the gateway where it has a call for that. Safe to repeat.

    Raises `errors.NotFound`, or `PaymentInProgress` where a capture is under way. A payment that went through meanwhile
    is settled, and the result says so.
    """
    await core.db.read(_own_payment, core, payment_id, actor)
    return await end_unconfirmed(core, payment_id, trigger="buyer")


async def end_unconfirmed(core: Core, payment_id: str, *, trigger: str) -> Result:
    """End a payment that nobody has confirmed, at its gateway where that has a call for it.

    Raises `PaymentInProgress` where money is reserved or a capture is under way.
    """
    step = await core.write(_record_end, core, payment_id, trigger=trigger)
    if isinstance(step, Handover):
        settled = await capturing.void(core, step.holder, trigger=trigger)
        if settled is None:
            return await capturing.standing_result(core, payment_id, unknown=True)
        return await _in_full(core, result(settled.payment, settled.order))
    return await _in_full(core, result(step.payment, step.order))


async def _record_end(tx: Transaction, core: Core, payment_id: str, *, trigger: str) -> Handover | Standing:
    order, payment, _ = await capturing.lock(tx, core, payment_id)
    if not payment.is_open:
        return Standing(payment, order)
    standing = await capturing.stand(tx, core, payment_id)
    under_way = standing is not None and standing.taking is not None
    if under_way or payment.status in (PaymentStatus.PROCESSING, PaymentStatus.AUTHORIZED):
        raise PaymentInProgress
    gateway = core.gateways.get(payment.gateway)
    if gateway is None:
        raise PaymentInProgress
    if gateway.can_void:
        if payment.capture_right is not None:
            await payments.save(tx, replace(payment, capture_right="voiding"), now=core.clock.now())
        await intend_void(tx, core, payment)
        await bounds.remember_goods_of(tx, core, payment)
        return Handover(payment)
    reason = f"ended by {trigger}"
    closed = await close(tx, core, order, payment, PaymentStatus.CANCELED, reason=reason, trigger=trigger)
    await bounds.remember_goods_of(tx, core, payment)
    return Standing(closed, order)


async def cancel_order(core: Core, order_id: str, actor: Actor) -> OrderStatus:
    """Cancel the actor's own unpaid order: its payments end first, then its reservation.

    Raises `errors.NotFound`, `AlreadyPaid`, or `PaymentInProgress` where a payment can't be ended right now.
    """
    for payment in await core.db.read(_open_payments, core, order_id, actor):
        await cancel(core, payment.id, actor)
    return await core.write(_close_order, core, order_id, actor)


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
    if any(one.is_open or one.is_in_the_way for one in attempts):
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
    return view(standing.payment)
