"""The pages of the offline AcmePay, as pure functions of what they show."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from paidonce.gateways.base import HttpResponse

# What the buyer can choose.
LABELS = {
    "account": "Acme account (the payment succeeds)",
    "empty_account": "Empty Acme account (declined for insufficient funds)",
    "old_card": "Old card (declined because it has expired)",
}


def form(charge: Mapping[str, Any]) -> str:
    """The buttons of a charge that can be approved; a finished one has none."""
    shown = f"<p>{html.escape(charge['description'])}: {charge['amount']} units of {charge['currency']}</p>"
    if charge["status"] not in ("pending_approval", "approved"):
        return shown + '<p role="status">This charge is finished. Return to the shop.</p>'
    buttons = "".join(f'<p><button name="choice" value="{name}">{label}</button></p>' for name, label in LABELS.items())
    # An empty action posts to the page's own address, whatever the twin is mounted at.
    return f'{shown}<form method="post">{buttons}<p><button name="choice" value="cancel">Cancel</button></p></form>'


def html_page(status: int, title: str, body: str, *, targets: tuple[str, ...] = ()) -> HttpResponse:
    """A page whose form may lead to `targets`."""
    # A form's redirect is checked against form-action as well, so the shop's origins belong in it.
    origins = {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, targets)}
    forms = " ".join(["'self'", *sorted(origins)])
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} (offline sandbox)</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head><body>'
        '<p role="note"><strong>Offline sandbox.</strong> This is not AcmePay, and no money moves.</p>'
        f"<main><h1>{title}</h1>{body}</main></body></html>"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": f"default-src 'none'; form-action {forms}; frame-ancestors 'none'; base-uri 'none'",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
    }
    return HttpResponse(status, headers, page.encode())


def redirect(url: str) -> HttpResponse:
    """The way back to the shop."""
    return HttpResponse(303, {"location": url, "cache-control": "no-store", "referrer-policy": "no-referrer"}, b"")
