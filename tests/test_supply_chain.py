"""What is installed is what was locked: every package by its hash, from an index, with nobody's script run."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
SHELL = sorted(
    [
        ROOT / "Makefile",
        *(ROOT / "scripts").glob("*.sh"),
        *(ROOT / "examples").glob("*/run"),
        ROOT / "scripts" / "lock.sh",
    ]
)
NPM_LOCK = ROOT / "examples" / "react" / "package-lock.json"

_ENTRY = re.compile(r"([a-z0-9][a-z0-9._-]*)==([0-9][A-Za-z0-9.+!-]*)(?: ; [^\\]+)? \\")
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")
_REMARK = re.compile(r"\s*#.*")

Complaints = Iterator[str]


def lock_problems(text: str) -> Complaints:
    """Whatever in a lock is neither a package with its version nor one of its hashes: an address, an option."""
    hashes = 1
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or _REMARK.fullmatch(line):
            continue
        if _HASH.fullmatch(line):
            hashes += 1
        elif _ENTRY.fullmatch(line):
            if not hashes:
                yield f"line {number}: the package before it has no hash"
            hashes = 0
        else:
            yield f"line {number}: {line.strip()}"
    if not hashes:
        yield "the last package has no hash"


def install_problems(text: str) -> Complaints:
    """Each command that installs names a lock and wants its hashes, or may download nothing at all."""
    joined = text.replace("\\\n", " ")
    for number, line in enumerate(joined.splitlines(), start=1):
        # Neither remarks nor what is told to people.
        command = re.sub(r"\b(?:say|fail|echo|printf)\b.*", "", line.partition(" #")[0].strip())
        if command.startswith("#"):
            continue
        if re.search(r"\bpip3?\b.*\b(?:install|download|wheel)\b", command):
            locked = "--require-hashes" in command and "--requirement" in command
            offline = "--no-index" in command
            if "--no-deps" not in command or not (locked or offline):
                yield f"{number}: pip without --no-deps, or neither --require-hashes nor --no-index: {command}"
            if not offline and "--only-binary :all:" not in command:
                # To build a source archive is to run its code, with build tools that no hash holds.
                yield f"{number}: pip builds what has no wheel: {command}"
            if re.search(r"--(?:extra-)?index-url|--trusted-host|--find-links|git\+|https?://", command):
                yield f"{number}: pip from a place of its own: {command}"
        if re.search(r"\bnpm\W.*\b(?:install|add|update)\b|\bnpm i\b|\bnpx\b|\byarn\b|\bpnpm\b", command):
            yield f"{number}: npm without the lock: {command}"
        if re.search(r"\bci\b", command) and "npm" in command and "--ignore-scripts" not in command:
            yield f"{number}: npm runs the scripts of strangers: {command}"
        if re.search(r"\b(?:curl|wget)\b.*\|\s*(?:ba|z|da)?sh\b", command):
            yield f"{number}: runs what it downloads: {command}"


def npm_problems(text: str) -> Complaints:
    """Each package of an npm lock has a strong hash and comes from the registry."""
    packages = json.loads(text)["packages"]
    for name, one in packages.items():
        if not name:
            continue
        if not re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", one.get("integrity", "")):
            yield f"{name} has no sha512"
        if one.get("link") or not one.get("resolved", "https://registry.npmjs.org/").startswith(
            "https://registry.npmjs.org/"
        ):
            yield f"{name} does not come from the registry"
        if one.get("hasInstallScript") and not one.get("optional"):
            yield f"{name} wants to run a script"


def dependency_problems(text: str) -> Complaints:
    """No dependency is named by an address: what an index holds can't be changed afterwards."""
    project = tomllib.loads(text)
    groups = [
        project["build-system"]["requires"],
        project["project"]["dependencies"],
        *project["project"].get("optional-dependencies", {}).values(),
        *project.get("dependency-groups", {}).values(),
    ]
    for line in [line for group in groups for line in group]:
        requirement = Requirement(line)
        if requirement.url:
            yield f"{requirement.name} comes from an address"
        if not requirement.specifier and requirement.name != "paidonce":
            yield f"{requirement.name} may be of any age"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_each_lock_holds_versions_and_hashes_alone(lock: Path) -> None:
    text = lock.read_text("utf-8")
    assert "==" in text
    assert list(lock_problems(text)) == []


