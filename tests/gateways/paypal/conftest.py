"""The PayPal gateway on its offline twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from paidonce.gateways.paypal import provider
from paidonce.gateways.paypal.sandbox import PayPalSandbox
from support.paypal import HOME, Line, Shop, VirtualClock


@pytest.fixture
def make_shop() -> Callable[..., Shop]:
    """Builds a shop; `unique_invoices` is the PayPal account's setting of that name."""

    def make(*, unique_invoices: bool = False, **settings: str) -> Shop:
        clock = VirtualClock()
        twin = PayPalSandbox(HOME + "/paypal", unique_invoices=unique_invoices)
        line = Line(twin, clock)
        environment = {**provider.sandbox_environment(HOME), **settings}
        gateway = provider.configure(environment, line, clock)
        assert gateway is not None
        return Shop(gateway, line, twin, clock)

    return make


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """The gateway on the offline PayPal."""
    return make_shop()
