"""Signed webhooks: the twin's own are accepted and say what happened; whatever differs by a byte is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from paidonce.contract.bench import Bench, Wire
from paidonce.contract.bodies import BODIES
from paidonce.contract.expect import equal, none_of, raises, some
from paidonce.contract.marks import needs
from paidonce.errors import WebhookError, WebhookRefused, WebhookUnverifiable
from paidonce.gateways.base import HttpRequest, HttpResponse, Opened, Progress, Snapshot, WebhookEvent

pytestmark = [pytest.mark.asyncio, needs("signed webhooks", "twin")]

# Older and newer than any gateway accepts.
LONG_AGO_SECONDS = 7 * 24 * 3600
AHEAD_SECONDS = 3600


async def news(bench: Bench) -> tuple[Opened, Snapshot, list[HttpRequest]]:
    """A life with a decline, a payment, refunds and a dispute, and everything that the gateway tells of it."""
    opened = await bench.open()
    if bench.has("decline") and bench.has("second_try"):
        await bench.decline(opened)
        await bench.complete(opened, key="capture-1")
    await bench.confirm(opened)
    paid = await bench.complete(opened, key="capture-2")
    equal("the progress of a payment that the buyer confirmed", paid.progress, Progress.CAPTURED)
    await bench.refunded(opened, paid, replace(bench.amount, minor=2))
    if bench.has("dashboard_refund"):
        await bench.hooks.dashboard_refund(bench, opened, replace(bench.amount, minor=3))
    if bench.has("dispute"):
        await bench.hooks.open_dispute(bench, opened, replace(bench.amount, minor=5))
    return opened, paid, bench.webhooks()


async def one(bench: Bench) -> HttpRequest:
    """A single webhook: of a payment that was captured."""
    await bench.paid()
    webhooks = bench.webhooks()
    some("webhook of a payment that was captured", webhooks)
    return webhooks[-1]


async def outcome(bench: Bench, webhook: HttpRequest) -> WebhookEvent | WebhookError:
    """What came of a delivery; any other error than the two kinds fails the test."""
    try:
        return await bench.hear(webhook)
    except (WebhookRefused, WebhookUnverifiable) as error:
        return error


async def accepted(bench: Bench, webhook: HttpRequest) -> WebhookEvent:
    """The event of a genuine webhook, so that refusals around it are no accident."""
    event = await outcome(bench, webhook)
    assert isinstance(event, WebhookEvent), f"the genuine webhook is refused: {event}"
    return event


def all_refused(what: str, outcomes: Sequence[WebhookEvent | WebhookError]) -> None:
    """Assert that none of `outcomes` is an event."""
    taken = sum(isinstance(each, WebhookEvent) for each in outcomes)
    assert outcomes, f"there was no {what} to try."
    assert taken == 0, f"{taken} of {len(outcomes)} were accepted: {what}."


def with_header(webhook: HttpRequest, name: str, value: str) -> HttpRequest:
    """The webhook with another value in one header."""
    return replace(webhook, headers={**webhook.headers, name: value})


def without_header(webhook: HttpRequest, name: str) -> HttpRequest:
    """The webhook without one header."""
    return replace(webhook, headers={key: value for key, value in webhook.headers.items() if key != name})


async def needed_headers(bench: Bench, webhook: HttpRequest) -> list[str]:
    """The headers without which it is refused: those that carry the signature."""
    needed = [
        name
        for name in webhook.headers
        if isinstance(await outcome(bench, without_header(webhook, name)), WebhookError)
    ]
    some("header that carries the signature: a webhook is accepted without any of them", needed)
    return needed


async def test_every_webhook_of_the_twin_is_accepted_and_names_the_payment(bench: Bench) -> None:
    """The twin's webhooks are accepted, each once, and name the payment by its ref, its capture or our id."""
    opened, paid, webhooks = await news(bench)
    some("webhooks of a whole life", webhooks)
    equal("what `take_webhooks` gives the second time", bench.webhooks(), [])
    for webhook in webhooks:
        equal("(method, url)", (webhook.method, webhook.url), ("POST", f"/webhooks/{bench.gateway.name}"))
        event = await accepted(bench, webhook)
        equal("`event.gateway`", event.gateway, bench.gateway.name)
        equal("(relevant, signed)", (event.relevant, event.signed), (True, True))
        some("name of the payment: ref, capture_ref or payment_id", event.ref or event.capture_ref or event.payment_id)
        assert event.ref in (None, opened.snapshot.ref), f"`event.ref` is {event.ref!r}, of another object."
        assert event.capture_ref in (None, paid.capture_ref), f"`event.capture_ref` is {event.capture_ref!r}."
        assert event.payment_id in (None, "pay_contract1"), f"`event.payment_id` is {event.payment_id!r}."
        apart = abs(event.created_at - bench.now)
        assert apart < 60_000_000, f"`event.created_at` is {apart} microseconds from now."


