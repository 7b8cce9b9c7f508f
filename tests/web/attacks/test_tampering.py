"""What a buyer's browser may say has no weight: prices, amounts, gateways, outcomes, and whose payment it is.

Seen from outside on the running shop, with the twins' own books as witness. The same holes dug into the core are found
by tests/flows (a browser that claims success, keys of another account, ids and amounts that contradict ours), fifty
completes at once by tests/web/test_api.py, and strangers' ids by test_access.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.webshop import Answer, Client, WebShop

GATEWAYS = ["stripe", "paypal"]


@pytest.fixture
async def buyer(quick_shop: WebShop) -> AsyncIterator[Client]:
    async with quick_shop.client() as client:
        assert (await client.sign_in()).status == 201
        yield client


@pytest.fixture
async def staff(quick_shop: WebShop) -> AsyncIterator[Client]:
    async with quick_shop.client() as client:
        assert (await client.sign_in_as_staff()).status == 201
        yield client


def captures(shop: WebShop) -> list[tuple[int, str]]:
    """Every capture in the gateways' own books: minor units and currency."""
    entries = [entry for twin in shop.twins.values() for entry in twin.books()]
    return [(entry.minor, entry.currency) for entry in entries if entry.kind == "capture"]


async def status(client: Client, order: Any) -> str:
    return str((await client.get(f"/api/orders/{order['id']}")).json["status"])


async def come_back(client: Client, address: str) -> Answer:
    """The address that a gateway leads to; what the gateway added is taken off by a redirect first."""
    answer = await client.page(address)
    location = answer.headers.get("Location", "")
    return await client.page(address.partition("?")[0] + location) if location.startswith("?") else answer


async def paid(shop: WebShop, client: Client, gateway: str = "stripe", sku: str = "MUG-01") -> tuple[Any, Any]:
    """A paid order, and its payment."""
    order = await client.order(sku)
    started = await client.start(order["id"], gateway)
    shop.agree(started)
    assert (await client.complete(started["id"])).json["order_status"] == "paid"
    return order, started


CLAIMS = [
    "redirect_status=succeeded",
    "redirect_status=succeeded&payment_intent=pi_1&payment_intent_client_secret=pi_1_secret_2",
    "status=succeeded&paid=true&amount=1800",
    "token=TOKEN&PayerID=PAYER",
    "order_status=paid",
]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_browser_that_claims_success_pays_nothing(quick_shop: WebShop, buyer: Client, gateway: str) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], gateway)
    for claim in CLAIMS:
        came_back = await come_back(buyer, f"/orders/{order['id']}/return?payment={started['id']}&{claim}")
        assert came_back.status == 303
        assert "succeeded" not in came_back.headers["Location"]
        assert "secret" not in came_back.headers["Location"]
    for body in ({"status": "succeeded"}, {"paid": True}, {"amount": 1}, {"captured": 1800, "currency": "EUR"}):
        answer = await buyer.post(f"/api/payments/{started['id']}/complete", body)
        assert answer.is_problem(422, "invalid_request"), body
    assert (await buyer.complete(started["id"])).json["status"] == "awaiting_buyer"
    assert (await status(buyer, order), captures(quick_shop)) == ("open", [])


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_the_payment_of_a_cheap_order_does_not_pay_a_dear_one(
    quick_shop: WebShop, buyer: Client, gateway: str
) -> None:
    dear = await buyer.order("PHONES-01")
    its_own = await buyer.start(dear["id"], gateway)
    cheap, payment = await paid(quick_shop, buyer, gateway, "TEA-01")
    swapped = await buyer.page(f"/orders/{dear['id']}/return?payment={payment['id']}")
    assert swapped.status == 404
    for body in ({"order_id": dear["id"]}, {"order": dear["id"]}):
        assert (await buyer.post(f"/api/payments/{payment['id']}/complete", body)).status == 422
    assert (await buyer.complete(payment["id"])).json["order_status"] == "paid"
    assert (await buyer.complete(its_own["id"])).json["order_status"] == "open"
    assert (await status(buyer, cheap), await status(buyer, dear)) == ("paid", "open")
    assert captures(quick_shop) == [(990, "EUR")]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_return_address_that_is_opened_again_changes_nothing(
    quick_shop: WebShop, buyer: Client, gateway: str
) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], gateway)
    quick_shop.agree(started)
    address = f"/orders/{order['id']}/return?payment={started['id']}&token=T&PayerID=P&redirect_status=succeeded"
    together = await asyncio.gather(*(come_back(buyer, address) for _ in range(5)))
    assert {one.status for one in together} == {303}
    before = (await buyer.get(f"/api/orders/{order['id']}")).text
    for _ in range(3):
        assert (await come_back(buyer, address)).headers["Location"] == f"/orders/{order['id']}"
    async with quick_shop.client() as thief:
        await thief.sign_up("thief@example.com")
        assert (await come_back(thief, address)).status == 404
    assert (await buyer.get(f"/api/orders/{order['id']}")).text == before
    assert (await status(buyer, order), captures(quick_shop)) == ("paid", [(1800, "EUR")])


SURPLUS: list[dict[str, Any]] = [
    {"price": 1},
    {"unit_price": 1},
    {"currency": "JPY"},
    {"discount": 100},
    {"total": 1},
    {"user_id": "usr_1"},
]


