"""A thin PayPal REST client: token, request ids, one error policy. It knows HTTP and JSON, not payments."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from paidonce.errors import (
    GatewayBusy,
    GatewayError,
    GatewayMisconfigured,
    GatewayRefused,
    OutcomeUnknown,
)
from paidonce.gateways.base import HttpRequest, HttpResponse, Transport
from paidonce.gateways.paypal import wire
from paidonce.gateways.repeating import until_answered
from paidonce.ports import SECOND, Clock, Microseconds
from paidonce.secret import Secret

log = structlog.get_logger("paidonce.gateways.paypal")

# A buyer waits for the whole call, so tries and pauses share one deadline. One try gets less than that, or a single
# lost answer would use it up.
TOTAL_SECONDS = 25.0
TRY_SECONDS = 12.0
# A token that ends while the request is on its way costs a 401, so it is renewed this much before.
RENEW_SECONDS = 120
TOKEN_POLL_SECONDS = 0.02
# PayPal's limit for the header PayPal-Request-Id.
LONGEST_REQUEST_ID = 108

_WRONG_KEYS = (
    "PayPal does not accept our keys: check that PAYPAL_CLIENT_ID and PAYPAL_CLIENT_SECRET are a pair "
    "and belong to PAYPAL_ENVIRONMENT"
)


class NotPermitted(GatewayMisconfigured):
    """403: the keys are good, but the app or the account lacks a permission for this call."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer. `debug_id` is PayPal's id of it, for the operator."""

    status: int
    body: Mapping[str, Any] = field(repr=False)
    debug_id: str | None


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    renew_at: Microseconds


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    ends_at: Microseconds
    what: str  # For messages: method and path, never a body.


