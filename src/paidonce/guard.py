"""The start-up guard: what must not be served is refused before the first request, with the fix.

Each setting for itself is checked where it is read (`config.py`, each gateway's settings). Here is what only shows when
they are looked at together: live and test mode mixed, a demonstration or debugging in public, files that everybody on
this machine can read, and secrets that stand in every manual.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway, SaysItsMode

if TYPE_CHECKING:
    from paidonce.config import Settings

# Words of manuals and of those who mean to change it later. So long that a random key never holds one by chance.
_EXAMPLES = re.compile(
    "change(me|this|it)|replace(me|this)|placeholder|example|insecure|your(own)?(secret|key|token)|(my|top)secret"
    r"|secretkey|passw[o0]rd|letmein|qwerty|(?P<same>.)(?P=same){7}"
)
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|(?<!PUBLISHABLE_)(?<!PUBLIC_)KEY$")
_USER_AND_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_WORLD = stat.S_IROTH | stat.S_IWOTH
# What SQLite keeps beside its file while it is open: the same data.
_BESIDE = ("", "-wal", "-shm", "-journal")


class Environment(dict[str, str]):
    """Settings by name. `file` is the `.env` that added to them, and `from_file` what it said."""

    def __init__(self, values: Mapping[str, str], *, file: Path, from_file: Mapping[str, str]) -> None:
        super().__init__(values)
        self.file = file
        self.from_file = dict(from_file)


def is_example(secret: str) -> bool:
    """Whether everybody would guess it: empty, a word of a manual, one letter again and again."""
    plain = re.sub(r"[\W_]", "", secret.lower())
    return not plain or "…" in secret or "..." in secret or _EXAMPLES.search(plain) is not None


def refuse_unsafe(
    settings: Settings,
    environment: Mapping[str, str],
    gateways: Mapping[str, Gateway],
    *,
    file: Path | None,
    hosted: bool,
    debug: bool = False,
) -> None:
    """Raise `ConfigError` with everything that `problems` finds."""
    found = problems(settings, environment, gateways, file=file, hosted=hosted, debug=debug)
    if found:
        raise ConfigError(found)


def problems(
    settings: Settings,
    environment: Mapping[str, str],
    gateways: Mapping[str, Gateway],
    *,
    file: Path | None,
    hosted: bool,
    debug: bool = False,
) -> list[str]:
    """Why this must not be served, each with its fix and without any value.

    `file` is the SQLite file, if there is one. In a host's application (`hosted`) it is the host that makes it, with
    the rights that it likes: they are judged once its keys are live or its address is public. A demonstration
    holds nobody's data, and may lie on a disk that knows no rights. `debug` says that the host's debug mode is on.
    """
    modes = {name: gateway.live for name, gateway in gateways.items() if isinstance(gateway, SaysItsMode)}
    live = sorted(name for name, is_live in modes.items() if is_live)
    found = [*_mode_problems(modes), *_demo_problems(settings, live), *_example_problems(environment)]
    public = is_public(settings)
    if debug and (live or public):
        found.append(
            "Debug mode is on, and its error pages show settings and source to everybody; switch it off where keys are"
            " live or the address is public"
        )
    if file is not None and (live or public or not (hosted or settings.demo)):
        found += file_problems(file)
    if isinstance(environment, Environment):
        found += _env_file_problems(environment)
    if (live or public) and any(map(is_example, settings.database_passwords)):
        found.append(
            "PAIDONCE_DATABASE_URL: its password is an example that everybody knows; give the database's user another"
        )
    return found


def is_public(settings: Settings) -> bool:
    """Whether buyers on other machines reach the shop over TLS; all the rest is development and demonstrations."""
    from paidonce.config import is_loopback

    return settings.https and not is_loopback(urlsplit(settings.origin).hostname or "")


def sqlite_file(settings: Settings) -> Path | None:
    """The database file, or None for PostgreSQL."""
    url = settings.database_url.get_secret_value()
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def file_problems(file: Path) -> Iterator[str]:
    """Why a database file is not kept from the other users of this machine, each with its fix."""
    if file.is_dir():
        # Its rights are not ours to judge; whoever opens it tells that it is no file.
        return
    # SQLite follows a link, and keeps what it writes beside the file itself.
    link, file = file, Path(os.path.realpath(file)) if file.is_symlink() else file
    for path in (file.with_name(file.name + beside) for beside in _BESIDE):
        if _mode(path) & _WORLD:
            yield (
                f"The database: every user of this machine can read or change {path}, which holds people's orders and"
                f" accounts; run: chmod o= {path}"
            )
    for folder in dict.fromkeys((link.absolute().parent, file.absolute().parent)):
        mode = _mode(folder)
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield (
                f"The database: every user of this machine can replace the files in {folder}; run: chmod o-w {folder},"
                " or choose another folder"
            )


def holds_secret(name: str, value: str) -> bool:
    """Whether a setting is a secret: by its name, or because it is an address with a password in it."""
    return bool(value) and bool(_SECRET_NAME.search(name) or _USER_AND_PASSWORD.search(value))


def _mode(path: Path) -> int:
    """The rights of a file; none for one that is not there, and where files have no such rights."""
    try:
        return path.stat().st_mode if os.name == "posix" else 0
    except OSError:
        return 0


def _mode_problems(modes: Mapping[str, bool]) -> Iterator[str]:
    if len(set(modes.values())) < 2:
        return
    live, test = (sorted(name for name, is_live in modes.items() if is_live is wanted) for wanted in (True, False))
    yield (
        f"Live and test mode are mixed: {', '.join(live)} would take real money and {', '.join(test)} only test money,"
        " for the same goods; use keys of one mode for all of them, or remove the settings of the others"
    )


def _demo_problems(settings: Settings, live: list[str]) -> Iterator[str]:
    if not settings.demo:
        return
    if live:
        yield f"PAIDONCE_DEMO: a demonstration must not move real money, and {', '.join(live)} would; remove it"
    if is_public(settings):
        yield (
            "PAIDONCE_DEMO: shows test cards and allows plain http, while PAIDONCE_PUBLIC_URL is a public address;"
            " remove it"
        )


def _example_problems(environment: Mapping[str, str]) -> Iterator[str]:
    """Only a gateway's own secrets; the shop's are checked where they are read."""
    from paidonce.gateways.registry import providers

    for provider in providers(environment):
        # The offline twin's values are everybody's; whether they fit the address, the gateway itself looks at.
        known = provider.sandbox_environment("").values()
        for name in provider.settings:
            value = environment.get(name, "")
            if value not in known and holds_secret(name, value) and is_example(value):
                yield f"{name}: is an example and no secret; copy the real one from the gateway's dashboard"


def _env_file_problems(environment: Environment) -> Iterator[str]:
    from paidonce.gateways.registry import providers

    if not _mode(environment.file) & _WORLD:
        return
    # The offline twins' values stand in this package and are nobody's secrets.
    known = {value for one in providers(environment) for value in one.sandbox_environment("").values()}
    said = sorted(environment.from_file.items())
    held = [name for name, value in said if value not in known and holds_secret(name, value)]
    if held:
        yield (
            f"{environment.file}: every user of this machine can read the secrets in it ({', '.join(held)});"
            f" run: chmod 600 {environment.file}"
        )
