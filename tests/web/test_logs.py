"""The log tells what happened and never a secret, whoever writes the line."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from paidonce import scrubbing
from paidonce.gateways.registry import secrets_of
from paidonce.logs import configure_logging
from paidonce.scrubbing import HIDDEN, learn, scrub, scrub_text
from support.webshop import WebShop

SECRETS = [
    "sk_test_canary0001",
    "rk_live_canary0002",
    "whsec_canary0003",
    "pi_canary_secret_canary0004",
    "seti_canary_secret_canary0005",
    "Bearer canary0006abcdef",
    "4242424242424242",
    "4242 4242 4242 4242",
    "4000-0025-0000-3155",
    "password=canary0007",
    "'client_secret': 'canary0008'",
    "https://shop.example/return?payment=pay_1&payment_intent_client_secret=canary0009",
    "https://user:canary0010@shop.example/x",
    "{'password': ['canary0011']}",
    "X-Api-Key: canary0012",
]
KEPT = [
    "pay_0123456789abcdefghjkmnpqrs",
    "ord_42",
    "1234567890123",
    "2026-11-23T10:00:00",
    "1763900000000018",
    "req_1f2e",
    "€19.99",
    "PAIDONCE_SECRET_KEY: is missing; make one",
    "test_a_session_of_another_buyer_is_refused_",
]

# What every process of a shop does at its start (`assembly.learn_secrets`).
learn(shapes=secrets_of({})[1])


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the JSON log writes; the logging of before is put back."""
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    stream = io.StringIO()
    configure_logging(log_format="json", level="debug", stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_hidden_by_their_look_wherever_they_stand(written: io.StringIO, secret: str) -> None:
    structlog.get_logger("a").info(f"it said {secret}!", detail={"deep": [secret, {"x": secret}]}, other=secret)
    logging.getLogger("library").warning("it said %s", secret)
    try:
        raise ValueError(f"bad {secret}")
    except ValueError:
        structlog.get_logger("a").exception("failed")
        logging.getLogger("library").exception("failed")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert len(lines) == 4
    assert HIDDEN in written.getvalue()
    assert "canary" not in written.getvalue().replace("pi_canary", "").replace("seti_canary", "")
    assert not [digits for digits in ("42424242", "4242 4242", "0025-0000") if digits in written.getvalue()]


@pytest.mark.parametrize("text", KEPT)
def test_what_an_operator_needs_stays(text: str) -> None:
    assert scrub_text(text) == text


def test_secrets_are_hidden_by_the_names_of_their_keys(written: io.StringIO) -> None:
    names = ["authorization", "Cookie", "set-cookie", "client_secret", "password", "session_token", "card_number"]
    structlog.get_logger("a").info("x", **dict.fromkeys(names, "canary"), order_id="ord_1", status=200)
    line = json.loads(written.getvalue())
    assert "canary" not in written.getvalue()
    assert (line["order_id"], line["status"], line["level"]) == ("ord_1", 200, "info")


def test_a_card_as_a_number_is_hidden_too(written: io.StringIO) -> None:
    structlog.get_logger("a").info("x", number=4242424242424242, microseconds=1763900000000001)
    line = json.loads(written.getvalue())
    assert (line["number"], line["microseconds"]) == (HIDDEN, 1763900000000001)


@pytest.mark.parametrize("text", ['{"cvc": 9371, "x": 1}', "{'cvv': 9371}", r'{"body": "{\"token\": 9371}"}'])
def test_a_number_under_the_name_of_a_secret_is_hidden_in_any_text(text: str) -> None:
    hidden = scrub_text(text)
    assert "9371" not in hidden
    assert HIDDEN in hidden


async def _request_lines(written: io.StringIO, *, at_least: int) -> list[dict[str, object]]:
    """The request log once the last line is there: it is written after the answer went out."""
    for _ in range(500):
        lines = [json.loads(line) for line in written.getvalue().splitlines()]
        requests = [line for line in lines if line["event"] == "request"]
        if len(requests) >= at_least:
            break
        await asyncio.sleep(0.01)
    return requests


async def test_a_request_is_one_line_without_its_query(quick_shop: WebShop, written: io.StringIO) -> None:
    async with quick_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        started = await client.start(order["id"], "stripe")
        secret = started["client"]["client_secret"]
        answer = await client.page(
            f"/orders/{order['id']}/return?payment={started['id']}&payment_intent_client_secret={secret}"
        )
        assert answer.status == 303
    requests = await _request_lines(written, at_least=4)
    last = requests[-1]
    assert (last["method"], last["path"], last["status"]) == ("GET", f"/orders/{order['id']}/return", 303)
    assert last["request_id"] == answer.headers["X-Request-Id"]
    assert isinstance(last["ms"], float)
    assert len(requests) == 4, "one line each, and none by the server itself"
    assert secret not in written.getvalue()
    assert "buyer-password" not in written.getvalue()


# ── Secrets of every known look, anywhere ──────────

ALNUM = string.ascii_letters + string.digits
URL_SAFE = ALNUM + "-_"


def _of(alphabet: str, least: int, most: int | None = None) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=least, max_size=most or least)


