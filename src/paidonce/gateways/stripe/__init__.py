"""Stripe: PaymentIntents, confirmed in the browser by the Payment Element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from paidonce.gateways.stripe.settings import NAMES, SANDBOX_WEBHOOK_SECRET, read_settings

if TYPE_CHECKING:
    from paidonce.gateways.base import SandboxCore, Transport
    from paidonce.gateways.stripe.gateway import StripeGateway
    from paidonce.ports import Clock


class StripeProvider:
    """`base.Provider` for Stripe. Imports the SDK only once keys are there."""

    name = "stripe"
    settings = NAMES
    secret_settings = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET")
    # Keys, and the client secrets of its objects (pi_…_secret_…, cs_test_…_secret_…).
    secret_shapes = (
        r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9_]+",
        r"[a-z]{2,8}_(?:(?:test|live)_)?[A-Za-z0-9]+_secret_[A-Za-z0-9_]+",
    )

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> StripeGateway | None:
        """The gateway, or None without keys. Raises `ConfigError` naming each wrong setting and the fix."""
        settings = read_settings(environment)
        if settings is None:
            return None
        from paidonce.gateways.stripe.gateway import StripeGateway

        return StripeGateway(settings, transport, clock)

    def sandbox(self, public_url: str) -> SandboxCore | None:
        """The offline twin, mounted at `<public_url>/stripe`."""
        from paidonce.gateways.stripe.sandbox import StripeSandbox

        return StripeSandbox(f"{public_url.rstrip('/')}/stripe")

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        """Keys and a signing secret that only the twin uses, and its addresses."""
        base = f"{public_url.rstrip('/')}/stripe"
        return {
            "STRIPE_SECRET_KEY": "sk_test_sandbox",
            "STRIPE_PUBLISHABLE_KEY": "pk_test_sandbox",
            "STRIPE_WEBHOOK_SECRET": SANDBOX_WEBHOOK_SECRET,
            "STRIPE_API_BASE": base,
            "STRIPE_JS_URL": f"{base}/js/v3",
        }


provider = StripeProvider()
