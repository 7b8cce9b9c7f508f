"""Webhooks that are not signed, and gateways without any: nothing of them is believed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from paidonce.contract.bench import Bench
from paidonce.contract.bodies import BODIES
from paidonce.contract.expect import equal, none_of, raises, some
from paidonce.contract.marks import needs
from paidonce.errors import WebhookRefused
from paidonce.gateways.base import HttpRequest, Opened, WebhookEvent

pytestmark = pytest.mark.asyncio


async def step(bench: Bench, opened: Opened, what: str) -> list[WebhookEvent]:
    """The events that the twin tells after `what`; there must be one that names the object."""
    events = [await bench.hear(webhook) for webhook in bench.webhooks()]
    named = [event for event in events if event.ref == opened.snapshot.ref]
    assert named, f"after {what} no webhook names {opened.snapshot.ref}; there are {len(events)} webhooks."
    return events


async def genuine(bench: Bench) -> HttpRequest:
    """A webhook of a payment that was captured."""
    await bench.paid()
    webhooks = bench.webhooks()
    some("webhook of a payment that was captured", webhooks)
    return webhooks[-1]


@needs("unsigned webhooks", "twin")
async def test_an_unsigned_webhook_names_an_object_and_claims_nothing(bench: Bench) -> None:
    """Every news is told by a webhook that names the object and claims nothing, since anybody could have sent it."""
    opened, paid = await bench.paid()
    events = await step(bench, opened, "a capture")
    await bench.refunded(opened, paid, replace(bench.amount, minor=2))
    events += await step(bench, opened, "a refund")
    if bench.has("dashboard_refund"):
        await bench.hooks.dashboard_refund(bench, opened, replace(bench.amount, minor=3))
        events += await step(bench, opened, "a refund at the dashboard")
    if bench.has("dispute"):
        await bench.hooks.open_dispute(bench, opened, replace(bench.amount, minor=5))
        events += await step(bench, opened, "a dispute")
    equal("what `take_webhooks` gives afterwards", bench.webhooks(), [])
    for event in events:
        told = (event.gateway, event.relevant, event.signed)
        equal("(gateway, relevant, signed)", told, (bench.gateway.name, True, False))
        claims = (event.progress, event.refund, event.dispute, event.capture_ref, event.payment_id)
        equal("(progress, refund, dispute, capture_ref, payment_id)", claims, (None, None, None, None, None))
        equal("the ref", event.ref, opened.snapshot.ref)
        equal("`created_at`, as microseconds from now", event.created_at - bench.now, 0)


@needs("unsigned webhooks", "twin")
async def test_no_two_deliveries_are_taken_for_repetitions(bench: Bench) -> None:
    """Each delivery gets an id of its own: the same bytes may be other news, which a known id would hide."""
    webhook = await genuine(bench)
    ids = [(await bench.hear(webhook)).id for _ in range(5)]
    await bench.clock.sleep(1)
    later = bench.restarted()
    ids += [(await later.hear(webhook)).id for _ in range(5)]
    equal("the number of different ids", len(set(ids)), len(ids))
    none_of("odd id", [identifier for identifier in ids if not re.fullmatch(r"[!-~]{1,255}", identifier)])


@needs("unsigned webhooks", "twin")
async def test_reading_an_unsigned_webhook_asks_nobody_and_changes_nothing(bench: Bench) -> None:
    """`read_webhook` makes no call, whoever sends whatever: the core looks up what it knows, and nothing else."""
    opened, _ = await bench.paid()
    (webhook, *_) = bench.webhooks()
    before = await bench.seen(opened)
    bench.wire.sent.clear()
    for _ in range(3):
        await bench.hear(webhook)
        await raises(WebhookRefused, "`read_webhook` of nothing", bench.hear(replace(webhook, body=b"")))
    equal("what was sent", bench.wire.sent, [])
    equal("the object afterwards", await bench.seen(opened), before)


@needs("unsigned webhooks", "twin")
@pytest.mark.parametrize("kind", BODIES)
async def test_what_is_no_webhook_of_this_gateway_is_refused(bench: Bench, kind: str) -> None:
    """Whatever is no webhook of this gateway is WebhookRefused in a short message, and no other error."""
    webhook = replace(await genuine(bench), body=BODIES[kind])
    caught = await raises(WebhookRefused, f"`read_webhook` of a body ({kind})", bench.hear(webhook))
    assert len(str(caught)) < 300, f"the message has {len(str(caught))} characters; it quotes the body."


@needs("unsigned webhooks", "twin")
async def test_a_body_that_is_nearly_genuine_is_refused_or_names_something_plain(bench: Bench) -> None:
    """A damaged body is WebhookRefused, or an event whose ref is short and plain: it goes into the history."""
    webhook = await genuine(bench)
    body = webhook.body
    damaged = [
        body * 2,
        body + b"\x00",
        body + b"\xff",
        b"\xef\xbb\xbf" + body,
        body + b"a" * 100_000,
        body + b"&" + body,
    ]
    for changed in damaged:
        what = f"`read_webhook` of {changed[:60]!r} ({len(changed)} bytes)"
        await raises(WebhookRefused, what, bench.hear(replace(webhook, body=changed)))
    for at in range(len(body)):
        for changed in (body[:at], body[at + 1 :], body[:at] + b" " + body[at + 1 :]):
            try:
                event = await bench.hear(replace(webhook, body=changed))
            except WebhookRefused:
                continue
            assert event.ref is not None, f"{changed!r} gave an event that names nothing."
            assert re.fullmatch(r"[!-~]{1,100}", event.ref), f"{changed!r} gave the ref {event.ref!r}."
            equal("the claims of it", (event.progress, event.refund, event.dispute), (None, None, None))


@needs("unsigned webhooks", "twin")
async def test_headers_of_an_unsigned_webhook_never_break_the_reading(bench: Bench) -> None:
    """Whatever stands in the headers, the webhook is read or WebhookRefused."""
    webhook = await genuine(bench)
    for headers in ({}, {"content-type": "application/json"}, {"content-type": "ä\x00"}, {"content-length": "x"}):
        try:
            event = await bench.hear(replace(webhook, headers=headers))
        except WebhookRefused:
            continue
        some("ref", event.ref)


@needs("unsigned webhooks")
async def test_another_gateways_webhook_is_refused_without_a_signature_to_tell(
    bench: Bench, neighbours: list[Bench]
) -> None:
    """Another gateway's webhook is WebhookRefused."""
    some("other gateways to try", neighbours)
    for neighbour in neighbours:
        foreign = await genuine(neighbour)
        await raises(WebhookRefused, f"`read_webhook` of one of {neighbour.case.name}", bench.hear(foreign))


