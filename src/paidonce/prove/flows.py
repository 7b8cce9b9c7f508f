"""The flows that every shop lives by, as scripts, and the walk through all their faults, one by one and in pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from paidonce.prove.checks import Violation
from paidonce.prove.engine import FATES, LIE
from paidonce.prove.script import Script
from paidonce.prove.world import Move, Setup, Stage

_ALL = 99
_SLOW = "pays by slow bank debit"
_ASKED, _PASSES = "is asked by the bank", "passes the bank's page"
# After whatever went wrong the buyer comes back and tries again, as buyers do.
_COMES_BACK: tuple[Move, ...] = (("wait", 5),)


def _go(*move: object) -> tuple[Move, ...]:
    """An action, and all of its ports."""
    return (move, ("go", 0, _ALL))


def _ordered(basket: int = 0) -> tuple[Move, ...]:
    return _go("order", 0, basket, 0)


def _agreed(gateway: int, way: int = 0) -> tuple[Move, ...]:
    return (*_go("start", 0, gateway, 0), ("agree", -1, way))


def _paid(gateway: int, way: int = 0) -> tuple[Move, ...]:
    return (*_ordered(), *_agreed(gateway, way), *_go("complete", -1, 0))


def _again(gateway: int) -> tuple[Move, ...]:
    return (*_COMES_BACK, *_agreed(gateway), *_go("complete", -1, 0))


# Which basket is in which currency.
GOODS_CURRENCY = {0: "EUR", 5: "HUF", 6: "JPY", 7: "ISK"}
MANUAL = Setup(manual=True)
TOLD = Setup(webhooks_at_last=True)


def flows(stage: Stage) -> dict[str, Script]:
    """Every flow by its name, at every gateway; what a gateway can't do changes nothing there."""
    found: dict[str, Script] = {}
    for number, name in enumerate(stage.names):
        other = (number + 1) % len(stage.names)
        for flow, script in _at_one_gateway(number, other).items():
            found[f"{flow}, {name}"] = script
        for way, word in enumerate(stage.casts[name].ways):
            found[f"buyer {word}, {name}"] = Script(moves=(*_paid(number, way), *_again(number)))
        if {_ASKED, _PASSES} <= set(stage.casts[name].ways):
            moves = (
                *_ordered(),
                *_go("start", 0, number, 0),
                ("agree_as", 0, _ASKED),
                ("wait", 1300),
                *_go("recover", 1),
            )
            found[f"the bank's page, {name}"] = Script(moves=(*moves, ("agree_as", 0, _PASSES), *_go("complete", 0, 0)))
    return found


def trials(stage: Stage) -> dict[str, Script]:
    """Runs that end with a question, and so are tried as they are, without faults of others."""
    found: dict[str, Script] = {}
    at_once = Setup(calm=False)
    for number, name in enumerate(stage.names):
        pays = (
            *_ordered(),
            *_agreed(number),
            ("complete", 0, 0),
            ("finish",),
            *_later(),
            ("must_not_be_paid",),
        )
        for lie in stage.casts[name].lies:
            # The lie begins before the payment, or behind it; whoever asks hears it.
            early = (("outage", number, f"{LIE}{lie}"), *pays)
            late = (*pays[:4], ("outage", number, f"{LIE}{lie}"), *pays[4:])
            found[f"{name} lies about {lie} at first"] = Script(at_once, early)
            found[f"{name} lies about {lie} at last"] = Script(at_once, late)
        gone = (("outage", number, "request lost"), ("complete", 0, 0), ("finish",))
        hours = tuple(move for wait in (700, 4000, 7000, 20_000) for move in (("wait", wait), *_go("recover", 1)))
        asked = (*_ordered(), *_agreed(number), *gone, *hours, ("must_be_told",))
        found[f"{name} is silent for hours"] = Script(Setup(), asked)
        found |= _agreements(number, name)
        if _SLOW in stage.casts[name].ways:
            moves = (*_ordered(), *_go("start", 0, number, 0), *_overtaken(), ("must_be", "processing"))
            found[f"old news arrives last, {name}"] = Script(moves=moves)
        found |= _currencies(stage, number, name)
        for which in range(2):
            moves = (*_paid(number), ("happen", number, "open_dispute", which), ("wait", 200_000), *_go("recover", 1))
            found[f"a dispute or inquiry {which}, {name}"] = Script(moves=(*moves, ("must_agree",)))
        for what in range(8):
            tries = ("stranger", what, 0, 0)
            found[f"a stranger's try {what}, {name}"] = Script(moves=(*_ordered(), *_agreed(number), tries))
            found[f"a stranger's try {what} behind the payment, {name}"] = Script(moves=(*_paid(number), tries))
        for what in range(3):
            found[f"forged webhook {what}, {name}"] = Script(
                Setup(), (*_ordered(), *_agreed(number), ("forge", -1, what, 0))
            )
    return found


