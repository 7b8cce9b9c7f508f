"""The shop as a FastAPI application: its own pages, and paidonce's routes and elements beside them."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

import jinja2
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

import paidonce
from paidonce.payments import of_order
from paidonce.ports import Transaction

from . import people
from .models import Base, Item, Order, Points, Product, User, connect
from .people import Buyer, Database, Staff, Visitor
from .store import ShopStore

HERE = Path(__file__).parent
SETTLED = {"paid", "canceled", "expired"}
UNDER_WAY = {paidonce.PaymentStatus.PROCESSING, paidonce.PaymentStatus.AUTHORIZED, paidonce.PaymentStatus.HELD}


def create_app(environment: Mapping[str, str] | None = None, **ports: Any) -> FastAPI:
    """The shop. `ports` (a clock, a store) are for tests."""
    environment = dict(os.environ if environment is None else environment)
    url = environment.setdefault("DATABASE_URL", "sqlite:///own-shop.db")
    payments = paidonce.Payments(
        store=ports.pop("store", None) or ShopStore(),
        current_user=people.who_asks,
        return_path="/orders/{order}/back?payment={payment}",
        # Both live in one database, or they could not be part of one transaction.
        environment={**environment, "PAIDONCE_DATABASE_URL": url},
        **ports,
    )
    app = FastAPI(title="Ember & Moss", lifespan=payments.lifespan)
    app.state.engine = connect(url)
    app.state.payments = payments
    app.include_router(payments.router)
    app.mount("/assets", payments.assets)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    # The staff's refund is a plain form: what another site makes a browser send is refused, as paidonce's routes do.
    app.include_router(pages, dependencies=[Depends(payments.check_origin)])
    return app


async def make_tables(app: FastAPI) -> None:
    """The shop's own tables and paidonce's, side by side in one database. Safe to repeat."""
    Base.metadata.create_all(app.state.engine)
    await app.state.payments.migrate()


# ── Small things ──────────

templates = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True)
templates.filters["euros"] = lambda cents: f"€{cents // 100}.{cents % 100:02}"
pages = APIRouter(include_in_schema=False)


def payments_of(request: Request) -> paidonce.Payments:
    """The mounted payments."""
    mounted: paidonce.Payments = request.app.state.payments
    return mounted


Paying = Annotated[paidonce.Payments, Depends(payments_of)]


async def form(request: Request) -> dict[str, str]:
    """The fields of a plain form."""
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace")))


Form = Annotated[dict[str, str], Depends(form)]


def page(name: str, user: User | None, headers: Mapping[str, str] | None = None, **values: Any) -> HTMLResponse:
    """A page of the shop."""
    return HTMLResponse(templates.get_template(name).render(user=user, **values), headers=dict(headers or {}))


def go_to(path: str) -> RedirectResponse:
    """On to another page of the shop."""
    return RedirectResponse(path, 303)


def own_order(order_id: int, user: Buyer, session: Database) -> Order:
    """The order in the address, if it is the buyer's own."""
    order = session.get(Order, order_id)
    if order is None or order.user_id != user.id:
        raise HTTPException(404, "There is no such order of yours.")
    return order


OwnOrder = Annotated[Order, Depends(own_order)]

# ── Buying ──────────


def all_products(session: Database) -> list[Product]:
    """The catalogue."""
    return list(session.scalars(select(Product).order_by(Product.price_cents, Product.sku)))


@pages.get("/")
async def catalogue(
    visitor: Visitor, payments: Paying, products: Annotated[list[Product], Depends(all_products)]
) -> HTMLResponse:
    """What there is to buy; bags that others are paying for right now are not offered."""
    store = payments.core.store
    assert isinstance(store, ShopStore)
    reserved = await payments.core.db.read(store.reserved, [product.sku for product in products])
    left = {product.sku: product.stock - reserved.get(product.sku, 0) for product in products}
    return page("catalogue.html", visitor, products=products, left=left)


@pages.post("/buy")
def buy(user: Buyer, session: Database, fields: Form) -> Response:
    """Order a coffee. Nothing is reserved before a payment starts."""
    product = session.get(Product, fields.get("sku", ""))
    quantity = _bags(fields.get("quantity", "1"))
    if product is None or quantity is None:
        raise HTTPException(422, "Choose one of our coffees, and 1 to 99 bags of it.")
    order = Order(user_id=user.id, total_cents=product.price_cents * quantity, created_at=people.now())
    order.items.append(Item(sku=product.sku, name=product.name, quantity=quantity, price_cents=product.price_cents))
    session.add(order)
    session.commit()
    return go_to(f"/orders/{order.id}/pay")


def _bags(text: str) -> int | None:
    # All of the text is checked, and read once: what was checked is what is ordered.
    return int(text) if re.fullmatch(r"[1-9][0-9]?", text) else None


@pages.get("/orders")
def orders(user: Buyer, session: Database) -> HTMLResponse:
    """The buyer's orders and points."""
    found = session.scalars(select(Order).where(Order.user_id == user.id).order_by(Order.id.desc()).limit(50))
    points = session.scalar(select(func.coalesce(func.sum(Points.points), 0)).where(Points.user_id == user.id))
    return page("orders.html", user, orders=list(found), points=points)


