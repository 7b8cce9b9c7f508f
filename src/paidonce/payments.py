"""Payments and their operations: the rows, and every statement about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paidonce.gateways.base import CaptureMethod, DeclineCode
from paidonce.money import Money
from paidonce.ports import SECOND, Microseconds, Row, Transaction, at_a_glance, write_later
from paidonce.states import OPEN_PAYMENTS, PaymentStatus, RefundStatus


@dataclass(frozen=True, slots=True)
class Payment:
    """One attempt to pay an order through one gateway."""

    id: str
    order_id: str
    gateway: str
    status: PaymentStatus
    refund_status: RefundStatus
    amount: Money
    account: str
    live: bool
    captures_in_browser: bool
    capture_method: CaptureMethod
    gateway_ref: str | None
    capture_ref: str | None
    captured_minor: int
    owed_to_buyer: bool
    capture_right: str | None
    decline_code: DeclineCode | None
    decline_recoverable: bool
    pending_reason: str | None
    held_reason: str | None
    asked_at: Microseconds
    created_at: Microseconds
    due_at: Microseconds | None = None  # When recovery looks at it next; None: never.
    tries: int = 0  # How often it has looked since the last news.
    silent_since: Microseconds | None = None  # Since when the gateway does not answer these looks.
    started_by: str | None = None  # The buyer, and a tag of his network, against one who holds all the goods.
    started_from: str | None = None

    @property
    def is_owed(self) -> bool:
        """Whether its money still has to go back; until then nothing more is taken for its order."""
        return self.owed_to_buyer and self.refund_status is not RefundStatus.FULL

    @property
    def is_in_the_way(self) -> bool:
        """Whether it is held, and nobody knows yet that nothing can come of it."""
        went_back = self.owed_to_buyer and self.refund_status is RefundStatus.FULL
        return self.status is PaymentStatus.HELD and not went_back

    @property
    def is_awaited(self) -> bool:
        """Whether the buyer has gone to pay elsewhere, so that the money may come by itself; he may still turn back."""
        return self.status is PaymentStatus.AWAITING_BUYER and self.pending_reason is not None

    @property
    def captured(self) -> Money | None:
        """What has moved, or None."""
        return Money(self.captured_minor, self.amount.currency) if self.captured_minor else None

    @property
    def is_open(self) -> bool:
        """Whether the buyer or the gateway can still turn it into money."""
        return self.status in OPEN_PAYMENTS


@dataclass(frozen=True, slots=True)
class Operation:
    """One call that changes something at a gateway, with the key that was committed before it went out."""

    id: str
    payment_id: str
    kind: str
    round: int
    idempotency_key: str
    request: Mapping[str, Any]
    state: str
    claimed_until: Microseconds
    created_at: Microseconds
    sent_at: Microseconds | None = None  # When the call may have gone out for the first time.

    def is_claimed(self, now: Microseconds, *, seconds: int) -> bool:
        """Whether another caller owns the call; `seconds` is the longest claim, in case the clock was set back."""
        return now < self.claimed_until <= now + seconds * SECOND

    def key_is_spent(self, now: Microseconds, *, life_seconds: int) -> bool:
        """Whether the gateway may have forgotten the key; one that never went out is as good as new."""
        return self.sent_at is not None and now - self.sent_at >= life_seconds * SECOND

    @property
    def amount(self) -> Money:
        """What a capture or refund is for."""
        return Money(self.request["amount"], self.request["currency"])


def _payment(row: Row) -> Payment:
    code = row["decline_code"]
    return Payment(
        id=row["id"],
        order_id=row["order_id"],
        gateway=row["gateway"],
        status=PaymentStatus(row["status"]),
        refund_status=RefundStatus(row["refund_status"]),
        amount=Money(row["amount_minor"], row["currency"]),
        account=row["account"],
        live=bool(row["live"]),
        captures_in_browser=bool(row["captures_in_browser"]),
        capture_method=CaptureMethod(row["capture_method"]),
        gateway_ref=row["gateway_ref"],
        capture_ref=row["capture_ref"],
        captured_minor=row["captured_minor"],
        owed_to_buyer=bool(row["owed_to_buyer"]),
        capture_right=row["capture_right"],
        decline_code=None if code is None else DeclineCode(code),
        decline_recoverable=bool(row["decline_recoverable"]),
        pending_reason=row["pending_reason"],
        held_reason=row["held_reason"],
        asked_at=row["asked_at"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        tries=row["tries"],
        silent_since=row["silent_since"],
        started_by=row["started_by"],
        started_from=row["started_from"],
    )


def _operation(row: Row) -> Operation:
    return Operation(
        id=row["id"],
        payment_id=row["payment_id"],
        kind=row["kind"],
        round=row["round"],
        idempotency_key=row["idempotency_key"],
        request=json.loads(row["request"]),
        state=row["state"],
        claimed_until=row["claimed_until"],
        created_at=row["created_at"],
        sent_at=row["sent_at"],
    )


# ── Reading ──────────

# The condition is that of the partial indexes.
_OPEN_BY = {
    "started_by": """
