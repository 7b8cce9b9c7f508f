"""AcmePay behind the gateway protocol: create a charge, the buyer approves on AcmePay's page, the server captures.

Everything that AcmePay says of a refund or in a webhook passes through `wire` and `webhook`; this file only calls out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import structlog

from acme_pay import webhook, wire
from paidonce.errors import GatewayBusy, GatewayError, GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import (
    Account,
    Component,
    CreateRequest,
    HttpRequest,
    HttpResponse,
    Opened,
    Progress,
    RefundSnapshot,
    Snapshot,
    Transport,
    WebhookEvent,
)
from paidonce.money import Money
from paidonce.ports import Clock

log = structlog.get_logger("acme_pay")

DEADLINE_SECONDS = 20.0
# AcmePay remembers a key for a day; a repeat that arrives at its very end might already be taken for a new request.
KEY_LIFE_SECONDS = 24 * 3600 - 300
# These refusals don't say what became of the charge; the charge does.
_TOLD_BY_THE_CHARGE = frozenset(
    {"already_authorized", "already_captured", "declined", "expired", "not_approved", "not_voidable", "voided"}
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings; `api_base` has no slash at its end. Without a webhook secret no webhook is accepted."""

    key: str = field(repr=False)
    api_base: str
    webhook_secret: str | None = field(repr=False)

    @property
    def live(self) -> bool:
        """Whether the key moves real money."""
        return self.key.startswith("acme_live_")


class AcmePayGateway:
    """Implements `gateways.base.Gateway`. Only `capture` moves money, and an unused charge can be voided."""

    name = "acme_pay"
    title = "AcmePay"
    captures_in_browser = False
    can_void = True
    create_key_life_seconds = KEY_LIFE_SECONDS
    capture_key_life_seconds = KEY_LIFE_SECONDS
    refund_key_life_seconds = KEY_LIFE_SECONDS

    def __init__(self, settings: Settings, transport: Transport, clock: Clock) -> None:
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._account: Account | None = None

    def check_amount(self, amount: Money) -> None:
        """Raise `MoneyError` if AcmePay can't take exactly `amount`."""
        wire.units(amount)

    async def account(self) -> Account:
        """The merchant behind the key, read once."""
        if self._account is None:
            self._account = _readable(await self._call("GET", "/v1/merchant"), wire.account)
        return self._account

    async def create(self, request: CreateRequest) -> Opened:
        """Create the charge. It moves no money."""
        body = wire.charge_request(request)
        return _opened(await self._call("POST", "/v1/charges", body, key=request.idempotency_key))

    async def reopen(self, ref: str) -> Opened:
        """Read the charge and its approval page's address again."""
        return _opened(await self._call("GET", _path(ref)))

    async def fetch(self, ref: str, *, details: bool = False) -> Snapshot:
        """Read the charge with its fee; with `details` its refunds as well. AcmePay knows no disputes."""
        snapshot = _snapshot(await self._call("GET", _path(ref)))
        if not details:
            return snapshot
        refunds: tuple[RefundSnapshot, ...] = ()
        if snapshot.progress is Progress.CAPTURED:
            answer = await self._call("GET", _path(ref) + "/refunds")
            refunds = _readable(answer, lambda body: wire.refunds(body, ref))
        return replace(snapshot, refunds=refunds, disputes=())

    async def authorize(self, ref: str, *, idempotency_key: str) -> Snapshot:
        """Reserve the money of the approved charge. A decline hands it back to the buyer, as by `capture`."""
        return await self._act(ref, "authorize", {}, idempotency_key)

    async def capture(self, ref: str, *, idempotency_key: str, amount: Money) -> Snapshot:
        """Capture all or a part. A decline hands the charge back to the buyer, who may choose another way to pay."""
        return await self._act(ref, "capture", {"amount": wire.units(amount)}, idempotency_key)

    async def void(self, ref: str) -> Snapshot:
        """End the charge and release its reservation. A charge that was captured meanwhile is read as what it is."""
        return await self._act(ref, "void", {}, f"void-{ref}")

    async def refund(
        self, ref: str, capture_ref: str, *, idempotency_key: str, amount: Money, refund_id: str
    ) -> RefundSnapshot:
        """Give `amount` back. A charge has one capture, so AcmePay needs no `capture_ref`."""
        del capture_ref
        body = wire.refund_request(amount, refund_id)
        answer = await self._call("POST", _path(ref) + "/refunds", body, key=idempotency_key)
        return _readable(answer, lambda refund: wire.refund(refund, ref, request_id=_request_id(answer)))

    async def read_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify and reduce one event. Calls nobody: the account is compared only once it is known."""
        return webhook.read(
            headers,
            body,
            secret=self._settings.webhook_secret,
            now=self._clock.now(),
            live=self._settings.live,
            account=None if self._account is None else self._account.id,
        )

    def component(self) -> Component:
        """`<acme-payment>`: one button that leads to AcmePay's page. It loads nothing from AcmePay."""
        assets = Path(__file__).parent / "assets"
        return Component(element="acme-payment", module="component.js", assets=assets, attributes={}, csp={})

    def attributes(self, amount: Money) -> Mapping[str, str]:
        """Nothing: the amount is shown by AcmePay's page, which has it from us."""
        wire.units(amount)
        return {}

    async def aclose(self) -> None:
        """Nothing of its own to free."""

    async def _act(self, ref: str, action: str, body: Mapping[str, Any], key: str) -> Snapshot:
        try:
            return _snapshot(await self._call("POST", f"{_path(ref)}/{action}", body, key=key))
        except GatewayRefused as refusal:
            if refusal.code not in _TOLD_BY_THE_CHARGE:
                raise
            declined = refusal.code == "declined"
        answer = await self._call("GET", _path(ref))
        snapshot = _snapshot(answer)
        if declined and snapshot.progress is Progress.AWAITING_BUYER:
            # Told here and by no reading, although the charge keeps it: by then the buyer may be at another attempt.
            return replace(snapshot, decline=_readable(answer, wire.decline))
        return snapshot

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> HttpResponse:
        """One request; returns a 2xx answer and raises the `GatewayError` for anything else."""
        headers = {"authorization": "Bearer " + self._settings.key, "accept": "application/json"}
        if key is not None:
            headers |= {"idempotency-key": key, "content-type": "application/json"}
        sent = b"" if body is None else json.dumps(body).encode()
        request = HttpRequest(method, self._settings.api_base + path, headers, sent)
        response = await self._transport.send(request, deadline_seconds=DEADLINE_SECONDS)
        log.info("gateway_call", method=method, path=path, status=response.status, request_id=_request_id(response))
        if 200 <= response.status < 300:
            return response
        raise _error(response, f"{method} {path}")


