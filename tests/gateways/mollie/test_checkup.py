"""What the doctor hears of the profile."""

from __future__ import annotations

import pytest

from paidonce.errors import GatewayMisconfigured
from paidonce.gateways.base import Checkup, Finding, Health, Needs
from paidonce.gateways.mollie import provider
from paidonce.gateways.mollie.sandbox import MollieSandbox
from paidonce.gateways.mollie.settings import SANDBOX_KEY
from paidonce.sandbox.app import SandboxTransport
from support.shop import SANDBOX_URL, ShiftedClock

HERE = Needs("http://127.0.0.1:8000/webhooks/mollie", reachable=False, currencies=("EUR", "USD"))


async def checked(twin: MollieSandbox, needs: Needs = HERE, **changes: str) -> dict[str, list[Finding]]:
    """The findings by their names, from a twin on this machine."""
    clock = ShiftedClock()
    environment = {**provider.sandbox_environment(SANDBOX_URL), **changes}
    gateway = provider.configure(environment, SandboxTransport({"mollie": twin}, clock, SANDBOX_URL), clock)
    assert isinstance(gateway, Checkup)
    found: dict[str, list[Finding]] = {}
    for one in await gateway.checkup(needs):
        assert one.health is Health.GREEN or one.fix
        found.setdefault(one.check, []).append(one)
    return found


@pytest.fixture
def twin() -> MollieSandbox:
    return MollieSandbox(f"{SANDBOX_URL}/mollie")


async def test_all_is_green_with_the_methods_of_each_currency(twin: MollieSandbox) -> None:
    found = await checked(twin)
    assert {one.health for each in found.values() for one in each} == {Health.GREEN}
    # The twin's bank transfer is for EUR alone.
    assert [one.text.rpartition(" ")[2] for one in found["methods"]] == ["2.", "1."]
    assert "account" not in found


async def test_a_profile_without_methods_or_that_is_blocked_is_red(twin: MollieSandbox) -> None:
    twin.control("switch_methods_off", {}, now=0)
    twin.control("block_profile", {}, now=0)
    found = await checked(twin)
    assert {one.health for one in found["methods"]} == {found["account"][0].health} == {Health.RED}
    assert "blocked" in found["account"][0].text


async def test_a_currency_that_mollie_does_not_express_is_left_to_the_core(twin: MollieSandbox) -> None:
    found = await checked(twin, Needs(HERE.webhook_url, reachable=False, currencies=("KWD",)))
    assert [one.health for one in found.get("methods", [])] in ([], [Health.GREEN])


async def test_a_wrong_key_is_no_finding_but_an_error(twin: MollieSandbox) -> None:
    with pytest.raises(GatewayMisconfigured, match="MOLLIE_API_KEY"):
        await checked(twin, MOLLIE_API_KEY=SANDBOX_KEY.replace("offline", "another"))
