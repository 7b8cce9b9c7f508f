"""Finding gateways: by folder, by entry point, by name in the environment, and with every problem told at once."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from paidonce import gateways
from paidonce.errors import ConfigError
from paidonce.gateways import registry
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.ports import SystemClock

ROOT = Path(__file__).parents[2]

MODULE = """
from paidonce.errors import ConfigError

class Gateway:
    def __init__(self, name):
        self.name = name

class Provider:
    name = {name!r}
    settings = ("KEY_OF_{name}",)

    def configure(self, environment, transport, clock):
        key = environment.get("KEY_OF_{name}")
        if key is None:
            return None
        if key != "good":
            raise ConfigError(["KEY_OF_{name} is not a key. Copy it from the dashboard."])
        return Gateway(self.name)

    def sandbox(self, public_url):
        return None

    def sandbox_environment(self, public_url):
        return {{}}

provider = Provider()
"""


class NoTransport:
    """Configuring calls nobody."""

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        raise AssertionError(f"{request.method} was sent while gateways were configured")


class Modules:
    """Writes gateway modules into a folder on the import path, and packages into the folder of built-in gateways."""

    def __init__(self, folder: Path, built_in: Path) -> None:
        self.folder = folder
        self.built_in = built_in

    def add(self, module: str, source: str) -> str:
        (self.folder / f"{module}.py").write_text(source, encoding="utf-8")
        return module

    def add_provider(self, module: str, name: str) -> str:
        return self.add(module, MODULE.format(name=name))

    def add_folder(self, folder: str, source: str) -> None:
        (self.built_in / folder).mkdir()
        (self.built_in / folder / "__init__.py").write_text(source, encoding="utf-8")

    def announce(self, name: str, module: str) -> None:
        """As an installed package does: by the metadata that pip writes."""
        metadata = self.folder / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
        entry = f"[{registry.GROUP}]\n{name} = {module}:provider\n"
        (metadata / "entry_points.txt").write_text(entry, encoding="utf-8")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modules:
    path, built_in = tmp_path / "path", tmp_path / "built_in"
    path.mkdir()
    built_in.mkdir()
    monkeypatch.syspath_prepend(str(path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    # Only what a test writes itself is found here; the real gateways have a test of their own.
    monkeypatch.setattr(registry, "GROUP", "paidonce.gateways.of.this.test")
    monkeypatch.setattr(gateways, "__path__", [str(built_in)])
    return Modules(path, built_in)


def configure(environment: Mapping[str, str]) -> list[str]:
    return list(registry.configure_all(environment, NoTransport(), SystemClock()))


def test_every_folder_beside_the_registry_is_a_gateway_and_nothing_else_announces_it() -> None:
    folders = {path.parent.name for path in Path(registry.__file__).parent.glob("*/__init__.py")}
    assert len(folders) >= 2
    found = registry.providers({})
    assert {provider.name for provider in found} == folders
    assert [provider.name for provider in found] == sorted(folders)
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert registry.GROUP not in entries


def test_a_folder_is_found_without_being_named_anywhere(modules: Modules) -> None:
    modules.add_folder("zebra", MODULE.format(name="zebra"))
    modules.add_folder("aardvark", MODULE.format(name="aardvark"))
    (modules.built_in / "shared.py").write_text("raise AssertionError('a module is no gateway')", encoding="utf-8")
    (modules.built_in / "__pycache__").mkdir()
    assert [provider.name for provider in registry.providers({})] == ["aardvark", "zebra"]


def test_a_folder_that_is_no_gateway_is_named_with_its_fix(modules: Modules) -> None:
    modules.add_folder("zebra", "")
    with pytest.raises(ConfigError, match=r"paidonce\.gateways\.zebra.*has no `provider`.*adding-a-gateway"):
        registry.providers({})


def test_an_installed_package_announces_its_gateway(modules: Modules) -> None:
    modules.add_folder("aardvark", MODULE.format(name="aardvark"))
    modules.announce("zebra", modules.add_provider("zebra_for_paidonce", "zebra"))
    found = registry.providers({})
    assert [provider.name for provider in found] == ["aardvark", "zebra"]
    # Announced and named in the environment as well, it is still one.
    assert registry.providers({"PAIDONCE_GATEWAYS": "zebra_for_paidonce"}) == found


def test_an_installed_package_cannot_take_a_built_in_gateways_name(modules: Modules) -> None:
    modules.add_folder("zebra", MODULE.format(name="zebra"))
    modules.announce("zebra", modules.add_provider("zebra_for_paidonce", "zebra"))
    told = r"'zebra' \(zebra_for_paidonce:provider\) of zebra_for_paidonce takes the name 'zebra' of.*gateways/zebra"
    with pytest.raises(ConfigError, match=told):
        registry.providers({})


def test_modules_named_in_the_environment_come_in_the_order_of_their_names(modules: Modules) -> None:
    modules.add_provider("module_a", "zebra")
    modules.add_provider("module_b", "aardvark")
    found = registry.providers({"PAIDONCE_GATEWAYS": " module_a, ,module_b,"})
    assert [provider.name for provider in found] == ["aardvark", "zebra"]


def test_nothing_named_is_nothing_found(modules: Modules) -> None:
    modules.add_provider("module_a", "zebra")
    assert registry.providers({}) == ()


def test_the_process_environment_is_the_default(modules: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIDONCE_GATEWAYS", modules.add_provider("module_a", "zebra"))
    assert [provider.name for provider in registry.providers()] == ["zebra"]


def test_naming_one_gateway_twice_is_harmless(modules: Modules) -> None:
    modules.add_provider("module_a", "zebra")
    assert len(registry.providers({"PAIDONCE_GATEWAYS": "module_a,module_a"})) == 1


def test_two_gateways_of_one_name_stop_the_start_and_name_both(modules: Modules) -> None:
    modules.add_provider("module_a", "zebra")
    modules.add_provider("module_b", "zebra")
    with pytest.raises(ConfigError, match=r"'module_b'.*takes the name 'zebra' of.*'module_a'"):
        registry.providers({"PAIDONCE_GATEWAYS": "module_a,module_b"})


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", "has no `provider`"),
        ("provider = object()", "calls itself None"),
        ("class P:\n    name = '../etc'\nprovider = P()", "lower-case letters"),
        ("class P:\n    name = 'Zebra'\nprovider = P()", "lower-case letters"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_module_that_is_no_gateway_is_named_with_its_fix(modules: Modules, source: str, told: str) -> None:
    modules.add("module_a", source)
    modules.add_provider("module_b", "zebra")
    with pytest.raises(ConfigError, match="module_a") as caught:
        registry.providers({"PAIDONCE_GATEWAYS": "module_a,module_b"})
    assert told in str(caught.value)
    assert "module_b" not in str(caught.value)


def test_a_module_that_is_not_there_is_named(modules: Modules) -> None:
    with pytest.raises(ConfigError, match=r"PAIDONCE_GATEWAYS.*no_such_module"):
        registry.providers({"PAIDONCE_GATEWAYS": "no_such_module"})


def test_only_gateways_with_settings_are_configured_in_the_order_of_names(modules: Modules) -> None:
    named = [modules.add_provider(f"module_{name}", name) for name in ("c", "a", "b")]
    environment = {"PAIDONCE_GATEWAYS": ",".join(named), "KEY_OF_c": "good", "KEY_OF_a": "good"}
    assert configure(environment) == ["a", "c"]


def test_the_problems_of_all_gateways_are_told_at_once_without_their_values(modules: Modules) -> None:
    named = [modules.add_provider(f"module_{name}", name) for name in ("a", "b", "c")]
    environment = {
        "PAIDONCE_GATEWAYS": ",".join(named),
        "KEY_OF_a": "canary-one",
        "KEY_OF_b": "good",
        "KEY_OF_c": "canary-two",
    }
    with pytest.raises(ConfigError) as caught:
        configure(environment)
    assert [problem.split()[0] for problem in caught.value.problems] == ["KEY_OF_a", "KEY_OF_c"]
    assert "canary" not in str(caught.value)
