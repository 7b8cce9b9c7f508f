"""The contract suite on every gateway of this repository: the built-in ones, and those in `examples/gateways`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from paidonce.contract import plugin

EXAMPLES = Path(__file__).parents[2] / "examples" / "gateways"


def pytest_configure(config: pytest.Config) -> None:
    """Name the examples, which are tested without being installed."""
    folders = sorted(path for path in EXAMPLES.iterdir() if (path / path.name / "__init__.py").exists())
    assert folders, "there is no example, so this would test the built-in gateways alone"
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]
    config.stash[plugin.MODULES] = [folder.name for folder in folders]
