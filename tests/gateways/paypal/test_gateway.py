"""The gateway against the offline PayPal: what each answer means, and that only an approved capture moves money."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from paidonce.errors import GatewayBusy, GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import Account, DeclineCode, HttpResponse, Progress
from paidonce.money import Money, MoneyError

if TYPE_CHECKING:
    from support.paypal import Shop

EUR_1999 = Money(1999, "EUR")


async def test_create_asks_for_exactly_the_order_and_moves_nothing(shop: Shop) -> None:
    opened = await shop.gateway.create(shop.request())

    assert opened.client == {"order_id": opened.snapshot.ref, "client_id": "sandbox-paypal-client-id"}
    assert opened.snapshot.progress is Progress.AWAITING_BUYER
    assert (opened.snapshot.payment_id, opened.snapshot.order_id) == ("pay_1", "ord_1")
    assert (opened.snapshot.account, opened.snapshot.live) == ("SANDBXMERCHNT", False)
    assert await shop.gateway.account() == Account("SANDBXMERCHNT", live=False)
    sent = json.loads(shop.line.sent[-1].body)
    assert sent["intent"] == "CAPTURE"
    assert sent["purchase_units"][0]["invoice_id"] == "1001"
    assert sent["payment_source"]["paypal"]["experience_context"]["user_action"] == "PAY_NOW"
    assert shop.moved() == 0


async def test_a_repeated_create_finds_the_same_order(shop: Shop) -> None:
    first = await shop.gateway.create(shop.request())
    again = await shop.gateway.create(shop.request())
    other = await shop.gateway.create(shop.request(key="create-2"))

    assert again.snapshot.ref == first.snapshot.ref
    assert other.snapshot.ref != first.snapshot.ref
    statuses = [answer.status for request, answer in shop.line.exchanges if request.url.endswith("/orders")]
    assert statuses == [201, 200, 201]


async def test_one_key_never_stands_for_two_bodies(shop: Shop) -> None:
    await shop.gateway.create(shop.request())

    with pytest.raises(GatewayRefused, match="ALARM") as caught:
        await shop.gateway.create(shop.request(amount=Money(2000, "EUR")))

    assert caught.value.code == "duplicate_request_id"
    assert caught.value.request_id is not None


async def test_reopen_gives_the_browser_its_values_again(shop: Shop) -> None:
    opened = await shop.gateway.create(shop.request())

    reopened = await shop.gateway.reopen(opened.snapshot.ref)

    assert reopened.client == opened.client
    assert shop.line.count("/v2/checkout/orders") == 1


async def test_approve_then_capture(shop: Shop) -> None:
    ref = await shop.approved()
    assert (await shop.gateway.fetch(ref)).progress is Progress.APPROVED

    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert (paid.progress, paid.captured) == (Progress.CAPTURED, EUR_1999)
    assert (await shop.gateway.fetch(ref)).capture_ref == paid.capture_ref
    assert shop.moved() == 1


async def test_a_repeated_capture_moves_the_money_once(shop: Shop) -> None:
    ref = await shop.approved()

    first = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    same_key = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    new_key = await shop.gateway.capture(ref, idempotency_key="capture-2", amount=EUR_1999)

    assert first.capture_ref == same_key.capture_ref == new_key.capture_ref
    assert {first.progress, same_key.progress, new_key.progress} == {Progress.CAPTURED}
    statuses = [answer.status for request, answer in shop.line.exchanges if request.url.endswith("/capture")]
    assert statuses == [201, 200, 422]
    assert shop.moved() == 1


async def test_a_capture_without_approval_sends_the_buyer_back(shop: Shop) -> None:
    ref = (await shop.gateway.create(shop.request())).snapshot.ref

    snapshot = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert snapshot.progress is Progress.AWAITING_BUYER
    assert snapshot.decline is not None
    assert (snapshot.decline.code, snapshot.decline.recoverable) == (DeclineCode.APPROVAL_NEEDED, True)
    assert shop.moved() == 0


async def test_a_declined_instrument_recovers_on_the_same_order(shop: Shop) -> None:
    ref = await shop.approved(funding="declined")

    declined = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    repeated = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert declined.progress is repeated.progress is Progress.AWAITING_BUYER
    assert declined.decline is not None
    assert (declined.decline.code, declined.decline.recoverable) == (DeclineCode.INSTRUMENT_DECLINED, True)
    assert declined.request_id is not None
    assert shop.moved() == 0

    shop.twin.approve(ref, now=shop.clock.now())
    paid = await shop.gateway.capture(ref, idempotency_key="capture-2", amount=EUR_1999)

    assert (paid.progress, paid.ref) == (Progress.CAPTURED, ref)
    assert shop.moved() == 1


async def test_after_three_declines_the_order_is_over(shop: Shop) -> None:
    ref = await shop.approved(funding="declined")
    for round_ in range(3):
        shop.twin.approve(ref, now=shop.clock.now(), funding="declined")
        declined = await shop.gateway.capture(ref, idempotency_key=f"capture-{round_}", amount=EUR_1999)
        assert declined.progress is Progress.AWAITING_BUYER

    shop.twin.approve(ref, now=shop.clock.now())
    over = await shop.gateway.capture(ref, idempotency_key="capture-3", amount=EUR_1999)

    assert over.progress is Progress.FAILED
    assert over.decline is not None
    assert not over.decline.recoverable
    assert (await shop.gateway.fetch(ref)).progress is Progress.CANCELED
    assert shop.moved() == 0


async def test_an_echeck_is_neither_paid_nor_failed_until_it_clears(shop: Shop) -> None:
    ref = await shop.approved(funding="pending")

    pending = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert (pending.progress, pending.pending_reason) == (Progress.PROCESSING, "ECHECK")
    assert pending.captured is None
    shop.clock.pass_seconds(3 * 24 * 3600)
    cleared = await shop.gateway.fetch(ref)
    assert (cleared.progress, cleared.captured) == (Progress.CAPTURED, EUR_1999)
    assert cleared.capture_ref == pending.capture_ref


async def test_an_echeck_that_bounces_fails(shop: Shop) -> None:
    ref = await shop.approved(funding="pending")
    await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    shop.twin.clear_pending(ref, now=shop.clock.now(), status="DECLINED")

    bounced = await shop.gateway.fetch(ref)
    assert bounced.progress is Progress.FAILED
    assert bounced.captured is None


async def test_an_approval_that_nobody_uses_is_reversed(shop: Shop) -> None:
    ref = await shop.approved()
    shop.clock.pass_seconds(3 * 3600)

    assert (await shop.gateway.fetch(ref)).progress is Progress.AWAITING_BUYER
    late = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    assert late.decline is not None
    assert late.decline.code is DeclineCode.APPROVAL_NEEDED
    assert shop.moved() == 0


@pytest.mark.parametrize("fault", ["lags", "fails", "refused"])
async def test_a_capture_with_an_unreadable_answer_is_unknown_until_the_order_shows_it(shop: Shop, fault: str) -> None:
    """The order that still reads as approved, or can't be read, must not look like a capture that did not happen."""
    ref = await shop.approved()
    await shop.gateway.fetch(ref)
    lagging = shop.line.exchanges[-1][1]
    shop.fail("/capture", HttpResponse(201, {}, b"{}"), reached=True)
    for _ in range(3):
        if fault == "refused":
            shop.refuse(f"/orders/{ref}", "INVALID_RESOURCE_STATE")
        else:
            shop.fail(f"/orders/{ref}", lagging if fault == "lags" else GatewayBusy("could not connect"))

    with pytest.raises(OutcomeUnknown):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert shop.moved() == 1
    shop.line.faults.clear()
    again = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    assert again.progress is Progress.CAPTURED
    assert shop.moved() == 1


