"""What pytest loads in every environment that has paidonce: it does nothing unless the contract suite is asked for.

So a project that merely uses paidonce gets no option and no hook, and may call an option of its own `--gateway`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

SUITE = "paidonce.contract"


def names_suite(args: Iterable[str]) -> bool:
    """Whether one of pytest's arguments is the suite or a part of it."""
    return any(arg == SUITE or arg.startswith((SUITE + ".", SUITE + "::")) for arg in args)


def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Load the suite's plugin if an argument names the suite: `--pyargs paidonce.contract`."""
    if names_suite(args):
        early_config.pluginmanager.import_plugin(SUITE + ".plugin")
