"""Sessions and passwords under attack: left open, stolen, planted, guessed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from pwdlib import PasswordHash

import paidonce.db
from paidonce.errors import ChangedMeanwhile, NotSignedIn
from paidonce.ports import SECOND, RandomIds, SystemClock
from paidonce.web import accounts
from paidonce.web.accounts import Passwords, hash_token
from paidonce.web.seed import BUYER, STAFF
from support.sessions import Doors, doors
from support.webshop import Answer, Client

MINUTE = 60 * SECOND
IDLE_MINUTES = 30
PASSWORD, NEW_PASSWORD = "a-long-password", "another-long-password"


@pytest.fixture(scope="module")
def here(seeded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("sessions")
    yield from doors(seeded_sqlite, folder, PAIDONCE_IDLE_MINUTES=str(IDLE_MINUTES))


def token_of(client: Client) -> str:
    return next(one.value for one in client.session.cookie_jar if one.key == "paidonce_session")


async def status(here: Doors, token: str) -> int:
    """Whether somebody with this token gets in."""
    async with here.holding(token) as client:
        return (await client.get("/api/orders")).status


# ── Left open ──────────


async def test_a_session_that_nobody_uses_ends(here: Doors) -> None:
    token = await here.mint(BUYER.email)
    for _ in range(2):
        here.shop.clock.shift += IDLE_MINUTES * MINUTE - 10 * SECOND
        assert await status(here, token) == 200, "each use counts anew"
    here.shop.clock.shift += IDLE_MINUTES * MINUTE + SECOND
    assert await status(here, token) == 401
    assert await status(here, token) == 401, "asking does not wake it up"


async def test_when_a_session_was_used_is_written_once_a_minute(here: Doors) -> None:
    token = await here.mint(BUYER.email)
    seen = "SELECT seen_at FROM sessions WHERE token_hash = :hash"
    (at_first,) = await here.rows(seen, hash=hash_token(token))
    for _ in range(3):
        assert await status(here, token) == 200
    assert await here.rows(seen, hash=hash_token(token)) == [at_first]
    here.shop.clock.shift += MINUTE
    assert await status(here, token) == 200
    (later,) = await here.rows(seen, hash=hash_token(token))
    assert later["seen_at"] >= at_first["seen_at"] + MINUTE


async def test_a_database_that_takes_no_writes_still_lets_people_read(here: Doors) -> None:
    token = await here.mint(BUYER.email)
    here.shop.clock.shift += 2 * MINUTE
    with sqlite3.connect(here.database_url.removeprefix("sqlite:///")) as raw:
        raw.execute("CREATE TRIGGER full BEFORE UPDATE ON sessions BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        raw.commit()
        try:
            assert await status(here, token) == 200
        finally:
            raw.execute("DROP TRIGGER full")
    raw.close()


# ── Ended everywhere ──────────


@pytest.mark.parametrize("way", ["api", "page"])
async def test_signing_out_everywhere_ends_every_session_of_this_account_and_no_other(here: Doors, way: str) -> None:
    stolen, other = await here.mint(BUYER.email), await here.mint(STAFF.email)
    async with here.client(BUYER.email) as client:
        own = token_of(client)
        if way == "api":
            assert (await client.request("DELETE", "/api/sessions")).status == 204
        else:
            assert (await client.form("/account/sign-out", no="field")).status == 303
        assert "paidonce_session" not in {one.key for one in client.session.cookie_jar}
    assert [await status(here, token) for token in (stolen, own, other)] == [401, 401, 200]


@pytest.mark.parametrize("way", ["api", "page"])
async def test_a_new_password_ends_all_other_sessions_and_the_old_password(here: Doors, way: str) -> None:
    email = f"{way}@example.com"
    async with here.shop.client() as client:
        assert (await client.sign_up(email)).status == 201
        old_token, stolen = token_of(client), await here.mint(email)
        answer = await _change(client, way, PASSWORD, NEW_PASSWORD)
        assert answer.status == {"api": 204, "page": 303}[way]
        new_token = token_of(client)
        assert new_token != old_token
        assert [await status(here, token) for token in (stolen, old_token, new_token)] == [401, 401, 200]
        assert (await client.sign_in(email, PASSWORD)).is_problem(401, "not_signed_in")
        assert (await client.sign_in(email, NEW_PASSWORD)).status == 201


@pytest.mark.parametrize("way", ["api", "page"])
async def test_who_finds_an_open_session_can_not_change_the_password(here: Doors, way: str) -> None:
    async with here.client(BUYER.email) as client:
        own, other = token_of(client), await here.mint(BUYER.email)
        answer = await _change(client, way, "not-the-password", NEW_PASSWORD)
        assert answer.status == 422
        assert "not your password" in answer.text
        assert "not-the-password" not in answer.text
        assert NEW_PASSWORD not in answer.text
        weak = await _change(client, way, BUYER.password, "short")
        assert (weak.status, "10 to 200 characters" in weak.text) == (422, True)
        assert [await status(here, token) for token in (own, other)] == [200, 200], "nothing has ended"
        assert (await client.sign_in()).status == 201, "and the password is the old one"


async def _change(client: Client, way: str, old: str, new: str) -> Answer:
    if way == "api":
        return await client.post("/api/password", {"password": old, "new_password": new})
    return await client.form("/account/password", password=old, new_password=new)


async def test_no_session_opens_by_a_password_that_was_changed_meanwhile(database_url: str) -> None:
    """Its check was right, but took longer than the change; both databases, since the lock is theirs."""
    db, passwords, ids, now = await paidonce.db.connect(database_url), Passwords(), RandomIds(), SystemClock().now()
    try:
        email = "race@example.com"
        made = await accounts.add_user(db, passwords, ids, email=email, name="Bo", password=PASSWORD, now=now)
        checked = await accounts.check_credentials(db, passwords, email=email, password=PASSWORD)
        assert checked is not None
        token = await accounts.change_password(db, passwords, made, password=NEW_PASSWORD, now=now, life_seconds=60)
        with pytest.raises(NotSignedIn):
            await accounts.open_session(db, checked, replaces=None, now=now, life_seconds=60)
        with pytest.raises(ChangedMeanwhile):
            await accounts.change_password(db, passwords, checked, password=PASSWORD, now=now, life_seconds=60)
        found = await accounts.session_user(db, token, now=now, idle_seconds=60)
        assert (found and found.id) == made.id, "the session of the change itself is left"
    finally:
        await db.close()


# ── Planted ──────────


async def test_a_token_that_an_attacker_has_planted_is_worth_nothing_after_sign_in(here: Doors) -> None:
    """Also one that is valid: the attacker's own, from an account of theirs."""
    await here.add_account("attacker@example.com")
    for planted in ("planted-token", await here.mint("attacker@example.com")):
        async with here.shop.client() as victim:
            victim.set_cookies(paidonce_session=planted)
            assert (await victim.sign_in()).status == 201
            assert token_of(victim) != planted
        assert await status(here, planted) == 401


