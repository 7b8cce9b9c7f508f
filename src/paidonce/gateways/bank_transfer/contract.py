"""What the contract suite has to know of bank transfers: they have no twin, so the hooks act as the shop's staff."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paidonce.gateways.bank_transfer import ledger
from paidonce.gateways.bank_transfer.gateway import BankTransferGateway
from paidonce.gateways.base import Opened
from paidonce.money import Money

if TYPE_CHECKING:
    from paidonce.contract.bench import Bench

_STAFF = "usr_staff"
_NOBODY = "nobody but the shop's staff knows of the money, and they enter what has happened"

amounts = (Money(1999, "EUR"),)
refused_amounts = (Money(1999, "USD"), Money(1, "JPY"))
contradictions: tuple[Mapping[str, str], ...] = (
    {"BANK_TRANSFER_IBAN": "XX37SANDBOX000000000"},
    {"BANK_TRANSFER_IBAN": ""},
    {"BANK_TRANSFER_HOLDER": ""},
    {"BANK_TRANSFER_BIC": "canary"},
    {"BANK_TRANSFER_CURRENCIES": "EUR,canary"},
    {"BANK_TRANSFER_DAYS": "canary"},
    {"BANK_TRANSFER_DAYS": "0"},
)
webhooks = "none"
without: Mapping[str, str] = {
    "manual": "nobody can reserve money on somebody else's account",
    "decline": "a bank that refuses its customer's transfer tells the shop nothing: the money just does not come",
    "second_try": "there is no decline",
    "fee": "the bank's fees stand on its statement",
    "secrets": "there are no keys, and an account that buyers are to pay to is no secret",
    "instant_refund": "staff carry it out at their bank",
    "dashboard_refund": f"{_NOBODY}, so a refund begins here",
    "dispute": "a transfer can't be taken back",
    "dispute_won": "a transfer can't be taken back",
    "dispute_lost": "a transfer can't be taken back",
}


async def _enter(bench: Bench, ref: str, name: str, params: Mapping[str, str | int]) -> None:
    gateway = bench.gateway
    assert isinstance(gateway, BankTransferGateway)
    sheet = await gateway.staff_sheet(ref)
    await gateway.act(ref, name, params, seen=sheet.seen, key=bench.new_key(), by=_STAFF)


async def confirm(bench: Bench, opened: Opened) -> None:
    """All the money arrives."""
    amount = opened.snapshot.amount.minor
    await _enter(bench, opened.snapshot.ref, ledger.RECEIVED, {"amount": amount, "remark": bench.new_key()})


async def finish_refund(bench: Bench, opened: Opened, refund_ref: str) -> None:
    """Staff have sent it."""
    await _enter(bench, opened.snapshot.ref, ledger.REFUND_SENT, {"refund": _ours(opened, refund_ref)})


async def fail_refund(bench: Bench, opened: Opened, refund_ref: str) -> None:
    """Staff could not send it, or the bank gave it back."""
    params = {"refund": _ours(opened, refund_ref), "reason": "the account is closed"}
    await _enter(bench, opened.snapshot.ref, ledger.REFUND_FAILED, params)


def _ours(opened: Opened, refund_ref: str) -> str:
    return refund_ref.removeprefix(f"{opened.snapshot.ref}-")
