"""The way to Stripe: the official package encodes and signs in, our transport sends, our policy reads the answer.

The package never sees an answer: it would log bodies at debug level and put them into its exceptions, client secrets
included. It is handed an empty success whose headers carry the real answer past it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import stripe
import structlog

from paidonce.errors import GatewayBusy, GatewayError, OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse, Transport
from paidonce.gateways.stripe import policy
from paidonce.gateways.stripe.wire import API_VERSION
from paidonce.ports import SECOND, Clock
from paidonce.secret import Secret

# A buyer waits for the sum of all tries; recovery goes on with the same key where this ends.
TOTAL_DEADLINE_SECONDS = 20.0
TRY_DEADLINE_SECONDS = 8.0
MOST_TRIES = 3

_Outcome = HttpResponse | OutcomeUnknown | GatewayBusy

_log = structlog.get_logger("paidonce.gateways.stripe")


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: the JSON object and Stripe's id of the request."""

    data: Mapping[str, Any]
    request_id: str | None


class _Carrier(dict[str, str]):
    """The headers for the package, with the whole answer for us; `may_have_happened` by an earlier try."""

    def __init__(self, response: HttpResponse, *, may_have_happened: bool) -> None:
        super().__init__(response.headers)
        self.response = response
        self.may_have_happened = may_have_happened


class _TransportClient(stripe.HTTPClient):
    """The package's HTTP client over our `Transport`, with our deadline and retries."""

    name = "paidonce"

    def __init__(self, transport: Transport, clock: Clock) -> None:
        super().__init__()
        self._transport = transport
        self._clock = clock

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send with retries. Every POST carries one idempotency key through all tries, so repeating it is safe."""
        body = (post_data or "").encode()
        return b"{}", 200, await self._send(HttpRequest(method.upper(), url, dict(headers), body))

    def sleep_async(self, secs: float) -> Awaitable[None]:
        return self._clock.sleep(secs)

    async def close_async(self) -> None:
        """Nothing to close: the transport is shared."""

    async def _send(self, request: HttpRequest) -> _Carrier:
        ends = self._clock.now() + int(TOTAL_DEADLINE_SECONDS * SECOND)
        tries_made, unknown = 0, None
        while True:
            left = (ends - self._clock.now()) / SECOND
            outcome = await self._try(request, min(left, TRY_DEADLINE_SECONDS))
            tries_made += 1
            wait = self._wait_seconds(outcome, tries_made, ends)
            if wait is None:
                break
            unknown = unknown or _unknown(outcome)
            await self._clock.sleep(wait)
        if isinstance(outcome, GatewayError):
            # "Could not connect" after a time-out is no proof that the first try did nothing.
            raise unknown or outcome
        return _Carrier(outcome, may_have_happened=unknown is not None)

    async def _try(self, request: HttpRequest, deadline_seconds: float) -> _Outcome:
        began = self._clock.now()
        outcome: _Outcome
        try:
            outcome = await self._transport.send(request, deadline_seconds=deadline_seconds)
        except (OutcomeUnknown, GatewayBusy) as error:
            outcome = error
        self._record(request, outcome, (self._clock.now() - began) // 1_000)
        return outcome

    def _wait_seconds(self, outcome: _Outcome, tries_made: int, ends: int) -> float | None:
        if tries_made >= MOST_TRIES:
            return None
        response = None if isinstance(outcome, GatewayError) else outcome
        now = self._clock.now()
        # The clock's microseconds spread clients as well as a random number would, and a simulation repeats them.
        wait = policy.retry_wait_seconds(response, tries_made=tries_made, spread=now % 1_000 / 1_000)
        if wait is None or now + int(wait * SECOND) >= ends:
            return None
        return wait

    def _record(self, request: HttpRequest, outcome: _Outcome, milliseconds: int) -> None:
        """Log the call. Bodies, headers and queries hold client secrets, so none of them is logged."""
        if isinstance(outcome, GatewayError):
            status, request_id = None, outcome.request_id
        else:
            status, request_id = outcome.status, policy.request_id(outcome)
        _log.info(
            "gateway_call",
            gateway="stripe",
            method=request.method,
            path=urlsplit(request.url).path,
            status=status,
            request_id=request_id,
            ms=milliseconds,
        )


def _unknown(outcome: _Outcome) -> OutcomeUnknown | None:
    """What a try that is about to be repeated leaves open; None if it certainly did nothing."""
    if isinstance(outcome, GatewayError):
        return outcome if isinstance(outcome, OutcomeUnknown) else None
    try:
        policy.raise_for(outcome)
    except OutcomeUnknown as error:
        return error
    except GatewayError:
        return None
    return None


_PACKAGE_LOG = logging.getLogger("stripe")


class StripeApi:
    """GET and POST at Stripe. Raises only `errors.GatewayError`; a key must be committed before its call."""

    def __init__(self, secret_key: Secret, api_base: str, transport: Transport, clock: Clock) -> None:
        # Left on, the package writes a file into the user's configuration folder and times our calls for Stripe.
        stripe.enable_telemetry = False
        # Its own lines repeat what ours say of each request, and cost a tenth of a checkout.
        if _PACKAGE_LOG.level == logging.NOTSET:
            _PACKAGE_LOG.setLevel(logging.WARNING)
        self._client = stripe.StripeClient(
            secret_key.get_secret_value(),
            stripe_version=API_VERSION,
            base_addresses={"api": api_base},
            max_network_retries=0,
            http_client=_TransportClient(transport, clock),
        )

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Answer:
        """Read an object, or a page of a list."""
        return self._answer(await self._client.raw_request_async("get", path, **(params or {})))

    async def post(self, path: str, params: Mapping[str, Any], *, idempotency_key: str) -> Answer:
        """Carry something out, once per `idempotency_key` (up to 255 characters)."""
        return self._answer(
            await self._client.raw_request_async("post", path, idempotency_key=idempotency_key, **params)
        )

    def _answer(self, answer: stripe.StripeResponse) -> Answer:
        carrier = cast("_Carrier", answer.headers)
        request_id = policy.request_id(carrier.response)
        try:
            return Answer(policy.raise_for(carrier.response), request_id)
        except GatewayBusy as busy:
            if carrier.may_have_happened:
                raise OutcomeUnknown(
                    f"an earlier try may have gone through; then {busy.detail}", request_id=request_id
                ) from None
            raise
