"""Settings, the work that is due, and what waits for a person."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from paidonce import deliveries, guard
from paidonce.doctor.database import is_current, opened
from paidonce.doctor.patient import Patient, as_fix
from paidonce.errors import DatabaseError
from paidonce.gateways.base import Finding, Health
from paidonce.ports import SECOND, Transaction

# What is due and not being worked on. Each is one table of `tables._lease`.
_DUE = {
    "payments": "SELECT min(due_at) AS first, count(*) AS n FROM payments WHERE due_at <= :now AND lease_until <= :now",
    "events of gateways": (
        "SELECT min(due_at) AS first, count(*) AS n FROM inbox WHERE due_at <= :now AND lease_until <= :now"
    ),
}
# Only the first that waits of its order and endpoint: those behind it are nobody's to send yet.
_DELIVERIES = """
SELECT endpoint, min(due_at) AS first, count(*) AS n FROM deliveries d
WHERE state = 'waiting' AND due_at <= :now AND lease_until <= :now AND NOT EXISTS (SELECT 1 FROM deliveries e
    WHERE e.endpoint = d.endpoint AND e.order_id = d.order_id AND e.state = 'waiting' AND e.seq < d.seq)
GROUP BY endpoint ORDER BY endpoint
"""
_SHOWN = 5


async def settings(patient: Patient) -> Sequence[Finding]:
    """What the settings themselves tell, and whether the shop would start with them."""
    rights = set() if patient.file is None else set(guard.file_problems(patient.file))
    refused = [one for one in patient.refused if one not in rights]
    found = [_refused(one) for one in refused]
    if not refused:
        found.append(Finding("settings", Health.GREEN, "The settings can be read and don't contradict each other."))
    if not patient.gateways:
        fix = "Set those of one in the environment or .env; docs/configuration.md lists them."
        found.append(Finding("gateways", Health.RED, "No gateway has keys, so nothing can be paid.", fix))
    return [*found, *_second_look(patient), *_limits(patient)]


def _refused(problem: str) -> Finding:
    """What the start-up guard says, as a finding: behind its last semicolon stands what to do."""
    text, _, fix = problem.rpartition("; ")
    return Finding("settings", Health.RED, f"The shop won't start. {text}.", as_fix(fix))


def _second_look(patient: Patient) -> Iterator[Finding]:
    if patient.settings.second_look_above:
        yield Finding("second_look", Health.GREEN, "Large refunds need the password again.")
        return
    yield Finding(
        "second_look",
        Health.YELLOW,
        "Staff who are signed in can refund any sum without giving the password again.",
        'Set PAIDONCE_SECOND_LOOK_ABOVE, such as "100.00 EUR".',
    )


def _limits(patient: Patient) -> Iterator[Finding]:
    processes = os.environ.get("WEB_CONCURRENCY", "1")
    several = processes.isdigit() and int(processes) > 1
    if patient.settings.limits != "memory":
        yield Finding("limits", Health.GREEN, "All processes count attempts together.")
    elif several:
        yield Finding(
            "limits",
            Health.YELLOW,
            f"Each of {processes} processes (WEB_CONCURRENCY) counts attempts for itself, so that so many times more"
            " get through.",
            "Set PAIDONCE_LIMITS=database.",
        )
    else:
        yield Finding("limits", Health.GREEN, "Attempts are counted in the one process that serves.")


async def work(patient: Patient) -> Sequence[Finding]:
    """Whether somebody does what is due."""
    due = await _read(patient, _due)
    if due is None:
        return []
    late = {what: row for what, row in due.items() if row["first"] is not None}
    seconds = max(((patient.clock.now() - int(row["first"])) // SECOND for row in late.values()), default=0)
    limits = patient.limits
    if seconds < limits.overdue_yellow_seconds:
        return [Finding("work", Health.GREEN, "Nothing that is due has been waiting.")]
    waiting = ", ".join(f"{row['n']} {what}" for what, row in late.items())
    health = Health.RED if seconds >= limits.overdue_red_seconds else Health.YELLOW
    text = f"Work has been waiting for {seconds // 60} minutes: {waiting}. No worker runs, or it can't keep up."
    fix = f"Start one ({patient.worker}), or leave PAIDONCE_WORKER on where the shop is served; its log says more."
    return [Finding("work", health, text, fix)]


async def _due(tx: Transaction, patient: Patient) -> dict[str, Any]:
    now = {"now": patient.clock.now()}
    due = {what: await tx.fetch_one(sql, now) for what, sql in _DUE.items()}
    rows = [row for row in await tx.fetch_all(_DELIVERIES, now) if _is_served(row["endpoint"], patient)]
    first = min((int(row["first"]) for row in rows), default=None)
    return {**due, "deliveries to your systems": {"first": first, "n": sum(row["n"] for row in rows)}}


def _is_served(endpoint: str, patient: Patient) -> bool:
    """Whether a worker with these settings tells it. Which subscribers there are, only its process knows."""
    return deliveries.is_subscriber(endpoint) or endpoint in patient.settings.endpoints().names


async def trouble(patient: Patient) -> Sequence[Finding]:
    """What only a person can end."""
    found = await _read(patient, _troubles)
    if found is None:
        return []
    return found or [Finding("trouble", Health.GREEN, "No payment is held, and there was no alarm lately.")]


async def _troubles(tx: Transaction, patient: Patient) -> list[Finding]:
    looks = (_held, _alarms, _given_up, _left_behind)
    return [finding for look in looks for finding in await look(tx, patient)]


async def _held(tx: Transaction, patient: Patient) -> Sequence[Finding]:
    rows = await tx.fetch_all("SELECT order_id FROM payments WHERE status = 'held' ORDER BY created_at DESC")
    if not rows:
        return []
    shown = ", ".join(str(row["order_id"]) for row in rows[:_SHOWN])
    text = f"Payments held, because the gateway's object contradicts the order: {len(rows)} (of orders {shown})."
    return [Finding("trouble.held", Health.YELLOW, text, f"Run {patient.explain} with each order; it says what to do.")]


async def _alarms(tx: Transaction, patient: Patient) -> Sequence[Finding]:
    since = patient.clock.now() - patient.limits.alarm_hours * 3600 * SECOND
    rows = await tx.fetch_all(
        "SELECT type, order_id FROM outbox WHERE type LIKE 'alarm.%' AND created_at > :since ORDER BY seq DESC",
        {"since": since},
    )
    if not rows:
        return []
    types = ", ".join(sorted({str(row["type"]) for row in rows}))
    orders = ", ".join(list(dict.fromkeys(str(row["order_id"]) for row in rows))[:_SHOWN])
    text = f"Alarms within the last {patient.limits.alarm_hours} hours: {len(rows)} ({types}; of {orders})."
    fix = f"Run {patient.explain} with each; docs/events.md tells more."
    return [Finding("trouble.alarms", Health.YELLOW, text, fix)]


async def _given_up(tx: Transaction, _patient: Patient) -> Sequence[Finding]:
    row = await tx.fetch_one("SELECT count(*) AS n FROM deliveries WHERE state = 'given_up'")
    if row is None or not row["n"]:
        return []
    text = f"Your own systems were not told of events, and that was given up: {row['n']}."
    fix = "Run: paidonce events list --undelivered, mend the receiver, then paidonce events replay."
    return [Finding("trouble.events", Health.YELLOW, text, fix)]


async def _left_behind(tx: Transaction, patient: Patient) -> Sequence[Finding]:
    rows = await tx.fetch_all(
        "SELECT endpoint, count(*) AS n FROM deliveries WHERE state = 'waiting' GROUP BY endpoint ORDER BY endpoint"
    )
    left = {str(row["endpoint"]): row["n"] for row in rows if not _is_served(row["endpoint"], patient)}
    if not left:
        return []
    named = ", ".join(list(left)[:_SHOWN])
    text = f"Events wait for addresses that PAIDONCE_EVENT_URLS does not name any more: {sum(left.values())} ({named})."
    fix = "Name the address there again, or delete its waiting rows from the table deliveries: nobody sends them."
    return [Finding("trouble.endpoint", Health.YELLOW, text, fix)]


async def _read(patient: Patient, read: Any) -> Any:
    """What `read(tx, patient)` gives; None where the database can't be asked, which the look at it has told."""
    if patient.file is not None and not patient.file.exists():
        return None
    try:
        async with opened(patient) as database:
            return await database.read(read, patient) if await is_current(database) else None
    except DatabaseError:
        return None
