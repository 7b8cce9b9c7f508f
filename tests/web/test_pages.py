"""The pages by plain forms, as a browser without scripts would use them, and the way back from a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from paidonce.money import Money, MoneyError
from support.webshop import Client, WebShop


@pytest.fixture
async def buyer(quick_shop: WebShop) -> AsyncIterator[Client]:
    """The demo buyer, signed in."""
    async with quick_shop.client() as client:
        assert (await client.sign_in()).status == 201
        yield client


async def test_from_the_catalogue_to_the_pay_page_without_scripts(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        assert "Stoneware mug" in (await client.page("/")).text
        added = await client.form("/basket/add", sku="MUG-01")
        assert (added.status, added.headers["Location"]) == (303, "/")
        assert "Stoneware mug: 1 in your basket." in (await client.page("/")).text
        assert "1 in your basket" not in (await client.page("/")).text, "a message is shown once"
        await client.form("/basket/set", sku="MUG-01", quantity="3")
        assert "€54.00" in (await client.page("/basket")).text
        ordered = await client.form("/orders")
        assert ordered.headers["Location"] == "/sign-in?next=%2Fbasket"
        back = await client.form("/sign-in", email="buyer@example.com", password="buyer-password", next="/basket")
        assert back.headers["Location"] == "/basket"
        ordered = await client.form("/orders")
        assert ordered.status == 303
        pay = await client.page(ordered.headers["Location"])
        assert "€54.00" in pay.text
        assert "Nothing in it yet" in (await client.page("/basket")).text
        order = (await client.get("/api/orders")).json[0]
        assert (order["total"], order["lines"][0]["quantity"]) == (5400, 3)


async def test_the_pay_page_has_one_element_for_each_gateway(quick_shop: WebShop, buyer: Client) -> None:
    order = await buyer.order()
    text = (await buyer.page(f"/orders/{order['id']}/pay")).text
    for name, part in quick_shop.app.state.paidonce.components.items():
        assert f'<{part.element} class="payment"' in text
        assert f'src="/assets/gateways/{name}/{part.module}"' in text
        assert (await buyer.get(f"/assets/gateways/{name}/{part.module}")).status == 200
    assert text.count(f'order="{order["id"]}"') == len(quick_shop.app.state.paidonce.components)
    assert f'return-url="{quick_shop.url}/orders/{order["id"]}/return?payment={{payment}}"' in text
    assert (await buyer.get("/api/orders")).json[0]["payments"] == [], "looking at the page starts nothing"


async def test_a_gateway_that_cannot_express_the_amount_is_not_offered_and_says_why(
    quick_shop: WebShop, buyer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(amount: Money) -> None:
        raise MoneyError("no such amount")

    monkeypatch.setattr(quick_shop.app.state.paidonce.gateways["paypal"], "check_amount", refuse)
    order = await buyer.order()
    page = await buyer.page(f"/orders/{order['id']}/pay")
    assert "PayPal can&#39;t take €18.00 exactly" in page.text
    assert "<paypal-payment" not in page.text
    assert 'src="/assets/gateways/paypal' not in page.text
    assert "<stripe-payment" in page.text


async def test_coming_back_paid_leads_to_a_clean_order_page(quick_shop: WebShop, buyer: Client) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], "stripe")
    quick_shop.agree(started)
    secret = started["client"]["client_secret"]
    here = f"/orders/{order['id']}"
    cleaned = await buyer.page(
        f"{here}/return?payment={started['id']}&payment_intent_client_secret={secret}&redirect_status=failed"
    )
    assert (cleaned.status, cleaned.headers["Location"]) == (303, f"?payment={started['id']}")
    back = await buyer.page(f"{here}/return?payment={started['id']}")
    assert (back.status, back.headers["Location"]) == (303, here)
    assert (back.headers["Referrer-Policy"], back.headers["Cache-Control"]) == ("strict-origin", "no-store")
    page = await buyer.page(here)
    assert "Paid. Thank you!" in page.text
    assert secret not in page.text
    pay = await buyer.page(f"{here}/pay")
    assert (pay.status, pay.headers["Location"]) == (303, here)


async def test_coming_back_with_a_lie_pays_nothing(quick_shop: WebShop, buyer: Client) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], "stripe")
    here = f"/orders/{order['id']}"
    lie = await buyer.page(f"{here}/return?payment={started['id']}&redirect_status=succeeded")
    back = await buyer.page(f"{here}/return{lie.headers['Location']}")
    assert (back.status, back.headers["Location"]) == (303, f"{here}/pay")
    assert "You came back without paying" in (await buyer.page(f"{here}/pay")).text
    assert (await buyer.get(f"/api/orders/{order['id']}")).json["status"] == "open"


async def test_coming_back_declined_says_why_on_the_pay_page(quick_shop: WebShop, buyer: Client) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], "stripe")
    quick_shop.confirm(started["client"], card="pm_card_visa_chargeDeclinedInsufficientFunds")
    back = await buyer.page(f"/orders/{order['id']}/return?payment={started['id']}")
    assert back.headers["Location"] == f"/orders/{order['id']}/pay"
    page = await buyer.page(back.headers["Location"])
    assert 'data-tone="error" role="alert"' in page.text
    assert "did not go through" in (await buyer.page(f"/orders/{order['id']}")).text


async def test_coming_back_with_money_that_goes_back_asks_nobody_to_pay(quick_shop: WebShop, buyer: Client) -> None:
    """The goods were gone: the buyer hears that the money comes back, on the order's page and not on the pay page."""
    order = await buyer.order("PHONES-01", 4)
    started = await buyer.start(order["id"], "stripe")
    quick_shop.clock.pass_seconds(quick_shop.app.state.paidonce.running.policy.hold_seconds + 1)
    async with quick_shop.client() as other:
        await other.sign_up("quicker@example.com")
        await other.start((await other.order("PHONES-01", 4))["id"], "stripe")
    quick_shop.agree(started)
    here = f"/orders/{order['id']}"
    back = await buyer.page(f"{here}/return?payment={started['id']}")
    assert (back.status, back.headers["Location"]) == (303, here)
    page = (await buyer.page(here)).text
    assert "came too late and does not count for this order; you get it back" in page
    assert "Thank you" not in page
    assert (await buyer.get(f"/api/orders/{order['id']}")).json["status"] == "open"