def _opened(response: HttpResponse) -> Opened:
    return Opened(_snapshot(response), {"approve_url": _readable(response, wire.approve_url)})


def _snapshot(response: HttpResponse) -> Snapshot:
    return _readable(response, lambda charge: wire.snapshot(charge, request_id=_request_id(response)))


def _readable(response: HttpResponse, read: Callable[[wire.Json], T]) -> T:
    """What `read` makes of the answer. Raises `OutcomeUnknown`: a success that can't be read was carried out."""
    body = _json_object(response)
    if body is None:
        raise OutcomeUnknown("AcmePay's answer is no JSON object", request_id=_request_id(response))
    try:
        return read(body)
    except wire.Unreadable as error:
        detail = f"AcmePay's answer can't be read: {error}"
        raise OutcomeUnknown(detail, request_id=_request_id(response)) from error


def _error(response: HttpResponse, step: str) -> GatewayError:
    request_id = _request_id(response)
    if response.status == 429:
        wait = response.headers.get("retry-after", "")
        seconds = float(wait) if wait.isascii() and wait.isdigit() else None
        return GatewayBusy(f"AcmePay limits our rate: {step}", request_id=request_id, retry_after_seconds=seconds)
    code = _code(response)
    if response.status >= 500 or response.status < 400 or code is None:
        return OutcomeUnknown(f"AcmePay answered {step} with status {response.status}", request_id=request_id)
    if code == "in_progress":
        return GatewayBusy(f"AcmePay is still working on {step}", request_id=request_id)
    if response.status in (401, 403, 404):
        detail = f"AcmePay answered {step} with {code}: check ACME_PAY_KEY and the account that it belongs to"
        return GatewayMisconfigured(detail, request_id=request_id)
    return GatewayRefused(f"AcmePay refused {step} with {code}", code=code, request_id=request_id)


def _code(response: HttpResponse) -> str | None:
    """The code of AcmePay's own error envelope; without one the answer comes from something in between."""
    error = (_json_object(response) or {}).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and code else None


def _json_object(response: HttpResponse) -> Mapping[str, Any] | None:
    try:
        body = json.loads(response.body, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _request_id(response: HttpResponse) -> str | None:
    return response.headers.get("x-request-id")


def _path(ref: str) -> str:
    return "/v1/charges/" + quote(ref, safe="")
