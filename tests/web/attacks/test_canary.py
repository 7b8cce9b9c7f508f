"""Every secret of a shop is marked, everything that can happen happens, and the marks are looked for everywhere."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import secrets as chance
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import asyncpg
import pytest
import structlog

import paidonce.db
from paidonce import serving
from paidonce.app import create_app
from paidonce.config import load_settings
from paidonce.demo.servers import in_thread
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.registry import configure_all
from paidonce.logs import configure_logging
from paidonce.sandbox.app import SandboxTransport, sandbox_cores, sandbox_environment
from support.canary import Marks
from support.receiver import Receiver, receiving
from support.shop import SANDBOX_URL, ShiftedClock, WatchedTransport
from support.webshop import Answer, Client, WebShop

GOOD_CARD, DECLINED_CARD, ASKING_CARD = "4242424242424242", "4000000000000002", "4000002500003155"
TWINS_OWN = sandbox_environment(SANDBOX_URL)
FORM = {"content-type": "application/x-www-form-urlencoded"}


def _mark(what: str) -> str:
    return f"Canary-{what}-{chance.token_hex(8)}"


# ── The shop ──────────


@dataclass
class Watched:
    """A shop whose every way out is recorded."""

    shop: WebShop
    transport: WatchedTransport
    receiver: Receiver
    marks: Marks
    environment: dict[str, str]
    log: io.StringIO
    password: str
    answers: list[tuple[str, str, Answer]] = field(default_factory=list)

    def client(self, who: str) -> Recorded:
        """Somebody's browser; what it is told is kept."""
        return Recorded(self.shop.url, who, self.answers, self.marks)


class Recorded(Client):
    """A client whose answers are kept, and whose secrets are marked as they come."""

    def __init__(self, url: str, who: str, answers: list[tuple[str, str, Answer]], marks: Marks) -> None:
        super().__init__(url)
        self._who, self._answers, self._marks = who, answers, marks

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        answer = await super().request(method, path, **options)
        for name, cookie in answer.cookies.items():
            if name.endswith("_session") and cookie.value:
                self._marks.add("session token", cookie.value)
        self._answers.append((self._who, f"{method} {path.partition('?')[0]}", answer))
        return answer

    async def start(self, order_id: str, gateway: str) -> Any:
        started = await super().start(order_id, gateway)
        if "client_secret" in started["client"]:
            self._marks.add("client secret", started["client"]["client_secret"])
        return started


def _settings(marks: Marks, database_url: str, receiver: Receiver) -> dict[str, str]:
    """Every secret of its own mark; only the twins' own are what they are."""
    signing = f"{_mark('signing')}-{chance.token_hex(12)} {_mark('earlier')}-{chance.token_hex(12)}"
    event = base64.b64encode(chance.token_bytes(32)).decode()
    query, gate = _mark("event-query"), f"whsec_{chance.token_hex(16)}"
    # The twin takes a pair of keys whose ends are alike, so the end alone is no secret here.
    pair = f"sandboxCanary{chance.token_hex(8)}"
    keys = {
        "STRIPE_SECRET_KEY": f"sk_test_{pair}",
        "STRIPE_PUBLISHABLE_KEY": f"pk_test_{pair}",
        "STRIPE_WEBHOOK_SECRET": f"{TWINS_OWN['STRIPE_WEBHOOK_SECRET']},{gate}",
        "PAYPAL_CLIENT_SECRET": f"sandbox-{_mark('paypal')}",
    }
    marks.add("signing key", *signing.split())
    marks.add("event secret", f"whsec_{event}")
    marks.add("address of the events", query)
    marks.add("gateway key", keys["STRIPE_SECRET_KEY"], halves=False)
    marks.add("gateway key", keys["PAYPAL_CLIENT_SECRET"], TWINS_OWN["MOLLIE_API_KEY"])
    marks.add("webhook secret", *keys["STRIPE_WEBHOOK_SECRET"].split(","))
    return {
        **TWINS_OWN,
        **keys,
        "PAIDONCE_DATABASE_URL": _with_password(marks, database_url),
        "PAIDONCE_SECRET_KEY": signing,
        "PAIDONCE_EVENT_URLS": f"{receiver.url}?key={query}",
        "PAIDONCE_EVENT_SECRET": f"whsec_{event}",
    }


