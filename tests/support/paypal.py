"""The real gateway and client on the offline PayPal, with a line between them that can break in chosen places."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from paidonce.errors import GatewayError
from paidonce.gateways.base import CreateRequest, Gateway, HttpRequest, HttpResponse
from paidonce.gateways.paypal.sandbox import PayPalSandbox
from paidonce.money import Money
from paidonce.ports import SECOND

HOME = "http://127.0.0.1:9"
START = 1_790_000_000 * SECOND


class VirtualClock:
    """Time that passes only when somebody sleeps or says so."""

    def __init__(self) -> None:
        self.at = START
        self.slept: list[float] = []

    def now(self) -> int:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += int(seconds * SECOND)
        await asyncio.sleep(0)

    def pass_seconds(self, seconds: float) -> None:
        self.at += int(seconds * SECOND)


@dataclass
class Fault:
    """What happens instead of an answer. `reached`: the request was carried out, and only its answer was lost."""

    where: str
    result: HttpResponse | GatewayError
    reached: bool = False
    seconds: float = 0.0
    gate: asyncio.Event | None = None  # Until it is set, the answer is on its way.


@dataclass
class Line:
    """`base.Transport` to the sandbox in this process."""

    core: PayPalSandbox
    clock: VirtualClock
    faults: list[Fault] = field(default_factory=list)
    sent: list[HttpRequest] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    exchanges: list[tuple[HttpRequest, HttpResponse]] = field(default_factory=list)

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        self.sent.append(request)
        self.deadlines.append(deadline_seconds)
        # Other tasks run here, as they do while a real answer is on its way.
        await asyncio.sleep(0)
        fault = next((one for one in self.faults if request.url.endswith(one.where)), None)
        if fault is None:
            return self.deliver(request)
        self.faults.remove(fault)
        self.clock.pass_seconds(fault.seconds)
        if fault.gate is not None:
            await fault.gate.wait()
        if fault.reached:
            self.deliver(request)
        if isinstance(fault.result, GatewayError):
            raise fault.result
        return fault.result

    def deliver(self, request: HttpRequest) -> HttpResponse:
        path = request.url.removeprefix(HOME + "/paypal")
        response = self.core.handle(
            HttpRequest(request.method, path, request.headers, request.body), now=self.clock.now()
        )
        self.exchanges.append((request, response))
        return response

    def count(self, where: str) -> int:
        """How many requests went out whose address ends in `where`."""
        return sum(request.url.endswith(where) for request in self.sent)


@dataclass
class Shop:
    """One gateway, its line, its twin and its clock."""

    gateway: Gateway
    line: Line
    twin: PayPalSandbox
    clock: VirtualClock

    def request(self, *, key: str = "create-1", amount: Money | None = None, number: str = "1001") -> CreateRequest:
        """A create request as the core makes it."""
        return CreateRequest(
            payment_id="pay_1",
            order_id="ord_1",
            order_number=number,
            amount=amount or Money(1999, "EUR"),
            return_url="https://shop.example/orders/ord_1/return?payment=pay_1",
            cancel_url="https://shop.example/orders/ord_1/pay",
            idempotency_key=key,
        )

    async def approved(self, funding: str = "balance") -> str:
        """The ref of an order that the buyer approved with `funding`."""
        ref = (await self.gateway.create(self.request())).snapshot.ref
        self.twin.approve(ref, now=self.clock.now(), funding=funding)
        return ref

    def fail(
        self, where: str, result: HttpResponse | GatewayError, *, reached: bool = False, seconds: float = 0
    ) -> None:
        """Let the next request to an address that ends in `where` have `result`."""
        self.line.faults.append(Fault(where, result, reached, seconds))

    def refuse(self, where: str, issue: str, status: int = 422) -> None:
        """Let PayPal refuse the next request to `where` with `issue`, without doing anything."""
        body = {"name": "UNPROCESSABLE_ENTITY", "debug_id": "f5aa1c2b3d4e5", "details": [{"issue": issue}]}
        self.fail(where, HttpResponse(status, {"content-type": "application/json"}, json.dumps(body).encode()))

    def moved(self) -> int:
        """How many captures the twin's own books hold."""
        return self.twin.dump().count('"capture": {')
