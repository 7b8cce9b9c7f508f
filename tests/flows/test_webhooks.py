"""Webhooks: one effect whatever repeats, whatever the order, however early; and nothing of them is believed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from paidonce import inbox
from paidonce.errors import ConfigError, WebhookRefused
from paidonce.gateways.base import HttpRequest, WebhookEvent
from paidonce.sandbox.app import sandbox_environment
from support.books import captures_at_gateways
from support.shop import SANDBOX_URL, Shop, open_shop

GATEWAYS = ["stripe", "paypal"]
READ = {"stripe": "/v1/payment_intents/", "paypal": "/v2/checkout/orders/"}


async def closed_tab(shop: Shop, gateway: str) -> tuple[Any, str]:
    """An order whose buyer agreed at the gateway and never came back."""
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    return order, started.payment.id


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_webhook_pays_the_order_of_a_buyer_who_closed_the_tab(shop: Shop, gateway: str) -> None:
    order, _ = await closed_tab(shop, gateway)
    assert "new" in await shop.deliver()
    await shop.assert_paid_once(order)
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_three_times_at_the_same_time_is_one_effect(shop: Shop, gateway: str) -> None:
    order, _ = await closed_tab(shop, gateway)
    tripled = [webhook for webhook in shop.webhooks() for _ in range(3)]
    outcomes = await asyncio.gather(*(shop.receive(webhook) for webhook in tripled))
    assert outcomes.count("duplicate") >= len(tripled) * 2 // 3
    await shop.deliver()
    await shop.assert_paid_once(order)
    rows = await shop.rows("SELECT gateway, event_id FROM inbox")
    assert len(rows) == len({(row["gateway"], row["event_id"]) for row in rows})
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_reversed_and_days_late_ends_in_the_same_state(shop: Shop, gateway: str) -> None:
    order, payment_id = await shop.paid(gateway)
    await shop.refund(payment_id, 500)
    late = shop.webhooks()[::-1]
    shop.clock.pass_seconds(60)
    for webhook in late:
        await shop.receive(webhook)
    await shop.assert_paid_once(order)
    assert await shop.refund_states(payment_id) == [(500, "succeeded")]
    assert await shop.refund_status(order.id) == "partial"
    await shop.assert_journal_equals_gateways()


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_news_that_we_know_makes_no_gateway_call(shop: Shop, gateway: str) -> None:
    await shop.paid(gateway)
    webhooks = [one for one in shop.webhooks() if _is_about(one, ("succeeded", "COMPLETED", "APPROVED"))]
    assert webhooks
    shop.transport.sent.clear()
    assert {await shop.receive(webhook) for webhook in webhooks} == {"known"}
    # A certificate is fetched once and kept; it is no question about the payment.
    assert [one.url for one in shop.transport.sent if "/certs/" not in one.url] == []


def _is_about(webhook: HttpRequest, words: tuple[str, ...]) -> bool:
    event = json.loads(webhook.body)
    return str(event.get("type", event.get("event_type"))).endswith(words)


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_webhook_that_overtakes_the_answer_to_create_finds_its_payment(shop: Shop, gateway: str) -> None:
    """FAULTS: before the create call returned. Our own id in the object leads to the payment."""
    order = await shop.order()
    arrived, go_on = asyncio.Event(), asyncio.Event()
    send = shop.transport.send

    async def slow(request: HttpRequest, *, deadline_seconds: float) -> Any:
        answer = await send(request, deadline_seconds=deadline_seconds)
        if request.method == "POST" and request.url.endswith(READ[gateway].rstrip("/")):
            arrived.set()
            await go_on.wait()
        return answer

    shop.transport.send = slow  # type: ignore[method-assign]
    starting = asyncio.create_task(shop.start(order.id, gateway))
    await arrived.wait()
    ref = await _only_object(shop, gateway)
    rows = await shop.rows("SELECT id, gateway_ref FROM payments")
    assert rows[0]["gateway_ref"] is None
    event = WebhookEvent(
        gateway=gateway, id="evt_early", type="early", relevant=True, created_at=0, ref=ref, payment_id=rows[0]["id"]
    )
    received = await inbox.receive(shop.core, event)
    assert received.outcome == "new"
    await shop.recover(after=shop.core.policy.lease_seconds + 1)
    assert await shop.ref(rows[0]["id"]) == ref
    go_on.set()
    started = await starting
    await shop.agree(started)
    await shop.complete(started.payment.id)
    await shop.assert_paid_once(order)


async def _only_object(shop: Shop, gateway: str) -> str:
    state = json.loads(shop.twins[gateway].dump())
    return str(next(iter(state["intents" if gateway == "stripe" else "orders"])))


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_webhook_that_comes_before_our_commit_is_parked_and_takes_effect_later(
    shop: Shop, gateway: str
) -> None:
    """FAULTS: before our own commit. The 200 does not lose it."""
    order, payment_id = await closed_tab(shop, gateway)
    ref = await shop.ref(payment_id)
    early = WebhookEvent(
        gateway=gateway,
        id="evt_parked",
        type="early",
        relevant=True,
        created_at=0,
        ref="unknown-yet",
        payment_id="pay_not_here_yet",
    )
    shop.transport.sent.clear()
    assert (await inbox.receive(shop.core, early)).outcome == "new"
    assert await shop.rows("SELECT state FROM inbox WHERE event_id = 'evt_parked'") == [{"state": "parked"}]
    assert shop.transport.sent == [], "nothing is asked for a payment that is not here"
    claims = json.dumps({"ref": ref, "capture_ref": None, "payment_id": payment_id, "about_more": False})
    await shop.write("UPDATE inbox SET claims = :claims WHERE event_id = 'evt_parked'", claims=claims)
    await shop.recover(after=10)
    assert await shop.rows("SELECT state FROM inbox WHERE event_id = 'evt_parked'") == [{"state": "processed"}]
    await shop.assert_paid_once(order)


async def test_a_parked_event_that_stays_nobodys_is_ignored_after_days(shop: Shop) -> None:
    event = WebhookEvent(
        gateway="stripe", id="evt_1", type="x", relevant=True, created_at=0, ref="pi_other", payment_id="pay_other"
    )
    await inbox.receive(shop.core, event)
    for _ in range(100):
        await shop.recover(after=3600)
    rows = await shop.rows("SELECT state, due_at FROM inbox")
    assert rows == [{"state": "ignored", "due_at": None}]
    assert shop.transport.sent == []


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_what_is_not_ours_is_acknowledged_and_ignored(shop: Shop, gateway: str) -> None:
    """FAULTS: not ours (shared account). Nothing is written, and the gateway keeps the endpoint."""
    event = WebhookEvent(gateway=gateway, id="e", type="x", relevant=False, created_at=0, ref="something")
    assert (await inbox.receive(shop.core, event)).outcome == "ignored"
    foreign = replace(event, relevant=True, progress=None, ref=None)
    assert (await inbox.receive(shop.core, foreign)).outcome == "ignored"
    assert await shop.count("inbox") == 0


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_gateway_that_does_not_answer_leaves_the_event_due(shop: Shop, gateway: str) -> None:
    order, payment_id = await closed_tab(shop, gateway)
    shop.transport.lose_answers("GET", READ[gateway])
    assert "new" in await shop.deliver()
    assert await shop.payment_status(payment_id) == "awaiting_buyer"
    states = {row["state"] for row in await shop.rows("SELECT state FROM inbox")}
    assert states == {"recorded"}, "not processed, not lost"
    shop.transport.heal()
    await shop.recover(after=30)
    await shop.assert_paid_once(order)
    assert {row["state"] for row in await shop.rows("SELECT state FROM inbox")} == {"processed"}


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_process_that_died_after_its_200_is_replaced_by_recovery(
    shop: Shop, restarted: Callable[[], Shop], gateway: str
) -> None:
    order, _ = await closed_tab(shop, gateway)
    for webhook in shop.webhooks():
        headers = {name.lower(): value for name, value in webhook.headers.items()}
        event = await shop.core.gateways[gateway].read_webhook(headers, webhook.body)
        received = await inbox.receive(shop.core, event)
        assert received.lease is not None or received.outcome != "new"
    after = restarted()
    await after.recover(after=after.core.policy.lease_seconds + 1)
    await after.assert_paid_once(order)
    assert {row["state"] for row in await after.rows("SELECT state FROM inbox")} == {"processed"}


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_forged_webhook_writes_nothing(shop: Shop, gateway: str) -> None:
    await closed_tab(shop, gateway)
    webhook = shop.webhooks()[0]
    headers = {name.lower(): value for name, value in webhook.headers.items()}
    shop.transport.sent.clear()
    reader = shop.core.gateways[gateway]
    with pytest.raises(WebhookRefused):
        await reader.read_webhook(headers, webhook.body.replace(b"1", b"2"))
    with pytest.raises(WebhookRefused):
        await reader.read_webhook({}, webhook.body)
    other = "paypal" if gateway == "stripe" else "stripe"
    with pytest.raises(WebhookRefused):
        await shop.core.gateways[other].read_webhook(headers, webhook.body)
    assert await shop.count("inbox") == 0


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_the_inbox_keeps_no_client_secret(shop: Shop, gateway: str) -> None:
    order = await shop.order()
    started = await shop.start(order.id, gateway)
    await shop.agree(started)
    await shop.deliver()
    kept = json.dumps(await shop.rows("SELECT * FROM inbox"), default=str)
    assert len(kept) > 100
    for secret in started.client.values():
        if "secret" in secret:
            assert secret not in kept
    assert "_secret_" not in kept


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_an_event_for_another_endpoint_account_or_mode_writes_nothing(shop: Shop, gateway: str) -> None:
    """Signed by a gateway, but not for us: another endpoint's secret or id, another account, live news in test mode."""
    order, payment_id = await closed_tab(shop, gateway)
    webhook = shop.webhooks()[-1]
    headers = {name.lower(): value for name, value in webhook.headers.items()}
    elsewhere = {
        "stripe": {"STRIPE_WEBHOOK_SECRET": "whsec_of_another_endpoint_0123456789"},
        "paypal": {"PAYPAL_WEBHOOK_ID": "1AB23456CD789012E"},
    }[gateway]
    other = open_shop(shop.core.db, clock=shop.clock, twins=shop.twins, settings=elsewhere)
    with pytest.raises(WebhookRefused):
        await other.core.gateways[gateway].read_webhook(headers, webhook.body)
    assert (await shop.core.gateways[gateway].read_webhook(headers, webhook.body)).relevant, "ours is accepted"
    if gateway == "stripe":
        for change in ({"livemode": True}, {"account": "acct_somebody_else"}):
            body = json.dumps({**json.loads(webhook.body), **change}).encode()
            signed = {"stripe-signature": _signed(body, shop.clock.now() // 1_000_000)}
            with pytest.raises(WebhookRefused):
                await shop.core.gateways["stripe"].read_webhook(signed, body)
    assert await shop.count("inbox") == 0
    assert await shop.order_status(order.id) == "open"
    assert await shop.payment_status(payment_id) == "awaiting_buyer"


def _signed(body: bytes, moment: int) -> str:
    secret = sandbox_environment(SANDBOX_URL)["STRIPE_WEBHOOK_SECRET"]
    mac = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={mac}"


async def test_an_empty_webhook_secret_stops_the_start(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="STRIPE_WEBHOOK_SECRET"):
        open_shop(shop.core.db, clock=shop.clock, twins=shop.twins, settings={"STRIPE_WEBHOOK_SECRET": ""})


async def test_the_approvals_webhook_races_the_buyers_return(shop: Shop) -> None:
    """FAULTS: one capture, one stock movement."""
    order = await shop.order()
    started = await shop.start(order.id, "paypal")
    shop.approve(started)
    racing = [shop.receive(webhook) for webhook in shop.webhooks() for _ in range(3)]
    await asyncio.gather(*(shop.complete(started.payment.id) for _ in range(5)), *racing)
    await shop.complete(started.payment.id)
    await shop.assert_paid_once(order)
    assert captures_at_gateways(shop, order.id) == 1
    keys = {one.headers["paypal-request-id"] for one in shop.transport.calls("POST", "/capture")}
    assert len(keys) == 1
    await shop.assert_journal_equals_gateways()
