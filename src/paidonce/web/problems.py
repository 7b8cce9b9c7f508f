"""Errors become HTTP here and nowhere else: problem documents (RFC 9457) for programs, pages for people."""

from __future__ import annotations

import re
import secrets
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from paidonce.errors import (
    CommitUnknown,
    DatabaseDown,
    Forbidden,
    GatewayError,
    GatewayUnavailable,
    InvalidRequest,
    NotFound,
    NotSignedIn,
    Problem,
    TooManyAttempts,
)
from paidonce.scrubbing import scrub_text
from paidonce.web import health
from paidonce.web.shop import has_pages, route_path

log = structlog.get_logger(__name__)

_MOST_ERRORS_NAMED = 5
_HOST_UNAVAILABLE = "The shop can't answer right now. Please try again in a moment; you are never charged twice."

ANSWERED: tuple[type[Exception], ...] = (
    Problem,
    DatabaseDown,
    CommitUnknown,
    GatewayError,
    HTTPException,
    RequestValidationError,
)

# How hosts say that nobody is signed in, or lead to their sign-in page.
_SIGN_IN_STATUSES = frozenset({401, 302, 303, 307})


class MethodNotAllowed(Problem):
    """The address exists, but not for this method."""

    code, status, title = "invalid_request", 405, "Method not allowed"
    default_message = "This address does not take this method. /docs lists what it takes."


class BodyTooLarge(Problem):
    """The request's body exceeds what any request here needs."""

    code, status, title = "invalid_request", 413, "Request too large"
    default_message = "The request is too large; send at most 64 KiB."


class BodyTooSlow(Problem):
    """The request's body did not arrive in time."""

    code, status, title = "invalid_request", 408, "Request too slow"
    default_message = "The request did not arrive in time; please send it again."


class HeadTooLarge(Problem):
    """The request's address and headers exceed what any request here needs."""

    code, status, title = "invalid_request", 431, "Request header too large"
    default_message = "The address and the headers of this request are too large; send at most 32 KiB and 100 headers."


class TwoLengths(Problem):
    """Two servers in a row might cut this request at two places, and read another one out of its rest."""

    code, status, title = "invalid_request", 400, "Two lengths"
    default_message = "Send either Content-Length or Transfer-Encoding, not both."


class NotJson(Problem):
    """The API takes JSON only; other content types are what foreign forms can send."""

    code, status, title = "invalid_request", 415, "Send JSON"
    default_message = "Send JSON with the header Content-Type: application/json."


class Refused(Problem):
    """A host's own refusal, with the host's status; its words belong to its pages."""

    code, title = "invalid_request", "The request was refused"
    default_message = "The shop refused this request."

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__()


class ServiceUnavailable(Problem):
    """The database can't be used right now."""

    code, status, title = "service_unavailable", 503, "Please try again in a moment"
    default_message = (
        "The shop can't save anything right now. Look at your orders before you try again; you are never charged twice."
    )


class Busy(ServiceUnavailable):
    """As many requests are worked on as the process takes at once; nothing was looked at, let alone done."""

    title = "The shop is very busy"
    default_message = (
        "The shop is very busy right now. Nothing was done or charged by this step; please try again in a moment. You"
        " are never charged twice."
    )


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem document or as a page."""
    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)


async def answer(request: Request, error: Exception) -> Response:
    """The answer to one of `ANSWERED`."""
    if isinstance(error, DatabaseDown | CommitUnknown):
        health.database_failed(request.app)
    if isinstance(error, HTTPException) and not _is_refusal(error):
        return unexpected(request, error)
    return render(request, to_problem(error), headers=_kept_headers(error))


def to_problem(error: Exception) -> Problem:
    """What a client may know of `error`."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return InvalidRequest(_explain(error.errors()))
        case HTTPException():
            return _from_http(error)
        case DatabaseDown() | CommitUnknown() | GatewayError():
            log.error("unavailable", kind=type(error).__name__, error=str(error))
            return _unavailable(error)
        case _:
            return Problem()


def _unavailable(error: DatabaseDown | CommitUnknown | GatewayError) -> Problem:
    if isinstance(error, DatabaseDown):
        return ServiceUnavailable(retry_after_seconds=5)
    advice = "Look at your orders before you try again; you are never charged twice."
    if isinstance(error, CommitUnknown):
        return ServiceUnavailable(f"We could not learn whether this was saved. {advice}", retry_after_seconds=5)
    return GatewayUnavailable(f"The payment service gave no clear answer. {advice}", retry_after_seconds=5)


