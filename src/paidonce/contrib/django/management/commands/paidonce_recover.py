"""`manage.py paidonce_recover`: does what is due now, and ends: for cron."""

from __future__ import annotations

import asyncio
from typing import Any

from paidonce.contrib.django import runtime
from paidonce.contrib.django.commands import Command as Base


class Command(Base):
    """One round of the worker."""

    help = "Do what is due now, and end: for cron. To go on for ever, run paidonce_worker."

    def work(self, **_: Any) -> None:
        """Do it, and say how much it was."""
        done = asyncio.run(_recover())
        self.stdout.write(f"Done: {done} pieces of work." if done else "Nothing was due.")


async def _recover() -> int:
    async with runtime.open_worker() as worker:
        return await worker.run_once()
