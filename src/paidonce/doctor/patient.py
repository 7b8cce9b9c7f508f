"""What the doctor looks at, and how red is red."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

from paidonce.config import Settings
from paidonce.gateways.base import Gateway, HttpRequest, HttpResponse, Transport
from paidonce.ports import SECOND, Clock, Database


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is yellow or red. Bytes, seconds and days as the names say."""

    look_seconds: float = 20.0
    free_yellow_bytes: int = 1024**3
    free_red_bytes: int = 100 * 1024**2
    # Recovery looks at what is due every second; minutes mean that nobody does.
    overdue_yellow_seconds: int = 5 * 60
    overdue_red_seconds: int = 15 * 60
    # Webhooks whose time is more than 300 s away are refused.
    skew_yellow_seconds: int = 15
    skew_red_seconds: int = 240
    certificate_yellow_days: int = 14
    alarm_hours: int = 24


class DateWatch:
    """A transport that remembers by how much the answers' Date header differs from the clock here."""

    def __init__(self, inner: Transport, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._skews: list[int] = []

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """See `base.Transport`."""
        before = self._clock.now()
        answer = await self._inner.send(request, deadline_seconds=deadline_seconds)
        self._note(answer.headers.get("date", ""), before, self._clock.now())
        return answer

    def skew_seconds(self) -> int | None:
        """By how much the clock here is certainly ahead (negative: behind); None if no answer told its time."""
        return min(self._skews, key=abs, default=None)

    def forget(self) -> None:
        """Begin anew."""
        self._skews.clear()

    def _note(self, date: str, before: int, after: int) -> None:
        try:
            told = int(parsedate_to_datetime(date).timestamp())
        except (ValueError, OverflowError):
            return
        # The header has whole seconds, and nobody knows at which moment of the call it was written.
        first, last = before // SECOND, after // SECOND
        if first <= told + 1 and told <= last:
            self._skews.append(0)
        else:
            self._skews.append(last - told if told > last else first - told)


def as_fix(words: str) -> str:
    """Words of the start-up guard as a sentence; a command to run keeps its end free, so that it can be copied."""
    sentence = words[:1].upper() + words[1:]
    return sentence if sentence.startswith("Run: ") else f"{sentence}."


@dataclass(frozen=True, slots=True)
class Patient:
    """One shop as it is configured. `gateways` call through `dates`; `transport` is for the shop's own address."""

    settings: Settings
    environment: Mapping[str, str]
    gateways: Mapping[str, Gateway]
    dates: DateWatch
    transport: Transport
    clock: Clock
    # Raises `DatabaseDown` or `ConfigError`. Each look opens the database for itself and closes it.
    open_database: Callable[[], Awaitable[Database]]
    file: Path | None  # The SQLite file.
    hosted: bool  # Whether orders, users and pages are a host application's.
    refused: Sequence[str]  # Why the start-up guard would not let it start.
    migrate: str = "paidonce migrate"  # The command that brings the schema up to date.
    explain: str = "paidonce explain"
    worker: str = "paidonce worker"
    webhooks: str = "/webhooks/"  # The path that ends with a gateway's name.
    limits: Limits = field(default_factory=Limits)

    def webhook_url(self, gateway: str) -> str:
        """Where the webhooks of `gateway` go."""
        return f"{self.settings.origin}{self.webhooks}{gateway}"
