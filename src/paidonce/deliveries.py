"""Tells the merchant's systems about events: signed requests to URLs, and calls of subscribers in this process.

Each endpoint has its own delivery of each event, so one that is down delays nobody else; where each is served by a loop
of its own (`run_endpoint`), neither does one that hangs. Delivery is at least once: a crash between sending and
recording sends the event again, under the same id. Events of one order reach an endpoint in their order; the next one
waits until the one before is delivered or given up. Requests follow the Standard Webhooks specification, and its own
library signs them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import structlog

from paidonce import journal, leases, outbox
from paidonce.core import Core
from paidonce.errors import ConfigError, GatewayError
from paidonce.gateways.base import HttpRequest, HttpResponse, Transport
from paidonce.outbox import Event
from paidonce.ports import SECOND, Ids, Microseconds, Row, Transaction
from paidonce.secret import Secret

log = structlog.get_logger(__name__)

Subscriber = Callable[[Event], Awaitable[None]]
Selector = Literal["id", "order", "since"]

SEND_SECONDS = 15.0
SUBSCRIBER_SECONDS = 60.0
# One worker owns a delivery for this long: longer than any sending may take, so that a calm system sends once.
LEASE_SECONDS = 180
FIRST_RETRY_SECONDS = 5
LONGEST_RETRY_SECONDS = 6 * 3600
# An endpoint may ask for more patience than our own longest wait, but not put an event off for ever.
LONGEST_RETRY_AFTER_SECONDS = 24 * 3600
# PostgreSQL may show a lower number after a higher one, because numbers are given out before the commit. No
# transaction lives this long, so below an event of this age nothing can turn up any more.
SETTLED_SECONDS = 300
# How many events are handed out or replayed per transaction, so that the writer is free again soon.
BATCH = 500
# How many events one endpoint is sent at once; they belong to different orders.
AT_ONCE = 20
GIVEN_UP = "alarm.delivery_given_up"

_DAY = 24 * 3600
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SUBSCRIBER = "subscriber:"


# ── Who is told ──────────


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Whom this process tells: URLs, and subscribers by their name. It serves these and leaves all others alone.

    `secret` is `whsec_…`, or two of them with a space between while it is changed; every request is signed with each.
    `retry_days` is how long a failing delivery is repeated. Raises `ConfigError` for URLs without a secret.
    """

    urls: Sequence[str] = field(default=(), repr=False)
    secret: Secret = field(default=Secret(""))
    subscribers: Mapping[str, Subscriber] = field(default_factory=dict)
    retry_days: int = 3

    def __post_init__(self) -> None:
        if self.urls and not self.secret.get_secret_value().strip():
            raise ConfigError(["PAIDONCE_EVENT_SECRET: is missing; events are never sent unsigned"])

    @property
    def names(self) -> tuple[str, ...]:
        """The endpoints' names, each once: what the database, the log and the command line call them."""
        urls, subscribers = map(endpoint_name, self.urls), (f"{_SUBSCRIBER}{name}" for name in self.subscribers)
        return tuple(dict.fromkeys([*urls, *subscribers]))


def endpoint_name(url: str) -> str:
    """What a URL is called in the database and the log: itself, or a hash if it has a query, which may hold secrets."""
    if "?" not in url:
        return url
    return f"url:{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def is_subscriber(name: str) -> bool:
    """Whether an endpoint is a subscriber in some process, rather than a URL."""
    return name.startswith(_SUBSCRIBER)


async def register(core: Core, endpoints: Endpoints) -> None:
    """Make the endpoints known: what happens from now on is told to them.

    Called at start-up, before the first event can happen. `run_due` and `run_endpoint` do it as well, and repeating it
    is harmless.
    """
    await core.write(_register, endpoints.names, now=core.clock.now())


