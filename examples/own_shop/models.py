"""The shop's own tables. Nothing in here knows of paidonce."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from sqlalchemy import CheckConstraint, Engine, ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """What the shop's models share."""


class User(Base):
    """Somebody who buys, or who works here."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    password_hash: Mapped[str]
    is_staff: Mapped[bool] = mapped_column(default=False)


class Login(Base):
    """A browser that is signed in, until `ends_at` (UTC). Only the hash of its token is kept."""

    __tablename__ = "logins"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    ends_at: Mapped[datetime]


class Product(Base):
    """A coffee, and how many bags of it are in the storeroom."""

    __tablename__ = "products"
    __table_args__ = (CheckConstraint("stock >= 0", name="stock_not_negative"),)

    sku: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    notes: Mapped[str] = mapped_column(default="")
    colour: Mapped[str] = mapped_column(default="#8a5a3b")
    price_cents: Mapped[int]
    stock: Mapped[int]


class Order(Base):
    """An order. Its number is counted, as shops like it."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    status: Mapped[str] = mapped_column(default="open")
    refunded: Mapped[str] = mapped_column(default="none")
    total_cents: Mapped[int]
    created_at: Mapped[datetime]
    paid_at: Mapped[datetime | None]

    items: Mapped[list[Item]] = relationship(order_by="Item.sku")
    user: Mapped[User] = relationship()

    @property
    def number(self) -> str:
        """What the buyer calls it."""
        return f"EM-{self.id}"


class Item(Base):
    """One product in an order, at the price of that day."""

    __tablename__ = "order_items"

    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    sku: Mapped[str] = mapped_column(ForeignKey("products.sku"), primary_key=True)
    name: Mapped[str]
    quantity: Mapped[int]
    price_cents: Mapped[int]


class Points(Base):
    """Points for a paid order: one for each euro, and once."""

    __tablename__ = "points"

    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    points: Mapped[int]


def connect(url: str) -> Engine:
    """The shop's own connection to the database of `url`, which it shares with paidonce."""
    if url.startswith("sqlite"):
        # People's orders and accounts: no other user of this machine shall read them.
        Path(url.removeprefix("sqlite:///")).touch(mode=0o600)
        engine = create_engine(url)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    return create_engine("postgresql+psycopg://" + url.partition("://")[2])


def _prepare_sqlite(connection, _record) -> None:  # type: ignore[no-untyped-def]
    # Two writers share the file: the shop's own forms, and paidonce. Each waits for the other.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA foreign_keys = ON")