SELECT 'started_by' AS found_by, order_id, status FROM payments
WHERE started_by = :started_by AND status IN ('created', 'awaiting_buyer', 'processing', 'authorized')
""",
    "started_from": """
SELECT 'started_from' AS found_by, order_id, status FROM payments
WHERE started_from = :started_from AND status IN ('created', 'awaiting_buyer', 'processing', 'authorized')
""",
}


@at_a_glance
async def find(tx: Transaction, payment_id: str, *, lock: bool = False) -> Payment | None:
    """The payment with our id."""
    row = await tx.fetch_one("SELECT * FROM payments WHERE id = :id", {"id": payment_id}, lock=lock)
    return None if row is None else _payment(row)


async def locked(tx: Transaction, found: Payment) -> Payment | None:
    """A payment that this transaction has just read, as it is once it is locked."""
    # SQLite has one writer, this transaction, so nobody has changed the payment since.
    return found if tx.dialect == "sqlite" else await find(tx, found.id, lock=True)


async def find_by_capture(tx: Transaction, gateway: str, capture_ref: str) -> Payment | None:
    """The payment behind a gateway's capture."""
    row = await tx.fetch_one(
        "SELECT * FROM payments WHERE gateway = :gateway AND capture_ref = :ref",
        {"gateway": gateway, "ref": capture_ref},
    )
    return None if row is None else _payment(row)


async def find_by_ref(tx: Transaction, gateway: str, ref: str) -> Payment | None:
    """The payment behind a gateway's object."""
    row = await tx.fetch_one(
        "SELECT * FROM payments WHERE gateway = :gateway AND gateway_ref = :ref", {"gateway": gateway, "ref": ref}
    )
    return None if row is None else _payment(row)


async def of_order(tx: Transaction, order_id: str, *, lock: bool = False) -> list[Payment]:
    """All attempts to pay an order, oldest first. The order is locked first, so that nobody adds one meanwhile."""
    rows = await tx.fetch_all(
        "SELECT * FROM payments WHERE order_id = :order_id ORDER BY created_at, id", {"order_id": order_id}, lock=lock
    )
    return [_payment(row) for row in rows]


async def orders_with_open(tx: Transaction, whose: Mapping[str, str]) -> dict[str, tuple[set[str], set[str]]]:
    """The orders with an open payment by each of `whose` columns, `started_by` or `started_from`, and its value.

    First those that still have to be paid, then those whose money is reserved.
    """
    rows = await tx.fetch_all(" UNION ALL ".join(_OPEN_BY[column] for column in whose), whose)
    found = {}
    for column in whose:
        mine = [row for row in rows if row["found_by"] == column]
        reserved = {row["order_id"] for row in mine if row["status"] == PaymentStatus.AUTHORIZED}
        found[column] = ({row["order_id"] for row in mine} - reserved, reserved)
    return found


async def operation_of(tx: Transaction, payment_id: str, kind: str, *, lock: bool = False) -> Operation | None:
    """The newest operation of one kind."""
    row = await tx.fetch_one(
        "SELECT * FROM operations WHERE payment_id = :payment_id AND kind = :kind ORDER BY round DESC LIMIT 1",
        {"payment_id": payment_id, "kind": kind},
        lock=lock,
    )
    return None if row is None else _operation(row)


