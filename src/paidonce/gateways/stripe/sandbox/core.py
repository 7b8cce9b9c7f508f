"""`StripeSandbox`: requests in, answers out. Keys, idempotency and routing; intents and pages live beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from paidonce.gateways.base import BookEntry, Control, HttpRequest, HttpResponse
from paidonce.gateways.stripe.sandbox.controls import CONTROLS, Controls
from paidonce.gateways.stripe.sandbox.disputes import Disputes
from paidonce.gateways.stripe.sandbox.endpoints import Endpoints
from paidonce.gateways.stripe.sandbox.events import Events
from paidonce.gateways.stripe.sandbox.intents import Intents
from paidonce.gateways.stripe.sandbox.ledger import Ledger
from paidonce.gateways.stripe.sandbox.pages import Pages
from paidonce.gateways.stripe.sandbox.refunds import Refunds
from paidonce.gateways.stripe.sandbox.replies import Call, SandboxError, check_known, decode_form, json_response
from paidonce.gateways.stripe.sandbox.store import Due, Record, Reply, State, Store, check_expand, new_state

_DAY_MICROSECONDS = 24 * 3600 * 1_000_000
_FAULTS = ("500_before", "500_after", "409", "429")
# What a publishable key may see of an intent.
_PRIVATE_FIELDS = frozenset(
    {
        "amount_received",
        "application",
        "application_fee_amount",
        "customer",
        "latest_charge",
        "metadata",
        "on_behalf_of",
        "payment_method_options",
        "review",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "transfer_data",
        "transfer_group",
    }
)
_CONFIRM = frozenset(
    {"client_secret", "expand", "payment_method", "payment_method_data", "return_url", "use_stripe_sdk"}
)
_CREATE = (_CONFIRM - {"client_secret", "use_stripe_sdk"}) | {
    "amount",
    "automatic_payment_methods",
    "capture_method",
    "confirm",
    "currency",
    "description",
    "metadata",
    "payment_method_types",
}
_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, POST, OPTIONS",
    "access-control-allow-headers": "authorization, content-type, stripe-version",
    "access-control-expose-headers": "request-id",
    "access-control-max-age": "300",
}

_BY_PAYMENT = frozenset({"charge", "payment_intent"})

Endpoint = Callable[[Call, str], Reply]


class StripeSandbox:
    """Stripe's offline twin as a pure state machine. Browsers reach it at `base_url`.

    It knows the keys whose last part begins with `sandbox` (`sk_test_sandbox`, `pk_test_sandbox`); each such last part
    is an account of its own. Live keys are refused. All accounts share one webhook endpoint and one signing secret.
    """

    name = "stripe"
    controls: tuple[Control, ...] = CONTROLS

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._use(new_state())

    def dump(self) -> str:
        """The whole state as JSON."""
        return json.dumps(self._state, sort_keys=False)

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave."""
        self._use({**new_state(), **json.loads(text)})

    def deliver_to(self, shop_url: str) -> None:
        """Register the shop's endpoint, as somebody does at Stripe's dashboard."""
        self._endpoints.deliver_to(f"{shop_url.rstrip('/')}/webhooks/{self.name}")

    def plan(self, *faults: str) -> None:
        """Let the next POSTs of the API fail, one after the other.

        `500_before`: nothing happens; `500_after`: it happens; both answers are stored under the idempotency key, as
        Stripe does. `409` and `429`: nothing happens and nothing is stored. An empty string lets one POST pass.
        """
        unknown = [fault for fault in faults if fault and fault not in _FAULTS]
        if unknown:
            raise ValueError(f"unknown faults {unknown}; known are {_FAULTS}")
        self._state["faults"].extend(faults)

    def handle(self, request: HttpRequest, *, now: int) -> HttpResponse:
        """Answer one request of the API or of the pages at `now` microseconds."""
        self._due.run(now)
        parts = urlsplit(request.url)
        path = parts.path.removeprefix(urlsplit(self._base_url).path) if parts.netloc else parts.path
        headers = {name.lower(): value for name, value in request.headers.items()}
        if not path.startswith("/v1/"):
            return self._pages.handle(request.method, path, request.body, now=now)
        if request.method == "OPTIONS":
            return HttpResponse(204, dict(_CORS), b"")
        return self._api(request, path, parts.query, headers, now)

    def control(self, name: str, params: Mapping[str, str], *, now: int) -> Mapping[str, str]:
        """Let a bank or a dashboard do something. Raises `ValueError` naming what is wrong; nothing changed then."""
        self._due.run(now)
        return self._controls.run(name, params, now)

    def take_webhooks(self, *, now: int) -> list[HttpRequest]:
        """The events that came up since the last call, signed at `now`, oldest first."""
        self._due.run(now)
        return self._events.take(now)

    def books(self) -> tuple[BookEntry, ...]:
        """Everything that moved the merchants' money, oldest first."""
        return self._ledger.books()

    def look(self, kind: str) -> dict[str, Record]:
        """The living records of a kind (`intents`, `charges`, `refunds`, `disputes`) by id, to be read only."""
        found: dict[str, Record] = self._state[kind]
        return found

    def _use(self, state: State) -> None:
        self._state = state
        self._store = Store(state)
        self._due = Due(self._store)
        self._events = Events(self._store)
        self._ledger = Ledger(self._store)
        self._disputes = Disputes(self._store, self._ledger, self._events, self._due)
        self._refunds = Refunds(self._store, self._ledger, self._events, self._due, self._disputes)
        self._intents = Intents(
            self._store,
            self._base_url,
            ledger=self._ledger,
            refunds=self._refunds,
            events=self._events,
            due=self._due,
        )
        self._endpoints = Endpoints(self._store)
        self._controls = Controls(self._store, self._intents, self._refunds, self._disputes, self._endpoints)
        self._pages = Pages(self._intents)

    def _api(self, request: HttpRequest, path: str, query: str, headers: Mapping[str, str], now: int) -> HttpResponse:
        answer = {"request-id": self._store.new_id("req", now), "stripe-version": headers.get("stripe-version", "")}
        try:
            account, public = _account(headers)
            if public:
                answer.update(_CORS)
            text = request.body.decode() if request.method == "POST" else query
            call = Call(request.method, path, decode_form(text), account, public, now, headers)
            with self._events.caused_by(answer["request-id"], headers.get("idempotency-key")):
                return self._once(call, answer)
        except UnicodeDecodeError:
            return _error(SandboxError(400, "Invalid UTF-8 in the request body."), answer)
        except SandboxError as error:
            # A browser reads errors only if they carry the CORS headers as well.
            return _error(error, {**_CORS, **answer} if "origin" in headers else answer)

    def _once(self, call: Call, answer: dict[str, str]) -> HttpResponse:
        key = call.headers.get("idempotency-key")
        if call.method != "POST":
            return self._carry_out(call, answer)
        if key is None:
            return self._under_faults(call, answer)[0]
        if not 1 <= len(key) <= 255:
            raise SandboxError(400, "Idempotency keys are at most 255 characters long.", type="idempotency_error")
        return self._keyed(call, f"{call.account}:{key}", {**answer, "idempotency-key": key})

    def _keyed(self, call: Call, slot: str, answer: dict[str, str]) -> HttpResponse:
        body = json.dumps([call.path, call.form], sort_keys=True)
        fingerprint = hashlib.sha256(body.encode()).hexdigest()
        stored = self._state["keys"].get(slot)
        if stored is not None and stored["until"] > call.now:
            if stored["fingerprint"] != fingerprint:
                raise _key_mismatch(answer["idempotency-key"])
            replay = {"idempotent-replayed": "true", "original-request": stored["request"]}
            return HttpResponse(stored["status"], {**stored["headers"], **answer, **replay}, stored["body"].encode())
        response, keep = self._under_faults(call, answer)
        if keep:
            self._forget_old_keys(call.now)
            self._state["keys"][slot] = {
                "fingerprint": fingerprint,
                "until": call.now + _DAY_MICROSECONDS,
                "status": response.status,
                "headers": {"content-type": "application/json"},
                "body": response.body.decode(),
                "request": answer["request-id"],
            }
        return response

    def _forget_old_keys(self, now: int) -> None:
        keys = self._state["keys"]
        # Oldest first, as dictionaries keep their order.
        for slot in [slot for slot, _ in zip(keys, range(100), strict=False) if keys[slot]["until"] <= now]:
            del keys[slot]

    def _under_faults(self, call: Call, answer: dict[str, str]) -> tuple[HttpResponse, bool]:
        """The answer, and whether an idempotency key remembers it."""
        faults = self._state["faults"]
        fault = faults.pop(0) if faults else ""
        if fault in {"409", "429"}:
            return _error(_passing_fault(fault), answer), False
        try:
            if fault != "500_before":
                response = self._carry_out(call, answer)
        except SandboxError as error:
            if not fault:
                return _error(error, answer), error.stored
        if fault:
            return _error(SandboxError(500, "An unknown error occurred", type="api_error"), answer), True
        return response, True

    def _carry_out(self, call: Call, answer: dict[str, str]) -> HttpResponse:
        for method, pattern, open_to_public, endpoint in self._routes():
            match = re.fullmatch(pattern, call.path, re.ASCII)
            if match and method == call.method:
                if call.public and not open_to_public:
                    raise _secret_key_required()
                check_expand(call)
                reply = self._store.expanded(endpoint(call, match[1] if match.groups() else ""), call.form)
                return json_response(200, _public(reply) if call.public else reply, answer)
        raise SandboxError(
            404,
            f"Unrecognized request URL ({call.method}: {call.path}). The offline sandbox knows the calls that paidonce "
            "makes; see https://docs.stripe.com/ for the others.",
        )

    def _routes(self) -> tuple[tuple[str, str, bool, Endpoint], ...]:
        intents = "/v1/payment_intents"
        return (
            ("GET", "/v1/account", False, self._show_account),
            ("GET", "/v1/elements/sessions", True, _show_session),
            ("GET", intents, False, self._listed("pi")),
            ("POST", intents, False, self._create),
            ("GET", rf"{intents}/(\w+)", True, self._get),
            ("POST", rf"{intents}/(\w+)/confirm", True, self._confirm),
            ("POST", rf"{intents}/(\w+)/cancel", False, self._cancel),
            ("POST", rf"{intents}/(\w+)/capture", False, self._capture),
            ("GET", r"/v1/charges/(\w+)", False, self._shown("ch")),
            ("GET", "/v1/refunds", False, self._listed("re", _BY_PAYMENT)),
            ("POST", "/v1/refunds", False, self._refund),
            ("GET", r"/v1/refunds/(\w+)", False, self._shown("re")),
            ("GET", "/v1/disputes", False, self._listed("du", _BY_PAYMENT)),
            ("GET", r"/v1/disputes/(\w+)", False, self._shown("du")),
            ("GET", "/v1/balance_transactions", False, self._listed("txn", frozenset({"source", "type"}))),
            ("GET", r"/v1/balance_transactions/(\w+)", False, self._shown("txn")),
            ("GET", "/v1/webhook_endpoints", False, self._endpoints.listed),
        )

    def _show_account(self, call: Call, _: str) -> Reply:
        return {
            "id": call.account,
            "object": "account",
            "business_type": "company",
            "charges_enabled": self._state["charges_enabled"],
            "country": "DE",
            "created": 1_700_000_000,
            "default_currency": "eur",
            "details_submitted": True,
            "email": "sandbox@example.com",
            "payouts_enabled": True,
            "settings": None,
            "type": "standard",
        }

    def _create(self, call: Call, _: str) -> Reply:
        check_known(call.form, _CREATE)
        return self._intents.create(call)

    def _get(self, call: Call, ref: str) -> Reply:
        check_known(call.form, frozenset({"client_secret", "expand"}))
        self._intents.check_secret(call, ref)
        return self._intents.get(call, ref)

    def _confirm(self, call: Call, ref: str) -> Reply:
        check_known(call.form, _CONFIRM)
        self._intents.check_secret(call, ref)
        return self._intents.confirm(call, ref)

    def _cancel(self, call: Call, ref: str) -> Reply:
        check_known(call.form, frozenset({"cancellation_reason", "expand"}))
        return self._intents.cancel(call, ref)

    def _capture(self, call: Call, ref: str) -> Reply:
        check_known(call.form, frozenset({"amount_to_capture", "expand"}))
        return self._intents.capture(call, ref)

    def _refund(self, call: Call, _: str) -> Reply:
        return self._refunds.create(call)

    def _shown(self, kind: str) -> Endpoint:
        def show(call: Call, ref: str) -> Reply:
            check_known(call.form, frozenset({"expand"}))
            return self._store.get(call, kind, ref)["object"]  # type: ignore[no-any-return]

        return show

    def _listed(self, kind: str, filters: frozenset[str] = frozenset()) -> Endpoint:
        def show(call: Call, _: str) -> Reply:
            return self._store.page(call, kind, filters)

        return show


