"""Every parser of what others send, with genuine inputs: those of the gateways' twins, browsers and clients.

The gateways are found as the shop finds them, so a new one is fuzzed as well, as soon as it has a module `contract`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import HTTPConnection, Request
from yarl import URL

from paidonce.app import create_app
from paidonce.config import host_name, load_settings
from paidonce.contract.bench import Bench, Case, VirtualClock
from paidonce.errors import GatewayError, InvalidRequest, OutcomeUnknown, WebhookError, WebhookRefused
from paidonce.gateways.base import (
    LONGEST_WORD,
    Account,
    Gateway,
    HttpRequest,
    HttpResponse,
    Opened,
    RefundSnapshot,
    Snapshot,
    Transport,
)
from paidonce.gateways.registry import providers
from paidonce.money import iso_exponent
from paidonce.web import basket, forms, models, origins, problems, strict, views
from support.described import sample
from support.fuzzing import HEAD, PART, Taken, Target

T = TypeVar("T")

ORIGIN = "https://shop.example"
FRONT_END = "https://front.example"
_ENVIRONMENT = {
    "PAIDONCE_SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz",
    "PAIDONCE_PUBLIC_URL": ORIGIN,
    "PAIDONCE_ALLOWED_ORIGINS": FRONT_END,
}
_SETTINGS = load_settings(_ENVIRONMENT)


def targets() -> list[Target]:
    """All of them. Making them asks the twins once for everything that gateways say, and ends the process's log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    cases = [Case(provider) for provider in providers()]
    twinned = [case for case in cases if "twin" not in case.missing]
    found = [target for case in twinned for target in asyncio.run(_of_gateway(case))]
    return [*found, *_of_shop()]


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing but what answers at once."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("it waited for something else than its transport and its clock")


# ── Gateways ──────────


_LONGEST_ERROR = 2000


@dataclass
class Tape:
    """`base.Transport` that gives answers one after the other, whatever is asked."""

    answers: list[HttpResponse]

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """The next answer. Raises `OutcomeUnknown` at the end."""
        if not self.answers:
            raise OutcomeUnknown("the connection failed before the answer was complete")
        return self.answers.pop(0)


@dataclass
class Recorder:
    """`base.Transport` that keeps what was answered."""

    inner: Transport
    answers: list[HttpResponse]

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """Send it on."""
        answer = await self.inner.send(request, deadline_seconds=deadline_seconds)
        self.answers.append(answer)
        return answer


Call = Callable[[Gateway], Awaitable[object]]


async def _of_gateway(case: Case) -> list[Target]:
    bench = Bench(case)
    calls = [*await _calls_of_a_payment(bench), *await _calls_of_its_ends(bench)]
    webhooks = bench.webhooks()
    answers = [await _answers_target(bench, name, call) for name, call in calls]
    # A call that needs no answer has nothing to misread.
    return [*(one for one in answers if one.samples != (b"",)), *await _webhook_targets(bench, webhooks)]


async def _calls_of_a_payment(bench: Bench) -> list[tuple[str, Call]]:
    request = bench.request(1)
    _, paid = await bench.paid(1)
    ref, capture = paid.ref, paid.capture_ref or ""
    await bench.refund(paid, bench.amount, 1)
    again = await bench.open(2)
    await bench.confirm(again)
    _, full = await bench.paid(3)
    disputed, _ = await bench.paid(5)
    if bench.has("dispute"):
        await bench.hooks.open_dispute(bench, disputed, bench.amount)
    return [
        ("fetch a disputed one", lambda one: one.fetch(disputed.snapshot.ref, details=True)),
        ("create", lambda one: one.create(request)),
        ("fetch", lambda one: one.fetch(ref)),
        ("fetch with details", lambda one: one.fetch(ref, details=True)),
        ("reopen", lambda one: one.reopen(again.snapshot.ref)),
        ("capture", lambda one: one.capture(again.snapshot.ref, idempotency_key="c-2", amount=bench.amount)),
        (
            "refund",
            lambda one: one.refund(
                full.ref, full.capture_ref or capture, idempotency_key="r-3", amount=bench.amount, refund_id="ref_3"
            ),
        ),
        ("account", lambda one: one.account()),
    ]


