"""docs/fastapi.md, followed by somebody who starts in an empty folder: its files and commands, as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from paidonce import serving
from paidonce.demo.once import buyer_of
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock
from paidonce.sandbox.mounts import sandbox_environment
from shops.twins import PAYABLE
from support.webshop import Client

PAGE = Path(__file__).parents[2] / "docs" / "fastapi.md"
START_SECONDS = 60
LOOKS = 100
# What a gateway adds to the address that its redirect comes back to.
ADDED, SECRET = "payment_intent=pi_1&payment_intent_client_secret=", "pi_1_secret_canary"


def free_port() -> int:
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as listener:
        return int(listener.getsockname()[1])


def blocks(shop_port: int, twins_port: int) -> list[str]:
    """The page's code, with ports that are free here."""
    text = PAGE.read_text("utf-8").replace("8000", str(shop_port)).replace("8001", str(twins_port))
    return re.findall(r"^```(?:python|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def files(code: list[str]) -> dict[str, str]:
    """Those that begin with their name."""
    named = ((re.match(r"# (\S+\.py|\.env)\n", block), block) for block in code)
    return {match[1]: block for match, block in named if match}


def command(code: list[str], beginning: str) -> list[str]:
    """A command of the page, run by this Python and its installed packages."""
    line = next(block.strip() for block in code if block.startswith(beginning))
    program, *rest = line.split()
    start = {"paidonce": ["-m", "paidonce"], "python": []}[Path(program).name]
    return [sys.executable, "-W", "error", *start, *rest]


@contextmanager
def running(argv: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    # Only what a new user would have: no settings of whoever runs these tests.
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "PYTHONPATH"}}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(argv, cwd=folder, env={**kept, "PYTHONUNBUFFERED": "1", **environment}, **options) as child:
        try:
            yield child
        finally:
            child.terminate()


def printed_settings(sandbox: subprocess.Popen[str]) -> dict[str, str]:
    """What the offline gateways print for `.env`."""
    settings: dict[str, str] = {}
    expected = len(sandbox_environment("http://127.0.0.1:9"))
    assert sandbox.stdout is not None
    for line in sandbox.stdout:
        if match := re.fullmatch(r"([A-Z_]+)=(.*)", line.strip()):
            settings[match[1]] = match[2]
        if len(settings) == expected:
            return settings
    raise AssertionError(f"the offline gateways ended after these settings: {sorted(settings)}")


async def until_open(url: str) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    async with aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                assert asyncio.get_running_loop().time() < deadline, "the shop did not open"
            await asyncio.sleep(0.1)


async def test_from_an_empty_folder_to_a_paid_order(tmp_path: Path) -> None:
    shop_port, twins_port = free_port(), free_port()
    code = blocks(shop_port, twins_port)
    for name, text in files(code).items():
        (tmp_path / name).write_text(text, "utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"store.py", "shop.py", ".env"}

    with running(command(code, ".venv/bin/paidonce sandbox"), tmp_path) as sandbox:
        settings = await asyncio.to_thread(printed_settings, sandbox)
        with (tmp_path / ".env").open("a") as env:
            env.writelines(f"{name}={value}\n" for name, value in settings.items())
        url = f"http://127.0.0.1:{shop_port}"
        with running(command(code, ".venv/bin/python shop.py"), tmp_path, PORT=str(shop_port)) as shop:
            await until_open(url)
            await _pay_everywhere(url, settings)
            shop.terminate()
            logged, _ = await asyncio.to_thread(shop.communicate)
        assert "Uvicorn running" in logged
        assert SECRET not in logged, "what gateways add to return addresses reached the log"
        with running(command(code, ".venv/bin/paidonce explain"), tmp_path) as explain:
            told, _ = await asyncio.to_thread(explain.communicate)
        assert explain.returncode == 0, told
        assert "captured" in told


async def _other_spellings_are_no_orders(buyer: Client, number: int, gateway: str) -> None:
    """The shop's own `find` reads "01" as 1; a payment started by it was kept apart, and could be paid twice."""
    for other in (f"0{number}", f"00{number}"):
        assert (await buyer.get(f"/api/orders/{other}/payment-methods")).is_problem(404, "not_found")
        started = await buyer.post(f"/api/orders/{other}/payments", {"gateway": gateway})
        assert started.is_problem(404, "not_found")
        assert (await buyer.post(f"/api/orders/{other}/cancel")).is_problem(404, "not_found")


async def _pay_everywhere(url: str, settings: dict[str, str]) -> None:
    transport = AiohttpTransport(SystemClock())
    async with Client(url) as buyer, Client(url) as stranger:
        buyer.set_cookies(name="bo")
        stranger.set_cookies(name="eve")
        for number, provider in enumerate(PAYABLE, start=1):
            bought = await buyer.request("POST", "/buy?sku=tea")
            assert bought.headers["Location"] == f"/orders/{number}/pay"
            page = await buyer.get(f"/orders/{number}/pay")
            assert all(f"<{one.name}-payment" in page.text for one in PAYABLE), page.text
            assert "script-src 'self'" in page.headers["Content-Security-Policy"]
            assert (await stranger.post(f"/api/orders/{number}/payments", {"gateway": provider.name})).status == 404
            started = await buyer.start(str(number), provider.name)
            act = buyer_of(provider)
            assert act is not None
            back = f"{url}/orders/{number}/back?payment={started['id']}"
            await act(transport, settings, started["client"], return_url=back, decline=False, offline=True)
            assert (await buyer.get(f"/orders/{number}")).text.endswith("open.</p>")
            assert (await buyer.get(f"/orders/{number}/back?payment={started['id']}&{ADDED}{SECRET}")).status == 303
            assert (await buyer.get(f"/orders/{number}/back?payment=nonsense")).status == 303
            await _other_spellings_are_no_orders(buyer, number, provider.name)
            # A webhook may be at it just now; then the buyer hears that it is being confirmed, and looks again.
            for _ in range(LOOKS):
                order = await buyer.get(f"/orders/{number}")
                if order.text.endswith("paid.</p>"):
                    break
                await asyncio.sleep(0.25)
            assert order.text.endswith("paid.</p>"), order.text
    await transport.close()
