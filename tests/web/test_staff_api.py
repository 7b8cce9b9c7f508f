"""Staff's interface over real HTTP, on both databases: refunds, captures, voids, who may do them, and their pages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from html import unescape
from typing import Any

import pytest

from paidonce import recovery
from paidonce.errors import OutcomeUnknown
from paidonce.gateways.base import RefundSnapshot
from paidonce.web.forms import read_amount
from support.webshop import Answer, Client, WebShop, running_shop

GATEWAYS = ["stripe", "paypal"]
MUG = 1800


@pytest.fixture
async def staff(shop: WebShop) -> AsyncIterator[Client]:
    """A member of staff, signed in."""
    async with shop.client() as client:
        assert (await client.sign_in_as_staff()).status == 201
        yield client


@pytest.fixture
def reserving_shop(seeded_url: str) -> Iterator[WebShop]:
    """A shop that reserves first, where staff capture."""
    with running_shop(seeded_url, PAIDONCE_CAPTURE="manual") as shop:
        yield shop


async def pay(shop: WebShop, client: Client, gateway: str = "stripe", quantity: int = 1) -> tuple[str, str]:
    """The ids of a paid (or reserved) order and its payment."""
    order = await client.order("MUG-01", quantity)
    started = await client.start(order["id"], gateway)
    shop.agree(started)
    assert (await client.complete(started["id"])).json["status"] in {"captured", "authorized"}
    return order["id"], started["id"]


async def refunds_of(client: Client, payment: str) -> list[tuple[int, str]]:
    """The payment's refunds as staff see them."""
    answer = await client.get(f"/api/payments/{payment}/refunds")
    assert answer.status == 200, answer.text
    return [(one["amount"], one["state"]) for one in answer.json]


async def deliver(shop: WebShop, client: Client, gateway: str = "stripe") -> None:
    """Let the gateway tell its news by webhook, and wait until it had its effect."""
    for webhook in shop.twins[gateway].take_webhooks(now=shop.clock.now()):
        headers = {**webhook.headers, "content-type": "application/json"}
        answer = await client.request("POST", webhook.url, data=webhook.body, headers=headers)
        assert answer.status == 200, answer.text


async def eventually(client: Client, order: str, wanted: str) -> Any:
    """The order's explanation, as soon as its next step is `wanted`."""
    for _ in range(100):
        told = (await client.get(f"/api/orders/{order}/explanation")).json
        if (told["next_action"] or {}).get("code") == wanted:
            return told
        await asyncio.sleep(0.05)
    raise AssertionError(f"{wanted} never came, but {told['next_action']}")


# ── Who may ──────────


def staffs_calls(order: str, payment: str) -> list[tuple[str, str, Any]]:
    """Everything that is for staff alone."""
    return [
        ("POST", f"/api/payments/{payment}/refunds", {"amount": 1}),
        ("GET", f"/api/payments/{payment}/refunds", None),
        ("POST", f"/api/payments/{payment}/capture", {}),
        ("POST", f"/api/payments/{payment}/void", {}),
        ("GET", f"/api/orders/{order}/explanation", None),
    ]


async def test_only_staff_may(shop: WebShop, buyer: Client, stranger: Client, staff: Client) -> None:
    order, payment = await pay(shop, buyer)
    async with shop.client() as nobody:
        for method, path, body in staffs_calls(order, payment):
            assert (await nobody.request(method, path, json=body)).is_problem(401, "not_signed_in"), path
            for client in (buyer, stranger):
                assert (await client.request(method, path, json=body)).is_problem(403, "forbidden"), path
        for step in ("refund", "capture", "void"):
            fields = {"amount": "1.00", "key": "form_" + "0" * 26}
            assert (await nobody.form(f"/staff/payments/{payment}/{step}", **fields)).status == 401
            assert (await buyer.form(f"/staff/payments/{payment}/{step}", **fields)).status == 403
        for page in (f"/staff/orders/{order}", f"/staff/orders?find={order}", "/staff"):
            turned_away = await nobody.page(page)
            assert (turned_away.status, turned_away.headers["Location"][:9]) == (303, "/sign-in?")
            assert (await buyer.page(page)).status == 403
    assert await refunds_of(staff, payment) == [], "nobody's request left anything"
    assert (await stranger.page(f"/orders/{order}")).status == 404
    assert (await staff.page(f"/orders/{order}")).status == 200


