"""Habits that prose can't keep: each rule reads the syntax tree, runs over the project, and is shown to fire."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "paidonce"

# Actions, settlement and what they stand on: plain coroutines over ports, which any driver can run.
CORE = frozenset(
    {"advice.py", "aftersales.py", "audit.py", "bounds.py", "captures.py", "capturing.py", "case.py"}
    | {"checkout.py", "core.py", "counters.py", "declines.py", "desk.py", "errors.py", "explain.py"}
    | {"hoststore.py", "inbox.py", "invariants.py", "journal.py", "leases.py", "money.py", "notes.py"}
    | {"outbox.py", "payments.py", "ports.py", "recovery.py", "refunds.py", "results.py", "schedule.py"}
    | {"settlement.py", "statements.py", "states.py", "store.py", "timeline.py"}
)
GATEWAYS = sorted(path.parent.name for path in (PACKAGE / "gateways").glob("*/__init__.py"))
GATEWAY_NAMES = re.compile("|".join(name.replace("_", "[_-]?") for name in GATEWAYS), re.IGNORECASE)
# A settled payment is judged by these values alone; the gateway's client is out of reach by construction.
SETTLEMENT_MAY_IMPORT = frozenset(
    {"Snapshot", "Progress", "Decline", "DeclineCode", "Account", "CaptureMethod"}
    | {"RefundSnapshot", "RefundProgress", "DisputeSnapshot", "DisputeProgress"}
)
SETTLING = frozenset({"settlement.py", "aftersales.py", "case.py", "invariants.py"})
GATEWAY_MAY_IMPORT = frozenset({"_version", "declines", "errors", "money", "ports", "secret"})
SQL_OF_TRANSACTIONS = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|START TRANSACTION)\b")
COMMENTS = re.compile(r"/\*.*?\*/|<!--.*?-->|\{#.*?#\}|(?m:^\s*//.*$)", re.DOTALL)
SKIP_MARKS = frozenset({"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"})
LONGEST_FUNCTION_LINES = 60
# What only its owner knows, by the end of its name. A kept hash is none: nobody sends one.
SECRET_NAMES = re.compile(
    r"(?:^|_)(?:secret|signature|token|h?mac|(?:hex)?digest|password|api_?key|csrf)s?$", re.IGNORECASE
)
# Stand-ins for gateways and the simulator are no doors that anybody knocks at.
PLAY = ("prove", "contract", "sandbox", "demo")
# Where chance decides what no attacker gains by: faults, seeds that must repeat, and how long to wait.
CHANCE = frozenset({"sandbox/dials.py", "worker.py", "db/sqlite.py", "db/postgres.py", "db/django.py"})
# Statements that are put together from names of ours; every value travels as a parameter.
SQL_BUILDERS = frozenset(
    {"audit.py", "counters.py", "deliveries.py", "hoststore.py", "inbox.py", "leases.py", "payments.py", "store.py"}
    | {"statements.py", "db/migration.py", "db/sql.py", "web/accounts.py"}
)
SQL_WORDS = re.compile(r"\s*(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH|ALTER|CREATE|DROP)\b[^a-z]")
RUNS_TEXT = frozenset({"eval", "exec", "compile", "__import__"})
UNSAFE_MODULES = frozenset({"pickle", "marshal", "shelve", "dill", "yaml", "telnetlib", "ftplib"})
UNVERIFIED = frozenset({"CERT_NONE", "CERT_OPTIONAL", "_create_unverified_context", "PROTOCOL_TLSv1"})
LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log", "bind", "msg"})
# What a request or an answer is made of, and what holds settings.
NEVER_LOGGED = frozenset(
    {"body", "headers", "payload", "form", "cookies", "query", "raw", "content", "environment", "settings", "params"}
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One module: its path below `src/paidonce` (or below the root, for tests) and its syntax tree."""

    path: PurePosixPath
    tree: ast.Module
    text: str = ""

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


def secrets_are_compared_in_constant_time(source: Source) -> Iterator[tuple[int, str]]:
    """`==` ends at the first difference, and its time tells how much was right; `hmac.compare_digest` does not."""
    if source.folder in PLAY or "sandbox" in source.path.parts:
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        wrong = any(isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for operator in node.ops)
        # Comparing with what everybody can read here (a constant, None, nothing) tells nothing.
        if wrong and not any(_is_public(side) for side in sides):
            yield from (
                (node.lineno, f"compares {name}") for name in map(_last_name, sides) if SECRET_NAMES.search(name)
            )


