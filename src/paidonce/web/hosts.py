"""Which names this server answers to. The header `Host` is the client's own word, so it is compared and never used.

A page of another name that leads to this machine (DNS rebinding) would else count as a page of this shop, and a cache
before it would keep answers under names that somebody made up. Loopback names are always answered to: browsers send
them to their own machine alone, and proxies and probes beside this process send them to us. Probes that call by
another address ask the two health addresses, whose answers depend on no name.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from starlette.datastructures import Headers

from paidonce.config import Settings, host_name, is_loopback
from paidonce.errors import Problem

HEALTH = frozenset({"/healthz", "/readyz"})


class NotThisHost(Problem):
    """The request names a server that this one is not."""

    code, status, title = "invalid_request", 421, "Another server's name"
    default_message = (
        "This server does not answer to the name in the header Host. It answers to that of PAIDONCE_PUBLIC_URL; its"
        " operator can list more in PAIDONCE_ALLOWED_HOSTS."
    )


class NoHost(Problem):
    """The request does not say, or says twice, which server it means."""

    code, status, title = "invalid_request", 400, "Name one server"
    default_message = "Send exactly one header Host."


class NoPath(Problem):
    """The request's target is no path, as requests to a proxy have it."""

    code, status, title = "invalid_request", 400, "Send a path"
    default_message = "The request's target has to be a path that begins with a slash. This server is no proxy."


def check(settings: Settings, target: str, path: str, headers: Headers) -> None:
    """Refuse a request that is meant for another server. `target` is the whole path as it was sent.

    Raises `NotThisHost`, `NoHost`, `NoPath`.
    """
    if not target.startswith("/"):
        raise NoPath
    if path in HEALTH:
        return
    named = headers.getlist("host")
    if len(named) != 1 or not named[0].strip():
        raise NoHost
    name = host_name(named[0])
    if not is_loopback(name) and _spelt(name) not in {_spelt(one) for one in settings.hosts}:
        raise NotThisHost


def _spelt(name: str) -> str:
    """An IPv6 address as browsers write it, however it was written; any other name as it is."""
    try:
        return IPv6Address(name).compressed if ":" in name else name
    except ValueError:
        return name
