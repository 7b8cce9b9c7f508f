"""`paidonce events …`: what the merchant's systems were told, and telling it again."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from paidonce import audit, db, deliveries
from paidonce.assembly import store_of
from paidonce.config import Settings, load_settings
from paidonce.core import Core
from paidonce.deliveries import ListedEvent, Selector, Told
from paidonce.errors import ConfigError, InvalidRequest
from paidonce.ports import Microseconds, RandomIds, SystemClock

T = TypeVar("T")

app = typer.Typer(
    name="events",
    help="Events that the merchant's own systems are told: list them, send them again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@app.command("list")
def list_events(
    order: Annotated[str | None, typer.Option(help="Only the events of this order.")] = None,
    undelivered: Annotated[bool, typer.Option("--undelivered", help="Only what waits or was given up.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest.")] = 50,
) -> None:
    """Show events and how far each endpoint has been told of them, oldest first."""

    async def read(core: Core) -> list[ListedEvent]:
        return await core.db.read(deliveries.list_events, order_id=order, undelivered=undelivered, limit=limit)

    found = _with_core(load_settings(), read)
    for listed in found:
        event = listed.event
        _say(f"{event.id}  {event.type}  {event.order_id}  {deliveries.iso(event.created_at)}")
        for told in listed.told:
            _say(f"    {_in_words(told)}")
        if not listed.told:
            _say("    not handed out to anybody")
    if not found:
        _say("There are no such events.")


@app.command()
def replay(
    event_id: Annotated[str | None, typer.Option("--id", help="The event evt_….")] = None,
    order: Annotated[str | None, typer.Option(help="All events of this order.")] = None,
    since: Annotated[
        str | None, typer.Option(help="All events since then, such as 2026-11-25T08:00 (UTC unless it says +01:00).")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Only this endpoint, as `events list` names it (default: all that are served).")
    ] = None,
) -> None:
    """Send events again, also those that were delivered. Their ids stay the same, so receivers can know them again."""
    by, value = _selected(event_id, order, since)
    settings = load_settings()

    async def run(core: Core) -> tuple[int, int]:
        names = await _names(core, settings, endpoint)
        await core.write(audit.write, _replayed(core, by, value))
        return await deliveries.replay(core, names, by=by, value=value), len(names)

    count, endpoints = _with_core(settings, run)
    if not count and by != "since":
        raise InvalidRequest(f"There is no event {value}." if by == "id" else f"There are no events of order {value}.")
    _say(
        f"To be sent again by the worker: {_counted(count // endpoints, 'event')} to {_counted(endpoints, 'endpoint')}."
    )


def _replayed(core: Core, by: Selector, value: str | Microseconds) -> audit.Entry:
    """Who is at the command line is known to the operating system alone."""
    return audit.entry(
        "events.replayed", actor=f"command line, {_account()}", subject=str(value), at=core.clock.now(), by=by
    )


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


def _selected(event_id: str | None, order: str | None, since: str | None) -> tuple[Selector, str | Microseconds]:
    offered: tuple[tuple[Selector, str | None], ...] = (("id", event_id), ("order", order), ("since", since))
    given = [(by, text) for by, text in offered if text is not None]
    if len(given) != 1:
        raise InvalidRequest("Say which events: exactly one of --id, --order and --since.")
    by, text = given[0]
    return by, _moment(text) if by == "since" else text


def _moment(text: str) -> Microseconds:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            "--since: this is no time; write it like 2026-11-25, 2026-11-25T08:00 or 2026-11-25T08:00+01:00."
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


async def _names(core: Core, settings: Settings, endpoint: str | None) -> list[str]:
    """The endpoints to tell. Addresses that are no longer configured are left out, since nobody would serve them."""
    configured = settings.endpoints().names
    known = await core.db.read(deliveries.known_endpoints)
    if endpoint is None:
        served = {*configured, *(name for name in known if deliveries.is_subscriber(name))}
        if not served:
            raise InvalidRequest("Nobody is told: PAIDONCE_EVENT_URLS is empty and no subscriber was ever served.")
        return sorted(served)
    name = deliveries.endpoint_name(endpoint)
    if name not in {*configured, *known}:
        listed = ", ".join(sorted({*configured, *known})) or "none"
        raise InvalidRequest(f"--endpoint: there is no such endpoint. Known are: {listed}.")
    return [name]


def _in_words(told: Told) -> str:
    words = f"{told.endpoint}  {told.state.replace('_', ' ')}"
    if told.finished_at is not None:
        words += f" {deliveries.iso(told.finished_at)}"
    elif told.tries and told.due_at is not None:
        words += f", again {deliveries.iso(told.due_at)}"
    if told.tries:
        words += f", {_counted(told.tries, 'try', 'tries')}"
    return words if told.error is None else f"{words}, last: {told.error}"


def _counted(number: int, word: str, words: str = "") -> str:
    return f"{number} {word if number == 1 else words or word + 's'}"


def _with_core(settings: Settings, work: Callable[[Core], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        database = await db.connect(settings.database_url.get_secret_value())
        try:
            if await db.pending(database):
                raise ConfigError(["The database's schema is not this version's. Run: paidonce migrate"])
            core = Core(database, {}, store_of(settings), SystemClock(), RandomIds(), settings.policy())
            return await work(core)
        finally:
            await database.close()

    return asyncio.run(run())


def _say(text: str) -> None:
    # Made at each call, because it takes standard output as it is then; ids must neither wrap nor be coloured.
    Console().print(text, soft_wrap=True, highlight=False, markup=False)
