"""The shop's own sign-in. Nothing in here knows of paidonce, but for `who_asks` at the end."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from pwdlib import PasswordHash
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from starlette.responses import Response

from paidonce import Actor

from .models import Login, User

COOKIE = "ember_login"
LIFE = timedelta(days=7)


def database(request: Request) -> Iterator[Session]:
    """One session of the shop's own database for each request."""
    with Session(request.app.state.engine) as session:
        yield session


Database = Annotated[Session, Depends(database)]


def somebody(request: Request, session: Database) -> User | None:
    """Who is signed in, or None."""
    token = request.cookies.get(COOKIE, "")
    if not token:
        return None
    mine = (Login.token_hash == _hash(token), Login.ends_at > now())
    return session.scalar(select(User).join(Login).where(*mine))


Visitor = Annotated[User | None, Depends(somebody)]


def signed_in(visitor: Visitor) -> User:
    """Who is signed in; anybody else is led to the sign-in page."""
    if visitor is None:
        raise HTTPException(303, headers={"Location": "/sign-in"})
    return visitor


Buyer = Annotated[User, Depends(signed_in)]


def working_here(user: Buyer) -> User:
    """A member of staff."""
    if not user.is_staff:
        raise HTTPException(403, "This page is for people who work here.")
    return user


Staff = Annotated[User, Depends(working_here)]


def sign_in(session: Session, response: Response, email: str, password: str, *, https: bool) -> bool:
    """Sign in by a cookie in `response`; False if email or password are wrong. On `https` it goes nowhere else."""
    user = session.scalar(select(User).where(User.email == email.strip().lower()))
    # Somebody who does not exist takes as long as a wrong password.
    right = passwords().verify(password[:200], user.password_hash if user else _nobody())
    if user is None or not right:
        return False
    token = secrets.token_urlsafe(32)
    session.execute(delete(Login).where(Login.ends_at <= now()))
    session.add(Login(token_hash=_hash(token), user_id=user.id, ends_at=now() + LIFE))
    session.commit()
    # A cookie that somebody has copied ends with its session here, whatever a browser does with `max_age`.
    seconds = int(LIFE.total_seconds())
    response.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=https, max_age=seconds)
    return True


def sign_out(session: Session, request: Request, response: Response) -> None:
    """End the session here and in the browser."""
    session.execute(delete(Login).where(Login.token_hash == _hash(request.cookies.get(COOKIE, ""))))
    session.commit()
    response.delete_cookie(COOKIE)


@cache
def passwords() -> PasswordHash:
    """How passwords are hashed."""
    return PasswordHash.recommended()


@cache
def _nobody() -> str:
    return passwords().hash(secrets.token_urlsafe(16))


def now() -> datetime:
    """The time in UTC, as the tables keep it."""
    return datetime.now(UTC).replace(tzinfo=None)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def who_asks(visitor: Visitor) -> Actor | None:
    """The shop's user, as paidonce wants to know it."""
    return None if visitor is None else Actor(str(visitor.id), is_staff=visitor.is_staff)
