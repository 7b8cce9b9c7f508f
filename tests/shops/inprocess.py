"""What adapters share whose shop is an ASGI application: they serve it in a thread of the test's own process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import paidonce.db
from paidonce import serving
from paidonce.assembly import assemble
from paidonce.config import load_settings
from paidonce.ports import Row, Transaction
from paidonce.store import Store
from support.shop import ShiftedClock
from support.webshop import Answer, Client


class OwnCodeFailed(Exception):
    """The shop's own code had a bad moment."""


class Trigger:
    """Lets a shop's own code fail in the next settling transaction, once."""

    def __init__(self) -> None:
        self.armed = False

    def pull(self) -> None:
        """Called by the shop's own code after it has written its row."""
        if self.armed:
            self.armed = False
            raise OwnCodeFailed


class Served:
    """The parts of `RunningShop` that are the same for all of them."""

    api, webhooks = "/api", "/webhooks"

    def __init__(self, environment: Mapping[str, str], store: Store, clock: ShiftedClock, trigger: Trigger) -> None:
        self.url = environment["PAIDONCE_PUBLIC_URL"]
        self._environment = environment
        self._store = store
        self._clock = clock
        self._trigger = trigger
        self._signed_in: dict[str, dict[str, str]] = {}

    async def sign_in(self, browser: Client, buyer: int) -> None:
        await self._come_in(browser, f"buyer{buyer}@example.com")

    async def sign_in_as_staff(self, browser: Client) -> None:
        await self._come_in(browser, "staff@example.com")

    async def _come_in(self, browser: Client, email: str) -> None:
        """Everybody signs in once; later they come with the cookie, as people do. Hashing passwords takes time."""
        if email not in self._signed_in:
            answer = await self.send_password(browser, email)
            self._signed_in[email] = {name: morsel.value for name, morsel in answer.cookies.items()}
            assert self._signed_in[email], answer.text
        browser.set_cookies(**self._signed_in[email])

    async def send_password(self, browser: Client, email: str) -> Answer:
        """The shop's own way of signing in."""
        raise NotImplementedError

    async def rows(self, sql: str, **params: object) -> Sequence[Row]:
        """What stands in the shop's database, by a connection of the test's own."""

        async def read(tx: Transaction) -> Sequence[Row]:
            return await tx.fetch_all(sql, params)

        database = await paidonce.db.connect(self._environment["PAIDONCE_DATABASE_URL"])
        try:
            return await database.read(read)
        finally:
            await database.close()

    async def fail_next_settling(self) -> None:
        self._trigger.armed = True

    async def pass_seconds(self, seconds: int) -> None:
        self._clock.pass_seconds(seconds)

    async def recover(self) -> None:
        """As `paidonce recover --once` does, beside the shop."""
        settings = load_settings(self._environment)
        parts = assemble(settings, self._environment, store=self._store, clock=self._clock)
        async with parts.worker() as worker:
            await worker.run_once()


@contextmanager
def listening(database_url: str, settings: Mapping[str, str]) -> Iterator[tuple[Any, dict[str, str]]]:
    """A socket on a free port, and the environment of the shop that will be served there."""
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        yield (
            listener,
            {
                **settings,
                "PAIDONCE_DATABASE_URL": database_url,
                "PAIDONCE_PUBLIC_URL": f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}",
                "PAIDONCE_SECRET_KEY": "a-key-for-tests-0123456789-abcdefgh",
                # The tests say themselves when time does its work.
                "PAIDONCE_WORKER": "0",
            },
        )
