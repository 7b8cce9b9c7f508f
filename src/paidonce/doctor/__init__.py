"""`paidonce doctor`: looks at everything that payments need, and says of each part how it is and what to do.

It reads. Nothing moves money, nothing is registered or changed at a gateway, and the one statement that writes to the
database is rolled back. Each look has an end, so that a part that does not answer is a finding and no waiting. The
core knows no gateway's name: a gateway looks at its own account (`gateways.base.Checkup`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from paidonce import scrubbing
from paidonce.doctor import address, database, gateways, shop
from paidonce.doctor.patient import Limits, Patient
from paidonce.errors import PaidonceError
from paidonce.gateways.base import Finding, Health

__all__ = ["Finding", "Health", "Limits", "Patient", "as_json", "as_lines", "examine", "worst"]

Look = Callable[[Patient], Awaitable[Sequence[Finding]]]

_ORDER = (Health.GREEN, Health.YELLOW, Health.RED)


async def examine(patient: Patient, *, tell: Callable[[str], None] = lambda _what: None) -> AsyncIterator[Finding]:
    """Every finding as soon as it is there. `tell` hears what is being looked at. Raises nothing of its own."""
    for name, what, look in _looks(patient):
        tell(what)
        for finding in await _guarded(name, look, patient):
            yield replace(finding, text=scrubbing.scrub_text(finding.text), fix=scrubbing.scrub_text(finding.fix))


def worst(findings: Sequence[Finding]) -> Health:
    """The reddest of them."""
    return max((one.health for one in findings), key=_ORDER.index, default=Health.GREEN)


def as_lines(finding: Finding) -> list[str]:
    """For people: how it is and what is so, and below it what to do."""
    lines = [f"{finding.health.value:<6}  {finding.check}: {finding.text}"]
    return [*lines, f"        → {finding.fix}"] if finding.fix else lines


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """For programs: the worst health, and every finding."""
    listed = [{"check": one.check, "health": one.health.value, "text": one.text, "fix": one.fix} for one in findings]
    return {"health": worst(findings).value, "findings": listed}


def _looks(patient: Patient) -> list[tuple[str, str, Look]]:
    """The name of each look's findings, what it looks at, and the look."""
    found: list[tuple[str, str, Look]] = [
        ("settings", "the settings", shop.settings),
        ("database", "the database", database.look),
        ("work", "the work that is due", shop.work),
        ("trouble", "held payments and alarms", shop.trouble),
        ("address", "the public address", address.look),
    ]
    for name in patient.gateways:
        found.append((name, f"{name}: keys and account", partial(gateways.look, name)))
        found.append((f"{name}.webhook", f"{name}: the way of its webhooks to us", partial(address.webhook, name)))
    return found


async def _guarded(name: str, look: Look, patient: Patient) -> Sequence[Finding]:
    seconds = patient.limits.look_seconds
    try:
        async with asyncio.timeout(seconds):
            return await look(patient)
    except TimeoutError:
        fix = "Look whether it can be reached from here, and run the doctor again."
        return [Finding(name, Health.RED, f"No answer within {seconds:g} seconds.", fix)]
    except PaidonceError as error:
        return [Finding(name, Health.RED, f"It can't be looked at: {error}", "Mend that, and run the doctor again.")]
    except Exception as error:
        # A bug in one look must not hide what the others find. Its message may quote anything, so its kind has to do.
        fix = "Please report this; it is a mistake of the doctor's own."
        return [Finding(name, Health.RED, f"The look itself failed ({type(error).__name__}).", fix)]
    finally:
        patient.dates.forget()