def _is_public(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) or _last_name(node).isupper()


def _last_name(node: ast.expr) -> str:
    """What an expression is called: the end of `a.b`, of `a["b"]` and of `a.b()`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=func):
            return _last_name(func)
        case _:
            return ""


def chance_makes_no_secret(source: Source) -> Iterator[tuple[int, str]]:
    """`random` can be predicted by whoever has seen enough of it; secrets, ids and keys come from `secrets`."""
    if source.folder == "prove" or str(source.path) in CHANCE:
        return
    for line, imported in _imports(source):
        if imported.split(".")[0] == "random":
            yield line, f"imports {imported}"


def text_is_never_run(source: Source) -> Iterator[tuple[int, str]]:
    """What came from outside must not become code: no eval, no pickle, no shell."""
    for line, imported in _imports(source):
        if imported.split(".")[0] in UNSAFE_MODULES:
            yield line, f"imports {imported}"
    for node in ast.walk(source.tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in RUNS_TEXT:
                yield node.lineno, f"{name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr=name)) if name in {"system", "popen"}:
                yield node.lineno, f"os.{name}()"
            case ast.keyword(arg="shell", value=value) if not _is_constant(value, False):
                yield node.value.lineno, "a shell"


def _is_constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def values_stay_out_of_sql(source: Source) -> Iterator[tuple[int, str]]:
    """A value in a statement is an injection; only names of ours are put into one, and in few places."""
    for node in ast.walk(source.tree):
        match node:
            case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_] as parts) if SQL_WORDS.match(text + " "):
                yield from ((node.lineno, what) for what in _interpolated(source, parts))
            case ast.BinOp(op=ast.Mod() | ast.Add(), left=ast.Constant(value=str(text))) if SQL_WORDS.match(text + " "):
                yield node.lineno, "a statement with something added"
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")) if SQL_WORDS.match(
                text + " "
            ):
                yield node.lineno, "a statement with .format()"


def _interpolated(source: Source, parts: Sequence[ast.expr]) -> Iterator[str]:
    for before, part in pairwise(parts):
        if not isinstance(part, ast.FormattedValue):
            continue
        name = _last_name(part.value)
        quoted = isinstance(before, ast.Constant) and str(before.value).endswith("'")
        if name.isupper() or source.folder == "prove":
            continue  # A constant of the module; and the simulation's statements meet no stranger.
        if quoted:
            yield f"a value in quotes: {ast.unparse(part.value)}"
        elif str(source.path) not in SQL_BUILDERS or (isinstance(part.value, ast.Call) and name != "join"):
            yield f"puts {ast.unparse(part.value)} into a statement"


def tls_is_always_verified(source: Source) -> Iterator[tuple[int, str]]:
    """A certificate that nobody checks is anybody's."""
    for node in ast.walk(source.tree):
        match node:
            case ast.keyword(arg="verify" | "ssl" | "check_hostname" | "verify_ssl" as name, value=value) if (
                _is_constant(value, False)
            ):
                yield node.value.lineno, f"{name}=False"
            case ast.Assign(targets=[ast.Attribute(attr="check_hostname")], value=value) if _is_constant(value, False):
                yield node.lineno, "check_hostname = False"
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name) if name in UNVERIFIED:
                yield getattr(node, "lineno", 1), name


