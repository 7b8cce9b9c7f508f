"""Mollie: a payment at its hosted checkout, where the browser moves the money and we read what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paidonce.gateways.mollie.settings import NAMES, SANDBOX_KEY, read_settings

if TYPE_CHECKING:
    from paidonce.gateways.base import SandboxCore, Transport
    from paidonce.gateways.mollie.gateway import MollieGateway
    from paidonce.ports import Clock


class MollieProvider:
    """`base.Provider` for Mollie. Importing it loads neither the client nor the offline twin."""

    name = "mollie"
    settings = NAMES
    secret_settings = ("MOLLIE_API_KEY",)
    secret_shapes = (r"(?:live|test|access)_[A-Za-z0-9]{20,}(?![A-Za-z0-9_])",)

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> MollieGateway | None:
        """The gateway, or None without a key. Raises `ConfigError` naming each wrong setting and its fix."""
        settings = read_settings(environment)
        if settings is None:
            return None
        from paidonce.gateways.mollie.client import MollieClient
        from paidonce.gateways.mollie.gateway import MollieGateway

        client = MollieClient(transport, clock, base_url=settings.api_base, api_key=settings.api_key)
        return MollieGateway(settings, client, clock)

    def sandbox(self, public_url: str) -> SandboxCore:
        """The offline twin, mounted at `<public_url>/mollie`."""
        from paidonce.gateways.mollie.sandbox import MollieSandbox

        return MollieSandbox(f"{public_url.rstrip('/')}/mollie")

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        """A key that only the twin takes, and the twin's address."""
        return {"MOLLIE_API_KEY": SANDBOX_KEY, "MOLLIE_API_BASE": f"{public_url.rstrip('/')}/mollie"}


provider = MollieProvider()