def _agreements(number: int, name: str) -> dict[str, Script]:
    """The buyer agrees and nothing goes wrong: whoever asks first, the order is paid."""
    closes, paid = (*_ordered(), *_agreed(number)), ("must_be_paid",)
    return {
        f"paid when the buyer comes back, {name}": Script(moves=(*closes, *_go("complete", 0, 0), paid)),
        f"paid by webhooks alone, {name}": Script(moves=(*closes, *_told()[:-2], ("finish",), paid)),
        f"paid by recovery alone, {name}": Script(moves=(*closes, ("wait", 700), *_go("recover", 1), paid)),
        f"a worker comes after days, {name}": Script(
            moves=(*closes, *_go("discount", 0, 0), *_go("complete", 0, 0), *_after_days(), ("must_be_returned",)),
        ),
        f"paid after a decline, {name}": Script(
            moves=(*_ordered(), *_go("start", 0, number, 0), ("agree_as", 0, "is declined"), *_again(number), paid)
        ),
        f"paid by recovery when the key is spent, {name}": Script(
            Setup(long=True),
            (*closes, ("complete", 0, 0), *_lost("capture"), ("wait", 30_000), *_go("recover", 1), paid),
        ),
    }


def _currencies(stage: Stage, number: int, name: str) -> dict[str, Script]:
    """Each currency that the gateway takes: the buyer pays what was agreed on, and both books say so."""
    asked = (("must_be_paid",), ("must_agree",))
    return {
        f"paid in {GOODS_CURRENCY[basket]}, {name}": Script(
            moves=(*_ordered(basket), *_agreed(number), *_go("complete", 0, 0), *asked)
        )
        for basket in GOODS_CURRENCY
        if GOODS_CURRENCY[basket] in stage.casts[name].currencies
    }


def _after_days() -> tuple[Move, ...]:
    return (("wait", 100_000), *_later(), *_later())


def _overtaken() -> tuple[Move, ...]:
    """A tab has read the payment and stands still; the buyer pays by slow money; another tab reads that first."""
    return (
        *(("complete", 0, 0), ("go_to", "send"), ("go", 0, 1)),
        *(("agree_as", 0, _SLOW), ("complete", 0, 1), ("go", 1, _ALL), ("go", 0, _ALL)),
    )


def main_flows(stage: Stage) -> dict[str, Script]:
    """The two flows whose faults are tried in pairs: a buyer pays, comes back to try again, and a worker passes by."""
    return {
        f"pay, {name}": Script(moves=(*_paid(number), ("wait", 130), *_again(number), *_later()))
        for number, name in enumerate(stage.names)
    }


def _at_one_gateway(one: int, other: int) -> dict[str, Script]:
    groups = (_paying(one), _several(one, other), _ending(one), _giving_back(one), _reserved(one), _doubts(one))
    return {name: script for group in (*groups, _unanswered_calls(one, other)) for name, script in group.items()}


def _paying(one: int) -> dict[str, Script]:
    """One buyer, one payment."""
    paid = _paid(one)
    closes = (*_ordered(), *_agreed(one))
    everything = _go("refund", 0, 0, True, 0, 0)
    return {
        "pay": Script(moves=paid),
        "pay, and try again": Script(moves=(*paid, *_again(one))),
        "pay, told by webhook alone": Script(moves=(*closes, ("deliver", 0, 2, True, 1), ("go", 0, _ALL), ("finish",))),
        "pay, found by recovery alone": Script(moves=(*closes, ("wait", 700), *_go("recover", 1))),
        "pay in forint": Script(moves=(*_ordered(5), *_agreed(one), *_go("complete", -1, 0), *everything)),
        "pay in yen": Script(moves=(*_ordered(6), *_agreed(one), *_go("complete", -1, 0), *everything)),
        "nothing is due": Script(moves=(*_ordered(8), *_go("start", 0, one, 0))),
    }


