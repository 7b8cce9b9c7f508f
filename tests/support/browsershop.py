"""The whole shop for browser tests, in two surroundings, and what a test watches while a buyer uses it.

`sandbox`: as in the demo, shop and offline gateways are two servers, and the pages name the sandbox's addresses.
`production`: the pages name the gateways' own addresses; whatever goes there is answered at the network's edge.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    FrameLocator,
    Locator,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

from paidonce import serving
from paidonce.app import create_app
from paidonce.config import load_settings
from paidonce.gateways.base import HttpRequest, HttpResponse, SandboxCore
from paidonce.gateways.paypal.sandbox import PayPalSandbox
from paidonce.gateways.registry import configure_all
from paidonce.gateways.stripe.sandbox import StripeSandbox
from paidonce.ports import SystemClock
from paidonce.sandbox.app import create_sandbox_app, sandbox_environment
from paidonce.web.seed import BUYER
from support.quick import in_thread
from support.webshop import SECRET_KEY

EXPECT_MS = 40_000

# Without these, Chromium looks for its maker's servers at every start.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Everything that the policy stops is reported where the console is watched, in frames as well.
_VIOLATION = "CSP violation:"
REPORT_VIOLATIONS = """
addEventListener('securitypolicyviolation', (event) => {
  console.error(`CSP violation: ${event.violatedDirective} ${event.blockedURI}`);
});
"""
# A decline is an answer of the gateway's own API to its own frame; browsers log every 4xx.
EXPECTED_ON_CONSOLE = ("status of 402",)


# A real account's keys, which the twin takes for those of an account of its own.
_OWN_ACCOUNT = "51BrowserTests"


def _known(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value.replace(_OWN_ACCOUNT, "sandboxbrowser") for name, value in headers.items()}


class Twins:
    """The offline gateways at the production addresses: one memory, asked by the shop and by browsers alike."""

    def __init__(self) -> None:
        stripe: SandboxCore = StripeSandbox("https://js.stripe.com")
        paypal: SandboxCore = PayPalSandbox("https://www.sandbox.paypal.com")
        self._hosts: dict[str, SandboxCore] = {
            "js.stripe.com": stripe,
            "api.stripe.com": stripe,
            "hooks.stripe.com": stripe,
            "www.sandbox.paypal.com": paypal,
            "api-m.sandbox.paypal.com": paypal,
        }
        self._clock = SystemClock()
        self._lock = threading.Lock()

    def knows(self, url: str) -> bool:
        """Whether this address belongs to a gateway."""
        return urlsplit(url).netloc in self._hosts

    def answer(self, request: HttpRequest) -> HttpResponse:
        """What the gateway says."""
        url = urlsplit(request.url)
        target = f"{url.path}?{url.query}" if url.query else url.path
        with self._lock:
            core = self._hosts[url.netloc]
            return core.handle(
                HttpRequest(request.method, target, _known(request.headers), request.body), now=self._clock.now()
            )

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """The shop's transport (`base.Transport`)."""
        return self.answer(request)


@dataclass
class Surroundings:
    """A running shop and where its gateways are."""

    name: str
    url: str
    allowed: tuple[str, ...]
    twins: Twins | None = None
    cookies: list[Any] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium."""
    path = shutil.which("chromium")
    assert path is not None, "install Debian's package chromium (make test does it)"
    expect.set_options(timeout=EXPECT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@contextmanager
def sandbox_surroundings(database_url: str, **settings: str) -> Iterator[Surroundings]:
    """The demo's arrangement: two servers on loopback. `settings` are further ones of the shop."""
    free = "A free port was asked for."
    with serving.bind(serving.LOOPBACK, 0, fix=free) as near, serving.bind(serving.LOOPBACK, 0, fix=free) as beside:
        url, sandbox_url = _url(near), _url(beside)
        environment = _environment(database_url, url) | sandbox_environment(sandbox_url) | settings
        app = create_app(load_settings(environment), environment=environment)
        with in_thread(create_sandbox_app(sandbox_url), beside), in_thread(app, near):
            yield Surroundings("sandbox", url, (url, sandbox_url))


@contextmanager
def production_surroundings(database_url: str) -> Iterator[Surroundings]:
    """The production addresses, without a single setting that names another."""
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        url = _url(listener)
        environment = _environment(database_url, url) | production_environment()
        twins = Twins()
        gateways = configure_all(environment, twins, SystemClock())
        app = create_app(load_settings(environment), gateways=gateways, environment=environment)
        with in_thread(app, listener):
            yield Surroundings("production", url, (url,), twins)


def production_environment() -> dict[str, str]:
    """Settings of every gateway at its own address, with test keys that aren't the demo's, which nobody would take."""
    demo = sandbox_environment("http://127.0.0.1:9")
    # The twins' own keys are refused at the gateways' own addresses, and so is one letter again and again anywhere.
    kept = {
        name: value.replace("offlineSandboxOnly0000000000", "keyOfBrowserTests4f1c9b7a2e5")
        for name, value in demo.items()
        if not name.endswith(("_BASE", "_URL"))
    }
    return kept | {
        "STRIPE_SECRET_KEY": f"sk_test_{_OWN_ACCOUNT}",
        "STRIPE_PUBLISHABLE_KEY": f"pk_test_{_OWN_ACCOUNT}",
        "STRIPE_WEBHOOK_SECRET": "whsec_of_the_browser_tests",
        "PAYPAL_CLIENT_ID": "sandbox-of-the-browser-tests-id",
        "PAYPAL_CLIENT_SECRET": "sandbox-of-the-browser-tests-secret",
    }


