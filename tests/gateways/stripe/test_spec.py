"""Requests that our client sends, and answers that the twin gives, against Stripe's own OpenAPI description."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator

from paidonce.errors import GatewayRefused
from paidonce.gateways.base import HttpRequest, HttpResponse, Snapshot
from paidonce.gateways.stripe.gateway import StripeGateway
from paidonce.gateways.stripe.sandbox.replies import decode_form
from paidonce.gateways.stripe.wire import API_VERSION
from paidonce.money import Money

from .conftest import RETURN_URL, Api, TwinTransport

SPEC = Path(__file__).resolve().parents[4] / "shared" / "specs" / "stripe" / "spec3.trimmed.json"

pytestmark = pytest.mark.skipif(
    not SPEC.is_file(), reason="Stripe's OpenAPI file is not beside this checkout (../shared)"
)


class Spec:
    """Validators for the operations of the description."""

    def __init__(self) -> None:
        self.document = _with_nulls(json.loads(SPEC.read_text(encoding="utf-8")))

    def operation(self, request: HttpRequest) -> dict[str, Any]:
        path = request.url.partition("?")[0].partition("/stripe")[2] or request.url.partition("?")[0]
        for template, operations in self.document["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", r"[^/]+", template), path):
                return dict(operations[request.method.lower()])
        raise AssertionError(f"{request.method} {path} is not in the description")

    def check(self, schema: Any, value: Any) -> None:
        whole = {**schema, "components": self.document["components"]}
        errors = [
            f"{error.json_path}: {error.message[:200]}" for error in Draft202012Validator(whole).iter_errors(value)
        ]
        assert errors == []

    def check_request(self, request: HttpRequest) -> None:
        content = self.operation(request)["requestBody"]["content"]["application/x-www-form-urlencoded"]
        self.check(content["schema"], _typed(decode_form(request.body.decode()), content["schema"]))

    def check_answer(self, request: HttpRequest, response: HttpResponse) -> None:
        answers = self.operation(request)["responses"]
        answer = answers["200"] if response.status == 200 else answers["default"]
        self.check(answer["content"]["application/json"]["schema"], json.loads(response.body))


def _with_nulls(node: Any) -> Any:
    """Stripe writes `nullable` beside `anyOf` and `enum` and means "or null"."""
    if isinstance(node, list):
        return [_with_nulls(item) for item in node]
    if not isinstance(node, dict):
        return node
    rest = {name: _with_nulls(value) for name, value in node.items() if name != "nullable"}
    return {"anyOf": [{"type": "null"}, rest]} if node.get("nullable") is True else rest


def _typed(value: Any, schema: dict[str, Any]) -> Any:
    """A decoded form with integers, booleans and lists where the schema has them, since forms only carry text."""
    kind = schema.get("type")
    if kind == "array" and isinstance(value, dict) and list(value) == [str(place) for place in range(len(value))]:
        return list(value.values())
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {name: _typed(item, known.get(name, {})) for name, item in value.items()}
    if kind == "integer" and re.fullmatch(r"-?\d+", value):
        return int(value)
    return value == "true" if kind == "boolean" and value in {"true", "false"} else value


@pytest.fixture(scope="module")
def spec() -> Spec:
    return Spec()


def test_the_pinned_version_is_the_described_one(spec: Spec) -> None:
    assert spec.document["info"]["version"] == API_VERSION


async def test_our_requests_and_the_twins_answers_are_stripes(
    spec: Spec,
    gateway: StripeGateway,
    transport: TwinTransport,
    open_intent: Callable[..., Awaitable[str]],
    api: Api,
) -> None:
    ref = await open_intent()
    for method in ("pm_card_visa_chargeDeclined", "pm_card_authenticationRequired", "pm_card_visa"):
        await gateway.confirm_as_test_buyer(ref, payment_method=method, return_url=RETURN_URL)
        await gateway.fetch(ref)
    await gateway.void(ref)
    await gateway.void(await open_intent("key_2"))
    manual = json.loads(
        api("POST", "/v1/payment_intents", {"amount": "500", "currency": "jpy", "capture_method": "manual"}).body
    )
    await gateway.confirm_as_test_buyer(manual["id"], payment_method="pm_card_visa", return_url=RETURN_URL)
    await gateway.capture(manual["id"], idempotency_key="capture_1", amount=Money(500, "JPY"))
    bank = await open_intent("key_3")
    await gateway.confirm_as_test_buyer(bank, payment_method="pm_usBankAccount_processing", return_url=RETURN_URL)
    posts = [request for request in transport.requests if request.method == "POST"]
    assert {request.url.rpartition("/")[2] for request in posts} == {"payment_intents", "confirm", "cancel", "capture"}
    for request in posts:
        spec.check_request(request)
    for request in transport.requests:
        spec.check_answer(request, transport.core.handle(request, now=transport.clock.now()))


@pytest.mark.parametrize(
    ("method", "path", "form"),
    [
        ("GET", "/v1/account", {}),
        ("GET", "/v1/payment_intents", {}),
        ("GET", "/v1/payment_intents/pi_nobody", {}),
        ("POST", "/v1/payment_intents", {"amount": "1", "currency": "eur"}),
        ("POST", "/v1/payment_intents", {"amount": "x", "currency": "eur"}),
        (
            "POST",
            "/v1/payment_intents",
            {"amount": "1999", "currency": "eur", "confirm": "true", "payment_method": "pm_card_visa"},
        ),
        (
            "POST",
            "/v1/payment_intents",
            {
                "amount": "1999",
                "currency": "eur",
                "confirm": "true",
                "payment_method": "pm_card_visa_chargeDeclined",
                "return_url": RETURN_URL,
            },
        ),
    ],
)
def test_other_answers_are_stripes(spec: Spec, api: Api, method: str, path: str, form: dict[str, str]) -> None:
    spec.check_answer(HttpRequest(method, path), api(method, path, form))


def test_expanded_charges_and_browser_views_are_stripes(spec: Spec, api: Api) -> None:
    form = {
        "amount": "1999",
        "currency": "eur",
        "confirm": "true",
        "payment_method": "pm_card_visa",
        "return_url": RETURN_URL,
    }
    intent = json.loads(api("POST", "/v1/payment_intents", form).body)
    path = f"/v1/payment_intents/{intent['id']}"
    request = HttpRequest("GET", path)
    spec.check_answer(request, api("GET", path, {"expand[]": "latest_charge"}))
    spec.check_answer(request, api("GET", path, {"client_secret": intent["client_secret"]}, key="pk_test_sandbox"))
    charge = f"/v1/charges/{intent['latest_charge']}"
    spec.check_answer(HttpRequest("GET", charge), api("GET", charge))


async def test_refunds_disputes_and_their_events_are_stripes(
    spec: Spec, gateway: StripeGateway, transport: TwinTransport, open_intent: Callable[..., Awaitable[str]]
) -> None:
    core, now = transport.core, transport.clock.now()
    ref = await open_intent()
    paid = await gateway.confirm_as_test_buyer(ref, payment_method="pm_card_visa", return_url=RETURN_URL)
    await _refund(gateway, paid, 500, "re_key_1")
    core.control("pend_next_refund", {}, now=now)
    await _refund(gateway, paid, 300, "re_key_2")
    failed = await _refund(gateway, paid, 200, "re_key_3")
    core.control("fail_refund", {"refund": failed}, now=now)
    inquiry = core.control("open_dispute", {"ref": ref, "inquiry": "true"}, now=now)["dispute"]
    core.control("close_dispute", {"dispute": inquiry, "outcome": "won"}, now=now)
    dispute = core.control("open_dispute", {"ref": ref}, now=now)["dispute"]
    await gateway.fetch(ref, details=True)
    core.control("close_dispute", {"dispute": dispute, "outcome": "won"}, now=now)
    core.control("open_dispute", {"ref": ref, "amount": "100"}, now=now)
    with pytest.raises(GatewayRefused):
        await _refund(gateway, paid, 100, "re_key_4")
    await gateway.fetch(ref, details=True)
    paths = {urlsplit(request.url).path.rpartition("/")[2] for request in transport.requests}
    assert {"refunds", "disputes"} <= paths
    for request in transport.requests:
        if request.method == "POST":
            spec.check_request(request)
        spec.check_answer(request, core.handle(request, now=now))
    schemas = spec.document["components"]["schemas"]
    events = [json.loads(request.body) for request in core.take_webhooks(now=now)]
    for event in events:
        spec.check(schemas["event"], event)
        spec.check(schemas[event["data"]["object"]["object"]], event["data"]["object"])
    assert {event["data"]["object"]["object"] for event in events} == {"payment_intent", "charge", "refund", "dispute"}


async def _refund(gateway: StripeGateway, paid: Snapshot, minor: int, key: str) -> str:
    amount = Money(minor, "EUR")
    refund = await gateway.refund(
        paid.ref, paid.capture_ref or "", idempotency_key=key, amount=amount, refund_id=f"ref_{minor}"
    )
    return refund.ref


@pytest.mark.parametrize("name", ["refunds", "disputes", "balance_transactions"])
def test_single_objects_are_stripes(spec: Spec, api: Api, name: str) -> None:
    form = {"amount": "1999", "currency": "eur", "confirm": "true", "payment_method": "pm_card_visa"}
    intent = json.loads(api("POST", "/v1/payment_intents", {**form, "return_url": RETURN_URL}).body)
    api("POST", "/v1/refunds", {"payment_intent": intent["id"], "amount": "500"})
    api.core.control("open_dispute", {"ref": intent["id"]}, now=api.clock.now())
    listed = api("GET", f"/v1/{name}")
    spec.check_answer(HttpRequest("GET", f"/v1/{name}"), listed)
    items = json.loads(listed.body)["data"]
    assert items
    for item in items:
        path = f"/v1/{name}/{item['id']}"
        spec.check_answer(HttpRequest("GET", path), api("GET", path))


def test_the_validator_sees_mistakes(spec: Spec) -> None:
    """An oracle that accepts everything would prove nothing."""
    request = HttpRequest("POST", "/v1/payment_intents", {}, b"amount=1999&currency=eur&colour=red")
    with pytest.raises(AssertionError, match="colour"):
        spec.check_request(request)
    with pytest.raises(AssertionError, match="status"):
        spec.check_answer(HttpRequest("GET", "/v1/payment_intents/pi_1"), HttpResponse(200, {}, b'{"status": "paid"}'))
