"""How a buyer acts on the offline Stripe: as Stripe.js does, with the publishable key and the client secret."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from paidonce.gateways.base import HttpRequest, HttpResponse, Opened
from paidonce.money import Money

Browse = Callable[[HttpRequest], HttpResponse]


class Buyer:
    """Confirms the intent with a test card."""

    def confirm(self, browse: Browse, opened: Opened) -> None:
        """Pay with a card that works."""
        self._confirm(browse, opened, "4242424242424242")

    def decline(self, browse: Browse, opened: Opened) -> None:
        """Pay with a card that has no money."""
        self._confirm(browse, opened, "4000000000009995")

    def _confirm(self, browse: Browse, opened: Opened, number: str) -> None:
        form = {
            "client_secret": opened.client["client_secret"],
            "return_url": "https://shop.example/return",
            "payment_method_data[type]": "card",
            "payment_method_data[card][number]": number,
            "payment_method_data[card][exp_month]": "12",
            "payment_method_data[card][exp_year]": "2040",
            "payment_method_data[card][cvc]": "123",
        }
        headers = {
            "authorization": "Bearer " + opened.client["publishable_key"],
            "content-type": "application/x-www-form-urlencoded",
        }
        path = f"/v1/payment_intents/{opened.snapshot.ref}/confirm"
        browse(HttpRequest("POST", path, headers, urlencode(form).encode()))


buyer = Buyer()
amounts = (Money(1999, "EUR"), Money(50, "USD"), Money(500, "JPY"), Money(1230, "KWD"), Money(123400, "HUF"))
# The last digit of three decimals is 0 at Stripe, and amounts are positive everywhere.
refused_amounts = (Money(1234, "KWD"), Money(1001, "BHD"))
contradictions = (
    {"STRIPE_SECRET_KEY": "sk_live_canary"},
    {"STRIPE_PUBLISHABLE_KEY": "sk_test_canary"},
    {"STRIPE_SECRET_KEY": "sk_live_canary", "STRIPE_PUBLISHABLE_KEY": "pk_live_canary"},
    {"STRIPE_API_BASE": "http://stripe.example"},
    {"STRIPE_WEBHOOK_SECRET": ""},
    {"STRIPE_WEBHOOK_SECRET": "whsec_canary_one,"},
    {"STRIPE_WEBHOOK_SECRET": "canary"},
)
