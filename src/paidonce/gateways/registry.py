"""Which gateways there are: the folders beside this file, installed packages, and modules named in the environment.

Nothing here knows a gateway's name. A folder in `paidonce/gateways` is a gateway; another package announces its
`provider` under the entry-point group `paidonce.gateways`; a module that isn't installed is named in
`PAIDONCE_GATEWAYS`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import cast

from paidonce import gateways
from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway, NamesSecrets, Provider, Transport
from paidonce.ports import Clock

GROUP = "paidonce.gateways"
MODULES_SETTING = "PAIDONCE_GATEWAYS"

# The name becomes a word on the wire, a folder of assets and a path of the sandbox.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


def providers(environment: Mapping[str, str] | None = None) -> tuple[Provider, ...]:
    """Every provider, ordered by name. `environment` (default: the process's) holds `PAIDONCE_GATEWAYS`.

    Raises `ConfigError` with every provider that can't be imported, exports no `provider`, or takes another's name.
    """
    environment = os.environ if environment is None else environment
    found: dict[str, tuple[str, Provider]] = {}
    problems: list[str] = []
    for origin, load in _sources(environment):
        try:
            _add(found, origin, load())
        except ConfigError as error:
            problems += error.problems
        except Exception as error:  # An import may fail in any way, and each failure has to name its gateway.
            problems.append(f"{origin} can't be loaded ({type(error).__name__}: {error}). Install or mend the package.")
    if problems:
        raise ConfigError(problems)
    return tuple(found[name][1] for name in sorted(found))


def configure_all(environment: Mapping[str, str], transport: Transport, clock: Clock) -> dict[str, Gateway]:
    """The gateways that `environment` holds settings for, by name and in the order of names.

    Raises one `ConfigError` with the problems of all of them, so that a deployment is mended in one go.
    """
    gateways: dict[str, Gateway] = {}
    problems: list[str] = []
    for provider in providers(environment):
        try:
            gateway = provider.configure(environment, transport, clock)
        except ConfigError as error:
            problems += error.problems
            continue
        if gateway is not None:
            gateways[provider.name] = gateway
    if problems:
        raise ConfigError(problems)
    return gateways


def secrets_of(environment: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The secrets that `environment` holds for gateways, and the shapes of secrets that their providers name.

    Two secrets in one setting (the old one and the new one) count each. Raises `ConfigError` as `providers` does.
    """
    named = [provider for provider in providers(environment) if isinstance(provider, NamesSecrets)]
    texts = [environment.get(setting, "") for provider in named for setting in provider.secret_settings]
    values = [value for text in texts for value in re.split(r"[\s,]+", text) if value]
    return tuple(values), tuple(shape for provider in named for shape in provider.secret_shapes)


def _sources(environment: Mapping[str, str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Where providers come from, in words for an operator, and how to load each."""
    for folder in sorted(module.name for module in iter_modules(gateways.__path__) if module.ispkg):
        yield f"The gateway in paidonce/gateways/{folder}", partial(_load_module, f"{gateways.__name__}.{folder}")
    for entry in _announced(tuple(sys.path)):
        yield _describe(entry), entry.load
    for module in environment.get(MODULES_SETTING, "").split(","):
        if name := module.strip():
            yield f"{MODULES_SETTING}: the module {name!r}", partial(_load_module, name)


def _describe(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    return f"The gateway {entry.name!r} ({entry.value}) of {package}"


def _load_module(name: str) -> object:
    module = import_module(name)
    if not hasattr(module, "provider"):
        problem = f"The module {name!r} has no `provider`. See docs/adding-a-gateway.md."
        raise ConfigError([problem])
    return module.provider


def _add(found: dict[str, tuple[str, Provider]], origin: str, loaded: object) -> None:
    """Keep `loaded` under its name. The same object may be announced twice: installed, and named in the environment."""
    name = getattr(loaded, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError([f"{origin} calls itself {name!r}. A name is lower-case letters, digits and underscores."])
    first_origin, first = found.setdefault(name, (origin, cast(Provider, loaded)))
    if first is not loaded:
        raise ConfigError([f"{origin} takes the name {name!r} of: {first_origin}. Remove one of them."])


@cache
def _announced(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What installed packages announce. Looking reads a file of each, so it is done once for each `sys.path`."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)))
