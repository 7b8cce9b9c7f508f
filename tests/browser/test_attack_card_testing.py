"""Attacks: card testing, as a buyer meets its bounds: in the pay page's own words, and with the shop's challenge."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

import paidonce.db
from conftest import run_apart
from paidonce import serving
from paidonce.app import create_app
from paidonce.config import load_settings
from paidonce.demo.servers import in_thread
from paidonce.sandbox.app import create_sandbox_app, sandbox_environment
from paidonce.web.challenge import Suspect
from paidonce.web.seed import seed_demo
from support.browsershop import Surroundings, Visit, visit
from support.webshop import SECRET_KEY

# A fifth of them without a wait: with the second decline a wait begins.
BOUND = "5"


async def _is_a_person(suspect: Suspect) -> bool:
    return suspect.answer == "I am a person"


@contextmanager
def _served(database_url: str, *, challenged: bool) -> Iterator[Surroundings]:
    """A shop as in production, whose bounds a test reaches soon. Its gateways are beside it."""
    free = "A free port was asked for."
    with serving.bind(serving.LOOPBACK, 0, fix=free) as near, serving.bind(serving.LOOPBACK, 0, fix=free) as beside:
        url, sandbox_url = (f"http://{serving.LOOPBACK}:{one.getsockname()[1]}" for one in (near, beside))
        environment = {
            "PAIDONCE_DATABASE_URL": database_url,
            "PAIDONCE_SECRET_KEY": SECRET_KEY,
            "PAIDONCE_PUBLIC_URL": url,
            "PAIDONCE_DECLINES_PER_USER": BOUND,
            **sandbox_environment(sandbox_url),
        }
        challenge = _is_a_person if challenged else None
        app = create_app(load_settings(environment), environment=environment, challenge=challenge)
        with in_thread(create_sandbox_app(sandbox_url), beside), in_thread(app, near):
            yield Surroundings("sandbox", url, (url, sandbox_url))


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A seeded file of this test's own."""
    path = tmp_path / "paidonce.db"
    shutil.copy(sqlite_template, path)
    run_apart(lambda: _seed(f"sqlite:///{path}"))
    return f"sqlite:///{path}"


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()


def _decline_twice(buyer: Visit) -> None:
    """The second one is one too many to go on at once."""
    alert = buyer.page.locator("stripe-payment").get_by_role("alert")
    for _ in range(2):
        buyer.choose_card("No funds")
        buyer.pay_by_card()
        expect(alert).to_contain_text("insufficient funds")
        expect(buyer.page.locator("stripe-payment")).to_have_attribute("aria-busy", "false")
    buyer.choose_card("Pays")
    buyer.pay_by_card()


def test_a_buyer_who_has_to_wait_reads_why_and_how_long(browser: Browser, database_url: str) -> None:
    with _served(database_url, challenged=False) as around, visit(browser, around) as buyer:
        order = buyer.pay_page()
        _decline_twice(buyer)
        alert = buyer.page.locator("stripe-payment").get_by_role("alert")
        expect(alert).to_have_text(
            re.compile(r"^Several payments were declined\. You have not been charged\. .* wait (30|2\d) seconds")
        )
        expect(alert).to_be_focused()
        assert buyer.state(order)["status"] == "open"


def test_a_page_with_a_challenge_lets_a_person_go_on(browser: Browser, database_url: str) -> None:
    with _served(database_url, challenged=True) as around, visit(browser, around) as buyer:
        order = buyer.pay_page()
        element = buyer.page.locator("stripe-payment")
        element.evaluate(
            "element => element.addEventListener('error', (event) => { window.asked = event.detail.code; })"
        )
        _decline_twice(buyer)
        expect(element.get_by_role("alert")).to_contain_text("Please pass the check on this page")
        assert buyer.page.evaluate("window.asked") == "challenge_needed"
        element.evaluate("element => { element.challenge = 'I am a person'; }")
        buyer.pay_by_card()
        expect(buyer.page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
        assert buyer.state(order)["status"] == "paid"
