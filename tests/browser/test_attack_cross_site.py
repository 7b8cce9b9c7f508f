"""Another site attacks somebody who is signed in: its page lies on `localhost`, the shop on `127.0.0.1`.

To a browser these are two sites, so that its own rules hold as they would between the shop and an attacker. No request
is intercepted here: that would switch some of those rules off.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, TimeoutError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import paidonce.db
from conftest import run_apart
from paidonce import serving
from paidonce.demo.servers import in_thread
from paidonce.web.seed import STAFF, seed_demo
from support.sessions import Doors, doors

ORDER = {"lines": [{"sku": "TEA-01", "quantity": 1}]}
# Where Chromium stands when it has refused to show something.
NOTHING_SHOWN = "chrome-error://chromewebdata/"
# As a form of plain text, which needs no leave of the shop, JSON can be sent in two halves.
HALVES = ('{"lines": [{"sku": "TEA-01", "quantity": 1}], "x": "', '"}')


@dataclass
class Arrived:
    """A request as the shop got it."""

    method: str
    path: str
    site: str | None
    signed_in: bool
    status: int = 0


@dataclass
class Recorder:
    """Notes what arrives at the shop, in front of everything that could refuse it."""

    app: ASGIApp
    arrived: list[Arrived] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Request(scope).headers
        if scope["path"].startswith("/assets/"):
            # Pictures come when they like, also for a page that was left.
            await self.app(scope, receive, send)
            return
        signed_in = "paidonce_session=" in headers.get("cookie", "")
        one = Arrived(scope["method"], scope["path"], headers.get("sec-fetch-site"), signed_in)
        self.arrived.append(one)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                one.status = message["status"]
            await send(message)

        await self.app(scope, receive, watched)

    def posts(self) -> list[Arrived]:
        return [one for one in self.arrived if one.method not in {"GET", "OPTIONS"}]


@dataclass
class Town:
    """The shop with a member of staff who has an order of their own, and the attacker's server."""

    doors: Doors
    recorder: Recorder
    evil: str
    context: BrowserContext
    order: str
    payment: str
    pages: dict[str, str]

    @property
    def url(self) -> str:
        return self.doors.shop.url

    def lure(self, html: str) -> Page:
        """The victim opens the attacker's page."""
        self.pages["trap"] = html
        self.recorder.arrived.clear()
        page = self.context.new_page()
        page.goto(f"{self.evil}/trap")
        return page

    def state(self) -> list[list[dict[str, Any]]]:
        """All that an attack could be after."""
        asked = (
            "SELECT id, status, due_minor FROM orders ORDER BY id",
            "SELECT id, status, refund_status FROM payments ORDER BY id",
            "SELECT sku, on_hand FROM stock ORDER BY sku",
            "SELECT id, amount_minor FROM refunds ORDER BY id",
            "SELECT token_hash, user_id FROM sessions ORDER BY token_hash",
            "SELECT id, password_hash FROM users ORDER BY id",
        )
        return [[dict(row) for row in run_apart(lambda sql=sql: self.doors.rows(sql))] for sql in asked]  # type: ignore[misc]


