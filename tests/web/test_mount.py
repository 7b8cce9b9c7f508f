"""`Payments` inside somebody else's application: its routes look after themselves, and the host's stay as they are."""

from __future__ import annotations

import base64
import hashlib
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

import paidonce.db
from paidonce import Actor, Payments, serving
from paidonce.assembly import store_of
from paidonce.config import load_settings
from paidonce.demo.servers import in_thread
from paidonce.errors import ConfigError
from paidonce.ports import Transaction
from paidonce.sandbox.app import sandbox_environment
from paidonce.store import SqlStore
from support.webshop import Client

RETURN_PATH = "/orders/{order}/back?payment={payment}"
ELSEWHERE = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


class Nothing(SqlStore):
    """A shop that has no orders; what is mounted around it is looked at here."""

    async def find(self, tx: Transaction, order_id: str, *, lock: bool) -> None:
        return None


def who_asks(request: Request) -> Actor | None:
    """The host's sign-in, with all the ways in which hosts say no."""
    name = request.headers.get("x-user")
    match name:
        case "refused":
            raise HTTPException(401, "host says no")
        case "led away":
            raise HTTPException(303, headers={"Location": "/sign-in"})
        case "limited":
            raise HTTPException(429, "host says canary", headers={"retry-after": "60", "X-Host": "canary"})
        case "down":
            raise HTTPException(503, "host says canary", headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
        case "refused otherwise":
            raise HTTPException(410, "host says canary")
        case "refused plainly":
            raise HTTPException(400, "host says canary")
        case "broken":
            raise HTTPException(502, "host says canary")
        case "wrong type":
            return "bo"  # type: ignore[return-value]
    return None if name is None else Actor(name, is_staff=name == "staff")


@dataclass
class Host:
    """A running application with payments in it."""

    url: str
    payments: Payments
    lived: list[str]


@contextmanager
def hosted(url: str, root: str = "", **settings: str) -> Iterator[Host]:
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        origin = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        environment = {
            **sandbox_environment("http://127.0.0.1:9"),
            "PAIDONCE_DATABASE_URL": url,
            "PAIDONCE_PUBLIC_URL": origin,
            "PAIDONCE_WORKER": "0",
            **settings,
        }
        payments = Payments(store=Nothing(), current_user=who_asks, return_path=RETURN_PATH, environment=environment)
        host = Host(origin, payments, [])
        with in_thread(_below(_application(host), root), listener):
            yield host


def _below(app: ASGIApp, root: str) -> ASGIApp:
    """`app` as a server hands requests to it behind a proxy that has taken the path `root` off."""

    async def moved(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and root:
            path = root.rstrip("/") + scope["path"]
            scope = {**scope, "root_path": root, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return moved


def _application(host: Host) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with host.payments.lifespan(app):
            host.lived.append("opened")
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(host.payments.router)
    app.mount("/assets", host.payments.assets)

    @app.exception_handler(HTTPException)
    async def own_errors(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"host": error.status_code}, error.status_code)

    @app.exception_handler(404)
    async def own_not_found(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"host": 404}, 404)

    @app.get("/own")
    async def own(number: int) -> dict[str, int]:
        return {"number": number}

    @app.post("/own-checked-form", dependencies=[Depends(host.payments.check_origin)])
    async def own_checked_form() -> None:
        return None

    @app.post("/own-form")
    async def own_form(request: Request) -> dict[str, str]:
        return {"got": (await request.body()).decode()}

    return app


@pytest.fixture
def host(sqlite_url: str) -> Iterator[Host]:
    with hosted(sqlite_url) as host:
        yield host


@pytest.fixture
async def client(host: Host) -> AsyncIterator[Client]:
    async with Client(host.url) as client:
        yield client


PAYMENT = "/api/payments/pay_00000000000000000000000000"


async def test_the_hosts_own_routes_keep_their_errors_and_headers(host: Host, client: Client) -> None:
    assert (await client.get("/nowhere")).json == {"host": 404}
    wrong = await client.get("/own?number=x")
    assert (wrong.status, list(wrong.json)) == (422, ["detail"])
    own = await client.get("/own?number=1")
    assert own.json == {"number": 1}
    assert not {"X-Request-Id", "Content-Security-Policy", "X-Frame-Options"} & set(own.headers)
    # Not even what another site sends is refused there: that is the host's own business.
    foreign = await client.request("POST", "/own-form", data="a=1", headers=ELSEWHERE)
    assert (foreign.status, foreign.json) == (200, {"got": "a=1"})
    # Catalogue, accounts and pages of the built-in shop are not there.
    for path in ("/api/products", "/api/session", "/", "/basket", "/staff", "/api/orders"):
        assert (await client.get(path)).json == {"host": 404}
    assert host.lived == ["opened"]


async def test_paidonces_routes_answer_in_their_own_way(client: Client) -> None:
    assert (await client.get("/readyz")).json == {"status": "ready", "database": "sqlite"}
    assert (await client.get(PAYMENT)).is_problem(401, "not_signed_in")
    signed_in = {"x-user": "bo", "accept": "text/html"}
    missing = await client.get(PAYMENT, headers=signed_in)
    assert missing.is_problem(404, "not_found")
    assert missing.headers["X-Content-Type-Options"] == "nosniff"
    assert missing.headers["Cache-Control"] == "no-store"
    assert (await client.get("/api/payments/..%2f..%2f", headers=signed_in)).status == 404
    wrong = await client.request("PUT", PAYMENT, headers=signed_in)
    assert wrong.is_problem(405, "invalid_request")
    assert "GET" in wrong.headers["Allow"]
    assert (await client.post("/api/orders/7/payments", {"gateway": 5}, headers=signed_in)).is_problem(
        422, "invalid_request"
    )
    assert (await client.post(f"{PAYMENT}/refunds", {}, headers=signed_in)).is_problem(403, "forbidden")
    assert (await client.post(f"{PAYMENT}/refunds", {}, headers={"x-user": "staff"})).is_problem(404, "not_found")
    head = await client.request("HEAD", "/healthz")
    assert (head.status, head.text) == (200, "")


@pytest.mark.parametrize("name", ["refused", "led away"])
async def test_however_the_host_says_no_the_interface_says_not_signed_in(client: Client, name: str) -> None:
    answer = await client.get(PAYMENT, headers={"x-user": name})
    assert answer.is_problem(401, "not_signed_in")
    assert "Location" not in answer.headers
    # Gateways and probes are not asked who they are.
    assert (await client.get("/healthz", headers={"x-user": name})).status == 200


@pytest.mark.parametrize(
    ("name", "status", "code", "wait"),
    [
        ("limited", 429, "too_many_attempts", "60"),
        ("down", 503, "service_unavailable", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("refused otherwise", 410, "invalid_request", None),
        ("refused plainly", 400, "invalid_request", None),
    ],
)
async def test_what_the_host_refuses_keeps_its_status(
    client: Client, name: str, status: int, code: str, wait: str | None
) -> None:
    """A host's limit on requests became "something went wrong", and no client knew when to try again."""
    answer = await client.get(PAYMENT, headers={"x-user": name})
    assert answer.is_problem(status, code)
    assert answer.headers.get("Retry-After") == wait
    assert answer.json.get("retry_after") == (60 if name == "limited" else None)
    # The host's words and headers are for its own pages.
    assert "canary" not in answer.text + str(answer.headers)


async def test_other_trouble_of_the_hosts_is_found_in_the_log(client: Client) -> None:
    with capture_logs() as lines:
        answer = await client.get(PAYMENT, headers={"x-user": "broken"})
    assert answer.is_problem(500, "internal_error")
    assert "canary" not in answer.text
    (told,) = (line for line in lines if line["event"] == "unexpected_error")
    assert told["incident"] == answer.json["incident"]
    assert "HTTPException" in told["traceback"]


async def test_a_host_on_https_decides_itself_about_the_whole_host(sqlite_url: str) -> None:
    """Mounted routes bound the host and all its subdomains to https for two years."""
    with hosted(sqlite_url, PAIDONCE_PUBLIC_URL="https://shop.example") as host:
        async with Client(host.url) as client:
            for path in ("/healthz", "/assets/paidonce.js", PAYMENT):
                answer = await client.get(path)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "Strict-Transport-Security" not in answer.headers


@pytest.mark.parametrize("root", ["", "/shop", "/api"])
async def test_the_rules_hold_below_a_path_as_well(sqlite_url: str, root: str) -> None:
    """Behind `--root-path /shop` the API took forms, and neither listed front ends nor webhooks had their rules."""
    front_end = {"origin": "https://www.shop.example", "sec-fetch-site": "same-site"}
    with hosted(sqlite_url, root, PAIDONCE_ALLOWED_ORIGINS=front_end["origin"]) as host:
        async with Client(host.url) as client:
            form = await client.request("POST", f"{PAYMENT}/refunds", data={"amount": "1"}, headers={"x-user": "staff"})
            assert form.is_problem(415, "invalid_request")
            read = await client.get(PAYMENT, headers={"x-user": "bo", **front_end})
            assert read.is_problem(404, "not_found")
            written = await client.post(f"{PAYMENT}/complete", {}, headers={"x-user": "bo", **front_end})
            assert written.is_problem(404, "not_found")
            module = await client.get("/assets/paidonce.js", headers=front_end)
            for answer in (read, written, module):
                assert answer.headers["Access-Control-Allow-Origin"] == front_end["origin"]
            assert "Access-Control-Allow-Credentials" not in module.headers
            large = await client.request("POST", "/webhooks/stripe", data=b"{" + b" " * 100_000)
            assert large.is_problem(400, "webhook_refused")
            news = await client.request("POST", "/webhooks/stripe", data=b"{}", headers=front_end)
            assert news.is_problem(403, "forbidden")
            assert "Access-Control-Allow-Origin" not in news.headers
            assert await host.payments.core.db.read(_count) == 0


async def test_the_hosts_own_forms_can_have_the_same_check(client: Client) -> None:
    own = {"Origin": client.url, "Sec-Fetch-Site": "same-origin"}
    assert (await client.request("POST", "/own-checked-form", headers=own)).status == 200
    assert (await client.request("POST", "/own-checked-form")).status == 200
    for foreign in (ELSEWHERE, {"Origin": "null"}, {"Origin": f"{client.url}.evil.example"}):
        refused = await client.request("POST", "/own-checked-form", headers=foreign)
        assert (refused.status, refused.json) == (403, {"host": 403})


async def test_a_user_of_another_type_is_a_bug_and_not_a_guest(client: Client) -> None:
    assert (await client.get(PAYMENT, headers={"x-user": "wrong type"})).is_problem(500, "internal_error")


async def test_other_sites_and_forms_are_refused_whatever_the_host_has(host: Host, client: Client) -> None:
    signed_in = {"x-user": "staff"}
    assert (await client.post(f"{PAYMENT}/refunds", {}, headers=signed_in | ELSEWHERE)).is_problem(403, "forbidden")
    form = await client.request("POST", f"{PAYMENT}/refunds", data={"amount": "1"}, headers=signed_in)
    assert form.is_problem(415, "invalid_request")
    large = await client.request(
        "POST",
        f"{PAYMENT}/refunds",
        data="x" * 100_000,
        headers=signed_in | {"content-type": "application/json"},
        # The answer comes before the body is sent, so that the closed connection can't swallow it.
        expect100=True,
    )
    assert large.is_problem(413, "invalid_request")
    forged = await client.post("/webhooks/stripe", {"id": "evt_1"})
    assert forged.is_problem(400, "webhook_refused")
    assert (await client.post("/webhooks/nobody", {})).is_problem(404, "not_found")
    written = await host.payments.core.db.read(_count)
    assert written == 0


async def _count(tx: Transaction) -> int:
    row = await tx.fetch_one("SELECT (SELECT count(*) FROM inbox) + (SELECT count(*) FROM refunds) AS n")
    assert row is not None
    return int(row["n"])


async def test_the_elements_are_served_and_nothing_beside_them(client: Client) -> None:
    module = await client.get("/assets/paidonce.js")
    assert module.status == 200
    assert module.headers["Cache-Control"] == "public, no-cache"
    assert (await client.get("/assets/gateways/stripe/component.js")).status == 200
    for path in ("/assets/gateways/stripe/gateway.py", "/assets/..%2ftemplates/base.html", "/assets/nothing.js"):
        answer = await client.get(path)
        assert answer.is_problem(404, "not_found"), path


async def test_a_pay_page_of_the_hosts_own(host: Host) -> None:
    order = paidonce.PayableOrder("7", "No. 7", "bo", paidonce.OrderStatus.OPEN, paidonce.Money(1999, "EUR"))
    offers = host.payments.offers(order)
    assert [offer.name for offer in offers if offer.unavailable is None]
    for offer in offers:
        assert offer.attributes["return-url"] == f"{host.url}/orders/7/back?payment={{payment}}"
        html = str(host.payments.element(offer))
        assert html.startswith(f"<{offer.element} ")
        assert 'order="7"' in html
        assert "sk_test" not in html
    scripts = str(host.payments.scripts(offers, nonce="abc"))
    # Before the modules stands the import map with the hashes of what they import.
    assert scripts.count('nonce="abc"') == len(offers) + 1
    assert scripts.count(' integrity="sha384-') == len(offers)
    assert scripts.index('"/assets/paidonce.js":"sha384-') < scripts.index('<script type="module"')
    policy = host.payments.csp("abc")
    assert "script-src 'nonce-abc' " in policy
    assert "unsafe-inline" not in policy
    without = host.payments.csp()
    assert "script-src 'self' 'sha256-" in without
    inline = re.findall(r"<script[^>]*>([^<]+)</script>", scripts)
    allowed = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline]
    assert [f"'sha256-{one}'" in without for one in allowed] == [True]
    headers = host.payments.headers("abc")
    assert (headers["Content-Security-Policy"], headers["Cache-Control"]) == (policy, "no-store")
    evil = paidonce.PayableOrder('7"><script>', "x", "bo", paidonce.OrderStatus.OPEN, paidonce.Money(1999, "EUR"))
    assert all("<script>" not in str(host.payments.element(offer)) for offer in host.payments.offers(evil))
    odd = paidonce.PayableOrder("8", "No. 8", "bo", paidonce.OrderStatus.OPEN, paidonce.Money(1234, "KWD"))
    refused = [offer for offer in host.payments.offers(odd) if offer.unavailable is not None]
    assert refused
    assert "<p" in str(host.payments.element(refused[0]))
    assert str(host.payments.scripts(refused)) == ""


@pytest.mark.parametrize(
    "path", ["orders/back?payment={payment}", "/orders/{order}/back", "https://x/?payment={payment}"]
)
def test_a_return_path_that_leads_nowhere_is_refused(sqlite_url: str, path: str) -> None:
    with pytest.raises(ConfigError, match=r"return_path.*payment=\{payment\}"):
        Payments(store=Nothing(), current_user=who_asks, return_path=path, environment={})


def test_the_store_of_the_commands_is_named_by_a_setting() -> None:
    found = store_of(load_settings({"PAIDONCE_STORE": "paidonce.store:SqlStore"}))
    assert isinstance(found, SqlStore)
    for wrong in ("paidonce.store:NoStore", "no_such_module:X", "paidonce.store"):
        with pytest.raises(ConfigError, match=r"PAIDONCE_STORE=.*module:name"):
            store_of(load_settings({"PAIDONCE_STORE": wrong}))
    # The built-in shop signs its cookies, so it can't do without a key.
    with pytest.raises(ConfigError, match="PAIDONCE_SECRET_KEY"):
        load_settings({})


async def test_paidonces_tables_lie_beside_a_hosts_of_the_same_names(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as own:
        own.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, nickname TEXT)")
        own.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        own.execute("INSERT INTO users VALUES (1, 'bo')")
    own.close()
    url = f"sqlite:///{path}"
    with pytest.raises(ConfigError, match="PAIDONCE_STORE"):
        await paidonce.db.migrate(url)
    assert await paidonce.db.pending(url)
    for _ in range(2):
        await paidonce.db.migrate(url, store_tables=False)
    assert not await paidonce.db.pending(url)
    with sqlite3.connect(path) as own:
        assert own.execute("SELECT * FROM users").fetchall() == [(1, "bo")]
        names = {row[0] for row in own.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {"payments", "reservations", "outbox"} <= names
        assert not {"stock", "sessions", "order_lines", "holds", "stock_movements"} & names
    own.close()


async def test_on_postgresql_paidonce_can_have_a_schema_of_its_own(empty_postgresql_url: str) -> None:
    import asyncpg

    own = await asyncpg.connect(empty_postgresql_url)
    try:
        await own.execute("CREATE TABLE payments (id integer)")
        with pytest.raises(ConfigError, match="search_path"):
            await paidonce.db.migrate(empty_postgresql_url, store_tables=False)
        await own.execute("CREATE SCHEMA paidonce")
        mark = "&" if "?" in empty_postgresql_url else "?"
        url = f"{empty_postgresql_url}{mark}search_path=paidonce,public"
        await paidonce.db.migrate(url, store_tables=False)
        database = await paidonce.db.connect(url)
        assert not await paidonce.db.pending(database)
        await database.close()
        found = await own.fetch("SELECT table_schema FROM information_schema.tables WHERE table_name = 'payments'")
        assert sorted(row[0] for row in found) == ["paidonce", "public"]
        assert await own.fetchval("SELECT count(*) FROM public.payments") == 0
    finally:
        await own.close()
