"""The built-in accounts: users and sessions in our own tables. A host application can replace all of this.

Of a session the database keeps only a hash, so a stolen backup signs nobody in. Passwords are hashed by argon2.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

from anyio import CapacityLimiter, to_thread

from paidonce import audit
from paidonce.core import Actor
from paidonce.errors import ChangedMeanwhile, Conflict, DatabaseError, InvalidRequest, NotSignedIn
from paidonce.ports import SECOND, Database, Ids, Microseconds, Row, Transaction, at_a_glance

if TYPE_CHECKING:
    from pwdlib import PasswordHash

Role = Literal["buyer", "staff"]

PASSWORD_MIN_LENGTH = 10
PASSWORD_MAX_LENGTH = 200
# How long a password that was given again, or at sign-in, counts as a second look.
CONFIRMED_SECONDS = 5 * 60
# When a session was used last is written no more often than this, so that reading stays reading.
_SEEN_EVERY_SECONDS = 60
_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f]{1,64}@[^\s@\x00-\x1f\x7f]{1,180}\.[^\s@.\x00-\x1f\x7f]{2,}")


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is signed in."""

    id: str
    email: str
    name: str
    role: Role
    # Whether the password was given within the last minutes.
    confirmed: bool = False
    # Where the request came from.
    address: str | None = field(default=None, compare=False)
    # The hash that the password was compared with: a session opens only while it is still the account's.
    password_hash: str = field(default="", repr=False, compare=False)

    @property
    def is_staff(self) -> bool:
        """Whether this is a member of the shop's staff."""
        return self.role == "staff"

    @property
    def actor(self) -> Actor:
        """Who asks, in the core's words."""
        return Actor(self.id, self.is_staff, confirmed=self.confirmed, address=self.address)


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
    # Made at the first check of all, whoever it is about, so that it costs nobody's first check alone more time.
    nobodys = _nobodys_hash()
    matches = _argon2().verify(password, kept or nobodys)
    return matches and kept is not None


# ── Users ──────────


def clean_email(text: str) -> str:
    """`text` as an address in lower case. Raises `errors.InvalidRequest`."""
    email = text.strip().lower()
    if len(email) > 254 or not _EMAIL.fullmatch(email):
        raise InvalidRequest("email: this is not an email address; write it like name@example.com.")
    return email


