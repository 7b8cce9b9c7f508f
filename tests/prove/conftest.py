"""The simulator's stage, shared by the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from paidonce.prove.world import Stage
from support.simulated import silent_stage


@pytest.fixture(scope="module")
def stage(sqlite_template: Path) -> Iterator[Stage]:
    """Where world after world is played: each play ends what the one before has left."""
    with silent_stage(sqlite_template) as stage:
        yield stage
