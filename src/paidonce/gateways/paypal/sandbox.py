"""The offline PayPal: Orders v2, captures, tokens and the approval page as a pure state machine.

It follows PayPal's rules where `docs` and PayPal's OpenAPI file state them, and is the stricter of two readings where
they don't: a request id that comes back with another body is refused, and a declined capture is repeated as declined
under its request id, so a client that reuses keys wrongly is found here and not at PayPal.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.paypal import sandbox_pages as pages
from paidonce.gateways.paypal import wire
from paidonce.ports import SECOND, Microseconds

MERCHANT_ID = "SANDBXMERCHNT"
PAYER_ID = "SANDBXBUYER22"
TOKEN_SECONDS = 32_400
REQUEST_ID_SECONDS = 6 * 3600
APPROVAL_SECONDS = 3 * 3600
ECHECK_SECONDS = 3 * 24 * 3600
MOST_DECLINES = 3
FUNDING = ("balance", "declined", "pending")
LARGEST_BODY = 256 * 1024

Json = dict[str, Any]

_MESSAGES = {
    400: ("INVALID_REQUEST", "Request is not well-formed, syntactically incorrect, or violates schema."),
    404: ("RESOURCE_NOT_FOUND", "The specified resource does not exist."),
    405: ("METHOD_NOT_SUPPORTED", "The server does not implement the requested HTTP method."),
    422: (
        "UNPROCESSABLE_ENTITY",
        "The requested action could not be performed, semantically incorrect, or failed business validation.",
    ),
}
_DESCRIPTIONS = {
    "AMOUNT_MISMATCH": (
        "Should equal item_total + tax_total + shipping + handling + insurance - shipping_discount - discount."
    ),
    "CANNOT_BE_ZERO_OR_NEGATIVE": (
        "Must be greater than zero. If the currency supports decimals, only two decimal place precision is supported."
    ),
    "COMPLIANCE_VIOLATION": "Transaction is declined due to compliance violation.",
    "DECIMAL_PRECISION": ("If the currency supports decimals, only two decimal place precision is supported."),
    "DUPLICATE_INVOICE_ID": (
        "Duplicate Invoice ID detected. To avoid a potential duplicate transaction your account setting requires that "
        "Invoice Id be unique for each transaction."
    ),
    "INSTRUMENT_DECLINED": (
        "The instrument presented  was either declined by the processor or bank, or it can't be used for this payment."
    ),
    "INVALID_ARRAY_MAX_ITEMS": "The number of items in an array parameter is too large.",
    "INVALID_CURRENCY_CODE": (
        "Currency code is invalid or is not currently supported. Please refer "
        "https://developer.paypal.com/api/rest/reference/currency-codes/ for list of supported currency codes."
    ),
    "INVALID_PARAMETER_SYNTAX": "The value of a field does not conform to the expected format.",
    "INVALID_PARAMETER_VALUE": "A parameter value is not valid.",
    "INVALID_STRING_LENGTH": "The value of a field is either too short or too long",
    "MALFORMED_REQUEST_JSON": "The request JSON is not well formed.",
    "MISSING_REQUIRED_PARAMETER": "A required parameter is missing.",
    "MULTI_CURRENCY_ORDER": (
        "Multiple differing values of currency_code are not supported. Entire Order request must have the same "
        "currency_code."
    ),
    "PAYER_ACTION_REQUIRED": "Transaction cannot complete successfully, instruct the buyer to return to PayPal.",
    "TRANSACTION_REFUSED": "The request was refused.",
    "UNSUPPORTED_INTENT": (
        "`intent=AUTHORIZE` is not supported for multiple purchase units. Only `intent=CAPTURE` is supported."
    ),
    "INVALID_RESOURCE_ID": "Specified resource ID does not exist. Please check the resource ID and try again.",
    "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED": "You have exceeded the maximum number of payment attempts.",
    "ORDER_ALREADY_CAPTURED": ("Order already captured.If 'intent=CAPTURE' only one capture per order is allowed."),
    "ORDER_NOT_APPROVED": (
        "Payer has not yet approved the Order for payment. Please redirect the payer to the 'rel':'approve' url "
        "returned as part of the HATEOAS links within the Create Order call or provide a valid `payment_source` in "
        "the request."
    ),
}


class _Refused(Exception):
    def __init__(self, status: int, issue: str, field: str | None = None, value: str | None = None) -> None:
        self.status, self.issue, self.field, self.value = status, issue, field, value
        super().__init__(issue)


@dataclass(frozen=True)
class _Context:
    """One request, taken apart."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    now: Microseconds


