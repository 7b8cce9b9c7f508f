"""Stripe's settings: read, checked as a whole, and never printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from paidonce.errors import ConfigError
from paidonce.secret import Secret

NAMES = (
    "STRIPE_SECRET_KEY",
    "STRIPE_PUBLISHABLE_KEY",
    "STRIPE_WEBHOOK_SECRET",
    "STRIPE_API_BASE",
    "STRIPE_JS_URL",
)
API_BASE = "https://api.stripe.com"
# The release of Stripe.js that belongs to wire.API_VERSION. Only js.stripe.com may serve it in production (PCI DSS).
JS_URL = "https://js.stripe.com/dahlia/stripe.js"

_SECRET_PREFIXES = {"sk_test_": False, "rk_test_": False, "sk_live_": True, "rk_live_": True}
_PUBLISHABLE_PREFIXES = {"pk_test_": False, "pk_live_": True}


# The offline twin's keys end like this; Stripe's own never do.
_SANDBOX_KEY = re.compile(r"(sk|rk|pk)_test_sandbox\w*", re.ASCII)
# Everybody can read it here, so it proves nothing outside the offline twin.
SANDBOX_WEBHOOK_SECRET = "whsec_offline_sandbox_only"  # noqa: S105
_WEBHOOK_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{7,250}")


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings. `live` is the keys' mode; `api_base` has no slash at its end.

    `webhook_secrets` are all those that sign right now: two while the endpoint's secret is rolled, none without
    webhooks.
    """

    secret_key: Secret
    publishable_key: str
    webhook_secrets: tuple[Secret, ...]
    api_base: str
    js_url: str
    live: bool


def read_settings(environment: Mapping[str, str]) -> Settings | None:
    """The settings in `environment`, or None if neither key is set (Stripe is then not offered).

    Raises `ConfigError` with every problem at once; no message contains a value of a secret.
    """
    values = {name: environment.get(name, "").strip() for name in NAMES}
    if not values["STRIPE_SECRET_KEY"] and not values["STRIPE_PUBLISHABLE_KEY"]:
        return None
    # Left out means no webhooks, while an empty secret would accept what everybody can sign.
    secrets = values["STRIPE_WEBHOOK_SECRET"].split(",") if "STRIPE_WEBHOOK_SECRET" in environment else []
    webhook_secrets = tuple(dict.fromkeys(secret.strip() for secret in secrets))
    api_base = values["STRIPE_API_BASE"].rstrip("/") or API_BASE
    js_url = values["STRIPE_JS_URL"] or JS_URL
    live = any(values[name].startswith(("sk_live_", "rk_live_", "pk_live_")) for name in NAMES[:2])
    problems = [
        *_key_problems(values["STRIPE_SECRET_KEY"], values["STRIPE_PUBLISHABLE_KEY"]),
        *_webhook_problems(webhook_secrets, live=live),
        *_address_problems("STRIPE_API_BASE", api_base),
        *_address_problems("STRIPE_JS_URL", js_url),
        *_base_problems(api_base),
    ]
    problems += _live_problems(live, api_base, js_url)
    problems += _twin_problems(values, webhook_secrets, api_base)
    if problems:
        raise ConfigError(problems)
    return Settings(
        secret_key=Secret(values["STRIPE_SECRET_KEY"]),
        publishable_key=values["STRIPE_PUBLISHABLE_KEY"],
        webhook_secrets=tuple(map(Secret, webhook_secrets)),
        api_base=api_base,
        js_url=js_url,
        live=live,
    )


def component_csp(settings: Settings) -> dict[str, tuple[str, ...]]:
    """What the pay page has to allow for Stripe.js (https://docs.stripe.com/security/guide, "Content security policy").

    Scripts from elsewhere (the offline twin) get their own origin and that of the API instead, and nothing of Stripe's.
    """
    if settings.js_url.startswith("https://js.stripe.com/"):
        scripts = ("https://js.stripe.com", "https://*.js.stripe.com")
        return {
            "script-src": scripts,
            "frame-src": (*scripts, "https://hooks.stripe.com"),
            "connect-src": ("https://api.stripe.com",),
            "img-src": ("https://*.stripe.com",),
        }
    own = _origin(settings.js_url)
    return {
        "script-src": (own,),
        "frame-src": (own,),
        "connect-src": tuple(dict.fromkeys((own, _origin(settings.api_base)))),
        "img-src": (own,),
    }


def component_scripts(settings: Settings) -> dict[str, str]:
    """What the scripts from Stripe are on the pay page for."""
    scripts = {settings.js_url: "Stripe.js: puts the card fields into a frame of Stripe's and confirms the payment"}
    if settings.js_url.startswith("https://js.stripe.com/"):
        scripts["https://js.stripe.com"] = scripts["https://*.js.stripe.com"] = "what Stripe.js loads for itself"
    return scripts


