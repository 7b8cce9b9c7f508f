"""Recovery: time as a trigger. It finds what is due, asks the gateway, settles, and carries out what is written down.

With webhooks switched off and every buyer gone, each started payment still ends here. Any number of workers share the
work through committed leases (`leases`); each unit is one payment, one event or one order, and all of it may be
repeated.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeVar

from paidonce import aftersales, capturing, checkout, inbox, journal, payments, refunds
from paidonce.case import Case
from paidonce.core import Core
from paidonce.errors import CommitUnknown, DatabaseDown, GatewayError, GatewayUnavailable, NotFound, Problem
from paidonce.gateways.base import Gateway, StaffDesk
from paidonce.inbox import Stored
from paidonce.leases import Lease, Table, any_due, claim, give_back
from paidonce.payments import Payment
from paidonce.ports import SECOND, Microseconds, Transaction
from paidonce.results import Standing
from paidonce.schedule import is_audit, next_look
from paidonce.settlement import lock_case, settle
from paidonce.states import OrderStatus, PaymentStatus

T = TypeVar("T")

# So few that their calls, each as slow as a gateway may be, end within one lease.
_FEW = 3
_PAGE = 100
_DAY = 24 * 3600
# A hold is looked at this long before it ends, so that a buyer before the bank's page can keep the goods.
_BEFORE_HOLD_ENDS_SECONDS = 60
_SOONEST_SECONDS = 30
_SET_ASIDE_SECONDS = 3600
_AUDIT_AGAIN_SECONDS = 3600
# Staff who send refunds do so within a few days; later they are reminded.
_BY_HAND_DAYS = 3

log = logging.getLogger("paidonce.recovery")


@dataclass(frozen=True, slots=True)
class Report:
    """What one round did: how many events, payments and orders it worked on."""

    events: int = 0
    payments: int = 0
    orders: int = 0

    def __add__(self, other: Report) -> Report:
        return Report(self.events + other.events, self.payments + other.payments, self.orders + other.orders)

    @property
    def total(self) -> int:
        """All of it together; 0 means that nothing was due."""
        return self.events + self.payments + self.orders


async def run_due(core: Core, gateway: str | None, *, limit: int = _FEW) -> int:
    """One round over due events and payments of one gateway, or of those without keys here (None); how many there were.

    A gateway has its own rounds, so that one which answers slowly or not at all keeps nobody else waiting. Raises
    database errors only.
    """
    own = _of_gateway(core, gateway)
    events = await _run_claimed(core, "inbox", process_event, limit, own)
    return events + await _run_claimed(core, "payments", look_after, limit, own)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Narrows a claim: SQL over the row's alias `d`, and its values."""

    condition: str
    params: Mapping[str, str]


_ALL = _Choice("", {})


def _of_gateway(core: Core, gateway: str | None) -> _Choice:
    if gateway is not None:
        return _Choice("AND d.gateway = :gateway", {"gateway": gateway})
    names = {f"gateway{number}": name for number, name in enumerate(sorted(core.gateways))}
    listed = ", ".join(f":{name}" for name in names)
    return _Choice(f"AND d.gateway NOT IN ({listed})", names) if names else _ALL


async def run_once(core: Core, *, limit: int = _FEW) -> Report:
    """Work on what is due now, at most `limit` events and as many payments; then end what ran out.

    Raises database errors only. What a gateway does not answer stays due.
    """
    events = await _run_claimed(core, "inbox", process_event, limit)
    looked_at = await _run_claimed(core, "payments", look_after, limit)
    return Report(events, looked_at, await end_orders(core))


async def drain(core: Core, *, rounds: int = 1000) -> Report:
    """Rounds until nothing is due any more; what waits for a gateway is due later and ends no round."""
    done = Report()
    for _ in range(rounds):
        report = await run_once(core)
        done += report
        if not report.events and not report.payments:
            return done
    return done


async def _run_claimed(
    core: Core, table: Table, work: Callable[[Core, Lease], Awaitable[None]], limit: int, choice: _Choice = _ALL
) -> int:
    if not await core.db.read(any_due, table, now=core.clock.now(), condition=choice.condition, params=choice.params):
        # Most looks find nothing, and a read does not keep the writer from its work.
        return 0
    token = core.ids.new("lease")
    leases = await core.db.transaction(
        claim,
        table,
        token=token,
        now=core.clock.now(),
        seconds=core.policy.lease_seconds,
        limit=limit,
        condition=choice.condition,
        params=choice.params,
    )
    for lease in leases:
        try:
            await work(core, lease)
        except (DatabaseDown, CommitUnknown):
            raise
        except Exception:
            # A bug over one row must not keep all the others waiting; it is told, and tried again much later.
            log.exception("recovery could not work on %s in %s", lease.id, table)
            await core.write(_set_aside, core, lease)
    return len(leases)


