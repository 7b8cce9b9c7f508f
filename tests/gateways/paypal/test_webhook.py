"""A webhook is believed only if PayPal's certificate signed exactly these bytes for exactly this endpoint."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Store
from hypothesis import given, settings
from hypothesis import strategies as st

from gateways.paypal.signing import (
    ADDRESS,
    BASE,
    LIVE_NAME,
    ROOT_ADDRESS,
    SANDBOX_NAME,
    WEBHOOK_ID,
    Authority,
    Shelf,
    rsa_key,
    signed,
    time_text,
)
from paidonce.errors import GatewayBusy, OutcomeUnknown, WebhookError, WebhookRefused, WebhookUnverifiable
from paidonce.gateways.base import Gateway, Progress, WebhookEvent
from paidonce.gateways.paypal import certificates, provider, webhook
from paidonce.ports import SECOND
from support.paypal import VirtualClock

VECTORS = Path(__file__).parents[4] / "shared" / "vectors" / "paypal_webhooks.json"
OURS = dict(provider.sandbox_environment("http://127.0.0.1:9"))
PAYPALS = {
    "PAYPAL_CLIENT_ID": "an-id",
    "PAYPAL_CLIENT_SECRET": "a-secret",
    "PAYPAL_MERCHANT_ID": "QQQQQQQQQQQQ2",
    "PAYPAL_WEBHOOK_ID": WEBHOOK_ID,
}
BODY = json.dumps(
    {
        "id": "WH-2MW4820926242972J-6SG447389E205703U",
        "create_time": "2026-10-05T14:57:40.613Z",
        "event_type": "PAYMENT.CAPTURE.COMPLETED",
        "resource": {
            "id": "3C679366HH908993F",
            "status": "COMPLETED",
            "custom_id": "pay_1",
            "supplementary_data": {"related_ids": {"order_id": "5O190127TN364715T"}},
        },
    }
).encode()
AUTHORITY = Authority()


class Endpoint:
    """A gateway that reads webhooks, the shelf with the certificates, and a clock."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.shelf = Shelf()
        self.clock = VirtualClock()
        gateway = provider.configure(OURS if environment is None else environment, self.shelf, self.clock)
        assert gateway is not None
        self.gateway: Gateway = gateway
        self.shelf.put(ROOT_ADDRESS, AUTHORITY.pem)
        self.shelf.put(ADDRESS, AUTHORITY.issue())

    async def read(self, body: bytes = BODY, **changes: str) -> WebhookEvent:
        """Read a webhook that is signed now; `changes` replace single headers afterwards."""
        replaced = {f"paypal-{name.replace('_', '-')}": value for name, value in changes.items()}
        return await self.gateway.read_webhook(signed(body, now=self.clock.now()) | replaced, body)


@pytest.fixture
def endpoint() -> Endpoint:
    """The settings of the twin, whose place the shelf takes."""
    return Endpoint()


async def test_a_signed_webhook_is_read(endpoint: Endpoint) -> None:
    event = await endpoint.read()

    assert (event.gateway, event.id) == ("paypal", "WH-2MW4820926242972J-6SG447389E205703U")
    assert (event.ref, event.capture_ref, event.payment_id) == ("5O190127TN364715T", "3C679366HH908993F", "pay_1")
    assert (event.progress, event.relevant) == (Progress.CAPTURED, True)
    assert endpoint.shelf.sent == [ADDRESS, ROOT_ADDRESS]


@pytest.mark.parametrize("position", range(344))
async def test_each_letter_of_the_signature_counts(endpoint: Endpoint, position: int) -> None:
    headers = signed(BODY, now=endpoint.clock.now())
    good = headers["paypal-transmission-sig"]
    assert len(good) == 344
    other = next(letter for letter in "AQgw=" if letter != good[position])

    with pytest.raises(WebhookRefused):
        await endpoint.gateway.read_webhook(
            headers | {"paypal-transmission-sig": good[:position] + other + good[position + 1 :]}, BODY
        )


async def test_each_byte_of_the_body_counts(endpoint: Endpoint) -> None:
    headers = signed(BODY, now=endpoint.clock.now())
    for position in range(len(BODY)):
        changed = bytearray(BODY)
        changed[position] ^= 1
        with pytest.raises(WebhookRefused, match="signature"):
            await endpoint.gateway.read_webhook(headers, bytes(changed))
    for changed_length in (BODY + b" ", BODY[:-1], b""):
        with pytest.raises(WebhookRefused, match="signature"):
            await endpoint.gateway.read_webhook(headers, changed_length)
    assert (await endpoint.gateway.read_webhook(headers, BODY)).id


