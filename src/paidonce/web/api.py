"""The JSON API. Every handler: who asks → one action of the core → one model out. Ownership is checked by the core."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from paidonce import aftersales, audit, captures, checkout, desk, explain, payments, refunds
from paidonce.bounds import network_tag
from paidonce.core import Actor, Core
from paidonce.errors import InvalidRequest, NotFound
from paidonce.payments import Payment
from paidonce.ports import Transaction
from paidonce.store import OrderView, Product, SqlStore
from paidonce.web import auth, limits, models, offers, origins
from paidonce.web.accounts import User
from paidonce.web.auth import SignedIn, Staff
from paidonce.web.challenge import challenged
from paidonce.web.limits import Limits
from paidonce.web.models import Attempt
from paidonce.web.shop import Shop, Wiring, shop_of, wiring_of

# Nothing that can't be an id reaches the database; it is answered like an id that does not exist.
_ID = re.compile(r"[a-z]{2,8}_[0-9a-z]{10,40}")
# A host numbers its orders as it likes.
_ORDER_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_ACTION = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SKU = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REQUEST_KEY = re.compile(r"[\x21-\x7e]{1,200}")


def is_id(value: str) -> bool:
    """Whether `value` could be one of our ids."""
    return _ID.fullmatch(value) is not None


def order_id_in_path(order_id: str) -> str:
    """The order named by the address."""
    if not _ORDER_ID.fullmatch(order_id):
        raise NotFound("We could not find this order.")
    return order_id


def payment_id_in_path(payment_id: str) -> str:
    """The payment named by the address."""
    if not is_id(payment_id):
        raise NotFound("We could not find this payment.")
    return payment_id


def sku_in_path(sku: str) -> str:
    """The product named by the address."""
    if not _SKU.fullmatch(sku):
        raise NotFound("There is no product with this SKU.")
    return sku


def request_key(value: str | None) -> str | None:
    """The client's own key of a request. Raises `errors.InvalidRequest` for one that can't be kept."""
    if value is not None and not _REQUEST_KEY.fullmatch(value):
        raise InvalidRequest("Idempotency-Key: send 1 to 200 visible ASCII characters, or leave it out.")
    return value


async def request_key_in_header(idempotency_key: Annotated[str | None, Header()] = None) -> str | None:
    """The header `Idempotency-Key`: the same key again is the same refund."""
    return request_key(idempotency_key)


def action_in_path(name: str) -> str:
    """The action named by the address."""
    if not _ACTION.fullmatch(name):
        raise NotFound("There is nothing of this name to enter.")
    return name


def _here(check: Callable[..., str]) -> Callable[..., Awaitable[str]]:
    """`check` as a coroutine: all others FastAPI gives to a thread, which costs more than what they do."""

    @wraps(check)
    async def checked(**given: str) -> str:
        return check(**given)

    return checked


async def _shop(connection: HTTPConnection) -> Shop:
    return shop_of(connection)


async def _wiring(connection: HTTPConnection) -> Wiring:
    return wiring_of(connection)


OrderId = Annotated[str, Depends(_here(order_id_in_path))]
PaymentId = Annotated[str, Depends(_here(payment_id_in_path))]
ActionName = Annotated[str, Depends(_here(action_in_path))]
RequestKey = Annotated[str | None, Depends(request_key_in_header)]
ProductSku = Annotated[str, Depends(_here(sku_in_path))]
ShopDep = Annotated[Shop, Depends(_shop)]
WiringDep = Annotated[Wiring, Depends(_wiring)]


async def core_of(wiring: WiringDep) -> Core:
    """The running core."""
    return wiring.running


CoreDep = Annotated[Core, Depends(core_of)]


@dataclass(frozen=True, slots=True)
class Here:
    """Who asks, and where: what each step of a checkout needs, found at once, since each dependency costs its own."""

    request: Request
    user: User
    core: Core
    wiring: Wiring

    @property
    def shop(self) -> Shop:
        """The built-in shop."""
        return shop_of(self.request)

    @property
    def session(self) -> str | None:
        """See `auth.session_of`."""
        return auth.session_of(self.request)


async def here(request: Request, user: auth.MaybeUser) -> Here:
    """Raises `errors.NotSignedIn`."""
    wiring = wiring_of(request)
    return Here(request, await auth.signed_in(user), wiring.running, wiring)


HereDep = Annotated[Here, Depends(here)]


def _json(model: BaseModel, status: int) -> Response:
    """`model` as it is, without the second look at it that FastAPI takes at what a handler returns."""
    return Response(model.model_dump_json(), status, media_type="application/json")


# ── Session and accounts ──────────


async def sign_in(request: Request, body: models.Credentials) -> Response:
    """Sign in: a cookie session, with a new token each time."""
    user = await auth.sign_in(request, email=body.email, password=body.password.get_secret_value())
    return await _signed_in(request, user)


async def sign_up(request: Request, body: models.NewUser) -> Response:
    """Make an account and sign in."""
    password = body.password.get_secret_value()
    user = await auth.sign_up(request, email=body.email, name=body.name, password=password)
    return await _signed_in(request, user)


async def sign_out(request: Request) -> Response:
    """Sign out. Safe to repeat."""
    response = Response(status_code=204)
    await auth.forget(request, response)
    return response


async def sign_out_everywhere(request: Request, user: SignedIn) -> Response:
    """End all sessions of whoever is signed in, this one too."""
    response = Response(status_code=204)
    await auth.forget_everywhere(request, response, user)
    return response


async def confirm_session(request: Request, body: models.Confirmation, user: SignedIn) -> Response:
    """Give the password again, which large refunds need. It counts for five minutes, as signing in does."""
    await auth.confirm(request, user, password=body.password.get_secret_value())
    return Response(status_code=204)


async def change_password(request: Request, body: models.NewPassword, user: SignedIn) -> Response:
    """Change the password. All other sessions end, and this one gets a new token."""
    response = Response(status_code=204)
    old, new = body.password.get_secret_value(), body.new_password.get_secret_value()
    await auth.change_password(request, response, user, old=old, new=new)
    return response


async def _signed_in(request: Request, user: User) -> Response:
    response = JSONResponse(models.UserOut.of(user).model_dump(), 201)
    await auth.remember(request, response, user)
    return response


# ── Catalogue ──────────


async def list_products(core: CoreDep, shop: ShopDep) -> list[models.ProductOut]:
    """The catalogue."""
    return [models.ProductOut.of(product) for product in await core.db.read(shop.store.list_products)]


async def adjust_product(
    sku: ProductSku, body: models.StockAdjustment, user: Staff, core: CoreDep, shop: ShopDep
) -> models.ProductOut:
    """Change the stock on hand (staff), entered in the journal of stock."""
    return models.ProductOut.of(await change_stock(core, shop, user, sku=sku, adjust=body.adjust))


async def change_stock(core: Core, shop: Shop, user: User, *, sku: str, adjust: int) -> Product:
    """Change the stock on hand by so many pieces. Raises `errors.InvalidRequest`, `errors.NotFound`."""
    now = core.clock.now()
    note = audit.entry("stock.adjusted", actor=user.id, subject=sku, at=now, adjust=adjust)
    return await core.db.transaction(_change_stock, shop.store, note, sku=sku, adjust=adjust)


async def _change_stock(tx: Transaction, store: SqlStore, note: audit.Entry, *, sku: str, adjust: int) -> Product:
    await audit.write(tx, note)
    return await store.adjust_stock(tx, sku=sku, adjust=adjust, actor=note.actor, now=note.at)


# ── Orders ──────────


async def create_order(body: models.NewOrder, here: HereDep) -> Response:
    """Order products at the catalogue's prices. Nothing is held or charged before a payment starts."""
    core, shop = here.core, here.shop
    lines = [(line.sku, line.quantity) for line in body.lines]
    order = await core.db.transaction(
        shop.store.create_order,
        ids=core.ids,
        user_id=here.user.id,
        lines=lines,
        now=core.clock.now(),
        lifetime_seconds=core.policy.order_seconds,
        bounds=shop.settings.order_bounds(),
    )
    return _json(models.OrderOut.of(order, []), 201)


