"""Whatever is typed, sent or nested: a clear refusal or harmless text, never a 5xx, and nothing is written.

The requests are made from the API's own description and the table of routes, so that a new field is attacked as well.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st

from paidonce.errors import InvalidRequest
from paidonce.web import strict
from paidonce.web.routes import page_router
from support.described import Operation, kept, objects, operations
from support.webshop import Answer, Client, WebShop

T = TypeVar("T")

SQL = ("x'; DROP TABLE orders;--", "' OR '1'='1", '1); DELETE FROM payments;--"', "pay_' UNION SELECT 1--")
STRANGE = ("\x00", "a\x00b", "\ud800", "\u202eabc", "\U0001f9fe", "%00", "\\", "{0} :id $1 %s", "\r\nX-Evil: 1")
JSON = {"content-type": "application/json"}


@dataclass
class Target:
    """A shop with one unpaid order, and its buyer and staff, signed in."""

    shop: WebShop
    database_url: str
    buyer: Client
    staff: Client
    samples: dict[str, str]

    @property
    def operations(self) -> list[Operation]:
        return operations(self.shop.app.openapi(), self.samples)

    def path(self, operation: Operation) -> str:
        """The operation's address with real ids in it."""
        return operation.path.format(**self.samples)

    async def send(self, client: Client, operation: Operation, body: Any) -> Answer:
        # Not by the client's own JSON: `json.dumps` writes a lone surrogate as an escape, which is how one arrives.
        return await raw(client, operation.method, self.path(operation), json.dumps(body).encode())

    def some(self, values: Sequence[T]) -> Sequence[T]:
        """All of them on PostgreSQL, which refuses more texts; on SQLite every third."""
        return values if self.database_url.startswith("postgres") else values[::3]

    async def is_well(self) -> None:
        """The goods are still sold: no table is gone, and the sessions live."""
        assert len((await self.buyer.get("/api/products")).json) > 3
        assert [one["id"] for one in (await self.buyer.get("/api/orders")).json][-1] == self.samples["order_id"]
        assert (await self.staff.page("/staff")).status == 200


async def raw(client: Client, method: str, path: str, body: bytes) -> Answer:
    return await client.request(method, path, data=body, headers=JSON)


async def _target(shop: WebShop, database_url: str, buyer: Client, staff: Client) -> Target:
    assert (await buyer.sign_in()).status == 201
    assert (await staff.sign_in_as_staff()).status == 201
    order = await buyer.order()
    payment = await buyer.start(order["id"], "stripe")
    samples = {"order_id": order["id"], "payment_id": payment["id"], "sku": "MUG-01", "gateway": "stripe"}
    samples |= {"name": "money_arrived", "email": "new@example.com", "password": "a-long-password", "reason": "Broken"}
    samples |= {"return_url": f"{shop.url}/back?payment={{payment}}", "reference": "R1"}
    return Target(shop, database_url, buyer, staff, samples)


@pytest.fixture
async def target(quick_shop: WebShop, seeded_url: str) -> AsyncIterator[Target]:
    async with quick_shop.client() as buyer, quick_shop.client() as staff:
        yield await _target(quick_shop, seeded_url, buyer, staff)


@pytest.fixture
async def either(shop: WebShop, database_url: str) -> AsyncIterator[Target]:
    """The same on each database: they differ in what they take for text."""
    async with shop.client() as buyer, shop.client() as staff:
        yield await _target(shop, database_url, buyer, staff)


def is_harmless(answer: Answer, sent: str) -> bool:
    """Refused by a problem document or page, or taken as text; no trace of a database, and no header of the sender."""
    assert answer.status < 500, (sent, answer.text[:300])
    assert "X-Evil" not in answer.headers
    assert not re.search(r"Traceback|sqlite|asyncpg|syntax error|no such table", answer.text), sent
    return True


# ── SQL and strange text ──────────


async def test_sql_and_strange_text_in_every_field_of_the_api(either: Target) -> None:
    before = await kept(either.database_url)
    tried = 0
    for operation in either.operations:
        # Accounts are text through and through, and have a test of their own.
        if operation.path.startswith(("/api/session", "/api/users", "/api/password")):
            continue
        for place in operation.texts:
            for text in either.some(SQL + STRANGE):
                answer = await either.send(either.staff, operation, operation.with_value(place, text))
                assert is_harmless(answer, f"{operation} {place} {text!r}")
                assert answer.status in {401, 403, 404, 409, 422}, (str(operation), place, text, answer.status)
                tried += 1
    assert tried >= 3 * len(either.some(SQL + STRANGE)), "the description names the fields that are attacked"
    # An entry at the desk leaves a note of when to look, whatever is entered.
    after = await kept(either.database_url)
    assert {name for name in before if before[name] != after[name]} <= {"payments"}
    await either.is_well()


