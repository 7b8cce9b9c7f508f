"""Staff's entries and a worker that is at the same payment."""

from __future__ import annotations

from gateways.bank_transfer.test_flow import DAY, MUG, RECEIVED, enter, opened, sheet
from paidonce import audit, capturing, desk, leases, recovery
from support.shop import STAFF, Shop


async def test_who_entered_something_stands_in_the_audit_log(shop: Shop) -> None:
    _, started = await opened(shop)
    await enter(shop, started.payment.id, RECEIVED, amount=500)
    (entry,) = await shop.core.db.read(audit.read, subjects=[started.payment.id])
    assert (entry.actor, entry.action, entry.detail["name"]) == (STAFF.user_id, "desk.entered", RECEIVED)


async def test_an_entry_is_found_although_a_worker_had_read_the_payment_before(shop: Shop) -> None:
    """Staff's process ended after the note, and the worker, who had read too early, then said: never look again."""
    order, started = await opened(shop)
    await shop.start(order.id, "stripe")  # It closes the transfer, whose money is on its way already.
    payment = started.payment.id
    await enter(shop, payment, RECEIVED, amount=500)
    shop.clock.pass_seconds(121)
    core = shop.core
    claimed = await core.db.transaction(leases.claim, "payments", token="t", now=shop.clock.now(), seconds=300, limit=5)
    lease = next(one for one in claimed if one.id == payment)
    standing = await core.db.read(capturing.stand, core, payment)
    assert standing is not None
    gateway = core.gateways["bank_transfer"]
    await recovery._advance(core, gateway, standing)

    seen = (await sheet(shop, payment)).seen
    entered = audit.entry("desk.entered", actor="usr_staff", subject=payment, at=shop.clock.now())
    await core.write(desk._look_later, core, payment, entered)
    params = {"amount": MUG - 500, "remark": "the rest"}
    await gateway.act(await shop.ref(payment), RECEIVED, params, seen=seen, key="staff 1", by="usr_staff")  # type: ignore[attr-defined]
    await core.write(recovery._schedule, core, lease, answered=True)

    assert await shop.captures_booked() == 0
    await shop.recover(after=DAY)
    assert await shop.payment_status(payment) == "held"
    assert await shop.captures_booked() == 1
    assert await shop.order_status(order.id) != "paid"
