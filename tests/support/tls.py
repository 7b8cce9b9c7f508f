"""A certificate authority of our own and TLS servers on loopback, right and wrong in one thing at a time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from paidonce.errors import GatewayBusy
from paidonce.gateways.base import HttpRequest, HttpResponse, Transport

SECRET = "sk_test_canary_5130"
DAY = timedelta(days=1)


@dataclass
class Authority:
    """A root that signs whatever it is told to."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: x509.Name = field(default_factory=lambda: _name("Test root"))

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self._signed(self.name, self.key, None, 0).public_bytes(Encoding.PEM)

    def issue(self, folder: Path, host: str, *, ended_days_ago: int = 0) -> Path:
        """A certificate for `host` with its key, as one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(_name(host), key, host, ended_days_ago)
        file = folder / f"{host}-{ended_days_ago}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        return file

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, host: str | None, ended_days_ago: int
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        ends = now - ended_days_ago * DAY if ended_days_ago else now + DAY
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - 30 * DAY)
        builder = builder.not_valid_after(ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        return builder.sign(self.key, SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@asynccontextmanager
async def served(certificate: Path) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A TLS server on loopback: its address, and what it heard."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    finally:
        server.close()
        await server.wait_closed()


def trusted(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Authority:
    """An authority that this machine trusts, as it trusts those of its own store."""
    found = Authority()
    store = folder / "store.pem"
    store.write_bytes(found.pem)
    # Where aiohttp keeps what it verifies with, made once per process: everything but the roots stays as it is.
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=store))
    return found


def _another_name(authority: Authority, folder: Path) -> Path:
    return authority.issue(folder, "api.gateway.example")


def _another_address(authority: Authority, folder: Path) -> Path:
    return authority.issue(folder, "127.0.0.2")


def _expired(authority: Authority, folder: Path) -> Path:
    return authority.issue(folder, "127.0.0.1", ended_days_ago=1)


def _signed_by_a_stranger(_trusted: Authority, folder: Path) -> Path:
    return Authority().issue(folder, "127.0.0.1")


WRONG: tuple[Callable[[Authority, Path], Path], ...] = (
    _another_name,
    _another_address,
    _expired,
    _signed_by_a_stranger,
)


async def ask(transport: Transport, url: str) -> HttpResponse:
    """A call of a gateway's client, with a key in it."""
    request = HttpRequest("POST", f"{url}/v1/charges", {"authorization": f"Bearer {SECRET}"}, b"amount=1")
    return await transport.send(request, deadline_seconds=20)


async def assert_hears_nothing(certificate: Path, asking: Callable[[str], Awaitable[HttpResponse]]) -> None:
    """A server with this certificate gets not a byte of the request, and so not the key in it."""
    async with served(certificate) as (url, heard):
        with pytest.raises(GatewayBusy, match="could not connect") as caught:
            await asking(url)
        assert heard == []
        assert SECRET not in str(caught.value)


async def assert_is_asked(certificate: Path, asking: Callable[[str], Awaitable[HttpResponse]]) -> None:
    """A server that proves its name is asked, or the refusals would prove nothing."""
    async with served(certificate) as (url, heard):
        answer = await asking(url)
        assert (answer.status, answer.body) == (200, b"{}")
        assert SECRET.encode() in heard[0]