async def test_ids_that_are_not_there_are_not_found(shop: WebShop, staff: Client) -> None:
    for order, payment in (("ord_" + "0" * 26, "pay_" + "0" * 26), ("x", "%00")):
        for method, path, body in staffs_calls(order, payment):
            assert (await staff.request(method, path, json=body)).is_problem(404, "not_found"), path
        assert (await staff.page(f"/staff/orders/{order}")).status == 404
        assert (await staff.form(f"/staff/payments/{payment}/void")).status == 404


# ── Refunds ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_refunds_are_seen_by_the_buyer_without_the_gateways_ids(
    shop: WebShop, buyer: Client, staff: Client, gateway: str
) -> None:
    order, payment = await pay(shop, buyer, gateway)
    made = await staff.post(f"/api/payments/{payment}/refunds", {"amount": 300, "reason": "a scratch"})
    assert made.status == 201
    body = made.json
    assert body.keys() == {
        *("id", "payment_id", "amount", "currency", "state", "origin", "reason", "restock", "failure", "created_at"),
        "message",
    }
    assert (body["amount"], body["currency"], body["state"], body["origin"]) == (300, "EUR", "succeeded", "staff")
    seen = (await buyer.get(f"/api/orders/{order}")).json
    assert (seen["status"], seen["refund_status"], seen["due"]) == ("paid", "partial", MUG)
    assert seen["payments"][0]["refunds"] == [{"id": body["id"], "amount": 300, "state": "succeeded"}]
    assert "scratch" not in (await buyer.get(f"/api/orders/{order}")).text, "the reason is staff's own"
    assert seen["payments"][0]["disputed"] is False
    told = (await staff.get(f"/api/orders/{order}/explanation")).json
    gateways_id = told["payments"][0]["refunds"][0]["object"]
    assert gateways_id
    assert gateways_id not in (await buyer.get(f"/api/orders/{order}")).text + made.text
    rest = await staff.post(f"/api/payments/{payment}/refunds")
    assert (rest.status, rest.json["amount"]) == (201, MUG - 300)
    assert (await buyer.get(f"/api/orders/{order}")).json["refund_status"] == "full"


async def test_a_key_that_is_used_again_is_the_same_refund(shop: WebShop, buyer: Client, staff: Client) -> None:
    _, payment = await pay(shop, buyer)
    path, key = f"/api/payments/{payment}/refunds", {"Idempotency-Key": "crm-4711"}
    first = await staff.post(path, {"amount": 500}, headers=key)
    again = await staff.post(path, {"amount": 500}, headers=key)
    assert (first.status, again.status, again.json["id"]) == (201, 200, first.json["id"])
    other = await staff.post(path, {"amount": 501}, headers=key)
    assert other.is_problem(422, "invalid_request")
    assert "Idempotency-Key" in other.json["detail"]
    assert await refunds_of(staff, payment) == [(500, "succeeded")]
    assert (await staff.post(path, {"amount": 500}, headers={"Idempotency-Key": "crm-4712"})).status == 201
    assert await refunds_of(staff, payment) == [(500, "succeeded"), (500, "succeeded")]


@pytest.mark.parametrize("key", ["", "x" * 201, "two words", "ü", "tab\there"])
async def test_keys_that_can_not_be_kept_are_refused(quick_shop: WebShop, key: str) -> None:
    async with quick_shop.client() as client:
        await client.sign_in_as_staff()
        path = f"/api/payments/pay_{'0' * 26}/refunds"
        answer = await client.post(path, {"amount": 1}, headers={"Idempotency-Key": key})
        assert answer.is_problem(422, "invalid_request")
        assert "Idempotency-Key" in answer.json["detail"]


