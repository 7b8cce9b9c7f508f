"""Where gateways tell their news: verify, commit a row, answer, and only then work on it.

Nothing of a webhook is believed before its signature was checked, and nothing of it afterwards: it makes us ask.
"""

from __future__ import annotations

import structlog
from fastapi import Request
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response

from paidonce import inbox, recovery
from paidonce.core import Core
from paidonce.errors import DatabaseError, NotFound, Problem, WebhookRefused, WebhookUnverifiable
from paidonce.leases import Lease
from paidonce.web.shop import wiring_of

log = structlog.get_logger("paidonce.webhooks")


class NotAccepted(Problem):
    """Forged, unreadable, stale, or not meant for this endpoint. The log says which."""

    code, status, title = "webhook_refused", 400, "Webhook refused"
    default_message = "This webhook could not be verified and was refused. The shop's log says why."


class NotVerifiable(Problem):
    """What the check needs is out of reach right now."""

    code, status, title = "service_unavailable", 503, "Please send it again"
    default_message = "This webhook can't be verified right now. Please send it again."


async def receive(gateway: str, request: Request) -> Response:
    """Take a gateway's signed news. 200 once it is kept, whoever's it is; 400 if forged; 503 to have it sent again."""
    core = wiring_of(request).running
    known = core.gateways.get(gateway)
    if known is None:
        raise NotFound("There is no such gateway here.")
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        event = await known.read_webhook(headers, await request.body())
    except WebhookRefused as error:
        log.warning("webhook_refused", gateway=gateway, reason=str(error))
        raise NotAccepted from None
    except WebhookUnverifiable as error:
        log.error("webhook_unverifiable", gateway=gateway, reason=str(error))
        raise NotVerifiable(retry_after_seconds=30) from None
    received = await inbox.receive(core, event)
    log.info("webhook", gateway=gateway, type=event.type, event_id=event.id, outcome=received.outcome)
    work = None if received.lease is None else BackgroundTask(_process, core, received.lease)
    return JSONResponse({"outcome": received.outcome}, background=work)


async def _process(core: Core, lease: Lease) -> None:
    """Work on an event right after its answer. Whatever fails is left to recovery, whose lease on it runs out."""
    try:
        await recovery.process_event(core, lease)
    except DatabaseError as error:
        log.error("webhook_left_to_recovery", inbox=lease.id, error=str(error))
