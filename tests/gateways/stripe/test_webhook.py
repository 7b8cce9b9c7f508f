"""Webhooks: who may speak (against the official package as the oracle), and what is kept of what they say."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from paidonce.errors import ConfigError, WebhookRefused
from paidonce.gateways.base import DisputeProgress, Progress, RefundProgress, WebhookEvent
from paidonce.gateways.stripe import provider, webhook
from paidonce.gateways.stripe.gateway import StripeGateway
from paidonce.ports import SECOND

from .conftest import ManualClock, TwinTransport

SECRET, OTHER = "whsec_canary_one", "whsec_canary_two"
NOW_SECONDS = 1_790_000_000

INTENT: dict[str, Any] = {
    "id": "pi_1",
    "object": "payment_intent",
    "client_secret": "pi_1_secret_canary",
    "latest_charge": "ch_1",
    "metadata": {"payment_id": "pay_1"},
    "status": "succeeded",
}
CHARGE: dict[str, Any] = {
    "id": "ch_1",
    "object": "charge",
    "captured": True,
    "metadata": {"payment_id": "pay_1"},
    "payment_intent": "pi_1",
}
REFUND: dict[str, Any] = {
    "id": "re_1",
    "object": "refund",
    "charge": "ch_1",
    "payment_intent": "pi_1",
    "status": "succeeded",
}
DISPUTE: dict[str, Any] = {
    "id": "du_1",
    "object": "dispute",
    "charge": "ch_1",
    "payment_intent": "pi_1",
    "status": "needs_response",
}


def event(kind: str = "payment_intent.succeeded", item: Mapping[str, Any] = INTENT, **changes: Any) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "object": "event",
        "api_version": "2026-08-26.dahlia",
        "created": NOW_SECONDS - 5,
        "data": {"object": dict(item)},
        "livemode": False,
        "pending_webhooks": 1,
        "request": None,
        "type": kind,
        **changes,
    }


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def signed(content: bytes, *, secret: str = SECRET, seconds: int = NOW_SECONDS) -> str:
    """As Stripe's own package signs; for bytes that it can't handle, the same by hand."""
    try:
        return str(stripe.WebhookSignature.generate_signature_header(content.decode(), secret, seconds))
    except UnicodeDecodeError:
        digest = hmac.new(secret.encode(), f"{seconds}.".encode() + content, hashlib.sha256).hexdigest()
        return f"t={seconds},v1={digest}"


def read(
    header: str | None,
    content: bytes,
    *,
    secrets: tuple[str, ...] = (SECRET,),
    now_seconds: int = NOW_SECONDS,
    live: bool = False,
    account: str | None = "acct_1",
) -> WebhookEvent:
    return webhook.read(header, content, secrets=secrets, now=now_seconds * SECOND, live=live, account=account)


def accept(value: object, **options: Any) -> WebhookEvent:
    return read(signed(body(value)), body(value), **options)


def refuse(header: str | None, content: bytes, **options: Any) -> str:
    with pytest.raises(WebhookRefused) as caught:
        read(header, content, **options)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


# The signature


def test_what_stripe_signs_is_accepted_and_nothing_secret_is_kept() -> None:
    news = accept(event())
    assert news == WebhookEvent(
        gateway="stripe",
        id="evt_1",
        type="payment_intent.succeeded",
        relevant=True,
        created_at=(NOW_SECONDS - 5) * SECOND,
        ref="pi_1",
        capture_ref="ch_1",
        payment_id="pay_1",
        progress=Progress.CAPTURED,
    )
    assert "canary" not in repr(news)


def test_the_official_package_and_we_agree_on_headers() -> None:
    content = body(event())
    good = signed(content)
    stamp, _, signature = good.partition(",v1=")
    headers = [
        good,
        f"{good},v0={'0' * 64}",
        f"{stamp},v1={'0' * 64},v1={signature}",
        f"v1={signature},{stamp}",
        f"{stamp},v1={signature[:-1]}",
        f"{stamp},v1={signature.upper()}",
        f"{stamp},v0={signature}",
        f"t={NOW_SECONDS + 1},v1={signature}",
        stamp,
        f"v1={signature}",
        "",
        "t=,v1=",
        signed(content, secret=OTHER),
    ]
    told = []
    for header in headers:
        try:
            stripe.WebhookSignature.verify_header(content, header, SECRET)
            told.append((header, True))
        except stripe.SignatureVerificationError:
            told.append((header, False))
    assert {accepted for _, accepted in told} == {True, False}
    for header, accepted in told:
        if accepted:
            assert read(header, content).id == "evt_1"
        else:
            refuse(header, content)


def test_every_changed_byte_of_the_body_is_seen() -> None:
    content = body(event())
    header = signed(content)
    for place in range(len(content)):
        for flip in (0x01, 0x80):
            changed = bytearray(content)
            changed[place] ^= flip
            refuse(header, bytes(changed))
    for changed_body in (content[:-1], content + b" ", b" " + content, b""):
        refuse(header, changed_body)
    assert read(header, content).id == "evt_1"


def test_every_changed_letter_of_the_header_is_seen() -> None:
    content = body(event())
    header = signed(content)
    for place in range(len(header)):
        refuse(header[:place] + chr(ord(header[place]) ^ 0x01) + header[place + 1 :], content)
        refuse(header[:place] + header[place + 1 :], content)


@pytest.mark.parametrize("age", [-300, -299, 0, 299, 300])
def test_events_of_our_time_are_accepted(age: int) -> None:
    content = body(event())
    assert read(signed(content, seconds=NOW_SECONDS - age), content).id == "evt_1"


@pytest.mark.parametrize("age", [-365 * 86_400, -301, 301, 365 * 86_400])
def test_events_of_another_time_are_refused_on_both_sides(age: int) -> None:
    content = body(event())
    assert "clock" in refuse(signed(content, seconds=NOW_SECONDS - age), content)


def test_while_a_secret_is_rolled_both_are_good() -> None:
    content = body(event())
    for secret in (SECRET, OTHER):
        assert read(signed(content, secret=secret), content, secrets=(SECRET, OTHER)).id == "evt_1"
    both = signed(content, secret=OTHER) + "," + signed(content).partition(",")[2]
    assert read(both, content).id == "evt_1"
    refuse(signed(content, secret=OTHER), content, secrets=(SECRET,))
    refuse(signed(content, secret="whsec_canary_three"), content, secrets=(SECRET, OTHER))


def test_without_a_configured_secret_nothing_is_accepted() -> None:
    content = body(event())
    for secret in (SECRET, "x", "whsec_"):
        assert "STRIPE_WEBHOOK_SECRET" in refuse(signed(content, secret=secret), content, secrets=())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        ",",
        "=",
        "t",
        "t=1",
        "v1=",
        "t=1,v1=",
        "t=-1,v1=00",
        "t=+1,v1=00",
        "t=1_0,v1=00",
        "t=１,v1=00",  # noqa: RUF001
        f"t={'9' * 13},v1=00",
        f"t={'9' * 5000},v1=00",
        "t=1e9,v1=00",
        "t=1790000000,t=1790000000,v1=00",
        "t=1790000000,v1=ÄÖÜ",
        "t=1790000000,v1=\x00",
        "t=1790000000,v1=\udcff",
        "t=\udcff,v1=\udcff",
        "t=1790000000," + ",".join(["v1=" + "0" * 64] * 100),
    ],
)
def test_crooked_headers_are_refused(header: str | None) -> None:
    refuse(header, body(event()))


def test_two_time_stamps_leave_open_which_was_signed() -> None:
    content = body(event())
    refuse(f"t=1,{signed(content)}", content)
    refuse(f"{signed(content)},t=1", content)


@given(header=st.text(max_size=200) | st.from_regex(r"(t=\d*|v1=[0-9a-f]*|,|=)*", fullmatch=True), content=st.binary())
def test_no_header_ends_in_anything_but_a_refusal(header: str, content: bytes) -> None:
    with pytest.raises(WebhookRefused):
        read(header, content)


# What was signed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["id", "object", "type", "created", "livemode", "account", "data"])
KINDS = st.sampled_from(["payment_intent.succeeded", "charge.refunded", "refund.created", "charge.dispute.closed"])


@given(value=JSON)
def test_signed_nonsense_is_refused(value: object) -> None:
    with pytest.raises(WebhookRefused):
        accept(value)


@given(kind=KINDS, changes=st.dictionaries(NAMES, JSON, max_size=2), item=st.dictionaries(st.text(), JSON))
def test_signed_events_with_wild_fields_are_read_or_refused(
    kind: str, changes: dict[str, Any], item: dict[str, Any]
) -> None:
    values = [event(kind, {**INTENT, **item}, **changes)]
    values.append({**event(kind), "data": {"object": item}})
    for value in values:
        try:
            news = accept(value)
        except WebhookRefused:
            continue
        assert news.id.isprintable()
        assert 0 < len(news.id) < 256


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"null",
        b"true",
        b'"event"',
        b"{}",
        b"",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"{" * 10,
        b"[" * 100_000,
        b'{"created":' + b"9" * 5000 + b"}",
        "{}".encode("utf-16"),
        body(event()).replace(b"evt_1", b"evt_\xc3"),
    ],
)
def test_signed_bodies_that_are_no_event_are_refused(content: bytes) -> None:
    refuse(signed(content), content)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"id": ""},
        {"id": "evt 1"},
        {"id": "evt_\x00"},
        {"id": "e" * 256},
        {"id": 7},
        {"type": None},
        {"object": "charge"},
        {"created": None},
        {"created": "1790000000"},
        {"created": True},
        {"created": -1},
        {"created": 10**15},
        {"livemode": None},
        {"livemode": "false"},
        {"livemode": 0},
        {"data": None},
        {"data": []},
        {"data": {"object": None}},
        {"data": {"object": CHARGE}},
        {"data": {"object": {**INTENT, "id": None}}},
        {"data": {"object": {**INTENT, "status": None}}},
        {"data": {"object": {**INTENT, "status": "\ud800"}}},
    ],
)
def test_signed_events_that_lack_something_are_refused(changes: dict[str, Any]) -> None:
    content = body(event(**changes))
    refuse(signed(content), content)


@pytest.mark.parametrize(("live", "livemode"), [(False, True), (True, False)])
def test_an_event_of_the_other_mode_is_refused(live: bool, livemode: bool) -> None:
    content = body(event(livemode=livemode))
    assert "mode" in refuse(signed(content), content, live=live)
    assert read(signed(content), content, live=livemode).id == "evt_1"


def test_an_event_of_another_account_is_refused_as_soon_as_ours_is_known() -> None:
    content = body(event(account="acct_2"))
    assert "account" in refuse(signed(content), content)
    assert read(signed(content), content, account="acct_2").ref == "pi_1"
    assert read(signed(content), content, account=None).ref == "pi_1"


# What it means


@pytest.mark.parametrize(
    ("kind", "status", "progress"),
    [
        ("succeeded", "succeeded", Progress.CAPTURED),
        ("payment_failed", "requires_payment_method", Progress.AWAITING_BUYER),
        ("processing", "processing", Progress.PROCESSING),
        ("requires_action", "requires_action", Progress.AWAITING_BUYER),
        ("canceled", "canceled", Progress.CANCELED),
        ("amount_capturable_updated", "requires_capture", Progress.AUTHORIZED),
        ("processing", "of_next_year", Progress.PROCESSING),
    ],
)
def test_intents_tell_their_progress(kind: str, status: str, progress: Progress) -> None:
    news = accept(event(f"payment_intent.{kind}", {**INTENT, "status": status}))
    assert (news.relevant, news.ref, news.payment_id, news.progress) == (True, "pi_1", "pay_1", progress)
    # A charge that did not capture is no capture.
    assert news.capture_ref == ("ch_1" if progress is Progress.CAPTURED else None)
    assert (news.refund, news.dispute) == (None, None)


@pytest.mark.parametrize(
    ("kind", "captured", "progress"),
    [
        ("refunded", True, None),
        ("updated", True, None),
        ("succeeded", True, Progress.CAPTURED),
        ("succeeded", False, None),
        ("captured", True, Progress.CAPTURED),
        ("expired", False, None),
    ],
)
def test_charges_lead_to_their_intent(kind: str, captured: bool, progress: Progress | None) -> None:
    news = accept(event(f"charge.{kind}", {**CHARGE, "captured": captured}))
    assert (news.relevant, news.ref, news.capture_ref, news.payment_id) == (True, "pi_1", "ch_1", "pay_1")
    assert (news.progress, news.refund, news.dispute) == (progress, None, None)


@pytest.mark.parametrize("kind", ["refund.created", "refund.updated", "refund.failed", "charge.refund.updated"])
@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ("pending", RefundProgress.PENDING),
        ("requires_action", RefundProgress.PENDING),
        ("succeeded", RefundProgress.SUCCEEDED),
        ("failed", RefundProgress.FAILED),
        ("canceled", RefundProgress.FAILED),
        ("of_next_year", RefundProgress.PENDING),
        (None, RefundProgress.PENDING),
    ],
)
def test_refunds_tell_their_progress(kind: str, status: str | None, progress: RefundProgress) -> None:
    news = accept(event(kind, {**REFUND, "status": status}))
    assert (news.relevant, news.ref, news.capture_ref) == (True, "pi_1", "ch_1")
    assert (news.refund, news.progress, news.dispute) == (("re_1", progress), None, None)


@pytest.mark.parametrize(
    ("kind", "status", "claim"),
    [
        ("created", "needs_response", DisputeProgress.OPEN),
        ("created", "warning_needs_response", DisputeProgress.OPEN),
        ("closed", "won", DisputeProgress.WON),
        ("closed", "lost", DisputeProgress.LOST),
        ("closed", "warning_closed", DisputeProgress.WON),
        # An inquiry that becomes a dispute stays open, yet money moves: such news have to be looked up.
        ("updated", "needs_response", None),
        ("funds_withdrawn", "needs_response", None),
        ("funds_reinstated", "won", None),
    ],
)
def test_disputes_lead_to_their_intent(kind: str, status: str, claim: DisputeProgress | None) -> None:
    news = accept(event(f"charge.dispute.{kind}", {**DISPUTE, "status": status}))
    assert (news.relevant, news.ref, news.capture_ref) == (True, "pi_1", "ch_1")
    assert news.dispute == (None if claim is None else ("du_1", claim))
    assert (news.progress, news.refund) == (None, None)


@pytest.mark.parametrize("kind", ["payment_intent.created", "customer.updated", "payout.paid", "charge.of_next_year"])
def test_other_types_are_ignored(kind: str) -> None:
    news = accept(event(kind, {"object": "anything"}))
    assert (news.relevant, news.id, news.type, news.ref) == (False, "evt_1", kind, None)
    assert (news.capture_ref, news.payment_id, news.progress) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "item"), [("charge.refunded", CHARGE), ("refund.created", REFUND), ("charge.dispute.created", DISPUTE)]
)
def test_what_belongs_to_no_intent_is_not_ours(kind: str, item: dict[str, Any]) -> None:
    news = accept(event(kind, {**item, "payment_intent": None}))
    assert (news.relevant, news.ref, news.capture_ref, news.refund, news.dispute) == (False, None, None, None, None)
    expanded = accept(event(kind, {**item, "payment_intent": {"id": "pi_9", "object": "payment_intent"}}))
    assert (expanded.relevant, expanded.ref) == (True, "pi_9")


@pytest.mark.parametrize("metadata", [None, [], {}, {"payment_id": 3}, {"payment_id": "a\x00b"}, {"payment_id": ""}])
def test_foreign_metadata_gives_no_id(metadata: object) -> None:
    news = accept(event(item={**INTENT, "metadata": metadata}))
    assert (news.relevant, news.ref, news.payment_id) == (True, "pi_1", None)


# The gateway


def configured(transport: TwinTransport, clock: ManualClock, **settings: str) -> StripeGateway:
    environment = {**provider.sandbox_environment("http://127.0.0.1:9000"), **settings}
    gateway = provider.configure(environment, transport, clock)
    assert gateway is not None
    return gateway


async def test_the_gateway_reads_both_secrets_and_its_own_clock_and_calls_nobody(
    transport: TwinTransport, clock: ManualClock
) -> None:
    gateway = configured(transport, clock, STRIPE_WEBHOOK_SECRET=f"{SECRET}, {OTHER}")
    content = body(event(account="acct_2"))
    for secret in (SECRET, OTHER):
        header = signed(content, secret=secret, seconds=clock.now() // SECOND)
        assert (await gateway.read_webhook({"stripe-signature": header}, content)).ref == "pi_1"
    assert transport.requests == []
    with pytest.raises(WebhookRefused):
        await gateway.read_webhook({}, content)
    await gateway.account()
    with pytest.raises(WebhookRefused, match="account"):
        await gateway.read_webhook({"stripe-signature": header}, content)
    clock.advance(301)
    with pytest.raises(WebhookRefused, match="clock"):
        await gateway.read_webhook({"stripe-signature": header}, content)
    assert len(transport.requests) == 1


async def test_a_gateway_without_a_secret_refuses_what_the_sandbox_signs(
    transport: TwinTransport, clock: ManualClock
) -> None:
    environment = dict(provider.sandbox_environment("http://127.0.0.1:9000"))
    secret = environment.pop("STRIPE_WEBHOOK_SECRET")
    gateway = provider.configure(environment, transport, clock)
    assert gateway is not None
    content = body(event())
    header = signed(content, secret=secret, seconds=clock.now() // SECOND)
    with pytest.raises(WebhookRefused, match="STRIPE_WEBHOOK_SECRET"):
        await gateway.read_webhook({"stripe-signature": header}, content)


@pytest.mark.parametrize(
    "secrets", ["", ",", f"{SECRET},", f",{SECRET}", f"{SECRET},canary", "whsec_", "whsec_a b c d"]
)
def test_half_a_secret_stops_the_start(transport: TwinTransport, clock: ManualClock, secrets: str) -> None:
    with pytest.raises(ConfigError, match="STRIPE_WEBHOOK_SECRET") as caught:
        configured(transport, clock, STRIPE_WEBHOOK_SECRET=secrets)
    assert "canary" not in str(caught.value)


def test_the_sandboxs_secret_is_refused_with_live_keys(transport: TwinTransport, clock: ManualClock) -> None:
    secret = provider.sandbox_environment("http://127.0.0.1:9000")["STRIPE_WEBHOOK_SECRET"]
    keys = {"STRIPE_SECRET_KEY": "sk_live_canary", "STRIPE_PUBLISHABLE_KEY": "pk_live_canary"}
    with pytest.raises(ConfigError, match="STRIPE_WEBHOOK_SECRET"):
        provider.configure({**keys, "STRIPE_WEBHOOK_SECRET": secret}, transport, clock)
    assert provider.configure({**keys, "STRIPE_WEBHOOK_SECRET": SECRET}, transport, clock) is not None
