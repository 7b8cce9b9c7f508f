"""Paying by bank transfer in Chromium: the buyer at the pay page, then staff at the order's page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, expect, sync_playwright

import paidonce.db
from conftest import run_apart
from paidonce.web.seed import STAFF, seed_demo
from support.browsershop import CHROMIUM_FLAGS, Surroundings, Visit, sandbox_surroundings, visit

SIZES = {"phone": {"width": 360, "height": 780}, "desk": {"width": 1280, "height": 900}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "install Debian's package chromium (make test does it)"
    expect.set_options(timeout=40_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def around(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    path = tmp_path_factory.mktemp("browser") / "paidonce.db"
    shutil.copy(sqlite_template, path)
    url = f"sqlite:///{path}"
    run_apart(lambda: _seed(url))
    with sandbox_surroundings(url) as found:
        yield found


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    await seed_demo(database)
    await database.close()


@pytest.fixture(params=list(SIZES))
def buyer(request: pytest.FixtureRequest, browser: Browser, around: Surroundings) -> Iterator[Visit]:
    with visit(browser, around, viewport=SIZES[request.param]) as here:
        here.context.grant_permissions(["clipboard-read", "clipboard-write"])
        yield here
        here.assert_clean()


def transfer(here: Visit) -> Locator:
    return here.page.locator("bank-transfer-payment")


def ask_for_account(here: Visit) -> Locator:
    # Frames of other ways to pay complain where a page is left while they load.
    expect(here.card_fields.get_by_role("button", name="Pays", exact=True)).to_be_visible()
    transfer(here).get_by_role("button", name="Pay by bank transfer").click()
    expect(transfer(here).get_by_text("Please transfer the money by")).to_be_visible()
    return transfer(here)


def assert_accessible(here: Visit) -> None:
    # The gateways' own frames are other origins, which axe can only knock at in vain.
    found = Axe().run(here.page, options={"iframes": False, "resultTypes": ["violations"]}).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == [], here.page.url
    width = here.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, f"{here.page.url} is too wide"


def test_a_buyer_copies_the_account_promises_and_staff_confirm(
    buyer: Visit, browser: Browser, around: Surroundings, tmp_path: Path
) -> None:
    order = buyer.pay_page()
    assert buyer.state(order)["payments"] == [], "looking at the page starts no payment"
    form = ask_for_account(buyer)
    expect(form).to_contain_text("XX36 SAND BOX0 0000 0000")
    expect(form).to_contain_text("Offline Sandbox")
    number = buyer.state(order)["number"]
    form.get_by_role("button", name="Copy: Reference").click()
    expect(form.get_by_role("status")).to_have_text("Reference copied.")
    assert buyer.page.evaluate("navigator.clipboard.readText()").startswith(f"{number}-")
    assert_accessible(buyer)
    buyer.page.screenshot(path=tmp_path / "pay.png", full_page=True)
    form.get_by_role("button", name="I will transfer the money").click()
    expect(buyer.page.get_by_role("heading", name="We are waiting for your money")).to_be_visible()
    assert buyer.state(order)["status"] == "pending"
    assert_accessible(buyer)
    buyer.page.screenshot(path=tmp_path / "order.png", full_page=True)

    # He comes back for the reference, and may still choose another way.
    buyer.page.get_by_role("link", name="How to pay, or pay another way").click()
    form = ask_for_account(buyer)
    expect(form).to_contain_text("You have told us that you transfer the money.")
    expect(form.get_by_role("button", name="I will transfer the money")).to_have_count(0)
    expect(buyer.page.locator("paypal-payment, stripe-payment").first).to_be_visible()

    confirm(browser, around, order, tmp_path)
    buyer.page.goto(f"{around.url}/orders/{order}")
    expect(buyer.page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
    assert [one["status"] for one in buyer.state(order)["payments"]] == ["captured"]


def confirm(browser: Browser, around: Surroundings, order: str, tmp_path: Path) -> None:
    """Staff enter the money, without any script."""
    with visit(browser, around, viewport=SIZES["desk"], java_script_enabled=False) as here:
        here.context.clear_cookies()
        credentials = {"email": STAFF.email, "password": STAFF.password}
        assert here.context.request.post(f"{around.url}/api/session", data=credentials).status == 201
        here.page.goto(f"{around.url}/staff/orders/{order}")
        expect(here.page.get_by_role("heading", name="Nothing to do but wait")).to_be_visible()
        here.page.get_by_text("The money has arrived", exact=True).first.click()
        here.page.get_by_label("Amount received in EUR").fill("1.00")
        here.page.screenshot(path=tmp_path / "staff-form.png", full_page=True)
        here.page.get_by_role("button", name="The money has arrived").click()
        expect(here.page.get_by_text("Still missing")).to_be_visible()
        state = here.context.request.get(f"{around.url}/api/orders/{order}").json()
        assert state["status"] == "pending", "a part pays nothing"
        due = state["total"] - 100
        here.page.get_by_text("More money has arrived", exact=True).first.click()
        here.page.get_by_label("Amount received in EUR").fill(f"{(due + 250) // 100}.{(due + 250) % 100:02}")
        here.page.get_by_label("The bank's number or date of this booking").fill("booking 4711")
        here.page.get_by_role("button", name="More money has arrived").click()
        expect(here.page.get_by_text("It was entered. The payment: paid.")).to_be_visible()
        expect(here.page.get_by_role("heading", name="What to do now")).to_be_visible()
        expect(here.page.get_by_text("Send 2.50 EUR back to the buyer").first).to_be_visible()
        here.page.screenshot(path=tmp_path / "staff-paid.png", full_page=True)
        here.assert_clean()
    with visit(browser, around, viewport=SIZES["desk"]) as here:
        here.context.clear_cookies()
        assert here.context.request.post(f"{around.url}/api/session", data=credentials).status == 201
        here.page.goto(f"{around.url}/staff/orders/{order}")
        for summary in here.page.locator("details.do > summary").all():
            summary.click()
        assert_accessible(here)


def test_a_buyer_who_changes_his_mind_pays_by_card_and_the_transfer_is_closed(buyer: Visit) -> None:
    order = buyer.pay_page()
    ask_for_account(buyer).get_by_role("button", name="I will transfer the money").click()
    expect(buyer.page.get_by_role("heading", name="We are waiting for your money")).to_be_visible()
    buyer.page.get_by_role("link", name="How to pay, or pay another way").click()
    buyer.choose_card("Pays")
    buyer.pay_by_card()
    expect(buyer.page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
    states = {one["gateway"]: one["status"] for one in buyer.state(order)["payments"]}
    assert states == {"bank_transfer": "canceled", "stripe": "captured"}


def test_without_the_right_to_copy_the_buyer_is_told_what_to_do(browser: Browser, around: Surroundings) -> None:
    with visit(browser, around, viewport=SIZES["desk"]) as here:
        here.page.add_init_script("delete Navigator.prototype.clipboard")
        here.pay_page()
        form = ask_for_account(here)
        form.get_by_role("button", name="Copy: IBAN").click()
        expect(form.get_by_role("status")).to_contain_text("Please select the text and copy it.")
        here.assert_clean()


def test_an_order_that_was_closed_meanwhile_shows_no_account(browser: Browser, around: Surroundings) -> None:
    with visit(browser, around, viewport=SIZES["desk"]) as here:
        order = here.pay_page()
        assert here.context.request.post(f"{around.url}/api/orders/{order}/cancel").status == 200
        transfer(here).get_by_role("button", name="Pay by bank transfer").click()
        expect(transfer(here).get_by_role("alert")).to_contain_text("closed")
        expect(transfer(here)).not_to_contain_text("XX36")
        assert here.state(order)["payments"] == []
        assert here.leaked == []