def bodies_are_not_logged(source: Source) -> Iterator[tuple[int, str]]:
    """Bodies, headers and settings hold secrets; the scrubber is the second line of defence, not the first."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not _is_logging(node.func):
            continue
        for value in [*node.args, *(keyword.value for keyword in node.keywords)]:
            yield from ((node.lineno, f"logs {name}") for name in _handed_over(value) if name in NEVER_LOGGED)


def _is_logging(func: ast.expr) -> bool:
    if not isinstance(func, ast.Attribute) or func.attr not in LOG_METHODS:
        return False
    return bool(re.search(r"\blog(ger|ging)?\b|_log\b|getLogger|get_logger", ast.unparse(func.value)))


def _handed_over(value: ast.expr) -> Iterator[str]:
    """The names whose values go into the line: all of an expression, apart from what a size or a kind is asked of."""
    if isinstance(value, ast.Call):
        asked = [value.func.value] if isinstance(value.func, ast.Attribute) else []
        given = [*asked, *value.args, *(keyword.value for keyword in value.keywords)]
        for one in [] if _asks_for_little(value) else given:
            yield from _handed_over(one)
    elif isinstance(value, ast.Name | ast.Attribute):
        yield _last_name(value)
    else:
        for part in ast.iter_child_nodes(value):
            if isinstance(part, ast.expr):
                yield from _handed_over(part)


def _asks_for_little(call: ast.Call) -> bool:
    """A size, a kind, or one header that is named and no secret."""
    match call:
        case ast.Call(func=ast.Name(id="len" | "type" | "sorted")):
            return True
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return not re.search("auth|cookie|secret|signature|token", name, re.IGNORECASE)
        case _:
            return False


def exceptions_from_rules_are_named(source: Source) -> Iterator[tuple[int, str]]:
    """A blanket `noqa` or `type: ignore` hides the next mistake on its line as well."""
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if re.search(r"#\s*(?:ruff|flake8):\s*noqa", token.string) or re.search(
            r"#\s*noqa(?!:\s*[A-Z]+[0-9]+)", token.string
        ):
            yield token.start[0], "noqa without the rule's name, or for a whole file"
        if re.search(r"#\s*type:\s*ignore(?!\[[a-z-]+)", token.string):
            yield token.start[0], "type: ignore without the error's name"


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
    secrets_are_compared_in_constant_time,
    chance_makes_no_secret,
    text_is_never_run,
    values_stay_out_of_sql,
    tls_is_always_verified,
    bodies_are_not_logged,
    exceptions_from_rules_are_named,
)
TEST_RULES: tuple[Rule, ...] = (skips_have_reasons, no_mocks, exceptions_from_rules_are_named)

# Each entry is a file that a rule leaves alone, and why.
EXCEPTIONS: dict[tuple[Rule, str], str] = {
    (
        exceptions_from_rules_are_named,
        "db/migrations/versions/r0002_first_schema.py",
    ): "drafted by a tool, in long lines",
}


@cache
def _read(folder: Path, base: Path) -> list[Source]:
    paths = sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    return [_source(str(path.relative_to(base)), path.read_text("utf-8")) for path in paths]


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
    (secrets_are_compared_in_constant_time, "web/shop.py", "if mac == expected: pass"),
    (secrets_are_compared_in_constant_time, "web/auth.py", 'if given != row["token"]: pass'),
    (secrets_are_compared_in_constant_time, "web/auth.py", "if password in known: pass"),
    (secrets_are_compared_in_constant_time, "gateways/stripe/webhook.py", "if signed.hexdigest() == given: pass"),
    (secrets_are_compared_in_constant_time, "gateways/paypal/webhook.py", "ok = a.signature == b.signature"),
    (chance_makes_no_secret, "web/accounts.py", "import random"),
    (chance_makes_no_secret, "ports.py", "from random import choice"),
    (text_is_never_run, "checkout.py", "eval(text)"),
    (text_is_never_run, "checkout.py", "exec(text)"),
    (text_is_never_run, "web/shop.py", "import pickle"),
    (text_is_never_run, "config.py", "from yaml import load"),
    (text_is_never_run, "demo/run.py", "subprocess.run(text, shell=True)"),
    (text_is_never_run, "demo/run.py", "os.system(text)"),
    (values_stay_out_of_sql, "web/accounts.py", "sql = f\"SELECT id FROM users WHERE email = '{email}'\""),
    (values_stay_out_of_sql, "store.py", 'sql = f"SELECT 1 FROM orders WHERE id = {text.lower()}"'),
    (values_stay_out_of_sql, "checkout.py", 'sql = f"UPDATE orders SET status = {status}"'),
    (values_stay_out_of_sql, "checkout.py", 'sql = "DELETE FROM orders WHERE id = %s" % order_id'),
    (values_stay_out_of_sql, "checkout.py", 'sql = "DELETE FROM orders WHERE id = " + order_id'),
    (values_stay_out_of_sql, "checkout.py", 'sql = "SELECT * FROM {}".format(table)'),
    (tls_is_always_verified, "gateways/transport.py", "session.get(url, ssl=False)"),
    (tls_is_always_verified, "gateways/transport.py", "httpx.get(url, verify=False)"),
    (tls_is_always_verified, "gateways/transport.py", "context.check_hostname = False"),
    (tls_is_always_verified, "gateways/transport.py", "context.verify_mode = ssl.CERT_NONE"),
    (tls_is_always_verified, "gateways/transport.py", "from ssl import CERT_NONE"),
    (bodies_are_not_logged, "web/webhooks.py", 'log.info("webhook", body=body)'),
    (bodies_are_not_logged, "web/webhooks.py", 'log.warning("refused", headers=dict(request.headers))'),
    (bodies_are_not_logged, "web/webhooks.py", 'logging.getLogger("x").info("%s", body.decode())'),
    (bodies_are_not_logged, "web/edge.py", 'log.info("x", by=request.headers.get("authorization"))'),
    (bodies_are_not_logged, "cli.py", 'structlog.get_logger().debug(f"read {settings}")'),
    (exceptions_from_rules_are_named, "checkout.py", "x = 1  # noqa"),
    (exceptions_from_rules_are_named, "checkout.py", "# ruff: noqa: S608"),
    (exceptions_from_rules_are_named, "checkout.py", "x = 1  # type: ignore"),
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
    (secrets_are_compared_in_constant_time, "web/shop.py", "hmac.compare_digest(mac, expected)"),
    (secrets_are_compared_in_constant_time, "web/auth.py", 'if token == "" or token is None: pass'),
    (secrets_are_compared_in_constant_time, "config.py", "if SANDBOX_SECRET in secrets: pass"),
    (secrets_are_compared_in_constant_time, "prove/checks.py", "if row.token == token: pass"),
    (chance_makes_no_secret, "web/accounts.py", "import secrets"),
    (chance_makes_no_secret, "prove/generate.py", "import random"),
    (text_is_never_run, "demo/run.py", "subprocess.run(words, shell=False)"),
    (text_is_never_run, "logs.py", 're.compile("x")'),
    (values_stay_out_of_sql, "checkout.py", 'sql = "SELECT 1 FROM orders WHERE id = :id"'),
    (values_stay_out_of_sql, "checkout.py", 'sql = f"SELECT {_COLUMNS} FROM orders"'),
    (values_stay_out_of_sql, "leases.py", 'sql = f"SELECT id FROM {table} WHERE id = :id"'),
    (values_stay_out_of_sql, "checkout.py", 'text = f"Select a card, {name}"'),
    (tls_is_always_verified, "doctor/address.py", "ssl.create_default_context()"),
    (bodies_are_not_logged, "web/webhooks.py", 'log.info("webhook", bytes=len(body), kind=type(body))'),
    (bodies_are_not_logged, "web/edge.py", 'log.info("request", path=scope.path, status=status)'),
    (bodies_are_not_logged, "web/edge.py", 'log.info("x", request_id=answer.headers.get("request-id"))'),
    (bodies_are_not_logged, "web/forms.py", "read(body, headers)"),
    (
        exceptions_from_rules_are_named,
        "checkout.py",
        "x = 1  # noqa: S608 - names only.\ny = 2  # type: ignore[arg-type]",
    ),
    (skips_have_reasons, "tests/test_x.py", 'pytest.skip("the shared specs are not here")'),
    (skips_have_reasons, "tests/test_x.py", '@pytest.mark.skipif(not HERE, reason="no browser")\ndef test_x(): pass'),
]


def _source(path: str, text: str) -> Source:
    return Source(PurePosixPath(path), ast.parse(text), text)


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_rule_fires_on_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert list(rule(_source(path, text))) != []


@pytest.mark.parametrize(("rule", "path", "text"), HARMLESS, ids=lambda value: getattr(value, "__name__", None))
def test_rule_is_quiet_about_what_it_allows(rule: Rule, path: str, text: str) -> None:
    assert list(rule(_source(path, text))) == []


def test_every_rule_is_shown_to_fire() -> None:
    assert {rule for rule, _, _ in PLANTED} == {*SOURCE_RULES, *TEST_RULES}
