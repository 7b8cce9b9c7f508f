"""What a shop offers so that the flows in this folder can run on it, and how the shops are found.

The flows speak HTTP, as a browser does, and look into the shop's own tables for what came of it. So a shop needs an
adapter: a module of this folder with a name `adapter` in it, listed in `SHOPS`. The twins run in the test's own process
behind a real socket; the shop reaches them by the settings that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from support.webshop import Client

# Each is a module of this folder.
SHOPS = ("builtin", "own", "django")

CURRENCY = "EUR"
# Buyers have the numbers 0 … BUYERS-1.
BUYERS = 52


@dataclass(frozen=True)
class Goods:
    """One product of the catalogue that every shop under test is prepared with. The price is in cents."""

    sku: str
    name: str
    price_minor: int
    on_hand: int


PLENTY = Goods("TEA-250", "Loose tea", 890, 1000)
SCARCE = Goods("LAMP-7", "Desk lamp", 4950, 10)
RARE = Goods("VASE-1", "Blue vase", 12900, 3)
GOODS = (PLENTY, SCARCE, RARE)


class RunningShop(Protocol):
    """A shop behind a real server. One serves many tests, one after the other."""

    # The origin, such as http://127.0.0.1:40123, and the paths below which paidonce is mounted there.
    url: str
    api: str  # "/api": what docs/http-api.md calls /api/payments/… is `url` + `api` + /payments/…
    webhooks: str  # "/webhooks": the gateways' news go to `url` + `webhooks` + /<gateway>

    async def sign_in(self, browser: Client, buyer: int) -> None:
        """Sign `browser` in as the buyer of that number, by the shop's own means.

        Whatever a page would send along with each request from then on (a CSRF token, say) goes into
        `browser.session.headers`.
        """

    async def sign_in_as_staff(self, browser: Client) -> None:
        """Sign `browser` in as somebody who may refund."""

    async def place_order(self, browser: Client, sku: str, quantity: int) -> str:
        """Order as the signed-in buyer, by the shop's own means; the order's id."""

    def pay_page(self, order_id: str) -> str:
        """The path of the page that shows the ways to pay."""

    async def on_hand(self, sku: str) -> int:
        """Pieces on the shelf, in the shop's own table. What is held for buyers who are paying still counts."""

    async def order_status(self, order_id: str) -> str:
        """The order's state in the shop's own table, in the words of `states.OrderStatus`."""

    async def paid_orders(self) -> set[str]:
        """The ids of all orders that the shop's own table says are paid."""

    async def own_rows(self, order_id: str) -> int:
        """How many rows the shop's own code wrote for this order, inside the transaction that made it paid."""

    async def fail_next_settling(self) -> None:
        """Let the shop's own code raise an ordinary exception in the next transaction that makes an order paid.

        Once, and after it has written its row. The flows then look that nothing of that transaction is left.
        """

    async def pass_seconds(self, seconds: int) -> None:
        """Move the shop's clock forward. The twins' clock is the test's business."""

    async def recover(self) -> None:
        """Do now what the worker would do: all that is due. No worker runs by itself."""


class Adapter(Protocol):
    """One shop under test."""

    def prepare(self, database_url: str) -> None:
        """Make all tables in an empty database, and put `GOODS`, the buyers and one member of staff in.

        Called once for each kind of database; the tests run on copies. `database_url` is a `sqlite:////…` or a
        `postgresql://…`, as in PAIDONCE_DATABASE_URL.
        """

    def start(self, database_url: str, settings: Mapping[str, str]) -> AbstractContextManager[RunningShop]:
        """Serve the shop on a free port of 127.0.0.1 until the block ends.

        `settings` are environment variables that lead every gateway to its twin. The shop adds its own.
        """


def load(name: str) -> Adapter:
    """The adapter of the shop `name`."""
    found: Adapter = import_module(f"shops.{name}").adapter
    return found
