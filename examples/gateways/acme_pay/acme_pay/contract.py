"""What the contract tests need to know of AcmePay: how a buyer acts on the twin, and amounts to try."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from paidonce.gateways.base import HttpRequest, HttpResponse, Opened
from paidonce.money import Money

Browse = Callable[[HttpRequest], HttpResponse]


class Buyer:
    """Presses the buttons of the approval page."""

    def confirm(self, browse: Browse, opened: Opened) -> None:
        """Approve with an account that has money."""
        self._press(browse, opened, "account")

    def decline(self, browse: Browse, opened: Opened) -> None:
        """Approve with an account that is empty, which shows at the capture."""
        self._press(browse, opened, "empty_account")

    def _press(self, browse: Browse, opened: Opened, choice: str) -> None:
        page = "/approve/" + opened.client["approve_url"].rpartition("/")[2]
        headers = {"content-type": "application/x-www-form-urlencoded"}
        browse(HttpRequest("POST", page, headers, urlencode({"choice": choice}).encode()))


buyer = Buyer()
amounts = (Money(1999, "EUR"), Money(1, "USD"), Money(500, "JPY"), Money(123400, "HUF"))
# No fraction of a forint, no currency that AcmePay doesn't know, no amount above its limit.
refused_amounts = (Money(123450, "HUF"), Money(1000, "KWD"), Money(10_000_000_000, "EUR"))
contradictions = (
    {"ACME_PAY_KEY": "acme_live_canary"},
    {"ACME_PAY_API_BASE": "http://acme-pay.example"},
    {"ACME_PAY_API_BASE": "https://user:canary@acme-pay.example"},
)
