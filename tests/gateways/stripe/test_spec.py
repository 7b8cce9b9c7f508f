"""Requests that our client sends, and answers that the twin gives, against Stripe's own OpenAPI description."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from paidonce.gateways.base import HttpRequest, HttpResponse
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
    """A decoded form with integers and booleans where the schema has them, since forms only carry text."""
    kind = schema.get("type")
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


def test_the_validator_sees_mistakes(spec: Spec) -> None:
    """An oracle that accepts everything would prove nothing."""
    request = HttpRequest("POST", "/v1/payment_intents", {}, b"amount=1999&currency=eur&colour=red")
    with pytest.raises(AssertionError, match="colour"):
        spec.check_request(request)
    with pytest.raises(AssertionError, match="status"):
        spec.check_answer(HttpRequest("GET", "/v1/payment_intents/pi_1"), HttpResponse(200, {}, b'{"status": "paid"}'))
