"""Accounts and sessions made beside the server, so that tests which are not about passwords need not hash any."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from typing import Any

from fastapi import FastAPI

import paidonce.db
from paidonce import Payments, serving
from paidonce.demo.servers import in_thread
from paidonce.ports import Database, RandomIds, Row, Transaction
from paidonce.sandbox.app import sandbox_environment
from paidonce.store import SqlStore
from paidonce.web import accounts
from paidonce.web.accounts import Role, User
from support.webshop import Client, WebShop, running_shop


@dataclass
class Doors:
    """A running shop, and the database behind it."""

    shop: WebShop
    database_url: str

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """A connection of the test's own."""
        db = await paidonce.db.connect(self.database_url)
        try:
            yield db
        finally:
            await db.close()

    async def rows(self, sql: str, **params: str | int) -> list[Row]:
        """What the database says now."""
        async with self.database() as db:
            return await db.read(_fetch, sql, params)

    async def change(self, sql: str, **params: str | int) -> None:
        """Change something behind the server's back."""
        async with self.database() as db:
            await db.transaction(_execute, sql, params)

    async def add_account(self, email: str, role: Role = "buyer") -> str:
        """An account without a usable password; returns its user's id."""
        user = User(RandomIds().new("usr"), email, "Some One", role, password_hash=accounts._nobodys_hash())
        async with self.database() as db:
            await db.transaction(accounts._insert_user, user, self.shop.clock.now())
        return user.id

    async def mint(self, email: str) -> str:
        """A session's token for the account with this address."""
        async with self.database() as db:
            user = await accounts.find_user(db, email)
            assert user is not None
            now = self.shop.clock.now()
            return await accounts.open_session(db, user, replaces=None, now=now, life_seconds=7 * 24 * 3600)

    @asynccontextmanager
    async def client(self, email: str | None) -> AsyncIterator[Client]:
        """A browser in which the account with this address is signed in; nobody with None."""
        async with self.shop.client() as client:
            if email is not None:
                client.set_cookies(paidonce_session=await self.mint(email))
            yield client

    def holding(self, token: str) -> Client:
        """A browser with a token that came to it somehow."""
        client = self.shop.client()
        client.set_cookies(paidonce_session=token)
        return client


async def _fetch(tx: Transaction, sql: str, params: dict[str, str | int]) -> list[Row]:
    return list(await tx.fetch_all(sql, params))


async def _execute(tx: Transaction, sql: str, params: dict[str, str | int]) -> None:
    await tx.execute(sql, params)


def doors(seeded: Path, folder: Path, **settings: str) -> Iterator[Doors]:
    """For fixtures: a shop on a copy of the seeded SQLite file."""
    copy(seeded, folder / "shop.db")
    url = f"sqlite:///{folder / 'shop.db'}"
    with running_shop(url, subscribers=None, **settings) as shop:
        yield Doors(shop, url)


@contextmanager
def hosted(here: Doors, current_user: Callable[..., Any], **settings: str) -> Iterator[tuple[str, Payments]]:
    """A host's application on the same database, with a sign-in of its own. Its gateways are out of reach."""
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        environment = {
            **sandbox_environment("http://127.0.0.1:9"),
            **settings,
            "PAIDONCE_DATABASE_URL": here.database_url,
            "PAIDONCE_PUBLIC_URL": url,
            "PAIDONCE_WORKER": "0",
        }
        back = "/orders/{order}/back?payment={payment}"
        payments = Payments(store=SqlStore(), current_user=current_user, return_path=back, environment=environment)
        app = FastAPI(lifespan=payments.lifespan)
        app.include_router(payments.router)
        app.mount("/assets", payments.assets)
        with in_thread(app, listener):
            yield url, payments
