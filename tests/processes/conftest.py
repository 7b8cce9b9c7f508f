"""Databases for tests that need several of one kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from support.apart import run_apart

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
        names.append(f"paidonce_test_{uuid4().hex}")
        run_apart(partial(_execute, postgres_server, f"CREATE DATABASE {names[-1]} TEMPLATE {postgres_template}"))
        base, mark, options = postgres_server.partition("?")
        parts = urlsplit(base)
        return f"{parts.scheme}://{parts.netloc}/{names[-1]}{mark}{options}"

    yield make
    for name in names:
        run_apart(partial(_execute, postgres_server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
