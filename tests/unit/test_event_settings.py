"""Whom events are told to: wrong settings are named with their fix, and no message repeats a secret."""

from __future__ import annotations

import base64

import pytest

from paidonce.config import Settings, load_settings
from paidonce.errors import ConfigError

SECRET = "whsec_" + base64.b64encode(b"canary" * 5).decode()
NEW_SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
URL = "https://erp.example/events"


def _load(**changes: str) -> Settings:
    return load_settings({"PAIDONCE_SECRET_KEY": "a-long-key-for-the-tests-alone-0123456789", **changes})


def test_nobody_is_told_by_default() -> None:
    endpoints = _load().endpoints()
    assert (endpoints.names, endpoints.secret.get_secret_value(), endpoints.retry_days) == ((), "", 3)


def test_addresses_secret_and_days_reach_the_endpoints() -> None:
    async def hear(_: object) -> None: ...

    settings = _load(
        PAIDONCE_EVENT_URLS=f"{URL}, http://127.0.0.1:9000/x?key=canary,http://[::1]:9/y,http://localhost/z,",
        PAIDONCE_EVENT_SECRET=f"{NEW_SECRET} {SECRET}",
        PAIDONCE_EVENT_DAYS="7",
    )
    endpoints = settings.endpoints({"erp": hear})
    assert endpoints.urls == (URL, "http://127.0.0.1:9000/x?key=canary", "http://[::1]:9/y", "http://localhost/z")
    assert endpoints.names[0] == URL
    assert endpoints.names[1].startswith("url:")
    assert endpoints.names[-1] == "subscriber:erp"
    assert (endpoints.secret.get_secret_value().split(), endpoints.retry_days) == ([NEW_SECRET, SECRET], 7)
    assert "canary" not in repr(endpoints) + "".join(endpoints.names)
    assert SECRET not in repr(settings) + repr(endpoints)


def test_secret_without_addresses_is_no_mistake() -> None:
    assert _load(PAIDONCE_EVENT_SECRET=SECRET).endpoints().names == ()


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ("canary", "can't be read"),
        ("https://", "can't be read"),
        ("https://erp.example:canary/", "can't be read"),
        ("https://erp.example:0/canary", "can't be read"),
        ("https://[canary/", "can't be read"),
        ("https://erp.example/can ary", "can't be read"),
        ("https://erp.example/canary\u00fc", "can't be read"),
        ("https://erp.example/canary\x7f", "can't be read"),
        ("ftp://erp.example/canary", "needs https"),
        ("http://erp.example/canary", "needs https"),
        ("http://127.0.0.1.canary.example/", "needs https"),
        ("https://user:canary@erp.example/", "user or password"),
        ("https://erp.example/#canary", "fragment"),
        (f"{URL},https://erp.example/canary#", "address 2 has a fragment"),
        (f"{URL},{URL}", "twice"),
        (",".join(f"{URL}/canary{n}" for n in range(21)), "more than 20"),
    ],
)
def test_wrong_address_is_named_with_its_fix(urls: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(PAIDONCE_EVENT_URLS=urls, PAIDONCE_EVENT_SECRET=SECRET)
    (problem,) = caught.value.problems
    assert problem.startswith("PAIDONCE_EVENT_URLS: ")
    assert said in problem
    assert "canary" not in problem


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("", "is missing"),
        ("canary", "whsec_"),
        (SECRET.removeprefix("whsec_"), "whsec_"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "at least 24 bytes"),
        ("whsec_" + "A" * 40, "nobody can guess"),
        ("whsec_changeme" + "canary" * 6, "nobody can guess"),
        ("whsec_canary!canary!canary!canary!canary!", "at least 24 bytes"),
        (f"{SECRET} canary", "whsec_"),
        (f"{SECRET} {SECRET} {SECRET}", "two with a space"),
    ],
)
def test_wrong_secret_is_named_with_its_fix(secret: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(PAIDONCE_EVENT_URLS=URL, PAIDONCE_EVENT_SECRET=secret)
    (problem,) = caught.value.problems
    assert problem.startswith("PAIDONCE_EVENT_SECRET: ")
    assert said in problem
    assert "canary" not in problem
    assert SECRET not in problem


@pytest.mark.parametrize("days", ["0", "31", "soon"])
def test_days_have_bounds(days: str) -> None:
    with pytest.raises(ConfigError, match="PAIDONCE_EVENT_DAYS: "):
        _load(PAIDONCE_EVENT_DAYS=days)
