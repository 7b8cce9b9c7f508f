"""The twin's list of webhook endpoints is as Stripe describes it, and the checkup only reads."""

from __future__ import annotations

import pytest

from paidonce.gateways.base import Health, Needs
from paidonce.gateways.stripe.gateway import StripeGateway
from paidonce.gateways.stripe.sandbox import StripeSandbox

from .conftest import ManualClock, TwinTransport
from .test_spec import SPEC, Spec

SHOP = "https://shop.example"
NEEDS = Needs(f"{SHOP}/webhooks/stripe", reachable=True, currencies=("EUR",))


@pytest.mark.skipif(not SPEC.is_file(), reason="Stripe's OpenAPI file is not beside this checkout (../shared)")
async def test_what_is_asked_and_answered_is_in_stripes_description(
    gateway: StripeGateway, transport: TwinTransport, core: StripeSandbox, clock: ManualClock
) -> None:
    core.deliver_to(SHOP)
    found = await gateway.checkup(NEEDS)
    assert {one.health for one in found} <= {Health.GREEN, Health.YELLOW}
    spec = Spec()
    asked = [request.url.partition("?")[0].rpartition("/")[2] for request in transport.requests]
    assert asked == ["account", "webhook_endpoints"]
    for request in transport.requests:
        assert request.method == "GET"
        spec.check_answer(request, core.handle(request, now=clock.now()))
