"""From a seed to a run: who does what, in which order, and what goes wrong. Chosen by looking at the world."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from paidonce.ports import SECOND
from paidonce.prove.engine import FATES
from paidonce.prove.world import AMOUNTS, BASKETS, BEGAN, BUYERS, GOODS, REQUEST_KEYS, Move, Setup, World

_HOUR, _DAY = 3600, 24 * 3600
_WAITS = (1, 31, 70, 125, 310, 700, 1_300, 2 * _HOUR, 7 * _HOUR)
_LONG_WAITS = (*_WAITS, 25 * _HOUR, 3 * _DAY, 8 * _DAY)
# What a dashboard did without a webhook is found by the audit after two days, so runs with few audits are short.
_SHORT_RUN = 36 * _HOUR
_JUMPS = (-3 * _HOUR, -70, 90, 3 * _HOUR)
_OUTAGES = ("request lost", "answer lost", "503", "500 after all", "429")
_ALL = 99
_SHORT = 14  # Moves.


@dataclass(frozen=True, slots=True)
class Mood:
    """What a run is about: its length, and how often what happens."""

    moves: int
    orders: int
    faults: float  # Of ports.
    crashes: float  # Of moves.
    side_by_side: float  # How often somebody else begins while others are under way.
    people: str  # The main part: buyers, staff, banks, strangers.


def setup_of(seed: int) -> Setup:
    """How the world of a seed begins. Two of three short runs are about safety alone and have no calm behind them."""
    chance = random.Random(f"setup {seed}")
    mood = _mood(random.Random(seed))
    banks = mood.people in ("banks", "all")
    return Setup(
        manual=chance.random() < 0.2,
        webhooks_at_last=chance.random() < 0.3,
        verdict=chance.randrange(2),
        calm=mood.moves > _SHORT or chance.random() < 0.33,
        audits=banks,
        long=banks and chance.random() < 0.2,
    )


def _mood(chance: random.Random) -> Mood:
    size = chance.random()
    moves, orders = (_SHORT, 1) if size < 0.85 else (36, 2) if size < 0.98 else (120, 4)
    return Mood(
        moves=chance.randrange(moves // 2, moves + 1),
        orders=orders,
        faults=chance.choice((0.0, 0.08, 0.2, 0.4)),
        crashes=chance.choice((0.0, 0.0, 0.03)),
        side_by_side=chance.choice((0.05, 0.4, 0.8)),
        people=chance.choice(("buyers", "buyers", "staff", "banks", "all")),
    )


class Author:
    """Writes the moves of one seed, each carried out at once."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.mood = _mood(self.chance)
        self.moves: list[Move] = []

    def write(self) -> list[Move]:
        """Act until the run is long enough, then let all calm down. Raises `checks.Violation`; see `moves` then."""
        while len(self.moves) < self.mood.moves:
            self._do(self._next())
        self.world.end()
        return self.moves

    def _do(self, move: Move) -> None:
        # Written down first, since it may be the one that breaks something.
        self.moves.append(move)
        self.world.act(move)

    def _next(self) -> Move:
        chance, tasks = self.chance, self.world.engine.tasks
        if tasks and (len(tasks) > 3 or not self.world.orders or chance.random() >= self.mood.side_by_side):
            return self._go_on(len(tasks))
        if self.mood.crashes and chance.random() < self.mood.crashes:
            return ("crash", chance.randrange(2))
        if not self.world.orders:
            return self._order()
        return self._somebody()

    def _go_on(self, tasks: int) -> Move:
        chance = self.chance
        number = chance.randrange(tasks)
        if chance.random() >= self.mood.faults:
            steps = _ALL if chance.random() < 0.5 else chance.randrange(1, 7)
            return ("go", number, steps)
        port = self.world.engine.tasks[number].waiting
        assert port is not None, "a task that is not over waits"
        return ("go", number, 1, chance.choice(FATES[port.kind]))

    def _process(self) -> int:
        return self.chance.randrange(2)

    def _basket(self) -> int:
        # The last four, in other currencies and free, have flows of their own.
        rare = self.chance.random() < 0.05
        return len(BASKETS) - 1 - self.chance.randrange(4) if rare else self.chance.randrange(len(BASKETS) - 4)

    def _somebody(self) -> Move:
        world, mood = self.world, self.mood
        orders, tabs = len(world.orders), len(world.tabs)
        agreed = {move[1] for move in self.moves if move[0] == "agree"}
        came_back = {move[1] for move in self.moves if move[0] == "complete"}
        fresh, waits = tabs - len(agreed), len(agreed - came_back)
        staff = mood.people in ("staff", "all") or world.setup.manual
        banks = mood.people in ("banks", "all")
        acts: list[tuple[float, Callable[[], Move]]] = [
            (4 if orders < mood.orders else 0.05, self._order),
            (10 if tabs < orders else 1.5, self._start),
            (0 if not tabs else 9 if fresh > 0 else 1.5, self._agree),
            (0 if not tabs else 6 if waits else 1, self._complete),
            (0.5, self._leave),
            (2 if agreed else 0.2, self._deliver),
            (1.5, self._recover),
            (1.5, self._wait),
            (0.2 if not agreed else 5 if staff else 0.3, self._staff),
            ((5 if agreed else 0.1) if banks else 0, self._bank),
            (0.3 if agreed else 0.05, self._nuisance),
            (0.4 if mood.faults else 0, self._outage),
        ]
        weights = [weight for weight, _ in acts]
        return self.chance.choices([act for _, act in acts], weights)[0]()

    def _order(self) -> Move:
        return ("order", self.chance.randrange(len(BUYERS)), self._basket(), self._process())

    def _start(self) -> Move:
        gateway = self.chance.randrange(len(self.world.stage.names))
        return ("start", self._newest(len(self.world.orders)), gateway, self._process())

    def _newest(self, count: int) -> int:
        """One of `count`, the newest ones more often."""
        return count - 1 if self.chance.random() < 0.6 else self.chance.randrange(max(count, 1))

    def _agree(self) -> Move:
        tabs = self.world.tabs
        number = self._newest(len(tabs))
        ways = self.world.stage.casts[tabs[number].gateway].ways
        way = 0 if self.chance.random() < 0.5 else self.chance.randrange(len(ways))
        if ways[way].endswith(("dispute", "inquire", "refunds fail")) and not self.world.setup.audits:
            # Without webhooks only an audit would find it.
            way = 0
        return ("agree", number, way)

    def _complete(self) -> Move:
        return ("complete", self._newest(len(self.world.tabs)), self._process())

    def _leave(self) -> Move:
        if self.world.tabs and self.chance.random() < 0.6:
            return ("cancel", self._newest(len(self.world.tabs)), self._process())
        return ("cancel_order", self._newest(len(self.world.orders)), self._process())

    def _deliver(self) -> Move:
        chance = self.chance
        if chance.random() < 0.1:
            return ("drop", chance.randrange(4))
        copies = 2 if chance.random() < 0.3 else 1
        return ("deliver", chance.randrange(8), copies, chance.random() < 0.3, self._process())

    def _recover(self) -> Move:
        return ("recover", self._process())

    def _wait(self) -> Move:
        if self.mood.faults and self.chance.random() < 0.1:
            return ("wait", self.chance.choice(_JUMPS))
        if self.world.setup.long:
            return ("wait", self.chance.choice(_LONG_WAITS))
        left = _SHORT_RUN - (self.world.engine.now - BEGAN) // SECOND
        return ("wait", self.chance.choice([one for one in _WAITS if one < left] or [1]))

    def _staff(self) -> Move:
        chance = self.chance
        payment, process = chance.randrange(4), self._process()
        manual = self.world.setup.manual
        kinds = {
            "refund": 5,
            "capture": 6 * manual,
            "release": 2 * manual,
            "stock": 1,
            "discount": 1,
            "shop_cancel": 0.5,
        }
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        match kind:
            case "refund":
                key = chance.randrange(len(REQUEST_KEYS))
                return ("refund", payment, chance.randrange(len(AMOUNTS)), chance.random() < 0.5, key, process)
            case "capture":
                amount = 0 if chance.random() < 0.6 else chance.randrange(len(AMOUNTS))
                return ("capture", payment, amount, process)
            case "release":
                return ("release", payment, process)
            case "stock":
                return ("stock", chance.randrange(len(GOODS)), chance.choice((-2, -1, 1, 3)), process)
        return (kind, self._newest(len(self.world.orders)), process)

    def _bank(self) -> Move:
        names = self.world.stage.names
        number = self.chance.randrange(len(names))
        happenings = self.world.stage.casts[names[number]].happenings()
        if not happenings:
            return self._recover()
        control, params = self.chance.choice(happenings)
        return ("bank", number, control, dict(params))

    def _nuisance(self) -> Move:
        chance = self.chance
        if chance.random() < 0.5:
            return ("stranger", chance.randrange(8), chance.randrange(4), self._process())
        return ("forge", chance.randrange(8), chance.randrange(3), self._process())

    def _outage(self) -> Move:
        fate = "" if any(self.world.outages.values()) else self.chance.choice(_OUTAGES)
        return ("outage", self.chance.randrange(len(self.world.stage.names)), fate)
