"""What the offline PayPal remembers of request ids: a repeat gets the latest state, another body is refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from paidonce.gateways.paypal.sandbox.replies import Context, Refused
from paidonce.gateways.paypal.sandbox.state import REQUEST_ID_SECONDS, State, ends_at

Json = dict[str, Any]


class Requests:
    """Request ids by their text, each with the print of its call and body."""

    def __init__(self, state: State) -> None:
        self._state = state

    def outcome(self, context: Context, what: str, body: Json) -> Json | None:
        """What came of an earlier request under the same id, or None. Raises its stored refusal again.

        PayPal's documents leave it open what a request id means that comes back with another body; here it is refused.
        """
        request_id = context.headers.get("paypal-request-id")
        if request_id is None:
            return None
        if not 0 < len(request_id) <= 108:
            raise Refused(400, "INVALID_STRING_LENGTH", "PayPal-Request-Id")
        stored = self._state.requests.get(request_id)
        if stored is None or context.now >= ends_at(stored):
            return None
        if stored["print"] != _print(what, body):
            raise Refused(422, "DUPLICATE_REQUEST_ID", "PayPal-Request-Id")
        if "issue" in stored:
            raise Refused(422, stored["issue"])
        return stored

    def remember(
        self, context: Context, what: str, body: Json, outcome: Json, *, life: int = REQUEST_ID_SECONDS
    ) -> None:
        """Keep `outcome` under the request's id for `life` seconds."""
        if (request_id := context.headers.get("paypal-request-id")) is not None:
            kept = {"at": context.now, "print": _print(what, body), "life": life, **outcome}
            self._state.requests[request_id] = kept


def _print(what: str, body: Json) -> str:
    return hashlib.sha256((what + json.dumps(body, sort_keys=True)).encode()).hexdigest()
