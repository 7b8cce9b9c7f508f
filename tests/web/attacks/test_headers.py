"""The headers that keep other sites, foreign scripts and frames out, on whatever this server answers."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from paidonce.gateways.registry import configure_all
from paidonce.ports import SystemClock
from paidonce.web import mount, routes, security
from paidonce.web.auth import current_user
from support.browsershop import Twins, production_environment
from support.shop import SANDBOX_URL
from support.webshop import Answer, Client, WebShop, running_shop

FRONT_END = "https://www.shop.example"

NO_PAGE = "default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
PAGE = (
    "default-src 'none'; script-src 'nonce-…'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# In the sandbox all gateways are one server.
PAY_PAGE = (
    f"default-src 'none'; script-src 'nonce-…' {SANDBOX_URL}; style-src 'self' {SANDBOX_URL}; "
    f"img-src 'self' {SANDBOX_URL}; connect-src 'self' {SANDBOX_URL}; form-action 'self'; object-src 'none'; "
    f"base-uri 'none'; frame-ancestors 'none'; frame-src {SANDBOX_URL}; child-src {SANDBOX_URL}"
)
NO_FEATURES = "payment=(), camera=(), geolocation=(), microphone=(), usb=()"
ALWAYS = {
    "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "strict-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
}
# Whatever else is sent: a header that nobody thought of is a drift as well.
OTHERS = {
    *(
        "Accept-Ranges",
        "Allow",
        "Cache-Control",
        "Connection",
        "Content-Length",
        "Content-Type",
        "Date",
        "Etag",
        "Last-Modified",
    ),
    *("Location", "Retry-After", "Set-Cookie", "Vary", "X-Request-Id"),
    *(f"Access-Control-Allow-{what}" for what in ("Credentials", "Headers", "Methods", "Origin")),
    *("Access-Control-Expose-Headers", "Access-Control-Max-Age"),
}


def table() -> list[tuple[str, str]]:
    """Every method and path that is served, each also with a method that it does not take."""
    found = [route for router in (routes.api_router(), routes.page_router()) for route in router.routes]
    served = [(method, route.path) for route in found if isinstance(route, APIRoute) for method in route.methods or ()]
    # What ends the very session that the others need comes last.
    return sorted(set(served) | {("PUT", path) for _, path in served}, key=lambda one: (_ends_sessions(*one), one))


def _ends_sessions(method: str, path: str) -> bool:
    return method != "PUT" and ("sign-out" in path or (method == "DELETE" and "session" in path))


@pytest.fixture(scope="module")
def https_shop(seeded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebShop]:
    """One shop for the whole module, which buyers reach by https."""
    path = tmp_path_factory.mktemp("headers") / "paidonce.db"
    shutil.copy(seeded_sqlite, path)
    with running_shop(
        f"sqlite:///{path}", PAIDONCE_PUBLIC_URL="https://shop.example", PAIDONCE_ALLOWED_ORIGINS=FRONT_END
    ) as shop:
        yield shop


class Visitor:
    """A client whose secure cookies are sent by plain http as well, since the proxy before the server is missing."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cookie: dict[str, str] = {}

    async def sign_in(self, *, staff: bool = False) -> None:
        answer = await (self._client.sign_in_as_staff() if staff else self._client.sign_in())
        self._cookie = {"cookie": "; ".join(f"{name}={one.value}" for name, one in answer.cookies.items())}

    async def __call__(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"accept": "text/html", **self._cookie, **options.pop("headers", {})}
        return await self._client.request(method, path, headers=headers, **options)


@pytest.fixture
async def visitor(https_shop: WebShop) -> AsyncIterator[Visitor]:
    """Somebody who is not signed in yet."""
    async with https_shop.client() as client:
        yield Visitor(client)


def without_nonce(policy: str) -> str:
    return re.sub(r"'nonce-[A-Za-z0-9_-]{22}'", "'nonce-…'", policy)


