"""Habits that prose can't keep: each rule reads the syntax tree, runs over the project, and is shown to fire."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "paidonce"

# Actions, settlement and what they stand on: plain coroutines over ports, which any driver can run.
CORE = frozenset(
    {"advice.py", "aftersales.py", "captures.py", "capturing.py", "case.py", "checkout.py", "core.py", "declines.py"}
    | {"desk.py", "errors.py", "explain.py", "hoststore.py", "inbox.py", "invariants.py", "journal.py", "leases.py"}
    | {"money.py", "notes.py", "outbox.py", "payments.py", "ports.py", "recovery.py", "refunds.py", "results.py"}
    | {"schedule.py", "settlement.py", "states.py", "store.py", "timeline.py"}
)
GATEWAYS = sorted(path.parent.name for path in (PACKAGE / "gateways").glob("*/__init__.py"))
GATEWAY_NAMES = re.compile("|".join(name.replace("_", "[_-]?") for name in GATEWAYS), re.IGNORECASE)
# A settled payment is judged by these values alone; the gateway's client is out of reach by construction.
SETTLEMENT_MAY_IMPORT = frozenset(
    {"Snapshot", "Progress", "Decline", "DeclineCode", "Account", "CaptureMethod"}
    | {"RefundSnapshot", "RefundProgress", "DisputeSnapshot", "DisputeProgress"}
)
SETTLING = frozenset({"settlement.py", "aftersales.py", "case.py", "invariants.py"})
GATEWAY_MAY_IMPORT = frozenset({"_version", "declines", "errors", "money", "ports"})
SQL_OF_TRANSACTIONS = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|START TRANSACTION)\b")
COMMENTS = re.compile(r"/\*.*?\*/|<!--.*?-->|\{#.*?#\}|(?m:^\s*//.*$)", re.DOTALL)
SKIP_MARKS = frozenset({"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"})
LONGEST_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One module: its path below `src/paidonce` (or below the root, for tests) and its syntax tree."""

    path: PurePosixPath
    tree: ast.Module

    @property
    def module(self) -> str:
        """The dotted name of the module that holds this source."""
        parts = ["paidonce", *self.path.with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def folder(self) -> str:
        """The first folder, or an empty string for a module at the top."""
        return self.path.parts[0] if len(self.path.parts) > 1 else ""

    def functions(self) -> Iterator[Function]:
        """Every function and method."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node


Rule = Callable[[Source], Iterator[tuple[int, str]]]


def commits_only_in_db(source: Source) -> Iterator[tuple[int, str]]:
    """Transactions begin and end in db/ alone, so that nothing else can leave one half done."""
    if source.folder == "db":
        return
    docstrings = {id(node) for node in _docstrings(source.tree)}
    for node in ast.walk(source.tree):
        match node:
            case ast.Constant(value=str(text)) if SQL_OF_TRANSACTIONS.match(text) and id(node) not in docstrings:
                yield node.lineno, f"transaction control in SQL: {text.split()[0]}"
            case ast.Call(func=ast.Attribute(attr="commit" | "rollback" | "begin" | "savepoint" as name)):
                yield node.lineno, f".{name}() outside db/"


def gateway_names_only_in_gateways(source: Source) -> Iterator[tuple[int, str]]:
    """Code that names a gateway belongs to the gateway; a third one must not need a change elsewhere."""
    if source.folder == "gateways" and len(source.path.parts) > 2:
        return
    docstrings = {id(node) for node in _docstrings(source.tree)}
    for node in ast.walk(source.tree):
        if id(node) in docstrings:
            continue
        for word in _words(node):
            if GATEWAY_NAMES.search(word):
                yield getattr(node, "lineno", 1), f"names a gateway: {word!r}"


def _docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


def _words(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names):
            yield module or ""
            yield from (alias.name for alias in names)


def imports_point_inwards(source: Source) -> Iterator[tuple[int, str]]:
    """The core imports no driver and no face; a gateway imports no core, no database and no other gateway."""
    for line, imported in _imports(source):
        reason = _wrong_direction(source, imported)
        if reason:
            yield line, f"imports {imported}: {reason}"


def _imports(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = source.module.split(".")
                keep = len(package) - node.level + (source.path.name == "__init__.py")
                base = ".".join([*package[:keep], *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _wrong_direction(source: Source, imported: str) -> str:
    parts = imported.split(".")
    ours = parts[0] == "paidonce"
    inner = parts[1] if ours and len(parts) > 1 else ""
    if str(source.path) in CORE:
        if not ours:
            return "" if parts[0] in sys.stdlib_module_names else "the core stands on the standard library alone"
        if inner == "gateways":
            return "" if parts[2:3] == ["base"] else "the core knows gateways by their protocol only"
        return "" if f"{inner}.py" in CORE else "the core knows ports, not drivers or faces"
    if source.folder == "gateways" and ours:
        if inner == "gateways":
            return _other_gateway(source, parts)
        if inner == "contract" and source.path.name == "contract.py":
            return ""  # How it is to be tested is the one thing that a gateway tells the suite and not the core.
        return "" if inner in GATEWAY_MAY_IMPORT else "a gateway turns calls into values and knows no more"
    if source.folder == "db" and ours:
        return "" if inner in {"db", "errors", "ports", "states"} else "the database knows no business"
    if source.folder == "web" and inner == "gateways":
        return "" if parts[2:3] in (["base"], ["registry"]) else "the web layer knows gateways by their protocol only"
    return ""


def _other_gateway(source: Source, parts: list[str]) -> str:
    own = source.path.parts[1]
    shared = {"base", "controls", "registry", "repeating", "transport"}
    if len(source.path.parts) == 2 or parts[2] in shared or parts[2] == own:
        return ""
    return "one gateway must not lean on another"


def settlement_imports_values_only(source: Source) -> Iterator[tuple[int, str]]:
    """`settle()` takes a value: whatever could ask a gateway again has no place there."""
    if str(source.path) not in SETTLING:
        return
    for line, imported in _imports(source):
        if imported.startswith("paidonce.gateways") and imported.rsplit(".", 1)[1] not in SETTLEMENT_MAY_IMPORT:
            yield line, f"settlement imports {imported}"


def money_has_no_floats(source: Source) -> Iterator[tuple[int, str]]:
    """A float literal, `float(…)` or a true division loses cents; only durations in seconds may have fractions."""
    in_gateway = source.folder == "gateways" and source.path.name in {"wire.py", "gateway.py", "units.py", "sandbox.py"}
    if not in_gateway and (str(source.path) not in CORE or source.path.name in {"ports.py", "errors.py"}):
        return
    durations = {id(value) for value in _durations(source.tree)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and id(node) not in durations:
            yield node.lineno, f"float literal {node.value}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
            yield node.lineno, "float(…)"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not in_gateway:
            yield node.lineno, "true division; use // or divmod"


def _durations(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        named: list[tuple[str, ast.expr | None]] = []
        match node:
            case ast.keyword(arg=str(name), value=value):
                named = [(name, value)]
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                named = [(name, value)]
            case ast.AnnAssign(target=ast.Name(id=name), value=value):
                named = [(name, value)]
            case ast.arguments(args=args, defaults=defaults, kwonlyargs=kwonly, kw_defaults=kw_defaults):
                positional = args[len(args) - len(defaults) :]
                named = [(a.arg, d) for a, d in zip([*positional, *kwonly], [*defaults, *kw_defaults], strict=True)]
        for name, value in named:
            if value is not None and name.lower().endswith("seconds"):
                yield from ast.walk(value)


def no_gateway_call_in_a_transaction(source: Source) -> Iterator[tuple[int, str]]:
    """A function that is handed a transaction does database work only: it may be run again, and it holds locks."""
    if source.folder == "db":
        return
    for function in source.functions():
        if not any(arg.arg == "tx" for arg in [*function.args.posonlyargs, *function.args.args]):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
                receiver = ast.unparse(node.value.func)
                if re.search(r"gateway|transport|\bclock\.sleep|\basyncio\.", receiver.split("(")[0]):
                    yield node.lineno, f"{function.name}(tx, …) awaits {receiver}"


def functions_stay_short(source: Source) -> Iterator[tuple[int, str]]:
    """What does not fit one screen can't be checked at one glance."""
    if source.path.is_relative_to("db/migrations/versions"):
        return  # A migration is a list of statements, drafted by a tool and read from top to bottom.
    for function in source.functions():
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > LONGEST_FUNCTION_LINES:
            yield function.lineno, f"{function.name} has {lines} lines, more than {LONGEST_FUNCTION_LINES}"


def public_names_have_docstrings(source: Source) -> Iterator[tuple[int, str]]:
    """Modules, public classes and public functions say what they mean."""
    if source.tree.body and not ast.get_docstring(source.tree):
        yield 1, "the module has no docstring"
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield node.lineno, f"{node.name} has no docstring"


def nothing_is_printed(source: Source) -> Iterator[tuple[int, str]]:
    """The log is structured, and the command line has its console."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "breakpoint"}:
            yield node.lineno, f"{node.func.id}()"


def skips_have_reasons(source: Source) -> Iterator[tuple[int, str]]:
    """A test that is skipped silently looks like one that passed."""
    called = {id(node.func) for node in ast.walk(source.tree) if isinstance(node, ast.Call)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg for keyword in node.keywords}
            if name in {"pytest.mark.skipif", "pytest.mark.xfail"} and "reason" not in given:
                yield node.lineno, f"{name} without reason="
            if name in {"pytest.mark.skip", "pytest.skip", "pytest.xfail"} and not node.args and "reason" not in given:
                yield node.lineno, f"{name} without a reason"
        elif isinstance(node, ast.Attribute) and id(node) not in called and ast.unparse(node) in SKIP_MARKS:
            yield node.lineno, f"{ast.unparse(node)} without a reason"


def no_mocks(source: Source) -> Iterator[tuple[int, str]]:
    """Ports take real stand-ins; a mock would agree with whatever the code does."""
    for line, imported in _imports(source):
        if imported.startswith(("unittest.mock", "mock.")):
            yield line, f"imports {imported}"


SOURCE_RULES: tuple[Rule, ...] = (
    commits_only_in_db,
    gateway_names_only_in_gateways,
    imports_point_inwards,
    settlement_imports_values_only,
    money_has_no_floats,
    no_gateway_call_in_a_transaction,
    functions_stay_short,
    public_names_have_docstrings,
    nothing_is_printed,
)
TEST_RULES: tuple[Rule, ...] = (skips_have_reasons, no_mocks)

# Each entry is a file that a rule leaves alone, and why.
EXCEPTIONS: dict[tuple[Rule, str], str] = {}


def _read(folder: Path, base: Path) -> list[Source]:
    paths = sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    return [Source(PurePosixPath(path.relative_to(base)), ast.parse(path.read_text("utf-8"))) for path in paths]


def _broken(rule: Rule, sources: list[Source]) -> list[str]:
    return [
        f"{source.path}:{line}: {what}"
        for source in sources
        if (rule, str(source.path)) not in EXCEPTIONS
        for line, what in rule(source)
    ]


@pytest.mark.parametrize("rule", SOURCE_RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule) -> None:
    sources = _read(PACKAGE, PACKAGE)
    assert len(sources) > 10
    assert _broken(rule, sources) == []


@pytest.mark.parametrize("rule", TEST_RULES, ids=lambda rule: rule.__name__)
def test_the_tests_keep(rule: Rule) -> None:
    sources = _read(ROOT / "tests", ROOT)
    assert sources
    assert _broken(rule, sources) == []


def test_pages_and_scripts_outside_gateways_name_no_gateway() -> None:
    texts = [path for kind in ("html", "js", "css", "jinja", "j2") for path in PACKAGE.rglob(f"*.{kind}")]
    shared = [path for path in texts if path.relative_to(PACKAGE).parts[0] != "gateways"]
    assert shared, "the shared pages are gone, so this test looks at nothing"
    # Comments may explain with an example; what runs or is shown may not.
    code = {path: COMMENTS.sub("", path.read_text("utf-8")) for path in shared}
    named = {str(path.relative_to(PACKAGE)) for path, text in code.items() if GATEWAY_NAMES.search(text)}
    assert named == set()


def test_every_exception_is_still_needed() -> None:
    by_path = {str(source.path): source for source in _read(PACKAGE, PACKAGE)}
    idle = [path for (rule, path) in EXCEPTIONS if path not in by_path or not list(rule(by_path[path]))]
    assert idle == []


LONG_FUNCTION = "def long():\n" + "    x = 1\n" * LONGEST_FUNCTION_LINES

PLANTED: list[tuple[Rule, str, str]] = [
    (commits_only_in_db, "checkout.py", 'await tx.execute("COMMIT")'),
    (commits_only_in_db, "checkout.py", 'sql = """\n  BEGIN IMMEDIATE"""'),
    (commits_only_in_db, "web/pages.py", "connection.commit()"),
    (gateway_names_only_in_gateways, "checkout.py", 'if payment.gateway == "stripe": pass'),
    (gateway_names_only_in_gateways, "web/pages.py", "def paypal_page(): pass"),
    (gateway_names_only_in_gateways, "app.py", "from paidonce.gateways.stripe import provider"),
    (gateway_names_only_in_gateways, "gateways/registry.py", "import stripe"),
    (gateway_names_only_in_gateways, "config.py", "class Settings:\n    STRIPE_KEY: str"),
    (imports_point_inwards, "checkout.py", "from paidonce.web import pages"),
    (imports_point_inwards, "checkout.py", "from paidonce.gateways.registry import providers"),
    (imports_point_inwards, "settlement.py", "from paidonce.db import connect"),
    (imports_point_inwards, "store.py", "import sqlalchemy"),
    (imports_point_inwards, "core.py", "from .web import pages"),
    (imports_point_inwards, "gateways/stripe/gateway.py", "from paidonce.settlement import settle"),
    (imports_point_inwards, "gateways/stripe/gateway.py", "from paidonce.gateways.paypal import wire"),
    (imports_point_inwards, "gateways/stripe/gateway.py", "from ..paypal.wire import parse"),
    (imports_point_inwards, "gateways/stripe/gateway.py", "from paidonce.contract.bench import Bench"),
    (imports_point_inwards, "db/sqlite.py", "from paidonce.checkout import start"),
    (imports_point_inwards, "web/api.py", "from paidonce.gateways.paypal.client import Client"),
    (settlement_imports_values_only, "settlement.py", "from paidonce.gateways.base import Gateway"),
    (money_has_no_floats, "money.py", "total = 19.99"),
    (money_has_no_floats, "journal.py", "total = float(amount)"),
    (money_has_no_floats, "checkout.py", "cents = total / 100"),
    (money_has_no_floats, "gateways/paypal/wire.py", "minor = round(float(value) * 100)"),
    (no_gateway_call_in_a_transaction, "checkout.py", "async def f(tx, gateway):\n    await gateway.fetch(ref)"),
    (no_gateway_call_in_a_transaction, "checkout.py", "async def f(tx, c):\n    await c.gateways[name].void(ref)"),
    (no_gateway_call_in_a_transaction, "checkout.py", "async def f(tx, core):\n    await core.clock.sleep(1)"),
    (functions_stay_short, "checkout.py", LONG_FUNCTION),
    (public_names_have_docstrings, "checkout.py", '"""Module."""\ndef start(): pass'),
    (public_names_have_docstrings, "checkout.py", '"""Module."""\nclass Started: pass'),
    (public_names_have_docstrings, "checkout.py", "x = 1"),
    (nothing_is_printed, "checkout.py", "print(secret)"),
    (skips_have_reasons, "tests/test_x.py", "@pytest.mark.skip\ndef test_x(): pass"),
    (skips_have_reasons, "tests/test_x.py", "pytest.skip()"),
    (skips_have_reasons, "tests/test_x.py", "@pytest.mark.skipif(not HERE)\ndef test_x(): pass"),
    (skips_have_reasons, "tests/test_x.py", "@pytest.mark.xfail(strict=True)\ndef test_x(): pass"),
    (no_mocks, "tests/test_x.py", "from unittest.mock import patch"),
]

HARMLESS: list[tuple[Rule, str, str]] = [
    (commits_only_in_db, "db/sqlite.py", 'connection.execute("COMMIT")'),
    (commits_only_in_db, "checkout.py", '"""Commit the intention before the call."""'),
    (gateway_names_only_in_gateways, "checkout.py", 'def f():\n    """Stripe confirms in the browser."""'),
    (gateway_names_only_in_gateways, "gateways/stripe/wire.py", "import stripe"),
    (imports_point_inwards, "checkout.py", "from paidonce.gateways.base import Gateway"),
    (imports_point_inwards, "gateways/stripe/gateway.py", "from .wire import snapshot"),
    (imports_point_inwards, "gateways/stripe/contract.py", "from paidonce.contract.bench import Bench"),
    (imports_point_inwards, "app.py", "from paidonce.gateways.registry import configure_all"),
    (settlement_imports_values_only, "settlement.py", "from paidonce.gateways.base import Snapshot"),
    (money_has_no_floats, "gateways/stripe/client.py", "send(request, deadline_seconds=12.5)"),
    (money_has_no_floats, "gateways/stripe/client.py", "DEADLINE_SECONDS = 12.5"),
    (money_has_no_floats, "money.py", "whole, rest = divmod(minor, 100)"),
    (no_gateway_call_in_a_transaction, "checkout.py", "async def f(core, gateway):\n    await gateway.fetch(ref)"),
    (no_gateway_call_in_a_transaction, "checkout.py", "async def f(tx, core):\n    await tx.fetch_one(sql)"),
    (functions_stay_short, "checkout.py", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
    (functions_stay_short, "db/migrations/versions/r0001_x.py", LONG_FUNCTION),
    (public_names_have_docstrings, "checkout.py", '"""Module."""\ndef _helper(): pass'),
    (nothing_is_printed, "cli.py", "console.print(table)"),
    (skips_have_reasons, "tests/test_x.py", 'pytest.skip("the shared specs are not here")'),
    (skips_have_reasons, "tests/test_x.py", '@pytest.mark.skipif(not HERE, reason="no browser")\ndef test_x(): pass'),
]


def _source(path: str, text: str) -> Source:
    return Source(PurePosixPath(path), ast.parse(text))


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_rule_fires_on_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert list(rule(_source(path, text))) != []


@pytest.mark.parametrize(("rule", "path", "text"), HARMLESS, ids=lambda value: getattr(value, "__name__", None))
def test_rule_is_quiet_about_what_it_allows(rule: Rule, path: str, text: str) -> None:
    assert list(rule(_source(path, text))) == []


def test_every_rule_is_shown_to_fire() -> None:
    assert {rule for rule, _, _ in PLANTED} == {*SOURCE_RULES, *TEST_RULES}
