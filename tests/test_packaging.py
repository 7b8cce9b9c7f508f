"""What is shipped: a wheel that holds everything, installs into an empty environment and works there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
RUNTIME = [ROOT / "requirements" / "runtime.txt", ROOT / "requirements" / "dev.txt"]
# The name on the index, where it differs from the module's.
MODULES = {"pydantic-settings": "pydantic_settings", "pyjwt": "jwt"}
# Used by another library on our behalf, never imported by us.
INDIRECT = {
    "greenlet": "SQLAlchemy's asyncio bridge, for migrations on PostgreSQL",
    "httptools": "uvicorn's parser of requests",
    "uvloop": "uvicorn's event loop",
    "psycopg": "Django's driver of PostgreSQL",
    "pytest-asyncio": "runs the coroutines of the contract suite",
}
# What a shop that runs by itself needs; the other extras are for those who build on the package.
SHOP = {"", "web", "postgres", "cli"}


@dataclass(frozen=True)
class Environment:
    """A virtual environment without pip and without anything but what a test puts there."""

    folder: Path

    @property
    def site_packages(self) -> Path:
        return next((self.folder / "lib").glob("python*/site-packages"))

    def run(self, *command: str, timeout_seconds: int = 120) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment far away from the sources."""
        program = [str(self.folder / "bin" / command[0]), *command[1:]]
        variables = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "TERM": "dumb", "COLUMNS": "200"}
        return subprocess.run(
            program,
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive, so that the archive is complete as well."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel alone: no extra, no dependency, no pip."""
    environment = Environment(tmp_path_factory.mktemp("bare"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment.folder)], check=True)
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    pip = [sys.executable, "-m", "pip", "--python", str(environment.folder / "bin" / "python")]
    subprocess.run([*pip, *install], check=True)
    return environment


@pytest.fixture(scope="module")
def full(bare: Environment) -> Environment:
    """The wheel, and the libraries of this environment behind it, as `paidonce[all]` would bring them."""
    (bare.site_packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return bare


def test_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    ours = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "paidonce").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert shipped == ours
    # The comparison would pass if both sides lost the same files.
    for needed in ("py.typed", "components/assets/", "components/templates/", "db/migrations/versions/"):
        assert any(needed in name for name in shipped), needed


def test_import_alone_is_light_and_the_core_needs_no_library(bare: Environment) -> None:
    assert not list(bare.site_packages.glob("libraries.pth"))
    core = "checkout, settlement, store, journal, payments, states, money, errors, ports, declines, gateways.base"
    modules = ", ".join(f"paidonce.{name}" for name in core.split(", "))
    # Nothing else is installed here, so whatever these modules imported beyond Python's own library would fail.
    ran = bare.run("python", "-c", f"import paidonce, {modules}; print(paidonce.Money(1999, 'EUR'))")
    assert (ran.stdout, ran.stderr) == ("19.99 EUR\n", "")
    loaded = bare.run("python", "-c", "import sys, paidonce; print('asyncio' in sys.modules, 'sqlite3' in sys.modules)")
    assert loaded.stdout == "False False\n"


def test_command_without_its_extra_says_what_to_install(bare: Environment) -> None:
    ran = bare.run("paidonce", "demo")
    assert ran.returncode == 2
    assert "pip install 'paidonce[all]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_import_loads_no_library_even_where_they_are_installed(full: Environment) -> None:
    heavy = "fastapi starlette aiohttp sqlalchemy alembic stripe pydantic asyncpg structlog jinja2 typer rich uvicorn"
    ran = full.run("python", "-c", f"import sys, paidonce; print([m for m in '{heavy}'.split() if m in sys.modules])")
    assert ran.stdout == "[]\n", ran.stderr


def test_every_public_name_can_be_reached(full: Environment) -> None:
    script = "import paidonce; print([n for n in paidonce.__all__ if getattr(paidonce, n) is None]); paidonce.nonsense"
    ran = full.run("python", "-c", script)
    assert ran.stdout == "[]\n", ran.stderr
    assert "has no attribute 'nonsense'" in ran.stderr