async def test_sql_and_strange_text_in_every_address(either: Target) -> None:
    before = await kept(either.database_url)
    addresses = {operation.path for operation in either.operations} | {route.path for route in _pages()}
    named = [address for address in addresses if "{" in address]
    assert len(named) > 15
    for address in named:
        for text in either.some(SQL + STRANGE):
            path = re.sub(r"\{\w+\}", quote(text.encode("utf-8", "surrogatepass"), safe=""), address)
            answer = await either.staff.page(path)
            assert is_harmless(answer, path)
            assert answer.status in {404, 405, 422}, (path, answer.status)
    assert await kept(either.database_url) == before
    await either.is_well()


def _pages() -> list[APIRoute]:
    return [route for route in page_router().routes if isinstance(route, APIRoute)]


QUERIES = ("/sign-in?next={}", "/sign-up?next={}", "/staff/orders?find={}", "/basket?{}", "/?{}={}", "/docs?{}")
QUERIES_OF_AN_ORDER = ("/orders/{order}/return?payment={}", "/orders/{order}/pay?{}", "/orders/{order}?{}")


async def test_sql_and_strange_text_in_every_parameter(either: Target) -> None:
    before = await kept(either.database_url)
    order = either.samples["order_id"]
    for address in QUERIES + tuple(one.replace("{order}", order) for one in QUERIES_OF_AN_ORDER):
        for text in either.some(SQL + STRANGE):
            path = address.replace("{}", quote(text.encode("utf-8", "surrogatepass"), safe=""))
            assert is_harmless(await either.staff.page(path), path)
    assert await kept(either.database_url) == before
    await either.is_well()


# The fields of every form there is; a form without a line here fails the test below.
FORMS = {
    "/basket/add": ("sku", "quantity"),
    "/basket/set": ("sku", "quantity"),
    "/sign-in": ("email", "password", "next"),
    "/sign-up": ("email", "password", "name", "next"),
    "/sign-out": (),
    "/orders": (),
    "/orders/{order_id}/cancel": (),
    "/staff/payments/{payment_id}/refund": ("amount", "reason", "key", "restock", "password"),
    "/staff/payments/{payment_id}/capture": ("amount", "key", "password"),
    "/staff/payments/{payment_id}/void": ("key",),
    "/staff/payments/{payment_id}/actions/{name}": ("seen", "key", "amount:amount", "text:reference"),
    "/staff/stock": ("sku", "adjust"),
}
# They belong to accounts, and need the words of test_sessions.py.
ACCOUNT_FORMS = ("/account",)


def test_every_form_is_attacked() -> None:
    posted = {route.path for route in _pages() if "POST" in (route.methods or ())}
    assert {path for path in posted if not path.startswith(ACCOUNT_FORMS)} == FORMS.keys()


async def test_sql_and_strange_text_in_every_form(either: Target) -> None:
    before = await kept(either.database_url)
    filled = {"sku": "MUG-01", "quantity": "1", "amount": "1.00", "key": "form_" + "0" * 26, "seen": "0", "adjust": "1"}
    for path, fields in FORMS.items():
        for field in fields:
            for text in either.some(SQL[:2] + STRANGE[:3]):
                values = {name: filled.get(name, "") for name in fields} | {field: text}
                await _send_form(either, path.format(**either.samples), values)
    after = await kept(either.database_url)
    # What a form does not need is not read, so the payment is ended after all; nothing else has happened.
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"payments", "history", "operations"}, changed
    await either.is_well()


async def _send_form(target: Target, path: str, values: dict[str, str]) -> None:
    async with target.shop.client() as nobody:
        client = nobody if path.startswith(("/sign", "/basket")) else target.staff
        text = "&".join(f"{name}={quote(one.encode('utf-8', 'surrogatepass'))}" for name, one in values.items())
        kind = {"content-type": "application/x-www-form-urlencoded", "accept": "text/html"}
        assert is_harmless(await client.request("POST", path, data=text, headers=kind), f"{path} {values}")


async def test_sql_and_strange_text_in_names_and_addresses_of_accounts_stays_text(either: Target) -> None:
    async with either.shop.client() as client:
        for number, text in enumerate(either.some((*SQL, *STRANGE))):
            body = {"email": f"person{number}@example.com", "name": text, "password": "a-long-password"}
            answer = await raw(client, "POST", "/api/users", json.dumps(body).encode())
            assert is_harmless(answer, text)
            assert answer.status == 422 or answer.json["name"] == text.strip(), text
            for field in ("email", "password"):
                found = {"email": "buyer@example.com", "password": "buyer-password"} | {field: text}
                signed_in = await raw(client, "POST", "/api/session", json.dumps(found).encode())
                assert is_harmless(signed_in, text)
                assert signed_in.status in {401, 422, 429}, text
    await either.is_well()


