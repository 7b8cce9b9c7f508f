"""What a verified event names of a payment, from the twin's own webhooks and from bodies that nobody should send."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paidonce.errors import WebhookRefused
from paidonce.gateways.base import DisputeProgress, Progress, RefundProgress, WebhookEvent
from paidonce.gateways.paypal import events
from paidonce.gateways.paypal.sandbox import PayPalSandbox
from paidonce.money import Money
from paidonce.ports import SECOND

if TYPE_CHECKING:
    from support.paypal import Shop

EUR_1999 = Money(1999, "EUR")


async def told(shop: Shop) -> list[WebhookEvent]:
    """The twin's new webhooks, each through the gateway's own check."""
    return [
        await shop.gateway.read_webhook(dict(one.headers), one.body)
        for one in shop.twin.take_webhooks(now=shop.clock.now())
    ]


def control(shop: Shop, name: str, **params: str) -> dict[str, str]:
    """Let something happen at the twin."""
    return dict(shop.twin.control(name, params, now=shop.clock.now()))


async def test_a_payments_events_name_it(shop: Shop) -> None:
    ref = await shop.approved()
    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    approved, completed, captured = await told(shop)

    assert (approved.type, approved.progress) == ("CHECKOUT.ORDER.APPROVED", Progress.APPROVED)
    assert (completed.type, completed.progress) == ("CHECKOUT.ORDER.COMPLETED", Progress.CAPTURED)
    assert (captured.type, captured.progress) == ("PAYMENT.CAPTURE.COMPLETED", Progress.CAPTURED)
    for event in (approved, completed, captured):
        assert (event.gateway, event.relevant, event.ref, event.payment_id) == ("paypal", True, ref, "pay_1")
        assert event.created_at == shop.clock.now()
    assert captured.capture_ref == paid.capture_ref
    assert len({event.id for event in (approved, completed, captured)}) == 3
    assert await told(shop) == [], "each is given once"


@pytest.mark.parametrize(
    ("status", "kind", "progress"),
    [
        ("COMPLETED", "PAYMENT.CAPTURE.COMPLETED", Progress.CAPTURED),
        ("DECLINED", "PAYMENT.CAPTURE.DECLINED", Progress.FAILED),
    ],
)
async def test_slow_money(shop: Shop, status: str, kind: str, progress: Progress) -> None:
    ref = await shop.approved(funding="pending")
    await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    *_, pending = await told(shop)
    control(shop, "clear_pending", order=ref, status=status)
    *_, ended = await told(shop)

    assert (pending.type, pending.progress) == ("PAYMENT.CAPTURE.PENDING", Progress.PROCESSING)
    assert (ended.type, ended.progress) == (kind, progress)
    assert ended.capture_ref == pending.capture_ref


async def test_an_approval_that_is_reversed_claims_nothing(shop: Shop) -> None:
    ref = await shop.approved()
    await told(shop)
    shop.clock.pass_seconds(3 * 3600)

    (reversed_,) = await told(shop)

    assert reversed_.type == "CHECKOUT.PAYMENT-APPROVAL.REVERSED"
    assert (reversed_.ref, reversed_.payment_id, reversed_.progress) == (ref, "pay_1", None)
    assert (await shop.gateway.fetch(ref)).progress is Progress.AWAITING_BUYER


async def test_refunds(shop: Shop) -> None:
    ref = await shop.approved()
    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    assert paid.capture_ref is not None
    await told(shop)

    made = await shop.gateway.refund(
        ref, paid.capture_ref, idempotency_key="refund-1", amount=Money(500, "EUR"), refund_id="ref_1"
    )
    (ours,) = await told(shop)
    control(shop, "fail_refund", refund=made.ref)
    (failed,) = await told(shop)
    control(shop, "pend_refunds", on="true")
    other = control(shop, "dashboard_refund", order=ref)["refund"]
    (pending,) = await told(shop)

    assert (ours.type, ours.refund) == ("PAYMENT.CAPTURE.REFUNDED", (made.ref, RefundProgress.SUCCEEDED))
    assert (failed.type, failed.refund) == ("PAYMENT.REFUND.FAILED", (made.ref, RefundProgress.FAILED))
    assert (pending.type, pending.refund) == ("PAYMENT.REFUND.PENDING", (other, RefundProgress.PENDING))
    for event in (ours, failed, pending):
        assert event.capture_ref == paid.capture_ref
        assert event.progress is None
        assert event.relevant
    assert (ours.payment_id, pending.payment_id) == (None, "pay_1"), "ref_1 is no payment of ours"


async def test_disputes(shop: Shop) -> None:
    ref = await shop.approved()
    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    await told(shop)

    name = control(shop, "open_dispute", order=ref, stage="INQUIRY")["dispute"]
    control(shop, "escalate_dispute", dispute=name)
    control(shop, "close_dispute", dispute=name, outcome="lost")
    created, updated, resolved = await told(shop)

    assert (created.type, created.dispute) == ("CUSTOMER.DISPUTE.CREATED", (name, DisputeProgress.OPEN))
    assert (updated.type, updated.dispute) == ("CUSTOMER.DISPUTE.UPDATED", None)
    assert (resolved.type, resolved.dispute) == ("CUSTOMER.DISPUTE.RESOLVED", (name, DisputeProgress.LOST))
    for event in (created, updated, resolved):
        assert (event.capture_ref, event.payment_id) == (paid.capture_ref, "pay_1")


def event(kind: str, resource: Any, **more: Any) -> bytes:
    """An event as PayPal sends it."""
    told_: dict[str, Any] = {"id": "WH-1", "create_time": "2026-10-05T14:57:40.613Z", "event_type": kind}
    return json.dumps(told_ | {"resource": resource} | more).encode()


AUTHORIZATION = {
    "id": "0VF52814937998046",
    "status": "CREATED",
    "custom_id": "pay_1",
    "supplementary_data": {"related_ids": {"order_id": "5O190127TN364715T"}},
}


@pytest.mark.parametrize(
    ("kind", "status", "progress"),
    [
        ("PAYMENT.AUTHORIZATION.CREATED", "CREATED", Progress.AUTHORIZED),
        ("PAYMENT.AUTHORIZATION.CREATED", "PENDING", Progress.PROCESSING),
        ("PAYMENT.AUTHORIZATION.VOIDED", "VOIDED", Progress.CANCELED),
        ("PAYMENT.AUTHORIZATION.VOIDED", "A_NEW_WORD", Progress.PROCESSING),
    ],
)
def test_authorizations(kind: str, status: str, progress: Progress) -> None:
    found = events.read(event(kind, {**AUTHORIZATION, "status": status}))

    assert (found.ref, found.payment_id, found.progress) == ("5O190127TN364715T", "pay_1", progress)
    assert found.capture_ref is None
    assert found.created_at == 1_791_212_260_613_000


@pytest.mark.parametrize("kind", ["PAYMENT.CAPTURE.DENIED", "PAYMENT.CAPTURE.DECLINED"])
def test_both_words_for_a_declined_capture(kind: str) -> None:
    found = events.read(event(kind, {**AUTHORIZATION, "status": "DECLINED"}))

    assert (found.progress, found.capture_ref) == (Progress.FAILED, "0VF52814937998046")


def test_a_reversed_capture_claims_nothing() -> None:
    links = [{"rel": "up", "href": "https://api.paypal.com/v2/payments/captures/3C679366HH908993F", "method": "GET"}]
    resource = {"id": "1Y107995YT783435V", "status": "COMPLETED", "links": links}

    found = events.read(event("PAYMENT.CAPTURE.REVERSED", resource))

    assert (found.capture_ref, found.refund, found.progress, found.relevant) == ("3C679366HH908993F", None, None, True)


@pytest.mark.parametrize(
    "kind",
    ["BILLING.PLAN.CREATED", "PAYMENT.SALE.COMPLETED", "CHECKOUT.ORDER.SAVED", "PAYMENT.CAPTURE.COMPLETED.X", "X"],
)
def test_events_that_are_not_about_a_payment_are_not_relevant(kind: str) -> None:
    found = events.read(event(kind, AUTHORIZATION))

    assert not found.relevant
    assert (found.ref, found.capture_ref, found.payment_id, found.progress) == (None, None, None, None)


@pytest.mark.parametrize("custom_id", ["order-7", "", "pay_", "pay_x y", "pay_" + "x" * 200, 7, None, ["pay_1"]])
def test_what_another_program_wrote_is_no_id_of_ours(custom_id: Any) -> None:
    assert events.read(event("PAYMENT.CAPTURE.COMPLETED", {**AUTHORIZATION, "custom_id": custom_id})).payment_id is None


def test_units_that_name_two_payments_name_none() -> None:
    units = [{"custom_id": "pay_1"}, {"custom_id": "pay_2"}]

    found = events.read(event("CHECKOUT.ORDER.APPROVED", {"id": "5O190127TN364715T", "purchase_units": units}))

    assert (found.ref, found.payment_id, found.progress) == ("5O190127TN364715T", None, None)


@pytest.mark.parametrize(
    "resource", [None, [], "text", 7, {}, {"id": None}, {"id": "a b"}, {"id": "x" * 300}, {"id": "a\nb"}]
)
@pytest.mark.parametrize(
    "kind",
    ["CHECKOUT.ORDER.APPROVED", "PAYMENT.CAPTURE.COMPLETED", "PAYMENT.REFUND.FAILED", "CUSTOMER.DISPUTE.CREATED"],
)
def test_an_event_without_its_object_is_refused(kind: str, resource: Any) -> None:
    with pytest.raises(WebhookRefused):
        events.read(event(kind, resource))


def genuine() -> list[dict[str, Any]]:
    """One event of each kind that the twin sends."""
    twin, now = PayPalSandbox("http://127.0.0.1:9/paypal"), 1_790_000_000 * SECOND
    state = json.loads(twin.dump())
    unit = {"custom_id": "pay_1", "amount": {"currency_code": "EUR", "value": "19.99"}}
    base = {"named_source": True, "unit": unit, "return_url": None, "cancel_url": None, "declines": 0, "created": now}
    base |= {"funding": None, "approved": None, "capture": None, "updated": now, "status": "CREATED"}
    state["orders"] = {"A1": {**base, "id": "A1"}, "B2": {**base, "id": "B2"}}
    twin.load(json.dumps(state))
    for ref in ("A1", "B2"):
        twin.approve(ref, now=now)
    twin.control("reverse_approval", {"order": "B2"}, now=now)
    orders = vars(twin)["_orders"]
    orders.take_money(vars(twin)["_state"].orders["A1"], 1999, now)
    refund = twin.control("dashboard_refund", {"order": "A1", "amount": "1.00"}, now=now)["refund"]
    twin.control("fail_refund", {"refund": refund}, now=now)
    dispute = twin.control("open_dispute", {"order": "A1"}, now=now)["dispute"]
    twin.control("close_dispute", {"dispute": dispute, "outcome": "lost"}, now=now)
    return [json.loads(one.body) for one in twin.take_webhooks(now=now)]


GENUINE = genuine()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be replaced."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*found, *(one for key, item in inner for one in places(item, (*path, key)))]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(GENUINE), st.data())
def test_a_mutated_event_is_read_or_refused(original: dict[str, Any], data: Any) -> None:
    mutated = copy.deepcopy(original)
    *above, last = data.draw(st.sampled_from(places(mutated)))
    holder: Any = mutated
    for key in above:
        holder = holder[key]
    if data.draw(st.booleans()):
        del holder[last]
    else:
        holder[last] = data.draw(JSON)
    try:
        found = events.read(json.dumps(mutated).encode())
    except WebhookRefused:
        return
    texts = [found.id, found.type, found.ref, found.capture_ref, found.payment_id]
    assert all(text is None or (text.isprintable() and len(text) <= 255) for text in texts)
    assert found.payment_id in (None, "pay_1") or found.payment_id.startswith("pay_")


@given(JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        events.read(json.dumps(value).encode())
    except WebhookRefused:
        return
    pytest.fail("nothing drawn here is an event")


def test_the_genuine_events_cover_the_types() -> None:
    kinds = {one["event_type"] for one in GENUINE}

    assert len(kinds) == 8
    assert all(events.read(json.dumps(one).encode()).relevant for one in GENUINE)
