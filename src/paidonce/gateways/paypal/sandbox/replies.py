"""Requests taken apart, and the answers of the offline PayPal's API, its refusals above all."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from paidonce.gateways.base import HttpResponse
from paidonce.ports import Microseconds

Json = dict[str, Any]

LARGEST_BODY = 256 * 1024

_MESSAGES = {
    400: ("INVALID_REQUEST", "Request is not well-formed, syntactically incorrect, or violates schema."),
    403: ("NOT_AUTHORIZED", "Authorization failed due to insufficient permissions."),
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
    "ACTION_DOES_NOT_MATCH_INTENT": (
        "Order was created with an intent to 'CAPTURE'. Please use v2/checkout/orders/order_id/capture to complete the "
        "transaction or alternately Create an order with an intent of 'AUTHORIZE'."
    ),
    "AUTHORIZATION_ALREADY_CAPTURED": "Authorization has previously been captured.",
    "AUTHORIZATION_DENIED": "An denied authorization cannot be captured.",
    "AUTHORIZATION_EXPIRED": "An expired authorization cannot be captured.",
    "AUTHORIZATION_VOIDED": "A voided authorization cannot be captured or reauthorized. ",
    "AUTH_CAPTURE_CURRENCY_MISMATCH": "Currency of capture must be the same as currency of authorization.",
    "CAPTURE_FULLY_REFUNDED": "The capture has already been fully refunded",
    "MAX_CAPTURE_AMOUNT_EXCEEDED": (
        "Capture amount exceeds allowable limit. Please contact customer service or your account manager to request "
        "the change to your overage limit. The default overage limit is 115%, which allows the sum of all captures to "
        "be up to 115% of the order amount. The ability to over capture is subjected to regulatory approvals."
    ),
    "ORDER_ALREADY_AUTHORIZED": (
        "Order already authorized.If 'intent=AUTHORIZE' only one authorization per order is allowed."
    ),
    "PENDING_CAPTURE": (
        "Cannot initiate a refund as the capture is pending. Capture is typically pending when the payer has funded "
        "the transaction using e-check/bank funded."
    ),
    "PREVIOUSLY_CAPTURED": "Authorization has been previously captured and hence cannot be voided.",
    "PREVIOUSLY_VOIDED": "Authorization has been previously voided and hence cannot be voided again.",
    "REFUND_AMOUNT_EXCEEDED": (
        "The refund amount must be less than or equal to the capture amount that has not yet been refunded."
    ),
    "REFUND_CAPTURE_CURRENCY_MISMATCH": "Refund must be in the same currency as the capture",
    "REFUND_NOT_ALLOWED": "Capture cannot be refunded.",
    "REFUND_TIME_LIMIT_EXCEEDED": "You are over the time limit to perform a refund on this capture",
    "TRANSACTION_DISPUTED": (
        "Partial refunds cannot be offered at this time because there is an open case on this transaction. Visit the "
        "PayPal Resolution Center to review this case."
    ),
}


class Refused(Exception):
    """A refusal as PayPal words it: HTTP status, issue, and the field and value that it is about.

    `sentence` is set where a call has another sentence for an issue than most.
    """

    def __init__(
        self,
        status: int,
        issue: str,
        field: str | None = None,
        value: str | None = None,
        *,
        sentence: str | None = None,
    ) -> None:
        self.status, self.issue, self.field, self.value, self.sentence = status, issue, field, value, sentence
        super().__init__(issue)


@dataclass(frozen=True)
class Context:
    """One request, taken apart."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    now: Microseconds

    def json(self) -> Json:
        """The body as a JSON object; numbers with a point stay text. Raises `Refused`."""
        if not self.headers.get("content-type", "").startswith("application/json"):
            raise Refused(400, "MALFORMED_REQUEST_JSON", "content-type")
        if len(self.body) > LARGEST_BODY:
            raise Refused(400, "INVALID_STRING_LENGTH")
        try:
            body = json.loads(self.body or b"{}", parse_float=str)
        except (ValueError, RecursionError):
            raise Refused(400, "MALFORMED_REQUEST_JSON") from None
        if not isinstance(body, dict):
            raise Refused(400, "MALFORMED_REQUEST_JSON")
        return body

    def mocked(self) -> str | None:
        """The issue that the header PayPal-Mock-Response asks for, as real PayPal sandboxes honour it."""
        try:
            wish = json.loads(self.headers.get("paypal-mock-response", "{}"))
        except ValueError:
            raise Refused(400, "MALFORMED_REQUEST_JSON", "PayPal-Mock-Response") from None
        issue = wish.get("mock_application_codes") if isinstance(wish, dict) else None
        return issue if isinstance(issue, str) and re.fullmatch(r"[A-Z_]{1,64}", issue) else None

    @property
    def wants_all(self) -> bool:
        """Whether the answer shall hold the whole object."""
        return "return=representation" in self.headers.get("prefer", "")


def refusal(refused: Refused, debug_id: str) -> HttpResponse:
    """The answer that carries a refusal."""
    name, message = _MESSAGES[refused.status]
    usual = _DESCRIPTIONS.get(refused.issue, f"The offline sandbox refused this: {refused.issue}.")
    detail = {"issue": refused.issue, "description": refused.sentence or usual}
    if refused.field is not None:
        detail["field"] = refused.field
    if refused.value is not None:
        detail["value"] = refused.value
    help_link = f"https://developer.paypal.com/api/rest/reference/orders/v2/errors/#{refused.issue}"
    body = {
        "name": name,
        "message": message,
        "debug_id": debug_id,
        "details": [detail],
        "links": [{"href": help_link, "rel": "information_link", "method": "GET"}],
    }
    return answer(refused.status, body)


def answer(status: int, body: Json) -> HttpResponse:
    """An answer in JSON."""
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    return HttpResponse(status, headers, json.dumps(body).encode())


def preferred(context: Context, status: int, full: Json) -> HttpResponse:
    """The object whole or cut short, as the header Prefer asks for it."""
    return answer(status, full if context.wants_all else {name: full[name] for name in ("id", "status", "links")})


def basic(header: str) -> tuple[str, str]:
    """User and password of an Authorization header, empty where it can't be read."""
    scheme, _, encoded = header.partition(" ")
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8") if scheme.lower() == "basic" else ""
    except (binascii.Error, ValueError):
        text = ""
    user, _, password = text.partition(":")
    return user, password


def first_values(text: str) -> dict[str, str]:
    """A query or a form; of repeated names the first value."""
    return {name: values[0] for name, values in parse_qs(text, max_num_fields=50).items()}
