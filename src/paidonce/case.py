"""One payment and its order inside a transaction, locked, with what every step of settling does to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from paidonce import journal, outbox, payments
from paidonce.core import Core
from paidonce.money import Money
from paidonce.payments import Operation, Payment
from paidonce.ports import SECOND, Microseconds, Transaction
from paidonce.schedule import rescheduled
from paidonce.states import OrderStatus, advance
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

    async def alarm(self, name: str, *, again_seconds: int | None = None, **detail: object) -> None:
        """Tell the operator by history and event; with `again_seconds` only if that long has passed since the last."""
        event = f"alarm.{name}"
        if again_seconds is not None:
            last = await journal.last_noted(self.tx, event, order_id=self.order.id, payment_id=self.payment.id)
            if last is not None and self.now - last < again_seconds * SECOND:
                return
        await self.note(event, **detail)
        await self.emit(event, **detail)

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
) -> Operation:
    """Write an intention and its own key before the call; a repeat after any crash uses the same key and body.

    `claimed` means that the caller makes the call itself; otherwise recovery is to make it soon. `operation_id` is
    given by callers who must recognise their own intention if the commit's outcome is unknown.
    """
    last = await payments.operation_of(tx, payment.id, kind)
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
    )
    await payments.insert_operation(tx, operation)
    return operation


async def intend_void(tx: Transaction, core: Core, payment: Payment) -> None:
    """Write down that a payment is to be ended at its gateway, unless that stands there already.

    Recovery carries it out if nobody does before; safe to repeat, so it needs no claim.
    """
    last = await payments.operation_of(tx, payment.id, "void")
    if last is not None and last.state == "recorded":
        return
    await intend(tx, core, payment, "void", {}, claimed=False)
    now = core.clock.now()
    detail = {"gateway": payment.gateway}
    await journal.note(tx, "void.intended", order_id=payment.order_id, payment_id=payment.id, detail=detail, now=now)
    await payments.look_soon(tx, payment.id, at=now)