async def test_another_orders_capture_is_not_taken_for_this_one(shop: Shop) -> None:
    ref = await shop.approved()
    other = (await shop.gateway.create(shop.request(key="create-2"))).snapshot.ref
    shop.twin.approve(other, now=shop.clock.now())
    await shop.gateway.capture(other, idempotency_key="capture-2", amount=EUR_1999)
    theirs = shop.line.exchanges[-1][1]
    shop.fail(f"/{ref}/capture", theirs)

    with pytest.raises(OutcomeUnknown, match="another order"):
        await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert (await shop.gateway.fetch(ref)).progress is Progress.APPROVED
    assert shop.moved() == 1


async def test_void_reads_and_changes_nothing(shop: Shop) -> None:
    ref = await shop.approved()

    assert (await shop.gateway.void(ref)).progress is Progress.APPROVED
    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    assert (await shop.gateway.void(ref)).capture_ref == paid.capture_ref


async def test_a_second_order_with_a_paid_invoice_is_refused_and_stays_unpaid(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(unique_invoices=True)
    first = await shop.approved()
    await shop.gateway.capture(first, idempotency_key="capture-1", amount=EUR_1999)
    second = (await shop.gateway.create(shop.request(key="create-2"))).snapshot.ref
    shop.twin.approve(second, now=shop.clock.now())

    with pytest.raises(GatewayRefused) as caught:
        await shop.gateway.capture(second, idempotency_key="capture-2", amount=EUR_1999)

    assert caught.value.code == "duplicate_invoice_id"
    assert shop.moved() == 1


async def test_duplicate_invoice_of_our_own_captured_order_settles(shop: Shop) -> None:
    ref = await shop.approved()
    paid = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    shop.refuse("/capture", "DUPLICATE_INVOICE_ID")

    again = await shop.gateway.capture(ref, idempotency_key="capture-9", amount=EUR_1999)

    assert (again.progress, again.capture_ref) == (Progress.CAPTURED, paid.capture_ref)


async def test_already_captured_but_not_yet_readable_is_processing(shop: Shop) -> None:
    ref = await shop.approved()
    shop.refuse("/capture", "ORDER_ALREADY_CAPTURED")

    snapshot = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert snapshot.progress is Progress.PROCESSING
    assert snapshot.decline is None


@pytest.mark.parametrize(
    "issue", ["COMPLIANCE_VIOLATION", "TRANSACTION_REFUSED", "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED"]
)
async def test_final_refusals_fail_the_payment(shop: Shop, issue: str) -> None:
    ref = await shop.approved()
    shop.refuse("/capture", issue)

    snapshot = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert snapshot.progress is Progress.FAILED
    assert snapshot.decline is not None
    assert (snapshot.decline.recoverable, snapshot.decline.raw_code) == (False, issue)
    assert shop.moved() == 0


async def test_a_decline_does_not_hide_money_that_moved_meanwhile(shop: Shop) -> None:
    ref = await shop.approved()
    await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)
    shop.refuse("/capture", "INSTRUMENT_DECLINED")

    snapshot = await shop.gateway.capture(ref, idempotency_key="capture-2", amount=EUR_1999)

    assert snapshot.progress is Progress.CAPTURED
    assert snapshot.decline is None


