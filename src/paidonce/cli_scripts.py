"""`paidonce scripts`: the inventory of scripts, for people and for those who have to show it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from paidonce.config import load_settings, read_environment
from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock

if TYPE_CHECKING:
    from paidonce.web.inventory import Script

out = Console()


def scripts(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    write: Annotated[Path | None, typer.Option(help="Write it as JSON into this file.")] = None,
) -> None:
    """List every page's scripts, for the gateways that are set up: where from, what for, and how they are checked."""
    from paidonce.cli import _require_web

    _require_web()
    environment = read_environment()
    # A shop with orders of its own has pages of its own as well.
    is_built_in = not load_settings(environment, built_in_shop=False).store
    found = asyncio.run(_inventory(environment, built_in_shop=is_built_in))
    text = as_text(found)
    if write is not None:
        _write(write, text)
    _say(text if as_json else "\n".join(_in_words(found)))


def as_text(found: Mapping[str, list[Script]]) -> str:
    """The inventory as JSON: pages with their scripts, in the order of the URL table."""
    pages = [{"page": page, "scripts": [asdict(one) for one in scripts]} for page, scripts in found.items()]
    return json.dumps({"pages": pages}, indent=2, ensure_ascii=False)


async def _inventory(environment: Mapping[str, str], *, built_in_shop: bool) -> dict[str, list[Script]]:
    from paidonce.web.inventory import inventory

    clock = SystemClock()
    transport = AiohttpTransport(clock)
    gateways: Mapping[str, Gateway] = {}
    try:
        # None of them is asked anything.
        gateways = configure_all(environment, transport, clock)
        return inventory(gateways, built_in_shop=built_in_shop)
    finally:
        for gateway in gateways.values():
            await gateway.aclose()
        await transport.close()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path} can't be written ({error.strerror}). Choose another file."]) from error


def _in_words(found: Mapping[str, list[Script]]) -> list[str]:
    lines = []
    for page, scripts in found.items():
        lines.append(page if scripts else f"{page}  (no script)")
        for one in scripts:
            lines += [f"    {one.source}  from {one.where_from}", f"        {one.why}"]
            lines += [f"        allowed by {one.authorised_by}; checked by {one.checked_by}"]
    return lines


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False, markup=False)