def _with_password(marks: Marks, url: str) -> str:
    """The database's address with a password in it, which a server that asks for none does not mind."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return url
    password = parts.password or _mark("database")
    marks.add("database password", password)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or 'postgres'}:{quote(password)}@{host}").geturl()


@asynccontextmanager
async def watched(database_url: str, log: io.StringIO) -> AsyncIterator[Watched]:
    """A running shop with a worker, a merchant's system that it tells of events, and marks on everything."""
    marks, clock = Marks(), ShiftedClock()
    twins = dict(sandbox_cores(SANDBOX_URL))
    transport = WatchedTransport(SandboxTransport(twins, clock, SANDBOX_URL))
    marks.add("card number", GOOD_CARD, DECLINED_CARD, ASKING_CARD)
    password = _mark("password")
    marks.add("password", password)
    async with receiving() as receiver:
        with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
            url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
            environment = {**_settings(marks, database_url, receiver), "PAIDONCE_PUBLIC_URL": url}
            gateways = configure_all(environment, transport, clock)
            app = create_app(load_settings(environment), gateways=gateways, clock=clock, environment=environment)
            shop = WebShop(app, url, clock, twins)
            with in_thread(app, listener):
                yield Watched(shop, transport, receiver, marks, environment, log, password)


@pytest.fixture(params=["console", "json"])
def written_log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What this kind of log writes at its most talkative, libraries included; afterwards all is as it was."""
    root = logging.getLogger()
    before, level, disabled = root.handlers[:], root.level, logging.getLogger("uvicorn.access").disabled
    log = io.StringIO()
    configure_logging(log_format=request.param, level="debug", stream=log)
    yield log
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = disabled
    structlog.reset_defaults()


# ── What happens ──────────


def _confirm(watched: Watched, started: Any, card: str) -> HttpResponse:
    """The buyer types a card number at the gateway's own field."""
    secret = started["client"]["client_secret"]
    fields = {"number": card, "exp_month": "12", "exp_year": "40", "cvc": "123"}
    form = {f"payment_method_data[card][{name}]": value for name, value in fields.items()}
    form |= {"payment_method_data[type]": "card", "client_secret": secret, "return_url": f"{watched.shop.url}/return"}
    headers = {**FORM, "authorization": f"Bearer {started['client']['publishable_key']}"}
    path = f"/v1/payment_intents/{secret.split('_secret_')[0]}/confirm"
    request = HttpRequest("POST", path, headers, urlencode(form).encode())
    answer: HttpResponse = watched.shop.twins["stripe"].handle(request, now=watched.shop.clock.now())
    return answer


def _authenticate(watched: Watched, confirmed: HttpResponse) -> None:
    """The buyer says yes at the bank's page."""
    page = urlsplit(json.loads(confirmed.body)["next_action"]["redirect_to_url"]["url"])
    path = "/" + page.path.removeprefix("/stripe/")
    told = HttpRequest("POST", path, FORM, b"answer=authorize")
    assert watched.shop.twins["stripe"].handle(told, now=watched.shop.clock.now()).status < 400


async def _cards(watched: Watched, buyer: Recorded) -> tuple[str, str]:
    """A decline, a bank that asks, the return with the secret in its address: the ids of the order and its payment."""
    order = (await buyer.order())["id"]
    await buyer.page(f"/orders/{order}/pay")
    started = await buyer.start(order, "stripe")
    assert _confirm(watched, started, DECLINED_CARD).status == 402
    assert (await buyer.complete(started["id"])).status == 200
    _authenticate(watched, _confirm(watched, started, ASKING_CARD))
    secret = started["client"]["client_secret"]
    back = f"/orders/{order}/return?payment={started['id']}&payment_intent_client_secret={secret}&redirect_status=x"
    assert (await buyer.page(back)).status in {200, 303}
    assert (await buyer.complete(started["id"])).json["order_status"] == "paid"
    for page in (f"/orders/{order}", "/orders", f"/orders/{order}/pay"):
        await buyer.page(page)
    return order, started["id"]


async def _other_gateways(watched: Watched, buyer: Recorded) -> None:
    """Approved, chosen at the hosted checkout, promised."""
    for gateway in ("paypal", "mollie", "bank_transfer"):
        order = (await buyer.order())["id"]
        started = await buyer.start(order, gateway)
        if gateway == "paypal":
            watched.shop.approve(started["client"])
        elif gateway == "mollie":
            path = started["client"]["checkout_url"].removeprefix(f"{SANDBOX_URL}/mollie")
            chosen = HttpRequest("POST", path, FORM, b"choice=card")
            assert watched.shop.twins["mollie"].handle(chosen, now=watched.shop.clock.now()).status == 303
        assert (await buyer.complete(started["id"])).status in {200, 202}
        await buyer.page(f"/orders/{order}")


