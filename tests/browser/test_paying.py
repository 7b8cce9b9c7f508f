"""A buyer pays in Chromium: the production pages, under their real policy, in both surroundings."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from support.browsershop import Visit


def assert_paid_page(page: Page, order: str) -> None:
    """The clean order page, and nothing else in the address."""
    expect(page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/orders/{order}", page.url)


def assert_paid_once(buyer: Visit, order: str, gateway: str) -> None:
    state = buyer.state(order)
    assert (state["status"], state["refund_status"]) == ("paid", "none")
    assert [(p["gateway"], p["status"]) for p in state["payments"] if p["status"] != "canceled"] == [
        (gateway, "captured")
    ]


def test_from_the_catalogue_to_a_paid_order_by_card(buyer: Visit) -> None:
    page, url = buyer.page, buyer.around.url
    page.goto(url)
    page.get_by_role("button", name="Add Stoneware mug").click()
    expect(page.get_by_role("link", name="Basket 1")).to_be_visible()
    expect(page.locator("#announce")).to_have_text("Stoneware mug: 1 in your basket.")
    page.get_by_role("link", name="Basket 1").click()
    page.get_by_label("Quantity of Stoneware mug").fill("2")
    page.get_by_role("button", name="Update").click()
    expect(page.get_by_label("Summary")).to_contain_text("€36.00")
    page.get_by_role("button", name="Go to payment").click()
    fields = buyer.card_fields
    fields.get_by_label("Card number").fill("4242 4242 4242 4242")
    fields.get_by_label("Expiration").fill("12 / 40")
    fields.get_by_label("Security code").fill("123")
    buyer.pay_by_card()
    order = page.url.split("/orders/")[1].split("/")[0]
    assert_paid_page(page, order)
    assert_paid_once(buyer, order, "stripe")
    assert buyer.state(order)["total"] == 3600
    buyer.assert_no_secret_left()
    # No card data came near the shop.
    assert "4242" not in "".join(buyer.addresses)
    page.goto(f"{url}/orders/{order}/pay")
    assert_paid_page(page, order)


def test_a_declined_card_is_explained_and_another_one_pays_on_the_same_page(buyer: Visit) -> None:
    order = buyer.pay_page()
    buyer.choose_card("No funds")
    buyer.pay_by_card()
    alert = buyer.page.locator("stripe-payment").get_by_role("alert")
    expect(alert).to_contain_text(re.compile("funds|money", re.IGNORECASE))
    expect(alert).to_be_focused()
    assert "insufficient_funds" not in alert.inner_text()
    assert buyer.page.url.endswith(f"/orders/{order}/pay")
    assert buyer.state(order)["status"] == "open"
    buyer.choose_card("Pays")
    buyer.pay_by_card()
    assert_paid_page(buyer.page, order)
    assert_paid_once(buyer, order, "stripe")


def test_the_bank_asks_and_the_buyer_comes_back_paid(buyer: Visit) -> None:
    order = buyer.pay_page()
    buyer.choose_card("3-D Secure")
    buyer.pay_by_card()
    buyer.page.get_by_role("button", name="Authorize payment").click()
    assert_paid_page(buyer.page, order)
    assert_paid_once(buyer, order, "stripe")
    buyer.assert_no_secret_left()
    # The bank's page is used up, and what lies behind the buyer holds no secret either.
    buyer.page.go_back()
    buyer.assert_no_secret_left()
    buyer.console[:] = [line for line in buyer.console if "status of 410" not in line]


def test_the_bank_refuses_and_the_buyer_pays_with_another_card(buyer: Visit) -> None:
    order = buyer.pay_page()
    buyer.choose_card("3-D Secure")
    buyer.pay_by_card()
    buyer.page.get_by_role("button", name="Fail authentication").click()
    expect(buyer.page.get_by_role("heading", name="How would you like to pay?")).to_be_visible()
    expect(buyer.page.locator(".flash")).to_have_attribute("role", "alert")
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/orders/{order}/pay", buyer.page.url)
    buyer.assert_no_secret_left()
    assert buyer.state(order)["status"] == "open"
    buyer.choose_card("Pays")
    buyer.pay_by_card()
    assert_paid_page(buyer.page, order)
    assert_paid_once(buyer, order, "stripe")


def test_paypal_in_a_pop_up(buyer: Visit) -> None:
    order = buyer.pay_page()
    with buyer.page.expect_popup() as opened:
        buyer.paypal_button.click()
    opened.value.get_by_role("button", name=re.compile("^Pay ")).click()
    assert_paid_page(buyer.page, order)
    assert_paid_once(buyer, order, "paypal")


def test_paypal_in_the_same_tab(buyer: Visit) -> None:
    order = buyer.pay_page()
    buyer.page.get_by_role("button", name="Continue in this tab instead").click()
    # PayPal's button says "9.90 EUR": the shop's own "Pay €9.90" is still there until the page has changed.
    buyer.page.get_by_role("button", name="Pay 9.90 EUR").click()
    assert_paid_page(buyer.page, order)
    assert_paid_once(buyer, order, "paypal")


def test_a_declined_funding_source_is_explained_and_another_one_pays_the_same_order(buyer: Visit) -> None:
    order = buyer.pay_page()
    with buyer.page.expect_popup() as opened:
        buyer.paypal_button.click()
    opened.value.get_by_label(re.compile("will be declined")).check()
    opened.value.get_by_role("button", name=re.compile("^Pay ")).click()
    alert = buyer.page.locator("paypal-payment").get_by_role("alert")
    expect(alert).to_be_focused()
    expect(alert).to_contain_text("declined")
    assert buyer.state(order)["status"] == "open"
    with buyer.page.expect_popup() as again:
        buyer.paypal_button.click()
    again.value.get_by_label("PayPal balance").check()
    again.value.get_by_role("button", name=re.compile("^Pay ")).click()
    assert_paid_page(buyer.page, order)
    assert_paid_once(buyer, order, "paypal")
    assert len(buyer.state(order)["payments"]) == 1, "the same PayPal order was paid"


def test_canceling_at_paypal_loses_nothing(buyer: Visit) -> None:
    order = buyer.pay_page()
    with buyer.page.expect_popup() as opened:
        buyer.paypal_button.click()
    opened.value.get_by_role("button", name="Cancel and return").click()
    expect(buyer.page.locator("paypal-payment").get_by_role("status")).to_contain_text("Nothing was charged")
    assert buyer.state(order)["status"] == "open"
    buyer.page.get_by_role("button", name="Continue in this tab instead").click()
    buyer.page.get_by_role("button", name="Cancel and return").click()
    expect(buyer.page.get_by_text("You came back without paying.")).to_be_visible()
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/orders/{order}/pay", buyer.page.url)
    buyer.choose_card("Pays")
    buyer.pay_by_card()
    assert_paid_page(buyer.page, order)
    assert buyer.state(order)["status"] == "paid"


def test_a_card_payment_by_keyboard_alone(buyer: Visit) -> None:
    order = buyer.pay_page()
    expect(buyer.card_fields.get_by_label("Card number")).to_be_visible()
    keyboard = buyer.page.keyboard
    keyboard.press("Tab")
    expect(buyer.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    keyboard.press("Enter")
    for _ in range(12):
        keyboard.press("Tab")
        if buyer.page.locator("stripe-payment iframe").evaluate("frame => document.activeElement === frame"):
            break
    expect(buyer.card_fields.get_by_label("Card number")).to_be_focused()
    keyboard.type("4242424242424242")
    for text in ("1240", "123"):
        keyboard.press("Tab")
        keyboard.type(text)
    keyboard.press("Tab")
    button = buyer.page.locator("stripe-payment").get_by_role("button", name="Pay")
    for _ in range(8):
        if button.evaluate("button => document.activeElement === button"):
            break
        keyboard.press("Tab")
    expect(button).to_be_focused()
    keyboard.press("Enter")
    assert_paid_page(buyer.page, order)
    assert_paid_once(buyer, order, "stripe")


@pytest.mark.parametrize(
    ("blocked", "broken", "works"), [("stripe", "stripe-payment", "paypal"), ("web-sdk", "paypal-payment", "stripe")]
)
def test_a_blocked_script_is_explained_and_the_other_way_still_pays(
    buyer: Visit, blocked: str, broken: str, works: str
) -> None:
    scripts = {"stripe": ("/js/v3", "stripe.js"), "web-sdk": ("/web-sdk/v6/core",)}
    buyer.blocked = scripts[blocked]
    order = buyer.pay_page()
    panel = buyer.page.locator(broken)
    expect(panel.get_by_role("alert")).to_contain_text("could not be loaded")
    expect(panel.get_by_role("button", name="Try loading it again")).to_be_visible()
    if works == "paypal":
        with buyer.page.expect_popup() as opened:
            buyer.paypal_button.click()
        opened.value.get_by_role("button", name=re.compile("^Pay ")).click()
    else:
        buyer.choose_card("Pays")
        buyer.pay_by_card()
    assert_paid_page(buyer.page, order)
    assert_paid_once(buyer, order, works)
    buyer.console[:] = [line for line in buyer.console if "ERR_FAILED" not in line]


def test_a_blocked_script_can_be_loaded_again(buyer: Visit) -> None:
    buyer.blocked = ("/js/v3", "stripe.js")
    order = buyer.pay_page()
    again = buyer.page.locator("stripe-payment").get_by_role("button", name="Try loading it again")
    expect(again).to_be_visible()
    buyer.blocked = ()
    again.click()
    buyer.choose_card("Pays")
    buyer.pay_by_card()
    assert_paid_page(buyer.page, order)
    buyer.console[:] = [line for line in buyer.console if "ERR_FAILED" not in line]


def test_two_tabs_pay_once(buyer: Visit) -> None:
    order = buyer.pay_page()
    buyer.choose_card("Pays")
    other = buyer.context.new_page()
    other.goto(buyer.page.url)
    other.frame_locator("stripe-payment iframe").get_by_role("button", name="Pays", exact=True).click()
    buyer.pay_by_card()
    assert_paid_page(buyer.page, order)
    other.locator("stripe-payment").get_by_role("button", name="Pay").click()
    assert_paid_page(other, order)
    assert_paid_once(buyer, order, "stripe")
    buyer.console[:] = [line for line in buyer.console if "status of 409" not in line]


def test_money_that_takes_days_is_told_as_pending_and_not_as_paid(buyer: Visit) -> None:
    order = buyer.pay_page()
    with buyer.page.expect_popup() as opened:
        buyer.paypal_button.click()
    opened.value.get_by_label(re.compile("pending")).check()
    opened.value.get_by_role("button", name=re.compile("^Pay ")).click()
    expect(buyer.page.get_by_role("heading", name="Your payment is on its way")).to_be_visible()
    expect(buyer.page.locator("[data-note]")).to_contain_text("Checked once")
    assert buyer.state(order)["status"] == "pending"
    buyer.open_pay_page(order)
    expect(buyer.page.get_by_role("heading", name="Your payment is on its way")).to_be_visible()