async def list_orders(user: SignedIn, core: CoreDep, shop: ShopDep) -> list[models.OrderOut]:
    """The signed-in buyer's orders, newest first."""
    found = await core.db.read(_orders_with_payments, shop.store, user.id)
    return [models.OrderOut.of(order, attempts) for order, attempts in found]


async def get_order(order_id: OrderId, user: SignedIn, core: CoreDep, shop: ShopDep) -> models.OrderOut:
    """One of the buyer's own orders; staff can see every order."""
    order, attempts = await core.db.read(own_order, shop.store, order_id, user)
    return models.OrderOut.of(order, attempts)


async def cancel_order(request: Request, order_id: OrderId, user: SignedIn, core: CoreDep) -> models.OrderStatusOut:
    """Cancel an unpaid order; its goods are free again."""
    await bound_questions(wiring_of(request).limits, user.actor, session=auth.session_of(request))
    status = await checkout.cancel_order(core, order_id, user.actor)
    return models.OrderStatusOut(id=order_id, status=status)


async def own_order(tx: Transaction, store: SqlStore, order_id: str, user: User) -> tuple[OrderView, list[Attempt]]:
    """The order with the attempts to pay it, if `user` may see it. Raises `errors.NotFound` like for no order."""
    order = await store.get_order(tx, order_id)
    if order is None or (order.user_id != user.id and not user.is_staff):
        raise NotFound("We could not find this order.")
    return order, await _attempts(tx, order.id)