WRONG = [
    {"amount": 0},
    {"amount": -1},
    {"amount": 1.0},
    {"amount": 1.5},
    {"amount": True},
    {"amount": "100"},
    {"amount": 10**13},
    {"amount": 1, "currency": "EUR"},
    {"amount": 1, "reason": ""},
    {"amount": 1, "reason": "x" * 201},
    {"amount": 1, "reason": "a\nb"},
    {"amount": 1, "reason": "a\u0000b"},
    {"amount": 1, "reason": 7},
    {"amount": 1, "restock": 1},
    {"amount": 1, "restock": "yes"},
    [1],
]


async def test_wrong_refunds_and_captures_are_refused_and_write_nothing(
    shop: WebShop, buyer: Client, staff: Client
) -> None:
    order, payment = await pay(shop, buyer)
    for body in WRONG:
        answer = await staff.post(f"/api/payments/{payment}/refunds", body)
        assert answer.is_problem(422, "invalid_request"), body
    for body in (*WRONG[:8], {"all": True}):
        assert (await staff.post(f"/api/payments/{payment}/capture", body)).is_problem(422, "invalid_request"), body
    assert (await staff.post(f"/api/payments/{payment}/void", {"amount": 1})).is_problem(422, "invalid_request")
    assert await refunds_of(staff, payment) == []
    told = (await staff.get(f"/api/orders/{order}/explanation")).json
    assert told["next_action"] is None
    assert not [line for line in told["timeline"] if "refund" in line["what"].lower()]


async def test_too_much_is_refused_as_a_whole(shop: WebShop, buyer: Client, staff: Client) -> None:
    order, payment = await pay(shop, buyer)
    path = f"/api/payments/{payment}/refunds"
    refused = await staff.post(path, {"amount": MUG + 1})
    assert refused.is_problem(409, "refund_too_large")
    assert await refunds_of(staff, payment) == []
    assert (await staff.post(path, {"amount": 1000})).status == 201
    assert (await staff.post(path, {"amount": 801})).is_problem(409, "refund_too_large")
    assert await refunds_of(staff, payment) == [(1000, "succeeded")]
    sales = [one for one in (await _told(staff, order))["money"] if one["account"] == "sales"]
    assert [one["amount"] for one in sales] == [800]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_refunds_at_the_same_moment_never_exceed_what_was_captured(
    shop: WebShop, buyer: Client, staff: Client, gateway: str
) -> None:
    order, payment = await pay(shop, buyer, gateway)
    path = f"/api/payments/{payment}/refunds"
    answers = await asyncio.gather(*(staff.post(path, {"amount": 700}) for _ in range(8)))
    statuses = [answer.status for answer in answers]
    assert statuses.count(201) == 2
    assert all(answer.is_problem(409, "refund_too_large") for answer in answers if answer.status != 201)
    assert await refunds_of(staff, payment) == [(700, "succeeded")] * 2
    assert (await _told(staff, order))["payments"][0]["left_to_refund"] == MUG - 1400


async def test_goods_come_back_once(shop: WebShop, buyer: Client, staff: Client) -> None:
    _, payment = await pay(shop, buyer, quantity=2)
    assert await _available(buyer) == 38
    path = f"/api/payments/{payment}/refunds"
    assert (await staff.post(path, {"amount": 100})).json["restock"] is False
    assert await _available(buyer) == 38
    assert (await staff.post(path, {"amount": 100, "restock": True})).status == 201
    assert (await staff.post(path, {"restock": True})).status == 201
    assert await _available(buyer) == 40


