"""A certificate authority of our own, and webhooks signed as PayPal signs them."""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from paidonce.errors import GatewayError
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.ports import SECOND

SANDBOX_NAME = "messageverificationcerts.sandbox.paypal.com"
LIVE_NAME = "messageverificationcerts.paypal.com"
BASE = "http://127.0.0.1:9/paypal"
ADDRESS = BASE + "/v1/notifications/certs/CERT-1"
ROOT_ADDRESS = BASE + "/v1/notifications/certs/ca"
WEBHOOK_ID = "SANDBOX-WEBHOOK-1"
BEGINS, ENDS = datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)


@lru_cache
def rsa_key(number: int = 0, *, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One of a few keys, since making one takes long."""
    del number
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


class Authority:
    """A root, or below another one an intermediate authority."""

    def __init__(self, name: str = "Test root", *, above: Authority | None = None, ends: datetime = ENDS) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.above = above
        signer, issuer = (above.key, above.name) if above else (self.key, self.name)
        builder = _builder(self.name, issuer, self.key.public_key(), BEGINS, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        if above:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        self.certificate = builder.sign(signer, SHA256())

    @property
    def pem(self) -> bytes:
        """The authority's own certificate."""
        return _pem(self.certificate)

    def issue(
        self,
        *,
        names: tuple[str, ...] = (SANDBOX_NAME,),
        common_name: str = SANDBOX_NAME,
        key: Any = None,
        begins: datetime = BEGINS,
        ends: datetime = ENDS,
        is_authority: bool = False,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> bytes:
        """A certificate in PEM, with the intermediate authority behind it if this is one."""
        key = key or rsa_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _builder(subject, self.name, key.public_key(), begins, ends)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(_usage(signs=is_authority), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if names:
            alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternative, critical=False)
        issued = builder.sign(self.key, SHA256())
        return _pem(issued, self.certificate) if self.above else _pem(issued)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: Any, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def time_text(at: int) -> str:
    """A time as the headers hold it."""
    return datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def signed(
    body: bytes,
    *,
    now: int,
    key: rsa.RSAPrivateKey | None = None,
    webhook_id: str = WEBHOOK_ID,
    address: str = ADDRESS,
) -> dict[str, str]:
    """The headers of a webhook that `key` signed."""
    identifier, time = "071f7d20-1584-11e7-abf0-6b62a8a99ac4", time_text(now)
    text = f"{identifier}|{time}|{webhook_id}|{zlib.crc32(body)}".encode()
    signature = (key or rsa_key()).sign(text, PKCS1v15(), SHA256())
    return {
        "paypal-transmission-id": identifier,
        "paypal-transmission-time": time,
        "paypal-transmission-sig": base64.b64encode(signature).decode(),
        "paypal-auth-algo": "SHA256withRSA",
        "paypal-cert-url": address,
    }


@dataclass
class Shelf:
    """`base.Transport` that holds certificates by address, and writes down every request that left."""

    files: dict[str, HttpResponse | GatewayError] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    def put(self, address: str, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Let `address` answer with `body`."""
        self.files[address] = HttpResponse(status, dict(headers or {}), body)

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        assert 0 < deadline_seconds <= 10
        assert request.method == "GET"
        assert "authorization" not in {name.lower() for name in request.headers}
        self.sent.append(request.url)
        await asyncio.sleep(0)
        found = self.files.get(request.url, HttpResponse(404, {}, b""))
        if isinstance(found, GatewayError):
            raise found
        return found
