"""Events reach the merchant's systems: at least once, signed, in order per order, and whatever the receiver does."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import structlog
from aiohttp import web
from standardwebhooks import WebhookVerificationError

from paidonce import deliveries, outbox
from paidonce.core import Core
from paidonce.deliveries import Endpoints, Subscriber
from paidonce.errors import CommitUnknown, ConfigError, DatabaseDown
from paidonce.gateways.transport import AiohttpTransport
from paidonce.logs import configure_logging
from paidonce.outbox import Event
from paidonce.ports import SECOND, Database, RandomIds, Row, Transaction
from paidonce.secret import Secret
from paidonce.store import SqlStore
from support.receiver import Received, Receiver, receiving
from support.shop import ShiftedClock

SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
NEW_SECRET = "whsec_" + "YWJjZGVmZ2hpamFiY2RlZmdoaWphYmNkZWZnaGlqYWI="
DAY = 24 * 3600


@dataclass
class Outbox:
    """A database with events, a clock that moves, and a worker to call."""

    core: Core
    clock: ShiftedClock
    transport: AiohttpTransport
    subscribers: dict[str, Subscriber] = field(default_factory=dict)

    async def emit(self, event_type: str, order: str = "ord_1", **data: Any) -> str:
        """Emit an event; returns its id."""

        async def run(tx: Transaction) -> None:
            await outbox.emit(tx, event_type, order_id=order, data=data, ids=self.core.ids, now=self.clock.now())

        await self.core.db.transaction(run)
        return str((await self.rows("SELECT id FROM outbox ORDER BY seq DESC LIMIT 1"))[0]["id"])

    async def rows(self, sql: str, **params: Any) -> list[Row]:
        async def read(tx: Transaction) -> list[Row]:
            return list(await tx.fetch_all(sql, params))

        return await self.core.db.read(read)

    async def write(self, sql: str, **params: Any) -> None:
        async def run(tx: Transaction) -> None:
            await tx.execute(sql, params)

        await self.core.db.transaction(run)

    async def run(self, endpoints: Endpoints) -> int:
        """One round of the worker."""
        return await deliveries.run_due(self.core, endpoints, transport=self.transport)

    async def run_endpoint(self, endpoints: Endpoints, name: str, **limit: int) -> int:
        """One round for one endpoint alone."""
        return await deliveries.run_endpoint(self.core, endpoints, name, transport=self.transport, **limit)

    async def drain(self, endpoints: Endpoints) -> int:
        """Rounds until nothing is due; returns how many tries there were."""
        total = 0
        for _ in range(200):
            tries = await self.run(endpoints)
            if not tries:
                return total
            total += tries
        raise AssertionError("there is no end to what is due")

    async def states(self) -> list[str]:
        rows = await self.rows("SELECT state FROM deliveries ORDER BY seq, endpoint")
        return [str(row["state"]) for row in rows]


@pytest.fixture
async def box(database: Database) -> AsyncIterator[Outbox]:
    clock = ShiftedClock()
    transport = AiohttpTransport(clock)
    yield Outbox(Core(database, {}, SqlStore(), clock, RandomIds()), clock, transport)
    await transport.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest.fixture
async def to_receiver(box: Outbox, receiver: Receiver) -> Endpoints:
    """The receiver as a registered endpoint, before anything has happened."""
    endpoints = Endpoints(urls=[receiver.url], secret=Secret(SECRET))
    await deliveries.register(box.core, endpoints)
    return endpoints


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the log writes; the logging of before is put back."""
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    stream = io.StringIO()
    configure_logging(log_format="json", level="debug", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


# ── The message ──────────


async def test_event_arrives_once_in_the_standard_format(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    emitted_at = box.clock.now()
    event_id = await box.emit("order.paid", amount=1999, currency="EUR", note="Grüße")
    assert await box.drain(to_receiver) == 1
    (one,) = receiver.received
    one.verify(SECRET)
    assert one.id == event_id
    assert one.headers["content-type"] == "application/json"
    assert set(one.message) == {"type", "timestamp", "data"}
    assert one.message["type"] == "order.paid"
    assert one.message["data"] == {"amount": 1999, "currency": "EUR", "note": "Grüße", "order_id": "ord_1"}
    told = datetime.fromisoformat(one.message["timestamp"])
    assert told.utcoffset() == timedelta(0)
    assert abs(told.timestamp() - emitted_at / SECOND) < 5
    assert await box.states() == ["delivered"]
    # A delivered event is never due again.
    box.clock.pass_seconds(30 * DAY)
    assert await box.drain(to_receiver) == 0
    assert len(receiver.received) == 1


async def test_forged_body_and_wrong_secret_do_not_verify(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    await box.emit("order.paid", amount=1999)
    await box.drain(to_receiver)
    (one,) = receiver.received
    with pytest.raises(WebhookVerificationError):
        one.verify(NEW_SECRET)
    forged = Received(one.path, one.query, one.headers, one.body.replace(b"1999", b"9999"))
    with pytest.raises(WebhookVerificationError):
        forged.verify(SECRET)


async def test_two_secrets_sign_twice_so_that_receivers_can_change_over(box: Outbox, receiver: Receiver) -> None:
    endpoints = Endpoints(urls=[receiver.url], secret=Secret(f"{NEW_SECRET} {SECRET}"))
    await deliveries.register(box.core, endpoints)
    await box.emit("order.paid")
    await box.drain(endpoints)
    (one,) = receiver.received
    assert len(one.signatures()) == 2
    one.verify(SECRET)
    one.verify(NEW_SECRET)


def test_urls_without_a_secret_are_refused() -> None:
    with pytest.raises(ConfigError, match="PAIDONCE_EVENT_SECRET"):
        Endpoints(urls=["https://erp.example/events"])


# ── Failures ──────────


async def test_failure_is_repeated_with_growing_pauses_under_the_same_id(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    event_id = await box.emit("order.paid")
    receiver.say(500)
    waits = []
    for tries in range(1, 6):
        assert await box.drain(to_receiver) == 1
        assert len(receiver.received) == tries
        (row,) = await box.rows("SELECT * FROM deliveries")
        assert (row["state"], row["tries"], row["last_error"]) == ("waiting", tries, "HTTP 500")
        waits.append((row["due_at"] - box.clock.now()) / SECOND)
        # Not a moment earlier.
        box.clock.pass_seconds(int(waits[-1]) - 1)
        assert await box.drain(to_receiver) == 0
        box.clock.pass_seconds(3)
    for wait, least in zip(waits, (5, 10, 20, 40, 80), strict=True):
        assert least - 1 <= wait <= least * 1.25 + 1
    receiver.say(200)
    assert await box.drain(to_receiver) == 1
    assert await box.states() == ["delivered"]
    assert {one.id for one in receiver.received} == {event_id}
    assert all(one.is_signed_with(SECRET) for one in receiver.received)
    # Each sending has its own time, or receivers would refuse the later ones as stale.
    times = [one.sent_at for one in receiver.received]
    assert times == sorted(set(times))


async def test_pause_grows_to_six_hours_at_most(box: Outbox, receiver: Receiver, to_receiver: Endpoints) -> None:
    await box.emit("order.paid")
    await box.drain(to_receiver)
    await box.write("UPDATE deliveries SET state = 'waiting', due_at = :now, tries = 40", now=box.clock.now())
    receiver.say(500)
    await box.run(to_receiver)
    (row,) = await box.rows("SELECT due_at FROM deliveries")
    wait = (row["due_at"] - box.clock.now()) / SECOND
    assert 6 * 3600 - 5 <= wait <= 6 * 3600 * 1.25


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(box: Outbox, receiver: Receiver, to_receiver: Endpoints, status: int) -> None:
    await box.emit("order.paid")
    receiver.say(status, Retry_After="900")
    await box.drain(to_receiver)
    box.clock.pass_seconds(880)
    assert await box.drain(to_receiver) == 0
    box.clock.pass_seconds(30)
    until = datetime.fromtimestamp(box.clock.now() / SECOND, UTC) + timedelta(seconds=600)
    receiver.say(status, Retry_After=format_datetime(until, usegmt=True))
    assert await box.drain(to_receiver) == 1
    box.clock.pass_seconds(580)
    assert await box.drain(to_receiver) == 0
    box.clock.pass_seconds(30)
    receiver.say(204)
    assert await box.drain(to_receiver) == 1
    assert await box.states() == ["delivered"]


@pytest.mark.parametrize(
    ("answer", "longest"),
    [
        ((503, "soon"), 10),
        ((503, "-5"), 10),
        ((503, "9" * 400), DAY + 5),
        ((503, "Wed, 99 Nov 2026"), 10),
        # A year of a hundred digits once ended the worker's round before the try was written down.
        ((503, f"Wed, 25 Nov {'9' * 100} 10:00:00 GMT"), 10),
        ((500, "900"), 10),
    ],
)
async def test_odd_retry_after_never_puts_an_event_off_for_ever(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints, answer: tuple[int, str], longest: int
) -> None:
    await box.emit("order.paid")
    receiver.say(answer[0], Retry_After=answer[1])
    assert await box.drain(to_receiver) == 1
    (row,) = await box.rows("SELECT due_at FROM deliveries")
    assert 0 < row["due_at"] - box.clock.now() <= longest * SECOND


async def test_redirect_is_not_followed(box: Outbox, receiver: Receiver, to_receiver: Endpoints) -> None:
    await box.emit("order.paid")
    receiver.say(307, Location=receiver.url.replace("/events", "/elsewhere"))
    assert await box.drain(to_receiver) == 1
    assert [one.path for one in receiver.received] == ["/events"]
    (row,) = await box.rows("SELECT * FROM deliveries")
    assert row["state"] == "waiting"
    assert "redirects are not followed" in row["last_error"]


async def test_endpoint_that_is_gone_is_given_up_at_once(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    event_id = await box.emit("order.paid")
    receiver.say(410)
    # The second is the alarm; it fails as well, and no alarm comes of that.
    assert await box.drain(to_receiver) == 2
    assert receiver.types() == ["order.paid", "alarm.delivery_given_up"]
    assert await box.states() == ["given_up", "given_up"]
    types = [row["type"] for row in await box.rows("SELECT type FROM outbox ORDER BY seq")]
    assert types == ["order.paid", "alarm.delivery_given_up"]
    alarm = receiver.received[1].message["data"]
    assert (alarm["event"], alarm["endpoint"], alarm["error"]) == (event_id, receiver.url, "HTTP 410")
    assert f"paidonce events replay --id {event_id}" in alarm["next_step"]
    notes = await box.rows("SELECT * FROM history WHERE event = 'event.given_up' ORDER BY seq")
    assert [json.loads(note["detail"])["event_type"] for note in notes] == types
    box.clock.pass_seconds(30 * DAY)
    assert await box.drain(to_receiver) == 0


async def test_event_is_given_up_after_days_and_not_before(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    await box.emit("order.paid")
    receiver.say(500)
    began, tries = box.clock.now(), 0
    await box.run(to_receiver)
    while (await box.states())[0] == "waiting":
        elapsed = box.clock.now() - began
        assert elapsed < (3 * DAY + 8 * 3600) * SECOND
        (row,) = await box.rows("SELECT due_at FROM deliveries")
        box.clock.shift += row["due_at"] - box.clock.now() + SECOND
        tries += await box.run(to_receiver)
    assert await box.states() == ["given_up"]
    assert box.clock.now() - began >= 3 * DAY * SECOND
    assert 15 < tries < 40
    # The endpoint that is back hears of its loss.
    receiver.say(204)
    receiver.received.clear()
    assert await box.drain(to_receiver) == 1
    assert receiver.types() == ["alarm.delivery_given_up"]


async def test_server_that_is_not_there_and_one_that_hangs_up_are_retried(box: Outbox, receiver: Receiver) -> None:
    def hang_up(_: Received) -> web.Response:
        raise asyncio.CancelledError  # aiohttp closes the connection without a word.

    receiver.answer = hang_up
    endpoints = Endpoints(urls=[receiver.url, "http://127.0.0.1:1/nobody"], secret=Secret(SECRET))
    await deliveries.register(box.core, endpoints)
    await box.emit("order.paid")
    assert await box.run(endpoints) == 2
    assert await box.states() == ["waiting", "waiting"]
    errors = {row["endpoint"]: row["last_error"] for row in await box.rows("SELECT * FROM deliveries")}
    assert "could not connect" in errors["http://127.0.0.1:1/nobody"]
    assert "connection failed" in errors[receiver.url]


async def test_slow_receiver_meets_a_total_deadline(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deliveries.SEND_SECONDS < deliveries.LEASE_SECONDS
    assert deliveries.SUBSCRIBER_SECONDS < deliveries.LEASE_SECONDS
    monkeypatch.setattr(deliveries, "SEND_SECONDS", 0.2)
    receiver.delay_seconds = 2
    await box.emit("order.paid")
    assert await asyncio.wait_for(box.run(to_receiver), timeout=1.5) == 1
    (row,) = await box.rows("SELECT * FROM deliveries")
    assert row["state"] == "waiting"
    assert "0.2 s" in row["last_error"]


async def test_endpoint_that_is_down_delays_nobody_else(box: Outbox, receiver: Receiver) -> None:
    async with receiving() as other:
        receiver.say(500)
        endpoints = Endpoints(urls=[receiver.url, other.url], secret=Secret(SECRET))
        await deliveries.register(box.core, endpoints)
        await box.emit("payment.pending")
        await box.emit("order.paid")
        await box.drain(endpoints)
        assert other.types() == ["payment.pending", "order.paid"]
        assert receiver.types() == ["payment.pending"]


async def test_endpoints_with_loops_of_their_own_do_not_wait_for_one_that_hangs(box: Outbox) -> None:
    """As the worker serves them: an address gets round after round, while a subscriber is still at its first event."""
    called, released = asyncio.Event(), asyncio.Event()

    async def hang(event: Event) -> None:
        called.set()
        await released.wait()

    async with receiving() as other:
        endpoints = Endpoints(urls=[other.url], secret=Secret(SECRET), subscribers={"erp": hang})
        await deliveries.register(box.core, endpoints)
        for n in range(3):
            await box.emit("refund.succeeded", n=n)
        address, subscriber = endpoints.names
        hanging = asyncio.create_task(box.run_endpoint(endpoints, subscriber))
        async with asyncio.timeout(20):
            await called.wait()
            # Events of one order need a round each.
            assert [await box.run_endpoint(endpoints, address) for _ in range(4)] == [1, 1, 1, 0]
        assert [one.message["data"]["n"] for one in other.received] == [0, 1, 2]
        assert not hanging.done()
        released.set()
        assert await hanging == 1
    told = await box.rows("SELECT endpoint, state FROM deliveries ORDER BY endpoint, seq")
    assert [(row["endpoint"], row["state"]) for row in told] == [
        *[(other.url, "delivered")] * 3,
        (subscriber, "delivered"),
        *[(subscriber, "waiting")] * 2,
    ]


async def test_serving_one_endpoint_registers_all_and_tells_no_other(box: Outbox, receiver: Receiver) -> None:
    async with receiving() as other:
        endpoints = Endpoints(urls=[receiver.url, other.url, receiver.url], secret=Secret(SECRET))
        assert endpoints.names == (receiver.url, other.url), "a loop for each, though one is configured twice"
        assert await box.run_endpoint(endpoints, receiver.url) == 0
        for n in range(5):
            await box.emit("order.paid", f"ord_{n}")
        assert await box.run_endpoint(endpoints, receiver.url, limit=3) == 3
        assert await box.run_endpoint(endpoints, receiver.url) == 2
        assert other.received == []
        # It was known before the events happened, so it has missed none.
        assert await box.drain(endpoints) == 5
        assert (len(receiver.received), len(other.received)) == (5, 5)
    with pytest.raises(KeyError):
        await box.run_endpoint(endpoints, "https://erp.example/unknown")


# ── Order ──────────


async def test_events_of_one_order_arrive_in_their_order_whatever_fails(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    for n in range(5):
        for order in ("ord_a", "ord_b", "ord_c"):
            await box.emit("refund.succeeded", order, n=n)
    accepted: dict[str, list[int]] = {"ord_a": [], "ord_b": [], "ord_c": []}
    seen: Counter[str] = Counter()

    def every_second_fails(one: Received) -> web.Response:
        seen[one.id] += 1
        if seen[one.id] == 1 and one.message["data"]["n"] % 2 == 0:
            return web.Response(status=500)
        accepted[one.message["data"]["order_id"]].append(one.message["data"]["n"])
        return web.Response(status=204)

    receiver.answer = every_second_fails
    for _ in range(20):
        await box.drain(to_receiver)
        box.clock.pass_seconds(60)
    assert set(await box.states()) == {"delivered"}
    assert accepted == {order: [0, 1, 2, 3, 4] for order in accepted}
    assert len(receiver.received) == 3 * (5 + 3)


async def test_later_event_waits_for_the_earlier_one_but_other_orders_do_not(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    await box.emit("payment.pending", "ord_a")
    await box.emit("order.paid", "ord_a")
    await box.emit("order.paid", "ord_b")
    receiver.answer = lambda one: web.Response(status=500 if one.message["data"]["order_id"] == "ord_a" else 204)
    for _ in range(8):
        await box.drain(to_receiver)
        box.clock.pass_seconds(3600)
    told = [(one.message["type"], one.message["data"]["order_id"]) for one in receiver.received]
    assert ("order.paid", "ord_a") not in told
    assert told.count(("order.paid", "ord_b")) == 1
    receiver.say(204)
    box.clock.pass_seconds(8 * 3600)
    await box.drain(to_receiver)
    assert receiver.types()[-2:] == ["payment.pending", "order.paid"]


async def test_what_waits_behind_a_given_up_event_gets_days_of_its_own(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    await box.emit("payment.pending")
    await box.emit("order.paid")
    receiver.say(500)
    await box.drain(to_receiver)
    box.clock.pass_seconds(4 * DAY)
    # The first is given up now, and the next has its first try, which fails.
    await box.drain(to_receiver)
    assert receiver.types() == ["payment.pending", "payment.pending", "order.paid"]
    assert (await box.states())[:2] == ["given_up", "waiting"]
    receiver.say(204)
    box.clock.pass_seconds(60)
    await box.drain(to_receiver)
    assert (await box.states())[:2] == ["given_up", "delivered"]
    assert receiver.types()[-2:] == ["order.paid", "alarm.delivery_given_up"]


# ── Crashes and several workers ──────────


async def test_crash_between_sending_and_recording_sends_again_under_the_same_id(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    event_id = await box.emit("order.paid")
    crashing = Outbox(
        Core(_Crashing(box.core.db, "_record"), {}, SqlStore(), box.clock, RandomIds()), box.clock, box.transport
    )
    with pytest.raises(DatabaseDown):
        await crashing.run(to_receiver)
    assert len(receiver.received) == 1
    # The lease of the dead worker still runs, so nobody else sends.
    assert await box.drain(to_receiver) == 0
    box.clock.pass_seconds(deliveries.LEASE_SECONDS + 1)
    assert await box.drain(to_receiver) == 1
    assert [one.id for one in receiver.received] == [event_id, event_id]
    assert await box.states() == ["delivered"]


async def test_crash_between_claiming_and_sending_loses_nothing(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    await box.emit("order.paid")
    crashing = Outbox(
        Core(_Crashing(box.core.db, "_claim", kept=True), {}, SqlStore(), box.clock, RandomIds()),
        box.clock,
        box.transport,
    )
    with pytest.raises(CommitUnknown):
        await crashing.run(to_receiver)
    assert receiver.received == []
    box.clock.pass_seconds(deliveries.LEASE_SECONDS + 1)
    assert await box.drain(to_receiver) == 1
    assert len(receiver.received) == 1


async def test_unknown_commit_of_the_record_is_looked_at_again_without_a_second_alarm(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    await box.emit("order.paid")
    receiver.say(410)
    unsure = Outbox(
        Core(_Crashing(box.core.db, "_record", kept=True, times=1), {}, SqlStore(), box.clock, RandomIds()),
        box.clock,
        box.transport,
    )
    assert await unsure.run(to_receiver) == 1
    assert await box.states() == ["given_up"]
    alarms = await box.rows("SELECT * FROM outbox WHERE type = 'alarm.delivery_given_up'")
    assert len(alarms) == 1
    assert len(await box.rows("SELECT * FROM history")) == 1


@dataclass
class _Crashing:
    """A database whose transaction `name` fails: before its commit, or (`kept`) after it; so many `times`."""

    inner: Database
    name: str
    kept: bool = False
    times: int = 1_000

    def __post_init__(self) -> None:
        self.dialect = self.inner.dialect

    async def transaction(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        if fn.__name__ != self.name or not self.times:
            return await self.inner.transaction(fn, *args, **kwargs)
        self.times -= 1
        if not self.kept:
            raise DatabaseDown("the process died here")
        await self.inner.transaction(fn, *args, **kwargs)
        raise CommitUnknown("the connection died at COMMIT")

    async def read(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.inner.read(fn, *args, **kwargs)

    async def close(self) -> None:
        await self.inner.close()


async def test_workers_side_by_side_send_each_event_once_per_endpoint(box: Outbox, receiver: Receiver) -> None:
    async with receiving() as other:
        endpoints = Endpoints(urls=[receiver.url, other.url], secret=Secret(SECRET))
        # All of them register, hand out and claim at the same moments.
        await asyncio.gather(*(deliveries.register(box.core, endpoints) for _ in range(3)))
        ids = [await box.emit("order.paid", f"ord_{n % 10}", n=n) for n in range(40)]
        tries = await asyncio.gather(*(box.drain(endpoints) for _ in range(3)))
        while await box.drain(endpoints):
            pass
        assert sum(tries) == 80
        for place in (receiver, other):
            assert Counter(one.id for one in place.received) == Counter(ids)
            for order in range(10):
                said = [one.message["data"] for one in place.received]
                numbers = [data["n"] for data in said if data["order_id"] == f"ord_{order}"]
                assert numbers == sorted(numbers)
        assert await box.states() == ["delivered"] * 80


async def test_number_that_becomes_visible_late_is_handed_out_as_well(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    """On PostgreSQL a transaction may commit after one that got a higher number."""
    await box.emit("payment.pending", "ord_a")
    await box.drain(to_receiver)
    await box.write(
        "INSERT INTO outbox (seq, id, type, order_id, payload, created_at)"
        " VALUES (50, 'evt_high', 'order.paid', 'ord_b', :payload, :now)",
        payload='{"data":{}}',
        now=box.clock.now(),
    )
    await box.drain(to_receiver)
    await box.write(
        "INSERT INTO outbox (seq, id, type, order_id, payload, created_at)"
        " VALUES (49, 'evt_low', 'order.paid', 'ord_c', :payload, :now)",
        payload='{"data":{}}',
        now=box.clock.now(),
    )
    await box.drain(to_receiver)
    assert [one.id for one in receiver.received][1:] == ["evt_high", "evt_low"]
    (row,) = await box.rows("SELECT handed_out FROM endpoints")
    assert row["handed_out"] == 0
    box.clock.pass_seconds(deliveries.SETTLED_SECONDS + 1)
    assert await box.drain(to_receiver) == 0
    (row,) = await box.rows("SELECT handed_out FROM endpoints")
    assert row["handed_out"] == 50
    assert len(receiver.received) == 3


async def test_large_backlog_is_handed_out_in_bounded_steps(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    async def many(tx: Transaction) -> None:
        for n in range(12):
            now = box.clock.now() + n
            await outbox.emit(tx, "order.paid", order_id=f"ord_{n}", data={}, ids=box.core.ids, now=now)

    await box.core.db.transaction(many)
    box.clock.pass_seconds(deliveries.SETTLED_SECONDS + 1)
    for expected, handed_out in ((5, 5), (5, 10), (2, 12), (0, 12)):
        made = await box.core.db.transaction(
            deliveries.hand_out, receiver.url, ids=box.core.ids, now=box.clock.now(), limit=5
        )
        assert made == expected
        (row,) = await box.rows("SELECT handed_out FROM endpoints")
        assert row["handed_out"] == handed_out
    assert await box.states() == ["waiting"] * 12


# ── Who is told ──────────


async def test_new_endpoint_gets_no_old_history(box: Outbox, receiver: Receiver, to_receiver: Endpoints) -> None:
    await box.emit("order.paid")
    await box.drain(to_receiver)
    async with receiving() as late:
        both = Endpoints(urls=[receiver.url, late.url], secret=Secret(SECRET))
        assert await box.drain(both) == 0
        await box.emit("refund.succeeded")
        await box.drain(both)
        assert late.types() == ["refund.succeeded"]
        assert receiver.types() == ["order.paid", "refund.succeeded"]


async def test_worker_leaves_endpoints_alone_that_it_was_not_given(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    heard: list[Event] = []

    async def hear(event: Event) -> None:
        heard.append(event)

    with_subscriber = Endpoints(subscribers={"erp": hear})
    await deliveries.register(box.core, with_subscriber)
    event_id = await box.emit("order.paid", amount=5)
    assert await box.drain(to_receiver) == 1
    assert heard == []
    rows = await box.rows("SELECT endpoint FROM deliveries")
    assert [row["endpoint"] for row in rows] == [receiver.url]
    assert await box.drain(Endpoints()) == 0
    assert await box.drain(with_subscriber) == 1
    (event,) = heard
    assert (event.id, event.type, event.order_id, event.data) == (event_id, "order.paid", "ord_1", {"amount": 5})
    assert len(receiver.received) == 1


async def test_subscriber_that_raises_is_asked_again(box: Outbox, written: io.StringIO) -> None:
    heard: list[str] = []

    async def hear(event: Event) -> None:
        heard.append(event.type)
        if len(heard) == 1:
            raise ValueError("password=canary7")

    endpoints = Endpoints(subscribers={"erp": hear})
    await deliveries.register(box.core, endpoints)
    await box.emit("order.paid")
    await box.emit("refund.succeeded")
    assert await box.drain(endpoints) == 1
    assert heard == ["order.paid"]
    (row,) = await box.rows("SELECT * FROM deliveries WHERE tries > 0")
    assert (row["endpoint"], row["last_error"]) == ("subscriber:erp", "the subscriber raised ValueError")
    box.clock.pass_seconds(10)
    assert await box.drain(endpoints) == 2
    assert heard == ["order.paid", "order.paid", "refund.succeeded"]
    assert await box.states() == ["delivered", "delivered"]
    assert "ValueError" in written.getvalue()
    assert "canary7" not in written.getvalue()


async def test_subscriber_that_never_ends_is_stopped(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "SUBSCRIBER_SECONDS", 0.05)

    async def hang(event: Event) -> None:
        await asyncio.Event().wait()

    endpoints = Endpoints(subscribers={"erp": hang})
    await deliveries.register(box.core, endpoints)
    await box.emit("order.paid")
    assert await box.run(endpoints) == 1
    (row,) = await box.rows("SELECT * FROM deliveries")
    assert (row["state"], row["last_error"]) == ("waiting", "the subscriber raised TimeoutError")


async def test_subscriber_may_write_to_the_database(box: Outbox) -> None:
    async def follow_up(event: Event) -> None:
        if event.type == "order.paid":
            await box.emit("alarm.follow_up")

    endpoints = Endpoints(subscribers={"erp": follow_up})
    await deliveries.register(box.core, endpoints)
    await box.emit("order.paid")
    assert await box.drain(endpoints) == 2
    assert await box.states() == ["delivered", "delivered"]


async def test_secrets_are_in_no_log_no_row_and_no_error(box: Outbox, receiver: Receiver, written: io.StringIO) -> None:
    url = f"{receiver.url}?key=canary123"
    endpoints = Endpoints(urls=[url, "http://127.0.0.1:1/nobody?key=canary123"], secret=Secret(SECRET))
    await deliveries.register(box.core, endpoints)
    await box.emit("order.paid")
    receiver.say(410)
    await box.drain(endpoints)
    receiver.say(500)
    await box.emit("order.paid", "ord_2")
    await box.drain(endpoints)
    assert {one.query for one in receiver.received} == {"key=canary123"}
    stored = [
        *await box.rows("SELECT * FROM deliveries"),
        *await box.rows("SELECT * FROM endpoints"),
        *await box.rows("SELECT * FROM outbox"),
        *await box.rows("SELECT * FROM history"),
    ]
    told = written.getvalue() + repr(stored) + repr(endpoints)
    assert "event_delivery" in told
    assert "url:" in told
    assert "canary123" not in told
    assert SECRET.removeprefix("whsec_") not in told
    signatures = [signature for one in receiver.received for signature in one.signatures()]
    assert signatures
    assert not any(signature.removeprefix("v1,") in told for signature in signatures)


# ── Replay ──────────


async def test_replay_sends_delivered_events_again_under_the_same_id(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    first = await box.emit("payment.pending", "ord_a")
    second = await box.emit("order.paid", "ord_a")
    await box.emit("order.paid", "ord_b")
    await box.drain(to_receiver)
    receiver.received.clear()
    assert await deliveries.replay(box.core, to_receiver.names, by="order", value="ord_a") == 2
    assert await box.drain(to_receiver) == 2
    assert [one.id for one in receiver.received] == [first, second]
    assert await deliveries.replay(box.core, to_receiver.names, by="id", value=second) == 1
    await box.drain(to_receiver)
    assert [one.id for one in receiver.received] == [first, second, second]
    assert await deliveries.replay(box.core, to_receiver.names, by="id", value="evt_unknown") == 0
    assert await box.drain(to_receiver) == 0


async def test_replay_revives_what_was_given_up_and_gives_it_new_days(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    event_id = await box.emit("order.paid")
    receiver.say(410)
    await box.drain(to_receiver)
    box.clock.pass_seconds(10 * DAY)
    receiver.say(500)
    await deliveries.replay(box.core, to_receiver.names, by="id", value=event_id)
    await box.drain(to_receiver)
    (row,) = await box.rows("SELECT d.* FROM deliveries d JOIN outbox o ON o.seq = d.seq WHERE o.id = :id", id=event_id)
    assert (row["state"], row["tries"], row["finished_at"]) == ("waiting", 1, None)
    receiver.say(204)
    box.clock.pass_seconds(10)
    await box.drain(to_receiver)
    assert (await box.states())[0] == "delivered"


async def test_replay_brings_history_to_a_new_endpoint(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "BATCH", 2)
    old = await box.emit("order.paid", "ord_old")
    box.clock.pass_seconds(DAY)
    since = box.clock.now()
    ids = [await box.emit("order.paid", f"ord_{n}") for n in range(5)]
    await box.drain(to_receiver)
    async with receiving() as late:
        endpoints = Endpoints(urls=[late.url], secret=Secret(SECRET))
        assert await deliveries.replay(box.core, endpoints.names, by="since", value=since) == 5
        await box.drain(endpoints)
        assert sorted(one.id for one in late.received) == sorted(ids)
        assert old not in [one.id for one in late.received]
    assert len(receiver.received) == 6


async def test_replay_during_a_sending_sends_once_more(box: Outbox, receiver: Receiver, to_receiver: Endpoints) -> None:
    event_id = await box.emit("order.paid")
    receiver.delay_seconds = 0.3
    sending = asyncio.create_task(box.run(to_receiver))
    async with asyncio.timeout(10):
        await receiver.arrived.wait()
    await deliveries.replay(box.core, to_receiver.names, by="id", value=event_id)
    assert await sending == 1
    # The sender lost its lease by the replay, so its result does not end the new delivery.
    assert await box.states() == ["waiting"]
    assert await box.drain(to_receiver) == 1
    assert [one.id for one in receiver.received] == [event_id, event_id]


async def test_list_shows_how_far_each_endpoint_was_told(
    box: Outbox, receiver: Receiver, to_receiver: Endpoints
) -> None:
    before = await box.emit("payment.pending", "ord_a")
    await box.drain(to_receiver)
    receiver.say(500)
    failed = await box.emit("order.paid", "ord_a")
    await box.emit("order.paid", "ord_b")
    await box.drain(to_receiver)
    listed = await box.core.db.read(deliveries.list_events, order_id="ord_a")
    assert [one.event.id for one in listed] == [before, failed]
    assert [(told.endpoint, told.state, told.tries) for one in listed for told in one.told] == [
        (receiver.url, "delivered", 1),
        (receiver.url, "waiting", 1),
    ]
    undelivered = await box.core.db.read(deliveries.list_events, order_id="ord_a", undelivered=True)
    assert [one.event.id for one in undelivered] == [failed]
    newest = await box.core.db.read(deliveries.list_events, limit=2)
    assert [one.event.order_id for one in newest] == ["ord_a", "ord_b"]