def _several(one: int, other: int) -> dict[str, Script]:
    """Several tabs, gateways or buyers at the same time."""
    closes = (*_ordered(), *_agreed(one))
    return {
        "pay, browser and webhook at once": Script(moves=(*closes, *_at_once()), setup=TOLD),
        "pay, two tabs at once": Script(moves=(*closes, ("complete", 0, 0), ("complete", 0, 1), *_alternate(14))),
        "change to the other gateway": Script(
            moves=(*_ordered(), *_go("start", 0, other, 0), *_agreed(one), *_go("complete", -1, 0), *_again(one))
        ),
        "approve at both gateways": Script(
            moves=(*_ordered(), *_agreed(other), *_agreed(one), ("complete", 0, 0), ("complete", 1, 1), *_alternate(20))
        ),
        "the last goods, two buyers": Script(
            moves=(*_ordered(3), *_go("order", 1, 1, 0), *_agreed(one), *_go("start", 1, one, 1), *_two_pay())
        ),
    }


def _ending(one: int) -> dict[str, Script]:
    """Payments and orders that end otherwise than paid, or nearly so."""
    closes = (*_ordered(), *_agreed(one))
    return {
        "cancel the payment": Script(moves=(*_ordered(), *_go("start", 0, one, 0), *_go("cancel", 0, 0), *_again(one))),
        "cancel the order": Script(moves=(*closes, *_go("cancel_order", 0, 0))),
        "pay after the order ended": Script(
            moves=(*_ordered(), *_go("start", 0, one, 0), ("wait", 100_000), *_go("recover", 1), ("agree", 0, 0))
        ),
        "slow money fails, told by webhook": Script(moves=(*_ordered(), *_slow(one), *_fails(one), *_told())),
        "slow money fails": Script(moves=(*_ordered(), *_slow(one)), setup=Setup(verdict=1)),
        "the order's price changes": Script(
            moves=(*closes, *_go("discount", 0, 0), *_go("complete", -1, 0), *_again(one))
        ),
        "cancel the order while another tab starts": Script(
            moves=(
                *_ordered(),
                ("cancel_order", 0, 0),
                ("go", 0, 1),
                ("start", 0, one, 1),
                ("go", 1, _ALL),
                ("finish",),
            )
        ),
        "the shop cancels the order meanwhile": Script(
            moves=(*closes, *_go("shop_cancel", 0, 0), *_go("complete", 0, 0)), setup=TOLD
        ),
        "the shop cancels the order of reserved money": Script(
            moves=(*closes, *_go("shop_cancel", 0, 0), *_go("complete", 0, 0)), setup=MANUAL
        ),
        "the shop cancels the order of slow money": Script(
            moves=(*_ordered(), *_slow(one), *_go("shop_cancel", 0, 0), *_go("order", 1, 4, 0))
        ),
        "the goods are gone before the capture": Script(
            moves=(*_ordered(3), *_go("start", 0, one, 0), ("wait", 1_300), *_go("order", 1, 3, 0), *_other_buys(one))
        ),
    }


def _giving_back(one: int) -> dict[str, Script]:
    """Refunds and disputes."""
    paid = _paid(one)
    closes = (*_ordered(), *_agreed(one))
    everything = _go("refund", 0, 0, True, 0, 0)
    return {
        "refund all": Script(moves=(*paid, *everything, *everything), setup=TOLD),
        "refund twice at once": Script(
            moves=(*paid, ("refund", 0, 0, True, 2, 0), ("refund", 0, 2, False, 0, 1), *_alternate(12))
        ),
        "refund a part, twice": Script(
            moves=(*paid, *_go("refund", 0, 2, True, 2, 0), *_go("refund", 0, 2, True, 3, 0))
        ),
        "refund at the dashboard": Script(
            moves=(*paid, ("happen", one, "dashboard_refund", 1), *everything), setup=TOLD
        ),
        "refund that fails after all": Script(
            moves=(*paid, *everything, ("happen", one, "fail_refund"), *_told()), setup=TOLD
        ),
        "refund that waits and fails": Script(
            moves=(*paid, *_pending(one), *everything, ("happen", one, "fail_refund"), *_go("recover", 1))
        ),
        "dispute, and a refund meanwhile": Script(
            moves=(*paid, ("happen", one, "open_dispute"), ("deliver", -1, 1, True, 1), ("go", 0, _ALL), *everything)
        ),
        "a dispute is told before the payment": Script(
            moves=(*closes, ("happen", one, "open_dispute"), *_told()), setup=TOLD
        ),
        "a dispute before the money goes back": Script(
            moves=(*closes, *_go("discount", 0, 0), *_go("complete", 0, 0), ("happen", one, "open_dispute"), *_told()),
            setup=Setup(verdict=1),
        ),
    }


