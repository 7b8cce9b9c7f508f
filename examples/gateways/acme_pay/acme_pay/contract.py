"""What the contract suite needs to know of AcmePay: how buyers and the dashboard act on the twin, and what to try."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from acme_pay import SANDBOX_WEBHOOK_SECRET, webhook, wire
from paidonce.gateways.base import HttpRequest, Opened
from paidonce.money import Money

if TYPE_CHECKING:
    from paidonce.contract.bench import Bench

amounts = (Money(1999, "EUR"), Money(1, "USD"), Money(500, "JPY"), Money(123400, "HUF"))
# No fraction of a forint, no currency that AcmePay doesn't know, no amount above its limit.
refused_amounts = (Money(123450, "HUF"), Money(1000, "KWD"), Money(10_000_000_000, "EUR"))
contradictions = (
    {"ACME_PAY_KEY": "acme_live_canary"},
    # The twin's webhook secret, which everybody knows, with a live key.
    {"ACME_PAY_KEY": "acme_live_canary", "ACME_PAY_API_BASE": ""},
    {"ACME_PAY_API_BASE": "http://acme-pay.example"},
    {"ACME_PAY_API_BASE": "https://user:canary@acme-pay.example"},
    {"ACME_PAY_WEBHOOK_SECRET": ""},
    {"ACME_PAY_WEBHOOK_SECRET": "canary"},
)
webhook_setting = ("ACME_PAY_WEBHOOK_SECRET", "acme_whsec_of_another_endpoint")
foreign_marks = ((b'"live": false', b'"live": true'), (b'"mer_sandbox"', b'"mer_of_somebody_else"'))
without = {"dispute": "AcmePay settles quarrels between buyers and shops by refunds alone"}


async def confirm(bench: Bench, opened: Opened) -> None:
    """Approve with an account that has money."""
    _press(bench, opened, "account")


async def decline(bench: Bench, opened: Opened) -> None:
    """Approve with an account that is empty, which shows at the capture."""
    _press(bench, opened, "empty_account")


def _press(bench: Bench, opened: Opened, choice: str) -> None:
    """Press a button of the approval page."""
    page = "/approve/" + opened.client["approve_url"].rpartition("/")[2]
    headers = {"content-type": "application/x-www-form-urlencoded"}
    bench.browse(HttpRequest("POST", page, headers, urlencode({"choice": choice}).encode()))


async def dashboard_refund(bench: Bench, opened: Opened, amount: Money) -> None:
    """Staff refund at AcmePay's dashboard."""
    bench.control("dashboard_refund", {"ref": opened.snapshot.ref, "amount": str(wire.units(amount))})


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


def sign(bench: Bench, like: HttpRequest, body: bytes) -> HttpRequest:
    """A webhook with another body, signed as AcmePay signs."""
    del bench
    signature = webhook.signature(SANDBOX_WEBHOOK_SECRET, like.headers[webhook.TIMESTAMP], body)
    return replace(like, headers={**like.headers, webhook.SIGNATURE: signature}, body=body)
