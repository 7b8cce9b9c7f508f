"""The offline AcmePay: its API and its approval page as a pure state machine."""

from __future__ import annotations

import hashlib
import html
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from acme_pay.wire import EXPONENTS, LARGEST_UNITS
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.ports import SECOND, Microseconds

MERCHANT_ID = "mer_sandbox"
KEY_SECONDS = 24 * 3600
# What the buyer can choose on the approval page, and the decline that it leads to at the capture.
CHOICES = {"account": None, "empty_account": "insufficient_funds", "old_card": "expired_card"}

Json = dict[str, Any]

_LABELS = {
    "account": "Acme account (the payment succeeds)",
    "empty_account": "Empty Acme account (declined for insufficient funds)",
    "old_card": "Old card (declined because it has expired)",
}


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, **more: str) -> None:
        self.status = status
        self.error = {"code": code, "message": message, **more}
        super().__init__(code)


class AcmePaySandbox:
    """Implements `gateways.base.SandboxCore`. `base_url` is where browsers reach the twin."""

    name = "acme_pay"

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._charges: dict[str, Json] = {}
        self._replays: dict[str, Json] = {}

    def dump(self) -> str:
        """The whole state as JSON."""
        return json.dumps({"charges": self._charges, "replays": self._replays})

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave."""
        state = json.loads(text)
        self._charges, self._replays = state["charges"], state["replays"]

    def handle(self, request: HttpRequest, *, now: Microseconds) -> HttpResponse:
        """Answer one request to the API or to the approval page."""
        path = urlsplit(request.url).path
        if path.startswith("/approve/"):
            return self._page(request, path.removeprefix("/approve/"))
        try:
            status, body = self._api(request, path, now)
        except _Refused as refused:
            status, body = refused.status, {"error": refused.error}
        request_id = "req_" + _digest(f"{now}{request.method}{path}")
        headers = {"content-type": "application/json", "x-request-id": request_id}
        return HttpResponse(status, headers, json.dumps(body).encode())

    def _api(self, request: HttpRequest, path: str, now: Microseconds) -> tuple[int, Json]:
        # Live keys have no business here.
        if not request.headers.get("authorization", "").startswith("Bearer acme_test_"):
            raise _Refused(401, "unauthorized", "Unknown key.")
        match request.method, path.strip("/").split("/"):
            case "GET", ["v1", "merchant"]:
                return 200, {"id": MERCHANT_ID, "live": False}
            case "GET", ["v1", "charges", charge_id]:
                return 200, self._shown(self._charge(charge_id))
            case "POST", ["v1", "charges", *_]:
                return self._once(request, path, now)
        raise _Refused(404, "not_found", "No such resource.")

    def _once(self, request: HttpRequest, path: str, now: Microseconds) -> tuple[int, Json]:
        """Carry a POST out, or repeat the answer that its key has got already, a decline included."""
        key = request.headers.get("idempotency-key", "")
        if not key or len(key) > 200:
            raise _Refused(400, "bad_idempotency_key", "Idempotency-Key takes 1 to 200 characters.")
        body = _object(request.body)
        fingerprint = _digest(path + json.dumps(body, sort_keys=True))
        self._replays = {key: kept for key, kept in self._replays.items() if kept["until"] > now}
        if (kept := self._replays.get(key)) is None:
            status, answer = self._carry_out(path, body, now)
            until = now + KEY_SECONDS * SECOND
            kept = {"fingerprint": fingerprint, "status": status, "answer": answer, "until": until}
            self._replays[key] = kept
        if kept["fingerprint"] != fingerprint:
            raise _Refused(422, "idempotency_mismatch", "This key came with another request before.")
        return kept["status"], kept["answer"]

    def _carry_out(self, path: str, body: Json, now: Microseconds) -> tuple[int, Json]:
        match path.strip("/").split("/"):
            case ["v1", "charges"]:
                return 201, self._shown(self._create(body, now))
            case ["v1", "charges", charge_id, "capture"]:
                return self._capture(self._charge(charge_id), body)
            case ["v1", "charges", charge_id, "void"]:
                return 200, self._shown(_void(self._charge(charge_id)))
        raise _Refused(404, "not_found", "No such resource.")

    def _create(self, body: Json, now: Microseconds) -> Json:
        _check(body)
        charge_id = "chg_" + _digest(f"{len(self._charges)}{now}")
        names = ("amount", "currency", "reference", "order", "description", "return_url", "cancel_url")
        charge = {name: body[name] for name in names}
        charge |= {"id": charge_id, "status": "pending_approval", "choice": None, "decline_code": None}
        self._charges[charge_id] = charge
        return charge

    def _capture(self, charge: Json, body: Json) -> tuple[int, Json]:
        if charge["status"] == "captured":
            raise _Refused(409, "already_captured", "This charge is captured already.")
        if charge["status"] == "voided":
            raise _Refused(409, "voided", "This charge was voided.")
        if charge["status"] != "approved":
            raise _Refused(409, "not_approved", "The buyer has not approved this charge.")
        if body.get("amount") != charge["amount"]:
            raise _Refused(422, "amount_mismatch", "Only the whole charge can be captured.")
        if (decline := CHOICES[charge["choice"]]) is not None:
            charge.update(status="pending_approval", choice=None, decline_code=decline)
            # Kept under its key like a success: a repeat must not try again.
            return 402, {"error": {"code": "declined", "decline_code": decline, "message": "Declined."}}
        charge.update(status="captured", decline_code=None)
        return 200, self._shown(charge)

    def _charge(self, charge_id: str) -> Json:
        if charge_id not in self._charges:
            raise _Refused(404, "not_found", "No such charge.")
        return self._charges[charge_id]

    def _shown(self, charge: Json) -> Json:
        captured = charge["status"] == "captured"
        names = ("id", "status", "amount", "currency", "reference", "order", "decline_code")
        return {name: charge[name] for name in names} | {
            "merchant": MERCHANT_ID,
            "live": False,
            "approve_url": f"{self._base_url}/approve/{charge['id']}",
            "captured_amount": charge["amount"] if captured else 0,
            "capture_id": charge["id"].replace("chg_", "cap_") if captured else None,
        }

    def _page(self, request: HttpRequest, charge_id: str) -> HttpResponse:
        charge = self._charges.get(charge_id)
        if charge is None:
            return _html(404, "Not found", "<p>The offline AcmePay does not know this charge.</p>")
        if request.method != "POST":
            return _html(
                200, "Approve the payment", _form(charge), targets=(charge["return_url"], charge["cancel_url"])
            )
        choice = parse_qs(request.body.decode("latin-1")).get("choice", [""])[0]
        if choice == "cancel":
            return _redirect(charge["cancel_url"])
        if choice not in CHOICES or charge["status"] not in ("pending_approval", "approved"):
            return _html(409, "Not possible", "<p>This charge can't be approved any more. Return to the shop.</p>")
        charge.update(status="approved", choice=choice)
        return _redirect(charge["return_url"])


def _void(charge: Json) -> Json:
    if charge["status"] == "captured":
        raise _Refused(409, "not_voidable", "This charge is captured.")
    charge.update(status="voided", choice=None)
    return charge


def _check(body: Json) -> None:
    amount, currency = body.get("amount"), body.get("currency")
    if type(amount) is not int or not 0 < amount <= LARGEST_UNITS or currency not in EXPONENTS:
        raise _Refused(422, "bad_amount", "The amount or the currency can't be used.")
    for name in ("reference", "order", "description", "return_url", "cancel_url"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise _Refused(422, "bad_request", f"{name} is missing.")
    if any(urlsplit(body[name]).scheme not in ("http", "https") for name in ("return_url", "cancel_url")):
        raise _Refused(422, "bad_request", "A return address is no web address.")


def _object(body: bytes) -> Json:
    try:
        value = json.loads(body or b"{}", parse_float=str)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _Refused(400, "bad_json", "The body is no JSON object.")
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _form(charge: Json) -> str:
    shown = f"<p>{html.escape(charge['description'])}: {charge['amount']} units of {charge['currency']}</p>"
    if charge["status"] not in ("pending_approval", "approved"):
        return shown + '<p role="status">This charge is finished. Return to the shop.</p>'
    buttons = "".join(
        f'<p><button name="choice" value="{name}">{label}</button></p>' for name, label in _LABELS.items()
    )
    # An empty action posts to the page's own address, whatever the twin is mounted at.
    return f'{shown}<form method="post">{buttons}<p><button name="choice" value="cancel">Cancel</button></p></form>'


def _html(status: int, title: str, body: str, *, targets: tuple[str, ...] = ()) -> HttpResponse:
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


def _redirect(url: str) -> HttpResponse:
    return HttpResponse(303, {"location": url, "cache-control": "no-store", "referrer-policy": "no-referrer"}, b"")
