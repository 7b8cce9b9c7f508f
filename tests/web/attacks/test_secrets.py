"""Secrets are typed as secrets, so that no accident prints one; and each can be changed while the shop is open."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from paidonce.config import Settings, load_settings
from paidonce.errors import ConfigError
from paidonce.gateways.base import HttpRequest, NamesSecrets
from paidonce.gateways.mollie.settings import read_settings as read_mollie
from paidonce.gateways.paypal import read_settings as read_paypal
from paidonce.gateways.registry import configure_all, providers, secrets_of
from paidonce.gateways.stripe.settings import read_settings as read_stripe
from paidonce.ports import SystemClock
from paidonce.sandbox.app import sandbox_environment
from paidonce.secret import Secret
from support.canary import Marks
from support.shop import SANDBOX_URL
from support.webshop import SECRET_KEY, Client, running_shop

OLD_KEY, NEW_KEY = SECRET_KEY, "another-key-that-is-long-enough-9876543210"
GATEWAY_SECRETS = {
    "STRIPE_SECRET_KEY": "sk_test_canaryOfTheKey0001",
    "STRIPE_WEBHOOK_SECRET": "whsec_canary0002,whsec_canary0003",
    "PAYPAL_CLIENT_SECRET": "sandbox-canary-of-the-secret-0004",
    "MOLLIE_API_KEY": "test_canaryOfTheKey000000000005",
}
ENVIRONMENT = {
    **sandbox_environment(SANDBOX_URL),
    **GATEWAY_SECRETS,
    "PAIDONCE_SECRET_KEY": "canary-signing-key-0006-abcdefghijkl canary-earlier-key-0007-abcdefghijkl",
    "PAIDONCE_DATABASE_URL": "postgresql://shop:canary-of-the-database-0008@127.0.0.1/shop",
    "PAIDONCE_EVENT_URLS": "https://erp.example/in?key=canary-of-the-query-0009",
    "PAIDONCE_EVENT_SECRET": "whsec_Y2FuYXJ5LW9mLXRoZS1ldmVudHMtMDAxMC14",
}


def _marks() -> Marks:
    marks = Marks()
    values, _ = secrets_of(ENVIRONMENT)
    marks.add("secret", *values, *load_settings(ENVIRONMENT).secrets)
    return marks


def _holders() -> dict[str, Any]:
    gateways = configure_all(ENVIRONMENT, None, SystemClock())  # type: ignore[arg-type]  # Nobody is called.
    settings = {"stripe": read_stripe, "paypal": read_paypal, "mollie": read_mollie}
    read = {f"the settings of {name}": one(ENVIRONMENT) for name, one in settings.items()}
    return {"the shop's settings": load_settings(ENVIRONMENT), **read, **gateways}


def _shown(holder: Any) -> str:
    """Every way in which an object ends up in a text by accident."""
    texts = [repr(holder), str(holder), f"{holder}", f"{[holder]!r}", json.dumps({"x": holder}, default=str)]
    if isinstance(holder, Settings):
        texts += [repr(holder.model_dump()), holder.model_dump_json(), repr(holder.model_copy(update={"port": 1}))]
    elif hasattr(holder, "__dataclass_fields__"):
        texts += [repr(asdict(holder)), repr(replace(holder)), repr(copy.deepcopy(holder))]
    else:
        # A debugger or an error report walks through a gateway: its client, what that one holds.
        texts += [repr(value) for value in vars(holder).values()]
        texts += [repr(vars(value)) for value in vars(holder).values() if hasattr(value, "__dict__")]
    try:
        raise ValueError(holder)
    except ValueError as error:
        texts += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    return "\n".join(texts)


@pytest.mark.parametrize("name", sorted(_holders()))
def test_no_settings_and_no_gateway_show_a_secret(name: str) -> None:
    assert _marks().found(_shown(_holders()[name])) == set()


def test_a_secret_is_not_pickled() -> None:
    for holder in (load_settings(ENVIRONMENT).secret_key, read_stripe(ENVIRONMENT), read_paypal(ENVIRONMENT)):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(holder)


def test_a_request_to_a_gateway_shows_neither_its_headers_nor_its_body() -> None:
    request = HttpRequest("POST", "https://gateway.example/v1", {"authorization": "Bearer canary"}, b"canary")
    assert "canary" not in repr(request)


def test_every_setting_that_looks_like_a_secret_is_one() -> None:
    """Whoever adds a key to a gateway has to say that it is one, or the log would not know it by heart."""
    found = {provider.name for provider in providers({}) if isinstance(provider, NamesSecrets)}
    assert found >= {"stripe", "paypal", "mollie"}
    for provider in providers({}):
        secret = {name for name in provider.settings if re.search("SECRET|_KEY$|PASSWORD|TOKEN", name)}
        named = set(provider.secret_settings) if isinstance(provider, NamesSecrets) else set()
        assert secret - {"STRIPE_PUBLISHABLE_KEY"} == named, provider.name
    typed = {name for name, field in Settings.model_fields.items() if field.annotation is Secret}
    assert typed == {"database_url", "secret_key", "event_urls", "event_secret"}
    others = set(Settings.model_fields) - typed
    assert not [name for name in others if re.search(r"secret|key|password|token", name)]


def test_the_log_learns_every_secret_of_the_settings() -> None:
    values, shapes = secrets_of(ENVIRONMENT)
    assert {one for text in GATEWAY_SECRETS.values() for one in text.split(",")} <= set(values)
    assert shapes
    known = load_settings(ENVIRONMENT).secrets
    assert {"canary-of-the-database-0008", "key=canary-of-the-query-0009"} <= set(known)
    assert set(ENVIRONMENT["PAIDONCE_SECRET_KEY"].split()) <= set(known)


_BROKEN = """
import os
raise RuntimeError({name: value for name, value in os.environ.items()})
"""


def test_a_command_that_crashes_shows_no_secret(tmp_path: Path) -> None:
    """The shop's own module breaks while it is loaded, with an error that quotes the whole environment."""
    (tmp_path / "broken_shop.py").write_text(_BROKEN)
    modules = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": modules, "PAIDONCE_STORE": "broken_shop:Store"}
    ran = subprocess.run(
        [sys.executable, "-m", "paidonce", "worker"],
        cwd=tmp_path,
        env=variables | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, "RuntimeError" in ran.stderr) == (1, True), ran.stderr
    assert _marks().found(ran.stdout + ran.stderr) == set()


