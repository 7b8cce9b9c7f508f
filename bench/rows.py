"""Rows of the result: from the samples of several runs to figures, and what of them is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.measure import Sample

# DESIGN §4's bare floors at 64 buyers, in CPU milliseconds with those of the database, and what django-payments took on
# the same machine. The floor has to agree with them by order of magnitude: the tables have grown since.
BARE_MS = {"sqlite": 0.22, "postgresql": 0.99}
_PEER, _PEER_MS = "django-payments", 9.9
_FACTOR = 10.0
# Where the peer says how fast this machine is, the floor is judged more closely.
_FACTOR_BY_PEER = 5.0
FIGURES = ("ours_cpu_ms", "floor_cpu_ms", "ratio", "orders_per_second", "p50_ms", "p99_ms")


@dataclass(slots=True)
class Row:
    """One line of the table. `figures` has the values of each run; `more` is what only some rows have."""

    scenario: str
    database: str
    buyers: int
    figures: dict[str, list[float]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """The figures of one run."""
        for name, value in values.items():
            self.figures.setdefault(name, []).append(value)

    def add_of(self, peer: str, **values: float) -> None:
        """The figures of one run of a peer."""
        for name, value in values.items():
            self.peers.setdefault(peer, {}).setdefault(name, []).append(value)

    def get(self, name: str) -> float | None:
        """The median of a figure, or None where it was not measured."""
        values = self.figures.get(name)
        return median(values) if values else None

    def of_peers(self) -> dict[str, dict[str, float]]:
        """The medians of the peers."""
        return {
            peer: {name: float(f"{median(values):.4g}") for name, values in figures.items()}
            for peer, figures in self.peers.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Medians by name, and in `spread` the least and the largest of the runs."""
        spread = {name: [_rounded(min(values)), _rounded(max(values))] for name, values in self.figures.items()}
        return {
            "scenario": self.scenario,
            "database": self.database,
            "buyers": self.buyers,
            **{name: _rounded(self.get(name)) for name in FIGURES},
            **{name: _rounded(self.get(name)) for name in self.figures if name not in FIGURES},
            "runs": max((len(values) for values in self.figures.values()), default=0),
            "spread": spread,
            **self.more,
            **({"peers": self.of_peers()} if self.peers else {}),
        }


def add_pair(row: Row, floor: Sample, ours: Sample) -> None:
    """One run of both."""
    row.add(
        ours_cpu_ms=ours.cpu_ms,
        floor_cpu_ms=floor.cpu_ms,
        ratio=ours.cpu_ms / floor.cpu_ms,
        orders_per_second=ours.per_second,
        p50_ms=ours.p50_ms,
        p99_ms=ours.p99_ms,
        ours_app_cpu_ms=ours.app_cpu_ms,
        ours_database_cpu_ms=ours.database_cpu_ms,
        floor_app_cpu_ms=floor.app_cpu_ms,
        floor_database_cpu_ms=floor.database_cpu_ms,
        floor_orders_per_second=floor.per_second,
        peak_mb=ours.peak_mb,
    )
    row.more["failed"] = row.more.get("failed", 0) + ours.failed
    row.more["busy"] = row.more.get("busy", 0) + ours.busy
    if ours.why_failed:
        row.more["why_failed"] = list(ours.why_failed)
    if floor.left and ours.left and floor.left != ours.left:
        differs = [(one, dict(ours.left)[one[0]]) for one in floor.left if one not in ours.left]
        row.more["invalid_floor"] = "leaves other rows than the shop: " + ", ".join(
            f"{name} {count:g} instead of {wanted:g}" for (name, count), wanted in differs
        )


def add_peer(row: Row, name: str, peer: Sample) -> None:
    """One run of another project."""
    row.add_of(name, cpu_ms=peer.cpu_ms, orders_per_second=peer.per_second, p50_ms=peer.p50_ms, p99_ms=peer.p99_ms)
    if peer.failed:
        row.more[f"{name} failed"] = list(peer.why_failed)


