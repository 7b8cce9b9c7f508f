"""The gateway protocol, written as the manual for whoever adds one.

A gateway is one folder with a `provider` (found by the entry-point group `paidonce.gateways`). The pattern is always
the same: *create* on the server → the buyer *confirms* in the browser → *capture*, if it did not happen by itself → the
core settles. A gateway never touches the database, the order or the stock: it turns calls into `Snapshot` values.

Rules for every method that calls out:
- it is called outside any transaction, has a total deadline, and may be repeated with the same idempotency key;
- it raises only the four kinds of `errors.GatewayError`; whatever it can't read is `OutcomeUnknown`, never a failure;
- it never logs or raises secrets, client secrets or card data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from paidonce.money import Money
from paidonce.ports import Clock, Microseconds


class CaptureMethod(StrEnum):
    """Who moves the money of a confirmed payment, and when."""

    AUTOMATIC = "automatic"  # At once.
    MANUAL = "manual"  # Confirming only reserves it; staff capture it later, all or a part, or void it.


class Progress(StrEnum):
    """What the gateway's object says, in the core's words."""

    AWAITING_BUYER = "awaiting_buyer"
    APPROVED = "approved"  # The buyer agreed; the money moves when we capture.
    PROCESSING = "processing"  # Neither paid nor failed yet. Unknown statuses belong here too.
    AUTHORIZED = "authorized"  # Reserved; the money moves when we capture.
    CAPTURED = "captured"  # Stays so, whatever is refunded or disputed later.
    FAILED = "failed"
    CANCELED = "canceled"  # Ended without money: voided, expired, or released after an authorization.


class RefundProgress(StrEnum):
    """What the gateway says of a refund. Unknown words are PENDING."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # Also canceled: the money stays, or came back to the merchant.


class DisputeProgress(StrEnum):
    """What the gateway says of a dispute. Unknown words are OPEN."""

    OPEN = "open"
    WON = "won"  # The merchant keeps the money; also withdrawn, or an inquiry that was closed.
    LOST = "lost"


class DeclineCode(StrEnum):
    """Why a payment was declined, in words common to all gateways. The buyer's sentences live in `declines.py`."""

    INSUFFICIENT_FUNDS = "insufficient_funds"
    CARD_DECLINED = "card_declined"
    CARD_EXPIRED = "card_expired"
    WRONG_NUMBER = "wrong_number"
    WRONG_CVC = "wrong_cvc"
    AUTHENTICATION_FAILED = "authentication_failed"
    LIMIT_EXCEEDED = "limit_exceeded"
    INSTRUMENT_DECLINED = "instrument_declined"
    APPROVAL_NEEDED = "approval_needed"
    PROCESSING_ERROR = "processing_error"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decline:
    """A declined attempt. `recoverable` means that the buyer may try again on the same gateway object."""

    code: DeclineCode
    recoverable: bool
    raw_code: str  # The gateway's own code, for the operator.


