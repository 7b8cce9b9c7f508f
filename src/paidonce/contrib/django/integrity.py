"""Integrity hashes of the elements' modules as Django serves them: as found, collected, or renamed by a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.exceptions import ImproperlyConfigured

from paidonce.contrib.django.runtime import runtime
from paidonce.web.integrity import OWN, Integrity, of_text

_STATIC = Path(__file__).parent / "static" / "paidonce"


def of_static_files() -> Integrity:
    """The hashes of all modules of the elements. With DEBUG they are read anew, since files are then being written."""
    gateways = tuple(runtime().wiring.components)
    return Integrity(dict(_hashes())) if settings.DEBUG else _collected(gateways)


@cache
def _collected(_gateways: tuple[str, ...]) -> Integrity:
    return Integrity(dict(_hashes()))


def _hashes() -> Iterator[tuple[str, str]]:
    for name in _names():
        stored = _stored(name)
        # A manifest renames a file; what imports it by its own name gets it under that one, which is kept as well.
        yield staticfiles_storage.url(name), of_text(_content(stored))
        if stored != name:
            yield f"{staticfiles_storage.base_url}{name}", of_text(_content(name))


def _names() -> Iterator[str]:
    components = runtime().wiring.components
    folders = [("paidonce", OWN), ("paidonce", _STATIC)]
    folders += [(f"paidonce/gateways/{name}", part.assets) for name, part in components.items()]
    for prefix, folder in folders:
        yield from (f"{prefix}/{file.relative_to(folder).as_posix()}" for file in sorted(folder.rglob("*.js")))


def _stored(name: str) -> str:
    renamed = getattr(staticfiles_storage, "stored_name", None)
    return name if settings.DEBUG or renamed is None else str(renamed(name))


def _content(name: str) -> bytes:
    if not settings.DEBUG and _is_collected(name):
        with staticfiles_storage.open(name) as file:
            return bytes(file.read())
    found = finders.find(name)
    if not isinstance(found, str):
        raise ImproperlyConfigured(f"{name} is not among the static files; run manage.py collectstatic.")
    return Path(found).read_bytes()


def _is_collected(name: str) -> bool:
    try:
        return bool(staticfiles_storage.exists(name))
    except ImproperlyConfigured:
        # Without STATIC_ROOT nothing is ever collected.
        return False
