"""What a gateway tells the contract suite about itself: the module `contract` in the gateway's own package.

The suite knows no gateway's pages, dashboard or signatures. So the module exports the names of `Hooks` below: constants
and functions at module level, nothing to inherit or to register. Every function that acts is `async` and gets the
`Bench`: the gateway under test and all that is around it.

- A gateway with an offline twin acts on it: `bench.browse(HttpRequest(…))` asks the twin as a browser would, below its
  mount, and `bench.control(name, params)` does what a dashboard, a bank or time would.
- A gateway without a counterpart (`provider.sandbox()` is None) acts on the gateway itself, `bench.gateway`: its staff
  actions, say, with `bench.new_key()` for each. The suite has given it an empty notebook by then (`KeepsNotes`).

What a gateway lacks by its nature is named in `without`, with a sentence that says why. The tests that need it are left
out and the sentence is shown; in their place the suite demands what its absence means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from paidonce.gateways.base import DisputeProgress, HttpRequest, Opened
from paidonce.money import Money

if TYPE_CHECKING:
    from paidonce.contract.bench import Bench

# What `without` may name, and what having it means. A gateway has all of it unless it says otherwise.
ABILITIES: Mapping[str, str] = {
    "manual": "Money can be reserved first and captured later. Without it `create` refuses CaptureMethod.MANUAL.",
    "decline": "A way to pay can be declined. Without it there is no `decline`.",
    "second_try": "After a decline the buyer may try again on the same object. Without it a decline reads FAILED.",
    "immediate_void": "`void` ends an unconfirmed object at once. Without it, it ends by `expire` only.",
    "fee": "`fetch(details=True)` tells the fee of a capture. Without it the fee is None.",
    "secrets": "There are keys, or client values that only this buyer may know. Without it there are neither.",
    "instant_refund": "`refund` itself answers SUCCEEDED. Without it it answers PENDING, and `finish_refund` ends it.",
    "refund_failure": "A refund can fail while it waits.",
    "late_refund_failure": "A refund can fail after it had succeeded.",
    "dashboard_refund": "Money can go back without us, at the gateway's own website.",
    "dispute": "A buyer can take the money back by a dispute. Without it `disputes` is always empty.",
    "dispute_won": "A dispute can end for the merchant.",
    "dispute_lost": "A dispute can end against the merchant.",
}

Webhooks = Literal["signed", "unsigned", "none"]
Acts = Callable[["Bench", Opened], Awaitable[None]]
ActsOnRefund = Callable[["Bench", Opened, str], Awaitable[None]]


def _unwritten(name: str) -> Callable[..., Any]:
    def act(*_args: object, **_named: object) -> NoReturn:
        raise NotImplementedError(
            f"The gateway's module `contract` has no `{name}`. Write it (docs/adding-a-gateway.md, section 6), "
            "or say in `without` why there is nothing to write."
        )

    return act


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """The names that a gateway's contract module exports.

    What it leaves out keeps the default shown here; a function that it leaves out fails in the tests that call it.
    """

    # Amounts that the gateway can express, in different currencies; the first is used throughout, and is at least 10
    # in the currency's minor units.
    amounts: tuple[Money, ...] = ()
    # Amounts that `check_amount` has to refuse.
    refused_amounts: tuple[Money, ...] = ()
    # Changes to the settings of `provider.sandbox_environment` that must stop the start. No message may repeat the word
    # "canary" in them.
    contradictions: tuple[Mapping[str, str], ...] = ()
    # What the gateway lacks: names of `ABILITIES`, each with a sentence that says why.
    without: Mapping[str, str] = field(default_factory=dict)
    # "signed": verified against a setting. "unsigned": the body names an object at most, so an event claims nothing and
    # the core looks everything up. "none": `read_webhook` refuses everything.
    webhooks: Webhooks = "signed"
    # Only for signed webhooks: the setting they are verified with, and what another endpoint of the same gateway might
    # have there.
    webhook_setting: tuple[str, str] = ("", "")
    # Only for signed webhooks: changes to a webhook's body that make it one of the other mode or of another account.
    # Empty where the signature itself is bound to one endpoint of one account.
    foreign_marks: tuple[tuple[bytes, bytes], ...] = ()
    # The header that carries our idempotency keys, in lower case.
    key_header: str = "idempotency-key"
    # What a dispute reads when it has just been opened.
    new_dispute: DisputeProgress = DisputeProgress.OPEN

    # async confirm(bench, opened): the buyer agrees to pay, in a way that succeeds. It does nothing that a real buyer's
    # browser can't; without a counterpart, the money arrives.
    confirm: Acts
    # async decline(bench, opened): the buyer agrees to pay, in a way that is declined.
    decline: Acts
    # async expire(bench, opened): time ends an unconfirmed object. Only without "immediate_void".
    expire: Acts
    # async expire_authorization(bench, opened): reserved money is let go. Only with "manual".
    expire_authorization: Acts
    # async dashboard_refund(bench, opened, amount): staff refund at the gateway's own website.
    dashboard_refund: Callable[[Bench, Opened, Money], Awaitable[None]]
    # async pend_next_refund(bench): the next refund waits, at least. Only with "instant_refund".
    pend_next_refund: Callable[[Bench], Awaitable[None]]
    # async finish_refund(bench, opened, refund_ref): a pending refund succeeds.
    finish_refund: ActsOnRefund
    # async fail_refund(bench, opened, refund_ref): a refund fails.
    fail_refund: ActsOnRefund
    # async open_dispute(bench, opened, amount) -> str: the buyer takes `amount` back by a dispute; its id.
    open_dispute: Callable[[Bench, Opened, Money], Awaitable[str]]
    # async close_dispute(bench, opened, dispute_ref, *, won): the dispute ends for or against the merchant.
    close_dispute: Callable[..., Awaitable[None]]
    # sign(bench, like, body): the webhook `like` with another body, signed as the gateway signs and at the same time.
    # Only for signed webhooks, and not async.
    sign: Callable[[Bench, HttpRequest, bytes], HttpRequest]


def read_hooks(module: ModuleType) -> Hooks:
    """The hooks that `module` exports. Raises `ValueError` for a word in `without` or `webhooks` that means nothing."""
    given: dict[str, Any] = {}
    for each in fields(Hooks):
        if hasattr(module, each.name):
            given[each.name] = getattr(module, each.name)
        elif each.default is MISSING and each.default_factory is MISSING:
            given[each.name] = _unwritten(each.name)
    hooks = Hooks(**given)
    unknown = sorted(set(hooks.without) - set(ABILITIES))
    if unknown:
        raise ValueError(f"{module.__name__}: `without` names {unknown}; it may name {sorted(ABILITIES)}.")
    if hooks.webhooks not in ("signed", "unsigned", "none"):
        raise ValueError(f"{module.__name__}: `webhooks` is {hooks.webhooks!r}; say 'signed', 'unsigned' or 'none'.")
    return hooks
