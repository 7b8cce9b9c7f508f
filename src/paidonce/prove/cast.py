"""Who acts at a gateway besides the shop: its buyers, its dashboard, the banks behind it.

Each gateway's package brings its own in a module `prove` with the function `cast(twin)`; one without it takes no part
in the simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol

from paidonce.gateways.base import HttpResponse, Provider, SandboxCore
from paidonce.ports import Microseconds

Happening = tuple[str, Mapping[str, str]]


class Cast(Protocol):
    """Buyers, banks and the dashboard of one gateway, acting on its offline twin.

    Objects are named by their number (`#0` is the first of its kind), so that a story can be replayed and shortened.
    Gateways are numbered as well: a cast may say `joined` (an integer, else 0), and stands behind all with a lower one.
    """

    calls: tuple[str, ...]  # Which methods of the protocol make calls: each is a place where a process may end.
    key_header: str  # The header, in lower case, that carries an idempotency key.
    keyless: tuple[str, ...]  # Parts of the addresses whose POSTs move no money and carry no key of ours.
    currencies: tuple[str, ...]  # Those of the simulated shop's that the gateway takes.
    lies: tuple[str, ...]  # What an answer can be made to say that was never agreed on.
    ways: tuple[str, ...]  # What a buyer may do with the payment before him, in words.

    def agree(self, client: Mapping[str, str], way: str, *, now: Microseconds) -> str:
        """The buyer's browser acts, with what `checkout.start` gave it; in words, what came of it."""

    def happenings(self) -> Sequence[Happening]:
        """What dashboard and banks could do now: names of the twin's controls with their parameters."""

    def decisions(self) -> Sequence[Happening]:
        """What banks end in the long run, so that nothing waits for ever."""

    def lie(self, answer: HttpResponse, about: str) -> HttpResponse:
        """The answer with something else in it; unchanged if it is no payment's."""

    def live(self) -> Mapping[str, str]:
        """Our ids of payments whose objects can move money without any call of ours, or hold the buyer's; and how.

        That is one of the words in `checks`: `CAN_BE_CONFIRMED`, `UNTIL_IT_EXPIRES` or `IS_RESERVED`.
        """

    def refunds_of_ours(self) -> Sequence[str]:
        """Our ids of refunds, once for each refund object that carries it."""

    def ids(self, param: str) -> Sequence[str]:
        """The ids that a control's parameter may take, oldest first; empty for other parameters."""

    def happen(self, control: str, params: Mapping[str, str], *, now: Microseconds) -> str:
        """Let it happen; in words, what came of it. What is impossible now is told and changes nothing."""


def cast_of(provider: Provider, twin: SandboxCore) -> Cast | None:
    """The cast of a gateway, from the module `prove` of its package; None if it has none."""
    name = f"{type(provider).__module__}.prove"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
    found: Cast = module.cast(twin)
    return found


def resolve(cast: Cast, params: Mapping[str, str]) -> dict[str, str] | None:
    """`params` with `#n` replaced by the n-th id of its kind, round and round; None if there is none of a kind."""
    resolved = {}
    for name, value in params.items():
        if not value.startswith("#"):
            resolved[name] = value
            continue
        ids = cast.ids(name)
        if not ids:
            return None
        resolved[name] = ids[int(value[1:]) % len(ids)]
    return resolved
