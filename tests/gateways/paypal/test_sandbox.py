"""The twin's own rules, asked without our client: what it refuses, what it remembers, what its pages hold."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.paypal.sandbox import PAYER_ID, REQUEST_ID_SECONDS, TOKEN_SECONDS, PayPalSandbox
from paidonce.ports import SECOND

NOW = 1_790_000_000 * SECOND
SHOP = "https://shop.example"
BASE = "http://127.0.0.1:9/paypal"


class Twin:
    """The sandbox core with a token, asked by hand."""

    def __init__(self) -> None:
        self.core = PayPalSandbox(BASE)
        self.now = NOW
        self.bearer = "Bearer " + json.loads(self.token().body)["access_token"]

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """One API request."""
        sent = {"authorization": self.bearer, "content-type": "application/json", **(headers or {})}
        text = b"" if body is None else json.dumps(body).encode()
        return self.core.handle(HttpRequest(method, path, sent, text), now=self.now)

    def token(self, client_id: str = "sandbox-id", secret: str = "sandbox-secret") -> HttpResponse:
        """Sign in."""
        basic = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        request = HttpRequest(
            "POST", "/v1/oauth2/token", {"Authorization": f"Basic {basic}"}, b"grant_type=client_credentials"
        )
        return self.core.handle(request, now=self.now)

    def create(self, value: str = "19.99", currency: str = "EUR", key: str = "", **unit: Any) -> HttpResponse:
        """Create an order."""
        amount = {"currency_code": currency, "value": value, **unit.pop("amount", {})}
        context = {"return_url": f"{SHOP}/return?payment=pay_1", "cancel_url": f"{SHOP}/pay"}
        body = {
            "intent": "CAPTURE",
            "purchase_units": [{"amount": amount, "invoice_id": "1001", **unit}],
            "payment_source": {"paypal": {"experience_context": context}},
        }
        headers = {"prefer": "return=representation"} | ({"paypal-request-id": key} if key else {})
        return self.ask("POST", "/v2/checkout/orders", body, headers=headers)

    def order(self) -> str:
        """The id of a new order."""
        return str(json.loads(self.create().body)["id"])

    def read(self, order_id: str) -> dict[str, Any]:
        """An order as the API tells it."""
        told: dict[str, Any] = json.loads(self.ask("GET", f"/v2/checkout/orders/{order_id}").body)
        return told

    def browse(self, method: str, path: str, **form: str) -> HttpResponse:
        """What a browser does, with no token."""
        body = urlencode(form).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return self.core.handle(HttpRequest(method, path, headers, body), now=self.now)


@pytest.fixture
def twin() -> Twin:
    """A fresh twin."""
    return Twin()


def issue(response: HttpResponse) -> str:
    """The issue of a refusal, whose envelope is checked on the way."""
    body = json.loads(response.body)
    assert set(body) == {"name", "message", "debug_id", "details", "links"}
    assert response.headers["paypal-debug-id"] == body["debug_id"]
    assert body["details"][0]["description"]
    return str(body["details"][0]["issue"])


@pytest.mark.parametrize(
    ("client_id", "secret"),
    [("AZDxjDScFpQtjWTOUtWKbyN_bDt4OgqaF4eYXlewfBP4", "EGnHDxD_qRPdaLdZz8iCr8N7_MzF"), ("sandbox-id", ""), ("", "")],
)
def test_only_sandbox_credentials_are_accepted(twin: Twin, client_id: str, secret: str) -> None:
    response = twin.token(client_id, secret)

    assert response.status == 401
    assert json.loads(response.body) == {
        "error": "invalid_client",
        "error_description": "Client Authentication failed",
    }


@pytest.mark.parametrize("header", ["", "Basic x", "Bearer", "Bearer nonsense"])
def test_no_token_no_answer(twin: Twin, header: str) -> None:
    response = twin.ask("GET", f"/v2/checkout/orders/{twin.order()}", headers={"authorization": header})

    assert response.status == 401
    assert set(json.loads(response.body)) == {"error", "error_description"}


def test_a_token_ends(twin: Twin) -> None:
    order = twin.order()
    twin.now += TOKEN_SECONDS * SECOND

    assert twin.ask("GET", f"/v2/checkout/orders/{order}").status == 401


@pytest.mark.parametrize(
    ("value", "currency", "expected"),
    [
        ("19.999", "EUR", "DECIMAL_PRECISION"),
        ("19.9900", "EUR", "DECIMAL_PRECISION"),
        ("500.00", "JPY", "DECIMALS_NOT_SUPPORTED"),
        ("12345.67", "HUF", "DECIMALS_NOT_SUPPORTED"),
        ("299.5", "TWD", "DECIMALS_NOT_SUPPORTED"),
        ("0", "EUR", "CANNOT_BE_ZERO_OR_NEGATIVE"),
        ("-1.00", "EUR", "CANNOT_BE_ZERO_OR_NEGATIVE"),
        ("1.000", "KWD", "CURRENCY_NOT_SUPPORTED"),
        ("1.00", "eur", "INVALID_CURRENCY_CODE"),
        ("1e3", "EUR", "INVALID_PARAMETER_SYNTAX"),
        ("", "EUR", "INVALID_PARAMETER_SYNTAX"),
    ],
)
def test_money_rules(twin: Twin, value: str, currency: str, expected: str) -> None:
    before = json.loads(twin.core.dump())["orders"]

    assert issue(twin.create(value, currency)) == expected
    assert json.loads(twin.core.dump())["orders"] == before == {}


@pytest.mark.parametrize(("item_total", "expected"), [("19.99", 201), ("19.98", 422)])
def test_a_breakdown_adds_up(twin: Twin, item_total: str, expected: int) -> None:
    part = {"currency_code": "EUR", "value": item_total}
    free = {"currency_code": "EUR", "value": "0.00"}

    response = twin.create(amount={"breakdown": {"item_total": part, "shipping_discount": free}})

    assert response.status == expected
    if expected == 422:
        assert issue(response) == "AMOUNT_MISMATCH"


def test_a_breakdown_in_another_currency_is_refused(twin: Twin) -> None:
    response = twin.create(amount={"breakdown": {"item_total": {"currency_code": "USD", "value": "19.99"}}})

    assert issue(response) == "MULTI_CURRENCY_ORDER"


@pytest.mark.parametrize("unit", [{"custom_id": "x" * 128}, {"invoice_id": "x" * 128}, {"custom_id": ""}])
def test_ids_that_are_too_long_or_empty_are_refused(twin: Twin, unit: dict[str, str]) -> None:
    assert issue(twin.create(**unit)) == "INVALID_STRING_LENGTH"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_a_malformed_body_is_refused(twin: Twin, body: bytes) -> None:
    headers = {"authorization": twin.bearer, "content-type": "application/json"}

    response = twin.core.handle(HttpRequest("POST", "/v2/checkout/orders", headers, body), now=NOW)

    assert 400 <= response.status < 500
    assert json.loads(twin.core.dump())["orders"] == {}


def test_a_request_id_replays_the_latest_state_for_six_hours(twin: Twin) -> None:
    first = twin.create(key="k1")
    order = json.loads(first.body)["id"]
    twin.core.approve(order, now=twin.now)

    again = twin.create(key="k1")
    assert (first.status, again.status) == (201, 200)
    assert json.loads(again.body)["id"] == order
    assert json.loads(again.body)["status"] == "APPROVED"

    twin.now += REQUEST_ID_SECONDS * SECOND
    forgotten = twin.create(key="k1")
    assert forgotten.status == 201
    assert json.loads(forgotten.body)["id"] != order


def test_a_request_id_of_another_body_or_call_is_refused(twin: Twin) -> None:
    order = json.loads(twin.create(key="k1").body)["id"]

    assert issue(twin.create("20.00", key="k1")) == "DUPLICATE_REQUEST_ID"
    crossed = twin.ask("POST", f"/v2/checkout/orders/{order}/capture", {}, headers={"paypal-request-id": "k1"})
    assert issue(crossed) == "DUPLICATE_REQUEST_ID"
    too_long = twin.create(key="k" * 109)
    assert issue(too_long) == "INVALID_STRING_LENGTH"


def test_without_prefer_the_answer_is_minimal(twin: Twin) -> None:
    body = {"intent": "CAPTURE", "purchase_units": [{"amount": {"currency_code": "EUR", "value": "1.00"}}]}

    told = json.loads(twin.ask("POST", "/v2/checkout/orders", body).body)

    assert set(told) == {"id", "status", "links"}
    assert told["status"] == "CREATED"
    assert [link["rel"] for link in told["links"]] == ["self", "approve"]


def test_the_mock_header_declines_as_real_sandboxes_do(twin: Twin) -> None:
    order = twin.order()
    twin.core.approve(order, now=twin.now)
    mock = {"PayPal-Mock-Response": '{"mock_application_codes": "INSTRUMENT_DECLINED"}'}

    response = twin.ask("POST", f"/v2/checkout/orders/{order}/capture", {}, headers=mock)

    assert issue(response) == "INSTRUMENT_DECLINED"
    told = twin.read(order)
    assert told["status"] == "PAYER_ACTION_REQUIRED"
    assert "payments" not in told["purchase_units"][0]


def test_state_survives_dump_and_load(twin: Twin) -> None:
    order = json.loads(twin.create(key="k1").body)["id"]
    twin.core.approve(order, now=twin.now, funding="pending")
    copy = Twin()
    copy.core.load(twin.core.dump())
    copy.bearer = twin.bearer

    assert copy.core.dump() == twin.core.dump()
    assert copy.create(key="k1").status == 200
    taken = copy.ask("POST", f"/v2/checkout/orders/{order}/capture", {})
    assert taken.status == 201
    assert copy.read(order)["purchase_units"][0]["payments"]["captures"][0]["status"] == "PENDING"


def test_the_same_requests_give_the_same_answers() -> None:
    one, two = Twin(), Twin()

    assert one.create().body == two.create().body
    assert one.core.dump() == two.core.dump()


def test_other_methods_and_paths_are_not_found(twin: Twin) -> None:
    for method, path in (("DELETE", "/v2/checkout/orders"), ("GET", "/v2/checkout/orders/X/y"), ("GET", "/v1/secret")):
        assert twin.ask(method, path).status == 404
    assert twin.browse("GET", "/").status == 404


# --- Pages -----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a test needs to know of a page."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.policy = response.headers["content-security-policy"]
        self.text = response.body.decode()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each such tag."""
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_approval_page_is_plainly_a_sandbox_and_accessible(twin: Twin) -> None:
    page = Page(twin.browse("GET", f"/checkoutnow?token={twin.order()}"))

    assert "Offline sandbox." in page.text
    assert "19.99 EUR" in page.text
    radios = [one for one in page.all("input") if one.get("type") == "radio"]
    labels = {label["for"] for label in page.all("label")}
    assert [one["value"] for one in radios] == ["balance", "declined", "pending"]
    assert all(one["id"] in labels for one in radios)
    assert len(page.all("fieldset")) == len(page.all("legend")) == 1
    assert page.all("html") == [{"lang": "en"}]


