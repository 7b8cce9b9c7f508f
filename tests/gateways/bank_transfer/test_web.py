"""Staff's entries over real HTTP: the API, the forms of the order's page, and who may use them."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import paidonce.db
from conftest import run_apart
from paidonce.web.seed import seed_demo
from support.webshop import Client, WebShop, running_shop

MUG = 1800


@pytest.fixture(scope="module")
def seeded(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bank") / "paidonce.db"
    shutil.copy(sqlite_template, path)
    url = f"sqlite:///{path}"
    run_apart(lambda: _seed(url))
    return url


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    await seed_demo(database)
    await database.close()


@pytest.fixture
def shop(seeded: str) -> Iterator[WebShop]:
    with running_shop(seeded) as shop:
        yield shop


@pytest.fixture
async def buyer(shop: WebShop) -> AsyncIterator[Client]:
    async with shop.client() as client:
        assert (await client.sign_in()).status == 201
        yield client


@pytest.fixture
async def staff(shop: WebShop) -> AsyncIterator[Client]:
    async with shop.client() as client:
        assert (await client.sign_in_as_staff()).status == 201
        yield client


async def promised(buyer: Client) -> tuple[str, Any]:
    """An order whose buyer transfers the money: its id, and what the pay page was given."""
    order = await buyer.order("MUG-01")
    started = await buyer.start(order["id"], "bank_transfer")
    answer = await buyer.complete(started["id"])
    assert (answer.status, answer.json["status"], answer.json["order_status"]) == (200, "awaiting_buyer", "pending")
    assert "waiting for your money" in answer.json["message"]
    return order["id"], started


async def test_staff_enter_money_by_the_api_and_a_repeated_request_is_one_entry(
    shop: WebShop, buyer: Client, staff: Client
) -> None:
    order, started = await promised(buyer)
    path = f"/api/payments/{started['id']}/actions"
    sheet = (await staff.get(path)).json
    assert (sheet["seen"], sheet["to_do"], [one["name"] for one in sheet["actions"]]) == (2, None, ["money_received"])
    assert {"label": "Reference", "text": started["client"]["reference"]} in sheet["facts"]
    assert [(one["name"], one["kind"]) for one in sheet["actions"][0]["params"]] == [
        ("amount", "amount"),
        ("remark", "text"),
    ]
    body = {"seen": 2, "params": {"amount": MUG}}
    for _ in range(2):
        answer = await staff.post(f"{path}/money_received", body, headers={"Idempotency-Key": "form-1"})
        assert (answer.status, answer.json["status"], answer.json["order_status"]) == (200, "captured", "paid")
    late = await staff.post(f"{path}/money_received", body, headers={"Idempotency-Key": "form-2"})
    assert late.is_problem(409, "changed_meanwhile")
    assert (await staff.get(path)).json["seen"] == 3
    assert (await buyer.get(f"/api/orders/{order}")).json["status"] == "paid"


async def test_what_does_not_fit_is_refused_with_the_fix_and_nothing_is_entered(
    shop: WebShop, buyer: Client, staff: Client
) -> None:
    order, started = await promised(buyer)
    path = f"/api/payments/{started['id']}/actions"
    for name, body in [
        ("money_received", {"params": {"amount": MUG}}),
        ("money_received", {"seen": 2}),
        ("money_received", {"seen": 2, "params": {"amount": 18.0}}),
        ("money_received", {"seen": 2, "params": {"amount": True}}),
        ("money_received", {"seen": 2, "params": {"amount": 1, "more": "x"}}),
        ("refund_sent", {"seen": 2, "params": {"refund": "ref_1"}}),
    ]:
        answer = await staff.post(f"{path}/{name}", body)
        assert answer.is_problem(422, "invalid_request"), (name, body)
    for odd in ("NOPE", "a" * 41, "a-b"):
        assert (await staff.post(f"{path}/{odd}", {"seen": 2})).is_problem(404, "not_found")
    assert (await staff.get(path)).json["seen"] == 2
    assert (await buyer.get(f"/api/orders/{order}")).json["status"] == "pending"


async def test_only_staff_see_and_enter(shop: WebShop, buyer: Client, staff: Client) -> None:
    order, started = await promised(buyer)
    path = f"/api/payments/{started['id']}/actions"
    body = {"seen": 2, "params": {"amount": MUG}}
    async with shop.client() as nobody:
        for client, status, code in [(buyer, 403, "forbidden"), (nobody, 401, "not_signed_in")]:
            assert (await client.get(path)).is_problem(status, code)
            assert (await client.post(f"{path}/money_received", body)).is_problem(status, code)
            form = {"key": "form_aaaaaaaaaaaaaaaaaaaaaaaaaa", "seen": "2", "amount:amount": "18.00"}
            page = f"/staff/payments/{started['id']}/actions/money_received"
            assert (await client.form(page, **form)).status == status
    foreign = {"origin": "https://evil.example", "content-type": "application/x-www-form-urlencoded"}
    page = f"/staff/payments/{started['id']}/actions/money_received"
    data = "key=form_aaaaaaaaaaaaaaaaaaaaaaaaaa&seen=2&amount%3Aamount=18.00"
    assert (await staff.request("POST", page, data=data, headers=foreign)).status == 403
    assert (await staff.get("/api/payments/pay_00000000000000000000000000/actions")).is_problem(404, "not_found")
    assert (await staff.get(path)).json["seen"] == 2
    assert (await buyer.get(f"/api/orders/{order}")).json["status"] == "pending"


async def test_a_payment_by_card_has_nothing_to_enter(shop: WebShop, buyer: Client, staff: Client) -> None:
    order = await buyer.order("MUG-01")
    started = await buyer.start(order["id"], "stripe")
    path = f"/api/payments/{started['id']}/actions"
    assert (await staff.get(path)).json == {"seen": 0, "facts": [], "to_do": None, "actions": []}
    answer = await staff.post(f"{path}/money_received", {"seen": 0, "params": {"amount": MUG}})
    assert answer.is_problem(422, "invalid_request")
    assert "/actions/" not in (await staff.page(f"/staff/orders/{order['id']}")).text


def forms(text: str) -> list[dict[str, str]]:
    """The forms for entries on an order's page: where each goes, and its hidden fields."""
    found = []
    for action, inside in re.findall(r'action="(/staff/payments/[^"]+/actions/[^"]+)">(.*?)</form>', text, re.DOTALL):
        hidden = re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', inside)
        found.append({"action": action, **{unescape(name): unescape(value) for name, value in hidden}})
    return found


