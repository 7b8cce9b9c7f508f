"""A buyer pays at Mollie in Chromium: the whole shop, the whole way to the twin's checkout and back."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

import paidonce.db
from conftest import run_apart
from paidonce.web.seed import seed_demo
from support.browsershop import Surroundings, Visit, chromium, sandbox_surroundings, visit


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def around(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """A shop and its offline gateways as two servers."""
    path = tmp_path_factory.mktemp("mollie") / "paidonce.db"
    shutil.copy(sqlite_template, path)
    run_apart(lambda: _seed(f"sqlite:///{path}"))
    with sandbox_surroundings(f"sqlite:///{path}") as found:
        yield found


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()


@pytest.fixture
def buyer(browser: Browser, around: Surroundings) -> Iterator[Visit]:
    """A buyer at a desk; afterwards nothing may have leaked, been stopped or complained."""
    with visit(browser, around, viewport={"width": 1280, "height": 900}) as here:
        yield here
        here.assert_clean()


def button(page: Page) -> Locator:
    return page.locator("mollie-payment").get_by_role("button", name="Continue to Mollie")


def to_checkout(buyer: Visit) -> str:
    """Order, go to the pay page, and on to Mollie; the order's id."""
    order = buyer.pay_page()
    button(buyer.page).click()
    expect(buyer.page.get_by_role("heading", name="Pay with Mollie")).to_be_visible()
    expect(buyer.page.get_by_text("Offline sandbox.")).to_be_visible()
    return order


def choose(buyer: Visit, name: str) -> None:
    buyer.page.get_by_role("radio", name=name, exact=True).check()
    buyer.page.get_by_role("button", name="Pay 9.90 EUR").click()


