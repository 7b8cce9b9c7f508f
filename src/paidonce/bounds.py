"""What keeps one client from trying out stolen cards here, and from holding all the goods with orders it never pays.

Declined attempts are counted in the transaction that learns of them, and open payments in the one that starts another,
so that neither many processes nor many requests at once get past a bound. No address is kept: only a short tag of its
network, which thousands of networks share, with an open payment and in the counts of the last hours.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from functools import lru_cache

from paidonce import counters, payments
from paidonce.case import Case, intend_void
from paidonce.core import Actor, Core, Declines
from paidonce.errors import TooManyAttempts, TooManyDeclines
from paidonce.payments import Payment
from paidonce.ports import SECOND, Transaction
from paidonce.states import PaymentStatus

# Short on purpose: more than four thousand networks of IPv4 share each tag, so a stolen one tells of nobody.
_TAG_BITS = 20
# Whoever holds a whole network of IPv6 counts once. Many households get 256 networks of 64 bits, to change at will.
_IPV6_NETWORK_BITS = 56
# Here a translator in front of a server without IPv4 puts the buyer's IPv4 address (RFC 6052).
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
# This part of all declines is free of waits, and the waits double no more often than that.
_FREE_PART = 5
_DOUBLINGS = 20

_TOO_MANY_OF_USER = (
    "Goods are reserved for as many of your unpaid orders as the shop allows ({bound}). Please pay or cancel one of"
    " them first; then this one can be paid. You have not been charged."
)
_TOO_MANY_OF_ADDRESS = (
    "Too many payments were started from your network and not finished. You have not been charged; please try again"
    " later."
)
_WAIT = (
    "Several payments were declined. You have not been charged. For your cards' safety, please wait {wait} before you"
    " try again."
)
_ALARM = (
    "Look whether stolen cards are being tried out here. It is bounded now; the gateway's own tools, such as rules and"
    " a CAPTCHA, stop it at its source."
)


@lru_cache(maxsize=4096)
def network_tag(address: str | None) -> str | None:
    """A short tag of the network that `address` lies in; None for one that says nothing of who asks.

    Private and loopback addresses are those of a proxy that was not told of, or of this machine: everybody shares them.
    """
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    if found in _TRANSLATED:
        # Else all buyers with IPv4 would count as one network.
        found = ipaddress.IPv4Address(found.packed[-4:])
    if not found.is_global:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        found = ipaddress.ip_network((found, _IPV6_NETWORK_BITS), strict=False).network_address
    return _digest(str(found))[: _TAG_BITS // 4]


# ── Declined attempts ──────────


async def refuse_after_declines(tx: Transaction, core: Core, order_id: str, actor: Actor, *, cleared: bool) -> None:
    """Raise `TooManyDeclines` while order, buyer or address have to wait after declined attempts.

    `cleared` means that the buyer has passed the shop's challenge, which spares him the waits but not the ends.
    """
    if core.policy.declines is None:
        return
    now = core.clock.now()
    subjects = _subjects(order_id, actor.user_id, network_tag(actor.address))
    kinds = ("end",) if cleared else ("end", "wait")
    found = await counters.ends(tx, [f"{kind}:{one}" for kind in kinds for one in subjects], now=now)
    if not found:
        return
    seconds = -(-(max(found.values()) - now) // SECOND)
    raise TooManyDeclines(
        _WAIT.format(wait=_in_words(seconds)),
        retry_after_seconds=seconds,
        challenge_helps=not any(key.startswith("end:") for key in found),
    )


async def count_decline(case: Case) -> bool:
    """Count a declined attempt of the case's payment. True if the payment is to be ended, which is written down then.

    A payment that a browser can confirm again by itself is ended once it was declined too often, or once its buyer or
    address were: what it could still try lies beyond our reach otherwise.
    """
    declines = case.core.policy.declines
    if declines is None:
        return False
    payment = case.payment
    over = False
    # Always in the same order, since each count is locked until the commit.
    for subject in _subjects(case.order.id, payment.started_by, payment.started_from):
        over |= await _count(case, declines, subject)
    tried = await _add(case, declines, f"payment:{payment.id}")
    ends = payment.captures_in_browser and payment.status is PaymentStatus.AWAITING_BUYER
    ends = ends and (over or tried.count >= declines.per_payment)
    if ends:
        # The right is marked as well, so that no start hands the client values out again meanwhile.
        await case.save(capture_right="voiding")
        await intend_void(case.tx, case.core, case.payment)
    await counters.sweep(case.tx, now=case.now)
    return ends


async def _count(case: Case, declines: Declines, subject: str) -> bool:
    """Count one more decline of `subject` and let it wait; whether it has reached its end."""
    whose = subject.partition(":")[0]
    most: int | None = getattr(declines, f"per_{whose}")
    if most is None:
        return False
    made = await _add(case, declines, subject)
    beyond = made.count - most // _FREE_PART
    if made.count >= most:
        await counters.keep(case.tx, f"end:{subject}", until=made.expires_at)
    elif beyond > 0:
        wait = (declines.wait_seconds << min(beyond - 1, _DOUBLINGS)) * SECOND
        await counters.keep(case.tx, f"wait:{subject}", until=min(case.now + wait, made.expires_at))
    if made.count == most:
        # Once per window, since each number is counted once.
        await case.alarm("card_testing", of=whose, declines=made.count, next_step=_ALARM)
    return made.count >= most


async def _add(case: Case, declines: Declines, subject: str) -> counters.Count:
    return await counters.add(case.tx, f"declines:{subject}", seconds=declines.window_seconds, now=case.now)


def _subjects(order_id: str, user_id: str | None, tag: str | None) -> list[str]:
    """Whose declines are counted, each with the name of its bound before the colon."""
    named = (("address", tag), ("order", order_id), ("user", user_id and _digest(user_id)))
    return [f"{name}:{value}" for name, value in named if value is not None]


def _in_words(seconds: int) -> str:
    minutes = -(-seconds // 60)
    return f"{seconds} seconds" if seconds < 60 else "a minute" if minutes == 1 else f"{minutes} minutes"


# ── Goods held by unpaid orders ──────────


async def refuse_more_goods(tx: Transaction, core: Core, order_id: str, actor: Actor) -> None:
    """Raise `TooManyAttempts` if the buyer, or his address, holds goods for as many other orders as the policy allows.

    Whoever is allowed one more is the only one who asks until this transaction ends.
    """
    policy = core.policy
    whose = _bounded(core, actor.user_id, network_tag(actor.address))
    if not whose:
        return
    await counters.take_turns(tx, *(f"{column} {value}" for column, value in whose.items()))
    others = await _others(tx, core, order_id, whose)
    bounds = {"started_by": policy.open_payments_per_user, "started_from": policy.open_payments_per_address}
    for column, found in others.items():
        bound = bounds[column]
        if bound is not None and found >= bound:
            message = _TOO_MANY_OF_USER if column == "started_by" else _TOO_MANY_OF_ADDRESS
            raise TooManyAttempts(message.format(bound=bound), retry_after_seconds=policy.hold_seconds)


def _bounded(core: Core, user_id: str | None, tag: str | None) -> dict[str, str]:
    """Whose goods are bounded, by the column of the payments that names them."""
    bounds = (
        ("started_by", user_id, core.policy.open_payments_per_user),
        ("started_from", tag, core.policy.open_payments_per_address),
    )
    return {column: value for column, value, bound in bounds if value is not None and bound is not None}


async def remember_goods(tx: Transaction, core: Core, order_id: str, actor: Actor) -> None:
    """Keep in mind who holds the order's goods: they outlast a payment that its buyer cancels.

    How long they are held says the store; this is forgotten when no hold can be left.
    """
    await _remember(tx, core, order_id, actor.user_id, network_tag(actor.address))


async def remember_goods_of(tx: Transaction, core: Core, payment: Payment) -> None:
    """The same for a payment that is about to end: what it held while its money was awaited may be forgotten by now."""
    await _remember(tx, core, payment.order_id, payment.started_by, payment.started_from)


async def _remember(tx: Transaction, core: Core, order_id: str, user_id: str | None, tag: str | None) -> None:
    policy, now = core.policy, core.clock.now()
    until = now + (policy.longest_hold_seconds + policy.hold_seconds) * SECOND
    whose = _bounded(core, user_id, tag)
    if whose:
        await counters.keep(tx, *(_goods(*one) + order_id for one in whose.items()), until=until)
        await counters.sweep_now_and_then(tx, now=now)


async def _others(tx: Transaction, core: Core, order_id: str, whose: Mapping[str, str]) -> dict[str, int]:
    """For how many orders besides this one buyer and address hold goods or have an open payment, by their columns.

    Reserved money has been given for its goods: its buyer could only wait for staff to make room for him.
    """
    now = core.clock.now()
    open_ones = await payments.orders_with_open(tx, whose)
    kept = await counters.kept(tx, [_goods(*one) for one in whose.items()], now=now)
    found = {}
    for column, value in whose.items():
        holding, reserved = open_ones[column]
        prefix = _goods(column, value)
        of_mine = [key.removeprefix(prefix) for key in kept if key.startswith(prefix)]
        for one in (one for one in of_mine if one not in reserved and one not in holding):
            if (await core.store.hold_ends(tx, one) or 0) > now:
                holding.add(one)
            else:
                await counters.forget(tx, [prefix + one])
        found[column] = len(holding - {order_id})
    return found


def _goods(column: str, value: str) -> str:
    whose = column.removeprefix("started_")
    return f"goods:{whose}:{_digest(value)}:"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