def unexpected(connection: HTTPConnection, error: Exception) -> Response:
    """A bug: the details go to the log under an incident id, and the client learns the id only."""
    incident = "inc_" + secrets.token_hex(8)
    # Formatted here: whatever logging a host has set up, no renderer gets the chance to print local variables.
    trace = scrub_text("".join(traceback.format_exception(error)))
    log.error("unexpected_error", incident=incident, traceback=trace)
    return render(connection, Problem(), incident=incident)


def render(
    connection: HTTPConnection,
    problem: Problem,
    *,
    incident: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """`problem` as a page if a person's browser asks for a page, else as a problem document."""
    kept = dict(headers or {})
    if problem.retry_after_seconds is not None:
        kept["Retry-After"] = str(problem.retry_after_seconds)
    if isinstance(problem, TwoLengths | BodyTooSlow) and connection.scope.get("http_version", "").startswith("1"):
        # What is left of this request must neither be read as the next one nor hold the connection as it drips in.
        # HTTP/2 ends the stream by itself and knows no such header.
        kept["Connection"] = "close"
    if wants_page(connection):
        from paidonce.web.views import error_page

        return error_page(connection, problem, incident=incident, headers=kept)
    return JSONResponse(
        document(problem, incident), problem.status, headers=kept, media_type="application/problem+json"
    )


def document(problem: Problem, incident: str | None = None) -> dict[str, Any]:
    """The problem document of RFC 9457, with our stable `code`."""
    body: dict[str, Any] = {
        "type": f"/docs#problem-{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.message,
        "code": problem.code,
    }
    if problem.retry_after_seconds is not None:
        body["retry_after"] = problem.retry_after_seconds
    if incident is not None:
        body["incident"] = incident
    return body


def wants_page(connection: HTTPConnection) -> bool:
    """Whether a person looks at the answer: a browser asks for text/html, and the API is never a page."""
    if not has_pages(connection):
        return False
    path = route_path(connection.scope)
    is_machine = path.startswith(("/api/", "/assets/")) or path in {"/api", "/healthz", "/readyz", "/openapi.json"}
    return not is_machine and "text/html" in connection.headers.get("accept", "")


_OF_STATUS: Mapping[int, type[Problem]] = {
    **dict.fromkeys(_SIGN_IN_STATUSES, NotSignedIn),
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
}


def _from_http(error: HTTPException) -> Problem:
    status = error.status_code
    if status in _OF_STATUS:
        return _OF_STATUS[status]()
    if status == 429:
        return TooManyAttempts(retry_after_seconds=_retry_after(error))
    if status == 503:
        return ServiceUnavailable(_HOST_UNAVAILABLE, retry_after_seconds=_retry_after(error))
    if status == 400 and error.__cause__ is not None:
        # FastAPI's own word for what it could not parse; a host that refuses has no cause to name.
        return InvalidRequest("The body is not readable JSON. Send one JSON object in UTF-8.")
    return Refused(status) if 400 <= status < 500 else Problem()


def _is_refusal(error: HTTPException) -> bool:
    """Whether a host said no on purpose. Any other exception of its own is a bug, or trouble that somebody must see."""
    return error.status_code in _SIGN_IN_STATUSES or 400 <= error.status_code < 500 or error.status_code == 503


def _retry_after(error: HTTPException) -> int | None:
    """The seconds that a host wants to be left alone; None if it says a date, or nothing."""
    said = _kept_headers(error).get("Retry-After", "")
    return int(said) if re.fullmatch(r"[0-9]{1,7}", said) else None


def _kept_headers(error: Exception) -> Mapping[str, str]:
    # A 405 has to name the methods that work, and clients wait as long as they are told to. Whatever else a host's own
    # refusals carry belongs to its pages.
    given = error.headers or {} if isinstance(error, HTTPException) else {}
    return {name.title(): value for name, value in given.items() if name.lower() in {"allow", "retry-after"}}


def _explain(errors: Sequence[Any]) -> str:
    """Which fields are wrong and why; never what was sent, which may be a password."""
    named = [_explain_one(entry) for entry in errors[:_MOST_ERRORS_NAMED]]
    return " ".join(dict.fromkeys(named))


def _explain_one(entry: Any) -> str:
    place = ".".join(str(part) for part in entry["loc"] if part not in {"body", "query", "path"})
    if entry["type"] == "json_invalid":
        return "The body is not readable JSON. Send one JSON object in UTF-8."
    if entry["type"] == "extra_forbidden":
        # The name of a surplus field was chosen by the client, so it is cut to a harmless length.
        return f"{place[:80]}: this field is not known here; leave it out."
    message = str(entry["msg"]).removeprefix("Value error, ")
    return f"{place[:80] or 'body'}: {message[:1].lower()}{message[1:]}."
