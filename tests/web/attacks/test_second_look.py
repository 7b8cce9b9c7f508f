"""A large refund needs the password again: a session that lies open is not enough to give money away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paidonce.config import load_settings
from paidonce.core import Policy
from paidonce.errors import ConfigError
from paidonce.money import Money
from paidonce.ports import SECOND
from paidonce.web.seed import BUYER, STAFF
from support.sessions import Doors, doors
from support.webshop import SECRET_KEY, Client

MINUTE = 60 * SECOND
LAMP = 6900
FREE = 2000


@pytest.fixture(scope="module")
def here(seeded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("second-look")
    yield from doors(seeded_sqlite, folder, PAIDONCE_SECOND_LOOK_ABOVE="20.00 EUR", PAIDONCE_IDLE_MINUTES="129600")


@pytest.fixture
async def payment(here: Doors) -> Any:
    """A paid payment of 69.00 EUR."""
    async with here.client(BUYER.email) as buyer:
        await here.change("UPDATE stock SET on_hand = on_hand + 1 WHERE sku = 'LAMP-01'")
        order = await buyer.order("LAMP-01")
        started = await buyer.start(order["id"], "paypal")
        here.shop.agree(started)
        assert (await buyer.complete(started["id"])).json["order_status"] == "paid"
    return started["id"]


async def _staff_a_while_after_signing_in(here: Doors) -> Client:
    client = here.holding(await here.mint(STAFF.email))
    here.shop.clock.shift += 5 * MINUTE
    return client


async def _refunded(here: Doors, payment: str) -> int:
    rows = await here.rows("SELECT amount_minor FROM refunds WHERE payment_id = :id", id=payment)
    return sum(row["amount_minor"] for row in rows)


async def test_a_large_refund_needs_the_password_of_the_last_five_minutes(here: Doors, payment: str) -> None:
    path = f"/api/payments/{payment}/refunds"
    async with await _staff_a_while_after_signing_in(here) as staff:
        for body in ({"amount": FREE + 1}, {}):
            assert (await staff.post(path, body)).is_problem(403, "confirmation_needed")
        assert await _refunded(here, payment) == 0
        assert (await staff.post("/api/session/confirm", {"password": "not-mine"})).is_problem(422, "invalid_request")
        assert (await staff.post(path, {"amount": FREE + 1})).is_problem(403, "confirmation_needed")
        assert (await staff.post("/api/session/confirm", {"password": STAFF.password})).status == 204
        here.shop.clock.shift += 4 * MINUTE
        assert (await staff.post(path, {"amount": FREE + 1})).status == 201
        here.shop.clock.shift += MINUTE
        assert (await staff.post(path, {"amount": 1})).is_problem(403, "confirmation_needed")
        assert await _refunded(here, payment) == FREE + 1


async def test_a_clock_that_is_set_back_keeps_no_second_look_alive(here: Doors, payment: str) -> None:
    path = f"/api/payments/{payment}/refunds"
    async with here.client(STAFF.email) as staff:
        here.shop.clock.shift -= 60 * MINUTE
        try:
            assert (await staff.post(path, {"amount": FREE + 1})).is_problem(403, "confirmation_needed")
        finally:
            here.shop.clock.shift += 60 * MINUTE


async def test_many_small_refunds_of_a_payment_are_no_way_around_it(here: Doors, payment: str) -> None:
    async with await _staff_a_while_after_signing_in(here) as staff:
        path, key = f"/api/payments/{payment}/refunds", {"Idempotency-Key": "the-second"}
        assert (await staff.post(path, {"amount": FREE - 100})).status == 201
        assert (await staff.post(path, {"amount": 100}, headers=key)).status == 201
        assert (await staff.post(path, {"amount": 1})).is_problem(403, "confirmation_needed")
        assert (await staff.post(path, {"amount": 100}, headers=key)).status == 200, "a repeat gives nothing more"
        assert await _refunded(here, payment) == FREE


async def test_having_signed_in_just_now_counts(here: Doors, payment: str) -> None:
    async with here.client(STAFF.email) as staff:
        assert (await staff.post(f"/api/payments/{payment}/refunds", {"amount": LAMP})).status == 201


async def test_a_second_look_counts_for_the_session_that_took_it_alone(here: Doors, payment: str) -> None:
    async with await _staff_a_while_after_signing_in(here) as stolen, here.client(STAFF.email) as staff:
        assert (await staff.post("/api/session/confirm", {"password": STAFF.password})).status == 204
        refused = await stolen.post(f"/api/payments/{payment}/refunds", {"amount": LAMP})
        assert refused.is_problem(403, "confirmation_needed")


async def test_a_stolen_session_can_not_guess_the_password(here: Doors) -> None:
    email = "guessed@example.com"
    user = await here.add_account(email, "staff")
    async with here.client(email) as thief:
        for _ in range(8):
            assert (await thief.post("/api/session/confirm", {"password": "guess"})).status == 422
        assert (await thief.post("/api/session/confirm", {"password": "guess"})).is_problem(429, "too_many_attempts")
        body = {"password": "guess", "new_password": "a-new-password"}
        assert (await thief.post("/api/password", body)).is_problem(429, "too_many_attempts")
    wrong = "SELECT count(*) AS n FROM audit_log WHERE subject = :user AND action = 'account.confirmation_failed'"
    assert (await here.rows(wrong, user=user))[0]["n"] == 8


async def test_a_right_password_is_not_taken_again_and_again_without_end(
    here: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time costs a hash, which sign-ins wait for, and a line in a log from which nothing can be deleted."""

    async def verify(_: str, kept: str | None) -> bool:
        return kept is not None

    monkeypatch.setattr(here.shop.app.state.paidonce.passwords, "verify", verify)
    user = await here.add_account("eager@example.com")
    async with here.client("eager@example.com") as eager:
        body = {"password": "a-right-password"}
        statuses = [(await eager.post("/api/session/confirm", body)).status for _ in range(61)]
    assert statuses == [204] * 60 + [429]
    found = await here.rows("SELECT count(*) AS n FROM audit_log WHERE subject = :user", user=user)
    assert found[0]["n"] == 60


