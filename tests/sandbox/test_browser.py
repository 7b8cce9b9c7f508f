"""The control page in a real browser, under its own policy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from paidonce import serving
from paidonce.demo.servers import in_thread
from paidonce.sandbox import SandboxApp, create_sandbox_app
from sandbox.twin import PROVIDERS, TillCore
from support.browsershop import CHROMIUM_FLAGS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "install Debian's package chromium (make test does it)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def served() -> Iterator[tuple[SandboxApp, str]]:
    listener = serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.")
    url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
    app = create_sandbox_app(url, providers=PROVIDERS)
    with in_thread(app, listener):
        yield app, url


def _open(browser: Browser, url: str, **options: Any) -> tuple[Page, list[str]]:
    page = browser.new_context(**options).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url + "/")
    page.get_by_role("link", name="Control page").click()
    return page, complaints


def test_a_person_without_scripts_makes_things_happen(browser: Browser, served: tuple[SandboxApp, str]) -> None:
    app, url = served
    core = app.cores["till"]
    assert isinstance(core, TillCore)
    page, complaints = _open(browser, url, java_script_enabled=False)
    assert page.request.post(url + "/till/v1/pay").ok
    page.locator("details", has=page.locator("#till-refund-charge")).locator("summary").click()
    page.locator("#till-refund-charge").fill("ch_1")
    page.get_by_role("button", name="refund", exact=True).locator("visible=true").click()
    expect(page.get_by_role("status")).to_contain_text("re_ch_1")
    page.get_by_label("What shall go wrong").select_option("lose_answer")
    page.get_by_label("Calls: part of the path").fill("/v1/pay")
    page.get_by_role("button", name="Add the fault").click()
    expect(page.get_by_role("region", name="What goes wrong right now")).to_contain_text("path /v1/pay, next 1")
    page.get_by_role("button", name="Switch webhooks off").click()
    expect(page.get_by_role("button", name="Switch webhooks on")).to_be_visible()
    assert not app.dials.webhooks
    assert [entry.kind for entry in core.books()] == ["capture", "refund"]
    # The fault is for the shop's calls: what this browser asks for itself goes through.
    assert app.dials.struck.total() == 0
    assert complaints == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_has_no_barrier(browser: Browser, served: tuple[SandboxApp, str], scheme: Any, width: int) -> None:
    app, url = served
    app.dials.turn({"rules": [{"fault": "409", "path": "/v1/pay"}]})
    # axe is a script, which the page's own policy keeps out.
    size: Any = {"width": width, "height": 800}
    page, _ = _open(browser, url, color_scheme=scheme, viewport=size, bypass_csp=True)
    for _ in range(2):
        assert page.request.post(url + "/till/v1/pay", headers={"sec-fetch-mode": "cors"}).ok
    page.reload()
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert too_wide <= 0
    page.context.close()
