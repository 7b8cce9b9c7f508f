"""Logging by structlog, with one scrubber that every line passes, those of libraries included."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO
from urllib.parse import urlsplit, urlunsplit

import structlog
from structlog.typing import EventDict, Processor

HIDDEN = "[hidden]"

# A key with one of these words in it never shows its value. Ids of payments and requests are not secrets.
_SECRET_KEY = re.compile(
    r"authori[sz]ation|secret|password|passwd|token|cookie|api_?key|session|signature|card|cvc|cvv|\bpan\b",
    re.IGNORECASE,
)
_SECRET_VALUES = (
    re.compile(r"\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9_]+"),
    re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"),
    re.compile(r"\b[A-Za-z0-9]+_[A-Za-z0-9]+_secret_[A-Za-z0-9_]+"),
    re.compile(r"\b(?:Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE),
    re.compile(r"(?i)\b(?:password|client_secret|access_token|refresh_token)[\"']?\s*[=:]\s*[\"']?[^\s\"'&,}]+"),
)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_DIGITS = re.compile(r"(?<![0-9A-Za-z_])\d(?:[ -]?\d){12,18}(?![0-9A-Za-z_])")
_DEEPEST = 6


def configure_logging(
    *,
    log_format: Literal["console", "json"] = "console",
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send structlog and the standard library's logging through one pipeline to `stream` (default: standard error)."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Tracebacks become text here, so that the scrubber sees them too; without locals, which may hold anything.
        structlog.processors.format_exc_info,
        scrub,
    ]
    handler = logging.StreamHandler(stream or sys.stderr)
    renderer: Processor = structlog.processors.JSONRenderer()
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=False)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Our own request log replaces uvicorn's, which would write query strings.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def scrub(_logger: object, _method: str, event: EventDict) -> EventDict:
    """The processor: hides secrets by the names of keys and by the look of values."""
    return {key: _scrub_entry(key, value, 0) for key, value in event.items()}


def scrub_text(text: str) -> str:
    """`text` without secrets, card numbers, and the query strings of addresses."""
    text = _URL.sub(lambda match: _without_query(match[0]), text)
    for pattern in _SECRET_VALUES:
        text = pattern.sub(HIDDEN, text)
    return _DIGITS.sub(_hide_card, text)


def _scrub_entry(key: str, value: Any, depth: int) -> Any:
    # The pipeline's own record travels under a private name and is taken out before rendering.
    if key.startswith("_") or value is None or isinstance(value, bool):
        return value
    return HIDDEN if _SECRET_KEY.search(key) else _scrub_value(value, depth)


def _scrub_value(value: Any, depth: int) -> Any:
    cleaned: Any
    match value:
        case bool() | float() | None:
            cleaned = value
        case int():
            cleaned = HIDDEN if _looks_like_card(str(abs(value))) else value
        case str():
            cleaned = scrub_text(value)
        case bytes():
            cleaned = f"[{len(value)} bytes]"
        case _ if depth >= _DEEPEST:
            cleaned = HIDDEN
        case Mapping():
            cleaned = {str(key): _scrub_entry(str(key), item, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            cleaned = [_scrub_value(item, depth + 1) for item in value]
        case _:
            cleaned = scrub_text(repr(value))
    return cleaned


def _without_query(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    user, mark, host = parts.netloc.rpartition("@")
    host = f"{HIDDEN}{mark}{host}" if user else host
    return urlunsplit((parts.scheme, host, parts.path, HIDDEN if parts.query else "", ""))


def _hide_card(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match[0])
    return HIDDEN if _looks_like_card(digits) else match[0]


def _looks_like_card(digits: str) -> bool:
    """Luhn's check on 13 to 19 digits, as on every payment card."""
    if not 13 <= len(digits) <= 19:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if place % 2 else 1)
        total += number - 9 if number > 9 else number
    return total % 10 == 0