async def test_an_outcome_that_is_not_known_is_202_and_not_made_twice(
    shop: WebShop, buyer: Client, staff: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, payment = await pay(shop, buyer)
    gateway = shop.app.state.paidonce.running.gateways["stripe"]
    make, calls = gateway.refund, []

    async def lose(*args: Any, **options: Any) -> RefundSnapshot:
        calls.append(options["idempotency_key"])
        await make(*args, **options)
        raise OutcomeUnknown("the answer was lost")

    monkeypatch.setattr(gateway, "refund", lose)
    path, key = f"/api/payments/{payment}/refunds", {"Idempotency-Key": "once"}
    first = await staff.post(path, {"amount": 400}, headers=key)
    again = await staff.post(path, {"amount": 400}, headers=key)
    assert (first.status, again.status, again.json["id"]) == (202, 202, first.json["id"])
    assert len(calls) == 1
    assert "not be made twice" in first.json["message"]
    told = await _told(staff, order)
    assert told["next_action"]["code"] == "wait_for_refund_answer"
    assert calls[0] not in str(told), "a whole key would let others repeat the call"
    page = (await buyer.page(f"/orders/{order}")).text
    assert "€4.00 is on its way back to you" in page
    monkeypatch.undo()
    await deliver(shop, staff)
    for _ in range(100):
        if await refunds_of(staff, payment) == [(400, "succeeded")]:
            break
        await asyncio.sleep(0.05)
    assert await refunds_of(staff, payment) == [(400, "succeeded")]


async def test_a_dispute_stops_refunds_and_is_told_to_buyer_and_staff(
    shop: WebShop, buyer: Client, staff: Client
) -> None:
    order, payment = await pay(shop, buyer)
    ref = (await _told(staff, order))["payments"][0]["object"]
    opened = shop.twins["stripe"].control("open_dispute", {"ref": ref}, now=shop.clock.now())
    await deliver(shop, staff)
    told = await eventually(staff, order, "answer_dispute")
    assert opened["dispute"] in told["next_action"]["what"]
    assert (await staff.post(f"/api/payments/{payment}/refunds", {"amount": 1})).is_problem(409, "payment_disputed")
    assert await refunds_of(staff, payment) == []
    seen = await buyer.get(f"/api/orders/{order}")
    assert seen.json["payments"][0]["disputed"] is True
    assert opened["dispute"] not in seen.text
    assert "You have disputed €18.00" in (await buyer.page(f"/orders/{order}")).text
    page = (await staff.page(f"/staff/orders/{order}")).text
    assert "Send the money back now" not in page
    assert 'data-status="disputed"' in (await staff.page("/staff")).text


# ── Captures and voids ──────────


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_part_that_is_captured_lowers_what_is_due(reserving_shop: WebShop, gateway: str) -> None:
    async with reserving_shop.client() as buyer, reserving_shop.client() as staff:
        await buyer.sign_in()
        await staff.sign_in_as_staff()
        order, payment = await pay(reserving_shop, buyer, gateway)
        reserved = await buyer.page(f"/orders/{order}")
        assert "Your payment is reserved" in reserved.text
        assert "order.js" not in reserved.text, "what waits for staff is not asked about every few seconds"
        assert (await staff.post(f"/api/payments/{payment}/capture", {"amount": MUG + 1})).status == 422
        assert (await staff.post(f"/api/payments/{payment}/refunds")).is_problem(409, "refund_too_large")
        taken = await staff.post(f"/api/payments/{payment}/capture", {"amount": 1200})
        assert (taken.status, taken.json["status"], taken.json["order_status"]) == (200, "captured", "paid")
        seen = (await buyer.get(f"/api/orders/{order}")).json
        assert (seen["total"], seen["due"], seen["status"]) == (MUG, 1200, "paid")
        again = await staff.post(f"/api/payments/{payment}/capture", {"amount": 1200})
        assert (again.status, again.json["status"]) == (200, "captured"), "safe to repeat"
        assert (await staff.post(f"/api/payments/{payment}/capture")).is_problem(409, "not_authorized")
        assert (await staff.post(f"/api/payments/{payment}/void")).is_problem(409, "not_authorized")
        assert (await staff.post(f"/api/payments/{payment}/refunds", {"amount": 1201})).status == 409
        page = (await buyer.page(f"/orders/{order}")).text
        assert "The shop charged €12.00, less than the €18.00 you ordered for." in page
        books = [one.minor for one in reserving_shop.twins[gateway].books() if one.kind == "capture"]
        assert books == [1200]


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_a_void_releases_the_money_and_the_order_can_be_paid_anew(reserving_shop: WebShop, gateway: str) -> None:
    async with reserving_shop.client() as buyer, reserving_shop.client() as staff:
        await buyer.sign_in()
        await staff.sign_in_as_staff()
        order, payment = await pay(reserving_shop, buyer, gateway)
        for _ in range(2):
            released = await staff.post(f"/api/payments/{payment}/void")
            assert (released.status, released.json["status"]) == (200, "canceled")
        assert (await buyer.get(f"/api/orders/{order}")).json["status"] == "open"
        assert (await staff.post(f"/api/payments/{payment}/capture")).is_problem(409, "not_authorized")
        assert not reserving_shop.twins[gateway].books(), "nothing was charged"
        again = await buyer.start(order, gateway)
        assert again["id"] != payment


async def test_the_staffs_page_captures_and_voids_by_forms(reserving_shop: WebShop) -> None:
    async with reserving_shop.client() as buyer, reserving_shop.client() as staff:
        await buyer.sign_in()
        await staff.sign_in_as_staff()
        order, payment = await pay(reserving_shop, buyer)
        page = (await staff.page(f"/staff/orders/{order}")).text
        assert "Charge the buyer now" in page
        assert "Send the money back now" not in page
        assert "18.01" not in await _flash(staff, order, f"/staff/payments/{payment}/capture", amount="18.01")
        told = await _flash(staff, order, f"/staff/payments/{payment}/capture", amount="12.5")
        assert "€12.50 were captured. The order is paid." in told
        other, held = await pay(reserving_shop, buyer)
        assert "The payment was ended." in await _flash(staff, other, f"/staff/payments/{held}/void")
        assert (await buyer.get(f"/api/orders/{order}")).json["due"] == 1250
        assert (await buyer.get(f"/api/orders/{other}")).json["status"] == "open"


# ── The pages ──────────


async def test_a_double_click_on_the_refund_form_is_one_refund(shop: WebShop, buyer: Client, staff: Client) -> None:
    order, payment = await pay(shop, buyer)
    page = (await staff.page(f"/staff/orders/{order}")).text
    key = _key(page)
    path = f"/staff/payments/{payment}/refund"
    sent = {"amount": "5.00", "reason": "a scratch", "key": key}
    answers = await asyncio.gather(*(staff.form(path, **sent) for _ in range(4)))
    assert {(answer.status, answer.headers["Location"]) for answer in answers} == {(303, f"/staff/orders/{order}")}
    assert await refunds_of(staff, payment) == [(500, "succeeded")]
    assert "it made one refund of €5.00" in await _flash(staff, order, path, **sent)
    changed = await _flash(staff, order, path, **{**sent, "amount": "6.00"})
    assert "This form was sent before, with another amount." in changed
    assert await refunds_of(staff, payment) == [(500, "succeeded")]
    fresh = _key((await staff.page(f"/staff/orders/{order}")).text)
    assert fresh != key
    told = await _flash(staff, order, path, amount="", reason="", key=fresh, restock="1")
    assert "Refund of €13.00: The refund was made." in told
    assert await refunds_of(staff, payment) == [(500, "succeeded"), (1300, "succeeded")]
    assert await _available(buyer) == 40
    done = (await staff.page(f"/staff/orders/{order}")).text
    assert "Nothing to do" in done
    assert "kept by the gateway as its fee" in done
    assert "earned by this order" not in done
    seen = (await buyer.page(f"/orders/{order}")).text
    assert "Your money was sent back" in seen
    assert seen.count("was sent back to you on") == 2


@pytest.mark.parametrize(
    "amount", ["0", "-1", "1,50", "1.005", "1e1", "€1", "1 000", "٣", "nan", "1" * 30, "99999999999999", "0x1"]
)
async def test_amounts_that_are_not_exact_are_refused_on_the_page(quick_shop: WebShop, amount: str) -> None:
    async with quick_shop.client() as buyer, quick_shop.client() as staff:
        await buyer.sign_in()
        await staff.sign_in_as_staff()
        order, payment = await pay(quick_shop, buyer)
        key = _key((await staff.page(f"/staff/orders/{order}")).text)
        told = await _flash(staff, order, f"/staff/payments/{payment}/refund", amount=amount, key=key)
        assert "Write the amount in EUR with digits and a point, such as 19.99." in told
        assert await refunds_of(staff, payment) == []


def test_amounts_are_read_exactly_in_every_currency() -> None:
    assert read_amount(" 19.99 ", "EUR") == 1999
    assert read_amount("19.9", "EUR") == 1990
    assert read_amount("1200", "JPY") == 1200
    assert read_amount("1.234", "KWD") == 1234
    assert read_amount("0.29", "EUR") == 29
    assert read_amount("1.10", "EUR") == 110
    assert read_amount("  ", "EUR") is None


async def test_without_its_key_a_form_refunds_nothing(quick_shop: WebShop) -> None:
    async with quick_shop.client() as buyer, quick_shop.client() as staff:
        await buyer.sign_in()
        await staff.sign_in_as_staff()
        order, payment = await pay(quick_shop, buyer)
        path = f"/staff/payments/{payment}/refund"
        for key in ("", "no key", "x" * 300):
            assert "nothing was refunded" in await _flash(staff, order, path, amount="1", key=key)
        too_much = await _flash(staff, order, path, amount="18.01", key="form_" + "0" * 26)
        assert "Only 18.00 EUR is left to refund" in too_much
        assert await refunds_of(staff, payment) == []
        foreign = await staff.request(
            "POST", path, data={"amount": "1", "key": "form_" + "0" * 26}, headers={"origin": "https://evil.example"}
        )
        assert foreign.status == 403
        assert await refunds_of(staff, payment) == []


async def test_a_hostile_reason_stays_text_everywhere(quick_shop: WebShop) -> None:
    reason = '<script>alert(1)</script>{{ 7*7 }}" onmouseover=x'
    async with quick_shop.client() as buyer, quick_shop.client() as staff:
        await buyer.sign_in()
        await staff.sign_in_as_staff()
        order, payment = await pay(quick_shop, buyer)
        answer = await staff.post(f"/api/payments/{payment}/refunds", {"amount": 100, "reason": reason})
        assert (answer.status, answer.json["reason"]) == (201, reason)
        page = await staff.page(f"/staff/orders/{order}")
        for text in (page.text, (await buyer.page(f"/orders/{order}")).text):
            assert "<script>alert" not in text
            assert '" onmouseover' not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7*7 }}" in page.text
        assert "script-src 'nonce-" in page.headers["Content-Security-Policy"]
        assert "<style" not in page.text
        assert " style=" not in page.text


