"""Guessing passwords is slow from one address, from many, and with forged addresses; and it locks no owner out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from paidonce.config import load_settings
from paidonce.errors import ConfigError
from paidonce.ports import SECOND
from paidonce.web.seed import BUYER, STAFF
from support.crowd import ATTACKER, NEIGHBOUR, Visitor, read_rows, shop_behind_a_proxy, visitor
from support.webshop import SECRET_KEY, Answer, WebShop, running_shop

QUARTER, HOUR = 15 * 60 * SECOND, 3600 * SECOND
# Guesses at an account that nobody has cost the attacker as much, and this test less, than those at the buyer's.
NOBODY = "nobody@example.com"


@pytest.fixture
async def shop(seeded_url: str) -> AsyncIterator[WebShop]:
    """A shop behind a proxy, so that each client has an address of its own."""
    with shop_behind_a_proxy(seeded_url) as shop:
        yield shop


async def guess(shop: WebShop, address: str, email: str = BUYER.email) -> Answer:
    async with Visitor(shop.url, address) as client:
        return await client.sign_in(email, "a-wrong-password")


def assert_refused(answer: Answer) -> None:
    assert answer.is_problem(429, "too_many_attempts")
    assert answer.json["retry_after"] == int(answer.headers["Retry-After"]) > 0
    assert answer.json["detail"].startswith("There were too many attempts. Please wait ")


async def test_one_address_has_eight_guesses_at_an_account(shop: WebShop) -> None:
    answers = [await guess(shop, ATTACKER) for _ in range(9)]
    assert [answer.status for answer in answers] == [401] * 8 + [429]
    assert_refused(answers[-1])
    async with visitor(shop, ATTACKER) as attacker, visitor(shop, NEIGHBOUR) as owner:
        assert_refused(await attacker.sign_in())
        assert (await attacker.sign_in(STAFF.email, STAFF.password)).status == 201, "one account is one thing"
        assert (await owner.sign_in()).status == 201, "and one address another"
        shop.clock.shift += QUARTER
        assert (await attacker.sign_in()).status == 201


async def test_many_addresses_are_slowed_down_and_the_owners_browser_still_gets_in(shop: WebShop) -> None:
    async with visitor(shop, NEIGHBOUR) as owner:
        assert (await owner.sign_in()).status == 201
        statuses = []
        for number in range(4):
            statuses += [(await guess(shop, f"45.83.{number}.1")).status for _ in range(6)]
        assert statuses.count(401) <= 20
        assert_refused(await guess(shop, "45.83.99.1"))
        assert (await owner.sign_in()).status == 201, "a browser that has signed in before is known"
        # What makes it known can't be made up, and is worth nothing for another account.
        async with visitor(shop, "45.83.98.1") as forger:
            forger.set_cookies(paidonce_browser="WyJhIiwiYiJd.AAAA")
            assert_refused(await forger.sign_in())
        async with visitor(shop, "45.83.97.1", "thief@example.com") as thief:
            assert_refused(await thief.sign_in())
        shop.clock.shift += HOUR
        assert (await guess(shop, "45.83.99.1")).status == 401


async def test_a_known_browser_has_eight_guesses_too(shop: WebShop) -> None:
    """Whoever steals one must not guess without end."""
    async with visitor(shop, NEIGHBOUR) as owner:
        assert (await owner.sign_in()).status == 201
        answers = [await owner.sign_in(password="a-wrong-password") for _ in range(9)]
        assert [answer.status for answer in answers] == [401] * 8 + [429]
        for number in range(3):
            owner.address = f"45.83.{number}.1"
            assert_refused(await owner.sign_in())


async def test_one_address_has_a_bound_over_all_accounts_and_on_new_ones(shop: WebShop) -> None:
    async with visitor(shop, ATTACKER) as attacker:
        bad = {"email": "no address", "name": "No One", "password": "short"}
        made = [(await attacker.post("/api/users", bad)).status for _ in range(31)]
        assert made == [422] * 30 + [429]
    # All that a household may be given of IPv6 is one network. What is refused counts, too.
    statuses = [(await guess(shop, f"2a01:4f8:1:2{number:02x}::1", NOBODY)).status for number in range(60)]
    assert statuses == [401] * 8 + [429] * 52
    assert_refused(await guess(shop, "2a01:4f8:1:2ff::ffff", "somebody@example.com"))
    assert (await guess(shop, "2a01:4f8:1:300::1", "somebody@example.com")).status == 401, "the next network is another"


@pytest.mark.parametrize("trusted", ["", "10.0.0.1"])
async def test_an_untrusted_peers_word_on_its_address_changes_nothing(seeded_url: str, trusted: str) -> None:
    with running_shop(seeded_url, PAIDONCE_TRUSTED_PROXIES=trusted) as shop:
        statuses = [(await guess(shop, f"45.83.{number}.1", NOBODY)).status for number in range(9)]
        assert statuses == [401] * 8 + [429]


async def test_what_a_client_claims_before_its_proxy_adds_the_truth_changes_nothing(shop: WebShop) -> None:
    """The proxy appends whom it sees; only that last word counts."""
    statuses = [(await guess(shop, f"45.83.{number}.1, {ATTACKER}", NOBODY)).status for number in range(9)]
    assert statuses == [401] * 8 + [429]
    assert (await guess(shop, f"45.83.1.1, {NEIGHBOUR}", NOBODY)).status == 401


async def test_processes_that_share_the_database_share_their_counts(seeded_url: str) -> None:
    with (
        shop_behind_a_proxy(seeded_url, PAIDONCE_LIMITS="database") as one,
        shop_behind_a_proxy(seeded_url, PAIDONCE_LIMITS="database") as other,
    ):
        statuses = [(await guess(shop, ATTACKER, NOBODY)).status for shop in (one, other) * 4]
        assert statuses == [401] * 8
        assert_refused(await guess(one, ATTACKER, NOBODY))
        assert_refused(await guess(other, ATTACKER, NOBODY))
        kept = str(await read_rows(one, "SELECT * FROM rate_limits"))
        assert not [word for word in (ATTACKER, NOBODY, "nobody", "sign-in pair") if word in kept]
        # Counts that have ended are taken away by those that follow.
        for shop in (one, other):
            shop.clock.shift += HOUR
        assert (await guess(one, NEIGHBOUR, "somebody@example.com")).status == 401
        kept_until = [row["expires_at"] for row in await read_rows(one, "SELECT expires_at FROM rate_limits")]
        assert min(kept_until) > one.clock.now()


@pytest.mark.parametrize("trusted", ["*", "0.0.0.0/0", "::/0", "proxy.example", "10.0.0.1, anybody"])
def test_nobody_can_trust_everybody(trusted: str) -> None:
    with pytest.raises(ConfigError, match="PAIDONCE_TRUSTED_PROXIES: entry"):
        load_settings({"PAIDONCE_SECRET_KEY": SECRET_KEY, "PAIDONCE_TRUSTED_PROXIES": trusted})


def test_processes_that_share_their_counts_need_one_key() -> None:
    """Each would make other keys of the same names, and nothing would be shared."""
    with pytest.raises(ConfigError, match="PAIDONCE_SECRET_KEY: is missing"):
        load_settings({"PAIDONCE_LIMITS": "database"}, built_in_shop=False)
    assert load_settings({}, built_in_shop=False).limits == "memory"
