"""A thin client of Mollie's API: the key, idempotency keys, one error policy. It knows HTTP and JSON, not payments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from paidonce.errors import GatewayBusy, GatewayError, GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse, Transport
from paidonce.gateways.repeating import until_answered
from paidonce.ports import SECOND, Clock, Microseconds
from paidonce.secret import Secret

log = structlog.get_logger("paidonce.gateways.mollie")

# A buyer waits for the whole call, so tries and pauses share one deadline. One try gets less than that, or a single
# lost answer would use it up.
TOTAL_SECONDS = 25.0
TRY_SECONDS = 12.0
_LONGEST_DETAIL = 200
_KEYS = re.compile(r"\b(?:live|test|access)_\w+")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    ends_at: Microseconds
    what: str  # For messages: method and path, never a query or a body.
    may_be_empty: bool = False


class MollieClient:
    """Calls Mollie's API at `base_url` with one API key. Raises only `errors.GatewayError`s.

    It awaits nothing but the transport and the clock, so that any driver of the core can run it. One client may serve
    many tasks at once.
    """

    def __init__(self, transport: Transport, clock: Clock, *, base_url: str, api_key: Secret) -> None:
        self._transport = transport
        self._clock = clock
        self._base_url = base_url.rstrip("/")
        self._authorization = Secret(f"Bearer {api_key.get_secret_value()}")

    async def get(self, path: str, query: str = "") -> Json:
        """Read `path`; `query` goes behind it and into no log."""
        return await self._run(self._call("GET", path, query))

    async def post(self, path: str, body: Json | None, *, key: str, may_be_empty: bool = False) -> Json:
        """Post `body` as JSON under the idempotency key, which makes a repeat within an hour harmless.

        `may_be_empty` is for calls that Mollie answers with a status alone.
        """
        headers = {"content-type": "application/json", "idempotency-key": key}
        text = b"" if body is None else json.dumps(body).encode()
        return await self._run(self._call("POST", path, "", text, headers, may_be_empty=may_be_empty))

    async def delete(self, path: str) -> None:
        """End the object at `path`. It needs no key, since ending twice means the same."""
        await self._run(self._call("DELETE", path, "", may_be_empty=True))

    def _call(
        self,
        method: str,
        path: str,
        query: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        may_be_empty: bool = False,
    ) -> _Call:
        ends_at = self._clock.now() + int(TOTAL_SECONDS * SECOND)
        told = {"accept": "application/hal+json", **(headers or {})}
        return _Call(method, path + query, body, told, ends_at, f"{method} {path}", may_be_empty)

    async def _run(self, call: _Call) -> Json:
        return await until_answered(partial(self._once, call), self._clock, ends_at=call.ends_at)

    async def _once(self, call: _Call) -> Json:
        headers = {**call.headers, "authorization": self._authorization.get_secret_value()}
        request = HttpRequest(call.method, self._base_url + call.path, headers, call.body)
        began = self._clock.now()
        line: dict[str, Any] = {"gateway": "mollie", "method": call.method, "path": call.what.partition(" ")[2]}
        try:
            deadline = min(TRY_SECONDS, max(self._remaining(call), 0.1))
            response = await self._transport.send(request, deadline_seconds=deadline)
        except GatewayError as error:
            log.info("gateway_call", **line, error=type(error).__name__, ms=self._since(began))
            raise
        log.info("gateway_call", **line, status=response.status, ms=self._since(began))
        return read(response, call.what, may_be_empty=call.may_be_empty)

    def _since(self, began: Microseconds) -> int:
        return (self._clock.now() - began) // 1000

    def _remaining(self, call: _Call) -> float:
        return (call.ends_at - self._clock.now()) / SECOND


def read(response: HttpResponse, what: str, *, may_be_empty: bool = False) -> Json:
    """The JSON object of a 2xx answer; raises the `GatewayError` that anything else stands for."""
    if response.status == 429:
        raise GatewayBusy(f"Mollie limits our rate: {what}", retry_after_seconds=_wait(response))
    success = 200 <= response.status < 300
    if success and may_be_empty and not response.body.strip():
        return {}
    body = _json_object(response)
    if success and body is not None:
        return body
    if response.status == 409 and body is not None:
        raise GatewayBusy(f"Mollie is still working on {what}", retry_after_seconds=_wait(response))
    if body is None or not 400 <= response.status < 500 or not _is_envelope(body, response.status):
        kind = "an error" if response.status >= 500 else "something that can't be read"
        raise OutcomeUnknown(f"Mollie answered {what} with {kind} ({response.status})")
    raise _refusal(response, body, what)


def _is_envelope(body: Json, status: int) -> bool:
    """Whether a refusal is Mollie's own (https://docs.mollie.com/reference/handling-errors), and not a proxy's page."""
    return body.get("status") == status and isinstance(body.get("title"), str)


def _refusal(response: HttpResponse, body: Json, what: str) -> GatewayError:
    told = f"{what}: {scrubbed(body.get('detail') or body.get('title'))}"
    if response.status in {401, 403}:
        return GatewayMisconfigured(f"Mollie does not accept our key (check MOLLIE_API_KEY) for {told}")
    if response.status in {404, 410}:
        return GatewayMisconfigured(
            f"Mollie does not know it (does MOLLIE_API_KEY belong to the profile and mode that made it?): {told}"
        )
    if response.status == 400:
        return GatewayRefused(f"ALARM, a bug on our side: Mollie refused {told}", code="bad_request")
    place = body.get("field")
    code = f"invalid_{place}" if isinstance(place, str) and re.fullmatch(r"[A-Za-z.]{1,40}", place) else "refused"
    return GatewayRefused(f"Mollie refused {told}", code=code)


def scrubbed(message: object) -> str:
    """Mollie's own sentence, on one line, without keys."""
    printable = "".join(sign if sign.isprintable() else " " for sign in str(message or "no reason"))
    return _KEYS.sub("[removed]", " ".join(printable.split()))[:_LONGEST_DETAIL]


def _json_object(response: HttpResponse) -> Json | None:
    """The body as a JSON object, or None. Numbers with a point stay text: no amount may become a float."""
    try:
        body = json.loads(response.body, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _wait(response: HttpResponse) -> float | None:
    """Seconds of Retry-After; a date is ignored."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