@needs("unsigned webhooks", "twin", "secrets")
async def test_what_an_unsigned_event_keeps_holds_no_secret(bench: Bench) -> None:
    """Neither an event nor a refusal holds a key or a client value."""
    opened, _ = await bench.paid()
    webhooks = bench.webhooks()
    secrets = bench.secrets(opened)
    some("secrets to look for", secrets)
    told = [repr(await bench.hear(webhook)) for webhook in webhooks]
    for secret in secrets:
        posted = HttpRequest("POST", webhooks[0].url, webhooks[0].headers, secret.encode())
        told.append(str(await raises(WebhookRefused, "`read_webhook` of a secret", bench.hear(posted))))
    none_of("event or refusal with a secret", [text for text in told if any(secret in text for secret in secrets)])


@needs("no webhooks")
@pytest.mark.parametrize("kind", BODIES)
async def test_a_gateway_without_webhooks_refuses_every_body(bench: Bench, kind: str) -> None:
    """Without webhooks, `read_webhook` refuses whatever is sent, and asks nobody."""
    webhook = HttpRequest("POST", f"/webhooks/{bench.gateway.name}", {}, BODIES[kind])
    caught = await raises(WebhookRefused, f"`read_webhook` of a body ({kind})", bench.hear(webhook))
    assert len(str(caught)) < 300, f"the message has {len(str(caught))} characters; it quotes the body."
    equal("what was sent", bench.wire.sent, [])
    equal("notes written", bench.notebook.written, 0)


@needs("no webhooks")
async def test_a_gateway_without_webhooks_refuses_those_of_others(bench: Bench, neighbours: list[Bench]) -> None:
    """Without webhooks, other gateways' genuine ones are WebhookRefused as well."""
    some("other gateways to try", neighbours)
    for neighbour in neighbours:
        foreign = await genuine(neighbour)
        await raises(WebhookRefused, f"`read_webhook` of one of {neighbour.case.name}", bench.hear(foreign))
