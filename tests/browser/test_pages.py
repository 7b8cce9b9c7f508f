"""What every page owes every buyer: readable by all, steady, and without a word on the console."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from paidonce.web.seed import STAFF
from support.browsershop import Surroundings, Visit, visit

SIZES = {"phone": {"width": 360, "height": 780}, "desk": {"width": 1280, "height": 900}}
SCREENSHOT = Path(__file__).parent.parent.parent / "docs" / "images" / "pay-page.png"

OBSERVE_SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
}).observe({ type: 'layout-shift', buffered: true });
"""
# Google calls up to 0.1 good; a fifth of that is a shift that nobody notices.
LARGEST_SHIFT = 0.02


def assert_accessible(here: Visit) -> None:
    """axe-core finds nothing, and nothing sticks out at the side."""
    # The gateways' own frames are other origins, which axe can only knock at in vain; their twins test themselves.
    found = Axe().run(here.page, options={"iframes": False, "resultTypes": ["violations"]}).response["violations"]
    told = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
    assert told == [], here.page.url
    width = here.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, f"{here.page.url} is too wide"


def wait_for_components(here: Visit) -> None:
    expect(here.card_fields.get_by_label("Card number")).to_be_visible()
    expect(here.paypal_button).to_be_visible()
    for element in ("stripe-payment", "paypal-payment"):
        expect(here.page.locator(element)).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_the_buyers_pages_have_no_barrier(browser: Browser, sandbox_shop: Surroundings, size: str, scheme: Any) -> None:
    with visit(browser, sandbox_shop, viewport=SIZES[size], color_scheme=scheme) as here:
        url, page = sandbox_shop.url, here.page
        order = here.order()
        page.goto(url)
        page.get_by_role("button", name="Add Garden tea").click()
        expect(page.get_by_role("link", name="Basket 1")).to_be_visible()
        for path in ("/", "/basket", "/orders", f"/orders/{order}", "/account", "/docs", "/orders/ord_nothing"):
            page.goto(url + path)
            assert_accessible(here)
        here.open_pay_page(order)
        wait_for_components(here)
        assert_accessible(here)
        here.choose_card("No funds")
        here.pay_by_card()
        expect(page.locator("stripe-payment").get_by_role("alert")).to_be_focused()
        assert_accessible(here)
        page.goto(f"{url}/orders/{order}")
        expect(page.get_by_role("heading", name="The payment did not go through")).to_be_visible()
        assert_accessible(here)
        here.open_pay_page(order)
        here.choose_card("Pays")
        here.pay_by_card()
        expect(page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
        assert_accessible(here)
        here.context.clear_cookies()
        for path in ("/sign-in", "/sign-up", "/basket"):
            page.goto(url + path)
            assert_accessible(here)
        page.goto(f"{url}/sign-in")
        page.get_by_label("Email").fill("buyer@example.com")
        page.get_by_label("Password").fill("not-the-password")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        assert_accessible(here)
        here.console[:] = [line for line in here.console if "status of 404" not in line and "status of 401" not in line]
        here.assert_clean()


def test_the_staffs_page_has_no_barrier(browser: Browser, sandbox_shop: Surroundings) -> None:
    with visit(browser, sandbox_shop, viewport=SIZES["phone"]) as here:
        here.context.clear_cookies()
        credentials = {"email": STAFF.email, "password": STAFF.password}
        assert here.context.request.post(f"{sandbox_shop.url}/api/session", data=credentials).status == 201
        here.page.goto(f"{sandbox_shop.url}/staff")
        expect(here.page.get_by_role("heading", name="Stock")).to_be_visible()
        assert_accessible(here)
        here.assert_clean()


@pytest.mark.parametrize("size", sorted(SIZES))
def test_the_pay_page_does_not_jump(browser: Browser, sandbox_shop: Surroundings, size: str) -> None:
    with visit(browser, sandbox_shop, viewport=SIZES[size]) as here:
        here.context.add_init_script(OBSERVE_SHIFTS)
        here.pay_page()
        wait_for_components(here)
        here.choose_card("No funds")
        here.pay_by_card()
        expect(here.page.locator("stripe-payment").get_by_role("alert")).to_be_visible()
        assert sum(here.page.evaluate("window.shifts")) <= LARGEST_SHIFT
        here.assert_clean()


def test_both_components_stand_side_by_side_and_below_each_other_on_a_phone(
    browser: Browser, sandbox_shop: Surroundings
) -> None:
    with visit(browser, sandbox_shop, viewport=SIZES["desk"]) as here:
        here.pay_page()
        wait_for_components(here)
        boxes = [here.page.locator(name).bounding_box() for name in ("paypal-payment", "stripe-payment")]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["y"] == boxes[1]["y"]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
        here.page.set_viewport_size({"width": 360, "height": 780})
        boxes = [here.page.locator(name).bounding_box() for name in ("paypal-payment", "stripe-payment")]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["x"] == boxes[1]["x"]
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
        here.assert_clean()


def test_while_one_way_to_pay_is_at_work_the_other_waits(browser: Browser, sandbox_shop: Surroundings) -> None:
    with visit(browser, sandbox_shop, viewport=SIZES["desk"]) as here:
        order = here.pay_page()
        wait_for_components(here)
        with here.page.expect_popup() as opened:
            here.paypal_button.click()
        expect(here.page.locator("stripe-payment")).to_have_attribute("locked", "")
        here.pay_by_card()
        assert [one["gateway"] for one in here.state(order)["payments"]] == ["paypal"]
        opened.value.get_by_role("button", name="Cancel and return").click()
        expect(here.page.locator("stripe-payment")).not_to_have_attribute("locked", "")
        here.assert_clean()


def test_the_screenshot_of_the_readme(browser: Browser, sandbox_shop: Surroundings, tmp_path: Path) -> None:
    target = SCREENSHOT if os.environ.get("PAIDONCE_SCREENSHOTS") else tmp_path / "pay-page.png"
    with visit(browser, sandbox_shop, viewport={"width": 1280, "height": 960}) as here:
        order = here.context.request.post(
            f"{sandbox_shop.url}/api/orders",
            data={"lines": [{"sku": "MUG-01", "quantity": 2}, {"sku": "PLANT-01", "quantity": 1}]},
        ).json()
        here.open_pay_page(order["id"])
        wait_for_components(here)
        target.parent.mkdir(parents=True, exist_ok=True)
        here.page.screenshot(path=target, full_page=True)
        here.assert_clean()
    assert target.read_bytes().startswith(b"\x89PNG")
