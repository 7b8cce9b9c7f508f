"""A shortcut leads where FastAPI leads: the same answers to whatever is asked, and to whom."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fastapi.routing import APIRoute

from paidonce.web import routes, shortcut
from support.webshop import Answer, Client, WebShop

NEW = {"lines": [{"sku": "MUG-01", "quantity": 1}]}
NOBODYS = "ord_" + "0" * 26
ORDERS, START, COMPLETE = "/api/orders", "/api/orders/{order}/payments", "/api/payments/{payment}/complete"
JSON = {"content-type": "application/json"}
# Path, body as it is sent, headers.
ASKED: list[tuple[str, str, dict[str, str]]] = [
    *((path, body, JSON) for path in (ORDERS, START, COMPLETE) for body in ("", "null", "[]", "{}", '"x"', "1", "{")),
    *((path, '{"surplus": 1}', JSON) for path in (ORDERS, START, COMPLETE)),
    (ORDERS, json.dumps(NEW), JSON),
    (ORDERS, json.dumps(NEW), {"content-type": "text/plain"}),
    (ORDERS, json.dumps(NEW), {}),
    (ORDERS, '{"lines": []}', JSON),
    (ORDERS, '{"lines": [{"sku": "MUG-01", "quantity": 1.0}]}', JSON),
    (ORDERS, '{"lines": [{"sku": "MUG-01", "quantity": "1"}]}', JSON),
    (ORDERS, '{"lines": [{"sku": "MUG-01", "quantity": true}]}', JSON),
    (ORDERS, '{"lines": [{"sku": 1, "quantity": -1}, {"quantity": 1}]}', JSON),
    (ORDERS, '{"lines": [{"sku": "NONE-00", "quantity": 1}]}', JSON),
    (START, '{"gateway": "stripe"}', JSON),
    (START, '{"gateway": "stripe", "return_url": "https://evil.example/"}', JSON),
    (START, '{"gateway": "none"}', JSON),
    (START, '{"gateway": null}', JSON),
    (f"/api/orders/{NOBODYS}/payments", '{"gateway": "stripe"}', JSON),
    ("/api/orders/what%20is%20no%20id/payments", '{"gateway": "stripe"}', JSON),
    ("/api/orders/a%2Fb/payments", '{"gateway": "stripe"}', JSON),
    ("/api/orders//payments", '{"gateway": "stripe"}', JSON),
    ("/api/orders/", json.dumps(NEW), JSON),
    ("/api/payments/pay_00000000000000000000000000/complete", "", JSON),
    ("/api/payments/what/complete", "", JSON),
    ("/api/payments/what/complete/", "", JSON),
    ("/webhooks/stripe", "{}", JSON),
    ("/webhooks/nobody", "{}", JSON),
    ("/webhooks/stripe/more", "{}", JSON),
]


def test_each_shortcut_is_one_of_the_routes() -> None:
    found = [route for route in routes.api_router().routes if isinstance(route, APIRoute) and shortcut._has_way(route)]
    assert {route.path for route in found} == shortcut.PATHS
    assert len(found) == len(shortcut.PATHS)
    assert not any(route.dependencies for route in found), "a shortcut would pass them by"


@pytest.mark.parametrize("who", ["nobody", "buyer"])
async def test_the_answers_are_those_of_fastapi(quick_shop: WebShop, who: str) -> None:
    async with quick_shop.client() as client:
        names = {"order": NOBODYS, "payment": "pay_" + "0" * 26}
        if who == "buyer":
            assert (await client.sign_in()).status == 201
            names["order"] = (await client.order())["id"]
            started = await client.post(START.format(**names), {"gateway": "stripe"})
            names["payment"] = started.json["id"]
        for path, body, headers in ASKED:
            short = await _ask(client, path.format(**names), body, headers)
            # Anything in place of a dependency makes FastAPI answer.
            quick_shop.app.dependency_overrides[test_each_shortcut_is_one_of_the_routes] = lambda: None
            long = await _ask(client, path.format(**names), body, headers)
            quick_shop.app.dependency_overrides.clear()
            assert _told(short) == _told(long), (path, body, headers)


async def _ask(client: Client, path: str, body: str, headers: dict[str, str]) -> Answer:
    return await client.request("POST", path, data=body.encode(), headers=headers)


def _told(answer: Answer) -> tuple[int, Any, dict[str, str]]:
    """The status, the body without what is new in each answer, and the headers that are not."""
    text = re.sub(r"\b(ord|pay|inc|req)_[0-9a-z]{10,}|PO-[0-9A-Z]+|[0-9-]{10}T[0-9:.]+(Z|\+00:00)", "…", answer.text)
    passing = {"date", "x-request-id", "content-length"}
    return (
        answer.status,
        text,
        {name.lower(): value for name, value in answer.headers.items() if name.lower() not in passing},
    )
