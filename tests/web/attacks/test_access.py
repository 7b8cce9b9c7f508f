"""Every route by every role, and a stranger at every order and payment.

The table below is compared with the application's own routes: a route that nobody has thought about fails the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount, Route

from conftest import run_apart
from paidonce import Actor
from paidonce.web import routes
from paidonce.web.seed import BUYER, STAFF
from support.sessions import Doors, doors, hosted
from support.webshop import Answer, Client

STRANGER = "stranger@example.com"
ROLES = {"nobody": None, "stranger": STRANGER, "buyer": BUYER.email, "staff": STAFF.email}

# What becomes of a request. `IN` is everything that is no refusal of the person: also "already paid" and "too large".
IN, SIGN_IN, HIDDEN, REFUSED = "in", "sign in first", "no such thing", "not allowed"

EVERYBODY = (IN, IN, IN, IN)
SIGNED_IN = (SIGN_IN, IN, IN, IN)
# Their own things, which to anybody else are not there; staff pay for nobody.
OWNER = (SIGN_IN, HIDDEN, IN, HIDDEN)
OWNER_AND_STAFF = (SIGN_IN, HIDDEN, IN, IN)
STAFF_ONLY = (SIGN_IN, REFUSED, REFUSED, IN)

TOO_MUCH = {"amount": 10**9}
ENTRY = {"seen": 0, "params": {}}


@dataclass(frozen=True)
class Row:
    """What each of nobody, a stranger, the order's buyer and staff get to see, and what is sent."""

    outcomes: tuple[str, str, str, str]
    body: Any = None
    query: str = ""
    form: dict[str, str] = field(default_factory=dict)
    ends_session: bool = False


# {order_id} and {payment_id} are the buyer's, paid; so that no row can be pushed out of place by the row before.
TABLE = {
    "POST /api/session": Row(EVERYBODY, {}),
    "DELETE /api/session": Row(EVERYBODY, ends_session=True),
    "POST /api/session/confirm": Row(SIGNED_IN, {}),
    "DELETE /api/sessions": Row(SIGNED_IN, ends_session=True),
    "POST /api/password": Row(SIGNED_IN, {}),
    "POST /api/users": Row(EVERYBODY, {}),
    "GET /api/products": Row(EVERYBODY),
    "PATCH /api/products/{sku}": Row(STAFF_ONLY, {"adjust": 1}),
    "POST /api/orders": Row(SIGNED_IN, {"lines": [{"sku": "TEA-01", "quantity": 1}]}),
    "GET /api/orders": Row(SIGNED_IN),
    "GET /api/orders/{order_id}": Row(OWNER_AND_STAFF),
    "POST /api/orders/{order_id}/cancel": Row(OWNER),
    "GET /api/orders/{order_id}/explanation": Row(STAFF_ONLY),
    "GET /api/orders/{order_id}/payment-methods": Row(OWNER),
    "POST /api/orders/{order_id}/payments": Row(OWNER, {"gateway": "paypal"}),
    "GET /api/payments/{payment_id}": Row(OWNER),
    "POST /api/payments/{payment_id}/complete": Row(OWNER, {}),
    "POST /api/payments/{payment_id}/cancel": Row(OWNER, {}),
    "POST /api/payments/{payment_id}/refunds": Row(STAFF_ONLY, TOO_MUCH),
    "GET /api/payments/{payment_id}/refunds": Row(STAFF_ONLY),
    "POST /api/payments/{payment_id}/capture": Row(STAFF_ONLY, {}),
    "POST /api/payments/{payment_id}/void": Row(STAFF_ONLY, {}),
    "GET /api/payments/{payment_id}/actions": Row(STAFF_ONLY),
    "POST /api/payments/{payment_id}/actions/{name}": Row(STAFF_ONLY, ENTRY),
    # Who calls here proves it by a signature (tests/gateways); it does not matter who is signed in.
    "POST /webhooks/{gateway}": Row(EVERYBODY, {}),
    "GET /healthz": Row(EVERYBODY),
    "GET /readyz": Row(EVERYBODY),
    "GET /openapi.json": Row(EVERYBODY),
    "GET /assets": Row(EVERYBODY, query="/paidonce.js"),
    "GET /": Row(EVERYBODY),
    "GET /basket": Row(EVERYBODY),
    "POST /basket/add": Row(EVERYBODY, form={"sku": "TEA-01"}),
    "POST /basket/set": Row(EVERYBODY, form={"sku": "TEA-01", "quantity": "0"}),
    "GET /sign-in": Row(EVERYBODY),
    # Everybody may try; these credentials are nobody's.
    "POST /sign-in": Row((SIGN_IN,) * 4, form={"email": "nobody", "next": "/"}),
    "GET /sign-up": Row(EVERYBODY),
    "POST /sign-up": Row(EVERYBODY, form={"email": "nobody", "next": "/"}),
    "POST /sign-out": Row(EVERYBODY, form={"no": "field"}, ends_session=True),
    "GET /account": Row(SIGNED_IN),
    "POST /account/password": Row(SIGNED_IN, form={"password": "wrong", "new_password": "a-long-password"}),
    "POST /account/sign-out": Row(EVERYBODY, form={"no": "field"}, ends_session=True),
    "GET /orders": Row(SIGNED_IN),
    "POST /orders": Row(SIGNED_IN, form={"no": "field"}),
    "GET /orders/{order_id}": Row(OWNER_AND_STAFF),
    "POST /orders/{order_id}/cancel": Row(OWNER, form={"no": "field"}),
    # Staff are led on to the order's own page, which they may see.
    "GET /orders/{order_id}/pay": Row(OWNER_AND_STAFF),
    "GET /orders/{order_id}/return": Row(OWNER, query="?payment={payment_id}"),
    "GET /staff": Row(STAFF_ONLY),
    "GET /staff/orders": Row(STAFF_ONLY, query="?find={order_id}"),
    "GET /staff/orders/{order_id}": Row(STAFF_ONLY),
    "POST /staff/payments/{payment_id}/refund": Row(STAFF_ONLY, form={"amount": "1"}),
    "POST /staff/payments/{payment_id}/capture": Row(STAFF_ONLY, form={"amount": ""}),
    "POST /staff/payments/{payment_id}/void": Row(STAFF_ONLY, form={"no": "field"}),
    "POST /staff/payments/{payment_id}/actions/{name}": Row(STAFF_ONLY, form={"no": "field"}),
    "POST /staff/stock": Row(STAFF_ONLY, form={"sku": "TEA-01", "adjust": "1"}),
    "GET /docs": Row(EVERYBODY),
}


