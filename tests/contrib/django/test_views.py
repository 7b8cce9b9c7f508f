"""The HTTP face in Django: who may do what, forged requests, the same documents as docs/http-api.md, WSGI and ASGI."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.handlers.asgi import ASGIRequest
from django.core.management import call_command
from django.db import connection
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.template import Context, Template
from django.templatetags.static import static
from django.test import AsyncClient, Client, RequestFactory
from django.test.utils import override_settings
from fastapi import APIRouter
from fastapi.routing import APIRoute
from shop.models import Order, Points, Product

from contrib.django.twins import Shop
from paidonce.contrib.django import csp, integrity, urls, views
from paidonce.contrib.django import runtime as wiring
from paidonce.contrib.django.auth import confirm, signed_in
from paidonce.core import Actor
from paidonce.web import routes
from paidonce.web.integrity import of_text

JSON = "application/json"


@pytest.fixture
def settings() -> Iterator[Any]:
    """Django's settings; what a test changes is undone."""
    with override_settings():
        from django.conf import settings as current

        yield current
    wiring.use(None)


@pytest.fixture
def shop(shop_database: Any, settings: Any) -> Shop:
    Product.objects.create(sku="MUG", name="Mug", price_cents=1250, stock=10)
    return Shop(settings)


@pytest.fixture
def buyer(shop: Shop) -> User:
    return User.objects.create_user("buyer")


@pytest.fixture
def staff(shop: Shop) -> User:
    return User.objects.create_user("staff", is_staff=True)


def browser(user: User | None, **options: Any) -> Client:
    client = Client(**options)
    if user is not None:
        client.force_login(user)
    return client


def post(client: Client, path: str, body: Any = None, **options: Any) -> Any:
    return client.post(path, json.dumps({} if body is None else body), content_type=JSON, **options)


def start(client: Client, order: str, gateway: str = "stripe") -> Any:
    answer = post(client, f"/api/orders/{order}/payments", {"gateway": gateway})
    assert answer.status_code == 201, answer.content
    return answer.json()


def pay(shop: Shop, client: Client, order: str) -> str:
    started = start(client, order)
    shop.confirm(started["client"])
    answer = post(client, f"/api/payments/{started['id']}/complete")
    assert answer.json()["order_status"] == "paid"
    return str(started["id"])


def is_problem(answer: Any, status: int, code: str) -> bool:
    assert answer["Content-Type"] == "application/problem+json", answer.content
    body = json.loads(answer.content)
    assert body["status"] == answer.status_code
    assert answer["Cache-Control"] == "no-store"
    return (answer.status_code, body["code"]) == (status, code)


# ── Paying ──────────


def test_an_order_is_paid_once_with_all_that_belongs_to_it(shop: Shop, buyer: User) -> None:
    client = browser(buyer)
    order = shop.order(buyer, quantity=2)
    payment = pay(shop, client, order)
    again = post(client, f"/api/payments/{payment}/complete")
    assert (again.status_code, again.json()["status"]) == (200, "captured")
    assert is_problem(post(client, f"/api/orders/{order}/payments", {"gateway": "paypal"}), 409, "already_paid")
    assert Order.objects.get(pk=order).status == "paid"
    assert Product.objects.get(pk="MUG").stock == 8
    assert Points.objects.get(order_id=order).points == 25
    assert shop.captures() == 1
    assert client.get(f"/api/payments/{payment}").json()["order_id"] == order


def test_starting_twice_gives_the_same_payment(shop: Shop, buyer: User) -> None:
    client = browser(buyer)
    order = shop.order(buyer)
    started = start(client, order)
    again = post(client, f"/api/orders/{order}/payments", {"gateway": "stripe"})
    assert (again.status_code, again.json()["id"]) == (200, started["id"])
    assert len([one for one in shop.transport.sent if one.url.endswith("/v1/payment_intents")]) == 1


def test_a_buyer_who_never_came_back_is_settled_by_the_worker(shop: Shop, buyer: User) -> None:
    order = shop.order(buyer)
    started = start(browser(buyer), order)
    shop.confirm(started["client"])
    shop.clock.shift += 120 * 1_000_000
    assert shop.recover() > 0
    assert Order.objects.get(pk=order).status == "paid"
    assert Product.objects.get(pk="MUG").stock == 9