def test_pages_forbid_what_they_do_not_use(twin: Twin) -> None:
    order = twin.order()
    for response in (
        twin.browse("GET", f"/checkoutnow?token={order}"),
        twin.browse("GET", "/checkoutnow?token=unknown"),
        twin.browse("POST", "/checkoutnow/cancel", token=order, opener=SHOP),
    ):
        page = Page(response)
        assert "default-src 'none'" in page.policy
        assert "unsafe" not in page.policy
        assert "frame-ancestors 'none'" in page.policy
        assert all(script.get("src") for script in page.all("script"))
        assert page.all("style") == []
        assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)


def test_each_page_reaches_its_style_sheet(twin: Twin) -> None:
    order = twin.order()
    for path, response in (
        ("/checkoutnow", twin.browse("GET", f"/checkoutnow?token={order}")),
        ("/checkoutnow/cancel", twin.browse("POST", "/checkoutnow/cancel", token=order, opener=SHOP)),
        ("/no/such/place", twin.browse("GET", "/no/such/place")),
    ):
        for reference in [link["href"] for link in Page(response).all("link")]:
            assert reference is not None
            steps = path.split("/")[1:-1]
            for step in reference.split("/"):
                steps = steps[:-1] if step == ".." else [*steps, step]
            assert twin.browse("GET", "/" + "/".join(steps)).status == 200


