"""docs/django.md, followed by somebody who starts in an empty folder: its files and commands, as they stand there."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

from paidonce.demo.once import buyer_of
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import SystemClock
from shops.test_fastapi_page import free_port, printed_settings, running
from shops.twins import PAYABLE
from support.webshop import Client

PAGE = Path(__file__).parents[3] / "docs" / "django.md"
SECONDS = 60
_NAME = re.compile(r"(?:# |\{# )(\S+\.(?:py|html))(?: #\})?\n")
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


def blocks(shop_port: int, twins_port: int) -> list[str]:
    """The page's code, with ports that are free here."""
    text = PAGE.read_text("utf-8").replace("8000", str(shop_port)).replace("8001", str(twins_port))
    return re.findall(r"^```(?:python|sh|html)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def files(code: list[str]) -> dict[str, str]:
    """Those that begin with their name."""
    named = ((_NAME.match(block), block) for block in code)
    return {match[1]: block for match, block in named if match}


def command(code: list[str], words: str) -> list[str]:
    """The command of the page that has `words` in it, run by this Python and its installed packages."""
    (line,) = [line for block in code for line in block.splitlines() if words in line and line.startswith(".venv/")]
    program, *rest = shlex.split(line)
    start = {"paidonce": ["-m", "paidonce"], "django-admin": ["-m", "django"], "python": []}[Path(program).name]
    return [sys.executable, "-W", "error", *start, *rest]


def carry_out(code: list[str], folder: Path, words: str) -> str:
    with running(command(code, words), folder) as child:
        said, _ = child.communicate(timeout=SECONDS)
    assert child.returncode == 0, said
    return str(said)


def write_files(code: list[str], folder: Path) -> set[str]:
    found = files(code)
    for name, text in found.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # The settings are added to what Django wrote.
        before = file.read_text("utf-8") if name.endswith("settings.py") else ""
        file.write_text(before + text, "utf-8")
    return set(found)


async def test_from_an_empty_folder_to_a_paid_order(tmp_path: Path) -> None:
    shop_port, twins_port = free_port(), free_port()
    code, url = blocks(shop_port, twins_port), f"http://127.0.0.1:{shop_port}"
    for words in ("startproject", "startapp"):
        await asyncio.to_thread(carry_out, code, tmp_path, words)
    assert write_files(code, tmp_path) == {
        *("shop/models.py", "shop/payments.py", "shop/views.py", "shop/templates/shop/pay.html"),
        *("myshop/settings.py", "myshop/urls.py"),
    }
    with running(command(code, "paidonce sandbox"), tmp_path) as sandbox:
        settings = await asyncio.to_thread(printed_settings, sandbox)
        (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        for words in ("makemigrations", "manage.py migrate", "Product.objects", "User.objects", "paidonce_doctor"):
            said = await asyncio.to_thread(carry_out, code, tmp_path, words)
        assert "\nred " not in f"\n{said}"
        # A test has its own port; the page's is the default.
        public = {"PAIDONCE_PUBLIC_URL": url}
        with running([*command(code, "runserver"), "--noreload"], tmp_path, **public) as shop:
            await asyncio.to_thread(until_open, shop, url)
            await pay_everywhere(url, settings)
        with running(command(code, "paidonce_worker"), tmp_path, **public) as worker:
            assert worker.stdout is not None
            assert "runs" in await asyncio.to_thread(worker.stdout.readline)
        told = await asyncio.to_thread(carry_out, code, tmp_path, "paidonce_explain")
        assert "captured" in told


def until_open(shop: subprocess.Popen[str], url: str) -> None:
    """Django says when it serves; it warns that this server is none for production, and that is right."""
    assert shop.stdout is not None
    said = ""
    for line in shop.stdout:
        said += line
        if f"at {url}/" in line:
            return
    raise AssertionError(said)


async def pay_everywhere(url: str, settings: dict[str, str]) -> None:
    transport = AiohttpTransport(SystemClock())
    async with Client(url) as buyer, Client(url) as stranger:
        await sign_in(buyer)
        for number, provider in enumerate(PAYABLE, start=1):
            bought = await buyer.form("/buy/tea/")
            assert bought.headers["Location"] == f"/orders/{number}/pay/"
            page = await buyer.page(f"/orders/{number}/pay/")
            assert f'<payment-methods class="paidonce" order="{number}" data-next="/orders/{number}/"' in page.text
            for module in re.findall(r'<script type="module" src="([^"]+)"', page.text):
                assert (await buyer.get(module)).status == 200
            ways = (await buyer.get(f"/api/orders/{number}/payment-methods")).json["methods"]
            assert {one.name for one in PAYABLE} <= {way["gateway"] for way in ways}
            assert (await stranger.post(f"/api/orders/{number}/payments", {"gateway": provider.name})).status == 401
            started = await buyer.start(str(number), provider.name)
            act = buyer_of(provider)
            assert act is not None
            back = f"{url}/orders/{number}/pay/?payment={started['id']}"
            await act(transport, settings, started["client"], return_url=back, decline=False, offline=True)
            assert (await buyer.get(f"/orders/{number}/")).text.endswith("open.</p>")
            await finish(buyer, started["id"])
            assert (await buyer.get(f"/orders/{number}/")).text.endswith("paid.</p>")
    await transport.close()


async def finish(buyer: Client, payment_id: str) -> None:
    """As the element does; a webhook that comes at the same moment may be the one who captures."""
    for _ in range(100):
        answer = await buyer.complete(payment_id)
        if answer.status != 202:
            break
        await asyncio.sleep(0.1)
    assert answer.json["order_status"] == "paid", answer.text


async def sign_in(buyer: Client) -> None:
    form = await buyer.page("/sign-in/?next=/")
    token = _TOKEN.search(form.text)
    assert token, form.text
    fields = {"username": "bo", "password": "a-good-one", "csrfmiddlewaretoken": token[1]}
    answer = await buyer.form("/sign-in/?next=/", **fields)
    assert answer.status == 302, answer.text
    buyer.session.headers["X-CSRFToken"] = answer.cookies["csrftoken"].value