async def takings(tx: Transaction, payment_id: str) -> list[Operation]:
    """All calls that were to take the payment's money, authorizations before captures, oldest first."""
    rows = await tx.fetch_all(
        "SELECT * FROM operations WHERE payment_id = :payment_id AND kind IN ('authorize', 'capture')"
        " ORDER BY kind, round",
        {"payment_id": payment_id},
    )
    return [_operation(row) for row in rows]


async def recorded(tx: Transaction, payment_id: str, kind: str) -> list[Operation]:
    """The operations of one kind that are recorded and not answered yet, oldest first."""
    rows = await tx.fetch_all(
        "SELECT * FROM operations WHERE payment_id = :payment_id AND kind = :kind AND state = 'recorded'"
        " ORDER BY round",
        {"payment_id": payment_id, "kind": kind},
    )
    return [_operation(row) for row in rows]


async def find_operation(tx: Transaction, operation_id: str) -> Operation | None:
    """The operation with our id."""
    row = await tx.fetch_one("SELECT * FROM operations WHERE id = :id", {"id": operation_id})
    return None if row is None else _operation(row)


# ── Writing ──────────

_INSERT_PAYMENT = """
INSERT INTO payments (id, order_id, gateway, status, refund_status, amount_minor, currency, account, live,
    captures_in_browser, capture_method, captured_minor, owed_to_buyer, capture_right, decline_recoverable, asked_at,
    created_at, updated_at, due_at, tries, lease_until, started_by, started_from)
VALUES (:id, :order_id, :gateway, 'created', 'none', :amount_minor, :currency, :account, :live,
    :captures_in_browser, :capture_method, 0, 0, :capture_right, 0, 0, :now, :now, :due_at, 0, 0, :started_by,
    :started_from)
"""
_INSERT_OPERATION = """
INSERT INTO operations (id, payment_id, kind, round, idempotency_key, request, state, claimed_until, created_at,
    sent_at)
VALUES (:id, :payment_id, :kind, :round, :idempotency_key, :request, 'recorded', :claimed_until, :now, :sent_at)
"""
_SAVE = """
UPDATE payments SET status = :status, refund_status = :refund_status, gateway_ref = :gateway_ref,
    capture_ref = :capture_ref, captured_minor = :captured_minor, owed_to_buyer = :owed_to_buyer,
    capture_right = :capture_right, decline_code = :decline_code, decline_recoverable = :decline_recoverable,
    pending_reason = :pending_reason, held_reason = :held_reason, asked_at = :asked_at, due_at = :due_at,
    tries = :tries, updated_at = :now, started_from = CASE WHEN :is_open = 1 THEN started_from END
WHERE id = :id
"""


async def insert(tx: Transaction, payment: Payment) -> None:
    """Add a new payment. Raises `errors.Conflict` where an index already speaks for another one."""
    await write_later(
        tx,
        _INSERT_PAYMENT,
        {
            "id": payment.id,
            "order_id": payment.order_id,
            "gateway": payment.gateway,
            "amount_minor": payment.amount.minor,
            "currency": payment.amount.currency,
            "account": payment.account,
            "live": int(payment.live),
            "captures_in_browser": int(payment.captures_in_browser),
            "capture_method": str(payment.capture_method),
            "capture_right": payment.capture_right,
            "due_at": payment.due_at,
            "now": payment.created_at,
            "started_by": payment.started_by,
            "started_from": payment.started_from,
        },
    )


async def save(tx: Transaction, payment: Payment, *, now: Microseconds) -> None:
    """Write what may change about a payment. Its amount, order and account never do."""
    await write_later(
        tx,
        _SAVE,
        {
            "id": payment.id,
            "status": str(payment.status),
            "refund_status": str(payment.refund_status),
            "gateway_ref": payment.gateway_ref,
            "capture_ref": payment.capture_ref,
            "captured_minor": payment.captured_minor,
            "owed_to_buyer": int(payment.owed_to_buyer),
            "capture_right": payment.capture_right,
            "decline_code": None if payment.decline_code is None else str(payment.decline_code),
            "decline_recoverable": int(payment.decline_recoverable),
            "pending_reason": payment.pending_reason,
            "held_reason": payment.held_reason,
            "asked_at": payment.asked_at,
            "due_at": payment.due_at,
            "tries": payment.tries,
            "now": now,
            # Where it was started from is of no use once nothing can come of it any more.
            "is_open": int(payment.is_open),
        },
    )


