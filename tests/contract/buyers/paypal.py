"""How a buyer acts on the offline PayPal, on its approval page, and what its website and the banks do there."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode

from paidonce.gateways.base import HttpRequest, HttpResponse, Opened, SandboxCore
from paidonce.gateways.paypal.sandbox import WEBHOOK_ID, keys
from paidonce.gateways.paypal.wire import money_to_wire
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
    {"PAYPAL_WEBHOOK_ID": "canary|webhook"},
    {"PAYPAL_WEBHOOK_ID": "https://shop.example/webhooks/canary"},
)
webhook_setting = ("PAYPAL_WEBHOOK_ID", "ANOTHER-WEBHOOK-1")
# PayPal signs the webhook's id along, which belongs to one app in one mode.
foreign_marks = ()


def dashboard_refund(core: SandboxCore, opened: Opened, amount: Money, *, now: int) -> None:
    """Staff refund at PayPal's dashboard."""
    params = {"order": opened.snapshot.ref, "amount": money_to_wire(amount)["value"]}
    core.control("dashboard_refund", params, now=now)


def pend_next_refund(core: SandboxCore, *, now: int) -> None:
    """The next refund waits."""
    core.control("pend_refunds", {"on": "true"}, now=now)


def finish_refund(core: SandboxCore, refund_ref: str, *, now: int) -> None:
    """A pending refund succeeds."""
    core.control("finish_refund", {"refund": refund_ref}, now=now)


def fail_refund(core: SandboxCore, refund_ref: str, *, now: int) -> None:
    """A refund fails."""
    core.control("fail_refund", {"refund": refund_ref}, now=now)


def expire_authorization(core: SandboxCore, opened: Opened, *, now: int) -> None:
    """Reserved money is let go."""
    core.control("expire_authorization", {"order": opened.snapshot.ref}, now=now)


def open_dispute(core: SandboxCore, opened: Opened, amount: Money, *, now: int) -> str | None:
    """The buyer disputes `amount`."""
    params = {"order": opened.snapshot.ref, "amount": money_to_wire(amount)["value"]}
    return core.control("open_dispute", params, now=now)["dispute"]


def close_dispute(core: SandboxCore, dispute_ref: str, *, won: bool, now: int) -> None:
    """It is decided."""
    core.control("close_dispute", {"dispute": dispute_ref, "outcome": "won" if won else "lost"}, now=now)


def sign(core: SandboxCore, like: HttpRequest, body: bytes) -> HttpRequest:
    """A webhook with another body, signed with the twin's own key."""
    transmission = [like.headers["paypal-transmission-id"], like.headers["paypal-transmission-time"]]
    text = "|".join([*transmission, WEBHOOK_ID, str(zlib.crc32(body))]).encode()
    signature = keys.sign(json.loads(core.dump())["keys"]["key"], text)
    return replace(like, headers={**like.headers, "paypal-transmission-sig": signature}, body=body)
