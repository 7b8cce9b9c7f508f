"""What a buyer does at Mollie's checkout, in tests without a browser."""

from __future__ import annotations

from urllib.parse import urlencode

from paidonce import checkout
from paidonce.gateways.base import HttpRequest
from support.shop import SANDBOX_URL, Shop


def choose(shop: Shop, started: checkout.Started, choice: str) -> int:
    """The buyer chooses at the checkout that the shop led him to; the page's status."""
    path = started.client["checkout_url"].removeprefix(f"{SANDBOX_URL}/mollie")
    headers = {"content-type": "application/x-www-form-urlencoded"}
    request = HttpRequest("POST", path, headers, urlencode({"choice": choice}).encode())
    status: int = shop.twins["mollie"].handle(request, now=shop.clock.now()).status
    return status


async def paid(shop: Shop) -> tuple[str, str]:
    """An order paid at Mollie: the ids of the order and its payment."""
    order = await shop.order()
    started = await shop.start(order.id, "mollie")
    assert choose(shop, started, "card") == 303
    result = await shop.complete(started.payment.id)
    assert (str(result.payment.status), str(result.order_status)) == ("captured", "paid")
    return order.id, started.payment.id
