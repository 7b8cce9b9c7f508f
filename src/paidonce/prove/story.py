"""A run in plain words: what was promised, who did what, where it broke, what both sides have in their books."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from paidonce.money import Money
from paidonce.prove.checks import INVARIANTS, both_books
from paidonce.prove.engine import Task
from paidonce.prove.regressions import UNTOLD, Regression, write
from paidonce.prove.script import Outcome
from paidonce.prove.world import CALM, Setup, Stage, World

# What each field of a setup means, if it is set and if it is not.
_SETUP = {
    "manual": (
        "Confirming a payment reserves its money, and staff capture it.",
        "Confirming a payment takes its money.",
    ),
    "webhooks_at_last": (
        "Webhooks that were not delivered arrive once all is calm, the last one first.",
        "Webhooks that were not delivered are lost.",
    ),
    "verdict": ("Banks decide for the last of their choices.", "Banks decide for the first of their choices."),
    "calm": (
        "In the end all faults stop, and only recovery and banks are at work.",
        "The run ends with its last move.",
    ),
    "audits": (
        "Captured payments are read again after days.",
        "Captured payments are never read again by themselves.",
    ),
    "long": ("Weeks may pass, and the calm lasts for months.", ""),
}
_FILLED_ID = re.compile(r"\b([a-z]+_\d{6})x+")
_SEED = re.compile(r"seed (\d+)")

Row = Sequence[object]


def story(outcome: Outcome, *, origin: str = "", file: Path | None = None) -> str:
    """The run of `outcome` as text, while its world still stands: before anything else runs on its stage.

    `origin` says where the run comes from, and `file` where it is kept: `seed 7`, or a file's path, tell how to
    repeat it. Client values never appear.
    """
    world = outcome.world
    parts = [
        ("What was promised", _promise(outcome)),
        ("How the world began", _setting(outcome)),
        ("What happened (seconds, [process of the shop], #action)", _happened(outcome)),
        ("Under way at that moment", [_under_way(task) for task in world.engine.tasks]),
        ("Both books", _books(world)),
        *((title, _table(heads, _rows(world.stage, sql))) for title, heads, sql in _TABLES),
        ("Run", _again(outcome, origin, file)),
    ]
    told = "\n\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in parts if lines)
    return _without_client_values(_FILLED_ID.sub(r"\1", told), world)


def save(outcome: Outcome, folder: Path, name: str | None = None, *, origin: str = "") -> Path:
    """Keep the run in `folder` as a file that the tests can replay; its sentence is still to be written.

    Raises `FileExistsError` if another run is kept there by that name.
    """
    return write(_kept(outcome, origin, name), folder)


def _kept(outcome: Outcome, origin: str, name: str | None = None) -> Regression:
    violation = outcome.violation
    breaks, what = ("", "nothing is broken") if violation is None else (violation.invariant, str(violation))
    name = name or f"{breaks.lower() or 'clean'}-{outcome.world.digest()}"
    what = _without_client_values(_FILLED_ID.sub(r"\1", what), outcome.world)
    return Regression(name, UNTOLD + what, breaks, origin, outcome.script)


# ── Before it broke ──────────


def _promise(outcome: Outcome) -> list[str]:
    violation = outcome.violation
    if violation is None:
        return _all_well(outcome.world)
    return [f"{violation.invariant}: {INVARIANTS[violation.invariant]}.", f"Broken: {violation.what}"]


def _all_well(world: World) -> list[str]:
    if world.calm:
        return ["All ten invariants, and nothing is broken."]
    return [
        "All that has to be true at any moment, and nothing is broken.",
        "The run ends without a calm. Whether both books agree (I1), whether nothing stray can move money (I4)"
        " and whether everything ends (I9) was not asked.",
    ]


def _setting(outcome: Outcome) -> list[str]:
    faults = [f"Port {step} of the run ends with: {fate}." for step, fate in sorted(outcome.script.faults.items())]
    return [*_words(outcome.script.setup), *faults]


def _words(setup: Setup) -> list[str]:
    words = [_SETUP[name][0 if value else 1] for name, value in asdict(setup).items()]
    return [one for one in words if one]


def _happened(outcome: Outcome) -> list[str]:
    # An error's text may have lines of its own.
    lines = [line for told in _without_repeats(outcome.world.engine.told) for line in told.splitlines()]
    if outcome.violation is not None:
        lines.append(f">>> {outcome.violation}")
    return lines


def _without_repeats(told: Sequence[str]) -> Iterator[str]:
    """Once all is calm the banks are asked again and again, and what they repeat word for word is no news."""
    calm, said = False, set()
    for line in told:
        if not (calm and line.startswith("at ") and line in said):
            yield line
        calm = calm or line == CALM
        said.add(line)


def _under_way(task: Task) -> str:
    port = task.waiting
    waits = "" if port is None else f", before its {port.kind} {port.name}"
    return f"#{task.number} [{task.process}] {task.label}{waits}"


# ── As it stands ──────────


def _books(world: World) -> list[str]:
    found = [
        (gateway, about, ours, theirs, "" if ours == theirs else "<<< differs")
        for gateway, about, ours, theirs in both_books(world.watch, world.stage.twins)
    ]
    return _table(("gateway", "object", "ours", "theirs", ""), found) or ["Nothing is booked on either side."]


# Title, heads and query of what the database holds. An integer with a currency behind it is shown as money.
_TABLES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "Orders",
        ("order", "buyer", "status", "refunded", "total", "due"),
        "SELECT id, user_id, status, refund_status, total_minor || ' ' || currency, due_minor || ' ' || currency"
        " FROM orders ORDER BY created_at, id",
    ),
    (
        "Payments",
        ("payment", "order", "gateway", "object", "status", "refunded", "captured", "owed back", "held because"),
        "SELECT id, order_id, gateway, gateway_ref, status, refund_status, captured_minor || ' ' || currency,"
        " CASE owed_to_buyer WHEN 1 THEN 'yes' ELSE 'no' END, held_reason FROM payments ORDER BY created_at, id",
    ),
    (
        "Calls",
        ("call", "payment", "kind", "round", "state"),
        "SELECT id, payment_id, kind, round, state FROM operations ORDER BY created_at, id",
    ),
    (
        "Refunds",
        ("refund", "payment", "object", "amount", "by", "state", "because"),
        "SELECT id, payment_id, gateway_ref, amount_minor || ' ' || currency, origin, state,"
        " COALESCE(failure_reason, reason) FROM refunds ORDER BY created_at, id",
    ),
    (
        "Disputes",
        ("dispute", "payment", "amount", "state"),
        "SELECT gateway_ref, payment_id, amount_minor || ' ' || currency, state FROM disputes ORDER BY gateway_ref",
    ),
    (
        "Stock",
        ("goods", "on hand", "held"),
        "SELECT sku, on_hand, held FROM stock WHERE held <> 0 OR sku IN (SELECT sku FROM order_lines) ORDER BY sku",
    ),
    (
        "Told to operators",
        ("event", "order", "how often"),
        "SELECT type, order_id, count(*) FROM outbox WHERE type LIKE 'alarm.%' GROUP BY type, order_id ORDER BY 1, 2",
    ),
)
_MONEY = re.compile(r"(-?\d+) ([A-Z]{3})")


def _rows(stage: Stage, sql: str) -> list[Row]:
    return [[_cell(value) for value in row] for row in stage.books.rows(sql)]


def _cell(value: object) -> object:
    money = _MONEY.fullmatch(value) if isinstance(value, str) else None
    return value if money is None else Money(int(money[1]), money[2])


def _table(heads: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """Aligned columns, numbers and money to the right; nothing for no rows."""
    found = list(rows)
    if not found:
        return []
    right = [all(isinstance(row[at], int | Money) for row in found) for at in range(len(heads))]
    texts = [[_FILLED_ID.sub(r"\1", "-" if value is None else str(value)) for value in row] for row in found]
    widths = [max(len(row[at]) for row in [list(heads), *texts]) for at in range(len(heads))]
    return [_line(row, widths, right) for row in [list(heads), *texts]]


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    cells = zip(row, widths, right, strict=True)
    return "  ".join(text.rjust(width) if to_right else text.ljust(width) for text, width, to_right in cells).rstrip()


# ── Again ──────────


def _again(outcome: Outcome, origin: str, file: Path | None) -> list[str]:
    lines = [f"origin: {origin}"] if origin else []
    lines.append(f"trace hash: {outcome.world.digest()}")
    if file is None and origin.endswith(".json"):
        file = Path(origin)
    if file is not None:
        return [*lines, f"repeat it: paidonce prove --replay {file}"]
    seed = _SEED.fullmatch(origin)
    if seed is not None:
        lines.append(f"repeat the seed's whole run: paidonce prove --seed {seed[1]}")
    lines.append("repeat just this: keep what follows in a file, and paidonce prove --replay FILE")
    return [*lines, *_kept(outcome, origin).to_text().splitlines()]


def _without_client_values(text: str, world: World) -> str:
    """Without what only a buyer's browser may know. An object's own id is no secret, and stands everywhere."""
    refs = {ref for (ref,) in world.stage.books.rows("SELECT gateway_ref FROM payments")}
    secrets = {value for tab in world.tabs for value in tab.client.values()} - refs - {""}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "(client value)")
    return text
