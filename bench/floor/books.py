"""What the floor writes, whichever database it is."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Protocol

USER = "usr_floor"
DAY = 24 * 3600 * 1_000_000
CLAIM = 120 * 1_000_000
HOLD = 20 * 60 * 1_000_000


def new(prefix: str) -> str:
    """A fresh id."""
    return f"{prefix}_{secrets.token_hex(13)}"


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def text(**words: object) -> str:
    """JSON without blanks."""
    return json.dumps(words, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Started:
    """A payment that is about to be created at the gateway."""

    order: str
    account: str
    id: str = field(default_factory=lambda: new("pay"))
    operation: str = field(default_factory=lambda: new("op"))
    key: str = field(default_factory=lambda: new("key"))

    def request(self) -> str:
        """What goes out under the key. The amount is the order's, so it is put in by the database."""
        back = f"http://127.0.0.1/orders/{self.order}/return?payment={self.id}"
        return text(
            payment_id=self.id,
            order_id=self.order,
            capture_method="automatic",
            currency="EUR",
            return_url=back,
            cancel_url=back,
            webhook_url="http://127.0.0.1/webhooks/stripe",
        )


@dataclass(frozen=True, slots=True)
class Captured:
    """What the gateway says of a payment whose money has moved."""

    payment: str
    order: str
    capture: str
    amount: int
    fee: int

    def detail(self) -> str:
        """For the history."""
        return text(booked_to="sales", capture=self.capture, gateway="stripe", raw_status="succeeded", trigger="buyer")

    def payload(self) -> str:
        """For the merchant's systems."""
        data = {"amount": self.amount, "currency": "EUR", "gateway": "stripe", "payment_id": self.payment}
        return text(data=data, order_id=self.order, type="order.paid")


@dataclass(frozen=True, slots=True)
class News:
    """What a webhook tells."""

    event: str
    type: str
    created: int
    ref: str
    capture: str | None

    def claims(self, payment: str) -> str:
        """What it names, to be kept."""
        return text(
            about_more=False, capture_ref=self.capture, dispute=None, payment_id=payment, ref=self.ref, refund=None
        )

    def detail(self) -> str:
        """For the history."""
        return text(event=self.event, gateway="stripe", known=True, type=self.type)


class Books(Protocol):
    """The five writes and the one look of a checkout. Each write is durable when it returns."""

    async def order(self, skus: list[str], quantities: list[int]) -> tuple[str, int]:
        """A new order at the catalogue's prices: its id and its total."""

    async def start(self, started: Started) -> int:
        """Hold the goods and write down the payment with its intention; the amount."""

    async def opened(self, started: Started, ref: str) -> None:
        """The gateway's object is there and waits for its buyer."""

    async def find(self, payment: str) -> tuple[str, str]:
        """The payment's order, and its object at the gateway."""

    async def settle(self, captured: Captured) -> bool:
        """THE paid transaction; False if the payment was settled before."""

    async def hear(self, news: News) -> str:
        """Write down a webhook: known or duplicate. Raises `LookupError` for one of nobody's."""
