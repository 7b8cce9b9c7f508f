"""Names, numbers and errors that strangers wrote, in Chromium under the real policy: they stay text."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import paidonce.db
from conftest import run_apart
from paidonce.web.seed import STAFF, seed_demo
from support.browsershop import Surroundings, Visit, sandbox_surroundings, visit

MARKUP = "<script>top.hacked=1</script><img src=x onerror='top.hacked=1'>\"><svg onload=top.hacked=1>"
TEMPLATES = "{{7*7}}${7*7}{%raw%}<%=7*7%>"
ADDRESS = "javascript:top.hacked=1//"
# Turns everything behind it round, unless it is shut in.
TURNED = "\u202e00.1€\u2067"
HOSTILE = f"{MARKUP}{TEMPLATES}{ADDRESS}{TURNED}😈"
SKU = "EVIL-01"

# What a script of theirs would have left behind, and where their text could have become something else than text.
TRACES = """() => ({
  hacked: window.hacked ?? null,
  handlers: [...document.querySelectorAll('*')].filter((one) => one.onerror || one.onload || one.onclick).length,
  images: document.querySelectorAll('img[src=x], svg[onload]').length,
  addresses: [...document.querySelectorAll('[href], [action]')]
    .filter((one) => /^\\s*javascript:/i.test(one.getAttribute('href') ?? one.getAttribute('action'))).length,
})"""
NO_TRACES = {"hacked": None, "handlers": 0, "images": 0, "addresses": 0}
# Texts that turn the direction round, together with an amount that it would turn as well.
TURNED_AMOUNTS = """() => {
  const isolates = (one) => /isolate|plaintext/.test(getComputedStyle(one).unicodeBidi);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    if (!walker.currentNode.data.includes('\\u202e')) continue;
    let around = walker.currentNode.parentElement;
    while (!isolates(around) && around !== document.body) around = around.parentElement;
    if (/€\\d/.test(around.textContent)) found.push(around.textContent.trim());
  }
  return found;
}"""


@pytest.fixture(scope="module")
def shop(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Surroundings, Path]]:
    """A shop that sells a product with a hostile name, and its database."""
    path = tmp_path_factory.mktemp("texts") / "paidonce.db"
    shutil.copy(sqlite_template, path)
    run_apart(lambda: _seed(f"sqlite:///{path}"))
    write(
        path,
        "INSERT INTO products SELECT ?, ?, ?, ?, price_minor, currency, 0 FROM products WHERE sku = 'TEA-01'",
        [SKU, HOSTILE, HOSTILE, '/assets/none"onerror="top.hacked=1'],
    )
    write(path, "INSERT INTO stock (sku, on_hand, held) VALUES (?, 3, 0)", [SKU])
    with sandbox_surroundings(f"sqlite:///{path}", PAIDONCE_SHOP_NAME=HOSTILE[:60]) as around:
        yield around, path


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()


def write(path: Path, sql: str, values: list[Any]) -> None:
    with closing(sqlite3.connect(path, timeout=15)) as connection:
        connection.execute(sql, values)
        connection.commit()


def assert_only_text(page: Page, shown: str | None = HOSTILE) -> None:
    assert page.evaluate(TRACES) == NO_TRACES, page.url
    assert page.evaluate(TURNED_AMOUNTS) == [], page.url
    if shown is not None:
        assert shown in page.locator("body").text_content()  # type: ignore[operator]
    assert "49" not in page.title()


def sign_up(here: Visit) -> None:
    """A buyer whose own name is hostile."""
    here.context.clear_cookies()
    account = {"email": "evil@example.com", "name": HOSTILE[:100], "password": "a-long-password-of-mine"}
    assert here.context.request.post(f"{here.around.url}/api/users", data=account).status == 201


def test_hostile_names_numbers_and_errors_stay_text_on_every_page(
    browser: Browser, shop: tuple[Surroundings, Path]
) -> None:
    around, database = shop
    with visit(browser, around) as here:
        page, url = here.page, around.url
        page.on("dialog", lambda dialog: here.console.append(f"dialog: {dialog.message}"))
        sign_up(here)
        page.goto(url)
        assert_only_text(page)
        page.locator(f"form[data-basket]:has([value='{SKU}']) button").click()
        expect(page.locator("#announce")).to_contain_text(MARKUP)
        assert_only_text(page)
        page.goto(f"{url}/basket")
        assert_only_text(page)
        # By the form, whose answer is told on the next page.
        page.get_by_role("button", name="Remove").click()
        expect(page.locator(".flash")).to_contain_text(MARKUP)
        assert_only_text(page)
        order = here.order(sku=SKU)
        number = f"PO-{HOSTILE}"
        write(database, "UPDATE orders SET number = ? WHERE id = ?", [number, order])
        for path in ("/orders", f"/orders/{order}", f"/orders/{order}/pay"):
            page.goto(url + path)
            assert_only_text(page, number)
        _sell_out(here, database, order)
        _look_as_staff(here, database, order, number)
        here.console[:] = [line for line in here.console if "status of 4" not in line]
        here.assert_clean()


def _sell_out(here: Visit, database: Path, order: str) -> None:
    """The shop's refusal names the product, and the element shows the refusal."""
    write(database, "UPDATE stock SET on_hand = 0 WHERE sku = ?", [SKU])
    here.choose_card("Pays")
    here.pay_by_card()
    expect(here.page.locator("stripe-payment").get_by_role("alert")).to_contain_text(MARKUP)
    assert_only_text(here.page)
    assert here.state(order)["status"] == "open"


def _look_as_staff(here: Visit, database: Path, order: str, number: str) -> None:
    page, url = here.page, here.around.url
    here.context.clear_cookies()
    credentials = {"email": STAFF.email, "password": STAFF.password}
    assert here.context.request.post(f"{url}/api/session", data=credentials).status == 201
    for path in ("/staff", f"/staff/orders/{order}"):
        page.goto(url + path)
        assert_only_text(page, number)
    page.goto(f"{url}/staff/orders?find={HOSTILE}")
    assert_only_text(page, None)


def test_hostile_words_in_forms_and_addresses_stay_text(browser: Browser, shop: tuple[Surroundings, Path]) -> None:
    around, _ = shop
    with visit(browser, around) as here:
        here.context.clear_cookies()
        page = here.page
        page.goto(f"{around.url}/sign-in?next={ADDRESS}")
        page.get_by_label("Email").evaluate("field => { field.type = 'text'; }")
        page.get_by_label("Email").fill(f"{MARKUP}@x")
        page.get_by_label("Password").fill("wrong-password")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        assert page.get_by_label("Email").input_value() == f"{MARKUP}@x"
        assert_only_text(page, None)
        page.goto(f"{around.url}/sign-up")
        page.get_by_label("Name").fill(HOSTILE[:90])
        page.get_by_label("Email").fill("buyer@example.com")
        page.get_by_label("Password").fill("a-long-password-of-mine")
        page.get_by_role("button", name="Make").click()
        expect(page.locator("[aria-invalid=true]")).to_be_visible()
        assert page.get_by_label("Name").input_value() == HOSTILE[:90]
        assert_only_text(page, None)
        for path in (f"/{HOSTILE}", f"/orders/{MARKUP}", "/orders/x/return?payment=%3Cscript%3Etop.hacked=1"):
            page.goto(around.url + path.replace("%>", "%25>").replace("{%", "{%25"))
            assert_only_text(page, None)
        here.console[:] = [line for line in here.console if "status of 4" not in line]
        here.assert_clean()