async def test_the_form_asks_for_the_password_and_loses_nothing_that_was_typed(here: Doors, payment: str) -> None:
    (order,) = await here.rows("SELECT order_id FROM payments WHERE id = :id", id=payment)
    page_path, form_path = f"/staff/orders/{order['order_id']}", f"/staff/payments/{payment}/refund"
    async with await _staff_a_while_after_signing_in(here) as staff:
        page = (await staff.page(page_path)).text
        assert 'type="password"' in page
        key = _value(page, "key")
        typed = {"key": key, "amount": "69.00", "reason": 'It came "broken" & late', "restock": "1"}
        for password in ("", "not-mine-either"):
            again = await staff.form(form_path, **typed, password=password)
            assert again.status == 403
            assert _value(again.text, "key") == key
            assert _value(again.text, "amount") == "69.00"
            assert "It came &#34;broken&#34; &amp; late" in again.text
            assert 'name="restock" value="1" checked' in again.text
            assert "not-mine-either" not in again.text
        assert await _refunded(here, payment) == 0
        done = await staff.form(form_path, **typed, password=STAFF.password)
        assert (done.status, done.headers["Location"]) == (303, page_path)
        assert await _refunded(here, payment) == LAMP
        assert 'type="password"' not in (await staff.page(page_path)).text, "it was given a moment ago"


def _value(page: str, name: str) -> str:
    found = re.search(rf'name="{name}"[^>]*? value="([^"]*)"', page)
    assert found is not None, name
    return found[1]


# ── The bound itself ──────────


def test_a_currency_without_a_bound_always_needs_a_second_look_and_no_bound_never() -> None:
    policy = Policy(second_look_above={"EUR": 100, "JPY": 0})
    asked = {amount: policy.needs_second_look(amount) for amount in (Money(100, "EUR"), Money(101, "EUR"))}
    assert list(asked.values()) == [False, True]
    assert policy.needs_second_look(Money(1, "JPY"))
    assert policy.needs_second_look(Money(1, "USD"))
    assert not Policy().needs_second_look(Money(10**12, "EUR"))


def _policy(text: str) -> Policy:
    return load_settings({"PAIDONCE_SECRET_KEY": SECRET_KEY, "PAIDONCE_SECOND_LOOK_ABOVE": text}).policy()


def test_the_setting_counts_in_the_minor_units_of_each_currency() -> None:
    assert _policy("100.00 EUR, 12000 JPY,7.5 KWD").second_look_above == {"EUR": 10000, "JPY": 12000, "KWD": 7500}
    assert _policy("0 EUR").second_look_above == {"EUR": 0}
    assert _policy("").second_look_above is None


@pytest.mark.parametrize("text", ["100", "100 eur", "100.001 EUR", "EUR 100", "-1 EUR", "1 EUR, 2 EUR", "1e3 EUR"])
def test_a_bound_that_can_not_be_read_stops_the_start(text: str) -> None:
    with pytest.raises(ConfigError, match=r"PAIDONCE_SECOND_LOOK_ABOVE: .*such as 100\.00 EUR"):
        _policy(text)