async def _set_aside(tx: Transaction, core: Core, lease: Lease) -> None:
    now = core.clock.now()
    payment_id = await _payment_of(tx, lease)
    if payment_id is not None:
        with contextlib.suppress(NotFound):
            case = await lock_case(tx, core, payment_id, trigger="recovery")
            await case.alarm(
                "recovery_failed",
                again_seconds=_DAY,
                next_step="This is a bug. The log has its traceback; the payment is tried again every hour.",
            )
    await give_back(tx, lease, due_at=now + _SET_ASIDE_SECONDS * SECOND)


async def _payment_of(tx: Transaction, lease: Lease) -> str | None:
    if lease.table == "payments":
        return lease.id
    event = await inbox.stored(tx, lease.id)
    return None if event is None else event.payment_id


# ── Events ──────────


async def process_event(core: Core, lease: Lease) -> None:
    """Give an event its effect: read what it is about, settle, and mark it processed in the same transaction."""
    event = await core.db.read(inbox.stored, lease.id)
    if event is None:
        return
    gateway = core.gateways.get(event.gateway)
    standing = None if event.payment_id is None else await core.db.read(capturing.stand, core, event.payment_id)
    if gateway is None or standing is None:
        await core.write(inbox.postpone, core, lease, event, "it belongs to no payment that is known here")
        return
    try:
        done = await _take_effect(core, gateway, event, standing, lease)
    except NotFound:
        done = False
    if not done:
        await core.write(inbox.postpone, core, lease, event, "the gateway did not answer, or not with this news yet")


async def _take_effect(core: Core, gateway: Gateway, event: Stored, standing: Standing, lease: Lease) -> bool:
    payment, trigger = standing.payment, f"webhook {event.type}"
    asked_at = core.clock.now()
    ref = payment.gateway_ref or event.ref
    if ref is None:
        return False
    try:
        snapshot = await gateway.fetch(ref, details=event.about_more or not payment.is_open)
    except GatewayError as error:
        log.warning("webhook %s (%s) waits: %s", event.id, event.type, error)
        return False
    also = partial(inbox.finish, lease=lease, outcome="settled", payment_id=payment.id, now=core.clock.now())
    settled = await settle(core, snapshot, trigger=trigger, asked_at=asked_at, also=also)
    if settled.command is not None:
        # The event is done; should this process end here, the payment is due again and recovery goes on.
        await _quietly(capturing.obey(core, gateway, settled, trigger=trigger))
    return await core.db.read(inbox.stored, lease.id) is None


# ── Payments ──────────


async def look_after(core: Core, lease: Lease) -> None:
    """Do for one payment whatever is due, and say when it is due again."""
    standing = await core.db.read(capturing.stand, core, lease.id)
    gateway = None if standing is None else core.gateways.get(standing.payment.gateway)
    answered = standing is None or (gateway is not None and await _advance(core, gateway, standing))
    await core.write(_schedule, core, lease, answered=answered)


async def _advance(core: Core, gateway: Gateway, standing: Standing) -> bool:
    """Carry out what is written down, read the payment, settle; whether the gateway said how it stands."""
    payment = standing.payment
    if payment.status is PaymentStatus.CREATED and payment.gateway_ref is None:
        return await _find_out_create(core, gateway, payment)
    if await core.db.read(payments.recorded, payment.id, "void"):
        await capturing.void(core, payment, trigger="recovery")
    await refunds.carry_out_all(core, payment.id, trigger="recovery")
    current = await core.db.read(capturing.stand, core, payment.id)
    if current is None or current.payment.gateway_ref is None:
        return True
    if not current.payment.is_open:
        read = capturing.fetch_and_settle(core, gateway, current.payment, trigger="recovery", details=True)
        return await read is not None
    return await _pursue(core, current)


async def _find_out_create(core: Core, gateway: Gateway, payment: Payment) -> bool:
    try:
        await checkout.find_out_create(core, gateway, payment)
    except GatewayUnavailable:
        return False
    except Problem as problem:
        log.info("recovery stopped at: %s", problem.code)
    return True


async def _pursue(core: Core, current: Standing) -> bool:
    try:
        found = await capturing.pursue(core, current, trigger="recovery")
    except Problem as problem:
        # What a buyer would read as "sold out", say, is an end for recovery, too.
        log.info("recovery stopped at: %s", problem.code)
        return True
    if not found.unknown:
        await _end_if_nobody_comes(core, current.payment.id)
    return not found.unknown