async def _register(tx: Transaction, names: Sequence[str], *, now: Microseconds) -> None:
    known = await known_endpoints(tx)
    for name in sorted(set(names) - set(known)):
        # A new endpoint is not flooded with what happened before it came; a replay can bring that.
        newest = await tx.fetch_one("SELECT max(seq) AS seq FROM outbox")
        await tx.execute(
            "INSERT INTO endpoints (name, handed_out, created_at) VALUES (:name, :handed_out, :now)"
            " ON CONFLICT (name) DO NOTHING",
            {"name": name, "handed_out": (newest and newest["seq"]) or 0, "now": now},
        )


async def known_endpoints(tx: Transaction) -> list[str]:
    """The names of all endpoints that were ever served, sorted."""
    return [row["name"] for row in await tx.fetch_all("SELECT name FROM endpoints ORDER BY name")]


# ── The worker's round ──────────


async def run_due(core: Core, endpoints: Endpoints, *, transport: Transport, limit: int = AT_ONCE) -> int:
    """Hand out new events and send what is due, up to `limit` per endpoint; returns how many tries were made.

    Endpoints are served side by side, and it returns with the slowest of them: a worker that lives on runs
    `run_endpoint` for each instead. Call it again at once while it returns more than zero: an order's next event is due
    as soon as the one before is delivered. Any number of workers may call it. Raises `DatabaseError`; what was claimed
    and not recorded then is sent again when its lease has ended.
    """
    await _register_missing(core, endpoints)
    senders = _senders(core, endpoints, transport)
    rounds = [_serve(core, name, send, endpoints.retry_days, limit) for name, send in senders.items()]
    return sum(await _side_by_side(rounds))


async def run_endpoint(
    core: Core, endpoints: Endpoints, name: str, *, transport: Transport, limit: int = AT_ONCE
) -> int:
    """Do as `run_due` does for one of `endpoints.names` alone, waiting for no other; returns how many tries were made.

    Raises `DatabaseError` like `run_due`, and `KeyError` for a name that is not in `endpoints.names`.
    """
    send = _senders(core, endpoints, transport)[name]
    await _register_missing(core, endpoints)
    return await _serve(core, name, send, endpoints.retry_days, limit)


async def _register_missing(core: Core, endpoints: Endpoints) -> None:
    if await core.db.read(_unknown, endpoints.names):
        await register(core, endpoints)


async def _unknown(tx: Transaction, names: Sequence[str]) -> bool:
    return not set(names) <= set(await known_endpoints(tx))


async def _serve(core: Core, name: str, send: _Sender, retry_days: int, limit: int) -> int:
    # An idle worker only reads, so that it doesn't compete for SQLite's one writer.
    if not await core.db.read(_has_work, name, now=core.clock.now()):
        return 0
    await core.write(hand_out, name, ids=core.ids, now=core.clock.now())
    token, now = core.ids.new("lease"), core.clock.now()
    claimed = await core.write(_claim, name, token=token, now=now, limit=limit)
    await _side_by_side([_try(core, one, send, retry_days) for one in claimed])
    return len(claimed)


async def _side_by_side(work: Sequence[Coroutine[Any, Any, int]]) -> list[int]:
    """Run all to their end, and only then raise the first failure, so that none is left half done in between."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, int)]


_NOT_HANDED_OUT = """
SELECT o.seq, o.order_id FROM outbox o WHERE o.seq > :handed_out
AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.endpoint = :endpoint AND d.seq = o.seq)
ORDER BY o.seq LIMIT :limit
"""
_SETTLED = "SELECT max(seq) AS seq FROM outbox WHERE seq > :handed_out AND created_at <= :before"
_INSERT = """
INSERT INTO deliveries (id, endpoint, seq, order_id, state, created_at, due_at, tries, lease_until)
VALUES (:id, :endpoint, :seq, :order_id, 'waiting', :now, :now, 0, 0)
"""
# The earliest that waits goes first; an order's later events are held back, however long they have been due.
_FIRST_OF_ITS_ORDER = """
AND d.endpoint = :endpoint AND NOT EXISTS (SELECT 1 FROM deliveries e
    WHERE e.endpoint = d.endpoint AND e.order_id = d.order_id AND e.state = 'waiting' AND e.seq < d.seq)
