"""The shop's pages. Up to the pay page they need no script; forms answer with a redirect, so reloads repeat nothing."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from fastapi import Request
from starlette.responses import JSONResponse, Response

from paidonce import checkout
from paidonce.declines import buyer_sentence
from paidonce.errors import (
    AlreadyPaid,
    GatewayUnavailable,
    InvalidRequest,
    NotFound,
    OrderClosed,
    PaymentInProgress,
    Problem,
    SoldOut,
    TooManyAttempts,
)
from paidonce.gateways.base import CaptureMethod
from paidonce.payments import Payment
from paidonce.states import OrderStatus, PaymentStatus
from paidonce.store import LARGEST_QUANTITY
from paidonce.web import accounts, aftermath, api, auth, basket, offers, reference, security, views
from paidonce.web.accounts import User
from paidonce.web.api import CoreDep, OrderId, ShopDep
from paidonce.web.auth import MaybeUser
from paidonce.web.forms import read_form, to_sign_in, told
from paidonce.web.models import Attempt
from paidonce.web.shop import Shop

# The money may still move in these, so the page keeps asking.
_UNDER_WAY = offers.UNDER_WAY
_CAME_BACK = "You came back without paying. Your order is unchanged; choose how to pay below."

# ── Catalogue and basket ──────────


async def catalogue(request: Request, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """What there is to buy."""
    products = await core.db.read(shop.store.list_products)
    return views.page(request, "catalogue.html", user=user, products=products, basket=basket.read(request))


async def show_basket(request: Request, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """What the buyer has chosen, at today's prices."""
    products = await core.db.read(shop.store.list_products)
    lines = basket.lines(basket.read(request), products)
    return views.page(
        request, "basket.html", user=user, lines=lines, total=basket.total(lines), largest=LARGEST_QUANTITY
    )


async def add_to_basket(request: Request, core: CoreDep, shop: ShopDep) -> Response:
    """Put pieces of a product into the basket."""
    form = await read_form(request)
    held = basket.read(request)
    sku = form.get("sku", "")
    return await _change_basket(request, core, shop, sku, held.get(sku, 0) + _quantity(form, least=1), back="/")


async def set_in_basket(request: Request, core: CoreDep, shop: ShopDep) -> Response:
    """Change how many pieces of a product are in the basket; zero takes it out."""
    form = await read_form(request)
    return await _change_basket(request, core, shop, form.get("sku", ""), _quantity(form, least=0), back="/basket")


async def _change_basket(
    request: Request, core: CoreDep, shop: Shop, sku: str, quantity: int, *, back: str
) -> Response:
    products = {product.sku: product for product in await core.db.read(shop.store.list_products)}
    held = basket.read(request)
    product = products.get(sku)
    if product is None and sku not in held:
        raise NotFound("We no longer have this product.")
    changed = basket.change(held, sku, quantity if product is not None else 0)
    name = product.name if product is not None else "The product"
    message = f"{name}: {changed[sku]} in your basket." if sku in changed else f"{name} was taken out of your basket."
    if "application/json" in request.headers.get("accept", ""):
        response: Response = JSONResponse({"count": basket.count(changed), "message": message})
    else:
        response = views.go_to(back)
        views.flash(shop, response, message)
    basket.write(shop, response, changed)
    return response


def _quantity(form: Mapping[str, str], *, least: int) -> int:
    text = form.get("quantity", "1")
    if not (text.isascii() and text.isdigit() and len(text) <= 4) or not least <= int(text) <= LARGEST_QUANTITY:
        raise InvalidRequest(f"quantity: choose a whole number from {least} to {LARGEST_QUANTITY}.")
    return int(text)


# ── Accounts ──────────


async def sign_in_page(request: Request, user: MaybeUser) -> Response:
    """The sign-in form."""
    target = _next(request.query_params.get("next"))
    if user is not None:
        return views.go_to(target)
    return _account_page(request, "sign-in.html", target)


async def sign_in(request: Request, shop: ShopDep) -> Response:
    """Sign in by the form."""
    form = await read_form(request)
    target = _next(form.get("next"))
    try:
        user = await auth.sign_in(request, email=form.get("email", ""), password=form.get("password", ""))
    except Problem as problem:
        return _account_page(request, "sign-in.html", target, problem=problem, email=form.get("email", ""))
    return await _welcome(request, user, target)


async def sign_up_page(request: Request, user: MaybeUser) -> Response:
    """The sign-up form."""
    target = _next(request.query_params.get("next"))
    if user is not None:
        return views.go_to(target)
    return _account_page(request, "sign-up.html", target)


async def sign_up(request: Request, shop: ShopDep) -> Response:
    """Make an account by the form and sign in."""
    form = await read_form(request)
    target = _next(form.get("next"))
    email, name, password = form.get("email", ""), form.get("name", ""), form.get("password", "")
    try:
        user = await auth.sign_up(request, email=email, name=name, password=password)
    except Problem as problem:
        return _account_page(request, "sign-up.html", target, problem=problem, email=email, name=name)
    return await _welcome(request, user, target)


