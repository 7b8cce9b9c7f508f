"""Webhooks of every gateway: the twin's own are accepted and say what happened; whatever differs by a byte is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from paidonce.errors import WebhookError, WebhookRefused, WebhookUnverifiable
from paidonce.gateways.base import HttpRequest, HttpResponse, Opened, Progress, Snapshot, WebhookEvent

if TYPE_CHECKING:
    from contract.conftest import Bench, Wire

# Older and newer than any gateway accepts.
LONG_AGO_SECONDS = 7 * 24 * 3600
AHEAD_SECONDS = 3600
MEBIBYTE = 1024 * 1024

# Complete and correctly signed, and no event all the same.
BODIES = {
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"evt_1"',
    "an empty object": b"{}",
    "half an object": b'{"id": "evt_1", "type"',
    "not utf-8": b'\xff\xfe{"id":"\x80"}',
    "utf-16": '{"id": "evt_1"}'.encode("utf-16"),
    "deeply nested": b"[" * 100_000,
    "a huge number": b'{"id": "evt_1", "created": ' + b"9" * 10_000 + b"}",
    "wrong types": b'{"id": [], "type": {}, "object": 1, "created": true, "live": 0, "livemode": "false"}',
    "1 MiB of garbage": bytes(range(256)) * (MEBIBYTE // 256),
}


async def news(bench: Bench) -> tuple[Opened, Snapshot, list[HttpRequest]]:
    """A life with a decline, a payment, two refunds and a dispute, and everything that the gateway tells of it."""
    opened = await bench.open()
    bench.decline(opened)
    await bench.complete(opened, key="capture-1")
    bench.confirm(opened)
    paid = await bench.complete(opened, key="capture-2")
    assert paid.progress is Progress.CAPTURED
    await bench.refund(paid, replace(bench.amount, minor=2))
    bench.hooks.dashboard_refund(bench.core, opened, replace(bench.amount, minor=3), now=bench.now)
    bench.hooks.open_dispute(bench.core, opened, replace(bench.amount, minor=5), now=bench.now)
    return opened, paid, bench.webhooks()


async def one(bench: Bench) -> HttpRequest:
    """A single webhook: of a payment that was captured."""
    await bench.paid()
    return bench.webhooks()[-1]


async def outcome(bench: Bench, webhook: HttpRequest) -> WebhookEvent | WebhookError:
    """What came of a delivery; any other error than the two kinds fails the test."""
    try:
        return await bench.hear(webhook)
    except (WebhookRefused, WebhookUnverifiable) as error:
        return error


def refused(outcomes: Sequence[WebhookEvent | WebhookError]) -> bool:
    return all(isinstance(each, WebhookError) for each in outcomes)


def with_header(webhook: HttpRequest, name: str, value: str) -> HttpRequest:
    return replace(webhook, headers={**webhook.headers, name: value})


def without_header(webhook: HttpRequest, name: str) -> HttpRequest:
    return replace(webhook, headers={key: value for key, value in webhook.headers.items() if key != name})


async def needed_headers(bench: Bench, webhook: HttpRequest) -> list[str]:
    """The headers without which it is refused: those that carry the signature."""
    return [
        name
        for name in webhook.headers
        if isinstance(await outcome(bench, without_header(webhook, name)), WebhookError)
    ]


async def test_every_webhook_of_the_twin_is_accepted_and_names_the_payment(bench: Bench) -> None:
    opened, paid, webhooks = await news(bench)
    assert webhooks
    assert bench.webhooks() == []
    for webhook in webhooks:
        assert (webhook.method, webhook.url) == ("POST", f"/webhooks/{bench.gateway.name}")
        event = await bench.hear(webhook)
        assert event.gateway == bench.gateway.name
        assert event.relevant is True
        assert (event.ref or event.capture_ref or event.payment_id) is not None
        assert event.ref in (None, opened.snapshot.ref)
        assert event.capture_ref in (None, paid.capture_ref)
        assert event.payment_id in (None, "pay_contract1")
        assert abs(event.created_at - bench.now) < 60_000_000


async def test_the_webhooks_tell_what_happened_and_no_more(bench: Bench) -> None:
    opened, _, webhooks = await news(bench)
    events = [await bench.hear(webhook) for webhook in webhooks]
    details = await bench.details(opened)
    assert details.refunds is not None
    assert details.disputes is not None
    assert Progress.CAPTURED in {event.progress for event in events}
    assert not {Progress.CANCELED, Progress.FAILED, Progress.AUTHORIZED} & {event.progress for event in events}
    claims = {event.refund for event in events if event.refund is not None}
    assert claims == {(refund.ref, refund.progress) for refund in details.refunds}
    disputed = {event.dispute for event in events if event.dispute is not None}
    assert disputed == {(dispute.ref, dispute.progress) for dispute in details.disputes}


async def test_the_webhooks_of_a_reservation_follow_it_to_its_end(bench: Bench) -> None:
    opened, _ = await bench.reserved()
    authorized = [await bench.hear(webhook) for webhook in bench.webhooks()]
    assert Progress.AUTHORIZED in {event.progress for event in authorized}
    assert Progress.CAPTURED not in {event.progress for event in authorized}
    await bench.gateway.void(opened.snapshot.ref)
    ended = [await bench.hear(webhook) for webhook in bench.webhooks()]
    assert Progress.CANCELED in {event.progress for event in ended}
    assert {event.progress for event in ended} <= {Progress.CANCELED, None}
    # Letting go of reserved money is no refund, whatever the gateway calls it.
    assert {event.refund for event in [*authorized, *ended]} == {None}


async def test_a_refund_that_fails_is_told(bench: Bench) -> None:
    opened, paid = await bench.paid()
    refund = await bench.refund(paid, bench.amount)
    bench.webhooks()
    bench.hooks.fail_refund(bench.core, refund.ref, now=bench.now)
    (failed,) = await bench.refunds(opened)
    events = [await bench.hear(webhook) for webhook in bench.webhooks()]
    assert {event.refund for event in events if event.refund is not None} == {(failed.ref, failed.progress)}


async def test_each_webhook_has_an_id_of_its_own_that_repetitions_keep(bench: Bench) -> None:
    _, _, webhooks = await news(bench)
    first = [await bench.hear(webhook) for webhook in webhooks]
    again = [await bench.hear(webhook) for webhook in reversed(webhooks)]
    assert list(reversed(again)) == first
    ids = [event.id for event in first]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[!-~]{1,255}", identifier) for identifier in ids)


async def test_webhooks_survive_a_restart_on_both_sides(bench: Bench) -> None:
    await bench.paid()
    later = bench.restarted()
    # The later gateway has been configured just now and knows neither the account nor the payment.
    events = [await later.hear(webhook) for webhook in later.webhooks()]
    assert events
    assert events == [await bench.hear(webhook) for webhook in bench.webhooks()]
    await later.paid(2)
    fresh = [await later.hear(webhook) for webhook in later.webhooks()]
    assert not {event.id for event in fresh} & {event.id for event in events}


async def test_reading_a_webhook_changes_nothing_and_asks_nobody_about_the_payment(bench: Bench) -> None:
    opened, _, webhooks = await news(bench)
    before = await bench.seen(opened)
    bench.wire.sent.clear()
    for webhook in webhooks:
        await bench.hear(webhook)
    # A certificate may be fetched, once.
    assert {request.method for request in bench.wire.sent} <= {"GET"}
    assert not [request for request in bench.wire.sent if opened.snapshot.ref in request.url]
    assert len({request.url for request in bench.wire.sent}) == len(bench.wire.sent)
    assert await bench.seen(opened) == before


async def test_without_its_headers_a_webhook_is_refused(bench: Bench) -> None:
    webhook = await one(bench)
    needed = await needed_headers(bench, webhook)
    assert needed
    bare = replace(webhook, headers={})
    empty = [with_header(webhook, name, "") for name in needed]
    odd = [with_header(webhook, name, value) for name in needed for value in ("ä", "\udcff", "\x00", "1" * 100_000)]
    assert refused([await outcome(bench, each) for each in (bare, *empty, *odd)])
    assert isinstance(await outcome(bench, webhook), WebhookEvent)


async def test_a_body_that_differs_by_one_byte_is_refused(bench: Bench) -> None:
    webhook = await one(bench)
    body = webhook.body
    flipped = [body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] for at in range(len(body))]
    others = [body[1:], body[:-1], body + b" ", b" " + body, body + b"\n", body * 2, b""]
    outcomes = [await outcome(bench, replace(webhook, body=changed)) for changed in (*flipped, *others)]
    assert len(outcomes) > 100
    assert refused(outcomes)
    assert isinstance(await outcome(bench, webhook), WebhookEvent)


def other_sign(sign: str) -> str:
    """Another sign of the same kind, so that a time stays a time and only the signature can tell."""
    if sign.isdigit():
        return str((int(sign) + 1) % 10)
    return "A" if sign != "A" else "B"


async def test_a_signature_that_differs_by_one_sign_proves_nothing(bench: Bench) -> None:
    webhook = await one(bench)
    told = await bench.hear(webhook)
    for name in await needed_headers(bench, webhook):
        value = webhook.headers[name]
        changed = [value[:at] + other_sign(value[at]) + value[at + 1 :] for at in range(len(value))]
        outcomes = [await outcome(bench, with_header(webhook, name, each)) for each in changed]
        accepted = [each for each in outcomes if not isinstance(each, WebhookError)]
        # The last sign of a base64 text may carry unused bits: the same signature, written in another way.
        assert len(accepted) <= 1
        assert all(each == told for each in accepted)
        shorter = [value[: len(value) // 2], value[1:], value[:-8]]
        assert refused([await outcome(bench, with_header(webhook, name, each)) for each in shorter])


async def test_the_signature_of_another_webhook_does_not_fit(bench: Bench) -> None:
    _, _, webhooks = await news(bench)
    first, *others = webhooks
    swapped = [replace(first, body=other.body) for other in others if other.body != first.body]
    assert swapped
    assert refused([await outcome(bench, each) for each in swapped])


async def test_another_endpoints_secret_and_no_secret_accept_nothing(bench: Bench) -> None:
    webhook = await one(bench)
    name, other = bench.hooks.webhook_setting
    unset = {key: value for key, value in bench.case.environment.items() if key != name}
    for environment in ({**bench.case.environment, name: other}, unset):
        with pytest.raises(WebhookRefused):
            await bench.hear(webhook, by=bench.configure(environment))
    # What is signed with nothing is not the same as what needs no signature.
    forged = bench.hooks.sign(bench.core, webhook, b"{}")
    with pytest.raises(WebhookRefused):
        await bench.hear(forged, by=bench.configure(unset))
    assert isinstance(await outcome(bench, webhook), WebhookEvent)


async def test_a_webhook_of_another_gateway_is_refused(bench: Bench, neighbours: list[Bench]) -> None:
    own = await one(bench)
    assert neighbours
    for neighbour in neighbours:
        foreign = await one(neighbour)
        mixed = replace(foreign, headers={**foreign.headers, **own.headers})
        assert refused([await outcome(bench, each) for each in (foreign, mixed)])


async def test_a_webhook_is_refused_when_it_is_too_old_or_of_the_future(bench: Bench) -> None:
    await bench.paid(1)
    old = bench.webhooks()
    await bench.clock.sleep(LONG_AGO_SECONDS)
    await bench.paid(2)
    ahead = bench.core.take_webhooks(now=bench.now + AHEAD_SECONDS * 1_000_000)
    assert old
    assert ahead
    assert refused([await outcome(bench, webhook) for webhook in (*old, *ahead)])
    await bench.clock.sleep(AHEAD_SECONDS)
    for webhook in ahead:
        assert (await bench.hear(webhook)).relevant is True


@pytest.mark.parametrize("kind", BODIES)
async def test_what_is_no_event_is_refused_signed_or_not(bench: Bench, kind: str) -> None:
    webhook = await one(bench)
    signed = bench.hooks.sign(bench.core, webhook, BODIES[kind])
    for each in (signed, replace(webhook, body=BODIES[kind])):
        with pytest.raises(WebhookRefused) as caught:
            await bench.hear(each)
        assert len(str(caught.value)) < 300


async def test_a_signed_body_of_ours_is_accepted_so_the_refusals_above_are_of_the_bodies(bench: Bench) -> None:
    webhook = await one(bench)
    spaced = bench.hooks.sign(bench.core, webhook, webhook.body + b"\n ")
    assert await bench.hear(spaced) == await bench.hear(webhook)


async def test_an_event_of_the_other_mode_or_another_account_is_refused(bench: Bench) -> None:
    webhook = await one(bench)
    # Reading a webhook asks nobody, so the account is compared once it is known: the core asks for it with a payment.
    await bench.gateway.account()
    for ours, theirs in bench.hooks.foreign_marks:
        assert ours in webhook.body
        foreign = bench.hooks.sign(bench.core, webhook, webhook.body.replace(ours, theirs))
        with pytest.raises(WebhookRefused):
            await bench.hear(foreign)
    assert (await bench.hear(webhook)).relevant is True


async def test_what_an_event_keeps_holds_no_secret(bench: Bench) -> None:
    opened, _, webhooks = await news(bench)
    secrets = bench.secrets(opened)
    assert secrets
    told = [repr(await bench.hear(webhook)) for webhook in webhooks]
    told += [repr(webhook) for webhook in webhooks]
    damaged = [replace(webhook, body=webhook.body + b"}") for webhook in webhooks]
    told += [repr(each) + str(each) for each in [await outcome(bench, webhook) for webhook in damaged]]
    assert not [secret for secret in secrets for text in told if secret in text]


async def test_an_outage_of_the_gateway_never_refuses_a_genuine_webhook_for_good(bench: Bench) -> None:
    async def down(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        return HttpResponse(502, {"content-type": "text/html"}, b"<html>Bad gateway</html>")

    webhook = await one(bench)
    bench.wire.fault = down
    during = await outcome(bench, webhook)
    assert isinstance(during, WebhookEvent | WebhookUnverifiable)
    bench.wire.fault = None
    await bench.clock.sleep(10)
    assert isinstance(await outcome(bench, webhook), WebhookEvent)
