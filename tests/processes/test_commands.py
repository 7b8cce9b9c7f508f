"""The commands for operators, as processes: recover, worker, explain, on a shop whose web server is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import paidonce.db
from conftest import run_apart
from paidonce import checkout, serving
from paidonce.core import Core, Policy
from paidonce.demo.servers import sandbox_process
from paidonce.gateways.base import HttpRequest
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import RandomIds, SystemClock
from paidonce.sandbox.app import sandbox_environment
from paidonce.store import SqlStore
from support.shop import BUYER, stock_up

SECONDS = 60


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The settings of a shop whose gateways are a sandbox in a process of its own."""
    listener = serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.")
    url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
    with sandbox_process(listener, url, tmp_path / "sandbox.json", "http://127.0.0.1:9"):
        yield {
            **sandbox_environment(url),
            "PAIDONCE_DATABASE_URL": database_url,
            "PAIDONCE_SECRET_KEY": "test-key-that-is-long-enough-0123456789",
        }


async def _buy_and_leave(environment: dict[str, str]) -> tuple[str, str]:
    """A buyer who approves at PayPal's page and closes the tab, half an hour ago; the order's id and number."""
    clock = SystemClock()
    transport = AiohttpTransport(clock)
    database = await paidonce.db.connect(environment["PAIDONCE_DATABASE_URL"])
    store = SqlStore()
    try:
        core = Core(database, configure_all(environment, transport, clock), store, clock, RandomIds(), Policy())
        await database.transaction(stock_up, store, clock.now())
        order = await database.transaction(
            store.create_order, ids=core.ids, user_id=BUYER.user_id, lines=[("mug", 1)], now=clock.now()
        )
        address = "http://127.0.0.1:8000/"
        started = await checkout.start(core, order.id, "paypal", BUYER, return_url=address, cancel_url=address)
        form = f"token={started.client['order_id']}&funding=balance".encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        page = environment["PAYPAL_API_BASE"] + "/checkoutnow/approve"
        await transport.send(HttpRequest("POST", page, headers, form), deadline_seconds=10)
        await database.transaction(_let_it_be_due)
        return order.id, order.number
    finally:
        await database.close()
        await transport.close()


async def _let_it_be_due(tx: Any) -> None:
    await tx.execute("UPDATE payments SET due_at = 1")


def _run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "paidonce", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_recover_once_settles_what_a_buyer_left_and_explain_tells_it(environment: dict[str, str]) -> None:
    order_id, number = run_apart(lambda: _buy_and_leave(environment))
    before = json.loads(_run(environment, "explain", order_id, "--json").stdout)
    assert before["order"]["status"] == "open"
    done = _run(environment, "recover", "--once")
    assert (done.returncode, "Done: " in done.stdout) == (0, True), done.stderr
    told = _run(environment, "explain", number)
    assert told.returncode == 0, told.stderr
    assert "paid" in told.stdout
    assert "sales" in told.stdout
    assert json.loads(_run(environment, "explain", number, "--json").stdout)["order"]["status"] == "paid"
    assert _run(environment, "recover", "--once").stdout.strip().endswith("Nothing was due.")
    for secret in ("sandbox-paypal-client-secret", "sk_test_sandbox", environment["PAIDONCE_SECRET_KEY"]):
        assert secret not in told.stdout + told.stderr + done.stdout + done.stderr


def test_a_worker_does_it_unasked_and_ends_when_it_is_told(environment: dict[str, str]) -> None:
    order_id, _ = run_apart(lambda: _buy_and_leave(environment))
    worker = subprocess.Popen(
        [sys.executable, "-m", "paidonce", "worker"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _until_paid(environment, order_id)
    finally:
        worker.send_signal(signal.SIGINT)
        output, _ = worker.communicate(timeout=SECONDS)
    assert worker.returncode == 0, output
    assert "The worker has ended." in output
    assert "Traceback" not in output


def _until_paid(environment: dict[str, str], order_id: str) -> None:
    for _ in range(SECONDS):
        if json.loads(_run(environment, "explain", order_id, "--json").stdout)["order"]["status"] == "paid":
            return
    raise AssertionError("the worker did not settle the order")


def test_unclear_requests_are_named(environment: dict[str, str]) -> None:
    lost = _run(environment, "explain", "PO-NOTHING")
    assert (lost.returncode, "no order 'PO-NOTHING'" in lost.stderr) == (2, True)
    forever = _run(environment, "recover")
    assert (forever.returncode, "paidonce worker" in forever.stderr) == (2, True)