def judge_floor(row: Row) -> None:
    """Say so where the floor is far from the bare figures."""
    found, bare = row.get("floor_cpu_ms"), BARE_MS.get(row.database)
    if row.scenario != "checkout" or row.buyers != 64 or found is None or bare is None:
        return
    peer = row.of_peers().get(_PEER)
    slower = 1.0 if peer is None else peer["cpu_ms"] / _PEER_MS
    expected, factor = bare * slower, _FACTOR if peer is None else _FACTOR_BY_PEER
    if not expected / factor <= found <= expected * factor:
        row.more["invalid_floor"] = f"{found:.2f} ms is far from the {expected:.2f} ms that DESIGN §4 leads to"


def shown(value: float) -> str:
    """A figure for people: three digits, or all of a large number."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


# ── What is to be reached ──────────

Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure with its bounds. `more` tells that a larger one is better."""

    what: str
    unit: str
    must: float
    aim: float
    more: bool
    figure: Callable[[Rows], float | None]

    def verdict(self, value: float) -> str:
        """How far it was reached."""
        for bound, word in ((self.aim, "aim reached"), (self.must, "must reached")):
            if value >= bound if self.more else value <= bound:
                return word
        return "not reached"


def find(rows: Rows, scenario: str, database: str, buyers: int | None = None) -> Row | None:
    """The row of this name, or None if it was not run."""
    wanted = (scenario, database, buyers)
    return next((row for row in rows if wanted == (row.scenario, row.database, buyers and row.buyers)), None)


def _of(scenario: str, database: str, name: str, buyers: int | None = None) -> Callable[[Rows], float | None]:
    def figure(rows: Rows) -> float | None:
        row = find(rows, scenario, database, buyers)
        return None if row is None else row.get(name)

    return figure


def _share(one: str, other: str, database: str, name: str, buyers: int) -> Callable[[Rows], float | None]:
    def figure(rows: Rows) -> float | None:
        upper, lower = _of(one, database, name, buyers)(rows), _of(other, database, name, buyers)(rows)
        return None if upper is None or not lower else upper / lower

    return figure


def _percent(figure: Callable[[Rows], float | None]) -> Callable[[Rows], float | None]:
    def percent(rows: Rows) -> float | None:
        share = figure(rows)
        return None if share is None else 100 * share

    return percent


def _against_peer(database: str) -> Callable[[Rows], float | None]:
    def figure(rows: Rows) -> float | None:
        row = find(rows, "checkout", database, 64)
        theirs = None if row is None else row.of_peers().get(_PEER)
        ours = None if row is None else row.get("ours_cpu_ms")
        return None if theirs is None or not ours else theirs["cpu_ms"] / ours

    return figure


def _goals(
    database: str, ratio: tuple[float, float], peer: tuple[float, float], hot: tuple[float, float]
) -> list[Goal]:
    speed = "orders_per_second"
    latency = _percent(_share("latency-200", "latency-0", database, speed, 512))
    one_sku = _percent(_share("hot", "uniform", database, speed, 32))
    growth = _share("orders-1m", "orders-10k", database, "ours_cpu_ms", 16)
    known = _of("webhook-known", database, "ours_cpu_ms", 16)
    paying = "whole checkout, 64 buyers: CPU per order"
    return [
        Goal(paying, "times the floor", *ratio, False, _of("checkout", database, "ratio", 64)),
        Goal("… orders per CPU second", "times django-payments", *peer, True, _against_peer(database)),
        Goal("200 ms gateway, 512 buyers: throughput", "% of 0 ms", 70, 85, True, latency),
        Goal("one hot product, 32 buyers: throughput", "% of uniform", *hot, True, one_sku),
        Goal("10⁶ orders before: CPU per order", "times that of 10⁴", 1.15, 1.05, False, growth),
        Goal("webhook already known", "ms CPU", 0.4, 0.2, False, known),
        Goal("10,000 payments in flight", "MB", 400, 250, False, _of("in-flight", database, "peak_mb", 10_000)),
        Goal("start-up to ready", "s", 2, 1, False, _of("start-up", database, "seconds")),
    ]


GOALS = {
    "sqlite": _goals("sqlite", (6, 3), (6, 10), (90, 100)),
    "postgresql": _goals("postgresql", (4, 2.5), (4, 6), (35, 100)),
    "none": [Goal("import paidonce", "s", 0.2, 0.1, False, _of("import", "none", "seconds"))],
}
