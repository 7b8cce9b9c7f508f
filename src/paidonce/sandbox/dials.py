"""The fault dials: what shall go wrong between a shop and its gateways, for the next few requests or by chance.

The dials only decide. `app.py` plays a fault on a real connection and `SandboxTransport` without one, from the same
decisions, so that a test in one process and a shop on loopback meet the same trouble. With one seed and the same
requests in the same order, the same things go wrong.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from paidonce.gateways.base import HttpRequest, HttpResponse

MOST_RULES = 100
LONGEST_SECONDS = 86_400.0


class Fault(StrEnum):
    """Everything that can go wrong: first with a call to a gateway, then with a gateway's webhook."""

    LOSE_REQUEST = "lose_request"
    LOSE_ANSWER = "lose_answer"
    DELAY = "delay"
    DRIP = "drip"
    TOO_MANY = "429"
    IN_PROGRESS = "409"
    ERROR_500_BEFORE = "500_before"
    ERROR_500_AFTER = "500_after"
    ERROR_502_BEFORE = "502_before"
    ERROR_502_AFTER = "502_after"
    TRUNCATED = "truncated"
    HTML_200 = "html_200"
    WEBHOOK_DUPLICATE = "webhook_duplicate"
    WEBHOOK_REORDER = "webhook_reorder"
    WEBHOOK_DELAY = "webhook_delay"
    WEBHOOK_DROP = "webhook_drop"
    WEBHOOK_EARLY = "webhook_early"

    @property
    def of_webhooks(self) -> bool:
        """Whether it befalls webhooks instead of calls."""
        return self.startswith("webhook_")

    @property
    def carries_out(self) -> bool:
        """Whether the gateway does what a call asked for, although the caller may not learn it."""
        return self not in _NOT_CARRIED_OUT


_NOT_CARRIED_OUT = frozenset(
    {Fault.LOSE_REQUEST, Fault.TOO_MANY, Fault.IN_PROGRESS, Fault.ERROR_500_BEFORE, Fault.ERROR_502_BEFORE}
)

# One sentence each, for the control page and the documentation.
MEANINGS: Mapping[Fault, str] = {
    Fault.LOSE_REQUEST: "the connection dies before the gateway has read the request",
    Fault.LOSE_ANSWER: "it is carried out, and the connection dies without an answer",
    Fault.DELAY: "it is carried out, and the answer comes so many seconds late",
    Fault.DRIP: "it is carried out, and the answer trickles in over so many seconds",
    Fault.TOO_MANY: "429 with a Retry-After of so many seconds; not carried out",
    Fault.IN_PROGRESS: "409, as if the same request were still in progress; not carried out",
    Fault.ERROR_500_BEFORE: "500 as HTML; not carried out",
    Fault.ERROR_500_AFTER: "500 as HTML, although it was carried out",
    Fault.ERROR_502_BEFORE: "502 as HTML; not carried out",
    Fault.ERROR_502_AFTER: "502 as HTML, although it was carried out",
    Fault.TRUNCATED: "it is carried out, and the answer breaks off in the middle",
    Fault.HTML_200: "it is carried out, and answered by a page with status 200",
    Fault.WEBHOOK_DUPLICATE: "it is sent so many times, all at once",
    Fault.WEBHOOK_REORDER: "it is held for so many seconds, and what is held together comes in reverse",
    Fault.WEBHOOK_DELAY: "it comes so many seconds late",
    Fault.WEBHOOK_DROP: "it never comes",
    Fault.WEBHOOK_EARLY: "it comes before the call that caused it is answered",
}

