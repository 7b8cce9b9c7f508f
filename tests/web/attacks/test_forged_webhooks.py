"""Forged webhooks, sent to the running shop: refused by 400, nothing written, and no socket opened for anybody.

What each parser makes of single bytes, headers and addresses stands in tests/gateways/*/test_webhook.py; this is the
endpoint from outside, with everything in between.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import run_apart
from paidonce import recovery, serving
from paidonce.app import create_app
from paidonce.config import load_settings
from paidonce.demo.servers import in_thread
from paidonce.gateways.base import HttpRequest
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SECOND
from paidonce.sandbox.app import sandbox_environment
from support.described import kept
from support.shop import SANDBOX_URL, ShiftedClock
from support.webshop import SECRET_KEY, Answer, Client, WebShop

GATEWAYS = ["stripe", "paypal"]
# Every byte of a signature; of the rest so many that no part of a document is left out.
MOST_BYTES = 120
# Those that a signature is made of. An address of a certificate has tests of its own below.
SIGNING = ("stripe-signature", *(f"paypal-{name}" for name in ("transmission-id", "transmission-time", "auth-algo")))
SIGNING += ("paypal-transmission-sig",)


@dataclass
class Heard:
    """A shop that was told of one payment, and that genuine webhook, which it has not heard yet."""

    shop: WebShop
    client: Client
    order_id: str
    webhook: HttpRequest
    database_url: str

    async def post(self, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
        """The webhook with other headers or another body."""
        sent = {**self.webhook.headers, "content-type": "application/json", **(headers or {})}
        data = self.webhook.body if body is None else body
        return await self.client.request("POST", self.webhook.url, data=data, headers=sent)

    async def post_signed(self, body: bytes) -> Answer:
        """Another body, signed by whoever holds the gateway's key."""
        name = self.webhook.url.rsplit("/", 1)[1]
        hooks = import_module(f"paidonce.gateways.{name}.contract")
        signed = hooks.sign(SimpleNamespace(twin=self.shop.twins[name]), self.webhook, body)
        return await self.post(signed.headers, body)

    async def is_refused(self, answer: Answer, what: object) -> None:
        assert answer.is_problem(400, "webhook_refused"), (what, answer.text)

    async def status(self) -> str:
        return str((await self.client.get(f"/api/orders/{self.order_id}")).json["status"])


@pytest.fixture(params=GATEWAYS)
async def heard(request: pytest.FixtureRequest, quick_shop: WebShop, seeded_url: str) -> AsyncIterator[Heard]:
    async with quick_shop.client() as client:
        assert (await client.sign_in()).status == 201
        order = await client.order()
        quick_shop.twins[request.param].take_webhooks(now=quick_shop.clock.now())
        quick_shop.agree(await client.start(order["id"], request.param))
        webhook = quick_shop.twins[request.param].take_webhooks(now=quick_shop.clock.now())[-1]
        yield Heard(quick_shop, client, order["id"], webhook, seeded_url)


