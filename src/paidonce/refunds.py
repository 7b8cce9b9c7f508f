"""Refunds: staff's action, and carrying out what is written down, whoever wrote it.

A refund is recorded with its own key before the call; what is left to refund is counted under the payment's lock. An
answer that never comes leaves it recorded, and recovery repeats the same key while the gateway remembers it, then
looks the refund up. It is never sent again under another key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paidonce import aftersales, audit, payments
from paidonce.aftersales import Refund
from paidonce.capturing import alarm, fetch_and_settle
from paidonce.core import Actor, Core, Policy
from paidonce.errors import (
    ConfirmationNeeded,
    GatewayError,
    GatewayMisconfigured,
    GatewayRefused,
    InvalidRequest,
    NotFound,
    PaymentDisputed,
    RefundTooLarge,
)
from paidonce.gateways.base import Gateway
from paidonce.money import Money, MoneyError
from paidonce.payments import Operation, Payment
from paidonce.ports import Transaction
from paidonce.settlement import lock_case, settle_refund
from paidonce.states import PaymentStatus

LONGEST_REASON = 200
LONGEST_KEY = 200

_MESSAGES = {
    "recorded": "The gateway has not answered yet. The refund is not lost and will not be made twice; it is repeated "
    "until its outcome is known.",
    "pending": "The gateway has taken the refund on and needs some time for it.",
    "succeeded": "The refund was made.",
    "failed": "The refund did not happen: {failure}. The money is still with you.",
}


@dataclass(frozen=True, slots=True)
class RefundResult:
    """A refund as staff see it. `created` is False for a request that was made before."""

    refund: Refund
    message: str
    created: bool


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A recorded refund whose call is ours to make; `expired` if its key is, so that it may only be looked up."""

    payment: Payment
    refund: Refund
    operation: Operation
    expired: bool


# ── Staff's action ──────────


async def refund(
    core: Core,
    payment_id: str,
    actor: Actor,
    *,
    amount_minor: int | None = None,
    reason: str | None = None,
    restock: bool = False,
    request_key: str | None = None,
) -> RefundResult:
    """Give captured money back: `amount_minor` of it (minor units), or all that is left.

    `restock` puts the goods of the order back on the shelf, once, when the gateway has taken the refund on.
    `request_key` is the client's own: the same key again is the same refund. Raises `ConfirmationNeeded` where the
    policy wants a second look and `actor` has not proved themselves again; `errors.Forbidden`, `NotFound`,
    `InvalidRequest`, `RefundTooLarge`, `PaymentDisputed`. A gateway that does not answer leaves the refund `recorded`.
    """
    actor.require_staff()
    _check(reason, request_key)
    recorded, created = await core.write(
        _record,
        core,
        payment_id,
        actor,
        amount_minor=amount_minor,
        reason=reason,
        restock=restock,
        request_key=request_key,
        refund_id=core.ids.new("ref"),
    )
    if recorded.state == "recorded" and created:
        await carry_out(core, recorded, trigger="staff", owned=True)
    return await core.db.read(_result, recorded.id, created)


def _check(reason: str | None, request_key: str | None) -> None:
    if reason is not None and not 0 < len(reason) <= LONGEST_REASON:
        raise InvalidRequest(f"reason: write 1 to {LONGEST_REASON} characters, or leave it out.")
    if request_key is not None and not 0 < len(request_key) <= LONGEST_KEY:
        raise InvalidRequest(f"Idempotency-Key: send 1 to {LONGEST_KEY} characters, or leave it out.")


async def _record(
    tx: Transaction,
    core: Core,
    payment_id: str,
    actor: Actor,
    *,
    amount_minor: int | None,
    reason: str | None,
    restock: bool,
    request_key: str | None,
    refund_id: str,
) -> tuple[Refund, bool]:
    case = await lock_case(tx, core, payment_id, trigger="staff")
    if (own := await aftersales.find_refund(tx, refund_id)) is not None:
        # Our own intention, whose commit had an unknown outcome.
        return own, True
    if request_key is not None:
        before = await aftersales.refund_of_request(tx, payment_id, request_key)
        if before is not None:
            _check_same(before, amount_minor, reason=reason, restock=restock)
            return before, False
    amount = await _allowed(tx, core, case.payment, amount_minor)
    await _check_second_look(tx, core, case.payment, actor, amount)
    if restock and (case.payment.status is not PaymentStatus.CAPTURED or case.payment.owed_to_buyer):
        raise InvalidRequest("restock: this payment took no goods, so none can come back. Leave it out.")
    await audit.write(tx, _asked(core, case.payment, actor, amount, refund_id))
    written = await aftersales.intend_refund(
        case,
        amount,
        origin="staff",
        actor=actor.user_id,
        reason=reason,
        restock=restock,
        request_key=request_key,
        refund_id=refund_id,
    )
    return written, True


