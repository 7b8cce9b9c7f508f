"""Every error that callers meet, as one tree. A problem carries its code, HTTP status and the buyer's sentence.

PaidonceError
├── ConfigError                 settings that can't work; names each one and the fix
├── DatabaseError
│   ├── DatabaseDown            nothing was written
│   ├── CommitUnknown           the connection or disk failed at COMMIT; re-read by the operation's key
│   └── Conflict                a constraint refused the write
├── GatewayError                what a gateway's client may raise
│   ├── OutcomeUnknown          time-out, reset, 5xx, unreadable answer: it may have happened
│   ├── GatewayBusy             429 or "in progress": it did not happen now, same key later
│   ├── GatewayRefused          a clear no; nothing happened
│   └── GatewayMisconfigured    keys, account or object unknown: an operator has to look
├── WebhookError                a webhook that is not accepted
│   ├── WebhookRefused          forged, unreadable or not meant for us: nothing is written
│   └── WebhookUnverifiable     what the check needs can't be fetched now: the gateway shall send it again
└── Problem                     what a client of the HTTP face reads, as RFC 9457
    ├── NotSignedIn             401 not_signed_in
    ├── Forbidden               403 forbidden
    ├── ConfirmationNeeded      403 confirmation_needed
    ├── NotFound                404 not_found
    ├── InvalidRequest          422 invalid_request
    ├── SoldOut                 409 sold_out
    ├── AlreadyPaid             409 already_paid
    ├── PaymentInProgress       409 payment_in_progress
    ├── OrderClosed             409 order_closed
    ├── NotAuthorized           409 not_authorized
    ├── ChangedMeanwhile        409 changed_meanwhile
    ├── RefundTooLarge          409 refund_too_large
    ├── PaymentDisputed         409 payment_disputed
    ├── TooManyAttempts         429 too_many_attempts
    │   └── TooManyDeclines         after declined payments; a challenge may help
    ├── ChallengeNeeded         429 challenge_needed
    └── GatewayUnavailable      503 gateway_unavailable
"""

from __future__ import annotations

from collections.abc import Sequence


class PaidonceError(Exception):
    """The root of everything raised on purpose."""


class ConfigError(PaidonceError):
    """Settings that can't work. Each problem names the setting and how to mend it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DatabaseError(PaidonceError):
    """The database failed."""


class DatabaseDown(DatabaseError):
    """The database can't be reached or written; nothing of this transaction was kept."""


class CommitUnknown(DatabaseError):
    """COMMIT itself failed: the transaction may or may not have been kept."""


class Conflict(DatabaseError):
    """A constraint refused the write; the transaction was rolled back."""


class GatewayError(PaidonceError):
    """A gateway's answer that is no snapshot. `request_id` is the gateway's own, for the operator."""

    def __init__(self, detail: str, *, request_id: str | None = None) -> None:
        self.detail = detail
        self.request_id = request_id
        super().__init__(detail if request_id is None else f"{detail} [{request_id}]")


class OutcomeUnknown(GatewayError):
    """The request may have been carried out. Ask again with the same key, or look the object up; never a new key.

    `replayed` is True where the gateway says that it repeated a stored server error: the same key will never succeed.
    """

    def __init__(self, detail: str, *, request_id: str | None = None, replayed: bool = False) -> None:
        super().__init__(detail, request_id=request_id)
        self.replayed = replayed


class GatewayBusy(GatewayError):
    """The gateway did not carry the request out now; repeat it with the same key after `retry_after_seconds`."""

    def __init__(self, detail: str, *, request_id: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail, request_id=request_id)
        self.retry_after_seconds = retry_after_seconds


class GatewayRefused(GatewayError):
    """A clear no: nothing was carried out.

    `code` is the gateway's own; `buyer_message` is set when the buyer can mend it.
    """

    def __init__(
        self, detail: str, *, code: str, request_id: str | None = None, buyer_message: str | None = None
    ) -> None:
        super().__init__(detail, request_id=request_id)
        self.code = code
        self.buyer_message = buyer_message


class GatewayMisconfigured(GatewayError):
    """Keys, account or object are unknown to the gateway: an operator has to mend the settings."""


class WebhookError(PaidonceError):
    """A webhook that is not accepted. The message is for the log; it quotes nothing of the body or the headers."""


class WebhookRefused(WebhookError):
    """It is forged, unreadable, stale, or not meant for this endpoint: nothing is written."""


class WebhookUnverifiable(WebhookError):
    """What the check needs can't be fetched right now; the gateway shall send it again."""