async def _orders_with_payments(
    tx: Transaction, store: SqlStore, user_id: str
) -> list[tuple[OrderView, list[Attempt]]]:
    orders = await store.list_orders(tx, user_id)
    return [(order, await _attempts(tx, order.id)) for order in orders]


async def _attempts(tx: Transaction, order_id: str) -> list[Attempt]:
    return [await _attempt(tx, payment) for payment in await payments.of_order(tx, order_id)]


async def _attempt(tx: Transaction, payment: Payment) -> Attempt:
    if payment.capture_ref is None:
        return Attempt(payment)
    changes = await tx.fetch_all("SELECT id, updated_at FROM refunds WHERE payment_id = :id", {"id": payment.id})
    return Attempt(
        payment,
        tuple(await aftersales.refunds_of(tx, payment.id)),
        tuple(await aftersales.disputes_of(tx, payment.id)),
        {row["id"]: row["updated_at"] for row in changes},
    )


async def explain_order(order_id: OrderId, user: Staff, core: CoreDep) -> models.ExplanationOut:
    """What happened to an order, where its money is, and the one safe next step (staff)."""
    found = await core.db.read(explain.explain, core, order_id)
    if found is None:
        raise NotFound("We could not find this order.")
    return models.ExplanationOut.model_validate(explain.as_json(found))


# ── Payments ──────────


async def list_payment_methods(
    order_id: OrderId, user: SignedIn, core: CoreDep, wiring: WiringDep
) -> models.PaymentMethodsOut:
    """The ways to pay one of the buyer's own orders, with the elements that a page needs for them."""
    order = await core.db.read(offers.payable_order, core.store, order_id, user.id)
    return models.PaymentMethodsOut.of(order, offers.offers(wiring, order))


async def start_payment(order_id: str, body: models.NewPayment, here: HereDep) -> Response:
    """Open a payment of an order: 201, or 200 with the same payment if it is open already."""
    order_id_in_path(order_id)
    wiring, actor = here.wiring, here.user.actor
    back = wiring.return_url(order_id)
    if body.return_url is not None:
        back = origins.checked_return_url(wiring.settings, body.return_url)
    # The same address for who agreed and who turned back: there the gateway is asked, and nobody else believed.
    await bound_starts(wiring.limits, order_id, actor, session=here.session)
    news = wiring.url(f"/webhooks/{body.gateway}")
    start = partial(
        checkout.start, here.core, order_id, body.gateway, actor, return_url=back, cancel_url=back, webhook_url=news
    )
    started = await challenged(wiring.challenge, start, order_id, actor, body.challenge)
    return _json(models.StartedOut.of(started), 201 if started.created else 200)


async def complete_payment(payment_id: str, here: HereDep, body: models.Nothing | None = None) -> Response:
    """Ask the gateway what became of the payment and settle it. Safe to repeat; 202 if the outcome is not known yet."""
    payment_id_in_path(payment_id)
    await bound_questions(here.wiring.limits, here.user.actor, session=here.session)
    result = await checkout.complete(here.core, payment_id, here.user.actor)
    return _json(models.ResultOut.of(result), 202 if result.unknown else 200)


