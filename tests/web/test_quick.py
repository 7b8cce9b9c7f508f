"""What makes tests quick takes nothing away: databases that are used again, shared routes, and a cheap hash."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from fastapi.routing import APIRoute

from paidonce.db import tables
from paidonce.web import accounts, routes
from paidonce.web.accounts import User
from paidonce.web.auth import current_user
from support import pgadmin, quick
from support.webshop import WebShop, running_shop

# OWASP's smallest costs for argon2id are 19 MiB, two rounds and one lane.
LEAST_KIB, LEAST_ROUNDS = 19 * 1024, 2


def test_outside_of_tests_a_password_costs_time_and_memory() -> None:
    kept = quick.REAL_ARGON2().hash("a-long-password")
    found = re.match(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=\d+\$", kept)
    assert found, kept
    assert int(found[1]) >= LEAST_KIB
    assert int(found[2]) >= LEAST_ROUNDS
    assert quick.REAL_ARGON2().verify("a-long-password", kept)
    assert not quick.REAL_ARGON2().verify("another-password", kept)
    assert quick.REAL_ARGON2 is not accounts._argon2, "tests hash at the smallest cost"


def _contents(url: str) -> dict[str, Any]:
    """All rows, and where the sequences stand."""
    with psycopg.connect(url, autocommit=True) as connection:
        found: dict[str, Any] = {
            name: connection.execute(f"SELECT t::text FROM {name} t ORDER BY 1".encode()).fetchall()  # noqa: S608
            for name in tables.metadata.tables
        }
        found["sequences"] = connection.execute(
            "SELECT sequencename, last_value FROM pg_sequences ORDER BY sequencename"
        ).fetchall()
    return found


def test_a_seeded_database_that_was_used_is_as_new(postgres_server: str, seeded_postgres: str) -> None:
    pool = pgadmin.Pool(postgres_server, seeded_postgres)
    name = pool.take()
    url = pgadmin.with_database(postgres_server, name)
    fresh = _contents(url)
    assert fresh["users"]
    assert fresh["products"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM sessions")
        connection.execute("UPDATE users SET name = 'Somebody else'")
        connection.execute("UPDATE stock SET on_hand = on_hand + 1")
        connection.execute("SELECT nextval(%s)", (fresh["sequences"][0][0],))
    assert _contents(url) != fresh
    pool.give_back(name)
    assert pool.take() == name, "it is used again"
    assert _contents(url) == fresh
    pool.give_back(name)
    pool.close()


async def test_two_shops_share_routes_and_neither_what_is_added_nor_what_is_replaced(
    quick_shop: WebShop, seeded_url: str
) -> None:
    here = quick_shop.app
    api = routes.api_router()
    assert [route.path for route in api.routes if isinstance(route, APIRoute)]
    api.add_api_route("/api/everything", lambda: {})
    here.dependency_overrides[current_user] = lambda: User("usr_host", "h@example.com", "Host", "buyer")
    with running_shop(seeded_url) as other:
        async with quick_shop.client() as client, other.client() as stranger:
            assert (await client.get("/api/orders")).json == []
            assert (await stranger.get("/api/orders")).is_problem(401, "not_signed_in")
            assert (await stranger.get("/api/everything")).is_problem(404, "not_found")
