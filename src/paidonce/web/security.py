"""The security headers of every answer, and what a page adds to them: its nonce, and what its gateways need."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

# A page of ours; the pay page adds exactly what its gateways' components name. Scripts are left to whoever asks: an
# address of the shop's alone makes no script welcome. Forms lead nowhere else, since gateways are left by a script.
_PAGE: Mapping[str, tuple[str, ...]] = {
    "style-src": ("'self'",),
    "img-src": ("'self'",),
    "connect-src": ("'self'",),
    "form-action": ("'self'",),
    "object-src": ("'none'",),
    "base-uri": ("'none'",),
    "frame-ancestors": ("'none'",),
}
# What is no page may do nothing at all, should a browser ever show it as one.
_NO_PAGE = "default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
# No text becomes markup or a script's address. The gateways' scripts do that, so their page has to do without.
_TRUSTED_TYPES = "require-trusted-types-for 'script'; trusted-types 'none'"
_NONCE, _SOURCES = "paidonce.nonce", "paidonce.csp"
_NONCE_BYTES = 16
_OTHER_FEATURES = ("camera", "geolocation", "microphone", "usb")


RawHeaders = tuple[tuple[bytes, bytes], ...]


def security_headers(policy: str, sources: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The security headers of an answer with the Content-Security-Policy `policy`, whose page needs `sources`."""
    return {
        "Content-Security-Policy": policy,
        "Permissions-Policy": permissions_policy(sources),
        "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
        "Cross-Origin-Resource-Policy": "same-origin",
        # The origin alone: no path or query of ours ever reaches another site.
        "Referrer-Policy": "strict-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def content_security_policy(scripts: Iterable[str], sources: Mapping[str, Iterable[str]]) -> str:
    """A page's policy: the shop itself, `scripts` as sources of its own scripts, and `sources` by directive."""
    merged = merged_sources([{"default-src": ["'none'"], "script-src": scripts}, _PAGE, sources])
    return "; ".join(f"{directive} {' '.join(_meant(values))}" for directive, values in merged.items())


def headers_of(scope: Mapping[str, Any]) -> RawHeaders:
    """The security headers of the answer in this scope, as ASGI wants them."""
    nonce = scope.get(_NONCE)
    if nonce is None:
        return _OF_NO_PAGE
    sources: Mapping[str, Iterable[str]] = scope.get(_SOURCES, {})
    policy = content_security_policy([nonce_source(nonce)], sources)
    if not sources.get("script-src"):
        policy += f"; {_TRUSTED_TYPES}"
    return _raw(security_headers(policy, sources))


def _raw(headers: Mapping[str, str]) -> RawHeaders:
    return tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())


def nonce_source(nonce: str) -> str:
    """What a policy says of scripts that carry `nonce`."""
    return f"'nonce-{nonce}'"


def new_nonce(scope: MutableMapping[str, Any]) -> str:
    """Make this answer a page: it gets a page's policy, and scripts run only if they carry the nonce, made anew."""
    nonce = secrets.token_urlsafe(_NONCE_BYTES)
    scope[_NONCE] = nonce
    return nonce


def permissions_policy(sources: Mapping[str, Iterable[str]]) -> str:
    """Wallets need the payment feature, on the page and in the gateways' frames there; all else is allowed nowhere."""
    frames = [f'"{one}"' for one in sources.get("frame-src", ()) if one.startswith(("http://", "https://"))]
    payment = " ".join(["self", *dict.fromkeys(frames)]) if frames else ""
    return ", ".join([f"payment=({payment})", *(f"{feature}=()" for feature in _OTHER_FEATURES)])


def add_sources(scope: MutableMapping[str, Any], policies: Iterable[Mapping[str, Iterable[str]]]) -> None:
    """Allow the sources that the page's components name, for this answer only."""
    scope[_SOURCES] = merged_sources(policies)


def _meant(sources: tuple[str, ...]) -> tuple[str, ...]:
    """`'none'` means nothing beside another source."""
    return tuple(source for source in sources if source != "'none'") or ("'none'",)


def merged_sources(policies: Iterable[Mapping[str, Iterable[str]]]) -> dict[str, tuple[str, ...]]:
    """The sources of all policies, by directive."""
    merged: dict[str, tuple[str, ...]] = {}
    for policy in policies:
        for directive, sources in policy.items():
            merged[directive] = tuple(dict.fromkeys((*merged.get(directive, ()), *sources)))
    return merged


# Nearly every answer has these, so they are written once.
_OF_NO_PAGE = _raw(security_headers(_NO_PAGE, {}))
