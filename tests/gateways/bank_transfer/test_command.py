"""`paidonce explain` for an order that waits for a transfer: the gateways that are set up decide what to do next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import paidonce.db
from paidonce.gateways.bank_transfer import provider
from paidonce.sandbox.app import sandbox_cores
from support.shop import SANDBOX_URL, ShiftedClock, open_shop, stock_up
from support.webshop import SECRET_KEY


def told(url: str, order: str, **settings: str) -> Any:
    environment = {"PATH": os.environ["PATH"], "PAIDONCE_DATABASE_URL": url, "PAIDONCE_SECRET_KEY": SECRET_KEY}
    command = [sys.executable, "-m", "paidonce", "explain", order, "--json"]
    ran = subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


async def test_the_next_step_depends_on_the_gateways_that_are_set_up(sqlite_url: str) -> None:
    database = await paidonce.db.connect(sqlite_url)
    shop = open_shop(database, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
    await database.transaction(stock_up, shop.store, shop.clock.now())
    order = await shop.order()
    started = await shop.start(order.id, "bank_transfer")
    await shop.complete(started.payment.id)
    await database.close()

    account = dict(provider.sandbox_environment(SANDBOX_URL))
    assert told(sqlite_url, order.number, **account)["next_action"]["code"] == "enter_awaited_money"
    assert told(sqlite_url, order.number)["next_action"]["code"] == "set_gateway_keys"
    by_reference = told(sqlite_url, started.client["reference"], **account)
    assert by_reference["order"]["id"] == order.id
    assert [line["who"] for line in by_reference["timeline"] if line["source"] == "notebook"] == ["paidonce", "buyer"]
