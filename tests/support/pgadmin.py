"""The one connection of a test process that makes and drops databases on a PostgreSQL server.

It has a module of its own, since pytest's `conftest` and the one that is imported by name are two modules.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def administrator(server: str) -> Any:
    """A connection with autocommit; opening it costs as much as the work, so it is kept."""
    import psycopg

    return psycopg.connect(server, autocommit=True)