def assert_guarded(answer: Answer, *, policy: str | None = None, features: str = NO_FEATURES) -> None:
    """Exactly the headers that belong there, with exactly their values."""
    is_page = answer.headers.get("Content-Type", "").startswith("text/html")
    expected = policy or (PAGE if is_page else NO_PAGE)
    assert without_nonce(answer.headers["Content-Security-Policy"]) == expected
    assert answer.headers["Permissions-Policy"] == features
    assert {name: answer.headers.get(name) for name in ALWAYS} == ALWAYS
    known = {*ALWAYS, *OTHERS, "Content-Security-Policy", "Permissions-Policy"}
    assert {name.title() for name in answer.headers} <= {name.title() for name in known}
    assert all(len(answer.headers.getall(name)) == 1 for name in {*answer.headers} - {"Set-Cookie"})  # type: ignore[attr-defined]
    kept = "public, no-cache" if answer.headers.get("Etag") else "no-store"
    assert answer.headers["Cache-Control"] == kept


@pytest.mark.parametrize("who", ["nobody", "buyer", "staff"])
async def test_no_header_drifts_on_any_route(visitor: Visitor, who: str) -> None:
    if who != "nobody":
        await visitor.sign_in(staff=who == "staff")
    statuses = set()
    for method, path in table():
        answer = await visitor(method, re.sub(r"\{\w+\}", "ord_00000000000000000000000000", path))
        assert_guarded(answer)
        statuses.add(answer.status)
    assert {401, 404, 405, 422} <= statuses or who != "nobody"
    assert 200 in statuses
    assert max(statuses) < 500


async def test_no_header_drifts_on_refusals_redirects_and_files(visitor: Visitor) -> None:
    long = {"content-type": "application/json"}
    asset = await visitor("GET", "/assets/paidonce.js")
    answers = {
        "an asset": (asset, 200),
        "an asset that is known": (
            await visitor("GET", "/assets/paidonce.js", headers={"if-none-match": asset.headers["Etag"]}),
            304,
        ),
        "a picture": (await visitor("GET", "/assets/favicon.svg"), 200),
        "no asset": (await visitor("GET", "/assets/nothing.js"), 404),
        "an asset's neighbour": (await visitor("GET", "/assets/..%2ftemplates/base.html"), 404),
        "the description": (await visitor("GET", "/openapi.json"), 200),
        "nothing": (await visitor("GET", "/nothing"), 404),
        "nothing for programs": (await visitor("GET", "/nothing", headers={"accept": "application/json"}), 404),
        "a head": (await visitor("HEAD", "/"), 200),
        "to the sign-in": (await visitor("GET", "/orders"), 303),
        "an address that is cleaned": (await visitor("GET", "/orders/x/return?payment=1&secret=2"), 303),
        "too much": (await visitor("POST", "/api/orders", data=b" " * 70_000, headers=long, expect100=True), 413),
        "no JSON": (await visitor("POST", "/api/orders", data=b"a=1"), 415),
        "no JSON at all": (await visitor("POST", "/api/orders", data=b"{", headers=long), 422),
        "another site": (await visitor("POST", "/sign-in", headers={"sec-fetch-site": "cross-site"}), 403),
        "another host": (await visitor("GET", "/", headers={"host": "evil.example"}), 421),
        "an unsigned webhook": (await visitor("POST", "/webhooks/stripe", data=b"{}"), 400),
        "a strange method": (await visitor("PROPFIND", "/"), 405),
    }
    for name, (answer, status) in answers.items():
        assert answer.status == status, name
        assert_guarded(answer)


