"""Bounds on how often something is asked: by address, session, user and order, counted by the library `limits`.

A window begins with its first request and holds so many; the next one is refused until the window has ended. Counts lie
in this process's memory, or with PAIDONCE_LIMITS=database in the table `rate_limits`, which all processes share.
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.requests import HTTPConnection

from paidonce import counters
from paidonce.bounds import network_tag
from paidonce.config import Settings
from paidonce.core import Core
from paidonce.errors import TooManyAttempts
from paidonce.ports import SECOND, Clock, Database, Transaction

# More keys than this are the sign of an attack with changing addresses; the oldest make room.
_MOST_KEYS = 50_000
# What stands for all who ask from an address that tells nothing, such as that of a proxy nobody told us of.
_ANYBODY = "anybody"


@dataclass(frozen=True, slots=True)
class Rule:
    """One bound: its name, which is part of the key, and how many in which time."""

    name: str
    item: RateLimitItem


# Wrong passwords for one account: from one network, from one browser that has signed in to it before, and from
# everywhere else together. The last can't lock the owner out, whose browser is known.
SIGN_IN_PAIR: Final = Rule("sign-in pair", RateLimitItemPerMinute(8, 15))
SIGN_IN_BROWSER: Final = Rule("sign-in browser", RateLimitItemPerMinute(8, 15))
SIGN_IN_ACCOUNT: Final = Rule("sign-in account", RateLimitItemPerHour(20))
SIGN_IN_ADDRESS: Final = Rule("sign-in address", RateLimitItemPerMinute(60, 15))
SIGN_UP_ADDRESS: Final = Rule("sign-up address", RateLimitItemPerMinute(30, 15))
CONFIRM_USER: Final = Rule("confirm user", RateLimitItemPerMinute(8, 15))
# Right ones too: each costs a hash and a line in a log that nobody can shorten.
CONFIRM_EACH: Final = Rule("confirm each", RateLimitItemPerHour(60))
# Each start and each question after a payment may cost a call of the gateway.
START_ORDER: Final = Rule("start order", RateLimitItemPerMinute(30, 10))
START_SESSION: Final = Rule("start session", RateLimitItemPerMinute(120, 10))
START_USER: Final = Rule("start user", RateLimitItemPerMinute(120, 10))
START_ADDRESS: Final = Rule("start address", RateLimitItemPerMinute(480, 10))
ASK_SESSION: Final = Rule("ask session", RateLimitItemPerMinute(240, 10))
ASK_USER: Final = Rule("ask user", RateLimitItemPerMinute(240, 10))
ASK_ADDRESS: Final = Rule("ask address", RateLimitItemPerMinute(960, 10))


class Limits:
    """Counts requests by rule and by who asks. Times are those of the core's clock."""

    def __init__(self, core: Core, settings: Settings) -> None:
        self.core = core
        self._key = settings.signing_keys[0]
        shared = settings.limits == "database"
        self._storage = DatabaseStorage(core.db, core.clock) if shared else MemoryStorage(core.clock)
        self._limiter = FixedWindowRateLimiter(self._storage)

    async def attempt(self, rule: Rule, *who: str | None) -> None:
        """Count one request of `who`. Raises `errors.TooManyAttempts` once the window holds as many as `rule` allows.

        Without anybody to count (a part of `who` is None) nothing is counted.
        """
        if None in who:
            return
        key = self._hashed(rule, *who)
        if await self._limiter.hit(rule.item, key):
            return
        ends = await self._storage.get_expiry(rule.item.key_for(key))
        seconds = max(1, -int(-(ends - self.core.clock.now() / SECOND) // 1))
        wait = f"{seconds} seconds" if seconds < 60 else f"{-(-seconds // 60)} minutes"
        raise TooManyAttempts(
            f"There were too many attempts. Please wait {wait} before you try again.", retry_after_seconds=seconds
        )

    async def forgive(self, rule: Rule, *who: str | None) -> None:
        """Forget the attempts of `who`: they have proved themselves."""
        await self._limiter.clear(rule.item, self._hashed(rule, *who))

    def _hashed(self, rule: Rule, *who: str | None) -> str:
        """A key that tells no address, no email and no token to whoever reads the table."""
        text = "\n".join((rule.name, *(part or "" for part in who)))
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


def address_of(connection: HTTPConnection) -> str | None:
    """Where the request came from: the peer, or whom a proxy in PAIDONCE_TRUSTED_PROXIES names."""
    return connection.client.host if connection.client else None


def network_of(connection: HTTPConnection) -> str | None:
    """A tag of the network that the request came from; None for an address that tells nothing of who asks."""
    return network_tag(address_of(connection))


def network_or_anybody(connection: HTTPConnection) -> str:
    """As `network_of`, with one word for all whose address tells nothing."""
    return network_of(connection) or _ANYBODY


# ── Where the counts lie ──────────


class MemoryStorage(Storage):
    """Counts in this process, by the injected clock. For one process, and for any number of its threads."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._windows: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def base_exceptions(self) -> type[Exception]:
        """What may go wrong here: nothing of its own."""
        return ValueError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count `key` in a window of `expiry` seconds and give what it holds."""
        with self._lock:
            now = self._now()
            count, ends = self._windows.get(key, (0, 0.0))
            if ends <= now:
                count, ends = 0, now + expiry
            self._windows[key] = (count + amount, ends)
            self._windows.move_to_end(key)
            while len(self._windows) > _MOST_KEYS:
                self._windows.popitem(last=False)
            return count + amount

    async def get(self, key: str) -> int:
        """What the running window holds."""
        count, ends = self._windows.get(key, (0, 0.0))
        return count if ends > self._now() else 0

    async def get_expiry(self, key: str) -> float:
        """When the window ends, in seconds since 1970."""
        return self._windows.get(key, (0, self._now()))[1]

    async def check(self) -> bool:
        """Memory is there."""
        return True

    async def reset(self) -> int | None:
        """Forget everything."""
        with self._lock:
            known = len(self._windows)
            self._windows.clear()
            return known

    async def clear(self, key: str) -> None:
        """Forget `key`."""
        with self._lock:
            self._windows.pop(key, None)

    def _now(self) -> float:
        return self._clock.now() / SECOND


class DatabaseStorage(Storage):
    """Counts in the table `rate_limits`, by the injected clock: the same for all processes."""

    STORAGE_SCHEME = None

    def __init__(self, db: Database, clock: Clock) -> None:
        super().__init__()
        self._db = db
        self._clock = clock

    @property
    def base_exceptions(self) -> type[Exception]:
        """Those of the database are ours already."""
        return ValueError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count `key` in a window of `expiry` seconds and give what it holds. Raises database errors."""
        return await self._db.transaction(_count, key, amount=amount, seconds=int(expiry), now=self._clock.now())

    async def get(self, key: str) -> int:
        """What the running window holds."""
        found = await self._db.read(counters.find, key, now=self._clock.now())
        return 0 if found is None else found.count

    async def get_expiry(self, key: str) -> float:
        """When the window ends, in seconds since 1970."""
        found = await self._db.read(counters.find, key, now=self._clock.now())
        return (self._clock.now() if found is None else found.expires_at) / SECOND

    async def check(self) -> bool:
        """The database's own check is /readyz."""
        return True

    async def reset(self) -> int | None:
        """Not done: the counts end by themselves, and other processes rely on them."""
        return None

    async def clear(self, key: str) -> None:
        """Forget `key`."""
        await self._db.transaction(counters.forget, [key])


async def _count(tx: Transaction, key: str, *, amount: int, seconds: int, now: int) -> int:
    counted = await counters.add(tx, key, amount=amount, seconds=seconds, now=now)
    if counted.count == amount:
        await counters.sweep(tx, now=now)
    return counted.count
