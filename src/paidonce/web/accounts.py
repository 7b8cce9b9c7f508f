"""The built-in accounts: users and sessions in our own tables. A host application can replace all of this.

Of a session the database keeps only a hash, so a stolen backup signs nobody in. Passwords are hashed by argon2.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

from anyio import CapacityLimiter, to_thread

from paidonce.core import Actor
from paidonce.errors import Conflict, InvalidRequest
from paidonce.ports import SECOND, Database, Ids, Microseconds, Row, Transaction

if TYPE_CHECKING:
    from pwdlib import PasswordHash

Role = Literal["buyer", "staff"]

PASSWORD_MIN_LENGTH = 10
PASSWORD_MAX_LENGTH = 200
_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f]{1,64}@[^\s@\x00-\x1f\x7f]{1,180}\.[^\s@.\x00-\x1f\x7f]{2,}")


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is signed in."""

    id: str
    email: str
    name: str
    role: Role

    @property
    def is_staff(self) -> bool:
        """Whether this is a member of the shop's staff."""
        return self.role == "staff"

    @property
    def actor(self) -> Actor:
        """Who asks, in the core's words."""
        return Actor(self.id, self.is_staff)


class Passwords:
    """Argon2 in worker threads. Each hash takes tens of MiB, so only a few run at once."""

    def __init__(self, *, at_once: int = 4) -> None:
        self._at_once = at_once
        self._limiter: CapacityLimiter | None = None

    async def hash(self, password: str) -> str:
        """The hash to keep."""
        return await to_thread.run_sync(partial(_argon2().hash, password), limiter=self._gate())

    async def verify(self, password: str, kept: str | None) -> bool:
        """Whether `password` made `kept`. With None (nobody has this email) it takes the same time and says no."""
        check = partial(_verify, password, kept)
        return await to_thread.run_sync(check, limiter=self._gate())

    def _gate(self) -> CapacityLimiter:
        # Made at the first use, since a limiter belongs to a running event loop.
        if self._limiter is None:
            self._limiter = CapacityLimiter(self._at_once)
        return self._limiter


@cache
def _argon2() -> PasswordHash:
    from pwdlib import PasswordHash

    return PasswordHash.recommended()


@cache
def _nobodys_hash() -> str:
    return _argon2().hash(secrets.token_urlsafe(24))


def _verify(password: str, kept: str | None) -> bool:
    matches = _argon2().verify(password, kept or _nobodys_hash())
    return matches and kept is not None


# ── Users ──────────


def clean_email(text: str) -> str:
    """`text` as an address in lower case. Raises `errors.InvalidRequest`."""
    email = text.strip().lower()
    if len(email) > 254 or not _EMAIL.fullmatch(email):
        raise InvalidRequest("email: this is not an email address; write it like name@example.com.")
    return email


def check_password(password: str) -> None:
    """Raise `errors.InvalidRequest` for a password that is too short or too long; never quotes it."""
    if not PASSWORD_MIN_LENGTH <= len(password) <= PASSWORD_MAX_LENGTH:
        raise InvalidRequest(
            f"password: choose one with at least {PASSWORD_MIN_LENGTH} and at most {PASSWORD_MAX_LENGTH} characters."
        )


async def add_user(
    db: Database,
    passwords: Passwords,
    ids: Ids,
    *,
    email: str,
    name: str,
    password: str,
    now: Microseconds,
    role: Role = "buyer",
) -> User:
    """A new account. Raises `errors.InvalidRequest` for what can't be used, an email that is taken included."""
    email, name = clean_email(email), name.strip()
    check_password(password)
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidRequest("name: write your name with 1 to 100 letters.")
    user = User(ids.new("usr"), email, name, role)
    try:
        await db.transaction(_insert_user, user, await passwords.hash(password), now)
    except Conflict:
        raise InvalidRequest("email: there is an account with this address already; sign in instead.") from None
    return user


async def check_credentials(db: Database, passwords: Passwords, *, email: str, password: str) -> User | None:
    """The user if the password is right, else None. It takes as long for an address that nobody has."""
    row = await db.read(_user_by_email, email.strip().lower())
    right = await passwords.verify(password, None if row is None else row["password_hash"])
    return _user(row) if right and row is not None else None


async def find_user(db: Database, email: str) -> User | None:
    """The user with this address, or None."""
    row = await db.read(_user_by_email, email.strip().lower())
    return None if row is None else _user(row)


# ── Sessions ──────────


async def open_session(db: Database, user: User, *, replaces: str | None, now: Microseconds, life_seconds: int) -> str:
    """A new session's token. The one it `replaces` ends, so that a planted token is worth nothing after sign-in."""
    token = secrets.token_urlsafe(32)
    expires_at = now + life_seconds * SECOND
    ended = replaces and hash_token(replaces)
    await db.transaction(_insert_session, user.id, hash_token(token), replaces=ended, now=now, expires_at=expires_at)
    return token


async def session_user(db: Database, token: str, *, now: Microseconds) -> User | None:
    """Who holds `token`, or None if it is unknown or has expired."""
    row = await db.read(_user_by_session, hash_token(token), now)
    return None if row is None else _user(row)


async def close_session(db: Database, token: str) -> None:
    """End the session; nothing happens if there is none."""
    await db.transaction(_delete_session, hash_token(token))


def hash_token(token: str) -> str:
    """What the database keeps of a session's token. It has 256 random bits, so a fast hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


# ── Statements ──────────


async def _insert_user(tx: Transaction, user: User, password_hash: str, now: Microseconds) -> None:
    await tx.execute(
        "INSERT INTO users (id, email, name, password_hash, role, created_at)"
        " VALUES (:id, :email, :name, :password_hash, :role, :now)",
        {
            "id": user.id,
            "email": user.email,
            "name": user.name,
            "password_hash": password_hash,
            "role": user.role,
            "now": now,
        },
    )


async def _user_by_email(tx: Transaction, email: str) -> Row | None:
    return await tx.fetch_one("SELECT * FROM users WHERE email = :email", {"email": email})


async def _insert_session(
    tx: Transaction, user_id: str, token_hash: str, *, replaces: str | None, now: Microseconds, expires_at: Microseconds
) -> None:
    # Signing in is rare enough to sweep out what has expired on the way.
    await tx.execute(
        "DELETE FROM sessions WHERE token_hash = :replaces OR expires_at <= :now",
        {"replaces": replaces or "", "now": now},
    )
    await tx.execute(
        "INSERT INTO sessions (token_hash, user_id, created_at, expires_at, seen_at, confirmed_at)"
        " VALUES (:token_hash, :user_id, :now, :expires_at, :now, :now)",
        {"token_hash": token_hash, "user_id": user_id, "now": now, "expires_at": expires_at},
    )


async def _user_by_session(tx: Transaction, token_hash: str, now: Microseconds) -> Row | None:
    return await tx.fetch_one(
        "SELECT u.* FROM sessions s JOIN users u ON u.id = s.user_id"
        " WHERE s.token_hash = :token_hash AND s.expires_at > :now",
        {"token_hash": token_hash, "now": now},
    )


async def _delete_session(tx: Transaction, token_hash: str) -> None:
    await tx.execute("DELETE FROM sessions WHERE token_hash = :token_hash", {"token_hash": token_hash})


def _user(row: Row) -> User:
    return User(row["id"], row["email"], row["name"], row["role"])