async def _calls_of_its_ends(bench: Bench) -> list[tuple[str, Call]]:
    unpaid = await bench.open(4)
    if bench.has("decline"):
        await bench.decline(unpaid)
    ref = unpaid.snapshot.ref
    return [("fetch a declined one", lambda one: one.fetch(ref)), ("void", lambda one: one.void(ref))]


async def _answers_target(bench: Bench, name: str, call: Call) -> Target:
    """What the gateway answers to one call of ours. Only `GatewayError` may come of it, or a sane value."""
    recorder = Recorder(bench.wire, [])
    gateway = bench.case.provider.configure(bench.case.environment, recorder, bench.clock)
    assert gateway is not None
    await call(gateway)
    sample = PART.join(_written(answer) for answer in recorder.answers)

    def feed(data: bytes) -> bool:
        tape = Tape([_read_answer(part) for part in data.split(PART)])
        fresh = bench.case.provider.configure(bench.case.environment, tape, VirtualClock())
        assert fresh is not None
        try:
            found = at_once(_awaiting(call(fresh)))
        except GatewayError as error:
            if len(str(error)) > _LONGEST_ERROR:
                raise Taken("an error that quotes a whole answer to operators") from error
            return False
        _check_sane(found)
        return True

    return Target(f"{bench.case.name}: answers to {name}", (sample,), feed)


async def _awaiting(work: Awaitable[T]) -> T:
    return await work


def _check_sane(found: object) -> None:
    """What the core takes from a gateway can be written down: short texts that every database takes."""
    if isinstance(found, Opened):
        # The browser's values are never stored.
        found = found.snapshot
    for text in _texts(asdict(found) if isinstance(found, Snapshot | RefundSnapshot | Account) else None):
        if len(text) > LONGEST_WORD * 4 or not text.isprintable():
            raise Taken(f"a text that no database takes, or nobody can read: {text[:40]!r}")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for one in inner:
        yield from _texts(one)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _written(answer: HttpResponse) -> bytes:
    head = [str(answer.status), *(f"{name}: {value}" for name, value in answer.headers.items())]
    return "\n".join(head).encode("utf-8") + HEAD + answer.body


def _read_answer(data: bytes) -> HttpResponse:
    head, _, body = data.partition(HEAD)
    first, *lines = head.decode("latin-1").split("\n")
    status = int(first) if re.fullmatch("[1-5][0-9][0-9]", first) else 200
    return HttpResponse(status, _headers(lines), body)


