"""The log tells what happened and never a secret, whoever writes the line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from paidonce.logs import HIDDEN, configure_logging, scrub_text
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
]
KEPT = ["pay_0123456789abcdefghjkmnpqrs", "ord_42", "1234567890123", "2026-11-23T10:00:00", "req_1f2e", "€19.99"]


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
