"""The offline Mollie as a pure state machine: Payments API v2, unsigned webhooks, the hosted checkout.

It follows Mollie's documents where they state a rule, and is the stricter of two readings where they don't: of open
payments it lets only bank transfers be canceled, and refusals are repeated under their idempotency key like successes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from paidonce.gateways.base import BookEntry, HttpRequest, HttpResponse
from paidonce.gateways.mollie.sandbox import pages
from paidonce.gateways.mollie.sandbox.controls import CONTROLS, Controls
from paidonce.gateways.mollie.sandbox.payments import CHOICES, Payments
from paidonce.gateways.mollie.sandbox.replies import Context, Refused, answer, first_values, refusal
from paidonce.gateways.mollie.sandbox.shapes import Shapes, money
from paidonce.gateways.mollie.sandbox.state import KEY_SECONDS, State
from paidonce.gateways.mollie.settings import SANDBOX_KEY
from paidonce.ports import SECOND, Microseconds

Json = dict[str, Any]

_CHECKOUT = re.compile(r"/checkout/select-method/([A-Za-z0-9]{1,64})")
_LARGEST_PAGE = 250
_LONGEST_KEY = 255
# Where the body of a key's answer is not kept: the request was not carried out at all.
_NOT_STORED = frozenset({401, 409})


class MollieSandbox:
    """Implements `gateways.base.SandboxCore`. Browsers reach the twin at `base_url`."""

    name = "mollie"
    controls = CONTROLS

    def __init__(self, base_url: str) -> None:
        self._state = State()
        self._shapes = Shapes(self._state, base_url.rstrip("/"))
        self._payments = Payments(self._state)
        self._controls = Controls(self._state, self._payments)

    def dump(self) -> str:
        """The whole state as JSON."""
        return self._state.dump()

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave."""
        self._state.load(text)

    def control(self, name: str, params: Mapping[str, str], *, now: Microseconds) -> Mapping[str, str]:
        """Carry out one of `controls`. Raises `ValueError` naming what is wrong."""
        return self._controls.run(name, params, now)

    def take_webhooks(self, *, now: Microseconds) -> list[HttpRequest]:
        """The webhooks that came up since the last call, oldest first, each once. Nobody signs them."""
        for payment in self._state.payments.values():
            self._payments.age(payment, now)
        return self._state.take()

    def books(self) -> tuple[BookEntry, ...]:
        """Everything that moved the merchant's money, oldest first."""
        return tuple(self._entry(**one) for one in self._state.books)

    def _entry(self, *, payment: str, object: str, kind: str, minor: int) -> BookEntry:
        known = self._state.payments[payment]
        metadata = known["metadata"] if isinstance(known["metadata"], dict) else {}
        return BookEntry(object, kind, minor, known["currency"], metadata.get("payment_id"))

    def look(self, kind: str) -> Mapping[str, Json]:
        """The living records of a kind (`payments`, `refunds`, `chargebacks`) by id, to be read only."""
        found: Mapping[str, Json] = vars(self._state)[kind]
        return found

    def choose(self, ref: str, choice: str, *, now: Microseconds) -> None:
        """What the buyer does at the checkout, for tests without a browser. Raises `ValueError` if it can't be done."""
        assert choice in CHOICES, f"the choices are {CHOICES}"
        try:
            self._payments.choose(self._payments.get(ref, now), choice, now)
        except Refused as refused:
            raise ValueError(refused.detail) from None

    def handle(self, request: HttpRequest, *, now: Microseconds) -> HttpResponse:
        """Answer one request to the API or to the checkout."""
        address = urlsplit(request.url)
        context = Context(
            request.method.upper(),
            address.path,
            first_values(address.query),
            {name.lower(): value for name, value in request.headers.items()},
            request.body,
            now,
        )
        if not context.path.startswith("/v2/"):
            return self._page(context)
        try:
            return self._api(context)
        except Refused as refused:
            return refusal(refused)

    # ── The API ──────────

    def _api(self, context: Context) -> HttpResponse:
        scheme, _, key = context.headers.get("authorization", "").partition(" ")
        # Real keys have no business here, live or test.
        if scheme.lower() != "bearer" or key != SANDBOX_KEY:
            raise Refused(401, "Missing authentication, or failed to authenticate")
        steps = [unquote(step) for step in context.path.removeprefix("/v2/").split("/")]
        if context.method == "POST":
            return self._once(context, steps)
        return self._route(context, steps)

    def _once(self, context: Context, steps: list[str]) -> HttpResponse:
        """Carry a POST out, or repeat the answer that its key has got already. Raises `Refused`."""
        key = context.headers.get("idempotency-key")
        if key is None:
            return self._route(context, steps)
        if not 0 < len(key) <= _LONGEST_KEY:
            raise Refused(400, "The idempotency key is too long")
        fingerprint = hashlib.sha256(context.path.encode() + b"\n" + context.body).hexdigest()
        self._forget_old_keys(context.now)
        kept = self._state.keys.get(key)
        if kept is not None:
            if kept["fingerprint"] != fingerprint:
                raise Refused(400, "The idempotency key was used with another request before")
            answered = HttpResponse(kept["status"], {"content-type": "application/hal+json"}, kept["body"].encode())
            return HttpResponse(answered.status, {**answered.headers, "idempotent-replayed": "true"}, answered.body)
        try:
            answered = self._route(context, steps)
        except Refused as refused:
            answered = refusal(refused)
        if answered.status not in _NOT_STORED:
            self._state.keys[key] = {
                "fingerprint": fingerprint,
                "status": answered.status,
                "body": answered.body.decode(),
                "until": context.now + KEY_SECONDS * SECOND,
            }
        return answered

    def _forget_old_keys(self, now: Microseconds) -> None:
        # Oldest first, as dictionaries keep their order.
        for key in list(self._state.keys):
            if self._state.keys[key]["until"] > now:
                return
            del self._state.keys[key]

    def _route(self, context: Context, steps: list[str]) -> HttpResponse:
        match context.method, steps:
            case "GET", ["profiles", "me"]:
                return answer(200, self._shapes.profile())
            case "GET", ["methods"]:
                return answer(200, self._shapes.methods(context.query.get("amount[currency]", "EUR")))
            case "POST", ["payments"]:
                return answer(201, self._shapes.payment(self._payments.create(context.json(), context.now)))
            case method, ["payments", ref, *rest]:
                return self._of_payment(context, method, self._payments.get(ref, context.now), rest)
        raise Refused(404, "No such resource exists.")

    def _of_payment(self, context: Context, method: str, payment: Json, rest: list[str]) -> HttpResponse:
        lists = {
            "captures": self._shapes.capture,
            "refunds": self._shapes.refund,
            "chargebacks": self._shapes.chargeback,
        }
        match method, rest:
            case "GET", []:
                return answer(200, self._shapes.payment(payment))
            case "DELETE", []:
                self._payments.cancel(payment)
                return answer(200, self._shapes.payment(payment))
            case "POST", ["release-authorization"]:
                self._payments.release(payment)
                return answer(202, None)
            case "POST", ["captures"]:
                made = self._payments.capture(payment, context.json(), context.now)
                return answer(201, self._shapes.capture(payment, made))
            case "POST", ["refunds"]:
                made = self._payments.refund(payment, context.json(), context.now)
                return answer(201, self._shapes.refund(payment, made))
            case "GET", [kind] if kind in lists:
                return answer(200, self._listed(context, payment, kind, lists[kind]))
        raise Refused(404, "No such resource exists.")

    def _listed(self, context: Context, payment: Json, kind: str, show: Callable[[Json, Json], Json]) -> Json:
        newest_first = list(reversed(self._state.of(kind, payment)))
        begins = context.query.get("from")
        if begins is not None:
            ids = [one["id"] for one in newest_first]
            if begins not in ids:
                raise Refused(400, "There is no such object in this list", "from")
            newest_first = newest_first[ids.index(begins) :]
        text = context.query.get("limit", "50")
        limit = int(text) if text.isascii() and text.isdigit() else 0
        if not 0 < limit <= _LARGEST_PAGE:
            raise Refused(400, "The limit is out of range", "limit")
        return self._shapes.page(context.path, kind, [show(payment, one) for one in newest_first], limit)

    # ── The hosted checkout ──────────

    def _page(self, context: Context) -> HttpResponse:
        if context.method == "GET" and context.path == pages.STYLE_PATH:
            return pages.style()
        match = _CHECKOUT.fullmatch(context.path)
        try:
            payment = self._payments.get(f"tr_{match[1]}", context.now) if match else None
        except Refused:
            payment = None
        if payment is None:
            return pages.not_found(context.path)
        if context.method == "POST":
            return self._chosen(context, payment)
        return pages.checkout(context.path, _shown(payment))

    def _chosen(self, context: Context, payment: Json) -> HttpResponse:
        choice = context.form().get("choice", "")
        try:
            if choice not in CHOICES:
                return pages.not_found(context.path)
            self._payments.choose(payment, choice, context.now)
        except Refused:
            return pages.checkout(context.path, _shown(payment), status=409)
        if choice == "declined":
            # As at Mollie: back to the choice of methods, on the same payment, and the shop hears nothing of it.
            return pages.redirect(self._shapes.checkout_url(payment))
        back = payment["cancel_url"] if choice == "cancel" else None
        return pages.redirect(back or payment["redirect_url"])


def _shown(payment: Json) -> pages.Shown:
    amount = money(payment, payment["minor"])
    return pages.Shown(
        description=payment["description"],
        amount=f"{amount['value']} {amount['currency']}",
        status=payment["status"],
        waits_for_transfer=payment["status"] == "open" and payment["method"] == "banktransfer",
        declined=payment["declined"],
        manual=payment["manual"],
        return_urls=tuple(url for url in (payment["redirect_url"], payment["cancel_url"]) if url),
    )