def _account(headers: Mapping[str, str]) -> tuple[str, bool]:
    """Whose key the request carries, and whether it is publishable. Raises `SandboxError` 401."""
    key = _bearer(headers.get("authorization", ""))
    if not key:
        raise SandboxError(
            401,
            "You did not provide an API key. You need to provide your API key in the Authorization header, using "
            "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        )
    if re.match(r"(sk|rk|pk)_live_", key):
        raise SandboxError(
            401,
            "This is the offline twin of Stripe, a sandbox: it refuses live keys. Remove them from the settings "
            "(STRIPE_SECRET_KEY, STRIPE_PUBLISHABLE_KEY), or remove STRIPE_API_BASE to talk to Stripe itself.",
        )
    match = re.fullmatch(r"(sk|rk|pk)_test_(sandbox\w*)", key, re.ASCII)
    if match is None:
        raise SandboxError(401, f"Invalid API Key provided: {key[:8]}{'*' * 12}")
    return "acct_" + hashlib.sha256(match[2].encode()).hexdigest()[:16], match[1] == "pk"


def _bearer(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[0]
        except ValueError:
            return ""
    return ""


def _show_session(_: Call, __: str) -> Reply:
    return {"object": "elements_session", "livemode": False, "payment_method_types": ["card"]}


def _public(reply: Reply) -> Reply:
    return {name: value for name, value in reply.items() if name not in _PRIVATE_FIELDS}


def _secret_key_required() -> SandboxError:
    return SandboxError(
        403,
        "This API call cannot be made with a publishable API key. Please use a secret API key. You can find a list of "
        "your API keys at https://dashboard.stripe.com/account/apikeys.",
        code="secret_key_required",
    )


def _key_mismatch(key: str) -> SandboxError:
    return SandboxError(
        400,
        "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a "
        f"key other than '{key}' if you meant to execute a different request.",
        type="idempotency_error",
    )


def _passing_fault(fault: str) -> SandboxError:
    if fault == "429":
        message = "Request rate limit exceeded."
        return SandboxError(429, message, code="rate_limit", headers={"retry-after": "1"})
    return SandboxError(
        409,
        "This object cannot be accessed right now because another API request or Stripe process is currently accessing "
        "it. If you see this error intermittently, retry the request.",
        code="lock_timeout",
        headers={"stripe-should-retry": "true"},
    )


def _error(error: SandboxError, headers: Mapping[str, str]) -> HttpResponse:
    return json_response(error.status, {"error": error.error}, {**headers, **error.headers})
