"""The Django example in a real browser: its pages, Django's token, and every way to pay on its pay page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect

from conftest import run_apart
from shops.adapter import PLENTY
from shops.django import DjangoShop, adapter
from shops.twins import Twins, running_twins
from support.browsershop import EXPECTED_ON_CONSOLE, REPORT_VIOLATIONS, chromium

NARROW = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DjangoShop, Twins]]:
    """The example as a process, and the twins."""
    url = f"sqlite:///{tmp_path_factory.mktemp('django')}/shop.db"
    adapter.prepare(url)
    with running_twins() as twins, adapter.start(url, twins.settings) as shop:
        yield shop, twins


@dataclass
class Visit:
    """A signed-in buyer, and what the browser complained about."""

    shop: DjangoShop
    page: Page
    complaints: list[str] = field(default_factory=list)

    def order(self) -> str:
        """Order a packet of tea by its form; the pay page's order."""
        self.page.goto(f"{self.shop.url}/")
        self.page.locator("li", has_text=PLENTY.name).get_by_role("button", name="Order").click()
        self.page.wait_for_url("**/pay/")
        return self.page.url.split("/")[-3]

    def expect_order(self, order: str, words: str) -> None:
        self.page.wait_for_url(f"{self.shop.url}/orders/{order}/")
        expect(self.page.get_by_role("status")).to_contain_text(words)

    def pay_by_card(self, number: str = "4242424242424242") -> None:
        fields = self.page.frame_locator("stripe-payment iframe")
        for name, value in (("number", number), ("expiry", "12/40"), ("cvc", "123")):
            fields.locator(f"[name={name}]").fill(value)
        self.page.locator("stripe-payment").get_by_role("button", name=re.compile("Pay")).click()

    def picture(self, name: str) -> None:
        folder = os.environ.get("PAIDONCE_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / f"django-{name}.png", full_page=True)


@pytest.fixture
def buyer(browser: Browser, around: tuple[DjangoShop, Twins]) -> Iterator[Visit]:
    """A buyer at a desk; afterwards nothing may have been stopped or complained."""
    shop, twins = around
    context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
    context.add_init_script(REPORT_VIOLATIONS)
    page = context.new_page()
    visit = Visit(shop, page)

    def heard(said: ConsoleMessage) -> None:
        # What a gateway's own page lacks, an icon say, is not the shop's business.
        if said.type == "error" and not said.location["url"].startswith(twins.url):
            visit.complaints.append(said.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.goto(f"{shop.url}/sign-in/")
    page.get_by_label("Username").fill("buyer0")
    page.get_by_label("Password").fill("test-password")
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{shop.url}/")
    yield visit
    context.close()
    assert [one for one in visit.complaints if not any(known in one for known in EXPECTED_ON_CONSOLE)] == []


def shelf(shop: DjangoShop) -> int:
    return run_apart(lambda: shop.on_hand(PLENTY.sku))


def test_a_card_pays_and_leads_on_to_the_order(buyer: Visit) -> None:
    before = shelf(buyer.shop)
    order = buyer.order()
    expect(buyer.page.frame_locator("stripe-payment iframe").locator("[name=number]")).to_be_visible()
    buyer.picture("pay")
    buyer.pay_by_card()
    buyer.expect_order(order, "Paid · you collected 8 points")
    assert shelf(buyer.shop) == before - 1


def test_a_declined_card_says_so_and_another_one_pays(buyer: Visit) -> None:
    before = shelf(buyer.shop)
    order = buyer.order()
    buyer.pay_by_card("4000000000009995")
    expect(buyer.page.locator("stripe-payment").get_by_role("alert")).to_contain_text("insufficient funds")
    assert shelf(buyer.shop) == before
    buyer.pay_by_card()
    buyer.expect_order(order, "Paid")
    assert shelf(buyer.shop) == before - 1


def test_paypals_window_pays(buyer: Visit) -> None:
    before = shelf(buyer.shop)
    order = buyer.order()
    with buyer.page.expect_popup() as opening:
        buyer.page.get_by_role("button", name="Pay with PayPal").click()
    opening.value.get_by_role("button", name=re.compile("Pay 8.90")).click()
    buyer.expect_order(order, "Paid")
    assert shelf(buyer.shop) == before - 1


def test_a_redirect_comes_back_to_the_pay_page_which_finishes_it(buyer: Visit) -> None:
    before = shelf(buyer.shop)
    order = buyer.order()
    buyer.page.get_by_role("button", name="Continue in this tab instead").click()
    buyer.page.get_by_role("button", name=re.compile("Pay 8.90")).click()
    buyer.expect_order(order, "Paid")
    assert shelf(buyer.shop) == before - 1


def test_a_changed_module_is_refused(buyer: Visit) -> None:
    """The page names only one module; the gateways' own are imported later, and checked by the import map."""

    def change(route: Route) -> None:
        real = route.fetch()
        route.fulfill(response=real, body=f"{real.text()}\nwindow.hacked = 1;")

    buyer.page.route("**/static/paidonce/gateways/stripe/component*.js", change)
    buyer.order()
    expect(buyer.page.get_by_text("This way to pay could not be loaded.")).to_be_visible()
    expect(buyer.page.get_by_role("button", name="Pay with PayPal")).to_be_visible()
    assert buyer.page.evaluate("window.hacked") is None
    (refused,) = [one for one in buyer.complaints if "integrity" in one]
    assert "gateways/stripe/component" in refused
    buyer.complaints.remove(refused)


def test_a_closed_tab_is_settled_by_the_worker(buyer: Visit, around: tuple[DjangoShop, Twins]) -> None:
    shop, twins = around
    order = buyer.order()
    buyer.page.route("**/complete", lambda route: route.abort())
    buyer.pay_by_card()
    buyer.page.wait_for_timeout(500)
    buyer.page.goto("about:blank")
    buyer.complaints.clear()
    twins.clock.pass_seconds(300)
    run_apart(lambda: shop.pass_seconds(300))
    run_apart(shop.recover)
    buyer.page.unroute("**/complete")
    buyer.page.goto(f"{shop.url}/orders/{order}/")
    buyer.expect_order(order, "Paid")


@pytest.mark.parametrize("path", ["/", "/orders/", "/sign-in/", "/sign-up/"])
def test_pages_are_accessible_and_fit_a_telephone(buyer: Visit, path: str) -> None:
    buyer.page.goto(buyer.shop.url + path)
    assert Axe().run(buyer.page).response["violations"] == []
    buyer.picture({"/": "catalogue"}.get(path, path.strip("/")))
    buyer.page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    assert buyer.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_the_pay_page_is_accessible_and_fits_a_telephone(buyer: Visit) -> None:
    buyer.order()
    expect(buyer.page.get_by_role("button", name="Pay with PayPal")).to_be_visible()
    expect(buyer.page.locator("stripe-payment form")).to_be_visible()
    # The frames of the gateways are their own pages.
    found = Axe().run(buyer.page, options={"iframes": False, "resultTypes": ["violations"]}).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    buyer.page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    buyer.picture("pay-narrow")
    assert buyer.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    order = buyer.page.url.split("/")[-3]
    assert run_apart(lambda: buyer.shop.order_status(order)) == "open"
