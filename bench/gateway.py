"""A fake Stripe as light as can be, with a dial for its latency. Whatever is created is paid by its buyer at once.

It answers with objects of Stripe's own size (the shapes are those of the offline twin), and the real client takes them
unchanged. `python -m bench.gateway SECONDS` serves it; SECONDS is the latency of every answer.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import sys
import time
from typing import Any
from urllib.parse import parse_qsl

from bench.child import end_with_parent, serve
from bench.http11 import answer, target
from paidonce.gateways.stripe.sandbox.shapes import EMPTY, EMPTY_CHARGE
from paidonce.gateways.stripe.wire import API_VERSION

ACCOUNT = "acct_1BenchBenchBench"
WEBHOOK_SECRET = "whsec_bench0123456789abcdefghij"  # noqa: S105 - signs nothing but what this file makes up.
_INTENTS = b"/v1/payment_intents"
# What the peers use: Stripe's own page.
_SESSIONS = b"/v1/checkout/sessions"


class Gateway:
    """All that was created here, by id."""

    def __init__(self, latency_seconds: float) -> None:
        self._latency = latency_seconds
        # A database outlives this process, and its payments know their objects by these numbers.
        self._numbers = itertools.count(time.time_ns())
        self._intents: dict[str, dict[str, Any]] = {}
        self._sessions: dict[str, dict[str, Any]] = {}

    async def handle(self, head: bytes, body: bytes) -> bytes:
        """Answer one request."""
        if self._latency:
            await asyncio.sleep(self._latency)
        method, path = target(head)
        path = path.partition(b"?")[0]
        if path == _INTENTS and method == b"POST":
            return _told(self._create(body))
        if path.startswith(_INTENTS + b"/") and method == b"GET":
            known = self._intents.get(path.rpartition(b"/")[2].decode())
            return _not_found() if known is None else _told(paid(known))
        if path == _SESSIONS and method == b"POST":
            return _told(self._create_session(body))
        if path.startswith(_SESSIONS + b"/") and method == b"GET":
            session = self._sessions.get(path.rpartition(b"/")[2].decode())
            return _not_found() if session is None else _told(paid_session(session))
        if path == b"/v1/account":
            return _told({"id": ACCOUNT, "object": "account", "livemode": False})
        return _not_found()

    def _create(self, body: bytes) -> dict[str, Any]:
        form = dict(parse_qsl(body.decode()))
        ref = f"pi_{next(self._numbers):024d}"
        intent = {
            **EMPTY,
            "id": ref,
            "amount": int(form["amount"]),
            "currency": form["currency"],
            "capture_method": form.get("capture_method", "automatic"),
            "client_secret": f"{ref}_secret_bench",
            "created": int(time.time()),
            "metadata": {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")},
        }
        self._intents[ref] = intent
        return intent

    def _create_session(self, body: bytes) -> dict[str, Any]:
        form = dict(parse_qsl(body.decode()))
        ref = f"cs_test_{next(self._numbers):024d}"
        session = {
            "id": ref,
            "object": "checkout.session",
            "amount_total": int(form["line_items[0][price_data][unit_amount]"]),
            "client_reference_id": form["client_reference_id"],
            "created": int(time.time()),
            "currency": form["line_items[0][price_data][currency]"],
            "livemode": False,
            "mode": "payment",
            "payment_intent": None,
            "payment_status": "unpaid",
            "status": "open",
            "success_url": form["success_url"],
            "url": f"https://checkout.stripe.com/c/pay/{ref}",
        }
        self._sessions[ref] = session
        return session


def paid_session(session: dict[str, Any]) -> dict[str, Any]:
    """The session after its buyer has paid on Stripe's page."""
    intent = session["id"].replace("cs_test_", "pi_")
    return {**session, "payment_intent": intent, "payment_status": "paid", "status": "complete", "url": None}


def paid(intent: dict[str, Any]) -> dict[str, Any]:
    """The intent after its buyer has confirmed it, with charge and fee as the client asks to have them expanded."""
    ref, amount = intent["id"], intent["amount"]
    movement = {
        "id": ref.replace("pi_", "txn_"),
        "object": "balance_transaction",
        "amount": amount,
        "currency": intent["currency"],
        "fee": amount * 15 // 1000 + 25,
        "net": amount - (amount * 15 // 1000 + 25),
        "type": "charge",
    }
    charge = {
        **EMPTY_CHARGE,
        "id": charge_of(ref),
        "amount": amount,
        "amount_captured": amount,
        "balance_transaction": movement,
        "captured": True,
        "currency": intent["currency"],
        "metadata": intent["metadata"],
        "paid": True,
        "payment_intent": ref,
        "status": "succeeded",
    }
    return {**intent, "status": "succeeded", "amount_received": amount, "latest_charge": charge}


def charge_of(ref: str) -> str:
    """The id of the charge behind an intent."""
    return ref.replace("pi_", "ch_")


def webhook(ref: str, payment_id: str, amount: int, *, event_id: str) -> tuple[str, bytes]:
    """The signed news that the intent was paid: the header `Stripe-Signature`, and the body."""
    now = int(time.time())
    intent = {
        **EMPTY,
        "id": ref,
        "amount": amount,
        "amount_received": amount,
        "currency": "eur",
        "capture_method": "automatic",
        "created": now,
        "latest_charge": charge_of(ref),
        "metadata": {"payment_id": payment_id},
        "status": "succeeded",
    }
    return _signed("payment_intent.succeeded", intent, event_id, now)


def session_webhook(session: str, reference: str, amount: int, *, event_id: str) -> tuple[str, bytes]:
    """The same for a session of Stripe's own page."""
    now = int(time.time())
    made = {
        "id": session,
        "object": "checkout.session",
        "amount_total": amount,
        "client_reference_id": reference,
        "created": now,
        "currency": "eur",
        "livemode": False,
        "mode": "payment",
    }
    return _signed("checkout.session.completed", paid_session(made), event_id, now)


def _signed(kind: str, about: dict[str, Any], event_id: str, now: int) -> tuple[str, bytes]:
    event = {
        "id": event_id,
        "object": "event",
        "api_version": API_VERSION,
        "created": now,
        "data": {"object": about},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }
    body = json.dumps(event).encode()
    signature = hmac.new(WEBHOOK_SECRET.encode(), f"{now}.".encode() + body, "sha256").hexdigest()
    return f"t={now},v1={signature}", body


def _told(data: dict[str, Any]) -> bytes:
    return answer(200, json.dumps(data).encode())


def _not_found() -> bytes:
    return answer(404, b'{"error": {"type": "invalid_request_error", "code": "resource_missing"}}')


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(serve(Gateway(float(sys.argv[1])).handle))