async def test_payments_of_another_order_are_not_taken_by_the_return(quick_shop: WebShop, buyer: Client) -> None:
    cheap, dear = await buyer.order("TEA-01"), await buyer.order("PHONES-01")
    started = await buyer.start(cheap["id"], "stripe")
    quick_shop.agree(started)
    for payment in (started["id"], "", "pay_" + "0" * 26, "x'--"):
        back = await buyer.page(f"/orders/{dear['id']}/return?payment={payment}")
        assert back.status == 404
    assert (await buyer.get(f"/api/orders/{dear['id']}")).json["status"] == "open"
    assert (await buyer.get(f"/api/orders/{cheap['id']}")).json["status"] == "open"


async def test_the_pay_page_drops_what_a_gateway_added_to_its_address(buyer: Client) -> None:
    order = await buyer.order()
    back = await buyer.page(f"/orders/{order['id']}/pay?back=1&token=EC-123")
    assert (back.status, back.headers["Location"]) == (303, f"/orders/{order['id']}/pay")
    assert "You came back without paying" in (await buyer.page(f"/orders/{order['id']}/pay")).text


async def test_a_buyer_cancels_an_order_and_signs_out_by_forms(buyer: Client) -> None:
    order = await buyer.order()
    here = f"/orders/{order['id']}"
    assert "Waiting for your payment" in (await buyer.page(here)).text
    assert (await buyer.form(f"{here}/cancel")).headers["Location"] == here
    assert "This order was canceled" in (await buyer.page(here)).text
    assert order["number"] in (await buyer.page("/orders")).text
    assert (await buyer.form("/sign-out")).headers["Location"] == "/"
    assert (await buyer.get("/api/orders")).status == 401


