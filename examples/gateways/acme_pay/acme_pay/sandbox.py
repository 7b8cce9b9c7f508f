"""The offline AcmePay: its API, its approval page, its webhooks and its books as a pure state machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs, urlsplit

from acme_pay import SANDBOX_WEBHOOK_SECRET, sandbox_pages, webhook
from acme_pay.wire import EXPONENTS, LARGEST_UNITS, money
from paidonce.gateways.base import BookEntry, Control, HttpRequest, HttpResponse
from paidonce.ports import SECOND, Microseconds

MERCHANT_ID = "mer_sandbox"
KEY_SECONDS = 24 * 3600
# The decline that each choice on the approval page leads to, once the money is asked for.
DECLINES = {"account": None, "empty_account": "insufficient_funds", "old_card": "expired_card"}

_CHARGE, _REFUND = "a charge's id (chg_…)", "a refund's id (ref_…)"
CONTROLS = (
    Control(
        "dashboard_refund",
        "Staff refund at AcmePay's dashboard.",
        {"ref": _CHARGE, "amount": "optional; in AcmePay's units, all that is left without it"},
    ),
    Control("pend_next_refund", "The next refund waits instead of being paid back at once.", {}),
    Control("finish_refund", "A pending refund is paid back.", {"refund": _REFUND}),
    Control("fail_refund", "A refund fails, also after it was paid back.", {"refund": _REFUND}),
    Control("expire_authorization", "The reserved money is let go.", {"ref": _CHARGE}),
)

Json = dict[str, Any]


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.error = {"code": code, "message": message}
        super().__init__(message)


class AcmePaySandbox:
    """Implements `gateways.base.SandboxCore`. `base_url` is where browsers reach the twin."""

    name = "acme_pay"
    controls: tuple[Control, ...] = CONTROLS

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._state = _new_state()

    def dump(self) -> str:
        """The whole state as JSON."""
        return json.dumps(self._state)

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave."""
        self._state = _new_state() | json.loads(text)

    def handle(self, request: HttpRequest, *, now: Microseconds) -> HttpResponse:
        """Answer one request to the API or to the approval page."""
        path = urlsplit(request.url).path
        if path.startswith("/approve/"):
            return self._page(request, path.removeprefix("/approve/"), now)
        try:
            status, body = self._api(request, path, now)
        except _Refused as refused:
            status, body = refused.status, {"error": refused.error}
        request_id = "req_" + _digest(f"{now}{request.method}{path}")
        headers = {"content-type": "application/json", "x-request-id": request_id}
        return HttpResponse(status, headers, json.dumps(body).encode())

    def control(self, name: str, params: Mapping[str, str], *, now: Microseconds) -> Mapping[str, str]:
        """Do what a dashboard, a bank or time does. Raises `ValueError` naming what is wrong; nothing changed then."""
        try:
            match name:
                case "dashboard_refund":
                    return _told(self._dashboard_refund(params, now))
                case "pend_next_refund":
                    self._state["next_refund_pends"] = True
                    return {"next_refund": "pending"}
                case "finish_refund":
                    return _told(self._finish_refund(self._refund(params.get("refund", "")), now))
                case "fail_refund":
                    return _told(self._fail_refund(self._refund(params.get("refund", "")), now))
                case "expire_authorization":
                    return _told(self._expire(self._charge(params.get("ref", "")), now))
        except _Refused as refused:
            raise ValueError(str(refused)) from None
        raise ValueError(f"there is no control {name!r}; known are {', '.join(one.name for one in CONTROLS)}")

    def take_webhooks(self, *, now: Microseconds) -> list[HttpRequest]:
        """What has happened since the last call, oldest first, signed at `now`."""
        bodies, self._state["events"] = self._state["events"], []
        return [_signed(body.encode(), str(now // SECOND)) for body in bodies]

    def books(self) -> tuple[BookEntry, ...]:
        """Everything that moved the merchant's money, oldest first."""
        return tuple(BookEntry(**entry) for entry in self._state["books"])

    # ── The API ──────────

    def _api(self, request: HttpRequest, path: str, now: Microseconds) -> tuple[int, Json]:
        # Live keys have no business here.
        if not request.headers.get("authorization", "").startswith("Bearer acme_test_"):
            raise _Refused(401, "unauthorized", "Unknown key.")
        match request.method, path.strip("/").split("/"):
            case "GET", ["v1", "merchant"]:
                return 200, {"id": MERCHANT_ID, "live": False}
            case "GET", ["v1", "charges", charge_id]:
                return 200, self._shown(self._charge(charge_id))
            case "GET", ["v1", "charges", charge_id, "refunds"]:
                return 200, {"refunds": self._refunds_of(self._charge(charge_id))}
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
        replays = {key: kept for key, kept in self._state["replays"].items() if kept["until"] > now}
        self._state["replays"] = replays
        if (kept := replays.get(key)) is None:
            status, answer = self._carry_out(path, body, now)
            until = now + KEY_SECONDS * SECOND
            # A copy: what the answer was made of goes on changing.
            kept = {"fingerprint": fingerprint, "status": status, "answer": dict(answer), "until": until}
            replays[key] = kept
        if kept["fingerprint"] != fingerprint:
            raise _Refused(422, "idempotency_mismatch", "This key came with another request before.")
        return kept["status"], kept["answer"]

    def _carry_out(self, path: str, body: Json, now: Microseconds) -> tuple[int, Json]:
        match path.strip("/").split("/"):
            case ["v1", "charges"]:
                return 201, self._shown(self._create(body, now))
            case ["v1", "charges", charge_id, "authorize"]:
                return self._authorize(self._charge(charge_id), now)
            case ["v1", "charges", charge_id, "capture"]:
                return self._capture(self._charge(charge_id), body, now)
            case ["v1", "charges", charge_id, "void"]:
                return 200, self._shown(self._void(self._charge(charge_id), now))
            case ["v1", "charges", charge_id, "refunds"]:
                return 201, self._make_refund(self._charge(charge_id), body.get("amount"), _reference(body), now)
        raise _Refused(404, "not_found", "No such resource.")

    # ── Charges ──────────

    def _create(self, body: Json, now: Microseconds) -> Json:
        _check(body)
        charge_id = "chg_" + _digest(f"{len(self._state['charges'])}{now}")
        names = ("amount", "currency", "capture", "reference", "order", "description", "return_url", "cancel_url")
        charge = {name: body[name] for name in names}
        charge |= {"id": charge_id, "status": "pending_approval", "choice": None, "decline_code": None}
        self._state["charges"][charge_id] = charge | {"captured_amount": 0, "capture_id": None, "fee": None}
        return self._charge(charge_id)

    def _authorize(self, charge: Json, now: Microseconds) -> tuple[int, Json]:
        _check_alive(charge)
        if charge["status"] == "authorized":
            raise _Refused(409, "already_authorized", "This charge is authorized already.")
        if charge["capture"] != "manual":
            raise _Refused(422, "not_manual", "This charge is captured at once.")
        return self._decline(charge, now) or self._moved(charge, "authorized", now)

    def _capture(self, charge: Json, body: Json, now: Microseconds) -> tuple[int, Json]:
        _check_alive(charge)
        if charge["capture"] == "manual" and charge["status"] != "authorized":
            raise _Refused(422, "not_authorized", "This charge has to be authorized first.")
        amount = body.get("amount")
        if type(amount) is not int or not 0 < amount <= charge["amount"]:
            raise _Refused(422, "bad_amount", "A part of the charge or all of it can be captured.")
        if charge["status"] == "approved" and (declined := self._decline(charge, now)):
            return declined
        fee = fee_of(amount)
        charge.update(captured_amount=amount, capture_id=charge["id"].replace("chg_", "cap_"), fee=fee)
        self._book(charge, charge["capture_id"], "capture", amount)
        self._book(charge, charge["capture_id"], "fee", -fee)
        return self._moved(charge, "captured", now)

    def _decline(self, charge: Json, now: Microseconds) -> tuple[int, Json] | None:
        """Refuse the buyer's choice if it has no money; the charge then goes back to the buyer."""
        decline = DECLINES[charge["choice"]]
        if decline is None:
            charge["decline_code"] = None
            return None
        charge.update(choice=None, decline_code=decline)
        self._moved(charge, "pending_approval", now, event="declined")
        # Kept under its key like a success: a repeat must not try again.
        return 402, {"error": {"code": "declined", "decline_code": decline, "message": "Declined."}}

    def _void(self, charge: Json, now: Microseconds) -> Json:
        if charge["status"] == "captured":
            raise _Refused(409, "not_voidable", "This charge is captured.")
        if charge["status"] not in ("voided", "expired"):
            self._moved(charge, "voided", now)
        return charge

    def _expire(self, charge: Json, now: Microseconds) -> Json:
        if charge["status"] != "authorized":
            raise _Refused(409, "not_authorized", f"The charge is {charge['status']}, not authorized.")
        self._moved(charge, "expired", now)
        return charge

    def _moved(self, charge: Json, status: str, now: Microseconds, *, event: str | None = None) -> tuple[int, Json]:
        charge["status"] = status
        self._tell(f"charge.{event or status}", charge, None, now)
        return 200, self._shown(charge)

    def _charge(self, charge_id: str) -> Json:
        if charge_id not in self._state["charges"]:
            raise _Refused(404, "not_found", "No such charge.")
        charge: Json = self._state["charges"][charge_id]
        return charge

    def _shown(self, charge: Json) -> Json:
        hidden = ("choice", "description", "return_url", "cancel_url")
        return {name: value for name, value in charge.items() if name not in hidden} | {
            "merchant": MERCHANT_ID,
            "live": False,
            "approve_url": f"{self._base_url}/approve/{charge['id']}",
        }

    # ── Refunds ──────────

    def _make_refund(self, charge: Json, amount: object, reference: str | None, now: Microseconds) -> Json:
        if charge["status"] != "captured":
            raise _Refused(409, "not_captured", "Nothing was captured.")
        given = sum(one["amount"] for one in self._refunds_of(charge) if one["status"] != "failed")
        left = charge["captured_amount"] - given
        if left == 0:
            raise _Refused(409, "already_refunded", "All of it was refunded already.")
        if type(amount) is not int or not 0 < amount <= left:
            raise _Refused(422, "bad_amount", f"Up to {left} units can be refunded.")
        refund = {
            "id": "ref_" + _digest(f"{len(self._state['refunds'])}{now}"),
            "charge": charge["id"],
            "status": "pending" if self._state["next_refund_pends"] else "paid_back",
            "amount": amount,
            "currency": charge["currency"],
            "reference": reference,
            "failure_reason": None,
        }
        self._state["refunds"][refund["id"]] = refund
        self._state["next_refund_pends"] = False
        if refund["status"] == "paid_back":
            self._book(charge, refund["id"], "refund", -amount)
        self._tell("refund.created", charge, refund, now)
        return refund

    def _dashboard_refund(self, params: Mapping[str, str], now: Microseconds) -> Json:
        charge = self._charge(params.get("ref", ""))
        given = sum(one["amount"] for one in self._refunds_of(charge) if one["status"] != "failed")
        text = params.get("amount") or str(charge["captured_amount"] - given)
        if not (text.isascii() and text.isdigit()):
            raise ValueError("amount must be a whole number of AcmePay's units")
        return self._make_refund(charge, int(text), None, now)

    def _finish_refund(self, refund: Json, now: Microseconds) -> Json:
        if refund["status"] != "pending":
            raise _Refused(409, "not_pending", f"The refund is {refund['status']}, not pending.")
        charge = self._charge(refund["charge"])
        refund["status"] = "paid_back"
        self._book(charge, refund["id"], "refund", -refund["amount"])
        self._tell("refund.updated", charge, refund, now)
        return refund

    def _fail_refund(self, refund: Json, now: Microseconds) -> Json:
        if refund["status"] == "failed":
            raise _Refused(409, "failed", "The refund has failed already.")
        charge = self._charge(refund["charge"])
        if refund["status"] == "paid_back":
            self._book(charge, refund["id"], "refund_failed", refund["amount"])
        refund.update(status="failed", failure_reason="account_closed")
        self._tell("refund.updated", charge, refund, now)
        return refund

    def _refund(self, refund_id: str) -> Json:
        if refund_id not in self._state["refunds"]:
            raise _Refused(404, "not_found", "No such refund.")
        refund: Json = self._state["refunds"][refund_id]
        return refund

    def _refunds_of(self, charge: Json) -> list[Json]:
        return [refund for refund in self._state["refunds"].values() if refund["charge"] == charge["id"]]

    # ── News and books ──────────

    def _tell(self, kind: str, charge: Json, refund: Json | None, now: Microseconds) -> None:
        self._state["told"] += 1
        event = {
            "id": "evt_" + _digest(f"{self._state['told']}{now}"),
            "type": kind,
            "created": now // SECOND,
            "merchant": MERCHANT_ID,
            "live": False,
            "charge": self._shown(charge),
            "refund": refund,
        }
        # As text: the objects go on changing, and the event has to tell how they were.
        self._state["events"].append(json.dumps(event))

    def _book(self, charge: Json, ref: str, kind: str, units: int) -> None:
        moved = money(units, charge["currency"])
        self._state["books"].append(asdict(BookEntry(ref, kind, moved.minor, moved.currency, charge["reference"])))

    # ── The approval page ──────────

    def _page(self, request: HttpRequest, charge_id: str, now: Microseconds) -> HttpResponse:
        charge = self._state["charges"].get(charge_id)
        if charge is None:
            unknown = "<p>The offline AcmePay does not know this charge.</p>"
            return sandbox_pages.html_page(404, "Not found", unknown)
        if request.method != "POST":
            targets = (charge["return_url"], charge["cancel_url"])
            return sandbox_pages.html_page(200, "Approve the payment", sandbox_pages.form(charge), targets=targets)
        choice = parse_qs(request.body.decode("latin-1")).get("choice", [""])[0]
        if choice == "cancel":
            return sandbox_pages.redirect(charge["cancel_url"])
        if choice not in DECLINES or charge["status"] not in ("pending_approval", "approved"):
            finished = "<p>This charge can't be approved any more. Return to the shop.</p>"
            return sandbox_pages.html_page(409, "Not possible", finished)
        charge["choice"] = choice
        self._moved(charge, "approved", now)
        return sandbox_pages.redirect(charge["return_url"])


def fee_of(amount: int) -> int:
    """What AcmePay keeps of a capture, in its units: one, and 2 %, rounded down. Never more than all of it."""
    return 1 + amount // 50


def _new_state() -> Json:
    return {
        **{"charges": {}, "refunds": {}, "replays": {}, "events": [], "books": []},
        **{"told": 0, "next_refund_pends": False},
    }


def _told(item: Json) -> Mapping[str, str]:
    return {"id": item["id"], "status": item["status"]}


def _signed(body: bytes, timestamp: str) -> HttpRequest:
    headers = {
        "content-type": "application/json",
        webhook.TIMESTAMP: timestamp,
        webhook.SIGNATURE: webhook.signature(SANDBOX_WEBHOOK_SECRET, timestamp, body),
    }
    return HttpRequest("POST", "/webhooks/acme_pay", headers, body)


def _check_alive(charge: Json) -> None:
    if charge["status"] == "captured":
        raise _Refused(409, "already_captured", "This charge is captured already.")
    if charge["status"] in ("voided", "expired"):
        raise _Refused(409, charge["status"], f"This charge is {charge['status']}.")
    if charge["status"] == "pending_approval":
        raise _Refused(409, "not_approved", "The buyer has not approved this charge.")


def _check(body: Json) -> None:
    amount, currency = body.get("amount"), body.get("currency")
    if type(amount) is not int or not 0 < amount <= LARGEST_UNITS or currency not in EXPONENTS:
        raise _Refused(422, "bad_amount", "The amount or the currency can't be used.")
    if body.get("capture") not in ("automatic", "manual"):
        raise _Refused(422, "bad_request", "capture is automatic or manual.")
    for name in ("reference", "order", "description", "return_url", "cancel_url"):
        if not isinstance(body.get(name), str) or not body[name]:
            raise _Refused(422, "bad_request", f"{name} is missing.")
    if any(urlsplit(body[name]).scheme not in ("http", "https") for name in ("return_url", "cancel_url")):
        raise _Refused(422, "bad_request", "A return address is no web address.")


def _reference(body: Json) -> str:
    reference = body.get("reference")
    if not isinstance(reference, str) or not reference:
        raise _Refused(422, "bad_request", "reference is missing.")
    return reference


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
