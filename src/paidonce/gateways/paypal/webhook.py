"""PayPal's webhooks: the signature first, checked here with PayPal's certificate, then the event.

The signed text is `transmission id|time|webhook id|CRC32 of the raw body`. A CRC32 can be made to collide, so a
verified body is a trigger and nothing more: whoever acts on it reads the object again.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from paidonce.errors import WebhookRefused
from paidonce.gateways.base import Transport, WebhookEvent
from paidonce.gateways.paypal import events
from paidonce.gateways.paypal.certificates import Certificates
from paidonce.gateways.paypal.gateway import PayPalSettings
from paidonce.ports import SECOND, Clock, Microseconds

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

ALGORITHM = "SHA256withRSA"
# PayPal repeats a webhook for three days under its first time, so that much age proves nothing. Repetitions are told
# apart by the event's id.
OLDEST_SECONDS = 3 * 24 * 3600 + 6 * 3600
NEWEST_SECONDS = 300
_LONGEST_SIGNATURE = 2048

_TRANSMISSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,9})?Z")
_ADDRESS_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Transmission:
    """The headers of a webhook, sane but not verified."""

    id: str
    time: str
    sent_at: Microseconds
    signature: bytes
    certificate: str


class Webhooks:
    """Verifies and reads the webhooks of one account."""

    def __init__(self, settings: PayPalSettings, transport: Transport, clock: Clock) -> None:
        self._webhook_id = settings.webhook_id
        self._clock = clock
        own_base = settings.api_base if settings.api_base_is_ours else None
        self._certificates = Certificates(transport, clock, live=settings.live, own_base=own_base)

    async def read(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """The verified event. All that can be checked without a call is checked before one.

        Raises `WebhookRefused`, or `WebhookUnverifiable` if PayPal's certificate can't be fetched now.
        """
        if self._webhook_id is None:
            raise WebhookRefused("no webhook is configured (PAYPAL_WEBHOOK_ID), so no event can be accepted")
        transmission = read_headers(headers)
        check_age(transmission.sent_at, self._clock.now())
        self._certificates.check_address(transmission.certificate)
        key = await self._certificates.key(transmission.certificate)
        check_signature(key, transmission, self._webhook_id, body)
        return events.read(body)


def read_headers(headers: Mapping[str, str]) -> Transmission:
    """The headers, which have lower-case names. Raises `WebhookRefused` for what PayPal never sends."""
    if headers.get("paypal-auth-algo") != ALGORITHM:
        raise WebhookRefused("the webhook has no signature that is made with SHA256withRSA")
    identifier, time = headers.get("paypal-transmission-id", ""), headers.get("paypal-transmission-time", "")
    certificate = headers.get("paypal-cert-url", "")
    if not _TRANSMISSION_ID.fullmatch(identifier) or not 0 < len(certificate) <= _ADDRESS_LENGTH:
        raise WebhookRefused("the webhook's headers are missing or can't be read")
    sent_at = _microseconds(time)
    return Transmission(identifier, time, sent_at, _signature(headers.get("paypal-transmission-sig", "")), certificate)


def _microseconds(text: str) -> Microseconds:
    matched = _TIME.fullmatch(text)
    try:
        moment = datetime.strptime(matched[1] if matched else "", "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise WebhookRefused("the webhook's time is missing or can't be read") from None
    return int(moment.timestamp()) * SECOND


def _signature(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True) if text.isascii() and len(text) <= _LONGEST_SIGNATURE else b""
    except (binascii.Error, ValueError):
        decoded = b""
    # One signature has one spelling: base64 ignores the last bits of some letters.
    if not decoded or base64.b64encode(decoded).decode("ascii") != text:
        raise WebhookRefused("the webhook's signature is missing or can't be read")
    return decoded


def check_age(sent_at: Microseconds, now: Microseconds) -> None:
    """Raise `WebhookRefused` for a time that no genuine webhook can have by now."""
    if sent_at < now - OLDEST_SECONDS * SECOND or sent_at > now + NEWEST_SECONDS * SECOND:
        raise WebhookRefused("the webhook is too old, or of the future: check this machine's clock")


def signed_text(transmission_id: str, time: str, webhook_id: str, body: bytes) -> bytes:
    """What PayPal signs."""
    return f"{transmission_id}|{time}|{webhook_id}|{zlib.crc32(body)}".encode()


def check_signature(key: RSAPublicKey, transmission: Transmission, webhook_id: str, body: bytes) -> None:
    """Raise `WebhookRefused` unless `key` signed this transmission of `body` to this webhook."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    text = signed_text(transmission.id, transmission.time, webhook_id, body)
    try:
        key.verify(transmission.signature, text, PKCS1v15(), SHA256())
    except InvalidSignature:
        raise WebhookRefused(
            "the signature does not fit: the webhook was forged or changed, or PAYPAL_WEBHOOK_ID is another's"
        ) from None
