"""docs/react.md, followed from an empty folder as it stands there: the page is typed, built, and an order is paid."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from conftest import run_apart
from support.browsershop import Surroundings, sandbox_surroundings, visit
from support.frontends import REACT, ROOT, USUAL_SHOP, Site, node, static_site

from .conftest import LISTEN, seed

GUIDE = (ROOT / "docs" / "react.md").read_text("utf-8")


def files() -> dict[str, str]:
    """The files of the guide: a name in backquotes on its own line, and the block below it."""
    return dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    """Every line of the guide's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def followed(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Surroundings, Site]]:
    """A shop that lists the page, and the page as the guide makes it."""
    folder = tmp_path_factory.mktemp("guide")
    shutil.copy(sqlite_template, folder / "paidonce.db")
    url = f"sqlite:///{folder / 'paidonce.db'}"
    run_apart(lambda: seed(url))
    with ExitStack() as stack:
        site = stack.enter_context(static_site(folder / "site"))
        shop = stack.enter_context(sandbox_surroundings(url, PAIDONCE_ALLOWED_ORIGINS=site.url))
        make(folder / "my-page", shop.url)
        built = node(folder / "my-page", "node_modules/vite/bin/vite.js", "build", "--outDir", str(site.folder))
        assert built.returncode == 0, built.stdout + built.stderr
        yield replace(shop, allowed=(*shop.allowed, site.url)), site


def make(project: Path, shop: str) -> None:
    """Do what the guide says, except that the packages are those which are here already."""
    project.mkdir()
    (project / "node_modules").symlink_to(REACT / "node_modules")
    for line in commands():
        if line.startswith(("mkdir", "curl")):
            command = shlex.split(line.replace(USUAL_SHOP, shop))
            subprocess.run(command, cwd=project, check=True, capture_output=True)
    for name, text in files().items():
        (project / name).write_text(text.replace(USUAL_SHOP, shop), "utf-8")
    (project / "package.json").write_text('{"name": "my-page", "type": "commonjs"}')
    typed = node(project, "node_modules/typescript/bin/tsc")
    assert typed.returncode == 0, typed.stdout


def test_the_guide_names_all_its_files_and_the_packages_that_are_tested() -> None:
    assert files().keys() == {"index.html", "src/main.tsx", "vite.config.ts", "tsconfig.json"}
    (install,) = (line for line in commands() if line.startswith("npm install -D"))
    package = (REACT / "package.json").read_text("utf-8")
    for name, version in re.findall(r"(\S+)@(\d[\d.]*)", install):
        assert f'"{name}": "{version}"' in package
    for name in re.findall(r"(?<= )(?!-)[@a-z][\w/@-]*(?=@\d| |$)", install.removeprefix("npm install")):
        assert f'"{name}"' in package, name


def test_the_page_of_the_guide_pays(browser: Browser, followed: tuple[Surroundings, Site]) -> None:
    shop, site = followed
    with visit(browser, shop) as here:
        here.context.add_init_script(LISTEN)
        order = here.order()
        here.page.goto(f"{site.url}/?order={order}")
        here.choose_card("3-D Secure")
        here.pay_by_card()
        assert here.state(order)["status"] == "open"
        here.page.get_by_role("button", name="Authorize payment").click()
        expect(here.page.get_by_role("heading", name="Thank you")).to_be_visible()
        (payment,) = here.state(order)["payments"]
        expect(here.page.get_by_text(f"Payment {payment['id']} has arrived.")).to_be_visible()
        assert here.page.url == f"{site.url}/?order={order}"
        assert here.state(order)["status"] == "paid"
        here.assert_no_secret_left()
        here.assert_clean()


def test_a_visitor_who_is_not_signed_in_is_sent_to_sign_in(
    browser: Browser, followed: tuple[Surroundings, Site]
) -> None:
    shop, site = followed
    with visit(browser, shop) as here:
        order = here.order()
        kept = here.context.cookies()
        here.context.clear_cookies()
        here.page.goto(f"{site.url}/?order={order}")
        expect(here.page.get_by_role("link", name="Sign in")).to_have_attribute("href", f"{shop.url}/sign-in")
        assert here.page.locator("stripe-payment").count() == 0
        here.context.add_cookies(kept)  # type: ignore[arg-type]
        assert here.state(order)["payments"] == []
        here.console[:] = [line for line in here.console if "status of 401" not in line]
        here.assert_clean()
