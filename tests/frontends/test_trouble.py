"""What goes wrong between a front end and the shop: lost answers, money that takes its time, another shop's address."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import Any

from playwright.sync_api import Route, expect

from support.browsershop import Visit

from .conftest import Town
from .test_other_origin import choose, done, heard


def test_a_lost_answer_on_the_way_back_is_asked_for_again(guest: Visit, town: Town) -> None:
    order = choose(guest, town.plain)
    guest.choose_card("3-D Secure")
    guest.pay_by_card()
    expect(guest.page.get_by_role("button", name="Authorize payment")).to_be_visible()
    lost: list[str] = []

    def lose(route: Route) -> None:
        if len(lost) < 2:
            lost.append(route.request.url)
            route.abort("connectionreset")
        else:
            route.fallback()

    guest.context.route("**/complete", lose)
    guest.page.get_by_role("button", name="Authorize payment").click()
    expect(done(guest.page)).to_be_visible()
    assert len(lost) == 2
    assert [event["type"] for event in heard(guest.page)] == ["paid"]
    assert [one["status"] for one in guest.state(order)["payments"]] == ["captured"]
    guest.console[:] = [line for line in guest.console if "ERR_CONNECTION_RESET" not in line]


def test_a_shop_that_can_not_say_what_became_of_it_asks_nobody_to_pay_again(guest: Visit, town: Town) -> None:
    order = choose(guest, town.plain)
    guest.choose_card("3-D Secure")
    guest.pay_by_card()
    guest.context.route("**/api/payments/*", lambda route: route.abort("connectionrefused"))
    guest.page.get_by_role("button", name="Authorize payment").click()
    methods = guest.page.locator("payment-methods")
    expect(methods.get_by_role("alert")).to_contain_text("never charged twice")
    assert guest.page.locator("stripe-payment, paypal-payment").count() == 0, "no form that could be paid again"
    assert guest.page.url == f"{town.plain}/?order={order}"
    assert [event["code"] for event in heard(guest.page)] == ["network"]
    guest.context.unroute("**/api/payments/*")
    methods.get_by_role("button", name="Try loading it again").click()
    expect(done(guest.page)).to_be_visible()
    assert [one["status"] for one in guest.state(order)["payments"]] == ["captured"]
    guest.console[:] = [line for line in guest.console if "ERR_CONNECTION_REFUSED" not in line]


def test_money_that_takes_days_is_told_as_pending_and_nothing_else_is_offered(guest: Visit, town: Town) -> None:
    order = choose(guest, town.react)
    with guest.page.expect_popup() as opened:
        guest.paypal_button.click()
    opened.value.get_by_label(re.compile("pending")).check()
    opened.value.get_by_role("button", name=re.compile("^Pay ")).click()
    expect(guest.page.locator("paypal-payment")).to_have_attribute("done", "")
    (event,) = heard(guest.page)
    assert (event["type"], event["status"], event["order"]) == ("pending", "processing", order)
    expect(guest.page.locator("stripe-payment")).to_be_hidden()
    assert guest.state(order)["status"] == "pending"
    guest.page.reload()
    expect(guest.page.locator("payment-methods").get_by_role("alert")).not_to_be_empty()
    assert [one["code"] for one in heard(guest.page)] == ["payment_in_progress"]
    assert guest.page.locator("stripe-payment").count() == 0
    assert len(guest.state(order)["payments"]) == 1
    guest.console[:] = [line for line in guest.console if "status of 409" not in line]


def buy_all_of_it(guest: Visit, town: Town, order: str) -> None:
    """The time for which the goods of `order` were kept is over, and somebody else is paying for all of them."""
    with closing(sqlite3.connect(town.database, timeout=20)) as own, own:
        assert own.execute("UPDATE holds SET expires_at = 1 WHERE order_id = ?", (order,)).rowcount == 1
    browser = guest.context.browser
    assert browser is not None
    other = browser.new_context()
    api, who = f"{town.shop.url}/api", {"name": "Quick", "email": "quick@example.com", "password": "a-long-password"}
    assert other.request.post(f"{api}/users", data=who).status == 201
    theirs = other.request.post(f"{api}/orders", data={"lines": [{"sku": "PHONES-01", "quantity": 4}]}).json()
    started = other.request.post(f"{api}/orders/{theirs['id']}/payments", data={"gateway": "stripe"})
    assert started.status == 201, started.text()
    other.close()


def test_money_that_goes_back_is_not_told_as_paid(guest: Visit, town: Town) -> None:
    """The goods were gone when the money came: the page said "is paid" in green, and the buyer waited for a parcel."""
    order = guest.order("PHONES-01", 4)
    guest.page.goto(f"{town.plain}/?order={order}")
    guest.choose_card("3-D Secure")
    guest.pay_by_card()
    agree = guest.page.get_by_role("button", name="Authorize payment")
    expect(agree).to_be_visible()
    buy_all_of_it(guest, town, order)
    agree.click()
    message = guest.page.locator("payment-methods > .payment-message")
    expect(message.get_by_role("status")).to_contain_text("you will get it back")
    expect(message).to_have_attribute("data-tone", "info")
    (event,) = heard(guest.page)
    assert (event["type"], event["status"], event["order_status"]) == ("pending", "captured", "open")
    expect(done(guest.page)).to_have_count(0)
    expect(guest.page.locator("payment-methods")).to_have_attribute("done", "")
    assert guest.page.locator("stripe-payment, paypal-payment").count() == 0, "no form that could be paid again"
    assert guest.state(order)["status"] == "open"


def test_a_page_with_a_parameter_payment_of_its_own_comes_back_clean(guest: Visit, town: Town) -> None:
    """The page's own `payment=card` was taken for the payment: no return ended, and the secret stayed to be seen."""
    order = guest.order()
    guest.page.goto(f"{town.plain}/?payment=card&order={order}&payment&tab=2")
    assert guest.page.url.endswith("&tab=2"), "what is the page's own stays while nothing came back"
    guest.choose_card("3-D Secure")
    guest.pay_by_card()
    guest.page.get_by_role("button", name="Authorize payment").click()
    expect(done(guest.page)).to_be_visible()
    assert guest.page.url == f"{town.plain}/?order={order}&tab=2"
    assert [event["type"] for event in heard(guest.page)] == ["paid"]
    guest.assert_no_secret_left()
    assert [one["status"] for one in guest.state(order)["payments"]] == ["captured"]


