"""The documents say what the code does: diagram, settings, addresses and links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from fastapi.routing import APIRoute

from paidonce.config import Settings
from paidonce.gateways.registry import providers
from paidonce.web.routes import api_router

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture
def diagram() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagram", ROOT / "scripts" / "diagram.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_state_diagram_is_that_of_the_code(diagram: ModuleType) -> None:
    assert diagram.drawn() == diagram.diagram(), "run: .venv/bin/python scripts/diagram.py"
    # A diagram without moves would agree with an empty table as well.
    assert "awaiting_buyer --> processing" in diagram.drawn()
    assert "captured --> held" not in diagram.drawn()


def test_every_setting_is_documented_and_no_other() -> None:
    # A gateway may have a page of its own, so that it can be added without a change to the others'.
    own = [ROOT / "docs" / f"{provider.name.replace('_', '-')}.md" for provider in providers({})]
    pages = [ROOT / "docs" / "configuration.md", *(page for page in own if page.exists())]
    texts = [page.read_text("utf-8") for page in pages]
    documented = {name for text in texts for name in re.findall(r"^\| `([A-Z_]+)`", text, re.MULTILINE)}
    ours = {
        field.validation_alias if isinstance(field.validation_alias, str) else f"PAIDONCE_{name.upper()}"
        for name, field in Settings.model_fields.items()
    }
    gateways = {name for provider in providers({}) for name in provider.settings}
    assert documented == ours | gateways | {"PAIDONCE_GATEWAYS", "PAIDONCE_DATA"}


def test_every_address_of_the_interface_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "http-api.md").read_text("utf-8")
    documented = set(re.findall(r"`(GET|POST|PATCH|DELETE|PUT) (/[^` ]*)`", page))
    served = {
        (method, re.sub(r"\{\w+_id\}", "{id}", route.path))
        for route in api_router().routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert documented - {("GET", "/docs")} == served


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            found = (page.parent / file).resolve() if file else page
            assert found.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in _anchors(found), f"{page.name} links to {target}"


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_event_and_alarm_is_documented() -> None:
    """What a merchant's systems may hear stands on the page of events, and nothing else does."""
    page = (ROOT / "docs" / "events.md").read_text("utf-8")
    documented = set(re.findall(r"`((?:order|payment|refund|dispute|alarm)\.[a-z_]+)`", page))
    code = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "src" / "paidonce").glob("*.py")))
    emitted = set(re.findall(r'\bemit\(\s*(?:tx,\s*)?"([a-z]+\.[a-z_]+)"', code))
    emitted |= {f"alarm.{name}" for name in re.findall(r'\b(?:alarm|_tell)\(\s*(?:case,\s*)?"([a-z_]+)"', code)}
    emitted |= {"dispute.opened", "dispute.won", "dispute.lost", "alarm.delivery_given_up"}
    assert len(emitted) > 15, "the code could not be read"
    assert documented == emitted