class PayPalSandbox:
    """Implements `gateways.base.SandboxCore`. `base_url` is where browsers reach the twin, without a slash at its end.

    `unique_invoices` turns on the account setting that refuses a second capture with the same `invoice_id`.
    """

    name = "paypal"

    def __init__(self, base_url: str, *, unique_invoices: bool = False) -> None:
        self._base_url = base_url.rstrip("/")
        self._unique_invoices = unique_invoices
        self._reset()

    def _reset(self) -> None:
        self._count = 0
        self._orders: dict[str, Json] = {}
        self._tokens: dict[str, Microseconds] = {}
        self._requests: dict[str, Json] = {}

    def dump(self) -> str:
        """The whole state as JSON."""
        state = {
            "count": self._count,
            "orders": self._orders,
            "tokens": self._tokens,
            "requests": self._requests,
        }
        return json.dumps(state, sort_keys=True)

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave."""
        state = json.loads(text)
        self._count = state["count"]
        self._orders = state["orders"]
        self._tokens = state["tokens"]
        self._requests = state["requests"]

    def approve(self, order_id: str, *, now: Microseconds, funding: str = "balance") -> None:
        """What the buyer does on the approval page, for tests without a browser. `KeyError` for no such order."""
        assert funding in FUNDING, f"funding is one of {FUNDING}"
        self._approve(self._orders[order_id], funding, now)

    def clear_pending(self, order_id: str, *, now: Microseconds, status: str = "COMPLETED") -> None:
        """End a pending capture as the bank would after some days: `COMPLETED` or `DECLINED`."""
        order = self._orders[order_id]
        capture = order["capture"]
        assert (capture or {}).get("status") == "PENDING", "there is no pending capture"
        capture.update(status=status, reason=None, updated=now)

    def handle(self, request: HttpRequest, *, now: Microseconds) -> HttpResponse:
        """Answer one request to PayPal's API, script or approval page."""
        self._count += 1
        address = urlsplit(request.url)
        context = _Context(
            request.method.upper(),
            address.path,
            _first(address.query),
            {name.lower(): value for name, value in request.headers.items()},
            request.body,
            now,
        )
        response = self._route(context)
        debug_id = hashlib.sha256(f"debug:{self._count}".encode()).hexdigest()[:13]
        return HttpResponse(response.status, {**response.headers, "paypal-debug-id": debug_id}, response.body)

    def _route(self, context: _Context) -> HttpResponse:
        if context.path.startswith(("/v1/", "/v2/")):
            return self._api(context)
        if static := pages.static(context.method, context.path):
            return static
        routes: dict[tuple[str, str], Callable[[_Context], HttpResponse]] = {
            ("GET", "/web-sdk/v6/eligibility"): self._eligibility,
            ("GET", "/checkoutnow"): self._page,
            ("POST", "/checkoutnow/approve"): self._page_approve,
            ("POST", "/checkoutnow/cancel"): self._page_cancel,
        }
        route = routes.get((context.method, context.path))
        return route(context) if route else pages.not_found(context.path)

    # --- API -----------------------------------------------------------------------------------------------------

    def _api(self, context: _Context) -> HttpResponse:
        if context.path == "/v1/oauth2/token":
            return self._token(context)
        if (refusal := self._unauthorized(context)) is not None:
            return refusal
        try:
            return self._resource(context)
        except _Refused as refused:
            return self._error(refused)

    def _resource(self, context: _Context) -> HttpResponse:
        match context.method, context.path.strip("/").split("/"):
            case "POST", ["v2", "checkout", "orders"]:
                return self._create(context)
            case "GET", ["v2", "checkout", "orders", order_id]:
                return _json(200, self._represent(self._order(order_id, context.now)))
            case "POST", ["v2", "checkout", "orders", order_id, "capture"]:
                return self._capture(context, self._order(order_id, context.now))
            case "GET", ["v2", "payments", "captures", capture_id]:
                return self._read_capture(context, capture_id)
        raise _Refused(404, "INVALID_RESOURCE_ID")

    def _token(self, context: _Context) -> HttpResponse:
        if context.method != "POST":
            return self._error(_Refused(405, "METHOD_NOT_SUPPORTED"))
        client_id, secret = _basic(context.headers.get("authorization", ""))
        # Real credentials have no business here; the well-known ones all begin with this word.
        if not client_id.startswith("sandbox") or not secret.startswith("sandbox"):
            return _json(401, {"error": "invalid_client", "error_description": "Client Authentication failed"})
        if _first(context.body.decode("latin-1")).get("grant_type") != "client_credentials":
            wrong = "unsupported_grant_type"
            return _json(400, {"error": wrong, "error_description": "unsupported grant_type"})
        value = "A21AA" + self._new_id("token", context.now) + self._new_id("token-tail", context.now)
        self._tokens = {token: ends for token, ends in self._tokens.items() if ends > context.now}
        self._tokens[value] = context.now + TOKEN_SECONDS * SECOND
        return _json(
            200,
            {
                "scope": "https://uri.paypal.com/services/checkout/one-click-with-merchant-issued-token",
                "access_token": value,
                "token_type": "Bearer",
                "app_id": "APP-OFFLINESANDBOX",
                "expires_in": TOKEN_SECONDS,
                "nonce": datetime.fromtimestamp(context.now / SECOND, UTC).isoformat(),
            },
        )

    def revoke_tokens(self) -> None:
        """Forget every access token, as PayPal does now and then before they end."""
        self._tokens = {}

    def _unauthorized(self, context: _Context) -> HttpResponse | None:
        scheme, _, token = context.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._tokens.get(token, 0) > context.now:
            return None
        problem = {"error": "invalid_token", "error_description": "Token signature verification failed"}
        return _json(401, problem)

    def _create(self, context: _Context) -> HttpResponse:
        body = _body(context)
        if (replay := self._replay(context, "create", body)) is not None:
            return replay
        unit = _check_order(body)
        order_id = self._new_id("order", context.now)
        source = body.get("payment_source", {})
        experience = source.get("paypal", {}).get("experience_context", {}) if isinstance(source, dict) else {}
        self._orders[order_id] = {
            "id": order_id,
            # PayPal starts an order that names its payment source as PAYER_ACTION_REQUIRED, any other one as CREATED.
            "status": "PAYER_ACTION_REQUIRED" if source else "CREATED",
            "named_source": bool(source),
            "unit": unit,
            "return_url": experience.get("return_url"),
            "cancel_url": experience.get("cancel_url"),
            "funding": None,
            "approved": None,
            "declines": 0,
            "capture": None,
            "created": context.now,
            "updated": context.now,
        }
        self._remember(context, "create", body, {"order": order_id})
        return self._preferred(context, 201, self._orders[order_id])

    def _capture(self, context: _Context, order: Json) -> HttpResponse:
        body = _body(context)
        what = f"capture {order['id']}"
        if (replay := self._replay(context, what, body)) is not None:
            return replay
        try:
            self._take_money(context, order)
        except _Refused as refused:
            if refused.issue == "INSTRUMENT_DECLINED":
                self._remember(context, what, body, {"order": order["id"], "issue": refused.issue})
            raise
        self._remember(context, what, body, {"order": order["id"]})
        return self._preferred(context, 201, order)

    def _take_money(self, context: _Context, order: Json) -> None:
        if order["capture"] is not None:
            raise _Refused(422, "ORDER_ALREADY_CAPTURED")
        if order["declines"] >= MOST_DECLINES:
            order.update(status="VOIDED", updated=context.now)
            raise _Refused(422, "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED")
        if order["status"] != "APPROVED":
            raise _Refused(422, "ORDER_NOT_APPROVED")
        if mocked := _mocked(context):
            if mocked == "INSTRUMENT_DECLINED":
                self._decline(order, context.now)
            raise _Refused(422, mocked)
        if self._unique_invoices and self._invoice_is_paid(order):
            raise _Refused(422, "DUPLICATE_INVOICE_ID", "/purchase_units/0/invoice_id")
        if order["funding"] == "declined":
            self._decline(order, context.now)
            raise _Refused(422, "INSTRUMENT_DECLINED")
        pending = order["funding"] == "pending"
        order["capture"] = {
            "id": self._new_id("capture", context.now),
            "status": "PENDING" if pending else "COMPLETED",
            "reason": "ECHECK" if pending else None,
            "created": context.now,
            "updated": context.now,
        }
        order.update(status="COMPLETED", updated=context.now)

    def _decline(self, order: Json, now: Microseconds) -> None:
        order["declines"] += 1
        order.update(status="PAYER_ACTION_REQUIRED", funding=None, approved=None, updated=now)

    def _invoice_is_paid(self, order: Json) -> bool:
        invoice = order["unit"].get("invoice_id")
        others = (other for other in self._orders.values() if other["id"] != order["id"] and other["capture"])
        return invoice is not None and any(other["unit"].get("invoice_id") == invoice for other in others)

    def _read_capture(self, context: _Context, capture_id: str) -> HttpResponse:
        for order_id, order in self._orders.items():
            if order["capture"] is not None and order["capture"]["id"] == capture_id:
                capture = self._capture_object(self._order(order_id, context.now))
                capture["payee"] = _payee()
                capture["supplementary_data"] = {"related_ids": {"order_id": order_id}}
                return _json(200, capture)
        raise _Refused(404, "INVALID_RESOURCE_ID", "capture_id", capture_id)

    # --- State ---------------------------------------------------------------------------------------------------

    def _order(self, order_id: str, now: Microseconds) -> Json:
        order = self._orders.get(order_id)
        if order is None:
            raise _Refused(404, "INVALID_RESOURCE_ID", "order_id", order_id[:64])
        self._age(order, now)
        return order

    def _age(self, order: Json, now: Microseconds) -> None:
        """What time alone does: an unused approval is reversed, an eCheck clears."""
        if order["status"] == "APPROVED" and now >= order["approved"] + APPROVAL_SECONDS * SECOND:
            status = "PAYER_ACTION_REQUIRED" if order["named_source"] else "CREATED"
            order.update(status=status, funding=None, approved=None, updated=now)
        capture = order["capture"]
        if capture and capture["status"] == "PENDING" and now >= capture["created"] + ECHECK_SECONDS * SECOND:
            capture.update(status="COMPLETED", reason=None, updated=now)

    def _approve(self, order: Json, funding: str, now: Microseconds) -> None:
        if order["status"] in ("CREATED", "SAVED", "PAYER_ACTION_REQUIRED", "APPROVED"):
            order.update(status="APPROVED", funding=funding, approved=now, updated=now)

    def _new_id(self, kind: str, now: Microseconds) -> str:
        """17 characters as PayPal has them. The time keeps a twin that lost its state from repeating old ids."""
        digest = hashlib.sha256(f"{kind}:{self._count}:{now}".encode()).digest()
        return base64.b32encode(digest).decode("ascii")[:17]

    def _replay(self, context: _Context, what: str, body: Json) -> HttpResponse | None:
        """The answer to a request id seen before: the latest state of its order, or its stored refusal."""
        request_id = context.headers.get("paypal-request-id")
        if request_id is None:
            return None
        if not 0 < len(request_id) <= 108:
            raise _Refused(400, "INVALID_STRING_LENGTH", "PayPal-Request-Id")
        stored = self._requests.get(request_id)
        if stored is None or context.now >= stored["at"] + REQUEST_ID_SECONDS * SECOND:
            return None
        if stored["print"] != _print(what, body):
            raise _Refused(422, "DUPLICATE_REQUEST_ID", "PayPal-Request-Id")
        if "issue" in stored:
            raise _Refused(422, stored["issue"])
        return self._preferred(context, 200, self._order(stored["order"], context.now))

    def _remember(self, context: _Context, what: str, body: Json, outcome: Json) -> None:
        if (request_id := context.headers.get("paypal-request-id")) is not None:
            self._requests[request_id] = {"at": context.now, "print": _print(what, body), **outcome}

    # --- Representations -----------------------------------------------------------------------------------------

    def _preferred(self, context: _Context, status: int, order: Json) -> HttpResponse:
        full = self._represent(order)
        if "return=representation" in context.headers.get("prefer", ""):
            return _json(status, full)
        return _json(status, {name: full[name] for name in ("id", "status", "links")})

    def _represent(self, order: Json) -> Json:
        unit: Json = {"reference_id": "default", **order["unit"], "payee": _payee()}
        if order["capture"] is not None:
            unit["payments"] = {"captures": [self._capture_object(order)]}
        full: Json = {
            "id": order["id"],
            "intent": "CAPTURE",
            "status": order["status"],
            "purchase_units": [unit],
            "create_time": _time(order["created"]),
            "update_time": _time(order["updated"]),
            "links": self._links(order),
        }
        if order["funding"] is not None:
            full["payment_source"] = {"paypal": _wallet()}
            full["payer"] = {
                "email_address": "buyer@sandbox.example",
                "payer_id": PAYER_ID,
                "name": {"given_name": "Sandbox", "surname": "Buyer"},
            }
        return full

    def _links(self, order: Json) -> list[Json]:
        here = f"{self._base_url}/v2/checkout/orders/{order['id']}"
        links = [{"href": here, "rel": "self", "method": "GET"}]
        if order["status"] in ("CREATED", "SAVED", "PAYER_ACTION_REQUIRED"):
            approval = f"{self._base_url}/checkoutnow?{urlencode({'token': order['id']})}"
            rel = "payer-action" if order["status"] == "PAYER_ACTION_REQUIRED" else "approve"
            links.append({"href": approval, "rel": rel, "method": "GET"})
        if order["status"] == "APPROVED":
            links.append({"href": here + "/capture", "rel": "capture", "method": "POST"})
        return links

    def _capture_object(self, order: Json) -> Json:
        capture = order["capture"]
        amount = {name: order["unit"]["amount"][name] for name in ("currency_code", "value")}
        here = f"{self._base_url}/v2/payments/captures/{capture['id']}"
        full: Json = {
            "id": capture["id"],
            "status": capture["status"],
            "amount": amount,
            "final_capture": True,
            "seller_protection": {"status": "NOT_ELIGIBLE"},
            "create_time": _time(capture["created"]),
            "update_time": _time(capture["updated"]),
            "links": [
                {"href": here, "rel": "self", "method": "GET"},
                {"href": f"{self._base_url}/v2/checkout/orders/{order['id']}", "rel": "up", "method": "GET"},
            ],
        }
        for name in ("custom_id", "invoice_id"):
            if name in order["unit"]:
                full[name] = order["unit"][name]
        if capture["reason"]:
            full["status_details"] = {"reason": capture["reason"]}
        return full

    def _error(self, refused: _Refused) -> HttpResponse:
        name, message = _MESSAGES[refused.status]
        description = _DESCRIPTIONS.get(refused.issue, f"The offline sandbox refused this: {refused.issue}.")
        detail = {"issue": refused.issue, "description": description}
        if refused.field is not None:
            detail["field"] = refused.field
        if refused.value is not None:
            detail["value"] = refused.value
        help_link = f"https://developer.paypal.com/api/rest/reference/orders/v2/errors/#{refused.issue}"
        body = {
            "name": name,
            "message": message,
            "debug_id": hashlib.sha256(f"debug:{self._count}".encode()).hexdigest()[:13],
            "details": [detail],
            "links": [{"href": help_link, "rel": "information_link", "method": "GET"}],
        }
        return _json(refused.status, body)

    # --- Browser -------------------------------------------------------------------------------------------------

    def _eligibility(self, context: _Context) -> HttpResponse:
        """Which client ids and currencies the stand-in script may offer."""
        known = context.query.get("client_id", "").startswith("sandbox")
        eligible = known and context.query.get("currency", "USD") in wire.EXPONENTS
        answer = _json(200 if known else 404, {"known_client": known, "paypal": eligible})
        return HttpResponse(answer.status, {**answer.headers, "access-control-allow-origin": "*"}, answer.body)

    def _page(self, context: _Context) -> HttpResponse:
        order = self._known(context.query.get("token", ""), context.now)
        if order is None:
            return pages.not_found(context.path)
        return pages.approval(context.path, _shown(order), opener=_opener(context.query))

    def _page_approve(self, context: _Context) -> HttpResponse:
        form = _first(context.body.decode("latin-1"))
        order = self._known(form.get("token", ""), context.now)
        if order is None or form.get("funding") not in FUNDING:
            return pages.not_found(context.path)
        self._approve(order, form["funding"], context.now)
        back = {"token": order["id"], "PayerID": PAYER_ID}
        return _leave(context.path, order["return_url"], back, "approve", opener=_opener(form))

    def _page_cancel(self, context: _Context) -> HttpResponse:
        form = _first(context.body.decode("latin-1"))
        order = self._known(form.get("token", ""), context.now)
        if order is None:
            return pages.not_found(context.path)
        return _leave(context.path, order["cancel_url"], {"token": order["id"]}, "cancel", opener=_opener(form))

    def _known(self, order_id: str, now: Microseconds) -> Json | None:
        try:
            return self._order(order_id, now)
        except _Refused:
            return None