async def test_the_forms_of_the_page_lead_from_the_money_to_its_refund(
    shop: WebShop, buyer: Client, staff: Client
) -> None:
    order, started = await promised(buyer)
    here = f"/staff/orders/{order}"

    async def send(number: int, **fields: str) -> str:
        form = forms((await staff.page(here)).text)[number]
        answer = await staff.form(form.pop("action"), **form, **fields)
        assert (answer.status, answer.headers["location"]) == (303, here)
        return (await staff.page(here)).text

    assert "Enter exactly what stands on the bank statement" in (await staff.page(here)).text
    assert "Write the amount in EUR" in await send(0, **{"amount:amount": "18,00"})
    assert "amount: it is missing" in unescape(await send(0))
    text = await send(0, **{"amount:amount": "20.00", "text:remark": "4711 <b>"})
    assert "It was entered. The payment: paid." in text
    assert "Send 2.00 EUR back to the buyer" in text
    assert "<b>" not in text
    assert "4711 &lt;b&gt;" in text

    refund = await staff.post(f"/api/payments/{started['id']}/refunds", {"amount": 300})
    assert (refund.status, refund.json["state"]) == (201, "pending")
    text = (await staff.page(here)).text
    assert "The refund of 3.00 EUR was sent" in text
    (sent,) = (form for form in forms(text) if form["action"].endswith("refund_sent"))
    (failed,) = (form for form in forms(text) if form["action"].endswith("refund_failed"))
    action, outdated = sent.pop("action"), failed.pop("action")
    # Sent twice, as by a double click or the Back button; then another form of the same old page.
    for _ in range(2):
        assert (await staff.form(action, **sent)).status == 303
        assert "It was entered" in (await staff.page(here)).text
    assert (await staff.form(outdated, **{**failed, "text:reason": "a mistake"})).status == 303
    assert "It was entered" not in (await staff.page(here)).text
    assert [one["state"] for one in (await staff.get(f"/api/payments/{started['id']}/refunds")).json] == ["succeeded"]


async def test_the_buyers_page_says_what_is_awaited_and_lets_him_turn_back(
    shop: WebShop, buyer: Client, staff: Client
) -> None:
    order, _ = await promised(buyer)
    text = (await buyer.page(f"/orders/{order}")).text
    assert "We are waiting for your money" in text
    assert "order.js" not in text, "nothing changes by asking"
    assert (await buyer.page(f"/orders/{order}/pay")).status == 200
    answer = await buyer.form(f"/orders/{order}/cancel")
    assert answer.status == 303
    assert (await buyer.get(f"/api/orders/{order}")).json["status"] == "canceled"
    text = (await staff.page(f"/staff/orders/{order}")).text
    assert "it can't pay the order by itself" in unescape(text)
