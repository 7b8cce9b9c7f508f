"""Logging by structlog, with one scrubber that every line passes, those of libraries included."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

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
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
