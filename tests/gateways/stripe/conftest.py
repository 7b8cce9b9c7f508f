"""A Stripe gateway on its offline twin, without a socket, on a clock that only moves when it is told to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest

from paidonce.errors import GatewayBusy, OutcomeUnknown
from paidonce.gateways.base import CreateRequest, HttpRequest, HttpResponse
from paidonce.gateways.stripe import provider
from paidonce.gateways.stripe.gateway import StripeGateway
from paidonce.gateways.stripe.sandbox import StripeSandbox
from paidonce.money import Money
from paidonce.ports import SECOND

PUBLIC_URL = "http://127.0.0.1:9000"
RETURN_URL = "https://shop.example/orders/ord_1/return?payment=pay_1"


class ManualClock:
    """Time that moves by sleeping only."""

    def __init__(self) -> None:
        self._now = 1_790_000_000 * SECOND
        self.slept: list[float] = []

    def now(self) -> int:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._now += int(seconds * SECOND)


Interception = Callable[[HttpRequest], HttpResponse | OutcomeUnknown | GatewayBusy | None]


@dataclass
class TwinTransport:
    """`base.Transport` straight into the twin. `intercept` may answer or fail in its place; every request is kept."""

    core: StripeSandbox
    clock: ManualClock
    requests: list[HttpRequest] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    intercept: list[Interception] = field(default_factory=list)

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        self.requests.append(request)
        self.deadlines.append(deadline_seconds)
        answer = self.intercept.pop(0)(request) if self.intercept else None
        if isinstance(answer, OutcomeUnknown | GatewayBusy):
            raise answer
        return answer or self.core.handle(request, now=self.clock.now())


@dataclass(frozen=True)
class Api:
    """A client of the twin's own HTTP face, as a browser or a foreign program would use it."""

    core: StripeSandbox
    clock: ManualClock

    def __call__(
        self,
        method: str,
        path: str,
        form: Mapping[str, Any] | None = None,
        *,
        key: str = "sk_test_sandbox",
        **headers: str,
    ) -> HttpResponse:
        text = urlencode(form or {})
        url = f"{path}?{text}" if method == "GET" and text else path
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"authorization": f"Bearer {key}", **named} if key else named
        return self.core.handle(HttpRequest(method, url, sent, text.encode()), now=self.clock.now())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def core() -> StripeSandbox:
    core = provider.sandbox(PUBLIC_URL)
    assert isinstance(core, StripeSandbox)
    return core


@pytest.fixture
def transport(core: StripeSandbox, clock: ManualClock) -> TwinTransport:
    return TwinTransport(core, clock)


@pytest.fixture
def api(core: StripeSandbox, clock: ManualClock) -> Api:
    return Api(core, clock)


@pytest.fixture
def gateway(transport: TwinTransport, clock: ManualClock) -> StripeGateway:
    gateway = provider.configure(provider.sandbox_environment(PUBLIC_URL), transport, clock)
    assert gateway is not None
    return gateway


@pytest.fixture
def create_request() -> Callable[..., CreateRequest]:
    def make(
        key: str = "key_1", *, minor: int = 1999, currency: str = "EUR", payment_id: str = "pay_1"
    ) -> CreateRequest:
        return CreateRequest(
            payment_id=payment_id,
            order_id="ord_1",
            order_number="1001",
            amount=Money(minor, currency),
            return_url=RETURN_URL,
            cancel_url="https://shop.example/orders/ord_1",
            idempotency_key=key,
        )

    return make


@pytest.fixture
def open_intent(gateway: StripeGateway, create_request: Callable[..., CreateRequest]) -> Callable[..., Awaitable[str]]:
    async def make(key: str = "key_1", **order: Any) -> str:
        return (await gateway.create(create_request(key, **order))).snapshot.ref

    return make