async def test_an_order_is_found_by_its_number_or_an_id(quick_shop: WebShop) -> None:
    async with quick_shop.client() as buyer, quick_shop.client() as staff:
        await buyer.sign_in()
        await staff.sign_in_as_staff()
        order, payment = await pay(quick_shop, buyer)
        number = (await buyer.get(f"/api/orders/{order}")).json["number"]
        for text in (number, number.lower(), order, payment):
            found = await staff.get("/staff/orders", params={"find": text}, headers={"accept": "text/html"})
            assert (found.status, found.headers["Location"]) == (303, f"/staff/orders/{order}")
        for text in ("", "PO-NOTHING", "//evil.example", "\x00", "é" * 300):
            lost = await staff.get("/staff/orders", params={"find": text}, headers={"accept": "text/html"})
            assert (lost.status, lost.headers["Location"]) == (303, "/staff")
        assert "No order has this number" in (await staff.page("/staff")).text


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_the_explanation_over_http_is_whole_and_holds_no_secret(
    shop: WebShop, buyer: Client, staff: Client, gateway: str
) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], gateway)
    waiting = await _told(staff, order["id"])
    assert waiting["next_action"]["code"] == "wait_for_buyer"
    shop.agree(started)
    await buyer.complete(started["id"])
    answer = await staff.get(f"/api/orders/{order['id']}/explanation")
    told = answer.json
    assert told.keys() == {"order", "payments", "money", "timeline", "next_action"}
    assert (told["order"]["status"], told["order"]["total"], told["next_action"]) == ("paid", MUG, None)
    assert {"operation", "history", "journal", "event"} <= {line["source"] for line in told["timeline"]}
    page = (await staff.page(f"/staff/orders/{order['id']}")).text
    secrets = [value for name, value in started["client"].items() if "secret" in name]
    for text in (answer.text, page):
        assert not [word for word in ("_secret_", "sk_test", "whsec_", "Bearer", *secrets) if word in text]
    for line in told["timeline"]:
        assert line["what"] in unescape(page)


