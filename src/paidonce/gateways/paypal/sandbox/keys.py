"""The key that the offline PayPal signs its webhooks with, its certificate, and the root that this one chains up to."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes
    from cryptography.x509 import CertificateBuilder, Name

# The name that PayPal's sandbox signs under.
COMMON_NAME = "messageverificationcerts.sandbox.paypal.com"
# Any clock that a test sets lies between these.
_BEGINS = datetime(1990, 1, 1, tzinfo=UTC)
_ENDS = datetime(2190, 1, 1, tzinfo=UTC)


def make() -> dict[str, str]:
    """New PEM texts: `key`, `certificate`, `ca`, and the certificate's `id`. The root's own key is thrown away."""
    return dict(_made())


@lru_cache(maxsize=1)
def _made() -> tuple[tuple[str, str], ...]:
    # One RSA key takes longer than all the rest of a test, and within one process nothing is gained by a second.
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    root_key = ec.generate_private_key(ec.SECP256R1())
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    root_name = _name("Offline sandbox root")
    root = _root(_builder(root_name, root_name, root_key.public_key()), root_key)
    leaf = _leaf(_builder(_name(COMMON_NAME), root_name, key.public_key()), key, root_key)
    text = leaf.public_bytes(Encoding.PEM)
    digest = hashlib.sha256(text).hexdigest()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (
        ("key", private.decode("ascii")),
        ("certificate", text.decode("ascii")),
        ("ca", root.public_bytes(Encoding.PEM).decode("ascii")),
        ("id", f"CERT-{digest[:8]}-{digest[8:16]}-{digest[16:24]}"),
    )


def sign(key_pem: str, text: bytes) -> str:
    """The signature of `text`, as the webhook's header holds it."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256

    key = _loaded(key_pem)
    assert isinstance(key, RSAPrivateKey), "the twin's own key is an RSA key"
    return base64.b64encode(key.sign(text, PKCS1v15(), SHA256())).decode("ascii")


@lru_cache(maxsize=4)
def _loaded(key_pem: str) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(key_pem.encode(), None)


def _name(common_name: str) -> Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: Name, issuer: Name, public_key: Any) -> CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGINS)
        .not_valid_after(_ENDS)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _root(builder: CertificateBuilder, root_key: CertificateIssuerPrivateKeyTypes) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(root_key, SHA256())
    )


def _leaf(builder: CertificateBuilder, key: Any, root_key: Any) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(issuer, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(COMMON_NAME)]), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, SHA256())
    )


def _usage(*, signs_certificates: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