def check_password(password: str, *, field_name: str = "password") -> None:
    """Raise `errors.InvalidRequest` for a password that is too short or too long; never quotes it."""
    if not PASSWORD_MIN_LENGTH <= len(password) <= PASSWORD_MAX_LENGTH:
        raise InvalidRequest(
            f"{field_name}: choose one with {PASSWORD_MIN_LENGTH} to {PASSWORD_MAX_LENGTH} characters."
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
    user = User(ids.new("usr"), email, name, role, password_hash=await passwords.hash(password))
    try:
        await db.transaction(_insert_user, user, now)
    except Conflict:
        raise InvalidRequest("email: there is an account with this address already; sign in instead.") from None
    return user


async def check_credentials(db: Database, passwords: Passwords, *, email: str, password: str) -> User | None:
    """The user if the password is right, else None. It takes as long for an address that nobody has."""
    row = await db.read(_user_by_email, email.strip().lower())
    right = await passwords.verify(password, None if row is None else row["password_hash"])
    return _user(row) if right and row is not None else None


async def check_own_password(db: Database, passwords: Passwords, user: User, password: str) -> User | None:
    """`user` if this is their password, else None."""
    return await check_credentials(db, passwords, email=user.email, password=password)


async def change_password(
    db: Database,
    passwords: Passwords,
    user: User,
    *,
    password: str,
    now: Microseconds,
    life_seconds: int,
) -> str:
    """Give `user`, whose old password was just checked, a new one; returns the token of the one session left.

    All sessions end in the same transaction, whoever holds them. Raises `errors.InvalidRequest` for a password that
    can't be used, and `errors.ChangedMeanwhile` if it was changed since it was checked.
    """
    check_password(password, field_name="new_password")
    token = secrets.token_urlsafe(32)
    session = _Session(user.id, hash_token(token), now, now + life_seconds * SECOND)
    await db.transaction(_change_password, user, await passwords.hash(password), session)
    return token


async def find_user(db: Database, email: str) -> User | None:
    """The user with this address, or None."""
    row = await db.read(_user_by_email, email.strip().lower())
    return None if row is None else _user(row)


async def names(tx: Transaction, user_ids: Collection[str]) -> dict[str, str]:
    """The names of those of `user_ids` that have an account here."""
    if not user_ids:
        return {}
    wanted = {f"id{number}": user_id for number, user_id in enumerate(sorted(user_ids))}
    listed = ", ".join(f":{name}" for name in wanted)
    rows = await tx.fetch_all(f"SELECT id, name FROM users WHERE id IN ({listed})", wanted)  # noqa: S608 - parameters.
    return {row["id"]: row["name"] for row in rows}


# ── Sessions ──────────


@dataclass(frozen=True, slots=True)
class _Session:
    user_id: str
    token_hash: str
    opened_at: Microseconds
    expires_at: Microseconds


async def open_session(db: Database, user: User, *, replaces: str | None, now: Microseconds, life_seconds: int) -> str:
    """A new session's token. The one it `replaces` ends, so that a planted token is worth nothing after sign-in.

    Raises `errors.NotSignedIn` if the password was changed since it was checked.
    """
    token = secrets.token_urlsafe(32)
    session = _Session(user.id, hash_token(token), now, now + life_seconds * SECOND)
    await db.transaction(_open_session, user, session, replaces=replaces and hash_token(replaces))
    return token


async def session_user(db: Database, token: str, *, now: Microseconds, idle_seconds: int) -> User | None:
    """Who holds `token`, or None if it is unknown, has expired, or was not used for `idle_seconds`."""
    row = await db.read(_user_by_session, hash_token(token), now)
    if row is None or now - row["seen_at"] > idle_seconds * SECOND:
        return None
    if now - row["seen_at"] >= _SEEN_EVERY_SECONDS * SECOND:
        # It is only a note: with a full disk people can still read.
        with suppress(DatabaseError):
            await db.transaction(_see_session, hash_token(token), now)
    # One from the future was given before the clock was set back; servers' clocks differ by less than that.
    return _user(row, confirmed=abs(now - row["confirmed_at"]) < CONFIRMED_SECONDS * SECOND)


async def confirm_session(db: Database, user: User, token: str, *, now: Microseconds) -> None:
    """Note that the holder of `token` has just given the password again."""
    await db.transaction(_confirm_session, user.id, hash_token(token), now)


async def close_session(db: Database, token: str) -> None:
    """End the session; nothing happens if there is none."""
    await db.transaction(_delete_session, hash_token(token))


async def close_all_sessions(db: Database, user: User, *, now: Microseconds) -> None:
    """End all sessions of `user`, wherever they were opened."""
    await db.transaction(_delete_sessions, user.id, now)


def hash_token(token: str) -> str:
    """What the database keeps of a session's token. It has 256 random bits, so a fast hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


# ── Statements ──────────


async def _insert_user(tx: Transaction, user: User, now: Microseconds) -> None:
    await tx.execute(
        "INSERT INTO users (id, email, name, password_hash, role, created_at)"
        " VALUES (:id, :email, :name, :password_hash, :role, :now)",
        {
            "id": user.id,
            "email": user.email,
            "name": user.name,
            "password_hash": user.password_hash,
            "role": user.role,
            "now": now,
        },
    )


async def _user_by_email(tx: Transaction, email: str) -> Row | None:
    return await tx.fetch_one("SELECT * FROM users WHERE email = :email", {"email": email})


async def _open_session(tx: Transaction, user: User, session: _Session, *, replaces: str | None) -> None:
    # Under the account's lock, so that no session by the old password survives a change of it.
    kept = await tx.fetch_one("SELECT password_hash FROM users WHERE id = :id", {"id": user.id}, lock=True)
    if kept is None or kept["password_hash"] != user.password_hash:
        raise NotSignedIn
    # Signing in is rare enough to sweep out what has expired on the way.
    await tx.execute(
        "DELETE FROM sessions WHERE token_hash = :replaces OR expires_at <= :now",
        {"replaces": replaces or "", "now": session.opened_at},
    )
    await _insert_session(tx, session)
    if user.is_staff:
        note = audit.entry("staff.signed_in", actor=user.id, subject=user.id, at=session.opened_at)
        await audit.write(tx, note)


async def _insert_session(tx: Transaction, session: _Session) -> None:
    await tx.execute(
        "INSERT INTO sessions (token_hash, user_id, created_at, expires_at, seen_at, confirmed_at)"
        " VALUES (:token_hash, :user_id, :now, :expires_at, :now, :now)",
        {
            "token_hash": session.token_hash,
            "user_id": session.user_id,
            "now": session.opened_at,
            "expires_at": session.expires_at,
        },
    )


@at_a_glance
async def _user_by_session(tx: Transaction, token_hash: str, now: Microseconds) -> Row | None:
    return await tx.fetch_one(
        "SELECT u.*, s.seen_at, s.confirmed_at FROM sessions s JOIN users u ON u.id = s.user_id"
        " WHERE s.token_hash = :token_hash AND s.expires_at > :now",
        {"token_hash": token_hash, "now": now},
    )


async def _see_session(tx: Transaction, token_hash: str, now: Microseconds) -> None:
    await tx.execute(
        "UPDATE sessions SET seen_at = :now WHERE token_hash = :token_hash AND seen_at < :now",
        {"token_hash": token_hash, "now": now},
    )


async def _confirm_session(tx: Transaction, user_id: str, token_hash: str, now: Microseconds) -> None:
    await tx.execute(
        "UPDATE sessions SET confirmed_at = :now WHERE token_hash = :token_hash AND user_id = :user_id",
        {"token_hash": token_hash, "user_id": user_id, "now": now},
    )
    await audit.write(tx, audit.entry("account.confirmed", actor=user_id, subject=user_id, at=now))


async def _change_password(tx: Transaction, user: User, password_hash: str, session: _Session) -> None:
    changed = await tx.execute(
        "UPDATE users SET password_hash = :new WHERE id = :id AND password_hash = :old",
        {"id": user.id, "new": password_hash, "old": user.password_hash},
    )
    if not changed:
        raise ChangedMeanwhile("The password was changed meanwhile, and not by this request. Sign in again.")
    await tx.execute("DELETE FROM sessions WHERE user_id = :id", {"id": user.id})
    await _insert_session(tx, session)
    note = audit.entry("account.password_changed", actor=user.id, subject=user.id, at=session.opened_at)
    await audit.write(tx, note)


async def _delete_sessions(tx: Transaction, user_id: str, now: Microseconds) -> None:
    ended = await tx.execute("DELETE FROM sessions WHERE user_id = :id", {"id": user_id})
    note = audit.entry("account.signed_out_everywhere", actor=user_id, subject=user_id, at=now, sessions=ended)
    await audit.write(tx, note)


async def _delete_session(tx: Transaction, token_hash: str) -> None:
    await tx.execute("DELETE FROM sessions WHERE token_hash = :token_hash", {"token_hash": token_hash})


def _user(row: Row, *, confirmed: bool = False) -> User:
    return User(row["id"], row["email"], row["name"], row["role"], confirmed, password_hash=row["password_hash"])