async def test_slow_money_is_told_and_reserved(quick_shop: WebShop) -> None:
    async with quick_shop.client() as buyer, quick_shop.client() as staff:
        await buyer.sign_in()
        await staff.sign_in_as_staff()
        order = await buyer.order()
        started = await buyer.start(order["id"], "stripe")
        assert quick_shop.confirm(started["client"], card="pm_usBankAccount_processing").status == 200
        await buyer.complete(started["id"])
        seen = (await buyer.get(f"/api/orders/{order['id']}")).json
        assert (seen["status"], seen["payments"][0]["status"]) == ("pending", "processing")
        page = (await buyer.page(f"/orders/{order['id']}")).text
        assert seen["payments"][0]["pending_reason"] == "processing"
        assert "Your payment is on its way" in page
        assert "do not pay again" in page
        assert "order.js" in page
        assert (await _told(staff, order["id"]))["next_action"]["code"] == "wait_for_bank"


async def test_money_that_found_no_goods_goes_back_and_its_buyer_reads_so(quick_shop: WebShop) -> None:
    async with quick_shop.client() as buyer, quick_shop.client() as other, quick_shop.client() as staff:
        await buyer.sign_in()
        await other.sign_up("other@example.com")
        await staff.sign_in_as_staff()
        order = await buyer.order("PHONES-01", 4)
        started = await buyer.start(order["id"], "stripe")
        quick_shop.clock.pass_seconds(21 * 60)
        theirs = await other.order("PHONES-01", 4)
        quick_shop.agree(await other.start(theirs["id"], "stripe"))
        await other.complete((await other.get(f"/api/orders/{theirs['id']}")).json["payments"][0]["id"])
        quick_shop.agree(started)
        await buyer.complete(started["id"])
        page = (await buyer.page(f"/orders/{order['id']}")).text
        assert "Your payment goes back to you" in page
        assert "came too late and does not count" in page
        assert "You have not been charged" not in page
        assert f'href="/orders/{order["id"]}/pay"' not in page
        assert (await buyer.page(f"/orders/{order['id']}/pay")).status == 303
        assert (await _told(staff, order["id"]))["next_action"]["code"] == "wait_for_refund_answer"
        await recovery.drain(quick_shop.app.state.paidonce.running)
        page = (await buyer.page(f"/orders/{order['id']}")).text
        assert "was sent back to you on" in page
        assert "You have not been charged" not in page
        assert (await buyer.get(f"/api/orders/{order['id']}")).json["status"] != "paid"


async def _told(staff: Client, order: str) -> Any:
    answer = await staff.get(f"/api/orders/{order}/explanation")
    assert answer.status == 200, answer.text
    return answer.json


async def _flash(staff: Client, order: str, path: str, **fields: str) -> str:
    """What the order's page says after the form was sent."""
    answer: Answer = await staff.form(path, **fields)
    assert (answer.status, answer.headers["Location"]) == (303, f"/staff/orders/{order}"), answer.text
    page = unescape((await staff.page(f"/staff/orders/{order}")).text)
    told = re.search(r'<p class="notice flash"[^>]*>(.*?)</p>', page, re.DOTALL)
    assert told is not None
    return told[1]


def _key(page: str) -> str:
    found = re.search(r'name="key" value="(form_[0-9a-z]{26})"', page)
    assert found is not None
    return found[1]


async def _available(client: Client) -> int:
    products = (await client.get("/api/products")).json
    return next(int(product["available"]) for product in products if product["sku"] == "MUG-01")