async def _people(watched: Watched, buyer: Recorded) -> None:
    """Signing up, in and out, a wrong password, a new one, and what a broken front end might send."""
    wrong, new = _mark("wrong-password"), _mark("new-password")
    watched.marks.add("password", wrong, new)
    credentials = {"email": "canary@example.com", "password": watched.password}
    assert (await buyer.post("/api/users", {**credentials, "name": "Some One"})).status == 201
    assert (await buyer.post("/api/session", {**credentials, "password": wrong})).status == 401
    assert (await buyer.form("/sign-in", **{**credentials, "password": wrong})).status in {200, 401, 422}
    assert (await buyer.post("/api/session", credentials)).status == 201
    assert (await buyer.post("/api/session/confirm", {"password": watched.password})).status == 204
    assert (await buyer.post("/api/session", {**credentials, "token": wrong})).status == 422
    assert (await buyer.request("POST", "/api/session", data=json.dumps(credentials)[:-2])).status in {415, 422}
    changed = await buyer.post("/api/password", {"password": watched.password, "new_password": new})
    assert changed.status == 204
    await buyer.get(f"/api/products?password={wrong}&token={new}")
    await buyer.get(f"/nothing?key={wrong}", headers={"accept": "application/json", "authorization": f"Bearer {wrong}"})


async def _news(watched: Watched, client: Recorded) -> None:
    """Genuine webhooks, and forged ones that hold secrets."""
    for twin in watched.shop.twins.values():
        for webhook in twin.take_webhooks(now=watched.shop.clock.now()):
            assert (await client.request("POST", webhook.url, data=webhook.body, headers=webhook.headers)).status < 500
    forged = json.dumps({"id": "evt_1", "card": GOOD_CARD, "password": watched.password}).encode()
    for name in watched.shop.twins:
        headers = {"stripe-signature": f"t=1,v1={watched.password}", "paypal-transmission-sig": watched.password}
        await client.request("POST", f"/webhooks/{name}", data=forged, headers=headers)


async def _staff(watched: Watched, staff: Recorded, order: str, payment: str) -> None:
    """A refund, a dispute, and every page on which staff read about them."""
    assert (await staff.sign_in_as_staff()).status == 201
    refunded = await staff.post(
        f"/api/payments/{payment}/refunds", {"amount": 100, "reason": "broken"}, headers={"idempotency-key": "r-1"}
    )
    assert refunded.status in {201, 202}, refunded.text
    ref = json.loads(watched.shop.twins["stripe"].dump())["intents"]
    paid = next(name for name, one in ref.items() if one["object"]["status"] == "succeeded")
    watched.shop.twins["stripe"].control("open_dispute", {"ref": paid}, now=watched.shop.clock.now())
    await _news(watched, staff)
    paths = ("/staff", f"/staff/orders/{order}", f"/staff/orders?find={order}", "/account")
    for path in (*paths, f"/api/orders/{order}/explanation", f"/api/payments/{payment}/refunds"):
        await staff.get(path, headers={"accept": "text/html"})


async def _trouble(watched: Watched, buyer: Recorded, everything: str) -> None:
    """Gateways that answer with what they were sent, and a bug whose error holds all there is."""
    echoes: list[Callable[[HttpRequest], HttpResponse]] = [
        lambda asked: HttpResponse(200, {"content-type": "text/html"}, f"<html>{_all_of(asked)}".encode()),
        lambda asked: HttpResponse(500, {}, _all_of(asked).encode()),
        lambda asked: _json(401, {"error": {"message": f"Invalid key {_all_of(asked)}", "type": "x", "code": "y"}}),
        lambda asked: _json(422, {"status": 422, "title": "no", "detail": _all_of(asked), "name": "X", "message": "m"}),
    ]
    for echo in echoes:
        watched.transport.faults = [("POST", "/", lambda asked, _answer, echo=echo: echo(asked))]  # type: ignore[misc]
        for gateway in ("stripe", "paypal", "mollie"):
            order = (await buyer.order())["id"]
            answer = await buyer.post(f"/api/orders/{order}/payments", {"gateway": gateway})
            assert answer.status in {409, 422, 429, 503}, answer.text
            # One order open at a time is enough, and there are bounds.
            await buyer.post(f"/api/orders/{order}/cancel", {})
    watched.transport.heal()
    logging.getLogger("a.library").warning("it failed with %s", everything, extra={"headers": {"cookie": everything}})
    assert (await buyer.get("/api/bug")).status == 500
    assert (await buyer.page("/bug")).status == 500