@pytest.mark.parametrize(
    "changes",
    [
        {"transmission_id": "071f7d20-1584-11e7-abf0-6b62a8a99ac5"},
        {"transmission_id": ""},
        {"transmission_id": "a|b"},
        {"transmission_id": "é"},
        {"transmission_time": "2026-09-21T14:13:21Z"},
        {"transmission_time": ""},
        {"transmission_time": "yesterday"},
        {"transmission_time": "2026-13-45T99:99:99Z"},
        {"transmission_time": "٢٠٢٦-09-21T14:13:20Z"},
        {"transmission_sig": ""},
        {"transmission_sig": "é"},
        {"transmission_sig": "no base64!"},
        {"transmission_sig": "A" * 10_000},
        {"auth_algo": "SHA1withRSA"},
        {"auth_algo": ""},
        {"auth_algo": "sha256withrsa"},
        {"cert_url": ""},
        {"cert_url": "x" * 10_000},
    ],
)
async def test_a_changed_header_is_refused(endpoint: Endpoint, changes: dict[str, str]) -> None:
    with pytest.raises(WebhookRefused):
        await endpoint.read(BODY, **changes)


@pytest.mark.parametrize("missing", sorted(signed(b"", now=0)))
async def test_a_missing_header_is_refused_without_a_call(endpoint: Endpoint, missing: str) -> None:
    headers = signed(BODY, now=endpoint.clock.now())
    del headers[missing]

    with pytest.raises(WebhookRefused):
        await endpoint.gateway.read_webhook(headers, BODY)

    assert endpoint.shelf.sent == []


async def test_a_webhook_for_another_endpoint_is_refused(endpoint: Endpoint) -> None:
    headers = signed(BODY, now=endpoint.clock.now(), webhook_id="WH-ANOTHER")

    with pytest.raises(WebhookRefused, match="PAYPAL_WEBHOOK_ID"):
        await endpoint.gateway.read_webhook(headers, BODY)


async def test_without_a_webhook_id_nothing_is_accepted() -> None:
    endpoint = Endpoint({name: value for name, value in OURS.items() if name != "PAYPAL_WEBHOOK_ID"})

    with pytest.raises(WebhookRefused, match="PAYPAL_WEBHOOK_ID"):
        await endpoint.read()

    assert endpoint.shelf.sent == []


async def test_another_key_than_the_certificates_is_refused(endpoint: Endpoint) -> None:
    headers = signed(BODY, now=endpoint.clock.now(), key=rsa_key(1))

    with pytest.raises(WebhookRefused, match="signature"):
        await endpoint.gateway.read_webhook(headers, BODY)


@pytest.mark.parametrize(
    ("seconds", "accepted"),
    [(0, True), (-3 * 24 * 3600, True), (299, True), (-4 * 24 * 3600, False), (301, False), (10**9, False)],
)
async def test_age_is_bounded_on_both_sides(endpoint: Endpoint, seconds: int, accepted: bool) -> None:
    headers = signed(BODY, now=endpoint.clock.now() + seconds * SECOND)

    if accepted:
        assert (await endpoint.gateway.read_webhook(headers, BODY)).id
    else:
        with pytest.raises(WebhookRefused, match="clock"):
            await endpoint.gateway.read_webhook(headers, BODY)
        assert endpoint.shelf.sent == []


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"null", b'"text"', b"7", b"{}", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 100_000),
        b'{"id": "WH-1", "event_type": "PAYMENT.CAPTURE.COMPLETED", "create_time": "2026-10-05T14:57:40Z"}',
        b'{"id": "WH-1", "event_type": "X", "create_time": "now"}',
        b'{"id": "WH 1", "event_type": "X", "create_time": "2026-10-05T14:57:40Z"}',
        b'{"id": 7, "event_type": "X", "create_time": "2026-10-05T14:57:40Z"}',
        b'{"event_type": "X", "create_time": "2026-10-05T14:57:40Z"}',
    ],
)
async def test_signed_nonsense_is_refused(endpoint: Endpoint, body: bytes) -> None:
    with pytest.raises(WebhookRefused) as caught:
        await endpoint.read(body)

    assert "signature" not in str(caught.value)


