"""The bench: one gateway under test, what is around it, and a wire that can be made to fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from itertools import count

from paidonce.contract.expect import equal
from paidonce.contract.hooks import ABILITIES, Hooks, read_hooks
from paidonce.contract.notebook import Notebook
from paidonce.gateways.base import (
    BookEntry,
    CaptureMethod,
    CreateRequest,
    Gateway,
    HttpRequest,
    HttpResponse,
    Opened,
    PaidElsewhere,
    Progress,
    Provider,
    RefundProgress,
    RefundSnapshot,
    SandboxCore,
    Snapshot,
    StaffDesk,
    Transport,
    WebhookEvent,
)
from paidonce.money import Money
from paidonce.ports import SECOND, Clock, Microseconds
from paidonce.sandbox import SandboxTransport

PUBLIC_URL = "http://127.0.0.1:9000"
# Nobody waits longer for a payment page, and no client may wait for ever.
LONGEST_DEADLINE_SECONDS = 60.0

Fault = Callable[["Wire", HttpRequest, float], Awaitable[HttpResponse]]


@dataclass(frozen=True)
class Case:
    """One gateway to be tested. What its package can't tell, its tests fail with: finding it never fails."""

    provider: Provider

    @property
    def name(self) -> str:
        """The gateway's name."""
        return self.provider.name

    @cached_property
    def hooks(self) -> Hooks:
        """What the module `contract` of the gateway's package exports."""
        return read_hooks(import_module(f"{type(self.provider).__module__}.contract"))

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings that make it work offline."""
        return self.provider.sandbox_environment(PUBLIC_URL)

    @cached_property
    def missing(self) -> Mapping[str, str]:
        """The abilities that it lacks, each with the reason. One that can't say yet is tested for all of them."""
        return {**self._of_hooks(), **self._of_twin(), **self._of_gateway()}

    def _of_hooks(self) -> dict[str, str]:
        try:
            lacks, webhooks = dict(self.hooks.without), self.hooks.webhooks
        except Exception:  # Whatever is wrong with the module is told by the tests that use it.
            lacks, webhooks = {}, "signed"
        kinds = {"signed": "signed webhooks", "unsigned": "unsigned webhooks", "none": "no webhooks"}
        others = [needed for kind, needed in kinds.items() if kind != webhooks]
        return lacks | dict.fromkeys(others, f"its webhooks are {webhooks!r}")

    def _of_twin(self) -> dict[str, str]:
        try:
            twin = self.provider.sandbox(PUBLIC_URL)
        except Exception:  # As above.
            return {}
        return {} if twin is not None else {"twin": "it has no offline twin, since there is nobody to call"}

    def _of_gateway(self) -> dict[str, str]:
        lacks = {
            "promise": "its buyers pay in the browser (it is not PaidElsewhere)",
            "desk": "staff have nothing to tell it (it is no StaffDesk)",
        }
        try:
            gateway = self.provider.configure(self.environment, _Unplugged(), VirtualClock())
        except Exception:  # As above.
            return lacks
        kinds = {"promise": PaidElsewhere, "desk": StaffDesk}
        return {name: reason for name, reason in lacks.items() if not isinstance(gateway, kinds[name])}


class _Unplugged:
    """A transport for a gateway that is only looked at."""

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        raise AssertionError(f"{request.method} was sent by a gateway that was only looked at")


class VirtualClock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self._now = 1_800_000_000 * SECOND

    def now(self) -> Microseconds:
        """The time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now += int(seconds * SECOND)


class Wire:
    """The transport to the twin. It records what was sent, and `fault` may answer in the twin's place."""

    def __init__(self, inner: Transport, clock: Clock) -> None:
        self.inner = inner
        self.clock = clock
        self.sent: list[HttpRequest] = []
        self.fault: Fault | None = None

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """Send a request, or suffer the fault."""
        fits = 0 < deadline_seconds <= LONGEST_DEADLINE_SECONDS
        assert fits, f"a call has {deadline_seconds:g} s; it must end within {LONGEST_DEADLINE_SECONDS:g} s."
        self.sent.append(request)
        if self.fault is not None:
            return await self.fault(self, request, deadline_seconds)
        return await self.inner.send(request, deadline_seconds=deadline_seconds)