def _leave(path: str, address: str | None, back: Mapping[str, str], news: str, *, opener: str | None) -> HttpResponse:
    """Tell the page that opened the pop-up, or redirect to the shop."""
    if opener is not None or not address:
        return pages.done(path, news, order_id=back["token"], payer_id=back.get("PayerID"), opener=opener)
    joint = "&" if urlsplit(address).query else "?"
    return pages.redirect(address + joint + urlencode(back))


def _shown(order: Json) -> pages.Shown:
    amount = order["unit"]["amount"]
    return pages.Shown(
        order_id=order["id"],
        invoice_id=order["unit"].get("invoice_id"),
        amount=f"{amount['value']} {amount['currency_code']}",
        payable=order["status"] in ("CREATED", "SAVED", "PAYER_ACTION_REQUIRED", "APPROVED"),
        declined=order["declines"] > 0,
        return_urls=tuple(url for url in (order["return_url"], order["cancel_url"]) if url),
    )


def _opener(values: Mapping[str, str]) -> str | None:
    """The origin of the page that opened the pop-up; anything but a bare http(s) origin counts as none."""
    origin = values.get("opener", "")
    return origin if re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin) else None


def _body(context: _Context) -> Json:
    if not context.headers.get("content-type", "").startswith("application/json"):
        raise _Refused(400, "MALFORMED_REQUEST_JSON", "content-type")
    if len(context.body) > LARGEST_BODY:
        raise _Refused(400, "INVALID_STRING_LENGTH")
    try:
        body = json.loads(context.body or b"{}", parse_float=str)
    except (ValueError, RecursionError):
        raise _Refused(400, "MALFORMED_REQUEST_JSON") from None
    if not isinstance(body, dict):
        raise _Refused(400, "MALFORMED_REQUEST_JSON")
    return body


