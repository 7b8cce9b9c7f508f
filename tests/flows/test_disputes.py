"""Disputes of both gateways: told, kept in accounts of their own, and never paid twice."""

from __future__ import annotations

import pytest

from paidonce.errors import PaymentDisputed, RefundTooLarge
from support.shop import Shop

GATEWAYS = ["stripe", "paypal"]


async def dispute(shop: Shop, gateway: str, payment_id: str, **options: object) -> str:
    ref = await shop.ref(payment_id)
    if gateway == "stripe":
        shop.control("stripe", "open_dispute", ref=ref, **options)
    else:
        shop.control("paypal", "open_dispute", order=ref, **({"stage": "CHARGEBACK"} | options))
    return "dispute"


async def tell(shop: Shop, by: str) -> None:
    if by == "webhook":
        await shop.deliver()
    else:
        await shop.recover(after=2 * 24 * 3600)


async def close(shop: Shop, gateway: str, outcome: str) -> None:
    rows = await shop.rows("SELECT gateway_ref FROM disputes WHERE gateway = :gateway", gateway=gateway)
    shop.control(gateway, "close_dispute", dispute=rows[0]["gateway_ref"], outcome=outcome)


async def dispute_states(shop: Shop) -> list[str]:
    return [row["state"] for row in await shop.rows("SELECT state FROM disputes ORDER BY created_at")]


@pytest.mark.parametrize("by", ["webhook", "recovery"])
@pytest.mark.parametrize("outcome", ["won", "lost"])
@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_dispute_goes_through_accounts_of_its_own(shop: Shop, gateway: str, outcome: str, by: str) -> None:
    """FAULTS: dispute won or lost."""
    order, payment_id = await shop.paid(gateway)
    await shop.deliver()
    await dispute(shop, gateway, payment_id)
    await tell(shop, by)
    assert await dispute_states(shop) == ["open"]
    assert (await shop.balances(order.id))["disputed"] == 1999
    with pytest.raises(PaymentDisputed):
        await shop.refund(payment_id)
    await shop.assert_journal_equals_gateways()
    await close(shop, gateway, outcome)
    await tell(shop, by)
    assert await dispute_states(shop) == [outcome]
    balances = await shop.balances(order.id)
    assert "disputed" not in balances
    assert balances.get("dispute_losses", 0) == (1999 if outcome == "lost" else 0)
    assert await shop.order_status(order.id) == "paid", "an order that was paid stays so"
    assert await shop.refund_status(order.id) == "none"
    events = await shop.events()
    assert events.count("dispute.opened") == 1
    assert events.count(f"dispute.{outcome}") == 1
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_after_a_lost_dispute_nothing_is_left_to_refund(shop: Shop, gateway: str) -> None:
    _, payment_id = await shop.paid(gateway)
    await dispute(shop, gateway, payment_id)
    await shop.deliver()
    await close(shop, gateway, "lost")
    await shop.deliver()
    with pytest.raises(RefundTooLarge):
        await shop.refund(payment_id)
    assert await shop.count("refunds") == 0


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_dispute_after_a_partial_refund(shop: Shop, gateway: str) -> None:
    """FAULTS: dispute after refund."""
    order, payment_id = await shop.paid(gateway)
    await shop.refund(payment_id, 999)
    await shop.deliver()
    amount = {"stripe": "1000", "paypal": "10.00"}[gateway]
    await dispute(shop, gateway, payment_id, amount=amount)
    await shop.deliver()
    await close(shop, gateway, "lost")
    await shop.deliver()
    balances = await shop.balances(order.id)
    assert balances["dispute_losses"] == 1000
    assert balances["sales"] == -1000
    assert await shop.refund_status(order.id) == "partial"
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_an_inquiry_blocks_refunds_and_moves_no_money(shop: Shop, gateway: str) -> None:
    order, payment_id = await shop.paid(gateway)
    before = await shop.balances(order.id)
    if gateway == "stripe":
        await dispute(shop, gateway, payment_id, inquiry="true")
    else:
        await dispute(shop, gateway, payment_id, stage="INQUIRY")
    await shop.deliver()
    assert await dispute_states(shop) == ["open"]
    with pytest.raises(PaymentDisputed):
        await shop.refund(payment_id)
    await close(shop, gateway, "won")
    await shop.deliver()
    assert await shop.balances(order.id) == before
    assert (await shop.refund(payment_id)).refund.state == "succeeded", "it is over, so a refund is fine again"
    await shop.assert_journal_equals_gateways()


async def test_an_automatic_refund_waits_for_an_open_dispute(shop: Shop) -> None:
    """The goods were gone, and the buyer's bank took the money before it went back: it must not go twice."""
    gateway = "stripe"  # PayPal is captured only while the goods are there.
    order = await shop.order(("lamp", 3))
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    shop.clock.pass_seconds(30 * 60)
    await shop.write("DELETE FROM holds WHERE order_id = :id", id=order.id)
    await shop.write("UPDATE stock SET held = 0, on_hand = 1 WHERE sku = 'lamp'")
    await shop.write(
        "INSERT INTO stock_movements (sku, kind, quantity, actor, created_at) VALUES ('lamp', 'adjustment', -2, 't', 1)"
    )
    await shop.complete(started.payment.id)
    assert await shop.refund_states(started.payment.id) == [(14850, "recorded")]
    await dispute(shop, gateway, started.payment.id)
    await shop.deliver()
    await shop.recover(after=600)
    assert shop.transport.calls("POST", "/v1/refunds") == []
    await close(shop, gateway, "won")
    await shop.deliver()
    await shop.recover(after=3600)
    assert await shop.refund_states(started.payment.id) == [(14850, "succeeded")]
    await shop.assert_journal_equals_gateways()
