"""What the contract tests need to know of AcmePay: how buyers and the dashboard act on the twin, and what to try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode

from acme_pay import SANDBOX_WEBHOOK_SECRET, webhook, wire
from paidonce.gateways.base import HttpRequest, HttpResponse, Opened, SandboxCore
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
    # The twin's webhook secret, which everybody knows, with a live key.
    {"ACME_PAY_KEY": "acme_live_canary", "ACME_PAY_API_BASE": ""},
    {"ACME_PAY_API_BASE": "http://acme-pay.example"},
    {"ACME_PAY_API_BASE": "https://user:canary@acme-pay.example"},
    {"ACME_PAY_WEBHOOK_SECRET": ""},
    {"ACME_PAY_WEBHOOK_SECRET": "canary"},
)
webhook_setting = ("ACME_PAY_WEBHOOK_SECRET", "acme_whsec_of_another_endpoint")
foreign_marks = ((b'"live": false', b'"live": true'), (b'"mer_sandbox"', b'"mer_of_somebody_else"'))


def dashboard_refund(core: SandboxCore, opened: Opened, amount: Money, *, now: int) -> None:
    """Staff refund at AcmePay's dashboard."""
    params = {"ref": opened.snapshot.ref, "amount": str(wire.units(amount))}
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
    """AcmePay has no disputes."""
    del core, opened, amount, now
    return None


def close_dispute(core: SandboxCore, dispute_ref: str, *, won: bool, now: int) -> None:
    """Never called, since none is ever opened."""
    raise NotImplementedError


def sign(core: SandboxCore, like: HttpRequest, body: bytes) -> HttpRequest:
    """A webhook with another body, signed as AcmePay signs."""
    del core
    signature = webhook.signature(SANDBOX_WEBHOOK_SECRET, like.headers[webhook.TIMESTAMP], body)
    return replace(like, headers={**like.headers, webhook.SIGNATURE: signature}, body=body)
