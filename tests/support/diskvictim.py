"""A shop whose disk fails: run as a program below strace, it lives one day of the shop for every line that it reads.

strace lets the N-th call of a kind fail, counted in each thread. To start Python and strace for each failing call of a
day would take most of the time, so this program is started once, and each day is a fork of it. In a fork the thread
that writes to the database is a new one, whose calls are counted from one again; before the day begins it makes so many
calls without effect that the N-th is the wanted one of the day.

A line is JSON, the fields of `Day`; the answer is the fork's exit status. What buyers and staff are told is written to
a file at once, one JSON object a line. A day ends without closing anything, as if it was killed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import paidonce.db
from paidonce import checkout
from paidonce.db import migration, sqlite  # noqa: F401 - imported once for all days.
from paidonce.errors import CommitUnknown, DatabaseDown
from paidonce.gateways.paypal.sandbox import keys
from paidonce.gateways.registry import configure_all
from paidonce.logs import configure_logging
from paidonce.ports import Transaction
from paidonce.sandbox.app import SandboxTransport, sandbox_cores, sandbox_environment
from paidonce.store import OrderView
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop

T = TypeVar("T")

GATEWAYS = ("stripe", "paypal")
# Which call of the writing thread strace lets fail, by kind: more than a day makes of them.
FAILING_CALL = {"sync": 50, "write": 1000}
# So few that a day has several checkpoints, which write and sync as well.
CHECKPOINT_PAGES = 100


@dataclass(frozen=True)
class Day:
    """Where everything is, and which of the day's calls of a kind (`sync` or `write`) fails; 0: none does."""

    database: str
    said: str
    twins: str
    kind: str
    turn: int


class Voice:
    """Writes down what somebody was told, at the moment when he is told it."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(self, what: str, **facts: Any) -> None:
        """One line."""
        os.write(self._file, json.dumps({"what": what, **facts}).encode() + b"\n")


class Street:
    """Somebody at each gateway who orders, pays and gets a part back, and all webhooks about it."""

    def __init__(self, shop: Shop, voice: Voice) -> None:
        self._shop = shop
        self._voice = voice

    async def lives(self) -> None:
        """The whole day."""
        for gateway in GATEWAYS:
            await self._buyer(gateway)
            for webhook in self._shop.webhooks():
                await self._try("webhook", lambda webhook=webhook: self._shop.receive(webhook))  # type: ignore[misc]
        # Reading goes on, whatever is wrong with writing.
        self._voice.tell("end", pending=await paidonce.db.pending(self._shop.core.db))

    async def _buyer(self, gateway: str) -> None:
        order = await self._try("order", lambda: self._shop.order(("pen", 1)))
        if order is None:
            return
        self._voice.tell("ordered", order=order.id, minor=order.total.minor)
        started = await self._try("start", lambda: self._shop.start(order.id, gateway))
        if started is None:
            return
        self._voice.tell("started", payment=started.payment.id, order=order.id)
        await self._shop.agree(started)
        self._voice.tell("agreed", order=order.id)
        await self._pay(order, started)

    async def _pay(self, order: OrderView, started: checkout.Started) -> None:
        payment = started.payment.id
        result = await self._try("complete", lambda: self._shop.complete(payment))
        if result is None or result.order_status != "paid":
            return
        self._voice.tell("paid", order=order.id, payment=payment)
        done = await self._try("refund", lambda: self._shop.refund(payment, 100, request_key=order.id))
        if done is not None:
            self._voice.tell("refunded", refund=done.refund.id, payment=payment, minor=100, state=done.refund.state)

    async def _try(self, what: str, action: Callable[[], Awaitable[T]]) -> T | None:
        """Somebody who reads an error asks once more; None if he reads another one."""
        for _ in range(2):
            try:
                return await action()
            except (CommitUnknown, DatabaseDown) as error:
                self._voice.tell("error", step=what, kind=type(error).__name__, text=str(error))
        return None


async def live(day: Day) -> None:
    """One day, from opening the database on."""
    database = await paidonce.db.connect(day.database)
    await database.transaction(_prepare, day)
    twins = dict(sandbox_cores(SANDBOX_URL))
    shop = open_shop(database, clock=ShiftedClock(), twins=twins)
    await Street(shop, Voice(day.said)).lives()
    Path(day.twins).write_text(json.dumps({name: twin.dump() for name, twin in twins.items()}), "utf-8")


async def _prepare(tx: Transaction, day: Day) -> None:
    """In the thread that writes: tidy often, and make the calls before the day's first that strace shall count."""
    await tx.fetch_one(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    path = paidonce.db.sqlite_path(day.database)
    assert path is not None
    # SQLite has no locks on this file that closing it here would free.
    file = os.open(f"{path}-wal", os.O_RDWR)
    for _ in range(FAILING_CALL[day.kind] - day.turn if day.turn else 0):
        _call_without_effect(file, day.kind)
    os.close(file)


def _call_without_effect(file: int, kind: str) -> None:
    if kind == "write":
        os.pwrite(file, b"", 0)
    else:
        # SQLite uses the one or the other, depending on how it was built.
        os.fsync(file)
        os.fdatasync(file)


def _warm_up() -> None:
    """Whatever is imported or made when it is first used, all days have at once."""
    migration.expected()
    keys.make()
    twins, clock = dict(sandbox_cores(SANDBOX_URL)), ShiftedClock()
    configure_all(sandbox_environment(SANDBOX_URL), SandboxTransport(twins, clock, SANDBOX_URL), clock)
    gc.collect()
    gc.freeze()


def main() -> None:
    """Live days until standard input ends."""
    configure_logging(level="critical")
    _warm_up()
    for line in sys.stdin:
        day = Day(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio.run(live(day))
                status = 0
            finally:
                if status:
                    sys.excepthook(*sys.exc_info())
                os._exit(status)
        _, ended = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    main()
