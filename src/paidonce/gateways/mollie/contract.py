"""What the contract suite has to know of Mollie: how a buyer acts at the twin's checkout, and what Mollie lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

from paidonce.gateways.base import DisputeProgress, HttpRequest, Opened
from paidonce.gateways.mollie.wire import money_to_wire
from paidonce.money import Money

if TYPE_CHECKING:
    from paidonce.contract.bench import Bench

amounts = (Money(1999, "EUR"), Money(10, "USD"), Money(500, "JPY"), Money(123_450, "HUF"), Money(2000, "ISK"))
refused_amounts = (Money(1230, "KWD"), Money(100, "XTS"), Money(100, "CNY"))
contradictions = (
    {"MOLLIE_API_KEY": "live_canary0000000000000000000000"},
    {"MOLLIE_API_KEY": "access_canary000000000000000000"},
    {"MOLLIE_API_BASE": "http://mollie.example/canary"},
    {"MOLLIE_API_BASE": "https://user:canary@mollie.example"},
    {"MOLLIE_API_BASE": "https://canary.example/v2"},
)
webhooks: Literal["signed", "unsigned", "none"] = "unsigned"
without = {
    "second_try": "A payment that Mollie calls failed is final; declines before that stay at Mollie's own page.",
    "immediate_void": "Of open payments Mollie lets only bank transfers be canceled; the others expire.",
    "fee": "Mollie tells its fees on invoices and settlements, not on the payment.",
}
# Mollie takes the money at once and has no word for the end, so a chargeback reads as lost until it is reversed.
new_dispute = DisputeProgress.LOST


async def confirm(bench: Bench, opened: Opened) -> None:
    """Pay by card."""
    _choose(bench, opened, "card")


async def decline(bench: Bench, opened: Opened) -> None:
    """Pay by a card that has no money, at a checkout that offers no other way."""
    _choose(bench, opened, "failing")


def _choose(bench: Bench, opened: Opened, choice: str) -> None:
    path = f"/checkout/select-method/{opened.snapshot.ref.removeprefix('tr_')}"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    bench.browse(HttpRequest("POST", path, headers, urlencode({"choice": choice}).encode()))


async def expire(bench: Bench, opened: Opened) -> None:
    """The buyer lets the time pass."""
    bench.control("expire", {"payment": opened.snapshot.ref})


async def expire_authorization(bench: Bench, opened: Opened) -> None:
    """Reserved money is let go."""
    bench.control("expire", {"payment": opened.snapshot.ref})


async def dashboard_refund(bench: Bench, opened: Opened, amount: Money) -> None:
    """Staff refund at Mollie's dashboard."""
    bench.control("dashboard_refund", {"payment": opened.snapshot.ref, "amount": money_to_wire(amount)["value"]})


async def pend_next_refund(bench: Bench) -> None:
    """Refunds wait from now on."""
    bench.control("pend_refunds", {"on": "true"})


async def finish_refund(bench: Bench, opened: Opened, refund_ref: str) -> None:
    """A pending refund goes out."""
    del opened
    bench.control("finish_refund", {"refund": refund_ref})


async def fail_refund(bench: Bench, opened: Opened, refund_ref: str) -> None:
    """A refund fails."""
    del opened
    bench.control("fail_refund", {"refund": refund_ref})


async def open_dispute(bench: Bench, opened: Opened, amount: Money) -> str:
    """The buyer's bank takes `amount` back."""
    params = {"payment": opened.snapshot.ref, "amount": money_to_wire(amount)["value"]}
    return bench.control("open_dispute", params)["chargeback"]


async def close_dispute(bench: Bench, opened: Opened, dispute_ref: str, *, won: bool) -> None:
    """It is reversed; one that is not reversed stays as it is."""
    del opened
    if won:
        bench.control("reverse_dispute", {"chargeback": dispute_ref})