def _luhn(body: str) -> str:
    digits = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(body))]
    return body + str(-sum(digit - 9 if digit > 9 else digit for digit in digits) % 10)


@st.composite
def _cards(draw: st.DrawFn) -> tuple[str, str]:
    number = _luhn(draw(st.sampled_from("3456")) + draw(_of(string.digits, 12, 17)))
    mark = draw(st.sampled_from(["", " ", "-", "+", "%20"]))
    cuts = draw(st.sampled_from([(4, 8, 12), (4, 10), (6,), ()]))
    edges = [0, *cuts, len(number)]
    return mark.join(number[a:b] for a, b in pairwise(edges)), number


@st.composite
def _named(draw: st.DrawFn) -> tuple[str, str]:
    """A password or a token behind its name, as Python, JSON, JSON inside JSON, forms and headers write it."""
    name = draw(st.sampled_from(["password", "db_password", "access_token", "api_key", "Cookie", "PAYMENT_SIGNATURE"]))
    free = draw(_of(string.ascii_letters + string.digits + " äß€!#$%()*,-./:;<=>?@[]^_{|}~\"'\\\\", 12, 40)) + "Qz"
    plain = draw(_of(ALNUM + "!$*-._~", 12, 40))
    written = draw(st.sampled_from(["json", "python", "pair", "nested", "form", "assigned"]))
    match written:
        case "json":
            return json.dumps({name: free, "x": 1}), json.dumps(free)[1:-1]
        case "python":
            return repr({name: free, "x": 1}), repr(free)[1:-1]
        case "pair":
            return repr([(name, free), ("x", "1")]), repr(free)[1:-1]
        case "nested":
            return json.dumps({"body": json.dumps({name: free})}), json.dumps(json.dumps(free))[3:-3]
        case "form":
            return f"a=1&{name}={plain}&b=2", plain
        case _:
            return f"{name} = {plain}", plain


def _whole(made: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, str]]:
    return made.map(lambda text: (text, text))


def _joined(*parts: str | st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*(st.just(part) if isinstance(part, str) else part for part in parts)).map("".join)


