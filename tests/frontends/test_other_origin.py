"""Front ends on other origins pay in Chromium: the plain page and the built React page, against the real shop."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from support.browsershop import Visit

from .conftest import Town

FRONT_ENDS = ["plain", "react"]


def choose(guest: Visit, page: str) -> str:
    """Go to a front end and buy the tea there; returns the order's id, which stands in the address."""
    guest.page.goto(page)
    guest.page.get_by_role("button", name="Buy Garden tea").click()
    expect(guest.page).to_have_url(re.compile(r"\?order=ord_\w+$"))
    return guest.page.url.split("?order=")[1]


def heard(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("window.heard")
    return found


def done(page: Page) -> Locator:
    return page.get_by_role("status").filter(has_text=re.compile(r"Order \S+ is paid\."))


def assert_paid_at(guest: Visit, town: Town, front_end: str, order: str, gateway: str) -> None:
    """Told on the front end's own page with a clean address; paid once, and the shop's pages were never seen."""
    expect(done(guest.page)).to_be_visible()
    assert guest.page.url == f"{town.page(front_end)}/?order={order}"
    state = guest.state(order)
    assert state["status"] == "paid"
    assert [(one["gateway"], one["status"]) for one in state["payments"] if one["status"] != "canceled"] == [
        (gateway, "captured")
    ]
    guest.assert_no_secret_left()
    of_the_shop = [url.removeprefix(town.shop.url) for url in guest.addresses]
    assert of_the_shop, "the front end did not talk to this shop"
    assert [path for path in of_the_shop if not path.startswith(("/api/", "/assets/"))] == []
    assert guest.page.evaluate("window.crashes") == []


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_card_pays_and_the_page_hears_it(guest: Visit, town: Town, front_end: str) -> None:
    order = choose(guest, town.page(front_end))
    guest.choose_card("Pays")
    guest.pay_by_card()
    assert_paid_at(guest, town, front_end, order, "stripe")
    (event,) = heard(guest.page)
    assert (event["type"], event["bubbles"], event["composed"]) == ("paid", True, True)
    assert (event["order"], event["gateway"], event["order_status"]) == (order, "stripe", "paid")
    assert event["payment"] == guest.state(order)["payments"][0]["id"]
    assert "secret" not in str(event)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_the_bank_asks_and_the_buyer_comes_back_to_the_front_end(guest: Visit, town: Town, front_end: str) -> None:
    order = choose(guest, town.page(front_end))
    guest.choose_card("3-D Secure")
    guest.pay_by_card()
    guest.page.get_by_role("button", name="Authorize payment").click()
    assert_paid_at(guest, town, front_end, order, "stripe")
    assert [event["type"] for event in heard(guest.page)] == ["paid"]
    assert heard(guest.page)[0]["gateway"] == "stripe"
    assert len(guest.state(order)["payments"]) == 1


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_the_bank_refuses_and_another_card_pays_on_the_same_page(guest: Visit, town: Town, front_end: str) -> None:
    order = choose(guest, town.page(front_end))
    guest.choose_card("3-D Secure")
    guest.pay_by_card()
    guest.page.get_by_role("button", name="Fail authentication").click()
    alert = guest.page.locator("payment-methods > .payment-message [role=alert]")
    expect(alert).not_to_be_empty()
    assert guest.page.url == f"{town.page(front_end)}/?order={order}"
    assert [event["type"] for event in heard(guest.page)] == ["declined"]
    assert guest.state(order)["status"] == "open"
    guest.assert_no_secret_left()
    guest.choose_card("Pays")
    guest.pay_by_card()
    assert_paid_at(guest, town, front_end, order, "stripe")
    assert len(guest.state(order)["payments"]) == 1, "the same payment was tried again"


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_decline_is_shown_on_the_page(guest: Visit, town: Town, front_end: str) -> None:
    order = choose(guest, town.page(front_end))
    guest.choose_card("No funds")
    guest.pay_by_card()
    alert = guest.page.locator("stripe-payment").get_by_role("alert")
    expect(alert).to_contain_text(re.compile("funds|money", re.IGNORECASE))
    expect(alert).to_be_focused()
    (event,) = heard(guest.page)
    assert (event["type"], event["recoverable"], event["message"]) == ("declined", True, alert.inner_text())
    assert guest.state(order)["status"] == "open"
    expect(done(guest.page)).to_have_count(0)
    guest.choose_card("Pays")
    guest.pay_by_card()
    assert_paid_at(guest, town, front_end, order, "stripe")


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_paypal_in_a_pop_up(guest: Visit, town: Town, front_end: str) -> None:
    order = choose(guest, town.page(front_end))
    with guest.page.expect_popup() as opened:
        guest.paypal_button.click()
    opened.value.get_by_role("button", name="Cancel and return").click()
    expect(guest.page.locator("paypal-payment").get_by_role("status")).to_contain_text("Nothing was charged")
    assert [event["type"] for event in heard(guest.page)] == ["canceled"]
    assert guest.state(order)["status"] == "open"
    with guest.page.expect_popup() as again:
        guest.paypal_button.click()
    again.value.get_by_role("button", name=re.compile("^Pay ")).click()
    assert_paid_at(guest, town, front_end, order, "paypal")


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_paypal_in_the_same_tab_comes_back_to_the_front_end(guest: Visit, town: Town, front_end: str) -> None:
    order = choose(guest, town.page(front_end))
    here = guest.page.get_by_role("button", name="Continue in this tab instead")
    here.click()
    guest.page.get_by_role("button", name="Cancel and return").click()
    expect(guest.page.locator("payment-methods > .payment-message")).to_contain_text("You have not been charged")
    assert guest.page.url == f"{town.page(front_end)}/?order={order}"
    assert [event["type"] for event in heard(guest.page)] == ["canceled"]
    assert guest.state(order)["status"] == "open"
    here.click()
    guest.page.get_by_role("button", name="Pay 9.90 EUR").click()
    assert_paid_at(guest, town, front_end, order, "paypal")
    assert len(guest.state(order)["payments"]) == 1


def test_a_paid_order_is_not_paid_again(guest: Visit, town: Town) -> None:
    order = choose(guest, town.plain)
    guest.choose_card("Pays")
    guest.pay_by_card()
    expect(done(guest.page)).to_be_visible()
    pay = guest.page.locator("stripe-payment form button")
    expect(pay).to_be_hidden()
    expect(pay).to_have_attribute("aria-disabled", "true")
    expect(guest.page.locator(".payment-way[data-gateway=paypal]")).to_be_hidden()
    expect(guest.page.locator("paypal-payment")).to_have_attribute("locked", "")
    pay.dispatch_event("click")
    guest.page.reload()
    expect(guest.page.locator("payment-methods").get_by_role("alert").first).to_contain_text("already paid")
    (event,) = heard(guest.page)
    assert (event["type"], event["code"], event["bubbles"]) == ("error", "already_paid", False)
    assert guest.page.evaluate("window.crashes") == [], "an error event reached the window"
    assert guest.page.locator("stripe-payment").count() == 0
    assert len(guest.state(order)["payments"]) == 1
    guest.console[:] = [line for line in guest.console if "status of 409" not in line]


def test_somebody_elses_payment_in_the_address_is_nothing(guest: Visit, town: Town) -> None:
    order = choose(guest, town.plain)
    started = guest.context.request.post(f"{town.shop.url}/api/orders/{order}/payments", data={"gateway": "stripe"})
    mine = started.json()["id"]
    other = guest.order()
    for found in (mine, "pay_00000000000000000000000000"):
        guest.page.goto(f"{town.plain}/?order={other}&payment={found}&payment_intent_client_secret=pi_1_secret_2")
        expect(guest.card_fields.get_by_label("Card number")).to_be_visible()
        assert guest.page.url == f"{town.plain}/?order={other}"
        assert heard(guest.page) == []
        guest.assert_no_secret_left()
        assert len(guest.state(order)["payments"]) == 1
        asked = [url for url in guest.addresses if found in url]
        assert (len(asked), [url for url in asked if "complete" in url]) == (1, []), "asked once, completed never"
    assert guest.state(other)["payments"] == []
    guest.console[:] = [line for line in guest.console if "status of 404" not in line]


def test_while_one_way_is_at_work_the_others_wait(guest: Visit, town: Town) -> None:
    order = choose(guest, town.plain)
    expect(guest.card_fields.get_by_label("Card number")).to_be_visible()
    with guest.page.expect_popup() as opened:
        guest.paypal_button.click()
    expect(guest.page.locator("stripe-payment")).to_have_attribute("locked", "")
    guest.pay_by_card()
    assert [one["gateway"] for one in guest.state(order)["payments"]] == ["paypal"]
    opened.value.get_by_role("button", name="Cancel and return").click()
    expect(guest.page.locator("stripe-payment")).not_to_have_attribute("locked", "")


def test_a_gateway_that_does_not_load_leaves_the_others(guest: Visit, town: Town) -> None:
    guest.blocked = ("/assets/gateways/paypal/",)
    order = choose(guest, town.plain)
    way = guest.page.locator(".payment-way[data-gateway=paypal]")
    expect(way).to_contain_text("could not be loaded")
    guest.choose_card("Pays")
    guest.pay_by_card()
    assert_paid_at(guest, town, "plain", order, "stripe")
    guest.console[:] = [
        line for line in guest.console if "ERR_FAILED" not in line and "could not be loaded" not in line
    ]


def test_an_element_survives_being_moved_and_given_another_order(guest: Visit, town: Town) -> None:
    choose(guest, town.plain)
    expect(guest.card_fields.get_by_label("Card number")).to_be_visible()
    other = guest.order(sku="MUG-01")
    # What frameworks do to elements; a frame that leaves the page is dead.
    guest.page.evaluate(
        """(order) => {
          const methods = document.querySelector('payment-methods');
          document.querySelector('#checkout').replaceChildren();
          document.querySelector('#checkout').append(methods);
          methods.setAttribute('order', order);
        }""",
        other,
    )
    expect(guest.page.locator("stripe-payment").get_by_role("button", name="Pay €18.00")).to_be_visible()
    guest.choose_card("Pays")
    guest.pay_by_card()
    expect(done(guest.page)).to_be_visible()
    assert guest.state(other)["status"] == "paid"
    assert [event["order"] for event in heard(guest.page)] == [other]
    assert guest.page.locator("stripe-payment").count() == 1


def test_a_buyer_who_was_signed_out_at_the_bank_signs_in_and_is_paid(guest: Visit, town: Town) -> None:
    order = choose(guest, town.plain)
    guest.choose_card("3-D Secure")
    guest.pay_by_card()
    expect(guest.page.get_by_role("button", name="Authorize payment")).to_be_visible()
    kept = guest.context.cookies()
    guest.context.clear_cookies()
    guest.page.get_by_role("button", name="Authorize payment").click()
    expect(guest.page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert guest.page.url == f"{town.plain}/?order={order}"
    guest.page.get_by_role("button", name="Sign in").click()
    expect(done(guest.page)).to_be_visible()
    assert guest.context.cookies() != kept
    assert guest.state(order)["status"] == "paid"
    guest.assert_no_secret_left()
    guest.console[:] = [line for line in guest.console if "status of 401" not in line]


def test_a_front_end_that_is_not_listed_gets_nothing(guest: Visit, town: Town) -> None:
    order = guest.order()
    guest.page.goto(town.stranger)
    expect(guest.page.get_by_role("alert")).not_to_be_empty()
    tried = guest.page.evaluate(
        """async ([shop, order]) => {
          const attempt = (path, options) => fetch(shop + path, { credentials: 'include', ...options })
            .then(async (answer) => `${answer.type} ${answer.status} ${await answer.text()}`, () => 'blocked');
          const post = (type, mode) => ({ method: 'POST', mode, headers: { 'content-type': type }, body: '{}' });
          return {
            read: await attempt(`/api/orders/${order}`, {}),
            write: await attempt(`/api/orders/${order}/cancel`, post('application/json', 'cors')),
            // What browsers send without asking first. Nobody reads the answer, so the order tells what it did.
            simple: await attempt(`/api/orders/${order}/cancel`, post('text/plain', 'no-cors')),
            module: await import(`${shop}/assets/payment-methods.js`).then(() => 'loaded', () => 'blocked'),
          };
        }""",
        [town.shop.url, order],
    )
    assert tried == dict.fromkeys(("read", "write", "simple", "module"), "blocked")
    # The simple one did reach the shop, which refused it.
    assert f"{town.shop.url}/api/orders/{order}/cancel" in guest.addresses
    assert guest.page.evaluate("customElements.get('payment-methods') === undefined")
    state = guest.state(order)
    assert (state["status"], state["payments"]) == ("open", [])
    told = [line for line in guest.console if "CORS policy" in line]
    assert told, "the browser said nothing, so perhaps nothing was asked"
    guest.console.clear()
