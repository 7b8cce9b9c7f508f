"""`paidonce events`: what an operator sees of the merchant's systems, and how events are told again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import paidonce.db
from conftest import run_apart
from paidonce import cli_events, deliveries, outbox
from paidonce.core import Core
from paidonce.deliveries import Endpoints
from paidonce.errors import ConfigError, InvalidRequest
from paidonce.gateways.transport import AiohttpTransport
from paidonce.outbox import Event
from paidonce.ports import RandomIds, Row, SystemClock, Transaction
from paidonce.secret import Secret
from paidonce.store import SqlStore

SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
SHUT = "http://127.0.0.1:1/events"
OTHER = "http://127.0.0.1:1/other?key=canary123"

Run = Callable[..., Result]


class World:
    """The database that the command works on, as the shop and its worker see it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.heard: list[str] = []

    def emit(self, event_type: str, order: str) -> str:
        async def work(core: Core) -> None:
            async def run(tx: Transaction) -> None:
                now = core.clock.now()
                await outbox.emit(tx, event_type, order_id=order, data={}, ids=core.ids, now=now)

            await core.db.transaction(run)

        self._with_core(work)
        return str(self.rows("SELECT id FROM outbox ORDER BY seq DESC LIMIT 1")[0]["id"])

    def rows(self, sql: str) -> list[Row]:
        async def work(core: Core) -> list[Row]:
            async def read(tx: Transaction) -> list[Row]:
                return list(await tx.fetch_all(sql))

            return await core.db.read(read)

        found: list[Row] = self._with_core(work)
        return found

    def work(self, *, urls: tuple[str, ...] = (SHUT,), subscriber: bool = True) -> None:
        """One round of a worker with a subscriber that listens and an address where nobody does."""

        async def hear(event: Event) -> None:
            self.heard.append(event.id)

        async def work(core: Core) -> None:
            transport = AiohttpTransport(core.clock)
            endpoints = Endpoints(urls=urls, secret=Secret(SECRET), subscribers={"erp": hear} if subscriber else {})
            await deliveries.run_due(core, endpoints, transport=transport)
            await transport.close()

        self._with_core(work)

    def _with_core(self, work: Callable[[Core], Any]) -> Any:
        async def run() -> Any:
            database = await paidonce.db.connect(self.url)
            try:
                return await work(Core(database, {}, SqlStore(), SystemClock(), RandomIds()))
            finally:
                await database.close()

        return run_apart(run)


@pytest.fixture
def world(database_url: str) -> World:
    return World(database_url)


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `paidonce events …` with the settings of a shop that tells one address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAIDONCE_SECRET_KEY", "a-long-key-for-these-tests-0123456789")
    monkeypatch.setenv("PAIDONCE_DATABASE_URL", world.url)
    monkeypatch.setenv("PAIDONCE_EVENT_URLS", SHUT)
    monkeypatch.setenv("PAIDONCE_EVENT_SECRET", SECRET)
    return lambda *words: CliRunner().invoke(cli_events.app, list(words))


def test_list_shows_each_event_and_how_far_each_endpoint_was_told(world: World, run: Run) -> None:
    assert run("list").output == "There are no such events.\n"
    before = world.emit("payment.pending", "ord_0")
    world.work()
    paid, pending = world.emit("order.paid", "ord_1"), world.emit("payment.pending", "ord_2")
    world.work()
    lines = run("list").output.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("evt_")] == [before, paid, pending]
    assert lines[1] == "    not handed out to anybody"
    about_paid = lines[lines.index(next(line for line in lines if line.startswith(paid))) :][:3]
    assert " order.paid  ord_1  " in about_paid[0]
    assert about_paid[1].startswith(f"    {SHUT}  waiting, again ")
    assert "1 try, last: POST 127.0.0.1:1/events: could not connect" in about_paid[1]
    assert about_paid[2].startswith("    subscriber:erp  delivered ")
    assert paid in run("list", "--order", "ord_1").output
    assert pending not in run("list", "--order", "ord_1").output
    undelivered = run("list", "--undelivered").output
    assert before not in undelivered
    assert paid in undelivered
    assert run("list", "--limit", "1").output.count("evt_") == 1


