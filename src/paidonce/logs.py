"""Logging by structlog, with one scrubber that every line passes, those of libraries included."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import nullcontext, suppress
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from paidonce.scrubbing import scrub, scrub_text


class _Handler(logging.StreamHandler[TextIO]):
    """Writes what the pipeline made of a line."""

    def handleError(self, record: logging.LogRecord) -> None:
        """For a line that can't be made, as with a wrong placeholder. logging itself would print all its arguments."""
        error = sys.exception()
        told = "" if error is None else "".join(traceback.format_exception(error))
        text = scrub_text(f"A line of {record.name} ({record.pathname}:{record.lineno}) can't be logged.\n{told}")
        with suppress(OSError):
            sys.stderr.write(text)


class _Lines:
    """Where structlog's own lines go: to the handler's stream, without a detour through the standard library.

    The detour would cost more than all the rest of a line, and each request writes several.
    """

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler

    def msg(self, line: str) -> None:
        """Write one line. Whatever is wrong with the log, a payment must not fail for it."""
        with self._handler.lock or nullcontext(), suppress(OSError, ValueError):
            self._handler.stream.write(line + "\n")
            self._handler.stream.flush()

    debug = info = warning = error = critical = exception = msg


def _never_failing(renderer: Processor) -> Processor:
    def render(logger: object, method: str, event: EventDict) -> str:
        try:
            return str(renderer(logger, method, event))
        except Exception as error:  # What can't be shown must not be what fails.
            return f"A line of level {method} can't be logged: {type(error).__name__}"

    return render


def configure_logging(
    *,
    log_format: Literal["console", "json"] = "console",
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send structlog and the standard library's logging through one pipeline to `stream` (default: standard error)."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        # Tracebacks become text here, so that the scrubber sees them too; without locals, which may hold anything.
        structlog.processors.format_exc_info,
        scrub,
        # Behind the scrubber, which has nothing to look for in what is made here.
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = _Handler(stream or sys.stderr)
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
        processors=[*shared, _never_failing(renderer)],
        logger_factory=lambda *_: _Lines(handler),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
