"""Finds every gateway there is, and sets each up against its own twin, with a wire that can be made to fail.

The installed providers and every folder in `examples/gateways` are tested. How a buyer acts on a twin is told by
`buyers/<name>.py` here for the built-in gateways and by `<package>.contract` for the others.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import pytest

from paidonce.gateways.base import (
    CaptureMethod,
    CreateRequest,
    Gateway,
    HttpRequest,
    HttpResponse,
    Opened,
    Progress,
    Provider,
    RefundSnapshot,
    SandboxCore,
    Snapshot,
    Transport,
    WebhookEvent,
)
from paidonce.gateways.registry import providers
from paidonce.money import Money
from paidonce.ports import SECOND
from paidonce.sandbox import SandboxTransport

PUBLIC_URL = "http://127.0.0.1:9000"
EXAMPLES = Path(__file__).parents[2] / "examples" / "gateways"
BUYERS = Path(__file__).parent / "buyers"
# Nobody waits longer for a payment page, and no client may wait for ever.
LONGEST_DEADLINE_SECONDS = 60.0

Browse = Callable[[HttpRequest], HttpResponse]
Fault = Callable[["Wire", HttpRequest, float], Awaitable[HttpResponse]]


class Buyer(Protocol):
    """Acts on a twin's pages and public endpoints, and does nothing that a real buyer's browser can't."""

    def confirm(self, browse: Browse, opened: Opened) -> None:
        """Agree to pay, in a way that succeeds."""

    def decline(self, browse: Browse, opened: Opened) -> None:
        """Agree to pay, in a way that is declined and that the buyer can mend."""


class Hooks(Protocol):
    """What a gateway's contract module exports."""

    buyer: Buyer
    amounts: tuple[Money, ...]  # The gateway can express these; the first is used throughout.
    refused_amounts: tuple[Money, ...]
    contradictions: tuple[Mapping[str, str], ...]  # Changes to the sandbox's settings that must stop the start.
    # The setting that webhooks are verified with, and what another endpoint of the same gateway might have there.
    webhook_setting: tuple[str, str]
    # Changes to a webhook's body that make it one of the other mode or of another account. Empty where the signature
    # itself is bound to one endpoint of one account.
    foreign_marks: tuple[tuple[bytes, bytes], ...]

    # What happens at the gateway without us. `now` is the twin's time in microseconds.

    def dashboard_refund(self, core: SandboxCore, opened: Opened, amount: Money, *, now: int) -> None:
        """Staff refund at the gateway's own website."""

    def pend_next_refund(self, core: SandboxCore, *, now: int) -> None:
        """The next refund waits, at least."""

    def finish_refund(self, core: SandboxCore, refund_ref: str, *, now: int) -> None:
        """A pending refund succeeds."""

    def fail_refund(self, core: SandboxCore, refund_ref: str, *, now: int) -> None:
        """A refund fails, also after it had succeeded."""

    def expire_authorization(self, core: SandboxCore, opened: Opened, *, now: int) -> None:
        """Reserved money is let go."""

    def open_dispute(self, core: SandboxCore, opened: Opened, amount: Money, *, now: int) -> str | None:
        """The buyer takes `amount` back by a dispute; its id, or None at a gateway that has no disputes."""

    def close_dispute(self, core: SandboxCore, dispute_ref: str, *, won: bool, now: int) -> None:
        """The dispute ends for or against the merchant."""

    def sign(self, core: SandboxCore, like: HttpRequest, body: bytes) -> HttpRequest:
        """The webhook `like` with another body, signed as the gateway signs and at the same time."""


@dataclass(frozen=True)
class Case:
    """One gateway under test."""

    provider: Provider
    hooks: Hooks

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings that point it at its twin."""
        return self.provider.sandbox_environment(PUBLIC_URL)


class VirtualClock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self._now = 1_800_000_000 * SECOND

    def now(self) -> int:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += int(seconds * SECOND)


class Wire:
    """The transport to the twin. It records what was sent, and `fault` may answer in the twin's place."""

    def __init__(self, inner: Transport, clock: VirtualClock) -> None:
        self.inner = inner
        self.clock = clock
        self.sent: list[HttpRequest] = []
        self.fault: Fault | None = None

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        assert 0 < deadline_seconds <= LONGEST_DEADLINE_SECONDS
        self.sent.append(request)
        if self.fault is not None:
            return await self.fault(self, request, deadline_seconds)
        return await self.inner.send(request, deadline_seconds=deadline_seconds)


