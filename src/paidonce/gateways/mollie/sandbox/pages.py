"""The pages of the offline Mollie's hosted checkout. Each page's policy forbids scripts and inline styles."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from paidonce.gateways.base import HttpResponse

STYLE_PATH = "/checkout/style.css"
_STYLE = Path(__file__).parents[1] / "sandbox_assets" / "checkout.css"
_CHOICES = (
    ("card", "Card", "The payment succeeds."),
    ("declined", "Card that is declined", "The bank says no, and you choose again here."),
    ("failing", "Card that fails for good", "The payment fails with “insufficient funds”; the shop begins a new one."),
    ("banktransfer", "Bank transfer", "You send the money yourself; it arrives when the control page says so."),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the checkout shows of a payment."""

    description: str
    amount: str
    status: str
    waits_for_transfer: bool
    declined: bool
    manual: bool
    return_urls: tuple[str, ...]


def style() -> HttpResponse:
    """The style sheet of every page."""
    headers = {"content-type": "text/css; charset=utf-8", "x-content-type-options": "nosniff"}
    return HttpResponse(200, headers, _STYLE.read_bytes())


def checkout(path: str, payment: Shown, *, status: int = 200) -> HttpResponse:
    """The page where the buyer chooses how to pay, and so what shall happen."""
    summary = (
        f"<dl><dt>For</dt><dd>{html.escape(payment.description)}</dd>"
        f"<dt>Amount</dt><dd><strong>{html.escape(payment.amount)}</strong></dd></dl>"
    )
    body = summary + (_form(payment) if payment.status == "open" else _ENDED)
    return _page(path, "Pay with Mollie", body, status=status, form_targets=payment.return_urls)


_ENDED = '<p role="status">There is nothing to pay here any more. Return to the shop.</p>'


def _form(payment: Shown) -> str:
    note = ""
    if payment.declined:
        note = '<p class="note" role="status">Your card was declined. Please choose another way to pay.</p>'
    elif payment.waits_for_transfer:
        note = '<p class="note" role="status">A bank transfer is expected. You can still choose another way to pay.</p>'
    offered = [one for one in _CHOICES if not (payment.manual and one[0] == "banktransfer")]
    choices = "".join(_choice(*one, first=number == 0) for number, one in enumerate(offered))
    return (
        f'{note}<form method="post"><fieldset><legend>Choose how to pay</legend>{choices}</fieldset>'
        f"<button>Pay {html.escape(payment.amount)}</button></form>"
        '<form method="post"><input type="hidden" name="choice" value="cancel">'
        '<button class="plain">Cancel and return</button></form>'
    )


def _choice(value: str, label: str, hint: str, *, first: bool) -> str:
    checked = " checked" if first else ""
    return (
        f'<div class="choice"><input type="radio" name="choice" id="c-{value}" value="{value}" '
        f'aria-describedby="h-{value}"{checked}><label for="c-{value}">{label}</label>'
        f'<p id="h-{value}">{hint}</p></div>'
    )


def redirect(address: str) -> HttpResponse:
    """303 to the shop, or back to the checkout."""
    headers = {"location": address, "cache-control": "no-store", "referrer-policy": "no-referrer"}
    return HttpResponse(303, headers, b"")


def not_found(path: str) -> HttpResponse:
    """What the offline Mollie says to everything it does not know."""
    return _page(path, "Not found", "<p>The offline Mollie does not know this payment or address.</p>", status=404)


def _page(path: str, title: str, body: str, *, status: int = 200, form_targets: tuple[str, ...] = ()) -> HttpResponse:
    # A relative address works below any mount.
    style_url = "../" * (path.count("/") - 1) + STYLE_PATH.removeprefix("/")
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} (offline sandbox)</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{style_url}"></head><body>'
        '<header class="banner"><strong>Offline sandbox.</strong> This is not Mollie, and no money moves.</header>'
        f"<main><h1>{title}</h1>{body}</main></body></html>"
    )
    return HttpResponse(status, _headers(form_targets), text.encode())


def _headers(form_targets: tuple[str, ...]) -> Mapping[str, str]:
    # A form's redirect is checked against form-action as well, so the shop's origins belong in it.
    origins = {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, form_targets)}
    forms = " ".join(["'self'", *sorted(origins)])
    policy = f"default-src 'none'; style-src 'self'; form-action {forms}; frame-ancestors 'none'; base-uri 'none'"
    return {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-robots-tag": "noindex",
    }
