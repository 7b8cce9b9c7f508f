"""The demo's data folder: the database, the twins' state and a secret key, and nobody else's settings."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paidonce.errors import ConfigError
from paidonce.gateways.base import Provider
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock

# Of the shop's settings, only these may come from outside: a demo must never reach a real shop's database.
_KEPT = frozenset(
    {"PAIDONCE_ALLOWED_ORIGINS", "PAIDONCE_GATEWAYS", "PAIDONCE_HOLD_MINUTES", "PAIDONCE_LOG_FORMAT"}
    | {"PAIDONCE_SHOP_NAME"}
)


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where a demo keeps what survives its restart."""

    path: Path

    @property
    def database_url(self) -> str:
        """The SQLite file's URL."""
        return f"sqlite:///{self.path.absolute() / 'paidonce.db'}"

    @property
    def sandbox_state(self) -> Path:
        """What the twins remember: they are the gateways' side of the books."""
        return self.path.absolute() / "sandbox.json"

    def secret_key(self) -> str:
        """This folder's own key, made once, readable by its owner only."""
        file = self.path / "secret-key"
        try:
            # Created with its final rights, so that there is no moment in which others can read it.
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return file.read_text("ascii").strip()
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(48) + "\n")
        return file.read_text("ascii").strip()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Make the folder if need be and keep other demos out of it. Raises `ConfigError`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("w")
        except OSError as error:
            raise ConfigError(
                [f"The data folder {self.path} can't be used: {error.strerror}. Choose another: PAIDONCE_DATA=…"]
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    [
                        f"Another demo is using the data folder {self.path}. End it first, or choose another folder:"
                        " PAIDONCE_DATA=…"
                    ]
                ) from error
            yield


@dataclass(frozen=True, slots=True)
class DemoEnvironment:
    """The settings of a demo. `offline` names the gateways that talk to their twins."""

    values: Mapping[str, str]
    offline: frozenset[str]


def demo_environment(
    own: Mapping[str, str],
    folder: DataFolder,
    providers: Iterable[Provider],
    *,
    port: int,
    shop_url: str,
    sandbox_url: str,
) -> DemoEnvironment:
    """The settings for the shop: its own data, and the twin of each gateway for which `own` holds no keys.

    Raises `ConfigError` where a gateway's keys are incomplete or wrong.
    """
    values = {name: value for name, value in own.items() if not name.startswith("PAIDONCE_") or name in _KEPT}
    offline: set[str] = set()
    for provider in providers:
        twin = provider.sandbox_environment(sandbox_url)
        if twin and not _has_keys(provider, own):
            # An address that was set for other keys must not stay beside the twin's.
            values = {name: value for name, value in values.items() if name not in provider.settings}
            values |= twin
            offline.add(provider.name)
    values |= {
        "PAIDONCE_DATABASE_URL": folder.database_url,
        "PAIDONCE_SECRET_KEY": folder.secret_key(),
        "PAIDONCE_HOST": "127.0.0.1",
        "PAIDONCE_PUBLIC_URL": shop_url,
        "PAIDONCE_DEMO": "1",
        "PAIDONCE_SECOND_LOOK_ABOVE": own.get("PAIDONCE_SECOND_LOOK_ABOVE", "50.00 EUR"),
        "PAIDONCE_LOG_LEVEL": own.get("PAIDONCE_LOG_LEVEL", "warning"),
        "PORT": str(port),
    }
    return DemoEnvironment(values, frozenset(offline))


def _has_keys(provider: Provider, own: Mapping[str, str]) -> bool:
    clock = SystemClock()
    return provider.configure(own, AiohttpTransport(clock), clock) is not None