async def test_every_changed_byte_is_refused_and_nothing_is_written(heard: Heard) -> None:
    before = await kept(heard.database_url)
    body = heard.webhook.body
    for place in range(0, len(body), max(1, len(body) // MOST_BYTES)):
        changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        await heard.is_refused(await heard.post(body=changed), place)
    for other in (body + b" ", b" " + body, body[:-1], body[1:], body * 2, b""):
        await heard.is_refused(await heard.post(body=other), other[:20])
    assert await kept(heard.database_url) == before
    assert await heard.status() == "open"
    assert (await heard.post()).json == {"outcome": "new"}, "the genuine one is still taken"


async def test_every_changed_letter_of_the_headers_is_refused(heard: Heard) -> None:
    before = await kept(heard.database_url)
    given = {name.lower(): value for name, value in heard.webhook.headers.items()}
    for name, value in ((name, given[name]) for name in SIGNING if name in given):
        for place in range(0, len(value), max(1, len(value) // MOST_BYTES)):
            letter = "1" if value[place] != "1" else "2"
            changed = value[:place] + letter + value[place + 1 :]
            await heard.is_refused(await heard.post({name: changed}), (name, place))
        for other in ("", value.swapcase(), value + "0", value[1:], "é" + value):
            await heard.is_refused(await heard.post({name: other}), (name, other[:20]))
    assert await kept(heard.database_url) == before


async def test_without_a_signature_nothing_is_believed(heard: Heard) -> None:
    before = await kept(heard.database_url)
    bare = {"content-type": "application/json"}
    for body in (heard.webhook.body, b"", b"null", b"[" * 10_000, b"\xff\xfe", b"id=tr_1"):
        for headers in ({}, {"authorization": "Bearer x"}, {"x-signature": "x"}):
            sent = await heard.client.request("POST", heard.webhook.url, data=body, headers={**bare, **headers})
            await heard.is_refused(sent, (body[:20], headers))
    assert await kept(heard.database_url) == before


NONSENSE: list[Any] = [[], None, 7, "text", {}, True, 1e300, [{}], {"id": []}, {"id": None, "object": "event"}]
DEEP = [b"[" * 10_000, b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000]


async def test_signed_nonsense_is_refused_however_deep_it_is(heard: Heard) -> None:
    """Somebody who holds the key sends what is no event: a clear refusal without a traceback, and nothing written."""
    before = await kept(heard.database_url)
    numbers = [b'{"n": NaN}', b'{"n": 1' + b"0" * 5000 + b"}", b"\xff\xfe", b"\xef\xbb\xbf{}", b""]
    for body in (*(json.dumps(one).encode() for one in NONSENSE), *DEEP, *numbers):
        await heard.is_refused(await heard.post_signed(body), body[:30])
    assert await kept(heard.database_url) == before
    genuine = json.loads(heard.webhook.body)
    for name in genuine:
        values: tuple[object, ...] = (None, [], 7, "\x00", "\ud800", "x" * 5000)
        for value in values:
            answer = await heard.post_signed(json.dumps({**genuine, name: value}).encode())
            # What does not matter may be anything: it is an event all the same, and leads to a look at the gateway.
            assert answer.status in {200, 400}, (name, value, answer.text)


async def test_an_old_webhook_that_is_played_again_is_refused(heard: Heard) -> None:
    before = await kept(heard.database_url)
    heard.shop.clock.shift += 4 * 24 * 3600 * SECOND
    await heard.is_refused(await heard.post(), "four days old")
    heard.shop.clock.shift -= 8 * 24 * 3600 * SECOND
    await heard.is_refused(await heard.post(), "four days too early")
    assert await kept(heard.database_url) == before


async def test_a_genuine_webhook_that_is_played_again_changes_nothing(heard: Heard) -> None:
    assert (await heard.post()).json == {"outcome": "new"}
    for _ in range(200):
        if await heard.status() == "paid":
            break
        await asyncio.sleep(0.02)
    once = await kept(heard.database_url)
    answers = await asyncio.gather(*(heard.post() for _ in range(10)))
    assert [answer.json for answer in answers] == [{"outcome": "duplicate"}] * 10
    assert await kept(heard.database_url) == once


_FIELDS = st.dictionaries(
    st.sampled_from(["id", "object", "status", "amount", "currency", "payment_intent", "metadata", "charge", "reason"]),
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2),
    max_size=9,
)


@pytest.mark.parametrize("heard", ["stripe"], indirect=True)
def test_signed_events_with_wild_fields_leave_an_inbox_that_can_be_worked_on(heard: Heard) -> None:
    kinds = st.sampled_from(["payment_intent.succeeded", "charge.refunded", "charge.dispute.created", "refund.updated"])
    genuine = json.loads(heard.webhook.body)

    @settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(kind=kinds, fields=_FIELDS)
    def wild(kind: str, fields: dict[str, Any]) -> None:
        # New fields of the gateway's are never a reason to refuse its news.
        body = {**genuine, "id": f"evt_{next(numbers)}", "type": kind, "context": {"new": [fields]}}
        body["data"] = {"object": {**genuine["data"]["object"], "brand_new": fields, **fields}, "new": None}
        answer = run_apart(lambda: _post_alone(heard, json.dumps(body).encode()))
        assert answer.status in {200, 400}, answer.text
        statuses.add(answer.status)

    numbers, statuses = count(), set[int]()
    wild()
    assert statuses == {200, 400}
    order, explained = run_apart(lambda: _worked_on(heard))
    # Whatever they claimed: what became of the money is what the gateway said when it was asked.
    assert (order["status"], order["refund_status"], order["due"]) == ("paid", "none", order["total"])
    assert [(one["status"], one["disputed"], one["refunds"]) for one in order["payments"]] == [("captured", False, [])]
    booked = [line["what"] for line in explained["timeline"] if line["source"] == "journal"]
    assert len([line for line in booked if line.startswith("Booked capture")]) == 1, booked
    assert [line for line in booked if "refund" in line or "dispute" in line] == []


async def _worked_on(heard: Heard) -> tuple[Any, Any]:
    """The order and its explanation, once recovery has worked on whatever the requests left to it."""
    heard.shop.clock.shift += 3600 * SECOND
    await recovery.drain(heard.shop.app.state.paidonce.running)
    async with heard.shop.client() as buyer, heard.shop.client() as staff:
        assert (await buyer.sign_in()).status == 201
        assert (await staff.sign_in_as_staff()).status == 201
        explained = await staff.get(f"/api/orders/{heard.order_id}/explanation")
        assert explained.status == 200, explained.text
        return (await buyer.get(f"/api/orders/{heard.order_id}")).json, explained.json


async def _post_alone(heard: Heard, body: bytes) -> Answer:
    async with heard.shop.client() as client:
        alone = Heard(heard.shop, client, heard.order_id, heard.webhook, heard.database_url)
        return await alone.post_signed(body)


# ── Certificates ──────────


@dataclass
class Sockets:
    """Every connection and look-up of this process while it is on, but those of our own clients to the shop."""

    is_on: bool = False
    seen: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on or event not in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
            return
        place = arguments[1] if event == "socket.connect" else arguments[:2]
        with self.lock:
            self.seen.append(f"{event} {place}")


SOCKETS = Sockets()
# Hooks can't be taken out again, so there is one for all, and it does nothing unless it is on.
sys.addaudithook(SOCKETS.note)


@contextmanager
def watched(shop_port: int) -> Iterator[list[str]]:
    """What was opened within the block to anybody but the shop itself."""
    SOCKETS.seen.clear()
    SOCKETS.is_on = True
    foreign: list[str] = []
    try:
        yield foreign
    finally:
        SOCKETS.is_on = False
        ours = {f"socket.connect {('127.0.0.1', shop_port)}"}
        foreign += [one for one in SOCKETS.seen if one not in ours and f"('127.0.0.1', {shop_port})" not in one]


@contextmanager
def shop_with_a_real_transport(database_url: str, api_base: str) -> Iterator[str]:
    """A shop whose gateways really open sockets. `api_base` replaces PayPal's address; empty for the real one."""
    clock = ShiftedClock()
    keys = {"PAYPAL_CLIENT_ID": "app", "PAYPAL_CLIENT_SECRET": "its-secret", "PAYPAL_WEBHOOK_ID": "WH-1"}
    environment = {
        **{name: value for name, value in sandbox_environment(SANDBOX_URL).items() if name.startswith("PAYPAL")},
        **keys,
        "PAYPAL_API_BASE": api_base,
        "PAYPAL_JS_URL": "",
        "PAYPAL_ENVIRONMENT": "sandbox",
    }
    environment = {name: value for name, value in environment.items() if value}
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        values = {"PAIDONCE_DATABASE_URL": database_url, "PAIDONCE_SECRET_KEY": SECRET_KEY, "PAIDONCE_WORKER": "0"}
        values["PAIDONCE_PUBLIC_URL"] = url
        transport = AiohttpTransport(clock)
        gateways = configure_all(environment, transport, clock)
        app = create_app(load_settings(values), gateways=gateways, clock=clock, environment=values)
        try:
            with in_thread(app, listener):
                yield url
        finally:
            run_apart(transport.close)


_CERT = "/v1/notifications/certs/CERT-1"
# {base} is the address that the shop really asks, with a listener behind it.
EVIL = [
    f"https://paypal.com.evil{_CERT}",
    f"https://api.sandbox.paypal.com.evil.example{_CERT}",
    f"https://api.sandbox.paypal.com@evil.example{_CERT}",
    f"https://evil.example@api.sandbox.paypal.com{_CERT}",
    f"https://api.sandbox.paypal.com:8443{_CERT}",
    f"http://api.sandbox.paypal.com{_CERT}",
    f"ftp://api.sandbox.paypal.com{_CERT}",
    "file:///etc/passwd",
    f"https://127.0.0.1{_CERT}",
    f"https://localhost{_CERT}",
    f"https://[::1]{_CERT}",
    "http://169.254.169.254/latest/meta-data",
    "https://api.sandbox.paypal.com/v1/notifications/certs/../../../redirect?to=evil",
    f"https://api.sandbox.paypal.com{_CERT}?next=https://evil.example",
    f"https://api.sandbox.paypal.com{_CERT}#evil",
    f"https://api.sandbox.paypal.com/%2e%2e{_CERT}",
    f"https://api.sandbox.paypal.com\\@evil.example{_CERT}",
    f"//api.sandbox.paypal.com{_CERT}",
    f"https://api.paypal.com{_CERT}",
    f"https://xn--pi-6kc.sandbox.paypal.com{_CERT}",
    "{base}/v2/checkout/orders",
    "{base}/v1/notifications/certs/../../v1/oauth2/token",
    "{base}.evil.example" + _CERT,
    "{base}@evil.example" + _CERT,
    f"https://127.0.0.1:1{_CERT}",
]


def _forged(address: str, now: int) -> dict[str, str]:
    moment = datetime.fromtimestamp(now // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "content-type": "application/json",
        "paypal-transmission-id": "071f7d20-1584-11e7-abf0-6b62a8a99ac4",
        "paypal-transmission-time": moment,
        "paypal-transmission-sig": "QUJD",
        "paypal-auth-algo": "SHA256withRSA",
        "paypal-cert-url": address,
    }


@pytest.mark.parametrize("own_base", [True, False], ids=["own base", "PayPal's own addresses"])
async def test_no_socket_is_opened_for_a_certificate_at_a_foreign_address(seeded_url: str, own_base: bool) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readline())
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    now = ShiftedClock().now()
    with shop_with_a_real_transport(seeded_url, base if own_base else "") as url:
        before = await kept(seeded_url)
        async with Client(url) as client:
            with watched(int(url.rsplit(":", 1)[1])) as opened:
                for address in EVIL:
                    sent = _forged(address.replace("{base}", base), now)
                    answer = await client.request("POST", "/webhooks/paypal", data=b"{}", headers=sent)
                    assert answer.is_problem(400, "webhook_refused"), address
            assert (opened, heard) == ([], [])
            if own_base:
                await _see_that_the_watch_is_awake(client, url, base, now)
                assert [line.split()[1] for line in heard] == [_CERT.encode()]
        assert await kept(seeded_url) == before
    server.close()
    await server.wait_closed()


async def _see_that_the_watch_is_awake(client: Client, url: str, base: str, now: int) -> None:
    """The one good address is asked, the redirect in its answer is not followed, and the watch has seen it."""
    with watched(int(url.rsplit(":", 1)[1])) as opened:
        answer = await client.request("POST", "/webhooks/paypal", data=b"{}", headers=_forged(base + _CERT, now))
        assert answer.is_problem(503, "service_unavailable")
    assert opened
    assert all(base.rsplit(":", 1)[1] in one for one in opened), opened
