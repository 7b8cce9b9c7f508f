"""Hosts' own sign-in: the same doors behind a host's `current_user`, a bearer token, and the built-in accounts.

docs/sign-in.md tells all three. Tokens are forged here in every way that libraries have fallen for.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import Request

from conftest import run_apart
from paidonce import Actor
from paidonce.errors import ConfigError
from paidonce.web.bearer import BearerJwt
from paidonce.web.seed import BUYER, STAFF
from support.sessions import Doors, doors, hosted
from support.webshop import Answer, Client

SHARED = "a-shared-key-of-the-sign-in-service-0123456789"
AUDIENCE, ISSUER = "shop.example", "https://id.example"
FRONT_END = "https://front.example"
STRANGER = "stranger@example.com"


def _pem(key: Any) -> str:
    return str(
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


SIGNING, ANOTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
PUBLIC = _pem(SIGNING)


def may_refund(claims: Mapping[str, Any]) -> bool:
    return "payments-staff" in claims.get("roles", ())


BEARER = BearerJwt(PUBLIC, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER, staff=may_refund)


def claims(user: str, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"sub": user, "exp": now + 300, "iat": now, "aud": AUDIENCE, "iss": ISSUER, **changes}
    return {name: value for name, value in made.items() if value is not None}


def token(user: str, **changes: Any) -> str:
    return jwt.encode(claims(user, **changes), SIGNING, algorithm="ES256")


def as_header(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def who_asks(request: Request) -> Actor | None:
    """A host's own sign-in, here by a header of its own."""
    user, roles = request.headers.get("x-user"), request.headers.get("x-roles", "")
    return None if user is None else Actor(user, "staff" in roles, confirmed="confirmed" in roles)


# ── Three shops on one database ──────────


@dataclass
class Town:
    """The built-in shop, and two hosts that have their own sign-in; the buyer's paid payment is in all of them."""

    doors: Doors
    hosted: str
    bearer: str
    payment: str
    users: dict[str, str]


@pytest.fixture(scope="module")
def town(seeded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    host = {"PAIDONCE_SECOND_LOOK_ABOVE": "0 EUR", "PAIDONCE_ALLOWED_ORIGINS": FRONT_END}
    for here in doors(seeded_sqlite, tmp_path_factory.mktemp("sign-in")):
        payment, users = run_apart(lambda here=here: _pay(here))  # type: ignore[misc]
        with hosted(here, who_asks, **host) as (own, _), hosted(here, BEARER, **host) as (bearer, _):
            yield Town(here, own, bearer, payment, users)


async def _pay(here: Doors) -> tuple[str, dict[str, str]]:
    await here.add_account(STRANGER)
    async with here.client(BUYER.email) as buyer:
        order = await buyer.order("TEA-01")
        started = await buyer.start(order["id"], "paypal")
        here.shop.agree(started)
        assert (await buyer.complete(started["id"])).json["order_status"] == "paid"
    rows = await here.rows("SELECT id, email FROM users")
    return started["id"], {row["email"]: row["id"] for row in rows}


async def _visit(town: Town, way: str, email: str | None) -> tuple[Client, dict[str, str]]:
    """A client of one of the three shops, and what its user sends along."""
    user, is_staff = town.users.get(email or ""), email == STAFF.email
    if way == "built-in":
        return (town.doors.holding(await town.doors.mint(email)) if email else town.doors.shop.client()), {}
    url = town.bearer if way == "bearer" else town.hosted
    if user is None:
        return Client(url), {}
    if way == "bearer":
        return Client(url), as_header(token(user, roles=["payments-staff"] if is_staff else None))
    return Client(url), {"x-user": user, "x-roles": "staff" if is_staff else ""}


@pytest.mark.parametrize("way", ["hosts own", "bearer", "built-in"])
async def test_whoever_signs_in_somehow_finds_the_same_doors(town: Town, way: str) -> None:
    """The payment is its buyer's; a stranger finds nothing, nobody is asked to sign in, and refunds are for staff."""
    expected = {BUYER.email: (200, 403), STRANGER: (404, 403), None: (401, 401), STAFF.email: (404, 409)}
    for email, outcome in expected.items():
        assert await _ask(*await _visit(town, way, email), town.payment) == outcome, email


async def _ask(client: Client, headers: dict[str, str], payment: str) -> tuple[int, int]:
    async with client:
        seen = await client.get(f"/api/payments/{payment}", headers=headers)
        too_much = {"amount": 10**9}
        refund = await client.post(f"/api/payments/{payment}/refunds", too_much, headers=headers)
        return seen.status, refund.status


# ── Bearer tokens ──────────


async def _with(town: Town, header: str | list[str]) -> Answer:
    values = [header] if isinstance(header, str) else header
    async with Client(town.bearer) as client:
        sent = [("Authorization", value) for value in values]
        return await client.get(f"/api/payments/{town.payment}", headers=sent)


def _unsigned(payload: Mapping[str, Any], algorithm: str) -> str:
    parts = ({"alg": algorithm, "typ": "JWT"}, payload)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


def _signed_with_the_public_key(payload: Mapping[str, Any]) -> str:
    """The public key as a shared secret, which everybody has: a confusion of keys."""
    body = _unsigned(payload, "HS256")
    mac = hmac.new(PUBLIC.encode(), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def _with_a_key_of_its_own(user: str) -> str:
    """The token brings the key along that it wants to be checked by."""
    own = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ANOTHER.public_key()))
    return jwt.encode(claims(user), ANOTHER, algorithm="ES256", headers={"jwk": own, "kid": "../../dev/null"})


