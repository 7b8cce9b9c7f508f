"""`<stripe-payment>` and the stand-in for Stripe.js in a real browser: Stripe's own addresses, the real CSP.

Nothing leaves the machine: every request is answered at the network's edge, by the twin or by a shop of a few lines.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

import paidonce
from paidonce.gateways.base import HttpRequest
from paidonce.gateways.stripe.sandbox import StripeSandbox
from paidonce.gateways.stripe.settings import component_csp, read_settings
from paidonce.ports import SystemClock

SHOP = "https://shop.example"
ROOT = Path(paidonce.__file__).parent
SCRIPTS = {
    "/assets/paidonce.js": ROOT / "components" / "assets" / "paidonce.js",
    "/assets/gateways/stripe/component.js": ROOT / "gateways" / "stripe" / "assets" / "component.js",
}
# An account of its own: the twin's keys are refused where they would go to Stripe.
KEYS = {"STRIPE_SECRET_KEY": "sk_test_51BrowserTests", "STRIPE_PUBLISHABLE_KEY": "pk_test_51BrowserTests"}
CHROMIUM = shutil.which("chromium")


def content_security_policy() -> str:
    settings = read_settings(KEYS)
    assert settings is not None
    sources = {"default-src": ("'none'",), "script-src": ("'self'",), "connect-src": ("'self'",)}
    for directive, values in component_csp(settings).items():
        sources[directive] = (*sources.get(directive, ()), *values)
    return "; ".join(f"{directive} {' '.join(values)}" for directive, values in sources.items())


@dataclass
class Edge:
    """The network as the browser sees it: a shop, Stripe's addresses, and nothing else."""

    page: Page
    core: StripeSandbox = field(default_factory=lambda: StripeSandbox("https://js.stripe.com"))
    clock: SystemClock = field(default_factory=SystemClock)
    intent: dict[str, Any] | None = None
    amount: int = 1999
    publishable_key: str = "pk_test_sandbox"
    script_works: bool = True
    leaked: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    bodies_to_shop: list[str] = field(default_factory=list)

    def api(self, method: str, path: str, form: dict[str, str] | None = None) -> dict[str, Any]:
        headers = {"authorization": "Bearer sk_test_sandbox"}
        request = HttpRequest(method, path, headers, urlencode(form or {}).encode())
        value = json.loads(self.core.handle(request, now=self.clock.now()).body)
        assert isinstance(value, dict)
        return value

    def current(self) -> dict[str, Any]:
        assert self.intent is not None
        return self.api("GET", f"/v1/payment_intents/{self.intent['id']}")

    def route(self, route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.netloc in {"js.stripe.com", "api.stripe.com"}:
            self._stripe(route)
        elif url.netloc == "shop.example":
            self.addresses.append(route.request.url)
            self.bodies_to_shop.append(route.request.post_data or "")
            self._shop(route, url.path)
        else:
            self.leaked.append(route.request.url)
            route.abort()

    def _stripe(self, route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.path.endswith(".js") and "frame" not in url.path and not self.script_works:
            route.abort()
            return
        target = f"{url.path}?{url.query}" if url.query else url.path
        body = route.request.post_data_buffer or b""
        answer = self.core.handle(
            HttpRequest(route.request.method, target, route.request.headers, body), now=self.clock.now()
        )
        route.fulfill(status=answer.status, headers=dict(answer.headers), body=answer.body)

    def _shop(self, route: Route, path: str) -> None:
        if path in SCRIPTS:
            route.fulfill(body=SCRIPTS[path].read_bytes(), headers={"content-type": "text/javascript"})
        elif path.endswith("/payments"):
            if self.intent is None:
                self.intent = self.api("POST", "/v1/payment_intents", {"amount": "1999", "currency": "eur"})
            client = {"client_secret": self.intent["client_secret"]}
            route.fulfill(json={"id": "pay_1", "gateway": "stripe", "status": "awaiting_buyer", "client": client})
        elif path.endswith("/complete"):
            route.fulfill(json=self._completed())
        else:
            page = self._pay_page() if path == "/pay" else "<!doctype html><title>Back</title><h1>Back</h1>"
            headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": content_security_policy()}
            route.fulfill(body=page, headers=headers)

    def _completed(self) -> dict[str, Any]:
        if self.current()["status"] == "succeeded":
            return {"status": "captured", "order_status": "paid", "recoverable": False, "message": ""}
        return {"status": "awaiting_buyer", "order_status": "open", "recoverable": True, "message": "Not enough money."}

    def _pay_page(self) -> str:
        return f"""<!doctype html><html lang="en"><title>Pay</title><main><h1>Pay</h1>
            <stripe-payment order="ord_1" publishable-key="{self.publishable_key}" amount="{self.amount}" currency="eur"
              script-url="https://js.stripe.com/dahlia/stripe.js" label="Pay €19.99"
              return-url="{SHOP}/orders/ord_1/return?payment={{payment}}"></stripe-payment></main>
            <script type="module" src="/assets/gateways/stripe/component.js"></script></html>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def edge(browser: Browser) -> Iterator[Edge]:
    context = browser.new_context(service_workers="block", viewport={"width": 360, "height": 800})
    edge = Edge(context.new_page())
    context.route("**/*", edge.route)
    edge.page.on("console", lambda message: edge.console.append(message.text))
    yield edge
    context.close()
    assert edge.leaked == []
    assert not [line for line in edge.console if "Content Security Policy" in line]
    assert "_secret_" not in "".join(edge.console)
    # Card data is for the gateway's frame only.
    assert "4242" not in "".join([*edge.addresses, *edge.bodies_to_shop])


def open_form(edge: Edge, card: str) -> None:
    edge.page.goto(f"{SHOP}/pay")
    edge.page.frame_locator("iframe").get_by_role("button", name=card).click()


def pay(edge: Edge) -> None:
    edge.page.get_by_role("button", name="Pay €19.99").click()


def test_a_card_that_works_pays(edge: Edge) -> None:
    open_form(edge, "Pays")
    pay(edge)
    expect(edge.page.get_by_role("status")).to_contain_text("Paid")
    assert edge.current()["status"] == "succeeded"
    assert edge.intent is not None
    assert edge.intent["client_secret"] not in edge.page.content()
    assert "secret" not in "".join(edge.addresses)


def test_a_card_typed_by_keyboard_pays(edge: Edge) -> None:
    edge.page.goto(f"{SHOP}/pay")
    frame = edge.page.frame_locator("iframe")
    frame.get_by_label("Card number").press_sequentially("4242424242424242")
    edge.page.keyboard.press("Tab")
    edge.page.keyboard.type("1234")
    edge.page.keyboard.press("Tab")
    edge.page.keyboard.type("123")
    expect(frame.get_by_label("Card number")).to_have_value("4242 4242 4242 4242")
    expect(frame.get_by_label("Expiration (MM / YY)")).to_have_value("12 / 34")
    pay(edge)
    expect(edge.page.get_by_role("status")).to_contain_text("Paid")


def test_a_decline_is_told_and_the_same_page_pays_afterwards(edge: Edge) -> None:
    open_form(edge, "No funds")
    pay(edge)
    expect(edge.page.get_by_role("alert")).to_have_text("Not enough money.")
    assert edge.current()["status"] == "requires_payment_method"
    edge.page.frame_locator("iframe").get_by_role("button", name="Pays").click()
    pay(edge)
    expect(edge.page.get_by_role("status")).to_contain_text("Paid")
    assert len(json.loads(edge.core.dump())["intents"]) == 1


def test_mistakes_are_shown_at_their_field_and_nothing_is_started(edge: Edge) -> None:
    edge.page.goto(f"{SHOP}/pay")
    frame = edge.page.frame_locator("iframe")
    expect(frame.get_by_label("Card number")).to_be_visible()
    expect(edge.page.locator("stripe-payment")).to_have_attribute("aria-busy", "false")
    pay(edge)
    expect(frame.get_by_text("Your card number is incomplete.")).to_be_visible()
    expect(frame.get_by_label("Card number")).to_be_focused()
    assert edge.intent is None
    expect(edge.page.locator("stripe-payment")).to_have_attribute("aria-busy", "false")


@pytest.mark.parametrize(("answer", "status"), [("Authorize", "succeeded"), ("Fail", "requires_payment_method")])
def test_three_d_secure_leaves_and_returns(edge: Edge, answer: str, status: str) -> None:
    open_form(edge, "3-D Secure")
    pay(edge)
    expect(edge.page.get_by_role("heading", name="3-D Secure")).to_be_visible()
    assert urlsplit(edge.page.url).netloc == "js.stripe.com"
    assert edge.intent is not None
    assert edge.intent["client_secret"] not in edge.page.url
    edge.page.get_by_role("button", name=answer).click()
    expect(edge.page.get_by_role("heading", name="Back")).to_be_visible()
    assert edge.page.url.startswith(f"{SHOP}/orders/ord_1/return?payment=pay_1&payment_intent=")
    assert edge.current()["status"] == status


def test_an_amount_that_differs_from_the_intent_is_not_paid(edge: Edge) -> None:
    edge.amount = 999
    open_form(edge, "Pays")
    pay(edge)
    expect(edge.page.get_by_role("alert")).to_contain_text("no longer matches your order")
    assert edge.current()["status"] == "requires_payment_method"


def test_a_blocked_script_is_said_and_can_be_loaded_again(edge: Edge) -> None:
    edge.script_works = False
    edge.page.goto(f"{SHOP}/pay")
    expect(edge.page.get_by_role("alert")).to_contain_text("could not be loaded")
    edge.script_works = True
    edge.page.get_by_role("button", name="Try loading it again").click()
    edge.page.frame_locator("iframe").get_by_role("button", name="Pays").click()
    pay(edge)
    expect(edge.page.get_by_role("status")).to_contain_text("Paid")


def test_a_key_that_stripe_does_not_know_is_said(edge: Edge) -> None:
    edge.publishable_key = "pk_test_unknown"
    edge.page.goto(f"{SHOP}/pay")
    expect(edge.page.get_by_role("alert")).to_contain_text("could not be loaded")
    assert edge.intent is None


MISUSES = {
    "confirm before submit": ("({clientSecret, confirmParams})", "elements.submit() must be called"),
    "no return address": ("({clientSecret, submit: true})", "return_url"),
    "a relative return address": ("({clientSecret, submit: true, confirmParams: {return_url: '/x'}})", "return_url"),
    "no client secret": ("({confirmParams, submit: true})", "clientSecret"),
    "another amount": ("({clientSecret, confirmParams, submit: true, options: {amount: 5}})", "amount"),
    "another currency": ("({clientSecret, confirmParams, submit: true, options: {currency: 'usd'}})", "currency"),
    "another capture method": (
        "({clientSecret, confirmParams, submit: true, options: {captureMethod: 'manual'}})",
        "capture method",
    ),
    "a fraction": ("({options: {amount: 19.99}})", "integer"),
    "an upper-case currency": ("({options: {currency: 'EUR'}})", "currency"),
    "a secret key": ("({key: 'sk_test_sandbox'})", "secret key"),
    "a live key": ("({key: 'pk_live_canary'})", "refuses live keys"),
    "no key": ("({key: undefined})", "apiKey"),
}

MISUSE_SCRIPT = """async ([given, clientSecret]) => {
  const confirmParams = { return_url: 'https://shop.example/back' };
  const use = { key: 'pk_test_sandbox', ...eval(given) };
  const place = document.createElement('div');
  document.querySelector('main').append(place);
  try {
    const stripe = Stripe('key' in use ? use.key : 'pk_test_sandbox');
    const elements = stripe.elements({ mode: 'payment', amount: 1999, currency: 'eur', ...use.options });
    const element = elements.create('payment');
    await new Promise((ready) => { element.on('ready', ready); element.mount(place); });
    place.querySelector('iframe').id = 'second';
    await window.filled();
    if (use.submit) await elements.submit();
    await stripe.confirmPayment({ elements, redirect: 'if_required', ...use });
    return 'confirmed';
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}"""


@pytest.mark.parametrize("misuse", MISUSES)
def test_the_stand_in_throws_where_the_original_does(edge: Edge, misuse: str) -> None:
    given, says = MISUSES[misuse]
    edge.intent = edge.api("POST", "/v1/payment_intents", {"amount": "1999", "currency": "eur"})
    edge.page.expose_function(
        "filled", lambda: edge.page.frame_locator("#second").get_by_role("button", name="Pays").click()
    )
    open_form(edge, "Pays")
    script = MISUSE_SCRIPT.replace("eval(given)", given)
    told = edge.page.evaluate(script, [None, edge.intent["client_secret"]])
    assert told.startswith("IntegrationError: ")
    assert says in told
    assert edge.intent["client_secret"] not in told
    assert edge.current()["status"] == "requires_payment_method"
    assert json.loads(edge.core.dump())["charges"] == {}


@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_on_the_twins_pages(edge: Edge, width: int) -> None:
    edge.page.set_viewport_size({"width": width, "height": 800})
    edge.page.goto("https://js.stripe.com/frame/card")
    expect(edge.page.get_by_label("Card number")).to_be_visible()
    # The frame is a part of the shop's page, which has the heading.
    findings = [rule["id"] for rule in Axe().run(edge.page).response["violations"]]
    assert [rule for rule in findings if rule != "page-has-heading-one"] == []
    open_form(edge, "3-D Secure")
    pay(edge)
    expect(edge.page.get_by_role("heading", name="3-D Secure")).to_be_visible()
    assert [rule["id"] for rule in Axe().run(edge.page).response["violations"]] == []
    wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert edge.page.evaluate(wider) is False