def test_cancel_a_payment_and_the_order(shop: Shop, buyer: User) -> None:
    client = browser(buyer)
    order = shop.order(buyer)
    payment = start(client, order)["id"]
    assert post(client, f"/api/payments/{payment}/cancel").json()["status"] == "canceled"
    canceled = post(client, f"/api/orders/{order}/cancel")
    assert canceled.json() == {"id": order, "status": "canceled"}
    assert Product.objects.get(pk="MUG").stock == 10
    assert shop.count("reservations") == 0


def test_an_unpaid_order_ends_with_its_time(shop: Shop, buyer: User) -> None:
    order = shop.order(buyer)
    shop.clock.shift += 25 * 3600 * 1_000_000
    shop.recover()
    assert Order.objects.get(pk=order).status == "expired"
    assert is_problem(post(browser(buyer), f"/api/orders/{order}/payments", {"gateway": "stripe"}), 409, "order_closed")


def test_the_shops_own_error_rolls_everything_back_and_it_is_tried_again(
    shop: Shop, buyer: User, caplog: pytest.LogCaptureFixture
) -> None:
    from contrib.django.failing import FailingStore

    client = browser(buyer)
    order = shop.order(buyer)
    started = start(client, order)
    shop.confirm(started["client"])
    type(shop.runtime.core.store).fail_next = True
    assert isinstance(shop.runtime.core.store, FailingStore)
    failed = post(client, f"/api/payments/{started['id']}/complete")
    assert is_problem(failed, 500, "internal_error")
    assert "had written" not in failed.content.decode()
    assert failed.json()["incident"].startswith("inc_")
    assert Points.objects.count() == 0
    assert Product.objects.get(pk="MUG").stock == 10
    assert shop.captures() == 0
    assert post(client, f"/api/payments/{started['id']}/complete").json()["order_status"] == "paid"
    assert Points.objects.count() == 1
    assert Product.objects.get(pk="MUG").stock == 9


# ── Who may do what ──────────


def test_nobody_and_strangers_get_nothing(shop: Shop, buyer: User) -> None:
    order = shop.order(buyer)
    payment = start(browser(buyer), order)["id"]
    stranger = browser(User.objects.create_user("stranger"))
    sent = len(shop.transport.sent)
    for client, status, code in ((browser(None), 401, "not_signed_in"), (stranger, 404, "not_found")):
        for path_, body in (
            (f"/api/orders/{order}/payments", {"gateway": "stripe"}),
            (f"/api/orders/{order}/cancel", None),
            (f"/api/payments/{payment}/complete", None),
            (f"/api/payments/{payment}/cancel", None),
        ):
            assert is_problem(post(client, path_, body), status, code), path_
        for path_ in (f"/api/payments/{payment}", f"/api/orders/{order}/payment-methods"):
            assert is_problem(client.get(path_), status, code), path_
    assert len(shop.transport.sent) == sent
    assert shop.count("payments") == 1


@pytest.mark.parametrize("path_", ["refunds", "capture", "void", "actions/money_received"])
def test_staff_alone_refund_capture_and_void(shop: Shop, buyer: User, path_: str) -> None:
    client = browser(buyer)
    payment = pay(shop, client, shop.order(buyer))
    sent = len(shop.transport.sent)
    assert is_problem(post(client, f"/api/payments/{payment}/{path_}"), 403, "forbidden")
    assert is_problem(post(browser(None), f"/api/payments/{payment}/{path_}"), 401, "not_signed_in")
    assert len(shop.transport.sent) == sent
    assert shop.count("refunds") == 0


