"""The twin's pages for browsers: the stand-in for Stripe.js, the card frame and the 3-D Secure page.

None of them holds an inline script or style, so that each keeps a strict Content-Security-Policy.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from paidonce.gateways.base import HttpResponse
from paidonce.gateways.stripe.sandbox.intents import Intents
from paidonce.gateways.stripe.sandbox.store import Record
from paidonce.gateways.stripe.wire import from_stripe

_FILES = Path(__file__).parent / "standin"
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' https://api.stripe.com; "
    "base-uri 'none'"
)
# Every address that production serves Stripe.js at: /v3/, and /<release>/stripe.js since 2024.
_SCRIPT = re.compile(r"/(?:js/v3|v3|[a-z]+/stripe\.js)/?")
_ASSETS = {
    "/frame/card": ("card.html", "text/html; charset=utf-8"),
    "/frame/card.js": ("card.js", "text/javascript; charset=utf-8"),
    "/frame/page.css": ("page.css", "text/css; charset=utf-8"),
    "/3ds/page.css": ("page.css", "text/css; charset=utf-8"),
}


class Pages:
    """Answers everything outside `/v1/`."""

    def __init__(self, intents: Intents) -> None:
        self._intents = intents

    def handle(self, method: str, path: str, body: bytes, *, now: int) -> HttpResponse:
        """A page, a script, or 404."""
        if method == "GET" and _SCRIPT.fullmatch(path):
            return _file("stripe.js", "text/javascript; charset=utf-8", {"access-control-allow-origin": "*"})
        if method == "GET" and path in _ASSETS:
            name, kind = _ASSETS[path]
            return _file(name, kind, {"content-security-policy": f"{_CSP}; form-action 'none'"})
        match = re.fullmatch(r"/3ds/(tds_[0-9a-f]+)", path, re.ASCII)
        if match and method in {"GET", "POST"}:
            record = self._intents.by_token(match[1])
            return _gone() if record is None else self._three_d_secure(method, body, record, now)
        return _page(404, "Not found", "<p>The offline sandbox of Stripe has no page here.</p>")

    def _three_d_secure(self, method: str, body: bytes, record: Record, now: int) -> HttpResponse:
        if method == "GET":
            return _question(record)
        answer = parse_qs(body.decode("ascii", "replace")).get("answer", [""])[0]
        if answer not in {"authorize", "fail"}:
            return _question(record)
        self._intents.authenticate(record, passed=answer == "authorize", now=now)
        return HttpResponse(303, {"location": _return_address(record), **_SAFE}, b"")


# The return address holds the client secret, so no page behind it may learn it from the Referer.
_SAFE = {"cache-control": "no-store", "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}


def _file(name: str, kind: str, headers: dict[str, str]) -> HttpResponse:
    return HttpResponse(200, {"content-type": kind, **_SAFE, **headers}, (_FILES / name).read_bytes())


def _return_address(record: Record) -> str:
    intent = record["object"]
    parts = urlsplit(record["return_url"])
    passed = intent["status"] in {"succeeded", "requires_capture", "processing"}
    added = urlencode(
        {
            "payment_intent": intent["id"],
            "payment_intent_client_secret": intent["client_secret"],
            "redirect_status": "succeeded" if passed else "failed",
        }
    )
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))


def _question(record: Record) -> HttpResponse:
    intent, method = record["object"], record["method"]
    back, last4 = urlsplit(record["return_url"]), escape(method["card"]["last4"])
    body = f"""
<p>Your bank asks you to confirm this payment with the card ending in <strong>{last4}</strong>.</p>
<dl>
  <dt>Amount</dt><dd>{from_stripe(intent["amount"], intent["currency"])}</dd>
  <dt>Payment</dt><dd>{escape(intent["id"])}</dd>
</dl>
<form method="post">
  <button class="primary" name="answer" value="authorize">Authorize payment</button>
  <button name="answer" value="fail">Fail authentication</button>
</form>"""
    # The answer of the form is a redirect to the shop, which the form-action of the page has to allow.
    return _page(200, "3-D Secure", body, form_action=f"'self' {back.scheme}://{back.netloc}")


def _gone() -> HttpResponse:
    body = (
        "<p>This confirmation is no longer open: it was answered already, or the payment has ended.</p>"
        "<p>Go back to the shop to see how your payment stands. Nothing happens on this page.</p>"
    )
    return _page(410, "No longer open", body)


def _page(status: int, title: str, body: str, *, form_action: str = "'none'") -> HttpResponse:
    template = Template((_FILES / "page.html").read_text(encoding="utf-8"))
    csp = f"{_CSP}; form-action {form_action}; frame-ancestors 'none'"
    headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": csp, **_SAFE}
    return HttpResponse(status, headers, template.substitute(title=escape(title), body=body).encode())