async def test_the_webhooks_tell_what_happened_and_no_more(bench: Bench) -> None:
    """The webhooks' claims are exactly what the details say: the capture, each refund, each dispute."""
    opened, _, webhooks = await news(bench)
    events = [await accepted(bench, webhook) for webhook in webhooks]
    details = await bench.details(opened)
    claimed = {event.progress for event in events}
    assert Progress.CAPTURED in claimed, f"no webhook claims the capture; claimed: {claimed}"
    none_of("false claim", {Progress.CANCELED, Progress.FAILED, Progress.AUTHORIZED} & claimed)
    claims = {event.refund for event in events if event.refund is not None}
    equal("the refunds claimed", claims, {(refund.ref, refund.progress) for refund in details.refunds or ()})
    disputed = {event.dispute for event in events if event.dispute is not None}
    equal("the disputes claimed", disputed, {(one.ref, one.progress) for one in details.disputes or ()})


@needs("manual")
async def test_the_webhooks_of_a_reservation_follow_it_to_its_end(bench: Bench) -> None:
    """A reservation is told when it is made and when it is released, and its release is no refund."""
    opened, _ = await bench.reserved()
    authorized = [await accepted(bench, webhook) for webhook in bench.webhooks()]
    first = {event.progress for event in authorized}
    assert Progress.AUTHORIZED in first, f"no webhook claims the reservation; claimed: {first}"
    assert Progress.CAPTURED not in first, "a webhook claims a capture that never was."
    await bench.gateway.void(opened.snapshot.ref)
    ended = [await accepted(bench, webhook) for webhook in bench.webhooks()]
    last = {event.progress for event in ended}
    assert Progress.CANCELED in last, f"no webhook claims the release; claimed: {last}"
    none_of("other claim", last - {Progress.CANCELED, None})
    # Letting go of reserved money is no refund, whatever the gateway calls it.
    equal("the refunds claimed", {event.refund for event in [*authorized, *ended]}, {None})


@needs("refund_failure", "late_refund_failure")
async def test_a_refund_that_fails_is_told(bench: Bench) -> None:
    """A refund that fails is told by a webhook that claims so."""
    opened, paid = await bench.paid()
    refund = await bench.refunded(opened, paid, bench.amount)
    bench.webhooks()
    await bench.hooks.fail_refund(bench, opened, refund.ref)
    (failed,) = await bench.refunds(opened)
    events = [await accepted(bench, webhook) for webhook in bench.webhooks()]
    claims = {event.refund for event in events if event.refund is not None}
    equal("the refunds claimed", claims, {(failed.ref, failed.progress)})


async def test_each_webhook_has_an_id_of_its_own_that_repetitions_keep(bench: Bench) -> None:
    """An event's id is its own, printable, and the same for every repetition."""
    _, _, webhooks = await news(bench)
    first = [await accepted(bench, webhook) for webhook in webhooks]
    again = [await accepted(bench, webhook) for webhook in reversed(webhooks)]
    assert list(reversed(again)) == first, "a repetition was read in another way."
    ids = [event.id for event in first]
    equal("the number of different ids", len(set(ids)), len(ids))
    none_of("odd id", [identifier for identifier in ids if not re.fullmatch(r"[!-~]{1,255}", identifier)])


async def test_webhooks_survive_a_restart_on_both_sides(bench: Bench) -> None:
    """After a restart of the twin and of the shop, webhooks are the same, and new ones get new ids."""
    await bench.paid()
    later = bench.restarted()
    # The later gateway has been configured just now and knows neither the account nor the payment.
    events = [await accepted(later, webhook) for webhook in later.webhooks()]
    some("webhooks after the restart", events)
    assert events == [await accepted(bench, webhook) for webhook in bench.webhooks()], "the restart changed them."
    await later.paid(2)
    fresh = [await accepted(later, webhook) for webhook in later.webhooks()]
    none_of("id that was used before the restart", {event.id for event in fresh} & {event.id for event in events})


