"""The payment components as static files, below `paidonce/`: the base class, and each gateway's own module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.contrib.staticfiles.finders import FileSystemFinder
from django.core.files.storage import FileSystemStorage

from paidonce.config import read_environment
from paidonce.contrib.django import conf
from paidonce.errors import ConfigError
from paidonce.gateways.base import Provider
from paidonce.gateways.registry import providers
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock

_COMPONENTS = Path(__file__).parents[2] / "components" / "assets"
_NOWHERE = "http://127.0.0.1:9"


class AssetsFinder(FileSystemFinder):
    """Finds the files in the package, and in the packages of gateways that were installed beside it."""

    def __init__(self, app_names: Any = None, *args: Any, **kwargs: Any) -> None:
        self.locations = [("paidonce", str(_COMPONENTS))]
        self.locations += [(f"paidonce/gateways/{name}", str(path)) for name, path in gateway_assets().items()]
        self.storages = {}
        for prefix, root in self.locations:
            storage = FileSystemStorage(location=root)
            storage.prefix = prefix
            self.storages[root] = storage

    def check(self, **_: Any) -> list[Any]:
        """STATICFILES_DIRS is another finder's business."""
        return []


def gateway_assets() -> dict[str, Path]:
    """The folder of each gateway's files, also of one without keys: they are often collected where no keys are."""
    environment = _environment()
    clock = SystemClock()
    transport = AiohttpTransport(clock)
    folders: dict[str, Path] = {}
    for provider in _providers(environment):
        for settings in (environment, provider.sandbox_environment(_NOWHERE)):
            try:
                gateway = provider.configure(settings, transport, clock)
            except ConfigError:
                # The system check tells it.
                continue
            if gateway is not None:
                folders[provider.name] = gateway.component().assets
                break
    return folders


def _environment() -> Mapping[str, str]:
    try:
        found = conf.read().environment
    except ConfigError:
        found = None
    return read_environment() if found is None else found


def _providers(environment: Mapping[str, str]) -> tuple[Provider, ...]:
    try:
        return providers(environment)
    except ConfigError:
        # The system check tells it, and Django makes the finders before it runs its checks.
        return ()
