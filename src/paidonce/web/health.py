"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

from typing import Any

import structlog
from starlette.responses import JSONResponse, Response

from paidonce.db import pending
from paidonce.errors import DatabaseError
from paidonce.web.api import CoreDep

log = structlog.get_logger(__name__)


async def healthz() -> dict[str, str]:
    """The process answers. It asks nobody else, so a slow database does not get it restarted."""
    return {"status": "ok"}


async def readyz(core: CoreDep) -> Response:
    """Ready for requests: the database answers and its schema is this version's. 503 with the reason otherwise."""
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
