"""Which gateways are tested: all that are found, or those that `--gateway` names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from paidonce.contract.bench import Case
from paidonce.errors import ConfigError
from paidonce.gateways.base import Provider
from paidonce.gateways.registry import providers


def find_cases(named: Sequence[str], modules: Sequence[str], folder: Path) -> list[Case]:
    """The cases to test: the gateways called `named`, or all.

    A gateway is found if it comes with paidonce, if its package is installed, if it is named in `PAIDONCE_GATEWAYS`, or
    if it is one of `modules`. A name that is none of them is taken for a module, also one that lies in `folder`.
    Raises `ConfigError` for a gateway that can't be imported or isn't there, naming the fix.
    """
    found = {provider.name: provider for provider in [*providers(), *(_module(name, folder) for name in modules)]}
    if not named:
        return [Case(provider) for provider in found.values()]
    return [Case(found.get(name) or _module(name, folder)) for name in dict.fromkeys(named)]


def _module(name: str, folder: Path) -> Provider:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = import_module(name)
    except Exception as error:  # An import may fail in any way, and each failure has to name its gateway.
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        fix = f"Install its package, or run pytest in the folder that holds {name}/." if missing else "Mend it."
        problem = f"The gateway {name!r} can't be imported ({type(error).__name__}: {error}). {fix}"
        raise ConfigError([problem]) from error
    if not hasattr(module, "provider"):
        problem = f"The module {name!r} has no `provider`. Run pytest in the folder that holds the gateway's package."
        raise ConfigError([problem])
    if not isinstance(getattr(module.provider, "name", None), str):
        problem = f"The `provider` of the module {name!r} has no `name`. Give it one: lower-case words, as in acme_pay."
        raise ConfigError([problem])
    return cast(Provider, module.provider)
