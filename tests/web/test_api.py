"""The HTTP contract over a real server, on both databases: paths, JSON, words, statuses and problem codes."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from support.webshop import Client, WebShop

GATEWAYS = ["stripe", "paypal"]
ISO_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_the_catalogue_is_public_and_counts_minor_units(shop: WebShop) -> None:
    async with shop.client() as anybody:
        answer = await anybody.get("/api/products")
    assert answer.status == 200
    mug = next(product for product in answer.json if product["sku"] == "MUG-01")
    assert mug == {
        "sku": "MUG-01",
        "name": "Stoneware mug",
        "description": mug["description"],
        "image": "/assets/products/mug.svg",
        "price": 1800,
        "currency": "EUR",
        "available": 40,
    }


async def test_an_order_has_the_catalogues_prices(buyer: Client) -> None:
    lines = [{"sku": "TEA-01", "quantity": 2}, {"sku": "MUG-01", "quantity": 1}, {"sku": "TEA-01", "quantity": 1}]
    answer = await buyer.post("/api/orders", {"lines": lines})
    assert answer.status == 201
    order = answer.json
    assert (order["status"], order["refund_status"]) == ("open", "none")
    assert (order["total"], order["due"], order["currency"]) == (3 * 990 + 1800, 3 * 990 + 1800, "EUR")
    assert order["lines"] == [
        {"sku": "MUG-01", "name": "Stoneware mug", "quantity": 1, "unit_price": 1800},
        {"sku": "TEA-01", "name": "Garden tea", "quantity": 3, "unit_price": 990},
    ]
    assert ISO_UTC.fullmatch(order["created_at"])
    assert (order["payments"], order["paid_at"]) == ([], None)
    assert (await buyer.get(f"/api/orders/{order['id']}")).json == order
    assert (await buyer.get("/api/orders")).json == [order]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_buyer_pays_an_order(shop: WebShop, buyer: Client, gateway: str) -> None:
    order = await buyer.order("MUG-01", 2)
    answer = await buyer.post(f"/api/orders/{order['id']}/payments", {"gateway": gateway})
    assert answer.status == 201
    started = answer.json
    assert started.keys() == {"id", "gateway", "status", "client"}
    assert (started["gateway"], started["status"]) == (gateway, "awaiting_buyer")
    expected = {"stripe": {"client_secret", "publishable_key"}, "paypal": {"order_id", "client_id"}}
    assert started["client"].keys() == expected[gateway]
    assert await _available(buyer, "MUG-01") == 38, "the goods are held"

    again = await buyer.post(f"/api/orders/{order['id']}/payments", {"gateway": gateway})
    assert (again.status, again.json) == (200, started)

    claimed = await buyer.complete(started["id"])
    assert (claimed.status, claimed.json["status"], claimed.json["order_status"]) == (200, "awaiting_buyer", "open")

    shop.agree(started)
    result = await buyer.complete(started["id"])
    assert result.status == 200
    assert result.json.keys() == {"status", "order_status", "recoverable", "message"}
    assert (result.json["status"], result.json["order_status"]) == ("captured", "paid")
    assert result.json["recoverable"] is False

    paid = (await buyer.get(f"/api/orders/{order['id']}")).json
    assert (paid["status"], paid["refund_status"]) == ("paid", "none")
    assert ISO_UTC.fullmatch(paid["paid_at"])
    assert paid["payments"] == [
        {
            "id": started["id"],
            "gateway": gateway,
            "status": "captured",
            "refund_status": "none",
            "pending_reason": None,
            "disputed": False,
            "refunds": [],
        }
    ]
    payment = (await buyer.get(f"/api/payments/{started['id']}")).json
    assert payment.keys() == {
        "id", "order_id", "gateway", "status", "refund_status", "amount", "currency", "created_at"
    }  # fmt: skip
    assert (payment["amount"], payment["currency"]) == (3600, "EUR")

    refused = await buyer.post(f"/api/orders/{order['id']}/payments", {"gateway": gateway})
    assert refused.is_problem(409, "already_paid")
    repeated = await buyer.complete(started["id"])
    assert repeated.json["order_status"] == "paid"
    assert await _available(buyer, "MUG-01") == 38


async def test_a_decline_is_a_success_of_the_call_and_can_be_mended(shop: WebShop, buyer: Client) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], "stripe")
    declined = shop.confirm(started["client"], card="pm_card_visa_chargeDeclinedInsufficientFunds")
    assert declined.status == 402
    result = await buyer.complete(started["id"])
    assert result.status == 200
    assert result.json["recoverable"] is True
    assert result.json["order_status"] == "open"
    assert "insufficient_funds" not in result.json["message"], "a sentence, not a code"
    again = await buyer.start(order["id"], "stripe")
    assert again["id"] == started["id"]
    shop.agree(again)
    assert (await buyer.complete(again["id"])).json["order_status"] == "paid"


async def test_an_unpaid_order_is_canceled_and_its_goods_are_free(buyer: Client) -> None:
    order = await buyer.order("PHONES-01", 4)
    await buyer.start(order["id"], "stripe")
    assert await _available(buyer, "PHONES-01") == 0
    answer = await buyer.post(f"/api/orders/{order['id']}/cancel")
    assert (answer.status, answer.json) == (200, {"id": order["id"], "status": "canceled"})
    assert await _available(buyer, "PHONES-01") == 4
    refused = await buyer.post(f"/api/orders/{order['id']}/payments", {"gateway": "stripe"})
    assert refused.is_problem(409, "order_closed")


async def test_a_payment_is_canceled_and_the_order_stays(buyer: Client) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], "paypal")
    answer = await buyer.post(f"/api/payments/{started['id']}/cancel")
    assert (answer.status, answer.json["status"], answer.json["order_status"]) == (200, "canceled", "open")
    assert (await buyer.get(f"/api/payments/{started['id']}")).json["status"] == "canceled"


async def test_sold_out_is_heard_before_paying(shop: WebShop, buyer: Client, stranger: Client) -> None:
    first, second = await buyer.order("PHONES-01", 4), await stranger.order("PHONES-01", 1)
    await buyer.start(first["id"], "stripe")
    refused = await stranger.post(f"/api/orders/{second['id']}/payments", {"gateway": "stripe"})
    assert refused.is_problem(409, "sold_out")
    assert (await stranger.get(f"/api/orders/{second['id']}")).json["payments"] == []


async def test_strangers_find_nothing(shop: WebShop, buyer: Client, stranger: Client) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], "stripe")
    shop.agree(started)
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"/api/orders/{order['id']}", None),
        ("POST", f"/api/orders/{order['id']}/cancel", {}),
        ("POST", f"/api/orders/{order['id']}/payments", {"gateway": "stripe"}),
        ("GET", f"/api/payments/{started['id']}", None),
        ("POST", f"/api/payments/{started['id']}/complete", {}),
        ("POST", f"/api/payments/{started['id']}/cancel", {}),
    ]
    for method, path, body in calls:
        answer = await stranger.request(method, path, json=body)
        assert answer.is_problem(404, "not_found"), path
        unknown = path.replace(order["id"], "ord_" + "0" * 26).replace(started["id"], "pay_" + "0" * 26)
        assert (await stranger.request(method, unknown, json=body)).text == answer.text, "ids can't be probed"
    assert (await stranger.get("/api/orders")).json == []
    for page in (f"/orders/{order['id']}", f"/orders/{order['id']}/pay"):
        assert (await stranger.page(page)).status == 404
    back = await stranger.page(f"/orders/{order['id']}/return?payment={started['id']}")
    assert back.status == 404
    assert (await buyer.get(f"/api/orders/{order['id']}")).json["status"] == "open", "nobody settled it"


async def test_without_a_session_nothing_personal_is_answered(shop: WebShop, buyer: Client) -> None:
    order = await buyer.order()
    async with shop.client() as nobody:
        for method, path, body in (
            ("GET", "/api/orders", None),
            ("POST", "/api/orders", {"lines": [{"sku": "MUG-01", "quantity": 1}]}),
            ("GET", f"/api/orders/{order['id']}", None),
            ("POST", f"/api/orders/{order['id']}/payments", {"gateway": "stripe"}),
            ("PATCH", "/api/products/MUG-01", {"adjust": 1}),
        ):
            answer = await nobody.request(method, path, json=body)
            assert answer.is_problem(401, "not_signed_in"), path
        for page in ("/orders", f"/orders/{order['id']}", f"/orders/{order['id']}/pay", "/staff"):
            turned_away = await nobody.page(page)
            assert turned_away.status == 303
            assert turned_away.headers["Location"].startswith("/sign-in?next=%2F")


async def test_staff_adjust_the_stock_and_buyers_do_not(shop: WebShop, buyer: Client) -> None:
    refused = await buyer.request("PATCH", "/api/products/MUG-01", json={"adjust": 5})
    assert refused.is_problem(403, "forbidden")
    assert await _available(buyer, "MUG-01") == 40
    assert (await buyer.page("/staff")).status == 403
    async with shop.client() as staff:
        await staff.sign_in_as_staff()
        adjusted = await staff.request("PATCH", "/api/products/MUG-01", json={"adjust": -15})
        assert (adjusted.status, adjusted.json["available"]) == (200, 25)
        too_much = await staff.request("PATCH", "/api/products/MUG-01", json={"adjust": -26})
        assert too_much.is_problem(422, "invalid_request")
        assert (await staff.request("PATCH", "/api/products/NONE-1", json={"adjust": 1})).is_problem(404, "not_found")
        order = await buyer.order()
        assert (await staff.get(f"/api/orders/{order['id']}")).status == 200, "staff see every order"
        meddling = await staff.post(f"/api/orders/{order['id']}/payments", {"gateway": "stripe"})
        assert meddling.is_problem(404, "not_found")
        assert (await staff.page("/staff")).status == 200
    assert await _available(buyer, "MUG-01") == 25


async def test_many_completes_at_once_pay_once(shop: WebShop, buyer: Client) -> None:
    order = await buyer.order("MUG-01", 3)
    started = await buyer.start(order["id"], "paypal")
    shop.agree(started)
    answers = await asyncio.gather(*(buyer.complete(started["id"]) for _ in range(20)))
    assert {answer.status for answer in answers} <= {200, 202}
    assert (await buyer.complete(started["id"])).json["order_status"] == "paid"
    assert await _available(buyer, "MUG-01") == 37


async def test_it_is_ready_when_its_database_is(shop: WebShop) -> None:
    async with shop.client() as probe:
        assert (await probe.get("/healthz")).json == {"status": "ok"}
        ready = await probe.get("/readyz")
        assert (ready.status, ready.json["status"]) == (200, "ready")


async def _available(client: Client, sku: str) -> int:
    products = (await client.get("/api/products")).json
    return next(int(product["available"]) for product in products if product["sku"] == sku)