"""
_DUE = (
    "SELECT d.id FROM deliveries d WHERE d.due_at <= :now AND d.lease_until <= :now"  # noqa: S608 - only constants.
    f" {_FIRST_OF_ITS_ORDER} ORDER BY d.due_at LIMIT 1"
)


async def _has_work(tx: Transaction, endpoint: str, *, now: Microseconds) -> bool:
    if await tx.fetch_one(_DUE, {"endpoint": endpoint, "now": now}) is not None:
        return True
    handed_out = await _handed_out(tx, endpoint)
    new = {"endpoint": endpoint, "handed_out": handed_out, "limit": 1}
    if await tx.fetch_one(_NOT_HANDED_OUT, new) is not None:
        return True
    return await _settled(tx, handed_out, now=now) > handed_out


async def hand_out(tx: Transaction, endpoint: str, *, ids: Ids, now: Microseconds, limit: int = BATCH) -> int:
    """Make the deliveries of a registered endpoint for up to `limit` events that have none; returns how many.

    Idempotent, also if several workers do it at once.
    """
    handed_out = await _handed_out(tx, endpoint)
    # Read before the events are, so that the mark never passes one that turned up in between.
    settled = await _settled(tx, handed_out, now=now)
    rows = await tx.fetch_all(_NOT_HANDED_OUT, {"endpoint": endpoint, "handed_out": handed_out, "limit": limit})
    await tx.execute_many(
        f"{_INSERT} ON CONFLICT (endpoint, seq) DO NOTHING", _new_deliveries(endpoint, rows, ids=ids, now=now)
    )
    last = rows[-1]["seq"] if len(rows) == limit else settled
    await tx.execute(
        "UPDATE endpoints SET handed_out = :seq WHERE name = :endpoint AND handed_out < :seq",
        {"seq": min(settled, last), "endpoint": endpoint},
    )
    return len(rows)


async def _handed_out(tx: Transaction, endpoint: str) -> int:
    row = await tx.fetch_one("SELECT handed_out FROM endpoints WHERE name = :name", {"name": endpoint})
    assert row is not None, "an endpoint is registered before it is served"
    return int(row["handed_out"])


async def _settled(tx: Transaction, handed_out: int, *, now: Microseconds) -> int:
    """Up to where all events are visible for sure; `handed_out` if that is no further."""
    before = now - SETTLED_SECONDS * SECOND
    row = await tx.fetch_one(_SETTLED, {"handed_out": handed_out, "before": before})
    return int((row and row["seq"]) or handed_out)


def _new_deliveries(endpoint: str, rows: Sequence[Row], *, ids: Ids, now: Microseconds) -> list[dict[str, Any]]:
    return [
        {"id": ids.new("dlv"), "endpoint": endpoint, "seq": row["seq"], "order_id": row["order_id"], "now": now}
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class _Delivery:
    """One claimed delivery. `queued_at` is when it was handed out or last replayed."""

    lease: leases.Lease
    endpoint: str
    seq: int
    queued_at: Microseconds
    event: Event


async def _claim(tx: Transaction, endpoint: str, *, token: str, now: Microseconds, limit: int) -> list[_Delivery]:
    claimed = await leases.claim(
        tx,
        "deliveries",
        token=token,
        now=now,
        seconds=LEASE_SECONDS,
        limit=limit,
        condition=_FIRST_OF_ITS_ORDER,
        params={"endpoint": endpoint},
    )
    if not claimed:
        return []
    by_id = {lease.id: lease for lease in claimed}
    params = {f"id{n}": id_ for n, id_ in enumerate(by_id)}
    rows = await tx.fetch_all(
        "SELECT d.id, d.seq, d.created_at AS queued_at, o.id AS event_id, o.type, o.order_id, o.payload,"  # noqa: S608
        " o.created_at AS emitted_at FROM deliveries d JOIN outbox o ON o.seq = d.seq"
        f" WHERE d.id IN ({', '.join(f':{name}' for name in params)}) ORDER BY d.seq",
        params,
    )
    return [_Delivery(by_id[row["id"]], endpoint, row["seq"], row["queued_at"], outbox.event_of(row)) for row in rows]


# ── Sending ──────────


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one try. `gone`: the endpoint says that it never wants anything again."""

    error: str | None = None
    retry_after_seconds: int = 0
    gone: bool = False


