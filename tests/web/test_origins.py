"""Front ends on other origins: who is listed, what they may read and send, and where a redirect may lead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from paidonce.config import Settings, load_settings
from paidonce.errors import ConfigError, InvalidRequest
from paidonce.web.origins import checked_return_url
from support.webshop import SECRET_KEY, Client, WebShop, running_shop

LISTED = "https://www.shop.example"
LOCAL = "http://127.0.0.1:8010"
STRANGER = "https://evil.example"
WORDS = ("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Allow-Methods")
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


def settings_with(origins: str) -> Settings:
    return load_settings({"PAIDONCE_SECRET_KEY": SECRET_KEY, "PAIDONCE_ALLOWED_ORIGINS": origins})


@pytest.fixture
def open_shop(seeded_url: str) -> Iterator[WebShop]:
    """A shop that lists two front ends."""
    with running_shop(seeded_url, PAIDONCE_ALLOWED_ORIGINS=f"{LISTED}, {LOCAL}") as shop:
        yield shop


# ── The setting ──────────


def test_nobody_is_listed_by_default() -> None:
    assert settings_with("").front_ends == frozenset()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://www.shop.example", {"https://www.shop.example"}),
        (" https://WWW.Shop.example/ ,http://localhost:5173", {"https://www.shop.example", "http://localhost:5173"}),
        ("https://a.example:443,http://127.0.0.1:80", {"https://a.example", "http://127.0.0.1"}),
        ("http://[::1]:8010", {"http://[::1]:8010"}),
        ("https://xn--bcher-kva.example:8443", {"https://xn--bcher-kva.example:8443"}),
    ],
)
def test_origins_are_kept_as_browsers_write_them(written: str, meant: set[str]) -> None:
    assert settings_with(written).front_ends == meant


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("*", "origin 1 is a pattern"),
        ("https://*.shop.example", "name each front end"),
        ("https://a.example,*", "origin 2 is a pattern"),
        ("http://www.shop.example", "needs https"),
        ("http://127.0.0.1.canary.example", "needs https"),
        ("https://www.shop.example/canary", "without a path"),
        ("https://www.shop.example?canary=1", "without a path"),
        ("https://canary@www.shop.example", "without a path"),
        ("https://www.shop.example:canary", "without a path"),
        ("https://bücher.example", "xn--"),
        ("https://a.example\\@canary.example", "without a path"),
        ("www.canary.example", "without a path"),
        ("null", "without a path"),
        ("file:///canary", "without a path"),
    ],
)
def test_a_wrong_origin_is_refused_with_the_fix(written: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_with(written)
    (problem,) = caught.value.problems
    assert problem.startswith("PAIDONCE_ALLOWED_ORIGINS: origin ")
    assert said in problem
    assert "canary" not in problem


# ── What the edge says ──────────


@pytest.mark.parametrize("origin", [LISTED, LOCAL])
async def test_a_listed_front_end_reads_and_writes_the_api(open_shop: WebShop, origin: str) -> None:
    async with open_shop.client() as client:
        theirs = {"origin": origin, "sec-fetch-site": "cross-site"}
        leave = await client.request("OPTIONS", "/api/session", headers={"origin": origin, **PREFLIGHT})
        assert (leave.status, leave.text) == (204, "")
        assert leave.headers["Access-Control-Allow-Methods"] == "GET, POST, PATCH, DELETE"
        assert "Content-Type" in leave.headers["Access-Control-Allow-Headers"]
        assert leave.headers["Access-Control-Max-Age"] == "600"
        signed_in = await client.post(
            "/api/session", {"email": "buyer@example.com", "password": "buyer-password"}, headers=theirs
        )
        assert signed_in.status == 201
        order = await client.order()
        for path, status in ((f"/api/orders/{order['id']}", 200), ("/api/orders/ord_nothing", 404)):
            answer = await client.get(path, headers=theirs)
            assert answer.status == status, "problems can be read as well"
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert answer.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Methods" not in answer.headers
        asset = await client.get("/assets/payment-methods.js", headers=theirs)
        assert (asset.status, asset.headers["Access-Control-Allow-Origin"]) == (200, origin)
        assert "Access-Control-Allow-Credentials" not in asset.headers


@pytest.mark.parametrize(
    "origin",
    [
        STRANGER,
        "null",
        "*",
        "",
        f"{LISTED}.evil.example",
        f"{LISTED}:444",
        f"{LISTED}/",
        LISTED.upper(),
        "http://www.shop.example",
        "https://shop.example",
        f"{LISTED} {LOCAL}",
        f"{LISTED},{LOCAL}",
        "http://127.0.0.1:80100",
    ],
)
async def test_who_is_not_listed_exactly_gets_nothing(open_shop: WebShop, origin: str) -> None:
    async with open_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        theirs = {"origin": origin, "sec-fetch-site": "cross-site"}
        leave = await client.request("OPTIONS", f"/api/orders/{order['id']}/cancel", headers={**theirs, **PREFLIGHT})
        read = await client.get(f"/api/orders/{order['id']}", headers=theirs)
        asset = await client.get("/assets/paidonce.js", headers=theirs)
        written = await client.post(f"/api/orders/{order['id']}/cancel", headers=theirs)
        started = await client.post(f"/api/orders/{order['id']}/payments", {"gateway": "stripe"}, headers=theirs)
        for answer in (leave, read, asset, written, started):
            assert not [word for word in WORDS if word in answer.headers]
            assert answer.headers["Vary"] == "Origin"
        assert leave.status == 405
        assert written.is_problem(403, "forbidden")
        assert started.is_problem(403, "forbidden")
        after = (await client.get(f"/api/orders/{order['id']}")).json
        assert (after["status"], after["payments"]) == ("open", [])


async def test_a_listed_front_end_gets_no_page_no_form_and_no_webhook(open_shop: WebShop) -> None:
    theirs = {"origin": LISTED, "sec-fetch-site": "same-site"}
    async with open_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        cancel = f"/orders/{order['id']}/cancel"
        refused = [await client.request("POST", path, headers=theirs) for path in (cancel, "/sign-out", "/basket/add")]
        assert [answer.status for answer in refused] == [403, 403, 403]
        page = await client.get(f"/orders/{order['id']}", headers={**theirs, "accept": "text/html"})
        news = await client.request("POST", "/webhooks/stripe", headers=theirs, data=b"{}")
        asked = [
            await client.request("OPTIONS", path, headers={**theirs, **PREFLIGHT})
            for path in (cancel, "/webhooks/stripe")
        ]
        for answer in (*refused, page, news, *asked):
            assert not [word for word in WORDS if word in answer.headers]
        assert [answer.status for answer in asked] == [405, 405]
        assert (await client.get(f"/api/orders/{order['id']}")).json["status"] == "open"


async def test_without_a_list_there_is_no_word_about_origins(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        for path in ("/api/products", "/assets/paidonce.js"):
            answer = await client.get(path, headers={"origin": LISTED})
            assert answer.status == 200
            assert not [word for word in (*WORDS, "Vary") if word in answer.headers]
        leave = await client.request("OPTIONS", "/api/orders", headers={"origin": LISTED, **PREFLIGHT})
        assert leave.status == 405


# ── Where a redirect leads ──────────


@pytest.mark.parametrize(
    "url",
    [
        f"{LISTED}/pay?order=1&payment={{payment}}",
        f"{LOCAL}/?payment={{payment}}",
        "http://127.0.0.1:8000/orders/1/return?payment={payment}",
        f"{LISTED}/a/b;c=1/%7Bx%7D?next=%2Fpay%3Fa&payment={{payment}}",
    ],
)
def test_a_redirect_leads_to_the_shop_or_a_listed_front_end(url: str) -> None:
    assert checked_return_url(settings_with(f"{LISTED},{LOCAL}"), url) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"{STRANGER}/?payment={{payment}}", "PAIDONCE_ALLOWED_ORIGINS"),
        (f"{LISTED}.evil.example/?payment={{payment}}", "PAIDONCE_ALLOWED_ORIGINS"),
        (f"{LISTED}@evil.example/?payment={{payment}}", "PAIDONCE_ALLOWED_ORIGINS"),
        (f"{LISTED}:444/?payment={{payment}}", "PAIDONCE_ALLOWED_ORIGINS"),
        ("http://www.shop.example/?payment={payment}", "PAIDONCE_ALLOWED_ORIGINS"),
        (f"{LISTED}?payment={{payment}}", "PAIDONCE_ALLOWED_ORIGINS"),
        ("//www.shop.example/?payment={payment}", "PAIDONCE_ALLOWED_ORIGINS"),
        ("/pay?payment={payment}", "PAIDONCE_ALLOWED_ORIGINS"),
        ("javascript:alert(1)//?payment={payment}", "PAIDONCE_ALLOWED_ORIGINS"),
        ("https:/www.shop.example/?payment={payment}", "PAIDONCE_ALLOWED_ORIGINS"),
        ("https://[/?payment={payment}", "PAIDONCE_ALLOWED_ORIGINS"),
        ("", "PAIDONCE_ALLOWED_ORIGINS"),
        (f"{LISTED}\\@evil.example/?payment={{payment}}", "percent-encoded"),
        (f"{LISTED}/\t?payment={{payment}}", "percent-encoded"),
        (f" {LISTED}/?payment={{payment}}", "percent-encoded"),
        (f"{LISTED}/ä?payment={{payment}}", "percent-encoded"),
        (f"{LISTED}/#/pay?payment={{payment}}", "percent-encoded"),
        (f"{LISTED}/pay", "payment={payment}"),
        (f"{LISTED}/pay/payment={{payment}}", "payment={payment}"),
        (f"{LISTED}/pay?payment={{payment}}&more=1", "payment={payment}"),
        (f"{LISTED}/{{payment}}?payment={{payment}}", "payment={payment}"),
        (f"{LISTED}/?a={{order}}&payment={{payment}}", "payment={payment}"),
    ],
)
def test_no_redirect_leads_anywhere_else(url: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked_return_url(settings_with(f"{LISTED},{LOCAL}"), url)
    assert said in caught.value.message
    assert "evil" not in caught.value.message


async def test_a_payment_started_by_a_front_end_comes_back_to_it(open_shop: WebShop) -> None:
    async with open_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        path = f"/api/orders/{order['id']}/payments"
        refused = await client.post(path, {"gateway": "paypal", "return_url": f"{STRANGER}/?payment={{payment}}"})
        assert refused.is_problem(422, "invalid_request")
        too_long = f"{LISTED}/{'a' * 1000}?payment={{payment}}"
        assert (await client.post(path, {"gateway": "paypal", "return_url": too_long})).status == 422
        assert (await client.get(f"/api/orders/{order['id']}")).json["payments"] == [], "nothing was begun"
        back = {"gateway": "paypal", "return_url": f"{LOCAL}/pay?order=1&payment={{payment}}"}
        started = (await client.post(path, back, headers={"origin": LOCAL})).json
        expected = f"{LOCAL}/pay?order=1&payment={started['id']}"
        ours = _paypal_order(open_shop, started)
        assert (ours["return_url"], ours["cancel_url"]) == (expected, expected)


async def test_without_a_return_url_the_shops_own_page_takes_the_buyer_back(open_shop: WebShop) -> None:
    async with open_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        started = await client.start(order["id"], "paypal")
        expected = f"{open_shop.url}/orders/{order['id']}/return?payment={started['id']}"
        assert _paypal_order(open_shop, started)["return_url"] == expected


def _paypal_order(shop: WebShop, started: Any) -> Any:
    return json.loads(shop.twins["paypal"].dump())["orders"][started["client"]["order_id"]]


# ── The ways to pay ──────────


async def test_the_ways_to_pay_are_told_with_all_that_a_page_needs(open_shop: WebShop) -> None:
    async with open_shop.client() as client:
        await client.sign_in()
        order = await client.order(quantity=2)
        told = (await client.get(f"/api/orders/{order['id']}/payment-methods", headers={"origin": LOCAL})).json
        assert (told["order_id"], told["amount"], told["currency"]) == (order["id"], 3600, "EUR")
        methods = {one["gateway"]: one for one in told["methods"]}
        assert {"stripe", "paypal"} <= methods.keys()
        for name, method in methods.items():
            assert method.keys() == {"gateway", "title", "element", "module", "attributes", "unavailable"}
            assert (method["unavailable"], method["attributes"]["order"]) == (None, order["id"]), name
            module = await client.get(method["module"], headers={"origin": LOCAL})
            assert module.status == 200
            assert f"'{method['element']}'" in module.text
        assert methods["stripe"]["attributes"]["amount"] == "3600"
        assert methods["stripe"]["attributes"]["label"] == "Pay €36.00"
        assert "sk_test" not in str(told), "public values only"
        assert order["payments"] == []
        assert (await client.get(f"/api/orders/{order['id']}")).json["payments"] == [], "asking starts nothing"


async def test_the_pay_page_shows_the_same_ways(open_shop: WebShop) -> None:
    async with open_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        told = (await client.get(f"/api/orders/{order['id']}/payment-methods")).json
        page = (await client.page(f"/orders/{order['id']}/pay")).text
        for method in told["methods"]:
            assert f"<{method['element']} " in page
            assert f'src="{method["module"]}"' in page
        assert page.count('class="payment"') == len(told["methods"])


async def test_only_the_buyer_is_told_and_only_while_there_is_something_to_pay(
    quick_shop: WebShop,
) -> None:
    async with quick_shop.client() as client, quick_shop.client() as stranger, quick_shop.client() as staff:
        await client.sign_in()
        order = await client.order()
        path = f"/api/orders/{order['id']}/payment-methods"
        assert (await stranger.get(path)).is_problem(401, "not_signed_in")
        await stranger.sign_up("stranger@example.com")
        await staff.sign_in_as_staff()
        for other in (stranger, staff):
            assert (await other.get(path)).is_problem(404, "not_found")
        started = await client.start(order["id"], "paypal")
        assert (await client.get(path)).status == 200, "the buyer may still choose another way"
        await _pay(quick_shop, client, started)
        assert (await client.get(path)).is_problem(409, "already_paid")
        closed = await client.order()
        await client.post(f"/api/orders/{closed['id']}/cancel")
        assert (await client.get(f"/api/orders/{closed['id']}/payment-methods")).is_problem(409, "order_closed")


async def test_while_a_bank_takes_its_time_no_other_way_is_offered(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        started = await client.start(order["id"], "paypal")
        quick_shop.approve(started["client"], funding="pending")
        assert (await client.complete(started["id"])).json["status"] == "processing"
        answer = await client.get(f"/api/orders/{order['id']}/payment-methods")
        assert answer.is_problem(409, "payment_in_progress")


async def _pay(shop: WebShop, client: Client, started: Any) -> None:
    shop.agree(started)
    assert (await client.complete(started["id"])).json["order_status"] == "paid"
