"""PayPal's signing certificates: which addresses may be asked for one, and whether what came back is PayPal's.

Anybody can post a webhook and name any address in it. So an address is compared as text with the few that PayPal uses,
before anything is opened; nothing is believed that does not chain up to a known root; and failures are remembered, or
a flood of forged webhooks would become a flood of calls. Such a flood uses up a budget that addresses which have
proved to be PayPal's don't need, so it can't keep the genuine webhooks out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from paidonce.errors import GatewayError, WebhookError, WebhookRefused, WebhookUnverifiable
from paidonce.gateways.base import HttpRequest, Transport
from paidonce.ports import SECOND, Clock, Microseconds

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import Certificate
    from cryptography.x509.verification import Store

PATH = "/v1/notifications/certs/"
LARGEST_BYTES = 64 * 1024
FETCH_SECONDS = 8.0
# A certificate that PayPal withdraws is believed for at most this long, unless PayPal can't be asked then.
KEPT_SECONDS = 6 * 3600
# What was wrong stays wrong for a while; an outage may be over in a moment.
REFUSED_SECONDS = 60
UNREACHABLE_SECONDS = 2
MOST_KEPT = 16
# Failures of the last moments and fetches under way, of addresses that never had a genuine certificate. PayPal itself
# uses one address for months.
MOST_FAILURES = 20
_POLL_SECONDS = 0.02
_LONGEST_CHAIN = 8
_SMALLEST_KEY_BITS, _LARGEST_KEY_BITS = 2048, 8192

_HOSTS = {
    True: ("api.paypal.com", "api-m.paypal.com"),
    False: ("api.sandbox.paypal.com", "api-m.sandbox.paypal.com"),
}
_NAMES = {
    True: "messageverificationcerts.paypal.com",
    False: "messageverificationcerts.sandbox.paypal.com",
}
_ADDRESS_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PEM_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class _Known:
    """A verified key: asked for again from `until` on, and of no use from `ends` on, when its certificate ends."""

    key: RSAPublicKey
    until: Microseconds
    ends: Microseconds


@dataclass(frozen=True, slots=True)
class _Failure:
    error: WebhookError
    until: Microseconds


class Certificates:
    """Hands out the public key of a certificate address, verified up to a root.

    `own_base` is the address that replaced PayPal's in test mode; then certificates and their root come from below it
    and from nowhere else. Without it the roots are those that browsers trust.
    """

    def __init__(self, transport: Transport, clock: Clock, *, live: bool, own_base: str | None) -> None:
        self._transport = transport
        self._clock = clock
        self._name = _NAMES[live]
        self._own_base = own_base
        hosts = [f"https://{host}" for host in _HOSTS[live]]
        self._prefixes = tuple(base + PATH for base in ([own_base] if own_base else hosts))
        self._known: dict[str, _Known] = {}
        self._failures: dict[str, _Failure] = {}
        self._fetching: set[str] = set()

    def check_address(self, address: str) -> None:
        """Raise `WebhookRefused` unless `address` is, letter by letter, one of PayPal's. It opens nothing."""
        prefix = next((one for one in self._prefixes if address.startswith(one)), None)
        if prefix is None or not _ADDRESS_ID.fullmatch(address.removeprefix(prefix)):
            raise WebhookRefused("the certificate's address is not PayPal's, or of the other mode (sandbox or live)")

    async def key(self, address: str) -> RSAPublicKey:
        """The verified key behind `address`. One task fetches it; others that ask meanwhile wait for that one.

        A key that is known is asked for again after some hours; while PayPal does not answer that, it goes on being
        used until its certificate ends. Raises `WebhookRefused` for a forbidden address and for a certificate that is
        not PayPal's, and `WebhookUnverifiable` if it can't be fetched now.
        """
        self.check_address(address)
        while True:
            now = self._clock.now()
            self._failures = {where: one for where, one in self._failures.items() if now < one.until}
            if (key := self._usable(address, now)) is not None:
                return key
            if (failure := self._failures.get(address)) is not None:
                # A new one each time: an error that is raised twice grows a traceback.
                raise type(failure.error)(str(failure.error))
            if address not in self._fetching:
                return await self._fetch(address)
            await self._clock.sleep(_POLL_SECONDS)

    def _usable(self, address: str, now: Microseconds) -> RSAPublicKey | None:
        """The known key, if it need not be asked for again, or if that is under way or has just been in vain."""
        known = self._known.get(address)
        if known is None or now >= known.ends:
            return None
        asked = address in self._fetching or address in self._failures
        return known.key if asked or now < known.until else None

    async def _fetch(self, address: str) -> RSAPublicKey:
        if address not in self._known and self._strangers() >= MOST_FAILURES:
            raise WebhookUnverifiable("too many certificates could not be verified just now")
        self._fetching.add(address)
        try:
            known = await self._verified(address)
        except WebhookError as error:
            self._remember_failure(address, error)
            if (key := self._usable(address, self._clock.now())) is not None:
                return key
            raise
        finally:
            self._fetching.discard(address)
        self._known.pop(address, None)
        self._known[address] = known
        while len(self._known) > MOST_KEPT:
            self._known.pop(next(iter(self._known)))
        return known.key

    def _strangers(self) -> int:
        return sum(address not in self._known for address in self._failures.keys() | self._fetching)

    def _remember_failure(self, address: str, error: WebhookError) -> None:
        now = self._clock.now()
        unreachable = isinstance(error, WebhookUnverifiable)
        seconds = UNREACHABLE_SECONDS if unreachable else REFUSED_SECONDS
        self._failures[address] = _Failure(error, now + seconds * SECOND)
        known = self._known.get(address)
        if known is not None and not unreachable:
            # PayPal does not stand by this certificate any more. Its address stays known, so that a flood of forged
            # webhooks can't keep us from asking again.
            self._known[address] = replace(known, until=now, ends=now)

    async def _verified(self, address: str) -> _Known:
        chain = certificates_in(await self._download(address))
        if self._own_base is None:
            roots = trusted_roots()
        else:
            roots = _store(certificates_in(await self._download(self._own_base + PATH + "ca")))
        now = self._clock.now()
        key, ends = check_chain(chain, roots, name=self._name, now=now)
        return _Known(key, min(ends, now + KEPT_SECONDS * SECOND), ends)

    async def _download(self, address: str) -> bytes:
        request = HttpRequest("GET", address, {"accept": "application/x-pem-file, text/plain, */*"})
        try:
            response = await self._transport.send(request, deadline_seconds=FETCH_SECONDS)
        except GatewayError as error:
            raise WebhookUnverifiable(f"the certificate can't be fetched ({type(error).__name__})") from error
        if response.status in (404, 410):
            raise WebhookRefused("PayPal knows no such certificate")
        # A redirect is not followed: it would lead wherever somebody wants.
        if response.status != 200:
            raise WebhookUnverifiable(f"the certificate can't be fetched (HTTP {response.status})")
        if len(response.body) > LARGEST_BYTES:
            raise WebhookRefused("the certificate is too large")
        return response.body