def _check_order(body: Json) -> Json:
    """The one purchase unit of an order request. Raises `_Refused` by PayPal's rules."""
    if body.get("intent") not in ("CAPTURE", "AUTHORIZE"):
        raise _Refused(400, "INVALID_PARAMETER_VALUE", "/intent")
    if body["intent"] == "AUTHORIZE":
        # Authorizing is part of PayPal and not of this twin, nor is an order of several units.
        raise _Refused(422, "UNSUPPORTED_INTENT", "/intent", "AUTHORIZE")
    units = body.get("purchase_units")
    if not isinstance(units, list) or not units or not isinstance(units[0], dict):
        raise _Refused(400, "MISSING_REQUIRED_PARAMETER", "/purchase_units")
    if len(units) > 1:
        raise _Refused(400, "INVALID_ARRAY_MAX_ITEMS", "/purchase_units")
    unit: Json = units[0]
    for name, longest in (("reference_id", 256), ("custom_id", 127), ("invoice_id", 127), ("description", 127)):
        value = unit.get(name, "-")
        if not isinstance(value, str) or not 0 < len(value) <= longest:
            raise _Refused(400, "INVALID_STRING_LENGTH", f"/purchase_units/0/{name}")
    amount = unit.get("amount")
    if not isinstance(amount, dict):
        raise _Refused(400, "MISSING_REQUIRED_PARAMETER", "/purchase_units/0/amount")
    _check_amount(amount)
    return unit