def _tampered(user: str) -> str:
    head, _, signature = token("usr_somebody").split(".")
    return f"{head}.{_unsigned(claims(user), 'ES256').split('.')[1]}.{signature}"


FORGED: dict[str, Callable[[str], str]] = {
    "no algorithm": lambda user: _unsigned(claims(user), "none") + ".",
    "no algorithm, but something behind it": lambda user: _unsigned(claims(user), "none") + ".AAAA",
    "none in other letters": lambda user: _unsigned(claims(user), "nOnE") + ".AAAA",
    "signed with the public key": lambda user: _signed_with_the_public_key(claims(user)),
    "signed by another key": lambda user: jwt.encode(claims(user), ANOTHER, algorithm="ES256"),
    "brings its own key": _with_a_key_of_its_own,
    "another algorithm": lambda user: jwt.encode(claims(user), SHARED, algorithm="HS256"),
    "another user's signature": _tampered,
    "expired": lambda user: token(user, exp=int(time.time()) - 60),
    "never expires": lambda user: token(user, exp=None),
    "not yet": lambda user: token(user, nbf=int(time.time()) + 60),
    "issued in the future": lambda user: token(user, iat=int(time.time()) + 60),
    "for another shop": lambda user: token(user, aud="other.example"),
    "for no shop": lambda user: token(user, aud=None),
    "by another service": lambda user: token(user, iss="https://id.example.evil"),
    "by nobody": lambda user: token(user, iss=None),
    "about nobody": lambda user: token(user, sub=None),
    "about an empty name": lambda _user: token(""),
    "expires at the end of time": lambda user: token(user, exp=float("inf")),
    "expires some day": lambda user: token(user, exp="some day"),
    "a header without a bottom": lambda _user: base64.urlsafe_b64encode(b"[" * 5700).decode().rstrip("=") + ".e30.AAAA",
    "nothing of the kind": lambda _user: "a.b.c",
}


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_or_outdated_token_is_nobody(town: Town, kind: str) -> None:
    answer = await _with(town, f"Bearer {FORGED[kind](town.users[BUYER.email])}")
    assert answer.is_problem(401, "not_signed_in")