def test_staff_refund_once_per_key(shop: Shop, buyer: User, staff: User) -> None:
    order = shop.order(buyer)
    payment = pay(shop, browser(buyer), order)
    client = browser(staff)
    path_ = f"/api/payments/{payment}/refunds"
    first = post(client, path_, {"amount": 250, "restock": True}, headers={"Idempotency-Key": "one"})
    again = post(client, path_, {"amount": 250, "restock": True}, headers={"Idempotency-Key": "one"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert is_problem(post(client, path_, {"amount": 1001}), 409, "refund_too_large")
    assert [one["amount"] for one in client.get(path_).json()] == [250]
    assert Order.objects.get(pk=order).refunded == "partial"
    assert Product.objects.get(pk="MUG").stock == 10
    story = client.get(f"/api/orders/{order}/explanation")
    assert story.json()["order"]["refund_status"] == "partial"
    assert is_problem(browser(buyer).get(f"/api/orders/{order}/explanation"), 403, "forbidden")


def test_who_is_signed_in_by_django(shop: Shop, buyer: User, staff: User) -> None:
    request = RequestFactory().get("/")
    for user, actor in (
        (AnonymousUser(), None),
        (buyer, Actor(str(buyer.pk))),
        (staff, Actor(str(staff.pk), is_staff=True)),
    ):
        request.user = user
        assert signed_in(request) == actor
    staff.is_active = False
    assert signed_in(request) is None


def test_a_large_refund_needs_a_second_look_in_this_session_by_this_user(
    shop: Shop, settings: Any, buyer: User, staff: User
) -> None:
    shop = Shop(settings, PAIDONCE_SECOND_LOOK_ABOVE="1.00 EUR")
    payment = pay(shop, browser(buyer), shop.order(buyer))
    client, path_ = browser(staff), f"/api/payments/{payment}/refunds"
    assert is_problem(post(client, path_, {"amount": 101}), 403, "confirmation_needed")
    assert shop.count("refunds") == 0
    request = RequestFactory().get("/")
    request.user, request.session = staff, client.session
    confirm(request)
    request.session.save()
    assert post(client, path_, {"amount": 101}).status_code == 201
    assert shop.count("audit_log") == 1

    actor = signed_in(request)
    assert actor is not None
    assert actor.confirmed
    request.user = buyer
    assert signed_in(request) == Actor(str(buyer.pk)), "somebody else in the same session has not looked"
    request.user = staff
    for noted in ([str(staff.pk), int(time.time()) - 300], [str(staff.pk), int(time.time()) + 60], ["1"], "x"):
        request.session["paidonce_confirmed"] = noted
        assert signed_in(request) == Actor(str(staff.pk), is_staff=True), "five minutes, and none of the future"


# ── Forged and broken requests ──────────


def test_a_request_without_djangos_token_is_refused(shop: Shop, buyer: User) -> None:
    client = browser(buyer, enforce_csrf_checks=True)
    order = shop.order(buyer)
    body = {"gateway": "stripe"}
    refused = post(client, f"/api/orders/{order}/payments", body)
    assert is_problem(refused, 403, "forbidden")
    assert "reload" in refused.json()["detail"]
    assert shop.count("payments") == 0

    page = client.get(f"/orders/{order}/pay/").content.decode()
    token = page.split('data-csrf-token="')[1].split('"')[0]
    accepted = post(client, f"/api/orders/{order}/payments", body, headers={"X-CSRFToken": token})
    assert accepted.status_code == 201
    foreign = {"X-CSRFToken": token, "Origin": "https://evil.example"}
    assert is_problem(post(client, f"/api/orders/{order}/payments", body, headers=foreign), 403, "forbidden")


@pytest.mark.parametrize(
    ("raw", "content_type", "status"),
    [
        (b"{", JSON, 422),
        (b"[]", JSON, 422),
        (b'{"gateway": "stripe", "amount": 1}', JSON, 422),
        (b'{"gateway": 7}', JSON, 422),
        (b"", JSON, 422),
        (b"null", JSON, 422),
        (b"gateway=stripe", "text/plain", 415),
        (b'{"gateway": "' + b"s" * 70_000 + b'"}', JSON, 413),
        (b'{"gateway": "nobody"}', JSON, 422),
        (b'{"gateway": "stripe", "gateway": "paypal"}', JSON, 422),
        (b'{"gateway": "stripe", "return_url": "\\ud800"}', JSON, 422),
        (b"[" * 10_000, JSON, 422),
    ],
)
def test_input_that_cant_be_used_says_why(shop: Shop, buyer: User, raw: bytes, content_type: str, status: int) -> None:
    order = shop.order(buyer)
    answer = browser(buyer).generic("POST", f"/api/orders/{order}/payments", raw, content_type)
    assert is_problem(answer, status, "invalid_request")
    assert answer.json()["detail"]
    assert shop.count("payments") == 0


# ── What can't be read is not nothing ──────────


class Broken(BytesIO):
    """The connection to a client that went away."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError("connection reset")


@dataclass
class Post:
    """A request as a WSGI server hands it over: what can be read need not be what was declared."""

    content_type: str
    stream: bytes | None
    declared: str | None
    is_chunked: bool = False

    def to(self, client: Client, path: str, **more: Any) -> Any:
        extra = {**more, "wsgi.input": Broken() if self.stream is None else BytesIO(self.stream)}
        extra |= {} if self.declared is None else {"CONTENT_LENGTH": self.declared}
        extra |= {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True} if self.is_chunked else {}
        return client.generic("POST", path, b"", self.content_type, **{"CONTENT_TYPE": self.content_type, **extra})


PART = b'{"amount": 250}'
FORM = b'--b\r\nContent-Disposition: form-data; name="amount"\r\n\r\n250\r\n--b--\r\n'
MULTIPART = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("lost", "status"),
    [
        (Post(JSON, PART, None, is_chunked=True), 411),
        (Post(JSON, PART, "0", is_chunked=True), 411),
        (Post(JSON, PART, None), 411),
        (Post(MULTIPART, FORM, str(len(FORM))), 415),
        (Post("application/x-www-form-urlencoded", b"amount=250", "10"), 415),
        (Post(JSON, PART[:7], "15"), 400),
        (Post(JSON, None, "15"), 400),
        (Post(JSON, b" ", "1"), 422),
    ],
)
def test_an_amount_that_cant_be_read_never_becomes_all_of_it(
    shop: Shop, buyer: User, staff: User, lost: Post, status: int
) -> None:
    """A part whose body is lost on the way is refused, also where Django's check of its token reads forms."""
    order = shop.order(buyer)
    payment = pay(shop, browser(buyer), order)
    client = browser(staff, enforce_csrf_checks=True)
    client.cookies["csrftoken"] = token = get_token(RequestFactory().get("/"))
    sent = len(shop.transport.sent)
    for action in ("refunds", "capture"):
        answer = lost.to(client, f"/api/payments/{payment}/{action}", HTTP_X_CSRFTOKEN=token)
        assert is_problem(answer, status, "invalid_request"), answer.content
        assert answer.json()["detail"]
    assert len(shop.transport.sent) == sent
    assert shop.count("refunds") == 0
    whole = Post(JSON, PART, "15").to(client, f"/api/payments/{payment}/refunds", HTTP_X_CSRFTOKEN=token)
    assert (whole.status_code, whole.json()["amount"]) == (201, 250)


def test_a_middleware_of_the_host_that_read_the_body_is_told(shop: Shop, buyer: User, staff: User) -> None:
    """Whoever read the stream before us left nothing of the amount, so nothing is given back."""
    payment = pay(shop, browser(buyer), shop.order(buyer))
    request = RequestFactory().post(f"/api/payments/{payment}/refunds", b'{"amount": 250}', content_type=JSON)
    request.user, request._dont_enforce_csrf_checks = staff, True
    assert request.read()
    assert is_problem(views.refund(request, payment_id=payment), 400, "invalid_request")
    assert shop.count("refunds") == 0
    # Django keeps what was read as `body`, and that is fine.
    request = RequestFactory().post(f"/api/payments/{payment}/refunds", b'{"amount": 250}', content_type=JSON)
    request.user, request._dont_enforce_csrf_checks = staff, True
    assert request.body
    assert views.refund(request, payment_id=payment).status_code == 201
    assert shop.count("refunds WHERE amount_minor = 250") == 1


def test_nothing_that_is_said_is_all_of_it(shop: Shop, buyer: User, staff: User) -> None:
    """Without a body, and with a length of 0 that says so, all that is left goes back, as documented."""
    payment = pay(shop, browser(buyer), shop.order(buyer))
    answer = browser(staff).generic("POST", f"/api/payments/{payment}/refunds", b"", "", CONTENT_LENGTH="0")
    assert (answer.status_code, answer.json()["amount"]) == (201, 1250)
    assert shop.count("refunds") == 1


def test_under_asgi_a_body_without_a_length_is_read(shop: Shop, buyer: User, staff: User) -> None:
    """There Django holds what has arrived, whatever was declared: a part stays a part, and a form is refused."""
    payment = pay(shop, browser(buyer), shop.order(buyer))

    def refund(raw: bytes, content_type: str) -> HttpResponse:
        headers = [(b"content-type", content_type.encode()), (b"transfer-encoding", b"chunked")]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
        request = ASGIRequest(scope, BytesIO(raw))
        request.user, request._dont_enforce_csrf_checks = staff, True
        return views.refund(request, payment_id=payment)

    assert is_problem(refund(FORM, MULTIPART), 415, "invalid_request")
    assert shop.count("refunds") == 0
    assert refund(b'{"amount": 250}', JSON).status_code == 201
    assert shop.count("refunds WHERE amount_minor = 250") == shop.count("refunds") == 1


def test_a_webhook_without_a_length_is_refused_and_not_taken_for_empty(shop: Shop) -> None:
    """The gateway hears what is missing, and nothing is kept."""
    answer = Post(JSON, b"{}", None, is_chunked=True).to(browser(None), "/webhooks/stripe")
    assert is_problem(answer, 411, "invalid_request")
    assert shop.count("inbox") == 0


def test_gateways_hear_where_news_of_a_payment_go(shop: Shop, buyer: User, settings: Any) -> None:
    """The webhook's address is the shop's own, also where a front end of another origin started the payment."""
    order = shop.order(buyer)
    for file in Path(settings.DATABASES["default"]["NAME"]).parent.glob("shop.db*"):
        file.chmod(0o600)  # A shop in public does not start over a file that everybody may read.
    there = {"PAIDONCE_PUBLIC_URL": "https://shop.example", "PAIDONCE_ALLOWED_ORIGINS": "https://front.example"}
    shop = Shop(settings, PAIDONCE_DEMO="0", **there)
    body = {"gateway": "stripe", "return_url": "https://front.example/done?payment={payment}"}
    answer = post(browser(buyer), f"/api/orders/{order}/payments", body)
    assert answer.status_code == 201, answer.content
    with connection.cursor() as cursor:
        cursor.execute("SELECT request FROM operations WHERE kind = 'create'")
        [(text,)] = cursor.fetchall()
    asked = json.loads(text)
    assert asked["webhook_url"] == "https://shop.example/webhooks/stripe"
    assert asked["return_url"].startswith("https://front.example/done?payment=pay_")


def test_below_a_path_the_gateway_hears_the_address_below_it(shop: Shop, buyer: User) -> None:
    """It once heard of `/webhooks/…` at the root, where nothing answered."""
    with override_settings(ROOT_URLCONF="contrib.django.prefixed"):
        answer = post(browser(buyer), f"/money/api/orders/{shop.order(buyer)}/payments", {"gateway": "stripe"})
    assert answer.status_code == 201, answer.content
    with connection.cursor() as cursor:
        cursor.execute("SELECT request FROM operations WHERE kind = 'create'")
        [(text,)] = cursor.fetchall()
    assert json.loads(text)["webhook_url"].endswith("/money/webhooks/stripe")


def test_a_method_that_is_not_there_names_the_others(shop: Shop, buyer: User) -> None:
    answer = browser(buyer).put("/api/payments/pay_00000000000000000000000000/refunds")
    assert is_problem(answer, 405, "invalid_request")
    assert answer["Allow"] == "GET, POST"


def test_text_that_is_no_id_never_reaches_the_database(shop: Shop, buyer: User) -> None:
    client = browser(buyer)
    for path_ in ("/api/payments/x/complete", "/api/orders/%00/payments", "/api/orders/a%20b/cancel"):
        assert is_problem(post(client, path_, {"gateway": "stripe"}), 404, "not_found")


def test_a_redirect_leads_back_to_the_shop_only(shop: Shop, buyer: User) -> None:
    order = shop.order(buyer)
    body = {"gateway": "stripe", "return_url": "https://evil.example/?payment={payment}"}
    assert is_problem(post(browser(buyer), f"/api/orders/{order}/payments", body), 422, "invalid_request")
    assert shop.count("payments") == 0


# ── Webhooks ──────────


def hand_over(client: Client, webhook: Any, *, body: bytes | None = None) -> Any:
    headers = {name: value for name, value in webhook.headers.items() if name.lower() != "content-type"}
    return client.generic("POST", "/webhooks/stripe", webhook.body if body is None else body, JSON, headers=headers)


def test_a_webhook_settles_and_needs_no_token(shop: Shop, buyer: User) -> None:
    order = shop.order(buyer)
    started = start(browser(buyer), order)
    shop.confirm(started["client"])
    client = browser(None, enforce_csrf_checks=True)
    outcomes = [hand_over(client, one).json()["outcome"] for one in shop.webhooks()]
    assert "new" in outcomes
    # Django's client closes the response as a server does, and the work is done then.
    assert Order.objects.get(pk=order).status == "paid"
    assert Product.objects.get(pk="MUG").stock == 9


def test_a_forged_webhook_leaves_nothing(shop: Shop, buyer: User, caplog: pytest.LogCaptureFixture) -> None:
    order = shop.order(buyer)
    shop.confirm(start(browser(buyer), order)["client"])
    with caplog.at_level(logging.WARNING):
        for one in shop.webhooks():
            assert is_problem(hand_over(browser(None), one, body=one.body + b" "), 400, "webhook_refused")
    assert is_problem(browser(None).post("/webhooks/nobody"), 404, "not_found")
    assert is_problem(browser(None).get("/webhooks/stripe"), 405, "invalid_request")
    assert shop.count("inbox") == 0
    assert Order.objects.get(pk=order).status != "paid"


def test_a_webhook_that_is_too_large_is_not_read(shop: Shop) -> None:
    answer = browser(None).generic("POST", "/webhooks/stripe", b"x" * (600 * 1024), JSON)
    assert is_problem(answer, 413, "invalid_request")
    assert shop.count("inbox") == 0


# ── In the host's hands ──────────


def test_atomic_requests_does_not_hold_for_our_views(shop: Shop, buyer: User, settings: Any) -> None:
    assert settings.DATABASES["default"]["ATOMIC_REQUESTS"] is True
    assert start(browser(buyer), shop.order(buyer))["status"] == "awaiting_buyer"
    for pattern in urls.urlpatterns:
        assert "default" in pattern.callback._non_atomic_requests, pattern


def test_every_address_of_the_fastapi_interface_is_here() -> None:
    """Health is the host's own business, and the built-in shop's accounts and orders are not here."""
    router = APIRouter()
    routes.add_payments(router)
    routes.add_machines(router)
    theirs = {
        (method, route.path) for route in router.routes if isinstance(route, APIRoute) for method in route.methods or ()
    }
    theirs -= {("GET", "/healthz"), ("GET", "/readyz")}
    ours = set()
    for pattern in urls.urlpatterns:
        address = "/" + str(pattern.pattern).replace("<str:", "{").replace(">", "}")
        ours |= {(method, address) for method in pattern.callback.methods}
    assert ours == theirs


def test_the_template_tag_says_what_the_components_need(shop: Shop, buyer: User) -> None:
    request = RequestFactory().get("/")
    request.csp_nonce = "n0nce"
    context = Context({"request": request, "order": Order(pk='a"b'), "page": "/orders/1/"})
    html = Template("{% load paidonce %}{% paidonce_components order next=page %}").render(context)
    assert 'order="a&quot;b"' in html
    assert 'data-next="/orders/1/"' in html
    assert 'data-csrf-header="X-CSRFTOKEN"' in html
    # The import map and two modules.
    assert html.count('nonce="n0nce"') == 3
    assert html.count(' integrity="sha384-') == 2
    assert 'src="/static/paidonce/payment-methods.js"' in html


@pytest.mark.parametrize("storage", ["StaticFilesStorage", "ManifestStaticFilesStorage"])
def test_the_hashes_are_those_of_the_files_that_are_served(
    shop: Shop, settings: Any, tmp_path: Path, storage: str
) -> None:
    """Collected under their own names, or renamed by a manifest, with comments and imports as that leaves them."""
    storages = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": f"django.contrib.staticfiles.storage.{storage}"},
    }
    with override_settings(STATIC_ROOT=tmp_path, STORAGES=storages):
        call_command("collectstatic", interactive=False, verbosity=0)
        integrity._collected.cache_clear()
        hashes = integrity.of_static_files().hashes
        named = [static(f"paidonce/{name}") for name in ("payment-methods.js", "gateways/stripe/component.js")]
    integrity._collected.cache_clear()
    served = {address: tmp_path / address.removeprefix("/static/") for address in hashes}
    assert {address: of_text(path.read_bytes()) for address, path in served.items()} == hashes
    # What is imported by its own name is covered as well.
    assert {*named, "/static/paidonce/paidonce.js"} <= hashes.keys()
    assert ("/static/paidonce/payment-methods.js" in named) is (storage == "StaticFilesStorage")


def test_a_policy_without_a_nonce_allows_the_import_map_by_its_hash(shop: Shop) -> None:
    html = Template("{% load paidonce %}{% paidonce_components 7 %}").render(
        Context({"request": RequestFactory().get("/")})
    )
    (inline,) = re.findall(r'<script type="importmap">(.*?)</script>', html)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in csp.sources()["script-src"]


def test_below_a_path_the_components_hear_where_the_api_is(shop: Shop) -> None:
    with override_settings(ROOT_URLCONF="contrib.django.prefixed"):
        context = Context({"request": RequestFactory().get("/")})
        html = Template("{% load paidonce %}{% paidonce_components 7 %}").render(context)
    assert 'order="7" api-base="/money"' in html
    assert "data-next" not in html


def test_payment_methods_name_modules_among_the_static_files(shop: Shop, buyer: User) -> None:
    from django.contrib.staticfiles import finders

    order = shop.order(buyer)
    methods = browser(buyer).get(f"/api/orders/{order}/payment-methods").json()["methods"]
    assert {one["gateway"] for one in methods} == set(shop.runtime.core.gateways)
    for one in methods:
        assert one["module"].startswith("/static/paidonce/gateways/")
        assert finders.find(one["module"].removeprefix("/static/")) is not None
    for name in ("paidonce/paidonce.js", "paidonce/payment-methods.js", "paidonce/django.js"):
        assert finders.find(name) is not None


def test_secrets_never_reach_the_log(shop: Shop, buyer: User, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        order = shop.order(buyer)
        started = start(browser(buyer), order)
        shop.confirm(started["client"])
        for one in shop.webhooks():
            hand_over(browser(None), one)
    assert started["client"]["client_secret"] not in caplog.text


# ── ASGI ──────────


def test_under_asgi_the_core_runs_in_threads(shop: Shop, buyer: User) -> None:
    order = shop.order(buyer)
    client = AsyncClient()

    async def main() -> tuple[int, list[HttpResponse]]:
        await client.aforce_login(buyer)
        body = json.dumps({"gateway": "stripe"})
        started = await client.post(f"/api/orders/{order}/payments", body, content_type=JSON)
        shop.confirm(started.json()["client"])
        path_ = f"/api/payments/{started.json()['id']}/complete"
        return started.status_code, [await client.post(path_, "{}", content_type=JSON) for _ in range(2)]

    status, answers = asyncio.run(main())
    assert status == 201
    assert [json.loads(one.content)["order_status"] for one in answers] == ["paid", "paid"]
    assert Product.objects.get(pk="MUG").stock == 9
    assert shop.captures() == 1
