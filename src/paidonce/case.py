"""One payment and its order inside a transaction, locked, with what every step of settling does to them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from paidonce import journal, outbox, payments
from paidonce.core import Core
from paidonce.errors import SoldOut
from paidonce.gateways.base import Decline
from paidonce.money import Money
from paidonce.payments import Operation, Payment
from paidonce.ports import SECOND, Microseconds, Transaction
from paidonce.schedule import Unfinished, rescheduled
from paidonce.states import OrderStatus, PaymentStatus, advance
from paidonce.store import PayableOrder


@dataclass(slots=True)
class Case:
    """The rows, locked in the order order → payment. `trigger` says who made us look, for the history."""

    core: Core
    tx: Transaction
    payment: Payment
    order: PayableOrder
    now: Microseconds
    trigger: str

    async def save(self, **changes: object) -> None:
        """Change the payment. News of its state make recovery look at it anew. Raises `IllegalTransition`."""
        changed = replace(self.payment, **changes)  # type: ignore[arg-type]
        advance(self.payment.status, changed.status)
        if changed.status is not self.payment.status:
            changed = rescheduled(self.core.policy, changed, now=self.now)
        self.payment = changed
        await payments.save(self.tx, changed, now=self.now)

    async def mark_order(self, status: OrderStatus) -> None:
        """Move the order to `status`."""
        await self.core.store.mark(self.tx, self.order, status, now=self.now)
        self.order = replace(self.order, status=status)

    async def note(self, event: str, **detail: object) -> None:
        """Add a line to the order's history; what is None is left out."""
        await journal.note(
            self.tx,
            event,
            order_id=self.order.id,
            payment_id=self.payment.id,
            detail={
                "gateway": self.payment.gateway,
                "trigger": self.trigger,
                **{name: value for name, value in detail.items() if value is not None},
            },
            now=self.now,
        )

    async def emit(self, event_type: str, **data: object) -> None:
        """Queue an event for the merchant."""
        data = {"payment_id": self.payment.id, "gateway": self.payment.gateway, **data}
        await outbox.emit(self.tx, event_type, order_id=self.order.id, data=data, ids=self.core.ids, now=self.now)

    async def alarm(
        self, name: str, *, again_seconds: int | None = None, about: str | None = None, **detail: object
    ) -> None:
        """Tell the operator by history and event; with `again_seconds` only if that long has passed since the last.

        That is the last one of the payment, or with `about` (an id of ours) the order's last one about the same.
        """
        event = f"alarm.{name}"
        if about is not None:
            detail["about"] = about
        if again_seconds is not None:
            last = await self._last_told(event, about)
            # One from the future was told before the clock was set back, and keeps nothing quiet.
            if last is not None and 0 <= self.now - last < again_seconds * SECOND:
                return
        await self.note(event, **detail)
        await self.emit(event, **detail)

    async def _last_told(self, event: str, about: str | None) -> Microseconds | None:
        if about is not None:
            return await journal.last_noted_about(self.tx, event, order_id=self.order.id, about=about)
        return await journal.last_noted(self.tx, event, order_id=self.order.id, payment_id=self.payment.id)

    async def book(self, kind: journal.Kind, gateway_object: str, amount: Money, *, debit: str, credit: str) -> bool:
        """Enter money that moved at the payment's gateway; False if it stands there already."""
        entry = journal.Entry(
            kind=kind,
            gateway=self.payment.gateway,
            gateway_object=gateway_object,
            order_id=self.order.id,
            payment_id=self.payment.id,
            amount=amount,
            debit=debit,
            credit=credit,
        )
        return await journal.book(self.tx, entry, ids=self.core.ids, now=self.now)

    @property
    def balance(self) -> str:
        """The account of the merchant's balance at this gateway."""
        return journal.balance_at(self.payment.gateway)

    async def look_soon(self) -> None:
        """Let recovery look at the payment at once."""
        self.payment = replace(self.payment, due_at=self.now, tries=0)
        await payments.look_soon(self.tx, self.payment.id, at=self.now)


