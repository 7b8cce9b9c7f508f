"""Bank transfer: the buyer sends money to the shop's account, and staff enter it when it has arrived. No API at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paidonce.gateways.bank_transfer.settings import NAMES, SANDBOX_IBAN, read_settings

if TYPE_CHECKING:
    from paidonce.gateways.bank_transfer.gateway import BankTransferGateway
    from paidonce.gateways.base import SandboxCore, Transport
    from paidonce.ports import Clock


class BankTransferProvider:
    """`base.Provider` for transfers to the shop's own account."""

    name = "bank_transfer"
    settings = NAMES

    def configure(
        self, environment: Mapping[str, str], transport: Transport, clock: Clock
    ) -> BankTransferGateway | None:
        """The gateway, or None without an account. Raises `ConfigError` naming each wrong setting and the fix."""
        settings = read_settings(environment)
        if settings is None:
            return None
        from paidonce.gateways.bank_transfer.gateway import BankTransferGateway

        del transport  # There is nobody to call.
        return BankTransferGateway(settings, clock)

    def sandbox(self, public_url: str) -> SandboxCore | None:
        """None: there is no counterpart that a twin could stand in for."""
        del public_url
        return None

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        """An account in a country that does not exist, so that nobody can send real money there."""
        del public_url
        return {
            "BANK_TRANSFER_IBAN": SANDBOX_IBAN,
            "BANK_TRANSFER_HOLDER": "Offline Sandbox",
            "BANK_TRANSFER_BANK": "A bank that does not exist",
        }


provider = BankTransferProvider()