async def test_unsigned_nonsense_is_not_even_parsed(endpoint: Endpoint) -> None:
    headers = signed(BODY, now=endpoint.clock.now())

    with pytest.raises(WebhookRefused, match="signature"):
        await endpoint.gateway.read_webhook(headers, b"[" * 200_000)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(signed(b"", now=0))), st.text(max_size=60) | st.sampled_from([ADDRESS, "SHA256withRSA"])
    ),
    st.binary(max_size=200),
)
def test_whatever_comes_raises_only_webhook_errors(changes: dict[str, str], body: bytes) -> None:
    endpoint = Endpoint()
    headers = signed(b"another body", now=endpoint.clock.now()) | changes

    with pytest.raises(WebhookError):
        asyncio.run(endpoint.gateway.read_webhook(headers, body))


# --- The certificate's address ---------------------------------------------------------------------------------------

_GOOD = "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-5a29e601"
EVIL = [
    "",
    "https://api.sandbox.paypal.com.evil/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com.evil.example/v1/notifications/certs/CERT-1",
    "https://evil.example/v1/notifications/certs/CERT-1",
    "https://evil.example/https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com@evil.example/v1/notifications/certs/CERT-1",
    "https://evil@api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com:443/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com:8443/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com./v1/notifications/certs/CERT-1",
    "https://API.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "https://www.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "https://sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "https://аpi.sandbox.paypal.com/v1/notifications/certs/CERT-1",  # noqa: RUF001 - a Cyrillic letter
    "http://api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "HTTPS://api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "ftp://api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "file:///etc/passwd",
    "https:api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "//api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com\\@evil.example/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com\r\nHost: evil/v1/notifications/certs/CERT-1",
    "https://127.0.0.1/v1/notifications/certs/CERT-1",
    "http://127.0.0.1:9/paypal/v1/notifications/certs/CERT-1",
    "http://169.254.169.254/latest/meta-data",
    "https://[::1]/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com/v1/notifications/certs/",
    "https://api.sandbox.paypal.com/v1/notifications/certs/../../../open/redirect",
    "https://api.sandbox.paypal.com/v1/notifications/certs/..",
    "https://api.sandbox.paypal.com/v1/notifications/certs/%2e%2e/evil",
    "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1/evil",
    "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1?next=https://evil.example",
    "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1#evil",
    "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1\n",
    " https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1",
    "https://api.sandbox.paypal.com/v1/notifications//certs/CERT-1",
    "https://api.sandbox.paypal.com/v1/oauth2/token",
    _GOOD + ", " + _GOOD,
    # The other mode's hosts: a sandbox's signature must not work for real money, nor the reverse.
    "https://api.paypal.com/v1/notifications/certs/CERT-1",
    "https://api-m.paypal.com/v1/notifications/certs/CERT-1",
]


@pytest.mark.parametrize("address", EVIL)
async def test_no_request_leaves_for_an_address_that_is_not_paypals(address: str) -> None:
    endpoint = Endpoint(PAYPALS)
    endpoint.shelf.put(address, AUTHORITY.issue())

    with pytest.raises(WebhookRefused):
        await endpoint.read(cert_url=address)

    assert endpoint.shelf.sent == []


@pytest.mark.parametrize("host", ["api.sandbox.paypal.com", "api-m.sandbox.paypal.com"])
@pytest.mark.parametrize("base", ["", "https://api.sandbox.paypal.com", "https://api-m.sandbox.paypal.com"])
async def test_paypals_own_addresses_are_asked_and_only_known_roots_believed(host: str, base: str) -> None:
    endpoint = Endpoint({**PAYPALS, "PAYPAL_API_BASE": base})
    address = f"https://{host}/v1/notifications/certs/CERT-360caa42-fca2a594-5a29e601"
    endpoint.shelf.put(address, AUTHORITY.issue())

    with pytest.raises(WebhookRefused, match="not PayPal's"):
        await endpoint.read(cert_url=address)

    assert endpoint.shelf.sent == [address], "the root never comes from where the certificate comes from"