async def intend(
    tx: Transaction,
    core: Core,
    payment: Payment,
    kind: str,
    request: Mapping[str, Any],
    *,
    claimed: bool,
    operation_id: str | None = None,
    is_first: bool = False,
) -> Operation:
    """Write an intention and its own key before the call; a repeat after any crash uses the same key and body.

    `claimed` means that the caller makes the call itself; otherwise recovery is to make it soon. `operation_id` is
    given by callers who must recognise their own intention if the commit's outcome is unknown. `is_first` is for a
    payment that has just been made, and so has none yet.
    """
    last = None if is_first else await payments.operation_of(tx, payment.id, kind)
    now = core.clock.now()
    operation = Operation(
        id=operation_id or core.ids.new("op"),
        payment_id=payment.id,
        kind=kind,
        round=1 if last is None else last.round + 1,
        idempotency_key=core.ids.new("key"),
        request=request,
        state="recorded",
        claimed_until=now + core.policy.claim_seconds * SECOND if claimed else 0,
        created_at=now,
        sent_at=now if claimed else None,
    )
    await payments.insert_operation(tx, operation)
    return operation


async def end_payment(
    case: Case,
    status: PaymentStatus,
    *,
    reason: str | None = None,
    decline: Decline | None = None,
    operations: str = "abandoned",
    actor: str | None = None,
) -> None:
    """The one way in which a payment ends without money: state, right, operations, history, event and order together.

    What is still recorded of its operations ends as `operations`, a void as succeeded where that is what ended it.
    """
    was_left = case.payment.capture_right == "voiding"
    await case.save(
        status=status,
        capture_right=None,
        decline_code=None if decline is None else decline.code,
        decline_recoverable=False,
        pending_reason=None,
    )
    if status is PaymentStatus.CANCELED:
        await payments.finish_voids(case.tx, case.payment.id, now=case.now)
    await payments.finish_all(case.tx, case.payment.id, operations, now=case.now)
    if await payments.takings(case.tx, case.payment.id):
        # We once asked for its money. Should it turn up after all, it must be found although no webhook tells of it.
        case.payment = rescheduled(case.core.policy, case.payment, now=case.now, unfinished=Unfinished.DOUBT)
        await payments.save(case.tx, case.payment, now=case.now)
    raw_code = None if decline is None else decline.raw_code
    await case.note(f"payment.{status}", reason=reason, decline=raw_code, actor=actor)
    if status is PaymentStatus.FAILED:
        await case.emit("payment.failed", decline=None if decline is None else str(decline.code), reason=reason)
    await reopen_order(case, buyer_may_be_there=was_left)


async def reopen_order(case: Case, *, keep_goods: bool = True, buyer_may_be_there: bool = False) -> None:
    """Once nothing is under way any more, an unpaid order can be paid anew, and holds its goods no longer than that.

    Beyond the order's own time that is worth something only to a buyer who has left a payment for another one.
    """
    if case.order.status is not OrderStatus.PENDING:
        return
    attempts = await payments.of_order(case.tx, case.order.id)
    under_way = (PaymentStatus.PROCESSING, PaymentStatus.AUTHORIZED)
    if any(other.status in under_way or other.is_awaited for other in attempts):
        return
    await case.mark_order(OrderStatus.OPEN)
    in_time = case.order.expires_at is None or case.order.expires_at > case.now
    if keep_goods and (in_time or buyer_may_be_there or any(other.is_open for other in attempts)):
        await prolong_hold(case, case.core.policy.hold_until(case.now))
    else:
        await case.core.store.release(case.tx, case.order.id)


async def prolong_hold(case: Case, until: Microseconds) -> None:
    """Keep the goods until then. Goods that are gone can't be held again; a capture will notice and give money back."""
    with contextlib.suppress(SoldOut):
        await case.core.store.hold(case.tx, case.order.id, until=until)


async def intend_void(tx: Transaction, core: Core, payment: Payment, *, actor: str | None = None) -> None:
    """Write down that a payment is to be ended at its gateway, unless that stands there already.

    Recovery carries it out if nobody does before; safe to repeat, so it needs no claim. `actor` is the staff's user.
    """
    last = await payments.operation_of(tx, payment.id, "void")
    is_known = last is not None and last.state == "recorded"
    if is_known and (actor is None or await void_is_wanted_by_staff(tx, payment)):
        return
    if not is_known:
        await intend(tx, core, payment, "void", {}, claimed=False)
    now = core.clock.now()
    detail = {"gateway": payment.gateway} | ({} if actor is None else {"actor": actor})
    event = "void.joined" if is_known else "void.intended"
    await journal.note(tx, event, order_id=payment.order_id, payment_id=payment.id, detail=detail, now=now)
    await payments.look_soon(tx, payment.id, at=now)


async def void_is_wanted_by_staff(tx: Transaction, payment: Payment) -> bool:
    """Whether staff have asked for the payment's end, first or after somebody else."""
    asked = await journal.details(tx, "void.", order_id=payment.order_id, payment_id=payment.id)
    return any("actor" in detail for detail in asked)
