"""The public address: its certificate, whether the shop answers there, and whether webhooks come through."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from paidonce import guard
from paidonce.doctor.patient import Patient
from paidonce.errors import GatewayError
from paidonce.gateways.base import Checkup, Finding, Health, HttpRequest, HttpResponse
from paidonce.ports import SECOND

_DEADLINE_SECONDS = 10.0
_DAY = 24 * 3600
# OpenSSL's numbers for what is wrong with a certificate (X509_V_ERR_…).
_WRONG = {
    10: ("has run out", "Renew it, and look why that did not happen by itself."),
    18: ("is signed by itself, so no browser and no gateway believes it", "Get one from a public authority."),
    19: ("is signed by somebody whom nobody knows", "Get one from a public authority."),
    20: ("comes without its chain, or from an unknown authority", "Serve the full chain (fullchain.pem)."),
    21: ("comes without its chain", "Serve the full chain (fullchain.pem)."),
    62: ("is another host's", "Get one for this very name, or correct PAIDONCE_PUBLIC_URL."),
    64: ("is another host's", "Get one for this very address, or correct PAIDONCE_PUBLIC_URL."),
}


async def look(patient: Patient) -> Sequence[Finding]:
    """The certificate, if the address is https."""
    settings = patient.settings
    if not settings.https:
        text = f"The address is this machine's own: {settings.origin}, without TLS."
        health, fix = Health.GREEN, ""
        if not patient.hosted and settings.demo:
            text = f"A demonstration at {settings.origin}, without TLS."
        return [Finding("address", health, text, fix)]
    parts = urlsplit(settings.origin)
    return [await _certificate(patient, parts.hostname or "", parts.port or 443)]


async def _certificate(patient: Patient, host: str, port: int) -> Finding:
    try:
        seconds = await _seconds_left(patient, host, port)
    except ssl.SSLCertVerificationError as error:
        words, fix = _WRONG.get(error.verify_code, (f"is not accepted ({error.verify_message})", "Look at its chain."))
        return Finding("address.tls", Health.RED, f"The certificate of {host} {words}.", fix)
    except ssl.SSLError as error:
        text = f"{host}:{port} does not speak TLS as it should ({error.reason})."
        return Finding("address.tls", Health.RED, text, "Look at the proxy that ends TLS.")
    except OSError as error:
        text = f"Nobody answers at {host}:{port} ({error.strerror or type(error).__name__})."
        fix = "Look at DNS, firewall and proxy, or correct PAIDONCE_PUBLIC_URL."
        return Finding("address.tls", Health.RED, text, fix)
    days = seconds // _DAY
    text = f"The certificate of {host} is good for {days} more days."
    if days < patient.limits.certificate_yellow_days:
        return Finding("address.tls", Health.YELLOW, text, "Renew it, and look why that did not happen by itself.")
    return Finding("address.tls", Health.GREEN, text)


async def _seconds_left(patient: Patient, host: str, port: int) -> int:
    """How long the certificate is still good. Raises `OSError`, which `ssl.SSLError` is one of."""
    _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context(), server_hostname=host)
    certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
    # Not closed politely: some servers never answer that, and the doctor would wait for them in vain.
    writer.transport.abort()
    return int(ssl.cert_time_to_seconds(str(certificate["notAfter"]))) - patient.clock.now() // SECOND


async def webhook(name: str, patient: Patient) -> Sequence[Finding]:
    """Whether a webhook of `name` reaches this shop by its public address, as far as that can be told from here.

    What is sent is unsigned and names nothing, so the shop refuses it; that very refusal shows that it has arrived.
    """
    if not isinstance(patient.gateways[name], Checkup):
        return []
    check, url = f"{name}.webhook.arrives", patient.webhook_url(name)
    try:
        request = HttpRequest("POST", url, {"content-type": "application/json", "accept": "application/json"}, b"{}")
        answer = await patient.transport.send(request, deadline_seconds=_DEADLINE_SECONDS)
    except GatewayError as error:
        return [_nobody(check, url, error, public=guard.is_public(patient.settings))]
    return [_judged(check, url, answer)]


def _nobody(check: str, url: str, error: GatewayError, *, public: bool) -> Finding:
    health = Health.RED if public else Health.YELLOW
    fix = "Start the shop, and look at DNS, firewall and proxy." if public else "Start the shop; then it can be seen."
    return Finding(check, health, f"Nobody answers at {url}: {error}", fix)


def _judged(check: str, url: str, answer: HttpResponse) -> Finding:
    code = _code(answer)
    if (answer.status, code) == (400, "webhook_refused"):
        return Finding(check, Health.GREEN, f"{url} is answered by the shop, and refuses what is not signed.")
    if 200 <= answer.status < 300:
        text = f"{url} takes what nobody signed ({answer.status}), so it is not the shop that answers there."
        return Finding(check, Health.RED, text, "Look where this address leads.")
    if 300 <= answer.status < 400:
        text = f"{url} redirects ({answer.status}), and gateways follow no redirect."
        return Finding(check, Health.RED, text, "Set PAIDONCE_PUBLIC_URL to the address where the redirect ends.")
    if code == "not_found":
        text = f"The shop at {url} does not offer this gateway."
        return Finding(check, Health.RED, text, "Give it the same settings as the doctor, and start it anew.")
    if answer.status >= 500:
        text = f"{url} can't take webhooks right now ({answer.status})."
        return Finding(check, Health.RED, text, "Look at the shop's log.")
    text = f"{url} answers {answer.status}, and not as the shop does: something in front of it keeps webhooks out."
    return Finding(check, Health.RED, text, "Let POST requests to it pass the proxy without a password or a check.")


def _code(answer: HttpResponse) -> str:
    try:
        body = json.loads(answer.body)
    except ValueError:
        return ""
    return str(body.get("code", "")) if isinstance(body, dict) else ""
