"""The whole URL table on one screen."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from paidonce.web import api, health, models, pages, staff, webhooks

_problems = models.problem_responses


def api_router() -> APIRouter:
    """The JSON API of the built-in shop, described at /docs. A host mounts a part of it: see `mount.Payments`."""
    r = APIRouter()
    _add_shop(r)
    add_payments(r)
    add_machines(r)
    return r


def _add_shop(r: APIRouter) -> None:
    """Accounts, catalogue and orders, which a host has of its own."""
    who, cat, ord_ = (_tagged(tag) for tag in ("Accounts", "Catalogue", "Orders"))
    user, order, orders = models.UserOut, models.OrderOut, list[models.OrderOut]

    r.post("/api/session", **who(user, 201, _problems(401, 422, 429)))(api.sign_in)
    r.delete("/api/session", **who(None, 204))(api.sign_out)
    r.delete("/api/sessions", **who(None, 204, _problems(401)))(api.sign_out_everywhere)
    r.post("/api/session/confirm", **who(None, 204, _problems(401, 422, 429)))(api.confirm_session)
    r.post("/api/password", **who(None, 204, _problems(401, 409, 422, 429)))(api.change_password)
    r.post("/api/users", **who(user, 201, _problems(422, 429)))(api.sign_up)
    r.get("/api/products", **cat(list[models.ProductOut]))(api.list_products)
    r.patch("/api/products/{sku}", **cat(models.ProductOut, 200, _problems(401, 403, 404, 422)))(api.adjust_product)
    r.post("/api/orders", **ord_(order, 201, _problems(401, 409, 422, 429)))(api.create_order)
    r.get("/api/orders", **ord_(orders, 200, _problems(401)))(api.list_orders)
    r.get("/api/orders/{order_id}", **ord_(order, 200, _problems(401, 404)))(api.get_order)


def add_payments(r: APIRouter) -> None:
    """All that has to do with paying an order, whoever keeps it."""
    ord_, pay, result = _tagged("Orders"), _tagged("Payments"), models.ResultOut
    r.post("/api/orders/{order_id}/cancel", **ord_(models.OrderStatusOut, 200, _problems(401, 404, 409, 429)))(
        api.cancel_order
    )
    r.get("/api/orders/{order_id}/explanation", **ord_(models.ExplanationOut, 200, _problems(401, 403, 404)))(
        api.explain_order
    )
    ways = models.PaymentMethodsOut
    r.get("/api/orders/{order_id}/payment-methods", **pay(ways, 200, _problems(401, 404, 409)))(
        api.list_payment_methods
    )
    start = _problems(401, 404, 409, 422, 429, 503) | _also(200, models.StartedOut, "It is open already.")
    r.post("/api/orders/{order_id}/payments", **pay(models.StartedOut, 201, start))(api.start_payment)
    complete = _problems(401, 404, 409, 429, 503) | _also(202, result, "The outcome is not known yet; ask again.")
    r.post("/api/payments/{payment_id}/complete", **pay(result, 200, complete))(api.complete_payment)
    r.post("/api/payments/{payment_id}/cancel", **pay(result, 200, _problems(401, 404, 409, 429, 503)))(
        api.cancel_payment
    )
    r.get("/api/payments/{payment_id}", **pay(models.PaymentOut, 200, _problems(401, 404)))(api.get_payment)

    staffs = _problems(401, 403, 404, 409, 422)
    refunded = models.RefundResultOut
    again = _also(200, refunded, "This key was used before; nothing was refunded now.")
    unknown = _also(202, refunded, "The outcome is not known yet; it is found out by itself.")
    r.post("/api/payments/{payment_id}/refunds", **pay(refunded, 201, staffs | again | unknown))(api.create_refund)
    r.get("/api/payments/{payment_id}/refunds", **pay(list[models.RefundOut], 200, _problems(401, 403, 404)))(
        api.list_refunds
    )
    later = _also(202, result, "The outcome is not known yet; it is found out by itself.")
    r.post("/api/payments/{payment_id}/capture", **pay(result, 200, staffs | later))(api.capture_payment)
    r.post("/api/payments/{payment_id}/void", **pay(result, 200, staffs | later))(api.void_payment)
    sheet = models.StaffSheetOut
    r.get("/api/payments/{payment_id}/actions", **pay(sheet, 200, _problems(401, 403, 404, 503)))(api.show_actions)
    r.post("/api/payments/{payment_id}/actions/{name}", **pay(result, 200, staffs | _problems(503) | later))(
        api.act_on_payment
    )


def add_machines(r: APIRouter) -> None:
    """What no person asks for: the gateways' news, and whether this process is well."""
    news = _tagged("Webhooks")(dict[str, str], 200, _problems(400, 404, 413, 503))
    r.post("/webhooks/{gateway}", **news)(webhooks.receive)

    r.get("/healthz", **_tagged("Operation")(dict[str, str]))(health.healthz)
    r.get("/readyz", **_tagged("Operation")(dict[str, str], 200, _problems(503)))(health.readyz)


def page_router() -> APIRouter:
    """The pages, which a host with a storefront of its own leaves out."""
    r = APIRouter(include_in_schema=False)
    r.get("/")(pages.catalogue)
    r.get("/basket")(pages.show_basket)
    r.post("/basket/add")(pages.add_to_basket)
    r.post("/basket/set")(pages.set_in_basket)
    r.get("/sign-in")(pages.sign_in_page)
    r.post("/sign-in")(pages.sign_in)
    r.get("/sign-up")(pages.sign_up_page)
    r.post("/sign-up")(pages.sign_up)
    r.post("/sign-out")(pages.sign_out)
    r.get("/account")(pages.account_page)
    r.post("/account/password")(pages.change_password)
    r.post("/account/sign-out")(pages.sign_out_everywhere)
    r.get("/orders")(pages.list_orders)
    r.post("/orders")(pages.place_order)
    r.get("/orders/{order_id}")(pages.show_order)
    r.post("/orders/{order_id}/cancel")(pages.cancel_order)
    r.get("/orders/{order_id}/pay")(pages.pay)
    r.get("/orders/{order_id}/return")(pages.pay_return)
    r.get("/staff")(staff.overview)
    r.get("/staff/orders")(staff.find_order)
    r.get("/staff/orders/{order_id}")(staff.order_page)
    r.post("/staff/payments/{payment_id}/refund")(staff.refund)
    r.post("/staff/payments/{payment_id}/capture")(staff.capture)
    r.post("/staff/payments/{payment_id}/void")(staff.void)
    r.post("/staff/payments/{payment_id}/actions/{name}")(staff.act)
    r.post("/staff/stock")(staff.adjust_stock)
    r.get("/docs")(pages.api_page)
    return r


def _tagged(tag: str) -> Any:
    def describe(model: Any, status: int = 200, responses: dict[int | str, dict[str, Any]] | None = None) -> Any:
        # What every request can be refused for (its size, its type, its host, another site) is not said at each route.
        answers = (responses or {}) | _problems("default")
        return {"response_model": model, "status_code": status, "responses": answers, "tags": [tag]}

    return describe


def _also(status: int, model: Any, description: str) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": model, "description": description}}