HEADERS = [
    *({"cookie": f"paidonce_session={text}; paidonce_basket={text}; paidonce_flash={text}"} for text in (*SQL, "é.é")),
    *({"origin": text} for text in ("http://[", "http://[::1", "é", "null", "\t")),
    *({"idempotency-key": text} for text in (*SQL, "é", "x" * 201, "")),
    *({"accept": text} for text in (*SQL, "é")),
    *({"content-type": text} for text in ("é", ";", "application/json; charset=utf-16")),
    *({"sec-fetch-site": text} for text in ("é", "")),
    {"access-control-request-method": "é", "origin": "http://["},
    {"if-none-match": "é", "range": "bytes=9-1,é", "if-modified-since": "é"},
]


async def test_sql_and_strange_text_in_every_header(either: Target) -> None:
    before = await kept(either.database_url)
    payment = either.samples["payment_id"]
    for headers in either.some(HEADERS):
        for method, path in [
            ("POST", f"/api/payments/{payment}/refunds"),
            ("OPTIONS", "/api/orders"),
            ("GET", "/basket"),
            ("GET", "/assets/paidonce.js"),
            ("POST", "/webhooks/stripe"),
        ]:
            answer = await either.staff.request(method, path, headers=headers)
            assert is_harmless(answer, f"{method} {path} {headers}")
    assert await kept(either.database_url) == before
    await either.is_well()


# ── Numbers ──────────

BAD_NUMBERS = ("-1000001", "1000000000001", "1" + "0" * 400, "1" + "0" * 5000, "1.0", "1e0", "1e400", "-0.5", '"1"')
NO_NUMBERS = ("true", "NaN", "Infinity", "-Infinity", "[1]", "{}", "0x10", "1_000", "+1")


async def test_money_and_quantities_are_whole_and_bounded(target: Target) -> None:
    before = await kept(target.database_url)
    tried = 0
    for operation in target.operations:
        for place in operation.numbers:
            for number in BAD_NUMBERS + NO_NUMBERS:
                # As text in the document, since Python's own JSON would not write most of these.
                body = json.dumps(operation.with_value(place, "@@")).replace('"@@"', number).encode()
                answer = await raw(target.staff, operation.method, target.path(operation), body)
                assert answer.is_problem(422, "invalid_request"), (str(operation), place, number[:20])
                tried += 1
    assert tried >= 5 * len(BAD_NUMBERS + NO_NUMBERS)
    assert await kept(target.database_url) == before


# ── Documents ──────────


def _with_bodies(target: Target) -> Iterator[Operation]:
    found = [operation for operation in target.operations if operation.body is not None and _is_api(operation)]
    assert len(found) >= 10
    yield from found


def _is_api(operation: Operation) -> bool:
    return operation.path.startswith("/api/")


async def test_a_field_that_is_not_known_is_refused_everywhere(target: Target) -> None:
    before = await kept(target.database_url)
    for operation in _with_bodies(target):
        for place in objects(operation.body):
            if place and place[-1] == "params":
                continue  # Its fields are the gateway's, whose desk refuses what it does not know.
            surplus = operation.with_value((*place, "price"), 1)
            answer = await target.send(target.staff, operation, surplus)
            assert answer.is_problem(422, "invalid_request"), (str(operation), place)
            assert "price: this field is not known here" in answer.json["detail"], (str(operation), place)
    assert await kept(target.database_url) == before


async def test_a_parameter_that_is_not_known_is_refused_by_the_whole_api(target: Target) -> None:
    for operation in target.operations:
        if not _is_api(operation):
            continue
        answer = await raw(target.staff, operation.method, f"{target.path(operation)}?status=paid", b"")
        assert answer.is_problem(422, "invalid_request"), str(operation)


async def test_a_key_that_is_there_twice_is_refused_wherever_it_is(target: Target) -> None:
    before = await kept(target.database_url)
    for operation in _with_bodies(target):
        once = json.dumps(operation.body)
        for inner in ('"x": 1, "x": 1', '"x": 1, "\\u0078": 2'):
            twice = once.replace("{", "{" + inner + (", " if once != "{}" else ""), 1).encode()
            answer = await raw(target.staff, operation.method, target.path(operation), twice)
            assert answer.is_problem(422, "invalid_request"), str(operation)
            assert "twice" in answer.json["detail"], str(operation)
    first_wins = b'{"lines": [{"sku": "MUG-01", "quantity": 1, "quantity": 1000}]}'
    assert "twice" in (await raw(target.buyer, "POST", "/api/orders", first_wins)).json["detail"]
    assert await kept(target.database_url) == before