@dataclass(frozen=True, slots=True)
class RefundSnapshot:
    """What the gateway's own refund object said at one moment, whoever made the refund."""

    ref: str  # The gateway's id of the refund: the journal's unique object.
    progress: RefundProgress
    amount: Money
    refund_id: str | None  # Ours, as the gateway repeats it; None for a refund made at the gateway's dashboard.
    raw_status: str
    failure_reason: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class DisputeSnapshot:
    """What the gateway's own dispute object said at one moment."""

    ref: str
    progress: DisputeProgress
    amount: Money  # What is disputed, in the payment's currency.
    withdrawn: bool  # Whether the gateway has taken that amount from the merchant (an inquiry has not).
    reason: str | None
    raw_status: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the gateway's own object said at one moment: the only thing that settles a payment."""

    gateway: str
    ref: str  # The gateway's id of the object that holds the payment.
    progress: Progress
    amount: Money  # What the object is for, in our minor units (ISO exponent).
    payment_id: str | None  # Our ids as the gateway repeats them; compared, never trusted.
    order_id: str | None
    account: str | None  # Whose money it is: the gateway's merchant account id.
    live: bool
    raw_status: str  # The gateway's own word, for the history.
    captured: Money | None = None  # What has moved, once CAPTURED.
    capture_ref: str | None = None  # The gateway's id of the capture or charge: the journal's unique object.
    # The last attempt's decline, if that is the newest news. Where `captures_in_browser` is False, only the answers of
    # `authorize` and `capture` tell one; a reading that repeats it is not heeded.
    decline: Decline | None = None
    pending_reason: str | None = None
    request_id: str | None = None
    # The buyer is in the middle of it (3-D Secure, say), so the goods stay held a while longer.
    in_progress: bool = False
    # What the gateway kept for itself, in the currency it settles in; None as long as it does not say.
    fee: Money | None = None
    # All refunds and disputes of the capture, oldest first; None where the reading did not ask for them.
    refunds: tuple[RefundSnapshot, ...] | None = None
    disputes: tuple[DisputeSnapshot, ...] | None = None


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A webhook whose signature was verified, reduced to what the core needs. It is a trigger and settles nothing.

    `progress`, `refund` and `dispute` say what it claims, only to recognise news that we know already. Nothing else of
    the body is kept, since bodies hold client secrets.
    """

    gateway: str
    id: str  # The gateway's id of the event: the same for every repetition.
    type: str  # The gateway's own word, for the history.
    relevant: bool  # False for types that are not about a payment's life: answered 200 and ignored.
    created_at: Microseconds
    # Whatever the event names of the payment; each may be None.
    ref: str | None = None
    capture_ref: str | None = None
    payment_id: str | None = None
    progress: Progress | None = None
    refund: tuple[str, RefundProgress] | None = None  # The gateway's id of the refund, and its state.
    dispute: tuple[str, DisputeProgress] | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the keys belong to, and whether they move real money."""

    id: str
    live: bool


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """All that a gateway needs to create its object. The amounts come from the order, never from the browser."""

    payment_id: str
    order_id: str
    order_number: str  # May be shown to the buyer.
    amount: Money
    return_url: str  # Absolute; where a redirect brings the buyer back.
    cancel_url: str
    idempotency_key: str
    capture_method: CaptureMethod = CaptureMethod.AUTOMATIC


@dataclass(frozen=True, slots=True)
class Opened:
    """A gateway object that the buyer can confirm, and what the browser needs for it (never stored or logged)."""

    snapshot: Snapshot
    client: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Component:
    """The gateway's part of the pay page.

    `element` is the custom element's tag, defined by `module`, a file in `assets` (served below
    `/assets/gateways/<name>/`). `attributes` are public values for it. `csp` lists sources per CSP directive.
    """

    element: str
    module: str
    assets: Path
    attributes: Mapping[str, str]
    csp: Mapping[str, tuple[str, ...]]