def _reserved(one: int) -> dict[str, Script]:
    """Staff capture by hand what was reserved."""
    paid = _paid(one)
    everything = _go("refund", 0, 0, True, 0, 0)
    return {
        "release while another tab reads": Script(moves=(*paid, *_released_meanwhile()), setup=MANUAL),
        "the shop cancels after the money was reserved": Script(
            moves=(*paid, *_go("shop_cancel", 0, 0), *_go("complete", 0, 0)), setup=MANUAL
        ),
        "capture by staff": Script(moves=(*paid, *_go("capture", 0, 0, 0)), setup=MANUAL),
        "capture a part by staff": Script(moves=(*paid, *_go("capture", 0, 3, 0), *everything), setup=MANUAL),
        "release by staff": Script(moves=(*paid, *_go("release", 0, 0)), setup=MANUAL),
        "nobody captures": Script(moves=paid, setup=MANUAL),
    }


def _unanswered_calls(one: int, other: int) -> dict[str, Script]:
    """Gateways that do not answer, for a moment or for a day."""
    paid = _paid(one)
    closes = (*_ordered(), *_agreed(one))
    everything = _go("refund", 0, 0, True, 0, 0)
    return {
        "create never answers, and the buyer cancels": Script(
            moves=(*_ordered(), ("start", 0, one, 0), *_lost("create"), *_go("cancel_order", 0, 0), *_again(one))
        ),
        "create never answers, and the buyer goes elsewhere": Script(
            moves=(*_ordered(), ("start", 0, one, 0), *_lost("create"), *_again(other))
        ),
        "create never answers, and the price changes": Script(
            moves=(*_ordered(), ("start", 0, one, 0), *_lost("create"), *_go("discount", 0, 0), *_again(one))
        ),
        "create never answers, the price changes, a worker repeats it": Script(
            moves=(*_ordered(), ("start", 0, one, 0), *_lost("create"), *_go("discount", 0, 0), *_later())
        ),
        "create never answers, for a day": Script(
            moves=(*_ordered(), ("start", 0, one, 0), *_lost("create"), ("wait", 90_000), *_go("recover", 1)),
            setup=Setup(long=True),
        ),
        "capture never answers": Script(moves=(*closes, ("complete", 0, 0), *_lost("capture"), *_again(one))),
        "refund while the gateway is busy": Script(
            moves=(*paid, ("outage", one, "429"), *everything, *_later(), ("outage", one, ""), *everything)
        ),
        "refund never answers": Script(moves=(*paid, ("refund", 0, 0, True, 2, 0), *_lost("refund"), *everything)),
        "the gateway does not know the payment": Script(
            moves=(*closes, ("complete", 0, 0), ("go_to", "send"), ("go", 0, 1, "404"), ("finish",), *_again(one))
        ),
        "refund never answers, for a day": Script(
            moves=(*paid, ("refund", 0, 2, True, 2, 0), *_lost("refund"), ("wait", 90_000), *_go("recover", 1)),
            setup=Setup(long=True),
        ),
        "capture never answers, for a day": Script(
            moves=(*closes, ("complete", 0, 0), *_lost("capture"), ("wait", 90_000), *_go("recover", 1)),
            setup=Setup(long=True),
        ),
    }


def _doubts(one: int) -> dict[str, Script]:
    """Answers and commits that are lost while others go on."""
    paid = _paid(one)
    closes = (*_ordered(), *_agreed(one))
    return {
        "a worker among the rows of another": Script(moves=(*closes, ("wait", 700), *_second_worker(one))),
        "two workers at once": Script(
            moves=(*closes, ("wait", 700), ("recover", 1), ("go", 0, 4), ("recover", 0), *_alternate(30))
        ),
        "a void never answers": Script(
            moves=(*_ordered(), *_go("start", 0, one, 0), ("cancel", 0, 0), *_lost("void", "requests lost"))
        ),
        "a refund whose commit is in doubt": Script(
            moves=(*paid, ("refund", 0, 2, True, 0, 0), *_lost("commit", "commit unknown, kept"))
        ),
        "a capture's answer is lost, and a dispute comes first": Script(
            moves=(*closes, ("complete", 0, 0), *_lost("capture"), ("happen", one, "open_dispute", 1), *_told())
        ),
        "a capture's answer is lost, and the dashboard refunds": Script(
            moves=(*closes, ("complete", 0, 0), *_lost("capture"), ("happen", one, "dashboard_refund", 1), *_later())
        ),
        "two workers, one of them too slow": Script(moves=(*closes, ("wait", 700), *_too_slow())),
        "webhooks while the gateway is silent": Script(
            moves=(*closes, *_go("deliver", -1, 1, True, 1), *_silent(one), *_later())
        ),
        "refund is refused, and then the gateway is silent": Script(
            moves=(*paid, ("happen", one, "dashboard_refund"), *_refused_refund(), *_silent(one), *_later())
        ),
    }


