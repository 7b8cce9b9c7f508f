"""TLS with the wrong host: a server that can't prove its name hears nothing of ours.

The certificates are made here and now, and signed by an authority that this process trusts for the test: what is wrong
with each is one thing only, so that no other check refuses it. Django's transport: tests/contrib/django/test_tls.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paidonce.gateways.base import HttpResponse
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock
from support.tls import WRONG, Authority, ask, assert_hears_nothing, assert_is_asked, trusted


async def asking(url: str) -> HttpResponse:
    transport = AiohttpTransport(SystemClock())
    try:
        return await ask(transport, url)
    finally:
        await transport.close()


async def test_a_server_that_proves_its_name_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    await assert_is_asked(trusted(monkeypatch, tmp_path).issue(tmp_path, "127.0.0.1"), asking)


@pytest.mark.parametrize("make", WRONG)
async def test_a_server_with_a_wrong_certificate_hears_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Authority, Path], Path]
) -> None:
    await assert_hears_nothing(make(trusted(monkeypatch, tmp_path), tmp_path), asking)
