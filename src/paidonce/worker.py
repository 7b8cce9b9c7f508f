"""The worker: runs recovery and the delivery of events for as long as it lives, inside `serve` or as a process.

Each gateway has loops of its own, so that one that answers slowly does not keep the others' payments waiting. Ending
it at any moment is harmless: what it was doing stays written down, and its leases run out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from paidonce import deliveries, recovery
from paidonce.core import Core
from paidonce.deliveries import Endpoints
from paidonce.errors import DatabaseError
from paidonce.gateways.base import Transport

LOOPS = 2
IDLE_SECONDS = 1.0
ORDERS_SECONDS = 5.0
# After a failure the loop waits this long, so that a database that is down is not asked in a frenzy.
TROUBLE_SECONDS = 5.0

log = structlog.get_logger("paidonce.worker")
_chance = random.Random()  # noqa: S311 - no secret depends on it.

Round = Callable[[], Awaitable[int]]


@dataclass(slots=True)
class Worker:
    """What a worker needs. `endpoints` are registered by whoever makes it; `transport` sends them events."""

    core: Core
    endpoints: Endpoints
    transport: Transport
    idle_seconds: float = IDLE_SECONDS
    loops: int = LOOPS

    async def run_once(self) -> int:
        """Do all that is due now, and return how much that was. Raises database errors."""
        done = await recovery.drain(self.core)
        return done.total + await self._deliver_all()

    async def run(self) -> None:
        """Work until canceled."""
        rounds: list[tuple[Round, float]] = [
            *[(partial(recovery.run_due, self.core, name), self.idle_seconds) for name in self._gateways()],
            (partial(recovery.end_orders, self.core), max(self.idle_seconds, ORDERS_SECONDS)),
            *[(partial(self._tell, name), self.idle_seconds) for name in self.endpoints.names],
        ]
        async with asyncio.TaskGroup() as group:
            for work, pause in rounds:
                group.create_task(self._repeat(work, pause))

    def _gateways(self) -> list[str | None]:
        """Each gateway as often as it has loops, and one loop for payments whose gateway has no keys here."""
        return [name for name in self.core.gateways for _ in range(self.loops)] + [None]

    async def _repeat(self, work: Round, pause: float) -> None:
        while True:
            done = await self._guarded(work)
            if done is None:
                await asyncio.sleep(TROUBLE_SECONDS)
            elif not done:
                # Spread, so that the loops of many workers don't look at the same moment.
                await asyncio.sleep(pause * (0.75 + _chance.random() / 2))

    async def _guarded(self, work: Round) -> int | None:
        """What `work` did, or None if it failed: a worker outlives every trouble, and tells it."""
        try:
            return await work()
        except DatabaseError as error:
            log.error("worker_waits_for_the_database", error=str(error))
        except Exception as error:
            # A bug in one round must not end recovery for all payments; the row's lease runs out and it is tried again.
            log.exception("worker_round_failed", error=type(error).__name__)
        return None

    async def _tell(self, endpoint: str) -> int:
        return await deliveries.run_endpoint(self.core, self.endpoints, endpoint, transport=self.transport)

    async def _deliver(self) -> int:
        return await deliveries.run_due(self.core, self.endpoints, transport=self.transport)

    async def _deliver_all(self) -> int:
        total = 0
        while sent := await self._deliver():
            total += sent
        return total
