"""The twins' webhooks on their way to the shop: dialled, queued, delivered and tried again.

A webhook stays in the queue until the shop has taken it or the tries are used up. The queue is part of the sandbox's
state, so that a restart goes on where it was.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from paidonce.errors import ConfigError, GatewayError
from paidonce.gateways.base import HttpRequest, SandboxCore, Transport
from paidonce.ports import SECOND, Clock, Microseconds
from paidonce.sandbox.dials import Dials, Fault, Rule

# A developer's shop restarts within seconds, and past these tries the shop has to find out by itself.
BACKOFF_SECONDS = (1, 2, 5, 10, 30, 60)
DEADLINE_SECONDS = 10.0
LOG_LENGTH = 50
_LONGEST_WORD = 100


@dataclass(slots=True)
class Delivery:
    """One webhook in the log: what it was and how far it came. It never holds a body."""

    id: str
    type: str
    gateway: str
    state: str = "waiting"  # Then delivered, handed over, given up, dropped, switched off, or no shop.
    tries: int = 0
    status: int | None = None  # Of the last try; None if nothing answered.

    def describe(self) -> dict[str, object]:
        """The same as JSON."""
        return {
            "id": self.id,
            "type": self.type,
            "gateway": self.gateway,
            "state": self.state,
            "tries": self.tries,
            "status": self.status,
        }


@dataclass(slots=True)
class Parcel:
    """One webhook in the queue. Smaller `turn`s go first among those that are due."""

    request: HttpRequest = field(repr=False)
    gateway: str
    delivery: Delivery
    due: Microseconds
    turn: int
    copies: int = 1
    early: bool = False
    taken: bool = False  # Somebody delivers it right now.


class WebhookQueue:
    """What the twins want to tell the shop, after the dials had their say."""

    def __init__(self, dials: Dials) -> None:
        self.log: deque[Delivery] = deque(maxlen=LOG_LENGTH)
        self.count = 0  # How many the twins have given so far, whatever became of them.
        self._dials = dials
        self._parcels: list[Parcel] = []
        self._turns = 0

    def __len__(self) -> int:
        return len(self._parcels)

    def collect(self, cores: Mapping[str, SandboxCore], now: Microseconds) -> list[Parcel]:
        """Take the twins' new webhooks into the queue; returns them without those that are dropped."""
        fresh = self._taken(cores, now)
        added = [parcel for name, request in fresh if (parcel := self._dialled(name, request, now)) is not None]
        self._parcels += added
        return added

    def discard(self, cores: Mapping[str, SandboxCore], now: Microseconds) -> None:
        """Take the twins' new webhooks and forget them, as a gateway does that was given no address."""
        for name, request in self._taken(cores, now):
            self._logged(name, request, "no shop")

    def _taken(self, cores: Mapping[str, SandboxCore], now: Microseconds) -> list[tuple[str, HttpRequest]]:
        fresh = [(name, request) for name, core in cores.items() for request in core.take_webhooks(now=now)]
        self.count += len(fresh)
        return fresh

    def _logged(self, gateway: str, request: HttpRequest, state: str) -> Delivery:
        delivery = Delivery(*_identity(request.body), gateway, state)
        self.log.append(delivery)
        return delivery

    def _dialled(self, gateway: str, request: HttpRequest, now: Microseconds) -> Parcel | None:
        delivery = self._logged(gateway, request, "waiting")
        if not self._dials.webhooks:
            delivery.state = "switched off"
            return None
        rules = {rule.fault: rule for rule in self._dials.for_webhook(gateway, delivery.type)}
        if Fault.WEBHOOK_DROP in rules:
            delivery.state = "dropped"
            return None
        return self._parcel(gateway, request, delivery, rules, now)

    def _parcel(
        self, gateway: str, request: HttpRequest, delivery: Delivery, rules: Mapping[Fault, Rule], now: Microseconds
    ) -> Parcel:
        parcel = Parcel(request, gateway, delivery, due=now, turn=self._next_turn())
        if late := rules.get(Fault.WEBHOOK_DELAY):
            parcel.due += int(late.wait_seconds * SECOND)
        if held := rules.get(Fault.WEBHOOK_REORDER):
            # All that come up within one window are let go at its end, the last one first.
            window = int(held.wait_seconds * SECOND)
            parcel.due = (parcel.due // window + 1) * window if window else parcel.due
            parcel.turn = -parcel.turn
        if doubled := rules.get(Fault.WEBHOOK_DUPLICATE):
            parcel.copies = doubled.copies
        parcel.early = Fault.WEBHOOK_EARLY in rules
        return parcel

    def due(self, now: Microseconds) -> list[Parcel]:
        """What is to be delivered by now and is in nobody's hands, in the order of delivery."""
        waiting = (parcel for parcel in self._parcels if parcel.due <= now and not parcel.taken)
        return sorted(waiting, key=lambda parcel: (parcel.due, parcel.turn))

    def next_due(self) -> Microseconds | None:
        """When the next one is to be delivered."""
        return min((parcel.due for parcel in self._parcels if not parcel.taken), default=None)

    def remove(self, parcel: Parcel, state: str) -> None:
        """It is delivered or given up."""
        parcel.delivery.state = state
        self._parcels = [one for one in self._parcels if one is not parcel]

    def take_due(self, now: Microseconds) -> list[HttpRequest]:
        """Remove and return what is due, in the order of delivery, doubled ones as often as they shall arrive."""
        parcels = self.due(now)
        for parcel in parcels:
            self.remove(parcel, "handed over")
        return [parcel.request for parcel in parcels for _ in range(parcel.copies)]

    def dump(self) -> list[dict[str, Any]]:
        """What is not delivered yet, as JSON."""
        return [
            {
                "gateway": parcel.gateway,
                "method": parcel.request.method,
                "url": parcel.request.url,
                "headers": dict(parcel.request.headers),
                "body": base64.b64encode(parcel.request.body).decode("ascii"),
                "due": parcel.due,
                "copies": parcel.copies,
            }
            for parcel in sorted(self._parcels, key=lambda parcel: (parcel.due, parcel.turn))
        ]

    def load(self, saved: list[dict[str, Any]]) -> None:
        """Take over what `dump` gave; each gets all of its tries again."""
        for one in saved:
            request = HttpRequest(one["method"], one["url"], one["headers"], base64.b64decode(one["body"]))
            delivery = self._logged(one["gateway"], request, "waiting")
            parcel = Parcel(request, one["gateway"], delivery, one["due"], self._next_turn(), copies=one["copies"])
            self._parcels.append(parcel)

    def _next_turn(self) -> int:
        self._turns += 1
        return self._turns


class Courier:
    """Brings the queue's webhooks to the shop at `shop_url`."""

    def __init__(self, queue: WebhookQueue, transport: Transport, clock: Clock, shop_url: str) -> None:
        self.shop_url = loopback_url(shop_url)
        self._queue = queue
        self._transport = transport
        self._clock = clock

    async def deliver(self, parcel: Parcel) -> None:
        """Try once. What the shop does not take (no 2xx) stays in the queue for a later try, within bounds."""
        parcel.taken = True
        try:
            statuses = await asyncio.gather(*(self._post(parcel.request) for _ in range(parcel.copies)))
        finally:
            parcel.taken = False
        delivery = parcel.delivery
        delivery.tries += 1
        refused = [status for status in statuses if status is None or not 200 <= status < 300]
        delivery.status = refused[0] if refused else statuses[0]
        if not refused:
            self._queue.remove(parcel, "delivered")
        elif delivery.tries > len(BACKOFF_SECONDS):
            self._queue.remove(parcel, "given up")
        else:
            parcel.copies = 1
            parcel.due = self._clock.now() + BACKOFF_SECONDS[delivery.tries - 1] * SECOND

    async def _post(self, request: HttpRequest) -> int | None:
        target = HttpRequest(request.method, self.shop_url + request.url, request.headers, request.body)
        try:
            return (await self._transport.send(target, deadline_seconds=DEADLINE_SECONDS)).status
        except GatewayError:
            return None


def pending_webhooks(
    cores: Mapping[str, SandboxCore], now: Microseconds, *, queue: WebhookQueue | None = None
) -> list[HttpRequest]:
    """The twins' webhooks that are due at `now`, for a test to deliver by itself, in this order.

    A `queue` applies its dials and keeps what is late for the next call; without one, nothing goes wrong.
    """
    queue = WebhookQueue(Dials()) if queue is None else queue
    queue.collect(cores, now)
    return queue.take_due(now)


def loopback_url(shop_url: str) -> str:
    """`shop_url` without a slash at its end.

    Raises `ConfigError` for anything but this machine: a sandbox must never send its made-up news to a real shop.
    """
    url = shop_url.rstrip("/")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in {"http", "https"} and _is_loopback(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.username is not None or parts.query or parts.fragment or any(sign <= " " for sign in url):
        raise ConfigError([f"--shop-url: {shop_url!r} is no address on this machine, such as http://127.0.0.1:8000."])
    return url


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _identity(body: bytes) -> tuple[str, str]:
    """The event's own id and type, where its body says them in one of the usual ways."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        event = None
    said = event if isinstance(event, dict) else {}
    return _word(said.get("id")), _word(said.get("type") or said.get("event_type"))


def _word(value: object) -> str:
    return value[:_LONGEST_WORD] if isinstance(value, str) and value.isprintable() else "?"
