"""Webhooks, after their signature was verified: a durable row per event, whatever repeats, and what becomes of it.

An event is a trigger. It is answered 200 once its row is committed, so that nothing is lost with the answer; its effect
and its mark "processed" become true in one transaction. What we know already makes no call at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paidonce import journal, payments
from paidonce.core import Core
from paidonce.gateways.base import DisputeProgress, Progress, RefundProgress, WebhookEvent
from paidonce.leases import Lease, backoff_seconds, give_back
from paidonce.payments import Payment
from paidonce.ports import SECOND, Microseconds, Transaction
from paidonce.settlement import lock_case
from paidonce.states import PaymentStatus

_FIRST_WAIT_SECONDS = 5
_LONGEST_WAIT_SECONDS = 3600

_S = PaymentStatus
# In which states of the payment a claim is no news any more.
_KNOWN_IN: Mapping[Progress, frozenset[PaymentStatus]] = {
    # Slow money that fails goes back to the buyer, so this is news while it is processing.
    Progress.AWAITING_BUYER: frozenset({_S.CAPTURED, _S.CANCELED, _S.FAILED}),
    Progress.APPROVED: frozenset({_S.CAPTURED, _S.CANCELED, _S.FAILED, _S.PROCESSING, _S.AUTHORIZED}),
    Progress.PROCESSING: frozenset({_S.CAPTURED}),
    Progress.AUTHORIZED: frozenset({_S.CAPTURED, _S.AUTHORIZED}),
    Progress.CAPTURED: frozenset({_S.CAPTURED}),
    Progress.FAILED: frozenset({_S.FAILED}),
    Progress.CANCELED: frozenset({_S.CANCELED}),
}
# A refund's or dispute's state that makes older words about it no news.
_REFUND_KNOWN = {
    RefundProgress.PENDING: ("pending", "succeeded", "failed"),
    RefundProgress.SUCCEEDED: ("succeeded", "failed"),
    RefundProgress.FAILED: ("failed",),
}
_DISPUTE_KNOWN = {
    DisputeProgress.OPEN: ("won", "lost"),
    DisputeProgress.WON: ("won",),
    DisputeProgress.LOST: ("lost",),
}


@dataclass(frozen=True, slots=True)
class Received:
    """What became of an event on arrival. `lease` is set where its processing is now the receiver's."""

    outcome: str  # new, duplicate, known, ignored
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """An event of the inbox with its claims, which nobody believes."""

    id: str
    gateway: str
    type: str
    payment_id: str | None  # Ours, once found.
    ref: str | None
    about_more: bool  # It speaks of more than the payment's own state: a refund, a dispute.
    received_at: Microseconds


# ── Receiving ──────────


async def receive(core: Core, event: WebhookEvent) -> Received:
    """Commit the event's row before it is answered. Raises database errors: then the gateway sends it again."""
    if not event.relevant:
        return Received("ignored")
    return await core.write(_receive, core, event, row_id=core.ids.new("whk"), token=core.ids.new("lease"))


async def _receive(tx: Transaction, core: Core, event: WebhookEvent, *, row_id: str, token: str) -> Received:
    now = core.clock.now()
    payment = await _find_payment(tx, event)
    if payment is None and not _may_become_ours(event):
        # Other software uses the same account at the gateway; refusing its events would end the endpoint there.
        return Received("ignored")
    if payment is not None and not event.signed and await _joins_one_that_waits(tx, payment, event, now=now):
        return Received("known")
    known = payment is not None and await _is_known(tx, core, payment, event)
    state = "processed" if known else "parked" if payment is None else "recorded"
    mine = state == "recorded"
    inserted = await tx.execute(
        _INSERT,
        {
            "id": row_id,
            "gateway": event.gateway,
            "event_id": event.id,
            "type": event.type,
            "payment_id": None if payment is None else payment.id,
            "claims": json.dumps(_claims(event), sort_keys=True),
            "state": state,
            "outcome": "known already" if known else None,
            "created_at": event.created_at,
            "now": now,
            "finished_at": now if known else None,
            "due_at": None if known else now + (0 if mine else _FIRST_WAIT_SECONDS * SECOND),
            "tries": 1 if mine else 0,
            "token": token if mine else None,
            "lease_until": now + core.policy.lease_seconds * SECOND if mine else 0,
        },
    )
    if not inserted:
        return Received("duplicate")
    if payment is not None and event.signed:
        # Anybody can repeat what nobody signed; what comes of it is in the history with its trigger.
        detail = {"gateway": event.gateway, "type": event.type, "event": event.id, "known": known}
        await journal.note(
            tx, "webhook.received", order_id=payment.order_id, payment_id=payment.id, detail=detail, now=now
        )
    return Received("known" if known else "new", Lease("inbox", row_id, token, 1) if mine else None)


