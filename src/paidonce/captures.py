"""Staff's actions on money that is reserved: capture all or a part of it, or release it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paidonce import audit, capturing, payments
from paidonce.capturing import Handover, close
from paidonce.case import intend_void
from paidonce.core import Actor, Core
from paidonce.errors import InvalidRequest, NotAuthorized, NotFound
from paidonce.gateways.base import Gateway
from paidonce.money import Money, MoneyError
from paidonce.payments import Operation, Payment
from paidonce.ports import Transaction
from paidonce.results import Result, Standing, result
from paidonce.states import PaymentStatus


async def capture(core: Core, payment_id: str, actor: Actor, *, amount_minor: int | None = None) -> Result:
    """Take money that a confirmed payment has reserved: `amount_minor` of it (minor units), or all.

    A part is final: the rest is released, and so much less is due for the order. Safe to repeat. A gateway that does
    not answer gives a `Result` with `unknown`, and recovery finds out. Raises `errors.Forbidden`, `NotFound`,
    `NotAuthorized`, `InvalidRequest`, and `SoldOut` if the goods are gone.
    """
    actor.require_staff()
    standing = await core.db.read(_known, core, payment_id)
    payment = standing.payment
    gateway = core.gateway(payment.gateway)
    amount = _amount(gateway, payment.amount, amount_minor)
    if payment.status is PaymentStatus.CAPTURED and payment.captured == amount:
        return result(payment, standing.order)
    if standing.taking is None and payment.status is not PaymentStatus.AUTHORIZED:
        raise NotAuthorized
    if standing.taking is not None and standing.taking.kind == "capture" and standing.taking.amount != amount:
        raise NotAuthorized(
            f"A capture of {standing.taking.amount} is under way for this payment, and there is only one."
        )
    if standing.unknown:
        return result(payment, standing.order, unknown=True)
    return await capturing.take(core, gateway, payment, "capture", trigger="staff", amount=amount, actor=actor.user_id)


def _amount(gateway: Gateway, authorized: Money, amount_minor: int | None) -> Money:
    if amount_minor is None:
        return authorized
    if type(amount_minor) is not int or not 1 <= amount_minor <= authorized.minor:
        raise InvalidRequest(f"amount: choose a whole number of minor units from 1 to {authorized.minor}.")
    amount = Money(amount_minor, authorized.currency)
    try:
        gateway.check_amount(amount)
    except MoneyError as error:
        raise InvalidRequest(f"amount: {error}.") from error
    return amount


async def release(core: Core, payment_id: str, actor: Actor) -> Result:
    """Void a payment: reserved money is released, an unconfirmed or held payment is ended. Safe to repeat.

    Raises `errors.Forbidden`, `NotFound`, and `NotAuthorized` where money has moved or a capture is under way. A
    gateway that does not answer gives a `Result` with `unknown`, and recovery repeats the call.
    """
    actor.require_staff()
    await core.db.read(_known, core, payment_id)
    asked = audit.entry("void.asked", actor=actor.user_id, subject=payment_id, at=core.clock.now())
    step = await core.write(_record_release, core, payment_id, actor, asked)
    if isinstance(step, Standing):
        return result(step.payment, step.order)
    settled = await capturing.void(core, step.holder, trigger="staff")
    if settled is None:
        return await capturing.standing_result(core, payment_id, unknown=True)
    return result(settled.payment, settled.order)


async def _record_release(
    tx: Transaction, core: Core, payment_id: str, actor: Actor, asked: audit.Entry
) -> Handover | Standing:
    order, payment, _ = await capturing.lock(tx, core, payment_id)
    if payment.status is PaymentStatus.CANCELED:
        return Standing(payment, order)
    takings = await payments.takings(tx, payment.id)
    if not is_releasable(payment, takings):
        raise NotAuthorized("This payment has no reserved money that could be released.")
    await audit.write(tx, asked)
    gateway = core.gateway(payment.gateway)
    asked_for_money = any(one.state in ("recorded", "succeeded") for one in takings)
    if not gateway.can_void and not asked_for_money:
        # Nothing moves at this gateway unless we capture, and an ended payment is never captured.
        reason = "released by staff"
        closed = await close(
            tx, core, order, payment, PaymentStatus.CANCELED, reason=reason, trigger="staff", actor=actor.user_id
        )
        return Standing(closed, order)
    if payment.capture_right is not None:
        payment = replace(payment, capture_right="voiding")
        await payments.save(tx, payment, now=core.clock.now())
    await intend_void(tx, core, payment, actor=actor.user_id)
    return Handover(payment)


def is_releasable(payment: Payment, takings: Sequence[Operation]) -> bool:
    """Whether staff may void it: reserved money, an unconfirmed payment, or a held one that has captured nothing.

    While a capture of unknown outcome is recorded, nobody knows, so it can't be.
    """
    if any(one.state == "recorded" for one in takings):
        return False
    empty_handed = payment.status is PaymentStatus.HELD and payment.capture_ref is None
    return empty_handed or payment.status in (PaymentStatus.AUTHORIZED, PaymentStatus.AWAITING_BUYER)


async def _known(tx: Transaction, core: Core, payment_id: str) -> Standing:
    standing = await capturing.stand(tx, core, payment_id)
    if standing is None:
        raise NotFound("We could not find this payment.")
    return standing
