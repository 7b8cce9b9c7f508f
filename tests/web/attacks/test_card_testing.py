"""Attacks: 200 declines from one client (card testing). The gateway is asked a bounded number of times.

What nobody but the gateway can bound is how fast a browser confirms one payment again before the shop has heard of it;
here the shop hears at once, as by webhooks that arrive.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from paidonce.core import Declines
from paidonce.ports import SECOND
from paidonce.web.challenge import Suspect
from support.crowd import ATTACKER, NEIGHBOUR, Calls, Visitor, deliver_webhooks, read_rows, shop_behind_a_proxy, visitor
from support.webshop import WebShop

DECLINED = "pm_card_visa_chargeDeclined"
RULES = Declines()
CARDS = 200
MOST_ORDERS = 20


@pytest.fixture
async def shop(seeded_url: str) -> AsyncIterator[WebShop]:
    """A shop behind a proxy, so that each client has an address of its own."""
    with shop_behind_a_proxy(seeded_url) as shop:
        yield shop


@dataclass
class Thief:
    """Somebody with a list of stolen cards: he uses every open payment as long as it works, then starts the next."""

    shop: WebShop
    clients: list[Visitor]
    tested: int = 0
    refusals: list[int] = field(default_factory=list)
    _open: list[tuple[Visitor, dict[str, Any]]] = field(default_factory=list)
    _orders: dict[int, str] = field(default_factory=dict)
    _turns: Counter[int] = field(default_factory=Counter)

    async def try_a_card(self, turn: int) -> bool:
        """Whether one more card met its bank."""
        while self._open:
            client, started = self._open[0]
            answer = self.shop.confirm(started["client"], card=DECLINED)
            if answer.status == 402:
                self.tested += 1
                await deliver_webhooks(self.shop, client)
                await client.complete(started["id"])
                return True
            assert answer.status == 400, "the payment was ended"
            self._open.pop(0)
        return await self._start(turn) and await self.try_a_card(turn)

    async def _start(self, turn: int) -> bool:
        number = turn % len(self.clients)
        client, turns = self.clients[number], self._turns[number]
        # A new order with every other payment; the shop bounds unpaid orders as well.
        if turns % 2 == 0 and turns < 2 * MOST_ORDERS:
            self._orders[number] = (await client.order())["id"]
        self._turns[number] += 1
        answer = await client.try_start(self._orders[number], "stripe")
        if answer.status in (200, 201):
            self._open.append((client, answer.json))
            return True
        assert answer.is_problem(429, "too_many_attempts")
        assert answer.json["retry_after"] == int(answer.headers["Retry-After"]) > 0
        self.refusals.append(answer.json["retry_after"])
        return False


async def test_200_declines_from_one_account_cost_a_bounded_number_of_calls(shop: WebShop) -> None:
    calls = Calls(shop)
    async with visitor(shop, ATTACKER, "thief@example.com") as thief, visitor(shop, NEIGHBOUR) as neighbour:
        attack = Thief(shop, [thief])
        for turn in range(CARDS):
            await attack.try_a_card(turn)
        assert RULES.per_user is not None
        assert attack.tested <= RULES.per_user, "and most of his 200 cards met no bank"
        assert attack.refusals
        # Per card: the webhook's and the buyer's question; per payment: its making, and its end.
        assert len(calls.made) <= 4 * attack.tested + 6
        await assert_can_pay(shop, neighbour)


async def test_several_orders_sessions_and_accounts_of_one_address_share_its_bound(shop: WebShop) -> None:
    calls = Calls(shop)
    async with (
        visitor(shop, ATTACKER, "one@example.com") as one,
        visitor(shop, ATTACKER, "two@example.com") as two,
        visitor(shop, ATTACKER) as again,
        visitor(shop, NEIGHBOUR) as neighbour,
    ):
        assert (await again.sign_in("one@example.com", "a-long-password")).status == 201
        attack = Thief(shop, [one, two, again])
        for turn in range(CARDS):
            await attack.try_a_card(turn)
        assert RULES.per_user is not None
        assert RULES.per_address is not None
        assert attack.tested <= 2 * RULES.per_user
        # New accounts help no longer than the address is patient.
        for number in range(3):
            async with visitor(shop, ATTACKER, f"new{number}@example.com") as new:
                attack = Thief(shop, [new], tested=attack.tested)
                for turn in range(RULES.per_user + 1):
                    await attack.try_a_card(turn)
        assert attack.refusals, "the last new account"
        assert attack.tested <= RULES.per_address
        assert len(calls.made) <= 4 * attack.tested + 30
        await assert_can_pay(shop, neighbour)


async def test_patience_does_not_help_since_each_decline_doubles_the_wait(shop: WebShop) -> None:
    async with visitor(shop, ATTACKER, "patient@example.com") as patient:
        attack, began = Thief(shop, [patient]), shop.clock.now()
        for _ in range(60):
            if not await attack.try_a_card(0):
                shop.clock.shift += attack.refusals[-1] * SECOND
            if shop.clock.now() - began >= 3600 * SECOND:
                break
        assert RULES.per_user is not None
        assert attack.tested <= RULES.per_user, "in an hour"
        first, second, *_ = attack.refusals
        assert second > 2 * first, "the waits grow"


async def test_a_payment_that_was_declined_too_often_is_ended_at_the_gateway(shop: WebShop) -> None:
    """Its client values are worth nothing then: the browser that has them can confirm it no more."""
    calls = Calls(shop)
    async with visitor(shop, ATTACKER, "thief@example.com") as thief:
        started = await thief.start((await thief.order())["id"], "stripe")
        for _ in range(RULES.per_payment):
            assert shop.confirm(started["client"], card=DECLINED).status == 402
            await deliver_webhooks(shop, thief)
        assert shop.confirm(started["client"], card="pm_card_visa").status == 400
        assert calls.count("POST", "/cancel") == 1
        voids = await read_rows(shop, "SELECT state FROM operations WHERE kind = 'void'")
        assert voids == [{"state": "succeeded"}], "written down before the call, for recovery"
        assert (await thief.get(f"/api/payments/{started['id']}")).json["status"] == "canceled"


async def test_the_operator_is_alarmed_once_per_window(shop: WebShop) -> None:
    async with visitor(shop, ATTACKER, "thief@example.com") as thief:
        attack = Thief(shop, [thief])
        for turn in range(40):
            await attack.try_a_card(turn)
            if attack.refusals:
                shop.clock.shift += min(attack.refusals.pop(), 600) * SECOND
            if attack.tested == RULES.per_user:
                break
        for turn in range(10):
            await attack.try_a_card(turn)
    alarms = [row["payload"] for row in await read_rows(shop, "SELECT payload FROM outbox WHERE type LIKE 'alarm.%'")]
    assert len([one for one in alarms if '"of":"user"' in one]) == 1, alarms
    assert not [one for one in alarms if ATTACKER in one], "no alarm tells an address"


async def test_an_honest_buyer_with_three_declines_pays_with_the_next_card(shop: WebShop) -> None:
    async with visitor(shop, ATTACKER, "honest@example.com") as honest:
        order = await honest.order()
        for _ in range(3):
            started = await honest.start(order["id"], "stripe")
            assert shop.confirm(started["client"], card=DECLINED).status == 402
            await deliver_webhooks(shop, honest)
            told = (await honest.complete(started["id"])).json
            assert told["recoverable"]
        # Asking again and again counts nothing twice.
        for _ in range(5):
            await honest.complete(started["id"])
        again = await honest.start(order["id"], "stripe")
        assert shop.confirm(again["client"]).status == 200
        assert (await honest.complete(again["id"])).json["order_status"] == "paid"


async def test_a_passed_challenge_spares_the_wait_and_nothing_else(shop: WebShop) -> None:
    asked: list[Suspect] = []

    async def is_a_person(suspect: Suspect) -> bool:
        asked.append(suspect)
        return suspect.answer == "a person"

    shop.app.state.paidonce.challenge = is_a_person
    async with visitor(shop, ATTACKER, "challenged@example.com") as client:
        order = (await client.order())["id"]
        assert (await client.try_start(order, "stripe", challenge="unasked")).status == 201
        assert asked == [], "nobody is asked before declines call for it"
        attack = Thief(shop, [client])
        while await attack_until_asked(client, attack, order):
            pass
        assert (await client.try_start(order, "stripe", challenge="a robot")).is_problem(429, "challenge_needed")
        assert (await client.try_start(order, "stripe", challenge="a person")).status in (200, 201)
        assert [(one.order_id, one.address) for one in asked] == [(order, ATTACKER)] * 2
        while attack.tested < (RULES.per_user or 0):
            await decline(shop, client, order, attack)
        refused = await client.try_start((await client.order())["id"], "stripe", challenge="a person")
        assert refused.is_problem(429, "too_many_attempts"), "the end of the window is not to be passed"
        assert len(asked) > 2


async def attack_until_asked(client: Visitor, attack: Thief, order: str) -> bool:
    """Decline once more; False once the shop asks for its challenge."""
    answer = await client.try_start(order, "stripe")
    if answer.status == 429:
        assert answer.is_problem(429, "challenge_needed")
        return False
    assert attack.shop.confirm(answer.json["client"], card=DECLINED).status == 402
    attack.tested += 1
    await deliver_webhooks(attack.shop, client)
    return True


async def decline(shop: WebShop, client: Visitor, order: str, attack: Thief) -> None:
    answer = await client.try_start(order, "stripe", challenge="a person")
    assert answer.status in (200, 201), answer.text
    assert shop.confirm(answer.json["client"], card=DECLINED).status == 402
    attack.tested += 1
    await deliver_webhooks(shop, client)


async def test_questions_and_starts_are_bounded_by_buyer_and_order(shop: WebShop) -> None:
    calls = Calls(shop)
    async with visitor(shop, ATTACKER, "eager@example.com") as eager:
        order = (await eager.order())["id"]
        started = await eager.start(order, "stripe")
        # Questions after nobody's payment count as well, and cost least here.
        answers = [(await eager.complete("pay_0000000000000000000000")).status for _ in range(239)]
        assert set(answers) == {404}
        assert (await eager.complete(started["id"])).status == 200
        refused = await eager.complete(started["id"])
        assert refused.is_problem(429, "too_many_attempts")
        assert int(refused.headers["Retry-After"]) == refused.json["retry_after"] > 0
        assert re.search(r"Please wait \d+ (minutes|seconds)", refused.json["detail"])
        starts = [(await eager.try_start(order, "stripe")).status for _ in range(35)]
        assert starts.count(429) == 6, "29 more after the first"
        assert len(calls.made) <= 1 + 1 + 1 + 29, (
            "the account, its making, one question, and starts that found it again"
        )
        shop.clock.shift += 601 * SECOND
        assert (await eager.complete(started["id"])).status == 200


async def assert_can_pay(shop: WebShop, client: Visitor) -> None:
    """Somebody else buys as if nothing had happened."""
    assert (await client.sign_up("neighbour@example.com")).status == 201
    order = await client.order()
    started = await client.start(order["id"], "stripe")
    assert shop.confirm(started["client"]).status == 200
    assert (await client.complete(started["id"])).json["order_status"] == "paid"
