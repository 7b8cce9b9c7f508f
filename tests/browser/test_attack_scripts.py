"""The inventory of scripts is what Chromium really loads, on every page of the shop, at the gateways' own addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from paidonce.gateways.base import Gateway
from paidonce.gateways.registry import configure_all
from paidonce.ports import SystemClock
from paidonce.web.inventory import ERRORS, PAY_PAGE, Script, inventory
from paidonce.web.seed import STAFF
from support.browsershop import Surroundings, Twins, Visit, production_environment, visit

WITHIN = "within the page"


@pytest.fixture(scope="module")
def gateways() -> dict[str, Gateway]:
    return configure_all(production_environment(), Twins(), SystemClock())


@dataclass
class Watch:
    """The scripts of the page that is open. Those of frames and windows of the gateways' are the gateways' own."""

    here: Visit
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.here.page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if request.resource_type == "script" and request.frame == self.here.page.main_frame:
            self.loaded.append(request.url.removeprefix(self.here.around.url))

    def open(self, path: str, *, settled: bool = False) -> set[str]:
        """Everything that runs on the page at `path`; `settled` waits for what its scripts load as well."""
        self.loaded.clear()
        self.here.page.goto(self.here.around.url + path, wait_until="networkidle" if settled else "load")
        return {*self.loaded, *_inline(self.here.page)}


def _inline(page: Page) -> set[str]:
    texts = page.evaluate("[...document.scripts].filter((one) => !one.src).map((one) => one.type)")
    assert set(texts) <= {"importmap"}, "an inline script"
    return {WITHIN} if texts else set()


def assert_listed(loaded: set[str], listed: list[Script], page: str) -> None:
    """Everything that was loaded is listed, and everything of ours that is listed was loaded."""
    sources = {one.source for one in listed}
    unknown = {url for url in loaded if not any(covers(source, url) for source in sources)}
    assert unknown == set(), f"{page}: not in the inventory"
    ours = {source for source in sources if source.startswith("/") or source == WITHIN}
    assert ours <= loaded, f"{page}: listed, and not on the page"


def covers(source: str, url: str) -> bool:
    if source == url:
        return True
    origin = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    return source.startswith("https://") and urlsplit(source).path == "" and fnmatch(origin, source)


def test_the_inventory_of_scripts_is_what_chromium_loads(
    browser: Browser, production_shop: Surroundings, gateways: dict[str, Gateway]
) -> None:
    listed = inventory(gateways, built_in_shop=True)
    with visit(browser, production_shop) as here:
        order, pending = here.order(), _pending_order(here)
        watch, seen = Watch(here), {}
        seen[PAY_PAGE] = watch.open(f"/orders/{order}/pay", settled=True)
        seen["/orders/{order_id}"] = watch.open(f"/orders/{pending}")
        seen[ERRORS] = watch.open("/nothing")
        here.context.clear_cookies()
        for page in ("/sign-in", "/sign-up"):
            seen[page] = watch.open(page)
        _become_staff(here)
        for page in [page for page in listed if page not in seen]:
            seen[page] = watch.open(page.replace("{order_id}", order))
        here.console[:] = [line for line in here.console if "status of 404" not in line]
        here.assert_clean()
    assert {"https://js.stripe.com", "https://www.sandbox.paypal.com"} <= {
        re.sub(r"(?<=\w)/.*", "", url) for url in seen[PAY_PAGE]
    }
    for page, scripts in listed.items():
        assert_listed(seen[page], scripts, page)


def _pending_order(here: Visit) -> str:
    """Money that takes days, so that the order's page keeps asking."""
    order = here.pay_page()
    with here.page.expect_popup() as opened:
        here.paypal_button.click()
    opened.value.get_by_label(re.compile("pending")).check()
    opened.value.get_by_role("button", name=re.compile("^Pay ")).click()
    expect(here.page.get_by_role("heading", name="Your payment is on its way")).to_be_visible()
    return order


def _become_staff(here: Visit) -> None:
    credentials = {"email": STAFF.email, "password": STAFF.password}
    assert here.context.request.post(f"{here.around.url}/api/session", data=credentials).status == 201