def test_replay_of_one_event_reaches_addresses_and_subscribers(world: World, run: Run) -> None:
    world.work()
    paid, other = world.emit("order.paid", "ord_1"), world.emit("order.paid", "ord_2")
    world.work()
    assert sorted(world.heard) == sorted([paid, other])
    ran = run("replay", "--id", paid)
    assert ran.exit_code == 0
    assert ran.output == "To be sent again by the worker: 1 event to 2 endpoints.\n"
    waiting = world.rows("SELECT endpoint, tries FROM deliveries WHERE state = 'waiting' ORDER BY endpoint, seq")
    assert [(row["endpoint"], row["tries"]) for row in waiting] == [(SHUT, 0), (SHUT, 1), ("subscriber:erp", 0)]
    world.work()
    assert world.heard[2:] == [paid]


def test_replay_to_one_endpoint_leaves_the_others_alone(world: World, run: Run) -> None:
    world.work()
    world.emit("order.paid", "ord_1")
    world.work()
    ran = run("replay", "--order", "ord_1", "--endpoint", "subscriber:erp")
    assert ran.output == "To be sent again by the worker: 1 event to 1 endpoint.\n"
    waiting = world.rows("SELECT endpoint, tries FROM deliveries WHERE state = 'waiting' ORDER BY endpoint")
    assert [(row["endpoint"], row["tries"]) for row in waiting] == [(SHUT, 1), ("subscriber:erp", 0)]


def test_replay_since_brings_history_to_an_address_that_is_new(world: World, run: Run) -> None:
    world.emit("order.paid", "ord_1")
    world.emit("order.paid", "ord_2")
    soon = datetime.now(UTC) + timedelta(hours=1)
    ran = run("replay", "--since", soon.isoformat())
    assert (ran.exit_code, ran.output) == (
        0,
        "To be sent again by the worker: 0 events to 1 endpoint.\n",
    )
    assert world.rows("SELECT id FROM deliveries") == []
    # Two hours ahead of UTC, that moment is in the past.
    there = soon.replace(tzinfo=None).isoformat() + "+02:00"
    assert run("replay", "--since", there, "--endpoint", SHUT).exit_code == 0
    rows = world.rows("SELECT endpoint, state FROM deliveries")
    assert [(row["endpoint"], row["state"]) for row in rows] == [(SHUT, "waiting")] * 2


def test_replay_leaves_addresses_out_that_are_no_longer_configured(world: World, run: Run) -> None:
    world.work(urls=(SHUT, OTHER), subscriber=False)
    paid = world.emit("order.paid", "ord_1")
    assert "1 event to 1 endpoint." in run("replay", "--id", paid).output
    assert [row["endpoint"] for row in world.rows("SELECT endpoint FROM deliveries")] == [SHUT]
    # It can still be named, by its address or by what the list calls it, and its query is not shown.
    assert run("replay", "--id", paid, "--endpoint", OTHER).exit_code == 0
    listed = run("list").output
    assert deliveries.endpoint_name(OTHER) in listed
    assert "canary123" not in listed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "exactly one of --id, --order and --since"),
        (("--id", "evt_1", "--order", "ord_1"), "exactly one of --id, --order and --since"),
        (("--id", "evt_none"), "There is no event evt_none."),
        (("--order", "ord_none"), "There are no events of order ord_none."),
        (("--since", "yesterday"), "--since: this is no time"),
        (("--id", "evt_1", "--endpoint", "erp"), f"there is no such endpoint. Known are: {SHUT}."),
    ],
)
def test_replay_names_what_is_wrong_and_changes_nothing(
    world: World, run: Run, words: tuple[str, ...], said: str
) -> None:
    world.emit("order.paid", "ord_1")
    ran = run("replay", *words)
    assert isinstance(ran.exception, InvalidRequest)
    assert said in str(ran.exception)
    assert world.rows("SELECT id FROM deliveries") == []


def test_replay_without_anybody_to_tell_says_so(world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIDONCE_EVENT_URLS", "")
    ran = run("replay", "--id", world.emit("order.paid", "ord_1"))
    assert isinstance(ran.exception, InvalidRequest)
    assert "PAIDONCE_EVENT_URLS" in str(ran.exception)


def test_old_schema_is_named_before_anything_is_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAIDONCE_DATABASE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    for words in (["list"], ["replay", "--id", "evt_1"]):
        ran = run(*words)
        assert isinstance(ran.exception, ConfigError)
        assert "paidonce migrate" in str(ran.exception)
