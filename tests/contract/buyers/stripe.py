"""How a buyer acts on the offline Stripe: as Stripe.js does, with the publishable key and the client secret.

And what its dashboard and the banks do there.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode

from paidonce.gateways.base import HttpRequest, HttpResponse, Opened, SandboxCore
from paidonce.gateways.stripe.settings import SANDBOX_WEBHOOK_SECRET
from paidonce.gateways.stripe.wire import to_stripe
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
webhook_setting = ("STRIPE_WEBHOOK_SECRET", "whsec_of_another_endpoint")
foreign_marks = (
    (b'"livemode": false', b'"livemode": true'),
    (b'"object": "event"', b'"object": "event", "account": "acct_of_somebody_else"'),
)


def dashboard_refund(core: SandboxCore, opened: Opened, amount: Money, *, now: int) -> None:
    """Staff refund at Stripe's dashboard."""
    params = {"ref": opened.snapshot.ref, "amount": str(to_stripe(amount))}
    core.control("dashboard_refund", params, now=now)


def pend_next_refund(core: SandboxCore, *, now: int) -> None:
    """The next refund waits."""
    core.control("pend_next_refund", {}, now=now)


def finish_refund(core: SandboxCore, refund_ref: str, *, now: int) -> None:
    """A pending refund succeeds."""
    core.control("finish_refund", {"refund": refund_ref}, now=now)


def fail_refund(core: SandboxCore, refund_ref: str, *, now: int) -> None:
    """A refund fails."""
    core.control("fail_refund", {"refund": refund_ref}, now=now)


def expire_authorization(core: SandboxCore, opened: Opened, *, now: int) -> None:
    """Reserved money is let go."""
    core.control("expire_authorization", {"ref": opened.snapshot.ref}, now=now)


def open_dispute(core: SandboxCore, opened: Opened, amount: Money, *, now: int) -> str | None:
    """The buyer disputes `amount`."""
    params = {"ref": opened.snapshot.ref, "amount": str(to_stripe(amount))}
    return core.control("open_dispute", params, now=now)["dispute"]


def close_dispute(core: SandboxCore, dispute_ref: str, *, won: bool, now: int) -> None:
    """It is decided."""
    core.control("close_dispute", {"dispute": dispute_ref, "outcome": "won" if won else "lost"}, now=now)


def sign(core: SandboxCore, like: HttpRequest, body: bytes) -> HttpRequest:
    """A webhook with another body, signed as Stripe signs."""
    del core
    stamp = like.headers["stripe-signature"].partition(",")[0]
    signed = stamp.removeprefix("t=").encode() + b"." + body
    signature = hmac.new(SANDBOX_WEBHOOK_SECRET.encode(), signed, "sha256").hexdigest()
    return replace(like, headers={**like.headers, "stripe-signature": f"{stamp},v1={signature}"}, body=body)
