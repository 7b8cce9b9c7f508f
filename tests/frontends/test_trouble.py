"""What goes wrong between a front end and the shop: lost answers, money that takes its time, another shop's address."""

from __future__ import annotations

import re
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