def _asked(core: Core, payment: Payment, actor: Actor, amount: Money, refund_id: str) -> audit.Entry:
    return audit.entry(
        "refund.asked",
        actor=actor.user_id,
        subject=payment.id,
        at=core.clock.now(),
        order=payment.order_id,
        refund=refund_id,
        amount=amount.minor,
        currency=amount.currency,
        confirmed=actor.confirmed,
    )


def _check_same(before: Refund, amount_minor: int | None, *, reason: str | None, restock: bool) -> None:
    other_amount = amount_minor not in (None, before.amount.minor)
    if other_amount or (reason, restock) != (before.reason, before.restock):
        raise InvalidRequest(
            f"Idempotency-Key: it was used for another refund, of {before.amount}. Use a new one for a new request."
        )


async def _allowed(tx: Transaction, core: Core, payment: Payment, amount_minor: int | None) -> Money:
    """The amount, if it may be refunded now; counted under the payment's lock, so parallel requests can't add up."""
    left = await aftersales.left_to_refund(tx, payment)
    if payment.capture_ref is None or not left.minor:
        raise RefundTooLarge("Nothing of this payment is left to refund. Nothing was refunded by this request.")
    if await aftersales.is_disputed(tx, payment.id):
        raise PaymentDisputed
    minor = left.minor if amount_minor is None else amount_minor
    if type(minor) is not int or minor < 1:
        raise InvalidRequest(f"amount: choose a whole number of minor units from 1 to {left.minor}.")
    if minor > left.minor:
        raise RefundTooLarge(f"Only {left} is left to refund. Nothing was refunded by this request.")
    amount = Money(minor, left.currency)
    try:
        core.gateway(payment.gateway).check_amount(amount)
    except MoneyError as error:
        raise InvalidRequest(f"amount: {error}.") from error
    return amount


async def _check_second_look(tx: Transaction, core: Core, payment: Payment, actor: Actor, amount: Money) -> None:
    if not actor.confirmed and needs_second_look(core.policy, await aftersales.refunds_of(tx, payment.id), amount):
        raise ConfirmationNeeded


def needs_second_look(policy: Policy, before: Sequence[Refund], amount: Money) -> bool:
    """Whether giving `amount` back needs a second look, after the refunds that a payment has already.

    What staff gave back of one payment counts together, so that many small refunds are no way around the bound.
    """
    given = sum(one.amount.minor for one in before if one.origin == "staff" and one.state != "failed")
    return policy.needs_second_look(Money(given + amount.minor, amount.currency))


async def _result(tx: Transaction, refund_id: str, created: bool) -> RefundResult:
    found = await aftersales.find_refund(tx, refund_id)
    assert found is not None, "a recorded refund vanished"
    failure = found.failure_reason or "the gateway refused it"
    return RefundResult(found, _MESSAGES[found.state].format(failure=failure), created)


async def list_refunds(core: Core, payment_id: str, actor: Actor) -> list[Refund]:
    """All refunds of a payment, oldest first (staff). Raises `errors.Forbidden`, `NotFound`."""
    actor.require_staff()
    if await core.db.read(payments.find, payment_id) is None:
        raise NotFound("We could not find this payment.")
    return await core.db.read(aftersales.refunds_of, payment_id)


# ── Carrying it out ──────────


async def carry_out_all(core: Core, payment_id: str, *, trigger: str) -> None:
    """Carry out what is recorded of a payment's refunds, oldest first."""
    for one in await core.db.read(aftersales.refunds_of, payment_id):
        if one.state == "recorded":
            await carry_out(core, one, trigger=trigger)


