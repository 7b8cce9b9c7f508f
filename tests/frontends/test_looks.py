"""How the elements look on other people's pages: readable by all, and in the colours that the page chooses."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from support.browsershop import Visit, visit

from .conftest import Town

SIZES = {"phone": {"width": 360, "height": 780}, "desk": {"width": 1280, "height": 900}}

# The vendor's own call, watched: what it is given is what its form follows.
WATCH_APPEARANCE = """
let real;
Object.defineProperty(window, 'Stripe', {
  get: () => real && ((...keys) => {
    const stripe = real(...keys);
    const elements = stripe.elements.bind(stripe);
    stripe.elements = (options) => { window.appearance = options.appearance; return elements(options); };
    return stripe;
  }),
  set: (value) => { real = value; },
});
"""


def assert_accessible(page: Page, what: str) -> None:
    """axe-core finds nothing, and nothing sticks out at the side."""
    # The gateways' own frames are other origins, which axe can only knock at in vain; their twins test themselves.
    found = Axe().run(page, options={"iframes": False, "resultTypes": ["violations"]}).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == [], what
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, f"{what} is too wide"


def wait_for_forms(here: Visit) -> None:
    expect(here.card_fields.get_by_label("Card number")).to_be_visible()
    expect(here.paypal_button).to_be_visible()


def style(page: Page, selector: str, name: str) -> str:
    found: str = page.locator(selector).first.evaluate("(one, name) => getComputedStyle(one)[name]", name)
    return found


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
@pytest.mark.parametrize("front_end", ["plain", "react"])
def test_the_front_ends_have_no_barrier(browser: Browser, town: Town, front_end: str, size: str, scheme: Any) -> None:
    with visit(browser, town.shop, viewport=SIZES[size], color_scheme=scheme) as here:
        page = here.page
        page.goto(town.page(front_end))
        expect(page.get_by_role("button", name="Buy Garden tea")).to_be_visible()
        assert_accessible(page, "the choice")
        page.get_by_role("button", name="Buy Garden tea").click()
        wait_for_forms(here)
        assert_accessible(page, "the ways to pay")
        here.choose_card("No funds")
        here.pay_by_card()
        expect(page.locator("stripe-payment").get_by_role("alert")).to_be_focused()
        assert_accessible(page, "a decline")
        here.choose_card("Pays")
        here.pay_by_card()
        expect(page.get_by_text("is paid.")).to_be_visible()
        assert_accessible(page, "a paid order")
        here.context.clear_cookies()
        page.goto(town.page(front_end))
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert_accessible(page, "the sign-in")
        here.console[:] = [line for line in here.console if "status of 401" not in line]
        here.assert_clean()


def test_the_elements_follow_the_properties_of_the_page(guest: Visit, town: Town) -> None:
    guest.context.add_init_script(WATCH_APPEARANCE)
    page = guest.page
    page.goto(f"{town.plain}/?order={guest.order()}")
    wait_for_forms(guest)
    button = "stripe-payment form button"
    # As the example's style.css has them, in light colours.
    assert style(page, button, "backgroundColor") == "rgb(107, 47, 179)"
    assert style(page, button, "borderTopLeftRadius") == "14px"
    assert style(page, ".payment-way", "borderTopColor") == "rgb(221, 211, 238)"
    variables = {"colorPrimary": "rgb(107, 47, 179)", "borderRadius": "14px"}
    assert page.evaluate("window.appearance") == {"variables": variables}, "and nothing that the page did not choose"
    page.evaluate("document.documentElement.style.setProperty('--paidonce-accent', 'rgb(1, 2, 3)')")
    assert style(page, button, "backgroundColor") == "rgb(1, 2, 3)"


def test_a_rule_of_the_page_wins_without_a_fight(guest: Visit, town: Town) -> None:
    page = guest.page
    page.goto(f"{town.plain}/?order={guest.order()}")
    wait_for_forms(guest)
    assert style(page, ".payment-message", "marginTop") == "12px"
    # One class against the defaults' two: it wins because the defaults stand in a cascade layer.
    page.add_style_tag(content=".button-primary { background: rgb(4, 5, 6) } .payment-message { margin-top: 3px }")
    assert style(page, "stripe-payment form button", "backgroundColor") == "rgb(4, 5, 6)"
    assert style(page, ".payment-message", "marginTop") == "3px"


def test_the_shops_own_page_keeps_its_own_look(guest: Visit, town: Town) -> None:
    guest.context.add_init_script(WATCH_APPEARANCE)
    order = guest.order()
    guest.page.goto(f"{town.shop.url}/orders/{order}/pay")
    wait_for_forms(guest)
    assert style(guest.page, "stripe-payment form button", "backgroundColor") == "rgb(29, 92, 71)"
    assert style(guest.page, "stripe-payment form button", "borderTopLeftRadius") == "999px"
    assert guest.page.evaluate("window.appearance") == {"variables": {}}


def test_without_an_address_of_the_api_the_developer_is_told(guest: Visit, town: Town) -> None:
    guest.page.goto(town.plain)
    guest.page.evaluate(
        """() => {
          const methods = document.createElement('payment-methods');
          document.body.append(methods);
          methods.setAttribute('order', 'ord_0123456789');
        }"""
    )
    lost = guest.page.locator("body > payment-methods")
    expect(lost.get_by_role("alert")).to_contain_text("never charged twice")
    expect(lost.get_by_role("button", name="Try loading it again")).to_be_visible()
    assert any("Is api-base right?" in line for line in guest.console)
    guest.console.clear()
