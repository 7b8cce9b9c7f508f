"""Attacks on a Django shop: one client holding all the stock with unpaid orders, and a storm of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.test.utils import override_settings
from shop.models import Product

from contrib.django.twins import Shop
from paidonce.contrib.django import runtime as wiring

ATTACKER, NEIGHBOUR = "45.83.64.1", "81.2.69.142"


@pytest.fixture
def settings() -> Iterator[Any]:
    """Django's settings; what a test changes is undone."""
    with override_settings():
        from django.conf import settings as current

        yield current
    wiring.use(None)


@pytest.fixture
def shop(shop_database: Any, settings: Any) -> Shop:
    """The example shop as in production, with small bounds."""
    Product.objects.create(sku="MUG", name="Mug", price_cents=1250, stock=10)
    bounds = {"PAIDONCE_OPEN_PAYMENTS_PER_USER": "2", "PAIDONCE_OPEN_PAYMENTS_PER_ADDRESS": "3"}
    return Shop(settings, PAIDONCE_DEMO="0", PAIDONCE_PUBLIC_URL="http://127.0.0.1", **bounds)


def post(user: User, address: str, path: str, **body: str) -> Any:
    client = Client(REMOTE_ADDR=address)
    client.force_login(user)
    return client.post(path, json.dumps(body), content_type="application/json")


def start(shop: Shop, user: User, address: str) -> int:
    answer = post(user, address, f"/api/orders/{shop.order(user)}/payments", gateway="stripe")
    if answer.status_code == 429:
        assert json.loads(answer.content)["code"] == "too_many_attempts"
        assert int(answer["Retry-After"]) > 0
    return int(answer.status_code)


def test_a_buyer_and_an_address_hold_goods_for_so_many_orders(shop: Shop) -> None:
    one, two, honest = (User.objects.create_user(name) for name in ("one", "two", "honest"))
    assert [start(shop, one, ATTACKER) for _ in range(3)] == [201, 201, 429]
    assert [start(shop, two, ATTACKER) for _ in range(2)] == [201, 429]
    assert [start(shop, two, NEIGHBOUR), start(shop, honest, NEIGHBOUR)] == [201, 201]


def test_questions_are_bounded(shop: Shop) -> None:
    user = User.objects.create_user("eager")
    path = "/api/payments/pay_0000000000000000000000/complete"
    client = Client(REMOTE_ADDR=ATTACKER)
    client.force_login(user)
    answers = [client.post(path, "{}", content_type="application/json").status_code for _ in range(241)]
    assert answers == [404] * 240 + [429]