def assert_paid(buyer: Visit, order: str, *, attempts: int = 1) -> None:
    expect(buyer.page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/orders/{order}", buyer.page.url)
    payments = payments_of(buyer, order)
    assert [one["status"] for one in payments].count("captured") == 1
    assert len(payments) == attempts
    assert buyer.state(order)["status"] == "paid"


def payments_of(buyer: Visit, order: str) -> list[Any]:
    return [one for one in buyer.state(order)["payments"] if one["gateway"] == "mollie"]


def test_to_mollie_and_back_paid(buyer: Visit) -> None:
    order = to_checkout(buyer)
    assert buyer.state(order)["status"] == "open"
    choose(buyer, "Card")
    assert_paid(buyer, order)
    kept = buyer.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert "checkout" not in kept + buyer.page.content()


def test_by_keyboard_alone(buyer: Visit) -> None:
    order = buyer.pay_page()
    expect(button(buyer.page)).to_be_visible()
    button(buyer.page).focus()
    buyer.page.keyboard.press("Enter")
    expect(buyer.page.get_by_role("heading", name="Pay with Mollie")).to_be_visible()
    buyer.page.get_by_role("button", name="Pay 9.90 EUR").focus()
    buyer.page.keyboard.press("Enter")
    assert_paid(buyer, order)


def test_a_decline_at_the_checkout_is_mended_there(buyer: Visit) -> None:
    order = to_checkout(buyer)
    choose(buyer, "Card that is declined")
    expect(buyer.page.get_by_text("Your card was declined.")).to_be_visible()
    assert buyer.state(order)["status"] == "open"
    choose(buyer, "Card")
    assert_paid(buyer, order)


def test_a_payment_that_fails_for_good_is_explained_and_a_new_one_pays(buyer: Visit) -> None:
    order = to_checkout(buyer)
    choose(buyer, "Card that fails for good")
    expect(buyer.page.get_by_role("heading", name="How would you like to pay?")).to_be_visible()
    expect(buyer.page.locator(".flash")).to_contain_text("not been charged")
    assert "insufficient_funds" not in buyer.page.content()
    assert [one["status"] for one in payments_of(buyer, order)] == ["failed"]
    button(buyer.page).click()
    choose(buyer, "Card")
    assert_paid(buyer, order, attempts=2)


def test_turning_back_loses_nothing(buyer: Visit) -> None:
    order = to_checkout(buyer)
    buyer.page.get_by_role("button", name="Cancel and return").click()
    expect(buyer.page.get_by_role("heading", name="How would you like to pay?")).to_be_visible()
    assert buyer.page.url.endswith(f"/orders/{order}/pay")
    assert buyer.state(order)["status"] == "open"
    button(buyer.page).click()
    choose(buyer, "Card")
    assert_paid(buyer, order, attempts=2)


def test_the_back_button_brings_a_usable_page_and_the_same_checkout(buyer: Visit) -> None:
    order = to_checkout(buyer)
    address = buyer.page.url
    buyer.page.go_back()
    expect(button(buyer.page)).to_be_visible()
    expect(buyer.page.locator("mollie-payment")).to_have_attribute("aria-busy", "false")
    button(buyer.page).click()
    expect(buyer.page.get_by_role("heading", name="Pay with Mollie")).to_be_visible()
    assert buyer.page.url == address
    choose(buyer, "Card")
    assert_paid(buyer, order)


def test_a_closed_tab_is_paid_all_the_same(buyer: Visit) -> None:
    """The buyer pays and never comes back: the webhook is all that the shop hears."""
    order = to_checkout(buyer)
    checkout = buyer.page.url
    ref = "tr_" + checkout.rsplit("/", 1)[1]
    buyer.page.close()
    assert buyer.context.request.post(checkout, form={"choice": "card"}, max_redirects=0).status == 303
    assert buyer.state(order)["status"] == "open"
    # As Mollie sends it; no courier runs between the two servers of this test.
    told = buyer.context.request.post(f"{buyer.around.url}/webhooks/mollie", form={"id": ref})
    assert told.status == 200
    # Whoever tells is answered before the shop has asked back.
    for _ in range(200):
        if buyer.state(order)["status"] == "paid":
            break
        time.sleep(0.2)
    buyer.page = buyer.context.new_page()
    buyer.page.goto(f"{buyer.around.url}/orders/{order}")
    assert_paid(buyer, order)


def test_another_way_to_pay_waits_while_mollie_may_still_be_paid(buyer: Visit) -> None:
    order = to_checkout(buyer)
    buyer.open_pay_page(order)
    buyer.choose_card("Pays")
    buyer.pay_by_card()
    expect(buyer.page.locator("stripe-payment").get_by_role("alert")).to_contain_text("not be charged twice")
    assert [one["gateway"] for one in buyer.state(order)["payments"]] == ["mollie"]
    # Whoever goes back to Mollie finds the same checkout, and pays once.
    buyer.open_pay_page(order)
    button(buyer.page).click()
    choose(buyer, "Card")
    assert_paid(buyer, order)
    buyer.console[:] = [line for line in buyer.console if "status of 409" not in line]


def test_a_bank_transfer_is_awaited_and_said_so(buyer: Visit) -> None:
    order = to_checkout(buyer)
    choose(buyer, "Bank transfer")
    expect(buyer.page.get_by_text(re.compile("waiting for your money|reserved", re.IGNORECASE)).first).to_be_visible()
    assert "came back without paying" not in buyer.page.content()
    assert [one["status"] for one in payments_of(buyer, order)] == ["awaiting_buyer"]
    assert buyer.state(order)["status"] != "paid"


@pytest.mark.parametrize("width", [360, 1280])
def test_the_pages_are_accessible_and_fit(browser: Browser, around: Surroundings, width: int, tmp_path: Path) -> None:
    with visit(browser, around, viewport={"width": width, "height": 800}) as buyer:
        buyer.pay_page()
        expect(button(buyer.page)).to_be_visible()
        # On the pay page only our own part: the other gateways' frames are other origins, at which axe knocks in vain.
        for name, part in (("pay", "mollie-payment"), ("checkout", "html")):
            found = Axe().run(buyer.page, context=part)
            assert found.violations_count == 0, found.generate_report()
            assert buyer.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            buyer.page.screenshot(path=tmp_path / f"{name}-{width}.png", full_page=True)
            if name == "pay":
                assert button(buyer.page).bounding_box()["height"] >= 44  # type: ignore[index]
                button(buyer.page).click()
                expect(buyer.page.get_by_role("heading", name="Pay with Mollie")).to_be_visible()
        buyer.assert_clean()
