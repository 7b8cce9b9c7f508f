"""A shop with three front ends around it, each on an origin of its own; the shop lists two of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import paidonce.db
from conftest import run_apart
from paidonce.web.seed import seed_demo
from support.browsershop import Surroundings, Visit, chromium, sandbox_surroundings, visit
from support.frontends import put_plain, put_react, static_site

# Every event that the elements send, as an ancestor hears it, and what reaches the window's own error handlers.
LISTEN = """
window.heard = [];
window.crashes = [];
for (const type of ['paid', 'pending', 'declined', 'canceled', 'error']) {
  document.addEventListener(type, (event) => {
    if (event.detail) window.heard.push({ type, bubbles: event.bubbles, composed: event.composed, ...event.detail });
  }, type === 'error');
}
window.addEventListener('error', (event) => { window.crashes.push(`${event.type} ${event.message}`); });
"""


@dataclass(frozen=True)
class Town:
    """A shop and the front ends around it."""

    shop: Surroundings
    plain: str
    react: str
    stranger: str
    database: Path

    def page(self, name: str) -> str:
        """The address of a front end by its name."""
        return {"plain": self.plain, "react": self.react, "stranger": self.stranger}[name]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; not for the whole session, for the reason given in tests/browser."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def town(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """The shop, its two listed front ends and one that it does not know."""
    folder = tmp_path_factory.mktemp("town")
    shutil.copy(sqlite_template, folder / "paidonce.db")
    url = f"sqlite:///{folder / 'paidonce.db'}"
    run_apart(lambda: seed(url))
    with ExitStack() as stack:
        plain, react, stranger = (
            stack.enter_context(static_site(folder / name)) for name in ("plain", "react", "stranger")
        )
        listed = f"{plain.url}, {react.url}"
        shop = stack.enter_context(sandbox_surroundings(url, PAIDONCE_ALLOWED_ORIGINS=listed))
        put_plain(plain, shop.url)
        put_plain(stranger, shop.url)
        put_react(react, shop.url)
        around = replace(shop, allowed=(*shop.allowed, plain.url, react.url, stranger.url))
        yield Town(around, plain.url, react.url, stranger.url, folder / "paidonce.db")


@pytest.fixture
def guest(browser: Browser, town: Town) -> Iterator[Visit]:
    """A buyer at a front end; afterwards nothing may have leaked, been stopped or complained."""
    with visit(browser, town.shop, viewport={"width": 900, "height": 1000}) as here:
        here.context.add_init_script(LISTEN)
        yield here
        here.assert_clean()


async def seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()
