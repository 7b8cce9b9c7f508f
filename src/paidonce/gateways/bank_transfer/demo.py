"""What a buyer and staff do about a bank transfer, without a browser: for `paidonce demo --once`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paidonce.gateways.bank_transfer import ledger
from paidonce.gateways.base import Transport

# A bank that refuses a transfer tells the shop nothing.
declines = False


def tries(*, offline: bool) -> tuple[tuple[str, str], ...]:
    """What a person can try."""
    del offline
    return (("Pay by bank transfer", "shows an account; as staff, enter the money on the order's page"),)


async def act_as_buyer(
    transport: Transport,
    environment: Mapping[str, str],
    client: Mapping[str, str],
    *,
    return_url: str,
    decline: bool,
    offline: bool,
) -> str | None:
    """Nothing: that the buyer means to pay is said by completing, and the money travels outside."""
    del transport, environment, client, return_url, decline, offline
    return None


def staff_entry(sheet: Mapping[str, Any], *, amount_minor: int) -> tuple[str, Mapping[str, Any]]:
    """What staff enter once the money is on the account: the action, and what is sent with it."""
    return ledger.RECEIVED, {"seen": sheet["seen"], "params": {"amount": amount_minor}}
