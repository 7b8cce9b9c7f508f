"""Gateways that learn from the shop's staff, and gateways whose buyers pay outside the browser."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from paidonce.contract.bench import Bench
from paidonce.contract.expect import equal, raises, some
from paidonce.contract.marks import needs
from paidonce.errors import ChangedMeanwhile, InvalidRequest
from paidonce.gateways.base import PaidElsewhere, Progress, StaffAction, StaffDesk

pytestmark = pytest.mark.asyncio


def desk_of(bench: Bench) -> StaffDesk:
    """The gateway as staff see it."""
    return cast(StaffDesk, bench.gateway)


@needs("promise")
async def test_a_promise_proves_nothing_and_moves_nothing(bench: Bench) -> None:
    """`promise` may be repeated, moves no money, and readings say from then on until when the money is awaited."""
    opened = await bench.open()
    ref = opened.snapshot.ref
    for _ in range(3):
        await cast(PaidElsewhere, bench.gateway).promise(ref)
    read = await bench.seen(opened)
    equal("(progress, captured)", (read.progress, read.captured), (Progress.AWAITING_BUYER, None))
    assert read.awaited_until is not None, "after `promise` a reading does not say `awaited_until`."
    assert read.awaited_until > bench.now, "`awaited_until` is past."
    equal("the books", await bench.books(), ())
    await bench.clock.sleep((read.awaited_until - bench.now) / 1_000_000 + 1)
    equal("the progress after its time has run out", (await bench.seen(opened)).progress, Progress.CANCELED)


@needs("desk")
async def test_looking_at_the_sheet_changes_nothing(bench: Bench) -> None:
    """`staff_sheet` may be asked for at any time, and writes nothing."""
    opened, _ = await bench.paid()
    before, written = await bench.seen(opened), bench.notebook.written
    sheets = [await desk_of(bench).staff_sheet(opened.snapshot.ref) for _ in range(3)]
    equal("the number of different sheets", len({repr(sheet) for sheet in sheets}), 1)
    equal("the object afterwards", await bench.seen(opened), before)
    equal("notes written", bench.notebook.written - written, 0)


@needs("desk")
async def test_two_people_cannot_enter_the_same_thing_twice(bench: Bench) -> None:
    """An entry made on an outdated sheet is ChangedMeanwhile; one repeated with its key is one entry."""
    opened = await bench.open()
    ref, desk = opened.snapshot.ref, desk_of(bench)
    sheet = await desk.staff_sheet(ref)
    some("entries for an object that awaits its money", sheet.actions)
    action = sheet.actions[0]
    values = filled(action, bench.amount.minor)
    for _ in range(3):
        await desk.act(ref, action.name, values, seen=sheet.seen, key="entry-1", by="usr_staff1")
    written, read = bench.notebook.written, await bench.seen(opened)
    late = desk.act(ref, action.name, values, seen=sheet.seen, key="entry-2", by="usr_staff2")
    await raises(ChangedMeanwhile, "an entry on an outdated sheet", late)
    equal("notes written by it", bench.notebook.written - written, 0)
    equal("the object afterwards", await bench.seen(opened), read)


@needs("desk")
async def test_of_two_people_at_once_one_is_heard(bench: Bench) -> None:
    """Of two entries made at once on the same sheet, under different keys, exactly one is written."""
    opened = await bench.open()
    ref, desk = opened.snapshot.ref, desk_of(bench)
    sheet = await desk.staff_sheet(ref)
    values = filled(sheet.actions[0], bench.amount.minor)
    entries = [
        desk.act(ref, sheet.actions[0].name, values, seen=sheet.seen, key=f"entry-{number}", by=f"usr_staff{number}")
        for number in (1, 2)
    ]
    outcomes = await asyncio.gather(*entries, return_exceptions=True)
    equal("the number that were heard", [type(one) for one in outcomes].count(type(None)), 1)
    equal("the number that were outdated", [type(one) for one in outcomes].count(ChangedMeanwhile), 1)


@needs("desk")
async def test_an_entry_that_is_not_offered_or_does_not_fit_is_refused(bench: Bench) -> None:
    """An unknown entry, a missing or odd field is InvalidRequest, and writes nothing."""
    opened = await bench.open()
    ref, desk = opened.snapshot.ref, desk_of(bench)
    sheet = await desk.staff_sheet(ref)
    action = sheet.actions[0]
    good = filled(action, bench.amount.minor)
    tries = {"no_such_entry": good, action.name: {**good, "no_such_field": "x"}}
    written = bench.notebook.written
    for number, (name, values) in enumerate(tries.items()):
        entry = desk.act(ref, name, values, seen=sheet.seen, key=f"entry-{number}", by="usr_staff1")
        await raises(InvalidRequest, f"the entry {name!r} with {sorted(values)}", entry)
    for field in [param for param in action.params if param.required]:
        odd: dict[str, str | int] = {**good, field.name: -1}
        entry = desk.act(ref, action.name, odd, seen=sheet.seen, key=f"odd-{field.name}", by="usr_staff1")
        await raises(InvalidRequest, f"the entry {action.name!r} with -1 for {field.name!r}", entry)
    equal("notes written", bench.notebook.written - written, 0)
    equal("the books", await bench.books(), ())


def filled(action: StaffAction, minor: int) -> dict[str, str | int]:
    """Values that fit the entry: `minor` for amounts, a word for texts."""
    values: dict[str, str | int] = {param.name: minor if param.kind == "amount" else "word" for param in action.params}
    return values | dict(action.given)
