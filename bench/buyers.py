"""Who buys, and what: many buyers, each with a session and an address of their own, and a catalogue of 1,000 products.

One client would soon be bounded (docs/card-testing.md), and rightly so. Each checkout here is that of another buyer, so
the load passes the same bounds that a sale day passes, with all of them switched on.
"""

from __future__ import annotations

from dataclasses import dataclass

from paidonce.db import connect, migrate
from paidonce.money import Money
from paidonce.ports import SECOND, SystemClock, Transaction
from paidonce.store import SqlStore
from paidonce.web.accounts import hash_token

BUYERS = 20_000
PRODUCTS = 1_000
ON_HAND = 100_000_000
PRICE = 1800
_DAY = 24 * 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Buyer:
    """One of the many."""

    number: int

    @property
    def id(self) -> str:
        """The user's id."""
        return f"usr_{self.number:026d}"

    @property
    def token(self) -> str:
        """What the session's cookie holds."""
        return f"bench-session-{self.number:028d}"

    @property
    def address(self) -> str:
        """An address out of a network that really exists, and that nobody else has here."""
        return f"11.{self.number >> 16 & 255}.{self.number >> 8 & 255}.{self.number & 255}"


def sku(number: int) -> str:
    """The product's name in the catalogue."""
    return f"SKU-{number:04d}"


def open_order(number: int) -> str:
    """The id of an order that `orders.add_open` has made."""
    return f"ord_{number:026d}"


async def prepare(url: str) -> None:
    """Make the schema, the catalogue and the buyers in an empty database."""
    await migrate(url)
    database = await connect(url)
    try:
        await database.transaction(_add_products)
        await database.transaction(_add_buyers)
    finally:
        await database.close()


async def _add_products(tx: Transaction) -> None:
    store, now = SqlStore(), SystemClock().now()
    for number in range(PRODUCTS):
        await store.add_product(
            tx,
            sku=sku(number),
            name=f"Product {number}",
            description="One of a thousand.",
            image="/assets/products/mug.svg",
            price=Money(PRICE, "EUR"),
            on_hand=ON_HAND,
            position=number,
            now=now,
        )


async def _add_buyers(tx: Transaction) -> None:
    now = SystemClock().now()
    people = [Buyer(number) for number in range(BUYERS)]
    await tx.execute_many(
        "INSERT INTO users (id, email, name, password_hash, role, created_at)"
        " VALUES (:id, :email, 'Some One', 'none', 'buyer', :now)",
        [{"id": one.id, "email": f"{one.number}@example.com", "now": now} for one in people],
    )
    await tx.execute_many(
        "INSERT INTO sessions (token_hash, user_id, created_at, expires_at, seen_at, confirmed_at)"
        " VALUES (:token, :id, :now, :later, :seen, :now)",
        [
            {
                "token": hash_token(one.token),
                "id": one.id,
                "now": now,
                "later": now + 7 * _DAY,
                # They have just looked at the catalogue, however long the measurements take.
                "seen": now + _DAY,
            }
            for one in people
        ],
    )