# ── Guessed ──────────


async def test_an_address_without_an_account_costs_as_many_hash_checks_as_one_with(
    here: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly all the time of a sign-in is hashing, so its number stands for the time."""
    checked: list[str] = []
    verify = PasswordHash.verify

    def counted(self: PasswordHash, password: str, hash: str) -> bool:
        checked.append(hash.rpartition("$")[0].rpartition("$")[0])
        return verify(self, password, hash)

    monkeypatch.setattr(PasswordHash, "verify", counted)
    answers = []
    for email in (BUYER.email, STAFF.email, "nobody@example.com"):
        async with here.shop.client() as client:
            answers.append(await client.sign_in(email, "not-the-password"))
    assert len(checked) == 3, "one check each"
    assert len(set(checked)) == 1, "each with the same parameters"
    assert checked[0].startswith("$argon2id$"), checked
    assert len({(one.status, one.text) for one in answers}) == 1
    assert {one.status for one in answers} == {401}


async def test_an_address_that_is_taken_gives_no_session_and_leaves_the_account_as_it_is(here: Doors) -> None:
    kept = "SELECT * FROM users WHERE email = :email"
    before = await here.rows(kept, email=BUYER.email)
    async with here.shop.client() as client:
        answer = await client.sign_up(BUYER.email.upper())
        assert answer.is_problem(422, "invalid_request")
        assert not answer.cookies
    assert await here.rows(kept, email=BUYER.email) == before
