"""`<paypal-payment>` and the stand-in SDK in a real Chromium, under the policy that the gateway's component asks for.

The page and its two API routes are the least that the component needs; the gateway, the twin, the component and its
base class are the production ones. Twin and shop have different origins, as PayPal and a shop have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import BrowserContext, Page, Route, async_playwright, expect

import paidonce.components
from paidonce.gateways.base import CreateRequest, Gateway, HttpRequest, HttpResponse, Progress
from paidonce.gateways.paypal import provider
from paidonce.gateways.paypal.sandbox import PayPalSandbox
from paidonce.money import Money
from support.paypal import HOME, Line, VirtualClock

BASE_CLASS = Path(paidonce.components.__file__).parent / "assets" / "paidonce.js"
CHROMIUM = shutil.which("chromium")
AMOUNT = Money(1999, "EUR")
CAPTURED, DECLINED, CANCELED = "captured", "was declined", "You closed PayPal. Nothing was charged"

# Runs while the page loads, so without any click of a buyer.
PROBE = """
import '/assets/gateways/paypal/component.js';
document.addEventListener('paid', () => { document.body.dataset.paid = 'yes'; });
document.addEventListener('securitypolicyviolation', (event) => {
  document.body.dataset.violation = event.blockedURI;
});
window.probeStart = async (clientId) => {
  try {
    const sdk = await paypal.createInstance({ clientId, components: ['paypal-payments'], pageType: 'checkout' });
    const session = sdk.createPayPalOneTimePaymentSession({ onApprove: async () => {} });
    await session.start({ presentationMode: 'auto' }, Promise.resolve({ orderId: 'X' }));
    return 'started';
  } catch (error) {
    return `${error.code} ${error.isRecoverable}`;
  }
};
"""


@dataclass
class Store:
    """A shop with one order, without a database."""

    gateway: Gateway
    core: PayPalSandbox
    line: Line
    url: str = ""
    captures: int = 0

    async def page(self, request: web.Request) -> web.Response:
        """The pay page."""
        component = self.gateway.component()
        values = {
            **component.attributes,
            **self.gateway.attributes(AMOUNT),
            "order": "ord_1",
            "return-url": self.url + "/return?payment={payment}",
        }
        attributes = " ".join(f'{name}="{value}"' for name, value in values.items())
        html = (
            '<!doctype html><html lang="en"><title>Pay</title><meta name="viewport" content="width=device-width">'
            f"<body><main><h1>Pay</h1><{component.element} {attributes}></{component.element}></main>"
            '<script type="module" src="/probe.js"></script></body></html>'
        )
        policy = {
            "default-src": ["'none'"],
            "connect-src": ["'self'"],
            "script-src": ["'self'"],
            "base-uri": ["'none'"],
        }
        for directive, sources in component.csp.items():
            policy.setdefault(directive, []).extend(sources)
        text = "; ".join(f"{directive} {' '.join(sources)}" for directive, sources in policy.items())
        headers = {"content-security-policy": text, "cross-origin-opener-policy": "same-origin-allow-popups"}
        return web.Response(text=html, content_type="text/html", headers=headers)

    async def script(self, request: web.Request) -> web.StreamResponse:
        """The shop's own scripts."""
        if request.path == "/probe.js":
            return web.Response(text=PROBE, content_type="text/javascript")
        component = self.gateway.component()
        return web.FileResponse(
            BASE_CLASS if request.path.endswith("paidonce.js") else component.assets / component.module
        )

    async def start(self, request: web.Request) -> web.Response:
        """POST /api/orders/ord_1/payments."""
        back = (self.url + "/return?payment=pay_1", self.url + "/")
        opened = await self.gateway.create(CreateRequest("pay_1", "ord_1", "1001", AMOUNT, *back, "create-1"))
        return web.json_response(
            {"id": "pay_1", "gateway": "paypal", "status": "awaiting_buyer", "client": dict(opened.client)}
        )

    async def complete(self, request: web.Request) -> web.Response:
        """POST /api/payments/pay_1/complete."""
        (ref,) = json.loads(self.core.dump())["orders"]
        snapshot = await self.gateway.fetch(ref)
        if snapshot.progress is Progress.APPROVED:
            self.captures += 1
            snapshot = await self.gateway.capture(ref, idempotency_key=f"capture-{self.captures}", amount=AMOUNT)
        paid = snapshot.progress is Progress.CAPTURED
        message = "Thank you, captured." if paid else "Your card was declined. Choose another one."
        return web.json_response(
            {
                "status": "captured" if paid else "awaiting_buyer",
                "order_status": "paid" if paid else "open",
                "recoverable": not paid,
                "message": message,
            }
        )

    async def twin(self, request: web.Request) -> web.Response:
        """The twin at its own origin."""
        path = request.raw_path.removeprefix("/paypal")
        return self.as_web(self.answer(request.method, path, await request.read()))

    def answer(self, method: str, path: str, body: bytes) -> HttpResponse:
        """What the twin says to a browser."""
        return self.core.handle(HttpRequest(method, path, {}, body), now=self.line.clock.now())

    @staticmethod
    def as_web(answer: HttpResponse) -> web.Response:
        """The same for aiohttp."""
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))

    def moved(self) -> int:
        """Captures in the twin's books."""
        return self.core.dump().count('"capture": {')


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """The origin at which `app` listens."""
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def open_store(**settings: str) -> AsyncIterator[Store]:
    """A shop and, at another port, the twin."""
    clock = VirtualClock()
    core = PayPalSandbox(HOME + "/paypal")
    line = Line(core, clock)
    twin_app, shop_app = web.Application(), web.Application()
    holder: list[Store] = []

    async def twin(request: web.Request) -> web.Response:
        return await holder[0].twin(request)

    twin_app.router.add_route("*", "/paypal/{rest:.*}", twin)
    async with served(twin_app) as twin_url:
        script = {"PAYPAL_JS_URL": twin_url + "/paypal/web-sdk/v6/core"}
        environment = {**provider.sandbox_environment(HOME), **script, **settings}
        gateway = provider.configure(environment, line, clock)
        assert gateway is not None
        store = Store(gateway, core, line)
        holder.append(store)
        shop_app.router.add_get("/", store.page)
        shop_app.router.add_get("/return", store.page)
        for path in ("/probe.js", "/assets/paidonce.js", "/assets/gateways/paypal/component.js"):
            shop_app.router.add_get(path, store.script)
        shop_app.router.add_post("/api/orders/ord_1/payments", store.start)
        shop_app.router.add_post("/api/payments/pay_1/complete", store.complete)
        async with served(shop_app) as store.url:
            yield store


