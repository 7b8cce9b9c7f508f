"""The doctor in a Django project: Django's own checks, then the same looks as everywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from django.conf import settings as project

from paidonce import guard
from paidonce.contrib.django import checks
from paidonce.contrib.django.runtime import Parts, webhooks_path
from paidonce.db.django import ThreadedDatabase
from paidonce.doctor import Finding, Health, Limits, Patient, examine
from paidonce.doctor.patient import DateWatch
from paidonce.gateways.base import Transport
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import Clock, Database, SystemClock


@asynccontextmanager
async def open_patient(
    *, clock: Clock | None = None, transport: Transport | None = None, limits: Limits | None = None
) -> AsyncIterator[Patient]:
    """The project's shop. A `transport` that is passed in stays the caller's to close. Raises `ConfigError`."""
    parts = Parts.read()
    clock = clock or SystemClock()
    own = AiohttpTransport(clock)
    dates = DateWatch(transport or own, clock)

    async def open_database() -> Database:
        return ThreadedDatabase(parts.conf.database)

    gateways = configure_all(parts.environment, dates, clock)
    try:
        yield Patient(
            settings=parts.settings,
            environment=parts.environment,
            gateways=gateways,
            dates=dates,
            transport=transport or own,
            clock=clock,
            open_database=open_database,
            file=parts.file,
            hosted=True,
            refused=guard.problems(
                parts.settings,
                parts.environment,
                gateways,
                file=parts.file,
                hosted=True,
                debug=bool(project.DEBUG),
            ),
            migrate="manage.py migrate",
            explain="manage.py paidonce_explain",
            worker="manage.py paidonce_worker",
            webhooks=webhooks_path(),
            limits=limits or Limits(),
        )
    finally:
        for gateway in gateways.values():
            await gateway.aclose()
        await own.close()


async def findings(patient: Patient, tell: Callable[[Finding], None]) -> list[Finding]:
    """Every finding, told as soon as it is there."""
    found = []
    # What the guard refuses is told by the look at the settings, in the same words as anywhere.
    for one in checks.check_settings():
        if one.msg not in patient.refused:
            health = Health.RED if one.is_serious() else Health.YELLOW
            found.append(Finding("django", health, str(one.msg), str(one.hint or "")))
            tell(found[-1])
    async for finding in examine(patient):
        found.append(finding)
        tell(finding)
    return found
