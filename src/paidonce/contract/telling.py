"""How the suite tells what a gateway does not do: a reason, the tests that it fails, and what they demand."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from paidonce.contract.bench import Case

HERE = Path(__file__).parent
_KEY = "paidonce_contract_failure"


@dataclass(frozen=True)
class Failure:
    """One failed test in words."""

    gateway: str
    reason: str  # What the gateway did.
    test: str  # The test's file and name.
    demand: str  # What it demands of every gateway.

    @property
    def text(self) -> str:
        """The failure in lines; pytest's own summary shows the first."""
        return f"{self.reason}\n  Demanded: {self.demand}\n  Tested by {self.test}"


def failure_of(item: pytest.Function, error: Exception) -> Failure:
    """The words for `error`, which the test `item` raised."""
    case = item.callspec.params["case"]
    assert isinstance(case, Case)
    place, demand = _place(error), " ".join((item.function.__doc__ or "").split())
    return Failure(case.name, _what_happened(error), f"{place} {item.originalname}", demand)


def keep(report: pytest.TestReport, failure: Failure) -> None:
    """Attach `failure` to a report, in a way that survives the journey from a process of pytest-xdist."""
    kept = [failure.gateway, failure.reason, failure.test, failure.demand]
    report.user_properties.append((_KEY, kept))


def kept_in(reports: Iterable[pytest.TestReport]) -> list[Failure]:
    """The failures that are attached to `reports`."""
    properties = (each for report in reports for each in report.user_properties)
    return [Failure(*value) for key, value in properties if key == _KEY and isinstance(value, list)]


def summary(failures: Iterable[Failure]) -> Iterator[tuple[str, list[str]]]:
    """For each gateway a title, and lines: every reason, with the tests that fail for it and what they demand."""
    by_gateway: dict[str, dict[str, Counter[Failure]]] = {}
    for failure in failures:
        reasons = by_gateway.setdefault(failure.gateway, {})
        reasons.setdefault(failure.reason, Counter())[failure] += 1
    for gateway, reasons in by_gateway.items():
        total = sum(found.total() for found in reasons.values())
        yield f"what {gateway} does not do: {_counted(total)}", list(_lines(reasons))


def left_out(reasons: Mapping[str, int]) -> list[str]:
    """Lines with what was left out, and why."""
    return [f"{_counted(number):>9}  {reason}" for reason, number in sorted(reasons.items())]


def _lines(reasons: Mapping[str, Counter[Failure]]) -> Iterator[str]:
    for reason, found in reasons.items():
        yield f"{reason} ({_counted(found.total())})"
        for failure, number in found.items():
            times = f" (x{number})" if number > 1 else ""
            yield f"    {failure.test}{times}"
            yield f"        {failure.demand}"


def _counted(number: int) -> str:
    return f"{number} test" if number == 1 else f"{number} tests"


def _what_happened(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, AssertionError | NotImplementedError):
        return text or "It did not."
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"It raised {type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"


def _place(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == HERE]
    of_tests = [frame for frame in frames if Path(frame.filename).name.startswith("test_")]
    return f"{Path(of_tests[0].filename).name}:{of_tests[0].lineno}" if of_tests else "paidonce.contract"
