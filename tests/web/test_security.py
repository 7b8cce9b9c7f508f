"""Sessions, foreign sites, guessing: what keeps one buyer's things from everybody else."""

from __future__ import annotations

import pytest

from paidonce.ports import SECOND
from paidonce.web.accounts import User, hash_token
from paidonce.web.auth import current_user
from support.webshop import Client, WebShop, running_shop


def token_of(client: Client) -> str:
    return next(cookie.value for cookie in client.session.cookie_jar if cookie.key.endswith("paidonce_session"))


async def test_signing_in_makes_a_new_token_and_ends_the_old_one(shop: WebShop) -> None:
    async with shop.client() as client, shop.client() as thief:
        client.set_cookies(paidonce_session="planted-token")
        answer = await client.sign_in()
        first = token_of(client)
        cookie = answer.cookies["paidonce_session"]
        assert first != "planted-token"
        assert len(first) >= 43, "256 bits"
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "lax", "/")
        assert answer.json.keys() == {"id", "email", "name", "role"}
        await client.sign_in()
        assert token_of(client) != first
        thief.set_cookies(paidonce_session=first)
        assert (await thief.get("/api/orders")).status == 401
        assert (await client.get("/api/orders")).status == 200


async def test_signing_out_ends_the_session_on_the_server(shop: WebShop) -> None:
    async with shop.client() as client, shop.client() as thief:
        await client.sign_in()
        thief.set_cookies(paidonce_session=token_of(client))
        assert (await thief.get("/api/orders")).status == 200
        assert (await client.request("DELETE", "/api/session")).status == 204
        assert (await thief.get("/api/orders")).status == 401
        assert (await client.request("DELETE", "/api/session")).status == 204, "safe to repeat"


async def test_a_session_expires_however_much_it_is_used(shop: WebShop) -> None:
    hour = 3600 * SECOND
    async with shop.client() as client:
        await client.sign_in()
        for _ in range(15):
            shop.clock.shift += 11 * hour
            assert (await client.get("/api/orders")).status == 200
        shop.clock.shift += 3 * hour - 60 * SECOND
        assert (await client.get("/api/orders")).status == 200
        shop.clock.shift += 61 * SECOND
        assert (await client.get("/api/orders")).status == 401


async def test_the_database_keeps_no_token_and_no_password(shop: WebShop) -> None:
    async with shop.client() as client:
        await client.sign_in()
        token = token_of(client)
    core = shop.app.state.paidonce.running

    async def everything(tx: object) -> list[object]:
        rows = [*await tx.fetch_all("SELECT * FROM sessions"), *await tx.fetch_all("SELECT * FROM users")]  # type: ignore[attr-defined]
        return [value for row in rows for value in dict(row).values()]

    kept = await core.db.read(everything) if core.db.dialect == "sqlite" else []
    if kept:
        assert hash_token(token) in kept
        assert not [value for value in kept if token in str(value) or "buyer-password" in str(value)]
        assert [value for value in kept if str(value).startswith("$argon2id$")]


async def test_a_wrong_password_and_an_unknown_address_read_the_same(shop: WebShop) -> None:
    async with shop.client() as client:
        wrong = await client.sign_in(password="not-the-password")
        unknown = await client.sign_in(email="nobody@example.com")
        assert wrong.is_problem(401, "not_signed_in")
        assert wrong.text == unknown.text
        assert not wrong.cookies


async def test_guessing_is_bounded_and_a_right_password_does_not_end_the_bound_of_others(shop: WebShop) -> None:
    async with shop.client() as client:
        for _ in range(8):
            assert (await client.sign_in(password="guess")).status == 401
        refused = await client.sign_in()
        assert refused.is_problem(429, "too_many_attempts")
        assert refused.json["retry_after"] == int(refused.headers["Retry-After"]) > 0
        assert (await client.sign_in_as_staff()).status == 201, "another account is not locked out"
        shop.clock.shift += 15 * 60 * SECOND + SECOND
        assert (await client.sign_in()).status == 201


