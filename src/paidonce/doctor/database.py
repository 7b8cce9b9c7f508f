"""The database: there, ours alone, durable, writable, current, with room."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from paidonce import guard
from paidonce.db import migration
from paidonce.doctor.patient import Patient, as_fix
from paidonce.errors import DatabaseError
from paidonce.gateways.base import Finding, Health
from paidonce.ports import Database, Row, Transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GIB, _MIB = 1024**3, 1024**2
_PROBE = "paidonce-doctor-probe"


class _Undo(Exception):
    """Ends the probe's transaction, so that nothing of it stays."""


@asynccontextmanager
async def opened(patient: Patient) -> AsyncIterator[Database]:
    """The database, closed afterwards. Raises what `open_database` raises."""
    database = await patient.open_database()
    try:
        yield database
    finally:
        await database.close()


async def is_current(database: Database) -> bool:
    """Whether the tables are those of this version, so that they can be asked."""
    return not await migration.pending(database)


async def look(patient: Patient) -> Sequence[Finding]:
    """All there is to say of the database. Raises `ConfigError` for one that can't be used at all."""
    if patient.file is not None and not patient.file.exists():
        # Opening would create it, and the doctor changes nothing.
        text = f"There is no database at {patient.file} yet."
        return [Finding("database", Health.RED, text, f"Run: {patient.migrate}")]
    found = [*_file(patient)]
    try:
        async with opened(patient) as database:
            found.append(Finding("database", Health.GREEN, f"The database answers ({database.dialect})."))
            found += await _durable(database)
            current = await is_current(database)
            found.append(_migrations(patient, current))
            if current:
                found.append(await _writable(database))
    except DatabaseError as error:
        fix = "Look whether it runs, whether this user may read and write it, and whether its disk has room."
        found.append(Finding("database", Health.RED, f"The database can't be used: {error}", fix))
    return found


def _file(patient: Patient) -> Iterator[Finding]:
    if patient.file is None:
        return
    problems = list(guard.file_problems(patient.file))
    for problem in problems:
        text, _, fix = problem.removeprefix("The database: ").partition("; ")
        refused = any(problem == one for one in patient.refused)
        health = Health.RED if refused else Health.YELLOW
        yield Finding("database.rights", health, f"{text[:1].upper()}{text[1:]}.", as_fix(fix))
    if not problems:
        yield Finding("database.rights", Health.GREEN, "No other user of this machine can read the database file.")
    yield _room(patient)


def _room(patient: Patient) -> Finding:
    assert patient.file is not None
    free, limits = shutil.disk_usage(patient.file.absolute().parent).free, patient.limits
    text = f"Free on the database's disk: {free // _MIB} MiB."
    fix = "Make room. A full disk stops every payment, though it loses none."
    if free < limits.free_red_bytes:
        return Finding("database.room", Health.RED, text, fix)
    if free < limits.free_yellow_bytes:
        return Finding("database.room", Health.YELLOW, text, fix)
    return Finding("database.room", Health.GREEN, f"Free on the database's disk: {free // _GIB} GiB.")


async def _durable(database: Database) -> Sequence[Finding]:
    settings = _sqlite_settings if database.dialect == "sqlite" else _postgres_settings
    wrong: list[Finding] = []

    async def read(tx: Transaction) -> None:
        wrong.extend(await settings(tx))

    await database.read(read)
    if not any(one.health is Health.RED for one in wrong):
        text = "What is committed is on the disk before anybody hears of it."
        wrong.insert(0, Finding("database.durable", Health.GREEN, text))
    return wrong


async def _sqlite_settings(tx: Transaction) -> list[Finding]:
    journal = await tx.fetch_one("PRAGMA journal_mode")
    synchronous = await tx.fetch_one("PRAGMA synchronous")
    found = []
    if journal is None or journal["journal_mode"] != "wal":
        text = "SQLite has no write-ahead log, so that readers and writers keep each other waiting."
        found.append(_lossy(text, "Set PRAGMA journal_mode=WAL on the connection."))
    if synchronous is None or int(synchronous["synchronous"]) < 2:
        text = "SQLite does not wait for the disk, so that a power cut may take a payment with it."
        found.append(_lossy(text, "Set PRAGMA synchronous=FULL on the connection."))
    return found


async def _postgres_settings(tx: Transaction) -> list[Finding]:
    row = await tx.fetch_one(
        "SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,"
        " current_setting('full_page_writes') AS full_page_writes,"
        # Neon's servers keep nothing on a disk of their own, and run with the other two switched off.
        " current_setting('neon.timeline_id', true) AS elsewhere"
    )
    assert row is not None
    return durability(row)


def durability(row: Row) -> list[Finding]:
    """What these settings of a PostgreSQL server may cost; `elsewhere` is set where its storage is not its own."""
    found = [_off("synchronous_commit")] if row["synchronous_commit"] == "off" else []
    if row["elsewhere"]:
        return found
    if row["fsync"] == "off":
        found.insert(0, _off("fsync"))
    if row["full_page_writes"] == "off":
        text = "PostgreSQL runs with full_page_writes = off, which needs storage that never writes half a page."
        fix = "Nothing has to be done on such storage (Aurora, ZFS); elsewhere set full_page_writes = on, and reload."
        found.append(Finding("database.pages", Health.YELLOW, text, fix))
    return found


def _off(name: str) -> Finding:
    text = f"PostgreSQL runs with {name} = off, so that a power cut may take payments with it."
    return _lossy(text, f"Set {name} = on in postgresql.conf, for the user and for the database, and reload.")


def _lossy(text: str, fix: str) -> Finding:
    return Finding("database.durable", Health.RED, text, fix)


def _migrations(patient: Patient, current: bool) -> Finding:
    if current:
        return Finding("database.schema", Health.GREEN, "The tables are those of this version.")
    return Finding(
        "database.schema", Health.RED, "The tables are not those of this version.", f"Run: {patient.migrate}"
    )


async def _writable(database: Database) -> Finding:
    """Writes a row and takes it back."""

    async def write(tx: Transaction) -> None:
        await tx.execute("INSERT INTO endpoints (name, handed_out, created_at) VALUES (:name, 0, 0)", {"name": _PROBE})
        raise _Undo

    try:
        await database.transaction(write)
    except _Undo:
        return Finding("database.writable", Health.GREEN, "A row could be written, and was taken back.")
    except Exception as error:
        # A missing right is nobody's fault but the operator's, so the drivers give it no name of ours.
        why = str(error) if isinstance(error, DatabaseError) else type(error).__name__
        fix = "Give this user the right to write, or look whether another program holds the database."
        return Finding("database.writable", Health.RED, f"Nothing can be written: {why}", fix)
    raise AssertionError("the probe ends by an error")