async def test_reading_a_webhook_changes_nothing_and_asks_nobody_about_the_payment(bench: Bench) -> None:
    """`read_webhook` fetches a certificate at most; it asks nobody about the payment and changes nothing."""
    opened, _, webhooks = await news(bench)
    before = await bench.seen(opened)
    bench.wire.sent.clear()
    for webhook in webhooks:
        await accepted(bench, webhook)
    none_of("call that is no GET", [request.method for request in bench.wire.sent if request.method != "GET"])
    asked = [request.url for request in bench.wire.sent if opened.snapshot.ref in request.url]
    none_of("call about the payment", asked)
    # A certificate may be fetched, once.
    urls = [request.url for request in bench.wire.sent]
    equal("the number of different addresses", len(set(urls)), len(urls))
    equal("the object afterwards", await bench.seen(opened), before)


async def test_without_its_headers_a_webhook_is_refused(bench: Bench) -> None:
    """Without the headers of its signature, or with nonsense in them, a webhook is refused."""
    webhook = await one(bench)
    needed = await needed_headers(bench, webhook)
    bare = replace(webhook, headers={})
    empty = [with_header(webhook, name, "") for name in needed]
    odd = [with_header(webhook, name, value) for name in needed for value in ("ä", "\udcff", "\x00", "1" * 100_000)]
    tried = [await outcome(bench, each) for each in (bare, *empty, *odd)]
    all_refused("webhooks without the headers of the signature", tried)
    await accepted(bench, webhook)


async def test_a_body_that_differs_by_one_byte_is_refused(bench: Bench) -> None:
    """A body that differs by one bit, byte or space from the signed one is refused."""
    webhook = await one(bench)
    body = webhook.body
    flipped = [body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] for at in range(len(body))]
    others = [body[1:], body[:-1], body + b" ", b" " + body, body + b"\n", body * 2, b""]
    outcomes = [await outcome(bench, replace(webhook, body=changed)) for changed in (*flipped, *others)]
    assert len(outcomes) > 100, "the twin's webhook has hardly any body."
    all_refused("changed bodies", outcomes)
    await accepted(bench, webhook)


def other_sign(sign: str) -> str:
    """Another sign of the same kind, so that a time stays a time and only the signature can tell."""
    if sign.isdigit():
        return str((int(sign) + 1) % 10)
    return "A" if sign != "A" else "B"