def test_a_return_url_with_another_parameter_payment_comes_back_clean(guest: Visit, town: Town) -> None:
    """The same where the page says itself where to come back to."""
    order = guest.order()
    guest.page.goto(f"{town.plain}/?order={order}")
    expect(guest.page.locator("payment-methods")).to_have_attribute("order", order)
    guest.page.evaluate(
        """(url) => {
          const methods = document.querySelector('payment-methods');
          methods.setAttribute('return-url', url);
          return methods.reload();
        }""",
        f"{town.plain}/?payment=card&order={order}&payment={{payment}}",
    )
    guest.choose_card("3-D Secure")
    guest.pay_by_card()
    guest.page.get_by_role("button", name="Authorize payment").click()
    expect(done(guest.page)).to_be_visible()
    assert guest.page.url == f"{town.plain}/?payment=card&order={order}"
    guest.assert_no_secret_left()
    assert [one["status"] for one in guest.state(order)["payments"]] == ["captured"]


def test_a_module_of_another_origin_than_the_shops_is_not_loaded(guest: Visit, town: Town) -> None:
    """Even if an answer says so: what handles a buyer's payment comes from where the payment is made."""

    def elsewhere(route: Route) -> None:
        answer = route.fetch()
        told: Any = answer.json()
        for method in told["methods"]:
            method["module"] = f"{town.stranger}/shop.js"
        route.fulfill(response=answer, json=told)

    guest.context.route("**/payment-methods", elsewhere)
    asked: list[str] = []
    guest.context.on("request", lambda request: asked.append(request.url))
    choose(guest, town.plain)
    ways = guest.page.locator(".payment-way")
    expect(ways.first).to_contain_text("could not be loaded")
    assert guest.page.locator("stripe-payment").count() == 0
    assert [url for url in asked if url.startswith(town.stranger)] == []
    guest.console[:] = [line for line in guest.console if "could not be loaded" not in line]
