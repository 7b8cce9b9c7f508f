"""The Django app: it registers its checks and lets its log pass through Django's LOGGING, scrubbed."""

from __future__ import annotations

import structlog
from django.apps import AppConfig

from paidonce.scrubbing import scrub


class PaidonceConfig(AppConfig):
    """`paidonce.contrib.django` in INSTALLED_APPS."""

    name = "paidonce.contrib.django"
    label = "paidonce"
    verbose_name = "Payments"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks. Nothing is connected yet."""
        from paidonce.contrib.django import checks

        checks.register_all()
        if not structlog.is_configured():
            _log_through_django()


def _log_through_django() -> None:
    """A project that configures structlog itself keeps that; its scrubber is then its own business."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            scrub,
            structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
