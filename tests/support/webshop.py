"""The shop behind a real HTTP server on loopback, paying at the sandbox's twins, and clients that talk to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookies import Morsel
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from fastapi import FastAPI
from yarl import URL

from paidonce import serving
from paidonce.app import create_app
from paidonce.config import load_settings
from paidonce.deliveries import Subscriber
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.registry import configure_all
from paidonce.sandbox.app import SandboxTransport, sandbox_cores, sandbox_environment
from paidonce.web.seed import BUYER, STAFF
from support.quick import in_thread
from support.shop import SANDBOX_URL, ShiftedClock

SECRET_KEY = "test-key-that-is-long-enough-0123456789"


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str
    cookies: Mapping[str, Morsel[str]]

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    def is_problem(self, status: int, code: str) -> bool:
        """Whether this is a problem document with all its members and nothing internal in it."""
        assert self.headers["Content-Type"] == "application/problem+json", self.text
        body = self.json
        assert {"type", "title", "status", "detail", "code"} <= body.keys()
        assert body["status"] == self.status
        assert not [word for word in ("Traceback", "sqlite", "asyncpg", "SELECT", "site-packages") if word in self.text]
        return (self.status, body["code"]) == (status, code)


class Client:
    """A browser's HTTP side: it keeps cookies, follows no redirect, and raises for nothing."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, self.url + path, allow_redirects=False, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.text(), dict(answer.cookies))

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def page(self, path: str) -> Answer:
        return await self.get(path, headers={"accept": "text/html"})

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.request("POST", path, json=body, **options)

    async def form(self, path: str, **fields: str) -> Answer:
        return await self.request("POST", path, data=fields, headers={"accept": "text/html"})

    def set_cookies(self, **cookies: str) -> None:
        """Plant cookies, as an attacker might."""
        self.session.cookie_jar.update_cookies(cookies, URL(self.url))

    async def sign_in(self, email: str = BUYER.email, password: str = BUYER.password) -> Answer:
        return await self.post("/api/session", {"email": email, "password": password})

    async def sign_in_as_staff(self) -> Answer:
        return await self.sign_in(STAFF.email, STAFF.password)

    async def sign_up(self, email: str) -> Answer:
        return await self.post("/api/users", {"email": email, "name": "Some One", "password": "a-long-password"})

    async def order(self, sku: str = "MUG-01", quantity: int = 1) -> Any:
        answer = await self.post("/api/orders", {"lines": [{"sku": sku, "quantity": quantity}]})
        assert answer.status == 201, answer.text
        return answer.json

    async def start(self, order_id: str, gateway: str) -> Any:
        answer = await self.post(f"/api/orders/{order_id}/payments", {"gateway": gateway})
        assert answer.status in {200, 201}, answer.text
        return answer.json

    async def complete(self, payment_id: str) -> Answer:
        return await self.post(f"/api/payments/{payment_id}/complete", {})


@dataclass
class WebShop:
    """A running shop."""

    app: FastAPI
    url: str
    clock: ShiftedClock
    twins: dict[str, Any]

    def client(self) -> Client:
        return Client(self.url)

    def confirm(self, client: Mapping[str, str], *, card: str = "pm_card_visa") -> HttpResponse:
        """The buyer's browser confirms at Stripe with the client values it was given."""
        secret = client["client_secret"]
        form = {"client_secret": secret, "payment_method": card, "return_url": f"{self.url}/return"}
        headers = {
            "authorization": f"Bearer {client['publishable_key']}",
            "content-type": "application/x-www-form-urlencoded",
        }
        path = f"/v1/payment_intents/{secret.split('_secret_')[0]}/confirm"
        request = HttpRequest("POST", path, headers, urlencode(form).encode())
        answer: HttpResponse = self.twins["stripe"].handle(request, now=self.clock.now())
        return answer

    def approve(self, client: Mapping[str, str], *, funding: str = "balance") -> None:
        """The buyer agrees at PayPal."""
        self.twins["paypal"].approve(client["order_id"], now=self.clock.now(), funding=funding)

    def agree(self, started: Mapping[str, Any]) -> None:
        """The buyer agrees, whichever gateway it is."""
        if started["gateway"] == "stripe":
            assert self.confirm(started["client"]).status == 200
        else:
            self.approve(started["client"])


@contextmanager
def running_shop(
    database_url: str, *, subscribers: Mapping[str, Subscriber] | None = None, **changes: str
) -> Iterator[WebShop]:
    """A shop on a free port with both gateways; `changes` are settings."""
    clock = ShiftedClock()
    twins = dict(sandbox_cores(SANDBOX_URL))
    transport = SandboxTransport(twins, clock, SANDBOX_URL)
    gateways = configure_all(sandbox_environment(SANDBOX_URL), transport, clock)
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        environment = {
            "PAIDONCE_DATABASE_URL": database_url,
            "PAIDONCE_SECRET_KEY": SECRET_KEY,
            "PAIDONCE_PUBLIC_URL": url,
            # Tests say themselves when time does its work.
            "PAIDONCE_WORKER": "0",
            **changes,
        }
        app = create_app(
            load_settings(environment), gateways=gateways, clock=clock, environment=environment, subscribers=subscribers
        )
        with in_thread(app, listener):
            yield WebShop(app, url, clock, twins)