async def test_a_signature_that_differs_by_one_sign_proves_nothing(bench: Bench) -> None:
    """A signature with one other sign, or a shorter one, is refused."""
    webhook = await one(bench)
    told = await accepted(bench, webhook)
    for name in await needed_headers(bench, webhook):
        value = webhook.headers[name]
        changed = [value[:at] + other_sign(value[at]) + value[at + 1 :] for at in range(len(value))]
        outcomes = [await outcome(bench, with_header(webhook, name, each)) for each in changed]
        taken = [each for each in outcomes if not isinstance(each, WebhookError)]
        # The last sign of a base64 text may carry unused bits: the same signature, written in another way.
        assert len(taken) <= 1, f"{len(taken)} changed values of {name} were accepted."
        none_of("other event by a changed header", [each for each in taken if each != told])
        shorter = [value[: len(value) // 2], value[1:], value[:-8]]
        tried = [await outcome(bench, with_header(webhook, name, each)) for each in shorter]
        all_refused(f"shorter values of {name}", tried)


async def test_the_signature_of_another_webhook_does_not_fit(bench: Bench) -> None:
    """One webhook's headers with another one's body are refused."""
    _, _, webhooks = await news(bench)
    first, *others = webhooks
    swapped = [replace(first, body=other.body) for other in others if other.body != first.body]
    all_refused("bodies under another webhook's signature", [await outcome(bench, each) for each in swapped])


async def test_another_endpoints_secret_and_no_secret_accept_nothing(bench: Bench) -> None:
    """With another endpoint's secret, or none, nothing is accepted, not even what is signed with nothing."""
    webhook = await one(bench)
    name, other = bench.hooks.webhook_setting
    unset = {key: value for key, value in bench.case.environment.items() if key != name}
    for what, environment in {"another": {**bench.case.environment, name: other}, "no": unset}.items():
        gateway = bench.configure(environment)
        await raises(WebhookRefused, f"`read_webhook` with {what} {name}", bench.hear(webhook, by=gateway))
    # What is signed with nothing is not the same as what needs no signature.
    forged = bench.hooks.sign(bench, webhook, b"{}")
    heard = bench.hear(forged, by=bench.configure(unset))
    await raises(WebhookRefused, f"`read_webhook` of a signed body with no {name}", heard)
    await accepted(bench, webhook)


async def test_a_webhook_of_another_gateway_is_refused(bench: Bench, neighbours: list[Bench]) -> None:
    """Another gateway's webhook is refused, with its own headers and with ours added."""
    own = await one(bench)
    some("other gateways to try", neighbours)
    for neighbour in neighbours:
        foreign = await one(neighbour)
        mixed = replace(foreign, headers={**foreign.headers, **own.headers})
        tried = [await outcome(bench, each) for each in (foreign, mixed)]
        all_refused(f"webhooks of {neighbour.case.name}", tried)


async def test_a_webhook_is_refused_when_it_is_too_old_or_of_the_future(bench: Bench) -> None:
    """A webhook a week old or an hour ahead is refused; when its hour comes, it is accepted."""
    await bench.paid(1)
    old = bench.webhooks()
    await bench.clock.sleep(LONG_AGO_SECONDS)
    await bench.paid(2)
    ahead = bench.twin.take_webhooks(now=bench.now + AHEAD_SECONDS * 1_000_000)
    all_refused("webhooks that are a week old", [await outcome(bench, webhook) for webhook in old])
    all_refused("webhooks that are an hour ahead", [await outcome(bench, webhook) for webhook in ahead])
    await bench.clock.sleep(AHEAD_SECONDS)
    for webhook in ahead:
        equal("`event.relevant`", (await accepted(bench, webhook)).relevant, True)


@pytest.mark.parametrize("kind", BODIES)
async def test_what_is_no_event_is_refused_signed_or_not(bench: Bench, kind: str) -> None:
    """Whatever is no event is WebhookRefused in a short message, even if it is correctly signed."""
    webhook = await one(bench)
    signed = bench.hooks.sign(bench, webhook, BODIES[kind])
    for what, each in {"a signed": signed, "an unsigned": replace(webhook, body=BODIES[kind])}.items():
        caught = await raises(WebhookRefused, f"`read_webhook` of {what} body ({kind})", bench.hear(each))
        assert len(str(caught)) < 300, f"the message has {len(str(caught))} characters; it quotes the body."


async def test_a_signed_body_of_ours_is_accepted_so_the_refusals_above_are_of_the_bodies(bench: Bench) -> None:
    """`contract.sign` signs as the gateway does: the same event with spaces around it is accepted."""
    webhook = await one(bench)
    spaced = bench.hooks.sign(bench, webhook, webhook.body + b"\n ")
    equal("the event", await accepted(bench, spaced), await accepted(bench, webhook))


async def test_an_event_of_the_other_mode_or_another_account_is_refused(bench: Bench) -> None:
    """A signed event of the other mode, or of another account, is refused."""
    webhook = await one(bench)
    # Reading a webhook asks nobody, so the account is compared once it is known: the core asks for it with a payment.
    await bench.gateway.account()
    for ours, theirs in bench.hooks.foreign_marks:
        assert ours in webhook.body, f"`contract.foreign_marks` names {ours!r}, which is in no webhook."
        foreign = bench.hooks.sign(bench, webhook, webhook.body.replace(ours, theirs))
        await raises(WebhookRefused, f"`read_webhook` of an event with {theirs!r}", bench.hear(foreign))
    equal("`event.relevant` of ours", (await accepted(bench, webhook)).relevant, True)


async def test_what_an_event_keeps_holds_no_secret(bench: Bench) -> None:
    """Neither an event nor a refusal holds a key or a client value."""
    opened, _, webhooks = await news(bench)
    secrets = bench.secrets(opened)
    some("secrets to look for", secrets)
    told = [repr(await accepted(bench, webhook)) for webhook in webhooks]
    told += [repr(webhook) for webhook in webhooks]
    damaged = [replace(webhook, body=webhook.body + b"}") for webhook in webhooks]
    told += [repr(each) + str(each) for each in [await outcome(bench, webhook) for webhook in damaged]]
    none_of("event or refusal with a secret", [text for text in told if any(secret in text for secret in secrets)])


async def test_an_outage_of_the_gateway_never_refuses_a_genuine_webhook_for_good(bench: Bench) -> None:
    """While the gateway is down a genuine webhook is accepted or WebhookUnverifiable; afterwards it is accepted."""

    async def down(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
        return HttpResponse(502, {"content-type": "text/html"}, b"<html>Bad gateway</html>")

    webhook = await one(bench)
    bench.wire.fault = down
    during = await outcome(bench, webhook)
    assert isinstance(during, WebhookEvent | WebhookUnverifiable), f"it was refused for good: {during}"
    bench.wire.fault = None
    await bench.clock.sleep(10)
    await accepted(bench, webhook)
