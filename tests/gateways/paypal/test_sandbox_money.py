"""The twin's money: its own rules after the buyer's approval, its books, controls, webhooks, certificates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from paidonce.errors import WebhookRefused
from paidonce.gateways.base import BookEntry, HttpRequest, HttpResponse
from paidonce.gateways.paypal.sandbox import PayPalSandbox, units
from paidonce.money import Money
from paidonce.ports import SECOND
from support.paypal import HOME

if TYPE_CHECKING:
    from support.paypal import Shop

EUR_1999 = Money(1999, "EUR")


class Api:
    """Asks the twin by hand, with the gateway's own token."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.headers = {
            "authorization": shop.line.sent[-1].headers["authorization"],
            "content-type": "application/json",
            "prefer": "return=representation",
        }

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """One request."""
        text = b"" if body is None else json.dumps(body).encode()
        request = HttpRequest(method, path, {**self.headers, **(headers or {})}, text)
        return self.shop.twin.handle(request, now=self.shop.clock.now())

    def refused(self, method: str, path: str, body: Any = None) -> str:
        """The issue of a refusal."""
        response = self.ask(method, path, body)
        assert response.status >= 400
        return str(json.loads(response.body)["details"][0]["issue"])


async def captured(shop: Shop, amount: Money = EUR_1999, key: str = "1") -> tuple[str, str, Api]:
    """The ids of a paid order and of its capture, and the API."""
    ref = (await shop.gateway.create(shop.request(key=f"create-{key}", amount=amount))).snapshot.ref
    shop.twin.approve(ref, now=shop.clock.now())
    paid = await shop.gateway.capture(ref, idempotency_key=f"capture-{key}", amount=amount)
    assert paid.capture_ref is not None
    return ref, paid.capture_ref, Api(shop)


def euros(value: str, currency: str = "EUR") -> dict[str, Any]:
    """A body with an amount."""
    return {"amount": {"currency_code": currency, "value": value}}


def control(shop: Shop, name: str, **params: str) -> dict[str, str]:
    """Let something happen."""
    return dict(shop.twin.control(name, params, now=shop.clock.now()))


# --- Fees and books --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "fee"), [(1999, 85), (1, 1), (36, 36), (35, 35), (100, 37), (10_000, 284), (10**9, 24_900_035)]
)
def test_fees_are_whole_rounded_half_up_and_never_more_than_all(amount: int, fee: int) -> None:
    assert units.fee(amount) == fee


@pytest.mark.parametrize(
    ("amount", "fee"),
    [
        (Money(1999, "EUR"), 85),
        (Money(500, "JPY"), 47),
        (Money(1_234_500, "HUF"), 34_200),
        (Money(29_900, "TWD"), 4_200),
    ],
)
async def test_the_books_hold_iso_minor_units(shop: Shop, amount: Money, fee: int) -> None:
    _, capture, api = await captured(shop, amount)

    assert shop.twin.books() == (
        BookEntry(capture, "capture", amount.minor, amount.currency, "pay_1"),
        BookEntry(capture, "fee", -fee, amount.currency, "pay_1"),
    )
    told = json.loads(api.ask("GET", f"/v2/payments/captures/{capture}").body)
    shown = told["seller_receivable_breakdown"]
    found = await shop.gateway.fetch(told["supplementary_data"]["related_ids"]["order_id"])
    assert found.fee == Money(fee, amount.currency)
    assert shown["gross_amount"] == told["amount"]


async def test_a_pending_capture_has_no_fee_and_no_entry_until_it_clears(shop: Shop) -> None:
    ref = await shop.approved(funding="pending")
    pending = await shop.gateway.capture(ref, idempotency_key="capture-1", amount=EUR_1999)

    assert (pending.fee, shop.twin.books()) == (None, ())
    shop.clock.pass_seconds(3 * 24 * 3600)
    shop.twin.take_webhooks(now=shop.clock.now())
    assert [entry.kind for entry in shop.twin.books()] == ["capture", "fee"]