def _all_of(asked: HttpRequest) -> str:
    return f"{asked.url} {dict(asked.headers)} {asked.body!r}"


def _json(status: int, body: object) -> HttpResponse:
    return HttpResponse(status, {"content-type": "application/json"}, json.dumps(body).encode())


def _add_bug(watched: Watched, everything: str) -> None:
    """A route with a bug: an exception that quotes what it had at hand."""

    async def bug() -> None:
        held = {"environment": watched.environment, "password": watched.password}
        try:
            raise ValueError(f"could not parse {everything}")
        except ValueError as error:
            raise RuntimeError(f"{held}") from error

    for path in ("/api/bug", "/bug"):
        watched.shop.app.add_api_route(path, bug)


async def _shut_out(database_url: str) -> None:
    """PostgreSQL lets nobody in any more."""
    parts = urlsplit(database_url)
    connection = await asyncpg.connect(parts._replace(path="/postgres").geturl())
    name = parts.path.lstrip("/")
    await connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    await connection.close()


# ── Where it is looked for ──────────


async def _dump(database_url: str) -> dict[str, str]:
    """Every table as text; SQLite's files as they lie on the disk besides."""
    database = await paidonce.db.connect(database_url)
    try:
        rows = await database.read(_all_rows)
    finally:
        await database.close()
    path = paidonce.db.sqlite_path(database_url)
    for file in [] if path is None else sorted(path.parent.glob(f"{path.name}*")):
        rows[f"the file {file.name}"] = file.read_bytes().decode("utf-8", "replace")
    return rows


async def _all_rows(tx: Any) -> dict[str, str]:
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    if tx.dialect == "postgresql":
        names = "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = current_schema()"
    found = {}
    for row in await tx.fetch_all(names):
        rows = await tx.fetch_all(f'SELECT * FROM "{row["name"]}"')  # noqa: S608 - a name that the database gave.
        found[row["name"]] = "\n".join(str(dict(one)) for one in rows)
    return found


_COMMANDS = """
import sys
from paidonce.cli import app
order = sys.argv[1]
for words in (["explain", order], ["explain", order, "--json"], ["events", "list"], ["audit"], ["audit", "--json"]):
    print("==", *words, flush=True)
    app(words, standalone_mode=False)
"""


def _commands(environment: dict[str, str], order: str) -> str:
    """What the commands print about all this."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    ran = subprocess.run(
        [sys.executable, "-c", _COMMANDS, order], env=kept | environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


async def _told(receiver: Receiver) -> str:
    """What the merchant's own system was sent, as soon as the news of the refund are there."""
    for _ in range(400):
        if "refund" in " ".join(receiver.types()) and "order.paid" in receiver.types():
            break
        await asyncio.sleep(0.05)
    assert "order.paid" in receiver.types()
    return "\n".join(f"{one.path} {one.headers} {one.body!r}" for one in receiver.received)


def _mark_what_came_up(watched: Watched, dump: dict[str, str]) -> None:
    """Secrets that were made while it ran: the gateway's access tokens, and what is kept of passwords."""
    tokens = json.loads(watched.shop.twins["paypal"].dump())["tokens"]
    assert tokens
    watched.marks.add("access token", *tokens)
    hashes = [word.strip("'\",") for word in dump["users"].split() if word.startswith("'$argon2")]
    assert hashes
    watched.marks.add("password hash", *hashes)


def _assert_answers_are_clean(watched: Watched) -> None:
    for who, what, answer in watched.answers:
        headers = "\n".join(f"{name}: {value}" for name, value in answer.headers.items() if name != "Set-Cookie")
        # The buyer's own browser needs it to pay, and gets it by this answer alone.
        starts = who == "buyer" and what.startswith("POST /api/orders/") and what.endswith("/payments")
        found = watched.marks.found(f"{headers}\n{answer.text}", but={"client secret"} if starts else ())
        assert found == set(), f"{what} tells {who} the {found}"
        cookies = "\n".join(answer.headers.getall("Set-Cookie", []))  # type: ignore[attr-defined]
        assert watched.marks.found(cookies, but={"session token"}) == set()


def _assert_calls_are_clean(watched: Watched) -> None:
    """No secret in an address that gateways are asked at, nor a word on where it comes from."""
    assert watched.transport.sent
    for request in watched.transport.sent:
        assert watched.marks.found(request.url) == set(), request.url
        others = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
        assert watched.marks.found(str(others)) == set()
        assert "referer" not in {name.lower() for name in others}
        assert watched.marks.found(repr(request), but={"client secret"}) == set()


