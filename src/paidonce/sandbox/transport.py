"""The sandbox without sockets: the same twins and the same fault dials, in the caller's own process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from paidonce.errors import GatewayBusy, OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse, SandboxCore
from paidonce.ports import Clock, assert_outside_transaction
from paidonce.sandbox.dials import Dials, Fault, Rule, instead
from paidonce.sandbox.mounts import answer_below_mount, gateway_of
from paidonce.sandbox.webhooks import WebhookQueue, pending_webhooks

Deliver = Callable[[HttpRequest], Awaitable[object]]


class SandboxTransport:
    """`base.Transport` that answers from twins in this process, below `public_url`, without a socket.

    `dials` make it fail as the real thing would. `deliver` is handed the webhooks that a dial calls early, before the
    call that caused them is answered; all others are in `pending_webhooks`.
    """

    def __init__(
        self,
        cores: Mapping[str, SandboxCore],
        clock: Clock,
        public_url: str,
        *,
        dials: Dials | None = None,
        deliver: Deliver | None = None,
    ) -> None:
        self.dials = Dials() if dials is None else dials
        self.queue = WebhookQueue(self.dials)
        self.deliver = deliver
        self._cores = cores
        self._clock = clock
        self._base = public_url.rstrip("/")

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """Answer at once, or as the dials say.

        Raises `OutcomeUnknown` where a dial breaks the connection or is slower than `deadline_seconds`, and
        `GatewayBusy` for any other host, since nothing can have reached it from here.
        """
        assert_outside_transaction("a call to the sandbox")
        target = request.url.removeprefix(self._base)
        if target == request.url or not target.startswith("/"):
            raise GatewayBusy("could not connect: only the offline sandbox is reachable from here")
        headers = {name.lower(): value for name, value in request.headers.items()}
        inner = HttpRequest(request.method, target, headers, request.body)
        name = gateway_of(self._cores, target)
        rule = None if name is None else self.dials.for_call(name, inner)
        if rule is None:
            return await self._carried_out(inner)
        return await self._suffer(rule, inner, deadline_seconds)

    def pending_webhooks(self) -> list[HttpRequest]:
        """What the twins have to tell the shop by now, in the order in which it shall arrive; each is given once."""
        return pending_webhooks(self._cores, self._clock.now(), queue=self.queue)

    async def close(self) -> None:
        """Nothing to free."""

    async def _carried_out(self, request: HttpRequest) -> HttpResponse:
        answer = answer_below_mount(self._cores, request, now=self._clock.now())
        if self.deliver is not None:
            for parcel in self.queue.collect(self._cores, self._clock.now()):
                if parcel.early:
                    self.queue.remove(parcel, "handed over")
                    for _ in range(parcel.copies):
                        await self.deliver(parcel.request)
        return answer

    async def _suffer(self, rule: Rule, request: HttpRequest, deadline_seconds: float) -> HttpResponse:
        answer = await self._carried_out(request) if rule.fault.carries_out else None
        if (other := instead(rule)) is not None:
            return other
        if rule.fault in (Fault.DELAY, Fault.DRIP):
            assert answer is not None
            await self._clock.sleep(min(rule.wait_seconds, deadline_seconds))
            if rule.wait_seconds < deadline_seconds:
                return answer
            raise OutcomeUnknown(f"no complete answer within {deadline_seconds:g} s")
        raise OutcomeUnknown("the connection failed before the answer was complete")
