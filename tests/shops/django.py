"""The Django example, run as its users run it: a WSGI server with threads, on Django's own connections."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shops.adapter import BUYERS, GOODS
from support.webshop import Answer, Client

ROOT = Path(__file__).parents[2]
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


class _Process:
    """The shop's process, at the other end of a pipe."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program
        self._turn = threading.Lock()

    def ask(self, name: str, **params: Any) -> Any:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        with self._turn:
            self._program.stdin.write(json.dumps([name, params]) + "\n")
            self._program.stdin.flush()
            answer = self._program.stdout.readline()
        assert answer, "the shop's process has ended; what it said stands above"
        return json.loads(answer)


@contextmanager
def _process(database_url: str, settings: Mapping[str, str], port: int = 0) -> Iterator[_Process]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PAIDONCE_")},
        **settings,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "examples" / "django_shop"), str(ROOT / "tests")]),
        "DJANGO_SETTINGS_MODULE": "contrib.django.shopsettings",
        "DJANGO_SECRET_KEY": "test-key-that-is-long-enough-0123456789",
        "DATABASE_URL": database_url,
        "PAIDONCE_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "SHOP_PORT": str(port),
    }
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "contrib.django.shopserver"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/"
    ) as program:
        try:
            yield _Process(program)
        finally:
            assert program.stdin is not None
            program.stdin.close()
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()


class DjangoShop:
    """Implements `adapter.RunningShop`."""

    api, webhooks = "/api", "/webhooks"

    def __init__(self, process: _Process, url: str) -> None:
        self._process = process
        self.url = url

    async def sign_in(self, browser: Client, buyer: int) -> None:
        await self._sign_in(browser, f"buyer{buyer}")

    async def sign_in_as_staff(self, browser: Client) -> None:
        await self._sign_in(browser, "staff")

    async def _sign_in(self, browser: Client, name: str) -> None:
        form = await browser.page("/sign-in/")
        fields = {"username": name, "password": "test-password", "csrfmiddlewaretoken": _token(form)}
        answer = await browser.form("/sign-in/", **fields)
        assert answer.status == 302, answer.text
        # Signing in changes the token; the components take the one that the page says.
        browser.session.headers["X-CSRFToken"] = answer.cookies["csrftoken"].value

    async def place_order(self, browser: Client, sku: str, quantity: int) -> str:
        answer = await browser.form("/orders/new/", sku=sku, quantity=str(quantity))
        assert answer.status == 302, answer.text
        return answer.headers["Location"].split("/")[2]

    def pay_page(self, order_id: str) -> str:
        return f"/orders/{order_id}/pay/"

    async def on_hand(self, sku: str) -> int:
        return int(await self._ask("on_hand", sku=sku))

    async def order_status(self, order_id: str) -> str:
        return str(await self._ask("status", order=order_id))

    async def paid_orders(self) -> set[str]:
        return set(await self._ask("paid"))

    async def own_rows(self, order_id: str) -> int:
        return int(await self._ask("own_rows", order=order_id))

    async def fail_next_settling(self) -> None:
        await self._ask("fail_next")

    async def pass_seconds(self, seconds: int) -> None:
        await self._ask("pass_seconds", seconds=seconds)

    async def recover(self) -> None:
        await self._ask("recover")

    async def _ask(self, name: str, **params: Any) -> Any:
        return await asyncio.to_thread(self._process.ask, name, **params)


def _token(form: Answer) -> str:
    found = _TOKEN.search(form.text)
    assert found, form.text
    return found[1]


class DjangoAdapter:
    """Implements `adapter.Adapter`."""

    def prepare(self, database_url: str) -> None:
        """Tables by `manage.py migrate`, then the goods and the people."""
        with _process(database_url, {}) as process:
            process.ask("prepare", goods=[asdict(one) for one in GOODS], buyers=BUYERS)

    @contextmanager
    def start(self, database_url: str, settings: Mapping[str, str]) -> Iterator[DjangoShop]:
        """The shop's process, until the block ends."""
        from support.processes import free_port

        port = free_port()
        with _process(database_url, settings, port) as process:
            assert process.ask("serve") == port
            yield DjangoShop(process, f"http://127.0.0.1:{port}")


adapter = DjangoAdapter()