def test_installed_wheel_shows_help_and_pays_an_order_at_each_gateway(full: Environment) -> None:
    help_text = full.run("paidonce", "--help")
    assert help_text.returncode == 0, help_text.stderr
    for command in ("serve", "demo", "sandbox", "migrate"):
        assert command in help_text.stdout
    where = full.run("python", "-c", "import paidonce.app; print(paidonce.app.__file__)")
    assert str(full.folder) in where.stdout, "this has to be the wheel, not the sources"
    once = full.run("paidonce", "demo", "--once")
    assert once.returncode == 0, once.stdout + once.stderr


def test_installed_wheel_makes_a_gateway_and_brings_its_contract_suite(full: Environment) -> None:
    made = full.run("paidonce", "new-gateway", "own_pay")
    assert made.returncode == 0, made.stdout + made.stderr
    assert (full.folder / "own_pay" / "own_pay" / "assets" / "component.js").exists()
    shutil.copytree(ROOT / "examples" / "gateways" / "acme_pay" / "acme_pay", full.folder / "acme_pay")
    # Python's own folder is left out of the path, as for the command `pytest`.
    command = "python -P -m pytest --pyargs paidonce.contract --gateway acme_pay -k test_flow"
    ran = full.run(*command.split())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\d\d passed", ran.stdout), ran.stdout
    # Who does not ask for the suite gets nothing of it.
    (full.folder / "test_mine.py").write_text("def test_mine(request):\n    request.config.getoption('--gateway')\n")
    mine = full.run("python", "-m", "pytest", "test_mine.py")
    assert "no option named '--gateway'" in mine.stdout, mine.stdout + mine.stderr
    assert "1 failed" in mine.stdout


def _direct() -> dict[str, list[str]]:
    project = PYPROJECT["project"]
    groups = {
        "": project["dependencies"],
        **project["optional-dependencies"],
        "dev": PYPROJECT["dependency-groups"]["dev"],
    }
    names = {group: [Requirement(line).name for line in lines] for group, lines in groups.items()}
    return {group: [name for name in found if name != "paidonce"] for group, found in names.items()}


def test_every_dependency_has_its_line_of_reason() -> None:
    page = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text("utf-8")
    reasons = dict(re.findall(r"^\| ([a-z0-9-]+) \| (\S.{5,}?) \|", page, re.MULTILINE))
    wanted = {name for names in _direct().values() for name in names}
    wanted |= {Requirement(line).name for line in PYPROJECT["build-system"]["requires"]}
    assert wanted - reasons.keys() == set()
    build = (ROOT / "requirements" / "build.in").read_text("utf-8")
    extra = {Requirement(line).name for line in build.splitlines() if line and not line.startswith("#")}
    assert reasons.keys() - wanted - extra - {"library"} == set(), "a reason for what is no dependency any more"


def test_every_runtime_dependency_is_used() -> None:
    imported: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    named = (ROOT / "src" / "paidonce" / "cli.py").read_text("utf-8")
    for group, names in _direct().items():
        for name in names if group != "dev" else []:
            module = MODULES.get(name, name)
            assert module in imported or name in INDIRECT or f'"{module}"' in named, f"{name} is not used"


@pytest.mark.parametrize("lock", RUNTIME, ids=lambda path: path.stem)
def test_lock_holds_every_direct_dependency_with_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text("utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
    assert {f"paidonce[{','.join(sorted(SHOP - {''}))}]"} == {
        f"{Requirement(line).name}[{','.join(sorted(Requirement(line).extras))}]"
        for line in PYPROJECT["project"]["optional-dependencies"]["all"]
    }
    wanted = {name for group, names in _direct().items() if lock.stem == "dev" or group in SHOP for name in names}
    assert wanted - locked == set()
    # The build tools as well, since the project is built without a download of its own.
    assert {"hatchling", "editables"} <= locked
    entries = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text
