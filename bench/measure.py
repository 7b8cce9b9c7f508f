"""One run of one contestant: start it, warm it up, count its CPU from word to word, and look at its books."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import cpu, orders, shops
from bench.child import Broken, child, end
from bench.databases import Database
from bench.load import Plan
from bench.scenarios import Scenario

# What a paid order leaves, table by table. The floor has to leave the same, or it would be none.
TABLES = (
    "orders",
    "order_lines",
    "payments",
    "operations",
    "stock_movements",
    "journal_entries",
    "journal_postings",
    "history",
    "outbox",
    "inbox",
)
Open = Callable[[shops.Place, int], AbstractContextManager[shops.Shop]]

_OURS = (
    "(SELECT count(*) FROM orders WHERE status = 'paid'), (SELECT CAST(-sum(on_hand) AS BIGINT) FROM stock),"
    " (SELECT count(*) FROM order_lines), (SELECT count(*) FROM holds),"
    " (SELECT CAST(coalesce(sum(amount_minor), 0) AS BIGINT) FROM journal_postings)"
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who is measured. `books` asks for paid orders, minus the stock, order lines, goods held, the journal's sum."""

    open: Open
    books: str = _OURS
    tables: tuple[str, ...] = TABLES
    prepare: Callable[[str], None] | None = None


FLOOR, OURS = Contestant(shops.floor), Contestant(shops.ours)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run showed. CPU is milliseconds for each checkout, or each webhook."""

    cpu_ms: float
    app_cpu_ms: float
    database_cpu_ms: float
    per_second: float
    p50_ms: float
    p99_ms: float
    done: int
    busy: int
    failed: int
    why_failed: tuple[str, ...]
    left: tuple[tuple[str, float], ...]
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how long."""

    database: Database
    scenario: Scenario
    buyers: int
    seconds: float
    folder: Path
    warm_up: int = 100


@dataclass(frozen=True, slots=True)
class _Driven:
    """What the load told, and what the processes used meanwhile."""

    told: dict[str, Any]
    warmed_up: int
    app_seconds: float
    database_seconds: float
    peak_mb: float


def run(setting: Setting, contestant: Contestant, url: str | None = None) -> Sample:
    """Measure `contestant` once, on a fresh database unless `url` names one. Raises `Broken`."""
    database = setting.database
    where = url or database.fresh()
    try:
        if contestant.prepare is not None:
            contestant.prepare(where)
        if setting.scenario.kind == "inflight":
            orders.add_open(database, where, setting.buyers)
        before = _books(database, where, contestant)
        driven = _drive(setting, contestant.open, where)
        after = _books(database, where, contestant)
        left = {name: after[name] - before[name] for name in after}
        return _sample(setting, driven, left, contestant.tables)
    finally:
        if url is None:
            database.drop(where)


def _drive(setting: Setting, contestant: Open, url: str) -> _Driven:
    scenario, database = setting.scenario, setting.database
    with child("bench.gateway", str(scenario.latency_seconds)) as gateway:
        place = shops.Place(url, gateway.hear()["port"], setting.folder / "server.log")
        with contestant(place, scenario.processes) as shop, child("bench.load", _plan(setting, shop)) as load:
            warmed_up = load.hear()["paid"]
            began = cpu.seconds(*shop.pids), database.cpu_seconds()
            told = load.ask(go=True)
            ended = cpu.seconds(*shop.pids), database.cpu_seconds()
            peak = sum(map(cpu.peak_bytes, shop.pids)) / 1e6
    return _Driven(told, warmed_up, ended[0] - began[0], ended[1] - began[1], peak)


def _plan(setting: Setting, shop: shops.Shop) -> str:
    scenario = setting.scenario
    plan = Plan(
        ports=shop.ports,
        kind=scenario.kind,
        buyers=16 if scenario.kind == "inflight" else setting.buyers,
        seconds=setting.seconds,
        lines=scenario.lines,
        hot=scenario.hot,
        warm_up=0 if scenario.kind == "inflight" else setting.warm_up,
        inflight=setting.buyers if scenario.kind == "inflight" else 0,
    )
    return json.dumps(asdict(plan))


def _sample(setting: Setting, driven: _Driven, left: dict[str, int], tables: tuple[str, ...]) -> Sample:
    told = driven.told
    took, failed = told["took"], sum(told["failed"].values())
    if not took:
        raise Broken(f"nothing was done: {told['failed']}")
    done = len(took)
    paid: tuple[tuple[str, float], ...] = ()
    if setting.scenario.kind == "checkout" and not failed:
        _check(left, done + driven.warmed_up)
        paid = tuple((name, left[name] / left["paid"]) for name in tables)
    return Sample(
        cpu_ms=1000 * (driven.app_seconds + driven.database_seconds) / done,
        app_cpu_ms=1000 * driven.app_seconds / done,
        database_cpu_ms=1000 * driven.database_seconds / done,
        per_second=done / told["seconds"],
        p50_ms=1000 * _quantile(took, 0.5),
        p99_ms=1000 * _quantile(took, 0.99),
        done=done,
        busy=told["busy"],
        failed=failed,
        why_failed=tuple(told["failed"]),
        left=paid,
        peak_mb=driven.peak_mb,
    )


def _quantile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _books(database: Database, url: str, contestant: Contestant) -> dict[str, int]:
    names = (*contestant.tables, "paid", "sold", "pieces", "held", "balance")
    counts = [f"(SELECT count(*) FROM {table})" for table in contestant.tables]  # noqa: S608 - names of our own.
    ((*found,),) = database.fetch(url, f"SELECT {', '.join([*counts, contestant.books])}")
    return dict(zip(names, found, strict=True))


def _check(left: dict[str, int], paid: int) -> None:
    """A fast shop that loses orders or goods is no contestant."""
    wrong = [
        f"{what}: {is_now} instead of {wanted}"
        for what, is_now, wanted in (
            ("paid orders", left["paid"], paid),
            ("pieces sold", left["sold"], left["pieces"]),
            ("goods still held", left["held"], 0),
            ("the journal's sum", left["balance"], 0),
        )
        if is_now != wanted
    ]
    if wrong:
        raise Broken("the books are wrong after the run: " + "; ".join(wrong))


def pay_one(setting: Setting, url: str) -> None:
    """Have the shop itself take one order to its end."""
    one = replace(setting, buyers=1, seconds=0.0, warm_up=1, scenario=replace(setting.scenario, latency_seconds=0.0))
    _drive(one, OURS.open, url)


# ── Start-up ──────────


def start_up(setting: Setting) -> float:
    """Seconds from the command to the first answer that the shop is ready."""
    url = setting.database.fresh()
    port = shops.free_port()
    try:
        with child("bench.gateway", "0") as gateway, (setting.folder / "server.log").open("a") as log:
            place = shops.Place(url, gateway.hear()["port"], setting.folder / "server.log")
            began = time.monotonic()
            process = shops.start(place, port, log.fileno())
            try:
                shops.wait_until_ready(port)
                return time.monotonic() - began
            finally:
                process.terminate()
                end(process)
    finally:
        setting.database.drop(url)


def import_seconds() -> float:
    """How much longer Python runs if it imports the package; the lesser of two looks at each."""
    return min(_python("import paidonce") for _ in range(2)) - min(_python("pass") for _ in range(2))


def _python(code: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - words of our own.
    return time.monotonic() - began