SESSION = st.builds(lambda head, tail: f"aB{head}{tail}"[:43], _of(URL_SAFE, 20), _of(URL_SAFE, 25))
SHAPES: dict[str, st.SearchStrategy[tuple[str, str]]] = {
    "stripe key": _whole(_joined(st.sampled_from(["sk_", "rk_"]), st.sampled_from(["test_", "live_"]), _of(ALNUM, 16))),
    "client secret": _whole(
        _joined(st.sampled_from(["pi_", "seti_", "cs_test_", "x_pi_"]), _of(ALNUM, 24), "_secret_", _of(ALNUM, 25))
    ),
    "signing secret": _whole(_joined("whsec_", _of(ALNUM + "+/=", 20, 60))),
    "paypal secret": _whole(_joined(st.sampled_from(["A", "E"]), _of(URL_SAFE, 79))),
    "paypal token": _whole(_joined("A21AA", _of(URL_SAFE, 60, 92))),
    "key of one word": _whole(_joined(st.sampled_from(["test_", "live_", "access_"]), _of(ALNUM, 30))),
    "jwt": _whole(_joined("eyJ", _of(URL_SAFE, 20), ".eyJ", _of(URL_SAFE, 20, 60), ".", _of(URL_SAFE, 43))),
    "session token": _whole(SESSION),
    "argon2 hash": _whole(
        _joined("$argon2id$v=19$m=65536,t=3,p=4$", _of(ALNUM + "+/", 22), "$", _of(ALNUM + "+/", 43))
    ),
    "bearer": _of(ALNUM + "-._~+/", 12, 60).map(lambda text: (f"Bearer {text}", text)),
    "basic": _of(ALNUM, 12, 40).map(
        lambda text: (f"basic {base64.b64encode(text.encode()).decode()}", base64.b64encode(text.encode()).decode())
    ),
    "database url": _of(ALNUM + "-._~", 12, 30).map(lambda text: (f"postgresql://shop:{text}@db.example/shop", text)),
    "query": _of(ALNUM + "-._~", 12, 30).map(lambda text: (f"https://erp.example/in?key={text}", text)),
    "private key": _of(ALNUM + "+/=\n", 40, 80).map(lambda text: (f"-----BEGIN RSA PRIVATE KEY-----\n{text}", text)),
    "card": _cards(),
    "named": _named(),
}
# A secret has an end on both sides; glued to other letters it would be another word.
AROUND = st.builds(
    lambda text, end: (text + end, end + text), st.text(max_size=8), st.sampled_from('\x00\u2028 \n\t,;"()<>|')
)
Write = Callable[[str], dict[str, object]]
PLACES: list[Write] = [
    lambda text: {"event": text},
    lambda text: {"event": "x", "detail": text},
    lambda text: {"event": "x", text: 1},
    lambda text: {"event": "x", "deep": {"list": [1, {text: (text, {"set": {text}})}]}},
    lambda text: {"event": "x", "error": ValueError(text)},
    lambda text: {"event": "x", "exception": f"Traceback (most recent call last):\nValueError: {text}\n"},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_of_any_known_look_is_hidden_in_any_place(shape: str) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(SHAPES[shape], AROUND, AROUND, st.sampled_from(PLACES))
    def hidden(made: tuple[str, str], before: tuple[str, str], after: tuple[str, str], write: Write) -> None:
        text, secret = made
        told = scrub(None, "info", write(f"{before[0]}{text}{after[1]}"))
        shown = repr(told)
        if shape == "card":
            shown = shown.replace(" ", "").replace("-", "").replace("+", "").replace("%20", "")
        pieces = {secret[place : place + 10] for place in range(len(secret) - 9)}
        assert not [piece for piece in pieces if piece in shown or repr(piece)[1:-1] in shown]

    hidden()


def test_a_secret_that_was_learnt_is_hidden_whatever_it_looks_like(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is learnt here is forgotten afterwards.
    monkeypatch.setattr(scrubbing, "_known", scrubbing._Known())

    @given(st.text(min_size=8, max_size=40).filter(lambda text: text.strip() == text and len(set(text)) > 4))
    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    def hidden(secret: str) -> None:
        learn(values=[secret])
        for text in (secret, f"before {secret} after", repr(secret), repr({"x": [secret]})):
            assert secret not in scrub_text(text)
            assert repr(secret)[1:-1] not in scrub_text(text)

    hidden()


# What makes a careless pattern look at the same characters again and again, and how often it is repeated.
REPEATED = {"a.": 90_000, "a-": 90_000, "eyJ-": 50_000, "pi_1_secret": 20_000, "password": 25_000, '"': 150_000}
GROUPS = {"4 ": 10_000, "4%20": 10_000, "1": 40_000}
_SCRUB = """
import sys
from paidonce.gateways.registry import secrets_of
from paidonce.scrubbing import learn, scrub_text
learn(values=["a-secret-known-by-heart"], shapes=secrets_of({})[1])
for text in sys.stdin.read().splitlines():
    scrub_text(text)
"""


def test_a_long_text_can_not_keep_the_scrubber_busy() -> None:
    """Whoever asks in proportion to the square of the length needs minutes here, and is not waited for."""
    texts = "\n".join(unit * times for unit, times in (REPEATED | GROUPS).items())
    try:
        ran = subprocess.run(
            [sys.executable, "-c", _SCRUB], input=texts.encode(), capture_output=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.fail("the scrubber has not ended: one of its patterns looks at a long text over and over")
    assert (ran.returncode, ran.stderr) == (0, b"")
