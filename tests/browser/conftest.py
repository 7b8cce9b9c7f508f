"""Fixtures of the browser tests: one Chromium, a shop in each of two surroundings, and a buyer who visits it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import paidonce.db
from conftest import run_apart
from paidonce.web.seed import seed_demo
from support.browsershop import (
    Surroundings,
    Visit,
    chromium,
    production_surroundings,
    sandbox_surroundings,
    visit,
)


# Not for the whole session: Playwright's own event loop would stay the running one, and coroutine tests that come later
# in the same worker could not start theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session", params=["sandbox", "production"])
def around(request: pytest.FixtureRequest) -> Surroundings:
    """A shop with its gateways, in each of the surroundings."""
    found: Surroundings = request.getfixturevalue(f"{request.param}_shop")
    return found


@pytest.fixture(scope="session")
def sandbox_shop(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """The demo's arrangement."""
    with sandbox_surroundings(_database(sqlite_template, tmp_path_factory)) as found:
        yield found


@pytest.fixture(scope="session")
def production_shop(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """The production addresses."""
    with production_surroundings(_database(sqlite_template, tmp_path_factory)) as found:
        yield found


@pytest.fixture
def buyer(browser: Browser, around: Surroundings) -> Iterator[Visit]:
    """A buyer at a desk; afterwards nothing may have leaked, been stopped or complained."""
    with visit(browser, around, viewport={"width": 1280, "height": 900}) as here:
        yield here
        here.assert_clean()


def _database(template: Path, folders: pytest.TempPathFactory) -> str:
    path = folders.mktemp("browser") / "paidonce.db"
    shutil.copy(template, path)
    url = f"sqlite:///{path}"
    run_apart(lambda: _seed(url))
    return url


async def _seed(url: str) -> None:
    database = await paidonce.db.connect(url)
    try:
        await seed_demo(database)
    finally:
        await database.close()