class PayPalClient:
    """Calls PayPal's REST API at `base_url` with the keys' access token.

    Every method raises only `errors.GatewayError`s. It awaits nothing but the transport and the clock, so that any
    driver of the core can run it. One client may serve many tasks at once; they share one token.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        *,
        base_url: str,
        client_id: str,
        client_secret: Secret,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._base_url = base_url.rstrip("/")
        pair = f"{client_id}:{client_secret.get_secret_value()}".encode()
        self._basic = Secret("Basic " + base64.b64encode(pair).decode("ascii"))
        self._token: _Token | None = None
        self._renewing = False

    async def get(self, path: str) -> Answer:
        """Read `path`."""
        return await self._run(self._call("GET", path, b"", {}))

    async def post(self, path: str, body: Mapping[str, Any], *, request_id: str) -> Answer:
        """Post `body` as JSON under `request_id` (at most 108 characters), which makes a repeat harmless."""
        assert 0 < len(request_id) <= LONGEST_REQUEST_ID, "PayPal-Request-Id takes 1 to 108 characters"
        headers = {
            "content-type": "application/json",
            "prefer": "return=representation",
            "paypal-request-id": request_id,
        }
        return await self._run(self._call("POST", path, json.dumps(body).encode(), headers))

    def _call(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> _Call:
        ends_at = self._clock.now() + int(TOTAL_SECONDS * SECOND)
        return _Call(method, path, body, {"accept": "application/json", **headers}, ends_at, f"{method} {path}")

    async def _run(self, call: _Call) -> Answer:
        return await until_answered(
            partial(self._once, call), self._clock, ends_at=call.ends_at, speaks_for_the_key=wire.speaks_for_the_key
        )

    async def _once(self, call: _Call) -> Answer:
        token = await self._fresh_token(call)
        response = await self._send(call, token)
        if response.status == 401:
            # The token may have been revoked early. Only the first task that notices drops it.
            if self._token is token:
                self._token = None
            response = await self._send(call, await self._fresh_token(call))
        return _read(response, call.what)

    async def _send(self, call: _Call, token: _Token) -> HttpResponse:
        headers = {**call.headers, "authorization": "Bearer " + token.value}
        request = HttpRequest(call.method, self._base_url + call.path, headers, call.body)
        return await self._logged(request, call)

    async def _logged(self, request: HttpRequest, call: _Call) -> HttpResponse:
        """Send within what remains of the deadline, and log one line without bodies, headers or tokens."""
        began = self._clock.now()
        path = request.url.removeprefix(self._base_url)
        line: dict[str, Any] = {"gateway": "paypal", "method": request.method, "path": path}
        try:
            deadline = min(TRY_SECONDS, max(self._remaining(call), 0.1))
            response = await self._transport.send(request, deadline_seconds=deadline)
        except GatewayError as error:
            log.info("gateway_call", **line, error=type(error).__name__, ms=self._since(began))
            raise
        log.info(
            "gateway_call",
            **line,
            status=response.status,
            request_id=response.headers.get("paypal-debug-id"),
            ms=self._since(began),
        )
        return response

    def _since(self, began: Microseconds) -> int:
        return (self._clock.now() - began) // 1000

    def _remaining(self, call: _Call) -> float:
        return (call.ends_at - self._clock.now()) / SECOND

    async def _fresh_token(self, call: _Call) -> _Token:
        """A token that is still good. One task renews it, the others wait for that one.

        They wait on the clock and not on a lock, because a lock belongs to one event loop and the core may have none.
        """
        while self._renewing and self._stale():
            if self._remaining(call) <= 0:
                raise GatewayBusy("PayPal's sign-in takes too long; nothing was sent")
            await self._clock.sleep(TOKEN_POLL_SECONDS)
        if (token := self._token) is not None and not self._stale():
            return token
        self._renewing = True
        try:
            self._token = token = await self._new_token(call)
        finally:
            self._renewing = False
        return token

    def _stale(self) -> bool:
        return self._token is None or self._clock.now() >= self._token.renew_at

    async def _new_token(self, call: _Call) -> _Token:
        headers = {
            "accept": "application/json",
            "authorization": self._basic.get_secret_value(),
            "content-type": "application/x-www-form-urlencoded",
        }
        url = self._base_url + "/v1/oauth2/token"
        request = HttpRequest("POST", url, headers, b"grant_type=client_credentials")
        asked_at = self._clock.now()
        try:
            return _read_token(await self._logged(request, call), asked_at)
        except OutcomeUnknown as error:
            # Without a token the call itself never left, so this is an outage and not an unknown outcome.
            detail = f"PayPal's sign-in is down ({error.detail}); nothing was sent"
            raise GatewayBusy(detail, request_id=error.request_id) from error


def _read_token(response: HttpResponse, asked_at: Microseconds) -> _Token:
    if response.status in (400, 401, 403) and _json_object(response) is not None:
        raise GatewayMisconfigured(_WRONG_KEYS, request_id=_debug_id(response))
    body = _read(response, "POST /v1/oauth2/token").body
    value, seconds = body.get("access_token"), body.get("expires_in")
    if not isinstance(value, str) or not value or type(seconds) is not int or seconds <= 0:
        raise OutcomeUnknown("PayPal's token answer can't be read", request_id=_debug_id(response))
    lifetime = max(seconds - RENEW_SECONDS, seconds // 2)
    return _Token(value, asked_at + lifetime * SECOND)


def _read(response: HttpResponse, what: str) -> Answer:
    """The answer of a 2xx response; raises the `GatewayError` that anything else stands for."""
    debug_id = _debug_id(response)
    if response.status == 429:
        raise GatewayBusy(f"PayPal limits our rate: {what}", request_id=debug_id, retry_after_seconds=_wait(response))
    if response.status == 204:
        return Answer(204, {}, debug_id)
    body = _json_object(response)
    if response.status >= 500 or response.status < 200 or 300 <= response.status < 400 or body is None:
        kind = "an error" if response.status >= 500 else "something that can't be read"
        raise OutcomeUnknown(f"PayPal answered {what} with {kind} ({response.status})", request_id=debug_id)
    if response.status < 300:
        return Answer(response.status, body, debug_id)
    raise _refusal(response, body, what, debug_id)


def _refusal(response: HttpResponse, body: Mapping[str, Any], what: str, debug_id: str | None) -> GatewayError:
    issues = wire.issues(body)
    issue = issues[0] if issues else f"HTTP_{response.status}"
    if response.status == 401:
        return GatewayMisconfigured(_WRONG_KEYS, request_id=debug_id)
    if response.status == 403:
        detail = f"PayPal does not permit {what} ({issue}): check the app's features and the account's permissions"
        return NotPermitted(detail, request_id=debug_id)
    if response.status == 404:
        detail = f"PayPal does not know {what}: do the keys belong to the account that made it?"
        return GatewayMisconfigured(detail, request_id=debug_id)
    if response.status == 409 or wire.BUSY_ISSUES.intersection(issues):
        return GatewayBusy(
            f"PayPal is still working on {what}", request_id=debug_id, retry_after_seconds=_wait(response)
        )
    if response.status == 400 or issue in wire.OUR_BUG_ISSUES:
        detail = f"ALARM, a bug on our side: PayPal refused {what} with {_short(issues)}"
        return GatewayRefused(detail, code=issue.lower(), request_id=debug_id)
    return GatewayRefused(f"PayPal refused {what} with {_short(issues)}", code=issue.lower(), request_id=debug_id)


def _short(issues: tuple[str, ...]) -> str:
    return ", ".join(issues[:5])[:200] or "no reason"


def _json_object(response: HttpResponse) -> Mapping[str, Any] | None:
    """The body as a JSON object, or None. Numbers with a point stay text: no amount may become a float."""
    try:
        body = json.loads(response.body, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _debug_id(response: HttpResponse) -> str | None:
    return wire.debug_id({"debug_id": response.headers.get("paypal-debug-id")}) or wire.debug_id(
        _json_object(response) or {}
    )


def _wait(response: HttpResponse) -> float | None:
    """Seconds of Retry-After; a date is ignored, since PayPal sends seconds."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
