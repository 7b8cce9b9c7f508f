"""Staff's desk: what they enter about a payment whose gateway has nobody else to ask, such as money that arrived.

An entry is only a trigger, like a webhook: the gateway writes it down under the entry's key, then the gateway is read
and what it says is settled. Should the process end in between, recovery reads it all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from paidonce import audit, capturing, payments
from paidonce.core import Actor, Core
from paidonce.errors import GatewayError, GatewayUnavailable, InvalidRequest, NotFound
from paidonce.gateways.base import StaffDesk, StaffSheet
from paidonce.payments import Payment
from paidonce.ports import SECOND, Transaction
from paidonce.results import Result, result

LONGEST_KEY = 200
_NO_DESK = "There is nothing to enter for this payment: its gateway finds everything out by itself."


async def sheet(core: Core, payment_id: str, actor: Actor) -> StaffSheet | None:
    """What staff can know and enter about a payment now; None if its gateway needs no staff.

    Raises `errors.Forbidden`, `NotFound`, and `GatewayUnavailable` for a gateway that does not answer.
    """
    actor.require_staff()
    payment = await _known(core, payment_id)
    gateway = core.gateways.get(payment.gateway)
    if payment.gateway_ref is None or not isinstance(gateway, StaffDesk):
        return None
    try:
        return await gateway.staff_sheet(payment.gateway_ref)
    except GatewayError as error:
        raise GatewayUnavailable from error


async def act(
    core: Core,
    payment_id: str,
    actor: Actor,
    name: str,
    params: Mapping[str, str | int],
    *,
    seen: int,
    request_key: str | None = None,
) -> Result:
    """Enter something about a payment, and settle what its gateway says then.

    `seen` is the number of the sheet that the entry is made on: an outdated one is refused. `request_key` is the
    client's own: the same key again is the same entry. Raises `errors.Forbidden`, `NotFound`, `InvalidRequest`,
    `ChangedMeanwhile`; nothing was entered then.
    """
    actor.require_staff()
    if request_key is not None and not 0 < len(request_key) <= LONGEST_KEY:
        raise InvalidRequest(f"Idempotency-Key: send 1 to {LONGEST_KEY} characters, or leave it out.")
    payment = await _known(core, payment_id)
    gateway = core.gateway(payment.gateway)
    if payment.gateway_ref is None or not isinstance(gateway, StaffDesk):
        raise InvalidRequest(_NO_DESK)
    entered = audit.entry(
        "desk.entered",
        actor=actor.user_id,
        subject=payment_id,
        at=core.clock.now(),
        order=payment.order_id,
        name=name,
    )
    await core.write(_look_later, core, payment_id, entered)
    try:
        await gateway.act(
            payment.gateway_ref,
            name,
            params,
            seen=seen,
            # Keys of the shop's own steps lie in the same notebook, and no client may guess one.
            key=f"staff {request_key or core.ids.new('entry')}",
            by=actor.user_id,
        )
    except GatewayError as error:
        raise GatewayUnavailable from error
    settled = await capturing.fetch_and_settle(core, gateway, payment, trigger="staff", details=True)
    if settled is None:
        return await capturing.standing_result(core, payment_id, unknown=True)
    return result(settled.payment, settled.order)


async def _look_later(tx: Transaction, core: Core, payment_id: str, entered: audit.Entry) -> None:
    """Should this process end between entry and settling, recovery finds the entry."""
    await audit.write(tx, entered)
    await payments.look_anew(tx, payment_id, at=core.clock.now() + core.policy.claim_seconds * SECOND)


async def _known(core: Core, payment_id: str) -> Payment:
    payment = await core.db.read(payments.find, payment_id)
    if payment is None:
        raise NotFound("We could not find this payment.")
    return payment