async def test_prices_and_totals_are_the_catalogues_whatever_is_sent(quick_shop: WebShop, buyer: Client) -> None:
    line: dict[str, Any] = {"sku": "PHONES-01", "quantity": 1}
    for surplus in SURPLUS:
        for body in ({"lines": [{**line, **surplus}]}, {"lines": [line], **surplus}):
            assert (await buyer.post("/api/orders", body)).is_problem(422, "invalid_request"), body
    order = await buyer.order("PHONES-01")
    for surplus in ({"amount": 1}, {"currency": "JPY"}, {"order_id": "ord_1"}, {"status": "captured"}, {"due": 1}):
        refused = await buyer.post(f"/api/orders/{order['id']}/payments", {"gateway": "stripe", **surplus})
        assert refused.is_problem(422, "invalid_request"), surplus
    started = await buyer.start(order["id"], "stripe")
    quick_shop.agree(started)
    await buyer.complete(started["id"])
    assert captures(quick_shop) == [(12900, "EUR")]


async def test_hidden_fields_of_the_pages_forms_set_no_price_and_no_buyer(quick_shop: WebShop, buyer: Client) -> None:
    lies = {"price": "1", "amount": "1", "total": "0.01", "currency": "JPY", "user_id": "usr_1", "status": "paid"}
    added = await buyer.form("/basket/add", sku="PHONES-01", quantity="1", **lies)
    assert added.status == 303
    placed = await buyer.form("/orders", **lies, order_id="ord_1", lines="[]", sku="TEA-01", quantity="0")
    address = placed.headers["Location"].removesuffix("/pay")
    order = (await buyer.get("/api" + address)).json
    assert (order["total"], order["currency"], order["status"]) == (12900, "EUR", "open")
    assert [line["sku"] for line in order["lines"]] == ["PHONES-01"]


@pytest.mark.parametrize("quantity", ["-1", "0", "1001", "1e2", "٣", "1.0", " 1", "+1", "0x1", "", "9" * 400])
async def test_a_quantity_by_a_form_is_a_whole_number_within_bounds(buyer: Client, quantity: str) -> None:
    refused = await buyer.form("/basket/add", sku="MUG-01", quantity=quantity)
    assert refused.status == 422
    assert "Nothing in it yet" in (await buyer.page("/basket")).text


GATEWAY_NAMES = [
    "STRIPE",
    "stripe ",
    "Stripe",
    "../paypal",
    "stripe/../paypal",
    "nobody",
    "",
    "stripe\n",
    "\u0455tripe",
    "0",
]


async def test_a_gateway_that_is_not_offered_can_not_be_named(quick_shop: WebShop, buyer: Client) -> None:
    order = await buyer.order()
    for name in GATEWAY_NAMES:
        answer = await buyer.post(f"/api/orders/{order['id']}/payments", {"gateway": name})
        assert answer.is_problem(422, "invalid_request"), name
        sent = await buyer.request("POST", f"/webhooks/{name.strip() or '%20'}", data=b"{}")
        assert sent.status in {400, 404}, name
    assert (await buyer.get(f"/api/orders/{order['id']}")).json["payments"] == []


async def test_a_refund_is_bounded_by_what_was_captured_whatever_the_form_says(
    quick_shop: WebShop, buyer: Client, staff: Client
) -> None:
    order, payment = await paid(quick_shop, buyer)
    other, _ = await paid(quick_shop, buyer, sku="TEA-01")
    path = f"/api/payments/{payment['id']}/refunds"
    for body in ({"amount": 1801}, {"amount": 10**12}):
        assert (await staff.post(path, body)).is_problem(409, "refund_too_large"), body
    for surplus in ({"currency": "JPY"}, {"payment_id": "pay_1"}, {"order_id": other["id"]}, {"to": "attacker"}):
        assert (await staff.post(path, {"amount": 100, **surplus})).is_problem(422, "invalid_request"), surplus
    lies = {"currency": "KWD", "payment_id": "pay_1", "order_id": other["id"], "capture": "ch_1", "state": "succeeded"}
    key = "form_" + "0" * 26
    sent = await staff.form(f"/staff/payments/{payment['id']}/refund", amount="1.00", key=key, reason="", **lies)
    assert sent.headers["Location"] == f"/staff/orders/{order['id']}"
    again = await staff.form(f"/staff/payments/{payment['id']}/refund", amount="18.00", key=key, reason="", **lies)
    assert again.status == 303
    refunds = [entry for entry in quick_shop.twins["stripe"].books() if entry.kind == "refund"]
    assert [(-entry.minor, entry.currency) for entry in refunds] == [(100, "EUR")]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_completes_returns_and_news_at_the_same_moment_move_the_money_once(
    quick_shop: WebShop, buyer: Client, gateway: str
) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], gateway)
    quick_shop.twins[gateway].take_webhooks(now=quick_shop.clock.now())
    quick_shop.agree(started)
    news = quick_shop.twins[gateway].take_webhooks(now=quick_shop.clock.now())
    address = f"/orders/{order['id']}/return?payment={started['id']}"
    json_type = {"content-type": "application/json"}
    told = [buyer.request("POST", one.url, data=one.body, headers={**one.headers, **json_type}) for one in news]
    answers = await asyncio.gather(
        *(buyer.complete(started["id"]) for _ in range(8)), *(buyer.page(address) for _ in range(8)), *told
    )
    assert not [answer.status for answer in answers if answer.status >= 500]
    assert (await buyer.complete(started["id"])).json["order_status"] == "paid"
    assert captures(quick_shop) == [(1800, "EUR")]