class Bench:
    """One gateway, configured for a fresh twin; or for an empty notebook, where it has no counterpart.

    Nothing is set up before it is used, so that a gateway which is half written fails in its tests and nowhere else.
    """

    def __init__(self, case: Case, *, clock: Clock | None = None, notebook: Notebook | None = None) -> None:
        self.case = case
        self.clock = clock or VirtualClock()
        self.notebook = notebook or Notebook(self.clock)
        self._refs: dict[str, None] = {}
        self._numbers = count(1)

    @property
    def hooks(self) -> Hooks:
        """What the gateway's package tells about it."""
        return self.case.hooks

    def has(self, ability: str) -> bool:
        """Whether the gateway has one of `hooks.ABILITIES`."""
        assert ability in ABILITIES, ability
        return ability not in self.case.missing

    @cached_property
    def twin(self) -> SandboxCore:
        """The offline twin."""
        twin = self.case.provider.sandbox(PUBLIC_URL)
        assert twin is not None, "`provider.sandbox` gives no twin, so nothing can act on one."
        return twin

    @cached_property
    def wire(self) -> Wire:
        """What carries calls to the twin; to nobody, if there is none."""
        twins = {} if "twin" in self.case.missing else {self.case.name: self.twin}
        return Wire(SandboxTransport(twins, self.clock, PUBLIC_URL), self.clock)

    @cached_property
    def gateway(self) -> Gateway:
        """The gateway, configured with its sandbox's settings."""
        return self.configure(self.case.environment)

    @property
    def amount(self) -> Money:
        """The amount that is used throughout."""
        assert self.hooks.amounts, "`contract.amounts` is empty: name amounts that the gateway can express."
        return self.hooks.amounts[0]

    @property
    def now(self) -> Microseconds:
        """The time at the twin and here."""
        return self.clock.now()

    def configure(self, environment: Mapping[str, str]) -> Gateway:
        """Another gateway of the same provider, at the same twin or with the same notebook."""
        gateway = self.case.provider.configure(environment, self.wire, self.clock)
        assert gateway is not None, "`configure` gives no gateway although all of the sandbox's settings are set."
        use_notes = getattr(gateway, "use_notes", None)
        if use_notes is not None:
            use_notes(self.notebook)
        return gateway

    def restarted(self) -> Bench:
        """The same after a restart: a new twin or gateway that has read what the old one kept."""
        later = Bench(self.case, clock=self.clock, notebook=self.notebook)
        later._refs |= self._refs
        if "twin" not in self.case.missing:
            later.twin.load(self.twin.dump())
        return later

    # What hooks use.

    def browse(self, request: HttpRequest) -> HttpResponse:
        """Ask the twin as a browser would; `request.url` is the path below the twin's mount."""
        return self.twin.handle(request, now=self.now)

    def control(self, name: str, params: Mapping[str, str]) -> Mapping[str, str]:
        """Make something happen at the twin from outside."""
        return self.twin.control(name, params, now=self.now)

    def new_key(self) -> str:
        """A key that nobody has used before."""
        return f"key-{next(self._numbers)}"

    # What the core does.

    def request(
        self,
        number: int = 1,
        *,
        amount: Money | None = None,
        capture_method: CaptureMethod = CaptureMethod.AUTOMATIC,
    ) -> CreateRequest:
        """What the core asks for when a buyer starts to pay order `number`."""
        return CreateRequest(
            payment_id=f"pay_contract{number}",
            order_id=f"ord_contract{number}",
            order_number=f"P-100{number}",
            amount=amount or self.amount,
            return_url=f"https://shop.example/orders/ord_contract{number}/return?payment=pay_contract{number}",
            cancel_url=f"https://shop.example/orders/ord_contract{number}/pay",
            idempotency_key=f"create-pay_contract{number}",
            capture_method=capture_method,
        )

    async def create(self, request: CreateRequest) -> Opened:
        """`Gateway.create`, whose object is remembered for `books`."""
        opened = await self.gateway.create(request)
        self._refs[opened.snapshot.ref] = None
        return opened

    async def open(self, number: int = 1) -> Opened:
        """The object of order `number`, for the usual amount."""
        return await self.create(self.request(number))

    async def confirm(self, opened: Opened) -> None:
        """The buyer agrees to pay."""
        await self.hooks.confirm(self, opened)

    async def decline(self, opened: Opened) -> None:
        """The buyer agrees to pay, and it is declined."""
        await self.hooks.decline(self, opened)

    async def complete(self, opened: Opened, *, key: str = "capture-1") -> Snapshot:
        """What the core does when the buyer is back: read, and capture if that is what is left to do."""
        snapshot = await self.gateway.fetch(opened.snapshot.ref)
        if snapshot.progress in (Progress.APPROVED, Progress.AUTHORIZED):
            return await self.capture(opened, key=key)
        return snapshot

    async def seen(self, opened: Opened) -> Snapshot:
        """The object as it is now, without the id of the answer that told it, so that two readings can be compared."""
        return replace(await self.gateway.fetch(opened.snapshot.ref), request_id=None)

    async def capture(self, opened: Opened, *, key: str = "capture-1", amount: Money | None = None) -> Snapshot:
        """Capture `amount`, or the usual one."""
        return await self.gateway.capture(opened.snapshot.ref, idempotency_key=key, amount=amount or self.amount)

    async def paid(self, number: int = 1, *, amount: Money | None = None) -> tuple[Opened, Snapshot]:
        """An object whose money has moved."""
        opened = await self.create(self.request(number, amount=amount))
        await self.confirm(opened)
        snapshot = await self.gateway.fetch(opened.snapshot.ref)
        if snapshot.progress is Progress.APPROVED:
            snapshot = await self.capture(opened, key=f"capture-{number}", amount=amount)
        equal("the progress of a payment that the buyer confirmed", snapshot.progress, Progress.CAPTURED)
        return opened, snapshot

    async def reserved(self, number: int = 1) -> tuple[Opened, Snapshot]:
        """An object whose money is authorized and waits for our capture."""
        opened = await self.create(self.request(number, capture_method=CaptureMethod.MANUAL))
        await self.confirm(opened)
        snapshot = await self.gateway.fetch(opened.snapshot.ref)
        if snapshot.progress is Progress.APPROVED:
            snapshot = await self.gateway.authorize(opened.snapshot.ref, idempotency_key=f"authorize-{number}")
        equal("the progress of a reservation that the buyer confirmed", snapshot.progress, Progress.AUTHORIZED)
        return opened, snapshot

    async def refund(self, paid: Snapshot, amount: Money, number: int = 1) -> RefundSnapshot:
        """Ask for a refund of a captured payment, and hear the gateway's own answer."""
        assert paid.capture_ref is not None, "a captured payment has no `capture_ref`."
        return await self.gateway.refund(
            paid.ref,
            paid.capture_ref,
            idempotency_key=f"refund-{number}",
            amount=amount,
            refund_id=f"ref_contract{number}",
        )

    async def refunded(self, opened: Opened, paid: Snapshot, amount: Money, number: int = 1) -> RefundSnapshot:
        """A refund that has gone through, at once or after somebody finished it."""
        refund = await self.refund(paid, amount, number)
        if self.has("instant_refund"):
            return refund
        equal("the progress of a refund that was just asked for", refund.progress, RefundProgress.PENDING)
        await self.hooks.finish_refund(self, opened, refund.ref)
        return next(one for one in await self.refunds(opened) if one.ref == refund.ref)

    async def details(self, opened: Opened) -> Snapshot:
        """The object with all of its refunds and disputes, which a gateway has to tell once something was captured."""
        snapshot = await self.gateway.fetch(opened.snapshot.ref, details=True)
        assert snapshot.refunds is not None, "`fetch(details=True)` left `refunds` None."
        assert snapshot.disputes is not None, "`fetch(details=True)` left `disputes` None."
        return snapshot

    async def refunds(self, opened: Opened) -> tuple[RefundSnapshot, ...]:
        """All refunds as they read now, without the ids of the answers that told them."""
        found = (await self.details(opened)).refunds
        assert found is not None
        return tuple(replace(refund, request_id=None) for refund in found)

    # What can be told of it from outside.

    async def books(self) -> tuple[BookEntry, ...]:
        """Every movement of the merchant's money: from the twin's own books.

        Without a twin there is no other witness than the gateway, so they are written from all objects as they read.
        """
        if "twin" not in self.case.missing:
            return self.twin.books()
        snapshots = [await self.gateway.fetch(ref, details=True) for ref in self._refs]
        return tuple(entry for snapshot in snapshots for entry in _entries(snapshot))

    async def booked(self, kind: str) -> int:
        """The sum of one kind in the books, in minor units."""
        return sum(entry.minor for entry in await self.books() if entry.kind == kind)

    def webhooks(self) -> list[HttpRequest]:
        """What the twin has to tell since it was last asked."""
        return self.twin.take_webhooks(now=self.now)

    async def hear(self, webhook: HttpRequest, *, by: Gateway | None = None) -> WebhookEvent:
        """Deliver a webhook as our server would."""
        headers = {name.lower(): value for name, value in webhook.headers.items()}
        return await (by or self.gateway).read_webhook(headers, webhook.body)

    def secrets(self, opened: Opened) -> list[str]:
        """Keys that the settings call secret, and what the browser got that is no public setting and no object's id."""
        if not self.has("secrets"):
            return []
        public = {*self.gateway.component().attributes.values(), opened.snapshot.ref}
        settings = self.case.environment.items()
        keys = [value for name, value in settings if name.endswith(("_SECRET", "_KEY")) and value not in public]
        return [*keys, *(value for value in opened.client.values() if value not in public)]


def _entries(snapshot: Snapshot) -> list[BookEntry]:
    if snapshot.captured is None or snapshot.capture_ref is None:
        return []
    currency, payment_id = snapshot.captured.currency, snapshot.payment_id
    entries = [BookEntry(snapshot.capture_ref, "capture", snapshot.captured.minor, currency, payment_id)]
    for refund in snapshot.refunds or ():
        if refund.progress is RefundProgress.SUCCEEDED:
            entries.append(BookEntry(refund.ref, "refund", -refund.amount.minor, currency, payment_id))
    return entries