async def _end_if_nobody_comes(core: Core, payment_id: str) -> None:
    """End an unconfirmed payment whose goods are no longer held for it.

    Only after the gateway has just said that it is unconfirmed: what a buyer approved while nobody could ask is not
    thrown away.
    """
    if await core.db.read(_is_deserted, core, payment_id):
        await _quietly(checkout.end_unconfirmed(core, payment_id, trigger="expiry"))


async def _is_deserted(tx: Transaction, core: Core, payment_id: str) -> bool:
    payment = await payments.find(tx, payment_id)
    if payment is None or payment.status is not PaymentStatus.AWAITING_BUYER or payment.is_awaited:
        return False
    return await _hold_ends(tx, core, payment) <= core.clock.now()


async def _hold_ends(tx: Transaction, core: Core, payment: Payment) -> Microseconds:
    """When the goods are free again; where they are free already, when they would have been."""
    ends = await core.store.hold_ends(tx, payment.order_id)
    return core.policy.hold_until(payment.created_at) if ends is None else ends


async def _schedule(tx: Transaction, core: Core, lease: Lease, *, answered: bool) -> None:
    """Read the payment anew, alarm the operator where that is due, and end the lease."""
    try:
        case = await lock_case(tx, core, lease.id, trigger="recovery")
    except NotFound:
        await give_back(tx, lease, due_at=None)
        return
    payment = case.payment
    silent_since = None if answered else payment.silent_since or case.now
    await payments.mark_silent(tx, payment.id, since=silent_since)
    await _alarm_if_stuck(case, silent_since)
    unfinished = await aftersales.unfinished(tx, payment)
    if not answered and is_audit(payment, unfinished):
        # A look that got no answer is none: the same one is due again, soon.
        await give_back(tx, lease, due_at=case.now + _AUDIT_AGAIN_SECONDS * SECOND, tries=max(payment.tries - 1, 0))
        return
    due_at = next_look(core.policy, payment, now=case.now, unfinished=unfinished)
    if payment.status is PaymentStatus.AWAITING_BUYER and due_at is not None:
        due_at = await _before_hold_ends(tx, core, payment, due_at)
    await give_back(tx, lease, due_at=due_at, tries=payment.tries)


async def _before_hold_ends(tx: Transaction, core: Core, payment: Payment, due_at: Microseconds) -> Microseconds:
    """Not later than shortly before the hold ends, to prolong it where the buyer is busy, and just after it."""
    soonest, ends = core.clock.now() + _SOONEST_SECONDS * SECOND, await _hold_ends(tx, core, payment)
    moments = (ends - _BEFORE_HOLD_ENDS_SECONDS * SECOND, ends + SECOND)
    return min(due_at, next((moment for moment in moments if moment >= soonest), due_at))


async def _alarm_if_stuck(case: Case, silent_since: Microseconds | None) -> None:
    """An unknown outcome, a silent gateway, slow money beyond its limit: sooner or later an operator's business."""
    core, payment = case.core, case.payment
    standing = await capturing.stand(case.tx, core, payment.id)
    taking = None if standing is None else standing.taking
    limit = core.policy.unknown_alarm_seconds * SECOND
    too_slow = case.now - payment.created_at > core.policy.pending_hold_seconds * SECOND
    if payment.gateway not in core.gateways:
        await _tell(
            case, "gateway_missing", "Its gateway has no keys here. Set them again until the payment has ended."
        )
    elif taking is not None and case.now - taking.created_at > limit:
        await _tell(
            case,
            "payment_unknown",
            "Look the object up at the gateway. Don't charge or refund by hand: recovery goes on asking.",
        )
    elif payment.status is PaymentStatus.PROCESSING and taking is None and too_slow:
        await _tell(
            case,
            "payment_slow",
            "The bank takes longer than the goods were kept. Ask the gateway; the buyer can't pay meanwhile.",
        )
    elif silent_since is not None and case.now - silent_since > limit:
        await _tell(
            case,
            "gateway_silent",
            "The gateway does not say how this payment stands. See whether it is down; recovery goes on asking.",
        )
    await _alarm_for_late_refunds(case)


async def _tell(case: Case, name: str, next_step: str) -> None:
    reason = case.payment.pending_reason
    await case.alarm(name, again_seconds=_DAY, object=case.payment.gateway_ref, reason=reason, next_step=next_step)