async def test_no_header_drifts_where_a_front_end_asks(visitor: Visitor) -> None:
    asking = {"origin": FRONT_END, "access-control-request-method": "POST"}
    allowed = await visitor("OPTIONS", "/api/orders", headers=asking)
    assert (allowed.status, allowed.headers["Access-Control-Allow-Origin"]) == (204, FRONT_END)
    refused = await visitor("OPTIONS", "/api/orders", headers=asking | {"origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in refused.headers
    for answer in (allowed, refused):
        assert_guarded(answer)


async def test_no_header_drifts_on_an_unexpected_error(https_shop: WebShop, visitor: Visitor) -> None:
    async def broken() -> None:
        raise RuntimeError("canary")

    https_shop.app.dependency_overrides[current_user] = broken
    try:
        answers = [
            await visitor("GET", "/"),
            await visitor("GET", "/api/orders", headers={"accept": "application/json"}),
        ]
    finally:
        https_shop.app.dependency_overrides.clear()
    for answer in answers:
        assert answer.status == 500
        assert "canary" not in answer.text
        assert_guarded(answer)


async def test_only_the_pay_page_is_opened_and_only_for_its_gateways(visitor: Visitor) -> None:
    await visitor.sign_in()
    order = (await visitor("POST", "/api/orders", json={"lines": [{"sku": "MUG-01", "quantity": 1}]})).json["id"]
    paying = await visitor("GET", f"/orders/{order}/pay")
    assert paying.status == 200
    features = NO_FEATURES.replace("payment=()", f'payment=(self "{SANDBOX_URL}")')
    assert_guarded(paying, policy=PAY_PAGE, features=features)
    beside = await visitor("GET", f"/orders/{order}")
    assert beside.status == 200
    assert_guarded(beside)


async def test_a_nonce_is_used_once_and_every_script_of_ours_carries_it(visitor: Visitor) -> None:
    await visitor.sign_in()
    order = (await visitor("POST", "/api/orders", json={"lines": [{"sku": "MUG-01", "quantity": 1}]})).json["id"]
    seen = set()
    for path in (f"/orders/{order}/pay", f"/orders/{order}/pay", "/", "/nothing"):
        page = await visitor("GET", path)
        (nonce,) = re.findall(r"'nonce-([^']+)'", page.headers["Content-Security-Policy"])
        seen.add(nonce)
        tags = re.findall(r"<script\b[^>]*>", page.text)
        assert all(f' nonce="{nonce}"' in tag for tag in tags)
        assert all("sha384-" in tag for tag in tags if "src=" in tag)
        assert all("sha384-" in tag for tag in re.findall(r'<link rel="stylesheet"[^>]*>', page.text))
        assert not re.search(r"\bon[a-z]+=[\"']|\bstyle=|javascript:", page.text), "nothing inline"
    assert len(seen) == 4


async def test_in_development_no_browser_is_bound_to_https(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        answer = await client.page("/")
    assert answer.status == 200
    assert "Strict-Transport-Security" not in answer.headers


def test_each_gateway_alone_opens_the_page_for_what_it_needs_and_no_more() -> None:
    """At their production addresses, as the gateways' own guides have it."""
    parts = mount.components(configure_all(production_environment(), Twins(), SystemClock()))
    policies = {name: security.content_security_policy(["'nonce-1'"], part.csp) for name, part in parts.items()}
    assert "unsafe" not in str(policies)
    sources = {name: _beside_ours(policy) for name, policy in policies.items()}
    stripe, paypal = "https://js.stripe.com https://*.js.stripe.com", "https://*.paypal.com https://*.paypalobjects.com"
    assert sources["stripe"] == {
        "script-src": stripe,
        "frame-src": f"{stripe} https://hooks.stripe.com",
        "connect-src": "https://api.stripe.com",
        "img-src": "https://*.stripe.com",
    }
    assert sources["paypal"] == dict.fromkeys(
        ("script-src", "frame-src", "child-src", "connect-src", "img-src", "style-src"), paypal
    )
    assert [name for name, opened in sources.items() if opened] == ["paypal", "stripe"], "redirects need nothing"


def _beside_ours(policy: str) -> dict[str, str]:
    ours = ("'self' ", "'nonce-1' ")
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    opened = {name: value for name, value in directives.items() if "https://" in value}
    return {name: value.removeprefix(ours[0]).removeprefix(ours[1]) for name, value in opened.items()}
