"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

import time
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from paidonce.db import pending
from paidonce.errors import DatabaseError
from paidonce.web.api import CoreDep

log = structlog.get_logger(__name__)

# A full disk still reads well, so readiness remembers for a while that a request met a database that failed. Not for
# ever: requests are what would find out that it is well again.
_REMEMBERED_SECONDS = 10


def database_failed(app: Starlette) -> None:
    """A request has just met a database that could not do its work."""
    app.state.database_failed_at = time.monotonic()


def _failed_just_now(app: Starlette) -> bool:
    failed_at: float | None = getattr(app.state, "database_failed_at", None)
    return failed_at is not None and time.monotonic() - failed_at < _REMEMBERED_SECONDS


async def healthz() -> dict[str, str]:
    """The process answers. It asks nobody else, so a slow database does not get it restarted."""
    return {"status": "ok"}


async def readyz(request: Request, core: CoreDep) -> Response:
    """Ready for requests: the database answers, did so a moment ago, and has this version's schema; 503 otherwise."""
    if _failed_just_now(request.app):
        return _not_ready("database", "The database failed a moment ago: is its disk full? The log says more.")
    try:
        is_old = await pending(core.db)
    except DatabaseError as error:
        log.error("not_ready", error=str(error))
        return _not_ready("database", "The database can't be reached.")
    if is_old:
        return _not_ready("migrations", "The database's schema is not this version's; run: paidonce migrate")
    return JSONResponse({"status": "ready", "database": core.db.dialect})


def _not_ready(failed: str, reason: str) -> Response:
    body: dict[str, Any] = {
        "type": "/docs#problem-service_unavailable",
        "title": "Not ready",
        "status": 503,
        "detail": reason,
        "code": "service_unavailable",
        "failed": failed,
    }
    return JSONResponse(body, 503, headers={"Retry-After": "5"}, media_type="application/problem+json")
