"""A front end on a foreign domain, in a real browser: it gets in by its token alone, and only if it is listed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

import paidonce.db
from conftest import run_apart
from paidonce import serving
from paidonce.demo.servers import in_thread
from paidonce.web.bearer import BearerJwt
from paidonce.web.seed import BUYER, seed_demo
from support.sessions import Doors, doors, hosted

KEY = "a-shared-key-of-the-sign-in-service-0123456789"
BEARER = BearerJwt(KEY, algorithms=["HS256"], audience="shop.example", issuer="https://id.example")

PAGE = """<!doctype html><title>Shop elsewhere</title><main></main><script type="module">
  import {{ authorizeBy }} from '{shop}/assets/paidonce.js';
  authorizeBy(async () => '{token}');
  await import('{shop}/assets/payment-methods.js');
  document.querySelector('main').innerHTML = `<payment-methods order="{order}" api-base="{shop}"></payment-methods>`;
</script>"""


HEADERS = "{headers: {authorization: 'Bearer x'}}"


@dataclass
class Town:
    """A shop that believes tokens, a front end that it has listed, and one that it has not."""

    shop: str
    listed: str
    other: str
    order: str
    user: str

    def visit(self, browser: Browser, front_end: str, *, key: str = KEY) -> str:
        """What the buyer gets to see of the ways to pay."""
        now = int(time.time())
        claims = {"sub": self.user, "exp": now + 300, "aud": "shop.example", "iss": "https://id.example"}
        token = jwt.encode(claims, key, algorithm="HS256")
        context = browser.new_context(service_workers="block")
        # A cookie of the shop is there and must not matter.
        context.add_cookies([{"name": "paidonce_session", "value": token, "url": self.shop}])
        page = context.new_page()
        page.goto(f"{front_end}/?token={token}&order={self.order}&shop={self.shop}")
        shown = page.locator("payment-methods .payment-title, payment-methods .payment-message:not(:empty)").first
        expect(shown).to_be_attached()
        expect(page.locator("payment-methods[aria-busy=true]")).to_have_count(0)
        text = page.locator("payment-methods").inner_text()
        context.close()
        return text


@pytest.fixture(scope="module")
def town(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("bearer")
    shutil.copy(sqlite_template, folder / "seeded.db")
    run_apart(lambda: _seed(f"sqlite:///{folder / 'seeded.db'}"))
    front_end = Starlette(routes=[Route("/", _page)])
    free = "A free port was asked for."
    with serving.bind(serving.LOOPBACK, 0, fix=free) as near, serving.bind(serving.LOOPBACK, 0, fix=free) as beside:
        listed, other = (f"http://localhost:{one.getsockname()[1]}" for one in (near, beside))
        for here in doors(folder / "seeded.db", folder):
            order, user = run_apart(lambda here=here: _order(here))  # type: ignore[misc]
            with (
                hosted(here, BEARER, PAIDONCE_ALLOWED_ORIGINS=listed) as (shop, _),
                in_thread(front_end, near),
                in_thread(front_end, beside),
            ):
                yield Town(shop, listed, other, order, user)


def _page(request: Request) -> HTMLResponse:
    return HTMLResponse(PAGE.format(**request.query_params))


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()


async def _order(here: Doors) -> tuple[str, str]:
    async with here.client(BUYER.email) as buyer:
        order = await buyer.order("TEA-01")
    (user,) = await here.rows("SELECT id FROM users WHERE email = :email", email=BUYER.email)
    return order["id"], user["id"]


def test_a_listed_front_end_on_a_foreign_domain_offers_the_ways_to_pay(browser: Browser, town: Town) -> None:
    assert "PayPal" in town.visit(browser, town.listed)


def test_a_forged_token_is_asked_to_sign_in(browser: Browser, town: Town) -> None:
    assert "Please sign in" in town.visit(browser, town.listed, key="x" * 40)


def test_a_front_end_that_is_not_listed_does_not_even_load_the_elements(browser: Browser, town: Town) -> None:
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(f"{town.other}/?token=x&order={town.order}&shop={town.shop}")
    for step in (f"import('{town.shop}/assets/paidonce.js')", f"fetch('{town.shop}/api/orders', {HEADERS})"):
        assert page.evaluate(f"{step}.then(() => 'done', () => 'refused')") == "refused"
    context.close()