_INSERT = """
INSERT INTO inbox (id, gateway, event_id, type, payment_id, claims, state, outcome, created_at, received_at,
    finished_at, due_at, tries, lease_token, lease_until)
VALUES (:id, :gateway, :event_id, :type, :payment_id, :claims, :state, :outcome, :created_at, :now,
    :finished_at, :due_at, :tries, :token, :lease_until)
ON CONFLICT (gateway, event_id) DO NOTHING
"""


async def _joins_one_that_waits(tx: Transaction, payment: Payment, event: WebhookEvent, *, now: Microseconds) -> bool:
    """Whether an unsigned event that says the same waits for its reading already, which then tells this news as well.

    Only one that nobody works on: a reading that has begun may be older than this news, and must not use it up. What
    waits is read soon, however long it had to wait by now, and for as long as a new event would be.
    """
    joined = await tx.execute(
        _JOIN,
        {
            "gateway": event.gateway,
            "payment_id": payment.id,
            "claims": json.dumps(_claims(event), sort_keys=True),
            "now": now,
            "soon": now + _FIRST_WAIT_SECONDS * SECOND,
        },
    )
    return bool(joined)


_JOIN = """
UPDATE inbox SET received_at = :now, due_at = CASE WHEN due_at < :soon THEN due_at ELSE :soon END
WHERE gateway = :gateway AND payment_id = :payment_id AND claims = :claims AND lease_token IS NULL
    AND state IN ('recorded', 'parked')
"""


def _claims(event: WebhookEvent) -> dict[str, Any]:
    return {
        "ref": event.ref,
        "capture_ref": event.capture_ref,
        "payment_id": event.payment_id,
        "about_more": event.progress is None,
        "refund": None if event.refund is None else event.refund[0],
        "dispute": None if event.dispute is None else event.dispute[0],
    }


async def _find_payment(tx: Transaction, event: WebhookEvent) -> Payment | None:
    return await _find(tx, event.gateway, _claims(event))


async def _find(tx: Transaction, gateway: str, claims: Mapping[str, Any]) -> Payment | None:
    """The payment that an event names by any of its ids; one of another gateway is none."""
    found = None
    if claims["ref"] is not None:
        found = await payments.find_by_ref(tx, gateway, claims["ref"])
    if found is None and claims["capture_ref"] is not None:
        found = await payments.find_by_capture(tx, gateway, claims["capture_ref"])
    if found is None and claims["payment_id"] is not None:
        found = await payments.find(tx, claims["payment_id"])
    return found if found is not None and found.gateway == gateway else None


def _may_become_ours(event: WebhookEvent) -> bool:
    """Whether an event that belongs to no payment here may still be ours, because it came too early.

    Our own ids tell. Events of refunds and disputes may name only the gateway's ids, which we learn with an answer.
    What nobody signed is dropped, or any stranger could fill the inbox; the object's first reading tells the same.
    """
    if not event.signed:
        return False
    if event.payment_id is not None:
        return True
    return event.progress is None and (event.ref is not None or event.capture_ref is not None)


