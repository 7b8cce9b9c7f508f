"""What the contract suite needs to know of PayPal: how a buyer acts on the approval page, what its website and the
banks do, and what to try.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from paidonce.gateways.base import HttpRequest, Opened
from paidonce.gateways.paypal.sandbox import WEBHOOK_ID, keys
from paidonce.gateways.paypal.wire import money_to_wire
from paidonce.money import Money

if TYPE_CHECKING:
    from paidonce.contract.bench import Bench

amounts = (Money(1999, "EUR"), Money(1, "USD"), Money(500, "JPY"), Money(123400, "HUF"))
# No fraction of a forint, and no currency that PayPal doesn't know.
refused_amounts = (Money(123450, "HUF"), Money(1230, "KWD"), Money(100, "XTS"))
contradictions = (
    {"PAYPAL_ENVIRONMENT": "live"},
    {"PAYPAL_ENVIRONMENT": "canary"},
    {"PAYPAL_API_BASE": "http://paypal.example"},
    {"PAYPAL_API_BASE": "https://user:canary@paypal.example"},
    {"PAYPAL_MERCHANT_ID": "canary@merchant.example"},
    {"PAYPAL_WEBHOOK_ID": "canary|webhook"},
    {"PAYPAL_WEBHOOK_ID": "https://shop.example/webhooks/canary"},
)
key_header = "paypal-request-id"
webhook_setting = ("PAYPAL_WEBHOOK_ID", "ANOTHER-WEBHOOK-1")
# PayPal signs the webhook's id along, which belongs to one app in one mode, so there are no `foreign_marks`.


async def confirm(bench: Bench, opened: Opened) -> None:
    """Approve with a balance that suffices."""
    _approve(bench, opened, "balance")


async def decline(bench: Bench, opened: Opened) -> None:
    """Approve with a card that PayPal will decline at the capture."""
    _approve(bench, opened, "declined")


def _approve(bench: Bench, opened: Opened, funding: str) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    body = urlencode({"token": opened.client["order_id"], "funding": funding}).encode()
    bench.browse(HttpRequest("POST", "/checkoutnow/approve", headers, body))


async def dashboard_refund(bench: Bench, opened: Opened, amount: Money) -> None:
    """Staff refund at PayPal's dashboard."""
    bench.control("dashboard_refund", {"order": opened.snapshot.ref, "amount": money_to_wire(amount)["value"]})


async def pend_next_refund(bench: Bench) -> None:
    """The next refund waits."""
    bench.control("pend_refunds", {"on": "true"})


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
    bench.control("expire_authorization", {"order": opened.snapshot.ref})


async def open_dispute(bench: Bench, opened: Opened, amount: Money) -> str:
    """The buyer disputes `amount`."""
    params = {"order": opened.snapshot.ref, "amount": money_to_wire(amount)["value"]}
    return bench.control("open_dispute", params)["dispute"]


async def close_dispute(bench: Bench, opened: Opened, dispute_ref: str, *, won: bool) -> None:
    """It is decided."""
    del opened
    bench.control("close_dispute", {"dispute": dispute_ref, "outcome": "won" if won else "lost"})


def sign(bench: Bench, like: HttpRequest, body: bytes) -> HttpRequest:
    """A webhook with another body, signed with the twin's own key."""
    transmission = [like.headers["paypal-transmission-id"], like.headers["paypal-transmission-time"]]
    text = "|".join([*transmission, WEBHOOK_ID, str(zlib.crc32(body))]).encode()
    signature = keys.sign(json.loads(bench.twin.dump())["keys"]["key"], text)
    return replace(like, headers={**like.headers, "paypal-transmission-sig": signature}, body=body)
