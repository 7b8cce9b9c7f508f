"""Addresses that lead out of the shop, in every place that takes an address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import pytest

from paidonce.web.views import is_local
from support.webshop import Answer, Client, WebShop, running_shop

# What browsers read as another site, though it does not begin like one.
ELSEWHERE = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/\r\n//evil.example",
    "/\u2028/evil.example",
    "/\x00/evil.example",
    "https://evil.example",
    "https:evil.example",
    "HTTPS:\\\\evil.example",
    "http:/evil.example",
    "javascript:alert(1)",
    "data:text/html,evil",
    "evil.example",
    "",
]
# These stay: browsers read the first as a path of the shop, and nobody decodes the others a second time.
HERE = ["/..//evil.example", "/%2fevil.example", "/%5cevil.example", "/orders?back=https://evil.example"]


@pytest.fixture(scope="module")
def open_shop(seeded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebShop]:
    """One shop for the whole module."""
    path = tmp_path_factory.mktemp("redirects") / "paidonce.db"
    shutil.copy(seeded_sqlite, path)
    with running_shop(f"sqlite:///{path}", PAIDONCE_ALLOWED_ORIGINS="https://www.shop.example") as shop:
        yield shop


def target(answer: Answer) -> str:
    assert answer.status == 303, answer.text
    location: str = answer.headers["Location"]
    assert not urlsplit(location).netloc
    return location


async def sign_in_by_form(client: Client, after: str) -> Answer:
    return await client.form("/sign-in", email="buyer@example.com", password="buyer-password", next=after)


async def test_no_sign_in_leads_to_another_site(open_shop: WebShop) -> None:
    async with open_shop.client() as client:
        for wanted in ELSEWHERE:
            for path in ("/sign-in", "/sign-up"):
                page = await client.get(path, params={"next": wanted}, headers={"accept": "text/html"})
                assert 'name="next" value="/"' in page.text, wanted
                assert "evil.example" not in page.text, wanted
        assert target(await sign_in_by_form(client, "//evil.example")) == "/"
        # Whoever is signed in is led on at once.
        for wanted in ELSEWHERE:
            for path in ("/sign-in", "/sign-up"):
                led = await client.get(path, params={"next": wanted}, headers={"accept": "text/html"})
                assert target(led) == "/", wanted
        for wanted in HERE:
            led = await client.get("/sign-in", params={"next": wanted}, headers={"accept": "text/html"})
            assert target(led) == wanted


async def test_no_form_leads_to_another_site(open_shop: WebShop) -> None:
    account = {"email": "led@example.com", "name": "B", "password": "a-long-password-of-mine"}
    async with open_shop.client() as client:
        for wanted in ("//evil.example", "/\\evil.example", "/\t/evil.example", "https://evil.example"):
            # Refused by its address, and the target is kept for the next try.
            page = await client.form("/sign-up", **{**account, "email": "buyer@example.com"}, next=wanted)
            assert page.status == 422
            assert 'name="next" value="/"' in page.text, wanted
        assert target(await client.form("/sign-up", **account, next="/\\evil.example")) == "/"


@pytest.mark.parametrize("path", ["/orders//evil.example/return", "/orders/%5cevil.example/return", "//evil.example"])
async def test_no_path_becomes_another_site(open_shop: WebShop, path: str) -> None:
    """A redirect that repeats the path of the request would lead to wherever the path looks like."""
    async with open_shop.client() as client:
        for query in ("", "?payment=//evil.example", "?payment=%0d%0aLocation:%20https://evil.example"):
            answer = await client.page(path + query)
            location = answer.headers.get("Location", "")
            assert urlsplit(urljoin(f"{open_shop.url}{path}", location)).netloc == urlsplit(open_shop.url).netloc
            assert location == "" or location.startswith("?payment=")


async def test_no_gateway_is_told_to_bring_the_buyer_to_another_site(open_shop: WebShop) -> None:
    behind = "?payment={payment}"
    origin = open_shop.url
    wrong = [*(one + behind for one in ELSEWHERE), *(one + behind for one in HERE)]
    wrong += [
        f"{origin}.evil.example/{behind}",
        f"{origin}@evil.example/{behind}",
        f"{origin}\\@evil.example/{behind}",
        f"https://evil.example/{quote(origin, safe='')}{behind}",
        f"https://www.shop.example.evil.example/{behind}",
        f"https://www.shop.example:444/{behind}",
        f"{origin}/ok?next=1#{behind}",
    ]
    async with open_shop.client() as client:
        await client.sign_in()
        order = (await client.order())["id"]
        for url in wrong:
            body = {"gateway": "stripe", "return_url": url}
            refused = await client.post(f"/api/orders/{order}/payments", body)
            assert refused.is_problem(422, "invalid_request"), url
        assert (await client.get(f"/api/orders/{order}")).json["payments"] == []


def test_what_stays_in_the_shop_is_told_from_what_does_not() -> None:
    assert [one for one in ELSEWHERE if is_local(one)] == []
    assert [one for one in HERE if not is_local(one)] == []
