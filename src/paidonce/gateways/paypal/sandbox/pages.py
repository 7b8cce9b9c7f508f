"""The pages and scripts of the offline PayPal. No inline script or style: each page's policy forbids them."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from paidonce.gateways.base import HttpResponse

_ASSETS = Path(__file__).parents[1] / "sandbox_assets"
_FILES = {
    "/web-sdk/v6/core": ("core.js", "text/javascript; charset=utf-8"),
    "/checkoutnow/style.css": ("checkout.css", "text/css; charset=utf-8"),
    "/checkoutnow/done.js": ("done.js", "text/javascript; charset=utf-8"),
}
_FUNDING = (
    ("balance", "PayPal balance", "The payment succeeds."),
    ("declined", "Visa ••0002 (will be declined)", "The bank says no, and you choose again."),
    ("pending", "Bank account, pending", "The payment takes days, as an eCheck does."),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the approval page shows of an order."""

    order_id: str
    invoice_id: str | None
    amount: str
    payable: bool
    declined: bool
    return_urls: tuple[str, ...]


def static(method: str, path: str) -> HttpResponse | None:
    """A script or the style sheet; None if `path` is neither."""
    if method != "GET":
        return None
    if path not in _FILES:
        return None
    name, content_type = _FILES[path]
    headers = {
        "content-type": content_type,
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
        # The shop loads the script from another origin, as it loads PayPal's.
        "access-control-allow-origin": "*",
        "cross-origin-resource-policy": "cross-origin",
    }
    return HttpResponse(200, headers, (_ASSETS / name).read_bytes())


def approval(path: str, order: Shown, *, opener: str | None) -> HttpResponse:
    """The page where the buyer approves, with a choice of what shall happen."""
    hidden = _hidden("token", order.order_id) + (_hidden("opener", opener) if opener else "")
    number = f"<dt>Order</dt><dd>{html.escape(order.invoice_id)}</dd>" if order.invoice_id else ""
    summary = f"<dl>{number}<dt>Amount</dt><dd><strong>{html.escape(order.amount)}</strong></dd></dl>"
    button = '<button class="plain">Cancel and return</button>'
    cancel = f'<form method="post" action="checkoutnow/cancel">{hidden}{button}</form>'
    body = summary + (_funding_form(order, hidden) if order.payable else _ENDED) + cancel
    return _page(path, "Pay with PayPal", body, form_targets=order.return_urls)


_ENDED = '<p role="status">This order can no longer be approved: it is paid or closed. Return to the shop.</p>'


def _funding_form(order: Shown, hidden: str) -> str:
    note = ""
    if order.declined:
        note = '<p class="note" role="status">Your last funding source was declined. Please choose another one.</p>'
    choices = "".join(_choice(*funding, first=index == 0) for index, funding in enumerate(_FUNDING))
    return (
        f'{note}<form method="post" action="checkoutnow/approve">{hidden}'
        f"<fieldset><legend>Pay with</legend>{choices}</fieldset>"
        f"<button>Pay {html.escape(order.amount)}</button></form>"
    )


def _choice(value: str, label: str, hint: str, *, first: bool) -> str:
    checked = " checked" if first else ""
    return (
        f'<div class="choice"><input type="radio" name="funding" id="f-{value}" value="{value}" '
        f'aria-describedby="h-{value}"{checked}><label for="f-{value}">{label}</label>'
        f'<p id="h-{value}">{hint}</p></div>'
    )


def done(path: str, news: str, *, order_id: str, payer_id: str | None, opener: str | None) -> HttpResponse:
    """The last page of the pop-up: its script tells the shop's page and closes the window."""
    values = {"news": news, "order": order_id, "payer": payer_id or "", "opener": opener or ""}
    attributes = "".join(f' data-{name}="{html.escape(value)}"' for name, value in values.items())
    said = "You approved the payment." if news == "approve" else "You canceled. Nothing was charged."
    body = f'<p role="status">{said} You can close this window and return to the shop.</p>'
    return _page(path, "Back to the shop", body, head=f'<script src="done.js" defer{attributes}></script>')


def redirect(address: str) -> HttpResponse:
    """303 to the shop."""
    headers = {"location": address, "cache-control": "no-store", "referrer-policy": "no-referrer"}
    return HttpResponse(303, headers, b"")


def not_found(path: str) -> HttpResponse:
    """What the offline PayPal says to everything it does not know."""
    return _page(path, "Not found", "<p>The offline PayPal does not know this order or address.</p>", status=404)


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{html.escape(value)}">'


def _page(
    path: str,
    title: str,
    body: str,
    *,
    status: int = 200,
    head: str = "",
    form_targets: tuple[str, ...] = (),
) -> HttpResponse:
    # Relative addresses work below any mount, and at PayPal's own address when a browser test answers for it.
    style = "../" * (path.count("/") - 1) + "checkoutnow/style.css"
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} (offline sandbox)</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{style}">{head}</head><body>'
        '<header class="banner"><strong>Offline sandbox.</strong> This is not PayPal, and no money moves.</header>'
        f"<main><h1>{title}</h1>{body}</main></body></html>"
    )
    return HttpResponse(status, _headers(form_targets), text.encode())


def _headers(form_targets: tuple[str, ...]) -> Mapping[str, str]:
    # A form's redirect is checked against form-action as well, so the shop's origins belong in it.
    origins = {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, form_targets)}
    forms = " ".join(["'self'", *sorted(origins)])
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"form-action {forms}; frame-ancestors 'none'; base-uri 'none'"
    )
    return {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-robots-tag": "noindex",
    }
