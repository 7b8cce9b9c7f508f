"""A buyer's whole way in Chromium: no page, address, storage or Referer holds a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Request, expect

from paidonce.gateways.registry import secrets_of
from paidonce.sandbox.app import sandbox_environment
from support.browsershop import Surroundings, Visit, visit
from support.canary import Marks
from support.webshop import SECRET_KEY

# None of those that the demo offers on its page.
CARD = "5555 5555 5555 4444"


@pytest.fixture
def buyer(browser: Browser, sandbox_shop: Surroundings) -> Iterator[Visit]:
    """A buyer in the demo's arrangement; the addresses make no difference to what a page holds."""
    with visit(browser, sandbox_shop) as here:
        yield here
        # The page that is not there, and the bank's page that is used up.
        here.console[:] = [line for line in here.console if not ("status of 404" in line or "status of 410" in line)]
        here.assert_clean()


def _marks(buyer: Visit) -> Marks:
    marks = Marks()
    marks.add("secret of the shop", SECRET_KEY, *secrets_of(sandbox_environment(buyer.around.url))[0])
    marks.add("card number", CARD.replace(" ", ""))
    marks.add(
        "session token", *(str(one["value"]) for one in buyer.context.cookies() if "_session" in str(one["name"]))
    )
    return marks


def _page_and_storage(buyer: Visit) -> str:
    """All that scripts, extensions and screenshots of this page can see."""
    kept = (
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state, name, location.href])"
    )
    return buyer.page.content() + str(buyer.page.evaluate(kept))


def test_no_page_address_storage_or_referer_holds_a_secret(buyer: Visit) -> None:
    """FAULTS, Attacks: secrets in logs, URLs, Referer and error pages (canary values)."""
    page, url, marks = buyer.page, buyer.around.url, _marks(buyer)
    asked: list[Request] = []
    buyer.context.on("request", lambda request: asked.append(request))  # noqa: PLW0108 - Playwright marks it.
    seen = {}
    for path in ("/", "/orders", "/account", "/nothing"):
        page.goto(url + path)
        seen[path] = _page_and_storage(buyer)
    order = buyer.pay_page()
    fields = buyer.card_fields
    fields.get_by_label("Card number").fill(CARD)
    fields.get_by_label("Expiration").fill("12 / 40")
    fields.get_by_label("Security code").fill("123")
    seen["the pay page"] = _page_and_storage(buyer)
    buyer.choose_card("3-D Secure")
    with page.expect_response(lambda answer: answer.url.endswith(f"/api/orders/{order}/payments")) as started:
        buyer.pay_by_card()
    marks.add("client secret", _client_secret(started.value.json()))
    page.get_by_role("button", name="Authorize payment").click()
    expect(page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
    seen["the paid order"] = _page_and_storage(buyer)
    page.go_back()
    seen["what lies behind it"] = _page_and_storage(buyer)
    assert {where: found for where, text in seen.items() if (found := marks.found(text))} == {}
    for request in asked:
        # The gateway's own return address carries the client secret once; nothing is told where that came from.
        ours = {"client secret"} if "/return?" in request.url or not request.url.startswith(url) else set()
        assert marks.found(request.url, but=ours) == set(), request.url
        assert marks.found(request.all_headers().get("referer", "")) == set()


def _client_secret(started: Any) -> str:
    secret: str = started["client"]["client_secret"]
    assert "_secret_" in secret, json.dumps(sorted(started))
    return secret