async def sign_out(request: Request) -> Response:
    """Sign out by the form."""
    response = views.go_to("/")
    await auth.forget(request, response)
    return response


async def account_page(request: Request, user: MaybeUser) -> Response:
    """Who is signed in, with the forms to change the password and to sign out everywhere."""
    if user is None:
        return to_sign_in("/account")
    return _own_account_page(request, user)


async def change_password(request: Request, user: MaybeUser, shop: ShopDep) -> Response:
    """Change the password by the form."""
    if user is None:
        return to_sign_in("/account")
    form = await read_form(request)
    response = told(shop, "/account", "The password was changed. Everywhere else you are signed out.", "success")
    old, new = form.get("password", ""), form.get("new_password", "")
    try:
        await auth.change_password(request, response, user, old=old, new=new)
    except Problem as problem:
        return _own_account_page(request, user, problem=problem)
    return response


async def sign_out_everywhere(request: Request, user: MaybeUser) -> Response:
    """End all sessions by the form."""
    response = views.go_to("/")
    if user is not None:
        await auth.forget_everywhere(request, response, user)
    return response


def _own_account_page(request: Request, user: User, *, problem: Problem | None = None) -> Response:
    field, message = _wrong_field(problem, {"password", "new_password"})
    return views.page(
        request,
        "account.html",
        user=user,
        status=problem.status if problem else 200,
        problem=problem,
        wrong_field=field,
        wrong=message,
        password_min=accounts.PASSWORD_MIN_LENGTH,
    )


async def _welcome(request: Request, user: User, target: str) -> Response:
    response = views.go_to(target)
    await auth.remember(request, response, user)
    return response


def _account_page(
    request: Request, template: str, target: str, *, problem: Problem | None = None, email: str = "", name: str = ""
) -> Response:
    field, message = _wrong_field(problem, {"email", "name", "password"})
    return views.page(
        request,
        template,
        user=None,
        status=problem.status if problem else 200,
        next=target,
        next_query="?next=" + quote(target, safe="") if target != "/" else "",
        email=email[:254],
        name=name[:100],
        problem=problem,
        wrong_field=field,
        wrong=message,
        password_min=accounts.PASSWORD_MIN_LENGTH,
        is_error=problem is not None,
    )


def _wrong_field(problem: Problem | None, fields: set[str]) -> tuple[str | None, str | None]:
    """Which field of a form a problem is about, if it names one, and what to write there."""
    if problem is None:
        return None, None
    field, _, message = problem.message.partition(": ")
    return (field, message[:1].upper() + message[1:]) if field in fields else (None, problem.message)


# ── Orders ──────────