class Gateway(Protocol):
    """One configured gateway. Methods that move money take a key which the core has committed before the call."""

    name: str  # Lower case; the word on the wire.
    title: str  # For buyers.
    # True if the browser alone can move money once it holds the client values (Stripe). Such a payment holds its
    # order's capture right from before `create` until the gateway says canceled. False if only `capture` moves money
    # (PayPal).
    # Such a gateway must be able to void, or an order could never be paid another way.
    captures_in_browser: bool
    # False if the gateway has no call to end an unconfirmed object; the core then closes the payment locally (PayPal).
    can_void: bool
    # How long the gateway remembers a key; past it a create is abandoned, and a capture or refund is looked up, never
    # repeated.
    create_key_life_seconds: int
    capture_key_life_seconds: int  # For `authorize` as well.
    refund_key_life_seconds: int

    def check_amount(self, amount: Money) -> None:
        """Raise `money.MoneyError` if this gateway can't express `amount` exactly. Called before anything else."""

    async def account(self) -> Account:
        """The account behind the keys; read once per key and cached. Raises `GatewayError`."""

    async def create(self, request: CreateRequest) -> Opened:
        """Create the object, idempotently under `request.idempotency_key`. Must not move money."""

    async def reopen(self, ref: str) -> Opened:
        """Read the object again, with the client values for a page that was reloaded. Must not change anything."""

    async def fetch(self, ref: str, *, details: bool = False) -> Snapshot:
        """Read the object. Must not change anything.

        With `details` the snapshot holds all refunds and disputes of the capture (empty tuples if there is none), and
        the fee if the gateway says it by now; that may take more calls, so it is asked for only when they matter.
        """

    async def authorize(self, ref: str, *, idempotency_key: str) -> Snapshot:
        """Reserve the money of an APPROVED object whose capture method is MANUAL; the answer is AUTHORIZED.

        Never called where `captures_in_browser`: there the browser's confirmation reserves it. Declines are snapshots
        as in `capture`.
        """

    async def capture(self, ref: str, *, idempotency_key: str, amount: Money) -> Snapshot:
        """Move the money of an APPROVED or AUTHORIZED object.

        `amount` may be less than what was authorized; the capture is final, and the rest is released.

        A decline is a snapshot with `decline`, not an error; so is an object that the buyer has not approved yet
        (AWAITING_BUYER, nothing captured) and one that is captured already.
        """

    async def void(self, ref: str) -> Snapshot:
        """Ask the gateway to end the object, then read it again: it may have gone through meanwhile. Safe to repeat.

        It releases an authorization as well, also where `can_void` is False. It moves no money, so it carries no key of
        ours; a gateway that demands one derives it from `ref`.
        """

    async def refund(
        self, ref: str, capture_ref: str, *, idempotency_key: str, amount: Money, refund_id: str
    ) -> RefundSnapshot:
        """Give `amount` of a capture back. `refund_id` is ours and must come back in `fetch(…, details=True)`.

        Raises `GatewayRefused` for a clear no (refunded already, too old, disputed); nothing was refunded then.
        """

    async def read_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify the raw `body`'s signature first, then read it. `headers` have lower-case names.

        Raises `errors.WebhookRefused` for anything forged, unreadable, too old, of the wrong mode or another account,
        or if the gateway has no webhook secret configured; `errors.WebhookUnverifiable` if what the check needs (a
        certificate) can't be fetched right now. There is no way to turn the check off. Makes no other call.
        """

    def component(self) -> Component:
        """The part of the pay page. Pure; called once at start-up."""

    def attributes(self, amount: Money) -> Mapping[str, str]:
        """Public values of the element that depend on the order (Stripe: amount in Stripe's units). Pure.

        Raises `money.MoneyError` like `check_amount`.
        """

    async def aclose(self) -> None:
        """Free what the gateway holds. The shared transport is not its to close."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request as a value: what the transport sends and what a sandbox answers."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One HTTP answer as a value. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Transport(Protocol):
    """How a gateway's client reaches the outside.

    `send` has a total deadline and no retries of its own beyond a request that certainly never left; it raises
    `OutcomeUnknown` for time-outs, resets and truncated bodies, and refuses to run inside a transaction.
    """

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """Send and read the whole answer within `deadline_seconds`."""


@dataclass(frozen=True, slots=True)
class BookEntry:
    """One thing that happened to the merchant's money, as the twin's own books have it.

    `kind` is `capture`, `refund`, `refund_failed`, `fee`, `dispute_opened` (withdrawn), `dispute_won` (given back) or
    `dispute_lost`; `object` is the gateway's id of the capture, refund or dispute. `minor` is the change of the
    merchant's balance in minor units by ISO exponent, negative for what went out; 0 for `dispute_lost`.
    """

    object: str
    kind: str
    minor: int
    currency: str
    payment_id: str | None


@dataclass(frozen=True, slots=True)
class Control:
    """Something that can be made to happen at a twin from outside: what a dashboard, a bank or time does.

    `params` are the names of its text parameters with a word on each; `summary` is one sentence for the control page.
    """

    name: str
    summary: str
    params: Mapping[str, str]


class SandboxCore(Protocol):
    """A gateway's offline twin as a pure state machine: request in, response out, no socket, no clock of its own."""

    name: str
    controls: tuple[Control, ...]

    def handle(self, request: HttpRequest, *, now: int) -> HttpResponse:
        """Answer `request` (its URL holds path and query below the twin's mount) at `now` microseconds."""

    def control(self, name: str, params: Mapping[str, str], *, now: int) -> Mapping[str, str]:
        """Carry out one of `controls`; what it returns is shown. Raises `ValueError` naming what is wrong."""

    def take_webhooks(self, *, now: int) -> list[HttpRequest]:
        """The signed webhooks that came up since the last call, oldest first, each once.

        Their URLs are `/webhooks/<name>`; whoever takes them delivers them, and may repeat, reorder or lose them.
        """

    def books(self) -> tuple[BookEntry, ...]:
        """Everything that moved the merchant's money, oldest first."""

    def dump(self) -> str:
        """The whole state as JSON."""

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave."""


class Provider(Protocol):
    """What a gateway's package exports as `provider`."""

    name: str
    # The settings it reads, for documentation and for the start-up check.
    settings: tuple[str, ...]

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> Gateway | None:
        """The gateway built from `environment`, or None if none of its keys are set.

        Raises `errors.ConfigError` for settings that are incomplete or contradict each other (live keys with a sandbox
        address, say), naming each setting and the fix.
        """

    def sandbox(self, public_url: str) -> SandboxCore | None:
        """The offline twin; None if there is none. Browsers reach it at `public_url`/`name`, where it is mounted."""

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        """The settings that make `configure` talk to the twin mounted at `public_url`/`name`."""