# ── Changing the signing key ──────────


async def _basket(client: Client) -> str:
    return (await client.page("/basket")).text


async def test_the_signing_key_is_changed_without_a_lost_basket(seeded_url: str) -> None:
    """The old key is read for a while beside the new one, and proves nothing once it is gone."""
    with running_shop(seeded_url, PAIDONCE_SECRET_KEY=OLD_KEY) as before:
        async with before.client() as buyer:
            await buyer.form("/basket/add", sku="MUG-01", quantity="2")
            cookies = {cookie.key: cookie.value for cookie in buyer.session.cookie_jar}
    with running_shop(seeded_url, PAIDONCE_SECRET_KEY=f"{NEW_KEY} {OLD_KEY}") as between:
        async with between.client() as buyer:
            buyer.set_cookies(**cookies)
            assert "Stoneware mug" in await _basket(buyer)
            # Whatever is signed now is signed by the new key.
            await buyer.form("/basket/add", sku="MUG-01", quantity="1")
            renewed = {cookie.key: cookie.value for cookie in buyer.session.cookie_jar}
    assert renewed["paidonce_basket"] != cookies["paidonce_basket"]
    with running_shop(seeded_url, PAIDONCE_SECRET_KEY=NEW_KEY) as after:
        async with after.client() as late, after.client() as buyer:
            late.set_cookies(**cookies)
            assert "Nothing in it yet" in await _basket(late)
            buyer.set_cookies(**renewed)
            assert "Stoneware mug" in await _basket(buyer)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (f"{NEW_KEY} {OLD_KEY} {NEW_KEY}", "two with a space"),
        (f"{NEW_KEY} short", "at least 32"),
        (f"{NEW_KEY} {'a' * 40}", "easy to guess"),
        (" ", "at least 32"),
    ],
)
def test_both_signing_keys_have_to_be_good(keys: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load_settings({"PAIDONCE_SECRET_KEY": keys})
    assert not [key for key in keys.split() if key in str(caught.value)]