class Problem(PaidonceError):
    """An answer for the client: stable `code`, HTTP `status`, `title`, and a sentence for the buyer. No internals."""

    code = "internal_error"
    status = 500
    title = "Something went wrong"
    default_message = (
        "Something went wrong on our side. Look at your order before you try again; you are never charged twice."
    )

    def __init__(self, message: str | None = None, *, retry_after_seconds: int | None = None) -> None:
        self.message = message or self.default_message
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)


class NotSignedIn(Problem):
    """No valid session."""

    code, status, title = "not_signed_in", 401, "Please sign in"
    default_message = "Please sign in to go on."


class Forbidden(Problem):
    """Signed in, but not for this."""

    code, status, title = "forbidden", 403, "Not allowed"
    default_message = "Your account is not allowed to do this."


class ConfirmationNeeded(Problem):
    """Allowed, but only to somebody who has proved again, within the last minutes, who they are."""

    code, status, title = "confirmation_needed", 403, "Please confirm that it is you"
    default_message = (
        "A refund of this size needs a second look, and nothing was refunded yet: prove once more that it is you, then "
        "send the request again."
    )


class NotFound(Problem):
    """It does not exist, or it belongs to somebody else: a stranger can't tell which."""

    code, status, title = "not_found", 404, "Not found"
    default_message = "We could not find that."


class InvalidRequest(Problem):
    """The input can't be used; the message names what is wrong and how to mend it."""

    code, status, title = "invalid_request", 422, "Please check your input"
    default_message = "The request could not be used."


class SoldOut(Problem):
    """The goods can't be held; nothing was charged."""

    code, status, title = "sold_out", 409, "Sold out"
    default_message = "Sorry, this has just sold out. You have not been charged."

    def __init__(self, message: str | None = None, *, skus: Sequence[str] = ()) -> None:
        self.skus = tuple(skus)
        super().__init__(message)


class AlreadyPaid(Problem):
    """The order is paid; it needs no further payment."""

    code, status, title = "already_paid", 409, "Already paid"
    default_message = "This order is already paid. You will not be charged again."


class PaymentInProgress(Problem):
    """Another payment of this order may still move money."""

    code, status, title = "payment_in_progress", 409, "A payment is in progress"
    default_message = (
        "Another payment for this order is still being checked. You will not be charged twice; please wait a moment."
    )


class OrderClosed(Problem):
    """The order was canceled or has expired."""

    code, status, title = "order_closed", 409, "Order closed"
    default_message = "This order is closed and can no longer be paid. You have not been charged."


class NotAuthorized(Problem):
    """The payment holds no reserved money that could be captured or released."""

    code, status, title = "not_authorized", 409, "Nothing to capture"
    default_message = "This payment has no reserved money that waits for a capture."


class ChangedMeanwhile(Problem):
    """What the client has looked at is outdated; nothing was written."""

    code, status, title = "changed_meanwhile", 409, "Changed meanwhile"
    default_message = (
        "Something else was entered for this payment meanwhile, so nothing was entered now. Look at it again, then "
        "enter what is still missing."
    )


class RefundTooLarge(Problem):
    """Less is left of the captured money than the refund asks for; nothing was refunded."""

    code, status, title = "refund_too_large", 409, "Refund too large"
    default_message = "Less than that is left to refund. Nothing was refunded by this request."


class PaymentDisputed(Problem):
    """The buyer disputes the payment at the bank or gateway, which decides where the money goes."""

    code, status, title = "payment_disputed", 409, "Payment disputed"
    default_message = (
        "This payment is disputed, so it can't be refunded now: the buyer could get the money twice. "
        "Answer the dispute at the gateway first."
    )


class TooManyAttempts(Problem):
    """A bound on attempts was reached."""

    code, status, title = "too_many_attempts", 429, "Too many attempts"
    default_message = "There were too many attempts. Please wait a while before you try again."


class TooManyDeclines(TooManyAttempts):
    """Payments were declined, so the next one has to wait; `challenge_helps` where a passed challenge spares that."""

    def __init__(self, message: str, *, retry_after_seconds: int, challenge_helps: bool) -> None:
        self.challenge_helps = challenge_helps
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class ChallengeNeeded(Problem):
    """The shop's own challenge (a CAPTCHA, say) has to be passed before this payment starts."""

    code, status, title = "challenge_needed", 429, "Please show that you are a person"
    default_message = (
        "Several payments were declined. You have not been charged. Please pass the check on this page, then try again."
    )


class GatewayUnavailable(Problem):
    """The gateway could not be reached, and no money moved by this step."""

    code, status, title = "gateway_unavailable", 503, "Payment service unavailable"
    default_message = (
        "The payment service can't be reached right now. You have not been charged; please try again in a moment."
    )