@pytest.fixture
async def context() -> AsyncIterator[BrowserContext]:
    """A fresh browser profile that reaches this machine only."""
    # A busy machine is slow, and no wait here is about speed.
    expect.set_options(timeout=40_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(service_workers="block")
        await context.route("**/*", _only_here)
        yield context
        await browser.close()


async def _only_here(route: Route) -> None:
    if route.request.url.startswith("http://127.0.0.1:"):
        await route.continue_()
    else:
        await route.abort()


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    """A shop whose PayPal script comes from the twin."""
    async with open_store() as store:
        yield store


async def pay_page(context: BrowserContext, store: Store) -> Page:
    """The pay page, with PayPal's button on it."""
    page = await context.new_page()
    await page.goto(store.url)
    await expect(page.get_by_role("button", name="Pay with PayPal")).to_be_visible()
    return page


async def approval(page: Page, *, keyboard: bool = False) -> Page:
    """Press PayPal's button and wait for the approval page in its pop-up."""
    button = page.get_by_role("button", name="Pay with PayPal")
    async with page.expect_popup() as opening:
        if keyboard:
            await button.focus()
            await page.keyboard.press("Enter")
        else:
            await button.click()
    popup = await opening.value
    await expect(popup.get_by_role("heading", name="Pay with PayPal")).to_be_visible()
    return popup


async def settled(page: Page, text: str) -> None:
    """Wait for the component's message, and see that the page's policy was never in the way."""
    await expect(page.locator("paypal-payment")).to_contain_text(text)
    assert await page.locator("body").get_attribute("data-violation") is None


async def test_approve_in_the_pop_up(context: BrowserContext, store: Store) -> None:
    page = await pay_page(context, store)
    popup = await approval(page, keyboard=True)
    await expect(popup.get_by_text("Offline sandbox.")).to_be_visible()

    async with popup.expect_event("close"):
        await popup.get_by_role("button", name="Pay 19.99 EUR").click()

    await settled(page, CAPTURED)
    await expect(page.locator("body")).to_have_attribute("data-paid", "yes")
    assert store.moved() == 1


async def test_a_declined_source_recovers_with_a_fresh_click(context: BrowserContext, store: Store) -> None:
    page = await pay_page(context, store)
    popup = await approval(page)
    await popup.get_by_label("will be declined").check()
    await popup.get_by_role("button", name="Pay 19.99 EUR").click()
    await settled(page, DECLINED)
    assert store.moved() == 0

    popup = await approval(page)
    await expect(popup.get_by_text("Please choose another one")).to_be_visible()
    await popup.get_by_role("button", name="Pay 19.99 EUR").click()

    await settled(page, CAPTURED)
    assert len(json.loads(store.core.dump())["orders"]) == 1
    assert store.moved() == 1


@pytest.mark.parametrize("how", ["button", "closed"])
async def test_turning_back_loses_nothing(context: BrowserContext, store: Store, how: str) -> None:
    page = await pay_page(context, store)
    popup = await approval(page)
    if how == "button":
        await popup.get_by_role("button", name="Cancel and return").click()
    else:
        await popup.close()

    await settled(page, CANCELED)
    assert await page.locator("body").get_attribute("data-paid") is None
    assert store.moved() == 0

    popup = await approval(page)
    await popup.get_by_role("button", name="Pay 19.99 EUR").click()
    await settled(page, CAPTURED)


async def test_pay_in_this_tab(context: BrowserContext, store: Store) -> None:
    page = await pay_page(context, store)
    await page.get_by_role("button", name="Continue in this tab instead").click()
    await page.get_by_role("button", name="Pay 19.99 EUR").click()

    await page.wait_for_url(store.url + "/return?*")
    await settled(page, CAPTURED)
    assert store.moved() == 1


async def test_turning_back_in_this_tab(context: BrowserContext, store: Store) -> None:
    page = await pay_page(context, store)
    await page.get_by_role("button", name="Continue in this tab instead").click()
    await page.get_by_role("button", name="Cancel and return").click()

    await page.wait_for_url(store.url + "/?*")
    await expect(page.get_by_role("button", name="Pay with PayPal")).to_be_visible()
    assert store.moved() == 0


async def test_a_blocked_pop_up_falls_back_to_this_tab(context: BrowserContext, store: Store) -> None:
    await context.add_init_script("window.open = () => null;")
    page = await pay_page(context, store)

    await page.get_by_role("button", name="Pay with PayPal").click()

    await expect(page.get_by_role("heading", name="Pay with PayPal")).to_be_visible()
    assert "/checkoutnow?token=" in page.url


async def test_start_without_a_click_is_refused(context: BrowserContext, store: Store) -> None:
    page = await context.new_page()
    probe = PROBE + "\ncustomElements.whenDefined('paypal-button').then(async () => {"
    probe += " while (!window.paypal?.createInstance) await new Promise((tell) => setTimeout(tell, 20));"
    probe += " document.title = await window.probeStart('sandbox-x'); });"

    async def script(route: Route) -> None:
        await route.fulfill(body=probe, content_type="text/javascript")

    await context.route(store.url + "/probe.js", script)
    await page.goto(store.url)

    await expect(page).to_have_title("ERR_DEV_UNABLE_TO_OPEN_POPUP true")
    assert len(context.pages) == 1
    assert await page.evaluate("window.probeStart('AZDxjDScFpQtjWTOUtWKbyN')") == "INVALID_CLIENT_ID false"


async def test_a_script_that_fails_to_load_can_be_tried_again(context: BrowserContext, store: Store) -> None:
    failing = True

    async def core(route: Route) -> None:
        await (route.abort() if failing else route.continue_())

    await context.route("**/web-sdk/v6/core", core)
    page = await context.new_page()
    await page.goto(store.url)
    await expect(page.get_by_role("alert")).to_contain_text("could not be loaded")

    failing = False
    await page.get_by_role("button", name="Try loading it again").click()

    await expect(page.get_by_role("button", name="Pay with PayPal")).to_be_visible()
    assert store.moved() == 0


async def test_a_message_from_a_stranger_approves_nothing(context: BrowserContext, store: Store) -> None:
    page = await pay_page(context, store)
    popup = await approval(page)

    await page.evaluate("window.postMessage({ paypalSandbox: 'approve', orderId: 'X', payerId: 'Y' }, '*')")
    await popup.get_by_role("button", name="Cancel and return").click()

    await settled(page, CANCELED)
    assert store.line.count("/capture") == 0


async def test_at_paypals_own_addresses(context: BrowserContext) -> None:
    """The production script address, answered by the twin at the edge of the network, under the production policy."""
    async with open_store(PAYPAL_JS_URL="") as store:

        async def paypal(route: Route) -> None:
            request = route.request
            path = request.url.removeprefix("https://www.sandbox.paypal.com")
            answer = store.answer(request.method, path, request.post_data_buffer or b"")
            await route.fulfill(status=answer.status, headers=dict(answer.headers), body=answer.body)

        await context.route("https://www.sandbox.paypal.com/**", paypal)
        page = await pay_page(context, store)
        popup = await approval(page)
        assert popup.url.startswith("https://www.sandbox.paypal.com/checkoutnow?token=")

        await popup.get_by_role("button", name="Pay 19.99 EUR").click()

        await settled(page, CAPTURED)
        assert store.moved() == 1


@pytest.mark.parametrize("width", [360, 1280])
async def test_the_approval_page_is_accessible_and_fits(context: BrowserContext, store: Store, width: int) -> None:
    page = await pay_page(context, store)
    await page.set_viewport_size({"width": width, "height": 800})
    assert (await Axe().run(page)).violations_count == 0
    await page.get_by_role("button", name="Continue in this tab instead").click()
    await expect(page.get_by_role("group", name="Pay with")).to_be_visible()

    found = await Axe().run(page)

    assert found.violations_count == 0, found.generate_report()
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
