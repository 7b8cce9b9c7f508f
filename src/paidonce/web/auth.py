"""Who is asking: the built-in sign-in, or that of the host application which mounted the payments."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import replace
from typing import Annotated

import structlog
from fastapi import Depends, Request
from starlette.responses import Response

from paidonce import audit
from paidonce.core import Core
from paidonce.errors import DatabaseError, Forbidden, InvalidRequest, NotSignedIn
from paidonce.ports import Microseconds
from paidonce.web import accounts, limits
from paidonce.web.accounts import User
from paidonce.web.shop import Shop, shop_of, wiring_of

# How long a browser that has signed in to an account is known to it.
_KNOWN_DAYS = 180

# Where a mounted route leaves who its host says is signed in, in the request's scope.
HOST_USER = "paidonce.user"

log = structlog.get_logger(__name__)

WRONG_OWN = "this is not your password. Please try again."
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
    idle_seconds = shop.settings.idle_minutes * 60
    found = await accounts.session_user(shop.running.db, token, now=shop.running.clock.now(), idle_seconds=idle_seconds)
    return None if found is None else replace(found, address=limits.address_of(request))


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


def session_of(request: Request) -> str | None:
    """The token of the built-in session; None for nobody's, and where the host signs people in."""
    wiring = wiring_of(request)
    return request.cookies.get(session_cookie(wiring)) if isinstance(wiring, Shop) else None


async def sign_in(request: Request, *, email: str, password: str) -> User:
    """Check the credentials, within bounds on guessing. Raises `errors.NotSignedIn` or `errors.TooManyAttempts`."""
    shop = shop_of(request)
    account = email.strip().lower()[:254]
    await shop.limits.attempt(limits.SIGN_IN_ADDRESS, limits.network_of(request))
    browser = _known_browser(request, account)
    own = limits.SIGN_IN_PAIR if browser is None else limits.SIGN_IN_BROWSER
    who = (limits.network_or_anybody(request), account) if browser is None else (browser, account)
    await shop.limits.attempt(own, *who)
    if browser is None:
        # Whoever guesses from many addresses is slowed down by this, and can't lock out the owner's own browser.
        await shop.limits.attempt(limits.SIGN_IN_ACCOUNT, account)
    user = await accounts.check_credentials(shop.running.db, shop.passwords, email=email, password=password)
    if user is None:
        _tell_aside(shop.running, email)
        raise NotSignedIn(_WRONG)
    await shop.limits.forgive(own, *who)
    return user


async def sign_up(request: Request, *, email: str, name: str, password: str) -> User:
    """Make an account. Raises `errors.InvalidRequest` or `errors.TooManyAttempts`."""
    shop = shop_of(request)
    core = shop.running
    now = core.clock.now()
    await shop.limits.attempt(limits.SIGN_UP_ADDRESS, limits.network_or_anybody(request))
    return await accounts.add_user(
        core.db, shop.passwords, core.ids, email=email, name=name, password=password, now=now
    )


async def confirm(request: Request, user: User, *, password: str) -> User:
    """The second look: `user` gives the password again. Raises `errors.InvalidRequest`, `errors.TooManyAttempts`."""
    shop = shop_of(request)
    core = shop.running
    checked = await _check_own_password(request, user, password)
    token = request.cookies.get(session_cookie(shop), "")
    await accounts.confirm_session(core.db, checked, token, now=core.clock.now())
    return replace(checked, confirmed=True)


async def change_password(request: Request, response: Response, user: User, *, old: str, new: str) -> None:
    """Change the password of `user`; every session ends, and `response` gets the token of a new one.

    Raises `errors.InvalidRequest`, `errors.TooManyAttempts`, `errors.ChangedMeanwhile`.
    """
    shop = shop_of(request)
    core = shop.running
    checked = await _check_own_password(request, user, old)
    life_seconds = shop.settings.session_hours * 3600
    token = await accounts.change_password(
        core.db, shop.passwords, checked, password=new, now=core.clock.now(), life_seconds=life_seconds
    )
    set_cookie(shop, response, session_cookie(shop), token, max_age=life_seconds)


async def _check_own_password(request: Request, user: User, password: str) -> User:
    """Within the bounds on guessing: who has found an open session must not find out the password by it."""
    shop = shop_of(request)
    core = shop.running
    await shop.limits.attempt(limits.CONFIRM_USER, user.id)
    await shop.limits.attempt(limits.CONFIRM_EACH, user.id)
    checked = await accounts.check_own_password(core.db, shop.passwords, user, password)
    if checked is None:
        note = audit.entry("account.confirmation_failed", actor=user.id, subject=user.id, at=core.clock.now())
        await core.db.transaction(audit.write, note)
        raise InvalidRequest(f"password: {WRONG_OWN}")
    await shop.limits.forgive(limits.CONFIRM_USER, user.id)
    return checked


async def forget_everywhere(request: Request, response: Response, user: User) -> None:
    """End all sessions of `user`, this one too."""
    shop = shop_of(request)
    await accounts.close_all_sessions(shop.running.db, user, now=shop.running.clock.now())
    drop_cookie(shop, response, session_cookie(shop))


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
    _mark_browser(request, response, user)


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


def _browser_cookie(shop: Shop) -> str:
    return "__Host-paidonce_browser" if shop.settings.https else "paidonce_browser"


def _known_browser(request: Request, account: str) -> str | None:
    """The number of this browser, if it has signed in to `account` before; None for any other."""
    shop = shop_of(request)
    text = request.cookies.get(_browser_cookie(shop), "")
    told = shop.unsign("browser", text) if len(text) <= 500 else None
    if not isinstance(told, list) or len(told) != 2 or told[0] != _account_tag(account):
        return None
    return str(told[1])


def _mark_browser(request: Request, response: Response, user: User) -> None:
    """Have the browser be known to the account from now on."""
    shop = shop_of(request)
    if _known_browser(request, user.email) is None:
        text = shop.sign("browser", [_account_tag(user.email), secrets.token_hex(8)])
        set_cookie(shop, response, _browser_cookie(shop), text, max_age=_KNOWN_DAYS * 24 * 3600)


def _account_tag(email: str) -> str:
    return hashlib.sha256(email.encode("utf-8", "surrogatepass")).hexdigest()[:32]


# ── The audit log ──────────

# The event loop itself keeps no reference to what runs on it.
_telling: set[asyncio.Task[None]] = set()


def _tell_aside(core: Core, email: str) -> None:
    """Note a failed sign-in to an account of staff, beside the answer.

    The answer must not wait for it: it would come later for addresses of staff, and so tell which ones those are.
    """
    task = asyncio.create_task(_tell_failed(core, email, core.clock.now()))
    _telling.add(task)
    task.add_done_callback(_telling.discard)


async def _tell_failed(core: Core, email: str, at: Microseconds) -> None:
    try:
        user = await accounts.find_user(core.db, email)
        if user is None or not user.is_staff:
            return
        note = audit.entry("staff.sign_in_failed", actor=audit.NOBODY, subject=user.id, at=at)
        await core.db.transaction(audit.write, note)
    except DatabaseError as error:
        log.warning("audit_entry_lost", action="staff.sign_in_failed", problem=str(error))