async def test_the_balance_after_everything(shop: Shop) -> None:
    ref, capture, api = await captured(shop)
    made = json.loads(api.ask("POST", f"/v2/payments/captures/{capture}/refund", euros("5.00")).body)["id"]
    control(shop, "fail_refund", refund=made)
    control(shop, "dashboard_refund", order=ref, amount="2.00")
    won = control(shop, "open_dispute", order=ref, amount="1.00")["dispute"]
    control(shop, "close_dispute", dispute=won, outcome="won")
    lost = control(shop, "open_dispute", order=ref, stage="INQUIRY")["dispute"]
    control(shop, "close_dispute", dispute=lost, outcome="lost")

    kinds = [(entry.kind, entry.minor) for entry in shop.twin.books()]

    assert kinds == [
        ("capture", 1999),
        ("fee", -85),
        ("refund", -500),
        ("refund_failed", 500),
        ("refund", -200),
        ("dispute_opened", -100),
        ("dispute_won", 100),
        ("dispute_opened", -1799),
        ("dispute_lost", 0),
    ]
    assert api.refused("POST", f"/v2/payments/captures/{capture}/refund", euros("0.01")) == "CAPTURE_FULLY_REFUNDED"


# --- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "issue"),
    [
        (euros("20.00"), "REFUND_AMOUNT_EXCEEDED"),
        (euros("0.00"), "CANNOT_BE_ZERO_OR_NEGATIVE"),
        (euros("-1.00"), "CANNOT_BE_ZERO_OR_NEGATIVE"),
        (euros("1.999"), "DECIMAL_PRECISION"),
        (euros("1.00", "USD"), "REFUND_CAPTURE_CURRENCY_MISMATCH"),
        ({"amount": 7}, "MISSING_REQUIRED_PARAMETER"),
        ({"custom_id": ""}, "INVALID_STRING_LENGTH"),
        ({"custom_id": "x" * 128}, "INVALID_STRING_LENGTH"),
        ([], "MALFORMED_REQUEST_JSON"),
    ],
)
async def test_refused_refunds_change_nothing(shop: Shop, body: Any, issue: str) -> None:
    _, capture, api = await captured(shop)
    before = shop.twin.books()

    assert api.refused("POST", f"/v2/payments/captures/{capture}/refund", body) == issue

    assert shop.twin.books() == before
    assert json.loads(shop.twin.dump())["refunds"] == {}


async def test_an_empty_refund_gives_back_all_that_is_left(shop: Shop) -> None:
    ref, capture, api = await captured(shop)
    api.ask("POST", f"/v2/payments/captures/{capture}/refund", euros("5.00"))

    rest = json.loads(api.ask("POST", f"/v2/payments/captures/{capture}/refund", {}).body)

    assert rest["amount"]["value"] == "14.99"
    assert rest["seller_payable_breakdown"]["total_refunded_amount"]["value"] == "19.99"
    found = await shop.gateway.fetch(ref)
    assert found.raw_status == "COMPLETED/REFUNDED"


async def test_a_refunds_request_id_stands_for_one_body(shop: Shop) -> None:
    _, capture, api = await captured(shop)
    path, key = f"/v2/payments/captures/{capture}/refund", {"paypal-request-id": "refund-1"}

    first = api.ask("POST", path, euros("5.00"), headers=key)
    again = api.ask("POST", path, euros("5.00"), headers=key)
    other = api.ask("POST", path, euros("6.00"), headers=key)

    assert (first.status, again.status, other.status) == (201, 200, 422)
    assert json.loads(first.body)["id"] == json.loads(again.body)["id"]
    assert sum(entry.kind == "refund" for entry in shop.twin.books()) == 1


async def test_steps_that_do_not_match_the_intent_are_refused(shop: Shop) -> None:
    ref = await shop.approved()
    api = Api(shop)

    assert api.refused("POST", f"/v2/checkout/orders/{ref}/authorize", {}) == "ACTION_DOES_NOT_MATCH_INTENT"
    assert (await shop.gateway.fetch(ref)).raw_status == "APPROVED"


@pytest.mark.parametrize("kind", ["captures", "authorizations", "refunds"])
async def test_unknown_payments_are_not_found(shop: Shop, kind: str) -> None:
    await shop.approved()

    assert Api(shop).refused("GET", f"/v2/payments/{kind}/3C679366HH908993F") == "INVALID_RESOURCE_ID"


@pytest.mark.parametrize(
    "query", ["page_size=0", "page_size=51", "page_size=x", "next_page_token=x", "next_page_token=AAAA"]
)
async def test_a_wrong_list_query_is_refused(shop: Shop, query: str) -> None:
    await shop.approved()

    assert Api(shop).refused("GET", f"/v1/customer/disputes?{query}") == "INVALID_PARAMETER_VALUE"