_USUAL_SECONDS: Mapping[Fault, float] = {
    Fault.DELAY: 5.0,
    Fault.DRIP: 30.0,
    Fault.TOO_MANY: 1.0,
    Fault.WEBHOOK_REORDER: 1.0,
    Fault.WEBHOOK_DELAY: 5.0,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault, and which requests it befalls. Raises `ValueError` with words for a person if it makes no sense.

    It looks at calls of `method` whose path holds `path`, or at webhooks whose type holds `event`; either may be
    narrowed to one `gateway`, by name. Of these it takes every `every`-th, each with `probability`, until it has struck
    `next` times (None: until it is cleared). Browsers' own requests are spared unless `pages` is set.
    """

    fault: Fault
    next: int | None = None
    every: int = 1
    probability: float = 1.0
    gateway: str | None = None
    method: str | None = None
    path: str | None = None
    event: str | None = None
    pages: bool = False
    seconds: float | None = None
    copies: int = 2  # How many arrive in all, for `webhook_duplicate`.

    def __post_init__(self) -> None:
        _require(self.next is None or self.next >= 1, "next is how many requests it shall befall: 1 or more")
        _require(self.every >= 1, "every is 1 or more (2: every second request)")
        _require(0 <= self.probability <= 1, "probability lies between 0 and 1")
        _require(2 <= self.copies <= 10, "copies lies between 2 and 10")
        limits = f"seconds lies between 0 and {LONGEST_SECONDS:g}"
        _require(self.seconds is None or 0 <= self.seconds <= LONGEST_SECONDS, limits)
        if self.fault.of_webhooks:
            _require(not (self.method or self.path or self.pages), "method, path and pages choose calls, not webhooks")
        else:
            _require(self.event is None, "event chooses webhooks, not calls")

    @property
    def wait_seconds(self) -> float:
        """`seconds`, or what is usual for this fault."""
        return _USUAL_SECONDS.get(self.fault, 0.0) if self.seconds is None else self.seconds

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Rule:
        """A rule from JSON or a form, where empty texts mean nothing. Raises `ValueError` naming what is wrong."""
        known = {one.name for one in fields(cls)}
        unknown = sorted(given.keys() - known)
        _require(not unknown, f"unknown: {', '.join(unknown)}. A rule has {', '.join(sorted(known))}")
        values = {name: value for name, value in given.items() if value is not None and value != ""}
        _require("fault" in values, f"fault is missing. It is one of {', '.join(Fault)}")
        return cls(**{name: _READERS[name](name, value) for name, value in values.items()})  # type: ignore[arg-type]

    def describe(self) -> dict[str, object]:
        """What differs from the usual, as JSON can hold it; `parse` reads it back."""
        usual = Rule(self.fault)
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in given.items() if name == "fault" or value != getattr(usual, name)}


@dataclass(slots=True)
class _Armed:
    """A rule at work: how many requests it has seen, and how often it may still strike."""

    rule: Rule
    left: int | None
    seen: int = 0
    struck: int = 0


class Dials:
    """The rules at work, asked once for every call and every webhook. Safe to use from several threads."""

    def __init__(self, *rules: Rule, seed: int = 0, webhooks: bool = True) -> None:
        self.webhooks = webhooks  # False: no webhook is sent at all.
        # How often each fault has struck since the start, so that a test can tell that the trouble was real.
        self.struck: Counter[Fault] = Counter()
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self.reseed(seed)
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Put `rule` behind the others; the first that strikes decides. Raises `ValueError` if there are too many."""
        with self._lock:
            _require(len(self._armed) < MOST_RULES, f"there are {MOST_RULES} rules already; clear them first")
            self._armed.append(_Armed(rule, rule.next))

    def clear(self) -> None:
        """Nothing goes wrong from now on, and webhooks are sent."""
        with self._lock:
            self._armed = []
            self.webhooks = True

    def reseed(self, seed: int) -> None:
        """Begin chance anew: the same requests then meet the same faults."""
        with self._lock:
            self.seed = seed
            self._chance = random.Random(seed)  # noqa: S311 - it chooses faults, not secrets.

    def for_call(self, gateway: str, request: HttpRequest) -> Rule | None:
        """What befalls this call to `gateway`, if anything. Its URL may hold a query, which no rule sees."""
        path, browser = request.url.partition("?")[0], is_from_browser(request.headers)

        def fits(rule: Rule) -> bool:
            return (
                not rule.fault.of_webhooks
                and rule.method in (None, request.method)
                and (rule.path is None or rule.path in path)
                and (rule.pages or not browser)
            )

        with self._lock:
            waiting = [armed for armed in self._armed if rule_is_for(armed.rule, gateway) and fits(armed.rule)]
            return next((armed.rule for armed in waiting if self._strikes(armed)), None)

    def for_webhook(self, gateway: str, event: str) -> tuple[Rule, ...]:
        """Everything that befalls this webhook of the type `event`: it may be late and doubled at once."""

        def fits(rule: Rule) -> bool:
            return rule.fault.of_webhooks and (rule.event is None or rule.event in event)

        with self._lock:
            waiting = [armed for armed in self._armed if rule_is_for(armed.rule, gateway) and fits(armed.rule)]
            return tuple(armed.rule for armed in waiting if self._strikes(armed))

    def _strikes(self, armed: _Armed) -> bool:
        rule = armed.rule
        armed.seen += 1
        if armed.seen % rule.every or (rule.probability < 1 and self._chance.random() >= rule.probability):
            return False
        armed.struck += 1
        self.struck[rule.fault] += 1
        if armed.left is not None:
            armed.left -= 1
            if armed.left == 0:
                self._armed = [one for one in self._armed if one is not armed]
        return True

    def turn(self, settings: Mapping[str, object]) -> None:
        """Carry out what the control API was sent: `clear`, then `seed`, `webhooks` (on or off) and `rules`.

        Raises `ValueError` naming what is wrong; nothing is changed then.
        """
        unknown = sorted(settings.keys() - {"clear", "seed", "webhooks", "rules"})
        _require(not unknown, f"unknown: {', '.join(unknown)}. The dials take clear, seed, webhooks and rules")
        clear = _truth("clear", settings.get("clear", False))
        seed = _whole("seed", settings["seed"]) if "seed" in settings else None
        webhooks = settings.get("webhooks")
        _require(webhooks in (None, "on", "off"), "webhooks is on or off")
        rules = _rules(settings.get("rules", []))
        _require(len(rules) + (0 if clear else len(self._armed)) <= MOST_RULES, f"at most {MOST_RULES} rules")
        if clear:
            self.clear()
        if seed is not None:
            self.reseed(seed)
        if webhooks is not None:
            self.webhooks = webhooks == "on"
        for rule in rules:
            self.add(rule)

    def state(self) -> dict[str, object]:
        """All of it as JSON: the rules with how often each has struck, oldest first, and the totals."""
        with self._lock:
            rules = [
                {**armed.rule.describe(), "left": armed.left, "seen": armed.seen, "struck": armed.struck}
                for armed in self._armed
            ]
            totals = {fault.value: count for fault, count in sorted(self.struck.items())}
            return {
                "seed": self.seed,
                "webhooks": "on" if self.webhooks else "off",
                "rules": rules,
                "struck": totals,
            }


def rule_is_for(rule: Rule, gateway: str) -> bool:
    """Whether `rule` looks at this gateway at all."""
    return rule.gateway in (None, gateway)


def is_from_browser(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, rather than a shop's server. `headers` have lower-case names."""
    return "sec-fetch-mode" in headers or headers.get("user-agent", "").startswith("Mozilla/")


def instead(rule: Rule) -> HttpResponse | None:
    """The whole answer that `rule` gives in the gateway's place, or None if it gives none."""
    status = _STATUSES.get(rule.fault)
    if status is None:
        return None
    if rule.fault in (Fault.TOO_MANY, Fault.IN_PROGRESS):
        headers = {"content-type": "application/json"}
        if rule.fault is Fault.TOO_MANY:
            headers["retry-after"] = str(math.ceil(rule.wait_seconds))
        return HttpResponse(status, headers, json.dumps(_REFUSALS[rule.fault]).encode())
    page = f"<!doctype html><title>{status}</title><h1>The sandbox's fault dial answers {status}</h1>"
    return HttpResponse(status, {"content-type": "text/html; charset=utf-8"}, page.encode())


_STATUSES: Mapping[Fault, int] = {
    Fault.TOO_MANY: 429,
    Fault.IN_PROGRESS: 409,
    Fault.ERROR_500_BEFORE: 500,
    Fault.ERROR_500_AFTER: 500,
    Fault.ERROR_502_BEFORE: 502,
    Fault.ERROR_502_AFTER: 502,
    Fault.HTML_200: 200,
}


def _refusal(code: str, message: str) -> dict[str, object]:
    """An error that clients of different gateways can read: some look into `error`, others at the top."""
    return {"error": {"type": code, "code": code, "message": message}, "name": code.upper(), "message": message}


_REFUSALS: Mapping[Fault, object] = {
    Fault.TOO_MANY: _refusal("rate_limit", "The sandbox's fault dial limits your rate."),
    Fault.IN_PROGRESS: _refusal("request_in_progress", "The sandbox's fault dial says that it is still in progress."),
}


# ── Reading what people and programs send ──────────


def _require(fine: bool, words: str) -> None:
    if not fine:
        raise ValueError(words)


def _rules(given: object) -> list[Rule]:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ValueError("rules is a list of objects")
    return [Rule.parse(one) for one in given]


def _fault(name: str, value: object) -> Fault:
    if not isinstance(value, str) or value not in set(Fault):
        raise ValueError(f"{name} is one of {', '.join(Fault)}")
    return Fault(value)


def _whole(name: str, value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 19:
        return int(value)
    if type(value) is not int:
        raise ValueError(f"{name} is a whole number")
    return value


def _number(name: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    _require(math.isfinite(number), f"{name} is a number")
    return number


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(f"{name} is a short text")
    return value


def _verb(name: str, value: object) -> str:
    return _text(name, value).upper()


def _truth(name: str, value: object) -> bool:
    # A ticked box of a form says "on".
    if value in ("on", "true", True):
        return True
    if value in ("off", "false", "", False):
        return False
    raise ValueError(f"{name} is true or false")


_READERS = {
    "fault": _fault,
    "next": _whole,
    "every": _whole,
    "probability": _number,
    "gateway": _text,
    "method": _verb,
    "path": _text,
    "event": _text,
    "pages": _truth,
    "seconds": _number,
    "copies": _whole,
}