def _url(listener: Any) -> str:
    return f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"


def _environment(database_url: str, url: str) -> dict[str, str]:
    return {
        "PAIDONCE_DATABASE_URL": database_url,
        "PAIDONCE_SECRET_KEY": SECRET_KEY,
        "PAIDONCE_PUBLIC_URL": url,
        "PAIDONCE_DEMO": "1",
    }


@dataclass
class Visit:
    """A signed-in buyer's browser, and everything it did that it should not have."""

    around: Surroundings
    context: BrowserContext
    page: Page
    leaked: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    # Apart from the console, which a test may clear of what it expects.
    violations: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    blocked: tuple[str, ...] = ()

    # ── What the buyer does ──────────

    def order(self, sku: str = "TEA-01", quantity: int = 1) -> str:
        """Order by the API; returns the order's id."""
        answer = self.context.request.post(
            f"{self.around.url}/api/orders", data={"lines": [{"sku": sku, "quantity": quantity}]}
        )
        assert answer.status == 201, answer.text()
        return str(answer.json()["id"])

    def open_pay_page(self, order: str) -> None:
        self.page.goto(f"{self.around.url}/orders/{order}/pay")

    def pay_page(self, **order: Any) -> str:
        """Order, and go to the pay page."""
        made = self.order(**order)
        self.open_pay_page(made)
        return made

    @property
    def card_fields(self) -> FrameLocator:
        return self.page.frame_locator("stripe-payment iframe")

    def choose_card(self, name: str) -> None:
        """One of the sandbox's test cards."""
        self.card_fields.get_by_role("button", name=name, exact=True).click()

    def pay_by_card(self) -> None:
        self.page.locator("stripe-payment").get_by_role("button", name="Pay").click()

    @property
    def paypal_button(self) -> Locator:
        return self.page.locator("paypal-payment paypal-button")

    # ── What a test looks at ──────────

    def state(self, order: str) -> Any:
        """The order as the shop tells it."""
        answer = self.context.request.get(f"{self.around.url}/api/orders/{order}")
        assert answer.status == 200
        return answer.json()

    def assert_clean(self) -> None:
        """Nothing leaked, nothing was stopped by the policy, no error on the console, no secret left behind."""
        assert self.leaked == []
        unexpected = [line for line in self.console if not any(known in line for known in EXPECTED_ON_CONSOLE)]
        assert unexpected == [], unexpected

    def assert_no_secret_left(self) -> None:
        """The client secret is in no address the buyer sees, no markup and no storage."""
        kept = self.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        for text in (self.page.url, self.page.content(), kept, *self.console):
            assert "_secret_" not in text
        assert self.page.evaluate("history.state") is None


@contextmanager
def visit(browser: Browser, around: Surroundings, **options: Any) -> Iterator[Visit]:
    """A fresh browser profile with the buyer signed in. Whatever isn't allowed is stopped and remembered.

    Whoever visits fails if a page's policy had to stop anything.
    """
    context = browser.new_context(service_workers="block", locale="en-IE", **options)
    context.set_default_timeout(40_000)
    visit = Visit(around, context, context.new_page())
    # Deny everything first; on the context, since pop-ups and frames are part of the flows.
    context.route("**/*", lambda route: _route(visit, route))
    context.add_init_script(REPORT_VIOLATIONS)
    context.on("console", lambda message: _listen(visit, message))
    context.on("weberror", lambda error: visit.console.append(f"uncaught: {error.error}"))
    context.on("request", lambda request: _note(visit, request))
    _sign_in(visit)
    try:
        yield visit
    finally:
        context.close()
    assert visit.violations == [], visit.violations


def _sign_in(visit: Visit) -> None:
    if visit.around.cookies:
        visit.context.add_cookies(visit.around.cookies)
        return
    credentials = {"email": BUYER.email, "password": BUYER.password}
    answer = visit.context.request.post(f"{visit.around.url}/api/session", data=credentials)
    assert answer.status == 201
    visit.around.cookies = list(visit.context.cookies())


def _listen(visit: Visit, message: ConsoleMessage) -> None:
    if message.text.startswith(_VIOLATION):
        visit.violations.append(message.text)
    if message.type in {"error", "warning"}:
        visit.console.append(f"{message.type}: {message.text}")


def _note(visit: Visit, request: Request) -> None:
    if request.url.startswith(visit.around.url):
        visit.addresses.append(request.url)


def _route(visit: Visit, route: Route) -> None:
    url = route.request.url
    if any(part in url for part in visit.blocked):
        route.abort()
    elif visit.around.twins is not None and visit.around.twins.knows(url):
        _fulfill(visit.around.twins, route)
    elif url.startswith(visit.around.allowed):
        route.continue_()
    else:
        visit.leaked.append(url)
        route.abort()


def _fulfill(twins: Twins, route: Route) -> None:
    request = route.request
    headers: Mapping[str, str] = request.headers
    answer = twins.answer(HttpRequest(request.method, request.url, headers, request.post_data_buffer or b""))
    route.fulfill(status=answer.status, headers=dict(answer.headers), body=answer.body)
