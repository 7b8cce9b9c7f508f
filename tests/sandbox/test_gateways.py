"""The dials between the real clients and their twins: each fault is read as what it is, and the same key mends it."""

from __future__ import annotations

import pytest

from paidonce.errors import GatewayBusy, GatewayError, OutcomeUnknown
from paidonce.gateways.base import CaptureMethod, CreateRequest, Gateway, Provider, SandboxCore
from paidonce.gateways.registry import providers
from paidonce.money import Money
from paidonce.sandbox import Dials, Fault, Rule, SandboxTransport
from sandbox.twin import PUBLIC_URL, VirtualClock

BUSY = (Fault.TOO_MANY, Fault.IN_PROGRESS)
CALLS = [fault for fault in Fault if not fault.of_webhooks]


class Bench:
    """One gateway whose client has signed in already."""

    def __init__(self, provider: Provider) -> None:
        core = provider.sandbox(PUBLIC_URL)
        assert core is not None
        self.core: SandboxCore = core
        self.clock = VirtualClock()
        self.dials = Dials()
        wire = SandboxTransport({provider.name: core}, self.clock, PUBLIC_URL, dials=self.dials)
        gateway = provider.configure(provider.sandbox_environment(PUBLIC_URL), wire, self.clock)
        assert gateway is not None
        self.gateway: Gateway = gateway

    async def create(self, number: int) -> str:
        request = CreateRequest(
            payment_id=f"pay_{number}",
            order_id=f"ord_{number}",
            order_number=f"P-{number}",
            amount=Money(1999, "EUR"),
            return_url="https://shop.example/return",
            cancel_url="https://shop.example/cancel",
            idempotency_key=f"create-{number}",
            capture_method=CaptureMethod.AUTOMATIC,
        )
        return (await self.gateway.create(request)).snapshot.ref


# A gateway without a twin has no wire that could fail.
WITH_TWIN = [provider for provider in providers({}) if provider.sandbox(PUBLIC_URL) is not None]


@pytest.fixture(params=WITH_TWIN, ids=lambda provider: provider.name)
async def bench(request: pytest.FixtureRequest) -> Bench:
    bench = Bench(request.param)
    await bench.create(1)
    return bench


@pytest.mark.parametrize("fault", CALLS)
async def test_a_fault_that_lasts_is_busy_or_unknown_and_never_a_failure(fault: Fault, bench: Bench) -> None:
    bench.dials.add(Rule(fault, seconds=60))
    before = bench.core.dump()
    with pytest.raises(GatewayError) as caught:
        await bench.create(2)
    assert type(caught.value) is (GatewayBusy if fault in BUSY else OutcomeUnknown)
    assert bench.dials.struck[fault] >= 1
    assert (bench.core.dump() == before) is not fault.carries_out
    # The same key later: either what was made meanwhile, or a first one, and in both cases the only one.
    bench.dials.clear()
    made = await bench.create(2)
    assert await bench.create(2) == made
    assert bench.core.dump().count("pay_2") == bench.core.dump().count("pay_1") > 0


@pytest.mark.parametrize("fault", CALLS)
async def test_a_fault_that_passes_is_mended_by_the_client(fault: Fault, bench: Bench) -> None:
    bench.dials.add(Rule(fault, next=1, seconds=1))
    assert await bench.create(2)
    assert bench.dials.struck[fault] == 1
