"""`manage.py paidonce_worker`: does what time demands, until it is ended."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any

from paidonce.contrib.django import runtime
from paidonce.contrib.django.commands import Command as Base


class Command(Base):
    """Recovery, expiry, and telling your systems of events."""

    help = "Settle payments that nobody came back for, send refunds, end what ran out, tell events. Any number may run."

    def work(self, **_: Any) -> None:
        """Work until Ctrl-C or SIGTERM, at any moment of which nothing is lost."""
        with suppress(KeyboardInterrupt):
            asyncio.run(self._work())
        self._say("The worker has ended.")

    async def _work(self) -> None:
        async with runtime.open_worker() as worker:
            working = asyncio.create_task(worker.run())
            # A supervisor's SIGTERM ends it like Ctrl-C, so that connections are closed and not dropped.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
            self._say("The worker runs.   (Ctrl-C ends it, at any moment)")
            with suppress(asyncio.CancelledError):
                await working

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        # A supervisor reads through a pipe, where lines would wait for company.
        self.stdout.flush()
