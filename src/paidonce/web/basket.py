"""The basket, kept in a signed cookie: SKUs and quantities, never prices. It needs neither an account nor a script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.responses import Response

from paidonce.money import Money
from paidonce.store import LARGEST_QUANTITY, Product
from paidonce.web import auth
from paidonce.web.shop import Shop, shop_of

COOKIE = "paidonce_basket"
_DAYS = 30
# A cookie holds 4 KiB; this many lines with long SKUs fit.
MOST_PRODUCTS = 30

Basket = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Line:
    """One product in the basket at today's price."""

    product: Product
    quantity: int

    @property
    def total(self) -> Money:
        """Price times quantity."""
        return Money(self.product.price.minor * self.quantity, self.product.price.currency)

    @property
    def is_short(self) -> bool:
        """Whether fewer are available than wanted."""
        return self.product.available < self.quantity


def read(connection: HTTPConnection) -> dict[str, int]:
    """The basket that the browser sent; empty if there is none or it was tampered with."""
    kept = connection.cookies.get(COOKIE)
    value = shop_of(connection).unsign("basket", kept) if kept and len(kept) < 4096 else None
    if not isinstance(value, dict):
        return {}
    return {str(sku): quantity for sku, quantity in value.items() if type(quantity) is int and quantity > 0}


def write(shop: Shop, response: Response, basket: Basket) -> None:
    """Keep the basket in the browser."""
    if not basket:
        auth.drop_cookie(shop, response, COOKIE)
        return
    auth.set_cookie(shop, response, COOKIE, shop.sign("basket", dict(basket)), max_age=_DAYS * 24 * 3600)


def change(basket: Basket, sku: str, quantity: int) -> dict[str, int]:
    """The basket with `quantity` pieces of `sku`; zero takes it out."""
    changed = {**basket, sku: min(max(quantity, 0), LARGEST_QUANTITY)}
    kept = {each: pieces for each, pieces in changed.items() if pieces}
    return dict(list(kept.items())[:MOST_PRODUCTS])


def count(basket: Basket) -> int:
    """How many pieces it holds."""
    return sum(basket.values())


def lines(basket: Basket, products: list[Product]) -> list[Line]:
    """The basket's lines at today's prices; what is no longer in the catalogue falls away."""
    return [Line(product, basket[product.sku]) for product in products if product.sku in basket]


def total(basket_lines: list[Line]) -> Money | None:
    """What it costs; None for an empty basket."""
    if not basket_lines:
        return None
    first, *rest = (line.total for line in basket_lines)
    return sum(rest, first)
