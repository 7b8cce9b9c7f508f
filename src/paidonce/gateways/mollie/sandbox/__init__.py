"""The offline twin of Mollie: payments, captures, refunds, chargebacks, unsigned webhooks, and the hosted checkout."""

from paidonce.gateways.mollie.sandbox.core import MollieSandbox
from paidonce.gateways.mollie.sandbox.state import (
    BANK_TRANSFER_SECONDS,
    KEY_SECONDS,
    OPEN_SECONDS,
    PROFILE_ID,
    RESERVED_SECONDS,
)

__all__ = [
    "BANK_TRANSFER_SECONDS",
    "KEY_SECONDS",
    "OPEN_SECONDS",
    "PROFILE_ID",
    "RESERVED_SECONDS",
    "MollieSandbox",
]
