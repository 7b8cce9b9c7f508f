"""What the doctor hears of the app; the twin's list of webhooks is as PayPal describes it."""

from __future__ import annotations

import json

import pytest

from paidonce.errors import GatewayMisconfigured
from paidonce.gateways.base import Checkup, Finding, Health, HttpRequest, HttpResponse, Needs
from paidonce.gateways.paypal import provider
from paidonce.gateways.paypal.sandbox import PayPalSandbox
from paidonce.sandbox.app import SandboxTransport
from support.shop import SANDBOX_URL, ShiftedClock

from .test_specs import SPECS, Spec

SHOP = "https://shop.example"
NEEDS = Needs(f"{SHOP}/webhooks/paypal", reachable=True, currencies=("EUR",))


class Watched(SandboxTransport):
    """Keeps what was answered."""

    answers: dict[str, HttpResponse]

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        answer = await super().send(request, deadline_seconds=deadline_seconds)
        self.__dict__.setdefault("answers", {})[request.url] = answer
        return answer


def transport(**permissions: bool) -> Watched:
    twin = PayPalSandbox(f"{SANDBOX_URL}/paypal", **permissions)
    twin.deliver_to(SHOP)
    return Watched({"paypal": twin}, ShiftedClock(), SANDBOX_URL)


async def checked(over: Watched, **changes: str) -> dict[str, Finding]:
    environment = {**provider.sandbox_environment(SANDBOX_URL), **changes}
    gateway = provider.configure(environment, over, ShiftedClock())
    assert isinstance(gateway, Checkup)
    return {one.check: one for one in await gateway.checkup(NEEDS)}


async def test_all_is_green_where_the_webhook_is_ours_and_complete() -> None:
    found = await checked(transport())
    assert {name: one.health for name, one in found.items()} == dict.fromkeys(
        ("disputes", "webhook.endpoint", "webhook.events"), Health.GREEN
    )


async def test_an_app_that_may_not_read_disputes_is_yellow() -> None:
    found = await checked(transport(disputes_permitted=False))
    assert found["disputes"].health is Health.YELLOW
    assert "Customer disputes" in found["disputes"].fix


async def test_another_webhooks_id_is_red() -> None:
    found = await checked(transport(), PAYPAL_WEBHOOK_ID="WH-ANOTHER")
    assert found["webhook.endpoint"].health is Health.RED
    assert NEEDS.webhook_url in found["webhook.endpoint"].fix


async def test_wrong_keys_are_no_finding_but_an_error() -> None:
    with pytest.raises(GatewayMisconfigured, match="PAYPAL_CLIENT_SECRET"):
        await checked(transport(), PAYPAL_CLIENT_SECRET="another-secret-of-a-client")


@pytest.mark.skipif(not SPECS.is_dir(), reason="PayPal's OpenAPI files are not at ../shared/specs/paypal")
async def test_the_twins_list_is_as_paypal_describes_it() -> None:
    over = transport()
    await checked(over)
    (answer,) = [one for url, one in over.answers.items() if url.endswith("/v1/notifications/webhooks")]
    spec = Spec("notifications_webhooks_v1")
    schema = spec.schema("/v1/notifications/webhooks", "get", 200)
    body = json.loads(answer.body)
    assert body["webhooks"]
    assert spec.errors(schema, body) == []