async def test_disputes_and_refunds_need_a_token(shop: Shop) -> None:
    _, capture, api = await captured(shop)
    api.headers.pop("authorization")

    assert api.ask("GET", "/v1/customer/disputes").status == 401
    assert api.ask("POST", f"/v2/payments/captures/{capture}/refund", {}).status == 401
    assert not any(entry.kind == "refund" for entry in shop.twin.books())


# --- Controls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("no_such_thing", {}),
        ("clear_pending", {"order": "{order}"}),
        ("clear_pending", {"order": "{order}", "status": "MAYBE"}),
        ("clear_pending", {"order": "X"}),
        ("clear_pending", {}),
        ("clear_pending", {"order": "{order}", "more": "x"}),
        ("dashboard_refund", {"order": "{order}", "amount": "20.00"}),
        ("dashboard_refund", {"order": "{order}", "amount": "1.999"}),
        ("dashboard_refund", {"order": "{order}", "amount": "five"}),
        ("pend_refunds", {"on": "perhaps"}),
        ("finish_refund", {"refund": "X"}),
        ("fail_refund", {"refund": "X"}),
        ("open_dispute", {"order": "{order}", "stage": "WAR"}),
        ("open_dispute", {"order": "{order}", "amount": "20.00"}),
        ("escalate_dispute", {"dispute": "X"}),
        ("close_dispute", {"dispute": "X", "outcome": "won"}),
        ("expire_authorization", {"order": "{order}"}),
        ("reverse_approval", {"order": "{order}"}),
        ("revoke_tokens", {"all": "true"}),
    ],
)
async def test_a_control_that_cannot_be_done_says_why_and_changes_nothing(
    shop: Shop, name: str, params: dict[str, str]
) -> None:
    ref, _, _ = await captured(shop)
    before = json.loads(shop.twin.dump())

    with pytest.raises(ValueError, match=r"."):
        control(shop, name, **{key: value.format(order=ref) for key, value in params.items()})

    after = json.loads(shop.twin.dump())
    assert {**after, "count": 0} == {**before, "count": 0}


async def test_what_has_ended_cannot_end_again(shop: Shop) -> None:
    ref, capture, api = await captured(shop)
    control(shop, "pend_refunds", on="yes")
    refund = json.loads(api.ask("POST", f"/v2/payments/captures/{capture}/refund", euros("5.00")).body)["id"]
    control(shop, "finish_refund", refund=refund)
    dispute = control(shop, "open_dispute", order=ref)["dispute"]
    with pytest.raises(ValueError, match="inquiry"):
        control(shop, "escalate_dispute", dispute=dispute)
    with pytest.raises(ValueError, match="won or lost"):
        control(shop, "close_dispute", dispute=dispute, outcome="draw")
    control(shop, "close_dispute", dispute=dispute, outcome="won")
    books = shop.twin.books()

    for name, params in (
        ("finish_refund", {"refund": refund}),
        ("close_dispute", {"dispute": dispute, "outcome": "lost"}),
        ("escalate_dispute", {"dispute": dispute}),
    ):
        with pytest.raises(ValueError, match=r"RESOLVED|COMPLETED"):
            control(shop, name, **params)
    control(shop, "fail_refund", refund=refund)
    with pytest.raises(ValueError, match="FAILED"):
        control(shop, "fail_refund", refund=refund)

    assert len(shop.twin.books()) == len(books) + 1


async def test_tokens_can_be_revoked_and_are_renewed(shop: Shop) -> None:
    ref = await shop.approved()

    assert control(shop, "revoke_tokens") == {"revoked": "1"}

    assert (await shop.gateway.fetch(ref)).ref == ref
    assert shop.line.count("/v1/oauth2/token") == 2


def test_every_control_is_described() -> None:
    twin = PayPalSandbox(HOME + "/paypal")

    assert len({one.name for one in twin.controls}) == len(twin.controls) == 13
    for one in twin.controls:
        assert one.summary.endswith(".")
        assert all(one.params.values())


# --- Webhooks and certificates ---------------------------------------------------------------------------------------


