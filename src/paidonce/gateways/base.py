"""The gateway protocol, written as the manual for whoever adds one.

A gateway is one folder with a `provider`: one beside this file, or an installed package that announces it under the
entry-point group `paidonce.gateways`. The pattern is always the same: *create* on the server → the buyer *confirms* in
the browser → *capture*, if it did not happen by itself → the core settles. A gateway never touches the database, the
order or the stock: it turns calls into `Snapshot` values.

Rules for every method that calls out:
- it is called outside any transaction, has a total deadline, and may be repeated with the same idempotency key;
- it may be called for one object by several processes at once, and after a crash again by another one;
- it raises only the four kinds of `errors.GatewayError`; whatever it can't read is `OutcomeUnknown`, never a failure;
- it never logs or raises secrets, client secrets or card data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from paidonce.errors import InvalidRequest
from paidonce.money import LARGEST_MINOR, Money
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


LONGEST_WORD = 255


def keepable(value: object) -> str | None:
    """`value` if it is a short, printable text, as all ids and words of gateways are; None for anything else.

    Databases refuse some texts (NUL, half a surrogate pair), and a broken answer must not fail later than it is read.
    """
    is_text = isinstance(value, str) and 0 < len(value) <= LONGEST_WORD and value.isprintable()
    return value if isinstance(value, str) and is_text else None


@dataclass(frozen=True, slots=True)
class Decline:
    """A declined attempt. `recoverable` means that the buyer may try again on the same gateway object."""

    code: DeclineCode
    recoverable: bool
    raw_code: str  # The gateway's own code, for the operator.
    # The gateway's id of the declined attempt, where a reading tells it: two attempts may fail with the same words.
    ref: str | None = None


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
    # With AWAITING_BUYER: the buyer has gone to pay elsewhere (a transfer, a voucher, cash), and until then the money
    # may come by itself. The goods stay held, and nobody ends the object for being silent; past it the gateway says
    # CANCELED of its own accord. The buyer may still change his mind.
    awaited_until: Microseconds | None = None
    # The buyer's money that lies at the gateway and is no part of `captured`: too much, or too little and too late. It
    # is not booked; the operator is told until it is gone.
    surplus: Money | None = None
    # What the gateway kept for itself, in the currency it settles in; None as long as it does not say.
    fee: Money | None = None
    # All refunds and disputes of the capture, oldest first; None where the reading did not ask for them.
    refunds: tuple[RefundSnapshot, ...] | None = None
    disputes: tuple[DisputeSnapshot, ...] | None = None


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A webhook that was verified, reduced to what the core needs. It is a trigger and settles nothing.

    `progress`, `refund` and `dispute` say what it claims, only to recognise news that we know already. Nothing else of
    the body is kept, since bodies hold client secrets.
    """

    gateway: str
    id: str  # The gateway's id of the event: the same for every repetition.
    type: str  # The gateway's own word, for the history.
    relevant: bool  # False for types that are not about a payment's life: answered 200 and ignored.
    created_at: Microseconds
    # False where the gateway signs nothing: anybody may have sent it, so one that names nothing of ours is dropped.
    signed: bool = True
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
    # Absolute; where this shop takes the gateway's webhooks, for a gateway that is told so with each object. The buyer
    # may come back to another origin (a front end of its own). None where whoever started the payment did not say.
    webhook_url: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A gateway object that the buyer can confirm, and what the browser needs for it (never stored or logged)."""

    snapshot: Snapshot
    client: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Component:
    """The gateway's part of the pay page.

    `element` is the custom element's tag, defined by `module`, a file in `assets` (served below
    `/assets/gateways/<name>/`). `attributes` are public values for it. `csp` lists sources per CSP directive, and
    `scripts` says of each of the sources of scripts, or of an address there, what it is on the page for.
    """

    element: str
    module: str
    assets: Path
    attributes: Mapping[str, str]
    csp: Mapping[str, tuple[str, ...]]
    scripts: Mapping[str, str] = field(default_factory=dict)


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
        """Raise `money.MoneyError` if this gateway can't take exactly `amount`.

        Called before anything is written or sent, for payments and for refunds. Pure; it raises nothing else.
        """

    async def account(self) -> Account:
        """The account behind the keys. Called with a payment, to compare it with the snapshot's; may be called often.

        The gateway reads it once and keeps it. Raises any `GatewayError`; nothing is kept then.
        """

    async def create(self, request: CreateRequest) -> Opened:
        """Create the object, under `request.idempotency_key`. Must not move money.

        Called when a buyer starts to pay: the payment and its key are committed before. It is called again with the
        same request after a crash or an unknown outcome, and must give the first object then; never once the key's life
        is over. Raises `GatewayRefused` for a clear no (a key that was used for another request, a capture method that
        the gateway lacks); nothing was created then. Raises the other three kinds as `errors` describes them.
        """

    async def reopen(self, ref: str) -> Opened:
        """Read the object again, with the client values that `create` gave, which the core never stores.

        Called when the buyer opens the pay page again. Must not change anything, the keys included. Raises
        `GatewayMisconfigured` for a `ref` that the gateway doesn't know, and the other kinds as for any reading.
        """

    async def fetch(self, ref: str, *, details: bool = False) -> Snapshot:
        """Read the object. Must not change anything.

        Called whenever somebody wants to know: the buyer is back, a webhook came, recovery looks after a payment. It
        costs one call at most without `details`. Raises `GatewayMisconfigured` for a `ref` that the gateway doesn't
        know, and `OutcomeUnknown` for what can't be read whole: a list with a hole would hide that money went back.

        With `details` the snapshot holds all refunds and disputes of the capture (empty tuples if there is none), and
        the fee if the gateway says it by now; that may take more calls, so it is asked for only when they matter.
        """

    async def authorize(self, ref: str, *, idempotency_key: str) -> Snapshot:
        """Reserve the money of an APPROVED object whose capture method is MANUAL; the answer is AUTHORIZED.

        Called when the buyer is back and has approved. Must not move money. Repeated with its key, it reserves once.
        Never called where `captures_in_browser`: there the browser's confirmation reserves it, so raise
        `GatewayRefused`. Declines and objects that aren't approved are snapshots as in `capture`; so are the errors.
        """

    async def capture(self, ref: str, *, idempotency_key: str, amount: Money) -> Snapshot:
        """Move the money of an APPROVED or AUTHORIZED object: the one call that may.

        Called when the buyer is back, or when staff capture a reservation; the intention and its key are committed
        before, and the order's capture right is held. It is repeated with its key until the outcome is known, and must
        move the money once; past the key's life the object is read instead.

        `amount` may be less than what was authorized; the capture is final, and the rest is released.

        A decline is a snapshot with `decline`, not an error; so is an object that the buyer has not approved yet
        (AWAITING_BUYER, nothing captured), one that is captured already and one that has ended (CANCELED). Raises
        `GatewayRefused` only for a no that says nothing of the object, and `OutcomeUnknown` in every doubt.
        """

    async def void(self, ref: str) -> Snapshot:
        """Ask the gateway to end the object, then read it again: it may have gone through meanwhile. Safe to repeat.

        Called when the buyer cancels or pays another way, when time is up, and when staff release a reservation. The
        answer is what the object says now: CANCELED, or CAPTURED if the money was faster, or still AWAITING_BUYER where
        the gateway can't end it right now; the core then keeps the order's capture right with it and asks again. It
        never raises for an object that is captured or has ended.

        It releases an authorization as well, also where `can_void` is False. It moves no money, so it carries no key of
        ours; a gateway that demands one derives it from `ref`.
        """

    async def refund(
        self, ref: str, capture_ref: str, *, idempotency_key: str, amount: Money, refund_id: str
    ) -> RefundSnapshot:
        """Give `amount` of a capture back. `refund_id` is ours and must come back in `fetch(…, details=True)`.

        Called for refunds by staff and for those that the core owes a buyer; the intention and its key are committed
        before. Repeated with its key, it gives the money back once. The answer may be PENDING.

        Raises `GatewayRefused` for a clear no (refunded already, too old, disputed, a key that was used for another
        refund); nothing was refunded then. Raises `OutcomeUnknown` in every doubt.
        """

    async def read_webhook(self, headers: Mapping[str, str], body: bytes) -> WebhookEvent:
        """Verify the raw `body`'s signature first, then read it. `headers` have lower-case names.

        Called for every request that anybody sends to `/webhooks/<name>`, of any content up to the server's limit.
        A repetition gets the id of the first. Where the gateway signs nothing, an event names a `ref` and claims
        nothing, says `signed=False`, and gets a new id each time: the same body may be other news. Where there are no
        webhooks, everything is `WebhookRefused`. Must not change anything, and quotes nothing of the body.

        Raises `errors.WebhookRefused` for anything forged, unreadable, too old, of the wrong mode or another account,
        or if the gateway has no webhook secret configured; `errors.WebhookUnverifiable` if what the check needs (a
        certificate) can't be fetched right now. There is no way to turn the check off. Makes no other call, and raises
        nothing else.
        """

    def component(self) -> Component:
        """The part of the pay page. Pure, and always the same. Called at start-up; raises nothing."""

    def attributes(self, amount: Money) -> Mapping[str, str]:
        """Public values of the element that depend on the order (Stripe: amount in Stripe's units). Pure.

        Called for every pay page. Raises `money.MoneyError` like `check_amount`; the page says then that this gateway
        can't take the amount.
        """

    async def aclose(self) -> None:
        """Free what the gateway holds. Called once at the end, and may be called again; the transport is not its."""


# ── What only some gateways have: a gateway that has these methods is treated accordingly ──────────


@runtime_checkable
class NamesSecrets(Protocol):
    """A provider that tells what of its gateway must never be read: by heart, and by its look.

    Every log hides both. A shape is a regular expression for keys, tokens and client secrets of this gateway, whoever's
    they are; it is looked for where a word begins. It has to cost time in proportion to the text, since strangers may
    choose what is logged: no repetition inside another one.
    """

    # Those of `settings` whose values are secrets.
    secret_settings: tuple[str, ...]
    secret_shapes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """One entry of a gateway's notebook. Never changed, never deleted; a mistake is mended by another note."""

    number: int  # 1 is the first note about `ref`; there are no gaps.
    ref: str  # The gateway's object that it is about.
    kind: str  # The gateway's own word.
    value: str  # JSON for the gateway to read again; at most 4,000 characters.
    text: str  # One sentence for people, which `paidonce explain` tells.
    key: str  # The same key again is the same note.
    by: str  # Who: a user's id, `buyer`, or `paidonce`.
    at: Microseconds


class Notes(Protocol):
    """An append-only notebook, for a gateway without a counterpart that could be asked: its only memory.

    It belongs to one gateway and lies in the shop's database. Both methods raise `errors.DatabaseError`, which a
    gateway lets through: the caller repeats, and keys keep that harmless.
    """

    async def read(self, ref: str) -> tuple[Note, ...]:
        """All notes about `ref`, oldest first; empty for an object that nobody knows."""

    async def append(
        self, ref: str, kind: str, value: str, *, text: str, key: str, by: str, seen: int | None = None
    ) -> bool:
        """Write a note, durably; False if this very note (`ref`, `kind`, `value`) stands there under `key` already.

        `seen` is the number of the last note that the writer had read (0: none). If there is a newer one, nothing is
        written, so that what was concluded from the notes is still true: two people can't enter the same money twice.
        Raises `errors.ChangedMeanwhile` then, and `errors.InvalidRequest` if `key` was used for another note of `ref`.
        """


@runtime_checkable
class KeepsNotes(Protocol):
    """A gateway that has nobody to ask and remembers by a notebook."""

    def use_notes(self, notes: Notes) -> None:
        """Take the notebook. Called once at start, before any other call; a later call replaces it."""


@runtime_checkable
class PaidElsewhere(Protocol):
    """A gateway whose buyers pay outside the browser: by a transfer, at a counter."""

    async def promise(self, ref: str) -> None:
        """The buyer says that he will pay. Called when he completes a payment that is AWAITING_BUYER; safe to repeat.

        It proves nothing and moves nothing. From then on readings say `awaited_until`.
        """


@dataclass(frozen=True, slots=True)
class StaffParam:
    """One field of a staff action. An `amount` is an integer of minor units in the payment's currency."""

    name: str
    label: str
    kind: Literal["amount", "text"]
    required: bool = True
    hint: str = ""


LONGEST_STAFF_TEXT = 200


@dataclass(frozen=True, slots=True)
class StaffAction:
    """Something that staff can tell a gateway about one payment, as it is offered right now."""

    name: str  # In addresses: lower case and underscores.
    title: str  # On the button.
    summary: str  # One sentence: what it means, and what follows.
    params: tuple[StaffParam, ...] = ()
    # What it is about, sent along unchanged: {"refund": "ref_…"}, where more than one could be meant.
    given: Mapping[str, str] = field(default_factory=dict)

    def check(self, params: Mapping[str, str | int]) -> None:
        """Raise `errors.InvalidRequest`, naming the field and the fix, unless `params` fits this action."""
        fields = {param.name: param for param in self.params}
        unknown = sorted(params.keys() - fields.keys() - self.given.keys())
        if unknown:
            raise InvalidRequest(f"{unknown[0]}: this entry has no such field. Send {', '.join(fields) or 'none'}.")
        for name, param in fields.items():
            if name in params:
                _check_value(param, params[name])
            elif param.required:
                raise InvalidRequest(f"{name}: it is missing. {param.hint}".rstrip())


def _check_value(param: StaffParam, value: str | int) -> None:
    if param.kind == "amount":
        if type(value) is not int or not 0 < value <= LARGEST_MINOR:
            raise InvalidRequest(f"{param.name}: send a whole number of minor units, at least 1.")
    elif not isinstance(value, str) or not 0 < len(value) <= LONGEST_STAFF_TEXT or not value.isprintable():
        raise InvalidRequest(f"{param.name}: write one line of 1 to {LONGEST_STAFF_TEXT} characters.")


@dataclass(frozen=True, slots=True)
class StaffSheet:
    """One payment as staff see it at the gateway: what is known, what there is to do, what can be entered."""

    seen: int  # Goes back with an entry, so that one made on an outdated sheet is refused.
    facts: tuple[tuple[str, str], ...] = ()  # A label and what to say.
    to_do: str | None = None  # What only staff can do, in one or two sentences; None if nothing.
    actions: tuple[StaffAction, ...] = ()


@runtime_checkable
class StaffDesk(Protocol):
    """A gateway that learns from the shop's staff what a bank or a counter tells nobody else."""

    async def staff_sheet(self, ref: str) -> StaffSheet:
        """How the object stands for staff. Must not change anything."""

    async def act(self, ref: str, name: str, params: Mapping[str, str | int], *, seen: int, key: str, by: str) -> None:
        """Write down what staff say; the next reading tells it. The same `key` again is the same entry.

        `by` is the user's id and `seen` comes from the sheet that they looked at. Raises `errors.ChangedMeanwhile` if
        the sheet is outdated, `errors.InvalidRequest` for an entry that is not offered or does not fit. It moves no
        money, and nothing is written then.
        """


@runtime_checkable
class SaysItsMode(Protocol):
    """A gateway whose settings say whether its keys move real money, without a call. The start-up guard asks it."""

    @property
    def live(self) -> bool:
        """Whether real money moves. The same as `Account.live`."""


class Health(StrEnum):
    """How something is: fine, worth a look, or to be mended before buyers come."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look of `paidonce doctor` has found. Neither text holds a secret."""

    check: str  # Lower-case words with points between, such as `webhook.events`.
    health: Health
    text: str  # One sentence: what is so.
    fix: str = ""  # One sentence: what to do. Empty where there is nothing to do.


@dataclass(frozen=True, slots=True)
class Needs:
    """What the shop needs of a gateway's account."""

    webhook_url: str  # Where this shop takes the gateway's webhooks.
    reachable: bool  # False if that address means this machine alone, so that no gateway elsewhere can call it.
    currencies: tuple[str, ...]  # In which the shop has prices or payments; may be empty.


@runtime_checkable
class Checkup(Protocol):
    """A gateway that can look at its own account for `paidonce doctor`."""

    async def checkup(self, needs: Needs) -> Sequence[Finding]:
        """What harmless calls tell of the account: webhook endpoint, events, methods, permissions.

        Makes at least one call that needs the keys, and none that moves money or changes anything. `account()` was
        called before. Raises any `GatewayError` if the keys don't work or nothing can be said; a part that these keys
        may not read is a finding instead. The names of checks begin without the gateway's name.
        """


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
        """The webhooks that came up since the last call, oldest first, each once, signed at `now` if the gateway signs.

        Their URLs are `/webhooks/<name>`; whoever takes them delivers them, and may repeat, reorder or lose them.
        """

    def books(self) -> tuple[BookEntry, ...]:
        """Everything that moved the merchant's money, oldest first."""

    def dump(self) -> str:
        """The whole state as JSON, remembered idempotency keys included."""

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave."""


@runtime_checkable
class ShowsEndpoints(Protocol):
    """A twin whose API shows where its webhooks go, as a dashboard's list of endpoints does."""

    def deliver_to(self, shop_url: str) -> None:
        """From now on webhooks go to `shop_url`/webhooks/`name`. Called at start, after `load`."""


class Provider(Protocol):
    """What a gateway's package exports as `provider`."""

    name: str
    # The settings it reads, for documentation and for the start-up check.
    settings: tuple[str, ...]

    def configure(self, environment: Mapping[str, str], transport: Transport, clock: Clock) -> Gateway | None:
        """The gateway built from `environment`, or None if none of its keys are set. Calls nobody.

        Raises `errors.ConfigError` for settings that are incomplete or contradict each other (live keys with a sandbox
        address, say), naming each setting and the fix, and never the value.
        """

    def sandbox(self, public_url: str) -> SandboxCore | None:
        """A new offline twin, for browsers at `public_url`/`name`; None for a gateway that has nobody to call."""

    def sandbox_environment(self, public_url: str) -> Mapping[str, str]:
        """The settings for working offline: `configure` talks to the twin mounted at `public_url`/`name`, if any."""
