"""Databases for tests that need several of one kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from support import pgadmin

NewDatabase = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Makes a freshly migrated database at each call, and gives its URL."""
    made: NewDatabase = request.getfixturevalue(f"new_{request.param}")
    return made


@pytest.fixture
def new_sqlite(sqlite_template: Path, tmp_path: Path) -> NewDatabase:
    def make() -> str:
        path = tmp_path / f"{uuid4().hex}.db"
        shutil.copy(sqlite_template, path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture
def new_postgresql(postgres_server: str, postgres_template: str) -> Iterator[NewDatabase]:
    names: list[str] = []

    def make() -> str:
        names.append(pgadmin.new_name())
        pgadmin.create_database(postgres_server, names[-1], template=postgres_template)
        return pgadmin.with_database(postgres_server, names[-1])

    yield make
    for name in names:
        pgadmin.drop_database(postgres_server, name)
