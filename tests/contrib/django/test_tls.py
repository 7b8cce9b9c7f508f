"""The transport that keeps its thread refuses a server that can't prove its name, as the other one does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from paidonce.contrib.django.transport import BlockingTransport
from paidonce.gateways.base import HttpResponse
from support.tls import WRONG, Authority, ask, assert_hears_nothing, assert_is_asked, trusted


async def asking(url: str) -> HttpResponse:
    return await asyncio.to_thread(lambda: asyncio.run(_asking(url)))


async def _asking(url: str) -> HttpResponse:
    transport = BlockingTransport("default")
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
