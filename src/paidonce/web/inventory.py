"""The inventory of scripts: which ones each page runs, where from, what for, by whose leave, and how they are checked.

PCI DSS 4.0.1, requirement 6.4.3, wants it for payment pages; here it is kept for all of them. `paidonce scripts` writes
it, and a test compares it with what Chromium really loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from paidonce.gateways.base import Gateway
from paidonce.web import mount, routes
from paidonce.web.integrity import Integrity

PAY_PAGE = "/orders/{order_id}/pay"
OF_A_HOST = "the shop's own pay page"
ERRORS = "every page that tells an error"

# What each page of the shop loads besides its gateways' modules; every other page runs no script at all.
_ON_PAGES: Mapping[str, tuple[str, ...]] = {
    "/": ("shop.js",),
    "/orders/{order_id}": ("order.js", "paidonce.js"),
    PAY_PAGE: ("pay.js", "paidonce.js"),
    OF_A_HOST: ("paidonce.js",),
}
_WHY: Mapping[str, str] = {
    "shop.js": "puts products into the basket without a page load",
    "order.js": "asks the shop what became of a payment that is being confirmed",
    "pay.js": "leads on to the order when it is paid, and lets one way to pay work at a time",
    "paidonce.js": "the base of the payment elements: talks to this shop and says what happened to the money",
}
_IMPORT_MAP = "within the page"

_SHOP = "this shop"
_RELEASE = "whoever installs a release of paidonce"
_BY_HASH = "the policy's nonce, and the integrity hash {}"
_BY_SOURCE = "the policy names its origin, reached by TLS; its maker changes it without notice, so it has no hash"


@dataclass(frozen=True, slots=True)
class Script:
    """One script of a page, in words for people. `source` is a path of the shop's, an address, or an origin."""

    source: str
    where_from: str
    why: str
    authorised_by: str
    checked_by: str


def inventory(gateways: Mapping[str, Gateway], *, built_in_shop: bool) -> dict[str, list[Script]]:
    """The scripts by page, given the gateways that are set up. A host's other pages are its own to list."""
    integrity = Integrity.of_components(mount.components(gateways))
    pages = [*_page_paths(), ERRORS] if built_in_shop else [OF_A_HOST]
    return {page: list(_scripts(page, gateways, integrity)) for page in pages}


def _page_paths() -> list[str]:
    found = [route for route in routes.page_router().routes if "GET" in getattr(route, "methods", ())]
    return [str(getattr(route, "path", "")) for route in found]


def _scripts(page: str, gateways: Mapping[str, Gateway], integrity: Integrity) -> Iterator[Script]:
    own = _ON_PAGES.get(page, ())
    if own:
        why = "the hashes of the modules, which the browser compares before it runs them; it runs nothing itself"
        yield Script(_IMPORT_MAP, _SHOP, why, _RELEASE, "the policy's nonce")
    for name in own:
        yield _own(f"/assets/{name}", _WHY[name], _RELEASE, integrity)
    if page in (PAY_PAGE, OF_A_HOST):
        for gateway in gateways.values():
            yield from _of_gateway(gateway, integrity)


def _own(path: str, why: str, authorised_by: str, integrity: Integrity) -> Script:
    return Script(path, _SHOP, why, authorised_by, _BY_HASH.format(integrity.hashes[path]))


def _of_gateway(gateway: Gateway, integrity: Integrity) -> Iterator[Script]:
    part = gateway.component()
    leave = f"whoever sets up {gateway.title}"
    for path in sorted(integrity.hashes):
        if path.startswith(f"/assets/gateways/{gateway.name}/") and path.endswith(".js"):
            yield _own(path, f"<{part.element}>, the way to pay “{gateway.title}” on the page", leave, integrity)
    for source, why in part.scripts.items():
        yield Script(source, f"the payment service of “{gateway.title}”", why, leave, _BY_SOURCE)