async def place_order(request: Request, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """Turn the basket into an order and go on to paying it. The basket is emptied only if that worked."""
    if user is None:
        return to_sign_in("/basket")
    chosen = basket.read(request)
    if not chosen:
        return views.go_to("/basket")
    try:
        order = await core.db.transaction(
            shop.store.create_order,
            ids=core.ids,
            user_id=user.id,
            lines=list(chosen.items()),
            now=core.clock.now(),
            lifetime_seconds=core.policy.order_seconds,
            bounds=shop.settings.order_bounds(),
        )
    except (SoldOut, InvalidRequest, TooManyAttempts) as problem:
        return told(shop, "/basket", problem.message, "error")
    response = views.go_to(f"/orders/{order.id}/pay")
    basket.write(shop, response, {})
    return response


async def list_orders(request: Request, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """The buyer's orders."""
    if user is None:
        return to_sign_in("/orders")
    orders = await core.db.read(shop.store.list_orders, user.id)
    return views.page(request, "orders.html", user=user, orders=orders)


async def show_order(request: Request, order_id: OrderId, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """One order: where it stands and what to do next."""
    if user is None:
        return to_sign_in(f"/orders/{order_id}")
    order, attempts = await core.db.read(api.own_order, shop.store, order_id, user)
    under_way = _first(attempts, _UNDER_WAY)
    hold_ends = await core.db.read(core.store.hold_ends, order.id)
    return views.page(
        request,
        "order.html",
        user=user,
        order=order,
        attempts=[one.payment for one in attempts if one.payment.status is not PaymentStatus.CREATED],
        titles={name: gateway.title for name, gateway in shop.gateways.items()},
        notes=aftermath.notes(order, attempts),
        under_way=under_way,
        # What waits for the shop's staff does not change by asking.
        reserved=under_way is not None and _waits_for_staff(under_way),
        held=next((one for one in attempts if _is_held(one.payment)), None),
        comes_back=any(one.payment.is_owed for one in attempts),
        awaited=any(one.payment.is_awaited for one in attempts),
        goods_held=hold_ends is not None and hold_ends > core.clock.now(),
        came_back=any(one.payment.owed_to_buyer for one in attempts),
        declined=_declined(attempts),
        images=await _images(core, shop),
        is_own=order.user_id == user.id,
    )


def _waits_for_staff(payment: Payment) -> bool:
    return payment.status is PaymentStatus.AUTHORIZED and payment.capture_method is CaptureMethod.MANUAL


def _is_held(payment: Payment) -> bool:
    return payment.is_in_the_way


def _declined(attempts: list[Attempt]) -> str | None:
    """Why the last attempt did not go through, in plain words; None if it was not declined."""
    code = attempts[-1].payment.decline_code if attempts else None
    return None if code is None else buyer_sentence(code)


async def cancel_order(request: Request, order_id: OrderId, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """Cancel an unpaid order by the form."""
    if user is None:
        return to_sign_in(f"/orders/{order_id}")
    here = f"/orders/{order_id}"
    try:
        await api.bound_questions(shop.limits, user.actor, session=auth.session_of(request))
        await checkout.cancel_order(core, order_id, user.actor)
    except (AlreadyPaid, PaymentInProgress, GatewayUnavailable, TooManyAttempts) as problem:
        return told(shop, here, problem.message, "error")
    return told(shop, here, "The order was canceled. You have not been charged.", "success")


# ── Paying ──────────


async def pay(request: Request, order_id: OrderId, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """The pay page with every gateway's component side by side."""
    here = f"/orders/{order_id}"
    if user is None:
        return to_sign_in(f"{here}/pay")
    if request.query_params:
        # A gateway sent the buyer back and added its own values; the address is cleaned before anything loads.
        return told(shop, f"{here}/pay", _CAME_BACK, "info")
    order, attempts = await core.db.read(api.own_order, shop.store, order_id, user)
    try:
        offers.refuse_unpayable(order, [one.payment for one in attempts], user.id)
    except (NotFound, AlreadyPaid, OrderClosed, PaymentInProgress):
        # The order's own page says why.
        return views.go_to(here)
    ways = offers.offers(shop, order)
    usable = [shop.components[way.name] for way in ways if way.unavailable is None]
    security.add_sources(request.scope, [part.csp for part in usable])
    back = {"return-url": shop.return_url(order_id)}
    images = await _images(core, shop)
    return views.page(request, "pay.html", user=user, order=order, offers=ways, back=back, images=images)


async def pay_return(request: Request, order_id: OrderId, user: MaybeUser, core: CoreDep, shop: ShopDep) -> Response:
    """Where a gateway's redirect brings the buyer back. Only our payment id is read, and the gateway is asked anew.

    The answer is always a redirect, so that what the gateway added never stays in the address bar.
    """
    here = f"/orders/{order_id}"
    payment_id = api.payment_id_in_path(request.query_params.get("payment", ""))
    if user is None:
        # Signed out at the gateway's: what was approved there is completed once we know again who this is.
        return to_sign_in(f"{here}/return?payment={payment_id}")
    _, attempts = await core.db.read(api.own_order, shop.store, order_id, user)
    if payment_id not in {one.payment.id for one in attempts}:
        raise NotFound("We could not find this payment.")
    try:
        await api.bound_questions(shop.limits, user.actor, session=auth.session_of(request))
        result = await checkout.complete(core, payment_id, user.actor)
    except (PaymentInProgress, SoldOut, TooManyAttempts) as problem:
        return told(shop, here, problem.message, "info")
    status = result.payment.status
    # An order is pending as well while its buyer's own transfer is awaited.
    told_there = result.order_status in (OrderStatus.PAID, OrderStatus.PENDING)
    # Money that arrived and does not pay the order goes back: the order's own page says so, and nothing is to be paid.
    if told_there or result.unknown or status in _UNDER_WAY | {PaymentStatus.HELD, PaymentStatus.CAPTURED}:
        return views.go_to(here)
    if status is PaymentStatus.AWAITING_BUYER and not result.recoverable:
        return told(shop, f"{here}/pay", _CAME_BACK, "info")
    return told(shop, f"{here}/pay", result.message, "error" if result.recoverable else "info")


# ── Small things ──────────


async def api_page(request: Request, user: MaybeUser) -> Response:
    """The API's description for people, made from the OpenAPI document. It needs no script and no foreign server."""
    groups = reference.describe(request.app.openapi())
    return views.page(request, "docs.html", user=user, groups=groups, problems=reference.problem_codes())


def _next(target: str | None) -> str:
    """Where to go after signing in: a path of this shop, or the front page."""
    return target if target and len(target) <= 500 and views.is_local(target) else "/"


def _first(attempts: list[Attempt], statuses: frozenset[PaymentStatus]) -> Payment | None:
    return next((one.payment for one in attempts if one.payment.status in statuses), None)


async def _images(core: CoreDep, shop: Shop) -> dict[str, str]:
    products = await core.db.read(shop.store.list_products)
    return {product.sku: product.image for product in products}
