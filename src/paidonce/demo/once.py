"""One buyer, without a browser: signs in, orders, pays at each gateway, is declined once there and pays all the same.

Everything goes over real HTTP: to the shop as a browser would, and to the gateways as their scripts would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import aiohttp

from paidonce.demo.folder import DemoEnvironment
from paidonce.errors import GatewayError
from paidonce.gateways.base import Provider, Transport

ActAsBuyer = Callable[..., Awaitable[str | None]]
_TIMEOUT_SECONDS = 60
_LOOKS = 40
_PAUSE_SECONDS = 0.25


class WentWrong(Exception):
    """The shop answered otherwise than a buyer may expect; the message says where."""


@dataclass(slots=True)
class Outcome:
    """What the buyer lived through: the steps in words, approval links for a person, and what went wrong."""

    steps: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def buyer_of(provider: Provider) -> ActAsBuyer | None:
    """`act_as_buyer` of the module `demo` in the gateway's package, or None if it has none."""
    module = _demo_module(provider)
    return None if module is None else module.act_as_buyer


def tries_of(provider: Provider, *, offline: bool) -> tuple[tuple[str, str], ...]:
    """What a person can try at this gateway: what to choose, and what then happens."""
    module = _demo_module(provider)
    return () if module is None else module.tries(offline=offline)


def declines_at(provider: Provider) -> bool:
    """Whether this gateway tells of declines: `declines` of that module, True if it says nothing."""
    return bool(getattr(_demo_module(provider), "declines", True))


def _demo_module(provider: Provider) -> Any:
    name = f"{type(provider).__module__}.demo"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


@dataclass(slots=True)
class _Visit:
    """One signed-in buyer at the shop, and what is needed to act at the gateways."""

    http: aiohttp.ClientSession
    shop_url: str
    transport: Transport
    environment: DemoEnvironment
    outcome: Outcome
    staff: Mapping[str, str]

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the shop's API; raises `WentWrong` for any problem document."""
        async with self.http.request(method, self.shop_url + path, json=body) as answer:
            said = await answer.json(content_type=None)
            if answer.status >= 400:
                raise WentWrong(
                    f"{method} {path} was refused: {answer.status} {said.get('code')}: {said.get('detail')}"
                )
            return said


async def pay_everywhere(
    providers: Iterable[Provider],
    environment: DemoEnvironment,
    transport: Transport,
    *,
    shop_url: str,
    credentials: Mapping[str, str],
    staff: Mapping[str, str],
) -> Outcome:
    """Pay one order at each gateway, and one more after a decline. Problems are collected, not raised.

    `credentials` are the buyer's, `staff` those of whoever enters money that no gateway tells of.
    """
    outcome = Outcome()
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    # Cookies of a bare address are kept only if that is allowed on purpose.
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as http:
        visit = _Visit(http, shop_url, transport, environment, outcome, staff)
        try:
            await visit.call("POST", "/api/session", dict(credentials))
            await _visit_gateways(visit, providers)
        except (WentWrong, GatewayError, aiohttp.ClientError, TimeoutError) as error:
            outcome.problems.append(f"{type(error).__name__}: {error}")
    return outcome


async def _visit_gateways(visit: _Visit, providers: Iterable[Provider]) -> None:
    paid = False
    for provider in providers:
        act = buyer_of(provider)
        if act is None:
            visit.outcome.steps.append(f"{provider.name}: it has no demo module, so a browser is needed")
            continue
        await _pay(visit, provider, act, decline_first=False)
        # A person who has to approve one order by hand need not do it twice.
        waits = any(name == provider.name for name, _ in visit.outcome.links)
        if declines_at(provider) and not waits:
            await _pay(visit, provider, act, decline_first=True)
        paid = True
    if not paid:
        raise WentWrong("no gateway could be paid without a browser")