@pytest.mark.parametrize("script", SHELL, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_script_installs_what_is_locked(script: Path) -> None:
    assert list(install_problems(script.read_text("utf-8"))) == []


def test_something_is_installed_at_all() -> None:
    """Or the test above would look at nothing."""
    text = "".join(script.read_text("utf-8") for script in SHELL)
    assert text.count("pip install") >= 3
    assert "--ignore-scripts" in text


def test_the_npm_lock_holds_hashes_of_the_registry() -> None:
    assert list(npm_problems(NPM_LOCK.read_text("utf-8"))) == []


def test_no_dependency_is_named_by_an_address() -> None:
    assert list(dependency_problems((ROOT / "pyproject.toml").read_text("utf-8"))) == []


def test_ruffs_security_rules_are_on_and_their_exceptions_few() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert [rule for rule in lint["ignore"] if rule.startswith("S")] == ["S101"]
    shipped = {path: rules for path, rules in lint["per-file-ignores"].items() if path.startswith("src/")}
    # Only the simulator: it draws from seeds and applies patches, and no shop runs it.
    assert {path for path, rules in shipped.items() if any(rule.startswith("S") for rule in rules)} == {
        "src/paidonce/prove/**"
    }


HASHED = f"a==1.0 \\\n    --hash=sha256:{'0' * 64}\n"
NPM = '{"packages": {"": {}, "node_modules/a": %s}}'
SHA512 = f"sha512-{'A' * 86}=="
PROJECT = '[build-system]\nrequires = []\n[project]\ndependencies = ["%s"]\n'
PLANTED: list[tuple[Callable[[str], Complaints], str]] = [
    (lock_problems, "a==1.0\n"),
    (lock_problems, f"a==1.0 \\\n{HASHED}"),
    (lock_problems, f"{HASHED}a==1.0 \\\n"),
    (lock_problems, f"a>=1.0 \\\n    --hash=sha256:{'0' * 64}\n"),
    (lock_problems, f"a==1.0 \\\n    --hash=md5:{'0' * 32}\n"),
    (lock_problems, f"{HASHED}--extra-index-url https://mirror.example\n"),
    (lock_problems, f"{HASHED}b @ git+https://host.example/b\n"),
    (lock_problems, f"{HASHED}-e ./b\n"),
    (install_problems, "python -m pip install requests"),
    (install_problems, "pip install --require-hashes --requirement x.txt"),
    (install_problems, "pip install --no-deps --editable ."),
    (install_problems, "pip install --no-deps \\\n    --requirement x.txt"),
    (install_problems, "pip install --no-deps --require-hashes --requirement x.txt --index-url https://mirror.example"),
    (install_problems, "pip install --no-deps --require-hashes --requirement x.txt"),
    (install_problems, "npm install react"),
    (install_problems, "npx vite"),
    (install_problems, "npm ci"),
    (install_problems, "curl https://get.example | sh"),
    (npm_problems, NPM % "{}"),
    (npm_problems, NPM % '{"integrity": "sha1-AAAA"}'),
    (npm_problems, NPM % json.dumps({"integrity": SHA512, "resolved": "git+ssh://host.example/a"})),
    (npm_problems, NPM % json.dumps({"integrity": SHA512, "hasInstallScript": True})),
    (dependency_problems, PROJECT % "a @ https://host.example/a.whl"),
    (dependency_problems, PROJECT % "a"),
]
HARMLESS: list[tuple[Callable[[str], Complaints], str]] = [
    (lock_problems, f"# A remark\n{HASHED}    # via b\n"),
    (lock_problems, f"a==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{'0' * 64}\n"),
    (
        install_problems,
        "pip install --no-deps --require-hashes \\\n    --only-binary :all: --requirement x.txt",
    ),
    (install_problems, "pip install --no-index --no-deps --editable ."),
    (install_problems, 'fail "run pip install x by hand"'),
    (install_problems, "npm ci --ignore-scripts"),
    (npm_problems, NPM % json.dumps({"integrity": SHA512, "resolved": "https://registry.npmjs.org/a.tgz"})),
    (dependency_problems, PROJECT % "a>=1"),
]


@pytest.mark.parametrize(("rule", "text"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_rule_fires_on_what_it_forbids(rule: Callable[[str], Complaints], text: str) -> None:
    assert list(rule(text)) != []


@pytest.mark.parametrize(("rule", "text"), HARMLESS, ids=lambda value: getattr(value, "__name__", None))
def test_rule_is_quiet_about_what_it_allows(rule: Callable[[str], Complaints], text: str) -> None:
    assert list(rule(text)) == []
