"""Every gateway over the real transport, against the sandbox as a real server: what the demo does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from paidonce.contract.bench import Bench, Case
from paidonce.contract.plugin import cases_of
from paidonce.gateways.base import CreateRequest, HttpRequest, Progress
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock
from paidonce.sandbox import SandboxApp, create_sandbox_app


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every gateway that has a twin."""
    cases = [case for case in cases_of(metafunc.config) if "twin" not in case.missing]
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture
async def served(case: Case, tmp_path: Path) -> AsyncIterator[tuple[str, SandboxApp]]:
    """The sandbox with this gateway's twin on a free port, and its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = create_sandbox_app(url, providers=[case.provider], state_file=tmp_path / "sandbox.json")
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None, lifespan="on"))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    yield url, app
    server.should_exit = True
    await running
    listening.close()


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport(SystemClock())
    yield transport
    await transport.close()


async def test_a_payment_over_http(
    case: Case, served: tuple[str, SandboxApp], transport: AiohttpTransport, tmp_path: Path
) -> None:
    url, app = served
    gateway = case.provider.configure(case.provider.sandbox_environment(url), transport, SystemClock())
    assert gateway is not None
    amount = case.hooks.amounts[0]
    request = CreateRequest(
        payment_id="pay_sockets",
        order_id="ord_sockets",
        order_number="P-1001",
        amount=amount,
        return_url="https://shop.example/return",
        cancel_url="https://shop.example/cancel",
        idempotency_key="create-pay_sockets",
    )
    opened = await gateway.create(request)
    bench = Bench(case, clock=SystemClock())
    bench.twin = app.cores[case.provider.name]
    await bench.confirm(opened)
    snapshot = await gateway.fetch(opened.snapshot.ref)
    if snapshot.progress is Progress.APPROVED:
        snapshot = await gateway.capture(opened.snapshot.ref, idempotency_key="capture-1", amount=amount)
    assert (snapshot.progress, snapshot.captured) == (Progress.CAPTURED, amount)
    again = await gateway.create(request)
    assert again.snapshot.ref == opened.snapshot.ref
    await gateway.aclose()

    # A restarted sandbox still knows the payment.
    restarted = create_sandbox_app(url, providers=[case.provider], state_file=tmp_path / "sandbox.json")
    assert opened.snapshot.ref in restarted.cores[case.provider.name].dump()


async def test_the_scripts_that_the_settings_name_are_there(
    case: Case, served: tuple[str, SandboxApp], transport: AiohttpTransport
) -> None:
    url, _ = served
    settings = case.provider.sandbox_environment(url)
    scripts = [value for name, value in settings.items() if name.endswith("_JS_URL")]
    for address in [url + "/", url + "/healthz", *scripts]:
        answer = await transport.send(HttpRequest("GET", address), deadline_seconds=10)
        assert answer.status == 200
        assert answer.body