async def cancel_payment(
    request: Request, payment_id: PaymentId, user: SignedIn, core: CoreDep, body: models.Nothing | None = None
) -> models.ResultOut:
    """End an attempt to pay. The order stays."""
    await bound_questions(wiring_of(request).limits, user.actor, session=auth.session_of(request))
    return models.ResultOut.of(await checkout.cancel(core, payment_id, user.actor))


async def get_payment(payment_id: PaymentId, user: SignedIn, core: CoreDep) -> models.PaymentOut:
    """One of the buyer's own payments, as recorded. It asks no gateway."""
    return models.PaymentOut.of(await checkout.get_payment(core, payment_id, user.actor))


async def bound_starts(counts: Limits, order_id: str, actor: Actor, *, session: str | None = None) -> None:
    """Count a start of a payment, each of which may cost calls of the gateway. Raises `errors.TooManyAttempts`."""
    await counts.attempt(limits.START_ADDRESS, network_tag(actor.address))
    await counts.attempt(limits.START_SESSION, session)
    await counts.attempt(limits.START_USER, actor.user_id)
    await counts.attempt(limits.START_ORDER, actor.user_id, order_id)


async def bound_questions(counts: Limits, actor: Actor, *, session: str | None = None) -> None:
    """Count a question after a payment, which costs a call of the gateway. Raises `errors.TooManyAttempts`."""
    await counts.attempt(limits.ASK_ADDRESS, network_tag(actor.address))
    await counts.attempt(limits.ASK_SESSION, session)
    await counts.attempt(limits.ASK_USER, actor.user_id)


# ── Staff: refunds, captures, voids ──────────


async def create_refund(
    payment_id: PaymentId, user: Staff, core: CoreDep, key: RequestKey, body: models.NewRefund | None = None
) -> Response:
    """Give captured money back (staff): 201, 200 for a key that was used before, 202 while the outcome is unknown."""
    wanted = body or models.NewRefund()
    result = await refunds.refund(
        core,
        payment_id,
        user.actor,
        amount_minor=wanted.amount,
        reason=wanted.reason,
        restock=wanted.restock,
        request_key=key,
    )
    status = 202 if result.refund.state == "recorded" else 201 if result.created else 200
    return JSONResponse(models.RefundResultOut.of_result(result).model_dump(), status)


async def list_refunds(payment_id: PaymentId, user: Staff, core: CoreDep) -> list[models.RefundOut]:
    """All refunds of a payment, oldest first, also those that were made at the gateway (staff)."""
    return [models.RefundOut.of(refund) for refund in await refunds.list_refunds(core, payment_id, user.actor)]


async def capture_payment(
    payment_id: PaymentId, user: Staff, core: CoreDep, body: models.NewCapture | None = None
) -> Response:
    """Take reserved money (staff). A part is final, and so much less is due. 202 while the outcome is unknown."""
    amount = None if body is None else body.amount
    result = await captures.capture(core, payment_id, user.actor, amount_minor=amount)
    return JSONResponse(models.ResultOut.of(result).model_dump(), 202 if result.unknown else 200)


async def void_payment(
    payment_id: PaymentId, user: Staff, core: CoreDep, body: models.Nothing | None = None
) -> Response:
    """Release reserved money, or end a payment that holds none (staff). 202 while the outcome is unknown."""
    result = await captures.release(core, payment_id, user.actor)
    return JSONResponse(models.ResultOut.of(result).model_dump(), 202 if result.unknown else 200)


async def show_actions(payment_id: PaymentId, user: Staff, core: CoreDep) -> models.StaffSheetOut:
    """What staff can enter about a payment whose gateway learns from them, such as money that arrived (staff)."""
    return models.StaffSheetOut.of(await desk.sheet(core, payment_id, user.actor))


async def act_on_payment(
    payment_id: PaymentId, name: ActionName, body: models.StaffEntry, *, user: Staff, core: CoreDep, key: RequestKey
) -> Response:
    """Enter something about a payment and settle what follows (staff). The same key again is the same entry."""
    result = await desk.act(core, payment_id, user.actor, name, body.params, seen=body.seen, request_key=key)
    return JSONResponse(models.ResultOut.of(result).model_dump(), 202 if result.unknown else 200)
