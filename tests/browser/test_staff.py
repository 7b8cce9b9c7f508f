"""Staff at work in Chromium: an order's story, its refund form without any script, and pages that all can read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from paidonce.web.seed import STAFF
from support.browsershop import Surroundings, Visit, visit

SIZES = {"phone": {"width": 360, "height": 780}, "desk": {"width": 1280, "height": 900}}
SCREENSHOT = Path(__file__).parent.parent.parent / "docs" / "images" / "staff-order.png"


def assert_accessible(here: Visit) -> None:
    """axe-core finds nothing, and nothing sticks out at the side."""
    found = Axe().run(here.page).response["violations"]
    told = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
    assert told == [], here.page.url
    width = here.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, f"{here.page.url} is too wide"


def paid_order(browser: Browser, around: Surroundings, *, lines: Any = None) -> str:
    """A buyer orders and pays by card."""
    with visit(browser, around, viewport=SIZES["desk"]) as buyer:
        wanted = lines or [{"sku": "MUG-01", "quantity": 2}]
        order = str(buyer.context.request.post(f"{around.url}/api/orders", data={"lines": wanted}).json()["id"])
        buyer.open_pay_page(order)
        buyer.choose_card("Pays")
        buyer.pay_by_card()
        expect(buyer.page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
        buyer.assert_clean()
    return order


@contextmanager
def staff_visit(browser: Browser, around: Surroundings, **options: Any) -> Iterator[Visit]:
    """A member of staff's browser."""
    with visit(browser, around, **options) as here:
        here.context.clear_cookies()
        credentials = {"email": STAFF.email, "password": STAFF.password}
        assert here.context.request.post(f"{around.url}/api/session", data=credentials).status == 201
        yield here
        here.assert_clean()


def test_staff_find_an_order_read_its_story_and_refund_a_part_without_any_script(
    browser: Browser, sandbox_shop: Surroundings
) -> None:
    order = paid_order(browser, sandbox_shop)
    with staff_visit(browser, sandbox_shop, viewport=SIZES["desk"], java_script_enabled=False) as here:
        page, number = here.page, here.state(order)["number"]
        page.goto(f"{sandbox_shop.url}/staff")
        page.get_by_label("Order number").fill(number)
        page.get_by_role("button", name="Find").click()
        expect(page.get_by_role("heading", name=f"Order {number}")).to_be_visible()
        assert page.url == f"{sandbox_shop.url}/staff/orders/{order}"
        expect(page.get_by_role("heading", name="Nothing to do", exact=True)).to_be_visible()
        expect(page.get_by_text("The money has moved.")).to_be_visible()
        expect(page.get_by_role("button", name="Send the money back now")).to_be_hidden()
        page.get_by_text("Refund", exact=True).click()
        page.get_by_label("Amount in EUR").fill("6.50")
        page.get_by_label(re.compile("^Reason")).fill("One mug had a chip")
        page.get_by_role("button", name="Send the money back now").click()
        expect(page.locator(".flash")).to_contain_text("Refund of €6.50: The refund was made.")
        expect(page.get_by_role("cell", name="One mug had a chip")).to_be_visible()
        state = here.state(order)
        assert (state["refund_status"], [one["amount"] for one in state["payments"][0]["refunds"]]) == (
            "partial",
            [650],
        )
    with visit(browser, sandbox_shop, viewport=SIZES["desk"]) as buyer:
        buyer.page.goto(f"{sandbox_shop.url}/orders/{order}")
        expect(buyer.page.get_by_label("About your money")).to_contain_text("€6.50 was sent back to you on")
        assert_accessible(buyer)
        buyer.assert_clean()


@pytest.mark.parametrize(("size", "scheme"), [("desk", "light"), ("phone", "dark")])
def test_the_staffs_order_page_has_no_barrier(
    browser: Browser, sandbox_shop: Surroundings, size: str, scheme: Any
) -> None:
    order = paid_order(browser, sandbox_shop)
    with staff_visit(browser, sandbox_shop, viewport=SIZES[size], color_scheme=scheme) as here:
        here.page.goto(f"{sandbox_shop.url}/staff/orders/{order}")
        assert_accessible(here)
        here.page.get_by_text("Refund", exact=True).click()
        expect(here.page.get_by_role("button", name="Send the money back now")).to_be_visible()
        assert_accessible(here)
        here.page.get_by_label("Amount in EUR").fill("1,50")
        here.page.get_by_role("button", name="Send the money back now").click()
        expect(here.page.get_by_role("alert")).to_contain_text("Write the amount in EUR")
        assert_accessible(here)
        here.page.goto(f"{sandbox_shop.url}/staff")
        assert_accessible(here)
        assert here.state(order)["payments"][0]["refunds"] == []


def test_the_screenshot_of_the_staffs_order_page(browser: Browser, sandbox_shop: Surroundings, tmp_path: Path) -> None:
    target = SCREENSHOT if os.environ.get("PAIDONCE_SCREENSHOTS") else tmp_path / "staff-order.png"
    lines = [{"sku": "MUG-01", "quantity": 2}, {"sku": "PLANT-01", "quantity": 1}]
    order = paid_order(browser, sandbox_shop, lines=lines)
    with staff_visit(browser, sandbox_shop, viewport={"width": 1280, "height": 960}) as here:
        payment = here.state(order)["payments"][0]["id"]
        made = here.context.request.post(
            f"{sandbox_shop.url}/api/payments/{payment}/refunds", data={"amount": 900, "reason": "One mug had a chip"}
        )
        assert made.status == 201
        here.page.goto(f"{sandbox_shop.url}/staff/orders/{order}")
        here.page.get_by_text("Refund", exact=True).click()
        here.page.mouse.move(0, 0)
        target.parent.mkdir(parents=True, exist_ok=True)
        here.page.screenshot(path=target, full_page=True, animations="disabled")
    assert target.read_bytes().startswith(b"\x89PNG")