@pytest.mark.parametrize("issuer", ["", "https://id.", [ISSUER]])
async def test_an_issuer_is_compared_as_a_whole_whatever_the_library_believes(
    issuer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyJWT 2.10.0 took a part of the name for the whole."""
    given = claims("usr_any", iss=issuer)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: given)
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {token('usr_any')}".encode())]}
    assert await BEARER(Request(scope)) is None
    given["iss"] = ISSUER
    assert await BEARER(Request(scope)) == Actor("usr_any")


async def test_a_token_that_the_library_stumbles_over_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: Any, **__: Any) -> None:
        raise TypeError

    monkeypatch.setattr(jwt, "decode", stumble)
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {token('usr_any')}".encode())]}
    assert await BEARER(Request(scope)) is None


async def test_a_token_counts_in_the_one_header_alone(town: Town) -> None:
    good = token(town.users[BUYER.email])
    assert (await _with(town, f"Bearer {good}")).status == 200
    assert (await _with(town, f"bearer  {good}")).status == 200, "the scheme's case and spaces don't matter"
    for header in (good, f"Basic {good}", f"Bearer {good} {good}", f"Bearer {good},", "Bearer " + "a" * 9000 + ".b.c"):
        assert (await _with(town, header)).status == 401
    assert (await _with(town, [f"Bearer {good}", f"Bearer {good}"])).status == 401, "two headers are one too many"
    async with Client(town.bearer) as client:
        client.set_cookies(paidonce_session=good, authorization=f"Bearer {good}", token=good)
        path = f"/api/payments/{town.payment}"
        assert (await client.get(path)).status == 401, "cookies play no role"
        assert (await client.get(path, params={"access_token": good, "token": good})).status == 401, "nor addresses"


@pytest.mark.parametrize("roles", [None, [], ["staff"], {"payments-staff-2": 1}])
async def test_only_the_hosts_own_rule_makes_staff(town: Town, roles: Any) -> None:
    headers = as_header(token(town.users[BUYER.email], roles=roles))
    assert (await _refund(town.bearer, town.payment, headers)).is_problem(403, "forbidden")


async def test_without_a_rule_nobody_is_staff() -> None:
    bearer = BearerJwt(PUBLIC, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)
    text = token("usr_any", roles=["payments-staff"], is_staff=True, staff=True)
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {text}".encode())]}
    assert await bearer(Request(scope)) == Actor("usr_any")


@pytest.mark.parametrize(("ago", "counts"), [(0, True), (240, True), (301, False), (-60, False)])
async def test_a_sign_in_of_the_last_five_minutes_is_a_second_look(town: Town, ago: int, counts: bool) -> None:
    """`auth_time` is when the user signed in by hand; one of the future is none."""
    headers = as_header(token(town.users[STAFF.email], roles=["payments-staff"], auth_time=int(time.time()) - ago))
    answer = await _refund(town.bearer, town.payment, headers, amount=10**9 if counts else 1)
    assert answer.json["code"] == ("refund_too_large" if counts else "confirmation_needed")


@pytest.mark.parametrize("when", [None, "1", True, 1e300])
async def test_a_sign_in_at_no_time_is_no_second_look(town: Town, when: Any) -> None:
    headers = as_header(token(town.users[STAFF.email], roles=["payments-staff"], auth_time=when))
    assert (await _refund(town.bearer, town.payment, headers, amount=1)).is_problem(403, "confirmation_needed")


async def test_a_host_says_itself_who_has_looked_again(town: Town) -> None:
    staff = {"x-user": town.users[STAFF.email], "x-roles": "staff"}
    assert (await _refund(town.hosted, town.payment, staff, amount=1)).is_problem(403, "confirmation_needed")
    confirmed = {**staff, "x-roles": "staff confirmed"}
    # The host's gateway is out of reach here, so the refund is on its way.
    assert (await _refund(town.hosted, town.payment, confirmed, amount=1)).status == 202


async def _refund(url: str, payment: str, headers: dict[str, str], *, amount: int = 10**9) -> Answer:
    async with Client(url) as client:
        return await client.post(f"/api/payments/{payment}/refunds", {"amount": amount}, headers=headers)


# ── Front ends on foreign domains ──────────


async def test_a_listed_front_end_may_send_a_token_and_no_other(town: Town) -> None:
    path = f"/api/payments/{town.payment}"
    asked = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    async with Client(town.bearer) as client:
        listed = await client.request("OPTIONS", path, headers={"origin": FRONT_END, **asked})
        assert listed.status == 204
        assert "Authorization" in listed.headers["Access-Control-Allow-Headers"].split(", ")
        other = await client.request("OPTIONS", path, headers={"origin": "https://evil.example", **asked})
        assert not [name for name in other.headers if name.lower().startswith("access-control")]


async def test_a_token_is_no_leave_for_other_sites(town: Town) -> None:
    """A page that is not listed can't send the header by a browser anyway; the check stays, with or without it."""
    good = as_header(token(town.users[BUYER.email]))
    path = f"/api/payments/{town.payment}/complete"
    async with Client(town.bearer) as client:
        evil = {**good, "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        assert (await client.post(path, {}, headers=evil)).is_problem(403, "forbidden")
        listed = {**good, "origin": FRONT_END, "sec-fetch-site": "cross-site"}
        assert (await client.post(path, {}, headers=listed)).status == 200
        assert (await client.post(path, {}, headers=good)).status == 200, "programs send neither header"


# ── What can't work is refused at the start ──────────

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE = RSA.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()

SHORT = _pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))  # noqa: S505 - it is refused below.

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"algorithms": ["none"]}, "algorithms is a list"),
    "none beside": ({"algorithms": ["ES256", "none"]}, "algorithms is a list"),
    "no algorithms": ({"algorithms": []}, "algorithms is a list"),
    "a word": ({"algorithms": "ES256"}, "algorithms is a list"),
    "both kinds": ({"algorithms": ["ES256", "HS256"]}, "both kinds"),
    "a key that does not fit": ({"algorithms": ["RS256"]}, "does not fit"),
    "a public key as a secret": ({"algorithms": ["HS256"]}, "does not fit"),
    "a short secret": ({"key": "x" * 31, "algorithms": ["HS256"]}, "less than 32 bytes"),
    "a short secret for its hash": ({"key": "x" * 63, "algorithms": ["HS256", "HS512"]}, "less than 64 bytes"),
    "a private key": ({"key": PRIVATE, "algorithms": ["RS256"]}, "the public one"),
    "a short RSA key": ({"key": SHORT, "algorithms": ["PS256"]}, "less than 2048 bits"),
    "no key": ({"key": "", "algorithms": ["ES256"]}, "does not fit"),
    "no audience": ({"audience": ""}, "audience and issuer"),
    "no issuer": ({"issuer": ""}, "audience and issuer"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_sign_in_that_would_let_forged_tokens_in_does_not_start(kind: str) -> None:
    changes, words = REFUSED[kind]
    given = {"key": PUBLIC, "algorithms": ["ES256"], "audience": AUDIENCE, "issuer": ISSUER, **changes}
    with pytest.raises(ConfigError, match=words) as raised:
        BearerJwt(given.pop("key"), **given)
    assert changes.get("key", PUBLIC)[:24] not in str(raised.value) or not changes.get("key")


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "PS256", "ES256"])
async def test_each_kind_of_key_lets_its_own_tokens_in(algorithm: str) -> None:
    key: str
    signing: Any
    key, signing = {"H": (SHARED, SHARED), "E": (PUBLIC, SIGNING)}.get(algorithm[0], (_pem(RSA), RSA))
    bearer = BearerJwt(key, algorithms=[algorithm], audience=AUDIENCE, issuer=ISSUER)
    text = jwt.encode(claims("usr_any"), signing, algorithm=algorithm)
    scope = {"type": "http", "headers": [(b"authorization", f"Bearer {text}".encode())]}
    assert await bearer(Request(scope)) == Actor("usr_any")