async def test_no_secret_leaves_whatever_happens(database_url: str, written_log: io.StringIO) -> None:
    """FAULTS, Attacks: secrets in logs, URLs, Referer and error pages (canary values)."""
    async with watched(database_url, written_log) as w, w.client("buyer") as buyer, w.client("staff") as staff:
        await _people(w, buyer)
        order, payment = await _cards(w, buyer)
        await _other_gateways(w, buyer)
        await _news(w, staff)
        await _staff(w, staff, order, payment)
        everything = " ".join(f"{name}={value}" for name, value in w.environment.items()) + f" {GOOD_CARD} "
        _add_bug(w, everything)
        await _trouble(w, buyer, everything)
        told = await _told(w.receiver)
        dump = await _dump(database_url)
        _mark_what_came_up(w, dump)
        commands = _commands(w.environment, order)
        if paidonce.db.sqlite_path(database_url) is None:
            await _shut_out(database_url)
            assert (await buyer.get("/api/products")).status == 503
            assert (await buyer.page("/")).status == 503
    assert w.marks.kinds() >= {"password", "client secret", "session token", "access token", "card number"}
    logged = w.log.getvalue()
    # The log is really there, at its most talkative.
    assert "debug" in logged
    assert "unexpected_error" in logged
    assert w.marks.found(logged) == set(), "the log"
    # Whose sign-in it was is nobody's business there either.
    assert "canary@example.com" not in logged
    _assert_answers_are_clean(w)
    _assert_calls_are_clean(w)
    assert w.marks.found(told) == set(), "what the merchant's system is told"
    assert w.marks.found(commands) == set(), "the commands"
    for table, rows in dump.items():
        kept = {"password hash"} if table == "users" or table.startswith("the file") else set()
        assert w.marks.found(rows, but=kept) == set(), table


# ── The search itself ──────────


SECRET = "Canary/with+signs&=\"'<é>-0123456789"
PLANTED: dict[str, Callable[[], str]] = {
    "plain": lambda: f"before {SECRET} after",
    "in an address": lambda: f"https://shop.example/?x={quote(SECRET)}",
    "in a form": lambda: urlencode({"x": SECRET}),
    "in JSON": lambda: json.dumps({"x": SECRET}),
    "in JSON in JSON": lambda: json.dumps({"x": json.dumps({"y": SECRET})}),
    "in Python": lambda: repr({"x": SECRET}),
    "in a page": lambda: '<p title="Canary/with+signs&amp;=&quot;&#x27;&lt;é&gt;-0123456789">',
    "in base64": lambda: base64.b64encode(SECRET.encode()).decode(),
    "in the middle of base64": lambda: base64.b64encode(f"user:{SECRET}:more".encode()).decode(),
    "at another place of base64": lambda: base64.urlsafe_b64encode(f"users:{SECRET}".encode()).decode(),
    "in hexadecimal digits": lambda: f"x'{SECRET.encode().hex()}'",
}


@pytest.mark.parametrize("where", PLANTED)
def test_the_search_finds_a_planted_secret(where: str) -> None:
    marks = Marks()
    marks.add("key", SECRET)
    assert marks.found(PLANTED[where]()) == {"key"}
    assert marks.found(PLANTED[where](), but={"key"}) == set()
    other = PLANTED[where]()[: len(SECRET) // 3]
    assert marks.found(other) == set()


@pytest.mark.parametrize("text", ["4242 4242 4242 4242", "4242-4242-4242-4242", "card%5Bnumber%5D=4242+4242+4242+4242"])
def test_the_search_finds_a_card_number_in_groups(text: str) -> None:
    marks = Marks()
    marks.add("card number", GOOD_CARD)
    assert marks.found(text) == {"card number"}


def test_the_search_finds_half_of_a_long_secret() -> None:
    marks = Marks()
    marks.add("token", "a-token-of-which-one-half-was-cut-off-somewhere")
    assert marks.found("…half-was-cut-off-somewhere") == {"token"}


async def test_the_search_finds_what_lies_in_a_database(database_url: str) -> None:
    marks = Marks()
    marks.add("password", SECRET)

    async def plant(tx: Any) -> None:
        await tx.execute("UPDATE products SET name = :name", {"name": SECRET})

    database = await paidonce.db.connect(database_url)
    await database.transaction(plant)
    await database.close()
    found = {table for table, rows in (await _dump(database_url)).items() if marks.found(rows)}
    assert found & {"products"}
    assert paidonce.db.sqlite_path(database_url) is None or any(name.startswith("the file") for name in found)