@pytest.mark.parametrize("issue", ["DECIMAL_PRECISION", "DECIMALS_NOT_SUPPORTED", "AMOUNT_MISMATCH"])
async def test_our_own_bugs_raise_an_alarm_with_the_debug_id(shop: Shop, issue: str) -> None:
    shop.refuse("/orders", issue)

    with pytest.raises(GatewayRefused, match="ALARM") as caught:
        await shop.gateway.create(shop.request())

    assert (caught.value.code, caught.value.request_id) == (issue.lower(), "f5aa1c2b3d4e5")
    assert caught.value.buyer_message is None


async def test_an_unknown_order_is_an_alarm_and_no_failed_payment(shop: Shop) -> None:
    with pytest.raises(GatewayMisconfigured, match="keys"):
        await shop.gateway.fetch("5O190127TN364715T")


async def test_a_ref_cannot_walk_to_another_resource(shop: Shop) -> None:
    with pytest.raises(GatewayMisconfigured):
        await shop.gateway.fetch("../../v1/oauth2/token?x=")

    assert shop.line.sent[-1].url.endswith("/v2/checkout/orders/..%2F..%2Fv1%2Foauth2%2Ftoken%3Fx%3D")


async def test_amounts_that_do_not_fit_never_leave(shop: Shop) -> None:
    for amount in (Money(1_234_567, "HUF"), Money(1000, "KWD"), Money(0, "EUR")):
        with pytest.raises(MoneyError):
            shop.gateway.check_amount(amount)
        with pytest.raises(MoneyError):
            shop.gateway.attributes(amount)
        with pytest.raises(MoneyError):
            await shop.gateway.create(shop.request(amount=amount))

    assert shop.line.sent == []


async def test_forint_and_yen_are_charged_in_whole_units(shop: Shop) -> None:
    for number, amount in enumerate((Money(1_234_500, "HUF"), Money(500, "JPY"), Money(29_900, "TWD"))):
        ref = (await shop.gateway.create(shop.request(key=f"create-{number}", amount=amount))).snapshot.ref
        shop.twin.approve(ref, now=shop.clock.now())
        paid = await shop.gateway.capture(ref, idempotency_key=f"capture-{number}", amount=amount)
        assert paid.captured == paid.amount == amount


def test_the_component_allows_paypal_only(make_shop: Callable[..., Shop]) -> None:
    component = make_shop(PAYPAL_JS_URL="").gateway.component()

    assert (component.assets / component.module).is_file()
    assert component.attributes["script-url"] == "https://www.sandbox.paypal.com/web-sdk/v6/core"
    assert set(component.csp) == {"script-src", "frame-src", "child-src", "connect-src", "img-src", "style-src"}
    assert {source for sources in component.csp.values() for source in sources} == {
        "https://*.paypal.com",
        "https://*.paypalobjects.com",
    }


def test_the_component_of_an_own_script_allows_its_origin_only(shop: Shop) -> None:
    component = shop.gateway.component()

    assert {source for sources in component.csp.values() for source in sources} == {"http://127.0.0.1:9"}
    assert "secret" not in str(component.attributes)
    assert shop.gateway.attributes(EUR_1999) == {"currency": "EUR"}
