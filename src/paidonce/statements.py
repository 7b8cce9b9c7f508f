"""Statements of several rows, which are made once for each number of rows, so that the database knows them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any


def insert(table: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """An INSERT of `rows`, at least one, which all have the same columns; with its parameters."""
    columns = tuple(rows[0])
    values = {f"{column}_{place}": row[column] for place, row in enumerate(rows) for column in columns}
    return _insert(table, columns, len(rows)), values


@lru_cache(maxsize=256)
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    values = ", ".join(f"({', '.join(f':{column}_{place}' for column in columns)})" for place in range(rows))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values}"  # noqa: S608 - names of our own.