async def _is_known(tx: Transaction, core: Core, payment: Payment, event: WebhookEvent) -> bool:
    if event.refund is not None:
        ref, progress = event.refund
        row = await tx.fetch_one(
            "SELECT state FROM refunds WHERE gateway = :gateway AND gateway_ref = :ref",
            {"gateway": event.gateway, "ref": ref},
        )
        return row is not None and row["state"] in _REFUND_KNOWN[progress]
    if event.dispute is not None:
        ref, standing = event.dispute
        row = await tx.fetch_one(
            "SELECT state FROM disputes WHERE gateway = :gateway AND gateway_ref = :ref",
            {"gateway": event.gateway, "ref": ref},
        )
        return row is not None and row["state"] in _DISPUTE_KNOWN[standing]
    if event.progress is None:
        return False
    if payment.status is PaymentStatus.HELD:
        return event.progress is Progress.CAPTURED and payment.capture_ref is not None
    declined_before = payment.status is PaymentStatus.AWAITING_BUYER and payment.decline_code is not None
    if declined_before and core.policy.declines is not None:
        # Each further decline counts, though it says nothing new to the buyer.
        return False
    return payment.status in _KNOWN_IN[event.progress] or (
        event.progress is Progress.AWAITING_BUYER and declined_before
    )


# ── What is due ──────────


async def stored(tx: Transaction, event_id: str) -> Stored | None:
    """The event with the inbox's own id, with its payment looked for again; None if it is finished."""
    row = await tx.fetch_one("SELECT * FROM inbox WHERE id = :id AND state IN ('recorded', 'parked')", {"id": event_id})
    if row is None:
        return None
    claims = json.loads(row["claims"])
    payment = await _find(tx, row["gateway"], claims)
    return Stored(
        id=row["id"],
        gateway=row["gateway"],
        type=row["type"],
        payment_id=None if payment is None else payment.id,
        ref=claims["ref"],
        about_more=claims["about_more"],
        received_at=row["received_at"],
    )


async def finish(tx: Transaction, lease: Lease, *, outcome: str, payment_id: str, now: Microseconds) -> None:
    """Mark the event processed, inside the transaction of its effect. A repetition changes nothing.

    Whoever lost his lease marks nothing: news that joined the event since then may be newer than his reading. An event
    of a refund or dispute that the reading did not show stays due: the gateway's reading lags behind its news.
    """
    row = await tx.fetch_one("SELECT gateway, claims FROM inbox WHERE id = :id", {"id": lease.id})
    if row is None or not await _is_here(tx, row["gateway"], json.loads(row["claims"])):
        return
    await tx.execute(
        "UPDATE inbox SET state = 'processed', outcome = :outcome, payment_id = :payment_id, finished_at = :now,"
        " due_at = NULL, lease_token = NULL, lease_until = 0"
        " WHERE id = :id AND lease_token = :token AND state IN ('recorded', 'parked')",
        {"id": lease.id, "token": lease.token, "outcome": outcome, "payment_id": payment_id, "now": now},
    )


async def _is_here(tx: Transaction, gateway: str, claims: Mapping[str, Any]) -> bool:
    for table in ("refund", "dispute"):
        ref = claims.get(table)
        found = ref is None or await tx.fetch_one(
            f"SELECT 1 AS found FROM {table}s WHERE gateway = :gateway AND gateway_ref = :ref",  # noqa: S608
            {"gateway": gateway, "ref": ref},
        )
        if not found:
            return False
    return True


async def postpone(tx: Transaction, core: Core, lease: Lease, event: Stored, why: str) -> None:
    """Try again later; an event that stays nobody's for days is not ours, and is kept as ignored."""
    now = core.clock.now()
    if now - event.received_at > core.policy.parked_seconds * SECOND:
        await tx.execute(
            "UPDATE inbox SET state = 'ignored', outcome = :why, finished_at = :now WHERE id = :id"
            " AND state IN ('recorded', 'parked')",
            {"id": event.id, "why": why, "now": now},
        )
        await give_back(tx, lease, due_at=None)
        if event.payment_id is not None:
            case = await lock_case(tx, core, event.payment_id, trigger="webhook")
            next_step = "Compare the payment with the gateway's own page: it told something that it does not show us."
            await case.alarm("webhook_without_effect", webhook=event.id, type=event.type, next_step=next_step)
        return
    wait = backoff_seconds(lease.tries, first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS, salt=event.id)
    state = "parked" if event.payment_id is None else "recorded"
    await tx.execute(
        "UPDATE inbox SET state = :state, outcome = :why WHERE id = :id AND state IN ('recorded', 'parked')",
        {"id": event.id, "state": state, "why": why},
    )
    await give_back(tx, lease, due_at=now + wait * SECOND)
