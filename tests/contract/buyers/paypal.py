"""How a buyer acts on the offline PayPal: on its approval page."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from paidonce.gateways.base import HttpRequest, HttpResponse, Opened
from paidonce.money import Money

Browse = Callable[[HttpRequest], HttpResponse]


class Buyer:
    """Chooses a funding source and approves."""

    def confirm(self, browse: Browse, opened: Opened) -> None:
        """Approve with a balance that suffices."""
        self._approve(browse, opened, "balance")

    def decline(self, browse: Browse, opened: Opened) -> None:
        """Approve with a card that PayPal will decline at the capture."""
        self._approve(browse, opened, "declined")

    def _approve(self, browse: Browse, opened: Opened, funding: str) -> None:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        body = urlencode({"token": opened.client["order_id"], "funding": funding}).encode()
        browse(HttpRequest("POST", "/checkoutnow/approve", headers, body))


buyer = Buyer()
amounts = (Money(1999, "EUR"), Money(1, "USD"), Money(500, "JPY"), Money(123400, "HUF"))
# No fraction of a forint, and no currency that PayPal doesn't know.
refused_amounts = (Money(123450, "HUF"), Money(1230, "KWD"), Money(100, "XTS"))
contradictions = (
    {"PAYPAL_ENVIRONMENT": "live"},
    {"PAYPAL_ENVIRONMENT": "canary"},
    {"PAYPAL_API_BASE": "http://paypal.example"},
    {"PAYPAL_API_BASE": "https://user:canary@paypal.example"},
    {"PAYPAL_MERCHANT_ID": "canary@merchant.example"},
)
