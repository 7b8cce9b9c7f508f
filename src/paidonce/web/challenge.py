"""The shop's own challenge, such as a CAPTCHA: asked before a payment that follows on too many declined ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from paidonce.core import Actor
from paidonce.errors import ChallengeNeeded, TooManyDeclines
from paidonce.results import Started


@dataclass(frozen=True, slots=True)
class Suspect:
    """Who wants to start a payment after so many declines, and what their browser answers to the challenge."""

    order_id: str
    user_id: str
    address: str | None
    answer: str = field(repr=False)


# Whether the answer is right. What it raises is answered as an unexpected error, and no payment starts.
Challenge = Callable[[Suspect], Awaitable[bool]]
# `checkout.start` with all its arguments but `cleared`.
Start = Callable[..., Awaitable[Started]]


async def challenged(
    challenge: Challenge | None, start: Start, order_id: str, actor: Actor, answer: str | None
) -> Started:
    """Start a payment, with the shop's challenge where declines call for it.

    Raises `ChallengeNeeded` for an answer that is missing or wrong, and what `start` raises.
    """
    try:
        return await start()
    except TooManyDeclines as refused:
        if challenge is None or not refused.challenge_helps:
            raise
        suspect = Suspect(order_id, actor.user_id, actor.address, answer or "")
        if not answer or not await challenge(suspect):
            raise ChallengeNeeded(retry_after_seconds=refused.retry_after_seconds) from None
    return await start(cleared=True)