def _key_problems(secret: str, publishable: str) -> list[str]:
    problems = []
    if not secret:
        problems.append("STRIPE_SECRET_KEY is missing while STRIPE_PUBLISHABLE_KEY is set: set both keys, or neither.")
    if not publishable:
        problems.append("STRIPE_PUBLISHABLE_KEY is missing while STRIPE_SECRET_KEY is set: set both keys, or neither.")
    modes = (_mode(secret, _SECRET_PREFIXES), _mode(publishable, _PUBLISHABLE_PREFIXES))
    if secret and modes[0] is None:
        problems.append(
            "STRIPE_SECRET_KEY does not look like a secret key: it begins with sk_test_, rk_test_, sk_live_, rk_live_ "
            "and goes on with letters and digits. Copy it from Stripe's dashboard, Developers, API keys."
        )
    if publishable and modes[1] is None:
        problems.append(
            "STRIPE_PUBLISHABLE_KEY does not look like a publishable key: it begins with pk_test_ or pk_live_. "
            "A secret key must never stand here, since browsers get to see this one."
        )
    if None not in modes and modes[0] != modes[1]:
        problems.append(
            "STRIPE_SECRET_KEY and STRIPE_PUBLISHABLE_KEY are of different modes (one test, one live): "
            "take both from the same page of Stripe's dashboard."
        )
    return problems


def _mode(key: str, prefixes: Mapping[str, bool]) -> bool | None:
    for prefix, live in prefixes.items():
        rest = key.removeprefix(prefix)
        if rest != key and rest.isascii() and rest.replace("_", "").isalnum():
            return live
    return None


def _webhook_problems(secrets: Sequence[str], *, live: bool) -> list[str]:
    if "" in secrets:
        return [
            "STRIPE_WEBHOOK_SECRET is empty, or one side of its comma is: remove the setting, or set the endpoint's "
            "signing secret (whsec_…); with an empty one everybody could sign events."
        ]
    if not all(_WEBHOOK_SECRET.fullmatch(secret) for secret in secrets):
        return [
            "STRIPE_WEBHOOK_SECRET is no signing secret: it begins with whsec_ and goes on with letters and digits, "
            "and a comma separates two of them while the old one is still valid. Copy it from Stripe, Developers, "
            "Webhooks."
        ]
    if live and SANDBOX_WEBHOOK_SECRET in secrets:
        return [
            "STRIPE_WEBHOOK_SECRET is the offline sandbox's while the keys are live: everybody knows that one, so set "
            "the signing secret of your live endpoint."
        ]
    return []


def _address_problems(name: str, url: str) -> list[str]:
    parts = _split(url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        return [f"{name} is not an address: write it in full, such as https://host/path."]
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return [f"{name} has a user name, a query or a fragment: write scheme, host, port and path only."]
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        return [f"{name} is not encrypted: use https:// (http:// is for this machine's own addresses only)."]
    return []


def _base_problems(api_base: str) -> list[str]:
    if api_base.endswith("/v1"):
        return ["STRIPE_API_BASE ends in /v1, which is added to it: leave that part out."]
    return []


def _live_problems(live: bool, api_base: str, js_url: str) -> list[str]:
    checks: list[tuple[str, str, Callable[[str], bool]]] = [
        ("STRIPE_API_BASE", api_base, lambda url: url == API_BASE),
        ("STRIPE_JS_URL", js_url, lambda url: url.startswith("https://js.stripe.com/")),
    ]
    return [
        f"{name} is overridden while the keys are live: remove {name}, or use test keys. "
        "Live keys and cards must reach Stripe only."
        for name, url, is_stripes_own in checks
        if live and not is_stripes_own(url)
    ]


def _twin_problems(values: Mapping[str, str], webhook_secrets: Sequence[str], api_base: str) -> list[str]:
    """The offline twin's well-known values are of no use at Stripe, and its signing secret lets anybody send events."""
    if api_base != API_BASE:
        return []
    wrong = [name for name in NAMES[:2] if _SANDBOX_KEY.fullmatch(values[name])]
    if SANDBOX_WEBHOOK_SECRET in webhook_secrets and not values[NAMES[0]].startswith(("sk_live_", "rk_live_")):
        wrong.append("STRIPE_WEBHOOK_SECRET")
    return [
        f"{name} is the offline sandbox's, which everybody knows, while STRIPE_API_BASE is Stripe's own address: set "
        "your account's own value, or set STRIPE_API_BASE to the offline sandbox's address."
        for name in wrong
    ]


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
