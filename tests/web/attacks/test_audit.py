"""The audit log: whole, without secrets, and out of everybody's reach."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import paidonce.db
from paidonce import audit, cli_events
from paidonce.cli import app as command_line
from paidonce.errors import Conflict, DatabaseError
from paidonce.ports import Transaction
from paidonce.web.seed import BUYER, STAFF
from support.sessions import Doors, doors
from support.webshop import Answer

GUESS = "canary-guess-of-a-password"
NEW_PASSWORD = "canary-of-a-new-password"


@pytest.fixture(scope="module")
def here(seeded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    yield from doors(seeded_sqlite, tmp_path_factory.mktemp("audit"), PAIDONCE_CAPTURE="manual")


async def _entries(here: Doors, subject: str) -> list[Mapping[str, Any]]:
    return await here.rows("SELECT * FROM audit_log WHERE subject = :subject ORDER BY seq", subject=subject)


async def _user(here: Doors, email: str) -> str:
    return str((await here.rows("SELECT id FROM users WHERE email = :email", email=email))[0]["id"])


async def _reserved(here: Doors) -> tuple[str, str]:
    """The order and id of a payment whose money is reserved."""
    async with here.client(BUYER.email) as buyer:
        order = await buyer.order("TEA-01")
        started = await buyer.start(order["id"], "stripe")
        here.shop.agree(started)
        await buyer.complete(started["id"])
        return order["id"], started["id"]


# ── What stands in it ──────────


async def test_what_staff_do_with_money_stands_there_with_who_and_by_which_request(here: Doors) -> None:
    order, payment = await _reserved(here)
    _, other = await _reserved(here)
    me = await _user(here, STAFF.email)
    async with here.client(STAFF.email) as staff:
        captured = await staff.post(f"/api/payments/{payment}/capture", {"amount": 900})
        refunded = await staff.post(f"/api/payments/{payment}/refunds", {"amount": 100})
        ended = await staff.post(f"/api/payments/{other}/void")
        page = (await staff.page(f"/staff/orders/{order}")).text
    assert (captured.status, refunded.status, ended.status) == (200, 201, 200)
    first, second = await _entries(here, payment)
    (third,) = await _entries(here, other)
    assert [one["action"] for one in (first, second, third)] == ["capture.asked", "refund.asked", "void.asked"]
    assert {one["actor"] for one in (first, second, third)} == {me}
    assert [one["request_id"] for one in (first, second, third)] == _request_ids(captured, refunded, ended)
    assert json.loads(first["detail"]) == {"order": order, "amount": 900, "currency": "EUR"}
    detail = json.loads(second["detail"])
    assert detail.pop("refund").startswith("ref_")
    assert detail == {"order": order, "amount": 100, "currency": "EUR", "confirmed": True}
    section = page.partition("Who did what")[2]
    for shown in ("Sam Staff", me, "asked for a capture", "asked for a refund", "€9.00", first["request_id"]):
        assert shown in section


def _request_ids(*answers: Answer) -> list[str]:
    return [one.headers["X-Request-Id"] for one in answers]


async def test_a_repeat_of_what_was_done_adds_nothing(here: Doors) -> None:
    _, payment = await _reserved(here)
    async with here.client(STAFF.email) as staff:
        for _ in range(2):
            await staff.post(f"/api/payments/{payment}/capture")
            await staff.post(f"/api/payments/{payment}/refunds", {"amount": 1}, headers={"Idempotency-Key": "once"})
    assert [one["action"] for one in await _entries(here, payment)] == ["capture.asked", "refund.asked"]


async def test_changes_of_the_stock_stand_there_by_page_and_api(here: Doors) -> None:
    async with here.client(STAFF.email) as staff:
        assert (await staff.request("PATCH", "/api/products/TOTE-01", json={"adjust": 3})).status == 200
        assert (await staff.form("/staff/stock", sku="TOTE-01", adjust="-2")).status == 303
        assert (await staff.request("PATCH", "/api/products/TOTE-01", json={"adjust": -(10**6)})).status == 422
    found = await _entries(here, "TOTE-01")
    assert [(one["action"], json.loads(one["detail"])) for one in found] == [
        ("stock.adjusted", {"adjust": 3}),
        ("stock.adjusted", {"adjust": -2}),
    ], "a refused change is none"


async def test_what_becomes_of_an_account_stands_there_and_no_password(here: Doors) -> None:
    async with here.shop.client() as client:
        assert (await client.sign_up("audited@example.com")).status == 201
        own = {"password": "a-long-password"}
        assert (await client.post("/api/session/confirm", {"password": GUESS})).status == 422
        assert (await client.post("/api/session/confirm", own)).status == 204
        assert (await client.post("/api/password", {**own, "new_password": NEW_PASSWORD})).status == 204
        assert (await client.request("DELETE", "/api/sessions")).status == 204
    user = await _user(here, "audited@example.com")
    found = await _entries(here, user)
    assert [one["action"] for one in found] == [
        "account.confirmation_failed",
        "account.confirmed",
        "account.password_changed",
        "account.signed_out_everywhere",
    ]
    assert {one["actor"] for one in found} == {user}
    everything = json.dumps([dict(row) for row in await here.rows("SELECT * FROM audit_log")])
    for secret in (GUESS, NEW_PASSWORD, "a-long-password", "$argon2"):
        assert secret not in everything


async def test_sign_ins_of_staff_stand_there_those_that_failed_too_and_no_buyers(here: Doors) -> None:
    me, buyer = await _user(here, STAFF.email), await _user(here, BUYER.email)
    before = len(await _entries(here, me))
    async with here.shop.client() as client:
        assert (await client.sign_in(BUYER.email, GUESS)).status == 401
        assert (await client.sign_in()).status == 201
        assert (await client.sign_in(f" {STAFF.email.upper()} ", GUESS)).status == 401
        await _until_there_are(here, me, before + 1)
        assert (await client.sign_in_as_staff()).status == 201
    failed, signed_in = (await _entries(here, me))[before:]
    assert (failed["action"], failed["actor"]) == ("staff.sign_in_failed", audit.NOBODY)
    assert (signed_in["action"], signed_in["actor"]) == ("staff.signed_in", me)
    assert await _entries(here, buyer) == []


async def _until_there_are(here: Doors, user: str, count: int) -> None:
    """A failure is noted beside its answer, so that the answer tells nobody whose address it was."""
    async with asyncio.timeout(10):
        while True:
            if len(await _entries(here, user)) >= count:
                return
            await asyncio.sleep(0.01)


# ── Neither without the other ──────────


@asynccontextmanager
async def _refusing(here: Doors, table: str) -> AsyncIterator[None]:
    """While this lasts, nothing can be added to `table`."""
    await here.change(f"CREATE TRIGGER refuse BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END")
    try:
        yield
    finally:
        await here.change("DROP TRIGGER refuse")


STEPS = {
    "refund": ("/api/payments/{}/refunds", {"amount": 1}),
    "capture": ("/api/payments/{}/capture", {}),
    "void": ("/api/payments/{}/void", {}),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("table", ["audit_log", "operations"])
async def test_no_step_without_its_entry_and_no_entry_without_its_step(here: Doors, step: str, table: str) -> None:
    path, body = STEPS[step]
    _, payment = await _reserved(here)
    async with here.client(STAFF.email) as staff:
        if step == "refund":
            assert (await staff.post(f"/api/payments/{payment}/capture")).status == 200
        before = await _entries(here, payment), await _operations(here, payment)
        async with _refusing(here, table):
            assert (await staff.post(path.format(payment), body)).status >= 500
        assert (await _entries(here, payment), await _operations(here, payment)) == before
        assert (await staff.post(path.format(payment), body)).status in {200, 201}, "afterwards it works"


async def _operations(here: Doors, payment: str) -> list[Mapping[str, Any]]:
    return await here.rows("SELECT * FROM operations WHERE payment_id = :id ORDER BY id", id=payment)


# ── Out of reach ──────────


REPLACE = """
INSERT OR REPLACE INTO audit_log (seq, actor, action, subject, detail, created_at)
SELECT seq, 'usr_other', action, subject, detail, created_at FROM audit_log
"""
CHANGES = ("UPDATE audit_log SET actor = 'usr_other'", "DELETE FROM audit_log")


@pytest.mark.parametrize(
    ("database_url", "statement"),
    [
        *(("sqlite", statement) for statement in (*CHANGES, REPLACE)),
        *(("postgresql", statement) for statement in (*CHANGES, "TRUNCATE audit_log")),
    ],
    indirect=["database_url"],
)
async def test_nobody_changes_or_deletes_an_entry(database_url: str, statement: str) -> None:
    """INSERT OR REPLACE and TRUNCATE once got around the triggers that refuse changes row by row."""
    db = await paidonce.db.connect(database_url)
    try:
        one = audit.entry("stock.adjusted", actor="usr_me", subject="TEA-01", at=1, adjust=1)
        # The second time stands for a commit of unknown outcome.
        for _ in range(2):
            await db.transaction(audit.write, one)

        async def tamper(tx: Transaction) -> None:
            await tx.execute(statement)

        with pytest.raises((Conflict, DatabaseError), match="append-only"):
            await db.transaction(tamper)
        assert await db.read(audit.read) == [one]
    finally:
        await db.close()


# ── For operators ──────────


def test_the_command_tells_who_did_what(here: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    order, payment, me = asyncio.run(_one_refund(here))
    monkeypatch.setenv("PAIDONCE_DATABASE_URL", here.database_url)
    monkeypatch.setenv("PAIDONCE_SECRET_KEY", "a-key-for-tests-0123456789-abcdefgh")

    def run(*words: str) -> str:
        done = CliRunner().invoke(command_line, ["audit", *words])
        assert done.exit_code == 0, done.output
        return done.output

    about_order = [json.loads(line) for line in run("--subject", order, "--json").splitlines()]
    assert [one["action"] for one in about_order] == ["capture.asked", "refund.asked"]
    assert {one["subject"] for one in about_order} == {payment}
    assert run("--subject", payment, "--actor", me).count("asked for a") == 2
    assert run("--subject", payment, "--actor", "usr_somebody_else") == "Nothing of this kind was done.\n"
    assert len(run("--limit", "1").splitlines()) == 1


async def _one_refund(here: Doors) -> tuple[str, str, str]:
    order, payment = await _reserved(here)
    async with here.client(STAFF.email) as staff:
        await staff.post(f"/api/payments/{payment}/capture")
        assert (await staff.post(f"/api/payments/{payment}/refunds", {"amount": 1})).status == 201
    return order, payment, await _user(here, STAFF.email)


def test_events_that_were_sent_again_from_the_command_line_stand_there(
    here: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, _, _ = asyncio.run(_one_refund(here))
    monkeypatch.setenv("PAIDONCE_DATABASE_URL", here.database_url)
    monkeypatch.setenv("PAIDONCE_SECRET_KEY", "a-key-for-tests-0123456789-abcdefgh")
    monkeypatch.setenv("PAIDONCE_EVENT_URLS", "http://127.0.0.1:1/events")
    monkeypatch.setenv("PAIDONCE_EVENT_SECRET", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    done = CliRunner().invoke(cli_events.app, ["replay", "--order", order])
    assert done.exit_code == 0, done.output
    (entry,) = asyncio.run(_entries(here, order))
    assert entry["action"] == "events.replayed"
    assert entry["actor"].startswith("command line, ")