@pytest.fixture(scope="module")
def town(browser: Browser, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("cross-site")
    shutil.copy(sqlite_template, folder / "seeded.db")
    run_apart(lambda: _seed(f"sqlite:///{folder / 'seeded.db'}"))
    pages: dict[str, str] = {}
    for here in doors(folder / "seeded.db", folder):
        stack = here.shop.app.middleware_stack
        assert stack is not None
        recorder = Recorder(stack)
        here.shop.app.middleware_stack = recorder
        with _attacker(pages) as evil, _signed_in(browser, here.shop.url) as context:
            order, payment = _paid_order(here, context)
            yield Town(here, recorder, evil, context, order, payment, pages)


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()


@contextmanager
def _attacker(pages: dict[str, str]) -> Iterator[str]:
    def page(request: Request) -> HTMLResponse:
        return HTMLResponse(pages.get(request.path_params["name"], "<!doctype html><title>Nothing</title>"))

    app = Starlette(routes=[Route("/{name}", page)])
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener, in_thread(app, listener):
        yield f"http://localhost:{listener.getsockname()[1]}"


@contextmanager
def _signed_in(browser: Browser, url: str) -> Iterator[BrowserContext]:
    """A browser that got its cookie from the shop itself, and so reads all that the shop says of it, or leaves out."""
    context = browser.new_context(service_workers="block")
    context.set_default_timeout(40_000)
    page = context.new_page()
    page.goto(f"{url}/sign-in")
    page.get_by_label("Email").fill(STAFF.email)
    page.get_by_label("Password").fill(STAFF.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{url}/")
    page.close()
    yield context
    context.close()


def _paid_order(here: Doors, context: BrowserContext) -> tuple[str, str]:
    url = here.shop.url
    order = context.request.post(f"{url}/api/orders", data=ORDER).json()["id"]
    started = context.request.post(f"{url}/api/orders/{order}/payments", data={"gateway": "paypal"}).json()
    here.shop.agree(started)
    assert context.request.post(f"{url}/api/payments/{started['id']}/complete").json()["order_status"] == "paid"
    return order, started["id"]


def _form(url: str, fields: dict[str, str], *, kind: str = "application/x-www-form-urlencoded") -> str:
    inputs = "".join(f"<input name='{name}' value='{value}'>" for name, value in fields.items())
    return f"""<!doctype html><title>A prize</title>
<form method="post" action="{url}" enctype="{kind}">{inputs}</form><script>document.forms[0].submit()</script>"""


# What a form without a script's help can send, to everything that takes forms.
FORMS = {
    "/orders": {},
    "/orders/{order}/cancel": {},
    "/basket/add": {"sku": "TEA-01", "quantity": "900"},
    "/sign-out": {},
    "/sign-in": {"email": "buyer@example.com", "password": "buyer-password"},
    "/account/password": {"password": STAFF.password, "new_password": "the-attackers-own"},
    "/account/sign-out": {},
    "/staff/stock": {"sku": "TEA-01", "adjust": "-5"},
    "/staff/payments/{payment}/refund": {"key": "form_0123456789abcdefghjkmnpqrs", "amount": "1"},
    "/staff/payments/{payment}/void": {},
}


@pytest.mark.parametrize("path", FORMS)
def test_a_form_of_another_site_is_refused_and_comes_without_the_cookie(town: Town, path: str) -> None:
    before = town.state()
    target = path.format(order=town.order, payment=town.payment)
    page = town.lure(_form(town.url + target, FORMS[path]))
    page.wait_for_url(town.url + target)
    (one,) = town.recorder.posts()
    assert (one.path, one.site, one.status) == (target, "cross-site", 403)
    assert not one.signed_in, "SameSite=Lax keeps the cookie at home"
    assert town.state() == before
    page.close()


def test_json_in_a_form_of_plain_text_is_refused(town: Town) -> None:
    before = town.state()
    page = town.lure(_form(f"{town.url}/api/orders", dict([HALVES]), kind="text/plain"))
    page.wait_for_url(f"{town.url}/api/orders")
    assert json.loads(page.inner_text("body"))["code"] == "forbidden"
    assert [(one.status, one.signed_in) for one in town.recorder.posts()] == [(403, False)]
    assert town.state() == before
    page.close()


FETCH = """async ([url, options]) => {
  try { const answer = await fetch(url, options); return [answer.type, answer.status, await answer.text()]; }
  catch (error) { return [error.name]; }
}"""


def test_a_script_of_another_site_neither_writes_nor_reads(town: Town) -> None:
    before = town.state()
    page = town.lure("<!doctype html><title>A prize</title>")
    body, url = json.dumps(ORDER), f"{town.url}/api/orders"
    blind: dict[str, Any] = {"method": "POST", "mode": "no-cors", "credentials": "include", "body": body}
    assert page.evaluate(FETCH, [url, blind]) == ["TypeError"]
    assert [(one.status, one.signed_in) for one in town.recorder.posts()] == [(403, False)]

    town.recorder.arrived.clear()
    open_eyed = {**blind, "mode": "cors", "headers": {"content-type": "application/json"}}
    assert page.evaluate(FETCH, [url, open_eyed]) == ["TypeError"]
    assert town.recorder.posts() == [], "the browser asks first, and gets no leave"
    assert [one.method for one in town.recorder.arrived] == ["OPTIONS"]

    assert page.evaluate(FETCH, [url, {"credentials": "include"}]) == ["TypeError"], "nothing can be read either"
    assert town.state() == before
    page.close()


LINKS = (
    *("/", "/basket", "/sign-in?next=/account", "/sign-out", "/account", "/orders", "/orders/{order}"),
    *("/orders/{order}/pay", "/orders/{order}/cancel", "/orders/{order}/return?payment={payment}", "/staff"),
    *("/staff/orders/{order}", "/staff/payments/{payment}/refund", "/api/session", "/api/sessions"),
    *("/api/payments/{payment}/refunds", "/api/payments/{payment}/complete", "/api/orders/{order}/cancel"),
)


def test_a_link_from_another_site_changes_nothing(town: Town) -> None:
    """Here the cookie does come along, so that people who follow a link stay signed in: GET must be harmless."""
    before = town.state()
    for path in LINKS:
        target = town.url + path.format(order=town.order, payment=town.payment)
        page = town.lure(f"<!doctype html><title>A prize</title><a href='{target}'>Click</a>")
        page.get_by_text("Click").click()
        page.wait_for_url(f"{town.url}/**")
        first = town.recorder.arrived[0]
        assert (first.method, first.path) == ("GET", urlsplit(target).path)
        assert (first.site, first.signed_in) == ("cross-site", True), "the attack is a real one"
        page.close()
    assert town.state() == before


@pytest.mark.parametrize("path", ["/", "/orders/{order}", "/orders/{order}/pay", "/staff/orders/{order}", "/account"])
def test_the_shop_stands_in_nobodys_frame(town: Town, path: str) -> None:
    """Nobody is made to click on a button of the shop that lies, unseen, above one of the attacker's."""
    target = town.url + path.format(order=town.order)
    page = town.lure(f"<!doctype html><title>A prize</title><iframe src='{target}'></iframe>")
    page.wait_for_load_state("load")
    (frame,) = [one for one in page.frames if one is not page.main_frame]
    with suppress(TimeoutError):
        frame.wait_for_url(NOTHING_SHOWN)
    assert frame.url == NOTHING_SHOWN
    assert "Fern" not in frame.content()
    assert {(one.method, one.site, one.signed_in) for one in town.recorder.arrived} == {("GET", "cross-site", False)}
    page.close()