def certificates_in(pem: bytes) -> list[Certificate]:
    """The certificates of a PEM file. Raises `WebhookUnverifiable` if it holds none, as a cut-off answer does."""
    from cryptography.x509 import load_pem_x509_certificate

    blocks = _PEM_BLOCK.findall(pem)
    if not blocks:
        raise WebhookUnverifiable("the certificate can't be read")
    if len(blocks) > _LONGEST_CHAIN:
        raise WebhookRefused("the certificate comes with too many others")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [load_pem_x509_certificate(block) for block in blocks]
    except ValueError:
        raise WebhookUnverifiable("the certificate can't be read") from None


def check_chain(
    chain: Sequence[Certificate], roots: Store, *, name: str, now: Microseconds
) -> tuple[RSAPublicKey, Microseconds]:
    """The first certificate's key, and when the first of the chain ends, if it is valid for `name` at `now`.

    Raises `WebhookRefused` for an unknown issuer, another name, a certificate out of its time, or a key that is no RSA.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import DNSName
    from cryptography.x509.verification import PolicyBuilder, VerificationError

    at = datetime.fromtimestamp(now // SECOND, UTC)
    verifier = PolicyBuilder().store(roots).time(at).build_server_verifier(DNSName(name))
    try:
        verifier.verify(chain[0], list(chain[1:]))
        key = chain[0].public_key()
        ends = min(int(one.not_valid_after_utc.timestamp()) for one in chain)
    except (VerificationError, UnsupportedAlgorithm, ValueError):
        raise WebhookRefused(
            "the certificate is not PayPal's, or not of this time: check this machine's clock"
        ) from None
    if not isinstance(key, RSAPublicKey) or not _SMALLEST_KEY_BITS <= key.key_size <= _LARGEST_KEY_BITS:
        raise WebhookRefused("the certificate's key is not the RSA key that PayPal signs with")
    return key, ends * SECOND


def _store(roots: Sequence[Certificate]) -> Store:
    from cryptography.x509.verification import Store

    return Store(list(roots))


@lru_cache(maxsize=1)
def trusted_roots() -> Store:
    """The roots that browsers trust, as certifi ships them."""
    import certifi
    from cryptography.x509 import load_pem_x509_certificate

    with warnings.catch_warnings():
        # Some old roots have serial numbers that today's rules forbid. They are roots all the same.
        warnings.simplefilter("ignore")
        return _store([load_pem_x509_certificate(block) for block in _PEM_BLOCK.findall(certifi.contents().encode())])
