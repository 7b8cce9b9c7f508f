"""What the contract suite needs to know of Stripe: how a buyer acts on the twin, as Stripe.js does with the client
secret, what its dashboard and the banks do there, and what to try.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from paidonce.gateways.base import HttpRequest, Opened
from paidonce.gateways.stripe.settings import SANDBOX_WEBHOOK_SECRET
from paidonce.gateways.stripe.wire import to_stripe
from paidonce.money import Money

if TYPE_CHECKING:
    from paidonce.contract.bench import Bench

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


async def confirm(bench: Bench, opened: Opened) -> None:
    """Pay with a card that works."""
    _confirm(bench, opened, "4242424242424242")


async def decline(bench: Bench, opened: Opened) -> None:
    """Pay with a card that has no money."""
    _confirm(bench, opened, "4000000000009995")


def _confirm(bench: Bench, opened: Opened, number: str) -> None:
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
    bench.browse(HttpRequest("POST", path, headers, urlencode(form).encode()))


async def dashboard_refund(bench: Bench, opened: Opened, amount: Money) -> None:
    """Staff refund at Stripe's dashboard."""
    bench.control("dashboard_refund", {"ref": opened.snapshot.ref, "amount": str(to_stripe(amount))})


async def pend_next_refund(bench: Bench) -> None:
    """The next refund waits."""
    bench.control("pend_next_refund", {})


async def finish_refund(bench: Bench, opened: Opened, refund_ref: str) -> None:
    """A pending refund succeeds."""
    del opened
    bench.control("finish_refund", {"refund": refund_ref})


async def fail_refund(bench: Bench, opened: Opened, refund_ref: str) -> None:
    """A refund fails."""
    del opened
    bench.control("fail_refund", {"refund": refund_ref})


async def expire_authorization(bench: Bench, opened: Opened) -> None:
    """Reserved money is let go."""
    bench.control("expire_authorization", {"ref": opened.snapshot.ref})


async def open_dispute(bench: Bench, opened: Opened, amount: Money) -> str:
    """The buyer disputes `amount`."""
    params = {"ref": opened.snapshot.ref, "amount": str(to_stripe(amount))}
    return bench.control("open_dispute", params)["dispute"]


async def close_dispute(bench: Bench, opened: Opened, dispute_ref: str, *, won: bool) -> None:
    """It is decided."""
    del opened
    bench.control("close_dispute", {"dispute": dispute_ref, "outcome": "won" if won else "lost"})


def sign(bench: Bench, like: HttpRequest, body: bytes) -> HttpRequest:
    """A webhook with another body, signed as Stripe signs."""
    del bench
    stamp = like.headers["stripe-signature"].partition(",")[0]
    signed = stamp.removeprefix("t=").encode() + b"." + body
    signature = hmac.new(SANDBOX_WEBHOOK_SECRET.encode(), signed, "sha256").hexdigest()
    return replace(like, headers={**like.headers, "stripe-signature": f"{stamp},v1={signature}"}, body=body)