async def test_an_address_can_have_one_account_only(shop: WebShop) -> None:
    async with shop.client() as client:
        answer = await client.sign_up(" Buyer@Example.com ")
        assert answer.is_problem(422, "invalid_request")
        assert not answer.cookies


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1.evil.example"},
    {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_what_another_site_makes_a_browser_send_is_refused(quick_shop: WebShop, headers: dict[str, str]) -> None:
    async with quick_shop.client() as client:
        await client.sign_in()
        order = await client.order()
        for path in (f"/api/orders/{order['id']}/cancel", f"/orders/{order['id']}/cancel", "/sign-out"):
            answer = await client.request("POST", path, headers=headers)
            assert answer.is_problem(403, "forbidden"), path
        deleted = await client.request("DELETE", "/api/session", headers=headers)
        assert deleted.status == 403
        assert (await client.get(f"/api/orders/{order['id']}")).json["status"] == "open"
        assert (await client.get("/api/orders", headers=headers)).status == 200, "reading changes nothing"


async def test_the_shops_own_pages_may_write(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        for headers in ({"sec-fetch-site": "same-origin"}, {"origin": quick_shop.url}, {}):
            answer = await client.post(
                "/api/session", {"email": "buyer@example.com", "password": "buyer-password"}, headers=headers
            )
            assert answer.status == 201


async def test_the_api_takes_json_only(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        await client.sign_in()
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            body = b'{"lines": [{"sku": "MUG-01", "quantity": 1}]}'
            answer = await client.request("POST", "/api/orders", data=body, headers={"content-type": kind})
            assert answer.is_problem(415, "invalid_request")
        assert (await client.get("/api/orders")).json == []


async def test_over_https_cookies_are_secure_and_addresses_are_the_public_one(seeded_url: str) -> None:
    with running_shop(seeded_url, PAIDONCE_PUBLIC_URL="https://shop.example") as shop:
        async with shop.client() as client:
            answer = await client.post(
                "/api/session",
                {"email": "buyer@example.com", "password": "buyer-password"},
                headers={"host": "127.0.0.1", "origin": "https://shop.example"},
            )
            assert answer.status == 201
            assert answer.cookies["__Host-paidonce_session"]["secure"]
            assert answer.headers["Strict-Transport-Security"].startswith("max-age=63072000")
            cookie = {"cookie": f"__Host-paidonce_session={answer.cookies['__Host-paidonce_session'].value}"}
            order = await client.post("/api/orders", {"lines": [{"sku": "MUG-01", "quantity": 1}]}, headers=cookie)
            page = await client.get(
                f"/orders/{order.json['id']}/pay",
                headers={**cookie, "host": "127.0.0.1", "accept": "text/html"},
            )
            assert f"https://shop.example/orders/{order.json['id']}/return?payment={{payment}}" in page.text
            assert shop.url not in page.text
            slash = await client.get("/orders/", headers={"host": "127.0.0.1"})
            assert slash.status == 404
            assert "Location" not in slash.headers


async def test_a_host_application_brings_its_own_sign_in(quick_shop: WebShop) -> None:
    quick_shop.app.dependency_overrides[current_user] = lambda: User("host_user_1", "h@example.com", "Host", "buyer")
    async with quick_shop.client() as client:
        order = await client.order()
        started = await client.start(order["id"], "paypal")
        quick_shop.agree(started)
        assert (await client.complete(started["id"])).json["order_status"] == "paid"


async def test_a_forged_basket_or_message_is_ignored(quick_shop: WebShop) -> None:
    async with quick_shop.client() as client:
        await client.form("/basket/add", sku="MUG-01", quantity="2")
        real = next(cookie.value for cookie in client.session.cookie_jar if cookie.key == "paidonce_basket")
        body, mac = real.split(".")
        for forged in (f"{body}.AAAA", f"{body[:-2]}AA.{mac}", "x", body, ".", f"{mac}.{body}"):
            client.set_cookies(paidonce_basket=forged, paidonce_flash=real)
            page = await client.page("/basket")
            assert page.status == 200
            assert "Nothing in it yet" in page.text


@pytest.mark.parametrize(
    "target", ["//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "evil", "/%0a/\n//x"]
)
async def test_signing_in_never_leads_to_another_site(quick_shop: WebShop, target: str) -> None:
    async with quick_shop.client() as client:
        page = await client.get("/sign-in", params={"next": target}, headers={"accept": "text/html"})
        assert 'name="next" value="/"' in page.text
        answer = await client.form("/sign-in", email="buyer@example.com", password="buyer-password", next=target)
        assert (answer.status, answer.headers["Location"]) == (303, "/")
