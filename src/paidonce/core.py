"""What every action is given: the ports, the shop's policy, and who is asking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paidonce.errors import InvalidRequest
from paidonce.gateways.base import Gateway
from paidonce.ports import SECOND, Clock, Database, Ids, Microseconds
from paidonce.store import Store


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. Actions check ownership themselves, so that no route can forget it."""

    user_id: str
    is_staff: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """The shop's own choices."""

    # Long enough for 3-D Secure or a PayPal log-in, short enough that an abandoned basket frees the goods.
    hold_seconds: int = 20 * 60
    # Bank debits take days; the goods stay reserved until the bank has answered.
    pending_hold_seconds: int = 14 * 24 * 3600
    # How long one caller owns a capture call. It must exceed the total deadline of the call with its retries.
    claim_seconds: int = 90
    # PayPal ends an order after too many declined instruments; ending it first gives the buyer a better sentence.
    capture_rounds: int = 3
    # Against card testing: one order is no place to try out many payments.
    attempts_per_order: int = 10

    def hold_until(self, now: Microseconds) -> Microseconds:
        """When goods held now are free again."""
        return now + self.hold_seconds * SECOND

    def pending_until(self, now: Microseconds) -> Microseconds:
        """When goods held for slow money are free again."""
        return now + self.pending_hold_seconds * SECOND


@dataclass(frozen=True, slots=True)
class Core:
    """The injected ports. Nothing else in the core knows where it runs."""

    db: Database
    gateways: Mapping[str, Gateway]
    store: Store
    clock: Clock
    ids: Ids
    policy: Policy = field(default_factory=Policy)

    def gateway(self, name: str) -> Gateway:
        """The gateway called `name`; raises `errors.InvalidRequest` naming those on offer."""
        found = self.gateways.get(name)
        if found is None:
            offered = ", ".join(sorted(self.gateways)) or "none (no gateway has keys)"
            raise InvalidRequest(f"This shop has no such payment method. Choose one of: {offered}.")
        return found
