"""The results as files: latest.json for programs, latest.md with its plots for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bench.plots import Bar, bars
from bench.rows import GOALS, Row, shown

_HEAD = (
    "| scenario | database | buyers | ours, CPU ms | floor, CPU ms | ratio | orders/s | p50, ms | p99, ms |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)
_COLUMNS = ("ours_cpu_ms", "floor_cpu_ms", "ratio", "orders_per_second", "p50_ms", "p99_ms")


def write(folder: Path, rows: Sequence[Row], notes: Sequence[str]) -> list[Path]:
    """Write all files; which ones."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "latest.json"
    data.write_text("[\n" + ",\n".join(json.dumps(row.as_json()) for row in rows) + "\n]\n", "utf-8")
    plots = {name: plot for name, plot in _plots(rows).items() if plot}
    for name, plot in plots.items():
        (folder / name).write_text(plot, "utf-8")
    page = folder / "latest.md"
    page.write_text(_page(rows, notes, list(plots)), "utf-8")
    return [data, page, *(folder / name for name in plots)]


def _page(rows: Sequence[Row], notes: Sequence[str], plots: Sequence[str]) -> str:
    parts = ["# What a checkout costs\n", *(f"- {note}" for note in notes), "", *_checkouts(rows), *_others(rows)]
    parts += [*_reached(rows), *(f"![{name}]({name})" for name in plots), "", *_remarks(rows)]
    return "\n".join(parts).rstrip() + "\n"


def _checkouts(rows: Sequence[Row]) -> list[str]:
    lines = [_line(row) for row in rows if row.get("ours_cpu_ms") is not None]
    return ["Each cell: median (least to largest of the runs).\n", _HEAD + "\n".join(lines), ""] if lines else []


def _line(row: Row) -> str:
    cells = [row.scenario, row.database, f"{row.buyers}", *(_cell(row, name) for name in _COLUMNS)]
    return f"| {' | '.join(cells)} |"


def _cell(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    values = row.figures[name]
    return f"{shown(value)} ({shown(min(values))} to {shown(max(values))})"


def _others(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"| {row.scenario} | {row.database} | {name} | {_cell(row, name)} |"
        for row in rows
        for name in ("seconds", "peak_mb")
        if row.get(name) is not None and (row.get("ours_cpu_ms") is None or row.scenario == "in-flight")
    ]
    lines += [
        f"| checkout, {row.buyers} buyers | {row.database} | {name}, CPU ms ; orders/s |"
        f" {shown(peer['cpu_ms'])} ; {shown(peer['orders_per_second'])} |"
        for row in rows
        for name, peer in row.of_peers().items()
    ]
    return ["| scenario | database | figure | value |\n|---|---|---|---|\n" + "\n".join(lines), ""] if lines else []


def in_a_line(row: Row) -> str:
    """The medians of a row, for whoever looks on."""
    named = {
        "ours_cpu_ms": "ours {} ms CPU",
        "floor_cpu_ms": "floor {} ms",
        "ratio": "{} times",
        "orders_per_second": "{}/s",
        "p99_ms": "p99 {} ms",
        "seconds": "{} s",
        "peak_mb": "{} MB",
    }
    medians = {name: row.get(name) for name in named}
    told = [named[name].format(shown(value)) for name, value in medians.items() if value is not None]
    told += [f"{peer} {shown(figures['cpu_ms'])} ms" for peer, figures in row.of_peers().items()]
    invalid = [f"invalid floor: {row.more['invalid_floor']}"] if "invalid_floor" in row.more else []
    return f"{row.scenario}, {row.database}, {row.buyers} buyers: " + ", ".join(told + invalid)


def reached(rows: Sequence[Row]) -> list[str]:
    """What was to be reached, in lines of text."""
    return [f"{what}, {database}: {found} ({verdict})" for what, database, found, _, verdict in _judged(rows)]


def _judged(rows: Sequence[Row]) -> list[tuple[str, str, str, str, str]]:
    found = []
    for database, goals in GOALS.items():
        for goal in goals:
            value = goal.figure(rows)
            if value is not None:
                sign = "≥" if goal.more else "≤"
                bounds = f"{sign} {goal.must:g} | {sign} {goal.aim:g}"
                found.append((goal.what, database, f"{shown(value)} {goal.unit}", bounds, goal.verdict(value)))
    return found


def _reached(rows: Sequence[Row]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in _judged(rows)]
    head = "| figure | database | measured | must | aim | |\n|---|---|---|---|---|---|\n"
    return ["## To reach\n", head + "\n".join(lines), ""] if lines else []


def _remarks(rows: Sequence[Row]) -> list[str]:
    said = []
    for row in rows:
        where = f"{row.scenario}, {row.database}, {row.buyers} buyers"
        if "invalid_floor" in row.more:
            said.append(f"- **invalid floor** ({where}): {row.more['invalid_floor']}")
        if row.more.get("failed"):
            said.append(f"- {where}: {row.more['failed']} did not end as they should: {row.more.get('why_failed')}")
        if row.more.get("busy"):
            said.append(f"- {where}: {row.more['busy']} times the shop said 503, and was asked again")
    return ["## Remarks\n", *said, ""] if said else []


def _plots(rows: Sequence[Row]) -> dict[str, str]:
    cpu = [row for row in rows if row.get("floor_cpu_ms") is not None and row.get("ours_cpu_ms") is not None]
    both = [bar for row in cpu for bar in (_bar(row, "ours", "ours_cpu_ms"), _bar(row, "floor", "floor_cpu_ms"))]
    speed = [_bar(row, "orders/s", "orders_per_second") for row in rows if row.get("orders_per_second") is not None]
    ratio = [_bar(row, "ratio", "ratio") for row in cpu]
    return {
        "cpu.svg": bars("CPU per order, with the database's", "milliseconds", both) if both else "",
        "ratio.svg": bars("CPU per order against the floor of the same run", "times the floor", ratio) if ratio else "",
        "throughput.svg": bars("Throughput of one machine", "per second", speed) if speed else "",
    }


def _bar(row: Row, series: str, name: str) -> Bar:
    values = row.figures[name]
    median = row.get(name) or 0.0
    return Bar(f"{row.scenario}, {row.database}, {row.buyers}", series, median, min(values), max(values))
