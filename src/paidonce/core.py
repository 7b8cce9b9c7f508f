"""What every action is given: the ports, the shop's policy, and who is asking."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from paidonce.errors import CommitUnknown, Forbidden, InvalidRequest
from paidonce.gateways.base import CaptureMethod, Gateway
from paidonce.money import Money
from paidonce.ports import SECOND, Clock, Database, Ids, Microseconds, Transaction
from paidonce.store import Store

P = ParamSpec("P")
T = TypeVar("T")

_DAY = 24 * 3600
# How often a transaction is run again when nobody knows whether its commit was kept.
_COMMIT_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. Actions check ownership themselves, so that no route can forget it."""

    user_id: str
    is_staff: bool = False
    # Whether they proved who they are once more, within the last minutes (`Policy.second_look_above`).
    confirmed: bool = field(default=False, kw_only=True)
    # Where the request came from, as text; None where that is not known. Of it only a short tag is ever kept.
    address: str | None = field(default=None, kw_only=True)

    def require_staff(self) -> None:
        """Raise `errors.Forbidden` for anybody but staff."""
        if not self.is_staff:
            raise Forbidden


@dataclass(frozen=True, slots=True)
class Declines:
    """How many declined attempts an order, a buyer and an address may make, against the trying out of stolen cards.

    They count within a window. A fifth of them is free of waits. Each further one doubles how long the next start has
    to wait, beginning with `wait_seconds`; after the last one the window has to end first. None: no bound.
    """

    per_order: int | None = 15
    per_user: int | None = 15
    # Many buyers may share an address: a school, a telephone network.
    per_address: int | None = 50
    # How often a browser may confirm one payment in vain, which is beyond our reach, before the payment is ended.
    per_payment: int = 5
    wait_seconds: int = 30
    window_seconds: int = 3600


@dataclass(frozen=True, slots=True)
class Policy:
    """The shop's own choices."""

    # Long enough for 3-D Secure or a PayPal log-in, short enough that an abandoned basket frees the goods.
    hold_seconds: int = 20 * 60
    # Bank debits take days; the goods stay reserved until the bank has answered.
    pending_hold_seconds: int = 14 * 24 * 3600
    # How long one caller owns a capture call. It exceeds what the calls behind one capture may take together.
    claim_seconds: int = 120
    # PayPal ends an order after too many declined instruments; ending it first gives the buyer a better sentence.
    capture_rounds: int = 3
    # Against card testing: one order is no place to try out many payments.
    attempts_per_order: int = 10
    # The same by declined attempts of an order, a buyer and an address; None: no bound.
    declines: Declines | None = None
    # For how many orders at once a buyer, or an address, may hold goods without having paid; None: no bound.
    open_payments_per_user: int | None = None
    open_payments_per_address: int | None = None
    # Manual: confirming reserves the money, and staff capture it when the goods leave.
    capture_method: CaptureMethod = CaptureMethod.AUTOMATIC
    # An order that nobody pays is closed, so that a forgotten basket can't be paid at last month's price.
    order_seconds: int = _DAY
    # A hold is prolonged while the buyer is in 3-D Secure, but an abandoned bank page must not keep goods for ever.
    longest_hold_seconds: int = 2 * 3600
    # When recovery looks at an unconfirmed payment for the first time: a buyer who is back by then costs no look.
    first_look_seconds: int = 60
    # How long one worker owns a payment or event. It exceeds what the calls for one of them may take together.
    lease_seconds: int = 300
    # After this, an outcome that is still unknown is an operator's business, and again every day.
    unknown_alarm_seconds: int = 3600
    # When captured payments are read again, counted from the last news: refunds and disputes made at the gateway are
    # found although no webhook told of them. Card disputes come up to 120 days after the payment.
    audit_days: tuple[int, ...] = (1, 3, 7, 14, 30, 60, 90, 120, 180)
    # How long an event is kept that names a payment which is not here (yet).
    parked_seconds: int = 3 * _DAY
    # Refunds by staff that give back more than this of one payment, in minor units by currency, need a second look
    # (`Actor.confirmed`). A currency that is not named always needs it; None: it is never needed.
    second_look_above: Mapping[str, int] | None = None

    def hold_until(self, now: Microseconds) -> Microseconds:
        """When goods held now are free again."""
        return now + self.hold_seconds * SECOND

    def pending_until(self, now: Microseconds) -> Microseconds:
        """When goods held for slow money are free again."""
        return now + self.pending_hold_seconds * SECOND

    def needs_second_look(self, given_back: Money) -> bool:
        """Whether giving back so much of one payment in all needs whoever asks to have proved themselves again."""
        limits = self.second_look_above
        return limits is not None and given_back.minor > limits.get(given_back.currency, 0)


@dataclass(frozen=True, slots=True)
class Core:
    """The injected ports. Nothing else in the core knows where it runs."""

    db: Database
    gateways: Mapping[str, Gateway]
    store: Store
    clock: Clock
    ids: Ids
    policy: Policy = field(default_factory=Policy)

    async def write(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run the transaction `fn(tx, …)`; if its commit has an unknown outcome, run it again.

        `fn` recognises by its operation's own id or key what its first run may have left, and then changes nothing.
        Raises what `Database.transaction` raises.
        """
        for look in range(_COMMIT_LOOKS):
            try:
                return await self.db.transaction(fn, *args, **kwargs)
            except CommitUnknown:
                if look == _COMMIT_LOOKS - 1:
                    raise
        raise AssertionError("the loop above returns or raises")

    def gateway(self, name: str) -> Gateway:
        """The gateway called `name`; raises `errors.InvalidRequest` naming those on offer."""
        found = self.gateways.get(name)
        if found is None:
            offered = ", ".join(sorted(self.gateways)) or "none (no gateway has keys)"
            raise InvalidRequest(f"This shop has no such payment method. Choose one of: {offered}.")
        return found
