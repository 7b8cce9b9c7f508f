"""The pytest plugin of the contract suite: which gateways, what is left out and why, and failures that can be read.

It is loaded for `pytest --pyargs paidonce.contract` by itself, else by `-p paidonce.contract.plugin`.
"""

from __future__ import annotations

import io
import logging
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest
import structlog

# Before the modules below are imported, so that their assertions tell what they compared.
pytest.register_assert_rewrite("paidonce.contract.bench", "paidonce.contract.expect")

from paidonce.contract import telling  # noqa: E402
from paidonce.contract.bench import Bench, Case  # noqa: E402
from paidonce.contract.discovery import find_cases  # noqa: E402
from paidonce.contract.entry import names_suite  # noqa: E402
from paidonce.errors import ConfigError  # noqa: E402

# More modules with a gateway, besides those that are found: for a project that tests gateways without installing them.
MODULES = pytest.StashKey[Sequence[str]]()
_CASES = pytest.StashKey[list[Case]]()
_LEFT_OUT = pytest.StashKey[dict[str, int]]()
_OUTPUT = "paidonce_left_out"
# Whether failures are told in a few lines, and whether the suite's own summary is shown.
_SHORTLY, _ASKED = pytest.StashKey[bool](), pytest.StashKey[bool]()
_FAILURE = pytest.StashKey[telling.Failure]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--gateway`."""
    group = parser.getgroup("paidonce", "the contract suite of paidonce")
    group.addoption(
        "--gateway",
        action="append",
        default=[],
        metavar="NAME",
        help="Test this gateway only: its name, or the module that exports its `provider`. May be repeated.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the suite's mark, and choose how failures are told."""
    config.addinivalue_line("markers", "gateway_needs(*abilities): what a gateway must have to be asked for this.")
    config.stash.setdefault(MODULES, ())
    config.stash[_SHORTLY] = config.option.tbstyle in ("auto", "no")
    config.stash[_ASKED] = config.stash[_SHORTLY] and names_suite(config.args)
    if config.stash[_ASKED]:
        # The suite's own summary tells the same, and in fewer lines.
        config.option.tbstyle = "no"
        config.option.reportchars = config.option.reportchars.replace("f", "")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Find the gateways before anything else, so that a wrong name is told once."""
    if session.config.stash[_ASKED]:
        cases_of(session.config)


def cases_of(config: pytest.Config) -> list[Case]:
    """The gateways under test. Raises `pytest.UsageError` for one that can't be found, and without pytest-asyncio."""
    if not config.pluginmanager.hasplugin("asyncio"):
        raise pytest.UsageError("The contract suite needs pytest-asyncio: pip install 'paidonce[contract]'.")
    if _CASES not in config.stash:
        try:
            found = find_cases(config.getoption("--gateway"), config.stash[MODULES], config.invocation_params.dir)
        except ConfigError as error:
            raise pytest.UsageError(*error.problems) from None
        config.stash[_CASES] = found
    return config.stash[_CASES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the suite on each gateway."""
    if "case" in metafunc.fixturenames and _is_ours(metafunc.definition):
        cases = cases_of(metafunc.config)
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a gateway lacks by its nature, and remember the reasons for the summary."""
    kept, left = [], []
    reasons: Counter[str] = Counter()
    for item in items:
        reason = _lacking(item)
        if reason is None:
            kept.append(item)
        else:
            left.append(item)
            reasons[reason] += 1
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
        config.stash[_LEFT_OUT] = dict(reasons)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of pytest-xdist, hand the reasons to the one that shows them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_OUTPUT] = session.config.stash.get(_LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the reasons from such a process; all of them have collected the same."""
    output = getattr(node, "workeroutput", {})
    node.config.stash[_LEFT_OUT] = output.get(_OUTPUT) or node.config.stash.get(_LEFT_OUT, {})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Tell a failure in a few lines: what the gateway did, what it must do. `--tb=long` shows the whole traceback."""
    try:
        yield
    except Exception as error:
        if not item.config.stash[_SHORTLY] or not isinstance(item, pytest.Function) or not _is_ours(item):
            raise
        item.stash[_FAILURE] = failure = telling.failure_of(item, error)
        raise pytest.fail.Exception(failure.text, pytrace=False) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave captured output out of a failure that is told in a few lines, and keep its words for the summary."""
    report = yield
    if report.when == "call" and report.failed and _FAILURE in item.stash:
        report.sections.clear()
        telling.keep(report, item.stash[_FAILURE])
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List what was left out and why, and what each gateway does not do."""
    if reasons := config.stash.get(_LEFT_OUT, {}):
        terminalreporter.section("left out by the nature of the gateways")
        _write(terminalreporter, telling.left_out(reasons))
    if config.stash[_ASKED]:
        for title, lines in telling.summary(telling.kept_in(terminalreporter.getreports("failed"))):
            terminalreporter.section(title)
            _write(terminalreporter, lines)


@pytest.fixture
def bench(case: Case) -> Bench:
    """The gateway, configured for a fresh twin or with an empty notebook."""
    return Bench(case)


@pytest.fixture
def neighbours(case: Case, request: pytest.FixtureRequest) -> list[Bench]:
    """All other gateways that send signed webhooks, also those that are not tested now."""
    others = find_cases([], request.config.stash[MODULES], request.config.invocation_params.dir)
    return [Bench(other) for other in others if other.name != case.name and "signed webhooks" not in other.missing]


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """Everything that structlog and the standard library's logging write, at every level."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    yield written
    structlog.reset_defaults()
    root.removeHandler(handler)
    root.setLevel(before)


def _write(terminal: pytest.TerminalReporter, lines: list[str]) -> None:
    for line in lines:
        terminal.line(line)


def _is_ours(node: pytest.Item | pytest.Function) -> bool:
    """Whether the test is the suite's own, also where a project imports it into a file of its own."""
    function = getattr(node, "function", None)
    return getattr(function, "__module__", "").startswith("paidonce.contract.")


def _lacking(item: pytest.Item) -> str | None:
    """What the gateway lacks to be asked for this, and why."""
    if not isinstance(item, pytest.Function) or not _is_ours(item) or not hasattr(item, "callspec"):
        return None
    case = item.callspec.params["case"]
    assert isinstance(case, Case)
    lacking = [ability for ability in _needed(item) if ability in case.missing]
    return f"{case.name}, {lacking[0]}: {case.missing[lacking[0]]}" if lacking else None


def _needed(item: pytest.Function) -> list[str]:
    # The module's own marks are not the item's, where a project imports the tests into a file of its own.
    of_module = getattr(sys.modules[item.function.__module__], "pytestmark", [])
    marks = [*item.iter_markers("gateway_needs"), *(of_module if isinstance(of_module, list) else [of_module])]
    return [ability for mark in marks if mark.name == "gateway_needs" for ability in mark.args]
