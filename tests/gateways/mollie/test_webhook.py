"""Mollie's webhooks: a form with one id, signed by nobody, believed by nobody."""

from __future__ import annotations

import pytest

from paidonce.contract.bench import Bench
from paidonce.errors import WebhookRefused
from paidonce.gateways.mollie import webhook


async def test_it_names_the_payment_and_claims_nothing(bench: Bench) -> None:
    event = await bench.gateway.read_webhook({}, b"id=tr_5B8cwPMGnU6qLbRvo7qEZo")
    assert (event.ref, event.signed, event.relevant) == ("tr_5B8cwPMGnU6qLbRvo7qEZo", False, True)
    assert (event.progress, event.refund, event.dispute, event.capture_ref, event.payment_id) == (None,) * 5
    assert event.created_at == bench.now
    assert bench.wire.sent == []


async def test_no_two_deliveries_are_taken_for_repetitions(bench: Bench) -> None:
    told = [await bench.gateway.read_webhook({}, b"id=tr_1") for _ in range(3)]
    assert len({event.id for event in told}) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"id=",
        b"id=tr_",
        b"id=tr_1&id=tr_2",
        b"id=ord_8wmqcHMN4U",
        b"id=tr_1/../refunds",
        b"id=tr_1%0a",
        b"id=tr_\xc3\xa9",
        b"tr_1",
        b'{"id":"tr_1"}',
        b"\xff\xfe",
        b"id=tr_1" + b"&a=b" * 20,
        b"id=tr_" + b"a" * 65,
        b"id=tr_1&" + b"x=" + b"y" * webhook.LARGEST_BODY,
    ],
)
async def test_anything_else_is_refused_and_not_quoted(bench: Bench, body: bytes) -> None:
    with pytest.raises(WebhookRefused) as caught:
        await bench.gateway.read_webhook({}, body)
    assert "tr_" not in str(caught.value)
    assert bench.wire.sent == []