def test_approval_by_redirect_comes_back_with_token_and_payer(twin: Twin) -> None:
    order = twin.order()

    response = twin.browse("POST", "/checkoutnow/approve", token=order, funding="balance")

    address = urlsplit(response.headers["location"])
    assert response.status == 303
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{SHOP}/return"
    assert parse_qs(address.query) == {"payment": ["pay_1"], "token": [order], "PayerID": [PAYER_ID]}
    assert twin.read(order)["status"] == "APPROVED"
    assert SHOP in Page(twin.browse("GET", f"/checkoutnow?token={order}")).policy


def test_cancel_by_redirect_changes_nothing(twin: Twin) -> None:
    order = twin.order()
    before = twin.read(order)

    response = twin.browse("POST", "/checkoutnow/cancel", token=order)

    assert response.headers["location"] == f"{SHOP}/pay?token={order}"
    assert twin.read(order) == before


def test_the_pop_up_tells_its_opener(twin: Twin) -> None:
    order = twin.order()

    page = Page(twin.browse("POST", "/checkoutnow/approve", token=order, funding="declined", opener=SHOP))

    (script,) = page.all("script")
    assert script["data-news"] == "approve"
    assert (script["data-order"], script["data-payer"], script["data-opener"]) == (order, PAYER_ID, SHOP)


