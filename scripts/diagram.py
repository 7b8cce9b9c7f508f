"""Writes the state diagram in README.md anew from the transition table; `tests/test_docs.py` tells when it is due."""

from __future__ import annotations

import re
from pathlib import Path

from paidonce.states import OPEN_PAYMENTS, PAYMENT_TRANSITIONS, PaymentStatus

README = Path(__file__).parent.parent / "README.md"
_BETWEEN = re.compile(r"(?<=<!-- states: begin -->\n).*?(?=<!-- states: end -->)", re.DOTALL)


def diagram() -> str:
    """The payment's states as a Mermaid diagram. Moves that every open state has are drawn once, from their frame."""
    shared = frozenset.intersection(*(PAYMENT_TRANSITIONS[state] for state in OPEN_PAYMENTS)) - OPEN_PAYMENTS
    lines = ["stateDiagram-v2", "    [*] --> created", '    state "open" as open {']
    for state in PaymentStatus:
        if state in OPEN_PAYMENTS:
            lines += [f"        {move}" for move in _moves(state, PAYMENT_TRANSITIONS[state] - shared)]
    lines += ["    }", *(f"    {move}" for move in _moves("open", shared))]
    for state in PaymentStatus:
        if state not in OPEN_PAYMENTS:
            lines += [f"    {move}" for move in _moves(state, PAYMENT_TRANSITIONS[state])]
    lines += ["    captured --> [*]"]
    return "\n".join(["```mermaid", *lines, "```", ""])


def _moves(source: str, targets: frozenset[PaymentStatus]) -> list[str]:
    return [f"{source} --> {target}" for target in PaymentStatus if target in targets]


def drawn() -> str:
    """The diagram as README.md shows it now."""
    found = _BETWEEN.search(README.read_text("utf-8"))
    assert found is not None, "README.md has lost the marks around its state diagram"
    return found[0]


if __name__ == "__main__":
    README.write_text(_BETWEEN.sub(lambda _: diagram(), README.read_text("utf-8")), "utf-8")
