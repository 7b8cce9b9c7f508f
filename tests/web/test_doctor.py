"""`paidonce doctor`: everything green where all is well, and each red and yellow found where it was really broken."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import shutil
import sqlite3
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import paidonce.db
from conftest import run_apart
from paidonce import doctor, serving
from paidonce.app import create_app
from paidonce.assembly import learn_secrets
from paidonce.cli_doctor import open_patient
from paidonce.config import load_settings
from paidonce.demo.folder import DataFolder
from paidonce.demo.servers import in_thread
from paidonce.doctor import Finding, Health, Limits, address
from paidonce.doctor import gateways as gateway_looks
from paidonce.doctor.patient import DateWatch
from paidonce.errors import ConfigError, GatewayMisconfigured
from paidonce.gateways.base import Account, HttpRequest, HttpResponse
from paidonce.ports import SECOND
from paidonce.sandbox.app import SandboxApp, create_sandbox_app, sandbox_environment
from paidonce.sandbox.connection import Receive, Scope, Send
from paidonce.sandbox.dials import Fault, Rule
from support.processes import free_port
from support.shop import ShiftedClock
from support.webshop import Client

GREEN, YELLOW, RED = Health


@dataclass
class Watched:
    """The twins behind a real address, with a list of what was asked of them."""

    app: SandboxApp
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.asked.append((scope["method"], scope["path"]))
        await self.app(scope, receive, send)


@dataclass
class Clinic:
    """A served shop beside served twins, in a data folder as the demo's."""

    folder: Path
    port: int
    twins: Watched
    environment: dict[str, str]

    @property
    def database(self) -> Path:
        return self.folder / "paidonce.db"

    @property
    def url(self) -> str:
        return self.environment["PAIDONCE_PUBLIC_URL"]

    def control(self, gateway: str, name: str, **params: str) -> None:
        """Somebody does something at the gateway's dashboard."""
        core = self.twins.app.cores[gateway]
        core.control(name, params, now=ShiftedClock().now())

    def command(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """`paidonce doctor` as a process of its own."""
        own = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = {**own, "COLUMNS": "400", **changes}
        command = [sys.executable, "-m", "paidonce", "doctor", *arguments]
        return subprocess.run(
            command, cwd=self.folder.parent, env=environment, capture_output=True, text=True, check=False
        )


@contextmanager
def two_ports() -> Iterator[tuple[Any, Any]]:
    """Listeners on two ports side by side."""
    while True:
        port = free_port()
        try:
            with serving.bind("127.0.0.1", port, fix="") as one, serving.bind("127.0.0.1", port + 1, fix="") as two:
                yield one, two
                return
        except ConfigError:
            continue


@pytest.fixture(scope="module")
def served(seeded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    data = DataFolder(tmp_path_factory.mktemp("doctor") / "data")
    data.path.mkdir()
    shutil.copy(seeded_sqlite, data.path / "paidonce.db")
    with two_ports() as (listener, beside):
        port = listener.getsockname()[1]
        shop_url, twins_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
        environment = {
            **sandbox_environment(twins_url),
            "PAIDONCE_DATABASE_URL": data.database_url,
            "PAIDONCE_SECRET_KEY": data.secret_key(),
            "PAIDONCE_PUBLIC_URL": shop_url,
            "PAIDONCE_SECOND_LOOK_ABOVE": "100.00 EUR",
            "PAIDONCE_WORKER": "0",
        }
        twins = Watched(create_sandbox_app(twins_url, shop_url=shop_url))
        app = create_app(load_settings(environment), environment=environment)
        with in_thread(twins, beside), in_thread(app, listener):
            yield Clinic(data.path, port, twins, environment)


@pytest.fixture
def clinic(served: Clinic) -> Iterator[Clinic]:
    """The twins' state is as before afterwards."""
    before = {name: core.dump() for name, core in served.twins.app.cores.items()}
    served.twins.asked.clear()
    yield served
    for name, core in served.twins.app.cores.items():
        core.load(before[name])


Findings = dict[str, Finding]


async def examined(
    environment: Mapping[str, str], *, clock: ShiftedClock | None = None, limits: Limits | None = None
) -> Findings:
    """The findings of the whole examination, by their names."""
    async with AsyncExitStack() as stack:
        patient = open_patient(load_settings(environment), environment, stack, clock=clock, limits=limits)
        found = [one async for one in doctor.examine(patient)]
    assert len({one.check for one in found}) == len(found), "two findings have one name"
    return {one.check: one for one in found}


def reds(found: Findings) -> dict[str, Health]:
    """All that is not green."""
    return {name: one.health for name, one in found.items() if one.health is not GREEN}


def said(finding: Finding, *words: str) -> bool:
    """Whether text and fix hold all words; each finding that is not green has a fix."""
    assert finding.health is GREEN or finding.fix
    missing = [word for word in words if word not in f"{finding.text} {finding.fix}"]
    assert missing == [], finding
    return True


def changed(clinic: Clinic, sql: str, tmp_path: Path) -> dict[str, str]:
    """The settings with a copy of the database in which `sql` was carried out."""
    path = tmp_path / "changed.db"
    with sqlite3.connect(clinic.database) as source, sqlite3.connect(path) as copy:
        source.backup(copy)
        copy.executescript(f"PRAGMA foreign_keys = OFF; {sql}")
    path.chmod(0o600)
    return {**clinic.environment, "PAIDONCE_DATABASE_URL": f"sqlite:///{path}"}


# ── The command ──────────


def test_all_is_green_in_a_shop_that_is_well_and_nothing_was_changed(clinic: Clinic) -> None:
    with sqlite3.connect(clinic.database) as connection:
        before = list(connection.iterdump())
    done = clinic.command("--demo", "--data", str(clinic.folder), "--port", str(clinic.port), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    found = {one["check"]: one["health"] for one in told["findings"]}
    own = {"settings", "second_look", "limits", "database", "work", "trouble", "address"}
    own |= {f"database.{what}" for what in ("rights", "room", "durable", "schema", "writable")}
    for name in clinic.twins.app.cores:
        own |= {f"{name}.{what}" for what in ("keys", "clock", "currency", "webhook.arrives", "webhook.endpoint")}
    own |= {"stripe.webhook.events", "paypal.webhook.events", "bank_transfer.keys", "bank_transfer.currency"}
    assert own - found.keys() == set()
    assert {name for name, health in found.items() if health != "green"} <= {"second_look"}, told
    assert told["health"] == ("yellow" if "yellow" in found.values() else "green")
    # Nothing but readings went out, besides the sign-in that one of them needs.
    assert {path for method, path in clinic.twins.asked if method != "GET"} == {"/paypal/v1/oauth2/token"}
    with sqlite3.connect(clinic.database) as connection:
        assert list(connection.iterdump()) == before


def test_what_is_red_ends_it_with_one_and_no_secret_is_told(clinic: Clinic) -> None:
    secrets = {"STRIPE_SECRET_KEY": "sk_test_canary1canary1", "STRIPE_WEBHOOK_SECRET": "whsec_canary2canary2"}
    environment = {**clinic.environment, **secrets, "PAYPAL_CLIENT_SECRET": "a-canary3-of-a-secret"}
    done = clinic.command(**environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "red     stripe.keys: The keys don't work: " in done.stdout
    assert "red     paypal.keys: The keys don't work: PayPal does not accept our keys" in done.stdout
    assert "        → Copy its keys again from its dashboard" in done.stdout
    assert "2 red." in done.stdout
    assert done.stderr == ""
    hidden = [*secrets.values(), environment["PAYPAL_CLIENT_SECRET"], environment["PAIDONCE_SECRET_KEY"], "canary"]
    assert [one for one in hidden if one in done.stdout] == []


class Talkative:
    """A gateway of somebody else's, whose errors repeat what they were given."""

    name = "talkative"

    def __init__(self, secret: str) -> None:
        self._secret = secret

    async def account(self) -> Account:
        raise GatewayMisconfigured(f"the key {self._secret} is wrong")


async def test_no_finding_repeats_a_secret(clinic: Clinic) -> None:
    secret = clinic.environment["PAIDONCE_SECRET_KEY"]
    async with AsyncExitStack() as stack:
        settings = load_settings(clinic.environment)
        learn_secrets(settings, clinic.environment)
        patient = open_patient(settings, clinic.environment, stack)
        gateways: dict[str, Any] = {"talkative": Talkative(secret)}
        found = [one async for one in doctor.examine(replace(patient, gateways=gateways))]
    told = next(one for one in found if one.check == "talkative.keys")
    assert told.health is RED
    assert "is wrong" in told.text
    assert [one for one in found if secret in f"{one.text} {one.fix}"] == []


def test_settings_that_cant_be_read_end_it_with_two(clinic: Clinic) -> None:
    done = clinic.command("--json", **{**clinic.environment, "PORT": "canary", "STRIPE_SECRET_KEY": ""})
    assert done.returncode == 2, done.stdout
    told = json.loads(done.stdout)
    assert told["health"] == "red"
    assert "canary" not in done.stdout
    assert "PORT" in told["findings"][0]["text"]


async def test_it_tells_people_what_it_is_looking_at(clinic: Clinic) -> None:
    looked_at: list[str] = []
    async with AsyncExitStack() as stack:
        patient = open_patient(load_settings(clinic.environment), clinic.environment, stack)
        async for finding in doctor.examine(patient, tell=looked_at.append):
            # Each finding comes before the next look begins.
            assert looked_at
            if finding.check == "database":
                assert looked_at == ["the settings", "the database"]
    assert "stripe: keys and account" in looked_at


# ── Settings ──────────


async def test_what_the_start_up_guard_refuses_is_red(clinic: Clinic, tmp_path: Path) -> None:
    environment = changed(clinic, "", tmp_path)
    (tmp_path / "changed.db").chmod(0o644)
    own = {"STRIPE_SECRET_KEY": "sk_live_canary1", "STRIPE_PUBLISHABLE_KEY": "pk_live_canary2"}
    gone = {"STRIPE_API_BASE": "", "STRIPE_JS_URL": "", "STRIPE_WEBHOOK_SECRET": "whsec_canary3"}
    async with AsyncExitStack() as stack:
        settings = load_settings(environment)
        patient = open_patient(settings, {**environment, **own, **gone}, stack)
        # Nobody is called with live keys here.
        found = [*await doctor.shop.settings(patient), *await doctor.database.look(patient)]
    by_name = {one.check: one for one in found}
    assert by_name["settings"].health is by_name["database.rights"].health is RED
    assert said(by_name["settings"], "The shop won't start", "mixed", "Use keys of one mode")
    assert said(by_name["database.rights"], "Every user of this machine", f"Run: chmod o= {tmp_path}")


async def test_what_is_off_or_counts_for_itself_is_yellow(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    environment = {**clinic.environment, "PAIDONCE_SECOND_LOOK_ABOVE": ""}
    found = await examined(environment)
    assert reds(found) == {"second_look": YELLOW, "limits": YELLOW}
    assert said(found["second_look"], "PAIDONCE_SECOND_LOOK_ABOVE")
    assert said(found["limits"], "PAIDONCE_LIMITS=database")
    shared = await examined({**clinic.environment, "PAIDONCE_LIMITS": "database"})
    assert reds(shared) == {}


async def test_without_any_gateway_nothing_can_be_paid(clinic: Clinic) -> None:
    own = {name: value for name, value in clinic.environment.items() if name.startswith("PAIDONCE_")}
    assert reds(await examined(own)) == {"gateways": RED}


# ── Database ──────────


async def test_a_database_that_is_not_there_is_red_and_is_not_made(clinic: Clinic, tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    found = await examined({**clinic.environment, "PAIDONCE_DATABASE_URL": f"sqlite:///{path}"})
    assert found["database"].health is RED
    assert said(found["database"], "paidonce migrate")
    assert list(tmp_path.iterdir()) == []


async def test_an_old_schema_is_red(clinic: Clinic, tmp_path: Path) -> None:
    environment = changed(clinic, "UPDATE paidonce_alembic_version SET version_num = '0003'", tmp_path)
    found = await examined(environment)
    assert reds(found) == {"database.schema": RED}
    assert said(found["database.schema"], "Run: paidonce migrate")


async def test_a_full_disk_is_red_and_a_nearly_full_one_yellow(clinic: Clinic) -> None:
    found = await examined(clinic.environment, limits=Limits(free_red_bytes=2**60))
    assert reds(found) == {"database.room": RED}
    found = await examined(clinic.environment, limits=Limits(free_yellow_bytes=2**60))
    assert reds(found) == {"database.room": YELLOW}
    assert said(found["database.room"], "MiB", "Make room")


async def test_a_file_that_this_user_cant_write_is_red(clinic: Clinic) -> None:
    folder = Path(tempfile.mkdtemp(prefix="paidonce-doctor-"))
    try:
        shutil.copy(clinic.database, folder / "theirs.db")
        (folder / "theirs.db").chmod(0o444)
        folder.chmod(0o555)
        environment = {**clinic.environment, "PAIDONCE_DATABASE_URL": f"sqlite:///{folder / 'theirs.db'}"}
        with somebody_else():
            found = await examined(environment)
        assert found["database"].health is RED
        assert said(found["database"], "can't be used", "whether this user may read and write it")
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


@contextmanager
def somebody_else() -> Iterator[None]:
    """As a user who owns nothing, where the tests run as root, to whom no file says no."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


async def _carry_out(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def reader_url(postgresql_url: str) -> Iterator[str]:
    """The same database for a role that may read and not write."""
    role = f"reader_{os.getpid()}"
    grants = [f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"]
    run_apart(lambda: _carry_out(postgresql_url, *grants))
    parts = urlsplit(postgresql_url)
    yield urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
    gone = [f"DROP OWNED BY {role}", f"DROP ROLE {role}"]
    run_apart(lambda: _carry_out(postgresql_url, *gone))


async def test_postgresql_without_durability_or_the_right_to_write_is_red(clinic: Clinic, reader_url: str) -> None:
    """The tests' own server runs with fsync off, as no shop's may."""
    found = await examined({**clinic.environment, "PAIDONCE_DATABASE_URL": reader_url})
    assert reds(found) == {"database.durable": RED, "database.writable": RED}, found["database"]
    assert said(found["database.durable"], "fsync = off", "Set fsync = on")
    assert said(found["database.writable"], "Nothing can be written", "the right to write")


@pytest.mark.parametrize(
    ("settings", "health"),
    [
        # Storage that never writes half a page needs none of it, and the doctor can't see what lies below the server.
        ({"full_page_writes": "off"}, {"database.pages": YELLOW}),
        ({"fsync": "off"}, {"database.durable": RED}),
        ({"synchronous_commit": "off"}, {"database.durable": RED}),
        # The compute of a service whose storage lies elsewhere: what its own disk does is nobody's concern.
        ({"fsync": "off", "full_page_writes": "off", "elsewhere": "a1b2"}, {}),
        ({"fsync": "off", "synchronous_commit": "off", "elsewhere": "a1b2"}, {"database.durable": RED}),
    ],
)
async def test_what_postgresql_leaves_out_is_judged_by_what_it_may_cost(
    settings: dict[str, str], health: dict[str, Health]
) -> None:
    row = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "elsewhere": None, **settings}
    found = {one.check: one for one in doctor.database.durability(row)}
    assert reds(found) == health
    assert all(one.fix for one in found.values())


async def test_a_postgresql_without_storage_of_its_own_is_known_by_its_settings(
    clinic: Clinic, postgresql_url: str
) -> None:
    """The tests' own server runs with fsync off, and takes a setting of that name like any other server."""
    parts = urlsplit(postgresql_url)
    role = f"elsewhere_{os.getpid()}"
    rights = f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
    await _carry_out(postgresql_url, f"CREATE ROLE {role} LOGIN", rights)
    url = urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))
    try:
        environment = {**clinic.environment, "PAIDONCE_DATABASE_URL": url}
        assert (await examined(environment))["database.durable"].health is RED
        await _carry_out(postgresql_url, f"ALTER ROLE {role} SET neon.timeline_id = 'a1b2'")
        assert reds(await examined(environment)) == {}
    finally:
        await _carry_out(postgresql_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_the_probe_leaves_nothing_behind(clinic: Clinic, postgresql_url: str) -> None:
    await examined({**clinic.environment, "PAIDONCE_DATABASE_URL": postgresql_url})
    database = await paidonce.db.connect(postgresql_url)
    try:

        async def count(tx: Any) -> Any:
            return await tx.fetch_one("SELECT count(*) AS n FROM endpoints")

        assert (await database.read(count))["n"] == 0
    finally:
        await database.close()


# ── Work and trouble ──────────


async def test_work_that_nobody_does_is_yellow_and_then_red(clinic: Clinic) -> None:
    async with Client(clinic.url) as buyer:
        assert (await buyer.sign_in()).status == 201
        order = await buyer.order()
        started = await buyer.start(order["id"], "paypal")
    clock = ShiftedClock()
    try:
        for minutes, health in ((8, YELLOW), (30, RED)):
            clock.shift = minutes * 60 * SECOND
            async with AsyncExitStack() as stack:
                patient = open_patient(load_settings(clinic.environment), clinic.environment, stack, clock=clock)
                (found,) = await doctor.shop.work(patient)
            assert found.health is health
            assert said(found, "1 payments", "Start one (paidonce worker)")
    finally:
        async with Client(clinic.url) as buyer:
            await buyer.sign_in()
            await buyer.post(f"/api/payments/{started['id']}/cancel", {})
        with sqlite3.connect(clinic.database) as connection:
            connection.execute("UPDATE payments SET due_at = NULL")


DELIVERIES = """
INSERT INTO outbox (id, type, order_id, payload, created_at) VALUES
    ('evt_1', 'order.paid', 'ord_1', '{}', 0), ('evt_2', 'refund.succeeded', 'ord_1', '{}', 0);
INSERT INTO endpoints (name, handed_out, created_at) VALUES ('https://erp.example', 0, 0);
INSERT INTO deliveries (id, endpoint, seq, order_id, state, created_at, due_at, tries, lease_until)
    SELECT 'dlv_' || id, 'https://erp.example', seq, order_id, 'waiting', 0,
    CASE id WHEN 'evt_1' THEN FIRST ELSE 1 END, 3, 0 FROM outbox WHERE id IN ('evt_1', 'evt_2');
"""
TOLD = {"PAIDONCE_EVENT_URLS": "https://erp.example", "PAIDONCE_EVENT_SECRET": "whsec_" + "c2VjcmV0MTIz" * 4}


async def test_what_waits_behind_an_event_that_is_tried_again_is_not_overdue(clinic: Clinic, tmp_path: Path) -> None:
    """The receiver is down: its order's next event is due, and nobody may send it yet."""
    later = ShiftedClock().now() + 3600 * SECOND
    environment = changed(clinic, DELIVERIES.replace("FIRST", str(later)), tmp_path)
    assert reds(await examined({**environment, **TOLD})) == {}


async def test_events_that_nobody_sends_are_red_where_they_are_to_be_sent(clinic: Clinic, tmp_path: Path) -> None:
    environment = changed(clinic, DELIVERIES.replace("FIRST", "1"), tmp_path)
    found = await examined({**environment, **TOLD})
    assert reds(found) == {"work": RED}
    assert said(found["work"], "1 deliveries to your systems")
    # No worker is to blame for an address that was taken out of the settings.
    found = await examined(environment)
    assert reds(found) == {"trouble.endpoint": YELLOW}
    assert said(found["trouble.endpoint"], "2 (https://erp.example)", "PAIDONCE_EVENT_URLS")


TROUBLE = """
INSERT INTO payments (id, order_id, gateway, status, refund_status, amount_minor, currency, account, live,
    captures_in_browser, capture_method, captured_minor, owed_to_buyer, decline_recoverable, asked_at, created_at,
    updated_at, tries, lease_until, held_reason)
VALUES ('pay_1', 'ord_held', 'stripe', 'held', 'none', 100, 'EUR', 'a', 0, 1, 'automatic', 0, 0, 0, 0, 0, 0, 0, 0, 'x');
INSERT INTO outbox (id, type, order_id, payload, created_at) VALUES
    ('evt_1', 'alarm.gateway', 'ord_alarm', '{}', NOW), ('evt_2', 'alarm.old', 'ord_old', '{}', 0);
INSERT INTO endpoints (name, handed_out, created_at) VALUES ('https://erp.example', 0, 0);
INSERT INTO deliveries (id, endpoint, seq, order_id, state, created_at, tries, lease_until)
    SELECT 'dlv_1', 'https://erp.example', seq, order_id, 'given_up', 0, 9, 0 FROM outbox WHERE id = 'evt_1';
"""


async def test_what_waits_for_a_person_is_yellow(clinic: Clinic, tmp_path: Path) -> None:
    now = ShiftedClock().now()
    found = await examined(changed(clinic, TROUBLE.replace("NOW", str(now)), tmp_path))
    assert reds(found) == dict.fromkeys(("trouble.held", "trouble.alarms", "trouble.events"), YELLOW)
    assert said(found["trouble.held"], "ord_held", "paidonce explain")
    assert said(found["trouble.alarms"], "alarm.gateway", "ord_alarm")
    assert "ord_old" not in found["trouble.alarms"].text
    assert said(found["trouble.events"], "paidonce events list --undelivered")


# ── Gateways ──────────


async def test_a_clock_that_is_off_is_yellow_and_then_red(clinic: Clinic) -> None:
    for seconds, health, words in ((60, YELLOW, "ahead of"), (400, RED, "ahead of"), (-400, RED, "behind")):
        clock = ShiftedClock()
        clock.shift = seconds * SECOND
        async with AsyncExitStack() as stack:
            patient = open_patient(load_settings(clinic.environment), clinic.environment, stack, clock=clock)
            found = {one.check: one for one in await gateway_looks.look("stripe", patient)}
        assert found["stripe.clock"].health is health
        assert said(found["stripe.clock"], words, "NTP")


@dataclass
class Dated:
    """Answers with this header Date."""

    date: str

    async def send(self, _request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        del deadline_seconds
        return HttpResponse(200, {"date": self.date}, b"")


@pytest.mark.parametrize("date", ["", "soon", f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"])
async def test_a_date_that_cant_be_read_tells_no_time(date: str) -> None:
    dates = DateWatch(Dated(date), ShiftedClock())
    answer = await dates.send(HttpRequest("GET", "https://gateway.example/"), deadline_seconds=1)
    assert (answer.status, dates.skew_seconds()) == (200, None)


@pytest.mark.parametrize(
    ("control", "check", "health", "words"),
    [
        ("stripe.unsubscribe charge.refunded", "webhook.events", YELLOW, ["charge.refunded", "Add"]),
        ("stripe.question_account", "account", RED, ["does not let this account take payments", "Account status"]),
        ("stripe.disable_endpoint", "webhook.endpoint", RED, ["switched off", "Switch it on"]),
        ("stripe.remove_endpoint", "webhook.endpoint", YELLOW, ["is not among", "stripe listen"]),
        ("paypal.unsubscribe PAYMENT.CAPTURE.DENIED", "webhook.events", YELLOW, ["DENIED", "developer.paypal.com"]),
        ("paypal.remove_endpoint", "webhook.endpoint", YELLOW, ["no webhook with the ID"]),
    ],
)
async def test_what_is_wrong_at_the_gateways_dashboard_is_found(
    clinic: Clinic, control: str, check: str, health: Health, words: list[str]
) -> None:
    what, _, event = control.partition(" ")
    gateway, _, name = what.partition(".")
    clinic.control(gateway, name, **({"event": event} if event else {}))
    found = await examined(clinic.environment)
    assert reds(found) == {f"{gateway}.{check}": health}
    assert said(found[f"{gateway}.{check}"], *words)


async def test_in_public_a_webhook_that_goes_elsewhere_is_red(clinic: Clinic) -> None:
    """The endpoints at the gateways are those of another address."""
    environment = {**clinic.environment, "PAIDONCE_PUBLIC_URL": "https://shop.example"}
    async with AsyncExitStack() as stack:
        patient = open_patient(load_settings(environment), environment, stack)
        for name in ("stripe", "paypal"):
            found = {one.check: one for one in await gateway_looks.look(name, patient)}
            assert found[f"{name}.webhook.endpoint"].health is RED
            assert said(found[f"{name}.webhook.endpoint"], f"https://shop.example/webhooks/{name}")
            # Whoever pays there pays with nothing.
            assert found[f"{name}.keys"].health is YELLOW
            assert said(found[f"{name}.keys"], "Set the live keys")


async def test_what_a_restricted_key_may_not_read_is_yellow(clinic: Clinic) -> None:
    found = await examined({**clinic.environment, "STRIPE_SECRET_KEY": "rk_test_sandbox"})
    assert reds(found) == {"stripe.webhook.endpoint": YELLOW}
    assert said(found["stripe.webhook.endpoint"], "can't be read with this key", "restricted key")


async def test_without_their_secrets_webhooks_are_yellow(clinic: Clinic) -> None:
    left_out = {"STRIPE_WEBHOOK_SECRET", "PAYPAL_WEBHOOK_ID"}
    environment = {name: value for name, value in clinic.environment.items() if name not in left_out}
    found = await examined(environment)
    assert reds(found) == {"stripe.webhook.endpoint": YELLOW, "paypal.webhook.endpoint": YELLOW}
    assert said(found["stripe.webhook.endpoint"], "STRIPE_WEBHOOK_SECRET is not set")
    assert said(found["paypal.webhook.endpoint"], "PAYPAL_WEBHOOK_ID is not set", "Copy the ID")


async def test_a_currency_that_a_gateway_does_not_take_is_yellow(clinic: Clinic) -> None:
    found = await examined({**clinic.environment, "BANK_TRANSFER_CURRENCIES": "USD"})
    assert reds(found) == {"bank_transfer.currency": YELLOW}
    assert said(found["bank_transfer.currency"], "EUR", "another gateway")


async def test_a_gateway_that_cant_be_reached_is_red(clinic: Clinic) -> None:
    found = await examined({**clinic.environment, "PAYPAL_API_BASE": "http://127.0.0.1:9/paypal"})
    assert reds(found) == {"paypal.keys": RED}
    assert said(found["paypal.keys"], "No answer", "could not connect", "network, proxy")


async def test_a_gateway_that_does_not_answer_does_not_keep_the_others_waiting(clinic: Clinic) -> None:
    clinic.twins.app.dials.add(Rule(Fault.DELAY, gateway="stripe", seconds=60))
    try:
        found = await examined(clinic.environment, limits=Limits(look_seconds=2))
    finally:
        clinic.twins.app.dials.clear()
    assert reds(found) == {"stripe": RED}
    assert said(found["stripe"], "No answer within 2 seconds")


# ── The public address ──────────


@dataclass
class Front:
    """What stands at the public address instead of the shop."""

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b"<h1>Welcome</h1>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": self.body})


@pytest.mark.parametrize(
    ("front", "words"),
    [
        (Front(200), ["takes what nobody signed", "Look where this address leads"]),
        (Front(301, ((b"location", b"https://www.shop.example/"),)), ["redirects", "follow no redirect"]),
        (Front(401), ["answers 401", "without a password"]),
        (Front(502), ["can't take webhooks right now (502)"]),
        (Front(404, body=b'{"code": "not_found"}'), ["does not offer this gateway"]),
    ],
)
async def test_what_keeps_webhooks_from_arriving_is_red(clinic: Clinic, front: Front, words: list[str]) -> None:
    with serving.bind("127.0.0.1", 0, fix="") as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = {**clinic.environment, "PAIDONCE_PUBLIC_URL": url}
        async with AsyncExitStack() as stack:
            patient = open_patient(load_settings(environment), environment, stack)
            with in_thread(front, listener):
                (found,) = await address.webhook("stripe", patient)
    assert found.health is RED
    assert said(found, f"{url}/webhooks/stripe", *words)


async def test_a_shop_that_is_not_open_is_yellow_on_this_machine(clinic: Clinic) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    environment = {**clinic.environment, "PAIDONCE_PUBLIC_URL": url}
    async with AsyncExitStack() as stack:
        patient = open_patient(load_settings(environment), environment, stack)
        (found,) = await address.webhook("stripe", patient)
    assert found.health is YELLOW
    assert said(found, "Nobody answers", "Start the shop")


# ── TLS ──────────

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def certificate(host: str, days_left: float, *, authority: bool = True) -> bytes:
    """A certificate for `host`, signed by our authority or by itself, with its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority" if authority else host)])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 100 * DAY)
        .not_valid_after(NOW + days_left * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=host == "authority", path_length=None), critical=True)
        .sign(KEY, hashes.SHA256())
    )
    private = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return built.public_bytes(serialization.Encoding.PEM) + private


@asynccontextmanager
async def tls_server(pem: bytes, folder: Path) -> AsyncIterator[int]:
    """A server that speaks TLS with this certificate on loopback; its port."""
    (folder / "server.pem").write_bytes(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def known_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our authority is the only one that this process believes."""
    (tmp_path / "authority.pem").write_bytes(certificate("authority", 90))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@pytest.mark.usefixtures("known_authority")
@pytest.mark.parametrize(
    ("pem", "health", "words"),
    [
        (certificate("localhost", 60), GREEN, ["good for 59 more days"]),
        (certificate("localhost", 5), YELLOW, ["good for 4 more days", "Renew it"]),
        (certificate("localhost", -1), RED, ["has run out", "Renew it"]),
        (certificate("shop.example", 60), RED, ["is another host's"]),
        (certificate("localhost", 60, authority=False), RED, ["is signed by itself"]),
    ],
    ids=["good", "soon", "expired", "other host", "self-signed"],
)
async def test_the_certificate_of_the_public_address(
    pem: bytes, health: Health, words: list[str], clinic: Clinic, tmp_path: Path
) -> None:
    async with tls_server(pem, tmp_path) as port:
        found = await certificate_at(clinic, port)
    assert (found.check, found.health) == ("address.tls", health)
    assert said(found, *words)


async def certificate_at(clinic: Clinic, port: int) -> Finding:
    environment = {**clinic.environment, "PAIDONCE_PUBLIC_URL": f"https://localhost:{port}"}
    async with AsyncExitStack() as stack:
        (found,) = await address.look(open_patient(load_settings(environment), environment, stack))
    return found


async def test_an_address_where_nobody_speaks_tls_is_red(clinic: Clinic) -> None:
    found = await certificate_at(clinic, clinic.port)
    assert found.health is RED
    assert said(found, "does not speak TLS")
    found = await certificate_at(clinic, free_port())
    assert found.health is RED
    assert said(found, "Nobody answers", "DNS")