@pages.get("/orders/{order_id}")
def order(user: Buyer, order: OwnOrder, session: Database, said: str = "") -> HTMLResponse:
    """One order."""
    points = session.get(Points, order.id)
    return page("order.html", user, order=order, points=points, said=SAYINGS.get(said))


# ── Paying ──────────

SAYINGS = {
    "declined": "That did not go through, and you have not been charged. Please try again or pay another way.",
    "back": "You came back without paying. Your order is unchanged.",
    "returned": "Your payment came too late, or twice. It does not count, and you will get it back.",
    "busy": "Your payment is being confirmed. This page shows when it is through.",
}


@pages.get("/orders/{order_id}/pay")
async def pay(user: Buyer, order: OwnOrder, payments: Paying, said: str = "") -> Response:
    """Both gateways' elements side by side."""
    payable = await payments.core.db.read(payments.core.store.find, str(order.id), lock=False)
    if payable is None or order.status in SETTLED:
        return go_to(f"/orders/{order.id}")
    offers = payments.offers(payable)
    return page(
        "pay.html",
        user,
        payments.headers(),
        order=order,
        offers=offers,
        element=payments.element,
        scripts=payments.scripts(offers),
        said=SAYINGS.get(said),
    )


@pages.get("/orders/{order_id}/back")
async def back(user: Buyer, order: OwnOrder, payments: Paying, payment: str) -> Response:
    """Where a redirect brings the buyer back. What the address says counts for nothing: the gateway is asked."""
    try:
        result = await paidonce.complete(payments.core, payment, paidonce.Actor(str(user.id)))
    except paidonce.Problem:
        return go_to(f"/orders/{order.id}")
    if result.order_status is paidonce.OrderStatus.PAID or result.unknown:
        return go_to(f"/orders/{order.id}")
    if result.payment.status is paidonce.PaymentStatus.CAPTURED:
        # The money is here and the order is not paid by it: it goes back, and nobody may read that nothing was charged.
        return go_to(f"/orders/{order.id}?said=returned")
    if result.payment.status is paidonce.PaymentStatus.AWAITING_BUYER:
        return go_to(f"/orders/{order.id}/pay?said={'declined' if result.recoverable else 'back'}")
    return go_to(f"/orders/{order.id}?said={'busy' if result.payment.status in UNDER_WAY else 'declined'}")


# ── Staff ──────────


@pages.get("/staff")
async def staff(user: Staff, session: Database) -> HTMLResponse:
    """The latest orders, with a button that gives the money back."""
    found = session.scalars(select(Order).order_by(Order.id.desc()).limit(50))
    # One key for each button of this very page, so that a double click is one refund.
    return page("staff.html", user, orders=list(found), key=lambda: secrets.token_urlsafe(16))


@pages.post("/staff/orders/{order_id}/refund")
async def refund(order_id: int, user: Staff, payments: Paying, fields: Form) -> Response:
    """Give all of it back, to where it came from."""
    key = fields.get("key", "")
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,64}", key):
        raise HTTPException(422, "Use the button on the page for staff; it makes a double click one refund.")
    paid = await payments.core.db.read(_paying, str(order_id))
    if paid is None:
        raise HTTPException(404, "No payment of this order has money to give back.")
    actor = paidonce.Actor(str(user.id), is_staff=True)
    await paidonce.refund(payments.core, paid, actor, request_key=key)
    return go_to("/staff")


async def _paying(tx: Transaction, order_id: str) -> str | None:
    captured = [one for one in await of_order(tx, order_id) if one.status is paidonce.PaymentStatus.CAPTURED]
    return captured[0].id if captured else None


# ── Signing in ──────────


@pages.get("/sign-in")
def sign_in_page(visitor: Visitor) -> Response:
    """The form."""
    return page("sign-in.html", visitor, wrong=False) if visitor is None else go_to("/")


@pages.post("/sign-in")
def sign_in(session: Database, payments: Paying, fields: Form) -> Response:
    """Sign in by the form."""
    response: Response = go_to("/")
    email, password = fields.get("email", ""), fields.get("password", "")
    if people.sign_in(session, response, email, password, https=payments.settings.https):
        return response
    return page("sign-in.html", None, wrong=True)


@pages.post("/sign-out")
def sign_out(request: Request, session: Database) -> Response:
    """Sign out by the form."""
    response = go_to("/")
    people.sign_out(session, request, response)
    return response


def add_user(engine: Engine, email: str, name: str, password: str, *, is_staff: bool = False) -> None:
    """An account, if there is none with this email."""
    with Session(engine) as session:
        if session.scalar(select(User.id).where(User.email == email)) is None:
            hashed = people.passwords().hash(password)
            session.add(User(email=email, name=name, password_hash=hashed, is_staff=is_staff))
            session.commit()


def add_product(engine: Engine, sku: str, name: str, price_cents: int, stock: int, **look: str) -> None:
    """A product, if there is none with this SKU."""
    with Session(engine) as session:
        if session.get(Product, sku) is None:
            session.add(Product(sku=sku, name=name, price_cents=price_cents, stock=stock, **look))
            session.commit()