async def test_live_mode_knows_only_the_live_hosts() -> None:
    endpoint = Endpoint({**PAYPALS, "PAYPAL_ENVIRONMENT": "live"})
    address = "https://api.paypal.com/v1/notifications/certs/CERT-1"
    endpoint.shelf.put(address, AUTHORITY.issue(names=(LIVE_NAME,)))

    with pytest.raises(WebhookRefused):
        await endpoint.read(cert_url=_GOOD)
    assert endpoint.shelf.sent == []
    with pytest.raises(WebhookRefused, match="not PayPal's"):
        await endpoint.read(cert_url=address)
    assert endpoint.shelf.sent == [address]


@pytest.mark.parametrize(
    "address",
    [
        _GOOD,
        BASE + "x/v1/notifications/certs/CERT-1",
        BASE + "/v1/notifications/certs/../../x",
        BASE + "/v2/checkout/orders",
        "http://127.0.0.1:99/paypal/v1/notifications/certs/CERT-1",
        "http://127.0.0.1/paypal/v1/notifications/certs/CERT-1",
        "https://127.0.0.1:9/paypal/v1/notifications/certs/CERT-1",
        "http://localhost:9/paypal/v1/notifications/certs/CERT-1",
        "http://user@127.0.0.1:9/paypal/v1/notifications/certs/CERT-1",
    ],
)
async def test_with_an_own_base_only_that_base_is_asked(endpoint: Endpoint, address: str) -> None:
    endpoint.shelf.put(address, AUTHORITY.issue())

    with pytest.raises(WebhookRefused):
        await endpoint.read(cert_url=address)

    assert endpoint.shelf.sent == []


@given(st.text(max_size=80))
def test_only_the_exact_form_of_an_address_passes(tail: str) -> None:
    known = certificates.Certificates(Shelf(), VirtualClock(), live=False, own_base=None)
    prefix = "https://api.sandbox.paypal.com/v1/notifications/certs/"
    allowed = 0 < len(tail) <= 128 and all(c.isascii() and (c.isalnum() or c in "-_") for c in tail)

    if allowed:
        known.check_address(prefix + tail)
    else:
        with pytest.raises(WebhookRefused):
            known.check_address(prefix + tail)
    with pytest.raises(WebhookRefused):
        known.check_address(tail + prefix + "CERT-1" if tail else tail)


# --- The certificate -------------------------------------------------------------------------------------------------