def _headers(lines: Sequence[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _webhook_targets(bench: Bench, webhooks: Sequence[HttpRequest]) -> list[Target]:
    if bench.hooks.webhooks == "none" or not webhooks:
        return []
    genuine = tuple(_as_input(one.headers, one.body) for one in webhooks)
    bodies = {one.body for one in webhooks}
    gateway = bench.gateway
    # Its certificate, where there is one, is fetched once and then known.
    for one in webhooks:
        await bench.hear(one)
    signed = bench.hooks.webhooks == "signed"

    def feed(data: bytes) -> bool:
        head, _, body = data.partition(HEAD)
        headers = _headers(head.decode("latin-1").split("\n"))
        try:
            event = at_once(gateway.read_webhook(headers, body))
        except WebhookError:
            return False
        if signed and body not in bodies:
            raise Taken("a body that nobody signed")
        if not signed and (event.signed or event.progress is not None or event.payment_id is not None):
            raise Taken("an unsigned webhook that claims something")
        return True

    found = [Target(f"{bench.case.name}: webhooks", genuine, feed, weight=2)]
    return [*found, _signed_target(bench, webhooks)] if signed else found


def _signed_target(bench: Bench, webhooks: Sequence[HttpRequest]) -> Target:
    """Whatever somebody says who may sign: what is behind the signature."""
    like = webhooks[0]

    def feed(data: bytes) -> bool:
        request = bench.hooks.sign(bench, like, data)
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            event = at_once(bench.gateway.read_webhook(headers, request.body))
        except WebhookRefused:
            return False
        for text in (event.id, event.type, event.ref, event.capture_ref, event.payment_id):
            if text is not None and not (text.isprintable() and len(text) <= 255 and _is_unicode(text)):
                raise Taken(f"a text that does not belong into the history: {text[:40]!r}")
        return True

    return Target(f"{bench.case.name}: signed bodies", tuple({one.body for one in webhooks}), feed, weight=2)


def _as_input(headers: Mapping[str, str], body: bytes) -> bytes:
    return "\n".join(f"{name}: {value}" for name, value in headers.items()).encode() + HEAD + body


# ── The shop ──────────


def _of_shop() -> list[Target]:
    app = create_app(_SETTINGS, gateways={}, environment=_ENVIRONMENT)
    shop = app.state.paidonce
    filled = {"MUG-01": 2, "TEA-01": 1}
    cookies = [shop.sign("basket", filled), shop.sign("basket", {})]

    def read_basket(data: bytes) -> bool:
        scope = {"type": "http", "app": app, "headers": [(b"cookie", b"paidonce_basket=" + data)]}
        found = basket.read(HTTPConnection(scope))
        if found not in ({}, filled):
            raise Taken(f"a basket that the shop did not sign: {found}")
        return bool(found)

    def unsign(data: bytes) -> bool:
        text = data.decode("utf-8", "surrogateescape")
        found = shop.unsign("basket", text)
        if found is not None and text not in cookies:
            raise Taken("a text that the shop did not sign")
        return found is not None

    signed = tuple(cookie.encode() for cookie in cookies)
    return [
        Target("cookies: the basket", signed[:1], read_basket, weight=6),
        Target("cookies: signed texts", signed, unsign, weight=6),
        Target("addresses to come back to", _RETURN_URLS, _read_return_url, weight=6),
        Target("addresses within the shop", _LOCAL, _read_local, weight=6),
        Target("names in the header Host", _HOSTS, _read_host, weight=6),
        Target("amounts as people write them", _AMOUNTS, _read_amount, weight=6),
        Target("forms", _FORMS, _read_form, weight=6),
        *(Target(f"the API: {model.__name__}", _bodies(model), _reader(model), weight=2) for model in _models()),
    ]


_RETURN_URLS = tuple(
    url.encode()
    for url in (
        f"{ORIGIN}/orders/ord_1/return?payment={{payment}}",
        f"{FRONT_END}/back?shop=1&payment={{payment}}",
        f"{ORIGIN}/%2f%2fevil?next=https%3A%2F%2Fevil.example&payment={{payment}}",
    )
)


def _read_return_url(data: bytes) -> bool:
    url = data.decode("utf-8", "surrogateescape")
    try:
        origins.checked_return_url(_SETTINGS, url)
    except InvalidRequest:
        return False
    read = URL(url, encoded=True)
    if f"{read.scheme}://{read.raw_authority}" not in {ORIGIN, FRONT_END} or "@" in urlsplit(url).netloc:
        raise Taken(f"an address elsewhere: {url!r}")
    return True


_LOCAL = (b"/orders/ord_1/pay", b"/orders/ord_1/return?payment=pay_1", b"/", b"//evil.example", b"/\\evil.example")


def _read_local(data: bytes) -> bool:
    target = data.decode("utf-8", "replace")
    if not views.is_local(target):
        return False
    # As browsers do: a backslash is a slash, and tabs and line ends are left out.
    seen = target.replace("\\", "/").translate(dict.fromkeys(map(ord, "\t\r\n"))).strip("".join(map(chr, range(33))))
    if not seen.startswith("/") or seen.startswith("//"):
        raise Taken(f"an address elsewhere: {target!r}")
    return True


_HOSTS = (b"shop.example", b"shop.example:8000", b"[::1]:8000", b"127.0.0.1", b"shop.example@evil.example")


def _read_host(data: bytes) -> bool:
    text = data.decode("latin-1")
    name = host_name(text)
    if name and not (name.isascii() and name.isprintable() and text.lower().lstrip("[").startswith(name)):
        raise Taken(f"a name that is not there: {name!r}")
    return bool(name)


_AMOUNTS = (b"19.99 EUR", b"1200 JPY", b"0.01 EUR", b"1.234 KWD", b"999999999.99 EUR", b"7 XXX", b" 5.00  EUR")


def _read_amount(data: bytes) -> bool:
    text, _, currency = data.decode("utf-8", "replace").rpartition(" ")
    try:
        minor = forms.read_amount(text, currency)
    except InvalidRequest:
        return False
    if minor is None:
        return False
    if minor < 1 or Decimal(text.strip()) != Decimal(minor).scaleb(-iso_exponent(currency)):
        raise Taken(f"{text!r} was read as {minor} minor units of {currency}")
    return True


_FORMS = (
    b"sku=MUG-01&quantity=2",
    b"email=buyer%40example.com&password=buyer-password&next=%2Forders",
    b"amount=19.99&reason=It+broke&key=form_00000000000000000000000000&restock=1",
    b"amount%3Aamount=12&text%3Areference=R%C3%BCck&seen=3",
)


def _read_form(data: bytes) -> bool:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    kind = [(b"content-type", b"application/x-www-form-urlencoded")]
    try:
        fields = at_once(forms.read_form(Request({"type": "http", "method": "POST", "headers": kind}, receive)))
    except InvalidRequest:
        return False
    for text in fields.values():
        # A field that can't be written would be a 5xx later.
        if not _is_unicode(text):
            raise Taken(f"a text that is none: {text[:40]!r}")
    return True


# What the shop's own clients send; of other models a body is made from their description.
_BODIES: Mapping[str, Sequence[Any]] = {
    "NewOrder": [{"lines": [{"sku": "MUG-01", "quantity": 2}, {"sku": "TEA-01", "quantity": 1}]}],
    "NewPayment": [{"gateway": "one"}, {"gateway": "one", "return_url": _RETURN_URLS[0].decode()}],
    "StockAdjustment": [{"adjust": -3}],
    "NewRefund": [{"amount": 1999, "reason": "It broke", "restock": True}, {}],
    "StaffEntry": [{"seen": 3, "params": {"amount": 1999, "reference": "R 12"}}],
}


def _models() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = list(models._In.__subclasses__())
    return [model for model in found if model.__module__ == models.__name__]


def _bodies(model: type[BaseModel]) -> tuple[bytes, ...]:
    return tuple(json.dumps(body).encode() for body in _BODIES.get(model.__name__) or [_described(model)])


def _described(model: type[BaseModel]) -> Any:
    schema = model.model_json_schema()
    document = {"components": {"schemas": schema.get("$defs", {})}}
    return sample(document, schema, defaultdict(lambda: "a-long-password"), "")


def _reader(model: type[BaseModel]) -> Callable[[bytes], bool]:
    def feed(data: bytes) -> bool:
        """As a request passes: the strict check, the framework's JSON, the model, and the refusal's own document."""
        try:
            strict.check_json(data)
            value = json.loads(data) if data else None
            found = model.model_validate(value)
        except InvalidRequest as problem:
            _answered(problem)
            return False
        except ValidationError as error:
            entries = [{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors(include_url=False)]
            _answered(RequestValidationError(entries))
            return False
        if not _is_unicode(str(found.model_dump())):
            raise Taken("a text that no database takes")
        return True

    return feed


def _answered(error: Exception) -> None:
    document = problems.document(problems.to_problem(error))
    assert document["status"] == 422
    assert len(json.dumps(document, ensure_ascii=False).encode("utf-8")) < 4000
