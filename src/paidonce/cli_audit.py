"""`paidonce audit`: who did what."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from paidonce import audit as log
from paidonce import db
from paidonce.config import load_settings
from paidonce.deliveries import iso
from paidonce.errors import ConfigError


def audit(
    actor: Annotated[str | None, typer.Option(help="Only what this user did, by their id (usr_…).")] = None,
    subject: Annotated[
        str | None, typer.Option(help="Only what was done to this: an order, payment or user by its id, or a SKU.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=log.MOST_ENTRIES, help="The newest so many entries.")
    ] = log.MOST_ENTRIES,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one object per line.")] = False,
) -> None:
    """Tell who did what: refunds, captures, changes of stock, passwords and sign-ins of staff. Oldest first."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    found = asyncio.run(_read(actor, subject, limit))
    console = Console()
    if not found and not as_json:
        console.print("Nothing of this kind was done.")
    for one in found:
        text = json.dumps(_as_json(one)) if as_json else _as_text(one)
        console.print(text, soft_wrap=True, highlight=False, markup=False)


async def _read(actor: str | None, subject: str | None, limit: int) -> list[log.Entry]:
    database = await db.connect(load_settings().database_url.get_secret_value())
    try:
        if await db.pending(database):
            raise ConfigError(["The database's schema is not this version's. Run: paidonce migrate"])
        subjects = [] if subject is None else await database.read(log.about, subject)
        return await database.read(log.read, actor=actor, subjects=subjects, limit=limit)
    finally:
        await database.close()


def _as_json(one: log.Entry) -> dict[str, Any]:
    return {**asdict(one), "at": iso(one.at)}


def _as_text(one: log.Entry) -> str:
    details = [f"{name}={value}" for name, value in one.detail.items()]
    if one.request_id is not None:
        details.append(f"request={one.request_id}")
    return f"{iso(one.at)}  {one.actor}  {one.words}: {one.subject}  {' '.join(details)}".rstrip()