PAST, FUTURE = datetime(2025, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
INTERMEDIATE = Authority("Test intermediate", above=AUTHORITY)
GOOD = AUTHORITY.issue()
WRONG: dict[str, bytes] = {
    "unknown authority": Authority().issue(),
    "unknown intermediate": Authority("Test intermediate", above=Authority()).issue(),
    "intermediate missing": INTERMEDIATE.issue().split(b"-----END CERTIFICATE-----")[0]
    + b"-----END CERTIFICATE-----\n",
    "expired intermediate": Authority("Old intermediate", above=AUTHORITY, ends=PAST).issue(),
    "another name": AUTHORITY.issue(names=("api.sandbox.paypal.com",)),
    "the live name": AUTHORITY.issue(names=(LIVE_NAME,)),
    "the name as a common name alone": AUTHORITY.issue(names=()),
    "a wildcard too high": AUTHORITY.issue(names=("*.paypal.com",)),
    "expired": AUTHORITY.issue(ends=PAST),
    "not yet valid": AUTHORITY.issue(begins=FUTURE),
    "an authority itself": AUTHORITY.issue(is_authority=True),
    "for another purpose": AUTHORITY.issue(purpose=ExtendedKeyUsageOID.CODE_SIGNING),
    "no RSA key": AUTHORITY.issue(key=ec.generate_private_key(ec.SECP256R1())),
    "a weak key": AUTHORITY.issue(key=rsa_key(bits=1024)),
    "the root": AUTHORITY.pem,
    "too many": AUTHORITY.issue() * 9,
    "too large": AUTHORITY.issue() + b"#" * certificates.LARGEST_BYTES,
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_certificate_that_is_not_paypals_is_refused(endpoint: Endpoint, kind: str) -> None:
    endpoint.shelf.put(ADDRESS, WRONG[kind])

    with pytest.raises(WebhookRefused):
        await endpoint.read()


async def test_an_intermediate_authority_is_fine(endpoint: Endpoint) -> None:
    endpoint.shelf.put(ADDRESS, INTERMEDIATE.issue())

    assert (await endpoint.read()).relevant


async def test_the_live_name_is_asked_for_in_live_mode() -> None:
    now = VirtualClock().now()
    roots = Store([AUTHORITY.certificate])
    chain = certificates.certificates_in(AUTHORITY.issue(names=(LIVE_NAME,), ends=FUTURE))

    key, ends = certificates.check_chain(chain, roots, name=LIVE_NAME, now=now)

    assert key.key_size == 2048
    assert ends == int(FUTURE.timestamp()) * SECOND
    with pytest.raises(WebhookRefused):
        certificates.check_chain(chain, roots, name=SANDBOX_NAME, now=now)
    with pytest.raises(WebhookRefused):
        certificates.check_chain(chain, roots, name=LIVE_NAME, now=ends + SECOND)


@pytest.mark.parametrize(
    "fault",
    [
        (200, b"<html>captive portal</html>"),
        (200, b""),
        (200, AUTHORITY.issue()[:200]),
        (200, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (500, b"broken"),
        (503, AUTHORITY.issue()),
        (429, b""),
        (204, b""),
    ],
)
async def test_a_certificate_that_cannot_be_fetched_is_asked_for_again(
    endpoint: Endpoint, fault: tuple[int, bytes]
) -> None:
    endpoint.shelf.put(ADDRESS, fault[1], fault[0])

    with pytest.raises(WebhookUnverifiable):
        await endpoint.read()

    endpoint.shelf.put(ADDRESS, AUTHORITY.issue())
    endpoint.clock.pass_seconds(certificates.UNREACHABLE_SECONDS)
    assert (await endpoint.read()).relevant


@pytest.mark.parametrize("error", [OutcomeUnknown("time-out"), GatewayBusy("could not connect")])
async def test_an_outage_makes_a_webhook_unverifiable(endpoint: Endpoint, error: OutcomeUnknown | GatewayBusy) -> None:
    for address in (ADDRESS, ROOT_ADDRESS):
        endpoint.shelf.files[address] = error
        with pytest.raises(WebhookUnverifiable):
            await endpoint.read()
        endpoint.clock.pass_seconds(certificates.UNREACHABLE_SECONDS)
        endpoint.shelf.put(ADDRESS, AUTHORITY.issue())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(endpoint: Endpoint, status: int) -> None:
    elsewhere = "http://127.0.0.1:9/paypal/v1/notifications/certs/OTHER"
    endpoint.shelf.put(elsewhere, AUTHORITY.issue())
    endpoint.shelf.put(ADDRESS, AUTHORITY.issue(), status, {"location": elsewhere})

    with pytest.raises(WebhookUnverifiable):
        await endpoint.read()

    assert endpoint.shelf.sent == [ADDRESS]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_certificate_raises_only_webhook_errors(data: Any) -> None:
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        chain = certificates.certificates_in(bytes(damaged))
        certificates.check_chain(chain, Store([AUTHORITY.certificate]), name=SANDBOX_NAME, now=VirtualClock().now())
    except WebhookError:
        return
    # Only what is not part of the certificate (a line's end, a spare bit of base64) may differ and pass.
    same = certificates.certificates_in(GOOD)[0].tbs_certificate_bytes
    assert chain[0].tbs_certificate_bytes == same


# --- Keeping certificates --------------------------------------------------------------------------------------------


async def test_a_certificate_is_fetched_once_for_many(endpoint: Endpoint) -> None:
    events = await asyncio.gather(*(endpoint.read() for _ in range(20)))

    assert len(events) == 20
    assert endpoint.shelf.sent == [ADDRESS, ROOT_ADDRESS]
    await endpoint.read()
    assert len(endpoint.shelf.sent) == 2


async def test_those_who_wait_hear_of_the_failure(endpoint: Endpoint) -> None:
    endpoint.shelf.files[ADDRESS] = OutcomeUnknown("time-out")

    results = await asyncio.gather(*(endpoint.read() for _ in range(10)), return_exceptions=True)

    assert {type(one) for one in results} == {WebhookUnverifiable}
    assert endpoint.shelf.sent == [ADDRESS]


async def test_a_certificate_is_checked_again_after_some_hours(endpoint: Endpoint) -> None:
    await endpoint.read()
    endpoint.clock.pass_seconds(certificates.KEPT_SECONDS)
    endpoint.shelf.put(ADDRESS, WRONG["unknown authority"])

    with pytest.raises(WebhookRefused):
        await endpoint.read()


async def test_a_kept_certificate_ends_when_it_ends(endpoint: Endpoint) -> None:
    soon = datetime.fromtimestamp(endpoint.clock.now() // SECOND + 600, UTC)
    endpoint.shelf.put(ADDRESS, AUTHORITY.issue(ends=soon))
    await endpoint.read()
    endpoint.clock.pass_seconds(601)

    with pytest.raises(WebhookRefused):
        await endpoint.read()


async def test_what_was_refused_costs_no_second_call_for_a_while(endpoint: Endpoint) -> None:
    endpoint.shelf.put(ADDRESS, WRONG["unknown authority"])
    for _ in range(5):
        with pytest.raises(WebhookRefused):
            await endpoint.read()
    assert endpoint.shelf.sent == [ADDRESS, ROOT_ADDRESS]

    endpoint.shelf.put(ADDRESS, AUTHORITY.issue())
    endpoint.clock.pass_seconds(certificates.REFUSED_SECONDS)
    assert (await endpoint.read()).relevant


async def test_a_flood_of_invented_addresses_is_no_flood_of_calls(endpoint: Endpoint) -> None:
    await endpoint.read()
    before = len(endpoint.shelf.sent)

    for number in range(200):
        with pytest.raises(WebhookError):
            await endpoint.read(cert_url=f"{BASE}/v1/notifications/certs/INVENTED-{number}")
    invented = [f"{BASE}/v1/notifications/certs/PARALLEL-{number}" for number in range(200)]
    await asyncio.gather(*(endpoint.read(cert_url=address) for address in invented), return_exceptions=True)

    assert len(endpoint.shelf.sent) - before == certificates.MOST_FAILURES
    assert (await endpoint.read()).relevant, "the known certificate still works"
    endpoint.clock.pass_seconds(certificates.REFUSED_SECONDS)
    endpoint.shelf.put(BASE + "/v1/notifications/certs/NEW", AUTHORITY.issue())
    assert (await endpoint.read(cert_url=BASE + "/v1/notifications/certs/NEW")).relevant


async def flood(endpoint: Endpoint) -> None:
    """Use up the budget for certificates that nobody has seen before."""
    for number in range(certificates.MOST_FAILURES):
        with pytest.raises(WebhookRefused):
            await endpoint.read(cert_url=f"{BASE}/v1/notifications/certs/FORGED-{endpoint.clock.now()}-{number}")


async def test_a_flood_does_not_close_the_door_to_the_genuine_certificate(endpoint: Endpoint) -> None:
    """Its hours end in the middle of the flood, and it is asked for again all the same."""
    await endpoint.read()
    endpoint.clock.pass_seconds(certificates.KEPT_SECONDS)
    await flood(endpoint)
    before = len(endpoint.shelf.sent)

    assert (await endpoint.read()).relevant

    assert endpoint.shelf.sent[before:] == [ADDRESS, ROOT_ADDRESS]
    with pytest.raises(WebhookUnverifiable):
        await endpoint.read(cert_url=BASE + "/v1/notifications/certs/ONE-MORE")
    assert len(endpoint.shelf.sent) == before + 2, "the budget is still used up for others"


async def test_a_known_certificate_costs_strangers_nothing_of_their_budget(endpoint: Endpoint) -> None:
    await endpoint.read()
    endpoint.clock.pass_seconds(certificates.KEPT_SECONDS)
    endpoint.shelf.put(ADDRESS, WRONG["unknown authority"])
    with pytest.raises(WebhookRefused):
        await endpoint.read()
    before = len(endpoint.shelf.sent)

    await flood(endpoint)

    assert len(endpoint.shelf.sent) - before == certificates.MOST_FAILURES


@pytest.mark.parametrize("fault", [OutcomeUnknown("time-out"), GatewayBusy("could not connect"), 503])
async def test_a_known_certificate_is_used_on_while_paypal_does_not_answer(
    endpoint: Endpoint, fault: OutcomeUnknown | GatewayBusy | int
) -> None:
    soon = datetime.fromtimestamp(endpoint.clock.now() // SECOND + 8 * 3600, UTC)
    endpoint.shelf.put(ADDRESS, AUTHORITY.issue(ends=soon))
    await endpoint.read()
    if isinstance(fault, int):
        endpoint.shelf.put(ADDRESS, b"", fault)
    else:
        endpoint.shelf.files[ADDRESS] = fault
    endpoint.clock.pass_seconds(certificates.KEPT_SECONDS)
    before = len(endpoint.shelf.sent)

    events = await asyncio.gather(*(endpoint.read() for _ in range(10)))

    assert len(events) == 10
    assert endpoint.shelf.sent[before:] == [ADDRESS], "the outage is asked once, and not by every webhook"
    assert endpoint.clock.slept == [], "nobody waits for the answer"
    with pytest.raises(WebhookRefused, match="signature"):
        await endpoint.gateway.read_webhook(signed(BODY, now=endpoint.clock.now()), BODY + b" ")
    # Never beyond the certificate's own end.
    endpoint.clock.pass_seconds(2 * 3600 + 1)
    with pytest.raises(WebhookUnverifiable):
        await endpoint.read()


async def test_a_certificate_that_paypal_withdrew_stays_withdrawn_and_may_come_back(endpoint: Endpoint) -> None:
    """A clear no is no outage. It must not be undone by an outage after it, nor made lasting by a flood."""
    await endpoint.read()
    endpoint.clock.pass_seconds(certificates.KEPT_SECONDS)
    endpoint.shelf.put(ADDRESS, b"", 404)
    with pytest.raises(WebhookRefused):
        await endpoint.read()
    endpoint.clock.pass_seconds(certificates.REFUSED_SECONDS)
    endpoint.shelf.files[ADDRESS] = OutcomeUnknown("time-out")
    with pytest.raises(WebhookUnverifiable):
        await endpoint.read()

    endpoint.shelf.put(ADDRESS, AUTHORITY.issue())
    endpoint.clock.pass_seconds(certificates.UNREACHABLE_SECONDS)
    await flood(endpoint)
    assert (await endpoint.read()).relevant


async def test_few_certificates_are_kept(endpoint: Endpoint) -> None:
    for number in range(certificates.MOST_KEPT + 1):
        address = f"{BASE}/v1/notifications/certs/C-{number}"
        endpoint.shelf.put(address, AUTHORITY.issue())
        await endpoint.read(cert_url=address)
    before = len(endpoint.shelf.sent)

    await endpoint.read(cert_url=f"{BASE}/v1/notifications/certs/C-{certificates.MOST_KEPT}")
    assert len(endpoint.shelf.sent) == before
    await endpoint.read(cert_url=f"{BASE}/v1/notifications/certs/C-0")
    assert len(endpoint.shelf.sent) == before + 2


# --- Genuine webhooks ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not VECTORS.is_file(), reason="the genuine webhooks are not at ../shared/vectors")
@pytest.mark.parametrize("number", [0, 1])
def test_genuine_signatures_verify_and_changed_ones_do_not(number: int) -> None:
    """Recorded by PayPal's own SDKs. Their certificates have ended, so their chains can't be checked here."""
    vector = json.loads(VECTORS.read_text())[number]
    (certificate,) = certificates.certificates_in(vector["cert_pem"].encode())
    key: Any = certificate.public_key()
    names = {"id": "transmission-id", "time": "transmission-time", "sig": "transmission-sig"}
    headers = {f"paypal-{header}": vector[f"transmission_{name}"] for name, header in names.items()}
    headers |= {"paypal-auth-algo": vector["auth_algo"], "paypal-cert-url": _GOOD}
    body = vector["body"].encode()
    transmission = webhook.read_headers(headers)

    webhook.check_signature(key, transmission, vector["webhook_id"], body)

    assert (
        load_pem_x509_certificate(vector["cert_pem"].encode()).subject.rfc4514_string().startswith(f"CN={SANDBOX_NAME}")
    )
    with pytest.raises(WebhookRefused):
        webhook.check_signature(key, transmission, vector["webhook_id"], body + b" ")
    with pytest.raises(WebhookRefused):
        webhook.check_signature(key, transmission, WEBHOOK_ID, body)
    with pytest.raises(WebhookRefused):
        webhook.check_age(transmission.sent_at, VirtualClock().now())
    assert time_text(transmission.sent_at) == vector["transmission_time"]
    with pytest.raises(WebhookRefused):
        certificates.check_chain(
            [certificate], certificates.trusted_roots(), name=SANDBOX_NAME, now=VirtualClock().now()
        )


def test_the_browsers_roots_load_without_a_warning() -> None:
    certificates.trusted_roots.cache_clear()

    assert certificates.trusted_roots() is certificates.trusted_roots()