_Sender = Callable[[Event], Awaitable[_Outcome]]


def _senders(core: Core, endpoints: Endpoints, transport: Transport) -> dict[str, _Sender]:
    """How each endpoint is told."""

    def to_url(url: str) -> _Sender:
        return lambda event: _post(core, transport, url, endpoints.secret, event)

    def to_subscriber(name: str, subscriber: Subscriber) -> _Sender:
        return lambda event: _call(name, subscriber, event)

    urls = {endpoint_name(url): to_url(url) for url in endpoints.urls}
    subscribers = {f"{_SUBSCRIBER}{name}": to_subscriber(name, one) for name, one in endpoints.subscribers.items()}
    return {**urls, **subscribers}


async def _try(core: Core, delivery: _Delivery, send: _Sender, retry_days: int) -> int:
    outcome = await send(delivery.event)
    state = await core.write(_record, core, delivery, outcome, retry_days=retry_days, now=core.clock.now())
    tell = log.warning if state == "given_up" else log.info
    tell(
        "event_delivery",
        endpoint=delivery.endpoint,
        event_id=delivery.event.id,
        type=delivery.event.type,
        order_id=delivery.event.order_id,
        state=state,
        tries=delivery.lease.tries,
        error=outcome.error,
    )
    return 1


async def _post(core: Core, transport: Transport, url: str, secret: Secret, event: Event) -> _Outcome:
    now = core.clock.now()
    body = message(event)
    signature = signature_headers(secret.get_secret_value(), event.id, body, now=now)
    headers = {"content-type": "application/json", **signature}
    try:
        response = await transport.send(HttpRequest("POST", url, headers, body.encode()), deadline_seconds=SEND_SECONDS)
    except GatewayError as error:
        return _Outcome(error=error.detail)
    return _judged(response, now)


async def _call(name: str, subscriber: Subscriber, event: Event) -> _Outcome:
    try:
        async with asyncio.timeout(SUBSCRIBER_SECONDS):
            await subscriber(event)
    except Exception as error:
        # The traceback is for the subscriber's author. The database keeps the kind only: a message may quote anything.
        log.warning("event_subscriber_failed", subscriber=name, event_id=event.id, type=event.type, exc_info=True)
        return _Outcome(error=f"the subscriber raised {type(error).__name__}")
    return _Outcome()


def message(event: Event) -> str:
    """The body of the request, as the specification has it: type, time of the event, and data with the order's id."""
    return json.dumps(
        {"type": event.type, "timestamp": iso(event.created_at), "data": {**event.data, "order_id": event.order_id}},
        ensure_ascii=False,
        separators=(",", ":"),
    )


