"""The gateway protocol on the offline twin: create, reopen, fetch, capture, void, and the buyer in between."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from paidonce.errors import GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import Account, CreateRequest, DeclineCode, Progress
from paidonce.gateways.stripe import provider
from paidonce.gateways.stripe.gateway import StripeGateway
from paidonce.money import Money, MoneyError

from .conftest import RETURN_URL, Api, ManualClock, TwinTransport

Create = Callable[..., CreateRequest]
Open = Callable[..., Awaitable[str]]


def charges(transport: TwinTransport) -> list[dict[str, object]]:
    return [record["object"] for record in json.loads(transport.core.dump())["charges"].values()]


async def pay(gateway: StripeGateway, ref: str, method: str = "pm_card_visa") -> Progress:
    return (await gateway.confirm_as_test_buyer(ref, payment_method=method, return_url=RETURN_URL)).progress


async def test_create_moves_no_money_and_hands_out_the_secret(
    gateway: StripeGateway, create_request: Create, transport: TwinTransport
) -> None:
    opened = await gateway.create(create_request())
    snapshot = opened.snapshot
    assert (snapshot.progress, snapshot.amount, snapshot.live) == (Progress.AWAITING_BUYER, Money(1999, "EUR"), False)
    assert (snapshot.payment_id, snapshot.order_id) == ("pay_1", "ord_1")
    assert snapshot.account == (await gateway.account()).id
    assert set(opened.client) == {"client_secret", "publishable_key"}
    assert opened.client["client_secret"].startswith(snapshot.ref + "_secret_")
    assert opened.client["publishable_key"] == "pk_test_sandbox"
    assert charges(transport) == []


async def test_the_same_key_gives_the_same_intent(gateway: StripeGateway, create_request: Create) -> None:
    first, second = await gateway.create(create_request()), await gateway.create(create_request())
    other = await gateway.create(create_request("key_2"))
    assert first.snapshot.ref == second.snapshot.ref
    assert dict(first.client) == dict(second.client)
    assert other.snapshot.ref != first.snapshot.ref


async def test_reopen_and_fetch_only_read(gateway: StripeGateway, open_intent: Open, transport: TwinTransport) -> None:
    ref = await open_intent()
    transport.requests.clear()
    opened = await gateway.reopen(ref)
    assert opened.client["client_secret"].startswith(ref)
    assert (await gateway.fetch(ref)).ref == ref
    assert [request.method for request in transport.requests] == ["GET", "GET"]


async def test_the_account_is_read_once(gateway: StripeGateway, open_intent: Open, transport: TwinTransport) -> None:
    account = await gateway.account()
    await open_intent()
    await gateway.account()
    assert account == Account(id=account.id, live=False)
    assert account.id.startswith("acct_")
    assert sum(request.url.endswith("/v1/account") for request in transport.requests) == 1


async def test_a_card_that_works_captures_once(
    gateway: StripeGateway, open_intent: Open, transport: TwinTransport
) -> None:
    ref = await open_intent()
    assert await pay(gateway, ref) is Progress.CAPTURED
    assert await pay(gateway, ref) is Progress.CAPTURED
    snapshot = await gateway.fetch(ref)
    assert snapshot.captured == Money(1999, "EUR")
    assert [charge["id"] for charge in charges(transport)] == [snapshot.capture_ref]


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("pm_card_visa_chargeDeclinedInsufficientFunds", DeclineCode.INSUFFICIENT_FUNDS),
        ("pm_card_visa_chargeDeclined", DeclineCode.CARD_DECLINED),
        ("pm_card_visa_chargeDeclinedStolenCard", DeclineCode.CARD_DECLINED),
        ("pm_card_visa_chargeDeclinedVelocityLimitExceeded", DeclineCode.LIMIT_EXCEEDED),
        ("pm_card_chargeDeclinedExpiredCard", DeclineCode.CARD_EXPIRED),
        ("pm_card_chargeDeclinedIncorrectCvc", DeclineCode.WRONG_CVC),
        ("pm_card_chargeDeclinedProcessingError", DeclineCode.PROCESSING_ERROR),
    ],
)
async def test_a_decline_is_a_snapshot_and_the_same_intent_pays_afterwards(
    gateway: StripeGateway, open_intent: Open, method: str, code: DeclineCode
) -> None:
    ref = await open_intent()
    snapshot = await gateway.confirm_as_test_buyer(ref, payment_method=method, return_url=RETURN_URL)
    assert snapshot.progress is Progress.AWAITING_BUYER
    assert snapshot.decline is not None
    assert (snapshot.decline.code, snapshot.decline.recoverable) == (code, True)
    assert (snapshot.captured, snapshot.capture_ref) == (None, None)
    assert await pay(gateway, ref) is Progress.CAPTURED
    assert (await gateway.fetch(ref)).decline is None


async def test_a_bank_debit_is_neither_paid_nor_failed(gateway: StripeGateway, open_intent: Open) -> None:
    ref = await open_intent()
    assert await pay(gateway, ref, "pm_usBankAccount_processing") is Progress.PROCESSING
    snapshot = await gateway.void(ref)
    assert (snapshot.progress, snapshot.captured, snapshot.pending_reason) == (Progress.PROCESSING, None, "processing")


async def test_void_ends_the_intent_for_good(
    gateway: StripeGateway, open_intent: Open, transport: TwinTransport
) -> None:
    ref = await open_intent()
    assert (await gateway.void(ref)).progress is Progress.CANCELED
    assert (await gateway.void(ref)).progress is Progress.CANCELED
    assert await pay(gateway, ref) is Progress.CANCELED
    assert charges(transport) == []


async def test_void_of_a_paid_intent_tells_that_it_was_paid(gateway: StripeGateway, open_intent: Open) -> None:
    ref = await open_intent()
    await pay(gateway, ref)
    snapshot = await gateway.void(ref)
    assert (snapshot.progress, snapshot.captured) == (Progress.CAPTURED, Money(1999, "EUR"))


async def test_a_void_of_unknown_outcome_can_be_repeated(
    gateway: StripeGateway, open_intent: Open, transport: TwinTransport
) -> None:
    ref = await open_intent()
    transport.core.plan("500_after")
    with pytest.raises(OutcomeUnknown):
        await gateway.void(ref)
    # A fresh key: the stored server error of the first one would be replayed for a day.
    assert (await gateway.void(ref)).progress is Progress.CANCELED


async def test_an_authorized_intent_is_captured_once(
    gateway: StripeGateway, api: Api, transport: TwinTransport
) -> None:
    form = {"amount": "1999", "currency": "eur", "capture_method": "manual"}
    ref = json.loads(api("POST", "/v1/payment_intents", form).body)["id"]
    assert await pay(gateway, ref) is Progress.AUTHORIZED
    assert charges(transport)[0]["amount_captured"] == 0
    amount = Money(1999, "EUR")
    first = await gateway.capture(ref, idempotency_key="capture_1", amount=amount)
    again = await gateway.capture(ref, idempotency_key="capture_1", amount=amount)
    other = await gateway.capture(ref, idempotency_key="capture_2", amount=amount)
    assert first.progress is again.progress is other.progress is Progress.CAPTURED
    assert first.capture_ref == again.capture_ref == other.capture_ref
    assert [charge["amount_captured"] for charge in charges(transport)] == [1999]


async def test_capturing_more_than_authorized_is_refused(gateway: StripeGateway, api: Api) -> None:
    form = {"amount": "1999", "currency": "eur", "capture_method": "manual"}
    ref = json.loads(api("POST", "/v1/payment_intents", form).body)["id"]
    await pay(gateway, ref)
    with pytest.raises(GatewayRefused):
        await gateway.capture(ref, idempotency_key="capture_1", amount=Money(2000, "EUR"))
    assert (await gateway.fetch(ref)).progress is Progress.AUTHORIZED


async def test_a_strange_reference_stays_inside_its_path(gateway: StripeGateway, transport: TwinTransport) -> None:
    await gateway.account()
    transport.requests.clear()
    with pytest.raises(Exception, match="Stripe answered 404"):
        await gateway.fetch("../account?x=1#")
    assert urlsplit(transport.requests[0].url).path.endswith("/v1/payment_intents/..%2Faccount%3Fx%3D1%23")


@pytest.mark.parametrize("amount", [Money(1234, "KWD"), Money(0, "EUR"), Money(150, "MGA")])
async def test_amounts_that_cannot_be_sent_are_refused_before_any_call(
    gateway: StripeGateway, transport: TwinTransport, amount: Money
) -> None:
    with pytest.raises(MoneyError):
        gateway.check_amount(amount)
    with pytest.raises(MoneyError):
        gateway.attributes(amount)
    assert transport.requests == []


def test_the_component_shows_public_values_only(gateway: StripeGateway) -> None:
    component = gateway.component()
    assert component.element == "stripe-payment"
    assert (Path(component.assets) / component.module).is_file()
    assert set(component.attributes) == {"publishable-key", "script-url"}
    assert gateway.attributes(Money(500, "JPY")) == {"amount": "500", "currency": "jpy"}
    assert gateway.attributes(Money(500, "ISK")) == {"amount": "50000", "currency": "isk"}
    assert "sk_test" not in str(component)
    # The stand-ins must never be served by a shop.
    assert [path.name for path in component.assets.iterdir()] == ["component.js"]


def test_the_provider_names_its_settings() -> None:
    assert provider.name == "stripe"
    assert "STRIPE_SECRET_KEY" in provider.settings


async def test_test_buyers_do_not_pay_in_live_mode(transport: TwinTransport, clock: ManualClock) -> None:
    keys = {"STRIPE_SECRET_KEY": "sk_live_canary", "STRIPE_PUBLISHABLE_KEY": "pk_live_canary"}
    live = provider.configure(keys, transport, clock)
    assert live is not None
    with pytest.raises(GatewayRefused):
        await live.confirm_as_test_buyer("pi_1", payment_method="pm_card_visa", return_url=RETURN_URL)
    assert transport.requests == []
