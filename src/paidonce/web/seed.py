"""The demonstration's catalogue and people."""

from __future__ import annotations

from dataclasses import dataclass

from paidonce.money import Money
from paidonce.ports import Clock, Database, Ids, Microseconds, RandomIds, SystemClock, Transaction
from paidonce.store import SqlStore
from paidonce.web import accounts
from paidonce.web.accounts import Passwords, Role


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """An account whose password is printed: a demonstration has nothing to protect."""

    email: str
    name: str
    password: str
    role: Role


BUYER = DemoAccount("buyer@example.com", "Bo Buyer", "buyer-password", "buyer")
STAFF = DemoAccount("staff@example.com", "Sam Staff", "staff-password", "staff")

# SKU, name, description, picture, cents, pieces. The prices are small, and one product is nearly sold out.
PRODUCTS = (
    (
        "MUG-01",
        "Stoneware mug",
        "Hand-thrown; no two glazes run the same way. 350 ml.",
        "mug",
        1800,
        40,
    ),
    (
        "NOTE-01",
        "Linen notebook",
        "192 dotted pages that lie flat, and a ribbon.",
        "notebook",
        1450,
        60,
    ),
    ("LAMP-01", "Reading lamp", "A warm circle of light with a pull cord, for one more chapter.", "lamp", 6900, 12),
    ("PLANT-01", "Window plant", "Easy to please: some light, some water on Sundays. With its pot.", "plant", 2450, 15),
    (
        "TOTE-01",
        "Market tote",
        "Heavy organic cotton. Carries eleven kilos of apples.",
        "tote",
        1900,
        80,
    ),
    ("TEA-01", "Garden tea", "Mint, lemon verbena and a little fennel. 80 g, about 40 cups.", "tea", 990, 100),
    (
        "PHONES-01",
        "Quiet headphones",
        "Thirty hours of music, or of silence.",
        "headphones",
        12900,
        4,
    ),
    (
        "CANDLE-01",
        "Cedar candle",
        "Rapeseed wax in an amber jar. Burns for 45 hours.",
        "candle",
        2200,
        30,
    ),
)


async def seed_demo(database: Database, *, clock: Clock | None = None, ids: Ids | None = None) -> None:
    """Add what is missing of the catalogue, the buyer and the member of staff. Safe to repeat; changes nothing else."""
    now = (clock or SystemClock()).now()
    await database.transaction(_add_products, now)
    for account in (BUYER, STAFF):
        await _add_account(database, ids or RandomIds(), account, now)


async def _add_products(tx: Transaction, now: Microseconds) -> None:
    store = SqlStore()
    for position, (sku, name, description, picture, cents, pieces) in enumerate(PRODUCTS):
        await store.add_product(
            tx,
            sku=sku,
            name=name,
            description=description,
            image=f"/assets/products/{picture}.svg",
            price=Money(cents, "EUR"),
            on_hand=pieces,
            position=position,
            now=now,
        )


async def _add_account(database: Database, ids: Ids, account: DemoAccount, now: Microseconds) -> None:
    if await accounts.find_user(database, account.email) is not None:
        return
    await accounts.add_user(
        database,
        Passwords(),
        ids,
        email=account.email,
        name=account.name,
        password=account.password,
        now=now,
        role=account.role,
    )