def _deep(levels: int) -> list[bytes]:
    lists, objects_ = b"[" * levels + b"]" * levels, b'{"a":' * levels + b"1" + b"}" * levels
    return [lists, objects_, b'{"lines":' + lists + b"}", b"[" * levels]


async def test_deep_json_is_refused_by_its_depth(target: Target) -> None:
    before = await kept(target.database_url)
    for operation in _with_bodies(target):
        for body in _deep(10_000) + _deep(strict.DEEPEST + 1):
            answer = await raw(target.staff, operation.method, target.path(operation), body)
            assert answer.is_problem(422, "invalid_request"), str(operation)
            assert "nested deeper" in answer.json["detail"], str(operation)
    in_text = json.dumps({"email": "[" * 200, "password": '"\\{' * 50}).encode()
    assert (await raw(target.buyer, "POST", "/api/session", in_text)).is_problem(401, "not_signed_in")
    assert await kept(target.database_url) == before


_TEXTS = st.sampled_from(["", "[", "]", "}{", "[" * 40, '"[{', "\\", '\\"]', "\U0001f4b3"])
_LEAVES = st.none() | st.integers() | _TEXTS
_BODIES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3), max_leaves=20
)


@given(inner=_BODIES, beside=_BODIES, levels=st.lists(st.booleans(), max_size=strict.DEEPEST + 4))
def test_what_is_refused_for_its_depth_is_deeper_and_nothing_else(inner: Any, beside: Any, levels: list[bool]) -> None:
    """The depth is seen without a parser, so that it is compared with what a parser says."""
    value = inner
    for is_list in levels:
        value = [beside, value, "]"] if is_list else {"[": value, "x": beside}
    body = json.dumps(value).encode()
    if _depth(value) <= strict.DEEPEST:
        strict.check_json(body)
        return
    with pytest.raises(InvalidRequest, match="nested deeper"):
        strict.check_json(body)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@pytest.mark.parametrize("text", ["\\ud800", "\\uDFFF", "a\\uD83D", "\\udc00\\ud800", "\\ud83d\\ud83d\\ude00"])
def test_half_a_character_is_no_text_however_it_is_escaped(text: str) -> None:
    for body in (f'"{text}"', f'{{"{text}": 1}}', f'[[{{"a": "{text}"}}]]'):
        with pytest.raises(InvalidRequest, match="not readable"):
            strict.check_json(body.encode())
    strict.check_json(b'["\\ud83d\\ude00", "\\\\ud800", "\\uE000"]')


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 30_000, b'"' * 60_001, b"[" + b'"\\' * 30_000, b"{" + b" " * 60_000])
async def test_a_body_made_to_take_long_is_refused(target: Target, body: bytes) -> None:
    """Bodies that would keep a careless reader busy for minutes; this one reads each byte a few times."""
    answer = await asyncio.wait_for(raw(target.staff, "POST", "/api/orders", body), 30)
    assert answer.is_problem(422, "invalid_request")


# ── What comes before the body ──────────


async def _raw_request(shop: WebShop, head: bytes) -> tuple[int, bytes]:
    address = urlsplit(shop.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(head)
        answer = await reader.read(65_536)
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answer.split(b" ", 2)[1]), answer


HOST = b"Host: 127.0.0.1\r\n"
CROOKED = {
    "a header without end": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: " + b"a" * 1_000_000),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n"),
    "NUL in a header": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n"),
    "a length that is none": (400, b"POST /sign-in HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n"),
    "two lengths": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
    "very many headers": (431, b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 200 + b"\r\n"),
    "a very long header": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X-Long: " + b"a" * 40_000 + b"\r\n\r\n"),
    "a very long path": (431, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a very long query": (431, b"GET /?" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
}


@pytest.mark.parametrize("attack", CROOKED)
async def test_a_crooked_head_is_refused_before_anything_is_read(quick_shop: WebShop, attack: str) -> None:
    status, head = CROOKED[attack]
    answered, _ = await asyncio.wait_for(_raw_request(quick_shop, head), 30)
    assert answered == status
    async with quick_shop.client() as client:
        assert (await client.get("/healthz")).status == 200


async def test_a_length_and_chunks_together_smuggle_no_second_request(quick_shop: WebShop) -> None:
    hidden = b"0\r\n\r\nGET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    head = b"POST /api/session HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    head += b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(hidden)
    status, answer = await asyncio.wait_for(_raw_request(quick_shop, head + hidden), 30)
    assert status == 400
    assert b"connection: close" in answer.lower()
    assert b'{"status":"ok"}' not in answer