def _check_amount(amount: Json) -> None:
    total = _minor(amount, "/purchase_units/0/amount")
    if total <= 0:
        raise _Refused(422, "CANNOT_BE_ZERO_OR_NEGATIVE", "/purchase_units/0/amount/value", amount["value"])
    breakdown = amount.get("breakdown")
    if not isinstance(breakdown, dict):
        return
    signs = {"shipping_discount": -1, "discount": -1}
    parts = 0
    for name, part in breakdown.items():
        if not isinstance(part, dict) or part.get("currency_code") != amount["currency_code"]:
            raise _Refused(422, "MULTI_CURRENCY_ORDER", f"/purchase_units/0/amount/breakdown/{name}")
        parts += signs.get(name, 1) * _minor(part, f"/purchase_units/0/amount/breakdown/{name}")
    if parts != total:
        raise _Refused(422, "AMOUNT_MISMATCH", "/purchase_units/0/amount/value", amount["value"])


def _minor(money: Json, field: str) -> int:
    """Units of PayPal's smallest decimal."""
    currency, value = money.get("currency_code"), money.get("value")
    if not isinstance(currency, str) or not re.fullmatch(r"[A-Z]{3}", currency):
        raise _Refused(422, "INVALID_CURRENCY_CODE", field + "/currency_code")
    if currency not in wire.EXPONENTS:
        raise _Refused(422, "CURRENCY_NOT_SUPPORTED", field + "/currency_code", currency)
    if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]+)?", value, re.ASCII):
        raise _Refused(400, "INVALID_PARAMETER_SYNTAX", field + "/value")
    whole, _, fraction = value.partition(".")
    exponent = wire.EXPONENTS[currency]
    if fraction and exponent == 0:
        raise _Refused(422, "DECIMALS_NOT_SUPPORTED", field + "/value", value)
    if len(fraction) > exponent:
        raise _Refused(422, "DECIMAL_PRECISION", field + "/value", value)
    return int(whole + fraction.ljust(exponent, "0"))