async def test_a_form_that_is_wrong_comes_back_with_what_was_typed_but_no_password(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        wrong = await client.form("/sign-in", email="buyer@example.com", password="canary-secret-77")
        assert wrong.status == 401
        assert 'value="buyer@example.com"' in wrong.text
        assert "canary" not in wrong.text
        short = await client.form("/sign-up", email="new@example.com", name="<b>Bo</b>", password="canary")
        assert short.status == 422
        assert 'aria-invalid="true"' in short.text
        assert "<b>Bo" not in short.text
        assert "canary" not in short.text
        made = await client.form("/sign-up", email="new@example.com", name="Bo", password="a-long-password")
        assert (made.status, made.headers["Location"]) == (303, "/")
        assert (await client.get("/api/orders")).status == 200


async def test_basket_forms_refuse_nonsense(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        for fields in (
            {"sku": "MUG-01", "quantity": "-1"},
            {"sku": "MUG-01", "quantity": "1e3"},
            {"sku": "MUG-01", "quantity": "9999"},
        ):
            assert (await client.form("/basket/add", **fields)).status == 422
        assert (await client.form("/basket/add", sku="NONE")).status == 404
        assert "Nothing in it yet" in (await client.page("/basket")).text


async def test_staff_see_held_payments_and_change_the_stock(quick_shop: WebShop, buyer: Client) -> None:
    order = await buyer.order()
    started = await buyer.start(order["id"], "paypal")

    async def hold(tx: object) -> None:
        await tx.execute(  # type: ignore[attr-defined]
            "UPDATE payments SET status = 'held', held_reason = 'the amount differs' WHERE id = :id",
            {"id": started["id"]},
        )

    await quick_shop.app.state.paidonce.running.db.transaction(hold)
    assert "We are checking your payment" in (await buyer.page(f"/orders/{order['id']}")).text
    async with quick_shop.client() as staff:
        await staff.sign_in_as_staff()
        page = (await staff.page("/staff")).text
        assert started["id"] in page
        assert "the amount differs" in page
        assert (await staff.form("/staff/stock", sku="MUG-01", adjust="+5")).headers["Location"] == "/staff"
        assert "Stoneware mug: now 45 on hand." in (await staff.page("/staff")).text
        await staff.form("/staff/stock", sku="MUG-01", adjust="5.5")
        assert "whole number" in (await staff.page("/staff")).text
    refused = await buyer.form("/staff/stock", sku="MUG-01", adjust="5")
    assert refused.status == 403


async def test_names_with_markup_stay_text_everywhere(quick_shop: WebShop, buyer: Client) -> None:
    core, name = quick_shop.app.state.paidonce.running, "<script>alert(1)</script><img src=x onerror=alert(1)>"
    await core.db.transaction(
        quick_shop.app.state.paidonce.store.add_product,
        sku="EVIL-01",
        name=name,
        description=name,
        image='"><script>alert(1)</script>',
        price=Money(100, "EUR"),
        on_hand=5,
        position=99,
        now=core.clock.now(),
    )
    await buyer.form("/basket/add", sku="EVIL-01")
    order = await buyer.order("EVIL-01")
    for path in ("/", "/basket", "/orders", f"/orders/{order['id']}", f"/orders/{order['id']}/pay"):
        text = (await buyer.page(path)).text
        assert "&lt;script&gt;alert(1)" in text, path
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path


async def test_the_api_page_names_every_address_of_the_contract(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        text = (await client.page("/docs")).text
        document = (await client.get("/openapi.json")).json
    for path in document["paths"]:
        assert f"<code>{path}</code>" in text
    for code in ("not_signed_in", "sold_out", "already_paid", "gateway_unavailable"):
        assert f'id="problem-{code}"' in text
    assert "https://cdn" not in text
