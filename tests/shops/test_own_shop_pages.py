"""The example's own pages in a real browser: the elements work within a page that paidonce did not make."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from paidonce import serving
from paidonce.demo.servers import in_thread
from paidonce.sandbox.app import create_sandbox_app, sandbox_environment
from shops.own import PASSWORD, OwnShop, adapter
from support.browsershop import REPORT_VIOLATIONS, chromium

SCREENSHOTS = os.environ.get("PAIDONCE_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnShop]:
    """The example with its offline gateways, as examples/own_shop/run starts them."""
    url = f"sqlite:///{tmp_path_factory.mktemp('own')}/shop.db"
    adapter.prepare(url)
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        sandbox_url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        twins = create_sandbox_app(sandbox_url)
        with in_thread(twins, listener), adapter.start(url, sandbox_environment(sandbox_url)) as shop:
            yield shop


@pytest.fixture
def page(browser: Browser, shop: OwnShop) -> Iterator[Page]:
    """A buyer who signed in by the shop's own form; nothing may be stopped by the policy or complain."""
    complaints: list[str] = []
    context = browser.new_context(service_workers="block", locale="en-IE", viewport={"width": 1200, "height": 900})
    context.add_init_script(REPORT_VIOLATIONS)
    context.on("console", lambda message: complaints.append(_complaint(message, shop.url)))
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    page = context.new_page()
    page.goto(f"{shop.url}/sign-in")
    page.get_by_label("Email").fill("buyer3@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    yield page
    context.close()
    assert [line for line in complaints if line] == []


def _complaint(message: ConsoleMessage, shop_url: str) -> str:
    """An error of the shop's page; empty for anything else. What the gateways' own pages log is not the shop's."""
    ours = message.type == "error" and not message.location["url"].startswith("http")
    return message.text if ours or message.location["url"].startswith(shop_url) else ""


def order_tea(page: Page) -> str:
    """Buy by the form of the catalogue; the order's id."""
    tea = page.locator("[data-sku=TEA-250]")
    tea.get_by_label("Bags").fill("2")
    tea.get_by_role("button", name="Buy").click()
    expect(page.get_by_role("heading", name="How would you like to pay?")).to_be_visible()
    found = re.fullmatch(r".*/orders/(\d+)/pay", page.url)
    assert found is not None
    return found[1]


def assert_paid(page: Page, order: str) -> None:
    expect(page.locator("[data-state=paid]")).to_be_visible()
    assert page.url.endswith(f"/orders/{order}")
    expect(page.get_by_text("You earned 17 points")).to_be_visible()


def look(page: Page, name: str) -> None:
    """No complaint of axe; and a picture, if somebody wants to see it."""
    assert Axe().run(page).violations_count == 0, Axe().run(page).generate_report()
    if SCREENSHOTS:
        page.screenshot(path=str(Path(SCREENSHOTS) / f"own-shop-{name}.png"), full_page=True)


def choose_card(page: Page, name: str) -> None:
    page.frame_locator("stripe-payment iframe").get_by_role("button", name=name, exact=True).click()
    page.locator("stripe-payment").get_by_role("button", name="Pay").click()


def test_by_card_after_a_decline(page: Page) -> None:
    look(page, "catalogue")
    order = order_tea(page)
    expect(page.locator("paypal-payment paypal-button")).to_be_visible()
    expect(page.frame_locator("stripe-payment iframe").get_by_label("Card number")).to_be_visible()
    look(page, "pay")
    choose_card(page, "No funds")
    expect(page.locator("stripe-payment").get_by_role("alert")).to_contain_text(re.compile("funds|money", re.I))
    assert page.url.endswith(f"/orders/{order}/pay")
    choose_card(page, "Pays")
    assert_paid(page, order)
    look(page, "order")


def test_the_bank_asks_and_the_shops_own_page_takes_the_buyer_back(page: Page) -> None:
    order = order_tea(page)
    choose_card(page, "3-D Secure")
    page.get_by_role("button", name="Authorize payment").click()
    assert_paid(page, order)
    assert "_secret_" not in page.content()


def test_who_fails_at_the_bank_is_told_on_the_shops_own_page(page: Page) -> None:
    order = order_tea(page)
    choose_card(page, "3-D Secure")
    page.get_by_role("button", name="Fail authentication").click()
    expect(page.get_by_text("That did not go through, and you have not been charged.")).to_be_visible()
    assert f"/orders/{order}/pay" in page.url
    choose_card(page, "Pays")
    assert_paid(page, order)


def test_paypal_in_a_pop_up(page: Page) -> None:
    order = order_tea(page)
    with page.expect_popup() as opened:
        page.locator("paypal-payment paypal-button").click()
    opened.value.get_by_role("button", name=re.compile("^Pay ")).click()
    assert_paid(page, order)
    page.goto(page.url + "/pay")
    assert_paid(page, order)


def test_on_a_telephone(browser: Browser, shop: OwnShop, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    order_tea(page)
    expect(page.locator("paypal-payment paypal-button")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the pay page scrolls sideways"
    look(page, "pay-telephone")
