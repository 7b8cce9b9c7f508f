"""Who is asking: the built-in sign-in, or that of the host application which mounted the payments."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from paidonce.errors import Forbidden, NotSignedIn
from paidonce.web import accounts
from paidonce.web.accounts import User
from paidonce.web.shop import Shop, shop_of

# Wrong passwords per address and account, and per address whatever the account, in a quarter of an hour.
_WRONG_PER_ACCOUNT = 8
_TRIES_PER_ADDRESS = 60
_NEW_ACCOUNTS_PER_ADDRESS = 30

# Where a mounted route leaves who its host says is signed in, in the request's scope.
HOST_USER = "paidonce.user"

_WRONG = "The email address or the password is not right."


async def current_user(request: Request) -> User | None:
    """Who is signed in, or None."""
    if HOST_USER in request.scope:
        user: User | None = request.scope[HOST_USER]
        return user
    shop = shop_of(request)
    token = request.cookies.get(session_cookie(shop))
    if not token or len(token) > 200:
        return None
    return await accounts.session_user(shop.running.db, token, now=shop.running.clock.now())


MaybeUser = Annotated[User | None, Depends(current_user)]


async def signed_in(user: MaybeUser) -> User:
    """Who is signed in. Raises `errors.NotSignedIn`."""
    if user is None:
        raise NotSignedIn
    return user


SignedIn = Annotated[User, Depends(signed_in)]


async def staff(user: SignedIn) -> User:
    """A member of staff. Raises `errors.NotSignedIn` or `errors.Forbidden`."""
    if not user.is_staff:
        raise Forbidden
    return user


Staff = Annotated[User, Depends(staff)]


def session_cookie(shop: Shop) -> str:
    """The cookie's name. `__Host-` makes browsers refuse it from other hosts and over plain http."""
    return "__Host-paidonce_session" if shop.settings.https else "paidonce_session"


async def sign_in(request: Request, *, email: str, password: str) -> User:
    """Check the credentials, within bounds on guessing. Raises `errors.NotSignedIn` or `errors.TooManyAttempts`."""
    shop = shop_of(request)
    now = shop.running.clock.now()
    address = _address(request)
    account_key = f"sign-in {address} {email.strip().lower()[:254]}"
    shop.throttle.attempt(f"sign-in {address}", most=_TRIES_PER_ADDRESS, now=now)
    shop.throttle.attempt(account_key, most=_WRONG_PER_ACCOUNT, now=now)
    user = await accounts.check_credentials(shop.running.db, shop.passwords, email=email, password=password)
    if user is None:
        raise NotSignedIn(_WRONG)
    shop.throttle.forgive(account_key)
    return user


async def sign_up(request: Request, *, email: str, name: str, password: str) -> User:
    """Make an account. Raises `errors.InvalidRequest` or `errors.TooManyAttempts`."""
    shop = shop_of(request)
    core = shop.running
    now = core.clock.now()
    shop.throttle.attempt(f"sign-up {_address(request)}", most=_NEW_ACCOUNTS_PER_ADDRESS, now=now)
    return await accounts.add_user(
        core.db, shop.passwords, core.ids, email=email, name=name, password=password, now=now
    )


async def remember(request: Request, response: Response, user: User) -> None:
    """Open a session for `user` and put its fresh token into `response`; the token it came with ends."""
    shop = shop_of(request)
    token = await accounts.open_session(
        shop.running.db,
        user,
        replaces=request.cookies.get(session_cookie(shop)),
        now=shop.running.clock.now(),
        life_seconds=shop.settings.session_hours * 3600,
    )
    set_cookie(shop, response, session_cookie(shop), token, max_age=shop.settings.session_hours * 3600)


async def forget(request: Request, response: Response) -> None:
    """End the session, on the server as well as in the browser."""
    shop = shop_of(request)
    token = request.cookies.get(session_cookie(shop))
    if token:
        await accounts.close_session(shop.running.db, token)
    drop_cookie(shop, response, session_cookie(shop))


def set_cookie(shop: Shop, response: Response, name: str, value: str, *, max_age: int) -> None:
    """A cookie that scripts can't read and other sites can't send along."""
    response.set_cookie(
        name, value, max_age=max_age, path="/", httponly=True, samesite="lax", secure=shop.settings.https
    )


def drop_cookie(shop: Shop, response: Response, name: str) -> None:
    """Remove a cookie; the attributes have to match the ones it was set with."""
    response.delete_cookie(name, path="/", httponly=True, samesite="lax", secure=shop.settings.https)


def _address(request: Request) -> str:
    # The peer's address. Behind a proxy the server has to be told to trust it (uvicorn: --forwarded-allow-ips).
    return request.client.host if request.client else "unknown"
