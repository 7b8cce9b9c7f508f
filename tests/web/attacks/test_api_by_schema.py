"""The whole API, asked what its own description allows and what it forbids, by nobody, a buyer and staff.

No 5xx, no status, type, header or body that the description does not know. The requests are the same in every run; the
long run (`SCHEMA_EXAMPLES=500`) makes more of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.webshop import WebShop, running_shop

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "6"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ROLES = {
    "nobody": None,
    "buyer": ("buyer@example.com", "buyer-password"),
    "staff": ("staff@example.com", "staff-password"),
}
# These every request can meet; the description says so once, by its answer "default". Anything else is named there.
ANYWHERE = {400, 413, 415, 422, 431}


@dataclass
class Somebody:
    """A role with its session, at the shop."""

    shop: WebShop
    role: str
    session: requests.Session

    def sign_in(self) -> None:
        """Sign in again if a request has ended the session, or changed the password on the way."""
        account = ROLES[self.role]
        if account is None or self.session.get(self.shop.url + "/api/orders", timeout=30).ok:
            return
        email, password = account
        body = {"email": email, "password": password}
        assert self.session.post(self.shop.url + "/api/session", json=body, timeout=30).status_code == 201

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask for something that has to work."""
        answer = self.session.request(method, self.shop.url + path, json=body, timeout=30)
        assert answer.ok, answer.text
        return answer.json()


@contextmanager
def signed_in(shop: WebShop, role: str) -> Iterator[Somebody]:
    with requests.Session() as session:
        session.trust_env = False
        who = Somebody(shop, role, session)
        who.sign_in()
        yield who


def things(buyer: Somebody) -> dict[str, list[str]]:
    """Real ids for the parameters of addresses: an open order, one with an open payment, and a paid one."""
    orders = [buyer.ask("POST", "/api/orders", {"lines": [{"sku": "TEA-01", "quantity": 2}]})["id"] for _ in range(3)]
    started = [buyer.ask("POST", f"/api/orders/{order}/payments", {"gateway": "stripe"}) for order in orders[1:]]
    buyer.shop.agree(started[1])
    buyer.ask("POST", f"/api/payments/{started[1]['id']}/complete", {})
    return {
        "order_id": orders,
        "payment_id": [one["id"] for one in started],
        "sku": ["TEA-01", "MUG-01"],
        "gateway": ["stripe", "paypal"],
        "name": ["money_arrived"],
    }


@pytest.fixture
def described_shop(seeded_url: str) -> Iterator[WebShop]:
    """A shop whose limits are out of the way; they have tests of their own."""
    with running_shop(seeded_url) as shop:
        yield shop


@pytest.mark.parametrize("role", ROLES)
def test_the_api_keeps_to_its_description(described_shop: WebShop, role: str) -> None:
    described = schemathesis.openapi.from_dict(described_shop.app.openapi())
    asked = 0
    with signed_in(described_shop, "buyer") as buyer, signed_in(described_shop, role) as who:
        real = things(buyer)
        for found in described.get_all_operations():
            assert isinstance(found, Ok)
            asked += _attack(found.ok(), who, real)
            who.sign_in()
    assert asked >= 2 * 25, "every operation was asked"
    with signed_in(described_shop, "staff") as staff:
        assert len(staff.ask("GET", "/api/products")) > 3


def _attack(operation: Any, who: Somebody, real: dict[str, list[str]]) -> int:
    """Ask one operation for what may be asked and for what may not; how many requests that were."""
    named = set(operation.responses.status_codes)
    asked = 0

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=_cases(operation, real))
    def attack(case: Any) -> None:
        nonlocal asked
        asked += 1
        # A limit that has been reached would hide everything behind it.
        who.shop.clock.shift += 1_000_000_000
        answer = case.call(base_url=who.shop.url, session=who.session)
        case.validate_response(answer, checks=CHECKS)
        assert str(answer.status_code) in named or answer.status_code in ANYWHERE, (case, answer.status_code)
        if answer.status_code >= 400:
            assert answer.headers["content-type"][0] == "application/problem+json"
            assert answer.json()["status"] == answer.status_code

    attack()
    return asked


def _cases(operation: Any, real: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    """Requests that fit the description and requests that don't, at made-up addresses and at those of real things."""
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    made_up = [operation.as_strategy(generation_mode=mode) for mode in modes]
    names = [parameter.name for parameter in operation.path_parameters]
    if not names:
        return st.one_of(*made_up)
    places = [{name: real[name][turn % len(real[name])] for name in names} for turn in range(3)]
    there = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE, path_parameters=one) for one in places]
    return st.one_of(*there, *made_up)


def test_every_answer_of_the_description_is_json_or_a_problem(described_shop: WebShop) -> None:
    document = described_shop.app.openapi()
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            assert "default" in entry["responses"], (method, path)
            for status, answer in entry["responses"].items():
                kinds = set(answer.get("content", {}))
                is_problem = status == "default" or int(status) >= 400
                expected = {"application/problem+json"} if is_problem else {"application/json"}
                assert kinds == expected or (status == "204" and not kinds), (method, path, status)


def test_every_body_of_the_description_forbids_other_fields(described_shop: WebShop) -> None:
    document = described_shop.app.openapi()
    schemas = document["components"]["schemas"]
    inputs = {
        name
        for methods in document["paths"].values()
        for entry in methods.values()
        for name in _referenced(entry.get("requestBody", {}), schemas)
    }
    assert len(inputs) >= 9
    assert {name for name in inputs if schemas[name].get("additionalProperties") is not False} == set()


def _referenced(value: Any, schemas: dict[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        name = value.get("$ref", "").rsplit("/", 1)[-1]
        if name:
            yield name
            yield from _referenced(schemas[name], schemas)
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _referenced(one, schemas)