async def test_webhooks_look_like_paypals(shop: Shop) -> None:
    ref, _, _ = await captured(shop)

    requests = shop.twin.take_webhooks(now=shop.clock.now())

    for request in requests:
        event = json.loads(request.body)
        assert (request.method, request.url) == ("POST", "/webhooks/paypal")
        assert set(event) == {
            *("id", "event_version", "create_time", "resource_type", "resource_version"),
            *("event_type", "summary", "resource", "links"),
        }
        assert event["id"].startswith("WH-")
        assert set(request.headers) >= {"paypal-transmission-sig", "paypal-cert-url", "paypal-auth-algo"}
        assert request.headers["paypal-cert-url"].startswith(HOME + "/paypal/v1/notifications/certs/CERT-")
    assert len({request.headers["paypal-transmission-id"] for request in requests}) == len(requests) == 3
    assert ref in requests[0].body.decode()
    assert shop.twin.take_webhooks(now=shop.clock.now()) == []


async def test_a_restarted_twin_keeps_its_key_and_its_news(shop: Shop) -> None:
    await captured(shop)
    first = shop.twin.take_webhooks(now=shop.clock.now())
    ref = (await shop.gateway.create(shop.request(key="create-2"))).snapshot.ref
    shop.twin.approve(ref, now=shop.clock.now())
    other = PayPalSandbox(HOME + "/paypal")
    other.load(shop.twin.dump())
    shop.line.core = other

    (late,) = other.take_webhooks(now=shop.clock.now())

    assert late.headers["paypal-cert-url"] == first[0].headers["paypal-cert-url"]
    for request in (*first, late):
        assert (await shop.gateway.read_webhook(dict(request.headers), request.body)).relevant
    assert json.loads(other.dump())["keys"] == json.loads(shop.twin.dump())["keys"]


async def test_certificates_need_no_token_and_hold_no_private_key(shop: Shop) -> None:
    await captured(shop)
    (request, *_) = shop.twin.take_webhooks(now=shop.clock.now())
    path = request.headers["paypal-cert-url"].removeprefix(HOME + "/paypal")

    for where in (path, "/v1/notifications/certs/ca"):
        answer = shop.twin.handle(HttpRequest("GET", where), now=shop.clock.now())
        assert answer.status == 200
        assert answer.body.startswith(b"-----BEGIN CERTIFICATE-----")
        assert b"PRIVATE" not in answer.body
    for where in ("/v1/notifications/certs/other", "/v1/notifications/certs/", "/v1/notifications/certs/key"):
        assert shop.twin.handle(HttpRequest("GET", where), now=shop.clock.now()).status == 404


@pytest.mark.parametrize("now", [1_000_000_000, 1_790_000_000, 4_000_000_000])
async def test_the_certificate_covers_any_clock(shop: Shop, now: int) -> None:
    shop.clock.at = now * SECOND
    await captured(shop)

    for request in shop.twin.take_webhooks(now=shop.clock.now()):
        assert (await shop.gateway.read_webhook(dict(request.headers), request.body)).relevant


async def test_a_twins_webhook_is_refused_when_it_is_touched(shop: Shop) -> None:
    await captured(shop)
    (request, *_) = shop.twin.take_webhooks(now=shop.clock.now())

    with pytest.raises(WebhookRefused):
        await shop.gateway.read_webhook(dict(request.headers), request.body.replace(b"pay_1", b"pay_2"))


def test_an_old_state_is_completed() -> None:
    """As written before there were refunds, fees and authorizations."""
    order = {
        "id": "A1",
        "status": "COMPLETED",
        "named_source": True,
        "unit": {"custom_id": "pay_1", "amount": {"currency_code": "EUR", "value": "19.99"}},
        "return_url": None,
        "cancel_url": None,
        "funding": "balance",
        "approved": 1,
        "declines": 0,
        "capture": {"id": "C1", "status": "COMPLETED", "reason": None, "created": 1, "updated": 1},
        "created": 1,
        "updated": 1,
    }
    open_order = {**order, "id": "A2", "status": "CREATED", "funding": None, "capture": None}
    requests = {"k": {"at": 1, "print": "x", "order": "A1"}}
    old = {"count": 3, "orders": {"A1": order, "A2": open_order}, "tokens": {}, "requests": requests}
    twin = PayPalSandbox(HOME + "/paypal")

    twin.load(json.dumps(old))

    assert [(entry.object, entry.kind, entry.minor) for entry in twin.books()] == [
        ("C1", "capture", 1999),
        ("C1", "fee", -85),
    ]
    assert twin.control("dashboard_refund", {"order": "A1"}, now=2)["status"] == "COMPLETED"
    again = PayPalSandbox(HOME + "/paypal")
    again.load(twin.dump())
    assert (again.dump(), again.books()) == (twin.dump(), twin.books())
