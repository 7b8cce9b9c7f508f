"""A call that is tried again where that is safe, within one deadline: for gateways whose client is our own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from paidonce.errors import GatewayBusy, GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.ports import SECOND, Clock, Microseconds

EXTRA_TRIES = 2
FIRST_PAUSE_SECONDS = 0.25

T = TypeVar("T")


async def until_answered(
    once: Callable[[], Awaitable[T]],
    clock: Clock,
    *,
    ends_at: Microseconds,
    speaks_for_the_key: Callable[[str], bool] = lambda _code: False,
) -> T:
    """Await `once()`, and again after a pause while the gateway is busy or its answer is lost, until `ends_at`.

    Every try has to carry the same idempotency key. Once a try may have been carried out, no later trouble makes that
    untrue: `OutcomeUnknown` is raised then, also where a later try is refused, unless `speaks_for_the_key` says that a
    refusal with this code is about the key itself. Raises what `once` raises.
    """
    unknown: OutcomeUnknown | None = None
    for round_ in range(EXTRA_TRIES + 1):
        try:
            return await once()
        except (OutcomeUnknown, GatewayBusy) as error:
            unknown = error if isinstance(error, OutcomeUnknown) else unknown
            pause = _pause(clock, error, round_)
            if round_ == EXTRA_TRIES or (ends_at - clock.now()) / SECOND <= pause + 1:
                if unknown is not None and unknown is not error:
                    raise unknown from error
                raise
            await clock.sleep(pause)
        except (GatewayMisconfigured, GatewayRefused) as error:
            # A "no" to this try says nothing of the one before.
            final = isinstance(error, GatewayRefused) and speaks_for_the_key(error.code)
            if unknown is not None and not final:
                raise unknown from error
            raise
    raise AssertionError("the loop above returns or raises")


def _pause(clock: Clock, error: OutcomeUnknown | GatewayBusy, round_: int) -> float:
    # The clock's microseconds spread clients as well as a random number would, and a simulation repeats them.
    spread = clock.now() % 1_000 / 1_000
    pause: float = FIRST_PAUSE_SECONDS * 2.0**round_ * (0.5 + spread)
    asked = error.retry_after_seconds if isinstance(error, GatewayBusy) else None
    return max(pause, asked or 0.0)