def signature_headers(secret: str, event_id: str, body: str, *, now: Microseconds) -> dict[str, str]:
    """The specification's three headers, with one signature for each of the secrets in `secret`."""
    from standardwebhooks import Webhook

    sent_at = _EPOCH + timedelta(seconds=now // SECOND)
    signatures = [Webhook(one).sign(event_id, sent_at, body) for one in secret.split()]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(now // SECOND),
        "webhook-signature": " ".join(signatures),
    }


def iso(moment: Microseconds) -> str:
    """A moment as ISO 8601 in UTC."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _judged(response: HttpResponse, now: Microseconds) -> _Outcome:
    status = response.status
    if 200 <= status < 300:
        return _Outcome()
    words = f"HTTP {status}"
    if 300 <= status < 400:
        words += " (redirects are not followed)"
    wait = _retry_after(response.headers.get("retry-after", ""), now) if status in (429, 503) else 0
    return _Outcome(error=words, retry_after_seconds=wait, gone=status == 410)


def _retry_after(value: str, now: Microseconds) -> int:
    """The seconds of a Retry-After header, which is a number or a date; 0 if it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(int(value[:9]), LONGEST_RETRY_AFTER_SECONDS)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    seconds = (until - _EPOCH) // timedelta(seconds=1) - now // SECOND
    return min(max(seconds, 0), LONGEST_RETRY_AFTER_SECONDS)


# ── Recording ──────────

# Those behind it are looked at when their turn can have come, and not at every round until then.
_MOVE_FOLLOWERS = """
UPDATE deliveries SET due_at = :due_at
WHERE endpoint = :endpoint AND order_id = :order_id AND state = 'waiting' AND seq > :seq
"""
_PREDECESSOR_ENDED = """
SELECT max(d.finished_at) AS at FROM outbox o JOIN deliveries d ON d.seq = o.seq AND d.endpoint = :endpoint
WHERE o.order_id = :order_id AND o.seq < :seq
"""


async def _record(
    tx: Transaction, core: Core, delivery: _Delivery, outcome: _Outcome, *, retry_days: int, now: Microseconds
) -> str:
    """Write down what became of a try; returns the delivery's state, or `lost` if it is somebody else's by now."""
    state = await _state_after(tx, delivery, outcome, retry_days=retry_days, now=now)
    retry_at = now + _wait_seconds(delivery, outcome) * SECOND
    waits = state == "waiting"
    if not await leases.give_back(tx, delivery.lease, due_at=retry_at if waits else None):
        return "lost"
    await tx.execute(
        "UPDATE deliveries SET state = :state, last_error = :error, finished_at = :finished_at WHERE id = :id",
        {
            "state": state,
            "error": outcome.error,
            "finished_at": None if waits else now,
            "id": delivery.lease.id,
        },
    )
    await tx.execute(
        _MOVE_FOLLOWERS,
        {
            "due_at": retry_at if waits else now,
            "endpoint": delivery.endpoint,
            "order_id": delivery.event.order_id,
            "seq": delivery.seq,
        },
    )
    if state == "given_up":
        await _tell_given_up(tx, core, delivery, outcome, now=now)
    return state


async def _state_after(
    tx: Transaction, delivery: _Delivery, outcome: _Outcome, *, retry_days: int, now: Microseconds
) -> str:
    if outcome.error is None:
        return "delivered"
    if outcome.gone:
        return "given_up"
    patience = retry_days * _DAY * SECOND
    if now - delivery.queued_at < patience:
        return "waiting"
    # Time spent waiting for the event before it does not count: each event gets its own days.
    row = await tx.fetch_one(
        _PREDECESSOR_ENDED,
        {"endpoint": delivery.endpoint, "order_id": delivery.event.order_id, "seq": delivery.seq},
    )
    free_since = (row and row["at"]) or 0
    return "waiting" if now - free_since < patience else "given_up"


def _wait_seconds(delivery: _Delivery, outcome: _Outcome) -> int:
    backoff = leases.backoff_seconds(
        delivery.lease.tries, first=FIRST_RETRY_SECONDS, longest=LONGEST_RETRY_SECONDS, salt=delivery.lease.id
    )
    return max(backoff, outcome.retry_after_seconds)


async def _tell_given_up(
    tx: Transaction, core: Core, delivery: _Delivery, outcome: _Outcome, *, now: Microseconds
) -> None:
    event = delivery.event
    detail = {
        "event": event.id,
        "event_type": event.type,
        "endpoint": delivery.endpoint,
        "error": outcome.error,
        "next_step": f"Mend the endpoint, then run: paidonce events replay --id {event.id}",
    }
    await journal.note(tx, "event.given_up", order_id=event.order_id, detail=detail, now=now)
    # An alarm about an alarm that can't be delivered would go on for ever.
    if event.type != GIVEN_UP:
        await outbox.emit(tx, GIVEN_UP, order_id=event.order_id, data=detail, ids=core.ids, now=now)


# ── What an operator sees and does ──────────


@dataclass(frozen=True, slots=True)
class Told:
    """How far one endpoint has been told of an event. `state`: waiting, delivered, given_up."""

    endpoint: str
    state: str
    tries: int
    error: str | None
    due_at: Microseconds | None
    finished_at: Microseconds | None


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event and its deliveries; none means that it was not handed out to anybody."""

    event: Event
    told: tuple[Told, ...]


_LIST = """
SELECT o.seq, o.id AS event_id, o.type, o.order_id, o.payload, o.created_at AS emitted_at FROM outbox o
WHERE {condition} ORDER BY o.seq DESC LIMIT :limit
"""
_UNDELIVERED = "EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = o.seq AND d.state <> 'delivered')"
_TOLD = "SELECT * FROM deliveries WHERE endpoint = :endpoint AND seq = :seq"


async def list_events(
    tx: Transaction, *, order_id: str | None = None, undelivered: bool = False, limit: int = 50
) -> list[ListedEvent]:
    """The newest events, oldest first; with `undelivered` only those that wait or were given up somewhere."""
    conditions = ["o.order_id = :order_id"] if order_id is not None else []
    conditions += [_UNDELIVERED] if undelivered else []
    sql = _LIST.format(condition=" AND ".join(conditions) or "1 = 1")
    rows = await tx.fetch_all(sql, {"order_id": order_id, "limit": limit})
    names = await known_endpoints(tx)
    return [ListedEvent(outbox.event_of(row), await _told(tx, names, row["seq"])) for row in reversed(rows)]


async def _told(tx: Transaction, names: Sequence[str], seq: int) -> tuple[Told, ...]:
    rows = [await tx.fetch_one(_TOLD, {"endpoint": name, "seq": seq}) for name in names]
    return tuple(
        Told(row["endpoint"], row["state"], row["tries"], row["last_error"], row["due_at"], row["finished_at"])
        for row in rows
        if row is not None
    )


_SELECTED = {
    "id": "SELECT seq, order_id FROM outbox WHERE seq > :after AND id = :value ORDER BY seq LIMIT :limit",
    "order": "SELECT seq, order_id FROM outbox WHERE seq > :after AND order_id = :value ORDER BY seq LIMIT :limit",
    "since": "SELECT seq, order_id FROM outbox WHERE seq > :after AND created_at >= :value ORDER BY seq LIMIT :limit",
}
_REPLAY = f"""
{_INSERT} ON CONFLICT (endpoint, seq) DO UPDATE SET state = 'waiting', created_at = excluded.created_at,
    due_at = excluded.due_at, tries = 0, lease_token = NULL, lease_until = 0, last_error = NULL, finished_at = NULL
"""


async def replay(core: Core, names: Sequence[str], *, by: Selector, value: str | Microseconds) -> int:
    """Have events sent again to the endpoints called `names`, delivered ones too; returns how many deliveries wait now.

    `by` selects the event by its `id`, all events of an `order`, or all `since` a moment in microseconds. Ids stay the
    same, so receivers that know them drop what they had. It makes deliveries where there were none.
    """
    await core.write(_register, names, now=core.clock.now())
    count, after = 0, 0
    while True:
        seqs = await core.write(_replay, core, names, by=by, value=value, after=after, now=core.clock.now())
        if not seqs:
            return count
        count, after = count + len(seqs) * len(names), seqs[-1]


async def _replay(
    tx: Transaction,
    core: Core,
    names: Sequence[str],
    *,
    by: Selector,
    value: str | Microseconds,
    after: int,
    now: Microseconds,
) -> list[int]:
    rows = await tx.fetch_all(_SELECTED[by], {"after": after, "value": value, "limit": BATCH})
    for name in names:
        await tx.execute_many(_REPLAY, _new_deliveries(name, rows, ids=core.ids, now=now))
    return [row["seq"] for row in rows]
