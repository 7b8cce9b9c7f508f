"""`BearerJwt`: who asks, by a signed token in the header `Authorization`, for shops whose sign-in is a service.

    payments = Payments(
        store=MyStore(),
        current_user=BearerJwt(PUBLIC_KEY, algorithms=["ES256"], audience="shop", issuer="https://id.example"),
        return_path="/orders/{order}/back?payment={payment}",
    )

Cookies play no role here. The token is checked at each request and never kept or logged.
"""

# No `from __future__ import annotations` here: FastAPI reads the annotations of an object that is called, and finds
# the names in them only if they are no text.

import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from starlette.requests import Request

from paidonce.core import Actor
from paidonce.errors import ConfigError
from paidonce.web.accounts import CONFIRMED_SECONDS

Claims = Mapping[str, Any]

LEEWAY_SECONDS = 10
_LONGEST_TOKEN = 8 * 1024
_LONGEST_USER_ID = 255
# Of an HMAC key: what is shorter than the hash is guessed sooner than the hash is broken (RFC 7518, 3.2).
_SHARED_KEY_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA_BITS = 2048
_PUBLIC_KEY_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_BEARER = re.compile(r"bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)", re.IGNORECASE)
_HOW = "BearerJwt: "


class BearerJwt:
    """A `current_user` for `Payments`: the `Actor` that a valid token names, None for everybody else.

    `key` is the sign-in service's public key (PEM), or the secret that it shares with the shop. The token's `sub` is
    the user's id; `exp`, `aud`, `iss` and `sub` must be in it. `staff` tells from the claims who may refund and capture
    (by default nobody). Who proved themselves within the last five minutes, by the claim `auth_time` of OpenID Connect,
    counts as having taken a second look.

    Raises `ConfigError` for a key or algorithms that can't work or would let forged tokens in.
    """

    def __init__(
        self,
        key: str | bytes,
        *,
        algorithms: Sequence[str],
        audience: str,
        issuer: str,
        staff: Callable[[Claims], bool] | None = None,
    ) -> None:
        if find_spec("jwt") is None:
            raise ConfigError([f"{_HOW}needs PyJWT. Install it with: pip install 'paidonce[jwt]'"])
        _check_algorithms(algorithms)
        if not audience or not issuer:
            raise ConfigError([f"{_HOW}audience and issuer are missing; without them tokens for others would do here"])
        self._algorithms = list(algorithms)
        self._key = _checked_key(key, self._algorithms)
        self._audience = audience
        self._issuer = issuer
        self._staff = staff or _nobody

    async def __call__(self, request: Request) -> Actor | None:
        """Who asks; None without a token, and for any token that is not valid here and now."""
        claims = self._claims(_token(request))
        if claims is None:
            return None
        user_id = claims["sub"]
        if not isinstance(user_id, str) or not 0 < len(user_id) <= _LONGEST_USER_ID or not user_id.isprintable():
            return None
        return Actor(user_id, self._staff(claims) is True, confirmed=_is_fresh(claims))

    def _claims(self, token: str | None) -> Claims | None:
        import jwt

        if token is None:
            return None
        try:
            claims: Claims = jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "aud", "iss", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # What is too large or too deep to be read is nobody's sign-in either, and no trouble of ours.
            return None
        # Compared here as well: PyJWT 2.10.0 takes any part of the issuer's name for the whole.
        return claims if claims["iss"] == self._issuer else None


def _nobody(_claims: Claims) -> bool:
    return False


def _token(request: Request) -> str | None:
    """The token of the one header `Authorization`. Of two, each server on the way might believe another."""
    given = request.headers.getlist("authorization")
    if len(given) != 1 or len(given[0]) > _LONGEST_TOKEN:
        return None
    match = _BEARER.fullmatch(given[0])
    return None if match is None else match[1]


def _is_fresh(claims: Claims) -> bool:
    """Whether the user signed in by hand within the last minutes, and not in the future."""
    when = claims.get("auth_time")
    if type(when) is not int:
        return False
    return -LEEWAY_SECONDS <= time.time() - when < CONFIRMED_SECONDS


def _check_algorithms(algorithms: Sequence[str]) -> None:
    """Raise `ConfigError` unless these are algorithms of one kind.

    Of both kinds at once, a token signed with the public key as a shared secret would be believed.
    """
    named = set(algorithms) if not isinstance(algorithms, str) else set()
    known = [named & _SHARED_KEY_BYTES.keys(), named & _PUBLIC_KEY_ALGORITHMS]
    if not named or not named <= known[0] | known[1]:
        offered = ", ".join(sorted(_PUBLIC_KEY_ALGORITHMS | _SHARED_KEY_BYTES.keys()))
        raise ConfigError([f"{_HOW}algorithms is a list of those that your sign-in uses, of: {offered}"])
    if all(known):
        raise ConfigError([f"{_HOW}algorithms has both kinds, with shared and with public keys; name those of one"])


def _checked_key(key: str | bytes, algorithms: Sequence[str]) -> Any:
    """The key as PyJWT wants it. Raises `ConfigError`, which never quotes it."""
    import jwt

    raw = key.encode() if isinstance(key, str) else key
    needed = max((_SHARED_KEY_BYTES.get(name, 0) for name in algorithms), default=0)
    if len(raw) < needed:
        raise ConfigError([f"{_HOW}the shared key has less than {needed} bytes and could be guessed"])
    if not needed and b"PRIVATE KEY" in raw:
        raise ConfigError([f"{_HOW}this is the private key; the shop needs the public one, and nothing else"])
    try:
        # One key for all of them: a key of RSA fits no algorithm of elliptic curves.
        prepared = [jwt.get_algorithm_by_name(name).prepare_key(raw) for name in algorithms]
    except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError):
        raise ConfigError([f"{_HOW}the key does not fit {', '.join(algorithms)}; give the public key as PEM"]) from None
    if algorithms[0][0] in "RP" and prepared[0].key_size < _RSA_BITS:
        raise ConfigError([f"{_HOW}the RSA key has less than {_RSA_BITS} bits and could be broken; make a longer one"])
    return prepared[0]