async def carry_out(core: Core, recorded: Refund, *, trigger: str, owned: bool = False) -> None:
    """Make a recorded refund's call, or find out what became of it. Safe to repeat and to run in parallel.

    `owned` says that the caller has just recorded it, and so owns its call.
    """
    gateway = core.gateways.get(recorded.gateway)
    claimed = None if gateway is None else await core.write(_claim, core, gateway, recorded.id, owned=owned)
    if gateway is None or claimed is None:
        return
    if claimed.expired:
        await _look_up(core, gateway, claimed, trigger=trigger, certain="its key has expired, and there is no trace")
        return
    await _send(core, gateway, claimed, trigger=trigger)


async def _claim(tx: Transaction, core: Core, gateway: Gateway, refund_id: str, *, owned: bool) -> _Claimed | None:
    found = await aftersales.find_refund(tx, refund_id)
    assert found is not None
    payment = await payments.find(tx, found.payment_id, lock=True)
    current = await aftersales.find_refund(tx, refund_id)
    operation = None if found.operation_id is None else await payments.find_operation(tx, found.operation_id)
    assert payment is not None
    assert current is not None
    now = core.clock.now()
    if operation is None or operation.state != "recorded":
        return None
    if operation.is_claimed(now, seconds=core.policy.claim_seconds) and not owned:
        return None
    if payment.capture_ref is None or (await aftersales.is_disputed(tx, payment.id) and not owned):
        # The gateway decides first where disputed money goes; recovery looks again afterwards.
        return None
    # Its life counts from the first sending: one that waited for a dispute or a worker is simply sent.
    expired = operation.key_is_spent(now, life_seconds=gateway.refund_key_life_seconds)
    await payments.claim(tx, operation.id, now=now, seconds=core.policy.claim_seconds)
    return _Claimed(payment, current, operation, expired)


async def _send(core: Core, gateway: Gateway, claimed: _Claimed, *, trigger: str) -> None:
    payment, operation = claimed.payment, claimed.operation
    assert payment.gateway_ref is not None
    assert payment.capture_ref is not None
    try:
        told = await gateway.refund(
            payment.gateway_ref,
            payment.capture_ref,
            idempotency_key=operation.idempotency_key,
            amount=operation.amount,
            refund_id=claimed.refund.id,
        )
    except GatewayRefused as error:
        # It may be refused because it, or another one, was made before: the gateway's list of refunds decides.
        await _look_up(core, gateway, claimed, trigger=trigger, certain=error.code)
        return
    except GatewayError as error:
        await core.write(_leave_open, core, claimed, error)
        return
    await settle_refund(core, payment.id, told, trigger=trigger)


async def _look_up(core: Core, gateway: Gateway, claimed: _Claimed, *, trigger: str, certain: str) -> None:
    """Read all refunds of the payment; one that is not among them did not happen, for the reason `certain`."""
    settled = await fetch_and_settle(core, gateway, claimed.payment, trigger=trigger, details=True)
    if settled is None or not settled.all_refunds:
        await core.write(_give_back, claimed)
        return
    await core.write(_end_if_absent, core, claimed.refund.id, certain, trigger=trigger)


async def _end_if_absent(tx: Transaction, core: Core, refund_id: str, reason: str, *, trigger: str) -> None:
    found = await aftersales.find_refund(tx, refund_id)
    assert found is not None
    case = await lock_case(tx, core, found.payment_id, trigger=trigger)
    current = await aftersales.find_refund(tx, refund_id)
    if current is not None and current.state == "recorded":
        await aftersales.fail_refund(case, current, reason)


async def _give_back(tx: Transaction, claimed: _Claimed) -> None:
    await payments.give_back(tx, claimed.operation.id)


async def _leave_open(tx: Transaction, core: Core, claimed: _Claimed, error: GatewayError) -> None:
    """The outcome is unknown: the refund stays recorded with its key, and counts as gone until it is known."""
    case = await lock_case(tx, core, claimed.payment.id, trigger="refund")
    await payments.give_back(tx, claimed.operation.id)
    await case.note("refund.unknown", refund=claimed.refund.id, problem=str(error))
    if isinstance(error, GatewayMisconfigured):
        await alarm(tx, core, claimed.payment, error)
