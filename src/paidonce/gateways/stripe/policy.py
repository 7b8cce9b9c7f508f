"""Stripe's errors as our four kinds, and which answers are worth another try. Decided here only, without any call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from paidonce.errors import GatewayBusy, GatewayError, GatewayMisconfigured, GatewayRefused, OutcomeUnknown
from paidonce.gateways.base import HttpResponse, keepable

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_DETAIL = 300

# The key, the account or the object belong to somebody else: an operator has to look, and no payment has failed.
_MISCONFIGURED = frozenset(
    {
        "account_closed",
        "account_invalid",
        "api_key_expired",
        "livemode_mismatch",
        "platform_api_key_expired",
        "resource_missing",
        "secret_key_required",
        "testmode_charges_only",
    }
)
_BUYER_MESSAGES = {
    "amount_too_small": (
        "This total is below the smallest amount that can be paid this way. You have not been charged; "
        "please add something to your order or choose another way to pay."
    ),
    "amount_too_large": (
        "This total is above the largest amount that can be paid this way. You have not been charged; "
        "please choose another way to pay or split your order."
    ),
}
_SECRETS = re.compile(r"\b(?:sk|rk|pk|whsec)_[A-Za-z0-9_*]+|_secret_[A-Za-z0-9_]+")


def read_json(response: HttpResponse) -> dict[str, Any] | None:
    """The answer's JSON object, or None if it is anything else (HTML of a proxy, half an answer, a list)."""
    try:
        data = json.loads(response.body)
    # A very deep answer ends in a RecursionError, which is just as unreadable.
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def retry_wait_seconds(response: HttpResponse | None, *, tries_made: int, spread: float) -> float | None:
    """How long to wait before the same request is sent again, or None if that would not help.

    `response` is None for a connection that failed or timed out. `spread` in [0, 1) keeps clients from coming back
    all at once. The rules are Stripe's: 409, 429, 5xx and connection errors, unless `stripe-should-retry` says
    otherwise; a replayed 5xx will be replayed again.
    """
    backoff: float = _FIRST_WAIT_SECONDS * 2 ** (tries_made - 1) * (0.5 + spread / 2)
    if response is None:
        return backoff
    advice = response.headers.get("stripe-should-retry")
    if advice == "false" or (response.status >= 500 and is_replay(response)):
        return None
    if advice == "true" or response.status in {409, 429} or response.status >= 500 or read_json(response) is None:
        return max(backoff, retry_after_seconds(response) or 0.0)
    return None


def retry_after_seconds(response: HttpResponse) -> float | None:
    """The header's seconds; None if it is absent or a date, which Stripe does not send."""
    text = response.headers.get("retry-after", "")
    return float(text) if re.fullmatch(r"\d{1,5}(\.\d{1,3})?", text, re.ASCII) else None


def is_replay(response: HttpResponse) -> bool:
    """Whether Stripe repeated a stored result instead of carrying the request out."""
    return response.headers.get("idempotent-replayed") == "true"


def raise_for(response: HttpResponse) -> dict[str, Any]:
    """The JSON object of a success; raises the one `GatewayError` that fits anything else."""
    data = read_json(response)
    if data is None:
        raise OutcomeUnknown(
            f"Stripe's answer ({response.status}) is not readable JSON", request_id=request_id(response)
        )
    if 200 <= response.status < 300:
        return data
    error = data.get("error")
    raise to_error(response, error if isinstance(error, Mapping) else {})


def to_error(response: HttpResponse, error: Mapping[str, Any]) -> GatewayError:
    """The `GatewayError` for a refusal of Stripe's; `error` is the body's error object, or empty."""
    status, request = response.status, request_id(response)
    code = keepable(error.get("code")) or keepable(error.get("type")) or str(status)
    detail = f"Stripe answered {status} {code}: {scrubbed(error.get('message'))}"
    if status >= 500 or status < 400 or not error:
        return OutcomeUnknown(detail, request_id=request, replayed=status >= 500 and is_replay(response))
    if status in {409, 429} or code in {"rate_limit", "lock_timeout", "idempotency_key_in_use"}:
        return GatewayBusy(detail, request_id=request, retry_after_seconds=retry_after_seconds(response))
    if error.get("type") == "idempotency_error":
        alarm = "ALARM: an idempotency key went out with two different bodies. Nothing was done; this is a bug. "
        return GatewayRefused(alarm + detail, code="idempotency_mismatch", request_id=request)
    if status in {401, 403, 404} or code in _MISCONFIGURED:
        advice = "Check that STRIPE_SECRET_KEY is valid and belongs to the account that took this payment. "
        return GatewayMisconfigured(advice + detail, request_id=request)
    return GatewayRefused(detail, code=code, request_id=request, buyer_message=_BUYER_MESSAGES.get(code))


def request_id(response: HttpResponse) -> str | None:
    """Stripe's id of the request, which its support asks for."""
    return keepable(response.headers.get("request-id"))


def scrubbed(message: object) -> str:
    """Stripe's own sentence, on one line, without keys or client secrets."""
    printable = "".join(sign if sign.isprintable() else " " for sign in str(message or "no message"))
    text = _SECRETS.sub("[removed]", " ".join(printable.split()))
    return text[:_LONGEST_DETAIL]