async def look_soon(tx: Transaction, payment_id: str, *, at: Microseconds) -> None:
    """Let recovery look at the payment at `at`, or earlier if it was due earlier."""
    await tx.execute(
        "UPDATE payments SET due_at = :at, tries = 0 WHERE id = :id AND (due_at IS NULL OR due_at > :at)",
        {"id": payment_id, "at": at},
    )


async def look_anew(tx: Transaction, payment_id: str, *, at: Microseconds) -> None:
    """Let recovery look at the payment at `at`, also where a worker is at it: that one may have read too early.

    Its lease ends here, so what it found no longer decides when the payment is due.
    """
    await tx.execute(
        "UPDATE payments SET due_at = :at, tries = 0, lease_token = NULL, lease_until = 0"
        " WHERE id = :id AND (due_at IS NULL OR due_at > :at OR lease_token IS NOT NULL)",
        {"id": payment_id, "at": at},
    )


async def mark_silent(tx: Transaction, payment_id: str, *, since: Microseconds | None) -> None:
    """Keep since when the gateway does not answer looks at the payment; None: it does."""
    await tx.execute(
        "UPDATE payments SET silent_since = :since WHERE id = :id AND (silent_since IS NOT NULL OR :asked = 1)",
        {"id": payment_id, "since": since, "asked": int(since is not None)},
    )


async def insert_operation(tx: Transaction, operation: Operation) -> None:
    """Record an intention with its key, before the call."""
    await write_later(
        tx,
        _INSERT_OPERATION,
        {
            "id": operation.id,
            "payment_id": operation.payment_id,
            "kind": operation.kind,
            "round": operation.round,
            "idempotency_key": operation.idempotency_key,
            "request": json.dumps(dict(operation.request), sort_keys=True, separators=(",", ":")),
            "claimed_until": operation.claimed_until,
            "now": operation.created_at,
            "sent_at": operation.sent_at,
        },
    )


async def claim(tx: Transaction, operation_id: str, *, now: Microseconds, seconds: int) -> None:
    """Own the operation's call for `seconds`; from now on it may have gone out."""
    await tx.execute(
        "UPDATE operations SET claimed_until = :until, sent_at = COALESCE(sent_at, :now)"
        " WHERE id = :id AND state = 'recorded'",
        {"id": operation_id, "until": now + seconds * SECOND, "now": now},
    )


async def give_back(tx: Transaction, operation_id: str) -> None:
    """Let whoever comes next repeat the operation's call."""
    await tx.execute(
        "UPDATE operations SET claimed_until = 0 WHERE id = :id AND state = 'recorded'", {"id": operation_id}
    )


async def finish(tx: Transaction, operation_id: str, state: str, *, now: Microseconds) -> None:
    """Write how an operation ended. One that has ended stays as it is."""
    await write_later(
        tx,
        "UPDATE operations SET state = :state, finished_at = :now WHERE id = :id AND state = 'recorded'",
        {"id": operation_id, "state": state, "now": now},
    )


async def finish_voids(tx: Transaction, payment_id: str, *, now: Microseconds) -> None:
    """A payment that was seen canceled has been voided, whoever did it."""
    await write_later(
        tx,
        "UPDATE operations SET state = 'succeeded', finished_at = :now"
        " WHERE payment_id = :payment_id AND state = 'recorded' AND kind = 'void'",
        {"payment_id": payment_id, "now": now},
    )


async def finish_all(tx: Transaction, payment_id: str, state: str, *, now: Microseconds) -> None:
    """End what is still recorded of an ended payment, except refunds, which live on behind it."""
    await write_later(
        tx,
        "UPDATE operations SET state = :state, finished_at = :now"
        " WHERE payment_id = :payment_id AND state = 'recorded' AND kind <> 'refund'",
        {"payment_id": payment_id, "state": state, "now": now},
    )