class Bench:
    """One gateway, its twin and the wire between them."""

    def __init__(self, case: Case, core: SandboxCore) -> None:
        self.case = case
        self.core = core
        self.clock = VirtualClock()
        self.wire = Wire(SandboxTransport({case.provider.name: core}, self.clock, PUBLIC_URL), self.clock)
        self.gateway = self.configure(case.environment)
        self.amount = case.hooks.amounts[0]

    def restarted(self) -> Bench:
        """The same after a restart: a new twin that has read the old one's state, and a new client."""
        core = self.case.provider.sandbox(PUBLIC_URL)
        assert core is not None
        core.load(self.core.dump())
        return Bench(self.case, core)

    def configure(self, environment: Mapping[str, str]) -> Gateway:
        gateway = self.case.provider.configure(environment, self.wire, self.clock)
        assert gateway is not None
        return gateway

    @property
    def hooks(self) -> Hooks:
        return self.case.hooks

    @property
    def now(self) -> int:
        return self.clock.now()

    def browse(self, request: HttpRequest) -> HttpResponse:
        return self.core.handle(request, now=self.clock.now())

    def request(
        self,
        number: int = 1,
        *,
        amount: Money | None = None,
        capture_method: CaptureMethod = CaptureMethod.AUTOMATIC,
    ) -> CreateRequest:
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

    async def open(self, number: int = 1) -> Opened:
        return await self.gateway.create(self.request(number))

    def confirm(self, opened: Opened) -> None:
        self.case.hooks.buyer.confirm(self.browse, opened)

    def decline(self, opened: Opened) -> None:
        self.case.hooks.buyer.decline(self.browse, opened)

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
        return await self.gateway.capture(opened.snapshot.ref, idempotency_key=key, amount=amount or self.amount)

    async def paid(self, number: int = 1, *, amount: Money | None = None) -> tuple[Opened, Snapshot]:
        opened = await self.gateway.create(self.request(number, amount=amount))
        self.confirm(opened)
        snapshot = await self.gateway.fetch(opened.snapshot.ref)
        if snapshot.progress is Progress.APPROVED:
            snapshot = await self.capture(opened, key=f"capture-{number}", amount=amount)
        assert snapshot.progress is Progress.CAPTURED
        return opened, snapshot

    async def reserved(self, number: int = 1) -> tuple[Opened, Snapshot]:
        """An object whose money is authorized and waits for our capture."""
        opened = await self.gateway.create(self.request(number, capture_method=CaptureMethod.MANUAL))
        self.confirm(opened)
        snapshot = await self.gateway.fetch(opened.snapshot.ref)
        if snapshot.progress is Progress.APPROVED:
            snapshot = await self.gateway.authorize(opened.snapshot.ref, idempotency_key=f"authorize-{number}")
        assert snapshot.progress is Progress.AUTHORIZED
        return opened, snapshot

    async def refund(self, paid: Snapshot, amount: Money, number: int = 1) -> RefundSnapshot:
        assert paid.capture_ref is not None
        return await self.gateway.refund(
            paid.ref,
            paid.capture_ref,
            idempotency_key=f"refund-{number}",
            amount=amount,
            refund_id=f"ref_contract{number}",
        )

    async def details(self, opened: Opened) -> Snapshot:
        """The object with all of its refunds and disputes, which a gateway has to tell once something was captured."""
        snapshot = await self.gateway.fetch(opened.snapshot.ref, details=True)
        assert snapshot.refunds is not None
        assert snapshot.disputes is not None
        return snapshot

    async def refunds(self, opened: Opened) -> tuple[RefundSnapshot, ...]:
        """All refunds as they read now, without the ids of the answers that told them."""
        found = (await self.details(opened)).refunds
        assert found is not None
        return tuple(replace(refund, request_id=None) for refund in found)

    def booked(self, kind: str) -> int:
        """The sum of one kind in the twin's own books."""
        return sum(entry.minor for entry in self.core.books() if entry.kind == kind)

    def webhooks(self) -> list[HttpRequest]:
        return self.core.take_webhooks(now=self.now)

    async def hear(self, webhook: HttpRequest, *, by: Gateway | None = None) -> WebhookEvent:
        """Deliver a webhook as our server would."""
        headers = {name.lower(): value for name, value in webhook.headers.items()}
        return await (by or self.gateway).read_webhook(headers, webhook.body)

    def secrets(self, opened: Opened) -> list[str]:
        """Keys that the settings call secret, and what the browser got that is no public setting and no object's id."""
        public = {*self.gateway.component().attributes.values(), opened.snapshot.ref}
        settings = self.case.environment.items()
        keys = [value for name, value in settings if name.endswith(("_SECRET", "_KEY")) and value not in public]
        return [*keys, *(value for value in opened.client.values() if value not in public)]


def _load_file(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _hooks(provider: Provider) -> Hooks:
    beside = BUYERS / f"{provider.name}.py"
    if beside.exists():
        return cast(Hooks, _load_file(f"contract_buyer_{provider.name}", beside))
    return cast(Hooks, import_module(f"{type(provider).__module__.partition('.')[0]}.contract"))


def _example(folder: Path) -> Provider:
    sys.path.insert(0, str(folder))
    return cast(Provider, import_module(folder.name).provider)


def _cases() -> list[Case]:
    folders = sorted(path for path in EXAMPLES.iterdir() if (path / path.name / "__init__.py").exists())
    found = {provider.name: provider for provider in [*providers({}), *map(_example, folders)]}
    return [Case(provider, _hooks(provider)) for provider in found.values()]


CASES = _cases()


@pytest.fixture(params=CASES, ids=lambda case: case.provider.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Each gateway in turn."""
    return cast(Case, request.param)


@pytest.fixture
def bench(case: Case) -> Bench:
    """The gateway, configured for a fresh twin."""
    core = case.provider.sandbox(PUBLIC_URL)
    assert core is not None, "a gateway without a twin can't be tested by the contract"
    return Bench(case, core)


@pytest.fixture
def neighbours(case: Case) -> list[Bench]:
    """All other gateways."""
    others = [(other, other.provider.sandbox(PUBLIC_URL)) for other in CASES if other is not case]
    return [Bench(other, core) for other, core in others if core is not None]


@pytest.fixture
def public_url() -> str:
    """Where the twins are mounted."""
    return PUBLIC_URL
