"""A payment that Mollie will not end yet: who may go back to it, and who may not."""

from __future__ import annotations

import pytest

from paidonce import captures, checkout
from paidonce.errors import PaymentInProgress
from support.shop import BUYER, STAFF, Shop


async def voids(shop: Shop) -> list[str]:
    return [row["state"] for row in await shop.rows("SELECT state FROM operations WHERE kind = 'void' ORDER BY round")]


async def told(shop: Shop, event: str) -> int:
    return len(await shop.rows("SELECT seq FROM history WHERE event = :event", event=event))


@pytest.mark.parametrize("buyer_was_first", [False, True])
async def test_a_buyer_who_starts_again_does_not_undo_what_staff_asked_for(shop: Shop, buyer_was_first: bool) -> None:
    """Staff had a payment ended that Mollie could not end yet, and the buyer's next click silently gave that up."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    if buyer_was_first:
        await checkout.cancel(shop.core, started.payment.id, BUYER)
    await captures.release(shop.core, started.payment.id, STAFF)
    await captures.release(shop.core, started.payment.id, STAFF)
    with pytest.raises(PaymentInProgress):
        await shop.start(order.id, "mollie")
    assert await voids(shop) == ["recorded"]
    assert await told(shop, "void.abandoned") == 0
    assert await told(shop, "void.joined") == int(buyer_was_first)
    assert await shop.rows("SELECT capture_right FROM payments") == [{"capture_right": "voiding"}]
    assert await shop.count("payments") == 1


async def test_a_buyer_who_goes_back_on_his_own_word_is_seen_in_the_history(shop: Shop) -> None:
    """That a recorded void was given up again stood nowhere."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    await checkout.cancel(shop.core, started.payment.id, BUYER)
    again = await shop.start(order.id, "mollie")
    assert again.payment.id == started.payment.id
    assert await voids(shop) == ["abandoned"]
    assert await told(shop, "void.abandoned") == 1
    assert await shop.captures_booked() == 0
