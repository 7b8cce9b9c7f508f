"""What examples/own_shop looks after by itself: its forms, its sessions, and where its redirects end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing

import pytest

from paidonce import Policy, serving
from paidonce.demo.servers import in_thread
from shops.adapter import PLENTY, RARE
from shops.conftest import Buyer, Till
from shops.own import PASSWORD, adapter, example
from shops.twins import PAYABLE, Twins, running_twins
from support.webshop import Client

CARD = next(one for one in PAYABLE if one.name == "stripe")
# Signing out or ageing a session would disturb the other tests' buyers.
LEAVES, STAYS_AWAY = 50, 51
KEY = "a-button-pressed-once"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    """This shop alone, on SQLite."""
    url = f"sqlite:///{tmp_path_factory.mktemp('own')}/shop.db"
    adapter.prepare(url)
    with running_twins() as twins, adapter.start(url, twins.settings) as shop:
        yield Till(shop, twins, url, AsyncExitStack())


async def orders(till: Till) -> int:
    return int((await till.rows("SELECT count(*) AS n FROM orders"))[0]["n"])


@pytest.mark.parametrize("quantity", ["000199999", "0", "-1", "100", "1e1", "+5", "1.0", "٣", "01", " 1"])
async def test_a_quantity_is_read_once_and_as_a_whole(till: Till, quantity: str) -> None:
    """The first four digits were checked and all of them were ordered: "000199999" made an order for 199999 bags."""
    buyer = await till.buyer()
    before = await orders(till)
    answer = await buyer.browser.form("/buy", sku=PLENTY.sku, quantity=quantity)
    assert answer.status == 422
    assert await orders(till) == before


async def test_money_that_goes_back_is_not_told_as_not_charged(till: Till) -> None:
    """The card was charged for goods that were gone, and the page of the return said "you have not been charged"."""
    buyer, other = await till.buyer(0), await till.buyer(1)
    order = await buyer.order(RARE.sku, RARE.on_hand)
    started = (await buyer.start(order, CARD.name)).json
    await till.pass_seconds(Policy().hold_seconds + 1)
    assert (await other.start(await other.order(RARE.sku, RARE.on_hand), CARD.name)).status == 201
    await buyer.agree(CARD, started)
    back = await buyer.browser.get(f"/orders/{order}/back?payment={started['id']}")
    assert (back.status, back.headers["Location"]) == (303, f"/orders/{order}?said=returned")
    page = (await buyer.browser.page(back.headers["Location"])).text
    assert "you will get it back" in page
    assert "not been charged" not in page
    assert (await till.shop.order_status(order), await till.shop.own_rows(order)) == ("open", 0)
    assert await till.shop.on_hand(RARE.sku) == RARE.on_hand


async def refund(staff: Buyer, order: str, key: str, **headers: str) -> int:
    fields = {"key": key} if key else {}
    path = f"/staff/orders/{order}/refund"
    return (await staff.browser.request("POST", path, data=fields, headers=headers)).status


async def test_only_the_button_of_the_shops_own_page_refunds(till: Till) -> None:
    """Another page on the same site could make a member of staff's browser refund, and each time anew."""
    buyer, staff = await till.buyer(), await till.staff()
    order = await buyer.order(PLENTY.sku)
    payment = await buyer.pay(order, CARD)
    foreign = {"Origin": "https://blog.shop.example", "Sec-Fetch-Site": "same-site"}
    assert await refund(staff, order, KEY, **foreign) == 403
    assert await refund(staff, order, KEY, Origin="null") == 403
    assert await refund(staff, order, "") == 422
    assert await till.rows("SELECT id FROM refunds WHERE payment_id = :id", id=payment) == []
    assert till.twins.moved(payment) == {"capture": PLENTY.price_minor}
    ours = {"Origin": till.shop.url, "Sec-Fetch-Site": "same-origin"}
    assert [await refund(staff, order, KEY, **ours) for _ in range(2)] == [303, 303]
    assert len(await till.rows("SELECT id FROM refunds WHERE payment_id = :id", id=payment)) == 1
    assert till.twins.moved(payment)["refund"] == -PLENTY.price_minor


async def is_signed_in(buyer: Buyer) -> bool:
    """Whether the shop's pages and paidonce's routes both know who asks."""
    page = await buyer.browser.page("/orders")
    known = (await buyer.browser.get("/api/payments/pay_00000000000000000000000000")).status == 404
    assert known == (page.status == 200)
    return known


async def test_a_session_ends_on_the_server_when_its_buyer_leaves(till: Till) -> None:
    """A copied cookie is worth nothing after signing out."""
    buyer, copied = await till.buyer(LEAVES), await till.buyer(LEAVES)
    assert await is_signed_in(copied)
    assert (await buyer.browser.form("/sign-out")).status == 303
    assert not await is_signed_in(copied)


async def test_a_session_ends_on_the_server_after_a_time(till: Till) -> None:
    """A copied cookie was good for ever: only the browser knew when it ends."""
    buyer = await till.buyer(STAYS_AWAY)
    assert await is_signed_in(buyer)
    with closing(sqlite3.connect(till.database_url.removeprefix("sqlite:///"))) as own, own:
        aged = own.execute(
            "UPDATE logins SET ends_at = datetime('now', '-1 second') || '.000000'"
            " WHERE user_id = (SELECT id FROM users WHERE email = ?)",
            (f"buyer{STAYS_AWAY}@example.com",),
        )
        assert aged.rowcount == 1
    assert not await is_signed_in(buyer)


@pytest.mark.parametrize(("public_url", "secure"), [("https://shop.example", True), ("http://127.0.0.1:8100", False)])
async def test_the_cookie_of_a_shop_on_https_travels_encrypted_only(
    till: Till, public_url: str, *, secure: bool
) -> None:
    """The cookie of the sign-in went along with the first plain http request to the host."""
    twins: Twins = till.twins
    environment = {
        **twins.settings,
        "DATABASE_URL": till.database_url,
        "PAIDONCE_PUBLIC_URL": public_url,
        "PAIDONCE_WORKER": "0",
    }
    app = example("app").create_app(environment)
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener, in_thread(app, listener):
        async with Client(f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}") as browser:
            answer = await browser.form("/sign-in", email="buyer2@example.com", password=PASSWORD)
    app.state.engine.dispose()
    cookie = answer.cookies["ember_login"]
    assert (bool(cookie["secure"]), cookie["httponly"], cookie["samesite"]) == (secure, True, "lax")