def _released_meanwhile() -> tuple[Move, ...]:
    """Staff release; before that reaches the gateway a tab reads the payment, and settles what it read last of all."""
    return (
        *(("release", 0, 0), ("go_to", "void"), ("complete", 0, 1), ("go", 1, 2)),
        *(("go", 0, _ALL), ("go", 0, _ALL)),
    )


def _pending(one: int) -> tuple[Move, ...]:
    """The next refunds wait, whatever the gateway's word for that is."""
    return (("happen", one, "pend_next_refund"), ("happen", one, "pend_refunds"))


def _fails(one: int) -> tuple[Move, ...]:
    """The bank refuses slow money after all."""
    return (("happen", one, "resolve_processing", 1), ("happen", one, "clear_pending", 1))


def _slow(one: int) -> tuple[Move, ...]:
    return (*_go("start", 0, one, 0), ("agree_as", -1, _SLOW), *_go("complete", -1, 0))


def _lost(port: str, fate: str = "answers lost") -> tuple[Move, ...]:
    """The task goes on to a port, which ends badly; then all goes on."""
    return (("go_to", port), ("go", 0, 1, fate), ("finish",))


def _told() -> tuple[Move, ...]:
    """All webhooks arrive, then a worker comes by."""
    delivered = tuple(move for _ in range(6) for move in _go("deliver", -1, 1, False, 1))
    return (*delivered, *_go("recover", 1))


def _second_worker(one: int) -> tuple[Move, ...]:
    """A worker stands still with its lease; another payment becomes due, and a second worker comes for that."""
    return (
        *(("recover", 1), ("go", 0, 4), ("order", 1, 0, 0), ("go", 1, _ALL), ("start", 1, one, 0), ("go", 1, _ALL)),
        *(("wait", 100), ("recover", 0), ("go", 1, _ALL), ("finish",)),
    )


def _too_slow() -> tuple[Move, ...]:
    """A worker begins and stands still until its lease is over; another one begins; then both go on."""
    return (("recover", 1), ("go", 0, 4), ("wait", 400), ("recover", 0), ("go", 1, 4), ("go", 0, _ALL), ("finish",))


def _refused_refund() -> tuple[Move, ...]:
    return (("refund", 0, 0, False, 0, 0), ("go_to", "refund"), ("go", 0, 1))


def _silent(one: int) -> tuple[Move, ...]:
    """What is under way goes on without an answer of the gateway."""
    return (("outage", one, "503"), ("finish",), ("outage", one, ""))


def _later() -> tuple[Move, ...]:
    return (("wait", 700), *_go("recover", 1))


def _other_buys(one: int) -> tuple[Move, ...]:
    return (*_go("start", 1, one, 0), ("agree", 1, 0), *_go("complete", 1, 0), ("agree", 0, 0), *_go("complete", 0, 0))


def _at_once() -> tuple[Move, ...]:
    return (("complete", 0, 0), ("deliver", 0, 2, True, 1), *_alternate(16))


def _alternate(ports: int) -> tuple[Move, ...]:
    """Several tasks, port by port in turn."""
    return tuple(("go", number, 1) for number in range(ports))


def _two_pay() -> tuple[Move, ...]:
    return (("agree", 1, 0), ("complete", 0, 0), ("complete", 1, 1), *_alternate(14))


# ── Faults ──────────


def steps_of(stage: Stage, script: Script) -> list[str]:
    """The kinds of the ports that a script passes before the calm, in their order, up to where it may break."""
    kinds: list[str] = []
    world = script.open(stage)
    world.engine.on_step = lambda port: kinds.append(port.kind)
    # Whoever plays the script itself is told of the violation; here it only ends the walk.
    with suppress(Violation):
        for move in script.moves:
            world.act(move)
    return kinds


def single_faults(stage: Stage, script: Script, *, after: int = -1) -> Iterator[Script]:
    """The script once for every way in which every one of its ports behind `after` may end badly."""
    for step, kind in enumerate(steps_of(stage, script)):
        if step <= after:
            continue
        for fate in FATES[kind]:
            yield replace(script, faults={**script.faults, step: fate})


def pairs_of_faults(stage: Stage, script: Script) -> Iterator[Script]:
    """The script once for every two faults: the second one anywhere behind the first in the run that this one made."""
    for first in single_faults(stage, script):
        (step,) = first.faults
        yield from single_faults(stage, first, after=step)