@dataclass
class Town:
    """A shop in which the buyer has orders and payments in every state."""

    doors: Doors
    paid: tuple[str, str]
    orders: list[str]
    payments: list[str]


@pytest.fixture(scope="module")
def town(seeded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    for here in doors(seeded_sqlite, tmp_path_factory.mktemp("access")):
        yield run_apart(lambda here=here: _settle(here))  # type: ignore[misc]


async def _settle(here: Doors) -> Town:
    await here.add_account(STRANGER)
    async with here.client(BUYER.email) as buyer:
        orders = [(await buyer.order("TEA-01"))["id"] for _ in range(4)]
        payments = [await buyer.start(orders[0], "paypal"), await buyer.start(orders[1], "stripe")]
        here.shop.agree(payments[0])
        assert (await buyer.complete(payments[0]["id"])).json["order_status"] == "paid"
        payments.append(await buyer.start(orders[2], "paypal"))
        assert (await buyer.post(f"/api/orders/{orders[2]}/cancel")).status == 200
    ids = [one["id"] for one in payments]
    return Town(here, (orders[0], ids[0]), orders, ids)


# ── Roles and routes ──────────


def routes_of(found: Iterable[BaseRoute]) -> set[str]:
    """Every method and path that a server answers, as the table writes them."""
    named: set[str] = set()
    for route in found:
        included = getattr(route, "original_router", None)
        if included is not None:
            # FastAPI keeps a router that was included as a whole.
            named |= routes_of(included.routes)
        elif isinstance(route, APIRoute):
            named |= {f"{method} {route.path}" for method in route.methods or ()}
        else:
            assert isinstance(route, Route | Mount), type(route)
            named.add(f"GET {route.path}")
    return named


def test_every_route_has_a_row_and_every_row_a_route(town: Town) -> None:
    assert routes_of(town.doors.shop.app.routes) == TABLE.keys()


def test_a_route_that_nobody_thought_about_is_found() -> None:
    router = routes.api_router()

    @router.delete("/api/everything")
    async def forgotten() -> None: ...

    assert routes_of(router.routes) - TABLE.keys() == {"DELETE /api/everything"}


@pytest.mark.parametrize("place", range(len(ROLES)), ids=list(ROLES))
async def test_each_role_gets_through_exactly_the_doors_that_are_its_own(town: Town, place: int) -> None:
    email = list(ROLES.values())[place]
    seen = {}
    async with town.doors.client(email) as client:
        for name, row in TABLE.items():
            if not row.ends_session:
                seen[name] = _outcome(await _knock(client, name, row, *town.paid))
    for name, row in TABLE.items():
        if row.ends_session:
            async with town.doors.client(email) as client:
                seen[name] = _outcome(await _knock(client, name, row, *town.paid))
    assert seen == {name: row.outcomes[place] for name, row in TABLE.items()}


@pytest.mark.parametrize("place", range(len(ROLES)), ids=list(ROLES))
async def test_mounted_in_a_hosts_shop_the_doors_are_the_same(town: Town, place: int) -> None:
    """The very rows of the built-in shop, asked of `Payments` with a host's sign-in."""
    with hosted(town.doors, _who_asks) as (url, payments):
        names = routes_of(payments.router.routes)
        assert names <= TABLE.keys()
        async with _visitor(url, await _headers(town, place)) as client:
            seen = {name: _outcome(await _knock(client, name, TABLE[name], *town.paid)) for name in names}
    assert seen == {name: TABLE[name].outcomes[place] for name in names}


async def _knock(client: Client, name: str, row: Row, order: str, payment: str) -> Answer:
    method, _, path = name.partition(" ")
    values = {"order_id": order, "payment_id": payment, "sku": "TEA-01", "gateway": "stripe", "name": "received"}
    address = (path + row.query).format(**values)
    if row.form:
        return await client.request(method, address, data=row.form, headers={"accept": "text/html"})
    return await client.request(method, address, json=row.body)


def _outcome(answer: Answer) -> str:
    assert answer.status < 500, answer.text
    to_sign_in = answer.headers.get("Location", "").startswith("/sign-in?")
    if answer.status == 401 or to_sign_in:
        return SIGN_IN
    return {403: REFUSED, 404: HIDDEN}.get(answer.status, IN)


# ── The same doors in a host's shop ──────────


def _who_asks(request: Request) -> Actor | None:
    user, role = request.headers.get("x-user"), request.headers.get("x-role")
    return None if user is None else Actor(user, is_staff=role == "staff")


async def _headers(town: Town, place: int) -> dict[str, str]:
    email = list(ROLES.values())[place]
    if email is None:
        return {}
    (user,) = await town.doors.rows("SELECT id, role FROM users WHERE email = :email", email=email)
    return {"x-user": user["id"], "x-role": user["role"]}


@asynccontextmanager
async def _visitor(url: str, headers: dict[str, str]) -> AsyncIterator[Client]:
    async with Client(url) as client:
        client.session.headers.update(headers)
        yield client


# ── A stranger at every order and payment ──────────

NO_ORDER, NO_PAYMENT = "ord_" + "0" * 26, "pay_" + "0" * 26
ABOUT_SOMETHING = [name for name in TABLE if "{order_id}" in name or "{payment_id}" in name]


@pytest.mark.parametrize("role", ["nobody", "stranger"])
async def test_a_stranger_can_not_tell_an_order_or_payment_from_one_that_does_not_exist(town: Town, role: str) -> None:
    before = await _state(town)
    async with town.doors.client(ROLES[role]) as client:
        for name in ABOUT_SOMETHING:
            nothing = _told(await _knock(client, name, TABLE[name], NO_ORDER, NO_PAYMENT), NO_ORDER, NO_PAYMENT)
            for order in town.orders:
                for payment in town.payments:
                    answer = await _knock(client, name, TABLE[name], order, payment)
                    assert _told(answer, order, payment) == nothing, name
                    if "{payment_id}" not in name + TABLE[name].query:
                        break
                if "{order_id}" not in name:
                    break
    assert await _state(town) == before, "looking changed something"


def _told(answer: Answer, order: str, payment: str) -> tuple[int, str, dict[str, str]]:
    """All that the asker learns, but for the id that they sent themselves and what differs by chance."""
    chance = {"x-request-id", "date", "content-security-policy"}
    headers = {name.lower(): _own(value, order, payment) for name, value in answer.headers.items()}
    text = _own(answer.text, order, payment)
    return answer.status, _without_nonce(text, answer), {k: v for k, v in headers.items() if k not in chance}


def _own(text: str, order: str, payment: str) -> str:
    return text.replace(order, "ORDER").replace(payment, "PAYMENT")


def _without_nonce(text: str, answer: Answer) -> str:
    policy = answer.headers.get("Content-Security-Policy", "")
    nonces = {part.strip("'").removeprefix("nonce-") for part in policy.split() if part.startswith("'nonce-")}
    for nonce in nonces:
        text = text.replace(nonce, "NONCE")
    return text


async def _state(town: Town) -> list[Any]:
    tables = ("orders", "payments", "operations", "refunds", "history", "audit_log")
    return [await town.doors.rows(f"SELECT * FROM {table}") for table in tables]  # noqa: S608 - the names above.


async def test_two_of_the_buyers_own_orders_do_not_lend_each_other_their_payments(town: Town) -> None:
    """The id of a payment in a return address must belong to the order in it, even if both are the buyer's."""
    async with town.doors.client(BUYER.email) as buyer:
        swapped = await buyer.page(f"/orders/{town.orders[1]}/return?payment={town.paid[1]}")
        assert swapped.status == 404
        assert (await buyer.get(f"/api/orders/{town.orders[1]}")).json["status"] == "open"
