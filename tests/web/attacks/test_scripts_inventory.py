"""The inventory of scripts: written, explained, and printed by a command. tests/browser holds Chromium against it."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from paidonce import cli_scripts
from paidonce.gateways.base import Gateway
from paidonce.gateways.registry import configure_all
from paidonce.ports import SystemClock
from paidonce.web.inventory import inventory
from support.browsershop import Twins, production_environment

WRITTEN = Path(__file__).parents[3] / "docs" / "scripts.json"


@pytest.fixture(scope="module")
def gateways() -> dict[str, Gateway]:
    """All that are built in, at their own addresses."""
    return configure_all(production_environment(), Twins(), SystemClock())


def test_the_written_inventory_is_that_of_the_code(gateways: dict[str, Gateway]) -> None:
    text = cli_scripts.as_text(inventory(gateways, built_in_shop=True)) + "\n"
    if os.environ.get("PAIDONCE_SCRIPTS"):
        WRITTEN.write_text(text, "utf-8")
    hint = "look at what changed, then: PAIDONCE_SCRIPTS=1 pytest tests/web/attacks/test_scripts_inventory.py"
    assert WRITTEN.read_text("utf-8") == text, hint


def test_each_source_of_scripts_is_explained(gateways: dict[str, Gateway]) -> None:
    """A gateway can't open the page for scripts without a word about what they are for."""
    for name, gateway in gateways.items():
        part = gateway.component()
        opened = set(part.csp.get("script-src", ()))
        assert {source for source in opened if source not in part.scripts} == set(), name
        assert all(part.scripts.values())
        strange = [
            one for one in part.scripts if not any(one == source or fnmatch(_origin(one), source) for source in opened)
        ]
        assert strange == [], f"{name}: explained, and not allowed"


def test_the_command_lists_what_is_set_up_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in production_environment().items():
        if name.startswith("STRIPE_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    cli_scripts.scripts(as_json=False, write=tmp_path / "scripts.json")
    said = capsys.readouterr().out
    assert "https://js.stripe.com" in said
    assert "paypal" not in said.lower()
    assert "/basket  (no script)" in said
    assert '"source": "https://*.js.stripe.com"' in (tmp_path / "scripts.json").read_text("utf-8")
    monkeypatch.setenv("PAIDONCE_STORE", "store:Store")
    cli_scripts.scripts(as_json=True, write=None)
    assert '"page": "the shop\'s own pay page"' in capsys.readouterr().out


def _origin(address: str) -> str:
    return f"{urlsplit(address).scheme}://{urlsplit(address).netloc}"
