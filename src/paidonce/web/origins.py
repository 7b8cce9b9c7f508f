"""Front ends on other origins: which ones may call the API, and where a gateway's redirect may bring a buyer back to.

An origin is compared as a whole (scheme, host and port), never by its beginning or end.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from paidonce.config import Settings
from paidonce.errors import InvalidRequest

# What a front end may call and load. Pages and webhooks are for nobody else's scripts.
API, ASSETS = "/api/", "/assets/"

_METHODS = "GET, POST, PATCH, DELETE"
_REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key"
_ANSWER_HEADERS = "Retry-After, X-Request-Id"
_PREFLIGHT_SECONDS = 600

LONGEST_RETURN_URL = 1000
# Gateways add parameters of their own behind it, so whoever reads the address knows what to throw away.
_PLACEHOLDER = "payment={payment}"


def may_call(settings: Settings, path: str, headers: Headers) -> bool:
    """Whether this request comes from a page of a listed front end and goes to what front ends may use."""
    return path.startswith((API, ASSETS)) and headers.get("origin", "") in settings.front_ends


def is_preflight(settings: Settings, method: str, path: str, headers: Headers) -> bool:
    """Whether a browser asks if a listed front end may send what it is about to send."""
    return method == "OPTIONS" and "access-control-request-method" in headers and may_call(settings, path, headers)


def tell(settings: Settings, method: str, path: str, headers: Headers, answer: MutableHeaders) -> None:
    """Tell the browser of a listed front end that it may read this answer. Everybody else gets no such word."""
    if not settings.front_ends or not path.startswith((API, ASSETS)):
        return
    # Caches must not give one origin's answer to another, whether or not this one is listed.
    answer.add_vary_header("Origin")
    if not may_call(settings, path, headers):
        return
    answer["Access-Control-Allow-Origin"] = headers["origin"]
    if path.startswith(ASSETS):
        return
    answer["Access-Control-Allow-Credentials"] = "true"
    answer["Access-Control-Expose-Headers"] = _ANSWER_HEADERS
    if is_preflight(settings, method, path, headers):
        answer["Access-Control-Allow-Methods"] = _METHODS
        answer["Access-Control-Allow-Headers"] = _REQUEST_HEADERS
        answer["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)


def checked_return_url(settings: Settings, url: str) -> str:
    """`url`, if a gateway may send the buyer back there: a page of the shop or of a listed front end.

    Raises `errors.InvalidRequest`. Whatever browsers and Python might read differently is refused, not mended.
    """
    if not url.isascii() or not url.isprintable() or any(sign in url for sign in ' \\#"<>^`|'):
        raise InvalidRequest("return_url: write it percent-encoded, without spaces, backslashes and fragment (#…).")
    if _origin_of(url) not in settings.front_ends | {settings.origin}:
        raise InvalidRequest(
            "return_url: leads neither to this shop nor to a front end that is listed in PAIDONCE_ALLOWED_ORIGINS."
        )
    if not url.endswith((f"?{_PLACEHOLDER}", f"&{_PLACEHOLDER}")) or url.count("{") + url.count("}") != 2:
        raise InvalidRequest(f"return_url: its query has to end with {_PLACEHOLDER}, which becomes the payment's id.")
    return url


def _origin_of(url: str) -> str:
    """Scheme, host and port as they stand there; empty for what can't be read or has no path of its own."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if not parts.netloc or not url.startswith(f"{parts.scheme}://{parts.netloc}/"):
        return ""
    return f"{parts.scheme}://{parts.netloc}"