async def _alarm_for_late_refunds(case: Case) -> None:
    limit = case.core.policy.unknown_alarm_seconds * SECOND
    if await aftersales.is_disputed(case.tx, case.payment.id):
        # It waits for the dispute, which is told by itself.
        return
    by_hand = isinstance(case.core.gateways.get(case.payment.gateway), StaffDesk)
    for refund in await aftersales.refunds_of(case.tx, case.payment.id):
        if refund.state == "recorded" and case.now - refund.created_at > limit:
            await case.alarm(
                "refund_unknown",
                again_seconds=_DAY,
                refund=refund.id,
                next_step="Look at the payment's refunds at the gateway. Don't refund by hand: recovery goes on.",
            )
        elif refund.state == "pending" and by_hand and case.now - refund.created_at > _BY_HAND_DAYS * _DAY * SECOND:
            await case.alarm(
                "refund_by_hand",
                again_seconds=_DAY,
                about=refund.id,
                refund=refund.id,
                amount=refund.amount.minor,
                currency=refund.amount.currency,
                next_step="Nobody else sends it: send it to the buyer, and enter that, or why it can't be sent.",
            )


async def _quietly(action: Awaitable[T]) -> T | None:
    """What a buyer would read as a problem (sold out, in progress) is no reason for recovery to stop: None then."""
    try:
        return await action
    except Problem as problem:
        log.info("recovery stopped at: %s", problem.code)
        return None


# ── Orders ──────────


async def end_orders(core: Core) -> int:
    """End reservations and unpaid orders whose time is over; returns how many orders that changed."""
    changed, after = 0, ""
    while True:
        page = await core.db.read(core.store.ended, now=core.clock.now(), after=after, limit=_PAGE)
        for order_id in page:
            # Most of them wait for something, and reading keeps nobody from writing.
            if await core.db.read(_decide, core, order_id, lock=False):
                changed += bool(await core.write(_end_order, core, order_id))
        if len(page) < _PAGE:
            return changed
        after = page[-1]


class _End(StrEnum):
    """What ends for an order whose time is over."""

    HOLD = "hold"
    LATE_HOLD = "late hold"  # Slow money beyond its limit: the goods are free again, and it may still arrive.
    ORDER = "order"


async def _decide(tx: Transaction, core: Core, order_id: str, *, lock: bool) -> list[_End]:
    """A paid order is never ended, and none whose money may be under way."""
    now = core.clock.now()
    order = await core.store.find(tx, order_id, lock=lock)
    if order is None:
        return []
    attempts = await payments.of_order(tx, order_id, lock=lock)
    ends = await core.store.hold_ends(tx, order_id)
    over = ends is not None and ends <= now
    if order.status is OrderStatus.PENDING:
        return [_End.LATE_HOLD] if over else []
    if order.status is OrderStatus.OPEN and any(one.status is PaymentStatus.AWAITING_BUYER for one in attempts):
        # The gateway is asked first: the payment's own look ends it, and a later round ends the hold.
        return []
    # What is held is kept for a buyer who turned back from awaited money and may pay another way until then.
    lifetime_over = order.expires_at is not None and order.expires_at <= now and (ends is None or over)
    expires = order.status is OrderStatus.OPEN and lifetime_over and not any(_may_still_pay(one) for one in attempts)
    return [*([_End.HOLD] if over else []), *([_End.ORDER] if expires else [])]


async def _end_order(tx: Transaction, core: Core, order_id: str) -> list[_End]:
    """One order, decided again under its lock."""
    now, ends = core.clock.now(), await _decide(tx, core, order_id, lock=True)
    if ends:
        # Also where only the order's own time is over: nobody can pay it any more, so nothing is kept for it.
        await core.store.release(tx, order_id)
    if _End.HOLD in ends or _End.LATE_HOLD in ends:
        reason = "slow money" if _End.LATE_HOLD in ends else "its time was over"
        await journal.note(tx, "hold.ended", order_id=order_id, detail={"reason": reason}, now=now)
    if _End.LATE_HOLD in ends:
        for one in await payments.of_order(tx, order_id):
            if one.is_open:
                await payments.look_soon(tx, one.id, at=now)
    if _End.ORDER in ends:
        order = await core.store.find(tx, order_id, lock=True)
        assert order is not None
        await core.store.mark(tx, order, OrderStatus.EXPIRED, now=now)
        await journal.note(tx, "order.expired", order_id=order_id, now=now)
    return ends


def _may_still_pay(payment: Payment) -> bool:
    return payment.is_open or payment.is_in_the_way