@pytest.mark.parametrize("opener", ["*", "javascript:alert(1)", "https://evil.example/path", '"><script>', "null"])
def test_an_opener_that_is_no_origin_is_ignored(twin: Twin, opener: str) -> None:
    order = twin.order()
    query = urlencode({"token": order, "opener": opener})

    page = Page(twin.browse("GET", f"/checkoutnow?{query}"))

    assert all(one["name"] != "opener" for one in page.all("input"))
    assert twin.browse("POST", "/checkoutnow/cancel", token=order, opener=opener).status == 303


def test_order_texts_are_escaped(twin: Twin) -> None:
    order = json.loads(twin.create(invoice_id="<script>alert(1)</script>").body)["id"]

    page = Page(twin.browse("GET", f"/checkoutnow?token={order}"))

    assert page.all("script") == []
    assert "&lt;script&gt;" in page.text


def test_a_stranger_on_the_page_changes_nothing(twin: Twin) -> None:
    order = twin.order()

    assert twin.browse("POST", "/checkoutnow/approve", token="X", funding="balance").status == 404
    assert twin.browse("POST", "/checkoutnow/approve", token=order, funding="gold").status == 404
    assert twin.read(order)["status"] == "PAYER_ACTION_REQUIRED"


def test_after_a_decline_the_page_asks_for_another_funding_source(twin: Twin) -> None:
    order = twin.order()
    twin.core.approve(order, now=twin.now, funding="declined")
    twin.ask("POST", f"/v2/checkout/orders/{order}/capture", {})

    page = Page(twin.browse("GET", f"/checkoutnow?token={order}"))

    assert "declined. Please choose another one" in page.text


def test_a_paid_order_can_not_be_approved_again(twin: Twin) -> None:
    order = twin.order()
    twin.core.approve(order, now=twin.now)
    twin.ask("POST", f"/v2/checkout/orders/{order}/capture", {})

    page = Page(twin.browse("GET", f"/checkoutnow?token={order}"))
    twin.browse("POST", "/checkoutnow/approve", token=order, funding="declined")

    assert page.all("fieldset") == []
    assert twin.read(order)["status"] == "COMPLETED"


def test_eligibility_knows_clients_and_currencies(twin: Twin) -> None:
    def asked(client_id: str, currency: str) -> tuple[int, Any]:
        query = urlencode({"client_id": client_id, "currency": currency})
        response = twin.browse("GET", f"/web-sdk/v6/eligibility?{query}")
        assert response.headers["access-control-allow-origin"] == "*"
        return response.status, json.loads(response.body)

    assert asked("sandbox-id", "EUR") == (200, {"known_client": True, "paypal": True})
    assert asked("sandbox-id", "KWD") == (200, {"known_client": True, "paypal": False})
    assert asked("AZDxjDScFpQtjWTOUtWKbyN", "EUR") == (404, {"known_client": False, "paypal": False})


def test_the_script_is_served_as_a_script(twin: Twin) -> None:
    response = twin.browse("GET", "/web-sdk/v6/core")

    assert response.headers["content-type"].startswith("text/javascript")
    assert re.search(rb"createPayPalOneTimePaymentSession", response.body)