@dataclass(slots=True)
class _Attempt:
    """One order on its way to being paid at one gateway."""

    provider: Provider
    act: ActAsBuyer
    order: Any

    def __str__(self) -> str:
        return f"{self.provider.name}: order {self.order['number']}"


async def _pay(visit: _Visit, provider: Provider, act: ActAsBuyer, *, decline_first: bool) -> None:
    lines = [{"sku": await _sku(visit), "quantity": 1}]
    attempt = _Attempt(provider, act, await visit.call("POST", "/api/orders", {"lines": lines}))
    started = await _start(visit, attempt)
    if decline_first:
        final = await _be_declined(visit, attempt, started)
        again = await _start(visit, attempt)
        if (again["id"] != started["id"]) is not final:
            wrong = "the failed payment again" if final else "another payment instead of the same one"
            raise WentWrong(f"{attempt}: after a decline the buyer got {wrong}")
        started = again
    link = await _act(visit, attempt, started, decline=False)
    if link is not None:
        visit.outcome.links.append((provider.name, link))
        visit.outcome.steps.append(f"{attempt} waits for a person's approval")
        return
    result = await _complete(visit, started)
    if (result["status"], result["order_status"]) == ("awaiting_buyer", "pending"):
        result = await _enter_as_staff(visit, attempt, started)
    if (result["status"], result["order_status"]) != ("captured", "paid"):
        raise WentWrong(f"{attempt}: the payment is {result['status']}, the order {result['order_status']}")
    visit.outcome.steps.append(f"{attempt} is paid")


async def _be_declined(visit: _Visit, attempt: _Attempt, started: Any) -> bool:
    """Choose what will be declined; whether that ended the payment, so that the next try is a new one."""
    await _act(visit, attempt, started, decline=True)
    result = await _complete(visit, started)
    final = result["status"] == "failed"
    if not (result["recoverable"] or final) or result["order_status"] == "paid":
        raise WentWrong(f"{attempt}: a decline was answered by {result['status']}, order {result['order_status']}")
    visit.outcome.steps.append(f"{attempt} was declined: {result['message']}")
    return bool(final)


async def _complete(visit: _Visit, started: Any) -> Any:
    """What became of the payment; asked again while a webhook, say, is just capturing it."""
    for _ in range(_LOOKS):
        result = await visit.call("POST", f"/api/payments/{started['id']}/complete")
        if result["status"] != "processing":
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    return result


async def _enter_as_staff(visit: _Visit, attempt: _Attempt, started: Any) -> Any:
    """The money arrives where only staff see it, and they enter it."""
    path = f"/api/payments/{started['id']}/actions"
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=visit.http.timeout) as http:
        desk = replace(visit, http=http)
        await desk.call("POST", "/api/session", dict(visit.staff))
        sheet = await desk.call("GET", path)
        name, entry = _demo_module(attempt.provider).staff_entry(sheet, amount_minor=attempt.order["total"])
        return await desk.call("POST", f"{path}/{name}", dict(entry))


async def _start(visit: _Visit, attempt: _Attempt) -> Any:
    path = f"/api/orders/{attempt.order['id']}/payments"
    return await visit.call("POST", path, {"gateway": attempt.provider.name})


async def _act(visit: _Visit, attempt: _Attempt, started: Any, *, decline: bool) -> str | None:
    return await attempt.act(
        visit.transport,
        visit.environment.values,
        started["client"],
        return_url=f"{visit.shop_url}/orders/{attempt.order['id']}/return?payment={started['id']}",
        decline=decline,
        offline=attempt.provider.name in visit.environment.offline,
    )


async def _sku(visit: _Visit) -> str:
    products = await visit.call("GET", "/api/products")
    available = [product for product in products if product["available"] > 0]
    if not available:
        raise WentWrong("everything is sold out; add stock, or start with a new data folder")
    # The fullest shelf, so that a demo can be repeated on the same folder for long.
    return str(max(available, key=lambda product: product["available"])["sku"])