def _mocked(context: _Context) -> str | None:
    """The issue that the header PayPal-Mock-Response asks for, as real PayPal sandboxes honour it."""
    try:
        wish = json.loads(context.headers.get("paypal-mock-response", "{}"))
    except ValueError:
        raise _Refused(400, "MALFORMED_REQUEST_JSON", "PayPal-Mock-Response") from None
    issue = wish.get("mock_application_codes") if isinstance(wish, dict) else None
    return issue if isinstance(issue, str) and re.fullmatch(r"[A-Z_]{1,64}", issue) else None


def _print(what: str, body: Json) -> str:
    return hashlib.sha256((what + json.dumps(body, sort_keys=True)).encode()).hexdigest()


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8") if scheme.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        text = ""
    user, _, password = text.partition(":")
    return user, password


def _first(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text, max_num_fields=50).items()}


def _payee() -> Json:
    return {"email_address": "merchant@sandbox.example", "merchant_id": MERCHANT_ID}


def _wallet() -> Json:
    return {
        "email_address": "buyer@sandbox.example",
        "account_id": PAYER_ID,
        "account_status": "VERIFIED",
        "name": {"given_name": "Sandbox", "surname": "Buyer"},
    }


def _time(at: Microseconds) -> str:
    return datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(status: int, body: Json) -> HttpResponse:
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    return HttpResponse(status, headers, json.dumps(body).encode())
