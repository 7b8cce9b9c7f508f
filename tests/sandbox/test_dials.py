"""The fault dials by themselves, and in the transport without sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidonce.errors import OutcomeUnknown
from paidonce.gateways.base import HttpRequest, SandboxCore
from paidonce.sandbox import Dials, Fault, Rule, SandboxTransport, pending_webhooks
from paidonce.sandbox.dials import MEANINGS, MOST_RULES, instead
from sandbox.twin import PUBLIC_URL, TillCore, VirtualClock

PAY = HttpRequest("POST", "/till/v1/pay")
LOOK = HttpRequest("GET", "/till/v1/pays?path=/v1/pay")


def strikes(dials: Dials, request: HttpRequest = PAY, *, times: int, gateway: str = "till") -> list[bool]:
    """For each of so many equal calls, whether anything befalls it."""
    return [dials.for_call(gateway, request) is not None for _ in range(times)]


class Bench:
    """One twin behind the transport without sockets."""

    def __init__(self, *rules: Rule, webhooks: bool = True) -> None:
        self.core = TillCore("till")
        self.cores: dict[str, SandboxCore] = {"till": self.core}
        self.clock = VirtualClock()
        self.dials = Dials(*rules, webhooks=webhooks)
        self.delivered: list[str] = []
        self.wire = SandboxTransport(self.cores, self.clock, PUBLIC_URL, dials=self.dials)

    async def pay(self, headers: Mapping[str, str] | None = None) -> dict[str, str]:
        request = HttpRequest("POST", PUBLIC_URL + "/till/v1/pay", headers or {})
        answer = await self.wire.send(request, deadline_seconds=8)
        assert answer.status == 200
        said: dict[str, str] = json.loads(answer.body)
        return said

    async def pay_often(self, times: int) -> None:
        for _ in range(times):
            await self.pay()

    def arriving(self) -> list[str]:
        return [json.loads(request.body)["id"] for request in self.wire.pending_webhooks()]

    async def deliver(self, request: HttpRequest) -> None:
        self.delivered.append(json.loads(request.body)["id"])


# ── Which requests ──────────


def test_without_rules_nothing_goes_wrong() -> None:
    assert strikes(Dials(), times=3) == [False] * 3
    assert Dials().for_webhook("till", "pay.done") == ()


def test_next_strikes_so_often_and_then_the_rule_is_gone() -> None:
    dials = Dials(Rule(Fault.LOSE_ANSWER, next=2))
    assert strikes(dials, times=4) == [True, True, False, False]
    assert dials.state()["rules"] == []
    assert dials.struck == {Fault.LOSE_ANSWER: 2}


def test_only_requests_that_match_count() -> None:
    dials = Dials(Rule(Fault.LOSE_ANSWER, next=1, gateway="till", method="POST", path="/v1/pay"))
    assert strikes(dials, HttpRequest("GET", "/till/v1/pay"), times=2) == [False] * 2
    assert strikes(dials, HttpRequest("POST", "/till/v1/other"), times=2) == [False] * 2
    # The query is no part of the path, since whatever a buyer typed may stand there.
    assert strikes(dials, HttpRequest("POST", "/till/?path=/v1/pay"), times=2) == [False] * 2
    assert strikes(dials, gateway="drawer", times=2) == [False] * 2
    assert strikes(dials, times=2) == [True, False]


@pytest.mark.parametrize("headers", [{"sec-fetch-mode": "navigate"}, {"user-agent": "Mozilla/5.0 (X11)"}])
def test_browsers_are_spared_unless_asked_for(headers: dict[str, str]) -> None:
    request = HttpRequest("GET", "/till/page", headers)
    assert strikes(Dials(Rule(Fault.LOSE_ANSWER)), request, times=2) == [False] * 2
    assert strikes(Dials(Rule(Fault.LOSE_ANSWER, pages=True)), request, times=2) == [True] * 2


def test_every_second_one() -> None:
    assert strikes(Dials(Rule(Fault.LOSE_ANSWER, every=2)), times=6) == [False, True] * 3


def test_chance_repeats_from_its_seed_and_only_from_it() -> None:
    rule = Rule(Fault.LOSE_ANSWER, probability=0.5)
    first, second, other = (strikes(Dials(rule, seed=seed), times=64) for seed in (7, 7, 8))
    assert first == second
    assert first != other
    assert 16 < sum(first) < 48
    dials = Dials(rule, seed=7)
    strikes(dials, times=10)
    dials.reseed(7)
    assert strikes(dials, times=64) == first


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_never_and_always(probability: float, expected: bool) -> None:
    assert set(strikes(Dials(Rule(Fault.LOSE_ANSWER, probability=probability)), times=50)) == {expected}


def test_the_first_rule_that_strikes_decides_and_the_next_is_spared() -> None:
    dials = Dials(Rule(Fault.LOSE_ANSWER, next=1), Rule(Fault.TOO_MANY, next=1))
    assert [rule and rule.fault for rule in (dials.for_call("till", PAY) for _ in range(3))] == [
        Fault.LOSE_ANSWER,
        Fault.TOO_MANY,
        None,
    ]


def test_rules_of_calls_and_of_webhooks_keep_apart() -> None:
    dials = Dials(Rule(Fault.LOSE_ANSWER, next=1), Rule(Fault.WEBHOOK_DROP, next=1, event="refund"))
    assert dials.for_webhook("till", "pay.done") == ()
    assert [rule.fault for rule in dials.for_webhook("till", "refund.done")] == [Fault.WEBHOOK_DROP]
    assert strikes(dials, times=2) == [True, False]


# ── Words for it ──────────


def test_every_fault_has_its_meaning() -> None:
    assert set(MEANINGS) == set(Fault)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({}, "fault is missing"),
        ({"fault": "explode"}, "fault is one of lose_request"),
        ({"fault": 409}, "fault is one of"),
        ({"fault": "409", "next": 0}, "1 or more"),
        ({"fault": "409", "next": True}, "whole number"),
        ({"fault": "409", "next": 1.5}, "whole number"),
        ({"fault": "409", "every": 0}, "every is 1 or more"),
        ({"fault": "409", "probability": 1.01}, "between 0 and 1"),
        ({"fault": "409", "probability": "nan"}, "probability is a number"),
        ({"fault": "409", "probability": True}, "probability is a number"),
        ({"fault": "delay", "seconds": -1}, "seconds lies"),
        ({"fault": "delay", "seconds": "1e400"}, "seconds is a number"),
        ({"fault": "webhook_duplicate", "copies": 1}, "copies lies"),
        ({"fault": "409", "event": "x"}, "event chooses webhooks"),
        ({"fault": "webhook_drop", "path": "x"}, "choose calls"),
        ({"fault": "409", "path": ["x"]}, "path is a short text"),
        ({"fault": "409", "pages": "perhaps"}, "pages is true or false"),
        ({"fault": "409", "colour": "red"}, "unknown: colour"),
    ],
)
def test_nonsense_is_explained(given_: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rule.parse(given_)


RULES = st.builds(
    Rule,
    fault=st.sampled_from([fault for fault in Fault if not fault.of_webhooks]),
    next=st.none() | st.integers(1, 1000),
    every=st.integers(1, 9),
    probability=st.floats(0, 1),
    gateway=st.none() | st.text(min_size=1, max_size=9),
    method=st.none() | st.sampled_from(["GET", "POST"]),
    pages=st.booleans(),
    seconds=st.none() | st.floats(0, 100),
)


@given(RULES)
def test_what_a_rule_says_of_itself_is_that_rule(rule: Rule) -> None:
    assert Rule.parse(json.loads(json.dumps(rule.describe()))) == rule


@given(st.dictionaries(st.sampled_from(["fault", "next", "pages", "seconds", "copies", "path"]), st.text() | st.none()))
def test_texts_from_a_form_make_a_rule_or_an_explanation(form: dict[str, object]) -> None:
    try:
        outcome = Rule.parse(form).fault.value
    except ValueError as error:
        outcome = str(error)
    # Any other error would be a traceback on the page.
    assert outcome


def test_settings_that_make_no_sense_change_nothing() -> None:
    dials = Dials(Rule(Fault.LOSE_ANSWER), seed=3)
    before = dials.state()
    bad: list[dict[str, object]] = [
        {"clear": True, "rules": [{"fault": "nothing"}]},
        {"seed": 4, "webhooks": "sometimes"},
        {"seed": "x", "clear": True},
        {"rules": "all"},
        {"webhooks": "off", "wish": 1},
        {"rules": [{"fault": "409"}] * (MOST_RULES + 1), "clear": True},
    ]
    for settings in bad:
        with pytest.raises(ValueError, match=r"\w"):
            dials.turn(settings)
    assert dials.state() == before


def test_settings_clear_first_and_then_set() -> None:
    dials = Dials(Rule(Fault.LOSE_ANSWER), webhooks=False)
    dials.turn({"rules": [{"fault": "429", "seconds": 2}], "clear": True, "seed": 5})
    assert dials.state() == {
        "seed": 5,
        "webhooks": "on",
        "rules": [{"fault": "429", "seconds": 2.0, "left": None, "seen": 0, "struck": 0}],
        "struck": {},
    }
    dials.turn({"webhooks": "off"})
    assert not dials.webhooks
    assert strikes(dials, times=1) == [True]


# ── Calls without a socket ──────────

UNKNOWN = [Fault.LOSE_REQUEST, Fault.LOSE_ANSWER, Fault.TRUNCATED]


@pytest.mark.parametrize("fault", UNKNOWN)
async def test_a_broken_connection_is_an_unknown_outcome(fault: Fault) -> None:
    bench = Bench(Rule(fault, next=1))
    with pytest.raises(OutcomeUnknown):
        await bench.pay()
    assert bench.core.state["pays"] == (0 if fault is Fault.LOSE_REQUEST else 1)
    assert (await bench.pay())["charge"] == f"ch_{bench.core.state['pays']}"


@pytest.mark.parametrize("fault", [fault for fault in Fault if instead(Rule(fault)) is not None])
async def test_an_answer_in_the_gateways_place(fault: Fault) -> None:
    bench = Bench(Rule(fault, next=1))
    answer = await bench.wire.send(HttpRequest("POST", PUBLIC_URL + "/till/v1/pay"), deadline_seconds=8)
    assert answer.status == int(fault.removeprefix("html_")[:3])
    before = fault in (Fault.TOO_MANY, Fault.IN_PROGRESS, Fault.ERROR_500_BEFORE, Fault.ERROR_502_BEFORE)
    assert bench.core.state["pays"] == (0 if before else 1)
    assert b"charge" not in answer.body
    assert (answer.headers["content-type"] == "application/json") == (answer.status in (409, 429))


async def test_retry_after_holds_whole_seconds() -> None:
    bench = Bench(Rule(Fault.TOO_MANY, seconds=2.5))
    answer = await bench.wire.send(HttpRequest("POST", PUBLIC_URL + "/till/v1/pay"), deadline_seconds=8)
    assert answer.headers["retry-after"] == "3"


@pytest.mark.parametrize("fault", [Fault.DELAY, Fault.DRIP])
async def test_a_late_answer_counts_until_the_deadline(fault: Fault) -> None:
    bench = Bench(Rule(fault, next=1, seconds=7), Rule(fault, next=1, seconds=9))
    assert (await bench.pay())["charge"] == "ch_1"
    with pytest.raises(OutcomeUnknown):
        await bench.pay()
    # Both were carried out, and nobody waited longer than they said they would.
    assert bench.core.state["pays"] == 2
    assert bench.clock.slept == [7, 8]


async def test_a_path_without_a_twin_uses_up_no_fault() -> None:
    bench = Bench(Rule(Fault.LOSE_ANSWER, next=1))
    answer = await bench.wire.send(HttpRequest("POST", PUBLIC_URL + "/nobody/v1"), deadline_seconds=8)
    assert answer.status == 404
    assert bench.dials.struck.total() == 0


# ── Webhooks without a socket ──────────


async def test_webhooks_come_once_and_in_order() -> None:
    bench = Bench()
    await bench.pay_often(3)
    assert bench.arriving() == ["evt_1", "evt_2", "evt_3"]
    assert bench.arriving() == []


async def test_webhooks_can_be_had_without_a_transport() -> None:
    bench = Bench(Rule(Fault.WEBHOOK_DROP))
    await bench.pay_often(2)
    requests = pending_webhooks(bench.cores, bench.clock.now())
    assert [(request.method, request.url) for request in requests] == [("POST", "/webhooks/till")] * 2
    assert pending_webhooks(bench.cores, bench.clock.now()) == []


async def test_duplicates_drops_and_late_ones() -> None:
    bench = Bench(
        Rule(Fault.WEBHOOK_DUPLICATE, next=1, copies=3),
        Rule(Fault.WEBHOOK_DELAY, every=2, next=1, seconds=60),
        Rule(Fault.WEBHOOK_DROP, every=3, next=1),
    )
    await bench.pay_often(4)
    assert bench.arriving() == ["evt_1", "evt_1", "evt_1", "evt_4"]
    bench.clock.time += 59_999_999
    assert bench.arriving() == []
    bench.clock.time += 1
    assert bench.arriving() == ["evt_2"]


async def test_reordering_reverses_what_is_held_together() -> None:
    bench = Bench(Rule(Fault.WEBHOOK_REORDER, seconds=0), Rule(Fault.WEBHOOK_DUPLICATE, copies=2))
    await bench.pay_often(3)
    assert bench.arriving() == ["evt_3", "evt_3", "evt_2", "evt_2", "evt_1", "evt_1"]


async def test_reordering_holds_for_a_while_and_lets_others_pass() -> None:
    bench = Bench(Rule(Fault.WEBHOOK_REORDER, seconds=10, next=2))
    await bench.pay()
    assert bench.arriving() == []
    await bench.pay_often(2)
    assert bench.arriving() == ["evt_3"]
    bench.clock.time += 10_000_000
    assert bench.arriving() == ["evt_2", "evt_1"]


async def test_switched_off_nothing_comes_and_nothing_comes_later() -> None:
    bench = Bench(webhooks=False)
    await bench.pay_often(2)
    assert bench.arriving() == []
    bench.dials.webhooks = True
    assert bench.arriving() == []
    await bench.pay()
    assert bench.arriving() == ["evt_3"]


async def test_an_early_one_comes_before_the_answer() -> None:
    bench = Bench(Rule(Fault.WEBHOOK_EARLY, next=1), Rule(Fault.LOSE_ANSWER, next=1))
    bench.wire.deliver = bench.deliver
    with pytest.raises(OutcomeUnknown):
        await bench.pay()
    assert bench.delivered == ["evt_1"]
    assert bench.arriving() == []
    await bench.pay()
    assert bench.delivered == ["evt_1"]
    assert bench.arriving() == ["evt_2"]


async def test_an_early_one_comes_as_usual_where_nobody_takes_it() -> None:
    bench = Bench(Rule(Fault.WEBHOOK_EARLY))
    await bench.pay()
    assert bench.arriving() == ["evt_1"]


async def test_the_log_knows_each_webhook_and_no_body() -> None:
    bench = Bench(Rule(Fault.WEBHOOK_DROP, next=1))
    await bench.pay_often(2)
    bench.arriving()
    said = [delivery.describe() for delivery in bench.wire.queue.log]
    assert [(one["id"], one["type"], one["state"]) for one in said] == [
        ("evt_1", "pay.done", "dropped"),
        ("evt_2", "pay.done", "handed over"),
    ]
    assert "canary" not in repr(list(bench.wire.queue.log))


def test_the_documentation_has_every_fault_and_every_field_of_a_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert {fault.value: meaning for fault, meaning in MEANINGS.items()}.items() <= told.items()
    section = page.partition("## Fault dials")[2].partition("| fault of a call")[0]
    rows = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {
        one.name for one in fields(Rule) if one.name != "fault"
    }
